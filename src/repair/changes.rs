//! Changes of a file, each of which is noted in the undo file, durably, before it is made.

use std::ops::Range;

use super::undo::Undo;
use crate::error::Result;
use crate::extent::HostFile;

/// Bytes of changes that are made together.
const BATCH: usize = 1 << 20;

/// The way to change a file.
pub(super) struct Changes<'a> {
    file: &'a HostFile,
    undo: Option<&'a mut Undo>,
    /// What is to be written, and where.
    waiting: Vec<(u64, Vec<u8>)>,
    waiting_bytes: usize,
    /// How many changes were made.
    made: u64,
}

impl<'a> Changes<'a> {
    pub(super) fn new(file: &'a HostFile, undo: Option<&'a mut Undo>) -> Self {
        Self { file, undo, waiting: Vec::new(), waiting_bytes: 0, made: 0 }
    }

    /// How many changes were made.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// Writes bytes, now or with the next [`sync`](Self::sync). They must not be read before.
    pub(super) fn write(&mut self, offset: u64, bytes: Vec<u8>) -> Result<()> {
        self.waiting_bytes += bytes.len();
        self.waiting.push((offset, bytes));
        if self.waiting_bytes >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Writes what waits, and makes it durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_if_dirty()
    }

    /// Makes a stretch of the file a hole.
    pub(super) fn punch(&mut self, bytes: Range<u64>) -> Result<()> {
        self.flush()?;
        if let Some(undo) = &mut self.undo {
            undo.note_bytes(self.file, bytes.clone())?;
            undo.sync()?;
        }
        self.made += 1;
        self.file.punch(bytes)
    }

    /// Cuts the file.
    pub(super) fn cut(&mut self, len: u64) -> Result<()> {
        self.flush()?;
        if let Some(undo) = &mut self.undo {
            // Taken back in the other order: first the length, then what was there.
            undo.note_bytes(self.file, len..self.file.len())?;
            undo.note_len(self.file)?;
            undo.sync()?;
        }
        self.made += 1;
        self.file.set_len(len)
    }

    fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        if let Some(undo) = &mut self.undo {
            let end = self.waiting.iter().map(|(offset, bytes)| offset + bytes.len() as u64).max().unwrap_or(0);
            if end > self.file.len() {
                undo.note_len(self.file)?;
            }
            for (offset, bytes) in &self.waiting {
                undo.note_bytes(self.file, *offset..offset + bytes.len() as u64)?;
            }
            undo.sync()?;
        }
        for (offset, bytes) in self.waiting.drain(..) {
            self.file.write(&bytes, offset)?;
            self.made += 1;
        }
        self.waiting_bytes = 0;
        Ok(())
    }
}
