//! `vmdk flatten`.

use std::path::PathBuf;

use super::opening::RelinkArgs;

const JSON: &str = "\
Keys of the JSON object. Sizes are numbers of bytes.
  path                 the image, as it was named
  copied               bytes that were copied from the parents
  old_parent_cid       the content ID of the parent that it had; null if it had none
  changed              whether the descriptor has changed; it has not if there was no parent";

/// Makes a delta independent: it takes in what it reads from its parents, and needs them no more
///
/// It reads as before at every moment, also after a crash; the same command then goes on. What is zero takes no space.
#[derive(Debug, clap::Args)]
#[command(after_help = JSON, after_long_help = JSON)]
pub(crate) struct FlattenArgs {
    /// The delta
    pub(crate) image: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) open: RelinkArgs,
}
