//! A disk that loses its end, of which nothing was used.

use std::ops::Range;

use super::super::below::Parents;
use super::super::read::fill;
use super::text::Lines;
use super::{Resizing, end_in_file, refused, unsupported};
use crate::buffer::Buffer;
use crate::descriptor::Access;
use crate::error::Result;
use crate::extent::resizing::{check_shrink, read_header, show_fewer, shrink};
use crate::extent::{Emptying, Extent, HostFile, SparseExtent, Surroundings};
use crate::format::SparseHeader;
use crate::mapping::Place;
use crate::sector::{SECTOR_BYTES, is_zero, to_usize};

/// Sectors that are looked at together.
const STEP: u64 = 2048;

/// What a smaller disk consists of.
pub(super) struct Shrinking {
    text: Option<Vec<u8>>,
    lines: Lines,
    /// Nothing changes but what an earlier call has left.
    is_same: bool,
}

impl Shrinking {
    /// Finds out whether the disk can have only so many sectors, which are no more than it has. Nothing is changed.
    pub(super) fn plan(resizing: &mut Resizing<'_, '_>, capacity: u64) -> Result<Self> {
        let extents = resizing.extents();
        let kept = extents.partition_point(|extent| extent.start_sector() < capacity);
        let last_sectors = kept
            .checked_sub(1)
            .and_then(|last| extents.get(last))
            .map_or(0, |last| capacity.min(last.start_sector() + last.sectors()) - last.start_sector());
        let lines = Lines { kept, last_sectors, added: Vec::new() };
        if capacity == resizing.disk().capacity {
            let text = resizing.own.as_ref().map(|own| own.descriptor().as_bytes().to_vec());
            return Ok(Self { text, lines, is_same: true });
        }
        let loses = |extent: &&Extent| extent.start_sector() + extent.sectors() > capacity;
        if extents.iter().filter(loses).any(|extent| extent.access() != Access::ReadWrite) {
            return unsupported("an extent that would become smaller is RDONLY or NOACCESS in the descriptor");
        }
        if let Some(header) = kept.checked_sub(1).and_then(|last| extents.get(last)?.header()) {
            check_shrink(header, last_sectors)?;
        }
        let text = resizing.text(capacity, &lines)?;
        check_zero(resizing, capacity)?;
        Ok(Self { text, lines, is_same: false })
    }

    /// Lets the disk be smaller, and then gives back what it does not need any more.
    pub(super) fn carry_out(self, resizing: &mut Resizing<'_, '_>, tidies: bool) -> Result<()> {
        resizing.replace(self.text.as_deref())?;
        let number = self.lines.kept.saturating_sub(1);
        let last = resizing.extents().get(number).filter(|extent| tidies && extent.access() == Access::ReadWrite);
        let mut smaller = None;
        if let Some(last) = last.filter(|_| resizing.own.is_none()) {
            smaller = Some((last, self.lines.last_sectors));
            // What the extent hides of its parents would come to light in a disk that is still large; without a
            // descriptor nobody knows whether it has any.
            let links = &resizing.disk().links;
            if (links.len() > 1 || links[0].lacks_descriptor())
                && let Some(file) = last.shared_file()
            {
                show_fewer(file, &read_header(file)?, self.lines.last_sectors)?;
            }
        }
        if let Some(last) = last.filter(|_| !resizing.is_shared(number)) {
            match last.sparse() {
                Some(sparse) => {
                    let trimmed = trim_sparse(resizing, last, sparse, self.lines.last_sectors)?;
                    smaller = trimmed.or(smaller);
                }
                None => trim_flat(last, self.lines.last_sectors)?,
            }
        }
        resizing.image.close()?;
        if let Some((extent, sectors)) = smaller
            && let Some(file) = extent.shared_file()
        {
            shrink(file, &read_header(file)?, sectors, &mut || resizing.tell(0, 1))?;
            file.sync()?;
        }
        if !self.is_same {
            remove_files(resizing, self.lines.kept)?;
        }
        resizing.tell(1, 1)
    }
}

/// Refuses a size with which something would be lost that is not zero.
fn check_zero(resizing: &mut Resizing<'_, '_>, capacity: u64) -> Result<()> {
    let disk = resizing.disk();
    let total = (disk.capacity - capacity) * SECTOR_BYTES;
    let mut buffer = Buffer::default();
    let mut at = capacity;
    while at < disk.capacity {
        let (run, _) = disk.resolve(at, disk.capacity - at)?;
        let mut done = 0;
        while done < run.sectors {
            let step = match run.place {
                Place::Zero | Place::Unallocated => (true, run.sectors - done),
                Place::Data { file, offset } => file.is_hole(offset + done * SECTOR_BYTES, run.sectors - done)?,
                Place::Compressed { .. } => (false, run.sectors - done),
            };
            let (is_hole, sectors) = if step.0 { step } else { (false, step.1.min(STEP)) };
            if !is_hole {
                if buffer.is_empty() {
                    buffer = Buffer::new(to_usize(STEP * SECTOR_BYTES));
                }
                let bytes = &mut buffer[..to_usize(sectors * SECTOR_BYTES)];
                fill(&run, done * SECTOR_BYTES, bytes)?;
                if !is_zero(bytes) {
                    let from = (at + done) * SECTOR_BYTES;
                    return refused(format!(
                        "a disk of {capacity} sectors would lose data: there is something at or after byte {from}"
                    ));
                }
            }
            done += sectors;
            resizing.tell((at + done - capacity) * SECTOR_BYTES, total)?;
        }
        at += run.sectors;
    }
    Ok(())
}

/// Takes away the grains of an extent that lie beyond `sectors`, if its header has so many and there is nothing in them
/// but zeros. Says whether its header is to follow once it is closed.
fn trim_sparse<'a>(
    resizing: &mut Resizing<'a, '_>,
    extent: &'a Extent,
    sparse: &SparseExtent,
    sectors: u64,
) -> Result<Option<(&'a Extent, u64)>> {
    let capacity = extent.header().map_or(0, SparseHeader::capacity);
    if capacity <= sectors {
        return Ok(None);
    }
    let beyond = sectors.next_multiple_of(sparse.grain_sectors())..capacity;
    if !holds_zeros(sparse, beyond.clone())? {
        return Ok(None);
    }
    let below = Parents::of(resizing.disk(), extent);
    let begin = || Ok(());
    let around = Surroundings { below: &below, begin: &begin, sectors: capacity };
    let mut at = beyond.start;
    while at < beyond.end {
        let run = sparse.map_to_write(at, beyond.end - at)?;
        let grains = at / sparse.grain_sectors()..(at + run.sectors).div_ceil(sparse.grain_sectors());
        if matches!(run.place, Place::Data { .. }) {
            sparse.empty_grains(grains, Emptying::Unallocate, around)?;
        }
        at += run.sectors;
        resizing.tell(0, 1)?;
    }
    sparse.give_back(false, around, &mut |_| resizing.tell(0, 1))?;
    Ok(Some((extent, sectors)))
}

/// Whether an extent itself has nothing but zeros in these sectors.
fn holds_zeros(sparse: &SparseExtent, sectors: Range<u64>) -> Result<bool> {
    let mut at = sectors.start;
    while at < sectors.end {
        let run = sparse.map_to_write(at, sectors.end - at)?;
        if let Place::Data { file, offset } = run.place
            && !file.is_zero(offset..offset + run.sectors * SECTOR_BYTES)?
        {
            return Ok(false);
        }
        at += run.sectors;
    }
    Ok(true)
}

/// Cuts the file of a flat extent, if there is nothing but zeros behind its new end.
fn trim_flat(extent: &Extent, sectors: u64) -> Result<()> {
    let (Some(file), Some(end)) = (extent.file(), end_in_file(extent, sectors)) else { return Ok(()) };
    if end < file.len() && file.is_zero(end..file.len())? {
        file.set_len(end)?;
        file.sync()?;
    }
    Ok(())
}

/// Whether the file of an extent may hold something in front of what its line names, or behind it.
fn has_more(extent: &Extent) -> Result<bool> {
    let Some(file) = extent.file() else { return Ok(false) };
    if let Some(header) = extent.header() {
        return Ok(header.capacity() > extent.sectors());
    }
    let len = file.len();
    let start = extent.file_offset().unwrap_or(0).min(len);
    let end = end_in_file(extent, extent.sectors()).unwrap_or(len).min(len);
    Ok(!(file.is_zero(0..start)? && file.is_zero(end..len)?))
}

/// Removes the files of the extents from this number on, which no other extent lies in, if they are beside the
/// descriptor and hold nothing that is not of the extent.
fn remove_files(resizing: &mut Resizing<'_, '_>, kept: usize) -> Result<()> {
    let dir = resizing.disk().links[0].path().parent();
    let mut names = Vec::new();
    for (number, extent) in resizing.extents().iter().enumerate().skip(kept) {
        let Some(path) = extent.file().map(HostFile::path).filter(|path| path.parent() == dir) else { continue };
        let is_alone = !resizing.is_shared(number) && !has_more(extent)?;
        if let (Some(name), true) = (path.file_name().and_then(|name| name.to_str()), is_alone) {
            names.push(name.to_owned());
        }
    }
    for name in names {
        resizing.directory.remove(&name)?;
        resizing.report.files_removed.push(name);
    }
    if resizing.report.files_removed.is_empty() { Ok(()) } else { resizing.directory.sync() }
}
