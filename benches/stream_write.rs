//! How long it takes to make a streamOptimized disk, and how large it becomes, beside `qemu-img convert`.
//!
//! As in `convert.rs`, both sides take turns, and the source is in the host's page cache. Ours is the library with two
//! threads, qemu-img a process, whose compression has one thread and zlib's level 6. Neither syncs.
//!
//! ```text
//! cargo bench --bench stream_write -- [MiB of each kind] [file ...]
//! ```
//!
//! Beside the files, three kinds of content are made: a third each of zeros, noise and the second kind; hexadecimal text;
//! and programs and libraries of this host, one behind the other. `VMDK_BENCH_LEVEL` sets the level.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark"
)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use vmdk::{CreateOptions, CreateType, RawImage};

mod common;
use common::{median, random_sectors};

const MIB: usize = 1 << 20;

/// Bytes of a grain.
const GRAIN: usize = 64 << 10;

/// Where the programs and libraries of a host are.
const PROGRAMS: [&str; 4] = ["/usr/bin", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];

fn main() {
    // `cargo bench -- --test` runs everything once, to see that it works.
    let is_test = std::env::args().any(|arg| arg == "--test");
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let (number, files): (Vec<_>, Vec<_>) = args.into_iter().partition(|arg| arg.parse::<usize>().is_ok());
    let mib = number.first().and_then(|mib| mib.parse().ok()).unwrap_or(1024);
    let (mib, rounds) = if is_test { (3, 1) } else { (mib, 3) };
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    write_text(&path("text"), mib * MIB);
    write_mixture(&path("mixture"), &path("text"), mib * MIB);
    write_programs(&path("programs"), mib * MIB);
    let has_qemu = Command::new("qemu-img").arg("--version").output().is_ok();
    if !has_qemu {
        println!("no qemu-img to compare with");
    }
    let made = ["mixture", "text", "programs"].map(path);
    for source in made.into_iter().chain(files.into_iter().map(PathBuf::from)) {
        compare(&source, &path("target"), rounds, has_qemu);
    }
}

/// Lines of hexadecimal numbers with some words between them.
fn write_text(path: &Path, len: usize) {
    let mut file = BufWriter::new(File::create(path).expect("creates"));
    let mut text = String::new();
    let mut written = 0;
    for (line, number) in random_sectors(1 << 40, len / 32 + 1).into_iter().enumerate() {
        text.clear();
        write!(text, "{line:08x}: {number:012x} is free, {:x}\n", number % 4093).expect("a String takes everything");
        let end = text.len().min(len - written);
        file.write_all(&text.as_bytes()[..end]).expect("writes");
        written += end;
    }
    file.flush().expect("writes");
    file.into_inner().expect("writes").set_len(len as u64).expect("cuts");
}

/// A third each of zeros, noise and text, grain by grain.
fn write_mixture(path: &Path, text: &Path, len: usize) {
    let (mut text, mut file) = (File::open(text).expect("opens"), File::create(path).expect("creates"));
    let mut numbers = random_sectors(u64::MAX, len / 8).into_iter();
    let mut grain = vec![0; GRAIN];
    for kind in (0..3).cycle().take(len / GRAIN) {
        match kind {
            0 => grain.fill(0),
            1 => {
                // Numbers of sectors are multiples of 8: what is below is taken.
                for (bytes, number) in grain.chunks_mut(4).zip(&mut numbers) {
                    bytes.copy_from_slice(&(number >> 13).to_le_bytes()[..4]);
                }
            }
            _ => text.read_exact(&mut grain).expect("reads"),
        }
        file.write_all(&grain).expect("writes");
    }
}

/// Programs and libraries of this host, up to this length, in whole sectors.
fn write_programs(path: &Path, len: usize) {
    let mut file = File::create(path).expect("creates");
    let mut left = len as u64;
    let listed = PROGRAMS.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().filter_map(Result::ok);
    let mut files: Vec<_> = listed.map(|entry| entry.path()).collect();
    files.sort();
    for program in files {
        let is_file = fs::symlink_metadata(&program).is_ok_and(|meta| meta.is_file());
        if let Some(source) = File::open(&program).ok().filter(|_| is_file) {
            left -= io::copy(&mut source.take(left), &mut file).expect("copies");
        }
    }
    let len = (len as u64 - left).next_multiple_of(512).max(512);
    file.set_len(len).expect("cuts");
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
    print!("{name}, {} MiB: vmdk {:.3} s, {} bytes", len / MIB as u64, median(ours.clone()), sizes[0]);
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
