//! Directories of the host: names of all sorts, other directories, owners and permissions, and what a run left that was
//! cut short.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmdk::{BlockDevice, CopyProgress, ErrorKind, OpenOptions, RenameOptions, RenameReport, Result};

use super::subject::go_on;
use super::support::SECTOR;
use super::support::cowd::CowdImage;
use super::support::disk::{Image, Part};
use super::support::index;
use super::support::rng::Rng;
use super::support::sparse::SparseImage;
use super::support::tools::skip;

/// An open image, read to its end.
pub(crate) fn read(options: &OpenOptions, path: &Path) -> Vec<u8> {
    let image = options.open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut content = vec![0; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    content
}

/// A new directory without links in its path.
pub(crate) fn directory() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(dir.path()).unwrap();
    (dir, path)
}

/// What there is, with the inode and the permissions of each file.
pub(crate) fn listing(dir: &Path) -> BTreeMap<String, (u64, u32, Vec<u8>)> {
    let entries =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.file_type().unwrap().is_file());
    let look = |entry: fs::DirEntry| {
        let meta = entry.metadata().unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, (meta.ino(), meta.mode() & 0o7777, fs::read(entry.path()).unwrap()))
    };
    entries.map(look).collect()
}

fn names(dir: &Path) -> Vec<String> {
    listing(dir).into_keys().collect()
}

fn rename(old: &Path, new: &Path) -> Result<RenameReport> {
    OpenOptions::new().rename(old, new, &RenameOptions::new(), &mut go_on)
}

fn split(name: &str, seed: u64) -> Image {
    let rng = &mut Rng::new(seed);
    let mut sparse = || SparseImage::new(16).grain_sectors(8).entries_per_table(128).data(1, rng.bytes(8 * SECTOR));
    Image::split_sparse(name, &[sparse(), sparse()])
}

fn sparse(seed: u64) -> SparseImage {
    SparseImage::new(16).grain_sectors(8).entries_per_table(128).data(0, Rng::new(seed).bytes(8 * SECTOR))
}

#[test]
fn files_stay_the_same_and_keep_their_permissions() {
    for to_other_directory in [false, true] {
        let (_guard, dir) = directory();
        let image = split("disk.vmdk", 1);
        let old = image.write_to(&dir);
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(dir.join("disk-s001.vmdk"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.join("disk-s002.vmdk"), fs::Permissions::from_mode(0o664)).unwrap();
        let before = listing(&dir);
        let target = if to_other_directory { dir.join("sub") } else { dir.clone() };
        fs::create_dir_all(&target).unwrap();
        let report = rename(&old, &target.join("b.vmdk")).unwrap();
        let after = listing(&target);
        assert_eq!(after.keys().collect::<Vec<_>>(), ["b-s001.vmdk", "b-s002.vmdk", "b.vmdk"]);
        assert_eq!(before["disk-s001.vmdk"], after["b-s001.vmdk"]);
        assert_eq!(before["disk-s002.vmdk"], after["b-s002.vmdk"]);
        assert_eq!(after["b.vmdk"].1, 0o640);
        assert_eq!(report.files[1].from, dir.join("disk-s001.vmdk"));
        assert_eq!(report.files[1].to, target.join("b-s001.vmdk"));
        assert!(!to_other_directory || names(&dir).is_empty());
        assert_eq!(fs::metadata(target.join("b-s001.vmdk")).unwrap().nlink(), 1);
        assert_eq!(read(&OpenOptions::new(), &target.join("b.vmdk")), image.content);
    }
}

#[test]
fn the_owner_of_the_descriptor_is_kept_where_that_is_allowed() {
    let (_guard, dir) = directory();
    let old = split("disk.vmdk", 1).write_to(&dir);
    if std::os::unix::fs::chown(&old, Some(12_345), Some(23_456)).is_err() {
        return skip("the_owner_of_the_descriptor_is_kept_where_that_is_allowed", "this is not the superuser");
    }
    rename(&old, &dir.join("b.vmdk")).unwrap();
    let meta = fs::metadata(dir.join("b.vmdk")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (12_345, 23_456));
}

#[test]
fn names_of_all_sorts_are_written_and_found_again() {
    let long = "x".repeat(240);
    for name in [
        "with space.vmdk",
        "Gr\u{f6}\u{df}e \u{78c1}\u{76d8}.vmdk",
        "a:b.vmdk",
        "[ds] a.vmdk",
        "\\a.vmdk",
        "-s001.vmdk",
        "no ending",
        "UPPER.VMDK",
        ".hidden.vmdk",
        "a=b#c.vmdk",
        &long,
    ] {
        let (_guard, dir) = directory();
        let image = split("disk.vmdk", 2);
        let old = image.write_to(&dir);
        rename(&old, &dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read(&OpenOptions::new(), &dir.join(name)), image.content, "{name}");
        assert_eq!(names(&dir).len(), 3, "{name}");
        rename(&dir.join(name), &old).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(names(&dir), ["disk-s001.vmdk", "disk-s002.vmdk", "disk.vmdk"], "{name}");
        assert_eq!(read(&OpenOptions::new(), &old), image.content, "{name}");
    }
}

#[test]
fn a_name_that_a_descriptor_cannot_hold_changes_nothing() {
    for name in ["a\"b.vmdk", "a\nb.vmdk", "parentFileNameHint.vmdk"] {
        let (_guard, dir) = directory();
        let old = split("disk.vmdk", 2).write_to(&dir);
        let before = listing(&dir);
        assert_eq!(rename(&old, &dir.join(name)).unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
        assert!(listing(&dir) == before, "{name:?}");
    }
}

/// A flat disk whose descriptor is in windows-1252, as is the name of its extent.
fn in_a_code_page(dir: &Path) -> (PathBuf, Vec<u8>) {
    let content = Rng::new(3).bytes(2 * SECTOR);
    let image = Image::monolithic_flat("disk.vmdk", content.clone());
    let text = String::from_utf8(image.files[0].1.clone()).unwrap();
    let text =
        text.replace("encoding=\"UTF-8\"\n", "").replacen("version=1\n", "version=1\nencoding=\"windows-1252\"\n", 1);
    let (before, after) = text.split_once("disk-flat").unwrap();
    let text = [before.as_bytes(), b"caf\xe9-flat", after.as_bytes()].concat();
    let path = dir.join("caf\u{e9}.vmdk");
    fs::write(&path, text).unwrap();
    fs::write(dir.join("caf\u{e9}-flat.vmdk"), &content).unwrap();
    (path, content)
}

#[cfg(feature = "encodings")]
#[test]
fn names_are_written_in_the_encoding_of_the_descriptor() {
    let (_guard, dir) = directory();
    let (old, content) = in_a_code_page(&dir);
    let before = listing(&dir);
    let error = rename(&old, &dir.join("\u{78c1}\u{76d8}.vmdk")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("windows-1252"), "{error}");
    assert!(listing(&dir) == before);
    let new = dir.join("Gr\u{f6}\u{df}e.vmdk");
    rename(&old, &new).unwrap();
    let text = fs::read(&new).unwrap();
    assert!(text.windows(15).any(|bytes| bytes == b"Gr\xf6\xdfe-flat.vmdk"), "{}", String::from_utf8_lossy(&text));
    assert_eq!(read(&OpenOptions::new(), &new), content);
    assert_eq!(names(&dir), ["Gr\u{f6}\u{df}e-flat.vmdk", "Gr\u{f6}\u{df}e.vmdk"]);
}

#[cfg(not(feature = "encodings"))]
#[test]
fn names_in_an_encoding_that_is_not_known_change_nothing() {
    let (_guard, dir) = directory();
    let (old, _) = in_a_code_page(&dir);
    let before = listing(&dir);
    assert_eq!(rename(&old, &dir.join("b.vmdk")).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(listing(&dir) == before);
}

/// A child in one file over a base, each in a directory.
struct Family {
    _guard: TempDir,
    dir: PathBuf,
    content: Vec<u8>,
}

impl Family {
    /// The paths are relative to a directory in which there are `a`, `a/sub`, `b` and `b/sub`.
    fn new(base: &str, child: &str, hint: &str) -> Self {
        let (guard, dir) = directory();
        for sub in ["a/sub", "b/sub"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        let parent = Image::monolithic_flat("base.vmdk", Rng::new(4).bytes(16 * SECTOR));
        parent.write_to(dir.join(base).parent().unwrap());
        let named = Image { name: hint.to_owned(), ..parent };
        let image = Image::child(&named, "child.vmdk", sparse(5));
        fs::write(dir.join(child), &image.files[0].1).unwrap();
        Self { _guard: guard, dir, content: image.content }
    }

    fn options(&self) -> OpenOptions {
        OpenOptions::new().allow_dir(&self.dir)
    }

    fn rename(&self, old: &str, new: &str) -> Result<RenameReport> {
        self.options().rename(self.dir.join(old), self.dir.join(new), &RenameOptions::new(), &mut go_on)
    }
}

#[test]
fn a_child_finds_its_parent_from_another_directory() {
    for (base, child, hint, new, expected) in [
        ("a/base.vmdk", "a/child.vmdk", "base.vmdk", "b/c.vmdk", Some("../a/base.vmdk")),
        ("a/base.vmdk", "b/child.vmdk", "../a/base.vmdk", "a/c.vmdk", Some("base.vmdk")),
        ("a/sub/base.vmdk", "a/child.vmdk", "sub/base.vmdk", "a/sub/c.vmdk", Some("base.vmdk")),
        ("a/base.vmdk", "a/child.vmdk", "base.vmdk", "a/sub/c.vmdk", Some("../base.vmdk")),
        ("a/base.vmdk", "b/sub/child.vmdk", "../../a/base.vmdk", "b/c.vmdk", Some("../a/base.vmdk")),
        // It was moved, and found by its name alone.
        ("a/base.vmdk", "a/child.vmdk", "elsewhere/base.vmdk", "b/c.vmdk", Some("../a/base.vmdk")),
        ("a/base.vmdk", "a/child.vmdk", "C:\\vm\\base.vmdk", "a/c.vmdk", None),
    ] {
        let family = Family::new(base, child, hint);
        let report = family.rename(child, new).unwrap_or_else(|error| panic!("{child} to {new}: {error}"));
        assert_eq!(report.parent_hint.as_deref(), expected, "{child} to {new}");
        assert_eq!(read(&family.options(), &family.dir.join(new)), family.content, "{child} to {new}");
        assert!(!family.dir.join(child).exists(), "{child} to {new}");
        let image = family.options().open(family.dir.join(new)).unwrap();
        assert_eq!(image.descriptor().parent_hint(), Some(expected.unwrap_or(hint).as_bytes()), "{child} to {new}");
    }
}

#[test]
fn a_child_that_was_cut_off_on_its_way_to_another_directory_gets_there() {
    let fresh = || Family::new("a/sub/base.vmdk", "a/child.vmdk", "sub/base.vmdk");
    let done = fresh();
    done.rename("a/child.vmdk", "a/sub/c.vmdk").unwrap();
    let end = fs::read(done.dir.join("a/sub/c.vmdk")).unwrap();
    for has_new_text in [false, true] {
        // Both names are there, and from the old one the new text leads nowhere.
        let family = fresh();
        let (old, new) = (family.dir.join("a/child.vmdk"), family.dir.join("a/sub/c.vmdk"));
        fs::hard_link(&old, &new).unwrap();
        if has_new_text {
            fs::write(&new, &end).unwrap();
            assert_eq!(family.options().open(&old).unwrap_err().kind(), ErrorKind::ParentMissing);
        }
        assert_eq!(read(&family.options(), &new), family.content);
        // Stopped once more, it still can be found.
        let stop = &mut |_: CopyProgress| ControlFlow::Break(());
        let stopped = family.options().rename(&old, &new, &RenameOptions::new(), stop);
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!((old.exists(), new.exists()), (true, has_new_text));
        assert_eq!(read(&family.options(), if has_new_text { &new } else { &old }), family.content);
        let report = family.rename("a/child.vmdk", "a/sub/c.vmdk").unwrap();
        assert_eq!(report.parent_hint.as_deref(), Some("base.vmdk"));
        assert!(!old.exists() && fs::read(&new).unwrap() == end);
    }
    // Another file that has the new name is another disk.
    let family = fresh();
    let (old, new) = (family.dir.join("a/child.vmdk"), family.dir.join("a/sub/c.vmdk"));
    fs::write(&new, &end).unwrap();
    fs::write(&old, &end).unwrap();
    assert_eq!(family.rename("a/child.vmdk", "a/sub/c.vmdk").unwrap_err().kind(), ErrorKind::ParentMissing);
    assert!(old.exists() && fs::read(&new).unwrap() == end);
}

#[test]
fn a_child_that_would_lose_its_parent_for_a_moment_is_not_moved() {
    let family = Family::new("a/sub/base.vmdk", "a/child.vmdk", "sub/base.vmdk");
    let before = listing(&family.dir.join("a"));
    let error = family.rename("a/child.vmdk", "b/sub/c.vmdk").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("vmdk copy"), "{error}");
    assert!(listing(&family.dir.join("a")) == before && names(&family.dir.join("b/sub")).is_empty());
}

#[test]
fn a_child_without_its_parent_is_moved_by_the_word_of_its_hint() {
    let family = Family::new("a/base.vmdk", "a/child.vmdk", "../x/base.vmdk");
    fs::remove_file(family.dir.join("a/base.vmdk")).unwrap();
    let new = family.dir.join("b/sub/c.vmdk");
    assert_eq!(family.rename("a/child.vmdk", "b/sub/c.vmdk").unwrap_err().kind(), ErrorKind::ParentMissing);
    let options = family.options().no_parent(true);
    let report = options.rename(family.dir.join("a/child.vmdk"), &new, &RenameOptions::new(), &mut go_on).unwrap();
    assert_eq!(report.parent_hint.as_deref(), Some("../../x/base.vmdk"));
    // In the same directory nobody looks for it.
    family.rename("b/sub/c.vmdk", "b/sub/d.vmdk").unwrap();
}

#[test]
fn a_child_whose_header_names_its_parent_stays_in_its_directory() {
    let (_guard, dir) = directory();
    fs::create_dir(dir.join("sub")).unwrap();
    let base = CowdImage::vmware3(128).generation(7).data(0, Rng::new(1).bytes(128 * SECTOR));
    let child = CowdImage::vmware3(128).parent("base.vmdk", 7);
    fs::write(dir.join("base.vmdk"), base.build()).unwrap();
    let old = dir.join("child.vmdk");
    fs::write(&old, child.build()).unwrap();
    let content = read(&OpenOptions::new(), &old);
    let before = listing(&dir);
    let options = OpenOptions::new().allow_dir(&dir);
    let error = options.rename(&old, dir.join("sub/c.vmdk"), &RenameOptions::new(), &mut go_on).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(listing(&dir) == before && names(&dir.join("sub")).is_empty());
    rename(&old, &dir.join("c.vmdk")).unwrap();
    assert!(read(&OpenOptions::new(), &dir.join("c.vmdk")) == content);
}

#[test]
fn a_child_in_another_directory_follows() {
    let family = Family::new("a/base.vmdk", "b/child.vmdk", "../a/base.vmdk");
    let (old, new) = (family.dir.join("a/base.vmdk"), family.dir.join("b/sub/x y.vmdk"));
    let child = family.dir.join("b/child.vmdk");
    let report = family.options().rename(&old, &new, &RenameOptions::new().child(&child), &mut go_on).unwrap();
    assert_eq!(report.children, std::slice::from_ref(&child));
    assert_eq!(read(&OpenOptions::new(), &child), family.content);
    assert_eq!(names(&family.dir.join("b/sub")), ["x y-flat.vmdk", "x y.vmdk"]);
    assert!(report.notes.iter().any(|note| note.contains("old name")), "{:?}", report.notes);
}

#[test]
fn a_link_stands_for_the_disk_that_it_leads_to() {
    let (_guard, dir) = directory();
    let image = split("disk.vmdk", 1);
    image.write_to(&dir);
    symlink("disk.vmdk", dir.join("link.vmdk")).unwrap();
    rename(&dir.join("link.vmdk"), &dir.join("b.vmdk")).unwrap();
    assert_eq!(names(&dir), ["b-s001.vmdk", "b-s002.vmdk", "b.vmdk"]);
    assert_eq!(read(&OpenOptions::new(), &dir.join("b.vmdk")), image.content);
}

/// A disk with an extent of its own, one in another directory, one by a link, and one that takes no writes.
fn with_foreign_extents(dir: &Path) -> (PathBuf, Vec<u8>) {
    let rng = &mut Rng::new(7);
    fs::create_dir_all(dir.join("sub")).unwrap();
    let parts = vec![
        Part::flat("disk-f001.vmdk", rng.bytes(SECTOR)),
        Part::flat("sub/disk-f002.vmdk", rng.bytes(SECTOR)),
        Part::flat("disk-f003.vmdk", rng.bytes(SECTOR)),
        Part::flat("disk-f004.vmdk", rng.bytes(SECTOR)),
    ];
    let mut image = Image::of_parts("disk.vmdk", "custom", parts);
    let text = String::from_utf8(image.files[0].1.clone()).unwrap();
    image.files[0].1 = text.replace("RW 1 FLAT \"disk-f004", "RDONLY 1 FLAT \"disk-f004").into_bytes();
    let path = image.write_to(dir);
    fs::rename(dir.join("disk-f003.vmdk"), dir.join("sub/real")).unwrap();
    symlink("sub/real", dir.join("disk-f003.vmdk")).unwrap();
    (path, image.content)
}

#[test]
fn files_that_are_not_the_disks_own_keep_their_names() {
    let (_guard, dir) = directory();
    let (old, content) = with_foreign_extents(&dir);
    let report = rename(&old, &dir.join("b.vmdk")).unwrap();
    assert_eq!(report.files.len(), 2);
    assert_eq!(report.kept, ["sub/disk-f002.vmdk", "disk-f003.vmdk", "disk-f004.vmdk"]);
    assert_eq!(names(&dir), ["b-f001.vmdk", "b.vmdk", "disk-f004.vmdk"]);
    assert_eq!(read(&OpenOptions::new(), &dir.join("b.vmdk")), content);
}

#[test]
fn a_disk_whose_files_would_stay_behind_is_not_moved() {
    let (_guard, dir) = directory();
    let (old, _) = with_foreign_extents(&dir);
    let before = listing(&dir);
    let error = rename(&old, &dir.join("sub/b.vmdk")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("disk-f002"), "{error}");
    assert!(listing(&dir) == before);
}

#[test]
fn a_run_that_was_cut_short_is_taken_to_its_end() {
    // After every step, there and in another directory, where the names may be the same.
    for (sub, stem) in [("", "b"), ("sub", "b"), ("sub", "disk")] {
        for steps in 0..6 {
            let (_guard, dir) = directory();
            let new_dir = dir.join(sub);
            fs::create_dir_all(&new_dir).unwrap();
            let image = split("disk.vmdk", 1);
            let (old, new) = (image.write_to(&dir), new_dir.join(format!("{stem}.vmdk")));
            let link =
                |old: &str, new: &str| fs::hard_link(dir.join(old), new_dir.join(format!("{stem}{new}"))).unwrap();
            let text = String::from_utf8(fs::read(&old).unwrap()).unwrap().replace("\"disk-", &format!("\"{stem}-"));
            let done: [&dyn Fn(); 5] = [
                &|| link("disk-s001.vmdk", "-s001.vmdk"),
                &|| link("disk-s002.vmdk", "-s002.vmdk"),
                &|| if stem == "disk" { link("disk.vmdk", ".vmdk") } else { fs::write(&new, &text).unwrap() },
                &|| fs::remove_file(&old).unwrap(),
                &|| fs::remove_file(dir.join("disk-s002.vmdk")).unwrap(),
            ];
            done[..steps.min(5)].iter().for_each(|step| step());
            let what = format!("{sub}/{stem} after {steps} steps");
            rename(&old, &new).unwrap_or_else(|error| panic!("{what}: {error}"));
            let expected = ["-s001.vmdk", "-s002.vmdk", ".vmdk"].map(|ending| format!("{stem}{ending}"));
            assert_eq!(names(&new_dir), expected, "{what}");
            assert!(sub.is_empty() || names(&dir).is_empty(), "{what}: {:?}", names(&dir));
            assert_eq!(read(&OpenOptions::new(), &new), image.content, "{what}");
            // There is nothing left to do.
            assert_eq!(rename(&old, &new).unwrap_err().kind(), ErrorKind::NotFound, "{what}");
        }
    }
}

#[test]
fn a_run_that_was_cut_short_before_the_disk_was_used_by_its_new_name_is_not_gone_on_with() {
    let (_guard, dir) = directory();
    let old = split("disk.vmdk", 1).write_to(&dir);
    for number in 1..=2 {
        fs::hard_link(dir.join(format!("disk-s00{number}.vmdk")), dir.join(format!("b-s00{number}.vmdk"))).unwrap();
    }
    let text = String::from_utf8(fs::read(&old).unwrap()).unwrap().replace("\"disk-", "\"b-");
    let new = dir.join("b.vmdk");
    fs::write(&new, text).unwrap();
    let image = OpenOptions::new().write(true).open(&new).unwrap();
    image.write_sectors(0, &[1; SECTOR]).unwrap();
    image.close().unwrap();
    drop(image);
    let before = listing(&dir);
    for replace in [false, true] {
        let options = RenameOptions::new().replace(replace);
        let error = OpenOptions::new().rename(&old, &new, &options, &mut go_on).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(error.to_string().contains("cut short"), "{error}");
        assert!(listing(&dir) == before);
    }
    // The older one removed, it goes on.
    fs::remove_file(&old).unwrap();
    rename(&old, &new).unwrap();
    assert_eq!(names(&dir), ["b-s001.vmdk", "b-s002.vmdk", "b.vmdk"]);
}

#[test]
fn another_disk_of_the_new_name_is_not_taken_for_one_that_was_renamed() {
    let (_guard, dir) = directory();
    let old = split("disk.vmdk", 1).write_to(&dir);
    let other = split("b.vmdk", 2);
    other.write_to(&dir);
    let before = listing(&dir);
    assert_eq!(rename(&old, &dir.join("b.vmdk")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    // Nor if the old one is not there.
    assert_eq!(rename(&dir.join("c.vmdk"), &dir.join("b.vmdk")).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(listing(&dir) == before);
}

#[test]
fn what_belongs_to_the_disk_is_not_replaced() {
    let family = Family::new("a/base.vmdk", "a/child.vmdk", "base.vmdk");
    let before = listing(&family.dir.join("a"));
    for name in ["a/base.vmdk", "a/base-flat.vmdk"] {
        let options = RenameOptions::new().replace(true);
        let done =
            family.options().rename(family.dir.join("a/child.vmdk"), family.dir.join(name), &options, &mut go_on);
        assert_eq!(done.unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        assert!(listing(&family.dir.join("a")) == before, "{name}");
    }
}

#[test]
fn a_disk_on_another_file_system_is_told_so() {
    const TEST: &str = "a_disk_on_another_file_system_is_told_so";
    let (_guard, dir) = directory();
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return skip(TEST, "there is no /dev/shm") };
    if fs::metadata(&dir).unwrap().dev() == fs::metadata(other.path()).unwrap().dev() {
        return skip(TEST, "/dev/shm is on the same file system");
    }
    for image in [split("disk.vmdk", 1), Image::monolithic_sparse("disk.vmdk", sparse(1))] {
        let old = image.write_to(&dir);
        let before = listing(&dir);
        let error = rename(&old, &other.path().join("b.vmdk")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("another file system"), "{error}");
        assert!(listing(&dir) == before && names(other.path()).is_empty());
        for name in before.keys() {
            fs::remove_file(dir.join(name)).unwrap();
        }
    }
}
