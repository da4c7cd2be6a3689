//! Where a stream goes, counted in sectors.

use std::io::{self, Seek, SeekFrom, Write};

use crate::error::{Error, ErrorKind, Result};
use crate::sector::SECTOR_BYTES;

/// An output, and how far it is written.
pub(super) struct Output<W> {
    inner: W,
    /// The sector that comes next, counted from where the stream began.
    next: u64,
    seekable: Option<Seekable<W>>,
}

/// What is known of an output that can be written anywhere.
struct Seekable<W> {
    /// A function, so that the others need not know of `Seek`.
    seek: fn(&mut W, SeekFrom) -> io::Result<u64>,
    /// Where the stream began, in bytes.
    start: u64,
}

impl<W: Write> Output<W> {
    /// An output that is only written to its end.
    pub(super) fn new(inner: W) -> Self {
        Self { inner, next: 0, seekable: None }
    }

    /// Appends whole sectors; says at which sector they begin.
    ///
    /// # Errors
    /// What the output reports.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let start = self.next;
        self.write(bytes, start)?;
        self.next += bytes.len() as u64 / SECTOR_BYTES;
        Ok(start)
    }

    /// The sector that comes next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Writes whole sectors somewhere; what is appended goes on where it was.
    ///
    /// # Errors
    /// What the output reports.
    pub(super) fn write_at(&mut self, bytes: &[u8], sector: u64) -> Result<()> {
        self.seek(sector)?;
        self.write(bytes, sector)?;
        self.seek(self.next)
    }

    /// Leaves out the sectors before `sector`: they stay what they are.
    ///
    /// # Errors
    /// What the output reports.
    pub(super) fn skip_to(&mut self, sector: u64) -> Result<()> {
        self.next = sector;
        self.seek(sector)
    }

    /// The output, flushed.
    ///
    /// # Errors
    /// What the output reports.
    pub(super) fn into_inner(mut self) -> Result<W> {
        self.inner.flush().map_err(|cause| Error::host("cannot flush the stream", cause))?;
        Ok(self.inner)
    }

    fn write(&mut self, bytes: &[u8], sector: u64) -> Result<()> {
        let offset = sector.saturating_mul(SECTOR_BYTES);
        self.inner.write_all(bytes).map_err(|cause| Error::transfer("write", bytes.len(), offset, cause))
    }

    fn seek(&mut self, sector: u64) -> Result<()> {
        let Some(Seekable { seek, start }) = &self.seekable else {
            return Err(Error::text(ErrorKind::Unsupported, "the output of this stream is only written to its end"));
        };
        let at = start.saturating_add(sector.saturating_mul(SECTOR_BYTES));
        match seek(&mut self.inner, SeekFrom::Start(at)) {
            Ok(_) => Ok(()),
            Err(cause) => Err(Error::host("cannot seek in the output of the stream", cause)),
        }
    }
}

impl<W: Write + Seek> Output<W> {
    /// An output that is written anywhere, from where it stands.
    ///
    /// # Errors
    /// What the output reports.
    pub(super) fn new_seekable(mut inner: W) -> Result<Self> {
        let start = inner.stream_position();
        let end = inner.seek(SeekFrom::End(0));
        let unknown = |cause| Error::host("cannot tell where the output of the stream stands", cause);
        let (start, end) = (start.map_err(unknown)?, end.map_err(unknown)?);
        if end > start {
            // What is left behind a shorter stream could be the footer of another, which wins.
            let text = format!("the output stands at offset {start:#x}, and has something up to {end:#x} already");
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        let mut output = Self { inner, next: 0, seekable: Some(Seekable { seek: W::seek, start }) };
        output.seek(0)?;
        Ok(output)
    }
}
