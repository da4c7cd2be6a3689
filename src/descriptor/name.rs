//! A name in a descriptor, as it stands there and as a string.

use std::fmt;

use super::{Descriptor, scan};
use crate::error::Result;

/// A name that stands in a descriptor: of an extent, of the parent, of the change tracking file. In the file it is a
/// row of bytes in the descriptor's encoding, which may not be known or not fit.
///
/// It is untrusted in both forms: see [`Descriptor::decode_name`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoredName<'a> {
    descriptor: &'a Descriptor,
    raw: &'a [u8],
}

impl<'a> StoredName<'a> {
    pub(super) fn new(descriptor: &'a Descriptor, raw: &'a [u8]) -> Self {
        Self { descriptor, raw }
    }

    /// The bytes in the file, without quotes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.raw
    }

    /// The name as a string.
    ///
    /// # Errors
    /// As for [`Descriptor::decode_name`].
    pub fn decode(&self) -> Result<String> {
        self.descriptor.decode_name(self.raw)
    }
}

/// The name as a string, or the bytes, escaped, where it is none.
impl fmt::Display for StoredName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.decode() {
            Ok(name) => f.pad(&name),
            Err(_) => write!(f, "{}", self.raw.escape_ascii()),
        }
    }
}

impl fmt::Debug for StoredName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&scan::shown(self.raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn every_name_has_both_forms() {
        let text = b"encoding=\"UTF-8\"\nparentFileNameHint=\"b\xc3\xa4\"\nchangeTrackPath=\"c\xff\"\n\
            RW 1 FLAT \"a\xc3\xb6\" 0\nRW 1 ZERO\n";
        let model = Descriptor::parse(text).unwrap();
        let name = model.extent_name(&model.extents()[0]).unwrap();
        assert_eq!((name.as_bytes(), &*name.decode().unwrap()), (&b"a\xc3\xb6"[..], "a\u{f6}"));
        assert_eq!(name.to_string(), "a\u{f6}");
        assert_eq!(model.extent_name(&model.extents()[1]), None);
        assert_eq!(model.parent_hint_name().unwrap().decode().unwrap(), "b\u{e4}");
        let track = model.change_track_name().unwrap();
        assert_eq!(track.as_bytes(), b"c\xff");
        assert_eq!(track.decode().unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!((track.to_string(), format!("{track:?}")), ("c\\xff".to_owned(), "\"c\\xff\"".to_owned()));
        let without = Descriptor::parse(b"parentFileNameHint=\"\"\n").unwrap();
        assert_eq!((without.parent_hint_name(), without.change_track_name()), (None, None));
    }
}
