//! Writing to a sparse extent, so that a crash at any point costs nothing that was flushed.
//!
//! Two phases. *Data*, at once: the guest's bytes, the rest of a new grain from below, and new tables, all of it in
//! space that nothing names. *Tables*, later and in batches: a changed entry is pending in memory, beside the L2 cache,
//! until it is published:
//!
//! ```text
//! take the pending set -> sync -> patch entries and directory entries -> sync
//! ```
//!
//! So an entry on disk never names a grain whose content is not there. What was freed is punched after the publication
//! that freed it, and not used again before the next open: nothing in flight can land in somebody else's grain.
//!
//! Locks, in the order in which they are taken: `starting`, `publishing`, `backed`, those of [`Space`] and of the L2
//! cache. None is held while a guest's bytes move.

mod allocation;
mod compaction;
mod empty;
mod ending;
mod fill;
mod health;
mod inspection;
mod moving;
mod publication;
mod recovery;
mod space;
mod verbs;
mod zero;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub(crate) use allocation::Reservation;
pub(crate) use compaction::{Emptying, Telling};
pub(crate) use ending::Ending;
pub(crate) use health::Health;
pub(super) use inspection::used_end;
pub(crate) use verbs::Target;
pub(crate) use zero::Zeroing;

use self::inspection::{Inspection, inspect};
use self::publication::patch_sector;
use self::space::Space;
use super::SparseExtent;
use crate::error::{Error, Result};
use crate::format::HeaderMark;

/// Memory that the pending entries of an image may take before they are published without a flush. At twice as much
/// writers wait.
const MAX_PENDING: usize = 8 << 20;

/// What each extent of an image may take of it, however many there are.
const MIN_PENDING: usize = 4 << 10;

/// What lies below an extent: the parents of its link, at the same sectors.
pub(crate) trait Below {
    /// Whether there is anything below.
    fn exists(&self) -> bool;

    /// Whether the sectors from `sector` of the extent on are known to be zero below, and for how many of the next
    /// `max` the same holds.
    fn is_zero(&self, sector: u64, max: u64) -> Result<(bool, u64)>;

    /// Fills `buf` from `sector` of the extent on; what no link has is zero.
    fn read(&self, sector: u64, buf: &mut [u8]) -> Result<()>;
}

/// What a write to an extent needs of the disk around it.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) below: &'a dyn Below,
    /// What the disk does once, before its first change: a new content ID.
    pub(crate) begin: &'a dyn Fn() -> Result<()>,
    /// Sectors of the extent that are part of the disk.
    pub(crate) sectors: u64,
}

/// The state of a sparse extent that is open for writing.
#[derive(Debug)]
pub(crate) struct Writer {
    health: Arc<Health>,
    /// Whether publications sync.
    barriers: bool,
    /// Memory that pending entries may take before they are published without a flush.
    max_pending: usize,
    ready: OnceLock<Ready>,
    begun: AtomicBool,
    /// There once nothing is written or published any more.
    ending: OnceLock<Ending>,
    starting: Mutex<()>,
    /// Tables that have their place in the file, so that to patch them takes no space.
    backed: Mutex<HashSet<u32>>,
    publishing: Mutex<()>,
    /// Buffers for grains that are filled from below.
    buffers: Mutex<Vec<Vec<u8>>>,
}

#[derive(Debug)]
struct Ready {
    space: Space,
    found: Inspection,
}

impl Writer {
    /// The state of one of `extents` extents that are written to together.
    pub(crate) fn new(health: Arc<Health>, barriers: bool, extents: usize) -> Self {
        Self {
            health,
            barriers,
            max_pending: (MAX_PENDING / extents.max(1)).max(MIN_PENDING),
            ready: OnceLock::new(),
            begun: AtomicBool::new(false),
            ending: OnceLock::new(),
            starting: Mutex::default(),
            backed: Mutex::default(),
            publishing: Mutex::default(),
            buffers: Mutex::default(),
        }
    }

    /// Whether something may still be written.
    ///
    /// # Errors
    /// `Poisoned`, `Closed`, `ReadOnly`.
    #[inline]
    fn check(&self) -> Result<()> {
        self.health.check()?;
        self.ending.get().map_or(Ok(()), |ending| Err(ending.error()))
    }

    #[inline]
    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// The error of a change that came too late to be published.
    #[cold]
    fn too_late(&self) -> Error {
        self.ending.get().unwrap_or(&Ending::Closed).error()
    }
}

impl SparseExtent {
    /// Sees to it that the extent can be written to: its tables are looked through, and put right if its last writer
    /// did not close it.
    #[inline]
    pub(super) fn begin(&self, around: Surroundings<'_>) -> Result<&Writer> {
        let writer = self.writer()?;
        writer.check()?;
        if !writer.has_begun() {
            self.begin_slowly(writer, around)?;
        }
        Ok(writer)
    }

    #[cold]
    fn begin_slowly(&self, writer: &Writer, around: Surroundings<'_>) -> Result<()> {
        let _starting = lock(&writer.starting);
        writer.check()?;
        if writer.has_begun() {
            return Ok(());
        }
        let ready = self.ready(writer)?;
        (around.begin)()?;
        let settled = self.mark_unclean().and_then(|()| recovery::settle(self.tables(), &ready.found));
        // The tables on disk may be others now, and an entry past the end must not be remembered when the file grows.
        self.cache().clear();
        writer.health.watch(settled)?;
        recovery::add_copies(self.tables(), &ready.found, &ready.space, &writer.health)?;
        writer.begun.store(true, Ordering::Release);
        Ok(())
    }

    /// Puts the tables right if the last writer did not close the extent, so that it may be marked as closed.
    ///
    /// # Errors
    /// As for [`check_tables`](Self::check_tables).
    pub(crate) fn settle(&self, around: Surroundings<'_>) -> Result<()> {
        if self.is_unclean() { self.begin(around).map(drop) } else { Ok(()) }
    }

    /// Whether nobody has put the tables right that its last writer has left.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.is_unclean() && !self.writer().is_ok_and(Writer::has_begun)
    }

    /// Looks through the tables, once; nothing is changed.
    ///
    /// # Errors
    /// `Corrupt` for an extent that cannot be written to before it is repaired; what the host reports.
    #[inline]
    pub(crate) fn check_tables(&self) -> Result<()> {
        let writer = self.writer()?;
        if writer.ready.get().is_some() {
            return Ok(());
        }
        let _starting = lock(&writer.starting);
        self.ready(writer).map(|_| ())
    }

    /// As `check_tables`, for who holds the lock for that.
    fn ready<'a>(&self, writer: &'a Writer) -> Result<&'a Ready> {
        if let Some(ready) = writer.ready.get() {
            return Ok(ready);
        }
        let mut found = inspect(self.tables())?;
        let gaps = std::mem::take(&mut found.gaps);
        let space = Space::new(found.end, gaps, found.full, self.tables().layout().mark);
        Ok(writer.ready.get_or_init(|| Ready { space, found }))
    }

    /// Not synced: whatever a crash must not find in a clean image is written after a sync of its own.
    fn mark_unclean(&self) -> Result<()> {
        match self.tables().layout().mark {
            HeaderMark::Unclean { at } => patch_sector(self.file(), at, &[1]),
            HeaderMark::FreeSector { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
