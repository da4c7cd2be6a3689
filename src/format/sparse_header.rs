//! The header of a sparse extent of any kind.

use super::{CowdHeader, KdmvHeader, SeSparseHeader, SparseLayout};
use crate::error::{Error, Result};

/// The header of a sparse extent, by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SparseHeader {
    /// A hosted sparse extent.
    Kdmv(KdmvHeader),
    /// An ESX delta, or a disk of VMware 2 or 3.
    Cowd(CowdHeader),
    /// An ESX delta of the newer kind.
    SeSparse(SeSparseHeader),
}

impl SparseHeader {
    /// The size of the extent in sectors, as the header has it.
    pub fn capacity(&self) -> u64 {
        match self {
            Self::Kdmv(header) => header.capacity,
            Self::Cowd(header) => header.num_sectors.into(),
            Self::SeSparse(header) => header.capacity,
        }
    }

    /// The header of a hosted sparse extent.
    pub fn as_kdmv(&self) -> Option<&KdmvHeader> {
        match self {
            Self::Kdmv(header) => Some(header),
            Self::Cowd(_) | Self::SeSparse(_) => None,
        }
    }

    /// The header of a COWD extent.
    pub fn as_cowd(&self) -> Option<&CowdHeader> {
        match self {
            Self::Cowd(header) => Some(header),
            Self::Kdmv(_) | Self::SeSparse(_) => None,
        }
    }

    /// The headers of an seSparse extent.
    pub fn as_sesparse(&self) -> Option<&SeSparseHeader> {
        match self {
            Self::SeSparse(header) => Some(header),
            Self::Kdmv(_) | Self::Cowd(_) => None,
        }
    }

    /// What is odd about it, although it can be read.
    pub(crate) fn oddity(&self) -> Option<&'static str> {
        match self {
            Self::Kdmv(header) => header.has_unknown_flags().then_some("the header has reserved flags set"),
            Self::Cowd(_) => None,
            Self::SeSparse(header) => (header.replay_journal != 0)
                .then_some("its journal was not replayed: what was written last is missing or half there"),
        }
    }

    /// Why an extent with this header is not written to.
    pub(crate) fn write_refusal(&self) -> Option<&'static str> {
        match self {
            Self::Kdmv(header) if header.is_compressed() => Some("a compressed extent"),
            Self::Kdmv(header) if header.has_unknown_flags() => Some("an extent with unknown flags in its header"),
            Self::Cowd(header) if header.has_unknown_flags() => Some("a COWD extent with unknown flags in its header"),
            Self::Kdmv(_) | Self::Cowd(_) => None,
            Self::SeSparse(_) => Some("an seSparse extent"),
        }
    }

    pub(crate) fn layout(&self, file_len: u64, use_redundant: bool) -> Result<SparseLayout> {
        match self {
            Self::Kdmv(header) => header.layout(file_len, use_redundant),
            Self::Cowd(header) => header.layout(file_len),
            Self::SeSparse(header) => header.layout(file_len),
        }
    }

    /// Checks that a line of a descriptor does not give the extent more sectors than the header has.
    pub(crate) fn check_size(&self, sectors: u64) -> Result<()> {
        if sectors <= self.capacity() {
            return Ok(());
        }
        let (structure, field, at) = match self {
            Self::Kdmv(_) => ("KDMV header", "capacity", super::kdmv::CAPACITY_AT),
            Self::Cowd(_) => ("COWD header", "numSectors", super::cowd::CAPACITY_AT),
            Self::SeSparse(_) => ("seSparse header", "capacity", super::sesparse::CAPACITY_AT),
        };
        let problem = format!("the descriptor gives this extent {sectors} sectors, which is more");
        Err(Error::field(structure, field, at as u64, self.capacity(), problem))
    }
}
