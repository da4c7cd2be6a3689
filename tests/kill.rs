//! A process that is killed at any moment: the image opens without repair, for reading and for writing, and what was
//! flushed is there.
//!
//! The process is this test binary itself, which runs `writes_until_it_is_killed` and says after each flush that it has
//! returned. Its parent knows from the seed what it does, reads what it says, and kills it.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use vmdk::{BlockDevice, CacheMode, OpenOptions, VmdkImage};

use support::check::{Problem, check};
use support::cowd::CowdImage;
use support::disk::{Disk, Image};
use support::ledger::Operation;
use support::rng::Rng;
use support::sparse::SparseImage;
use support::tools::{self, Tool};
use support::{SECTOR, byte_range};

const IMAGE: &str = "VMDK_KILL_IMAGE";
const SEED: &str = "VMDK_KILL_SEED";
const UNSAFE: &str = "VMDK_KILL_UNSAFE";
/// Stands before each number that the child says, where the harness may say things, too.
const MARK: &str = "@@";

/// What is done between two flushes.
fn round(seed: u64, number: u64, capacity: u64) -> Vec<Operation> {
    let rng = &mut Rng::new(seed ^ number.wrapping_mul(0x9e37_79b9));
    let count = 1 + rng.below(8);
    (0..count).map(|_| Operation::random(rng, capacity, rng.clone().next_u64())).collect()
}

/// Not a test: what the others start.
#[test]
#[ignore = "runs until it is killed; the tests here start it"]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(IMAGE) else { return };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let mode = if std::env::var_os(UNSAFE).is_some() { CacheMode::Unsafe } else { CacheMode::Writeback };
    let image = OpenOptions::new().write(true).cache_mode(mode).open(path).unwrap();
    let capacity = image.capacity_sectors();
    // Not by the macros, which the harness would capture.
    let mut said = std::io::stdout();
    for number in 0.. {
        for operation in round(seed, number, capacity) {
            operation.run(&image).unwrap();
        }
        if mode != CacheMode::Unsafe {
            image.flush().unwrap();
        }
        said.write_all(format!("{MARK}{number}\n").as_bytes()).unwrap();
        said.flush().unwrap();
    }
}

/// When a writer is killed.
#[derive(Clone, Copy, Debug)]
struct Death {
    /// How many rounds it has to report first.
    rounds: u64,
    /// How much later.
    after: Duration,
}

/// Starts a writer and kills it; how many rounds it has said to be flushed.
fn killed(path: &Path, seed: u64, mode: CacheMode, death: Death) -> u64 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "writes_until_it_is_killed", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(IMAGE, path).env(SEED, seed.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
    if mode == CacheMode::Unsafe {
        command.env(UNSAFE, "1");
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut rounds = 0;
    let mut report = || {
        // The harness may have begun the line.
        let number = lines.find_map(|line| Some(line.split_once(MARK)?.1.parse::<u64>().unwrap()))?;
        rounds = number + 1;
        Some(rounds)
    };
    while death.rounds > 0 && report().expect("it writes until it is killed") < death.rounds {}
    std::thread::sleep(death.after);
    child.kill().unwrap();
    // What it has said before it died.
    while report().is_some() {}
    let status = child.wait().unwrap();
    assert!(status.code().is_none(), "it ended by itself: {status}");
    rounds
}

/// What the sectors of a disk may hold.
struct Possible {
    content: Vec<u8>,
    /// Those of which it is not known, and all that they may hold.
    touched: HashMap<u64, Vec<Vec<u8>>>,
}

impl Possible {
    fn allow(&mut self, operation: Operation, flushed: bool) {
        let ((start, count), bytes) = (operation.sectors(), operation.bytes());
        for (sector, new) in (start..start + count).zip(bytes.chunks(SECTOR)) {
            let before = || vec![self.content[byte_range(sector, 1)].to_vec()];
            let possible = self.touched.entry(sector).or_insert_with(before);
            // What is discarded may stay.
            if flushed && !matches!(operation, Operation::Discard { .. }) {
                possible.clear();
            }
            possible.push(new.to_vec());
        }
    }

    /// What the disk holds is possible, and from now on it is known.
    #[track_caller]
    fn settle(&mut self, image: &VmdkImage, what: &str) {
        let mut found = vec![0; self.content.len()];
        image.read_sectors(0, &mut found).unwrap();
        for (sector, found) in (0..).zip(found.chunks(SECTOR)) {
            let possible = match self.touched.get(&sector) {
                Some(possible) => possible.iter().any(|possible| possible == found),
                None => found == &self.content[byte_range(sector, 1)],
            };
            assert!(possible, "{what}: sector {sector} has neither its flushed content nor a later one");
        }
        self.content = found;
        self.touched.clear();
    }
}

/// Kills writers of one disk again and again.
fn survives(disk: &Disk, kills: u64, mode: CacheMode, qemu: Option<Tool>) {
    let mut possible = Possible { content: disk.content.clone(), touched: HashMap::new() };
    let rng = &mut Rng::new(disk.content.len() as u64);
    let capacity = (disk.content.len() / SECTOR) as u64;
    let mut flushed = 0;
    for kill in 0..kills {
        let seed = rng.next_u64();
        // Most of them in the middle of the work, some before it begins.
        let death = match rng.below(100) {
            0..15 => Death { rounds: 0, after: Duration::from_micros(rng.below(9_000)) },
            _ => Death { rounds: 1 + rng.below(8), after: Duration::from_micros(rng.below(12_000)) },
        };
        let rounds = killed(&disk.path, seed, mode, death);
        flushed += rounds;
        for number in 0..=rounds {
            let operations = round(seed, number, capacity).into_iter();
            operations.for_each(|operation| possible.allow(operation, number < rounds));
        }
        let what = format!("kill {kill}, after {rounds} rounds");
        possible.settle(&VmdkImage::open(&disk.path).unwrap(), &what);
        tables_are_sound(disk, false, &what);
        if kill % 4 == 3 {
            // Somebody else goes on with it, and closes it.
            let image = OpenOptions::new().write(true).open(&disk.path).unwrap();
            for number in 0..4 {
                let operation = Operation::random(rng, capacity, number);
                operation.run(&image).unwrap();
                possible.allow(operation, true);
            }
            image.close().unwrap();
            drop(image);
            possible.settle(&VmdkImage::open(&disk.path).unwrap(), &what);
            if let Some(qemu) = qemu {
                let path = disk.path.to_str().unwrap();
                qemu.run(["check", "-q", path]);
                assert!(qemu.raw_of(&disk.path) == possible.content, "{what}: QEMU reads something else");
            }
        }
    }
    // The last word is a clean end, in every extent.
    let image = OpenOptions::new().write(true).open(&disk.path).unwrap();
    let all = possible.content.clone();
    image.write_sectors(0, &all).unwrap();
    image.close().unwrap();
    drop(image);
    possible.settle(&VmdkImage::open(&disk.path).unwrap(), "at the end");
    tables_are_sound(disk, true, "at the end");
    assert!(flushed > kills, "{flushed} rounds in {kills} lives: that is no test");
}

/// Two copies of a table may differ after a crash; nothing else may be wrong, and after a close nothing at all.
#[track_caller]
fn tables_are_sound(disk: &Disk, closed: bool, what: &str) {
    for (name, _) in &disk.links[disk.links.len() - 1].files {
        let bytes = std::fs::read(disk.dir().join(name)).unwrap();
        if bytes.starts_with(b"KDMV") || bytes.starts_with(b"COWD") {
            let report = check(&bytes);
            let harmless = |problem: &Problem| problem.is_difference() && !closed;
            assert!(report.problems.iter().all(harmless), "{what}: {name}: {:?}", report.problems);
            assert!(!(closed && report.unclean), "{what}: {name} was not closed");
        }
    }
}

/// Lives of each kind of disk; 216 in all.
const KILLS: u64 = 27;

fn small(capacity: u64) -> SparseImage {
    SparseImage::new(capacity).grain_sectors(16)
}

#[test]
fn a_sparse_disk_survives_that_its_writer_is_killed() {
    let qemu = tools::qemu_img("a_sparse_disk_survives_that_its_writer_is_killed");
    let disk =
        Disk::new(vec![Image::monolithic_sparse("disk.vmdk", SparseImage::new(128 * 40).random(&mut Rng::new(1)))]);
    survives(&disk, KILLS, CacheMode::Writeback, qemu);
}

#[test]
fn a_sparse_disk_without_tables_survives_that_its_writer_is_killed() {
    let qemu = tools::qemu_img("a_sparse_disk_without_tables_survives_that_its_writer_is_killed");
    let extent = small(16 * 512).with_zero_grains().omit_empty_tables();
    let disk = Disk::new(vec![Image::monolithic_sparse("disk.vmdk", extent)]);
    survives(&disk, KILLS, CacheMode::Writeback, qemu);
}

#[test]
fn a_child_survives_that_its_writer_is_killed() {
    let qemu = tools::qemu_img("a_child_survives_that_its_writer_is_killed");
    let base = Image::monolithic_flat("base.vmdk", Rng::new(2).bytes(5000 * SECTOR));
    let child = Image::child(&base, "disk.vmdk", small(5000));
    survives(&Disk::new(vec![base, child]), KILLS, CacheMode::Writeback, qemu);
}

#[test]
fn a_child_with_zero_grains_survives_that_its_writer_is_killed() {
    let qemu = tools::qemu_img("a_child_with_zero_grains_survives_that_its_writer_is_killed");
    let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(5120).random(&mut Rng::new(3)));
    let child = Image::child(&base, "disk.vmdk", small(5120).with_zero_grains().omit_empty_tables());
    survives(&Disk::new(vec![base, child]), KILLS, CacheMode::Writeback, qemu);
}

#[test]
fn a_delta_of_esx_survives_that_its_writer_is_killed() {
    let base = Image::vmfs("base.vmdk", Rng::new(4).bytes(9000 * SECTOR));
    let delta = Image::esx_delta(&base, "base-000001.vmdk", &CowdImage::esx(9000));
    survives(&Disk::new(vec![base, delta]), KILLS, CacheMode::Writeback, None);
}

#[test]
fn a_split_disk_survives_that_its_writer_is_killed() {
    let qemu = tools::qemu_img("a_split_disk_survives_that_its_writer_is_killed");
    let extents = [128 * 12, 128 * 20, 128 * 8 + 50].map(|capacity| SparseImage::new(capacity).omit_empty_tables());
    let disk = Disk::new(vec![Image::split_sparse("disk.vmdk", &extents)]);
    survives(&disk, KILLS, CacheMode::Writeback, qemu);
}

#[test]
fn a_flat_disk_survives_that_its_writer_is_killed() {
    let qemu = tools::qemu_img("a_flat_disk_survives_that_its_writer_is_killed");
    let disk = Disk::new(vec![Image::monolithic_flat("disk.vmdk", Rng::new(5).bytes(4000 * SECTOR))]);
    survives(&disk, KILLS, CacheMode::Writeback, qemu);
}

/// Without flushes: a killed process has lost nothing that a write has returned for.
#[test]
fn a_disk_of_a_guest_that_never_flushes_survives_that_its_writer_is_killed() {
    let qemu = tools::qemu_img("a_disk_of_a_guest_that_never_flushes_survives_that_its_writer_is_killed");
    let disk = Disk::new(vec![Image::monolithic_sparse("disk.vmdk", small(6000).omit_empty_tables())]);
    survives(&disk, KILLS, CacheMode::Unsafe, qemu);
}
