//! How long it takes to compact a disk of which every other grain is zero, with its grains moved down, beside `cp` of
//! what comes of it, made durable like that.
//!
//! Both sides take turns, and the disk is in the host's page cache, written out.
//!
//! ```text
//! cargo bench --bench compact -- [MiB]
//! ```

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark"
)]

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use vmdk::{BlockDevice, CompactMode, CreateOptions, OpenOptions};

mod common;
use common::median;

const GRAIN: usize = 64 << 10;
const MIB: u64 = 1 << 20;

fn main() {
    // `cargo bench -- --test` runs everything once, to see that it works.
    let is_test = std::env::args().any(|arg| arg == "--test");
    let mib = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1024);
    let (mib, rounds) = if is_test { (4, 1) } else { (mib, 5) };
    let dir = tempfile::tempdir().expect("a directory");
    let [disk, work, copy] = ["disk.vmdk", "work.vmdk", "copy.vmdk"].map(|name| dir.path().join(name));
    make(&disk, mib);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        cp(&disk, &work);
        let start = Instant::now();
        let report = OpenOptions::new().compact(&work, CompactMode::Move, &mut |_| ControlFlow::Continue(()));
        times[0].push(start.elapsed().as_secs_f64());
        let report = report.expect("compacts");
        assert!(report.grains_moved > 0 && report.length_after < report.length_before * 6 / 10);
        let start = Instant::now();
        cp(&work, &copy);
        times[1].push(start.elapsed().as_secs_f64());
        fs::remove_file(&work).and_then(|()| fs::remove_file(&copy)).expect("removes");
    }
    let [ours, theirs] = times.map(median);
    println!("{mib} MiB: compact {ours:.2} s, cp {theirs:.2} s, {:.2} of its speed", theirs / ours);
}

/// A copy that is durable.
fn cp(from: &Path, to: &Path) {
    let done = Command::new("cp").args(["--reflink=never", "--sparse=never"]).args([from, to]).status();
    assert!(done.expect("cp").success());
    File::open(to).and_then(|file| file.sync_all()).expect("syncs");
}

/// A disk with a grain of noise after each grain of zeros.
fn make(path: &Path, mib: u64) {
    CreateOptions::new().capacity_sectors(mib * MIB / 512).create(path).expect("creates");
    let image = OpenOptions::new().write(true).open(path).expect("opens");
    let mut state = 1_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    for start in (0..mib * MIB / 512).step_by(2 * GRAIN / 512) {
        let mut grains = vec![0; GRAIN];
        grains.extend((0..GRAIN / 8).flat_map(|_| noise()));
        image.write_sectors(start, &grains).expect("writes");
    }
    image.close().expect("closes");
}
