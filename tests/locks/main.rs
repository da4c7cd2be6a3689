//! Who may have an image open together: two images of this crate, and this crate and QEMU.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod beside_qemu;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tempfile::TempDir;
use vmdk::{BlockDevice, Error, ErrorKind, Mapping, MemoryStorage, OpenOptions, Storage, VmdkImage};

use support::SECTOR;
use support::descriptor::DescriptorText;
use support::disk::{Image, Kind, Part};
use support::sparse::SparseImage;

fn reader() -> OpenOptions {
    OpenOptions::new()
}

fn writer() -> OpenOptions {
    OpenOptions::new().write(true)
}

/// The error of an opening that another one is in the way of.
#[track_caller]
fn locked(opened: vmdk::Result<VmdkImage>) -> Error {
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert!(error.to_string().contains("the file is locked"), "{error}");
    error
}

/// Two disks that have one extent in common; its place is the last path.
fn two_disks_of_one_extent(access: &str) -> (TempDir, [PathBuf; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let content = vec![7; 8 * SECTOR];
    let paths = ["one.vmdk", "two.vmdk"].map(|name| {
        let part =
            Part::flat_in(access, "common-flat.vmdk", 0, &content).with_file("common-flat.vmdk", content.clone());
        Image::of_parts(name, "custom", vec![part]).write_to(dir.path())
    });
    let [one, two] = paths;
    let extent = dir.path().join("common-flat.vmdk").canonicalize().unwrap();
    (dir, [one, two, extent])
}

/// A file by another name.
fn hard_link(dir: &Path, file: &str, name: &str) {
    fs::hard_link(dir.join(file), dir.join(name)).unwrap();
}

/// Writes a descriptor with extent lines, and with a parent where there is one.
fn describe(dir: &Path, name: &str, parent: Option<&Image>, lines: &[&str]) -> PathBuf {
    let text = DescriptorText::new("custom", 0x1234_5678);
    let text = parent.into_iter().fold(text, |text, parent| text.parent(parent.cid, &parent.name));
    let text = lines.iter().fold(text, |text, line| text.extent(*line));
    fs::write(dir.join(name), text.to_string()).unwrap();
    dir.join(name)
}

#[test]
fn any_number_of_readers_get_along_in_every_kind_of_image() {
    for kind in Kind::ALL {
        let disk = kind.disk(1);
        let images = [(); 3].map(|()| VmdkImage::open(&disk.path).unwrap());
        for image in &images {
            let mut content = vec![0; disk.content.len()];
            image.read_sectors(0, &mut content).unwrap();
            assert!(content == disk.content, "{kind:?}");
        }
    }
}

#[test]
fn a_writer_keeps_everybody_out_of_every_kind_of_image_until_it_is_gone() {
    for kind in Kind::ALL {
        let disk = kind.disk(2);
        let image = writer().open(&disk.path).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        for options in [reader(), writer()] {
            let error = locked(options.open(&disk.path));
            assert_eq!(error.file(), Some(&*disk.path.canonicalize().unwrap()), "{kind:?}");
        }
        drop(image);
        writer().open(&disk.path).unwrap();
    }
}

#[test]
fn readers_keep_a_writer_out_until_the_last_one_is_gone() {
    for kind in Kind::ALL {
        let disk = kind.disk(3);
        let readers = [(); 2].map(|()| VmdkImage::open(&disk.path).unwrap());
        for image in readers {
            let error = locked(writer().open(&disk.path));
            assert_eq!(error.file(), Some(&*disk.path.canonicalize().unwrap()), "{kind:?}");
            drop(image);
        }
        writer().open(&disk.path).unwrap();
    }
}

#[test]
fn the_error_says_what_to_do_and_has_a_kind_in_std() {
    let disk = Kind::MonolithicSparse.disk(4);
    let image = VmdkImage::open(&disk.path).unwrap();
    let path = disk.path.canonicalize().unwrap();
    let error = locked(writer().open(&path));
    assert_eq!(error.to_string(), format!("{}: the file is locked: somebody else has it open", path.display()));
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::ResourceBusy);
    drop(image);
    let _image = writer().open(&path).unwrap();
    let error = locked(reader().open(&path));
    assert_eq!(
        error.to_string(),
        format!(
            "{}: the file is locked: somebody else has it open for writing; with force-share it is read all the same",
            path.display()
        )
    );
}

#[test]
fn an_extent_is_locked_for_what_its_own_disk_does_with_it() {
    let (_dir, [one, two, extent]) = two_disks_of_one_extent("RW");
    let image = writer().open(&one).unwrap();
    for options in [reader(), writer()] {
        assert_eq!(locked(options.open(&two)).file(), Some(&*extent));
    }
    drop(image);
    let image = reader().open(&one).unwrap();
    assert_eq!(locked(writer().open(&two)).file(), Some(&*extent));
    reader().open(&two).unwrap();
    drop(image);

    // Nobody writes a read-only extent: both disks may be written.
    let (_dir, [one, two, _]) = two_disks_of_one_extent("RDONLY");
    let _image = writer().open(&one).unwrap();
    writer().open(&two).unwrap();
    reader().open(&two).unwrap();
}

#[test]
fn a_parent_is_locked_for_reading_whatever_its_child_is_opened_for() {
    let disk = Kind::DeepChain.disk(5);
    for options in [reader(), writer()] {
        let _image = options.open(&disk.path).unwrap();
        for parent in &disk.links[..3] {
            let path = disk.dir().join(&parent.name);
            assert_eq!(locked(writer().no_parent(true).open(&path)).file(), Some(&*path.canonicalize().unwrap()));
            reader().open(&path).unwrap();
        }
    }
    // The other way round.
    for parent in &disk.links[..3] {
        let path = disk.dir().join(&parent.name);
        let _image = writer().open(&path).unwrap();
        for options in [reader(), writer()] {
            assert_eq!(locked(options.open(&disk.path)).file(), Some(&*path.canonicalize().unwrap()));
        }
    }
}

#[test]
fn force_share_reads_under_a_writer_and_hinders_none() {
    for kind in Kind::ALL {
        let disk = kind.disk(6);
        let written = writer().open(&disk.path).unwrap();
        let image = reader().force_share(true).open(&disk.path).unwrap();
        let mut content = vec![0; disk.content.len()];
        image.read_sectors(0, &mut content).unwrap();
        assert!(content == disk.content, "{kind:?}");
        drop(written);
        writer().open(&disk.path).unwrap();
    }
}

#[test]
fn force_share_is_not_for_writing() {
    let disk = Kind::MonolithicSparse.disk(7);
    let options = writer().force_share(true);
    assert_eq!(options.open(&disk.path).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(options.clone().locking(false).open(&disk.path).unwrap_err().kind(), ErrorKind::InvalidInput);
    let error = options.open_with("disk", &|_: &str| -> Option<Arc<dyn Storage>> { panic!("asked") }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn with_locking_switched_off_nobody_is_in_the_way_of_anybody() {
    let disk = Kind::TwoGbMaxExtentSparse.disk(8);
    let image = writer().open(&disk.path).unwrap();
    for options in [reader(), writer()] {
        options.locking(false).open(&disk.path).unwrap();
    }
    drop(image);
    let _image = writer().locking(false).open(&disk.path).unwrap();
    writer().open(&disk.path).unwrap();
    reader().open(&disk.path).unwrap();
}

#[test]
fn locks_last_as_long_as_the_image_and_what_was_taken_from_it() {
    let disk = Kind::MonolithicFlat.disk(9);
    let image = VmdkImage::open(&disk.path).unwrap();
    image.close().unwrap();
    locked(writer().open(&disk.path));
    let image = (image, VmdkImage::open(&disk.path).unwrap()).1;
    let Mapping::Data { storage, .. } = image.map(0, 1).unwrap().mapping else { panic!("no data") };
    drop(image);
    // The descriptor is free, the extent is not.
    let error = locked(writer().open(&disk.path));
    assert!(error.file().unwrap().ends_with("disk-flat.vmdk"), "{error}");
    drop(storage);
    writer().open(&disk.path).unwrap();
}

/// What becomes of an image that another one is made of while it is open.
fn end_writing(image: &VmdkImage) {
    for file in image.chain()[0].host_files() {
        file.storage().end_writing().unwrap();
    }
}

#[test]
fn what_is_not_written_any_more_can_be_read_by_others_and_written_by_nobody() {
    for kind in Kind::ALL {
        let disk = kind.disk(12);
        let path = disk.path.canonicalize().unwrap();
        let image = writer().open(&path).unwrap();
        // Any number of times.
        for _ in 0..2 {
            end_writing(&image);
            let others = [(); 2].map(|()| reader().open(&path).unwrap());
            assert_eq!(locked(writer().open(&path)).file(), Some(&*path), "{kind:?}");
            let mut content = vec![0; disk.content.len()];
            others[1].read_sectors(0, &mut content).unwrap();
            assert!(content == disk.content, "{kind:?}");
        }
        let other = reader().open(&path).unwrap();
        drop(image);
        locked(writer().open(&path));
        drop(other);
        writer().open(&path).unwrap();
    }
}

#[test]
fn what_is_only_read_or_not_locked_keeps_the_locks_that_it_has() {
    let disk = Kind::TwoGbMaxExtentSparse.disk(13);
    let image = reader().open(&disk.path).unwrap();
    end_writing(&image);
    locked(writer().open(&disk.path));
    drop(image);
    for options in [reader().force_share(true), writer().locking(false)] {
        let image = options.open(&disk.path).unwrap();
        end_writing(&image);
        writer().open(&disk.path).unwrap();
    }
}

#[test]
fn opening_that_fails_leaves_no_lock() {
    let disk = Kind::TwoGbMaxExtentFlat.disk(10);
    let (missing, aside) = (disk.dir().join("disk-f003.vmdk"), disk.dir().join("aside"));
    for options in [reader(), writer()] {
        fs::rename(&missing, &aside).unwrap();
        let error = options.open(&disk.path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        fs::rename(&aside, &missing).unwrap();
        writer().open(&disk.path).unwrap();
    }
    // Nor does one that fails because of a lock.
    let extent = describe(disk.dir(), "extent.vmdk", None, &["RW 77 FLAT \"disk-f003.vmdk\" 0"]);
    let holder = writer().open(extent).unwrap();
    for options in [reader(), writer()] {
        let error = locked(options.open(&disk.path));
        assert_eq!(error.file(), Some(&*missing.canonicalize().unwrap()));
    }
    let first = describe(disk.dir(), "first.vmdk", None, &["RW 300 FLAT \"disk-f001.vmdk\" 0"]);
    writer().open(first).unwrap();
    drop(holder);
    writer().open(&disk.path).unwrap();
}

/// The candidate is looked at first, and it is another disk.
#[test]
fn a_file_that_turned_out_to_be_no_parent_is_not_locked() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let base = Image::monolithic_flat("base.vmdk", vec![1; 8 * SECTOR]);
    let mut hint = base.clone();
    hint.name = "sub/base.vmdk".to_owned();
    let child = Image::child(&hint, "child.vmdk", SparseImage::new(8)).write_to(dir.path());
    let base = base.write_to(dir.path());
    let other = Image::monolithic_sparse("other.vmdk", SparseImage::new(8)).write_to(dir.path());
    fs::rename(other, dir.path().join("sub/base.vmdk")).unwrap();
    let image = writer().open(child).unwrap();
    assert_eq!(image.chain()[1].path(), base.canonicalize().unwrap());
    writer().open(dir.path().join("sub/base.vmdk")).unwrap();
    locked(writer().open(base));
}

#[test]
fn a_file_on_several_lines_and_by_several_names_is_not_in_its_own_way() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("flat"), [5; 16 * SECTOR]).unwrap();
    hard_link(dir.path(), "flat", "hard");
    symlink("flat", dir.path().join("soft")).unwrap();
    let lines = [
        "RDONLY 2 FLAT \"flat\" 0",
        "RW 2 FLAT \"hard\" 2",
        "RDONLY 2 FLAT \"soft\" 4",
        "NOACCESS 2 FLAT \"flat\" 6",
        "RW 2 FLAT \"soft\" 8",
        "RW 2 FLAT \"./flat\" 10",
    ];
    let path = describe(dir.path(), "disk.vmdk", None, &lines);
    for options in [reader(), writer(), writer().max_open_files(1)] {
        let image = options.open(&path).unwrap();
        let accesses: Vec<_> = image.chain()[0].extents().iter().map(|extent| extent.access().to_string()).collect();
        assert_eq!(accesses, ["RDONLY", "RW", "RDONLY", "NOACCESS", "RW", "RW"]);
        let mut content = vec![0; 12 * SECTOR];
        image.read_sectors(0, &mut content).unwrap();
        let (hidden, seen) = (6 * SECTOR..8 * SECTOR, [5; 12 * SECTOR]);
        assert!(content[..hidden.start] == seen[..hidden.start] && content[hidden.end..] == seen[hidden.end..]);
        locked(writer().open(&path));
    }
}

/// The file with the descriptor is its own extent, and here it is named by a line besides, and by another name.
#[test]
fn a_file_with_its_own_descriptor_may_be_named_by_a_line_as_well() {
    let dir = tempfile::tempdir().unwrap();
    for access in ["RW", "RDONLY"] {
        let text = DescriptorText::new("custom", 9)
            .extent("RW 128 SPARSE \"disk.vmdk\"")
            .extent(format!("{access} 4 FLAT \"again\" 0"))
            .extent("RW 128 SPARSE \"again\"");
        let file = SparseImage::new(128).data(0, vec![3; 128 * SECTOR]).descriptor(text.to_string()).build();
        fs::write(dir.path().join("disk.vmdk"), file).unwrap();
        let _ = fs::remove_file(dir.path().join("again"));
        hard_link(dir.path(), "disk.vmdk", "again");
        let image = reader().open(dir.path().join("disk.vmdk")).unwrap();
        assert_eq!(image.capacity_sectors(), 128 + 4 + 128);
        drop(image);
        // Not because it is locked, but because to write one sector would change another.
        let error = writer().open(dir.path().join("disk.vmdk")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn what_a_child_and_its_parent_both_read_is_not_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let base = Image::monolithic_flat("base.vmdk", vec![1; 8 * SECTOR]);
    base.write_to(dir.path());
    hard_link(dir.path(), "base-flat.vmdk", "again");
    fs::write(dir.path().join("own"), [2; 4 * SECTOR]).unwrap();
    let lines = ["RW 4 FLAT \"own\" 0", "RDONLY 4 FLAT \"again\" 0"];
    let path = describe(dir.path(), "child.vmdk", Some(&base), &lines);
    for options in [reader(), writer()] {
        let image = options.open(&path).unwrap();
        assert_eq!(image.chain().len(), 2);
    }
}

#[test]
fn a_disk_is_not_written_through_its_own_parent() {
    let dir = tempfile::tempdir().unwrap();
    let flat = Image::monolithic_flat("flat.vmdk", vec![1; 8 * SECTOR]);
    let sparse = Image::monolithic_sparse("sparse.vmdk", SparseImage::new(128));
    flat.write_to(dir.path());
    sparse.write_to(dir.path());
    hard_link(dir.path(), "flat-flat.vmdk", "flat-again");
    hard_link(dir.path(), "sparse.vmdk", "sparse-again");
    // The extent of the parent, and the file of the parent itself.
    for (parent, name) in
        [(&flat, "flat-flat.vmdk"), (&flat, "flat-again"), (&flat, "flat.vmdk"), (&sparse, "sparse-again")]
    {
        let path = describe(dir.path(), "child.vmdk", Some(parent), &[&format!("RW 1 FLAT \"{name}\" 0")]);
        reader().open(&path).unwrap();
        for options in [writer(), writer().locking(false)] {
            let error = options.open(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadChain, "{name}: {error}");
            assert!(error.to_string().contains("cannot be written through its own parent"), "{error}");
        }
        // A child is not written without its parent at all.
        let error = writer().no_parent(true).open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let path = describe(dir.path(), "child.vmdk", Some(parent), &[&format!("RDONLY 1 FLAT \"{name}\" 0")]);
        writer().open(&path).unwrap();
    }
}

#[test]
fn storages_of_a_resolver_are_not_written_through_a_parent_either() {
    let base = Image::monolithic_flat("base.vmdk", vec![1; 8 * SECTOR]);
    let text = |line: &str| DescriptorText::new("custom", 9).parent(base.cid, "base.vmdk").extent(line).to_string();
    let mut files: HashMap<String, Arc<dyn Storage>> = HashMap::new();
    for (name, bytes) in &base.files {
        files.insert(name.clone(), Arc::new(MemoryStorage::new(&bytes[..])));
    }
    files.insert("own".to_owned(), Arc::new(MemoryStorage::new([0; 8 * SECTOR])));
    for (name, line) in [
        ("bad", "RW 8 FLAT \"base-flat.vmdk\" 0"),
        ("read", "RDONLY 8 FLAT \"base-flat.vmdk\" 0"),
        ("good", "RW 8 FLAT \"own\" 0"),
    ] {
        files.insert(name.to_owned(), Arc::new(MemoryStorage::new(text(line))));
    }
    assert_eq!(writer().open_with("bad", &files).unwrap_err().kind(), ErrorKind::BadChain);
    reader().open_with("bad", &files).unwrap();
    writer().open_with("read", &files).unwrap();
    writer().open_with("good", &files).unwrap();
}

/// A disk of `files` flat extents of one sector, each with a disk of its own besides.
fn many(files: usize) -> (TempDir, PathBuf, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    let mut each = Vec::new();
    for number in 0..files {
        let mut line = String::new();
        write!(line, "RW 1 FLAT \"flat-{number}\" 0").unwrap();
        fs::write(dir.path().join(format!("flat-{number}")), [7; SECTOR]).unwrap();
        each.push(describe(dir.path(), &format!("each-{number}.vmdk"), None, &[&line]));
        lines.push(line);
    }
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let path = describe(dir.path(), "disk.vmdk", None, &lines);
    (dir, path, each)
}

#[test]
fn files_that_are_written_stay_locked_however_many_there_are() {
    let (_dir, path, each) = many(20);
    let _image = writer().max_open_files(4).open(path).unwrap();
    for path in each {
        locked(reader().open(path));
    }
}

#[test]
fn a_file_without_a_handle_is_free_until_it_is_read_again() {
    let (_dir, path, each) = many(20);
    let image = reader().max_open_files(4).open(&path).unwrap();
    // The descriptor is always locked.
    assert_eq!(locked(writer().open(&path)).file(), Some(&*path.canonicalize().unwrap()));
    let free = each.iter().rposition(|path| writer().open(path).is_ok()).unwrap();
    let sector = free as u64;
    let buf = &mut [0; SECTOR];
    let other = writer().open(&each[free]).unwrap();
    let error = image.read_sectors(sector, buf).unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("the file is locked"), "{error}: {cause}");
    drop(other);
    image.read_sectors(sector, buf).unwrap();
    assert_eq!(*buf, [7; SECTOR]);
    // Now it has a handle, and the lock with it.
    locked(writer().open(&each[free]));
    drop(image);
    for path in each {
        writer().open(path).unwrap();
    }
}

/// Name, content and time of change of every file in a directory.
fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.is_file());
    let mut files: Vec<_> = files
        .map(|path| (path.clone(), fs::read(&path).unwrap(), path.metadata().unwrap().modified().unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn opening_for_writing_changes_no_byte_whether_it_succeeds_or_not() {
    for kind in Kind::ALL {
        let disk = kind.disk(11);
        let check = |options: &OpenOptions, kinds: Option<&[ErrorKind]>| {
            let before = snapshot(disk.dir());
            let opened = options.open(&disk.path);
            match (&opened, kinds) {
                (Ok(_), None) => {}
                (Err(error), Some(kinds)) if kinds.contains(&error.kind()) => {}
                _ => panic!("{kind:?}: {opened:?} instead of {kinds:?}"),
            }
            drop(opened);
            assert!(snapshot(disk.dir()) == before, "{kind:?}: {kinds:?}");
        };
        check(&writer(), None);
        check(&writer().force_share(true), Some(&[ErrorKind::InvalidInput]));
        let holder = VmdkImage::open(&disk.path).unwrap();
        check(&writer(), Some(&[ErrorKind::Locked]));
        drop(holder);
        // Every file of it broken in turn: gone, cut to nothing, cut in half, and with another magic.
        let names: Vec<_> = disk.links.iter().flat_map(|link| &link.files).map(|(name, _)| name).collect();
        for name in names {
            let path = disk.dir().join(name);
            let content = fs::read(&path).unwrap();
            fs::rename(&path, disk.dir().join("aside")).unwrap();
            check(&writer(), Some(&[ErrorKind::NotFound, ErrorKind::ParentMissing]));
            fs::rename(disk.dir().join("aside"), &path).unwrap();
            let flipped: Vec<u8> = content.iter().take(8).map(|byte| !byte).chain(content[8..].to_vec()).collect();
            for broken in [&[], &content[..content.len() / 2], &flipped] {
                fs::write(&path, broken).unwrap();
                let before = snapshot(disk.dir());
                let _ = writer().open(&disk.path);
                assert!(snapshot(disk.dir()) == before, "{kind:?}: {name}");
            }
            fs::write(&path, &content).unwrap();
        }
        check(&writer(), None);
    }
}
