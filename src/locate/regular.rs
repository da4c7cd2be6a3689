//! Opening a file without ever opening anything else.
//!
//! Opening can be an act: a FIFO blocks until a writer comes, a tape rewinds, a watchdog starts to count, a
//! terminal becomes the controlling one. So what a name leads to is looked at first, with `stat` or through a
//! descriptor that only points to it (`O_PATH`), and opened only if it is wanted. It is opened by name a second
//! time, by the same rules, and looked at again, rather than through `/proc/self/fd`: that works in a jail without
//! `/proc`, too, and whoever swaps the file between the two looks gains nothing, because the second one is as strict
//! as the first and [`flags`] keep even a swapped-in FIFO or terminal harmless.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::storage::Purpose;

/// What a block device is called.
pub(super) const BLOCK_DEVICE: &str = "a block device";

/// Why a file was not opened.
#[derive(Debug)]
pub(super) enum Failure {
    /// The name leads out of the directory that it was confined to.
    Outside,
    /// More symbolic links than [`super::confined::MAX_LINKS`], or one that only the kernel can follow.
    #[cfg(unix)]
    Links,
    /// It is something else than a regular file; the text says what, with its article.
    Kind(&'static str),
    /// The host failed.
    Host(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

/// Who named a file, and so what it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamedBy {
    /// The caller, who may mean a whole block device.
    Caller,
    /// An image, which may not.
    Image,
}

/// Opens `path`, which was made canonical just now, wherever it leads.
pub(super) fn open_plain(path: &Path, by: NamedBy, purpose: Purpose) -> Result<File, Failure> {
    sys::open_plain(path, by, purpose)
}

#[cfg(unix)]
pub(super) use sys::{flags, require};

#[cfg(unix)]
mod sys {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open, stat};
    use rustix::io::{Errno, retry_on_intr};

    use super::{BLOCK_DEVICE, Failure, NamedBy, Purpose};

    /// How everything is opened. `O_NONBLOCK` does nothing to regular files and stays set.
    pub(in super::super) fn flags(purpose: Purpose) -> OFlags {
        let access = if purpose.writes() { OFlags::RDWR } else { OFlags::RDONLY };
        access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY
    }

    /// The errors of `openat2` with `RESOLVE_BENEATH`, which the walk speaks as well.
    impl From<Errno> for Failure {
        fn from(error: Errno) -> Self {
            match error {
                Errno::XDEV => Self::Outside,
                Errno::LOOP => Self::Links,
                error => Self::Host(error.into()),
            }
        }
    }

    pub(super) fn open_plain(path: &Path, by: NamedBy, purpose: Purpose) -> Result<File, Failure> {
        require(&stat(path).map_err(io::Error::from)?, by)?;
        let file = retry_on_intr(|| open(path, flags(purpose), Mode::empty())).map_err(io::Error::from)?;
        require(&fstat(&file)?, by)?;
        Ok(file.into())
    }

    /// Refuses what is neither a regular file nor, for the caller, a block device.
    pub(in super::super) fn require(found: &Stat, by: NamedBy) -> Result<(), Failure> {
        Err(Failure::Kind(match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => return Ok(()),
            FileType::BlockDevice if by == NamedBy::Caller => return Ok(()),
            FileType::BlockDevice => BLOCK_DEVICE,
            FileType::CharacterDevice => "a character device",
            FileType::Directory => "a directory",
            FileType::Fifo => "a FIFO",
            FileType::Socket => "a socket",
            FileType::Symlink => "a symbolic link",
            FileType::Unknown => "something unknown",
        }))
    }
}

#[cfg(not(unix))]
mod sys {
    use std::fs::{File, Metadata, OpenOptions, metadata};
    use std::path::Path;

    use super::{Failure, NamedBy, Purpose};

    pub(super) fn open_plain(path: &Path, _: NamedBy, purpose: Purpose) -> Result<File, Failure> {
        require(&metadata(path)?)?;
        let file = OpenOptions::new().read(true).write(purpose.writes()).open(path)?;
        require(&file.metadata()?)?;
        Ok(file)
    }

    fn require(found: &Metadata) -> Result<(), Failure> {
        if found.is_file() {
            Ok(())
        } else if found.is_dir() {
            Err(Failure::Kind("a directory"))
        } else {
            Err(Failure::Kind("a device or pipe"))
        }
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    fn kind(path: &str, by: NamedBy) -> &'static str {
        match open_plain(Path::new(path), by, Purpose::Read) {
            Err(Failure::Kind(kind)) => kind,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn a_device_node_is_named_and_not_opened() {
        for by in [NamedBy::Caller, NamedBy::Image] {
            assert_eq!(kind("/dev/null", by), "a character device");
            assert_eq!(kind("/", by), "a directory");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_block_device_is_for_the_caller_only() {
        use std::os::unix::fs::FileTypeExt;
        let is_block = |path: &Path| path.metadata().is_ok_and(|meta| meta.file_type().is_block_device());
        let mut paths = std::fs::read_dir("/dev").unwrap().map(|entry| entry.unwrap().path());
        let Some(path) = paths.find(|path| is_block(path)) else {
            eprintln!("skipped: no block device in /dev");
            return;
        };
        assert_eq!(kind(path.to_str().unwrap(), NamedBy::Image), "a block device");
        // Not opened: it is somebody's disk.
        assert!(require(&rustix::fs::stat(&path).unwrap(), NamedBy::Caller).is_ok());
    }
}
