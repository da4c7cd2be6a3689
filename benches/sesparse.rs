//! seSparse: random reads beside the bare `pread` they come down to, and a conversion to raw beside `qemu-img convert`
//! of the same image.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use vmdk::{FileStorage, RawTarget, VmdkImage};

mod common;
use common::ratio::beside_pread;
use common::{median, se_sparse};

/// What sixteen cached tables reach over.
const MIB: u64 = 256;

fn main() {
    // `cargo bench -- --test` runs everything once, to see that it works.
    let is_test = std::env::args().any(|arg| arg == "--test");
    let (mib, reads, rounds) = if is_test { (2, 2, 1) } else { (MIB, 2000, 7) };
    let dir = tempfile::tempdir().expect("a directory");
    for (order, is_shuffled) in [("in their order", false), ("in no order", true)] {
        let [path, data] = se_sparse(dir.path(), mib, is_shuffled);
        let image = VmdkImage::open(&path).expect("the image opens");
        let file = File::open(&data).expect("the file opens");
        println!(
            "grains {order}: 4 KiB random reads, cached tables: {}",
            beside_pread(&image, &file, mib << 11, reads)
        );
        let target = dir.path().join("target.raw");
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            for turn in 0..2 {
                if (round + turn) % 2 == 0 {
                    ours.push(taken(&target, || convert(&path, &target)).as_secs_f64());
                } else if let Some(mut command) = qemu_img(&path, &target) {
                    theirs.push(taken(&target, || assert!(command.status().expect("it runs").success())).as_secs_f64());
                }
            }
        }
        print!("grains {order}: {mib} MiB to raw: vmdk {:.3} s", median(ours.clone()));
        if theirs.is_empty() {
            println!(", and no qemu-img to compare with");
        } else {
            let ratio = median(theirs.iter().zip(&ours).map(|(theirs, ours)| theirs / ours).collect());
            println!(", qemu-img {:.3} s, {ratio:.2} times as fast", median(theirs));
        }
    }
}

/// How long it takes to make a file, which is removed then.
fn taken(target: &Path, make: impl FnOnce()) -> Duration {
    rustix::fs::sync();
    let start = Instant::now();
    make();
    let taken = start.elapsed();
    std::fs::remove_file(target).expect("removes");
    taken
}

fn convert(path: &Path, target: &Path) {
    let image = VmdkImage::open(path).expect("the image opens");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(target).expect("creates");
    let target = FileStorage::new(file).expect("a file");
    image.copy_to_raw(&target, RawTarget::Empty, 1, &mut |_| ControlFlow::Continue(())).expect("converts");
}

fn qemu_img(path: &Path, target: &Path) -> Option<Command> {
    Command::new("qemu-img").arg("--version").output().ok()?;
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "vmdk", "-O", "raw"]).arg(path).arg(target);
    Some(command)
}
