//! Whenever the power goes, the disk is tracked and was not written to, or it is not tracked.

use vmdk::{BlockDevice, Directory, OpenOptions};

use super::support::SECTOR;
use super::support::crash::choice::Choice;
use super::support::crash::{CrashDisk, DIRECTORY, Operation};
use super::{CTK, DROPPED, Tracked, ctk, dropping, try_read};

/// The mark for a call that has returned.
const DONE: u64 = 1;

/// The sectors that are written to, all over the disk.
const WRITTEN: [u64; 3] = [3, 9, 40];

fn disk(tracked: &Tracked) -> CrashDisk {
    CrashDisk::new(tracked.files.iter().map(|(name, bytes)| (&**name, bytes.clone())))
}

fn choice() -> Choice {
    Choice::new(5).exhaustive_up_to(600).random(20).singles_per_change(3).written_lengths()
}

/// What crashes leave: states in which the disk is tracked, and others.
#[derive(Debug, Default)]
struct Seen {
    tracked: usize,
    untracked: usize,
    wrong: Option<String>,
}

/// Looks at all states; `is_written` says whether the disk is written to.
fn look(tracked: &Tracked, crashed: &CrashDisk, is_written: bool) -> Seen {
    let (mut seen, mut choice) = (Seen::default(), choice());
    let old_id = OpenOptions::new().open_with("disk.vmdk", &disk(tracked)).unwrap().content_id();
    crashed.each_state(&mut choice, |state| {
        let mut judge = || -> Result<(), String> {
            let disk = state.restart();
            let failed = |error: vmdk::Error| format!("it cannot be opened: {error}");
            let image = OpenOptions::new().open_with("disk.vmdk", &disk).map_err(failed)?;
            let content = try_read(&image).map_err(failed)?;
            let is_tracked = image.descriptor().change_track_path().is_some();
            // The version goes with it.
            if (image.descriptor().version() == 3) != is_tracked {
                return Err(format!("version {} and tracked: {is_tracked}", image.descriptor().version()));
            }
            let is_same = content == tracked.content;
            if is_tracked && (!is_same || image.content_id() != old_id) {
                return Err("it is tracked, and was written to".to_owned());
            }
            if is_written && !is_same && image.content_id() == old_id {
                return Err("it was written to and has the old content ID".to_owned());
            }
            if is_tracked && state.marks().contains(&DONE) {
                return Err("it is tracked after all".to_owned());
            }
            let ctk_names: Vec<_> = [CTK, DROPPED].into_iter().filter(|name| disk.exists(name).unwrap()).collect();
            if ctk_names.is_empty() || ctk_names.iter().any(|name| disk.live(name) != ctk()) {
                return Err(format!("the tracking file is lost: {ctk_names:?}"));
            }
            if is_tracked && !ctk_names.contains(&CTK) {
                return Err("it is tracked, and its tracking file has another name".to_owned());
            }
            drop(image);
            // The same again takes it to its end.
            OpenOptions::new().stop_change_tracking_in("disk.vmdk", &disk).map_err(failed)?;
            let image = OpenOptions::new().write(true).open_with("disk.vmdk", &disk).map_err(failed)?;
            if try_read(&image).map_err(failed)? != content {
                return Err("it reads as something else when the tracking was ended".to_owned());
            }
            image.write_sectors(7, &[7; SECTOR]).map_err(failed)?;
            image.close().map_err(failed)?;
            if is_tracked {
                seen.tracked += 1;
            } else {
                seen.untracked += 1;
            }
            Ok(())
        };
        if let Err(text) = judge() {
            seen.wrong.get_or_insert(format!("{text}\nin the state: {state}"));
        }
    });
    seen
}

fn stopped(tracked: &Tracked) -> CrashDisk {
    let disk = disk(tracked);
    OpenOptions::new().stop_change_tracking_in("disk.vmdk", &disk).unwrap().unwrap();
    disk.mark(DONE);
    disk
}

fn written(tracked: &Tracked) -> CrashDisk {
    let disk = disk(tracked);
    let image = dropping().open_with("disk.vmdk", &disk).unwrap();
    for sector in WRITTEN {
        image.write_sectors(sector, &[0xaa; SECTOR]).unwrap();
    }
    image.flush().unwrap();
    disk.mark(DONE);
    image.close().unwrap();
    drop(image);
    disk
}

#[test]
fn ending_the_tracking_leaves_one_or_the_other() {
    for tracked in [Tracked::flat(), Tracked::embedded()] {
        let seen = look(&tracked, &stopped(&tracked), false);
        assert!(seen.wrong.is_none(), "{}", seen.wrong.unwrap_or_default());
        assert!(seen.tracked > 0 && seen.untracked > 0, "{seen:?}");
    }
}

#[test]
fn a_disk_that_was_written_to_is_not_tracked() {
    let tracked = Tracked::embedded();
    let seen = look(&tracked, &written(&tracked), true);
    assert!(seen.wrong.is_none(), "{}", seen.wrong.unwrap_or_default());
    assert!(seen.tracked > 0 && seen.untracked > 20, "{seen:?}");
}

/// What is wrong with a run in which some syncs do nothing.
#[track_caller]
fn wrong_without(tracked: &Tracked, disk: &CrashDisk, is_written: bool, numbers: Vec<usize>) -> String {
    assert!(!numbers.is_empty());
    disk.ignore_syncs(move |sync| numbers.contains(&sync.number));
    let wrong = look(tracked, disk, is_written).wrong;
    disk.ignore_no_sync();
    wrong.expect("these syncs are needed")
}

/// Each sync that ending the tracking takes is needed: that of the text, of its name, of the name of the tracking file.
#[test]
fn without_one_of_the_syncs_something_is_wrong() {
    let flat = Tracked::flat();
    let disk = stopped(&flat);
    let syncs = disk.syncs();
    let of = |file: &str| {
        let found = syncs.iter().filter(|(_, sync)| sync.file == file).map(|(_, sync)| sync.number);
        found.collect::<Vec<_>>()
    };
    let (texts, names) = (of("disk.vmdk"), of(DIRECTORY));
    assert_eq!((texts.len(), names.len()), (1, 2));
    assert!(wrong_without(&flat, &disk, false, texts).contains("it cannot be opened"));
    assert!(wrong_without(&flat, &disk, false, names[..1].to_vec()).contains("its tracking file has another name"));
    // The last one: not before the name of the tracking file is durable has the call returned.
    disk.ignore_sync(names[1]);
    let mut choice = choice();
    let mut states = disk.states(disk.log_len(), &mut choice);
    assert!(states.any(|state| state.restart().exists(CTK).unwrap()));
    disk.ignore_no_sync();
    assert!(disk.states(disk.log_len(), &mut self::choice()).all(|state| state.restart().exists(DROPPED).unwrap()));
}

/// The descriptor is durable before the first sector is written.
#[test]
fn without_the_syncs_before_the_first_write_a_tracked_disk_is_written_to() {
    let tracked = Tracked::embedded();
    let disk = written(&tracked);
    // What is allocated already is written in its place.
    let in_place =
        |operation: &Operation| matches!(operation, Operation::Write(range) if range.end - range.start == 512);
    let end_of_text = 21 * SECTOR as u64;
    let starts = |operation: &Operation| matches!(operation, Operation::Write(range) if range.start >= end_of_text);
    let first = disk.changes().iter().position(|(_, _, operation)| in_place(operation) && starts(operation)).unwrap();
    let first = disk.changes()[first].0;
    let before = disk.syncs().iter().filter(|(position, _)| *position < first).map(|(_, sync)| sync.number).collect();
    assert!(wrong_without(&tracked, &disk, true, before).contains("it is tracked, and was written to"));
}
