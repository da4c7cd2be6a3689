//! The disk database: the `ddb.` keys, which describe the disk to the machine it is attached to.
//!
//! In a chain the answer is that of the youngest link that has the key (VMware technical note); here each link
//! answers for itself.

use std::fmt;

use super::scan::{decimal, hex};
use super::{Descriptor, Geometry, Section};

/// The controller that a disk was made for (`ddb.adapterType`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdapterType {
    /// `ide`
    Ide,
    /// `buslogic`
    BusLogic,
    /// `lsilogic`
    LsiLogic,
    /// `legacyESX`
    LegacyEsx,
    /// A controller that this crate has no name for.
    Other(String),
}

impl AdapterType {
    /// The name as VMware spells it; that of [`AdapterType::Other`] as it was written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Ide => "ide",
            Self::BusLogic => "buslogic",
            Self::LsiLogic => "lsilogic",
            Self::LegacyEsx => "legacyESX",
            Self::Other(name) => name,
        }
    }

    pub(crate) fn parse(name: &[u8]) -> Self {
        let named = [Self::Ide, Self::BusLogic, Self::LsiLogic, Self::LegacyEsx];
        let found = named.into_iter().find(|adapter| name.eq_ignore_ascii_case(adapter.as_str().as_bytes()));
        found.unwrap_or_else(|| Self::Other(String::from_utf8_lossy(name).into_owned()))
    }
}

/// The controller with this name, whatever its case; [`AdapterType::Other`] for one that is not known.
impl From<&str> for AdapterType {
    fn from(name: &str) -> Self {
        Self::parse(name.as_bytes())
    }
}

impl fmt::Display for AdapterType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Descriptor {
    /// The value of the database key `ddb.name`; `name` comes without `ddb.` and is compared without case.
    ///
    /// Keys that follow a `#DDB` line without the prefix count as well (seen in vSphere exports), except those that
    /// are header keys.
    pub fn ddb(&self, name: &str) -> Option<&[u8]> {
        self.find(Section::Database, name).map(|entry| self.value(entry))
    }

    /// Names (without `ddb.`) and values of the database in the order of the text, repeated ones included.
    pub fn ddb_entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let database = self.entries.iter().filter(|entry| entry.section == Section::Database);
        database.map(|entry| (&self.text[entry.key.clone()], self.value(entry)))
    }

    /// `ddb.longContentID`: 32 hexadecimal digits, of which the last eight should be the content ID, and often are not.
    /// `None` as well if the value is anything else.
    pub fn long_content_id(&self) -> Option<u128> {
        self.ddb("longContentID").filter(|digits| digits.len() == 32).and_then(hex)
    }

    /// `ddb.geometry.*`; `None` unless all three numbers are there. They need not make sense: see [`Geometry`].
    pub fn geometry(&self) -> Option<Geometry> {
        self.chs(["geometry.cylinders", "geometry.heads", "geometry.sectors"])
    }

    /// `ddb.geometry.bios*`, the geometry that the BIOS shows; VirtualBox writes it, and VMware for physical disks.
    pub fn bios_geometry(&self) -> Option<Geometry> {
        self.chs(["geometry.biosCylinders", "geometry.biosHeads", "geometry.biosSectors"])
    }

    /// `ddb.adapterType`.
    pub fn adapter_type(&self) -> Option<AdapterType> {
        self.ddb("adapterType").map(AdapterType::parse)
    }

    /// `ddb.uuid`: 16 bytes, written as `60 00 C2 9x xx xx xx xx-xx xx xx xx xx xx xx xx`. `None` as well if the value
    /// is anything but 32 hexadecimal digits, spaced in whatever way.
    pub fn disk_id(&self) -> Option<[u8; 16]> {
        let value = self.ddb("uuid")?;
        let digits: Vec<u8> = value.iter().copied().filter(|byte| !matches!(byte, b' ' | b'-')).take(33).collect();
        if digits.len() == 32 { hex(&digits).map(u128::to_be_bytes) } else { None }
    }

    /// `ddb.virtualHWVersion`: the virtual hardware that the disk was made for. `None` as well if it is no number.
    pub fn hardware_version(&self) -> Option<u32> {
        self.ddb_number("virtualHWVersion")
    }

    fn chs(&self, [cylinders, heads, sectors]: [&str; 3]) -> Option<Geometry> {
        Some(Geometry::new(self.ddb_number(cylinders)?, self.ddb_number(heads)?, self.ddb_number(sectors)?))
    }

    fn ddb_number(&self, name: &str) -> Option<u32> {
        decimal(self.ddb(name)?)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(database: &str) -> Descriptor {
        Descriptor::parse(format!("# Disk DescriptorFile\nversion=1\n#DDB\n{database}").as_bytes()).unwrap()
    }

    #[test]
    fn a_database_as_vmware_writes_it_is_read() {
        let disk = parse(
            "ddb.adapterType = \"lsilogic\"\n\
             ddb.geometry.cylinders = \"5221\"\n\
             ddb.geometry.heads = \"255\"\n\
             ddb.geometry.sectors = \"63\"\n\
             ddb.longContentID = \"a4b8f218877c162762bbc160cee4a7b7\"\n\
             ddb.uuid = \"60 00 C2 9e 32 c9 d7 63-c9 0a 44 b0 00 89 79 6e\"\n\
             ddb.virtualHWVersion = \"14\"\n",
        );
        assert_eq!(disk.adapter_type(), Some(AdapterType::LsiLogic));
        assert_eq!(disk.geometry(), Some(Geometry::new(5221, 255, 63)));
        assert_eq!(disk.bios_geometry(), None);
        assert_eq!(disk.long_content_id(), Some(0xa4b8_f218_877c_1627_62bb_c160_cee4_a7b7));
        let id = [0x60, 0, 0xc2, 0x9e, 0x32, 0xc9, 0xd7, 0x63, 0xc9, 0x0a, 0x44, 0xb0, 0, 0x89, 0x79, 0x6e];
        assert_eq!(disk.disk_id(), Some(id));
        assert_eq!(disk.hardware_version(), Some(14));
    }

    #[test]
    fn keys_are_found_whatever_their_case_and_spacing() {
        let disk = parse(
            "DDB.ADAPTERTYPE=\"LegacyESX\"\nddb.Geometry.BiosCylinders=1\n ddb.geometry.biosheads\t=\t2\t\r\nddb.geometry.biosSectors=3",
        );
        assert_eq!(disk.adapter_type(), Some(AdapterType::LegacyEsx));
        assert_eq!(disk.bios_geometry(), Some(Geometry::new(1, 2, 3)));
    }

    #[test]
    fn keys_without_the_prefix_count_after_the_ddb_line_only() {
        let disk = Descriptor::parse(
            b"version=1\nadapterType=\"buslogic\"\n# ddb \nadapterType = \"ide\"\nddb.uuid.image = \"x\"\ncid = 12\n",
        );
        let disk = disk.unwrap();
        assert_eq!(disk.adapter_type(), Some(AdapterType::Ide));
        assert_eq!(disk.header("adapterType"), Some(&b"buslogic"[..]));
        assert_eq!(disk.ddb("cid"), None);
        assert_eq!(disk.content_id().unwrap().value(), 0x12);
        let entries: Vec<_> = disk.ddb_entries().collect();
        assert_eq!(entries, [(&b"adapterType"[..], &b"ide"[..]), (b"uuid.image", b"x")]);
    }

    #[test]
    fn an_odd_value_is_kept_as_text_and_is_no_number() {
        let disk = parse(
            "ddb.longContentID = \"\"\nddb.uuid = \"6uuid\"\nddb.virtualHWVersion = \"later\"\n\
             ddb.geometry.cylinders = \"4294967296\"\nddb.geometry.heads = \"1\"\nddb.geometry.sectors = \"1\"\n\
             ddb.adapterType = \"pvscsi\"\n",
        );
        assert_eq!((disk.long_content_id(), disk.disk_id(), disk.hardware_version()), (None, None, None));
        assert_eq!(disk.geometry(), None);
        assert_eq!(disk.ddb("virtualHWVersion"), Some(&b"later"[..]));
        assert_eq!(disk.adapter_type().unwrap().to_string(), "pvscsi");
    }
}
