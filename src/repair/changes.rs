//! Changes of a file, each of which is noted in the undo file, durably, before it is made.

use std::ops::Range;
use std::sync::Arc;

use super::undo::Undo;
use crate::error::Result;
use crate::extent::HostFile;
use crate::sector::SECTOR_BYTES;

/// Bytes of the sectors that are changed together.
const BATCH: u64 = 1 << 20;

/// Changes that are made, durably, before the first one of others: the content ID, where guests will read something
/// else.
#[derive(Debug)]
pub(crate) struct FirstChange {
    pub(crate) file: Arc<HostFile>,
    /// What is written where.
    pub(crate) edits: Vec<(u64, Vec<u8>)>,
}

/// What the changes of all files share.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) undo: Option<Undo>,
    /// What tells by its content whether somebody has written to the disk since.
    pub(super) witness: Option<(Arc<HostFile>, Range<u64>)>,
    pub(super) first: Option<FirstChange>,
    /// How many changes were made.
    pub(super) made: u64,
}

impl Log {
    /// What comes before any change.
    fn begin(&mut self) -> Result<()> {
        if let Some((file, bytes)) = self.witness.take() {
            self.note(|undo| undo.note_kept(&file, &bytes))?;
        }
        let Some(FirstChange { file, edits }) = self.first.take() else { return Ok(()) };
        self.note(|undo| undo.note_writes(&file, &edits))?;
        for (offset, bytes) in edits {
            file.write(&bytes, offset)?;
            self.made += 1;
        }
        file.sync()
    }

    /// Notes in the undo file, durably, what is about to be changed.
    fn note(&mut self, note: impl FnOnce(&mut Undo) -> Result<()>) -> Result<()> {
        let Some(undo) = &mut self.undo else { return Ok(()) };
        note(undo)?;
        undo.sync()
    }
}

/// The way to change a file.
pub(super) struct Changes<'a> {
    file: &'a HostFile,
    log: &'a mut Log,
    /// What is to be written, and where.
    waiting: Vec<(u64, Vec<u8>)>,
    /// Bytes of the sectors that this is about.
    waiting_bytes: u64,
}

impl<'a> Changes<'a> {
    pub(super) fn new(file: &'a HostFile, log: &'a mut Log) -> Self {
        Self { file, log, waiting: Vec::new(), waiting_bytes: 0 }
    }

    /// How many changes were made.
    pub(super) fn made(&self) -> u64 {
        self.log.made
    }

    /// Writes bytes, now or with the next [`sync`](Self::sync). They must not be read before.
    pub(super) fn write(&mut self, offset: u64, bytes: Vec<u8>) -> Result<()> {
        let end = offset + bytes.len() as u64;
        self.waiting_bytes += end.next_multiple_of(SECTOR_BYTES) - offset / SECTOR_BYTES * SECTOR_BYTES;
        self.waiting.push((offset, bytes));
        if self.waiting_bytes >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Writes what waits, and makes it durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_if_dirty()
    }

    /// Makes a stretch of the file a hole, in whole sectors.
    pub(super) fn punch(&mut self, bytes: Range<u64>) -> Result<()> {
        self.flush()?;
        self.log.begin()?;
        self.log.note(|undo| undo.note_punch(self.file, &bytes))?;
        self.log.made += 1;
        self.file.punch(bytes)
    }

    /// Cuts the file behind a sector.
    pub(super) fn cut(&mut self, len: u64) -> Result<()> {
        self.flush()?;
        self.log.begin()?;
        self.log.note(|undo| undo.note_cut(self.file, len))?;
        self.log.made += 1;
        self.file.set_len(len)
    }

    fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.log.begin()?;
        self.log.note(|undo| undo.note_writes(self.file, &self.waiting))?;
        for (offset, bytes) in self.waiting.drain(..) {
            self.file.write(&bytes, offset)?;
            self.log.made += 1;
        }
        self.waiting_bytes = 0;
        Ok(())
    }
}
