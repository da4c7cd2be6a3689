//! Other programs read from what is made here what it was made of.
//!
//! `qemu-img` reads all of it. It asks for a text that describes the extent, and takes no bare one. dissect.hypervisor
//! reads bare extents as well; it takes an unmapped grain for an absent one, so that the parent shows through, where
//! `qemu-img` sees zeros. Neither looks at bitmap, back map and journal.

use crate::support::disk::{Disk, Image};
use crate::support::rng::Rng;
use crate::support::sesparse::chains::{sesparse_chains, sesparse_chains_with};
use crate::support::sesparse::{GRAIN_BYTES, SeSparseImage, TABLE_COVERS};
use crate::support::tools::{self, Reader};
use crate::support::{SECTOR, index};

const SEEDS: [u64; 2] = [1, 2];

/// Extents by themselves, of sizes from a sector to more than two tables, laid out at random.
fn layouts() -> impl Iterator<Item = (u64, SeSparseImage)> {
    let sizes = [1, 7, 8, 9, 1000, TABLE_COVERS - 1, TABLE_COVERS, TABLE_COVERS + 1, 2 * TABLE_COVERS + 2051];
    sizes.into_iter().zip(0..9).map(|(capacity, seed)| {
        let rng = &mut Rng::new(seed);
        (seed, SeSparseImage::new(capacity).random(rng).random_layout(rng))
    })
}

/// What dissect reads is `content`.
#[track_caller]
fn dissect_reads(dissect: &Reader, disk: &Disk, content: &[u8], what: &str) {
    let expected = (content.len() as u64, tools::sha256_hex(content));
    assert_eq!(dissect.read(0, &[&disk.path]), expected, "{what}");
}

#[test]
fn qemu_reads_any_layout() {
    let Some(qemu_img) = tools::qemu_img("qemu_reads_any_layout") else { return };
    for (seed, extent) in layouts() {
        let disk = Disk::new(vec![Image::se_sparse_base("disk.vmdk", &extent)]);
        assert!(qemu_img.raw_of(&disk.path) == disk.content, "{} sectors, seed {seed}", extent.capacity());
    }
}

#[test]
fn dissect_reads_any_layout() {
    let Some(dissect) = tools::reader("dissect_reads_any_layout", "dissect") else { return };
    for (seed, extent) in layouts() {
        let what = format!("{} sectors, seed {seed}", extent.capacity());
        // With nothing below, unmapped and absent are the same.
        let disk = Disk::new(vec![Image::se_sparse_base("disk.vmdk", &extent)]);
        dissect_reads(&dissect, &disk, &disk.content, &what);
    }
}

#[test]
fn qemu_reads_chains() {
    let Some(qemu_img) = tools::qemu_img("qemu_reads_chains") else { return };
    for seed in SEEDS {
        for (name, links) in sesparse_chains(seed) {
            let disk = Disk::new(links);
            assert!(qemu_img.raw_of(&disk.path) == disk.content, "{name}, seed {seed}");
        }
    }
}

#[test]
fn dissect_reads_chains() {
    let Some(dissect) = tools::reader("dissect_reads_chains", "dissect") else { return };
    for seed in SEEDS {
        let as_dissect_sees_it = sesparse_chains_with(seed, SeSparseImage::unmapped_as_absent);
        for ((name, links), (_, seen)) in sesparse_chains(seed).into_iter().zip(as_dissect_sees_it) {
            let disk = Disk::new(links);
            let seen = &seen.last().unwrap().content;
            assert_eq!(*seen == disk.content, name == "alone", "{name}, seed {seed}: no unmapped grain to see it by");
            dissect_reads(&dissect, &disk, seen, &format!("{name}, seed {seed}"));
        }
    }
}

/// A parent of data with a child that has a grain of each kind over it.
fn one_of_each() -> (Image, SeSparseImage) {
    let base = Image::vmfs("base.vmdk", vec![0xbb; 7 * GRAIN_BYTES]);
    let extent = SeSparseImage::new(7 * 8).data(0, vec![0xaa; GRAIN_BYTES]).zero(1).zero_with(2, u64::MAX);
    (base, extent.unmapped(3).unmapped_with_slot(4).absent(5))
}

/// The bytes that the grains of [`one_of_each`] are full of.
fn full_of(grains: [u8; 7]) -> Vec<u8> {
    grains.iter().flat_map(|&byte| [byte; GRAIN_BYTES]).collect()
}

#[test]
fn qemu_sees_zeros_where_grains_are_unmapped() {
    let Some(qemu_img) = tools::qemu_img("qemu_sees_zeros_where_grains_are_unmapped") else { return };
    let (base, extent) = one_of_each();
    let child = Image::se_sparse(&base, "base-000001.vmdk", &extent);
    assert!(child.content == full_of([0xaa, 0, 0, 0, 0, 0xbb, 0xbb]));
    let disk = Disk::new(vec![base, child]);
    assert!(qemu_img.raw_of(&disk.path) == disk.content);
}

#[test]
fn dissect_sees_the_parent_where_grains_are_unmapped() {
    let test = "dissect_sees_the_parent_where_grains_are_unmapped";
    let Some(dissect) = tools::reader(test, "dissect") else { return };
    let (base, extent) = one_of_each();
    let child = Image::se_sparse(&base, "base-000001.vmdk", &extent);
    let disk = Disk::new(vec![base, child]);
    dissect_reads(&dissect, &disk, &full_of([0xaa, 0, 0, 0xbb, 0xbb, 0xbb, 0xbb]), test);
}

#[test]
fn qemu_takes_no_extent_without_a_text() {
    let Some(qemu_img) = tools::qemu_img("qemu_takes_no_extent_without_a_text") else { return };
    let disk = Disk::new(vec![Image::se_sparse_base("disk.vmdk", &one_of_each().1)]);
    let bare = disk.dir().join("disk-sesparse.vmdk");
    let output = qemu_img.output(["info", "-f", "vmdk", bare.to_str().unwrap()]);
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn dissect_reads_an_extent_without_a_text() {
    let Some(dissect) = tools::reader("dissect_reads_an_extent_without_a_text", "dissect") else { return };
    let disk = Disk::new(vec![Image::se_sparse_base("disk.vmdk", &one_of_each().1)]);
    let bare = disk.dir().join("disk-sesparse.vmdk");
    let expected = ((7 * GRAIN_BYTES) as u64, tools::sha256_hex(&disk.content));
    assert_eq!(dissect.read(0, &[&bare]), expected);
}

#[test]
fn qemu_writes_to_no_extent() {
    let Some(qemu_io) = tools::qemu_io("qemu_writes_to_no_extent") else { return };
    let disk = Disk::new(vec![Image::se_sparse_base("disk.vmdk", &one_of_each().1)]);
    let before = std::fs::read(disk.dir().join("disk-sesparse.vmdk")).unwrap();
    let output = qemu_io.output(["-f", "vmdk", "-c", "write -P 1 0 4096", disk.path.to_str().unwrap()]);
    assert!(!output.status.success(), "{output:?}");
    assert!(before == std::fs::read(disk.dir().join("disk-sesparse.vmdk")).unwrap());
}

#[test]
fn qemu_sees_beyond_a_smaller_parent_zeros() {
    let Some(qemu_img) = tools::qemu_img("qemu_sees_beyond_a_smaller_parent_zeros") else { return };
    let rng = &mut Rng::new(9);
    let base = Image::vmfs("base.vmdk", rng.bytes(index(TABLE_COVERS - 3) * SECTOR));
    let extent = SeSparseImage::new(TABLE_COVERS + 77).random(rng).random_layout(rng);
    let child = Image::se_sparse(&base, "base-000001.vmdk", &extent);
    let disk = Disk::new(vec![base, child]);
    assert!(qemu_img.raw_of(&disk.path) == disk.content);
}
