//! Reading: runs are looked up, then moved.

use std::io::IoSliceMut;

use super::Disk;
use crate::error::Result;
use crate::extent::HostFile;
use crate::mapping::{Place, Run};
use crate::sector::{SECTOR_SIZE, to_usize};

impl Disk {
    #[inline]
    fn place_in_grain(&self, start: u64, count: u64) -> Option<(&HostFile, u64)> {
        // Nothing is asked for at the end of the disk.
        if count == 0 { None } else { self.links[0].map_of_extents().place_in_grain(start, count) }
    }

    /// Fills `buf` from `start` on, which the caller has checked.
    #[inline]
    pub(super) fn read_runs(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        if let Some((file, offset)) = self.place_in_grain(start, (buf.len() / SECTOR_SIZE) as u64) {
            return file.read(buf, offset);
        }
        let (mut sector, mut rest) = (start, buf);
        while !rest.is_empty() {
            let (run, _) = self.resolve(sector, (rest.len() / SECTOR_SIZE) as u64)?;
            // A run has at most the sectors that were asked for, which fit into the buffer.
            let (head, tail) = rest.split_at_mut(run_len(&run));
            fill(&run, 0, head)?;
            sector += run.sectors;
            rest = tail;
        }
        Ok(())
    }

    /// Fills `bufs`, which have `count` sectors, from `start` on. The slices of a run go to the host together; one that
    /// reaches beyond its run is filled in parts.
    pub(super) fn read_runs_vectored(&self, start: u64, count: u64, mut bufs: &mut [IoSliceMut<'_>]) -> Result<()> {
        let (mut sector, end) = (start, start + count);
        while sector < end {
            let (run, _) = self.resolve(sector, end - sector)?;
            let mut left = run_len(&run);
            let mut done = 0;
            while left > 0 {
                let (whole, len) = whole_slices(bufs, left);
                if whole > 0 {
                    let (now, later) = bufs.split_at_mut(whole);
                    fill_vectored(&run, done, now, len)?;
                    bufs = later;
                } else {
                    fill(&run, done, &mut bufs[0][..left])?;
                    IoSliceMut::advance_slices(&mut bufs, left);
                }
                let moved = if whole > 0 { len } else { left };
                left -= moved;
                done += moved as u64;
            }
            sector += run.sectors;
        }
        Ok(())
    }
}

fn run_len(run: &Run<'_>) -> usize {
    to_usize(run.sectors).saturating_mul(SECTOR_SIZE)
}

/// How many of the first slices end within `len` bytes, and how many bytes they have.
fn whole_slices(bufs: &[IoSliceMut<'_>], len: usize) -> (usize, usize) {
    let mut bytes = 0;
    let fitting = bufs.iter().take_while(|buf| {
        let fits = buf.len() <= len - bytes;
        bytes += if fits { buf.len() } else { 0 };
        fits
    });
    (fitting.count(), bytes)
}

/// Moves the payload of a run from its byte `skip` on: with `fill_vectored` the only place where that happens.
#[inline]
pub(super) fn fill(run: &Run<'_>, skip: u64, buf: &mut [u8]) -> Result<()> {
    match run.place {
        Place::Data { file, offset } => file.read(buf, offset + skip),
        Place::Compressed { grain, skip: before } => grain.read(before + skip, buf),
        Place::Zero | Place::Unallocated => {
            buf.fill(0);
            Ok(())
        }
    }
}

/// The same into slices of `len` bytes in all.
fn fill_vectored(run: &Run<'_>, skip: u64, bufs: &mut [IoSliceMut<'_>], len: usize) -> Result<()> {
    match run.place {
        Place::Data { file, offset } => file.read_vectored(bufs, len, offset + skip),
        Place::Compressed { .. } => {
            let mut done = skip;
            for buf in bufs {
                fill(run, done, buf)?;
                done += buf.len() as u64;
            }
            Ok(())
        }
        Place::Zero | Place::Unallocated => {
            for buf in bufs {
                buf.fill(0);
            }
            Ok(())
        }
    }
}
