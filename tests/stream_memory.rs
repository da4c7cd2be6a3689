//! A conversion takes little memory, however large the disk is and however many threads work on it.

#![allow(unsafe_code, reason = "a global allocator that counts is unsafe to write; it only forwards")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmdk::{
    BlockDevice, BlockStatus, CopyProgress, CreateOptions, CreateType, DeviceLimits, MemoryStorage, OpenOptions,
    RawTarget, Storage, StreamReader, StreamWriter, VmdkImage, copy, copy_to_writer,
};

use support::rng::Rng;
use support::stream::{StreamImage, StreamKind};
use support::{SECTOR, index};

/// What all threads have, and the most they ever had.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;

/// What a conversion may take.
const LIMIT: usize = 64 * MIB;

/// Few, many, and more than are of use.
const THREADS: [usize; 4] = [1, 2, 16, 500];

const GRAIN: u64 = 128;

/// Grains of the disks here: 128 MiB, twice of what a conversion may take.
const GRAINS: u64 = 2048;

/// Held by a test, so that no other one takes memory meanwhile.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The most memory that `work` had at once beyond what was there before.
fn peak(work: impl FnOnce()) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    work();
    PEAK.load(Ordering::Relaxed) - before
}

fn on(_: CopyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn expect_little(what: &str, threads: usize, bytes: usize) {
    assert!(bytes < LIMIT, "{what} with {threads} threads takes {} MiB", bytes / MIB);
}

/// A file that takes everything and keeps nothing.
#[derive(Debug)]
struct Nowhere;

impl Storage for Nowhere {
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn punch_hole(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }
}

/// A disk with noise and text in its first sectors; it forgets what is written to it.
struct Disk {
    capacity: u64,
    limits: DeviceLimits,
    content: Vec<u8>,
}

impl Disk {
    fn new(capacity: u64) -> Self {
        let mut content = Rng::new(1).bytes(index(GRAIN) * SECTOR / 2);
        content.resize(index(GRAIN) * SECTOR, b'a');
        Self { capacity, limits: DeviceLimits::new(false), content }
    }
}

impl BlockDevice for Disk {
    fn capacity_sectors(&self) -> u64 {
        self.capacity
    }
    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }
    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> vmdk::Result<()> {
        for (sector, buf) in (start..).zip(buf.chunks_mut(SECTOR)) {
            let at = index(sector % GRAIN) * SECTOR;
            buf.copy_from_slice(&self.content[at..at + SECTOR]);
        }
        Ok(())
    }
    fn write_sectors(&self, _: u64, _: &[u8]) -> vmdk::Result<()> {
        Ok(())
    }
    fn flush(&self) -> vmdk::Result<()> {
        Ok(())
    }
    fn block_status(&self, start: u64, max: u64) -> vmdk::Result<(BlockStatus, u64)> {
        let end = GRAINS * GRAIN;
        let max = max.min(self.capacity - start);
        Ok(if start < end { (BlockStatus::Data, max.min(end - start)) } else { (BlockStatus::Hole, max) })
    }
}

fn stream() -> Vec<u8> {
    let grain = |number: u64| {
        let mut bytes = Rng::new(number).bytes(4000);
        bytes.resize(index(GRAIN) * SECTOR, 9);
        bytes
    };
    let stream = StreamImage::new(StreamKind::Classic, GRAINS * GRAIN);
    (0..GRAINS).fold(stream, |stream, number| stream.grain(number, grain(number))).build()
}

fn opened(file: &Arc<MemoryStorage>) -> VmdkImage {
    let resolver = |_: &str| Some(Arc::clone(file) as Arc<dyn Storage>);
    OpenOptions::new().open_with("disk", &resolver).unwrap()
}

#[test]
fn reading_a_stream_takes_the_cache_and_little_else() {
    let _alone = alone();
    let file = Arc::new(MemoryStorage::new(stream()));
    let image = opened(&file);
    let bytes = peak(|| {
        let mut buf = [0; 8 * SECTOR];
        for start in (0..GRAINS * GRAIN).step_by(40) {
            image.read_sectors(start, &mut buf[..SECTOR]).unwrap();
        }
    });
    assert!((16 * MIB..17 * MIB).contains(&bytes), "{bytes} bytes");
}

#[test]
fn conversions_of_a_stream_take_little_memory() {
    let _alone = alone();
    let bytes = stream();
    let file = Arc::new(MemoryStorage::new(&bytes[..]));
    let image = opened(&file);
    for threads in THREADS {
        let taken = peak(|| image.copy_to_raw(&Nowhere, RawTarget::Empty, threads, &mut on).unwrap());
        expect_little("a raw copy", threads, taken);
        let taken = peak(|| copy(&image, &Disk::new(GRAINS * GRAIN), threads, &mut on).unwrap());
        expect_little("a copy to a device", threads, taken);
        let taken = peak(|| copy_to_writer(&image, &mut io::sink(), threads, &mut on).unwrap());
        expect_little("a copy to a pipe", threads, taken);
        let taken = peak(|| {
            let mut stream = StreamReader::new(&bytes[..]).unwrap();
            stream.copy_to_raw(&Nowhere, RawTarget::Empty, threads, &mut on).unwrap();
        });
        expect_little("a stream that passes by", threads, taken);
    }
}

#[test]
fn conversions_to_a_stream_take_little_memory() {
    let _alone = alone();
    // 64 TiB, of which 128 MiB are there: the directory alone has 8 MiB.
    let disk = Disk::new(1 << 37);
    let options = CreateOptions::new().create_type(CreateType::StreamOptimized).capacity_sectors(1 << 37);
    for threads in THREADS {
        let taken = peak(|| {
            let mut stream = StreamWriter::new(io::sink(), "disk.vmdk", &options.clone().threads(threads)).unwrap();
            stream.write_all_from(&disk, &mut on).unwrap();
            stream.finish().unwrap();
        });
        expect_little("a stream", threads, taken);
    }
}

#[test]
fn a_stream_to_another_stream_takes_little_memory() {
    let _alone = alone();
    let file = Arc::new(MemoryStorage::new(stream()));
    for threads in THREADS {
        let image = opened(&file);
        let options = CreateOptions::new().create_type(CreateType::StreamOptimized).capacity_sectors(GRAINS * GRAIN);
        let taken = peak(|| {
            let mut stream = StreamWriter::new(io::sink(), "disk.vmdk", &options.threads(threads)).unwrap();
            stream.write_all_from(&image, &mut on).unwrap();
            stream.finish().unwrap();
        });
        expect_little("a stream of a stream", threads, taken);
    }
}
