//! A file that an image is made of: its name, its storage, and the length that is part of the image.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::sector::{SECTOR_BYTES, is_zero, to_usize};
use crate::storage::{Storage, StorageId};

/// Bytes that are looked at together for whether they are zero.
const BUFFER: usize = 1 << 20;

/// What tells one file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileIdentity {
    /// What its storage says of itself.
    Known(StorageId),
    /// The storage, where that does not know.
    Storage(*const ()),
}

/// A host file that an image is made of.
#[derive(Debug)]
pub struct HostFile {
    path: PathBuf,
    storage: Arc<dyn Storage>,
    len: AtomicU64,
    /// Whether something was written since the last sync began. So it is at first: a process that was killed may have
    /// left what is read here, but is not durable.
    dirty: AtomicBool,
    /// Held during a sync, so that whoever needs what it makes durable waits for it; and whether one has failed.
    sync_failed: Mutex<bool>,
    /// The stretch of data that `is_hole` has met last.
    known_data: Mutex<Range<u64>>,
}

impl HostFile {
    pub(crate) fn new(path: PathBuf, storage: Arc<dyn Storage>) -> Result<Self> {
        let len = storage.len().map_err(|cause| Error::host("cannot find out the length", cause).in_file(&path))?;
        let (len, dirty) = (AtomicU64::new(len), AtomicBool::new(true));
        Ok(Self { path, storage, len, dirty, sync_failed: Mutex::new(false), known_data: Mutex::new(0..0) })
    }

    /// The real path of the file, or the name that a resolver was asked for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the file.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The length in bytes when the file was opened, and what the image has added since. What a file gains or loses
    /// otherwise is not part of the image.
    #[inline]
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Whether that length is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What tells this file from others.
    pub(crate) fn identity(&self) -> FileIdentity {
        let address = Arc::as_ptr(&self.storage).cast::<()>();
        self.storage.id().map_or(FileIdentity::Storage(address), FileIdentity::Known)
    }

    /// Fills `buf` from `offset` on; what lies past the end of the file is zero.
    #[inline]
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if !self.holds(buf.len(), offset) {
            return self.read_past_end(buf, offset);
        }
        match self.storage.read_exact_at(buf, offset) {
            Ok(()) => Ok(()),
            Err(cause) => Err(self.read_failed(buf.len(), offset, cause)),
        }
    }

    /// Fills `bufs`, `len` bytes in all, from `offset` on with one host read where the file holds all of it.
    pub(crate) fn read_vectored(&self, bufs: &mut [IoSliceMut<'_>], len: usize, offset: u64) -> Result<()> {
        if self.holds(len, offset) {
            let done = self.storage.read_exact_vectored_at(bufs, offset);
            return done.map_err(|cause| self.read_failed(len, offset, cause));
        }
        let mut at = offset;
        for buf in bufs {
            self.read(buf, at)?;
            at = at.saturating_add(buf.len() as u64);
        }
        Ok(())
    }

    /// Writes `buf` at `offset`, growing the file if need be.
    #[inline]
    pub(crate) fn write(&self, buf: &[u8], offset: u64) -> Result<()> {
        let done = self.storage.write_all_at(buf, offset);
        self.wrote(done, buf.len(), offset)
    }

    /// Writes `bufs`, `len` bytes in all, at `offset`, growing the file if need be.
    pub(crate) fn write_vectored(&self, bufs: &mut [IoSlice<'_>], len: usize, offset: u64) -> Result<()> {
        let done = self.storage.write_all_vectored_at(bufs, offset);
        self.wrote(done, len, offset)
    }

    #[inline]
    fn wrote(&self, done: std::io::Result<()>, len: usize, offset: u64) -> Result<()> {
        // After a write, not before: a sync that begins in between would not have to wait for it.
        self.mark_dirty();
        match done {
            Ok(()) => {
                let end = offset + len as u64;
                if end > self.len() {
                    self.len.fetch_max(end, Ordering::Release);
                }
                Ok(())
            }
            Err(cause) => Err(Error::transfer("write", len, offset, cause).in_file(&self.path)),
        }
    }

    /// Something was written to the storage that has to be synced.
    #[inline]
    pub(crate) fn mark_dirty(&self) {
        if !self.dirty.load(Ordering::Relaxed) {
            self.dirty.store(true, Ordering::Release);
        }
    }

    /// Somebody else has written to the storage, up to the byte `end`.
    pub(crate) fn was_written_up_to(&self, end: u64) {
        self.mark_dirty();
        self.len.fetch_max(end, Ordering::Release);
    }

    /// Cuts the file, or grows it with zeros.
    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        let set = self.storage.set_len(len);
        set.map_err(|cause| Error::host(format!("cannot set the length to {len:#x}"), cause).in_file(&self.path))?;
        self.mark_dirty();
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    /// Makes a stretch of the file read as zeros, and gives its space back where the host can.
    pub(crate) fn punch(&self, range: Range<u64>) -> Result<()> {
        let Range { start, end } = range.start..range.end.min(self.len());
        if start >= end {
            return Ok(());
        }
        let punched = self.storage.punch_hole(start..end);
        self.mark_dirty();
        punched.map_err(|cause| {
            Error::host(format!("cannot write zeros from offset {start:#x} to {end:#x}"), cause).in_file(&self.path)
        })
    }

    /// Makes everything durable that was written before. After one failure all syncs fail: the kernel may have dropped
    /// what it could not write, and the next one would lie.
    pub(crate) fn sync(&self) -> Result<()> {
        self.sync_unless(|| false)
    }

    /// As `sync`, unless nothing was written since the last one. One that is under way is waited for.
    pub(crate) fn sync_if_dirty(&self) -> Result<()> {
        self.sync_unless(|| !self.dirty.load(Ordering::SeqCst))
    }

    fn sync_unless(&self, is_needless: impl FnOnce() -> bool) -> Result<()> {
        let mut failed = self.sync_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(Error::text(ErrorKind::Poisoned, "an earlier sync of the file failed").in_file(&self.path));
        }
        if is_needless() {
            return Ok(());
        }
        self.dirty.store(false, Ordering::SeqCst);
        let synced = self.storage.sync();
        *failed = synced.is_err();
        synced.map_err(|cause| Error::host("cannot make the data durable", cause).in_file(&self.path))
    }

    /// The first stretch at or after `offset` that may hold something other than zeros, within the length that the file
    /// had; `None` if there is none. A file that has shrunk since is an error: what is gone is not a hole.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) for what the host reports, and for a file that has shrunk.
    pub fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let failed = |cause| Error::host(format!("cannot find the data from offset {offset:#x} on"), cause);
        let data = self.storage.next_data(offset).map_err(|cause| failed(cause).in_file(&self.path))?;
        match data {
            Some(data) if data.start < data.end && offset < data.end => {
                let data = data.start.max(offset)..data.end.min(self.len());
                Ok(Some(data).filter(|data| !data.is_empty()))
            }
            Some(data) => {
                let cause =
                    std::io::Error::other(format!("the storage names the bytes {:#x}..{:#x}", data.start, data.end));
                Err(failed(cause).in_file(&self.path))
            }
            None if offset < self.len()
                && self.storage.len().map_err(|cause| failed(cause).in_file(&self.path))? < self.len() =>
            {
                let cause = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                Err(failed(cause).in_file(&self.path))
            }
            None => Ok(None),
        }
    }

    /// Whether the sector at the byte `offset` lies in a hole of the host's file, and for how many of `sectors` sectors
    /// the same holds. A sector that has any data is data.
    ///
    /// The last stretch of data is remembered: its end may be far away, and looking for it takes the host the longer.
    /// That a hole was made in it since then is not noticed, which is no harm: holes can be read, too.
    pub(crate) fn is_hole(&self, offset: u64, sectors: u64) -> Result<(bool, u64)> {
        let lock = || self.known_data.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().clone();
        let data = if known.contains(&offset) { known } else { self.next_data(offset)?.unwrap_or(u64::MAX..u64::MAX) };
        let (whole, end) = (data.start.saturating_sub(offset) / SECTOR_BYTES, data.end);
        *lock() = data;
        match whole {
            0 => Ok((false, end.saturating_sub(offset).div_ceil(SECTOR_BYTES).clamp(1, sectors))),
            hole => Ok((true, hole.min(sectors))),
        }
    }

    /// Whether bytes of the file are all zero; what lies past its end is. Holes are not read.
    pub(crate) fn is_zero(&self, bytes: Range<u64>) -> Result<bool> {
        let mut buffer = Vec::new();
        let mut at = bytes.start;
        while let Some(data) = self.next_data(at)?.filter(|data| data.start < bytes.end) {
            at = data.start.max(at);
            let len = to_usize(data.end.min(bytes.end) - at).min(BUFFER);
            buffer.resize(len, 0);
            self.read(&mut buffer, at)?;
            if !is_zero(&buffer) {
                return Ok(false);
            }
            at += len as u64;
        }
        Ok(true)
    }

    #[inline]
    fn holds(&self, len: usize, offset: u64) -> bool {
        offset.checked_add(len as u64).is_some_and(|end| end <= self.len())
    }

    #[cold]
    fn read_past_end(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let present = to_usize(self.len().saturating_sub(offset));
        let (head, tail) = buf.split_at_mut(present.min(buf.len()));
        tail.fill(0);
        if head.is_empty() { Ok(()) } else { self.read(head, offset) }
    }

    #[cold]
    fn read_failed(&self, len: usize, offset: u64, cause: std::io::Error) -> Error {
        Error::transfer("read", len, offset, cause).in_file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use super::*;
    use crate::MemoryStorage;

    fn file(content: &[u8]) -> HostFile {
        HostFile::new(PathBuf::from("a"), Arc::new(MemoryStorage::new(content))).unwrap()
    }

    /// A storage whose syncs, one after the other, wait until they are told how to end.
    #[derive(Debug)]
    struct Told(Mutex<mpsc::Receiver<bool>>);

    impl Storage for Told {
        fn len(&self) -> io::Result<u64> {
            Ok(512)
        }
        fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            let succeeds = self.0.lock().unwrap().recv().unwrap();
            if succeeds { Ok(()) } else { Err(io::Error::other("bad disk")) }
        }
        fn punch_hole(&self, _: Range<u64>) -> io::Result<()> {
            Ok(())
        }
    }

    /// A file whose sync is under way while another one is asked for, and how both end.
    fn two_syncs(first_succeeds: bool) -> [Result<()>; 2] {
        let (tell, told) = mpsc::channel();
        let file = HostFile::new(PathBuf::from("a"), Arc::new(Told(Mutex::new(told)))).unwrap();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| file.sync());
            while file.dirty.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let second = scope.spawn(|| file.sync_if_dirty());
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!second.is_finished(), "what it needs is not durable yet");
            tell.send(first_succeeds).unwrap();
            [first.join().unwrap(), second.join().unwrap()]
        })
    }

    #[test]
    fn a_sync_that_is_under_way_is_waited_for() {
        assert!(two_syncs(true).iter().all(Result::is_ok));
    }

    #[test]
    fn after_a_failed_sync_no_other_one_is_believed() {
        let kinds = two_syncs(false).map(|synced| synced.unwrap_err().kind());
        assert_eq!(kinds, [ErrorKind::Io, ErrorKind::Poisoned]);
    }

    #[test]
    fn what_lies_past_the_end_is_zero() {
        let file = file(b"abc");
        for (offset, expected) in [(0, *b"abc\0"), (2, *b"c\0\0\0"), (3, [0; 4]), (u64::MAX, [0; 4])] {
            let mut buf = [9; 4];
            file.read(&mut buf, offset).unwrap();
            assert_eq!(buf, expected, "{offset}");
            let mut halves = [[9; 2]; 2];
            let mut bufs = halves.each_mut().map(|half| IoSliceMut::new(half));
            file.read_vectored(&mut bufs, 4, offset).unwrap();
            assert_eq!(halves.concat(), expected, "{offset}");
        }
    }

    #[test]
    fn what_a_file_has_lost_is_not_a_hole() {
        let file = file(b"abcdef");
        assert_eq!(file.next_data(2).unwrap(), Some(2..6));
        assert_eq!(file.next_data(6).unwrap(), None);
        file.storage().set_len(3).unwrap();
        assert_eq!(file.next_data(4).unwrap_err().kind(), ErrorKind::Io);
    }

    #[test]
    fn a_file_that_shrank_is_an_error_and_not_zeros() {
        let file = file(b"abcdef");
        file.storage().set_len(3).unwrap();
        let error = file.read(&mut [0; 6], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.to_string(), "a: cannot read 6 bytes at offset 0x0");
    }
}
