//! Where sectors are, through the whole chain.

use super::VmdkImage;
use crate::block_device::check_status;
use crate::error::Result;
use crate::mapping::{MappedRun, Place, Run};

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
        self.check_open()?;
        let max = check_status(start, max, self.capacity)?;
        let (run, depth) = self.resolve(start, max)?;
        Ok(MappedRun { mapping: run.place.to_mapping(), sectors: run.sectors, depth })
    }

    /// As [`map`](Self::map), but answers for the image alone: `Unallocated` means that its parent has to be asked.
    ///
    /// # Errors
    /// As for [`map`](Self::map).
    pub fn map_layer(&self, start: u64, max: u64) -> Result<MappedRun> {
        self.check_open()?;
        let max = check_status(start, max, self.capacity)?;
        let run = self.links[0].map_of_extents().map(start, max)?;
        Ok(MappedRun { mapping: run.place.to_mapping(), sectors: run.sectors, depth: 0 })
    }

    /// The run at `start`, and the depth of the link that answered. The caller has checked the range.
    #[inline]
    pub(super) fn resolve(&self, start: u64, mut max: u64) -> Result<(Run<'_>, usize)> {
        let mut last = 0;
        for (depth, link) in self.links.iter().enumerate() {
            // A link may be smaller than its child: beyond its end there is nothing, also not in its own parents.
            if start >= link.capacity_sectors() {
                break;
            }
            let run = link.map_of_extents().map(start, max)?;
            if !matches!(run.place, Place::Unallocated) {
                return Ok((run, depth));
            }
            max = run.sectors;
            last = depth;
        }
        Ok((Run::new(Place::Unallocated, max), last))
    }
}
