//! The content of a disk into a raw file or device.
//!
//! What lies in host files is copied by the kernel, without passing through this process, and shared instead of copied
//! where the file system can do that. Holes stay holes, those of the disk and those of flat files. Compressed grains
//! are inflated by several threads, each of which writes what it has inflated.
//!
//! ```text
//! caller:   runs -> jobs ............................... data of files: kernel copy; zeros; progress
//!                      \                               /
//! threads:              grains: inflate -> pwrite -> done
//! ```

mod grains;
mod jobs;

use std::ops::{ControlFlow, Range};

use super::VmdkImage;
use super::mover::Mover;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, HostFile};
use crate::mapping::Place;
use crate::parallel::in_order;
use crate::sector::SECTOR_BYTES;
use crate::storage::Storage;

use self::grains::GrainWriter;
use self::jobs::{Job, Jobs};

/// Bytes that are moved between two calls of the progress callback, at most.
const STEP: u64 = 16 << 20;

/// Threads that inflate, at most: beyond this, storages are the limit, and memory.
const MAX_THREADS: usize = 32;

/// What the target of a copy holds beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawTarget {
    /// Nothing that is wanted: a file, which is emptied, gets the length of the disk, and has holes where the disk has
    /// nothing.
    Empty,
    /// Anything: a device, at least as large as the disk. Zeros are written, or punched where that is possible.
    Used,
}

/// How far work has come. Who does it says what is counted: of a copy, the bytes of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyProgress {
    /// Bytes that are done, holes included.
    pub done: u64,
    /// Bytes that there are to do.
    pub total: u64,
}

impl VmdkImage {
    /// Writes the content of the disk, parents included, to `target` as raw bytes from offset 0 on. The result is not
    /// synced. `progress` is called at least every 16 MiB and once at the end; it stops the work by breaking.
    ///
    /// Compressed grains are inflated, and written, by so many `threads`; with 1, or 0, and for disks without
    /// compressed grains, all of it happens in the caller's thread. Each thread takes 512 KiB of memory, or a grain if
    /// that is larger, and a little for what it inflates with.
    ///
    /// # Errors
    /// As for reading; [`InvalidInput`](ErrorKind::InvalidInput) for a device that is too small;
    /// [`Cancelled`](ErrorKind::Cancelled) when `progress` breaks; what the target reports. The target holds part of
    /// the content then.
    pub fn copy_to_raw(
        &self,
        target: &dyn Storage,
        kind: RawTarget,
        threads: usize,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        self.disk.check_open()?;
        let total = self.disk.capacity * SECTOR_BYTES;
        prepare(target, kind, total)?;
        let threads = if self.is_compressed() { threads.min(MAX_THREADS) } else { 1 };
        let mut jobs = Jobs::new(self.walk(), kind);
        let mut copier = Copier { target, kind, mover: Mover::default() };
        let worker = || {
            let mut grains = GrainWriter::new(target, kind);
            move |job| match job {
                Job::Grains { pieces, end } => Done::Moved(grains.write(&pieces).map(|()| end)),
                Job::Plain { place, bytes } => Done::Left { place, bytes },
            }
        };
        let sink = |done| {
            let done = match done {
                Done::Moved(end) => end?,
                Done::Left { place, bytes } => copier.take(place, bytes)?,
            };
            report(progress, CopyProgress { done, total })
        };
        in_order(threads, worker, || jobs.next(), sink)
    }

    /// Whether an extent of the chain is compressed.
    fn is_compressed(&self) -> bool {
        self.chain().iter().flat_map(|link| link.extents()).any(Extent::is_compressed)
    }
}

/// What has become of a job.
enum Done<'a> {
    /// It was written by the thread that had it, up to this byte of the disk.
    Moved(Result<u64>),
    /// It is left for the caller's thread.
    Left { place: Place<'a>, bytes: Range<u64> },
}

/// Gets the target ready for a disk of `total` bytes.
pub(crate) fn prepare(target: &dyn Storage, kind: RawTarget, total: u64) -> Result<()> {
    match kind {
        RawTarget::Empty => {
            // ext4 takes a file that is cut to nothing for one that is being replaced, and writes it out when it is
            // closed: a new file is not cut.
            let empty = |len| if len == 0 { Ok(()) } else { target.set_len(0) };
            let set = target.len().and_then(empty).and_then(|()| target.set_len(total));
            set.map_err(|cause| Error::host("cannot set the length", cause))
        }
        RawTarget::Used => {
            let len = target.len().map_err(|cause| Error::host("cannot find out the length", cause))?;
            if len < total {
                let text = format!("the target has {len} bytes, the disk {total}");
                return Err(Error::text(ErrorKind::InvalidInput, text));
            }
            Ok(())
        }
    }
}

/// Makes an empty file hold what another one does, with its holes; says after every stretch how many bytes that was.
pub(super) fn copy_file(file: &HostFile, target: &dyn Storage, moved: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
    let len = file.len();
    prepare(target, RawTarget::Empty, len)?;
    let mut copier = Mover::default();
    let mut at = 0;
    while at < len {
        let end = len.min(at + STEP);
        // It is a hole before.
        copier.copy(file, at..end, target, at, &|_| Ok(()))?;
        moved(end - at)?;
        at = end;
    }
    Ok(())
}

/// Says how far a copy is.
///
/// # Errors
/// `Cancelled` if it is to stop.
pub(crate) fn report(progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>, now: CopyProgress) -> Result<()> {
    match progress(now) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::text(ErrorKind::Cancelled, "the work was stopped")),
    }
}

struct Copier<'a> {
    target: &'a dyn Storage,
    kind: RawTarget,
    mover: Mover<'a>,
}

impl<'a> Copier<'a> {
    /// Makes the target have, at these bytes, what is at a place; says up to where it has it then.
    fn take(&mut self, place: Place<'a>, bytes: Range<u64>) -> Result<u64> {
        let end = bytes.end;
        match place {
            Place::Data { file, offset } => {
                let from = offset..offset + (end - bytes.start);
                let (target, kind) = (self.target, self.kind);
                self.mover.copy(file, from, target, bytes.start, &|range| zero(target, kind, range))?;
            }
            Place::Zero | Place::Unallocated => zero(self.target, self.kind, bytes)?,
            // Those are the business of other threads.
            Place::Compressed { .. } => {}
        }
        Ok(end)
    }
}

/// Makes bytes of a target zero, unless they are so already.
fn zero(target: &dyn Storage, kind: RawTarget, range: Range<u64>) -> Result<()> {
    if kind == RawTarget::Empty || range.is_empty() {
        return Ok(());
    }
    let text = format!("cannot write zeros from offset {:#x} to {:#x}", range.start, range.end);
    target.punch_hole(range).map_err(|cause| Error::host(text, cause))
}
