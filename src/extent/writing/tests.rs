//! The limit on pending entries: what is beyond it is published without a flush, and at twice as much writers wait.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Below, Health, MIN_PENDING, Surroundings, Writer};
use crate::MemoryStorage;
use crate::error::Result;
use crate::extent::payload::Payload;
use crate::extent::pending::ENTRY_MEMORY;
use crate::extent::{HostFile, SparseExtent, SparseOptions};
use crate::format::{EntryFormat, HeaderMark, SparseLayout};
use crate::storage::Storage;

const SECTORS: u64 = 2048;

/// Entries that may be pending.
const LIMIT: u64 = (MIN_PENDING / ENTRY_MEMORY) as u64;

/// Memory whose syncs can be held up.
#[derive(Debug)]
struct Held {
    inner: MemoryStorage,
    under_hold: Mutex<bool>,
    released: Condvar,
    syncs: AtomicU64,
}

impl Held {
    fn hold(&self, hold: bool) {
        *self.under_hold.lock().unwrap() = hold;
        self.released.notify_all();
    }
}

impl Storage for Held {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        let held = self.under_hold.lock().unwrap();
        drop(self.released.wait_while(held, |held| *held).unwrap());
        Ok(())
    }
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.inner.punch_hole(range)
    }
}

struct Nothing;

impl Below for Nothing {
    fn exists(&self) -> bool {
        false
    }
    fn is_zero(&self, _: u64, max: u64) -> Result<(bool, u64)> {
        Ok((true, max))
    }
    fn read(&self, _: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        Ok(())
    }
}

/// An extent with grains of one sector, one of so many that each may have few pending entries only.
fn extent() -> (Arc<Held>, SparseExtent) {
    let tables = SECTORS / 512;
    let mut bytes = vec![0; 32 * 512];
    for table in 0..tables {
        let start = u32::try_from(2 + 4 * table).unwrap();
        bytes[512 + 4 * usize::try_from(table).unwrap()..][..4].copy_from_slice(&start.to_le_bytes());
    }
    let held = Held {
        inner: MemoryStorage::new(bytes),
        under_hold: Mutex::new(false),
        released: Condvar::new(),
        syncs: AtomicU64::new(0),
    };
    let held = Arc::new(held);
    let file = HostFile::new(PathBuf::from("extent"), Arc::clone(&held) as Arc<dyn Storage>).unwrap();
    let layout = SparseLayout {
        entries: EntryFormat::Sectors,
        sectors: SECTORS,
        grain_sectors: 1,
        entries_per_table: 512,
        table_sectors: 4,
        directory: 512..512 + 4 * tables,
        directory_is_redundant: false,
        redundant: None,
        first_table_sector: 2,
        descriptor: 0..0,
        first_grain_sector: 32,
        has_markers: false,
        unclean: false,
        keeps_redundant: false,
        zero_grains: false,
        grain_alignment: 1,
        mark: HeaderMark::Unclean { at: 72 },
    };
    let options = SparseOptions {
        cached_tables: 16,
        use_redundant: false,
        grain_cache: 0,
        allow_raw_deflate: false,
        salvage: false,
    };
    let extent = SparseExtent::open(Arc::new(file), layout, options).unwrap();
    extent.allow_writing(Writer::new(Arc::<Health>::default(), true, usize::MAX));
    (held, extent)
}

fn write(extent: &SparseExtent, sector: u64) {
    let begin = || Ok(());
    let around = Surroundings { below: &Nothing, begin: &begin, sectors: SECTORS };
    extent.write(sector, Payload::Bytes(&[1; 512]), around).unwrap();
}

#[test]
fn much_that_is_pending_is_published_without_a_flush() {
    let (held, extent) = extent();
    for sector in 0..LIMIT {
        write(&extent, 2 * sector);
    }
    assert_eq!(held.syncs.load(Ordering::SeqCst), 0, "so much may be pending");
    write(&extent, 1);
    assert_eq!(held.syncs.load(Ordering::SeqCst), 2);
    assert_eq!(extent.cache().first_pending(0..SECTORS), None);
    let mut table = [0; 8];
    held.inner.read_exact_at(&mut table, 2 * 512).unwrap();
    assert!(!table.chunks(4).any(|entry| entry == [0; 4]), "the entries are in their table");
}

#[test]
fn at_twice_as_much_writers_wait_for_the_publication() {
    let (held, extent) = extent();
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for sector in 0..LIMIT {
            write(&extent, sector);
        }
        held.hold(true);
        let publisher = scope.spawn(|| write(&extent, LIMIT));
        while held.syncs.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let writer = scope.spawn(|| {
            for sector in LIMIT + 1..SECTORS {
                write(&extent, sector);
                written.fetch_add(1, Ordering::SeqCst);
            }
        });
        // While what was pending is being published, as much again may gather, and the same once more.
        while written.load(Ordering::SeqCst) < 2 * LIMIT {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(written.load(Ordering::SeqCst), 2 * LIMIT, "the next one waits");
        assert!(!publisher.is_finished() && !writer.is_finished());
        held.hold(false);
    });
    assert_eq!(written.load(Ordering::SeqCst), SECTORS - LIMIT - 1);
}
