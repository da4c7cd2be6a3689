//! A child of an open image: what is written to the child leaves the image as it is.

use std::ops::ControlFlow;
use std::path::Path;

use super::{CopyProgress, VmdkImage};
use crate::block_device::BlockDevice;
use crate::create::{Content, CreateOptions, Draft, Parent, Parents, Place, Plan};
use crate::descriptor::ContentId;
use crate::error::{Error, ErrorKind, Result};
use crate::locate::Resolve;
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
    /// for good, as if it was closed and opened for reading. If making the child fails, writes go on as before. Writes
    /// that are under way in other threads must have returned before, and what [`prepare_write`](Self::prepare_write)
    /// has given out must not be written to any more; writes that begin meanwhile are
    /// [`ReadOnly`](ErrorKind::ReadOnly).
    ///
    /// The child names its parent by the way from its own directory to that of the parent. If that leads out of its
    /// directory, opening the child later takes [`OpenOptions::allow_dir`](crate::OpenOptions::allow_dir) or
    /// [`OpenOptions::parent`](crate::OpenOptions::parent).
    ///
    /// # Errors
    /// As for [`CreateOptions::create`], and [`InvalidInput`](ErrorKind::InvalidInput) for a type that cannot have a
    /// parent, another size than that of the image, an image without content ID or that was opened without its own
    /// parent, or while others may write it; as for [`flush`](BlockDevice::flush) and for opening the child. Nothing of
    /// the child is left then.
    pub fn create_child(&self, path: impl AsRef<Path>, options: &CreateOptions) -> Result<Self> {
        self.child_at(path.as_ref(), options, None)
    }

    /// As [`create_child`](Self::create_child), with a child that reads as `source` does: it has what differs from the
    /// image, which is read for that, and nothing else. The source must be as large as the image. `progress` is called as by
    /// [`copy`](fn@crate::copy); it stops the work by breaking.
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
        self.child_at(path.as_ref(), options, Some(Content { source, progress }))
    }

    /// As [`create_child`](Self::create_child), with the descriptor in the file `name` of `directory`, and the extents
    /// beside it, where `resolver` finds them to open the child. The parent is named as it was when it was opened.
    ///
    /// # Errors
    /// As for [`create_child`](Self::create_child).
    pub fn create_child_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        resolver: &dyn Resolve,
        options: &CreateOptions,
    ) -> Result<Self> {
        let hint = self.disk.links[0].path().to_string_lossy().into_owned();
        let place = Birthplace { directory, dir: Path::new(""), name, hint };
        self.make_child(place, options, None, |parents| self.disk.how.open_child_with(name, resolver, parents))
    }

    fn child_at(&self, path: &Path, options: &CreateOptions, content: Option<Content<'_>>) -> Result<Self> {
        let place = Place::of(path)?;
        let path = place.path();
        let hint = place.name_of(self.disk.links[0].path())?;
        let directory = &place.directory;
        let place = Birthplace { directory, dir: directory.path(), name: &place.name, hint };
        let made = self.make_child(place, options, content, |parents| self.disk.how.open_child(&path, parents));
        made.map_err(|error| error.in_file(&path))
    }

    fn make_child(
        &self,
        place: Birthplace<'_>,
        options: &CreateOptions,
        content: Option<Content<'_>>,
        open: impl FnOnce(&Parents) -> Result<Self>,
    ) -> Result<Self> {
        let Birthplace { directory, dir, name, hint } = place;
        let frozen = self.disk.freeze()?;
        let parents = Parents { links: self.disk.links.clone(), content_id: self.check_as_parent()? };
        let link = &self.disk.links[0];
        let create_type = link.descriptor().create_type();
        let parent = Parent { content_id: parents.content_id, hint, capacity: self.disk.capacity, create_type };
        let mut draft = Draft::begin(Plan::new(options, name, Some(parent))?, directory, dir, options)?;
        draft.check_apart(|id| self.host_files().iter().any(|file| file.storage().id() == Some(id)))?;
        match content {
            Some(content) => {
                check_size(content.source.capacity_sectors(), self.disk.capacity)?;
                draft.make_filled(Some(&parents), content)?;
            }
            None => draft.make_empty()?,
        }
        draft.publish()?;
        let child = open(&parents)?;
        frozen.end()?;
        draft.keep();
        Ok(child)
    }

    /// The content ID that a child knows the image by.
    fn check_as_parent(&self) -> Result<ContentId> {
        let link = &self.disk.links[0];
        let refused = |text: &'static str| Err(Error::text(ErrorKind::InvalidInput, text).in_file(link.path()));
        if link.is_child() && self.disk.links.len() == 1 {
            return refused("the image was opened without its parent, and a child would read as if there was none");
        }
        if self.disk.how.locking == Locking::ForceShare {
            return refused("others may write the image (force-share), and a child would not notice");
        }
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
