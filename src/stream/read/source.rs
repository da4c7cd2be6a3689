//! The bytes of a stream, counted as they come.

use std::io::{self, Read};

use crate::error::{Error, Result};
use crate::sector::{SECTOR_SIZE, to_usize};

/// What is read at once of what is only looked through: 64 KiB, as much as a pipe holds.
const STEP: usize = 64 << 10;

/// An input, and how far it was read. Never more is read than was asked for: what follows a stream is for others.
#[derive(Debug)]
pub(super) struct Source<R> {
    input: R,
    offset: u64,
    /// A sector that was looked at and belongs to what comes next.
    returned: Option<[u8; SECTOR_SIZE]>,
}

impl<R: Read> Source<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, offset: 0, returned: None }
    }

    /// The offset in the stream of what comes next.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills `buf` as far as there is something; says how far. Less than all of it is the end of the input.
    pub(super) fn fill(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        if let Some(sector) = self.returned.take() {
            // It is asked for by the sector.
            filled = buf.len().min(SECTOR_SIZE);
            buf[..filled].copy_from_slice(&sector[..filled]);
        }
        while filled < buf.len() {
            match self.input.read(&mut buf[filled..]) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let at = self.offset + filled as u64;
                    return Err(read_failed(at, error));
                }
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }

    /// Gives a sector back that was read last.
    pub(super) fn give_back(&mut self, sector: &[u8; SECTOR_SIZE]) {
        self.offset -= SECTOR_SIZE as u64;
        self.returned = Some(*sector);
    }

    /// Hands the next `len` bytes to `look`, piece by piece, each a whole number of sectors but for the end of the
    /// input; says how many there were.
    pub(super) fn pass(&mut self, len: u64, mut look: impl FnMut(&[u8])) -> Result<u64> {
        let mut buf = vec![0; to_usize(len).min(STEP)];
        let mut passed = 0;
        while passed < len {
            let wanted = to_usize(len - passed).min(STEP);
            let got = self.fill(&mut buf[..wanted])?;
            look(&buf[..got]);
            passed += got as u64;
            if got < wanted {
                break;
            }
        }
        Ok(passed)
    }

    pub(super) fn into_inner(self) -> R {
        self.input
    }
}

/// An error of ours that came through the input, as that of an archive around it, stays what it is.
fn read_failed(offset: u64, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => Error::host(format!("cannot read the stream at offset {offset:#x}"), error),
    }
}
