//! Files of the host: locks, names, permissions, and the kernel's own copying.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use vmdk::{BlockDevice, CopyProgress, CreateOptions, CreateType, ErrorKind, OpenOptions, RebaseMode, VmdkImage};

use super::judge::read;
use super::scene::{self, Operation};
use super::support::SECTOR;
use super::support::disk::{Disk, Image};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;

fn go_on(_: CopyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A base of a type with a child, with random content of 2 MiB in both.
fn chain(dir: &Path, create_type: &CreateType) -> (PathBuf, PathBuf, Vec<u8>) {
    let (base, child) = (dir.join("base.vmdk"), dir.join("child.vmdk"));
    let rng = &mut Rng::new(6);
    CreateOptions::new().create_type(create_type.clone()).capacity_sectors(16384).create(&base).unwrap();
    let image = OpenOptions::new().write(true).open(&base).unwrap();
    image.write_sectors(1000, &rng.bytes(2 << 20)).unwrap();
    let delta = image.create_child(&child, &CreateOptions::new()).unwrap();
    for _ in 0..9 {
        let start = rng.below(16000);
        delta.write_sectors(start, &rng.bytes(SECTOR * 300)).unwrap();
    }
    delta.write_zeroes(1500, 700, true).unwrap();
    delta.close().unwrap();
    drop((image, delta));
    let content = read(&delta_of(&child)).unwrap();
    (base, child, content)
}

fn delta_of(path: &Path) -> VmdkImage {
    VmdkImage::open(path).unwrap()
}

#[test]
fn files_of_the_host_are_merged_and_taken_in() {
    let types =
        [CreateType::MonolithicSparse, CreateType::MonolithicFlat, CreateType::TwoGbMaxExtentSparse, CreateType::Vmfs];
    for create_type in &types {
        let dir = tempfile::tempdir().unwrap();
        let (base, child, content) = chain(dir.path(), create_type);
        let report = OpenOptions::new().commit(&child, 1, &mut go_on).unwrap();
        assert!(report.merged_links == 1 && report.copied_bytes > 0 && !report.resumed, "{create_type}: {report:?}");
        for path in [&base, &child] {
            assert!(read(&delta_of(path)).unwrap() == content, "{create_type}");
        }
        assert_eq!(delta_of(&base).content_id(), report.content_id);
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");

        let dir = tempfile::tempdir().unwrap();
        let (base, child, content) = chain(dir.path(), create_type);
        match OpenOptions::new().flatten(&child, &mut go_on) {
            Ok(report) => assert!(report.changed && report.copied_bytes > 0),
            // A disk of ESX has deltas of ESX.
            Err(error) => assert_eq!((error.kind(), create_type), (ErrorKind::Unsupported, &CreateType::Vmfs)),
        }
        if *create_type != CreateType::Vmfs {
            fs::remove_file(&base).unwrap();
        }
        assert!(read(&delta_of(&child)).unwrap() == content, "{create_type}");
    }
}

#[test]
fn holes_of_the_parents_are_not_read_and_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let (base, child) = (dir.path().join("base.vmdk"), dir.path().join("child.vmdk"));
    // 512 GiB of nothing.
    let options = CreateOptions::new().create_type(CreateType::MonolithicFlat).capacity_sectors(1 << 30);
    options.create(&base).unwrap();
    let image = OpenOptions::new().write(true).open(&base).unwrap();
    image.write_sectors((1 << 30) - 77, &[9; SECTOR]).unwrap();
    image.create_child(&child, &CreateOptions::new()).unwrap().close().unwrap();
    drop(image);
    let report = OpenOptions::new().flatten(&child, &mut go_on).unwrap();
    assert!(report.copied_bytes < 1 << 20, "{report:?}");
    let mut sector = [0; SECTOR];
    delta_of(&child).read_sectors((1 << 30) - 77, &mut sector).unwrap();
    assert_eq!(sector, [9; SECTOR]);
}

/// The file of the parent ends early, and the child has grains that are holes behind that.
#[test]
fn a_flat_parent_that_is_short_stays_so_where_the_child_has_nothing_but_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let (base, child) = (dir.path().join("base.vmdk"), dir.path().join("child.vmdk"));
    let options = CreateOptions::new().create_type(CreateType::MonolithicFlat).capacity_sectors(16384);
    options.create(&base).unwrap();
    let flat = fs::OpenOptions::new().write(true).open(dir.path().join("base-flat.vmdk")).unwrap();
    flat.set_len(4000 * SECTOR as u64).unwrap();
    let image = OpenOptions::new().write(true).open(&base).unwrap();
    image.write_sectors(3000, &vec![8; SECTOR * 900]).unwrap();
    let delta = image.create_child(&child, &CreateOptions::new()).unwrap();
    for (start, count) in [(3328, 256), (12800, 512)] {
        delta.write_sectors(start, &vec![7; SECTOR * usize::try_from(count).unwrap()]).unwrap();
        delta.write_zeroes(start, count, true).unwrap();
    }
    delta.write_sectors(3072, &vec![6; SECTOR * 100]).unwrap();
    delta.close().unwrap();
    drop((image, delta));
    let content = read(&delta_of(&child)).unwrap();
    let report = OpenOptions::new().commit(&child, 1, &mut go_on).unwrap();
    assert_eq!(report.merged_links, 1);
    assert!(read(&delta_of(&base)).unwrap() == content);
    assert_eq!(flat.metadata().unwrap().len(), 4000 * SECTOR as u64);
}

/// What is reserved for a disk stays so.
#[cfg(target_os = "linux")]
#[test]
fn a_flat_parent_keeps_its_space_where_the_child_has_zeros() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let (base, child) = (dir.path().join("base.vmdk"), dir.path().join("child.vmdk"));
    let options = CreateOptions::new().create_type(CreateType::MonolithicFlat).capacity_sectors(16384);
    options.preallocate(true).create(&base).unwrap();
    let flat = || fs::metadata(dir.path().join("base-flat.vmdk")).unwrap().blocks();
    let image = OpenOptions::new().write(true).open(&base).unwrap();
    image.write_sectors(1000, &vec![8; SECTOR * 900]).unwrap();
    image.flush().unwrap();
    let before = flat();
    let delta = image.create_child(&child, &CreateOptions::new().zero_grains(true)).unwrap();
    delta.write_zeroes(0, 8192, true).unwrap();
    delta.close().unwrap();
    drop((image, delta));
    let report = OpenOptions::new().commit(&child, 1, &mut go_on).unwrap();
    assert!(report.zeroed_bytes >= 8192 * SECTOR as u64 / 9, "{report:?}");
    assert!(read(&delta_of(&base)).unwrap().iter().all(|&byte| byte == 0));
    assert!(before == 0 || flat() >= before, "{before} blocks before, {} after", flat());
}

#[test]
fn the_way_to_the_new_parent_begins_at_the_child() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir(root.join("c")).unwrap();
    let extent = || SparseImage::new(64).grain_sectors(8).random(&mut Rng::new(1));
    let base = Image::monolithic_flat("base.vmdk", vec![5; 64 * SECTOR]);
    let child = Image::child(&base, "disk.vmdk", extent());
    base.write_to(&root.join("a"));
    base.write_to(&root.join("c"));
    let path = child.write_to(&root.join("a"));
    let options = OpenOptions::new().allow_dir(root);
    let report = options.rebase(&path, Some(&root.join("a/../c/base.vmdk")), RebaseMode::Safe, &mut go_on).unwrap();
    let real = fs::canonicalize(root.join("c/base.vmdk")).unwrap();
    assert_eq!((report.parent, report.changed, report.copied_bytes), (Some(real.clone()), true, 0));
    let image = options.open(&path).unwrap();
    assert_eq!(image.descriptor().parent_hint(), Some(&b"../c/base.vmdk"[..]));
    assert_eq!(image.chain()[1].path(), real);
    assert!(read(&image).unwrap() == child.content);
}

#[cfg(unix)]
mod locks {
    use super::*;

    /// What is open, and for what, decides who is refused.
    #[test]
    fn a_disk_that_somebody_uses_is_left_alone() {
        for scene in scene::all(31) {
            let disk = Disk::new(scene.links.clone());
            scene.others.iter().for_each(|other| drop(other.write_to(disk.dir())));
            let before: Vec<_> =
                scene.files().into_iter().map(|(name, _)| fs::read(disk.dir().join(name)).unwrap()).collect();
            let leaf = &disk.path;
            let run = || match &scene.operation {
                Operation::Commit(base) => OpenOptions::new().commit(leaf, *base, &mut go_on).map(drop),
                Operation::Flatten => OpenOptions::new().flatten(leaf, &mut go_on).map(drop),
                Operation::Rebase(parent) => {
                    let parent = disk.dir().join(parent);
                    OpenOptions::new().rebase(leaf, Some(&parent), RebaseMode::Safe, &mut go_on).map(drop)
                }
            };
            let refused = |what: &str| {
                let error = run().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Locked, "{} with {what}: {error}", scene.what);
            };
            {
                let _reader = VmdkImage::open(leaf).unwrap();
                refused("a reader");
            }
            if let Operation::Commit(_) = scene.operation {
                let _reader = VmdkImage::open(disk.dir().join(&scene.link(1).name)).unwrap();
                refused("a reader of the parent");
            } else if let Some(below) = scene.links.len().checked_sub(2).map(|_| scene.link(1)) {
                let _writer = OpenOptions::new().write(true).open(disk.dir().join(&below.name)).unwrap();
                refused("a writer of the parent");
            }
            if let Operation::Rebase(parent) = &scene.operation {
                let _writer = OpenOptions::new().write(true).open(disk.dir().join(parent)).unwrap();
                refused("a writer of the new parent");
            }
            for ((name, _), before) in scene.files().iter().zip(before) {
                assert!(fs::read(disk.dir().join(name)).unwrap() == before, "{}: {name}", scene.what);
            }
            run().unwrap();
        }
    }

    /// Nobody gets in between, from the first look to the end.
    #[test]
    fn all_files_are_held_until_the_end() {
        for scene in scene::commits(32) {
            let disk = Disk::new(scene.links.clone());
            let names: Vec<String> = (0..2).map(|depth| scene.link(depth).name.clone()).collect();
            let mut tried = 0;
            let Operation::Commit(base) = scene.operation else { continue };
            let step = &mut |_: CopyProgress| {
                for name in &names {
                    let options = [OpenOptions::new(), OpenOptions::new().write(true)];
                    for options in options {
                        let error = options.open(disk.dir().join(name)).unwrap_err();
                        assert_eq!(error.kind(), ErrorKind::Locked, "{}: {error}", scene.what);
                        tried += 1;
                    }
                }
                ControlFlow::Continue(())
            };
            OpenOptions::new().commit(&disk.path, base, step).unwrap();
            assert!(tried >= 4);
            VmdkImage::open(&disk.path).unwrap();
        }
    }

    #[test]
    fn a_disk_is_not_merged_into_itself_by_another_name() {
        let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(64).grain_sectors(8));
        let child = Image::child(&base, "disk.vmdk", SparseImage::new(64).grain_sectors(8).random(&mut Rng::new(1)));
        let disk = Disk::new(vec![base, child]);
        fs::remove_file(disk.dir().join("base.vmdk")).unwrap();
        fs::hard_link(&disk.path, disk.dir().join("base.vmdk")).unwrap();
        let error = OpenOptions::new().commit(&disk.path, 1, &mut go_on).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadChain, "{error}");
    }

    #[test]
    fn a_file_that_may_not_be_written_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let base = Image::monolithic_flat("base.vmdk", vec![1; 64 * SECTOR]);
        let child = Image::child(&base, "disk.vmdk", SparseImage::new(64).grain_sectors(8).random(&mut Rng::new(1)));
        let disk = Disk::new(vec![base, child]);
        let flat = disk.dir().join("base-flat.vmdk");
        fs::set_permissions(&flat, fs::Permissions::from_mode(0o400)).unwrap();
        if fs::OpenOptions::new().write(true).open(&flat).is_ok() {
            // Permissions are nothing to the superuser.
            return;
        }
        let error = OpenOptions::new().commit(&disk.path, 1, &mut go_on).unwrap_err();
        assert_eq!((error.kind(), error.file()), (ErrorKind::ReadOnly, Some(&*fs::canonicalize(&flat).unwrap())));
        OpenOptions::new().flatten(&disk.path, &mut go_on).unwrap();
    }
}
