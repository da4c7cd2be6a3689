//! Whenever the power goes, the disk has its old size or its new one, with what belongs into it; and the same call made
//! again ends it.

use vmdk::{BlockDevice, OpenOptions};

use super::stage::{Stage, reports};
use super::support::SECTOR;
use super::support::check::Problem;
use super::support::cowd::CowdImage;
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::disk::{Image, Kind};
use super::support::index;
use super::support::rng::Rng;
use super::support::sparse::SparseImage;

/// The mark for a call that has returned.
const DONE: u64 = 1;

/// What was seen of the states after crashes.
#[derive(Debug, Default)]
struct Seen {
    states: usize,
    old: usize,
    new: usize,
    /// What was said of the first that is wrong.
    wrong: Option<String>,
}

fn choice() -> Choice {
    let choice = Choice::new(5).exhaustive_up_to(40).random(6).singles_per_change(2);
    choice.metadata_below(20 * SECTOR as u64).written_lengths()
}

/// Looks at what crashes leave of a run, until something is wrong if that is enough.
fn look(stage: &Stage, disk: &CrashDisk, sectors: u64) -> Seen {
    let (mut seen, mut choice) = (Seen::default(), choice());
    for position in disk.positions() {
        for state in disk.states(position, &mut choice) {
            seen.states += 1;
            match judge(stage, &state.restart(), sectors, seen.states) {
                Ok(found) if found == sectors => seen.new += 1,
                Ok(_) if state.marks().contains(&DONE) => {
                    seen.wrong.get_or_insert_with(|| format!("it has the old size after all\nin the state: {state}"));
                }
                Ok(_) => seen.old += 1,
                Err(text) => {
                    seen.wrong.get_or_insert_with(|| format!("{text}\nin the state: {state}"));
                }
            }
            if seen.wrong.is_some() {
                return seen;
            }
        }
    }
    seen
}

/// How many sectors the disk has, which holds what it should; also when it was put to use, and resized again.
fn judge(stage: &Stage, disk: &CrashDisk, sectors: u64, number: usize) -> Result<u64, String> {
    let found = stage.read(disk).map_err(|error| format!("it cannot be read: {error}"))?;
    let size = (found.len() / SECTOR) as u64;
    if size != stage.sectors() && size != sectors {
        return Err(format!("it has {size} sectors"));
    }
    same(&found, &stage.expected(size), "after the crash")?;
    let mut stage = stage.clone();
    if number.is_multiple_of(3) {
        // Somebody writes to it before it is resized again, where it is in any case.
        let failed = |error: vmdk::Error| format!("it cannot be written to: {error}");
        let image = Stage::options().write(true).open_with(&stage.name, disk).map_err(failed)?;
        for sector in [0, sectors.min(stage.sectors()) / 2] {
            image.write_sectors(sector, &[7; SECTOR]).map_err(failed)?;
            stage.content[index(sector) * SECTOR..][..SECTOR].fill(7);
        }
        image.close().map_err(failed)?;
        same(&stage.read(disk).map_err(failed)?, &stage.expected(size), "when it was written to")?;
    }
    stage.resize(disk, sectors).map_err(|error| format!("it cannot be resized again: {error}"))?;
    let again = stage.read(disk).map_err(|error| format!("it cannot be read when it was resized: {error}"))?;
    same(&again, &stage.expected(sectors), "when it was resized again")?;
    for (name, report) in reports(disk) {
        // A file may end within its last grain.
        let is_bad = |problem: &Problem| !matches!(problem, Problem::Cut { .. });
        if report.unclean || report.problems.iter().any(is_bad) {
            return Err(format!("{name}, resized again: {report:?}"));
        }
    }
    Ok(size)
}

fn same(found: &[u8], expected: &[u8], when: &str) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let same = found.chunks(SECTOR).zip(expected.chunks(SECTOR)).take_while(|(one, other)| one == other).count();
    Err(format!("{when}: {} sectors, wrong from sector {same} on", found.len() / SECTOR))
}

#[track_caller]
fn crash(stage: &Stage, sectors: u64, what: &str) -> usize {
    let disk = stage.disk();
    stage.resize(&disk, sectors).unwrap();
    disk.mark(DONE);
    let seen = look(stage, &disk, sectors);
    assert!(seen.wrong.is_none(), "{what}: {}", seen.wrong.unwrap_or_default());
    assert!(seen.old > 0 && seen.new > 0, "{what}: {seen:?}");
    seen.states
}

#[test]
fn a_sparse_disk_grows_within_its_tables() {
    let stage = Stage::small(1);
    for more in [1, 5, 6, 400] {
        crash(&stage, stage.sectors() + more, &format!("{more}"));
    }
}

#[test]
fn a_sparse_disk_grows_beyond_its_tables() {
    let stage = Stage::small(2);
    let states: usize =
        [925, 1100, 4000].map(|more| crash(&stage, stage.sectors() + more, &format!("{more}"))).iter().sum();
    println!("{states} states");
    assert!(states > 120, "only {states} states");
}

#[test]
fn a_child_grows_over_a_larger_parent() {
    for zero_grains in [true, false] {
        for (of_parent, more) in [(130, 20), (130, 1100), (2000, 1200)] {
            let stage = Stage::child(zero_grains, of_parent, 3);
            crash(&stage, stage.sectors() + more, &format!("{zero_grains} {of_parent} {more}"));
        }
    }
}

#[test]
fn every_kind_of_disk_grows() {
    for kind in [
        Kind::OddLayout,
        Kind::NoRedundantTables,
        Kind::MonolithicFlat,
        Kind::TwoGbMaxExtentSparse,
        Kind::TwoGbMaxExtentFlat,
        Kind::Vmfs,
    ] {
        let stage = Stage::of(kind, 6);
        crash(&stage, stage.sectors() + 300, &format!("{kind:?}"));
    }
}

#[test]
fn a_delta_of_esx_grows() {
    let rng = &mut Rng::new(5);
    for (sectors, more) in [(20, 30), (4000, 200), (4095, 5000)] {
        let base = Image::vmfs("base.vmdk", rng.bytes(index(sectors) * SECTOR));
        let delta = CowdImage::esx(sectors);
        let delta = [3, 9, 17].into_iter().fold(delta, |delta, grain| delta.data(grain, rng.bytes(SECTOR)));
        let delta = Image::esx_delta(&base, "disk.vmdk", &delta);
        let stage = Stage::new(vec![base, delta]);
        crash(&stage, sectors + more, &format!("{sectors} {more}"));
    }
}

/// Their headers say how large they are.
#[test]
fn disks_without_a_descriptor_grow() {
    for (what, stage) in Stage::without_descriptor(6) {
        for more in [3, 40, 2000] {
            crash(&stage, stage.sectors() + more, &format!("{what} {more}"));
        }
    }
}

#[test]
fn disks_without_a_descriptor_shrink() {
    for (what, mut stage) in Stage::without_descriptor(7) {
        stage.zero_end(35);
        for fewer in [1, 35] {
            crash(&stage, stage.sectors() - fewer, &format!("{what} {fewer}"));
        }
    }
}

#[test]
fn a_split_disk_gets_more_files() {
    let rng = &mut Rng::new(5);
    // The extents of VMware's disks have 4,192,256 sectors: too many for this, so that the last one begins full.
    let grow = |stage: &Stage| {
        let disk = stage.disk();
        let sectors = stage.sectors() + 4_192_256 + 3;
        let report = stage.resize(&disk, sectors).unwrap();
        assert_eq!(report.files_added.len(), 1);
        disk.mark(DONE);
        let mut choice = choice();
        let mut states = 0;
        for position in disk.positions() {
            for state in disk.states(position, &mut choice) {
                states += 1;
                let disk = state.restart();
                let image = OpenOptions::new().open_with(&stage.name, &disk).unwrap();
                let found = image.capacity_sectors();
                assert!(found == sectors || found == stage.sectors() && !state.marks().contains(&DONE), "{state}");
                for start in [0, stage.sectors(), 4_192_256 - 2, sectors - 8] {
                    let count = found.saturating_sub(start).min(stage.sectors().max(8)).min(sectors - start);
                    let mut bytes = vec![1; index(count) * SECTOR];
                    image.read_sectors(start.min(found), &mut bytes).unwrap();
                    let expected =
                        (start..start + count).flat_map(|sector| match stage.content.get(index(sector) * SECTOR..) {
                            Some(rest) if !rest.is_empty() => rest[..SECTOR].to_vec(),
                            _ => vec![0; SECTOR],
                        });
                    assert!(bytes.iter().copied().eq(expected), "{start}: {state}");
                }
                drop(image);
                stage.resize(&disk, sectors).unwrap();
                let image = OpenOptions::new().write(true).open_with(&stage.name, &disk).unwrap();
                assert_eq!(image.capacity_sectors(), sectors);
                image.write_sectors(sectors - 1, &[9; SECTOR]).unwrap();
                image.close().unwrap();
            }
        }
        assert!(states > 8, "only {states} states");
    };
    let sparse = |rng: &mut Rng| SparseImage::new(128).data(0, rng.bytes(128 * SECTOR));
    grow(&Stage::new(vec![Image::split_sparse("disk.vmdk", &[sparse(rng)])]));
    grow(&Stage::new(vec![Image::split_flat("disk.vmdk", vec![rng.bytes(9 * SECTOR)])]));
}

#[test]
fn every_kind_of_disk_shrinks() {
    for kind in [
        Kind::SmallGrains,
        Kind::ZeroGrains,
        Kind::TwoGbMaxExtentSparse,
        Kind::TwoGbMaxExtentFlat,
        Kind::Vmfs,
        Kind::Child,
        Kind::EsxDelta,
    ] {
        let mut stage = Stage::of(kind, 6);
        let fewer = stage.sectors() / 2;
        stage.zero_end(fewer);
        crash(&stage, stage.sectors() - fewer, &format!("{kind:?}"));
    }
}

/// Its last writer was cut off: an entry names what the file does not have.
#[test]
fn what_was_never_written_does_not_come_alive_when_the_file_grows() {
    let rng = &mut Rng::new(9);
    let extent = SparseImage::new(8 * 12 + 3).grain_sectors(8).entries_per_table(128).unclean(1);
    let extent = [3, 0, 7].into_iter().fold(extent, |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)));
    let layout = extent.clone().descriptor("room for a descriptor").layout();
    for past_end in [0, 4000] {
        let place = u32::try_from(layout.end + past_end).unwrap();
        let stage = Stage::new(vec![Image::monolithic_sparse("disk.vmdk", extent.clone())]);
        let mut dead = stage.clone();
        dead.files = Image::monolithic_sparse("disk.vmdk", extent.clone().patch_u32(layout.entry(5), place)).files;
        for more in [10, 1100] {
            crash(&dead, dead.sectors() + more, &format!("{past_end} {more}"));
        }
    }
}

/// What is missing of the last grain of a file is zero, and stays so.
#[test]
fn a_file_that_ends_within_its_last_grain_grows() {
    for (seed, missing) in [(1, 3), (2, 7)] {
        let mut stage = Stage::small(seed);
        let file = &mut stage.files[0].1;
        // Grain 0 is the last one in the file.
        file.truncate(file.len() - missing * SECTOR);
        stage.content[(8 - missing) * SECTOR..8 * SECTOR].fill(0);
        for more in [10, 1100] {
            crash(&stage, stage.sectors() + more, &format!("{missing} {more}"));
        }
    }
}

/// Its directory needs another sector, and the first table stands right behind it.
#[test]
fn a_disk_without_redundant_tables_gets_a_larger_directory() {
    let rng = &mut Rng::new(2);
    let extent = SparseImage::new(99).grain_sectors(1).entries_per_table(128).without_redundant_tables();
    let extent = [11, 2, 7, 4, 0, 60].into_iter().fold(extent, |extent, grain| extent.data(grain, rng.bytes(SECTOR)));
    let stage = Stage::new(vec![Image::monolithic_sparse("disk.vmdk", extent)]);
    crash(&stage, 20_000, "a larger directory");
}

/// A disk whose tables say something of grains past its end.
fn with_junk() -> Stage {
    let rng = &mut Rng::new(9);
    let extent = SparseImage::new(8 * 12 + 3).grain_sectors(8).entries_per_table(128);
    let extent = [3, 0, 7].into_iter().fold(extent, |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)));
    let layout = extent.clone().descriptor("room for a descriptor").layout();
    let place = u32::try_from(layout.grains[&7]).unwrap();
    let entries = [20, 60].into_iter().flat_map(|grain| [layout.entry(grain), layout.redundant_entry(grain)]);
    let extent = entries.fold(extent, |extent, entry| extent.patch_u32(entry, place));
    Stage::new(vec![Image::monolithic_sparse("disk.vmdk", extent)])
}

/// Each of these syncs is left out once, and a crash then leaves something wrong. The first ones do not count: they
/// make durable what somebody may have left who was killed. Nor does one behind a file that was cut, and much of what
/// comes when the disk is smaller already only tidies up.
#[test]
fn no_sync_can_be_left_out() {
    // Over a parent with something else, so that it matters whether its zeros are still there. The descriptor is a file
    // of its own, whose name has to be durable.
    let mut smaller = Stage::of(Kind::EsxDelta, 4);
    smaller.zero_end(100);
    let hosted = Stage::hosted_child(CowdImage::vmware2(8 * 512 + 3), 6000, 3);
    for (what, stage, sectors, syncs) in [
        ("within its tables", with_junk(), 900, &[1, 2, 3][..]),
        ("beyond its tables", Stage::small(2), 1200, &[1, 2, 3, 4, 6]),
        ("over a larger parent", Stage::child(true, 2000, 3), 1300, &[1, 2, 3, 4, 5, 6, 7, 8]),
        ("a smaller one", smaller, 4096 + 77 - 100, &[3, 4, 6]),
        ("without a descriptor", hosted, 5300, &[4, 7]),
    ] {
        for &sync in syncs {
            let disk = stage.disk();
            stage.resize(&disk, sectors).unwrap();
            disk.mark(DONE);
            assert!(disk.syncs().iter().any(|(_, call)| call.number == sync), "{what}: {sync}");
            disk.ignore_sync(sync);
            assert!(look(&stage, &disk, sectors).wrong.is_some(), "{what}: without sync {sync} nothing is wrong");
        }
    }
}
