//! Every kind of disk, larger and smaller: what is in both sizes stays, and what comes is zero.

use vmdk::{BlockDevice, ErrorKind, OpenOptions, ResizeOptions, SparseHeader};

use super::stage::{Stage, go_on, reports};
use super::support::check::Problem;
use super::support::cowd::{CowdImage, field};
use super::support::crash::CrashDisk;
use super::support::disk::{Image, Kind};
use super::support::rng::Rng;
use super::support::{SECTOR, index};

/// Whether a kind can have another size: of the others one has an extent at its end that nobody may write, and one
/// files that are as large as they can be.
fn is_resizable(kind: Kind) -> bool {
    !matches!(kind, Kind::Custom | Kind::Vmware3)
}

#[track_caller]
fn resized(stage: &Stage, disk: &CrashDisk, sectors: u64, what: &str) {
    let id = |disk: &CrashDisk| {
        let image = OpenOptions::new().open_with(&stage.name, disk).unwrap();
        image.content_id().map(vmdk::ContentId::value).or_else(|| {
            let header = image.chain()[0].header().and_then(SparseHeader::as_cowd);
            header.map(|header| header.generation)
        })
    };
    let (before, old) = (id(disk), stage.read(disk).unwrap().len() / SECTOR);
    let report = stage.resize(disk, sectors).unwrap();
    assert_eq!((report.old_sectors, report.new_sectors), (old as u64, sectors), "{what}");
    let found = stage.read(disk).unwrap();
    let expected = stage.expected(sectors);
    if found != expected {
        let same = found.chunks(SECTOR).zip(expected.chunks(SECTOR)).take_while(|(one, other)| one == other).count();
        panic!("{what}: {} sectors of {sectors}, wrong from sector {same} on", found.len() / SECTOR);
    }
    assert!(before.is_none() || id(disk) != before, "{what}: its children must notice");
    for (name, tables) in reports(disk) {
        assert!(!tables.unclean, "{what}: {name}");
        let is_bad = |problem: &&Problem| !matches!(problem, Problem::PastCapacity { .. }) || name == stage.name;
        assert_eq!(tables.problems.iter().find(is_bad), None, "{what}: {name}");
    }
    // It can be written to where it has grown, and where it was.
    let image = Stage::options().write(true).open_with(&stage.name, disk).unwrap();
    let mut content = expected;
    for sector in [sectors - 1, sectors / 2, 0] {
        image.write_sectors(sector, &[7; SECTOR]).unwrap();
        content[index(sector) * SECTOR..][..SECTOR].fill(7);
    }
    image.close().unwrap();
    assert!(stage.read(disk).unwrap() == content, "{what}: written to");
}

#[test]
fn every_kind_of_disk_becomes_larger_and_what_comes_is_zero() {
    let rng = &mut Rng::new(3);
    for kind in Kind::ALL.into_iter().filter(|&kind| is_resizable(kind)) {
        let stage = Stage::of(kind, 1);
        for more in [1, 1 + rng.below(100), 128, 9000] {
            resized(&stage, &stage.disk(), stage.sectors() + more, &format!("{kind:?} {more}"));
        }
    }
}

/// Their headers say how large they are.
#[test]
fn disks_without_a_descriptor_become_larger_and_smaller() {
    for seed in 0..3 {
        for (what, stage) in Stage::without_descriptor(seed) {
            for more in [1, 5, 13, 128, 900, 4000] {
                resized(&stage, &stage.disk(), stage.sectors() + more, &format!("{what} {more}"));
            }
            let mut stage = stage.clone();
            stage.zero_end(60);
            let disk = stage.disk();
            for fewer in [1, 30, 60] {
                resized(&stage, &stage.disk(), stage.sectors() - fewer, &format!("{what} -{fewer}"));
            }
            stage.resize(&disk, stage.sectors() - 50).unwrap();
            stage.resize(&disk, stage.sectors() + 100).unwrap();
            assert!(stage.read(&disk).unwrap() == stage.expected(stage.sectors() + 100), "{what}");
        }
    }
}

/// A directory that needs another sector, and tables of a size that nothing tells.
#[test]
fn disks_of_vmware_2_and_3_get_larger_directories() {
    let rng = &mut Rng::new(3);
    for (extent, sectors) in [
        (CowdImage::vmware2(100 * 512), 200 * 512),
        (CowdImage::vmware3(100 * 512), 300 * 512 + 3),
        (CowdImage::vmware2(77), 130 * 4096 + 1),
        (CowdImage::vmware3(77), 200 * 512),
    ] {
        let extent = extent.grain_sectors(1);
        let extent = [60, 3, 76].into_iter().fold(extent, |extent, grain| extent.data(grain, rng.bytes(SECTOR)));
        let stage = Stage::new(vec![Image::hosted_cowd("disk.vmdk", &[extent], None)]);
        resized(&stage, &stage.disk(), sectors, &format!("{sectors}"));
    }
}

#[test]
fn usual_tables_become_two() {
    for kind in [Kind::MonolithicSparse, Kind::TwoGbMaxExtentSparse, Kind::Child] {
        let stage = Stage::of(kind, 2);
        resized(&stage, &stage.disk(), stage.sectors() + 65_536, &format!("{kind:?}"));
    }
}

#[test]
fn small_tables_become_many() {
    for seed in 0..4 {
        let stage = Stage::small(seed);
        for more in [1, 5, 900, 1024, 3000, 20_000] {
            resized(&stage, &stage.disk(), stage.sectors() + more, &format!("{seed} {more}"));
        }
    }
}

#[test]
fn what_grows_over_a_larger_parent_is_zero() {
    for zero_grains in [true, false] {
        for of_parent in [100, 105, 200, 1500, 3000] {
            let stage = Stage::child(zero_grains, of_parent, 5);
            for more in [1, 4, 5, 13, 500, 2000, 5000] {
                let what = format!("{zero_grains} {of_parent} {more}");
                resized(&stage, &stage.disk(), stage.sectors() + more, &what);
            }
        }
    }
}

#[test]
fn every_kind_of_disk_becomes_smaller_if_nothing_is_lost() {
    let rng = &mut Rng::new(4);
    for kind in Kind::ALL.into_iter().filter(|&kind| is_resizable(kind)) {
        for seed in 0..3 {
            let mut stage = Stage::of(kind, seed);
            let zeros = 1 + rng.below(stage.sectors() - 1);
            stage.zero_end(zeros);
            for fewer in [1, zeros / 2, zeros].into_iter().filter(|&fewer| fewer > 0) {
                resized(&stage, &stage.disk(), stage.sectors() - fewer, &format!("{kind:?} {seed} {fewer}"));
            }
        }
    }
}

#[test]
fn a_disk_that_was_larger_before_grows_with_zeros() {
    let rng = &mut Rng::new(5);
    for kind in Kind::ALL.into_iter().filter(|&kind| is_resizable(kind)) {
        for seed in 0..2 {
            let what = format!("{kind:?} {seed}");
            let mut stage = Stage::of(kind, seed);
            let zeros = 1 + rng.below(stage.sectors() - 1);
            stage.zero_end(zeros);
            let disk = stage.disk();
            let (all, fewer) = (stage.sectors(), stage.sectors() - zeros);
            stage.resize(&disk, fewer).unwrap();
            assert!(stage.read(&disk).unwrap() == stage.expected(fewer), "{what}");
            stage.resize(&disk, all + 100).unwrap();
            assert!(stage.read(&disk).unwrap() == stage.expected(all + 100), "{what}");
        }
    }
}

#[test]
fn nothing_is_lost_that_is_not_zero() {
    for kind in Kind::ALL.into_iter().filter(|&kind| is_resizable(kind)) {
        let mut stage = Stage::of(kind, 9);
        stage.zero_end(40.min(stage.sectors() - 1));
        let last = stage.content.chunks(SECTOR).rposition(|sector| sector.iter().any(|&byte| byte != 0)).unwrap();
        let disk = stage.disk();
        let error = stage.resize(&disk, last as u64).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{kind:?}");
        for (name, bytes) in &stage.files {
            assert!(disk.live(name) == *bytes, "{kind:?}: {name}");
        }
        if last as u64 + 1 < stage.sectors() {
            resized(&stage, &disk, last as u64 + 1, &format!("{kind:?}"));
        }
    }
}

#[test]
fn what_an_extent_holds_beyond_the_disk_does_not_come_to_light() {
    // The descriptor of the disk has fewer sectors than the extent, where grains hold something.
    let mut stage = Stage::small(1);
    let sectors = 8 * 9 + 2;
    let text = "RW 99 SPARSE";
    let file = &mut stage.files[0].1;
    let at = file.windows(text.len()).position(|bytes| bytes == text.as_bytes()).unwrap();
    file[at..at + text.len()].copy_from_slice(format!("RW {sectors} SPARSE").as_bytes());
    stage.content.truncate(index(sectors) * SECTOR);
    for more in [1, 10, 25, 26, 2000] {
        resized(&stage, &stage.disk(), sectors + more, &format!("{more}"));
    }
}

#[test]
fn the_same_size_changes_nothing() {
    for kind in Kind::ALL.into_iter().filter(|&kind| is_resizable(kind)) {
        let stage = Stage::of(kind, 2);
        let disk = stage.disk();
        let options = ResizeOptions::new();
        OpenOptions::new().resize_in(&stage.name, &disk, stage.sectors(), options, &mut go_on).unwrap();
        for (name, bytes) in &stage.files {
            assert!(disk.live(name) == *bytes, "{kind:?}: {name}");
        }
    }
}

/// Of a disk of VMware 3 that was not closed an entry names what the file does not have. Whoever marks it as closed has
/// put that right.
#[test]
fn a_disk_of_vmware_3_that_was_not_closed_is_put_right_before_it_is_marked_as_closed() {
    let rng = &mut Rng::new(8);
    let part = |ordinal, rng: &mut Rng| {
        CowdImage::vmware3(1000).file_of(ordinal, 2, 2000, 5000).generation(5).data(0, rng.bytes(9))
    };
    let unclean = |extent: CowdImage| {
        let entry = extent.clone().data(1, [1]).layout().entry(3);
        extent.data(1, [1]).patch_u32(entry, 100_000).patch_u32(field::GENERATION, 6)
    };
    let alone = [unclean(CowdImage::vmware3(1000).generation(5).data(0, rng.bytes(9)))];
    let first = [unclean(part(0, rng)), part(1, rng)];
    for (what, files) in [("in one file", &alone[..]), ("in two files", &first[..])] {
        let stage = Stage::new(vec![Image::hosted_cowd("disk.vmdk", files, None)]);
        let write = |disk: &CrashDisk, sector: u64| {
            let image = OpenOptions::new().write(true).open_with("disk.vmdk", disk).unwrap();
            image.write_sectors(sector, &[7; SECTOR]).unwrap_or_else(|error| panic!("{what}: {error}"));
            image.close().unwrap();
        };
        for more in [0, 400] {
            let disk = stage.disk();
            stage.resize(&disk, stage.sectors() + more).unwrap();
            write(&disk, 0);
        }
        // A write to another file says nothing of this one.
        let disk = stage.disk();
        write(&disk, stage.sectors() - 1);
        write(&disk, 0);
        write(&disk, 3 * 128);
    }
}
