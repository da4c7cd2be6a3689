//! The disks of VMware 3 that consist of several COWD files: `name.vmdk`, `name-02.vmdk`, `name-03.vmdk`.
//!
//! Every file is a whole COWD extent with a header of its own and says how many there are and which of them it is.
//! A root file gives the sectors of its own part; a child file gives those of the whole disk (Ken Kato), so its part
//! is what a file can hold, and the rest for the last. Bochs reads root files in the same way.
//!
//! The first file opens the disk, any other one only its own part, from sector 0 on. A part of a child is a disk
//! without a parent then: the sectors of the parent belong to the whole disk, and the part does not begin where that
//! does.

use std::path::Path;
use std::sync::Arc;

use super::LinkOptions;
use super::extents::{OwnExtent, open_file};
use super::sparse_file::SparseFile;
use crate::descriptor::{Access, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, HostFile};
use crate::format::CowdHeader;

/// The most files of a disk. The names have two digits.
const MAX_FILES: u32 = 99;

/// Whether a header is that of a disk in several files.
pub(super) fn is_part(header: &CowdHeader) -> bool {
    header.file_count > 1
}

/// What a file is that is one of several and not the first.
pub(crate) fn later_part(header: &CowdHeader) -> Option<String> {
    let CowdHeader { file_ordinal: ordinal, file_count: count, .. } = header;
    (1..*count).contains(ordinal).then(|| format!("file {} of a disk of {count} files", ordinal + 1))
}

/// Refuses a file that cannot be the parent of a disk because it is a part of one.
pub(super) fn check_as_parent(header: Option<&CowdHeader>) -> Result<()> {
    let Some(part) = header.and_then(later_part) else { return Ok(()) };
    let text = format!("{part}; the parent of a disk is the first one");
    Err(Error::text(ErrorKind::InvalidInput, text))
}

/// Opens all files of the disk whose first file is `own`; of any other file, its part alone.
pub(super) fn open(own: &OwnExtent<'_>, header: &CowdHeader, dir: &Path) -> Result<Vec<Extent>> {
    let count = header.file_count;
    if header.file_ordinal >= count {
        let text = format!("the file has the number {} among {count}, counted from 0", header.file_ordinal);
        return Err(Error::text(ErrorKind::Corrupt, text));
    }
    if count > MAX_FILES {
        return Err(Error::text(ErrorKind::Corrupt, format!("a disk of {count} files; at most {MAX_FILES} are read")));
    }
    let parts = Parts { header };
    let sectors = parts.sectors(header, header.file_ordinal)?;
    let mut extents = vec![own.open(Access::ReadWrite, ExtentKind::Sparse, sectors)?];
    if header.file_ordinal != 0 {
        return Ok(extents);
    }
    for ordinal in 1..count {
        let file = open_file(dir, &name(own.file.path(), ordinal)?, Access::ReadWrite, own.options)?;
        let extent = open_part(&file, &parts, ordinal, own.options).map_err(|error| error.in_file(file.path()))?;
        extents.push(extent);
    }
    Ok(extents)
}

fn open_part(file: &Arc<HostFile>, parts: &Parts<'_>, ordinal: u32, options: LinkOptions<'_>) -> Result<Extent> {
    let opened = SparseFile::open(file, options)?;
    let part = opened.header.as_cowd().filter(|part| part.file_count == parts.header.file_count);
    let Some(part) = part.filter(|part| part.file_ordinal == ordinal) else {
        let text = format!("not file {} of the {} files of the disk", ordinal + 1, parts.header.file_count);
        return Err(Error::text(ErrorKind::Corrupt, text));
    };
    let sectors = parts.sectors(part, ordinal)?;
    opened.into_extent(Access::ReadWrite, ExtentKind::Sparse, sectors)
}

/// How the disk is divided.
struct Parts<'a> {
    /// The header of the file that was opened.
    header: &'a CowdHeader,
}

impl Parts<'_> {
    /// Sectors of the part that has the header `part`.
    fn sectors(&self, part: &CowdHeader, ordinal: u32) -> Result<u64> {
        if !part.is_child() {
            return Ok(part.num_sectors.into());
        }
        let capacity = self.header.file_capacity;
        if capacity == 0 || part.file_capacity != capacity {
            let text = format!("the files of the disk hold {capacity} and {} sectors at most", part.file_capacity);
            return Err(Error::text(ErrorKind::Corrupt, text));
        }
        // What a root leaves open, a child says in the place where a root has its own part.
        let whole = if self.header.disk_sectors == 0 { self.header.num_sectors } else { self.header.disk_sectors };
        let before = u64::from(capacity) * u64::from(ordinal);
        let left = u64::from(whole).saturating_sub(before);
        let is_last = ordinal + 1 == self.header.file_count;
        if left == 0 || (is_last && left > capacity.into()) {
            let text = format!("{whole} sectors do not take {} files of {capacity}", self.header.file_count);
            return Err(Error::text(ErrorKind::Corrupt, text));
        }
        Ok(left.min(capacity.into()))
    }
}

/// What the file with an ordinal from 1 on is called.
fn name(first: &Path, ordinal: u32) -> Result<String> {
    let first = first.file_name().and_then(|name| name.to_str());
    let Some(first) = first else {
        return Err(Error::text(ErrorKind::Unsupported, "the name of a disk of several files must be UTF-8"));
    };
    Ok(part_name(first, ordinal))
}

/// What the file with an ordinal from 1 on is called, by the name of the first one.
pub(crate) fn part_name(first: &str, ordinal: u32) -> String {
    let (stem, extension) = match first.rfind('.') {
        Some(dot) => first.split_at(dot),
        None => (first, ""),
    };
    format!("{stem}-{:02}{extension}", ordinal + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_file_is_02() {
        let cases = [("a/disk.vmdk", 1, "disk-02.vmdk"), ("disk.x.dsk", 11, "disk.x-12.dsk"), ("disk", 2, "disk-03")];
        for (first, ordinal, expected) in cases {
            assert_eq!(name(Path::new(first), ordinal).unwrap(), expected);
        }
    }
}
