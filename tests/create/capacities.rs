//! Every type in many sizes: what is made is empty and sound, takes writes at all its edges, and has them when it is
//! opened again.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use vmdk::{
    BlockDevice, BlockStatus, CacheMode, CreateOptions, CreateType, ErrorKind, FileStorage, OpenOptions, Storage,
    VmdkImage,
};

use super::support::SECTOR;
use super::support::model::MemoryDevice;
use super::{SPLIT, check_extents, expect_patterns, names_in, new_disk, open_to_write, pattern};

/// Sectors that a grain table covers: of a hosted extent with grains of 64 KiB, of a COWD extent with the smallest.
const TABLE: u64 = 65_536;
const COWD_TABLE: u64 = 4096;
/// The last size that a COWD extent has a number for.
const COWD_MOST: u64 = 4_294_967_295;
const TIB: u64 = 1 << 31;

/// A disk of more files than this is not opened for writing.
const MANY_FILES: usize = 100;

const CAPACITIES: [u64; 16] = [
    1,
    7,
    127,
    128,
    129,
    COWD_TABLE - 1,
    COWD_TABLE,
    COWD_TABLE + 1,
    TABLE - 1,
    TABLE,
    TABLE + 1,
    SPLIT - 1,
    SPLIT,
    SPLIT + 1,
    2 * SPLIT + 1,
    2 * TIB,
];

/// Where writes go: the ends of the disk, and both sides of the first and last borders of whatever has that size.
fn edges(capacity: u64, pieces: &[u64]) -> BTreeSet<u64> {
    let mut edges = BTreeSet::from([0, capacity - 1]);
    for piece in pieces {
        let borders = (capacity - 1) / piece;
        for number in [1, 2, borders / 2, borders.saturating_sub(1), borders] {
            if (1..=borders).contains(&number) {
                edges.extend([number * piece - 1, number * piece]);
            }
        }
    }
    edges
}

/// The sizes of the extents that a disk has.
fn extent_sizes(create_type: &CreateType, capacity: u64) -> Vec<u64> {
    match create_type {
        CreateType::TwoGbMaxExtentSparse | CreateType::TwoGbMaxExtentFlat => {
            let mut sizes = vec![SPLIT; usize::try_from(capacity / SPLIT).unwrap()];
            sizes.extend(Some(capacity % SPLIT).filter(|&rest| rest > 0));
            sizes
        }
        _ => vec![capacity],
    }
}

/// How many files have grains, and how many grains.
fn grains(create_type: &CreateType, grain: u64, edges: &BTreeSet<u64>) -> usize {
    let split = if *create_type == CreateType::TwoGbMaxExtentSparse { SPLIT } else { u64::MAX };
    edges.iter().map(|sector| (sector / split, sector % split / grain)).collect::<BTreeSet<_>>().len()
}

/// Makes a disk, writes to it, and looks at it before, in between and afterwards.
fn make_and_use(options: &CreateOptions, create_type: &CreateType, capacity: u64, grain: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    options.create(&path).unwrap_or_else(|error| panic!("{create_type} of {capacity}: {error}"));

    let new = VmdkImage::open(&path).unwrap();
    assert_eq!((new.capacity_sectors(), new.create_type()), (capacity, Some(create_type)));
    let extents = new.chain()[0].extents();
    let sizes: Vec<_> = extents.iter().map(vmdk::Extent::sectors).collect();
    assert_eq!(sizes, extent_sizes(create_type, capacity), "{create_type}");
    let is_flat = extents[0].header().is_none();
    let files = sizes.len() + usize::from(*create_type != CreateType::MonolithicSparse);
    assert_eq!(names_in(dir.path()).len(), files, "{create_type} of {capacity}: files");
    assert_eq!(new.chain()[0].warnings(), [""; 0]);
    if !is_flat {
        // A flat disk is as much of a hole as the host says.
        let (status, mut known) = new.block_status(0, capacity).unwrap();
        while known < capacity {
            let (next, count) = new.block_status(known, capacity - known).unwrap();
            assert_eq!(next, status);
            known += count;
        }
        assert_eq!(status, BlockStatus::Hole, "{create_type} of {capacity}");
    }
    for report in check_extents(&new) {
        assert_eq!((report.data_grains, report.leaked_grains, report.unclean), (0, 0, false), "{create_type}");
    }
    drop(new);

    let edges = edges(capacity, &[grain, TABLE, COWD_TABLE * grain, SPLIT]);
    let around = |sector: &u64| (sector.saturating_sub(1)..=sector + 1).filter(|&sector| sector < capacity);
    let around: BTreeSet<u64> = edges.iter().flat_map(around).collect();
    if sizes.len() > MANY_FILES {
        write_extent_by_extent(dir.path(), create_type, &edges);
    } else {
        let image = open_to_write(&path);
        for &sector in &edges {
            image.write_sectors(sector, &pattern(sector)).unwrap();
        }
        expect_patterns(&image, |sector| edges.contains(&sector), around.clone());
        image.close().unwrap();
    }

    let image = VmdkImage::open(&path).unwrap();
    expect_patterns(&image, |sector| edges.contains(&sector), around);
    let reports = check_extents(&image);
    if !is_flat {
        let data: u64 = reports.iter().map(|report| report.data_grains).sum();
        assert_eq!(data, grains(create_type, grain, &edges) as u64, "{create_type} of {capacity}: grains");
    }
    // How long the only table of a COWD extent is, the judge cannot know, and takes its rest for lost.
    let is_unknown = *create_type == CreateType::VmfsSparse && capacity <= COWD_TABLE * grain;
    for (report, extent) in reports.iter().zip(image.chain()[0].extents()) {
        assert!(
            (report.leaked_grains == 0 || is_unknown) && !report.unclean,
            "{create_type} of {capacity}: {report:?}"
        );
        assert_eq!(extent.header().unwrap().capacity(), extent.sectors());
    }
}

/// All files of a disk that is written are open, and there may be more than a process may have.
fn write_extent_by_extent(dir: &Path, create_type: &CreateType, edges: &BTreeSet<u64>) {
    for &sector in edges {
        let (number, inside) = (sector / SPLIT + 1, sector % SPLIT);
        if *create_type == CreateType::TwoGbMaxExtentSparse {
            let path = dir.join(format!("disk-s{number:03}.vmdk"));
            let extent =
                OpenOptions::new().write(true).cache_mode(CacheMode::Unsafe).allow_bare_extent(true).open(path);
            extent.unwrap().write_sectors(inside, &pattern(sector)).unwrap();
        } else {
            let extent = File::options().read(true).write(true).open(dir.join(format!("disk-f{number:03}.vmdk")));
            let extent = FileStorage::new(extent.unwrap()).unwrap();
            extent.write_all_at(&pattern(sector), inside * SECTOR as u64).unwrap();
        }
    }
}

fn every_capacity(create_type: &CreateType) {
    let (grain, most) = match create_type {
        CreateType::VmfsSparse => (1, COWD_MOST),
        _ => (128, u64::MAX),
    };
    for capacity in CAPACITIES.map(|capacity| capacity.min(most)) {
        make_and_use(&new_disk(create_type.clone(), capacity), create_type, capacity, grain);
    }
}

#[test]
fn a_monolithic_sparse_disk_of_any_size_can_be_used() {
    every_capacity(&CreateType::MonolithicSparse);
}

#[test]
fn a_monolithic_flat_disk_of_any_size_can_be_used() {
    every_capacity(&CreateType::MonolithicFlat);
}

#[test]
fn a_split_sparse_disk_of_any_size_can_be_used() {
    every_capacity(&CreateType::TwoGbMaxExtentSparse);
}

#[test]
fn a_split_flat_disk_of_any_size_can_be_used() {
    every_capacity(&CreateType::TwoGbMaxExtentFlat);
}

#[test]
fn a_vmfs_disk_of_any_size_can_be_used() {
    every_capacity(&CreateType::Vmfs);
}

#[test]
fn a_vmfs_sparse_disk_of_any_size_can_be_used() {
    every_capacity(&CreateType::VmfsSparse);
}

#[test]
fn a_sparse_disk_of_8_tib_can_be_used() {
    make_and_use(&new_disk(CreateType::MonolithicSparse, 8 * TIB), &CreateType::MonolithicSparse, 8 * TIB, 128);
}

/// In 4099 files. In a process of its own, because the limit is one for all its threads.
#[cfg(unix)]
#[test]
fn a_split_disk_of_8_tib_is_made_with_256_files_open() {
    const INSIDE: &str = "VMDK_TEST_FEW_FILES";
    const NAME: &str = "capacities::a_split_disk_of_8_tib_is_made_with_256_files_open";
    if std::env::var_os(INSIDE).is_none() {
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 256; test \"$(ulimit -n)\" = 256 && exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let create_type = CreateType::TwoGbMaxExtentSparse;
    assert_eq!(extent_sizes(&create_type, 8 * TIB).len(), 4099);
    make_and_use(&new_disk(create_type.clone(), 8 * TIB), &create_type, 8 * TIB, 128);

    // To be filled they have to be open. That fails as a whole, too.
    let dir = tempfile::tempdir().unwrap();
    let source = MemoryDevice::new(pattern(0));
    let options = new_disk(create_type, 300 * SPLIT);
    let error = options.create_from(dir.path().join("disk.vmdk"), &source, &mut |_| ControlFlow::Continue(()));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[test]
fn every_grain_size_of_a_hosted_disk_can_be_used() {
    for grain in [8, 16, 32, 64, 128] {
        for create_type in [CreateType::MonolithicSparse, CreateType::TwoGbMaxExtentSparse] {
            for capacity in [1, 512 * grain - 1, 512 * grain, 512 * grain + 1, SPLIT + 77] {
                let options = new_disk(create_type.clone(), capacity).grain_sectors(grain);
                make_and_use(&options, &create_type, capacity, grain);
            }
        }
    }
}

#[test]
fn every_grain_size_of_a_vmfs_sparse_disk_can_be_used() {
    for grain in (0..=11).map(|bits| 1 << bits) {
        let table = COWD_TABLE * grain;
        for capacity in [1, table - 1, table, table + 1, 3 * table + grain + 1] {
            let options = new_disk(CreateType::VmfsSparse, capacity).grain_sectors(grain);
            make_and_use(&options, &CreateType::VmfsSparse, capacity, grain);
        }
    }
}

/// Over a parent with data, zeros cannot be the lack of a grain.
#[test]
fn with_zero_grains_zeros_take_no_space() {
    for create_type in [CreateType::MonolithicSparse, CreateType::TwoGbMaxExtentSparse] {
        for allowed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let [base, child] = ["base.vmdk", "child.vmdk"].map(|name| dir.path().join(name));
            new_disk(create_type.clone(), 3 * 128).create(&base).unwrap();
            let base = open_to_write(&base);
            base.write_sectors(128, &pattern(128)).unwrap();
            let options = CreateOptions::new().zero_grains(allowed).sync(false);
            let image = base.create_child(&child, &options).unwrap();
            image.write_zeroes(128, 128, true).unwrap();
            image.close().unwrap();
            drop(image);
            let image = VmdkImage::open(&child).unwrap();
            assert_eq!(image.block_status(128, 256).unwrap(), (BlockStatus::Zero, 128), "{create_type}");
            expect_patterns(&image, |_| false, 127..257);
            assert_eq!(check_extents(&image)[0].data_grains, u64::from(!allowed), "{create_type}");
        }
    }
}
