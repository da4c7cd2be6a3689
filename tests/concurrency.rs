//! One image, many threads.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use vmdk::{BlockDevice, BlockStatus, ErrorKind, MemoryStorage, OpenOptions, Storage, StorageId, VmdkImage};

use support::disk::{Disk, Image};
use support::model::is_zero;
use support::rng::Rng;
use support::sparse::SparseImage;
use support::storage::{FaultStorage, Operation};
use support::{SECTOR, byte_range, index};

const THREADS: u64 = 8;

/// Gives its turn away in the middle of every read, so that threads meet where they could harm each other.
#[derive(Debug)]
struct Yielding(Arc<dyn Storage>);

impl Storage for Yielding {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let half = buf.len() / 2;
        let (head, tail) = buf.split_at_mut(half);
        self.0.read_exact_at(head, offset)?;
        thread::yield_now();
        self.0.read_exact_at(tail, offset + half as u64)?;
        thread::yield_now();
        Ok(())
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.0.punch_hole(range)
    }
    fn id(&self) -> Option<StorageId> {
        self.0.id()
    }
}

/// Two links of 24 grain tables each, 128 grains of 4 sectors in a table.
fn chain() -> Vec<Image> {
    let mut rng = Rng::new(11);
    let mut extent = |capacity: u64| {
        let extent = SparseImage::new(capacity).grain_sectors(4).entries_per_table(128).with_zero_grains();
        extent.random(&mut rng)
    };
    let base = Image::monolithic_sparse("base.vmdk", extent(24 * 512 - 9));
    let child = Image::child(&base, "disk.vmdk", extent(24 * 512));
    vec![base, child]
}

/// Opens the youngest link from memory, with room for two grain tables a link.
fn open(links: &[Image], wrap: impl Fn(Arc<dyn Storage>) -> Arc<dyn Storage>) -> VmdkImage {
    let files: HashMap<String, Arc<dyn Storage>> = links
        .iter()
        .flat_map(|link| &link.files)
        .map(|(name, bytes)| (name.clone(), wrap(Arc::new(Yielding(Arc::new(MemoryStorage::new(bytes.clone())))))))
        .collect();
    let name = &links[links.len() - 1].name;
    OpenOptions::new().cached_tables(2).open_with(name, &files).unwrap()
}

/// Runs the work on all threads, which begin at the same time; each has random numbers of its own.
fn on_all_threads(work: impl Fn(&mut Rng) + Sync) {
    let barrier = Barrier::new(index(THREADS));
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(&mut Rng::new(number));
            });
        }
    });
}

/// A short range, seldom a long one.
fn range(capacity: u64, rng: &mut Rng) -> (u64, u64) {
    let start = rng.below(capacity);
    let most = if rng.chance(95) { 12 } else { 2000 };
    (start, 1 + rng.below(most.min(capacity - start)))
}

#[test]
fn reads_from_many_threads_that_fight_for_two_cached_tables_are_exact() {
    let links = chain();
    let content = &links[1].content;
    let image = Arc::new(open(&links, |storage| storage));
    on_all_threads(|rng| {
        let mut buf = vec![0; 2000 * SECTOR];
        for _ in 0..1000 {
            let (start, count) = range(image.capacity_sectors(), rng);
            let expected = &content[byte_range(start, count)];
            let buf = &mut buf[..expected.len()];
            buf.fill(0xa5);
            match rng.below(4) {
                0 => {
                    let (head, tail) = buf.split_at_mut(index(rng.below(expected.len() as u64)));
                    let mut bufs = [IoSliceMut::new(head), IoSliceMut::new(tail)];
                    image.read_sectors_vectored(start, &mut bufs).unwrap();
                    assert!(buf == expected, "{count} sectors from {start}");
                }
                1 => {
                    let (status, known) = image.block_status(start, count).unwrap();
                    let zero = is_zero(&content[byte_range(start, known)]);
                    assert!(status == BlockStatus::Data || zero, "{status:?} of {known} from {start}");
                }
                _ => {
                    image.read_sectors(start, buf).unwrap();
                    assert!(buf == expected, "{count} sectors from {start}");
                }
            }
        }
    });
}

#[test]
fn a_read_beside_one_that_fails_is_an_error_of_the_host_or_exact() {
    let links = chain();
    let content = &links[1].content;
    let faults = std::cell::RefCell::new(Vec::new());
    let image = open(&links, |storage| {
        let fault = FaultStorage::new(storage);
        faults.borrow_mut().push(Arc::clone(&fault));
        fault
    });
    let faults = faults.into_inner();
    let failed = AtomicUsize::new(0);
    on_all_threads(|rng| {
        for _ in 0..500 {
            if rng.chance(5) {
                let fault = &faults[index(rng.below(faults.len() as u64))];
                fault.fail_nth(Operation::Read, rng.below(4), support::storage::EIO);
            }
            let (start, count) = range(image.capacity_sectors(), rng);
            let mut buf = vec![0xa5; index(count) * SECTOR];
            match image.read_sectors(start, &mut buf) {
                Ok(()) => assert!(buf == content[byte_range(start, count)], "{count} sectors from {start}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    assert!(failed.into_inner() > 50);
    // What failed has left nothing behind.
    for fault in faults {
        fault.heal();
    }
    let mut found = vec![0xa5; content.len()];
    image.read_sectors(0, &mut found).unwrap();
    assert!(found == *content);
}

#[test]
fn a_read_beside_a_close_is_exact_or_refused() {
    let links = chain();
    let content = &links[1].content;
    for seed in 0..10 {
        let image = open(&links, |storage| storage);
        let closed = AtomicBool::new(false);
        let mut when = Rng::new(seed);
        let when = AtomicUsize::new(index(when.below(400)));
        on_all_threads(|rng| {
            for _ in 0..50 {
                if when.fetch_sub(1, Ordering::Relaxed) == 1 {
                    image.close().unwrap();
                    closed.store(true, Ordering::Release);
                }
                let was_closed = closed.load(Ordering::Acquire);
                let (start, count) = range(image.capacity_sectors(), rng);
                let mut buf = vec![0xa5; index(count) * SECTOR];
                match image.read_sectors(start, &mut buf) {
                    Ok(()) => {
                        assert!(!was_closed, "a read after the close");
                        assert!(buf == content[byte_range(start, count)], "{count} sectors from {start}");
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Closed, "{error}"),
                }
            }
        });
    }
}

/// Twelve extents, of which two files are open at a time: every thread closes what another is about to read.
#[test]
fn reads_from_many_threads_that_fight_for_two_open_files_are_exact() {
    let mut rng = Rng::new(12);
    let extents = [128; 12].map(|capacity| SparseImage::new(capacity).grain_sectors(8).random(&mut rng));
    let disk = Disk::new(vec![Image::split_sparse("disk.vmdk", &extents)]);
    let image = OpenOptions::new().max_open_files(2).cached_tables(1).open(&disk.path).unwrap();
    on_all_threads(|rng| {
        for _ in 0..500 {
            let (start, count) = range(image.capacity_sectors(), rng);
            let mut buf = vec![0xa5; index(count) * SECTOR];
            image.read_sectors(start, &mut buf).unwrap();
            assert!(buf == disk.content[byte_range(start, count)], "{count} sectors from {start}");
        }
    });
}
