//! The contract of `BlockDevice` for disks that take writes, and what is never written to.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;

use vmdk::{BlockDevice, ErrorKind, MemoryStorage, OpenOptions, Storage, VmdkImage, WriteFlags};

use support::check::check as check_extent;
use support::conformance::{check, check_writes};
use support::cowd::{self, CowdImage};
use support::descriptor::DescriptorText;
use support::disk::{Disk, Image, Kind, Part};
use support::rng::Rng;
use support::sparse::{SparseImage, field};
use support::storage::CountingStorage;
use support::{SECTOR, byte_range};

/// The files of an image, the one to open last.
type Files = Vec<(String, Vec<u8>)>;

/// Files in memory that are watched.
struct Watched(HashMap<String, Arc<CountingStorage>>);

impl Watched {
    fn new(files: &Files) -> Self {
        let watch = |bytes: &Vec<u8>| CountingStorage::new(Arc::new(MemoryStorage::new(bytes.clone())));
        Self(files.iter().map(|(name, bytes)| (name.clone(), watch(bytes))).collect())
    }

    fn open(&self, name: &str, options: &OpenOptions) -> vmdk::Result<VmdkImage> {
        let resolver = |name: &str| self.0.get(name).map(|file| Arc::clone(file) as Arc<dyn Storage>);
        options.open_with(name, &resolver)
    }

    /// No host was asked to change anything. It may have been asked to make durable what is there: a flush is for what
    /// a process that was killed has left, too.
    #[track_caller]
    fn expect_untouched(&self, what: impl std::fmt::Display) {
        for (name, file) in &self.0 {
            let counts = file.counts();
            assert!(!counts.touched(), "{what}: {name} was touched: {counts:?}");
        }
    }
}

fn writable() -> OpenOptions {
    OpenOptions::new().write(true)
}

fn files_of(disk: &Disk) -> Files {
    disk.links.iter().flat_map(|link| link.files.clone().into_iter().rev()).collect()
}

// ---- Every kind -----------------------------------------------------------------------------------------------------

fn keeps_the_contract(kind: Kind, options: &OpenOptions) {
    let disk = kind.disk(41);
    let mut content = disk.content.clone();
    let image = options.open(&disk.path).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    check_writes(&image, &mut content);
    image.close().unwrap();
    let (top, parents) = disk.links.split_last().unwrap();
    for (name, bytes) in parents.iter().flat_map(|link| &link.files) {
        assert!(std::fs::read(disk.dir().join(name)).unwrap() == *bytes, "{kind:?}: {name} of a parent was changed");
    }
    for (name, _) in &top.files {
        let bytes = std::fs::read(disk.dir().join(name)).unwrap();
        if bytes.starts_with(b"KDMV") || bytes.starts_with(b"COWD") {
            let report = check_extent(&bytes);
            report.expect_sound(format!("{kind:?}: {name}"));
            assert!(!report.unclean, "{kind:?}: {name}");
        }
    }
    drop(image);
    check(&VmdkImage::open(&disk.path).unwrap(), &content);
}

fn kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| !kind.has_read_only_parts())
}

#[test]
fn an_image_of_any_kind_keeps_the_contract_of_writing() {
    kinds().for_each(|kind| keeps_the_contract(kind, &writable()));
}

#[test]
fn an_image_with_a_single_cached_table_keeps_the_contract_of_writing() {
    for kind in [Kind::SmallGrains, Kind::NoRedundantTables, Kind::DeepChain, Kind::EsxDelta] {
        keeps_the_contract(kind, &writable().cached_tables(1).max_open_files(1));
    }
}

// ---- Errors ---------------------------------------------------------------------------------------------------------

/// Every call that changes something, on one sector.
fn refused(image: &VmdkImage, start: u64) -> Vec<ErrorKind> {
    let sector = [7; SECTOR];
    let halves = [IoSlice::new(&sector[..100]), IoSlice::new(&sector[100..])];
    vec![
        image.write_sectors(start, &sector).unwrap_err().kind(),
        image.write_sectors_vectored(start, &halves, WriteFlags::NONE).unwrap_err().kind(),
        image.write_sectors_vectored(start, &halves, WriteFlags::FUA).unwrap_err().kind(),
        image.write_zeroes(start, 1, false).unwrap_err().kind(),
        image.write_zeroes(start, 1, true).unwrap_err().kind(),
        image.discard(start, 1).unwrap_err().kind(),
        image.prepare_write(start, 1).unwrap_err().kind(),
    ]
}

#[test]
fn a_read_only_image_refuses_writes_without_a_call_to_the_host_and_can_be_flushed() {
    for kind in Kind::ALL {
        let disk = kind.disk(42);
        let files = Watched::new(&files_of(&disk));
        let image = files.open(&disk.links.last().unwrap().name, &OpenOptions::new()).unwrap();
        for file in files.0.values() {
            file.take();
        }
        for start in [0, image.capacity_sectors() - 1] {
            assert_eq!(refused(&image, start), [ErrorKind::ReadOnly; 7], "{kind:?}");
        }
        assert_eq!(refused(&image, image.capacity_sectors()), [ErrorKind::OutOfRange; 7], "{kind:?}");
        image.flush().unwrap();
        files.expect_untouched(format!("{kind:?}"));
        assert!(files.0.values().all(|file| file.counts().reads.is_empty()), "{kind:?}");
        image.close().unwrap();
        assert_eq!(image.flush().unwrap_err().kind(), ErrorKind::Closed, "{kind:?}");
    }
}

#[test]
fn a_prepared_write_has_the_range_that_a_write_has() {
    let disk = Kind::Child.disk(43);
    let files = Watched::new(&files_of(&disk));
    let image = files.open("disk.vmdk", &writable()).unwrap();
    let capacity = image.capacity_sectors();
    for (start, count) in [
        (capacity, 1),
        (0, capacity + 1),
        (capacity + 1, 0),
        (u64::MAX, 0),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (1, u64::MAX),
        (1 << 55, 1),
    ] {
        assert_eq!(image.prepare_write(start, count).unwrap_err().kind(), ErrorKind::OutOfRange, "{start}, {count}");
    }
    for start in [0, capacity] {
        let nothing = image.prepare_write(start, 0).unwrap();
        assert!(nothing.ranges().is_empty());
        nothing.commit().unwrap();
    }
    files.expect_untouched("nothing was written");
}

#[test]
fn an_image_that_was_opened_for_writing_and_only_read_is_not_touched() {
    for kind in Kind::ALL {
        let disk = kind.disk(44);
        let files = Watched::new(&files_of(&disk));
        let image = files.open(&disk.links.last().unwrap().name, &writable()).unwrap();
        let mut content = vec![0; disk.content.len()];
        image.read_sectors(0, &mut content).unwrap();
        assert!(content == disk.content);
        image.write_sectors(0, &[]).unwrap();
        image.write_sectors_vectored(image.capacity_sectors(), &[], WriteFlags::FUA).unwrap();
        image.write_zeroes(1, 0, true).unwrap();
        image.discard(1, 0).unwrap();
        image.flush().unwrap();
        assert!(image.write_sectors(1, &[1; 100]).is_err());
        image.close().unwrap();
        drop(image);
        files.expect_untouched(format!("{kind:?}"));
    }
}

#[test]
fn after_a_close_every_call_is_closed_and_another_close_does_nothing() {
    let disk = Kind::MonolithicSparse.disk(45);
    let files = Watched::new(&files_of(&disk));
    let image = files.open("disk.vmdk", &writable()).unwrap();
    image.write_sectors(1, &[5; SECTOR]).unwrap();
    image.close().unwrap();
    let file = &files.0["disk.vmdk"];
    assert!(file.take().touched());
    image.close().unwrap();
    assert_eq!(refused(&image, 0), [ErrorKind::Closed; 7]);
    let others = [
        image.read_sectors(0, &mut [0; SECTOR]).unwrap_err().kind(),
        image.block_status(0, 1).unwrap_err().kind(),
        image.flush().unwrap_err().kind(),
    ];
    assert_eq!(others, [ErrorKind::Closed; 3]);
    drop(image);
    files.expect_untouched("after the close");
}

// ---- Extents that take no writes ------------------------------------------------------------------------------------

/// 64 sectors each: sparse, ZERO, flat and RDONLY, sparse, flat and NOACCESS, flat.
fn mixed() -> Image {
    let mut rng = Rng::new(46);
    let sparse = |rng: &mut Rng| SparseImage::new(64).grain_sectors(8).random(rng);
    let bytes = rng.bytes(3 * 64 * SECTOR);
    let parts = vec![
        Part::sparse("one", &sparse(&mut rng)),
        Part::zero(64),
        Part::flat_in("RDONLY", "flat", 0, &bytes[..64 * SECTOR]).with_file("flat", bytes.clone()),
        Part::sparse("two", &sparse(&mut rng)),
        Part::no_access(64, "flat", 64),
        Part::flat_in("RW", "flat", 128, &bytes[128 * SECTOR..]),
    ];
    Image::of_parts("disk", "custom", parts)
}

#[test]
fn an_extent_that_takes_no_writes_refuses_before_another_one_of_the_request_is_written() {
    let image = mixed();
    let files = Watched::new(&image.files);
    let opened = files.open("disk", &writable()).unwrap();
    // The last sectors of one, and the first of the next.
    for (start, count, what) in [
        (120, 16, "RDONLY"),
        (128, 1, "RDONLY"),
        (190, 4, "RDONLY"),
        (250, 8, "NOACCESS"),
        (319, 2, "NOACCESS"),
        (0, 384, "RDONLY"),
        (192, 192, "NOACCESS"),
    ] {
        let bytes = vec![0; byte_range(0, count).end];
        let halves = bytes.split_at(bytes.len() / 3);
        let halves = [IoSlice::new(halves.0), IoSlice::new(halves.1)];
        let errors = [
            opened.write_sectors(start, &bytes).unwrap_err(),
            opened.write_sectors_vectored(start, &halves, WriteFlags::FUA).unwrap_err(),
            opened.write_zeroes(start, count, false).unwrap_err(),
            opened.write_zeroes(start, count, true).unwrap_err(),
            opened.discard(start, count).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::ReadOnly, "{start}, {count}");
            assert!(error.to_string().contains(what), "{start}, {count}: {error}");
        }
        assert_eq!(opened.prepare_write(start, count).unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    files.expect_untouched("all of it was refused");
    let mut content = vec![0; image.content.len()];
    opened.read_sectors(0, &mut content).unwrap();
    assert!(content == image.content);
}

#[test]
fn a_zero_extent_takes_zeros_and_nothing_else() {
    let image = mixed();
    let files = Watched::new(&image.files);
    let opened = files.open("disk", &writable()).unwrap();
    let mut bytes = vec![0; 70 * SECTOR];
    // The last byte of the ZERO extent, with zeros all around it.
    bytes[69 * SECTOR - 1] = 1;
    let error = opened.write_sectors(59, &bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    assert!(error.to_string().contains("ZERO"), "{error}");
    let error = opened.write_sectors_vectored(59, &[IoSlice::new(&bytes)], WriteFlags::NONE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    assert_eq!(opened.prepare_write(60, 8).unwrap_err().kind(), ErrorKind::ReadOnly);
    files.expect_untouched("none of it was zeros only");
    opened.write_sectors(64, &vec![0; 64 * SECTOR]).unwrap();
    opened.write_zeroes(70, 3, true).unwrap();
    opened.discard(64, 64).unwrap();
    files.expect_untouched("there is nothing to write");
    // Data before it, zeros in it.
    bytes.fill(0);
    bytes[..5 * SECTOR].fill(9);
    opened.write_sectors(59, &bytes[..69 * SECTOR]).unwrap();
    let mut content = image.content.clone();
    content[byte_range(59, 69)].copy_from_slice(&bytes[..69 * SECTOR]);
    opened.close().unwrap();
    let mut found = vec![0; content.len()];
    files.open("disk", &OpenOptions::new()).unwrap().read_sectors(0, &mut found).unwrap();
    assert!(found == content);
}

// ---- What is never written to ---------------------------------------------------------------------------------------

fn text() -> DescriptorText {
    DescriptorText::new("custom", 0x1234_5678).extent("RW 256 SPARSE \"extent\"")
}

fn with_text(text: &str) -> Files {
    let extent = SparseImage::new(256).data(0, [1; SECTOR]).build();
    vec![("extent".to_owned(), extent), ("disk".to_owned(), text.as_bytes().to_vec())]
}

fn single(extent: &SparseImage) -> Files {
    vec![("extent".to_owned(), extent.build()), ("disk".to_owned(), text().to_string().into_bytes())]
}

#[track_caller]
fn expect_refused(files: &Files, options: &OpenOptions, kind: ErrorKind, reason: &str) {
    let watched = Watched::new(files);
    let name = &files[files.len() - 1].0;
    let error = watched.open(name, options).err().unwrap_or_else(|| panic!("{reason}: it was opened"));
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(reason), "{error}");
    watched.expect_untouched(reason);
}

#[test]
fn a_disk_that_must_not_be_written_to_is_refused_by_the_name_of_the_reason() {
    use ErrorKind::Unsupported;
    let tracked = text().change_track_path("disk-ctk.vmdk").to_string();
    expect_refused(&with_text(&tracked), &writable(), Unsupported, "changeTrackPath");
    for version in [4, 5, 100] {
        let newer = text().version(version).to_string();
        expect_refused(&with_text(&newer), &writable(), Unsupported, &format!("version {version}"));
    }
    for value in ["\"yes\"", "\"YES\"", "yes"] {
        let native = text().to_string().replace("isNativeSnapshot=\"no\"", &format!("isNativeSnapshot={value}"));
        expect_refused(&with_text(&native), &writable(), Unsupported, "isNativeSnapshot");
    }
    for version in [1, 2, 3] {
        let watched = Watched::new(&with_text(&text().version(version).to_string()));
        watched.open("disk", &writable()).unwrap().write_sectors(0, &[1; SECTOR]).unwrap();
    }
}

#[test]
fn an_extent_that_must_not_be_written_to_is_refused_by_the_name_of_the_reason() {
    use ErrorKind::Unsupported;
    for flags in [8, 0x1000, 0x8003] {
        let extent = SparseImage::new(256).flags(flags | 3).data(0, [1; SECTOR]);
        expect_refused(&single(&extent), &writable(), Unsupported, "unknown flags");
        // Whoever only reads it may.
        Watched::new(&single(&extent)).open("disk", &OpenOptions::new()).unwrap();
    }
    let stream = SparseImage::new(256).version(3).patch_u32(field::FLAGS, 0x30001).patch(field::COMPRESSION, [1, 0]);
    expect_refused(&single(&stream), &writable(), Unsupported, "compress");
    for flags in [0x20, 0x80, 0x8000_0000] {
        let cowd = CowdImage::esx(256).patch_u32(cowd::field::FLAGS, 3 | flags).build();
        let text = DescriptorText::new("vmfsSparse", 0x1234_5678).extent("RW 256 VMFSSPARSE \"extent\"").to_string();
        let files = vec![("extent".to_owned(), cowd), ("disk".to_owned(), text.into_bytes())];
        expect_refused(&files, &writable(), Unsupported, "unknown flags");
    }
    let mut magic = 0xcafe_babe_u64.to_le_bytes().to_vec();
    magic.resize(64 * SECTOR, 0);
    let text = DescriptorText::new("seSparse", 0x1234_5678).extent("RW 256 SESPARSE \"extent\"").to_string();
    let files = vec![("extent".to_owned(), magic), ("disk".to_owned(), text.into_bytes())];
    expect_refused(&files, &writable(), Unsupported, "seSparse");
}

#[test]
fn a_child_without_its_parent_is_not_written_to() {
    let disk = Kind::Child.disk(47);
    expect_refused(&files_of(&disk), &writable().no_parent(true), ErrorKind::InvalidInput, "without its parent");
    let delta = Kind::EsxDelta.disk(47);
    expect_refused(&files_of(&delta), &writable().no_parent(true), ErrorKind::InvalidInput, "without its parent");
    // It can be looked at.
    Watched::new(&files_of(&disk)).open("disk.vmdk", &OpenOptions::new().no_parent(true)).unwrap();
}

#[test]
fn what_only_helps_to_read_a_damaged_image_does_not_go_together_with_writing() {
    let disk = Kind::MonolithicSparse.disk(48);
    let options = writable().use_redundant_tables(true);
    expect_refused(&files_of(&disk), &options, ErrorKind::InvalidInput, "redundant");
    expect_refused(&files_of(&disk), &writable().force_share(true), ErrorKind::InvalidInput, "force-share");
}

/// Nothing of the extent is read-only by name, but another content ID does not fit.
#[test]
fn a_content_id_too_short_to_change_is_refused_before_the_first_write_reaches_the_disk() {
    let short = text().to_string().replace("CID=12345678", "CID=123");
    let files = Watched::new(&with_text(&short));
    let image = files.open("disk", &writable()).unwrap();
    let error = image.write_sectors(0, &[9; SECTOR]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("rewrite_descriptor"), "{error}");
    image.close().unwrap();
    files.expect_untouched("the write was refused");
}

#[test]
fn a_sparse_extent_without_its_descriptor_is_written_to_on_request_only() {
    let hosted = SparseImage::new(256).data(0, [1; SECTOR]).build();
    let delta = CowdImage::esx(256).data(0, [1; SECTOR]).build();
    for extent in [hosted, delta] {
        let files = vec![("extent".to_owned(), extent)];
        expect_refused(&files, &writable(), ErrorKind::Unsupported, "without its descriptor");
        let watched = Watched::new(&files);
        let image = watched.open("extent", &writable().allow_bare_extent(true)).unwrap();
        image.write_sectors(200, &[2; SECTOR]).unwrap();
        let mut read = [0; SECTOR];
        image.read_sectors(200, &mut read).unwrap();
        assert_eq!(read, [2; SECTOR]);
    }
    // These never had one.
    for extent in [CowdImage::vmware2(4096 * 32 * 2), CowdImage::vmware3(256)] {
        let files = vec![("disk".to_owned(), extent.data(0, [1; SECTOR]).build())];
        Watched::new(&files).open("disk", &writable()).unwrap().write_sectors(0, &[2; SECTOR]).unwrap();
    }
}
