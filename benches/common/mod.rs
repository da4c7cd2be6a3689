//! Images for the benchmarks, and the offsets that are read from them.

#![allow(dead_code, reason = "every benchmark uses a part of it")]
#![allow(unreachable_pub, reason = "the test support is public to the tests")]

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use vmdk::{Mapping, VmdkImage};

pub(crate) mod corpus;
pub(crate) mod ratio;

#[path = "../../tests/support/mod.rs"]
mod support;

use support::descriptor::DescriptorText;
use support::disk::Image;
use support::rng::Rng;
use support::sesparse::{SeSparseImage, SlotOrder};
use support::sparse::SparseImage;

/// Sectors of a 4 KiB read.
pub(crate) const READ_SECTORS: u64 = 8;

const GRAIN_SECTORS: u64 = 128;

/// Size of the benchmarked disk: what sixteen cached tables reach over.
pub(crate) const DISK_MIB: u64 = 512;

/// A fully allocated monolithicSparse disk, grain after grain, as a conversion leaves it.
pub(crate) fn converted(dir: &Path, mib: u64) -> PathBuf {
    let extent = SparseImage::new(mib << 11).descriptor("");
    let layout = extent.layout();
    let path = Image::monolithic_sparse("disk.vmdk", extent).write_to(dir);
    let mut file = OpenOptions::new().write(true).open(&path).expect("the image is there");
    let grains = (mib << 11) / GRAIN_SECTORS;
    for grain in 0..grains {
        let sector = u32::try_from(layout.overhead + grain * GRAIN_SECTORS).expect("a small disk");
        for entry in [layout.entry(grain), layout.redundant_entry(grain)] {
            file.write_all_at(&sector.to_le_bytes(), entry).expect("the table is there");
        }
    }
    let mut rng = Rng::new(1);
    file.seek(SeekFrom::Start(layout.overhead * 512)).expect("seeks");
    for _ in 0..mib {
        file.write_all(&rng.bytes(1 << 20)).expect("writes");
    }
    path
}

/// A fully allocated seSparse disk and the file with its data, grain after grain or shuffled.
pub(crate) fn se_sparse(dir: &Path, mib: u64, is_shuffled: bool) -> [PathBuf; 2] {
    let mut rng = Rng::new(3);
    let order = if is_shuffled { SlotOrder::Random(4) } else { SlotOrder::Sequential };
    let extent = SeSparseImage::new(mib << 11).slot_order(order);
    let fill = |extent: SeSparseImage, grain| extent.data(grain, rng.bytes(4096));
    let extent = (0..mib << 8).fold(extent, fill);
    let path = Image::se_sparse_base("disk.vmdk", &extent).write_to(dir);
    [path, dir.join("disk-sesparse.vmdk")]
}

/// A file of random bytes.
pub(crate) fn write_random(path: &Path, mib: u64) {
    let (mut rng, mut file) = (Rng::new(5), std::fs::File::create(path).expect("creates"));
    for _ in 0..mib {
        file.write_all(&rng.bytes(1 << 20)).expect("writes");
    }
}

/// An empty monolithicSparse disk with all its tables.
pub(crate) fn empty(dir: &Path, sectors: u64) -> PathBuf {
    let path = dir.join("empty.vmdk");
    let text = DescriptorText::new("monolithicSparse", 1).extent(format!("RW {sectors} SPARSE \"empty.vmdk\""));
    std::fs::write(&path, SparseImage::new(sectors).descriptor(text.to_string()).build()).expect("writes");
    path
}

/// An empty child of the disk at `parent`, which `converted` has made.
pub(crate) fn child_of(parent: &Path, name: &str, sectors: u64) -> PathBuf {
    let id = VmdkImage::open(parent).expect("the parent opens").content_id().expect("it has an ID");
    let text = DescriptorText::new("monolithicSparse", 9)
        .parent(id.value(), "disk.vmdk")
        .extent(format!("RW {sectors} SPARSE \"{name}\""));
    let path = parent.with_file_name(name);
    std::fs::write(&path, SparseImage::new(sectors).descriptor(text.to_string()).build()).expect("writes");
    path
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Random 4 KiB aligned sectors of a disk, and where their bytes lie in its file.
pub(crate) struct Spots {
    pub(crate) sectors: Vec<u64>,
    pub(crate) offsets: Vec<u64>,
}

pub(crate) fn random_spots(image: &VmdkImage, disk_sectors: u64, count: usize) -> Spots {
    let sectors = random_sectors(disk_sectors, count);
    let offsets = sectors.iter().map(|&sector| host_offset(image, sector)).collect();
    Spots { sectors, offsets }
}

pub(crate) fn random_sectors(disk_sectors: u64, count: usize) -> Vec<u64> {
    let mut rng = Rng::new(2);
    (0..count).map(|_| rng.below(disk_sectors / READ_SECTORS) * READ_SECTORS).collect()
}

pub(crate) fn host_offset(image: &VmdkImage, sector: u64) -> u64 {
    match image.map(sector, READ_SECTORS).expect("the image is good").mapping {
        Mapping::Data { offset, .. } => offset,
        other => panic!("sector {sector} is {other:?}"),
    }
}

/// A chain of `links` disks of 32 MiB; the path of the youngest.
pub(crate) fn chain_of(dir: &Path, links: u64) -> PathBuf {
    let mut rng = Rng::new(3);
    let mut extent = || SparseImage::new(32 << 11).data(rng.below(512), rng.bytes(128 * 512));
    let mut image = Image::monolithic_sparse("link-0.vmdk", extent());
    let mut path = image.write_to(dir);
    for number in 1..links {
        image = Image::child(&image, &format!("link-{number}.vmdk"), extent());
        path = image.write_to(dir);
    }
    path
}
