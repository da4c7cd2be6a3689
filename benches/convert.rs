//! How long `copy` takes from a raw file to a new sparse disk, beside `cp` of the raw file and `qemu-img convert`.
//!
//! As in `ratio.rs`, all sides take turns, each coming first in a third of the rounds. Before each the host has written
//! everything out and the source is in its page cache. `cp` and `qemu-img` are timed as processes, `copy` from opening
//! the disk to closing it; synced means that the file was synced, too, before the time was taken. The disk is opened as
//! one is that nobody can see yet: its storage does not sync.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::{ControlFlow, Range};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmdk::{FileStorage, RawImage, Storage, StorageId, copy};

mod common;
use common::{empty, median, write_random};

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
        let target = if side == 1 { empty(&self.dir, self.mib << 11) } else { self.dir.join("target") };
        let mut source = File::open(&self.source).expect("opens");
        io::copy(&mut source, &mut io::sink()).expect("reads");
        rustix::fs::sync();
        let start = Instant::now();
        match side {
            0 => succeed(Command::new("cp").arg(&self.source).arg(&target)),
            1 => fill(&self.source, &target),
            _ => {
                let mut command = Command::new("qemu-img");
                command.args(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicSparse"]);
                succeed(command.arg(&self.source).arg(&target));
            }
        }
        if synced {
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

/// Copies a raw file into the empty disk at `target`.
fn fill(source: &Path, target: &Path) {
    let file = File::options().read(true).write(true).open(target).expect("opens");
    let storage: Arc<dyn Storage> = Arc::new(Unsynced(FileStorage::new(file).expect("a file")));
    let resolver = |name: &str| (name == "target").then(|| Arc::clone(&storage));
    let image = vmdk::OpenOptions::new().write(true).open_with("target", &resolver).expect("the image opens");
    let source = RawImage::open(source).expect("the source opens");
    copy(&source, &image, &mut |_| ControlFlow::Continue(())).expect("copies");
    image.close().expect("closes");
}

/// A file that is thrown away if anything goes wrong before it is finished: it need not be synced on the way.
#[derive(Debug)]
struct Unsynced(FileStorage);

impl Storage for Unsynced {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
    fn read_exact_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.0.read_exact_vectored_at(bufs, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }
    fn write_all_vectored_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_all_vectored_at(bufs, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.0.punch_hole(range)
    }
    fn allocated_len(&self) -> io::Result<u64> {
        self.0.allocated_len()
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.0.next_data(offset)
    }
    fn id(&self) -> Option<StorageId> {
        self.0.id()
    }
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_fd()
    }
}
