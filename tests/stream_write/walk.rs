//! A reader of streams that goes from block to block as the format's description has it, and then holds the tables
//! against what it has met. It shares nothing with the crate.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::ZlibDecoder;

use super::support::{SECTOR, index};
use super::{GRAIN, GRAIN_LEN, TABLE};

/// A stream, taken apart.
pub(crate) struct Walk {
    pub(crate) descriptor: String,
    pub(crate) capacity: u64,
    /// The grains that there are, by the sector of the disk at which they begin.
    pub(crate) grains: BTreeMap<u64, Met>,
    /// How many tables there are, other than left out.
    pub(crate) tables: usize,
}

/// A grain as it was met in the stream.
pub(crate) struct Met {
    /// The sector of its marker.
    sector: u64,
    /// Bytes of compressed data.
    pub(crate) size: usize,
    /// The first bytes of that.
    pub(crate) zlib_header: [u8; 2],
    pub(crate) content: Vec<u8>,
}

impl Walk {
    /// A stream for a pipe: layout (a) of the format's description.
    #[track_caller]
    pub(crate) fn piped(stream: &[u8]) -> Self {
        let (mut walk, over_head) = Self::begin(stream, u64::MAX);
        assert_eq!(over_head, GRAIN);
        let mut entries = BTreeMap::new();
        let mut sector = over_head;
        let mut expected = Vec::new();
        loop {
            if let Some(after) = walk.grain(stream, sector) {
                let (&lba, _) = walk.grains.last_key_value().unwrap();
                if expected.is_empty() {
                    expected = vec![0; 512];
                    entries.insert(lba / TABLE, 0);
                }
                assert_eq!(entries.keys().last(), Some(&(lba / TABLE)), "a table has only grains of its own before it");
                expected[index(lba % TABLE / GRAIN)] = u32::try_from(sector).unwrap();
                sector = after;
                continue;
            }
            if expected.is_empty() {
                break;
            }
            marker(stream, sector, 4, 1);
            assert_eq!(numbers(stream, sector + 1, 512), expected, "the table at {sector}");
            *entries.last_entry().unwrap().get_mut() = u32::try_from(sector + 1).unwrap();
            walk.tables += 1;
            expected.clear();
            sector += 5;
        }
        let tables = walk.capacity.div_ceil(TABLE);
        let directory_sectors = (tables * 4).div_ceil(512);
        marker(stream, sector, directory_sectors, 2);
        let directory = sector + 1;
        let expected: Vec<u32> = (0..tables).map(|table| entries.get(&table).copied().unwrap_or(0)).collect();
        assert_eq!(padded(numbers(stream, directory, directory_sectors * 128), tables), expected);
        sector = directory + directory_sectors;
        marker(stream, sector, 1, 3);
        let mut footer = at(stream, 0, 1).to_vec();
        footer[56..64].copy_from_slice(&directory.to_le_bytes());
        assert_eq!(at(stream, sector + 1, 1), footer, "the footer is the header, but for gdOffset");
        expect_end(stream, sector + 2);
        walk
    }

    /// A stream in a file: layout (b).
    #[track_caller]
    pub(crate) fn filed(stream: &[u8]) -> Self {
        let (mut walk, over_head) = Self::begin(stream, 21);
        let tables = walk.capacity.div_ceil(TABLE);
        let directory_sectors = (tables * 4).div_ceil(512);
        assert_eq!(over_head, (21 + directory_sectors + 4 * tables).next_multiple_of(GRAIN));
        let mut sector = over_head;
        while let Some(after) = walk.grain(stream, sector) {
            sector = after;
        }
        expect_end(stream, sector);
        let directory = padded(numbers(stream, 21, directory_sectors * 128), tables);
        for (table, entry) in (0..tables).zip(directory) {
            let place = 21 + directory_sectors + table * 4;
            let mut expected = vec![0; 512];
            for (lba, grain) in walk.grains.range(table * TABLE..(table + 1) * TABLE) {
                expected[index(lba % TABLE / GRAIN)] = u32::try_from(grain.sector).unwrap();
            }
            assert_eq!(numbers(stream, place, 512), expected, "table {table}");
            let is_left_out = expected.iter().all(|&entry| entry == 0);
            assert_eq!(u64::from(entry), if is_left_out { 0 } else { place }, "table {table}");
            walk.tables += usize::from(!is_left_out);
        }
        let tables_end = 21 + directory_sectors + 4 * tables;
        assert!(at(stream, tables_end, over_head - tables_end).iter().all(|&byte| byte == 0));
        walk
    }

    /// Checks what both begin with; where the first grain goes.
    #[track_caller]
    fn begin(stream: &[u8], gd_offset: u64) -> (Self, u64) {
        assert_eq!(stream.len() % SECTOR, 0);
        let header = at(stream, 0, 1);
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        assert_eq!(header[..12], [0x4b, 0x44, 0x4d, 0x56, 3, 0, 0, 0, 1, 0, 3, 0], "magic, version, flags");
        assert_eq!([u64_at(20), u64_at(28), u64_at(36)], [128, 1, 20], "grain size, place of the descriptor");
        assert_eq!((u32_at(44), u64_at(48), u64_at(56)), (512, 0, gd_offset), "entries, RGD, GD");
        assert_eq!(header[72..79], [0, 0x0a, 0x20, 0x0d, 0x0a, 1, 0], "clean, newlines, deflate");
        assert_eq!(header[79..], [0; 433]);
        let text = at(stream, 1, 20);
        let len = text.iter().position(|&byte| byte == 0).expect("a NUL ends the descriptor");
        assert!(text[len..].iter().all(|&byte| byte == 0));
        let descriptor = String::from_utf8(text[..len].to_vec()).unwrap();
        let walk = Self { descriptor, capacity: u64_at(12), grains: BTreeMap::new(), tables: 0 };
        let over_head = u64_at(64);
        if gd_offset == u64::MAX {
            assert!(at(stream, 21, over_head - 21).iter().all(|&byte| byte == 0));
        }
        (walk, over_head)
    }

    /// Takes the grain at `sector`, if there is one; the sector behind it.
    #[track_caller]
    fn grain(&mut self, stream: &[u8], sector: u64) -> Option<u64> {
        let block = &stream[index(sector) * SECTOR..];
        let lba = u64::from_le_bytes(block[..8].try_into().unwrap());
        let size = u32::from_le_bytes(block[8..12].try_into().unwrap()) as usize;
        if size == 0 {
            return None;
        }
        assert!(lba < self.capacity && lba % GRAIN == 0, "{lba}");
        assert!(self.grains.last_key_value().is_none_or(|(&last, _)| last < lba), "grains ascend");
        let end = (12 + size).next_multiple_of(SECTOR);
        assert!(block[12 + size..end].iter().all(|&byte| byte == 0), "padding of the grain at {sector}");
        let mut content = Vec::new();
        let mut data = &block[12..12 + size];
        ZlibDecoder::new(&mut data).read_to_end(&mut content).unwrap();
        assert_eq!((content.len(), data.len()), (GRAIN_LEN, 0), "a whole grain and nothing else");
        assert!(content.iter().any(|&byte| byte != 0), "a grain of zeros");
        self.grains.insert(lba, Met { sector, size, zlib_header: [block[12], block[13]], content });
        Some(sector + (end / SECTOR) as u64)
    }

    /// Fails unless these grains are there, and no others. The last one is followed by zeros.
    #[track_caller]
    pub(crate) fn expect(&self, grains: &[(u64, Vec<u8>)]) {
        let starts: Vec<_> = self.grains.keys().copied().collect();
        assert_eq!(starts, grains.iter().map(|(start, _)| *start).collect::<Vec<_>>());
        for (start, content) in grains {
            let (there, rest) = self.grains[start].content.split_at(content.len());
            assert!(there == content && rest.iter().all(|&byte| byte == 0), "the grain at {start}");
        }
    }
}

/// The mark of the end, and nothing behind it.
#[track_caller]
fn expect_end(stream: &[u8], sector: u64) {
    assert_eq!(at(stream, sector, 1), [0; SECTOR]);
    assert_eq!(stream.len(), index(sector + 1) * SECTOR);
}

fn at(stream: &[u8], sector: u64, count: u64) -> &[u8] {
    &stream[index(sector) * SECTOR..index(sector + count) * SECTOR]
}

fn numbers(stream: &[u8], sector: u64, count: u64) -> Vec<u32> {
    let bytes = &stream[index(sector) * SECTOR..][..index(count) * 4];
    bytes.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// The entries of a directory, behind which it must be zero.
#[track_caller]
fn padded(mut entries: Vec<u32>, count: u64) -> Vec<u32> {
    assert!(entries.drain(index(count)..).all(|entry| entry == 0));
    entries
}

#[track_caller]
fn marker(stream: &[u8], sector: u64, sectors: u64, kind: u8) {
    let mut expected = [0; SECTOR];
    expected[..8].copy_from_slice(&sectors.to_le_bytes());
    expected[12] = kind;
    assert_eq!(at(stream, sector, 1), expected, "the marker at {sector}");
}
