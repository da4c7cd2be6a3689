//! A device to where nothing can be taken back: a pipe, a socket.

use std::io::Write;
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
/// As for reading; [`InvalidInput`](crate::ErrorKind::InvalidInput) for a device that claims more than a disk can have, or
/// whose answers contradict themselves; [`Cancelled`](crate::ErrorKind::Cancelled) when `progress` breaks; what `output`
/// reports is [`Io`](crate::ErrorKind::Io). A part of the content was written then.
pub fn copy_to_writer(
    source: &dyn BlockDevice,
    output: &mut dyn Write,
    threads: usize,
    progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<()> {
    let source = Survey::new(source)?;
    let end = source.capacity();
    let failed = |cause| Error::host("cannot write to the output", cause);
    in_pieces(source, Units::new(end, CHUNK), threads, |piece| {
        let mut sector = piece.range.start;
        loop {
            // What was read is one chunk at most.
            let next = piece.range.end.min(sector + CHUNK);
            let written = match piece.content() {
                Some(content) => output.write_all(content),
                None => write_zeros(output, (next - sector) * SECTOR_BYTES),
            };
            written.map_err(failed)?;
            sector = next;
            report(progress, CopyProgress { done: sector * SECTOR_BYTES, total: end * SECTOR_BYTES })?;
            if sector == piece.range.end {
                return Ok(());
            }
        }
    })?;
    output.flush().map_err(failed)
}

fn write_zeros(output: &mut dyn Write, mut len: u64) -> std::io::Result<()> {
    while len > 0 {
        let zeros = &ZEROS[..to_usize(len).min(ZEROS.len())];
        output.write_all(zeros)?;
        len -= zeros.len() as u64;
    }
    Ok(())
}
