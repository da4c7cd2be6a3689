//! How long a check of a disk of 1 TiB takes that has all of its grains, beside reading its tables once in large
//! pieces.
//!
//! Only the tables are there; the grains are a hole. Both sides take turns in one run, and the median of the ratios is
//! printed: for grains in their order, as a conversion leaves them, in runs of 16, and in no order at all; on one thread,
//! as the library checks unless told otherwise, and on two.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]

use std::fs::File;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vmdk::{CheckOptions, KdmvHeader, OpenOptions, SparseHeader, VmdkImage};

mod common;
use common::{empty, median};

const GRAIN: u64 = 128;
const ENTRIES: u64 = 512;

/// The bytes that are read together.
const PIECE: usize = 1 << 20;

fn main() {
    // `cargo bench -- --test` runs everything once, to see that it works.
    let is_test = std::env::args().any(|arg| arg == "--test");
    let (sectors, rounds) = if is_test { (1 << 25, 1) } else { (1 << 31, 15) };
    let dir = tempfile::tempdir().expect("a directory");
    for (order, run) in [("in their order", u64::MAX), ("in runs of 16", 16), ("in no order", 1)] {
        let disk = Disk::make(dir.path(), sectors, run);
        for threads in [1, 2] {
            let [mut checking, mut reading, mut ratios] = [const { Vec::new() }; 3];
            for round in 0..=rounds {
                let (check, read) = if round % 2 == 0 {
                    let check = disk.check(threads);
                    (check, disk.read())
                } else {
                    let read = disk.read();
                    (disk.check(threads), read)
                };
                // The first round fills caches.
                if round > 0 || is_test {
                    checking.push(check.as_secs_f64());
                    reading.push(read.as_secs_f64());
                    ratios.push(check.as_secs_f64() / read.as_secs_f64());
                }
            }
            let [checking, reading] = [checking, reading].map(|seconds| median(seconds) * 1e3);
            println!(
                "grains {order}: check on {threads} thread(s) {checking:.1} ms, tables read in pieces of 1 MiB \
                 {reading:.1} ms (medians), ratio {:.2}",
                median(ratios)
            );
        }
    }
}

struct Disk {
    path: PathBuf,
    file: File,
    /// Where the tables and their copies lie in the file, in bytes.
    tables: [u64; 2],
    len: usize,
}

impl Disk {
    /// A disk with all of its grains, in runs of so many.
    fn make(dir: &Path, sectors: u64, run: u64) -> Self {
        let path = empty(dir, sectors);
        let file = File::options().read(true).write(true).open(&path).expect("the image opens");
        let header = header_of(&path);
        let grains = sectors / GRAIN;
        let directory = directory_bytes(sectors);
        let tables = [header.gd_offset, header.rgd_offset].map(|sector| sector * 512 + directory);
        let len = usize::try_from(grains * 4).expect("a small disk");
        let run = run.min(grains);
        // Runs are spread by an odd factor, which meets each place once.
        let place = |grain: u64| (grain / run * 0x9e37_79b1 % (grains / run)) * run + grain % run;
        let entry = |grain| u32::try_from(header.over_head + place(grain) * GRAIN).expect("below 2 TiB");
        let mut bytes = Vec::with_capacity(len);
        (0..grains).for_each(|grain| bytes.extend(entry(grain).to_le_bytes()));
        for start in tables {
            file.write_all_at(&bytes, start).expect("writes");
        }
        file.set_len((header.over_head + grains * GRAIN) * 512).expect("grows");
        file.sync_all().expect("syncs");
        Self { path, file, tables, len }
    }

    fn check(&self, threads: usize) -> Duration {
        let start = Instant::now();
        let options = CheckOptions::new().threads(threads);
        let report = OpenOptions::new().check(&self.path, &options, &mut |_| ControlFlow::Continue(()));
        let report = report.expect("a report");
        assert!(report.findings.is_empty(), "{:?}", report.findings.first());
        start.elapsed()
    }

    fn read(&self) -> Duration {
        let start = Instant::now();
        let mut buf = vec![0; PIECE];
        for table in self.tables {
            for at in (0..self.len).step_by(PIECE) {
                let len = PIECE.min(self.len - at);
                self.file.read_exact_at(&mut buf[..len], table + at as u64).expect("reads");
                black_box(&buf);
            }
        }
        start.elapsed()
    }
}

fn header_of(path: &Path) -> KdmvHeader {
    let image = VmdkImage::open(path).expect("the image opens");
    match image.chain()[0].header() {
        Some(SparseHeader::Kdmv(header)) => header.clone(),
        _ => panic!("another kind of image"),
    }
}

/// Bytes of a grain directory, up to whole sectors.
fn directory_bytes(sectors: u64) -> u64 {
    (sectors.div_ceil(GRAIN * ENTRIES) * 4).next_multiple_of(512)
}
