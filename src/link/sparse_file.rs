//! A file that must be a sparse extent: its header, by its magic, whatever a descriptor calls it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::footer::{SALVAGE, header_with_directory};
use super::{Link, LinkOptions};
use crate::descriptor::{Access, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{
    Body, Extent, FileIdentity, HostFile, Inflation, Lookup, MarkerIndex, SparseExtent, SparseOptions, StreamExtent,
};
use crate::format::cowd::HEADER_LEN as COWD_HEADER_LEN;
use crate::format::kdmv::MAGIC as KDMV_MAGIC;
use crate::format::{CowdHeader, FileKind, KdmvHeader, SeSparseHeader, SparseHeader};
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

    /// The header of a sparse extent, which this must be: that of the file that it was read from.
    pub(super) fn header(&self, file: &HostFile, options: LinkOptions<'_>) -> Result<SparseHeader> {
        match self.kind() {
            FileKind::Kdmv => self.kdmv(options).map(SparseHeader::Kdmv),
            FileKind::Cowd => self.cowd().map(SparseHeader::Cowd),
            FileKind::UnfinishedKdmv => self.unfinished(options).map(SparseHeader::Kdmv),
            FileKind::SeSparse => self.sesparse(file, options).map(SparseHeader::SeSparse),
            FileKind::ChangeTracking => {
                Err(Error::text(ErrorKind::NotVmdk, "a change tracking file, which holds no disk"))
            }
            FileKind::Other => Err(Error::text(ErrorKind::NotVmdk, "neither a VMDK descriptor nor a sparse extent")),
        }
    }

    /// The header of a file whose writer has not come to its end. What there is of a stream has markers.
    fn unfinished(&self, options: LinkOptions<'_>) -> Result<KdmvHeader> {
        let text = "an unfinished image: its writer stopped before it set the magic to \"KDMV\"";
        let refused = Error::text(ErrorKind::Incomplete, text);
        match self.kdmv(options) {
            Ok(header) if header.has_markers() && options.sparse.salvage => Ok(header),
            Ok(header) if header.has_markers() => Err(refused.with_advice(SALVAGE)),
            _ => Err(refused),
        }
    }

    fn kdmv(&self, options: LinkOptions<'_>) -> Result<KdmvHeader> {
        let mut sector = *self.bytes().first_chunk::<SECTOR_SIZE>().ok_or_else(cut_header)?;
        sector[..KDMV_MAGIC.len()].make_ascii_uppercase();
        let header = KdmvHeader::decode(&sector).ok_or_else(cut_header)?;
        header.check_readable(options.ignore_newlines)?;
        Ok(header)
    }

    fn sesparse(&self, file: &HostFile, options: LinkOptions<'_>) -> Result<SeSparseHeader> {
        let sector = self.bytes().first_chunk::<SECTOR_SIZE>().ok_or_else(cut_header)?;
        let header = SeSparseHeader::decode(sector).ok_or_else(cut_header)??;
        let mut volatile = [0; SECTOR_SIZE];
        file.read(&mut volatile, header.volatile_at(file.len())?)?;
        let header = header.with_volatile(&volatile)?;
        if !options.ignore_journal {
            header.check_journal().map_err(|error| error.with_advice(STALE))?;
        }
        Ok(header)
    }

    fn cowd(&self) -> Result<CowdHeader> {
        let bytes = self.bytes().first_chunk::<COWD_HEADER_LEN>();
        bytes.and_then(CowdHeader::decode).ok_or_else(cut_header)
    }
}

/// What may help where a journal has to be replayed.
const STALE: &str = "open it once with ESX, or read it as it is on request (ignore_journal)";

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
    /// What all streams of the chain share.
    inflation: OnceCell<Arc<Inflation>>,
}

impl SparseFiles {
    /// Counts what links that are open already have in memory.
    pub(crate) fn count(&self, links: &[Arc<Link>]) -> Result<()> {
        let directories = links.iter().flat_map(|link| link.extents()).filter_map(|extent| extent.body().directory());
        let mut seen = HashSet::new();
        let mut first = directories.filter(|(extent, _)| seen.insert(*extent));
        first.try_for_each(|(_, len)| self.take(len))
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
    body: Body,
    pub(super) header: Arc<SparseHeader>,
}

impl SparseFile {
    /// Opens an extent that stands in a file of its own. A descriptor in it is not looked at: it is not asked.
    pub(super) fn open(file: &Arc<HostFile>, options: LinkOptions<'_>) -> Result<Self> {
        if let Some(there) = options.sparse_files.open.borrow().get(&file.identity()) {
            return Ok(there.clone());
        }
        let header = Start::read(file)?.header(file, options)?;
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
        let body = match &**header {
            SparseHeader::Kdmv(kdmv) if kdmv.is_compressed() => {
                let SparseOptions { grain_cache, allow_raw_deflate, .. } = options.sparse;
                let shared = || Arc::new(Inflation::new(grain_cache, allow_raw_deflate));
                let shared = Arc::clone(files.inflation.get_or_init(shared));
                Body::Stream(Arc::new(open_stream(file, kdmv, shared, options.sparse)?))
            }
            _ => Body::Sparse(Arc::new(open_sparse(file, header, options.sparse)?)),
        };
        files.take(body.directory().map_or(0, |(_, len)| len))?;
        let opened = Self { body, header: Arc::clone(header) };
        files.open.borrow_mut().insert(file.identity(), opened.clone());
        Ok(opened)
    }

    /// The extent as `sectors` sectors of a disk, which may be fewer than the header has.
    pub(super) fn into_extent(self, access: Access, kind: ExtentKind, sectors: u64) -> Result<Extent> {
        self.header.check_size(sectors).map_err(|error| match self.body.file() {
            Some(file) => error.in_file(file.path()),
            None => error,
        })?;
        Ok(Extent::new(access, kind, sectors, self.body).with_header(self.header))
    }
}

fn open_sparse(file: &Arc<HostFile>, header: &SparseHeader, options: SparseOptions) -> Result<SparseExtent> {
    SparseExtent::open(Arc::clone(file), header.layout(file.len(), options.use_redundant)?, options)
}

fn open_stream(
    file: &Arc<HostFile>,
    header: &KdmvHeader,
    inflation: Arc<Inflation>,
    options: SparseOptions,
) -> Result<StreamExtent> {
    let tables = open_tables(file, header, options);
    let lookup = if options.salvage && header.has_markers() {
        let mut index = MarkerIndex::build(file, header)?;
        // Tables of an unfinished stream name what has come so far, if anything.
        if let (Ok(tables), FileKind::Kdmv) = (tables, Start::read(file)?.kind()) {
            index.compare_with(&tables);
        }
        Lookup::Markers(index)
    } else {
        Lookup::Tables(Box::new(tables?))
    };
    StreamExtent::open(Arc::clone(file), header, lookup, inflation)
}

/// The tables of a stream.
fn open_tables(file: &Arc<HostFile>, header: &KdmvHeader, options: SparseOptions) -> Result<SparseExtent> {
    let with_directory = header_with_directory(file, header)?.into_owned();
    let opened = open_sparse(file, &SparseHeader::Kdmv(with_directory), options);
    // Of a stream with markers, what is there can be had without them.
    let can_be_salvaged = header.has_markers() && header.check_sizes().is_ok();
    opened.map_err(|error| {
        if can_be_salvaged && error.kind() == ErrorKind::Corrupt { error.with_advice(SALVAGE) } else { error }
    })
}
