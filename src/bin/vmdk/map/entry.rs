//! One entry of the map: a stretch of the disk that is all in one state.

use std::path::Path;

use vmdk::{Extent, HostFile, MappedRun, Mapping, SECTOR_SIZE, VmdkImage};

use crate::failure::Result;

/// Bytes in a sector.
pub(super) const SECTOR: u64 = SECTOR_SIZE as u64;

/// A stretch of the disk, in bytes, and what is known of it. The words are those of `qemu-img map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the words of qemu-img map")]
pub(super) struct Entry<'a> {
    pub(super) start: u64,
    pub(super) length: u64,
    /// The link that answered: 0 is the image itself, 1 its parent, and so on.
    pub(super) depth: usize,
    /// Whether a link has it, be it as zeros.
    pub(super) present: bool,
    /// Whether it reads as zeros.
    pub(super) zero: bool,
    /// Whether there is room for it in a file.
    pub(super) data: bool,
    /// Whether it lies there compressed, so that it has no place of its own.
    pub(super) compressed: bool,
    /// The file that has it, and where it begins in there.
    pub(super) place: Option<(&'a Path, u64)>,
}

impl Entry<'_> {
    /// Takes `next` into this entry if the two are one, on the host as well; says whether it did.
    pub(super) fn absorb(&mut self, next: &Self) -> bool {
        let is_contiguous = match (self.place, next.place) {
            (None, None) => true,
            (Some((path, offset)), Some((next_path, next_offset))) => {
                offset + self.length == next_offset && path == next_path
            }
            _ => false,
        };
        let state = |entry: &Self| (entry.depth, entry.present, entry.zero, entry.data, entry.compressed);
        let joined = is_contiguous && state(self) == state(next);
        if joined {
            self.length += next.length;
        }
        joined
    }
}

/// What makes entries of runs.
pub(super) struct Lookup<'a> {
    pub(super) image: &'a VmdkImage,
    /// The link whose descendants alone are asked: the length of the chain asks all of it.
    pub(super) base: usize,
}

impl<'a> Lookup<'a> {
    /// The entry that begins at the byte `at`, which lies in `run`. It ends with the run at the latest.
    pub(super) fn entry(&self, run: &MappedRun, at: u64) -> Result<Entry<'a>> {
        let length = (run.start + run.sectors) * SECTOR - at;
        let known = Entry {
            start: at,
            length,
            depth: run.depth,
            present: true,
            zero: false,
            data: false,
            compressed: false,
            place: None,
        };
        if matches!(run.mapping, Mapping::Unallocated) {
            return Ok(self.absent(known));
        }
        // A link that is too short for its parent masks it by zeros that no extent has.
        let Some(extent) = self.extent(run.depth, at / SECTOR) else { return Ok(Entry { zero: true, ..known }) };
        let first = extent.start_sector() * SECTOR;
        let known = Entry { length: length.min(first + extent.sectors() * SECTOR - at), ..known };
        match (&run.mapping, extent.file(), extent.file_offset()) {
            (_, Some(file), Some(offset)) => flat(known, file, offset + (at - first)),
            (Mapping::Zero, ..) => Ok(Entry { zero: true, ..known }),
            (Mapping::Data { offset, .. }, Some(file), _) => {
                let offset = offset + (at - run.start * SECTOR);
                Ok(Entry { data: true, place: Some((file.path(), offset)), ..known })
            }
            (Mapping::Compressed { .. }, ..) => Ok(Entry { data: true, compressed: true, ..known }),
            // Data that cannot be read where it lies.
            _ => Ok(Entry { data: true, ..known }),
        }
    }

    /// What no link has that was asked.
    fn absent(&self, known: Entry<'a>) -> Entry<'a> {
        let base_end = self.image.chain().get(self.base).map_or(0, |base| base.capacity_sectors() * SECTOR);
        let known = Entry { present: false, ..known };
        if known.start < base_end {
            // It is what it was, which may be anything.
            Entry { length: known.length.min(base_end - known.start), ..known }
        } else {
            Entry { zero: true, ..known }
        }
    }

    /// The extent that has a sector of a link.
    fn extent(&self, depth: usize, sector: u64) -> Option<&'a Extent> {
        let extents = self.image.chain().get(depth)?.extents();
        let index = extents.partition_point(|extent| extent.start_sector() <= sector).checked_sub(1)?;
        extents.get(index).filter(|extent| sector - extent.start_sector() < extent.sectors())
    }
}

/// What a flat file has at `offset`: holes of the host, and what lies past the end of the file, are zeros that have
/// their place.
fn flat<'a>(known: Entry<'a>, file: &'a HostFile, offset: u64) -> Result<Entry<'a>> {
    let (zero, length) = match file.next_data(offset)? {
        Some(data) if data.start <= offset => (false, data.end - offset),
        Some(data) => (true, data.start - offset),
        None => (true, u64::MAX),
    };
    let length = known.length.min(length);
    Ok(Entry { length, zero, data: true, place: Some((file.path(), offset)), ..known })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a.vmdk";

    fn entry(start: u64, place: Option<(&str, u64)>) -> Entry<'_> {
        let place = place.map(|(path, offset)| (Path::new(path), offset));
        Entry {
            start,
            length: 10,
            depth: 0,
            present: true,
            zero: false,
            data: place.is_some(),
            compressed: false,
            place,
        }
    }

    #[test]
    fn entries_that_are_contiguous_on_the_host_become_one() {
        let mut first = entry(0, Some((A, 100)));
        assert!(first.absorb(&entry(10, Some((A, 110)))));
        assert!(first.absorb(&entry(20, Some((A, 120)))));
        assert_eq!(first, Entry { length: 30, ..entry(0, Some((A, 100))) });
        assert!(entry(0, None).absorb(&entry(10, None)));
    }

    #[test]
    fn entries_that_differ_in_anything_stay_apart() {
        let others = [
            entry(10, Some((A, 111))),
            entry(10, Some(("b.vmdk", 110))),
            entry(10, None),
            Entry { depth: 1, ..entry(10, Some((A, 110))) },
            Entry { zero: true, ..entry(10, Some((A, 110))) },
            Entry { present: false, ..entry(10, Some((A, 110))) },
            Entry { data: false, ..entry(10, Some((A, 110))) },
        ];
        for other in others {
            let mut first = entry(0, Some((A, 100)));
            assert!(!first.absorb(&other), "{other:?}");
            assert_eq!(first, entry(0, Some((A, 100))));
        }
    }
}
