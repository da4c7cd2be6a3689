//! The files of a new image, and what is in them at first.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::new_files::{Kept, NewFiles, Terms};
use super::plan::Body;
use super::{CreateOptions, Parents, Plan};
use crate::error::{Error, Result};
use crate::format::Blank;
use crate::image::{OpenOptions, VmdkImage};
use crate::locate::Names;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};
use crate::storage::{Directory, HeldFiles, Purpose, Storage, reserve};

/// An image that is being made. Dropped before it is to be kept, it is gone.
pub(crate) struct Draft<'a> {
    pub(crate) plan: Plan,
    /// What errors call the directory.
    dir: &'a Path,
    /// As in the plan: the extents in their order and, if it is apart, the descriptor.
    files: NewFiles<'a>,
}

impl<'a> Draft<'a> {
    /// Looks whether the files of `plan` can be made in `directory`, which errors call `dir`. Nothing is made yet.
    ///
    /// # Errors
    /// As for [`NewFiles::begin`].
    pub(crate) fn begin(
        plan: Plan,
        directory: &'a dyn Directory,
        dir: &'a Path,
        options: &CreateOptions,
        kept: &Kept,
    ) -> Result<Self> {
        let terms = Terms { replace: options.replace, sync: !options.unsynced, kept };
        let names: Vec<String> = plan.names().map(str::to_owned).collect();
        let files = NewFiles::begin(names, directory, dir, &terms, |_, _| Ok(false))?;
        Ok(Self { plan, dir, files })
    }

    /// Lets the files stay open, for [`open`](Self::open).
    pub(crate) fn hold_files(mut self) -> Self {
        self.files.hold_files();
        self
    }

    /// Makes all files of an image that is empty.
    pub(crate) fn make_empty(&mut self, options: &CreateOptions) -> Result<()> {
        if self.plan.is_stream() {
            return self.make_stream(options, |_| Ok(()));
        }
        for number in 0..self.plan.extents.len() {
            let storage = self.make_extent(number)?;
            self.sync(number, &*storage)?;
        }
        if self.plan.is_embedded() { Ok(()) } else { self.make_descriptor() }
    }

    /// Makes the file of an extent, not synced.
    pub(crate) fn make_extent(&mut self, number: usize) -> Result<Arc<dyn Storage>> {
        let storage = self.make(number)?;
        let text = self.plan.text.as_bytes();
        let written = match &self.plan.extents[number].body {
            Body::Sparse(blank) => write_blank(&*storage, blank, text),
            Body::Flat { sectors, reserve: false } => storage.set_len(sectors * SECTOR_BYTES),
            Body::Flat { sectors, reserve: true } => reserve(&*storage, sectors * SECTOR_BYTES),
            // Its writer does all of it.
            Body::Stream(_) => Ok(()),
        };
        written.map_err(|cause| Error::host("cannot write the new file", cause).in_file(&self.path(number)))?;
        Ok(storage)
    }

    /// Makes the file of a descriptor that is apart, synced.
    pub(crate) fn make_descriptor(&mut self) -> Result<()> {
        let number = self.plan.extents.len();
        let storage = self.make(number)?;
        let written = storage.write_all_at(self.plan.text.as_bytes(), 0);
        written.map_err(|cause| Error::host("cannot write the descriptor", cause).in_file(&self.path(number)))?;
        self.sync(number, &*storage)
    }

    fn make(&mut self, number: usize) -> Result<Arc<dyn Storage>> {
        self.files.make(number)
    }

    /// Makes what is in a file durable, if that is wanted.
    pub(crate) fn sync(&self, number: usize, storage: &dyn Storage) -> Result<()> {
        self.files.sync(number, storage)
    }

    /// Gives all files their names, which are complete and synced.
    ///
    /// # Errors
    /// As for [`NewFiles::publish`].
    pub(crate) fn publish(&mut self) -> Result<()> {
        self.files.publish()
    }

    /// Lets the files be, which have their names.
    pub(crate) fn keep(self) {
        self.files.keep();
    }

    /// Opens the image, whose files are all there and held, over its parents.
    pub(crate) fn open(&self, parents: &Parents) -> Result<VmdkImage> {
        let files = self.files.held().map(|(name, file)| (name, Arc::clone(file))).collect();
        self.open_from(&files, &parents.options, Some(parents))
    }

    /// Opens what there is of the image in `files`.
    pub(crate) fn open_from(
        &self,
        files: &HashMap<&str, Arc<dyn Storage>>,
        options: &OpenOptions,
        parents: Option<&Parents>,
    ) -> Result<VmdkImage> {
        let resolver = |name: &str| files.get(name.strip_prefix("./").unwrap_or(name)).cloned();
        let held = HeldFiles::default();
        let names = Names::Resolver(&resolver, &held, self.dir);
        let first = names.open(Path::new(""), &self.plan.name, Purpose::Write)?;
        match parents {
            Some(Parents { links, content_id, .. }) => options.open_over(first, names, links, *content_id),
            None => options.open_alone(first, names),
        }
    }

    /// What errors call a file.
    pub(crate) fn path(&self, number: usize) -> PathBuf {
        self.files.path(number)
    }
}

/// Writes what a sparse extent begins with, and gives it its length.
pub(crate) fn write_blank(storage: &dyn Storage, blank: &Blank, descriptor: &[u8]) -> std::io::Result<()> {
    storage.set_len(blank.sectors * SECTOR_BYTES)?;
    let mut start = blank.header.clone();
    if blank.descriptor_sectors > 0 {
        start.extend_from_slice(descriptor);
        start.resize(blank.header.len() + to_usize(blank.descriptor_sectors) * SECTOR_SIZE, 0);
    }
    storage.write_all_at(&start, 0)?;
    for directory in &blank.directories {
        for (offset, bytes) in directory.pieces() {
            storage.write_all_at(&bytes, offset)?;
        }
    }
    Ok(())
}
