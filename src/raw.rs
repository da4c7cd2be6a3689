//! A raw disk image as a block device.

use std::io::IoSliceMut;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::block_device::{BlockDevice, BlockStatus, DeviceLimits, check_status, read_only, total_len};
use crate::descriptor::looks_like_descriptor;
use crate::error::Result;
use crate::extent::HostFile;
use crate::format::FileKind;
use crate::locate::Opened;
use crate::sector::{SECTOR_BYTES, check_buffer, to_usize};
use crate::storage::{FilePool, Locking, Purpose, Storage, StorageId};

/// The bytes from which [`RawImage::looks_like_vmdk`] judges. Every magic lies within the first eight; a descriptor
/// says what it is in one of its first lines.
const START: u64 = 4096;

/// A raw file or block device as a read-only [`BlockDevice`]: byte `n` of it is byte `n` of the disk.
///
/// The last sector of a file whose length is not a multiple of 512 is filled up with zeros. What the file gains or
/// loses while it is open is not part of the disk.
#[derive(Debug)]
pub struct RawImage {
    file: HostFile,
    capacity: u64,
    limits: DeviceLimits,
}

impl RawImage {
    /// Opens the file or block device at `path` for reading. What it holds is not looked at. It is not
    /// locked: others may write it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) and [`Io`](crate::ErrorKind::Io) from the host;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a directory, FIFO or the like.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), Locking::Off)
    }

    /// As [`open`](Self::open), with the lock of an image that is read: nobody who asks for locks writes it meanwhile.
    ///
    /// # Errors
    /// As for [`open`](Self::open), and [`Locked`](crate::ErrorKind::Locked) if another program has it open for
    /// writing.
    pub fn open_locked(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), Locking::On)
    }

    fn open_with(path: &Path, locking: Locking) -> Result<Self> {
        let opened = Opened::by_caller(path, Purpose::Read, &FilePool::new(1, locking))?;
        Self::new(opened.storage, opened.path)
    }

    /// The disk whose bytes `storage` holds. Errors call it `name`.
    ///
    /// # Errors
    /// What the storage reports when it is asked for its length.
    pub fn new(storage: Arc<dyn Storage>, name: impl Into<PathBuf>) -> Result<Self> {
        let file = HostFile::new(name.into(), storage)?;
        Ok(Self { capacity: file.len().div_ceil(SECTOR_BYTES), file, limits: DeviceLimits::new(true) })
    }

    /// The file, with its real path or the name that was given.
    pub fn file(&self) -> &HostFile {
        &self.file
    }

    /// Whether the first bytes are those of a VMDK, which [`VmdkImage`](crate::VmdkImage) would open or refuse with a
    /// reason.
    ///
    /// # Telling formats apart by content is dangerous
    ///
    /// Who writes to a raw disk, a guest, chooses its first bytes, and so what it looks like: a descriptor in there
    /// can name other files of the host. Where the format is known, say so instead of asking this.
    ///
    /// # Errors
    /// As for reading.
    pub fn looks_like_vmdk(&self) -> Result<bool> {
        let mut start = vec![0; to_usize(self.file.len().min(START))];
        self.file.read(&mut start, 0)?;
        Ok(FileKind::of(&start) != FileKind::Other || looks_like_descriptor(&start))
    }
}

impl BlockDevice for RawImage {
    fn capacity_sectors(&self) -> u64 {
        self.capacity
    }

    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        if check_buffer(start, buf.len(), self.capacity)? == 0 {
            return Ok(());
        }
        self.file.read(buf, start * SECTOR_BYTES)
    }

    fn write_sectors(&self, start: u64, buf: &[u8]) -> Result<()> {
        check_buffer(start, buf.len(), self.capacity)?;
        Err(read_only())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn read_sectors_vectored(&self, start: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<()> {
        let len = total_len(bufs.iter().map(|buf| buf.len()));
        if check_buffer(start, len, self.capacity)? == 0 {
            return Ok(());
        }
        self.file.read_vectored(bufs, len, start * SECTOR_BYTES)
    }

    fn storage_ids(&self) -> Vec<StorageId> {
        self.file.storage().host_ids()
    }

    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        let max = check_status(start, max, self.capacity)?;
        let (is_hole, count) = self.file.is_hole(start * SECTOR_BYTES, max)?;
        Ok((if is_hole { BlockStatus::Hole } else { BlockStatus::Data }, count))
    }
}
