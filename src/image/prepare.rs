//! Writes in two phases, for programs that move the payload themselves.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::below::Parents;
use super::write::Writing;
use super::{Disk, VmdkImage};
use crate::block_device::WriteFlags;
use crate::error::Result;
use crate::extent::{Extent, Reservation, SparseExtent, Surroundings, Target};
use crate::sector::{SECTOR_BYTES, check_range};
use crate::storage::Storage;

/// A stretch of a prepared write: its sectors go to `storage`, from the byte `offset` on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PreparedRange {
    /// The first sector of the stretch on the disk.
    pub start: u64,
    /// How many sectors it has; at least 1.
    pub sectors: u64,
    /// The host object that takes them.
    pub storage: Arc<dyn Storage>,
    /// Where in `storage` the first of them goes, in bytes.
    pub offset: u64,
}

/// A write whose payload somebody else moves: into guest memory's place, by `io_uring`, from another thread.
///
/// [`VmdkImage::prepare_write`] reserves the space and says where the sectors go ([`ranges`](Self::ranges)). The owner
/// writes all of them, and then calls [`commit`](Self::commit); until then, readers of new grains see the old content.
/// It borrows nothing and may be sent to other threads.
///
/// Sectors that had their place already are overwritten by the owner there and then; what a commit adds for them is
/// that a [`flush`](crate::BlockDevice::flush) knows about them.
///
/// Dropped without either, it leaves the space unused until the disk is compacted: something may still be on its way
/// there.
#[derive(Debug)]
#[must_use = "nothing is written before it is committed"]
pub struct PreparedWrite {
    disk: Arc<Disk>,
    parts: Vec<Part>,
    ranges: Vec<PreparedRange>,
}

#[derive(Debug)]
struct Part {
    /// The number of the extent.
    extent: usize,
    /// The first sector in the extent.
    within: u64,
    /// The space, if the grains are new.
    reservation: Option<Reservation>,
    /// The end of the stretch in the file, in bytes.
    end: u64,
}

impl VmdkImage {
    /// Prepares a write of `count` sectors from `start` on, whose payload the caller moves. Waits for calls that are
    /// about to fill the same grains.
    ///
    /// # Errors
    /// As for [`write_sectors`](crate::BlockDevice::write_sectors); [`Busy`](crate::ErrorKind::Busy) while another
    /// prepared write has one of the new grains, and so for every other write to them until that is committed or
    /// aborted. Extents of the type ZERO take no prepared writes.
    pub fn prepare_write(&self, start: u64, count: u64) -> Result<PreparedWrite> {
        let disk = &self.disk;
        disk.check_open()?;
        check_range(start, count, disk.capacity)?;
        let writing = disk.writing()?;
        for (_, extent, _, _) in disk.numbered_parts(start, count) {
            extent.check_prepare()?;
        }
        disk.check_tables(writing, start, count)?;
        let mut prepared = PreparedWrite::none(disk, writing);
        let begin = || disk.begin(writing);
        for (number, extent, within, sectors) in disk.numbered_parts(start, count) {
            let below = Parents::of(disk, extent);
            let around = Surroundings { below: &below, begin: &begin, sectors: extent.sectors() };
            if let Err(error) = prepared.add(number, extent, within, sectors, around) {
                prepared.abort();
                return Err(error);
            }
        }
        // Who freezes the disk either sees that this is there, or is seen here.
        fence(Ordering::SeqCst);
        if let Err(error) = disk.writing() {
            prepared.abort();
            return Err(error);
        }
        Ok(prepared)
    }
}

impl PreparedWrite {
    fn none(disk: &Arc<Disk>, writing: &Writing) -> Self {
        writing.prepared.fetch_add(1, Ordering::SeqCst);
        Self { disk: Arc::clone(disk), parts: Vec::new(), ranges: Vec::new() }
    }

    /// Where the sectors go, in their order. Every byte of every range has to be written before the commit.
    pub fn ranges(&self) -> &[PreparedRange] {
        &self.ranges
    }

    /// Shows what was written to everybody: fills the rest of new grains and enters them in their tables. It is durable
    /// after the next flush.
    ///
    /// # Errors
    /// As for [`write_sectors`](crate::BlockDevice::write_sectors); [`Closed`](crate::ErrorKind::Closed) after the
    /// image was closed, [`ReadOnly`](crate::ErrorKind::ReadOnly) after it has become read-only. Sectors in new grains
    /// then have their old content, as far as they were not committed.
    pub fn commit(mut self) -> Result<()> {
        let disk = Arc::clone(&self.disk);
        disk.check_open()?;
        let writing = disk.writing().inspect_err(|_| self.give_back())?;
        writing.health.check()?;
        let begin = || disk.begin(writing);
        for part in &self.parts {
            // Whatever fails below, the owner has written there.
            if let Some(file) = disk.links[0].extents()[part.extent].file() {
                file.was_written_up_to(part.end);
            }
        }
        let mut parts = std::mem::take(&mut self.parts).into_iter();
        let mut result = Ok(());
        for part in parts.by_ref() {
            let extent = &disk.links[0].extents()[part.extent];
            let below = Parents::of(&disk, extent);
            let around = Surroundings { below: &below, begin: &begin, sectors: extent.sectors() };
            result = part.commit(extent, around);
            if result.is_err() {
                break;
            }
        }
        self.parts = parts.collect();
        if result.is_err() {
            self.give_back();
        }
        result.and_then(|()| disk.written(writing, WriteFlags::NONE))
    }

    /// Gives the space of new grains back. The owner writes nothing to the ranges any more. After the image was closed
    /// the space stays unused, as when this is dropped.
    pub fn abort(mut self) {
        if self.disk.check_open().is_ok() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        for part in std::mem::take(&mut self.parts) {
            if let Some((sparse, reservation)) = part.reserved(&self.disk) {
                sparse.abandon(reservation);
            }
        }
    }

    /// Prepares the part of the write that lies in one extent.
    fn add(
        &mut self,
        number: usize,
        extent: &Extent,
        mut within: u64,
        mut left: u64,
        around: Surroundings<'_>,
    ) -> Result<()> {
        while left > 0 {
            let Some(file) = extent.file() else { return Ok(()) };
            let (offset, sectors, reservation) = match extent.prepare(within, left, around)? {
                Target::InPlace { offset, sectors } => (offset, sectors, None),
                Target::New { offset, reservation } => (offset, reservation.sectors(), Some(reservation)),
            };
            let storage = Arc::clone(file.storage());
            self.ranges.push(PreparedRange { start: extent.start_sector() + within, sectors, storage, offset });
            self.parts.push(Part { extent: number, within, reservation, end: offset + sectors * SECTOR_BYTES });
            within += sectors;
            left -= sectors;
        }
        Ok(())
    }
}

/// What was reserved and neither committed nor given back stays unused.
impl Drop for PreparedWrite {
    fn drop(&mut self) {
        for part in &self.parts {
            if let Some((sparse, reservation)) = part.reserved(&self.disk) {
                sparse.release(reservation);
            }
        }
        if let Some(writing) = &self.disk.writing {
            writing.prepared.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Part {
    fn reserved<'a>(&'a self, disk: &'a Disk) -> Option<(&'a SparseExtent, &'a Reservation)> {
        let sparse = disk.links[0].extents()[self.extent].sparse()?;
        Some((sparse, self.reservation.as_ref()?))
    }

    fn commit(&self, extent: &Extent, around: Surroundings<'_>) -> Result<()> {
        let (Some(sparse), Some(reservation)) = (extent.sparse(), &self.reservation) else { return Ok(()) };
        if let Err(error) = sparse.fill_around(reservation, self.within, around) {
            sparse.abandon(reservation);
            return Err(error);
        }
        sparse.commit(reservation)
    }
}

impl Disk {
    /// The parts of a range, with the numbers of their extents.
    fn numbered_parts(&self, start: u64, count: u64) -> impl Iterator<Item = (usize, &Extent, u64, u64)> {
        let extents = self.links[0].map_of_extents();
        let first = extents.number_of(start);
        extents
            .parts(start, count)
            .zip(first..)
            .map(|((extent, within, sectors), number)| (number, extent, within, sectors))
    }
}
