//! A child of an open image: what is written to the child leaves the image as it is.

use std::ops::ControlFlow;
use std::path::Path;

use super::{CopyProgress, VmdkImage};
use crate::block_device::BlockDevice;
use crate::create::{Content, CreateOptions, Draft, Kept, Parent, Parents, Place, Plan};
use crate::descriptor::ContentId;
use crate::error::{Error, ErrorKind, Result};
use crate::link::DescriptorFile;
use crate::storage::{Directory, Locking};

/// Where a child goes.
struct Birthplace<'a> {
    directory: &'a dyn Directory,
    /// What errors call the directory.
    dir: &'a Path,
    name: &'a str,
    /// The parent, as seen from there.
    hint: String,
}

impl VmdkImage {
    /// Makes a child of the image at `path`, empty, so that it reads as the image does, and opens it for writing, over
    /// the files that are open already.
    ///
    /// The image must not change any more: what is open for writing is flushed, and this handle of it becomes read-only
    /// for good, as if it was closed and opened for reading. If no child can be made, writes go on as before. Writes
    /// that are under way in other threads must have returned before; those that begin meanwhile are
    /// [`ReadOnly`](ErrorKind::ReadOnly).
    ///
    /// The child names its parent by the way from its own directory to that of the parent. If that leads out of its
    /// directory, opening the child later takes [`OpenOptions::allow_dir`](crate::OpenOptions::allow_dir) or
    /// [`OpenOptions::parent`](crate::OpenOptions::parent). Nobody may read the child who may not read the parent's
    /// descriptor.
    ///
    /// # Errors
    /// As for [`CreateOptions::create`], and [`InvalidInput`](ErrorKind::InvalidInput) for a type that cannot have a
    /// parent, another size than that of the image, an image without content ID or that was opened without its own
    /// parent, or while others may write it; [`Busy`](ErrorKind::Busy) while there are prepared writes; as for
    /// [`flush`](BlockDevice::flush) and for opening the child. Nothing of the child is left then, unless it has
    /// replaced another file by that time. An image that could be flushed and then not be closed cleanly stays
    /// read-only.
    pub fn create_child(&self, path: impl AsRef<Path>, options: &CreateOptions) -> Result<Self> {
        self.child_at(path.as_ref(), options, None)
    }

    /// As [`create_child`](Self::create_child), with a child that reads as `source` does: it has what differs from the
    /// image, which is read for that, and nothing else. The source must be as large as the image. `progress` is called
    /// as by [`copy`](fn@crate::copy); it stops the work by breaking.
    ///
    /// # Errors
    /// As for [`create_child`](Self::create_child) and [`copy`](fn@crate::copy); nothing of the child is left then.
    pub fn create_child_from(
        &self,
        path: impl AsRef<Path>,
        options: &CreateOptions,
        source: &dyn BlockDevice,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        self.child_at(path.as_ref(), options, Some(Content { source, threads: options.thread_count(), progress }))
    }

    /// As [`create_child`](Self::create_child), with the descriptor in the file `name` of `directory`, and the extents
    /// beside it. The parent is named as it was when it was opened.
    ///
    /// # Errors
    /// As for [`create_child`](Self::create_child).
    pub fn create_child_in(&self, name: &str, directory: &dyn Directory, options: &CreateOptions) -> Result<Self> {
        self.child_in(name, directory, options, None)
    }

    /// As [`create_child_from`](Self::create_child_from), in a directory as for
    /// [`create_child_in`](Self::create_child_in).
    ///
    /// # Errors
    /// As for [`create_child_from`](Self::create_child_from).
    pub fn create_child_from_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        options: &CreateOptions,
        source: &dyn BlockDevice,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<Self> {
        self.child_in(name, directory, options, Some(Content { source, threads: options.thread_count(), progress }))
    }

    fn child_at(&self, path: &Path, options: &CreateOptions, content: Option<Content<'_>>) -> Result<Self> {
        let place = Place::of(path)?;
        let parent = self.disk.links[0].path();
        let hint = place.name_of(parent)?;
        let mut directory = place.directory.clone();
        // A resolver's names are no paths.
        if parent.is_absolute() {
            directory = directory.only_for_users_of(parent);
        }
        let birthplace = Birthplace { directory: &directory, dir: directory.path(), name: &place.name, hint };
        self.make_child(birthplace, options, content).map_err(|error| error.in_file(&place.path()))
    }

    fn child_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        options: &CreateOptions,
        content: Option<Content<'_>>,
    ) -> Result<Self> {
        let parent = self.disk.links[0].path();
        let text = "the name of the parent is not valid UTF-8, in which the descriptor is written";
        let hint = parent.to_str().ok_or_else(|| Error::text(ErrorKind::InvalidInput, text).in_file(parent))?;
        let birthplace = Birthplace { directory, dir: Path::new(""), name, hint: hint.to_owned() };
        self.make_child(birthplace, options, content)
    }

    /// The child is opened before it has its name: whatever speaks against it, nothing was replaced yet, and nobody
    /// else gets at it in between.
    fn make_child(&self, place: Birthplace<'_>, options: &CreateOptions, content: Option<Content<'_>>) -> Result<Self> {
        let Birthplace { directory, dir, name, hint } = place;
        let frozen = self.disk.freeze()?;
        let (links, child_options) = (self.disk.links.clone(), self.disk.how.child_options());
        let parents = Parents { links, content_id: self.check_as_parent()?, options: child_options };
        let create_type = self.disk.links[0].descriptor().create_type();
        let parent = Parent { content_id: parents.content_id, hint, capacity: self.disk.capacity, create_type };
        let plan = Plan::new(options, name, Some(parent))?;
        self.disk.how.check_child(&parents.links)?;
        let kept = self.kept(content.as_ref().map(|content| content.source));
        let mut draft = Draft::begin(plan, directory, dir, options, &kept)?.hold_files();
        match content {
            Some(content) => {
                check_size(content.source.capacity_sectors(), self.disk.capacity)?;
                draft.make_filled(Some(&parents), content)?;
            }
            None => draft.make_empty(options)?,
        }
        let child = draft.open(&parents)?;
        draft.publish()?;
        frozen.end()?;
        draft.keep();
        Ok(child)
    }

    /// What a child must not replace.
    fn kept(&self, source: Option<&dyn BlockDevice>) -> Kept {
        let ids = self.storage_ids().into_iter().chain(source.map(BlockDevice::storage_ids).unwrap_or_default());
        Kept { ids: ids.collect(), paths: self.host_files().iter().map(|file| file.path().to_owned()).collect() }
    }

    /// The content ID that a child knows the image by.
    fn check_as_parent(&self) -> Result<ContentId> {
        let link = &self.disk.links[0];
        let refused = |text: &'static str| Err(Error::text(ErrorKind::InvalidInput, text).in_file(link.path()));
        if self.disk.how.locking == Locking::ForceShare {
            return refused("others may write the image (force-share), and a child would not notice");
        }
        let mut extents = self.chain().iter().flat_map(|link| link.extents());
        if extents.any(|extent| extent.salvaged().is_some()) {
            return refused("what is missing of it was left out (salvage), and a child would take zeros for that");
        }
        DescriptorFile::check_parent(link)?;
        match link.content_id() {
            Some(id) if !id.is_no_parent() => Ok(id),
            Some(_) => refused("the content ID of the image is ffffffff, which in a child means that it has no parent"),
            None => refused("the image has no content ID, by which a child would know it"),
        }
    }
}

fn check_size(of_source: u64, of_parent: u64) -> Result<()> {
    if of_source == of_parent {
        return Ok(());
    }
    let text = format!("the source has {of_source} sectors, and a delta has as many as its parent, {of_parent}");
    Err(Error::text(ErrorKind::InvalidInput, text))
}
