//! A host without space: a write that finds none fails, and that is all. What was there stays, a flush works, and when
//! there is space again, the image goes on.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vmdk::{ErrorKind, OpenOptions, Storage, VmdkImage};

use support::check::check;
use support::cowd::CowdImage;
use support::disk::Image;
use support::ledger::{Ledger, Operation};
use support::quota::{Quota, QuotaStorage};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, index, tools};

/// Does one thing; whether there was space for it.
#[track_caller]
fn did(ledger: &mut Ledger, image: &VmdkImage, operation: Operation) -> bool {
    match ledger.apply(image, operation) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Io, "{operation:?}: {error}");
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::StorageFull, "{operation:?}");
            false
        }
    }
}

/// Does things at random until `enough` of them have failed; nothing else may come of that.
#[track_caller]
fn until_full(ledger: &mut Ledger, image: &VmdkImage, rng: &mut Rng, enough: usize) {
    let (mut failed, capacity) = (0, ledger.capacity());
    for number in 0.. {
        assert!(number < 100_000, "it never gets full");
        failed += usize::from(!did(ledger, image, Operation::random(rng, capacity, rng.clone().next_u64())));
        if number % 16 == 0 {
            ledger.apply(image, Operation::Flush).expect("a flush needs no space");
        }
        if failed >= enough {
            break;
        }
    }
    ledger.apply(image, Operation::Flush).expect("a flush needs no space");
    ledger.compare(image, "when it is full");
}

/// Fills a disk whose files share `quota`, gives it space again, and looks at it after all.
fn fills_up_and_goes_on(chain: &[Image], first_blocks: &[i64]) {
    for &first in first_blocks {
        let quota = Arc::new(Quota::default());
        let files: Vec<_> = chain.iter().flat_map(|link| &link.files).collect();
        let files: Vec<_> = files.iter().map(|(name, bytes)| (name, QuotaStorage::new(bytes, &quota))).collect();
        let known: HashMap<String, Arc<dyn Storage>> =
            files.iter().map(|(name, file)| ((*name).clone(), Arc::clone(file) as _)).collect();
        let last = &chain[chain.len() - 1];
        let open = |write| OpenOptions::new().write(write).open_with(&last.name, &known).unwrap();

        let (mut ledger, rng) = (Ledger::new(last.content.clone()), &mut Rng::new(first.unsigned_abs()));
        let image = open(true);
        for more in [first, 7, 60] {
            quota.add(more);
            until_full(&mut ledger, &image, rng, 12);
        }
        image.close().expect("to close it needs no space");
        ledger.compare(&open(false), "closed when it was full");

        let image = open(true);
        quota.add(1 << 20);
        let capacity = ledger.capacity();
        for number in 0..100 {
            let operation = Operation::random(rng, capacity, number);
            ledger.apply(&image, operation).expect("there is space");
        }
        image.close().unwrap();
        ledger.compare(&open(false), "at the end");
        for (name, file) in &files {
            let bytes = file.to_vec();
            if bytes.starts_with(b"KDMV") || bytes.starts_with(b"COWD") {
                let report = check(&bytes);
                report.expect_sound(name);
                assert!(!report.unclean, "{name} was not closed");
            }
        }
    }
}

/// Blocks of 4096 bytes that are free at first: none, and a few.
const FIRST: [i64; 8] = [0, 1, 2, 3, 4, 5, 9, 33];

fn small(capacity: u64) -> SparseImage {
    SparseImage::new(capacity).grain_sectors(16)
}

#[test]
fn a_sparse_disk_goes_on_when_there_is_space_again() {
    let extent = small(16 * 300 + 7).random(&mut Rng::new(1));
    fills_up_and_goes_on(&[Image::monolithic_sparse("disk.vmdk", extent)], &FIRST);
}

#[test]
fn an_empty_disk_whose_tables_lie_in_a_hole_goes_on_when_there_is_space_again() {
    fills_up_and_goes_on(&[Image::monolithic_sparse("disk.vmdk", small(16 * 1200))], &FIRST);
}

#[test]
fn a_disk_without_tables_whose_directory_lies_in_a_hole_goes_on_when_there_is_space_again() {
    // The descriptor reaches over the first blocks, so that the directories have others to themselves.
    let extent = small(16 * 512 * 3).omit_empty_tables().descriptor_region(1, 63);
    fills_up_and_goes_on(&[Image::monolithic_sparse("disk.vmdk", extent)], &FIRST);
    let extent = small(16 * 512 * 3).omit_empty_tables().without_redundant_tables().descriptor_region(1, 63);
    fills_up_and_goes_on(&[Image::monolithic_sparse("disk.vmdk", extent)], &FIRST);
}

#[test]
fn a_child_goes_on_when_there_is_space_again() {
    let rng = &mut Rng::new(2);
    for zero_grains in [false, true] {
        let base = Image::monolithic_flat("base.vmdk", rng.bytes(4000 * SECTOR));
        let extent = small(4000).omit_empty_tables();
        let extent = if zero_grains { extent.with_zero_grains() } else { extent };
        let child = Image::child(&base, "disk.vmdk", extent);
        fills_up_and_goes_on(&[base, child], &FIRST);
    }
}

#[test]
fn a_delta_of_esx_goes_on_when_there_is_space_again() {
    let base = Image::vmfs("base.vmdk", Rng::new(3).bytes(9000 * SECTOR));
    let delta = Image::esx_delta(&base, "base-000001.vmdk", &CowdImage::esx(9000));
    fills_up_and_goes_on(&[base, delta], &FIRST);
}

#[test]
fn a_split_disk_goes_on_when_there_is_space_again() {
    let extents = [16 * 100, 16 * 90 + 3, 16 * 200].map(|capacity| small(capacity).omit_empty_tables());
    fills_up_and_goes_on(&[Image::split_sparse("disk.vmdk", &extents)], &FIRST);
}

#[test]
fn a_thin_flat_disk_goes_on_when_there_is_space_again() {
    fills_up_and_goes_on(&[Image::monolithic_flat("disk.vmdk", vec![0; 4000 * SECTOR])], &FIRST);
}

/// A file system of 8 MiB at `dir`, as long as this lives.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(dir: &'a Path, args: &[&str]) -> Option<Self> {
        let mounted = Command::new("mount").args(args).arg(dir).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).output();
    }
}

/// Fills a real file system beside a file that can be removed.
fn fills_a_file_system(dir: &Path) {
    const CAPACITY: u64 = 40 << 11;
    let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(CAPACITY).data(3, vec![3; 65536]));
    let child = Image::child(&base, "disk.vmdk", SparseImage::new(CAPACITY).omit_empty_tables());
    base.write_to(dir);
    let path = child.write_to(dir);
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![1; 3 << 20]).unwrap();

    let mut ledger = Ledger::new(child.content.clone());
    let rng = &mut Rng::new(4);
    let image = OpenOptions::new().write(true).open(&path).unwrap();
    until_full(&mut ledger, &image, rng, 20);
    std::fs::remove_file(&ballast).unwrap();
    let written = (0..400).filter(|&number| did(&mut ledger, &image, Operation::random(rng, CAPACITY, number))).count();
    assert!(written > 20, "only {written} writes had space again");
    until_full(&mut ledger, &image, rng, 20);
    image.close().unwrap();
    drop(image);

    ledger.compare(&VmdkImage::open(&path).unwrap(), "on a file system");
    let bytes = std::fs::read(&path).unwrap();
    check(&bytes).expect_sound("on a file system");
    assert!(index(CAPACITY) * SECTOR > bytes.len(), "it was to be larger than the file system");
}

#[test]
fn a_full_tmpfs_goes_on_when_there_is_space_again() {
    let test = "a_full_tmpfs_goes_on_when_there_is_space_again";
    let dir = tempfile::tempdir().unwrap();
    match Mounted::new(dir.path(), &["-t", "tmpfs", "-o", "size=8m", "tmpfs"]) {
        Some(_mounted) => fills_a_file_system(dir.path()),
        None => tools::skip(test, "a file system cannot be mounted"),
    }
}

#[test]
fn a_full_ext4_goes_on_when_there_is_space_again() {
    let test = "a_full_ext4_goes_on_when_there_is_space_again";
    let dir = tempfile::tempdir().unwrap();
    let (device, mount_point) = (dir.path().join("device"), dir.path().join("mounted"));
    std::fs::create_dir(&mount_point).unwrap();
    std::fs::File::create(&device).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&device).output();
    let made = made.is_ok_and(|output| output.status.success());
    let mounted = made.then(|| Mounted::new(&mount_point, &["-o", "loop", device.to_str().unwrap()])).flatten();
    match mounted {
        Some(_mounted) => fills_a_file_system(&mount_point),
        None => tools::skip(test, "a file system cannot be made or mounted"),
    }
}
