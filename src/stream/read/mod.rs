//! Reading a stream as it comes.
//!
//! ```text
//! header | descriptor | tables or zeros | grain, grain, table, grain, ... | directory | footer | end
//!          front: header and descriptor, what
//!          tables in front name              blocks: marker by marker -> reader: inflated, in file order
//!                                                                        -> copy: raw, a pipe, a device
//! ```
//!
//! The markers rule: a grain is where its marker says that it is. Tables are not followed, but what they name is
//! counted, since only so it shows that a stream was cut that has no mark at its end (QEMU writes none).

mod blocks;
mod copy;
mod front;
mod reader;
mod source;
mod tables;

pub(crate) use reader::check_no_delta;
pub use reader::{StreamGrain, StreamReader, StreamSummary};
