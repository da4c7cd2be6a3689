//! Writing: the extents of the youngest link, one after the other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::below::Parents;
use super::content_id::Rewrite;
use super::tracking::Untracking;
use super::{CacheMode, Disk};
use crate::block_device::{WriteFlags, read_only};
use crate::descriptor::Access;
use crate::error::Result;
use crate::extent::{Ending, Extent, Health, Payload, Surroundings, Writer, Zeroing};
use crate::link::{DroppedTracking, Link};

/// The state of an image that is open for writing.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) health: Arc<Health>,
    mode: CacheMode,
    pub(super) rewrite: Rewrite,
    /// There if the disk is tracked, and is not to be when it is written to.
    untracking: Option<Untracking>,
    /// What came of that.
    pub(super) dropped_tracking: OnceLock<DroppedTracking>,
    begun: AtomicBool,
    pub(super) beginning: Mutex<()>,
    pub(super) flushing: Mutex<()>,
    /// No write begins, for now or for good.
    pub(super) frozen: AtomicBool,
    /// For good: it is closed like an image that nobody reads any more.
    pub(super) ended: AtomicBool,
    pub(super) freezing: Mutex<()>,
    /// Prepared writes that are neither committed nor given up: somebody may be about to write to the files.
    pub(super) prepared: AtomicUsize,
    /// The generation that a disk of VMware 2 or 3 was given.
    pub(super) generation: OnceLock<u32>,
}

impl Writing {
    /// Lets the extents of a link be written to.
    pub(super) fn allow(link: &Link, mode: CacheMode, rewrite: Rewrite, untracking: Option<Untracking>) -> Self {
        let health = Arc::new(Health::default());
        let writable = link.extents().iter().filter(|extent| extent.access() == Access::ReadWrite);
        let sparse: Vec<_> = writable.filter_map(Extent::sparse).collect();
        for extent in &sparse {
            extent.allow_writing(Writer::new(Arc::clone(&health), mode != CacheMode::Unsafe, sparse.len()));
        }
        Self {
            health,
            mode,
            rewrite,
            untracking,
            dropped_tracking: OnceLock::new(),
            begun: AtomicBool::new(false),
            beginning: Mutex::default(),
            flushing: Mutex::default(),
            frozen: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            freezing: Mutex::default(),
            prepared: AtomicUsize::new(0),
            generation: OnceLock::new(),
        }
    }

    /// Lets the content ID be what it is: what a guest sees stays the same, or somebody else has changed the ID.
    pub(super) fn keep_content_id(&self) {
        self.begun.store(true, Ordering::Release);
    }

    /// Whether no write begins.
    ///
    /// # Errors
    /// `ReadOnly` then.
    #[inline]
    fn check_frozen(&self) -> Result<()> {
        if self.frozen.load(Ordering::Acquire) { Err(read_only()) } else { Ok(()) }
    }

    /// Whether the image has become read-only for good.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

pub(super) fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// Writes `payload` from `start` on, which the caller has checked.
    #[inline]
    pub(super) fn write(&self, start: u64, payload: Payload<'_>, flags: WriteFlags) -> Result<()> {
        let writing = self.writing()?;
        let extents = self.links[0].map_of_extents();
        let mut rest = payload;
        for (extent, _, sectors) in extents.parts(start, payload.sectors()) {
            let (now, later) = rest.split(sectors);
            extent.check_write(now)?;
            rest = later;
        }
        self.check_tables(writing, start, payload.sectors())?;
        let begin = || self.begin(writing);
        let mut rest = payload;
        for (extent, within, sectors) in extents.parts(start, payload.sectors()) {
            let (now, later) = rest.split(sectors);
            let below = Parents::of(self, extent);
            extent.write(within, now, Surroundings { below: &below, begin: &begin, sectors: extent.sectors() })?;
            rest = later;
        }
        self.written(writing, flags)
    }

    /// Makes `count` sectors from `start` on, which the caller has checked, read as zeros.
    pub(super) fn zero(&self, start: u64, count: u64, zeroing: Zeroing) -> Result<()> {
        self.zero_over(self, start, count, zeroing)
    }

    /// As `zero`, so that they read as zeros over the parents of `other`, which is the same image with other ones.
    pub(super) fn zero_over(&self, other: &Self, start: u64, count: u64, zeroing: Zeroing) -> Result<()> {
        let writing = self.writing()?;
        let extents = self.links[0].map_of_extents();
        for (extent, _, _) in extents.parts(start, count) {
            extent.check_write(Payload::Zeros { sectors: 1 })?;
        }
        self.check_tables(writing, start, count)?;
        let begin = || self.begin(writing);
        for (extent, within, sectors) in extents.parts(start, count) {
            let below = Parents::of(other, extent);
            let around = Surroundings { below: &below, begin: &begin, sectors: extent.sectors() };
            extent.zero(within, sectors, zeroing, around)?;
        }
        self.written(writing, WriteFlags::NONE)
    }

    /// Lets the image have nothing of its own any more, durably: it reads as its parents do from then on, and must have
    /// done so before. Its space is given back. Nothing may be written to it afterwards but by a new open.
    pub(super) fn empty(&self) -> Result<()> {
        let writing = self.writing()?;
        let begin = || self.begin(writing);
        for extent in self.links[0].extents() {
            let Some(sparse) = extent.sparse() else { continue };
            let below = Parents::of(self, extent);
            sparse.empty(Surroundings { below: &below, begin: &begin, sectors: extent.sectors() })?;
        }
        Ok(())
    }

    /// Whether a request may change anything: of several extents none is written to if one cannot be.
    #[inline]
    pub(super) fn check_tables(&self, writing: &Writing, start: u64, count: u64) -> Result<()> {
        writing.health.check()?;
        self.links[0].map_of_extents().parts(start, count).try_for_each(|(extent, ..)| extent.check_tables())
    }

    /// What is done after a change.
    ///
    /// # Errors
    /// `ReadOnly` if the image was frozen meanwhile: the change may have come too late to be made durable by that.
    #[inline]
    pub(super) fn written(&self, writing: &Writing, flags: WriteFlags) -> Result<()> {
        writing.check_frozen()?;
        if flags.fua || writing.mode == CacheMode::Writethrough { self.flush() } else { Ok(()) }
    }

    /// What is done once, before the first change of an open image.
    #[inline]
    pub(super) fn begin(&self, writing: &Writing) -> Result<()> {
        if writing.begun.load(Ordering::Acquire) { Ok(()) } else { self.begin_slowly(writing) }
    }

    #[cold]
    fn begin_slowly(&self, writing: &Writing) -> Result<()> {
        let _beginning = lock(&writing.beginning);
        if writing.begun.load(Ordering::Acquire) {
            return Ok(());
        }
        writing.check_frozen()?;
        writing.health.check()?;
        let new_id = match writing.untracking {
            Some(how) => self.drop_tracking(writing, how)?,
            None => self.change_content_id(writing)?,
        };
        if let Some(id) = new_id {
            self.links[0].set_content_id(id);
        }
        writing.begun.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes every completed write durable. One that comes during another waits for it, and then does the rest.
    pub(super) fn flush(&self) -> Result<()> {
        let Some(writing) = &self.writing else { return Ok(()) };
        let _flushing = lock(&writing.flushing);
        if writing.has_ended() { writing.health.check() } else { self.flush_extents(writing) }
    }

    fn flush_extents(&self, writing: &Writing) -> Result<()> {
        writing.health.check()?;
        let written = self.links[0].extents().iter().filter(|extent| extent.access() == Access::ReadWrite);
        for extent in written {
            writing.health.watch(extent.flush())?;
        }
        Ok(())
    }

    pub(super) fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let Some(writing) = &self.writing else { return Ok(()) };
        let _flushing = lock(&writing.flushing);
        if writing.has_ended() { writing.health.check() } else { self.end_extents(writing, Ending::Closed) }
    }

    /// Publishes everything, and marks the image as closed cleanly. For who holds the lock for flushing.
    pub(super) fn end_extents(&self, writing: &Writing, ending: Ending) -> Result<()> {
        self.flush_extents(writing)?;
        for sparse in self.links[0].extents().iter().filter_map(Extent::sparse) {
            sparse.end_writing(ending)?;
        }
        writing.health.watch(self.save_generation(writing))
    }

    /// The state of an image that may be written to.
    ///
    /// # Errors
    /// `ReadOnly` for one that may not.
    #[inline]
    pub(super) fn writing(&self) -> Result<&Writing> {
        let writing = self.writing.as_ref().ok_or_else(read_only)?;
        writing.check_frozen()?;
        Ok(writing)
    }
}
