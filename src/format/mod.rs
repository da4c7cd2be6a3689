//! Bytes to structs: what the on-disk structures look like, and which numbers in them can be believed. No I/O here.

pub(crate) mod kdmv;
mod kind;

pub use kdmv::KdmvHeader;
pub(crate) use kind::FileKind;
