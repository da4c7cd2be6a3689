//! What an [`Audit`](super::Audit) may find.

use crate::error::{Error, Result};

/// Who is told what an audit finds.
pub(crate) trait Observer {
    /// Something was found. An error ends the audit.
    fn found(&mut self, problem: Problem) -> Result<()>;

    /// So many more tables were looked at, or passed over.
    fn looked(&mut self, tables: u64) -> Result<()> {
        let _ = tables;
        Ok(())
    }
}

/// Which of the two copies of directory and tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Primary,
    Redundant,
}

impl Side {
    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Primary => Self::Redundant,
            Self::Redundant => Self::Primary,
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Primary => 0,
            Self::Redundant => 1,
        }
    }
}

/// A part of an extent that is there once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Region {
    Header,
    Descriptor,
    Directory,
    RedundantDirectory,
}

/// An entry of a grain table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) side: Side,
    pub(crate) table: u32,
    /// Its number in the table.
    pub(crate) number: u64,
    pub(crate) value: u32,
}

/// Why an entry that names a grain cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadEntry {
    /// The grain lies in front of all grains.
    InMetadata,
    /// The grain begins past the end of the file.
    PastEnd,
    /// Another grain has this sector of it, or a table or region has.
    Taken { sector: u64, by_metadata: bool },
}

/// Something that cannot be right, or is odd.
#[derive(Debug)]
pub(crate) enum Problem {
    /// A region overlaps another one; this sector of the file is in both.
    Region { region: Region, sector: u64 },
    /// A directory has an impossible place for a table. Of a primary one the copy may be there.
    Place { side: Side, table: u32, error: Error, has_copy: bool },
    /// A table overlaps something else; this sector of the file is in both.
    Overlap { side: Side, table: u32, sector: u64 },
    /// Both directories name one table.
    SameTable { table: u32 },
    /// Only the redundant directory has the table.
    LoneCopy { table: u32 },
    /// Only the primary directory has the table.
    NoCopy { table: u32 },
    /// An entry that cannot be right, and what the copy has instead, if that differs.
    BadEntry { entry: Entry, problem: BadEntry, copy: Option<u32> },
    /// An entry that can be right, and a copy that differs.
    CopyDiffers { entry: Entry, copy: u32 },
    /// A copy that differs names a grain where a table is, or another part of the metadata: one of the two is no table.
    CopyInMetadata { entry: Entry, copy: u32, sector: u64 },
    /// A grain that does not begin at a multiple of its size.
    OutOfLine(Entry),
    /// An entry of 1 in an extent that does not announce zero grains.
    One(Entry),
    /// Entries past the capacity that are not 0. If they may be grains, it is the capacity that is wrong, perhaps.
    PastCapacity { side: Side, table: u32, may_be_grains: bool },
}
