//! What a problem of a sparse extent means, and what is done about it; the same for who only looks and for who repairs.
//!
//! Of two copies the primary one counts wherever it can be right, as every reader has been showing it. What would
//! change what a guest reads is done only on request, or where it could not be read.
//!
//! In an extent that was not closed, copies may differ: a writer was cut off between the two, and the next one makes
//! them equal. That is no more than a note. In one that claims to be clean they must not.

use super::report::{FindingKind, Remedy, Severity};
use crate::extent::Tables;
use crate::extent::audit::{BadEntry, Entry, Problem, Side};
use crate::format::HeaderMark;

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
            Problem::BadEntry { entry, problem, copy } => self.of_bad_entry(*entry, *problem, *copy),
            Problem::CopyDiffers { copy, .. } => {
                let takes_copy = self.prefer_redundant && self.is_plausible(*copy);
                let remedy = if takes_copy { Remedy::FromRedundant } else { Remedy::FromPrimary };
                Verdict::new(Kind::CopyDiffers, untidy, Some(remedy))
            }
            Problem::CopyInMetadata { .. } => Verdict::new(Kind::GrainShared, Corruption, None),
            Problem::OutOfLine(_) => Verdict::new(Kind::GrainOutOfLine, Note, None),
            Problem::One(_) => match self.tables.layout().mark {
                HeaderMark::Unclean { .. } => Verdict::new(Kind::ZeroGrain, Inconsistency, Some(Remedy::Announce)),
                // It has no flag for that.
                HeaderMark::FreeSector { .. } => Verdict::new(Kind::ZeroGrain, Note, None),
            },
            Problem::PastCapacity { .. } => Verdict::new(Kind::PastCapacity, Inconsistency, Some(Remedy::Clear)),
        }
    }

    /// A copy is made of a table that can be read.
    fn new_copy_of(&self, table: u32) -> Option<Remedy> {
        self.tables.place(self.tables.directory(), table).is_ok().then_some(Remedy::NewCopy)
    }

    fn of_bad_entry(&self, entry: Entry, problem: BadEntry, copy: Option<u32>) -> Verdict {
        use FindingKind as Kind;
        use Severity::{Corruption, Inconsistency};
        let unclean = self.tables.layout().unclean;
        let has_copy = entry.side == Side::Primary && copy.is_some_and(|copy| self.is_plausible(copy));
        let from_copy = Some(Remedy::FromRedundant).filter(|_| has_copy);
        match problem {
            BadEntry::InMetadata => {
                let severity = if has_copy { Inconsistency } else { Corruption };
                Verdict::new(Kind::GrainInMetadata, severity, from_copy)
            }
            // It reads as unallocated already, and whoever writes next makes it so.
            BadEntry::PastEnd if unclean => {
                let remedy = from_copy.filter(|_| self.prefer_redundant).unwrap_or(Remedy::Clear);
                Verdict::new(Kind::GrainPastEnd, Inconsistency, Some(remedy))
            }
            BadEntry::PastEnd => {
                let severity = if has_copy { Inconsistency } else { Corruption };
                Verdict::new(Kind::GrainPastEnd, severity, Some(from_copy.unwrap_or(Remedy::Clear)))
            }
            BadEntry::Taken { by_metadata: true, .. } => Verdict::new(Kind::GrainShared, Corruption, None),
            BadEntry::Taken { .. } => {
                let remedy = from_copy.filter(|_| self.prefer_redundant).unwrap_or(Remedy::CopyGrain);
                Verdict::new(Kind::GrainShared, Corruption, Some(remedy))
            }
        }
    }

    /// Whether data lies where tables or other metadata do: whatever is written to one may be the other, so that nothing
    /// of the extent is changed.
    pub(crate) fn is_beyond_repair(problem: &Problem) -> bool {
        matches!(
            problem,
            Problem::Region { .. }
                | Problem::Overlap { side: Side::Primary, .. }
                | Problem::CopyInMetadata { .. }
                | Problem::BadEntry { problem: BadEntry::Taken { by_metadata: true, .. }, .. }
        )
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
