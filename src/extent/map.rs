//! The extents of a link, one after the other, found by sector.

use super::{Extent, HostFile};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::{Place, Run};
use crate::sector::MAX_SECTORS;

/// Extents that one look goes on into: the time of a call is bounded, whatever the descriptor lists.
const EXTENTS_AHEAD: usize = 64;

/// The extents of a disk, concatenated in the order of the descriptor.
#[derive(Debug)]
pub(crate) struct ExtentMap {
    extents: Vec<Extent>,
    capacity: u64,
}

impl ExtentMap {
    /// Lays the extents out from sector 0 on.
    pub(crate) fn new(mut extents: Vec<Extent>) -> Result<Self> {
        let mut capacity = 0_u64;
        for extent in &mut extents {
            extent.start = capacity;
            capacity = capacity
                .checked_add(extent.sectors)
                .filter(|&end| end <= MAX_SECTORS)
                .ok_or_else(|| Error::text(ErrorKind::Corrupt, "the extents are too large together"))?;
        }
        Ok(Self { extents, capacity })
    }

    pub(crate) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The size of the disk in sectors.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Where `sector` is, and for how many of the next `max` sectors the same run goes on, across extents where they
    /// join up. The caller has checked that `sector` is below the capacity and that `max` is not 0.
    #[inline]
    pub(crate) fn map(&self, sector: u64, max: u64) -> Result<Run<'_>> {
        let max = max.min(self.capacity - sector);
        let mut index = self.index_of(sector);
        let mut run = self.extents[index].map(sector, max)?;
        for _ in 0..EXTENTS_AHEAD {
            let next = sector + run.sectors;
            let extent = &self.extents[index];
            // An unallocated run is not worth it: whoever asks goes on to the parent.
            let goes_on = run.sectors < max && next == extent.start + extent.sectors;
            if !goes_on || matches!(run.place, Place::Unallocated) {
                break;
            }
            index += 1;
            // What is wrong with the next extent concerns those who ask for its sectors.
            match self.extents[index].map(next, max - run.sectors) {
                Ok(more) if run.absorb(&more) => {}
                _ => break,
            }
        }
        Ok(run)
    }

    /// Where `count` sectors from `sector` on are, if that is known without much ado: see
    /// [`SparseExtent::place_in_grain`](super::SparseExtent::place_in_grain).
    #[inline]
    pub(crate) fn place_in_grain(&self, sector: u64, count: u64) -> Option<(&HostFile, u64)> {
        let extent = &self.extents[self.index_of(sector)];
        let within = sector - extent.start;
        if count > extent.sectors - within {
            return None;
        }
        let sparse = extent.sparse()?;
        Some((sparse.file(), sparse.place_in_grain(within, count)?))
    }

    /// The extents that `count` sectors from `sector` on lie in, each with the first of the sectors in it and how many.
    #[inline]
    pub(crate) fn parts(&self, sector: u64, count: u64) -> impl Iterator<Item = (&Extent, u64, u64)> {
        let end = sector + count;
        let extents = if count == 0 { &[] } else { &self.extents[self.index_of(sector)..] };
        extents.iter().take_while(move |extent| extent.start < end).map(move |extent| {
            let first = sector.max(extent.start);
            (extent, first - extent.start, end.min(extent.start + extent.sectors) - first)
        })
    }

    /// The number of the extent that holds `sector`.
    pub(crate) fn number_of(&self, sector: u64) -> usize {
        self.index_of(sector)
    }

    /// The extent that holds `sector`. No extent is empty, so exactly one does.
    #[inline]
    fn index_of(&self, sector: u64) -> usize {
        if self.extents.len() == 1 {
            return 0;
        }
        self.extents.partition_point(|extent| extent.start <= sector).saturating_sub(1)
    }
}
