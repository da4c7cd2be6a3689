//! What was done to a disk, what each sector holds now, and what it may hold after the next open.
//!
//! A sector that was flushed has its flushed content; one that was changed since then may have that or any later one.

use std::collections::HashMap;

use vmdk::{BlockDevice, Error};

use super::rng::Rng;
use super::{SECTOR, byte_range, index};

/// Something that is done to a disk.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Writes random bytes, which follow from the seed.
    Write { start: u64, count: u64, seed: u64 },
    /// Writes zeros, and may give their space back.
    Zero { start: u64, count: u64, unmap: bool },
    /// Gives sectors up.
    Discard { start: u64, count: u64 },
    /// Makes everything durable.
    Flush,
}

impl Operation {
    /// Does it to a disk.
    pub fn run(self, disk: &dyn BlockDevice) -> Result<(), Error> {
        match self {
            Self::Write { start, .. } => disk.write_sectors(start, &self.bytes()),
            Self::Zero { start, count, unmap } => disk.write_zeroes(start, count, unmap),
            Self::Discard { start, count } => disk.discard(start, count),
            Self::Flush => disk.flush(),
        }
    }

    /// What the sectors hold afterwards.
    pub fn bytes(self) -> Vec<u8> {
        let (_, count) = self.sectors();
        match self {
            Self::Write { seed, .. } => Rng::new(seed).bytes(index(count) * SECTOR),
            _ => vec![0; index(count) * SECTOR],
        }
    }

    /// The first sector that it changes, and how many there are.
    pub fn sectors(self) -> (u64, u64) {
        match self {
            Self::Write { start, count, .. } | Self::Zero { start, count, .. } | Self::Discard { start, count } => {
                (start, count)
            }
            Self::Flush => (0, 0),
        }
    }

    /// Something random to do to a disk, anything but a flush; `number` makes the content one that no other has.
    pub fn random(rng: &mut Rng, capacity: u64, number: u64) -> Self {
        let start = rng.below(capacity);
        let most = [1, 9, 40, 300][index(rng.below(4))].min(capacity - start);
        let count = 1 + rng.below(most);
        match rng.below(10) {
            0 => Self::Zero { start, count, unmap: true },
            1 => Self::Zero { start, count, unmap: false },
            2 => Self::Discard { start, count },
            _ => Self::Write { start, count, seed: number },
        }
    }
}

/// The content of a disk, and what it may be after a failure.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// What the disk holds.
    pub now: Vec<u8>,
    flushed: Vec<u8>,
    /// What sectors were given since the last flush.
    later: HashMap<u64, Vec<Vec<u8>>>,
}

impl Ledger {
    /// The ledger of a disk with this content.
    pub fn new(content: Vec<u8>) -> Self {
        Self { flushed: content.clone(), now: content, later: HashMap::new() }
    }

    /// Sectors of the disk.
    pub fn capacity(&self) -> u64 {
        (self.now.len() / SECTOR) as u64
    }

    /// Does something to a disk, and sees to it that no sector of it is anything but old or new afterwards.
    #[track_caller]
    pub fn apply(&mut self, disk: &dyn BlockDevice, operation: Operation) -> Result<(), Error> {
        let done = operation.run(disk);
        self.note(disk, operation, done)
    }

    /// The same for something that was done already.
    #[track_caller]
    pub fn note(&mut self, disk: &dyn BlockDevice, operation: Operation, done: Result<(), Error>) -> Result<(), Error> {
        if matches!(operation, Operation::Flush) {
            if done.is_ok() {
                self.flushed.clone_from(&self.now);
                self.later.clear();
            }
            return done;
        }
        let must_be_new = done.is_ok() && !matches!(operation, Operation::Discard { .. });
        let ((start, count), new) = (operation.sectors(), operation.bytes());
        let mut found = vec![0xee; new.len()];
        disk.read_sectors(start, &mut found).expect("reads go on");
        let sectors = found.chunks(SECTOR).zip(new.chunks(SECTOR));
        for (sector, (found, new)) in (start..start + count).zip(sectors) {
            let now = &mut self.now[byte_range(sector, 1)];
            let is_old = found == now && !must_be_new;
            assert!(found == new || is_old, "sector {sector} is neither old nor new after {operation:?}: {done:?}");
            now.copy_from_slice(found);
            self.later.entry(sector).or_default().push(new.to_vec());
        }
        done
    }

    /// Sees to it that a disk holds what it should.
    #[track_caller]
    pub fn compare(&self, disk: &dyn BlockDevice, what: &str) {
        let mut found = vec![0xee; self.now.len()];
        disk.read_sectors(0, &mut found).expect("reads go on");
        if found != self.now {
            let sector = found.chunks(SECTOR).zip(self.now.chunks(SECTOR)).position(|(found, now)| found != now);
            panic!("{what}: sector {} has changed", sector.expect("they differ"));
        }
    }

    /// The same for a disk that was opened after a failure: what it holds counts from now on.
    #[track_caller]
    pub fn reopened(&mut self, disk: &dyn BlockDevice, what: &str) {
        let mut found = vec![0xee; self.now.len()];
        disk.read_sectors(0, &mut found).expect("it can be read");
        for (sector, found) in (0..self.capacity()).zip(found.chunks(SECTOR)) {
            let known = found == &self.flushed[byte_range(sector, 1)]
                || self.later.get(&sector).is_some_and(|later| later.iter().any(|later| later == found));
            assert!(known, "{what}: sector {sector} has neither its flushed content nor a later one");
        }
        self.flushed.clone_from(&found);
        self.now = found;
        self.later.clear();
    }
}
