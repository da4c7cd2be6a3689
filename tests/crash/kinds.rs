//! Every kind of disk with every workload.

use super::judge::{Care, Judge};
use super::subject::Subject;
use super::workload::{Ending, History, Step, Workload};

/// Runs a workload on a disk and judges what crashes leave.
#[track_caller]
fn crash<'s>(subject: &'s Subject, workload: &Workload, care: Care) -> Judge<'s> {
    let disk = subject.disk();
    let mut judge = Judge::new(subject, care);
    let history = History::run(subject, &disk, subject.content.clone(), workload).unwrap();
    judge.look_at(&disk, &history);
    judge.expect_nothing(format_args!("{:?}", workload.steps));
    judge
}

/// The same with all workloads; there have to be so many states.
#[track_caller]
fn crash_everywhere(subject: &Subject, least: usize) {
    let workloads = Workload::all(subject.grain);
    let states: Vec<usize> = workloads.iter().map(|workload| crash(subject, workload, Care::USUAL).states).collect();
    let sum: usize = states.iter().sum();
    println!("{sum} states: {states:?}");
    assert!(sum >= least, "only {sum} states");
}

/// A test for each subject, which has at least so many states; and all together have at least 10,000.
macro_rules! kinds {
    ($($name:ident: $subject:ident($($argument:expr)?), $least:expr;)*) => {
        $(#[test]
        fn $name() {
            crash_everywhere(&Subject::$subject($($argument)?), $least);
        })*

        const _: () = assert!(0 $(+ $least)* >= 10_000);
    };
}

kinds! {
    a_hosted_disk_keeps_its_promise: hosted(8), 700;
    a_disk_with_usual_grains_keeps_its_promise: hosted(128), 600;
    a_disk_with_tiny_grains_keeps_its_promise: hosted(2), 700;
    a_disk_with_zero_grains_keeps_its_promise: with_zero_grains(), 700;
    a_disk_without_redundant_tables_keeps_its_promise: without_copies(), 600;
    a_disk_that_gets_its_first_table_keeps_its_promise: without_tables(), 600;
    a_disk_that_gets_one_more_table_keeps_its_promise: without_first_table(), 600;
    a_child_keeps_its_promise: child(), 600;
    a_child_with_zero_grains_keeps_its_promise: child_with_zero_grains(), 600;
    a_child_that_gets_its_first_table_keeps_its_promise: fresh_child(), 600;
    a_delta_of_esx_keeps_its_promise: esx_delta(), 600;
    a_delta_of_esx_that_gets_its_first_table_keeps_its_promise: fresh_esx_delta(), 600;
    a_disk_of_vmware_3_keeps_its_promise: vmware3(), 600;
    a_split_disk_keeps_its_promise: split_sparse(), 800;
    a_flat_disk_keeps_its_promise: flat(), 400;
    a_disk_of_flat_and_sparse_extents_keeps_its_promise: mixed(), 600;
    a_disk_that_crashed_before_keeps_its_promise: unclean(), 600;
    a_child_that_crashed_before_keeps_its_promise: unclean_child(), 600;
    a_disk_of_vmware_3_that_crashed_before_keeps_its_promise: unclean_vmware3(), 500;
    a_disk_that_lacks_the_copy_of_a_table_keeps_its_promise: without_copy_of_a_table(), 700;
    a_clean_disk_that_lacks_the_copy_of_a_table_keeps_its_promise: clean_without_copy_of_a_table(), 700;
    a_disk_with_only_the_copy_of_a_table_keeps_its_promise: with_nothing_but_a_copy(), 700;
}

#[test]
fn every_single_state_of_small_writes_keeps_the_promise() {
    let workloads = [
        Workload::new([Step::Write(1, 1), Step::Flush, Step::Write(3, 1), Step::Close]),
        Workload::new([Step::Write(0, 1), Step::Write(1, 1), Step::Flush, Step::Zeroes(0, 3, true), Step::Flush]),
        Workload::new([
            Step::Prepare(0, 2, Ending::Commit),
            Step::Discard(2, 1),
            Step::WriteThrough(4, 1),
            Step::Close,
        ]),
    ];
    let subjects = [
        Subject::hosted(1),
        Subject::without_first_table(),
        Subject::esx_delta(),
        Subject::fresh_esx_delta(),
        Subject::flat(),
    ];
    let mut states = 0;
    for (number, subject) in subjects.iter().enumerate() {
        for workload in &workloads {
            let judge = crash(subject, workload, Care::ALL);
            assert_eq!(judge.sampled_points, 0, "subject {number}: {:?}", workload.steps);
            states += judge.states;
        }
    }
    println!("{states} states");
    assert!(states >= 1000, "only {states} states");
}
