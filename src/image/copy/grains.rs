//! Compressed grains into a raw file, by one of several threads.

use super::RawTarget;
use super::jobs::{BATCH, Piece};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::sector::{is_zero, to_usize};
use crate::storage::Storage;

/// What is looked at for zeros: a page of the host, below which no hole is made.
const PAGE: usize = 4096;

/// Inflates grains and writes them.
pub(super) struct GrainWriter<'a> {
    target: &'a dyn Storage,
    /// Whether what is not written is zero.
    leaves_zeros: bool,
    buffer: Buffer,
}

impl<'a> GrainWriter<'a> {
    pub(super) fn new(target: &'a dyn Storage, kind: RawTarget) -> Self {
        Self { target, leaves_zeros: kind == RawTarget::Empty, buffer: Buffer::default() }
    }

    /// Writes pieces to where they go; those that follow each other together.
    pub(super) fn write(&mut self, mut pieces: &[Piece<'_>]) -> Result<()> {
        while let Some(first) = pieces.first() {
            let joined = pieces.windows(2).take_while(|pair| pair[0].bytes.end == pair[1].bytes.start).count() + 1;
            let (now, later) = pieces.split_at(joined);
            let (start, end) = (first.bytes.start, now.last().map_or(first.bytes.end, |last| last.bytes.end));
            let len = to_usize(end - start);
            if self.buffer.len() < len {
                self.buffer = Buffer::new(len.max(to_usize(BATCH)));
            }
            for piece in now {
                let at = to_usize(piece.bytes.start - start)..to_usize(piece.bytes.end - start);
                piece.grain.read(piece.skip, &mut self.buffer[at])?;
            }
            self.put(len, start)?;
            pieces = later;
        }
        Ok(())
    }

    /// Writes the first `len` bytes of the buffer at `offset`, without what need not be written.
    fn put(&self, len: usize, offset: u64) -> Result<()> {
        let content = &self.buffer[..len];
        if !self.leaves_zeros {
            return self.put_all(content, offset);
        }
        let mut start = 0;
        while start < len {
            start += content[start..].chunks(PAGE).take_while(|page| is_zero(page)).map(<[u8]>::len).sum::<usize>();
            let data = content[start..].chunks(PAGE).take_while(|page| !is_zero(page)).map(<[u8]>::len).sum::<usize>();
            self.put_all(&content[start..start + data], offset + start as u64)?;
            start += data;
        }
        Ok(())
    }

    fn put_all(&self, content: &[u8], offset: u64) -> Result<()> {
        if content.is_empty() {
            return Ok(());
        }
        let written = self.target.write_all_at(content, offset);
        written.map_err(|cause| Error::transfer("write", content.len(), offset, cause))
    }
}
