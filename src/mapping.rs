//! Where sectors are: the answer of a lookup, before any payload moves.

use std::sync::Arc;

use crate::extent::{CompressedGrain, HostFile};
use crate::storage::Storage;

/// Where a run of sectors is, named by what the caller must do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Mapping {
    /// Read it from `storage` at the byte `offset`. The storage may end within the run's last sector, if its length
    /// is not a multiple of 512: what is missing of that sector is zero.
    Data {
        /// The host object that holds the sectors.
        storage: Arc<dyn Storage>,
        /// Where in `storage` the first of them begins, in bytes.
        offset: u64,
    },
    /// Inflate it: the sectors lie in a grain that is compressed. It begins in `storage` at the byte `offset`, with a
    /// marker (the sector of the grain in 64 bits, the size of the compressed data in 32, the data), or with the size
    /// alone. [`read_sectors`](crate::BlockDevice::read_sectors) does all that, and checks it.
    #[non_exhaustive]
    Compressed {
        /// The host object that holds the grain.
        storage: Arc<dyn Storage>,
        /// Where in `storage` the grain begins, in bytes.
        offset: u64,
        /// Whether it begins with a marker.
        has_marker: bool,
        /// Bytes of its content that lie before the run.
        skip: u64,
    },
    /// Fill it with zeros: the disk says so, whatever a parent has.
    Zero,
    /// Nothing was ever written here: ask the parent; without one, or past its end, zeros.
    Unallocated,
}

/// A run of sectors of a chain with one [`Mapping`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MappedRun {
    /// The first sector of the run.
    pub start: u64,
    /// Where the run is.
    pub mapping: Mapping,
    /// How many sectors it has; at least 1.
    pub sectors: u64,
    /// The link that answered: 0 is the image itself, 1 its parent, and so on.
    pub depth: usize,
}

impl MappedRun {
    pub(crate) fn new(start: u64, run: &Run<'_>, depth: usize) -> Self {
        Self { start, mapping: run.place.to_mapping(), sectors: run.sectors, depth }
    }
}

/// The same as [`Mapping`], for use inside the crate: it borrows the host file instead of counting references to it,
/// which is what a read on a hot path can afford.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    Data {
        file: &'a HostFile,
        offset: u64,
    },
    /// `skip` bytes of the grain lie before the run.
    Compressed {
        grain: CompressedGrain<'a>,
        skip: u64,
    },
    Zero,
    Unallocated,
}

/// A run of sectors with one [`Place`].
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) sectors: u64,
}

impl<'a> Run<'a> {
    pub(crate) fn new(place: Place<'a>, sectors: u64) -> Self {
        Self { place, sectors }
    }

    /// Takes `next` into this run if the two are one on the host as well; says whether it did.
    pub(crate) fn absorb(&mut self, next: &Run<'_>) -> bool {
        let joined = match (&self.place, &next.place) {
            (Place::Data { file, offset }, Place::Data { file: other, offset: next_offset }) => {
                std::ptr::eq(*file, *other)
                    && offset.checked_add(self.sectors * crate::sector::SECTOR_BYTES) == Some(*next_offset)
            }
            (Place::Zero, Place::Zero) | (Place::Unallocated, Place::Unallocated) => true,
            _ => false,
        };
        if joined {
            self.sectors += next.sectors;
        }
        joined
    }
}

impl Place<'_> {
    pub(crate) fn to_mapping(self) -> Mapping {
        match self {
            Place::Data { file, offset } => Mapping::Data { storage: Arc::clone(file.storage()), offset },
            Place::Compressed { grain, skip } => Mapping::Compressed {
                storage: Arc::clone(grain.file().storage()),
                offset: grain.offset(),
                has_marker: grain.has_marker(),
                skip,
            },
            Place::Zero => Mapping::Zero,
            Place::Unallocated => Mapping::Unallocated,
        }
    }
}
