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

mod writer;

use std::ops::{ControlFlow, Range};

use crate::block_device::{BlockDevice, check_writable};
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{CopyProgress, report};
use crate::sector::{SECTOR_BYTES, is_zero};
use crate::source::{CHUNK, MIN_UNIT, Piece, Units, in_pieces, indices};
use crate::survey::Survey;

pub use writer::copy_to_writer;
pub(crate) use writer::{output_failed, write_zeros};

/// The largest unit. Larger grains are copied in parts.
const MAX_UNIT: u64 = CHUNK;

/// Makes `target` hold what `source` holds: afterwards each sector of the source reads the same from both. If the
/// target is larger, the rest of it is left as it is.
///
/// What the source says to be zero is not read. In the target nothing is written where it says that it is zero and is
/// to be so, and nothing where it holds the right content already, for which it is read wherever it may hold something:
/// over a parent with the same content a delta stays empty. What has to become zero is unmapped where that can be done;
/// zeros that take space already stay where they are.
///
/// The source is read by so many `threads`, of which 16 are of use at most: for sources whose reading is work, such as
/// compressed disks. With 1, or 0, all of it happens in the caller's thread; everything else always does, in the order
/// of the sectors. Three buffers of 1 MiB is all the memory that is used, and with more threads two more for each.
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
    let (source, target) = (Survey::new(source)?, Survey::new(target)?);
    let (end, room) = (source.capacity(), target.capacity());
    if room < end {
        let text = format!("the target has {room} sectors, the source {end}");
        return Err(Error::text(ErrorKind::InvalidInput, text));
    }
    check_writable(target.device())?;
    let unit = target.device().limits().optimal_io_sectors.clamp(MIN_UNIT, MAX_UNIT);
    let units = Units::new(end, unit);
    let mut copier =
        Copier { target, units, zeros: Buffer::default(), present: Buffer::default(), changes: Vec::new() };
    in_pieces(source, units, threads, |piece| {
        let mut sector = piece.range.start;
        loop {
            sector = copier.take(piece, sector)?;
            report(progress, CopyProgress { done: sector * SECTOR_BYTES, total: end * SECTOR_BYTES })?;
            if sector == piece.range.end {
                return Ok(());
            }
        }
    })
}

/// What becomes of some sectors of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Write,
    Zero,
}

/// What makes the target like the source.
struct Copier<'a> {
    target: Survey<'a>,
    units: Units,
    /// What stands in for the content of sectors that are said to be zero, where the target has something.
    zeros: Buffer,
    /// What was read from the target for comparison.
    present: Buffer,
    /// What is to be done about a piece, in ascending order. Neighbours of the same kind are one.
    changes: Vec<(Change, Range<u64>)>,
}

impl Copier<'_> {
    /// Makes the target hold what a piece holds from `sector` on, or the next part of that; says up to where.
    fn take(&mut self, piece: &Piece, sector: u64) -> Result<u64> {
        let Range { start, end } = piece.range;
        match piece.content() {
            None => self.clear(sector, end),
            Some(content) => self.make_equal(content, start, end).map(|()| end),
        }
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
                Change::Write => self.target.device().write_sectors(range.start, &wanted[indices(start, range)])?,
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
                    if !is_zero(&wanted[indices(start, &unit)]) {
                        self.add(Change::Write, unit);
                    }
                }
                sector = zeros;
                continue;
            }
            let known = there.until.next_multiple_of(self.units.unit).min(end);
            self.read_target(sector, known)?;
            for unit in self.units.of(sector..known) {
                let wanted = &wanted[indices(start, &unit)];
                if wanted != &self.present[indices(sector, &unit)] {
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
            let buf = &mut present[indices(start, &range)];
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
            *buffer = Buffer::new(self.units.chunk_len());
        }
    }

    fn add(&mut self, change: Change, unit: Range<u64>) {
        match self.changes.last_mut() {
            Some((last, range)) if *last == change && range.end == unit.start => range.end = unit.end,
            _ => self.changes.push((change, unit)),
        }
    }
}
