//! Without any one of its syncs, and with its phases swapped, a write breaks the promise, and the judge notices.
//!
//! The syncs are counted within the step that makes them. Each workload is judged with all of its syncs first.

use std::collections::BTreeSet;
use std::fmt;

use super::judge::{Broken, Care, Judge};
use super::subject::Subject;
use super::support::crash::CrashDisk;
use super::workload::{Ending, History, Step, Workload};

/// Enough to notice what is broken in small workloads.
const CARE: Care = Care { exhaustive: 100, sample: 40, again: 0 };

/// What the first write of an open does.
const FIRST_WRITE: usize = 0;

/// A workload that has run.
struct Run {
    subject: Subject,
    disk: CrashDisk,
    history: History,
}

impl Run {
    /// Runs it, and sees to it that the promise is kept with all syncs.
    #[track_caller]
    fn new(subject: Subject, steps: impl Into<Vec<Step>>) -> Self {
        let disk = subject.disk();
        let history = History::run(&subject, &disk, subject.content.clone(), &Workload::new(steps)).unwrap();
        let run = Self { subject, disk, history };
        run.judge(&run.disk).expect_nothing("with all syncs");
        run
    }

    fn judge(&self, disk: &CrashDisk) -> Judge<'_> {
        let mut judge = Judge::new(&self.subject, CARE);
        judge.look_at(disk, &self.history);
        judge
    }

    /// The numbers of the syncs that a step has made; there have to be so many.
    #[track_caller]
    fn syncs<const COUNT: usize>(&self, step: usize) -> [usize; COUNT] {
        self.sync_numbers(step)
            .try_into()
            .unwrap_or_else(|numbers| panic!("step {step} has made the syncs {numbers:?}"))
    }

    fn sync_numbers(&self, step: usize) -> Vec<usize> {
        let log = self.history.steps()[step].log.clone();
        let syncs = self.disk.syncs().into_iter().filter(|(position, _)| log.contains(position));
        syncs.map(|(_, sync)| sync.number).collect()
    }

    #[track_caller]
    fn breaks_without(&self, sync: usize, broken: Broken) {
        self.disk.ignore_sync(sync);
        expect(&self.judge(&self.disk), broken, format_args!("without sync {sync}"));
        self.disk.ignore_no_sync();
    }
}

#[track_caller]
fn expect(judge: &Judge<'_>, broken: Broken, what: impl fmt::Display) {
    let found: BTreeSet<Broken> = judge.verdicts.iter().map(|verdict| verdict.broken).collect();
    assert!(judge.has_found(broken), "{what}: not {broken:?} but {found:?} in {} states", judge.states);
}

/// Two first touches, each flushed.
fn touch_twice(subject: Subject) -> Run {
    let grain = subject.grain;
    Run::new(subject, [Step::Write(grain, 1), Step::Flush, Step::Write(3 * grain, 1), Step::Flush])
}

/// Disks whose tables are kept in different ways.
fn all_tables() -> [Subject; 4] {
    [Subject::hosted(8), Subject::without_copies(), Subject::child_with_zero_grains(), Subject::esx_delta()]
}

/// Disks in which a new grain is not zero.
fn all_children() -> [Subject; 3] {
    [Subject::child(), Subject::child_with_zero_grains(), Subject::esx_delta()]
}

#[test]
fn the_content_id_has_to_be_durable_before_the_first_write() {
    for subject in [Subject::hosted(8), Subject::flat(), Subject::esx_delta()] {
        let run = Run::new(subject, [Step::Write(0, 1), Step::Flush]);
        let [content_id] = run.syncs(FIRST_WRITE);
        run.breaks_without(content_id, Broken::ContentId);
    }
}

#[test]
fn grains_have_to_be_durable_before_an_entry_names_them() {
    for subject in all_tables() {
        let run = touch_twice(subject);
        let [before, _] = run.syncs(1);
        run.breaks_without(before, Broken::Tables);
    }
    // The second grain lies where the file has grown to already: what is there is zero, and only a child should have
    // shown something else.
    for subject in all_children() {
        let run = touch_twice(subject);
        let [before, _] = run.syncs(3);
        run.breaks_without(before, Broken::Content);
    }
}

#[test]
fn new_tables_have_to_be_durable_before_a_directory_names_them() {
    for subject in [Subject::without_tables(), Subject::fresh_child(), Subject::fresh_esx_delta()] {
        let run = touch_twice(subject);
        let [before, _] = run.syncs(1);
        run.breaks_without(before, Broken::Unreadable);
    }
}

#[test]
fn entries_have_to_be_durable_before_a_flush_returns() {
    for subject in all_tables() {
        let run = touch_twice(subject);
        for flush in [1, 3] {
            let [_, after] = run.syncs(flush);
            run.breaks_without(after, Broken::Content);
        }
    }
}

#[test]
fn phases_that_are_swapped_are_noticed() {
    let swapped = |subject, flush, broken| {
        let run = touch_twice(subject);
        let [before, _] = run.syncs(flush);
        expect(&run.judge(&run.disk.with_phases_swapped(before)), broken, "with the phases swapped");
    };
    for subject in all_tables() {
        swapped(subject, 1, Broken::Tables);
    }
    for subject in all_children() {
        swapped(subject, 3, Broken::Content);
    }
}

#[test]
fn the_tables_have_to_be_durable_before_the_disk_is_marked_as_closed() {
    let run = Run::new(Subject::hosted(8), [Step::Write(8, 1), Step::Close]);
    let [_, after, _] = run.syncs(1);
    run.breaks_without(after, Broken::Copies);
}

#[test]
fn overwritten_sectors_have_to_be_durable_when_a_flush_returns() {
    for subject in [Subject::hosted(8), Subject::flat(), Subject::child(), Subject::vmware3()] {
        let run = Run::new(subject, [Step::Write(0, 1), Step::Flush, Step::Write(1, 1), Step::Flush]);
        let [flush] = run.syncs(3);
        run.breaks_without(flush, Broken::Content);
    }
}

#[test]
fn a_write_that_forces_unit_access_has_to_be_durable_when_it_returns() {
    let run = Run::new(Subject::hosted(8), [Step::Write(1, 1), Step::WriteThrough(0, 1)]);
    let [write] = run.syncs(1);
    run.breaks_without(write, Broken::Content);
}

#[test]
fn what_a_killed_process_has_left_has_to_be_durable_when_a_flush_returns() {
    for subject in [Subject::hosted(8), Subject::flat(), Subject::vmware3()] {
        let run = Run::new(subject, [Step::Write(0, 1), Step::Kill, Step::Flush]);
        let [flush] = run.syncs(2);
        run.breaks_without(flush, Broken::Content);
    }
}

#[test]
fn a_committed_write_has_to_be_durable_when_a_flush_returns() {
    let steps = [Step::Write(1, 1), Step::Prepare(0, 16, Ending::Commit), Step::Flush];
    let run = Run::new(Subject::hosted(8), steps);
    let [before, after] = run.syncs(2);
    run.breaks_without(before, Broken::Tables);
    run.breaks_without(after, Broken::Content);
}

#[test]
fn entries_of_freed_grains_have_to_be_durable_before_a_flush_returns() {
    let steps = [Step::Write(1, 1), Step::Discard(16, 8), Step::Flush, Step::Flush];
    let run = Run::new(Subject::with_zero_grains(), steps);
    let [_, after] = run.syncs(2);
    // A hole that comes back without its entry is zeros just the same, but the data may come back.
    run.breaks_without(after, Broken::Content);
}

#[test]
fn a_closed_disk_has_to_be_durable_when_the_close_returns() {
    for subject in [Subject::hosted(8), Subject::child()] {
        let run = Run::new(subject, [Step::Write(8, 1), Step::Flush, Step::Close]);
        let [mark] = run.syncs(2);
        run.breaks_without(mark, Broken::NotClosed);
    }
}

#[test]
fn dead_entries_have_to_be_gone_before_the_file_grows() {
    for subject in [Subject::unclean(), Subject::unclean_child(), Subject::unclean_vmware3()] {
        let run = Run::new(subject, [Step::Write(24, 8), Step::Flush]);
        let recovery = run.sync_numbers(FIRST_WRITE).pop().unwrap();
        run.breaks_without(recovery, Broken::Content);
    }
}

#[test]
fn copies_of_tables_have_to_be_durable_before_a_directory_names_them() {
    let steps = [Step::Write(0, 1), Step::Flush, Step::Close];
    let run = Run::new(Subject::without_copy_of_a_table(), steps);
    let [_, _, copies] = run.syncs(FIRST_WRITE);
    run.breaks_without(copies, Broken::Tables);

    // A disk that claims to be clean has to be marked before its copies differ.
    let run = Run::new(Subject::clean_without_copy_of_a_table(), steps);
    let [_, copies] = run.syncs(FIRST_WRITE);
    run.breaks_without(copies, Broken::Tables);
}
