//! The content of a device into a stream.

use std::io::Write;
use std::ops::ControlFlow;

use super::{GRAIN_LEN, GRAIN_SECTORS, StreamWriter};
use crate::block_device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::image::CopyProgress;
use crate::sector::SECTOR_BYTES;
use crate::source::{Units, in_pieces};
use crate::survey::Survey;

impl<W: Write> StreamWriter<W> {
    /// Writes all grains of `source`, into a stream to which nothing was written yet. If the disk of the stream is larger,
    /// the rest of it is zero. What the source says to be zero is not read.
    ///
    /// `progress` is called as by [`copy`](fn@crate::copy); it stops the work by breaking. With
    /// [`threads`](crate::CreateOptions::threads) some of them, up to four, read: a buffer of 1 MiB is used, or two for each
    /// of these and two more.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a source that is larger than the disk, and for a stream that has
    /// grains: it is as if there had been no call; [`Cancelled`](ErrorKind::Cancelled) when `progress` breaks; otherwise
    /// as for [`write_grain`](Self::write_grain) and for reading.
    pub fn write_all_from(
        &mut self,
        source: &dyn BlockDevice,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        self.check_sound()?;
        let source = Survey::new(source)?;
        let (end, room) = (source.capacity(), self.capacity_sectors());
        if end > room {
            let text = format!("the disk has {room} sectors, its source {end}");
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        if self.next() > 0 {
            let text = "a disk into a stream that has grains already";
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        let units = Units::new(end, GRAIN_SECTORS);
        let threads = self.reading_threads();
        self.begin();
        let written = in_pieces(source, units, threads, |piece| {
            if let Some(content) = piece.content() {
                for (grain, bytes) in units.of(piece.range.clone()).zip(content.chunks(GRAIN_LEN)) {
                    self.put(grain.start, bytes)?;
                }
            }
            let now = CopyProgress { done: piece.range.end * SECTOR_BYTES, total: end * SECTOR_BYTES };
            if progress(now).is_break() {
                return Err(Error::text(ErrorKind::Cancelled, "the copy was stopped"));
            }
            Ok(())
        });
        self.judge(written)
    }
}
