//! What `vmdk rename` and `vmdk copy` take.

use std::path::PathBuf;

use vmdk::OpenOptions;

use super::json::{COPY_JSON, RENAME_JSON};
use super::{OpenArgs, OpenToWriteArgs};

/// Gives a disk another name, with all its files and what they say of each other
///
/// The file with the descriptor, and the files of extents that lie beside it and take writes, are named after NEW; the
/// descriptor names them, and its parent by the way from its new directory. Nothing is copied: NEW must be on the same
/// file system. At every moment the disk is there by its old name or by the new one; if this was cut short, the same
/// command takes it to its end.
#[derive(Debug, clap::Args)]
#[command(after_help = RENAME_JSON, after_long_help = RENAME_JSON)]
pub(crate) struct RenameArgs {
    /// The disk: the file with its descriptor
    pub(crate) old: PathBuf,
    /// What that file is to be called, there or in another directory
    pub(crate) new: PathBuf,
    /// Let FILE, a child of the disk, find it by its new name (may be repeated); other children look for the old one
    #[arg(long = "child", value_name = "FILE")]
    pub(crate) children: Vec<PathBuf>,
    /// Replace files that have the new names
    #[arg(long)]
    pub(crate) replace: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Take the way to the parent as the disk has it, without looking for the parent
    #[arg(long, conflicts_with = "parent", help_heading = "Opening the image")]
    no_parent: bool,
    #[command(flatten)]
    open: OpenToWriteArgs,
}

/// Copies a disk as it is: the same type, the same files, byte for byte, without its parents
///
/// The bytes move in the kernel, holes stay holes, and what the file system can share is shared. The files of the copy
/// are named after NEW, and its descriptor names them, and the same parent. It is there as a whole or not at all, and
/// has the content ID of the disk: children of one may be attached to the other as long as neither was written to.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "every option is a switch of its own")]
#[command(after_help = COPY_JSON, after_long_help = COPY_JSON)]
pub(crate) struct CopyArgs {
    /// The disk: the file with its descriptor
    pub(crate) old: PathBuf,
    /// The file with the descriptor of the copy
    pub(crate) new: PathBuf,
    /// Replace files that have the new names, when the copy is complete
    #[arg(long)]
    pub(crate) replace: bool,
    /// Give the copy an identity of its own (ddb.uuid)
    #[arg(long)]
    pub(crate) new_uuid: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Take the way to the parent as the disk has it, without looking for the parent
    #[arg(long, conflicts_with = "parent", help_heading = "Opening the image")]
    no_parent: bool,
    #[command(flatten)]
    open: OpenArgs,
}

impl RenameArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        self.open.options().no_parent(self.no_parent)
    }
}

impl CopyArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        self.open.options().no_parent(self.no_parent)
    }
}
