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
mod options;
mod place;
mod plan;

pub(crate) use draft::{Draft, Kept, write_blank};
pub(crate) use fill::{Content, Parents};
pub use options::CreateOptions;
pub(crate) use place::Place;
pub(crate) use plan::{MAX_EXTENTS, Parent, Plan, SPLIT_SECTORS, extent_name};
