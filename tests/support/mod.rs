//! What the integration tests share: builders of images, devices and storages to test with, other programs to
//! compare with.
//!
//! Nothing here uses the format code of the crate under test: the builders write bytes from the format's description
//! alone, so that a misunderstanding cannot cancel itself out.
//!
//! ```text
//! bytes     sparse (KDMV), stream, cowd, sesparse + descriptor (text)  ->  disk (images, chains)  ->  fixtures (files)
//! truth     layer (sectors of one link, what is below)  ->  content that a guest must see
//!           ledger (what was done to a disk)  ->  what each sector may hold now, and after the next open
//! devices   model (a disk in memory)        conformance (the contract, for any device)
//! hosts     storage, directory (counting, failing)   quota (full)   crash (a log, and what a power cut leaves of it)
//! damage    damage (small images of all sorts, and anything wrong with them)
//! programs  signal (who gets them)   vmdk_tool (our own)
//! judges    check (sparse extents: tables and leaks)     tools (qemu-img, digests, sample images)
//! ```
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(unreachable_pub, reason = "each test binary includes this as a private module")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "test support: a panic is a failed test")]

pub mod check;
pub mod conformance;
pub mod cowd;
pub mod crash;
pub mod damage;
pub mod descriptor;
pub mod directory;
pub mod disk;
pub mod fixtures;
pub mod layer;
pub mod ledger;
pub mod model;
pub mod quota;
pub mod rng;
pub mod sesparse;
pub mod signal;
pub mod sparse;
pub mod storage;
pub mod stream;
pub mod tools;
#[cfg(feature = "cli")]
pub mod vmdk_tool;

/// Bytes in a sector.
pub const SECTOR: usize = 512;

/// A number from an image as an index into memory.
pub fn index(value: u64) -> usize {
    usize::try_from(value).expect("test images fit into memory")
}

/// The bytes of `count` sectors from `start`, as a range of indices.
pub fn byte_range(start: u64, count: u64) -> std::ops::Range<usize> {
    index(start) * SECTOR..index(start + count) * SECTOR
}
