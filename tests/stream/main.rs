//! Streams read at random: every layout, every way to find grains, and what becomes of damage.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod chain;
mod copying;
mod damage;
mod interop;
mod layouts;
mod salvage;

use std::collections::HashMap;
use std::sync::Arc;

use vmdk::{BlockDevice, MemoryStorage, OpenOptions, Result, Storage, VmdkImage};

use support::descriptor::DescriptorText;
use support::rng::Rng;
use support::stream::{StreamImage, StreamKind};
use support::{SECTOR, index};

/// Sectors of a grain.
const GRAIN: u64 = 128;

/// Sectors of a grain table.
const TABLE: u64 = 512 * GRAIN;

/// Opens the file `disk` among others that are in memory.
fn open_among(files: &[(&str, &[u8])], options: &OpenOptions) -> Result<VmdkImage> {
    let storage = |bytes: &[u8]| Arc::new(MemoryStorage::new(bytes)) as Arc<dyn Storage>;
    let map: HashMap<String, _> = files.iter().map(|(name, bytes)| ((*name).to_owned(), storage(bytes))).collect();
    options.open_with("disk", &map)
}

fn open(file: &[u8]) -> Result<VmdkImage> {
    open_among(&[("disk", file)], &OpenOptions::new())
}

fn content(image: &dyn BlockDevice) -> Result<Vec<u8>> {
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).map(|()| content)
}

/// A grain of no particular content, which is not the same as any other.
fn grain(seed: u64) -> Vec<u8> {
    let mut bytes = Rng::new(seed).bytes(9000);
    bytes.resize(index(GRAIN) * SECTOR, 3);
    bytes
}

/// A stream of that kind with a descriptor.
fn described(kind: StreamKind, capacity: u64) -> StreamImage {
    let text = DescriptorText::new("streamOptimized", 0x5eed).extent(format!("RW {capacity} SPARSE \"disk.vmdk\""));
    StreamImage::new(kind, capacity).descriptor_sectors(20).descriptor(text.to_string())
}
