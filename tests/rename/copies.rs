//! Copies of disks as they are: there as a whole or not at all, the same in every byte but for the names, and the disk
//! itself untouched.

use std::ops::ControlFlow;
use std::sync::Arc;

use vmdk::{CopyDiskOptions, ErrorKind, OpenOptions};

use super::judge::DONE;
use super::subject::{NEW, OTHERS, Subject, content, go_on};
use super::support::crash::choice::Choice;
use super::support::crash::{CrashDisk, DIRECTORY};
use super::support::directory::FaultDirectory;
use super::support::disk::Kind;
use super::support::storage::{Countdown, EIO, ENOSPC, How, Operation};

impl Subject {
    /// The disk itself, and everything else that was there, is as before.
    fn is_untouched(&self, disk: &CrashDisk) -> Result<(), String> {
        let changed =
            self.files.iter().find(|(name, bytes)| !disk.names().contains(name) || disk.live(name) != **bytes);
        changed.map_or(Ok(()), |(name, _)| Err(format!("{name} has changed")))
    }

    /// Whether there is a copy, which has to be whole.
    fn find_copy(&self, disk: &CrashDisk) -> Result<bool, String> {
        self.is_untouched(disk)?;
        let known = |name: &String| {
            let is_own_name = self.moved.iter().any(|(_, new)| name.starts_with(&format!(".{new}.")));
            self.files.contains_key(name) || is_own_name || self.moved.iter().any(|(_, new)| new == name)
        };
        if let Some(name) = disk.names().iter().find(|name| !known(name)) {
            return Err(format!("there is {name}"));
        }
        if !disk.names().iter().any(|name| name == NEW) || self.replaces && disk.live(NEW) == OTHERS {
            return Ok(false);
        }
        let read = content(&OpenOptions::new(), disk, NEW).map_err(|error| format!("{NEW}: {error}"))?;
        if read != self.own_content {
            return Err(format!("{NEW} holds something else"));
        }
        let differs = |(old, new): &&(String, String)| disk.live(new) != self.files[old];
        match self.moved.iter().skip(1).find(differs) {
            Some((old, new)) => Err(format!("{new} is not what {old} is")),
            None => Ok(true),
        }
    }

    /// Looks at what crashes may leave, until something is wrong.
    fn judge_copy(&self, disk: &CrashDisk) -> (usize, Option<String>) {
        let mut choice =
            Choice::new(4).exhaustive_up_to(64).random(8).singles_per_change(3).metadata_below(1).written_lengths();
        let mut states = 0;
        for position in disk.positions() {
            for state in disk.states(position, &mut choice) {
                states += 1;
                let is_done = state.marks().contains(&DONE);
                let judged = match self.find_copy(&state.restart()) {
                    Ok(false) if is_done => Err("there is no copy".to_owned()),
                    judged => judged,
                };
                if let Err(text) = judged {
                    return (states, Some(format!("{}: {text}\nin the state: {state}", self.what)));
                }
            }
        }
        (states, None)
    }
}

/// A link is copied within the directory; a chain is not: what is copied is one link.
fn copied(subject: &Subject) -> CrashDisk {
    let disk = subject.disk();
    let report = subject.copy(&disk).unwrap_or_else(|error| panic!("{}: {error}", subject.what));
    disk.mark(DONE);
    let files: Vec<_> = report.files.iter().map(|file| file.to_str().unwrap()).collect();
    let expected: Vec<_> = subject.moved.iter().map(|(_, new)| &**new).collect();
    assert_eq!(files, expected, "{}", subject.what);
    let bytes: usize = expected.iter().map(|name| disk.live(name).len()).sum();
    assert_eq!(report.bytes, bytes as u64, "{}", subject.what);
    assert_eq!(subject.find_copy(&disk), Ok(true), "{}", subject.what);
    disk
}

#[test]
fn every_kind_of_link_is_copied_as_it_is() {
    let kinds = Kind::ALL.into_iter().flat_map(Subject::of_kind);
    for subject in kinds.chain(Subject::created()) {
        let disk = copied(&subject);
        // Without its hidden names, what there is says all that was there, and of the copy what the disk says.
        assert!(disk.names().iter().all(|name| !name.starts_with('.')), "{}: {:?}", subject.what, disk.names());
        let ids = [subject.old(), NEW].map(|name| {
            let image = OpenOptions::new().open_with(name, &disk).unwrap();
            (image.content_id(), image.parent_content_id(), image.disk_id(), image.create_type().cloned())
        });
        assert_eq!(ids[0], ids[1], "{}", subject.what);
    }
}

#[test]
fn a_copy_is_there_as_a_whole_or_not_at_all_whenever_the_power_goes() {
    let mut states = Vec::new();
    for subject in Subject::small() {
        let disk = copied(&subject);
        let (seen, broken) = subject.judge_copy(&disk);
        assert!(broken.is_none(), "{}", broken.unwrap_or_default());
        states.push(seen);
        let replacing = Subject { replaces: true, ..subject };
        let (seen, broken) = replacing.judge_copy(&copied(&replacing));
        assert!(broken.is_none(), "{}", broken.unwrap_or_default());
        states.push(seen);
    }
    println!("{states:?} states");
    assert!(states.iter().sum::<usize>() > 300, "{states:?}");
}

#[test]
fn no_sync_of_a_copy_can_be_left_out() {
    for subject in Subject::small() {
        let disk = copied(&subject);
        let syncs: Vec<String> = disk.syncs().into_iter().map(|(_, sync)| sync.file).collect();
        let mut expected: Vec<&str> = subject.moved.iter().skip(1).map(|(_, new)| &**new).collect();
        expected.extend([NEW, DIRECTORY]);
        expected.extend(Some(DIRECTORY).filter(|_| !subject.is_single()));
        assert_eq!(syncs, expected, "{}", subject.what);
        for number in 0..syncs.len() {
            disk.ignore_sync(number);
            let (_, broken) = subject.judge_copy(&disk);
            assert!(broken.is_some(), "{}: nobody needs sync {number} of {syncs:?}", subject.what);
        }
    }
}

#[test]
fn a_copy_that_fails_leaves_nothing() {
    let mut runs = 0;
    for subject in Subject::small() {
        let countdown = Arc::<Countdown>::default();
        subject.copy(&FaultDirectory::new(subject.disk(), &countdown)).unwrap();
        for (nth, call) in (0..).zip(countdown.seen()) {
            let short = matches!(call, Operation::Write | Operation::SetLen);
            for (how, errno) in [(How::Refused, EIO), (How::Short, ENOSPC)].into_iter().take(1 + usize::from(short)) {
                let (disk, countdown) = (subject.disk(), Arc::<Countdown>::default());
                countdown.arm(nth, how, errno);
                let done = subject.copy(&FaultDirectory::new(disk.clone(), &countdown));
                let what = format!("{}: {:?}", subject.what, countdown.struck());
                let error = done.expect_err(&what);
                let there: Vec<String> = subject.files.keys().cloned().collect();
                assert_eq!((error.kind(), disk.names()), (ErrorKind::Io, there), "{what}");
                subject.is_untouched(&disk).unwrap_or_else(|text| panic!("{what}: {text}"));
                subject.copy(&disk).expect(&what);
                assert_eq!(subject.find_copy(&disk), Ok(true), "{what}");
                runs += 1;
            }
        }
    }
    println!("{runs} runs");
    assert!(runs > 150, "{runs}");
}

#[test]
fn a_copy_gets_an_identity_of_its_own_only_if_that_is_asked_for() {
    for subject in Subject::created() {
        let disk = subject.disk();
        let options = CopyDiskOptions::new().new_disk_id(true);
        OpenOptions::new().copy_disk_in(subject.old(), NEW, &disk, &options, &mut go_on).unwrap();
        let id = |name: &str| OpenOptions::new().open_with(name, &disk).unwrap().disk_id().unwrap();
        assert_ne!(id(subject.old()), id(NEW), "{}", subject.what);
        assert_eq!(id(NEW)[..3], [0x60, 0, 0xc2], "{}", subject.what);
        assert_eq!(subject.find_copy(&disk), Ok(true), "{}", subject.what);
    }
}

#[test]
fn progress_counts_every_byte_once() {
    for subject in Subject::small() {
        let (disk, mut seen) = (subject.disk(), Vec::new());
        let done = OpenOptions::new().copy_disk_in(subject.old(), NEW, &disk, &CopyDiskOptions::new(), &mut |now| {
            seen.push((now.done, now.total));
            ControlFlow::Continue(())
        });
        done.unwrap();
        let total = seen[0].1;
        assert!(seen.is_sorted() && seen.iter().all(|now| now.1 == total), "{seen:?}");
        assert_eq!(seen.last(), Some(&(total, total)), "{}", subject.what);
    }
}

#[test]
fn a_stream_is_copied_with_what_it_says_of_itself() {
    let subject = Subject::created().pop().unwrap();
    let disk = copied(&subject);
    let len = |name: &str| disk.storage(name).len().unwrap();
    assert_eq!(len(subject.old()), len(NEW));
}

#[cfg(unix)]
mod on_the_host {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
    use std::path::Path;

    use super::super::host::{directory, listing, read};
    use super::super::support::SECTOR;
    use super::super::support::disk::{Image, Part};
    use super::super::support::rng::Rng;
    use super::super::support::sparse::SparseImage;
    use super::{CopyDiskOptions, ErrorKind, OpenOptions, go_on};

    fn copy(old: &Path, new: &Path) -> vmdk::Result<vmdk::CopyDiskReport> {
        OpenOptions::new().allow_dir(old.parent().unwrap()).copy_disk(old, new, &CopyDiskOptions::new(), &mut go_on)
    }

    #[test]
    fn holes_stay_holes_and_nobody_gets_more_than_he_had() {
        let (_guard, dir) = directory();
        let image = Image::monolithic_flat("disk.vmdk", vec![0; 16]);
        let old = image.write_to(&dir);
        let text = String::from_utf8(fs::read(&old).unwrap()).unwrap();
        // 64 MiB with 64 KiB of data.
        fs::write(&old, text.replace("RW 0 FLAT", "RW 131072 FLAT")).unwrap();
        let flat = File::create(dir.join("disk-flat.vmdk")).unwrap();
        flat.set_len(64 << 20).unwrap();
        flat.write_all_at(&Rng::new(1).bytes(64 << 10), 33 << 20).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(dir.join("disk-flat.vmdk"), fs::Permissions::from_mode(0o600)).unwrap();
        let report = copy(&old, &dir.join("b.vmdk")).unwrap();
        let meta = fs::metadata(dir.join("b-flat.vmdk")).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (64 << 20, 0o600));
        assert!(meta.blocks() * 512 <= 1 << 20, "{} blocks", meta.blocks());
        assert_eq!(fs::metadata(dir.join("b.vmdk")).unwrap().mode() & 0o777 & !0o644, 0);
        assert_eq!(report.bytes, (64 << 20) + fs::metadata(dir.join("b.vmdk")).unwrap().len());
        assert!(read(&OpenOptions::new(), &old) == read(&OpenOptions::new(), &dir.join("b.vmdk")));
    }

    #[test]
    fn a_copy_in_another_directory_has_the_same_parent_and_its_files_together() {
        let (_guard, dir) = directory();
        for sub in ["a/sub", "b"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        let rng = &mut Rng::new(2);
        let base = Image::monolithic_flat("base.vmdk", rng.bytes(16 * SECTOR));
        base.write_to(&dir.join("a"));
        // One extent lies in a directory below.
        let parts = vec![
            Part::sparse("c-s001.vmdk", &SparseImage::new(8).grain_sectors(8).data(0, rng.bytes(8 * SECTOR))),
            Part::sparse("sub/x.vmdk", &SparseImage::new(8).grain_sectors(8)),
        ];
        let child = Image::link_of_parts("c.vmdk", "twoGbMaxExtentSparse", parts, Some(&base));
        let old = child.write_to(&dir.join("a"));
        let single = Image::child(&base, "single.vmdk", SparseImage::new(16).grain_sectors(8));
        let single_old = single.write_to(&dir.join("a"));
        let before = (listing(&dir.join("a")), listing(&dir.join("a/sub")));
        let report = copy(&old, &dir.join("b/d.vmdk")).unwrap();
        assert_eq!(report.parent_hint.as_deref(), Some("../a/base.vmdk"));
        copy(&single_old, &dir.join("b/s.vmdk")).unwrap();
        let there: Vec<String> = listing(&dir.join("b")).into_keys().collect();
        assert_eq!(there, ["d-s001.vmdk", "d-s002.vmdk", "d.vmdk", "s.vmdk"]);
        let options = OpenOptions::new().allow_dir(&dir);
        assert_eq!(read(&options, &dir.join("b/d.vmdk")), child.content);
        assert_eq!(read(&options, &dir.join("b/s.vmdk")), single.content);
        assert!((listing(&dir.join("a")), listing(&dir.join("a/sub"))) == before);
    }

    #[test]
    fn what_belongs_to_the_disk_is_not_replaced_by_its_copy() {
        let (_guard, dir) = directory();
        let base = Image::monolithic_flat("base.vmdk", Rng::new(3).bytes(16 * SECTOR));
        base.write_to(&dir);
        let old = Image::child(&base, "c.vmdk", SparseImage::new(16).grain_sectors(8)).write_to(&dir);
        let before = listing(&dir);
        for name in ["base.vmdk", "base-flat.vmdk", "c.vmdk"] {
            let options = CopyDiskOptions::new().replace(true);
            let done = OpenOptions::new().copy_disk(&old, dir.join(name), &options, &mut go_on);
            assert_eq!(done.unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
            assert_eq!(copy(&old, &dir.join(name)).unwrap_err().kind(), ErrorKind::AlreadyExists, "{name}");
            assert!(listing(&dir) == before, "{name}");
        }
    }
}
