//! A host file with other content under the same name, at once or not at all.

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::beside::{self, Limits};
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
        let (mut file, name) = create_beside(path, old).map_err(failed)?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
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
        let durable = renamed.and_then(|()| beside::sync_dir(beside::dir_of(&self.path)));
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

/// A new file in the directory of the one at `path`, which must be `old`.
fn create_beside(path: &Path, old: Option<StorageId>) -> io::Result<(File, OwnName)> {
    let there = File::open(path)?;
    let meta = there.metadata()?;
    if FileStorage::new(there)?.id() != old {
        return Err(io::Error::other("another file has its name by now"));
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let new = path.with_file_name(beside::own_name(&name.to_string_lossy()));
    let (file, name) = (beside::create(&new, Limits { replaced: Some(&meta), bound: None })?, OwnName(new));
    check_owner(&file, &meta)?;
    Ok((file, name))
}

/// Refuses a file that could not be given to the owner of another: he would be locked out of his own disk.
#[cfg(unix)]
fn check_owner(file: &File, other: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (other.uid(), other.gid()) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it would have another owner"));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_owner(_: &File, _: &Metadata) -> io::Result<()> {
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
