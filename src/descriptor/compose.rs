//! The text of a new descriptor, in the form in which VMware writes it: the only one that every reader takes.

use std::borrow::Cow;
use std::fmt::Write;

use super::{AdapterType, ContentId, CreateType, ExtentKind, Geometry};
use crate::error::{Error, ErrorKind, Result};

/// `ddb.toolsVersion` of a disk on which nobody manages tools (QEMU, open-vmdk).
const UNMANAGED_TOOLS: u32 = i32::MAX.unsigned_abs();

/// `ddb.toolsInstallType` of the same (open-vmdk).
const UNMANAGED_INSTALL: u32 = 4;

/// What a new descriptor says. Names and texts may be anything: what cannot be expressed is refused.
#[derive(Clone, Debug)]
pub(crate) struct NewDescriptor {
    pub(crate) create_type: CreateType,
    pub(crate) content_id: ContentId,
    /// The 96 bits in front of the content ID in its long form.
    pub(crate) long_content_id: u128,
    pub(crate) parent: Option<NewParent>,
    /// In their order on the disk.
    pub(crate) extents: Vec<NewExtentLine>,
    pub(crate) database: NewDatabase,
}

/// The parent of a new link.
#[derive(Clone, Debug)]
pub(crate) struct NewParent {
    pub(crate) content_id: ContentId,
    /// Its name, as seen from the directory of the child.
    pub(crate) hint: String,
}

/// An extent of a new link, from the beginning of its file on.
#[derive(Clone, Debug)]
pub(crate) struct NewExtentLine {
    pub(crate) sectors: u64,
    pub(crate) kind: ExtentKind,
    pub(crate) name: String,
}

/// The disk database of a new link; what is `None` is left out. A delta has what its base has.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewDatabase {
    pub(crate) adapter_type: Option<AdapterType>,
    pub(crate) geometry: Option<Geometry>,
    pub(crate) disk_id: Option<[u8; 16]>,
    pub(crate) hardware_version: Option<u32>,
    pub(crate) is_thin: bool,
    /// Whether to say that nobody manages the tools, as open-vmdk does in streams.
    pub(crate) has_tools_type: bool,
}

impl NewDescriptor {
    /// The text.
    ///
    /// # Errors
    /// `InvalidInput` for a name that cannot be written between quotes.
    pub(crate) fn compose(&self) -> Result<String> {
        let mut text = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID={}\nparentCID={}\nisNativeSnapshot=\"no\"\n\
             createType={}\n",
            self.content_id,
            self.parent.as_ref().map_or(ContentId::NO_PARENT, |parent| parent.content_id),
            quoted("the type", self.create_type.as_str())?,
        );
        match &self.parent {
            // VMware leaves no blank line behind the hint.
            Some(parent) => {
                line(
                    &mut text,
                    format_args!("parentFileNameHint={}", quoted_name("the name of the parent", &parent.hint)?),
                );
            }
            None => text.push('\n'),
        }
        text.push_str("# Extent description\n");
        for extent in &self.extents {
            line(&mut text, format_args!("{}", extent.compose()?));
        }
        text.push_str("\n# The Disk Data Base \n#DDB\n\n");
        self.compose_database(&mut text)?;
        Ok(text)
    }

    /// The keys in the order of the alphabet, as VMware's products have them since about 2010.
    fn compose_database(&self, text: &mut String) -> Result<()> {
        let NewDatabase { adapter_type, geometry, disk_id, hardware_version, is_thin, has_tools_type } = &self.database;
        if let Some(adapter) = adapter_type {
            line(text, format_args!("ddb.adapterType = {}", quoted("the adapter type", adapter.as_str())?));
        }
        if let Some(Geometry { cylinders, heads, sectors }) = geometry {
            line(text, format_args!("ddb.geometry.cylinders = \"{cylinders}\""));
            line(text, format_args!("ddb.geometry.heads = \"{heads}\""));
            line(text, format_args!("ddb.geometry.sectors = \"{sectors}\""));
        }
        let long = self.long_content_id >> 32 << 32 | u128::from(self.content_id.value());
        line(text, format_args!("ddb.longContentID = \"{long:032x}\""));
        if *is_thin {
            line(text, format_args!("ddb.thinProvisioned = \"1\""));
        }
        if *has_tools_type {
            line(text, format_args!("ddb.toolsInstallType = \"{UNMANAGED_INSTALL}\""));
        }
        if hardware_version.is_some() {
            line(text, format_args!("ddb.toolsVersion = \"{UNMANAGED_TOOLS}\""));
        }
        if let Some(id) = disk_id {
            line(text, format_args!("ddb.uuid = \"{}\"", spaced(id)));
        }
        if let Some(version) = hardware_version {
            line(text, format_args!("ddb.virtualHWVersion = \"{version}\""));
        }
        Ok(())
    }
}

impl NewExtentLine {
    /// The line, without its end.
    pub(crate) fn compose(&self) -> Result<String> {
        let Self { sectors, kind, name } = self;
        let name = quoted_name("the name of an extent", name)?;
        // QEMU wants an offset for FLAT and refuses one for the others.
        let offset = if *kind == ExtentKind::Flat { " 0" } else { "" };
        Ok(format!("RW {sectors} {kind} {name}{offset}"))
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // A String takes everything.
    let _ = writeln!(text, "{content}");
}

/// The key that QEMU looks for anywhere in the text, also within a value.
const HINT: &str = "parentfilenamehint";

/// Whether a text can stand between quotes: there are no escapes.
pub(crate) fn is_quotable(text: &str) -> bool {
    !text.contains(|char: char| char == '"' || char.is_control()) && !text.to_ascii_lowercase().contains(HINT)
}

pub(super) fn quoted(what: &str, text: &str) -> Result<String> {
    if !is_quotable(text) {
        let problem = "a descriptor has no way to write a quote, a line end, a NUL or another control character, and \
                       the name of the parent's key is taken for that wherever it stands";
        return Err(Error::text(ErrorKind::InvalidInput, format!("{what} is {text:?}: {problem}")));
    }
    Ok(format!("\"{text}\""))
}

/// A name that no reader takes for anything but a relative path: QEMU takes what stands before a colon for a protocol,
/// Windows a letter before one for a drive, and a backslash in front for the root.
fn quoted_name(what: &str, name: &str) -> Result<String> {
    quoted(what, &relative(name))
}

/// The same without the quotes.
pub(crate) fn relative(name: &str) -> Cow<'_, str> {
    let first = name.split('/').next().unwrap_or_default();
    if first.contains(':') || name.starts_with(['\\', '[']) { format!("./{name}").into() } else { name.into() }
}

/// As in `60 00 C2 9e 32 c9 d7 63-c9 0a 44 b0 00 89 79 6e`: the number of VMware's own is in upper case.
pub(crate) fn spaced(id: &[u8; 16]) -> String {
    let byte = |(number, byte)| if number < 3 { format!("{byte:02X}") } else { format!("{byte:02x}") };
    let bytes: Vec<String> = id.iter().enumerate().map(byte).collect();
    [bytes[..8].join(" "), bytes[8..].join(" ")].join("-")
}

#[cfg(test)]
mod tests {
    use super::super::Descriptor;
    use super::*;
    use proptest::prelude::*;

    fn base() -> NewDescriptor {
        NewDescriptor {
            create_type: CreateType::MonolithicSparse,
            content_id: ContentId::new(0x0fae_c72e),
            long_content_id: 0x5817_54a0_f462_b4b0_3f6c_9e45_0000_0000,
            parent: None,
            extents: vec![NewExtentLine {
                sectors: 1_048_576,
                kind: ExtentKind::Sparse,
                name: "Filesystem.vmdk".to_owned(),
            }],
            database: NewDatabase {
                adapter_type: Some(AdapterType::Ide),
                geometry: Some(Geometry::new(1040, 16, 63)),
                disk_id: Some([0x60, 0, 0xc2, 0x9c, 0x1e, 0x8d, 0x52, 0x65, 0x83, 0xc7, 0xfc, 4, 0x5d, 6, 0x19, 0xfc]),
                hardware_version: Some(21),
                is_thin: false,
                has_tools_type: false,
            },
        }
    }

    /// But for the encoding, which is that of the host it was made on, for `isNativeSnapshot`, which newer products
    /// write, and for the version of tools, it is what Workstation has written.
    #[test]
    fn a_disk_is_described_as_workstation_does() {
        let expected = "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=0faec72e\nparentCID=ffffffff\n\
            isNativeSnapshot=\"no\"\ncreateType=\"monolithicSparse\"\n\n# Extent description\n\
            RW 1048576 SPARSE \"Filesystem.vmdk\"\n\n# The Disk Data Base \n#DDB\n\n\
            ddb.adapterType = \"ide\"\nddb.geometry.cylinders = \"1040\"\nddb.geometry.heads = \"16\"\n\
            ddb.geometry.sectors = \"63\"\nddb.longContentID = \"581754a0f462b4b03f6c9e450faec72e\"\n\
            ddb.toolsVersion = \"2147483647\"\n\
            ddb.uuid = \"60 00 C2 9c 1e 8d 52 65-83 c7 fc 04 5d 06 19 fc\"\nddb.virtualHWVersion = \"21\"\n";
        assert_eq!(base().compose().unwrap(), expected);
    }

    #[test]
    fn a_delta_is_described_as_esx_does() {
        let delta = NewDescriptor {
            create_type: CreateType::VmfsSparse,
            content_id: ContentId::new(0x9ab1_6ab9),
            long_content_id: 0xe6d6_c9b8_c716_4488_a10a_36b3_0000_0000,
            parent: Some(NewParent { content_id: ContentId::new(0xc3d4_fd75), hint: "android.vmdk".to_owned() }),
            extents: vec![NewExtentLine {
                sectors: 41_943_040,
                kind: ExtentKind::VmfsSparse,
                name: "android-000001-delta.vmdk".to_owned(),
            }],
            database: NewDatabase::default(),
        };
        let expected = "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=9ab16ab9\nparentCID=c3d4fd75\n\
            isNativeSnapshot=\"no\"\ncreateType=\"vmfsSparse\"\nparentFileNameHint=\"android.vmdk\"\n\
            # Extent description\nRW 41943040 VMFSSPARSE \"android-000001-delta.vmdk\"\n\n\
            # The Disk Data Base \n#DDB\n\nddb.longContentID = \"e6d6c9b8c7164488a10a36b39ab16ab9\"\n";
        assert_eq!(delta.compose().unwrap(), expected);
    }

    #[test]
    fn what_would_end_a_quote_or_a_line_is_refused() {
        for bad in
            ["parentFileNameHint==secret.vmdk", "a\"b", "a\nRW 1 FLAT \"/etc/passwd\" 0", "a\r", "a\0b", "a\u{85}b"]
        {
            let mut name = base();
            bad.clone_into(&mut name.extents[0].name);
            let mut hint = base();
            hint.parent = Some(NewParent { content_id: ContentId::new(1), hint: bad.to_owned() });
            let mut adapter = base();
            adapter.database.adapter_type = Some(AdapterType::Other(bad.to_owned()));
            for descriptor in [name, hint, adapter] {
                assert_eq!(descriptor.compose().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
            }
        }
    }

    #[test]
    fn no_name_is_taken_for_a_protocol_a_drive_or_a_datastore() {
        let written = |name| quoted_name("a name", name).unwrap();
        for name in ["nbd:a", "json:{}", "C:a.vmdk", "\\a", "[store] a.vmdk"] {
            assert_eq!(written(name), format!("\"./{name}\""));
        }
        for name in ["a.vmdk", "../b/a:c.vmdk", "b\\a"] {
            assert_eq!(written(name), format!("\"{name}\""));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            name in "[^\"\\p{Cc}]{1,40}",
            hint in proptest::option::of("[^\"\\p{Cc}]{1,40}"),
            id: u32,
            long: u128,
            disk_id: [u8; 16],
            cylinders: u32,
        ) {
            let mut new = base();
            new.extents[0].name.clone_from(&name);
            new.content_id = ContentId::new(id);
            new.long_content_id = long;
            new.parent = hint.clone().map(|hint| NewParent { content_id: ContentId::new(!id), hint });
            new.database.disk_id = Some(disk_id);
            new.database.geometry = Some(Geometry::new(cylinders, 255, 63));
            let read = Descriptor::parse(new.compose().unwrap().as_bytes()).unwrap();
            prop_assert_eq!(read.warnings(), [""; 0]);
            let plain = |name: &[u8]| {
                let name = read.decode_name(name).unwrap();
                name.strip_prefix("./").map_or(name.clone(), str::to_owned)
            };
            let bare = |name: &str| name.strip_prefix("./").unwrap_or(name).to_owned();
            prop_assert_eq!(plain(read.extents()[0].name().unwrap()), bare(&name));
            prop_assert_eq!(read.parent_hint().map(plain), hint.as_deref().map(bare));
            prop_assert_eq!(read.content_id(), Some(ContentId::new(id)));
            prop_assert_eq!(read.long_content_id(), Some(long >> 32 << 32 | u128::from(id)));
            prop_assert_eq!(read.disk_id(), Some(disk_id));
            prop_assert_eq!(read.geometry(), Some(Geometry::new(cylinders, 255, 63)));
            prop_assert_eq!(read.adapter_type(), Some(AdapterType::Ide));
            prop_assert_eq!(read.hardware_version(), Some(21));
        }
    }
}
