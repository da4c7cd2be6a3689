//! A hostile image costs no more memory and time than its files could ever need.

#![allow(unsafe_code, reason = "a global allocator that counts is unsafe to write; it only forwards")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use vmdk::{
    BlockDevice, BlockStatus, ErrorKind, FileStorage, MemoryStorage, OpenOptions, RawTarget, Storage, VmdkImage,
};

use support::descriptor::DescriptorText;
use support::sparse::{SparseImage, field};
use support::storage::CountingStorage;
use support::{SECTOR, index};

// ---- Measures -------------------------------------------------------------------------------------------------------

/// Counts the bytes that this thread has, and the most it ever had.
struct Counting;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: usize, sign: i64) {
    let live = LIVE.get() + i64::try_from(bytes).unwrap_or(i64::MAX) * sign;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: u64 = 1 << 20;

/// What an image may take beyond the tables that its files really have.
const LIMIT: u64 = 64 * MIB;

/// The most memory that `work` had at once, on this thread, and what came of it.
fn peak<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = work();
    (u64::try_from(PEAK.get() - before).unwrap(), result)
}

/// More than a slow machine needs, and far less than what a loop that is not bounded takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Does `work` on a thread of its own and waits for the result, but not for ever.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{what}: {error} after {PATIENCE:?}"))
}

#[test]
fn the_measure_sees_the_most_that_was_there_at_once() {
    let (bytes, ()) = peak(|| {
        drop(std::hint::black_box(vec![1_u8; 1000]));
        drop(std::hint::black_box(vec![1_u8; 500]));
    });
    assert_eq!(bytes, 1000);
}

// ---- Images ---------------------------------------------------------------------------------------------------------

/// The largest directory there may be.
const MOST_TABLES: u64 = 32 << 20;

/// A sparse extent whose directory, of so many tables, is one hole. Grains are of one sector, so that many extents of
/// this size make no impossible disk.
fn hollow(tables: u64) -> (tempfile::NamedTempFile, u64) {
    let capacity = tables * 128;
    let header = SparseImage::new(128).grain_sectors(1).entries_per_table(128).without_redundant_tables();
    let header = header.patch_u64(field::CAPACITY, capacity).patch_u64(field::OVERHEAD, 0).build();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&header[..SECTOR]).unwrap();
    file.as_file().set_len(SECTOR as u64 + tables * 4).unwrap();
    (file, capacity)
}

/// A sparse extent in memory with a directory of so many tables that really exists; all of them are one table, in
/// which every entry is the same.
fn dense(tables: u64, entry: u32) -> (Arc<dyn Storage>, u64) {
    let capacity = tables * 128;
    let header = SparseImage::new(128).grain_sectors(1).entries_per_table(128).without_redundant_tables();
    let mut bytes = header.patch_u64(field::CAPACITY, capacity).patch_u64(field::OVERHEAD, 1).build();
    bytes.truncate(SECTOR);
    let table = 1 + (tables * 4).div_ceil(SECTOR as u64);
    bytes.extend((0..tables).flat_map(|_| u32::try_from(table).unwrap().to_le_bytes()));
    bytes.resize(index(table) * SECTOR, 0);
    bytes.extend(entry.to_le_bytes().repeat(128));
    (Arc::new(MemoryStorage::new(bytes)), capacity)
}

/// A descriptor as short as it can be, so that it has room for as many lines as can be.
fn text(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().fold("version=1\nCID=7\nparentCID=ffffffff\n".to_owned(), |text, line| text + &line + "\n")
}

fn open_text(text: &str, others: &[(&str, Arc<dyn Storage>)]) -> vmdk::Result<VmdkImage> {
    let mut files: HashMap<String, Arc<dyn Storage>> = HashMap::new();
    files.insert("disk".to_owned(), Arc::new(MemoryStorage::new(text)));
    files.extend(others.iter().map(|(name, storage)| ((*name).to_owned(), Arc::clone(storage))));
    OpenOptions::new().open_with("disk", &files)
}

/// Walks over the disk as a copying program does; the number of runs.
fn walk(image: &VmdkImage) -> usize {
    let (mut sector, mut runs) = (0, 0);
    while sector < image.capacity_sectors() {
        sector += image.block_status(sector, u64::MAX).unwrap().1;
        runs += 1;
    }
    runs
}

// ---- Memory ---------------------------------------------------------------------------------------------------------

#[test]
fn qemu_keeps_all_of_a_directory_in_memory_and_here_a_hole_of_128_mib_takes_none() {
    let (file, capacity) = hollow(MOST_TABLES);
    let (bytes, image) = peak(|| VmdkImage::open(file.path()).unwrap());
    assert!(bytes < 4 * MIB, "{bytes} bytes");
    assert_eq!(image.capacity_sectors(), capacity);
    let mut sector = [0xee; SECTOR];
    for start in [0, capacity / 2, capacity - 1] {
        image.read_sectors(start, &mut sector).unwrap();
        assert_eq!(sector, [0; SECTOR]);
    }
}

#[test]
fn a_directory_one_entry_larger_is_refused() {
    let (file, capacity) = hollow(MOST_TABLES + 1);
    let (bytes, error) = peak(|| VmdkImage::open(file.path()).unwrap_err());
    assert!(bytes < MIB, "{bytes} bytes");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&format!("capacity at offset 0xc is {capacity:#x}")), "{error}");
}

#[test]
fn a_directory_that_really_exists_takes_its_own_size() {
    let (storage, _) = dense(MIB, 0);
    let (bytes, _image) = peak(|| OpenOptions::new().open_with("x", &|_: &str| Some(Arc::clone(&storage))).unwrap());
    assert!(bytes < 4 * MIB + 4 * MIB, "{bytes} bytes for a directory of 4 MiB");
}

#[test]
fn a_descriptor_that_is_too_long_is_not_read() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"# Disk DescriptorFile\nversion=1\n").unwrap();
    for len in [MIB + 1, 10 * MIB, 1 << 40] {
        file.as_file().set_len(len).unwrap();
        let (bytes, error) = peak(|| VmdkImage::open(file.path()).unwrap_err());
        assert!(bytes < MIB / 4, "{bytes} bytes");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn as_many_lines_as_a_descriptor_can_have_are_opened_in_little_memory() {
    let flat: Arc<dyn Storage> = Arc::new(MemoryStorage::new([7; SECTOR]));
    let sparse: Arc<dyn Storage> = Arc::new(MemoryStorage::new(SparseImage::new(1).build()));
    for (line, lines) in [("RW 1 ZERO", 99_990), ("RW 1 FLAT \"f\"", 70_000), ("RW 1 SPARSE \"s\"", 60_000)] {
        let text = text((0..lines).map(|_| line.to_owned()));
        let others = [("f", Arc::clone(&flat)), ("s", Arc::clone(&sparse))];
        let (bytes, image) = peak(|| open_text(&text, &others).unwrap());
        assert!(bytes < LIMIT, "{bytes} bytes for {lines} lines of {line}");
        assert_eq!(image.capacity_sectors(), lines);
        assert!(image.host_files().len() <= 2);
    }
}

/// Every name leads to the same file.
#[test]
fn a_file_that_is_named_in_many_ways_is_kept_once() {
    let (extent, capacity) = dense(MIB / 4, 0);
    let name = |number: usize| (0..10).map(|bit| [".//", "./"][number >> bit & 1]).collect::<String>() + "s";
    let text = text((0..1000).map(|number| format!("RW {capacity} SPARSE \"{}\"", name(number))));
    let disk: Arc<dyn Storage> = Arc::new(MemoryStorage::new(text));
    let resolver = |name: &str| Some(Arc::clone(if name == "disk" { &disk } else { &extent }));
    let (bytes, image) = peak(|| OpenOptions::new().open_with("disk", &resolver).unwrap());
    assert_eq!(image.capacity_sectors(), 1000 * capacity);
    assert!(bytes < LIMIT, "{bytes} bytes for a directory of 1 MiB");
}

/// A chain of descriptors, `disk-0` to `disk-63`, each with these lines.
fn chain(lines: &str) -> HashMap<String, Arc<dyn Storage>> {
    let link = |number: u32| {
        let hint = format!("parentFileNameHint=\"disk-{}\"\n", number + 1);
        let parent = if number < 63 { (number + 1, hint) } else { (u32::MAX, String::new()) };
        let text = format!("version=1\nCID={number:x}\nparentCID={:x}\n{}{lines}", parent.0, parent.1);
        (format!("disk-{number}"), Arc::new(MemoryStorage::new(text)) as Arc<dyn Storage>)
    };
    (0..64).map(link).collect()
}

#[test]
fn a_file_that_every_link_of_a_chain_names_is_kept_once() {
    let (extent, capacity) = dense(MIB / 2, 0);
    let mut files = chain(&format!("RW {capacity} SPARSE \"s\"\n"));
    files.insert("s".to_owned(), extent);
    let (bytes, image) = peak(|| OpenOptions::new().open_with("disk-0", &files).unwrap());
    assert_eq!(image.chain().len(), 64);
    assert!(bytes < LIMIT, "{bytes} bytes for a directory of 2 MiB");
}

#[test]
fn a_chain_of_links_with_many_extents_each_takes_little_memory() {
    let files = chain(&"RW 1 ZERO\n".repeat(99_000));
    let (bytes, image) = peak(|| OpenOptions::new().open_with("disk-0", &files).map(|image| image.chain().len()));
    // An image of 64 MiB of text: refused, or opened in proportion to it.
    assert!(image.is_err() || bytes < LIMIT + 2 * 64 * MIB, "{bytes} bytes for 64 texts of 1 MiB");
}

// ---- Time -----------------------------------------------------------------------------------------------------------

#[test]
fn a_file_that_many_lines_name_is_opened_once() {
    let asked = AtomicUsize::new(0);
    let disk: Arc<dyn Storage> =
        Arc::new(MemoryStorage::new(text((0..40_000).map(|_| "RW 1 SPARSE \"s\"".to_owned()))));
    let extent: Arc<dyn Storage> = Arc::new(MemoryStorage::new(SparseImage::new(1).build()));
    let resolver = |name: &str| {
        asked.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(if name == "disk" { &disk } else { &extent }))
    };
    let image = OpenOptions::new().open_with("disk", &resolver).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert!(walk(&image) <= 40_000);
}

#[test]
fn many_extents_that_are_not_one_run_are_walked_and_read_in_time() {
    let flat: Arc<dyn Storage> = Arc::new(MemoryStorage::new([7; SECTOR]));
    let text = text((0..60_000).map(|_| "RW 1 FLAT \"f\"".to_owned()));
    let runs = in_time("60 000 extents", move || {
        let image = open_text(&text, &[("f", flat)]).unwrap();
        let mut content = vec![0; index(image.capacity_sectors()) * SECTOR];
        image.read_sectors(0, &mut content).unwrap();
        assert!(content.iter().all(|&byte| byte == 7));
        walk(&image)
    });
    assert_eq!(runs, 60_000);
}

/// Tables without end, in small files: none at all, in a hole; of grains that are absent; of zero grains.
#[test]
fn one_look_at_a_disk_that_is_the_same_everywhere_takes_little_time() {
    let (file, capacity) = hollow(MOST_TABLES);
    let hollow: Arc<dyn Storage> = Arc::new(FileStorage::open(file.path()).unwrap());
    let (absent, _) = dense(MIB, 0);
    let (zero, dense_capacity) = dense(MIB, 1);
    let rows = [
        ("no table", hollow, capacity, BlockStatus::Hole),
        ("absent grains", absent, dense_capacity, BlockStatus::Hole),
        ("zero grains", zero, dense_capacity, BlockStatus::Zero),
    ];
    for (what, extent, capacity, expected) in rows {
        let text = text((0..1000).map(|_| format!("RW {capacity} SPARSE \"s\"")));
        let (status, count) = in_time(what, move || {
            let image = open_text(&text, &[("s", extent)]).unwrap();
            image.block_status(0, u64::MAX).unwrap()
        });
        assert_eq!(status, expected, "{what}");
        assert!(count >= 1, "{what}");
    }
}

/// A child that has nothing is looked through up to its end again for every run of its parent.
#[test]
fn an_empty_child_over_a_fragmented_parent_is_walked_in_time() {
    const EXTENTS: u64 = 20_000;
    let flat: Arc<dyn Storage> = Arc::new(MemoryStorage::new([7; SECTOR]));
    let empty: Arc<dyn Storage> = Arc::new(MemoryStorage::new(SparseImage::new(1).build()));
    let lines = |line: &str| format!("{line}\n").repeat(index(EXTENTS));
    let child = format!("CID=1\nparentCID=2\nparentFileNameHint=\"base\"\n{}", lines("RW 1 SPARSE \"s\""));
    let base: Arc<dyn Storage> =
        Arc::new(MemoryStorage::new(format!("CID=2\nparentCID=ffffffff\n{}", lines("RW 1 FLAT \"f\""))));
    let start = Instant::now();
    let image = open_text(&child, &[("f", flat), ("s", empty), ("base", base)]).unwrap();
    let mut sector = 0;
    while sector < EXTENTS {
        sector += image.block_status(sector, u64::MAX).unwrap().1;
        assert!(start.elapsed() < PATIENCE, "{sector} of {EXTENTS} extents in {PATIENCE:?}");
    }
}

/// The tables of VMware's and QEMU's children all exist, empty. 64 tables of 2 MiB each here; 3200 for 100 GiB.
fn empty_child_over_fragments() -> (VmdkImage, Arc<CountingStorage>) {
    const TABLE: u64 = 512 * 8;
    let base = SparseImage::new(64 * TABLE).grain_sectors(8);
    let base = (0..64 * 4).fold(base, |base, number| base.data(number * 128, [7; SECTOR]));
    let child = SparseImage::new(64 * TABLE).grain_sectors(8);
    let embed = |extent: SparseImage, text: DescriptorText| {
        let text = text.extent(format!("RW {} SPARSE \"x\"", 64 * TABLE)).to_string();
        Arc::new(MemoryStorage::new(extent.descriptor(text).build())) as Arc<dyn Storage>
    };
    let base = embed(base, DescriptorText::new("monolithicSparse", 2));
    let child = embed(child, DescriptorText::new("monolithicSparse", 1).parent(2, "base"));
    let child = CountingStorage::new(child);
    let shared: Arc<dyn Storage> = child.clone();
    let resolver = |name: &str| Some(Arc::clone(if name == "base" { &base } else { &shared }));
    let image = OpenOptions::new().open_with("child", &resolver).unwrap();
    child.take();
    (image, child)
}

#[test]
fn walking_a_chain_reads_the_tables_of_a_child_about_once() {
    let (image, child) = empty_child_over_fragments();
    let runs = walk(&image);
    let reads = child.take().reads.len();
    assert_eq!(runs, 64 * 4 * 2);
    assert!(reads <= 2 * 64, "{reads} reads of 64 tables");
}

#[test]
fn copying_a_chain_reads_the_tables_of_a_child_about_once() {
    let (image, child) = empty_child_over_fragments();
    let target = MemoryStorage::new([]);
    image.copy_to_raw(&target, RawTarget::Empty, 1, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    let reads = child.take().reads.len();
    assert!(reads <= 2 * 64, "{reads} reads of 64 tables");
    let mut content = vec![0; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    let reads = child.take().reads.len();
    assert!(reads <= 2 * 64, "{reads} reads of 64 tables");
    assert!(target.to_vec() == content);
}

// ---- Texts ----------------------------------------------------------------------------------------------------------

#[test]
fn warnings_do_not_grow_with_the_descriptor() {
    let mut text = text(["RW 1 ZERO".to_owned()]);
    for number in 0..60_000 {
        writeln!(text, "junk-{number}").unwrap();
    }
    let (bytes, image) = peak(|| open_text(&text, &[]).unwrap());
    assert!(bytes < LIMIT, "{bytes} bytes");
    assert!(image.chain()[0].warnings().len() < 200);
}

/// What a program logs of an image is no place for what a guest wrote.
#[test]
fn the_debug_text_of_an_image_holds_neither_its_content_nor_its_tables() {
    let secret = b"a password".repeat(6000);
    let text = text(["RW 4096 SPARSE \"x\"".to_owned()]);
    let file = SparseImage::new(4096).descriptor(text).data(3, secret).build();
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(file));
    let image = OpenOptions::new().open_with("disk", &|_: &str| Some(Arc::clone(&storage))).unwrap();
    image.read_sectors(3 * 128, &mut [0; SECTOR]).unwrap();
    let shown = format!("{image:?}");
    assert!(shown.len() < 4000, "{} characters", shown.len());
}
