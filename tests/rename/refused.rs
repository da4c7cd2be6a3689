//! What is not done, by name, changes nothing; and so does whatever a damaged disk makes of it.

use std::ops::ControlFlow;

use proptest::prelude::*;
use vmdk::{CopyDiskOptions, ErrorKind, OpenOptions, RenameOptions};

use super::subject::{NEW, Subject, content, go_on};
use super::support::SECTOR;
use super::support::crash::CrashDisk;
use super::support::descriptor::DescriptorText;
use super::support::disk::{Image, Part};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;

fn disk_of(image: &Image) -> CrashDisk {
    CrashDisk::new(image.files.iter().map(|(name, bytes)| (&**name, bytes.clone())))
}

fn flat() -> Image {
    Image::monolithic_flat("disk.vmdk", Rng::new(1).bytes(2 * SECTOR))
}

fn embedded(change: impl FnOnce(DescriptorText) -> DescriptorText) -> Image {
    Image::embedded("disk.vmdk", SparseImage::new(16).grain_sectors(8), None, change)
}

/// The same with another text of the descriptor.
fn with_text(image: Image, change: impl Fn(&str) -> String) -> Image {
    let mut image = image;
    image.files[0].1 = change(std::str::from_utf8(&image.files[0].1).unwrap()).into_bytes();
    image
}

/// Neither renames nor copies a disk, and touches nothing.
#[track_caller]
fn both_refuse(disk: &CrashDisk, name: &str, new: &str, kind: ErrorKind, what: &str) {
    let (open, before) = (OpenOptions::new(), disk.log_len());
    let renamed = open.rename_in(name, new, disk, &RenameOptions::new(), &mut go_on).expect_err(what);
    let copied = open.copy_disk_in(name, new, disk, &CopyDiskOptions::new(), &mut go_on).expect_err(what);
    assert_eq!((renamed.kind(), copied.kind()), (kind, kind), "{what}: {renamed}, {copied}");
    assert_eq!(disk.log_len(), before, "{what}");
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    use ErrorKind::{NotVmdk, Unsupported};
    let native = |text: &str| text.replacen("version=1\n", "version=1\nisNativeSnapshot=\"yes\"\n", 1);
    let newer = |text: &str| text.replacen("version=1\n", "version=4\n", 1);
    let cases = [
        ("change tracking", embedded(|text| text.version(3).change_track_path("disk-ctk.vmdk")), Unsupported),
        ("a native snapshot", with_text(flat(), native), Unsupported),
        ("a newer descriptor", with_text(flat(), newer), Unsupported),
    ];
    for (what, image, kind) in cases {
        both_refuse(&disk_of(&image), "disk.vmdk", NEW, kind, what);
    }
    both_refuse(&disk_of(&flat()), "disk-flat.vmdk", NEW, NotVmdk, "the flat file of a disk");
    let split = Image::split_sparse("disk.vmdk", &[SparseImage::new(16).grain_sectors(8)]);
    both_refuse(&disk_of(&split), "disk-s001.vmdk", NEW, Unsupported, "an extent without its descriptor");
}

#[test]
fn a_disk_by_itself_that_has_no_descriptor_is_renamed_if_that_is_allowed() {
    let split = Image::split_sparse("disk.vmdk", &[SparseImage::new(16).grain_sectors(8)]);
    let disk = disk_of(&split);
    let open = OpenOptions::new().allow_bare_extent(true);
    open.rename_in("disk-s001.vmdk", NEW, &disk, &RenameOptions::new(), &mut go_on).unwrap();
    assert_eq!(disk.live(NEW), split.files[1].1);
}

#[test]
fn an_embedded_descriptor_that_names_further_files_is_copied_and_not_renamed() {
    let extent = SparseImage::new(16).grain_sectors(8).data(1, Rng::new(2).bytes(8 * SECTOR));
    let further = Rng::new(3).bytes(2 * SECTOR);
    let image = Image::embedded("disk.vmdk", extent, None, |text| text.extent("RW 2 FLAT \"disk-f002.vmdk\" 0"));
    let disk = CrashDisk::new([("disk.vmdk", image.files[0].1.clone()), ("disk-f002.vmdk", further.clone())]);
    let (open, before) = (OpenOptions::new(), disk.log_len());
    let error = open.rename_in("disk.vmdk", NEW, &disk, &RenameOptions::new(), &mut go_on).unwrap_err();
    assert_eq!((error.kind(), disk.log_len()), (ErrorKind::Unsupported, before), "{error}");
    open.copy_disk_in("disk.vmdk", NEW, &disk, &CopyDiskOptions::new(), &mut go_on).unwrap();
    assert_eq!(disk.live("new name-f002.vmdk"), further);
    assert_eq!(content(&open, &disk, NEW).unwrap(), [image.content, further].concat());
}

#[test]
fn names_that_are_none_are_refused() {
    let disk = disk_of(&flat());
    for name in ["", ".", "..", "a/b.vmdk", "/b.vmdk", "a\0b"] {
        both_refuse(&disk, "disk.vmdk", name, ErrorKind::InvalidInput, name);
    }
    both_refuse(&disk, "other.vmdk", NEW, ErrorKind::NotFound, "a disk that is not there");
    let same = OpenOptions::new().rename_in("disk.vmdk", "disk.vmdk", &disk, &RenameOptions::new(), &mut go_on);
    assert_eq!(same.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn options_that_contradict_a_change_are_refused() {
    let disk = disk_of(&flat());
    for open in [OpenOptions::new().force_share(true), OpenOptions::new().salvage(true)] {
        let done = open.rename_in("disk.vmdk", NEW, &disk, &RenameOptions::new(), &mut go_on);
        assert_eq!((done.unwrap_err().kind(), disk.log_len()), (ErrorKind::InvalidInput, 0));
    }
}

#[test]
fn a_file_that_has_two_names_in_one_disk_is_refused() {
    let bytes = Rng::new(4).bytes(4 * SECTOR);
    let parts = vec![
        Part::flat_in("RW", "disk-flat.vmdk", 0, &bytes[..2 * SECTOR]).with_file("disk-flat.vmdk", bytes.clone()),
        Part::flat_in("RW", "again.vmdk", 2, &bytes[2 * SECTOR..]),
    ];
    let disk = disk_of(&Image::of_parts("disk.vmdk", "custom", parts));
    vmdk::Directory::link(&disk, "disk-flat.vmdk", "again.vmdk").unwrap();
    let before = disk.log_len();
    let done = OpenOptions::new().rename_in("disk.vmdk", NEW, &disk, &RenameOptions::new(), &mut go_on);
    assert_eq!((done.unwrap_err().kind(), disk.log_len()), (ErrorKind::Unsupported, before));
}

#[test]
fn a_file_that_the_parent_reads_as_well_is_refused() {
    let base = flat();
    let bytes = base.content.clone();
    let part = Part::flat_in("RW", "disk-flat.vmdk", 0, &bytes);
    let child = Image::link_of_parts("child.vmdk", "custom", vec![part], Some(&base));
    let files = [base.files, child.files].concat();
    let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
    let done = OpenOptions::new().rename_in("child.vmdk", NEW, &disk, &RenameOptions::new(), &mut go_on);
    assert_eq!((done.unwrap_err().kind(), disk.log_len()), (ErrorKind::BadChain, 0));
}

#[test]
fn only_a_child_of_the_disk_follows_it() {
    let base = flat();
    let other = Image::monolithic_flat("other.vmdk", Rng::new(6).bytes(2 * SECTOR));
    let stranger = Image::child(&other, "child.vmdk", SparseImage::new(2));
    let files = [base.files.clone(), stranger.files.clone(), other.files.clone()].concat();
    let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
    for (name, kind) in [
        ("child.vmdk", ErrorKind::ContentIdMismatch),
        ("other.vmdk", ErrorKind::InvalidInput),
        ("nobody.vmdk", ErrorKind::NotFound),
        ("other-flat.vmdk", ErrorKind::NotVmdk),
    ] {
        let options = RenameOptions::new().child(name);
        let error = OpenOptions::new().rename_in("disk.vmdk", NEW, &disk, &options, &mut go_on).unwrap_err();
        assert_eq!((error.kind(), disk.log_len()), (kind, 0), "{name}: {error}");
    }
}

#[test]
fn a_child_without_room_for_another_name_is_refused_and_nothing_has_changed() {
    let base = flat();
    let extent = SparseImage::new(2).descriptor_region(1, 1);
    let child = Image::child(&base, "child.vmdk", extent);
    let files = [base.files, child.files].concat();
    let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
    let long = format!("{}.vmdk", "x".repeat(200));
    let options = RenameOptions::new().child("child.vmdk");
    let error = OpenOptions::new().rename_in("disk.vmdk", &long, &disk, &options, &mut go_on).unwrap_err();
    assert_eq!((error.kind(), disk.log_len()), (ErrorKind::Unsupported, 0), "{error}");
}

#[test]
fn a_disk_without_room_for_its_own_name_is_renamed_and_copied_all_the_same() {
    let image =
        Image::embedded("disk.vmdk", SparseImage::new(16).grain_sectors(8).descriptor_region(1, 1), None, |text| text);
    let long = format!("{}.vmdk", "x".repeat(200));
    let disk = disk_of(&image);
    let copied =
        OpenOptions::new().copy_disk_in("disk.vmdk", &long, &disk, &CopyDiskOptions::new(), &mut go_on).unwrap();
    assert_eq!(copied.notes.len(), 1, "{:?}", copied.notes);
    assert!(disk.live(&long) == image.files[0].1);
    let disk = disk_of(&image);
    let renamed = OpenOptions::new().rename_in("disk.vmdk", &long, &disk, &RenameOptions::new(), &mut go_on).unwrap();
    assert_eq!(renamed.notes.len(), 2, "{:?}", renamed.notes);
    assert!(disk.live(&long) == image.files[0].1);
    assert_eq!(content(&OpenOptions::new(), &disk, &long).unwrap(), image.content);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a descriptor says, a renaming and a copy end, and either nothing has changed, or the disk reads by its
    /// new name as it did before.
    #[test]
    fn a_damaged_disk_reads_as_before_or_keeps_its_name(
        subject in 0..8_usize,
        changes in prop::collection::vec((0..1200_usize, any::<u8>()), 1..6),
        copies in any::<bool>(),
    ) {
        let subject = Subject::small().swap_remove(subject);
        let mut files = subject.files.clone();
        let head = files.get_mut(subject.old()).unwrap();
        // The header and the text; behind it lies data.
        let len = head.len().min(1200);
        for (place, byte) in changes {
            let at = place % len;
            head[at] = byte;
        }
        let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
        let open = OpenOptions::new().no_parent(true);
        let before = content(&open, &disk, subject.old()).ok();
        let done = if copies {
            open.copy_disk_in(subject.old(), NEW, &disk, &CopyDiskOptions::new(), &mut go_on).map(drop)
        } else {
            open.rename_in(subject.old(), NEW, &disk, &RenameOptions::new(), &mut go_on).map(drop)
        };
        if done.is_ok() {
            prop_assert_eq!(content(&open, &disk, NEW).ok(), before);
        } else {
            let there: Vec<String> = files.keys().cloned().collect();
            prop_assert_eq!(disk.names(), there);
            for (name, bytes) in &files {
                prop_assert!(disk.live(name) == *bytes, "{} has changed", name);
            }
        }
    }
}

#[test]
fn a_copy_that_is_stopped_leaves_nothing() {
    let rng = &mut Rng::new(12);
    for subject in Subject::small() {
        let stop_at = rng.below(3);
        let (disk, mut calls) = (subject.disk(), 0);
        let done = OpenOptions::new().copy_disk_in(subject.old(), NEW, &disk, &CopyDiskOptions::new(), &mut |_| {
            calls += 1;
            if calls > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if let Err(error) = done {
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", subject.what);
            let there: Vec<String> = subject.files.keys().cloned().collect();
            assert_eq!(disk.names(), there, "{}", subject.what);
        }
    }
}
