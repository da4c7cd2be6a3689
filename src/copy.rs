//! One disk into another.
//!
//! What the source says to be zero is not read, and nowhere do zeros take space that they need not take. What is data
//! is read once into a buffer, and judged and written from there, unit by unit:
//!
//! ```text
//!                                      target says zero    target says data: it is read
//! a unit of data                       write               nothing if it is the same, else write
//! zeros, said to be or found in data   nothing             nothing if it is the same, else write_zeroes
//! ```
//!
//! A unit is a grain of the target: less of one saves no space, and what is written as a whole grain needs nothing from
//! a parent. Neighbours that are treated alike go in one call.

use std::ops::{ControlFlow, Range};

use crate::block_device::{BlockDevice, check_writable};
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::image::CopyProgress;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, is_zero, to_usize};
use crate::survey::Survey;

/// Sectors that are read and written at once: 1 MiB. What was read is still in the processor's caches when it is
/// written, and the host's page cache takes it in large pieces.
const CHUNK: u64 = 2048;

/// The smallest unit: 4 KiB, a page of the host, below which no hole is made.
const MIN_UNIT: u64 = 8;

/// The largest unit. Larger grains are copied in parts.
const MAX_UNIT: u64 = CHUNK;

/// Makes `target` hold what `source` holds: afterwards each sector of the source reads the same from both. If the target
/// is larger, the rest of it is left as it is.
///
/// What the source says to be zero is not read. In the target nothing is written where it says that it is zero and is
/// to be so, and nothing where it holds the right content already, for which it is read wherever it may hold something:
/// over a parent with the same content a delta stays empty. What has to become zero is unmapped where that can be done;
/// zeros that take space already stay where they are.
///
/// Nothing is flushed; to do so is left to the caller. `progress` is called for every MiB of data at least, for each
/// range that was not read, and once at the end; it stops the work by breaking. All of it happens in the caller's
/// thread. Two buffers of 1 MiB is all the memory that is used.
///
/// While the copy goes on, nobody else may write to either device: what they write may be copied or not, or undone.
///
/// # Errors
/// As for reading and writing; [`InvalidInput`](ErrorKind::InvalidInput) for a target that is smaller than the source
/// and [`ReadOnly`](ErrorKind::ReadOnly) for one that takes no writes, before anything is read;
/// [`InvalidInput`](ErrorKind::InvalidInput) for a device that claims more than a disk can have, or whose answers
/// contradict themselves; [`Cancelled`](ErrorKind::Cancelled) when `progress` breaks. The target holds a part of the
/// content then, from its beginning on, and its old content behind that.
pub fn copy(
    source: &dyn BlockDevice,
    target: &dyn BlockDevice,
    progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<()> {
    let mut copier = Copier::new(source, target)?;
    let mut sector = 0;
    loop {
        sector = copier.step(sector)?;
        let now = CopyProgress { done: sector * SECTOR_BYTES, total: copier.end * SECTOR_BYTES };
        if progress(now).is_break() {
            return Err(Error::text(ErrorKind::Cancelled, "the copy was stopped"));
        }
        if sector == copier.end {
            return Ok(());
        }
    }
}

/// What becomes of some sectors of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Write,
    Zero,
}

struct Copier<'a> {
    source: Survey<'a>,
    target: Survey<'a>,
    /// The end of the source.
    end: u64,
    /// Sectors that are judged together, counted from the beginning of the disks.
    unit: u64,
    /// Sectors that are read together, a multiple of `unit`; reads end at multiples of it.
    chunk: u64,
    /// What was read from the source, and for comparison from the target.
    wanted: Buffer,
    present: Buffer,
    /// What is to be done about `wanted`, in ascending order. Neighbours of the same kind are one.
    changes: Vec<(Change, Range<u64>)>,
}

impl<'a> Copier<'a> {
    fn new(source: &'a dyn BlockDevice, target: &'a dyn BlockDevice) -> Result<Self> {
        let (source, target) = (Survey::new(source)?, Survey::new(target)?);
        let (end, room) = (source.capacity(), target.capacity());
        if room < end {
            let text = format!("the target has {room} sectors, the source {end}");
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        check_writable(target.device())?;
        let unit = target.device().limits().optimal_io_sectors.clamp(MIN_UNIT, MAX_UNIT);
        let chunk = CHUNK / unit * unit;
        let (wanted, present, changes) = (Buffer::default(), Buffer::default(), Vec::new());
        Ok(Self { source, target, end, unit, chunk, wanted, present, changes })
    }

    /// Copies what comes at `start`, which is a multiple of `unit`; says up to where.
    fn step(&mut self, start: u64) -> Result<u64> {
        let there = self.source.at(start, self.end_of_chunk(start), self.end)?;
        let zeros = self.whole_units(there.until);
        if there.is_zero && zeros > start {
            return self.clear(start, zeros);
        }
        let end = self.read_source(start)?;
        self.make_equal(start, end)?;
        Ok(end)
    }

    /// Makes the target zero from `start` on, up to `end` or to the end of what can be seen of it at once; says up to
    /// where.
    fn clear(&mut self, start: u64, end: u64) -> Result<u64> {
        let there = self.target.at(start, self.end_of_chunk(start).min(end), self.end)?;
        let alike = self.whole_units(there.until).min(end);
        if there.is_zero && alike > start {
            return Ok(alike);
        }
        let end = self.end_of_chunk(start).min(end);
        self.make_room(|copier| &mut copier.wanted);
        bytes_of_mut(&mut self.wanted, start, &(start..end)).fill(0);
        self.make_equal(start, end)?;
        Ok(end)
    }

    /// Makes the target hold what is in `wanted`, from `start` to `end`.
    fn make_equal(&mut self, start: u64, end: u64) -> Result<()> {
        self.judge(start, end)?;
        for (change, range) in &self.changes {
            match change {
                Change::Write => {
                    let bytes = bytes_of(&self.wanted, start, range);
                    self.target.device().write_sectors(range.start, bytes)?;
                }
                Change::Zero => self.zero(range)?,
            }
        }
        Ok(())
    }

    fn zero(&self, range: &Range<u64>) -> Result<()> {
        self.target.device().write_zeroes(range.start, range.end - range.start, true)
    }

    /// Reads whole units of the source from `start` on, up to the end of the chunk or to a unit that is said to be
    /// zero; says up to where.
    fn read_source(&mut self, start: u64) -> Result<u64> {
        let most = self.end_of_chunk(start);
        self.make_room(|copier| &mut copier.wanted);
        let mut sector = start;
        while sector < most {
            let there = self.source.at(sector, most, self.end)?;
            let unit_end = sector.next_multiple_of(self.unit).min(most);
            let is_last = there.is_zero && self.whole_units(there.until) > unit_end;
            let range = sector..if is_last { unit_end } else { there.until.min(most) };
            let buf = bytes_of_mut(&mut self.wanted, start, &range);
            if there.is_zero {
                buf.fill(0);
            } else {
                self.source.device().read_sectors(sector, buf)?;
            }
            sector = range.end;
            if is_last {
                break;
            }
        }
        Ok(sector)
    }

    /// Finds out what has to be done for the target to hold what is in `wanted`, from `start` to `end`.
    fn judge(&mut self, start: u64, end: u64) -> Result<()> {
        self.changes.clear();
        let mut sector = start;
        while sector < end {
            let there = self.target.at(sector, end, self.end)?;
            let zeros = self.whole_units(there.until).min(end);
            if there.is_zero && zeros > sector {
                for unit in units(sector..zeros, self.unit) {
                    if !is_zero(bytes_of(&self.wanted, start, &unit)) {
                        self.add(Change::Write, unit);
                    }
                }
                sector = zeros;
                continue;
            }
            let known = there.until.next_multiple_of(self.unit).min(end);
            self.read_target(sector, known)?;
            for unit in units(sector..known, self.unit) {
                let wanted = bytes_of(&self.wanted, start, &unit);
                if wanted != bytes_of(&self.present, sector, &unit) {
                    let change = if is_zero(wanted) { Change::Zero } else { Change::Write };
                    self.add(change, unit);
                }
            }
            sector = known;
        }
        Ok(())
    }

    /// Reads the target from `start` to `end`.
    fn read_target(&mut self, start: u64, end: u64) -> Result<()> {
        self.make_room(|copier| &mut copier.present);
        let mut sector = start;
        while sector < end {
            let there = self.target.at(sector, end, self.end)?;
            let range = sector..there.until.min(end);
            let buf = bytes_of_mut(&mut self.present, start, &range);
            if there.is_zero {
                buf.fill(0);
            } else {
                self.target.device().read_sectors(sector, buf)?;
            }
            sector = range.end;
        }
        Ok(())
    }

    /// Sees to it that a buffer has room for a chunk. Many copies need only one of them, or none.
    fn make_room(&mut self, buffer: impl FnOnce(&mut Self) -> &mut Buffer) {
        let len = to_usize(self.chunk) * SECTOR_SIZE;
        let buffer = buffer(self);
        if buffer.is_empty() {
            *buffer = Buffer::new(len);
        }
    }

    fn add(&mut self, change: Change, unit: Range<u64>) {
        match self.changes.last_mut() {
            Some((last, range)) if *last == change && range.end == unit.start => range.end = unit.end,
            _ => self.changes.push((change, unit)),
        }
    }

    fn end_of_chunk(&self, sector: u64) -> u64 {
        ((sector / self.chunk + 1) * self.chunk).min(self.end)
    }

    /// The end of the last unit that ends at or before `sector`. The last unit of all ends with the source.
    fn whole_units(&self, sector: u64) -> u64 {
        if sector >= self.end { self.end } else { sector / self.unit * self.unit }
    }
}

/// The units of a range that begins with one.
fn units(range: Range<u64>, unit: u64) -> impl Iterator<Item = Range<u64>> {
    let starts = range.clone().step_by(to_usize(unit));
    starts.map(move |start| start..(start + unit).min(range.end))
}

/// The bytes of some sectors in a buffer that begins with the sector `first`.
fn bytes_of<'a>(buffer: &'a [u8], first: u64, range: &Range<u64>) -> &'a [u8] {
    &buffer[to_usize(range.start - first) * SECTOR_SIZE..to_usize(range.end - first) * SECTOR_SIZE]
}

fn bytes_of_mut<'a>(buffer: &'a mut [u8], first: u64, range: &Range<u64>) -> &'a mut [u8] {
    &mut buffer[to_usize(range.start - first) * SECTOR_SIZE..to_usize(range.end - first) * SECTOR_SIZE]
}
