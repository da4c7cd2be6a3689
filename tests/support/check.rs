//! A judge of sparse extents, hosted (KDMV, not compressed) and COWD: whether their tables can be right.
//!
//! It reads the bytes by the format's description and shares no code with the crate, nor with the builders but for the
//! offsets of header fields.
//!
//! The idea: everything that an extent refers to claims a stretch of the file - header, descriptor, directories,
//! tables, grains. No stretch may lie past the end, and no two may overlap. What no one claims behind the metadata has
//! leaked.

use std::fmt;
use std::ops::Range;

use super::model::is_zero;
use super::{SECTOR, cowd, index, sparse};

/// Sectors of the header of a COWD extent.
const COWD_HEADER_SECTORS: u64 = 4;

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What must not be.
    pub problems: Vec<Problem>,
    /// How many grains would fit into the sectors that nothing refers to. In a hosted extent all sectors behind the
    /// metadata count; in a COWD extent those before the free sector.
    pub leaked_grains: u64,
    /// Whether the last writer did not close the extent.
    pub unclean: bool,
    /// How many grains have data in the file.
    pub data_grains: u64,
}

impl Report {
    /// Fails the test if there is a problem.
    #[track_caller]
    pub fn expect_sound(&self, what: impl fmt::Display) {
        assert!(self.problems.is_empty(), "{what}: {:?}", self.problems);
    }
}

/// Who claims a stretch of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The header.
    Header,
    /// The embedded descriptor.
    Descriptor,
    /// The directory.
    Directory,
    /// The redundant directory.
    RedundantDirectory,
    /// A table, by its place in the directory.
    Table(u64),
    /// A redundant table.
    RedundantTable(u64),
    /// A grain of the guest.
    Grain(u64),
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The header cannot be right; nothing else has been looked at.
    Header(String),
    /// A directory or table ends, or a grain begins, past the end of the file.
    PastEnd { owner: Owner, sector: u64 },
    /// The file ends within a grain, before its last sector that a guest can see.
    Cut { grain: u64, sector: u64 },
    /// Two grains share sectors.
    Shared { grains: (u64, u64), sector: u64 },
    /// A grain lies where there is metadata, or where it is kept for that.
    InMetadata { grain: u64, sector: u64 },
    /// A directory or table overlaps another, or the header or descriptor.
    Overlap { owners: (Owner, Owner), sector: u64 },
    /// A directory has a table that the redundant one has not, or the other way round.
    DirectoriesDiffer { table: u64, sector: u64, redundant: u64 },
    /// A table and its redundant copy have different entries.
    TablesDiffer { grain: u64, entry: u64, redundant: u64 },
    /// An entry 1 in an extent in which that has no meaning.
    One { grain: u64 },
    /// An entry for a grain past the capacity.
    PastCapacity { grain: u64, entry: u64 },
    /// The free sector of a COWD extent is in use.
    FreeSector { free: u64, used_up_to: u64 },
}

impl Problem {
    /// Whether it is only that two copies differ, as they may after a crash: the primary one counts then.
    pub fn is_difference(&self) -> bool {
        matches!(self, Problem::DirectoriesDiffer { .. } | Problem::TablesDiffer { .. })
    }
}

/// Looks at an extent.
pub fn check(bytes: &[u8]) -> Report {
    let read = |buf: &mut [u8], offset| buf.copy_from_slice(&bytes[index(offset)..][..buf.len()]);
    check_file(bytes.len() as u64, &read)
}

/// Looks at an extent of `len` bytes, of which `read` fills a buffer from an offset on. Only metadata is read.
pub fn check_file(len: u64, read: &dyn Fn(&mut [u8], u64)) -> Report {
    let mut header = vec![0; index(len.min(COWD_HEADER_SECTORS * SECTOR as u64))];
    read(&mut header, 0);
    let checked = match header.get(..4) {
        Some(b"KDMV") => hosted(&header, len, read),
        Some(b"COWD") => esx(&header, len, read),
        _ => Err("neither KDMV nor COWD".to_owned()),
    };
    checked.unwrap_or_else(|problem| Report {
        problems: vec![Problem::Header(problem)],
        leaked_grains: 0,
        unclean: false,
        data_grains: 0,
    })
}

fn hosted(bytes: &[u8], len: u64, read: &dyn Fn(&mut [u8], u64)) -> Result<Report, String> {
    use sparse::field;
    if bytes.len() < SECTOR {
        return Err("shorter than a header".to_owned());
    }
    let flags = u32_at(bytes, field::FLAGS)?;
    if flags >> 3 != 0 || !matches!(u32_at(bytes, field::VERSION)?, 1..=3) {
        return Err(format!("flags {flags:#x} or a version that this check does not know"));
    }
    if flags & sparse::FLAG_NEWLINES != 0 && bytes[index(field::NEWLINES)..][..4] != *b"\n \r\n" {
        return Err("the newline bytes are wrong".to_owned());
    }
    let mut extent = Extent {
        read,
        len,
        sectors: len.div_ceil(SECTOR as u64),
        capacity: u64_at(bytes, field::CAPACITY)?,
        grain_sectors: u64_at(bytes, field::GRAIN_SIZE)?,
        entries: u64::from(u32_at(bytes, field::ENTRIES_PER_TABLE)?),
        one_is_zero: flags & sparse::FLAG_ZERO_GRAINS != 0,
        claims: vec![(0..1, Owner::Header)],
        problems: Vec::new(),
    };
    extent.check_numbers()?;
    let descriptor = u64_at(bytes, field::DESCRIPTOR_OFFSET)?;
    if descriptor != 0 {
        extent.claim(descriptor, u64_at(bytes, field::DESCRIPTOR_SIZE)?, Owner::Descriptor);
    }
    let directory = extent.directory(u64_at(bytes, field::GD_OFFSET)?, Owner::Directory)?;
    extent.tables(&directory, Owner::Table);
    if flags & sparse::FLAG_REDUNDANT != 0 {
        let redundant = extent.directory(u64_at(bytes, field::RGD_OFFSET)?, Owner::RedundantDirectory)?;
        extent.tables(&redundant, Owner::RedundantTable);
        extent.compare(&directory, &redundant);
    }
    let overhead = u64_at(bytes, field::OVERHEAD)?;
    if overhead > extent.sectors {
        return Err(format!("the metadata ends at sector {overhead:#x}, past the end of the file"));
    }
    let claims = extent.claims.iter();
    let early = claims.filter_map(|(range, owner)| match owner {
        Owner::Grain(grain) if range.start < overhead => Some((*grain, range.start)),
        _ => None,
    });
    let early: Vec<_> = early.collect();
    extent.problems.extend(early.into_iter().map(|(grain, sector)| Problem::InMetadata { grain, sector }));
    let file = overhead..extent.sectors;
    Ok(extent.report(&file, bytes[index(field::UNCLEAN)] != 0))
}

fn esx(bytes: &[u8], len: u64, read: &dyn Fn(&mut [u8], u64)) -> Result<Report, String> {
    use cowd::field;
    if bytes.len() < index(COWD_HEADER_SECTORS) * SECTOR {
        return Err("shorter than a header".to_owned());
    }
    let number = |field| u32_at(bytes, field).map(u64::from);
    let version = number(field::VERSION)?;
    let (capacity, grain_sectors) = (number(field::NUM_SECTORS)?, number(field::GRAIN_SIZE)?);
    let tables = number(field::NUM_GD_ENTRIES)?;
    // The number of entries in a table stands nowhere; it has to agree with the number of tables.
    let usual = if version == 3 { [512, 4096] } else { [4096, 512] };
    let mut known = usual.into_iter().chain(65536_u64.checked_div(grain_sectors));
    let entries = known.find(|entries| capacity.div_ceil((grain_sectors * entries).max(1)) == tables);
    // Of a single table it is not known how long it is; it has an entry for each grain.
    let entries = entries.map(|entries| match tables {
        1 => entries.min(capacity.div_ceil(grain_sectors).next_power_of_two()),
        _ => entries,
    });
    let mut extent = Extent {
        read,
        len,
        sectors: len.div_ceil(SECTOR as u64),
        capacity,
        grain_sectors,
        entries: entries.ok_or("the directory has a strange number of entries")?,
        // Readers take it for zeros, but there is no writer that writes it.
        one_is_zero: false,
        claims: vec![(0..COWD_HEADER_SECTORS, Owner::Header)],
        problems: Vec::new(),
    };
    extent.check_numbers()?;
    let start = number(field::GD_OFFSET)?;
    let directory = extent.directory(start, Owner::Directory)?;
    extent.tables(&directory, Owner::Table);

    let free = number(field::FREE_SECTOR)?;
    let used_up_to = extent.claims.iter().map(|(range, _)| range.end).max().unwrap_or(0);
    if free < used_up_to {
        extent.problems.push(Problem::FreeSector { free, used_up_to });
    }
    let crashed = number(field::GENERATION)? != number(field::SAVED_GENERATION)?;
    let unclean = crashed || version == 1 && number(field::UNCLEAN)? != 0;
    let behind = COWD_HEADER_SECTORS..free.min(extent.sectors);
    Ok(extent.report(&behind, unclean))
}

/// An extent with what has been found of it. All positions and lengths are in sectors.
struct Extent<'b> {
    read: &'b dyn Fn(&mut [u8], u64),
    len: u64,
    sectors: u64,
    capacity: u64,
    grain_sectors: u64,
    /// In a table.
    entries: u64,
    /// Whether the entry 1 stands for zeros.
    one_is_zero: bool,
    claims: Vec<(Range<u64>, Owner)>,
    problems: Vec<Problem>,
}

impl Extent<'_> {
    fn check_numbers(&self) -> Result<(), String> {
        let powers = self.grain_sectors.is_power_of_two() && self.entries.is_power_of_two();
        // So much that nothing below can overflow, and a test needs no more.
        if !powers || self.capacity == 0 || self.capacity >= 1 << 40 || self.grain_sectors > 1 << 20 {
            return Err(format!("{} sectors in grains of {}", self.capacity, self.grain_sectors));
        }
        Ok(())
    }

    fn grains(&self) -> u64 {
        self.capacity.div_ceil(self.grain_sectors)
    }

    fn table_sectors(&self) -> u64 {
        (self.entries * 4).div_ceil(SECTOR as u64)
    }

    fn claim(&mut self, start: u64, len: u64, owner: Owner) {
        self.claims.push((start..start.saturating_add(len), owner));
    }

    /// The entries of a directory.
    fn directory(&mut self, start: u64, owner: Owner) -> Result<Vec<u64>, String> {
        let tables = self.grains().div_ceil(self.entries);
        let len = (tables * 4).div_ceil(SECTOR as u64);
        if start == 0 || start.checked_add(len).is_none_or(|end| end > self.sectors) {
            return Err(format!("{owner:?} at sector {start:#x}, past the end of the file"));
        }
        self.claim(start, len, owner);
        Ok(self.numbers(start, tables))
    }

    /// Claims the tables of a directory, and the grains of those that are not redundant. A bad entry becomes 0 for
    /// the purposes of this check.
    fn tables(&mut self, directory: &[u64], owner: fn(u64) -> Owner) {
        for (table, &start) in (0..).zip(directory) {
            let owner = owner(table);
            if start == 0 {
                continue;
            }
            if start + self.table_sectors() > self.sectors {
                self.problems.push(Problem::PastEnd { owner, sector: start });
                continue;
            }
            self.claim(start, self.table_sectors(), owner);
            if owner == Owner::Table(table) {
                self.table(table, start);
            }
        }
    }

    fn table(&mut self, table: u64, start: u64) {
        if self.is_blank(start) {
            return;
        }
        for (grain, entry) in (table * self.entries..).zip(self.numbers(start, self.entries)) {
            match entry {
                0 => {}
                _ if grain >= self.grains() => self.problems.push(Problem::PastCapacity { grain, entry }),
                1 if self.one_is_zero => {}
                1 => self.problems.push(Problem::One { grain }),
                sector => self.grain(grain, sector),
            }
        }
    }

    fn grain(&mut self, grain: u64, sector: u64) {
        let seen = (self.capacity - grain * self.grain_sectors).min(self.grain_sectors);
        if sector >= self.sectors {
            self.problems.push(Problem::PastEnd { owner: Owner::Grain(grain), sector });
            return;
        }
        if (sector + seen) * SECTOR as u64 > self.len {
            self.problems.push(Problem::Cut { grain, sector });
        }
        self.claim(sector, self.grain_sectors, Owner::Grain(grain));
    }

    /// The directories may say only different places for the same tables, and the tables must be the same.
    fn compare(&mut self, directory: &[u64], redundant: &[u64]) {
        for (table, (&sector, &redundant)) in (0..).zip(directory.iter().zip(redundant)) {
            if (sector == 0) != (redundant == 0) {
                self.problems.push(Problem::DirectoriesDiffer { table, sector, redundant });
            }
            let past_end = |start: u64| start + self.table_sectors() > self.sectors;
            if sector == 0 || redundant == 0 || past_end(sector) || past_end(redundant) {
                continue;
            }
            if self.is_blank(sector) && self.is_blank(redundant) {
                continue;
            }
            let entries = (table * self.entries..).zip(self.numbers(sector, self.entries));
            for ((grain, entry), redundant) in entries.zip(self.numbers(redundant, self.entries)) {
                if entry != redundant {
                    self.problems.push(Problem::TablesDiffer { grain, entry, redundant });
                }
            }
        }
    }

    /// Whether a table has nothing but zeros in it: so are nearly all of a large disk, and they are seen at once.
    fn is_blank(&self, start: u64) -> bool {
        let start = start * SECTOR as u64;
        let mut bytes = vec![0; index((start + self.entries * 4).min(self.len) - start)];
        (self.read)(&mut bytes, start);
        is_zero(&bytes)
    }

    /// `count` numbers of 32 bits from a sector on. The file may end within its last sector.
    fn numbers(&self, sector: u64, count: u64) -> Vec<u64> {
        let start = sector * SECTOR as u64;
        let mut bytes = vec![0; index((start + count * 4).min(self.len) - start)];
        (self.read)(&mut bytes, start);
        let (numbers, _) = bytes.as_chunks::<4>();
        let mut numbers: Vec<u64> = numbers.iter().map(|bytes| u32::from_le_bytes(*bytes).into()).collect();
        numbers.resize(index(count), 0);
        numbers
    }

    /// Looks for overlaps, and for what nobody claims in a part of the file.
    fn report(mut self, file: &Range<u64>, unclean: bool) -> Report {
        self.claims.sort_by_key(|(range, owner)| (range.start, *owner));
        let mut free = 0;
        // The claim that reaches farthest so far.
        let mut last = (0..0, Owner::Header);
        let mut end = file.start;
        for (range, owner) in &self.claims {
            if range.start < last.0.end {
                self.problems.push(overlap(last.1, *owner, range.start));
            }
            free += range.start.min(file.end).saturating_sub(end);
            end = end.max(range.end);
            if range.end > last.0.end {
                last = (range.clone(), *owner);
            }
        }
        free += file.end.saturating_sub(end);
        let data = self.claims.iter().filter(|(_, owner)| matches!(owner, Owner::Grain(_)));
        Report {
            data_grains: data.count() as u64,
            problems: self.problems,
            leaked_grains: free / self.grain_sectors,
            unclean,
        }
    }
}

fn overlap(one: Owner, other: Owner, sector: u64) -> Problem {
    match (one, other) {
        (Owner::Grain(one), Owner::Grain(other)) => {
            Problem::Shared { grains: (one.min(other), one.max(other)), sector }
        }
        (Owner::Grain(grain), _) | (_, Owner::Grain(grain)) => Problem::InMetadata { grain, sector },
        owners => Problem::Overlap { owners, sector },
    }
}

fn u32_at(bytes: &[u8], offset: u64) -> Result<u32, String> {
    number_at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: u64) -> Result<u64, String> {
    number_at(bytes, offset).map(u64::from_le_bytes)
}

fn number_at<const LEN: usize>(bytes: &[u8], offset: u64) -> Result<[u8; LEN], String> {
    let number = bytes.get(index(offset)..).and_then(|bytes| bytes.first_chunk());
    number.copied().ok_or_else(|| format!("the file ends at {offset:#x}, within the header"))
}
