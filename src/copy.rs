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

use std::cell::RefCell;
use std::ops::{ControlFlow, Range};

use crate::block_device::{BlockDevice, check_writable};
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::image::CopyProgress;
use crate::parallel::in_order;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, is_zero, to_usize};
use crate::survey::Survey;

/// Sectors that are read and written at once: 1 MiB. What was read is still in the processor's caches when it is
/// written, and the host's page cache takes it in large pieces.
const CHUNK: u64 = 2048;

/// The smallest unit: 4 KiB, a page of the host, below which no hole is made.
const MIN_UNIT: u64 = 8;

/// Threads that read, at most: one writes what they have read, and each of them takes memory.
const MAX_THREADS: usize = 16;

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
/// The source is read by so many `threads`, of which 16 are of use at most: for sources whose reading is work, such as
/// compressed disks. With 1, or 0, all of it happens in the caller's thread; everything else always does, in the order
/// of the sectors. Two buffers of 1 MiB is all the memory that is used, and with more threads two more for each, and two.
///
/// Nothing is flushed; to do so is left to the caller. `progress` is called for every MiB of data at least, for each
/// range that was not read, and once at the end; it stops the work by breaking.
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
    threads: usize,
    progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<()> {
    let (mut reading, mut writing) = open(source, target)?;
    let end = reading.units.end;
    // Memory that was read into and is free again. Pieces are made and taken in one thread.
    let free = RefCell::new(Vec::new());
    let worker = || move |piece| read(source, piece);
    let jobs = || reading.next(|| free.borrow_mut().pop().unwrap_or_default());
    let sink = |piece: Result<Piece>| {
        let mut piece = piece?;
        let mut sector = piece.range.start;
        loop {
            sector = writing.take(&piece, sector)?;
            let now = CopyProgress { done: sector * SECTOR_BYTES, total: end * SECTOR_BYTES };
            if progress(now).is_break() {
                return Err(Error::text(ErrorKind::Cancelled, "the copy was stopped"));
            }
            if sector == piece.range.end {
                break;
            }
        }
        free.borrow_mut().push(std::mem::take(&mut piece.memory));
        Ok(())
    };
    in_order(threads.min(MAX_THREADS), worker, jobs, sink)
}

fn open<'a>(source: &'a dyn BlockDevice, target: &'a dyn BlockDevice) -> Result<(Reading<'a>, Writing<'a>)> {
    let (source, target) = (Survey::new(source)?, Survey::new(target)?);
    let (end, room) = (source.capacity(), target.capacity());
    if room < end {
        let text = format!("the target has {room} sectors, the source {end}");
        return Err(Error::text(ErrorKind::InvalidInput, text));
    }
    check_writable(target.device())?;
    let unit = target.device().limits().optimal_io_sectors.clamp(MIN_UNIT, MAX_UNIT);
    let units = Units { end, unit, chunk: CHUNK / unit * unit };
    let reading = Reading { source, units, next: Some(0) };
    Ok((reading, Writing { target, units, zeros: Buffer::default(), present: Buffer::default(), changes: Vec::new() }))
}

/// How a copy is divided.
#[derive(Clone, Copy)]
struct Units {
    /// The end of the source.
    end: u64,
    /// Sectors that are judged together, counted from the beginning of the disks.
    unit: u64,
    /// Sectors that are read together, a multiple of `unit`; reads end at multiples of it.
    chunk: u64,
}

impl Units {
    fn end_of_chunk(self, sector: u64) -> u64 {
        ((sector / self.chunk + 1) * self.chunk).min(self.end)
    }

    /// The end of the last unit that ends at or before `sector`. The last unit of all ends with the source.
    fn whole(self, sector: u64) -> u64 {
        if sector >= self.end { self.end } else { sector / self.unit * self.unit }
    }

    /// The units of a range that begins with one.
    fn of(self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let starts = range.clone().step_by(to_usize(self.unit));
        starts.map(move |start| start..(start + self.unit).min(range.end))
    }
}

/// Sectors of the source.
struct Piece {
    range: Range<u64>,
    /// Whether they are said to be zero; they are not read then.
    is_zero: bool,
    memory: Memory,
}

/// What a piece is read into.
#[derive(Default)]
struct Memory {
    buffer: Buffer,
    /// Parts of the piece that are said to be zero, though others are not.
    zeros: Vec<Range<u64>>,
}

/// The source, on the way to its end.
struct Reading<'a> {
    source: Survey<'a>,
    units: Units,
    /// Where the next piece begins; `None` after the last one. A source without sectors has one piece.
    next: Option<u64>,
}

impl Reading<'_> {
    /// The next piece, not read yet.
    fn next(&mut self, memory: impl FnOnce() -> Memory) -> Result<Option<Piece>> {
        let Some(start) = self.next else { return Ok(None) };
        let units = self.units;
        let there = self.source.at(start, units.end_of_chunk(start), units.end)?;
        let zeros = units.whole(there.until);
        let piece = if there.is_zero && zeros > start || units.end == 0 {
            Piece { range: start..zeros, is_zero: true, memory: Memory::default() }
        } else {
            self.data(start, memory())?
        };
        self.next = Some(piece.range.end).filter(|&next| next < units.end);
        Ok(Some(piece))
    }

    /// Whole units from `start` on, up to the end of the chunk or to a unit that is said to be zero.
    fn data(&mut self, start: u64, mut memory: Memory) -> Result<Piece> {
        let units = self.units;
        let most = units.end_of_chunk(start);
        memory.zeros.clear();
        let mut sector = start;
        while sector < most {
            let there = self.source.at(sector, most, units.end)?;
            let unit_end = sector.next_multiple_of(units.unit).min(most);
            let is_last = there.is_zero && units.whole(there.until) > unit_end;
            let range = sector..if is_last { unit_end } else { there.until.min(most) };
            sector = range.end;
            if there.is_zero {
                memory.zeros.push(range);
            }
            if is_last {
                break;
            }
        }
        if memory.buffer.is_empty() {
            memory.buffer = Buffer::new(to_usize(units.chunk) * SECTOR_SIZE);
        }
        Ok(Piece { range: start..sector, is_zero: false, memory })
    }
}

/// Reads what there is to read of a piece.
fn read(source: &dyn BlockDevice, mut piece: Piece) -> Result<Piece> {
    let Piece { range, is_zero, memory: Memory { buffer, zeros } } = &mut piece;
    if *is_zero {
        return Ok(piece);
    }
    let mut sector = range.start;
    for zeros in zeros.iter().cloned().chain([range.end..range.end]) {
        if sector < zeros.start {
            source.read_sectors(sector, bytes_of_mut(buffer, range.start, &(sector..zeros.start)))?;
        }
        bytes_of_mut(buffer, range.start, &zeros).fill(0);
        sector = zeros.end;
    }
    Ok(piece)
}

/// What becomes of some sectors of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Write,
    Zero,
}

/// The target.
struct Writing<'a> {
    target: Survey<'a>,
    units: Units,
    /// What stands in for the content of sectors that are said to be zero, where the target has something.
    zeros: Buffer,
    /// What was read from the target for comparison.
    present: Buffer,
    /// What is to be done about a piece, in ascending order. Neighbours of the same kind are one.
    changes: Vec<(Change, Range<u64>)>,
}

impl Writing<'_> {
    /// Makes the target hold what a piece holds from `sector` on, or the next part of that; says up to where.
    fn take(&mut self, piece: &Piece, sector: u64) -> Result<u64> {
        let Range { start, end } = piece.range;
        if piece.is_zero {
            return self.clear(sector, end);
        }
        self.make_equal(&piece.memory.buffer, start, end)?;
        Ok(end)
    }

    /// Makes the target zero from `start` on, up to `end` or to the end of what can be seen of it at once; says up to
    /// where.
    fn clear(&mut self, start: u64, end: u64) -> Result<u64> {
        let units = self.units;
        let there = self.target.at(start, units.end_of_chunk(start).min(end), units.end)?;
        let alike = units.whole(there.until).min(end);
        if there.is_zero && alike > start {
            return Ok(alike);
        }
        let end = units.end_of_chunk(start).min(end);
        let mut zeros = std::mem::take(&mut self.zeros);
        self.make_room(&mut zeros);
        let cleared = self.make_equal(&zeros, start, end);
        self.zeros = zeros;
        cleared.map(|()| end)
    }

    /// Makes the target hold what is in `wanted`, from `start` to `end`.
    fn make_equal(&mut self, wanted: &[u8], start: u64, end: u64) -> Result<()> {
        self.judge(wanted, start, end)?;
        for (change, range) in &self.changes {
            match change {
                Change::Write => self.target.device().write_sectors(range.start, bytes_of(wanted, start, range))?,
                Change::Zero => self.target.device().write_zeroes(range.start, range.end - range.start, true)?,
            }
        }
        Ok(())
    }

    /// Finds out what has to be done for the target to hold what is in `wanted`, from `start` to `end`.
    fn judge(&mut self, wanted: &[u8], start: u64, end: u64) -> Result<()> {
        self.changes.clear();
        let mut sector = start;
        while sector < end {
            let there = self.target.at(sector, end, self.units.end)?;
            let zeros = self.units.whole(there.until).min(end);
            if there.is_zero && zeros > sector {
                for unit in self.units.of(sector..zeros) {
                    if !is_zero(bytes_of(wanted, start, &unit)) {
                        self.add(Change::Write, unit);
                    }
                }
                sector = zeros;
                continue;
            }
            let known = there.until.next_multiple_of(self.units.unit).min(end);
            self.read_target(sector, known)?;
            for unit in self.units.of(sector..known) {
                let wanted = bytes_of(wanted, start, &unit);
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
        let mut present = std::mem::take(&mut self.present);
        self.make_room(&mut present);
        let mut sector = start;
        while sector < end {
            let there = self.target.at(sector, end, self.units.end)?;
            let range = sector..there.until.min(end);
            let buf = bytes_of_mut(&mut present, start, &range);
            if there.is_zero {
                buf.fill(0);
            } else {
                self.target.device().read_sectors(sector, buf)?;
            }
            sector = range.end;
        }
        self.present = present;
        Ok(())
    }

    /// Sees to it that a buffer has room for a chunk. Many copies need only one of them, or none.
    fn make_room(&self, buffer: &mut Buffer) {
        if buffer.is_empty() {
            *buffer = Buffer::new(to_usize(self.units.chunk) * SECTOR_SIZE);
        }
    }

    fn add(&mut self, change: Change, unit: Range<u64>) {
        match self.changes.last_mut() {
            Some((last, range)) if *last == change && range.end == unit.start => range.end = unit.end,
            _ => self.changes.push((change, unit)),
        }
    }
}

/// The bytes of some sectors in a buffer that begins with the sector `first`.
fn bytes_of<'a>(buffer: &'a [u8], first: u64, range: &Range<u64>) -> &'a [u8] {
    &buffer[to_usize(range.start - first) * SECTOR_SIZE..to_usize(range.end - first) * SECTOR_SIZE]
}

fn bytes_of_mut<'a>(buffer: &'a mut [u8], first: u64, range: &Range<u64>) -> &'a mut [u8] {
    &mut buffer[to_usize(range.start - first) * SECTOR_SIZE..to_usize(range.end - first) * SECTOR_SIZE]
}
