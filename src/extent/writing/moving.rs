//! Grains that get another place in the file: those behind a smaller end of it, or in the way of larger tables.
//!
//! ```text
//! copy to a place that nothing names -> sync -> entries, both copies -> sync -> the old place is free
//! ```
//!
//! The places that they leave are not used again meanwhile, so that nothing is ever copied over what a durable table
//! still names. Whenever it stops, every entry names a grain that is whole.

use std::ops::Range;

use byteorder::{ByteOrder, LittleEndian};

use super::Writer;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::extent::SparseExtent;
use crate::extent::audit::Stretch;
use crate::extent::holes::Holes;
use crate::extent::tables::{ENTRY, UNALLOCATED, ZERO};
use crate::sector::{SECTOR_BYTES, is_zero, to_usize};

/// Bytes that are copied at once.
const BUFFER: usize = 1 << 20;

/// Bytes that are moved before their entries are published and their old places given back: two syncs for so much, and
/// no more space that is taken twice.
const BATCH: u64 = 1 << 30;

/// Rows of grains that are moved before that at most: 1 MiB of memory.
const MAX_ROWS: usize = 64 << 10;

/// Old places that are given back before somebody is asked whether to stop.
const PUNCHED: usize = 64;

/// Where grains go: for so many in a row at most, the sector at which the first goes, and how many go there.
pub(super) type Targets<'a> = dyn FnMut(u64) -> Result<Option<(u64, u64)>> + 'a;

/// Grains in a row that lie in a row.
#[derive(Clone, Copy)]
struct Row {
    first: u64,
    /// The sector at which the first of them begins.
    start: u64,
    grains: u64,
}

struct Mover<'a, 'b> {
    extent: &'a SparseExtent,
    writer: &'a Writer,
    targets: &'b mut Targets<'b>,
    /// Is told how many bytes were moved, and may stop it.
    tell: &'b mut dyn FnMut(u64) -> Result<()>,
    buffer: Buffer,
    holes: Holes,
    unpublished: u64,
    /// The bytes that it was moved from.
    freed: Vec<Range<u64>>,
    moved: u64,
}

impl SparseExtent {
    /// Moves every grain for which `is_moved` says so by the sector at which it begins. Nothing may be pending, and
    /// nobody else may write. What was moved last is not published yet, and its old places are left to the caller: to
    /// cut the file, or to write over them, takes less than to give back each. Says how many grains were moved.
    ///
    /// # Errors
    /// What the host reports, and what `targets` and `tell` do. What was moved until then stays so.
    pub(super) fn move_grains<'b>(
        &self,
        writer: &Writer,
        is_moved: &dyn Fn(u64) -> bool,
        targets: &'b mut Targets<'b>,
        tell: &'b mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<u64> {
        let layout = self.tables().layout();
        let (buffer, holes) = (Buffer::new(BUFFER), Holes::default());
        let (unpublished, freed, moved) = (0, Vec::new(), 0);
        let mut work = Mover { extent: self, writer, targets, tell, buffer, holes, unpublished, freed, moved };
        let mut stretch = Stretch::default();
        let grains = layout.sectors.div_ceil(layout.grain_sectors);
        let directory = self.tables().directory();
        let mut entries = Vec::with_capacity(layout.entries_per_table as usize);
        let mut listed = directory.listed();
        loop {
            let numbers: Vec<u32> = listed.by_ref().take(Stretch::tables(self.tables())).collect();
            if numbers.is_empty() {
                break;
            }
            let read = stretch.read(self.tables(), directory, &numbers, |_| true);
            for (nth, &table) in numbers.iter().enumerate() {
                let Some(bytes) = stretch.table(nth) else { break };
                let first = u64::from(table) * u64::from(layout.entries_per_table);
                entries.clear();
                // What an entry past the capacity says was never alive.
                let live = to_usize(grains.saturating_sub(first));
                entries.extend(bytes.chunks_exact(ENTRY).take(live).map(LittleEndian::read_u32));
                work.take_table(first, &entries, is_moved)?;
            }
            read?;
        }
        Ok(work.moved)
    }
}

impl Mover<'_, '_> {
    /// Moves what is to be moved of the grains from `first` on that have these entries.
    fn take_table(&mut self, first: u64, entries: &[u32], is_moved: &dyn Fn(u64) -> bool) -> Result<()> {
        let grain_sectors = self.extent.grain_sectors();
        let mut row: Option<Row> = None;
        for (grain, &entry) in (first..).zip(entries) {
            let start = u64::from(entry);
            if let Some(row) = &mut row
                && start == row.start + row.grains * grain_sectors
                && is_moved(start)
            {
                row.grains += 1;
                continue;
            }
            if let Some(row) = row.take() {
                self.take_row(row)?;
            }
            row = Some(Row { first: grain, start, grains: 1 })
                .filter(|_| !matches!(entry, UNALLOCATED | ZERO) && is_moved(start));
        }
        row.map_or(Ok(()), |row| self.take_row(row))
    }

    fn take_row(&mut self, mut row: Row) -> Result<()> {
        let grain_sectors = self.extent.grain_sectors();
        // Not so much that nobody is asked for long whether to stop.
        let most = (16 * BUFFER as u64 / (grain_sectors * SECTOR_BYTES)).max(1);
        while row.grains > 0 {
            let Some((target, grains)) = (self.targets)(row.grains.min(most))? else { return Ok(()) };
            let now = Row { grains, ..row };
            self.copy(now, target)?;
            self.commit(now, target)?;
            row = Row {
                first: row.first + grains,
                start: row.start + grains * grain_sectors,
                grains: row.grains - grains,
            };
        }
        Ok(())
    }

    /// Copies grains to a place that nothing names, whatever it holds.
    fn copy(&mut self, row: Row, target: u64) -> Result<()> {
        let file = self.extent.file();
        let len = row.grains * self.extent.grain_sectors() * SECTOR_BYTES;
        let (from, to) = (row.start * SECTOR_BYTES, target * SECTOR_BYTES);
        let mut done = 0;
        while done < len {
            let now = (len - done).min(BUFFER as u64);
            let source = from + done..from + done + now;
            let is_hole = source.end <= file.len() && self.holes.cover(file, &source)?;
            let buffer = &mut self.buffer[..to_usize(now)];
            if !is_hole {
                file.read(buffer, source.start)?;
            }
            if is_hole || is_zero(buffer) {
                file.punch(to + done..to + done + now)?;
            } else {
                file.write(buffer, to + done)?;
            }
            done += now;
        }
        // An entry must not name what lies past the end.
        if file.len() < to + len { file.set_len(to + len) } else { Ok(()) }
    }

    /// Lets entries name the grains where they are now.
    fn commit(&mut self, row: Row, target: u64) -> Result<()> {
        let Self { extent, writer, .. } = *self;
        let grain_sectors = extent.grain_sectors();
        let grains = row.first..row.first + row.grains;
        extent.back_tables(writer, &grains)?;
        let starts = (target..).step_by(to_usize(grain_sectors));
        let entries = grains.zip(starts).map(|(grain, start)| (grain, u32::try_from(start).unwrap_or(UNALLOCATED)));
        let len = row.grains * grain_sectors * SECTOR_BYTES;
        let old = row.start * SECTOR_BYTES..row.start * SECTOR_BYTES + len;
        extent.cache().change(entries, |_| ()).ok_or_else(|| writer.too_late())?;
        writer.check()?;
        self.moved += row.grains;
        self.unpublished += len;
        self.freed.push(old);
        if self.unpublished >= BATCH || self.freed.len() >= MAX_ROWS {
            extent.publish()?;
            self.unpublished = 0;
            for (number, old) in (1..).zip(std::mem::take(&mut self.freed)) {
                // If the host cannot, the space stays taken; nothing names it any more.
                let _ = extent.file().storage().punch_hole(old.start..old.end.min(extent.file().len()));
                if number % PUNCHED == 0 {
                    (self.tell)(0)?;
                }
            }
        } else {
            extent.publish_if_much()?;
        }
        (self.tell)(len)
    }
}
