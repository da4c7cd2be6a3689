//! Names in the code page that a descriptor was written in.
//!
//! VMware's products on Windows write descriptors in the ANSI code page and say which in `encoding=`: windows-1252,
//! GBK, Big5 and `Shift_JIS` have been seen. All of them have ASCII in common, so an ASCII name needs no decoding, and
//! none has a quote or a line end as part of a longer character, so that lines can be taken apart before. The tables
//! are large and few need them: they come with the feature `encodings`.

use super::scan;
use crate::error::{Error, ErrorKind, Result};

/// Decodes a name from `encoding`, a name of which may be anything.
pub(super) fn decode(raw: &[u8], encoding: &str) -> Result<String> {
    let is_utf8 = encoding.eq_ignore_ascii_case("UTF-8") || encoding.eq_ignore_ascii_case("UTF8");
    match str::from_utf8(raw) {
        Ok(text) if is_utf8 || raw.is_ascii() => Ok(text.to_owned()),
        _ if is_utf8 => Err(undecodable(raw, encoding)),
        _ => decode_page(raw, encoding),
    }
}

/// A text in `encoding`; `None` where that has no such characters, or is not known.
pub(super) fn encode(text: &str, encoding: &str) -> Option<Vec<u8>> {
    if text.is_ascii() {
        return Some(text.as_bytes().to_vec());
    }
    let encoded = encode_page(text, encoding);
    // UTF-8, by one of its names; of any other, only what comes back as it was.
    let bytes = encoded.unwrap_or_else(|| text.as_bytes().to_vec());
    (decode(&bytes, encoding).ok()? == text).then_some(bytes)
}

#[cfg(feature = "encodings")]
fn encode_page(text: &str, encoding: &str) -> Option<Vec<u8>> {
    let page = encoding_rs::Encoding::for_label(encoding.as_bytes())?;
    let (bytes, _, has_lost) = page.encode(text);
    (!has_lost).then(|| bytes.into_owned())
}

#[cfg(not(feature = "encodings"))]
fn encode_page(_: &str, _: &str) -> Option<Vec<u8>> {
    None
}

#[cfg(feature = "encodings")]
fn decode_page(raw: &[u8], encoding: &str) -> Result<String> {
    let Some(page) = encoding_rs::Encoding::for_label(encoding.as_bytes()) else {
        let (name, encoding) = (scan::shown(raw), scan::shown(encoding.as_bytes()));
        let problem = format!("the name {name} is in the encoding {encoding}, which is not known");
        return Err(Error::text(ErrorKind::Unsupported, problem));
    };
    let text = page.decode_without_bom_handling_and_without_replacement(raw);
    text.map(std::borrow::Cow::into_owned).ok_or_else(|| undecodable(raw, encoding))
}

#[cfg(not(feature = "encodings"))]
fn decode_page(raw: &[u8], encoding: &str) -> Result<String> {
    let (name, encoding) = (scan::shown(raw), scan::shown(encoding.as_bytes()));
    let problem = format!(
        "the name {name} is in the encoding {encoding}; build with the feature \"encodings\" of the crate vmdk to read it"
    );
    Err(Error::text(ErrorKind::Unsupported, problem))
}

fn undecodable(raw: &[u8], encoding: &str) -> Error {
    let (name, encoding) = (scan::shown(raw), scan::shown(encoding.as_bytes()));
    Error::text(ErrorKind::Corrupt, format!("the name {name} is not valid in the encoding {encoding}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ascii_name_needs_no_encoding() {
        for encoding in ["UTF-8", "windows-1252", "Shift_JIS", "no such encoding"] {
            assert_eq!(decode(b"disk-flat.vmdk", encoding).unwrap(), "disk-flat.vmdk");
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_an_error_and_not_replaced() {
        assert_eq!(decode(b"\xff.vmdk", "UTF-8").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(decode("\u{e9}.vmdk".as_bytes(), "utf8").unwrap(), "\u{e9}.vmdk");
    }

    #[cfg(not(feature = "encodings"))]
    #[test]
    fn without_the_feature_the_error_names_it() {
        let error = decode(b"caf\xe9.vmdk", "windows-1252").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("feature \"encodings\""), "{error}");
        assert!(error.to_string().contains("windows-1252"), "{error}");
    }

    #[cfg(feature = "encodings")]
    #[test]
    fn names_are_decoded_from_the_code_pages_that_vmware_writes() {
        let rows: [(&[u8], &str, &str); 6] = [
            (b"caf\xe9.vmdk", "windows-1252", "caf\u{e9}.vmdk"),
            // The second byte is a backslash elsewhere.
            (b"\x83\x5c.vmdk", "Shift_JIS", "\u{30bd}.vmdk"),
            (b"\xb2\xe2.vmdk", "GBK", "\u{6d4b}.vmdk"),
            (b"\xb4\xfa.vmdk", "Big5", "\u{6e2c}.vmdk"),
            (b"\xc4.vmdk", "windows-1251", "\u{414}.vmdk"),
            (b"\xc5\xd7.vmdk", "EUC-KR", "\u{d14c}.vmdk"),
        ];
        for (raw, encoding, expected) in rows {
            assert_eq!(decode(raw, encoding).unwrap(), expected, "{encoding}");
        }
    }

    #[cfg(feature = "encodings")]
    #[test]
    fn a_name_is_encoded_only_if_it_comes_back() {
        let rows = [
            ("caf\u{e9}", "windows-1252", Some(&b"caf\xe9"[..])),
            ("\u{30bd}", "Shift_JIS", Some(b"\x83\x5c")),
            ("\u{30bd}", "windows-1252", None),
            ("\u{e9}", "utf8", Some(b"\xc3\xa9")),
            ("a", "klingon", Some(b"a")),
            ("\u{e9}", "klingon", None),
        ];
        for (text, encoding, expected) in rows {
            assert_eq!(encode(text, encoding).as_deref(), expected, "{text} in {encoding}");
        }
    }

    #[cfg(feature = "encodings")]
    #[test]
    fn an_unknown_encoding_and_bytes_that_it_does_not_have_are_told_apart() {
        assert_eq!(decode(b"\xe9", "x-klingon").unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(decode(b"\x81", "Shift_JIS").unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
