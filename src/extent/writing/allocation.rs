//! Grains that get a place in the file: claimed, placed, filled, and then shown to everybody.

use std::ops::Range;

use super::space::Claimant;
use super::{Ready, Writer, lock};
use crate::block_device::read_only;
use crate::error::{ErrorKind, Result};
use crate::extent::SparseExtent;
use crate::extent::pending::NewTable;
use crate::extent::tables::UNALLOCATED;
use crate::mapping::Place;
use crate::sector::{SECTOR_BYTES, to_usize};

/// The most grains that change together: pending entries are bounded, however much is written at once.
pub(super) const MAX_GRAINS: u64 = 64 << 10;

/// Grains in a row that are claimed and have a place in the file, but no entries yet.
#[derive(Clone, Debug)]
pub(crate) struct Reservation {
    pub(super) grains: Range<u64>,
    /// The sector of the file at which the first of them goes.
    pub(super) start: u64,
    /// Whether what is not written of the grains comes from below; else it is zero.
    pub(super) filled_from_below: bool,
    /// For how many of the sectors that were asked for there is room.
    pub(super) sectors: u64,
}

impl Reservation {
    /// For how many of the sectors that were asked for there is room.
    pub(crate) fn sectors(&self) -> u64 {
        self.sectors
    }
}

impl SparseExtent {
    /// Reserves grains for a write of at most `max` sectors from `sector` on, which had no grain a moment ago; `None`
    /// if the first of them has one by now. Waits for calls that are about to fill one of the grains.
    ///
    /// # Errors
    /// `Busy` where a prepared write has one of them.
    pub(super) fn reserve(&self, writer: &Writer, sector: u64, max: u64, by: Claimant) -> Result<Option<Reservation>> {
        let Some(ready) = writer.ready.get() else { return Ok(None) };
        let space = &ready.space;
        let max = max.min(MAX_GRAINS * self.grain_sectors() - sector % self.grain_sectors());
        let first = self.grain_of(sector);
        let claim = space.claim(first..self.end_of(sector, max), by)?;
        // Whoever had the claim before may have filled the grains.
        let run = self.map_to_write(sector, max)?;
        let filled_from_below = match run.place {
            Place::Data { .. } => return Ok(None),
            Place::Compressed { .. } => return Err(read_only()),
            Place::Zero => false,
            Place::Unallocated => true,
        };
        let mut grains = first..self.end_of(sector, run.sectors);
        space.shorten(first, grains.end);
        self.back_tables(writer, &grains)?;
        let layout = self.tables().layout();
        let start = loop {
            let sectors = (grains.end - grains.start) * layout.grain_sectors;
            match space.allocate(self.file(), sectors, layout.grain_alignment) {
                // What has no room in one piece may have it in several.
                Err(error) if error.kind() == ErrorKind::Full && grains.end - grains.start > 1 => {
                    grains.end = grains.start + (grains.end - grains.start) / 2;
                }
                start => break start?,
            }
        };
        space.shorten(first, grains.end);
        claim.keep();
        let sectors = run.sectors.min(grains.end * layout.grain_sectors - sector);
        Ok(Some(Reservation { grains, start, filled_from_below, sectors }))
    }

    /// Shows the grains of a reservation, which are filled.
    pub(crate) fn commit(&self, reservation: &Reservation) -> Result<()> {
        let Reservation { grains, start, .. } = reservation;
        let sectors = self.grain_sectors();
        let entries = grains.clone().zip((*start..).step_by(to_usize(sectors)));
        // The allocator gives nothing out that has no number.
        let entries = entries.map(|(grain, start)| (grain, u32::try_from(start).unwrap_or(UNALLOCATED)));
        let changed = self.cache().change(entries, |_| ());
        self.release(reservation);
        let writer = self.writer()?;
        changed.ok_or_else(|| writer.too_late())?;
        writer.check()?;
        self.publish_if_much()
    }

    /// Gives the grains of a reservation back, to which nothing is written any more.
    pub(crate) fn abandon(&self, reservation: &Reservation) {
        if let Some(ready) = self.writer().ok().and_then(|writer| writer.ready.get()) {
            let sectors = (reservation.grains.end - reservation.grains.start) * self.grain_sectors();
            ready.space.give_back(self.file(), reservation.start..reservation.start + sectors);
        }
        self.release(reservation);
    }

    /// Lets the grains of a reservation go. Its space is not given back: somebody may still write to it.
    pub(crate) fn release(&self, reservation: &Reservation) {
        if let Some(ready) = self.writer().ok().and_then(|writer| writer.ready.get()) {
            drop(ready.space.kept(reservation.grains.start));
        }
    }

    /// Sees to it that the tables of `grains` exist and have their space on the host: to publish an entry must not fail
    /// for lack of it.
    pub(super) fn back_tables(&self, writer: &Writer, grains: &Range<u64>) -> Result<()> {
        let entries = u64::from(self.tables().layout().entries_per_table);
        let tables = grains.start / entries..grains.end.div_ceil(entries);
        let mut backed = lock(&writer.backed);
        for table in tables {
            let table = u32::try_from(table).unwrap_or(u32::MAX);
            if backed.contains(&table) {
                continue;
            }
            if self.tables().directory().entry(table) == 0 {
                self.new_table(writer, table)?;
            } else {
                self.fill_holes_of(writer, table)?;
            }
            backed.insert(table);
        }
        Ok(())
    }

    /// Writes a new table, both copies, and has it linked with the next publication.
    fn new_table(&self, writer: &Writer, table: u32) -> Result<()> {
        let Some(ready) = writer.ready.get() else { return Ok(()) };
        let sectors = self.tables().layout().table_sectors;
        let copies = 1 + u64::from(ready.found.redundant.is_some());
        self.fill_holes_of_directories(ready, table)?;
        let start = ready.space.allocate(self.file(), sectors * copies, 1)?;
        let zeros = vec![0; to_usize(sectors * copies * SECTOR_BYTES)];
        if let Err(error) = self.file().write(&zeros, start * SECTOR_BYTES) {
            ready.space.give_back(self.file(), start..start + sectors * copies);
            return Err(error);
        }
        let number = |sector: u64| u32::try_from(sector).unwrap_or(0);
        let redundant = ready.found.redundant.as_ref().map(|directory| (directory, number(start + sectors)));
        if let Some((directory, start)) = redundant {
            directory.set(table, start);
        }
        let new = NewTable { table, start: number(start), redundant: redundant.map(|(_, start)| start) };
        self.cache()
            .change(std::iter::empty(), |pending| pending.waiting().tables.push(new))
            .ok_or_else(|| writer.too_late())?;
        self.tables().directory().set(table, new.start);
        Ok(())
    }

    /// Writes over a table that lies in a hole of the host's file, and over its copy, what is there: zeros.
    fn fill_holes_of(&self, writer: &Writer, table: u32) -> Result<()> {
        let redundant = writer.ready.get().and_then(|ready| ready.found.redundant.as_ref());
        for directory in std::iter::once(self.tables().directory()).chain(redundant) {
            if directory.entry(table) == 0 {
                continue;
            }
            self.fill_holes(self.tables().place(directory, table)?)?;
        }
        Ok(())
    }

    /// As `fill_holes_of`, for the sectors of the directories that link a table. Nothing that is pending can be in such
    /// a sector while it is a hole: each new table fills its own.
    fn fill_holes_of_directories(&self, ready: &Ready, table: u32) -> Result<()> {
        for directory in std::iter::once(self.tables().directory()).chain(&ready.found.redundant) {
            let start = directory.entry_offset(table) / SECTOR_BYTES * SECTOR_BYTES;
            self.fill_holes(start..start + SECTOR_BYTES)?;
        }
        Ok(())
    }

    /// Writes what is there over bytes of the file that lie in a hole of it.
    fn fill_holes(&self, place: Range<u64>) -> Result<()> {
        let data = self.file().next_data(place.start)?;
        if data.is_some_and(|data| data.start <= place.start && place.end <= data.end) {
            return Ok(());
        }
        let mut bytes = vec![0; to_usize(place.end - place.start)];
        self.file().read(&mut bytes, place.start)?;
        self.file().write(&bytes, place.start)
    }

    pub(super) fn grain_of(&self, sector: u64) -> u64 {
        sector / self.grain_sectors()
    }

    /// The grain after those of `sectors` sectors from `sector` on.
    fn end_of(&self, sector: u64, sectors: u64) -> u64 {
        (sector + sectors).div_ceil(self.grain_sectors())
    }
}

impl Writer {
    /// Runs `fill`, which writes to the grains of a reservation. A panic in it ends the claim to them.
    pub(super) fn while_claimed<R>(&self, reservation: &Reservation, fill: impl FnOnce() -> R) -> R {
        let claim = self.ready.get().map(|ready| ready.space.kept(reservation.grains.start));
        let filled = fill();
        if let Some(claim) = claim {
            claim.keep();
        }
        filled
    }

    /// Runs `change` while nobody else fills or frees one of `grains`.
    pub(super) fn with_claim<R>(&self, grains: &Range<u64>, change: impl FnOnce() -> Result<R>) -> Result<Option<R>> {
        let Some(ready) = self.ready.get() else { return Ok(None) };
        let _claim = ready.space.claim(grains.clone(), Claimant::Call)?;
        change().map(Some)
    }
}
