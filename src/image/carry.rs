//! What a child has to take over so that it reads the same over other parents, or over none.
//!
//! It is what its old parents have, where it has nothing itself and the new ones have something else. Grains are taken
//! whole, so that nothing of them comes from the new parents, and written over the old ones: whatever of it reaches the
//! disk, the child reads as before.

use std::ops::Range;

use super::below::Parents;
use super::{Disk, VmdkImage};
use crate::block_device::WriteFlags;
use crate::buffer::Buffer;
use crate::descriptor::Access;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Below, Extent, Payload, Zeroing};
use crate::mapping::{Place, Run};
use crate::sector::{SECTOR_BYTES, is_zero, to_usize};
use crate::source::{CHUNK, Units, indices};

/// One child over its old parents, and over the new ones.
pub(super) struct Carry<'a> {
    /// Open for writing.
    old: &'a Disk,
    new: &'a Disk,
    /// What both have.
    buffers: [Buffer; 2],
    /// Sectors that were copied, and that the child hides with zeros.
    pub(super) copied: u64,
    pub(super) zeroed: u64,
}

/// What becomes of a unit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Nothing,
    Write,
    Zero,
}

impl<'a> Carry<'a> {
    /// `new` is the same child without its old parents and over the new ones.
    pub(super) fn new(old: &'a VmdkImage, new: &'a VmdkImage) -> Self {
        let buffers = [0; 2].map(|_| Buffer::default());
        Self { old: &old.disk, new: &new.disk, buffers, copied: 0, zeroed: 0 }
    }

    /// Refuses a child that cannot take over what it would have to. Nothing is changed.
    pub(super) fn check(&self) -> Result<()> {
        let link = &self.old.links[0];
        let mut stuck = link.extents().iter().filter(|extent| extent.sparse().is_some() || extent.is_compressed());
        if let Some(stuck) = stuck.find(|extent| extent.access() != Access::ReadWrite || extent.is_compressed()) {
            let text = format!(
                "the extent at sector {} takes no writes ({}), so that it cannot take over what its parents have",
                stuck.start_sector(),
                stuck.access().as_str()
            );
            return Err(Error::text(ErrorKind::Unsupported, text).in_file(link.path()));
        }
        let writing = self.old.writing()?;
        // It reads as before.
        writing.keep_content_id();
        self.old.check_tables(writing, 0, self.old.capacity)
    }

    /// Writes to the child what it has to have, which is not flushed. `progress` is told up to which sector.
    pub(super) fn run(&mut self, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        progress(0)?;
        let old = self.old;
        for extent in old.links[0].extents() {
            if extent.sparse().is_some() {
                self.take_extent(extent, progress)?;
            } else {
                progress(extent.start_sector() + extent.sectors())?;
            }
        }
        progress(old.capacity)
    }

    fn take_extent(&mut self, extent: &Extent, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let Units { end, unit, chunk } = Units::new(extent.sectors(), extent.grain_sectors().min(CHUNK));
        let start = extent.start_sector();
        // Up to where the child is known to have nothing: to look ahead costs more than what is done in between.
        let (mut at, mut free_until) = (0, 0);
        while at < end {
            if at >= free_until {
                let own = self.old.links[0].map_of_extents().map(start + at, end - at)?;
                if !matches!(own.place, Place::Unallocated) {
                    at += own.sectors;
                    progress(start + at)?;
                    continue;
                }
                free_until = at + own.sectors;
            }
            let known = self.known_alike(start + at, free_until - at)?;
            if known > 0 {
                at += known;
                progress(start + at)?;
                continue;
            }
            // Whole units from the one on in which something differs. As grains are whole, nothing before it is the
            // child's own.
            let first = at / unit * unit;
            let until = ((first / chunk + 1) * chunk).min(free_until.next_multiple_of(unit)).min(end);
            self.take(extent, first..until, unit)?;
            at = until;
            if extent.grain_sectors() > unit {
                // It may have got the rest of the grain with this.
                free_until = until;
            }
            progress(start + at)?;
        }
        Ok(())
    }

    /// For how many of the next `max` sectors the old and the new parents are known to have the same, without reading
    /// it.
    fn known_alike(&self, sector: u64, max: u64) -> Result<u64> {
        let (old, new) = (below(self.old, sector, max)?, below(self.new, sector, max)?);
        let sectors = old.sectors.min(new.sectors);
        let alike = match (old.place, new.place) {
            (Place::Zero | Place::Unallocated, Place::Zero | Place::Unallocated) => true,
            (Place::Data { file, offset }, Place::Data { file: other, offset: other_offset }) => {
                file.identity() == other.identity() && offset == other_offset
            }
            _ => false,
        };
        Ok(if alike { sectors } else { 0 })
    }

    /// Takes over what differs of some sectors of an extent.
    fn take(&mut self, extent: &Extent, sectors: Range<u64>, unit: u64) -> Result<()> {
        let len = to_usize((sectors.end - sectors.start) * SECTOR_BYTES);
        let [wanted, there] = &mut self.buffers;
        for buffer in [&mut *wanted, &mut *there] {
            if buffer.len() < len {
                *buffer = Buffer::new(len.max(to_usize(CHUNK * SECTOR_BYTES)));
            }
        }
        Parents::of(self.old, extent).read(sectors.start, &mut wanted[..len])?;
        Parents::of(self.new, extent).read(sectors.start, &mut there[..len])?;
        let mut pending = (Change::Nothing, sectors.start..sectors.start);
        for unit in Units::new(sectors.end, unit).of(sectors.clone()) {
            let bytes = indices(sectors.start, &unit);
            let (wanted, there) = (&self.buffers[0][bytes.clone()], &self.buffers[1][bytes]);
            // A grain may be larger than a unit: then the child has got the rest of it with an earlier one.
            let change = match wanted == there {
                true => Change::Nothing,
                false if is_zero(wanted) => Change::Zero,
                false => Change::Write,
            };
            if change == pending.0 {
                pending.1.end = unit.end;
                continue;
            }
            self.change(extent, &pending, sectors.start)?;
            pending = (change, unit);
        }
        self.change(extent, &pending, sectors.start)
    }

    /// Does it; the buffers begin with the sector `first` of the extent.
    fn change(&mut self, extent: &Extent, (change, sectors): &(Change, Range<u64>), first: u64) -> Result<()> {
        let (start, count) = (extent.start_sector() + sectors.start, sectors.end - sectors.start);
        let write = |payload: Payload<'_>| self.old.write(start, payload, WriteFlags::NONE);
        match change {
            Change::Nothing => return Ok(()),
            Change::Write => write(Payload::Bytes(&self.buffers[0][indices(first, sectors)]))?,
            // A part of a grain gets its rest from below, which has to be the old parents.
            Change::Zero if extent.grain_sectors() > CHUNK => write(Payload::Zeros { sectors: count })?,
            Change::Zero => self.old.zero_over(self.new, start, count, Zeroing::Unmap)?,
        }
        *(if *change == Change::Zero { &mut self.zeroed } else { &mut self.copied }) += count;
        Ok(())
    }
}

/// What the parents of a disk have. A hole of a file is as good as zeros that are known.
fn below(disk: &Disk, sector: u64, max: u64) -> Result<Run<'_>> {
    let (run, _) = disk.resolve_below(sector, max)?;
    let Place::Data { file, offset } = run.place else { return Ok(run) };
    let (is_hole, sectors) = file.is_hole(offset, run.sectors)?;
    Ok(Run::new(if is_hole { Place::Zero } else { run.place }, sectors))
}
