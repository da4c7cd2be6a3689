//! A disk that is being worked on by somebody who has it to himself: where its files are, and how it is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{OpenOptions, VmdkImage};
use crate::error::{Error, ErrorKind, Result};
use crate::link::Link;
use crate::locate::{Names, Opened, Resolve};
use crate::storage::{Directory, FilePool, HeldFiles, HostDirectory, Purpose, Storage};

/// Where a disk is.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In a file of the host.
    Host(&'a Path),
    /// In the file of this name in a directory, with everything that it names.
    In(&'a str, &'a dyn Directory),
}

/// A place, and what its files are opened through: a lock is taken once, whatever is opened how often.
pub(crate) struct Site<'a> {
    options: &'a OpenOptions,
    place: Place<'a>,
    pool: Arc<FilePool>,
    held: HeldFiles,
    resolver: FromDirectory<'a>,
}

/// What a directory holds, as the files of an image.
struct FromDirectory<'a>(Option<&'a dyn Directory>);

impl Resolve for FromDirectory<'_> {
    fn resolve(&self, name: &str) -> Result<Arc<dyn Storage>> {
        let there = self.0.map(|directory| directory.claim(name)).transpose()?.flatten();
        there.ok_or_else(|| Error::text(ErrorKind::NotFound, "there is no such file").in_file(Path::new(name)))
    }
}

impl<'a> Site<'a> {
    pub(crate) fn new(options: &'a OpenOptions, place: Place<'a>) -> Self {
        let directory = match place {
            Place::Host(_) => None,
            Place::In(_, directory) => Some(directory),
        };
        Self { options, place, pool: options.pool(), held: HeldFiles::default(), resolver: FromDirectory(directory) }
    }

    /// The way to the files that an image names.
    pub(crate) fn names(&self) -> Names<'_> {
        match self.place {
            Place::Host(_) => Names::Files(self.options.policy(), &self.pool),
            Place::In(..) => Names::Resolver(&self.resolver, &self.held, Path::new("")),
        }
    }

    /// Opens the first file of the disk.
    ///
    /// # Errors
    /// As for [`OpenOptions::open`].
    pub(crate) fn open_first(&self, purpose: Purpose) -> Result<Opened> {
        match self.place {
            Place::Host(path) => Opened::by_caller(path, purpose, &self.pool),
            Place::In(name, _) => self.names().open(Path::new(""), name, purpose),
        }
    }

    /// Opens the disk as `options` say, which may differ from those of the site.
    ///
    /// # Errors
    /// As for [`OpenOptions::open`].
    pub(crate) fn open(&self, options: &OpenOptions) -> Result<VmdkImage> {
        options.open_alone(self.open_first(options.purpose()?)?, self.names())
    }

    /// Where the file is that a link was opened from, and what it is called there.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not UTF-8.
    pub(crate) fn directory_of(&self, link: &Link) -> Result<(LinkDirectory<'a>, String)> {
        let path = link.path();
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            Error::text(ErrorKind::InvalidInput, "the name is not valid UTF-8, in which descriptors are written")
                .in_file(path)
        })?;
        let directory = match self.place {
            Place::Host(_) => {
                let dir = path.parent().map_or_else(PathBuf::new, Path::to_owned);
                // What is made beside it is no more for everybody than it is itself.
                LinkDirectory::Host(Box::new(HostDirectory::new(dir).others_only_for_users_of(path)))
            }
            Place::In(_, directory) => LinkDirectory::Given(directory),
        };
        Ok((directory, name.to_owned()))
    }
}

/// The directory of a link.
pub(crate) enum LinkDirectory<'a> {
    Host(Box<HostDirectory>),
    Given(&'a dyn Directory),
}

impl LinkDirectory<'_> {
    pub(crate) fn as_dyn(&self) -> &dyn Directory {
        match self {
            Self::Host(directory) => &**directory,
            Self::Given(directory) => *directory,
        }
    }
}
