//! The image as a block device: runs are looked up, then moved.

use std::io::{IoSlice, IoSliceMut};

use super::VmdkImage;
use crate::block_device::{BlockDevice, BlockStatus, DeviceLimits, WriteFlags, check_status, read_only, total_len};
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
            fill(&run, 0, head)?;
            sector += run.sectors;
            rest = tail;
        }
        Ok(())
    }

    /// Fills `bufs`, which have `count` sectors, from `start` on. The slices of a run go to the host together; one that
    /// reaches beyond its run is filled in parts.
    fn read_runs_vectored(&self, start: u64, count: u64, mut bufs: &mut [IoSliceMut<'_>]) -> Result<()> {
        let (mut sector, end) = (start, start + count);
        while sector < end {
            let (run, _) = self.resolve(sector, end - sector)?;
            let mut left = run_len(&run);
            let mut done = 0;
            while left > 0 {
                let (whole, len) = whole_slices(bufs, left);
                if whole > 0 {
                    let (now, later) = bufs.split_at_mut(whole);
                    fill_vectored(&run, done, now, len)?;
                    bufs = later;
                } else {
                    fill(&run, done, &mut bufs[0][..left])?;
                    IoSliceMut::advance_slices(&mut bufs, left);
                }
                let moved = if whole > 0 { len } else { left };
                left -= moved;
                done += moved as u64;
            }
            sector += run.sectors;
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

/// How many of the first slices end within `len` bytes, and how many bytes they have.
fn whole_slices(bufs: &[IoSliceMut<'_>], len: usize) -> (usize, usize) {
    let mut bytes = 0;
    let fitting = bufs.iter().take_while(|buf| {
        let fits = buf.len() <= len - bytes;
        bytes += if fits { buf.len() } else { 0 };
        fits
    });
    (fitting.count(), bytes)
}

/// Moves the payload of a run from its byte `skip` on: with `fill_vectored` the only place where that happens.
#[inline]
fn fill(run: &Run<'_>, skip: u64, buf: &mut [u8]) -> Result<()> {
    match run.place {
        Place::Data { file, offset } => file.read(buf, offset + skip),
        Place::Zero | Place::Unallocated => {
            buf.fill(0);
            Ok(())
        }
    }
}

/// The same into slices of `len` bytes in all.
fn fill_vectored(run: &Run<'_>, skip: u64, bufs: &mut [IoSliceMut<'_>], len: usize) -> Result<()> {
    match run.place {
        Place::Data { file, offset } => file.read_vectored(bufs, len, offset + skip),
        Place::Zero | Place::Unallocated => {
            for buf in bufs {
                buf.fill(0);
            }
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
        self.read_runs_vectored(start, count, bufs)
    }

    fn write_sectors_vectored(&self, start: u64, bufs: &[IoSlice<'_>], _flags: WriteFlags) -> Result<()> {
        self.check_open()?;
        check_buffer(start, total_len(bufs.iter().map(|buf| buf.len())), self.capacity)?;
        Err(read_only())
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
        Ok(match run.place {
            Place::Data { file, offset } => match file.is_hole(offset, run.sectors)? {
                (true, count) => (BlockStatus::Zero, count),
                (false, count) => (BlockStatus::Data, count),
            },
            Place::Zero => (BlockStatus::Zero, run.sectors),
            Place::Unallocated => (BlockStatus::Hole, run.sectors),
        })
    }
}
