//! The undo file: it takes everything back, and nothing else.

use std::sync::Arc;

use vmdk::{Error, ErrorKind, MemoryStorage, OpenOptions, RepairOptions, Storage};

use super::rows::rows;
use super::subject::{disk, everything, name_of, repair, state};
use super::support::crash::CrashDisk;

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
    version[8] = 2;
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
