//! Checking and repairing.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::json::{CHECK_JSON, REPAIR_JSON};
use super::{OpenArgs, OpenToWriteArgs};

/// Looks at every structure of an image: descriptor, headers, grain tables and their copies, grains of streams
///
/// Exits with 0 if nothing but notes was found, and with 1 otherwise. Nothing is changed. The image is looked at alone,
/// without its parents, unless --chain says otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = CHECK_JSON, after_long_help = CHECK_JSON)]
pub(crate) struct CheckArgs {
    /// The image
    pub(crate) image: PathBuf,
    /// Look at the parents as well, and whether they fit
    #[arg(long)]
    pub(crate) chain: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// How many threads read tables, or inflate the grains of streams; as many as there are processors unless given
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) open: OpenArgs,
}

impl CheckArgs {
    /// How many threads read or inflate.
    pub(crate) fn threads(&self) -> usize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }
}

/// Puts an image right, as far as that needs no guess about data
///
/// What a guest can read stays what it is, unless --prefer-redundant asks for something else. What was there before
/// each change is kept in an undo file, IMAGE.undo unless --undo names another one or --no-undo says that there is to
/// be none; with --restore it takes everything back, unless something else was written there since. Exits with 0 if
/// nothing but notes is left, and with 1 if something is.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "every option is a switch of its own")]
#[command(after_help = REPAIR_JSON, after_long_help = REPAIR_JSON)]
pub(crate) struct RepairArgs {
    /// The image
    pub(crate) image: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Take what the redundant tables have, also where the primary ones can be right: the content of the disk may
    /// change
    #[arg(long)]
    pub(crate) prefer_redundant: bool,
    /// Give back the space that nothing names, in extents in which nothing is wrong any more; without it, it stays
    #[arg(long)]
    pub(crate) reclaim: bool,
    /// Keep what was there before in FILE, which must not exist
    #[arg(long, value_name = "FILE", conflicts_with = "no_undo")]
    undo: Option<PathBuf>,
    /// Keep nothing of what was there before
    #[arg(long)]
    no_undo: bool,
    /// Take back a repair, by its undo file, instead of making one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "prefer_redundant", "reclaim", "undo", "no_undo"])]
    pub(crate) restore: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) open: OpenToWriteArgs,
}

impl RepairArgs {
    /// Where the undo file goes, if there is to be one.
    pub(crate) fn undo(&self) -> Option<PathBuf> {
        if self.no_undo || self.dry_run {
            return None;
        }
        let beside = || {
            let mut name = self.image.clone().into_os_string();
            name.push(".undo");
            PathBuf::from(name)
        };
        Some(self.undo.clone().unwrap_or_else(beside))
    }
}
