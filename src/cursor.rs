//! `Read + Write + Seek` over a block device.

use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::block_device::BlockDevice;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};

/// A position on a [`BlockDevice`], for code that takes `Read + Write + Seek`: file systems, partition tables, NBD
/// servers.
///
/// Any byte can be addressed. Whole sectors go to the device as they are; a ragged end is read, changed and written
/// back, so two cursors must not write into one sector at the same time. At the end of the device `read` and `write`
/// return `Ok(0)`, as for a file that cannot grow. [`flush`](Write::flush) is the device's: durable.
#[derive(Clone, Debug)]
pub struct Cursor<D> {
    device: D,
    position: u64,
}

impl<D: BlockDevice> Cursor<D> {
    /// A cursor at the first byte of `device`.
    pub fn new(device: D) -> Self {
        Self { device, position: 0 }
    }

    /// The device itself.
    pub fn get_ref(&self) -> &D {
        &self.device
    }

    /// Gives the device back.
    pub fn into_inner(self) -> D {
        self.device
    }

    fn len(&self) -> u64 {
        self.device.capacity_sectors().saturating_mul(SECTOR_BYTES)
    }

    /// What can be moved at the position in one go: the sector, the byte within it, and how many of `len` bytes.
    /// Either whole sectors or a part of a single one.
    fn step(&self, len: usize) -> Option<(u64, usize, usize)> {
        let left = self.len().checked_sub(self.position).filter(|&left| left > 0)?;
        let len = to_usize(left).min(len);
        let within = (self.position % SECTOR_BYTES) as usize;
        let len =
            if within == 0 && len >= SECTOR_SIZE { len - len % SECTOR_SIZE } else { len.min(SECTOR_SIZE - within) };
        Some((self.position / SECTOR_BYTES, within, len))
    }
}

impl<D: BlockDevice> Read for Cursor<D> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some((sector, within, len)) = self.step(buf.len()) else { return Ok(0) };
        if len.is_multiple_of(SECTOR_SIZE) {
            self.device.read_sectors(sector, &mut buf[..len])?;
        } else {
            let mut whole = [0; SECTOR_SIZE];
            self.device.read_sectors(sector, &mut whole)?;
            buf[..len].copy_from_slice(&whole[within..within + len]);
        }
        self.position += len as u64;
        Ok(len)
    }
}

impl<D: BlockDevice> Write for Cursor<D> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Some((sector, within, len)) = self.step(buf.len()) else { return Ok(0) };
        if len.is_multiple_of(SECTOR_SIZE) {
            self.device.write_sectors(sector, &buf[..len])?;
        } else {
            let mut whole = [0; SECTOR_SIZE];
            self.device.read_sectors(sector, &mut whole)?;
            whole[within..within + len].copy_from_slice(&buf[..len]);
            self.device.write_sectors(sector, &whole)?;
        }
        self.position += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.device.flush()?)
    }
}

impl<D: BlockDevice> Seek for Cursor<D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
