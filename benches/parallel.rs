//! Two threads on one image, with two threads of bare `pread` or `pwrite` on its file beside it, and a storage so slow
//! that only transfers at the same time can help.
//!
//! As in `ratio.rs`, both sides take turns in short rounds; printed is the median of the ratios of the rounds.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a benchmark")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use vmdk::{BlockDevice, MemoryStorage, OpenOptions, Storage, VmdkImage};

mod common;
use common::{DISK_MIB, Spots, converted, median, random_spots};

/// Reads of one thread in a round.
const ROUND: usize = 512;

fn main() {
    // `cargo bench -- --test` runs everything once, to see that it works.
    let rounds = if std::env::args().any(|arg| arg == "--test") { 2 } else { 1000 };
    bare_against_image(rounds);
    bare_against_writers(rounds.min(300));
    slow_storage(rounds.min(20));
}

/// The time that two threads take which both run `work` on their own half.
fn two_threads(work: impl Fn(Range<usize>) + Sync, at: usize) -> Duration {
    let ready = Barrier::new(3);
    thread::scope(|scope| {
        let threads = [at..at + ROUND, at + ROUND..at + 2 * ROUND].map(|half| {
            let (work, ready) = (&work, &ready);
            scope.spawn(move || {
                ready.wait();
                work(half);
            })
        });
        ready.wait();
        let start = Instant::now();
        for thread in threads {
            thread.join().expect("reads");
        }
        start.elapsed()
    })
}

fn bare_against_image(rounds: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = converted(dir.path(), DISK_MIB);
    let image = VmdkImage::open(&path).expect("the image opens");
    let file = File::open(&path).expect("the file opens");
    let Spots { sectors, offsets } = random_spots(&image, DISK_MIB << 11, 4 * ROUND * rounds);
    let bare = |at| {
        two_threads(
            |range| {
                let mut buf = vec![0; 4096];
                for &offset in &offsets[range] {
                    file.read_exact_at(&mut buf, offset).expect("reads");
                }
            },
            at,
        )
    };
    let ours = |at| {
        two_threads(
            |range| {
                let mut buf = vec![0; 4096];
                for &sector in &sectors[range] {
                    image.read_sectors(sector, &mut buf).expect("reads");
                }
            },
            at,
        )
    };
    let ratio = in_turns(rounds, bare, ours);
    println!("two threads, 4 KiB random reads: {ratio:.3} of what two threads of pread reach");
}

/// Each side takes a stretch of its own in every round and goes first in half of them; how fast ours is.
fn in_turns(rounds: usize, bare: impl Fn(usize) -> Duration, ours: impl Fn(usize) -> Duration) -> f64 {
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let (first, second) = (4 * ROUND * round, 4 * ROUND * round + 2 * ROUND);
        let (time_bare, time_ours) = if round % 2 == 0 {
            (bare(first), ours(second))
        } else {
            let time_ours = ours(first);
            (bare(second), time_ours)
        };
        ratios.push(time_bare.as_secs_f64() / time_ours.as_secs_f64());
    }
    median(ratios)
}

fn bare_against_writers(rounds: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = converted(dir.path(), DISK_MIB);
    let spots = random_spots(&VmdkImage::open(&path).expect("the image opens"), DISK_MIB << 11, 4 * ROUND * rounds);
    let Spots { sectors, offsets } = spots;
    let image = OpenOptions::new().write(true).open(&path).expect("the image opens");
    let file = File::options().write(true).open(&path).expect("the file opens");
    let bare = |at| {
        two_threads(
            |range| {
                let buf = vec![5; 4096];
                for &offset in &offsets[range] {
                    file.write_all_at(&buf, offset).expect("writes");
                }
            },
            at,
        )
    };
    let ours = |at| {
        two_threads(
            |range| {
                let buf = vec![5; 4096];
                for &sector in &sectors[range] {
                    image.write_sectors(sector, &buf).expect("writes");
                }
            },
            at,
        )
    };
    let ratio = in_turns(rounds, bare, ours);
    println!("two threads, 4 KiB random overwrites: {ratio:.3} of what two threads of pwrite reach");
}

/// Takes its time for every transfer, as a network does, and serves any number at once.
#[derive(Debug)]
struct Slow(MemoryStorage);

impl Storage for Slow {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        thread::sleep(Duration::from_micros(50));
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        thread::sleep(Duration::from_micros(50));
        self.0.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.0.punch_hole(range)
    }
}

fn slow_storage(rounds: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let content = std::fs::read(converted(dir.path(), 16)).expect("the image is there");
    let slow: Arc<dyn Storage> = Arc::new(Slow(MemoryStorage::new(content)));
    let resolver = |_: &str| Some(Arc::clone(&slow));
    let image = OpenOptions::new().write(true).open_with("disk.vmdk", &resolver).expect("the image opens");
    let Spots { sectors, .. } = random_spots(&image, 16 << 11, 4 * ROUND * rounds);
    let read = |range: Range<usize>| {
        let mut buf = vec![0; 4096];
        for &sector in &sectors[range] {
            image.read_sectors(sector, &mut buf).expect("reads");
        }
    };
    let write = |range: Range<usize>| {
        let buf = vec![5; 4096];
        for &sector in &sectors[range] {
            image.write_sectors(sector, &buf).expect("writes");
        }
    };
    println!("two threads on a storage of 50 us an operation, times one thread:");
    println!("reads {:.3}, overwrites {:.3}", speed_up(rounds, read), speed_up(rounds, write));
}

/// How much faster two threads are than one.
fn speed_up(rounds: usize, work: impl Fn(Range<usize>) + Sync) -> f64 {
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let at = 4 * ROUND * round;
        let start = Instant::now();
        work(at..at + 2 * ROUND);
        let one = start.elapsed();
        ratios.push(one.as_secs_f64() / two_threads(&work, at + 2 * ROUND).as_secs_f64());
    }
    median(ratios)
}
