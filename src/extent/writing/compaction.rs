//! What makes the file of a sparse extent smaller: grains that are not needed, space that nothing names, and an end
//! that comes earlier. All of it is for who has the extent to himself.

use std::ops::Range;

use super::allocation::MAX_GRAINS;
use super::inspection::occupancy;
use super::publication::patch_sector;
use super::{Surroundings, Writer};
use crate::error::Result;
use crate::extent::SparseExtent;
use crate::extent::audit::Occupancy;
use crate::extent::holes::Holes;
use crate::extent::pending::NewTable;
use crate::extent::tables::{UNALLOCATED, ZERO};
use crate::format::HeaderMark;
use crate::sector::{SECTOR_BYTES, to_usize};

/// Bytes of a file that are looked through for gaps before somebody is told; and that are punched at once, since a host
/// without holes writes so many zeros.
const GONE_THROUGH: u64 = 16 << 20;

/// Gaps that are looked at before that: a file of small grains may have thousands in so many bytes.
const LOOKS: u32 = 64;

/// What becomes of grains that are not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emptying {
    /// Entry 0: what is below shows.
    Unallocate,
    /// Entry 1: zeros that hide what is below.
    Zero,
    /// The entry stays, and the space of the grain is a hole.
    Punch,
}

impl SparseExtent {
    /// Whether an entry may say that a grain is zero.
    pub(crate) fn has_zero_grains(&self) -> bool {
        self.tables().layout().zero_grains
    }

    /// Takes the content of `grains` away, all of which have a place. That is for [`give_back`](Self::give_back) then:
    /// other grains may move there, or the file may be cut.
    pub(crate) fn empty_grains(&self, grains: Range<u64>, how: Emptying, around: Surroundings<'_>) -> Result<()> {
        let writer = self.begin(around)?;
        let entry = match how {
            Emptying::Unallocate => Some(UNALLOCATED),
            Emptying::Zero => Some(ZERO),
            Emptying::Punch => None,
        };
        let end = (grains.end * self.grain_sectors()).min(around.sectors);
        let mut sector = grains.start * self.grain_sectors();
        while sector < end {
            // Not more at once, so that what is pending is published in between.
            let first = self.grain_of(sector);
            let rest = first..grains.end.min(first + MAX_GRAINS);
            let end = (rest.end * self.grain_sectors()).min(end);
            let unmap = || self.unmap(writer, sector, &rest, end - sector, entry, |_, _| ());
            let Some(done @ 1..) = writer.with_claim(&rest, unmap)? else { return Ok(()) };
            sector += done;
            self.publish_if_much()?;
        }
        Ok(())
    }

    /// Gives back all space that nothing names, and lets the file end with its last grain once it is closed. With
    /// `packs`, grains from behind move into the gaps before that. `tell` is told how many bytes are to be moved or
    /// gone through at most, and then how many were. Says how many grains were moved.
    ///
    /// # Errors
    /// `Corrupt` for tables that cannot be right; what the host reports, and what `tell` does. What was moved and given
    /// back until then stays so.
    pub(crate) fn give_back(
        &self,
        packs: bool,
        around: Surroundings<'_>,
        tell: &mut dyn FnMut(Telling) -> Result<()>,
    ) -> Result<u64> {
        let writer = self.begin(around)?;
        // The tables on disk are the truth now, and durable.
        self.publish()?;
        let first = self.tables().layout().first_grain_sector;
        let mut taken = occupancy(self.tables())?;
        let mut moved = 0;
        if packs {
            if self.lower_tables(writer, &taken)? {
                taken = occupancy(self.tables())?;
            }
            moved = self.pack(writer, &taken, tell)?;
            if moved > 0 {
                taken = occupancy(self.tables())?;
            }
        }
        // The file can end there, however far the rest comes.
        if let Some(ready) = writer.ready.get() {
            ready.space.cut(taken.end().max(first));
        }
        self.punch_gaps(&taken, tell)?;
        Ok(moved)
    }

    /// Makes holes of what is free in front of the last grain, as far as it is none already.
    fn punch_gaps(&self, taken: &Occupancy, tell: &mut dyn FnMut(Telling) -> Result<()>) -> Result<()> {
        let (file, first) = (self.file(), self.first_grain_sector());
        let (start, end) = (first * SECTOR_BYTES, (taken.end() * SECTOR_BYTES).min(file.len()));
        tell(Telling::Planned(end.saturating_sub(start)))?;
        let mut holes = Holes::default();
        let (mut told, mut looks) = (start, 0);
        for free in taken.free(first, taken.end()) {
            let gap = free.start * SECTOR_BYTES..(free.end * SECTOR_BYTES).min(end);
            let mut at = gap.start;
            while at < gap.end {
                at = match holes.first_data_in(file, &(at..gap.end))? {
                    None => gap.end,
                    Some(data) => {
                        let end = gap.end.min(data + GONE_THROUGH);
                        // If the host cannot, the space stays taken; nothing names it.
                        let _ = file.storage().punch_hole(data..end);
                        end
                    }
                };
                looks += 1;
                if at - told >= GONE_THROUGH || looks == LOOKS {
                    tell(Telling::Done(at - told))?;
                    (told, looks) = (at, 0);
                }
            }
        }
        tell(Telling::Done(end.saturating_sub(told)))
    }

    /// Moves tables that lie among the grains, as those of ESX deltas do, out of the end of the file, durably: they
    /// would keep it from becoming shorter. Tables with a redundant copy lie in front of the grains, as a rule, and
    /// stay there. Says whether any was moved.
    fn lower_tables(&self, writer: &Writer, taken: &Occupancy) -> Result<bool> {
        let layout = self.tables().layout();
        if layout.keeps_redundant {
            return Ok(false);
        }
        let (directory, sectors, first) = (self.tables().directory(), layout.table_sectors, layout.first_grain_sector);
        let all = 0..u32::try_from(layout.tables()).unwrap_or(u32::MAX);
        let places = all.map(|table| (u64::from(directory.entry(table)), table));
        let mut places: Vec<_> = places.filter(|&(start, _)| start != 0).collect();
        // The file cannot become shorter than this.
        let least = first + taken.grains_above(0) * layout.grain_sectors + places.len() as u64 * sectors;
        places.retain(|(start, _)| start + sectors > least);
        places.sort_unstable_by(|one, other| other.cmp(one));
        let mut rooms = taken.free(first, least).filter(|room| room.end - room.start >= sectors);
        let mut room = 0..0;
        let mut bytes = vec![0; to_usize(sectors * SECTOR_BYTES)];
        let mut moved = false;
        for (start, table) in places {
            if room.end - room.start < sectors {
                let Some(next) = rooms.next() else { break };
                room = next;
            }
            let number = u32::try_from(room.start).unwrap_or(u32::MAX);
            bytes.fill(0);
            self.file().read(&mut bytes[..self.tables().table_len()], start * SECTOR_BYTES)?;
            self.file().write(&bytes, room.start * SECTOR_BYTES)?;
            let new = NewTable { table, start: number, redundant: None };
            let changed = self.cache().change(std::iter::empty(), |pending| pending.waiting().tables.push(new));
            changed.ok_or_else(|| writer.too_late())?;
            directory.set(table, number);
            room.start += sectors;
            moved = true;
        }
        if moved {
            self.publish()?;
        }
        Ok(moved)
    }

    /// Moves grains from the end of the file into what is free in front of them, durably. Says how many.
    fn pack(&self, writer: &Writer, taken: &Occupancy, tell: &mut dyn FnMut(Telling) -> Result<()>) -> Result<u64> {
        let layout = self.tables().layout();
        let (sectors, alignment) = (layout.grain_sectors, layout.grain_alignment);
        let end = taken.packed_end(layout.first_grain_sector, alignment);
        let above = taken.grains_above(end);
        tell(Telling::Planned(above * sectors * SECTOR_BYTES))?;
        let mut free = taken.free(layout.first_grain_sector, end);
        let mut room = 0..0;
        let mut targets = |grains: u64| {
            loop {
                let start = u64::next_multiple_of(room.start, alignment);
                let grains = grains.min(u64::saturating_sub(room.end, start) / sectors);
                if grains > 0 {
                    room.start = start + grains * sectors;
                    return Ok(Some((start, grains)));
                }
                match free.next() {
                    Some(next) => room = next,
                    None => return Ok(None),
                }
            }
        };
        let is_above = |start: u64| start + sectors > end;
        let moved = self.move_grains(writer, &is_above, &mut targets, &mut |bytes| tell(Telling::Done(bytes)))?;
        self.publish()?;
        Ok(moved)
    }

    /// Says in the header of a COWD extent where its file ends now, which was closed: other writers go on from there.
    pub(crate) fn lower_free_sector(&self) -> Result<()> {
        let writer = self.writer()?;
        let (HeaderMark::FreeSector { at, .. }, Some(ready)) = (self.tables().layout().mark, writer.ready.get()) else {
            return Ok(());
        };
        writer.health.check()?;
        patch_sector(self.file(), at, &u32::try_from(ready.space.end()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.file().sync_if_dirty()
    }

    /// The sector below which no grain begins.
    pub(crate) fn first_grain_sector(&self) -> u64 {
        self.tables().layout().first_grain_sector
    }

    /// Moves every grain that begins below the sector `front` behind it, durably. Says how many there were.
    ///
    /// # Errors
    /// As for [`give_back`](Self::give_back); `Full` where the format has no numbers left.
    pub(crate) fn clear_front(
        &self,
        front: u64,
        around: Surroundings<'_>,
        tell: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<u64> {
        let writer = self.begin(around)?;
        self.publish()?;
        let Some(ready) = writer.ready.get() else { return Ok(0) };
        let (sectors, alignment) = (self.grain_sectors(), self.tables().layout().grain_alignment);
        ready.space.only_above(front);
        let mut targets = |grains: u64| {
            let start = ready.space.allocate(self.file(), grains * sectors, alignment)?;
            Ok(Some((start, grains)))
        };
        let moved = self.move_grains(writer, &|start| start < front, &mut targets, tell)?;
        self.publish()?;
        Ok(moved)
    }
}

/// What is told about grains that move, and about a file that is gone through, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// So much is to be done.
    Planned(u64),
    /// So much was done.
    Done(u64),
}
