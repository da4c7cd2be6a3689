//! A disk that becomes larger or smaller.
//!
//! How large a disk is, its descriptor says, and that changes in one step. Everything before it only makes room that
//! nobody sees, and everything after it only gives back what nobody sees any more:
//!
//! ```text
//! larger    grains out of the way -> headers and tables -> zeros over larger parents -> new files -> descriptor
//! smaller   nothing that is not zero would be lost -> descriptor -> entries, headers, files that are not needed
//! ```
//!
//! A crash leaves the old size or the new one, and the same call made again goes on from there.

mod growth;
mod shrinking;
mod text;

use std::ops::ControlFlow;
use std::path::Path;

use super::site::{Place, Site};
use super::{CacheMode, CopyProgress, Disk, OpenOptions, VmdkImage, report};
use crate::descriptor::CreateType;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, HostFile};
use crate::link::DescriptorFile;
use crate::sector::{MAX_SECTORS, SECTOR_BYTES};
use crate::storage::Directory;

use self::growth::Growth;
use self::shrinking::Shrinking;

/// What a disk may lose when it is resized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct ResizeOptions {
    allow_shrink: bool,
}

impl ResizeOptions {
    /// A disk may become larger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the disk become smaller, if the sectors that it loses read as zeros.
    pub fn allow_shrink(mut self, allow: bool) -> Self {
        self.allow_shrink = allow;
        self
    }
}

/// What resizing has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResizeReport {
    /// The size of the disk before, in sectors.
    pub old_sectors: u64,
    /// Its size now.
    pub new_sectors: u64,
    /// Grains that were moved to make room for larger tables.
    pub grains_moved: u64,
    /// The names of the files that the disk has got for new extents.
    pub files_added: Vec<String>,
    /// The names of the files that it has lost with its last extents.
    pub files_removed: Vec<String>,
}

impl OpenOptions {
    /// Gives the disk at `path` the size of `capacity` sectors. What is there in both sizes stays the same, and what comes
    /// with a larger size reads as zeros, also over a larger parent and where the disk was larger before.
    ///
    /// Sparse extents get larger tables where a new extent would have them, and the first grains move out of their way. The
    /// last extent of a split disk grows up to the usual size, and new ones follow in new files. There may be more of them
    /// than may be open at once; to write to such a disk takes all of its files open, to read it does not. Flat files
    /// become longer or shorter. Extents that a smaller disk does not need are removed with their files. The descriptor
    /// gets the sizes, the geometry of such a disk if it had one, and another content ID, in one step.
    ///
    /// The guest's partitions and file systems are its own affair. Deltas of the disk fit no more, as after any write. A
    /// delta itself may have another size than its parent; products of VMware refuse such a chain.
    ///
    /// Whenever it is stopped, by `progress`, by an error or by a crash, the disk has its old size or the new one, with all
    /// of its content; the same call again goes on from there, and cleans up also if the size is right already. What a
    /// crash may leave besides are files of extents that the disk does not name. Everything is durable when this returns.
    /// `progress` is called at least for each 16 MiB that are moved or looked at.
    ///
    /// # Errors
    /// As for opening for writing ([`open`](Self::open)), among others [`Unsupported`](ErrorKind::Unsupported) for
    /// compressed disks. [`InvalidInput`](ErrorKind::InvalidInput) for a size that the disk cannot have, for a smaller one
    /// that is not [allowed](ResizeOptions::allow_shrink), and for one that would lose something;
    /// [`Unsupported`](ErrorKind::Unsupported) for disks on devices, for sparse extents without a descriptor, for
    /// descriptors without room for the text, and for extents that a guest may not write;
    /// [`ContentIdMismatch`](ErrorKind::ContentIdMismatch) for a parent that was changed, even if such ones are
    /// [allowed](Self::ignore_cid_mismatch);
    /// [`Full`](ErrorKind::Full) where the format has no numbers left; all of these before anything is changed.
    /// [`Cancelled`](ErrorKind::Cancelled) when `progress` breaks; what the host reports.
    pub fn resize(
        &self,
        path: impl AsRef<Path>,
        capacity: u64,
        options: ResizeOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<ResizeReport> {
        self.resize_at(Place::Host(path.as_ref()), capacity, options, progress)
    }

    /// As [`resize`](Self::resize), of the disk whose descriptor is in the file `name` of `directory`, with all files that
    /// it names. Nothing is locked but by the directory.
    ///
    /// # Errors
    /// As for [`resize`](Self::resize).
    pub fn resize_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        capacity: u64,
        options: ResizeOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<ResizeReport> {
        self.resize_at(Place::In(name, directory), capacity, options, progress)
    }

    fn resize_at(
        &self,
        place: Place<'_>,
        capacity: u64,
        options: ResizeOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<ResizeReport> {
        // What is moved has to be durable before its place is given up, however a guest's writes would be treated.
        let open = self.clone().write(true).cache_mode(CacheMode::Writeback);
        let site = Site::new(&open, place);
        let image = site.open(&open)?;
        image.disk.check_parents()?;
        let link = &image.chain()[0];
        let (directory, name) = site.directory_of(link)?;
        let directory = directory.as_dyn();
        let own = DescriptorFile::new(link, directory, &name)?;
        let mut work =
            Resizing { image: &image, directory, name: &name, own, progress, report: ResizeReport::default() };
        work.run(capacity, options).map_err(|error| error.in_file(link.path()))?;
        Ok(work.report)
    }
}

/// A disk that is being resized.
struct Resizing<'a, 'p> {
    image: &'a VmdkImage,
    directory: &'a dyn Directory,
    /// The file with the descriptor.
    name: &'a str,
    own: DescriptorFile<'a>,
    progress: &'p mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    report: ResizeReport,
}

impl<'a> Resizing<'a, '_> {
    fn run(&mut self, capacity: u64, options: ResizeOptions) -> Result<()> {
        let old = self.disk().capacity;
        (self.report.old_sectors, self.report.new_sectors) = (old, capacity);
        if capacity == 0 || capacity > MAX_SECTORS {
            return refused(format!("a disk of {capacity} sectors; it has 1 to {MAX_SECTORS}"));
        }
        if capacity < old && !options.allow_shrink {
            return refused(format!(
                "the disk has {old} sectors, and would have only {capacity}: it becomes smaller only if that is asked for \
                 (allow_shrink)"
            ));
        }
        let create_type = self.image.descriptor().create_type().map(CreateType::canonical);
        if matches!(create_type, Some(CreateType::FullDevice | CreateType::PartitionedDevice)) {
            return unsupported("a disk on a device is as large as that is");
        }
        if self.image.descriptor().extents().is_empty() {
            return unsupported("the descriptor names no extent, and so does not say how large the disk is");
        }
        for extent in self.disk().links[0].extents() {
            extent.check_tables()?;
        }
        if capacity > old {
            let growth = Growth::plan(self, capacity)?;
            growth.carry_out(self)
        } else {
            let shrinking = Shrinking::plan(self, capacity)?;
            shrinking.carry_out(self, options.allow_shrink)
        }
    }

    fn disk(&self) -> &'a Disk {
        &self.image.disk
    }

    fn extents(&self) -> &'a [Extent] {
        self.disk().links[0].extents()
    }

    /// Says how many of so many bytes are done.
    fn tell(&mut self, done: u64, total: u64) -> Result<()> {
        report(self.progress, CopyProgress { done: done.min(total), total })
    }

    /// Whether another extent than this one lies in its file.
    fn is_shared(&self, number: usize) -> bool {
        let identity = |extent: &Extent| extent.file().map(HostFile::identity);
        let own = self.extents().get(number).and_then(identity);
        let others = self.extents().iter().enumerate().filter(|(other, _)| *other != number);
        own.is_some() && others.into_iter().any(|(_, other)| identity(other) == own)
    }
}

/// The end of a flat extent in its file, in bytes.
fn end_in_file(extent: &Extent, sectors: u64) -> Option<u64> {
    extent.file_offset()?.checked_add(sectors.checked_mul(SECTOR_BYTES)?)
}

fn refused<T>(text: String) -> Result<T> {
    Err(Error::text(ErrorKind::InvalidInput, text))
}

fn unsupported<T>(text: &'static str) -> Result<T> {
    Err(Error::text(ErrorKind::Unsupported, text))
}
