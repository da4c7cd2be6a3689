//! The image as a block device: runs are looked up, then moved.

use std::io::IoSliceMut;

use super::VmdkImage;
use crate::block_device::{BlockDevice, BlockStatus, DeviceLimits, check_status, read_only, read_slices, total_len};
use crate::error::Result;
use crate::mapping::{Place, Run};
use crate::sector::{SECTOR_SIZE, check_buffer, check_range, to_usize};

impl VmdkImage {
    /// Fills `buf` from `start` on, which the caller has checked.
    #[inline]
    fn read_runs(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        let (mut sector, mut rest) = (start, buf);
        while !rest.is_empty() {
            let (run, _) = self.resolve(sector, (rest.len() / SECTOR_SIZE) as u64)?;
            // A run has at most the sectors that were asked for, which fit into the buffer.
            let (head, tail) = rest.split_at_mut(run_len(&run));
            fill(&run, head)?;
            sector += run.sectors;
            rest = tail;
        }
        Ok(())
    }

    /// Every image is opened read-only.
    fn refuse_write(&self, start: u64, count: u64) -> Result<()> {
        self.check_open()?;
        check_range(start, count, self.capacity)?;
        Err(read_only())
    }
}

fn run_len(run: &Run<'_>) -> usize {
    to_usize(run.sectors).saturating_mul(SECTOR_SIZE)
}

/// Moves the payload of a run: the only place where that happens.
#[inline]
fn fill(run: &Run<'_>, buf: &mut [u8]) -> Result<()> {
    match run.place {
        Place::Data { file, offset } => file.read(buf, offset),
        Place::Zero | Place::Unallocated => {
            buf.fill(0);
            Ok(())
        }
    }
}

impl BlockDevice for VmdkImage {
    fn capacity_sectors(&self) -> u64 {
        self.capacity
    }

    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        self.check_open()?;
        check_buffer(start, buf.len(), self.capacity)?;
        self.read_runs(start, buf)
    }

    fn write_sectors(&self, start: u64, buf: &[u8]) -> Result<()> {
        self.check_open()?;
        check_buffer(start, buf.len(), self.capacity)?;
        Err(read_only())
    }

    fn flush(&self) -> Result<()> {
        self.check_open()
    }

    fn read_sectors_vectored(&self, start: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.check_open()?;
        let len = total_len(bufs.iter().map(|buf| buf.len()));
        let count = check_buffer(start, len, self.capacity)?;
        if count == 0 {
            return Ok(());
        }
        let (run, _) = self.resolve(start, count)?;
        match run.place {
            Place::Data { file, offset } if run.sectors == count => return file.read_vectored(bufs, len, offset),
            _ => {}
        }
        read_slices(start, bufs, len, |sector, buf| self.read_runs(sector, buf))
    }

    fn write_zeroes(&self, start: u64, count: u64, _may_unmap: bool) -> Result<()> {
        self.refuse_write(start, count)
    }

    fn discard(&self, start: u64, count: u64) -> Result<()> {
        self.refuse_write(start, count)
    }

    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        self.check_open()?;
        let max = check_status(start, max, self.capacity)?;
        let (run, _) = self.resolve(start, max)?;
        let status = match run.place {
            Place::Data { .. } => BlockStatus::Data,
            Place::Zero => BlockStatus::Zero,
            Place::Unallocated => BlockStatus::Hole,
        };
        Ok((status, run.sectors))
    }
}
