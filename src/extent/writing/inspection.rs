//! What is looked at before an extent is written to for the first time: all of its tables.
//!
//! They say where the free space begins, and whether the image can be written to at all. An entry past the end of the
//! file would come alive when the file grows; two entries for one grain, or a grain in the metadata, would make a write
//! change other sectors than its own. Nothing is modified here.

use std::ops::Range;

use byteorder::{ByteOrder, LittleEndian};

use super::occupancy::Occupancy;
use super::space::MAX_END;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::grain_directory::GrainDirectory;
use crate::extent::holes::Holes;
use crate::extent::tables::{ENTRY, Tables, UNALLOCATED, ZERO};
use crate::sector::{SECTOR_BYTES, to_usize};

/// Bytes of tables that are read at once.
const WINDOW: u64 = 1 << 20;

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
    Inspector::new(tables).and_then(Inspector::run).map_err(|error| error.in_file(tables.file().path()))
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
    Inspector::new(tables).and_then(Inspector::occupancy).map_err(|error| error.in_file(tables.file().path()))
}

struct Inspector<'a> {
    tables: &'a Tables,
    taken: Occupancy,
    /// Bytes behind tables that belong to them for other readers.
    behind_tables: Vec<Range<u64>>,
    window: Window,
    found: Inspection,
}

/// Tables that were read together.
#[derive(Default)]
pub(super) struct Window {
    start: u64,
    bytes: Vec<u8>,
    holes: Holes,
}

impl<'a> Inspector<'a> {
    fn new(tables: &'a Tables) -> Result<Self> {
        let layout = tables.layout();
        let redundant = match layout.redundant {
            Some(start) => Some(GrainDirectory::load(tables.file(), start, layout.tables())?),
            None if layout.keeps_redundant => {
                return Err(unwritable("the place of the redundant grain directory is impossible"));
            }
            None => None,
        };
        let found =
            Inspection { end: 0, gaps: Vec::new(), full: 0, redundant, past_end: Vec::new(), without_copy: Vec::new() };
        let taken = Occupancy::new(layout.grain_sectors);
        Ok(Self { tables, taken, behind_tables: Vec::new(), window: Window::default(), found })
    }

    fn run(mut self) -> Result<Inspection> {
        self.look()?;
        let layout = self.tables.layout();
        let file_sectors = self.tables.file_sectors();
        self.found.end = self.taken.end().max(file_sectors);
        self.found.full = self.full();
        if self.found.end > self.found.full {
            self.take_behind_tables();
            self.found.gaps = self.taken.gaps(layout.first_grain_sector, file_sectors.min(MAX_END));
        }
        Ok(self.found)
    }

    fn occupancy(mut self) -> Result<Occupancy> {
        self.look()?;
        self.take_behind_tables();
        Ok(self.taken)
    }

    /// Looks at everything.
    fn look(&mut self) -> Result<()> {
        let layout = self.tables.layout();
        // A header may say that grains, or a directory, lie where its descriptor is, or itself.
        self.take(0..SECTOR_BYTES);
        self.take(layout.descriptor.clone());
        let directory = layout.directory.clone();
        self.take(directory.clone());
        if let Some(start) = layout.redundant {
            self.take(start..start + (directory.end - directory.start));
        }
        for table in self.existing() {
            let place = self.tables.place(self.tables.directory(), table).map_err(unrepaired)?;
            self.take_table(&place);
            self.copy_of(table, &place)?;
        }
        self.keep_lone_copies();
        // Before an entry is looked at: many directory entries could name one table, and it would be read for each.
        self.check_apart()?;
        for table in self.existing() {
            self.table(table)?;
        }
        self.check_apart()
    }

    /// Takes what belongs to tables for other readers.
    fn take_behind_tables(&mut self) {
        for behind in std::mem::take(&mut self.behind_tables) {
            self.take(behind);
        }
        // Puts them in order; that they lie over grains is no damage.
        let _ = self.taken.overlap();
    }

    /// Sectors of a file in which every grain has its place, whoever has made its tables; or as many as a file should
    /// have before it is looked for gaps.
    fn full(&self) -> u64 {
        let layout = self.tables.layout();
        let grains = layout.sectors.div_ceil(layout.grain_sectors);
        let tables = layout.tables() * layout.table_sectors * (1 + u64::from(layout.keeps_redundant));
        let full = layout.first_grain_sector + (grains + 1) * layout.grain_sectors + tables;
        // Numbers end at 2 TiB, however large the disk is.
        full.min(MAX_END / 2)
    }

    /// Keeps copies out of the gaps whose table the directory does not have.
    fn keep_lone_copies(&mut self) {
        let Some(redundant) = &self.found.redundant else { return };
        let all = 0..u32::try_from(self.tables.layout().tables()).unwrap_or(u32::MAX);
        let lone = all.filter(|&table| self.tables.directory().entry(table) == 0 && redundant.entry(table) != 0);
        let places = lone.filter_map(|table| self.tables.place(redundant, table).ok());
        self.behind_tables.extend(places);
    }

    /// The tables that there are.
    fn existing(&self) -> impl Iterator<Item = u32> + use<'a> {
        let tables = self.tables;
        let all = 0..u32::try_from(tables.layout().tables()).unwrap_or(u32::MAX);
        all.filter(|&table| tables.directory().entry(table) != 0)
    }

    fn check_apart(&mut self) -> Result<()> {
        let Some(sector) = self.taken.overlap() else { return Ok(()) };
        let offset = sector * SECTOR_BYTES;
        Err(unwritable(format!("the bytes at offset {offset:#x} are used twice by its tables and grains")))
    }

    /// Looks at the entries of a table.
    fn table(&mut self, table: u32) -> Result<()> {
        let place = self.tables.place(self.tables.directory(), table)?;
        if self.window.is_hole(self.tables, &place)? {
            return Ok(());
        }
        let layout = self.tables.layout();
        let entries_per_table = u64::from(layout.entries_per_table);
        let first = u64::from(table) * entries_per_table;
        // What an entry past the capacity says was never alive.
        let grains = layout.sectors.div_ceil(layout.grain_sectors).saturating_sub(first).min(entries_per_table);
        let file_sectors = self.tables.file_sectors();
        let bytes = self.window.read(self.tables, table, &place)?;
        for (number, entry) in (0..grains).zip(bytes.chunks_exact(ENTRY)) {
            let entry = LittleEndian::read_u32(entry);
            if matches!(entry, UNALLOCATED | ZERO) {
                continue;
            }
            let start = u64::from(entry);
            let problem = if start < layout.first_grain_sector {
                "the grain lies in the metadata of the extent; repair the image before it is written to"
            } else if start >= file_sectors {
                if layout.unclean {
                    self.found.past_end.push(first + number);
                    continue;
                }
                "the grain lies past the end of the file; repair the image before it is written to"
            } else if self.taken.take_grain(start) {
                continue;
            } else {
                "another entry has the same grain; repair the image before it is written to"
            };
            return Err(self.tables.bad_entry(table, number, entry, problem));
        }
        Ok(())
    }

    /// Looks where the redundant copy of a table is.
    fn copy_of(&mut self, table: u32, primary: &Range<u64>) -> Result<()> {
        let Some(redundant) = &self.found.redundant else { return Ok(()) };
        if redundant.entry(table) == 0 {
            self.found.without_copy.push(table);
            return Ok(());
        }
        let place = self.tables.place(redundant, table).map_err(unrepaired)?;
        if place == *primary {
            return Err(unwritable(format!("table {table} and its redundant copy are the same")));
        }
        self.take_table(&place);
        Ok(())
    }

    /// Takes a table. Other readers may read more of it, as far as the file goes, but what is there may as well be a
    /// grain: of a COWD extent with one table nothing tells how long its writer made that.
    fn take_table(&mut self, place: &Range<u64>) {
        self.take(place.clone());
        let end = place.start + self.tables.layout().table_sectors * SECTOR_BYTES;
        let behind = place.end..end.min(self.tables.file().len());
        if !behind.is_empty() {
            self.behind_tables.push(behind);
        }
    }

    fn take(&mut self, bytes: Range<u64>) {
        if bytes.is_empty() {
            return;
        }
        self.taken.take(bytes.start / SECTOR_BYTES..bytes.end.div_ceil(SECTOR_BYTES));
    }
}

impl Window {
    /// Whether a table lies in a hole of the file, so that all its entries are 0.
    pub(super) fn is_hole(&mut self, tables: &Tables, place: &Range<u64>) -> Result<bool> {
        if self.holds(place) {
            return Ok(false);
        }
        self.holes.cover(tables.file(), place)
    }

    fn holds(&self, place: &Range<u64>) -> bool {
        self.start <= place.start && place.end <= self.start + self.bytes.len() as u64
    }

    /// The bytes of a table, read together with those that lie behind it in the file.
    pub(super) fn read(&mut self, tables: &Tables, table: u32, place: &Range<u64>) -> Result<&[u8]> {
        if !self.holds(place) {
            let len = place.end - place.start;
            let mut end = place.end;
            let mut next = table;
            while end - place.start + len <= WINDOW {
                next = next.saturating_add(1);
                match tables.place(tables.directory(), next) {
                    Ok(behind) if behind.start == end => end = behind.end,
                    _ => break,
                }
            }
            self.bytes.resize(to_usize(end - place.start), 0);
            self.start = place.start;
            tables.file().read(&mut self.bytes, place.start)?;
        }
        let at = to_usize(place.start - self.start);
        Ok(&self.bytes[at..at + to_usize(place.end - place.start)])
    }
}

/// The same error, with what to do about it.
fn unrepaired(error: Error) -> Error {
    error.with_advice("repair the image before it is written to")
}

fn unwritable(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    let problem = problem.into();
    Error::text(ErrorKind::Corrupt, format!("{problem}; repair the image before it is written to"))
}
