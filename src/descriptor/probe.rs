//! Telling a descriptor from any other file by its first bytes.

use super::extent_line::access_of;
use super::header::HEADER_KEYS;
use super::parse::{BOM, strip_ddb};
use super::scan::{is_digits, next_word, trimmed};

/// Whether `start`, the first bytes of a file (a few KiB will do), can be those of a descriptor.
///
/// Comments that speak of a disk descriptor, known keys and extent lines decide for it; zero bytes and other control
/// characters, and lines of any other form, against it. Blank lines, other comments and unknown keys decide nothing.
pub(crate) fn looks_like_descriptor(start: &[u8]) -> bool {
    let text = start.strip_prefix(BOM).unwrap_or(start);
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
        match judge(&line[trimmed(line, 0..line.len())]) {
            Verdict::Descriptor => return true,
            Verdict::Other => return false,
            Verdict::Open => {}
        }
    }
    false
}

enum Verdict {
    Descriptor,
    Other,
    Open,
}

fn judge(line: &[u8]) -> Verdict {
    if line.is_empty() {
        return Verdict::Open;
    }
    if line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
        return Verdict::Other;
    }
    if line.starts_with(b"#") {
        return if is_title(line) { Verdict::Descriptor } else { Verdict::Open };
    }
    if is_extent(line) {
        return Verdict::Descriptor;
    }
    let Some(equals) = line.iter().position(|&byte| byte == b'=') else { return Verdict::Other };
    let key = line[..equals].trim_ascii();
    if strip_ddb(key).is_some() || HEADER_KEYS.iter().any(|known| key.eq_ignore_ascii_case(known.as_bytes())) {
        Verdict::Descriptor
    } else {
        Verdict::Open
    }
}

/// Title lines in use: `# Disk DescriptorFile`, `#Disk Descriptor File` and the like, and
/// `# Description file created by VMDK stream converter`.
fn is_title(comment: &[u8]) -> bool {
    let comment = comment.to_ascii_lowercase();
    let has = |word: &[u8]| comment.windows(word.len()).any(|part| part == word);
    has(b"descript") && (has(b"disk") || has(b"vmdk"))
}

fn is_extent(line: &[u8]) -> bool {
    let mut rest = line;
    next_word(&mut rest);
    access_of(line).is_some() && is_digits(next_word(&mut rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_line_in_use_is_recognised() {
        for start in [
            "# Disk DescriptorFile\nversion=1\n",
            "# Disk Descriptor File\r\nversion=1\r\n",
            "#Disk DescriptorFile\rversion=1\r",
            "\u{feff}# Disk DescriptorFile\n",
            "\n \n\t# disk descriptorfile\n",
            "# Description file created by VMDK stream converter\n",
            "# Disk DescriptorF",
            "# made by hand\nversion=1\n",
            "version=1\nCID=fffffffe\n",
            "Version = 1",
            "parentCID=ffffffff\n",
            "nfcSourceCID=1\ncreateType=\"vmfs\"\n",
            "RW 4096 VMFS \"a-flat.vmdk\"\n",
            "rdonly\t1 FLOT",
            "ddb.adapterType = \"ide\"\n",
        ] {
            assert!(looks_like_descriptor(start.as_bytes()), "{start:?}");
        }
    }

    #[test]
    fn other_files_are_not_recognised() {
        for start in [
            &b""[..],
            b"\n\n\n",
            b"KDMV\x01\0\0\0",
            b"COWD\x01\0\0\0",
            b"\0\0\0\0",
            b"# Disk DescriptorFile\0\0\n",
            b"# Disk \x01DescriptorFile\n",
            b"\xeb\x3c\x90MSDOS5.0\0",
            b"\xff\xfe#\0 \0D\0i\0s\0k\0",
            b"#!/bin/sh\necho disk description\n",
            b"# a comment and no more\n",
            b"[section]\nversion=1\n",
            b"name=value\n",
            b"RW then words\n",
            b"CID\n",
        ] {
            assert!(!looks_like_descriptor(start), "{}", start.escape_ascii());
        }
    }
}
