//! The change tracking file of a link: its header, and where it goes when the tracking ends.

use std::collections::HashSet;

use crate::descriptor::Descriptor;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{ChangeTrackingHeader, ctk};
use crate::locate::shown;
use crate::sector::to_usize;
use crate::storage::{Directory, Storage, StorageId};

/// What is put behind the name of a file that no disk names any more.
const ASIDE: &str = ".dropped";

/// How many names are tried for it.
const MOST_NAMES: u32 = 100;

impl ChangeTrackingHeader {
    /// Reads the header of a file, and no more of it than that.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse); what the host reports.
    pub fn read(file: &dyn Storage) -> Result<Self> {
        let len = file.len().map_err(|cause| Error::host("cannot find out the length", cause))?;
        let mut start = vec![0; to_usize(len.min(ctk::LEN as u64))];
        file.read_exact_at(&mut start, 0).map_err(|cause| Error::transfer("read", start.len(), 0, cause))?;
        Self::parse(&start)
    }
}

/// What became of the change tracking of a disk when it was given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DroppedTracking {
    /// The change tracking file, as the descriptor had it.
    pub file: String,
    /// What it is called now, in the same directory; `None` if it was left as it is, or is not there.
    pub renamed_to: Option<String>,
    /// Why it was left as it is. It belongs to no disk any more.
    pub left_because: Option<String>,
}

impl DroppedTracking {
    pub(crate) fn left(descriptor: &Descriptor, why: String) -> Self {
        Self { left_because: Some(why), ..Self::of(descriptor) }
    }

    fn of(descriptor: &Descriptor) -> Self {
        let raw = descriptor.change_track_path().unwrap_or_default();
        let file = descriptor.decode_name(raw).unwrap_or_else(|_| raw.escape_ascii().to_string());
        Self { file, ..Self::default() }
    }
}

/// Gives the change tracking file of a disk, whose descriptor no longer names it, another name, durably.
///
/// It is not removed, and nothing is that it might be taken for: whoever wrote the descriptor chose the name. So it is
/// renamed only if it lies beside the descriptor, begins as such a file does, is used by nobody, and is none of `own`.
/// Nothing of this is an error: the disk does not depend on it any more.
pub(crate) fn move_aside(
    descriptor: &Descriptor,
    directory: &dyn Directory,
    own: &HashSet<StorageId>,
) -> DroppedTracking {
    let mut dropped = DroppedTracking::of(descriptor);
    match try_move(descriptor, directory, own) {
        Ok(renamed_to) => dropped.renamed_to = renamed_to,
        Err(error) => dropped.left_because = Some(error.with_causes()),
    }
    dropped
}

fn try_move(descriptor: &Descriptor, directory: &dyn Directory, own: &HashSet<StorageId>) -> Result<Option<String>> {
    let name = descriptor.decode_name(descriptor.change_track_path().unwrap_or_default())?;
    let refused = |text: &str| Err(Error::text(ErrorKind::NameRefused, format!("{} {text}", shown(&name))));
    let Some(plain) = plain(&name) else {
        return refused("is no name of a file beside the descriptor");
    };
    let mut names = descriptor.extents().iter().filter_map(|line| descriptor.decode_name(line.name()?).ok());
    if names.any(|extent| self::plain(&extent) == Some(plain)) {
        return refused("is an extent of the disk");
    }
    let Some(file) = directory.claim(plain)? else { return Ok(None) };
    if file.id().is_some_and(|id| own.contains(&id)) {
        return refused("is a file of the disk itself");
    }
    ChangeTrackingHeader::read(&*file)?;
    for number in 0..MOST_NAMES {
        let new = match number {
            0 => format!("{plain}{ASIDE}"),
            number => format!("{plain}{ASIDE}-{number}"),
        };
        match directory.rename(plain, &new, false) {
            Ok(()) => {
                directory.sync()?;
                return Ok(Some(new));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    refused("has been dropped too often: there is no name left")
}

/// A name without a path.
fn plain(name: &str) -> Option<&str> {
    let plain = name.strip_prefix("./").unwrap_or(name);
    let is_plain = !matches!(plain, "" | "." | "..") && !plain.contains(['/', '\\', '\0', std::path::MAIN_SEPARATOR]);
    is_plain.then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;
    use crate::storage::HostDirectory;

    #[test]
    fn of_a_long_file_only_the_header_is_read_and_a_short_one_is_an_error() {
        let mut bytes = vec![7; 1000];
        bytes[..4].copy_from_slice(&[0xa2, 0x72, 0x19, 0xf6]);
        let header = ChangeTrackingHeader::read(&MemoryStorage::new(bytes.clone())).unwrap();
        assert_eq!(header.as_bytes(), &bytes[..64]);
        for len in [0, 63] {
            let error = ChangeTrackingHeader::read(&MemoryStorage::new(&bytes[..len])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn only_a_name_without_a_path_is_one_beside_the_descriptor() {
        assert_eq!((plain("a-ctk.vmdk"), plain("./a")), (Some("a-ctk.vmdk"), Some("a")));
        for name in ["", ".", "..", "./..", "/a", "a/b", "../a", "a\\b", "C:\\a", "a\0"] {
            assert_eq!(plain(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_name_that_is_taken_stays_and_the_next_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let directory = HostDirectory::new(dir.path().to_owned());
        let descriptor = Descriptor::parse(b"changeTrackPath=a\n").unwrap();
        for number in 0..3 {
            let content = [&[0xa2, 0x72, 0x19, 0xf6], &[number; 60][..]].concat();
            std::fs::write(dir.path().join("a"), &content).unwrap();
            let dropped = move_aside(&descriptor, &directory, &HashSet::new());
            let expected = ["a.dropped", "a.dropped-1", "a.dropped-2"][usize::from(number)];
            assert_eq!((dropped.renamed_to.as_deref(), dropped.left_because), (Some(expected), None));
            assert_eq!(std::fs::read(dir.path().join(expected)).unwrap(), content);
        }
        assert!(!dir.path().join("a").exists());
        // Without a file there is nothing to do.
        let dropped = move_aside(&descriptor, &directory, &HashSet::new());
        assert_eq!(dropped, DroppedTracking { file: "a".to_owned(), ..DroppedTracking::default() });
    }
}
