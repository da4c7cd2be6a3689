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

    /// The file called `name` for who is about to replace it; nobody else uses it as long as it is held. `None` if
    /// there is none.
    ///
    /// # Errors
    /// [`Locked`](ErrorKind::Locked); [`InvalidInput`](ErrorKind::InvalidInput) for what is no file;
    /// [`ReadOnly`](ErrorKind::ReadOnly) for a file that may not be written; what the host reports.
    fn claim(&self, name: &str) -> Result<Option<Arc<dyn Storage>>>;

    /// Makes an empty file called `name`, which is to be called `becomes` once it is complete: where a file of that
    /// name is to be replaced, the new one is as private as that. What is given back stays that file when it is
    /// renamed: a child is written through it. Whoever has locks keeps others from using it as long as it is held.
    ///
    /// # Errors
    /// What the host reports.
    fn create(&self, name: &str, becomes: &str) -> Result<Arc<dyn Storage>>;

    /// Calls the file `name` `becomes` from now on, at once. What is called so already is replaced if `replace` says
    /// so.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); what the host reports.
    fn rename(&self, name: &str, becomes: &str, replace: bool) -> Result<()>;

    /// Gives the file `name` the further name `becomes`, which nothing may have: both lead to it from now on.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where a file has but one name, as by default;
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); what the host reports.
    fn link(&self, name: &str, becomes: &str) -> Result<()> {
        let _ = becomes;
        Err(no_links().in_file(Path::new(name)))
    }

    /// Whether two names lead to one file, each by itself, so that the other stays when one is taken away. Nobody knows
    /// of any, by default.
    ///
    /// # Errors
    /// What the host reports.
    fn is_link(&self, name: &str, other: &str) -> Result<bool> {
        let _ = (name, other);
        Ok(false)
    }

    /// Takes away the name of a file, and the file with it unless it has another one.
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
    bound: Option<Box<Metadata>>,
    /// The same for those of them that replace nothing.
    bound_of_others: Option<Box<Metadata>>,
    /// The file in the place of which the new ones are, wherever it is.
    replaced: Option<Box<Metadata>>,
}

impl HostDirectory {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, bound: None, bound_of_others: None, replaced: None }
    }

    /// Lets nobody use new files who may not use the file at `path`.
    pub(crate) fn only_for_users_of(mut self, path: &Path) -> Self {
        self.bound = fs::metadata(path).ok().map(Box::new);
        self
    }

    /// Lets nobody use new files that replace nothing who may not use the file at `path`.
    pub(crate) fn others_only_for_users_of(mut self, path: &Path) -> Self {
        self.bound_of_others = fs::metadata(path).ok().map(Box::new);
        self
    }

    /// Gives new files the owner and the permissions of the file at `path`, in the place of which they are.
    pub(crate) fn in_place_of(mut self, path: &Path) -> Self {
        self.replaced = fs::metadata(path).ok().map(Box::new);
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// As [`link`](Directory::link), with the further name in another directory.
    pub(crate) fn link_into(&self, name: &str, other: &Self, becomes: &str) -> Result<()> {
        let (from, to) = (self.dir.join(name), other.dir.join(becomes));
        fs::hard_link(&from, &to).map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => already_exists().in_file(&to),
            io::ErrorKind::CrossesDevices => other_file_system().in_file(&to),
            _ if has_no_links(&cause) => Error::host(NO_LINKS, cause).with_kind(ErrorKind::Unsupported).in_file(&from),
            _ => other.failed(becomes, "cannot give the file another name", cause),
        })
    }

    /// As [`is_link`](Directory::is_link), with the other name in another directory.
    pub(crate) fn is_link_into(&self, name: &str, other: &Self, other_name: &str) -> Result<bool> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let look = |directory: &Self, name: &str| match fs::symlink_metadata(directory.dir.join(name)) {
                Ok(meta) => Ok(Some(meta)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(directory.failed(name, "cannot look at the file", error)),
            };
            let (Some(a), Some(b)) = (look(self, name)?, look(other, other_name)?) else { return Ok(false) };
            let is_one_directory = || -> Result<bool> {
                let [a, b] = [(self, ""), (other, "")].map(|(directory, name)| look(directory, name));
                Ok(a?.map(|meta| (meta.dev(), meta.ino())) == b?.map(|meta| (meta.dev(), meta.ino())))
            };
            // Where case, or how a letter is written, does not count, two names may be one: taking away one would take
            // away the other.
            let may_be_one = name.to_lowercase() == other_name.to_lowercase()
                || cfg!(target_vendor = "apple") && !(name.is_ascii() && other_name.is_ascii());
            let is_same_file = (a.dev(), a.ino()) == (b.dev(), b.ino()) && a.nlink() > 1;
            Ok(is_same_file && !(may_be_one && is_one_directory()?))
        }
        #[cfg(not(unix))]
        {
            let _ = (name, other, other_name);
            Ok(false)
        }
    }

    /// As [`rename`](Directory::rename), with the new name in another directory.
    pub(crate) fn rename_into(&self, name: &str, other: &Self, becomes: &str, replace: bool) -> Result<()> {
        let (from, to) = (self.dir.join(name), other.dir.join(becomes));
        let renamed = if replace { fs::rename(&from, &to) } else { beside::rename_new(&from, &to) };
        renamed.map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => already_exists().in_file(&to),
            io::ErrorKind::CrossesDevices => other_file_system().in_file(&to),
            _ => other.failed(becomes, "cannot give the file its name", cause),
        })
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
        let replaced = self.replaced.clone().or_else(|| fs::metadata(self.dir.join(becomes)).ok().map(Box::new));
        let of_others = self.bound_of_others.as_deref().filter(|_| replaced.is_none());
        let limits = Limits { replaced: replaced.as_deref(), bound: self.bound.as_deref().or(of_others) };
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
        self.rename_into(name, self, becomes, replace)
    }

    fn link(&self, name: &str, becomes: &str) -> Result<()> {
        self.link_into(name, self, becomes)
    }

    fn is_link(&self, name: &str, other: &str) -> Result<bool> {
        self.is_link_into(name, self, other)
    }

    fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.dir.join(name)).map_err(|cause| self.failed(name, "cannot remove the file", cause))
    }

    fn sync(&self) -> Result<()> {
        let synced = beside::sync_dir(&self.dir);
        synced.map_err(|cause| Error::host("cannot make the names in the directory durable", cause).in_file(&self.dir))
    }
}

const NO_LINKS: &str = "the file cannot have two names, of which one could replace the other safely";

/// What a directory says that has no links.
fn no_links() -> Error {
    Error::text(ErrorKind::Unsupported, NO_LINKS)
}

/// Whether a file system, or a rule of the host, lets a file have but one name.
fn has_no_links(cause: &io::Error) -> bool {
    #[cfg(unix)]
    let is_not_permitted = cause.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error());
    #[cfg(not(unix))]
    let is_not_permitted = false;
    is_not_permitted || matches!(cause.kind(), io::ErrorKind::Unsupported | io::ErrorKind::TooManyLinks)
}

fn other_file_system() -> Error {
    let text = "this is on another file system; copy the disk (copy_disk, `vmdk copy`), and remove the old one";
    Error::text(ErrorKind::Unsupported, text)
}

/// The refusal to replace a file.
pub(crate) fn already_exists() -> Error {
    Error::text(ErrorKind::AlreadyExists, "the file exists, and is replaced only if that is asked for (replace)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn two_names_are_links_only_if_each_of_them_can_go_by_itself() {
        let guard = tempfile::tempdir().unwrap();
        let directory = HostDirectory::new(guard.path().to_owned());
        fs::create_dir(guard.path().join("sub")).unwrap();
        // The same directory by another path.
        let again = HostDirectory::new(guard.path().join("sub/.."));
        let sub = HostDirectory::new(guard.path().join("sub"));
        fs::write(guard.path().join("a"), "").unwrap();
        fs::write(guard.path().join("other"), "").unwrap();
        assert!(!directory.is_link_into("a", &again, "a").unwrap());
        directory.link("a", "b").unwrap();
        directory.link("a", "A").unwrap();
        directory.link_into("a", &sub, "a").unwrap();
        for (name, other, other_name, expected) in [
            ("a", &directory, "b", true),
            ("a", &again, "b", true),
            ("a", &sub, "a", true),
            ("a", &directory, "A", false),
            ("a", &again, "a", false),
            ("a", &directory, "other", false),
            ("a", &directory, "nobody", false),
        ] {
            assert_eq!(directory.is_link_into(name, other, other_name).unwrap(), expected, "{name} {other_name}");
        }
        assert_eq!(directory.link("a", "b").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(directory.link("nobody", "c").unwrap_err().kind(), ErrorKind::NotFound);
    }

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
