//! Streams (streamOptimized extents) from one end to the other, without seeking.
//!
//! ```text
//! read:   header | descriptor | tables or zeros | grain, grain, table, grain, ... | directory | footer | end
//!         front: header and descriptor, what
//!         tables in front name              blocks: marker by marker -> reader: inflated, in file order
//!                                                                       -> copy: raw, a pipe, a device
//!
//! write:  grains -> compressors -> blocks in the order of the grains -> tables and the places of blocks -> output
//!                   (threads)      (marker and data, whole sectors)    (layout)
//! ```
//!
//! In reading the markers rule: a grain is where its marker says that it is. Tables are not followed, but what they name
//! is counted, since only so it shows that a stream was cut that has no mark at its end (QEMU writes none).

mod blocks;
mod compressors;
mod copy;
mod fill;
mod front;
mod layout;
mod output;
mod reader;
mod source;
mod storage_output;
mod tables;
mod writer;

use crate::format::STREAM_GRAIN_SECTORS as GRAIN_SECTORS;

pub(crate) use reader::check_no_delta;
pub use reader::{StreamGrain, StreamReader, StreamSummary};
pub(crate) use storage_output::StorageOutput;
pub use writer::StreamWriter;

/// The bytes of a grain that is written.
const GRAIN_LEN: usize = 64 << 10;
