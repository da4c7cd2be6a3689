//! Disks with more tables than are read together, some of which lie apart or in holes: what is found does not depend on
//! the threads that read them.

use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;
use vmdk::{CheckOptions, CheckReport, CopyProgress, Error, ErrorKind, FindingKind, OpenOptions};

use super::subject::{Files, disk, files_of, name_of};
use super::support::SECTOR;
use super::support::directory::FaultDirectory;
use super::support::disk::Image;
use super::support::rng::Rng;
use super::support::sparse::{Layout, SparseImage};
use super::support::storage::{Countdown, EIO, How, Operation};

/// Tables of 512 bytes: 512 of them are read together, twelve times, which is more than are ever under way.
const TABLES: u64 = 6000;
const PER_TABLE: u64 = 128;
const GRAIN: u64 = 8;

const PAST_END: u32 = 0x100_0000;

/// Thirty grains all over the disk, the last one among them.
fn extent() -> SparseImage {
    let rng = &mut Rng::new(21);
    let extent = SparseImage::new(TABLES * PER_TABLE * GRAIN).grain_sectors(GRAIN).entries_per_table(128);
    let grains = (0..30).map(|nth| (TABLES * PER_TABLE - 1) * nth / 29);
    grains.fold(extent, |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)))
}

fn image(extent: SparseImage) -> (Files, Layout) {
    let layout = extent.clone().descriptor("x").layout();
    (files_of(&[Image::monolithic_sparse("disk.vmdk", extent)]), layout)
}

fn put(files: &mut Files, at: u64, value: u32) {
    let at = usize::try_from(at).unwrap();
    files[0].1[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn check(files: &Files, threads: usize) -> Result<CheckReport, Error> {
    let options = CheckOptions::new().threads(threads);
    OpenOptions::new().check_in(name_of(files), &disk(files), &options, &mut |_| ControlFlow::Continue(()))
}

/// Kind, place and number of all that is found, whatever the threads.
#[track_caller]
fn found(files: &Files) -> Vec<(FindingKind, u64, u64)> {
    let report = check(files, 1).unwrap();
    for threads in [2, 3, 50] {
        assert_eq!(format!("{:?}", check(files, threads).unwrap()), format!("{report:?}"), "{threads} threads");
    }
    let mut found: Vec<_> =
        report.findings.iter().map(|found| (found.kind, found.host.clone().unwrap().start, found.count)).collect();
    found.sort_unstable();
    found
}

#[test]
fn a_sound_disk_is_clean() {
    for extent in [extent(), extent().omit_empty_tables(), extent().without_redundant_tables()] {
        assert_eq!(found(&image(extent).0), []);
    }
}

#[test]
fn what_is_wrong_is_found_in_each_part() {
    let (mut files, layout) = image(extent());
    let mut expected = Vec::new();
    // The ends of the parts, and what is between them.
    for (number, table) in (0_u32..).zip([0, 1, 511, 512, 700, 1023, 1024, 3333, 5631, 5632, 5999]) {
        let grain = table * PER_TABLE + 77;
        put(&mut files, layout.entry(grain), PAST_END);
        put(&mut files, layout.redundant_entry(grain + 1), PAST_END + number);
        expected.push((FindingKind::GrainPastEnd, layout.entry(grain), 1));
        expected.push((FindingKind::CopyDiffers, layout.entry(grain + 1), 1));
    }
    expected.sort_unstable();
    assert_eq!(found(&files), expected);
}

#[test]
fn tables_that_lie_elsewhere_and_those_that_cannot_be_read_are_no_hindrance() {
    let (mut files, layout) = image(extent());
    let directory = |table: u64| layout.gd * SECTOR as u64 + table * 4;
    let end = files[0].1.len();
    // Table 600 is moved behind everything, 601 is nowhere, and of 1100 only the copy is left.
    let old = usize::try_from(layout.entry(600 * PER_TABLE)).unwrap();
    let table = files[0].1[old..old + 512].to_vec();
    files[0].1.extend(table);
    files[0].1.resize(end + 8 * SECTOR, 0);
    put(&mut files, directory(600), u32::try_from(end / SECTOR).unwrap());
    put(&mut files, directory(601), PAST_END);
    put(&mut files, directory(1100), 0);
    put(&mut files, end as u64 + 77 * 4, PAST_END);
    assert_eq!(
        found(&files),
        [
            (FindingKind::TablePlace, directory(601), 1),
            (FindingKind::LoneCopy, directory(1100), 1),
            (FindingKind::GrainPastEnd, end as u64 + 77 * 4, 1)
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_damage_is_found_alike(
        damage in prop::collection::vec((0..TABLES, 0..4_u8, 0..PER_TABLE, 0..70_000_u32), 0..60),
        omit in any::<bool>(),
    ) {
        let (mut files, layout) = image(if omit { extent().omit_empty_tables() } else { extent() });
        for (table, place, entry, value) in damage {
            let (grain, end) = (table * PER_TABLE + entry, files[0].1.len() as u64);
            let (gd, rgd) = (layout.gd * SECTOR as u64, layout.rgd * SECTOR as u64);
            // Of tables that are left out there is nothing to damage.
            let is_there = layout.gt[usize::try_from(table).unwrap()] != 0;
            let at = match place {
                0 if is_there => layout.entry(grain),
                1 if is_there => layout.redundant_entry(grain),
                2 => gd + table * 4,
                _ => rgd + table * 4,
            };
            if at < end {
                put(&mut files, at, value);
            }
        }
        found(&files);
    }
}

#[test]
fn a_read_that_fails_is_an_error_and_work_can_be_stopped() {
    let (files, _) = image(extent());
    let name = name_of(&files);
    for threads in [1, 2, 4] {
        let options = CheckOptions::new().threads(threads);
        let countdown: Arc<Countdown> = Arc::default();
        let run = || {
            let directory = FaultDirectory::new(disk(&files), &countdown);
            OpenOptions::new().check_in(name, &directory, &options, &mut |_| ControlFlow::Continue(()))
        };
        assert!(run().unwrap().is_clean());
        let calls = countdown.seen();
        let reads = (0..).zip(&calls).filter(|(_, call)| **call == Operation::Read).map(|(nth, _)| nth);
        let mut failed = 0;
        for nth in reads {
            countdown.arm(nth, How::Refused, EIO);
            let error = run().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert!(error.to_string().contains("disk.vmdk"), "{error}");
            failed += 1;
        }
        // Two sides of each part, and what comes before.
        assert!(failed > 24, "{failed} reads");
        countdown.disarm();
        let mut calls = 0;
        let mut stop = |progress: CopyProgress| {
            calls += 1;
            assert!(progress.done < progress.total, "all was looked at before");
            ControlFlow::Break(())
        };
        let stopped = OpenOptions::new().check_in(name, &disk(&files), &options, &mut stop);
        assert_eq!((stopped.unwrap_err().kind(), calls), (ErrorKind::Cancelled, 1));
    }
}
