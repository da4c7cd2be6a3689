//! The directories and tables of a sparse extent: what an audit finds, judged and said.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::report::{Finding, FindingKind, Remedy, Severity};
use super::verdict::{Doubt, Judgement, Verdict};
use super::{HowToCheck, Place, Reporter};
use crate::error::Result;
use crate::extent::audit::{Audit, BadEntry, Entry, Observer, Problem, Region, Side};
use crate::extent::{ENTRY, GrainDirectory, SparseExtent, Tables};
use crate::format::cowd::{SAVED_GENERATION_AT, UNCLEAN_AT};
use crate::format::{HeaderMark, KdmvHeader};
use crate::sector::SECTOR_BYTES;

/// Looks at a sparse extent.
///
/// # Errors
/// `Cancelled`; what the host reports.
pub(super) fn check(
    reporter: &mut Reporter<'_>,
    place: Place<'_>,
    extent: &SparseExtent,
    how: HowToCheck,
) -> Result<()> {
    let tables = extent.tables();
    tables.check_directory()?;
    let mut judge = Judge {
        reporter,
        place,
        judgement: Judgement { tables, prefer_redundant: how.prefer_redundant },
        reclaims: how.reclaims,
        redundant: tables.load_redundant()?,
        repaired: BTreeMap::new(),
        doubt: Doubt::default(),
        leaves_something: false,
        remedies: BTreeSet::new(),
    };
    judge.header();
    let side = if how.prefer_redundant { Side::Redundant } else { Side::Primary };
    let audit = Audit::with_redundant(tables, tables.load_redundant()?, true);
    let mut audit = audit.preferring(side).reading_on(how.threads);
    audit.run(&mut judge)?;
    judge.doubt.decide(tables)?;
    judge.free_sector(&audit);
    judge.leaks(&mut audit)?;
    judge.unclean();
    judge.finish();
    Ok(())
}

/// Says what is wrong with an extent.
struct Judge<'r, 'p, 'a> {
    reporter: &'r mut Reporter<'p>,
    place: Place<'a>,
    judgement: Judgement<'a>,
    /// Whether a repair would give space back.
    reclaims: bool,
    redundant: Option<GrainDirectory>,
    /// How many of each severity a repair does something about.
    repaired: BTreeMap<Severity, u64>,
    /// What speaks against changing anything.
    doubt: Doubt,
    /// Something is left that a repair does nothing about: what nothing names may be all there is of it.
    leaves_something: bool,
    /// What a repair would do.
    remedies: BTreeSet<Remedy>,
}

/// Where a finding is, and what it says.
struct Said {
    guest: Option<Range<u64>>,
    host: Range<u64>,
    count: u64,
    text: String,
}

impl Judge<'_, '_, '_> {
    fn tables(&self) -> &Tables {
        self.judgement.tables
    }

    fn add(&mut self, verdict: &Verdict, said: Said) {
        let Verdict { kind, severity, remedy } = *verdict;
        self.remedies.extend(remedy);
        if remedy.is_some() {
            *self.repaired.entry(severity).or_default() += said.count;
        }
        let Said { guest, host, count, text } = said;
        self.reporter.add(Finding {
            kind,
            severity,
            link: self.place.link,
            extent: Some(self.place.extent),
            file: self.tables().file().path().to_owned(),
            guest,
            host: Some(host),
            count,
            text,
            remedy,
        });
    }

    fn header(&mut self) {
        let layout = self.tables().layout().clone();
        let field = |at: u64| at..at + 8;
        let header = |at: u64, text: &str| Said { guest: None, host: field(at), count: 1, text: text.to_owned() };
        if layout.directory_is_redundant {
            let verdict = Verdict::new(FindingKind::Directory, Severity::Inconsistency, Some(Remedy::NewTable));
            self.add(
                &verdict,
                header(
                    KdmvHeader::GD_OFFSET_AT,
                    "the place of the grain directory is impossible; the redundant one can be read",
                ),
            );
        } else if layout.keeps_redundant && layout.redundant.is_none() {
            let verdict = Verdict::new(FindingKind::Directory, Severity::Inconsistency, Some(Remedy::NewCopy));
            self.add(
                &verdict,
                header(KdmvHeader::RGD_OFFSET_AT, "the place of the redundant grain directory is impossible"),
            );
        }
    }

    /// Last: what is left of other problems keeps it from being closed.
    fn unclean(&mut self) {
        let layout = self.tables().layout();
        if !layout.unclean {
            return;
        }
        let at = match layout.mark {
            HeaderMark::Unclean { at } => at..at + 1,
            HeaderMark::FreeSector { .. } => SAVED_GENERATION_AT as u64..UNCLEAN_AT as u64 + 4,
        };
        let remedy = Some(Remedy::Close).filter(|_| !self.leaves_something());
        let verdict = Verdict::new(FindingKind::Unclean, Severity::Note, remedy);
        let text = "the last writer did not close it".to_owned();
        self.add(&verdict, Said { guest: None, host: at, count: 1, text });
    }

    fn leaves_something(&self) -> bool {
        self.leaves_something || self.doubt.is_too_great()
    }

    /// Other writers go on from the free sector of a COWD extent.
    fn free_sector(&mut self, audit: &Audit<'_>) {
        let HeaderMark::FreeSector { at, value } = self.tables().layout().mark else { return };
        let end = audit.taken().end();
        if u64::from(value) >= end {
            return;
        }
        let remedy = Some(Remedy::RaiseFreeSector);
        let verdict = Verdict::new(FindingKind::FreeSector, Severity::Inconsistency, remedy);
        let text = format!("the free sector is {value:#x}, but sectors up to {end:#x} are used");
        self.add(&verdict, Said { guest: None, host: at..at + ENTRY as u64, count: 1, text });
    }

    /// Space that nothing names. What has none on the host is no loss.
    fn leaks(&mut self, audit: &mut Audit<'_>) -> Result<()> {
        let grain_sectors = self.tables().layout().grain_sectors;
        for gap in audit.gaps() {
            let gap = gap.start * SECTOR_BYTES..gap.end * SECTOR_BYTES;
            let bytes = leaked_in(self.tables(), &gap)?;
            if bytes == 0 {
                continue;
            }
            self.reporter.leaked(bytes);
            let remedy = Some(Remedy::Reclaim).filter(|_| self.reclaims && !self.leaves_something());
            let verdict = Verdict::new(FindingKind::Leak, Severity::Note, remedy);
            let count = (gap.end - gap.start) / SECTOR_BYTES / grain_sectors;
            let text = format!("{bytes} bytes that nothing uses");
            self.add(&verdict, Said { guest: None, host: gap, count, text });
        }
        Ok(())
    }

    fn finish(self) {
        if self.doubt.is_too_great() {
            self.reporter.leave_alone(self.place, &self.repaired);
        } else {
            self.reporter.will_do(&self.remedies);
        }
    }

    /// Where a problem is, and what there is to say about it.
    fn said(&self, problem: &Problem) -> Said {
        let layout = self.tables().layout();
        let table_bytes = |side: Side, table: u32| self.directory_entry(side, table);
        let whole = |side, table, text: String| Said {
            guest: self.guest_of_table(table),
            host: table_bytes(side, table),
            count: 1,
            text,
        };
        match problem {
            Problem::Region { region, sector } => {
                let offset = sector * SECTOR_BYTES;
                let what = match region {
                    Region::Header => "the header",
                    Region::Descriptor => "the descriptor",
                    Region::Directory => "the grain directory",
                    Region::RedundantDirectory => "the redundant grain directory",
                };
                let text = format!("{what} overlaps something else at offset {offset:#x}");
                Said { guest: None, host: offset..offset + SECTOR_BYTES, count: 1, text }
            }
            Problem::Place { side, table, error, .. } => whole(*side, *table, error.with_causes()),
            Problem::Overlap { side, table, sector } => {
                let offset = sector * SECTOR_BYTES;
                whole(*side, *table, format!("the grain table overlaps something else at offset {offset:#x}"))
            }
            Problem::SameTable { table } => {
                whole(Side::Redundant, *table, "the redundant directory names the primary table".to_owned())
            }
            Problem::LoneCopy { table } => {
                let text = if layout.unclean {
                    "only the redundant directory has the table; the next writer forgets it"
                } else {
                    "the grain directory does not have the table, but the redundant one does; its grains read as \
                     unallocated (--prefer-redundant takes them back)"
                };
                whole(Side::Primary, *table, text.to_owned())
            }
            Problem::NoCopy { table } => whole(Side::Redundant, *table, "the table has no redundant copy".to_owned()),
            Problem::BadEntry { entry, problem, copy } => {
                let value = entry.value;
                let what = match problem {
                    BadEntry::InMetadata => "the grain lies in the metadata of the extent".to_owned(),
                    BadEntry::PastEnd => "the grain lies past the end of the file".to_owned(),
                    BadEntry::Taken { sector, by_metadata } => {
                        let who =
                            if *by_metadata { "a table or another part of the metadata" } else { "another grain" };
                        format!("{who} lies in the same sectors, from offset {:#x} on", sector * SECTOR_BYTES)
                    }
                };
                let copy = copy.map_or_else(String::new, |copy| format!("; the redundant copy has {copy:#x}"));
                self.of_entry(*entry, &format!("{value:#x}: {what}{copy}"))
            }
            Problem::CopyDiffers { entry, copy } => {
                self.of_entry(*entry, &format!("{:#x}, and the redundant copy has {copy:#x}", entry.value))
            }
            Problem::CopyInMetadata { entry, copy, sector } => {
                let offset = sector * SECTOR_BYTES;
                let text = format!(
                    "{:#x}, and the redundant copy has {copy:#x}, where a table or another part of the metadata lies, at \
                     offset {offset:#x}",
                    entry.value
                );
                self.of_entry(*entry, &text)
            }
            Problem::OutOfLine(entry) => {
                self.of_entry(*entry, &format!("{:#x}: not a multiple of the grain's size", entry.value))
            }
            Problem::One(entry) => {
                let text =
                    "1: a grain of zeros, which the header does not announce; other readers may take sector 1 for it";
                self.of_entry(*entry, text)
            }
            Problem::PastCapacity { side, table, .. } => {
                let first = u64::from(*table) * u64::from(layout.entries_per_table);
                let alive = layout.sectors.div_ceil(layout.grain_sectors).saturating_sub(first);
                let start = self.table_start(*side, *table) + alive * ENTRY as u64;
                let end = self.table_start(*side, *table) + self.tables().table_len() as u64;
                let text = "entries past the capacity that are not 0".to_owned();
                Said { guest: None, host: start..end.max(start), count: 1, text }
            }
        }
    }

    fn of_entry(&self, entry: Entry, text: &str) -> Said {
        let layout = self.tables().layout();
        let at = self.table_start(entry.side, entry.table) + entry.number * ENTRY as u64;
        let grain = u64::from(entry.table) * u64::from(layout.entries_per_table) + entry.number;
        let text = format!("grain {grain} is at sector {text}");
        let guest = self.place.guest(grain * layout.grain_sectors, layout.grain_sectors);
        Said { guest, host: at..at + ENTRY as u64, count: 1, text }
    }

    fn table_start(&self, side: Side, table: u32) -> u64 {
        u64::from(self.directory(side).entry(table)) * SECTOR_BYTES
    }

    fn directory_entry(&self, side: Side, table: u32) -> Range<u64> {
        let at = self.directory(side).entry_offset(table);
        at..at + ENTRY as u64
    }

    fn directory(&self, side: Side) -> &GrainDirectory {
        match (side, &self.redundant) {
            (Side::Redundant, Some(redundant)) => redundant,
            _ => self.tables().directory(),
        }
    }

    fn guest_of_table(&self, table: u32) -> Option<Range<u64>> {
        let layout = self.tables().layout();
        let sectors = u64::from(layout.entries_per_table) * layout.grain_sectors;
        self.place.guest(u64::from(table) * sectors, sectors)
    }
}

impl Observer for Judge<'_, '_, '_> {
    fn found(&mut self, problem: Problem) -> Result<()> {
        let verdict = self.judgement.of(&problem);
        self.doubt.note(&self.judgement, &problem);
        self.leaves_something |= verdict.remedy.is_none() && !Judgement::is_harmless(&problem);
        let said = self.said(&problem);
        self.add(&verdict, said);
        Ok(())
    }

    fn looked(&mut self, tables: u64) -> Result<()> {
        let bytes = tables.saturating_mul(self.tables().table_len() as u64);
        self.reporter.done(bytes)
    }
}

/// Blocks of a host, in which it gives space back.
const BLOCK: u64 = 4096;

/// Bytes of a stretch that nothing names, and that have space on the host which could be given back.
pub(crate) fn leaked_in(tables: &Tables, stretch: &Range<u64>) -> Result<u64> {
    let (mut at, mut bytes) = (stretch.start.next_multiple_of(BLOCK), 0);
    let last = stretch.end / BLOCK * BLOCK;
    while at < last {
        match tables.file().next_data(at)? {
            Some(data) if data.start < last => {
                let end = data.end.min(last);
                bytes += end - data.start.max(at);
                at = end;
            }
            _ => break,
        }
    }
    Ok(bytes)
}
