//! From text to model: a parser that reads all that some reader of descriptors is known to read.
//!
//! Keys, words and types are compared without case, in any order, with any blanks. A line that means nothing is kept
//! and ignored with a warning; a line that says where the data is and cannot be read is an error.

use std::collections::HashSet;
use std::ops::Range;

use super::header::HEADER_KEYS;
use super::scan::{shown, trimmed};
use super::warnings::Warnings;
use super::{Descriptor, Entry, ExtentLine, Section};
use crate::error::{Error, ErrorKind, Result};
use crate::sector::MAX_SECTORS;

/// The longest text that is taken for a descriptor: what QEMU reads, 80 times the region that hosted products
/// reserve, and enough for the 30 000 extents of a 62 TiB disk in 2 GiB files.
pub(crate) const MAX_DESCRIPTOR_LEN: usize = 1 << 20;

/// The most lines. An extent line of a real disk has some 30 bytes or more, so that `MAX_DESCRIPTOR_LEN` is reached
/// first; the bound keeps a text of tiny lines from becoming a model of many times its size.
const MAX_LINES: usize = 100_000;

/// The UTF-8 byte-order mark, which Windows editors put first.
pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

impl Descriptor {
    /// Reads a descriptor. The text ends at the first zero byte or at the end of `text`.
    ///
    /// Reading is lenient, see [`Descriptor::warnings`]. A text without any extent line is no error here.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], with the number of the line, for an extent line that cannot be read in full, for a
    /// header value whose quotes are not closed, and for a `parentCID` that is not a content ID; without one, if the
    /// text is longer than 1 MiB or has more than 100 000 lines. [`ErrorKind::Unsupported`] for an extent on vSAN.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let end = text.iter().take(MAX_DESCRIPTOR_LEN + 1).position(|&byte| byte == 0).unwrap_or(text.len());
        if end > MAX_DESCRIPTOR_LEN {
            return Err(Error::text(ErrorKind::Corrupt, "the descriptor is longer than 1 MiB"));
        }
        let mut parser = Parser::new(&text[..end]);
        for (index, line) in lines(&text[..end]).enumerate() {
            if index == MAX_LINES {
                let problem = format!("the descriptor has more than {MAX_LINES} lines");
                return Err(Error::text(ErrorKind::Corrupt, problem));
            }
            parser.line(index + 1, line)?;
        }
        parser.finish()
    }
}

/// The lines of a text without their line feeds. A text that has no line feed at all ends its lines with carriage
/// returns; elsewhere these are blanks.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let line_end = if text.contains(&b'\n') { b'\n' } else { b'\r' };
    let mut next = if text.starts_with(BOM) { BOM.len() } else { 0 };
    text[next..].split(move |&byte| byte == line_end).map(move |line| {
        let start = next;
        next += line.len() + 1;
        start..start + line.len()
    })
}

/// The rest of a key that begins with `ddb.`.
pub(super) fn strip_ddb(key: &[u8]) -> Option<&[u8]> {
    key.split_at_checked(4).filter(|(prefix, _)| prefix.eq_ignore_ascii_case(b"ddb.")).map(|(_, name)| name)
}

struct Parser<'a> {
    text: &'a [u8],
    entries: Vec<Entry>,
    extents: Vec<ExtentLine>,
    total_sectors: u64,
    after_ddb_line: bool,
    seen: HashSet<(Section, Vec<u8>)>,
    warnings: Warnings,
}

impl<'a> Parser<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            entries: Vec::new(),
            extents: Vec::new(),
            total_sectors: 0,
            after_ddb_line: false,
            seen: HashSet::new(),
            warnings: Warnings::default(),
        }
    }

    fn line(&mut self, number: usize, range: Range<usize>) -> Result<()> {
        let range = trimmed(self.text, range);
        let line = &self.text[range.clone()];
        if let Some(comment) = line.strip_prefix(b"#") {
            self.after_ddb_line |= comment.trim_ascii().eq_ignore_ascii_case(b"DDB");
            return Ok(());
        }
        if let Some(extent) = ExtentLine::parse(number, line)? {
            return self.extent(extent, line);
        }
        match line.iter().position(|&byte| byte == b'=') {
            Some(equals) if equals > 0 => self.entry(number, range, equals),
            _ if line.is_empty() => Ok(()),
            _ => {
                self.warnings.at(number, format_args!("{} means nothing and is ignored", shown(line)));
                Ok(())
            }
        }
    }

    fn extent(&mut self, extent: ExtentLine, line: &[u8]) -> Result<()> {
        // Each extent is within MAX_SECTORS, far below u64::MAX, so that the sum cannot wrap.
        self.total_sectors += extent.sectors();
        if self.total_sectors > MAX_SECTORS {
            return Err(Error::line(extent.line(), "the extents together are larger than any disk can be", line));
        }
        self.extents.push(extent);
        Ok(())
    }

    /// A line `key = value` whose equals sign is the byte `equals` of the line.
    fn entry(&mut self, number: usize, line: Range<usize>, equals: usize) -> Result<()> {
        let mut key = trimmed(self.text, line.start..line.start + equals);
        let name = &self.text[key.clone()];
        let is_header = HEADER_KEYS.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        let section = match strip_ddb(name) {
            Some(short) => {
                key.start = key.end - short.len();
                Section::Database
            }
            None if self.after_ddb_line && !is_header => Section::Database,
            None => Section::Header,
        };

        let mut value = trimmed(self.text, line.start + equals + 1..line.end);
        if self.text[value.clone()].starts_with(b"\"") {
            value.start += 1;
            match self.text[value.clone()].iter().position(|&byte| byte == b'"') {
                Some(len) => {
                    if value.start + len + 1 < value.end {
                        self.warnings.at(number, "what follows the quoted value is ignored");
                    }
                    value.end = value.start + len;
                }
                None if is_header => {
                    return Err(Error::line(number, "the quoted value does not end", &self.text[line]));
                }
                None => self.warnings.at(number, "the quoted value does not end"),
            }
        }

        if !self.seen.insert((section, self.text[key.clone()].to_ascii_lowercase())) {
            let name = shown(&self.text[key.clone()]);
            self.warnings.at(number, format_args!("{name} was there before; the first one is taken"));
        }
        self.entries.push(Entry { line: number, section, key, value });
        Ok(())
    }

    fn finish(self) -> Result<Descriptor> {
        let mut warnings = self.warnings;
        let mut model = Descriptor {
            text: self.text.to_vec(),
            entries: self.entries,
            extents: self.extents,
            version: 1,
            content_id: None,
            parent_content_id: None,
            create_type: None,
            native_snapshot: false,
            warnings: Vec::new(),
        };
        model.read_header(&mut warnings)?;
        model.warnings = warnings.finish();
        Ok(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{ContentId, CreateType};
    use std::fmt::Write;

    const PLAIN: &str = "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=0172e8a4\nparentCID=ffffffff\n\
        createType=\"monolithicFlat\"\n\n# Extent description\nRW 4096 FLAT \"a.vmdk\" 0\n\n\
        # The Disk Data Base \n#DDB\n\nddb.adapterType = \"ide\"\n";
    const SUMMARY: &str = "1 0172e8a4 ffffffff monolithicFlat; RW 4096 FLAT a.vmdk 0";

    fn parse(text: impl AsRef<[u8]>) -> Descriptor {
        Descriptor::parse(text.as_ref()).unwrap()
    }

    fn problem(text: impl AsRef<[u8]>) -> String {
        let error = Descriptor::parse(text.as_ref()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        error.to_string()
    }

    fn summary(model: &Descriptor) -> String {
        let id = |id: Option<ContentId>| id.map_or("-".to_owned(), |id| id.to_string());
        let create_type = model.create_type().map_or("-", CreateType::as_str);
        let (own, parent) = (id(model.content_id()), id(model.parent_content_id()));
        let mut text = format!("{} {own} {parent} {create_type}", model.version());
        for extent in model.extents() {
            let name = extent.name().map_or("-".into(), String::from_utf8_lossy);
            let (access, sectors, kind, offset) = (extent.access(), extent.sectors(), extent.kind(), extent.offset());
            write!(text, "; {access} {sectors} {kind} {name} {offset}").unwrap();
        }
        text
    }

    /// What at least one of QEMU, libvmdk and dissect reads is read here, and what one of them silently drops is not
    /// dropped. Each row changes `PLAIN` (`from` becomes `to`) and the summary of what is read.
    #[test]
    fn everything_that_some_reader_takes_is_read() {
        let extent = "RW 4096 FLAT \"a.vmdk\" 0";
        let header = "version=1\nencoding=\"UTF-8\"\nCID=0172e8a4\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n";
        let rows = [
            ("CRLF", "\n", "\r\n", SUMMARY),
            ("no final newline", "ddb.adapterType = \"ide\"\n", "ddb.adapterType = \"ide\"", SUMMARY),
            ("trailing NULs", "\"ide\"\n", "\"ide\"\n\0\0\0", SUMMARY),
            ("leading blanks on an extent line", "RW 4096", " \t RW 4096", SUMMARY),
            ("version 2", "version=1", "version=2", "2 0172e8a4 ffffffff monolithicFlat; RW 4096 FLAT a.vmdk 0"),
            ("version 3", "version=1", "version=3", "3 0172e8a4 ffffffff monolithicFlat; RW 4096 FLAT a.vmdk 0"),
            ("unknown keys", "CID=0172", "nfcSourceCID=1\nfoo=\"bar\"\nCID=0172", SUMMARY),
            ("change tracking", "#DDB", "# Change Tracking File\nchangeTrackPath=\"a-ctk.vmdk\"\n\n#DDB", SUMMARY),
            ("short CID", "CID=0172e8a4", "CID=172e8a4", SUMMARY),
            ("upper-case CID", "CID=0172e8a4", "CID=0172E8A4", SUMMARY),
            ("one extra number after the offset", "\" 0\n", "\" 0 77\n", SUMMARY),
            ("bare CR line ends", "\n", "\r", SUMMARY),
            ("byte-order mark", "# Disk", "\u{feff}# Disk", SUMMARY),
            ("byte-order mark before a key", "# Disk DescriptorFile\n", "\u{feff}", SUMMARY),
            ("another first line", "# Disk DescriptorFile", "# made by hand", SUMMARY),
            ("no comment first", "# Disk DescriptorFile\n", "", SUMMARY),
            ("empty line first", "# Disk", "\n# Disk", SUMMARY),
            ("line with one blank first", "# Disk", " \n# Disk", SUMMARY),
            ("version missing", "version=1\n", "", SUMMARY),
            ("version not first", "version=1\nencoding=\"UTF-8\"", "encoding=\"UTF-8\"\nversion=1", SUMMARY),
            ("version with blanks", "version=1", "version = 1", SUMMARY),
            ("version with a trailing blank", "version=1", "version=1 ", SUMMARY),
            ("version 4", "version=1", "version=4", "4 0172e8a4 ffffffff monolithicFlat; RW 4096 FLAT a.vmdk 0"),
            ("two blanks", extent, "RW  4096  FLAT  \"a.vmdk\"  0", SUMMARY),
            ("tabs", extent, "RW\t4096\tFLAT\t\"a.vmdk\"\t0\t", SUMMARY),
            ("lower-case access", "RW ", "rw ", SUMMARY),
            ("lower-case type", "FLAT", "flat", SUMMARY),
            ("blanks round the equals sign", "CID=", "CID\t = ", SUMMARY),
            ("unquoted createType", "\"monolithicFlat\"", "monolithicFlat ", SUMMARY),
            ("lower-case keys", "parentCID=ffffffff\ncreateType", "parentcid=ffffffff\ncreatetype", SUMMARY),
            ("createType missing", "createType", "x", "1 0172e8a4 ffffffff -; RW 4096 FLAT a.vmdk 0"),
            ("FLAT without offset", "\" 0", "\"", SUMMARY),
            ("VMFS with offset", "FLAT", "VMFS", "1 0172e8a4 ffffffff monolithicFlat; RW 4096 VMFS a.vmdk 0"),
            ("RDONLY", "RW", "RDONLY", "1 0172e8a4 ffffffff monolithicFlat; RDONLY 4096 FLAT a.vmdk 0"),
            ("NOACCESS", "RW", "NOACCESS", "1 0172e8a4 ffffffff monolithicFlat; NOACCESS 4096 FLAT a.vmdk 0"),
            ("ZERO", extent, "RW 63 ZERO ", "1 0172e8a4 ffffffff monolithicFlat; RW 63 ZERO - 0"),
            ("partition UUID and device id", "\" 0", "\" 0 \"{6e5b-0f1c}\" \"5&1b0c9f2&0\"", SUMMARY),
            ("CID missing", "CID=0172e8a4\n", "", "1 - ffffffff monolithicFlat; RW 4096 FLAT a.vmdk 0"),
            ("parentCID missing", "parentCID=ffffffff\n", "", "1 0172e8a4 - monolithicFlat; RW 4096 FLAT a.vmdk 0"),
            (
                "parentCID before CID",
                "CID=0172e8a4\nparentCID=ffffffff",
                "parentCID=0000000a\nCID=0172e8a4",
                "1 0172e8a4 0000000a monolithicFlat; RW 4096 FLAT a.vmdk 0",
            ),
            ("quoted CID", "CID=0172e8a4", "CID=\"0172e8a4\"", SUMMARY),
            ("unknown encoding", "UTF-8", "x-klingon", SUMMARY),
            ("extents first", header, "RW 1 ZERO\n", "1 - - -; RW 1 ZERO - 0; RW 4096 FLAT a.vmdk 0"),
            ("header after the extents and the database", "#DDB\n", "#DDB\nCID=1\n", SUMMARY),
            (
                "extents after the database",
                "\"ide\"\n",
                "\"ide\"\nRW 1 ZERO",
                "1 0172e8a4 ffffffff monolithicFlat; RW 4096 FLAT a.vmdk 0; RW 1 ZERO - 0",
            ),
            ("custom", "monolithicFlat", "custom", "1 0172e8a4 ffffffff custom; RW 4096 FLAT a.vmdk 0"),
            (
                "2GbMaxExtentFlat",
                "monolithicFlat",
                "2GbMaxExtentFlat",
                "1 0172e8a4 ffffffff twoGbMaxExtentFlat; RW 4096 FLAT a.vmdk 0",
            ),
            ("no extent at all", extent, "", "1 0172e8a4 ffffffff monolithicFlat"),
        ];
        for (case, from, to, expected) in rows {
            let text = PLAIN.replace(from, to);
            assert_ne!(text, PLAIN, "{case}");
            assert_eq!(summary(&parse(text)), expected, "{case}");
        }
    }

    #[test]
    fn the_header_is_found_behind_everything_else() {
        let text = "#DDB\nddb.adapterType = \"ide\"\nRW 4096 FLAT \"a.vmdk\" 0\ncreateType=\"monolithicFlat\"\n\
            parentCID=ffffffff\nCID=0172e8a4\nversion=1\n";
        assert_eq!(summary(&parse(text)), SUMMARY);
    }

    #[test]
    fn the_text_ends_at_the_first_zero_byte() {
        let model = parse(b"CID=1\nparentCID=ffffffff\nRW 1 ZERO\n\0RW 2 ZERO\n");
        assert_eq!(model.as_bytes(), b"CID=1\nparentCID=ffffffff\nRW 1 ZERO\n");
        assert_eq!(model.extents().len(), 1);
        assert_eq!(parse([0; 512]).as_bytes(), b"");
    }

    #[test]
    fn a_carriage_return_ends_a_line_only_where_no_line_feed_does() {
        assert_eq!(parse("CID=1\rRW 1 ZERO\r").extents()[0].line(), 2);
        assert_eq!(parse("# a\rRW 1 ZERO\n\nRW 2 ZERO\r\n").extents()[0].line(), 3);
    }

    #[test]
    fn the_first_of_repeated_keys_is_taken_with_a_warning() {
        let model = parse(PLAIN.replace("createType", "cid=2\nddb.CID=3\ncreateType"));
        assert_eq!(summary(&model), SUMMARY);
        assert_eq!(model.warnings(), ["line 6: \"cid\" was there before; the first one is taken"]);
    }

    #[test]
    fn odd_lines_are_read_with_a_warning_that_names_the_line() {
        assert_eq!(parse(PLAIN).warnings(), [""; 0]);
        let rows = [
            ("\n\n# Ext", "\nwhat is this\n# Ext", "line 7: \"what is this\" means nothing and is ignored"),
            ("\n\n# Ext", "\n=5\n# Ext", "line 7: \"=5\" means nothing and is ignored"),
            ("Flat\"", "Flat\" x", "line 6: what follows the quoted value is ignored"),
            ("\"ide\"", "\"ide", "line 14: the quoted value does not end"),
        ];
        for (from, to, expected) in rows {
            assert_eq!(parse(PLAIN.replace(from, to)).warnings(), [expected]);
        }
    }

    #[test]
    fn what_says_where_the_data_is_and_cannot_be_read_is_an_error_with_its_line() {
        let rows = [
            ("RW 4096", "RW 0", "descriptor line 9: the extent has no sectors"),
            ("FLAT", "FLOT", "descriptor line 9: unknown extent type"),
            ("RW 4096", "WO 4096", "descriptor line 9: unknown access word"),
            ("Flat\"", "Flat", "descriptor line 6: the quoted value does not end"),
            ("\n\n# Ext", "\nRW 18014398509481983 ZERO\n# Ext", "descriptor line 9: the extents together are larger"),
        ];
        for (from, to, expected) in rows {
            let text = problem(PLAIN.replace(from, to));
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn length_lines_and_warnings_are_bounded() {
        let blanks = vec![b' '; MAX_DESCRIPTOR_LEN];
        assert_eq!(parse(&blanks).as_bytes().len(), MAX_DESCRIPTOR_LEN);
        assert_eq!(parse([&blanks[..], b"\0 "].concat()).as_bytes().len(), MAX_DESCRIPTOR_LEN);
        assert!(problem([&blanks[..], b" \0"].concat()).contains("longer than 1 MiB"));
        assert!(problem(vec![b'\n'; MAX_LINES]).contains("more than 100000 lines"));
        let noisy = parse("x\n".repeat(MAX_LINES - 1));
        assert!(noisy.warnings().len() < 200);
    }
}
