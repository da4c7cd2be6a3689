//! What an image is read from: a file, a member of an appliance, chunks, or standard input.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmdk::{JoinedStorage, OpenOptions, OvaArchive, Storage, VmdkImage};

use crate::failure::Result;

/// What the caller named.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An image.
    File(PathBuf),
    /// An appliance, without a member.
    Archive(PathBuf),
    /// A member of an appliance.
    Member { archive: PathBuf, name: String },
    /// The first chunk of a disk.
    Chunks(PathBuf),
    /// A stream on standard input, or a member of an appliance there.
    Input { member: Option<String> },
}

impl Source {
    /// What exists under the name as it stands is that; else the part before the last colon after which a file is left
    /// is an appliance, and the rest a member of it.
    pub(crate) fn of(named: &Path) -> Self {
        let Some(text) = named.to_str() else { return Self::File(named.to_owned()) };
        if text == "-" {
            return Self::Input { member: None };
        }
        if fs::symlink_metadata(named).is_ok() {
            return match () {
                () if text.ends_with(".000000000") => Self::Chunks(named.to_owned()),
                () if is_archive(named) => Self::Archive(named.to_owned()),
                () => Self::File(named.to_owned()),
            };
        }
        if let Some(member) = text.strip_prefix("-:") {
            return Self::Input { member: Some(member.to_owned()) };
        }
        let mut parts = text.rmatch_indices(':').map(|(at, _)| (&text[..at], &text[at + 1..]));
        match parts.find(|(archive, name)| !name.is_empty() && Path::new(archive).is_file()) {
            Some((archive, name)) => Self::Member { archive: archive.into(), name: name.to_owned() },
            None => Self::File(named.to_owned()),
        }
    }
}

/// A disk that consists of parts of files, all of which are supplied by name.
pub(crate) struct Supplied {
    name: String,
    files: Files,
}

enum Files {
    Archive(OvaArchive),
    Chunks(Arc<dyn Storage>),
}

impl Supplied {
    pub(crate) fn member(archive: &Path, name: &str) -> Result<Self> {
        let archive = OvaArchive::open(archive)?;
        // Before anything else is asked for: its names are in the error.
        archive.storage(name)?;
        Ok(Self { name: name.to_owned(), files: Files::Archive(archive) })
    }

    pub(crate) fn chunks(first: &Path) -> Result<Self> {
        let chunks = Arc::new(JoinedStorage::open_chunks(first)?);
        Ok(Self { name: first.to_string_lossy().into_owned(), files: Files::Chunks(chunks) })
    }

    /// The disk, to be read at random.
    pub(crate) fn open(&self, options: &OpenOptions) -> vmdk::Result<VmdkImage> {
        match &self.files {
            Files::Archive(archive) => options.open_with(&self.name, archive),
            Files::Chunks(chunks) => {
                options.open_with(&self.name, &|name: &str| (name == self.name).then(|| Arc::clone(chunks)))
            }
        }
    }
}

/// Whether a file is an appliance: by its name, since what is in a raw disk its guest decides.
fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("ova"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_stands_for_itself_and_else_the_last_colon_with_a_file_before_it_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["a.ova", "b:c", "d.vmdk", "e.000000000"] {
            fs::write(path(name), "x").unwrap();
        }
        let member = |archive: &str, name: &str| Source::Member { archive: path(archive), name: name.to_owned() };
        assert_eq!(Source::of(&path("a.ova")), Source::Archive(path("a.ova")));
        assert_eq!(Source::of(&path("b:c")), Source::File(path("b:c")));
        assert_eq!(Source::of(&path("d.vmdk")), Source::File(path("d.vmdk")));
        assert_eq!(Source::of(&path("e.000000000")), Source::Chunks(path("e.000000000")));
        assert_eq!(Source::of(&path("a.ova:x.vmdk")), member("a.ova", "x.vmdk"));
        assert_eq!(Source::of(&path("a.ova:x:y")), member("a.ova", "x:y"));
        assert_eq!(Source::of(&path("b:c:x")), member("b:c", "x"));
        assert_eq!(Source::of(&path("none:x")), Source::File(path("none:x")));
        assert_eq!(Source::of(Path::new("-")), Source::Input { member: None });
        assert_eq!(Source::of(Path::new("-:x")), Source::Input { member: Some("x".to_owned()) });
    }
}
