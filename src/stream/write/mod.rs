//! Writing a stream from its beginning to its end.
//!
//! ```text
//! grains -> compressors -> blocks in the order of the grains -> tables and the places of blocks -> output
//!           (threads)      (marker and data, whole sectors)    (layout)
//! ```

mod compressors;
mod fill;
mod layout;
mod output;
mod storage;
mod writer;

use crate::format::STREAM_GRAIN_SECTORS as GRAIN_SECTORS;

pub(crate) use storage::StorageOutput;
pub use writer::StreamWriter;

/// The bytes of a grain.
const GRAIN_LEN: usize = 64 << 10;
