//! New images: empty ones, deltas, and copies of other disks.
//!
//! An image is there as a whole or not at all, whatever fails and whenever the power goes:
//!
//! ```text
//! options -> plan (names, descriptor, headers)  what cannot be is refused before anything is made
//!         -> draft: every file under a name of its own -> filled -> synced
//!         -> extents get their names -> directory synced -> the descriptor gets its name -> directory synced
//! ```

mod draft;
mod fill;
mod from_stream;
mod names;
mod new_files;
mod options;
mod place;
mod plan;

pub(crate) use draft::{Draft, write_blank};
pub(crate) use fill::{Content, Parents};
pub(crate) use names::{check_name, extent_name, further_name, renamed};
pub(crate) use new_files::{Kept, NewFiles, Terms};
pub use options::CreateOptions;
pub(crate) use place::Place;
pub(crate) use plan::{MAX_EXTENTS, Parent, Plan, SPLIT_SECTORS, new_disk_id};
