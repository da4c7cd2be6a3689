//! All that the directories and tables of a sparse extent say, looked at once, and what cannot be right of it.
//!
//! A writer looks before it allocates ([`writing`](super::writing)), and stops at the first problem; a check lists them
//! all; a repair goes by what is taken and what is free. Nothing is modified here, and no data is read.
//!
//! ```text
//! regions: header, descriptor, directories -> places of the tables -> entries, against their copies -> gaps
//! ```
//!
//! A table that lies where something else does is not looked into: many directory entries could name one table, and it
//! would be read for each.

mod bits;
mod look;
mod occupancy;
mod packing;
mod problem;
mod reader;
mod stretch;

use std::ops::Range;

pub(crate) use bits::Bits;
pub(crate) use occupancy::Occupancy;
pub(crate) use problem::{BadEntry, Entry, Observer, Problem, Region, Side};
pub(crate) use stretch::Stretch;

use self::look::Look;
use self::reader::{Reader, Sides, is_usable};
use super::grain_directory::GrainDirectory;
use super::tables::Tables;
use crate::error::{Error, ErrorKind, Result};
use crate::format::cowd::HEADER_SECTORS;
use crate::format::{HeaderMark, SparseLayout};
use crate::sector::{SECTOR_BYTES, ZEROS};

/// Entries of tables and directories have 32 bits: what is named in them begins below this sector.
pub(crate) const MAX_END: u64 = 1 << 32;

/// What is said where nothing below that is free.
pub(crate) const NO_ROOM: &str = "no room: what begins at or above 2 TiB of a file cannot be named in its tables";

/// A look at every table of an extent, also at what a descriptor leaves out of it.
pub(crate) struct Audit<'a> {
    tables: &'a Tables,
    redundant: Option<GrainDirectory>,
    /// Whether the entries of the copies are looked at, too.
    compares: bool,
    /// Which of two tables counts where both can be read.
    prefers: Side,
    taken: Occupancy,
    /// Sectors behind tables, and copies that belong to no table: nothing else goes there, but what is there may as
    /// well be a grain.
    kept: Bits,
    /// Tables whose place cannot be used: primary ones and copies.
    unusable: [Bits; 2],
    /// How many threads read tables; with one they are read where they are looked at.
    threads: usize,
}

impl<'a> Audit<'a> {
    /// A look at the extent of these tables. The copies of tables are compared only if `compares` says so.
    ///
    /// # Errors
    /// `Corrupt` for an extent that should have a redundant directory and cannot; what the host reports.
    pub(crate) fn new(tables: &'a Tables, compares: bool) -> Result<Self> {
        let layout = tables.layout();
        if layout.keeps_redundant && layout.redundant.is_none() {
            let text = "the place of the redundant grain directory is impossible";
            return Err(Error::text(ErrorKind::Corrupt, text));
        }
        Ok(Self::with_redundant(tables, tables.load_redundant()?, compares))
    }

    /// As `new`, whatever has become of the redundant directory.
    pub(crate) fn with_redundant(tables: &'a Tables, redundant: Option<GrainDirectory>, compares: bool) -> Self {
        Self {
            tables,
            redundant,
            compares,
            prefers: Side::Primary,
            taken: Occupancy::new(tables.layout().grain_sectors),
            kept: Bits::default(),
            unusable: <[Bits; 2]>::default(),
            threads: 1,
        }
    }

    /// Goes by the redundant tables wherever they can be read: what they name is taken first, and the primary ones are
    /// compared with them.
    pub(crate) fn preferring(mut self, side: Side) -> Self {
        self.prefers = side;
        self
    }

    /// Reads on so many threads what is looked at here.
    pub(crate) fn reading_on(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// The side that counts; see [`preferring`](Self::preferring).
    pub(crate) fn preferred(&self) -> Side {
        self.prefers
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// What the observer says, and what the host reports.
    pub(crate) fn run(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.regions(observer)?;
        for table in self.numbers() {
            self.place(table, observer)?;
        }
        let Self { tables, redundant, taken, unusable, threads, prefers, .. } = self;
        let copies = redundant.as_ref().filter(|_| self.compares);
        let reader = Reader { tables, directories: [Some(tables.directory()), copies], unusable };
        let mut looked = 0;
        reader.each(*threads, |table, sides| {
            look_at(tables, table, sides, *prefers, taken, observer)?;
            let before = std::mem::replace(&mut looked, u64::from(table) + 1);
            observer.looked(looked - before)
        })?;
        observer.looked(tables.layout().tables().saturating_sub(looked))
    }

    /// What was found to be taken. Behind the end of it, and of the file, everything is free.
    pub(crate) fn taken(&self) -> &Occupancy {
        &self.taken
    }

    pub(crate) fn taken_mut(&mut self) -> &mut Occupancy {
        &mut self.taken
    }

    /// The redundant directory, where the extent keeps one.
    pub(crate) fn redundant(&self) -> Option<&GrainDirectory> {
        self.redundant.as_ref()
    }

    pub(crate) fn into_redundant(self) -> Option<GrainDirectory> {
        self.redundant
    }

    /// Whether the place of a table was found to be usable.
    pub(crate) fn is_usable(&self, side: Side, table: u32) -> bool {
        let directory = match side {
            Side::Primary => Some(self.tables.directory()),
            Side::Redundant => self.redundant.as_ref(),
        };
        is_usable(directory, &self.unusable[side.index()], table)
    }

    /// Sectors of a file in which every grain has its place, whoever has made its tables; or as many as a file should
    /// have before it is looked for gaps.
    pub(crate) fn full(&self) -> u64 {
        let layout = self.tables.layout();
        let grains = layout.sectors.div_ceil(layout.grain_sectors);
        let tables = layout.tables() * layout.table_sectors * (1 + u64::from(layout.keeps_redundant));
        let full = layout.first_grain_sector + (grains + 1) * layout.grain_sectors + tables;
        // Numbers end at 2 TiB, however large the disk is.
        full.min(MAX_END / 2)
    }

    /// What was found to be taken, and what belongs to tables for other readers.
    pub(crate) fn into_taken(mut self) -> Occupancy {
        self.take_kept();
        self.taken
    }

    fn take_kept(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        kept.iter().for_each(|sector| self.taken.reserve(sector..sector + 1));
    }

    /// Stretches of whole grains within the file that nothing names.
    pub(crate) fn gaps(&mut self) -> Vec<Range<u64>> {
        self.take_kept();
        let layout = self.tables.layout();
        self.taken.gaps(layout.first_grain_sector, self.tables.file_sectors().min(MAX_END))
    }

    fn numbers(&self) -> Range<u32> {
        0..u32::try_from(self.tables.layout().tables()).unwrap_or(u32::MAX)
    }

    /// A header may say that a directory lies where its descriptor is, or itself.
    fn regions(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let layout = self.tables.layout();
        let directory = layout.directory.clone();
        let len = directory.end - directory.start;
        let redundant = self.redundant.as_ref().and(layout.redundant).map(|start| start..start + len);
        let regions = [
            (Region::Header, Some(0..header_sectors(layout) * SECTOR_BYTES)),
            (Region::Descriptor, Some(layout.descriptor.clone())),
            (Region::Directory, Some(directory)),
            (Region::RedundantDirectory, redundant),
        ];
        for (region, bytes) in regions {
            let Some(bytes) = bytes else { continue };
            if let Some(sector) = self.taken.take_region(sectors(&bytes)) {
                observer.found(Problem::Region { region, sector })?;
            }
        }
        Ok(())
    }

    /// Looks where a table is, and its copy.
    fn place(&mut self, table: u32, observer: &mut dyn Observer) -> Result<()> {
        let directory = self.tables.directory();
        let (entry, copy) = (directory.entry(table), self.redundant.as_ref().map(|redundant| redundant.entry(table)));
        if entry == 0 && copy.unwrap_or(0) == 0 {
            return Ok(());
        }
        let primary = if entry == 0 { None } else { Some(self.take_table(Side::Primary, table)) };
        match copy {
            None => {}
            Some(0) => observer.found(Problem::NoCopy { table })?,
            Some(copy) if copy == entry => {
                self.unusable[Side::Redundant.index()].set(table.into());
                observer.found(Problem::SameTable { table })?;
            }
            Some(_) if entry == 0 => self.lone_copy(table, observer)?,
            Some(_) => {
                if let Err(problem) = self.take_table(Side::Redundant, table) {
                    observer.found(problem)?;
                }
            }
        }
        match primary {
            None => Ok(()),
            // Other readers may read more of a table, as far as the file goes: of a COWD extent with one table nothing
            // tells how long its writer made that.
            Some(Ok(place)) => {
                self.keep_behind(&place);
                Ok(())
            }
            Some(Err(Problem::Place { side, table, error, .. })) => {
                let has_copy = self.is_usable(Side::Redundant, table);
                observer.found(Problem::Place { side, table, error, has_copy })
            }
            Some(Err(problem)) => observer.found(problem),
        }
    }

    /// A copy of which the directory has no table.
    fn lone_copy(&mut self, table: u32, observer: &mut dyn Observer) -> Result<()> {
        let Some(redundant) = &self.redundant else { return Ok(()) };
        let place = match self.tables.place(redundant, table) {
            Ok(place) => sectors(&place),
            Err(error) => {
                self.unusable[Side::Redundant.index()].set(table.into());
                return observer.found(Problem::Place { side: Side::Redundant, table, error, has_copy: false });
            }
        };
        if let Some(sector) = self.taken.first_in(&place).or_else(|| self.kept.first_in(place.clone())) {
            self.unusable[Side::Redundant.index()].set(table.into());
            return observer.found(Problem::Overlap { side: Side::Redundant, table, sector });
        }
        self.kept.set_range(place);
        observer.found(Problem::LoneCopy { table })
    }

    fn take_table(&mut self, side: Side, table: u32) -> Result<Range<u64>, Problem> {
        let directory = match (side, &self.redundant) {
            (Side::Redundant, Some(redundant)) => redundant,
            _ => self.tables.directory(),
        };
        let problem = match self.tables.place(directory, table) {
            Err(error) => Problem::Place { side, table, error, has_copy: false },
            Ok(place) => match self.taken.take_table(sectors(&place)) {
                Ok(()) => return Ok(place),
                Err(sector) => Problem::Overlap { side, table, sector },
            },
        };
        self.unusable[side.index()].set(table.into());
        Err(problem)
    }

    fn keep_behind(&mut self, place: &Range<u64>) {
        let end = place.start + self.tables.layout().table_sectors * SECTOR_BYTES;
        let behind = place.end..end.min(self.tables.file().len());
        if !behind.is_empty() {
            self.kept.set_range(sectors(&behind));
        }
    }
}

/// Looks at the entries of a table, or, if that cannot be read, at those of its copy.
fn look_at(
    tables: &Tables,
    table: u32,
    sides: Sides<'_>,
    prefers: Side,
    taken: &mut Occupancy,
    observer: &mut dyn Observer,
) -> Result<()> {
    // What lies in holes is neither there nor in doubt.
    if sides.iter().flatten().all(|bytes| bytes.is_empty()) {
        return Ok(());
    }
    let zeros = &ZEROS[..tables.table_len().min(ZEROS.len())];
    let [primary, copy] = sides.map(|bytes| bytes.map(|bytes| if bytes.is_empty() { zeros } else { bytes }));
    let is_lone = tables.directory().entry(table) == 0;
    let look = |side| Look { tables, table, side };
    match (primary, copy, prefers) {
        // Its grains are unallocated for every reader. Where they lie is of interest all the same.
        (_, Some(copy), Side::Primary) if is_lone => look(Side::Redundant).lone(taken, copy, observer),
        (Some(primary), copy, Side::Primary) | (Some(primary), copy @ None, _) => {
            look(Side::Primary).entries(taken, primary, copy, observer)
        }
        (primary, Some(copy), _) => look(Side::Redundant).entries(taken, copy, primary, observer),
        (None, None, _) => Ok(()),
    }
}

fn header_sectors(layout: &SparseLayout) -> u64 {
    match layout.mark {
        HeaderMark::Unclean { .. } => 1,
        HeaderMark::FreeSector { .. } => HEADER_SECTORS.into(),
    }
}

fn sectors(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / SECTOR_BYTES..bytes.end.div_ceil(SECTOR_BYTES)
}
