//! A flat extent: sector after sector in a file, from some offset on.

use std::sync::Arc;

use super::{HostFile, Payload, Zeroing};
use crate::error::Result;
use crate::mapping::{Place, Run};
use crate::sector::SECTOR_BYTES;

/// A flat extent that is open. Where the file is shorter than the extent, the rest reads as zeros, as in QEMU.
#[derive(Clone, Debug)]
pub(crate) struct FlatExtent {
    file: Arc<HostFile>,
    /// Where the extent begins in the file, in bytes.
    offset: u64,
}

impl FlatExtent {
    /// The extent that begins at the byte `offset` of `file`.
    pub(crate) fn new(file: Arc<HostFile>, offset: u64) -> Self {
        Self { file, offset }
    }

    pub(crate) fn file(&self) -> &Arc<HostFile> {
        &self.file
    }

    /// Where the extent begins in the file, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the file ends before `sectors` sectors do.
    pub(crate) fn is_shorter_than(&self, sectors: u64) -> bool {
        self.file.len().saturating_sub(self.offset) / SECTOR_BYTES < sectors
    }

    /// Sectors of the extent that the file has, the last of which may be cut short.
    #[inline]
    fn present(&self) -> u64 {
        self.file.len().saturating_sub(self.offset).div_ceil(SECTOR_BYTES)
    }

    /// Where `sector` is, and for how many of the next `max` sectors the same run goes on.
    pub(crate) fn map(&self, sector: u64, max: u64) -> Run<'_> {
        match self.present().checked_sub(sector) {
            Some(rest) if rest > 0 => {
                let offset = self.offset + sector * SECTOR_BYTES;
                Run::new(Place::Data { file: &self.file, offset }, rest.min(max))
            }
            _ => Run::new(Place::Zero, max),
        }
    }

    /// Where `sector` is in the file, in bytes, whether or not the file has it.
    pub(crate) fn offset_of(&self, sector: u64) -> u64 {
        self.offset + sector * SECTOR_BYTES
    }

    /// Writes `payload` from `sector` on. A file that is too short grows.
    #[inline]
    pub(crate) fn write(&self, sector: u64, payload: Payload<'_>) -> Result<()> {
        payload.write(&self.file, self.offset_of(sector))
    }

    /// Makes `count` sectors from `sector` on read as zeros; what the file does not have does so already.
    pub(crate) fn zero(&self, sector: u64, count: u64, zeroing: Zeroing) -> Result<()> {
        let count = count.min(self.present().saturating_sub(sector));
        match zeroing {
            Zeroing::Keep => self.write(sector, Payload::Zeros { sectors: count }),
            Zeroing::Discard | Zeroing::Unmap => {
                self.file.punch(self.offset_of(sector)..self.offset_of(sector + count))
            }
        }
    }
}
