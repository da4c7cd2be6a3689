//! Where a new image goes: a path that the caller gives, as a directory and a name.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::storage::HostDirectory;

/// The directory of a new image, without links, and the name of the file with its descriptor.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) directory: HostDirectory,
    pub(crate) name: String,
}

impl Place {
    /// Where `path` leads. A link to a file that is there stands for that file.
    ///
    /// # Errors
    /// `InvalidInput` for what is no name of a file, or none that a descriptor can hold; `NotFound` for a directory
    /// that does not exist; what the host reports.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let refused = |problem: &'static str| Error::text(ErrorKind::InvalidInput, problem).in_file(path);
        let ends_in_separator = path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
        if ends_in_separator || path.file_name().is_none() {
            return Err(refused("this is not the name of a file"));
        }
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let parent = real.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = fs::canonicalize(parent);
        let dir = dir.map_err(|cause| Error::host("cannot find the directory", cause).in_file(path))?;
        let name = real.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| refused("the name is not valid UTF-8, in which the descriptor is written"))?;
        Ok(Self { directory: HostDirectory::new(dir), name: name.to_owned() })
    }

    /// Of an image that `replaces` another, lets nobody use files that replace none who may not use the old descriptor.
    pub(crate) fn private_if(mut self, replaces: bool) -> Self {
        if replaces {
            self.directory = self.directory.clone().others_only_for_users_of(&self.path());
        }
        self
    }

    /// The path of the file with the descriptor.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }

    /// The name of the file at `target`, a path without links, as seen from here.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not UTF-8.
    pub(crate) fn name_of(&self, target: &Path) -> Result<String> {
        let name = relative(self.directory.path(), target);
        let parts: Option<Vec<&str>> = name.iter().map(|part| part.to_str()).collect();
        let text = "the name of the parent is not valid UTF-8, in which the descriptor is written";
        let parts = parts.ok_or_else(|| Error::text(ErrorKind::InvalidInput, text).in_file(target))?;
        // Every reader takes a slash. An absolute name begins with the separator of its host.
        Ok(if name.is_absolute() { name.to_string_lossy().into_owned() } else { parts.join("/") })
    }
}

/// The way from a directory to a file, both absolute and without links. Where there is none, between the drives of
/// Windows, the file as it is.
fn relative(dir: &Path, target: &Path) -> PathBuf {
    let (mut from, mut to) = (dir.components().peekable(), target.components().peekable());
    let mut has_common = false;
    while let (Some(a), Some(b)) = (from.peek(), to.peek())
        && a == b
    {
        has_common = true;
        from.next();
        to.next();
    }
    if !has_common {
        return target.to_owned();
    }
    from.map(|_| "..".as_ref()).chain(to.map(Component::as_os_str)).collect()
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_from_a_directory_to_a_file_is_the_shortest() {
        for (dir, target, expected) in [
            ("/a", "/a/b.vmdk", "b.vmdk"),
            ("/a/b", "/a/c/d.vmdk", "../c/d.vmdk"),
            ("/a", "/a/b/c.vmdk", "b/c.vmdk"),
            ("/a/b", "/c.vmdk", "../../c.vmdk"),
            ("/", "/c.vmdk", "c.vmdk"),
        ] {
            assert_eq!(relative(Path::new(dir), Path::new(target)), Path::new(expected), "{dir} {target}");
        }
    }

    #[test]
    fn a_link_stands_for_the_file_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/a.vmdk"), "").unwrap();
        std::os::unix::fs::symlink("sub/a.vmdk", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("sub", dir.path().join("linked")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        let place = |path: &str| Place::of(&dir.path().join(path)).map(|place| place.path());
        assert_eq!(place("link").unwrap(), real.join("sub/a.vmdk"));
        assert_eq!(place("linked/new.vmdk").unwrap(), real.join("sub/new.vmdk"));
        assert_eq!(place("dangling").unwrap(), real.join("dangling"));
        assert_eq!(place("new.vmdk").unwrap(), real.join("new.vmdk"));
        assert_eq!(place("missing/new.vmdk").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let latin = Path::new(std::ffi::OsStr::from_bytes(b"caf\xe9.vmdk"));
        for path in [Path::new(""), Path::new("/"), Path::new(".."), Path::new("a/"), latin] {
            assert_eq!(Place::of(path).unwrap_err().kind(), ErrorKind::InvalidInput, "{path:?}");
        }
    }
}
