//! One extent of a disk: a stretch of sectors that is kept in one way.

pub(crate) mod audit;
mod flat;
mod grain_cache;
mod grain_directory;
mod holes;
mod host_file;
mod inflation;
mod l2_cache;
mod map;
mod marker_index;
mod payload;
mod pending;
pub(crate) mod resizing;
mod sparse;
mod stream;
mod tables;
mod writing;

use std::sync::Arc;

use crate::block_device::read_only;
use crate::descriptor::{Access, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::format::SparseHeader;
use crate::mapping::{Place, Run};

pub(crate) use flat::FlatExtent;
pub(crate) use grain_cache::DEFAULT_BYTES as DEFAULT_GRAIN_CACHE;
pub(crate) use grain_directory::GrainDirectory;
pub(crate) use holes::Holes;
pub(crate) use host_file::FileIdentity;
pub use host_file::HostFile;
pub(crate) use inflation::Inflation;
pub(crate) use l2_cache::DEFAULT_TABLES;
pub(crate) use map::ExtentMap;
pub(crate) use marker_index::MarkerIndex;
pub use marker_index::Salvaged;
pub(crate) use payload::Payload;
pub(crate) use sparse::{SparseExtent, SparseOptions};
pub(crate) use stream::{CompressedGrain, Lookup, StreamExtent};
pub(crate) use tables::{ENTRY, Tables, UNALLOCATED, ZERO};
pub(crate) use writing::{
    Below, Emptying, Ending, Health, Reservation, Surroundings, Target, Telling, Writer, Zeroing,
};

/// A stretch of a disk that is kept in one way: in a sparse file, in a flat one, or nowhere.
#[derive(Debug)]
pub struct Extent {
    start: u64,
    sectors: u64,
    access: Access,
    kind: ExtentKind,
    header: Option<Arc<SparseHeader>>,
    body: Body,
}

/// Where the sectors of an extent come from.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Nowhere: they read as zeros.
    Zero,
    Flat(FlatExtent),
    /// Shared, because several lines of a descriptor may name one file.
    Sparse(Arc<SparseExtent>),
    /// Likewise; compressed.
    Stream(Arc<StreamExtent>),
}

impl Body {
    /// Bytes of memory that it takes to find its grains, and what tells it from others.
    pub(crate) fn directory(&self) -> Option<(*const (), usize)> {
        match self {
            Self::Zero | Self::Flat(_) => None,
            Self::Sparse(sparse) => Some((Arc::as_ptr(sparse).cast(), sparse.directory_len())),
            Self::Stream(stream) => Some((Arc::as_ptr(stream).cast(), stream.directory_len())),
        }
    }

    pub(crate) fn file(&self) -> Option<&Arc<HostFile>> {
        match self {
            Self::Zero => None,
            Self::Flat(flat) => Some(flat.file()),
            Self::Sparse(sparse) => Some(sparse.file()),
            Self::Stream(stream) => Some(stream.file()),
        }
    }
}

impl Extent {
    /// An extent of `sectors` sectors that is not part of a disk yet.
    pub(crate) fn new(access: Access, kind: ExtentKind, sectors: u64, body: Body) -> Self {
        Self { start: 0, sectors, access, kind, header: None, body }
    }

    pub(crate) fn with_header(mut self, header: Arc<SparseHeader>) -> Self {
        self.header = Some(header);
        self
    }

    /// The sector of the disk at which the extent begins.
    pub fn start_sector(&self) -> u64 {
        self.start
    }

    /// The size of the extent in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// What a guest may do with it.
    pub fn access(&self) -> Access {
        self.access
    }

    /// How it is kept, as the descriptor says.
    pub fn kind(&self) -> ExtentKind {
        self.kind
    }

    /// The header of a sparse extent.
    pub fn header(&self) -> Option<&SparseHeader> {
        self.header.as_deref()
    }

    /// The file that holds it; none for ZERO and NOACCESS.
    pub fn file(&self) -> Option<&HostFile> {
        self.shared_file().map(|file| &**file)
    }

    /// Where a flat extent begins in its file, in bytes; `None` for the others.
    pub fn file_offset(&self) -> Option<u64> {
        match &self.body {
            Body::Flat(flat) => Some(flat.offset()),
            Body::Zero | Body::Sparse(_) | Body::Stream(_) => None,
        }
    }

    /// For how many tables the redundant copy had to stand in so far, and one more for the directory; see
    /// [`OpenOptions::use_redundant_tables`](crate::OpenOptions::use_redundant_tables).
    pub fn redundant_stand_ins(&self) -> u64 {
        match &self.body {
            Body::Sparse(sparse) => sparse.redundant_stand_ins(),
            Body::Stream(stream) => stream.redundant_stand_ins(),
            Body::Zero | Body::Flat(_) => 0,
        }
    }

    /// Whether its grains are compressed.
    pub fn is_compressed(&self) -> bool {
        matches!(self.body, Body::Stream(_))
    }

    /// What was found of it so far, if it is compressed and was opened by its markers; see
    /// [`OpenOptions::salvage`](crate::OpenOptions::salvage). Damage is found when it is read.
    pub fn salvaged(&self) -> Option<Salvaged> {
        match &self.body {
            Body::Stream(stream) => stream.salvaged(),
            Body::Zero | Body::Flat(_) | Body::Sparse(_) => None,
        }
    }

    /// What is odd about it, although it can be read.
    pub(crate) fn oddity(&self) -> Option<&'static str> {
        match &self.body {
            Body::Flat(flat) if flat.is_shorter_than(self.sectors) => {
                Some("the file is shorter than the extent; what is missing reads as zeros")
            }
            Body::Zero | Body::Flat(_) => None,
            Body::Sparse(sparse) if sparse.is_unclean() => {
                Some("it was not closed cleanly; entries past the end of the file read as unallocated")
            }
            Body::Stream(stream) if stream.salvaged().is_some_and(|found| !found.is_complete()) => {
                Some("a part of the stream is missing; what is not there reads as if it had never been written")
            }
            Body::Sparse(_) | Body::Stream(_) => self.header().and_then(SparseHeader::oddity),
        }
    }

    pub(crate) fn shared_file(&self) -> Option<&Arc<HostFile>> {
        self.body.file()
    }

    /// Where its sectors come from.
    pub(crate) fn body(&self) -> &Body {
        &self.body
    }

    /// Sectors of a grain; 1 where there are no grains.
    pub(crate) fn grain_sectors(&self) -> u64 {
        match &self.body {
            Body::Zero | Body::Flat(_) => 1,
            Body::Sparse(sparse) => sparse.grain_sectors(),
            Body::Stream(stream) => stream.grain_sectors(),
        }
    }

    /// Where `sector` of the disk is, which lies in this extent, and for how many of the next `max` sectors.
    #[inline]
    fn map(&self, sector: u64, max: u64) -> Result<Run<'_>> {
        self.map_within(sector - self.start, max)
    }

    /// As `map`, for the sector `within` of the extent.
    #[inline]
    pub(crate) fn map_within(&self, within: u64, max: u64) -> Result<Run<'_>> {
        let max = max.min(self.sectors - within);
        match &self.body {
            Body::Zero => Ok(Run::new(Place::Zero, max)),
            Body::Flat(flat) => Ok(flat.map(within, max)),
            Body::Sparse(sparse) => sparse.map(within, max),
            Body::Stream(stream) => stream.map(within, max),
        }
    }

    /// Whether a guest may write `payload` somewhere in it, before the host is touched.
    ///
    /// # Errors
    /// `ReadOnly`.
    #[inline]
    pub(crate) fn check_write(&self, payload: Payload<'_>) -> Result<()> {
        match (self.access, &self.body) {
            (Access::ReadWrite, Body::Flat(_) | Body::Sparse(_)) => Ok(()),
            // As VirtualBox has it: what it reads as, it takes.
            (Access::ReadWrite, Body::Zero) if payload.is_zero() => Ok(()),
            _ => Err(self.refusal()),
        }
    }

    /// Whether its tables allow a write, before anything is changed.
    ///
    /// # Errors
    /// `Corrupt` for an extent that cannot be written to before it is repaired.
    #[inline]
    pub(crate) fn check_tables(&self) -> Result<()> {
        self.sparse().map_or(Ok(()), |sparse| sparse.check_tables())
    }

    /// As `check_write`, for a payload that is not known yet.
    pub(crate) fn check_prepare(&self) -> Result<()> {
        match &self.body {
            Body::Zero | Body::Stream(_) => Err(self.refusal()),
            Body::Flat(_) | Body::Sparse(_) => self.check_write(Payload::Zeros { sectors: 1 }),
        }
    }

    #[cold]
    fn refusal(&self) -> Error {
        let text = match (self.access, &self.body) {
            (Access::ReadOnly, _) => "the extent is RDONLY in the descriptor",
            (Access::NoAccess, _) => "the extent is NOACCESS in the descriptor",
            (Access::ReadWrite, Body::Zero) => "a ZERO extent takes nothing but zeros",
            (Access::ReadWrite, Body::Stream(_)) => "the extent is compressed",
            (Access::ReadWrite, _) => return read_only(),
        };
        let text = format!("{text} (sectors {} to {})", self.start, self.start + self.sectors - 1);
        let error = Error::text(ErrorKind::ReadOnly, text);
        match self.file() {
            Some(file) => error.in_file(file.path()),
            None => error,
        }
    }

    /// Writes `payload` from the sector `within` of the extent on, which `check_write` has allowed.
    #[inline]
    pub(crate) fn write(&self, within: u64, payload: Payload<'_>, around: Surroundings<'_>) -> Result<()> {
        match &self.body {
            Body::Zero => Ok(()),
            Body::Flat(flat) => {
                (around.begin)()?;
                flat.write(within, payload)
            }
            Body::Sparse(sparse) => sparse.write(within, payload, around),
            Body::Stream(_) => Err(self.refusal()),
        }
    }

    /// Makes `count` sectors from the sector `within` of the extent on read as zeros.
    pub(crate) fn zero(&self, within: u64, count: u64, zeroing: Zeroing, around: Surroundings<'_>) -> Result<()> {
        match &self.body {
            Body::Zero => Ok(()),
            Body::Flat(flat) => {
                (around.begin)()?;
                flat.zero(within, count, zeroing)
            }
            Body::Sparse(sparse) => sparse.zero(within, count, zeroing, around),
            Body::Stream(_) => Err(self.refusal()),
        }
    }

    /// Where the next of `max` sectors from the sector `within` of the extent on are to be written.
    pub(crate) fn prepare(&self, within: u64, max: u64, around: Surroundings<'_>) -> Result<Target> {
        match &self.body {
            Body::Zero | Body::Stream(_) => Err(self.refusal()),
            Body::Flat(flat) => {
                (around.begin)()?;
                Ok(Target::InPlace { offset: flat.offset_of(within), sectors: max })
            }
            Body::Sparse(sparse) => sparse.prepare(within, max, around),
        }
    }

    /// The sparse file that holds it.
    pub(crate) fn sparse(&self) -> Option<&Arc<SparseExtent>> {
        match &self.body {
            Body::Sparse(sparse) => Some(sparse),
            Body::Zero | Body::Flat(_) | Body::Stream(_) => None,
        }
    }

    /// Makes everything durable that was written to it.
    pub(crate) fn flush(&self) -> Result<()> {
        match &self.body {
            Body::Zero | Body::Stream(_) => Ok(()),
            Body::Flat(flat) => flat.file().sync_if_dirty(),
            Body::Sparse(sparse) => sparse.publish(),
        }
    }
}
