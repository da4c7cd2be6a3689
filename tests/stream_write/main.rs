//! Streams: what `StreamWriter` writes, byte by byte, and what others read from it.
//!
//! ```text
//! walk       a reader of streams of the tests' own, which takes nothing on trust
//! layout     headers, descriptors, tables, footers, ends
//! content    every capacity, zeros left out, levels, noise, any number of threads
//! failing    grains that are refused, outputs and sources that fail
//! create     the same through `CreateOptions`
//! back       what is written is read back by this crate
//! others     qemu-img, libvmdk, dissect.hypervisor and 7-Zip
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod back;
mod content;
mod create;
mod failing;
mod layout;
mod others;
#[path = "../support/mod.rs"]
mod support;
mod walk;

use std::io::Cursor;

use vmdk::{BlockDevice, BlockStatus, CreateOptions, DeviceLimits, Error, ErrorKind, Result, StreamWriter};

use support::rng::Rng;
use support::{SECTOR, index};

/// Sectors and bytes of a grain.
const GRAIN: u64 = 128;
const GRAIN_LEN: usize = 65_536;

/// Sectors that a table covers.
const TABLE: u64 = 65_536;

fn options(sectors: u64) -> CreateOptions {
    CreateOptions::new().capacity_sectors(sectors)
}

/// Text that is different in every grain, as long as the grain at `start` of such a disk is.
fn text(start: u64, capacity: u64) -> Vec<u8> {
    let len = index((capacity - start).min(GRAIN)) * SECTOR;
    (0..).flat_map(|line| format!("line {line} of the grain at {start}\n").into_bytes()).take(len).collect()
}

fn noise(seed: u64) -> Vec<u8> {
    Rng::new(seed).bytes(GRAIN_LEN)
}

/// Grains by the sectors at which they begin, in their order, as a stream for a pipe.
fn piped(options: &CreateOptions, grains: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut stream = StreamWriter::new(Vec::new(), "disk.vmdk", options).unwrap();
    for (start, content) in grains {
        stream.write_grain(*start, content).unwrap();
    }
    stream.finish().unwrap()
}

/// The same as a stream in a file.
fn filed(options: &CreateOptions, grains: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut stream = StreamWriter::new_seekable(Cursor::new(Vec::new()), "disk.vmdk", options).unwrap();
    for (start, content) in grains {
        stream.write_grain(*start, content).unwrap();
    }
    stream.finish().unwrap().into_inner()
}

/// A disk of any size with text in some grains, and nothing in between.
struct Islands {
    capacity: u64,
    grains: Vec<u64>,
    limits: DeviceLimits,
}

impl Islands {
    fn new(capacity: u64, grains: &[u64]) -> Self {
        Self { capacity, grains: grains.to_vec(), limits: DeviceLimits::new(true) }
    }

    fn contents(&self) -> Vec<(u64, Vec<u8>)> {
        self.grains.iter().map(|&start| (start, text(start, self.capacity))).collect()
    }
}

impl BlockDevice for Islands {
    fn capacity_sectors(&self) -> u64 {
        self.capacity
    }

    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        for (sector, bytes) in (start..).zip(buf.chunks_mut(SECTOR)) {
            let grain = sector / GRAIN * GRAIN;
            assert!(self.grains.contains(&grain), "sector {sector} is zero, as was said");
            bytes.copy_from_slice(&text(grain, self.capacity)[index(sector - grain) * SECTOR..][..SECTOR]);
        }
        Ok(())
    }

    fn write_sectors(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, "nobody writes to an island"))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        let end = self.capacity.min(start.saturating_add(max));
        let grain = start / GRAIN * GRAIN;
        if self.grains.contains(&grain) {
            return Ok((BlockStatus::Data, end.min(grain + GRAIN) - start));
        }
        let next = self.grains.iter().copied().find(|&next| next > start).unwrap_or(u64::MAX);
        Ok((BlockStatus::Hole, end.min(next) - start))
    }
}
