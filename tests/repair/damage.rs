//! Each kind of damage by itself.

use vmdk::{FindingKind, Remedy, RepairOptions, Severity};

use super::rows::rows;
use super::subject::{check, content, disk, everything, lost, name_of, repair, state, summary};
use super::support::check::check as judge;

#[test]
fn a_check_finds_what_is_wrong_and_nothing_else() {
    for row in rows() {
        let disk = disk(&row.files);
        let report = check(&disk, name_of(&row.files)).unwrap();
        assert_eq!(summary(&report), row.findings, "{}: {:#?}", row.what, report.findings);
        assert_eq!(state(&disk).len(), row.files.len());
        let is_clean = row.findings.iter().all(|(_, severity, ..)| *severity == Severity::Note);
        assert_eq!(report.is_clean(), is_clean, "{}", row.what);
    }
}

#[test]
fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    for row in rows() {
        let disk = disk(&row.files);
        let before = state(&disk);
        let report = repair(&disk, name_of(&row.files), &RepairOptions::new().dry_run(true)).unwrap();
        assert_eq!(summary(&report.before), row.findings, "{}", row.what);
        assert!(state(&disk) == before && report.changes == 0, "{}", row.what);
    }
}

#[test]
fn what_can_be_put_right_is_and_what_could_be_read_stays() {
    for row in rows() {
        let (disk, name) = (disk(&row.files), name_of(&row.files));
        let before = content(&disk, name);
        let report = repair(&disk, name, &everything()).unwrap_or_else(|e| panic!("{}: {e}", row.what));
        let now = content(&disk, name);
        assert_eq!(lost(&before, &now), None, "{}", row.what);
        assert!(now.iter().flatten().count() >= before.iter().flatten().count(), "{}", row.what);
        let left: Vec<_> = report.after.findings.iter().filter(|f| f.severity != Severity::Note).collect();
        let kinds: Vec<_> = left.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, row.left, "{}: {left:#?}", row.what);
        let had_remedy = report.before.findings.iter().any(|finding| finding.remedy.is_some());
        if row.left.is_empty() {
            assert_eq!(report.changes > 0, had_remedy, "{}", row.what);
        }
        // What is right by the crate's own rules is so by an independent judge's.
        for (file, bytes) in state(&disk) {
            if row.left.is_empty() && (bytes.starts_with(b"KDMV") || bytes.starts_with(b"COWD")) {
                judge(&bytes).expect_sound(format!("{}: {file}", row.what));
            }
        }
    }
}

/// Sectors that nothing names may be all that is left of grains: they stay unless they are given back on request.
#[test]
fn what_nothing_names_stays_unless_it_is_told_otherwise() {
    let row = rows().into_iter().find(|row| row.what == "grains that nothing names").unwrap();
    let (disk, name) = (disk(&row.files), name_of(&row.files));
    let before = state(&disk);
    assert_eq!(repair(&disk, name, &RepairOptions::new()).unwrap().changes, 0);
    assert!(state(&disk) == before);
    let report = repair(&disk, name, &everything()).unwrap();
    assert!(report.changes > 0 && report.before.leaked_bytes > 0 && report.after.leaked_bytes == 0);
    assert!(disk.live(name).len() < row.files[0].1.len());
}

/// The redundant directory is right, and each table of the other one stands in the place of its neighbour.
#[test]
fn on_request_the_redundant_tables_count() {
    let files = super::rows::with_swapped_tables();
    let (disk, name) = (disk(&files), name_of(&files));
    let sound = content(&super::subject::disk(&super::rows::plain(true)), name);
    let id = |disk: &_| vmdk::OpenOptions::new().open_with(name, disk).unwrap().content_id();
    let old = id(&disk);
    assert!(content(&disk, name) != sound);
    let report = repair(&disk, name, &everything().prefer_redundant(true)).unwrap();
    assert!(report.after.is_clean(), "{:#?}", report.after.findings);
    assert!(content(&disk, name) == sound);
    assert!(id(&disk) != old, "guests read something else");
    assert!(check(&disk, name).unwrap().is_clean());
}

/// Of the two the redundant entry counts, but it can be right no more than a grain of the primary one can be lost.
#[test]
fn a_redundant_entry_past_the_end_takes_nothing_away() {
    let files = super::rows::with_copy_past_end();
    let (disk, name) = (disk(&files), name_of(&files));
    let before = content(&disk, name);
    let report = repair(&disk, name, &everything().prefer_redundant(true)).unwrap();
    let found = report.before.findings.iter().find(|finding| finding.kind == FindingKind::GrainPastEnd).unwrap();
    assert_eq!((found.severity, found.remedy), (Severity::Inconsistency, Some(Remedy::FromPrimary)));
    assert!(content(&disk, name) == before, "a grain was lost");
    assert!(check(&disk, name).unwrap().findings.is_empty());
}

#[test]
fn a_second_repair_changes_nothing_more() {
    for row in rows() {
        let (disk, name) = (disk(&row.files), name_of(&row.files));
        repair(&disk, name, &everything()).unwrap();
        let before = state(&disk);
        let again = repair(&disk, name, &everything()).unwrap();
        assert!(state(&disk) == before && again.changes == 0, "{}: {:#?}", row.what, again.before.findings);
        assert_eq!(again.before, again.after);
    }
}

/// A stream can be looked at by its redundant directory, but no reader opens it so by itself.
#[test]
fn a_stream_whose_directory_has_no_place_is_not_clean() {
    use super::support::damage::{Damage, images};
    let mut found = 0;
    for files in images() {
        let mut files = files.clone();
        // gdOffset.
        Damage::Bytes(57, vec![1]).apply(&mut files[0].1);
        let (disk, name) = (disk(&files), name_of(&files));
        let opens = vmdk::OpenOptions::new().no_parent(true).open_with(name, &disk).is_ok();
        let report = check(&disk, name).unwrap();
        assert!(opens || !report.is_clean(), "{name}: {:#?}", report.findings);
        found += usize::from(!opens);
    }
    assert!(found > 3, "only {found} do not open");
}
