//! Cylinders, heads and sectors.

use std::fmt;

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
}
