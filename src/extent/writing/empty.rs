//! An extent that has nothing any more, because what is below has all of it.
//!
//! An entry that is taken back reads as what is below, which is the same: so it does not matter in which order entries
//! reach the disk. But grains are emptied, and the file is cut, only when no entry on disk names them any more.

use super::allocation::MAX_GRAINS;
use super::{Ready, Surroundings};
use crate::error::Result;
use crate::extent::SparseExtent;
use crate::extent::tables::UNALLOCATED;
use crate::format::HeaderMark;
use crate::mapping::Place;
use crate::sector::SECTOR_BYTES;

impl SparseExtent {
    /// Takes back all entries, durably, and gives the space of the grains back. Of a hosted extent the file ends with
    /// its tables after the next close.
    pub(crate) fn empty(&self, around: Surroundings<'_>) -> Result<()> {
        let sectors = self.tables().layout().sectors;
        let mut sector = 0;
        while sector < sectors {
            let max = (MAX_GRAINS * self.grain_sectors()).min(sectors - sector);
            let run = self.map_to_write(sector, max)?;
            if !matches!(run.place, Place::Unallocated) {
                self.take_back(sector, run.sectors, run.place, around)?;
            }
            sector += run.sectors;
        }
        self.publish()?;
        self.forget_space(around)
    }

    /// Takes back the entries of a run.
    fn take_back(&self, sector: u64, sectors: u64, place: Place<'_>, around: Surroundings<'_>) -> Result<()> {
        let writer = self.begin(around)?;
        let grains = self.grain_of(sector)..self.grain_of(sector + sectors - 1) + 1;
        self.back_tables(writer, &grains)?;
        let freed = match place {
            Place::Data { offset, .. } => {
                Some(offset..offset + (grains.end - grains.start) * self.grain_sectors() * SECTOR_BYTES)
            }
            Place::Zero | Place::Unallocated | Place::Compressed { .. } => None,
        };
        let entries = grains.map(|grain| (grain, UNALLOCATED));
        let changed = self.cache().change(entries, |pending| pending.waiting().freed.extend(freed));
        changed.ok_or_else(|| writer.too_late())?;
        writer.check()?;
        self.publish_if_much()
    }

    /// Lets a hosted extent end with its metadata. A COWD extent says in its header how far it is used, which never
    /// becomes less.
    fn forget_space(&self, around: Surroundings<'_>) -> Result<()> {
        if matches!(self.tables().layout().mark, HeaderMark::FreeSector { .. }) {
            return Ok(());
        }
        let Some(ready) = self.writer()?.ready.get() else { return Ok(()) };
        let end = self.end_of_metadata(ready);
        if end < self.tables().file_sectors() {
            self.begin(around)?;
            ready.space.retreat(end);
        }
        Ok(())
    }

    /// The sector of the file behind everything that is no grain.
    fn end_of_metadata(&self, ready: &Ready) -> u64 {
        let (tables, layout) = (self.tables(), self.tables().layout());
        let mut end = layout.first_grain_sector.max(layout.descriptor.end.div_ceil(SECTOR_BYTES));
        for directory in std::iter::once(tables.directory()).chain(&ready.found.redundant) {
            end = end.max(directory.place(layout.tables()).end.div_ceil(SECTOR_BYTES));
            let all = 0..u32::try_from(layout.tables()).unwrap_or(u32::MAX);
            let starts = all.map(|table| u64::from(directory.entry(table))).filter(|&start| start != 0);
            end = starts.map(|start| start + layout.table_sectors).fold(end, u64::max);
        }
        end
    }
}
