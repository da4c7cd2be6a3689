//! The look at the entries of one table, with what its copy says instead.

use super::MAX_END;
use super::occupancy::Occupancy;
use super::problem::{BadEntry, Entry, Observer, Problem, Side};
use crate::error::Result;
use crate::extent::tables::{ENTRY, Tables, UNALLOCATED, ZERO};
use crate::sector::{is_zero, to_usize};

/// The look at one table.
pub(super) struct Look<'a> {
    pub(super) tables: &'a Tables,
    pub(super) table: u32,
    /// The side that counts.
    pub(super) side: Side,
}

impl Look<'_> {
    /// Looks at the entries of a copy of which the directory has no table.
    pub(super) fn lone(&self, taken: &Occupancy, bytes: &[u8], observer: &mut dyn Observer) -> Result<()> {
        for (number, copy) in (0..).zip(bytes.as_chunks::<ENTRY>().0) {
            let entry = Entry { side: self.side, table: self.table, number, value: UNALLOCATED };
            self.copy(taken, entry, u32::from_le_bytes(*copy), observer)?;
        }
        Ok(())
    }

    /// Looks at all entries, and what the copy has instead of them.
    pub(super) fn entries(
        &self,
        taken: &mut Occupancy,
        bytes: &[u8],
        copy: Option<&[u8]>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let layout = self.tables.layout();
        let first = u64::from(self.table) * u64::from(layout.entries_per_table);
        let grains = layout.sectors.div_ceil(layout.grain_sectors).saturating_sub(first);
        // What an entry past the capacity says was never alive.
        let alive = to_usize(grains.min(layout.entries_per_table.into())) * ENTRY;
        let (bytes, beyond) = bytes.split_at(alive.min(bytes.len()));
        let (copy, copy_beyond) = match copy {
            Some(copy) => Some(copy.split_at(alive.min(copy.len()))).unzip(),
            None => (None, None),
        };
        // Of a copy that is the same there is nothing to say.
        let copy = copy.filter(|&copy| copy != bytes);
        self.alive(taken, bytes.as_chunks::<ENTRY>().0, copy.map(|copy| copy.as_chunks::<ENTRY>().0), observer)?;
        let sides = [(self.side, Some(beyond)), (self.side.other(), copy_beyond)];
        for (side, beyond) in sides.into_iter().filter_map(|(side, beyond)| Some((side, beyond?))) {
            if !is_zero(beyond) {
                let mut entries = beyond.as_chunks::<ENTRY>().0.iter().map(|entry| u32::from_le_bytes(*entry));
                let may_be_grains = entries.any(|entry| entry > ZERO && self.tables.plausible(entry));
                observer.found(Problem::PastCapacity { side, table: self.table, may_be_grains })?;
            }
        }
        Ok(())
    }

    /// Looks at the entries of grains, those together that follow each other in the file.
    fn alive(
        &self,
        taken: &mut Occupancy,
        entries: &[[u8; ENTRY]],
        copy: Option<&[[u8; ENTRY]]>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let layout = self.tables.layout();
        let step = u32::try_from(layout.grain_sectors).unwrap_or(0);
        let ends = layout.first_grain_sector..self.tables.file_sectors().min(MAX_END);
        let mut at = 0;
        while let Some(first) = entries.get(at) {
            let first = u32::from_le_bytes(*first);
            let run = run_len(&entries[at..], first, if first == UNALLOCATED { 0 } else { step });
            if run < FIRST && copy.is_none() {
                // Grains in no order, as guests write them.
                let taken = taken.take_each(&entries[at..entries.len().min(at + TOGETHER)], &ends);
                if taken > 0 {
                    at += taken;
                    continue;
                }
            }
            let start = u64::from(first);
            let last = start + (run as u64 - 1) * layout.grain_sectors;
            let is_plain = first == UNALLOCATED
                || (first != ZERO
                    && ends.contains(&start)
                    && ends.contains(&last)
                    && taken.take_run(start, run as u64));
            if copy.is_none() && is_plain {
                at += run;
                continue;
            }
            for (number, value) in (at..at + run).zip(&entries[at..]) {
                let value = u32::from_le_bytes(*value);
                let copy = copy.and_then(|copy| copy.get(number)).map(|copy| u32::from_le_bytes(*copy));
                let copy = copy.filter(|&copy| copy != value);
                let is_taken = is_plain && value != UNALLOCATED;
                self.entry(taken, number as u64, value, copy, is_taken, observer)?;
            }
            at += run;
        }
        Ok(())
    }

    /// Looks whether a copy that differs names what cannot be a grain if the tables are where they seem to be.
    fn copy(&self, taken: &Occupancy, entry: Entry, copy: u32, observer: &mut dyn Observer) -> Result<()> {
        if copy <= ZERO || !self.tables.plausible(copy) {
            return Ok(());
        }
        let grain = u64::from(copy)..u64::from(copy) + self.tables.layout().grain_sectors;
        match taken.first_metadata_in(&grain) {
            Some(sector) => observer.found(Problem::CopyInMetadata { entry, copy, sector }),
            None => Ok(()),
        }
    }

    fn entry(
        &self,
        taken: &mut Occupancy,
        number: u64,
        value: u32,
        copy: Option<u32>,
        is_taken: bool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let layout = self.tables.layout();
        let entry = Entry { side: self.side, table: self.table, number, value };
        let start = u64::from(value);
        let problem = match value {
            UNALLOCATED => None,
            // Known to be right, and to lie in line.
            _ if is_taken => None,
            ZERO if layout.zero_grains => None,
            ZERO => {
                observer.found(Problem::One(entry))?;
                None
            }
            _ if start < layout.first_grain_sector => Some(BadEntry::InMetadata),
            _ if start >= self.tables.file_sectors() => Some(BadEntry::PastEnd),
            _ => {
                let taken_before = taken.take_grain(start).err();
                if taken_before.is_none() && !start.is_multiple_of(layout.grain_alignment) {
                    observer.found(Problem::OutOfLine(entry))?;
                }
                taken_before.map(|sector| {
                    let grain = start..start + layout.grain_sectors;
                    BadEntry::Taken { sector, by_metadata: taken.first_metadata_in(&grain).is_some() }
                })
            }
        };
        if let Some(copy) = copy {
            self.copy(taken, entry, copy, observer)?;
        }
        match (problem, copy) {
            (Some(problem), _) => observer.found(Problem::BadEntry { entry, problem, copy }),
            (None, Some(copy)) => observer.found(Problem::CopyDiffers { entry, copy }),
            (None, None) => Ok(()),
        }
    }
}

/// Entries that are looked at together, and how many have to be alike before it is worth it.
const TOGETHER: usize = 64;
const FIRST: usize = 4;

/// How many entries from the first on, which is `first`, are each by `step` more than the one before.
fn run_len(entries: &[[u8; ENTRY]], first: u32, step: u32) -> usize {
    let mut len = same_len(&entries[..entries.len().min(FIRST)], first, step);
    if len < FIRST {
        return len;
    }
    let nth = |number: usize| first.wrapping_add(step.wrapping_mul(u32::try_from(number).unwrap_or(0)));
    for entries in entries[FIRST..].chunks(TOGETHER) {
        let (mut differences, mut expected) = (0, nth(len));
        for entry in entries {
            differences |= u32::from_le_bytes(*entry) ^ expected;
            expected = expected.wrapping_add(step);
        }
        if differences != 0 {
            return len + same_len(entries, nth(len), step);
        }
        len += entries.len();
    }
    len
}

/// The same, entry by entry.
fn same_len(entries: &[[u8; ENTRY]], mut expected: u32, step: u32) -> usize {
    let is_next = |entry: &&[u8; ENTRY]| {
        let is_it = u32::from_le_bytes(**entry) == expected;
        expected = expected.wrapping_add(step);
        is_it
    };
    entries.iter().take_while(is_next).count()
}
