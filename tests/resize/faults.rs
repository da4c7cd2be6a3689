//! Every call to the host fails once, and the work is stopped wherever it says how far it is: the disk has its old size
//! or the new one with what belongs into it, and the same call made again ends it.

use std::ops::ControlFlow;
use std::sync::Arc;

use vmdk::{CopyProgress, ErrorKind, OpenOptions, ResizeOptions};

use super::stage::{Stage, reports};
use super::support::SECTOR;
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::directory::FaultDirectory;
use super::support::disk::{Image, Kind};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;
use super::support::storage::{Countdown, EIO, ENOSPC, How, Operation};

#[track_caller]
fn is_right(stage: &Stage, disk: &CrashDisk, sectors: u64, what: &str) {
    let found = stage.read(disk).expect(what);
    let size = (found.len() / SECTOR) as u64;
    assert!(size == sectors || size == stage.sectors(), "{what}: {size}");
    assert!(found == stage.expected(size), "{what}");
}

/// Also after a crash, and it can be resized.
#[track_caller]
fn goes_on(stage: &Stage, disk: &CrashDisk, sectors: u64, crashes: bool, what: &str) {
    is_right(stage, disk, sectors, what);
    if crashes {
        let mut choice = Choice::new(3).exhaustive_up_to(8).random(4);
        for state in disk.states(disk.log_len(), &mut choice) {
            is_right(stage, &state.restart(), sectors, &format!("{what}: {state}"));
        }
    }
    stage.resize(disk, sectors).expect(what);
    assert!(stage.read(disk).expect(what) == stage.expected(sectors), "{what}: resized");
    let is_clean = |report: &super::support::check::Report| !report.unclean && report.problems.is_empty();
    assert!(reports(disk).iter().all(|(_, report)| is_clean(report)), "{what}: {:?}", reports(disk));
}

fn stages() -> Vec<(Stage, u64)> {
    let rng = &mut Rng::new(6);
    let mut smaller = Stage::of(Kind::TwoGbMaxExtentFlat, 1);
    smaller.zero_end(200);
    let fewer = smaller.sectors() - 200;
    let mut lean = Stage::small(5);
    lean.zero_end(40);
    let flat = Stage::new(vec![Image::monolithic_flat("disk.vmdk", rng.bytes(40 * SECTOR))]);
    vec![
        (Stage::small(1), 105),
        (Stage::small(2), 4000),
        (Stage::child(true, 2000, 3), 1300),
        (Stage::child(false, 130, 3), 140),
        (Stage::of(Kind::EsxDelta, 3), 4096 * 3),
        (flat, 50),
        (smaller, fewer),
        (lean, 60),
    ]
}

#[test]
fn whatever_call_fails_the_disk_is_whole_and_it_goes_on() {
    for (stage, sectors) in stages() {
        let countdown = Arc::<Countdown>::default();
        stage.resize(&FaultDirectory::new(stage.disk(), &countdown), sectors).unwrap();
        let calls = countdown.seen().len() as u64;
        let mut failed = 0;
        for nth in (0..calls).step_by(1 + usize::try_from(calls / 40).unwrap()) {
            for (how, errno) in [(How::Refused, EIO), (How::Short, ENOSPC)] {
                let (disk, countdown) = (stage.disk(), Arc::<Countdown>::default());
                countdown.arm(nth, how, errno);
                let done = stage.resize(&FaultDirectory::new(disk.clone(), &countdown), sectors);
                let struck = countdown.struck().expect("the same calls as in the first run");
                let what = format!("{sectors}: {struck:?} {how:?}: {done:?}");
                if let Err(error) = done {
                    assert_eq!(error.kind(), ErrorKind::Io, "{what}");
                    failed += 1;
                }
                goes_on(&stage, &disk, sectors, how == How::Refused, &what);
            }
        }
        assert!(failed > 12, "{sectors}: only {failed} failures");
    }
}

#[test]
fn wherever_it_is_stopped_the_disk_is_whole_and_it_goes_on() {
    for (stage, sectors) in stages() {
        let stopped = |after: usize, disk: &CrashDisk| {
            let mut calls = 0;
            let mut count = |now: CopyProgress| {
                assert!(now.done <= now.total);
                calls += 1;
                if calls > after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let options = ResizeOptions::new().allow_shrink(true);
            let done = OpenOptions::new().resize_in(&stage.name, disk, sectors, options, &mut count);
            (done, calls)
        };
        let (done, calls) = stopped(usize::MAX, &stage.disk());
        done.unwrap();
        for after in (0..calls).step_by(1 + calls / 12) {
            let disk = stage.disk();
            let (done, _) = stopped(after, &disk);
            assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled, "{sectors} {after}");
            assert!(reports(&disk).iter().all(|(_, report)| !report.unclean), "{sectors} {after}");
            goes_on(&stage, &disk, sectors, true, &format!("{sectors} {after}"));
        }
    }
}

/// What a larger parent has there is hidden in pieces, between which it can be stopped.
#[test]
fn hiding_what_a_larger_parent_has_can_be_stopped_in_between() {
    let sectors = 3 * (16 << 20) / 512;
    let base = Image::monolithic_flat("base.vmdk", vec![7; sectors * SECTOR]);
    let child = SparseImage::new(99).grain_sectors(128).entries_per_table(512);
    let stage = Stage::new(vec![base.clone(), Image::child(&base, "disk.vmdk", child)]);
    let disk = stage.disk();
    let mut calls = Vec::new();
    let mut stop = |now: CopyProgress| {
        calls.push(now);
        if now.total > 1 && now.done > now.total / 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let sectors = sectors as u64;
    let done = OpenOptions::new().resize_in(&stage.name, &disk, sectors, ResizeOptions::new(), &mut stop);
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(calls.last().is_some_and(|last| last.done < last.total), "{calls:?}");
    goes_on(&stage, &disk, sectors, false, "stopped over the parent");
}

/// Tables of 1.2 MiB and their copies are written behind everything, and then in front.
#[test]
fn writing_large_tables_can_be_stopped_in_between() {
    let extent = SparseImage::new(300_000).grain_sectors(1).entries_per_table(128);
    let rng = &mut Rng::new(4);
    let extent = [5, 0, 299_999].into_iter().fold(extent, |extent, grain| extent.data(grain, rng.bytes(SECTOR)));
    let stage = Stage::new(vec![Image::monolithic_sparse("disk.vmdk", extent)]);
    let sectors = 310_000;
    let stopped = |after: usize, disk: &CrashDisk| {
        let mut calls = Vec::new();
        let mut stop = |now: CopyProgress| {
            calls.push(now);
            if calls.len() > after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let done = OpenOptions::new().resize_in(&stage.name, disk, sectors, ResizeOptions::new(), &mut stop);
        (done, calls)
    };
    let (done, calls) = stopped(usize::MAX, &stage.disk());
    done.unwrap();
    let moved = calls.iter().filter(|call| call.total > 1).count();
    assert!(calls.len() >= moved + 6, "two directories, twice, and the end: {calls:?}");
    for after in moved..calls.len() {
        let disk = stage.disk();
        let (done, _) = stopped(after, &disk);
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled, "{after}");
        goes_on(&stage, &disk, sectors, false, &format!("stopped after {after}"));
    }
}

/// Where a sync fails, what it should have made durable is there nevertheless, as after a kill: the call that comes after
/// finds it done, and has to make it so.
#[test]
fn what_an_earlier_call_has_left_becomes_durable() {
    let smaller = [Kind::TwoGbMaxExtentSparse, Kind::EsxDelta].map(|kind| {
        let mut stage = Stage::of(kind, 1);
        stage.zero_end(300);
        let sectors = stage.sectors() - 300;
        (stage, sectors)
    });
    for (stage, sectors) in stages().into_iter().chain(smaller) {
        let countdown = Arc::<Countdown>::default();
        stage.resize(&FaultDirectory::new(stage.disk(), &countdown), sectors).unwrap();
        let is_sync = |call: &Operation| matches!(call, Operation::Sync | Operation::SyncNames);
        let calls = countdown.seen();
        for nth in (0..calls.len()).filter(|&nth| is_sync(&calls[nth])) {
            let (disk, countdown) = (stage.disk(), Arc::<Countdown>::default());
            countdown.arm(nth as u64, How::Refused, EIO);
            let _ = stage.resize(&FaultDirectory::new(disk.clone(), &countdown), sectors);
            stage.resize(&disk, sectors).unwrap();
            let mut choice = Choice::new(3).exhaustive_up_to(8).random(4);
            for state in disk.states(disk.log_len(), &mut choice) {
                let found = stage.read(&state.restart()).unwrap_or_else(|error| panic!("{nth}: {error}\n{state}"));
                assert!(found == stage.expected(sectors), "{sectors}, sync {nth}: {} bytes\n{state}", found.len());
            }
        }
    }
}
