//! The header of a hosted sparse extent ("KDMV"), and the limits within which it is believed.
//!
//! Source of the fields: VMware's technical note "Virtual Disk Format 5.0". Whether grains are compressed, whether an
//! entry of 1 means zeros and whether there are markers is said by the flags; the version says nothing about that
//! (VMware writes uncompressed version 3 for change-tracked disks).

use byteorder::{ByteOrder, LittleEndian};

use super::blank::directory_sectors;
use super::{EntryFormat, HeaderMark, SparseLayout};
use crate::error::{Error, ErrorKind, Result};
use crate::sector::{MAX_SECTORS, SECTOR_BYTES, SECTOR_SIZE};

/// The first four bytes.
pub(crate) const MAGIC: [u8; 4] = *b"KDMV";

/// The largest grain that is read: 1 GiB, as in QEMU. Writers use 64 KiB.
const MAX_GRAIN_SECTORS: u64 = 0x20_0000;

/// The largest grain that is inflated: 1 MiB, since it is in memory as a whole. All writers use 64 KiB.
const MAX_COMPRESSED_GRAIN_SECTORS: u64 = 2048;

/// The place of the grain directory that only the footer knows.
pub(crate) const GD_AT_END: u64 = u64::MAX;

/// The fewest entries of a grain table, as in VirtualBox and open-vmdk.
const MIN_GT_ENTRIES: u32 = 128;

/// The most entries of a grain table. Every writer uses 512; at 4096 (an ESX table) 16 cached tables take 256 KiB.
const MAX_GT_ENTRIES: u32 = 4096;

/// The most entries of a grain directory: 128 MiB of entries, enough for 1 PiB with usual grains, as in QEMU.
pub(crate) const MAX_GD_ENTRIES: u64 = 32 << 20;

/// The largest embedded descriptor, in sectors: the same 1 MiB as a separate one.
const MAX_DESCRIPTOR_SECTORS: u64 = 2048;

const STRUCTURE: &str = "KDMV header";

pub(super) mod flag {
    pub(in crate::format) const NEWLINE_CHECK: u32 = 1;
    pub(in crate::format) const REDUNDANT: u32 = 1 << 1;
    pub(in crate::format) const ZERO_GRAIN: u32 = 1 << 2;
    pub(in crate::format) const COMPRESSED: u32 = 1 << 16;
    pub(in crate::format) const MARKERS: u32 = 1 << 17;
    /// Reserved bits that a reader may ignore (open-vmdk).
    pub(in crate::format) const COMPATIBLE: u32 = 0xfff8;
    /// Reserved bits that a reader must understand (open-vmdk).
    pub(in crate::format) const INCOMPATIBLE: u32 = 0xfffc_0000;
}

/// Byte offsets of the fields.
mod at {
    pub(super) const VERSION: usize = 4;
    pub(super) const FLAGS: usize = 8;
    pub(super) const CAPACITY: usize = 12;
    pub(super) const GRAIN_SIZE: usize = 20;
    pub(super) const DESCRIPTOR_OFFSET: usize = 28;
    pub(super) const DESCRIPTOR_SIZE: usize = 36;
    pub(super) const NUM_GTES_PER_GT: usize = 44;
    pub(super) const RGD_OFFSET: usize = 48;
    pub(super) const GD_OFFSET: usize = 56;
    pub(super) const OVER_HEAD: usize = 64;
    pub(super) const UNCLEAN_SHUTDOWN: usize = 72;
    pub(super) const NEWLINE_BYTES: usize = 73;
    pub(super) const COMPRESS_ALGORITHM: usize = 77;
}

/// Where the capacity stands.
pub(crate) const CAPACITY_AT: usize = at::CAPACITY;

/// What the newline check bytes must be: a transfer in text mode changes them, and with them the whole file.
pub(super) const NEWLINE_BYTES: [u8; 4] = *b"\n \r\n";

/// The header of a hosted sparse extent, field by field as it stands in the file. All places and sizes are in
/// sectors of 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KdmvHeader {
    /// Version of the header: 1, 2 (zero grains) or 3 (streams, change-tracked disks).
    pub version: u32,
    /// Bit 0: newline bytes are valid; 1: redundant directory; 2: entry 1 is a zero grain; 16: compressed; 17: markers.
    pub flags: u32,
    /// Size of the extent.
    pub capacity: u64,
    /// Size of a grain.
    pub grain_size: u64,
    /// Where the embedded descriptor begins; 0 if there is none.
    pub descriptor_offset: u64,
    /// Room of the embedded descriptor.
    pub descriptor_size: u64,
    /// Entries of a grain table.
    pub gtes_per_gt: u32,
    /// Where the redundant grain directory begins; meaningful with flag bit 1.
    pub rgd_offset: u64,
    /// Where the grain directory begins, or all ones if only a footer knows.
    pub gd_offset: u64,
    /// Sectors of metadata before the first grain.
    pub over_head: u64,
    /// Not 0 while the extent is open for writing, or after a crash.
    pub unclean_shutdown: u8,
    /// The bytes that a text-mode transfer would damage.
    pub newline_bytes: [u8; 4],
    /// 0 none, 1 deflate; meaningful with flag bit 16.
    pub compress_algorithm: u16,
}

impl KdmvHeader {
    /// Where the version stands; the flags follow.
    pub(crate) const VERSION_AT: u64 = at::VERSION as u64;
    /// Where the place of the grain directory stands.
    pub(crate) const GD_OFFSET_AT: u64 = at::GD_OFFSET as u64;
    /// Where the place of the redundant grain directory stands.
    pub(crate) const RGD_OFFSET_AT: u64 = at::RGD_OFFSET as u64;

    /// Version and flags of the same header that announces zero grains.
    pub(crate) fn with_zero_grains(&self) -> [u32; 2] {
        [self.version.max(2), self.flags | flag::ZERO_GRAIN]
    }

    /// Takes the fields apart; `None` if the magic is another. Nothing is checked yet.
    pub(crate) fn decode(sector: &[u8; SECTOR_SIZE]) -> Option<Self> {
        if !sector.starts_with(&MAGIC) {
            return None;
        }
        let u32_at = |at: usize| LittleEndian::read_u32(&sector[at..]);
        let u64_at = |at: usize| LittleEndian::read_u64(&sector[at..]);
        let mut newline_bytes = [0; 4];
        newline_bytes.copy_from_slice(&sector[at::NEWLINE_BYTES..at::NEWLINE_BYTES + 4]);
        Some(Self {
            version: u32_at(at::VERSION),
            flags: u32_at(at::FLAGS),
            capacity: u64_at(at::CAPACITY),
            grain_size: u64_at(at::GRAIN_SIZE),
            descriptor_offset: u64_at(at::DESCRIPTOR_OFFSET),
            descriptor_size: u64_at(at::DESCRIPTOR_SIZE),
            gtes_per_gt: u32_at(at::NUM_GTES_PER_GT),
            rgd_offset: u64_at(at::RGD_OFFSET),
            gd_offset: u64_at(at::GD_OFFSET),
            over_head: u64_at(at::OVER_HEAD),
            unclean_shutdown: sector[at::UNCLEAN_SHUTDOWN],
            newline_bytes,
            compress_algorithm: LittleEndian::read_u16(&sector[at::COMPRESS_ALGORITHM..]),
        })
    }

    /// Tables that the capacity needs.
    pub(crate) fn tables(&self) -> u64 {
        self.capacity.div_ceil(self.grain_size * u64::from(self.gtes_per_gt))
    }

    /// Sectors that a table takes.
    pub(crate) fn sectors_per_table(&self) -> u64 {
        (u64::from(self.gtes_per_gt) * 4).div_ceil(SECTOR_BYTES)
    }

    /// Sectors that the grain directory takes.
    pub(crate) fn directory_sectors(&self) -> u64 {
        directory_sectors(self.tables())
    }

    /// The fields as they stand in the file; the inverse of `decode`.
    pub(crate) fn encode(&self) -> [u8; SECTOR_SIZE] {
        let mut sector = [0; SECTOR_SIZE];
        sector[..4].copy_from_slice(&MAGIC);
        LittleEndian::write_u32(&mut sector[at::VERSION..], self.version);
        LittleEndian::write_u32(&mut sector[at::FLAGS..], self.flags);
        LittleEndian::write_u64(&mut sector[at::CAPACITY..], self.capacity);
        LittleEndian::write_u64(&mut sector[at::GRAIN_SIZE..], self.grain_size);
        LittleEndian::write_u64(&mut sector[at::DESCRIPTOR_OFFSET..], self.descriptor_offset);
        LittleEndian::write_u64(&mut sector[at::DESCRIPTOR_SIZE..], self.descriptor_size);
        LittleEndian::write_u32(&mut sector[at::NUM_GTES_PER_GT..], self.gtes_per_gt);
        LittleEndian::write_u64(&mut sector[at::RGD_OFFSET..], self.rgd_offset);
        LittleEndian::write_u64(&mut sector[at::GD_OFFSET..], self.gd_offset);
        LittleEndian::write_u64(&mut sector[at::OVER_HEAD..], self.over_head);
        sector[at::UNCLEAN_SHUTDOWN] = self.unclean_shutdown;
        sector[at::NEWLINE_BYTES..at::NEWLINE_BYTES + 4].copy_from_slice(&self.newline_bytes);
        LittleEndian::write_u16(&mut sector[at::COMPRESS_ALGORITHM..], self.compress_algorithm);
        sector
    }

    /// Sets the fields that say where the descriptor is, in a sector with a header.
    pub(crate) fn encode_descriptor_region(&self, sector: &mut [u8; SECTOR_SIZE]) {
        LittleEndian::write_u64(&mut sector[at::DESCRIPTOR_OFFSET..], self.descriptor_offset);
        LittleEndian::write_u64(&mut sector[at::DESCRIPTOR_SIZE..], self.descriptor_size);
    }

    /// Sets the fields that say how large the extent is and where its tables are, in a sector with a header.
    pub(crate) fn encode_layout(&self, sector: &mut [u8; SECTOR_SIZE]) {
        LittleEndian::write_u64(&mut sector[at::CAPACITY..], self.capacity);
        LittleEndian::write_u64(&mut sector[at::RGD_OFFSET..], self.rgd_offset);
        LittleEndian::write_u64(&mut sector[at::GD_OFFSET..], self.gd_offset);
        LittleEndian::write_u64(&mut sector[at::OVER_HEAD..], self.over_head);
    }

    /// Whether the grains are compressed.
    pub fn is_compressed(&self) -> bool {
        self.flags & flag::COMPRESSED != 0
    }

    /// Whether compressed grains have markers in front, and metadata too: the form of every known stream.
    pub(crate) fn has_markers(&self) -> bool {
        self.flags & flag::MARKERS != 0
    }

    /// Whether only a footer knows where the grain directory is.
    pub(crate) fn is_directory_at_end(&self) -> bool {
        self.gd_offset == GD_AT_END
    }

    /// Whether there are flags that nobody knows, but that a reader may ignore.
    pub(crate) fn has_unknown_flags(&self) -> bool {
        self.flags & flag::COMPATIBLE != 0
    }

    /// Whether there is a second copy of the directory and tables.
    pub fn has_redundant_tables(&self) -> bool {
        self.flags & flag::REDUNDANT != 0
    }

    /// Whether the extent announces that an entry of 1 is a grain of zeros. An entry of 1 is read so in any case:
    /// sector 1 can hold no grain.
    pub fn has_zero_grains(&self) -> bool {
        self.flags & flag::ZERO_GRAIN != 0
    }

    /// What must hold before any other field means anything: a known version, the incompatible flags, the newline
    /// bytes (unless `ignore_newlines`), and flags that agree with each other.
    pub(crate) fn check_readable(&self, ignore_newlines: bool) -> Result<()> {
        let unsupported = |name, at: usize, value, problem| {
            Err(Error::bad_field(ErrorKind::Unsupported, STRUCTURE, name, at as u64, value, problem))
        };
        let version = u64::from(self.version);
        let flags = u64::from(self.flags);
        if self.version == 0 {
            return corrupt("version", at::VERSION, version, "there is no version 0");
        }
        if self.version > 3 {
            return unsupported("version", at::VERSION, version, "versions 1 to 3 are known");
        }
        if self.flags & flag::NEWLINE_CHECK != 0 && self.newline_bytes != NEWLINE_BYTES && !ignore_newlines {
            let found = u64::from(LittleEndian::read_u32(&self.newline_bytes));
            let problem = "the newline check bytes are damaged: a text-mode transfer changed the file";
            return corrupt("newline check", at::NEWLINE_BYTES, found, problem);
        }
        if self.flags & flag::INCOMPATIBLE != 0 {
            return unsupported("flags", at::FLAGS, flags, "has reserved bits that a reader must understand");
        }
        let algorithm = u64::from(self.compress_algorithm);
        if self.is_compressed() && self.compress_algorithm != 1 {
            return unsupported("compressAlgorithm", at::COMPRESS_ALGORITHM, algorithm, "only 1, deflate, is known");
        }
        if !self.is_compressed() && self.flags & flag::MARKERS != 0 {
            return corrupt("flags", at::FLAGS, flags, "markers without compression");
        }
        if !self.is_compressed() && self.compress_algorithm == 1 {
            let problem = "deflate is set, but flag bit 16 says that nothing is compressed";
            return corrupt("compressAlgorithm", at::COMPRESS_ALGORITHM, algorithm, problem);
        }
        Ok(())
    }

    /// The error about a grain directory that is not where it has to be.
    pub(crate) fn bad_directory(&self, problem: String) -> Error {
        Error::field(STRUCTURE, "gdOffset", at::GD_OFFSET as u64, self.gd_offset, problem)
    }

    /// Where the embedded descriptor is, in bytes, if there is one; `file_len` is the length of the file.
    pub(crate) fn descriptor_region(&self, file_len: u64) -> Result<Option<std::ops::Range<u64>>> {
        let (offset, size) = (self.descriptor_offset, self.descriptor_size);
        if offset == 0 {
            return Ok(None);
        }
        let bad_size = |problem| corrupt("descriptorSize", at::DESCRIPTOR_SIZE, size, problem);
        if size == 0 {
            return bad_size("a descriptor without room");
        }
        if size > MAX_DESCRIPTOR_SECTORS {
            return bad_size("a descriptor has at most 2048 sectors");
        }
        let end = offset.checked_add(size).and_then(|end| end.checked_mul(SECTOR_BYTES));
        let Some(end) = end.filter(|&end| end <= file_len) else {
            return corrupt("descriptorOffset", at::DESCRIPTOR_OFFSET, offset, "the descriptor ends past the file");
        };
        // Of a file that is only a container for its descriptor, the other numbers mean nothing.
        if self.capacity != 0 {
            let sectors = offset..offset + size;
            if sectors.contains(&self.gd_offset) {
                let problem = "the descriptor reaches over the grain directory";
                return corrupt("descriptorSize", at::DESCRIPTOR_SIZE, size, problem);
            }
            if self.over_head != 0 && sectors.end > self.over_head {
                let problem = "the descriptor reaches over the first grain";
                return corrupt("descriptorSize", at::DESCRIPTOR_SIZE, size, problem);
            }
        }
        Ok(Some(offset * SECTOR_BYTES..end))
    }

    /// Checks the numbers that say how large things are. With them the others of this header can be computed.
    pub(crate) fn check_sizes(&self) -> Result<()> {
        if self.capacity == 0 {
            return corrupt("capacity", at::CAPACITY, 0, "an extent has at least one sector");
        }
        if self.capacity > MAX_SECTORS {
            return corrupt("capacity", at::CAPACITY, self.capacity, "does not fit into 63 bits of bytes");
        }
        let grain = self.grain_size;
        if !grain.is_power_of_two() || grain > MAX_GRAIN_SECTORS {
            return corrupt("grainSize", at::GRAIN_SIZE, grain, "not a power of two from 1 to 0x200000");
        }
        if self.is_compressed() && grain > MAX_COMPRESSED_GRAIN_SECTORS {
            let problem = "compressed grains are read up to 2048 sectors";
            return Err(Error::bad_field(
                ErrorKind::Unsupported,
                STRUCTURE,
                "grainSize",
                at::GRAIN_SIZE as u64,
                grain,
                problem,
            ));
        }
        let entries = self.gtes_per_gt;
        if !entries.is_power_of_two() || !(MIN_GT_ENTRIES..=MAX_GT_ENTRIES).contains(&entries) {
            let problem = "not a power of two from 128 to 4096";
            return corrupt("numGTEsPerGT", at::NUM_GTES_PER_GT, entries.into(), problem);
        }
        if grain * u64::from(entries) > u64::from(u32::MAX) {
            let problem = "a table covers more than 32 bits of sectors";
            return corrupt("numGTEsPerGT", at::NUM_GTES_PER_GT, entries.into(), problem);
        }
        if self.tables() > MAX_GD_ENTRIES {
            let problem = "needs a grain directory of more than 32 Mi entries";
            return corrupt("capacity", at::CAPACITY, self.capacity, problem);
        }
        Ok(())
    }

    /// Checks every number that the tables and grains are found by, and derives what lookup needs. The redundant
    /// directory may be used for one whose place is impossible if `use_redundant` is set.
    pub(crate) fn layout(&self, file_len: u64, use_redundant: bool) -> Result<SparseLayout> {
        self.check_sizes()?;
        let file_sectors = file_len.div_ceil(SECTOR_BYTES);
        let (grain, entries, tables) = (self.grain_size, self.gtes_per_gt, self.tables());
        let redundant = Some(self.rgd_offset).filter(|_| self.has_redundant_tables());
        let redundant = redundant.and_then(|sector| directory_at(sector, tables, file_len).ok());
        let (directory, directory_is_redundant) = match directory_at(self.gd_offset, tables, file_len) {
            Ok(directory) => (directory, false),
            Err(problem) => match redundant.clone().filter(|_| use_redundant) {
                Some(directory) => (directory, true),
                None => return corrupt("gdOffset", at::GD_OFFSET, self.gd_offset, problem),
            },
        };
        if self.over_head > file_sectors {
            let problem = "the file is truncated: it ends before the first grain could begin";
            return corrupt("overHead", at::OVER_HEAD, self.over_head, problem);
        }
        Ok(SparseLayout {
            entries: EntryFormat::Sectors,
            sectors: self.capacity,
            grain_sectors: grain,
            entries_per_table: entries,
            table_sectors: self.sectors_per_table(),
            directory,
            directory_is_redundant,
            redundant: redundant.map(|directory| directory.start),
            // Sector 0 is the header, and 1 is never valid: it holds the descriptor or the redundant directory.
            first_table_sector: 2,
            descriptor: self.descriptor_region(file_len)?.unwrap_or_default(),
            // Entries of 0 and 1 mean something else.
            first_grain_sector: self.over_head.max(2),
            has_markers: self.is_compressed() && self.has_markers(),
            // A stream is written once: what is missing of it was never there, or is lost.
            unclean: self.unclean_shutdown != 0 && !self.is_compressed(),
            keeps_redundant: self.has_redundant_tables(),
            zero_grains: self.has_zero_grains(),
            grain_alignment: grain,
            mark: HeaderMark::Unclean { at: at::UNCLEAN_SHUTDOWN as u64 },
        })
    }
}

/// Where a directory of so many tables is in the file, in bytes, or why it cannot be there.
fn directory_at(sector: u64, tables: u64, file_len: u64) -> Result<std::ops::Range<u64>, &'static str> {
    if sector == 0 {
        return Err("there is no grain directory");
    }
    let start = sector.checked_mul(SECTOR_BYTES).ok_or("the grain directory lies past the file")?;
    let end = start.checked_add(tables * 4).filter(|&end| end <= file_len);
    Ok(start..end.ok_or("the grain directory ends past the file")?)
}

fn corrupt<T>(name: &'static str, at: usize, value: u64, problem: &'static str) -> Result<T> {
    Err(Error::field(STRUCTURE, name, at as u64, value, problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The header of a 256 KiB disk made by qemu-img 10.0.2.
    fn sample() -> [u8; SECTOR_SIZE] {
        let mut sector = [0; SECTOR_SIZE];
        let start: [u8; 79] = [
            0x4b, 0x44, 0x4d, 0x56, 1, 0, 0, 0, 3, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0,
            0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0x15, 0, 0, 0, 0, 0, 0, 0, 0x1a, 0, 0, 0, 0, 0, 0, 0,
            0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a, 0x20, 0x0d, 0x0a, 0, 0,
        ];
        sector[..start.len()].copy_from_slice(&start);
        sector
    }

    fn header() -> KdmvHeader {
        KdmvHeader::decode(&sample()).unwrap()
    }

    #[test]
    fn a_header_by_qemu_is_read_field_by_field() {
        let expected = KdmvHeader {
            version: 1,
            flags: 3,
            capacity: 512,
            grain_size: 128,
            descriptor_offset: 1,
            descriptor_size: 20,
            gtes_per_gt: 512,
            rgd_offset: 21,
            gd_offset: 26,
            over_head: 128,
            unclean_shutdown: 0,
            newline_bytes: *b"\n \r\n",
            compress_algorithm: 0,
        };
        assert_eq!(header(), expected);
        header().check_readable(false).unwrap();
        assert_eq!(header().descriptor_region(65536).unwrap(), Some(512..512 * 21));
        let layout = header().layout(65536, false).unwrap();
        assert_eq!((layout.tables(), layout.directory.start, layout.first_grain_sector), (1, 26 * 512, 128));
    }

    proptest! {
        #[test]
        fn any_header_survives_the_round_trip(tail in prop::collection::vec(any::<u8>(), 75)) {
            let mut sector = [0; SECTOR_SIZE];
            sector[..4].copy_from_slice(&MAGIC);
            sector[4..79].copy_from_slice(&tail);
            prop_assert_eq!(KdmvHeader::encode(&KdmvHeader::decode(&sector).unwrap()), sector);
        }

        #[test]
        fn no_header_can_make_the_checks_panic(tail in prop::collection::vec(any::<u8>(), 75), len in any::<u64>()) {
            let mut sector = [0; SECTOR_SIZE];
            sector[..4].copy_from_slice(&MAGIC);
            sector[4..79].copy_from_slice(&tail);
            let header = KdmvHeader::decode(&sector).unwrap();
            let _ = (header.check_readable(false), header.descriptor_region(len), header.layout(len, false));
        }
    }

    /// One row a limit: what is changed, the field that the error names, and its kind.
    #[test]
    fn every_limit_is_checked_and_the_error_names_the_field() {
        type Change = fn(&mut KdmvHeader);
        let rows: &[(&str, ErrorKind, Change)] = &[
            ("version", ErrorKind::Corrupt, |h| h.version = 0),
            ("version", ErrorKind::Unsupported, |h| h.version = 4),
            ("flags", ErrorKind::Unsupported, |h| h.flags |= 1 << 18),
            ("flags", ErrorKind::Unsupported, |h| h.flags |= 1 << 31),
            ("flags", ErrorKind::Corrupt, |h| h.flags |= 1 << 17),
            ("newline check", ErrorKind::Corrupt, |h| h.newline_bytes = *b"\n\n\r\n"),
            ("compressAlgorithm", ErrorKind::Corrupt, |h| h.compress_algorithm = 1),
            ("compressAlgorithm", ErrorKind::Unsupported, |h| (h.flags, h.compress_algorithm) = (0x30001, 2)),
            ("descriptorSize", ErrorKind::Corrupt, |h| h.descriptor_size = 0),
            ("descriptorSize", ErrorKind::Corrupt, |h| h.descriptor_size = 2049),
            ("descriptorOffset", ErrorKind::Corrupt, |h| h.descriptor_offset = 109),
            ("descriptorOffset", ErrorKind::Corrupt, |h| h.descriptor_offset = u64::MAX),
            ("capacity", ErrorKind::Corrupt, |h| h.capacity = 0),
            ("capacity", ErrorKind::Corrupt, |h| h.capacity = u64::MAX),
            ("capacity", ErrorKind::Corrupt, |h| h.capacity = (MAX_GD_ENTRIES << 16) + 1),
            ("grainSize", ErrorKind::Corrupt, |h| h.grain_size = 0),
            ("grainSize", ErrorKind::Corrupt, |h| h.grain_size = 129),
            ("grainSize", ErrorKind::Corrupt, |h| h.grain_size = 0x40_0000),
            ("numGTEsPerGT", ErrorKind::Corrupt, |h| h.gtes_per_gt = 0),
            ("numGTEsPerGT", ErrorKind::Corrupt, |h| h.gtes_per_gt = 64),
            ("numGTEsPerGT", ErrorKind::Corrupt, |h| h.gtes_per_gt = 513),
            ("numGTEsPerGT", ErrorKind::Corrupt, |h| h.gtes_per_gt = 8192),
            ("numGTEsPerGT", ErrorKind::Corrupt, |h| (h.gtes_per_gt, h.grain_size) = (4096, 0x20_0000)),
            ("gdOffset", ErrorKind::Corrupt, |h| h.gd_offset = 0),
            ("gdOffset", ErrorKind::Corrupt, |h| h.gd_offset = 128),
            ("gdOffset", ErrorKind::Corrupt, |h| h.gd_offset = u64::MAX - 1),
            ("overHead", ErrorKind::Corrupt, |h| h.over_head = 129),
        ];
        for (number, (field, kind, change)) in rows.iter().enumerate() {
            let mut bad = header();
            change(&mut bad);
            let error = bad
                .check_readable(false)
                .and_then(|()| bad.descriptor_region(65536))
                .and_then(|_| bad.layout(65536, false))
                .expect_err(&format!("row {number}, {field}"));
            assert_eq!(error.kind(), *kind, "row {number}: {error}");
            assert!(error.to_string().contains(&format!("{field} at offset")), "row {number}: {error}");
        }
    }

    #[test]
    fn damaged_newline_bytes_can_be_overridden_and_do_not_count_without_the_flag() {
        let mut damaged = header();
        damaged.newline_bytes = [0; 4];
        damaged.check_readable(true).unwrap();
        damaged.flags &= !1;
        damaged.check_readable(false).unwrap();
    }

    #[test]
    fn version_3_without_compression_is_readable() {
        let mut tracked = header();
        tracked.version = 3;
        tracked.check_readable(false).unwrap();
        assert!(!tracked.is_compressed());
    }

    #[test]
    fn the_largest_directory_is_within_the_limit() {
        let mut big = header();
        big.capacity = MAX_GD_ENTRIES << 16;
        let layout = big.layout(u64::MAX >> 1, false).unwrap();
        assert_eq!(layout.tables(), MAX_GD_ENTRIES);
    }
}
