//! The content of a device, or of another stream, into a stream.

use std::io::{Read, Write};
use std::ops::ControlFlow;

use super::{GRAIN_LEN, GRAIN_SECTORS, StreamWriter};
use crate::block_device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{CopyProgress, report};
use crate::sector::SECTOR_BYTES;
use crate::source::{Units, in_pieces};
use crate::stream::read::{StreamReader, StreamSummary, check_no_delta};
use crate::survey::Survey;

impl<W: Write> StreamWriter<W> {
    /// Writes all grains of `source`, into a stream to which nothing was written yet. If the disk of the stream is
    /// larger, the rest of it is zero. What the source says to be zero is not read.
    ///
    /// `progress` is called as by [`copy`](fn@crate::copy); it stops the work by breaking. With
    /// [`threads`](crate::CreateOptions::threads) some of them, up to four, read: a buffer of 1 MiB is used, or two for
    /// each of these and two more.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a source that is larger than the disk, and for a stream that has
    /// grains: it is as if there had been no call; [`Cancelled`](ErrorKind::Cancelled) when `progress` breaks;
    /// otherwise as for [`write_grain`](Self::write_grain) and for reading.
    pub fn write_all_from(
        &mut self,
        source: &dyn BlockDevice,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        let source = Survey::new(source)?;
        let end = source.capacity();
        self.check_whole(end)?;
        let units = Units::new(end, GRAIN_SECTORS);
        let threads = self.reading_threads();
        self.begin();
        let written = in_pieces(source, units, threads, |piece| {
            if let Some(content) = piece.content() {
                for (grain, bytes) in units.of(piece.range.clone()).zip(content.chunks(GRAIN_LEN)) {
                    self.put(grain.start, bytes)?;
                }
            }
            report(progress, CopyProgress { done: piece.range.end * SECTOR_BYTES, total: end * SECTOR_BYTES })
        });
        self.judge(written)
    }

    /// Writes all grains of another stream, which is read from its beginning to its end and inflated on so many threads
    /// as [`StreamReader::for_each_grain`] does. Otherwise as [`write_all_from`](Self::write_all_from).
    ///
    /// # Errors
    /// As for [`write_all_from`](Self::write_all_from) and [`StreamReader::for_each_grain`];
    /// [`Unsupported`](ErrorKind::Unsupported) for a [delta](StreamReader::is_delta), for grains of another size than
    /// 128 sectors, and with the lba of a grain that begins before the end of an earlier one.
    pub fn write_all_from_stream<R: Read>(
        &mut self,
        source: &mut StreamReader<R>,
        threads: usize,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<StreamSummary> {
        check_no_delta(source)?;
        let (end, grain) = (source.capacity_sectors(), source.header().grain_size);
        self.check_whole(end)?;
        if grain != GRAIN_SECTORS {
            let text = format!("a stream with grains of {grain} sectors; from a file its grains can be made anew");
            return Err(Error::text(ErrorKind::Unsupported, text));
        }
        self.begin();
        let mut step =
            |sector: u64| report(progress, CopyProgress { done: sector * SECTOR_BYTES, total: end * SECTOR_BYTES });
        let written = source.for_each_grain(threads, &mut |grain| {
            let start = grain.start_sector;
            if start < self.next() {
                let text = format!(
                    "the grain with lba {start} comes after one that lies behind it: a stream is written in ascending \
                     order; open the source as a file"
                );
                return Err(Error::text(ErrorKind::Unsupported, text));
            }
            self.put(start, grain.bytes)?;
            step(start + grain.bytes.len() as u64 / SECTOR_BYTES)
        });
        let written = written.and_then(|summary| step(end).map(|()| summary));
        self.judge(written)
    }

    /// Refuses a source of so many sectors that does not become all of this disk.
    fn check_whole(&self, sectors: u64) -> Result<()> {
        self.check_sound()?;
        let room = self.capacity_sectors();
        if sectors > room {
            let text = format!("the disk has {room} sectors, its source {sectors}");
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        if self.next() > 0 {
            let text = "a disk into a stream that has grains already";
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        Ok(())
    }
}
