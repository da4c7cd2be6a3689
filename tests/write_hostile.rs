//! Writing to broken and hostile images: refused with no byte changed, or done right, and no other sector changes.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use vmdk::{BlockDevice, Error, ErrorKind, MemoryStorage, OpenOptions, Storage, VmdkImage};

use support::cowd::CowdImage;
use support::descriptor::DescriptorText;
use support::disk::Kind;
use support::rng::Rng;
use support::sparse::{SparseImage, field};
use support::{SECTOR, byte_range, index};

/// The files of an image, the one to open last.
type Files = Vec<(String, Vec<u8>)>;

/// The most sectors of a disk that are compared.
const LOOKED_AT: u64 = 4096;

// ---- One write to one image -----------------------------------------------------------------------------------------

/// A change of some sectors.
#[derive(Clone, Copy, Debug)]
enum Change {
    Write,
    Zeroes,
    Unmap,
    Discard,
    Prepared,
}

const CHANGES: [Change; 5] = [Change::Write, Change::Zeroes, Change::Unmap, Change::Discard, Change::Prepared];

impl Change {
    fn run(self, image: &VmdkImage, start: u64, bytes: &[u8]) -> vmdk::Result<()> {
        let count = (bytes.len() / SECTOR) as u64;
        match self {
            Self::Write => image.write_sectors(start, bytes),
            Self::Zeroes => image.write_zeroes(start, count, false),
            Self::Unmap => image.write_zeroes(start, count, true),
            Self::Discard => image.discard(start, count),
            Self::Prepared => {
                let prepared = image.prepare_write(start, count)?;
                for range in prepared.ranges() {
                    let bytes = &bytes[byte_range(range.start - start, range.sectors)];
                    range.storage.write_all_at(bytes, range.offset).unwrap();
                }
                prepared.commit()
            }
        }
    }

    /// What may be in a sector afterwards.
    fn allows(self, before: Option<&[u8]>, written: &[u8], now: &[u8]) -> bool {
        match self {
            Self::Write | Self::Prepared => now == written,
            Self::Zeroes | Self::Unmap => now == [0; SECTOR],
            Self::Discard => now == [0; SECTOR] || before == Some(now),
        }
    }
}

fn storages(files: &Files) -> HashMap<String, Arc<MemoryStorage>> {
    files.iter().map(|(name, bytes)| (name.clone(), Arc::new(MemoryStorage::new(bytes.clone())))).collect()
}

fn open(storages: &HashMap<String, Arc<MemoryStorage>>, name: &str, options: &OpenOptions) -> vmdk::Result<VmdkImage> {
    let resolver = |name: &str| storages.get(name).map(|file| Arc::clone(file) as Arc<dyn Storage>);
    options.open_with(name, &resolver)
}

/// Every sector near the beginning that can be read.
fn sectors(image: &VmdkImage) -> Vec<Option<Vec<u8>>> {
    let read = |sector| {
        let mut buf = vec![0xee; SECTOR];
        image.read_sectors(sector, &mut buf).ok().map(|()| buf)
    };
    (0..image.capacity_sectors().min(LOOKED_AT)).map(read).collect()
}

#[track_caller]
fn expect_untouched(files: &Files, storages: &HashMap<String, Arc<MemoryStorage>>, why: &dyn std::fmt::Debug) {
    for (name, bytes) in files {
        assert!(storages[name].to_vec() == *bytes, "{name} was changed, although: {why:?}");
    }
}

/// An error that is about the image, and not about the caller or the host.
#[track_caller]
fn expect_about_the_image(error: &Error) {
    use ErrorKind::{BadChain, Busy, Closed, InvalidInput, Io, Locked, Misaligned, OutOfRange, Poisoned};
    let others = [BadChain, Busy, Closed, InvalidInput, Io, Locked, Misaligned, OutOfRange, Poisoned];
    assert!(!others[1..].contains(&error.kind()), "{:?}: {error}", error.kind());
}

/// What came of a change.
#[derive(Debug)]
enum Outcome {
    Refused(Error),
    Done,
}

/// Opens the image, changes `count` sectors from `start` on, closes it, and looks at every sector of it.
fn change(files: &Files, change: Change, start: u64, count: u64) -> Outcome {
    let name = &files[files.len() - 1].0;
    let storages = storages(files);
    let reader = OpenOptions::new();
    let before = open(&storages, name, &reader).map(|image| sectors(&image));
    let image = match open(&storages, name, &OpenOptions::new().write(true)) {
        Ok(image) => image,
        Err(error) => {
            expect_untouched(files, &storages, &error);
            return Outcome::Refused(error);
        }
    };
    let before = before.expect("what can be opened for writing can be read");
    // A grain of a gigabyte would be one of memory.
    if image.limits().optimal_io_sectors >= 2048 {
        return Outcome::Done;
    }
    // Within one extent: a request over several may be done in part.
    let start = start.min(image.capacity_sectors() - 1);
    let extents = image.chain()[0].extents();
    let extent = extents.iter().find(|extent| start < extent.start_sector() + extent.sectors()).unwrap();
    let count = count.min(extent.start_sector() + extent.sectors() - start);
    let written = Rng::new(start ^ count).bytes(index(count) * SECTOR);

    let result = change.run(&image, start, &written).and_then(|()| image.flush());
    let result = result.and_then(|()| image.close());
    drop(image);
    if let Err(error) = result {
        let (others, own): (Files, Files) =
            files.iter().cloned().partition(|(other, _)| error.file() == Some(other.as_ref()) && other != name);
        if others.is_empty() {
            expect_untouched(&own, &storages, &error);
        } else {
            // What is wrong with a parent shows when it is asked for what a new grain lacks: as after any failed write,
            // sectors are old or new then.
            expect_untouched(&others, &storages, &error);
            let after = sectors(&open(&storages, name, &reader).expect("it can be opened as before"));
            for (sector, (before, after)) in (0..).zip(before.iter().zip(&after)) {
                let is_new = (start..start + count).contains(&sector) && {
                    let written = &written[byte_range(sector - start, 1)];
                    after.as_deref().is_some_and(|after| change.allows(before.as_deref(), written, after))
                };
                assert!(is_new || after == before, "{change:?} of {count} from {start}: sector {sector} after {error}");
            }
        }
        return Outcome::Refused(error);
    }
    let after = sectors(&open(&storages, name, &reader).expect("what was closed can be opened"));
    for (sector, (before, after)) in (0..).zip(before.iter().zip(&after)) {
        let (before, after) = (before.as_deref(), after.as_deref());
        if (start..start + count).contains(&sector) {
            let written = &written[byte_range(sector - start, 1)];
            let fine = after.is_some_and(|after| change.allows(before, written, after));
            assert!(fine, "{change:?} of {count} from {start}: sector {sector} is wrong");
        } else {
            assert!(after == before, "{change:?} of {count} from {start} changed sector {sector}");
        }
    }
    Outcome::Done
}

/// Tries every change at some places of a disk of two grains; whether any was refused.
#[track_caller]
fn change_all(files: &Files, what: &str) -> bool {
    let mut refused = None;
    for change_of in CHANGES {
        for (start, count) in [(0, 1), (0, 128), (100, 56), (255, 1)] {
            match change(files, change_of, start, count) {
                Outcome::Refused(error) => {
                    expect_about_the_image(&error);
                    assert!(error.file().is_some(), "{what}: {error}");
                    refused.get_or_insert(error);
                }
                Outcome::Done => {}
            }
        }
    }
    refused.is_some()
}

fn text(lines: &[&str]) -> Vec<u8> {
    let text = lines.iter().fold(DescriptorText::new("custom", 0x1234_5678), |text, line| text.extent(*line));
    text.to_string().into_bytes()
}

/// The descriptor at sector 1, the redundant directory at 21 and its table at 22, the directory at 26 and its table at
/// 27, the only grain at 128, the end at 256. The second grain is not there.
fn one_grain() -> SparseImage {
    let text = text(&["RW 256 SPARSE \"disk.vmdk\""]);
    SparseImage::new(256).descriptor(text).data(0, vec![0xa5; 65536])
}

fn two_grains() -> SparseImage {
    one_grain().data(1, vec![0x5a; 65536])
}

fn single(extent: &SparseImage) -> Files {
    vec![("disk.vmdk".to_owned(), extent.build())]
}

// ---- Numbers of a hosted extent -------------------------------------------------------------------------------------

#[test]
fn an_image_with_any_number_in_its_header_is_refused_or_written_right() {
    const MAX: u64 = u64::MAX;
    let rows: &[(u64, usize, &[u64])] = &[
        (field::VERSION, 4, &[1, 2, 3, 4]),
        (field::FLAGS, 4, &[0, 1, 2, 3, 4, 7, 8, 0xffff, 0x10003, 0x20003, 0x30003]),
        (field::CAPACITY, 8, &[256, 257, 4096, 65536, 1 << 30, 1 << 41]),
        (field::GRAIN_SIZE, 8, &[1, 2, 64, 256, 512]),
        (field::DESCRIPTOR_OFFSET, 8, &[0, 1, 2, 21, 128]),
        (field::DESCRIPTOR_SIZE, 8, &[0, 2, 20, 21, 26, 127]),
        (field::ENTRIES_PER_TABLE, 4, &[128, 256, 512, 1024, 4096]),
        (field::RGD_OFFSET, 8, &[0, 1, 2, 19, 20, 22, 25, 26, 27, 30, 31, 100, 127, 128, 255, 256, 383, 384, MAX]),
        (field::GD_OFFSET, 8, &[1, 2, 19, 20, 21, 22, 27, 30, 31, 100, 127, 128, 255, 256, 383, MAX]),
        (field::OVERHEAD, 8, &[0, 1, 2, 21, 27, 31, 127, 128, 129, 256, 384]),
        (field::UNCLEAN, 1, &[0, 1, 255]),
        (field::COMPRESSION, 2, &[0, 1, 2, MAX]),
    ];
    for (offset, size, values) in rows {
        for value in *values {
            let patch = &value.to_le_bytes()[..*size];
            change_all(&single(&one_grain().patch(*offset, patch)), &format!("{value:#x} at {offset:#x}"));
        }
    }
}

#[test]
fn a_grain_in_the_metadata_or_past_the_end_makes_every_new_grain_refused() {
    let entry = one_grain().layout().entry(0);
    for value in [2, 20, 21, 22, 26, 27, 30, 31, 127, 256, 257, 0x7fff_ffff, u32::MAX] {
        assert!(change_all(&single(&one_grain().patch_u32(entry, value)), &format!("{value:#x}")), "{value:#x}");
    }
}

/// The header may say that metadata ends before it does, so that an entry leads into the descriptor or a directory.
#[test]
fn a_grain_over_metadata_is_found_also_where_the_header_says_that_there_is_none() {
    let entry = one_grain().layout().entry(0);
    for overhead in [0, 1, 2, 21] {
        for value in [2, 3, 10, 20, 21, 22, 26, 27, 30] {
            let extent = one_grain().patch_u32(entry, value).patch_u64(field::OVERHEAD, overhead);
            assert!(change_all(&single(&extent), &format!("{value} below {overhead}")), "{value}, {overhead}");
        }
    }
}

/// Small grains fit into the descriptor as a whole.
#[test]
fn a_grain_in_the_descriptor_alone_is_refused() {
    let line = "RW 64 SPARSE \"disk.vmdk\"";
    let extent = SparseImage::new(64).grain_sectors(8).descriptor(text(&[line])).data(0, vec![0xa5; 8 * SECTOR]);
    let entry = extent.layout().entry(0);
    for value in [2, 8, 13, 20] {
        let files = single(&extent.clone().patch_u32(entry, value).patch_u64(field::OVERHEAD, 0));
        for change_of in CHANGES {
            let outcome = change(&files, change_of, 0, 8);
            assert!(matches!(outcome, Outcome::Refused(_)), "{change_of:?} of a grain at {value}");
        }
    }
}

#[test]
fn two_entries_for_one_grain_are_refused_and_so_are_grains_that_overlap() {
    let layout = two_grains().layout();
    for value in [256, 129, 255, 257, 383] {
        let extent = two_grains().patch_u32(layout.entry(0), value);
        assert!(change_all(&single(&extent), &format!("{value}")), "{value}");
    }
}

#[test]
fn a_table_in_other_metadata_or_in_a_grain_is_refused() {
    for value in [1, 2, 10, 20, 21, 22, 24, 26, 128, 130, 255, 380, 383, 384, 0x7fff_ffff, u32::MAX] {
        let extent = two_grains().patch_u32(26 * 512, value);
        assert!(change_all(&single(&extent), &format!("a table at {value}")), "{value}");
        // The same of the redundant table, which no reader looks at.
        if value != 22 {
            let extent = two_grains().patch_u32(21 * 512, value);
            assert!(change_all(&single(&extent), &format!("a redundant table at {value}")), "{value}");
        }
    }
}

#[test]
fn two_tables_that_are_one_are_refused() {
    let file = SparseImage::new(8 * 600).grain_sectors(8).data(3, vec![9; 4096]);
    let layout = file.layout();
    let file = file.descriptor(text(&["RW 4800 SPARSE \"disk.vmdk\""]));
    let (shared, with_text) = (u32::try_from(file.layout().gt[0]).unwrap(), file.layout());
    assert_ne!(layout.gd, with_text.gd);
    assert!(change_all(&single(&file.clone().patch_u32(with_text.gd * 512 + 4, shared)), "two tables"));
    assert!(change_all(&single(&file.patch_u64(field::RGD_OFFSET, with_text.gd)), "two directories"));
}

/// The redundant directory in the zeros behind the text would have numbers of tables put there.
#[test]
fn a_directory_in_the_place_of_the_descriptor_is_refused() {
    for offset in [19, 20] {
        for field in [field::RGD_OFFSET, field::GD_OFFSET] {
            assert!(change_all(&single(&one_grain().patch_u64(field, offset)), "a directory"), "{offset} {field}");
        }
    }
}

#[test]
fn what_has_no_descriptor_of_its_own_is_written_to_as_well() {
    let files = vec![
        ("one.vmdk".to_owned(), SparseImage::new(256).data(1, [4; SECTOR]).build()),
        ("disk.vmdk".to_owned(), text(&["RW 200 SPARSE \"one.vmdk\"", "RW 56 ZERO"])),
    ];
    let sectors = [(0, 1), (150, 50), (10, 1)];
    for (start, count) in sectors {
        assert!(matches!(change(&files, Change::Write, start, count), Outcome::Done));
    }
}

// ---- COWD -----------------------------------------------------------------------------------------------------------

#[test]
fn a_cowd_extent_with_impossible_entries_is_refused_or_written_right() {
    let extent = || CowdImage::vmware3(256).data(0, vec![0xa5; 65536]);
    let layout = extent().layout();
    let files = |extent: &CowdImage| vec![("disk.vmdk".to_owned(), extent.build())];
    assert!(!change_all(&files(&extent()), "as it is"));
    let end = u32::try_from(layout.end).unwrap();
    for value in [2, 3, 4, 5, end, end + 1, u32::MAX] {
        assert!(change_all(&files(&extent().patch_u32(layout.entry(0), value)), "a grain"), "a grain at {value}");
    }
    for value in [2, 3, 4, end - 1, end, u32::MAX] {
        let extent = extent().patch_u32(layout.directory_entry(0), value);
        change_all(&files(&extent), &format!("a table at {value}"));
    }
    for free in [0, 1, 5, 20, end + 1000] {
        let extent = extent().patch_u32(support::cowd::field::FREE_SECTOR, free);
        assert!(!change_all(&files(&extent), "a free sector"), "{free} is free");
    }
    for directory in [0, 3, 5, 6, 10, end - 1, end] {
        let extent = extent().patch_u32(support::cowd::field::GD_OFFSET, directory);
        change_all(&files(&extent), &format!("a directory at {directory}"));
    }
}

// ---- Extents in one file --------------------------------------------------------------------------------------------

#[test]
fn extents_that_share_bytes_are_refused_if_one_of_them_takes_writes() {
    let flat = || ("flat".to_owned(), vec![7; 64 * SECTOR]);
    let sparse = || ("sparse".to_owned(), SparseImage::new(64).grain_sectors(8).data(0, [1]).build());
    let refused: &[&[&str]] = &[
        &["RW 9 FLAT \"flat\" 0", "RW 9 FLAT \"flat\" 8"],
        &["RDONLY 20 FLAT \"flat\" 0", "RW 9 FLAT \"flat\" 19"],
        &["RW 9 FLAT \"flat\" 5", "RDONLY 20 FLAT \"flat\" 0"],
        &["RW 64 SPARSE \"sparse\"", "RDONLY 64 SPARSE \"sparse\""],
        &["RW 64 SPARSE \"sparse\"", "RW 1 FLAT \"sparse\" 5"],
        &["RW 64 SPARSE \"sparse\"", "RDONLY 1 FLAT \"sparse\" 0"],
        &["RW 2 FLAT \"disk\" 0"],
        &["RW 9 FLAT \"flat\" 0", "RW 1 FLAT \"disk\" 1"],
    ];
    for lines in refused {
        let files = vec![flat(), sparse(), ("disk".to_owned(), text(lines))];
        assert!(matches!(change(&files, Change::Write, 0, 9), Outcome::Refused(_)), "{lines:?}");
    }
    let written: &[&[&str]] = &[
        &["RW 9 FLAT \"flat\" 9", "RW 9 FLAT \"flat\" 0"],
        &["RW 9 FLAT \"flat\" 0", "RDONLY 20 FLAT \"flat\" 10", "RDONLY 20 FLAT \"flat\" 20"],
        &["RW 64 SPARSE \"sparse\"", "RDONLY 20 FLAT \"flat\" 10", "RDONLY 20 FLAT \"flat\" 20"],
    ];
    for lines in written {
        let files = vec![flat(), sparse(), ("disk".to_owned(), text(lines))];
        let outcome = change(&files, Change::Write, 0, 9);
        assert!(matches!(outcome, Outcome::Done), "{lines:?}: {outcome:?}");
    }
}

/// A header whose text names a flat extent, or another sparse one, and these lie in the same file.
#[test]
fn an_extent_over_the_descriptor_that_names_it_is_refused() {
    for line in ["RW 256 FLAT \"disk.vmdk\" 0", "RW 4 FLAT \"disk.vmdk\" 1", "RW 1 FLAT \"disk.vmdk\" 20"] {
        let extent = SparseImage::new(256).descriptor(text(&[line])).data(0, vec![0xa5; 65536]);
        let outcome = change(&single(&extent), Change::Write, 0, 1);
        assert!(matches!(outcome, Outcome::Refused(_)), "{line}");
    }
}

// ---- Damage at random -----------------------------------------------------------------------------------------------

static IMAGES: LazyLock<Vec<Files>> = LazyLock::new(|| {
    let kinds = [
        Kind::ZeroGrains,
        Kind::OddLayout,
        Kind::NoRedundantTables,
        Kind::TwoGbMaxExtentSparse,
        Kind::Custom,
        Kind::SmallerChild,
        Kind::LargerChild,
    ];
    // Of each link the file to open comes first.
    let files = |kind: Kind| kind.disk(11).links.into_iter().flat_map(|link| link.files.into_iter().rev()).collect();
    let mut images: Vec<Files> = kinds.map(files).into();
    let mut rng = Rng::new(3);
    images.push(single(&one_grain()));
    images.push(vec![("disk".to_owned(), CowdImage::vmware3(128 * 6 + 5).random(&mut rng).build())]);
    images
});

/// Where a byte sequence is put into a file; the file gets no longer.
#[derive(Clone, Debug)]
struct Damage {
    file: usize,
    place: usize,
    bytes: Vec<u8>,
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop_oneof![
        4 => 0..60_u32,
        4 => 0..4000_u32,
        1 => any::<u32>(),
        1 => prop::sample::select(vec![0, 1, 2, 128, 1 << 31, u32::MAX]),
    ];
    let words = prop::sample::select(vec![
        "RW 9 FLAT \"disk.vmdk\" 1\n",
        "RW 9 SPARSE \"disk.vmdk\"\n",
        "RW 99 ZERO\n",
        "\nCID=1\n",
        "CID=",
        "\n",
        "\0",
    ]);
    let bytes = prop_oneof![
        8 => number.prop_map(|number| number.to_le_bytes().to_vec()),
        1 => words.prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..9),
    ];
    // The header, the metadata, and anywhere.
    let place = prop_oneof![
        2 => 0..80_usize,
        6 => (0..5000_usize).prop_map(|entry| entry * 4),
        3 => 0..40_000_usize,
        1 => any::<usize>()
    ];
    (any::<usize>(), place, bytes).prop_map(|(file, place, bytes)| Damage { file, place, bytes })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_image_is_refused_or_written_right(
        image in 0..IMAGES.len(),
        damages in prop::collection::vec(damage(), 1..4),
        place in 0..3000_u64,
        count in prop_oneof![1..9_u64, 1..400_u64],
        change_of in prop::sample::select(&CHANGES[..]),
    ) {
        let mut files = IMAGES[image].clone();
        for Damage { file, place, bytes } in damages {
            let file = file % files.len();
            let file = &mut files[file].1;
            let place = place % (file.len() + 1);
            file[place..].iter_mut().zip(&bytes).for_each(|(there, &new)| *there = new);
        }
        change(&files, change_of, place, count);
    }
}
