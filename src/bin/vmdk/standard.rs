//! What standard input and standard output are: where a shell has opened files for them, these are not to be the other
//! side of a copy.

use std::fs::File;
use std::io;

use vmdk::{FileStorage, Storage, StorageId};

/// The file that standard input is.
pub(crate) fn input_id() -> Option<StorageId> {
    id_of(duplicate(&io::stdin()))
}

/// The file that standard output is.
pub(crate) fn output_id() -> Option<StorageId> {
    id_of(duplicate(&io::stdout()))
}

fn id_of(stream: io::Result<File>) -> Option<StorageId> {
    let file = stream.ok()?;
    let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
    if is_file { FileStorage::new(file).ok()?.id() } else { None }
}

#[cfg(unix)]
fn duplicate(stream: &impl std::os::fd::AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}

#[cfg(not(unix))]
fn duplicate<T>(_: &T) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}
