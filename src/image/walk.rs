//! The runs of a disk one after the other, through its whole chain.
//!
//! Asked run by run, a child would look at its own tables again for every run of its parent, however far it knew
//! already that it has nothing. A walk remembers that for each link.

use super::{Disk, VmdkImage};
use crate::error::Result;
use crate::mapping::{MappedRun, Place, Run};

/// Where a walk over a disk is.
pub(super) struct Walk<'a> {
    disk: &'a Disk,
    /// The links from this one on are not asked.
    base: usize,
    at: u64,
    /// Up to which sector each link is known to have nothing.
    unallocated_until: Vec<u64>,
}

impl<'a> Walk<'a> {
    /// The next run with its first sector and the depth of the link that answered; `None` at the end of the disk.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Run<'a>, usize)>> {
        let disk = self.disk;
        if self.at >= disk.capacity {
            return Ok(None);
        }
        let unallocated_until = &mut self.unallocated_until;
        let (run, depth) = disk.resolve_with(0..self.base, self.at, disk.capacity - self.at, |depth, start, max| {
            let until = &mut unallocated_until[depth];
            if start < *until {
                return Ok(Run::new(Place::Unallocated, max.min(*until - start)));
            }
            let run = disk.links[depth].map_of_extents().map(start, max)?;
            if matches!(run.place, Place::Unallocated) {
                *until = start + run.sectors;
            }
            Ok(run)
        })?;
        let start = self.at;
        self.at += run.sectors;
        Ok(Some((start, run, depth)))
    }
}

/// The runs of a disk in their order: see [`VmdkImage::runs`].
pub struct Runs<'a> {
    walk: Option<Walk<'a>>,
}

impl Iterator for Runs<'_> {
    type Item = Result<MappedRun>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.walk.as_mut()?.next();
        if !matches!(next, Ok(Some(_))) {
            self.walk = None;
        }
        let run = next.transpose()?;
        Some(run.map(|(start, run, depth)| MappedRun::new(start, &run, depth)))
    }
}

impl VmdkImage {
    pub(super) fn walk(&self) -> Walk<'_> {
        self.walk_above(self.disk.links.len())
    }

    /// The same without the links from `base` on.
    pub(super) fn walk_above(&self, base: usize) -> Walk<'_> {
        Walk { disk: &self.disk, base, at: 0, unallocated_until: vec![0; self.disk.links.len()] }
    }

    /// The runs of the whole disk in their order, as [`map`](Self::map) has them. This is the way to go over a disk:
    /// every link of the chain is looked at once. Runs that follow each other may be alike; the iterator ends with the
    /// first error.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed). What [`map`](Self::map) can meet is in the items.
    pub fn runs(&self) -> Result<Runs<'_>> {
        self.runs_above(self.disk.links.len())
    }

    /// As [`runs`](Self::runs), for the links above `base` alone, as [`map_above`](Self::map_above) has them.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed), and [`InvalidInput`](crate::ErrorKind::InvalidInput) for a `base` that the
    /// chain does not have.
    pub fn runs_above(&self, base: usize) -> Result<Runs<'_>> {
        self.disk.check_open()?;
        self.check_base(base)?;
        Ok(Runs { walk: Some(self.walk_above(base)) })
    }
}
