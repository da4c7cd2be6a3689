//! One link of a chain: a descriptor and the extents it names.
//!
//! Opening goes in two steps, because a parent is looked at before it is believed: a [`LinkHead`] is the file with the
//! descriptor, read and parsed; [`LinkHead::open`] then opens the extents.

mod change_tracking;
mod descriptor_file;
mod extents;
mod footer;
mod head;
mod multi_file;
mod raw_maps;
mod sparse_file;
mod writable;

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::descriptor::{ContentId, Descriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentMap, HostFile, SparseOptions};
use crate::format::SparseHeader;
use crate::locate::Names;
use crate::storage::{Purpose, Storage};

pub use change_tracking::DroppedTracking;
pub(crate) use change_tracking::move_aside;
pub(crate) use descriptor_file::{DescriptorFile, first_sector};
pub(crate) use head::{Identity, LinkHead, ParentClaim};
pub(crate) use multi_file::{later_part, part_name};
pub(crate) use raw_maps::RawMaps;
pub(crate) use sparse_file::SparseFiles;
pub(crate) use writable::{not_changeable, not_understood};

/// One disk of a backing chain, without its parents.
#[derive(Debug)]
pub struct Link {
    file: Arc<HostFile>,
    descriptor: Descriptor,
    header: Option<Arc<SparseHeader>>,
    extents: ExtentMap,
    /// Whether it says that it has a parent.
    is_child: bool,
    warnings: Vec<String>,
    /// The content ID that the first write has given to it.
    new_content_id: OnceLock<ContentId>,
    /// The file that the descriptor was replaced by, for its lock.
    replacement: OnceLock<Arc<dyn Storage>>,
}

impl Link {
    /// The file that was opened: the descriptor, or the extent that holds it.
    pub fn file(&self) -> &HostFile {
        &self.file
    }

    /// The same.
    pub(crate) fn shared_file(&self) -> Arc<HostFile> {
        Arc::clone(&self.file)
    }

    /// The real path of that file, or the name that a resolver was asked for.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The descriptor. It is empty for a sparse extent that was opened without one.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The sparse header of the file that was opened, if it has one.
    pub fn header(&self) -> Option<&SparseHeader> {
        self.header.as_deref()
    }

    /// The extents, in the order of their sectors.
    pub fn extents(&self) -> &[Extent] {
        self.extents.extents()
    }

    /// The size of this link's disk in sectors.
    pub fn capacity_sectors(&self) -> u64 {
        self.extents.capacity()
    }

    /// What identifies the content; `None` if the descriptor does not say. The first write of an open image changes it.
    pub fn content_id(&self) -> Option<ContentId> {
        self.new_content_id.get().copied().or_else(|| self.descriptor.content_id())
    }

    /// The content ID that the parent had when this link was made; `None` for a link without a parent.
    pub fn parent_content_id(&self) -> Option<ContentId> {
        self.descriptor.parent_content_id().filter(|id| !id.is_no_parent())
    }

    /// What was found odd about the files, and read nevertheless.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every host file of this link, each once.
    pub fn host_files(&self) -> Vec<&HostFile> {
        let own = std::iter::once(&*self.file);
        let mut seen = HashSet::new();
        own.chain(self.extents().iter().filter_map(Extent::file)).filter(|file| seen.insert(file.identity())).collect()
    }

    /// Bytes that the files of this link take up on the host, holes not counted.
    ///
    /// # Errors
    /// What the host reports.
    pub fn allocated_bytes(&self) -> Result<u64> {
        self.host_files().into_iter().try_fold(0_u64, |sum, file| {
            let allocated = file.storage().allocated_len();
            let bytes = allocated
                .map_err(|cause| Error::host("cannot find out the allocated size", cause).in_file(file.path()))?;
            Ok(sum.saturating_add(bytes))
        })
    }

    /// Whether it says that it has a parent.
    pub(crate) fn is_child(&self) -> bool {
        self.is_child
    }

    /// Refuses what cannot be the parent of a disk because it is a part of one.
    pub(crate) fn check_as_parent(&self) -> Result<()> {
        let header = self.header().and_then(SparseHeader::as_cowd);
        multi_file::check_as_parent(header).map_err(|error| error.in_file(self.path()))
    }

    /// Refuses a link below which there should be another one: a disk that is written over it would take zeros for what
    /// that one has.
    pub(crate) fn check_as_base(&self) -> Result<()> {
        if !self.is_child {
            return Ok(());
        }
        let text = "a child that was opened without its parent cannot be the parent of another: what only its own \
                    parent has would be lost";
        Err(Error::text(ErrorKind::InvalidInput, text).in_file(self.path()))
    }

    /// The storages of all its files, with their names.
    pub(crate) fn storages(&self) -> impl Iterator<Item = (&Arc<dyn Storage>, &Path)> {
        let files = std::iter::once(&*self.file).chain(self.extents().iter().filter_map(Extent::file));
        let replacement = self.replacement.get().map(|file| (file, self.path()));
        files.map(|file| (file.storage(), file.path())).chain(replacement)
    }

    /// Nothing is written to its files any more: whoever locks them may let others read them.
    pub(crate) fn end_writing(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for (storage, path) in self.storages().filter(|(storage, _)| seen.insert(Arc::as_ptr(storage).cast::<()>())) {
            storage.end_writing().map_err(|cause| Error::from(cause).in_file(path))?;
        }
        Ok(())
    }

    /// Where the text of the descriptor is in the file that was opened, in bytes, with the room that it has there.
    pub(crate) fn descriptor_region(&self) -> Result<Range<u64>> {
        let embedded = self.header().and_then(SparseHeader::as_kdmv);
        match embedded.map(|header| header.descriptor_region(self.file.len())).transpose()? {
            Some(region) => Ok(region.unwrap_or_default()),
            None => Ok(0..self.descriptor.as_bytes().len() as u64),
        }
    }

    /// Notes the content ID that the first write has given to it.
    pub(crate) fn set_content_id(&self, id: ContentId) {
        self.new_content_id.get_or_init(|| id);
    }

    /// Keeps the file that has taken the place of the descriptor.
    pub(crate) fn keep_replacement(&self, file: Arc<dyn Storage>) {
        self.replacement.get_or_init(|| file);
    }

    pub(crate) fn map_of_extents(&self) -> &ExtentMap {
        &self.extents
    }
}

/// How a link is to be opened.
#[derive(Clone, Copy)]
pub(crate) struct LinkOptions<'a> {
    pub(crate) names: Names<'a>,
    /// What the link is opened for. For writing only the first one of a chain is.
    pub(crate) purpose: Purpose,
    pub(crate) sparse: SparseOptions,
    pub(crate) sparse_files: &'a SparseFiles,
    pub(crate) raw_maps: &'a RawMaps,
    pub(crate) ignore_newlines: bool,
    /// Whether seSparse extents are read whose journal was not replayed.
    pub(crate) ignore_journal: bool,
}
