//! What the command line may say.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use vmdk::OpenOptions;

use crate::size;

/// Looks at VMware virtual disks (VMDK), compares, copies and changes them
///
/// An image may name files anywhere on this host. Such a name is followed only inside the directory of the image that
/// has it, unless --allow-dir or --allow-any-path say more.
#[derive(Debug, Parser)]
#[command(version, after_help = "Exit codes: 0 success, 1 a difference or problem was found, 2 error")]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Info(InfoArgs),
    Map(MapArgs),
    Compare(CompareArgs),
    Convert(ConvertArgs),
    Read(ReadArgs),
    Write(WriteArgs),
    /// Makes bytes of the disk read as zeros, and gives back their space where it can
    Zero(ClearArgs),
    /// Says that sectors of the disk are no longer needed, so that their space may be given back
    ///
    /// They read as zeros or as before afterwards. OFFSET and LENGTH must be multiples of 512.
    Discard(ClearArgs),
}

/// Says what an image is made of, with its backing chain
///
/// An image whose parent is missing or does not fit is reported as well, with the reason.
#[derive(Debug, clap::Args)]
#[command(after_help = INFO_JSON, after_long_help = INFO_JSON)]
pub(crate) struct InfoArgs {
    /// The image: a descriptor, or an extent with a descriptor inside
    pub(crate) image: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

/// Says where the content of a disk lies, stretch by stretch, parents included
///
/// The text shows what has to be read; holes and zeros are left out. JSON shows everything.
#[derive(Debug, clap::Args)]
#[command(after_help = MAP_JSON, after_long_help = MAP_JSON)]
pub(crate) struct MapArgs {
    /// The image
    pub(crate) image: PathBuf,
    /// Print JSON instead of text, in the form of `qemu-img map --output=json`
    #[arg(long)]
    pub(crate) json: bool,
    /// Show only what links above BASE have, one of the parents of the image: what has changed since BASE
    #[arg(long, value_name = "BASE")]
    pub(crate) above: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

/// Compares the content of two disks, parents included
///
/// Exits with 0 if it is the same and with 1 if it differs, and says where the first difference is. If one disk is
/// larger, its rest must be zeros; the different size alone is reported, but is no difference.
///
/// Each of the two is a VMDK or a raw image, whichever its first bytes say. Those of a raw disk are written by its
/// guest, who can make it look like a VMDK: say --raw-a or --raw-b for a raw image from a stranger.
#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// One image
    #[arg(value_name = "A")]
    pub(crate) a: PathBuf,
    /// The other
    #[arg(value_name = "B")]
    pub(crate) b: PathBuf,
    /// Take A for a raw image, whatever it looks like
    #[arg(long)]
    pub(crate) raw_a: bool,
    /// Take B for a raw image, whatever it looks like
    #[arg(long)]
    pub(crate) raw_b: bool,
    /// Exit with 1 also if only the sizes differ
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) open: TrustArgs,
}

/// Copies the content of a disk, parents included
///
/// A file that exists is replaced when the copy is complete, and not before. A block device is written in place. What
/// has no data becomes a hole.
#[derive(Debug, clap::Args)]
pub(crate) struct ConvertArgs {
    /// The image to copy
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// The file or block device to write
    #[arg(value_name = "DST")]
    pub(crate) target: PathBuf,
    /// The format to write
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    pub(crate) to: Format,
    /// Wait until the copy is safe from a power failure
    #[arg(long)]
    pub(crate) sync: bool,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

/// Formats that can be written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    /// The bytes of the disk and nothing else
    Raw,
}

/// Writes bytes of the disk to standard output
///
/// OFFSET and LENGTH are bytes, decimal or 0x hexadecimal; the suffixes K, M, G and T multiply by powers of 1024.
#[derive(Debug, clap::Args)]
pub(crate) struct ReadArgs {
    /// The image to read
    pub(crate) image: PathBuf,
    /// The first byte
    #[arg(value_parser = size::parse)]
    pub(crate) offset: u64,
    /// How many bytes
    #[arg(value_parser = size::parse)]
    pub(crate) length: u64,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

/// Writes standard input into the disk, from a byte on
///
/// An input that is longer than what is left of the disk is an error: that of a file before anything is written, that
/// of a pipe when the disk is full. OFFSET is decimal or 0x hexadecimal; the suffixes K, M, G and T multiply by powers
/// of 1024.
#[derive(Debug, clap::Args)]
pub(crate) struct WriteArgs {
    /// The image to write to
    pub(crate) image: PathBuf,
    /// The first byte
    #[arg(value_parser = size::parse)]
    pub(crate) offset: u64,
    #[command(flatten)]
    pub(crate) open: OpenToWriteArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ClearArgs {
    /// The image to write to
    pub(crate) image: PathBuf,
    /// The first byte, decimal or 0x hexadecimal; the suffixes K, M, G and T multiply by powers of 1024
    #[arg(value_parser = size::parse)]
    pub(crate) offset: u64,
    /// How many bytes
    #[arg(value_parser = size::parse)]
    pub(crate) length: u64,
    #[command(flatten)]
    pub(crate) open: OpenToWriteArgs,
}

/// Where the names inside an image may lead, and which parents it may have.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct NameArgs {
    /// Follow names inside images into DIR as well (may be repeated)
    #[arg(long, value_name = "DIR")]
    allow_dir: Vec<PathBuf>,
    /// Follow names inside images to PATH, a block device or file (may be repeated)
    #[arg(long, value_name = "PATH")]
    allow_device: Vec<PathBuf>,
    /// Follow names inside images wherever they lead, but for devices: only for images you trust like a program
    #[arg(long)]
    allow_any_path: bool,
    /// Take a parent that was changed after its child was made: the disk may be a mixture of two
    #[arg(long)]
    ignore_cid_mismatch: bool,
}

/// How any image is opened for reading.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct TrustArgs {
    #[command(flatten)]
    names: NameArgs,
    /// Read the redundant grain tables where the primary ones cannot be used
    #[arg(long)]
    use_redundant_tables: bool,
    /// Read images that another program writes: what is read may be a mixture of old and new
    #[arg(short = 'U', long)]
    force_share: bool,
}

/// How the image is opened by a command that takes one.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct OpenArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Take FILE for the parent of the image, whatever the image says
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
}

impl NameArgs {
    fn options(&self) -> OpenOptions {
        let options =
            OpenOptions::new().allow_any_path(self.allow_any_path).ignore_cid_mismatch(self.ignore_cid_mismatch);
        let options = self.allow_dir.iter().fold(options, OpenOptions::allow_dir);
        self.allow_device.iter().fold(options, OpenOptions::allow_device)
    }
}

impl TrustArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        let options = self.names.options();
        options.use_redundant_tables(self.use_redundant_tables).force_share(self.force_share)
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
        let options = options.allow_bare_extent(self.allow_bare_extent);
        with_parent(options, self.parent.as_ref())
    }
}

fn with_parent(options: OpenOptions, parent: Option<&PathBuf>) -> OpenOptions {
    match parent {
        Some(parent) => options.parent(parent),
        None => options,
    }
}

const INFO_JSON: &str = "\
Keys of the JSON object. Sizes and offsets are numbers of bytes; what an image does not say is null.
  path                 the file that was opened
  create_type          type of the disk, as its descriptor calls it
  virtual_size         size of the disk
  allocated_size       what the files of the image take up on the host, parents not counted
  file_size            sum of the lengths of these files
  cid, parent_cid      content IDs, 8 hexadecimal digits; parent_cid is null without a parent
  long_content_id      the long content ID
  parent_hint          the name of the parent, as the descriptor has it
  geometry             cylinders, heads, sectors (per track); null, or from the youngest link that has one
  adapter_type         likewise
  hardware_version     likewise
  uuid                 likewise
  header               sparse header of the opened file, if it has one; its format is KDMV or COWD:
    format, version, flags, capacity, grain_size, gtes_per_gt, gd_offset, unclean_shutdown
    descriptor_offset, descriptor_size, rgd_offset, overhead, compress_algorithm (KDMV)
    gd_entries, free_offset, generation (COWD)
    (a number that is too large for bytes is null)
  extents              the extents, in their order:
    access, type         RW, RDONLY or NOACCESS; FLAT, SPARSE, ZERO, ...
    start, size          where on the disk it is
    name                 the name in the descriptor
    path, offset         the file that holds it, and where in a flat file it begins
    header               as above
  warnings             what is odd about the image
  chain                the links, the image itself first:
    path, create_type, cid, parent_cid, virtual_size, allocated_size, file_size, warnings
  chain_error          why the chain is broken, or null; then only the image itself stands in chain";

const MAP_JSON: &str = "\
The JSON is an array of objects, one for each stretch of the disk, without gaps. Keys, with numbers of bytes:
  start, length        the stretch
  depth                the link that answers for it: 0 is the image, 1 its parent, ...
  present              whether a link has it, be it as zeros; with --above, whether it has changed since BASE
  zero                 whether it reads as zeros
  data                 whether there is room for it in a file
  compressed           whether it lies there compressed
  offset               where it lies in its file; absent if it has no place";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn offsets_take_suffixes_and_everything_reaches_the_options() {
        let line = ["vmdk", "read", "a.vmdk", "0x10", "1K", "--allow-dir", "/d", "--allow-dir", "/e", "--parent", "p"];
        let Command::Read(args) = Args::try_parse_from(line).unwrap().command else { panic!("another command") };
        assert_eq!((args.offset, args.length), (16, 1024));
        assert_eq!(args.open.trust.names.allow_dir, [PathBuf::from("/d"), PathBuf::from("/e")]);
        assert!(format!("{:?}", args.open.options()).contains("Given(\"p\")"));
    }
}
