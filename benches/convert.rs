//! How long it takes to make a sparse disk of a raw file, beside `cp` of that file and `qemu-img convert`.
//!
//! As in `ratio.rs`, all sides take turns, each coming first in a third of the rounds. Before each the host has written
//! everything out and the source is in its page cache. `cp` and `qemu-img` are timed as processes; synced means that
//! the file was synced, too, before the time was taken.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vmdk::{CreateOptions, RawImage};

mod common;
use common::{median, write_random};

/// The names of the sides, in the order of their times.
const SIDES: [&str; 3] = ["cp", "vmdk", "qemu-img convert"];

fn main() {
    // `cargo bench -- --test` runs everything once, to see that it works.
    let is_test = std::env::args().any(|arg| arg == "--test");
    let (mib, rounds) = if is_test { (3, 1) } else { (1024, 9) };
    let dir = tempfile::tempdir().expect("a directory");
    let sides = Sides { source: dir.path().join("source.raw"), dir: dir.path().to_owned(), mib };
    write_random(&sides.source, mib);
    if !has_qemu() {
        println!("no qemu-img to compare with");
    }
    for synced in [false, true] {
        sides.compare(rounds, synced);
    }
}

struct Sides {
    source: PathBuf,
    dir: PathBuf,
    mib: u64,
}

impl Sides {
    fn compare(&self, rounds: usize, synced: bool) {
        let count = if has_qemu() { SIDES.len() } else { SIDES.len() - 1 };
        let mut times = vec![Vec::new(); count];
        for round in 0..rounds {
            for turn in 0..count {
                let side = (round + turn) % count;
                times[side].push(self.run(side, synced).as_secs_f64());
            }
        }
        let ratio_to =
            |other: usize| median(times[1].iter().zip(&times[other]).map(|(ours, other)| ours / other).collect());
        let ratios: Vec<_> = (0..count).filter(|&side| side != 1).map(|side| (SIDES[side], ratio_to(side))).collect();
        let how = if synced { "synced" } else { "unsynced" };
        print!("{} MiB raw to sparse, {how}:", self.mib);
        for (name, times) in SIDES.iter().zip(&times) {
            let least = times.iter().copied().fold(f64::INFINITY, f64::min);
            print!(" {name} {:.3} s (least {least:.3}),", median(times.clone()));
        }
        for (name, ratio) in ratios {
            print!(" {ratio:.3} of {name}");
        }
        println!();
    }

    /// Runs one side once, into a new file.
    fn run(&self, side: usize, synced: bool) -> Duration {
        let target = self.dir.join("target");
        let mut source = File::open(&self.source).expect("opens");
        io::copy(&mut source, &mut io::sink()).expect("reads");
        rustix::fs::sync();
        let start = Instant::now();
        match side {
            0 => succeed(Command::new("cp").arg(&self.source).arg(&target)),
            1 => convert(&self.source, &target, synced),
            _ => {
                let mut command = Command::new("qemu-img");
                command.args(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicSparse"]);
                succeed(command.arg(&self.source).arg(&target));
            }
        }
        if synced && side != 1 {
            File::open(&target).expect("opens").sync_all().expect("syncs");
        }
        let taken = start.elapsed();
        std::fs::remove_file(&target).expect("removes");
        taken
    }
}

fn succeed(command: &mut Command) {
    assert!(command.status().expect("it is there").success(), "{command:?}");
}

fn has_qemu() -> bool {
    Command::new("qemu-img").arg("--version").output().is_ok()
}

/// Makes a disk with the content of a raw file.
fn convert(source: &Path, target: &Path, synced: bool) {
    let source = RawImage::open(source).expect("the source opens");
    let options = CreateOptions::new().sync(synced);
    options.create_from(target, &source, &mut |_| ControlFlow::Continue(())).expect("converts");
}
