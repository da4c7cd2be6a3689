//! Entries that are put right in their places, in both copies of their tables.
//!
//! | table | redundant copy | both get |
//! |---|---|---|
//! | can be right | anything else | the table's |
//! | past the end of the file | can be right, and its grain is free | the copy's; 0 in an extent that was not closed |
//! | past the end of the file | anything else | 0 |
//! | in the metadata | can be right, and its grain is free | the copy's |
//! | in the metadata | anything else | what they have: nobody knows |
//!
//! What a guest can read does not change so. On request the two change places in this: the copy's wins wherever it can
//! be right, and where it cannot be the table's, whether the extent was closed or not.

use byteorder::{ByteOrder, LittleEndian};

use super::changes::Changes;
use super::plan::Plan;
use crate::error::Result;
use crate::extent::audit::{Audit, Occupancy, Side};
use crate::extent::{ENTRY, Tables, UNALLOCATED, ZERO};
use crate::sector::{SECTOR_BYTES, to_usize};

/// Puts the entries of all tables right that need it. Not synced.
pub(super) fn put_right(
    tables: &Tables,
    plan: &Plan<'_>,
    audit: &mut Audit<'_>,
    prefer_redundant: bool,
    changes: &mut Changes<'_>,
) -> Result<()> {
    let mut both = [0; 2].map(|_| vec![0; tables.table_len()]);
    for table in plan.troubled.iter() {
        let table = u32::try_from(table).unwrap_or(u32::MAX);
        let usable = [Side::Primary, Side::Redundant].map(|side| audit.is_usable(side, table));
        let directories = [Some(tables.directory()), audit.redundant()];
        let mut places = [None, None];
        for ((place, bytes), (directory, usable)) in
            places.iter_mut().zip(&mut both).zip(directories.into_iter().zip(usable))
        {
            if let (Some(directory), true) = (directory, usable) {
                let found = tables.place(directory, table)?;
                tables.file().read(bytes, found.start)?;
                *place = Some(found.start);
            }
        }
        let before = both.clone();
        let mut resolve = Resolve { tables, prefer_redundant, taken: audit.taken_mut() };
        match places {
            [Some(_), Some(_)] => {
                let [primary, copy] = &mut both;
                resolve.pair(if prefer_redundant { [copy, primary] } else { [primary, copy] }, table);
            }
            [Some(_), None] => resolve.single(&mut both[0], table),
            [None, Some(_)] => resolve.single(&mut both[1], table),
            [None, None] => {}
        }
        for ((place, now), before) in places.into_iter().zip(&both).zip(&before) {
            let Some(start) = place else { continue };
            write_changed_sectors(start, before, now, changes)?;
        }
    }
    Ok(())
}

/// What entries become.
struct Resolve<'a> {
    tables: &'a Tables,
    prefer_redundant: bool,
    taken: &'a mut Occupancy,
}

impl Resolve<'_> {
    /// Both copies of a table; the first of them counts.
    fn pair(&mut self, [first, second]: [&mut Vec<u8>; 2], table: u32) {
        let alive = self.alive(table);
        for (at, (entry, other)) in first.chunks_exact_mut(ENTRY).zip(second.chunks_exact_mut(ENTRY)).enumerate() {
            if at >= alive {
                self.past_capacity(entry);
                self.past_capacity(other);
                continue;
            }
            let (value, copied) = (LittleEndian::read_u32(entry), LittleEndian::read_u32(other));
            if let Some(value) = self.value(value, Some(copied).filter(|&copied| copied != value)) {
                LittleEndian::write_u32(entry, value);
                LittleEndian::write_u32(other, value);
            }
        }
    }

    fn single(&mut self, table_bytes: &mut [u8], table: u32) {
        let alive = self.alive(table);
        for (at, entry) in table_bytes.chunks_exact_mut(ENTRY).enumerate() {
            if at >= alive {
                self.past_capacity(entry);
            } else if let Some(value) = self.value(LittleEndian::read_u32(entry), None) {
                LittleEndian::write_u32(entry, value);
            }
        }
    }

    /// What an entry becomes whose copy differs; `None` if nobody knows.
    fn value(&mut self, value: u32, copy: Option<u32>) -> Option<u32> {
        let layout = self.tables.layout();
        if self.tables.plausible(value) {
            return Some(value);
        }
        let is_past_end = u64::from(value) >= layout.first_grain_sector;
        // What readers see as unallocated stays so; the redundant entry they do not see.
        let takes_copy = !(is_past_end && layout.unclean) || self.prefer_redundant;
        let copy = copy.filter(|&copy| takes_copy && self.is_free(copy));
        copy.or(Some(UNALLOCATED).filter(|_| is_past_end))
    }

    /// An entry past the capacity becomes 0, unless it may be a grain.
    fn past_capacity(&self, entry: &mut [u8]) {
        let value = LittleEndian::read_u32(entry);
        if value <= ZERO || !self.tables.plausible(value) {
            entry.fill(0);
        }
    }

    /// Whether an entry can be right, and nothing else has its grain. It is taken then.
    fn is_free(&mut self, entry: u32) -> bool {
        match entry {
            UNALLOCATED | ZERO => true,
            _ => self.tables.plausible(entry) && self.taken.take_grain(entry.into()).is_ok(),
        }
    }

    /// How many entries of a table are for grains of the extent.
    fn alive(&self, table: u32) -> usize {
        let layout = self.tables.layout();
        let first = u64::from(table) * u64::from(layout.entries_per_table);
        to_usize(layout.sectors.div_ceil(layout.grain_sectors).saturating_sub(first))
    }
}

/// Writes the sectors of a table that have changed.
fn write_changed_sectors(start: u64, before: &[u8], now: &[u8], changes: &mut Changes<'_>) -> Result<()> {
    let sector = to_usize(SECTOR_BYTES);
    for (number, (before, now)) in before.chunks(sector).zip(now.chunks(sector)).enumerate() {
        if before != now {
            changes.write(start + number as u64 * SECTOR_BYTES, now.to_vec())?;
        }
    }
    Ok(())
}
