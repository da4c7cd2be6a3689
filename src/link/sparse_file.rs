//! A file that must be a sparse extent: its header, by its magic, whatever a descriptor calls it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Link, LinkOptions};
use crate::descriptor::{Access, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Body, Extent, FileIdentity, HostFile, SparseExtent};
use crate::format::cowd::HEADER_LEN as COWD_HEADER_LEN;
use crate::format::{CowdHeader, FileKind, KdmvHeader, SparseHeader};
use crate::sector::{SECTOR_SIZE, to_usize};

/// Bytes of memory that the grain directories of a chain may take together: 32 links of a 64 TiB disk need half of it.
const MAX_DIRECTORY_BYTES: usize = 512 << 20;

/// The bytes of a file from its beginning, as many as a header can have.
pub(super) struct Start {
    bytes: [u8; COWD_HEADER_LEN],
    present: usize,
}

impl Start {
    pub(super) fn read(file: &HostFile) -> Result<Self> {
        let mut bytes = [0; COWD_HEADER_LEN];
        file.read(&mut bytes, 0)?;
        Ok(Self { bytes, present: to_usize(file.len()).min(COWD_HEADER_LEN) })
    }

    /// What there is of them.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.present]
    }

    pub(super) fn kind(&self) -> FileKind {
        FileKind::of(self.bytes())
    }

    /// The header of a sparse extent, which this must be.
    pub(super) fn header(&self, options: LinkOptions<'_>) -> Result<SparseHeader> {
        match self.kind() {
            FileKind::Kdmv => self.kdmv(options).map(SparseHeader::Kdmv),
            FileKind::Cowd => self.cowd().map(SparseHeader::Cowd),
            FileKind::UnfinishedKdmv => {
                let text = "an unfinished image: its writer stopped before it set the magic to \"KDMV\"";
                Err(Error::text(ErrorKind::Incomplete, text))
            }
            FileKind::SeSparse => Err(unsupported("a seSparse extent")),
            FileKind::ChangeTracking => {
                Err(Error::text(ErrorKind::NotVmdk, "a change tracking file, which holds no disk"))
            }
            FileKind::Other => Err(Error::text(ErrorKind::NotVmdk, "neither a VMDK descriptor nor a sparse extent")),
        }
    }

    fn kdmv(&self, options: LinkOptions<'_>) -> Result<KdmvHeader> {
        let sector = self.bytes().first_chunk::<SECTOR_SIZE>();
        let header = sector.and_then(KdmvHeader::decode).ok_or_else(cut_header)?;
        header.check_readable(options.ignore_newlines)?;
        if header.is_compressed() {
            return Err(unsupported("a compressed extent (streamOptimized)"));
        }
        Ok(header)
    }

    fn cowd(&self) -> Result<CowdHeader> {
        let bytes = self.bytes().first_chunk::<COWD_HEADER_LEN>();
        bytes.and_then(CowdHeader::decode).ok_or_else(cut_header)
    }
}

/// The refusal of a kind that will be read one day.
pub(super) fn unsupported(kind: &str) -> Error {
    Error::text(ErrorKind::Unsupported, format!("{kind} is not supported yet"))
}

fn cut_header() -> Error {
    Error::text(ErrorKind::Corrupt, "the file ends within the header of a sparse extent")
}

/// The sparse extents that are open for a chain, by what their files are: however many lines, names and links lead to
/// one file, its directory and its cached tables are in memory once.
#[derive(Default)]
pub(crate) struct SparseFiles {
    open: RefCell<HashMap<FileIdentity, SparseFile>>,
    directory_bytes: Cell<usize>,
}

impl SparseFiles {
    /// Counts what links that are open already have in memory.
    pub(crate) fn count(&self, links: &[Arc<Link>]) -> Result<()> {
        let extents = links.iter().flat_map(|link| link.extents()).filter_map(Extent::sparse);
        let mut seen = HashSet::new();
        let mut first = extents.filter(|extent| seen.insert(Arc::as_ptr(extent)));
        first.try_for_each(|extent| self.take(extent.directory_len()))
    }

    fn take(&self, directory_bytes: usize) -> Result<()> {
        self.directory_bytes.set(self.directory_bytes.get().saturating_add(directory_bytes));
        if self.directory_bytes.get() > MAX_DIRECTORY_BYTES {
            let text = format!("the grain directories of the chain have more than {MAX_DIRECTORY_BYTES} bytes");
            return Err(Error::text(ErrorKind::BadChain, text));
        }
        Ok(())
    }
}

/// A sparse extent that may be part of several disks, with its header.
#[derive(Clone)]
pub(super) struct SparseFile {
    pub(super) extent: Arc<SparseExtent>,
    pub(super) header: Arc<SparseHeader>,
}

impl SparseFile {
    /// Opens an extent that stands in a file of its own. A descriptor in it is not looked at: it is not asked.
    pub(super) fn open(file: &Arc<HostFile>, options: LinkOptions<'_>) -> Result<Self> {
        if let Some(there) = options.sparse_files.open.borrow().get(&file.identity()) {
            return Ok(there.clone());
        }
        let header = Start::read(file)?.header(options)?;
        Self::with_header(file, &Arc::new(header), options)
    }

    /// Opens an extent whose header is known.
    pub(super) fn with_header(
        file: &Arc<HostFile>,
        header: &Arc<SparseHeader>,
        options: LinkOptions<'_>,
    ) -> Result<Self> {
        let files = options.sparse_files;
        if let Some(there) = files.open.borrow().get(&file.identity()) {
            return Ok(there.clone());
        }
        let extent = SparseExtent::open(
            Arc::clone(file),
            header.layout(file.len(), options.sparse.use_redundant)?,
            options.sparse,
        )?;
        files.take(extent.directory_len())?;
        let opened = Self { extent: Arc::new(extent), header: Arc::clone(header) };
        files.open.borrow_mut().insert(file.identity(), opened.clone());
        Ok(opened)
    }

    /// The extent as `sectors` sectors of a disk, which may be fewer than the header has.
    pub(super) fn into_extent(self, access: Access, kind: ExtentKind, sectors: u64) -> Result<Extent> {
        self.header.check_size(sectors).map_err(|error| error.in_file(self.extent.file().path()))?;
        Ok(Extent::new(access, kind, sectors, Body::Sparse(self.extent)).with_header(self.header))
    }
}
