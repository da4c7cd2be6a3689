//! Why a command failed, and the line that says so.

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::printable::printable;

/// What every command returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The library says so.
    #[error(transparent)]
    Image(#[from] vmdk::Error),
    /// The library could not write what it was given to write to.
    #[error("cannot write {}", .0.display())]
    Target(PathBuf, #[source] vmdk::Error),
    /// The host refused something outside an image.
    #[error("{0}")]
    Host(String, #[source] io::Error),
    /// What was asked for cannot be done.
    #[error("{0}")]
    Refused(String),
    /// The output could not be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// The host refused `action`, which concerns `path`.
    pub(crate) fn host(path: &Path, action: &str, cause: io::Error) -> Self {
        Self::Host(format!("{}: {action}", path.display()), cause)
    }

    /// Something about `path` speaks against what was asked for.
    pub(crate) fn refused(path: &Path, reason: &str) -> Self {
        Self::Refused(format!("{}: {reason}", path.display()))
    }

    /// Whether the reader of the output went away, as `head` does when it has enough.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(cause) if cause.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The failure and its causes in one line.
    pub(crate) fn line(&self) -> String {
        printable(&with_causes(self))
    }
}

/// Says something on standard error. Where that is closed or full, the exit code is all that is left to say.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "vmdk: {line}");
}

/// The text of an error, followed by its causes; it may hold anything that an image holds.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_in_one_line() {
        let cause = io::Error::other("the disk\nis on fire");
        let failure = Failure::host(Path::new("a.raw"), "cannot write", cause);
        assert_eq!(failure.line(), r"a.raw: cannot write: the disk\nis on fire");
    }

    #[test]
    fn an_error_of_the_library_appears_once() {
        let failure = Failure::from(vmdk::Error::new(vmdk::ErrorKind::Corrupt, "bad table"));
        assert_eq!(failure.line(), "bad table");
    }

    #[test]
    fn only_the_output_has_a_reader_that_goes_away() {
        let cause = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(Failure::Output(cause()).is_broken_pipe());
        assert!(!Failure::host(Path::new("a"), "cannot write", cause()).is_broken_pipe());
    }
}
