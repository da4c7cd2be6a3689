//! What needs new room at the end of the file: tables, redundant copies, directories, and grains of their own for
//! entries that share one.
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
use crate::extent::audit::{Audit, MAX_END, NO_ROOM, Side};
use crate::extent::{ENTRY, GrainDirectory, Tables};
use crate::format::{HeaderMark, KdmvHeader};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, is_zero, to_usize};

/// Bytes of a grain that are copied at once.
const PIECE: u64 = 1 << 20;

/// The free room behind everything in a file.
struct Room<'a> {
    tables: &'a Tables,
    next: u64,
}

impl<'a> Room<'a> {
    /// The room behind what an audit has found, and behind the end of the file.
    fn behind(tables: &'a Tables, audit: &Audit<'_>) -> Self {
        Self { tables, next: audit.taken().end().max(tables.file_sectors()) }
    }

    fn take(&mut self, sectors: u64, alignment: u64) -> Result<u64> {
        let start = self.next.next_multiple_of(alignment);
        if start + sectors >= MAX_END {
            return Err(Error::text(ErrorKind::Full, NO_ROOM).in_file(self.tables.file().path()));
        }
        self.next = start + sectors;
        Ok(start)
    }
}

/// Makes the first that is wanted of tables, grains and a directory, durably; the others need another look.
pub(super) fn make_one_kind(
    tables: &Tables,
    plan: &Plan<'_>,
    audit: &Audit<'_>,
    changes: &mut Changes<'_>,
) -> Result<()> {
    if !(plan.new_tables.is_empty() && plan.new_copies.is_empty()) {
        make_tables(tables, plan, audit, changes)
    } else if !plan.shared.is_empty() {
        separate_grains(tables, plan, audit, changes)
    } else if lacks_directory(tables)? {
        make_directory(tables, audit, changes)
    } else {
        Ok(())
    }
}

/// Makes the tables and copies that a plan wants, durably.
fn make_tables(tables: &Tables, plan: &Plan<'_>, audit: &Audit<'_>, changes: &mut Changes<'_>) -> Result<()> {
    let Some(redundant) = audit.redundant() else { return Ok(()) };
    let room = &mut Room::behind(tables, audit);
    let mut links = Vec::new();
    for &table in plan.new_tables.iter().filter(|&&table| tables.place(redundant, table).is_ok()) {
        links.push((tables.directory(), table, copy_table(tables, redundant, table, room, changes)?));
    }
    for &table in plan.new_copies.iter().filter(|&&table| audit.is_usable(Side::Primary, table)) {
        links.push((redundant, table, copy_table(tables, tables.directory(), table, room, changes)?));
    }
    changes.sync()?;
    for (directory, table, start) in links {
        changes.write(directory.entry_offset(table), start.to_le_bytes().to_vec())?;
        directory.set(table, start);
    }
    changes.sync()
}

/// Gives entries whose grains are taken by other ones a copy of their own, durably.
fn separate_grains(tables: &Tables, plan: &Plan<'_>, audit: &Audit<'_>, changes: &mut Changes<'_>) -> Result<()> {
    let room = &mut Room::behind(tables, audit);
    let [mut links, mut copies] = [Vec::new(), Vec::new()];
    for &(table, number) in &plan.shared {
        let mut entries = entry_offsets(tables, audit, table, number)?.into_iter();
        let Some(first) = entries.next() else { continue };
        let start = copy_grain(tables, first, room, changes)?;
        links.push((first, start));
        copies.extend(entries.map(|offset| (offset, start)));
    }
    // Other writers of a COWD extent go on from there: before a table names what lies in front of it.
    raise_free_sector(tables, room.next, changes)?;
    changes.sync()?;
    // One side after the other: a repair that goes on from here must find no entry that shares a grain and has a copy
    // with another one.
    for links in [links, copies] {
        for (offset, start) in links {
            changes.write(offset, start.to_le_bytes().to_vec())?;
        }
        changes.sync()?;
    }
    Ok(())
}

/// Makes a new directory, and a copy of each table, and lets the header name it, durably: the one that cannot be read,
/// whichever that is.
fn make_directory(tables: &Tables, audit: &Audit<'_>, changes: &mut Changes<'_>) -> Result<()> {
    let layout = tables.layout();
    let room = &mut Room::behind(tables, audit);
    let len = layout.tables() * ENTRY as u64;
    let start = room.take(len.div_ceil(SECTOR_BYTES), 1)?;
    let mut directory = vec![0; to_usize(len)];
    for (table, entry) in (0..).zip(directory.chunks_exact_mut(ENTRY)) {
        if audit.is_usable(Side::Primary, table) {
            let copy = copy_table(tables, tables.directory(), table, room, changes)?;
            LittleEndian::write_u32(entry, copy);
        }
    }
    changes.write(start * SECTOR_BYTES, directory)?;
    changes.sync()?;
    let offset = if layout.directory_is_redundant { KdmvHeader::GD_OFFSET_AT } else { KdmvHeader::RGD_OFFSET_AT };
    changes.write(offset, start.to_le_bytes().to_vec())?;
    changes.sync()
}

/// Whether one of the two directories cannot be where the header says, as it is in the file now.
fn lacks_directory(tables: &Tables) -> Result<bool> {
    let layout = tables.layout();
    let HeaderMark::Unclean { .. } = layout.mark else { return Ok(false) };
    let mut sector = [0; SECTOR_SIZE];
    tables.file().read(&mut sector, 0)?;
    let Some(header) = KdmvHeader::decode(&sector) else { return Ok(false) };
    let now = header.layout(tables.file().len(), true);
    Ok(now.is_ok_and(|now| now.directory_is_redundant || (now.keeps_redundant && now.redundant.is_none())))
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
    let entries = &mut bytes[..tables.table_len()];
    tables.file().read(entries, place.start)?;
    if tables.directory().entry(table) == 0 {
        // Its grains read as unallocated until now. What cannot be right of the copy stays so.
        for entry in entries.chunks_exact_mut(ENTRY) {
            if !tables.plausible(LittleEndian::read_u32(entry)) {
                entry.fill(0);
            }
        }
    }
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
    let (from, to) = (old * SECTOR_BYTES, start * SECTOR_BYTES);
    let len = layout.grain_sectors * SECTOR_BYTES;
    let mut at = 0;
    while at < len {
        let mut piece = vec![0; to_usize((len - at).min(PIECE))];
        tables.file().read(&mut piece, from + at)?;
        let end = at + piece.len() as u64;
        // The new place is empty. Only the last piece has to be there, for the grain to be there to its end.
        if !is_zero(&piece) || end == len {
            changes.write(to + at, piece)?;
        }
        at = end;
    }
    Ok(u32::try_from(start).unwrap_or(u32::MAX))
}

/// Where an entry stands in the file, in both copies of its table as far as they can be used.
fn entry_offsets(tables: &Tables, audit: &Audit<'_>, table: u32, number: u64) -> Result<Vec<u64>> {
    let mut sides = [(Side::Primary, Some(tables.directory())), (Side::Redundant, audit.redundant())];
    if audit.preferred() == Side::Redundant {
        sides.reverse();
    }
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
