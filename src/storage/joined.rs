//! Several storages, one behind the other: a disk that was cut into chunks to be sent.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DEFAULT_MAX_OPEN, FilePool, Locking, Purpose, Storage, StorageId};
use crate::error::{Error, ErrorKind, Result};
use crate::locate::open_by_caller;
use crate::sector::to_usize;

/// The most chunks: at 1 MiB each, which nobody uses, 64 GiB.
const MAX_CHUNKS: usize = 1 << 16;

/// Digits at the end of the name of a chunk, behind a dot.
const DIGITS: usize = 9;

/// Several storages as one, only to be read: the first byte of each follows the last one of the one before.
///
/// OVF cuts disks into chunks, `disk.vmdk.000000000`, `disk.vmdk.000000001` and so on, which
/// [`open_chunks`](Self::open_chunks) joins.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use vmdk::{JoinedStorage, OpenOptions, Storage};
/// # fn main() -> vmdk::Result<()> {
/// let chunks: Arc<dyn Storage> = Arc::new(JoinedStorage::open_chunks("disk.vmdk.000000000")?);
/// let image = OpenOptions::new().open_with("disk.vmdk", &|_: &str| Some(Arc::clone(&chunks)))?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct JoinedStorage {
    /// The parts that have bytes, each with the offset at which it ends.
    parts: Vec<(Arc<dyn Storage>, u64)>,
}

impl JoinedStorage {
    /// Joins `parts`, with the lengths that they have now.
    ///
    /// # Errors
    /// What a part reports when it is asked for its length; [`InvalidInput`](ErrorKind::InvalidInput) if they are too
    /// long together.
    pub fn new(parts: impl IntoIterator<Item = Arc<dyn Storage>>) -> Result<Self> {
        let mut joined = Vec::new();
        let mut end = 0_u64;
        for part in parts {
            let len = part.len().map_err(|cause| Error::host("cannot find out the length", cause))?;
            let next = end.checked_add(len).filter(|&next| i64::try_from(next).is_ok());
            end = next.ok_or_else(|| {
                Error::text(ErrorKind::InvalidInput, "the parts are together longer than any file can be")
            })?;
            if len > 0 {
                joined.push((part, end));
            }
        }
        Ok(Self { parts: joined })
    }

    /// Opens the chunks of a disk, of which `first` is the one whose name ends in `.000000000`; the others are counted
    /// up until one is missing. Each is locked as an image that is read. Many of them share a few file handles.
    ///
    /// # Errors
    /// What the host reports; [`Locked`](ErrorKind::Locked); [`InvalidInput`](ErrorKind::InvalidInput) for another
    /// name; [`Corrupt`](ErrorKind::Corrupt) if a chunk that is not the last is shorter or longer than the first, and
    /// for more than 65,536 chunks.
    pub fn open_chunks(first: impl AsRef<Path>) -> Result<Self> {
        let first = first.as_ref();
        let name = first.to_str().and_then(chunked_name).ok_or_else(|| {
            let text = "not the name of a first chunk, which ends in .000000000";
            Error::text(ErrorKind::InvalidInput, text).in_file(first)
        })?;
        let pool = FilePool::new(DEFAULT_MAX_OPEN, Locking::On);
        let open = |number: usize| -> Result<Option<Arc<dyn Storage>>> {
            let path = PathBuf::from(chunk_name(name, number));
            let found = match open_by_caller(&path, Purpose::Read) {
                Err(error) if error.kind() == ErrorKind::NotFound && number > 0 => return Ok(None),
                found => found?,
            };
            let again = path.clone();
            let reopen = move || Ok(open_by_caller(&again, Purpose::Read)?.file);
            pool.add(found.file, Purpose::Read, reopen).map(Some).map_err(|error| error.in_file(&path))
        };
        Self::of_chunks(open).map_err(|error| error.in_file(first))
    }

    /// Joins the chunks that `open` gives, until it has none.
    pub(crate) fn of_chunks(mut open: impl FnMut(usize) -> Result<Option<Arc<dyn Storage>>>) -> Result<Self> {
        let mut parts = Vec::new();
        while let Some(part) = open(parts.len())? {
            if parts.len() == MAX_CHUNKS {
                let text = format!("the disk has more than {MAX_CHUNKS} chunks");
                return Err(Error::text(ErrorKind::Corrupt, text));
            }
            parts.push(part);
        }
        let mut lens = Vec::new();
        for part in &parts {
            lens.push(part.len().map_err(|cause| Error::host("cannot find out the length", cause))?);
        }
        let [first, middle @ .., last] = &lens[..] else { return Self::new(parts) };
        if let Some(at) = middle.iter().position(|len| len != first) {
            let text = format!("chunk {} has {} bytes, the first one {first}", at + 1, middle[at]);
            return Err(Error::text(ErrorKind::Corrupt, text));
        }
        if last > first {
            let text = format!("the last chunk has {last} bytes, more than the first one with {first}");
            return Err(Error::text(ErrorKind::Corrupt, text));
        }
        Self::new(parts)
    }

    fn end(&self) -> u64 {
        self.parts.last().map_or(0, |&(_, end)| end)
    }

    /// Where the part with this number begins.
    fn start_of(&self, number: usize) -> u64 {
        number.checked_sub(1).and_then(|before| self.parts.get(before)).map_or(0, |&(_, end)| end)
    }

    /// The number of the part that has the byte at `offset`.
    fn part_at(&self, offset: u64) -> usize {
        self.parts.partition_point(|&(_, end)| end <= offset)
    }
}

/// What is read through something takes no writes.
pub(super) fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "a part of something larger is only read")
}

/// The name of a disk whose first chunk has this name.
fn chunked_name(first: &str) -> Option<&str> {
    first.strip_suffix(".000000000").filter(|name| !name.is_empty())
}

/// The name of a chunk of a disk.
pub(crate) fn chunk_name(disk: &str, number: usize) -> String {
    format!("{disk}.{number:0DIGITS$}")
}

impl Storage for JoinedStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.end())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|&end| end <= self.end());
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (mut at, mut rest) = (offset, buf);
        let mut number = self.part_at(offset);
        while let (false, Some((part, end))) = (rest.is_empty(), self.parts.get(number)) {
            let (now, later) = rest.split_at_mut(rest.len().min(to_usize(end - at)));
            part.read_exact_at(now, at - self.start_of(number))?;
            at += now.len() as u64;
            rest = later;
            number += 1;
        }
        Ok(())
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

    fn allocated_len(&self) -> io::Result<u64> {
        self.parts.iter().try_fold(0_u64, |sum, (part, _)| Ok(sum.saturating_add(part.allocated_len()?)))
    }

    fn host_ids(&self) -> Vec<StorageId> {
        self.parts.iter().flat_map(|(part, _)| part.host_ids()).collect()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        for number in self.part_at(offset)..self.parts.len() {
            let (start, (part, end)) = (self.start_of(number), &self.parts[number]);
            if let Some(data) = part.next_data(offset.max(start) - start)? {
                return Ok(Some(start + data.start..(start + data.end).min(*end)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    fn memory(bytes: &[u8]) -> Arc<dyn Storage> {
        Arc::new(MemoryStorage::new(bytes))
    }

    #[test]
    fn reads_go_over_the_seams_and_not_past_the_end() {
        let joined = JoinedStorage::new([memory(b"abc"), memory(b""), memory(b"d"), memory(b"efg")]).unwrap();
        assert_eq!(joined.len().unwrap(), 7);
        for start in 0..=7 {
            for end in start..=7 {
                let mut buf = vec![0; end - start];
                joined.read_exact_at(&mut buf, start as u64).unwrap();
                assert_eq!(buf, b"abcdefg"[start..end]);
            }
        }
        for (len, offset) in [(8, 0), (1, 7), (1, u64::MAX)] {
            assert!(joined.read_exact_at(&mut vec![0; len], offset).is_err());
        }
        assert_eq!(joined.next_data(3).unwrap(), Some(3..4));
        assert_eq!(joined.next_data(7).unwrap(), None);
        assert!(joined.write_all_at(b"x", 0).is_err());
    }

    #[test]
    fn chunks_are_counted_up_and_only_the_last_may_be_shorter() {
        let dir = tempfile::tempdir().unwrap();
        let path = |number| dir.path().join(chunk_name("d.vmdk", number));
        for (number, content) in ["abcd", "efgh", "ij"].into_iter().enumerate() {
            std::fs::write(path(number), content).unwrap();
        }
        std::fs::write(path(4), "not reached").unwrap();
        let joined = JoinedStorage::open_chunks(path(0)).unwrap();
        let mut all = [0; 10];
        joined.read_exact_at(&mut all, 0).unwrap();
        assert_eq!((&all, joined.len().unwrap()), (b"abcdefghij", 10));
        for (number, content) in [(1, "e"), (1, "efghi"), (2, "ijklm")] {
            std::fs::write(path(number), content).unwrap();
            let error = JoinedStorage::open_chunks(path(0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            std::fs::write(path(number), if number == 1 { "efgh" } else { "ij" }).unwrap();
        }
        assert_eq!(JoinedStorage::open_chunks(path(1)).unwrap_err().kind(), ErrorKind::InvalidInput);
        std::fs::remove_file(path(0)).unwrap();
        assert_eq!(JoinedStorage::open_chunks(path(0)).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
