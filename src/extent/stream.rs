//! A compressed extent: its grains are found as those of any sparse extent, and inflated when they are read.
//!
//! ```text
//! sector -> grain table entry -> marker: size, and the sector again -> compressed data -> grain cache -> caller
//!        -> index of markers  ->   (salvage)
//! ```
//!
//! A grain is believed if its marker names the sector it was looked for, and its checksum is right.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use byteorder::{ByteOrder, LittleEndian};

use super::grain_cache::Key;
use super::inflation::{Inflation, Tools};
use super::marker_index::MarkerIndex;
use super::{HostFile, Salvaged, SparseExtent};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BlockSizes, GRAIN_MARKER_LEN, KdmvHeader, MARKER_LEN, Marker};
use crate::mapping::{Place, Run};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};

/// Bytes that are read of a grain before its size is known: a page, in which the small ones lie as a whole.
const FIRST_READ: usize = 4096;

/// A compressed extent that is open.
#[derive(Debug)]
pub(crate) struct StreamExtent {
    file: Arc<HostFile>,
    lookup: Lookup,
    sizes: BlockSizes,
    /// Sectors of the extent, as its header has it.
    sectors: u64,
    grain_sectors: u64,
    has_markers: bool,
    inflation: Arc<Inflation>,
    /// Its number among those that share that.
    number: usize,
    /// Of an extent that was opened by its markers: the grains that turned out to be damaged.
    damaged: Mutex<BTreeSet<u64>>,
}

/// How grains are found.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// Through the directory and the tables.
    Tables(Box<SparseExtent>),
    /// Through what was found by going from marker to marker.
    Markers(MarkerIndex),
}

/// A compressed grain in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompressedGrain<'a> {
    extent: &'a StreamExtent,
    /// Its number in the extent.
    grain: u64,
    /// Where it begins in the file, with its marker or size, in bytes.
    offset: u64,
}

impl StreamExtent {
    /// Opens the extent in `file`. The header is the one in front; if a footer knows more, the lookup was made by that.
    pub(crate) fn open(
        file: Arc<HostFile>,
        header: &KdmvHeader,
        lookup: Lookup,
        inflation: Arc<Inflation>,
    ) -> Result<Self> {
        let number = inflation.grains().join();
        Ok(Self {
            file,
            lookup,
            sizes: BlockSizes::of(header)?,
            sectors: header.capacity,
            grain_sectors: header.grain_size,
            has_markers: header.has_markers(),
            inflation,
            number,
            damaged: Mutex::default(),
        })
    }

    pub(crate) fn file(&self) -> &Arc<HostFile> {
        &self.file
    }

    /// Sectors of a grain.
    pub(crate) fn grain_sectors(&self) -> u64 {
        self.grain_sectors
    }

    /// Bytes of memory that it takes to find grains.
    pub(crate) fn directory_len(&self) -> usize {
        match &self.lookup {
            Lookup::Tables(tables) => tables.directory_len(),
            Lookup::Markers(index) => index.memory(),
        }
    }

    /// How often the redundant tables had to stand in.
    pub(crate) fn redundant_stand_ins(&self) -> u64 {
        match &self.lookup {
            Lookup::Tables(tables) => tables.redundant_stand_ins(),
            Lookup::Markers(_) => 0,
        }
    }

    /// What was found of it so far, if it was opened by its markers.
    pub(crate) fn salvaged(&self) -> Option<Salvaged> {
        match &self.lookup {
            Lookup::Tables(_) => None,
            Lookup::Markers(index) => {
                let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
                let damaged_sectors = damaged.iter().map(|grain| grain * self.grain_sectors).collect();
                Some(Salvaged { damaged_sectors, ..index.found().clone() })
            }
        }
    }

    /// Where `sector` is, and for how many of the next `max` sectors the same run goes on, which ends with the grain at
    /// the latest if that is there. The caller has checked that they lie within the capacity and that `max` is not 0.
    pub(crate) fn map(&self, sector: u64, max: u64) -> Result<Run<'_>> {
        let skip = sector & (self.grain_sectors - 1);
        let (grain, first) = (sector / self.grain_sectors, sector - skip);
        let found = match &self.lookup {
            // As for a write: whatever its size, a grain that begins in the file is there.
            Lookup::Tables(tables) => tables.map_to_write(first, max + skip)?,
            Lookup::Markers(index) => index.find(grain, self.grain_sectors, max + skip, &self.file),
        };
        if let Place::Data { offset, .. } = found.place {
            let grain = CompressedGrain { extent: self, grain, offset };
            let place = Place::Compressed { grain, skip: skip * SECTOR_BYTES };
            return Ok(Run::new(place, (self.grain_sectors - skip).min(max)));
        }
        Ok(Run::new(found.place, (found.sectors - skip).min(max)))
    }

    fn grain_len(&self) -> usize {
        to_usize(self.grain_sectors).saturating_mul(SECTOR_SIZE)
    }
}

impl CompressedGrain<'_> {
    /// The file that holds it.
    pub(crate) fn file(&self) -> &HostFile {
        &self.extent.file
    }

    /// Where it begins there, with its marker or size, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether it begins with a marker, and not with its size alone.
    pub(crate) fn has_marker(&self) -> bool {
        self.extent.has_markers
    }

    /// Fills `buf` with its content from the byte `skip` on.
    pub(crate) fn read(&self, skip: u64, buf: &mut [u8]) -> Result<()> {
        let extent = self.extent;
        let key = Key { extent: extent.number, grain: self.grain };
        let (skip, len) = (to_usize(skip), extent.grain_len());
        let grains = extent.inflation.grains();
        if grains.copy(key, skip, buf) {
            return Ok(());
        }
        // Who takes all of it at once will not come back for it.
        if buf.len() == len {
            return self.inflate(buf);
        }
        grains.copy_or_inflate(key, len, skip, buf, |content| self.inflate(content))
    }

    /// Fills `content`, which has the length of a grain.
    fn inflate(&self, content: &mut [u8]) -> Result<()> {
        let extent = self.extent;
        let inflated = extent.inflation.with_tools(|tools| self.inflate_with(tools, content));
        match (inflated, &extent.lookup) {
            (Err(error), Lookup::Markers(_)) if error.kind() == ErrorKind::Corrupt => {
                extent.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(self.grain);
                content.fill(0);
                Ok(())
            }
            (inflated, _) => inflated.map_err(|error| error.in_file(extent.file.path())),
        }
    }

    fn inflate_with(&self, tools: &mut Tools, content: &mut [u8]) -> Result<()> {
        let extent = self.extent;
        let lba = self.grain * extent.grain_sectors;
        if tools.data.len() < FIRST_READ {
            tools.data.resize(FIRST_READ, 0);
        }
        // What the file does not have is zero here, and no size.
        extent.file.read(&mut tools.data[..FIRST_READ], self.offset)?;
        let (start, size) = self.data_range(&tools.data, lba)?;
        let end = start + to_usize(size.into());
        if self.offset.checked_add(end as u64).is_none_or(|end| end > extent.file.len()) {
            return Err(self.bad("size", self.size_offset(), size.into(), "the grain ends past the end of the file"));
        }
        if end > FIRST_READ {
            if tools.data.len() < end {
                tools.data.resize(end, 0);
            }
            extent.file.read(&mut tools.data[FIRST_READ..end], self.offset + FIRST_READ as u64)?;
        }
        // Headers round the capacity up, and the last grain ends with the disk.
        let is_last = extent.sectors - lba <= extent.grain_sectors;
        let needed = if is_last { 1 } else { extent.grain_len() };
        let inflated = tools.inflater.grain(&tools.data[start..end], content, needed);
        inflated.map_err(|problem| {
            let text = format!("the grain of sector {lba}, at offset {:#x}: {problem}", self.offset);
            Error::text(ErrorKind::Corrupt, text)
        })
    }

    /// Where behind the beginning of the grain its data begins, and how many bytes it has.
    fn data_range(&self, start: &[u8], lba: u64) -> Result<(usize, u32)> {
        let extent = self.extent;
        let (data, size) = if extent.has_markers {
            let marker = start.first_chunk::<MARKER_LEN>().map(Marker::decode);
            let Some(Marker::Grain { lba: found, size }) = marker else {
                let problem = "the table leads to something that is no grain";
                return Err(self.bad("size", self.size_offset(), 0, problem));
            };
            if found != lba {
                let problem = format!("the table leads to the grain of another sector than {lba:#x}");
                return Err(self.bad("lba", self.offset, found, problem));
            }
            (GRAIN_MARKER_LEN, size)
        } else {
            (size_of::<u32>(), LittleEndian::read_u32(start))
        };
        let checked = extent.sizes.check_size(size);
        checked.map_err(|(field, value, problem)| self.bad(field, self.size_offset(), value, problem))?;
        Ok((data, size))
    }

    fn size_offset(&self) -> u64 {
        self.offset + if self.extent.has_markers { size_of::<u64>() as u64 } else { 0 }
    }

    #[cold]
    fn bad(
        &self,
        field: &'static str,
        offset: u64,
        value: u64,
        problem: impl Into<std::borrow::Cow<'static, str>>,
    ) -> Error {
        Error::field("grain marker", field, offset, value, problem).in_file(self.extent.file.path())
    }
}
