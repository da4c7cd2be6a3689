//! One sparse extent, put right step by step. Each step is durable before the next one begins, and each can be done again:
//! a crash leaves an extent that is at most as damaged as it was, and a second repair goes on.
//!
//! ```text
//! entries in their places -> new tables, copies, grains -> header -> leaks -> closed
//! ```

use super::changes::Changes;
use super::plan::Plan;
use super::structures::{self, Room};
use super::undo::Undo;
use super::{RepairOptions, entries, space};
use crate::check::Judgement;
use crate::error::Result;
use crate::extent::audit::{Audit, Observer, Problem};
use crate::extent::{GrainDirectory, Tables};
use crate::format::cowd::{GENERATION_AT, SAVED_GENERATION_AT, UNCLEAN_AT};
use crate::format::{HeaderMark, KdmvHeader, SparseHeader};

/// Repairs a sparse extent; says how many changes were made.
///
/// # Errors
/// What the host reports; [`Full`](crate::ErrorKind::Full) where what is new has no room.
pub(super) fn repair(
    tables: &Tables,
    header: &SparseHeader,
    options: &RepairOptions,
    undo: Option<&mut Undo>,
) -> Result<u64> {
    let file = tables.file();
    let mut changes = Changes::new(file, undo);
    // Whoever was killed may have left what is read here, but is not durable.
    file.sync()?;
    let redundant = load_redundant(tables)?;
    let mut plan = Plan::new(tables, redundant.as_ref(), options.prefer_redundant);
    let mut audit = Audit::with_redundant(tables, load_redundant(tables)?, true);
    audit.run(&mut plan)?;
    if plan.beyond_repair {
        return Ok(0);
    }
    entries::put_right(tables, &plan, &mut audit, options.prefer_redundant, &mut changes)?;
    changes.sync()?;
    let mut room = Room::behind(tables, &audit);
    let lacks_directory = tables.layout().directory_is_redundant
        || (tables.layout().keeps_redundant && tables.layout().redundant.is_none());
    if !plan.must_not_grow {
        if plan.needs_room() {
            structures::make(tables, &plan, &audit, &mut room, &mut changes)?;
        }
        if let (true, Some(header)) = (lacks_directory, header.as_kdmv()) {
            structures::make_directory(tables, &audit, header, &mut room, &mut changes)?;
        }
    }
    if plan.announce
        && let Some(header) = header.as_kdmv()
    {
        announce_zero_grains(header, &mut changes)?;
    }
    finish(tables, &mut changes)?;
    Ok(changes.made())
}

fn load_redundant(tables: &Tables) -> Result<Option<GrainDirectory>> {
    let layout = tables.layout();
    let start = layout.redundant.filter(|_| !layout.directory_is_redundant);
    start.map(|start| GrainDirectory::load(tables.file(), start, layout.tables())).transpose()
}

/// What is done once the tables are right: they are looked at anew, as they are in the file now.
fn finish(tables: &Tables, changes: &mut Changes<'_>) -> Result<()> {
    let Ok(tables) = Tables::open(tables.file().clone(), tables.layout().clone(), false) else { return Ok(()) };
    let redundant = load_redundant(&tables)?;
    let mut audit = Audit::with_redundant(&tables, redundant, true);
    let mut rest = Rest::default();
    audit.run(&mut rest)?;
    if rest.beyond_repair {
        return Ok(());
    }
    structures::raise_free_sector(&tables, audit.taken().end(), changes)?;
    changes.sync()?;
    if rest.something {
        // What is left of lost grains may be among what nothing names.
        return Ok(());
    }
    space::reclaim(&tables, &mut audit, changes)?;
    changes.sync()?;
    close(&tables, changes)
}

/// Whether anything is left that a writer must not meet, or that may be all there is of something.
#[derive(Default)]
struct Rest {
    something: bool,
    beyond_repair: bool,
}

impl Observer for Rest {
    fn found(&mut self, problem: Problem) -> Result<()> {
        self.beyond_repair |= Judgement::is_beyond_repair(&problem);
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

/// Marks the extent as closed.
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
            tables.file().read(&mut version, 4)?;
            if u32::from_le_bytes(version) == 1 {
                changes.write(UNCLEAN_AT as u64, vec![0; 4])?;
            }
        }
    }
    changes.sync()
}
