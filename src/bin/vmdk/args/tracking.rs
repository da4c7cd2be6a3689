//! Giving up the tracking of changes.

use std::path::PathBuf;

const JSON: &str = "\
Keys of the JSON object.
  path                 the image, as it was named
  changed              whether the disk was tracked
  file                 the change tracking file, as the descriptor had it; null if the disk was not tracked
  renamed_to           what that is called now; null if it was left as it is, or is not there
  left_because         why it was left as it is, or null";

/// Ends the tracking of a disk's changes (changeTrackPath), so that it can be written to
///
/// The next backup of the disk cannot be an incremental one. The change tracking file is not removed, but gets another
/// name, which ends in .dropped.
#[derive(Debug, clap::Args)]
#[command(after_help = JSON, after_long_help = JSON)]
pub(crate) struct UntrackArgs {
    /// The image
    pub(crate) image: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a write does to the tracking of the disk.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Opening the image")]
pub(crate) struct TrackingArgs {
    /// Write to a disk whose changes are tracked, and end that (see `vmdk untrack`)
    #[arg(long)]
    pub(crate) drop_change_tracking: bool,
}
