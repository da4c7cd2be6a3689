//! What the builder writes, against numbers worked out by hand from the description of the format.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::layer::Layer;
use crate::support::rng::Rng;
use crate::support::sesparse::variants::variants;
use crate::support::sesparse::{
    self, ENTRIES, GRAIN_BYTES, GRAIN_SECTORS, Layout, Length, Region, SeSparseImage, SlotOrder, TABLE_COVERS,
    TableOrder, field,
};
use crate::support::{SECTOR, index, tools};

/// The number at an offset.
pub(crate) fn number(file: &[u8], offset: u64) -> u64 {
    u64::from_le_bytes(file[index(offset)..][..8].try_into().unwrap())
}

#[test]
fn entries_are_encoded_as_described() {
    assert_eq!(sesparse::allocated(0), 0x3000_0000_0000_0000);
    assert_eq!(sesparse::allocated(1), 0x3001_0000_0000_0000);
    assert_eq!(sesparse::allocated(0xfff), 0x3fff_0000_0000_0000);
    assert_eq!(sesparse::allocated(0x1000), 0x3000_0000_0000_0001);
    assert_eq!(sesparse::allocated(0x12_3456), 0x3456_0000_0000_0123);
    assert_eq!(sesparse::allocated((1 << 60) - 1), 0x3fff_ffff_ffff_ffff);
    assert_eq!(sesparse::unmapped(None), 0x1000_0000_0000_0000);
    assert_eq!(sesparse::unmapped(Some(0x1001)), 0x1001_0000_0000_0001);
    assert_eq!(sesparse::zero(0), 0x2000_0000_0000_0000);
    assert_eq!(sesparse::zero(u64::MAX), 0x2fff_ffff_ffff_ffff);
    assert_eq!(sesparse::directory_entry(0), 0x1000_0000_0000_0000);
    assert_eq!(sesparse::directory_entry(0x1234), 0x1000_0000_0000_1234);
    assert_eq!(sesparse::back_map_entry(0), 0x1000_0000_0000_0000);
    assert_eq!(sesparse::back_map_entry(0x1fff), 0x1fff_0000_0000_0001);
}

#[test]
fn regions_are_where_esx_puts_them() {
    // Directory, tables, bitmap, back map, slots: each from its first sector on, and how many.
    type Places = [(u64, u64); 5];
    let rows: [(&str, u64, Places); 5] = [
        ("100 MiB", 204_800, [(4096, 2048), (6144, 2048), (8192, 2048), (10240, 2048), (12288, 204_800)]),
        ("512 MiB", 1_048_576, [(4096, 2048), (6144, 2048), (8192, 2048), (10240, 2048), (12288, 1_048_576)]),
        ("a grain more", 1_048_584, [(4096, 2048), (6144, 4096), (10240, 2048), (12288, 4096), (16384, 1_048_584)]),
        ("16 GiB", 33_554_432, [(4096, 2048), (6144, 65536), (71680, 2048), (73728, 65536), (139_264, 33_554_432)]),
        (
            "1 TiB",
            2_147_483_648,
            [(4096, 2048), (6144, 4_194_304), (4_200_448, 65536), (4_265_984, 4_194_304), (8_460_288, 2_147_483_648)],
        ),
    ];
    let place = |region: Region| (region.offset, region.size);
    for (name, capacity, expected) in rows {
        let layout = SeSparseImage::new(capacity).layout();
        let found = [layout.directory, layout.tables, layout.bitmap, layout.back_map, layout.grains];
        assert_eq!(found.map(place), expected, "{name}");
        let fixed = [layout.volatile_header, layout.journal_header, layout.journal];
        assert_eq!(fixed.map(place), [(1, 1), (2, 2), (2048, 2048)], "{name}");
    }
}

#[test]
fn files_are_as_long_as_esx_makes_them() {
    let image = SeSparseImage::new(1_048_576);
    let end = |image: &SeSparseImage| image.layout().end;
    assert_eq!(end(&image), 12288 + 8, "nothing in it");
    let one = image.data(77, [1]);
    assert_eq!(end(&one), 12288 + 4096 * 8 + 8, "a slot");
    assert_eq!(end(&one.clone().length(Length::LastSlot)), 12288 + 8, "a slot and no more");
    let far = one.data(4096, [1]).slot_order(SlotOrder::Identity);
    assert_eq!(end(&far), 12288 + 8192 * 8 + 8, "a slot in the second block");
    let file = far.build();
    assert_eq!(file.len(), 39_849_984);
    assert!(file[file.len() - GRAIN_BYTES..] == [0xff; GRAIN_BYTES]);
    assert!(file[file.len() - 2 * GRAIN_BYTES..][..GRAIN_BYTES] == [0; GRAIN_BYTES]);
}

/// Two tables out of three, in the order of use: the last one first.
#[test]
fn a_small_extent_has_the_bytes_worked_out_by_hand() {
    let image = SeSparseImage::new(2 * 32768 + 9)
        .data(8193, [0xab; 512])
        .data(3, [0xcd; 4096])
        .unmapped_with_slot(5)
        .unmapped(6)
        .zero(7)
        .zero_with(8, 0x0abc_0000_0000_0001)
        .absent(9);
    let file = image.build();
    let mut expected = BTreeMap::from([
        (0, 0xcafe_babe),
        (8, 0x2_0000_0001),
        (16, 65545),
        (24, 8),
        (32, 64),
        // Volatile header, journal header, journal, directory, tables, bitmap, back map, grains.
        (80, 1),
        (88, 1),
        (96, 2),
        (104, 2),
        (112, 2048),
        (120, 2048),
        (128, 4096),
        (136, 2048),
        (144, 6144),
        (152, 2048),
        (160, 8192),
        (168, 2048),
        (176, 10240),
        (184, 2048),
        (192, 12288),
        (200, 65545),
        // The volatile header: two tables are in use.
        (0x200, 0xcafe_cafe),
        (0x208, 2),
        // The journal header.
        (0x400, 0xdeaf_c0de),
        (0x410, 1),
        // The directory: the first and the third.
        (0x20_0000, 0x1000_0000_0000_0001),
        (0x20_0010, 0x1000_0000_0000_0000),
        // The table 0: grain 8193 in slot 0.
        (0x30_0008, 0x3000_0000_0000_0000),
        // The table 1: grain 3 in slot 1; grain 5 had slot 2.
        (0x30_8018, 0x3001_0000_0000_0000),
        (0x30_8028, 0x1002_0000_0000_0000),
        (0x30_8030, 0x1000_0000_0000_0000),
        (0x30_8038, 0x2000_0000_0000_0000),
        (0x30_8040, 0x2abc_0000_0000_0001),
        // The bitmap: slots 0 and 1.
        (0x40_0000, 3),
        // The back map: grains 8193 and 3.
        (0x50_0000, 0x1001_0000_0000_0002),
        (0x50_0008, 0x1003_0000_0000_0000),
    ]);
    for place in (0..512).step_by(8) {
        expected.insert(0x60_0000 + place, 0xabab_abab_abab_abab);
    }
    for place in (0..4096).step_by(8) {
        expected.insert(0x60_1000 + place, 0xcdcd_cdcd_cdcd_cdcd);
        expected.insert(0x60_2000 + place, 0xdddd_dddd_dddd_dddd);
        expected.insert(0x160_0000 + place, u64::MAX);
    }
    assert_eq!(file.len(), 0x160_1000);
    for (offset, bytes) in (0..).step_by(8).zip(file.chunks(8)) {
        let found = u64::from_le_bytes(bytes.try_into().unwrap());
        assert_eq!(found, expected.remove(&offset).unwrap_or(0), "at {offset:#x}");
    }
    assert_eq!(expected, BTreeMap::new());
}

/// Reads an extent by what its own header says, and finds that all its tables agree.
fn walk(file: &[u8]) -> Layer {
    let region = |offset| number(file, offset) * SECTOR as u64;
    let capacity = number(file, field::CAPACITY);
    let [directory, tables] = [field::DIRECTORY, field::TABLES].map(region);
    let [bitmap, back_map, grains] = [field::BITMAP, field::BACK_MAP, field::GRAINS].map(region);
    let mut layer = Layer::new(capacity);
    let (mut indices, mut slots) = (BTreeSet::new(), BTreeSet::new());
    for grain in 0..capacity.div_ceil(GRAIN_SECTORS) {
        let table = number(file, directory + grain / ENTRIES * 8);
        if table == 0 {
            continue;
        }
        assert_eq!(table >> 32, 0x1000_0000);
        let table_index = table & 0xffff_ffff;
        assert!(table_index < capacity.div_ceil(TABLE_COVERS));
        assert!(indices.insert(table_index) || grain % ENTRIES != 0, "the table {table_index} twice");
        let entry = number(file, tables + table_index * 32768 + grain % ENTRIES * 8);
        let slot = (entry & 0x0fff_0000_0000_0000) >> 48 | (entry & 0x0000_ffff_ffff_ffff) << 12;
        match entry >> 60 {
            0 => assert_eq!(entry, 0),
            1 | 2 => layer.set(grain * GRAIN_SECTORS, &[0; GRAIN_BYTES]),
            3 => {
                assert!(slots.insert(slot), "the slot {slot} twice");
                assert_eq!(number(file, back_map + 8 * slot), (1 << 60) + ((grain % 4096) << 48) + grain / 4096);
                let start = index(grains + slot * GRAIN_BYTES as u64);
                layer.set(grain * GRAIN_SECTORS, &file[start..][..GRAIN_BYTES]);
            }
            _ => panic!("entry {entry:#x} of grain {grain}"),
        }
    }
    for slot in 0..capacity.div_ceil(GRAIN_SECTORS) {
        let bit = file[index(bitmap + slot / 8)] >> (slot % 8) & 1;
        assert_eq!(bit == 1, slots.contains(&slot), "the bit of slot {slot}");
        assert_eq!(number(file, back_map + 8 * slot) != 0, slots.contains(&slot), "the back map of slot {slot}");
    }
    layer
}

/// Zeroes bitmap, back map and the slots in tables, and makes them again from the records in the journal.
fn replayed(file: &[u8], layout: &Layout) -> Vec<u8> {
    let mut replayed = file.to_vec();
    replayed[layout.bitmap.bytes()].fill(0);
    replayed[layout.back_map.bytes()].fill(0);
    for &grain in layout.slots.keys() {
        replayed[index(layout.entry(grain))..][..8].fill(0);
    }
    for record in 0..81 {
        let start = layout.record(record);
        if number(file, start) != 0x00c0_ffee {
            break;
        }
        assert_eq!(number(file, start + 16), record);
        let count = number(file, start + 24) - 1;
        assert!(count <= 24);
        for place in 0..count {
            let pair = start + 128 + 16 * place;
            assert_eq!(number(file, pair + 8), 1);
            let from = index(start) + (1 + index(place)) * SECTOR;
            let to = index(number(file, pair)) * SECTOR;
            replayed[to..to + SECTOR].copy_from_slice(&file[from..from + SECTOR]);
        }
    }
    replayed
}

#[test]
fn random_layouts_say_what_they_are_made_of() {
    for seed in 0..12 {
        let rng = &mut Rng::new(seed);
        let capacity = [33_000, 1 + rng.below(2000), 32768 + 8, 70_001][index(seed % 4)];
        let image = SeSparseImage::new(capacity).random(rng).random_layout(rng).used_journal();
        let file = image.build();
        let (found, expected) = (walk(&file), image.layer());
        for sector in 0..capacity {
            assert_eq!(found.sector(sector), expected.sector(sector), "seed {seed}, sector {sector}");
        }
        // More records than there is room for begin in the middle.
        let layout = image.layout();
        if number(&file, field::NEXT_TRANSACTION) <= 4 + 81 {
            assert!(replayed(&file, &layout) == file, "seed {seed}");
        }
    }
}

#[test]
fn what_was_asked_for_is_what_the_layout_says() {
    let fill = |image: SeSparseImage| (0..50).fold(image, |image, step| image.data(step * 977 % 20_000, [7]));
    let image = fill(SeSparseImage::new(160_000));
    let slots = |order| -> Vec<u64> { image.clone().slot_order(order).layout().slots.into_values().collect() };
    let sorted = |mut slots: Vec<u64>| {
        slots.sort_unstable();
        slots
    };
    let all: Vec<u64> = (0..50).collect();
    assert_eq!(sorted(slots(SlotOrder::Sequential)), all);
    assert_eq!(sorted(slots(SlotOrder::Random(1))), all);
    assert_ne!(slots(SlotOrder::Random(1)), slots(SlotOrder::Sequential));
    let identity = image.clone().slot_order(SlotOrder::Identity).layout().slots;
    assert!(identity.into_iter().all(|(grain, slot)| grain == slot));
    let gaps = sorted(slots(SlotOrder::Gaps(1)));
    assert!(gaps.is_sorted_by(|a, b| a < b) && *gaps.last().unwrap() > 50, "{gaps:?}");

    let image = SeSparseImage::new(160_000).absent(3 * 4096).absent(4096);
    let tables = |order| image.clone().table_order(order).layout().table_indices;
    assert_eq!(tables(TableOrder::OnDemand), BTreeMap::from([(1, 1), (3, 0)]));
    assert_eq!(tables(TableOrder::Identity), BTreeMap::from([(0, 0), (1, 1), (2, 2), (3, 3)]));
    let random = tables(TableOrder::Random(1));
    assert!(random.keys().eq(&[1, 3]) && random.values().all(|&place| place < 5), "{random:?}");

    let dirty = image.clone().dirty().region_gap(5);
    let (bytes, layout) = (dirty.build(), dirty.layout());
    assert_eq!(number(&bytes, field::REPLAY_JOURNAL), 1);
    assert_eq!((layout.journal.offset, layout.directory.offset), (2053, 2053 + 2048 + 5));
    let patched = image.patch_u64(8, 77).cut(1024).build();
    assert_eq!((patched.len(), number(&patched, 8)), (1024, 77));
}

#[test]
fn no_two_variants_have_the_same_name_or_the_same_bytes() {
    let mut names = BTreeSet::new();
    let mut files = BTreeMap::new();
    for variant in variants() {
        let digest = tools::sha256_hex(&variant.extent.build());
        assert_eq!(files.insert(digest, variant.name.clone()), None, "{}", variant.name);
        assert!(names.insert(variant.name.clone()), "{}", variant.name);
    }
}
