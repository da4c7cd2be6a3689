//! Opening a name beneath a directory: whatever links stand in the way, the file opened lies beneath it.
//!
//! Three ways, one answer. On Linux the kernel does it (`openat2` with `RESOLVE_BENEATH`). Where it cannot, the
//! *walk* goes a component at a time, from descriptor to descriptor, never following a link by itself; it knows no
//! way up except back along the descriptors it came by, so that moving directories about meanwhile gains nothing.
//! Both give the same answers, down to the order in which they complain, and one table of tests says so. Two
//! differences remain, in what is refused anyway: links of procfs that lead nowhere by name (`pipe:[7]`) are missing
//! files to the walk, and only the kernel honours the host's own restrictions on links in sticky directories.
//!
//! The third way, for hosts other than Unix, is weaker: the name is resolved, checked, and then opened by its
//! resolved name. Whoever can change directories on the host between check and opening can defeat it; an image
//! cannot.

use std::path::Path;

use super::Found;
use super::regular::Failure;
use crate::storage::Purpose;

/// The most symbolic links that one name may go through. It is the kernel's number.
#[cfg(unix)]
pub(super) const MAX_LINKS: u32 = 40;

/// Opens `name`, relative to the canonical directory `dir` and beneath it.
pub(super) fn open(dir: &Path, name: &Path, purpose: Purpose) -> Result<Found, Failure> {
    sys::open(dir, name, purpose)
}

#[cfg(unix)]
mod sys {
    use std::ffi::OsStr;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, readlinkat, statat};
    use rustix::io::{Errno, retry_on_intr};

    use super::super::Found;
    use super::super::regular::{Failure, NamedBy, flags, require};
    use super::{MAX_LINKS, Purpose};

    /// How directories are opened: to go on from, not to be listed.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const STEP: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

    pub(super) fn open(dir: &Path, name: &Path, purpose: Purpose) -> Result<Found, Failure> {
        let base = base(dir)?;
        #[cfg(target_os = "linux")]
        if let Some(found) = by_kernel(base.as_fd(), dir, name, purpose)? {
            return Ok(found);
        }
        by_walk(base.as_fd(), dir, name, purpose)
    }

    pub(super) fn base(dir: &Path) -> Result<OwnedFd, Failure> {
        Ok(retry_on_intr(|| openat(CWD, dir, STEP, Mode::empty()))?)
    }

    /// Leaves the way to the kernel. `None`: the kernel cannot tell, the walk has to.
    ///
    /// Not on Android, where a filter of system calls kills the process instead of answering.
    #[cfg(target_os = "linux")]
    pub(super) fn by_kernel(
        base: BorrowedFd<'_>,
        dir: &Path,
        name: &Path,
        purpose: Purpose,
    ) -> Result<Option<Found>, Failure> {
        use rustix::fs::{ResolveFlags, openat2};

        let rules = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let open = |flags| match retry_on_intr(|| openat2(base, name, flags, Mode::empty(), rules)) {
            Ok(fd) => Ok(Some(fd)),
            // Kernels before 5.6, filters of system calls, an unknown flag; and EAGAIN, which says that a rename
            // somewhere on the host was in the way of a "..". The walk is right in every case.
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::TOOBIG | Errno::AGAIN) => Ok(None),
            Err(error) => Err(Failure::from(error)),
        };
        let Some(seen) = open(OFlags::PATH | OFlags::CLOEXEC)? else { return Ok(None) };
        require(&fstat(&seen)?, NamedBy::Image)?;
        let Some(file) = open(flags(purpose))? else { return Ok(None) };
        require(&fstat(&file)?, NamedBy::Image)?;
        Ok(real_path(&file, dir).map(|path| Found::new(file.into(), path)))
    }

    /// The name under which the kernel opened `file`, if it can be had and is beneath `dir`.
    #[cfg(target_os = "linux")]
    pub(super) fn real_path(file: &OwnedFd, dir: &Path) -> Option<std::path::PathBuf> {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::MetadataExt;

        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        // The link of a file deleted or moved meanwhile is a text and no name.
        let there = std::fs::symlink_metadata(&path).ok()?;
        let here = std::fs::File::from(file.try_clone().ok()?).metadata().ok()?;
        let same = (here.dev(), here.ino()) == (there.dev(), there.ino());
        (same && path.starts_with(dir)).then_some(path)
    }

    /// Goes the way a component at a time, with the rules and the error codes of `RESOLVE_BENEATH`.
    pub(super) fn by_walk(base: BorrowedFd<'_>, dir: &Path, name: &Path, purpose: Purpose) -> Result<Found, Failure> {
        // The directories entered below `base`, and what is still to come, the next component last.
        let mut entered: Vec<(OwnedFd, Vec<u8>)> = Vec::new();
        let mut ahead: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        enter(&mut ahead, name.as_os_str().as_bytes())?;

        while let Some(part) = ahead.pop() {
            let here = entered.last().map_or(base, |(fd, _)| fd.as_fd());
            match part.as_slice() {
                b"." => continue,
                b".." => {
                    entered.pop().ok_or(Errno::XDEV)?;
                    continue;
                }
                _ => {}
            }
            let seen = statat(here, part.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(seen.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Failure::Links);
                    }
                    let target = readlinkat(here, part.as_slice(), Vec::new())?;
                    enter(&mut ahead, target.as_bytes())?;
                }
                FileType::Directory => {
                    let flags = STEP | OFlags::NOFOLLOW;
                    let fd = retry_on_intr(|| openat(here, part.as_slice(), flags, Mode::empty()))?;
                    entered.push((fd, part));
                }
                _ if !ahead.is_empty() => return Err(Errno::NOTDIR.into()),
                _ => {
                    require(&seen, NamedBy::Image)?;
                    let flags = flags(purpose) | OFlags::NOFOLLOW;
                    let file = retry_on_intr(|| openat(here, part.as_slice(), flags, Mode::empty()))?;
                    require(&fstat(&file)?, NamedBy::Image)?;
                    let mut path = dir.to_owned();
                    path.extend(
                        entered.iter().map(|(_, name)| name).chain([&part]).map(|name| OsStr::from_bytes(name)),
                    );
                    return Ok(Found::new(file.into(), path));
                }
            }
        }
        Err(Failure::Kind("a directory"))
    }

    /// Puts the components of `path` in front of what is ahead.
    fn enter(ahead: &mut Vec<Vec<u8>>, path: &[u8]) -> Result<(), Errno> {
        match path {
            [] => return Err(Errno::NOENT),
            [b'/', ..] => return Err(Errno::XDEV),
            _ => {}
        }
        // A slash at the end asks for a directory, as "." does.
        let last = path.ends_with(b"/").then_some(b".".as_slice());
        let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        ahead.extend(parts.chain(last).rev().map(<[u8]>::to_vec));
        Ok(())
    }
}

#[cfg(not(unix))]
mod sys {
    use std::path::Path;

    use super::super::Found;
    use super::super::regular::{Failure, NamedBy, open_plain};
    use super::Purpose;

    pub(super) fn open(dir: &Path, name: &Path, purpose: Purpose) -> Result<Found, Failure> {
        let path = std::fs::canonicalize(dir.join(name))?;
        if !path.starts_with(dir) {
            return Err(Failure::Outside);
        }
        Ok(Found::new(open_plain(&path, NamedBy::Image, purpose)?, path))
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
