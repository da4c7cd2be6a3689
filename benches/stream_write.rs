//! How long it takes to make a streamOptimized disk, and how large it becomes, beside `qemu-img convert`.
//!
//! As in `convert.rs`, both sides take turns, and the source is in the host's page cache. Ours is the library with two
//! threads, qemu-img a process, whose compression has one thread and zlib's level 6. Neither syncs.
//!
//! ```text
//! cargo bench --bench stream_write -- [MiB of each kind] [file ...]
//! ```
//!
//! Beside the files, the three kinds of `common::corpus` are made. `VMDK_BENCH_LEVEL` sets the level.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark"
)]

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use vmdk::{CreateOptions, CreateType, RawImage};

mod common;
use common::corpus::CONTENTS;
use common::median;

const MIB: u64 = 1 << 20;

fn main() {
    // `cargo bench -- --test` runs everything once, to see that it works.
    let is_test = std::env::args().any(|arg| arg == "--test");
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let (number, files): (Vec<_>, Vec<_>) = args.into_iter().partition(|arg| arg.parse::<usize>().is_ok());
    let mib = number.first().and_then(|mib| mib.parse().ok()).unwrap_or(1024);
    let (mib, rounds) = if is_test { (3, 1) } else { (mib, 3) };
    let dir = tempfile::tempdir().expect("a directory");
    let has_qemu = Command::new("qemu-img").arg("--version").output().is_ok();
    if !has_qemu {
        println!("no qemu-img to compare with");
    }
    for content in CONTENTS {
        let source = dir.path().join(format!("{content:?}"));
        content.write(&source, mib);
        compare(&source, &dir.path().join("target"), rounds, has_qemu);
        fs::remove_file(source).expect("removes");
    }
    for source in files {
        compare(Path::new(&source), &dir.path().join("target"), rounds, has_qemu);
    }
}

/// Lets both sides make a disk of `source` by turns.
fn compare(source: &Path, target: &Path, rounds: usize, has_qemu: bool) {
    let mut times = [Vec::new(), Vec::new()];
    let mut sizes = [0, 0];
    for round in 0..rounds {
        for turn in 0..2 {
            let side = (round + turn) % 2;
            if side == 1 && !has_qemu {
                continue;
            }
            let mut file = File::open(source).expect("opens");
            io::copy(&mut file, &mut io::sink()).expect("reads");
            let start = Instant::now();
            let make = if side == 0 { convert } else { qemu_img };
            make(source, target);
            times[side].push(start.elapsed().as_secs_f64());
            sizes[side] = fs::metadata(target).expect("it is there").len();
            fs::remove_file(target).expect("removes");
        }
    }
    let [ours, theirs] = &times;
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    let len = fs::metadata(source).expect("it is there").len();
    print!("{name}, {} MiB: vmdk {:.3} s, {} bytes", len / MIB, median(ours.clone()), sizes[0]);
    if has_qemu {
        let faster = median(ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours).collect());
        let [our_size, their_size] = sizes.map(|size| size as f64);
        print!("; qemu-img {:.3} s, {} bytes: ", median(theirs.clone()), sizes[1]);
        print!("{faster:.2} times as fast, {:.4} of the size", our_size / their_size);
    }
    println!();
}

fn convert(source: &Path, target: &Path) {
    let source = RawImage::open(source).expect("the source opens");
    let mut options = CreateOptions::new().create_type(CreateType::StreamOptimized).threads(2).sync(false);
    if let Some(level) = std::env::var("VMDK_BENCH_LEVEL").ok().and_then(|level| level.parse().ok()) {
        options = options.compression_level(level);
    }
    options.create_from(target, &source, &mut |_| ControlFlow::Continue(())).expect("converts");
}

fn qemu_img(source: &Path, target: &Path) {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]).arg(source).arg(target);
    assert!(command.status().expect("it is there").success(), "{command:?}");
}
