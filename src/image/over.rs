//! A child that is opened over links that are open already: those of the image that it was made of.
//!
//! Nothing of them is opened again. Their files, directories and cached tables are shared, and stay as long as one of
//! the images does.

use std::sync::Arc;

use super::{CacheMode, OpenOptions, VmdkImage};
use crate::chain;
use crate::descriptor::ContentId;
use crate::error::{Error, ErrorKind, Result};
use crate::link::{Link, SparseFiles};
use crate::locate::{Names, Opened};
use crate::storage::Locking;

/// How an image was opened, as far as its children are opened in the same way.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenedHow {
    pub(super) locking: Locking,
    pub(super) cache_mode: CacheMode,
    pub(super) cached_tables: usize,
    pub(super) max_chain_depth: usize,
    pub(super) max_open_files: usize,
    pub(super) use_redundant_tables: bool,
    pub(super) ignore_newline_check: bool,
    pub(super) ignore_journal: bool,
}

impl OpenedHow {
    /// The options for a child, which is opened for writing.
    pub(super) fn child_options(self) -> OpenOptions {
        OpenOptions::new()
            .write(true)
            .locking(self.locking != Locking::Off)
            .cache_mode(self.cache_mode)
            .cached_tables(self.cached_tables)
            .max_chain_depth(self.max_chain_depth)
            .max_open_files(self.max_open_files)
            .use_redundant_tables(self.use_redundant_tables)
            .ignore_newline_check(self.ignore_newline_check)
            .ignore_journal(self.ignore_journal)
    }
}

impl OpenedHow {
    /// Refuses what speaks against any child over these links, before one is made.
    pub(super) fn check_child(self, parents: &[Arc<Link>]) -> Result<()> {
        self.child_options().purpose()?;
        chain::check_parents(parents, self.max_chain_depth)
    }
}

impl OpenOptions {
    /// Opens the image `first` over the links of its parent, youngest first, which nobody writes to. It must have been
    /// made when the content ID of that was `wanted`. What it names besides, its extents, is opened through `names`.
    ///
    /// # Errors
    /// As for [`open`](Self::open): [`ContentIdMismatch`](ErrorKind::ContentIdMismatch) if it says that it is a child
    /// of another image, or of none; [`BadChain`](ErrorKind::BadChain) if the chain is too deep, or if the image would
    /// write a file of a parent; [`InvalidInput`](ErrorKind::InvalidInput) for parents that are not whole.
    pub(crate) fn open_over(
        &self,
        first: Opened,
        names: Names<'_>,
        parents: &[Arc<Link>],
        wanted: ContentId,
    ) -> Result<VmdkImage> {
        let purpose = self.purpose()?;
        let storages = || parents.iter().flat_map(|link| link.storages()).map(|(storage, _)| storage);
        let id = first.storage.id();
        if id.is_some() && storages().any(|storage| storage.id() == id) {
            let text = "the chain leads back to this file";
            return Err(Error::text(ErrorKind::BadChain, text).in_file(&first.path));
        }
        names.hold(storages());
        let files = SparseFiles::default();
        let links = chain::open_over(
            first,
            self.link_options(names, purpose, &files),
            parents,
            wanted,
            self.how().max_chain_depth,
        )?;
        self.image_of(links, names, purpose)
    }
}

#[cfg(test)]
mod tests;
