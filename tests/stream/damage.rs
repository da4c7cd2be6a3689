//! Damaged streams: an error on the read that meets the damage, never zeros, and everything else as it was.

use vmdk::{BlockDevice, ErrorKind, OpenOptions};

use crate::support::stream::{KINDS, StreamImage, StreamKind, zlib};
use crate::support::{SECTOR, byte_range, index};
use crate::{GRAIN, content, described, grain, open, open_among};

/// A damaged stream in which the grain 1 cannot be read, and the word that the error has to say; all others can.
fn check_grain_1(stream: &StreamImage, word: &str) {
    let image = open(&stream.build()).unwrap();
    let good =
        described(StreamKind::Classic, stream.capacity()).grain(0, grain(10)).grain(2, grain(12)).layer().content();
    for _ in 0..2 {
        for (start, len) in [(GRAIN, index(GRAIN)), (GRAIN + 3, 1), (0, 3 * index(GRAIN)), (GRAIN, 1)] {
            let error = image.read_sectors(start, &mut vec![0; len * SECTOR]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(word) && error.file().is_some(), "{error}");
        }
        for start in [0, 2 * GRAIN] {
            let mut buf = vec![0; index(GRAIN) * SECTOR];
            image.read_sectors(start, &mut buf).unwrap();
            assert!(buf == good[byte_range(start, GRAIN)]);
            image.read_sectors(start + 5, &mut buf[..SECTOR]).unwrap();
            assert!(buf[..SECTOR] == good[byte_range(start + 5, 1)]);
        }
    }
}

fn around(kind: StreamKind, add: impl FnOnce(StreamImage) -> StreamImage) -> StreamImage {
    add(described(kind, 3 * GRAIN).grain(0, grain(10))).grain(2, grain(12))
}

#[test]
fn every_damage_of_a_grain_is_an_error_for_that_grain_alone() {
    let whole = index(GRAIN) * SECTOR;
    for kind in KINDS {
        let packed = zlib(&grain(11), 6);
        let end = packed.len();
        let mut checksum = packed.clone();
        checksum[end - 1] ^= 1;
        check_grain_1(&around(kind, |stream| stream.stored_grain(1, checksum)), "checksum");
        let mut code = packed.clone();
        code[20] ^= 0x55;
        check_grain_1(&around(kind, |stream| stream.stored_grain(1, code)), "offset");
        check_grain_1(&around(kind, |stream| stream.stored_grain(1, &packed[..end - 3])), "too early");
        // Bombs.
        check_grain_1(
            &around(kind, |stream| stream.stored_grain(1, zlib(&vec![0; whole + 1], 9))),
            "more than its grain",
        );
        check_grain_1(
            &around(kind, |stream| stream.stored_grain(1, zlib(&vec![0; 20 << 20], 9))),
            "more than its grain",
        );
        check_grain_1(
            &around(kind, |stream| stream.stored_grain(1, zlib(&vec![0; whole - 1], 9))),
            "less than its grain",
        );
        check_grain_1(&around(kind, |stream| stream.grain_of_size(1, packed.clone(), u32::MAX)), "size");
        check_grain_1(&around(kind, |stream| stream.grain_of_size(1, packed.clone(), 2 * 65_536 + 1)), "size");
        check_grain_1(&around(kind, |stream| stream.grain_of_size(1, packed.clone(), 0)), "no grain");
        check_grain_1(&around(kind, |stream| stream.grain_of_size(1, packed.clone(), 100_000)), "past the end");
        for lba in [0, 2 * GRAIN, GRAIN + 1, u64::MAX] {
            check_grain_1(&around(kind, |stream| stream.grain_at(1, lba, grain(11))), "another sector");
        }
    }
}

#[test]
fn entries_that_lead_to_where_no_grain_is_are_errors() {
    for kind in KINDS {
        let stream = around(kind, |stream| stream.grain(1, grain(11)));
        let built = stream.build_with_layout();
        let to = |sector: u32| stream.clone().patch(built.entry(1), sector.to_le_bytes());
        let sector_of = |grain| u32::try_from(built.marker(grain) / SECTOR as u64).unwrap();
        check_grain_1(&to(sector_of(2)), "another sector");
        check_grain_1(&to(sector_of(1) + 1), "grain");
        check_grain_1(&to(2), "metadata");
        check_grain_1(&to(u32::MAX), "past the end");
        check_grain_1(&to(u32::try_from(built.bytes.len() / SECTOR).unwrap()), "past the end");
        if built.end_marker != 0 {
            check_grain_1(&to(u32::try_from(built.end_marker).unwrap()), "no grain");
        }
    }
}

#[test]
fn no_error_is_kept_for_another_read() {
    let packed = zlib(&grain(11), 6);
    let stream = around(StreamKind::Classic, |stream| stream.stored_grain(1, &packed[..packed.len() - 1]));
    let options = OpenOptions::new().grain_cache_bytes(0);
    let image = open_among(&[("disk", &stream.build())], &options).unwrap();
    for _ in 0..3 {
        assert!(image.read_sectors(GRAIN, &mut [0; SECTOR]).is_err());
    }
    assert!(image.block_status(GRAIN, 1).is_ok(), "where it is, is known");
}

#[test]
fn a_stream_that_ends_anywhere_is_an_error_or_what_it_was() {
    for kind in KINDS {
        let stream = described(kind, 3 * GRAIN).grain(0, vec![1; 900]).grain(2, vec![2; 5000]);
        let (file, expected) = (stream.build(), stream.layer().content());
        for len in 0..file.len() {
            let found = open(&file[..len]).and_then(|image| content(&image));
            match found {
                Ok(found) => assert!(found == expected, "{kind:?}, {len} bytes"),
                Err(error) => {
                    let kinds = [ErrorKind::Corrupt, ErrorKind::NotVmdk];
                    assert!(kinds.contains(&error.kind()) && error.file().is_some(), "{len} bytes: {error}");
                }
            }
        }
    }
}

#[test]
fn a_stream_without_its_end_suggests_to_salvage_it() {
    let stream = described(StreamKind::Classic, 3 * GRAIN).grain(0, grain(1)).grain(2, grain(2));
    let built = stream.build_with_layout();
    let cut = index(built.marker(2)) + 700;
    let text = open(&built.bytes[..cut]).unwrap_err().to_string();
    assert!(text.contains("cut") && text.contains("--salvage") && text.contains("gdOffset"), "{text}");
}

/// The room of a download is there before its bytes are: a directory of zeros behind the grains has no marker in front,
/// and is none.
#[test]
fn zeros_in_the_place_of_the_directory_are_no_empty_disk() {
    let stream = (0..9)
        .fold(described(StreamKind::TablesBehind, 9 * GRAIN), |stream, number| stream.grain(number, grain(number)));
    let built = stream.build_with_layout();
    let mut bytes = built.bytes.clone();
    bytes[index(built.marker(5))..].fill(0);
    let read = open(&bytes).and_then(|image| content(&image));
    assert!(read.is_err(), "all of the disk reads as zeros, also the grains that are there");
}

/// Likewise a table.
#[test]
fn zeros_in_the_place_of_a_table_are_no_empty_table() {
    for kind in [StreamKind::Classic, StreamKind::TablesBehind] {
        let stream = (0..9).fold(described(kind, 9 * GRAIN), |stream, number| stream.grain(number, grain(number)));
        let built = stream.build_with_layout();
        let mut bytes = built.bytes.clone();
        bytes[index(built.marker(8))..(index(built.gt[0]) + 4) * SECTOR].fill(0);
        let read = open(&bytes).and_then(|image| content(&image));
        assert!(read.is_err(), "{kind:?}: all of the disk reads as zeros, also the grains that are there");
    }
}
