//! A name inside an image -> an opened file, under a policy.
//!
//! A descriptor names its extents and its parent, and whoever wrote it chose the names. Followed blindly, an image
//! from a stranger makes the host hand out any file that the program may read. So by default a name opens a file
//! only beneath the directory that the naming image really lies in, and the caller widens that, directory by
//! directory or altogether ([`NamePolicy`]). Only regular files are opened, and nothing else is even touched:
//! see [`regular`].
//!
//! | name | default | `allow_dir(D)` | `allow_any_path` |
//! |---|---|---|---|
//! | `a.vmdk`, `sub/a.vmdk` | opened beneath the image's directory | the same | opened |
//! | one through links that stay beneath the image's directory | opened | opened | opened |
//! | an absolute name, one with `..`, a link out or an absolute link | refused | opened if it lies beneath D | opened |
//! | empty, with NUL or a line break, too long | refused | refused | refused |
//! | a directory, FIFO, socket or device | refused | refused | refused |
//!
//! A single file or block device can be allowed by its path as well (`allow_device`): it is the only way to a device.
//!
//! # What remains
//!
//! An image on its own cannot leave the directories allowed, whatever names it holds. It can make the host open any
//! regular file *in* them: do not put an untrusted image beside files that its owner must not see. With
//! `allow_dir`, a name that leaves the image's directory is resolved before it is judged: files outside are not
//! opened, and the error does not tell whether they exist, but directories are searched on the way, which can
//! mount a file system on demand. By default nothing outside is looked at.
//!
//! Someone who can rename things on the host while an image is opened is kept inside the directory by the
//! descriptors that [`confined`] works with. They can still choose which file *in* it is opened, and by replacing
//! the directory itself, which between two names is known by its path, what the next name is looked up in.

mod confined;
mod hint;
mod names;
mod regular;

use std::fs::{File, canonicalize};
use std::io;
use std::path::{Component, Path, PathBuf};

use self::regular::{BLOCK_DEVICE, Failure, NamedBy, open_plain};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Purpose;

pub(crate) use self::hint::{is_relative_hint, parent_candidates};
pub use self::names::Resolve;
pub(crate) use self::names::{Names, Opened};

/// The longest name that is looked at, in bytes. It is what a path can be on Linux.
const MAX_NAME: usize = 4095;

/// Which names inside an image are followed, beyond those that stay in its own directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct NamePolicy {
    allowed_dirs: Vec<PathBuf>,
    allowed_devices: Vec<PathBuf>,
    any_path: bool,
}

impl NamePolicy {
    /// Also follows names to files beneath `dir`. A directory that does not exist allows nothing.
    pub(crate) fn allow_dir(mut self, dir: PathBuf) -> Self {
        // Bound to the working directory of now, not to that of the day it is used.
        self.allowed_dirs.push(std::path::absolute(&dir).unwrap_or(dir));
        self
    }

    /// Also follows names to the one file or block device that `path` is.
    pub(crate) fn allow_device(mut self, path: PathBuf) -> Self {
        self.allowed_devices.push(std::path::absolute(&path).unwrap_or(path));
        self
    }

    /// Whether names are followed wherever they lead. For images that are trusted like a program.
    pub(crate) fn allow_any_path(mut self, yes: bool) -> Self {
        self.any_path = yes;
        self
    }
}

/// A file that was looked for and opened.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: File,
    /// Its real path, without links. For messages; to open it by this path again is to lose all protection.
    pub(crate) path: PathBuf,
    /// Its real directory: the names inside this file are resolved there.
    pub(crate) dir: PathBuf,
}

impl Found {
    fn new(file: File, path: PathBuf) -> Self {
        let dir = path.parent().unwrap_or(&path).to_owned();
        Self { file, path, dir }
    }
}

/// Opens a file that the caller named, wherever it is. The caller's own links are followed, and what is found counts
/// as lying where it really lies.
pub(crate) fn open_by_caller(path: &Path, purpose: Purpose) -> Result<Found> {
    open_anywhere(path, NamedBy::Caller, purpose).map_err(|failure| match failure {
        Failure::Kind(kind) => {
            let text = format!("this is {kind}; a regular file or a block device is needed");
            Error::text(ErrorKind::Unsupported, text).in_file(path)
        }
        failure => not_opened(failure, "", path, purpose),
    })
}

/// Opens a name that stands in an image. `dir` is the real directory of that image, [`Found::dir`].
pub(crate) fn open_named(dir: &Path, name: &str, policy: &NamePolicy, purpose: Purpose) -> Result<Found> {
    let form = Form::of(name)?;
    let path = dir.join(name);
    if let Some(device) = allowed_device(&path, policy) {
        let found = open_anywhere(device, NamedBy::Caller, purpose);
        return found.map_err(|failure| not_opened(failure, name, device, purpose));
    }
    let failed = |failure| not_opened(failure, name, &path, purpose);
    if policy.any_path {
        return open_anywhere(&path, NamedBy::Image, purpose).map_err(failed);
    }
    if form == Form::Inside {
        match confined::open(dir, Path::new(name), purpose) {
            // A link leads out. Perhaps to where it is allowed.
            Err(Failure::Outside) => {}
            done => return done.map_err(failed),
        }
    }
    match open_allowed(&path, policy, purpose) {
        Some(done) => done.map_err(failed),
        None => Err(form.refusal(name, &path)),
    }
}

/// What a name says about where it leads, without looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Inside,
    Absolute,
    /// An absolute name of Windows, on a host that is none.
    Foreign,
    /// There is a `..` in it, even if it leads back.
    Upward,
}

impl Form {
    fn of(name: &str) -> Result<Self> {
        let refuse =
            |problem: &str| Err(Error::text(ErrorKind::NameRefused, format!("the name {} {problem}", shown(name))));
        if name.is_empty() {
            return Err(Error::text(ErrorKind::NameRefused, "the name of a file is empty"));
        }
        if name.contains(['\0', '\n', '\r']) {
            return refuse("has a NUL or a line break in it");
        }
        if name.len() > MAX_NAME {
            return refuse("is too long");
        }
        let separators: &[char] = if cfg!(windows) { &['/', '\\'] } else { &['/'] };
        Ok(if name.starts_with(separators) {
            Self::Absolute
        } else if name.starts_with('\\') || hint::has_drive(name) {
            if cfg!(windows) { Self::Absolute } else { Self::Foreign }
        } else if name.split(separators).any(|part| part == "..") {
            Self::Upward
        } else {
            Self::Inside
        })
    }

    /// The error for a name of this form that the policy does not cover. It says what would.
    fn refusal(self, name: &str, path: &Path) -> Error {
        let (name, dir) = (shown(name), shown(&lexical_parent(path).to_string_lossy()));
        let text = match self {
            Self::Absolute => {
                format!("the name {name} is absolute; allow the directory {dir} or any path to follow it")
            }
            Self::Foreign => {
                format!("the name {name} is absolute on another system; allow any path to try it on this one")
            }
            Self::Upward => {
                format!("the name {name} has \"..\" in it; allow the directory {dir} or any path to follow it")
            }
            Self::Inside => format!(
                "the name {name} leads out of the directory of its image through a symbolic link; allow the \
                 directory that it leads to or any path to follow it"
            ),
        };
        Error::text(ErrorKind::NameRefused, text)
    }
}

/// The path that the caller allowed by itself and that `path` leads to. It is the caller's path that is opened.
fn allowed_device<'a>(path: &Path, policy: &'a NamePolicy) -> Option<&'a Path> {
    if policy.allowed_devices.is_empty() {
        return None;
    }
    let real = canonicalize(path).ok()?;
    let is_it = |device: &&PathBuf| canonicalize(device).is_ok_and(|device| device == real);
    policy.allowed_devices.iter().find(is_it).map(PathBuf::as_path)
}

/// Opens what `path` leads to if that lies beneath an allowed directory, by its place in that directory, so that
/// nobody can make it lead elsewhere in between. `None`: it lies elsewhere.
fn open_allowed(path: &Path, policy: &NamePolicy, purpose: Purpose) -> Option<Result<Found, Failure>> {
    let allowed: Vec<PathBuf> = policy.allowed_dirs.iter().filter_map(|dir| canonicalize(dir).ok()).collect();
    if allowed.is_empty() {
        return None;
    }
    let real = match canonicalize(path) {
        Ok(real) => real,
        Err(error) => return missing_beneath(&allowed, path).then_some(Err(Failure::Host(error))),
    };
    let (dir, name) = allowed.iter().find_map(|dir| Some((dir, real.strip_prefix(dir).ok()?)))?;
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    Some(confined::open(dir, name, purpose))
}

/// Whether a path that leads to no file would lead beneath an allowed directory, by the part of it that exists. Else
/// it is refused like one that does exist: an image is not told what there is outside.
fn missing_beneath(allowed: &[PathBuf], path: &Path) -> bool {
    let nearest = path.ancestors().skip(1).find_map(|dir| canonicalize(dir).ok());
    nearest.is_some_and(|nearest| allowed.iter().any(|dir| nearest.starts_with(dir)))
}

fn open_anywhere(path: &Path, by: NamedBy, purpose: Purpose) -> Result<Found, Failure> {
    let path = canonicalize(path)?;
    Ok(Found::new(open_plain(&path, by, purpose)?, path))
}

/// The error for `path`, which `name` led to.
fn not_opened(failure: Failure, name: &str, path: &Path, purpose: Purpose) -> Error {
    let error = match failure {
        Failure::Host(error) => host_error(error, purpose),
        Failure::Kind(kind) => {
            let allowed = if kind == BLOCK_DEVICE { "a device that is allowed by its path" } else { "regular files" };
            let text = format!("this is {kind}; an image may name {allowed} only");
            Error::text(ErrorKind::NameRefused, text)
        }
        #[cfg(unix)]
        Failure::Links => {
            let text = format!("the name {} goes through too many symbolic links", shown(name));
            Error::text(ErrorKind::NameRefused, text)
        }
        Failure::Outside => Form::Inside.refusal(name, path),
    };
    error.in_file(path)
}

/// What the host said, apart from the file: one that may not be written is told from one that cannot be read.
fn host_error(error: io::Error, purpose: Purpose) -> Error {
    use io::ErrorKind::{ExecutableFileBusy, PermissionDenied, ReadOnlyFilesystem};
    match error.kind() {
        PermissionDenied | ReadOnlyFilesystem | ExecutableFileBusy if purpose.writes() => {
            Error::host("cannot open for writing", error).with_kind(ErrorKind::ReadOnly)
        }
        _ => Error::host("cannot open", error),
    }
}

/// The directory of `path` with each `..` taken at its word. Only a hint for people: links may say otherwise.
fn lexical_parent(path: &Path) -> PathBuf {
    let mut dir = PathBuf::new();
    for part in path.parent().unwrap_or(path).components() {
        match part {
            Component::ParentDir => {
                dir.pop();
            }
            part => dir.push(part),
        }
    }
    dir
}

/// A name from an image, quoted, escaped, and cut to what a person can read.
pub(crate) fn shown(name: &str) -> String {
    const SHOWN: usize = 200;
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
