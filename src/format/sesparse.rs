//! The headers of an seSparse extent, as ESX makes them for snapshots.
//!
//! Nobody has documented the format. Sources: the code of QEMU's and dissect's readers, a mail of its finder, and an
//! extent that ESX has written. All of these have one set of numbers, and others are refused by name.

use byteorder::{ByteOrder, LittleEndian};

use super::entries::Numbers;
use super::kdmv::MAX_GD_ENTRIES;
use super::{EntryFormat, HeaderMark, SparseLayout, UNKNOWN_TABLE};
use crate::error::{Error, ErrorKind, Result};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, is_zero};

/// The first eight bytes, as a number.
pub(crate) const MAGIC: u64 = 0xcafe_babe;

/// The first eight bytes of the volatile header.
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;

/// The first eight bytes of the journal header.
pub(crate) const JOURNAL_MAGIC: u64 = 0xdeaf_c0de;

/// The only version that is known: 2.1.
const VERSION: u64 = 0x2_0000_0001;

/// Sectors of a grain.
const GRAIN_SECTORS: u64 = 8;

/// Sectors of a grain table.
const TABLE_SECTORS: u64 = 64;

/// Entries of a grain table.
const TABLE_ENTRIES: u32 = 4096;

/// Bytes of an entry, of directory, tables and back map.
pub(crate) const ENTRY: u64 = 8;

/// Grains of the file whose bits stand together in the bitmap, in an order that is not known.
pub(crate) const GROUP: u64 = 128;

/// Bytes of the bitmap that they take.
pub(crate) const GROUP_BYTES: u64 = GROUP / 8;

const STRUCTURE: &str = "seSparse header";
const VOLATILE: &str = "seSparse volatile header";

/// Byte offsets of the fields.
mod at {
    pub(super) const VERSION: u64 = 8;
    pub(super) const CAPACITY: u64 = 16;
    pub(super) const GRAIN_SIZE: u64 = 24;
    pub(super) const GRAIN_TABLE_SIZE: u64 = 32;
    pub(super) const FLAGS: u64 = 40;
    pub(super) const RESERVED: u64 = 48;
    /// Of each region its first sector and how many it has.
    pub(super) const REGIONS: u64 = 80;
    pub(super) const PAD: u64 = 208;
    /// In the volatile header.
    pub(super) const FREE_GT_NUMBER: u64 = 8;
    pub(super) const NEXT_TXN_SEQ_NUMBER: u64 = 16;
    pub(super) const REPLAY_JOURNAL: u64 = 24;
    pub(super) const VOLATILE_PAD: u64 = 32;
}

/// Where the capacity stands.
pub(crate) const CAPACITY_AT: usize = 16;

/// A part of the file that is used for one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeSparseRegion {
    /// Its first sector.
    pub offset: u64,
    /// How many sectors it has.
    pub size: u64,
}

impl SeSparseRegion {
    /// The sector behind it, if a file can have so many.
    fn end(self) -> Option<u64> {
        self.offset.checked_add(self.size).filter(|end| end.checked_mul(SECTOR_BYTES).is_some())
    }
}

/// The headers of an seSparse extent. All places and sizes are in sectors of 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeSparseHeader {
    /// 0x200000001, for 2.1.
    pub version: u64,
    /// Size of the extent.
    pub capacity: u64,
    /// Size of a grain: 8.
    pub grain_size: u64,
    /// Size of a grain table: 64.
    pub grain_table_size: u64,
    /// None is known.
    pub flags: u64,
    /// What changes while the extent is in use.
    pub volatile_header: SeSparseRegion,
    /// What the journal is about.
    pub journal_header: SeSparseRegion,
    /// The journal.
    pub journal: SeSparseRegion,
    /// The grain directory.
    pub grain_directory: SeSparseRegion,
    /// The grain tables.
    pub grain_tables: SeSparseRegion,
    /// A bit for each grain of the file that is in use.
    pub free_bitmap: SeSparseRegion,
    /// For each grain of the file the grain of the disk that it holds.
    pub back_map: SeSparseRegion,
    /// The grains.
    pub grains: SeSparseRegion,
    /// The number that the next grain table gets, which is also how many there are.
    pub free_gt_number: u64,
    /// The number that the next transaction of the journal gets.
    pub next_txn_seq_number: u64,
    /// Not 0 if the tables are out of date until the journal is replayed.
    pub replay_journal: u64,
}

/// The regions, in the order in which they stand in the header, and in the file.
const REGIONS: [&str; 8] =
    ["volatileHeader", "journalHeader", "journal", "grainDirectory", "grainTables", "freeBitmap", "backMap", "grains"];

impl SeSparseHeader {
    /// Takes the fields of the constant header apart, and checks what every reader demands of them; `None` if the magic
    /// is another. The volatile header is still to [come](Self::with_volatile).
    pub(crate) fn decode(sector: &[u8; SECTOR_SIZE]) -> Option<Result<Self>> {
        let u64_at = |at: u64| u64_at(sector, at);
        if u64_at(0) != MAGIC {
            return None;
        }
        let region = |number: u64| {
            let at = at::REGIONS + 16 * number;
            SeSparseRegion { offset: u64_at(at), size: u64_at(at + 8) }
        };
        let header = Self {
            version: u64_at(at::VERSION),
            capacity: u64_at(at::CAPACITY),
            grain_size: u64_at(at::GRAIN_SIZE),
            grain_table_size: u64_at(at::GRAIN_TABLE_SIZE),
            flags: u64_at(at::FLAGS),
            volatile_header: region(0),
            journal_header: region(1),
            journal: region(2),
            grain_directory: region(3),
            grain_tables: region(4),
            free_bitmap: region(5),
            back_map: region(6),
            grains: region(7),
            free_gt_number: 0,
            next_txn_seq_number: 0,
            replay_journal: 0,
        };
        Some(header.check_known(sector).map(|()| header))
    }

    /// Refuses what nobody knows the meaning of.
    fn check_known(&self, sector: &[u8; SECTOR_SIZE]) -> Result<()> {
        let unknown = |name: &'static str, at: u64, value: u64, problem: &'static str| {
            Err(Error::bad_field(ErrorKind::Unsupported, STRUCTURE, name, at, value, problem))
        };
        if self.version != VERSION {
            return unknown("version", at::VERSION, self.version, "only version 2.1 is known");
        }
        if self.grain_size != GRAIN_SECTORS {
            return unknown("grainSize", at::GRAIN_SIZE, self.grain_size, "only grains of 8 sectors are known");
        }
        if self.grain_table_size != TABLE_SECTORS {
            let problem = "only grain tables of 64 sectors are known";
            return unknown("grainTableSize", at::GRAIN_TABLE_SIZE, self.grain_table_size, problem);
        }
        if self.flags != 0 {
            return unknown("flags", at::FLAGS, self.flags, "no flag is known");
        }
        for at in (at::RESERVED..at::REGIONS).step_by(8) {
            let value = u64_at(sector, at);
            if value != 0 {
                return unknown("reserved", at, value, "what it means is not known");
            }
        }
        check_pad(sector, at::PAD, STRUCTURE)
    }

    /// The same with what the volatile header says.
    ///
    /// # Errors
    /// `Corrupt` for another magic; `Unsupported` for what nobody knows the meaning of.
    pub(crate) fn with_volatile(mut self, sector: &[u8; SECTOR_SIZE]) -> Result<Self> {
        let start = self.volatile_header.offset.saturating_mul(SECTOR_BYTES);
        if u64_at(sector, 0) != VOLATILE_MAGIC {
            return Err(Error::field(VOLATILE, "magic", start, u64_at(sector, 0), "not that of a volatile header"));
        }
        check_pad(sector, at::VOLATILE_PAD, VOLATILE)?;
        self.free_gt_number = u64_at(sector, at::FREE_GT_NUMBER);
        self.next_txn_seq_number = u64_at(sector, at::NEXT_TXN_SEQ_NUMBER);
        self.replay_journal = u64_at(sector, at::REPLAY_JOURNAL);
        Ok(self)
    }

    /// Where the volatile header begins, in bytes.
    ///
    /// # Errors
    /// `Corrupt` if that is not in the file.
    pub(crate) fn volatile_at(&self, file_len: u64) -> Result<u64> {
        let start = self.volatile_header.offset.checked_mul(SECTOR_BYTES);
        let start = start.filter(|&start| start >= SECTOR_BYTES && start.saturating_add(SECTOR_BYTES) <= file_len);
        start.ok_or_else(|| {
            let problem = "the volatile header is not in the file, or in the constant one";
            Error::field(STRUCTURE, "volatileHeader.offset", at::REGIONS, self.volatile_header.offset, problem)
        })
    }

    /// Refuses an extent whose tables are out of date.
    ///
    /// # Errors
    /// `Unsupported`.
    pub(crate) fn check_journal(&self) -> Result<()> {
        if self.replay_journal == 0 {
            return Ok(());
        }
        let problem = "its journal has to be replayed first, which only ESX can; without that, what was written last is \
                       missing or half there";
        let at = self.volatile_header.offset.saturating_mul(SECTOR_BYTES).saturating_add(at::REPLAY_JOURNAL);
        Err(Error::bad_field(ErrorKind::Unsupported, VOLATILE, "replayJournal", at, self.replay_journal, problem))
    }

    /// How many grain tables the extent has.
    pub(crate) fn tables(&self) -> u64 {
        self.capacity.div_ceil(GRAIN_SECTORS * u64::from(TABLE_ENTRIES))
    }

    /// How many grains the file has room for.
    pub(crate) fn slots(&self) -> u64 {
        self.capacity.div_ceil(GRAIN_SECTORS)
    }

    fn regions(&self) -> [SeSparseRegion; 8] {
        [
            self.volatile_header,
            self.journal_header,
            self.journal,
            self.grain_directory,
            self.grain_tables,
            self.free_bitmap,
            self.back_map,
            self.grains,
        ]
    }

    /// Checks that the regions follow each other, are large enough, and lie in the file but for the grains.
    fn check_regions(&self, file_len: u64) -> Result<()> {
        let (tables, slots) = (self.tables(), self.slots());
        let least = [
            1,
            1,
            0,
            (tables * ENTRY).div_ceil(SECTOR_BYTES),
            tables * TABLE_SECTORS,
            slots.div_ceil(8 * SECTOR_BYTES),
            (slots * ENTRY).div_ceil(SECTOR_BYTES),
            self.capacity,
        ];
        let file_sectors = file_len / SECTOR_BYTES;
        let mut before = 1;
        for (number, ((region, name), least)) in (0..).zip(self.regions().into_iter().zip(REGIONS).zip(least)) {
            let is_last = name == "grains";
            let at = at::REGIONS + 16 * number;
            let bad = |what: &str, at, value, problem| {
                Err(Error::field(STRUCTURE, format!("{name}.{what}"), at, value, problem))
            };
            if region.offset < before {
                return bad("offset", at, region.offset, "it begins before the region in front of it ends");
            }
            if region.size < least {
                return bad("size", at + 8, region.size, "it is too small for the capacity");
            }
            match region.end() {
                Some(end) if is_last || end <= file_sectors => before = end,
                Some(_) => return bad("offset", at, region.offset, "the region ends past the file"),
                None => return bad("size", at + 8, region.size, "no file has so many sectors"),
            }
        }
        Ok(())
    }

    /// Checks every number that the tables and grains are found by, and derives what lookup needs.
    pub(crate) fn layout(&self, file_len: u64) -> Result<SparseLayout> {
        if self.capacity == 0 {
            return corrupt("capacity", at::CAPACITY, 0, "an extent has at least one sector");
        }
        if self.tables() > MAX_GD_ENTRIES {
            return corrupt("capacity", at::CAPACITY, self.capacity, "more than 32 Mi grain tables");
        }
        self.check_regions(file_len)?;
        let Some(tables) = u32::try_from(self.grain_tables.offset)
            .ok()
            .filter(|_| self.grain_tables.end().is_some_and(|end| end < u64::from(UNKNOWN_TABLE)))
        else {
            let problem = "grain tables at or above 2 TiB of the file";
            return corrupt("grainTables.offset", at::REGIONS + 64, self.grain_tables.offset, problem);
        };
        let directory = self.grain_directory.offset * SECTOR_BYTES;
        let numbers = Numbers {
            tables,
            table_count: u32::try_from(self.tables()).unwrap_or(u32::MAX),
            table_sectors: u32::try_from(TABLE_SECTORS).unwrap_or(u32::MAX),
            grains: self.grains.offset,
            grain_count: self.slots(),
            grain_sectors: GRAIN_SECTORS,
        };
        Ok(SparseLayout {
            sectors: self.capacity,
            grain_sectors: GRAIN_SECTORS,
            entries: EntryFormat::Numbers(numbers),
            entries_per_table: TABLE_ENTRIES,
            table_sectors: TABLE_SECTORS,
            directory: directory..directory + self.tables() * ENTRY,
            directory_is_redundant: false,
            redundant: None,
            first_table_sector: self.grain_tables.offset,
            descriptor: 0..0,
            first_grain_sector: self.grains.offset,
            has_markers: false,
            // Whoever reads it all the same is to see what is damaged.
            unclean: false,
            keeps_redundant: false,
            zero_grains: true,
            grain_alignment: GRAIN_SECTORS,
            mark: HeaderMark::Unclean { at: self.volatile_header.offset * SECTOR_BYTES + at::REPLAY_JOURNAL },
        })
    }
}

/// States of an entry, in its upper four bits.
mod state {
    pub(super) const UNALLOCATED: u64 = 0;
    /// The guest has given it up (SCSI UNMAP). QEMU and a test of what ESX does with it read zeros; others take it for
    /// unallocated.
    pub(super) const UNMAPPED: u64 = 1;
    pub(super) const ZERO: u64 = 2;
    pub(super) const ALLOCATED: u64 = 3;
}

/// Where the state begins.
const STATE_SHIFT: u32 = 60;

/// The same bits of an entry of the back map whose grain is in use.
const IN_USE: u64 = 1;

/// The number in the lower 60 bits of an entry, which are rotated by 12.
fn grain_number(entry: u64) -> u64 {
    (entry & 0x0fff_0000_0000_0000) >> 48 | (entry & 0x0000_ffff_ffff_ffff) << 12
}

/// What the entry of a grain says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrainEntry {
    /// What is below is read.
    Unallocated,
    /// Zeros are read.
    Zero,
    /// It is this grain of the file.
    Allocated(u64),
    /// Nothing that is known.
    Unknown,
}

impl GrainEntry {
    /// What an entry says.
    pub(crate) fn of(entry: u64) -> Self {
        match entry >> STATE_SHIFT {
            state::UNALLOCATED if entry == 0 => Self::Unallocated,
            state::UNMAPPED | state::ZERO => Self::Zero,
            state::ALLOCATED => Self::Allocated(grain_number(entry)),
            _ => Self::Unknown,
        }
    }
}

/// The grain of the file that an entry of zeros may still name.
pub(crate) fn old_grain(entry: u64) -> Option<u64> {
    Some(grain_number(entry)).filter(|_| GrainEntry::of(entry) == GrainEntry::Zero)
}

/// Whether the entry of the back map for a grain of the file can be right if that holds the grain `grain` of the disk:
/// what the bits for the number of its table mean above the first one is not known.
pub(crate) fn back_map_agrees(entry: u64, grain: u64) -> bool {
    entry >> STATE_SHIFT == IN_USE && grain_number(entry) % u64::from(TABLE_ENTRIES) == grain % u64::from(TABLE_ENTRIES)
}

fn u64_at(sector: &[u8; SECTOR_SIZE], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap_or(0);
    LittleEndian::read_u64(&sector[at..at + 8])
}

/// Refuses bytes that are not zero from an offset to the end of a header.
fn check_pad(sector: &[u8; SECTOR_SIZE], start: u64, structure: &'static str) -> Result<()> {
    let pad = &sector[usize::try_from(start).unwrap_or(0)..];
    if is_zero(pad) {
        return Ok(());
    }
    let (at, value) = (start..).zip(pad).find(|(_, byte)| **byte != 0).unwrap_or((start, &0));
    let problem = "what it means is not known";
    Err(Error::bad_field(ErrorKind::Unsupported, structure, "pad", at, (*value).into(), problem))
}

fn corrupt<T>(name: &'static str, at: u64, value: u64, problem: &'static str) -> Result<T> {
    Err(Error::field(STRUCTURE, name, at, value, problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The numbers of the constant header that ESX has written for a disk of 512 MiB.
    const ESX: [u64; 26] = [
        MAGIC,
        VERSION,
        1 << 20,
        8,
        64,
        0,
        0,
        0,
        0,
        0,
        1,
        1,
        2,
        2,
        2048,
        2048,
        4096,
        2048,
        6144,
        2048,
        8192,
        2048,
        10240,
        2048,
        12288,
        1 << 20,
    ];

    fn sector(numbers: &[u64]) -> [u8; SECTOR_SIZE] {
        let mut sector = [0; SECTOR_SIZE];
        for (at, number) in numbers.iter().enumerate() {
            LittleEndian::write_u64(&mut sector[8 * at..], *number);
        }
        sector
    }

    fn volatile(replay: u64) -> [u8; SECTOR_SIZE] {
        sector(&[VOLATILE_MAGIC, 1, 36, replay])
    }

    fn header(numbers: &[u64]) -> Result<SeSparseHeader> {
        SeSparseHeader::decode(&sector(numbers)).unwrap()?.with_volatile(&volatile(0))
    }

    const LEN: u64 = 45064 * 512;

    #[test]
    fn what_esx_has_written_is_read_field_by_field() {
        let header = header(&ESX).unwrap();
        assert_eq!((header.free_gt_number, header.next_txn_seq_number, header.replay_journal), (1, 36, 0));
        assert_eq!(header.journal, SeSparseRegion { offset: 2048, size: 2048 });
        let layout = header.layout(LEN).unwrap();
        assert_eq!((layout.tables(), layout.directory.clone()), (32, 4096 * 512..4096 * 512 + 256));
        let numbers = Numbers {
            tables: 6144,
            table_count: 32,
            table_sectors: 64,
            grains: 12288,
            grain_count: 131_072,
            grain_sectors: 8,
        };
        assert_eq!(layout.entries, EntryFormat::Numbers(numbers));
        assert!(SeSparseHeader::decode(&[0; SECTOR_SIZE]).is_none());
    }

    /// The number of a field, what it becomes, and what the error is about.
    #[test]
    fn every_limit_is_checked_and_the_error_names_the_field() {
        let rows = [
            (1, 0x1_0000_0001, ErrorKind::Unsupported, "version at offset 0x8"),
            (2, 0, ErrorKind::Corrupt, "capacity at offset 0x10"),
            (2, u64::MAX, ErrorKind::Corrupt, "capacity at offset 0x10"),
            (2, (1 << 20) + 1, ErrorKind::Corrupt, "grainTables.size"),
            (3, 16, ErrorKind::Unsupported, "grainSize at offset 0x18"),
            (4, 32, ErrorKind::Unsupported, "grainTableSize at offset 0x20"),
            (5, 1, ErrorKind::Unsupported, "flags at offset 0x28"),
            (6, 1, ErrorKind::Unsupported, "reserved at offset 0x30"),
            (9, 1, ErrorKind::Unsupported, "reserved at offset 0x48"),
            (10, 0, ErrorKind::Corrupt, "volatileHeader.offset"),
            (11, 0, ErrorKind::Corrupt, "volatileHeader.size"),
            (11, 2, ErrorKind::Corrupt, "journalHeader.offset"),
            (12, 1, ErrorKind::Corrupt, "journalHeader.offset"),
            (15, 4096, ErrorKind::Corrupt, "grainDirectory.offset"),
            (15, u64::MAX, ErrorKind::Corrupt, "journal.size"),
            (16, 4095, ErrorKind::Corrupt, "grainDirectory.offset"),
            (17, 0, ErrorKind::Corrupt, "grainDirectory.size"),
            (18, 1 << 32, ErrorKind::Corrupt, "grainTables.offset"),
            (19, 2047, ErrorKind::Corrupt, "grainTables.size"),
            (21, 31, ErrorKind::Corrupt, "freeBitmap.size"),
            (23, 2047, ErrorKind::Corrupt, "backMap.size"),
            (24, 12287, ErrorKind::Corrupt, "grains.offset"),
            (25, (1 << 20) - 1, ErrorKind::Corrupt, "grains.size"),
            (25, u64::MAX, ErrorKind::Corrupt, "grains.size"),
            (26, 1, ErrorKind::Unsupported, "pad at offset 0xd0"),
            (63, 1 << 56, ErrorKind::Unsupported, "pad at offset 0x1ff"),
        ];
        for (field, value, kind, text) in rows {
            let mut numbers = [0; 64];
            numbers[..ESX.len()].copy_from_slice(&ESX);
            numbers[field] = value;
            let error = header(&numbers).and_then(|header| header.layout(LEN)).expect_err(text);
            assert_eq!(error.kind(), kind, "{text}: {error}");
            assert!(error.to_string().contains(text), "{text}: {error}");
        }
        assert!(header(&ESX).unwrap().layout(12288 * 512).is_ok(), "a file without grains");
        assert!(header(&ESX).unwrap().layout(12287 * 512).unwrap_err().to_string().contains("backMap.offset"));
    }

    #[test]
    fn a_journal_that_was_not_replayed_is_refused_by_name() {
        let read =
            |sector: [u8; SECTOR_SIZE]| SeSparseHeader::decode(&self::sector(&ESX)).unwrap()?.with_volatile(&sector);
        assert!(read(volatile(0)).unwrap().check_journal().is_ok());
        let error = read(volatile(1)).unwrap().check_journal().unwrap_err();
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("replayJournal at offset 0x218"));
        assert_eq!(read([0; SECTOR_SIZE]).unwrap_err().kind(), ErrorKind::Corrupt);
        let mut odd = volatile(0);
        odd[511] = 1;
        assert_eq!(read(odd).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn no_header_can_make_the_checks_panic(
            fields in prop::collection::vec((2..26_usize, prop_oneof![any::<u64>(), 0..20_000_u64]), 0..6),
            len in any::<u64>(),
        ) {
            let mut numbers = ESX;
            for (field, value) in fields {
                numbers[field] = value;
            }
            if let Ok(header) = header(&numbers) {
                let _ = header.volatile_at(len);
                let _ = header.layout(len);
            }
        }
    }
}
