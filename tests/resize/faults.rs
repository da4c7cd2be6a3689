//! Every call to the host fails once, and the work is stopped wherever it says how far it is: the disk has its old size
//! or the new one with what belongs into it, and the same call made again ends it.

use std::ops::ControlFlow;
use std::sync::Arc;

use vmdk::{
    BlockDevice, CopyProgress, CreateOptions, CreateType, Directory, ErrorKind, OpenOptions, ResizeOptions, Result,
};

use super::stage::{Stage, go_on, reports};
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

/// Where a sync fails, what it should have made durable is there nevertheless, as after a kill: the call that comes
/// after finds it done, and has to make it so.
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

/// A split disk of one extent, of which three more are wanted; and the names of its files.
fn split(create_type: CreateType) -> (CrashDisk, Vec<String>) {
    let disk = CrashDisk::new([]);
    CreateOptions::new().create_type(create_type).capacity_sectors(1000).create_in("disk.vmdk", &disk).unwrap();
    let names = disk.names();
    (disk, names)
}

const FOUR_EXTENTS: u64 = 3 * 4_192_256 + 9;

fn grow(disk: &dyn Directory, progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>) -> Result<Vec<String>> {
    let options = ResizeOptions::new();
    let report = OpenOptions::new().resize_in("disk.vmdk", disk, FOUR_EXTENTS, options, progress)?;
    Ok(report.files_added)
}

fn sectors_of(disk: &CrashDisk) -> u64 {
    OpenOptions::new().open_with("disk.vmdk", disk).unwrap().capacity_sectors()
}

#[test]
fn a_split_disk_that_does_not_grow_gets_no_files() {
    for create_type in [CreateType::TwoGbMaxExtentSparse, CreateType::TwoGbMaxExtentFlat] {
        // A call for each new file, at least.
        let mut calls = 0;
        grow(&split(create_type.clone()).0, &mut |_| {
            calls += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(calls >= 3, "{calls}");
        for after in 0..calls {
            let (disk, names) = split(create_type.clone());
            let mut calls = 0;
            let done = grow(&disk, &mut |_| {
                calls += 1;
                if calls > after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled, "{create_type} {after}");
            assert_eq!((disk.names(), sectors_of(&disk)), (names, 1000), "{create_type} {after}");
            assert_eq!(grow(&disk, &mut go_on).unwrap().len(), 3, "{create_type} {after}");
        }
        let countdown = Arc::<Countdown>::default();
        grow(&FaultDirectory::new(split(create_type.clone()).0, &countdown), &mut go_on).unwrap();
        for nth in 0..countdown.seen().len() as u64 {
            let (disk, names) = split(create_type.clone());
            countdown.arm(nth, How::Refused, EIO);
            let done = grow(&FaultDirectory::new(disk.clone(), &countdown), &mut go_on);
            let struck = countdown.struck();
            countdown.disarm();
            let what = format!("{create_type}: {struck:?}: {done:?}");
            // Once the descriptor was to be replaced, nobody knows which of the two there will be.
            if done.is_err() && struck.is_some_and(|struck| struck.storage != "disk.vmdk") && sectors_of(&disk) == 1000
            {
                assert_eq!(disk.names(), names, "{what}");
            }
            let sectors = sectors_of(&disk);
            assert!(sectors == 1000 || sectors == FOUR_EXTENTS, "{what}");
            grow(&disk, &mut go_on).expect(&what);
            assert_eq!(sectors_of(&disk), FOUR_EXTENTS, "{what}");
        }
    }
}

/// What is taken back is what this call has made.
#[test]
fn a_file_that_somebody_else_has_put_in_the_place_of_a_new_one_stays() {
    let run = |fails: Option<u64>| {
        let (disk, _) = split(CreateType::TwoGbMaxExtentSparse);
        let countdown = Arc::<Countdown>::default();
        if let Some(nth) = fails {
            countdown.arm(nth, How::Refused, EIO);
        }
        let others = disk.clone();
        let put = move |operation, _: &str| {
            let is_named = others.names().contains(&"disk-s003.vmdk".to_owned());
            let is_put = others.names().contains(&"other".to_owned());
            if fails.is_some() && operation == Operation::SyncNames && is_named && !is_put {
                let other = Directory::create(&others, "other", "other").unwrap();
                other.write_all_at(b"something else", 0).unwrap();
                Directory::link(&others, "other", "disk-s003.other").unwrap();
                Directory::rename(&others, "disk-s003.other", "disk-s003.vmdk", true).unwrap();
            }
        };
        let done = grow(&FaultDirectory::new(disk.clone(), &countdown).before(put), &mut go_on);
        (disk, done, countdown.seen())
    };
    let (_, done, seen) = run(None);
    done.unwrap();
    // The first one is for what an earlier call may have left; by the second one the new files have their names.
    let mut syncs = (0..).zip(&seen).filter(|(_, operation)| **operation == Operation::SyncNames);
    let (sync, _) = syncs.nth(1).unwrap();
    let (disk, done, _) = run(Some(sync));
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(disk.live("disk-s003.vmdk"), b"something else");
    assert_eq!(disk.names(), ["disk-s001.vmdk", "disk-s003.vmdk", "disk.vmdk", "other"]);
    assert_eq!(sectors_of(&disk), 1000);
}
