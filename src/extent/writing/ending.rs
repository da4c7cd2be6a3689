//! The end of writing to an extent.
//!
//! Writes that are under way must have returned by then, but those who call may be wrong about it. So each step that
//! would change something is refused under the lock that it needs anyway: to begin (`starting`), to take space or give
//! it back ([`Space`](super::space::Space)), to change an entry (the L2 cache). What was changed before is published,
//! what comes later is seen by nobody. In grains that have their place already, a late write lands where it belongs.

use super::publication::patch_sector;
use super::{SparseExtent, lock};
use crate::block_device::read_only;
use crate::error::{Error, ErrorKind, Result};
use crate::format::HeaderMark;
use crate::sector::SECTOR_BYTES;

/// Why nothing is written any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The image was closed.
    Closed,
    /// The image is only read from now on.
    ReadOnly,
}

impl Ending {
    /// The error of those who would write all the same.
    #[cold]
    pub(super) fn error(self) -> Error {
        match self {
            Self::Closed => Error::text(ErrorKind::Closed, "the image was closed"),
            Self::ReadOnly => read_only(),
        }
    }
}

impl SparseExtent {
    /// Publishes everything, returns the unused end of the file, and marks the extent as closed. It can be read as
    /// before. Nothing happens if writing has ended already.
    pub(crate) fn end_writing(&self, ending: Ending) -> Result<()> {
        let Ok(writer) = self.writer() else { return Ok(()) };
        {
            // A write that begins now would begin all of it again.
            let _starting = lock(&writer.starting);
            if writer.ending.set(ending).is_err() {
                return Ok(());
            }
        }
        let _publishing = lock(&writer.publishing);
        self.cache().seal();
        self.publish_all(writer)?;
        let (true, Some(ready)) = (writer.has_begun(), writer.ready.get()) else { return Ok(()) };
        let closed = || {
            let end = ready.space.close(ending) * SECTOR_BYTES;
            if end < self.file().len() {
                self.file().set_len(end)?;
            }
            self.raise_free_sector(ready)?;
            if let HeaderMark::Unclean { at } = self.tables().layout().mark {
                patch_sector(self.file(), at, &[0])?;
            }
            self.file().sync()
        };
        writer.health.watch(closed())
    }
}
