//! What a child has goes into its parent, and the child is empty then: it reads as before, at every moment.
//!
//! Two files cannot change at once, and the parent may have other children, which would read a mixture of two disks. So
//! it happens in this order, each step durable before the next:
//!
//! ```text
//! 1. child    a line says which content ID the parent is about to get      (`CommitIntent`)
//! 2. parent   gets it: from now on nobody else's child is opened over it
//! 3. child    says that this is its parent: other programs open the pair, too
//! 4. parent   gets the grains of the child, and its tables name them
//! 5. child    its entries become 0, its space is given back; then the line goes
//! ```
//!
//! What the child has hides what changes in the parent, until both are the same. Whoever does it again after a crash
//! begins anew with another content ID, and writes what the child has once more: somebody may have made a child of the
//! parent as it was in between, which is another disk as soon as it changes again. Only if the child is empty, the
//! parent has everything and stays as it is.

mod merge;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::site::{Place, Site};
use super::{CopyProgress, OpenOptions, VmdkImage, report};
use crate::block_device::BlockDevice;
use crate::descriptor::{Access, CommitIntent, ContentId, Descriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::link::{DescriptorFile, Link};
use crate::sector::{SECTOR_BYTES, to_usize};
use crate::storage::Directory;

use self::merge::Merge;

/// What a commit has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitReport {
    /// Links that had something, and have nothing any more.
    pub merged_links: usize,
    /// Bytes that were copied into a parent. Of a run of links some count more than once.
    pub copied_bytes: u64,
    /// Bytes that a parent reads as zeros now.
    pub zeroed_bytes: u64,
    /// Whether this was the rest of a commit that had stopped on the way.
    pub resumed: bool,
    /// The content ID that the last link has into which something was merged; `None` if there was nothing to merge.
    /// That is the base, unless the links right above it had nothing.
    pub content_id: Option<ContentId>,
}

impl OpenOptions {
    /// Merges the image at `path` into the link `base` of its [chain](VmdkImage::chain), with all links between them: 1
    /// is its parent. The disk reads as before, and afterwards the image and the links between have nothing of their
    /// own. They stay, as children of what is below them, and can be deleted when nothing needs them. The image keeps
    /// its content ID, so that whatever was made of it stays good.
    ///
    /// Every link below the image, down to `base`, into which something is merged is another disk then and gets another
    /// content ID. Every other child of one of them is refused from the moment on when the first byte may have changed
    /// ([`ContentIdMismatch`](ErrorKind::ContentIdMismatch)): it would read a mixture. Nothing knows which other
    /// children there are: that is for the caller to know.
    ///
    /// Several links are merged one after the other, the image first. `progress` counts the bytes of each; it stops the
    /// work by breaking.
    ///
    /// # What a crash may leave
    ///
    /// The image reads as before at every moment, and so does every link above it. The parent itself is a mixture of
    /// old and new until this is done. To call this again ends it; a line in the descriptor of the child says how far
    /// it was, which other programs take for a comment.
    ///
    /// All links from the image to `base` are opened for writing, whatever these options say about it, and the links
    /// below for reading.
    ///
    /// # Errors
    /// Before anything is changed: as for [`open`](Self::open); [`InvalidInput`](ErrorKind::InvalidInput) for a `base`
    /// that the chain does not have, and for a child that is larger than its parent, which has to be grown before
    /// (resize); [`Unsupported`](ErrorKind::Unsupported) for a child with an extent that is not sparse or takes no
    /// writes, for disks without a descriptor (VMware 2 and 3), for a parent without a content ID that could change,
    /// and for a descriptor without room for the line; [`ReadOnly`](ErrorKind::ReadOnly) where the parent takes no
    /// writes and the child has something else there; [`ContentIdMismatch`](ErrorKind::ContentIdMismatch) for a child
    /// of another parent, whatever is to be ignored; [`Corrupt`](ErrorKind::Corrupt) for tables that have to be
    /// repaired first. Then [`Full`](ErrorKind::Full) where the file of a parent has no numbers left,
    /// [`Cancelled`](ErrorKind::Cancelled) when `progress` breaks, and what the host reports: the image is good then,
    /// and the call can be repeated.
    pub fn commit(
        &self,
        path: impl AsRef<Path>,
        base: usize,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CommitReport> {
        self.commit_at(Place::Host(path.as_ref()), base, progress)
    }

    /// As [`commit`](Self::commit), for the image `name` of a directory, with everything that it names.
    ///
    /// # Errors
    /// As for [`commit`](Self::commit), and what the directory reports.
    pub fn commit_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        base: usize,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CommitReport> {
        self.commit_at(Place::In(name, directory), base, progress)
    }

    fn commit_at(
        &self,
        place: Place<'_>,
        base: usize,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CommitReport> {
        if base == 0 {
            return Err(Error::text(ErrorKind::InvalidInput, "an image is not merged into itself; the parent is 1"));
        }
        let options = self.for_work();
        let purpose = options.purpose()?;
        let site = Site::new(&options, place);
        let links = options.open_links(site.open_first(purpose)?, site.names(), purpose, base.saturating_add(1))?;
        check_base(&links, base)?;
        check_apart(&links[..=base])?;
        let directories = links[..=base].iter().map(|link| site.directory_of(link)).collect::<Result<Vec<_>>>()?;
        let files = links.iter().zip(&directories);
        let files = files.map(|(link, (directory, name))| DescriptorFile::new(link, directory.as_dyn(), name));
        let files = files.collect::<Result<Vec<_>>>()?;
        let image = |depth: usize| options.image_of(links[depth..].to_vec(), site.names(), purpose);
        let images = (0..=base).map(image).collect::<Result<Vec<_>>>()?;
        let mut run = Run { images, files, new_ids: Vec::new(), report: CommitReport::default() };
        run.check()?;
        for link in &links[..=base] {
            site.settle(link)?;
        }
        run.merge(progress)?;
        Ok(run.report)
    }
}

/// The links from the image to the last parent, each as a disk over those below it.
struct Run<'a> {
    images: Vec<VmdkImage>,
    files: Vec<DescriptorFile<'a>>,
    /// What each child may let its parent become: the content ID, and the text with it. Whether there is room was
    /// judged by these, so that they are drawn once.
    new_ids: Vec<(ContentId, Vec<u8>)>,
    report: CommitReport,
}

impl Run<'_> {
    /// Refuses what can be refused. Nothing is changed.
    fn check(&mut self) -> Result<()> {
        for image in &self.images {
            let writing = image.disk.writing()?;
            // The children read as before, and the parents get the IDs that were announced.
            writing.keep_content_id();
            image.disk.check_tables(writing, 0, image.disk.capacity)?;
        }
        for depth in 0..self.images.len() - 1 {
            check_child(&self.images[depth])?;
            check_sizes(&self.images[depth], &self.images[depth + 1])?;
            self.new_ids.push(self.check_texts(depth)?);
            self.check_unwritable(depth + 1)?;
        }
        Ok(())
    }

    /// Whether a child and its parent belong together, and their descriptors have room for what is to be written. Says
    /// what the parent becomes.
    fn check_texts(&self, depth: usize) -> Result<(ContentId, Vec<u8>)> {
        let (child, parent) = (&self.files[depth], &self.files[depth + 1]);
        let path = self.path(depth);
        let (claimed, found) = (child.descriptor().parent_content_id(), parent.descriptor().content_id());
        let standing = self.standing_intent(depth);
        if claimed.is_none() || (claimed != found && standing.is_none()) {
            let text = "the parent is not what the child was made of by its content ID, so that nobody knows what would \
                        be merged; if you do, set the ID right first (rebase with FixContentId, `vmdk rebase --fix-cid`)";
            return Err(Error::text(ErrorKind::ContentIdMismatch, text).in_file(path));
        }
        let Some(new) = parent.descriptor().text_with_new_content_id(super::content_id::random()) else {
            let text = "its descriptor has no content ID that could change, so that its children would not notice";
            return Err(Error::text(ErrorKind::Unsupported, text).in_file(self.path(depth + 1)));
        };
        let (id, text) = &new;
        parent.check(text)?;
        let intent = CommitIntent { from: *id, to: *id };
        // A link between is changed as a parent first.
        let before = match self.new_ids.last() {
            Some((_, text)) => &Descriptor::parse(text)?,
            None => child.descriptor(),
        };
        child.check(&before.revise().with_intent(intent).header("parentCID", &id.to_string()).finish()?)?;
        Ok(new)
    }

    /// Whether all that is to go where this link takes no writes is there already.
    fn check_unwritable(&self, depth: usize) -> Result<()> {
        let parent = &self.images[depth];
        let extents = parent.disk.links[0].extents();
        for extent in extents.iter().filter(|extent| !takes_everything(extent)) {
            // A child hides those below it up to its own end. What is behind that is for the next one to say.
            let mut sector = extent.start_sector();
            for (above, child) in self.images[..depth].iter().enumerate() {
                let end = (extent.start_sector() + extent.sectors()).min(child.disk.capacity);
                while sector < end {
                    let run = child.map_above(depth - above, sector, end - sector)?;
                    let is_own = !matches!(run.mapping, crate::Mapping::Unallocated);
                    if is_own && !same(child, parent, sector, run.sectors)? {
                        return Err(not_taken(extent, sector, parent));
                    }
                    sector += run.sectors;
                }
            }
        }
        Ok(())
    }

    /// Merges each link into the one below it.
    fn merge(&mut self, progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>) -> Result<()> {
        let steps = self.images.len() - 1;
        // A disk has at most half of what fits; of hostile ones three are too many.
        let sizes = self.images[..steps].iter().map(|image| image.disk.capacity * SECTOR_BYTES);
        let total = sizes.fold(0, u64::saturating_add);
        let mut before = 0_u64;
        for depth in 0..steps {
            let mut step = |sectors: u64| report(progress, progress_of(before, sectors, total));
            self.merge_link(depth, &mut step)?;
            before = progress_of(before, self.images[depth].disk.capacity, total).done;
        }
        self.images[steps].close()
    }

    fn merge_link(&mut self, depth: usize, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        self.report.resumed |= self.standing_intent(depth).is_some();
        if is_empty(&self.images[depth])? {
            self.end_link(depth)?;
            return progress(self.images[depth].disk.capacity);
        }
        // Whoever stops it now has changed nothing.
        progress(0)?;
        let id = self.announce(depth)?;
        let (child, parent) = (&self.images[depth], &self.images[depth + 1]);
        let mut merge = Merge::new(child, parent);
        let merged = merge.run(progress);
        self.report.copied_bytes += merge.copied * SECTOR_BYTES;
        self.report.zeroed_bytes += merge.zeroed * SECTOR_BYTES;
        merged?;
        parent.flush()?;
        child.disk.empty()?;
        self.end_link(depth)?;
        self.report.merged_links += 1;
        self.report.content_id = Some(id);
        Ok(())
    }

    /// Gives a parent the content ID that it will have, so that its child knows it and nobody else does.
    ///
    /// Also where a commit goes on: its content changes once more, and whatever was made of it in between would not
    /// notice.
    fn announce(&mut self, depth: usize) -> Result<ContentId> {
        let (to, text) = &self.new_ids[depth];
        let (upper, lower) = self.files.split_at_mut(depth + 1);
        let (child, parent) = (&mut upper[depth], &mut lower[0]);
        let from = parent.descriptor().content_id().unwrap_or(*to);
        // One change: the pair belongs together before and after it, by the old line or by the new one.
        let begun = child.descriptor().revise().with_intent(CommitIntent { from, to: *to });
        child.replace(&begun.header("parentCID", &from.to_string()).finish()?)?;
        parent.replace(text)?;
        child.replace(&child.descriptor().revise().header("parentCID", &to.to_string()).finish()?)?;
        Ok(*to)
    }

    /// Closes a child that has nothing any more, and takes out the line, if there is one.
    fn end_link(&mut self, depth: usize) -> Result<()> {
        let standing = self.standing_intent(depth);
        self.images[depth].close()?;
        let file = &mut self.files[depth];
        let ended = file.descriptor().revise().without_intent();
        let ended = match standing {
            // Without the line, only this says that the pair belongs together.
            Some(intent) => ended.header("parentCID", &intent.to.to_string()),
            None => ended,
        };
        file.replace(&ended.finish()?)
    }

    /// What a child says of a commit into its parent that was begun, if the parent has the ID already that it was to
    /// get.
    fn standing_intent(&self, depth: usize) -> Option<CommitIntent> {
        let (child, parent) = (self.files[depth].descriptor(), self.files[depth + 1].descriptor());
        let intent = child.commit_intent()?;
        let claims_it = child.parent_content_id().is_some_and(|id| id == intent.from || id == intent.to);
        (claims_it && parent.content_id() == Some(intent.to)).then_some(intent)
    }

    fn path(&self, depth: usize) -> &Path {
        self.images[depth].disk.links[0].path()
    }
}

/// How far the work is when so many sectors of a link are done, after what was done before.
fn progress_of(before: u64, sectors: u64, total: u64) -> CopyProgress {
    CopyProgress { done: before.saturating_add(sectors * SECTOR_BYTES), total }
}

fn check_base(links: &[Arc<Link>], base: usize) -> Result<()> {
    if base < links.len() {
        return Ok(());
    }
    let text = match links.len() {
        1 => "the image has no parent that it could be merged into".to_owned(),
        links => format!("no link {base} in a chain of {links}; count from 1, the parent"),
    };
    Err(Error::text(ErrorKind::InvalidInput, text).in_file(links[0].path()))
}

/// Refuses links that have a file together: what is written to one would change the other.
fn check_apart(links: &[Arc<Link>]) -> Result<()> {
    let mut seen = std::collections::HashMap::new();
    for (depth, link) in links.iter().enumerate() {
        for (storage, path) in link.storages() {
            let Some(id) = storage.id() else { continue };
            if *seen.entry(id).or_insert(depth) != depth {
                let text = "two links of the chain have this file: a disk cannot be merged into itself";
                return Err(Error::text(ErrorKind::BadChain, text).in_file(path));
            }
        }
    }
    Ok(())
}

/// Refuses a child that could not be emptied.
fn check_child(child: &VmdkImage) -> Result<()> {
    let link = &child.disk.links[0];
    let odd = link.extents().iter().find(|extent| extent.sparse().is_none() || extent.access() != Access::ReadWrite);
    let Some(odd) = odd else { return Ok(()) };
    let text = format!(
        "the extent at sector {} of the child is not sparse, or takes no writes ({} {}): it cannot be emptied",
        odd.start_sector(),
        odd.access().as_str(),
        odd.kind().as_str()
    );
    Err(Error::text(ErrorKind::Unsupported, text).in_file(link.path()))
}

fn check_sizes(child: &VmdkImage, parent: &VmdkImage) -> Result<()> {
    let (of_child, of_parent) = (child.disk.capacity, parent.disk.capacity);
    if of_child <= of_parent {
        return Ok(());
    }
    let text = format!(
        "the child has {of_child} sectors and its parent {} only {of_parent}: grow the parent first (resize), and let the \
         child know it by its new content ID (rebase --fix-cid)",
        parent.disk.links[0].path().display()
    );
    Err(Error::text(ErrorKind::InvalidInput, text).in_file(child.disk.links[0].path()))
}

/// Whether an extent takes whatever is written to it.
fn takes_everything(extent: &Extent) -> bool {
    extent.access() == Access::ReadWrite && (extent.sparse().is_some() || extent.file_offset().is_some())
}

#[cold]
fn not_taken(extent: &Extent, sector: u64, parent: &VmdkImage) -> Error {
    let text = format!(
        "the child has something else at sector {sector}, where its parent takes no writes ({} {})",
        extent.access().as_str(),
        extent.kind().as_str()
    );
    Error::text(ErrorKind::ReadOnly, text).in_file(parent.disk.links[0].path())
}

/// Whether two disks read the same.
fn same(one: &VmdkImage, other: &VmdkImage, start: u64, sectors: u64) -> Result<bool> {
    const AT_ONCE: u64 = 1024;
    let mut bytes = [0; 2].map(|_| vec![0; to_usize(AT_ONCE.min(sectors) * SECTOR_BYTES)]);
    let mut done = 0;
    while done < sectors {
        let now = to_usize(AT_ONCE.min(sectors - done) * SECTOR_BYTES);
        let [a, b] = bytes.each_mut().map(|bytes| &mut bytes[..now]);
        one.read_sectors(start + done, a)?;
        other.read_sectors(start + done, b)?;
        if a != b {
            return Ok(false);
        }
        done += AT_ONCE;
    }
    Ok(true)
}

/// Whether an image has nothing of its own.
fn is_empty(image: &VmdkImage) -> Result<bool> {
    let mut walk = image.walk_above(1);
    while let Some((_, run, _)) = walk.next()? {
        if !matches!(run.place, crate::mapping::Place::Unallocated) {
            return Ok(false);
        }
    }
    Ok(true)
}
