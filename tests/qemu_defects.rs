//! What QEMU 10.0.2 gets wrong when it opens and reads, one test for each defect, and what is right here instead.
//!
//! Where another file tests the same thing more broadly, the test is there, under a name that begins with `qemu_` too.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use vmdk::{BlockDevice, CreateType, Error, ErrorKind, MemoryStorage, OpenOptions, Storage, VmdkImage};

use support::cowd::{self, CowdImage};
use support::descriptor::DescriptorText;
use support::disk::Image;
use support::sparse::{SparseImage, field};
use support::storage::FaultStorage;
use support::{SECTOR, index};

type Files<'a> = &'a [(&'a str, Vec<u8>)];

/// Opens `name`, one of files in memory.
fn open_files(name: &str, files: Files<'_>) -> vmdk::Result<VmdkImage> {
    let storage = |bytes: &Vec<u8>| Arc::new(MemoryStorage::new(bytes.clone())) as Arc<dyn Storage>;
    let files: HashMap<String, _> = files.iter().map(|(name, bytes)| ((*name).to_owned(), storage(bytes))).collect();
    OpenOptions::new().open_with(name, &files)
}

fn open(bytes: impl Into<Vec<u8>>) -> vmdk::Result<VmdkImage> {
    open_files("disk", &[("disk", bytes.into())])
}

/// Opens a descriptor beside a flat file of the sectors 1, 2, 3.
fn open_text(text: impl Into<Vec<u8>>) -> vmdk::Result<VmdkImage> {
    open_files("disk", &[("disk", text.into()), ("flat", sectors(&[1, 2, 3]))])
}

/// The error of what must not open.
#[track_caller]
fn refused(result: vmdk::Result<VmdkImage>, what: impl std::fmt::Display) -> Error {
    result.err().unwrap_or_else(|| panic!("it opens: {what}"))
}

/// Checks that a header is refused for one of its fields.
#[track_caller]
fn refused_for(field: &str, kind: ErrorKind, file: Vec<u8>, what: impl std::fmt::Display) {
    let error = refused(open(file), &what);
    assert_eq!(error.kind(), kind, "{what}: {error}");
    assert!(error.to_string().contains(&format!("header: {field} at offset")), "{what}: {error}");
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

fn text(lines: &[&str]) -> String {
    lines.iter().fold(DescriptorText::new("custom", 7), |text, line| text.extent(*line)).to_string()
}

fn warnings(image: &VmdkImage) -> String {
    image.chain()[0].warnings().join("; ")
}

/// A descriptor of the first sector of the flat file, with these lines above.
fn header(lines: &str) -> String {
    format!("# Disk DescriptorFile\nversion=1\n{lines}\ncreateType=\"custom\"\nRW 1 FLAT \"flat\" 0\n")
}

// ---- Tables that cannot be read ------------------------------------------------------------------------------------

#[test]
fn qemu_reads_the_parent_when_a_grain_table_cannot_be_read_and_this_does_not() {
    let base = Image::monolithic_sparse("base", SparseImage::new(256).data(0, sectors(&[1])));
    let extent = SparseImage::new(256).data(0, sectors(&[2]));
    let child = Image::child(&base, "child", extent.clone());
    let table = extent.descriptor("").layout().entry(0);
    let host = |image: &Image| FaultStorage::new(Arc::new(MemoryStorage::new(image.files[0].1.clone())));
    let (below, above) = (host(&base), host(&child));
    let resolver = |name: &str| match name {
        "base" => Some(Arc::clone(&below) as Arc<dyn Storage>),
        "child" => Some(Arc::clone(&above) as Arc<dyn Storage>),
        _ => None,
    };
    let image = OpenOptions::new().open_with("child", &resolver).unwrap();
    above.fail_reads_of(table..table + 1);
    let mut sector = [0xee; SECTOR];
    assert_eq!(image.read_sectors(0, &mut sector).unwrap_err().kind(), ErrorKind::Io);
    above.heal();
    image.read_sectors(0, &mut sector).unwrap();
    assert_eq!(sector, [2; SECTOR]);
}

#[test]
fn qemu_reads_zeros_past_a_cowd_directory_that_is_too_short_and_here_it_is_refused() {
    let extent = CowdImage::esx(4096 * 3).data(4096 * 2, sectors(&[5]));
    for tables in [0, 1, 2] {
        let file = extent.clone().patch_u32(cowd::field::NUM_GD_ENTRIES, tables).build();
        refused_for("numGDEntries", ErrorKind::Corrupt, file, tables);
    }
    assert!(content(&open(extent.build()).unwrap()) == extent.layer().content());
}

#[test]
fn qemu_reads_a_disk_as_empty_when_its_directory_is_nowhere_and_here_it_is_refused() {
    let extent = SparseImage::new(256).data(0, sectors(&[5]));
    let end = extent.layout().end;
    for sector in [0, end, end + 1000, 1 << 40] {
        refused_for("gdOffset", ErrorKind::Corrupt, extent.clone().patch_u64(field::GD_OFFSET, sector).build(), sector);
    }
    let extent = CowdImage::esx(10).data(0, sectors(&[5]));
    let end = u32::try_from(extent.layout().end).unwrap();
    for sector in [0, end, u32::MAX] {
        let file = extent.clone().patch_u32(cowd::field::GD_OFFSET, sector).build();
        refused_for("gdOffset", ErrorKind::Corrupt, file, sector);
    }
}

// ---- Numbers of a header -------------------------------------------------------------------------------------------

/// SIGFPE: 4096 times the second number is 0 in 32 bits.
#[test]
fn qemu_divides_by_zero_on_cowd_grains_of_0_or_too_many_sectors_and_here_they_are_refused() {
    for sectors in [0, 0x10_0000] {
        let file = CowdImage::esx(10).patch_u32(cowd::field::GRAIN_SIZE, sectors).build();
        refused_for("grainSize", ErrorKind::Corrupt, file, sectors);
    }
}

#[test]
fn qemu_never_looks_at_the_version_of_a_cowd_extent_and_here_an_unknown_one_is_refused() {
    for version in [0, 2, 4, u32::MAX] {
        let file = CowdImage::esx(10).patch_u32(cowd::field::VERSION, version).build();
        refused_for("version", ErrorKind::Unsupported, file, version);
    }
}

#[test]
fn qemu_opens_a_header_of_version_0_and_here_it_is_refused() {
    refused_for("version", ErrorKind::Corrupt, SparseImage::new(256).version(0).build(), 0);
}

/// A file whose line ends a transfer in text mode has changed is damaged from end to end.
#[test]
fn qemu_ignores_damaged_newline_bytes_and_here_they_are_an_error() {
    for bytes in [*b"\n \n\n", *b"\r\n \n", [0; 4]] {
        let file = SparseImage::new(256).patch(field::NEWLINES, bytes).build();
        refused_for("newline check", ErrorKind::Corrupt, file, bytes.escape_ascii());
    }
}

#[test]
fn qemu_ignores_flags_that_it_does_not_know_and_here_they_are_refused_or_a_warning() {
    for bit in 18..32 {
        refused_for("flags", ErrorKind::Unsupported, SparseImage::new(256).flags(3 | 1 << bit).build(), bit);
    }
    for bit in 3..16 {
        let image = open(SparseImage::new(256).flags(3 | 1 << bit).build()).unwrap();
        assert!(warnings(&image).contains("reserved flags"), "bit {bit}: {}", warnings(&image));
    }
}

#[test]
fn qemu_shows_grains_compressed_in_an_unknown_way_as_they_are_and_here_they_are_refused() {
    for algorithm in [0_u16, 2, u16::MAX] {
        let extent = SparseImage::new(256).flags(0x30001).data(0, sectors(&[5]));
        let file = extent.patch(field::COMPRESSION, algorithm.to_le_bytes()).build();
        refused_for("compressAlgorithm", ErrorKind::Unsupported, file, algorithm);
    }
}

#[test]
fn qemu_does_not_mind_that_an_extent_was_not_closed_and_here_there_is_a_warning() {
    let file = |unclean| SparseImage::new(256).data(0, sectors(&[5])).unclean(unclean);
    for (unclean, expected) in [(0, false), (1, true), (0xff, true)] {
        let image = open(file(unclean).build()).unwrap();
        assert_eq!(warnings(&image).contains("not closed cleanly"), expected, "{unclean}: {}", warnings(&image));
        assert!(content(&image) == file(unclean).layer().content());
    }
}

#[test]
fn qemu_opens_tables_of_any_few_entries_and_here_no_writer_makes_them() {
    for entries in [1, 3, 64, 127, 511] {
        let file = SparseImage::new(256).patch_u32(field::ENTRIES_PER_TABLE, entries).build();
        refused_for("numGTEsPerGT", ErrorKind::Corrupt, file, entries);
    }
}

#[test]
fn qemu_refuses_tables_of_more_than_512_entries_and_here_they_are_read() {
    for entries in [1024, 4096] {
        let extent = SparseImage::new(8 * 5000).grain_sectors(8).entries_per_table(entries);
        let extent = [0, 512, 1023, 1024, 4999].iter().fold(extent, |extent, &grain| extent.data(grain, sectors(&[5])));
        assert!(content(&open(extent.build()).unwrap()) == extent.layer().content(), "{entries} entries");
    }
}

#[test]
fn qemu_opens_grains_that_are_no_power_of_two_and_here_they_are_refused() {
    for grain in [3, 127, 129] {
        let file = SparseImage::new(256).patch_u64(field::GRAIN_SIZE, grain).build();
        refused_for("grainSize", ErrorKind::Corrupt, file, grain);
    }
}

#[test]
fn qemu_opens_disks_that_are_larger_than_any_file_and_here_they_are_refused() {
    for capacity in [1 << 54, (1 << 54) + 1, 1 << 63, u64::MAX] {
        let file = SparseImage::new(256).patch_u64(field::CAPACITY, capacity).build();
        refused_for("capacity", ErrorKind::Corrupt, file, capacity);
    }
}

/// The header fields of its own test for fuzzed images, before they were bounded.
#[test]
fn qemu_once_took_the_numbers_of_a_header_without_bounds_and_here_they_are_refused() {
    let all_ones = |field| SparseImage::new(256).patch_u64(field, u64::MAX).build();
    refused_for("grainSize", ErrorKind::Corrupt, all_ones(field::GRAIN_SIZE), "grains");
    let tables = SparseImage::new(256).patch_u32(field::ENTRIES_PER_TABLE, u32::MAX);
    refused_for("numGTEsPerGT", ErrorKind::Corrupt, tables.build(), "tables");
    let directory = SparseImage::new(256).patch_u64(field::CAPACITY, u32::MAX.into());
    refused_for("gdOffset", ErrorKind::Corrupt, directory.build(), "a directory past the end");
    let directory = SparseImage::new(256).patch_u64(field::CAPACITY, 1 << 42);
    refused_for("capacity", ErrorKind::Corrupt, directory.build(), "a directory of more than 32 Mi entries");
}

// ---- Recognition and keys of a descriptor --------------------------------------------------------------------------

/// It opens these as raw disks, on which a guest then sees the text.
#[test]
fn qemu_takes_a_descriptor_that_begins_oddly_for_a_raw_disk_and_here_it_is_a_descriptor() {
    let plain = header("CID=7\nparentCID=ffffffff");
    let rows = [
        ("a byte-order mark", format!("\u{feff}{plain}")),
        ("an empty line", format!("\n{plain}")),
        ("version 4", plain.replace("version=1", "version=4")),
        ("version not first", plain.replace("version=1\nCID=7", "CID=7\nversion=1")),
        ("no version", plain.replace("version=1\n", "")),
        ("blanks in the version", plain.replace("version=1", "version = 1")),
    ];
    for (what, text) in rows {
        let image = open_text(text).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(content(&image) == sectors(&[1]), "{what}");
    }
}

#[test]
fn qemu_misreads_a_create_type_without_quotes_or_with_blanks_and_here_it_is_read() {
    let plain = header("CID=7\nparentCID=ffffffff");
    for written in ["createType=vmfs", "createType = \"vmfs\"", "createType =vmfs ", "CREATETYPE=\"vmfs\""] {
        let image = open_text(plain.replace("createType=\"custom\"", written)).unwrap();
        assert_eq!(image.create_type(), Some(&CreateType::Vmfs), "{written}");
        assert!(content(&image) == sectors(&[1]), "{written}");
    }
}

/// The text says vsanSparse, which no file of this kind can be.
#[test]
fn qemu_never_looks_at_the_type_in_an_embedded_descriptor_and_here_it_counts() {
    let embedded = |create_type: &str| {
        let text = DescriptorText::new(create_type, 7).extent("RW 256 SPARSE \"disk\"").to_string();
        SparseImage::new(256).descriptor(text).build()
    };
    let error = refused(open(embedded("vsanSparse")), "vsanSparse");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("vsanSparse"), "{error}");
    open(embedded("monolithicSparse")).unwrap();
}

#[test]
fn qemu_has_no_room_for_long_names_and_here_they_are_read() {
    let name = "n".repeat(600);
    let create_type = "t".repeat(200);
    let text = DescriptorText::new(&create_type, 7).extent(format!("RW 1 FLAT \"{name}\" 0")).to_string();
    let image = open_files("disk", &[("disk", text.into_bytes()), (&name, sectors(&[9]))]).unwrap();
    assert_eq!(image.create_type().map(CreateType::as_str), Some(create_type.as_str()));
    assert!(content(&image) == sectors(&[9]));
}

// ---- Content IDs and hints -----------------------------------------------------------------------------------------

#[test]
fn qemu_refuses_blanks_round_a_content_id_and_here_they_are_read() {
    let image = open_text(header("CID = 0172e8a4\nparentCID =ffffffff")).unwrap();
    assert_eq!(image.content_id().map(vmdk::ContentId::value), Some(0x0172_e8a4));
    assert!(content(&image) == sectors(&[1]));
}

#[test]
fn qemu_refuses_a_descriptor_without_a_parent_content_id_and_here_it_is_a_base() {
    let image = open_text(header("CID=7")).unwrap();
    assert!(content(&image) == sectors(&[1]));
    assert!(warnings(&image).contains("parentCID is missing"), "{}", warnings(&image));
}

/// Here the child was made over another disk: what looks like the ID of its parent is the ID of the grandparent.
#[test]
fn qemu_takes_the_parent_content_id_for_a_missing_one_and_here_it_is_missing() {
    let child = header("CID=7\nparentCID=5\nparentFileNameHint=\"parent\"");
    let base = header("CID=5\nparentCID=ffffffff");
    let parent = |ids: &str| header(&format!("{ids}\nparentFileNameHint=\"base\""));
    let open = |parent: String| {
        let files = [("disk", child.clone()), ("parent", parent), ("base", base.clone()), ("flat", String::new())];
        open_files("disk", &files.map(|(name, text)| (name, text.into_bytes())))
    };
    let error = refused(open(parent("parentCID=5")), "a parent without a content ID");
    assert_eq!(error.kind(), ErrorKind::ContentIdMismatch);
    assert!(error.to_string().contains("its CID is missing"), "{error}");
    assert_eq!(open(parent("CID=5\nparentCID=5")).unwrap().chain().len(), 3);
}

#[test]
fn qemu_takes_a_base_with_a_hint_for_a_child_and_here_the_parent_content_id_decides() {
    let image = open_text(header("CID=7\nparentCID=ffffffff\nparentFileNameHint=\"nowhere\"")).unwrap();
    assert_eq!(image.chain().len(), 1);
    assert!(content(&image) == sectors(&[1]));
}

/// A child over a base whose first sector is 6, with a text in which `change` may change the hint.
fn child_of_6(change: impl Fn(String) -> String) -> vmdk::Result<VmdkImage> {
    let base = |byte| Image::monolithic_sparse("base", SparseImage::new(256).data(0, sectors(&[byte])));
    let text = DescriptorText::new("monolithicSparse", 7).parent(base(6).cid, "base").extent("RW 256 SPARSE \"disk\"");
    let child = SparseImage::new(256).descriptor(change(text.to_string())).descriptor_region(1, 40).build();
    let decoy = base(9).files[0].1.clone();
    open_files("disk", &[("disk", child), ("base", base(6).files[0].1.clone()), ("decoy", decoy)])
}

#[test]
fn qemu_looks_for_a_hint_in_the_first_10_kib_of_a_descriptor_and_here_it_is_found_beyond() {
    let image = child_of_6(|text| {
        let comment = "# a comment\n".repeat(1000);
        let text = text.replace("parentFileNameHint", &format!("{comment}parentFileNameHint"));
        assert!(text.find("parentFileNameHint").unwrap() > 10240);
        text
    });
    assert_eq!(content(&image.unwrap())[..SECTOR], [6; SECTOR]);
}

#[test]
fn qemu_finds_a_hint_in_a_comment_and_here_only_where_it_is_a_key() {
    for line in [
        "# parentFileNameHint=\"decoy\"",
        "ddb.comment = \"parentFileNameHint=\"decoy",
        "xparentFileNameHint=\"decoy\"",
    ] {
        let image = child_of_6(|text| text.replacen("CID=", &format!("{line}\nCID="), 1)).unwrap();
        assert_eq!(image.chain()[1].path().to_str(), Some("base"), "{line}");
        assert_eq!(content(&image)[..SECTOR], [6; SECTOR], "{line}");
    }
}

// ---- Extent lines --------------------------------------------------------------------------------------------------

#[test]
fn qemu_drops_extents_of_types_that_it_does_not_know_and_here_they_are_refused_by_name() {
    for kind in ["VMFSRDM", "VMFSRAW", "FLOT"] {
        let error = refused(open_text(text(&[&format!("RW 1 {kind} \"flat\""), "RW 1 FLAT \"flat\" 0"])), kind);
        assert!(error.to_string().contains(kind), "{error}");
    }
}

#[test]
fn qemu_insists_on_the_offset_of_a_line_by_its_type_and_here_it_counts_where_it_stands() {
    let rows: [(&str, &[u8]); 4] = [
        ("RW 2 FLAT \"flat\"", &[1, 2]),
        ("RW 2 VMFS \"flat\" 1", &[2, 3]),
        ("RW 2 FLAT \"flat\" 1 \"partition\" \"device\"", &[2, 3]),
        ("RW 2 SPARSE \"sparse\" 0", &[0, 9]),
    ];
    let sparse = SparseImage::new(2).grain_sectors(1).data(1, sectors(&[9])).build();
    for (line, expected) in rows {
        let disk = text(&[line]).into_bytes();
        let image = open_files("disk", &[("disk", disk), ("flat", sectors(&[1, 2, 3])), ("sparse", sparse.clone())]);
        assert!(content(&image.unwrap_or_else(|error| panic!("{line}: {error}"))) == sectors(expected), "{line}");
    }
}

#[test]
fn qemu_fills_up_a_flat_file_that_is_too_short_without_a_word_and_here_there_is_a_warning() {
    for (line, expected) in
        [("RW 3 FLAT \"flat\" 0", false), ("RW 4 FLAT \"flat\" 0", true), ("RW 5 VMFS \"flat\"", true)]
    {
        let image = open_text(text(&[line])).unwrap();
        assert_eq!(warnings(&image).contains("shorter than the extent"), expected, "{line}: {}", warnings(&image));
    }
}

/// Before 2012 the place in the extent was that in the disk: the end of one extent is still right, the next is not.
#[test]
fn qemu_once_looked_up_later_extents_by_the_sector_of_the_disk_and_here_each_begins_at_0() {
    let extent = |first: u8| {
        let extent = SparseImage::new(100).grain_sectors(1);
        (0..100).fold(extent, |extent, number| extent.data(number.into(), sectors(&[first + number])))
    };
    let image = Image::split_sparse("disk.vmdk", &[extent(1), extent(101)]);
    let files: Vec<_> = image.files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let disk = open_files("disk.vmdk", &files).unwrap();
    let mut found = vec![0xee; 12 * SECTOR];
    disk.read_sectors(94, &mut found).unwrap();
    assert!(found == sectors(&(95..=106).collect::<Vec<_>>()));
}

// ---- Waiting -------------------------------------------------------------------------------------------------------

/// Holds up the next read that touches a byte, once it is armed.
#[derive(Debug)]
struct HeldUp {
    inner: MemoryStorage,
    at: u64,
    armed: AtomicBool,
    reached: Barrier,
    released: Barrier,
}

impl Storage for HeldUp {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let touched = offset..offset + buf.len() as u64;
        if touched.contains(&self.at) && self.armed.swap(false, Ordering::AcqRel) {
            self.reached.wait();
            self.released.wait();
        }
        self.inner.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.inner.punch_hole(range)
    }
}

/// One lock is held over the whole of a request: whatever the depth of the queue, the host sees one read at a time.
#[test]
fn qemu_lets_every_read_wait_for_the_one_before_and_here_they_pass_each_other() {
    let (first, second) = (0, 130);
    let extent = SparseImage::new(8 * 256).grain_sectors(8).entries_per_table(128);
    let extent = extent.data(first, sectors(&[1])).data(second, sectors(&[2]));
    let layout = extent.layout();
    // In the table of the first grain, and in its data.
    for at in [layout.entry(first), layout.grains[&first] * SECTOR as u64] {
        let inner = MemoryStorage::new(extent.build());
        let (reached, released) = (Barrier::new(2), Barrier::new(2));
        let host = Arc::new(HeldUp { inner, at, armed: AtomicBool::new(false), reached, released });
        let resolver = |_: &str| Some(Arc::clone(&host) as Arc<dyn Storage>);
        let image = OpenOptions::new().open_with("disk", &resolver).unwrap();
        let read = |grain: u64| {
            let mut sector = [0xee; SECTOR];
            image.read_sectors(grain * 8, &mut sector).map(|()| sector[0])
        };
        host.armed.store(true, Ordering::Release);
        let (sender, passed) = mpsc::channel();
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| read(first));
            host.reached.wait();
            scope.spawn(move || sender.send(read(second)));
            let passed = passed.recv_timeout(Duration::from_secs(20));
            host.released.wait();
            assert_eq!(slow.join().unwrap().unwrap(), 1);
            assert_eq!(passed.expect("a read waits for another one").unwrap(), 2);
        });
    }
}
