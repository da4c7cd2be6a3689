//! What is put right in an extent before anything is allocated in it.
//!
//! In one that was not closed, entries past the end of the file become 0, or they would come alive when the file
//! grows, and the redundant tables are made equal to the primary ones, which every reader has been showing: a copy of a
//! table that the directory does not name is forgotten. A table without its redundant copy gets one. A crash on the way
//! leaves what was there before, or part of this.

use super::Health;
use super::inspection::Inspection;
use super::publication::{self, patch_sector};
use super::space::Space;
use crate::error::Result;
use crate::extent::grain_directory::GrainDirectory;
use crate::extent::holes::Holes;
use crate::extent::pending::{ChangeSet, NewTable};
use crate::extent::tables::{Tables, UNALLOCATED};
use crate::sector::{SECTOR_BYTES, to_usize};

/// Entries that are taken back together.
const BATCH: usize = 64 << 10;

/// Puts the tables of an extent right that was not closed, durably, before its file grows.
pub(super) fn settle(tables: &Tables, found: &Inspection) -> Result<()> {
    if tables.layout().unclean {
        for dead in found.past_end.chunks(BATCH) {
            let dead = dead.iter().map(|&grain| (grain, UNALLOCATED));
            publication::write(tables, None, &ChangeSet { entries: dead.collect(), ..ChangeSet::default() })?;
        }
        if let Some(redundant) = &found.redundant {
            forget_tables(tables, redundant)?;
            copy_tables(tables, redundant)?;
        }
        tables.file().sync()?;
    } else if found.end > found.full {
        // Gaps are about to be used: whoever made them may have been killed before the tables that name them no more
        // were durable. A COWD extent does not say that it was not closed.
        tables.file().sync()?;
    }
    Ok(())
}

/// Gives tables the redundant copy that they lack. The copies are durable before a directory names them.
pub(super) fn add_copies(tables: &Tables, found: &Inspection, space: &Space, health: &Health) -> Result<()> {
    let Some(redundant) = found.redundant.as_ref().filter(|_| !found.without_copy.is_empty()) else { return Ok(()) };
    let mut holes = Holes::default();
    let copies = found.without_copy.iter().map(|&table| new_copy(tables, space, &mut holes, table));
    let set = ChangeSet { tables: copies.collect::<Result<_>>()?, ..ChangeSet::default() };
    let linked = || {
        tables.file().sync()?;
        // Whatever is published, or marked as clean, is so after a sync of its own.
        publication::write(tables, Some(redundant), &set)
    };
    health.watch(linked())?;
    for new in &set.tables {
        if let Some(start) = new.redundant {
            redundant.set(new.table, start);
        }
    }
    Ok(())
}

/// Takes tables out of the redundant directory that the primary one does not have: a writer was cut off when it linked
/// them.
fn forget_tables(tables: &Tables, redundant: &GrainDirectory) -> Result<()> {
    for table in redundant.listed().filter(|&table| tables.directory().entry(table) == 0) {
        patch_sector(tables.file(), redundant.entry_offset(table), &0_u32.to_le_bytes())?;
        redundant.set(table, 0);
    }
    Ok(())
}

/// Makes every redundant table equal to its primary one.
fn copy_tables(tables: &Tables, redundant: &GrainDirectory) -> Result<()> {
    let file = tables.file();
    let mut holes = [Holes::default(), Holes::default()];
    let [mut primary, mut copy] = [0; 2].map(|_| vec![0; tables.table_len()]);
    for table in tables.directory().listed().filter(|&table| redundant.entry(table) != 0) {
        let places = [tables.place(tables.directory(), table)?, tables.place(redundant, table)?];
        if holes[0].cover(file, &places[0])? && holes[1].cover(file, &places[1])? {
            continue;
        }
        file.read(&mut primary, places[0].start)?;
        file.read(&mut copy, places[1].start)?;
        if primary != copy {
            file.write(&primary, places[1].start)?;
        }
    }
    Ok(())
}

/// Writes a redundant copy of a table to a new place. Of one in a hole there is nothing to write: the place is empty.
fn new_copy(tables: &Tables, space: &Space, holes: &mut Holes, table: u32) -> Result<NewTable> {
    let file = tables.file();
    let sectors = tables.layout().table_sectors;
    let start = space.allocate(file, sectors, 1)?;
    let place = tables.place(tables.directory(), table)?;
    if !holes.cover(file, &place)? {
        let mut bytes = vec![0; to_usize(sectors * SECTOR_BYTES)];
        let copied = file.read(&mut bytes[..tables.table_len()], place.start);
        if let Err(error) = copied.and_then(|()| file.write(&bytes, start * SECTOR_BYTES)) {
            space.give_back(file, start..start + sectors);
            return Err(error);
        }
    }
    let start = u32::try_from(start).unwrap_or(u32::MAX);
    Ok(NewTable { table, start: tables.directory().entry(table), redundant: Some(start) })
}
