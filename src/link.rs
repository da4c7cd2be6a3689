//! One link of a chain: a descriptor and the extents it names.
//!
//! Opening goes in two steps, because a parent is looked at before it is believed: a [`LinkHead`] is the file with the
//! descriptor, read and parsed; [`LinkHead::open`] then opens the extents.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::descriptor::{
    Access, ContentId, CreateType, Descriptor, ExtentKind, ExtentLine, MAX_DESCRIPTOR_LEN, looks_like_descriptor,
};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Body, Extent, ExtentMap, FlatExtent, HostFile, SparseExtent};
use crate::format::{FileKind, KdmvHeader};
use crate::locate::{Names, Opened};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};

/// One disk of a backing chain, without its parents.
#[derive(Debug)]
pub struct Link {
    file: Arc<HostFile>,
    descriptor: Descriptor,
    header: Option<Arc<KdmvHeader>>,
    extents: ExtentMap,
    warnings: Vec<String>,
}

impl Link {
    /// The file that was opened: the descriptor, or the extent that holds it.
    pub fn file(&self) -> &HostFile {
        &self.file
    }

    /// The real path of that file, or the name that a resolver was asked for.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The descriptor. It is empty for a sparse extent that was opened without one.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The sparse header of the file that was opened, if it has one.
    pub fn header(&self) -> Option<&KdmvHeader> {
        self.header.as_deref()
    }

    /// The extents, in the order of their sectors.
    pub fn extents(&self) -> &[Extent] {
        self.extents.extents()
    }

    /// The size of this link's disk in sectors.
    pub fn capacity_sectors(&self) -> u64 {
        self.extents.capacity()
    }

    /// What identifies the content; `None` if the descriptor does not say.
    pub fn content_id(&self) -> Option<ContentId> {
        self.descriptor.content_id()
    }

    /// The content ID that the parent had when this link was made; `None` for a link without a parent.
    pub fn parent_content_id(&self) -> Option<ContentId> {
        self.descriptor.parent_content_id().filter(|id| !id.is_no_parent())
    }

    /// What was found odd about the files, and read nevertheless.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every host file of this link, each once.
    pub fn host_files(&self) -> Vec<&HostFile> {
        let own = std::iter::once(&*self.file);
        let mut seen = HashSet::new();
        own.chain(self.extents().iter().filter_map(Extent::file)).filter(|file| seen.insert(file.identity())).collect()
    }

    /// Bytes that the files of this link take up on the host, holes not counted.
    ///
    /// # Errors
    /// What the host reports.
    pub fn allocated_bytes(&self) -> Result<u64> {
        self.host_files().into_iter().try_fold(0_u64, |sum, file| {
            let allocated = file.storage().allocated_len();
            let bytes = allocated
                .map_err(|cause| Error::host("cannot find out the allocated size", cause).in_file(file.path()))?;
            Ok(sum.saturating_add(bytes))
        })
    }

    pub(crate) fn map_of_extents(&self) -> &ExtentMap {
        &self.extents
    }
}

/// How a link is to be opened.
#[derive(Clone, Copy)]
pub(crate) struct LinkOptions<'a> {
    pub(crate) names: Names<'a>,
    /// Grain tables that each sparse extent keeps.
    pub(crate) cached_tables: usize,
    pub(crate) ignore_newlines: bool,
}

/// The file with the descriptor, before any extent is opened.
pub(crate) struct LinkHead {
    file: Arc<HostFile>,
    dir: PathBuf,
    descriptor: Descriptor,
    header: Option<Arc<KdmvHeader>>,
    warnings: Vec<String>,
}

impl LinkHead {
    /// Reads and parses the descriptor, or the header and the descriptor in it.
    pub(crate) fn read(opened: Opened, options: LinkOptions<'_>) -> Result<Self> {
        let file = Arc::new(HostFile::new(opened.path, opened.storage)?);
        let (descriptor, header) = read_head(&file, options).map_err(|error| error.in_file(file.path()))?;
        refuse_unsupported(&descriptor).map_err(|error| error.in_file(file.path()))?;
        let warnings = descriptor.warnings().to_vec();
        Ok(Self { file, dir: opened.dir, descriptor, header, warnings })
    }

    pub(crate) fn file(&self) -> &HostFile {
        &self.file
    }

    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The directory in which the names of this link resolve.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the extents.
    pub(crate) fn open(mut self, options: LinkOptions<'_>) -> Result<Link> {
        let extents = self.open_extents(options).map_err(|error| error.in_file(self.file.path()))?;
        let Self { file, descriptor, header, warnings, .. } = self;
        Ok(Link { file, descriptor, header, extents, warnings })
    }

    fn open_extents(&mut self, options: LinkOptions<'_>) -> Result<ExtentMap> {
        let lines = self.descriptor.extents();
        // The header of a file with a capacity of its own speaks of the first sparse extent, whatever name that has
        // in the descriptor: files get renamed. Without a capacity the file is only a container for the text.
        let own_header = self.header.as_ref().filter(|header| header.capacity != 0 || lines.is_empty());
        let Some(own) = own_header else {
            if lines.is_empty() {
                return Err(Error::text(ErrorKind::Corrupt, "the descriptor names no extent"));
            }
            let mut files = NamedFiles::new(&self.dir, options);
            let extents = lines.iter().map(|line| files.open_line(&self.descriptor, line));
            return ExtentMap::new(extents.collect::<Result<_>>()?);
        };
        let opener = SparseOpener { file: &self.file, header: own, cached_tables: options.cached_tables };
        if lines.is_empty() {
            if !self.descriptor.as_bytes().is_empty() {
                self.warnings.push("the descriptor names no extent; the header's capacity counts".to_owned());
            }
            let extent = opener.open(Access::ReadWrite, own.capacity)?;
            return ExtentMap::new(vec![extent]);
        }
        let mut files = NamedFiles::new(&self.dir, options);
        let mut own_extent = Some(opener);
        let extents = lines.iter().map(|line| match own_extent.take_if(|_| line.kind() == ExtentKind::Sparse) {
            Some(opener) => opener.open(line.access(), line.sectors()),
            None => files.open_line(&self.descriptor, line),
        });
        ExtentMap::new(extents.collect::<Result<_>>()?)
    }
}

fn read_head(file: &HostFile, options: LinkOptions<'_>) -> Result<(Descriptor, Option<Arc<KdmvHeader>>)> {
    let mut sector = [0; SECTOR_SIZE];
    file.read(&mut sector, 0)?;
    let present = to_usize(file.len()).min(SECTOR_SIZE);
    if FileKind::of(&sector[..present]) == FileKind::Other && looks_like_descriptor(&sector[..present]) {
        return Ok((read_text(file)?, None));
    }
    let header = sparse_header(&sector[..present], options)?;
    let descriptor = match header.descriptor_region(file.len())? {
        None => Descriptor::empty(),
        Some(region) => {
            let mut text = vec![0; to_usize(region.end - region.start)];
            file.read(&mut text, region.start)?;
            // A region of zeros is room for a descriptor that is not there, as in QEMU's split disks.
            if text.iter().all(|&byte| byte == 0) { Descriptor::empty() } else { Descriptor::parse(&text)? }
        }
    };
    Ok((descriptor, Some(Arc::new(header))))
}

fn read_text(file: &HostFile) -> Result<Descriptor> {
    if file.len() > MAX_DESCRIPTOR_LEN as u64 {
        let problem = format!("a descriptor of {} bytes; at most {MAX_DESCRIPTOR_LEN} are read", file.len());
        return Err(Error::text(ErrorKind::Corrupt, problem));
    }
    let mut text = vec![0; to_usize(file.len())];
    file.read(&mut text, 0)?;
    Descriptor::parse(&text)
}

/// The header of a file that must be a hosted sparse extent, given its first sector.
fn sparse_header(start: &[u8], options: LinkOptions<'_>) -> Result<KdmvHeader> {
    let unsupported = |kind: &str| Err(Error::text(ErrorKind::Unsupported, format!("{kind} is not supported yet")));
    match FileKind::of(start) {
        FileKind::Kdmv => {}
        FileKind::UnfinishedKdmv => {
            let text = "an unfinished image: its writer stopped before it set the magic to \"KDMV\"";
            return Err(Error::text(ErrorKind::Incomplete, text));
        }
        FileKind::Cowd => return unsupported("a COWD extent (vmfsSparse, or a VMware 2 or 3 disk)"),
        FileKind::SeSparse => return unsupported("a seSparse extent"),
        FileKind::ChangeTracking => {
            return Err(Error::text(ErrorKind::NotVmdk, "a change tracking file, which holds no disk"));
        }
        FileKind::Other => {
            return Err(Error::text(ErrorKind::NotVmdk, "neither a VMDK descriptor nor a sparse extent"));
        }
    }
    let header = start.first_chunk().and_then(KdmvHeader::decode);
    let Some(header) = header else {
        return Err(Error::text(ErrorKind::Corrupt, "the file ends within the header of a sparse extent"));
    };
    header.check_readable(options.ignore_newlines)?;
    if header.is_compressed() {
        return unsupported("a compressed extent (streamOptimized)");
    }
    Ok(header)
}

/// Refuses what cannot be read by its name, before the files of its extents are looked for.
fn refuse_unsupported(descriptor: &Descriptor) -> Result<()> {
    let unsupported = |what: String| Err(Error::text(ErrorKind::Unsupported, format!("{what} is not supported yet")));
    let create_type = descriptor.create_type();
    if let Some(
        CreateType::FullDevice
        | CreateType::PartitionedDevice
        | CreateType::VmfsSparse
        | CreateType::SeSparse
        | CreateType::VsanSparse
        | CreateType::VmfsRdm
        | CreateType::VmfsRdmp
        | CreateType::VmfsRaw,
    ) = create_type.map(CreateType::canonical)
    {
        let name = create_type.map_or("", CreateType::as_str);
        return unsupported(format!("a disk of the type {name}"));
    }
    for line in descriptor.extents() {
        match line.kind() {
            ExtentKind::Flat | ExtentKind::Sparse | ExtentKind::Zero | ExtentKind::Vmfs => {}
            kind => return unsupported(format!("an extent of the type {}", kind.as_str())),
        }
    }
    Ok(())
}

/// A file that is known to be a sparse extent.
struct SparseOpener<'a> {
    file: &'a Arc<HostFile>,
    header: &'a Arc<KdmvHeader>,
    cached_tables: usize,
}

impl SparseOpener<'_> {
    /// Opens it as an extent of `sectors` sectors, which may be fewer than the header's.
    fn open(&self, access: Access, sectors: u64) -> Result<Extent> {
        if access == Access::NoAccess {
            let extent = Extent::new(access, ExtentKind::Sparse, sectors, Body::Zero);
            return Ok(extent.with_header(Arc::clone(self.header)));
        }
        check_size(self.header, sectors)?;
        let layout = self.header.layout(self.file.len())?;
        let sparse = SparseExtent::open(Arc::clone(self.file), layout, self.cached_tables)?;
        let extent = Extent::new(access, ExtentKind::Sparse, sectors, Body::Sparse(Arc::new(sparse)));
        Ok(extent.with_header(Arc::clone(self.header)))
    }
}

fn check_size(header: &KdmvHeader, sectors: u64) -> Result<()> {
    if sectors > header.capacity { Err(header.larger_line(sectors)) } else { Ok(()) }
}

/// The files that the lines of one descriptor name, each opened once however many lines name it.
struct NamedFiles<'a> {
    dir: &'a Path,
    options: LinkOptions<'a>,
    flat: HashMap<String, Arc<HostFile>>,
    sparse: HashMap<String, (Arc<SparseExtent>, Arc<KdmvHeader>)>,
}

impl<'a> NamedFiles<'a> {
    fn new(dir: &'a Path, options: LinkOptions<'a>) -> Self {
        Self { dir, options, flat: HashMap::new(), sparse: HashMap::new() }
    }

    fn open_line(&mut self, descriptor: &Descriptor, line: &ExtentLine) -> Result<Extent> {
        let (access, kind, sectors) = (line.access(), line.kind(), line.sectors());
        if kind == ExtentKind::Zero || access == Access::NoAccess {
            return Ok(Extent::new(access, kind, sectors, Body::Zero));
        }
        let name = descriptor.decode_name(line.name().unwrap_or_default())?;
        if kind == ExtentKind::Sparse {
            let (sparse, header) = self.sparse(&name)?;
            check_size(header, sectors).map_err(|error| error.in_file(sparse.file().path()))?;
            let extent = Extent::new(access, kind, sectors, Body::Sparse(Arc::clone(sparse)));
            return Ok(extent.with_header(Arc::clone(header)));
        }
        let body = self.flat(&name, line)?;
        Ok(Extent::new(access, kind, sectors, body))
    }

    fn flat(&mut self, name: &str, line: &ExtentLine) -> Result<Body> {
        let file = match self.flat.entry(name.to_owned()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(gap) => gap.insert(open_file(self.dir, name, self.options)?),
        };
        let offset = line.offset().checked_mul(SECTOR_BYTES).filter(|&offset| offset <= file.len());
        let Some(offset) = offset else {
            let problem = format!("the offset lies past the end of {} ({} bytes)", file.path().display(), file.len());
            return Err(Error::line(line.line(), problem, line.offset().to_string().as_bytes()));
        };
        Ok(Body::Flat(FlatExtent::new(Arc::clone(file), offset)))
    }

    fn sparse(&mut self, name: &str) -> Result<&(Arc<SparseExtent>, Arc<KdmvHeader>)> {
        match self.sparse.entry(name.to_owned()) {
            Entry::Occupied(there) => Ok(there.into_mut()),
            Entry::Vacant(gap) => {
                let file = open_file(self.dir, name, self.options)?;
                let opened = open_sparse(&file, self.options).map_err(|error| error.in_file(file.path()))?;
                Ok(gap.insert(opened))
            }
        }
    }
}

fn open_file(dir: &Path, name: &str, options: LinkOptions<'_>) -> Result<Arc<HostFile>> {
    let opened = options.names.open(dir, name)?;
    Ok(Arc::new(HostFile::new(opened.path, opened.storage)?))
}

/// Opens an extent that stands in a file of its own. A descriptor in it is not looked at: it is not asked.
fn open_sparse(file: &Arc<HostFile>, options: LinkOptions<'_>) -> Result<(Arc<SparseExtent>, Arc<KdmvHeader>)> {
    let mut sector = [0; SECTOR_SIZE];
    file.read(&mut sector, 0)?;
    let present = to_usize(file.len()).min(SECTOR_SIZE);
    let header = sparse_header(&sector[..present], options)?;
    let layout = header.layout(file.len())?;
    Ok((Arc::new(SparseExtent::open(Arc::clone(file), layout, options.cached_tables)?), Arc::new(header)))
}
