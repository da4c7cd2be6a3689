//! What the entries of grain directories and grain tables say, in the ways in which they are written.
//!
//! | | a table's place | a grain's place |
//! |---|---|---|
//! | KDMV, COWD | 32 bits: its sector, 0 for none | 32 bits: its sector; 0 for unallocated, 1 for zeros |
//! | seSparse | 64 bits: its number | 64 bits: a state, and its number (format of the extent) |
//!
//! Lookup knows one way only: a table is found by its sector in 32 bits, a grain by its sector in 64 bits. A grain that
//! is unallocated is 0 there, one of zeros is 1, and what says nothing that is known is [`UNKNOWN`].

use byteorder::{ByteOrder, LittleEndian};

use super::sesparse::GrainEntry;

/// An entry that cannot be right, whatever else is true of the extent.
pub(crate) const UNKNOWN: u64 = 1 << 63;

/// A directory entry that cannot be right.
pub(crate) const UNKNOWN_TABLE: u32 = u32::MAX;

/// How the entries of an extent are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryFormat {
    /// As sectors in 32 bits.
    Sectors,
    /// As numbers in 64 bits (seSparse).
    Numbers(Numbers),
}

/// What the numbers of an seSparse extent count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// The sector of the first table.
    pub(crate) tables: u32,
    /// How many tables there is room for.
    pub(crate) table_count: u32,
    /// Sectors of a table.
    pub(crate) table_sectors: u32,
    /// The sector of the first grain.
    pub(crate) grains: u64,
    /// How many grains there is room for.
    pub(crate) grain_count: u64,
    /// Sectors of a grain.
    pub(crate) grain_sectors: u64,
}

impl EntryFormat {
    /// Bytes of an entry.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Sectors => 4,
            Self::Numbers(_) => 8,
        }
    }

    /// Whether a file may end within its last grain, which is zero from there on.
    pub(crate) fn may_be_cut(self) -> bool {
        self == Self::Sectors
    }

    /// The sectors that the entries in these bytes of a directory give for tables.
    pub(crate) fn tables(self, bytes: &[u8], mut put: impl FnMut(u32)) {
        match self {
            Self::Sectors => bytes.chunks_exact(4).map(LittleEndian::read_u32).for_each(put),
            Self::Numbers(numbers) => {
                bytes.chunks_exact(8).for_each(|entry| put(numbers.table(LittleEndian::read_u64(entry))));
            }
        }
    }

    /// The sectors that the entries in these bytes of a table give for grains.
    pub(crate) fn grains(self, bytes: &[u8], mut put: impl FnMut(u64)) {
        match self {
            Self::Sectors => bytes.chunks_exact(4).for_each(|entry| put(LittleEndian::read_u32(entry).into())),
            Self::Numbers(numbers) => {
                bytes.chunks_exact(8).for_each(|entry| put(numbers.grain(LittleEndian::read_u64(entry))));
            }
        }
    }

    /// The number that the bytes of an entry are.
    pub(crate) fn raw(self, entry: &[u8]) -> u64 {
        LittleEndian::read_uint(entry, self.len())
    }
}

/// A directory entry that names a table: exactly this above its number.
const TABLE: u64 = 0x1000_0000;

impl Numbers {
    fn table(self, entry: u64) -> u32 {
        if entry == 0 {
            return 0;
        }
        let number = u32::try_from(entry & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        if entry >> 32 != TABLE || number >= self.table_count {
            return UNKNOWN_TABLE;
        }
        self.tables.saturating_add(number.saturating_mul(self.table_sectors))
    }

    fn grain(self, entry: u64) -> u64 {
        match GrainEntry::of(entry) {
            GrainEntry::Unallocated => 0,
            GrainEntry::Zero => 1,
            GrainEntry::Allocated(number) => self.sector_of(number).unwrap_or(UNKNOWN),
            GrainEntry::Unknown => UNKNOWN,
        }
    }

    /// The sector of a grain of the file; `None` for one that it has no room for.
    fn sector_of(self, number: u64) -> Option<u64> {
        let number = Some(number).filter(|&number| number < self.grain_count)?;
        let sector = number.checked_mul(self.grain_sectors)?.checked_add(self.grains)?;
        Some(sector).filter(|&sector| sector < UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Numbers = Numbers {
        tables: 6144,
        table_count: 32,
        table_sectors: 64,
        grains: 12288,
        grain_count: 5000,
        grain_sectors: 8,
    };

    fn grains(entries: &[u64]) -> Vec<u64> {
        let mut found = Vec::new();
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        EntryFormat::Numbers(NUMBERS).grains(&bytes, |sector| found.push(sector));
        found
    }

    #[test]
    fn entries_of_sectors_are_what_they_are() {
        let mut found = Vec::new();
        EntryFormat::Sectors.grains(&[0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 0xff], |sector| found.push(sector));
        assert_eq!(found, [0, 1, 0xff00_0102]);
    }

    #[test]
    fn the_number_of_a_grain_is_rotated() {
        let rows = [(0x3000_0000_0000_0000, 0), (0x3001_0000_0000_0000, 1), (0x3000_0000_0000_0001, 4096)];
        for (entry, number) in rows {
            assert_eq!(grains(&[entry]), [12288 + 8 * number]);
        }
    }

    #[test]
    fn every_state_says_what_it_says_and_nothing_else_is_known() {
        let old = 0x0001_0000_0000_0000;
        let rows = [0, 0x1 << 60, 0x1 << 60 | old, 0x2 << 60, 0x2 << 60 | 0x4d, 1, old, 0x4 << 60, 0xf << 60, u64::MAX];
        assert_eq!(grains(&rows), [0, 1, 1, 1, 1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]);
        assert_eq!(grains(&[0x3387_0000_0000_0001, 0x3388_0000_0000_0001]), [12288 + 8 * 4999, UNKNOWN]);
    }

    #[test]
    fn a_directory_has_numbers_of_tables() {
        let entries =
            [0, 0x1000_0000_0000_0000, 0x1000_0000_0000_001f, 0x1000_0000_0000_0020, 5, 0x2000_0000_0000_0000];
        let bytes: Vec<u8> = entries.into_iter().flat_map(u64::to_le_bytes).collect();
        let mut found = Vec::new();
        EntryFormat::Numbers(NUMBERS).tables(&bytes, |sector| found.push(sector));
        assert_eq!(found, [0, 6144, 6144 + 31 * 64, UNKNOWN_TABLE, UNKNOWN_TABLE, UNKNOWN_TABLE]);
    }
}
