//! What a new sparse extent begins with: its header and directories. All its tables are zeros, so that they need not be
//! written where a file has holes.
//!
//! ```text
//! KDMV  header | descriptor | RGD | its tables | GD | its tables | up to a whole grain
//! COWD  header (4 sectors) | GD, all zeros: a table is made when it is needed
//! ```
//!
//! Source: VMware's technical note "Virtual Disk Format 5.0", and disks made by VMware and QEMU, whose layouts agree.

use byteorder::{ByteOrder, LittleEndian};

use super::{CowdHeader, KdmvHeader};
use crate::error::{Error, ErrorKind, Result};
use crate::sector::{SECTOR_BYTES, to_usize};

/// Entries of a directory that are made at once: 64 KiB of it.
const STEP: u64 = 16 << 10;

/// The metadata of a new sparse extent.
#[derive(Debug)]
pub(crate) struct Blank {
    /// The first bytes of the file.
    pub(crate) header: Vec<u8>,
    /// Where the descriptor goes, in sectors; 0 sectors if it has none.
    pub(crate) descriptor_sectors: u64,
    pub(crate) directories: Vec<BlankDirectory>,
    /// The length of the file in sectors.
    pub(crate) sectors: u64,
}

/// A directory of tables that lie one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlankDirectory {
    /// The sector at which it begins.
    pub(crate) start: u64,
    /// The sector at which the first table begins, right behind it.
    pub(crate) first_table: u64,
    pub(crate) tables: u64,
    pub(crate) table_sectors: u64,
}

impl Blank {
    /// A hosted extent of `capacity` sectors, with room for a descriptor of so many sectors.
    ///
    /// # Errors
    /// `InvalidInput` for grains that not every product takes, and for a size beyond what the format has numbers for.
    pub(crate) fn kdmv(capacity: u64, grain_sectors: u64, descriptor_sectors: u64, zero_grains: bool) -> Result<Self> {
        let header = KdmvHeader::of_new_extent(capacity, grain_sectors, descriptor_sectors, zero_grains)?;
        let (tables, table_sectors) = (header.tables(), header.sectors_per_table());
        let directory = |start: u64| {
            let first_table = start + directory_sectors(tables);
            BlankDirectory { start, first_table, tables, table_sectors }
        };
        Ok(Self {
            header: header.encode().to_vec(),
            descriptor_sectors,
            directories: vec![directory(header.rgd_offset), directory(header.gd_offset)],
            sectors: header.over_head,
        })
    }

    /// An ESX delta of `capacity` sectors; `root` is the geometry of a disk without a parent.
    ///
    /// # Errors
    /// As for `kdmv`.
    pub(crate) fn cowd(capacity: u64, grain_sectors: u64, root: Option<[u32; 3]>) -> Result<Self> {
        let (header, sectors) = CowdHeader::encode_new(capacity, grain_sectors, root)?;
        Ok(Self { header, descriptor_sectors: 0, directories: Vec::new(), sectors: sectors.into() })
    }
}

impl BlankDirectory {
    /// Its bytes, piece by piece, each with the offset in the file at which it goes.
    pub(crate) fn pieces(self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        (0..self.tables).step_by(to_usize(STEP)).map(move |first| {
            let end = self.tables.min(first + STEP);
            let mut bytes = vec![0; to_usize((end - first) * 4)];
            for (entry, table) in bytes.chunks_exact_mut(4).zip(first..end) {
                // Every table lies below the first grain, and that below 2^32.
                let sector = u32::try_from(self.first_table + table * self.table_sectors).unwrap_or_default();
                LittleEndian::write_u32(entry, sector);
            }
            (self.start * SECTOR_BYTES + first * 4, bytes)
        })
    }
}

/// Sectors of a directory of so many tables.
pub(super) fn directory_sectors(tables: u64) -> u64 {
    (tables * 4).div_ceil(SECTOR_BYTES)
}

/// The refusal of something that a new extent cannot be.
pub(super) fn refused<T>(text: String) -> Result<T> {
    Err(Error::text(ErrorKind::InvalidInput, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kdmv(capacity: u64, descriptor: u64) -> KdmvHeader {
        let blank = Blank::kdmv(capacity, 128, descriptor, false).unwrap();
        KdmvHeader::decode(blank.header.first_chunk().unwrap()).unwrap()
    }

    /// Sectors, room for the descriptor, tables, and where things are: of QEMU's and VMware's own files.
    #[test]
    fn hosted_extents_are_laid_out_as_by_vmware_and_qemu() {
        let rows = [
            (1, 20, 1, 21, 26, 128),
            (20_480, 20, 1, 21, 26, 128),
            (2_097_152, 20, 32, 21, 150, 384),
            (209_715_200, 20, 3200, 21, 12_846, 25_728),
            (4_294_967_296, 20, 65_536, 21, 262_677, 525_440),
            (17_179_869_184, 20, 262_144, 21, 1_050_645, 2_101_376),
            (137_438_953_472, 20, 2_097_152, 21, 8_405_013, 16_810_112),
            // Without a descriptor.
            (20_480, 0, 1, 1, 6, 128),
            (4_192_256, 0, 64, 1, 258, 640),
            (8_323_072, 0, 127, 1, 510, 1024),
        ];
        for (capacity, descriptor, tables, rgd, gd, over_head) in rows {
            let header = kdmv(capacity, descriptor);
            let found = (header.tables(), header.rgd_offset, header.gd_offset, header.over_head);
            assert_eq!(found, (tables, rgd, gd, over_head), "{capacity}");
            assert_eq!((header.descriptor_offset, header.descriptor_size), (u64::from(descriptor > 0), descriptor));
            assert_eq!((header.version, header.flags, header.gtes_per_gt), (1, 3, 512));
        }
    }

    #[test]
    fn the_first_entries_of_a_directory_name_the_tables_behind_it() {
        let blank = Blank::kdmv(3 * 65_536, 128, 20, false).unwrap();
        let entries: Vec<Vec<_>> = blank
            .directories
            .iter()
            .map(|directory| directory.pieces().flat_map(|(_, bytes)| bytes).collect())
            .collect();
        let expected =
            |first: u32| [first, first + 4, first + 8].iter().flat_map(|entry| entry.to_le_bytes()).collect();
        assert_eq!(entries, [expected(22), expected(35)] as [Vec<u8>; 2]);
    }

    #[test]
    fn zero_grains_make_it_version_2() {
        let blank = Blank::kdmv(1, 8, 0, true).unwrap();
        let header = KdmvHeader::decode(blank.header.first_chunk().unwrap()).unwrap();
        assert_eq!((header.version, header.flags, header.grain_size), (2, 7, 8));
    }

    #[test]
    fn what_has_no_numbers_in_the_format_is_refused() {
        let most = u64::from(u32::MAX) * 128;
        Blank::kdmv(most, 128, 20, false).unwrap();
        for (capacity, grain) in
            [(0, 128), (most + 1, 128), (u64::MAX, 128), (1, 0), (1, 4), (1, 24), (1, 256), (u64::MAX, 8)]
        {
            let error = Blank::kdmv(capacity, grain, 20, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{capacity} {grain}");
        }
        let most = u64::from(u32::MAX);
        Blank::cowd(most, 1, None).unwrap();
        for (capacity, grain) in [(0, 1), (most + 1, 1), (u64::MAX, 2048), (1, 0), (1, 3), (1, 4096)] {
            let error = Blank::cowd(capacity, grain, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{capacity} {grain}");
        }
    }

    /// Capacity, entries, and where the first grain or table goes (technical note, by arithmetic).
    #[test]
    fn deltas_of_esx_are_laid_out_as_the_technical_note_has_it() {
        let rows = [(20_480, 5, 5), (2_097_152, 512, 8), (209_715_200, 51_200, 404), (4_294_967_295, 1_048_576, 8196)];
        for (capacity, entries, free) in rows {
            let blank = Blank::cowd(capacity, 1, None).unwrap();
            let header = CowdHeader::decode(blank.header.first_chunk().unwrap()).unwrap();
            assert_eq!((header.version, header.flags, header.grain_size, header.gd_offset), (1, 3, 1, 4));
            assert_eq!((header.num_gd_entries, header.free_sector), (entries, free), "{capacity}");
            assert_eq!(blank.sectors, u64::from(free));
        }
    }

    proptest! {
        #[test]
        fn what_is_made_can_be_read(capacity in 1..1_u64 << 40, grain in 3..=7_u32, descriptor in 0..=20_u64) {
            if let Ok(blank) = Blank::kdmv(capacity, 1 << grain, descriptor, false) {
                let header = KdmvHeader::decode(blank.header.first_chunk().unwrap()).unwrap();
                let layout = header.layout(blank.sectors * SECTOR_BYTES, false).unwrap();
                prop_assert_eq!(layout.sectors, capacity);
                prop_assert_eq!(layout.tables(), header.tables());
                prop_assert!(layout.redundant.is_some() && blank.sectors % (1 << grain) == 0);
            }
            let grain = 1 << (grain + 4);
            if let Ok(blank) = Blank::cowd(capacity, grain, None) {
                let header = CowdHeader::decode(blank.header.first_chunk().unwrap()).unwrap();
                prop_assert_eq!(header.entries_per_table(), Some(4096));
                let layout = header.layout(blank.sectors * SECTOR_BYTES).unwrap();
                prop_assert_eq!((layout.sectors, layout.unclean), (capacity, false));
            }
        }
    }
}
