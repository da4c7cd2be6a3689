//! A storage from one end to the other.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use super::Storage;
use crate::sector::to_usize;

/// A [`Storage`] as an input that is read from its beginning to its end, and may seek: for
/// [`StreamReader`](crate::StreamReader), which takes any input.
///
/// The length is that of when it was made. Nothing is buffered.
#[derive(Debug)]
pub struct StorageReader {
    storage: Arc<dyn Storage>,
    len: u64,
    at: u64,
}

impl StorageReader {
    /// An input that begins at the first byte of `storage`.
    ///
    /// # Errors
    /// What the storage reports when it is asked for its length.
    pub fn new(storage: Arc<dyn Storage>) -> io::Result<Self> {
        Ok(Self { len: storage.len()?, storage, at: 0 })
    }
}

impl Read for StorageReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(to_usize(self.len.saturating_sub(self.at)));
        if len == 0 {
            return Ok(0);
        }
        self.storage.read_exact_at(&mut buf[..len], self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for StorageReader {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        let at = match pos {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    #[test]
    fn all_of_it_comes_and_what_lies_behind_is_the_end() {
        let mut reader = StorageReader::new(Arc::new(MemoryStorage::new([1, 2, 3]))).unwrap();
        let mut all = Vec::new();
        assert_eq!(reader.read_to_end(&mut all).unwrap(), 3);
        assert_eq!(reader.seek(SeekFrom::End(-1)).unwrap(), 2);
        assert_eq!(reader.read(&mut [0; 9]).unwrap(), 1);
        assert_eq!(reader.seek(SeekFrom::Current(100)).unwrap(), 103);
        assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
        assert!(reader.seek(SeekFrom::Current(-104)).is_err());
    }
}
