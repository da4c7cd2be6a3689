//! A device to where nothing can be taken back: a pipe, a socket.

use std::io::{self, Write};
use std::ops::ControlFlow;

use crate::block_device::BlockDevice;
use crate::error::{Error, Result};
use crate::image::{CopyProgress, report};
use crate::sector::{SECTOR_BYTES, ZEROS, to_usize};
use crate::source::{CHUNK, Units, in_pieces};
use crate::survey::Survey;

/// Writes the content of `source` to `output`, from its first byte to its last. What the source says to be zero is not
/// read. `threads` and `progress` are as for [`copy`](fn@crate::copy).
///
/// # Errors
/// As for reading; [`InvalidInput`](crate::ErrorKind::InvalidInput) for a device that claims more than a disk can have,
/// or whose answers contradict themselves; [`Cancelled`](crate::ErrorKind::Cancelled) when `progress` breaks; what
/// `output` reports is [`Io`](crate::ErrorKind::Io). A part of the content was written then.
pub fn copy_to_writer(
    source: &dyn BlockDevice,
    output: &mut dyn Write,
    threads: usize,
    progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<()> {
    let source = Survey::new(source)?;
    let end = source.capacity();
    in_pieces(source, Units::new(end, CHUNK), threads, |piece| {
        let mut sector = piece.range.start;
        loop {
            // What was read is one chunk at most.
            let next = piece.range.end.min(sector + CHUNK);
            match piece.content() {
                Some(content) => output.write_all(content).map_err(output_failed)?,
                None => write_zeros(output, (next - sector) * SECTOR_BYTES)?,
            }
            sector = next;
            report(progress, CopyProgress { done: sector * SECTOR_BYTES, total: end * SECTOR_BYTES })?;
            if sector == piece.range.end {
                return Ok(());
            }
        }
    })?;
    output.flush().map_err(output_failed)
}

/// Writes `len` zeros to an output.
pub(crate) fn write_zeros(output: &mut dyn Write, mut len: u64) -> Result<()> {
    while len > 0 {
        let zeros = &ZEROS[..to_usize(len).min(ZEROS.len())];
        output.write_all(zeros).map_err(output_failed)?;
        len -= zeros.len() as u64;
    }
    Ok(())
}

/// What an output reported.
pub(crate) fn output_failed(cause: io::Error) -> Error {
    Error::host("cannot write to the output", cause)
}
