//! The content of a disk into a raw file or block device.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};
use vmdk::{BlockDevice, FileStorage, RawTarget, SECTOR_SIZE, Storage, VmdkImage};

use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::target::Target;

/// The longest file name whose temporary file is named after it. Names have up to 255 bytes, and the temporary one
/// has a few more.
const LONGEST_NAME: usize = 200;

/// What writes the content of a disk to a file.
pub(super) type Fill<'a> = &'a mut dyn FnMut(&FileStorage, RawTarget) -> vmdk::Result<()>;

/// Writes the content of `image` to what the caller named, with so many threads where there is something to inflate.
pub(super) fn write(image: &VmdkImage, target: Target, threads: usize, sync: bool) -> Result<()> {
    let progress = Progress::new(image.capacity_sectors().saturating_mul(SECTOR_SIZE as u64));
    let mut step = |now| progress.step(now);
    write_by(&mut |storage, kind| image.copy_to_raw(storage, kind, threads, &mut step), target, sync)
}

/// Writes what `content` writes to what the caller named.
pub(super) fn write_by(content: Fill<'_>, target: Target, sync: bool) -> Result<()> {
    match target {
        Target::New { path } => write_file(content, &path, None, sync),
        Target::File { path, meta, .. } => write_file(content, &path, Some(&meta), sync),
        Target::Device { path, storage } => write_device(content, &path, &storage, sync),
    }
}

/// Writes a temporary file beside `path` and gives it that name when it is complete. If anything fails before, the
/// temporary file goes and `path` stays.
fn write_file(content: Fill<'_>, path: &Path, replaced: Option<&Metadata>, sync: bool) -> Result<()> {
    let failed = |action: &'static str| move |cause: io::Error| Failure::host(path, action, cause);
    let temporary = temporary_file(path, replaced).map_err(failed("cannot create a temporary file beside it"))?;
    let file = temporary.as_file();
    let storage = file.try_clone().and_then(FileStorage::new).map_err(failed("cannot use the temporary file"))?;
    copy(content, path, &storage, RawTarget::Empty)?;
    if let Some(replaced) = replaced {
        take_over(file, replaced).map_err(failed("cannot keep the permissions"))?;
    }
    if sync {
        file.sync_all().map_err(failed("cannot sync"))?;
    }
    temporary.persist(path).map_err(|error| failed("cannot replace it by the copy")(error.error))?;
    if sync {
        sync_dir(directory_of(path)).map_err(failed("cannot sync its directory"))?;
    }
    Ok(())
}

fn write_device(content: Fill<'_>, path: &Path, storage: &FileStorage, sync: bool) -> Result<()> {
    copy(content, path, storage, RawTarget::Used)?;
    if sync {
        storage.sync().map_err(|cause| Failure::host(path, "cannot sync", cause))?;
    }
    Ok(())
}

fn copy(content: Fill<'_>, path: &Path, storage: &FileStorage, kind: RawTarget) -> Result<()> {
    // What goes wrong with a source names its file. The target was handed over without a name.
    content(storage, kind).map_err(|error| match error.file() {
        Some(_) => Failure::Image(error),
        None => Failure::Target(path.to_owned(), error),
    })
}

/// A file that is to become `path`. One that replaces another is open to nobody else until it is complete.
fn temporary_file(path: &Path, replaced: Option<&Metadata>) -> io::Result<NamedTempFile> {
    let name = path.file_name().unwrap_or_default();
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(if name.len() <= LONGEST_NAME { name } else { "vmdk-convert".as_ref() });
    prefix.push(".");
    let mut builder = Builder::new();
    builder.prefix(&prefix);
    if replaced.is_none() {
        open_as_umask_says(&mut builder);
    }
    builder.tempfile_in(directory_of(path))
}

/// The directory that a file is in; `path` names a file.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(unix)]
fn open_as_umask_says(builder: &mut Builder<'_, '_>) {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(std::fs::Permissions::from_mode(0o666));
}

#[cfg(not(unix))]
fn open_as_umask_says(_: &mut Builder<'_, '_>) {}

/// Gives `file` the permissions of the file that it replaces, and its owner and group as far as this process may do
/// that. Another group gets no permissions, and who was in the old one no more than that had.
#[cfg(unix)]
fn take_over(file: &File, replaced: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let own = file.metadata()?;
    let (uid, gid) = (Some(replaced.uid()).filter(|&uid| uid != own.uid()), Some(replaced.gid()));
    // Only the superuser may give files away; for others the copy is theirs, as a new file would be.
    let keeps_group = (uid.is_none() && own.gid() == replaced.gid())
        || fchown(file, uid, gid).is_ok()
        || fchown(file, None, gid).is_ok();
    let mode = replaced.mode() & 0o777;
    let mode = if keeps_group { mode } else { mode & 0o700 | mode & 0o007 & (mode >> 3) };
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn take_over(_: &File, _: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Makes the names in a directory durable, where the file system has a way to do that.
#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Elsewhere a directory cannot be opened, and a rename is as durable as the file system makes it.
#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_file_lies_beside_its_target_and_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.raw".to_owned(), "x".repeat(255)] {
            let file = temporary_file(&dir.path().join(&name), None).unwrap();
            assert_eq!(file.path().parent(), Some(dir.path()));
            assert!(file.path().file_name().unwrap().to_str().unwrap().starts_with('.'), "{name}");
        }
    }

    #[test]
    fn a_bare_name_is_in_the_current_directory() {
        assert_eq!(directory_of(Path::new("a")), Path::new("."));
        assert_eq!(directory_of(Path::new("/a")), Path::new("/"));
        assert_eq!(directory_of(Path::new("b/a")), Path::new("b"));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_replaces_another_is_private_until_it_is_complete() {
        use std::fs::{self, Permissions};
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("old");
        fs::write(&old, "").unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
        let meta = fs::metadata(&old).unwrap();
        let file = temporary_file(&old, Some(&meta)).unwrap();
        let mode = || file.as_file().metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(), 0o600);
        take_over(file.as_file(), &meta).unwrap();
        assert_eq!(mode(), 0o644);
    }
}
