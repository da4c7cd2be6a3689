//! How long it takes to merge a delta of 1 GiB into its parent, beside `cp` of the delta and `qemu-img commit` of the
//! same images; and to make one independent of a parent of 1 GiB, beside `cp` of the parent.
//!
//! As in `ratio.rs`, all sides take turns, each coming first in a third of the rounds. Before each the images are made
//! anew, the host has written everything out, and what is read is in its page cache. `cp` and `qemu-img` are timed as
//! processes, and what they have written is synced before the time is taken: so is what this crate has.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vmdk::{BlockDevice, CreateOptions, CreateType, OpenOptions};

mod common;
use common::{median, write_random};

/// Sectors in a MiB.
const MIB: u64 = 2048;

fn main() {
    // `cargo bench -- --test` runs everything once, to see that it works.
    let is_test = std::env::args().any(|arg| arg == "--test");
    let (mib, rounds) = if is_test { (4, 1) } else { (1024, 3) };
    let dir = tempfile::tempdir().expect("a directory");
    write_random(&dir.path().join("content"), mib);
    if !has_qemu() {
        println!("no qemu-img to compare with");
    }
    let types = [CreateType::MonolithicSparse, CreateType::MonolithicFlat];
    for base in types {
        let bench = Bench { dir: dir.path().to_owned(), base: base.clone(), mib };
        let sides: &[Side] = if has_qemu() { &[Side::Copy, Side::Vmdk, Side::Qemu] } else { &[Side::Copy, Side::Vmdk] };
        bench.compare(&format!("commit into {base}"), rounds, sides, Bench::commit);
        bench.compare(&format!("flatten over {base}"), rounds, &[Side::Copy, Side::Vmdk], Bench::flatten);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Copy,
    Vmdk,
    Qemu,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Copy => "cp",
            Self::Vmdk => "vmdk",
            Self::Qemu => "qemu-img commit",
        }
    }
}

struct Bench {
    dir: PathBuf,
    /// The type of the parent.
    base: CreateType,
    mib: u64,
}

impl Bench {
    fn compare(&self, what: &str, rounds: usize, sides: &[Side], run: impl Fn(&Self, Side) -> Duration) {
        let mut times = vec![Vec::new(); sides.len()];
        for round in 0..rounds {
            for turn in 0..sides.len() {
                let side = (round + turn) % sides.len();
                times[side].push(run(self, sides[side]).as_secs_f64());
            }
        }
        print!("{} MiB, {what}:", self.mib);
        for (side, times) in sides.iter().zip(&times) {
            let least = times.iter().copied().fold(f64::INFINITY, f64::min);
            print!(" {} {:.3} s (least {least:.3}),", side.name(), median(times.clone()));
        }
        for (side, other) in sides.iter().zip(&times).filter(|(side, _)| **side != Side::Vmdk) {
            let ratio = median(other.iter().zip(&times[1]).map(|(other, ours)| other / ours).collect());
            print!(" {ratio:.2} times as fast as {},", side.name());
        }
        println!();
    }

    /// A delta with all the content over an empty parent.
    fn commit(&self, side: Side) -> Duration {
        let [base, delta] = self.make(false);
        let taken = self.time(side, &delta, || match side {
            Side::Qemu => {
                let target = File::open(self.data_of(&base)).expect("opens");
                succeed(Command::new("qemu-img").args(["commit", "-q", "-d", "-f", "vmdk"]).arg(&delta));
                target.sync_all().expect("syncs");
            }
            _ => drop(OpenOptions::new().commit(&delta, 1, &mut |_| ControlFlow::Continue(())).expect("merges")),
        });
        self.clean();
        taken
    }

    /// An empty delta over a parent with all the content.
    fn flatten(&self, side: Side) -> Duration {
        let [base, delta] = self.make(true);
        let taken = self.time(side, &self.data_of(&base), || {
            OpenOptions::new().flatten(&delta, &mut |_| ControlFlow::Continue(())).expect("takes it in");
        });
        self.clean();
        taken
    }

    /// Takes the time of one side: of a copy of `source`, or of `work`.
    fn time(&self, side: Side, source: &Path, work: impl FnOnce()) -> Duration {
        io::copy(&mut File::open(source).expect("opens"), &mut io::sink()).expect("reads");
        rustix::fs::sync();
        let start = Instant::now();
        if side == Side::Copy {
            let target = self.dir.join("disk-copy.vmdk");
            succeed(Command::new("cp").arg(source).arg(&target));
            File::open(&target).expect("opens").sync_all().expect("syncs");
        } else {
            work();
        }
        start.elapsed()
    }

    fn make(&self, fills_parent: bool) -> [PathBuf; 2] {
        let [base, delta] = ["disk.vmdk", "disk-000001.vmdk"].map(|name| self.dir.join(name));
        let options = CreateOptions::new().create_type(self.base.clone()).capacity_sectors(self.mib * MIB);
        options.create(&base).expect("makes the parent");
        let parent = OpenOptions::new().write(true).open(&base).expect("opens");
        if fills_parent {
            self.fill(&parent);
        }
        let options = CreateOptions::new().create_type(CreateType::MonolithicSparse);
        let child = parent.create_child(&delta, &options).expect("makes the delta");
        if !fills_parent {
            self.fill(&child);
        }
        child.close().expect("closes");
        [base, delta]
    }

    fn fill(&self, image: &dyn BlockDevice) {
        let mut content = File::open(self.dir.join("content")).expect("opens");
        let mut buffer = vec![0; 1 << 20];
        for number in 0..self.mib {
            io::Read::read_exact(&mut content, &mut buffer).expect("reads");
            image.write_sectors(number * MIB, &buffer).expect("writes");
        }
        image.flush().expect("flushes");
    }

    /// The file with the data of a parent.
    fn data_of(&self, base: &Path) -> PathBuf {
        if self.base == CreateType::MonolithicFlat { base.with_file_name("disk-flat.vmdk") } else { base.to_owned() }
    }

    fn clean(&self) {
        for entry in std::fs::read_dir(&self.dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("disk")) {
                std::fs::remove_file(path).expect("removes");
            }
        }
    }
}

fn succeed(command: &mut Command) {
    assert!(command.status().expect("it is there").success(), "{command:?}");
}

fn has_qemu() -> bool {
    Command::new("qemu-img").arg("--version").output().is_ok()
}
