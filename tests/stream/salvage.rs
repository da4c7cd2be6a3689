//! Streams that are opened by their markers.

use vmdk::{BlockDevice, ErrorKind, OpenOptions, Salvaged, VmdkImage};

use crate::support::rng::Rng;
use crate::support::stream::{KINDS, StreamImage, StreamKind, kind, zlib};
use crate::support::{SECTOR, byte_range, index};
use crate::{GRAIN, TABLE, content, described, grain, open, open_among};

fn salvaged(file: &[u8]) -> VmdkImage {
    open_among(&[("disk", file)], &OpenOptions::new().salvage(true)).unwrap()
}

fn found(image: &VmdkImage) -> Salvaged {
    image.chain()[0].extents()[0].salvaged().expect("it was salvaged")
}

#[test]
fn a_whole_stream_is_read_by_its_markers_as_by_its_tables() {
    let mut rng = Rng::new(4);
    for kind in KINDS {
        for capacity in [1, 129, 9 * GRAIN + 7, TABLE + 1] {
            let stream = described(kind, capacity).random_order(&mut rng);
            let image = salvaged(&stream.build());
            assert!(content(&image).unwrap() == stream.layer().content(), "{kind:?}");
            let found = found(&image);
            assert!(found.is_complete() && found.missing_grains == Some(0), "{kind:?}: {found:?}");
            assert!(image.chain()[0].warnings().is_empty());
        }
    }
}

/// Whatever is left of it can be read, and what is not there reads as a hole and is said to be missing.
#[test]
fn a_stream_that_ends_anywhere_is_read_up_to_there() {
    for kind in KINDS {
        let contents = [vec![1; 900], vec![2; 5000], grain(3)];
        let stream = (0..3).fold(described(kind, 4 * GRAIN), |stream, number| {
            stream.grain(number + 1, contents[index(number)].clone())
        });
        let built = stream.build_with_layout();
        let expected = stream.layer().content();
        for len in (built.bytes.len() / 2..built.bytes.len()).step_by(61).chain([built.bytes.len() - 1]) {
            let opened = open_among(&[("disk", &built.bytes[..len])], &OpenOptions::new().salvage(true));
            let Ok(image) = opened else {
                assert!(len < index(built.overhead) * SECTOR, "{kind:?}, {len} bytes: {opened:?}");
                continue;
            };
            let is_there = |number: u64| {
                let placed = built.grains.iter().find(|placed| placed.grain == number);
                placed.is_some_and(|placed| index(placed.sector) * SECTOR + 12 + placed.size <= len)
            };
            let read = content(&image).unwrap();
            for number in 0..4 {
                let range = byte_range(number * GRAIN, GRAIN);
                let there = is_there(number);
                let right =
                    if there { read[range.clone()] == expected[range] } else { read[range].iter().all(|&b| b == 0) };
                assert!(right, "{kind:?}, {len} bytes, grain {number}");
            }
            let found = found(&image);
            let count = (1..4).filter(|&number| is_there(number)).count() as u64;
            assert_eq!(found.grains, count, "{kind:?}, {len} bytes");
            // Without a grain, something is missing and it is said; with all of them nothing may be missing.
            if count < 3 {
                assert!(!found.is_complete(), "{kind:?}, {len} bytes: {found:?}");
                assert!(image.chain()[0].warnings().iter().any(|warning| warning.contains("missing")));
            }
        }
    }
}

#[test]
fn what_the_tables_name_and_what_is_not_there_is_counted() {
    let stream = (0..9)
        .fold(described(StreamKind::Preallocated, 9 * GRAIN), |stream, number| stream.grain(number, grain(number)));
    let built = stream.build_with_layout();
    let cut = index(built.marker(5)) + 100;
    let image = salvaged(&built.bytes[..cut]);
    let found = found(&image);
    assert_eq!((found.grains, found.missing_grains, found.end_sector), (5, Some(4), 5 * GRAIN));
    assert_eq!(found.end_offset, built.marker(5));
    assert!(found.problem.is_some());
    assert_eq!(image.read_sectors(6 * GRAIN, &mut [0; SECTOR]).map_err(|error| error.kind()), Ok(()));
    // Without the request, the same read is an error.
    let plain = open(&built.bytes[..cut]).unwrap();
    assert_eq!(plain.read_sectors(6 * GRAIN, &mut [0; SECTOR]).unwrap_err().kind(), ErrorKind::Corrupt);
    plain.read_sectors(3 * GRAIN, &mut [0; SECTOR]).unwrap();
}

#[test]
fn of_a_grain_that_stands_there_twice_the_later_one_is_read() {
    let stream = described(StreamKind::Classic, 3 * GRAIN).grain(2, grain(1)).grain(1, grain(2)).grain(2, grain(3));
    let image = salvaged(&stream.build());
    assert!(content(&image).unwrap() == stream.layer().content());
    assert_eq!(found(&image).grains, 2);
}

#[test]
fn the_way_ends_at_a_marker_that_cannot_be() {
    let start = || described(StreamKind::Classic, 4 * GRAIN).grain(0, grain(0)).marker(1, kind::PROGRESS, &[]);
    let packed = zlib(&grain(1), 6);
    for (bad, problem) in [
        (start().grain_of_size(1, packed.clone(), u32::MAX), "twice"),
        (start().grain_at(1, 5 * GRAIN, grain(1)), "past the end of the disk"),
        (start().grain_at(1, 5, grain(1)), "not the first sector"),
        (start().marker(7, kind::TABLE, &[]), "another number"),
        (start().marker(u64::MAX, 55, &[]), "no file has so many"),
        (start().marker(4000, 55, &[]), "ends within a block"),
    ] {
        let image = salvaged(&bad.grain(2, grain(2)).without_tables().without_footer().build());
        let found = found(&image);
        assert_eq!(found.grains, 1);
        assert!(found.problem.is_some_and(|text| text.contains(problem)), "{found:?}");
        let mut first = vec![0; index(GRAIN) * SECTOR];
        image.read_sectors(0, &mut first).unwrap();
        assert!(first == grain(0));
    }
}

#[test]
fn a_damaged_grain_reads_as_zeros_and_is_said() {
    let mut packed = zlib(&grain(1), 6);
    let end = packed.len();
    packed[end - 2] ^= 4;
    let stream =
        described(StreamKind::Classic, 3 * GRAIN).grain(0, grain(0)).stored_grain(1, packed).grain(2, grain(2));
    let image = salvaged(&stream.build());
    assert!(found(&image).is_complete(), "nobody has looked at it");
    let zeros = vec![0; index(GRAIN) * SECTOR];
    assert!(content(&image).unwrap() == [grain(0), zeros, grain(2)].concat());
    let found = found(&image);
    assert_eq!(found.damaged_sectors, [GRAIN]);
    assert!(!found.is_complete() && found.to_string().contains("damaged: 1, the first at sector 128"));
    // Without the request it is an error.
    let plain = open(&stream.build()).unwrap();
    assert_eq!(plain.read_sectors(GRAIN, &mut [0; SECTOR]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_stream_begins_behind_its_descriptor_if_the_header_is_wrong_about_it() {
    let stream = described(StreamKind::Classic, 3 * GRAIN).grain(1, grain(1));
    let expected = stream.layer().content();
    for over_head in [0, 21, 5000, u64::MAX] {
        let image = salvaged(&stream.clone().patch(64, u64::to_le_bytes(over_head)).build());
        assert!(content(&image).unwrap() == expected, "{over_head}");
    }
}

#[test]
fn salvage_is_for_reading_and_leaves_other_disks_alone() {
    let error = open_among(&[("disk", &[])], &OpenOptions::new().salvage(true).write(true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let stream = StreamImage::new(StreamKind::Qemu, GRAIN).without_markers().grain(0, grain(0));
    let image = salvaged(&stream.build());
    assert!(image.chain()[0].extents()[0].salvaged().is_none(), "there are no markers to go by");
    assert!(content(&image).unwrap() == grain(0));
}

/// The room of a download may be there before its bytes are. Zeros look like the end of a stream.
#[test]
fn zeros_in_the_place_of_the_rest_are_said_to_be_missing() {
    for kind in KINDS {
        let stream = (0..9).fold(described(kind, 9 * GRAIN), |stream, number| stream.grain(number, grain(number)));
        let built = stream.build_with_layout();
        let mut bytes = built.bytes.clone();
        bytes[index(built.marker(5))..].fill(0);
        let image = salvaged(&bytes);
        let found = found(&image);
        assert_eq!(found.grains, 5, "{kind:?}");
        assert!(!found.is_complete(), "{kind:?}: {found:?}");
        assert!(image.chain()[0].warnings().iter().any(|warning| warning.contains("missing")), "{kind:?}");
    }
}
