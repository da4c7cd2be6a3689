//! The redundant directory and tables of a hosted sparse extent: they stand in where the primary cannot be used, if
//! the caller wants that, and are not looked at otherwise.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use vmdk::{BlockDevice, Error, ErrorKind, MemoryStorage, OpenOptions, Storage, VmdkImage};

use support::sparse::{Layout, SparseImage, field};
use support::storage::FaultStorage;
use support::{SECTOR, index};

/// Grains of the two tables that are compared.
const GRAINS: [u64; 6] = [0, 1, 2, 127, 128, 129];

/// Two tables of 128 entries, grains of 8 sectors. Grain 2 and 129 are absent. The tables are kept away from the header
/// by room for a descriptor.
fn extent() -> SparseImage {
    let extent = SparseImage::new(8 * 130).grain_sectors(8).entries_per_table(128).descriptor("");
    [0, 127, 1, 128].iter().fold(extent, |extent, &grain| extent.data(grain, vec![mark(grain); 8 * SECTOR]))
}

/// What grain `grain` is full of.
fn mark(grain: u64) -> u8 {
    u8::try_from(grain).unwrap() + 1
}

fn sector32(value: u64) -> u32 {
    u32::try_from(value).unwrap()
}

/// A table in the file, in bytes.
fn table(start: u64) -> Range<u64> {
    start * SECTOR as u64..(start + 1) * SECTOR as u64
}

/// Opens an extent, reads of which fail within `unreadable`.
fn open(extent: &SparseImage, unreadable: &[Range<u64>], redundant: bool) -> vmdk::Result<VmdkImage> {
    let storage = FaultStorage::new(Arc::new(MemoryStorage::new(extent.build())));
    for range in unreadable {
        storage.fail_reads_of(range.clone());
    }
    let files = HashMap::from([("disk".to_owned(), storage as Arc<dyn Storage>)]);
    OpenOptions::new().use_redundant_tables(redundant).open_with("disk", &files)
}

fn read(image: &VmdkImage, grain: u64) -> Result<u8, Error> {
    let mut buf = [0xee; SECTOR];
    image.read_sectors(grain * 8, &mut buf)?;
    assert_eq!(buf, [buf[0]; SECTOR]);
    Ok(buf[0])
}

fn stand_ins(image: &VmdkImage) -> u64 {
    image.chain()[0].extents()[0].redundant_stand_ins()
}

/// Every grain, or the kind of the error about it.
fn all(image: &VmdkImage) -> [Result<u8, ErrorKind>; 6] {
    GRAINS.map(|grain| read(image, grain).map_err(|error| error.kind()))
}

const RIGHT: [Result<u8, ErrorKind>; 6] = [Ok(1), Ok(2), Ok(0), Ok(128), Ok(129), Ok(0)];

/// What happened to an image: its name, the damage, what cannot be read, and the stand-ins that are needed.
struct Case {
    what: &'static str,
    extent: SparseImage,
    unreadable: Vec<Range<u64>>,
    stand_ins: u64,
    /// What is read without the redundant tables; `None` if it does not open.
    without: Option<[Result<u8, ErrorKind>; 6]>,
}

/// Every way in which the primary side can be unusable.
fn cases() -> Vec<Case> {
    use ErrorKind::{Corrupt, Io};
    let Layout { gd, gt, .. } = extent().layout();
    let directory = gd * SECTOR as u64;
    let first_bad = |kind| Some([Err(kind), Err(kind), Err(kind), Err(kind), Ok(129), Ok(0)]);
    let entry = |grain| extent().layout().entry(grain);
    let case = |what, extent, stand_ins, without| Case { what, extent, unreadable: Vec::new(), stand_ins, without };
    let zeroed = [0; 8];
    let mut cases = vec![
        // Without permission a directory of zeros means what it says.
        case("the directory is zeroed", extent().patch(directory, zeroed), 2, Some([Ok(0); 6])),
        case("an entry of the directory is zeroed", extent().patch_u32(directory, 0), 1, {
            Some([Ok(0), Ok(0), Ok(0), Ok(0), Ok(129), Ok(0)])
        }),
        case("a table past the end", extent().patch_u32(directory, u32::MAX), 1, first_bad(Corrupt)),
        case("a table in the header", extent().patch_u32(directory, 0x8000_0000), 1, first_bad(Corrupt)),
        case("a table in the directory", extent().patch_u32(directory, sector32(gd)), 1, first_bad(Corrupt)),
        case("a grain in the metadata", extent().patch_u32(entry(1), 2), 1, {
            Some([Ok(1), Err(Corrupt), Ok(0), Ok(128), Ok(129), Ok(0)])
        }),
        case("a grain past the end", extent().patch_u32(entry(127), 0x00ff_ffff), 1, {
            Some([Ok(1), Ok(2), Ok(0), Err(Corrupt), Ok(129), Ok(0)])
        }),
        case("all entries of a table", extent().patch(table(gt[0]).start, [0xff; SECTOR]), 1, first_bad(Corrupt)),
    ];
    cases.push(Case {
        what: "a table that cannot be read",
        extent: extent(),
        unreadable: vec![table(gt[0])],
        stand_ins: 1,
        without: first_bad(Io),
    });
    cases.push(Case {
        what: "a directory that cannot be read",
        extent: extent(),
        unreadable: vec![table(gd)],
        stand_ins: 2,
        without: None,
    });
    cases
}

#[test]
fn qemu_never_reads_the_redundant_tables_and_here_they_stand_in_for_whatever_cannot_be_used() {
    for Case { what, extent, unreadable, stand_ins: expected, .. } in cases() {
        let image = open(&extent, &unreadable, true).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(stand_ins(&image), 0, "{what}: nothing was read yet");
        assert_eq!(all(&image), RIGHT, "{what}");
        assert_eq!(stand_ins(&image), expected, "{what}");
        // The tables are cached by now.
        assert_eq!(all(&image), RIGHT, "{what}");
        assert_eq!(stand_ins(&image), expected, "{what}");
    }
}

#[test]
fn the_copy_is_left_alone_unless_the_caller_wants_it() {
    for Case { what, extent, unreadable, without, .. } in cases() {
        match (open(&extent, &unreadable, false), without) {
            (Ok(image), Some(expected)) => {
                assert_eq!(all(&image), expected, "{what}");
                assert_eq!(stand_ins(&image), 0, "{what}");
            }
            (Err(error), None) => assert_eq!(error.kind(), ErrorKind::Io, "{what}: {error}"),
            (Ok(_), None) => panic!("{what}: it opens"),
            (Err(error), Some(_)) => panic!("{what}: {error}"),
        }
    }
}

#[test]
fn the_whole_disk_is_right_through_the_copy_in_one_read_and_by_its_runs() {
    let expected = extent().layer().content();
    for Case { what, extent, unreadable, .. } in cases() {
        let image = open(&extent, &unreadable, true).unwrap();
        let mut content = vec![0xee; expected.len()];
        image.read_sectors(0, &mut content).unwrap();
        assert!(content == expected, "{what}");
        let ends = image.runs().unwrap().map(|run| run.map(|run| run.start + run.sectors).unwrap());
        assert_eq!(ends.last(), Some(8 * 130), "{what}");
    }
}

/// A primary that can be right is what every reader has shown: the copy may be older.
#[test]
fn a_plausible_primary_wins_over_a_copy_that_says_something_else() {
    let layout = extent().layout();
    let sector_of = |grain| sector32(layout.grains[&grain]);
    let rows = [
        ("freed in the primary", layout.entry(1), 0, 0),
        ("zero in the primary", layout.entry(1), 1, 0),
        ("another grain in the primary", layout.entry(1), sector_of(128), 129),
        ("freed in the copy", layout.redundant_entry(1), 0, 2),
        ("zero in the copy", layout.redundant_entry(1), 1, 2),
        ("another grain in the copy", layout.redundant_entry(1), sector_of(128), 2),
        ("nonsense in the copy", layout.redundant_entry(1), u32::MAX, 2),
    ];
    for (what, at, value, expected) in rows {
        let image = open(&extent().patch_u32(at, value), &[], true).unwrap();
        assert_eq!(read(&image, 1).unwrap(), expected, "{what}");
        assert_eq!(all(&image)[4..], RIGHT[4..], "{what}");
        assert_eq!(stand_ins(&image), 0, "{what}");
    }
}

/// Where one entry is taken from the copy, its neighbours are not.
#[test]
fn entries_are_chosen_one_by_one_where_both_tables_are_there() {
    let layout = extent().layout();
    let damaged = extent().patch_u32(layout.entry(0), u32::MAX).patch_u32(layout.entry(127), 0);
    let damaged = damaged.patch_u32(layout.redundant_entry(1), sector32(layout.grains[&128]));
    let image = open(&damaged, &[], true).unwrap();
    assert_eq!(all(&image)[..4], [Ok(1), Ok(2), Ok(0), Ok(0)]);
    assert_eq!(stand_ins(&image), 1);
}

#[test]
fn an_entry_that_is_bad_on_both_sides_is_an_error_about_the_primary() {
    let layout = extent().layout();
    let damaged = extent().patch_u32(layout.entry(1), 3).patch_u32(layout.redundant_entry(1), u32::MAX);
    let image = open(&damaged, &[], true).unwrap();
    let error = read(&image, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let place = format!("entry 1 of table 0 at offset {:#x} is 0x3", layout.entry(1));
    assert!(error.to_string().contains(&place), "{error}");
    assert_eq!(all(&image), [Ok(1), Err(ErrorKind::Corrupt), Ok(0), Ok(128), Ok(129), Ok(0)]);
}

#[test]
fn a_table_that_is_bad_on_both_sides_is_the_error_of_the_primary() {
    let Layout { gd, rgd, gt, rgt, .. } = extent().layout();
    let (primary, copy) = (gd * SECTOR as u64, rgd * SECTOR as u64);
    let damaged = extent().patch_u32(primary, u32::MAX).patch_u32(copy, 0x7fff_ffff);
    let image = open(&damaged, &[], true).unwrap();
    let error = read(&image, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let place = format!("entry 0 at offset {primary:#x} is 0xffffffff");
    assert!(error.to_string().contains(&place), "{error}");
    assert_eq!(read(&image, 128).unwrap(), 129);
    assert_eq!(stand_ins(&image), 0);

    let image = open(&extent(), &[table(gt[0]), table(rgt[0])], true).unwrap();
    let error = read(&image, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains(&format!("{:#x}", table(gt[0]).start)), "{error}");
    assert_eq!(all(&image)[4..], RIGHT[4..]);

    let error = open(&extent(), &[table(gd), table(rgd)], true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains(&format!("{primary:#x}")), "{error}");
}

/// Where only the copy is damaged, asking for it must not make an image worse that opens without.
#[test]
fn a_copy_that_cannot_be_used_does_not_matter_while_the_primary_can() {
    let Layout { rgd, rgt, .. } = extent().layout();
    let copy = rgd * SECTOR as u64;
    let rows = [
        ("zeroed", extent().patch(copy, [0; 8]), vec![]),
        ("past the end", extent().patch(copy, [0xff; 8]), vec![]),
        ("an unreadable table", extent(), vec![table(rgt[0])]),
        ("an unreadable directory", extent(), vec![table(rgd)]),
        ("no place for the directory", extent().patch_u64(field::RGD_OFFSET, u64::MAX), vec![]),
    ];
    for (what, extent, unreadable) in rows {
        let image = open(&extent, &unreadable, true).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(all(&image), RIGHT, "{what}");
        assert_eq!(stand_ins(&image), 0, "{what}");
    }
}

#[test]
fn an_extent_without_a_copy_is_read_as_without_the_option() {
    let plain = extent().without_redundant_tables();
    let entry = plain.layout().entry(1);
    let image = open(&plain.patch_u32(entry, 2), &[], true).unwrap();
    assert_eq!(all(&image), [Ok(1), Err(ErrorKind::Corrupt), Ok(0), Ok(128), Ok(129), Ok(0)]);
    assert_eq!(stand_ins(&image), 0);
}

/// A host that fails for a moment is not a damaged image: the copy serves, and the count says so.
#[test]
fn a_table_is_read_from_the_copy_only_as_often_as_it_has_to_be() {
    let gt = extent().layout().gt;
    let storage = FaultStorage::new(Arc::new(MemoryStorage::new(extent().build())));
    storage.fail_reads_of(table(gt[0]));
    let files = HashMap::from([("disk".to_owned(), Arc::clone(&storage) as Arc<dyn Storage>)]);
    let options = OpenOptions::new().use_redundant_tables(true).cached_tables(1);
    let image = options.open_with("disk", &files).unwrap();
    assert_eq!((read(&image, 0).unwrap(), stand_ins(&image)), (1, 1));
    // The other table takes the only place in the cache.
    assert_eq!((read(&image, 128).unwrap(), stand_ins(&image)), (129, 1));
    storage.heal();
    assert_eq!((read(&image, 0).unwrap(), stand_ins(&image)), (1, 1));
}

#[test]
fn blocks_that_are_unallocated_in_the_copy_as_well_are_seen_through() {
    let empty = SparseImage::new(8 * 128 * 20).grain_sectors(8).entries_per_table(128).data(128 * 19, [9]);
    let directory = empty.layout().gd * SECTOR as u64;
    let image = open(&empty.clone().patch(directory, [0; 80]), &[], true).unwrap();
    let mut content = vec![0xee; index(empty.capacity()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    assert!(content == empty.layer().content());
}

#[test]
fn the_redundant_directory_stands_in_for_one_at_an_impossible_place() {
    for gd_offset in [0, 1 << 40, u64::MAX] {
        let damaged = extent().patch_u64(56, gd_offset);
        assert_eq!(open(&damaged, &[], false).unwrap_err().kind(), ErrorKind::Corrupt, "{gd_offset:#x}");
        let image = open(&damaged, &[], true).unwrap();
        assert_eq!(all(&image), RIGHT, "{gd_offset:#x}");
        assert_eq!(stand_ins(&image), 1, "{gd_offset:#x}");
    }
}
