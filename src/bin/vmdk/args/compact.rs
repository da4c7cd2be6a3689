//! What `vmdk compact` may be told.

use std::path::PathBuf;

use super::OpenToWriteArgs;

const JSON: &str = "\
Keys of the JSON object, with numbers of bytes unless they are said to be grains:
  allocated_before     what the files of the disk took up on the host, parents not counted
  allocated_after      what they take up now
  length_before        the sum of the lengths of these files
  length_after         the same now
  grains_unallocated   grains that are unallocated now: what is below reads the same
  grains_zeroed        grains of zeros that have an entry for that now
  grains_punched       grains of zeros that keep their entry and are holes now
  grains_moved         grains that have another place in their file now
  flat_bytes_punched   zeros in flat files that are holes now";

/// Makes a disk take less space on this host; what it holds stays the same
///
/// Grains that hold zeros, or what the parent holds, are given up, and what nothing in a file names becomes holes. The
/// content ID stays, so that deltas of the disk fit as before. Whenever it is stopped the disk can be used as it is,
/// and compacted again.
#[derive(Debug, clap::Args)]
#[command(after_help = JSON, after_long_help = JSON)]
pub(crate) struct CompactArgs {
    /// The disk
    pub(crate) image: PathBuf,
    /// Move grains from the end of sparse files into what is free in front of them, so that the files become shorter:
    /// for hosts and copies that keep no holes
    #[arg(long = "move")]
    pub(crate) moves: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) open: OpenToWriteArgs,
}
