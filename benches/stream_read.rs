//! How long it takes to inflate a streamOptimized disk, beside qemu-img.
//!
//! Whole disks to raw files: ours is the library with two threads, and a process with one, bound to one processor;
//! qemu-img is a process, free, and bound as well. As in `convert.rs`, all sides take turns, and the source is in the
//! host's page cache. Then 4 KiB reads, random in 8 MiB that a warm grain cache has, beside `qemu-img bench`, whose
//! reads follow each other at a distance of a grain: it keeps none, so that the place makes no difference.
//!
//! ```text
//! cargo bench --bench stream_read -- [MiB of each kind of content]
//! ```

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vmdk::{
    BlockDevice, CreateOptions, CreateType, FileStorage, OpenOptions, RawImage, RawTarget, SECTOR_SIZE, VmdkImage,
};

mod common;
use common::corpus::{CONTENTS, Content};
use common::{median, random_sectors};

/// The names of the sides, in the order of their times.
const SIDES: [&str; 4] = ["2 threads", "1 thread on 1 processor", "qemu-img", "qemu-img on 1 processor"];

/// Says to this program that it is to convert one stream, bound to a processor by whoever starts it.
const ONE: &str = "--convert-one";

fn main() {
    if let [_, one, stream, target] = &std::env::args().collect::<Vec<_>>()[..]
        && one == ONE
    {
        return to_raw(Path::new(stream), Path::new(target), 1);
    }
    // `cargo bench -- --test` runs everything once, to see that it works.
    let is_test = std::env::args().any(|arg| arg == "--test");
    let mib = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(1024);
    let (mib, rounds) = if is_test { (8, 1) } else { (mib, 5) };
    let has_qemu = Command::new("qemu-img").arg("--version").output().is_ok();
    if !has_qemu {
        println!("no qemu-img to compare with");
    }
    let dir = tempfile::tempdir().expect("a directory");
    for content in CONTENTS {
        let stream = make(content, dir.path(), mib);
        decode(content, &stream, rounds, has_qemu);
        if content == Content::Text {
            small_reads(&stream, if is_test { 10 } else { 4000 }, rounds, has_qemu);
        }
        fs::remove_file(&stream).expect("removes");
    }
}

/// A stream with this content, by this crate.
fn make(content: Content, dir: &Path, mib: usize) -> PathBuf {
    let [raw, stream] = ["disk.raw", "disk.vmdk"].map(|name| dir.join(name));
    content.write(&raw, mib);
    let source = RawImage::open(&raw).expect("the source opens");
    let options = CreateOptions::new().create_type(CreateType::StreamOptimized).threads(2).sync(false);
    options.create_from(&stream, &source, &mut |_| ControlFlow::Continue(())).expect("converts");
    fs::remove_file(raw).expect("removes");
    stream
}

fn decode(content: Content, stream: &Path, rounds: usize, has_qemu: bool) {
    let count = if has_qemu { SIDES.len() } else { 2 };
    let target = stream.with_extension("raw");
    let mut times = vec![Vec::new(); count];
    for round in 0..rounds {
        for turn in 0..count {
            let side = (round + turn) % count;
            io::copy(&mut File::open(stream).expect("opens"), &mut io::sink()).expect("reads");
            rustix::fs::sync();
            let start = Instant::now();
            match side {
                0 => to_raw(stream, &target, 2),
                1 => {
                    let own = std::env::current_exe().expect("it runs");
                    succeed(on_one_processor(Command::new(own).arg(ONE).arg(stream).arg(&target)));
                }
                2 => succeed(qemu_convert(Command::new("qemu-img"), stream, &target)),
                _ => succeed(on_one_processor(&qemu_convert(Command::new("qemu-img"), stream, &target))),
            }
            times[side].push(start.elapsed().as_secs_f64());
            fs::remove_file(&target).expect("removes");
        }
    }
    print!("{content:?}, {} MiB compressed, to raw:", fs::metadata(stream).expect("it is there").len() >> 20);
    for (name, times) in SIDES.iter().zip(&times) {
        print!(" {name} {:.3} s,", median(times.clone()));
    }
    let ratio = |ours: usize, other: usize| {
        median(times[ours].iter().zip(&times[other]).map(|(ours, other)| other / ours).collect())
    };
    if has_qemu {
        print!(" {:.2} times as fast with 2 threads, {:.2} on one processor", ratio(0, 2), ratio(1, 3));
    }
    println!();
}

fn to_raw(stream: &Path, target: &Path, threads: usize) {
    let image = VmdkImage::open(stream).expect("opens");
    let file = File::options().read(true).write(true).create_new(true).open(target).expect("creates");
    let target = FileStorage::new(file).expect("a file");
    image.copy_to_raw(&target, RawTarget::Empty, threads, &mut |_| ControlFlow::Continue(())).expect("converts");
}

fn qemu_convert(mut command: Command, stream: &Path, target: &Path) -> Command {
    command.args(["convert", "-f", "vmdk", "-O", "raw"]).arg(stream).arg(target);
    command
}

/// The same command bound to the first processor.
fn on_one_processor(command: &Command) -> Command {
    let mut bound = Command::new("taskset");
    bound.args(["-c", "0"]).arg(command.get_program()).args(command.get_args());
    bound
}

fn succeed(mut command: Command) {
    assert!(command.status().expect("it is there").success(), "{command:?}");
}

/// 4 KiB reads all over the first 8 MiB, which a cache of 16 MiB keeps.
fn small_reads(stream: &Path, count: u32, rounds: usize, has_qemu: bool) {
    const SPAN_SECTORS: u64 = 16 << 10;
    let image = OpenOptions::new().open(stream).expect("opens");
    let mut buf = [0; 8 * SECTOR_SIZE];
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let reads: u32 = 200_000;
    let starts = random_sectors(SPAN_SECTORS, 200_000);
    for start in (0..SPAN_SECTORS).step_by(8) {
        image.read_sectors(start, &mut buf).expect("reads");
    }
    for _ in 0..rounds {
        let begin = Instant::now();
        for &start in &starts {
            image.read_sectors(start, &mut buf).expect("reads");
        }
        ours.push(begin.elapsed().as_secs_f64() / f64::from(reads));
        if has_qemu {
            theirs.push(qemu_bench(stream, count).as_secs_f64() / f64::from(count));
        }
    }
    print!("4 KiB reads from the grain cache: {:.3} us", median(ours.clone()) * 1e6);
    if has_qemu {
        let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| theirs / ours).collect());
        print!(", qemu-img bench {:.3} us: {ratio:.0} times as fast", median(theirs) * 1e6);
    }
    println!();
}

/// Reads of 4 KiB, each 65 KiB behind the one before, by QEMU.
fn qemu_bench(stream: &Path, count: u32) -> Duration {
    let start = Instant::now();
    let mut command = Command::new("qemu-img");
    command.args(["bench", "-f", "vmdk", "-t", "writeback", "-d", "1", "-s", "4096", "-S", "66560", "-c"]);
    command.arg(count.to_string()).arg(stream).stdout(Stdio::null());
    succeed(command);
    start.elapsed()
}
