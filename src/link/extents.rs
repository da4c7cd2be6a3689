//! The extent lines of a descriptor, opened.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;

use super::sparse_file::{SparseFile, unsupported};
use super::{LinkOptions, raw_maps};
use crate::descriptor::{Access, CreateType, Descriptor, ExtentKind, ExtentLine};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Body, Extent, FlatExtent, HostFile};
use crate::format::SparseHeader;
use crate::locate::{Names, shown};
use crate::sector::SECTOR_BYTES;
use crate::storage::Purpose;

/// What the names of objects on vSAN begin with.
const VSAN: &str = "vsan://";

/// Refuses what cannot be read by its name, before the files of its extents are looked for.
pub(super) fn refuse_unsupported(descriptor: &Descriptor) -> Result<()> {
    descriptor.check_not_encrypted()?;
    let create_type = descriptor.create_type();
    if let Some(CreateType::VsanSparse) = create_type.map(CreateType::canonical) {
        let name = create_type.map_or("", CreateType::as_str);
        return Err(unsupported(&format!("a disk of the type {name}")));
    }
    Ok(())
}

/// A sparse extent in the file that holds the descriptor as well, or has none.
pub(super) struct OwnExtent<'a> {
    pub(super) file: &'a Arc<HostFile>,
    pub(super) header: &'a Arc<SparseHeader>,
    pub(super) options: LinkOptions<'a>,
}

impl OwnExtent<'_> {
    /// Opens it as an extent of `sectors` sectors, which may be fewer than the header's.
    pub(super) fn open(&self, access: Access, kind: ExtentKind, sectors: u64) -> Result<Extent> {
        if access == Access::NoAccess {
            let extent = Extent::new(access, kind, sectors, Body::Zero);
            return Ok(extent.with_header(Arc::clone(self.header)));
        }
        SparseFile::with_header(self.file, self.header, self.options)?.into_extent(access, kind, sectors)
    }
}

/// The files that the lines of one descriptor name, each opened once however many lines name it.
pub(super) struct NamedFiles<'a> {
    descriptor: &'a Descriptor,
    dir: &'a Path,
    options: LinkOptions<'a>,
    flat: HashMap<String, Arc<HostFile>>,
    mapped: HashMap<String, Arc<HostFile>>,
    sparse: HashMap<String, SparseFile>,
}

impl<'a> NamedFiles<'a> {
    /// The files that `descriptor`, which lies in `dir`, names.
    pub(super) fn new(descriptor: &'a Descriptor, dir: &'a Path, options: LinkOptions<'a>) -> Self {
        Self { descriptor, dir, options, flat: HashMap::new(), mapped: HashMap::new(), sparse: HashMap::new() }
    }

    /// Opens the extents of all lines; the first sparse one is `own`, if there is that.
    ///
    /// Those that are written come first: a line that reads the same file, by whatever name, then shares its handle.
    pub(super) fn open_all(mut self, own: Option<&OwnExtent<'_>>) -> Result<Vec<Extent>> {
        let lines = self.descriptor.extents();
        let own_line = own.and_then(|_| lines.iter().position(|line| line.kind() == ExtentKind::Sparse));
        let mut order: Vec<_> = lines.iter().enumerate().collect();
        order.sort_by_key(|(_, line)| !purpose(line.access(), self.options).writes());
        let extents = order.into_iter().map(|(number, line)| {
            let extent = match own {
                Some(own) if own_line == Some(number) => own.open(line.access(), line.kind(), line.sectors()),
                _ => self.open(line),
            };
            Ok((number, extent?))
        });
        let mut extents = extents.collect::<Result<Vec<_>>>()?;
        extents.sort_by_key(|(number, _)| *number);
        Ok(extents.into_iter().map(|(_, extent)| extent).collect())
    }

    fn open(&mut self, line: &ExtentLine) -> Result<Extent> {
        let (access, kind, sectors) = (line.access(), line.kind(), line.sectors());
        if kind == ExtentKind::Zero || access == Access::NoAccess {
            return Ok(Extent::new(access, kind, sectors, Body::Zero));
        }
        let name = self.descriptor.decode_name(line.name().unwrap_or_default())?;
        if matches!(kind, ExtentKind::Sparse | ExtentKind::VmfsSparse | ExtentKind::SeSparse) {
            return self.sparse(name, access)?.into_extent(access, kind, sectors);
        }
        let body = if self.descriptor.is_raw_map(line) { self.mapped(&name, line)? } else { self.flat(&name, line)? };
        Ok(Extent::new(access, kind, sectors, body))
    }

    fn flat(&mut self, name: &str, line: &ExtentLine) -> Result<Body> {
        let file = match self.flat.entry(name.to_owned()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(gap) => gap.insert(open_file(self.dir, name, line.access(), self.options)?),
        };
        let offset = line.offset().checked_mul(SECTOR_BYTES).filter(|&offset| offset <= file.len());
        let Some(offset) = offset else {
            let problem = format!("the offset lies past the end of {} ({} bytes)", file.path().display(), file.len());
            return Err(Error::line(line.line(), problem, line.offset().to_string().as_bytes()));
        };
        let is_device =
            matches!(self.descriptor.create_type(), Some(CreateType::FullDevice | CreateType::PartitionedDevice));
        let present = (file.len() - offset) / SECTOR_BYTES;
        if is_device && present < line.sectors() {
            // A device cannot have been cut short; it is another one.
            let text =
                format!("the extent has {} sectors, but the device only {present} from there on", line.sectors());
            return Err(Error::text(ErrorKind::Corrupt, text).in_file(file.path()));
        }
        Ok(Body::Flat(FlatExtent::new(Arc::clone(file), offset)))
    }

    /// An extent whose name means nothing here, in what the caller has given for it.
    fn mapped(&mut self, name: &str, line: &ExtentLine) -> Result<Body> {
        let map = self.options.raw_maps.find(name).ok_or_else(|| unsupported("a raw device map"))?;
        let purpose = purpose(line.access(), self.options);
        if purpose.writes() && !map.writable {
            return Err(raw_maps::read_only(name, &map.path));
        }
        let file = match self.mapped.entry(name.to_owned()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(gap) => {
                let opened = self.options.names.open_mapped(&map.path, purpose)?;
                gap.insert(Arc::new(HostFile::new(opened.path, opened.storage)?))
            }
        };
        // Neither product nor sum can wrap: see `ExtentLine::parse`.
        let (offset, end) = (line.offset() * SECTOR_BYTES, (line.offset() + line.sectors()) * SECTOR_BYTES);
        if file.len() < end {
            return Err(raw_maps::too_short(name, file.path(), file.len(), end));
        }
        Ok(Body::Flat(FlatExtent::new(Arc::clone(file), offset)))
    }

    fn sparse(&mut self, name: String, access: Access) -> Result<SparseFile> {
        match self.sparse.entry(name) {
            Entry::Occupied(there) => Ok(there.get().clone()),
            Entry::Vacant(gap) => {
                let file = open_file(self.dir, gap.key(), access, self.options)?;
                let opened = SparseFile::open(&file, self.options).map_err(|error| error.in_file(file.path()))?;
                Ok(gap.insert(opened).clone())
            }
        }
    }
}

/// What the file of an extent with this access is opened for.
fn purpose(access: Access, options: LinkOptions<'_>) -> Purpose {
    options.purpose.of_part(access == Access::ReadWrite)
}

/// Opens the file that holds an extent.
pub(super) fn open_file(dir: &Path, name: &str, access: Access, options: LinkOptions<'_>) -> Result<Arc<HostFile>> {
    let is_on_vsan = name.get(..VSAN.len()).is_some_and(|start| start.eq_ignore_ascii_case(VSAN));
    if is_on_vsan && matches!(options.names, Names::Files(..)) {
        let text = format!("the extent {} is an object on vSAN, which is no file; it is not supported", shown(name));
        return Err(Error::text(ErrorKind::Unsupported, text));
    }
    let opened = options.names.open_extent(dir, name, purpose(access, options))?;
    Ok(Arc::new(HostFile::new(opened.path, opened.storage)?))
}
