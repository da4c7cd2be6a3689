//! A host file with other content under the same name, at once or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{FileStorage, Locking, Purpose, Storage, StorageId};
use crate::error::{Error, Result};

/// A file that is to take the place of another: written, durable and locked, but under a name of its own. Dropped, it
/// is gone.
#[derive(Debug)]
pub(crate) struct Replacement {
    storage: FileStorage,
    name: OwnName,
    path: PathBuf,
}

impl Replacement {
    /// Makes a file with `content` beside the one at `path`, with the owner and permissions of that one, which must be
    /// the file `old`.
    ///
    /// # Errors
    /// What the host reports; `Io` if another file has the name by now.
    pub(crate) fn prepare(path: &Path, old: Option<StorageId>, content: &[u8], locking: Locking) -> Result<Self> {
        let failed = |cause| Error::host("cannot write another descriptor beside it", cause).in_file(path);
        let (mut file, name) = create_beside(path).map_err(failed)?;
        take_after(&file, path, old)
            .and_then(|()| file.write_all(content))
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        let storage = FileStorage::new(file).map_err(failed)?.lock(Purpose::Write, locking)?;
        Ok(Self { storage, name, path: path.to_owned() })
    }

    /// Gives it the name, durably; what is given back keeps its lock.
    ///
    /// # Errors
    /// What the host reports. Which of the two files has the name after a crash is open then.
    pub(crate) fn commit(mut self) -> Result<FileStorage> {
        let renamed = fs::rename(&self.name.0, &self.path);
        if renamed.is_ok() {
            self.name.0 = PathBuf::new();
        }
        let durable = renamed.and_then(|()| sync_dir(&self.path));
        durable.map_err(|cause| Error::host("cannot replace the descriptor", cause).in_file(&self.path))?;
        Ok(self.storage)
    }
}

/// The name of a new file until it has another one; empty then.
#[derive(Debug)]
struct OwnName(PathBuf);

impl Drop for OwnName {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // What went wrong first is what matters.
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// A new file in the directory of `path`.
fn create_beside(path: &Path) -> io::Result<(File, OwnName)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut new = OsString::from(".");
    new.push(name);
    new.push(format!(".{:016x}.new", RandomState::new().hash_one(0)));
    let new = path.with_file_name(new);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&new)?;
    Ok((file, OwnName(new)))
}

/// Gives `file` the permissions and, where that is known, the owner of the file at `path`, which must be `old`.
fn take_after(file: &File, path: &Path, old: Option<StorageId>) -> io::Result<()> {
    let there = File::open(path)?;
    let meta = there.metadata()?;
    if FileStorage::new(there)?.id() != old {
        return Err(io::Error::other("another file has its name by now"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (meta.uid(), meta.gid()) {
            fchown(file, Some(meta.uid()), Some(meta.gid()))?;
        }
    }
    file.set_permissions(meta.permissions())
}

/// Makes the names in the directory of `path` durable.
#[cfg(unix)]
fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    // A directory cannot be opened for that.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(path: &Path, content: &[u8]) -> Result<FileStorage> {
        let old = FileStorage::open(path).ok().and_then(|old| old.id());
        Replacement::prepare(path, old, content, Locking::On)?.commit()
    }

    #[test]
    fn the_new_content_is_there_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vmdk");
        fs::write(&path, "old").unwrap();
        replace(&path, b"new and longer").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new and longer");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_has_the_name_by_now_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vmdk");
        fs::write(&path, "old").unwrap();
        let old = FileStorage::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody else's").unwrap();
        assert!(Replacement::prepare(&path, old.id(), b"new", Locking::On).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        replace(file.path(), b"x").unwrap();
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_file_that_is_dropped_before_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "old").unwrap();
        let old = FileStorage::open(&path).unwrap().id();
        drop(Replacement::prepare(&path, old, b"x", Locking::Off).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("b"), b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
