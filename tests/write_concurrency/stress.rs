//! Many threads at once. Every sector says who wrote it and carries a checksum: it is always wholly of one write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vmdk::{BlockDevice, CacheMode, ErrorKind, OpenOptions, VmdkImage};

use crate::support::cowd::CowdImage;
use crate::support::disk::Image;
use crate::support::model::is_zero;
use crate::support::rng::Rng;
use crate::support::sparse::SparseImage;
use crate::support::{SECTOR, byte_range, index};
use crate::{Files, read};

/// Sectors of the disk. In the first half everybody writes everywhere; in the second each has sectors of its own.
const CAPACITY: u64 = 4096 + 77;
const SHARED: u64 = 2048;
const WRITERS: u64 = 4;
const ROUNDS: u64 = 150;

/// The sector `number` as the write `tag` leaves it: tag, number, and what follows from both.
fn sealed(number: u64, tag: u64) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    Rng::new(number.wrapping_mul(0x9e37_79b9).wrapping_add(tag)).fill(&mut sector[16..]);
    sector[..8].copy_from_slice(&tag.to_le_bytes());
    sector[8..16].copy_from_slice(&number.to_le_bytes());
    sector
}

fn sealed_from(start: u64, count: u64, tag: u64) -> Vec<u8> {
    (start..start + count).flat_map(|number| sealed(number, tag)).collect()
}

/// The write that a sector is of; `None` for zeros.
#[track_caller]
fn tag_of(number: u64, sector: &[u8]) -> Option<u64> {
    if is_zero(sector) {
        return None;
    }
    let tag = u64::from_le_bytes(*sector.first_chunk().unwrap());
    assert!(sector == sealed(number, tag), "sector {number} is not of one write, or not of here");
    Some(tag)
}

fn base() -> Image {
    Image::monolithic_flat("base.vmdk", sealed_from(0, CAPACITY, 1))
}

/// Who writes what, and what is done beside.
struct Stress {
    image: VmdkImage,
    tags: AtomicU64,
    done: AtomicBool,
}

impl Stress {
    fn tag(&self) -> u64 {
        self.tags.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes to the shared half, and to sectors of its own: the last tags of those.
    fn writer(&self, writer: u64) -> Vec<(u64, u64)> {
        let mut rng = Rng::new(writer);
        let mut own = std::collections::BTreeMap::new();
        for _ in 0..ROUNDS {
            let start = rng.below(SHARED);
            let most = if rng.chance(80) { 12 } else { 300 };
            let count = 1 + rng.below(most.min(SHARED - start));
            let bytes = sealed_from(start, count, self.tag());
            match rng.below(8) {
                0 => self.prepared(start, &bytes),
                _ => match self.image.write_sectors(start, &bytes) {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
                },
            }
            // Neighbours in every grain are others'.
            let number = SHARED + rng.below((CAPACITY - SHARED) / WRITERS) * WRITERS + writer;
            let tag = self.tag();
            self.image.write_sectors(number, &sealed(number, tag)).unwrap();
            own.insert(number, tag);
            let mut found = [0; SECTOR];
            self.image.read_sectors(number, &mut found).unwrap();
            assert_eq!(tag_of(number, &found), Some(tag), "what was written is there at once");
        }
        own.into_iter().collect()
    }

    fn prepared(&self, start: u64, bytes: &[u8]) {
        let write = match self.image.prepare_write(start, (bytes.len() / SECTOR) as u64) {
            Ok(write) => write,
            Err(error) => return assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
        };
        for range in write.ranges() {
            let bytes = &bytes[byte_range(range.start - start, range.sectors)];
            range.storage.write_all_at(bytes, range.offset).unwrap();
        }
        write.commit().unwrap();
    }

    fn reader(&self, seed: u64) {
        let mut rng = Rng::new(seed);
        while !self.done.load(Ordering::Acquire) {
            let start = rng.below(CAPACITY);
            let count = 1 + rng.below(64.min(CAPACITY - start));
            let mut bytes = vec![0xee; index(count) * SECTOR];
            self.image.read_sectors(start, &mut bytes).unwrap();
            for (number, sector) in (start..).zip(bytes.chunks(SECTOR)) {
                let tag = tag_of(number, sector);
                assert!(number < SHARED || tag.is_some(), "nobody has erased sector {number}");
            }
            self.image.block_status(start, count).unwrap();
        }
    }

    fn flusher(&self) {
        while !self.done.load(Ordering::Acquire) {
            self.image.flush().unwrap();
            thread::yield_now();
        }
    }

    fn eraser(&self) {
        let mut rng = Rng::new(99);
        while !self.done.load(Ordering::Acquire) {
            let start = rng.below(SHARED);
            let count = 1 + rng.below(200.min(SHARED - start));
            let erased = match rng.below(3) {
                0 => self.image.write_zeroes(start, count, false),
                1 => self.image.write_zeroes(start, count, true),
                _ => self.image.discard(start, count),
            };
            if let Err(error) = erased {
                assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
            }
            thread::yield_now();
        }
    }
}

fn stress(links: Vec<Image>, sparse: &str, mode: CacheMode) {
    let files = Files::new(links);
    let image = files.open(&OpenOptions::new().write(true).cached_tables(1).cache_mode(mode));
    let stress = Arc::new(Stress { image, tags: AtomicU64::new(2), done: AtomicBool::new(false) });
    let own = thread::scope(|scope| {
        let stress = &*stress;
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || stress.writer(writer))).collect();
        scope.spawn(|| stress.reader(50));
        scope.spawn(|| stress.reader(51));
        scope.spawn(|| stress.flusher());
        scope.spawn(|| stress.eraser());
        let own: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stress.done.store(true, Ordering::Release);
        own
    });
    let own: Vec<(u64, u64)> = own.into_iter().flat_map(|own| own.expect("a writer")).collect();
    let content = read(&stress.image);
    for (number, sector) in (0..).zip(content.chunks(SECTOR)) {
        tag_of(number, sector);
    }
    for (number, tag) in own {
        assert_eq!(tag_of(number, &content[byte_range(number, 1)]), Some(tag), "sector {number}");
    }
    stress.image.close().unwrap();
    files.expect(sparse, &content);
}

#[test]
fn a_sector_is_always_wholly_of_one_write() {
    let base = base();
    let extent = SparseImage::new(CAPACITY).grain_sectors(8).entries_per_table(128);
    stress(vec![base.clone(), Image::child(&base, "disk.vmdk", extent)], "disk.vmdk", CacheMode::Writeback);
}

#[test]
fn a_sector_is_always_wholly_of_one_write_with_zero_grains_and_missing_tables() {
    let base = base();
    let extent = SparseImage::new(CAPACITY).grain_sectors(16).entries_per_table(128).with_zero_grains();
    let child = Image::child(&base, "disk.vmdk", extent.omit_empty_tables());
    stress(vec![base, child], "disk.vmdk", CacheMode::Unsafe);
}

#[test]
fn a_sector_is_always_wholly_of_one_write_in_a_delta_of_esx() {
    let base = Image::vmfs("base.vmdk", sealed_from(0, CAPACITY, 1));
    let delta = Image::esx_delta(&base, "base-000001.vmdk", &CowdImage::esx(CAPACITY));
    stress(vec![base, delta], "base-000001-delta.vmdk", CacheMode::Writeback);
}
