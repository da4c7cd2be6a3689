//! Children of open images: what becomes of the handle of the parent, and what its child is.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use vmdk::{
    BlockDevice, ContentId, CreateOptions, CreateType, ErrorKind, OpenOptions, RawImage, SECTOR_SIZE, VmdkImage,
};

use support::check::check;
use support::rng::Rng;

const SECTORS: u64 = 5000;

const TYPES: [CreateType; 6] = [
    CreateType::MonolithicSparse,
    CreateType::MonolithicFlat,
    CreateType::TwoGbMaxExtentSparse,
    CreateType::TwoGbMaxExtentFlat,
    CreateType::Vmfs,
    CreateType::VmfsSparse,
];

/// A new disk of `SECTORS` sectors in a directory of its own, open for writing.
fn disk(create_type: CreateType) -> (TempDir, PathBuf, VmdkImage) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    CreateOptions::new().create_type(create_type).capacity_sectors(SECTORS).create(&path).unwrap();
    let disk = write_to(&path).unwrap();
    (dir, path, disk)
}

fn write_to(path: &Path) -> vmdk::Result<VmdkImage> {
    OpenOptions::new().write(true).open(path)
}

fn sector(value: u8) -> [u8; SECTOR_SIZE] {
    [value; SECTOR_SIZE]
}

fn read(disk: &dyn BlockDevice, at: u64) -> u8 {
    let mut bytes = sector(0);
    disk.read_sectors(at, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == bytes[0]));
    bytes[0]
}

fn content(disk: &dyn BlockDevice) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(disk.capacity_sectors()).unwrap() * SECTOR_SIZE];
    disk.read_sectors(0, &mut content).unwrap();
    content
}

fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn assert_read_only(disk: &VmdkImage) {
    let errors = [
        disk.write_sectors(0, &sector(1)).unwrap_err(),
        disk.write_zeroes(0, 1, true).unwrap_err(),
        disk.discard(0, 1).unwrap_err(),
        disk.prepare_write(0, 1).unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::ReadOnly), "{errors:?}");
    assert!(disk.limits().read_only);
}

#[test]
fn an_image_that_is_written_becomes_read_only_and_its_child_goes_on() {
    for create_type in TYPES {
        let (dir, path, disk) = disk(create_type.clone());
        disk.write_sectors(7, &sector(1)).unwrap();
        let child_path = dir.path().join("disk-000001.vmdk");
        let child = disk.create_child(&child_path, &CreateOptions::new()).unwrap();
        assert_read_only(&disk);
        assert_eq!((read(&disk, 7), read(&child, 7)), (1, 1), "{create_type}");
        assert_eq!(child.parent_content_id(), disk.content_id());
        assert_eq!(child.chain().len(), 2);
        child.write_sectors(7, &sector(2)).unwrap();
        child.write_sectors(4999, &sector(3)).unwrap();
        disk.flush().unwrap();
        disk.close().unwrap();
        drop(disk);
        assert_eq!((read(&child, 7), read(&child, 4999), read(&child, 8)), (2, 3, 0));
        child.close().unwrap();
        drop(child);
        let (base, child) = (VmdkImage::open(&path).unwrap(), VmdkImage::open(&child_path).unwrap());
        assert_eq!((read(&base, 7), read(&base, 4999)), (1, 0));
        assert_eq!((read(&child, 7), read(&child, 4999)), (2, 3));
        assert_eq!(base.chain()[0].warnings(), [""; 0]);
    }
}

#[test]
fn what_was_written_before_is_durable_and_the_parent_is_closed_cleanly() {
    let (dir, path, disk) = disk(CreateType::MonolithicSparse);
    disk.write_sectors(100, &sector(9)).unwrap();
    let child = disk.create_child(dir.path().join("child.vmdk"), &CreateOptions::new()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let report = check(&bytes);
    assert_eq!((report.problems.len(), report.leaked_grains, report.unclean), (0, 0, false));
    assert_eq!(bytes.len(), 256 * SECTOR_SIZE);
    drop(child);
}

#[test]
fn others_may_read_the_parent_but_neither_write_it_nor_touch_the_child() {
    let (dir, path, disk) = disk(CreateType::TwoGbMaxExtentSparse);
    assert_eq!(VmdkImage::open(&path).unwrap_err().kind(), ErrorKind::Locked);
    let child_path = dir.path().join("child.vmdk");
    let child = disk.create_child(&child_path, &CreateOptions::new()).unwrap();
    VmdkImage::open(&path).unwrap();
    assert_eq!(write_to(&path).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(VmdkImage::open(&child_path).unwrap_err().kind(), ErrorKind::Locked);
    drop(disk);
    assert_eq!(write_to(&path).unwrap_err().kind(), ErrorKind::Locked, "the child still reads it");
    drop(child);
    write_to(&path).unwrap();
}

#[test]
fn children_of_children_read_what_each_of_them_was_when_the_next_one_came() {
    let mut rng = Rng::new(5);
    for create_type in TYPES {
        let (dir, path, disk) = disk(create_type);
        let mut disks = vec![(path, disk)];
        let mut model = vec![0; usize::try_from(SECTORS).unwrap() * SECTOR_SIZE];
        let mut expected = Vec::new();
        for generation in 1..5_u8 {
            let (_, leaf) = disks.last().unwrap();
            for _ in 0..20 {
                let at = rng.below(SECTORS - 200);
                let count = rng.below(200) + 1;
                let range =
                    usize::try_from(at).unwrap() * SECTOR_SIZE..usize::try_from(at + count).unwrap() * SECTOR_SIZE;
                model[range.clone()].fill(generation);
                leaf.write_sectors(at, &model[range]).unwrap();
            }
            expected.push(model.clone());
            let path = dir.path().join(format!("disk-{generation:06}.vmdk"));
            let child = leaf.create_child(&path, &CreateOptions::new()).unwrap();
            assert_eq!(content(&child), model);
            disks.push((path, child));
        }
        expected.push(model);
        let paths: Vec<_> = disks.into_iter().map(|(path, disk)| disk.close().map(|()| path).unwrap()).collect();
        for (path, expected) in paths.iter().zip(&expected) {
            assert!(content(&VmdkImage::open(path).unwrap()) == *expected, "{}", path.display());
        }
    }
}

#[test]
fn if_no_child_can_be_made_writes_go_on() {
    let (dir, path, disk) = disk(CreateType::MonolithicSparse);
    disk.write_sectors(1, &sector(1)).unwrap();
    let before = names(&dir);
    let options = CreateOptions::new();
    let child = dir.path().join("child.vmdk");
    let failures = [
        (disk.create_child(&path, &options), ErrorKind::AlreadyExists),
        (disk.create_child(&path, &options.clone().replace(true)), ErrorKind::InvalidInput),
        (disk.create_child(&child, &options.clone().create_type(CreateType::Vmfs)), ErrorKind::InvalidInput),
        (disk.create_child(&child, &options.clone().capacity_sectors(SECTORS + 1)), ErrorKind::InvalidInput),
        (disk.create_child(dir.path().join("no/child.vmdk"), &options), ErrorKind::NotFound),
        (disk.create_child(dir.path().join("a\"b.vmdk"), &options), ErrorKind::InvalidInput),
    ];
    for (number, (made, kind)) in failures.into_iter().enumerate() {
        assert_eq!(made.unwrap_err().kind(), kind, "{number}");
        disk.write_sectors(1, &sector(2)).unwrap();
    }
    assert_eq!(names(&dir), before);
    assert!(!disk.limits().read_only);
    disk.close().unwrap();
    assert_eq!(disk.create_child(&child, &options).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn an_image_does_not_replace_itself_by_its_child_even_without_locks() {
    let (_dir, path, disk) = disk(CreateType::MonolithicFlat);
    drop(disk);
    let disk = OpenOptions::new().locking(false).open(&path).unwrap();
    let error = disk.create_child(&path, &CreateOptions::new().replace(true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let flat = path.with_file_name("disk-flat.vmdk");
    let error = disk.create_child(&flat, &CreateOptions::new().replace(true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    VmdkImage::open(&path).unwrap();
}

#[test]
fn what_a_child_could_not_be_known_by_has_no_children() {
    let (dir, path, disk) = disk(CreateType::TwoGbMaxExtentSparse);
    drop(disk);
    let child = dir.path().join("child.vmdk");
    let refused = |disk: VmdkImage| {
        let error = disk.create_child(&child, &CreateOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(!child.exists());
        error.to_string()
    };
    let bare = VmdkImage::open(dir.path().join("disk-s001.vmdk")).unwrap();
    assert!(refused(bare).contains("no content ID"));
    let shared = OpenOptions::new().force_share(true).open(&path).unwrap();
    assert!(refused(shared).contains("force-share"));
    let disk = VmdkImage::open(&path).unwrap();
    let delta = dir.path().join("delta.vmdk");
    drop(disk.create_child(&delta, &CreateOptions::new()).unwrap());
    let orphan = OpenOptions::new().no_parent(true).open(&delta).unwrap();
    assert!(refused(orphan).contains("without its parent"));
    let text = fs::read_to_string(&path).unwrap();
    let id = disk.content_id().unwrap().to_string();
    drop(disk);
    fs::write(&path, text.replacen(&id, "ffffffff", 1)).unwrap();
    let disk = VmdkImage::open(&path).unwrap();
    assert_eq!(disk.content_id(), Some(ContentId::NO_PARENT));
    assert!(refused(disk).contains("ffffffff"));
}

#[test]
fn an_image_with_prepared_writes_gets_no_child() {
    let (dir, _, disk) = disk(CreateType::MonolithicSparse);
    let prepared = disk.prepare_write(0, 128).unwrap();
    let make = || disk.create_child(dir.path().join("child.vmdk"), &CreateOptions::new());
    assert_eq!(make().unwrap_err().kind(), ErrorKind::Busy);
    prepared.abort();
    assert_eq!(read(&make().unwrap(), 0), 0);
}

#[test]
fn a_file_is_not_replaced_by_a_child_that_cannot_be_opened() {
    let (dir, path, disk) = disk(CreateType::Vmfs);
    drop(disk);
    let victim = dir.path().join("victim.vmdk");
    fs::write(&victim, "something").unwrap();
    let disk = OpenOptions::new().max_chain_depth(1).open(&path).unwrap();
    let error = disk.create_child(&victim, &CreateOptions::new().replace(true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadChain);
    assert_eq!(fs::read(&victim).unwrap(), b"something");
}

#[test]
fn a_disk_of_esx_that_is_too_large_for_its_deltas_gets_a_hosted_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    CreateOptions::new().create_type(CreateType::Vmfs).capacity_sectors(1 << 32).create(&path).unwrap();
    let disk = VmdkImage::open(&path).unwrap();
    let child = disk.create_child(dir.path().join("child.vmdk"), &CreateOptions::new()).unwrap();
    assert_eq!(child.create_type(), Some(&CreateType::MonolithicSparse));
}

#[test]
fn a_child_with_a_content_has_what_differs() {
    let (dir, _, disk) = disk(CreateType::MonolithicFlat);
    disk.write_sectors(0, &vec![1; 1000 * SECTOR_SIZE]).unwrap();
    let mut wanted = content(&disk);
    wanted[130 * SECTOR_SIZE] = 7;
    wanted[900 * SECTOR_SIZE..].fill(0);
    let raw = dir.path().join("raw");
    fs::write(&raw, &wanted).unwrap();
    let source = RawImage::open(&raw).unwrap();
    let path = dir.path().join("child.vmdk");
    let mut calls = 0;
    let child = disk
        .create_child_from(&path, &CreateOptions::new(), &source, &mut |_| {
            calls += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(calls > 0);
    assert!(content(&child) == wanted);
    assert_read_only(&disk);
    let changed = (0..SECTORS).filter(|&at| child.map_layer(at, 1).is_ok_and(|run| run.depth == 0 && is_there(&run)));
    assert_eq!(changed.count(), 2 * 128, "one grain with a byte, one that ends in zeros");
    child.close().unwrap();
}

fn is_there(run: &vmdk::MappedRun) -> bool {
    !matches!(run.mapping, vmdk::Mapping::Unallocated)
}

#[test]
fn a_copy_that_is_stopped_leaves_no_child_and_writes_go_on() {
    let (dir, _, disk) = disk(CreateType::MonolithicSparse);
    let before = names(&dir);
    let raw = dir.path().join("raw");
    fs::write(&raw, vec![1; usize::try_from(SECTORS).unwrap() * SECTOR_SIZE]).unwrap();
    let source = RawImage::open(&raw).unwrap();
    let mut stop = |_| ControlFlow::Break(());
    let made = disk.create_child_from(dir.path().join("child.vmdk"), &CreateOptions::new(), &source, &mut stop);
    assert_eq!(made.unwrap_err().kind(), ErrorKind::Cancelled);
    fs::remove_file(&raw).unwrap();
    assert_eq!(names(&dir), before);
    disk.write_sectors(0, &sector(1)).unwrap();
}

/// Each writer has a sector of its own and counts up in it. What it was told to have written is in the parent and in
/// the child, and stays so; of the write that was refused either may be there.
#[test]
fn writers_are_stopped_between_two_writes() {
    for round in 0..20 {
        let create_type = TYPES[round % TYPES.len()].clone();
        let (dir, _, disk) = disk(create_type.clone());
        let written: Vec<_> = (0..4).map(|_| AtomicU64::new(0)).collect();
        let child = std::thread::scope(|scope| {
            for (writer, written) in written.iter().enumerate() {
                let disk = &disk;
                scope.spawn(move || {
                    for count in 1_u64.. {
                        let at = writer as u64 * 1000 + count % 3 * 200;
                        let mut bytes = sector(0);
                        bytes[..8].copy_from_slice(&count.to_le_bytes());
                        match disk.write_sectors(at, &bytes) {
                            Ok(()) => written.store(count, Ordering::SeqCst),
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
                                return;
                            }
                        }
                    }
                });
            }
            while written.iter().any(|written| written.load(Ordering::SeqCst) < 20) {
                std::thread::yield_now();
            }
            disk.create_child(dir.path().join("child.vmdk"), &CreateOptions::new()).unwrap()
        });
        let (before, below) = (content(&child), content(&disk));
        assert!(before == below, "{create_type}");
        for (writer, written) in written.iter().enumerate() {
            let last = written.load(Ordering::SeqCst);
            for count in last - 2..=last {
                let at = usize::try_from(writer as u64 * 1000 + count % 3 * 200).unwrap() * SECTOR_SIZE;
                let found = u64::from_le_bytes(before[at..at + 8].try_into().unwrap());
                let refused = (count + 3 == last + 1).then_some(last + 1);
                assert!(found == count || Some(found) == refused, "{create_type}: {found}, not {count} of {last}");
            }
        }
        child.write_sectors(0, &sector(0xff)).unwrap();
        child.close().unwrap();
        assert!(content(&disk) == below);
    }
}
