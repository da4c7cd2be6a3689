//! Holes of host files: what lies in one is known to be zero without being read.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vmdk::{BlockDevice, BlockStatus, FileStorage, MemoryStorage, OpenOptions, RawImage, Storage, VmdkImage};

use support::conformance::check_at;
use support::disk::Image;
use support::sparse::SparseImage;
use support::{SECTOR, index};

/// A storage whose holes are where the test wants them, and that counts how often it was asked.
#[derive(Debug)]
struct Holey {
    bytes: MemoryStorage,
    data: Vec<Range<u64>>,
    asked: AtomicUsize,
}

impl Holey {
    /// `data` is ascending and not empty; everything else is a hole.
    fn new(len: u64, data: &[Range<u64>]) -> Arc<Self> {
        let mut bytes = vec![0; index(len)];
        for range in data {
            bytes[index(range.start)..index(range.end)].fill(7);
        }
        Arc::new(Self { bytes: MemoryStorage::new(bytes), data: data.to_vec(), asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

impl Storage for Holey {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.bytes.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn punch_hole(&self, _: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let next = self.data.iter().find(|data| offset < data.end);
        Ok(next.map(|data| data.start.max(offset)..data.end))
    }
}

/// Ends and beginnings within a sector, at one, and two stretches in one sector.
const DATA: [Range<u64>; 5] = [0..100, 4096..8192, 10_000..10_001, 10_100..12_288, 20_000..30_300];
const LEN: u64 = 40_000;

/// The runs that follow from `DATA`: first sector, and whether it is a hole.
const RUNS: [(u64, bool); 8] =
    [(0, false), (1, true), (8, false), (16, true), (19, false), (24, true), (39, false), (60, true)];

fn raw() -> (RawImage, Arc<Holey>) {
    let storage = Holey::new(LEN, &DATA);
    (RawImage::new(storage.clone(), "disk.raw").unwrap(), storage)
}

/// A flat disk of 120 sectors over the same bytes, which is longer than they are.
fn flat() -> (VmdkImage, Arc<Holey>) {
    let storage = Holey::new(LEN, &DATA);
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                RW 120 FLAT \"flat\" 0\n";
    let files: HashMap<_, Arc<dyn Storage>> =
        [("disk".to_owned(), Arc::new(MemoryStorage::new(text)) as _), ("flat".to_owned(), storage.clone() as _)]
            .into();
    (OpenOptions::new().open_with("disk", &files).unwrap(), storage)
}

fn content(sectors: u64) -> Vec<u8> {
    let mut content = vec![0; index(sectors) * SECTOR];
    for range in DATA {
        content[index(range.start)..index(range.end)].fill(7);
    }
    content
}

/// The runs of a device from its beginning, equal neighbours joined.
fn runs(device: &dyn BlockDevice, max: u64) -> Vec<(u64, BlockStatus)> {
    let mut runs: Vec<(u64, BlockStatus)> = Vec::new();
    let mut at = 0;
    while at < device.capacity_sectors() {
        let (status, count) = device.block_status(at, max).unwrap();
        if runs.last().is_none_or(|last| last.1 != status) {
            runs.push((at, status));
        }
        at += count;
    }
    runs
}

#[test]
fn holes_of_a_raw_file_are_holes() {
    let expected = RUNS.map(|(at, hole)| (at, if hole { BlockStatus::Hole } else { BlockStatus::Data }));
    for max in [u64::MAX, 3, 1] {
        assert_eq!(runs(&raw().0, max), expected);
    }
    check_at(&raw().0, &content(79), &RUNS.map(|run| run.0));
}

/// They are zeros, and not holes: the extent has its room, and masks a parent.
#[test]
fn holes_of_a_flat_extent_are_zeros_and_so_is_what_its_file_is_too_short_for() {
    let expected = RUNS.map(|(at, hole)| (at, if hole { BlockStatus::Zero } else { BlockStatus::Data }));
    for max in [u64::MAX, 3, 1] {
        assert_eq!(runs(&flat().0, max), expected);
    }
    check_at(&flat().0, &content(120), &RUNS.map(|run| run.0));
}

#[test]
fn a_grain_that_lies_in_a_hole_is_zero() {
    let extent = SparseImage::new(3 * 128).data(0, vec![7; 128 * SECTOR]).data(1, vec![7; 128 * SECTOR]);
    let (layout, image) = (extent.layout(), Image::split_sparse("disk.vmdk", &[extent]));
    let dir = tempfile::tempdir().unwrap();
    let path = image.write_to(dir.path());
    let file = std::fs::File::options().write(true).open(dir.path().join("disk-s001.vmdk")).unwrap();
    let storage = FileStorage::new(file).unwrap();
    let punched = layout.grains[&1] * SECTOR as u64;
    storage.punch_hole(punched..punched + 128 * SECTOR as u64).unwrap();
    let image = VmdkImage::open(path).unwrap();
    let runs = runs(&image, u64::MAX);
    let has_holes = storage.next_data(punched).unwrap().is_none();
    let expected = [(0, BlockStatus::Data), (128, BlockStatus::Zero), (256, BlockStatus::Hole)];
    if has_holes {
        assert_eq!(runs, expected);
    } else {
        assert_eq!(runs, [expected[0], expected[2]]);
    }
}

/// The search for the end of a stretch of data takes the host as long as the stretch is. It must not be made for
/// every piece of it again.
#[test]
fn a_stretch_of_data_is_looked_for_once_however_small_the_questions_are() {
    let (raw, raw_host) = raw();
    let (flat, flat_host) = flat();
    for (device, host) in [(&raw as &dyn BlockDevice, raw_host), (&flat, flat_host)] {
        host.asked();
        for sector in 40..59 {
            assert_eq!(device.block_status(sector, 1).unwrap(), (BlockStatus::Data, 1));
        }
        assert_eq!(host.asked(), 1);
        runs(device, u64::MAX);
        assert!(host.asked() <= RUNS.len());
    }
}

#[test]
fn reading_does_not_look_for_holes() {
    let (raw, raw_host) = raw();
    let (flat, flat_host) = flat();
    for (device, host) in [(&raw as &dyn BlockDevice, raw_host), (&flat, flat_host)] {
        host.asked();
        device.read_sectors(0, &mut vec![0; 79 * SECTOR]).unwrap();
        device.read_sectors(5, &mut [0; SECTOR]).unwrap();
        assert_eq!(host.asked(), 0);
    }
}
