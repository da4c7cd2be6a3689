//! How many grains the tables of a stream name, counted while they pass by.
//!
//! Tables in front are known by the directory, which is read before them. Those behind the grains have markers, and the
//! directory that comes after them says which of them count. Memory is taken for what was read, and for nothing that a
//! header claims: four bytes for each entry of a directory, and eight for each table behind grains.

use byteorder::{ByteOrder, LittleEndian};

use crate::format::KdmvHeader;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};

/// Entries in a sector of a table or directory.
const ENTRIES: usize = SECTOR_SIZE / 4;

/// What the tables name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// Grains.
    pub(super) grains: u64,
    /// The highest sector of the stream at which one begins.
    pub(super) highest: u64,
}

impl Named {
    fn add(&mut self, entries: &[u8]) {
        for entry in entries.chunks_exact(4) {
            let sector = u64::from(LittleEndian::read_u32(entry));
            // An entry of 1 is a grain of zeros, which is nowhere.
            if sector > 1 {
                self.grains += 1;
                self.highest = self.highest.max(sector);
            }
        }
    }
}

/// The tables in front of the grains.
#[derive(Debug)]
pub(super) struct FrontTables {
    first_sector: u64,
    directory_sectors: u64,
    table_sectors: u64,
    tables: usize,
    entries_per_table: usize,
    /// Entries of the last table that stand for something on the disk; others may hold anything.
    entries_of_last: usize,
    /// The directory; when it is whole, the sectors at which there are tables, each once and in their order.
    directory: Vec<u32>,
    is_whole: bool,
    last_table: u64,
    /// Of the directory, what comes next.
    next: usize,
    /// Tables that have passed by.
    seen: usize,
    named: Named,
}

impl FrontTables {
    /// `None` if the directory is not in front of the sector `end`.
    pub(super) fn of(header: &KdmvHeader, end: u64) -> Option<Self> {
        let directory_sectors = header.directory_sectors();
        let first_sector = Some(header.gd_offset).filter(|&sector| sector != 0)?;
        first_sector.checked_add(directory_sectors).filter(|&behind| behind <= end)?;
        let entries = u64::from(header.gtes_per_gt);
        let grains = header.capacity.div_ceil(header.grain_size);
        Some(Self {
            first_sector,
            directory_sectors,
            table_sectors: header.sectors_per_table(),
            tables: to_usize(header.tables()),
            entries_per_table: to_usize(entries),
            entries_of_last: to_usize(grains - (header.tables() - 1) * entries),
            directory: Vec::new(),
            is_whole: false,
            last_table: 0,
            next: 0,
            seen: 0,
            named: Named::default(),
        })
    }

    /// Looks at sectors that pass by, from `sector` on.
    pub(super) fn look(&mut self, sector: u64, bytes: &[u8]) {
        for (number, bytes) in (sector..).zip(bytes.chunks(SECTOR_SIZE)) {
            if (self.first_sector..self.first_sector + self.directory_sectors).contains(&number) {
                self.add_directory(bytes);
            } else if self.is_whole {
                self.add_table(number, bytes);
            }
        }
    }

    /// What the tables name.
    pub(super) fn named(&self) -> Named {
        self.named
    }

    /// Whether all of them have passed by: where a directory comes before what it names, as everybody writes it.
    pub(super) fn are_known(&self) -> bool {
        self.is_whole && self.seen == self.directory.len()
    }

    fn add_directory(&mut self, bytes: &[u8]) {
        if self.is_whole {
            return;
        }
        let left = self.tables - self.directory.len();
        self.directory.extend(bytes.chunks_exact(4).take(left).map(LittleEndian::read_u32));
        if self.directory.len() == self.tables {
            self.is_whole = true;
            self.last_table = self.directory.last().map_or(0, |&sector| sector.into());
            // At 0 there is no table, and nothing can be at 1.
            self.directory.retain(|&sector| sector > 1);
            self.directory.sort_unstable();
            self.directory.dedup();
        }
    }

    fn add_table(&mut self, number: u64, bytes: &[u8]) {
        while self.directory.get(self.next).is_some_and(|&sector| u64::from(sector) + self.table_sectors <= number) {
            self.next += 1;
        }
        let Some(sector) = self.directory.get(self.next).map(|&sector| u64::from(sector)) else { return };
        if number < sector {
            return;
        }
        self.seen += usize::from(number == sector);
        let entries = if sector == self.last_table { self.entries_of_last } else { self.entries_per_table };
        let before = to_usize(number - sector) * ENTRIES;
        let len = entries.saturating_sub(before) * 4;
        self.named.add(&bytes[..len.min(bytes.len())]);
    }
}

/// The tables behind the grains.
#[derive(Debug, Default)]
pub(super) struct TablesBehind {
    /// Where each of them is, in sectors, and how many grains it names; ascending.
    tables: Vec<(u32, u32)>,
    /// What the table names that passes by.
    table: Named,
    highest: u64,
    /// What the last directory names.
    directory: Option<u64>,
}

impl TablesBehind {
    /// A table begins at `sector`; its bytes come next.
    pub(super) fn begin_table(&mut self, sector: u64) {
        self.table = Named::default();
        // A directory has numbers of 32 bits.
        self.tables.push((u32::try_from(sector).unwrap_or(u32::MAX), 0));
    }

    pub(super) fn add_table(&mut self, bytes: &[u8]) {
        self.table.add(bytes);
        self.highest = self.highest.max(self.table.highest);
        if let Some((_, grains)) = self.tables.last_mut() {
            *grains = u32::try_from(self.table.grains).unwrap_or(u32::MAX);
        }
    }

    /// A directory begins; it takes the place of an earlier one.
    pub(super) fn begin_directory(&mut self) {
        self.directory = Some(0);
    }

    pub(super) fn add_directory(&mut self, bytes: &[u8]) {
        for entry in bytes.chunks_exact(4) {
            let sector = LittleEndian::read_u32(entry);
            let found = self.tables.binary_search_by_key(&sector, |&(table, _)| table);
            if let (Ok(at), Some(named)) = (found, &mut self.directory) {
                *named = named.saturating_add(self.tables[at].1.into());
            }
        }
    }

    /// What the tables name that the last directory knows.
    pub(super) fn named(&self) -> Named {
        Named { grains: self.directory.unwrap_or(0), highest: self.highest }
    }
}

/// The sector of a byte.
pub(super) fn sector_of(offset: u64) -> u64 {
    offset / SECTOR_BYTES
}
