//! New files beside the one whose name they are to have, under a name of their own until they are complete.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

use crate::random::random;

/// The longest name whose own name is made of it. Names have up to 255 bytes, and this one has 22 more.
const LONGEST_NAME: usize = 200;

/// A name for a file that is to be called `name`; nobody else has it.
pub(crate) fn own_name(name: &str) -> String {
    let [number, ..] = random::<2>();
    format!(".{}.{number:016x}.new", if name.len() <= LONGEST_NAME { name } else { "vmdk" })
}

/// Makes a file that nothing has the name of yet. One that is to replace another is like that one from the beginning:
/// nobody reads the new one who may not read the old one.
pub(super) fn create(path: &Path, replaced: Option<&Metadata>) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let Some(replaced) = replaced else { return options.open(path) };
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    let taken = take_after(&file, replaced);
    if taken.is_err() {
        // What went wrong first is what matters.
        let _ = fs::remove_file(path);
    }
    taken.map(|()| file)
}

/// Gives `file` the permissions of another and, as far as this process may do that, its owner.
#[cfg(unix)]
fn take_after(file: &File, other: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (other.uid(), other.gid()) {
        // Only the superuser may give files away; for others it is theirs, as a new file would be.
        let _ = fchown(file, Some(other.uid()), Some(other.gid()));
    }
    file.set_permissions(other.permissions())
}

#[cfg(not(unix))]
fn take_after(file: &File, other: &Metadata) -> io::Result<()> {
    file.set_permissions(other.permissions())
}

/// Gives the file at `from` the name `to`, which nothing may have.
///
/// # Errors
/// `AlreadyExists`; what the host reports.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // An old kernel, or a file system that cannot do that.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return Ok(done?),
        }
    }
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

/// Makes the names in a directory durable, where the file system has a way to do that.
#[cfg(unix)]
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // What Linux says of a directory that cannot be synced; its names are as durable as it makes them.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

#[cfg(not(unix))]
pub(super) fn sync_dir(_: &Path) -> io::Result<()> {
    // A directory cannot be opened for that.
    Ok(())
}

/// The directory of a file.
pub(super) fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_name_is_hidden_and_short_enough_and_never_the_same() {
        for name in ["a.vmdk".to_owned(), "x".repeat(255)] {
            let (one, two) = (own_name(&name), own_name(&name));
            assert!(one.starts_with('.') && one.len() <= 255, "{one}");
            assert_ne!(one, two);
        }
    }

    #[test]
    fn a_name_that_is_taken_is_not_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();
        assert_eq!(rename_new(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"old");
        fs::remove_file(&to).unwrap();
        rename_new(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bare_name_is_in_the_current_directory() {
        assert_eq!(dir_of(Path::new("a")), Path::new("."));
        assert_eq!(dir_of(Path::new("/a")), Path::new("/"));
        assert_eq!(dir_of(Path::new("b/a")), Path::new("b"));
    }
}
