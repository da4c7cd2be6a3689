//! Every call to the host fails once, and the work is stopped at every step: the disk reads as before, and the same
//! call goes on from there.

use std::ops::ControlFlow;
use std::sync::Arc;

use vmdk::ErrorKind;

use super::scene::{self, Scene};
use super::support::directory::FaultDirectory;
use super::support::rng::Rng;
use super::support::storage::{Countdown, EIO, ENOSPC, How, Operation as Call};

/// Lets every so many-th call fail, one a run. Says how many runs there were.
#[track_caller]
fn calls_fail(scene: &Scene, step: usize) -> usize {
    let countdown = Arc::<Countdown>::default();
    scene.run(&FaultDirectory::new(scene.disk(), &countdown)).unwrap();
    let mut runs = 0;
    for (nth, call) in countdown.seen().into_iter().enumerate().step_by(step) {
        let how = match call {
            Call::Write | Call::SetLen => &[(How::Refused, EIO), (How::Short, ENOSPC)][..],
            _ => &[(How::Refused, EIO)],
        };
        for &(how, errno) in how {
            one_call_fails(scene, nth as u64, how, errno);
            runs += 1;
        }
    }
    runs
}

#[track_caller]
fn one_call_fails(scene: &Scene, nth: u64, how: How, errno: i32) {
    let (disk, countdown) = (scene.disk(), Arc::<Countdown>::default());
    countdown.arm(nth, how, errno);
    let done = scene.run(&FaultDirectory::new(disk.clone(), &countdown));
    let struck = countdown.struck().expect("the same calls as in the first run");
    let what = format!("{}: call {nth}, {how:?}: {struck:?}", scene.what);
    let Err(error) = done else {
        // Space that cannot be given back stays taken, growth may be tried with less, and what was only looked at ahead
        // is read again.
        let is_harmless = matches!(struck.operation, Call::PunchHole | Call::SetLen | Call::Read);
        assert!(is_harmless, "{what}: nobody was told");
        assert_eq!(scene.is_ended(&disk), Ok(()), "{what}");
        return;
    };
    assert_eq!(error.kind(), ErrorKind::Io, "{what}: {error}");
    assert_eq!(scene.reads_as_before(&disk), Ok(()), "{what}");
    assert_eq!(scene.ends_it(&disk), Ok(()), "{what}");
}

#[test]
fn a_call_that_fails_costs_nothing_and_the_work_goes_on_later() {
    let mut runs = 0;
    for (seed, scenes) in [scene::commits, scene::flattenings, scene::rebases].into_iter().enumerate() {
        for scene in scenes(seed as u64) {
            runs += calls_fail(&scene, 2);
        }
    }
    println!("{runs} failures");
    assert!(runs > 400, "only {runs} failures");
}

#[test]
fn work_that_is_stopped_anywhere_leaves_a_good_disk_and_goes_on_later() {
    let rng = &mut Rng::new(1);
    let mut runs = 0;
    for scene in scene::all(11) {
        let mut calls = 0;
        let mut count = |_| {
            calls += 1;
            ControlFlow::Continue(())
        };
        scene.run_with(&scene.disk(), &mut count).unwrap();
        assert!(calls >= 2, "{}", scene.what);
        for _ in 0..6 {
            let (last, mut call, mut done) = (rng.below(calls), 0, 0);
            let disk = scene.disk();
            let stopped = scene.run_with(&disk, &mut |now| {
                assert!(now.done >= done && now.done <= now.total, "{}: {now:?} after {done}", scene.what);
                done = now.done;
                call += 1;
                if call > last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled, "{}", scene.what);
            assert_eq!(scene.reads_as_before(&disk), Ok(()), "{} after {last} of {calls}", scene.what);
            assert_eq!(scene.ends_it(&disk), Ok(()), "{} after {last} of {calls}", scene.what);
            runs += 1;
        }
    }
    assert!(runs > 90, "only {runs} runs");
}

#[test]
fn the_last_word_is_that_all_is_done() {
    for scene in scene::all(12) {
        let mut last = None;
        scene
            .run_with(&scene.disk(), &mut |now| {
                last = Some(now);
                ControlFlow::Continue(())
            })
            .unwrap();
        let last = last.unwrap();
        assert_eq!(last.done, last.total, "{}", scene.what);
    }
}
