//! Images made by QEMU read as QEMU reads them, and so do images made here.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use vmdk::{AdapterType, BlockDevice, BlockStatus, FileStorage, Geometry, Mapping, RawTarget, Storage, VmdkImage};

use support::disk::Kind;
use support::model::RawDevice;
use support::rng::Rng;
use support::tools::{self, Tool};
use support::{SECTOR, index};

const MIB: u64 = 2048;
/// Sectors that one grain table of QEMU's images covers.
const TABLE: u64 = 32 * MIB;
/// Sectors of the extents of QEMU's split images.
const SPLIT: u64 = 2048 * MIB;
/// Sectors that are compared at once.
const CHUNK: u64 = 2 * MIB;

/// Both programs, or `None` and a word about `test` being skipped.
fn qemu(test: &str) -> Option<Qemu> {
    let tools = tools::qemu_img(test).zip(tools::qemu_io(test))?;
    Some(Qemu { img: tools.0, io: tools.1, dir: tempfile::tempdir().unwrap() })
}

/// QEMU's programs, at work in a directory.
struct Qemu {
    img: Tool,
    io: Tool,
    dir: TempDir,
}

impl Qemu {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An empty image, with a parent that is named as it is said here.
    fn create(&self, name: &str, options: &str, sectors: u64, parent: Option<&str>) {
        let path = self.path(name);
        let size = (sectors * SECTOR as u64).to_string();
        let mut args = vec!["create", "-q", "-f", "vmdk", "-o", options];
        if let Some(parent) = parent {
            args.extend(["-F", "vmdk", "-b", parent]);
        }
        args.extend([path.to_str().unwrap(), &size]);
        self.img.run(args);
    }

    /// Writes all over an image at random, in one go.
    fn fill(&self, name: &str, sectors: u64, rng: &mut Rng) {
        let path = self.path(name);
        let commands: Vec<String> = (0..40).map(|_| write_command(sectors, rng)).collect();
        let mut args = vec!["-t", "unsafe", "-f", "vmdk"];
        args.extend(commands.iter().flat_map(|command| ["-c", command]));
        args.push(path.to_str().unwrap());
        let said = self.io.run(args);
        assert_eq!(said.matches("wrote ").count(), commands.len(), "{said}");
    }

    /// Reads an image in every way there is, and compares all of it with what QEMU reads.
    fn compare(&self, name: &str) {
        compare(self.img, &self.path(name), &self.dir);
    }
}

/// Half of the writes are near an end of something: the disk, a grain, a grain table, an extent.
fn write_command(capacity: u64, rng: &mut Rng) -> String {
    let near = match rng.below(8) {
        0 => 0,
        1 => capacity,
        2 => SPLIT,
        3 => TABLE * rng.below(capacity / TABLE + 1),
        _ => rng.below(capacity),
    };
    let start = (near + rng.below(9)).saturating_sub(rng.below(140)).min(capacity - 1);
    let most = [1, 8, 300, 2 * MIB][index(rng.below(4))].min(capacity - start);
    let (start, count) = match rng.below(4) {
        // Whole grains, as far as there are whole ones.
        0 if start > 128 => (start / 128 * 128, most.next_multiple_of(128)),
        _ => (start, 1 + rng.below(most)),
    };
    let (offset, len) = (start * SECTOR as u64, count.min(capacity - start) * SECTOR as u64);
    match rng.below(10) {
        0..3 => format!("write -z {offset} {len}"),
        3 => format!("write -P 0 {offset} {len}"),
        _ => format!("write -P {} {offset} {len}", 1 + rng.below(255)),
    }
}

fn compare(qemu_img: Tool, path: &Path, dir: &TempDir) {
    let raw = dir.path().join("theirs.raw");
    qemu_img.convert_to_raw(path, &raw);
    let theirs = RawDevice::new(Arc::new(FileStorage::open(&raw).unwrap()));
    let image = VmdkImage::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));

    same_content(&image, &theirs, path);
    same_map(&image, &map_of(qemu_img, path), path);
    let copy = copy_to_raw(&image, &dir.path().join("ours.raw"), RawTarget::Empty);
    let stored: u64 = image.host_files().iter().map(|file| file.storage().allocated_len().unwrap()).sum();
    let copied = copy.allocated_len().unwrap();
    assert!(copied <= 2 * stored + (1 << 20), "{}: {copied} bytes for {stored}", path.display());
    same_content(&RawDevice::new(copy), &theirs, path);

    if image.capacity_sectors() <= 5 * MIB {
        // As on a device: there is something in the way, and something behind it.
        let used = dir.path().join("used.raw");
        let len = index(image.capacity_sectors()) * SECTOR;
        std::fs::write(&used, vec![0xee; len + 3 * SECTOR]).unwrap();
        let copy = copy_to_raw(&image, &used, RawTarget::Used);
        let mut behind = [0; 3 * SECTOR];
        copy.read_exact_at(&mut behind, len as u64).unwrap();
        assert!(behind == [0xee; 3 * SECTOR], "{}: a write past the end", path.display());
        copy.set_len(len as u64).unwrap();
        same_content(&RawDevice::new(copy), &theirs, path);
    }
}

/// Compares all of it. On a large disk only some of the chunks that are holes in what QEMU wrote: to read the holes of
/// a flat file takes its time, and the maps are compared as well.
#[track_caller]
fn same_content(ours: &dyn BlockDevice, theirs: &RawDevice, path: &Path) {
    let capacity = theirs.capacity_sectors();
    assert_eq!(ours.capacity_sectors(), capacity, "{}", path.display());
    let [mut found, mut expected] = [(); 2].map(|()| vec![0xa5; index(CHUNK) * SECTOR]);
    for (number, start) in (0..).zip((0..capacity).step_by(index(CHUNK))) {
        let count = CHUNK.min(capacity - start);
        let hole = theirs.block_status(start, count).unwrap() == (BlockStatus::Hole, count);
        if hole && capacity > 2 * TABLE && number % 32 != 0 {
            continue;
        }
        let [found, expected] = [&mut found, &mut expected].map(|buf| &mut buf[..index(count) * SECTOR]);
        ours.read_sectors(start, found).unwrap();
        theirs.read_sectors(start, expected).unwrap();
        assert!(found == expected, "{} differs in the {count} sectors from {start}", path.display());
    }
}

/// An entry of `qemu-img map`.
#[derive(Debug)]
struct Entry {
    start: u64,
    sectors: u64,
    depth: u64,
    /// Somebody in the chain has written here.
    present: bool,
    data: bool,
    zero: bool,
    /// The byte offset in the file that has the data.
    offset: Option<u64>,
}

fn map_of(qemu_img: Tool, path: &Path) -> Vec<Entry> {
    let text = qemu_img.run(["map", "-f", "vmdk", "--output=json", path.to_str().unwrap()]);
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    let sectors = |value: &Value| value.as_u64().unwrap() / SECTOR as u64;
    let entry = |entry: &Value| Entry {
        start: sectors(&entry["start"]),
        sectors: sectors(&entry["length"]),
        depth: entry["depth"].as_u64().unwrap(),
        present: entry["present"].as_bool().unwrap(),
        data: entry["data"].as_bool().unwrap(),
        zero: entry["zero"].as_bool().unwrap(),
        offset: entry["offset"].as_u64(),
    };
    entries.iter().map(entry).collect()
}

/// What QEMU calls data is data here, in the same link and at the same place of its file; what QEMU calls zero is zero
/// here. QEMU asks the host for the holes of flat files alone, the crate for those of grains as well.
fn same_map(image: &VmdkImage, theirs: &[Entry], path: &Path) {
    let mut sector = 0;
    for entry in theirs {
        assert_eq!(entry.start, sector, "{}: a gap in QEMU's map", path.display());
        let end = entry.start + entry.sectors;
        while sector < end {
            let (status, count) = image.block_status(sector, end - sector).unwrap();
            let run = image.map(sector, end - sector).unwrap();
            let what = format!("{}: sector {sector}: {status:?}, {run:?}, QEMU: {entry:?}", path.display());
            if let Mapping::Data { offset, .. } = run.mapping {
                assert!(entry.data && status != BlockStatus::Hole && count <= run.sectors, "{what}");
                assert!(!entry.zero || status == BlockStatus::Zero, "{what}");
                assert_eq!(run.depth as u64, entry.depth, "{what}");
                let theirs = entry.offset.map(|offset| offset + (sector - entry.start) * SECTOR as u64);
                assert_eq!(Some(offset), theirs, "{what}");
            } else {
                assert_eq!(run.sectors, count, "{what}");
                assert!(!entry.data && entry.zero && status != BlockStatus::Data, "{what}");
                assert!(entry.present || status == BlockStatus::Hole, "{what}");
            }
            sector += count;
        }
    }
    assert_eq!(sector, image.capacity_sectors(), "{}: the end of QEMU's map", path.display());
}

fn copy_to_raw(image: &VmdkImage, path: &Path, kind: RawTarget) -> Arc<dyn Storage> {
    let empty = kind == RawTarget::Empty;
    let file = File::options().read(true).write(true).create(true).truncate(empty).open(path).unwrap();
    let target = FileStorage::new(file).unwrap();
    let total = image.capacity_sectors() * SECTOR as u64;
    let mut last = 0;
    let copied = image.copy_to_raw(&target, kind, 1, &mut |progress| {
        assert!(progress.total == total && last <= progress.done && progress.done <= total, "{progress:?}");
        last = progress.done;
        ControlFlow::Continue(())
    });
    copied.unwrap();
    assert_eq!(last, total, "the last word on the progress");
    Arc::new(target)
}

/// Sizes from a sector to more than a grain table.
const CAPACITIES: [u64; 6] = [1, 127, 777, TABLE - 1, TABLE, TABLE + 1];

fn images_of_qemu_read_as_qemu_reads_them(test: &str, options: &str, large: u64) {
    let Some(qemu) = qemu(test) else { return };
    for (seed, capacity) in (1..).zip([&CAPACITIES[..], &[large]].concat()) {
        let name = format!("disk-{capacity}.vmdk");
        qemu.create(&name, options, capacity, None);
        qemu.compare(&name);
        qemu.fill(&name, capacity, &mut Rng::new(seed));
        qemu.compare(&name);
    }
}

#[test]
fn monolithic_sparse_images_of_qemu_read_as_qemu_reads_them() {
    let test = "monolithic_sparse_images_of_qemu_read_as_qemu_reads_them";
    images_of_qemu_read_as_qemu_reads_them(test, "subformat=monolithicSparse", 3 * SPLIT + 5);
}

#[test]
fn monolithic_flat_images_of_qemu_read_as_qemu_reads_them() {
    let test = "monolithic_flat_images_of_qemu_read_as_qemu_reads_them";
    images_of_qemu_read_as_qemu_reads_them(test, "subformat=monolithicFlat", SPLIT + 999);
}

#[test]
fn split_sparse_images_of_qemu_read_as_qemu_reads_them() {
    let test = "split_sparse_images_of_qemu_read_as_qemu_reads_them";
    images_of_qemu_read_as_qemu_reads_them(test, "subformat=twoGbMaxExtentSparse", 2 * SPLIT + MIB + 3);
}

#[test]
fn split_flat_images_of_qemu_read_as_qemu_reads_them() {
    let test = "split_flat_images_of_qemu_read_as_qemu_reads_them";
    images_of_qemu_read_as_qemu_reads_them(test, "subformat=twoGbMaxExtentFlat", SPLIT + MIB + 3);
}

#[test]
fn monolithic_images_of_qemu_with_zero_grains_read_as_qemu_reads_them() {
    let test = "monolithic_images_of_qemu_with_zero_grains_read_as_qemu_reads_them";
    images_of_qemu_read_as_qemu_reads_them(test, "subformat=monolithicSparse,zeroed_grain=on", SPLIT + 5);
}

#[test]
fn split_images_of_qemu_with_zero_grains_read_as_qemu_reads_them() {
    let test = "split_images_of_qemu_with_zero_grains_read_as_qemu_reads_them";
    images_of_qemu_read_as_qemu_reads_them(test, "subformat=twoGbMaxExtentSparse,zeroed_grain=on", SPLIT + 5);
}

/// Without zero grains QEMU would write zeros over a whole grain as data.
#[test]
fn zero_grains_of_qemu_are_zero_and_not_holes() {
    let Some(qemu) = qemu("zero_grains_of_qemu_are_zero_and_not_holes") else { return };
    qemu.create("disk.vmdk", "zeroed_grain=on", MIB, None);
    let path = qemu.path("disk.vmdk");
    let args = ["-f", "vmdk", "-c", "write -P 7 0 1M", "-c", "write -z 64k 128k", path.to_str().unwrap()];
    qemu.io.run(args);
    let image = VmdkImage::open(&path).unwrap();
    let mut statuses = Vec::new();
    let mut sector = 0;
    while sector < MIB {
        let (status, count) = image.block_status(sector, MIB - sector).unwrap();
        statuses.push((status, count));
        sector += count;
    }
    assert_eq!(statuses, [(BlockStatus::Data, 128), (BlockStatus::Zero, 256), (BlockStatus::Data, 1664)]);
}

/// The links of a chain: what each is made with, and its size.
fn chain_plan(links: u64, seed: u64, rng: &mut Rng) -> Vec<(&'static str, u64)> {
    const BASES: [&str; 5] = [
        "subformat=monolithicSparse",
        "subformat=monolithicFlat",
        "subformat=twoGbMaxExtentSparse",
        "subformat=twoGbMaxExtentFlat",
        "subformat=monolithicSparse,zeroed_grain=on",
    ];
    const OVERLAYS: [&str; 4] = [
        "subformat=monolithicSparse",
        "subformat=twoGbMaxExtentSparse",
        "subformat=monolithicSparse,zeroed_grain=on",
        "subformat=twoGbMaxExtentSparse,zeroed_grain=on",
    ];
    let mut size = 3 * MIB + rng.below(MIB);
    let mut plan = vec![(BASES[index((links + seed) % 5)], size)];
    for _ in 1..links {
        match rng.below(4) {
            0 => size += 1 + rng.below(2 * MIB),
            1 => size -= 1 + rng.below(MIB / 2),
            2 => size += TABLE,
            _ => {}
        }
        plan.push((OVERLAYS[index(rng.below(4))], size));
    }
    plan
}

fn chains_of_qemu_read_as_qemu_reads_them(test: &str, links: u64) {
    let Some(qemu) = qemu(test) else { return };
    for seed in 0..5 {
        let rng = &mut Rng::new(100 * links + seed);
        let mut parent: Option<String> = None;
        for (number, (options, size)) in (0..).zip(chain_plan(links, seed, rng)) {
            let name = format!("{seed}-link-{number}.vmdk");
            qemu.create(&name, options, size, parent.as_deref());
            qemu.fill(&name, size, rng);
            qemu.compare(&name);
            assert_eq!(VmdkImage::open(qemu.path(&name)).unwrap().chain().len(), number + 1);
            parent = Some(name);
        }
    }
}

#[test]
fn a_base_of_qemu_reads_as_qemu_reads_it() {
    chains_of_qemu_read_as_qemu_reads_them("a_base_of_qemu_reads_as_qemu_reads_it", 1);
}

#[test]
fn chains_of_two_links_of_qemu_read_as_qemu_reads_them() {
    chains_of_qemu_read_as_qemu_reads_them("chains_of_two_links_of_qemu_read_as_qemu_reads_them", 2);
}

#[test]
fn chains_of_three_links_of_qemu_read_as_qemu_reads_them() {
    chains_of_qemu_read_as_qemu_reads_them("chains_of_three_links_of_qemu_read_as_qemu_reads_them", 3);
}

#[test]
fn chains_of_four_links_of_qemu_read_as_qemu_reads_them() {
    chains_of_qemu_read_as_qemu_reads_them("chains_of_four_links_of_qemu_read_as_qemu_reads_them", 4);
}

#[test]
fn chains_of_five_links_of_qemu_read_as_qemu_reads_them() {
    chains_of_qemu_read_as_qemu_reads_them("chains_of_five_links_of_qemu_read_as_qemu_reads_them", 5);
}

/// Over 2 GiB the overlay has two extents, one of which lies wholly past the end of the base.
#[test]
fn a_split_overlay_of_qemu_that_outgrows_its_base_reads_as_qemu_reads_it() {
    let test = "a_split_overlay_of_qemu_that_outgrows_its_base_reads_as_qemu_reads_it";
    let Some(qemu) = qemu(test) else { return };
    let rng = &mut Rng::new(77);
    let (base, overlay) = (SPLIT - 3, SPLIT + 3 * MIB + 1);
    std::fs::create_dir(qemu.path("golden")).unwrap();
    qemu.create("golden/base.vmdk", "subformat=twoGbMaxExtentFlat", base, None);
    qemu.fill("golden/base.vmdk", base, rng);
    qemu.create("disk.vmdk", "subformat=twoGbMaxExtentSparse,zeroed_grain=on", overlay, Some("golden/base.vmdk"));
    qemu.fill("disk.vmdk", overlay, rng);
    qemu.compare("disk.vmdk");
    // And one that is smaller than both.
    qemu.create("small.vmdk", "subformat=monolithicSparse", TABLE + 9, Some("disk.vmdk"));
    qemu.fill("small.vmdk", TABLE + 9, rng);
    qemu.compare("small.vmdk");
}

#[test]
fn images_that_qemu_converted_have_the_content_they_were_made_from() {
    let test = "images_that_qemu_converted_have_the_content_they_were_made_from";
    let Some(qemu) = qemu(test) else { return };
    let mut rng = Rng::new(5);
    let mut content = vec![0; index(3 * MIB + 77) * SECTOR];
    for part in content.chunks_mut(100_000) {
        if rng.chance(60) {
            rng.fill(part);
        }
    }
    let raw = qemu.path("source.raw");
    std::fs::write(&raw, &content).unwrap();
    for subformat in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let name = format!("{subformat}.vmdk");
        let options = format!("subformat={subformat}");
        let (raw, path) = (raw.to_str().unwrap(), qemu.path(&name));
        qemu.img.run(["convert", "-f", "raw", "-O", "vmdk", "-o", &options, raw, path.to_str().unwrap()]);
        let image = VmdkImage::open(path).unwrap();
        assert_eq!(image.create_type().unwrap().as_str(), subformat);
        let mut found = vec![0xa5; content.len()];
        image.read_sectors(0, &mut found).unwrap();
        assert!(found == content, "{subformat} differs");
        qemu.compare(&name);
    }
}

#[test]
fn the_accessors_say_what_qemu_was_asked_for() {
    let Some(qemu) = qemu("the_accessors_say_what_qemu_was_asked_for") else { return };
    // QEMU counts cylinders of an IDE disk in 16 * 63 sectors, of others in 255 * 63.
    let sectors = 255 * 63 * 16 * 3;
    let cases = [
        ("ide", AdapterType::Ide, Geometry::new(765, 16, 63)),
        ("buslogic", AdapterType::BusLogic, Geometry::new(48, 255, 63)),
        ("lsilogic", AdapterType::LsiLogic, Geometry::new(48, 255, 63)),
        ("legacyESX", AdapterType::LegacyEsx, Geometry::new(48, 255, 63)),
    ];
    for (name, adapter, geometry) in cases {
        let options = format!("adapter_type={name},hwversion=9,toolsversion=12");
        qemu.create("disk.vmdk", &options, sectors, None);
        let image = VmdkImage::open(qemu.path("disk.vmdk")).unwrap();
        assert_eq!(image.adapter_type(), Some(adapter));
        assert_eq!(image.geometry(), Some(geometry));
        assert_eq!(image.hardware_version(), Some(9));
        assert_eq!(image.descriptor().ddb("toolsVersion"), Some(&b"12"[..]));
        assert_eq!((image.disk_id(), image.parent_content_id()), (None, None));

        // A child takes its own word, and its parent's where it has none.
        qemu.create("child.vmdk", "adapter_type=ide", sectors, Some("disk.vmdk"));
        let child = VmdkImage::open(qemu.path("child.vmdk")).unwrap();
        assert_eq!(child.parent_content_id(), image.content_id());
        assert_eq!(child.adapter_type(), Some(AdapterType::Ide));
    }
}

#[test]
fn images_made_here_read_as_qemu_reads_them() {
    let Some(qemu_img) = tools::qemu_img("images_made_here_read_as_qemu_reads_them") else { return };
    let dir = tempfile::tempdir().unwrap();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.qemu_reads_it()) {
        for seed in 20..24 {
            compare(qemu_img, &kind.disk(seed).path, &dir);
        }
    }
}
