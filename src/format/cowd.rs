//! The header of a COWD extent: ESX deltas (vmfsSparse) and the disks of VMware 2 and 3.
//!
//! Three dialects share the first 32 bytes. What tells them apart is how many entries a grain table has, and that
//! stands in no field: it follows from the number of directory entries. Sources: VMware's technical note "Virtual Disk
//! Format 5.0" for ESX; for VMware 2 and 3 Ken Kato's description of them and the image code of Bochs.

use byteorder::{ByteOrder, LittleEndian};

use super::blank::{directory_sectors, refused};
use super::{EntryFormat, HeaderMark, SparseLayout};
use crate::error::{Error, ErrorKind, Result};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE};

/// The first four bytes.
pub(crate) const MAGIC: [u8; 4] = *b"COWD";

/// Sectors of the header: nothing else begins below.
pub(crate) const HEADER_SECTORS: u32 = 4;

/// Bytes of the header.
pub(crate) const HEADER_LEN: usize = HEADER_SECTORS as usize * SECTOR_SIZE;

/// Entries of a grain table on ESX.
const ESX_GT_ENTRIES: u32 = 4096;

/// Entries of a grain table in VMware 2 and 3.
const HOSTED_GT_ENTRIES: u32 = 512;

/// Sectors that a grain table covers where its entries follow from the grain (Bochs): 32 MiB.
const BOCHS_TABLE_SECTORS: u32 = 65536;

/// The largest grain: 1 MiB (technical note).
const MAX_GRAIN_SECTORS: u32 = 2048;

/// Flag: no parent. ESX sets it in deltas as well.
const FLAG_ROOT: u32 = 1;

/// Flag: was checked.
const FLAG_CHECKED: u32 = 2;

/// Root, checked, part of a disk of several files, hardware version decided.
const KNOWN_FLAGS: u32 = 0x01 | 0x02 | 0x08 | 0x10;

/// Room for the name of a parent. VMware 2 and 3 use 260 bytes of it.
const PARENT_NAME_LEN: usize = 1024;

const STRUCTURE: &str = "COWD header";

/// Byte offsets of the fields.
mod at {
    pub(super) const VERSION: usize = 4;
    pub(super) const FLAGS: usize = 8;
    pub(super) const NUM_SECTORS: usize = 12;
    pub(super) const GRAIN_SIZE: usize = 16;
    pub(super) const GD_OFFSET: usize = 20;
    pub(super) const NUM_GD_ENTRIES: usize = 24;
    pub(super) const FREE_SECTOR: usize = 28;
    /// Three numbers, of a root: cylinders, heads, sectors.
    pub(super) const GEOMETRY: usize = 32;
    pub(super) const PARENT_NAME: usize = 32;
    pub(super) const PARENT_GENERATION: usize = 1056;
    pub(super) const GENERATION: usize = 1060;
    pub(super) const SAVED_GENERATION: usize = 1636;
    /// On ESX; the ordinal of the file in version 3.
    pub(super) const UNCLEAN_SHUTDOWN: usize = 1648;
    pub(super) const FILE_ORDINAL: usize = 1648;
    pub(super) const FILE_COUNT: usize = 1652;
    /// The same of the whole disk, of a root.
    pub(super) const DISK_GEOMETRY: usize = 1656;
    pub(super) const DISK_SECTORS: usize = 1668;
    pub(super) const FILE_CAPACITY: usize = 1676;
}

/// Where the version stands.
pub(crate) const VERSION_AT: usize = at::VERSION;

/// Where the capacity stands.
pub(crate) const CAPACITY_AT: usize = at::NUM_SECTORS;

/// Where the generation stands, by which a child of VMware 2 or 3 knows its parent.
pub(crate) const GENERATION_AT: usize = at::GENERATION;

/// Where an extent of version 1 says that it was not closed.
pub(crate) const UNCLEAN_AT: usize = at::UNCLEAN_SHUTDOWN;

/// Where the generation stands that the extent had when it was last closed.
pub(crate) const SAVED_GENERATION_AT: usize = at::SAVED_GENERATION;

/// The header of a COWD extent, as far as reading needs it. All places and sizes are in sectors of 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CowdHeader {
    /// 1 (ESX, VMware 2) or 3 (VMware 3).
    pub version: u32,
    /// Bit 0: no parent (not to be relied on: ESX sets it in deltas); 1: was checked; 3: one of several files.
    pub flags: u32,
    /// Size of the extent.
    pub num_sectors: u32,
    /// Size of a grain.
    pub grain_size: u32,
    /// Where the grain directory begins.
    pub gd_offset: u32,
    /// Entries of the grain directory.
    pub num_gd_entries: u32,
    /// The next sector that a writer allocates.
    pub free_sector: u32,
    /// What the parent's generation has to be, in a child of VMware 2 or 3.
    pub parent_generation: u32,
    /// Changes with every use of the disk.
    pub generation: u32,
    /// The generation at the last clean close.
    pub saved_generation: u32,
    /// Not 0 after a crash; in version 1 only.
    pub unclean_shutdown: u32,
    /// Which of the disk's files this is, from 0; in version 3 only.
    pub file_ordinal: u32,
    /// How many files the disk has; in version 3 only.
    pub file_count: u32,
    /// Sectors of the whole disk; in version 3 only, and 0 where nobody wrote it.
    pub disk_sectors: u32,
    /// The most sectors this file can hold; in version 3 only.
    pub file_capacity: u32,
    /// The file name of the parent, in a child of VMware 2 or 3; empty on ESX.
    pub parent_name: Vec<u8>,
}

impl CowdHeader {
    /// Takes the fields apart; `None` if the magic is another. Nothing is checked yet.
    pub(crate) fn decode(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        if !bytes.starts_with(&MAGIC) {
            return None;
        }
        let u32_at = |at: usize| LittleEndian::read_u32(&bytes[at..]);
        let (version, flags) = (u32_at(at::VERSION), u32_at(at::FLAGS));
        let only_3 = |at: usize| if version == 3 { u32_at(at) } else { 0 };
        let name = &bytes[at::PARENT_NAME..at::PARENT_NAME + PARENT_NAME_LEN];
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        // A root has its geometry there.
        let parent_name = if flags & FLAG_ROOT == 0 { name.to_vec() } else { Vec::new() };
        Some(Self {
            version,
            flags,
            num_sectors: u32_at(at::NUM_SECTORS),
            grain_size: u32_at(at::GRAIN_SIZE),
            gd_offset: u32_at(at::GD_OFFSET),
            num_gd_entries: u32_at(at::NUM_GD_ENTRIES),
            free_sector: u32_at(at::FREE_SECTOR),
            parent_generation: u32_at(at::PARENT_GENERATION),
            generation: u32_at(at::GENERATION),
            saved_generation: u32_at(at::SAVED_GENERATION),
            unclean_shutdown: if version == 1 { u32_at(at::UNCLEAN_SHUTDOWN) } else { 0 },
            file_ordinal: only_3(at::FILE_ORDINAL),
            file_count: only_3(at::FILE_COUNT),
            disk_sectors: only_3(at::DISK_SECTORS),
            file_capacity: only_3(at::FILE_CAPACITY),
            parent_name,
        })
    }

    /// The header of a new extent as ESX makes it, and the first free sector, at which the file ends; `root` is the
    /// geometry of a disk without a parent.
    pub(super) fn encode_new(capacity: u64, grain_sectors: u64, root: Option<[u32; 3]>) -> Result<(Vec<u8>, u32)> {
        let grain = u32::try_from(grain_sectors).ok();
        let Some(grain) = grain.filter(|grain| grain.is_power_of_two() && *grain <= MAX_GRAIN_SECTORS) else {
            return refused(format!(
                "a grain of {grain_sectors} sectors; of a COWD extent it is a power of two to 2048"
            ));
        };
        let Some(sectors) = u32::try_from(capacity).ok().filter(|&sectors| sectors > 0) else {
            return refused(format!("a COWD extent of {capacity} sectors; it has 1 to {} sectors", u32::MAX));
        };
        let tables = sectors.div_ceil(grain * ESX_GT_ENTRIES);
        let free = u64::from(HEADER_SECTORS) + directory_sectors(tables.into());
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        let mut bytes = vec![0; HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        let fields = [
            (at::VERSION, 1),
            (at::FLAGS, FLAG_ROOT | FLAG_CHECKED),
            (at::NUM_SECTORS, sectors),
            (at::GRAIN_SIZE, grain),
            (at::GD_OFFSET, HEADER_SECTORS),
            (at::NUM_GD_ENTRIES, tables),
            (at::FREE_SECTOR, free),
        ];
        let root = root.into_iter().flatten().enumerate().map(|(number, value)| (at::GEOMETRY + 4 * number, value));
        for (at, value) in fields.into_iter().chain(root) {
            LittleEndian::write_u32(&mut bytes[at..], value);
        }
        Ok((bytes, free))
    }

    /// The header of the same extent with another capacity. Its directory may need more sectors than it has where it
    /// is.
    ///
    /// # Errors
    /// `InvalidInput` for a size that the format has no numbers for, or from which nobody could tell how large a table
    /// is.
    pub(crate) fn with_capacity(&self, capacity: u64) -> Result<Self> {
        let Some(num_sectors) = u32::try_from(capacity).ok().filter(|&sectors| sectors > 0) else {
            return refused(format!("a COWD extent of {capacity} sectors; it has 1 to {} sectors", u32::MAX));
        };
        // 0 where nobody wrote it.
        if self.version == 3 && self.file_capacity != 0 && num_sectors > self.file_capacity.max(self.num_sectors) {
            let most = self.file_capacity;
            return refused(format!("a file of {capacity} sectors; by its header it can hold {most} (fileCapacity)"));
        }
        let entries = self.entries_per_table();
        let needed = |header: &Self| entries.and_then(|entries| header.tables_needed(entries));
        let mut other = Self { num_sectors, ..self.clone() };
        other.num_gd_entries = needed(&other).unwrap_or(self.num_gd_entries);
        if entries.is_none() || other.entries_per_table() != entries {
            return refused(format!("a COWD extent of {capacity} sectors, whose tables would be taken for others"));
        }
        Ok(other)
    }

    /// Sectors that the grain directory takes.
    pub(crate) fn directory_sectors(&self) -> u64 {
        directory_sectors(self.num_gd_entries.into())
    }

    /// Sets the fields that say how large the extent is and where its directory and its free space are, in its first
    /// sector. The free sector there never becomes less: a writer may have come since.
    pub(crate) fn encode_layout(&self, sector: &mut [u8; SECTOR_SIZE]) {
        let free_sector = LittleEndian::read_u32(&sector[at::FREE_SECTOR..]).max(self.free_sector);
        let fields = [
            (at::NUM_SECTORS, self.num_sectors),
            (at::GD_OFFSET, self.gd_offset),
            (at::NUM_GD_ENTRIES, self.num_gd_entries),
            (at::FREE_SECTOR, free_sector),
        ];
        for (at, value) in fields {
            LittleEndian::write_u32(&mut sector[at..], value);
        }
        if self.flags & FLAG_ROOT != 0 {
            set_cylinders(&mut sector[at::GEOMETRY..], self.num_sectors);
        }
    }

    /// Whether it is a disk of VMware 2 or 3, which have no descriptor, and no delta of ESX.
    pub(crate) fn is_of_vmware_2_or_3(&self) -> bool {
        self.version == 3 || self.is_child() || self.entries_per_table() == Some(HOSTED_GT_ENTRIES)
    }

    /// Whether there are flags that a writer does not know, or the one that says the extent is inconsistent.
    pub(crate) fn has_unknown_flags(&self) -> bool {
        self.flags & !KNOWN_FLAGS != 0
    }

    /// Whether the header says that there is a parent: only VMware 2 and 3 do that, with its name as a rule.
    pub fn is_child(&self) -> bool {
        !self.parent_name.is_empty() || (self.version == 3 && self.flags & FLAG_ROOT == 0)
    }

    /// Entries of a grain table: of the counts that occur, the first with which the directory has just the entries
    /// that it needs.
    pub fn entries_per_table(&self) -> Option<u32> {
        let computed =
            BOCHS_TABLE_SECTORS.checked_div(self.grain_size).filter(|&entries| (1..=ESX_GT_ENTRIES).contains(&entries));
        let usual = match self.version {
            3 => [Some(HOSTED_GT_ENTRIES), Some(ESX_GT_ENTRIES), computed],
            _ => [Some(ESX_GT_ENTRIES), Some(HOSTED_GT_ENTRIES), computed],
        };
        let exact =
            usual.into_iter().flatten().find(|&entries| self.tables_needed(entries) == Some(self.num_gd_entries));
        // A directory with room to spare.
        let roomy = || {
            let fits = self.tables_needed(ESX_GT_ENTRIES).is_some_and(|tables| tables <= self.num_gd_entries);
            (self.version == 1 && fits).then_some(ESX_GT_ENTRIES)
        };
        exact.or_else(roomy)
    }

    fn tables_needed(&self, entries: u32) -> Option<u32> {
        Some(self.num_sectors.div_ceil(self.grain_size.checked_mul(entries).filter(|&sectors| sectors > 0)?))
    }

    /// Checks every number that the tables and grains are found by, and derives what lookup needs.
    pub(crate) fn layout(&self, file_len: u64) -> Result<SparseLayout> {
        if self.version != 1 && self.version != 3 {
            let problem = "versions 1 and 3 are known";
            let error = Error::bad_field(
                ErrorKind::Unsupported,
                STRUCTURE,
                "version",
                at::VERSION as u64,
                self.version.into(),
                problem,
            );
            return Err(error);
        }
        if self.num_sectors == 0 {
            return corrupt("numSectors", at::NUM_SECTORS, 0, "an extent has at least one sector");
        }
        let grain = self.grain_size;
        if !grain.is_power_of_two() || grain > MAX_GRAIN_SECTORS {
            return corrupt("grainSize", at::GRAIN_SIZE, grain, "not a power of two from 1 to 2048");
        }
        let Some(entries) = self.entries_per_table() else {
            let problem = "not the number of tables that the capacity needs, in any dialect";
            return corrupt("numGDEntries", at::NUM_GD_ENTRIES, self.num_gd_entries, problem);
        };
        // Of a disk with one table nothing tells how large that is; more entries than grains are of no use.
        let grains = self.num_sectors.div_ceil(grain);
        let table_sectors = (u64::from(entries) * 4).div_ceil(SECTOR_BYTES);
        let entries = entries.min(grains.checked_next_power_of_two().unwrap_or(entries));
        if self.gd_offset < HEADER_SECTORS {
            return corrupt("gdOffset", at::GD_OFFSET, self.gd_offset, "the grain directory lies in the header");
        }
        let start = u64::from(self.gd_offset) * SECTOR_BYTES;
        let tables = u64::from(self.num_sectors).div_ceil(u64::from(grain) * u64::from(entries));
        let directory = start..start + tables * 4;
        if directory.end > file_len {
            return corrupt("gdOffset", at::GD_OFFSET, self.gd_offset, "the grain directory ends past the file");
        }
        // Every writer puts the directory behind the header, and no grain into either.
        let behind_header = self.gd_offset == HEADER_SECTORS;
        let first_grain_sector =
            if behind_header { directory.end.div_ceil(SECTOR_BYTES) } else { HEADER_SECTORS.into() };
        Ok(SparseLayout {
            entries: EntryFormat::Sectors,
            sectors: self.num_sectors.into(),
            grain_sectors: grain.into(),
            entries_per_table: entries,
            table_sectors,
            directory,
            directory_is_redundant: false,
            redundant: None,
            first_table_sector: HEADER_SECTORS.into(),
            descriptor: 0..0,
            first_grain_sector,
            has_markers: false,
            unclean: self.unclean_shutdown != 0 || self.saved_generation != self.generation,
            keeps_redundant: false,
            zero_grains: false,
            // Grains need no alignment.
            grain_alignment: 1,
            mark: HeaderMark::FreeSector { at: at::FREE_SECTOR as u64, value: self.free_sector },
        })
    }
}

/// Sets the size and the geometry of the whole disk in a header of version 3, if they stand there.
pub(crate) fn set_disk_size(header: &mut [u8; HEADER_LEN], sectors: u32) {
    let u32_at = |at: usize| LittleEndian::read_u32(&header[at..]);
    if u32_at(at::VERSION) != 3 || u32_at(at::DISK_SECTORS) == 0 {
        return;
    }
    LittleEndian::write_u32(&mut header[at::DISK_SECTORS..], sectors);
    set_cylinders(&mut header[at::DISK_GEOMETRY..], sectors);
}

/// Sets the first of three numbers so that there are as many cylinders as these sectors fill. Heads and sectors of a
/// track stay: partition tables and boot loaders have been made with them.
fn set_cylinders(geometry: &mut [u8], sectors: u32) {
    let number = |at: usize| LittleEndian::read_u32(&geometry[at..]);
    let in_cylinder = number(4).checked_mul(number(8));
    if let Some(cylinders) = in_cylinder.and_then(|in_cylinder| sectors.checked_div(in_cylinder)) {
        LittleEndian::write_u32(geometry, cylinders);
    }
}

fn corrupt<T>(name: &'static str, at: usize, value: u32, problem: &'static str) -> Result<T> {
    Err(Error::field(STRUCTURE, name, at as u64, value.into(), problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A delta as ESX makes it: 10 MiB, one-sector grains.
    fn esx() -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        for (number, value) in [1, 3, 20480, 1, 4, 5, 5].into_iter().enumerate() {
            LittleEndian::write_u32(&mut bytes[4 + 4 * number..], value);
        }
        bytes
    }

    fn header() -> CowdHeader {
        CowdHeader::decode(&esx()).unwrap()
    }

    #[test]
    fn a_delta_of_esx_has_tables_of_4096_entries() {
        let layout = header().layout(5 * 512).unwrap();
        assert_eq!((layout.entries_per_table, layout.tables(), layout.directory), (4096, 5, 2048..2068));
    }

    /// Version, sectors, grain, directory entries, and the entries of a table that follow.
    #[test]
    fn the_dialect_follows_from_the_number_of_directory_entries() {
        let rows = [
            (1, 20480, 1, 5, Some(4096)),
            (1, 4_294_967_295, 1, 1_048_576, Some(4096)),
            // VMware 2: grains of 32 sectors, tables of 512 entries.
            (1, 409_600, 32, 25, Some(512)),
            // VMware 3: grains of 128 sectors.
            (3, 4_192_256, 128, 64, Some(512)),
            (3, 100, 128, 1, Some(512)),
            // Bochs: as many entries as make 32 MiB.
            (3, 655_360, 16, 10, Some(4096)),
            // A directory taken over from another format, with room to spare.
            (1, 8192, 128, 16, Some(4096)),
            (3, 8192, 128, 16, None),
            (1, 20480, 1, 4, None),
            (1, 20480, 0, 5, None),
        ];
        for (version, num_sectors, grain_size, num_gd_entries, expected) in rows {
            let header = CowdHeader { version, num_sectors, grain_size, num_gd_entries, ..header() };
            assert_eq!(header.entries_per_table(), expected, "{version} {num_sectors} {grain_size} {num_gd_entries}");
        }
    }

    #[test]
    fn every_limit_is_checked_and_the_error_names_the_field() {
        type Change = fn(&mut CowdHeader);
        let rows: &[(&str, ErrorKind, Change)] = &[
            ("version", ErrorKind::Unsupported, |h| h.version = 2),
            ("numSectors", ErrorKind::Corrupt, |h| h.num_sectors = 0),
            ("grainSize", ErrorKind::Corrupt, |h| h.grain_size = 0),
            ("grainSize", ErrorKind::Corrupt, |h| h.grain_size = 3),
            // QEMU divides by the 32 bits of 4096 times this, which are 0.
            ("grainSize", ErrorKind::Corrupt, |h| h.grain_size = 0x10_0000),
            ("numGDEntries", ErrorKind::Corrupt, |h| h.num_gd_entries = 4),
            ("gdOffset", ErrorKind::Corrupt, |h| h.gd_offset = 3),
            ("gdOffset", ErrorKind::Corrupt, |h| h.gd_offset = 5),
            ("gdOffset", ErrorKind::Corrupt, |h| h.gd_offset = u32::MAX),
        ];
        for (number, (field, kind, change)) in rows.iter().enumerate() {
            let mut bad = header();
            change(&mut bad);
            let error = bad.layout(5 * 512).expect_err(field);
            assert_eq!(error.kind(), *kind, "row {number}: {error}");
            assert!(error.to_string().contains(&format!("{field} at offset")), "row {number}: {error}");
        }
    }

    #[test]
    fn offset_1648_is_a_flag_on_esx_and_an_ordinal_in_version_3() {
        let mut bytes = esx();
        bytes[at::UNCLEAN_SHUTDOWN] = 1;
        let esx = CowdHeader::decode(&bytes).unwrap();
        assert_eq!((esx.unclean_shutdown, esx.file_ordinal), (1, 0));
        bytes[at::VERSION] = 3;
        let hosted = CowdHeader::decode(&bytes).unwrap();
        assert_eq!((hosted.unclean_shutdown, hosted.file_ordinal), (0, 1));
    }

    proptest! {
        #[test]
        fn no_header_can_make_the_checks_panic(fields in prop::collection::vec(any::<u32>(), 7), len in any::<u64>()) {
            let mut bytes = esx();
            for (number, value) in fields.into_iter().enumerate() {
                LittleEndian::write_u32(&mut bytes[4 + 4 * number..], value);
            }
            let _ = CowdHeader::decode(&bytes).unwrap().layout(len);
        }
    }
}
