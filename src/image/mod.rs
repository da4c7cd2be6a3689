//! The disk: a chain of links as one block device. A file per verb.

mod below;
mod carry;
mod check;
mod commit;
mod compact;
mod content_id;
mod copy;
mod copy_disk;
mod device;
#[cfg(test)]
mod fixtures;
mod flatten;
mod freeze;
mod map;
mod mover;
mod options;
mod over;
mod parts;
mod prepare;
mod read;
mod rebase;
mod rename;
mod repair;
mod resize;
mod site;
mod snapshot;
mod tracking;
mod walk;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::block_device::DeviceLimits;
use crate::descriptor::{AdapterType, ContentId, CreateType, Descriptor, Geometry};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, HostFile};
use crate::link::Link;

use self::over::OpenedHow;
use self::write::Writing;

pub use check::CheckOptions;
pub use commit::CommitReport;
pub use compact::{CompactMode, CompactReport};
pub use copy::{CopyProgress, RawTarget};
pub(crate) use copy::{prepare, report};
pub use copy_disk::{CopyDiskOptions, CopyDiskReport};
pub use flatten::FlattenReport;
pub use options::{CacheMode, OpenOptions};
pub use prepare::{PreparedRange, PreparedWrite};
pub use rebase::{RebaseMode, RebaseReport};
pub use rename::{RenameOptions, RenameReport, RenamedFile};
pub use resize::{ResizeOptions, ResizeReport};
pub use walk::Runs;

/// The largest transfer size that is advertised, whatever grain a header claims: 1 MiB, the largest grain in use.
const MAX_OPTIMAL_IO_SECTORS: u64 = 2048;

/// A VMware virtual disk with its backing chain.
///
/// [`VmdkImage::open`] opens one read-only; [`OpenOptions`] is for everything else. It is read and written through
/// [`BlockDevice`](crate::BlockDevice), from any number of threads at once. Files are not changed by reading.
///
/// # What a crash may leave
///
/// After a crash at any point the image opens without repair. Every sector that was flushed has its flushed content,
/// every later one has old or new content. The worst that remains is space that nothing uses. For this a new grain is
/// written before any table names it, with a sync of the host between the two; tables are written in batches, at a
/// [`flush`](crate::BlockDevice::flush) or when much has gathered. See [`CacheMode`].
///
/// After a failed sync, or a failed write to a table or descriptor, nothing can be promised any more: writes and
/// flushes are [`Poisoned`](ErrorKind::Poisoned) until the image is opened again, reads go on. A failed write of data
/// is not of that kind: nothing has changed but the sectors written to, and it may be tried again.
///
/// # Dropping
///
/// An image that was written to is to be [closed](Self::close). Dropping it does the same and hides what fails.
#[derive(Debug)]
pub struct VmdkImage {
    disk: Arc<Disk>,
}

/// What an image and its prepared writes share.
#[derive(Debug)]
struct Disk {
    /// Youngest first; never empty.
    links: Vec<Arc<Link>>,
    capacity: u64,
    limits: DeviceLimits,
    /// What `limits` are once an image that was open for writing has become read-only.
    limits_when_ended: DeviceLimits,
    closed: AtomicBool,
    /// There if the youngest link may be written to.
    writing: Option<Writing>,
    how: OpenedHow,
}

impl VmdkImage {
    /// Opens the image at `path` read-only, with all its parents, following names inside the image only within its
    /// directory.
    ///
    /// # Errors
    /// As for [`OpenOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        OpenOptions::new().open(path)
    }

    fn new(links: Vec<Arc<Link>>, writing: Option<Writing>, how: OpenedHow) -> Self {
        let capacity = links[0].capacity_sectors();
        let largest_grain = links[0].extents().iter().map(Extent::grain_sectors).max().unwrap_or(1);
        let mut limits_when_ended = DeviceLimits::new(true);
        limits_when_ended.optimal_io_sectors = largest_grain.min(MAX_OPTIMAL_IO_SECTORS);
        let mut limits = limits_when_ended;
        if writing.is_some() {
            limits.read_only = false;
            limits.discard_granularity_sectors = largest_grain;
        }
        let closed = AtomicBool::new(false);
        Self { disk: Arc::new(Disk { links, capacity, limits, limits_when_ended, closed, writing, how }) }
    }

    /// The chain, youngest link first: the image itself, its parent, and so on to the base. Links are shared: those of
    /// a parent may be part of several open images.
    pub fn chain(&self) -> &[Arc<Link>] {
        &self.disk.links
    }

    /// The descriptor of the image itself, as it was when the image was opened.
    pub fn descriptor(&self) -> &Descriptor {
        self.disk.links[0].descriptor()
    }

    /// What the descriptor calls the type of the image; `None` for an extent without a descriptor.
    pub fn create_type(&self) -> Option<&CreateType> {
        self.descriptor().create_type()
    }

    /// What identifies the image's content; `None` if the descriptor does not say. The first write of an open image
    /// changes it.
    pub fn content_id(&self) -> Option<ContentId> {
        self.disk.links[0].content_id()
    }

    /// The content ID that the parent had when the image was made; `None` for an image without a parent.
    pub fn parent_content_id(&self) -> Option<ContentId> {
        self.disk.links[0].parent_content_id()
    }

    /// Cylinders, heads and sectors per track, as the disk database of the youngest link that has them says. Advice
    /// for a guest's BIOS: the capacity is what the extents have, never the product of these.
    pub fn geometry(&self) -> Option<Geometry> {
        self.in_database(Descriptor::geometry)
    }

    /// The controller that the disk was made for.
    pub fn adapter_type(&self) -> Option<AdapterType> {
        self.in_database(Descriptor::adapter_type)
    }

    /// The 16 bytes of `ddb.uuid`, by which guests may know the disk.
    pub fn disk_id(&self) -> Option<[u8; 16]> {
        self.in_database(Descriptor::disk_id)
    }

    /// The virtual hardware version that the disk was made for.
    pub fn hardware_version(&self) -> Option<u32> {
        self.in_database(Descriptor::hardware_version)
    }

    /// The disk database is searched from the youngest link up to the base (VMware's technical note): a delta usually
    /// has none of its own.
    fn in_database<T>(&self, look: impl Fn(&Descriptor) -> Option<T>) -> Option<T> {
        self.disk.links.iter().find_map(|link| look(link.descriptor()))
    }

    /// Every host file of the whole chain, youngest link first, each once per link.
    pub fn host_files(&self) -> Vec<&HostFile> {
        self.disk.links.iter().flat_map(|link| link.host_files()).collect()
    }

    /// Bytes that the image takes up on the host, holes not counted; without its parents.
    ///
    /// # Errors
    /// What the host reports.
    pub fn allocated_bytes(&self) -> Result<u64> {
        self.disk.links[0].allocated_bytes()
    }

    /// Ends the use of the image: publishes and syncs what was written, gives back what files have grown too far, and
    /// marks the image as closed cleanly. Calls after this are [`Closed`](ErrorKind::Closed), but for another `close`,
    /// which does nothing. Writes that are under way in other threads must have returned before.
    ///
    /// # Errors
    /// What the host reports, and [`Poisoned`](ErrorKind::Poisoned) after an earlier failure; the image is closed all
    /// the same, and keeps the mark of one that was not closed cleanly.
    pub fn close(&self) -> Result<()> {
        self.disk.close()
    }
}

impl Drop for VmdkImage {
    fn drop(&mut self) {
        // Nobody is left who could be told.
        let _ = self.disk.close();
    }
}

impl Disk {
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::text(ErrorKind::Closed, "the image was closed"));
        }
        Ok(())
    }
}
