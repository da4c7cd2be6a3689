//! A compressed extent: whether every grain can be inflated, and whether tables and markers name the same ones.

use std::ops::Range;

use super::report::{Finding, FindingKind, Severity};
use super::{Place, Reporter};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{CompressedGrain, Extent, HostFile, MarkerIndex};
use crate::format::{KdmvHeader, SparseHeader};
use crate::mapping::Place as Where;
use crate::parallel::in_order;
use crate::sector::{SECTOR_BYTES, to_usize};

/// Grains that one job inflates.
const BATCH: usize = 16;

/// Threads that inflate, at most.
const MAX_THREADS: usize = 32;

/// Looks at a compressed extent with so many threads.
///
/// # Errors
/// `Cancelled`; what the host reports.
pub(super) fn check(reporter: &mut Reporter<'_>, place: Place<'_>, extent: &Extent, threads: usize) -> Result<()> {
    let Some(file) = extent.shared_file() else { return Ok(()) };
    let header = extent.header().and_then(SparseHeader::as_kdmv);
    let index = match header.filter(|header| header.has_markers()) {
        Some(header) => Some(MarkerIndex::build(file, header)?),
        None => None,
    };
    let mut named = Vec::new();
    let mut judge = Judge { reporter, place, file };
    let mut walk = Walk { extent, at: 0 };
    let worker = || {
        let mut content = vec![0; to_usize(extent.grain_sectors() * SECTOR_BYTES)];
        move |job: Vec<Step<'_>>| {
            let look = |step: Step<'_>| match step {
                Step::Grain { sector, grain } => {
                    Looked { sector, offset: Some(grain.offset()), problem: grain.read(0, &mut content).err() }
                }
                Step::Bad { sector, error } => Looked { sector, offset: None, problem: Some(error) },
            };
            Ok(job.into_iter().map(look).collect::<Vec<_>>())
        }
    };
    let source = || {
        let job: Vec<Step<'_>> = walk.by_ref().take(BATCH).collect();
        Ok(Some(job).filter(|job| !job.is_empty()))
    };
    let sink = |looked: Result<Vec<Looked>>| {
        for Looked { sector, offset, problem } in looked? {
            if let (Some(offset), true) = (offset, index.is_some()) {
                named.push((sector / extent.grain_sectors(), offset));
            }
            judge.grain(sector, extent.grain_sectors(), offset, problem)?;
        }
        Ok(())
    };
    in_order(threads.clamp(1, MAX_THREADS), worker, source, sink)?;
    let stand_ins = extent.redundant_stand_ins();
    if stand_ins > 0 {
        let text = format!("it can be read by its redundant directory and tables only ({stand_ins} had to stand in)");
        judge.add(FindingKind::Directory, Severity::Corruption, None, KdmvHeader::GD_OFFSET_AT, text);
    }
    if let Some(index) = index {
        judge.compare(&index, &named, extent.grain_sectors());
    }
    Ok(())
}

/// What is looked at next.
enum Step<'a> {
    Grain {
        sector: u64,
        grain: CompressedGrain<'a>,
    },
    /// The tables lead nowhere.
    Bad {
        sector: u64,
        error: Error,
    },
}

/// What has come of it.
struct Looked {
    sector: u64,
    offset: Option<u64>,
    problem: Option<Error>,
}

/// The grains of an extent, as its tables have them, in the order of their sectors.
struct Walk<'a> {
    extent: &'a Extent,
    at: u64,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        while self.at < self.extent.sectors() {
            let sector = self.at;
            let run = match self.extent.map_within(sector, self.extent.sectors() - sector) {
                Ok(run) => run,
                Err(error) => {
                    self.at += self.extent.grain_sectors();
                    return Some(Step::Bad { sector, error });
                }
            };
            self.at += run.sectors;
            if let Where::Compressed { grain, .. } = run.place {
                return Some(Step::Grain { sector, grain });
            }
        }
        None
    }
}

struct Judge<'r, 'p, 'a> {
    reporter: &'r mut Reporter<'p>,
    place: Place<'a>,
    file: &'a HostFile,
}

impl Judge<'_, '_, '_> {
    fn add(&mut self, kind: FindingKind, severity: Severity, guest: Option<Range<u64>>, offset: u64, text: String) {
        let Place { link, extent, .. } = self.place;
        let (file, host) = (self.file.path().to_owned(), Some(offset..offset + SECTOR_BYTES));
        let finding =
            Finding { kind, severity, link, extent: Some(extent), file, guest, host, count: 1, text, remedy: None };
        self.reporter.add(finding);
    }

    fn grain(&mut self, sector: u64, sectors: u64, offset: Option<u64>, problem: Option<Error>) -> Result<()> {
        match problem {
            Some(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
            Some(error) => {
                let guest = self.place.guest(sector, sectors);
                let text = error.with_causes();
                self.add(FindingKind::CompressedGrain, Severity::Corruption, guest, offset.unwrap_or(0), text);
            }
            None => {}
        }
        self.reporter.done(sectors * SECTOR_BYTES)
    }

    /// What markers have and tables have not is lost to every reader; what only tables have was never there.
    fn compare(&mut self, index: &MarkerIndex, named: &[(u64, u64)], grain_sectors: u64) {
        let mut named = named.iter().copied().peekable();
        for (grain, offset) in index.iter() {
            while named.next_if(|(other, _)| *other < grain).is_some() {}
            let found = named.next_if(|(other, _)| *other == grain);
            if found == Some((grain, offset)) {
                continue;
            }
            let guest = self.place.guest(grain * grain_sectors, grain_sectors);
            let text = match found {
                Some((_, other)) => {
                    format!("the tables have grain {grain} at offset {other:#x}, and the last of it is at {offset:#x}")
                }
                None => format!("the tables do not have grain {grain}, which is at offset {offset:#x}"),
            };
            self.add(FindingKind::StreamTables, Severity::Corruption, guest, offset, text);
        }
        let found = index.found();
        if let Some(problem) = found.problem {
            let text = format!("the blocks end at offset {:#x}: {problem}", found.end_offset);
            self.add(FindingKind::StreamEnd, Severity::Note, None, found.end_offset, text);
        }
    }
}
