//! What a check has found.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Odd or untidy; nothing is at risk.
    Note,
    /// Something contradicts something else, and can be put right without any loss, unless worse is in the way.
    Inconsistency,
    /// Data is lost, or at risk.
    Corruption,
}

impl Severity {
    /// The word for it: `note`, `inconsistency`, `corruption`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Inconsistency => "inconsistency",
            Self::Corruption => "corruption",
        }
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// A file, or a part of it, that cannot be opened: a header, a descriptor, or a file that is missing.
    Unreadable,
    /// The parent is missing, was changed, or cannot be opened.
    Parent,
    /// The header is odd.
    Header,
    /// The descriptor is odd.
    Descriptor,
    /// A sparse extent has room for a descriptor, and none in it.
    NoDescriptor,
    /// The descriptor is not where other programs look for it: a change of it was cut off.
    DescriptorPlace,
    /// The sizes in the descriptor, the header, the file or the parent do not agree.
    Size,
    /// The last writer did not close the extent.
    Unclean,
    /// The place of a grain directory is impossible.
    Directory,
    /// Header, descriptor and directories overlap.
    Regions,
    /// A directory has an impossible place for a table, or one that something else has.
    TablePlace,
    /// The redundant directory names the primary table.
    SameTable,
    /// A table that only the redundant directory has.
    LoneCopy,
    /// A table without its redundant copy.
    NoCopy,
    /// A table and its redundant copy differ.
    CopyDiffers,
    /// A grain in the metadata.
    GrainInMetadata,
    /// A grain past the end of the file.
    GrainPastEnd,
    /// Two grains, or a grain and a table or other metadata, in the same sectors.
    GrainShared,
    /// A grain that begins at no multiple of its size.
    GrainOutOfLine,
    /// A grain of zeros in an extent that does not announce them.
    ZeroGrain,
    /// The entry of a grain says nothing that is known.
    GrainUnknown,
    /// The bitmap of an seSparse extent has fewer grains than are in use, or more.
    Bitmap,
    /// The back map of an seSparse extent has another grain, or none.
    BackMap,
    /// Entries past the capacity that are not 0.
    PastCapacity,
    /// Space that nothing uses.
    Leak,
    /// The free sector of a COWD extent lies in front of what is used.
    FreeSector,
    /// A compressed grain that cannot be read.
    CompressedGrain,
    /// The tables of a stream and its markers do not agree.
    StreamTables,
    /// The end of a stream is missing or odd.
    StreamEnd,
    /// The long content ID does not end in the short one.
    LongContentId,
}

impl FindingKind {
    /// The name by which the command-line tool knows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Parent => "parent",
            Self::Header => "header",
            Self::Descriptor => "descriptor",
            Self::NoDescriptor => "no-descriptor",
            Self::DescriptorPlace => "descriptor-place",
            Self::Size => "size",
            Self::Unclean => "unclean",
            Self::Directory => "directory",
            Self::Regions => "regions",
            Self::TablePlace => "table-place",
            Self::SameTable => "same-table",
            Self::LoneCopy => "lone-copy",
            Self::NoCopy => "no-copy",
            Self::CopyDiffers => "copy-differs",
            Self::GrainInMetadata => "grain-in-metadata",
            Self::GrainPastEnd => "grain-past-end",
            Self::GrainShared => "grain-shared",
            Self::GrainOutOfLine => "grain-out-of-line",
            Self::ZeroGrain => "zero-grain",
            Self::GrainUnknown => "grain-unknown",
            Self::Bitmap => "bitmap",
            Self::BackMap => "back-map",
            Self::PastCapacity => "past-capacity",
            Self::Leak => "leak",
            Self::FreeSector => "free-sector",
            Self::CompressedGrain => "compressed-grain",
            Self::StreamTables => "stream-tables",
            Self::StreamEnd => "stream-end",
            Self::LongContentId => "long-content-id",
        }
    }
}

/// What a repair does about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Remedy {
    /// The redundant copy is written over with what the primary table has.
    FromPrimary,
    /// The primary table gets what the redundant copy has.
    FromRedundant,
    /// The entry becomes 0: unallocated, in both copies of its table.
    Clear,
    /// The later of two grains gets a copy of what both have.
    CopyGrain,
    /// A new table is made from the redundant copy.
    NewTable,
    /// A new redundant copy of the table, or of the directory with all tables, is made.
    NewCopy,
    /// The header announces zero grains.
    Announce,
    /// The free sector is raised.
    RaiseFreeSector,
    /// The space is given back: the file is cut, or a hole is made.
    Reclaim,
    /// A descriptor is made from the header.
    Describe,
    /// The descriptor is put where other programs look for it.
    MoveDescriptor,
    /// The extent is marked as closed.
    Close,
}

impl Remedy {
    /// What it does, in a few words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FromPrimary => "the redundant copy is made equal to the primary table",
            Self::FromRedundant => "the primary table takes what its redundant copy has",
            Self::Clear => "the entry becomes 0",
            Self::CopyGrain => "the later grain gets a copy of its own",
            Self::NewTable => "a new table is made from the redundant copy",
            Self::NewCopy => "a new redundant copy is made",
            Self::Announce => "the header announces zero grains",
            Self::RaiseFreeSector => "the free sector is raised",
            Self::Reclaim => "the space is given back",
            Self::Describe => "a descriptor is made from the header",
            Self::MoveDescriptor => "the descriptor is moved back",
            Self::Close => "the extent is marked as closed",
        }
    }
}

/// Something that a check has found. What follows each other in a disk and is of one kind is one finding.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about.
    pub kind: FindingKind,
    /// How bad it is.
    pub severity: Severity,
    /// The link that has it: 0 for the image itself, 1 for its parent.
    pub link: usize,
    /// The number of the extent in the link, if it is about one.
    pub extent: Option<usize>,
    /// The file.
    pub file: PathBuf,
    /// The sectors of the disk that it is about.
    pub guest: Option<Range<u64>>,
    /// The bytes of the file in which it stands: the entry, the field, the space that is leaked.
    pub host: Option<Range<u64>>,
    /// So many grains, tables or lines are like this.
    pub count: u64,
    /// What is wrong, of the first of them.
    pub text: String,
    /// What a repair does about it; `None` if it leaves it alone.
    pub remedy: Option<Remedy>,
}

/// Findings of one kind that a report lists; beyond these they are counted.
const LISTED: usize = 1000;

/// What a check has found; see [`OpenOptions::check`](crate::OpenOptions::check).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// What was found, in the order of links, extents and sectors: of each kind the first thousand.
    pub findings: Vec<Finding>,
    /// How many links were looked at.
    pub links: usize,
    /// Bytes that nothing uses, holes not counted.
    pub leaked_bytes: u64,
    /// How many grains, tables or lines there are of each kind and severity, listed or not.
    counts: BTreeMap<(FindingKind, Severity), u64>,
    listed: BTreeMap<FindingKind, usize>,
    /// What of it no repair changes.
    unrepaired: BTreeMap<Severity, u64>,
    /// What a repair would do, also about what is not listed.
    remedies: BTreeSet<Remedy>,
}

impl CheckReport {
    /// Whether nothing but notes was found.
    pub fn is_clean(&self) -> bool {
        self.worst().is_none_or(|worst| worst == Severity::Note)
    }

    /// How bad the worst finding is.
    pub fn worst(&self) -> Option<Severity> {
        self.counts.keys().map(|(_, severity)| *severity).max()
    }

    /// How many grains, tables or lines have such a finding.
    pub fn count(&self, kind: FindingKind) -> u64 {
        self.counts.iter().filter(|((other, _), _)| *other == kind).map(|(_, count)| count).sum()
    }

    /// How many grains, tables or lines have a finding that is so bad.
    pub fn total(&self, severity: Severity) -> u64 {
        self.counts.iter().filter(|((_, other), _)| *other == severity).map(|(_, count)| count).sum()
    }

    /// How many of these a repair leaves alone.
    pub fn unrepaired(&self, severity: Severity) -> u64 {
        self.unrepaired.get(&severity).copied().unwrap_or(0)
    }

    /// The kinds that were found, with how many there are of each severity.
    pub fn kinds(&self) -> impl Iterator<Item = (FindingKind, Severity, u64)> {
        self.counts.iter().map(|((kind, severity), count)| (*kind, *severity, *count))
    }

    /// Whether a repair would do this about something, listed or not.
    pub(crate) fn wants(&self, remedy: Remedy) -> bool {
        self.remedies.contains(&remedy)
    }

    /// Whether a repair would do anything.
    pub(crate) fn has_remedies(&self) -> bool {
        !self.remedies.is_empty()
    }

    pub(super) fn will_do(&mut self, remedies: impl Iterator<Item = Remedy>) {
        self.remedies.extend(remedies);
    }

    /// Takes back what a repair would do about an extent: it is left alone.
    pub(super) fn leave_alone(&mut self, link: usize, extent: usize, repaired: &BTreeMap<Severity, u64>) {
        for finding in self.findings.iter_mut().filter(|finding| (finding.link, finding.extent) == (link, Some(extent)))
        {
            finding.remedy = None;
        }
        for (severity, count) in repaired {
            *self.unrepaired.entry(*severity).or_default() += count;
        }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        *self.counts.entry((finding.kind, finding.severity)).or_default() += finding.count;
        if finding.remedy.is_none() {
            *self.unrepaired.entry(finding.severity).or_default() += finding.count;
        }
        if let Some(last) = self.findings.last_mut()
            && goes_on(last, &finding)
        {
            last.count += finding.count;
            if let (Some(guest), Some(more)) = (&mut last.guest, &finding.guest) {
                guest.end = more.end;
            }
            if let (Some(host), Some(more)) = (&mut last.host, &finding.host) {
                host.end = more.end;
            }
            return;
        }
        let listed = self.listed.entry(finding.kind).or_default();
        if *listed < LISTED {
            *listed += 1;
            self.findings.push(finding);
        }
    }
}

/// Whether a finding is what the last one is, right behind it.
fn goes_on(last: &Finding, next: &Finding) -> bool {
    let is_behind = |one: &Option<Range<u64>>, other: &Option<Range<u64>>| match (one, other) {
        (Some(one), Some(other)) => one.end == other.start,
        _ => false,
    };
    (last.kind, last.severity, last.link, last.extent, last.remedy)
        == (next.kind, next.severity, next.link, next.extent, next.remedy)
        && is_behind(&last.guest, &next.guest)
        && is_behind(&last.host, &next.host)
}
