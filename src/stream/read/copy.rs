//! A stream into a raw file or device, a pipe, or any other disk.
//!
//! What no grain holds is zero. It is made so where the stream passes over it for the first time: below the highest
//! sector that was reached everything is as the stream has it so far, whatever the order of its grains, and nothing has
//! to be remembered of them.

use std::io::{Read, Write};
use std::ops::ControlFlow;

use super::reader::{StreamGrain, StreamReader, StreamSummary, check_no_delta};
use crate::block_device::{BlockDevice, BlockStatus, check_writable};
use crate::buffer::Buffer;
use crate::copy::{output_failed, write_zeros};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{CopyProgress, RawTarget, prepare, report};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, is_zero, to_usize};
use crate::source::MIN_UNIT;
use crate::storage::Storage;

/// Sectors between two calls of the progress callback while zeros are written: 16 MiB.
const STEP: u64 = 32 << 10;

type Callback<'a> = &'a mut dyn FnMut(CopyProgress) -> ControlFlow<()>;

impl<R: Read> StreamReader<R> {
    /// Writes the disk to `target` as raw bytes from offset 0 on, inflating on so many threads as
    /// [`for_each_grain`](Self::for_each_grain) does. Grains may come in any order. The result is not synced.
    /// `progress` is called for every grain and once at the end; it stops the work by breaking. How far the copy is, is
    /// where the highest grain ended so far.
    ///
    /// # Errors
    /// As for [`for_each_grain`](Self::for_each_grain); [`Unsupported`](ErrorKind::Unsupported) for a
    /// [delta](Self::is_delta); [`InvalidInput`](ErrorKind::InvalidInput) for a device that is too small;
    /// [`Cancelled`](ErrorKind::Cancelled) when `progress` breaks; what the target reports. The target holds part of
    /// the content then.
    pub fn copy_to_raw(
        &mut self,
        target: &dyn Storage,
        kind: RawTarget,
        threads: usize,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<StreamSummary> {
        check_no_delta(self)?;
        prepare(target, kind, self.capacity_sectors() * SECTOR_BYTES)?;
        self.copy_into(RawSink { target, kind }, threads, progress)
    }

    /// Writes the disk to `output` from its first byte to its last, with zeros where no grain is. That goes only for
    /// streams whose grains ascend, since an output cannot go back. Otherwise as [`copy_to_raw`](Self::copy_to_raw).
    ///
    /// # Errors
    /// As for [`copy_to_raw`](Self::copy_to_raw), and [`Unsupported`](ErrorKind::Unsupported) with the lba of a grain
    /// that begins before the end of an earlier one. What `output` reports is [`Io`](ErrorKind::Io).
    pub fn copy_to_writer(
        &mut self,
        output: &mut dyn Write,
        threads: usize,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<StreamSummary> {
        check_no_delta(self)?;
        let summary = self.copy_into(WriterSink { output: &mut *output }, threads, progress)?;
        output.flush().map_err(output_failed)?;
        Ok(summary)
    }

    /// Makes `target` hold the disk: afterwards each sector reads as in the stream. If the target is larger, the rest
    /// of it is left as it is. What it holds already is not written again, and zeros are unmapped where that can be
    /// done. Nothing is flushed. Otherwise as [`copy_to_raw`](Self::copy_to_raw).
    ///
    /// # Errors
    /// As for [`copy_to_raw`](Self::copy_to_raw); [`InvalidInput`](ErrorKind::InvalidInput) for a target that is
    /// smaller than the disk and [`ReadOnly`](ErrorKind::ReadOnly) for one that takes no writes, before anything is
    /// read.
    pub fn copy_to(
        &mut self,
        target: &dyn BlockDevice,
        threads: usize,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<StreamSummary> {
        check_no_delta(self)?;
        let (room, capacity) = (target.capacity_sectors(), self.capacity_sectors());
        if room < capacity {
            let text = format!("the target has {room} sectors, the source {capacity}");
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        check_writable(target)?;
        let unit = target.limits().optimal_io_sectors.clamp(MIN_UNIT, STEP);
        self.copy_into(DeviceSink { target, unit, present: Buffer::default() }, threads, progress)
    }

    fn copy_into(&mut self, mut sink: impl Sink, threads: usize, progress: Callback<'_>) -> Result<StreamSummary> {
        let capacity = self.capacity_sectors();
        let total = capacity * SECTOR_BYTES;
        let mut reached = 0;
        let summary = self.for_each_grain(threads, &mut |grain: StreamGrain<'_>| {
            let start = grain.start_sector;
            fill(&mut sink, reached, start, total, progress)?;
            sink.put(start, grain.bytes, start >= reached)?;
            reached = reached.max(start + grain.bytes.len() as u64 / SECTOR_BYTES);
            report(progress, CopyProgress { done: reached * SECTOR_BYTES, total })
        })?;
        fill(&mut sink, reached, capacity, total, progress)?;
        report(progress, CopyProgress { done: total, total })?;
        Ok(summary)
    }
}

/// Makes everything from `start` to `end` zero, if that lies behind.
fn fill(sink: &mut impl Sink, start: u64, end: u64, total: u64, progress: Callback<'_>) -> Result<()> {
    let mut at = start;
    while at < end {
        let next = end.min(at + sink.zeros_at_once());
        sink.fill(at, next)?;
        at = next;
        report(progress, CopyProgress { done: at * SECTOR_BYTES, total })?;
    }
    Ok(())
}

/// Where the grains of a stream go.
trait Sink {
    /// Puts sectors where they belong. `is_first` if no grain has come for any of these, or for one behind.
    fn put(&mut self, start: u64, bytes: &[u8], is_first: bool) -> Result<()>;

    /// Makes sectors zero for which no grain has come, nor for any behind.
    fn fill(&mut self, start: u64, end: u64) -> Result<()>;

    /// How many sectors are made zero between two reports.
    fn zeros_at_once(&self) -> u64 {
        STEP
    }
}

struct RawSink<'a> {
    target: &'a dyn Storage,
    kind: RawTarget,
}

impl RawSink<'_> {
    fn clear(&self, start: u64, end: u64) -> Result<()> {
        let range = start * SECTOR_BYTES..end * SECTOR_BYTES;
        let text = format!("cannot write zeros from offset {:#x} to {:#x}", range.start, range.end);
        self.target.punch_hole(range).map_err(|cause| Error::host(text, cause))
    }
}

impl Sink for RawSink<'_> {
    fn put(&mut self, start: u64, bytes: &[u8], is_first: bool) -> Result<()> {
        if is_zero(bytes) {
            let end = start + bytes.len() as u64 / SECTOR_BYTES;
            return if is_first { self.fill(start, end) } else { self.clear(start, end) };
        }
        let offset = start * SECTOR_BYTES;
        let written = self.target.write_all_at(bytes, offset);
        written.map_err(|cause| Error::transfer("write", bytes.len(), offset, cause))
    }

    fn fill(&mut self, start: u64, end: u64) -> Result<()> {
        // In a file that was emptied there is nothing to do.
        if self.kind == RawTarget::Empty { Ok(()) } else { self.clear(start, end) }
    }

    fn zeros_at_once(&self) -> u64 {
        if self.kind == RawTarget::Empty { u64::MAX >> 1 } else { STEP }
    }
}

struct WriterSink<'a> {
    output: &'a mut dyn Write,
}

impl Sink for WriterSink<'_> {
    fn put(&mut self, start: u64, bytes: &[u8], is_first: bool) -> Result<()> {
        if !is_first {
            let text = format!(
                "the grain with lba {start} comes after one that lies behind it: an output that cannot go back takes \
                 ascending grains only; write to a file"
            );
            return Err(Error::text(ErrorKind::Unsupported, text));
        }
        self.output.write_all(bytes).map_err(output_failed)
    }

    fn fill(&mut self, start: u64, end: u64) -> Result<()> {
        write_zeros(self.output, (end - start) * SECTOR_BYTES)
    }
}

struct DeviceSink<'a> {
    target: &'a dyn BlockDevice,
    /// Sectors that are judged together, counted from the beginning of the disk.
    unit: u64,
    present: Buffer,
}

impl Sink for DeviceSink<'_> {
    fn put(&mut self, start: u64, bytes: &[u8], _: bool) -> Result<()> {
        if self.present.len() < bytes.len() {
            self.present = Buffer::new(bytes.len());
        }
        let present = &mut self.present[..bytes.len()];
        self.target.read_sectors(start, present)?;
        let unit = to_usize(self.unit) * SECTOR_SIZE;
        for (number, (wanted, present)) in (0..).zip(bytes.chunks(unit).zip(present.chunks(unit))) {
            let sector = start + number * self.unit;
            if wanted == present {
                continue;
            }
            if is_zero(wanted) {
                self.target.write_zeroes(sector, wanted.len() as u64 / SECTOR_BYTES, true)?;
            } else {
                self.target.write_sectors(sector, wanted)?;
            }
        }
        Ok(())
    }

    fn fill(&mut self, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            let (status, count) = self.target.block_status(at, end - at)?;
            // At least one, whatever somebody else's device answers.
            let count = count.clamp(1, end - at);
            if !matches!(status, BlockStatus::Zero | BlockStatus::Hole) {
                self.target.write_zeroes(at, count, true)?;
            }
            at += count;
        }
        Ok(())
    }
}
