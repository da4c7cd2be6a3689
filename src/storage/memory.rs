//! A storage in memory, for tests and for images that never were files.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Storage, StorageId};

/// The device number of all memory storages; no host hands it out.
const MEMORY_DEVICE: u64 = u64::MAX;

/// A growable array of bytes as a [`Storage`]. `sync` does nothing: memory is as durable as it gets.
pub struct MemoryStorage {
    bytes: RwLock<Vec<u8>>,
    number: u64,
}

impl MemoryStorage {
    /// A storage that holds `bytes`.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { bytes: RwLock::new(bytes.into()), number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// A copy of the whole content.
    pub fn to_vec(&self) -> Vec<u8> {
        self.read().clone()
    }

    // A panic cannot leave a half-made Vec<u8>, so a poisoned lock is as good as another.
    fn read(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<u8>> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows the length; the content is somebody's disk.
impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage").field("len", &self.read().len()).finish_non_exhaustive()
    }
}

/// Cuts or grows; a guest may write anywhere on a large disk, and memory has an end.
fn resize(bytes: &mut Vec<u8>, len: usize) -> io::Result<()> {
    bytes.try_reserve(len.saturating_sub(bytes.len())).map_err(|_| io::ErrorKind::OutOfMemory)?;
    bytes.resize(len, 0);
    Ok(())
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl Storage for MemoryStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.read().len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.read();
        let start = crate::sector::to_usize(offset);
        let end = start.checked_add(buf.len());
        let source = end.and_then(|end| bytes.get(start..end)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(source);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let start = index(offset)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut bytes = self.write();
        if bytes.len() < end {
            resize(&mut bytes, end)?;
        }
        bytes[start..end].copy_from_slice(buf);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        resize(&mut self.write(), index(len)?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        let mut bytes = self.write();
        let end = index(range.end)?.min(bytes.len());
        let start = index(range.start)?.min(end);
        bytes[start..end].fill(0);
        Ok(())
    }

    fn id(&self) -> Option<StorageId> {
        Some(StorageId { device: MEMORY_DEVICE, object: self.number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_whole_or_an_error() {
        let storage = MemoryStorage::new([1, 2, 3]);
        let mut buf = [0; 2];
        storage.read_exact_at(&mut buf, 1).unwrap();
        assert_eq!(buf, [2, 3]);
        for offset in [2, 3, u64::MAX] {
            let error = storage.read_exact_at(&mut buf, offset).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(buf, [2, 3]);
    }

    #[test]
    fn writing_past_the_end_grows_with_zeros_and_a_hole_keeps_the_length() {
        let storage = MemoryStorage::new([]);
        storage.write_all_at(&[7, 8, 9], 2).unwrap();
        storage.punch_hole(3..90).unwrap();
        assert_eq!(storage.to_vec(), [0, 0, 7, 0, 0]);
    }
}
