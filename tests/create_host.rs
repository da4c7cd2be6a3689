//! New images on a file system of the host: links, locks, permissions, and what is in the way.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmdk::{BlockDevice, CreateOptions, CreateType, Error, ErrorKind, OpenOptions, VmdkImage};

use support::{SECTOR, tools};

/// The types that are created.
const ALL: [CreateType; 6] = [
    CreateType::MonolithicSparse,
    CreateType::MonolithicFlat,
    CreateType::TwoGbMaxExtentSparse,
    CreateType::TwoGbMaxExtentFlat,
    CreateType::Vmfs,
    CreateType::VmfsSparse,
];

/// A directory without links in its path.
fn directory() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

fn empty(create_type: &CreateType, capacity: u64) -> CreateOptions {
    CreateOptions::new().create_type(create_type.clone()).capacity_sectors(capacity)
}

/// What is there: files by their content, links by where they lead.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let content = |entry: std::io::Result<fs::DirEntry>| {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name().into_string().unwrap())).unwrap();
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display()).into_bytes()
        } else if meta.is_dir() {
            b"a directory".to_vec()
        } else {
            fs::read(&path).unwrap()
        };
        (name, content)
    };
    fs::read_dir(dir).unwrap().map(content).collect()
}

fn names(dir: &Path) -> Vec<String> {
    contents(dir).into_keys().collect()
}

/// Refuses to make an image, and leaves everything as it is.
#[track_caller]
fn refused(options: &CreateOptions, path: &Path, kind: ErrorKind) -> Error {
    let dir = path.parent().unwrap();
    let before = contents(dir);
    let error = options.create(path).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(contents(dir) == before, "{error}: there are {:?}", names(dir));
    error
}

/// An image that has been written to.
fn written(path: &Path, create_type: &CreateType) {
    empty(create_type, 40).create(path).unwrap();
    let image = OpenOptions::new().write(true).open(path).unwrap();
    image.write_sectors(3, &[7; 5 * SECTOR]).unwrap();
    image.close().unwrap();
}

/// The type and the size of an image, which has to be empty.
#[track_caller]
fn is_empty(path: &Path, create_type: &CreateType, capacity: u64) {
    let image = VmdkImage::open(path).unwrap();
    assert_eq!((image.create_type(), image.capacity_sectors()), (Some(create_type), capacity));
    let mut bytes = vec![1; usize::try_from(capacity).unwrap() * SECTOR];
    image.read_sectors(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
}

// ---- What is in the way ---------------------------------------------------------------------------------------------

#[test]
fn every_type_is_made_beside_other_files_and_takes_only_its_own_names() {
    let expected: [&[&str]; 6] = [
        &["disk.vmdk"],
        &["disk-flat.vmdk", "disk.vmdk"],
        &["disk-s001.vmdk", "disk.vmdk"],
        &["disk-f001.vmdk", "disk.vmdk"],
        &["disk-flat.vmdk", "disk.vmdk"],
        &["disk-delta.vmdk", "disk.vmdk"],
    ];
    for (create_type, expected) in ALL.iter().zip(expected) {
        let (_dir, dir) = directory();
        empty(create_type, 99).create(dir.join("disk.vmdk")).unwrap();
        assert_eq!(names(&dir), expected, "{create_type}");
        is_empty(&dir.join("disk.vmdk"), create_type, 99);
    }
}

#[test]
fn a_file_that_exists_is_named_with_its_path_and_stays() {
    for create_type in &ALL {
        let (_dir, dir) = directory();
        let path = dir.join("disk.vmdk");
        empty(create_type, 50).create(&path).unwrap();
        for name in names(&dir) {
            let (_dir, other) = directory();
            fs::write(other.join(&name), "somebody else's").unwrap();
            let error = refused(&empty(create_type, 50), &other.join("disk.vmdk"), ErrorKind::AlreadyExists);
            assert_eq!(error.file(), Some(&*other.join(&name)), "{create_type}");
        }
    }
}

#[test]
fn what_is_no_file_is_in_the_way_also_of_who_replaces() {
    let (_dir, dir) = directory();
    for name in ["disk.vmdk", "disk-flat.vmdk"] {
        fs::create_dir(dir.join(name)).unwrap();
        let options = empty(&CreateType::MonolithicFlat, 9);
        let error = refused(&options, &dir.join("disk.vmdk"), ErrorKind::AlreadyExists);
        assert_eq!(error.file(), Some(&*dir.join(name)));
        let error = refused(&options.replace(true), &dir.join("disk.vmdk"), ErrorKind::InvalidInput);
        assert_eq!(error.file(), Some(&*dir.join(name)));
        fs::remove_dir(dir.join(name)).unwrap();
    }
}

#[test]
fn a_directory_that_does_not_exist_is_not_made() {
    let (_dir, dir) = directory();
    let error = empty(&CreateType::Vmfs, 9).create(dir.join("missing/disk.vmdk")).unwrap_err();
    assert_eq!((error.kind(), names(&dir)), (ErrorKind::NotFound, Vec::new()), "{error}");
}

#[test]
fn a_directory_that_takes_no_files_is_said_to_and_nothing_is_there() {
    let (_dir, dir) = directory();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(dir.join("probe"), "").is_ok() {
        let test = "a_directory_that_takes_no_files_is_said_to_and_nothing_is_there";
        return tools::skip(test, "the superuser may write everywhere");
    }
    for create_type in &ALL {
        let error = refused(&empty(create_type, 9), &dir.join("disk.vmdk"), ErrorKind::Io);
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::PermissionDenied);
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_that_may_not_be_written_is_not_replaced() {
    let (_dir, dir) = directory();
    let path = dir.join("disk.vmdk");
    written(&path, &CreateType::Vmfs);
    fs::set_permissions(dir.join("disk-flat.vmdk"), fs::Permissions::from_mode(0o444)).unwrap();
    if fs::OpenOptions::new().write(true).open(dir.join("disk-flat.vmdk")).is_ok() {
        let test = "a_file_that_may_not_be_written_is_not_replaced";
        return tools::skip(test, "the superuser may write everywhere");
    }
    let error = refused(&empty(&CreateType::Vmfs, 9).replace(true), &path, ErrorKind::ReadOnly);
    assert_eq!(error.file(), Some(&*dir.join("disk-flat.vmdk")));
}

// ---- Links ----------------------------------------------------------------------------------------------------------

#[test]
fn a_link_that_leads_nowhere_is_in_the_way_and_nothing_is_made_where_it_leads() {
    let (_dir, dir) = directory();
    let (_elsewhere, elsewhere) = directory();
    for name in ["disk.vmdk", "disk-flat.vmdk"] {
        symlink(elsewhere.join("target.vmdk"), dir.join(name)).unwrap();
        let options = empty(&CreateType::MonolithicFlat, 9);
        let error = refused(&options, &dir.join("disk.vmdk"), ErrorKind::AlreadyExists);
        assert_eq!(error.file(), Some(&*dir.join(name)));
        refused(&options.replace(true), &dir.join("disk.vmdk"), ErrorKind::InvalidInput);
        assert_eq!(names(&elsewhere), Vec::<String>::new());
        fs::remove_file(dir.join(name)).unwrap();
    }
}

#[test]
fn a_link_to_a_file_stands_for_that_file() {
    for create_type in &ALL {
        let (_dir, dir) = directory();
        let (_elsewhere, elsewhere) = directory();
        let target = elsewhere.join("target.vmdk");
        written(&target, &CreateType::MonolithicSparse);
        symlink(&target, dir.join("link.vmdk")).unwrap();
        let error = refused(&empty(create_type, 77), &dir.join("link.vmdk"), ErrorKind::AlreadyExists);
        assert_eq!(error.file().and_then(Path::file_name), Some("target.vmdk".as_ref()), "{create_type}: {error}");

        empty(create_type, 77).replace(true).create(dir.join("link.vmdk")).unwrap();
        is_empty(&dir.join("link.vmdk"), create_type, 77);
        is_empty(&target, create_type, 77);
        assert_eq!(names(&dir), ["link.vmdk"], "{create_type}");
        assert_eq!(fs::read_link(dir.join("link.vmdk")).unwrap(), target, "{create_type}");
        // The extents are beside the file, not beside the link.
        assert!(names(&elsewhere).iter().all(|name| name.starts_with("target")), "{:?}", names(&elsewhere));
    }
}

#[test]
fn an_extent_that_is_a_link_is_not_written_through() {
    let (_dir, dir) = directory();
    let (_elsewhere, elsewhere) = directory();
    fs::write(elsewhere.join("secret"), "somebody else's").unwrap();
    symlink(elsewhere.join("secret"), dir.join("disk-flat.vmdk")).unwrap();
    let options = empty(&CreateType::MonolithicFlat, 9);
    refused(&options, &dir.join("disk.vmdk"), ErrorKind::AlreadyExists);
    let error = refused(&options.replace(true), &dir.join("disk.vmdk"), ErrorKind::InvalidInput);
    assert_eq!(error.file(), Some(&*dir.join("disk-flat.vmdk")));
    assert_eq!(fs::read(elsewhere.join("secret")).unwrap(), b"somebody else's");
}

#[test]
fn a_replaced_file_with_another_name_stays_under_that() {
    for create_type in &ALL {
        let (_dir, dir) = directory();
        let path = dir.join("disk.vmdk");
        written(&path, create_type);
        let before = contents(&dir);
        for name in before.keys() {
            fs::hard_link(dir.join(name), dir.join(format!("kept {name}"))).unwrap();
        }
        empty(create_type, 77).replace(true).create(&path).unwrap();
        is_empty(&path, create_type, 77);
        for (name, content) in before {
            assert!(fs::read(dir.join(format!("kept {name}"))).unwrap() == content, "{create_type}: {name}");
        }
    }
}

// ---- Locks ----------------------------------------------------------------------------------------------------------

#[test]
fn an_image_that_somebody_has_open_is_not_replaced_by_any_other() {
    for old in &ALL {
        for write in [false, true] {
            let (_dir, dir) = directory();
            let path = dir.join("disk.vmdk");
            written(&path, old);
            let image = OpenOptions::new().write(write).open(&path).unwrap();
            for new in &ALL {
                let error = refused(&empty(new, 77).replace(true), &path, ErrorKind::Locked);
                assert!(error.file().is_some_and(|file| file.starts_with(&dir)), "{old} by {new}: {error}");
            }
            let mut bytes = [0; SECTOR];
            image.read_sectors(4, &mut bytes).unwrap();
            assert_eq!(bytes, [7; SECTOR], "{old}");
            drop(image);
            empty(old, 77).replace(true).create(&path).unwrap();
            is_empty(&path, old, 77);
        }
    }
}

#[test]
fn an_extent_that_another_image_has_open_is_not_replaced() {
    let (_dir, dir) = directory();
    let path = dir.join("disk.vmdk");
    written(&path, &CreateType::MonolithicFlat);
    // The same extent by another descriptor.
    fs::rename(&path, dir.join("other.vmdk")).unwrap();
    let _image = VmdkImage::open(dir.join("other.vmdk")).unwrap();
    let error = refused(&empty(&CreateType::MonolithicFlat, 77).replace(true), &path, ErrorKind::Locked);
    assert_eq!(error.file(), Some(&*dir.join("disk-flat.vmdk")));
}

// ---- Permissions ----------------------------------------------------------------------------------------------------

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn new_files_have_the_permissions_that_any_new_file_has() {
    for create_type in &ALL {
        let (_dir, dir) = directory();
        fs::write(dir.join("any"), "").unwrap();
        empty(create_type, 9).create(dir.join("disk.vmdk")).unwrap();
        for name in names(&dir) {
            assert_eq!(mode(&dir.join(&name)), mode(&dir.join("any")), "{create_type}: {name}");
        }
    }
}

#[test]
fn a_file_that_replaces_another_has_its_permissions_and_owner() {
    for create_type in &ALL {
        let (_dir, dir) = directory();
        let path = dir.join("disk.vmdk");
        written(&path, create_type);
        let modes = [0o640, 0o606];
        for (name, mode) in names(&dir).iter().zip(modes) {
            let file = dir.join(name);
            // Only the superuser may give files away.
            let _ = std::os::unix::fs::chown(&file, Some(12345), Some(23456));
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let owner = fs::metadata(&path).map(|meta| (meta.uid(), meta.gid())).unwrap();
        empty(create_type, 77).replace(true).create(&path).unwrap();
        for (name, expected) in names(&dir).iter().zip(modes) {
            let meta = fs::metadata(dir.join(name)).unwrap();
            assert_eq!((mode(&dir.join(name)), (meta.uid(), meta.gid())), (expected, owner), "{create_type}: {name}");
        }
        is_empty(&path, create_type, 77);
    }
}

#[test]
fn an_extent_without_a_predecessor_is_as_private_as_the_descriptor_that_is_replaced() {
    let (_dir, dir) = directory();
    let path = dir.join("disk.vmdk");
    written(&path, &CreateType::MonolithicSparse);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    empty(&CreateType::MonolithicFlat, 9).replace(true).create(&path).unwrap();
    assert_eq!((mode(&path), mode(&dir.join("disk-flat.vmdk"))), (0o600, 0o600));
}

/// Nor for another group, where this process may say which one a file has.
#[test]
fn a_child_is_for_nobody_who_may_not_use_its_parent() {
    for (parent, old, expected) in [(0o600, None, 0o600), (0o600, Some(0o644), 0o600), (0o644, Some(0o600), 0o600)] {
        let (_dir, dir) = directory();
        let (path, child) = (dir.join("disk.vmdk"), dir.join("child.vmdk"));
        written(&path, &CreateType::MonolithicFlat);
        fs::set_permissions(&path, fs::Permissions::from_mode(parent)).unwrap();
        let has_group = std::os::unix::fs::chown(&path, None, Some(23456)).is_ok();
        if let Some(old) = old {
            fs::write(&child, "").unwrap();
            fs::set_permissions(&child, fs::Permissions::from_mode(old)).unwrap();
        }
        let disk = VmdkImage::open(&path).unwrap();
        drop(disk.create_child(&child, &CreateOptions::new().replace(true)).unwrap());
        assert_eq!(mode(&child), expected, "{parent:o} {old:?}");
        if old.is_none() && has_group {
            assert_eq!(fs::metadata(&child).unwrap().gid(), 23456);
        }
    }
}

#[test]
fn a_file_that_has_come_into_the_place_of_the_old_one_is_not_replaced() {
    for create_type in &ALL {
        let (_dir, dir) = directory();
        let path = dir.join("disk.vmdk");
        written(&path, create_type);
        let before = names(&dir);
        for name in &before {
            let source = Fills { dir: dir.clone(), name: name.clone() };
            let made = CreateOptions::new().create_type(create_type.clone()).replace(true).create_from(
                &path,
                &source,
                &mut |_| ControlFlow::Continue(()),
            );
            let error = made.unwrap_err();
            assert_eq!(
                (error.kind(), error.file()),
                (ErrorKind::AlreadyExists, Some(&*dir.join(name))),
                "{create_type}"
            );
            assert_eq!(fs::read(dir.join(name)).unwrap(), b"somebody else's");
            assert_eq!(names(&dir), before);
        }
    }
}

/// A disk that puts another file in the place of one when it is read.
struct Fills {
    dir: PathBuf,
    name: String,
}

impl BlockDevice for Fills {
    fn capacity_sectors(&self) -> u64 {
        8
    }
    fn limits(&self) -> &vmdk::DeviceLimits {
        static LIMITS: std::sync::OnceLock<vmdk::DeviceLimits> = std::sync::OnceLock::new();
        LIMITS.get_or_init(|| vmdk::DeviceLimits::new(true))
    }
    fn read_sectors(&self, _: u64, buf: &mut [u8]) -> vmdk::Result<()> {
        buf.fill(1);
        let other = self.dir.join("other");
        fs::write(&other, "somebody else's")?;
        Ok(fs::rename(&other, self.dir.join(&self.name))?)
    }
    fn write_sectors(&self, _: u64, _: &[u8]) -> vmdk::Result<()> {
        panic!("it is the source")
    }
    fn flush(&self) -> vmdk::Result<()> {
        Ok(())
    }
}
