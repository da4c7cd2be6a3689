//! The disk: a chain of links as one block device. A file per verb.

mod copy;
mod map;
mod options;
mod read;
mod walk;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::block_device::DeviceLimits;
use crate::descriptor::{AdapterType, ContentId, CreateType, Descriptor, Geometry};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, HostFile};
use crate::link::Link;

pub use copy::{CopyProgress, RawTarget};
pub use options::OpenOptions;
pub use walk::Runs;

/// The largest transfer size that is advertised, whatever grain a header claims: 1 MiB, the largest grain in use.
const MAX_OPTIMAL_IO_SECTORS: u64 = 2048;

/// A VMware virtual disk with its backing chain.
///
/// [`VmdkImage::open`] opens one read-only; [`OpenOptions`] is for everything else. It is read through
/// [`BlockDevice`](crate::BlockDevice), from any number of threads at once. Files are not changed by reading.
#[derive(Debug)]
pub struct VmdkImage {
    /// Youngest first; never empty.
    links: Vec<Link>,
    capacity: u64,
    limits: DeviceLimits,
    closed: AtomicBool,
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

    fn new(links: Vec<Link>) -> Self {
        let capacity = links[0].capacity_sectors();
        let mut limits = DeviceLimits::new(true);
        let largest_grain = links[0].extents().iter().map(Extent::grain_sectors).max();
        limits.optimal_io_sectors = largest_grain.unwrap_or(1).min(MAX_OPTIMAL_IO_SECTORS);
        Self { links, capacity, limits, closed: AtomicBool::new(false) }
    }

    /// The chain, youngest link first: the image itself, its parent, and so on to the base.
    pub fn chain(&self) -> &[Link] {
        &self.links
    }

    /// The descriptor of the image itself.
    pub fn descriptor(&self) -> &Descriptor {
        self.links[0].descriptor()
    }

    /// What the descriptor calls the type of the image; `None` for an extent without a descriptor.
    pub fn create_type(&self) -> Option<&CreateType> {
        self.descriptor().create_type()
    }

    /// What identifies the image's content; `None` if the descriptor does not say.
    pub fn content_id(&self) -> Option<ContentId> {
        self.links[0].content_id()
    }

    /// The content ID that the parent had when the image was made; `None` for an image without a parent.
    pub fn parent_content_id(&self) -> Option<ContentId> {
        self.links[0].parent_content_id()
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
        self.links.iter().find_map(|link| look(link.descriptor()))
    }

    /// Every host file of the whole chain, youngest link first, each once per link.
    pub fn host_files(&self) -> Vec<&HostFile> {
        self.links.iter().flat_map(Link::host_files).collect()
    }

    /// Bytes that the image takes up on the host, holes not counted; without its parents.
    ///
    /// # Errors
    /// What the host reports.
    pub fn allocated_bytes(&self) -> Result<u64> {
        self.links[0].allocated_bytes()
    }

    /// Ends the use of the image. Calls after this are [`Closed`](ErrorKind::Closed), but for another `close`, which
    /// does nothing.
    ///
    /// # Errors
    /// None for an image that was opened read-only.
    pub fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::text(ErrorKind::Closed, "the image was closed"));
        }
        Ok(())
    }
}
