//! What a device says of its sectors, to those who go through it from its beginning to its end.

use std::ops::Range;

use crate::block_device::{BlockDevice, BlockStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::sector::MAX_SECTORS;

/// Sectors that are asked about at first: 1 MiB, in which the cost of a call no longer shows.
pub(crate) const STEP: u64 = 2048;

/// Sectors of which the same is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// Whether they are known to be zero.
    pub(crate) is_zero: bool,
    /// The sector after them.
    pub(crate) until: u64,
}

/// A device, and what is known of the place where somebody is who goes through it.
pub(crate) struct Survey<'a> {
    device: &'a dyn BlockDevice,
    capacity: u64,
    known: Stretch,
    /// The sectors behind those that are known to be otherwise.
    next: Range<u64>,
    /// How many sectors the next question is about. Looking far ahead costs time that is lost where data comes soon.
    reach: u64,
}

impl<'a> Survey<'a> {
    /// # Errors
    /// `InvalidInput` for a device that claims more than a disk can have.
    pub(crate) fn new(device: &'a dyn BlockDevice) -> Result<Self> {
        let capacity = device.capacity_sectors();
        if capacity > MAX_SECTORS {
            let text = format!("a device of {capacity} sectors; a disk has at most {MAX_SECTORS}");
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        Ok(Self { device, capacity, known: Stretch { is_zero: false, until: 0 }, next: 0..0, reach: STEP })
    }

    pub(crate) fn device(&self) -> &'a dyn BlockDevice {
        self.device
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// What is at `sector`, which is none before those that were asked about already. Small runs are taken together: if
    /// the answer ends before the sector `until`, something else follows. Past its end a device is zero up to the
    /// sector `end`.
    ///
    /// # Errors
    /// What the device reports; `InvalidInput` for one that answers for other sectors than it was asked about.
    pub(crate) fn at(&mut self, sector: u64, until: u64, end: u64) -> Result<Stretch> {
        if sector >= self.capacity {
            return Ok(Stretch { is_zero: true, until: end });
        }
        if sector >= self.known.until {
            self.known = self.look(sector)?;
        }
        while self.known.until < until.min(self.capacity) {
            let start = self.known.until;
            let next = self.look(start)?;
            if next.is_zero != self.known.is_zero {
                self.next = start..next.until;
                break;
            }
            self.known.until = next.until;
        }
        Ok(self.known)
    }

    fn look(&mut self, sector: u64) -> Result<Stretch> {
        if self.next.contains(&sector) {
            return Ok(Stretch { is_zero: !self.known.is_zero, until: self.next.end });
        }
        let max = self.reach.min(self.capacity - sector);
        let (status, count) = self.device.block_status(sector, max)?;
        if !(1..=max).contains(&count) {
            let text = format!("the device says something of {count} sectors at {sector}, when asked about {max}");
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        let is_zero = matches!(status, BlockStatus::Zero | BlockStatus::Hole);
        self.reach = match is_zero {
            true if count == max => self.reach.saturating_mul(2),
            true => self.reach,
            false => STEP,
        };
        Ok(Stretch { is_zero, until: sector + count })
    }
}
