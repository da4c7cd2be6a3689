//! The one error type of the crate.
//!
//! An [`Error`] answers two questions: what should the program do ([`Error::kind`]) and what should a person
//! be told (its text: file, field, value and offset, with the cause behind [`source`](std::error::Error::source)).

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::io;
use std::path::{Path, PathBuf};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a program wants to tell cases apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The host could not read, write or open a file. The cause is an [`io::Error`].
    Io,
    /// A file that the caller or an image named does not exist.
    NotFound,
    /// A file that was to be created exists already.
    AlreadyExists,
    /// Sectors at or past the end of the device were asked for.
    OutOfRange,
    /// A buffer is not a whole number of 512-byte sectors.
    Misaligned,
    /// The device, the part of it that was addressed, or a file of it takes no writes.
    ReadOnly,
    /// Somebody else has a lock on a file that excludes what was to be done with it.
    Locked,
    /// The image was closed before this call.
    Closed,
    /// The file is no VMDK at all.
    NotVmdk,
    /// The writer of the file never finished it (its magic is still `kdmv`).
    Incomplete,
    /// The file breaks the format, so that its content cannot be trusted.
    Corrupt,
    /// A kind or version of VMDK that this crate does not handle; the text names it.
    Unsupported,
    /// A name inside an image leads to where the name policy does not allow.
    NameRefused,
    /// A parent could not be found or opened.
    ParentMissing,
    /// The content ID of a parent is not the one its child was made against.
    ContentIdMismatch,
    /// The backing chain leads back to itself, would be written through one of its parents, or is deeper than the
    /// limit.
    BadChain,
    /// The caller's own arguments contradict each other.
    InvalidInput,
    /// A progress callback stopped the work.
    Cancelled,
    /// A prepared write that is still open has the sectors.
    Busy,
    /// The format has no number for more space: what it names in a file begins below 2 TiB.
    Full,
    /// An earlier failure left it open what is durable: writes and flushes are refused until the image is opened again.
    Poisoned,
}

/// An error of this crate: a kind for programs, a text and a chain of causes for people.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    file: Option<PathBuf>,
    detail: Detail,
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(self.file.as_deref(), &self.detail).fmt(f)
    }
}

impl std::error::Error for Inner {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.detail.source()
    }
}

/// The sentence of an error, without file and cause.
#[derive(Debug, thiserror::Error)]
enum Detail {
    #[error("{count} sectors from sector {start} do not fit into a device of {capacity} sectors")]
    Range { start: u64, count: u64, capacity: u64 },
    #[error("a buffer of {len} bytes is not a whole number of 512-byte sectors")]
    Alignment { len: usize },
    #[error("{structure}: {field} at offset {offset:#x} is {value:#x}: {problem}")]
    Field { structure: &'static str, field: Cow<'static, str>, offset: u64, value: u64, problem: Cow<'static, str> },
    #[error("descriptor line {line}: {problem}: {text:?}")]
    Line { line: usize, problem: Cow<'static, str>, text: String },
    #[error("cannot {action} {len} bytes at offset {offset:#x}")]
    Transfer { action: &'static str, len: usize, offset: u64, source: io::Error },
    #[error("{action}")]
    Host { action: Cow<'static, str>, source: io::Error },
    #[error("{0}")]
    Text(Cow<'static, str>),
    /// Somebody else's error, which speaks for itself.
    #[error(transparent)]
    Foreign(BoxError),
}

/// Characters of a path that are shown.
const MAX_SHOWN_PATH: usize = 1000;

/// The file and the sentence. Names and values come out of images, so nothing that a terminal would act on gets
/// through.
struct Shown<'a>(Option<&'a Path>, &'a Detail);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(file, detail) = self;
        let mut escaped = Escaped(f);
        if let Some(file) = file {
            // A resolver's names come out of images and may be as long as a descriptor.
            let file = file.to_string_lossy();
            match file.char_indices().nth(MAX_SHOWN_PATH) {
                Some((end, _)) => write!(escaped, "{}...: ", &file[..end])?,
                None => write!(escaped, "{file}: ")?,
            }
        }
        write!(escaped, "{detail}")
    }
}

struct Escaped<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            if is_active(char) { write!(self.0, "{}", char.escape_default())? } else { self.0.write_char(char)? }
        }
        Ok(())
    }
}

/// Control characters, line separators, and what changes the direction of text.
fn is_active(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl Error {
    /// An error of the given kind whose text is that of `source`. For implementers of
    /// [`BlockDevice`](crate::BlockDevice) and [`Storage`](crate::Storage) outside this crate.
    pub fn new(kind: ErrorKind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::build(kind, Detail::Foreign(source.into()))
    }

    /// What a program can react to.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file that the error is about, if it is about one.
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    pub(crate) fn text(kind: ErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        Self::build(kind, Detail::Text(text.into()))
    }

    pub(crate) fn out_of_range(start: u64, count: u64, capacity: u64) -> Self {
        Self::build(ErrorKind::OutOfRange, Detail::Range { start, count, capacity })
    }

    pub(crate) fn misaligned(len: usize) -> Self {
        Self::build(ErrorKind::Misaligned, Detail::Alignment { len })
    }

    /// A number of an on-disk structure that cannot be right; `offset` is where it stands in the file, in bytes.
    pub(crate) fn field(
        structure: &'static str,
        field: impl Into<Cow<'static, str>>,
        offset: u64,
        value: u64,
        problem: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::bad_field(ErrorKind::Corrupt, structure, field, offset, value, problem)
    }

    /// As [`Error::field`], for a number that is legal but beyond this crate.
    pub(crate) fn bad_field(
        kind: ErrorKind,
        structure: &'static str,
        field: impl Into<Cow<'static, str>>,
        offset: u64,
        value: u64,
        problem: impl Into<Cow<'static, str>>,
    ) -> Self {
        let detail = Detail::Field { structure, field: field.into(), offset, value, problem: problem.into() };
        Self::build(kind, detail)
    }

    /// A descriptor line (counted from 1) that cannot be understood.
    pub(crate) fn line(line: usize, problem: impl Into<Cow<'static, str>>, text: &[u8]) -> Self {
        const SHOWN: usize = 120;
        let mut shown = String::from_utf8_lossy(&text[..text.len().min(SHOWN)]).into_owned();
        if text.len() > SHOWN {
            shown.push_str("...");
        }
        Self::build(ErrorKind::Corrupt, Detail::Line { line, problem: problem.into(), text: shown })
    }

    pub(crate) fn transfer(action: &'static str, len: usize, offset: u64, cause: io::Error) -> Self {
        Self::build(ErrorKind::Io, Detail::Transfer { action, len, offset, source: cause })
    }

    /// The host refused `action`; kept apart are only the cases a program reacts to.
    pub(crate) fn host(action: impl Into<Cow<'static, str>>, cause: io::Error) -> Self {
        let kind = match cause.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self::build(kind, Detail::Host { action: action.into(), source: cause })
    }

    /// The same error as one of another kind, for where the host's own words say less than is known.
    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Adds to the sentence what to do about it.
    pub(crate) fn with_advice(mut self, advice: &'static str) -> Self {
        if let Detail::Field { problem: text, .. } | Detail::Text(text) = &mut self.0.detail {
            *text = format!("{text}; {advice}").into();
        }
        self
    }

    /// The sentence with those of its causes, for another error that tells of it.
    pub(crate) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    /// Names the file, unless something nearer to the cause has named one.
    pub(crate) fn in_file(mut self, file: &Path) -> Self {
        self.0.file.get_or_insert_with(|| file.to_owned());
        self
    }

    fn build(kind: ErrorKind, detail: Detail) -> Self {
        Self(Box::new(Inner { kind, file: None, detail }))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        // An error of ours that travelled through `std::io` keeps its kind.
        match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) => {
                let kind = match error.kind() {
                    io::ErrorKind::NotFound => ErrorKind::NotFound,
                    io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
                    io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
                    io::ErrorKind::Unsupported => ErrorKind::Unsupported,
                    io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
                    _ => ErrorKind::Io,
                };
                Self::build(kind, Detail::Foreign(error.into()))
            }
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ParentMissing => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::OutOfRange | ErrorKind::Misaligned | ErrorKind::InvalidInput | ErrorKind::Closed => {
                io::ErrorKind::InvalidInput
            }
            ErrorKind::ReadOnly | ErrorKind::NameRefused => io::ErrorKind::PermissionDenied,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            // Not `WouldBlock`: nobody will be told when to try again.
            ErrorKind::Locked | ErrorKind::Busy => io::ErrorKind::ResourceBusy,
            ErrorKind::Full => io::ErrorKind::FileTooLarge,
            // Not `Interrupted`: std repeats what was interrupted.
            ErrorKind::Cancelled | ErrorKind::Poisoned => io::ErrorKind::Other,
            ErrorKind::NotVmdk
            | ErrorKind::Incomplete
            | ErrorKind::Corrupt
            | ErrorKind::ContentIdMismatch
            | ErrorKind::BadChain => io::ErrorKind::InvalidData,
            ErrorKind::Io => host_kind(&error),
        };
        io::Error::new(kind, error)
    }
}

fn host_kind(error: &Error) -> io::ErrorKind {
    let host = match &error.0.detail {
        Detail::Transfer { source, .. } | Detail::Host { source, .. } => Some(source),
        Detail::Foreign(error) => error.downcast_ref::<io::Error>(),
        _ => None,
    };
    let kind = host.map_or(io::ErrorKind::Other, io::Error::kind);
    if kind == io::ErrorKind::Interrupted { io::ErrorKind::Other } else { kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn text_names_file_field_value_and_offset() {
        let error = Error::field("KDMV header", "gdOffset", 56, 0, "no grain directory").in_file(Path::new("a.vmdk"));
        assert_eq!(error.to_string(), "a.vmdk: KDMV header: gdOffset at offset 0x38 is 0x0: no grain directory");
        assert_eq!(error.file(), Some(Path::new("a.vmdk")));
    }

    #[test]
    fn a_host_error_is_a_cause_and_not_part_of_the_text() {
        let error = Error::transfer("read", 512, 0x400, io::Error::other("bad disk"));
        assert_eq!(error.to_string(), "cannot read 512 bytes at offset 0x400");
        assert_eq!(error.source().unwrap().to_string(), "bad disk");
    }

    #[test]
    fn the_kind_survives_a_trip_through_std_io() {
        let there = io::Error::from(Error::out_of_range(9, 1, 8));
        assert_eq!(there.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Error::from(there).kind(), ErrorKind::OutOfRange);
    }

    #[test]
    fn a_host_error_keeps_its_kind_there_and_back() {
        for error in [
            Error::from(io::Error::from(io::ErrorKind::StorageFull)),
            Error::new(ErrorKind::Io, io::Error::from(io::ErrorKind::StorageFull)),
        ] {
            assert_eq!(error.kind(), ErrorKind::Io);
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::StorageFull);
        }
    }

    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        let error = Error::text(ErrorKind::Io, "x\u{202e}\t").in_file(Path::new("a\u{1b}[2Jb\n"));
        assert_eq!(error.to_string(), "a\\u{1b}[2Jb\\n: x\\u{202e}\\t");
    }
}
