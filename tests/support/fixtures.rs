//! The images in `fixtures/`: those that are built here, and the manifest of all.

use std::path::PathBuf;

use super::SECTOR;
use super::cowd::CowdImage;
use super::descriptor::DescriptorText;
use super::disk::{self, Image};
use super::sparse::SparseImage;

/// A generator: its name in the manifest, and the links of what it makes, the base first.
pub type Generator = (&'static str, fn() -> Vec<Image>);

/// All that is built here. The others are made by `fixtures/make-qemu.sh`.
pub const BUILT: [Generator; 10] = [
    ("change_tracked", change_tracked),
    ("custom", custom),
    ("esx_delta", esx_delta),
    ("larger_child", larger_child),
    ("masked_parent", masked_parent),
    ("small_grains", small_grains),
    ("split_flat", split_flat),
    ("split_sparse", split_sparse),
    ("vmfs", vmfs),
    ("vmware3", vmware3),
];

/// Version 3 without compression, as disks with changed block tracking are.
fn change_tracked() -> Vec<Image> {
    let extent = SparseImage::new(2048).version(3);
    let extent = extent.data(0, text("tracked", 0, 128)).data(9, text("tracked", 9 * 128, 128));
    let tracked = |descriptor: DescriptorText| descriptor.version(3).change_track_path("change-tracked-ctk.vmdk");
    vec![Image::embedded("change-tracked.vmdk", extent, None, tracked)]
}

/// Extents of all sorts in one disk.
fn custom() -> Vec<Image> {
    let mut next = 0;
    vec![disk::custom("custom.vmdk", |count| {
        let start = next;
        next += count as u64;
        text("custom", start, count as u64)
    })]
}

/// A delta of ESX over a flat base.
fn esx_delta() -> Vec<Image> {
    const CAPACITY: u64 = 200;
    let base = Image::vmfs("esx.vmdk", text("base", 0, CAPACITY));
    let delta = [199, 7, 8, 3, 0, 150]
        .iter()
        .fold(CowdImage::esx(CAPACITY), |delta, &sector| delta.data(sector, text("delta", sector, 1)));
    let delta = Image::esx_delta(&base, "esx-000001.vmdk", &delta);
    vec![base, delta]
}

/// A child that is larger than its parent, neither a whole number of grains.
fn larger_child() -> Vec<Image> {
    let base = grains(SparseImage::new(16 * 20 + 5).grain_sectors(16), "base", &[0, 1, 7, 19, 20]);
    let base = Image::monolithic_sparse("larger-base.vmdk", base);
    let child = grains(SparseImage::new(16 * 40 + 3).grain_sectors(16), "child", &[40, 1, 21, 8]);
    let child = Image::child(&base, "larger-child.vmdk", child);
    vec![base, child]
}

/// Zero grains of a child over data of its parent, and over nothing.
fn masked_parent() -> Vec<Image> {
    let base = grains(SparseImage::new(16 * 12).grain_sectors(16), "base", &[0, 1, 2, 3, 4, 5, 6]);
    let base = Image::monolithic_sparse("masked-base.vmdk", base);
    let child = SparseImage::new(16 * 12).grain_sectors(16).with_zero_grains();
    let child = grains(child, "child", &[3, 9]).zero(1).zero(2).zero(5).zero(10);
    let child = Image::child(&base, "masked-child.vmdk", child);
    vec![base, child]
}

/// Grains of 8 sectors in an order that has nothing to do with that of the disk.
fn small_grains() -> Vec<Image> {
    let extent = SparseImage::new(8 * 37 + 3).grain_sectors(8);
    let order = [36, 3, 17, 0, 2, 1, 37, 18, 19, 20, 5, 30];
    vec![Image::monolithic_sparse("small-grains.vmdk", grains(extent, "small", &order))]
}

/// Three flat extents of different sizes.
fn split_flat() -> Vec<Image> {
    let contents = vec![text("split-flat", 0, 90), text("split-flat", 90, 1), text("split-flat", 91, 40)];
    vec![Image::split_flat("split-flat.vmdk", contents)]
}

/// Three sparse extents of different sizes: the first without data, the last with one partial grain.
fn split_sparse() -> Vec<Image> {
    let extents = [
        SparseImage::new(16 * 10).grain_sectors(16),
        grains(SparseImage::new(16 * 7).grain_sectors(16), "second", &[6, 0, 5]),
        grains(SparseImage::new(9).grain_sectors(16), "third", &[0]),
    ];
    vec![Image::split_sparse("split-sparse.vmdk", &extents)]
}

/// A flat disk as ESX has it.
fn vmfs() -> Vec<Image> {
    vec![Image::vmfs("vmfs.vmdk", text("vmfs", 0, 64))]
}

/// A disk of VMware 3 in two files, the first of which is no whole number of grains.
fn vmware3() -> Vec<Image> {
    const PARTS: [u64; 2] = [128 * 2 + 40, 128 + 5];
    let file = |number: u32, sectors: u64, grain: u64| {
        let file = CowdImage::vmware3(sectors).file_of(number, 2, PARTS[0] + PARTS[1], sectors).generation(0x3a1b_2c3d);
        let start = grain * 128;
        file.data(grain, text(&format!("file {number}"), start, (sectors - start).min(128)))
    };
    vec![Image::hosted_cowd("vmware3.vmdk", &[file(0, PARTS[0], 2), file(1, PARTS[1], 0)], None)]
}

/// Grains full of text up to the capacity, in the given order in the file.
fn grains(extent: SparseImage, label: &str, order: &[u64]) -> SparseImage {
    let (capacity, sectors) = (extent.capacity(), (extent.grain_bytes() / SECTOR) as u64);
    order.iter().fold(extent, |extent, &grain| {
        let start = grain * sectors;
        extent.data(grain, text(label, start, sectors.min(capacity - start)))
    })
}

/// Sectors that say which they are.
fn text(label: &str, start: u64, count: u64) -> Vec<u8> {
    let sector = |number| format!("{label} {number:06}\n").into_bytes().into_iter().cycle().take(SECTOR);
    (start..start + count).flat_map(sector).collect()
}

/// A line of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The file to open.
    pub file: String,
    /// What it is.
    pub kind: String,
    /// The size of the guest's disk.
    pub capacity_bytes: u64,
    /// The digest of what the guest sees: SHA-256 of all of it, or with `nz4k:` the one of [`tools::nz4k`].
    ///
    /// [`tools::nz4k`]: super::tools::nz4k
    pub digest: String,
    /// How it was made.
    pub how: String,
}

const COLUMNS: &str = "file\tkind\tcapacity_bytes\tsha256\thow";

/// The directory of the fixtures.
pub fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The path of a fixture.
pub fn path(file: &str) -> PathBuf {
    dir().join(file)
}

/// All rows of the manifest.
pub fn manifest() -> Vec<Row> {
    let text = std::fs::read_to_string(path("MANIFEST.tsv")).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(COLUMNS));
    lines.map(row).collect()
}

/// Writes the manifest.
pub fn write_manifest(rows: &[Row]) {
    let lines = rows.iter().map(|row| {
        let Row { file, kind, capacity_bytes, digest, how } = row;
        format!("{file}\t{kind}\t{capacity_bytes}\t{digest}\t{how}\n")
    });
    let text: String = std::iter::once(format!("{COLUMNS}\n")).chain(lines).collect();
    std::fs::write(path("MANIFEST.tsv"), text).unwrap();
}

fn row(line: &str) -> Row {
    let columns: Vec<&str> = line.split('\t').collect();
    let [file, kind, capacity_bytes, digest, how] = columns[..] else { panic!("not five columns: {line}") };
    Row {
        file: file.to_owned(),
        kind: kind.to_owned(),
        capacity_bytes: capacity_bytes.parse().unwrap(),
        digest: digest.to_owned(),
        how: how.to_owned(),
    }
}
