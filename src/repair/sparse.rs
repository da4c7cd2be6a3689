//! One sparse extent, put right step by step. Each step is durable before the next one begins, and each can be done
//! again: a crash leaves an extent that is at most as damaged as it was, and a second repair goes on.
//!
//! ```text
//! entries in their places -> new tables, copies, grains -> header -> leaks -> closed
//! ```

use std::sync::Arc;

use super::changes::{Changes, Log};
use super::plan::Plan;
use super::structures;
use super::{RepairOptions, entries, space};
use crate::check::Judgement;
use crate::error::{Error, Result};
use crate::extent::Tables;
use crate::extent::audit::{Audit, Observer, Problem, Side};
use crate::format::cowd::{GENERATION_AT, SAVED_GENERATION_AT, UNCLEAN_AT, VERSION_AT};
use crate::format::{HeaderMark, KdmvHeader, SparseHeader};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};

/// How often entries are gone through: what one copy takes may be what another one frees.
const ROUNDS: usize = 8;

/// Repairs a sparse extent.
///
/// # Errors
/// What the host reports; [`Full`](crate::ErrorKind::Full) where what is new has no room.
pub(super) fn repair(tables: &Tables, header: &SparseHeader, options: &RepairOptions, log: &mut Log) -> Result<()> {
    tables.check_directory()?;
    let mut changes = Changes::new(tables.file(), log);
    let prefer_redundant = options.prefer_redundant;
    let side = if prefer_redundant { Side::Redundant } else { Side::Primary };
    let most_grains = most_copied(tables)?;
    let mut announce = false;
    for _ in 0..ROUNDS {
        let made = changes.made();
        let mut plan = Plan::new(tables, prefer_redundant, most_grains);
        let mut audit = Audit::with_redundant(tables, tables.load_redundant()?, true).preferring(side);
        audit.run(&mut plan)?;
        if plan.is_beyond_repair()? {
            return Ok(());
        }
        announce = plan.announce;
        entries::put_right(tables, &plan, &mut audit, prefer_redundant, &mut changes)?;
        changes.sync()?;
        // Whatever was changed, what comes next needs another look: what took a grain before may have left it.
        if changes.made() == made && !plan.must_not_grow {
            structures::make_one_kind(tables, &plan, &audit, &mut changes)?;
        }
        if changes.made() == made {
            break;
        }
    }
    if announce && let Some(header) = header.as_kdmv() {
        announce_zero_grains(header, &mut changes)?;
    }
    finish(tables, options.reclaim, &mut changes)
}

/// How many grains may be copied: an extent whose entries share grains may claim more than any host has.
fn most_copied(tables: &Tables) -> Result<usize> {
    let file = tables.file();
    let allocated = file.storage().allocated_len();
    let allocated =
        allocated.map_err(|cause| Error::host("cannot find out the allocated size", cause).in_file(file.path()))?;
    Ok(to_usize((allocated / (tables.layout().grain_sectors * SECTOR_BYTES)).max(1)))
}

/// What is done once the tables are right: they are looked at anew, as they are in the file now.
fn finish(tables: &Tables, reclaims: bool, changes: &mut Changes<'_>) -> Result<()> {
    let Some(tables) = reopened(tables)? else { return Ok(()) };
    let redundant = tables.load_redundant()?;
    let mut audit = Audit::with_redundant(&tables, redundant, true);
    let mut rest = Rest::default();
    audit.run(&mut rest)?;
    if rest.in_metadata {
        return Ok(());
    }
    structures::raise_free_sector(&tables, audit.taken().end(), changes)?;
    changes.sync()?;
    if rest.something {
        // What is left of lost grains may be among what nothing names.
        return Ok(());
    }
    if reclaims {
        space::reclaim(&tables, &mut audit, changes)?;
    }
    close(&tables, changes)?;
    changes.sync()
}

/// The extent once more, by its header as that is now; `None` if its directory cannot be read.
fn reopened(tables: &Tables) -> Result<Option<Tables>> {
    let file = tables.file();
    let layout = match tables.layout().mark {
        HeaderMark::Unclean { .. } => {
            let mut sector = [0; SECTOR_SIZE];
            file.read(&mut sector, 0)?;
            KdmvHeader::decode(&sector).map(|header| header.layout(file.len(), false))
        }
        // Nothing in it has changed that the tables are found by.
        HeaderMark::FreeSector { .. } => Some(Ok(tables.layout().clone())),
    };
    let Some(Ok(layout)) = layout else { return Ok(None) };
    Tables::open(Arc::clone(file), layout, false).map(Some)
}

/// Whether anything is left that a writer must not meet, or that may be all there is of something.
#[derive(Default)]
struct Rest {
    something: bool,
    in_metadata: bool,
}

impl Observer for Rest {
    fn found(&mut self, problem: Problem) -> Result<()> {
        self.in_metadata |= Judgement::is_in_metadata(&problem);
        self.something |= !Judgement::is_harmless(&problem);
        Ok(())
    }
}

/// Lets the header announce zero grains, in one sector.
fn announce_zero_grains(header: &KdmvHeader, changes: &mut Changes<'_>) -> Result<()> {
    let [version, flags] = header.with_zero_grains();
    changes.write(KdmvHeader::VERSION_AT, [version.to_le_bytes(), flags.to_le_bytes()].concat())?;
    changes.sync()
}

/// Marks the extent as closed. Not synced.
fn close(tables: &Tables, changes: &mut Changes<'_>) -> Result<()> {
    if !tables.layout().unclean {
        return Ok(());
    }
    match tables.layout().mark {
        HeaderMark::Unclean { at } => changes.write(at, vec![0])?,
        HeaderMark::FreeSector { .. } => {
            let mut generation = vec![0; 4];
            tables.file().read(&mut generation, GENERATION_AT as u64)?;
            changes.write(SAVED_GENERATION_AT as u64, generation)?;
            // In version 3 something else stands there, and the extent is not unclean for that.
            let mut version = [0; 4];
            tables.file().read(&mut version, VERSION_AT as u64)?;
            if u32::from_le_bytes(version) == 1 {
                changes.write(UNCLEAN_AT as u64, vec![0; 4])?;
            }
        }
    }
    Ok(())
}
