//! Streams (streamOptimized extents) from one end to the other, without seeking.

mod read;
mod write;

pub(crate) use read::check_no_delta;
pub use read::{StreamGrain, StreamReader, StreamSummary};
pub(crate) use write::StorageOutput;
pub use write::StreamWriter;
