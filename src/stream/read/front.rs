//! What stands in front of the blocks of a stream: the header, the descriptor, and tables or zeros.

use std::io::Read;

use super::source::Source;
use super::tables::{FrontTables, sector_of};
use crate::descriptor::Descriptor;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{FileKind, KdmvHeader};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, is_zero, to_usize};

/// What is known of a stream before its first block.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) header: KdmvHeader,
    pub(super) descriptor: Descriptor,
    /// There if the tables are in front, and unless they have passed by in an order in which they cannot be known.
    pub(super) tables: Option<FrontTables>,
}

impl Front {
    /// Reads header and descriptor, and nothing behind that.
    pub(super) fn read<R: Read>(source: &mut Source<R>) -> Result<Self> {
        let mut sector = [0; SECTOR_SIZE];
        let len = source.fill(&mut sector)?;
        let header = header(&sector[..len])?;
        header.check_readable(false)?;
        if !header.is_compressed() {
            let text = "a sparse extent that is not compressed is found by its tables only, and cannot be read as a \
                        stream";
            return Err(Error::text(ErrorKind::Unsupported, text));
        }
        if !header.has_markers() {
            let text = "compressed grains without markers are found by their tables only, and cannot be read as a \
                        stream";
            return Err(Error::text(ErrorKind::Unsupported, text));
        }
        header.check_sizes()?;
        let descriptor = read_descriptor(source, &header)?;
        let tables = FrontTables::of(&header, header.over_head);
        Ok(Self { header, descriptor, tables })
    }

    /// Goes on to the first block. The input may end before.
    ///
    /// Where the tables are in front, all up to `overHead` belongs to them. Else there are zeros, and what is no zero
    /// is the first block, wherever the header says that it is. A header that says nothing has zeros of any number.
    pub(super) fn pass<R: Read>(&mut self, source: &mut Source<R>) -> Result<()> {
        let end = self.header.over_head.saturating_mul(SECTOR_BYTES);
        if let Some(tables) = &mut self.tables {
            let mut at = sector_of(source.offset());
            let len = end.saturating_sub(source.offset());
            source.pass(len, |bytes| {
                tables.look(at, bytes);
                at += (bytes.len() / SECTOR_SIZE) as u64;
            })?;
            self.tables = self.tables.take().filter(FrontTables::are_known);
            return Ok(());
        }
        let is_known = source.offset() < end;
        let mut sector = [0; SECTOR_SIZE];
        while !is_known || source.offset() < end {
            let len = source.fill(&mut sector)?;
            if len == SECTOR_SIZE && !is_zero(&sector) {
                source.give_back(&sector);
                break;
            }
            if len < SECTOR_SIZE {
                break;
            }
        }
        Ok(())
    }
}

/// The header that the first bytes of a stream are.
fn header(start: &[u8]) -> Result<KdmvHeader> {
    match FileKind::of(start) {
        FileKind::Kdmv => {}
        FileKind::UnfinishedKdmv => {
            let text = "an unfinished image: its writer stopped before it set the magic to \"KDMV\"";
            return Err(Error::text(ErrorKind::Incomplete, text));
        }
        FileKind::Cowd | FileKind::SeSparse => {
            let text = "an extent of ESX is found by its tables only, and cannot be read as a stream";
            return Err(Error::text(ErrorKind::Unsupported, text));
        }
        FileKind::ChangeTracking | FileKind::Other => {
            let text = "not a stream: it does not begin with the header of a sparse extent";
            return Err(Error::text(ErrorKind::NotVmdk, text));
        }
    }
    let header = start.first_chunk().and_then(KdmvHeader::decode);
    header.ok_or_else(|| Error::text(ErrorKind::Corrupt, "the stream ends within its header"))
}

fn read_descriptor<R: Read>(source: &mut Source<R>, header: &KdmvHeader) -> Result<Descriptor> {
    let Some(region) = header.descriptor_region(u64::MAX)? else { return Ok(Descriptor::empty()) };
    let before = region
        .start
        .checked_sub(source.offset())
        .ok_or_else(|| Error::text(ErrorKind::Corrupt, "the descriptor reaches over the header of the stream"))?;
    let mut text = vec![0; to_usize(region.end - region.start)];
    if source.pass(before, |_| {})? < before || source.fill(&mut text)? < text.len() {
        let text = format!("the stream ends at offset {:#x}, within its descriptor", source.offset());
        return Err(Error::text(ErrorKind::Corrupt, text));
    }
    // Zeros are room for a descriptor that is not there.
    let descriptor = if is_zero(&text) { Descriptor::empty() } else { Descriptor::parse(&text)? };
    descriptor.check_not_encrypted()?;
    Ok(descriptor)
}
