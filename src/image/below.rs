//! What lies below an extent of the youngest link: the parents, at the same sectors.

use super::Disk;
use super::read::fill;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Below, Extent};
use crate::mapping::{Place, Run};
use crate::sector::{SECTOR_SIZE, to_usize};

/// The parents of the disk, seen from one of its extents.
pub(super) struct Parents<'a> {
    disk: &'a Disk,
    /// The sector of the disk at which the extent begins.
    start: u64,
}

impl<'a> Parents<'a> {
    pub(super) fn of(disk: &'a Disk, extent: &Extent) -> Self {
        Self::at(disk, extent.start_sector())
    }

    /// The same for an extent that would begin at the sector `start` of the disk.
    pub(super) fn at(disk: &'a Disk, start: u64) -> Self {
        Self { disk, start }
    }

    fn resolve(&self, sector: u64, max: u64) -> Result<Run<'a>> {
        Ok(self.disk.resolve_below(self.start + sector, max)?.0)
    }
}

impl Below for Parents<'_> {
    fn exists(&self) -> bool {
        self.disk.links.len() > 1
    }

    fn is_zero(&self, sector: u64, max: u64) -> Result<(bool, u64)> {
        if !self.exists() {
            return Ok((true, max));
        }
        let run = self.resolve(sector, max)?;
        Ok((matches!(run.place, Place::Zero | Place::Unallocated), run.sectors))
    }

    fn read(&self, mut sector: u64, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let run = self.resolve(sector, (buf.len() / SECTOR_SIZE) as u64)?;
            let (now, later) = buf.split_at_mut(to_usize(run.sectors).saturating_mul(SECTOR_SIZE));
            fill(&run, 0, now)?;
            sector += run.sectors;
            buf = later;
        }
        Ok(())
    }
}

impl Disk {
    /// Refuses parents that are not those that the links were made of, although they may be read so: what is changed by
    /// what they hold would be wrong over the right ones.
    pub(super) fn check_parents(&self) -> Result<()> {
        for pair in self.links.windows(2) {
            let [child, parent] = pair else { continue };
            let Some(wanted) = child.parent_content_id() else { continue };
            let (found, intent) = (parent.content_id(), child.descriptor().commit_intent());
            let is_committed = intent.zip(found).is_some_and(|(intent, found)| intent.joins(wanted, found));
            if found != Some(wanted) && !is_committed {
                let text = "the parent has changed since this child was made of it, and the child would be changed by what \
                            the wrong one has";
                return Err(Error::text(ErrorKind::ContentIdMismatch, text).in_file(child.path()));
            }
        }
        Ok(())
    }
}
