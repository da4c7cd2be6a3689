//! Images with anything wrong: a check ends with a report, and a repair makes nothing worse.

use proptest::prelude::*;
use vmdk::{Error, ErrorKind, MemoryStorage, OpenOptions, RepairOptions};

use std::sync::Arc;

use super::rows;
use super::subject::{Files, check, content, disk, lost, name_of, repair, state};
use super::support::damage::{Damage, damage, images};

/// What speaks against looking at an image at all, and is said as an error.
const REFUSED: [ErrorKind; 4] =
    [ErrorKind::NotVmdk, ErrorKind::Unsupported, ErrorKind::NameRefused, ErrorKind::NotFound];

/// What speaks against repairing it.
const NOT_REPAIRED: [ErrorKind; 5] =
    [ErrorKind::NotVmdk, ErrorKind::Unsupported, ErrorKind::NameRefused, ErrorKind::Corrupt, ErrorKind::Full];

fn expect(error: &Error, allowed: &[ErrorKind]) {
    assert!(allowed.contains(&error.kind()), "{:?}: {error}", error.kind());
}

/// Looks at an image, repairs it, looks again, repairs again, and takes everything back.
fn exercise(files: &Files, [prefer_redundant, reclaim]: [bool; 2]) {
    let (disk, name) = (disk(files), name_of(files));
    let start = state(&disk);
    let before = content(&disk, name);
    let report = match check(&disk, name) {
        Ok(report) => report,
        Err(error) => return expect(&error, &REFUSED),
    };
    assert!(state(&disk) == start, "a check has changed something");
    if before.is_empty() || before.iter().any(Option::is_none) {
        assert!(!report.is_clean(), "what cannot be read is not clean");
    }
    let undo = Arc::new(MemoryStorage::new([]));
    let options = RepairOptions::new().prefer_redundant(prefer_redundant).reclaim(reclaim);
    let repaired = match repair(&disk, name, &options.clone().undo(undo.clone())) {
        Ok(repaired) => repaired,
        Err(error) => return expect(&error, &NOT_REPAIRED),
    };
    let now = content(&disk, name);
    if !prefer_redundant {
        assert_eq!(lost(&before, &now), None, "{:#?}", repaired.before.findings);
    }
    assert!(now.iter().flatten().count() >= before.iter().flatten().count());
    if !prefer_redundant {
        assert_eq!(check(&disk, name).unwrap().is_clean(), repaired.after.is_clean());
    }
    let end = state(&disk);
    let again = repair(&disk, name, &options).unwrap();
    assert!(state(&disk) == end && again.changes == 0, "{:#?}", again.before.findings);
    if repaired.changes > 0 {
        OpenOptions::new().undo_repair_in(name, &disk, &*undo).unwrap();
    }
    assert!(state(&disk) == start, "it was not taken back");
}

#[test]
fn images_with_nothing_wrong_are_left_alone() {
    for files in images() {
        exercise(files, [false, true]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(700) })]

    #[test]
    fn whatever_is_wrong_a_repair_makes_nothing_worse(
        image in 0..images().len() + rows::rows().len(),
        damages in prop::collection::vec((any::<usize>(), damage()), 1..4),
        prefer_redundant in prop::bool::weighted(0.2),
        reclaim in any::<bool>(),
    ) {
        let rows = rows::rows();
        let mut files = images().get(image).cloned().unwrap_or_else(|| rows[image - images().len()].files.clone());
        for (file, damage) in &damages {
            let count = files.len();
            damage.apply(&mut files[file % count].1);
        }
        exercise(&files, [prefer_redundant, reclaim]);
    }

    /// Entries of tables and directories are where it hurts.
    #[test]
    fn whatever_the_tables_say_a_repair_makes_nothing_worse(
        changes in prop::collection::vec((0..90_usize, 0..4_u8, 0..140_u32), 1..12),
        unclean in any::<bool>(),
        second in any::<bool>(),
        prefer_redundant in prop::bool::weighted(0.2),
        reclaim in any::<bool>(),
    ) {
        let mut files = rows::plain(second);
        let bytes = &mut files[0].1;
        let sectors = u32::try_from(bytes.len() / 512).unwrap();
        for (place, kind, value) in changes {
            // The directories, the tables and the places of grains.
            let value = match kind {
                0 => value,
                1 => sectors - 1 - value % 64,
                2 => (value + 3) * 8,
                _ => sectors + value,
            };
            let place = rows::interesting(bytes, place);
            bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
        }
        if unclean {
            Damage::Bytes(72, vec![1]).apply(bytes);
        }
        exercise(&files, [prefer_redundant, reclaim]);
    }
}
