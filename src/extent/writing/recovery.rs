//! What is put right in an extent before anything is allocated in it.
//!
//! In one that was not closed, entries past the end of the file become 0, or they would come alive when the file
//! grows, and the redundant tables are made equal to the primary ones, which every reader has been showing. A table
//! without its redundant copy gets one. A crash on the way leaves what was there before, or part of this.

use super::inspection::Inspection;
use super::publication;
use super::space::Space;
use crate::error::Result;
use crate::extent::grain_directory::GrainDirectory;
use crate::extent::pending::{ChangeSet, NewTable};
use crate::extent::tables::{Tables, UNALLOCATED};
use crate::sector::{SECTOR_BYTES, to_usize};

/// Puts the tables right, if there is anything to do; says whether there was. All of it is durable then.
pub(super) fn recover(tables: &Tables, found: &Inspection, space: &Space) -> Result<bool> {
    let unclean = tables.layout().unclean;
    if unclean {
        let dead = found.past_end.iter().map(|&grain| (grain, UNALLOCATED));
        let set = ChangeSet { entries: dead.collect(), ..ChangeSet::default() };
        publication::write(tables, None, &set)?;
        if let Some(redundant) = &found.redundant {
            copy_tables(tables, redundant)?;
        }
        // Before the file grows.
        tables.file().sync()?;
    } else if found.end > found.full {
        // Gaps are about to be used: whoever made them may have been killed before the tables that name them no more
        // were durable. A COWD extent does not say that it was not closed.
        tables.file().sync()?;
    }
    if let Some(redundant) = &found.redundant {
        add_copies(tables, redundant, space, &found.without_copy)?;
    }
    Ok(unclean || !found.without_copy.is_empty())
}

/// Gives tables the redundant copy that they lack.
fn add_copies(tables: &Tables, redundant: &GrainDirectory, space: &Space, without: &[u32]) -> Result<()> {
    if without.is_empty() {
        return Ok(());
    }
    let copies = without.iter().map(|&table| new_copy(tables, space, table));
    let set = ChangeSet { tables: copies.collect::<Result<_>>()?, ..ChangeSet::default() };
    // The copies are there before a directory names them.
    tables.file().sync()?;
    publication::write(tables, Some(redundant), &set)?;
    for new in &set.tables {
        if let Some(start) = new.redundant {
            redundant.set(new.table, start);
        }
    }
    tables.file().sync()
}

/// Makes every redundant table equal to its primary one.
fn copy_tables(tables: &Tables, redundant: &GrainDirectory) -> Result<()> {
    let file = tables.file();
    let [mut primary, mut copy] = [0; 2].map(|_| vec![0; tables.table_len()]);
    for table in 0..u32::try_from(tables.layout().tables()).unwrap_or(u32::MAX) {
        if tables.directory().entry(table) == 0 || redundant.entry(table) == 0 {
            continue;
        }
        file.read(&mut primary, tables.place(tables.directory(), table)?.start)?;
        let place = tables.place(redundant, table)?;
        file.read(&mut copy, place.start)?;
        if primary != copy {
            file.write(&primary, place.start)?;
        }
    }
    Ok(())
}

/// Writes a redundant copy of a table to a new place.
fn new_copy(tables: &Tables, space: &Space, table: u32) -> Result<NewTable> {
    let file = tables.file();
    let sectors = tables.layout().table_sectors;
    let start = space.allocate(file, sectors, 1)?;
    let mut bytes = vec![0; to_usize(sectors * SECTOR_BYTES)];
    let place = tables.place(tables.directory(), table)?;
    file.read(&mut bytes[..tables.table_len()], place.start)?;
    file.write(&bytes, start * SECTOR_BYTES)?;
    let start = u32::try_from(start).unwrap_or(u32::MAX);
    Ok(NewTable { table, start: tables.directory().entry(table), redundant: Some(start) })
}
