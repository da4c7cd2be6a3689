//! Opening an image; beside it, the host reads that no reader can do without.

#![allow(missing_docs, clippy::expect_used, clippy::panic, reason = "a benchmark")]

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use criterion::{Criterion, criterion_group, criterion_main};
use vmdk::VmdkImage;

mod common;
use common::{chain_of, converted};

fn open(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = converted(dir.path(), 32);
    let chain = chain_of(dir.path(), 5);
    let mut group = c.benchmark_group("open");
    group.bench_function("bare open and reads of header, descriptor and directory", |b| {
        b.iter(|| {
            let file = File::open(&path).expect("the file opens");
            let mut buf = [0; 10240];
            file.read_exact_at(&mut buf[..512], 0).expect("header");
            file.read_exact_at(&mut buf, 512).expect("descriptor");
            file.read_exact_at(&mut buf[..4], 26 * 512).expect("directory");
            black_box(buf[0])
        });
    });
    group.bench_function("monolithicSparse", |b| b.iter(|| VmdkImage::open(black_box(&path)).expect("opens")));
    group.bench_function("chain of 5", |b| b.iter(|| VmdkImage::open(black_box(&chain)).expect("opens")));
    group.finish();
}

criterion_group!(benches, open);
criterion_main!(benches);
