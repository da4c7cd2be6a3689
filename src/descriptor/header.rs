//! The header keys that the model knows, read out of their text.

use super::scan::{is_digits, shown};
use super::warnings::Warnings;
use super::{ContentId, CreateType, Descriptor, Section};
use crate::error::{Error, Result};

/// The keys that belong to the header wherever they stand.
pub(super) const HEADER_KEYS: [&str; 8] = [
    "version",
    "encoding",
    "CID",
    "parentCID",
    "isNativeSnapshot",
    "createType",
    "parentFileNameHint",
    "changeTrackPath",
];

impl Descriptor {
    /// Fills in the fields that stand for header keys.
    pub(super) fn read_header(&mut self, warnings: &mut Warnings) -> Result<()> {
        self.version = version(self, warnings);
        self.content_id = content_id(self, warnings);
        self.parent_content_id = parent_content_id(self, warnings)?;
        self.create_type = self.header("createType").map(CreateType::parse);
        if self.create_type.is_none() {
            warnings.missing("createType is missing");
        }
        self.native_snapshot = native_snapshot(self, warnings);
        Ok(())
    }
}

fn version(model: &Descriptor, warnings: &mut Warnings) -> u32 {
    let Some(entry) = model.find(Section::Header, "version") else {
        warnings.missing("version is missing, taken as 1");
        return 1;
    };
    let value = model.value(entry);
    if !is_digits(value) {
        warnings.at(entry.line, format_args!("the version {} is no number, taken as 1", shown(value)));
        return 1;
    }
    // A number that does not fit is a version of the far future, not version 1.
    str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u32::MAX)
}

fn content_id(model: &Descriptor, warnings: &mut Warnings) -> Option<ContentId> {
    let Some(entry) = model.find(Section::Header, "CID") else {
        warnings.missing("CID is missing");
        return None;
    };
    let value = model.value(entry);
    let id = ContentId::parse(value);
    if id.is_none() {
        warnings.at(entry.line, format_args!("the CID {} is not 1 to 8 hexadecimal digits", shown(value)));
    }
    id
}

/// A `parentCID` that is there and cannot be read is an error: taken as missing, it would turn a child into a disk
/// whose unwritten parts are zero.
fn parent_content_id(model: &Descriptor, warnings: &mut Warnings) -> Result<Option<ContentId>> {
    let Some(entry) = model.find(Section::Header, "parentCID") else {
        warnings.missing("parentCID is missing, taken as ffffffff (no parent)");
        return Ok(None);
    };
    let value = model.value(entry);
    match ContentId::parse(value) {
        Some(id) => Ok(Some(id)),
        None => Err(Error::line(entry.line, "the parentCID is not 1 to 8 hexadecimal digits", value)),
    }
}

/// Whatever is not plainly "no" counts as "yes", because "yes" is what keeps such a disk from being written to.
fn native_snapshot(model: &Descriptor, warnings: &mut Warnings) -> bool {
    let Some(entry) = model.find(Section::Header, "isNativeSnapshot") else { return false };
    let value = model.value(entry);
    let is_no = value.eq_ignore_ascii_case(b"no");
    if !is_no && !value.eq_ignore_ascii_case(b"yes") {
        warnings.at(entry.line, format_args!("isNativeSnapshot is {}, taken as yes", shown(value)));
    }
    !is_no
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Descriptor {
        Descriptor::parse(text.as_bytes()).unwrap()
    }

    fn warns(text: &str, warning: &str) -> bool {
        parse(text).warnings().iter().any(|given| given == warning)
    }

    #[test]
    fn a_version_that_is_no_number_is_taken_as_1() {
        for text in ["version=one\n", "version=-1\n", "version=\n", ""] {
            assert_eq!(parse(text).version(), 1);
        }
        assert!(warns("\nversion=-1", "line 2: the version \"-1\" is no number, taken as 1"));
        assert!(warns("", "version is missing, taken as 1"));
    }

    #[test]
    fn a_version_beyond_all_numbers_is_not_taken_for_an_old_one() {
        assert_eq!(parse("version=99999999999999999999\n").version(), u32::MAX);
    }

    #[test]
    fn a_content_id_that_cannot_be_read_is_none_with_a_warning() {
        assert_eq!(parse("CID=0x172e8a\n").content_id(), None);
        assert!(warns("CID=0x172e8a", "line 1: the CID \"0x172e8a\" is not 1 to 8 hexadecimal digits"));
        assert!(warns("parentCID=1", "CID is missing"));
    }

    #[test]
    fn a_parent_content_id_that_cannot_be_read_is_not_taken_for_none() {
        for text in ["parentCID=", "parentCID=0xffffffff", "parentCID=123456789"] {
            let error = Descriptor::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("descriptor line 1: the parentCID is not"), "{error}");
        }
        assert!(warns("CID=1", "parentCID is missing, taken as ffffffff (no parent)"));
    }

    #[test]
    fn a_native_snapshot_is_whatever_does_not_say_no() {
        for (text, expected) in [("\"no\"", false), ("NO", false), ("\"yes\"", true), ("YES", true), ("1", true)] {
            assert_eq!(parse(&format!("isNativeSnapshot={text}")).is_native_snapshot(), expected);
        }
        assert!(!parse("").is_native_snapshot());
        assert!(warns("isNativeSnapshot=1", "line 1: isNativeSnapshot is \"1\", taken as yes"));
    }
}
