//! `vmdk rebase`.

use std::path::PathBuf;

use super::opening::RelinkArgs;

const JSON: &str = "\
Keys of the JSON object. Sizes are numbers of bytes.
  path                 the image, as it was named
  parent               the file of its parent, as it was found; null for none
  parent_cid           the content ID by which it knows its parent now; null for none
  old_parent_cid       the one before
  copied, zeroed       bytes that were copied into the image, and that it hides with zeros now
  changed              whether the descriptor has changed
  unverified           whether nobody has looked if the image reads as before: --unsafe and --fix-cid";

/// Puts a disk over another parent, over which it reads as before
///
/// What the old parents have otherwise than the new ones is copied into the disk first. After a crash it has its old
/// parent or the new one, and reads as before over either; the same command then goes on.
///
/// With --unsafe and --fix-cid nothing is read: if the parent does not hold what it did when the disk was made, the
/// disk is a mixture of two from then on, and nothing will notice.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "every option is a switch of its own")]
#[command(after_help = JSON, after_long_help = JSON)]
pub(crate) struct RebaseArgs {
    /// The disk
    pub(crate) image: PathBuf,
    /// The new parent, named from here; the disk gets the way from its own directory
    #[arg(value_name = "NEW_PARENT", required_unless_present_any = ["no_parent", "fix_cid"], conflicts_with_all = ["no_parent", "fix_cid"])]
    pub(crate) new_parent: Option<PathBuf>,
    /// Put it over no parent: as `vmdk flatten`
    #[arg(long, conflicts_with_all = ["unchecked", "fix_cid"])]
    pub(crate) no_parent: bool,
    /// Change only the link: the new parent is the old one, which was moved or copied
    #[arg(long = "unsafe", id = "unchecked", conflicts_with = "fix_cid")]
    pub(crate) unchecked: bool,
    /// Take the parent that is found for the right one, although it was changed, as its content ID says
    #[arg(long)]
    pub(crate) fix_cid: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) open: RelinkArgs,
}
