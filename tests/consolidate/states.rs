//! Every state that a crash may leave.

use std::sync::Arc;

use super::judge::{Care, DONE};
use super::scene::{self, Scene};
use super::support::directory::FaultDirectory;
use super::support::storage::{Countdown, EIO, How, Operation as Call};

const CARE: Care = Care { exhaustive: 60, most: 24, again: 5 };

/// Carries scenes out, and looks at what a crash may leave of each at any point.
#[track_caller]
fn crash(scenes: &[Scene], least: usize) {
    let mut states = Vec::new();
    for scene in scenes {
        let disk = scene.disk();
        scene.run(&disk).unwrap_or_else(|error| panic!("{}: {error}", scene.what));
        disk.mark(DONE);
        assert_eq!(scene.is_ended(&disk), Ok(()), "{}", scene.what);
        let seen = scene.judge(&disk, CARE, |_| false);
        assert!(seen.first.is_none(), "{}: {}", scene.what, seen.first.unwrap_or_default());
        assert!(seen.done.iter().all(|&states| states > 0), "{}: {:?}", scene.what, seen.done);
        states.push(seen.states);
    }
    println!("{states:?}");
    assert!(states.iter().sum::<usize>() >= least, "only {states:?} states");
}

#[test]
fn a_disk_that_is_committed_reads_as_before_at_every_moment_and_no_sibling_reads_a_mixture() {
    for seed in [1, 2] {
        crash(&scene::commits(seed), 700);
    }
}

#[test]
fn a_disk_that_becomes_independent_reads_as_before_at_every_moment() {
    for seed in [1, 2] {
        crash(&scene::flattenings(seed), 100);
    }
}

#[test]
fn a_disk_that_gets_another_parent_reads_as_before_at_every_moment() {
    for seed in [1, 2] {
        crash(&scene::rebases(seed), 130);
    }
}

/// A call that fails leaves what it wrote in the page cache of the host, and so does one that is killed. The next one
/// finds it, and writes it no more; when it returns, that has to be durable as well.
#[test]
fn what_an_earlier_call_has_left_is_durable_when_the_next_one_has_returned() {
    let (mut runs, mut states) = (0, 0);
    for mut scene in scene::all(1) {
        scene.goes_on = true;
        let countdown = Arc::<Countdown>::default();
        scene.run(&FaultDirectory::new(scene.disk(), &countdown)).unwrap();
        let calls = countdown.seen().into_iter().enumerate();
        for (nth, _) in calls.filter(|(_, call)| *call == Call::Sync) {
            let (disk, countdown) = (scene.disk(), Arc::<Countdown>::default());
            countdown.arm(nth as u64, How::Refused, EIO);
            scene.run(&FaultDirectory::new(disk.clone(), &countdown)).expect_err("a sync has failed");
            let before = disk.positions().len();
            scene.run(&disk).unwrap_or_else(|error| panic!("{}, call {nth}: {error}", scene.what));
            disk.mark(DONE);
            let positions = disk.positions().split_off(before);
            // Some on the way, and the end.
            let step = positions.len().div_ceil(3).max(1);
            let positions = positions.iter().copied().rev().step_by(step);
            let seen = scene.judge_at(positions, &disk, Care { exhaustive: 8, most: 12, again: 10 }, |_| false);
            assert!(seen.first.is_none(), "{}, call {nth}: {}", scene.what, seen.first.unwrap_or_default());
            runs += 1;
            states += seen.states;
        }
    }
    println!("{runs} failures, {states} states");
    assert!(runs > 150 && states > runs, "only {runs} failures, {states} states");
}

/// A commit that crashes, is ended, and crashes on that way.
#[test]
fn the_end_of_a_commit_that_had_crashed_may_crash_as_well() {
    for mut scene in scene::commits(3) {
        scene.goes_on = true;
        let disk = scene.disk();
        scene.run(&disk).unwrap();
        let positions = disk.positions();
        for position in positions.iter().step_by(positions.len().div_ceil(6)) {
            let mut choice = super::support::crash::choice::Choice::new(9).exhaustive_up_to(1).random(1);
            let Some(state) = disk.states(*position, &mut choice).nth(1) else { continue };
            let again = state.restart();
            scene.run(&again).unwrap_or_else(|error| panic!("{}: {error}\n{state}", scene.what));
            again.mark(DONE);
            let care = Care { exhaustive: 4, most: 3, again: 4 };
            let seen = scene.judge(&again, care, |_| false);
            assert!(seen.first.is_none(), "{}: {}\nafter {state}", scene.what, seen.first.unwrap_or_default());
        }
    }
}
