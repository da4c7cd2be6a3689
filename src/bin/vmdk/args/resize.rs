//! What `vmdk resize` may be told.

use std::path::PathBuf;

use super::OpenToWriteArgs;
use crate::size;

const JSON: &str = "\
Keys of the JSON object, with numbers of bytes:
  old_size             the size of the disk before
  new_size             its size now
  grains_moved         how many grains were moved to make room for larger tables
  files_added          the names of the files that the disk has got for new extents
  files_removed        the names of the files that it has lost with its last extents";

/// Gives a disk another size
///
/// What comes reads as zeros. Partitions and file systems are the guest's affair. Deltas of the disk fit no more, as
/// after any write; if its size is all that has changed, `vmdk rebase --fix-cid DELTA` lets one fit again. Whenever it is
/// stopped the disk has its old size or the new one, and the same command again goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = JSON, after_long_help = JSON)]
pub(crate) struct ResizeArgs {
    /// The disk
    pub(crate) image: PathBuf,
    /// The size in bytes, a multiple of 512; the suffixes K, M, G and T multiply by powers of 1024
    #[arg(value_parser = size::parse)]
    pub(crate) size: u64,
    /// Let the disk become smaller, if what it loses reads as zeros
    #[arg(long)]
    pub(crate) shrink: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) open: OpenToWriteArgs,
}
