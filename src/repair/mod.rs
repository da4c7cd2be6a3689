//! Damage that can be put right without a guess about data.
//!
//! What is done about which problem, [`Judgement`](crate::check::Judgement) says, for a check as for a repair. What a
//! guest can read stays what it is, unless the redundant tables are preferred on request, and what needs a guess is
//! left alone. Every change is noted in the undo file, if there is one, before it is made.

mod changes;
mod entries;
mod plan;
mod space;
mod sparse;
mod structures;
mod undo;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::check::CheckReport;
use crate::create::{CreateOptions, Plan};
use crate::descriptor::{Access, CreateType};
use crate::error::{Error, Result};
use crate::extent::{Extent, HostFile};
use crate::link::Link;
use crate::sector::SECTOR_SIZE;
use crate::storage::Storage;

pub(crate) use self::changes::FirstChange;
use self::changes::{Changes, Log};
use self::undo::Undo;

/// What a disk is called in its descriptor whose own name cannot stand there.
const NAMELESS: &str = "disk.vmdk";

/// How an image is repaired.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RepairOptions {
    pub(crate) prefer_redundant: bool,
    pub(crate) reclaim: bool,
    pub(crate) dry_run: bool,
    pub(crate) undo: Option<Arc<dyn Storage>>,
}

impl RepairOptions {
    /// Everything that can be put right without a guess; no space is given back, and there is no undo file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what the redundant tables have wherever that can be right, and the primary ones only elsewhere; also where
    /// only the redundant directory has a table. Guests may read something else then, so that the content ID changes if
    /// anything of it is done.
    pub fn prefer_redundant(mut self, prefer: bool) -> Self {
        self.prefer_redundant = prefer;
        self
    }

    /// Gives back the space that nothing names, in extents in which nothing is wrong any more: the file is cut, or gets
    /// holes. It may be all that is left of grains that the tables have lost: without this it stays.
    pub fn reclaim(mut self, reclaim: bool) -> Self {
        self.reclaim = reclaim;
        self
    }

    /// Only says what would be done. The image is opened for reading.
    pub fn dry_run(mut self, dry: bool) -> Self {
        self.dry_run = dry;
        self
    }

    /// Notes in `undo`, which must be empty, what was there before each change, durably before it is made. With it
    /// [`OpenOptions::undo_repair`](crate::OpenOptions::undo_repair) takes everything back.
    pub fn undo(mut self, undo: Arc<dyn Storage>) -> Self {
        self.undo = Some(undo);
        self
    }
}

/// What a repair has done; see [`OpenOptions::repair`](crate::OpenOptions::repair).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was found before, with what is to be done about it.
    pub before: CheckReport,
    /// What is left; the same as before if nothing was changed.
    pub after: CheckReport,
    /// How many stretches of files were changed.
    pub changes: u64,
    /// Bytes of the undo file; 0 if there is none.
    pub undo_bytes: u64,
}

/// The changes of a link.
pub(crate) struct Repair<'a> {
    options: &'a RepairOptions,
    log: Log,
}

impl<'a> Repair<'a> {
    /// Begins a repair, with its undo file.
    ///
    /// # Errors
    /// `InvalidInput` for an undo file that is not empty; what the host reports.
    pub(crate) fn begin(options: &'a RepairOptions) -> Result<Self> {
        let undo = options.undo.as_ref().map(|undo| Undo::begin(Arc::clone(undo))).transpose()?;
        Ok(Self { options, log: Log { undo, ..Log::default() } })
    }

    /// What is done, durably, before the first change.
    pub(crate) fn first(&mut self, change: FirstChange) {
        self.log.first = Some(change);
    }

    /// What a writer changes before anything else: the undo file tells by it whether there was one.
    pub(crate) fn witness(&mut self, file: Arc<HostFile>, bytes: Range<u64>) {
        self.log.witness = Some((file, bytes));
    }

    /// Repairs an extent that takes writes.
    pub(crate) fn extent(&mut self, extent: &Extent) -> Result<()> {
        let (Some(sparse), Some(header), Access::ReadWrite) = (extent.sparse(), extent.header(), extent.access())
        else {
            return Ok(());
        };
        let repaired = sparse::repair(sparse.tables(), header, self.options, &mut self.log);
        repaired.map_err(|error| error.in_file(sparse.file().path()))
    }

    /// Makes the descriptor of a disk from its header, in its room, which is all zeros: as long as the first sector of
    /// it is, there is no descriptor.
    pub(crate) fn describe(&mut self, link: &Link, room: Range<u64>) -> Result<()> {
        let name = link.path().file_name().and_then(|name| name.to_str()).unwrap_or(NAMELESS);
        let options = CreateOptions::new().create_type(CreateType::MonolithicSparse);
        let options = options.capacity_sectors(link.capacity_sectors());
        let plan = Plan::new(&options, name, None).or_else(|_| Plan::new(&options, NAMELESS, None))?;
        let text = plan.text.into_bytes();
        if text.len() as u64 > room.end - room.start {
            return Ok(());
        }
        let (first, rest) = text.split_at(text.len().min(SECTOR_SIZE));
        let mut changes = Changes::new(link.file(), &mut self.log);
        changes.write(room.start + first.len() as u64, rest.to_vec())?;
        changes.sync()?;
        changes.write(room.start, first.to_vec())?;
        changes.sync()
    }

    /// Writes to a file in steps, each of which is durable before the next.
    pub(crate) fn write_in_steps(&mut self, file: &HostFile, steps: Vec<(u64, Vec<u8>)>) -> Result<()> {
        let mut changes = Changes::new(file, &mut self.log);
        for (offset, bytes) in steps {
            changes.write(offset, bytes)?;
            changes.sync()?;
        }
        Ok(())
    }

    /// How many changes were made, and how long the undo file is.
    pub(crate) fn finish(self) -> Result<(u64, u64)> {
        let Log { undo, made, .. } = self.log;
        let undo_bytes = undo.map_or(Ok(0), |mut undo| undo.finish())?;
        Ok((made, undo_bytes))
    }
}

/// Takes back what an undo file notes of the files of a link; says how many changes that were.
///
/// # Errors
/// `Corrupt` for an undo file of something else; `InvalidInput` where somebody has written since; what the host
/// reports.
pub(crate) fn take_back(undo: &dyn Storage, link: &Link) -> Result<u64> {
    undo::take_back(undo, &link.host_files()).map_err(|error: Error| error.in_file(Path::new(link.path())))
}
