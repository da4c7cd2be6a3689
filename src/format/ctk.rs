//! The header of a change tracking file (`-ctk.vmdk`), as far as anybody outside of VMware knows it.
//!
//! What is known comes from looking at a few files. Nothing of it is documented, so nothing here is certain, and
//! nothing is done with it but to show it.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// What a change tracking file begins with, which lies beside disks and is none.
pub(crate) const SIGNATURE: [u8; 4] = [0xa2, 0x72, 0x19, 0xf6];

/// Bytes of the header about which there is something to say.
pub(crate) const LEN: usize = 64;

/// Where the fields begin, how long they are, and what they seem to be.
const FIELDS: [(usize, usize, FieldMeaning); 11] = [
    (0, 4, FieldMeaning::Presumed("signature")),
    (4, 4, FieldMeaning::Presumed("version")),
    (8, 4, FieldMeaning::Unknown),
    (12, 4, FieldMeaning::Guessed("size of the header or of a sector")),
    (16, 8, FieldMeaning::Unknown),
    (24, 8, FieldMeaning::Unknown),
    (32, 4, FieldMeaning::Unknown),
    (36, 4, FieldMeaning::Unknown),
    (40, 4, FieldMeaning::Unknown),
    (44, 16, FieldMeaning::Guessed("UUID, in an unknown byte order")),
    (60, 4, FieldMeaning::Unknown),
];

/// The first bytes of a change tracking file, which VMware's products keep beside a disk to know what has changed since
/// a backup.
///
/// The format is not documented. What is said of it here was found in a few files, and each [field](Self::fields) says
/// how sure that is; none is beyond doubt. Only the signature is checked.
#[derive(Clone, PartialEq, Eq)]
pub struct ChangeTrackingHeader {
    bytes: [u8; LEN],
}

/// A field of a [`ChangeTrackingHeader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangeTrackingField<'a> {
    /// Where in the file it begins, in bytes.
    pub offset: usize,
    /// What is there. Numbers are little-endian.
    pub bytes: &'a [u8],
    /// What it seems to be.
    pub meaning: FieldMeaning,
}

impl ChangeTrackingField<'_> {
    /// The field as a little-endian number; `None` if it is longer than any.
    pub fn number(&self) -> Option<u64> {
        let is_short = self.bytes.len() <= 8;
        is_short.then(|| self.bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

/// What is known of a field, and how well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldMeaning {
    /// It was the same in all files that were looked at, and fits what such a field usually is.
    Presumed(&'static str),
    /// It looks like that, and nobody has tried.
    Guessed(&'static str),
    /// Nobody knows.
    Unknown,
}

impl fmt::Display for FieldMeaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Presumed(what) => write!(f, "{what} (presumed)"),
            Self::Guessed(what) => write!(f, "{what} (guessed)"),
            Self::Unknown => f.pad("unknown"),
        }
    }
}

impl ChangeTrackingHeader {
    /// Takes the header off the beginning of a file.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) for a file that is too short, or begins with something else.
    pub fn parse(start: &[u8]) -> Result<Self> {
        let Some(&bytes) = start.first_chunk() else {
            let text = format!("a change tracking file of {} bytes; its header has {LEN}", start.len());
            return Err(Error::text(ErrorKind::Corrupt, text));
        };
        if !bytes.starts_with(&SIGNATURE) {
            let text = "this is no change tracking file: it does not begin with a2 72 19 f6";
            return Err(Error::text(ErrorKind::Corrupt, text));
        }
        Ok(Self { bytes })
    }

    /// The 64 bytes themselves.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All fields in their order, without gaps.
    pub fn fields(&self) -> impl Iterator<Item = ChangeTrackingField<'_>> {
        let field = |(offset, len, meaning)| ChangeTrackingField {
            offset,
            bytes: self.bytes.get(offset..offset + len).unwrap_or_default(),
            meaning,
        };
        FIELDS.into_iter().map(field)
    }

    /// What seems to be the version of the format: 1 in all files that were looked at.
    pub fn presumed_version(&self) -> u32 {
        let [_, _, _, _, a, b, c, d, ..] = self.bytes;
        u32::from_le_bytes([a, b, c, d])
    }
}

/// Shows the fields.
impl fmt::Debug for ChangeTrackingHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fields()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<ChangeTrackingHeader> {
        ChangeTrackingHeader::parse(bytes)
    }

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[..16].copy_from_slice(&[0xa2, 0x72, 0x19, 0xf6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]);
        bytes[16..24].copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
        bytes[44..60].copy_from_slice(b"0123456789abcdef");
        bytes
    }

    #[test]
    fn every_byte_of_the_header_is_in_one_field_with_what_is_known_of_it() {
        let header = read(&sample()).unwrap();
        let mut at = 0;
        for field in header.fields() {
            assert_eq!((field.offset, field.bytes), (at, &sample()[at..at + field.bytes.len()]));
            at += field.bytes.len();
        }
        assert_eq!((at, header.as_bytes()), (LEN, &sample()[..LEN]));
        let fields: Vec<_> = header.fields().map(|field| (field.meaning.to_string(), field.number())).collect();
        assert_eq!(fields[0], ("signature (presumed)".to_owned(), Some(0xf619_72a2)));
        assert_eq!(fields[1], ("version (presumed)".to_owned(), Some(1)));
        assert_eq!(fields[4], ("unknown".to_owned(), Some(0x1122_3344_5566_7788)));
        assert_eq!(fields[9], ("UUID, in an unknown byte order (guessed)".to_owned(), None));
        assert_eq!(header.presumed_version(), 1);
    }

    #[test]
    fn what_is_too_short_or_something_else_is_an_error() {
        for len in [0, 3, 4, LEN - 1] {
            let error = read(&sample()[..len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&format!("{len} bytes")), "{error}");
        }
        read(&sample()[..LEN]).unwrap();
        for byte in 0..4 {
            let mut other = sample();
            other[byte] ^= 1;
            assert_eq!(read(&other).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    proptest! {
        #[test]
        fn whatever_follows_the_signature_is_read(rest in prop::collection::vec(any::<u8>(), 60..200)) {
            let bytes = [&SIGNATURE[..], &rest].concat();
            let header = read(&bytes).unwrap();
            prop_assert_eq!(header.as_bytes(), &bytes[..LEN]);
            prop_assert!(header.fields().all(|field| field.number().is_some() == (field.bytes.len() <= 8)));
        }
    }
}
