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
//!
//! Without a descriptor (disks of VMware 2 and 3, extents by themselves) the header of the last extent says it, and
//! takes the place of the descriptor in this order.

mod growth;
mod headers;
mod shrinking;
mod text;

use std::ops::ControlFlow;
use std::path::Path;

use super::below::Parents;
use super::site::{Place, Site};
use super::{CopyProgress, Disk, OpenOptions, VmdkImage, report};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, HostFile, Surroundings};
use crate::format::SparseHeader;
use crate::link::{DescriptorFile, later_part};
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
    /// Gives the disk at `path` the size of `capacity` sectors. What is there in both sizes stays the same, and what
    /// comes with a larger size reads as zeros, also over a larger parent and where the disk was larger before.
    ///
    /// Hosted sparse extents get larger tables where a new extent would have them, and the first grains move out of
    /// their way; COWD extents get a longer directory behind everything. The last extent of a split disk grows up to
    /// the usual size, and new ones follow in new files, more of them than may be open at once if need be; to write to
    /// such a disk takes all of its files open, to read it does not. Flat files become longer or shorter. Extents that
    /// a smaller disk does not need go, and so do their files if they lie beside the descriptor and hold nothing else.
    /// The descriptor gets the sizes, the geometry of such a disk if it had one, and another content ID, in one step.
    ///
    /// Disks without a descriptor have their size in their headers, and change in the same way: those of VMware 2 and
    /// 3, and sparse extents by themselves where these may be written to
    /// ([`allow_bare_extent`](Self::allow_bare_extent)). A disk of VMware 3 in several files grows as far as its last
    /// file can, and keeps all of its files.
    ///
    /// The guest's partitions and file systems are its own affair. Deltas of the disk fit no more, as after any write.
    /// A delta itself may have another size than its parent; products of VMware refuse such a chain.
    ///
    /// Whenever it is stopped, by `progress`, by an error or by a crash, the disk has its old size or the new one, with
    /// all of its content; the same call again goes on from there, and cleans up also if the size is right already.
    /// What may be left besides are files of extents that the disk does not name. Everything is durable when this
    /// returns.
    ///
    /// `progress` is called at least once for each 16 MiB, counted in whole grains, of what is moved, of what is zeroed
    /// over a larger parent, and of what a smaller disk would lose, which is looked at first. Each of these has a count
    /// of its own. While tables are written, and while what a smaller disk does not need is given back, it is called
    /// without one.
    ///
    /// # Errors
    /// As for opening for writing ([`open`](Self::open)), among others [`Unsupported`](ErrorKind::Unsupported) for
    /// compressed disks. [`InvalidInput`](ErrorKind::InvalidInput) for a size that the disk cannot have, for a smaller
    /// one that is not [allowed](ResizeOptions::allow_shrink), and for one that would lose something;
    /// [`Unsupported`](ErrorKind::Unsupported) for disks on devices, for descriptors that name no extent or have no
    /// room for the text, for extents that a guest may not write, and for children of VMware 3 in several files;
    /// [`ContentIdMismatch`](ErrorKind::ContentIdMismatch) for a parent that was changed, even if such ones are
    /// [allowed](Self::ignore_cid_mismatch); all of these before anything is changed.
    ///
    /// Then [`Full`](ErrorKind::Full) where a file has no numbers left for what moves in it or is new: a disk that
    /// grows keeps its old size then, and what was moved is good where it is. [`Cancelled`](ErrorKind::Cancelled) when
    /// `progress` breaks; what the host reports.
    pub fn resize(
        &self,
        path: impl AsRef<Path>,
        capacity: u64,
        options: ResizeOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<ResizeReport> {
        self.resize_at(Place::Host(path.as_ref()), capacity, options, progress)
    }

    /// As [`resize`](Self::resize), of the disk whose descriptor is in the file `name` of `directory`, with all files
    /// that it names. Nothing is locked but by the directory.
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
        let open = self.for_work();
        let site = Site::new(&open, place);
        let image = site.open(&open)?;
        image.disk.check_parents()?;
        let link = &image.chain()[0];
        let (directory, name) = site.directory_of(link)?;
        // Whoever uses the disk is to use all of it.
        let last = link.extents().last().and_then(Extent::file);
        let for_extents = directory.like_file(last.map_or(link.path(), HostFile::path));
        let (directory, for_extents) = (directory.as_dyn(), for_extents.as_dyn());
        // What a header says by itself, no descriptor has to.
        let has_descriptor = !link.descriptor().as_bytes().is_empty();
        let own = has_descriptor.then(|| DescriptorFile::new(link, directory, &name)).transpose()?;
        // An earlier call may have been killed before its last step was durable, and what follows counts on that.
        site.settle(link)?;
        let mut work = Resizing {
            image: &image,
            directory,
            for_extents,
            name: &name,
            own,
            progress,
            report: ResizeReport::default(),
        };
        work.run(capacity, options).map_err(|error| error.in_file(link.path()))?;
        Ok(work.report)
    }
}

/// A disk that is being resized.
struct Resizing<'a, 'p> {
    image: &'a VmdkImage,
    directory: &'a dyn Directory,
    /// The same one, for the files of new extents.
    for_extents: &'a dyn Directory,
    /// The file with the descriptor.
    name: &'a str,
    /// The descriptor, which says how large the disk is; of a disk without one, the headers of its extents do.
    own: Option<DescriptorFile<'a>>,
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
        if self.image.descriptor().is_on_device() {
            return unsupported("a disk on a device is as large as that is");
        }
        if self.own.is_some() && self.image.descriptor().extents().is_empty() {
            return unsupported("the descriptor names no extent, and so does not say how large the disk is");
        }
        if self.own.is_none() {
            self.check_parts(capacity)?;
        }
        for extent in self.disk().links[0].extents() {
            extent.check_tables()?;
        }
        if capacity > old {
            let growth = Growth::plan(self, capacity)?;
            self.begin(capacity)?;
            growth.carry_out(self)?;
        } else {
            let shrinking = Shrinking::plan(self, capacity)?;
            self.begin(capacity)?;
            shrinking.carry_out(self, options.allow_shrink)?;
        }
        if self.own.is_none() { headers::follow(self.extents(), capacity) } else { Ok(()) }
    }

    /// What is done before the first change: a descriptor gets its content ID with its text.
    fn begin(&self, capacity: u64) -> Result<()> {
        let disk = self.disk();
        if self.own.is_some() {
            return Ok(());
        }
        let writing = disk.writing()?;
        let begin = || disk.begin(writing);
        // Of the same size only what a crash has left is put right.
        for extent in self.extents() {
            let below = Parents::of(disk, extent);
            let around = Surroundings { below: &below, begin: &begin, sectors: extent.sectors() };
            extent.sparse().map_or(Ok(()), |sparse| sparse.settle(around))?;
        }
        if capacity == disk.capacity { Ok(()) } else { begin() }
    }

    /// Refuses to give another size to one of several files without a descriptor, if the others depend on it.
    fn check_parts(&self, capacity: u64) -> Result<()> {
        let link = &self.disk().links[0];
        let Some(header) = link.header().and_then(SparseHeader::as_cowd) else { return Ok(()) };
        if later_part(header).is_some() {
            return unsupported("a later file of a disk of several files; the first one opens the disk");
        }
        let last = link.extents().last().map_or(0, Extent::start_sector);
        if header.file_count > 1 && header.is_child() {
            return unsupported(
                "how the files of a child of VMware 3 share another size is not known; convert it first",
            );
        }
        if capacity <= last {
            return unsupported("each file of a disk of VMware 3 says how many there are, so none is left out");
        }
        Ok(())
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
