//! How many grains the tables of a stream name, counted while they pass by.
//!
//! Tables in front are known by the directory, which is read before them. Those behind the grains have markers, and the
//! directory that comes after them says which of them count. Memory is taken for what was read, and for nothing that a
//! header claims: four bytes for each entry of a directory in front, and twelve for each table behind grains.

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
        Some(Self {
            first_sector,
            directory_sectors,
            table_sectors: header.sectors_per_table(),
            tables: to_usize(header.tables()),
            entries_per_table: to_usize(header.gtes_per_gt.into()),
            entries_of_last: entries_of_last(header),
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

/// A table behind its grains.
#[derive(Clone, Copy, Debug)]
struct PassedTable {
    /// Where it is.
    sector: u32,
    /// What it names.
    grains: u32,
    highest: u32,
}

/// The tables behind the grains.
#[derive(Debug)]
pub(super) struct TablesBehind {
    /// Tables that a directory has, and entries of the last that stand for something on the disk; others may hold
    /// anything.
    count: usize,
    entries_of_last: usize,
    /// Those that have come, by their sectors, which ascend.
    tables: Vec<PassedTable>,
    /// What the newest of them names if it is the last one of the directory.
    newest_as_last: Named,
    /// Entries that have passed by of the table or the directory that passes by.
    passed: usize,
    /// What the last directory names.
    directory: Named,
    /// The first sector at which it has a table where none has come.
    lost: Option<u32>,
}

impl TablesBehind {
    pub(super) fn of(header: &KdmvHeader) -> Self {
        Self {
            count: to_usize(header.tables()),
            entries_of_last: entries_of_last(header),
            tables: Vec::new(),
            newest_as_last: Named::default(),
            passed: 0,
            directory: Named::default(),
            lost: None,
        }
    }

    /// A table begins at `sector`; its bytes come next.
    pub(super) fn begin_table(&mut self, sector: u64) {
        self.passed = 0;
        self.newest_as_last = Named::default();
        // A directory has numbers of 32 bits.
        let sector = u32::try_from(sector).unwrap_or(u32::MAX);
        self.tables.push(PassedTable { sector, grains: 0, highest: 0 });
    }

    pub(super) fn add_table(&mut self, bytes: &[u8]) {
        let of_last = self.entries_of_last.saturating_sub(self.passed).saturating_mul(4).min(bytes.len());
        self.newest_as_last.add(&bytes[..of_last]);
        let mut named = Named::default();
        named.add(bytes);
        if let Some(newest) = self.tables.last_mut() {
            // There are 32 bits of entries in a table at most, and each of them has as many.
            newest.grains = newest.grains.saturating_add(u32::try_from(named.grains).unwrap_or(u32::MAX));
            newest.highest = newest.highest.max(u32::try_from(named.highest).unwrap_or(u32::MAX));
        }
        self.passed += bytes.len() / 4;
    }

    /// A directory begins; it takes the place of an earlier one.
    pub(super) fn begin_directory(&mut self) {
        self.passed = 0;
        self.directory = Named::default();
        self.lost = None;
    }

    pub(super) fn add_directory(&mut self, bytes: &[u8]) {
        for entry in bytes.chunks_exact(4).take(self.count - self.passed.min(self.count)) {
            self.passed += 1;
            let sector = LittleEndian::read_u32(entry);
            match self.tables.binary_search_by_key(&sector, |table| table.sector) {
                Ok(at) => {
                    let is_last = self.passed == self.count && at + 1 == self.tables.len();
                    let PassedTable { grains, highest, .. } = self.tables[at];
                    let named = Named { grains: grains.into(), highest: highest.into() };
                    let named = if is_last { self.newest_as_last } else { named };
                    self.directory.grains = self.directory.grains.saturating_add(named.grains);
                    self.directory.highest = self.directory.highest.max(named.highest);
                }
                Err(_) if sector > 0 => self.lost = self.lost.or(Some(sector)),
                Err(_) => {}
            }
        }
    }

    /// What the tables name that the last directory knows.
    pub(super) fn named(&self) -> Named {
        self.directory
    }

    /// Whether so many tables have come that nobody can have a use for them: each of them twice.
    pub(super) fn are_too_many(&self) -> bool {
        self.tables.len() > 2 * self.count + 16
    }

    /// A sector at which the last directory has a table, and none has come.
    pub(super) fn lost(&self) -> Option<u32> {
        self.lost
    }
}

/// Entries of the last table that stand for something on the disk.
fn entries_of_last(header: &KdmvHeader) -> usize {
    let grains = header.capacity.div_ceil(header.grain_size);
    to_usize(grains - (header.tables() - 1) * u64::from(header.gtes_per_gt))
}

/// The sector of a byte.
pub(super) fn sector_of(offset: u64) -> u64 {
    offset / SECTOR_BYTES
}
