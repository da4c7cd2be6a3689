//! Where things are in a resized disk, and what its descriptor says: what a new one of that size would have.

use vmdk::{CreateOptions, CreateType, Geometry, OpenOptions, SparseHeader};

use super::stage::{Stage, reports};
use super::support::cowd::{CowdImage, field};
use super::support::crash::CrashDisk;
use super::support::disk::{Image, Kind, Part};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;
use super::support::{SECTOR, index};

const NAME: &str = "disk.vmdk";

fn created(create_type: &CreateType, sectors: u64) -> CrashDisk {
    let disk = CrashDisk::new([]);
    CreateOptions::new().create_type(create_type.clone()).capacity_sectors(sectors).create_in(NAME, &disk).unwrap();
    disk
}

/// An empty disk that was made and then resized.
#[track_caller]
fn resized(create_type: &CreateType, from: u64, to: u64) -> CrashDisk {
    let disk = created(create_type, from);
    let stage = Stage { name: NAME.to_owned(), content: vec![0; index(from) * SECTOR], files: Vec::new() };
    let report = stage.resize(&disk, to).unwrap();
    assert_eq!(report.grains_moved, 0);
    disk
}

/// A descriptor without what is drawn at random.
fn text(disk: &CrashDisk) -> String {
    let image = OpenOptions::new().open_with(NAME, disk).unwrap();
    let text = String::from_utf8(image.descriptor().as_bytes().to_vec()).unwrap();
    let is_drawn = |line: &&str| line.starts_with("CID=") || line.contains("longContentID") || line.contains("uuid");
    text.trim_end_matches('\0').lines().filter(|line| !is_drawn(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_empty_disk_that_grew_is_as_a_new_one() {
    // Sizes with which the geometry of SCSI disks changes, the tables do, and the extents.
    for create_type in [
        CreateType::MonolithicSparse,
        CreateType::MonolithicFlat,
        CreateType::TwoGbMaxExtentSparse,
        CreateType::TwoGbMaxExtentFlat,
        CreateType::Vmfs,
        CreateType::VmfsSparse,
    ] {
        for (from, to) in [(100, 20_480), (20_480, 70_000), (1 << 20, 3 << 20), (20_480, 9_000_000)] {
            let (grown, new) = (resized(&create_type, from, to), created(&create_type, to));
            let what = format!("{create_type} from {from} to {to}");
            assert_eq!(text(&grown), text(&new), "{what}");
            assert_eq!(grown.names(), new.names(), "{what}");
            let is_cowd = create_type == CreateType::VmfsSparse;
            for name in new.names().into_iter().filter(|name| name != NAME && !is_cowd) {
                let (grown, new) = (grown.storage(&name), new.storage(&name));
                assert_eq!(grown.len().unwrap(), new.len().unwrap(), "{what}: {name}");
                assert_eq!(head(&*grown), head(&*new), "{what}: {name}");
            }
            if create_type == CreateType::MonolithicSparse {
                let mut bytes = [grown.live(NAME), new.live(NAME)];
                // But for what the descriptor draws.
                for bytes in &mut bytes {
                    bytes[SECTOR..21 * SECTOR].fill(0);
                }
                assert!(bytes[0] == bytes[1], "{what}");
            }
            for (name, report) in reports(&grown) {
                assert!(report.problems.is_empty() && !report.unclean, "{what}: {name}: {report:?}");
            }
        }
    }
}

/// The beginning of a file.
fn head(storage: &dyn vmdk::Storage) -> Vec<u8> {
    let mut bytes = vec![0; index(storage.len().unwrap().min(600 * SECTOR as u64))];
    storage.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn grains_move_out_of_the_way_of_larger_tables() {
    let stage = Stage::of(Kind::MonolithicSparse, 3);
    let disk = stage.disk();
    // 30 tables more take 246 sectors, the first two grains.
    let sectors = stage.sectors() + 30 * 65_536;
    let options = vmdk::ResizeOptions::new();
    let mut told = Vec::new();
    let mut tell = |now: vmdk::CopyProgress| {
        told.push((now.done, now.total));
        std::ops::ControlFlow::Continue(())
    };
    let report = OpenOptions::new().resize_in(&stage.name, &disk, sectors, options, &mut tell).unwrap();
    assert_eq!(report.grains_moved, 2, "{report:?}");
    assert!(told.iter().all(|(done, total)| done <= total));
    let image = OpenOptions::new().open_with(&stage.name, &disk).unwrap();
    let Some(SparseHeader::Kdmv(header)) = image.chain()[0].header() else { panic!() };
    let expected = (sectors, 21, 21 + 1 + 31 * 4, 384);
    assert_eq!((header.capacity, header.rgd_offset, header.gd_offset, header.over_head), expected);
    drop(image);
    let [(_, tables)] = &reports(&disk)[..] else { panic!() };
    assert!(tables.problems.is_empty(), "{tables:?}");
    let image = OpenOptions::new().open_with(&stage.name, &disk).unwrap();
    let mut content = vec![0; stage.content.len()];
    vmdk::BlockDevice::read_sectors(&image, 0, &mut content).unwrap();
    assert!(content == stage.content);
    assert_eq!(image.geometry(), Some(Geometry::of_disk(&vmdk::AdapterType::Ide, sectors)));
}

#[test]
fn files_of_a_split_disk_come_and_go() {
    let split = 4_192_256;
    let disk = created(&CreateType::TwoGbMaxExtentSparse, 1000);
    let resize = |sectors: u64| {
        let options = vmdk::ResizeOptions::new().allow_shrink(true);
        OpenOptions::new().resize_in(NAME, &disk, sectors, options, &mut super::stage::go_on).unwrap()
    };
    assert_eq!(resize(2 * split + 5).files_added, ["disk-s002.vmdk", "disk-s003.vmdk"]);
    let sizes = || {
        let image = OpenOptions::new().open_with(NAME, &disk).unwrap();
        image.chain()[0].extents().iter().map(vmdk::Extent::sectors).collect::<Vec<_>>()
    };
    assert_eq!(sizes(), [split, split, 5]);
    assert_eq!(resize(split).files_removed, ["disk-s002.vmdk", "disk-s003.vmdk"]);
    assert_eq!((sizes(), disk.names().len()), (vec![split], 2));
    // A name that is in use is left alone.
    vmdk::Directory::create(&disk, "disk-s002.vmdk", "disk-s002.vmdk").unwrap();
    assert_eq!(resize(split + 7).files_added, ["disk-s003.vmdk"]);
    assert_eq!(sizes(), [split, 7]);
}

#[test]
fn a_file_that_holds_something_else_as_well_stays() {
    let rng = &mut Rng::new(1);
    let own = rng.bytes(8 * SECTOR);
    let mut shared = rng.bytes(40 * SECTOR);
    shared[8 * SECTOR..16 * SECTOR].fill(0);
    let parts = vec![
        Part::flat_in("RW", "one", 0, &own).with_file("one", own.clone()),
        Part::flat_in("RW", "two", 8, &shared[8 * SECTOR..16 * SECTOR]).with_file("two", shared.clone()),
    ];
    let files = Image::of_parts(NAME, "custom", parts).files;
    let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
    let options = vmdk::ResizeOptions::new().allow_shrink(true);
    let report = OpenOptions::new().resize_in(NAME, &disk, 8, options, &mut super::stage::go_on).unwrap();
    assert_eq!(report.files_removed, [""; 0]);
    assert!(disk.live("two") == shared);
}

#[test]
fn what_no_new_file_can_be_like_is_refused_before_anything_changes() {
    let extent = SparseImage::new(1024).grain_sectors(256).data(0, vec![7; 256 * SECTOR]);
    let stage = Stage::new(vec![Image::split_sparse(NAME, &[extent])]);
    let disk = stage.disk();
    assert_eq!(stage.resize(&disk, 5_000_000).unwrap_err().kind(), vmdk::ErrorKind::InvalidInput);
    for (name, bytes) in &stage.files {
        assert!(disk.live(name) == *bytes, "{name}");
    }
}

#[test]
fn a_flat_disk_has_a_file_of_its_size() {
    for kind in [Kind::MonolithicFlat, Kind::Vmfs, Kind::TwoGbMaxExtentFlat] {
        let mut stage = Stage::of(kind, 1);
        stage.zero_end(20);
        for sectors in [stage.sectors() + 1000, stage.sectors() - 20] {
            let disk = stage.disk();
            stage.resize(&disk, sectors).unwrap();
            let files = disk.names().into_iter().filter(|name| *name != stage.name);
            let sum: u64 = files.map(|name| disk.storage(&name).len().unwrap()).sum();
            assert_eq!(sum, sectors * SECTOR as u64, "{kind:?}");
        }
    }
}

/// Its other readers go by the numbers behind, too.
#[test]
fn the_header_of_a_disk_without_a_descriptor_follows() {
    const CYLINDERS: u64 = 10;
    let u32_at = |disk: &CrashDisk, name: &str, at: u64| {
        u64::from(u32::from_le_bytes(disk.live(name)[index(at)..][..4].try_into().unwrap()))
    };
    let file = CowdImage::vmware3(9 * 1008).generation(7);
    let file = (0..).zip([9, 16, 63]).fold(file, |file, (at, number)| file.patch_u32(1656 + 4 * at, number));
    let stage = Stage::new(vec![Image::hosted_cowd("disk.vmdk", &[file], None)]);
    let disk = stage.disk();
    stage.resize(&disk, CYLINDERS * 1008 + 5).unwrap();
    let field = |at| u32_at(&disk, "disk.vmdk", at);
    assert_eq!([field(field::NUM_SECTORS), field(field::DISK_SECTORS)], [CYLINDERS * 1008 + 5; 2]);
    assert_eq!([32, 36, 40, 1656, 1660, 1664].map(field), [CYLINDERS, 16, 63, CYLINDERS, 16, 63]);
    assert_ne!(field(field::GENERATION), 7, "its children must notice");
    assert_eq!(field(field::GENERATION), field(field::SAVED_GENERATION), "closed");

    let parts = [CowdImage::vmware3(100).file_of(0, 2, 190, 100), CowdImage::vmware3(90).file_of(1, 2, 190, 500)];
    let stage = Stage::new(vec![Image::hosted_cowd("disk.vmdk", &parts, None)]);
    let disk = stage.disk();
    stage.resize(&disk, 300).unwrap();
    for (name, sectors) in [("disk.vmdk", 100), ("disk-02.vmdk", 200)] {
        assert_eq!([field::NUM_SECTORS, field::DISK_SECTORS].map(|at| u32_at(&disk, name, at)), [sectors, 300]);
    }
}
