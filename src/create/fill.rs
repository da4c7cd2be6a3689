//! A new image with the content of another disk.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::new_files::Kept;
use super::{CreateOptions, Draft, Place, Plan};
use crate::block_device::BlockDevice;
use crate::copy::copy;
use crate::descriptor::ContentId;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{CacheMode, CopyProgress, OpenOptions, VmdkImage};
use crate::link::Link;
use crate::storage::{Directory, MemoryStorage, Storage, Unsynced};
use crate::stream::{StorageOutput, StreamWriter};

/// What is below a new image, youngest first, and what that is known by.
#[derive(Clone, Debug)]
pub(crate) struct Parents {
    pub(crate) links: Vec<Arc<Link>>,
    pub(crate) content_id: ContentId,
    /// How their children are opened.
    pub(crate) options: OpenOptions,
}

/// Where the content of a new image comes from, and who is told how far it is.
pub(crate) struct Content<'a> {
    pub(crate) source: &'a dyn BlockDevice,
    /// How many threads read it.
    pub(crate) threads: usize,
    pub(crate) progress: &'a mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
}

impl CreateOptions {
    /// Makes an image at `path` that holds what `source` holds, with its size unless a larger one is set. What `source`
    /// says to be zero, and what of its data turns out to be zeros, takes no space. `progress` is called as by
    /// [`copy`](fn@crate::copy); it stops the work by breaking. [`like`](Self::like) keeps what a VMDK says of itself.
    /// Nobody may write to the source meanwhile: a raw file that others may use is to be opened with
    /// [`RawImage::open_locked`](crate::RawImage::open_locked).
    ///
    /// # Errors
    /// As for [`create`](Self::create) and [`copy`](fn@crate::copy); nothing of the image is left then.
    pub fn create_from(
        &self,
        path: impl AsRef<Path>,
        source: &dyn BlockDevice,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        let place = Place::of(path.as_ref())?.private_if(self.replace);
        let created = self.fill_at(
            &place.name,
            &place.directory,
            place.directory.path(),
            Content { source, threads: self.thread_count(), progress },
        );
        created.map_err(|error| error.in_file(&place.path()))
    }

    /// As [`create_from`](Self::create_from), with the descriptor in the file `name` of `directory`, and the extents
    /// beside it.
    ///
    /// # Errors
    /// As for [`create_from`](Self::create_from).
    pub fn create_from_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        source: &dyn BlockDevice,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        self.fill_at(name, directory, Path::new(""), Content { source, threads: self.thread_count(), progress })
    }

    fn fill_at(&self, name: &str, directory: &dyn Directory, dir: &Path, content: Content<'_>) -> Result<()> {
        let of_source = content.source.capacity_sectors();
        let capacity = self.capacity_sectors.unwrap_or(of_source);
        if capacity < of_source {
            let text = format!("a disk of {capacity} sectors has no room for the {of_source} of its source");
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        let plan = Plan::new(&self.clone().capacity_sectors(capacity), name, None)?;
        let kept = Kept { ids: content.source.storage_ids(), paths: Vec::new() };
        let mut draft = Draft::begin(plan, directory, dir, self, &kept)?;
        if draft.plan.is_stream() {
            let Content { source, progress, .. } = content;
            draft.make_stream(self, |stream| stream.write_all_from(source, progress))?;
        } else {
            draft.make_filled(None, content)?;
        }
        draft.publish()?;
        draft.keep();
        Ok(())
    }
}

impl Draft<'_> {
    /// Makes all files of an image with this content.
    pub(crate) fn make_filled(&mut self, parents: Option<&Parents>, content: Content<'_>) -> Result<()> {
        let Content { source, threads, progress } = content;
        self.make_filled_by(parents, |image| copy(source, image, threads, progress))
    }

    /// Makes all files of an image with what `fill` writes to it.
    pub(crate) fn make_filled_by(
        &mut self,
        parents: Option<&Parents>,
        fill: impl FnOnce(&VmdkImage) -> Result<()>,
    ) -> Result<()> {
        let mut extents = Vec::new();
        for number in 0..self.plan.extents.len() {
            extents.push(self.make_extent(number)?);
        }
        self.fill(&extents, parents, fill)?;
        for (number, storage) in extents.into_iter().enumerate() {
            self.sync(number, &*storage)?;
        }
        if self.plan.is_embedded() { Ok(()) } else { self.make_descriptor() }
    }

    /// Makes the only file of a stream, with what `fill` writes to it.
    pub(crate) fn make_stream(
        &mut self,
        options: &CreateOptions,
        fill: impl FnOnce(&mut StreamWriter<StorageOutput>) -> Result<()>,
    ) -> Result<()> {
        let storage = self.make_extent(0)?;
        let stream = StreamWriter::of_plan(StorageOutput::new(Arc::clone(&storage)), &self.plan, options);
        let written = stream.and_then(|mut stream| {
            fill(&mut stream)?;
            stream.finish()
        });
        written.map_err(|error| error.in_file(&self.path(0)))?;
        self.sync(0, &*storage)
    }

    /// Opens what there is of the image, has it filled, and closes it. A descriptor that is apart is not there yet, and
    /// need not know of the first write.
    fn fill(
        &self,
        extents: &[Arc<dyn Storage>],
        parents: Option<&Parents>,
        fill: impl FnOnce(&VmdkImage) -> Result<()>,
    ) -> Result<()> {
        let Plan { name, text, extents: planned } = &self.plan;
        let mut files: HashMap<&str, Arc<dyn Storage>> = HashMap::new();
        files.insert(name, Arc::new(MemoryStorage::new(text.as_bytes())));
        for (extent, storage) in planned.iter().zip(extents) {
            files.insert(&extent.name, Arc::new(Unsynced(Arc::clone(storage))));
        }
        let options = parents.map_or_else(OpenOptions::new, |parents| parents.options.clone());
        let image = self.open_from(&files, &options.write(true).cache_mode(CacheMode::Writeback), parents)?;
        fill(&image)?;
        image.close()
    }
}
