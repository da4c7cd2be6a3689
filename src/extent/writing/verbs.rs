//! A guest's write, to the grains that are there and to new ones.

use super::space::Claimant;
use super::{Reservation, Surroundings};
use crate::error::Result;
use crate::extent::SparseExtent;
use crate::extent::payload::Payload;
use crate::mapping::Place;

/// Where sectors that are to be written go.
pub(crate) enum Target {
    /// To this byte of the file, where they are.
    InPlace { offset: u64, sectors: u64 },
    /// Into new grains, from this byte of the file on.
    New { offset: u64, reservation: Reservation },
}

impl SparseExtent {
    /// Writes `payload` from `sector` on. Grains that are there are overwritten, others are made.
    pub(crate) fn write(&self, mut sector: u64, mut payload: Payload<'_>, around: Surroundings<'_>) -> Result<()> {
        let writer = self.begin(around)?;
        while !payload.is_empty() {
            let run = self.map_to_write(sector, payload.sectors())?;
            if let Place::Data { file, offset } = run.place {
                let (now, later) = payload.split(run.sectors);
                now.write(file, offset)?;
                (sector, payload) = (sector + run.sectors, later);
            } else if let Some(reservation) = self.reserve(writer, sector, run.sectors, Claimant::Call)? {
                let (now, later) = payload.split(reservation.sectors());
                let fill = || self.fill(writer, &reservation, sector, now, around);
                if let Err(error) = writer.while_claimed(&reservation, fill) {
                    self.abandon(&reservation);
                    return Err(error);
                }
                (sector, payload) = (sector + reservation.sectors(), later);
                self.commit(&reservation)?;
            }
        }
        Ok(())
    }

    /// Where the next of `max` sectors from `sector` on are to be written by somebody else.
    pub(crate) fn prepare(&self, sector: u64, max: u64, around: Surroundings<'_>) -> Result<Target> {
        let writer = self.begin(around)?;
        loop {
            let run = self.map_to_write(sector, max)?;
            if let Place::Data { offset, .. } = run.place {
                return Ok(Target::InPlace { offset, sectors: run.sectors });
            }
            if let Some(reservation) = self.reserve(writer, sector, run.sectors, Claimant::Prepared)? {
                return Ok(Target::New { offset: self.offset_in(&reservation, sector), reservation });
            }
        }
    }
}
