//! What a file is opened for.

/// What a file of an image is opened for, and so how it is opened and locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Reading: a disk that is only read, or a parent.
    Read,
    /// Reading as a part of a disk that is written. The same file may be written as another part of it.
    ReadBeside,
    /// Writing, and reading.
    Write,
}

impl Purpose {
    /// Whether the file is opened for writing.
    pub(crate) fn writes(self) -> bool {
        self == Self::Write
    }

    /// What a part of a disk is opened for when the disk is opened for this; `writable` parts take writes.
    pub(crate) fn of_part(self, writable: bool) -> Self {
        match self {
            Self::Write if writable => Self::Write,
            Self::Write | Self::ReadBeside => Self::ReadBeside,
            Self::Read => Self::Read,
        }
    }
}
