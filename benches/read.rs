//! Reading through the driver, with a bare `pread` of the same bytes at the same offsets beside it.

#![allow(missing_docs, clippy::expect_used, clippy::panic, reason = "a benchmark")]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vmdk::{BlockDevice, VmdkImage};

mod common;
use common::{DISK_MIB, converted, host_offset, random_spots};

fn random_4k(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = converted(dir.path(), DISK_MIB);
    let image = VmdkImage::open(&path).expect("the image opens");
    let file = File::open(&path).expect("the file opens");
    let spots = random_spots(&image, DISK_MIB << 11, 1 << 16);
    let mut buf = vec![0; 4096];
    let mut group = c.benchmark_group("read/4k random, cached tables");
    group.throughput(Throughput::Bytes(4096));
    let mut next = spots.offsets.iter().cycle();
    group.bench_function("pread", |b| {
        b.iter(|| file.read_exact_at(black_box(&mut buf), *next.next().expect("endless")).expect("reads"));
    });
    let mut next = spots.sectors.iter().cycle();
    group.bench_function("vmdk", |b| {
        b.iter(|| image.read_sectors(*next.next().expect("endless"), black_box(&mut buf)).expect("reads"));
    });
    group.finish();
}

fn sequential_1m(c: &mut Criterion) {
    const SECTORS: u64 = 2048;
    let dir = tempfile::tempdir().expect("a directory");
    let path = converted(dir.path(), DISK_MIB);
    let image = VmdkImage::open(&path).expect("the image opens");
    let file = File::open(&path).expect("the file opens");
    let starts: Vec<u64> = (0..DISK_MIB).map(|mib| mib * SECTORS).collect();
    let offsets: Vec<u64> = starts.iter().map(|&start| host_offset(&image, start)).collect();
    let mut buf = vec![0; 1 << 20];
    let mut group = c.benchmark_group("read/1M sequential");
    group.throughput(Throughput::Bytes(1 << 20));
    let mut next = offsets.iter().cycle();
    group.bench_function("pread", |b| {
        b.iter(|| file.read_exact_at(black_box(&mut buf), *next.next().expect("endless")).expect("reads"));
    });
    let mut next = starts.iter().cycle();
    group.bench_function("vmdk", |b| {
        b.iter(|| image.read_sectors(*next.next().expect("endless"), black_box(&mut buf)).expect("reads"));
    });
    group.finish();
}

criterion_group!(benches, random_4k, sequential_1m);
criterion_main!(benches);
