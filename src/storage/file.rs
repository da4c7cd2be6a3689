//! Host files, through positioned system calls.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::{Locking, Purpose, Storage, StorageId, lock};
use crate::error::{ErrorKind, Result};
use crate::sector::ZEROS;

/// A host file or block device as a [`Storage`].
///
/// # Platforms
///
/// On Unix a transfer is one `pread`, `preadv`, `pwrite` or `pwritev`; on Windows `seek_read` and `seek_write`. The
/// cursor of the handle moves, on Unix when holes or the length of a device are asked for: do not use it elsewhere.
///
/// # Locks
///
/// Neither [`open`](Self::open) nor [`new`](Self::new) locks the file; [`OpenOptions::open`](crate::OpenOptions::open)
/// locks those that it opens.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    id: Option<StorageId>,
    /// What the locks are for, if there are any.
    locked: Option<Purpose>,
}

impl FileStorage {
    /// Opens `path` for reading, following symbolic links. The caller vouches for the path.
    ///
    /// # Errors
    /// What the host reports.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    /// Takes over an opened file. What can be done with it depends on how it was opened.
    ///
    /// # Errors
    /// What the host reports when asked what the file is.
    pub fn new(file: File) -> io::Result<Self> {
        let id = sys::id(&file)?;
        Ok(Self { file, id, locked: None })
    }

    /// Takes the locks that `purpose` needs, if there are any on this file system. They end with this storage.
    pub(super) fn lock_where_possible(mut self, purpose: Purpose) -> Result<Self> {
        match lock::take(&self.file, purpose, Locking::On) {
            // Where there are no locks, nobody has one.
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            taken => {
                taken?;
                self.locked = Some(purpose);
            }
        }
        Ok(self)
    }

    /// Takes the locks that `purpose` needs. They end with this storage.
    pub(super) fn lock(mut self, purpose: Purpose, locking: Locking) -> Result<Self> {
        lock::take(&self.file, purpose, locking)?;
        self.locked = match locking {
            Locking::On => Some(purpose),
            Locking::ForceShare => Some(Purpose::Read),
            Locking::Off => None,
        };
        Ok(self)
    }
}

impl Storage for FileStorage {
    fn len(&self) -> io::Result<u64> {
        sys::len(&self.file)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        sys::read_exact_at(&self.file, buf, offset)
    }

    #[cfg(unix)]
    fn read_exact_vectored_at(&self, bufs: &mut [io::IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        sys::read_exact_vectored_at(&self.file, bufs, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        sys::write_all_at(&self.file, buf, offset)
    }

    #[cfg(unix)]
    fn write_all_vectored_at(&self, bufs: &mut [io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        sys::write_all_vectored_at(&self.file, bufs, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        if sys::punch_hole(&self.file, &range)? {
            return Ok(());
        }
        let end = range.end.min(self.len()?);
        write_zeros(self, range.start..end)
    }

    fn end_writing(&self) -> io::Result<()> {
        match self.locked {
            Some(Purpose::Write) => Ok(lock::share(&self.file)?),
            Some(Purpose::Read | Purpose::ReadBeside) | None => Ok(()),
        }
    }

    fn allocated_len(&self) -> io::Result<u64> {
        sys::allocated_len(&self.file)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        sys::next_data(&self.file, offset)
    }

    fn id(&self) -> Option<StorageId> {
        self.id
    }

    #[cfg(unix)]
    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        Some(std::os::fd::AsFd::as_fd(&self.file))
    }
}

impl Drop for FileStorage {
    fn drop(&mut self) {
        if self.locked.is_some() {
            lock::release(&self.file);
        }
    }
}

/// The way to zeros where the host has no holes.
fn write_zeros(storage: &FileStorage, range: Range<u64>) -> io::Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let len = (range.end - offset).min(ZEROS.len() as u64);
        storage.write_all_at(&ZEROS[..usize::try_from(len).unwrap_or(ZEROS.len())], offset)?;
        offset += len;
    }
    Ok(())
}

#[cfg(unix)]
mod sys {
    use std::fs::File;
    use std::io::{self, IoSlice, IoSliceMut};
    use std::ops::Range;
    use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};

    use rustix::fs::SeekFrom;

    use super::StorageId;

    /// The device number of all block devices, each by its own number; no file system has it.
    const BLOCK_DEVICES: u64 = u64::MAX - 1;

    /// The most slices `preadv` and `pwritev` take at once (`IOV_MAX` on Linux and the BSDs).
    const MAX_SLICES: usize = 1024;

    pub(super) fn id(file: &File) -> io::Result<Option<StorageId>> {
        let meta = file.metadata()?;
        if meta.file_type().is_block_device() {
            // Several nodes may lead to one device.
            return Ok(Some(StorageId { device: BLOCK_DEVICES, object: meta.rdev() }));
        }
        Ok(Some(StorageId { device: meta.dev(), object: meta.ino() }))
    }

    pub(super) fn len(file: &File) -> io::Result<u64> {
        let meta = file.metadata()?;
        if meta.file_type().is_block_device() {
            // A device has no length in its inode. Nothing else here uses the cursor.
            return Ok(rustix::fs::seek(file, SeekFrom::End(0))?);
        }
        Ok(meta.len())
    }

    pub(super) fn allocated_len(file: &File) -> io::Result<u64> {
        let meta = file.metadata()?;
        if meta.file_type().is_block_device() {
            return len(file);
        }
        // POSIX leaves the unit of st_blocks open; every system that has it uses 512 bytes.
        Ok(meta.blocks().saturating_mul(512))
    }

    pub(super) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
        file.read_exact_at(buf, offset)
    }

    pub(super) fn read_exact_vectored_at(
        file: &File,
        mut bufs: &mut [IoSliceMut<'_>],
        mut offset: u64,
    ) -> io::Result<()> {
        IoSliceMut::advance_slices(&mut bufs, 0);
        while !bufs.is_empty() {
            let slices = bufs.len().min(MAX_SLICES);
            match rustix::io::preadv(file, &mut bufs[..slices], offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    offset += read as u64;
                    IoSliceMut::advance_slices(&mut bufs, read);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn write_all_at(file: &File, buf: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(buf, offset)
    }

    pub(super) fn write_all_vectored_at(file: &File, mut bufs: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut bufs, 0);
        while !bufs.is_empty() {
            let slices = bufs.len().min(MAX_SLICES);
            match rustix::io::pwritev(file, &bufs[..slices], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut bufs, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Says whether the host could do it.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) fn punch_hole(file: &File, range: &Range<u64>) -> io::Result<bool> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        if range.is_empty() {
            return Ok(true);
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(file, flags, range.start, range.end - range.start) {
            Ok(()) => Ok(true),
            // A device takes whole blocks of its own only, and says INVAL to others.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(super) fn punch_hole(_: &File, _: &Range<u64>) -> io::Result<bool> {
        Ok(false)
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    pub(super) fn next_data(file: &File, offset: u64) -> io::Result<Option<Range<u64>>> {
        use rustix::io::Errno;
        let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Nothing but a hole up to the end, or at the end already.
            Err(Errno::NXIO) => return Ok(None),
            // A file system or device that cannot tell: all of it may be data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                let len = len(file)?;
                return Ok((offset < len).then_some(offset..len));
            }
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        Ok(Some(start..end))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    pub(super) fn next_data(file: &File, offset: u64) -> io::Result<Option<Range<u64>>> {
        let len = len(file)?;
        Ok((offset < len).then_some(offset..len))
    }
}

#[cfg(windows)]
mod sys {
    use std::fs::File;
    use std::io;
    use std::ops::Range;
    use std::os::windows::fs::FileExt;

    use super::StorageId;

    pub(super) fn id(_: &File) -> io::Result<Option<StorageId>> {
        // The volume serial number and file index are not in stable std.
        Ok(None)
    }

    pub(super) fn len(file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    pub(super) fn allocated_len(file: &File) -> io::Result<u64> {
        len(file)
    }

    pub(super) fn read_exact_at(file: &File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match file.seek_read(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buf = &mut buf[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn write_all_at(file: &File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match file.seek_write(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    buf = &buf[written..];
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn punch_hole(_: &File, _: &Range<u64>) -> io::Result<bool> {
        Ok(false)
    }

    pub(super) fn next_data(file: &File, offset: u64) -> io::Result<Option<Range<u64>>> {
        let len = len(file)?;
        Ok((offset < len).then_some(offset..len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSliceMut;

    fn file(content: &[u8]) -> FileStorage {
        let storage = FileStorage::new(tempfile::tempfile().unwrap()).unwrap();
        storage.write_all_at(content, 0).unwrap();
        storage
    }

    #[test]
    fn a_read_past_the_end_is_an_error_and_not_short() {
        let storage = file(b"abcdef");
        let error = storage.read_exact_at(&mut [0; 4], 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let (mut one, mut two) = ([0; 4], [0; 4]);
        let mut bufs = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        let error = storage.read_exact_vectored_at(&mut bufs, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_vectored_read_fills_slices_of_any_length_in_order() {
        let storage = file(b"abcdefgh");
        let (mut one, mut two, mut three) = ([0; 1], [0; 0], [0; 5]);
        let mut bufs = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two), IoSliceMut::new(&mut three)];
        storage.read_exact_vectored_at(&mut bufs, 2).unwrap();
        assert_eq!((&one, &three), (b"c", b"defgh"));
    }

    #[test]
    fn a_vectored_write_takes_slices_of_any_length_in_order() {
        let storage = file(b"........");
        let mut bufs = [b"a".as_slice(), b"", b"bcd"].map(io::IoSlice::new);
        storage.write_all_vectored_at(&mut bufs, 2).unwrap();
        let mut content = [0; 8];
        storage.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"..abcd..");
    }

    #[test]
    fn a_punched_range_reads_zero_and_the_length_stays() {
        let storage = file(&[7; 8192]);
        storage.punch_hole(100..9000).unwrap();
        let mut content = vec![1; 8192];
        storage.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(content[..100], [7; 100]);
        assert_eq!(content[100..], [0; 8092]);
        assert_eq!(storage.len().unwrap(), 8192);
    }

    #[test]
    fn next_data_covers_everything_that_is_not_zero() {
        let storage = file(&[]);
        storage.set_len(1 << 20).unwrap();
        storage.write_all_at(&[1; 4096], 512 << 10).unwrap();
        let data = storage.next_data(0).unwrap().unwrap();
        assert!(data.start <= 512 << 10 && data.end >= (512 << 10) + 4096);
        assert_eq!(storage.next_data(1 << 20).unwrap(), None);
    }

    #[test]
    fn two_handles_of_one_file_have_one_identity() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        let open = || FileStorage::open(&dir.path().join("a")).unwrap().id();
        assert_eq!(open(), open());
    }
}
