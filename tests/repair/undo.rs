//! The undo file: it takes everything back, and nothing else.

use std::sync::Arc;

use vmdk::{BlockDevice, Error, ErrorKind, MemoryStorage, OpenOptions, RepairOptions, Storage};

use super::rows::{Row, rows};
use super::subject::{Files, disk, everything, name_of, repair, state};
use super::support::SECTOR;
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;

fn take_back(disk: &CrashDisk, name: &str, undo: &dyn Storage) -> Result<u64, Error> {
    OpenOptions::new().undo_repair_in(name, disk, undo)
}

#[test]
fn every_repair_can_be_taken_back() {
    for row in rows() {
        let (disk, name) = (disk(&row.files), name_of(&row.files));
        let before = state(&disk);
        let undo = Arc::new(MemoryStorage::new([]));
        let report = repair(&disk, name, &everything().undo(undo.clone())).unwrap();
        assert_eq!(report.undo_bytes, undo.len().unwrap(), "{}", row.what);
        if report.changes == 0 {
            continue;
        }
        assert!(state(&disk) != before, "{}", row.what);
        assert!(take_back(&disk, name, &*undo).unwrap() > 0);
        assert!(state(&disk) == before, "{}", row.what);
        // Once more is the same.
        take_back(&disk, name, &*undo).unwrap();
        assert!(state(&disk) == before, "{}", row.what);
    }
}

#[test]
fn an_undo_file_of_something_else_changes_nothing() {
    let rows = rows();
    let row = rows.iter().find(|row| row.what == "two entries for one grain").unwrap();
    let (disk, name) = (disk(&row.files), name_of(&row.files));
    let undo = Arc::new(MemoryStorage::new([]));
    repair(&disk, name, &everything().undo(undo.clone())).unwrap();
    let after = state(&disk);
    let own = undo.to_vec();
    let mut named = own.clone();
    let at = own.windows(name.len()).position(|bytes| bytes == name.as_bytes()).unwrap();
    named[at] ^= 1;
    let mut version = own.clone();
    version[8] = 1;
    // Of a repair that has come to its end no record may be damaged.
    for wrong in [b"".to_vec(), b"VMDKUNDO".to_vec(), vec![0; 500], version, named.clone()] {
        let error = take_back(&disk, name, &MemoryStorage::new(wrong)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(state(&disk) == after);
    }
    // What comes behind a record that is not whole was never done, if the repair did not come to its end.
    named.truncate(named.len() - 1);
    assert_eq!(take_back(&disk, name, &MemoryStorage::new(named)).unwrap(), 0);
    assert!(state(&disk) == after);
    let used = RepairOptions::new().undo(Arc::new(MemoryStorage::new(own)));
    let again = disk.clone();
    super::subject::damage(&again, name, 72, &[1]);
    assert_eq!(repair(&again, name, &used).unwrap_err().kind(), ErrorKind::InvalidInput);
}

/// A row whose repair changes something: its files after that, and the undo file.
fn repaired(row: &Row) -> Option<(Files, Arc<MemoryStorage>)> {
    let (disk, undo) = (disk(&row.files), Arc::new(MemoryStorage::new([])));
    let report = repair(&disk, name_of(&row.files), &everything().undo(undo.clone())).unwrap();
    (report.changes > 0).then(|| (state(&disk), undo))
}

/// The offsets of the sectors that differ from what was there before, or were not there.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    let offsets = (0..after.len()).step_by(SECTOR);
    offsets.filter(|&at| before.get(at..at + SECTOR) != after.get(at..at + SECTOR)).collect()
}

/// Files that the undo file must not be applied to any more; and the error.
#[track_caller]
fn refused(files: &Files, name: &str, undo: &MemoryStorage, what: &str) -> Error {
    let disk = disk(files);
    let before = state(&disk);
    let error = take_back(&disk, name, undo).expect_err(what);
    assert!(state(&disk) == before, "{what}: {error}");
    error
}

#[test]
fn what_somebody_has_written_since_is_not_lost() {
    let (mut sectors, mut lengths) = (0, 0);
    for row in rows() {
        let Some((after, undo)) = repaired(&row) else { continue };
        let name = name_of(&row.files);
        for (number, (file, bytes)) in after.iter().enumerate() {
            let before =
                row.files.iter().find(|(other, _)| other == file).map(|(_, bytes)| &**bytes).unwrap_or_default();
            let changed = changed(before, bytes);
            for &at in changed.iter().step_by(1 + changed.len() / 12) {
                let mut files = after.clone();
                // The end of the sector means little, so that it can be opened.
                files[number].1[(at + SECTOR).min(bytes.len()) - 1] ^= 0x55;
                let what = format!("{}: {file} at {at:#x}", row.what);
                let error = refused(&files, name, &undo, &what);
                let text = error.to_string();
                sectors += usize::from(error.kind() == ErrorKind::InvalidInput);
                let is_named = text.starts_with(&format!("{file}: ")) && text.contains(&format!("offset {at:#x} "));
                assert!(is_named || error.kind() != ErrorKind::InvalidInput, "{what}: {text}");
            }
            if changed.is_empty() && before.len() == bytes.len() {
                continue;
            }
            // What was cut may come back as zeros, or in part; else nothing comes behind the end.
            let is_cut = before.len() > bytes.len();
            for junk in [&[0xa5; SECTOR][..], &[0; 8 * SECTOR], &[0xa5]].iter().take(if is_cut { 1 } else { 3 }) {
                let mut files = after.clone();
                files[number].1.extend_from_slice(junk);
                let error = refused(&files, name, &undo, row.what);
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}: {error}", row.what);
                lengths += 1;
            }
        }
    }
    println!("{sectors} sectors, {lengths} lengths");
    assert!(sectors > 60 && lengths > 60, "{sectors} {lengths}");
}

/// A guest's grain in a repaired table, or at the end of the file where the repair has left it.
#[test]
fn a_disk_that_a_guest_has_written_to_is_left_alone() {
    let mut written = 0;
    for row in rows() {
        let Some((after, undo)) = repaired(&row) else { continue };
        let (disk, name) = (disk(&after), name_of(&row.files));
        let Ok(image) = OpenOptions::new().write(true).no_parent(true).open_with(name, &disk) else { continue };
        // Grain 12 has no data in these.
        if image.write_sectors(12 * 8, &[0xa5; 8 * SECTOR]).is_err() {
            continue;
        }
        image.close().unwrap();
        drop(image);
        let error = refused(&state(&disk), name, &undo, row.what);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}: {error}", row.what);
        written += 1;
    }
    assert!(written > 15, "only {written} were written to");
}

#[test]
fn taking_back_can_be_cut_off_and_done_again() {
    let mut states = 0;
    for row in rows() {
        let Some((after, undo)) = repaired(&row) else { continue };
        let (running, name) = (disk(&after), name_of(&row.files));
        let before = state(&disk(&row.files));
        take_back(&running, name, &*undo).unwrap();
        let choice = Choice::new(5).exhaustive_up_to(30).random(4).singles_per_change(3);
        running.each_state(&mut choice.odd_lengths(), |crash| {
            states += 1;
            let disk = crash.restart();
            let done = take_back(&disk, name, &*undo);
            assert!(done.is_ok() && state(&disk) == before, "{}: {done:?} in {crash}", row.what);
        });
    }
    assert!(states > 200, "{states} states");
}

/// It writes in the place that the grain has already, from which the repair has taken a copy for another one.
#[test]
fn what_a_guest_has_written_in_place_since_is_not_lost() {
    for what in ["two entries for one grain", "a copy that differs"] {
        let rows = rows();
        let row = rows.iter().find(|row| row.what == what).unwrap();
        let (disk, name) = (disk(&row.files), name_of(&row.files));
        let undo = Arc::new(MemoryStorage::new([]));
        repair(&disk, name, &everything().undo(undo.clone())).unwrap();
        let image = OpenOptions::new().write(true).open_with(name, &disk).unwrap();
        image.write_sectors(9, &[7; SECTOR]).unwrap();
        image.close().unwrap();
        let written = state(&disk);
        assert_eq!(take_back(&disk, name, &*undo).unwrap_err().kind(), ErrorKind::InvalidInput, "{what}");
        assert!(state(&disk) == written, "{what}");
    }
}
