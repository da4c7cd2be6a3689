//! The descriptor: the text that says what a link is made of.
//!
//! [`Descriptor::parse`] makes a model of the text; the text itself stays in the model byte for byte, and all values
//! are ranges of it, so that nothing is lost which this crate does not understand. No I/O happens here, and no name
//! found in a text is opened here: what to make of names is decided elsewhere.

mod compose;
mod content_id;
mod create_type;
mod ddb;
mod edit;
mod encoding;
mod encryption;
mod extent_line;
mod geometry;
mod header;
mod intent;
mod name;
mod parse;
mod probe;
mod revise;
mod scan;
mod warnings;

use std::fmt;
use std::ops::Range;

pub(crate) use compose::{NewDatabase, NewDescriptor, NewExtentLine, NewParent, is_quotable, relative, spaced};
pub use content_id::ContentId;
pub use create_type::CreateType;
pub use ddb::AdapterType;
pub(crate) use edit::{Edit, NewContentId};
pub use extent_line::{Access, ExtentKind, ExtentLine};
pub use geometry::Geometry;
pub(crate) use intent::CommitIntent;
pub use name::StoredName;
pub(crate) use parse::MAX_DESCRIPTOR_LEN;
pub(crate) use probe::looks_like_descriptor;

use crate::error::{Error, ErrorKind, Result};

/// A descriptor: header keys, extent lines and disk database, in the text they were read from.
///
/// Keys are compared without case. Of a key that occurs more than once, the first one counts.
#[derive(Clone, PartialEq, Eq)]
pub struct Descriptor {
    text: Vec<u8>,
    entries: Vec<Entry>,
    extents: Vec<ExtentLine>,
    version: u32,
    content_id: Option<ContentId>,
    parent_content_id: Option<ContentId>,
    create_type: Option<CreateType>,
    native_snapshot: bool,
    warnings: Vec<String>,
}

/// A line `key = value`, as ranges of the text: the key without `ddb.`, the value without its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    line: usize,
    section: Section,
    key: Range<usize>,
    value: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Section {
    Header,
    Database,
}

impl Descriptor {
    /// What stands for the descriptor of an extent that has none: nothing is said, and nothing is odd about that.
    pub(crate) fn empty() -> Self {
        Self {
            text: Vec::new(),
            entries: Vec::new(),
            extents: Vec::new(),
            version: 1,
            content_id: None,
            parent_content_id: None,
            create_type: None,
            native_snapshot: false,
            warnings: Vec::new(),
        }
    }

    /// Keys and extent lines: what takes memory beside the text.
    pub(crate) fn items(&self) -> usize {
        self.entries.len() + self.extents.len()
    }

    /// The text, exactly as it was read, up to the first zero byte.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    /// The version of the descriptor: 1 as a rule, 2 for encrypted disks, 3 with change tracking. 1 if the key is
    /// missing or no number.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The name of the encoding of the text, from the header or else from `ddb.encoding`, where VMware's Virtual Disk
    /// Development Kit writes it.
    pub fn encoding(&self) -> Option<&str> {
        let value = self.header("encoding").or_else(|| self.ddb("encoding"))?;
        str::from_utf8(value).ok().filter(|name| !name.is_empty())
    }

    /// The content ID of this link; `None` if it is missing or not a content ID.
    pub fn content_id(&self) -> Option<ContentId> {
        self.content_id
    }

    /// The content ID that the parent had when this link was made; [`ContentId::NO_PARENT`] in a link without a
    /// parent, `None` if the key is missing, which means the same.
    pub fn parent_content_id(&self) -> Option<ContentId> {
        self.parent_content_id
    }

    /// What kind of link this is; `None` if the key is missing.
    pub fn create_type(&self) -> Option<&CreateType> {
        self.create_type.as_ref()
    }

    /// Where the parent was when this link was made (`parentFileNameHint`), undecoded and untrusted. `None` if the key
    /// is missing or empty.
    pub fn parent_hint(&self) -> Option<&[u8]> {
        self.header("parentFileNameHint").filter(|hint| !hint.is_empty())
    }

    /// The change tracking file of this link (`changeTrackPath`), undecoded and untrusted. Whoever writes to the disk
    /// must keep that file right.
    pub fn change_track_path(&self) -> Option<&[u8]> {
        self.header("changeTrackPath")
    }

    /// The name of one of its extents in both forms; `None` if the line has none.
    pub fn extent_name<'a>(&'a self, line: &'a ExtentLine) -> Option<StoredName<'a>> {
        line.name().map(|raw| StoredName::new(self, raw))
    }

    /// The [`parent_hint`](Self::parent_hint) in both forms.
    pub fn parent_hint_name(&self) -> Option<StoredName<'_>> {
        self.parent_hint().map(|raw| StoredName::new(self, raw))
    }

    /// The [`change_track_path`](Self::change_track_path) in both forms.
    pub fn change_track_name(&self) -> Option<StoredName<'_>> {
        self.change_track_path().map(|raw| StoredName::new(self, raw))
    }

    /// Whether this link is a snapshot that a storage array keeps. Any value of the key other than `no` counts.
    pub fn is_native_snapshot(&self) -> bool {
        self.native_snapshot
    }

    /// The extents in the order of the text, which is their order on the disk.
    pub fn extents(&self) -> &[ExtentLine] {
        &self.extents
    }

    /// The raw device maps among the extents.
    pub(crate) fn raw_maps(&self) -> impl Iterator<Item = &ExtentLine> {
        self.extents.iter().filter(|line| self.is_raw_map(line))
    }

    /// Whether one of its extents is a raw device map: its data is on a device that only an ESX host knows by the name
    /// in the line, and opening the disk takes a path for it
    /// ([`OpenOptions::map_extent`](crate::OpenOptions::map_extent)). So it is with VMFSRDM and VMFSRAW, and with
    /// whatever else is no sparse file in a disk whose type says that it is one.
    pub fn is_raw_map(&self, line: &ExtentLine) -> bool {
        match line.kind() {
            ExtentKind::VmfsRdm | ExtentKind::VmfsRaw => true,
            ExtentKind::Flat | ExtentKind::Vmfs => self.create_type().is_some_and(CreateType::is_raw_map),
            _ => false,
        }
    }

    /// Whether the disk, or a part of it, is on a device, which is as large as it is, and is not the disk's own.
    pub(crate) fn is_on_device(&self) -> bool {
        matches!(self.create_type(), Some(CreateType::FullDevice | CreateType::PartitionedDevice))
            || self.raw_maps().next().is_some()
    }

    /// The value of a header key, without its quotes. Takes time in proportion to the number of keys.
    pub fn header(&self, key: &str) -> Option<&[u8]> {
        self.find(Section::Header, key).map(|entry| self.value(entry))
    }

    /// What was odd about the text but could be read: each names the line, unless something is missing.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A name of this text (that of an extent or parent) as a string.
    ///
    /// The result is as untrusted as the name was: it may be absolute, lead upwards, or hold control characters.
    ///
    /// # Errors
    /// [`ErrorKind::NameRefused`] for a name with a zero byte or a line end, which no file should have;
    /// [`ErrorKind::Unsupported`] for a name beyond ASCII in an encoding that is not known, or not without the feature
    /// `encodings`; [`ErrorKind::Corrupt`] for bytes that the encoding does not have.
    pub fn decode_name(&self, raw: &[u8]) -> Result<String> {
        if raw.iter().any(|byte| matches!(byte, 0 | b'\n' | b'\r')) {
            let problem = format!("the name {} holds a zero byte or a line end", scan::shown(raw));
            return Err(Error::text(ErrorKind::NameRefused, problem));
        }
        encoding::decode(raw, self.encoding().unwrap_or("UTF-8"))
    }

    fn find(&self, section: Section, key: &str) -> Option<&Entry> {
        let key = key.as_bytes();
        let mut entries = self.entries.iter().filter(|entry| entry.section == section);
        entries.find(|entry| self.text[entry.key.clone()].eq_ignore_ascii_case(key))
    }

    fn value(&self, entry: &Entry) -> &[u8] {
        &self.text[entry.value.clone()]
    }
}

/// Shows the text; the rest follows from it.
impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Descriptor").field(&String::from_utf8_lossy(&self.text)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_child_as_esx_writes_it_is_read() {
        let text = "# Disk DescriptorFile\nversion=3\nencoding=\"UTF-8\"\nCID=8f67ca74\nparentCID=0172e8a4\n\
            isNativeSnapshot=\"no\"\ncreateType=\"vmfsSparse\"\nparentFileNameHint=\"base.vmdk\"\n\
            # Extent description\nRW 4096 VMFSSPARSE \"base-000001-delta.vmdk\"\n\n# Change Tracking File\n\
            changeTrackPath=\"base-000001-ctk.vmdk\"\n\n# The Disk Data Base \n#DDB\n\n\
            ddb.longContentID = \"4b98b55ba6a6bc2e8fd6eb368f67ca74\"\n";
        let child = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!((child.version(), child.encoding()), (3, Some("UTF-8")));
        assert_eq!(child.content_id(), Some(ContentId::new(0x8f67_ca74)));
        assert_eq!(child.parent_content_id(), Some(ContentId::new(0x0172_e8a4)));
        assert_eq!(child.long_content_id().unwrap() & 0xffff_ffff, 0x8f67_ca74);
        assert_eq!(child.create_type(), Some(&CreateType::VmfsSparse));
        assert_eq!(child.parent_hint(), Some(&b"base.vmdk"[..]));
        assert_eq!(child.change_track_path(), Some(&b"base-000001-ctk.vmdk"[..]));
        assert!(!child.is_native_snapshot());
        assert_eq!(child.extents()[0].kind(), ExtentKind::VmfsSparse);
        assert_eq!(child.warnings(), [""; 0]);
    }

    #[test]
    fn an_empty_hint_is_none_and_an_empty_tracking_path_is_one() {
        let text = "parentFileNameHint=\"\"\nchangeTrackPath=\nisNativeSnapshot=\"YES\"\n";
        let model = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!((model.parent_hint(), model.change_track_path()), (None, Some(&b""[..])));
        assert!(model.is_native_snapshot());
    }

    #[test]
    fn the_encoding_is_looked_for_in_the_header_first() {
        for (text, expected) in [
            ("encoding=windows-1252\nddb.encoding = \"UTF-8\"\n", Some("windows-1252")),
            ("ddb.encoding = \"GBK\"\n", Some("GBK")),
            ("encoding=\"\"\n", None),
            ("version=1\n", None),
        ] {
            assert_eq!(Descriptor::parse(text.as_bytes()).unwrap().encoding(), expected, "{text}");
        }
    }

    #[test]
    fn a_name_is_decoded_if_it_is_ascii_or_the_text_is_utf8() {
        let decode = |encoding: &str, name: &[u8]| Descriptor::parse(encoding.as_bytes()).unwrap().decode_name(name);
        for encoding in ["", "encoding=\"UTF-8\"", "encoding=utf8", "ddb.encoding = \"utf-8\""] {
            assert_eq!(decode(encoding, "Gr\u{f6}\u{df}e.vmdk".as_bytes()).unwrap(), "Gr\u{f6}\u{df}e.vmdk");
        }
        assert_eq!(decode("encoding=Shift_JIS", b"a\\b.vmdk").unwrap(), "a\\b.vmdk");
        for encoding in ["encoding=klingon", "encoding=\"UTF-8\""] {
            let error = decode(encoding, b"Gr\xf6\xdfe.vmdk").unwrap_err();
            assert!(error.to_string().contains(r#""Gr\xf6\xdfe.vmdk""#), "{error}");
        }
    }

    #[test]
    fn a_name_with_a_zero_byte_or_a_line_end_is_refused() {
        let model = Descriptor::parse(b"").unwrap();
        for name in [&b"a\0b"[..], b"a\nb", b"a\r"] {
            assert_eq!(model.decode_name(name).unwrap_err().kind(), ErrorKind::NameRefused);
        }
        assert_eq!(model.decode_name(b"\x1b[2J").unwrap(), "\x1b[2J");
    }

    /// Calls everything that takes what a stranger wrote.
    fn exercise(text: &[u8]) {
        looks_like_descriptor(text);
        let Ok(model) = Descriptor::parse(text) else { return };
        for extent in model.extents() {
            assert!(extent.sectors() > 0);
            let _ = extent.name().map(|name| model.decode_name(name));
        }
        let _ = (model.encoding(), model.parent_hint(), model.change_track_path(), model.header("version"));
        let _ = (model.long_content_id(), model.geometry(), model.bios_geometry(), model.adapter_type());
        let _ = (model.disk_id(), model.hardware_version(), model.ddb_entries().count());
        let again = Descriptor::parse(model.as_bytes()).unwrap();
        assert_eq!(model, again);
    }

    const TOKENS: &[&[u8]] = &[
        b"RW",
        b"NOACCESS",
        b"FLAT",
        b"ZERO",
        b"CID",
        b"parentCID",
        b"version",
        b"ddb.",
        b"uuid",
        b"#DDB",
        b"ddb.geometry.heads",
        b"isNativeSnapshot",
        b"=",
        b"\"",
        b"\"a\"",
        b" ",
        b"\t",
        b"\n",
        b"\r",
        b"\r\n",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff",
        b"0",
        b"63",
        b"18446744073709551615",
        b"# Disk Descriptor",
    ];

    #[derive(Clone, Debug)]
    enum Line {
        Kept(String),
        Header(String, String),
        Database(String, String),
        Extent(u64, String, u64),
    }

    fn line() -> impl Strategy<Value = Line> {
        let value = "[ !#-~\u{e4}]{0,12}";
        prop_oneof![
            "([ \t]{0,3}|# c[ -~]{0,20}|u[a-z]{0,9}( [a-z]{1,9})?)".prop_map(Line::Kept),
            ("(CID|createType|k[a-z]?)", value).prop_map(|(key, value)| Line::Header(key, value)),
            ("[a-z]{1,3}(\\.[a-z])?", value).prop_map(|(key, value)| Line::Database(key, value)),
            (1..1_u64 << 40, "[ !#-~\u{e4}]{0,12}", 0..1_u64 << 40).prop_map(|(n, name, at)| Line::Extent(n, name, at)),
        ]
    }

    impl fmt::Display for Line {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::Kept(text) => write!(f, "{text}"),
                Self::Header(key, value) => write!(f, "{key}=\"{value}\""),
                Self::Database(key, value) => write!(f, "ddb.{key} = \"{value}\""),
                Self::Extent(sectors, name, offset) => write!(f, "RW {sectors} FLAT \"{name}\" {offset}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(text in prop::collection::vec(any::<u8>(), 0..400)) {
            exercise(&text);
        }

        #[test]
        fn no_mix_of_tokens_makes_the_parser_panic(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..60)) {
            exercise(&tokens.concat());
        }

        #[test]
        fn every_line_of_any_mix_is_kept_and_every_known_line_is_read(
            lines in prop::collection::vec((line(), prop::bool::ANY), 0..40),
            bom in prop::bool::ANY,
        ) {
            let mut text = if bom { "\u{feff}".to_owned() } else { String::new() };
            for (line, crlf) in &lines {
                text.extend([line.to_string().as_str(), if *crlf { "\r\n" } else { "\n" }]);
            }
            let model = Descriptor::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(model.as_bytes(), text.as_bytes());

            let mut extents = model.extents().iter();
            let mut database = model.ddb_entries();
            for (number, (line, _)) in lines.iter().enumerate() {
                match line {
                    Line::Kept(_) => {}
                    Line::Header(key, _) => {
                        let first = lines.iter().find_map(|(line, _)| match line {
                            Line::Header(other, value) if other == key => Some(value.as_bytes()),
                            _ => None,
                        });
                        prop_assert_eq!(model.header(key), first);
                    }
                    Line::Database(key, value) => {
                        prop_assert_eq!(database.next(), Some((key.as_bytes(), value.as_bytes())));
                    }
                    Line::Extent(sectors, name, offset) => {
                        let extent = extents.next().unwrap();
                        prop_assert_eq!((extent.sectors(), extent.offset()), (*sectors, *offset));
                        prop_assert_eq!((extent.line(), extent.name()), (number + 1, Some(name.as_bytes())));
                    }
                }
            }
            prop_assert!(extents.next().is_none() && database.next().is_none());
        }
    }
}
