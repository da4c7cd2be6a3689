//! Streams as products write them, and as the format allows them.

use std::sync::Arc;

use proptest::prelude::*;
use vmdk::{BlockDevice, BlockStatus, ErrorKind, Mapping, MemoryStorage, OpenOptions, Storage};

use crate::support::rng::Rng;
use crate::support::storage::CountingStorage;
use crate::support::stream::{AT_END, FLAG_COMPRESSED, KINDS, StreamImage, StreamKind, kind};
use crate::support::{SECTOR, byte_range, conformance, index};
use crate::{GRAIN, TABLE, content, described, grain, open, open_among};

#[test]
fn every_layout_of_every_version_is_read_whatever_its_size() {
    let mut rng = Rng::new(1);
    for capacity in [1, 127, 128, 129, 452, 40 * GRAIN, TABLE - 1, TABLE, TABLE + 1, 3 * TABLE + 77] {
        for kind in KINDS {
            let version = 1 + u32::try_from(rng.below(3)).unwrap();
            let stream = described(kind, capacity).version(version);
            let stream = if rng.chance(50) { stream.pad_last() } else { stream };
            let stream = if rng.chance(50) { stream.random(&mut rng) } else { stream.random_order(&mut rng) };
            let image = open(&stream.build()).unwrap();
            assert_eq!(image.capacity_sectors(), capacity);
            assert!(content(&image).unwrap() == stream.layer().content(), "{kind:?}, {capacity} sectors");
            assert!(image.chain()[0].warnings().is_empty(), "{:?}", image.chain()[0].warnings());
        }
    }
}

#[test]
fn a_stream_is_a_block_device_like_any_other() {
    for kind in KINDS {
        let stream = described(kind, 5 * GRAIN + 9).random(&mut Rng::new(3)).grain(1, grain(1));
        let image = open(&stream.build()).unwrap();
        conformance::check_at(&image, &stream.layer().content(), &[GRAIN, 2 * GRAIN, 5 * GRAIN]);
        let extent = &image.chain()[0].extents()[0];
        assert!(extent.is_compressed() && extent.salvaged().is_none());
    }
}

#[test]
fn small_and_large_grains_and_tables_are_read() {
    for (grain_sectors, entries) in [(1, 128), (8, 4096), (16, 512), (2048, 128)] {
        let capacity = grain_sectors * 300 + 1;
        let stream = StreamImage::new(StreamKind::Classic, capacity).grain_sectors(grain_sectors);
        let stream = [0, 1, 150, 300].into_iter().fold(stream.entries_per_table(entries), |stream, number| {
            stream.grain(number, vec![u8::try_from(number % 251 + 1).unwrap(); 100])
        });
        assert!(content(&open(&stream.build()).unwrap()).unwrap() == stream.layer().content(), "{grain_sectors}");
    }
    let too_large = StreamImage::new(StreamKind::Qemu, 4096).grain_sectors(4096).grain(0, [1; 9]);
    let error = open(&too_large.build()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("grainSize"), "{error}");
}

#[test]
fn other_blocks_between_the_grains_are_passed_over() {
    let stream = described(StreamKind::Classic, 4 * GRAIN)
        .marker(9, kind::PROGRESS, &[])
        .grain(2, grain(2))
        .marker(2, 77, &[0xaa; 2 * SECTOR])
        .grain(0, grain(0));
    assert!(content(&open(&stream.build()).unwrap()).unwrap() == stream.layer().content());
}

#[test]
fn of_a_grain_that_stands_there_twice_the_one_in_the_table_is_read() {
    let stream =
        described(StreamKind::Preallocated, 2 * GRAIN).grain(0, grain(1)).grain(1, grain(2)).grain(0, grain(3));
    let built = stream.build_with_layout();
    assert!(content(&open(&built.bytes).unwrap()).unwrap() == [grain(3), grain(2)].concat());
    let first = u32::try_from(built.grains[0].sector).unwrap();
    let old = stream.patch(built.entry(0), first.to_le_bytes());
    assert!(content(&open(&old.build()).unwrap()).unwrap() == [grain(1), grain(2)].concat());
}

#[test]
fn grains_without_markers_are_read() {
    for kind in [StreamKind::Preallocated, StreamKind::Packed, StreamKind::Qemu] {
        let stream = described(kind, 3 * GRAIN + 1).without_markers().grain(2, grain(1)).grain(3, [4; SECTOR]);
        assert!(content(&open(&stream.build()).unwrap()).unwrap() == stream.layer().content(), "{kind:?}");
    }
}

#[test]
fn deflate_without_a_container_is_read_on_request() {
    let stream = described(StreamKind::Classic, 2 * GRAIN).grain(0, grain(1)).raw_deflate().grain(1, grain(2));
    let image = open(&stream.build()).unwrap();
    let mut sector = [0; SECTOR];
    image.read_sectors(0, &mut sector).unwrap();
    let error = image.read_sectors(GRAIN, &mut sector).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("no zlib header"), "{error}");
    let options = OpenOptions::new().allow_raw_deflate(true);
    let image = open_among(&[("disk", &stream.build())], &options).unwrap();
    assert!(content(&image).unwrap() == stream.layer().content());
}

#[test]
fn an_entry_of_1_is_a_grain_of_zeros() {
    let stream = described(StreamKind::Qemu, 2 * GRAIN).flags(0x30007).grain(0, grain(1));
    let entry = stream.build_with_layout().entry(0) + 4;
    let image = open(&stream.patch(entry, 1_u32.to_le_bytes()).build()).unwrap();
    assert_eq!(image.block_status(GRAIN, 9).unwrap(), (BlockStatus::Zero, 9));
    assert!(content(&image).unwrap() == [grain(1), vec![0; index(GRAIN) * SECTOR]].concat());
}

#[test]
fn a_footer_is_found_behind_zeros_and_without_its_end() {
    let stream = described(StreamKind::Classic, 3 * GRAIN).grain(1, grain(1));
    let expected = stream.layer().content();
    let exact = stream.build();
    for (padded, len) in [(1, 0), (1, 511), (0, 512), (0, 4096), (0, 3 << 20)] {
        // A byte that is left over at the end makes no sector.
        let file = [exact.clone(), vec![padded; len]].concat();
        assert!(content(&open(&file).unwrap()).unwrap() == expected, "{len} bytes");
    }
    assert!(content(&open(&exact[..exact.len() - SECTOR]).unwrap()).unwrap() == expected);
    let error = open(&[exact, vec![0; 17 << 20]].concat()).unwrap_err();
    assert!(error.to_string().contains("salvage"), "{error}");
}

#[test]
fn a_footer_that_the_header_promises_must_be_of_the_same_extent() {
    let stream = described(StreamKind::Classic, 3 * GRAIN).grain(1, grain(1));
    for (offset, value, name) in
        [(12, 2 * GRAIN, "capacity"), (20, 64, "grain size"), (44, 1024, "grain tables"), (8, 0x0003_0005, "flags")]
    {
        let bytes = u64::to_le_bytes(value);
        let bytes = if matches!(offset, 44 | 8) { &bytes[..4] } else { &bytes[..] };
        let error = open(&stream.clone().patch_footer(offset, bytes).build()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(name) && error.to_string().contains("footer"), "{error}");
    }
    let nowhere = stream.patch_footer(56, AT_END.to_le_bytes());
    assert_eq!(open(&nowhere.build()).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Where no footer is promised, the end of the file may be data of a guest, who can make it look like one.
#[test]
fn what_looks_like_a_footer_is_none_where_the_header_knows_the_directory() {
    // In a grain that is stored behind 19 bytes of marker, container and block; the end has a sector behind it.
    let mut of_guest = vec![0x5a; index(GRAIN) * SECTOR];
    let sector = |number: usize| number * SECTOR - 19;
    of_guest[sector(127)..][..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    of_guest[sector(128)..][..12].copy_from_slice(b"KDMV\x01\0\0\0\0\0\0\0");
    let stream = described(StreamKind::Preallocated, 2 * GRAIN).level(0).grain(1, of_guest);
    let file = stream.build();
    assert!(file[file.len() - 2 * SECTOR..].starts_with(b"KDMV") && file[file.len() - 3 * SECTOR + 12] == 3);
    assert!(content(&open(&file).unwrap()).unwrap() == stream.layer().content());
    let tables_behind = described(StreamKind::TablesBehind, 3 * GRAIN).grain(1, grain(1));
    let expected = tables_behind.layer().content();
    for stream in [tables_behind.clone().without_footer(), tables_behind.patch_footer(12, 9_u64.to_le_bytes())] {
        assert!(content(&open(&stream.build()).unwrap()).unwrap() == expected);
    }
}

#[test]
fn a_program_can_inflate_what_the_map_shows() {
    for kind in KINDS {
        let stream = described(kind, 2 * GRAIN + 5).grain(1, grain(1)).grain(2, [7; 5 * SECTOR]);
        let built = stream.build_with_layout();
        let image = open(&built.bytes).unwrap();
        assert!(matches!(image.map(0, 9).unwrap().mapping, Mapping::Unallocated));
        assert_eq!(image.block_status(0, u64::MAX).unwrap(), (BlockStatus::Hole, GRAIN));
        for (sector, number, sectors) in [(GRAIN, 1, GRAIN), (GRAIN + 100, 1, 28), (2 * GRAIN + 1, 2, 4)] {
            let run = image.map(sector, u64::MAX).unwrap();
            let Mapping::Compressed { storage, offset, skip, .. } = run.mapping else { panic!("{:?}", run.mapping) };
            let expected = (built.marker(number), (sector % GRAIN) * SECTOR as u64, sectors);
            assert_eq!((offset, skip, run.sectors), expected);
            let mut marker = [0; 12];
            storage.read_exact_at(&mut marker, offset).unwrap();
            assert_eq!(marker[..8], (number * GRAIN).to_le_bytes());
            assert_eq!(image.block_status(sector, u64::MAX).unwrap(), (BlockStatus::Data, sectors));
        }
    }
}

/// As `qemu-img bench` and many guests read: page by page. All usual grains are inflated from two host reads.
#[test]
fn what_is_read_piece_by_piece_is_inflated_once() {
    let stream =
        (0..8).fold(described(StreamKind::Classic, 8 * GRAIN), |stream, number| stream.grain(number, grain(number)));
    let expected = stream.layer().content();
    let reads_of = |options: &OpenOptions, piece: u64, passes: u64| {
        let storage = CountingStorage::new(Arc::new(MemoryStorage::new(stream.build())));
        let counted = Arc::clone(&storage);
        let image = options.open_with("disk", &move |_: &str| Some(counted.clone() as Arc<dyn Storage>)).unwrap();
        image.read_sectors(0, &mut [0; SECTOR]).unwrap();
        storage.take();
        for _ in 0..passes {
            let mut found = Vec::new();
            for start in (0..8 * GRAIN).step_by(index(piece)) {
                let mut buf = vec![0; index(piece) * SECTOR];
                image.read_sectors(start, &mut buf).unwrap();
                found.extend_from_slice(&buf);
            }
            assert!(found == expected);
        }
        storage.take().reads.len()
    };
    // The first grain was there.
    assert_eq!(reads_of(&OpenOptions::new(), 8, 1), 14);
    assert_eq!(reads_of(&OpenOptions::new(), 1, 3), 14, "all of it is kept");
    let grain_len = index(GRAIN) * SECTOR;
    assert_eq!(reads_of(&OpenOptions::new().grain_cache_bytes(3 * grain_len), 8, 1), 14);
    assert_eq!(reads_of(&OpenOptions::new().grain_cache_bytes(grain_len), 8, 2), 30, "the first was kept once");
    assert_eq!(reads_of(&OpenOptions::new().grain_cache_bytes(0), 64, 1), 32, "nothing is kept");
    assert_eq!(reads_of(&OpenOptions::new(), 8 * GRAIN, 2), 28, "whole grains need no cache");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_range_reads_as_the_model(
        seed: u64,
        kind in prop::sample::select(KINDS.to_vec()),
        capacity in 1..9 * GRAIN,
        cache in prop::sample::select(vec![0, 70_000, 300_000, 16 << 20]),
        ranges in prop::collection::vec((any::<prop::sample::Index>(), 1..400_u64, any::<bool>()), 1..40),
    ) {
        let stream = described(kind, capacity).random_order(&mut Rng::new(seed));
        let expected = stream.layer().content();
        let image = open_among(&[("disk", &stream.build())], &OpenOptions::new().grain_cache_bytes(cache)).unwrap();
        for (start, count, vectored) in ranges {
            let start = start.index(index(capacity)) as u64;
            let count = count.min(capacity - start);
            let mut buf = vec![0xee; index(count) * SECTOR];
            if vectored {
                let (a, b) = buf.split_at_mut(index(count) / 3 * SECTOR + 100);
                let mut slices = [std::io::IoSliceMut::new(a), std::io::IoSliceMut::new(b)];
                image.read_sectors_vectored(start, &mut slices).unwrap();
            } else {
                image.read_sectors(start, &mut buf).unwrap();
            }
            prop_assert!(buf == expected[byte_range(start, count)]);
        }
    }
}

#[test]
fn compression_is_what_the_flags_say() {
    // Bit 17 alone was never written by anybody.
    let stream = described(StreamKind::Qemu, GRAIN).grain(0, grain(0));
    assert!(open(&stream.clone().flags(FLAG_COMPRESSED | 2).build()).is_ok(), "without markers");
    for (flags, kind) in [(0x2_0003, ErrorKind::Corrupt), (0x7_0003, ErrorKind::Unsupported)] {
        assert_eq!(open(&stream.clone().flags(flags).build()).unwrap_err().kind(), kind);
    }
}
