//! The headers of new hosted extents, as VMware's products write them.
//!
//! ```text
//! sparse         header | descriptor | RGD | its tables | GD | its tables | up to a whole grain | grains
//! stream, pipe   header | descriptor | up to a whole grain | grains, each table behind its own | GD | footer | end
//! stream, file   header | descriptor | GD | tables | up to a whole grain | grains | end
//! ```
//!
//! Source: VMware's technical note "Virtual Disk Format 5.0"; the stream in a file is laid out as by VMware's disk
//! library, which leaves out the redundant directory.

use super::KdmvHeader;
use super::blank::{directory_sectors, refused};
use super::kdmv::{GD_AT_END, NEWLINE_BYTES, flag};
use crate::error::Result;

/// The grains that every product takes, which are the ones that are written: 4 KiB to 64 KiB.
const NEW_GRAIN_SECTORS: std::ops::RangeInclusive<u64> = 8..=128;

/// Entries of the tables of a new extent. VMware's own library takes nothing else.
pub(crate) const NEW_GT_ENTRIES: u32 = 512;

/// Sectors of a grain of a new stream: no product writes others.
pub(crate) const STREAM_GRAIN_SECTORS: u64 = 128;

impl KdmvHeader {
    /// The header of a new extent, with both copies of its tables in front: VMware's and QEMU's layout.
    pub(super) fn of_new_extent(
        capacity: u64,
        grain_size: u64,
        descriptor_size: u64,
        zero_grains: bool,
    ) -> Result<Self> {
        let mut header = new(capacity, grain_size, descriptor_size)?;
        if zero_grains {
            header.version = 2;
            header.flags |= flag::ZERO_GRAIN;
        }
        header.flags |= flag::REDUNDANT;
        header.rgd_offset = 1 + descriptor_size;
        let copy = header.tables_with_directory();
        header.gd_offset = header.rgd_offset + copy;
        header.over_head = (header.gd_offset + copy).next_multiple_of(grain_size);
        Ok(header)
    }

    /// The header of the same extent with another capacity. If that takes another number of tables, or if those do not
    /// lie in front of the grains, its directories and tables are where a new extent would have them, and the grains
    /// begin where they do now at the earliest.
    ///
    /// # Errors
    /// `InvalidInput` for a size that the format has no numbers for.
    pub(crate) fn with_capacity(&self, capacity: u64) -> Result<Self> {
        let most = u64::from(u32::MAX) * self.grain_size;
        if capacity == 0 || capacity > most {
            return refused(format!(
                "an extent of {capacity} sectors; with grains of {} it has 1 to {most} sectors",
                self.grain_size
            ));
        }
        let mut larger = Self { capacity, ..self.clone() };
        larger.check_sizes()?;
        let is_in_front = |start: u64| start.saturating_add(self.tables_with_directory()) <= self.over_head;
        let is_at_home = is_in_front(self.gd_offset) && (!self.has_redundant_tables() || is_in_front(self.rgd_offset));
        if larger.tables() <= self.tables() && is_at_home {
            return Ok(larger);
        }
        let copy = larger.tables_with_directory();
        let start = if self.descriptor_offset == 0 { 1 } else { self.descriptor_offset + self.descriptor_size };
        if larger.has_redundant_tables() {
            larger.rgd_offset = start;
            larger.gd_offset = start + copy;
        } else {
            larger.gd_offset = start;
        }
        larger.over_head = (larger.gd_offset + copy).next_multiple_of(self.grain_size).max(self.over_head);
        if larger.over_head > u32::MAX.into() {
            return refused(format!("an extent of {capacity} sectors, whose tables alone take 2 TiB"));
        }
        Ok(larger)
    }

    /// The header of a new stream with its directory and room for all tables in front.
    ///
    /// # Errors
    /// `InvalidInput` for a size that the format has no numbers for.
    pub(crate) fn of_new_stream(capacity: u64, descriptor_size: u64) -> Result<Self> {
        let mut header = new(capacity, STREAM_GRAIN_SECTORS, descriptor_size)?;
        header.version = 3;
        header.flags |= flag::COMPRESSED | flag::MARKERS;
        header.compress_algorithm = 1;
        header.gd_offset = 1 + descriptor_size;
        header.over_head = (header.gd_offset + header.tables_with_directory()).next_multiple_of(header.grain_size);
        Ok(header)
    }

    /// The header of the same stream with its tables among the grains, and the directory behind them.
    pub(crate) fn with_directory_at_end(mut self) -> Self {
        self.gd_offset = GD_AT_END;
        self.over_head = (1 + self.descriptor_size).next_multiple_of(self.grain_size);
        self
    }

    /// Sectors of a directory and the tables right behind it.
    pub(crate) fn tables_with_directory(&self) -> u64 {
        directory_sectors(self.tables()) + self.tables() * self.sectors_per_table()
    }
}

/// What all have in common.
fn new(capacity: u64, grain_size: u64, descriptor_size: u64) -> Result<KdmvHeader> {
    if !grain_size.is_power_of_two() || !NEW_GRAIN_SECTORS.contains(&grain_size) {
        return refused(format!("a grain of {grain_size} sectors; it is 8, 16, 32, 64 or 128"));
    }
    // Other implementations count grains in 32 bits. The limit on tables is beyond that.
    let grains = capacity.div_ceil(grain_size);
    if capacity == 0 || grains > u32::MAX.into() {
        let most = u64::from(u32::MAX) * grain_size;
        return refused(format!(
            "an extent of {capacity} sectors; with grains of {grain_size} it has 1 to {most} sectors"
        ));
    }
    Ok(KdmvHeader {
        version: 1,
        flags: flag::NEWLINE_CHECK,
        capacity,
        grain_size,
        descriptor_offset: u64::from(descriptor_size > 0),
        descriptor_size,
        gtes_per_gt: NEW_GT_ENTRIES,
        rgd_offset: 0,
        gd_offset: 0,
        over_head: 0,
        unclean_shutdown: 0,
        newline_bytes: NEWLINE_BYTES,
        compress_algorithm: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_stream_in_a_file_begins_as_one_by_vmwares_library() {
        // Capacity, and where the first grain goes; the first is that of a disk made by that library.
        for (capacity, over_head) in [(20_480, 128), (1, 128), (26 * 65_536, 128), (27 * 65_536, 256)] {
            let header = KdmvHeader::of_new_stream(capacity, 20).unwrap();
            assert_eq!((header.gd_offset, header.over_head, header.rgd_offset), (21, over_head, 0), "{capacity}");
            assert_eq!((header.version, header.flags, header.compress_algorithm), (3, 0x30001, 1));
            header.check_readable(false).unwrap();
        }
    }

    #[test]
    fn a_stream_in_a_pipe_knows_nothing_of_its_directory() {
        let header = KdmvHeader::of_new_stream(1 << 32, 20).unwrap().with_directory_at_end();
        assert!(header.is_directory_at_end() && header.has_markers() && header.is_compressed());
        assert_eq!((header.over_head, header.rgd_offset, header.grain_size, header.gtes_per_gt), (128, 0, 128, 512));
        header.check_sizes().unwrap();
    }

    #[test]
    fn a_stream_has_as_many_grains_as_others_can_count() {
        let most = u64::from(u32::MAX) * 128;
        KdmvHeader::of_new_stream(most, 20).unwrap();
        for capacity in [0, most + 1, u64::MAX] {
            let error = KdmvHeader::of_new_stream(capacity, 20).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
}
