//! The host side: where the bytes of an extent or descriptor live.
//!
//! [`Storage`] is all that the rest of the crate knows of the host. Two implementations come with the crate,
//! [`FileStorage`] and [`MemoryStorage`]; tests plug in counting and failing ones, jailed programs their own.

mod beside;
mod directory;
mod file;
mod held;
mod joined;
mod kernel_copy;
mod lock;
mod memory;
mod pooled;
mod purpose;
mod reader;
mod replace;
mod reserve;
mod unsynced;
#[cfg(feature = "ova")]
mod window;

use std::fmt::Debug;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;

pub(crate) use beside::own_name;
pub use directory::Directory;
pub(crate) use directory::{HostDirectory, already_exists};
pub use file::FileStorage;
pub(crate) use held::HeldFiles;
pub use joined::JoinedStorage;
#[cfg(feature = "ova")]
pub(crate) use joined::chunk_name;
pub(crate) use kernel_copy::kernel_copy;
pub(crate) use lock::Locking;
pub use memory::MemoryStorage;
pub(crate) use pooled::{DEFAULT_MAX_OPEN, FilePool};
pub(crate) use purpose::Purpose;
pub use reader::StorageReader;
pub(crate) use replace::Replacement;
pub(crate) use reserve::reserve;
pub(crate) use unsynced::Unsynced;
#[cfg(feature = "ova")]
pub(crate) use window::WindowStorage;

use crate::sector::SECTOR_BYTES;

/// What tells one host object from another, whatever its name: device and inode, or a number of its own kind.
///
/// Two storages with the same identity are the same bytes. The crate uses it to find loops in a
/// chain, and files that one link writes and another reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StorageId {
    /// The device of a file, or a constant for all storages of another sort.
    pub device: u64,
    /// The inode of a file, or a number unique within `device`.
    pub object: u64,
}

/// A host object of bytes: positioned, exact, shared by any number of threads.
///
/// Every method takes `&self`; there is no cursor. A transfer is whole or an error, never short. Offsets and
/// lengths are in bytes. Reading at or past the end is [`io::ErrorKind::UnexpectedEof`].
///
/// # Durability
///
/// What `write_all_at`, `set_len` and `punch_hole` did may be lost, in any subset and order, until a
/// [`sync`](Self::sync) that began after they returned has returned `Ok`.
pub trait Storage: Debug + Send + Sync {
    /// The length in bytes.
    ///
    /// # Errors
    /// What the host reports.
    fn len(&self) -> io::Result<u64>;

    /// Whether the length is zero.
    ///
    /// # Errors
    /// What the host reports.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the object ends before `buf` is full; else what the host reports.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Fills `bufs`, one after the other, from `offset` on. The slices may be changed by the call.
    ///
    /// # Errors
    /// As for [`read_exact_at`](Self::read_exact_at).
    fn read_exact_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], mut offset: u64) -> io::Result<()> {
        for buf in bufs {
            self.read_exact_at(buf, offset)?;
            offset += buf.len() as u64;
        }
        Ok(())
    }

    /// Writes all of `buf` at `offset`, growing the object if need be.
    ///
    /// # Errors
    /// What the host reports; part of `buf` may have been written then.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Writes `bufs`, one after the other, from `offset` on. The slices may be changed by the call. A sector that lies
    /// in several of them has to be written at once, or a crash could leave a part of it.
    ///
    /// # Errors
    /// As for [`write_all_at`](Self::write_all_at).
    fn write_all_vectored_at(&self, bufs: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let mut end = offset;
        let shares_sectors = bufs.iter().any(|buf| {
            let starts_within = end != offset && !end.is_multiple_of(SECTOR_BYTES);
            end += buf.len() as u64;
            starts_within
        });
        if shares_sectors {
            return self.write_all_at(&bufs.iter().map(|buf| &**buf).collect::<Vec<_>>().concat(), offset);
        }
        for buf in bufs {
            self.write_all_at(buf, offset)?;
            offset += buf.len() as u64;
        }
        Ok(())
    }

    /// Cuts the object, or grows it with zeros, to `len` bytes.
    ///
    /// # Errors
    /// What the host reports.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes all earlier changes durable.
    ///
    /// # Errors
    /// What the host reports. The changes must then be taken for lost: a later `sync` may succeed without them.
    fn sync(&self) -> io::Result<()>;

    /// Makes `range` read as zeros, giving its space back to the host where the host can. The length stays.
    ///
    /// # Errors
    /// What the host reports.
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()>;

    /// Nothing is written through this any more: whoever locks what is written may let others read it from now on, but
    /// not write it. Reads go on. Called at most a few times, when an image that was open for writing becomes
    /// read-only; the default does nothing. A storage that wraps another has to pass it on.
    ///
    /// # Errors
    /// What the host reports. The object is then not written either.
    fn end_writing(&self) -> io::Result<()> {
        Ok(())
    }

    /// Bytes that the object takes up on the host; less than the length where there are holes.
    ///
    /// # Errors
    /// What the host reports.
    fn allocated_len(&self) -> io::Result<u64> {
        self.len()
    }

    /// The first range that may hold something other than zeros and ends after `offset`; `None` if there is none. What
    /// lies between `offset` and the range reads as zeros. The default knows of no holes.
    ///
    /// # Errors
    /// What the host reports.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len()?;
        Ok((offset < len).then_some(offset..len))
    }

    /// What identifies the object, if that is known.
    fn id(&self) -> Option<StorageId> {
        None
    }

    /// What identifies the objects that its bytes lie in, as far as that is known: so that nothing replaces them by
    /// their own copy. It is its own identity unless it is a part of something else, or has parts.
    fn host_ids(&self) -> Vec<StorageId> {
        self.id().into_iter().collect()
    }

    /// The descriptor behind the object, for programs that do the payload transfers themselves, and for copies within
    /// the kernel. Offsets in the file are the offsets here, and its bytes are the bytes here: a storage that maps,
    /// watches or changes what passes through it has none.
    #[cfg(unix)]
    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}
