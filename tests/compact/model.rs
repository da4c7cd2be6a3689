//! Every kind of disk holds what it held, and nothing more than it needs.

use vmdk::{BlockDevice, CompactMode, Mapping, OpenOptions};

use super::stage::{MODES, Stage};
use super::support::check::Problem;
use super::support::crash::CrashDisk;
use super::support::disk::{Image, Kind};
use super::support::rng::Rng;
use super::support::sparse::{SparseImage, field};
use super::support::{SECTOR, index};

/// An entry of 1 is a grain of zeros: where the header leaves sector 1 free for grains, none moves there.
#[test]
fn no_grain_moves_where_its_entry_would_mean_zeros() {
    let rng = &mut Rng::new(3);
    let extent = SparseImage::new(1024).grain_sectors(1).descriptor_region(1, 20).descriptor("");
    let extent = (0..60).fold(extent, |extent, grain| extent.data(grain, rng.bytes(SECTOR)));
    let extent = [field::DESCRIPTOR_OFFSET, field::DESCRIPTOR_SIZE, field::OVERHEAD]
        .into_iter()
        .fold(extent, |extent, at| extent.patch_u64(at, 0));
    let stage = Stage::new(Image::split_sparse("disk.vmdk", &[extent]));
    let disk = stage.disk();
    stage.compact(&disk, CompactMode::Move).unwrap();
    assert!(stage.read(&disk).unwrap() == stage.content);
}

/// Compacts a disk, and looks at all of it.
#[track_caller]
fn compacted(stage: &Stage, mode: CompactMode, what: &str) -> (CrashDisk, vmdk::CompactReport) {
    let disk = stage.disk();
    let before = OpenOptions::new().open_with(&stage.name, &disk).unwrap().content_id();
    let report = stage.compact(&disk, mode).unwrap();
    assert!(stage.read(&disk).unwrap() == stage.content, "{what}: {report:?}");
    let image = OpenOptions::new().open_with(&stage.name, &disk).unwrap();
    assert_eq!(image.content_id(), before, "{what}");
    assert!(report.length_after <= report.length_before, "{what}: {report:?}");
    for tables in stage.reports(&disk) {
        let is_bad = |problem: &&Problem| !matches!(problem, Problem::PastCapacity { .. });
        assert_eq!(tables.problems.iter().find(is_bad), None, "{what}");
        assert!(!tables.unclean, "{what}");
    }
    // Files below it, and those that nothing was to be done about, are as they were.
    for (name, bytes) in stage.files() {
        assert!(stage.own.contains(name) || disk.live(name) == *bytes, "{what}: {name}");
    }
    let second = stage.compact(&disk, mode).unwrap();
    let done = [second.grains_unallocated, second.grains_zeroed, second.grains_punched, second.grains_moved];
    assert_eq!((done, second.length_after), ([0; 4], report.length_after), "{what}: there was more to do");
    assert!(stage.read(&disk).unwrap() == stage.content, "{what}: the second time");
    (disk, report)
}

/// Every grain that has a place in the image is one that it needs.
#[track_caller]
fn is_lean(stage: &Stage, disk: &CrashDisk, what: &str) {
    let image = OpenOptions::new().open_with(&stage.name, disk).unwrap();
    for extent in image.chain()[0].extents() {
        let Some(header) = extent.header().filter(|_| extent.access() == vmdk::Access::ReadWrite) else { continue };
        let (grain, has_zero_grains) = match header {
            vmdk::SparseHeader::Kdmv(header) => (header.grain_size, header.has_zero_grains()),
            vmdk::SparseHeader::Cowd(header) => (header.grain_size.into(), false),
            other => panic!("{other:?}"),
        };
        let mut sector = 0;
        while sector < extent.sectors() {
            let count = grain.min(extent.sectors() - sector);
            let start = extent.start_sector() + sector;
            let has_place = matches!(image.map_layer(start, count).unwrap().mapping, Mapping::Data { .. });
            let own = &stage.content[index(start) * SECTOR..index(start + count) * SECTOR];
            let is_needless =
                own == stage.below_at(start, count) || has_zero_grains && own.iter().all(|&byte| byte == 0);
            assert!(!(has_place && is_needless), "{what}: the grain at sector {start}");
            sector += count;
        }
    }
}

#[test]
fn every_kind_of_disk_holds_what_it_held_and_nothing_that_it_does_not_need() {
    let mut sums = [0; 3];
    for kind in Kind::ALL {
        for (mode, seed) in MODES.into_iter().flat_map(|mode| (0..3).map(move |seed| (mode, seed))) {
            let what = format!("{kind:?} {mode:?} {seed}");
            let stage = Stage::of(kind, seed);
            let (disk, report) = compacted(&stage, mode, &what);
            is_lean(&stage, &disk, &what);
            let parts = [report.grains_unallocated, report.grains_zeroed, report.grains_moved];
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum += part;
            }
        }
    }
    assert!(sums.iter().all(|&sum| sum > 0), "everything came to pass: {sums:?}");
}

#[test]
fn a_file_whose_grains_were_moved_has_no_gaps() {
    for kind in [Kind::MonolithicSparse, Kind::ZeroGrains, Kind::TwoGbMaxExtentSparse, Kind::Child, Kind::SmallGrains] {
        for seed in 0..3 {
            let what = format!("{kind:?} {seed}");
            let stage = Stage::of(kind, seed);
            let (disk, _) = compacted(&stage, CompactMode::Move, &what);
            for tables in stage.reports(&disk) {
                assert_eq!(tables.leaked_grains, 0, "{what}");
            }
        }
    }
}

/// Of a delta of ESX the tables lie among the grains: they have to move, too.
#[test]
fn a_delta_of_esx_becomes_as_short_as_it_can() {
    for seed in 0..4 {
        let stage = Stage::of(Kind::EsxDelta, seed);
        let (disk, report) = compacted(&stage, CompactMode::Move, &format!("{seed}"));
        let grains: u64 = stage.reports(&disk).iter().map(|report| report.data_grains).sum();
        let text = disk.storage(&stage.name).len().unwrap();
        // The header, a sector of directory, two tables, and less than a table that no grain fills.
        let most = (4 + 1 + 2 * 32 + grains) * SECTOR as u64;
        assert!(report.length_after <= text + most + 31 * SECTOR as u64, "{seed}: {grains} grains, {report:?}");
    }
}

#[test]
fn what_was_compacted_can_be_written_to() {
    for kind in Kind::ALL {
        for mode in MODES {
            let stage = Stage::of(kind, 7);
            let disk = stage.disk();
            stage.compact(&disk, mode).unwrap();
            let image = OpenOptions::new().write(true).open_with(&stage.name, &disk).unwrap();
            let mut content = stage.content.clone();
            for start in (0..image.capacity_sectors()).step_by(37) {
                if image.write_sectors(start, &[9; SECTOR]).is_ok() {
                    content[index(start) * SECTOR..][..SECTOR].fill(9);
                }
            }
            image.close().unwrap();
            assert!(stage.read(&disk).unwrap() == content, "{kind:?} {mode:?}");
        }
    }
}

#[test]
fn a_disk_with_nothing_to_gain_stays_as_it_is() {
    let stage = Stage::small(false, false, 1);
    let disk = stage.disk();
    stage.compact(&disk, CompactMode::Move).unwrap();
    let before: Vec<_> = stage.own.iter().map(|name| disk.live(name)).collect();
    stage.compact(&disk, CompactMode::Move).unwrap();
    let after: Vec<_> = stage.own.iter().map(|name| disk.live(name)).collect();
    assert!(before == after);
}
