//! Sectors that are to read as zeros, or are no longer needed.
//!
//! | grain | `discard` | `write_zeroes` |
//! |---|---|---|
//! | part of one | left | zeros, in place or in a new grain where the parent has data |
//! | allocated | entry 1 with zero grains, 0 without a parent, else punched | the same if it may unmap, else zeros |
//! | zero | left | left |
//! | unallocated, zero below | left | left |
//! | unallocated, data below | left | entry 1 with zero grains, else a new grain that is a hole |

use std::ops::Range;

use super::allocation::MAX_GRAINS;
use super::fill::is_zero;
use super::{Surroundings, Writer};
use crate::block_device::read_only;
use crate::error::Result;
use crate::extent::SparseExtent;
use crate::extent::payload::Payload;
use crate::extent::pending::ChangeSet;
use crate::extent::tables::{UNALLOCATED, ZERO};
use crate::mapping::Place;
use crate::sector::SECTOR_BYTES;

/// What is wanted of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zeroing {
    /// Their content is not needed any more; what costs something is left.
    Discard,
    /// They are to read as zeros, and their space may be given back.
    Unmap,
    /// They are to read as zeros and keep their space.
    Keep,
}

impl SparseExtent {
    /// Makes `count` sectors from `sector` on read as zeros, as far as `zeroing` asks for it.
    pub(crate) fn zero(&self, mut sector: u64, count: u64, zeroing: Zeroing, around: Surroundings<'_>) -> Result<()> {
        self.writer()?.check()?;
        let end = sector + count;
        while sector < end {
            // Not more at once, so that what is pending is published in between.
            let most = MAX_GRAINS * self.grain_sectors() - sector % self.grain_sectors();
            let run = self.map_to_write(sector, most.min(end - sector))?;
            sector += match run.place {
                Place::Zero => run.sectors,
                Place::Unallocated if zeroing == Zeroing::Discard => run.sectors,
                Place::Unallocated => self.zero_unallocated(sector, run.sectors, around)?,
                Place::Data { .. } => self.zero_data(sector, run.sectors, zeroing, around)?,
                Place::Compressed { .. } => return Err(read_only()),
            };
        }
        Ok(())
    }

    /// Zeros over what lies below; says for how many sectors it is done.
    fn zero_unallocated(&self, sector: u64, count: u64, around: Surroundings<'_>) -> Result<u64> {
        let (head, grains) = self.whole_grains(sector, count);
        if head > 0 || grains.is_empty() {
            let now = if head > 0 { head } else { count };
            if !is_zero(around, sector, now)? {
                self.write(sector, Payload::Zeros { sectors: now }, around)?;
            }
            return Ok(now);
        }
        let (is_zero, sectors) = self.grains_below(sector, self.sectors_of(&grains, around), around)?;
        if is_zero {
            return Ok(sectors);
        }
        if !self.tables().layout().zero_grains {
            self.write(sector, Payload::Zeros { sectors }, around)?;
            return Ok(sectors);
        }
        let writer = self.begin(around)?;
        let grains = grains.start..self.grain_of(sector + sectors - 1) + 1;
        let done = writer.with_claim(&grains, || {
            let now = self.map_to_write(sector, sectors)?;
            if !matches!(now.place, Place::Unallocated) {
                return Ok(0);
            }
            // The run may have become shorter; it ends with a grain.
            let grains = grains.start..self.grain_of(sector + now.sectors - 1) + 1;
            self.back_tables(writer, &grains)?;
            let changed = self.cache().change(grains.map(|grain| (grain, ZERO)), |_| ());
            changed.ok_or_else(|| writer.too_late())?;
            writer.check()?;
            Ok(now.sectors)
        })?;
        self.publish_if_much()?;
        Ok(done.unwrap_or(0))
    }

    /// Of `sectors` sectors of whole grains from `sector` on: whether the first grain is all zero below, and for how
    /// many sectors the same holds of their grains. What is below need not have the same grains.
    fn grains_below(&self, sector: u64, sectors: u64, around: Surroundings<'_>) -> Result<(bool, u64)> {
        let grain_sectors = self.grain_sectors();
        let end = sector + sectors;
        let mut first = None;
        let mut at = sector;
        while at < end {
            let (zero, next) = match around.below.is_zero(at, end - at)? {
                (false, run) => (false, (at + run).next_multiple_of(grain_sectors).min(end)),
                (true, run) if at + run == end || run >= grain_sectors => {
                    (true, if at + run == end { end } else { at + run - run % grain_sectors })
                }
                (true, _) => {
                    let next = (at + grain_sectors).min(end);
                    (is_zero(around, at, next - at)?, next)
                }
            };
            if *first.get_or_insert(zero) != zero {
                break;
            }
            at = next;
        }
        Ok((first.unwrap_or(true), at - sector))
    }

    /// Zeros where there is data; says for how many sectors it is done.
    fn zero_data(&self, sector: u64, count: u64, zeroing: Zeroing, around: Surroundings<'_>) -> Result<u64> {
        let (head, grains) = self.whole_grains(sector, count);
        if head > 0 || grains.is_empty() {
            let now = if head > 0 { head } else { count };
            if zeroing != Zeroing::Discard {
                self.write(sector, Payload::Zeros { sectors: now }, around)?;
            }
            return Ok(now);
        }
        let sectors = self.sectors_of(&grains, around);
        if zeroing == Zeroing::Keep {
            self.write(sector, Payload::Zeros { sectors }, around)?;
            return Ok(sectors);
        }
        let writer = self.begin(around)?;
        let entry = match (around.below.exists(), self.tables().layout().zero_grains) {
            (false, _) => Some(UNALLOCATED),
            (true, true) => Some(ZERO),
            (true, false) => None,
        };
        let unmap = || self.unmap(writer, sector, &grains, sectors, entry, |pending, old| pending.freed.push(old));
        let done = writer.with_claim(&grains, unmap)?;
        self.publish_if_much()?;
        Ok(done.unwrap_or(0))
    }

    /// Takes grains away from their entries, or, where those have to stay, empties them. `free` is told which bytes
    /// have no entry any more.
    pub(super) fn unmap(
        &self,
        writer: &Writer,
        sector: u64,
        grains: &Range<u64>,
        sectors: u64,
        entry: Option<u32>,
        free: impl FnOnce(&mut ChangeSet, Range<u64>),
    ) -> Result<u64> {
        let now = self.map_to_write(sector, sectors)?;
        let Place::Data { file, offset } = now.place else { return Ok(0) };
        let grains = grains.start..self.grain_of(sector + now.sectors - 1) + 1;
        let bytes = offset..offset + (grains.end - grains.start) * self.grain_sectors() * SECTOR_BYTES;
        match entry {
            Some(entry) => {
                self.back_tables(writer, &grains)?;
                let entries = grains.map(|grain| (grain, entry));
                let changed = self.cache().change(entries, |pending| free(pending.waiting(), bytes));
                changed.ok_or_else(|| writer.too_late())?;
                writer.check()?;
            }
            None => file.punch(bytes)?,
        }
        Ok(now.sectors)
    }

    /// How many of the sectors come before the first whole grain among them, and the whole grains. A grain is whole,
    /// too, if the extent ends in it.
    fn whole_grains(&self, sector: u64, count: u64) -> (u64, Range<u64>) {
        let grain_sectors = self.grain_sectors();
        let first = sector.div_ceil(grain_sectors);
        let head = (first * grain_sectors - sector).min(count);
        let end = sector + count;
        let end_grain =
            if end >= self.tables().layout().sectors { end.div_ceil(grain_sectors) } else { end / grain_sectors };
        (head, first..end_grain.max(first))
    }

    /// Sectors of the extent that grains have.
    fn sectors_of(&self, grains: &Range<u64>, around: Surroundings<'_>) -> u64 {
        (grains.end * self.grain_sectors()).min(around.sectors) - grains.start * self.grain_sectors()
    }
}
