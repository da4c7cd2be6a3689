//! What writing costs beyond the bare `pwrite` it comes down to, and beside QEMU.
//!
//! As in `ratio.rs`, both sides take turns; where a round is long, there are few of them.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vmdk::{BlockDevice, VmdkImage};

mod common;
use common::{DISK_MIB, Spots, child_of, converted, empty, median, random_spots};

/// Writes of one side in a round of overwrites.
const ROUND: usize = 256;

/// Bytes of a grain.
const GRAIN: usize = 64 << 10;

/// Bytes that are written by the first touches of a round.
const TOUCHED: usize = 256 << 20;

fn main() {
    // `cargo bench -- --test` runs everything once, to see that it works.
    let is_test = std::env::args().any(|arg| arg == "--test");
    overwrites(if is_test { 2 } else { 2000 });
    first_touches(if is_test { 1 } else { 7 });
    copies_on_write(if is_test { 1 } else { 7 });
}

fn writer(path: &Path) -> VmdkImage {
    vmdk::OpenOptions::new().write(true).open(path).expect("the image opens")
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Runs both sides in turns, each first in half of the rounds, and gives the median times and ratio.
fn in_turns(rounds: usize, mut bare: impl FnMut() -> Duration, mut ours: impl FnMut() -> Duration) -> [f64; 3] {
    let (mut bare_times, mut our_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (time_bare, time_ours) = if round % 2 == 0 {
            let time_bare = bare();
            (time_bare, ours())
        } else {
            let time_ours = ours();
            (bare(), time_ours)
        };
        bare_times.push(time_bare.as_secs_f64());
        our_times.push(time_ours.as_secs_f64());
        ratios.push(time_ours.as_secs_f64() / time_bare.as_secs_f64());
    }
    [median(bare_times), median(our_times), median(ratios)]
}

/// 4 KiB writes to grains that are there.
fn overwrites(rounds: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = converted(dir.path(), DISK_MIB);
    let Spots { sectors, offsets } =
        random_spots(&VmdkImage::open(&path).expect("the image opens"), DISK_MIB << 11, 2 * ROUND * rounds);
    let image = writer(&path);
    let file = OpenOptions::new().write(true).open(&path).expect("the file opens");
    let buf = RefCell::new(vec![5; 4096]);
    let at = Cell::new(0);
    let next = || {
        at.set(at.get() + ROUND);
        at.get() - ROUND..at.get()
    };
    let bare = || {
        let (buf, part) = (buf.borrow(), &offsets[next()]);
        time(|| part.iter().for_each(|&offset| file.write_all_at(&buf, offset).expect("writes")))
    };
    let ours = || {
        let (buf, part) = (buf.borrow(), &sectors[next()]);
        time(|| part.iter().for_each(|&sector| image.write_sectors(sector, &buf).expect("writes")))
    };
    let [bare, ours, ratio] = in_turns(rounds, bare, ours);
    let each = 1e9 / f64::from(u32::try_from(ROUND).expect("few"));
    println!("4 KiB overwrites: pwrite {:.0} ns, vmdk {:.0} ns, median ratio {ratio:.3}", bare * each, ours * each);
}

/// Grains that are written for the first time, one after the other, and one flush.
fn first_touches(rounds: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let buf = vec![7; GRAIN];
    let bare = || {
        let path = dir.path().join("bare");
        let file = File::create(&path).expect("creates");
        let taken = time(|| {
            for offset in (0..TOUCHED).step_by(GRAIN) {
                file.write_all_at(&buf, offset as u64).expect("writes");
            }
            file.sync_data().expect("syncs");
        });
        std::fs::remove_file(&path).expect("removes");
        taken
    };
    let ours = || {
        let path = empty(dir.path(), 2 * TOUCHED as u64 / 512);
        File::open(&path).expect("opens").sync_all().expect("syncs");
        let image = writer(&path);
        time(|| {
            for offset in (0..TOUCHED).step_by(GRAIN) {
                image.write_sectors((offset / 512) as u64, &buf).expect("writes");
            }
            image.flush().expect("flushes");
        })
    };
    let [bare, ours, ratio] = in_turns(rounds, bare, ours);
    let mib = f64::from(u32::try_from(TOUCHED >> 20).expect("few"));
    println!(
        "first touch of 64 KiB grains, one flush: pwrite {:.0} MiB/s, vmdk {:.0} MiB/s, {:.3} of it",
        mib / bare,
        mib / ours,
        1.0 / ratio
    );
    let path = empty(dir.path(), 2 * TOUCHED as u64 / 512);
    if let Some(qemu) = qemu(&path, TOUCHED / GRAIN, GRAIN) {
        println!("qemu-img bench -w -t writeback: {:.0} MiB/s; vmdk is {:.2} times as fast", mib / qemu, qemu / ours);
    }
}

/// 4 KiB into each grain of a child, over a parent that has all of them, and one flush.
fn copies_on_write(rounds: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let parent = converted(dir.path(), DISK_MIB);
    let grains = TOUCHED / GRAIN;
    let buf = vec![7; 4096];
    let source = File::open(&parent).expect("opens");
    let bare = || {
        let path = dir.path().join("bare");
        let file = File::create(&path).expect("creates");
        let mut grain = vec![0; GRAIN];
        let taken = time(|| {
            for number in 0..grains as u64 {
                let offset = number * GRAIN as u64;
                source.read_exact_at(&mut grain, offset + (1 << 20)).expect("reads");
                grain[8192..12288].copy_from_slice(&buf);
                file.write_all_at(&grain, offset).expect("writes");
            }
            file.sync_data().expect("syncs");
        });
        std::fs::remove_file(&path).expect("removes");
        taken
    };
    let child = |number: usize| {
        let path = child_of(&parent, &format!("child-{number}.vmdk"), DISK_MIB << 11);
        File::open(&path).expect("opens").sync_all().expect("syncs");
        path
    };
    let mut number = 0;
    let ours = || {
        number += 1;
        let path = child(number);
        let image = writer(&path);
        let taken = time(|| {
            for number in 0..grains as u64 {
                image.write_sectors(number * 128 + 16, &buf).expect("writes");
            }
            image.flush().expect("flushes");
        });
        drop(image);
        std::fs::remove_file(&path).expect("removes");
        taken
    };
    let [bare, ours, ratio] = in_turns(rounds, bare, ours);
    let each = 1e6 / f64::from(u32::try_from(grains).expect("few"));
    println!(
        "first touch of 4 KiB over a parent: read and write of the grains {:.1} us, vmdk {:.1} us, {:.3} of it",
        bare * each,
        ours * each,
        1.0 / ratio
    );
    if let Some(qemu) = qemu(&child(0), grains, 4096) {
        println!("qemu-img bench -w -t writeback: {:.1} us; vmdk is {:.2} times as fast", qemu * each, qemu / ours);
    }
}

/// Seconds that QEMU takes to write `count` pieces of `size` bytes, one in each grain; `None` without QEMU.
fn qemu(image: &PathBuf, count: usize, size: usize) -> Option<f64> {
    let [count, size, step] = [count, size, GRAIN].map(|number| number.to_string());
    let mut command = Command::new("qemu-img");
    command.args(["bench", "-w", "-f", "vmdk", "-t", "writeback", "-d", "1", "-c", &count, "-s", &size, "-S", &step]);
    let Ok(output) = command.arg(image).output() else {
        println!("no qemu-img to compare with");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let seconds = text.split("completed in ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    if seconds.is_none() {
        println!("qemu-img bench failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    seconds
}
