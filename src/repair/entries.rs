//! Entries that are put right in their places, in both copies of their tables.
//!
//! | table | redundant copy | both get |
//! |---|---|---|
//! | can be right | anything else | the table's; on request the copy's, if that can be right and its grain is free |
//! | past the end of the file | can be right, and its grain is free | the copy's; 0 in an extent that was not closed |
//! | past the end of the file | anything else | 0 |
//! | in the metadata | can be right, and its grain is free | the copy's |
//! | in the metadata | anything else | what they have: nobody knows |
//!
//! What a guest can read does not change, but for what is done on request.

use byteorder::{ByteOrder, LittleEndian};

use super::changes::Changes;
use super::plan::Plan;
use crate::error::Result;
use crate::extent::audit::{Audit, Occupancy, Side};
use crate::extent::{ENTRY, Tables};
use crate::sector::{SECTOR_BYTES, to_usize};

const UNALLOCATED: u32 = 0;
const ZERO: u32 = 1;

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
        let mut resolve = Resolve { tables, taken: audit.taken_mut(), prefer_redundant };
        match places {
            [Some(_), Some(_)] => resolve.pair(&mut both, table),
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
    taken: &'a mut Occupancy,
    prefer_redundant: bool,
}

impl Resolve<'_> {
    fn pair(&mut self, [primary, copy]: &mut [Vec<u8>; 2], table: u32) {
        let alive = self.alive(table);
        for (at, (entry, other)) in primary.chunks_exact_mut(ENTRY).zip(copy.chunks_exact_mut(ENTRY)).enumerate() {
            if at >= alive {
                entry.fill(0);
                other.fill(0);
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
                entry.fill(0);
            } else if let Some(value) = self.value(LittleEndian::read_u32(entry), None) {
                LittleEndian::write_u32(entry, value);
            }
        }
    }

    /// What an entry becomes whose copy differs; `None` if nobody knows.
    fn value(&mut self, value: u32, copy: Option<u32>) -> Option<u32> {
        let layout = self.tables.layout();
        let is_good = self.tables.plausible(value);
        let is_past_end = !is_good && u64::from(value) >= layout.first_grain_sector;
        let wants_copy = self.prefer_redundant || !(is_good || is_past_end && layout.unclean);
        if wants_copy && let Some(copy) = copy.filter(|&copy| self.is_free(copy)) {
            return Some(copy);
        }
        if is_good {
            return Some(value);
        }
        is_past_end.then_some(UNALLOCATED)
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
