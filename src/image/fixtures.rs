//! For tests: the images of the fixtures in memory that is watched.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::{OpenOptions, VmdkImage};
use crate::block_device::{BlockDevice, WriteFlags};
use crate::error::{Error, ErrorKind, Result};
use crate::locate::Resolve;
use crate::sector::SECTOR_SIZE;
use crate::storage::{MemoryStorage, Storage, StorageId};

/// Where the header of a hosted sparse extent says that it was not closed.
pub(super) const UNCLEAN_AT: usize = 72;

/// Images of each sort of extent, the parents last.
pub(super) const IMAGES: [&[&str]; 6] = [
    &["monolithic-sparse.vmdk"],
    &["chain-delta-1.vmdk", "chain-base.vmdk"],
    &["monolithic-flat.vmdk", "monolithic-flat-flat.vmdk"],
    &["custom.vmdk", "custom-s001.vmdk", "custom-flat.vmdk"],
    &["esx-000001.vmdk", "esx-000001-delta.vmdk", "esx.vmdk", "esx-flat.vmdk"],
    &["vmware3.vmdk", "vmware3-02.vmdk"],
];

/// Memory that knows what was asked of it, and fails on request.
#[derive(Debug)]
pub(super) struct Watched {
    inner: MemoryStorage,
    pub(super) changes: AtomicU64,
    pub(super) ends: AtomicU64,
    pub(super) fails_syncs: AtomicBool,
    pub(super) refuses_end: AtomicBool,
    pub(super) hold: AtomicU8,
}

/// The next write is held up.
pub(super) const HOLD_NEXT: u8 = 1;
/// There is one that is held up.
pub(super) const HELD: u8 = 2;

impl Watched {
    fn change(&self) -> &MemoryStorage {
        self.changes.fetch_add(1, Ordering::SeqCst);
        &self.inner
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.inner.len().unwrap()).unwrap()];
        self.inner.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

impl Storage for Watched {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if self.hold.compare_exchange(HOLD_NEXT, HELD, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            while self.hold.load(Ordering::SeqCst) == HELD {
                std::thread::yield_now();
            }
        }
        self.change().write_all_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change().set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        if self.fails_syncs.load(Ordering::SeqCst) { Err(io::Error::other("bad disk")) } else { Ok(()) }
    }
    fn end_writing(&self) -> io::Result<()> {
        self.ends.fetch_add(1, Ordering::SeqCst);
        if self.refuses_end.load(Ordering::SeqCst) { Err(io::Error::other("no")) } else { Ok(()) }
    }
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.change().punch_hole(range)
    }
    fn id(&self) -> Option<StorageId> {
        self.inner.id()
    }
}

pub(super) struct Files {
    pub(super) first: &'static str,
    pub(super) files: HashMap<&'static str, Arc<Watched>>,
}

impl Files {
    pub(super) fn of(names: &[&'static str]) -> Self {
        let mut files = Self { first: names[0], files: HashMap::new() };
        for name in names {
            files.add(name, fixture(name));
        }
        files
    }

    pub(super) fn add(&mut self, name: &'static str, bytes: Vec<u8>) {
        let watched = Watched {
            inner: MemoryStorage::new(bytes),
            changes: AtomicU64::new(0),
            ends: AtomicU64::new(0),
            fails_syncs: AtomicBool::new(false),
            refuses_end: AtomicBool::new(false),
            hold: AtomicU8::new(0),
        };
        self.files.insert(name, Arc::new(watched));
    }

    pub(super) fn open(&self, options: &OpenOptions) -> VmdkImage {
        options.open_with(self.first, self).unwrap()
    }

    pub(super) fn write(&self) -> VmdkImage {
        self.open(&OpenOptions::new().write(true))
    }

    pub(super) fn file(&self) -> &Watched {
        &self.files[self.first]
    }

    /// How much was changed so far.
    pub(super) fn changes(&self) -> u64 {
        self.files.values().map(|file| file.changes.load(Ordering::SeqCst)).sum()
    }
}

impl Resolve for Files {
    fn resolve(&self, name: &str) -> Result<Arc<dyn Storage>> {
        let file = self.files.get(name).map(|file| Arc::clone(file) as _);
        file.ok_or_else(|| Error::text(ErrorKind::NotFound, name.to_owned()))
    }
}

/// The bytes of a file of the fixtures.
pub(super) fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).unwrap()
}

pub(super) fn read(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(image.capacity_sectors()).unwrap() * SECTOR_SIZE];
    image.read_sectors(0, &mut content).unwrap();
    content
}

/// The kinds of the errors of all calls that change something.
pub(super) fn refused(image: &VmdkImage) -> Vec<ErrorKind> {
    let results = [
        image.write_sectors(0, &[1; SECTOR_SIZE]),
        image.write_sectors_vectored(0, &[io::IoSlice::new(&[1; SECTOR_SIZE])], WriteFlags::FUA),
        image.write_zeroes(0, 1, false),
        image.write_zeroes(0, 1, true),
        image.discard(0, 1),
        image.prepare_write(0, 1).map(drop),
    ];
    results.into_iter().map(|result| result.unwrap_err().kind()).collect()
}

/// Writes a sector of the first grain and one of the last, in place or not.
pub(super) fn write_ends(image: &VmdkImage, byte: u8) {
    image.write_sectors(0, &[byte; SECTOR_SIZE]).unwrap();
    image.write_sectors(image.capacity_sectors() - 1, &[byte; SECTOR_SIZE]).unwrap();
}
