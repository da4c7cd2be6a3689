//! The content of a child into its parent, in large pieces.
//!
//! Neighbouring runs of the child are taken together, wherever they lie in its file. Into a flat extent the kernel
//! copies them, and zeros are written only over data, so that what is reserved stays so; for a sparse one they are
//! read, tested for zeros, and written from memory, into one region where they are new.

use std::ops::Range;

use super::super::VmdkImage;
use super::super::mover::Mover;
use super::super::walk::Walk;
use super::takes_everything;
use crate::block_device::{BlockDevice, read_only};
use crate::buffer::Buffer;
use crate::error::Result;
use crate::extent::{Extent, HostFile};
use crate::mapping::Place;
use crate::sector::{SECTOR_BYTES, ZEROS, is_zero, to_usize};
use crate::source::{CHUNK, MIN_UNIT, Units, indices};

/// Sectors that are taken together, at most: 16 MiB, between two calls of the progress callback.
const MAX_BATCH: u64 = 32 << 10;

pub(super) struct Merge<'a> {
    walk: Walk<'a>,
    parent: &'a VmdkImage,
    units: Units,
    mover: Mover<'a>,
    buffer: Buffer,
    /// What follows each other on the disk and has not been written yet.
    batch: Vec<Run<'a>>,
    /// Sectors that were copied, and that became zeros.
    pub(super) copied: u64,
    pub(super) zeroed: u64,
}

/// Sectors of the child and where they lie.
struct Run<'a> {
    sectors: Range<u64>,
    file: &'a HostFile,
    offset: u64,
}

impl<'a> Merge<'a> {
    pub(super) fn new(child: &'a VmdkImage, parent: &'a VmdkImage) -> Self {
        let unit = parent.limits().optimal_io_sectors.clamp(MIN_UNIT, CHUNK);
        Self {
            walk: child.walk_above(1),
            parent,
            units: Units::new(parent.capacity_sectors(), unit),
            mover: Mover::default(),
            buffer: Buffer::default(),
            batch: Vec::new(),
            copied: 0,
            zeroed: 0,
        }
    }

    /// Writes all that the child has to the parent, which is not flushed. `progress` is told up to which sector.
    pub(super) fn run(&mut self, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let mut end = 0;
        while let Some((start, run, _)) = self.walk.next()? {
            let sectors = start..start + run.sectors;
            end = sectors.end;
            match run.place {
                Place::Data { file, offset } => self.gather(&Run { sectors, file, offset }, progress)?,
                Place::Zero => {
                    self.write_batch()?;
                    let mut start = sectors.start;
                    while start < sectors.end {
                        let until = end_of_batch(start).min(sectors.end);
                        self.zero(start..until)?;
                        progress(until)?;
                        start = until;
                    }
                }
                Place::Unallocated => {
                    self.write_batch()?;
                    progress(end)?;
                }
                // Such a child is not opened for writing.
                Place::Compressed { .. } => return Err(read_only()),
            }
        }
        self.write_batch()?;
        progress(end)
    }

    /// Takes a run into the batch, and writes that when it is full.
    fn gather(&mut self, run: &Run<'a>, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let mut start = run.sectors.start;
        while start < run.sectors.end {
            let full = end_of_batch(start);
            let end = run.sectors.end.min(full);
            let offset = run.offset + (start - run.sectors.start) * SECTOR_BYTES;
            self.batch.push(Run { sectors: start..end, file: run.file, offset });
            start = end;
            if end == full {
                self.write_batch()?;
                progress(end)?;
            }
        }
        Ok(())
    }

    fn write_batch(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if let (Some(first), Some(last)) = (batch.first(), batch.last()) {
            let (start, end) = (first.sectors.start, last.sectors.end);
            let parent = self.parent;
            for (extent, within, sectors) in parent.disk.links[0].map_of_extents().parts(start, end - start) {
                let start = extent.start_sector() + within;
                let part = start..start + sectors;
                if !takes_everything(extent) {
                    // It has the same there already.
                } else if extent.sparse().is_some() {
                    self.write(&batch, part)?;
                } else {
                    self.copy(&batch, part, extent)?;
                }
            }
        }
        self.batch = batch;
        self.batch.clear();
        Ok(())
    }

    /// Copies a part of the batch into a flat extent.
    fn copy(&mut self, batch: &[Run<'a>], part: Range<u64>, extent: &Extent) -> Result<()> {
        let Some((file, bytes)) = flat(extent, &part) else { return Ok(()) };
        for (run, sectors) in within(batch, &part) {
            let from = run.offset_of(sectors.start)..run.offset_of(sectors.end);
            let to = bytes.start + (sectors.start - part.start) * SECTOR_BYTES;
            let copied = self.mover.copy(run.file, from, &**file.storage(), to, &|range| fill_with_zeros(file, range));
            // Whatever came of it.
            file.mark_dirty();
            let end =
                copied.map_err(|error| if error.file().is_some() { error } else { error.in_file(file.path()) })?;
            file.was_written_up_to(end);
        }
        self.copied += part.end - part.start;
        Ok(())
    }

    /// Writes a part of the batch to a sparse extent.
    fn write(&mut self, batch: &[Run<'a>], part: Range<u64>) -> Result<()> {
        if self.buffer.is_empty() {
            self.buffer = Buffer::new(to_usize(CHUNK * SECTOR_BYTES));
        }
        let mut start = part.start;
        while start < part.end {
            // Reads end where a unit does, so that the next one begins with one.
            let end = (start / self.units.chunk * self.units.chunk + self.units.chunk).min(part.end);
            let chunk = start..end;
            for (run, sectors) in within(batch, &chunk) {
                run.file.read(&mut self.buffer[indices(start, &sectors)], run.offset_of(sectors.start))?;
            }
            self.put(&chunk)?;
            start = end;
        }
        Ok(())
    }

    /// Writes what is in the buffer, units that are alike together.
    fn put(&mut self, chunk: &Range<u64>) -> Result<()> {
        let mut start = chunk.start;
        while start < chunk.end {
            let content = |unit: &Range<u64>| &self.buffer[indices(chunk.start, unit)];
            let unit = |start: u64| start..(start / self.units.unit * self.units.unit + self.units.unit).min(chunk.end);
            let are_zero = is_zero(content(&unit(start)));
            let mut end = unit(start).end;
            while end < chunk.end && is_zero(content(&unit(end))) == are_zero {
                end = unit(end).end;
            }
            let alike = start..end;
            if are_zero {
                self.zero(alike)?;
            } else {
                self.parent.write_sectors(start, content(&alike))?;
                self.copied += end - start;
            }
            start = end;
        }
        Ok(())
    }

    /// Lets sectors of the parent read as zeros.
    fn zero(&mut self, sectors: Range<u64>) -> Result<()> {
        let parent = self.parent;
        for (extent, within, count) in
            parent.disk.links[0].map_of_extents().parts(sectors.start, sectors.end - sectors.start)
        {
            let start = extent.start_sector() + within;
            if !takes_everything(extent) {
                continue;
            }
            match flat(extent, &(start..start + count)) {
                Some((file, bytes)) => fill_with_zeros(file, bytes)?,
                None => parent.write_zeroes(start, count, true)?,
            }
            self.zeroed += count;
        }
        Ok(())
    }
}

/// Where the batch with a sector ends at the latest: where usual grains end as well.
fn end_of_batch(sector: u64) -> u64 {
    (sector / MAX_BATCH + 1) * MAX_BATCH
}

impl Run<'_> {
    /// Where a sector lies in the file, in bytes.
    fn offset_of(&self, sector: u64) -> u64 {
        self.offset + (sector - self.sectors.start) * SECTOR_BYTES
    }
}

/// The file of a flat extent, and where sectors of the disk that lie in it are in that.
fn flat<'e>(extent: &'e Extent, sectors: &Range<u64>) -> Option<(&'e HostFile, Range<u64>)> {
    let (file, offset) = (extent.file()?, extent.file_offset()?);
    let place = |sector: u64| offset + (sector - extent.start_sector()) * SECTOR_BYTES;
    Some((file, place(sectors.start)..place(sectors.end)))
}

/// Writes zeros over what a file has in these bytes. It keeps its space there, also what is only reserved; holes, and
/// what it does not have, are zero already.
fn fill_with_zeros(file: &HostFile, bytes: Range<u64>) -> Result<()> {
    let mut at = bytes.start;
    while at < bytes.end {
        let Some(data) = file.next_data(at)? else { return Ok(()) };
        at = data.start.max(at);
        while at < data.end.min(bytes.end) {
            let len = to_usize(data.end.min(bytes.end) - at).min(ZEROS.len());
            file.write(&ZEROS[..len], at)?;
            at += len as u64;
        }
    }
    Ok(())
}

/// The runs that have some of these sectors, with those that they have.
fn within<'b, 'a>(batch: &'b [Run<'a>], sectors: &Range<u64>) -> impl Iterator<Item = (&'b Run<'a>, Range<u64>)> {
    let sectors = sectors.clone();
    let first = batch.partition_point(|run| run.sectors.end <= sectors.start);
    batch[first..].iter().take_while(move |run| run.sectors.start < sectors.end).map({
        let Range { start, end } = sectors;
        move |run| (run, run.sectors.start.max(start)..run.sectors.end.min(end))
    })
}
