//! Where the files of a new image are made.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::beside::{self, Limits};
use super::{FileStorage, Purpose, Storage, StorageId};
use crate::error::{Error, ErrorKind, Result};

/// A place in which files are made and named: a directory of the host, or what a program that may not open files has
/// instead. Names are plain ones, without a path.
///
/// # Durability
///
/// A name that was given or taken away may come back as it was after a crash, each by itself, until a
/// [`sync`](Self::sync) that began afterwards has returned. What is in a file is for [`Storage::sync`].
pub trait Directory: Send + Sync {
    /// Whether there is something called `name`, whatever it is.
    ///
    /// # Errors
    /// What the host reports.
    fn exists(&self, name: &str) -> Result<bool>;

    /// What identifies the file called `name`; `None` if there is none, or if that is not known, as by default.
    ///
    /// # Errors
    /// What the host reports.
    fn id_of(&self, name: &str) -> Result<Option<StorageId>> {
        let _ = name;
        Ok(None)
    }

    /// The file called `name` for who is about to replace it; nobody else uses it as long as it is held. `None` if there
    /// is none.
    ///
    /// # Errors
    /// [`Locked`](ErrorKind::Locked); [`InvalidInput`](ErrorKind::InvalidInput) for what is no file;
    /// [`ReadOnly`](ErrorKind::ReadOnly) for a file that may not be written; what the host reports.
    fn claim(&self, name: &str) -> Result<Option<Arc<dyn Storage>>>;

    /// Makes an empty file called `name`, which is to be called `becomes` once it is complete: where a file of that name
    /// is to be replaced, the new one is as private as that. What is given back stays that file when it is renamed: a
    /// child is written through it. Whoever has locks keeps others from using it as long as it is held.
    ///
    /// # Errors
    /// What the host reports.
    fn create(&self, name: &str, becomes: &str) -> Result<Arc<dyn Storage>>;

    /// Calls the file `name` `becomes` from now on, at once. What is called so already is replaced if `replace` says so.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); what the host reports.
    fn rename(&self, name: &str, becomes: &str, replace: bool) -> Result<()>;

    /// Takes away the name of a file, and the file with it.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); what the host reports.
    fn remove(&self, name: &str) -> Result<()>;

    /// Makes the names durable.
    ///
    /// # Errors
    /// What the host reports.
    fn sync(&self) -> Result<()>;
}

/// A directory of the host.
#[derive(Clone, Debug)]
pub(crate) struct HostDirectory {
    dir: PathBuf,
    /// A file whose users alone may use the new ones.
    bound: Option<Metadata>,
    /// The same for those of them that replace nothing.
    bound_of_others: Option<Metadata>,
}

impl HostDirectory {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, bound: None, bound_of_others: None }
    }

    /// Lets nobody use new files who may not use the file at `path`.
    pub(crate) fn only_for_users_of(mut self, path: &Path) -> Self {
        self.bound = fs::metadata(path).ok();
        self
    }

    /// Lets nobody use new files that replace nothing who may not use the file at `path`.
    pub(crate) fn others_only_for_users_of(mut self, path: &Path) -> Self {
        self.bound_of_others = fs::metadata(path).ok();
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    fn failed(&self, name: &str, action: &'static str, cause: io::Error) -> Error {
        Error::host(action, cause).in_file(&self.dir.join(name))
    }
}

impl Directory for HostDirectory {
    fn exists(&self, name: &str) -> Result<bool> {
        match fs::symlink_metadata(self.dir.join(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed(name, "cannot look for the file", error)),
        }
    }

    fn id_of(&self, name: &str) -> Result<Option<StorageId>> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            match fs::symlink_metadata(self.dir.join(name)) {
                Ok(meta) => Ok(Some(StorageId { device: meta.dev(), object: meta.ino() })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(self.failed(name, "cannot look at the file", error)),
            }
        }
        #[cfg(not(unix))]
        {
            let _ = name;
            Ok(None)
        }
    }

    fn claim(&self, name: &str) -> Result<Option<Arc<dyn Storage>>> {
        let path = self.dir.join(name);
        // Looked at before it is opened: opening a FIFO waits for its other end.
        let meta = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            meta => meta.map_err(|cause| self.failed(name, "cannot look at the file", cause))?,
        };
        if !meta.is_file() {
            let text = "this is not a regular file, and is not replaced by one";
            return Err(Error::text(ErrorKind::InvalidInput, text).in_file(&path));
        }
        let file = fs::File::options().read(true).write(true).open(&path).and_then(FileStorage::new);
        let file = file.map_err(|cause| {
            let kind = match cause.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
                _ => ErrorKind::Io,
            };
            self.failed(name, "cannot open the file that is to be replaced", cause).with_kind(kind)
        })?;
        Ok(Some(Arc::new(file.lock_where_possible(Purpose::Write).map_err(|error| error.in_file(&path))?)))
    }

    fn create(&self, name: &str, becomes: &str) -> Result<Arc<dyn Storage>> {
        let replaced = fs::metadata(self.dir.join(becomes)).ok();
        let of_others = self.bound_of_others.as_ref().filter(|_| replaced.is_none());
        let limits = Limits { replaced: replaced.as_ref(), bound: self.bound.as_ref().or(of_others) };
        let failed = |cause| self.failed(becomes, "cannot create the file", cause);
        let file = beside::create(&self.dir.join(name), limits).map_err(failed)?;
        // Also once it has its name nobody gets in between, as long as it is held.
        let locked = FileStorage::new(file).map_err(failed).and_then(|file| file.lock_where_possible(Purpose::Write));
        if locked.is_err() {
            // What went wrong first is what matters.
            let _ = fs::remove_file(self.dir.join(name));
        }
        Ok(Arc::new(locked?))
    }

    fn rename(&self, name: &str, becomes: &str, replace: bool) -> Result<()> {
        let (from, to) = (self.dir.join(name), self.dir.join(becomes));
        let renamed = if replace { fs::rename(&from, &to) } else { beside::rename_new(&from, &to) };
        renamed.map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => already_exists().in_file(&to),
            _ => self.failed(becomes, "cannot give the file its name", cause),
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.dir.join(name)).map_err(|cause| self.failed(name, "cannot remove the file", cause))
    }

    fn sync(&self) -> Result<()> {
        let synced = beside::sync_dir(&self.dir);
        synced.map_err(|cause| Error::host("cannot make the names in the directory durable", cause).in_file(&self.dir))
    }
}

/// The refusal to replace a file.
pub(crate) fn already_exists() -> Error {
    Error::text(ErrorKind::AlreadyExists, "the file exists, and is replaced only if that is asked for (replace)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, HostDirectory) {
        let dir = tempfile::tempdir().unwrap();
        let directory = HostDirectory::new(dir.path().to_owned());
        (dir, directory)
    }

    #[test]
    fn a_file_is_made_under_one_name_and_renamed_to_another() {
        let (dir, directory) = directory();
        let file = directory.create("own", "a").unwrap();
        file.write_all_at(b"content", 0).unwrap();
        assert!(directory.exists("own").unwrap() && !directory.exists("a").unwrap());
        directory.rename("own", "a", false).unwrap();
        directory.sync().unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"content");
        directory.create("own", "a").unwrap();
        let error = directory.rename("own", "a", false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(error.file(), Some(&*dir.path().join("a")));
        directory.rename("own", "a", true).unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"");
        directory.remove("a").unwrap();
        assert_eq!(directory.remove("a").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_somebody_uses_and_what_is_no_file_is_not_replaced() {
        let (dir, directory) = directory();
        assert!(directory.claim("a").unwrap().is_none());
        fs::write(dir.path().join("a"), "x").unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        let claimed = directory.claim("a").unwrap().unwrap();
        if cfg!(unix) {
            assert_eq!(directory.claim("a").unwrap_err().kind(), ErrorKind::Locked);
        }
        drop(claimed);
        directory.claim("a").unwrap().unwrap();
        assert_eq!(directory.claim("dir").unwrap_err().kind(), ErrorKind::InvalidInput);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
            assert!(directory.exists("link").unwrap());
            assert_eq!(directory.claim("link").unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_replaces_another_has_its_permissions_from_the_beginning() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, directory) = directory();
        fs::write(dir.path().join("a"), "x").unwrap();
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o640)).unwrap();
        directory.create("own", "a").unwrap();
        assert_eq!(fs::metadata(dir.path().join("own")).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
