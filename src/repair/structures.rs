//! What needs new room at the end of the file: tables, redundant copies, directories, and grains of their own for entries
//! that share one.
//!
//! ```text
//! new tables, copies and grains, behind everything -> sync -> directory entries, table entries, header -> sync
//! ```
//!
//! So what names something new is written when that is durable. Before the file grows, no entry may be left that names
//! what lies past its end.

use byteorder::{ByteOrder, LittleEndian};

use super::changes::Changes;
use super::plan::Plan;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::audit::{Audit, MAX_END, Side};
use crate::extent::{ENTRY, GrainDirectory, Tables};
use crate::format::{HeaderMark, KdmvHeader};
use crate::sector::{SECTOR_BYTES, to_usize};

/// The free room behind everything in a file.
pub(super) struct Room<'a> {
    tables: &'a Tables,
    next: u64,
}

impl<'a> Room<'a> {
    /// The room behind what an audit has found, and behind the end of the file.
    pub(super) fn behind(tables: &'a Tables, audit: &Audit<'_>) -> Self {
        Self { tables, next: audit.taken().end().max(tables.file_sectors()) }
    }

    fn take(&mut self, sectors: u64, alignment: u64) -> Result<u64> {
        let start = self.next.next_multiple_of(alignment);
        if start + sectors >= MAX_END {
            let text = "no room: what begins at or above 2 TiB of a file cannot be named in its tables";
            return Err(Error::text(ErrorKind::Full, text).in_file(self.tables.file().path()));
        }
        self.next = start + sectors;
        Ok(start)
    }
}

/// Makes what a plan wants to be new, durably.
pub(super) fn make(
    tables: &Tables,
    plan: &Plan<'_>,
    audit: &Audit<'_>,
    room: &mut Room<'_>,
    changes: &mut Changes<'_>,
) -> Result<()> {
    let mut links = Vec::new();
    if let Some(redundant) = audit.redundant() {
        for &table in plan.new_tables.iter().filter(|&&table| tables.place(redundant, table).is_ok()) {
            let start = copy_table(tables, redundant, table, room, changes)?;
            links.push((tables.directory().entry_offset(table), start));
        }
        for &table in plan.new_copies.iter().filter(|&&table| audit.is_usable(Side::Primary, table)) {
            let start = copy_table(tables, tables.directory(), table, room, changes)?;
            links.push((redundant.entry_offset(table), start));
        }
    }
    for &(table, number) in &plan.shared {
        let entries = entry_offsets(tables, audit, table, number)?;
        let Some(&first) = entries.first() else { continue };
        let start = copy_grain(tables, first, room, changes)?;
        links.extend(entries.into_iter().map(|offset| (offset, start)));
    }
    raise_free_sector(tables, room.next, changes)?;
    changes.sync()?;
    for (offset, start) in links {
        changes.write(offset, start.to_le_bytes().to_vec())?;
    }
    changes.sync()
}

/// Makes a new directory, and a copy of each table, and lets the header name it: the one that cannot be read, whichever
/// that is.
pub(super) fn make_directory(
    tables: &Tables,
    audit: &Audit<'_>,
    header: &KdmvHeader,
    room: &mut Room<'_>,
    changes: &mut Changes<'_>,
) -> Result<()> {
    let layout = tables.layout();
    let entries = to_usize(layout.tables());
    let len = layout.tables() * ENTRY as u64;
    let start = room.take(len.div_ceil(SECTOR_BYTES), 1)?;
    let mut directory = vec![0; entries * ENTRY];
    for (table, entry) in (0..).zip(directory.chunks_exact_mut(ENTRY)) {
        if audit.is_usable(Side::Primary, table) {
            let copy = copy_table(tables, tables.directory(), table, room, changes)?;
            LittleEndian::write_u32(entry, copy);
        }
    }
    changes.write(start * SECTOR_BYTES, directory)?;
    changes.sync()?;
    let offset = if layout.directory_is_redundant { KdmvHeader::GD_OFFSET_AT } else { KdmvHeader::RGD_OFFSET_AT };
    debug_assert!(header.has_redundant_tables());
    changes.write(offset, start.to_le_bytes().to_vec())?;
    changes.sync()
}

/// Copies a table to new room; the sector at which it begins.
fn copy_table(
    tables: &Tables,
    from: &GrainDirectory,
    table: u32,
    room: &mut Room<'_>,
    changes: &mut Changes<'_>,
) -> Result<u32> {
    let sectors = tables.layout().table_sectors;
    let start = room.take(sectors, 1)?;
    let mut bytes = vec![0; to_usize(sectors * SECTOR_BYTES)];
    let place = tables.place(from, table)?;
    tables.file().read(&mut bytes[..tables.table_len()], place.start)?;
    changes.write(start * SECTOR_BYTES, bytes)?;
    Ok(u32::try_from(start).unwrap_or(u32::MAX))
}

/// Copies the grain that the entry at this byte names; the sector at which the copy begins.
fn copy_grain(tables: &Tables, entry: u64, room: &mut Room<'_>, changes: &mut Changes<'_>) -> Result<u32> {
    let layout = tables.layout();
    let mut old = [0; ENTRY];
    tables.file().read(&mut old, entry)?;
    let old = u64::from(u32::from_le_bytes(old));
    let start = room.take(layout.grain_sectors, layout.grain_alignment)?;
    let mut bytes = vec![0; to_usize(layout.grain_sectors * SECTOR_BYTES)];
    tables.file().read(&mut bytes, old * SECTOR_BYTES)?;
    changes.write(start * SECTOR_BYTES, bytes)?;
    Ok(u32::try_from(start).unwrap_or(u32::MAX))
}

/// Where an entry stands in the file, in both copies of its table as far as they can be used.
fn entry_offsets(tables: &Tables, audit: &Audit<'_>, table: u32, number: u64) -> Result<Vec<u64>> {
    let sides = [(Side::Primary, Some(tables.directory())), (Side::Redundant, audit.redundant())];
    let usable = sides.into_iter().filter(|(side, _)| audit.is_usable(*side, table));
    usable
        .filter_map(|(_, directory)| directory)
        .map(|directory| Ok(tables.place(directory, table)?.start + number * ENTRY as u64))
        .collect()
}

/// Says in the header of a COWD extent how far the file is used.
pub(super) fn raise_free_sector(tables: &Tables, end: u64, changes: &mut Changes<'_>) -> Result<()> {
    let HeaderMark::FreeSector { at, .. } = tables.layout().mark else { return Ok(()) };
    let mut value = [0; ENTRY];
    tables.file().read(&mut value, at)?;
    let end = u32::try_from(end).unwrap_or(u32::MAX);
    if u32::from_le_bytes(value) < end { changes.write(at, end.to_le_bytes().to_vec()) } else { Ok(()) }
}
