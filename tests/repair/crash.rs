//! A repair that is cut off by a power failure: what could be read can be read, another repair ends it, and the undo
//! file takes back whatever was done.

use std::sync::Arc;

use vmdk::{Directory, OpenOptions, RepairOptions, Severity, Storage};

use super::rows::{Row, rows};
use super::subject::{Sectors, content, disk, everything, lost, name_of, repair, state};
use super::support::SECTOR;
use super::support::crash::choice::Choice;
use super::support::crash::point::CrashState;
use super::support::crash::{CrashDisk, SyncCall};

const UNDO: &str = "undo";

/// What comes of a repair that is not cut off.
struct Run<'r> {
    row: &'r Row,
    disk: CrashDisk,
    before: Sectors,
    after: Sectors,
}

impl<'r> Run<'r> {
    fn new(row: &'r Row) -> Self {
        let (disk, name) = (disk(&row.files), name_of(&row.files));
        let before = content(&disk, name);
        repair(&disk, name, &options(&disk)).unwrap();
        let after = content(&disk, name);
        Self { row, disk, before, after }
    }

    /// Looks at the states that a crash may leave; says what is wrong with the first bad one, and how many there were.
    fn look(&self, disk: &CrashDisk) -> (usize, Option<String>) {
        let mut choice = Choice::new(3)
            .exhaustive_up_to(60)
            .random(8)
            .singles_per_change(3)
            .metadata_below(30 * SECTOR as u64)
            .written_lengths();
        let (mut states, mut wrong) = (0, None);
        disk.each_state(&mut choice, |state| {
            states += 1;
            if wrong.is_none() {
                wrong = self.judge(&state).err().map(|problem| format!("{}: {problem}\nin {state}", self.row.what));
            }
        });
        (states, wrong)
    }

    fn judge(&self, crash: &CrashState) -> Result<(), String> {
        let name = name_of(&self.row.files);
        let now = content(&crash.restart(), name);
        if let Some(sector) = lost(&self.before, &now) {
            return Err(format!("sector {sector} is lost"));
        }
        let disk = crash.restart();
        let again = repair(&disk, name, &everything()).map_err(|error| format!("no second repair: {error}"))?;
        let left = again.after.findings.iter().filter(|finding| finding.severity != Severity::Note);
        let left: Vec<_> = left.map(|finding| finding.kind).collect();
        if left != self.row.left {
            return Err(format!("the second repair leaves {left:?}"));
        }
        if content(&disk, name) != self.after {
            return Err("the second repair comes to something else".to_owned());
        }
        self.take_back(&crash.restart())
    }

    fn take_back(&self, disk: &CrashDisk) -> Result<(), String> {
        let is_whole = disk.names().iter().any(|name| name == UNDO) && disk.storage(UNDO).len().unwrap() >= 12;
        if is_whole {
            let undo = disk.storage(UNDO);
            let taken = OpenOptions::new().undo_repair_in(name_of(&self.row.files), disk, &*undo);
            // Its first bytes may not be there yet; nothing has changed then.
            if let (Err(error), true) = (taken, disk.live(UNDO).starts_with(b"VMDKUNDO\x02\0\0\0")) {
                return Err(format!("nothing can be taken back: {error}"));
            }
        }
        let files = state(disk).into_iter().filter(|(name, _)| name != UNDO);
        let mut expected = self.row.files.clone();
        expected.sort();
        if files.collect::<Vec<_>>() != expected {
            return Err("it was not taken back".to_owned());
        }
        Ok(())
    }
}

fn options(disk: &CrashDisk) -> RepairOptions {
    let undo: Arc<dyn Storage> = Directory::create(disk, UNDO, UNDO).unwrap();
    Directory::sync(disk).unwrap();
    everything().undo(undo)
}

#[test]
fn a_repair_that_is_cut_off_can_be_ended_and_taken_back() {
    let mut states = 0;
    for row in rows() {
        let run = Run::new(&row);
        let (seen, wrong) = run.look(&run.disk);
        states += seen;
        assert_eq!(wrong, None);
    }
    assert!(states > 300, "{states} states");
}

/// A file that was about to grow or to be cut may have any length in between.
#[test]
fn a_repair_that_is_cut_off_can_be_taken_back_however_long_its_files_are() {
    for row in rows() {
        let run = Run::new(&row);
        let mut choice = Choice::new(4).exhaustive_up_to(20).random(6).singles_per_change(2).odd_lengths();
        run.disk.each_state(&mut choice, |state| {
            let taken = run.take_back(&state.restart());
            assert!(taken.is_ok(), "{}: {taken:?} in {state}", row.what);
        });
    }
}

/// Whether something goes wrong in some row if the syncs are not carried out that `is_broken` picks.
fn is_noticed(is_broken: impl Fn(&SyncCall) -> bool + Copy + Send + Sync + 'static) -> bool {
    rows().iter().any(|row| {
        let run = Run::new(row);
        run.disk.ignore_syncs(is_broken);
        run.look(&run.disk).1.is_some()
    })
}

#[test]
fn the_undo_file_has_to_be_durable_before_anything_changes() {
    assert!(is_noticed(|sync| sync.file == UNDO));
}

#[test]
fn what_is_new_has_to_be_durable_before_something_names_it() {
    assert!(is_noticed(|sync| sync.file != UNDO));
}
