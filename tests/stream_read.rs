//! Streams read from one end to the other: every layout, every order, and what is wrong with a stream.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;

use proptest::prelude::*;
use vmdk::{BlockDevice, CopyProgress, ErrorKind, MemoryStorage, RawTarget, Result, StreamReader, StreamSummary};

use support::descriptor::DescriptorText;
use support::model::MemoryDevice;
use support::rng::Rng;
use support::stream::{self, KINDS, StreamImage, StreamKind, kind};
use support::{SECTOR, tools};

const GRAIN: usize = 8 * SECTOR;

fn go_on(_: CopyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Grains of 4 KiB, tables of 128 entries.
fn small(kind: StreamKind, capacity: u64) -> StreamImage {
    StreamImage::new(kind, capacity).grain_sectors(8).entries_per_table(128)
}

/// A stream of 300 grains and a bit, in ascending order, in three tables.
fn sample(kind: StreamKind) -> StreamImage {
    small(kind, 300 * 8 + 3).random(&mut Rng::new(7))
}

/// Three grains, of which a file of every length is read.
fn tiny(kind: StreamKind) -> StreamImage {
    small(kind, 3 * 8).descriptor_sectors(1).grain(0, [1; GRAIN]).grain(2, Rng::new(1).bytes(GRAIN))
}

/// The content of a disk by `next_grain`.
fn content(input: impl Read) -> Result<(Vec<u8>, StreamSummary)> {
    let mut stream = StreamReader::new(input)?;
    let mut content = vec![0; support::byte_range(0, stream.capacity_sectors()).end];
    while let Some(grain) = stream.next_grain()? {
        let at = support::index(grain.start_sector) * SECTOR;
        content[at..at + grain.bytes.len()].copy_from_slice(grain.bytes);
    }
    Ok((content, stream.summary()))
}

/// The content by `copy_to_raw`.
fn raw(bytes: &[u8], kind: RawTarget, threads: usize) -> Result<Vec<u8>> {
    let mut stream = StreamReader::new(bytes)?;
    let target = match kind {
        RawTarget::Empty => MemoryStorage::new([0xee; 100]),
        RawTarget::Used => MemoryStorage::new(vec![0xee; support::byte_range(0, stream.capacity_sectors()).end]),
    };
    stream.copy_to_raw(&target, kind, threads, &mut go_on)?;
    Ok(target.to_vec())
}

/// The content by `copy_to_writer`.
fn piped(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut output = Vec::new();
    StreamReader::new(bytes)?.copy_to_writer(&mut output, 1, &mut go_on)?;
    Ok(output)
}

#[track_caller]
fn corrupt(bytes: &[u8]) -> String {
    let error = content(bytes).expect_err("it is damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    error.to_string()
}

/// Gives a few bytes at a time, and interrupts.
struct Dripping<'a>(&'a [u8], usize);

impl Read for Dripping<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buf.len().min(1 + self.1 % 700);
        self.0.read(&mut buf[..len])
    }
}

#[test]
fn every_layout_reads_as_what_was_put_in_by_every_way_out() {
    for kind in KINDS {
        let image = sample(kind);
        let (bytes, expected) = (image.build(), image.layer().content());
        let (found, summary) = content(&bytes[..]).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert!(found == expected, "{kind:?}");
        assert!(summary.complete && summary.missing.is_none(), "{kind:?}");
        assert_eq!(summary.end_sector, image.capacity(), "{kind:?}");
        assert!(content(Dripping(&bytes, 0)).unwrap().0 == expected, "{kind:?}, a few bytes at a time");
        for threads in [0, 1, 2, 8] {
            assert!(raw(&bytes, RawTarget::Empty, threads).unwrap() == expected, "{kind:?}");
            assert!(raw(&bytes, RawTarget::Used, threads).unwrap() == expected, "{kind:?}");
        }
        assert!(piped(&bytes).unwrap() == expected, "{kind:?}");
        let device = MemoryDevice::new(vec![0xdd; expected.len()]);
        StreamReader::new(&bytes[..]).unwrap().copy_to(&device, 2, &mut go_on).unwrap();
        let mut found = vec![0; expected.len()];
        device.read_sectors(0, &mut found).unwrap();
        assert!(found == expected, "{kind:?}");
    }
}

#[test]
fn any_order_is_read_but_an_output_that_cannot_go_back_takes_ascending_grains_only() {
    let mut rng = Rng::new(3);
    for kind in KINDS {
        let image = small(kind, 200 * 8).random_order(&mut rng);
        let (bytes, expected) = (image.build(), image.layer().content());
        assert!(content(&bytes[..]).unwrap().0 == expected, "{kind:?}");
        assert!(raw(&bytes, RawTarget::Used, 2).unwrap() == expected, "{kind:?}");
        let error = piped(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("lba"), "{error}");
    }
}

#[test]
fn the_later_of_two_grains_counts_also_one_of_zeros() {
    for kind in KINDS {
        let image = small(kind, 5 * 8).grain(1, [1; GRAIN]).grain(3, [3; GRAIN]).grain(1, [0; GRAIN]);
        let image = image.grain(3, [4; GRAIN]);
        let (bytes, expected) = (image.build(), image.layer().content());
        assert_eq!(expected[GRAIN], 0);
        assert!(content(&bytes[..]).unwrap().0 == expected, "{kind:?}");
        for target in [RawTarget::Empty, RawTarget::Used] {
            assert!(raw(&bytes, target, 1).unwrap() == expected, "{kind:?}");
        }
        let error = piped(&bytes).unwrap_err();
        assert!(error.to_string().contains("lba 8 "), "{error}");
    }
}

#[test]
fn a_last_grain_may_be_short_or_full() {
    for kind in KINDS {
        for image in [small(kind, 11), small(kind, 11).pad_last()] {
            let image = image.grain(0, [1; GRAIN]).grain(1, [2; 3 * SECTOR]);
            assert!(content(&image.build()[..]).unwrap().0 == image.layer().content(), "{kind:?}");
        }
        let short = small(kind, 16).stored_grain(0, stream::zlib(&[1; GRAIN - 1], 6)).build();
        assert!(corrupt(&short).contains("holds less than its grain"));
    }
}

#[test]
fn empty_disks_are_read() {
    for kind in KINDS {
        let bytes = small(kind, 1000).build();
        let (found, summary) = content(&bytes[..]).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert!(found.iter().all(|&byte| byte == 0) && found.len() == 1000 * SECTOR);
        assert_eq!((summary.grains, summary.end_sector, summary.complete), (0, 0, true));
        assert!(piped(&bytes).unwrap() == found);
        assert!(raw(&bytes, RawTarget::Used, 1).unwrap() == found);
    }
}

#[test]
fn blocks_that_are_no_grains_are_passed_over() {
    for kind in KINDS {
        let image = small(kind, 64)
            .marker(7, kind::PROGRESS, &[])
            .grain(0, [1; GRAIN])
            .marker(3, 99, &[0xff; 3 * SECTOR])
            .marker(0, 77, &[])
            .grain(2, [2; GRAIN]);
        assert!(content(&image.build()[..]).unwrap().0 == image.layer().content(), "{kind:?}");
    }
}

#[test]
fn grains_begin_where_there_are_no_more_zeros_whatever_the_header_says() {
    // VMware writes 128; a header of 0, one within the descriptor, and one that is too high are all read.
    for overhead in [0, 1, 128] {
        let image = small(StreamKind::Classic, 64).descriptor_sectors(20).grain(1, [1; GRAIN]);
        let mut bytes = image.clone().overhead(40).build();
        bytes[64..72].copy_from_slice(&u64::to_le_bytes(overhead));
        // A descriptor that reaches over the first grain is an error of its own.
        if overhead == 1 {
            assert!(corrupt(&bytes).contains("descriptorSize"));
            continue;
        }
        let footer = bytes.len() - 2 * SECTOR;
        bytes[footer + 64..footer + 72].copy_from_slice(&u64::to_le_bytes(overhead));
        assert!(content(&bytes[..]).unwrap().0 == image.layer().content(), "{overhead}");
    }
}

#[test]
fn nothing_is_read_behind_the_end() {
    let images: Vec<_> = [5, 6].map(|seed| small(StreamKind::Classic, 400).random(&mut Rng::new(seed))).into();
    let pipe: Vec<u8> = images.iter().flat_map(StreamImage::build).collect();
    let mut input = &pipe[..];
    for image in images {
        let mut stream = StreamReader::new(&mut input).unwrap();
        let target = MemoryStorage::new([]);
        stream.copy_to_raw(&target, RawTarget::Empty, 2, &mut go_on).unwrap();
        assert!(target.to_vec() == image.layer().content());
    }
    assert!(input.is_empty());
}

#[test]
fn version_level_container_and_flags_may_be_anything_legal() {
    let expected = [vec![5; GRAIN], vec![0; GRAIN]].concat();
    for level in 0..=9 {
        for version in 1..=3 {
            let image = small(StreamKind::Classic, 16).version(version).level(level).grain(0, [5; GRAIN]);
            assert!(content(&image.build()[..]).unwrap().0 == expected);
        }
    }
    let bytes = small(StreamKind::Qemu, 16).raw_deflate().grain(0, [5; GRAIN]).build();
    assert!(corrupt(&bytes).contains("no zlib header"));
    let mut stream = StreamReader::new(&bytes[..]).unwrap().allow_raw_deflate(true);
    assert_eq!(stream.next_grain().unwrap().unwrap().bytes, [5; GRAIN]);
    let target = MemoryStorage::new([]);
    let stream = StreamReader::new(&bytes[..]).unwrap().allow_raw_deflate(true);
    { stream }.copy_to_raw(&target, RawTarget::Empty, 2, &mut go_on).unwrap();
    assert!(target.to_vec() == expected);
}

#[test]
fn what_is_no_stream_is_refused_by_its_kind() {
    let kind_of = |bytes: &[u8]| StreamReader::new(bytes).expect_err("no stream").kind();
    assert_eq!(kind_of(b""), ErrorKind::NotVmdk);
    assert_eq!(kind_of(b"# Disk DescriptorFile\n"), ErrorKind::NotVmdk);
    assert_eq!(kind_of(b"COWD"), ErrorKind::Unsupported);
    assert_eq!(kind_of(b"KDMV"), ErrorKind::Corrupt);
    let with = |offset: usize, value: u8| {
        let mut bytes = tiny(StreamKind::Classic).build();
        bytes[offset] = value;
        bytes
    };
    assert_eq!(kind_of(&with(0, b'k').iter().map(u8::to_ascii_lowercase).collect::<Vec<_>>()), ErrorKind::Incomplete);
    assert_eq!(kind_of(&with(4, 4)), ErrorKind::Unsupported);
    assert_eq!(kind_of(&with(77, 2)), ErrorKind::Unsupported);
    assert_eq!(kind_of(&with(10, 0)), ErrorKind::Corrupt, "deflate without the flag for it");
    assert_eq!(kind_of(&with(10, 1)), ErrorKind::Unsupported, "no markers");
    assert_eq!(kind_of(&support::sparse::SparseImage::new(1024).build()), ErrorKind::Unsupported);
}

#[test]
fn a_bad_marker_is_an_error_that_says_where_and_which() {
    let zlib = stream::zlib(&[1; GRAIN], 6);
    let image = || small(StreamKind::Classic, 100).grain(3, [3; GRAIN]);
    let rows = [
        (image().grain_of_size(4, zlib.clone(), u32::MAX), "size is 0xffffffff"),
        (image().grain_of_size(4, zlib.clone(), 2 * 4096 + 1), "size is 0x2001"),
        (image().grain_at(4, 33, [1; GRAIN]), "lba is 0x21: not the first sector"),
        (image().grain_at(4, 104, [1; GRAIN]), "lba is 0x68: the grain lies past the end"),
        (image().grain_at(4, u64::MAX, [1; GRAIN]), "the grain lies past the end"),
        (image().marker(7, kind::TABLE, &[0; 7 * SECTOR]), "size of a grain table is 0x7"),
        (image().marker(u64::MAX, kind::DIRECTORY, &[]), "size of a grain directory"),
        (image().marker(2, kind::FOOTER, &[0; 2 * SECTOR]), "size of a footer is 0x2"),
        (image().marker(1, kind::FOOTER, &[0; SECTOR]), "no header of a sparse extent"),
        (image().marker(1, kind::END, &[]), "an end with a size"),
        (image().marker(u64::MAX, 9, &[]), "size of an unknown block"),
        (image().marker(1000, 9, &[]), "within the block at 0x"),
        (image().stored_grain(4, stream::zlib(&[0; GRAIN + 1], 9)), "holds more than its grain"),
        (image().stored_grain(4, stream::zlib(&vec![0; 1 << 20], 9)), "holds more than its grain"),
        (image().stored_grain(4, *b"junk"), "no zlib header"),
        (image().patch_footer(12, 101_u64.to_le_bytes()), "has the capacity 101, the header 100"),
        (image().patch_footer(20, 16_u64.to_le_bytes()), "has the grainSize 16, the header 8"),
    ];
    for (image, problem) in rows {
        let text = corrupt(&image.build());
        assert!(text.contains(problem), "{problem}: {text}");
        assert!(text.contains("offset 0x"), "{text}");
    }
    let built = image().grain(4, [4; GRAIN]).build_with_layout();
    let mut bytes = built.bytes.clone();
    let checksum = support::index(built.marker(4)) + 12 + built.grains[1].size - 1;
    bytes[checksum] ^= 1;
    let text = corrupt(&bytes);
    assert!(text.contains("checksum is wrong") && text.contains("lba 32 "), "{text}");
    assert!(text.contains(&format!("offset {:#x}", built.marker(4))), "{text}");
}

#[test]
fn a_stream_that_ends_too_early_is_an_error_at_every_byte() {
    for kind in KINDS {
        let built = tiny(kind).build_with_layout();
        let expected = tiny(kind).layer().content();
        // What is behind these bytes is padding, or says nothing that the tables in front have not said.
        let last = built.grains.last().unwrap();
        let end = if kind.has_tables_in_front() {
            support::index(last.sector) * SECTOR + 12 + last.size
        } else {
            support::index(built.end_marker) * SECTOR + 16
        };
        for len in 0..built.bytes.len() {
            match content(&built.bytes[..len]) {
                Ok((found, summary)) => {
                    assert!(len >= end, "{kind:?}, {len} of {} bytes", built.bytes.len());
                    assert!(found == expected && summary.complete, "{kind:?}, {len}");
                }
                Err(error) => {
                    assert!(len < end, "{kind:?}, {len}: {error}");
                    let wanted = if len < 4 { ErrorKind::NotVmdk } else { ErrorKind::Corrupt };
                    assert_eq!(error.kind(), wanted, "{kind:?}, {len}: {error}");
                }
            }
        }
    }
}

#[test]
fn zeros_in_the_place_of_the_rest_are_no_end() {
    for kind in KINDS {
        let built = tiny(kind).build_with_layout();
        for sector in built.overhead..built.grains_end {
            let mut bytes = built.bytes.clone();
            bytes[support::index(sector) * SECTOR..].fill(0);
            let is_within =
                built.grains.iter().any(|grain| (grain.sector + 1..grain.sector + grain.sectors).contains(&sector));
            let text = corrupt(&bytes);
            assert!(is_within || text.contains("salvage"), "{kind:?}: {text}");
        }
    }
}

#[test]
fn only_entries_that_stand_for_something_count() {
    for kind in [StreamKind::Preallocated, StreamKind::Packed, StreamKind::Qemu] {
        // A table of 128 entries for three grains: what stands behind these may be anything. 1 is a grain of zeros.
        let image = tiny(kind).grain(0, [1; GRAIN]);
        let built = image.build_with_layout();
        let image = image.patch(built.entry(3), 99_999_u32.to_le_bytes()).patch(built.entry(1), 1_u32.to_le_bytes());
        assert!(content(&image.build()[..]).unwrap().0 == image.layer().content(), "{kind:?}");
        let named = image.patch(built.entry(1), 99_999_u32.to_le_bytes()).build();
        assert!(corrupt(&named).contains("a grain at sector 99999"), "{kind:?}");
    }
}

#[test]
fn tables_that_cannot_be_known_ask_for_a_mark_at_the_end() {
    // The directory behind its tables: with the mark it is read, and without it nobody knows whether it was cut.
    let built = tiny(StreamKind::Packed).build_with_layout();
    let (gd, gt) = (support::index(built.gd) * SECTOR, support::index(built.gt[0]) * SECTOR);
    let mut bytes = built.bytes.clone();
    let (directory, table) = (bytes[gd..gd + SECTOR].to_vec(), bytes[gt..gt + SECTOR].to_vec());
    bytes[gd..gd + SECTOR].copy_from_slice(&table);
    bytes[gt..gt + SECTOR].copy_from_slice(&directory);
    bytes[gt..gt + 4].copy_from_slice(&u32::try_from(built.gd).unwrap().to_le_bytes());
    bytes[56..64].copy_from_slice(&built.gt[0].to_le_bytes());
    assert!(content(&bytes[..]).unwrap().0 == tiny(StreamKind::Packed).layer().content());
    bytes.truncate(support::index(built.end_marker) * SECTOR);
    assert!(corrupt(&bytes).contains("without an end-of-stream marker"));
}

#[test]
fn salvage_reads_what_there_is_and_says_what_is_missing() {
    for kind in KINDS {
        let image = tiny(kind);
        let built = image.build_with_layout();
        for len in (512 * (1 + 1)..built.bytes.len()).step_by(37) {
            let mut stream = StreamReader::new(&built.bytes[..len]).unwrap().salvage(true);
            let target = MemoryStorage::new([]);
            let summary = stream.copy_to_raw(&target, RawTarget::Empty, 2, &mut go_on).unwrap();
            assert_eq!(summary.complete, summary.missing.is_none());
            assert_eq!(summary.complete, content(&built.bytes[..len]).is_ok(), "{kind:?}, {len}");
            let whole =
                |placed: &&stream::PlacedGrain| support::index(placed.sector) * SECTOR + 12 + placed.size <= len;
            assert_eq!(summary.grains, built.grains.iter().filter(whole).count() as u64, "{kind:?}, {len}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_neither_the_sequence_nor_the_error() {
    let image = sample(StreamKind::Classic);
    let built = image.build_with_layout();
    let run = |bytes: &[u8], threads, fail_at: usize| {
        let mut seen = Vec::new();
        let mut stream = StreamReader::new(bytes).unwrap();
        let done = stream.for_each_grain(threads, &mut |grain| {
            if seen.len() == fail_at {
                return Err(vmdk::Error::new(ErrorKind::Io, "the sink is full"));
            }
            seen.push((grain.start_sector, grain.bytes.to_vec()));
            Ok(())
        });
        assert!(done.is_ok() || stream.next_grain().is_err(), "nothing comes after an error");
        (done.map_err(|error| (error.kind(), error.to_string())), seen)
    };
    let mut two_errors = built.bytes.clone();
    // The content of one grain, and the marker of a later one: the first counts.
    two_errors[support::index(built.marker(built.grains[20].grain)) + 14] ^= 0xff;
    two_errors[support::index(built.marker(built.grains[22].grain))] ^= 1;
    for (bytes, fail_at) in [(&built.bytes, usize::MAX), (&built.bytes, 19), (&two_errors, usize::MAX)] {
        let alone = run(bytes, 1, fail_at);
        for threads in [0, 2, 3, 8] {
            assert!(run(bytes, threads, fail_at) == alone, "{threads} threads");
        }
    }
    let (error, seen) = run(&two_errors, 8, usize::MAX);
    assert!(error.unwrap_err().1.contains("checksum") && seen.len() == 20);
}

#[test]
fn progress_ends_at_the_size_of_the_disk_and_can_stop_the_copy() {
    let image = sample(StreamKind::Preallocated);
    let bytes = image.build();
    let mut steps = Vec::new();
    let mut stream = StreamReader::new(&bytes[..]).unwrap();
    let mut note = |now: CopyProgress| {
        steps.push(now.done);
        ControlFlow::Continue(())
    };
    stream.copy_to_raw(&MemoryStorage::new([]), RawTarget::Empty, 1, &mut note).unwrap();
    assert!(steps.is_sorted() && steps.last() == Some(&(image.capacity() * SECTOR as u64)));
    let mut stream = StreamReader::new(&bytes[..]).unwrap();
    let stopped = stream.copy_to_writer(&mut io::sink(), 2, &mut |_| ControlFlow::Break(()));
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn a_delta_is_read_grain_by_grain_but_is_no_disk_by_itself() {
    let text = DescriptorText::new("streamOptimized", 5).parent(0x1234_5678, "base.vmdk").extent("RW 64 SPARSE \"a\"");
    let text = text.to_string();
    let image = small(StreamKind::Classic, 64).descriptor_sectors(2).descriptor(text).grain(1, [1; GRAIN]);
    let bytes = image.build();
    assert!(StreamReader::new(&bytes[..]).unwrap().is_delta());
    assert!(content(&bytes[..]).is_ok());
    for error in [piped(&bytes).unwrap_err(), raw(&bytes, RawTarget::Empty, 1).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn a_target_that_is_too_small_is_refused_before_anything_is_read() {
    let bytes = tiny(StreamKind::Classic).build();
    let small = MemoryStorage::new([0xee; 512]);
    let mut stream = StreamReader::new(&bytes[..]).unwrap();
    let error = stream.copy_to_raw(&small, RawTarget::Used, 1, &mut go_on).unwrap_err();
    assert_eq!((error.kind(), small.to_vec()), (ErrorKind::InvalidInput, vec![0xee; 512]));
}

#[test]
fn streams_by_other_products_have_their_recorded_content() {
    let Some(dir) = tools::sample_dir("streams_by_other_products_have_their_recorded_content") else { return };
    let table = fs::read_to_string(dir.join("INDEX.tsv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('\t').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|&other| other == name).unwrap();
    let [file, create_type, digest] = ["file", "create_type", "raw_sha256"].map(column);
    let streams = rows.iter().filter(|row| row[create_type] == "streamOptimized" && !row[digest].is_empty());
    let mut count = 0;
    for row in streams {
        let input = File::open(dir.join(row[file])).unwrap();
        let mut stream = StreamReader::new(input).unwrap_or_else(|error| panic!("{}: {error}", row[file]));
        let target = MemoryStorage::new([]);
        let summary = stream.copy_to_raw(&target, RawTarget::Empty, 2, &mut go_on);
        let summary = summary.unwrap_or_else(|error| panic!("{}: {error}", row[file]));
        assert!(summary.complete, "{}", row[file]);
        let found = if row[digest].starts_with("nz4k:") {
            tools::nz4k(&vmdk::RawImage::new(std::sync::Arc::new(target), "raw").unwrap())
        } else {
            tools::sha256_hex(&target.to_vec())
        };
        assert_eq!(found, row[digest], "{}", row[file]);
        count += 1;
    }
    assert_eq!(count, 9);
}

#[test]
fn streams_by_qemu_are_read_and_qemu_reads_what_is_built_here() {
    let Some(qemu) = tools::qemu_img("streams_by_qemu_are_read_and_qemu_reads_what_is_built_here") else { return };
    let dir = tempfile::tempdir().unwrap();
    let [raw_file, disk] = ["a.raw", "a.vmdk"].map(|name| dir.path().join(name));
    let mut content_of = vec![0; 1000 * SECTOR];
    Rng::new(4).fill(&mut content_of[200 * SECTOR..300 * SECTOR]);
    content_of[900 * SECTOR..].fill(3);
    fs::write(&raw_file, &content_of).unwrap();
    let [source, target] = [&raw_file, &disk].map(|path| path.to_str().unwrap());
    qemu.run(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", source, target]);
    assert!(content(File::open(&disk).unwrap()).unwrap().0 == content_of);
    for kind in KINDS {
        let text = DescriptorText::new("streamOptimized", 5).extent("RW 3000 SPARSE \"a.vmdk\"").to_string();
        let image = StreamImage::new(kind, 3000).descriptor_sectors(2).descriptor(text).random(&mut Rng::new(8));
        fs::write(&disk, image.build()).unwrap();
        assert!(qemu.raw_of(&disk)[..3000 * SECTOR] == image.layer().content(), "{kind:?}");
    }
}

/// Whatever the bytes are: an end or an error, and no more sectors than the disk has for every block that came.
fn survives(bytes: &[u8]) {
    let Ok(mut stream) = StreamReader::new(bytes) else { return };
    let (mut grains, capacity) = (0, stream.capacity_sectors());
    let done = stream.for_each_grain(1, &mut |grain| {
        grains += 1;
        assert!(grain.start_sector + (grain.bytes.len() / SECTOR) as u64 <= capacity);
        assert!(grains <= bytes.len() / SECTOR);
        Ok(())
    });
    if let Err(error) = done {
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_change_of_a_few_bytes_is_more_than_an_error(
        which in 0_usize..5,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        near in any::<bool>(),
    ) {
        let built = tiny(KINDS[which]).build_with_layout();
        let mut bytes = built.bytes.clone();
        for (at, value) in changes {
            // The numbers stand at the beginnings of sectors.
            let at = if near { at.index(bytes.len() / SECTOR) * SECTOR + usize::from(value % 80) } else { at.index(bytes.len()) };
            bytes[at] = value;
        }
        survives(&bytes);
    }
}

/// What was lost in the middle leaves the markers of the rest as they were, but not the places of its tables.
#[test]
fn a_stream_without_a_part_of_its_middle_is_not_whole() {
    for kind in [StreamKind::Classic, StreamKind::TablesBehind] {
        let stream =
            (0..9_u8).fold(small(kind, 9 * 8), |stream, number| stream.grain(number.into(), [number + 1; GRAIN]));
        let built = stream.build_with_layout();
        let placed = built.grains[5];
        let start = support::index(placed.sector) * SECTOR;
        let mut bytes = built.bytes.clone();
        bytes.drain(start..start + support::index(placed.sectors) * SECTOR);
        let error = content(&bytes[..]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind:?}: {error}");
    }
}

/// As in tables in front.
#[test]
fn entries_behind_the_end_of_the_disk_name_nothing() {
    for kind in KINDS {
        let stream =
            (0..9_u8).fold(small(kind, 9 * 8), |stream, number| stream.grain(number.into(), [number + 1; GRAIN]));
        let built = stream.build_with_layout();
        let mut bytes = built.bytes.clone();
        let at = support::index(built.gt[0]) * SECTOR + 100 * 4;
        bytes[at..at + 4].copy_from_slice(&9999_u32.to_le_bytes());
        assert!(content(&bytes[..]).unwrap().1.complete, "{kind:?}");
    }
}

/// A disk of several extents is more than the stream that its descriptor lies in.
#[test]
fn a_stream_that_is_a_part_of_its_disk_is_refused() {
    let text = |lines: &[&str]| {
        let text = DescriptorText::new("custom", 0x5eed);
        lines.iter().fold(text, |text, line| text.extent((*line).to_owned())).to_string()
    };
    for (lines, kind) in [
        (&["RW 8 SPARSE \"disk\"", "RW 8 SPARSE \"second\""][..], ErrorKind::Unsupported),
        (&["RW 8 SPARSE \"disk\"", "RW 8 ZERO"], ErrorKind::Unsupported),
        (&["RW 32 SPARSE \"disk\""], ErrorKind::Corrupt),
    ] {
        let stream = small(StreamKind::Classic, 8).descriptor_sectors(20).descriptor(text(lines)).grain(0, [1; GRAIN]);
        let refused = content(&stream.build()[..]).map(|(content, _)| content.len());
        assert_eq!(refused.unwrap_err().kind(), kind, "{lines:?}");
    }
}
