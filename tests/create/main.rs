//! New images: what `CreateOptions` makes, byte by byte, and what it refuses.
//!
//! ```text
//! capacities   every type and size: made, opened, written at its edges, closed, opened, read, checked
//! layout       headers, descriptors, names and lengths of files, as literals
//! options      each option has its effect, the defaults, nothing is written twice
//! refused      what cannot be made leaves nothing behind
//! names        legal and awkward names, of disks and of parents
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod capacities;
mod layout;
mod memory_directory;
mod names;
mod options;
mod refused;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use vmdk::{BlockDevice, CacheMode, CreateOptions, CreateType, FileStorage, OpenOptions, Storage, VmdkImage};

use support::check::{Report, check_file};
use support::rng::Rng;
use support::{SECTOR, index};

/// Everything that is created.
const TYPES: [CreateType; 6] = [
    CreateType::MonolithicSparse,
    CreateType::MonolithicFlat,
    CreateType::TwoGbMaxExtentSparse,
    CreateType::TwoGbMaxExtentFlat,
    CreateType::Vmfs,
    CreateType::VmfsSparse,
];

/// Sectors of an extent of a disk that is split.
const SPLIT: u64 = 4_192_256;

/// A disk of this type and size, of which nobody minds whether it survives a power cut.
fn new_disk(create_type: CreateType, sectors: u64) -> CreateOptions {
    CreateOptions::new().create_type(create_type).capacity_sectors(sectors).sync(false)
}

fn open_to_write(path: &Path) -> VmdkImage {
    OpenOptions::new().write(true).cache_mode(CacheMode::Unsafe).open(path).unwrap()
}

/// What is written to a sector, different in each.
fn pattern(sector: u64) -> Vec<u8> {
    Rng::new(sector).bytes(SECTOR)
}

/// The file names in a directory, sorted.
fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A judge's word on the sparse extents of an image, none of which has a problem.
fn check_extents(image: &VmdkImage) -> Vec<Report> {
    let extents = image.chain()[0].extents().iter().filter(|extent| extent.header().is_some());
    extents.map(|extent| check_extent(extent.file().unwrap().path())).collect()
}

fn check_extent(path: &Path) -> Report {
    let file = FileStorage::open(path).unwrap();
    // The tables of a large disk are holes, and there are many of them.
    let (mut data, mut at) = (Vec::new(), 0);
    while let Some(range) = file.next_data(at).unwrap() {
        at = range.end;
        data.push(range);
    }
    let read = |buf: &mut [u8], offset: u64| {
        let next = data.partition_point(|range| range.end <= offset);
        match data.get(next).filter(|range| range.start < offset + buf.len() as u64) {
            Some(_) => file.read_exact_at(buf, offset).unwrap(),
            None => buf.fill(0),
        }
    };
    let report = check_file(file.len().unwrap(), &read);
    report.expect_sound(path.display());
    report
}

/// Fails unless a disk holds the patterns of `written`, and zeros beside them.
#[track_caller]
fn expect_patterns(image: &VmdkImage, written: impl Fn(u64) -> bool, around: impl IntoIterator<Item = u64>) {
    let mut buf = vec![0xa5; SECTOR];
    for sector in around {
        image.read_sectors(sector, &mut buf).unwrap();
        let expected = if written(sector) { pattern(sector) } else { vec![0; SECTOR] };
        assert!(buf == expected, "sector {sector} of {}", image.capacity_sectors());
    }
}

/// The bytes of a file, from its beginning on.
fn start_of(path: &Path, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; index(len)];
    FileStorage::open(path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
