//! Broken and hostile files: a clear error or the right content, and never anything else.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use vmdk::{BlockDevice, Error, ErrorKind, MemoryStorage, OpenOptions, Storage, VmdkImage};

use support::descriptor::DescriptorText;
use support::disk::Image;
use support::sparse::{SparseImage, field};
use support::{SECTOR, index};

/// Opens `name`, one of files in memory.
fn open_files(name: &str, files: &[(&str, Vec<u8>)]) -> vmdk::Result<VmdkImage> {
    let storage = |bytes: &Vec<u8>| Arc::new(MemoryStorage::new(bytes.clone())) as Arc<dyn Storage>;
    let files: HashMap<String, _> = files.iter().map(|(name, bytes)| ((*name).to_owned(), storage(bytes))).collect();
    OpenOptions::new().open_with(name, &files)
}

fn open(bytes: Vec<u8>) -> vmdk::Result<VmdkImage> {
    open_files("disk.vmdk", &[("disk.vmdk", bytes)])
}

/// Opens an image and reads all of it.
fn read(bytes: Vec<u8>) -> vmdk::Result<Vec<u8>> {
    let image = open(bytes)?;
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content)?;
    Ok(content)
}

/// The error of what must fail, without a word of what came instead.
#[track_caller]
fn failed<T, E>(result: Result<T, E>, what: &str) -> E {
    result.err().unwrap_or_else(|| panic!("no error: {what}"))
}

fn sector(image: &VmdkImage, number: u64) -> vmdk::Result<[u8; SECTOR]> {
    let mut sector = [0xee; SECTOR];
    image.read_sectors(number, &mut sector).map(|()| sector)
}

fn text(lines: &[&str]) -> Vec<u8> {
    let text = lines.iter().fold(DescriptorText::new("custom", 7), |text, line| text.extent(*line));
    text.to_string().into_bytes()
}

/// Two grains as QEMU lays them out: the descriptor at sector 1, the redundant directory at 21 and its table at 22,
/// the directory at 26 and its table at 27, the grains at 128 and 256, the end at 384.
fn two_grains() -> SparseImage {
    let text = text(&["RW 256 SPARSE \"disk.vmdk\""]);
    SparseImage::new(256).descriptor(text).data(0, vec![0xa5; 65536]).data(1, vec![0x5a; 65536])
}

// ---- Numbers of the header ------------------------------------------------------------------------------------------

/// What comes of a number in the header.
#[derive(Debug)]
enum Outcome {
    /// The content is what it was.
    Same,
    /// It opens, but not all of it can be read.
    Unreadable,
    /// It does not open, and the error names this field.
    Corrupt(&'static str),
    Unsupported(&'static str),
}

#[test]
fn every_number_of_the_header_is_checked_at_its_limits() {
    use Outcome::{Corrupt, Same, Unreadable, Unsupported};
    const MAX: u64 = u64::MAX;
    let rows: &[(u64, usize, &[u64], Outcome)] = &[
        (field::VERSION, 4, &[1, 2, 3], Same),
        (field::VERSION, 4, &[0], Corrupt("version")),
        (field::VERSION, 4, &[4, 1 << 31, MAX], Unsupported("version")),
        (field::FLAGS, 4, &[0, 1, 2, 3, 4, 7, 0xffff], Same),
        (field::FLAGS, 4, &[0x20000, 0x20003], Corrupt("flags")),
        (field::FLAGS, 4, &[0x40003, 1 << 31, MAX], Unsupported("flags")),
        (field::FLAGS, 4, &[0x10003, 0x30003], Unsupported("compressAlgorithm")),
        (field::CAPACITY, 8, &[256, 257, 65536], Same),
        (field::CAPACITY, 8, &[0, 1, 255], Corrupt("capacity")),
        (field::CAPACITY, 8, &[1 << 42, 1 << 54, MAX >> 9, MAX - 1, MAX], Corrupt("capacity")),
        (field::CAPACITY, 8, &[1 << 41], Corrupt("gdOffset")),
        (field::CAPACITY, 8, &[129 * 65536], Unreadable),
        (field::GRAIN_SIZE, 8, &[0, 3, 127, 129, 0x20_0001, 0x40_0000, 1 << 63, MAX], Corrupt("grainSize")),
        (field::DESCRIPTOR_OFFSET, 8, &[0, 1], Same),
        (field::DESCRIPTOR_OFFSET, 8, &[365, 384, 1 << 55, MAX - 20, MAX], Corrupt("descriptorOffset")),
        (field::DESCRIPTOR_SIZE, 8, &[2, 20], Same),
        (field::DESCRIPTOR_SIZE, 8, &[0, 2049, 1 << 55, MAX], Corrupt("descriptorSize")),
        (field::DESCRIPTOR_SIZE, 8, &[384], Corrupt("descriptorOffset")),
        (field::ENTRIES_PER_TABLE, 4, &[0, 1, 64, 127, 129, 511, 513, 8192, MAX], Corrupt("numGTEsPerGT")),
        (field::RGD_OFFSET, 8, &[0, 1, 22, 384, MAX], Same),
        (field::GD_OFFSET, 8, &[0, 384, 1 << 55, 1 << 56, MAX - 1, MAX], Corrupt("gdOffset")),
        (field::GD_OFFSET, 8, &[27, 128, 383], Unreadable),
        (field::OVERHEAD, 8, &[0, 21, 127, 128], Same),
        (field::OVERHEAD, 8, &[129, 256, 384], Unreadable),
        (field::OVERHEAD, 8, &[385, 1 << 55, MAX], Corrupt("overHead")),
        (field::UNCLEAN, 1, &[0, 1, 255], Same),
        (field::NEWLINES, 4, &[0, 1, MAX], Corrupt("newline check")),
        (field::COMPRESSION, 2, &[0, 2, MAX], Same),
        (field::COMPRESSION, 2, &[1], Corrupt("compressAlgorithm")),
    ];
    let expected = two_grains().layer().content();
    for (offset, size, values, outcome) in rows {
        for value in *values {
            let row = format!("{value:#x} at offset {offset:#x}");
            let file = two_grains().patch(*offset, &value.to_le_bytes()[..*size]).build();
            let (opened, content) = (open(file.clone()), read(file));
            let refused = |kind: ErrorKind, name: &str| {
                let error = failed(opened.as_ref(), &row);
                assert_eq!(error.kind(), kind, "{row}: {error}");
                let start = format!("disk.vmdk: KDMV header: {name} at offset ");
                assert!(error.to_string().starts_with(&start), "{row}: {error}");
            };
            match outcome {
                Same => assert!(content.expect(&row) == expected, "{row}"),
                Unreadable => {
                    assert!(opened.is_ok(), "{row}");
                    assert_eq!(failed(content, &row).kind(), ErrorKind::Corrupt, "{row}");
                }
                Corrupt(name) => refused(ErrorKind::Corrupt, name),
                Unsupported(name) => refused(ErrorKind::Unsupported, name),
            }
        }
    }
}

/// Such a text would be made of tables, or of what a guest wrote.
#[test]
fn a_descriptor_that_reaches_into_tables_or_grains_is_an_error() {
    for (offset, size) in [(1, 26), (1, 127), (1, 130), (26, 1), (25, 2), (128, 1)] {
        let file = two_grains().patch_u64(field::DESCRIPTOR_OFFSET, offset).patch_u64(field::DESCRIPTOR_SIZE, size);
        let error = failed(open(file.build()), &format!("{size} sectors at {offset}"));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("descriptor"), "{error}");
    }
}

// ---- Files that are too short ---------------------------------------------------------------------------------------

#[test]
fn a_file_cut_at_any_byte_is_an_error_or_has_the_right_content_and_zeros_behind_the_cut() {
    // Header, directory, table and three grains, of a sector each.
    let file = SparseImage::new(3).grain_sectors(1).entries_per_table(128).without_redundant_tables();
    let file = (0..3).fold(file, |file, grain| file.data(grain, [b'a' + u8::try_from(grain).unwrap(); SECTOR]));
    let whole = file.build();
    assert_eq!((file.layout().overhead, whole.len()), (3, 6 * SECTOR));
    for len in 0..whole.len() {
        let cut = whole[..len].to_vec();
        let image = match open(cut.clone()) {
            Ok(image) => image,
            Err(error) => {
                let kind = if len < 4 { ErrorKind::NotVmdk } else { ErrorKind::Corrupt };
                assert_eq!(error.kind(), kind, "{len} bytes: {error}");
                assert!(len <= 2 * SECTOR, "{len} bytes: {error}");
                continue;
            }
        };
        assert!(len > 2 * SECTOR, "{len} bytes opened");
        for number in 0..3 {
            let start = (3 + index(number)) * SECTOR;
            // Of a grain that is there, what is missing is zero.
            let mut expected = whole[start..start + SECTOR].to_vec();
            expected[len.saturating_sub(start).min(SECTOR)..].fill(0);
            match sector(&image, number) {
                Ok(found) => assert!(len > start && found[..] == expected, "sector {number} of {len} bytes"),
                Err(error) => assert!(len <= start && error.kind() == ErrorKind::Corrupt, "{len} bytes: {error}"),
            }
        }
    }
}

#[test]
fn a_descriptor_cut_at_any_byte_is_an_error_or_a_disk_that_can_be_read() {
    let whole = text(&["RW 2 FLAT \"flat\" 1", "RW 1 SPARSE \"sparse\"", "RW 3 ZERO"]);
    let sparse = SparseImage::new(1).build();
    for len in 0..whole.len() {
        let files = [("disk", whole[..len].to_vec()), ("flat", vec![7; 3 * SECTOR]), ("sparse", sparse.clone())];
        match open_files("disk", &files) {
            Ok(image) => {
                let mut content = vec![0; index(image.capacity_sectors()) * SECTOR];
                image.read_sectors(0, &mut content).unwrap();
            }
            Err(error) => {
                // A parentCID that is cut short is another one.
                let kinds = [ErrorKind::NotVmdk, ErrorKind::Corrupt, ErrorKind::ParentMissing];
                assert!(kinds.contains(&error.kind()), "{len} bytes: {error}");
                assert!(error.to_string().starts_with("disk: "), "{len} bytes: {error}");
            }
        }
    }
}

// ---- Entries that point to the wrong place --------------------------------------------------------------------------

/// An entry in the metadata would show metadata to the guest, and let it be overwritten.
#[test]
fn qemu_takes_grains_from_the_metadata_and_from_past_the_end_and_this_does_not() {
    let entry = two_grains().layout().entry(0);
    for value in [2, 20, 21, 22, 26, 27, 30, 31, 127, 384, 385, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let image = open(two_grains().patch_u32(entry, value).build()).unwrap();
        let problem = if value < 128 { "lies in the metadata of the extent" } else { "lies past the end of the file" };
        let expected = format!("grain table: entry 0 of table 0 at offset 0x3600 is {value:#x}: the grain {problem}");
        for error in [sector(&image, 0).unwrap_err(), image.map(0, 1).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert_eq!(error.to_string(), format!("disk.vmdk: {expected}"));
        }
        assert!(image.block_status(127, 9).is_err(), "{value:#x}");
        // The grain beside it is as good as before, and a run ends where the damage begins.
        assert_eq!(sector(&image, 128).unwrap(), [0x5a; SECTOR]);
    }
}

#[test]
fn an_entry_that_points_to_any_other_place_is_followed() {
    let entry = two_grains().layout().entry(0);
    let rows = [(0, 0, 0), (1, 0, 0), (256, 0x5a, 0x5a), (129, 0xa5, 0x5a), (320, 0x5a, 0), (383, 0x5a, 0)];
    for (value, first, last) in rows {
        let image = open(two_grains().patch_u32(entry, value).build()).unwrap();
        let found = [0, 127].map(|number| sector(&image, number).unwrap());
        assert_eq!(found, [[first; SECTOR], [last; SECTOR]], "entry {value}");
    }
}

/// A table of zeros, such as the end of a descriptor, would make an empty disk of a full one.
#[test]
fn qemu_takes_tables_from_other_metadata_and_from_past_the_end_and_this_does_not() {
    for value in [1, 2, 10, 17, 20, 21, 23, 26, 381, 384, 0x7fff_ffff, u32::MAX] {
        let image = open(two_grains().patch_u32(26 * 512, value).build()).unwrap();
        let error = failed(sector(&image, 0), &format!("a table at sector {value}"));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().starts_with("disk.vmdk: grain "), "{error}");
    }
}

#[test]
fn a_table_in_a_grain_gives_its_entries_and_these_are_checked() {
    for value in [26 + 1, 22] {
        let image = open(two_grains().patch_u32(26 * 512, value).build()).unwrap();
        assert_eq!(sector(&image, 0).unwrap(), [0xa5; SECTOR], "the table at sector {value}");
    }
    for value in [128, 380] {
        let image = open(two_grains().patch_u32(26 * 512, value).build()).unwrap();
        assert_eq!(sector(&image, 0).unwrap_err().kind(), ErrorKind::Corrupt, "the table at sector {value}");
    }
}

#[test]
fn two_tables_may_be_one_and_a_directory_may_be_its_own_redundant_one() {
    let file = SparseImage::new(8 * 600).grain_sectors(8).data(3, vec![9; 4096]);
    let layout = file.layout();
    let shared = file.clone().patch_u32(layout.gd * 512 + 4, u32::try_from(layout.gt[0]).unwrap());
    let image = open(shared.patch_u64(field::RGD_OFFSET, layout.gd).build()).unwrap();
    for start in [24, 4096 + 24] {
        assert_eq!(sector(&image, start).unwrap(), [9; SECTOR]);
    }
}

// ---- Defects of QEMU ------------------------------------------------------------------------------------------------

/// QEMU recurses until its stack is used up.
#[test]
fn qemu_uses_up_its_stack_on_a_container_that_lists_itself_and_this_does_not() {
    let container = |names: &str| {
        let file = SparseImage::new(256).descriptor(text(&[&format!("RW 256 SPARSE \"{names}\"")]));
        file.patch_u64(field::CAPACITY, 0).build()
    };
    for (one, two) in [("one", "one"), ("two", "one"), ("two", "two")] {
        let error = open_files("one", &[("one", container(one)), ("two", container(two))]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(
            error.to_string(),
            format!("{one}: KDMV header: capacity at offset 0xc is 0x0: an extent has at least one sector")
        );
    }
}

/// QEMU takes the text as the disk of another file again; here it is read through once more, as data.
#[test]
fn a_file_that_lists_itself_as_a_further_extent_is_read_once_more() {
    let file = SparseImage::new(2).grain_sectors(1).data(1, [3; SECTOR]);
    let lines = ["RW 2 SPARSE \"disk.vmdk\"", "RW 2 SPARSE \"disk.vmdk\"", "RW 1 FLAT \"disk.vmdk\" 0"];
    let file = file.descriptor(text(&lines)).build();
    let content = read(file.clone()).unwrap();
    assert!(content[..2 * SECTOR] == content[2 * SECTOR..4 * SECTOR]);
    assert!(content[4 * SECTOR..] == file[..SECTOR]);
}

/// `qemu-img info` aborts on an assertion.
#[test]
fn qemu_aborts_on_a_descriptor_without_an_extent_that_it_knows_and_this_does_not() {
    let rows: [(&[&str], &str); 7] = [
        (&[], "disk: the descriptor names no extent"),
        (&["# RW 1 ZERO"], "disk: the descriptor names no extent"),
        (&["RW 1 NOTHING"], "disk: descriptor line 10: unknown extent type: \"RW 1 NOTHING\""),
        (&["WO 1 ZERO"], "disk: descriptor line 10: unknown access word: \"WO 1 ZERO\""),
        (&["RW -1 ZERO"], "disk: descriptor line 10: the size is not a number of sectors: \"RW -1 ZERO\""),
        (&["RW 0 ZERO"], "disk: descriptor line 10: the extent has no sectors: \"RW 0 ZERO\""),
        (&["RW 1 FLAT"], "disk: descriptor line 10: the extent has no quoted file name: \"RW 1 FLAT\""),
    ];
    for (lines, expected) in rows {
        let error = open_files("disk", &[("disk", text(lines))]).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Corrupt, expected));
    }
    for line in ["RDONLY 2 ZERO", "NOACCESS 2", "rw 2 zero"] {
        assert_eq!(open_files("disk", &[("disk", text(&[line]))]).unwrap().capacity_sectors(), 2, "{line}");
    }
}

/// QEMU follows a chain until it is killed. Storages that cannot say what they are leave only the limit.
#[test]
fn qemu_follows_a_loop_without_end_and_here_one_of_storages_without_identity_ends_at_the_limit() {
    #[derive(Debug)]
    struct Anonymous(MemoryStorage);
    impl Storage for Anonymous {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            self.0.read_exact_at(buf, offset)
        }
        fn write_all_at(&self, buf: &[u8], offset: u64) -> std::io::Result<()> {
            self.0.write_all_at(buf, offset)
        }
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.0.set_len(len)
        }
        fn sync(&self) -> std::io::Result<()> {
            self.0.sync()
        }
        fn punch_hole(&self, range: std::ops::Range<u64>) -> std::io::Result<()> {
            self.0.punch_hole(range)
        }
    }
    let text = DescriptorText::new("custom", 7).parent(7, "disk").extent("RW 1 ZERO").to_string();
    let resolver = |_: &str| Some(Arc::new(Anonymous(MemoryStorage::new(text.clone()))) as Arc<dyn Storage>);
    let error = OpenOptions::new().open_with("disk", &resolver).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadChain);
    assert!(error.to_string().contains("64 links"), "{error}");
}

/// QEMU looks for the descriptor at sector 1, whatever the header says, and finds no parent elsewhere.
#[test]
fn qemu_looks_for_a_descriptor_at_sector_1_only_and_here_it_is_where_the_header_says() {
    let base = Image::monolithic_sparse("base", SparseImage::new(256).data(0, [6; SECTOR]));
    let extent = SparseImage::new(256).descriptor_region(9, 4);
    let child = Image::child(&base, "child", extent);
    let files = [("base", base.files[0].1.clone()), ("child", child.files[0].1.clone())];
    assert_eq!(sector(&open_files("child", &files).unwrap(), 0).unwrap(), [6; SECTOR]);
}

// ---- Texts of errors ------------------------------------------------------------------------------------------------

#[test]
fn an_error_names_file_field_value_and_offset() {
    let huge = 1_u64 << 53;
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (
            two_grains().patch_u64(field::GD_OFFSET, 0xabc).build(),
            "disk.vmdk: KDMV header: gdOffset at offset 0x38 is 0xabc: the grain directory ends past the file",
        ),
        (
            two_grains().patch_u64(field::OVERHEAD, 0x1000).build(),
            "disk.vmdk: KDMV header: overHead at offset 0x40 is 0x1000: \
             the file is truncated: it ends before the first grain could begin",
        ),
        (
            two_grains().patch_u32(26 * 512, 0x17e).build(),
            "disk.vmdk: grain directory: entry 0 at offset 0x3400 is 0x17e: the grain table ends past the file",
        ),
        (
            two_grains().patch_u32(26 * 512, 26).build(),
            "disk.vmdk: grain directory: entry 0 at offset 0x3400 is 0x1a: \
             the grain table overlaps the grain directory",
        ),
        (
            two_grains().patch_u32(27 * 512 + 4, 0x400).build(),
            "disk.vmdk: grain table: entry 1 of table 0 at offset 0x3604 is 0x400: \
             the grain lies past the end of the file",
        ),
        (
            text(&["RW 1 ZERO", "RW 1 FLAT \"a\"b\" 0"]),
            "disk.vmdk: descriptor line 11: the quoted name is followed by more text: \"RW 1 FLAT \\\"a\\\"b\\\" 0\"",
        ),
        (
            text(&[&format!("RW {huge} ZERO"), &format!("RW {huge} ZERO")]),
            "disk.vmdk: descriptor line 11: the extents together are larger than any disk can be: \
             \"RW 9007199254740992 ZERO\"",
        ),
        (
            text(&["RW 18446744073709551616 ZERO"]),
            "disk.vmdk: descriptor line 10: the size is not a number of sectors: \"RW 18446744073709551616 ZERO\"",
        ),
        (
            text(&["RW 1 FLAT \"a\" 18446744073709551615"]),
            "disk.vmdk: descriptor line 10: the extent is larger than any file can be: \
             \"RW 1 FLAT \\\"a\\\" 18446744073709551615\"",
        ),
    ];
    for (file, expected) in rows {
        let error: Error = failed(read(file), expected);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn an_error_about_an_extent_names_its_file_and_not_the_descriptor() {
    let files = |extent: SparseImage| {
        let lines = ["RW 1 ZERO", "RW 256 SPARSE \"extent\""];
        open_files("disk", &[("disk", text(&lines)), ("extent", extent.build())])
    };
    let broken = files(SparseImage::new(256).patch_u64(field::GRAIN_SIZE, 5)).unwrap_err();
    assert!(broken.to_string().starts_with("extent: KDMV header: grainSize at offset 0x14 is 0x5: "), "{broken}");
    let file = SparseImage::new(256).data(0, [1]);
    let entry = file.layout().entry(0);
    let image = files(file.patch_u32(entry, 3)).unwrap();
    let error = sector(&image, 1).unwrap_err();
    assert_eq!(error.file().and_then(std::path::Path::to_str), Some("extent"));
    assert_eq!(sector(&image, 0).unwrap(), [0; SECTOR]);
}
