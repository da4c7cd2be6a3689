//! What a new image will consist of: everything that can be refused is refused here, before anything is made.

use super::CreateOptions;
use super::names::{check_name, extent_name};
use crate::descriptor::{
    AdapterType, ContentId, CreateType, ExtentKind, Geometry, MAX_DESCRIPTOR_LEN, NewDatabase, NewDescriptor,
    NewExtentLine, NewParent,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Blank, KdmvHeader, STREAM_GRAIN_SECTORS};
use crate::random::random;
use crate::sector::{MAX_SECTORS, SECTOR_SIZE, to_usize};

/// Sectors of an embedded descriptor, as VMware and QEMU have it.
const EMBEDDED_SECTORS: u64 = 20;

/// The largest extent of a disk that is split, in sectors: 2047 MiB, as in VMware's technical note.
pub(crate) const SPLIT_SECTORS: u64 = 4_192_256;

/// More extents than fit into any descriptor.
pub(crate) const MAX_EXTENTS: u64 = 64 << 10;

/// Sectors of a grain unless the caller says otherwise.
const KDMV_GRAIN: u64 = 128;
const COWD_GRAIN: u64 = 1;

/// `ddb.virtualHWVersion` unless the caller says otherwise: what every product takes.
const HARDWARE_VERSION: u32 = 4;

/// What zlib has to offer. Level 0 compresses nothing.
const LEVELS: std::ops::RangeInclusive<u32> = 1..=9;

/// The first bytes of an identity that VMware hands out.
const DISK_ID: [u8; 3] = [0x60, 0x00, 0xc2];

/// What a delta says of its parent.
pub(crate) struct Parent<'a> {
    pub(crate) content_id: ContentId,
    /// Its name, as seen from the directory of the child.
    pub(crate) hint: String,
    pub(crate) capacity: u64,
    /// What kind of disk it is, if it says so.
    pub(crate) create_type: Option<&'a CreateType>,
}

/// The files of a new image.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The name of the file with the descriptor.
    pub(crate) name: String,
    pub(crate) text: String,
    /// In their order on the disk.
    pub(crate) extents: Vec<PlannedExtent>,
}

/// The file of an extent.
#[derive(Debug)]
pub(crate) struct PlannedExtent {
    pub(crate) name: String,
    pub(crate) body: Body,
}

/// What is in the file of a new extent.
#[derive(Debug)]
pub(crate) enum Body {
    /// The metadata of a sparse extent. If it has room for a descriptor, that is in there.
    Sparse(Blank),
    /// So many sectors of zeros, with their space reserved or without.
    Flat { sectors: u64, reserve: bool },
    /// Compressed grains behind this header, the descriptor and the tables.
    Stream(KdmvHeader),
}

/// How the extents of a type are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Kdmv { embedded: bool },
    Cowd,
    Flat(ExtentKind),
    Stream,
}

impl Plan {
    /// What `options` ask for, as an image called `name`.
    ///
    /// # Errors
    /// `InvalidInput` for what no image can be, `Unsupported` for a type that is not created.
    pub(crate) fn new(options: &CreateOptions, name: &str, parent: Option<Parent<'_>>) -> Result<Self> {
        let create_type = match (&options.create_type, &parent) {
            (Some(create_type), _) => create_type.canonical(),
            (None, Some(parent)) => child_type(parent),
            (None, None) => CreateType::MonolithicSparse,
        };
        let form = form_of(&create_type)?;
        check_name(name)?;
        check(options, &create_type, form, parent.is_some())?;
        let capacity = capacity(options, parent.as_ref())?;
        let sizes = split(&create_type, capacity)?;
        let names = (1..).map(|number| extent_name(name, &create_type, number));
        let is_base = parent.is_none();
        let database = if is_base { full_database(options, form, capacity) } else { options.database() };
        let root = database.geometry.filter(|_| is_base);
        let body = |sectors| body(options, form, sectors, root);
        let extents = sizes.iter().zip(names).map(|(&sectors, name)| Ok(PlannedExtent { name, body: body(sectors)? }));
        let extents = extents.collect::<Result<Vec<_>>>()?;
        let lines = sizes.iter().zip(&extents);
        let lines =
            lines.map(|(&sectors, extent)| NewExtentLine { sectors, kind: form.kind(), name: extent.name.clone() });
        let [id, high, low] = random();
        let descriptor = NewDescriptor {
            create_type,
            content_id: new_content_id(id),
            long_content_id: u128::from(high) << 64 | u128::from(low),
            parent: parent.map(|parent| NewParent { content_id: parent.content_id, hint: parent.hint }),
            extents: lines.collect(),
            database,
        };
        let text = descriptor.compose()?;
        check_room(&text, form)?;
        Ok(Self { name: name.to_owned(), text, extents })
    }

    /// What a stream begins with.
    ///
    /// # Errors
    /// `Unsupported` if this is no stream.
    pub(crate) fn stream_header(&self) -> Result<KdmvHeader> {
        match &*self.extents {
            [PlannedExtent { body: Body::Stream(header), .. }] => Ok(header.clone()),
            _ => Err(Error::text(ErrorKind::Unsupported, "only streamOptimized disks are streams")),
        }
    }

    /// Whether this is written once, by a writer of its own.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(&*self.extents, [PlannedExtent { body: Body::Stream(_), .. }])
    }

    /// Whether the descriptor is in the file of the extent.
    pub(crate) fn is_embedded(&self) -> bool {
        self.extents.first().is_some_and(|extent| extent.name == self.name)
    }

    /// The names of all files, the one with the descriptor last.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let own = std::iter::once(&*self.name).filter(|_| !self.is_embedded());
        self.extents.iter().map(|extent| &*extent.name).chain(own)
    }
}

impl Form {
    fn kind(self) -> ExtentKind {
        match self {
            Self::Kdmv { .. } | Self::Stream => ExtentKind::Sparse,
            Self::Cowd => ExtentKind::VmfsSparse,
            Self::Flat(kind) => kind,
        }
    }

    fn is_flat(self) -> bool {
        matches!(self, Self::Flat(_))
    }
}

fn form_of(create_type: &CreateType) -> Result<Form> {
    Ok(match create_type {
        CreateType::MonolithicSparse => Form::Kdmv { embedded: true },
        CreateType::TwoGbMaxExtentSparse => Form::Kdmv { embedded: false },
        CreateType::MonolithicFlat | CreateType::TwoGbMaxExtentFlat => Form::Flat(ExtentKind::Flat),
        CreateType::Vmfs => Form::Flat(ExtentKind::Vmfs),
        CreateType::VmfsSparse => Form::Cowd,
        CreateType::StreamOptimized => Form::Stream,
        other => {
            let text = format!("disks of the type {other} are not created");
            return Err(Error::text(ErrorKind::Unsupported, text));
        }
    })
}

/// The type of a delta: in one file or split like its parent, and of the family of products that its parent is of, as
/// far as that has types for its size.
fn child_type(parent: &Parent<'_>) -> CreateType {
    match parent.create_type.map(CreateType::canonical) {
        Some(CreateType::TwoGbMaxExtentSparse | CreateType::TwoGbMaxExtentFlat) => CreateType::TwoGbMaxExtentSparse,
        Some(CreateType::Vmfs | CreateType::VmfsSparse | CreateType::VmfsRdm | CreateType::VmfsRaw)
            if parent.capacity <= u32::MAX.into() =>
        {
            CreateType::VmfsSparse
        }
        _ => CreateType::MonolithicSparse,
    }
}

/// Refuses options that contradict each other.
fn check(options: &CreateOptions, create_type: &CreateType, form: Form, is_child: bool) -> Result<()> {
    if is_child && form.is_flat() {
        return refused(format!("a child of the type {create_type}: only sparse disks have parents"));
    }
    if is_child && form == Form::Stream {
        let text = format!("children of the type {create_type} are not created: no product but QEMU opens one");
        return Err(Error::text(ErrorKind::Unsupported, text));
    }
    if form == Form::Stream && options.grain_sectors.is_some_and(|sectors| sectors != STREAM_GRAIN_SECTORS) {
        return refused(format!("a grain size for a disk of the type {create_type}, whose grains have 128 sectors"));
    }
    match options.compression_level {
        Some(level) if form != Form::Stream => {
            return refused(format!(
                "compression at level {level} in a disk of the type {create_type}, which has none"
            ));
        }
        Some(level) if !LEVELS.contains(&level) => {
            return refused(format!("compression at level {level}; levels are 1 to 9"));
        }
        _ => {}
    }
    if options.zero_grains && !matches!(form, Form::Kdmv { .. }) {
        return refused(format!("zero grains in a disk of the type {create_type}, which has no entry for them"));
    }
    if options.grain_sectors.is_some() && form.is_flat() {
        return refused(format!("a grain size for a disk of the type {create_type}, which has no grains"));
    }
    if options.preallocate && !form.is_flat() {
        return refused(format!("a disk of the type {create_type} that is preallocated: it grows as it is written"));
    }
    if let Some(geometry) = options.geometry.filter(|chs| chs.cylinders == 0 || chs.heads == 0 || chs.sectors == 0) {
        return refused(format!("a geometry of {geometry}"));
    }
    Ok(())
}

fn capacity(options: &CreateOptions, parent: Option<&Parent<'_>>) -> Result<u64> {
    let capacity = match (options.capacity_sectors, parent) {
        (Some(asked), Some(parent)) if asked != parent.capacity => {
            let of_parent = parent.capacity;
            return refused(format!("a delta of {asked} sectors; it has as many as its parent, {of_parent}"));
        }
        (_, Some(parent)) => parent.capacity,
        (Some(asked), None) => asked,
        (None, None) => return refused("a new disk needs a capacity".to_owned()),
    };
    if capacity == 0 || capacity > MAX_SECTORS {
        return refused(format!("a disk of {capacity} sectors; it has 1 to {MAX_SECTORS}"));
    }
    Ok(capacity)
}

/// The sizes of the extents.
fn split(create_type: &CreateType, capacity: u64) -> Result<Vec<u64>> {
    if !matches!(create_type, CreateType::TwoGbMaxExtentSparse | CreateType::TwoGbMaxExtentFlat) {
        return Ok(vec![capacity]);
    }
    let count = capacity.div_ceil(SPLIT_SECTORS);
    if count > MAX_EXTENTS {
        return refused(format!("a disk of {capacity} sectors in {count} extents, for which no descriptor has room"));
    }
    Ok((0..count).map(|number| SPLIT_SECTORS.min(capacity - number * SPLIT_SECTORS)).collect())
}

fn body(options: &CreateOptions, form: Form, sectors: u64, root: Option<Geometry>) -> Result<Body> {
    Ok(match form {
        Form::Kdmv { embedded } => {
            let descriptor = if embedded { EMBEDDED_SECTORS } else { 0 };
            let grain = options.grain_sectors.unwrap_or(KDMV_GRAIN);
            Body::Sparse(Blank::kdmv(sectors, grain, descriptor, options.zero_grains)?)
        }
        Form::Cowd => {
            let root = root.map(|chs| [chs.cylinders, chs.heads, chs.sectors]);
            Body::Sparse(Blank::cowd(sectors, options.grain_sectors.unwrap_or(COWD_GRAIN), root)?)
        }
        Form::Stream => Body::Stream(KdmvHeader::of_new_stream(sectors, EMBEDDED_SECTORS)?),
        Form::Flat(_) => Body::Flat { sectors, reserve: options.preallocate },
    })
}

/// The database of a disk without a parent.
fn full_database(options: &CreateOptions, form: Form, capacity: u64) -> NewDatabase {
    let is_scsi = matches!(form, Form::Cowd | Form::Stream | Form::Flat(ExtentKind::Vmfs));
    let adapter = if is_scsi { AdapterType::LsiLogic } else { AdapterType::Ide };
    let adapter = options.adapter_type.clone().unwrap_or(adapter);
    NewDatabase {
        geometry: options.geometry.or_else(|| Some(Geometry::of_disk(&adapter, capacity))),
        adapter_type: Some(adapter),
        disk_id: options.disk_id.or_else(|| Some(new_disk_id())),
        hardware_version: options.hardware_version.or(Some(HARDWARE_VERSION)),
        is_thin: form == Form::Flat(ExtentKind::Vmfs) && !options.preallocate,
        has_tools_type: form == Form::Stream,
    }
}

/// A content ID that is neither of the two with a meaning.
fn new_content_id(random: u64) -> ContentId {
    let [a, b, c, d, ..] = random.to_le_bytes();
    ContentId::new(u32::from_le_bytes([a, b, c, d]).min(0xffff_fffd))
}

/// An identity as VMware hands them out: `60 00 C2 9x` and random bytes.
pub(crate) fn new_disk_id() -> [u8; 16] {
    let [a, b] = random();
    let mut id = (u128::from(a) << 64 | u128::from(b)).to_be_bytes();
    id[..3].copy_from_slice(&DISK_ID);
    id[3] = 0x90 | id[3] & 0x0f;
    id
}

fn check_room(text: &str, form: Form) -> Result<()> {
    let room = match form {
        Form::Kdmv { embedded: true } | Form::Stream => to_usize(EMBEDDED_SECTORS) * SECTOR_SIZE,
        _ => MAX_DESCRIPTOR_LEN,
    };
    // A zero byte ends an embedded one, and QEMU reads one byte less than the limit of a separate one.
    if text.len() >= room {
        let len = text.len();
        return refused(format!("the descriptor would have {len} bytes, where there is room for {}", room - 1));
    }
    Ok(())
}

fn refused<T>(text: String) -> Result<T> {
    Err(Error::text(ErrorKind::InvalidInput, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One says that there is no parent, the other that nothing was ever written.
    #[test]
    fn a_content_id_is_never_one_of_those_with_a_meaning() {
        for (random, id) in [(0, 0), (0xffff_fffd, 0xffff_fffd), (0xffff_fffe, 0xffff_fffd), (u64::MAX, 0xffff_fffd)] {
            assert_eq!(new_content_id(random), ContentId::new(id));
        }
    }
}
