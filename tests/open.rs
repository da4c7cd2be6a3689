//! What opens, and how: kinds of extent, headers and descriptors that real and odd files have.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use vmdk::{
    Access, AdapterType, BlockDevice, BlockStatus, CreateType, Error, ErrorKind, ExtentKind, Geometry, Mapping,
    MemoryStorage, OpenOptions, SparseHeader, Storage, VmdkImage,
};

use support::descriptor::DescriptorText;
use support::disk::{Disk, Image, Kind};
use support::rng::Rng;
use support::sparse::{SparseImage, field};
use support::{SECTOR, index};

type Files<'a> = &'a [(&'a str, Vec<u8>)];

/// Opens `name`, one of files in memory.
fn open_files(name: &str, files: Files<'_>) -> vmdk::Result<VmdkImage> {
    let storage = |bytes: &Vec<u8>| Arc::new(MemoryStorage::new(bytes.clone())) as Arc<dyn Storage>;
    let files: HashMap<String, _> = files.iter().map(|(name, bytes)| ((*name).to_owned(), storage(bytes))).collect();
    OpenOptions::new().open_with(name, &files)
}

/// Opens a single file.
fn open(bytes: Vec<u8>) -> vmdk::Result<VmdkImage> {
    open_files("disk.vmdk", &[("disk.vmdk", bytes)])
}

/// Opens a file that must be refused.
fn refused(bytes: impl Into<Vec<u8>>) -> Error {
    open(bytes.into()).expect_err("it must not open")
}

fn content(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    content
}

/// Sectors full of one byte each.
fn sectors(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|&byte| [byte; SECTOR]).collect()
}

/// A text descriptor with these extent lines.
fn text(create_type: &str, lines: &[&str]) -> Vec<u8> {
    let text = lines.iter().fold(DescriptorText::new(create_type, 7), |text, line| text.extent(*line));
    text.to_string().into_bytes()
}

// ---- Extents --------------------------------------------------------------------------------------------------------

/// QEMU drops every line that is not `RW`, and every `ZERO`, without a word: what follows moves down.
#[test]
fn qemu_drops_extents_that_are_not_writable_or_zero_and_here_all_keep_their_place() {
    let flat = sectors(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let sparse = SparseImage::new(4).grain_sectors(1).data(1, sectors(&[9])).data(3, sectors(&[10])).build();
    let rows: &[(&[&str], &[u8])] = &[
        (&["RW 8 FLAT \"flat\" 0"], &[1, 2, 3, 4, 5, 6, 7, 8]),
        (&["RW 2 FLAT \"flat\" 3"], &[4, 5]),
        (&["RW 2 FLAT \"flat\""], &[1, 2]),
        (&["RW 2 VMFS \"flat\""], &[1, 2]),
        (&["RW 4 SPARSE \"sparse\""], &[0, 9, 0, 10]),
        (&["rw 1 flat \"flat\" 7"], &[8]),
        (&["RW 1 FLAT \"flat\" 1", "RW 2 ZERO", "RW 1 FLAT \"flat\" 2"], &[2, 0, 0, 3]),
        (&["RW 1 ZERO", "RW 1 ZERO \"\"", "RW 1 FLAT \"flat\" 2"], &[0, 0, 3]),
        (&["RDONLY 1 FLAT \"flat\" 4", "RW 1 FLAT \"flat\" 2"], &[5, 3]),
        (&["RDONLY 1 ZERO", "RDONLY 2 SPARSE \"sparse\"", "RDONLY 1 VMFS \"flat\""], &[0, 0, 9, 1]),
        (&["RW 1 FLAT \"flat\" 0", "NOACCESS 2 FLAT \"flat\" 2", "RW 1 FLAT \"flat\" 4"], &[1, 0, 0, 5]),
        (&["NOACCESS 1", "NOACCESS 1 SPARSE \"not there\"", "RW 1 FLAT \"flat\" 0"], &[0, 0, 1]),
        (&["RW 4 SPARSE \"sparse\"", "RW 2 SPARSE \"sparse\"", "RW 1 FLAT \"flat\" 0"], &[0, 9, 0, 10, 0, 9, 1]),
        // A file that is shorter than its extent.
        (&["RW 4 FLAT \"flat\" 6", "RW 1 FLAT \"flat\" 0"], &[7, 8, 0, 0, 1]),
        (&["RW 2 FLAT \"flat\" 8"], &[0, 0]),
        (&["RW 10 VMFS \"flat\""], &[1, 2, 3, 4, 5, 6, 7, 8, 0, 0]),
    ];
    for (lines, expected) in rows {
        let files = [("disk", text("custom", lines)), ("flat", flat.clone()), ("sparse", sparse.clone())];
        let image = open_files("disk", &files).unwrap_or_else(|error| panic!("{lines:?}: {error}"));
        assert_eq!(image.capacity_sectors(), expected.len() as u64, "{lines:?}");
        assert!(content(&image) == sectors(expected), "{lines:?}");
    }
}

#[test]
fn an_extent_tells_its_place_its_type_and_its_file() {
    let disk = Kind::Custom.disk(1);
    let image = VmdkImage::open(&disk.path).unwrap();
    let extents: Vec<_> = image.chain()[0]
        .extents()
        .iter()
        .map(|extent| {
            let file = extent.file().and_then(|file| file.path().file_name()?.to_str());
            (extent.start_sector(), extent.sectors(), extent.access(), extent.kind(), file)
        })
        .collect();
    let (flat, sparse) = (Some("disk-flat.vmdk"), Some("disk-s001.vmdk"));
    let expected = [
        (0, 197, Access::ReadWrite, ExtentKind::Sparse, sparse),
        (197, 63, Access::ReadWrite, ExtentKind::Flat, flat),
        (260, 33, Access::ReadWrite, ExtentKind::Zero, None),
        (293, 60, Access::ReadOnly, ExtentKind::Flat, flat),
        (353, 17, Access::NoAccess, ExtentKind::Flat, None),
        (370, 20, Access::ReadWrite, ExtentKind::Flat, flat),
    ];
    assert_eq!(extents, expected);
    assert_eq!(image.chain()[0].extents()[0].header().map(SparseHeader::capacity), Some(197));
    assert!(content(&image) == disk.content);
}

#[test]
fn a_flat_file_that_ends_within_a_sector_is_filled_up_with_zeros() {
    let flat = [sectors(&[1, 2]), vec![3; 100]].concat();
    let files = [("disk", text("monolithicFlat", &["RW 5 FLAT \"flat\" 0"])), ("flat", flat.clone())];
    let image = open_files("disk", &files).unwrap();
    let mut expected = flat;
    expected.resize(5 * SECTOR, 0);
    assert!(content(&image) == expected);
    // Sector by sector, and in slices that are no sectors.
    let mut sector = [0xee; SECTOR];
    image.read_sectors(2, &mut sector).unwrap();
    assert_eq!((sector[99], sector[100]), (3, 0));
    let (mut head, mut tail) = (vec![0xee; 1100], vec![0xee; 5 * SECTOR - 1100]);
    let mut slices = [&mut head, &mut tail].map(|slice| std::io::IoSliceMut::new(slice));
    image.read_sectors_vectored(0, &mut slices).unwrap();
    assert!([head, tail].concat() == expected);
    assert_eq!(image.block_status(3, 9).unwrap(), (BlockStatus::Zero, 2));
}

#[test]
fn an_offset_past_the_end_of_its_file_is_an_error_that_names_line_and_file() {
    let files = [("disk", text("custom", &["RW 1 ZERO", "RW 1 FLAT \"flat\" 3"])), ("flat", sectors(&[1, 2]))];
    let error = open_files("disk", &files).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(
        error.to_string(),
        "disk: descriptor line 11: the offset lies past the end of flat (1024 bytes): \"3\"",
        "{error}"
    );
}

#[test]
fn qemu_knows_few_create_types_in_one_spelling_and_here_any_or_none_opens_by_the_types_of_the_extents() {
    let rows = [
        ("monolithicFlat", "monolithicFlat", CreateType::MonolithicFlat),
        ("MONOLITHICFLAT", "monolithicFlat", CreateType::MonolithicFlat),
        ("monolithicSparse", "monolithicSparse", CreateType::MonolithicSparse),
        ("streamOptimized", "streamOptimized", CreateType::StreamOptimized),
        ("twoGbMaxExtentSparse", "twoGbMaxExtentSparse", CreateType::TwoGbMaxExtentSparse),
        ("2GbMaxExtentSparse", "twoGbMaxExtentSparse", CreateType::TwoGbMaxExtentSparse),
        ("twoGbMaxExtentFlat", "twoGbMaxExtentFlat", CreateType::TwoGbMaxExtentFlat),
        ("2GbMaxExtentFlat", "twoGbMaxExtentFlat", CreateType::TwoGbMaxExtentFlat),
        ("custom", "custom", CreateType::Custom),
        ("vmfs", "vmfs", CreateType::Vmfs),
        ("vmfsThin", "vmfsThin", CreateType::Vmfs),
        ("vmfsThick", "vmfsThick", CreateType::Vmfs),
        ("vmfsPreallocated", "vmfsPreallocated", CreateType::Vmfs),
        ("vmfsEagerZeroedThick", "vmfsEagerZeroedThick", CreateType::Vmfs),
        ("fromTheFuture", "fromTheFuture", CreateType::Other("fromTheFuture".to_owned())),
        ("", "", CreateType::Other(String::new())),
    ];
    let lines = ["RW 1 FLAT \"flat\" 0", "RW 1 SPARSE \"sparse\""];
    let sparse = SparseImage::new(1).data(0, sectors(&[2])).build();
    let open =
        |text| open_files("disk", &[("disk", text), ("flat", sectors(&[1])), ("sparse", sparse.clone())]).unwrap();
    for (name, shown, canonical) in rows {
        let image = open(text(name, &lines));
        let found = image.create_type().unwrap();
        assert_eq!((found.as_str(), found.canonical()), (shown, canonical), "{name}");
        assert!(content(&image) == sectors(&[1, 2]), "{name}");
    }
    let without = String::from_utf8(text("custom", &lines)).unwrap().replace("createType", "x");
    let image = open(without.into_bytes());
    assert_eq!(image.create_type(), None);
    assert!(content(&image) == sectors(&[1, 2]));
    assert_eq!(image.chain()[0].warnings(), ["createType is missing"]);
}

// ---- Embedded descriptors -------------------------------------------------------------------------------------------

/// A file of two grains whose descriptor has these lines.
fn embedded(lines: &[&str]) -> SparseImage {
    SparseImage::new(256).data(1, vec![5; 700]).descriptor(text("monolithicSparse", lines))
}

#[test]
fn the_sole_sparse_extent_of_a_file_with_its_own_descriptor_is_that_file_whatever_its_name() {
    for name in ["disk.vmdk", "old name.vmdk", "", "/gone/old.vmdk", "../old.vmdk", "C:\\old.vmdk"] {
        let file = embedded(&[&format!("RW 256 SPARSE \"{name}\"")]);
        let image = open(file.build()).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert!(content(&image) == file.layer().content(), "{name:?}");
        assert_eq!(image.host_files().len(), 1, "{name:?}");
    }
}

/// `mkimg` of FreeBSD writes no name, a descriptor of one sector, and tables right behind it.
#[test]
fn a_descriptor_of_one_sector_with_an_empty_name_is_read() {
    let text = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\
        # Extent description\nRW 256 SPARSE \"\"\n# The Disk Data Base\n#DDB\nddb.adapterType = \"ide\"\n";
    let file = SparseImage::new(256).descriptor(text).descriptor_region(1, 1).data(0, vec![5; 700]);
    let image = open(file.build()).unwrap();
    assert!(content(&image) == file.layer().content());
    assert_eq!(image.content_id().map(vmdk::ContentId::value), Some(0x1234_5678));
}

#[test]
fn qemu_opens_no_sparse_extent_without_a_descriptor_and_here_its_header_has_the_capacity() {
    let bare = SparseImage::new(300).data(2, vec![5; 700]);
    let reserved = bare.clone().descriptor("");
    for (what, file) in [("no descriptor", bare), ("an empty region, as in the extents of QEMU", reserved)] {
        let image = open(file.build()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(content(&image) == file.layer().content(), "{what}");
        assert_eq!(image.create_type(), None, "{what}");
        assert_eq!(image.content_id(), None, "{what}");
        assert_eq!(image.descriptor().as_bytes(), b"", "{what}");
        assert_eq!(image.chain()[0].warnings(), [""; 0], "{what}");
    }
}

#[test]
fn a_descriptor_without_extents_leaves_the_size_to_the_header_with_a_warning() {
    let file = embedded(&[]);
    let image = open(file.build()).unwrap();
    assert!(content(&image) == file.layer().content());
    assert_eq!(image.chain()[0].warnings(), ["the descriptor names no extent; the header's capacity counts"]);
}

#[test]
fn a_container_of_capacity_0_holds_the_descriptor_of_other_files() {
    let lines = ["RW 2 FLAT \"flat\" 1", "RW 3 SPARSE \"sparse\"", "RW 1 ZERO"];
    let container = SparseImage::new(128).descriptor(text("custom", &lines)).patch_u64(field::CAPACITY, 0);
    let sparse = SparseImage::new(3).grain_sectors(1).data(1, sectors(&[9])).build();
    let files = [("disk", container.build()), ("flat", sectors(&[1, 2, 3])), ("sparse", sparse)];
    let image = open_files("disk", &files).unwrap();
    assert!(content(&image) == sectors(&[2, 3, 0, 9, 0, 0]));
    assert_eq!(image.host_files().len(), 3);
}

/// QEMU and dissect take the header's capacity, libvmdk the line's.
#[test]
fn qemu_ignores_the_size_in_the_line_of_a_sparse_extent_and_here_it_may_be_smaller_and_not_larger() {
    let smaller = embedded(&["RW 200 SPARSE \"disk.vmdk\""]);
    let image = open(smaller.build()).unwrap();
    assert!(content(&image) == smaller.layer().content()[..200 * SECTOR]);
    let own = refused(embedded(&["RW 257 SPARSE \"disk.vmdk\""]).build());
    let files = [
        ("disk", text("twoGbMaxExtentSparse", &["RW 301 SPARSE \"disk-s001\""])),
        ("disk-s001", SparseImage::new(300).build()),
    ];
    let other = open_files("disk", &files).unwrap_err();
    for (error, file, capacity, line) in [(own, "disk.vmdk", 256, 257), (other, "disk-s001", 300, 301)] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let expected = format!(
            "{file}: KDMV header: capacity at offset 0xc is {capacity:#x}: \
             the descriptor gives this extent {line} sectors, which is more"
        );
        assert_eq!(error.to_string(), expected);
    }
}

// ---- Headers and grains ---------------------------------------------------------------------------------------------

#[test]
fn flags_and_not_the_version_say_how_an_extent_is_read() {
    let base = || SparseImage::new(300).data(1, vec![5; 700]).data(2, vec![6; 30]);
    let rows = [
        ("version 1", base()),
        ("version 2 with zero grains", base().with_zero_grains()),
        ("version 2 without", base().version(2)),
        ("version 1 with zero grains", base().flags(7)),
        ("version 3 of a change-tracked disk", base().version(3)),
        ("version 3 with zero grains", base().version(3).flags(7)),
        ("reserved flags that a reader may ignore", base().flags(0xfffb)),
        ("no flags, and newline bytes that nobody checks", base().flags(0).patch(field::NEWLINES, [0; 4])),
        ("no redundant tables, and a place for them that means nothing", {
            base().without_redundant_tables().patch_u64(field::RGD_OFFSET, u64::MAX)
        }),
        ("bytes behind the header", base().patch(79, vec![0xff; 433])),
    ];
    for (what, file) in rows {
        let image = open(file.build()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(content(&image) == file.layer().content(), "{what}");
    }
}

#[test]
fn every_size_of_grain_and_table_is_read() {
    let mut rng = Rng::new(3);
    for grain in [1, 2, 8, 16, 64, 128, 256, 2048] {
        for entries in [128, 512, 4096] {
            let capacity = grain * 140 + 1;
            let file = SparseImage::new(capacity).grain_sectors(grain).entries_per_table(entries);
            let file = [0, 139, 127, 128, 140].iter().fold(file, |file, &number| file.data(number, rng.bytes(SECTOR)));
            let image = open(file.build()).unwrap_or_else(|error| panic!("{grain}, {entries}: {error}"));
            assert!(content(&image) == file.layer().content(), "grains of {grain}, tables of {entries}");
            assert_eq!(image.limits().optimal_io_sectors, grain);
        }
    }
}

/// Without the flag, QEMU takes an entry of 1 for sector 1: the descriptor's text is disk content then.
#[test]
fn qemu_shows_the_descriptor_for_an_entry_of_1_without_its_flag_and_here_it_is_a_zero_grain() {
    for flags in [3, 7] {
        let file = embedded(&["RW 256 SPARSE \"disk.vmdk\""]).flags(flags).zero(0);
        let image = open(file.build()).unwrap();
        assert!(content(&image) == file.layer().content(), "flags {flags}");
        assert!(matches!(image.map(0, 256).unwrap().mapping, Mapping::Zero), "flags {flags}");
        assert_eq!(image.block_status(0, 256).unwrap(), (BlockStatus::Zero, 128), "flags {flags}");
    }
}

#[test]
fn qemu_reads_zeros_for_a_grain_past_the_end_and_here_it_is_corrupt_unless_there_was_a_crash() {
    let file = SparseImage::new(256).data(1, vec![5; 700]);
    let (entry, past) = (file.layout().entry(0), u32::try_from(file.layout().end).unwrap());
    for (unclean, closed) in [(0, true), (1, false), (0xff, false)] {
        let image = open(file.clone().unclean(unclean).patch_u32(entry, past).build()).unwrap();
        let mut sector = [0xee; SECTOR];
        match image.read_sectors(0, &mut sector) {
            Ok(()) => assert_eq!((closed, sector), (false, [0; SECTOR]), "unclean {unclean}"),
            Err(error) => assert_eq!((closed, error.kind()), (true, ErrorKind::Corrupt), "unclean {unclean}"),
        }
        image.read_sectors(128, &mut sector).unwrap();
        assert_eq!(sector, [5; SECTOR]);
    }
}

#[test]
fn what_the_file_lacks_of_its_last_grain_is_zero() {
    let whole = SparseImage::new(256).data(0, vec![1; 65536]).data(1, vec![5; 65536]);
    for cut in [1, 511, 512, 513, 65024, 65535] {
        let mut bytes = whole.build();
        bytes.truncate(bytes.len() - cut);
        let mut expected = whole.layer().content();
        expected[2 * 65536 - cut..].fill(0);
        assert!(content(&open(bytes).unwrap()) == expected, "{cut} bytes cut off");
    }
}

#[test]
fn a_table_that_does_not_exist_is_a_stretch_of_unallocated_grains() {
    let file = SparseImage::new(8 * 512 * 3).grain_sectors(8).omit_empty_tables().data(1024, vec![5; 4096]);
    let image = open(file.build()).unwrap();
    assert!(content(&image) == file.layer().content());
    assert_eq!(image.block_status(0, u64::MAX).unwrap(), (BlockStatus::Hole, 8 * 1024));
    assert!(matches!(image.map(5, 1).unwrap().mapping, Mapping::Unallocated));
}

#[test]
fn junk_in_the_last_table_past_the_capacity_is_not_looked_at() {
    let file = SparseImage::new(300).data(2, vec![5; 700]);
    let junk = file.layout().entry(2) + 4;
    let file = file.patch(junk, vec![0xff; 4 * 509]);
    assert!(content(&open(file.build()).unwrap()) == file.layer().content());
}

// ---- What an image says of itself -----------------------------------------------------------------------------------

#[test]
fn an_image_answers_for_itself_and_its_chain() {
    let extent = SparseImage::new(20480).data(0, vec![1; 512]).data(100, vec![2; 512]);
    let with_id = |text: DescriptorText| text.ddb("uuid", "60 00 C2 9e 32 c9 d7 63-c9 0a 44 b0 00 89 79 6e");
    let base = Image::embedded("base.vmdk", extent, None, with_id);
    let child = Image::embedded("child.vmdk", SparseImage::new(20480), Some(&base), |_| {
        DescriptorText::new("monolithicSparse", 0xc0ff_ee00)
            .parent(base.cid, "base.vmdk")
            .extent("RW 20480 SPARSE \"child.vmdk\"")
            .ddb("longContentID", "00112233445566778899aabbc0ffee00")
    });
    let disk = Disk::new(vec![base, child]);
    let image = VmdkImage::open(&disk.path).unwrap();

    assert_eq!(image.capacity_sectors(), 20480);
    assert_eq!(image.create_type(), Some(&CreateType::MonolithicSparse));
    assert_eq!(image.content_id().map(vmdk::ContentId::value), Some(0xc0ff_ee00));
    assert_eq!(image.parent_content_id().map(vmdk::ContentId::value), Some(disk.links[0].cid));
    assert_eq!(image.descriptor().parent_hint(), Some(&b"base.vmdk"[..]));
    assert_eq!(image.descriptor().long_content_id(), Some(0x0011_2233_4455_6677_8899_aabb_c0ff_ee00));
    assert!(image.limits().read_only);

    // The child's database has nothing of this.
    assert_eq!(image.geometry(), Some(Geometry::new(20, 16, 63)));
    assert_eq!(image.adapter_type(), Some(AdapterType::Ide));
    let id = [0x60, 0, 0xc2, 0x9e, 0x32, 0xc9, 0xd7, 0x63, 0xc9, 0x0a, 0x44, 0xb0, 0, 0x89, 0x79, 0x6e];
    assert_eq!(image.disk_id(), Some(id));

    let root = disk.dir().canonicalize().unwrap();
    let paths: Vec<_> = image.host_files().iter().map(|file| file.path().to_owned()).collect();
    assert_eq!(paths, [root.join("child.vmdk"), root.join("base.vmdk")]);
    let chain: Vec<_> = image.chain().iter().map(|link| (link.path().to_owned(), link.capacity_sectors())).collect();
    assert_eq!(chain, [(root.join("child.vmdk"), 20480), (root.join("base.vmdk"), 20480)]);
    let header = image.chain()[0].header().and_then(SparseHeader::as_kdmv).unwrap();
    assert!(header.has_redundant_tables() && !header.has_zero_grains() && !header.is_compressed());
    assert_eq!(image.chain()[1].parent_content_id(), None);
    assert_eq!(image.chain().iter().flat_map(|link| link.warnings()).count(), 0);
}

#[test]
fn the_allocated_size_leaves_out_holes_and_counts_every_file_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    std::fs::write(&path, text("custom", &["RW 8192 FLAT \"flat\" 0", "RW 8192 FLAT \"flat\" 8192"])).unwrap();
    let flat = std::fs::File::create(dir.path().join("flat")).unwrap();
    flat.set_len(16384 * 512).unwrap();
    let image = VmdkImage::open(&path).unwrap();
    assert_eq!(image.host_files().len(), 2);
    let allocated = image.allocated_bytes().unwrap();
    assert!(allocated < 1 << 20, "{allocated} bytes for a file of one hole");
    assert_eq!(image.host_files()[1].len(), 16384 * 512);
}

// ---- Files that the caller supplies ---------------------------------------------------------------------------------

#[test]
fn a_closure_resolves_names_as_a_map_does_and_is_asked_for_nothing_else() {
    let flat: Arc<dyn Storage> = Arc::new(MemoryStorage::new(sectors(&[4])));
    let disk: Arc<dyn Storage> = Arc::new(MemoryStorage::new(text("custom", &["RW 1 FLAT \"/dev/sda\" 0"])));
    let asked = std::sync::Mutex::new(Vec::new());
    let resolver = |name: &str| {
        asked.lock().unwrap().push(name.to_owned());
        match name {
            "the disk" => Some(Arc::clone(&disk)),
            "/dev/sda" => Some(Arc::clone(&flat)),
            _ => None,
        }
    };
    let image = OpenOptions::new().open_with("the disk", &resolver).unwrap();
    assert!(content(&image) == sectors(&[4]));
    assert_eq!(*asked.lock().unwrap(), ["the disk", "/dev/sda"]);
    assert_eq!(image.chain()[0].path().to_str(), Some("the disk"));
}

#[test]
fn a_name_that_the_resolver_does_not_know_is_not_found_and_named() {
    let files = [("disk", text("custom", &["RW 1 FLAT \"flat\" 0"]))];
    for (name, missing) in [("disk", "flat"), ("other", "other")] {
        let error = open_files(name, &files).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), format!("{missing}: the resolver does not know the name"));
    }
}

// ---- What does not open ---------------------------------------------------------------------------------------------

#[test]
fn a_kind_that_is_not_supported_yet_is_named() {
    let create_types =
        ["vsanSparse", "vmfsRDM", "vmfsRawDeviceMap", "vmfsRDMP", "vmfsPassthroughRawDeviceMap", "vmfsRaw"];
    // The files are not even looked for.
    let texts = create_types.map(|name| (text(name, &["RW 1 FLAT \"nowhere\" 0"]), name));
    let extent_types = ["VMFSRDM", "VMFSRAW"];
    let lines = extent_types.map(|name| (text("custom", &[&format!("RW 1 {name} \"nowhere\"")]), name));
    let files = [
        ([vec![0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0], vec![0; 504]].concat(), "seSparse header: version"),
        (SparseImage::new(128).version(4).build(), "version"),
        (SparseImage::new(128).flags(3 | 1 << 18).build(), "flags"),
        (SparseImage::new(128).flags(0x30003).patch(field::COMPRESSION, [2, 0]).build(), "compressAlgorithm"),
    ];
    for (bytes, name) in texts.into_iter().chain(lines).chain(files) {
        let error = refused(bytes.clone());
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
        assert!(error.to_string().contains(name), "{name}: {error}");
        assert!(error.to_string().starts_with("disk.vmdk: "), "{name}: {error}");
        // The same file as an extent of another.
        if !bytes.starts_with(b"#") {
            let files = [("disk", text("custom", &["RW 1 SPARSE \"extent\""])), ("extent", bytes)];
            let error = open_files("disk", &files).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}: {error}");
            assert!(error.to_string().starts_with("extent: "), "{name}: {error}");
        }
    }
}

#[test]
fn a_file_that_is_no_image_is_told_apart_from_one_that_is_broken() {
    let unfinished = SparseImage::new(128).patch(field::MAGIC, *b"kdmv").build();
    let mut rng = Rng::new(8);
    let rows: [(&str, Vec<u8>, ErrorKind, &str); 12] = [
        ("unfinished", unfinished.clone(), ErrorKind::Incomplete, "unfinished"),
        ("the start of an unfinished one", unfinished[..100].to_vec(), ErrorKind::Incomplete, "unfinished"),
        ("change tracking", b"\xa2\x72\x19\xf6\x01\0\0\0".to_vec(), ErrorKind::NotVmdk, "change tracking"),
        ("empty", Vec::new(), ErrorKind::NotVmdk, "neither"),
        ("one byte", b"K".to_vec(), ErrorKind::NotVmdk, "neither"),
        ("zeros", vec![0; 4096], ErrorKind::NotVmdk, "neither"),
        ("random", [vec![0x80], rng.bytes(4095)].concat(), ErrorKind::NotVmdk, "neither"),
        ("another text", b"#!/bin/sh\nexit\n".to_vec(), ErrorKind::NotVmdk, "neither"),
        ("a boot sector", [b"\xeb\x3c\x90MSDOS5.0".to_vec(), vec![0; 501]].concat(), ErrorKind::NotVmdk, "neither"),
        ("a magic and no more", b"KDMV".to_vec(), ErrorKind::Corrupt, "ends within the header"),
        ("a text without extents", text("custom", &[]), ErrorKind::Corrupt, "names no extent"),
        ("a text cut within a line", b"# Disk DescriptorFile\nRW 12".to_vec(), ErrorKind::Corrupt, "line 2"),
    ];
    for (what, bytes, kind, part) in rows {
        let error = refused(bytes);
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(error.to_string().contains(part), "{what}: {error}");
        assert!(error.to_string().starts_with("disk.vmdk: "), "{what}: {error}");
    }
}

#[test]
fn a_directory_and_a_file_that_is_missing_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let directory = VmdkImage::open(dir.path()).unwrap_err();
    assert_eq!(directory.kind(), ErrorKind::Unsupported);
    assert!(directory.to_string().contains("a directory"), "{directory}");
    let missing = VmdkImage::open(dir.path().join("missing.vmdk")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("missing.vmdk"), "{missing}");
}

#[test]
fn qemu_cuts_a_descriptor_at_1_mib_and_here_a_longer_one_is_an_error() {
    let start = text("custom", &["RW 3 ZERO"]);
    let padded = |len: usize| [start.clone(), vec![b'\n'; 4000], vec![b' '; len - start.len() - 4000]].concat();
    assert_eq!(open(padded(1 << 20)).unwrap().capacity_sectors(), 3);
    for len in [(1 << 20) + 1, 10 << 20] {
        let error = refused(padded(len));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&len.to_string()), "{error}");
    }
}

/// Old tools and people put comments first.
#[test]
fn a_descriptor_is_recognised_behind_a_long_comment() {
    let comment = "# made for the archive, do not move\n".repeat(40);
    let lines = "version=1\nCID=1\nparentCID=ffffffff\nRW 3 ZERO\n";
    assert_eq!(open([comment.as_bytes(), lines.as_bytes()].concat()).unwrap().capacity_sectors(), 3);
}
