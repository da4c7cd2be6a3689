//! The grains of a stream whose tables are lost, found by going from marker to marker.
//!
//! A stream that was cut has lost its end first, and with it, in most layouts, the directory and the last tables. The
//! grains that are there can be found all the same: each marker says where the next one is.

use std::fmt;
use std::sync::Arc;

use super::{HostFile, SparseExtent};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BlockSizes, GRAIN_MARKER_LEN, KdmvHeader, MARKER_LEN, Marker};
use crate::mapping::{Place, Run};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, is_zero};

/// The most markers of grains that are remembered: 2 TiB of usual grains, for which it takes 512 MiB.
const MAX_MARKERS: usize = 32 << 20;

/// Bytes that are looked through at once for what is not zero.
const STEP: usize = 64 << 10;

/// Why a stream was left at what looks like its end: zeros in the place of what was lost do.
const EARLY_END: &str = "zeros, or an end, stand where the header promises more";

/// What was found of a stream that was opened by its markers; see
/// [`OpenOptions::salvage`](crate::OpenOptions::salvage).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Salvaged {
    /// Grains that are there. One that stands in the stream twice counts once: the later one is read.
    pub grains: u64,
    /// The sector of the extent behind the last of them; 0 if there is none.
    pub end_sector: u64,
    /// Where in the file the stream was left, in bytes.
    pub end_offset: u64,
    /// Why it was left there; `None` at the end of the stream. Where nothing marks the end, as in streams by QEMU, the
    /// tables say whether all of it is there.
    pub problem: Option<&'static str>,
    /// Grains that the tables name and that are not there; `None` if there are no tables that could say so.
    pub missing_grains: Option<u64>,
    /// The first sectors of grains that are there and turned out to be damaged when they were read, in ascending order.
    pub damaged_sectors: Vec<u64>,
}

impl Salvaged {
    /// Whether nothing is known to be missing.
    pub fn is_complete(&self) -> bool {
        // Tables that were lost with the rest, and are zeros as well, name nothing.
        self.damaged_sectors.is_empty()
            && self.problem != Some(EARLY_END)
            && match self.missing_grains {
                Some(missing) => missing == 0,
                None => self.problem.is_none(),
            }
    }
}

impl fmt::Display for Salvaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} grains up to sector {}", self.grains, self.end_sector)?;
        if let Some(problem) = self.problem {
            write!(f, "; the stream was left at offset {:#x}: {problem}", self.end_offset)?;
        }
        match self.missing_grains {
            Some(0) => {}
            Some(missing) => write!(f, "; {missing} grains that the tables name are missing")?,
            None => write!(f, "; no table says what else there should be")?,
        }
        match &*self.damaged_sectors {
            [] => Ok(()),
            damaged @ [first, ..] => write!(f, "; damaged: {}, the first at sector {first}", damaged.len()),
        }
    }
}

/// The grains of a stream and where they are.
#[derive(Debug)]
pub(crate) struct MarkerIndex {
    /// The number of each grain and the offset of its marker in bytes, in the order of the numbers.
    grains: Vec<(u64, u64)>,
    found: Salvaged,
}

impl MarkerIndex {
    /// Goes through the stream in `file`. Sixteen bytes are kept of each grain, which has 512 bytes in the file at
    /// least.
    ///
    /// # Errors
    /// What the host reports.
    pub(crate) fn build(file: &HostFile, header: &KdmvHeader) -> Result<Self> {
        let sizes = BlockSizes::of(header)?;
        let mut at = first_block(file, header, &sizes)?;
        let mut grains = Vec::new();
        let mut has_footer = false;
        let problem = loop {
            let (marker, end) = match read_block(file, &sizes, at)? {
                Ok((Marker::End, _)) => break is_early(header, at, has_footer).then_some(EARLY_END),
                Ok(block) => block,
                Err(problem) => break Some(problem),
            };
            match marker {
                Marker::Grain { .. } if grains.len() == MAX_MARKERS => {
                    let text = format!("a stream of more than {MAX_MARKERS} grains is not read by its markers");
                    return Err(Error::text(ErrorKind::Unsupported, text));
                }
                Marker::Grain { lba, .. } => grains.push((lba / header.grain_size, at)),
                Marker::Footer { .. } => has_footer = true,
                _ => {}
            }
            at = end;
        };
        // Of those with one number the later one is to be found.
        grains.sort_unstable_by_key(|&(grain, offset)| (grain, std::cmp::Reverse(offset)));
        grains.dedup_by_key(|&mut (grain, _)| grain);
        let end_sector = grains.last().map_or(0, |(grain, _)| (grain + 1) * header.grain_size);
        let found = Salvaged {
            grains: grains.len() as u64,
            end_sector: end_sector.min(header.capacity),
            end_offset: at,
            problem,
            missing_grains: None,
            damaged_sectors: Vec::new(),
        };
        Ok(Self { grains, found })
    }

    /// Compares it with the tables, if they can be read.
    pub(crate) fn compare_with(&mut self, tables: &SparseExtent) {
        let mut missing = 0;
        let counted = tables.for_each_grain(|grain| missing += u64::from(self.offset_of(grain).is_err()));
        self.found.missing_grains = counted.is_ok().then_some(missing);
    }

    pub(crate) fn found(&self) -> &Salvaged {
        &self.found
    }

    /// The number of each grain and the offset of its marker in bytes, in the order of the numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.grains.iter().copied()
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        size_of_val(&*self.grains)
    }

    /// Where a grain is, as a run of its sectors; or how many of the next `max` sectors from its beginning on are not
    /// there.
    pub(crate) fn find<'a>(&self, grain: u64, grain_sectors: u64, max: u64, file: &'a Arc<HostFile>) -> Run<'a> {
        match self.offset_of(grain) {
            Ok(offset) => Run::new(Place::Data { file, offset }, grain_sectors),
            Err(next) => {
                let until = self.grains.get(next).map_or(u64::MAX, |(next, _)| (next - grain) * grain_sectors);
                Run::new(Place::Unallocated, until.min(max))
            }
        }
    }

    /// Where a grain is, or the place of the next one in `grains`.
    fn offset_of(&self, grain: u64) -> Result<u64, usize> {
        let place = self.grains.binary_search_by_key(&grain, |&(grain, _)| grain);
        place.map(|at| self.grains[at].1)
    }
}

/// Whether the footer or the directory that the header speaks of cannot have come before the byte `end`.
fn is_early(header: &KdmvHeader, end: u64, has_footer: bool) -> bool {
    if header.is_directory_at_end() { !has_footer } else { header.gd_offset >= end / SECTOR_BYTES }
}

/// Where the first block is, in bytes: behind the metadata in front, or, if what is there cannot be a block, or is an
/// end that something follows, behind the descriptor and the zeros behind that.
fn first_block(file: &HostFile, header: &KdmvHeader, sizes: &BlockSizes) -> Result<u64> {
    let over_head = header.over_head.saturating_mul(SECTOR_BYTES);
    let is_inside = over_head > 0 && over_head < file.len();
    let there = if is_inside { read_block(file, sizes, over_head)?.ok() } else { None };
    match there {
        Some((Marker::End, _)) => Ok(next_sector_with_data(file, over_head)?.unwrap_or(over_head)),
        Some(_) => Ok(over_head),
        None => {
            let descriptor = header.descriptor_region(file.len()).ok().flatten();
            let behind = descriptor.map_or(SECTOR_BYTES, |region| region.end);
            Ok(next_sector_with_data(file, behind)?.unwrap_or(file.len()))
        }
    }
}

/// The first sector from the byte `at` on, which begins one, that is not all zeros.
fn next_sector_with_data(file: &HostFile, mut at: u64) -> Result<Option<u64>> {
    let mut bytes = vec![0; STEP];
    while let Some(data) = file.next_data(at)? {
        at = at.max(data.start / SECTOR_BYTES * SECTOR_BYTES);
        file.read(&mut bytes, at)?;
        if let Some(sector) = bytes.chunks(SECTOR_SIZE).position(|sector| !is_zero(sector)) {
            return Ok(Some(at + sector as u64 * SECTOR_BYTES));
        }
        at += STEP as u64;
    }
    Ok(None)
}

/// The block at `at` and where it ends, in bytes; or why there is none.
fn read_block(file: &HostFile, sizes: &BlockSizes, at: u64) -> Result<Result<(Marker, u64), &'static str>> {
    if at + MARKER_LEN as u64 > file.len() {
        return Ok(Err("the file ends without an end of the stream"));
    }
    let mut bytes = [0; MARKER_LEN];
    file.read(&mut bytes, at)?;
    let marker = Marker::decode(&bytes);
    Ok(match sizes.sectors_of(marker) {
        Err((_, _, problem)) => Err(problem),
        // The padding of the last sector may be missing.
        Ok(sectors) => match at.checked_add((sectors - 1) * SECTOR_BYTES) {
            Some(last) if last < file.len() && data_ends(marker, at) <= file.len() => Ok((marker, last + SECTOR_BYTES)),
            _ => Err("the file ends within a block"),
        },
    })
}

/// Where what belongs to a block ends, in bytes, without padding.
fn data_ends(marker: Marker, at: u64) -> u64 {
    match marker {
        Marker::Grain { size, .. } => at + GRAIN_MARKER_LEN as u64 + u64::from(size),
        _ => at,
    }
}
