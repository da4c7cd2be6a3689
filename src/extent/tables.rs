//! The grain tables of a sparse extent on disk: which there are, and how one is read.
//!
//! With the caller's permission the redundant copy stands in where the primary cannot be used: for a whole table whose
//! directory entry or sectors are unusable, and for single entries that cannot be right. A plausible primary always
//! wins, also when it is 0; only a directory entry of 0 counts as unusable where the copy has a table, because every
//! writer of both makes all tables or links a new one in both.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use byteorder::{ByteOrder, LittleEndian};

use super::HostFile;
use super::grain_directory::GrainDirectory;
use super::holes::Holes;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{EntryFormat, MARKER_LEN, Marker, SparseLayout, UNKNOWN_TABLE};
use crate::sector::{SECTOR_BYTES, is_zero};

/// Bytes of an entry of an extent that is written to.
pub(crate) const ENTRY: usize = 4;

pub(crate) const UNALLOCATED: u32 = 0;
pub(crate) const ZERO: u32 = 1;

/// The directory of an extent, and the way to its tables.
#[derive(Debug)]
pub(crate) struct Tables {
    file: Arc<HostFile>,
    layout: SparseLayout,
    directory: GrainDirectory,
    redundant: Option<GrainDirectory>,
    /// How much a sector may lack at the end of the file, in bytes.
    missing: u64,
    /// The tables for which, or for entries of which, the redundant copy had to stand in.
    stand_ins: Mutex<HashSet<u32>>,
}

impl Tables {
    /// Reads the directory, and the redundant one if it is to be used.
    pub(crate) fn open(file: Arc<HostFile>, layout: SparseLayout, use_redundant: bool) -> Result<Self> {
        // One that has the place of the other one is no second chance.
        let stand_in = layout.redundant.filter(|_| use_redundant && !layout.directory_is_redundant);
        let directory = GrainDirectory::load(&file, layout.directory.start, layout.tables(), layout.entries);
        // A copy that cannot be read is none.
        let redundant =
            stand_in.and_then(|start| GrainDirectory::load(&file, start, layout.tables(), layout.entries).ok());
        // Of an unreadable directory every entry is unusable.
        let directory = match (directory, &redundant) {
            (Err(_), Some(_)) => GrainDirectory::absent(layout.directory.start, layout.entries),
            (directory, _) => directory?,
        };
        let missing = if layout.entries.may_be_cut() { SECTOR_BYTES - 1 } else { 0 };
        let opened = Self { file, layout, directory, redundant, missing, stand_ins: Mutex::default() };
        let is_empty = || {
            (0..opened.layout.tables())
                .all(|table| opened.directory.entry(u32::try_from(table).unwrap_or(u32::MAX)) == 0)
        };
        if opened.is_among_grains(opened.layout.directory.start) && is_empty() {
            let is_one = |marker| matches!(marker, Marker::Directory { .. });
            opened.check_marker(opened.layout.directory.start, is_one, "grain directory")?;
        }
        Ok(opened)
    }

    pub(crate) fn file(&self) -> &Arc<HostFile> {
        &self.file
    }

    pub(crate) fn layout(&self) -> &SparseLayout {
        &self.layout
    }

    pub(crate) fn directory(&self) -> &GrainDirectory {
        &self.directory
    }

    /// Whether the directory was read, and no other one stands in for it.
    ///
    /// # Errors
    /// `Io` if it was not: what it holds is not known.
    pub(crate) fn check_directory(&self) -> Result<()> {
        if self.directory.is_there() {
            return Ok(());
        }
        let offset = self.layout.directory.start;
        let text = format!("the grain directory at offset {offset:#x} cannot be read");
        Err(Error::text(ErrorKind::Io, text).in_file(self.file.path()))
    }

    /// The redundant directory as it is in the file; `None` if there is none, or if it stands in for the other one.
    ///
    /// # Errors
    /// What the host reports.
    pub(crate) fn load_redundant(&self) -> Result<Option<GrainDirectory>> {
        let start = self.layout.redundant.filter(|_| !self.layout.directory_is_redundant);
        let load = |start| GrainDirectory::load(&self.file, start, self.layout.tables(), self.layout.entries);
        start.map(load).transpose()
    }

    /// Sectors of the file, the last of which may be cut short if a grain may be.
    #[inline]
    pub(crate) fn file_sectors(&self) -> u64 {
        self.file.len().saturating_add(self.missing) / SECTOR_BYTES
    }

    pub(crate) fn stand_ins(&self) -> u64 {
        let tables = self.stand_ins.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        tables + u64::from(self.layout.directory_is_redundant)
    }

    /// Bytes of memory that the directories take.
    pub(crate) fn directory_len(&self) -> usize {
        self.directory.memory() + self.redundant.as_ref().map_or(0, GrainDirectory::memory)
    }

    /// Bytes of a table.
    pub(crate) fn table_len(&self) -> usize {
        self.layout.entries_per_table as usize * self.layout.entries.len()
    }

    /// Whether there is a table; without one all its grains are unallocated.
    pub(crate) fn exists(&self, table: u32) -> bool {
        self.directory.entry(table) != 0 || self.redundant.as_ref().is_some_and(|other| other.entry(table) != 0)
    }

    /// How many tables from `first` on, of at most `max`, are known to have no allocated grain without being read:
    /// there is no such table, or it lies in a hole of the host file. An empty disk of any size is seen through so.
    pub(crate) fn empty_from(&self, first: u32, max: u64) -> u64 {
        let mut holes = Holes::default();
        let end = self.layout.tables().min(u64::from(first).saturating_add(max));
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        let is_empty = |table: &u32| {
            if !self.exists(*table) {
                return true;
            }
            // What is wrong with a table concerns those who read it.
            let place = self.place(&self.directory, *table);
            // A hole may also be what a download has not come to.
            let place = place.ok().filter(|place| !self.is_among_grains(place.start));
            place.is_some_and(|place| holes.cover(&self.file, &place).unwrap_or(false))
        };
        (first..end).take_while(is_empty).count() as u64
    }

    /// The table of a grain of the extent by a directory, and its entry, as bytes of the file; `None` if there is no
    /// such table.
    pub(crate) fn entry_in(&self, directory: &GrainDirectory, grain: u64) -> Option<(Range<u64>, u64)> {
        let entries = u64::from(self.layout.entries_per_table);
        let sector = u32::try_from(grain / entries).map_or(0, |table| directory.entry(table));
        let start = u64::from(sector) * SECTOR_BYTES;
        let table = start..start + self.table_len() as u64;
        (sector != 0).then_some((table, start + grain % entries * ENTRY as u64))
    }

    /// The error about an entry that cannot be right.
    #[cold]
    pub(crate) fn bad_entry(&self, table: u32, grain: u64, entry: u64, problem: &'static str) -> Error {
        let offset = u64::from(self.directory.entry(table)) * SECTOR_BYTES + grain * self.layout.entries.len() as u64;
        let name = format!("entry {grain} of table {table}");
        let value = if self.layout.entries == EntryFormat::Sectors { entry } else { self.raw(offset) };
        Error::field("grain table", name, offset, value, problem).in_file(self.file.path())
    }

    /// What stands in the file where an entry does. For messages only: what cannot be read says nothing.
    fn raw(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        let entry = &mut bytes[..self.layout.entries.len()];
        if self.file.read(entry, offset).is_ok() { self.layout.entries.raw(entry) } else { 0 }
    }

    /// Calls `look` with every grain of the extent that has an entry with a place, by its number, in their order.
    ///
    /// # Errors
    /// If the tables cannot be read, or are not where the directory says.
    pub(crate) fn for_each_grain(&self, mut look: impl FnMut(u64)) -> Result<()> {
        let mut bytes = vec![0; self.table_len()];
        let entries = u64::from(self.layout.entries_per_table);
        let grains = self.layout.sectors.div_ceil(self.layout.grain_sectors);
        let tables = u32::try_from(self.layout.tables()).unwrap_or(u32::MAX);
        for table in (0..tables).filter(|&table| self.exists(table)) {
            self.load(table, &mut bytes)?;
            let first = u64::from(table) * entries;
            for (grain, entry) in (first..grains).zip(bytes.chunks_exact(ENTRY)) {
                if !matches!(LittleEndian::read_u32(entry), UNALLOCATED | ZERO) {
                    look(grain);
                }
            }
        }
        Ok(())
    }

    /// Reads a table that exists.
    pub(crate) fn load(&self, table: u32, bytes: &mut [u8]) -> Result<()> {
        let primary = self.load_from(&self.directory, table, bytes);
        let Some(redundant) = &self.redundant else { return primary };
        let is_good =
            |bytes: &[u8]| bytes.chunks_exact(ENTRY).all(|entry| self.plausible(LittleEndian::read_u32(entry)));
        if primary.is_ok() && is_good(bytes) {
            return Ok(());
        }
        let mut copy = vec![0; bytes.len()];
        if self.load_from(redundant, table, &mut copy).is_err() {
            return primary;
        }
        let mut stood_in = primary.is_err();
        if primary.is_err() {
            bytes.copy_from_slice(&copy);
        }
        for (entry, other) in bytes.chunks_exact_mut(ENTRY).zip(copy.chunks_exact(ENTRY)) {
            if !self.plausible(LittleEndian::read_u32(entry)) && self.plausible(LittleEndian::read_u32(other)) {
                entry.copy_from_slice(other);
                stood_in = true;
            }
        }
        if stood_in {
            self.stand_ins.lock().unwrap_or_else(PoisonError::into_inner).insert(table);
        }
        Ok(())
    }

    /// Whether an entry can be right.
    pub(crate) fn plausible(&self, entry: u32) -> bool {
        matches!(entry, UNALLOCATED | ZERO)
            || (self.layout.first_grain_sector..self.file_sectors()).contains(&u64::from(entry))
    }

    fn load_from(&self, directory: &GrainDirectory, table: u32, bytes: &mut [u8]) -> Result<()> {
        let place = self.place(directory, table)?;
        self.file.read(bytes, place.start)?;
        if self.is_among_grains(place.start) && is_zero(bytes) {
            self.check_marker(place.start, |marker| matches!(marker, Marker::Table { .. }), "grain table")?;
        }
        Ok(())
    }

    /// Whether metadata at this byte stands where grains do, and so has a marker.
    fn is_among_grains(&self, at: u64) -> bool {
        let first = self.layout.first_grain_sector;
        self.layout.has_markers && first > 0 && at / SECTOR_BYTES >= first
    }

    /// Sees to it that metadata of zeros is what was written, and not what is left where nothing was.
    fn check_marker(&self, at: u64, is_one: impl FnOnce(Marker) -> bool, what: &str) -> Result<()> {
        let mut marker = [0; MARKER_LEN];
        self.file.read(&mut marker, at - SECTOR_BYTES)?;
        if is_one(Marker::decode(&marker)) {
            return Ok(());
        }
        let text = format!("the {what} at offset {at:#x} holds zeros and has no marker: what was there is lost");
        Err(Error::text(ErrorKind::Corrupt, text).in_file(self.file.path()))
    }

    /// Where a table is in the file, in bytes, if it can be there.
    pub(crate) fn place(&self, directory: &GrainDirectory, table: u32) -> Result<Range<u64>> {
        let start = directory.entry(table);
        let place = u64::from(start) * SECTOR_BYTES..u64::from(start) * SECTOR_BYTES + self.table_len() as u64;
        let problem = if start == 0 {
            "there is no grain table"
        } else if start == UNKNOWN_TABLE {
            "no number of a grain table"
        } else if u64::from(start) < self.layout.first_table_sector {
            "the grain table lies in the header"
        } else if place.end > self.file.len() {
            "the grain table ends past the file"
        } else if overlap(&place, &self.layout.directory) {
            "the grain table overlaps the grain directory"
        } else if overlap(&place, &self.layout.descriptor) {
            "the grain table overlaps the descriptor"
        } else {
            return Ok(place);
        };
        let name = format!("entry {table}");
        let at = directory.entry_offset(table);
        let value = if start == UNKNOWN_TABLE { self.raw(at) } else { start.into() };
        Err(Error::field("grain directory", name, at, value, problem).in_file(self.file.path()))
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
