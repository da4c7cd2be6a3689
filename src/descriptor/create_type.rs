//! What kind of link a descriptor says it describes.

use std::fmt;

/// The `createType` of a link. Several names are synonyms; each is kept as it was written, and
/// [`canonical`](Self::canonical) folds them.
///
/// What is really in the extents is said by their own lines. The type tells tools how a disk was made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CreateType {
    /// One growing file with the descriptor inside.
    MonolithicSparse,
    /// A descriptor and one preallocated file.
    MonolithicFlat,
    /// Growing files of 2 GiB at most. The VMware technical note also spells it `2GbMaxExtentSparse`.
    TwoGbMaxExtentSparse,
    /// Preallocated files of 2 GiB at most, also `2GbMaxExtentFlat`.
    TwoGbMaxExtentFlat,
    /// One compressed file, made to be streamed: the form of OVF packages.
    StreamOptimized,
    /// Any mix of extents, put together by hand or by another tool.
    Custom,
    /// A whole physical disk.
    FullDevice,
    /// Some partitions of a physical disk.
    PartitionedDevice,
    /// A preallocated or thin file on VMFS.
    Vmfs,
    /// Synonym of [`CreateType::Vmfs`].
    VmfsPreallocated,
    /// Synonym of [`CreateType::Vmfs`].
    VmfsEagerZeroedThick,
    /// Synonym of [`CreateType::Vmfs`].
    VmfsThin,
    /// Synonym of [`CreateType::Vmfs`], deprecated by VMware.
    VmfsThick,
    /// An ESX redo log: a child in a COWD file.
    VmfsSparse,
    /// An ESX child in a space-efficient sparse file.
    SeSparse,
    /// Synonym of [`CreateType::SeSparse`], the spelling of the VMware technical note.
    VmfsSeSparse,
    /// A child that is an object on vSAN.
    VsanSparse,
    /// A raw device mapping in virtual compatibility mode.
    VmfsRdm,
    /// Synonym of [`CreateType::VmfsRdm`], the one that real descriptors hold.
    VmfsRawDeviceMap,
    /// A raw device mapping in physical compatibility mode.
    VmfsRdmp,
    /// Synonym of [`CreateType::VmfsRdmp`], the one that real descriptors hold.
    VmfsPassthroughRawDeviceMap,
    /// A device of an ESX host.
    VmfsRaw,
    /// A type that this crate has no name for.
    Other(String),
}

/// All types that have a name of their own.
static NAMED: [CreateType; 22] = [
    CreateType::MonolithicSparse,
    CreateType::MonolithicFlat,
    CreateType::TwoGbMaxExtentSparse,
    CreateType::TwoGbMaxExtentFlat,
    CreateType::StreamOptimized,
    CreateType::Custom,
    CreateType::FullDevice,
    CreateType::PartitionedDevice,
    CreateType::Vmfs,
    CreateType::VmfsPreallocated,
    CreateType::VmfsEagerZeroedThick,
    CreateType::VmfsThin,
    CreateType::VmfsThick,
    CreateType::VmfsSparse,
    CreateType::SeSparse,
    CreateType::VmfsSeSparse,
    CreateType::VsanSparse,
    CreateType::VmfsRdm,
    CreateType::VmfsRawDeviceMap,
    CreateType::VmfsRdmp,
    CreateType::VmfsPassthroughRawDeviceMap,
    CreateType::VmfsRaw,
];

impl CreateType {
    /// The name as VMware spells it; that of [`CreateType::Other`] as it was written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::StreamOptimized => "streamOptimized",
            Self::Custom => "custom",
            Self::FullDevice => "fullDevice",
            Self::PartitionedDevice => "partitionedDevice",
            Self::Vmfs => "vmfs",
            Self::VmfsPreallocated => "vmfsPreallocated",
            Self::VmfsEagerZeroedThick => "vmfsEagerZeroedThick",
            Self::VmfsThin => "vmfsThin",
            Self::VmfsThick => "vmfsThick",
            Self::VmfsSparse => "vmfsSparse",
            Self::SeSparse => "seSparse",
            Self::VmfsSeSparse => "vmfsSeSparse",
            Self::VsanSparse => "vsanSparse",
            Self::VmfsRdm => "vmfsRDM",
            Self::VmfsRawDeviceMap => "vmfsRawDeviceMap",
            Self::VmfsRdmp => "vmfsRDMP",
            Self::VmfsPassthroughRawDeviceMap => "vmfsPassthroughRawDeviceMap",
            Self::VmfsRaw => "vmfsRaw",
            Self::Other(name) => name,
        }
    }

    /// The type that this one is a synonym of; itself if it is none.
    #[must_use]
    pub fn canonical(&self) -> Self {
        match self {
            Self::VmfsPreallocated | Self::VmfsEagerZeroedThick | Self::VmfsThin | Self::VmfsThick => Self::Vmfs,
            Self::VmfsSeSparse => Self::SeSparse,
            Self::VmfsRawDeviceMap => Self::VmfsRdm,
            Self::VmfsPassthroughRawDeviceMap => Self::VmfsRdmp,
            other => other.clone(),
        }
    }

    /// Whether the data of such a disk is on a device that ESX knows: a raw device map.
    pub(crate) fn is_raw_map(&self) -> bool {
        matches!(self.canonical(), Self::VmfsRdm | Self::VmfsRdmp | Self::VmfsRaw)
    }

    pub(crate) fn parse(name: &[u8]) -> Self {
        if name.eq_ignore_ascii_case(b"2GbMaxExtentSparse") {
            return Self::TwoGbMaxExtentSparse;
        }
        if name.eq_ignore_ascii_case(b"2GbMaxExtentFlat") {
            return Self::TwoGbMaxExtentFlat;
        }
        let named = NAMED.iter().find(|named| name.eq_ignore_ascii_case(named.as_str().as_bytes()));
        named.cloned().unwrap_or_else(|| Self::Other(String::from_utf8_lossy(name).into_owned()))
    }
}

/// The type with this name, whatever its case; [`CreateType::Other`] for one that is not known.
impl From<&str> for CreateType {
    fn from(name: &str) -> Self {
        Self::parse(name.as_bytes())
    }
}

impl fmt::Display for CreateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_whatever_its_case() {
        for named in &NAMED {
            assert_eq!(&CreateType::parse(named.as_str().as_bytes()), named);
            assert_eq!(&CreateType::parse(named.as_str().to_uppercase().as_bytes()), named);
        }
    }

    #[test]
    fn the_spelling_with_a_digit_is_the_same_type() {
        assert_eq!(CreateType::parse(b"2GbMaxExtentSparse"), CreateType::TwoGbMaxExtentSparse);
        assert_eq!(CreateType::parse(b"2gbmaxextentflat").to_string(), "twoGbMaxExtentFlat");
    }

    #[test]
    fn a_synonym_keeps_its_name_and_knows_what_it_means() {
        let thin = CreateType::parse(b"vmfsThin");
        assert_eq!(thin.as_str(), "vmfsThin");
        assert_eq!(thin.canonical(), CreateType::Vmfs);
        assert_eq!(CreateType::VmfsRawDeviceMap.canonical(), CreateType::VmfsRdm);
        assert_eq!(CreateType::VmfsSparse.canonical(), CreateType::VmfsSparse);
    }

    #[test]
    fn an_unknown_type_keeps_its_text() {
        assert_eq!(CreateType::parse(b"monolithicFoo").as_str(), "monolithicFoo");
        assert_eq!(CreateType::parse(b"\xff").as_str(), "\u{fffd}");
    }
}
