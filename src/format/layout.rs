//! What lookup needs to know of a sparse extent, whatever header it was read from.

use std::ops::Range;

use super::EntryFormat;

/// The numbers of a sparse extent that lookup works with, checked against each other and the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each says one thing that a header says")]
pub(crate) struct SparseLayout {
    /// Sectors of the extent, as its header has it; a descriptor may make less of it.
    pub(crate) sectors: u64,
    /// Sectors of a grain; a power of two.
    pub(crate) grain_sectors: u64,
    /// How entries are written.
    pub(crate) entries: EntryFormat,
    /// Entries of a grain table; a power of two.
    pub(crate) entries_per_table: u32,
    /// Sectors that a new table takes, which may be more than its entries need: other readers read all of them.
    pub(crate) table_sectors: u64,
    /// The grain directory in the file, in bytes: an entry for each table. It lies within the file.
    pub(crate) directory: Range<u64>,
    /// Whether that is the redundant one, because the place of the other is impossible.
    pub(crate) directory_is_redundant: bool,
    /// Where the redundant directory begins, in bytes, if there is one within the file.
    pub(crate) redundant: Option<u64>,
    /// Below this sector of the file no table can begin.
    pub(crate) first_table_sector: u64,
    /// The embedded descriptor in the file, in bytes; empty if there is none.
    pub(crate) descriptor: Range<u64>,
    /// Below this sector of the file there is metadata only.
    pub(crate) first_grain_sector: u64,
    /// Whether tables that stand among the grains have markers in front.
    pub(crate) has_markers: bool,
    /// Whether the last writer did not close the extent.
    pub(crate) unclean: bool,
    /// Whether the header announces redundant tables; where their directory cannot be, `redundant` is `None`.
    pub(crate) keeps_redundant: bool,
    /// Whether an entry of 1 may be written: a grain of zeros.
    pub(crate) zero_grains: bool,
    /// New grains begin at multiples of so many sectors of the file.
    pub(crate) grain_alignment: u64,
    /// What a writer keeps in the header.
    pub(crate) mark: HeaderMark,
}

/// What a writer keeps up to date in the header of a sparse extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderMark {
    /// The byte that is not 0 while the extent is open for writing, at this offset in bytes.
    Unclean { at: u64 },
    /// The sector from which on the file is free, at this offset in bytes, and what it was when the extent was opened.
    FreeSector { at: u64, value: u32 },
}

impl SparseLayout {
    /// Where that stands in the file, in bytes.
    pub(crate) fn mark_at(&self) -> u64 {
        match self.mark {
            HeaderMark::Unclean { at } | HeaderMark::FreeSector { at, .. } => at,
        }
    }

    /// Entries of the grain directory.
    pub(crate) fn tables(&self) -> u64 {
        (self.directory.end - self.directory.start) / self.entries.len() as u64
    }
}
