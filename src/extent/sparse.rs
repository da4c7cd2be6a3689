//! A sparse extent: grains found through a grain directory and grain tables.
//!
//! Entry values, as far as lookup sees them: 0 is unallocated, 1 is a grain of zeros that masks the parent, anything
//! else is the file sector at which the grain begins. An entry of 1 is read as zeros whether or not the header
//! announces zero grains: sector 1 lies in the metadata and can hold no grain.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::HostFile;
use super::l2_cache::{Entries, L2Cache};
use super::tables::Tables;
use super::writing::Writer;
use crate::block_device::read_only;
use crate::error::Result;
use crate::format::{SparseLayout, UNKNOWN};
use crate::mapping::{Place, Run};
use crate::sector::{SECTOR_BYTES, to_usize};

/// How a sparse extent is to be opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SparseOptions {
    /// Grain tables that are kept in memory.
    pub(crate) cached_tables: usize,
    /// Whether the redundant tables stand in for unusable ones.
    pub(crate) use_redundant: bool,
    /// Bytes of inflated grains that all extents of a chain keep in memory together.
    pub(crate) grain_cache: usize,
    /// Whether grains are read that are compressed without zlib's container.
    pub(crate) allow_raw_deflate: bool,
    /// Whether the grains of streams are found by their markers.
    pub(crate) salvage: bool,
}

/// Tables that one look reads on into: 2 GiB of usual grains. The time of a call is bounded, whatever the tables hold.
const TABLES_READ_AHEAD: usize = 64;

/// Tables that one look sees through because they are not there: 128 GiB of usual grains.
const TABLES_SEEN_AHEAD: u64 = 4096;

/// What an entry says of a grain that has no place, as [the formats](crate::format) have it for lookup.
const NOWHERE: u64 = 0;
const ZEROS: u64 = 1;

/// A sparse extent that is open.
#[derive(Debug)]
pub(crate) struct SparseExtent {
    tables: Tables,
    cache: L2Cache,
    /// log2 of the sectors of a grain.
    grain_shift: u32,
    /// log2 of the sectors that a grain table covers.
    table_shift: u32,
    /// There once the extent may be written to.
    writer: OnceLock<Writer>,
}

impl SparseExtent {
    /// Opens the extent in `file`.
    pub(crate) fn open(file: Arc<HostFile>, layout: SparseLayout, options: SparseOptions) -> Result<Self> {
        let grain_shift = layout.grain_sectors.trailing_zeros();
        let table_shift = grain_shift + layout.entries_per_table.trailing_zeros();
        let cached_tables = options.cached_tables.min(to_usize(layout.tables()));
        let cache = L2Cache::new(cached_tables, layout.entries_per_table as usize, layout.entries);
        let tables = Tables::open(file, layout, options.use_redundant)?;
        Ok(Self { tables, cache, grain_shift, table_shift, writer: OnceLock::new() })
    }

    pub(crate) fn file(&self) -> &Arc<HostFile> {
        self.tables.file()
    }

    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    pub(super) fn cache(&self) -> &L2Cache {
        &self.cache
    }

    /// Calls `look` with the number of every grain that the tables have a place for, whatever is there.
    ///
    /// # Errors
    /// If the tables cannot be read.
    pub(super) fn for_each_grain(&self, look: impl FnMut(u64)) -> Result<()> {
        self.tables.for_each_grain(look)
    }

    /// Lets the extent be written to. Only one extent of one image may do so to a file.
    pub(crate) fn allow_writing(&self, writer: Writer) {
        self.writer.get_or_init(|| writer);
    }

    pub(super) fn writer(&self) -> Result<&Writer> {
        self.writer.get().ok_or_else(|| read_only().in_file(self.file().path()))
    }

    /// Sectors of a grain.
    pub(crate) fn grain_sectors(&self) -> u64 {
        1 << self.grain_shift
    }

    /// Whether the last writer did not close it.
    pub(crate) fn is_unclean(&self) -> bool {
        self.tables.layout().unclean
    }

    /// Bytes of memory that the directory takes.
    pub(crate) fn directory_len(&self) -> usize {
        self.tables.directory_len()
    }

    /// How often the redundant tables had to stand in.
    pub(crate) fn redundant_stand_ins(&self) -> u64 {
        self.tables.stand_ins()
    }

    /// Where `sector` is, and for how many of the next `max` sectors the same run goes on. The caller has checked
    /// that they lie within the capacity and that `max` is not 0.
    #[inline]
    pub(crate) fn map(&self, sector: u64, max: u64) -> Result<Run<'_>> {
        self.map_for::<false>(sector, max)
    }

    /// Where `count` sectors from `sector` on are in the file, in bytes, if that needs no more than one entry of a
    /// table that is in memory: the short way to what most requests come down to. `None` says nothing; then `map` has
    /// to.
    #[inline]
    pub(crate) fn place_in_grain(&self, sector: u64, count: u64) -> Option<u64> {
        let skip = sector & (self.grain_sectors() - 1);
        let number = (sector >> self.grain_shift) & ((1 << (self.table_shift - self.grain_shift)) - 1);
        if skip + count > self.grain_sectors() {
            return None;
        }
        // The file is looked at before the cache has confirmed the entry: it may grow when tables are put right.
        let look = |entries: &Entries| {
            let start = entries[to_usize(number)].load(Ordering::Acquire);
            let is_data = start > ZEROS && start >= self.tables.layout().first_grain_sector;
            let is_there = is_data && start < UNKNOWN && start + skip + count <= self.tables.file_sectors();
            is_there.then(|| (start + skip) * SECTOR_BYTES)
        };
        self.cache.hit(self.table_of(sector), look)?
    }

    /// As `map`, for a write: a grain that is there is there to its end, also where the file ends within it.
    #[inline]
    pub(crate) fn map_to_write(&self, sector: u64, max: u64) -> Result<Run<'_>> {
        self.map_for::<true>(sector, max)
    }

    #[inline]
    fn map_for<const WHOLE: bool>(&self, sector: u64, max: u64) -> Result<Run<'_>> {
        let mut run = self.map_in_table::<WHOLE>(sector, max)?;
        for _ in 0..TABLES_READ_AHEAD {
            if run.sectors >= max || (sector + run.sectors).trailing_zeros() < self.table_shift {
                break;
            }
            if matches!(run.place, Place::Unallocated) {
                let seen = self.unallocated_from(sector + run.sectors, max - run.sectors);
                run.sectors += seen;
                // A write needs the next table anyway, and one region for all of its grains.
                if !WHOLE || run.sectors >= max {
                    break;
                }
                if seen > 0 {
                    continue;
                }
            }
            // What is wrong with the next table concerns those who ask for its sectors.
            match self.map_in_table::<WHOLE>(sector + run.sectors, max - run.sectors) {
                Ok(next) if run.absorb(&next) => {}
                _ => break,
            }
        }
        Ok(run)
    }

    /// How many of the next `max` sectors from the beginning of a table on are unallocated without a look into a table.
    /// Nothing is read for it: a parent's runs may be short, and the child is asked again for each of them.
    fn unallocated_from(&self, sector: u64, max: u64) -> u64 {
        let whole_tables = (max >> self.table_shift).min(TABLES_SEEN_AHEAD);
        // A read rather finds its table in the cache.
        if whole_tables < 2 {
            return 0;
        }
        // What is pending is not on disk yet.
        let grains = sector >> self.grain_shift..(sector + (whole_tables << self.table_shift)) >> self.grain_shift;
        let whole_tables = match self.cache.first_pending(grains) {
            Some(grain) => (((grain << self.grain_shift) - sector) >> self.table_shift).min(whole_tables),
            None => whole_tables,
        };
        self.tables.empty_from(self.table_of(sector), whole_tables) << self.table_shift
    }

    /// As `map`, but the run ends with the grain table at the latest.
    #[inline]
    fn map_in_table<const WHOLE: bool>(&self, sector: u64, max: u64) -> Result<Run<'_>> {
        let table = self.table_of(sector);
        let table_sectors = 1 << self.table_shift;
        let within = sector & (table_sectors - 1);
        let max = max.min(table_sectors - within);
        let look = |entries: &Entries| self.scan::<WHOLE>(entries, table, within, max);
        if let Some(run) = self.cache.hit(table, look) {
            return run;
        }
        if !self.tables.exists(table) {
            return Ok(Run::new(Place::Unallocated, max));
        }
        self.cache.miss(table, |bytes| self.tables.load(table, bytes), look)?
    }

    fn table_of(&self, sector: u64) -> u32 {
        // The layout has at most 32 Mi tables, and the sector lies within the capacity.
        u32::try_from(sector >> self.table_shift).unwrap_or(u32::MAX)
    }

    /// The run that begins `within` sectors into a grain table and has at most `max` sectors.
    #[inline]
    fn scan<const WHOLE: bool>(&self, entries: &Entries, table: u32, within: u64, max: u64) -> Result<Run<'_>> {
        let mut grain = within >> self.grain_shift;
        let mut run = self.map_grain::<WHOLE>(entries, table, grain, within & (self.grain_sectors() - 1))?;
        while run.sectors < max {
            grain += 1;
            // Only a grain that is there to its end can have a neighbour.
            if (within + run.sectors) >> self.grain_shift != grain {
                break;
            }
            match self.map_grain::<WHOLE>(entries, table, grain, 0) {
                Ok(next) if run.absorb(&next) => {}
                _ => break,
            }
        }
        run.sectors = run.sectors.min(max);
        Ok(run)
    }

    /// The rest of a grain from its sector `skip` on.
    #[inline]
    fn map_grain<const WHOLE: bool>(&self, entries: &Entries, table: u32, grain: u64, skip: u64) -> Result<Run<'_>> {
        let start = entries[to_usize(grain)].load(Ordering::Acquire);
        let rest = self.grain_sectors() - skip;
        match start {
            NOWHERE => return Ok(Run::new(Place::Unallocated, rest)),
            ZEROS => return Ok(Run::new(Place::Zero, rest)),
            UNKNOWN => {
                return Err(self.tables.bad_entry(table, grain, start, "it says nothing that is known of a grain"));
            }
            _ => {}
        }
        if start < self.tables.layout().first_grain_sector {
            return Err(self.tables.bad_entry(table, grain, start, "the grain lies in the metadata of the extent"));
        }
        let file_sectors = self.tables.file_sectors();
        if start >= file_sectors {
            // A writer was cut off between the table and the data; nobody was told that the data is safe.
            if self.tables.layout().unclean {
                return Ok(Run::new(Place::Unallocated, rest));
            }
            return Err(self.tables.bad_entry(table, grain, start, "the grain lies past the end of the file"));
        }
        let first = start + skip;
        if WHOLE {
            return Ok(Run::new(Place::Data { file: self.file(), offset: first * SECTOR_BYTES }, rest));
        }
        if first >= file_sectors {
            if !self.tables.layout().entries.may_be_cut() {
                return Err(self.tables.bad_entry(table, grain, start, "the grain ends past the end of the file"));
            }
            // Only the last grain of a file may be cut short; what is missing of it is zero.
            return Ok(Run::new(Place::Zero, rest));
        }
        let present = rest.min(file_sectors - first);
        Ok(Run::new(Place::Data { file: self.file(), offset: first * SECTOR_BYTES }, present))
    }
}
