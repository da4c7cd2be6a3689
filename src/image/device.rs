//! The image as a block device: what the contract asks for is checked here, and left to the verbs.

use std::io::{IoSlice, IoSliceMut};

use super::VmdkImage;
use crate::block_device::{BlockDevice, BlockStatus, DeviceLimits, WriteFlags, check_status, total_len};
use crate::error::Result;
use crate::extent::{Payload, Zeroing};
use crate::mapping::Place;
use crate::sector::{check_buffer, check_range};
use crate::storage::StorageId;

impl BlockDevice for VmdkImage {
    fn capacity_sectors(&self) -> u64 {
        self.disk.capacity
    }

    fn limits(&self) -> &DeviceLimits {
        if self.disk.has_ended() { &self.disk.limits_when_ended } else { &self.disk.limits }
    }

    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.check_open()?;
        check_buffer(start, buf.len(), self.disk.capacity)?;
        self.disk.read_runs(start, buf)
    }

    fn write_sectors(&self, start: u64, buf: &[u8]) -> Result<()> {
        self.disk.check_open()?;
        check_buffer(start, buf.len(), self.disk.capacity)?;
        self.disk.write(start, Payload::Bytes(buf), WriteFlags::NONE)
    }

    fn flush(&self) -> Result<()> {
        self.disk.check_open()?;
        self.disk.flush()
    }

    fn read_sectors_vectored(&self, start: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.disk.check_open()?;
        let len = total_len(bufs.iter().map(|buf| buf.len()));
        let count = check_buffer(start, len, self.disk.capacity)?;
        self.disk.read_runs_vectored(start, count, bufs)
    }

    fn write_sectors_vectored(&self, start: u64, bufs: &[IoSlice<'_>], flags: WriteFlags) -> Result<()> {
        self.disk.check_open()?;
        let len = total_len(bufs.iter().map(|buf| buf.len()));
        check_buffer(start, len, self.disk.capacity)?;
        self.disk.write(start, Payload::Slices { slices: bufs, skip: 0, len }, flags)
    }

    fn write_zeroes(&self, start: u64, count: u64, may_unmap: bool) -> Result<()> {
        self.disk.check_open()?;
        check_range(start, count, self.disk.capacity)?;
        self.disk.zero(start, count, if may_unmap { Zeroing::Unmap } else { Zeroing::Keep })
    }

    fn discard(&self, start: u64, count: u64) -> Result<()> {
        self.disk.check_open()?;
        check_range(start, count, self.disk.capacity)?;
        self.disk.zero(start, count, Zeroing::Discard)
    }

    fn storage_ids(&self) -> Vec<StorageId> {
        self.host_files().iter().flat_map(|file| file.storage().host_ids()).collect()
    }

    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        self.disk.check_open()?;
        let max = check_status(start, max, self.disk.capacity)?;
        let (run, _) = self.disk.resolve(start, max)?;
        Ok(match run.place {
            Place::Data { file, offset } => match file.is_hole(offset, run.sectors)? {
                (true, count) => (BlockStatus::Zero, count),
                (false, count) => (BlockStatus::Data, count),
            },
            Place::Compressed { .. } => (BlockStatus::Data, run.sectors),
            Place::Zero => (BlockStatus::Zero, run.sectors),
            Place::Unallocated => (BlockStatus::Hole, run.sectors),
        })
    }
}
