//! The content of new grains: what is written, and around it what was there before.

use super::{Reservation, Surroundings, Writer, lock};
use crate::error::Result;
use crate::extent::SparseExtent;
use crate::extent::payload::{Payload, write_parts};
use crate::sector::{SECTOR_BYTES, to_usize};

/// A write that takes no more than this together with the rest of its grains goes to the host from one buffer, and
/// more than this is never read from below at once.
const MAX_BUFFER: u64 = 1 << 20;

/// Buffers that are kept, and how large they may be for that.
const MAX_BUFFERS: usize = 4;
const MAX_KEPT_BUFFER: usize = 128 << 10;

/// The sectors of new grains around those that are written, and where all of them go.
struct Around {
    /// The first sector of the grains in the extent.
    first: u64,
    head: u64,
    written: u64,
    /// Sectors behind those that are written, as far as the extent goes: what is beyond is never read.
    tail: u64,
    /// The first byte of the grains in the file.
    offset: u64,
}

impl SparseExtent {
    /// Writes `payload` to the reserved grains, from `sector` on, and what belongs around it. The space is new: where
    /// nothing is written, it reads as zeros.
    pub(super) fn fill(
        &self,
        writer: &Writer,
        reservation: &Reservation,
        sector: u64,
        payload: Payload<'_>,
        around: Surroundings<'_>,
    ) -> Result<()> {
        let grain_sectors = self.grain_sectors();
        let first = reservation.grains.start * grain_sectors;
        let end = (reservation.grains.end * grain_sectors).min(around.sectors);
        let (head, written) = (sector - first, payload.sectors());
        let offset = reservation.start * SECTOR_BYTES;
        let mut place = Around { first, head, written, tail: end - sector - written, offset };
        if !reservation.filled_from_below || is_zero(around, first, head)? {
            place.skip_head();
        }
        if !reservation.filled_from_below || is_zero(around, sector + written, place.tail)? {
            place.tail = 0;
        }
        self.write_around(writer, &place, payload, around)
    }

    fn write_around(
        &self,
        writer: &Writer,
        place: &Around,
        payload: Payload<'_>,
        around: Surroundings<'_>,
    ) -> Result<()> {
        let data_offset = place.offset + place.head * SECTOR_BYTES;
        let bytes = |sectors: u64| to_usize(sectors * SECTOR_BYTES);
        if place.head == 0 && place.tail == 0 {
            return match payload {
                Payload::Zeros { .. } => Ok(()),
                payload => payload.write(self.file(), data_offset),
            };
        }
        let all = place.head + place.written + place.tail;
        if all * SECTOR_BYTES <= MAX_KEPT_BUFFER as u64 {
            return writer.with_buffer(bytes(all), |buffer| {
                let written = bytes(place.head)..bytes(place.head + place.written);
                if around.below.read(place.first, buffer).is_err() {
                    // What is overwritten need not be readable.
                    around.below.read(place.first, &mut buffer[..written.start])?;
                    let after = place.first + place.head + place.written;
                    around.below.read(after, &mut buffer[written.end..])?;
                }
                match payload {
                    Payload::Zeros { .. } => buffer[written].fill(0),
                    payload => payload.copy_to(&mut buffer[written]),
                }
                self.file().write(buffer, place.offset)
            });
        }
        let after = place.first + place.head + place.written;
        if (place.head + place.tail) * SECTOR_BYTES <= MAX_BUFFER && !matches!(payload, Payload::Zeros { .. }) {
            return writer.with_buffer(bytes(place.head + place.tail), |buffer| {
                let (head, tail) = buffer.split_at_mut(bytes(place.head));
                around.below.read(place.first, head)?;
                around.below.read(after, tail)?;
                let parts = Payload::Bytes(head).parts().chain(payload.parts()).chain(Payload::Bytes(tail).parts());
                write_parts(self.file(), place.offset, parts)
            });
        }
        self.copy_up(writer, place.first, place.head, place.offset, around)?;
        if !matches!(payload, Payload::Zeros { .. }) {
            payload.write(self.file(), data_offset)?;
        }
        self.copy_up(writer, after, place.tail, data_offset + place.written * SECTOR_BYTES, around)
    }

    /// Copies from below to the file, as much at a time as memory allows; what is zero there is zero here already.
    fn copy_up(&self, writer: &Writer, sector: u64, sectors: u64, offset: u64, around: Surroundings<'_>) -> Result<()> {
        let mut done = 0;
        while done < sectors {
            let (is_zero, run) = around.below.is_zero(sector + done, sectors - done)?;
            let run = if is_zero { run } else { run.min(MAX_BUFFER / SECTOR_BYTES) };
            if !is_zero {
                writer.with_buffer(to_usize(run * SECTOR_BYTES), |buffer| {
                    around.below.read(sector + done, buffer)?;
                    self.file().write(buffer, offset + done * SECTOR_BYTES)
                })?;
            }
            done += run;
        }
        Ok(())
    }

    /// Fills what is not written by the owner of a reservation, who has written `sectors` sectors from `sector` on.
    pub(crate) fn fill_around(&self, reservation: &Reservation, sector: u64, around: Surroundings<'_>) -> Result<()> {
        if !reservation.filled_from_below {
            return Ok(());
        }
        let writer = self.writer()?;
        let grain_sectors = self.grain_sectors();
        let first = reservation.grains.start * grain_sectors;
        let end = (reservation.grains.end * grain_sectors).min(around.sectors);
        let after = sector + reservation.sectors;
        let offset = |sector: u64| (reservation.start + (sector - first)) * SECTOR_BYTES;
        self.copy_up(writer, first, sector - first, offset(first), around)?;
        self.copy_up(writer, after, end - after, offset(after), around)
    }

    /// Where the sector `sector` of reserved grains is in the file, in bytes.
    pub(super) fn offset_in(&self, reservation: &Reservation, sector: u64) -> u64 {
        (reservation.start + (sector - reservation.grains.start * self.grain_sectors())) * SECTOR_BYTES
    }
}

impl Writer {
    fn with_buffer<R>(&self, len: usize, work: impl FnOnce(&mut [u8]) -> Result<R>) -> Result<R> {
        let mut buffer = lock(&self.buffers).pop().unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        let done = work(&mut buffer[..len]);
        let mut buffers = lock(&self.buffers);
        if buffers.len() < MAX_BUFFERS && buffer.len() <= MAX_KEPT_BUFFER {
            buffers.push(buffer);
        }
        done
    }
}

impl Around {
    /// Leaves the head out: it is zero.
    fn skip_head(&mut self) {
        self.first += self.head;
        self.offset += self.head * SECTOR_BYTES;
        self.head = 0;
    }
}

/// Whether all of the sectors are known to be zero below.
pub(super) fn is_zero(around: Surroundings<'_>, sector: u64, sectors: u64) -> Result<bool> {
    let mut done = 0;
    while done < sectors {
        match around.below.is_zero(sector + done, sectors - done)? {
            (true, run) => done += run,
            (false, _) => return Ok(false),
        }
    }
    Ok(true)
}
