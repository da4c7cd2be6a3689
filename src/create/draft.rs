//! The files of a new image, on their way to their names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plan::Body;
use super::{CreateOptions, Parents, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Blank;
use crate::image::{OpenOptions, VmdkImage};
use crate::locate::Names;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};
use crate::storage::{Directory, HeldFiles, Purpose, Storage, StorageId, already_exists, own_name, reserve};

/// An image that is being made. Dropped before it is to be kept, it is gone.
pub(crate) struct Draft<'a> {
    pub(crate) plan: Plan,
    directory: &'a dyn Directory,
    /// What errors call the directory.
    dir: &'a Path,
    sync: bool,
    /// Whether files stay open until the image is opened.
    holds_files: bool,
    /// As in the plan: the extents in their order and, if it is apart, the descriptor.
    files: Vec<DraftFile>,
    /// What each of them replaces, so that nobody else uses it.
    claimed: Vec<Option<Arc<dyn Storage>>>,
}

struct DraftFile {
    own_name: String,
    /// There if files stay open.
    storage: Option<Arc<dyn Storage>>,
    /// Whether it has its name already.
    is_named: bool,
}

/// What a new image must not replace.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) ids: Vec<StorageId>,
    pub(crate) paths: Vec<PathBuf>,
}

impl Kept {
    fn refuse() -> Error {
        Error::text(ErrorKind::InvalidInput, "the new image would replace its own source or parent")
    }
}

impl<'a> Draft<'a> {
    /// Looks whether the files of `plan` can be made in `directory`, which errors call `dir`. Nothing is made yet.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidInput` if something of `kept` would be replaced; `Locked` and others for what cannot be.
    pub(crate) fn begin(
        plan: Plan,
        directory: &'a dyn Directory,
        dir: &'a Path,
        options: &CreateOptions,
        kept: &Kept,
    ) -> Result<Self> {
        let mut claimed = Vec::new();
        for name in plan.names() {
            let path = dir.join(name);
            let named = |error: Error| error.in_file(&path);
            if !options.replace && directory.exists(name).map_err(named)? {
                return Err(named(already_exists()));
            }
            let mut there = None;
            if options.replace {
                // Before it is claimed: a lock of our own would be said to be somebody else's.
                let id = directory.id_of(name).map_err(named)?;
                if kept.paths.contains(&path) || id.is_some_and(|id| kept.ids.contains(&id)) {
                    return Err(named(Kept::refuse()));
                }
                there = directory.claim(name).map_err(named)?;
            }
            claimed.push(there);
        }
        let (sync, files) = (!options.unsynced, Vec::new());
        Ok(Self { plan, directory, dir, sync, holds_files: false, files, claimed })
    }

    /// Lets the files stay open, for [`open`](Self::open).
    pub(crate) fn hold_files(mut self) -> Self {
        self.holds_files = true;
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
        let name = self.name(number);
        let own_name = own_name(name);
        let created = self.directory.create(&own_name, name);
        let storage = created.map_err(|error| error.in_file(&self.path(number)))?;
        let held = self.holds_files.then(|| Arc::clone(&storage));
        self.files.push(DraftFile { own_name, storage: held, is_named: false });
        Ok(storage)
    }

    /// Makes what is in a file durable, if that is wanted.
    pub(crate) fn sync(&self, number: usize, storage: &dyn Storage) -> Result<()> {
        if !self.sync {
            return Ok(());
        }
        let synced = storage.sync();
        synced.map_err(|cause| Error::host("cannot make the new file durable", cause).in_file(&self.path(number)))
    }

    /// Gives all files their names, which are complete and synced.
    ///
    /// # Errors
    /// `AlreadyExists` if somebody else has taken a name meanwhile; what the host reports.
    pub(crate) fn publish(&mut self) -> Result<()> {
        let head = self.files.len() - 1;
        (0..self.files.len()).try_for_each(|number| self.check_name(number))?;
        if head > 0 && self.claimed[head].is_some() {
            // The old descriptor would lead to new extents.
            match self.directory.remove(&self.plan.name) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.in_file(&self.path(head))),
                _ => self.sync_names()?,
            }
        }
        for number in 0..head {
            self.give_name(number)?;
        }
        if head > 0 {
            self.sync_names()?;
        }
        self.give_name(head)?;
        self.sync_names()
    }

    /// Lets the files be, which have their names.
    pub(crate) fn keep(mut self) {
        self.files.clear();
    }

    /// Opens the image, whose files are all there and held, over its parents.
    pub(crate) fn open(&self, parents: &Parents) -> Result<VmdkImage> {
        let names = self.plan.names().zip(&self.files);
        let files = names.filter_map(|(name, file)| Some((name, Arc::clone(file.storage.as_ref()?)))).collect();
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

    /// Refuses a name that somebody else's file has by now: nobody was asked whether he uses it.
    fn check_name(&self, number: usize) -> Result<()> {
        let named = |error: Error| error.in_file(&self.path(number));
        let name = self.name(number);
        let is_others = match self.claimed[number].as_ref().and_then(|file| file.id()) {
            Some(claimed) => self.directory.id_of(name).map_err(named)?.is_some_and(|id| id != claimed),
            None => self.claimed[number].is_none() && self.directory.exists(name).map_err(named)?,
        };
        if is_others { Err(named(already_exists())) } else { Ok(()) }
    }

    fn give_name(&mut self, number: usize) -> Result<()> {
        let replace = self.claimed[number].is_some();
        let renamed = self.directory.rename(&self.files[number].own_name, self.name(number), replace);
        renamed.map_err(|error| error.in_file(&self.path(number)))?;
        self.files[number].is_named = true;
        Ok(())
    }

    fn sync_names(&self) -> Result<()> {
        if self.sync { self.directory.sync() } else { Ok(()) }
    }

    /// The name that a file is to have.
    fn name(&self, number: usize) -> &str {
        self.plan.extents.get(number).map_or(&self.plan.name, |extent| &extent.name)
    }

    /// What errors call a file.
    pub(crate) fn path(&self, number: usize) -> PathBuf {
        self.dir.join(self.name(number))
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        let is_whole = self.files.len() == self.claimed.len() && self.files.iter().all(|file| file.is_named);
        if is_whole && self.claimed.iter().any(Option::is_some) {
            // What it has replaced is gone; better this than nothing.
            return;
        }
        // The descriptor first: without it there is no image. What went wrong before is what matters.
        for (number, file) in self.files.iter().enumerate().rev() {
            let name = if file.is_named { self.name(number) } else { &file.own_name };
            let _ = self.directory.remove(name);
            let is_head = file.is_named && number == self.plan.extents.len();
            if is_head {
                // A crash must not bring it back without its extents.
                let _ = self.sync_names();
            }
        }
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
