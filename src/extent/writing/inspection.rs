//! What is looked at before an extent is written to for the first time: all of its tables.
//!
//! They say where the free space begins, and whether the image can be written to at all. An entry past the end of the
//! file would come alive when the file grows; two entries for one grain, or a grain in the metadata, would make a write
//! change other sectors than its own. Nothing is modified here.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::extent::audit::{Audit, BadEntry, Observer, Occupancy, Problem};
use crate::extent::grain_directory::GrainDirectory;
use crate::extent::tables::Tables;
use crate::sector::SECTOR_BYTES;

/// What the tables of an extent say.
#[derive(Debug)]
pub(super) struct Inspection {
    /// The sector from which on the file is free.
    pub(super) end: u64,
    /// Below it, what nothing names: looked for only where the file is longer than a full disk needs.
    pub(super) gaps: Vec<Range<u64>>,
    /// So many sectors a full disk needs.
    pub(super) full: u64,
    /// The redundant directory, where the extent keeps one.
    pub(super) redundant: Option<GrainDirectory>,
    /// Of an extent that was not closed: grains whose entries lie past the end of the file, and must become 0.
    pub(super) past_end: Vec<u64>,
    /// Tables without a redundant copy, although the extent keeps copies.
    pub(super) without_copy: Vec<u32>,
}

/// Looks at every table of an extent, also at what a descriptor leaves out of it.
///
/// # Errors
/// `Corrupt` for an extent that cannot be written to before it is repaired; what the host reports.
pub(super) fn inspect(tables: &Tables) -> Result<Inspection> {
    look(tables).map_err(|error| error.in_file(tables.file().path()))
}

/// The sector behind everything that the tables on disk name, and behind themselves.
///
/// # Errors
/// As for `inspect`.
pub(crate) fn used_end(tables: &Tables) -> Result<u64> {
    Ok(occupancy(tables)?.end().max(tables.file_sectors()))
}

/// What of the file is taken by what the tables on disk name, and by themselves.
///
/// # Errors
/// As for `inspect`.
pub(super) fn occupancy(tables: &Tables) -> Result<Occupancy> {
    strictly(tables).map(|(audit, _)| audit.into_taken()).map_err(|error| error.in_file(tables.file().path()))
}

/// An audit without any problem that a writer would make worse.
fn strictly(tables: &Tables) -> Result<(Audit<'_>, Strict<'_>)> {
    let mut audit = Audit::new(tables, false).map_err(unrepaired)?;
    let mut strict = Strict { tables, past_end: Vec::new(), without_copy: Vec::new() };
    audit.run(&mut strict)?;
    Ok((audit, strict))
}

fn look(tables: &Tables) -> Result<Inspection> {
    let (mut audit, Strict { past_end, without_copy, .. }) = strictly(tables)?;
    let (end, full) = (audit.taken().end().max(tables.file_sectors()), audit.full());
    let gaps = if end > full { audit.gaps() } else { Vec::new() };
    Ok(Inspection { end, gaps, full, redundant: audit.into_redundant(), past_end, without_copy })
}

/// Stops at whatever a writer would make worse.
struct Strict<'a> {
    tables: &'a Tables,
    past_end: Vec<u64>,
    without_copy: Vec<u32>,
}

impl Observer for Strict<'_> {
    fn found(&mut self, problem: Problem) -> Result<()> {
        let layout = self.tables.layout();
        match problem {
            Problem::Region { sector, .. } | Problem::Overlap { sector, .. } => Err(used_twice(sector)),
            Problem::Place { error, .. } => Err(unrepaired(error)),
            Problem::SameTable { table } => {
                Err(unwritable(format!("table {table} and its redundant copy are the same")))
            }
            Problem::NoCopy { table } => {
                self.without_copy.push(table);
                Ok(())
            }
            Problem::BadEntry { entry, problem, .. } => {
                let problem = match problem {
                    BadEntry::InMetadata => {
                        "the grain lies in the metadata of the extent; repair the image before it is written to"
                    }
                    BadEntry::PastEnd if layout.unclean => {
                        let first = u64::from(entry.table) * u64::from(layout.entries_per_table);
                        self.past_end.push(first + entry.number);
                        return Ok(());
                    }
                    BadEntry::PastEnd => {
                        "the grain lies past the end of the file; repair the image before it is written to"
                    }
                    BadEntry::Taken { sector, .. } if sector == u64::from(entry.value) => {
                        "another entry, or a table, has the same sectors; repair the image before it is written to"
                    }
                    BadEntry::Taken { sector, .. } => return Err(used_twice(sector)),
                };
                Err(self.tables.bad_entry(entry.table, entry.number, entry.value.into(), problem))
            }
            // What the copies say counts when a writer settles them; the rest does no harm.
            Problem::LoneCopy { .. }
            | Problem::CopyDiffers { .. }
            | Problem::CopyInMetadata { .. }
            | Problem::OutOfLine(_)
            | Problem::One(_)
            | Problem::PastCapacity { .. } => Ok(()),
        }
    }
}

/// The same error, with what to do about it.
fn unrepaired(error: Error) -> Error {
    error.with_advice("repair the image before it is written to")
}

fn used_twice(sector: u64) -> Error {
    let offset = sector * SECTOR_BYTES;
    unwritable(format!("the bytes at offset {offset:#x} are used twice by its tables and grains"))
}

fn unwritable(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    let problem = problem.into();
    Error::text(ErrorKind::Corrupt, format!("{problem}; repair the image before it is written to"))
}
