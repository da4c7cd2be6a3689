//! A disk that takes less space on the host, and holds what it held.
//!
//! ```text
//! grains that read as what is below does -> entry 0          grains of zeros -> entry 1, or a hole
//!     -> published -> space that nothing names is a hole, or taken by grains from behind -> the files end earlier
//! ```
//!
//! No guest sees a difference at any moment, so that the content ID stays: children of the disk fit as before.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use super::below::Parents;
use super::site::{Place, Site};
use super::{CopyProgress, Disk, OpenOptions, report};
use crate::buffer::Buffer;
use crate::descriptor::Access;
use crate::error::Result;
use crate::extent::{Below, Emptying, Extent, HostFile, SparseExtent, Surroundings, Telling};
use crate::mapping::Place as At;
use crate::sector::{SECTOR_BYTES, is_zero, to_usize};
use crate::storage::Directory;

/// Bytes that are read and compared at once.
const PIECE: u64 = 1 << 20;

/// Zeros in a flat file become a hole in stretches of this many bytes, at multiples of it: smaller holes gain nothing
/// on most file systems, and scatter the file.
const FLAT_UNIT: u64 = 64 << 10;

/// How the files of a compacted disk become smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CompactMode {
    /// What nothing names becomes holes, and files are cut behind their last grain. For hosts and copies that keep
    /// holes.
    #[default]
    Punch,
    /// As `Punch`, and before that grains from the ends of sparse files move into what is free in front of them, so
    /// that the files become shorter. Tables without a second copy, as those of ESX deltas are, move as well.
    Move,
}

/// What compacting has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactReport {
    /// Bytes that the files of the disk took on the host before, holes not counted; parents are not meant.
    pub allocated_before: u64,
    /// Bytes that they take now.
    pub allocated_after: u64,
    /// The sum of the lengths of the files before, in bytes.
    pub length_before: u64,
    /// The sum of the lengths now.
    pub length_after: u64,
    /// Grains that are unallocated now: what is below reads the same.
    pub grains_unallocated: u64,
    /// Grains of zeros that have an entry for that now, over a parent that has something else.
    pub grains_zeroed: u64,
    /// Grains of zeros that keep their entries and are holes now, over a parent that has something else: the extent has
    /// no entry for zeros.
    pub grains_punched: u64,
    /// Grains that have another place in their file now.
    pub grains_moved: u64,
    /// Bytes of zeros in flat files that are holes now.
    pub flat_bytes_punched: u64,
}

impl OpenOptions {
    /// Makes the disk at `path` take less space on the host; what a guest reads stays the same. All extents that take
    /// writes are gone over.
    ///
    /// A grain becomes unallocated if what is below reads the same: the parents, or zeros without any. A grain of zeros
    /// over something else becomes a zero grain where the format has that, and else a hole. In flat files whole 64 KiB
    /// of zeros become holes. Then sparse files lose what nothing names, as `mode` says. The content ID stays: no
    /// content changes.
    ///
    /// Whenever it is stopped, by `progress`, by an error or by a crash, the disk can be opened and holds what it held;
    /// to compact it again goes on. Everything is durable when this returns. `progress` is told how much of the disk
    /// was gone over, and then how much was moved, and how much of the files was gone through for what nothing names:
    /// its total grows when that is known. It is called at least once for each MiB of content that is read, for each
    /// 16 MiB, or each grain if that is larger, that are moved or given back, and for every 64 gaps.
    ///
    /// # Errors
    /// As for opening for writing ([`open`](Self::open)): among others [`Unsupported`](crate::ErrorKind::Unsupported)
    /// for compressed disks, and [`Locked`](crate::ErrorKind::Locked) where others use the disk.
    /// [`ContentIdMismatch`](crate::ErrorKind::ContentIdMismatch) for a parent that was changed, even if such ones are
    /// [allowed](Self::ignore_cid_mismatch): what it has by chance would be lost over the right one.
    /// [`Corrupt`](crate::ErrorKind::Corrupt) for tables that need repair, before anything is changed;
    /// [`Cancelled`](crate::ErrorKind::Cancelled) when `progress` breaks; what the host reports.
    pub fn compact(
        &self,
        path: impl AsRef<Path>,
        mode: CompactMode,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CompactReport> {
        self.compact_at(Place::Host(path.as_ref()), mode, progress)
    }

    /// As [`compact`](Self::compact), of the disk whose descriptor is in the file `name` of `directory`, with all files
    /// that it names. Nothing is locked but by the directory.
    ///
    /// # Errors
    /// As for [`compact`](Self::compact).
    pub fn compact_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        mode: CompactMode,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CompactReport> {
        self.compact_at(Place::In(name, directory), mode, progress)
    }

    fn compact_at(
        &self,
        place: Place<'_>,
        mode: CompactMode,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CompactReport> {
        // What is moved has to be durable before its place is given up, however a guest's writes would be treated.
        let options = self.for_work();
        let site = Site::new(&options, place);
        let image = site.open(&options)?;
        image.disk.check_parents()?;
        let mut work = Compaction::new(&image.disk, mode, progress)?;
        let done = work.run();
        let mut report = work.report;
        // Also after an error or a stop: what was done is published, and the extents are marked as closed.
        let closed = image.close();
        done.and(closed)?;
        writable(&image.disk).filter_map(Extent::sparse).try_for_each(|sparse| sparse.lower_free_sector())?;
        report.allocated_after = image.allocated_bytes()?;
        report.length_after = length(&image.disk);
        Ok(report)
    }
}

/// The sum of the lengths of the files of the youngest link.
fn length(disk: &Disk) -> u64 {
    disk.links[0].host_files().iter().fold(0, |sum, file| sum.saturating_add(file.len()))
}

fn writable(disk: &Disk) -> impl Iterator<Item = &Extent> {
    disk.links[0].extents().iter().filter(|extent| extent.access() == Access::ReadWrite)
}

struct Compaction<'a, 'p> {
    disk: &'a Disk,
    mode: CompactMode,
    now: CopyProgress,
    progress: &'p mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    report: CompactReport,
    /// What the link has, and what is below.
    buffers: [Buffer; 2],
}

impl<'a, 'p> Compaction<'a, 'p> {
    fn new(
        disk: &'a Disk,
        mode: CompactMode,
        progress: &'p mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        let report = CompactReport {
            allocated_before: disk.links[0].allocated_bytes()?,
            length_before: length(disk),
            ..CompactReport::default()
        };
        let now = CopyProgress { done: 0, total: disk.capacity * SECTOR_BYTES };
        let buffers = [0; 2].map(|_| Buffer::new(to_usize(PIECE)));
        Ok(Self { disk, mode, now, progress, report, buffers })
    }

    fn run(&mut self) -> Result<()> {
        for extent in writable(self.disk) {
            extent.check_tables()?;
        }
        for extent in self.disk.links[0].extents() {
            self.now.done = extent.start_sector() * SECTOR_BYTES;
            if extent.access() != Access::ReadWrite {
                continue;
            }
            if let Some(sparse) = extent.sparse() {
                self.empty(extent, sparse)?;
            } else {
                self.punch_flat(extent)?;
            }
        }
        self.now.done = self.now.total;
        for extent in writable(self.disk) {
            if let Some(sparse) = extent.sparse() {
                self.give_back(extent, sparse)?;
            }
            extent.flush()?;
        }
        self.now.done = self.now.total;
        report(self.progress, self.now)
    }

    /// Takes away the grains of an extent that are not needed.
    fn empty(&mut self, extent: &'a Extent, sparse: &'a SparseExtent) -> Result<()> {
        let below = Parents::of(self.disk, extent);
        let begin = || Ok(());
        let around = Surroundings { below: &below, begin: &begin, sectors: extent.sectors() };
        let mut verdicts = Verdicts { start: extent.start_sector(), sparse, around, grains: 0..0, verdict: None };
        let mut sector = 0;
        while sector < extent.sectors() {
            let run = sparse.map_to_write(sector, extent.sectors() - sector)?;
            let end = sector + run.sectors;
            if let At::Data { file, offset } = run.place {
                self.look_at(file, offset, sector..end, &mut verdicts)?;
            }
            sector = end;
            self.now.done = (extent.start_sector() + sector) * SECTOR_BYTES;
            report(self.progress, self.now)?;
        }
        verdicts.carry_out(&mut self.report)
    }

    /// Looks at sectors of an extent that lie in its file from this offset on.
    fn look_at(
        &mut self,
        file: &HostFile,
        offset: u64,
        sectors: Range<u64>,
        verdicts: &mut Verdicts<'_>,
    ) -> Result<()> {
        let grain_sectors = verdicts.sparse.grain_sectors();
        let mut grain = Look::default();
        let mut at = sectors.start;
        while at < sectors.end {
            // Pieces end with a grain, or are parts of one.
            let piece = (PIECE / SECTOR_BYTES).next_multiple_of(grain_sectors.min(PIECE / SECTOR_BYTES));
            let end = (at + piece).min(sectors.end);
            let (is_hole, same) = file.is_hole(offset + (at - sectors.start) * SECTOR_BYTES, end - at)?;
            let end = end.min(at + same);
            let bytes = to_usize((end - at) * SECTOR_BYTES);
            let [own, below] = &mut self.buffers;
            let (own, below) = (&mut own[..bytes], &mut below[..bytes]);
            if is_hole {
                own.fill(0);
            } else {
                file.read(own, offset + (at - sectors.start) * SECTOR_BYTES)?;
            }
            let is_zero_below = is_zero_below(verdicts.around.below, at, end - at)?;
            if !is_zero_below {
                verdicts.around.below.read(at, below)?;
            }
            let mut from = at;
            while from < end {
                let number = from / grain_sectors;
                let to = ((number + 1) * grain_sectors).min(end);
                let part = to_usize((from - at) * SECTOR_BYTES)..to_usize((to - at) * SECTOR_BYTES);
                let is_zero = is_hole || is_zero(&own[part.clone()]);
                grain.is_zero &= is_zero;
                grain.is_same &= if is_zero_below { is_zero } else { own[part.clone()] == below[part] };
                grain.is_hole &= is_hole;
                // A grain is whole, too, if the extent ends in it.
                if to == (number + 1) * grain_sectors || to == verdicts.around.sectors {
                    verdicts.take(number, std::mem::take(&mut grain), &mut self.report)?;
                }
                from = to;
            }
            at = end;
            self.now.done = (verdicts.start + at) * SECTOR_BYTES;
            report(self.progress, self.now)?;
        }
        Ok(())
    }

    fn give_back(&mut self, extent: &Extent, sparse: &SparseExtent) -> Result<()> {
        let below = Parents::of(self.disk, extent);
        let begin = || Ok(());
        let around = Surroundings { below: &below, begin: &begin, sectors: extent.sectors() };
        let (now, progress) = (&mut self.now, &mut *self.progress);
        let mut tell = |telling| {
            match telling {
                Telling::Planned(bytes) => now.total += bytes,
                Telling::Done(bytes) => now.done = (now.done + bytes).min(now.total),
            }
            report(progress, *now)
        };
        self.report.grains_moved += sparse.give_back(self.mode == CompactMode::Move, around, &mut tell)?;
        Ok(())
    }

    /// Makes holes of the zeros in a flat extent.
    fn punch_flat(&mut self, extent: &Extent) -> Result<()> {
        // To punch a device is to write zeros to it, which it has already.
        let is_device = self.disk.links[0].descriptor().is_on_device();
        let (Some(file), Some(start), false) = (extent.file(), extent.file_offset(), is_device) else { return Ok(()) };
        let end = start.saturating_add(extent.sectors().saturating_mul(SECTOR_BYTES)).min(file.len());
        let mut at = start;
        while let Some(data) = file.next_data(at)?.filter(|data| data.start < end) {
            at = data.start.max(at);
            let data_end = data.end.min(end);
            while at < data_end {
                // To the next multiple of a unit, so that holes begin and end with those.
                let piece_end = ((at / FLAT_UNIT * FLAT_UNIT) + PIECE).min(data_end);
                let [own, _] = &mut self.buffers;
                let own = &mut own[..to_usize(piece_end - at)];
                file.read(own, at)?;
                let zeros = zero_units(own, at);
                for zeros in zeros {
                    self.report.flat_bytes_punched += zeros.end - zeros.start;
                    file.punch(zeros)?;
                }
                at = piece_end;
                self.now.done = extent.start_sector() * SECTOR_BYTES + (at - start);
                report(self.progress, self.now)?;
            }
        }
        Ok(())
    }
}

/// Whole units of zeros among bytes that lie at this offset, neighbours together.
fn zero_units(bytes: &[u8], offset: u64) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    let skip = to_usize(offset.next_multiple_of(FLAT_UNIT) - offset).min(bytes.len());
    let units = bytes[skip..].chunks_exact(to_usize(FLAT_UNIT));
    for (start, unit) in (offset + skip as u64..).step_by(to_usize(FLAT_UNIT)).zip(units) {
        if !is_zero(unit) {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == start => last.end += FLAT_UNIT,
            _ => found.push(start..start + FLAT_UNIT),
        }
    }
    found
}

/// Whether sectors are known to be zero below, all of them.
fn is_zero_below(below: &dyn Below, sector: u64, sectors: u64) -> Result<bool> {
    let mut done = 0;
    while done < sectors {
        match below.is_zero(sector + done, sectors - done)? {
            (true, run) => done += run,
            (false, _) => return Ok(false),
        }
    }
    Ok(true)
}

/// What was seen of a grain.
#[derive(Clone, Copy)]
struct Look {
    is_zero: bool,
    /// As what is below.
    is_same: bool,
    /// Takes no space already.
    is_hole: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { is_zero: true, is_same: true, is_hole: true }
    }
}

/// What becomes of grains, and of how many in a row.
struct Verdicts<'a> {
    /// The sector of the disk at which the extent begins.
    start: u64,
    sparse: &'a SparseExtent,
    around: Surroundings<'a>,
    grains: Range<u64>,
    verdict: Option<Emptying>,
}

impl Verdicts<'_> {
    fn take(&mut self, grain: u64, look: Look, report: &mut CompactReport) -> Result<()> {
        let verdict = match look {
            Look { is_same: true, .. } => Some(Emptying::Unallocate),
            Look { is_zero: true, .. } if self.sparse.has_zero_grains() => Some(Emptying::Zero),
            Look { is_zero: true, is_hole: false, .. } => Some(Emptying::Punch),
            Look { .. } => None,
        };
        if verdict == self.verdict && grain == self.grains.end {
            self.grains.end += 1;
            return Ok(());
        }
        self.carry_out(report)?;
        (self.verdict, self.grains) = (verdict, grain..grain + 1);
        Ok(())
    }

    /// Does it.
    fn carry_out(&mut self, report: &mut CompactReport) -> Result<()> {
        let Some(verdict) = self.verdict.take() else { return Ok(()) };
        let count = self.grains.end - self.grains.start;
        self.sparse.empty_grains(self.grains.clone(), verdict, self.around)?;
        match verdict {
            Emptying::Unallocate => report.grains_unallocated += count,
            Emptying::Zero => report.grains_zeroed += count,
            Emptying::Punch => report.grains_punched += count,
        }
        Ok(())
    }
}
