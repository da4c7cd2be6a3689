//! A stretch of a storage as a storage of its own: a file in an archive.

use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use super::joined::read_only;
use super::{Storage, StorageId};

/// Some bytes of a storage, only to be read. It has no descriptor, since offsets are others there, and no identity: the
/// whole may hold several disks.
#[derive(Debug)]
pub(crate) struct WindowStorage {
    whole: Arc<dyn Storage>,
    start: u64,
    len: u64,
}

impl WindowStorage {
    /// The `len` bytes from `start` on, which the caller knows to be there.
    pub(crate) fn new(whole: Arc<dyn Storage>, start: u64, len: u64) -> Self {
        Self { whole, start, len }
    }

    /// Where in the whole a range is.
    fn place(&self, len: usize, offset: u64) -> io::Result<u64> {
        let end = offset.checked_add(len as u64).filter(|&end| end <= self.len);
        let start = end.and_then(|_| self.start.checked_add(offset));
        start.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Storage for WindowStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.whole.read_exact_at(buf, self.place(buf.len(), offset)?)
    }

    fn read_exact_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        let len = bufs.iter().fold(0_usize, |sum, buf| sum.saturating_add(buf.len()));
        self.whole.read_exact_vectored_at(bufs, self.place(len, offset)?)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch_hole(&self, _: Range<u64>) -> io::Result<()> {
        Err(read_only())
    }

    fn host_ids(&self) -> Vec<StorageId> {
        self.whole.host_ids()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        if offset >= self.len {
            return Ok(None);
        }
        let data = self.whole.next_data(self.start + offset)?;
        let data = data.map(|data| data.start.saturating_sub(self.start)..(data.end - self.start).min(self.len));
        Ok(data.filter(|data| data.start < self.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    #[test]
    fn nothing_outside_of_the_window_is_read_and_nothing_is_written() {
        let whole = Arc::new(MemoryStorage::new([1, 2, 3, 4, 5]));
        let window = WindowStorage::new(whole.clone(), 1, 3);
        let mut buf = [0; 3];
        window.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(buf, [2, 3, 4]);
        for (len, offset) in [(4, 0), (1, 3), (1, u64::MAX)] {
            let error = window.read_exact_at(&mut vec![0; len], offset).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        let mut halves = [IoSliceMut::new(&mut buf)];
        assert!(window.read_exact_vectored_at(&mut halves, 1).is_err());
        assert!(window.write_all_at(&[0], 0).is_err() && window.set_len(9).is_err());
        assert!(window.punch_hole(0..1).is_err());
        assert_eq!(whole.to_vec(), [1, 2, 3, 4, 5]);
        assert_eq!(window.next_data(1).unwrap(), Some(1..3));
        assert_eq!(window.next_data(3).unwrap(), None);
    }
}
