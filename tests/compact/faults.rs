//! Every call to the host fails once, and the work is stopped wherever it says how far it is: the disk holds what it
//! held, and can be compacted then.

use std::ops::ControlFlow;
use std::sync::Arc;

use vmdk::{CompactMode, ErrorKind, OpenOptions};

use super::stage::{MODES, Stage};
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::directory::FaultDirectory;
use super::support::disk::Kind;
use super::support::storage::{Countdown, EIO, ENOSPC, How};

/// The disk holds what it held, also after a crash, and can be compacted.
#[track_caller]
fn holds(stage: &Stage, disk: &CrashDisk, crashes: bool, what: &str) {
    assert!(stage.read(disk).expect(what) == stage.content, "{what}");
    if crashes {
        let mut choice = Choice::new(3).exhaustive_up_to(8).random(4);
        for state in disk.states(disk.log_len(), &mut choice) {
            assert!(stage.read(&state.restart()).expect(what) == stage.content, "{what}: {state}");
        }
    }
    stage.compact(disk, CompactMode::Move).expect(what);
    assert!(stage.read(disk).expect(what) == stage.content, "{what}: compacted");
    assert!(stage.reports(disk).iter().all(|report| !report.unclean), "{what}");
}

#[test]
fn whatever_call_fails_the_disk_holds_what_it_held() {
    let stages = [Stage::small(false, false, 1), Stage::small(true, false, 2), Stage::small(true, true, 2)];
    for (stage, mode) in stages.iter().flat_map(|stage| MODES.map(|mode| (stage, mode))) {
        let countdown = Arc::<Countdown>::default();
        stage.compact(&FaultDirectory::new(stage.disk(), &countdown), mode).unwrap();
        let mut failed = 0;
        for nth in 0..countdown.seen().len() as u64 {
            for (how, errno) in [(How::Refused, EIO), (How::Short, ENOSPC)] {
                let (disk, countdown) = (stage.disk(), Arc::<Countdown>::default());
                countdown.arm(nth, how, errno);
                let done = stage.compact(&FaultDirectory::new(disk.clone(), &countdown), mode);
                let struck = countdown.struck().expect("the same calls as in the first run");
                let what = format!("{mode:?}: {struck:?} {how:?}: {done:?}");
                if let Err(error) = done {
                    assert_eq!(error.kind(), ErrorKind::Io, "{what}");
                    failed += 1;
                }
                holds(stage, &disk, how == How::Refused, &what);
            }
        }
        assert!(failed > 40, "only {failed} failures");
    }
}

#[test]
fn wherever_it_is_stopped_the_disk_holds_what_it_held() {
    for kind in [Kind::SmallGrains, Kind::TwoGbMaxExtentSparse, Kind::Child, Kind::EsxDelta, Kind::MonolithicFlat] {
        let stage = Stage::of(kind, 3);
        let stopped = |after: usize, disk: &CrashDisk| {
            let mut calls = 0;
            let mut count = |now: vmdk::CopyProgress| {
                assert!(now.done <= now.total);
                calls += 1;
                if calls > after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let done = OpenOptions::new().compact_in(&stage.name, disk, CompactMode::Move, &mut count);
            (done, calls)
        };
        let (done, calls) = stopped(usize::MAX, &stage.disk());
        done.unwrap();
        for after in (0..calls).step_by(1 + calls / 12) {
            let disk = stage.disk();
            let (done, _) = stopped(after, &disk);
            assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled, "{kind:?} {after}");
            assert!(stage.reports(&disk).iter().all(|report| !report.unclean), "{kind:?} {after}");
            holds(&stage, &disk, after % 3 == 0, &format!("{kind:?} {after}"));
        }
    }
}
