//! `vmdk commit`.

use std::path::PathBuf;

use vmdk::OpenOptions;

use super::opening::{RelinkArgs, WrittenMapArgs};

const JSON: &str = "\
Keys of the JSON object. Sizes are numbers of bytes.
  path                 the image, as it was named
  base                 the file that it was merged into, the descriptor of that link
  merged_links         links that had something, and have nothing any more
  copied               bytes that were copied; of a run of links some count more than once
  zeroed               bytes that read as zeros now where they did not need to be copied
  resumed              whether this was the rest of a commit that had stopped on the way
  cid                  the new content ID of the last link into which something was merged, which is the base unless the
                       links right above it had nothing; null if there was nothing to merge";

/// Merges a delta into its parent, which reads as the delta does then
///
/// The delta stays, empty, and reads as before at every moment, also after a crash; the same command then goes on.
/// Every other delta of the parent is refused from then on: it would read a mixture of two disks. The delta can be
/// deleted when nothing is made of it. Nobody else may use the disk meanwhile.
///
/// The parent must be at least as large as the delta.
#[derive(Debug, clap::Args)]
#[command(after_help = JSON, after_long_help = JSON)]
pub(crate) struct CommitArgs {
    /// The delta
    pub(crate) image: PathBuf,
    /// Merge down to BASE, one of the parents, and everything between into it; the direct parent unless given
    #[arg(long, value_name = "BASE")]
    pub(crate) base: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    open: RelinkArgs,
    #[command(flatten)]
    written: WrittenMapArgs,
}

impl CommitArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        self.written.add_to(self.open.options())
    }
}
