//! Reads and overwrites in the steady state allocate no memory.

#![allow(unsafe_code, reason = "a global allocator that counts is unsafe to write; it only forwards")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::IoSlice;

use vmdk::{BlockDevice, OpenOptions, VmdkImage, WriteFlags};

use support::disk::{Disk, Image};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, index};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Three tables of grains in random order, in two links.
fn chain() -> Disk {
    let mut rng = Rng::new(5);
    let extent = |rng: &mut Rng| SparseImage::new(3 * 512 * 8).grain_sectors(8).random(rng);
    let base = Image::monolithic_sparse("base.vmdk", extent(&mut rng));
    let child = Image::child(&base, "child.vmdk", extent(&mut rng));
    Disk::new(vec![base, child])
}

fn reads_allocate_nothing(image: &VmdkImage) {
    let capacity = image.capacity_sectors();
    let mut small = [0; 4096];
    let mut large = vec![0; 1 << 20];
    let mut rng = Rng::new(6);
    let mut pass = || {
        for _ in 0..2000 {
            image.read_sectors(rng.below(capacity - 8), &mut small).unwrap();
        }
        for start in (0..capacity - large.len() as u64 / 512).step_by(1000) {
            image.read_sectors(start, &mut large).unwrap();
        }
    };
    pass();
    assert_eq!(allocations(pass), 0);
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![0; index(SECTOR as u64)]))), 1);
}

#[test]
fn reads_that_hit_the_cache_allocate_nothing() {
    let disk = chain();
    reads_allocate_nothing(&VmdkImage::open(&disk.path).unwrap());
}

#[test]
fn reads_that_miss_the_cache_allocate_nothing_either() {
    let disk = chain();
    reads_allocate_nothing(&OpenOptions::new().cached_tables(1).open(&disk.path).unwrap());
}

/// Overwrites of what is there in `image`, which has all of its grains, or is flat.
fn overwrites_allocate_nothing(image: &VmdkImage) {
    let capacity = image.capacity_sectors();
    let small = [7; 4096];
    let large = vec![8; 1 << 20];
    let slices: Vec<_> = large.chunks(1000).map(IoSlice::new).collect();
    let mut rng = Rng::new(7);
    let mut pass = || {
        for _ in 0..500 {
            image.write_sectors(rng.below(capacity - 8), &small).unwrap();
        }
        for start in (0..capacity - large.len() as u64 / 512).step_by(1000) {
            image.write_sectors(start, &large).unwrap();
            image.write_sectors_vectored(start, &slices, WriteFlags::NONE).unwrap();
            image.write_zeroes(start, 300, false).unwrap();
        }
    };
    pass();
    image.flush().unwrap();
    assert_eq!(allocations(pass), 0);
    image.close().unwrap();
}

#[test]
fn overwrites_allocate_nothing_in_a_sparse_disk() {
    let mut rng = Rng::new(8);
    let extent = SparseImage::new(3 * 512 * 8).grain_sectors(8);
    let mut order: Vec<u64> = (0..extent.grain_count()).collect();
    rng.shuffle(&mut order);
    let extent = order.into_iter().fold(extent, |extent, grain| extent.data(grain, [1; SECTOR]));
    let disk = Disk::new(vec![Image::monolithic_sparse("disk.vmdk", extent)]);
    for tables in [1, 16] {
        overwrites_allocate_nothing(&OpenOptions::new().write(true).cached_tables(tables).open(&disk.path).unwrap());
    }
}

#[test]
fn overwrites_allocate_nothing_in_a_flat_disk() {
    let disk = Disk::new(vec![Image::split_flat("disk.vmdk", vec![vec![1; 6000 * SECTOR], vec![2; 7000 * SECTOR]])]);
    overwrites_allocate_nothing(&OpenOptions::new().write(true).open(&disk.path).unwrap());
}
