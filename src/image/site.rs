//! A disk that is being worked on by somebody who has it to himself: where its files are, and how it is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{OpenOptions, VmdkImage};
use crate::chain::ChainOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::link::{Link, LinkOptions, SparseFiles};
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
        let plain = name.strip_prefix("./").unwrap_or(name);
        let there = self.0.map(|directory| directory.claim(plain)).transpose()?.flatten();
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

    /// What the disk is opened for by whoever changes it.
    ///
    /// # Errors
    /// `InvalidInput` for options that speak against writing.
    pub(crate) fn write_purpose(&self) -> Result<Purpose> {
        self.options.clone().write(true).purpose()
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

    /// How one link of the disk is opened.
    pub(crate) fn link_options<'s>(&'s self, purpose: Purpose, files: &'s SparseFiles) -> LinkOptions<'s> {
        self.options.link_options(self.names(), purpose, files)
    }

    /// Whether a sparse extent without its descriptor may be written to as a disk by itself.
    pub(crate) fn allows_bare_extent(&self) -> bool {
        self.options.allows_bare_extent()
    }

    /// Refuses names of raw device maps that a disk of this link alone does not have.
    pub(crate) fn check_raw_maps(&self, link: &Link) -> Result<()> {
        self.options.raw_maps().check_used([link])
    }

    /// How the chain of the disk is opened.
    pub(crate) fn chain_options<'s>(&'s self, purpose: Purpose, files: &'s SparseFiles) -> ChainOptions<'s> {
        self.options.chain_options(self.names(), purpose, files)
    }

    /// Opens another file that the caller names: a path, or a name in the same directory.
    ///
    /// # Errors
    /// As for [`OpenOptions::open`].
    pub(crate) fn open_other(&self, target: &Path, purpose: Purpose) -> Result<Opened> {
        match self.place {
            Place::Host(_) => Opened::by_caller(target, purpose, &self.pool),
            Place::In(..) => self.names().open(Path::new(""), &target.to_string_lossy(), purpose),
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
        self.directory_of_file(link.path())
    }

    /// Makes durable what was done to a link before it was opened, and the name of its descriptor.
    ///
    /// Whoever did it may have been killed before the last sync. What is found is not written again then, and nothing
    /// else would say to the host that it has to stay.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not UTF-8; what the host reports.
    pub(crate) fn settle(&self, link: &Link) -> Result<()> {
        for file in link.host_files() {
            file.sync()?;
        }
        // Only a descriptor in a file of its own is replaced by another file.
        if link.header().is_some() {
            return Ok(());
        }
        let (directory, _) = self.directory_of(link)?;
        directory.as_dyn().sync().map_err(|error| error.in_file(link.path()))
    }

    /// The same of the file at `path`, as it was opened.
    ///
    /// # Errors
    /// As for [`directory_of`](Self::directory_of).
    pub(crate) fn directory_of_file(&self, path: &Path) -> Result<(LinkDirectory<'a>, String)> {
        match self.place {
            Place::Host(_) => {
                let (directory, name) = host_directory(path)?;
                Ok((LinkDirectory::Host(Box::new(directory)), name))
            }
            Place::In(_, directory) => Ok((LinkDirectory::Given(directory), name_of(path)?)),
        }
    }
}

/// Where the file at `path` is, and what it is called there.
///
/// # Errors
/// `InvalidInput` for a name that is not UTF-8.
pub(super) fn host_directory(path: &Path) -> Result<(HostDirectory, String)> {
    let name = name_of(path)?;
    let dir = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    // What is made beside it is no more for everybody than it is itself.
    Ok((HostDirectory::new(dir).others_only_for_users_of(path), name))
}

fn name_of(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    name.ok_or_else(|| {
        let text = "the name is not valid UTF-8, in which descriptors are written";
        Error::text(ErrorKind::InvalidInput, text).in_file(path)
    })
}

impl Site<'_> {
    /// What `child` calls the file at `target`, the real path of another link, in its descriptor.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not UTF-8.
    pub(crate) fn hint(&self, child: &Link, target: &Path) -> Result<String> {
        match self.place {
            Place::Host(_) => crate::create::Place::of(child.path())?.name_of(target),
            Place::In(..) => {
                let text = "the name of the parent is not valid UTF-8, in which the descriptor is written";
                let name = target.to_str();
                Ok(name.ok_or_else(|| Error::text(ErrorKind::InvalidInput, text).in_file(target))?.to_owned())
            }
        }
    }
}

/// The directory of a link.
pub(crate) enum LinkDirectory<'a> {
    Host(Box<HostDirectory>),
    Given(&'a dyn Directory),
}

/// Names of which one may be in this directory and the other in another one.
impl LinkDirectory<'_> {
    /// The same directory, in which new files get the owner and the permissions of the one at `path`.
    pub(crate) fn like_file(&self, path: &Path) -> Self {
        match self {
            Self::Host(directory) => Self::Host(Box::new(directory.as_ref().clone().in_place_of(path))),
            Self::Given(directory) => Self::Given(*directory),
        }
    }

    /// As [`Directory::link`].
    pub(crate) fn link(&self, name: &str, other: &Self, becomes: &str) -> Result<()> {
        match (self, other) {
            (Self::Host(from), Self::Host(to)) => from.link_into(name, to, becomes),
            _ => other.as_dyn().link(name, becomes),
        }
    }

    /// As [`Directory::is_link`].
    pub(crate) fn is_link(&self, name: &str, other: &Self, other_name: &str) -> Result<bool> {
        match (self, other) {
            (Self::Host(from), Self::Host(to)) => from.is_link_into(name, to, other_name),
            _ => other.as_dyn().is_link(name, other_name),
        }
    }

    /// As [`Directory::rename`].
    pub(crate) fn rename(&self, name: &str, other: &Self, becomes: &str, replace: bool) -> Result<()> {
        match (self, other) {
            (Self::Host(from), Self::Host(to)) => from.rename_into(name, to, becomes, replace),
            _ => other.as_dyn().rename(name, becomes, replace),
        }
    }

    /// Whether this is the same directory.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Host(a), Self::Host(b)) => a.path() == b.path(),
            _ => true,
        }
    }

    /// What errors call it.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Host(directory) => directory.path(),
            Self::Given(_) => Path::new(""),
        }
    }

    pub(crate) fn as_dyn(&self) -> &dyn Directory {
        match self {
            Self::Host(directory) => &**directory,
            Self::Given(directory) => *directory,
        }
    }
}
