//! What a problem of a sparse extent means, and what is done about it; the same for who only looks and for who repairs.
//!
//! Of two copies the primary one counts wherever it can be right, as every reader has been showing it. What would
//! change what a guest reads is done only on request, or where it could not be read.
//!
//! In an extent that was not closed, copies may differ: a writer was cut off between the two, and the next one makes
//! them equal. That is no more than a note. In one that claims to be clean they must not.

use super::report::{FindingKind, Remedy, Severity};
use crate::error::Result;
use crate::extent::audit::{BadEntry, Problem, Side};
use crate::extent::{Tables, ZERO};
use crate::format::HeaderMark;
use crate::sector::{SECTOR_BYTES, to_usize};

/// What a problem means, before it is said where it is.
pub(crate) struct Verdict {
    pub(crate) kind: FindingKind,
    pub(crate) severity: Severity,
    pub(crate) remedy: Option<Remedy>,
}

impl Verdict {
    pub(super) fn new(kind: FindingKind, severity: Severity, remedy: Option<Remedy>) -> Self {
        Self { kind, severity, remedy }
    }
}

/// How problems of an extent are judged.
#[derive(Clone, Copy)]
pub(crate) struct Judgement<'a> {
    pub(crate) tables: &'a Tables,
    /// Whether the redundant copy is taken wherever it can be right.
    pub(crate) prefer_redundant: bool,
}

impl Judgement<'_> {
    /// What a problem means.
    pub(crate) fn of(&self, problem: &Problem) -> Verdict {
        use FindingKind as Kind;
        use Severity::{Corruption, Inconsistency, Note};
        let unclean = self.tables.layout().unclean;
        let untidy = if unclean { Note } else { Inconsistency };
        match problem {
            Problem::Region { .. } => Verdict::new(Kind::Regions, Corruption, None),
            Problem::Place { side: Side::Primary, has_copy, .. } => {
                let (severity, remedy) =
                    if *has_copy { (Inconsistency, Some(Remedy::NewTable)) } else { (Corruption, None) };
                Verdict::new(Kind::TablePlace, severity, remedy)
            }
            Problem::Overlap { side: Side::Primary, .. } => Verdict::new(Kind::TablePlace, Corruption, None),
            Problem::Place { table, .. } | Problem::Overlap { table, .. } => {
                Verdict::new(Kind::TablePlace, Inconsistency, self.new_copy_of(*table))
            }
            Problem::SameTable { table } => Verdict::new(Kind::SameTable, Inconsistency, self.new_copy_of(*table)),
            // Whoever reads sees nothing in its grains; what the copy has may be all that is left of them.
            Problem::LoneCopy { .. } => {
                let remedy = self.prefer_redundant.then_some(Remedy::NewTable);
                Verdict::new(Kind::LoneCopy, if unclean { Note } else { Corruption }, remedy)
            }
            Problem::NoCopy { .. } => Verdict::new(Kind::NoCopy, untidy, Some(Remedy::NewCopy)),
            Problem::BadEntry { problem, copy, .. } => self.of_bad_entry(*problem, *copy),
            Problem::CopyDiffers { .. } => Verdict::new(Kind::CopyDiffers, untidy, Some(self.preferred_wins())),
            Problem::CopyInMetadata { .. } => Verdict::new(Kind::GrainShared, Corruption, None),
            Problem::OutOfLine(_) => Verdict::new(Kind::GrainOutOfLine, Note, None),
            Problem::One(_) => match self.tables.layout().mark {
                HeaderMark::Unclean { .. } => Verdict::new(Kind::ZeroGrain, Inconsistency, Some(Remedy::Announce)),
                // It has no flag for that.
                HeaderMark::FreeSector { .. } => Verdict::new(Kind::ZeroGrain, Note, None),
            },
            Problem::PastCapacity { may_be_grains, .. } => {
                let remedy = Some(Remedy::Clear).filter(|_| !may_be_grains);
                Verdict::new(Kind::PastCapacity, Inconsistency, remedy)
            }
        }
    }

    /// A copy is made of a table that can be read.
    fn new_copy_of(&self, table: u32) -> Option<Remedy> {
        self.tables.place(self.tables.directory(), table).is_ok().then_some(Remedy::NewCopy)
    }

    fn of_bad_entry(&self, problem: BadEntry, copy: Option<u32>) -> Verdict {
        use FindingKind as Kind;
        use Severity::{Corruption, Inconsistency};
        let unclean = self.tables.layout().unclean;
        let has_copy = copy.is_some_and(|copy| self.is_plausible(copy));
        let from_copy = Some(self.other_wins()).filter(|_| has_copy);
        let severity = if has_copy { Inconsistency } else { Corruption };
        match problem {
            BadEntry::InMetadata => Verdict::new(Kind::GrainInMetadata, severity, from_copy),
            // It reads as unallocated already, and whoever writes next makes it so.
            BadEntry::PastEnd if unclean && !(self.prefer_redundant && has_copy) => {
                Verdict::new(Kind::GrainPastEnd, Inconsistency, Some(Remedy::Clear))
            }
            BadEntry::PastEnd => Verdict::new(Kind::GrainPastEnd, severity, Some(from_copy.unwrap_or(Remedy::Clear))),
            BadEntry::Taken { by_metadata: true, .. } => Verdict::new(Kind::GrainShared, Corruption, None),
            // Where the copy has something else, nobody knows which of the two was meant.
            BadEntry::Taken { .. } => {
                let remedy = Some(Remedy::CopyGrain).filter(|_| copy.is_none());
                Verdict::new(Kind::GrainShared, Corruption, remedy)
            }
        }
    }

    /// What makes the other copy equal to the one that counts.
    fn preferred_wins(&self) -> Remedy {
        if self.prefer_redundant { Remedy::FromRedundant } else { Remedy::FromPrimary }
    }

    /// What makes the one that counts equal to the other one.
    fn other_wins(&self) -> Remedy {
        if self.prefer_redundant { Remedy::FromPrimary } else { Remedy::FromRedundant }
    }

    /// Whether data lies where tables or other metadata do.
    pub(crate) fn is_in_metadata(problem: &Problem) -> bool {
        matches!(
            problem,
            Problem::Region { .. }
                | Problem::Overlap { side: Side::Primary, .. }
                | Problem::CopyInMetadata { .. }
                | Problem::BadEntry { problem: BadEntry::Taken { by_metadata: true, .. }, .. }
        )
    }

    /// Whether two grains share sectors.
    fn is_shared(problem: &Problem) -> bool {
        matches!(problem, Problem::BadEntry { problem: BadEntry::Taken { .. }, .. })
    }

    /// The entry and the one of its copy, if that names another grain that can be right.
    fn other_grain(&self, problem: &Problem) -> Option<[u32; 2]> {
        let (entry, copy) = match problem {
            Problem::BadEntry { entry, copy: Some(copy), .. } | Problem::CopyDiffers { entry, copy } => {
                (entry.value, *copy)
            }
            _ => return None,
        };
        Some([entry, copy]).filter(|_| copy > ZERO && self.is_plausible(copy))
    }

    /// Whether a problem is none for a writer: it may stay.
    pub(crate) fn is_harmless(problem: &Problem) -> bool {
        matches!(problem, Problem::OutOfLine(_) | Problem::One(_))
    }

    /// Whether an entry can be right, as far as it tells by itself.
    pub(crate) fn is_plausible(&self, entry: u32) -> bool {
        self.tables.plausible(entry)
    }
}

/// Bytes of grains that are compared in an extent at most; what differs beyond them counts as different.
const MOST_COMPARED: u64 = 1 << 30;

/// Pairs of grains that are remembered for that at most: 128 KiB of memory.
const MOST_PAIRS: usize = 16 << 10;

/// Bytes that are compared at once.
const PIECE: u64 = 64 << 10;

/// What speaks against changing anything in an extent.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    /// Data lies where tables or other metadata do: whatever is written to one may be the other.
    in_metadata: bool,
    has_shared: bool,
    /// Grains of entries and of their copies that are not the same ones, unless `has_other_content` says it all.
    pairs: Vec<[u32; 2]>,
    /// Some of them hold something else.
    has_other_content: bool,
}

impl Doubt {
    /// Takes note of a problem.
    pub(crate) fn note(&mut self, judgement: &Judgement<'_>, problem: &Problem) {
        self.in_metadata |= Judgement::is_in_metadata(problem);
        self.has_shared |= Judgement::is_shared(problem);
        let Some(pair) = judgement.other_grain(problem).filter(|_| !self.has_other_content) else { return };
        let can_be_compared = pair[0] > ZERO && judgement.is_plausible(pair[0]) && self.pairs.len() < MOST_PAIRS;
        if can_be_compared {
            self.pairs.push(pair);
        } else {
            self.has_other_content = true;
        }
    }

    /// Compares grains, if that matters. For when all problems are known.
    ///
    /// # Errors
    /// What the host reports.
    pub(crate) fn decide(&mut self, tables: &Tables) -> Result<()> {
        let pairs = std::mem::take(&mut self.pairs);
        if self.has_shared && !self.has_other_content {
            self.has_other_content = !hold_the_same(tables, &pairs)?;
        }
        Ok(())
    }

    /// Whether nothing is to be changed, as far as was [decided](Self::decide): see there, or grains share sectors
    /// while others have a copy with another grain, so that nobody knows which of the tables is right.
    pub(crate) fn is_too_great(&self) -> bool {
        self.in_metadata || (self.has_shared && self.has_other_content)
    }
}

/// Whether the two grains of each pair hold the same, as they do while one is being moved.
fn hold_the_same(tables: &Tables, pairs: &[[u32; 2]]) -> Result<bool> {
    let len = tables.layout().grain_sectors * SECTOR_BYTES;
    if pairs.len() as u64 * len > MOST_COMPARED {
        return Ok(false);
    }
    let mut buffers = [0; 2].map(|_| vec![0; to_usize(len.min(PIECE))]);
    for pair in pairs {
        let starts = pair.map(|grain| u64::from(grain) * SECTOR_BYTES);
        let mut at = 0;
        while at < len {
            let piece = to_usize((len - at).min(PIECE));
            for (buffer, start) in buffers.iter_mut().zip(starts) {
                tables.file().read(&mut buffer[..piece], start + at)?;
            }
            if buffers[0][..piece] != buffers[1][..piece] {
                return Ok(false);
            }
            at += piece as u64;
        }
    }
    Ok(true)
}
