//! Where sectors are, through the whole chain.

use std::ops::Range;

use super::{Disk, VmdkImage};
use crate::block_device::{BlockStatus, check_status};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{MappedRun, Mapping, Place, Run};

impl VmdkImage {
    /// Where the sectors from `start` on are, and for how many of the next `max` the same run goes on; the whole
    /// chain is consulted. This is how [`read_sectors`](crate::BlockDevice::read_sectors) finds them: a program that
    /// moves the payload itself (into guest memory, by `io_uring`) needs nothing else.
    ///
    /// `Unallocated` means that no link has anything: read zeros. The answer is owned and stays usable after the
    /// image is gone.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange) at the end of the disk and with `max == 0`;
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for tables that cannot be right; [`Io`](crate::ErrorKind::Io) for tables
    /// that cannot be read.
    pub fn map(&self, start: u64, max: u64) -> Result<MappedRun> {
        self.disk.check_open()?;
        let max = check_status(start, max, self.disk.capacity)?;
        let (run, depth) = self.disk.resolve(start, max)?;
        Ok(MappedRun::new(start, &run, depth))
    }

    /// As [`map`](Self::map), but answers for the image alone: `Unallocated` means that its parent has to be asked.
    ///
    /// # Errors
    /// As for [`map`](Self::map).
    pub fn map_layer(&self, start: u64, max: u64) -> Result<MappedRun> {
        self.map_above(1, start, max)
    }

    /// As [`map`](Self::map), but answers only for the links above the link `base` of the [`chain`](Self::chain): the
    /// image itself, its parent, and so on, without `base` and what is below it. `Unallocated` means that nothing has
    /// changed there since the links above `base` were made.
    ///
    /// `base` counts from 1, the parent of the image, to the length of the chain, below which there is nothing.
    ///
    /// # Errors
    /// As for [`map`](Self::map); [`InvalidInput`](ErrorKind::InvalidInput) for a `base` that the chain does not have.
    pub fn map_above(&self, base: usize, start: u64, max: u64) -> Result<MappedRun> {
        self.disk.check_open()?;
        let max = check_status(start, max, self.disk.capacity)?;
        self.check_base(base)?;
        let ask = |depth: usize, start, max| self.disk.links[depth].map_of_extents().map(start, max);
        let (run, depth) = self.disk.resolve_with(0..base, start, max, ask)?;
        Ok(MappedRun::new(start, &run, depth))
    }

    /// What has changed since the link `base` of the [`chain`](Self::chain) was the youngest one, as an incremental
    /// backup needs it: `Data` has to be read, `Zero` reads as zeros now, `Hole` is as it was. The count is as for
    /// [`block_status`](crate::BlockDevice::block_status).
    ///
    /// # Errors
    /// As for [`map_above`](Self::map_above).
    pub fn block_status_above(&self, base: usize, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        let run = self.map_above(base, start, max)?;
        let status = match run.mapping {
            Mapping::Data { .. } | Mapping::Compressed { .. } => BlockStatus::Data,
            Mapping::Zero => BlockStatus::Zero,
            Mapping::Unallocated => BlockStatus::Hole,
        };
        Ok((status, run.sectors))
    }

    pub(super) fn check_base(&self, base: usize) -> Result<()> {
        if base == 0 || base > self.disk.links.len() {
            let text = format!("no link {base} in a chain of {}; count from 1, the parent", self.disk.links.len());
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        Ok(())
    }
}

impl Disk {
    /// The run at `start`, and the depth of the link that answered. The caller has checked the range.
    #[inline]
    pub(super) fn resolve(&self, start: u64, max: u64) -> Result<(Run<'_>, usize)> {
        // Most runs are in the image itself.
        let run = self.links[0].map_of_extents().map(start, max)?;
        if !matches!(run.place, Place::Unallocated) || self.links.len() == 1 {
            return Ok((run, 0));
        }
        self.resolve_below(start, run.sectors)
    }

    /// As `resolve`, without the image itself.
    pub(super) fn resolve_below(&self, start: u64, max: u64) -> Result<(Run<'_>, usize)> {
        self.resolve_with(1..self.links.len(), start, max, |depth, start, max| {
            self.links[depth].map_of_extents().map(start, max)
        })
    }

    /// The run at `start` among some of the links, each of which answers through `ask` by its depth.
    #[inline]
    pub(super) fn resolve_with<'a>(
        &'a self,
        links: Range<usize>,
        start: u64,
        mut max: u64,
        mut ask: impl FnMut(usize, u64, u64) -> Result<Run<'a>>,
    ) -> Result<(Run<'a>, usize)> {
        let mut last = links.start.saturating_sub(1);
        let base = links.end;
        for (depth, link) in self.links.iter().enumerate().take(base).skip(links.start) {
            // A link may be smaller than its child: beyond its end there is nothing, also not further down.
            if start >= link.capacity_sectors() {
                // Above a base that goes on there, this is a change: it is cut off and reads as zeros now.
                let base_end = self.links.get(base).map_or(0, |link| link.capacity_sectors());
                if start < base_end {
                    return Ok((Run::new(Place::Zero, max.min(base_end - start)), depth));
                }
                break;
            }
            let run = ask(depth, start, max)?;
            if !matches!(run.place, Place::Unallocated) {
                return Ok((run, depth));
            }
            max = run.sectors;
            last = depth;
        }
        Ok((Run::new(Place::Unallocated, max), last))
    }
}
