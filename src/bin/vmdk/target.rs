//! Where a copy may go: to a new file, over a file, or onto a block device.

use std::fs::{self, File, FileType, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use vmdk::{BlockDevice, FileStorage, Storage, StorageId, VmdkImage};

use crate::failure::{Failure, Result};

/// What is to be written. The paths are real ones: no symbolic link is left in a path that exists.
pub(crate) enum Target {
    /// Nothing has the name yet.
    New { path: PathBuf },
    /// A file that is to be replaced.
    File { path: PathBuf, meta: Metadata, id: Option<StorageId> },
    /// A block device, opened for writing, to be written in place.
    Device { path: PathBuf, storage: FileStorage },
}

impl Target {
    /// Looks at what the caller named. Nothing is changed; a file or device must be one that may be written to.
    pub(crate) fn find(named: &Path) -> Result<Self> {
        let path = match fs::canonicalize(named) {
            Ok(path) => path,
            Err(error) if error.kind() == ErrorKind::NotFound => return Self::new(named),
            Err(error) => return Err(Failure::host(named, "cannot look at it", error)),
        };
        let failed = |action: &'static str| move |cause| Failure::host(named, action, cause);
        // Looked at before it is opened: opening a FIFO waits for its other end.
        let meta = fs::metadata(&path).map_err(failed("cannot look at it"))?;
        if let Some(kind) = unwritable_kind(meta.file_type()) {
            let reason = format!("is {kind}; a copy is written to a file or a block device");
            return Err(Failure::refused(named, &reason));
        }
        let file = File::options().write(true).open(&path);
        let storage = file.and_then(FileStorage::new).map_err(failed("cannot open it for writing"))?;
        if meta.is_file() {
            Ok(Self::File { path, meta, id: storage.id() })
        } else {
            Ok(Self::Device { path, storage })
        }
    }

    fn new(named: &Path) -> Result<Self> {
        if fs::symlink_metadata(named).is_ok() {
            return Err(Failure::refused(named, "is a symbolic link that leads nowhere"));
        }
        let ends_in_separator = named.to_string_lossy().ends_with(std::path::is_separator);
        if ends_in_separator || named.file_name().is_none() {
            return Err(Failure::refused(named, "is not the name of a file"));
        }
        Ok(Self::New { path: named.to_owned() })
    }

    /// What it is, if there is something and that is known.
    pub(crate) fn id(&self) -> Option<StorageId> {
        match self {
            Self::New { .. } => None,
            Self::File { id, .. } => *id,
            Self::Device { storage, .. } => storage.id(),
        }
    }

    /// Refuses a target that is one of the files `image` is read from, its parents' included.
    pub(crate) fn check_not_part_of(&self, image: &VmdkImage) -> Result<()> {
        let path = match self {
            Self::New { .. } => return Ok(()),
            Self::File { path, .. } | Self::Device { path, .. } => path,
        };
        // Not every host has identities; both paths are real ones, so they will do there.
        let is_source = self.id().is_some_and(|id| image.storage_ids().contains(&id))
            || image.host_files().iter().any(|source| source.path() == path);
        if is_source {
            return Err(Failure::refused(path, "the copy would overwrite its own source"));
        }
        Ok(())
    }
}

/// What something is that no copy can go to; `None` for a file and a block device.
fn unwritable_kind(kind: FileType) -> Option<&'static str> {
    if kind.is_file() || is_block_device(kind) {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else {
        Some(special_kind(kind))
    }
}

#[cfg(unix)]
fn is_block_device(kind: FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&kind)
}

#[cfg(not(unix))]
fn is_block_device(_: FileType) -> bool {
    false
}

#[cfg(unix)]
fn special_kind(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        _ if kind.is_char_device() => "a character device",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a special file",
    }
}

#[cfg(not(unix))]
fn special_kind(_: FileType) -> &'static str {
    "a special file"
}
