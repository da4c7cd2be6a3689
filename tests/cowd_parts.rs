//! One of the several COWD files of a disk of VMware 3, opened by itself.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use vmdk::{BlockDevice, Error, ErrorKind, MemoryStorage, OpenOptions, Storage, VmdkImage};

use support::cowd::{CowdImage, field};
use support::disk::{Disk, Image};
use support::rng::Rng;
use support::{SECTOR, index};

const NAMES: [&str; 3] = ["disk.vmdk", "disk-02.vmdk", "disk-03.vmdk"];

/// The parts of a root.
const ROOT: [u64; 3] = [300, 129, 40];
/// The parts of a child whose files hold 200 sectors each.
const CHILD: [u64; 3] = [200, 200, 69];
const WHOLE: u64 = 469;

/// Opens one file of some images in memory.
fn open_with(options: &OpenOptions, name: &str, images: &[&Image]) -> vmdk::Result<VmdkImage> {
    let storage = |bytes: &Vec<u8>| Arc::new(MemoryStorage::new(bytes.clone())) as Arc<dyn Storage>;
    let files = images.iter().flat_map(|image| &image.files);
    let files: HashMap<String, _> = files.map(|(name, bytes)| (name.clone(), storage(bytes))).collect();
    options.open_with(name, &files)
}

fn open(name: &str, images: &[&Image]) -> vmdk::Result<VmdkImage> {
    open_with(&OpenOptions::new(), name, images)
}

#[track_caller]
fn refused(result: vmdk::Result<VmdkImage>) -> Error {
    result.expect_err("it must not open")
}

fn content(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    content
}

fn warning(number: usize) -> String {
    format!("file {number} of a disk of 3 files, without the others; the first one opens the whole disk")
}

/// The files of a root, each with data at both ends.
fn root_files() -> Vec<CowdImage> {
    let file = |(number, part): (u32, u64)| {
        let mark = u8::try_from(16 * number + 1).unwrap();
        let file = CowdImage::vmware3(part).file_of(number, 3, WHOLE, part).generation(5);
        file.data(part / 128, vec![mark; SECTOR]).data(0, vec![mark + 1; SECTOR])
    };
    (0..).zip(ROOT).map(file).collect()
}

fn root() -> Image {
    Image::hosted_cowd(NAMES[0], &root_files(), None)
}

/// A base in one file and a child of it in three, each with data in its first grain only.
fn base_and_child(change: impl Fn(CowdImage) -> CowdImage) -> (Image, Image) {
    let base = CowdImage::vmware3(WHOLE).generation(5).random(&mut Rng::new(6));
    let base = Image::hosted_cowd("base.vmdk", &[base], None);
    let file = |(number, part): (u32, u64)| {
        let file = CowdImage::vmware3(part).parent("base.vmdk", 5).file_of(number, 3, WHOLE, 200).generation(6);
        change(file.data(0, vec![u8::try_from(number + 1).unwrap(); SECTOR]))
    };
    let files: Vec<CowdImage> = (0..).zip(CHILD).map(file).collect();
    let child = Image::hosted_cowd(NAMES[0], &files, Some(&base));
    (base, child)
}

#[test]
fn a_later_file_of_a_root_opens_alone_with_a_warning() {
    let (image, files) = (root(), root_files());
    for number in [1, 2] {
        let part = open(NAMES[number], &[&image]).unwrap();
        assert_eq!(part.capacity_sectors(), ROOT[number]);
        assert!(content(&part) == files[number].layer().content());
        assert_eq!((part.chain().len(), part.host_files().len()), (1, 1));
        assert_eq!(part.chain()[0].extents()[0].start_sector(), 0);
        assert_eq!(part.chain()[0].warnings(), [warning(number + 1)]);
    }
    let whole = open(NAMES[0], &[&image]).unwrap();
    assert_eq!(whole.capacity_sectors(), WHOLE);
    assert_eq!(whole.chain()[0].warnings(), [""; 0]);
}

/// It is opened as it lies there: nothing is looked for by the names that belong together.
#[test]
fn a_later_file_needs_neither_the_others_nor_its_name() {
    let disk = Disk::new(vec![root()]);
    for (number, name) in [(1, "disk.vmdk"), (2, "some.bin")] {
        let path = disk.dir().join(name);
        std::fs::rename(disk.dir().join(NAMES[number]), &path).unwrap();
        let part = VmdkImage::open(&path).unwrap();
        assert!(content(&part) == root_files()[number].layer().content());
        assert_eq!(part.chain()[0].warnings(), [warning(number + 1)]);
    }
}

/// The part does not begin where the parent does: over the parent it would read other sectors of it.
#[test]
fn a_later_file_of_a_child_is_refused_over_the_parent() {
    let (base, child) = base_and_child(|file| file);
    let options =
        [OpenOptions::new(), OpenOptions::new().parent("base.vmdk"), OpenOptions::new().ignore_cid_mismatch(true)];
    for (options, number) in options.iter().flat_map(|options| [(options, 2), (options, 3)]) {
        let name = NAMES[number - 1];
        let error = refused(open_with(options, name, &[&base, &child]));
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let expected = format!(
            "{name}: file {number} of a disk of 3 files that has a parent; open the first one, or this one alone, \
             without the parent"
        );
        assert_eq!(error.to_string(), expected);
    }
    assert!(content(&open(NAMES[0], &[&base, &child]).unwrap()) == child.content);
}

#[test]
fn a_later_file_of_a_child_opens_without_the_parent() {
    // The size of the whole disk stands in two places.
    for in_place_of_a_root in [true, false] {
        let forget = |file: CowdImage| if in_place_of_a_root { file } else { file.patch_u32(field::DISK_SECTORS, 0) };
        let (base, child) = base_and_child(forget);
        for number in [1, 2] {
            let part = open_with(&OpenOptions::new().no_parent(true), NAMES[number], &[&base, &child]).unwrap();
            assert_eq!(part.capacity_sectors(), CHILD[number]);
            let mut expected = vec![0; index(CHILD[number]) * SECTOR];
            expected[..SECTOR].fill(u8::try_from(number + 1).unwrap());
            assert!(content(&part) == expected);
            assert_eq!(part.chain()[0].warnings(), [warning(number + 1)]);
        }
    }
}

/// The size of a child's part follows from what a file can hold and from the size of the disk, and from nothing else.
#[test]
fn a_later_file_of_a_child_whose_size_cannot_be_known_is_refused() {
    type Change = fn(CowdImage) -> CowdImage;
    let rows: [(Change, &str); 4] = [
        (|file| file.patch_u32(field::FILE_CAPACITY, 0), "the files of the disk hold 0 and 0 sectors at most"),
        (|file| file.patch_u32(field::FILE_CAPACITY, 469), "469 sectors do not take 3 files of 469"),
        (|file| file.patch_u32(field::FILE_CAPACITY, 100), "469 sectors do not take 3 files of 100"),
        (|file| file.patch_u32(field::DISK_SECTORS, 200), "200 sectors do not take 3 files of 200"),
    ];
    for (change, problem) in rows {
        let (base, child) = base_and_child(change);
        let error = refused(open_with(&OpenOptions::new().no_parent(true), NAMES[2], &[&base, &child]));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(error.to_string(), format!("{}: {problem}", NAMES[2]));
    }
}

/// Its generation is that of the whole disk, but its sectors are those of a part.
#[test]
fn a_later_file_is_nobodys_parent() {
    let base = root();
    let extent = CowdImage::vmware3(WHOLE).generation(6);
    let child = |hint: &str, generation| {
        Image::hosted_cowd("child.vmdk", &[extent.clone().parent(hint, generation)], Some(&base))
    };
    let by_hint = child(NAMES[1], 5);
    let by_caller = child(NAMES[0], 5);
    let changed = child(NAMES[1], 4);
    let rows = [
        (OpenOptions::new(), &by_hint),
        (OpenOptions::new().parent(NAMES[1]), &by_caller),
        (OpenOptions::new().ignore_cid_mismatch(true), &changed),
    ];
    for (options, child) in rows {
        let error = refused(open_with(&options, "child.vmdk", &[&base, child]));
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert_eq!(
            error.to_string(),
            "disk-02.vmdk: file 2 of a disk of 3 files; the parent of a disk is the first one"
        );
    }
    assert!(content(&open("child.vmdk", &[&base, &by_caller]).unwrap()) == by_caller.content);
}

#[test]
fn a_parent_for_a_later_file_of_a_root_is_a_mistake_of_the_caller() {
    let error = refused(open_with(&OpenOptions::new().parent(NAMES[0]), NAMES[1], &[&root()]));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("base of its chain"), "{error}");
}
