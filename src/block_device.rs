//! The trait that emulators, VMMs and tools link against.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::sector::{SECTOR_SIZE, ZEROS, check_buffer, check_range};
use crate::storage::StorageId;

/// What a device is like. Constant for the life of a handle, but that it may become read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceLimits {
    /// Bytes in a sector of this trait: 512, always.
    pub sector_size: u32,
    /// Bytes that the medium below writes at once; a power of two, at least `sector_size`.
    pub physical_sector_size: u32,
    /// Sectors of the best transfer size: a grain, where there are grains.
    pub optimal_io_sectors: u64,
    /// Sectors that a discard must cover, aligned, to have an effect; 0 where it never has one.
    pub discard_granularity_sectors: u64,
    /// Whether every write is refused.
    pub read_only: bool,
}

impl DeviceLimits {
    /// Limits of a device with 512-byte physical sectors, no preferred transfer size and no use for a discard.
    pub fn new(read_only: bool) -> Self {
        Self {
            sector_size: 512,
            physical_sector_size: 512,
            optimal_io_sectors: 1,
            discard_granularity_sectors: 0,
            read_only,
        }
    }
}

/// What is known of some sectors without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockStatus {
    /// There may be anything.
    Data,
    /// They read as zeros, and something says so.
    Zero,
    /// They read as zeros, because nothing was ever written.
    Hole,
}

/// How a write is to be carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteFlags {
    /// Force unit access: the write is durable when the call returns.
    pub fua: bool,
}

impl WriteFlags {
    /// No flag: the write is durable after the next [`flush`](BlockDevice::flush).
    pub const NONE: Self = Self { fua: false };
    /// Force unit access.
    pub const FUA: Self = Self { fua: true };
}

/// A disk: 512-byte sectors, read and written by number.
///
/// The trait is synchronous and object-safe, and every method takes `&self`: share a device by `Arc` and call it
/// from as many threads as you like.
///
/// # Contract
///
/// * **Exact or error.** A transfer is never short.
/// * **Any number may arrive.** A guest can ask for any `u64`. A range that is not wholly on the device is
///   [`OutOfRange`](crate::ErrorKind::OutOfRange), never a panic and never a wrap. The range is checked before
///   anything else, also for zero lengths and for calls that would do nothing. Nothing at the very end is in range.
/// * **Whole sectors.** A buffer that is not a multiple of 512 bytes is [`Misaligned`](crate::ErrorKind::Misaligned).
/// * **Read-only first.** A refused write has not touched the host.
/// * **Failed writes** leave each sector of the request old or new and no other sector changed.
/// * **Overlapping concurrent transfers**: each sector is of one of the writes or old.
/// * **Durability.** [`flush`](Self::flush) returning `Ok` means that everything that completed before the call is
///   durable. There is no second step.
///
/// `tests/support/conformance.rs` holds these promises as a suite that runs on any implementation.
pub trait BlockDevice: Send + Sync {
    /// The size of the device in sectors.
    fn capacity_sectors(&self) -> u64;

    /// What the device is like.
    fn limits(&self) -> &DeviceLimits;

    /// Fills `buf` from sector `start` on.
    ///
    /// # Errors
    /// `OutOfRange`, `Misaligned`, and what the implementation meets on the way. `buf` may hold anything then.
    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()>;

    /// Writes `buf` from sector `start` on.
    ///
    /// # Errors
    /// `OutOfRange`, `Misaligned`, `ReadOnly`, and what the implementation meets on the way.
    fn write_sectors(&self, start: u64, buf: &[u8]) -> Result<()>;

    /// Makes every completed write durable.
    ///
    /// # Errors
    /// What the implementation meets; what was written since the last good flush may be lost then.
    fn flush(&self) -> Result<()>;

    /// Fills `bufs`, one after the other, from sector `start` on. Only the sum of their lengths has to be a whole
    /// number of sectors. The default reads slice by slice, or, where sectors cross slices, all of it through one
    /// buffer.
    ///
    /// # Errors
    /// As for [`read_sectors`](Self::read_sectors).
    fn read_sectors_vectored(&self, start: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<()> {
        let len = total_len(bufs.iter().map(|buf| buf.len()));
        check_buffer(start, len, self.capacity_sectors())?;
        if bufs.iter().all(|buf| buf.len().is_multiple_of(SECTOR_SIZE)) {
            let mut sector = start;
            for buf in bufs {
                self.read_sectors(sector, buf)?;
                sector += (buf.len() / SECTOR_SIZE) as u64;
            }
            return Ok(());
        }
        let mut whole = vec![0; len];
        self.read_sectors(start, &mut whole)?;
        let mut rest = whole.as_slice();
        for buf in bufs {
            let (head, tail) = rest.split_at(buf.len());
            buf.copy_from_slice(head);
            rest = tail;
        }
        Ok(())
    }

    /// Writes `bufs`, one after the other, from sector `start` on. Only the sum of their lengths has to be a whole
    /// number of sectors.
    ///
    /// # Errors
    /// As for [`write_sectors`](Self::write_sectors).
    fn write_sectors_vectored(&self, start: u64, bufs: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        let len = total_len(bufs.iter().map(|buf| buf.len()));
        check_write(self, start, len)?;
        if bufs.iter().all(|buf| buf.len().is_multiple_of(SECTOR_SIZE)) {
            let mut sector = start;
            for buf in bufs {
                self.write_sectors(sector, buf)?;
                sector += (buf.len() / SECTOR_SIZE) as u64;
            }
        } else {
            let mut whole = Vec::with_capacity(len);
            for buf in bufs {
                whole.extend_from_slice(buf);
            }
            self.write_sectors(start, &whole)?;
        }
        if flags.fua { self.flush() } else { Ok(()) }
    }

    /// Makes `count` sectors from `start` read as zeros. With `may_unmap` their space may be given back; without, it
    /// stays reserved where the device can do that.
    ///
    /// # Errors
    /// `OutOfRange`, `ReadOnly`, and what the implementation meets on the way.
    fn write_zeroes(&self, start: u64, count: u64, may_unmap: bool) -> Result<()> {
        let _ = may_unmap;
        check_range(start, count, self.capacity_sectors())?;
        check_writable(self)?;
        let (mut sector, end) = (start, start + count);
        while sector < end {
            let now = (end - sector).min((ZEROS.len() / SECTOR_SIZE) as u64);
            let len = usize::try_from(now).map_or(ZEROS.len(), |now| now * SECTOR_SIZE);
            self.write_sectors(sector, &ZEROS[..len])?;
            sector += now;
        }
        Ok(())
    }

    /// Says that the content of `count` sectors from `start` is no longer needed. They may read as zeros or as before
    /// afterwards, never as anything else; the default does nothing.
    ///
    /// # Errors
    /// `OutOfRange`, `ReadOnly`, and what the implementation meets on the way.
    fn discard(&self, start: u64, count: u64) -> Result<()> {
        check_range(start, count, self.capacity_sectors())?;
        check_writable(self)
    }

    /// What the content lies in, as far as the device knows: so that nothing replaces a disk by its own copy.
    fn storage_ids(&self) -> Vec<StorageId> {
        Vec::new()
    }

    /// What is known of the sectors from `start` on, and for how many of the next `max` that is so. The count is at
    /// least 1 and may be less than what would be true.
    ///
    /// # Errors
    /// `OutOfRange` at the end of the device and with `max == 0`; what the implementation meets on the way.
    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        let count = check_status(start, max, self.capacity_sectors())?;
        Ok((BlockStatus::Data, count))
    }
}

/// The sum of the lengths of slices; slices that exist at once cannot overflow it in practice, and if they claim to,
/// the range check refuses the result.
pub(crate) fn total_len(lens: impl Iterator<Item = usize>) -> usize {
    lens.fold(0, usize::saturating_add)
}

/// The range of a `block_status` or `map` call: how many of `max` sectors from `start` exist, at least one.
pub(crate) fn check_status(start: u64, max: u64, capacity: u64) -> Result<u64> {
    if max == 0 || start >= capacity {
        return Err(Error::out_of_range(start, max, capacity));
    }
    Ok(max.min(capacity - start))
}

pub(crate) fn check_writable<D: BlockDevice + ?Sized>(device: &D) -> Result<()> {
    if device.limits().read_only {
        return Err(read_only());
    }
    Ok(())
}

pub(crate) fn read_only() -> Error {
    Error::text(crate::ErrorKind::ReadOnly, "the device is read-only")
}

/// All that is checked before a write touches anything, in the order the contract gives.
fn check_write<D: BlockDevice + ?Sized>(device: &D, start: u64, len: usize) -> Result<()> {
    check_buffer(start, len, device.capacity_sectors())?;
    check_writable(device)
}

/// The trait for something that points to a device.
macro_rules! forward {
    ($pointer:ty) => {
        impl<T: BlockDevice + ?Sized> BlockDevice for $pointer {
            fn capacity_sectors(&self) -> u64 {
                (**self).capacity_sectors()
            }
            fn limits(&self) -> &DeviceLimits {
                (**self).limits()
            }
            fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
                (**self).read_sectors(start, buf)
            }
            fn write_sectors(&self, start: u64, buf: &[u8]) -> Result<()> {
                (**self).write_sectors(start, buf)
            }
            fn flush(&self) -> Result<()> {
                (**self).flush()
            }
            fn read_sectors_vectored(&self, start: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<()> {
                (**self).read_sectors_vectored(start, bufs)
            }
            fn write_sectors_vectored(&self, start: u64, bufs: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
                (**self).write_sectors_vectored(start, bufs, flags)
            }
            fn write_zeroes(&self, start: u64, count: u64, may_unmap: bool) -> Result<()> {
                (**self).write_zeroes(start, count, may_unmap)
            }
            fn discard(&self, start: u64, count: u64) -> Result<()> {
                (**self).discard(start, count)
            }
            fn storage_ids(&self) -> Vec<StorageId> {
                (**self).storage_ids()
            }
            fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
                (**self).block_status(start, max)
            }
        }
    };
}

forward!(&T);
forward!(Box<T>);
forward!(Arc<T>);
