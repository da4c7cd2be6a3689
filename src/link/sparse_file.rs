//! A file that must be a sparse extent: its header, by its magic, whatever a descriptor calls it.

use std::sync::Arc;

use super::LinkOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{HostFile, SparseExtent};
use crate::format::cowd::HEADER_LEN as COWD_HEADER_LEN;
use crate::format::{CowdHeader, FileKind, KdmvHeader, SparseHeader};
use crate::sector::{SECTOR_SIZE, to_usize};

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

/// Opens an extent that stands in a file of its own. A descriptor in it is not looked at: it is not asked.
pub(super) fn open(file: &Arc<HostFile>, options: LinkOptions<'_>) -> Result<(Arc<SparseExtent>, Arc<SparseHeader>)> {
    let header = Start::read(file)?.header(options)?;
    let sparse = SparseExtent::open(Arc::clone(file), header.layout(file.len())?, options.sparse)?;
    Ok((Arc::new(sparse), Arc::new(header)))
}
