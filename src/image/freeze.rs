//! A disk that is open for writing becomes read-only while it is open: for a child that is made of it.
//!
//! First for a while ([`Disk::freeze`]): no write begins any more, and what was written before is durable. If making
//! the child fails, writes go on as before; if not, [`Frozen::end`] makes the handle read-only for good, closes what is
//! written as [`close`](super::VmdkImage::close) does, and lets other programs read the files.
//!
//! A write that is under way in another thread meanwhile has to have returned before. If it has not, it may be carried
//! out or not: it is an error if it comes back later than the freeze, it changes no content ID, and in a sparse extent
//! no table. What it can do is to overwrite what had its place already.

use std::sync::MutexGuard;
use std::sync::atomic::{Ordering, fence};

use super::Disk;
use super::write::{Writing, lock};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Ending;

/// A disk that takes no writes until this is dropped.
#[must_use = "writes go on when it is dropped"]
#[derive(Debug)]
pub(super) struct Frozen<'a> {
    disk: &'a Disk,
    /// There if the disk took writes when it was opened.
    writing: Option<&'a Writing>,
    /// Keeps out others who freeze it.
    _alone: Option<MutexGuard<'a, ()>>,
}

impl Disk {
    /// Lets no write begin any more, and makes durable what was written before. Until what is given back is dropped,
    /// writes are `ReadOnly`. Nothing happens to a disk that takes no writes anyway. One who freezes it waits for
    /// another.
    ///
    /// # Errors
    /// `Busy` while there are prepared writes; as for a flush; then writes go on.
    pub(super) fn freeze(&self) -> Result<Frozen<'_>> {
        self.check_open()?;
        let Some(writing) = &self.writing else { return Ok(Frozen { disk: self, writing: None, _alone: None }) };
        let alone = lock(&writing.freezing);
        // Before others are kept out as well: a commit should not fail for a freeze that comes to nothing.
        self.check_prepared(writing)?;
        {
            // From now on the content ID stays what it is.
            let _beginning = lock(&writing.beginning);
            writing.frozen.store(true, Ordering::SeqCst);
        }
        let frozen = Frozen { disk: self, writing: Some(writing), _alone: Some(alone) };
        fence(Ordering::SeqCst);
        self.check_prepared(writing)?;
        self.flush()?;
        Ok(frozen)
    }

    /// Whether nobody may be about to write to its files.
    fn check_prepared(&self, writing: &Writing) -> Result<()> {
        if writing.prepared.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let text = "there are prepared writes that were neither committed nor aborted";
        Err(Error::text(ErrorKind::Busy, text).in_file(self.links[0].path()))
    }

    /// Whether it has become read-only for good.
    pub(super) fn has_ended(&self) -> bool {
        self.writing.as_ref().is_some_and(Writing::has_ended)
    }
}

impl Frozen<'_> {
    /// Makes the disk read-only for good: marks it as closed cleanly, and turns the locks of its files into those for
    /// reading. Reads go on. It may be done again.
    ///
    /// # Errors
    /// As for a close; `Locked` if another program got a file while its lock was turned around. Also then nothing is
    /// written any more.
    pub(super) fn end(self) -> Result<()> {
        let Some(writing) = self.writing else { return Ok(()) };
        {
            let _flushing = lock(&writing.flushing);
            self.disk.check_open()?;
            if writing.has_ended() {
                writing.health.check()?;
            } else {
                writing.ended.store(true, Ordering::Release);
                self.disk.end_extents(writing, Ending::ReadOnly)?;
            }
        }
        self.disk.links[0].end_writing()
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Some(writing) = self.writing
            && !writing.has_ended()
        {
            writing.frozen.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;
