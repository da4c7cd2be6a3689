//! Extent lines: what a link is put together from, in the order in which the guest sees it.
//!
//! An extent line that is dropped moves everything after it, so that a line which may be one and cannot be read is
//! an error, never a warning.

use std::fmt;

use super::scan::{decimal, is_blank, is_digits, next_word};
use crate::error::{Error, ErrorKind, Result};
use crate::sector::MAX_SECTORS;

/// The type of an extent that is not kept in a file at all.
const VSAN: &[u8] = b"VSANSPARSE";

/// What the guest may do with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `RW`: read and write.
    ReadWrite,
    /// `RDONLY`: read.
    ReadOnly,
    /// `NOACCESS`: neither; a range that is hidden from the guest.
    NoAccess,
}

impl Access {
    /// The word as VMware writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "RW",
            Self::ReadOnly => "RDONLY",
            Self::NoAccess => "NOACCESS",
        }
    }

    pub(crate) fn parse(word: &[u8]) -> Option<Self> {
        let all = [Self::ReadWrite, Self::ReadOnly, Self::NoAccess];
        all.into_iter().find(|access| word.eq_ignore_ascii_case(access.as_str().as_bytes()))
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What holds the data of an extent, as its line says. A sparse file tells by its own magic what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExtentKind {
    /// `FLAT`: a raw file or device, from an offset on.
    Flat,
    /// `SPARSE`: a hosted sparse file (KDMV).
    Sparse,
    /// `ZERO`: nothing; the range reads as zeros.
    Zero,
    /// `VMFS`: a raw file on VMFS.
    Vmfs,
    /// `VMFSSPARSE`: an ESX redo log (COWD).
    VmfsSparse,
    /// `VMFSRDM`: the pointer file of a raw device mapping; the data is elsewhere.
    VmfsRdm,
    /// `VMFSRAW`: a device of an ESX host.
    VmfsRaw,
    /// `SESPARSE`: an ESX space-efficient sparse file.
    SeSparse,
}

impl ExtentKind {
    /// The word as VMware writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Sparse => "SPARSE",
            Self::Zero => "ZERO",
            Self::Vmfs => "VMFS",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::VmfsRdm => "VMFSRDM",
            Self::VmfsRaw => "VMFSRAW",
            Self::SeSparse => "SESPARSE",
        }
    }

    fn parse(word: &[u8]) -> Option<Self> {
        let all = [
            Self::Flat,
            Self::Sparse,
            Self::Zero,
            Self::Vmfs,
            Self::VmfsSparse,
            Self::VmfsRdm,
            Self::VmfsRaw,
            Self::SeSparse,
        ];
        all.into_iter().find(|kind| word.eq_ignore_ascii_case(kind.as_str().as_bytes()))
    }
}

impl fmt::Display for ExtentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One extent of a link, as its line in the descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentLine {
    line: usize,
    access: Access,
    sectors: u64,
    kind: ExtentKind,
    name: Option<Box<[u8]>>,
    offset: u64,
}

impl ExtentLine {
    /// The number of the line in the descriptor, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// What the guest may do with the extent.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The size in sectors; at least 1.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// What holds the data. `NOACCESS` lines without a type count as [`ExtentKind::Zero`].
    pub fn kind(&self) -> ExtentKind {
        self.kind
    }

    /// The file name as it is written, undecoded and untrusted. `None` if the line has no name, which only `ZERO` and
    /// `NOACCESS` may lack; empty where a pair of quotes with nothing between them stands (seen in FreeBSD's files).
    pub fn name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// Where in the file or device the extent begins, in sectors; 0 if the line does not say.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads a line that has no blanks around it; `None` if it is no extent line.
    ///
    /// What follows the offset (a partition UUID and a device id on disks of Windows hosts) has no use here.
    pub(super) fn parse(number: usize, line: &[u8]) -> Result<Option<Self>> {
        let error = |problem: &'static str| Error::line(number, problem, line);

        let Some(access) = access_of(line) else {
            return if has_unknown_access(line) { Err(error("unknown access word")) } else { Ok(None) };
        };
        let mut rest = line;
        next_word(&mut rest);
        let sectors = decimal(next_word(&mut rest)).ok_or_else(|| error("the size is not a number of sectors"))?;
        if sectors == 0 {
            return Err(error("the extent has no sectors"));
        }
        let kind = match next_word(&mut rest) {
            b"" if access == Access::NoAccess => ExtentKind::Zero,
            b"" => return Err(error("the extent has no type")),
            word if word.eq_ignore_ascii_case(VSAN) => {
                let problem = "an extent that is an object on vSAN, which is no file, is not supported";
                return Err(error(problem).with_kind(ErrorKind::Unsupported));
            }
            word => ExtentKind::parse(word).ok_or_else(|| error("unknown extent type"))?,
        };
        let name = take_quoted(&mut rest).map_err(error)?;
        if name.is_none() && kind != ExtentKind::Zero && access != Access::NoAccess {
            return Err(error("the extent has no quoted file name"));
        }
        let offset = match next_word(&mut rest) {
            b"" | [b'"', ..] => 0,
            word => decimal(word).ok_or_else(|| error("the offset is not a number of sectors"))?,
        };
        if offset.checked_add(sectors).is_none_or(|end| end > MAX_SECTORS) {
            return Err(error("the extent is larger than any file can be"));
        }
        Ok(Some(Self { line: number, access, sectors, kind, name: name.map(Box::from), offset }))
    }
}

/// The access word at the start of an extent line; `None` for a line that begins otherwise or sets a key of that name.
pub(super) fn access_of(line: &[u8]) -> Option<Access> {
    let mut rest = line;
    let access = Access::parse(next_word(&mut rest))?;
    if next_word(&mut rest).starts_with(b"=") { None } else { Some(access) }
}

/// Whether a line that begins with no known access word would be an extent line if it did. A number within a value
/// (`parentFileNameHint="disk 2 old.vmdk"`) or a key is none of it.
fn has_unknown_access(line: &[u8]) -> bool {
    let mut rest = line;
    let access = next_word(&mut rest);
    !access.contains(&b'=') && is_digits(next_word(&mut rest)) && !next_word(&mut rest).starts_with(b"=")
}

/// Takes the quoted text that comes next off `rest`, without its quotes. There are no escapes.
fn take_quoted<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    let Some(inner) = rest.trim_ascii_start().strip_prefix(b"\"") else { return Ok(None) };
    let len = inner.iter().position(|&byte| byte == b'"').ok_or("the quoted name does not end")?;
    *rest = &inner[len + 1..];
    // A quote within a name cannot be written; one that was cut short there would name another file.
    if rest.first().is_some_and(|&byte| !is_blank(byte)) {
        return Err("the quoted name is followed by more text");
    }
    Ok(Some(&inner[..len]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<ExtentLine> {
        ExtentLine::parse(7, line.as_bytes()).unwrap()
    }

    fn problem(line: &str) -> String {
        ExtentLine::parse(7, line.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn every_field_is_read() {
        let extent = parse(r#"RDONLY 81920 FLAT "disk f001.vmdk" 63"#).unwrap();
        assert_eq!((extent.line(), extent.access(), extent.sectors()), (7, Access::ReadOnly, 81920));
        assert_eq!((extent.kind(), extent.offset()), (ExtentKind::Flat, 63));
        assert_eq!(extent.name(), Some(&b"disk f001.vmdk"[..]));
    }

    #[test]
    fn every_type_and_access_word_is_read_whatever_its_case() {
        for kind in ["FLAT", "SPARSE", "ZERO", "VMFS", "VMFSSPARSE", "VMFSRDM", "VMFSRAW", "SESPARSE"] {
            for access in ["RW", "RDONLY", "NOACCESS"] {
                let extent = parse(&format!(r#"{access} 1 {kind} "x""#)).unwrap();
                assert_eq!((extent.access().as_str(), extent.kind().to_string()), (access, kind.to_owned()));
                let lower = parse(&format!(r#"{} 1 {} "x""#, access.to_lowercase(), kind.to_lowercase()));
                assert_eq!(lower, Some(extent));
            }
        }
    }

    #[test]
    fn an_extent_on_vsan_is_named_and_not_called_damaged() {
        for line in ["RW 1 VSANSPARSE \"vsan://1\"", "rdonly 1 vsanSparse"] {
            let error = ExtentLine::parse(7, line.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("vSAN"), "{error}");
        }
    }

    #[test]
    fn an_empty_name_is_a_name() {
        assert_eq!(parse(r#"RW 10240 SPARSE """#).unwrap().name(), Some(&b""[..]));
    }

    #[test]
    fn zero_and_noaccess_may_lack_a_name() {
        for line in ["RW 63 ZERO", "RDONLY 63 ZERO 0", "NOACCESS 63 FLAT", "NOACCESS 63 ZERO"] {
            assert_eq!(parse(line).unwrap().name(), None, "{line}");
        }
        assert_eq!(parse("NOACCESS 63").unwrap().kind(), ExtentKind::Zero);
    }

    #[test]
    fn what_follows_the_offset_is_no_part_of_it() {
        let line = r#"RW 63 FLAT "\\.\PhysicalDrive0" 2048 "{6e5b0f1c-0000}" "5&1b0c9f2&0""#;
        assert_eq!(parse(line).unwrap().offset(), 2048);
        assert_eq!(parse(r#"RW 63 FLAT "a" "uuid""#).unwrap().offset(), 0);
    }

    #[test]
    fn other_lines_are_no_extent_lines() {
        let hint = "parentFileNameHint=\"disk 2 old.vmdk\"";
        for line in [hint, "version=1", "CID = 5", "RW=5", "rw = 5 6", "ddb.heads = \"16\"", "key 5 = x", "words"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn an_extent_that_cannot_be_read_is_an_error_with_its_line() {
        let rows = [
            (r#"WO 4096 FLAT "a" 0"#, "unknown access word"),
            (r#"WO 4096 FLAT "a=b" 0"#, "unknown access word"),
            ("RW", "the size is not a number"),
            (r#"RW x FLAT "a" 0"#, "the size is not a number"),
            (r#"RW -1 FLAT "a" 0"#, "the size is not a number"),
            (r#"RW 0 FLAT "a" 0"#, "no sectors"),
            (r#"RW 18446744073709551616 FLAT "a" 0"#, "the size is not a number"),
            (r#"RW 18446744073709551615 FLAT "a" 0"#, "larger than any file"),
            (r#"RW 1 FLAT "a" 18446744073709551615"#, "larger than any file"),
            ("RW 4096", "no type"),
            (r#"RW 4096 FLOT "a" 0"#, "unknown extent type"),
            ("NOACCESS 4096 FLOT", "unknown extent type"),
            ("RW 4096 FLAT", "no quoted file name"),
            ("RW 4096 SPARSE a.vmdk", "no quoted file name"),
            (r#"RW 4096 FLAT "a 0"#, "does not end"),
            (r#"RW 4096 FLAT "a"b.vmdk" 0"#, "followed by more text"),
            (r#"RW 4096 FLAT "a" 0x10"#, "the offset is not a number"),
        ];
        for (line, expected) in rows {
            let text = problem(line);
            assert!(text.starts_with("descriptor line 7: ") && text.contains(expected), "{line}: {text}");
        }
    }
}
