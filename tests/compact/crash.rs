//! Whenever the power goes, the disk holds what it held, and can be compacted again.

use vmdk::{BlockDevice, CompactMode, OpenOptions};

use super::stage::{MODES, Stage};
use super::support::check::Problem;
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::disk::Kind;
use super::support::{SECTOR, index};

/// What was seen of the states after crashes.
#[derive(Debug, Default)]
struct Seen {
    states: usize,
    /// What was said of the first that is wrong.
    wrong: Option<String>,
}

/// Looks at what crashes leave of a run, until something is wrong.
fn look(stage: &Stage, disk: &CrashDisk, mode: CompactMode) -> Seen {
    let mut choice = Choice::new(6).exhaustive_up_to(40).random(6).singles_per_change(2);
    choice = choice.metadata_below(30 * SECTOR as u64).written_lengths();
    let mut seen = Seen::default();
    for position in disk.positions() {
        for state in disk.states(position, &mut choice) {
            seen.states += 1;
            if let Err(text) = judge(stage, &state.restart(), mode, seen.states) {
                seen.wrong = Some(format!("{text}\nin the state: {state}"));
                return seen;
            }
        }
    }
    seen
}

fn judge(stage: &Stage, disk: &CrashDisk, mode: CompactMode, number: usize) -> Result<(), String> {
    let holds = |content: &[u8], when: &str| {
        let found = stage.read(disk).map_err(|error| format!("it cannot be read {when}: {error}"))?;
        let same = found.chunks(SECTOR).zip(content.chunks(SECTOR)).take_while(|(one, other)| one == other).count();
        if found == content { Ok(()) } else { Err(format!("wrong from sector {same} on {when}")) }
    };
    holds(&stage.content, "after the crash")?;
    let mut content = stage.content.clone();
    if number.is_multiple_of(3) {
        let failed = |error: vmdk::Error| format!("it cannot be written to: {error}");
        let image = OpenOptions::new().write(true).open_with(&stage.name, disk).map_err(failed)?;
        let sectors = image.capacity_sectors();
        for sector in [0, sectors / 3, sectors - 1] {
            image.write_sectors(sector, &[7; SECTOR]).map_err(failed)?;
            content[index(sector) * SECTOR..][..SECTOR].fill(7);
        }
        image.close().map_err(failed)?;
        holds(&content, "when it was written to")?;
    }
    stage.compact(disk, mode).map_err(|error| format!("it cannot be compacted again: {error}"))?;
    holds(&content, "when it was compacted again")?;
    for report in stage.reports(disk) {
        let is_bad = |problem: &&Problem| !matches!(problem, Problem::PastCapacity { .. });
        if report.unclean || report.problems.iter().any(|problem| is_bad(&problem)) {
            return Err(format!("compacted again: {report:?}"));
        }
    }
    Ok(())
}

#[track_caller]
fn crash(stage: &Stage, mode: CompactMode, what: &str) -> usize {
    let disk = stage.disk();
    stage.compact(&disk, mode).unwrap();
    let seen = look(stage, &disk, mode);
    assert!(seen.wrong.is_none(), "{what}: {}", seen.wrong.unwrap_or_default());
    seen.states
}

#[test]
fn a_small_disk_holds_what_it_held() {
    let mut states = 0;
    for (with_parent, zero_grains) in [(false, false), (true, false), (true, true)] {
        for (mode, seed) in MODES.into_iter().flat_map(|mode| (0..4).map(move |seed| (mode, seed))) {
            let stage = Stage::small(with_parent, zero_grains, seed);
            states += crash(&stage, mode, &format!("{with_parent} {zero_grains} {mode:?} {seed}"));
        }
    }
    println!("{states} states");
    assert!(states > 400, "only {states} states");
}

#[test]
fn every_kind_of_disk_holds_what_it_held() {
    for kind in [
        Kind::OddLayout,
        Kind::NoRedundantTables,
        Kind::TwoGbMaxExtentSparse,
        Kind::Child,
        Kind::EsxDelta,
        Kind::Vmware3,
    ] {
        crash(&Stage::of(kind, 4), CompactMode::Move, &format!("{kind:?}"));
    }
}

#[test]
fn a_delta_whose_tables_move_holds_what_it_held() {
    let stage = Stage::delta(5);
    let disk = stage.disk();
    let report = stage.compact(&disk, CompactMode::Move).unwrap();
    // The second table and what comes behind it has gone down to where the first grains were.
    assert!(report.length_before - report.length_after >= 40 * SECTOR as u64, "{report:?}");
    crash(&stage, CompactMode::Move, "a delta of ESX");
}

/// Entries were taken back and nobody has synced them: what they named may be what the disk names after a crash.
#[test]
fn what_a_killed_writer_has_left_is_made_durable_first() {
    for seed in 0..3 {
        let stage = Stage::small(false, false, seed);
        let disk = stage.disk();
        let image = OpenOptions::new().write(true).open_with(&stage.name, &disk).unwrap();
        let sectors = image.capacity_sectors();
        image.write_zeroes(0, sectors / 2, true).unwrap();
        let image = (image.close().unwrap(), image);
        let mut content = stage.content.clone();
        content[..index(sectors / 2) * SECTOR].fill(0);
        // None of its syncs has made anything durable.
        let synced = disk.syncs().len();
        disk.ignore_syncs(move |sync| sync.number < synced);
        drop(image);
        stage.compact(&disk, CompactMode::Move).unwrap();
        let mut choice = Choice::new(6).exhaustive_up_to(40).random(12).singles_per_change(2).written_lengths();
        for position in disk.positions() {
            for state in disk.states(position, &mut choice) {
                // Each sector is as before all this, or as it was to be.
                let found = stage.read(&state.restart()).unwrap_or_else(|error| panic!("{error}: {state}"));
                let chunks = found.chunks(SECTOR).zip(stage.content.chunks(SECTOR)).zip(content.chunks(SECTOR));
                for (sector, ((found, old), new)) in chunks.enumerate() {
                    assert!(found == old || found == new, "sector {sector}: {state}");
                }
            }
        }
    }
}

/// Each sync that guards something is left out once, and a crash then leaves something wrong.
#[test]
fn no_sync_can_be_left_out() {
    let stage = Stage::small(true, true, 2);
    let disk = stage.disk();
    let report = stage.compact(&disk, CompactMode::Move).unwrap();
    assert!(report.grains_unallocated > 0 && report.grains_moved > 0, "{report:?}");
    let syncs = disk.syncs().len();
    let mut needless = Vec::new();
    for sync in 0..syncs {
        let disk = stage.disk();
        stage.compact(&disk, CompactMode::Move).unwrap();
        disk.ignore_sync(sync);
        if look(&stage, &disk, CompactMode::Move).wrong.is_none() {
            needless.push(sync);
        }
    }
    // The last one makes durable that the file is closed, and shorter.
    assert_eq!(needless, [syncs - 1]);
}
