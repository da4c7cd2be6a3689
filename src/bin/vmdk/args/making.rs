//! How new disks are made.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use vmdk::{AdapterType, CreateOptions, CreateType, Geometry};

use crate::size;

const SECTOR: u64 = vmdk::SECTOR_SIZE as u64;

/// Types of disks that are made, with what they are.
const TYPES: [(CreateType, &str); 6] = [
    (CreateType::MonolithicSparse, "One file that grows"),
    (CreateType::MonolithicFlat, "A descriptor and one file of the whole size"),
    (CreateType::TwoGbMaxExtentSparse, "Files that grow to 2 GiB at most"),
    (CreateType::TwoGbMaxExtentFlat, "Files of 2 GiB at most"),
    (CreateType::Vmfs, "As monolithicFlat, for ESX"),
    (CreateType::VmfsSparse, "A delta of ESX"),
];

/// What is made only with its content, since it is written once.
const STREAM: (CreateType, &str) = (CreateType::StreamOptimized, "One compressed file, for OVF packages");

/// What a disk is converted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The bytes of the disk and nothing else.
    Raw,
    Disk(CreateType),
}

/// Reads the name of a type.
pub(super) fn types() -> impl TypedValueParser<Value = CreateType> {
    PossibleValuesParser::new(TYPES.iter().map(possible)).map(|name| CreateType::from(&*name))
}

/// The same for a delta; types that it cannot have are not shown.
pub(super) fn types_of_deltas() -> impl TypedValueParser<Value = CreateType> {
    let is_sparse = |create_type: &CreateType| create_type.as_str().ends_with("Sparse");
    let types = TYPES.iter().map(|named| possible(named).hide(!is_sparse(&named.0)));
    PossibleValuesParser::new(types).map(|name| CreateType::from(&*name))
}

/// Reads the name of a type, or `raw`.
pub(super) fn formats() -> impl TypedValueParser<Value = Format> {
    let raw = PossibleValue::new("raw").help("The bytes of the disk and nothing else");
    let all = std::iter::once(raw).chain(TYPES.iter().chain([&STREAM]).map(possible));
    let read = |name: String| {
        if name.eq_ignore_ascii_case("raw") { Format::Raw } else { Format::Disk(CreateType::from(&*name)) }
    };
    PossibleValuesParser::new(all).map(read)
}

fn possible((create_type, help): &'static (CreateType, &'static str)) -> PossibleValue {
    PossibleValue::new(create_type.as_str()).help(*help)
}

/// How the files of a new disk are made.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "The new disk")]
pub(crate) struct NewArgs {
    /// The size of a grain of a sparse disk, a power of two: 4K to 64K (64K), for vmfsSparse 512 to 1M (512)
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) grain: Option<u64>,
    /// Let entries say that a grain is zero; VirtualBox does not read such disks
    #[arg(long)]
    pub(crate) zero_grains: bool,
    /// Replace files that exist
    #[arg(long)]
    pub(crate) replace: bool,
}

/// How a stream is compressed.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "The new disk")]
pub(crate) struct StreamArgs {
    /// How small a streamOptimized disk is to be: 1 (fastest) to 9 (smallest)
    #[arg(long, value_name = "NUMBER")]
    pub(crate) level: Option<u32>,
}

/// What a new disk says of itself.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "The new disk")]
pub(crate) struct DiskArgs {
    /// The controller that the disk is made for
    #[arg(long, value_name = "NAME", value_parser = adapter)]
    pub(crate) adapter: Option<AdapterType>,
    /// The virtual hardware that the disk is made for
    #[arg(long, value_name = "NUMBER")]
    pub(crate) hardware_version: Option<u32>,
    /// Cylinders, heads and sectors per track
    #[arg(long, value_name = "C/H/S", value_parser = geometry)]
    pub(crate) geometry: Option<Geometry>,
    /// The identity of the disk: 32 hexadecimal digits, with blanks and dashes between them or without
    #[arg(long, value_name = "UUID", value_parser = identity)]
    pub(crate) uuid: Option<Identity>,
    /// Reserve the space of a flat disk now
    #[arg(long)]
    pub(crate) preallocate: bool,
}

/// The parent of a copy.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "The new disk")]
pub(crate) struct ChildArgs {
    /// Make a delta of the disk FILE, with nothing but what differs from that
    #[arg(long, value_name = "FILE")]
    pub(crate) parent: Option<PathBuf>,
}

/// The 16 bytes of `ddb.uuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity([u8; 16]);

impl NewArgs {
    pub(crate) fn options(&self, options: CreateOptions) -> Result<CreateOptions, String> {
        let options = options.zero_grains(self.zero_grains).replace(self.replace);
        Ok(match self.grain {
            Some(bytes) if !bytes.is_multiple_of(SECTOR) => {
                return Err(format!("a grain of {bytes} bytes is not a whole number of sectors of 512 bytes"));
            }
            Some(bytes) => options.grain_sectors(bytes / SECTOR),
            None => options,
        })
    }

    /// Whether something was given that a raw file does not have.
    pub(crate) fn is_given(&self) -> bool {
        self.grain.is_some() || self.zero_grains || self.replace
    }
}

impl StreamArgs {
    pub(crate) fn options(&self, options: CreateOptions) -> CreateOptions {
        match self.level {
            Some(level) => options.compression_level(level),
            None => options,
        }
    }

    /// Whether something was given that a raw file does not have.
    pub(crate) fn is_given(&self) -> bool {
        self.level.is_some()
    }
}

impl DiskArgs {
    pub(crate) fn options(&self, mut options: CreateOptions) -> CreateOptions {
        if let Some(adapter) = &self.adapter {
            options = options.adapter_type(adapter.clone());
        }
        if let Some(version) = self.hardware_version {
            options = options.hardware_version(version);
        }
        if let Some(geometry) = self.geometry {
            options = options.geometry(geometry);
        }
        if let Some(Identity(id)) = self.uuid {
            options = options.disk_id(id);
        }
        options.preallocate(self.preallocate)
    }

    /// Whether something was given that a raw file does not have.
    pub(crate) fn is_given(&self) -> bool {
        let Self { adapter, hardware_version, geometry, uuid, preallocate } = self;
        adapter.is_some() || hardware_version.is_some() || geometry.is_some() || uuid.is_some() || *preallocate
    }
}

fn adapter(name: &str) -> Result<AdapterType, String> {
    match AdapterType::from(name) {
        AdapterType::Other(_) => Err("one of ide, buslogic, lsilogic and legacyESX; what other SCSI controllers have \
                                      is stored as lsilogic"
            .to_owned()),
        known => Ok(known),
    }
}

fn geometry(text: &str) -> Result<Geometry, String> {
    let numbers: Option<Vec<u32>> = text.split('/').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[cylinders, heads, sectors]) => Ok(Geometry::new(cylinders, heads, sectors)),
        _ => Err("three numbers with slashes between them, as in 1305/255/63".to_owned()),
    }
}

fn identity(text: &str) -> Result<Identity, String> {
    let digits: String = text.chars().filter(|char| !matches!(char, ' ' | '-')).collect();
    let is_hex = digits.len() == 32 && digits.chars().all(|char| char.is_ascii_hexdigit());
    let value = u128::from_str_radix(&digits, 16).ok().filter(|_| is_hex);
    value.map(|value| Identity(value.to_be_bytes())).ok_or_else(|| "32 hexadecimal digits are needed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_in_any_usual_form() {
        let id = Identity([0x60, 0, 0xc2, 0x9e, 0x32, 0xc9, 0xd7, 0x63, 0xc9, 0x0a, 0x44, 0xb0, 0, 0x89, 0x79, 0x6e]);
        for text in [
            "60 00 C2 9e 32 c9 d7 63-c9 0a 44 b0 00 89 79 6e",
            "6000C29e-32c9-d763-c90a-44b00089796e",
            "6000c29e32c9d763c90a44b00089796e",
        ] {
            assert_eq!(identity(text), Ok(id), "{text}");
        }
        for text in ["", "6000", "6000c29e32c9d763c90a44b00089796g", "+000c29e32c9d763c90a44b00089796e"] {
            assert!(identity(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_geometry_is_three_numbers() {
        assert_eq!(geometry("1305/255/63"), Ok(Geometry::new(1305, 255, 63)));
        for text in ["", "1/2", "1/2/3/4", "a/b/c", "-1/2/3"] {
            assert!(geometry(text).is_err(), "{text}");
        }
    }
}
