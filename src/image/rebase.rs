//! A child gets another parent, and reads the same over it.
//!
//! What the old parents have otherwise than the new ones is copied into the child first, durably, and nobody sees that:
//! it is what the child reads there anyway. Then one change of its descriptor leads to the new parent.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::carry::Carry;
use super::site::{Place, Site};
use super::{CopyProgress, OpenOptions, VmdkImage, report};
use crate::block_device::BlockDevice;
use crate::chain::{self, ParentChoice};
use crate::descriptor::{ContentId, CreateType};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::format::{CowdHeader, SparseHeader};
use crate::link::{DescriptorFile, Link};
use crate::sector::SECTOR_BYTES;
use crate::storage::{Directory, Purpose};

/// What a rebase may rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RebaseMode {
    /// On nothing: what the old parents have otherwise than the new ones is copied into the image, so that it reads as
    /// before.
    #[default]
    Safe,
    /// On the caller, who knows that the new parent holds what the old one did: it was moved or copied. No content is
    /// read, the old parent need not be there, and only the name and the content ID in the descriptor change. If it is
    /// not so, the disk is a mixture of two, and nothing will notice.
    Unsafe,
    /// On the caller, who knows that the parent which is found holds what it did when the image was made, although its
    /// content ID says otherwise. The image gets the content ID of the parent as it is now; nothing else changes.
    /// Nobody can find out whether it is so: if the parent was written to, the disk is a mixture of two.
    FixContentId,
}

/// What a rebase has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebaseReport {
    /// The descriptor file of the parent that the image has now, as it was opened; `None` for none.
    pub parent: Option<PathBuf>,
    /// The content ID by which the image knows it now.
    pub parent_content_id: Option<ContentId>,
    /// The content ID by which it knew its parent before.
    pub old_parent_content_id: Option<ContentId>,
    /// Bytes that were copied into the image.
    pub copied_bytes: u64,
    /// Bytes that the image hides with zeros of its own now.
    pub zeroed_bytes: u64,
    /// Whether the descriptor has changed.
    pub changed: bool,
    /// Whether the caller was believed that the parent is the right one: whether the image reads as before is not
    /// known.
    pub unverified: bool,
}

impl OpenOptions {
    /// Puts the image at `path` over another parent, or over none. What `mode` says decides whether it reads as before.
    ///
    /// The new parent is named as the caller names files; the image gets the way from its own directory to there.
    /// Grains and capacities may differ: past the end of a parent there are zeros. A disk that has no parent may get
    /// one, and reads as before over it. Without a new parent this is [`flatten`](Self::flatten), and with
    /// [`FixContentId`](RebaseMode::FixContentId) the parent is the one that the image names. The content ID of the
    /// image stays, so that its own children stay good.
    ///
    /// `progress` counts the bytes of the image where its content is looked at, which only [`Safe`](RebaseMode::Safe)
    /// does; it stops the work by breaking. After that, and after a crash at any moment, the image has its old parent
    /// and reads as before, or its new one; the call can be repeated.
    ///
    /// The image is opened for writing, whatever these options say about it, and all parents, old and new, for reading.
    ///
    /// # Errors
    /// Before anything is changed: as for [`open`](Self::open), also about the new parent and with
    /// [`BadChain`](ErrorKind::BadChain) where the chain would lead back to the image;
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a mode that needs a parent, or has its own; for a new parent that
    /// has no content ID; for a disk that is to get its first parent and has a flat extent; for an image that is being
    /// committed into its parent, which has to be ended first; [`ContentIdMismatch`](ErrorKind::ContentIdMismatch) for
    /// a child of another parent, whatever is to be ignored, as [`Safe`](RebaseMode::Safe) would take over what the
    /// wrong one has; [`Unsupported`](ErrorKind::Unsupported) for extents that take no writes, for disks without a
    /// descriptor (VMware 2 and 3), and for a descriptor without room; [`Corrupt`](ErrorKind::Corrupt) for tables that
    /// have to be repaired first. Then [`Full`](ErrorKind::Full) where a file has no numbers left,
    /// [`Cancelled`](ErrorKind::Cancelled) when `progress` breaks, and what the host reports.
    pub fn rebase(
        &self,
        path: impl AsRef<Path>,
        new_parent: Option<&Path>,
        mode: RebaseMode,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<RebaseReport> {
        self.rebase_at(Place::Host(path.as_ref()), new_parent, mode, progress)
    }

    /// As [`rebase`](Self::rebase), for the image `name` of a directory, in which the new parent is as well. It is
    /// named as the caller names it.
    ///
    /// # Errors
    /// As for [`rebase`](Self::rebase), and what the directory reports.
    pub fn rebase_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        new_parent: Option<&str>,
        mode: RebaseMode,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<RebaseReport> {
        self.rebase_at(Place::In(name, directory), new_parent.map(Path::new), mode, progress)
    }

    fn rebase_at(
        &self,
        place: Place<'_>,
        new_parent: Option<&Path>,
        mode: RebaseMode,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<RebaseReport> {
        let options = self.for_work();
        let site = Site::new(&options, place);
        let refused = |text: &'static str| Err(Error::text(ErrorKind::InvalidInput, text));
        match (mode, new_parent) {
            (RebaseMode::Safe, None) => {
                let done = options.flatten_in_site(&site, progress)?;
                Ok(RebaseReport {
                    old_parent_content_id: done.old_parent_content_id,
                    copied_bytes: done.copied_bytes,
                    changed: done.changed,
                    ..RebaseReport::default()
                })
            }
            (RebaseMode::Safe, Some(parent)) => options.rebase_safely(&site, parent, progress),
            (RebaseMode::Unsafe, Some(parent)) => options.relink(&site, parent),
            (RebaseMode::Unsafe, None) => {
                refused("without a parent, what only the parents have would be lost; flatten takes it into the image")
            }
            (RebaseMode::FixContentId, None) => options.fix_content_id(&site),
            (RebaseMode::FixContentId, Some(_)) => {
                refused("the content ID is that of the parent which the image has; another parent is for a rebase")
            }
        }
    }

    fn rebase_safely(
        &self,
        site: &Site<'_>,
        parent: &Path,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<RebaseReport> {
        let purpose = self.purpose()?;
        let any_maps = self.clone().allow_unused_maps(true);
        let links = any_maps.open_links(site.open_first(purpose)?, site.names(), purpose, 1)?;
        check_child(&links[0])?;
        let parents = self.open_parents(site, parent)?;
        self.check_raw_maps(links.iter().chain(&parents))?;
        let (directory, name) = site.directory_of(&links[0])?;
        let mut file = DescriptorFile::new(&links[0], directory.as_dyn(), &name)?;
        let (text, mut done) = new_link(site, &file, &links[0], &parents[0])?;
        let over = |below: &[Arc<Link>]| std::iter::once(&links[0]).chain(below).map(Arc::clone).collect::<Vec<_>>();
        let image = self.image_of(links.clone(), site.names(), purpose)?;
        image.disk.check_parents()?;
        let new = VmdkImage::new(over(&parents), None, self.how());
        let mut carry = Carry::new(&image, &new);
        carry.check()?;
        file.check(&text)?;
        site.settle(&links[0])?;
        let total = image.disk.capacity * SECTOR_BYTES;
        carry.run(&mut |sectors| report(progress, CopyProgress { done: sectors * SECTOR_BYTES, total }))?;
        (done.copied_bytes, done.zeroed_bytes) = (carry.copied * SECTOR_BYTES, carry.zeroed * SECTOR_BYTES);
        image.flush()?;
        file.replace(&text)?;
        image.close()?;
        Ok(done)
    }

    /// Changes the link alone.
    fn relink(&self, site: &Site<'_>, parent: &Path) -> Result<RebaseReport> {
        let purpose = self.purpose()?;
        let alone = self.with_parent_choice(ParentChoice::Alone).allow_unused_maps(true);
        let links = alone.open_links(site.open_first(purpose)?, site.names(), purpose, 1)?;
        check_child(&links[0])?;
        links[0].check_writable(true, false, false).map_err(|error| error.in_file(links[0].path()))?;
        let parents = match self.open_parents(site, parent) {
            // Its own link may be the next to be put right.
            Err(error) if matches!(error.kind(), ErrorKind::ParentMissing | ErrorKind::ContentIdMismatch) => {
                alone.open_links(site.open_other(parent, Purpose::Read)?, site.names(), Purpose::Read, 1)?
            }
            parents => parents?,
        };
        self.check_raw_maps(links.iter().chain(&parents))?;
        let (directory, name) = site.directory_of(&links[0])?;
        let mut file = DescriptorFile::new(&links[0], directory.as_dyn(), &name)?;
        let (text, mut done) = new_link(site, &file, &links[0], &parents[0])?;
        file.check(&text)?;
        site.settle(&links[0])?;
        file.replace(&text)?;
        done.unverified = true;
        Ok(done)
    }

    /// Lets the image know its parent by the content ID that this has.
    fn fix_content_id(&self, site: &Site<'_>) -> Result<RebaseReport> {
        let purpose = self.purpose()?;
        let any = self.clone().ignore_cid_mismatch(true);
        let links = any.open_links(site.open_first(purpose)?, site.names(), purpose, 1)?;
        let link = &links[0];
        link.check_writable(true, false, false).map_err(|error| error.in_file(link.path()))?;
        let Some(parent) = links.get(1) else {
            let text = "the image names no parent whose content ID it could know";
            return Err(Error::text(ErrorKind::InvalidInput, text).in_file(link.path()));
        };
        let (directory, name) = site.directory_of(link)?;
        let mut file = DescriptorFile::new(link, directory.as_dyn(), &name)?;
        let (id, old) = (id_as_parent(parent)?, link.parent_content_id());
        // As the chain takes it: it is opened over such a parent.
        let intent = link.descriptor().commit_intent();
        let is_committed = intent.zip(old).is_some_and(|(intent, old)| intent.joins(old, id));
        let is_broken = old != Some(id) && !is_committed;
        // Also if nothing has to be changed: whoever did that may have been killed before it was durable.
        site.settle(link)?;
        if is_broken {
            let text = link.descriptor().revise().without_intent().header("parentCID", &id.to_string()).finish()?;
            file.replace(&text)?;
        } else {
            file.bring_home()?;
        }
        Ok(RebaseReport {
            parent: Some(parent.path().to_owned()),
            parent_content_id: Some(id),
            old_parent_content_id: old,
            changed: is_broken,
            unverified: is_broken,
            ..RebaseReport::default()
        })
    }

    /// Opens the new parent with those below it.
    fn open_parents(&self, site: &Site<'_>, parent: &Path) -> Result<Vec<Arc<Link>>> {
        // What the caller says of the parent of the image does not hold for that of its parent.
        // Of the extents that are mapped, some may be of the old parents.
        let options = self.with_parent_choice(ParentChoice::Hinted).allow_unused_maps(true);
        let first = site.open_other(parent, Purpose::Read)?;
        let links = options.open_links(first, site.names(), Purpose::Read, 1)?;
        chain::check_parents(&links, self.how().max_chain_depth).map_err(|error| error.in_file(links[0].path()))?;
        Ok(links)
    }
}

/// Refuses what cannot get another parent, or is in the middle of something else.
pub(super) fn check_child(link: &Link) -> Result<()> {
    let failed = |kind, text: &'static str| Err(Error::text(kind, text).in_file(link.path()));
    // As long as it does not say that its parent has the new ID, nothing else of that has changed: at the first time.
    // When a commit goes on, the parent is a mixture by then. The child hides that, and reads the same without it.
    let intent = link.descriptor().commit_intent();
    if intent.is_some_and(|intent| Some(intent.to) == link.parent_content_id()) {
        return failed(
            ErrorKind::InvalidInput,
            "the image is being committed into its parent: that has to be ended first (commit, `vmdk commit`)",
        );
    }
    let says_child = |header: &SparseHeader| header.as_cowd().is_some_and(CowdHeader::is_child);
    if link.extents().iter().any(|extent| extent.header().is_some_and(says_child)) {
        return failed(
            ErrorKind::Unsupported,
            "an extent whose header names a parent of its own (COWD of VMware 2 and 3); convert the disk instead",
        );
    }
    Ok(())
}

/// The descriptor of a child over another parent, and what there is to say about that.
fn new_link(
    site: &Site<'_>,
    file: &DescriptorFile<'_>,
    child: &Link,
    parent: &Link,
) -> Result<(Vec<u8>, RebaseReport)> {
    let is_flat = |extent: &Extent| extent.file_offset().is_some();
    if child.parent_content_id().is_none() && child.extents().iter().any(is_flat) {
        let text = "only sparse disks have parents, and this one has a flat extent; make a child of it, or convert it";
        return Err(Error::text(ErrorKind::InvalidInput, text).in_file(child.path()));
    }
    let stream = CreateType::StreamOptimized;
    if child.descriptor().create_type().map(CreateType::canonical) == Some(stream) {
        let text = "a streamOptimized disk gets no other parent: no product but QEMU opens one that has any";
        return Err(Error::text(ErrorKind::Unsupported, text).in_file(child.path()));
    }
    let id = id_as_parent(parent)?;
    let hint = site.hint(child, parent.path())?;
    let revised = file.descriptor().revise().without_intent().header("parentCID", &id.to_string());
    let text = revised.header("parentFileNameHint", &hint).finish()?;
    let done = RebaseReport {
        parent: Some(parent.path().to_owned()),
        parent_content_id: Some(id),
        old_parent_content_id: child.parent_content_id(),
        changed: text != file.descriptor().as_bytes(),
        ..RebaseReport::default()
    };
    Ok((text, done))
}

/// The content ID that a child knows a parent by.
fn id_as_parent(parent: &Link) -> Result<ContentId> {
    DescriptorFile::check_parent(parent)?;
    match parent.content_id() {
        Some(id) if !id.is_no_parent() => Ok(id),
        _ => {
            let text = "it has no content ID, by which a child would know it";
            Err(Error::text(ErrorKind::InvalidInput, text).in_file(parent.path()))
        }
    }
}
