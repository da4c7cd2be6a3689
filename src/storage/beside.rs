//! New files beside the one whose name they are to have, under a name of their own until they are complete.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

use crate::random::random;

/// The longest name whose own name is made of it. Names have up to 255 bytes, and this one has 22 more.
const LONGEST_NAME: usize = 200;

/// A name for a file that is to be called `name`; nobody else has it.
pub(crate) fn own_name(name: &str) -> String {
    let [number] = random();
    format!(".{}.{number:016x}.new", if name.len() <= LONGEST_NAME { name } else { "vmdk" })
}

/// Files whose users alone may use a new one; without any it is for whom the host lets use new files.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits<'a> {
    /// The file that it is to replace, and whose owner, group and permissions it takes over.
    pub(super) replaced: Option<&'a Metadata>,
    /// A file with the same content, more or less: nobody may do more with the new one.
    pub(super) bound: Option<&'a Metadata>,
}

/// Makes a file that nothing has the name of yet.
pub(super) fn create(path: &Path, limits: Limits<'_>) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
        let mode = match limits {
            Limits { replaced: Some(_), .. } => 0o600,
            Limits { bound: Some(bound), .. } => bound.mode() & 0o666 | 0o600,
            Limits { .. } => 0o666,
        };
        options.mode(mode);
    }
    let file = options.open(path)?;
    let limited = limit(&file, limits);
    if limited.is_err() {
        // What went wrong first is what matters.
        let _ = fs::remove_file(path);
    }
    limited.map(|()| file)
}

/// The mode for a file that cannot have the group which it should have: its own gets nothing, and who is in the other
/// one no more than that has.
#[cfg(unix)]
fn without_group(mode: u32) -> u32 {
    mode & 0o700 | mode & 0o007 & (mode >> 3)
}

/// Sees to it that nobody may use `file` who may not, and as far as this process may do that, that it has the owner and
/// group which it should have.
#[cfg(unix)]
fn limit(file: &File, Limits { replaced, bound }: Limits<'_>) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let own = file.metadata()?;
    let (mut mode, mut group) = (own.mode() & 0o777, own.gid());
    if let Some(other) = replaced {
        let (uid, gid) = (Some(other.uid()).filter(|&uid| uid != own.uid()), Some(other.gid()));
        // Only the superuser may give files away; for others it is theirs, as a new file would be.
        let is_same = group == other.gid() && uid.is_none();
        if is_same || fchown(file, uid, gid).is_ok() || fchown(file, None, gid).is_ok() {
            group = other.gid();
        }
        mode = if group == other.gid() { other.mode() & 0o777 } else { without_group(other.mode()) };
    }
    if let Some(other) = bound {
        if replaced.is_none() && group != other.gid() && fchown(file, None, Some(other.gid())).is_ok() {
            group = other.gid();
        }
        mode &= 0o600 | if group == other.gid() { other.mode() } else { without_group(other.mode()) };
    }
    if mode == own.mode() & 0o777 {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn limit(file: &File, limits: Limits<'_>) -> io::Result<()> {
    limits.replaced.map_or(Ok(()), |replaced| file.set_permissions(replaced.permissions()))
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
    match fs::hard_link(from, to) {
        Ok(()) => {}
        // Neither links nor that: others may get in between.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            return fs::rename(from, to);
        }
        Err(error) => return Err(error),
    }
    // It has its name; another one that cannot be taken away does no harm.
    let _ = fs::remove_file(from);
    Ok(())
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

    #[cfg(unix)]
    #[test]
    fn where_the_group_cannot_be_kept_nobody_gets_more() {
        for (mode, expected) in [(0o660, 0o600), (0o644, 0o604), (0o604, 0o600), (0o777, 0o707), (0o2750, 0o700)] {
            assert_eq!(without_group(mode), expected, "{mode:o}");
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
