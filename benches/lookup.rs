//! Looking up where sectors are, without reading them; a bare `pread` of 4 KiB beside it, which a look-up has to be
//! small against.

#![allow(missing_docs, clippy::expect_used, clippy::panic, reason = "a benchmark")]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use criterion::{Criterion, criterion_group, criterion_main};
use vmdk::{BlockDevice, OpenOptions, VmdkImage};

mod common;
use common::{DISK_MIB, READ_SECTORS, converted, empty, random_sectors, random_spots};

fn lookup(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = converted(dir.path(), DISK_MIB);
    let image = VmdkImage::open(&path).expect("the image opens");
    let thrashing = OpenOptions::new().cached_tables(1).open(&path).expect("the image opens");
    let file = File::open(&path).expect("the file opens");
    let spots = random_spots(&image, DISK_MIB << 11, 1 << 16);
    let mut group = c.benchmark_group("lookup");
    let mut buf = vec![0; 4096];
    let mut next = spots.offsets.iter().cycle();
    group.bench_function("pread of 4 KiB", |b| {
        b.iter(|| file.read_exact_at(black_box(&mut buf), *next.next().expect("endless")).expect("reads"));
    });
    let mut next = spots.sectors.iter().cycle();
    group.bench_function("hit", |b| {
        b.iter(|| black_box(image.map(*next.next().expect("endless"), READ_SECTORS).expect("looks up")));
    });
    group.bench_function("hit, block status", |b| {
        b.iter(|| black_box(image.block_status(*next.next().expect("endless"), READ_SECTORS).expect("looks up")));
    });
    group.bench_function("miss (a cache of one table)", |b| {
        b.iter(|| black_box(thrashing.map(*next.next().expect("endless"), READ_SECTORS).expect("looks up")));
    });
    group.bench_function("hit, run of 1 MiB", |b| {
        b.iter(|| black_box(image.map(0, 2048).expect("looks up")));
    });
    group.finish();
}

/// Random sectors of a disk of 3200 tables, with the default cache and with one that holds them all.
fn lookup_far_and_wide(c: &mut Criterion) {
    const DISK_SECTORS: u64 = 100 << 21;
    let dir = tempfile::tempdir().expect("a directory");
    let path = empty(dir.path(), DISK_SECTORS);
    let mut group = c.benchmark_group("lookup, random over 100 GiB");
    let sectors = random_sectors(DISK_SECTORS, 1 << 16);
    for tables in [16, 4096] {
        let image = OpenOptions::new().cached_tables(tables).open(&path).expect("the image opens");
        let mut next = sectors.iter().cycle();
        group.bench_function(format!("{tables} tables"), |b| {
            b.iter(|| black_box(image.map(*next.next().expect("endless"), READ_SECTORS).expect("looks up")));
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, lookup_far_and_wide);
criterion_main!(benches);
