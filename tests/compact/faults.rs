//! Every call to the host fails once, and the work is stopped wherever it says how far it is: the disk holds what it
//! held, and can be compacted then.

use std::ops::ControlFlow;
use std::sync::Arc;

use vmdk::{BlockDevice, CheckOptions, CompactMode, CompactReport, CopyProgress, ErrorKind, OpenOptions, Result};

use super::stage::{MODES, Stage, go_on};
use super::support::SECTOR;
use super::support::crash::choice::Choice;
use super::support::crash::{CrashDisk, Operation};
use super::support::directory::FaultDirectory;
use super::support::disk::{Image, Kind};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;
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
        let (done, told) = stopped_after(&stage, &stage.disk(), CompactMode::Move, usize::MAX);
        done.unwrap();
        let calls = told.len();
        for after in (0..calls).step_by(1 + calls / 12) {
            let disk = stage.disk();
            let (done, _) = stopped_after(&stage, &disk, CompactMode::Move, after);
            assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled, "{kind:?} {after}");
            assert!(stage.reports(&disk).iter().all(|report| !report.unclean), "{kind:?} {after}");
            holds(&stage, &disk, after % 3 == 0, &format!("{kind:?} {after}"));
        }
    }
}

/// Compacts a disk until it has been told so often how far it is; and what it was told.
fn stopped_after(
    stage: &Stage,
    disk: &CrashDisk,
    mode: CompactMode,
    after: usize,
) -> (Result<CompactReport>, Vec<CopyProgress>) {
    let mut told: Vec<CopyProgress> = Vec::new();
    let mut count = |now: CopyProgress| {
        assert!(now.done <= now.total, "{now:?}");
        told.push(now);
        if told.len() > after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let done = OpenOptions::new().compact_in(&stage.name, disk, mode, &mut count);
    (done, told)
}

/// A file with a gap behind each grain, where something is left that nothing names.
#[test]
fn however_many_gaps_a_file_has_it_can_be_stopped_between_them() {
    let grains = 200;
    let rng = &mut Rng::new(8);
    let extent = SparseImage::new(grains * 8).grain_sectors(8).entries_per_table(512).grain_gap(8);
    let extent = (0..grains).fold(extent, |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)));
    let stage = Stage::new(Image::monolithic_sparse("disk.vmdk", extent));
    let punches = |disk: &CrashDisk| {
        disk.changes().iter().filter(|(_, _, change)| matches!(change, Operation::PunchHole(_))).count()
    };
    for mode in MODES {
        let disk = stage.disk();
        let (done, told) = stopped_after(&stage, &disk, mode, usize::MAX);
        done.unwrap();
        let whole = punches(&disk);
        let grows = |pair: &[CopyProgress]| pair[0].done <= pair[1].done && pair[0].total <= pair[1].total;
        assert!(told.windows(2).all(grows), "{mode:?}: {told:?}");
        let mut before = 0;
        // All that are told once the grains were looked at, and some before.
        for after in (0..told.len()).filter(|&after| told[after].total > told[0].total || after.is_multiple_of(50)) {
            let disk = stage.disk();
            let (done, _) = stopped_after(&stage, &disk, mode, after);
            assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled, "{mode:?} {after}");
            let now = punches(&disk);
            assert!(now - before <= 64, "{mode:?} {after}: nothing was said for {before}..{now} gaps");
            before = now;
            assert!(stage.read(&disk).unwrap() == stage.content, "{mode:?} {after}");
            let check = OpenOptions::new().check_in(&stage.name, &disk, &CheckOptions::new(), &mut go_on).unwrap();
            assert!(check.is_clean(), "{mode:?} {after}: {check:?}");
            holds(&stage, &disk, false, &format!("{mode:?} {after}"));
            assert_eq!(check_leaks(&stage, &disk), 0, "{mode:?} {after}");
        }
        assert_eq!(before, whole, "{mode:?}");
    }
}

/// Bytes of the host that nothing names.
fn check_leaks(stage: &Stage, disk: &CrashDisk) -> u64 {
    let options = CheckOptions::new();
    OpenOptions::new().check_in(&stage.name, disk, &options, &mut go_on).unwrap().leaked_bytes
}

#[test]
fn a_large_gap_is_given_back_in_pieces() {
    const MIB: u64 = 1 << 20;
    let rng = &mut Rng::new(9);
    let gap = 40 * MIB / SECTOR as u64;
    let extent = SparseImage::new(256).grain_gap(gap).data(0, rng.bytes(65_536)).data(1, rng.bytes(65_536));
    let image = Image::monolithic_sparse("disk.vmdk", extent);
    let dir = tempfile::tempdir().unwrap();
    let path = image.write_to(dir.path());
    let mut told = Vec::new();
    let mut progress = |now: CopyProgress| {
        told.push(now.done);
        // Stopped in the middle of the gap.
        if now.done > 20 * MIB && now.done < now.total { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let done = OpenOptions::new().compact(&path, CompactMode::Punch, &mut progress);
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(told.windows(2).all(|pair| pair[1] - pair[0] <= 17 * MIB), "{told:?}");
    let report = OpenOptions::new().compact(&path, CompactMode::Punch, &mut go_on).unwrap();
    let (before, after) = (report.allocated_before, report.allocated_after);
    assert!(before < 10 * MIB && before > 7 * MIB && after < MIB, "{report:?}");
    let mut content = vec![0; image.content.len()];
    OpenOptions::new().open(&path).unwrap().read_sectors(0, &mut content).unwrap();
    assert!(content == image.content);
}
