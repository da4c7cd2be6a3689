//! Bytes to structs: what the on-disk structures look like, and which numbers in them can be believed. No I/O here.

mod blank;
pub(crate) mod cowd;
pub(crate) mod ctk;
mod entries;
pub(crate) mod kdmv;
mod kind;
mod layout;
mod marker;
mod new_header;
pub(crate) mod sesparse;
mod sparse_header;

pub(crate) use blank::{Blank, BlankDirectory};
pub use cowd::CowdHeader;
pub use ctk::{ChangeTrackingField, ChangeTrackingHeader, FieldMeaning};
pub(crate) use entries::{EntryFormat, UNKNOWN, UNKNOWN_TABLE};
pub use kdmv::KdmvHeader;
pub(crate) use kind::FileKind;
pub(crate) use layout::{HeaderMark, SparseLayout};
pub(crate) use marker::{BlockSizes, GRAIN_MARKER_LEN, MARKER_LEN, Marker};
pub(crate) use new_header::{NEW_GT_ENTRIES, STREAM_GRAIN_SECTORS};
pub use sesparse::{SeSparseHeader, SeSparseRegion};
pub use sparse_header::SparseHeader;
