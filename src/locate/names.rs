//! Who opens what an image names: the host's file system under a policy, or the caller.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Found, NamePolicy, open_by_caller, open_named, parent_candidates};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{FilePool, HeldFiles, Purpose, Storage};

/// Supplies the files of an image, by the names that stand in the image, instead of the host's file system: for
/// programs that may not open files, or that keep images somewhere else.
///
/// A map from names to storages is a resolver, and so is a closure.
pub trait Resolve: Send + Sync {
    /// The storage that `name` stands for: the name of an extent, or a name that a parent may have.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a name that is not known: a parent is then looked for by its other names. An error
    /// of another kind about a parent is an error of opening the image.
    fn resolve(&self, name: &str) -> Result<Arc<dyn Storage>>;
}

impl<S: BuildHasher + Send + Sync> Resolve for HashMap<String, Arc<dyn Storage>, S> {
    fn resolve(&self, name: &str) -> Result<Arc<dyn Storage>> {
        self.get(name).cloned().ok_or_else(|| unknown(name))
    }
}

impl<F> Resolve for F
where
    F: Fn(&str) -> Option<Arc<dyn Storage>> + Send + Sync,
{
    fn resolve(&self, name: &str) -> Result<Arc<dyn Storage>> {
        self(name).ok_or_else(|| unknown(name))
    }
}

fn unknown(name: &str) -> Error {
    Error::text(ErrorKind::NotFound, "the resolver does not know the name").in_file(Path::new(name))
}

/// Where the names of an image lead.
#[derive(Clone, Copy)]
pub(crate) enum Names<'a> {
    Files(&'a NamePolicy, &'a Arc<FilePool>),
    /// What a resolver supplies, and what errors call the directory of it all; empty if it has none.
    Resolver(&'a dyn Resolve, &'a HeldFiles, &'a Path),
}

/// A file that was opened for an image.
pub(crate) struct Opened {
    pub(crate) storage: Arc<dyn Storage>,
    /// The real path, or the name that the resolver was asked for.
    pub(crate) path: PathBuf,
    /// Where names inside the file resolve.
    pub(crate) dir: PathBuf,
}

impl Opened {
    /// The same file once more.
    pub(crate) fn again(&self) -> Self {
        Self { storage: Arc::clone(&self.storage), path: self.path.clone(), dir: self.dir.clone() }
    }

    /// What the caller named, who is trusted with its own paths.
    pub(crate) fn by_caller(path: &Path, purpose: Purpose, pool: &FilePool) -> Result<Self> {
        Self::head(open_by_caller(path, purpose)?, purpose, pool)
    }

    fn head(found: Found, purpose: Purpose, pool: &FilePool) -> Result<Self> {
        let storage = pool.add_head(found.file, purpose).map_err(|error| error.in_file(&found.path))?;
        Ok(Self { storage, path: found.path, dir: found.dir })
    }
}

impl Names<'_> {
    /// Opens what a file in `dir` calls `name`. What a resolver supplies is not locked, and it is for the resolver to
    /// supply what can be written.
    pub(crate) fn open(self, dir: &Path, name: &str, purpose: Purpose) -> Result<Opened> {
        match self {
            Self::Files(policy, pool) => Opened::head(open_named(dir, name, policy, purpose)?, purpose, pool),
            Self::Resolver(resolver, held, dir) => {
                let path = dir.join(name);
                let storage = resolver.resolve(name)?;
                let there = held.share(storage.id(), purpose).map_err(|error| error.in_file(&path))?;
                if there.is_none() {
                    held.hold(&storage, purpose);
                }
                Ok(Opened { storage, path, dir: PathBuf::new() })
            }
        }
    }

    /// As `open`, for an extent: of those there may be more than the process may have open.
    pub(crate) fn open_extent(self, dir: &Path, name: &str, purpose: Purpose) -> Result<Opened> {
        let Self::Files(policy, pool) = self else { return self.open(dir, name, purpose) };
        let Found { file, path, dir: found_in } = open_named(dir, name, policy, purpose)?;
        let (dir, name, policy) = (dir.to_owned(), name.to_owned(), policy.clone());
        let reopen = move || Ok(open_named(&dir, &name, &policy, Purpose::Read)?.file);
        let storage = pool.add(file, purpose, reopen).map_err(|error| error.in_file(&path))?;
        Ok(Opened { storage, path, dir: found_in })
    }

    /// As `open_extent`, for what the caller gives for an extent: a path of its own, or a name for the resolver.
    pub(crate) fn open_mapped(self, path: &Path, purpose: Purpose) -> Result<Opened> {
        let Self::Files(_, pool) = self else { return self.open(Path::new(""), &path.to_string_lossy(), purpose) };
        let Found { file, path, dir } = open_by_caller(path, purpose)?;
        let again = path.clone();
        let reopen = move || Ok(open_by_caller(&again, Purpose::Read)?.file);
        let storage = pool.add(file, purpose, reopen).map_err(|error| error.in_file(&path))?;
        Ok(Opened { storage, path, dir })
    }

    /// Counts files that are open already and only read, those of a parent: the image may read them as well, and must
    /// not write them.
    pub(crate) fn hold<'s>(self, storages: impl Iterator<Item = &'s Arc<dyn Storage>>) {
        match self {
            Self::Files(_, pool) => storages.for_each(|storage| pool.hold(storage)),
            Self::Resolver(_, held, _) => storages.for_each(|storage| held.hold(storage, Purpose::Read)),
        }
    }

    /// The names to try for a parent, best first.
    pub(crate) fn parent_candidates(self, hint: &str) -> Vec<String> {
        let mut names = parent_candidates(hint);
        // A resolver knows its files by what stands in the image, whatever a path means on this host.
        if matches!(self, Self::Resolver(..)) && !names.iter().any(|name| name == hint) {
            names.insert(0, hint.to_owned());
        }
        names
    }
}
