//! The content of a device, in large pieces from its beginning to its end, read by several threads if need be.
//!
//! It is taken unit by unit, counted from the beginning of the device. What the device says to be zero is not read,
//! where that is whole units; less of it is not worth the trouble of a smaller read.
//!
//! ```text
//! caller:   what is zero? -> pieces ............ in their order -> sink
//!                                 \             /
//! threads:                         read_sectors
//! ```

use std::cell::RefCell;
use std::ops::Range;

use crate::block_device::BlockDevice;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::parallel::in_order;
use crate::sector::{SECTOR_SIZE, to_usize};
use crate::survey::Survey;

/// Sectors that are read at once: 1 MiB. What was read is still in the processor's caches when it is written, and the
/// host's page cache takes it in large pieces.
pub(crate) const CHUNK: u64 = 2048;

/// The smallest unit that is judged by itself: 4 KiB, a page of the host, below which no hole is made.
pub(crate) const MIN_UNIT: u64 = 8;

/// Threads that read, at most: somebody takes what they have read one after the other, and each of them takes memory.
const MAX_THREADS: usize = 16;

/// How the sectors of a device are divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Units {
    /// The end of the device.
    pub(crate) end: u64,
    /// Sectors that are judged together, counted from the beginning of the device.
    pub(crate) unit: u64,
    /// Sectors that are read together, a multiple of `unit`; reads end at multiples of it.
    pub(crate) chunk: u64,
}

impl Units {
    /// Units of so many sectors, which are no more than a chunk.
    pub(crate) fn new(end: u64, unit: u64) -> Self {
        Self { end, unit, chunk: CHUNK / unit * unit }
    }

    /// The end of the chunk that a sector is in.
    pub(crate) fn end_of_chunk(self, sector: u64) -> u64 {
        ((sector / self.chunk + 1) * self.chunk).min(self.end)
    }

    /// The end of the last unit that ends at or before `sector`. The last unit of all ends with the device.
    pub(crate) fn whole(self, sector: u64) -> u64 {
        if sector >= self.end { self.end } else { sector / self.unit * self.unit }
    }

    /// The units of a range that begins with one.
    pub(crate) fn of(self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let starts = range.clone().step_by(to_usize(self.unit));
        starts.map(move |start| start..(start + self.unit).min(range.end))
    }

    /// The bytes of a chunk.
    pub(crate) fn chunk_len(self) -> usize {
        to_usize(self.chunk) * SECTOR_SIZE
    }
}

/// Sectors of the device: whole units, as far as it has them.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) range: Range<u64>,
    is_zero: bool,
    memory: Memory,
}

/// What a piece is read into.
#[derive(Debug, Default)]
struct Memory {
    buffer: Buffer,
    /// Parts of the piece that are said to be zero, though others are not.
    zeros: Vec<Range<u64>>,
}

impl Piece {
    /// Its bytes; `None` for zeros, which were not read.
    pub(crate) fn content(&self) -> Option<&[u8]> {
        let len = to_usize(self.range.end - self.range.start) * SECTOR_SIZE;
        (!self.is_zero).then(|| &self.memory.buffer[..len])
    }
}

/// Hands the device to `sink`, piece by piece in their order and in the caller's thread; one without sectors as one
/// empty piece. So many threads read, as far as they are of use; with 1, or 0, the caller's does.
///
/// # Errors
/// What the device reports; the first error of `sink`.
pub(crate) fn in_pieces(
    source: Survey<'_>,
    units: Units,
    threads: usize,
    mut sink: impl FnMut(&Piece) -> Result<()>,
) -> Result<()> {
    let device = source.device();
    let mut pieces = Pieces { source, units, next: Some(0) };
    // Pieces are made and taken in one thread.
    let free = RefCell::new(Vec::<Memory>::new());
    let worker = || move |piece| read(device, piece);
    let jobs = || pieces.next(|| free.borrow_mut().pop().unwrap_or_default());
    let sink = |piece: Result<Piece>| {
        let piece = piece?;
        sink(&piece)?;
        if !piece.is_zero {
            free.borrow_mut().push(piece.memory);
        }
        Ok(())
    };
    in_order(threads.min(MAX_THREADS), worker, jobs, sink)
}

/// The pieces of a device, none of which is read yet.
struct Pieces<'a> {
    source: Survey<'a>,
    units: Units,
    /// Where the next one begins; `None` after the last.
    next: Option<u64>,
}

impl Pieces<'_> {
    fn next(&mut self, memory: impl FnOnce() -> Memory) -> Result<Option<Piece>> {
        let Some(start) = self.next else { return Ok(None) };
        let units = self.units;
        let piece = if units.end == 0 {
            Piece { range: 0..0, is_zero: true, memory: Memory::default() }
        } else {
            let there = self.source.at(start, units.end_of_chunk(start), units.end)?;
            let zeros = units.whole(there.until);
            if there.is_zero && zeros > start {
                Piece { range: start..zeros, is_zero: true, memory: Memory::default() }
            } else {
                self.data(start, memory())?
            }
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
            memory.buffer = Buffer::new(units.chunk_len());
        }
        Ok(Piece { range: start..sector, is_zero: false, memory })
    }
}

/// Reads what there is to read of a piece.
fn read(device: &dyn BlockDevice, mut piece: Piece) -> Result<Piece> {
    let Piece { range, is_zero, memory: Memory { buffer, zeros } } = &mut piece;
    if *is_zero {
        return Ok(piece);
    }
    let mut sector = range.start;
    for zeros in zeros.iter().cloned().chain(std::iter::once(range.end..range.end)) {
        if sector < zeros.start {
            device.read_sectors(sector, &mut buffer[indices(range.start, &(sector..zeros.start))])?;
        }
        buffer[indices(range.start, &zeros)].fill(0);
        sector = zeros.end;
    }
    Ok(piece)
}

/// The bytes of some sectors in a buffer that begins with the sector `first`.
pub(crate) fn indices(first: u64, range: &Range<u64>) -> Range<usize> {
    to_usize(range.start - first) * SECTOR_SIZE..to_usize(range.end - first) * SECTOR_SIZE
}
