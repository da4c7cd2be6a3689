//! Every call to the host fails once, in every way: what was flushed stays, what fails says so, and nothing else
//! changes.
//!
//! A failed data write or growth may be tried again. After a failed sync or metadata write nothing is written before
//! the next open, and what was flushed is there then.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use vmdk::{BlockDevice, ErrorKind, OpenOptions, Storage, VmdkImage};

use support::check::{Problem, check};
use support::cowd::CowdImage;
use support::disk::Image;
use support::ledger::{Ledger, Operation};
use support::quota::{Quota, QuotaStorage};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::storage::{self, Countdown, EIO, ENOSPC, FaultStorage, How, Struck};
use support::{SECTOR, index};

/// The files of a chain in memory, and one countdown over the calls to all of them.
struct Host {
    files: Vec<(String, Arc<QuotaStorage>)>,
    countdown: Arc<Countdown>,
    first: String,
}

impl Host {
    fn new(chain: &[Image]) -> Self {
        let files = chain.iter().flat_map(|link| &link.files);
        let quota = Quota::unlimited();
        let files = files.map(|(name, bytes)| (name.clone(), QuotaStorage::new(bytes, &quota))).collect();
        Self { files, countdown: Arc::default(), first: chain[chain.len() - 1].name.clone() }
    }

    fn open(&self, write: bool) -> vmdk::Result<VmdkImage> {
        let counted = |(name, storage): &(String, Arc<QuotaStorage>)| {
            let storage: Arc<dyn Storage> = FaultStorage::counted(Arc::clone(storage) as _, name, &self.countdown);
            (name.clone(), storage)
        };
        let files: HashMap<String, Arc<dyn Storage>> = self.files.iter().map(counted).collect();
        OpenOptions::new().write(write).open_with(&self.first, &files)
    }

    /// Does something to the disk; what the ledger reads to see what came of it does not count.
    #[track_caller]
    fn apply(&self, image: &VmdkImage, ledger: &mut Ledger, operation: Operation) -> vmdk::Result<()> {
        let done = operation.run(image);
        self.countdown.uncounted(|| ledger.note(image, operation, done))
    }

    fn contents(&self) -> Vec<(&str, Vec<u8>)> {
        self.files.iter().map(|(name, storage)| (&**name, storage.to_vec())).collect()
    }

    /// Whether a call was a write to a header or descriptor.
    fn concerns_head(&self, struck: &Struck) -> bool {
        let (_, file) = self.files.iter().find(|(name, _)| *name == struck.storage).unwrap();
        let file = file.head(SECTOR);
        let head = match file.get(..4) {
            // With a descriptor behind the header, or without.
            Some(b"KDMV") => {
                if file[0x1c] == 1 {
                    21 * SECTOR as u64
                } else {
                    SECTOR as u64
                }
            }
            Some(b"COWD") => 4 * SECTOR as u64,
            // A text; the content of flat files is random.
            _ if file.starts_with(b"# Disk") => u64::MAX,
            _ => 0,
        };
        struck.bytes.start < head
    }

    /// Whether a call went to where the guest's data is.
    fn concerns_data(&self, struck: &Struck, first_grain: u64) -> bool {
        let (_, file) = self.files.iter().find(|(name, _)| *name == struck.storage).unwrap();
        let is_sparse = matches!(file.head(4).get(..4), Some(b"KDMV" | b"COWD"));
        !self.concerns_head(struck) && (!is_sparse || struck.bytes.start >= first_grain)
    }
}

/// What is done to every disk: new grains, old ones, parts of them, zeros and flushes.
fn workload(capacity: u64) -> Vec<Operation> {
    use Operation::{Discard, Flush, Write, Zero};
    let middle = capacity / 2;
    vec![
        Write { start: 5, count: 3, seed: 1 },
        Write { start: 40, count: 100, seed: 2 },
        Zero { start: 44, count: 40, unmap: true },
        Flush,
        Write { start: capacity - 13, count: 13, seed: 3 },
        Discard { start: 100, count: 30 },
        Write { start: middle - 3, count: 64, seed: 4 },
        Flush,
        Zero { start: middle + 8, count: 16, unmap: false },
        Zero { start: middle - 100, count: 90, unmap: true },
        Write { start: 6, count: 1, seed: 5 },
        Flush,
        Discard { start: 0, count: 40 },
        Write { start: 0, count: 200, seed: 6 },
        Write { start: middle + 200, count: 9, seed: 7 },
    ]
}

/// How a call fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    nth: u64,
    how: How,
    errno: i32,
}

/// Lets every call of the workload fail, one a run.
fn every_call_fails(chain: &[Image]) {
    let link = &chain[chain.len() - 1];
    let first_grain = match link.files.iter().find(|(_, bytes)| bytes.starts_with(b"KDMV")) {
        Some((_, bytes)) => u64::from_le_bytes(bytes[0x40..0x48].try_into().unwrap()) * SECTOR as u64,
        None => 0,
    };
    let host = Host::new(chain);
    let image = host.open(true).unwrap();
    host.countdown.disarm();
    let mut ledger = Ledger::new(link.content.clone());
    for operation in workload(ledger.capacity()) {
        host.apply(&image, &mut ledger, operation).unwrap();
    }
    image.close().unwrap();
    let calls = host.countdown.seen();
    assert!(calls.len() > 15, "{calls:?}");
    for (nth, call) in (0..).zip(calls) {
        let faults: &[_] = match call {
            storage::Operation::Sync => &[(How::Refused, EIO)],
            storage::Operation::Read => &[(How::Refused, EIO), (How::Short, EIO)],
            _ => &[(How::Refused, EIO), (How::Refused, ENOSPC), (How::Short, ENOSPC)],
        };
        for &(how, errno) in faults {
            one_call_fails(chain, first_grain, Fault { nth, how, errno });
        }
    }
}

fn one_call_fails(chain: &[Image], first_grain: u64, fault: Fault) {
    let host = Host::new(chain);
    let image = host.open(true).unwrap();
    let mut ledger = Ledger::new(chain[chain.len() - 1].content.clone());
    host.countdown.arm(fault.nth, fault.how, fault.errno);
    let mut changed = false;
    for operation in workload(ledger.capacity()) {
        let before = host.countdown.struck();
        let done = host.apply(&image, &mut ledger, operation);
        let struck = host.countdown.struck().filter(|_| before.is_none());
        let what = format!("{fault:?}: {operation:?}: {struck:?}");
        match (done, struck) {
            (Ok(()), None) => changed = true,
            (Ok(()), Some(struck)) => {
                changed = true;
                assert_optional(&struck, &what);
                host.countdown.uncounted(|| ledger.compare(&image, &what));
            }
            (Err(error), None) => panic!("{what}: {error}"),
            (Err(error), Some(struck)) => {
                assert_is_the_hosts(error, fault, &what);
                ledger.compare(&image, &what);
                let again = ledger.apply(&image, operation);
                let poisoned = again.as_ref().is_err_and(|error| error.kind() == ErrorKind::Poisoned);
                assert!(poisoned || again.is_ok(), "{what}: again: {again:?}");
                let is_flush = matches!(operation, Operation::Flush);
                assert_health(&host, &struck, is_flush, first_grain, poisoned, &what);
                if poisoned {
                    is_poisoned(&host, &image, &mut ledger, changed, &what);
                    drop(image);
                    return opens_again(&host, ledger, &what);
                }
                ledger.compare(&image, &what);
            }
        }
    }
    let closed = image.close();
    let what = format!("{fault:?}: close: {:?}", host.countdown.struck());
    assert_eq!(image.close().map_err(|error| error.kind()), Ok(()), "{what}: once more");
    assert_eq!(image.flush().unwrap_err().kind(), ErrorKind::Closed, "{what}");
    drop(image);
    if closed.is_ok() {
        is_clean(&host, &what);
        ledger.compare(&host.open(false).unwrap(), &what);
    }
    opens_again(&host, ledger, &what);
}

/// A call that may fail without harm: a hole, a growth that is tried again with less, a look ahead.
#[track_caller]
fn assert_optional(struck: &Struck, what: &str) {
    use storage::Operation::{PunchHole, Read, SetLen};
    assert!(matches!(struck.operation, PunchHole | Read | SetLen), "{what}: a failure that nobody was told of");
}

#[track_caller]
fn assert_is_the_hosts(error: vmdk::Error, fault: Fault, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Io, "{what}: {error}");
    assert!(error.file().is_some(), "{what}: {error}");
    let is_full = io::Error::from(error).kind() == io::ErrorKind::StorageFull;
    assert_eq!(is_full, fault.errno == ENOSPC, "{what}");
}

/// What poisons and what does not.
#[track_caller]
fn assert_health(host: &Host, struck: &Struck, is_flush: bool, first_grain: u64, poisoned: bool, what: &str) {
    let must = match struck.operation {
        storage::Operation::Sync => Some(true),
        storage::Operation::Write if is_flush || host.concerns_head(struck) => Some(true),
        storage::Operation::Write if host.concerns_data(struck, first_grain) => Some(false),
        storage::Operation::SetLen | storage::Operation::PunchHole => Some(false),
        _ => None,
    };
    assert!(must.is_none_or(|must| must == poisoned), "{what}: poisoned: {poisoned}");
}

/// Nothing is written any more, and everything is read.
#[track_caller]
fn is_poisoned(host: &Host, image: &VmdkImage, ledger: &mut Ledger, changed: bool, what: &str) {
    let calls = host.countdown.seen().len();
    let capacity = ledger.capacity();
    for operation in workload(capacity).into_iter().step_by(3) {
        let error = host.apply(image, ledger, operation).expect_err("it is poisoned");
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{what}: then {operation:?}");
    }
    assert_eq!(image.prepare_write(0, 1).unwrap_err().kind(), ErrorKind::Poisoned, "{what}");
    ledger.compare(image, what);
    assert_eq!(image.close().unwrap_err().kind(), ErrorKind::Poisoned, "{what}");
    let later = &host.countdown.seen()[calls..];
    assert!(later.iter().all(|call| *call == storage::Operation::Read), "{what}: then {later:?}");
    let heads: Vec<_> = host.files.iter().map(|(_, file)| file.head(SECTOR)).collect();
    let sparse: Vec<_> = heads.iter().filter(|head| head.starts_with(b"KDMV")).collect();
    if changed && !sparse.is_empty() {
        assert!(sparse.iter().any(|head| head[0x48] == 1), "{what}: it claims to be clean");
    }
}

/// The tables are whole, and say that they are.
#[track_caller]
fn is_clean(host: &Host, what: &str) {
    for (name, bytes) in host.contents() {
        if bytes.starts_with(b"KDMV") || bytes.starts_with(b"COWD") {
            let report = check(&bytes);
            report.expect_sound(format!("{what}: {name}"));
            assert!(!report.unclean, "{what}: {name} was not closed");
        }
    }
}

/// Opened again it has what was flushed, and can be written to and closed.
#[track_caller]
fn opens_again(host: &Host, mut ledger: Ledger, what: &str) {
    host.countdown.disarm();
    for (name, bytes) in host.contents() {
        if bytes.starts_with(b"KDMV") || bytes.starts_with(b"COWD") {
            let problems = check(&bytes).problems;
            assert!(problems.iter().all(Problem::is_difference), "{what}: {name}: {problems:?}");
        }
    }
    ledger.reopened(&host.open(false).unwrap(), what);
    let image = host.open(true).unwrap();
    ledger.compare(&image, what);
    let capacity = ledger.capacity();
    // In every extent, or one may stay as it was left.
    for (start, seed) in [(0, 71), (capacity / 2 - 9, 72), (capacity - 20, 73)] {
        ledger.apply(&image, Operation::Write { start, count: 20, seed }).unwrap();
    }
    ledger.compare(&image, what);
    image.close().unwrap();
    drop(image);
    ledger.compare(&host.open(false).unwrap(), what);
    is_clean(host, what);
}

/// Grains of 8 sectors, so that there are many of them in little space.
fn small(capacity: u64) -> SparseImage {
    SparseImage::new(capacity).grain_sectors(8)
}

/// The same with data in stretches of 5 grains, between stretches without.
fn striped(capacity: u64, seed: u64) -> SparseImage {
    let rng = &mut Rng::new(seed);
    let whole = (0..capacity / 8).filter(|grain| grain / 5 % 2 == 0);
    whole.fold(small(capacity), |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)))
}

#[test]
fn a_sparse_disk_survives_every_failure() {
    every_call_fails(&[Image::monolithic_sparse("disk.vmdk", striped(8 * 90 + 3, 1))]);
}

#[test]
fn a_sparse_disk_with_zero_grains_survives_every_failure() {
    let extent = striped(8 * 90, 2).with_zero_grains().zero(5).zero(7).zero(25);
    every_call_fails(&[Image::monolithic_sparse("disk.vmdk", extent)]);
}

#[test]
fn a_sparse_disk_without_tables_survives_every_failure() {
    let extent = small(8 * 512 * 2 + 99).omit_empty_tables().data(700, vec![7; 8 * SECTOR]);
    every_call_fails(&[Image::monolithic_sparse("disk.vmdk", extent)]);
}

#[test]
fn a_sparse_disk_without_redundant_tables_survives_every_failure() {
    let extent = small(8 * 90).without_redundant_tables().omit_empty_tables();
    every_call_fails(&[Image::monolithic_sparse("disk.vmdk", extent)]);
}

#[test]
fn a_child_survives_every_failure() {
    let rng = &mut Rng::new(3);
    let base = Image::monolithic_flat("base.vmdk", rng.bytes(700 * SECTOR));
    let child = Image::child(&base, "disk.vmdk", striped(8 * 90 + 3, 3));
    every_call_fails(&[base, child]);
}

#[test]
fn a_child_with_zero_grains_survives_every_failure() {
    let rng = &mut Rng::new(4);
    let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(800).grain_sectors(16).random(rng));
    let extent = small(800).with_zero_grains().omit_empty_tables();
    let child = Image::child(&base, "disk.vmdk", extent);
    every_call_fails(&[base, child]);
}

#[test]
fn a_delta_of_esx_survives_every_failure() {
    let rng = &mut Rng::new(5);
    let base = Image::vmfs("base.vmdk", rng.bytes(700 * SECTOR));
    let sectors = (0..700).filter(|sector| sector / 40 % 2 == 0);
    let extent = sectors.fold(CowdImage::esx(700), |extent, sector| extent.data(sector, rng.bytes(SECTOR)));
    let delta = Image::esx_delta(&base, "base-000001.vmdk", &extent);
    every_call_fails(&[base, delta]);
}

#[test]
fn a_split_disk_survives_every_failure() {
    let extents = [8 * 20, 8 * 30 + 5, 8 * 40].map(|capacity| striped(capacity, capacity));
    every_call_fails(&[Image::split_sparse("disk.vmdk", &extents)]);
}

#[test]
fn a_flat_disk_survives_every_failure() {
    every_call_fails(&[Image::monolithic_flat("disk.vmdk", Rng::new(7).bytes(700 * SECTOR))]);
}

#[test]
fn a_split_flat_disk_survives_every_failure() {
    let rng = &mut Rng::new(8);
    let contents = [45, 1, 600].map(|sectors| rng.bytes(index(sectors) * SECTOR));
    every_call_fails(&[Image::split_flat("disk.vmdk", contents.to_vec())]);
}

/// After a crash the first write puts the tables right; that may fail, too.
#[test]
fn a_disk_that_was_not_closed_survives_every_failure() {
    let extent = striped(8 * 520, 9).unclean(1);
    let layout = extent.layout();
    // A copy that says something else, and an entry past the end.
    let extent = extent.patch_u32(layout.redundant_entry(3), 0).patch_u32(layout.entry(516), 1 << 20);
    every_call_fails(&[Image::monolithic_sparse("disk.vmdk", extent)]);
}

#[test]
fn an_open_that_fails_has_changed_nothing() {
    let rng = &mut Rng::new(10);
    let base = Image::monolithic_flat("base.vmdk", rng.bytes(99 * SECTOR));
    let child = Image::child(&base, "disk.vmdk", small(99).random(rng));
    let host = Host::new(&[base, child]);
    host.countdown.disarm();
    let before = host.contents();
    drop(host.open(true).unwrap());
    for nth in 0..host.countdown.seen().len() as u64 {
        host.countdown.arm(nth, How::Short, EIO);
        if let Err(error) = host.open(true) {
            assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::ParentMissing), "call {nth}: {error}");
        }
        assert!(host.contents() == before, "call {nth}");
    }
}
