//! The judge of sparse extents, tested itself: sound images pass, and each thing that must not be is found.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use support::check::{Owner, Problem, check};
use support::cowd::{self, CowdImage};
use support::rng::Rng;
use support::sparse::{self, SparseImage};
use support::{SECTOR, index};

const LEN: u64 = SECTOR as u64;

/// Two tables of 128 entries, grains of 8 sectors, four of them in the file.
fn hosted() -> SparseImage {
    let extent = SparseImage::new(8 * 130).grain_sectors(8).entries_per_table(128).descriptor("");
    [0, 127, 1, 128].iter().fold(extent, |extent, &grain| extent.data(grain, vec![7; 8 * SECTOR]))
}

/// A delta with three tables of 4096 grains of one sector, and grains in two of them.
fn esx() -> CowdImage {
    [5, 9000, 0].iter().fold(CowdImage::esx(10_000), |extent, &grain| extent.data(grain, vec![7; SECTOR]))
}

fn problems(bytes: &[u8]) -> Vec<Problem> {
    check(bytes).problems
}

/// Changes the entry of a grain in both tables.
fn with_entry(extent: SparseImage, grain: u64, sector: u64) -> SparseImage {
    let (layout, entry) = (extent.layout(), u32::try_from(sector).unwrap());
    extent.patch_u32(layout.entry(grain), entry).patch_u32(layout.redundant_entry(grain), entry)
}

fn with_cowd_entry(extent: CowdImage, grain: u64, sector: u64) -> CowdImage {
    let entry = extent.layout().entry(grain);
    extent.patch_u32(entry, u32::try_from(sector).unwrap())
}

// ---- Sound images ---------------------------------------------------------------------------------------------------

#[test]
fn sound_hosted_extents_of_every_layout_pass_without_leaks() {
    let mut rng = Rng::new(1);
    let base = || SparseImage::new(8 * 700 + 3).grain_sectors(8).entries_per_table(128);
    let layouts = [
        base(),
        base().descriptor("text"),
        base().directory_first(),
        base().without_redundant_tables(),
        base().omit_empty_tables(),
        base().with_zero_grains(),
        SparseImage::new(128 * 600),
        SparseImage::new(1),
    ];
    for layout in layouts {
        for extent in [layout.clone(), layout.random(&mut rng)] {
            let report = check(&extent.build());
            report.expect_sound(format!("{extent:?}"));
            assert_eq!((report.leaked_grains, report.unclean), (0, false));
            assert_eq!(report.data_grains, extent.layout().grains.len() as u64);
        }
    }
}

#[test]
fn sound_cowd_extents_of_every_kind_pass_without_leaks() {
    let mut rng = Rng::new(2);
    for extent in [CowdImage::esx(10_000), CowdImage::vmware2(70_000), CowdImage::vmware3(200_000)] {
        for extent in [extent.clone(), extent.random(&mut rng)] {
            let report = check(&extent.build());
            report.expect_sound(extent.capacity());
            assert_eq!((report.leaked_grains, report.unclean), (0, false));
            assert_eq!(report.data_grains, extent.layout().grains.len() as u64);
        }
    }
}

#[test]
fn a_last_grain_may_end_with_the_file_where_no_guest_sees_the_rest() {
    let extent = SparseImage::new(8 * 3 + 2).grain_sectors(8).data(3, vec![7; 2 * SECTOR]).cut_tail();
    assert_eq!(problems(&extent.build()), []);
    let extent = extent.data(2, vec![7; 2 * SECTOR]);
    let sector = extent.layout().grains[&2];
    assert_eq!(problems(&extent.build()), [Problem::Cut { grain: 2, sector }]);
}

#[test]
fn an_extent_that_was_not_closed_says_so() {
    assert!(check(&hosted().unclean(1).build()).unclean);
    assert!(check(&esx().patch_u32(cowd::field::UNCLEAN, 1).build()).unclean);
    assert!(check(&esx().patch_u32(cowd::field::GENERATION, 1).build()).unclean);
    // In version 3 the number there is another.
    assert!(!check(&CowdImage::vmware3(1000).patch_u32(cowd::field::FILE_ORDINAL, 1).build()).unclean);
}

// ---- Leaks ----------------------------------------------------------------------------------------------------------

#[test]
fn grains_that_nothing_refers_to_are_counted() {
    let report = check(&with_entry(hosted(), 127, 0).build());
    assert_eq!((report.leaked_grains, report.data_grains), (1, 3));
    let mut bytes = hosted().build();
    bytes.resize(bytes.len() + 16 * SECTOR, 0);
    let report = check(&bytes);
    report.expect_sound("a longer file");
    assert_eq!(report.leaked_grains, 2);

    let report = check(&with_cowd_entry(esx(), 9000, 0).build());
    assert_eq!((report.leaked_grains, report.problems.len()), (1, 0));
    // Behind the free sector there is nothing that could leak.
    let mut bytes = esx().build();
    bytes.resize(bytes.len() + 16 * SECTOR, 0);
    assert_eq!(check(&bytes).leaked_grains, 0);
    let free = u32::try_from(esx().layout().end).unwrap() + 5;
    bytes[index(cowd::field::FREE_SECTOR)..][..4].copy_from_slice(&free.to_le_bytes());
    let report = check(&bytes);
    report.expect_sound("a higher free sector");
    assert_eq!(report.leaked_grains, 5);
}

// ---- Entries --------------------------------------------------------------------------------------------------------

#[test]
fn an_entry_past_the_end_is_found() {
    let end = hosted().layout().end;
    let past_end = |grain, sector| vec![Problem::PastEnd { owner: Owner::Grain(grain), sector }];
    assert_eq!(problems(&with_entry(hosted(), 2, end).build()), past_end(2, end));
    let cut = problems(&with_entry(hosted(), 2, end - 1).build());
    assert!(cut.contains(&Problem::Cut { grain: 2, sector: end - 1 }), "{cut:?}");

    let end = esx().layout().end;
    assert_eq!(problems(&with_cowd_entry(esx(), 7, end).build()), past_end(7, end));
    assert_eq!(problems(&with_cowd_entry(esx(), 7, 0xffff_ffff).build()), past_end(7, 0xffff_ffff));
}

#[test]
fn two_entries_for_one_grain_are_found_also_if_they_overlap_only() {
    let sector = hosted().layout().grains[&127];
    let shared = |grains, sector| vec![Problem::Shared { grains, sector }];
    assert_eq!(problems(&with_entry(hosted(), 2, sector).build()), shared((2, 127), sector));
    let last = hosted().layout().grains[&128];
    let overlapping = with_entry(hosted(), 128, last - 3).build();
    assert_eq!(problems(&overlapping), shared((1, 128), last - 3));

    let sector = esx().layout().grains[&9000];
    assert_eq!(problems(&with_cowd_entry(esx(), 7, sector).build()), shared((7, 9000), sector));
}

#[test]
fn a_grain_in_metadata_is_found() {
    let layout = hosted().layout();
    for sector in [layout.gt[1], layout.rgt[0], layout.gd - 1, layout.overhead - 1] {
        let found = problems(&with_entry(hosted(), 2, sector).build());
        assert!(found.contains(&Problem::InMetadata { grain: 2, sector }), "{found:?}");
    }
    let layout = esx().layout();
    for sector in [2, 3, layout.gd, layout.gt[2], layout.gt[0] + 31] {
        let found = problems(&with_cowd_entry(esx(), 7, sector).build());
        assert!(found.contains(&Problem::InMetadata { grain: 7, sector }), "{found:?}");
    }
}

#[test]
fn an_entry_of_one_needs_the_flag_and_entries_past_the_capacity_are_not_there() {
    assert_eq!(problems(&hosted().zero(2).build()), [Problem::One { grain: 2 }]);
    assert_eq!(problems(&hosted().with_zero_grains().zero(2).build()), []);
    assert_eq!(problems(&esx().one(7).build()), [Problem::One { grain: 7 }]);
    let offset = hosted().layout().entry(128) + 8;
    let redundant = hosted().layout().redundant_entry(128) + 8;
    let found = problems(&hosted().patch_u32(offset, 1).patch_u32(redundant, 1).build());
    assert_eq!(found, [Problem::PastCapacity { grain: 130, entry: 1 }]);
}

#[test]
fn tables_that_differ_are_found() {
    let layout = hosted().layout();
    let found = problems(&hosted().patch_u32(layout.redundant_entry(127), 0).build());
    let entry = layout.grains[&127];
    assert_eq!(found, [Problem::TablesDiffer { grain: 127, entry, redundant: 0 }]);
    assert!(found[0].is_difference());
}

// ---- Directories ----------------------------------------------------------------------------------------------------

#[test]
fn bad_entries_of_directories_are_found() {
    let layout = hosted().layout();
    let with_table = |table: u64, sector: u64| {
        let sector = u32::try_from(sector).unwrap();
        problems(&hosted().patch_u32(layout.gd * LEN + 4 * table, sector).build())
    };
    let found = with_table(1, layout.end);
    assert_eq!(found, [Problem::PastEnd { owner: Owner::Table(1), sector: layout.end }]);
    // No table, while the other directory has one.
    let found = with_table(1, 0);
    assert_eq!(found, [Problem::DirectoriesDiffer { table: 1, sector: 0, redundant: layout.rgt[1] }]);
    // Somebody else's table, and a place in the header.
    let tables = |table, other| (Owner::Table(table), other);
    let found = with_table(1, layout.gt[0]);
    assert!(
        found.contains(&Problem::Overlap { owners: tables(0, Owner::Table(1)), sector: layout.gt[0] }),
        "{found:?}"
    );
    let found = with_table(0, layout.rgt[0]);
    let owners = tables(0, Owner::RedundantTable(0));
    assert!(found.contains(&Problem::Overlap { owners, sector: layout.rgt[0] }), "{found:?}");

    let layout = esx().layout();
    let with_table = |table, sector: u64| {
        problems(&esx().patch_u32(layout.directory_entry(table), u32::try_from(sector).unwrap()).build())
    };
    assert_eq!(with_table(1, layout.end - 31), [Problem::PastEnd { owner: Owner::Table(1), sector: layout.end - 31 }]);
    let found = with_table(1, layout.gt[0]);
    assert!(found.iter().any(|problem| matches!(problem, Problem::Overlap { .. })), "{found:?}");
    assert!(with_table(1, 3).iter().any(|problem| matches!(problem, Problem::Overlap { .. })));
}

#[test]
fn a_free_sector_that_is_in_use_is_found() {
    let used_up_to = esx().layout().end;
    let free = used_up_to - 1;
    let found = problems(&esx().patch_u32(cowd::field::FREE_SECTOR, u32::try_from(free).unwrap()).build());
    assert_eq!(found, [Problem::FreeSector { free, used_up_to }]);
}

#[test]
fn what_cannot_be_read_at_all_is_one_problem() {
    let strange = |bytes: &[u8]| matches!(&problems(bytes)[..], [Problem::Header(_)]);
    let whole = hosted().build();
    assert!(strange(b"") && strange(b"KDMV") && strange(b"COWD") && strange(&vec![0; 4096]));
    assert!(strange(&whole[..index(hosted().layout().gd) * SECTOR]));
    assert!(strange(&hosted().patch_u64(sparse::field::GRAIN_SIZE, 0).build()));
    assert!(strange(&hosted().patch_u64(sparse::field::CAPACITY, u64::MAX).build()));
    assert!(strange(&hosted().patch_u64(sparse::field::GD_OFFSET, u64::MAX).build()));
    assert!(strange(&hosted().patch_u32(sparse::field::ENTRIES_PER_TABLE, 0).build()));
    assert!(strange(&hosted().patch_u64(sparse::field::OVERHEAD, 1 << 40).build()));
    assert!(strange(&hosted().patch_u32(sparse::field::FLAGS, 0x3_0001).build()));
    assert!(strange(&hosted().patch(sparse::field::NEWLINES, *b"\n\n\r\n").build()));
    assert!(strange(&esx().patch_u32(cowd::field::GRAIN_SIZE, 0).build()));
    assert!(strange(&esx().patch_u32(cowd::field::NUM_GD_ENTRIES, 9).build()));
}
