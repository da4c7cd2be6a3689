//! Without any one of its syncs an operation breaks a promise, and the judge notices.
//!
//! Those of a close only say that an image was closed; the suite of writes has a judge for that.

use std::ops::ControlFlow;

use vmdk::{CacheMode, OpenOptions};

use super::judge::{Broken, Care, DONE};
use super::scene::{self, Operation, Scene};
use super::support::crash::{CrashDisk, DIRECTORY};

const CARE: Care = Care { exhaustive: 40, most: 60, again: 1000 };

/// An operation that was carried out.
struct Run {
    scene: Scene,
    disk: CrashDisk,
    /// How many syncs come before the work begins: they are about what an earlier run may have left.
    settled: usize,
}

impl Run {
    /// The scene of this name.
    fn new(scenes: Vec<Scene>, what: &str) -> Self {
        let scene = scenes.into_iter().find(|scene| scene.what == what).expect("there is such a scene");
        let disk = scene.disk();
        scene.run(&disk).unwrap();
        disk.mark(DONE);
        let stopped = scene.disk();
        scene.run_with(&stopped, &mut |_| ControlFlow::Break(())).unwrap_err();
        let settled = stopped.syncs().len();
        Self { scene, disk, settled }
    }

    /// Fails the test unless this is broken in some state if the sync with this number, counted from where the work
    /// begins, is left out.
    #[track_caller]
    fn breaks_without(&self, number: usize, file: &str, expected: Broken) {
        let number = self.settled + number;
        let sync = self.disk.syncs().into_iter().map(|(_, sync)| sync).find(|sync| sync.number == number).unwrap();
        assert_eq!(sync.file, file, "sync {number}");
        self.disk.ignore_sync(number);
        let seen = self.scene.judge(&self.disk, CARE, |seen| seen.broken.contains(&expected));
        assert!(
            seen.broken.contains(&expected),
            "{} without sync {number} of {file}: not {expected:?} but {:?} in {} states",
            self.scene.what,
            seen.broken,
            seen.states
        );
        self.disk.ignore_no_sync();
    }

    #[track_caller]
    fn has_syncs(&self, files: &[&str]) {
        let syncs: Vec<String> = self.disk.syncs().into_iter().skip(self.settled).map(|(_, sync)| sync.file).collect();
        assert_eq!(syncs, files, "{}", self.scene.what);
    }
}

const PARENT: &str = "base.vmdk";
const CHILD: &str = "disk.vmdk";

fn sparse() -> Run {
    let run = Run::new(scene::commits(1), "sparse into sparse");
    let [id, link] = [PARENT, CHILD];
    run.has_syncs(&[CHILD, id, link, PARENT, PARENT, CHILD, CHILD, CHILD, CHILD, PARENT]);
    run
}

/// Descriptors apart.
fn split() -> Run {
    let run = Run::new(scene::commits(1), "split into split");
    let grains = ["base-s001.vmdk", "base-s002.vmdk", "base-s003.vmdk"].map(|file| [file; 2]);
    let emptied = ["disk-s001.vmdk", "disk-s002.vmdk", "disk-s003.vmdk"];
    let mut expected = vec![CHILD, DIRECTORY, PARENT, DIRECTORY, CHILD, DIRECTORY];
    expected.extend(grains.as_flattened());
    expected.extend(emptied.map(|file| [file; 2]).as_flattened());
    expected.extend(emptied);
    expected.extend([CHILD, DIRECTORY]);
    expected.extend(grains.map(|[file, _]| file));
    run.has_syncs(&expected);
    run
}

#[test]
fn what_guests_are_promised_changes_no_order() {
    for scene in scene::all(4) {
        let run = |mode| {
            let (disk, options) = (scene.disk(), OpenOptions::new().cache_mode(mode));
            scene.run_as(&options, &disk, &mut |_| ControlFlow::Continue(())).unwrap();
            disk.syncs().into_iter().map(|(position, sync)| (position, sync.file)).collect::<Vec<_>>()
        };
        let expected = run(CacheMode::Writeback);
        for mode in [CacheMode::Unsafe, CacheMode::Writethrough] {
            assert_eq!(run(mode), expected, "{} {mode:?}", scene.what);
        }
    }
}

#[test]
fn the_line_has_to_be_durable_before_the_parent_gets_its_content_id() {
    sparse().breaks_without(0, CHILD, Broken::Unreadable);
    let split = split();
    split.breaks_without(0, CHILD, Broken::Unreadable);
    split.breaks_without(1, DIRECTORY, Broken::Unreadable);
}

#[test]
fn the_content_id_of_the_parent_has_to_be_durable_before_anything_else_of_it_changes() {
    sparse().breaks_without(1, PARENT, Broken::Sibling);
    let split = split();
    split.breaks_without(2, PARENT, Broken::Unreadable);
    split.breaks_without(3, DIRECTORY, Broken::Unreadable);
    Run::new(scene::commits(1), "sparse into flat").breaks_without(2, DIRECTORY, Broken::Sibling);
}

#[test]
fn the_child_has_to_know_its_parent_durably_before_that_changes() {
    sparse().breaks_without(2, CHILD, Broken::OtherPrograms);
    let split = split();
    split.breaks_without(4, CHILD, Broken::Unreadable);
    split.breaks_without(5, DIRECTORY, Broken::OtherPrograms);
}

#[test]
fn the_parent_has_to_have_everything_durably_before_the_child_is_emptied() {
    let sparse = sparse();
    sparse.breaks_without(3, PARENT, Broken::Tables);
    sparse.breaks_without(4, PARENT, Broken::Content);
    Run::new(scene::commits(1), "sparse into flat").breaks_without(4, "base-flat.vmdk", Broken::Content);
    let split = split();
    split.breaks_without(7, "base-s001.vmdk", Broken::Content);
    split.breaks_without(11, "base-s003.vmdk", Broken::Content);
}

#[test]
fn no_entry_of_the_child_may_name_a_grain_any_more_before_that_is_emptied() {
    sparse().breaks_without(6, CHILD, Broken::Tables);
    split().breaks_without(15, "disk-s002.vmdk", Broken::Content);
    Run::new(scene::commits(1), "delta of ESX").breaks_without(8, "disk-delta.vmdk", Broken::Content);
}

#[test]
fn nothing_may_be_left_to_do_when_a_commit_has_returned() {
    sparse().breaks_without(8, CHILD, Broken::NotDone);
    let split = split();
    split.breaks_without(21, CHILD, Broken::Unreadable);
    split.breaks_without(22, DIRECTORY, Broken::NotDone);
}

#[test]
fn each_link_of_a_run_has_its_own_order() {
    let run = Run::new(scene::commits(1), "a run of two");
    run.breaks_without(9, "middle.vmdk", Broken::Unreadable);
    run.breaks_without(11, DIRECTORY, Broken::Sibling);
    run.breaks_without(13, "base-flat.vmdk", Broken::Content);
    run.breaks_without(17, "middle.vmdk", Broken::NotDone);
}

#[test]
fn what_a_child_takes_over_has_to_be_durable_before_it_leads_elsewhere() {
    for (scenes, what) in [
        (scene::flattenings(1), "larger over flat"),
        (scene::rebases(1), "flat to flat"),
        (scene::rebases(1), "sparse to another size"),
    ] {
        let run = Run::new(scenes, what);
        run.has_syncs(&[CHILD; 4]);
        run.breaks_without(0, CHILD, Broken::Tables);
        run.breaks_without(1, CHILD, Broken::Content);
    }
    let split = Run::new(scene::flattenings(1), "split over split");
    split.breaks_without(1, "disk-s002.vmdk", Broken::Content);
    split.breaks_without(3, "disk-s003.vmdk", Broken::Content);
}

/// Of an embedded descriptor the close that follows makes durable what it says; both together may not be left out.
#[test]
fn a_child_has_to_lead_elsewhere_durably_when_the_call_has_returned() {
    let split = Run::new(scene::flattenings(1), "split over split");
    split.breaks_without(4, CHILD, Broken::Unreadable);
    split.breaks_without(5, DIRECTORY, Broken::NotDone);
    let delta = Run::new(scene::rebases(1), "delta of ESX");
    assert!(matches!(delta.scene.operation, Operation::Rebase(_)));
    delta.breaks_without(2, CHILD, Broken::Unreadable);
    delta.breaks_without(3, DIRECTORY, Broken::NotDone);
    let embedded = Run::new(scene::flattenings(1), "larger over flat");
    let last = embedded.settled + 2;
    embedded.disk.ignore_syncs(move |sync| sync.number >= last);
    let seen = embedded.scene.judge(&embedded.disk, CARE, |seen| seen.broken.contains(&Broken::NotDone));
    assert!(seen.broken.contains(&Broken::NotDone), "{:?}", seen.broken);
}
