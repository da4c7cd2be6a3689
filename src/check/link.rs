//! One link of a chain: its descriptor, the sizes that have to agree, and each of its extents.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use super::report::{Finding, FindingKind, Remedy, Severity};
use super::{Place, Reporter, sesparse, sparse, stream};
use crate::descriptor::{ContentId, Descriptor};
use crate::error::Result;
use crate::extent::{Body, Extent};
use crate::format::SparseHeader;
use crate::link::{Link, first_sector};
use crate::sector::{SECTOR_BYTES, is_zero, to_usize};

/// How a link is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HowToCheck {
    pub(crate) prefer_redundant: bool,
    /// Whether a repair would give back what nothing names.
    pub(crate) reclaims: bool,
    /// Threads that inflate the grains of streams, or read tables.
    pub(crate) threads: usize,
}

/// Looks at a link, the one with this number in its chain.
///
/// # Errors
/// `Cancelled`; what the host reports.
pub(crate) fn check_link(reporter: &mut Reporter<'_>, number: usize, link: &Link, how: HowToCheck) -> Result<()> {
    let mut look = Look { reporter, number, link };
    look.descriptor()?;
    let mut seen = HashSet::new();
    for (index, extent) in link.extents().iter().enumerate() {
        look.sizes(index, extent);
        let guest = extent.start_sector()..extent.start_sector() + extent.sectors();
        let place = Place { link: number, extent: index, guest: &guest };
        // Several lines may name one file: its tables are looked at once.
        let is_new = extent.body().directory().is_none_or(|(address, _)| seen.insert(address));
        match extent.body() {
            Body::Sparse(sparse) if is_new => match extent.header().and_then(SparseHeader::as_sesparse) {
                Some(header) => sesparse::check(look.reporter, place, sparse, header)?,
                None => sparse::check(look.reporter, place, sparse, how)?,
            },
            Body::Stream(_) if is_new => stream::check(look.reporter, place, extent, how.threads)?,
            Body::Zero | Body::Flat(_) | Body::Sparse(_) | Body::Stream(_) => {}
        }
    }
    Ok(())
}

struct Look<'r, 'p, 'a> {
    reporter: &'r mut Reporter<'p>,
    number: usize,
    link: &'a Link,
}

impl Look<'_, '_, '_> {
    fn add(&mut self, kind: FindingKind, severity: Severity, text: impl Into<String>) {
        self.add_at(self.link.path(), (kind, severity, None), None, None, text);
    }

    fn add_at(
        &mut self,
        file: &Path,
        (kind, severity, remedy): (FindingKind, Severity, Option<Remedy>),
        extent: Option<usize>,
        host: Option<Range<u64>>,
        text: impl Into<String>,
    ) {
        let (link, file, text) = (self.number, file.to_owned(), text.into());
        self.reporter.will_do(&remedy.into_iter().collect());
        self.reporter.add(Finding { kind, severity, link, extent, file, guest: None, host, count: 1, text, remedy });
    }

    fn descriptor(&mut self) -> Result<()> {
        let descriptor = self.link.descriptor();
        for warning in descriptor.warnings() {
            self.add(FindingKind::Descriptor, Severity::Note, warning);
        }
        if let (Some(long), Some(short)) = (descriptor.long_content_id(), descriptor.content_id())
            && long & u128::from(u32::MAX) != u128::from(short.value())
        {
            let text = format!("the long content ID {long:032x} does not end in the content ID {short}");
            self.add(FindingKind::LongContentId, Severity::Note, text);
        }
        if descriptor.content_id().is_some_and(ContentId::is_no_parent) {
            let text = "the content ID is ffffffff, by which no child can know the disk";
            self.add(FindingKind::Descriptor, Severity::Note, text);
        }
        if descriptor.commit_intent().is_some() {
            let text = "a commit into the parent was cut off; it goes on when it is called again";
            self.add(FindingKind::Descriptor, Severity::Note, text);
        }
        let Some(header) = self.link.header().and_then(SparseHeader::as_kdmv) else { return Ok(()) };
        if !descriptor.as_bytes().is_empty() && first_sector(self.link.file(), header)? != header.descriptor_offset {
            let said = (FindingKind::DescriptorPlace, Severity::Inconsistency, Some(Remedy::MoveDescriptor));
            let text = "the descriptor stands in the back half of its room, where other programs do not look for it";
            self.add_at(self.link.path(), said, None, self.region()?, text);
        }
        if descriptor.as_bytes().is_empty() && header.descriptor_offset != 0 && header.capacity != 0 {
            self.no_descriptor()?;
        }
        Ok(())
    }

    /// A part of a split disk has room for a descriptor as well, and none in it: its name tells.
    fn no_descriptor(&mut self) -> Result<()> {
        let region = self.region()?;
        let text = "there is room for a descriptor, and none in it";
        let said = if can_be_described(self.link)? {
            (FindingKind::NoDescriptor, Severity::Inconsistency, Some(Remedy::Describe))
        } else {
            (FindingKind::NoDescriptor, Severity::Note, None)
        };
        self.add_at(self.link.path(), said, None, region, text);
        Ok(())
    }

    fn region(&self) -> Result<Option<Range<u64>>> {
        Ok(Some(self.link.descriptor_region()?).filter(|region| !region.is_empty()))
    }

    /// Whether descriptor, header and file agree about the size of an extent.
    fn sizes(&mut self, index: usize, extent: &Extent) {
        let note = (FindingKind::Size, Severity::Note, None);
        if let (Some(header), Some(file)) = (extent.header(), extent.file()) {
            if let Some(oddity) = header.oddity() {
                self.add_at(file.path(), (FindingKind::Header, Severity::Note, None), Some(index), None, oddity);
            }
            if header.capacity() != extent.sectors() {
                let text =
                    format!("the descriptor says {} sectors, the header {}", extent.sectors(), header.capacity());
                self.add_at(file.path(), note, Some(index), None, text);
            }
        }
        let (Body::Flat(flat), Some(file)) = (extent.body(), extent.file()) else { return };
        let end = extent.sectors().saturating_mul(SECTOR_BYTES).saturating_add(flat.offset());
        let is_device = self.link.descriptor().is_on_device();
        if file.len() < end {
            let text = format!(
                "the file has {} bytes, and the extent ends at {end}; what is missing reads as zeros",
                file.len()
            );
            let said = (FindingKind::Size, Severity::Corruption, None);
            self.add_at(file.path(), said, Some(index), Some(file.len()..end), text);
        } else if file.len() > end && !is_device && self.is_alone(extent) {
            let text = format!("the file has {} bytes, and the extent ends at {end}", file.len());
            self.add_at(file.path(), note, Some(index), Some(end..file.len()), text);
        }
    }

    /// Whether no other extent lies in its file.
    fn is_alone(&self, extent: &Extent) -> bool {
        let same = |other: &&Extent| match (other.file(), extent.file()) {
            (Some(other), Some(file)) => other.identity() == file.identity(),
            _ => false,
        };
        self.link.extents().iter().filter(same).count() == 1
    }
}

/// Whether the descriptor of a link is lost, and can be made from the header: the file is a whole disk.
pub(crate) fn can_be_described(link: &Link) -> Result<bool> {
    let (Some(header), true) = (link.header().and_then(SparseHeader::as_kdmv), link.descriptor().as_bytes().is_empty())
    else {
        return Ok(false);
    };
    let name = link.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let region = link.descriptor_region()?;
    if header.is_compressed() || header.descriptor_offset == 0 || region.is_empty() || is_part_name(&name) {
        return Ok(false);
    }
    let mut bytes = vec![0; to_usize(region.end - region.start)];
    link.file().read(&mut bytes, region.start)?;
    Ok(is_zero(&bytes) && Descriptor::parse(&bytes).is_ok())
}

/// Whether a name without its ending is that of a part of a disk: `disk-s001`.
fn is_part_name(stem: &str) -> bool {
    let Some((_, number)) = stem.rsplit_once("-s") else { return false };
    number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_disk_tells_by_its_name() {
        for (stem, expected) in
            [("a-s001", true), ("a-s1234", true), ("a-s01", false), ("a-s001x", false), ("a", false)]
        {
            assert_eq!(is_part_name(stem), expected, "{stem}");
        }
    }
}
