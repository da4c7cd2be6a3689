//! Calls to the host that fail, and work that is stopped: nothing that could be read is lost, and another repair ends
//! it.

use std::ops::ControlFlow;
use std::sync::Arc;

use vmdk::{CheckOptions, ErrorKind, OpenOptions, Severity};

use super::rows::rows;
use super::subject::{content, disk, everything, lost, name_of, repair, state};
use super::support::crash::CrashDisk;
use super::support::directory::FaultDirectory;
use super::support::storage::{Countdown, EIO, How};

/// What every row has after its repair is what a repair that failed before comes to.
#[track_caller]
fn ends_well(what: &str, disk: &CrashDisk, name: &str, left: &[vmdk::FindingKind]) {
    let report = repair(disk, name, &everything()).unwrap();
    let bad = report.after.findings.iter().filter(|finding| finding.severity != Severity::Note);
    assert_eq!(bad.map(|finding| finding.kind).collect::<Vec<_>>(), left, "{what}");
}

#[test]
fn every_call_may_fail_once() {
    let mut runs = 0;
    for row in rows() {
        let name = name_of(&row.files);
        let countdown: Arc<Countdown> = Arc::default();
        let run = |disk: &CrashDisk| {
            let directory = FaultDirectory::new(disk.clone(), &countdown);
            let options = everything();
            OpenOptions::new().repair_in(name, &directory, &options, &mut |_| ControlFlow::Continue(()))
        };
        run(&disk(&row.files)).unwrap();
        let calls = countdown.seen().len() as u64;
        // The calls of the first check are like those of the last.
        for nth in (0..calls).step_by(if calls > 60 { 3 } else { 1 }) {
            let disk = disk(&row.files);
            let before = content(&disk, name);
            countdown.arm(nth, How::Refused, EIO);
            let done = run(&disk);
            countdown.disarm();
            assert_eq!(lost(&before, &content(&disk, name)), None, "{}: call {nth}", row.what);
            if let Err(error) = done {
                assert_eq!(error.kind(), ErrorKind::Io, "{}: {error}", row.what);
            }
            ends_well(row.what, &disk, name, &row.left);
            runs += 1;
        }
    }
    assert!(runs > 500, "{runs} runs");
}

#[test]
fn work_that_is_stopped_leaves_a_valid_image() {
    for row in rows() {
        let name = name_of(&row.files);
        for stop_at in 0..3 {
            let disk = disk(&row.files);
            let before = content(&disk, name);
            let mut calls = 0;
            let mut progress = |_| {
                calls += 1;
                if calls > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let done = OpenOptions::new().repair_in(name, &disk, &everything(), &mut progress);
            match done {
                Ok(_) => assert!(stop_at > 0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", row.what),
            }
            assert_eq!(lost(&before, &content(&disk, name)), None, "{}", row.what);
            ends_well(row.what, &disk, name, &row.left);
        }
        let disk = disk(&row.files);
        let start = state(&disk);
        let done = OpenOptions::new().check_in(name, &disk, &CheckOptions::new(), &mut |_| ControlFlow::Break(()));
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(state(&disk) == start);
    }
}
