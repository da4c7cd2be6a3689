//! How images are opened.

use std::path::PathBuf;
use std::result::Result as StdResult;

use vmdk::{OpenOptions, VmdkImage};

use crate::failure::{Failure, Result};

/// Where the names inside an image may lead, and which parents it may have.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct NameArgs {
    /// Follow names inside images into DIR as well (may be repeated)
    #[arg(long, value_name = "DIR")]
    pub(super) allow_dir: Vec<PathBuf>,
    /// Follow names inside images to PATH, a block device or file (may be repeated)
    #[arg(long, value_name = "PATH")]
    allow_device: Vec<PathBuf>,
    /// Follow names inside images wherever they lead, but for devices: only for images you trust like a program
    #[arg(long)]
    allow_any_path: bool,
    /// Take PATH, a block device or file, for the raw device map (VMFSRDM, VMFSRAW) that a descriptor calls NAME, which
    /// ends at the first equals sign; it is only read (may be repeated)
    #[arg(long, value_name = "NAME=PATH", value_parser = extent_map)]
    map_extent: Vec<ExtentMap>,
    /// Take a parent that was changed after its child was made: the disk may be a mixture of two
    #[arg(long)]
    ignore_cid_mismatch: bool,
}

/// How any image is opened for reading.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "every option is a switch of its own")]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct TrustArgs {
    #[command(flatten)]
    pub(super) names: NameArgs,
    /// Read the redundant grain tables where the primary ones cannot be used
    #[arg(long)]
    use_redundant_tables: bool,
    /// Read images that another program writes: what is read may be a mixture of old and new
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Read what is there of a stream that was cut, or whose tables are damaged; what is missing reads as a hole
    #[arg(long)]
    salvage: bool,
    /// Read grains that are compressed without zlib's container
    #[arg(long)]
    allow_raw_deflate: bool,
    /// Read seSparse extents whose journal was not replayed: what was written last is missing or half there
    #[arg(long)]
    ignore_journal: bool,
}

/// How the image is opened by a command that takes one.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct OpenArgs {
    #[command(flatten)]
    pub(super) trust: TrustArgs,
    /// Take FILE for the parent of the image, whatever the image says
    #[arg(long, value_name = "FILE")]
    parent: Option<PathBuf>,
}

/// How an image is opened that becomes the parent of another.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct BelowArgs {
    #[command(flatten)]
    names: NameArgs,
    /// Take FILE for the parent of PARENT, whatever PARENT says
    #[arg(long, value_name = "FILE")]
    parent: Option<PathBuf>,
}

/// How an image is opened for writing.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct OpenToWriteArgs {
    #[command(flatten)]
    names: NameArgs,
    /// Take FILE for the parent of the image, whatever the image says
    #[arg(long, value_name = "FILE")]
    parent: Option<PathBuf>,
    /// Write the descriptor anew where the place of its content ID is too short for another one
    #[arg(long)]
    rewrite_descriptor: bool,
    /// Write to a sparse extent without its descriptor, which may be a part of a disk or a child of another one
    #[arg(long)]
    allow_bare_extent: bool,
    #[command(flatten)]
    written: WrittenMapArgs,
}

/// What a raw device map stands for where the image is written.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct WrittenMapArgs {
    /// As --map-extent, and write to PATH where the disk is written (may be repeated)
    #[arg(long, value_name = "NAME=PATH", value_parser = extent_map)]
    map_extent_to_write: Vec<ExtentMap>,
}

/// A raw device map and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ExtentMap {
    name: String,
    path: PathBuf,
}

fn extent_map(text: &str) -> StdResult<ExtentMap, String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok(ExtentMap { name: name.to_owned(), path: PathBuf::from(path) })
        }
        _ => Err("the name of an extent, an equals sign and a path, as in disk-rdm.vmdk=/dev/sdb".to_owned()),
    }
}

/// How an image is opened of which the link to its parent changes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct RelinkArgs {
    #[command(flatten)]
    names: NameArgs,
    /// Take FILE for the parent that the image has, whatever the image says
    #[arg(long, value_name = "FILE")]
    parent: Option<PathBuf>,
}

impl NameArgs {
    fn options(&self) -> OpenOptions {
        let options =
            OpenOptions::new().allow_any_path(self.allow_any_path).ignore_cid_mismatch(self.ignore_cid_mismatch);
        let options = self.allow_dir.iter().fold(options, OpenOptions::allow_dir);
        let options = self.allow_device.iter().fold(options, OpenOptions::allow_device);
        self.map_extent.iter().fold(options, |options, map| options.map_extent(&map.name, &map.path))
    }

    /// Refuses names of raw device maps that none of these images has, all of which were opened with
    /// [`OpenOptions::allow_unused_maps`].
    fn check_maps(&self, images: &[&VmdkImage]) -> Result<()> {
        let unused = self.map_extent.iter().find(|map| !images.iter().any(|image| has_raw_map(image, &map.name)));
        let Some(map) = unused else { return Ok(()) };
        let text = format!("the extent {:?} was mapped, but there is no raw device map of this name", map.name);
        Err(Failure::Refused(text))
    }
}

fn has_raw_map(image: &VmdkImage, name: &str) -> bool {
    image.chain().iter().any(|link| {
        let descriptor = link.descriptor();
        let mut maps = descriptor.extents().iter().filter(|line| descriptor.is_raw_map(line));
        maps.any(|line| line.name().and_then(|raw| descriptor.decode_name(raw).ok()).as_deref() == Some(name))
    })
}

impl WrittenMapArgs {
    pub(super) fn add_to(&self, options: OpenOptions) -> OpenOptions {
        let maps = self.map_extent_to_write.iter();
        maps.fold(options, |options, map| options.map_extent_to_write(&map.name, &map.path))
    }
}

impl TrustArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        let options = self.names.options();
        let options = options.use_redundant_tables(self.use_redundant_tables).force_share(self.force_share);
        let options = options.salvage(self.salvage).allow_raw_deflate(self.allow_raw_deflate);
        options.ignore_journal(self.ignore_journal)
    }

    /// Whether what is missing of a stream is no error.
    pub(crate) fn salvage(&self) -> bool {
        self.salvage
    }

    /// Whether grains are read that have no container.
    pub(crate) fn allow_raw_deflate(&self) -> bool {
        self.allow_raw_deflate
    }

    /// How a disk is opened that is to stay as it is.
    pub(crate) fn parent_options(&self) -> OpenOptions {
        self.names.options()
    }

    /// As [`options`](Self::options), for one of several images, of which another may have the raw device maps.
    pub(crate) fn options_of_one(&self) -> OpenOptions {
        self.options().allow_unused_maps(true)
    }

    /// Refuses names of raw device maps that none of these images has.
    pub(crate) fn check_maps(&self, images: &[&VmdkImage]) -> Result<()> {
        self.names.check_maps(images)
    }

    /// Whether images are read that another program writes.
    pub(crate) fn force_share(&self) -> bool {
        self.force_share
    }
}

impl BelowArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        with_parent(self.names.options(), self.parent.as_ref())
    }
}

impl RelinkArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        with_parent(self.names.options(), self.parent.as_ref())
    }
}

impl OpenArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        with_parent(self.trust.options(), self.parent.as_ref())
    }
}

impl OpenToWriteArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        let options = self.names.options().write(true).rewrite_descriptor(self.rewrite_descriptor);
        let options = self.written.add_to(options.allow_bare_extent(self.allow_bare_extent));
        with_parent(options, self.parent.as_ref())
    }
}

fn with_parent(options: OpenOptions, parent: Option<&PathBuf>) -> OpenOptions {
    match parent {
        Some(parent) => options.parent(parent),
        None => options,
    }
}
