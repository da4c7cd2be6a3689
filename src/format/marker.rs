//! The blocks of a stream: what stands in front of each, and how far it reaches.
//!
//! ```text
//! grain     lba u64 | bytes u32 > 0 | compressed data, right behind, up to a whole sector
//! metadata  sectors u64 | 0 u32 | kind u32 | zeros up to a sector | as many sectors as it says
//! ```
//!
//! Source: VMware's technical note "Virtual Disk Format 5.0"; the fourth kind is of open-vmdk and vSphere's exports.

use byteorder::{ByteOrder, LittleEndian};

use super::KdmvHeader;
use crate::error::Result;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE};

/// Bytes in front of the data of a grain.
pub(crate) const GRAIN_MARKER_LEN: usize = 12;

/// Bytes that tell what a block is.
pub(crate) const MARKER_LEN: usize = 16;

mod at {
    pub(super) const SIZE: usize = 8;
    pub(super) const KIND: usize = 12;
}

mod kind {
    pub(super) const END: u32 = 0;
    pub(super) const TABLE: u32 = 1;
    pub(super) const DIRECTORY: u32 = 2;
    pub(super) const FOOTER: u32 = 3;
    pub(super) const PROGRESS: u32 = 4;
}

/// What a block is, as its marker has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// A grain that begins at the sector `lba` of the disk, in `size` bytes right behind these numbers.
    Grain { lba: u64, size: u32 },
    /// A grain table of so many sectors.
    Table { sectors: u64 },
    /// The grain directory, likewise.
    Directory { sectors: u64 },
    /// The header once more, with the place of the directory.
    Footer { sectors: u64 },
    /// Something that a writer leaves to say how far it is. It has nothing behind it.
    Progress,
    /// The end of the stream.
    End,
    /// A kind that nobody knows.
    Unknown { kind: u32, sectors: u64 },
}

impl Marker {
    pub(crate) fn decode(bytes: &[u8; MARKER_LEN]) -> Self {
        let value = LittleEndian::read_u64(bytes);
        let size = LittleEndian::read_u32(&bytes[at::SIZE..]);
        if size > 0 {
            return Self::Grain { lba: value, size };
        }
        match LittleEndian::read_u32(&bytes[at::KIND..]) {
            kind::END if value == 0 => Self::End,
            kind::TABLE => Self::Table { sectors: value },
            kind::DIRECTORY => Self::Directory { sectors: value },
            kind::FOOTER => Self::Footer { sectors: value },
            kind::PROGRESS => Self::Progress,
            kind => Self::Unknown { kind, sectors: value },
        }
    }

    /// The numbers in front of the data of a grain.
    pub(crate) fn encode_grain(lba: u64, size: u32) -> [u8; GRAIN_MARKER_LEN] {
        let mut bytes = [0; GRAIN_MARKER_LEN];
        LittleEndian::write_u64(&mut bytes, lba);
        LittleEndian::write_u32(&mut bytes[at::SIZE..], size);
        bytes
    }

    /// The sector in front of a block that is no grain.
    pub(crate) fn encode_metadata(self) -> [u8; SECTOR_SIZE] {
        let (value, kind) = match self {
            Self::Table { sectors } => (sectors, kind::TABLE),
            Self::Directory { sectors } => (sectors, kind::DIRECTORY),
            Self::Footer { sectors } => (sectors, kind::FOOTER),
            Self::Progress => (0, kind::PROGRESS),
            Self::Grain { .. } | Self::End => (0, kind::END),
            Self::Unknown { kind, sectors } => (sectors, kind),
        };
        let mut sector = [0; SECTOR_SIZE];
        LittleEndian::write_u64(&mut sector, value);
        LittleEndian::write_u32(&mut sector[at::KIND..], kind);
        sector
    }
}

/// How long the blocks of a stream can be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockSizes {
    capacity: u64,
    grain_sectors: u64,
    table_sectors: u64,
    directory_sectors: u64,
}

/// What is wrong with a marker: the field, its value, and why that cannot be.
pub(crate) type BadMarker = (&'static str, u64, &'static str);

impl BlockSizes {
    /// Those of an extent with this header.
    ///
    /// # Errors
    /// `Corrupt` and `Unsupported` for a size that cannot be.
    pub(crate) fn of(header: &KdmvHeader) -> Result<Self> {
        header.check_sizes()?;
        Ok(Self {
            capacity: header.capacity,
            grain_sectors: header.grain_size,
            table_sectors: header.sectors_per_table(),
            directory_sectors: header.directory_sectors(),
        })
    }

    /// Sectors from the beginning of a block to its end, marker included. What lies behind the end of the stream
    /// is nobody's business: a writer may have left anything there.
    ///
    /// # Errors
    /// For a number that cannot be right.
    pub(crate) fn sectors_of(&self, marker: Marker) -> Result<u64, BadMarker> {
        let fixed = |name, sectors, expected| {
            let is_right = sectors == expected;
            is_right.then_some(1 + expected).ok_or((name, sectors, "another number of sectors than such a block has"))
        };
        match marker {
            Marker::Grain { lba, size } => {
                self.check_lba(lba)?;
                self.check_size(size)?;
                Ok((GRAIN_MARKER_LEN as u64 + u64::from(size)).div_ceil(SECTOR_BYTES))
            }
            Marker::Table { sectors } => fixed("size of a grain table", sectors, self.table_sectors),
            Marker::Directory { sectors } => fixed("size of a grain directory", sectors, self.directory_sectors),
            Marker::Footer { sectors } => fixed("size of a footer", sectors, 1),
            Marker::Progress | Marker::End => Ok(1),
            Marker::Unknown { kind: kind::END, sectors } => Err(("end of the stream", sectors, "an end with a size")),
            Marker::Unknown { sectors, .. } if sectors > u32::MAX.into() => {
                Err(("size of an unknown block", sectors, "no file has so many sectors behind a marker"))
            }
            Marker::Unknown { sectors, .. } => Ok(1 + sectors),
        }
    }

    fn check_lba(&self, lba: u64) -> Result<(), BadMarker> {
        if lba >= self.capacity {
            return Err(("lba", lba, "the grain lies past the end of the disk"));
        }
        if !lba.is_multiple_of(self.grain_sectors) {
            return Err(("lba", lba, "not the first sector of a grain"));
        }
        Ok(())
    }

    /// Compressed data may be larger than what it holds, but not by much: twice as large is the limit that others
    /// have, too.
    pub(crate) fn check_size(&self, size: u32) -> Result<(), BadMarker> {
        if size == 0 {
            return Err(("size", 0, "a grain without data"));
        }
        if u64::from(size) > 2 * self.grain_sectors * SECTOR_BYTES {
            return Err(("size", size.into(), "more than twice of what a grain holds"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> BlockSizes {
        BlockSizes { capacity: 1000, grain_sectors: 128, table_sectors: 4, directory_sectors: 1 }
    }

    fn decoded(value: u64, size: u32, kind: u32) -> Marker {
        let mut bytes = [0; MARKER_LEN];
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        bytes[8..12].copy_from_slice(&size.to_le_bytes());
        bytes[12..].copy_from_slice(&kind.to_le_bytes());
        Marker::decode(&bytes)
    }

    /// Value, size, kind, and what that is; as in the files of the format's description.
    #[test]
    fn a_marker_is_read_by_its_size_and_its_kind() {
        let rows = [
            (256, 85, 0x81c1_ed9c, Marker::Grain { lba: 256, size: 85 }, Ok(1)),
            (0, 65_562, 0, Marker::Grain { lba: 0, size: 65_562 }, Ok(129)),
            (0, 500, 0, Marker::Grain { lba: 0, size: 500 }, Ok(1)),
            (0, 501, 0, Marker::Grain { lba: 0, size: 501 }, Ok(2)),
            (4, 0, 1, Marker::Table { sectors: 4 }, Ok(5)),
            (1, 0, 2, Marker::Directory { sectors: 1 }, Ok(2)),
            (1, 0, 3, Marker::Footer { sectors: 1 }, Ok(2)),
            (77, 0, 4, Marker::Progress, Ok(1)),
            (0, 0, 0, Marker::End, Ok(1)),
            (3, 0, 9, Marker::Unknown { kind: 9, sectors: 3 }, Ok(4)),
        ];
        for (value, size, kind, marker, sectors) in rows {
            assert_eq!(decoded(value, size, kind), marker);
            assert_eq!(sizes().sectors_of(marker), sectors, "{marker:?}");
            if let Marker::Grain { lba, size } = marker {
                assert_eq!(Marker::encode_grain(lba, size), *[&lba.to_le_bytes()[..], &size.to_le_bytes()].concat());
            } else if marker != Marker::Progress {
                assert_eq!(Marker::decode(marker.encode_metadata().first_chunk().unwrap()), marker);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (value, size, kind, field) in [
            (0, u32::MAX, 0, "size"),
            (0, 2 * 65_536 + 1, 0, "size"),
            (1024, 9, 0, "lba"),
            (u64::MAX, 9, 0, "lba"),
            (64, 9, 0, "lba"),
            (5, 0, 1, "size of a grain table"),
            (u64::MAX, 0, 2, "size of a grain directory"),
            (0, 0, 3, "size of a footer"),
            (1, 0, 0, "end of the stream"),
            (u64::MAX, 0, 5, "size of an unknown block"),
        ] {
            let (name, ..) = sizes().sectors_of(decoded(value, size, kind)).unwrap_err();
            assert_eq!(name, field);
        }
        assert!(sizes().check_size(0).is_err());
    }
}
