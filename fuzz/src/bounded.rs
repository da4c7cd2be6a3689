//! A storage in memory that has an end: whatever an image asks for, it never takes more.

use std::io;
use std::ops::Range;

use vmdk::{MemoryStorage, Storage, StorageId};

/// Bytes that a file may have.
pub const LARGEST_FILE: u64 = 24 << 20;

/// A file in memory. To make it larger than [`LARGEST_FILE`] is "no space left on device".
#[derive(Debug)]
pub struct BoundedStorage(MemoryStorage);

impl BoundedStorage {
    /// A file with this content.
    pub fn new(content: Vec<u8>) -> Self {
        Self(MemoryStorage::new(content))
    }

    /// The content.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

fn check(end: Option<u64>) -> io::Result<()> {
    match end {
        Some(end) if end <= LARGEST_FILE => Ok(()),
        _ => Err(io::ErrorKind::StorageFull.into()),
    }
}

impl Storage for BoundedStorage {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        check(offset.checked_add(buf.len() as u64))?;
        self.0.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        check(Some(len))?;
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
