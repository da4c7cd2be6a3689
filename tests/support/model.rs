//! Devices to compare with: a disk in memory, and the bytes of a storage as a disk.

use std::sync::{Arc, RwLock};

use vmdk::{BlockDevice, BlockStatus, DeviceLimits, Error, ErrorKind, Result, Storage};

use super::{SECTOR, byte_range, index};

/// A plain disk in memory: the reference for the conformance suite, and the model that images are compared with.
#[derive(Debug)]
pub struct MemoryDevice {
    bytes: RwLock<Vec<u8>>,
    capacity: u64,
    limits: DeviceLimits,
}

impl MemoryDevice {
    /// A writable disk.
    pub fn new(content: Vec<u8>) -> Self {
        Self::with_limits(content, DeviceLimits::new(false))
    }

    /// A disk that refuses every write.
    pub fn read_only(content: Vec<u8>) -> Self {
        Self::with_limits(content, DeviceLimits::new(true))
    }

    /// A disk that shows the given limits.
    pub fn with_limits(content: Vec<u8>, limits: DeviceLimits) -> Self {
        assert_eq!(content.len() % SECTOR, 0, "a disk is made of whole sectors");
        Self { capacity: (content.len() / SECTOR) as u64, bytes: RwLock::new(content), limits }
    }

    /// A copy of the whole content.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.read().unwrap().clone()
    }
}

impl BlockDevice for MemoryDevice {
    fn capacity_sectors(&self) -> u64 {
        self.capacity
    }

    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        check_buffer(start, buf.len(), self.capacity)?;
        buf.copy_from_slice(&self.bytes.read().unwrap()[index(start) * SECTOR..][..buf.len()]);
        Ok(())
    }

    fn write_sectors(&self, start: u64, buf: &[u8]) -> Result<()> {
        check_buffer(start, buf.len(), self.capacity)?;
        if self.limits.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the disk is read-only"));
        }
        self.bytes.write().unwrap()[index(start) * SECTOR..][..buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        let count = check_status(start, max, self.capacity)?;
        let bytes = self.bytes.read().unwrap();
        let mut zeros = bytes[byte_range(start, count)].chunks(SECTOR).map(is_zero);
        let first = zeros.next().expect("at least one sector");
        let same = 1 + zeros.take_while(|&zero| zero == first).count();
        Ok((if first { BlockStatus::Zero } else { BlockStatus::Data }, same as u64))
    }
}

/// The bytes of a storage as a read-only disk: a raw image, which need not fit into memory.
#[derive(Debug)]
pub struct RawDevice {
    storage: Arc<dyn Storage>,
    capacity: u64,
    limits: DeviceLimits,
}

impl RawDevice {
    /// The disk that a storage holds; its length is a multiple of a sector.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        let len = storage.len().unwrap();
        assert_eq!(len % SECTOR as u64, 0, "a disk is made of whole sectors");
        Self { storage, capacity: len / SECTOR as u64, limits: DeviceLimits::new(true) }
    }
}

impl BlockDevice for RawDevice {
    fn capacity_sectors(&self) -> u64 {
        self.capacity
    }

    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        check_buffer(start, buf.len(), self.capacity)?;
        if !buf.is_empty() {
            self.storage.read_exact_at(buf, start * SECTOR as u64)?;
        }
        Ok(())
    }

    fn write_sectors(&self, start: u64, buf: &[u8]) -> Result<()> {
        check_buffer(start, buf.len(), self.capacity)?;
        Err(Error::new(ErrorKind::ReadOnly, "the disk is read-only"))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        let sector = SECTOR as u64;
        let count = check_status(start, max, self.capacity)?;
        let data = self.storage.next_data(start * sector)?.unwrap_or(u64::MAX..u64::MAX);
        let (first, end) = (data.start / sector, data.end.div_ceil(sector));
        Ok(match first.saturating_sub(start) {
            0 => (BlockStatus::Data, count.min(end - start)),
            hole => (BlockStatus::Hole, count.min(hole)),
        })
    }
}

/// Whether a slice holds nothing but zeros.
pub fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    // Comparing slices is fast also without optimisation.
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

fn check_buffer(start: u64, len: usize, capacity: u64) -> Result<()> {
    let count = len.div_ceil(SECTOR) as u64;
    if start.checked_add(count).is_none_or(|end| end > capacity) {
        return Err(Error::new(ErrorKind::OutOfRange, "past the end of the disk"));
    }
    if !len.is_multiple_of(SECTOR) {
        return Err(Error::new(ErrorKind::Misaligned, "not a whole number of sectors"));
    }
    Ok(())
}

fn check_status(start: u64, max: u64, capacity: u64) -> Result<u64> {
    if max == 0 || start >= capacity {
        return Err(Error::new(ErrorKind::OutOfRange, "nothing to say"));
    }
    Ok(max.min(capacity - start))
}
