//! What the command line may say.

mod commit;
mod compact;
mod flatten;
mod health;
mod json;
mod making;
mod opening;
mod rebase;
mod rename;
mod resize;
mod tracking;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use vmdk::{CreateType, OpenOptions};

pub(crate) use self::commit::CommitArgs;
pub(crate) use self::compact::CompactArgs;
pub(crate) use self::flatten::FlattenArgs;
pub(crate) use self::health::{CheckArgs, RepairArgs};
use self::json::{INFO_JSON, MAP_JSON};
pub(crate) use self::making::{ChildArgs, DiskArgs, Format, NewArgs, StreamArgs};
use self::making::{formats, types, types_of_deltas};
pub(crate) use self::opening::{BelowArgs, OpenArgs, OpenToWriteArgs, TrustArgs};
pub(crate) use self::rebase::RebaseArgs;
pub(crate) use self::rename::{CopyArgs, RenameArgs};
pub(crate) use self::resize::ResizeArgs;
pub(crate) use self::tracking::{TrackingArgs, UntrackArgs};
use crate::size;

/// Makes VMware virtual disks (VMDK), looks at them, compares, copies and changes them
///
/// An image may name files anywhere on this host. Such a name is followed only inside the directory of the image that
/// has it, unless --allow-dir or --allow-any-path say more.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 success, 1 a difference or problem was found, 2 error, 130 stopped by Ctrl-C"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Info(InfoArgs),
    Map(MapArgs),
    Compare(CompareArgs),
    Check(CheckArgs),
    Repair(RepairArgs),
    Create(CreateArgs),
    Snapshot(SnapshotArgs),
    Convert(ConvertArgs),
    Compact(CompactArgs),
    Resize(ResizeArgs),
    Read(ReadArgs),
    Write(WriteArgs),
    /// Makes bytes of the disk read as zeros, and gives back their space where it can
    Zero(ClearArgs),
    /// Says that sectors of the disk are no longer needed, so that their space may be given back
    ///
    /// They read as zeros or as before afterwards. OFFSET and LENGTH must be multiples of 512.
    Discard(ClearArgs),
    Rename(RenameArgs),
    Copy(CopyArgs),
    Commit(CommitArgs),
    Flatten(FlattenArgs),
    Rebase(RebaseArgs),
    Untrack(UntrackArgs),
}

/// Says what an image is made of, with its backing chain
///
/// An image whose parent is missing or does not fit is reported as well, with the reason.
#[derive(Debug, clap::Args)]
#[command(after_help = INFO_JSON, after_long_help = INFO_JSON)]
pub(crate) struct InfoArgs {
    /// The image: a descriptor, or an extent with a descriptor inside; an appliance (.ova), or APPLIANCE:MEMBER
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

/// Makes an empty disk
///
/// It is there as a whole, and durable, when this returns, or not at all. A file that exists is not replaced unless
/// --replace says so.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// The file with the descriptor; other files are named after it
    pub(crate) path: PathBuf,
    /// The size in bytes, a multiple of 512; the suffixes K, M, G and T multiply by powers of 1024
    #[arg(long, value_parser = size::parse)]
    pub(crate) size: u64,
    /// The type of the disk
    #[arg(long = "type", value_name = "TYPE", value_parser = types(), ignore_case = true, default_value = "monolithicSparse")]
    pub(crate) create_type: CreateType,
    #[command(flatten)]
    pub(crate) disk: DiskArgs,
    #[command(flatten)]
    pub(crate) new: NewArgs,
}

/// Makes a delta of a disk: what is written to it leaves the disk below as it is
///
/// The disk below must not be written to any more. Its name is kept relative to the delta's directory.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotArgs {
    /// The disk below, of any type
    #[arg(value_name = "PARENT")]
    pub(crate) below: PathBuf,
    /// The file with the descriptor of the delta
    pub(crate) child: PathBuf,
    /// The type of the delta; unless given it goes with that of the disk below
    #[arg(long = "type", value_name = "TYPE", value_parser = types_of_deltas(), ignore_case = true)]
    pub(crate) create_type: Option<CreateType>,
    #[command(flatten)]
    pub(crate) new: NewArgs,
    #[command(flatten)]
    pub(crate) open: BelowArgs,
}

/// Copies the content of a disk, parents included, to a raw file or a new disk
///
/// The copy is there as a whole or not at all. A raw file that exists is replaced when the copy is complete, and not
/// before; files of a disk that exist are replaced only with --replace. A block device is written in place. What has no
/// data takes no space. A new disk keeps adapter type, hardware version, geometry and identity of the old one.
///
/// For a new disk, SRC is a VMDK or a raw image, whichever its first bytes say. Those of a raw disk are written by its
/// guest, who can make it look like a VMDK: say --raw for a raw image from a stranger.
///
/// SRC may also be a member of an appliance (`appliance.ova:disk1.vmdk`), the first chunk of a disk in chunks
/// (`disk.vmdk.000000000`), `-` for a stream (streamOptimized) on standard input, or `-:disk1.vmdk` for such a
/// member of an appliance on standard input.
#[derive(Debug, clap::Args)]
pub(crate) struct ConvertArgs {
    /// The image to copy
    #[arg(value_name = "SRC", allow_hyphen_values = true, value_parser = source)]
    pub(crate) source: PathBuf,
    /// The file or block device to write; `-` for standard output, to which raw bytes and streamOptimized are written
    #[arg(value_name = "DST")]
    pub(crate) target: PathBuf,
    /// The format to write
    #[arg(long, value_name = "TYPE", value_parser = formats(), ignore_case = true, default_value = "raw")]
    pub(crate) to: Format,
    /// Take SRC for a raw image, whatever it looks like
    #[arg(long)]
    pub(crate) raw: bool,
    /// Wait until the copy is safe from a power failure
    #[arg(long)]
    pub(crate) sync: bool,
    /// How many threads inflate and compress; as many as there are processors unless given
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) child: ChildArgs,
    #[command(flatten)]
    pub(crate) disk: DiskArgs,
    #[command(flatten)]
    pub(crate) new: NewArgs,
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// Take FILE for the parent of SRC, whatever SRC says
    #[arg(long, value_name = "FILE", help_heading = "Opening the image")]
    pub(crate) source_parent: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) open: TrustArgs,
}

impl ConvertArgs {
    /// How many threads inflate and compress.
    pub(crate) fn threads(&self) -> usize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }
}

/// A file, or what begins with a dash and stands for standard input; anything else with a dash is an option that nobody
/// knows.
fn source(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('-') && text != "-" && !text.starts_with("-:") {
        return Err(format!("neither an option nor a source; a file of this name is ./{text}"));
    }
    Ok(PathBuf::from(text))
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
    open: OpenToWriteArgs,
    #[command(flatten)]
    tracking: TrackingArgs,
}

impl WriteArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        self.open.options().drop_change_tracking(self.tracking.drop_change_tracking)
    }
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
    open: OpenToWriteArgs,
    #[command(flatten)]
    tracking: TrackingArgs,
}

impl ClearArgs {
    pub(crate) fn options(&self) -> OpenOptions {
        self.open.options().drop_change_tracking(self.tracking.drop_change_tracking)
    }
}

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
