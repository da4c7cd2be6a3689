//! Cylinders, heads and sectors.

use std::fmt;

use super::AdapterType;

/// The most cylinders of an IDE disk: 14 bits in the identification of ATA, of which 16383 means "or more".
const MAX_IDE_CYLINDERS: u32 = 16_383;

/// Sectors of 1 GiB.
const GIB: u64 = 2 << 20;

/// A disk geometry as the disk database records it (`ddb.geometry.*`).
///
/// It is advice for a BIOS: the capacity of a disk comes from its extents, and real files have geometries that are
/// smaller, larger, or of zero cylinders (seen in QEMU's files).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Geometry {
    /// Number of cylinders.
    pub cylinders: u32,
    /// Tracks per cylinder.
    pub heads: u32,
    /// Sectors per track.
    pub sectors: u32,
}

impl Geometry {
    /// The geometry of these three numbers.
    pub const fn new(cylinders: u32, heads: u32, sectors: u32) -> Self {
        Self { cylinders, heads, sectors }
    }

    /// The geometry that VMware gives to a disk of `capacity` sectors on such a controller: 16 heads and 63 sectors for
    /// IDE, and no more than 16383 cylinders; for the others, which are SCSI, 64 and 32 up to 1 GiB, 128 and 32 up to
    /// 2 GiB, and 255 and 63 beyond (Ken Kato's description; disks made by VMware's products). At least one cylinder.
    pub fn of_disk(adapter: &AdapterType, capacity: u64) -> Self {
        let (heads, sectors, most) = match adapter {
            AdapterType::Ide => (16, 63, MAX_IDE_CYLINDERS),
            _ if capacity <= GIB => (64, 32, u32::MAX),
            _ if capacity <= 2 * GIB => (128, 32, u32::MAX),
            _ => (255, 63, u32::MAX),
        };
        let cylinders = u32::try_from(capacity / u64::from(heads * sectors)).unwrap_or(u32::MAX);
        Self { cylinders: cylinders.clamp(1, most), heads, sectors }
    }
}

/// As in `5221/255/63`.
impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cylinders, self.heads, self.sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_notation_is_written() {
        assert_eq!(Geometry::new(5221, 255, 63).to_string(), "5221/255/63");
    }

    #[test]
    fn a_disk_has_the_geometry_that_vmware_gives_it() {
        let (ide, scsi) = (AdapterType::Ide, AdapterType::LsiLogic);
        let rows = [
            // Disks made by VMware: 512 MiB, 5 GiB (technical note), 10 GiB, about 60 GiB, 2 MiB.
            (&ide, 1_048_576, "1040/16/63"),
            (&ide, 10_485_760, "10402/16/63"),
            (&scsi, 20_971_520, "1305/255/63"),
            (&scsi, 125_829_120, "7832/255/63"),
            (&scsi, 4096, "2/64/32"),
            // The steps, and the ends.
            (&ide, 1, "1/16/63"),
            (&ide, 1 << 40, "16383/16/63"),
            (&scsi, GIB, "1024/64/32"),
            (&scsi, GIB + 1, "512/128/32"),
            (&scsi, 2 * GIB, "1024/128/32"),
            (&scsi, 2 * GIB + 1, "261/255/63"),
            (&scsi, u64::MAX, "4294967295/255/63"),
            (&AdapterType::LegacyEsx, 1, "1/64/32"),
        ];
        for (adapter, capacity, expected) in rows {
            assert_eq!(Geometry::of_disk(adapter, capacity).to_string(), expected, "{adapter} {capacity}");
        }
    }
}
