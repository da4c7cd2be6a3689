//! How often the host is called for what a guest writes.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::io::IoSlice;
use std::sync::Arc;

use vmdk::{BlockDevice, Mapping, MemoryStorage, OpenOptions, Storage, VmdkImage, WriteFlags};

use support::check::check;
use support::descriptor::DescriptorText;
use support::disk::Image;
use support::rng::Rng;
use support::sparse::SparseImage;
use support::storage::{CountingStorage, Counts};
use support::{SECTOR, byte_range, index};

const GRAIN: u64 = 128;
const GRAIN_BYTES: u64 = GRAIN * SECTOR as u64;

/// A chain that is watched.
struct Watched {
    files: HashMap<String, Arc<CountingStorage>>,
    image: VmdkImage,
}

impl Watched {
    fn new(links: Vec<Image>) -> Self {
        Self::of_files(links.into_iter().flat_map(|link| link.files))
    }

    fn of_files(files: impl Iterator<Item = (String, Vec<u8>)>) -> Self {
        let watch = |bytes| CountingStorage::new(Arc::new(MemoryStorage::new(bytes)));
        let files: HashMap<_, _> = files.map(|(name, bytes)| (name, watch(bytes))).collect();
        let resolver = |name: &str| files.get(name).map(|file| Arc::clone(file) as Arc<dyn Storage>);
        let image = OpenOptions::new().write(true).open_with("disk.vmdk", &resolver).unwrap();
        Self { files, image }
    }

    /// Without the content in memory: the disk may be of any size.
    fn base(extent: SparseImage) -> Self {
        let line = format!("RW {} SPARSE \"disk.vmdk\"", extent.capacity());
        let text = DescriptorText::new("monolithicSparse", 0x1234_5678).extent(line).to_string();
        Self::of_files(std::iter::once(("disk.vmdk".to_owned(), extent.descriptor(text).build())))
    }

    fn take(&self) -> Counts {
        self.files["disk.vmdk"].take()
    }

    /// What the first write of an open disk costs: the content ID, the mark of an open extent, the first grain.
    fn begin(&self, sector: u64) {
        self.image.write_sectors(sector, &[1; SECTOR]).unwrap();
        self.image.flush().unwrap();
        self.take();
    }

    fn expect_sound(&self) {
        self.image.close().unwrap();
        let file = &self.files["disk.vmdk"];
        let mut bytes = vec![0; index(file.len().unwrap())];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let report = check(&bytes);
        report.expect_sound("disk.vmdk");
        assert_eq!(report.leaked_grains, 0);
    }
}

fn is_zero_grain(image: &VmdkImage, sector: u64) -> bool {
    matches!(image.map_layer(sector, 1).unwrap().mapping, Mapping::Zero)
}

#[test]
fn an_overwrite_is_one_write_of_the_host_and_nothing_else() {
    let extent = (0..8).fold(SparseImage::new(8 * GRAIN), |extent, grain| extent.data(grain, vec![7; 65536]));
    let disk = Watched::base(extent);
    disk.begin(0);
    let bytes = vec![3; byte_range(0, 4 * GRAIN).end];
    // One sector, a grain, and four that lie one behind the other.
    for (start, count) in [(5, 1), (GRAIN, GRAIN), (GRAIN - 1, 2), (100, 3 * GRAIN)] {
        let bytes = &bytes[..byte_range(0, count).end];
        disk.image.write_sectors(start, bytes).unwrap();
        let counts = disk.take();
        assert_eq!(counts.writes.len(), 1, "{start}, {count}: {counts:?}");
        assert_eq!(counts.bytes_written(), bytes.len() as u64);
        assert!(counts.reads.is_empty() && counts.syncs == 0 && counts.lens.is_empty(), "{counts:?}");
        let (head, tail) = bytes.split_at(100);
        disk.image.write_sectors_vectored(start, &[IoSlice::new(head), IoSlice::new(tail)], WriteFlags::NONE).unwrap();
        assert_eq!(disk.take().writes.len(), 1);
    }
    disk.image.flush().unwrap();
    let counts = disk.take();
    assert_eq!((counts.syncs, counts.writes.len()), (1, 0), "there is no table to write");
}

#[test]
fn the_first_write_costs_two_more_writes_and_one_more_sync() {
    let disk = Watched::base(SparseImage::new(8 * GRAIN).data(0, [1]));
    disk.take();
    disk.image.write_sectors(0, &[1; SECTOR]).unwrap();
    let counts = disk.take();
    // The content ID, synced; the mark of an open extent; the sector.
    assert_eq!((counts.writes.len(), counts.syncs), (3, 1), "{counts:?}");
    assert_eq!(counts.writes[0].1, 8, "the digits alone");
    assert_eq!(counts.writes[1], (0, SECTOR as u64));
    disk.image.close().unwrap();
    let counts = disk.take();
    // The data; then the mark is taken back.
    assert_eq!((counts.writes, counts.syncs), (vec![(0, SECTOR as u64)], 2));
}

#[test]
fn a_thousand_first_touches_and_a_flush_are_a_thousand_writes_two_of_tables_and_two_syncs() {
    let disk = Watched::base(SparseImage::new(1001 * GRAIN));
    disk.begin(1000 * GRAIN);
    let grain = vec![5; index(GRAIN_BYTES)];
    for number in 0..1000 {
        disk.image.write_sectors(number * GRAIN, &grain).unwrap();
    }
    let counts = disk.take();
    assert_eq!((counts.writes.len(), counts.syncs), (1000, 0));
    assert!(counts.writes.iter().all(|&(_, len)| len == GRAIN_BYTES));
    // 62.5 MiB in steps of 16, the first of which is there.
    assert_eq!(counts.lens.len(), 3, "{:?}", counts.lens);
    disk.image.flush().unwrap();
    let counts = disk.take();
    // The entries of both tables lie together, and so do those of their copies.
    assert_eq!((counts.writes.len(), counts.syncs), (2, 2), "{:?}", counts.writes);
    disk.image.flush().unwrap();
    assert_eq!(disk.take(), Counts::default());
    disk.expect_sound();
}

#[test]
fn first_touches_over_a_hundred_gigabytes_sync_nothing_but_the_flush_does_twice() {
    let capacity = (100 << 30) / SECTOR as u64;
    let disk = Watched::base(SparseImage::new(capacity));
    disk.begin(0);
    let mut rng = Rng::new(81);
    let mut tables = BTreeSet::new();
    let mut grains = BTreeSet::new();
    for _ in 0..1000 {
        let grain = 1 + rng.below(capacity / GRAIN - 1);
        if grains.insert(grain) {
            disk.image.write_sectors(grain * GRAIN + rng.below(GRAIN), &[4; SECTOR]).unwrap();
            tables.insert(grain / 512);
        }
    }
    let counts = disk.take();
    // Some 3,200 tables, 16 in memory: nearly every touch evicts one.
    assert_eq!((counts.writes.len(), counts.syncs), (grains.len(), 0));
    assert_eq!(counts.bytes_written(), grains.len() as u64 * SECTOR as u64);
    assert!(tables.len() > 500);
    disk.image.flush().unwrap();
    let counts = disk.take();
    assert_eq!(counts.syncs, 2);
    // At most a write for each table and its copy, fewer where tables are neighbours.
    assert!(counts.writes.len() <= 2 * tables.len(), "{} writes for {} tables", counts.writes.len(), tables.len());
    disk.expect_sound();
}

/// The limit of what waits in memory is far away: a disk of any size takes two syncs a batch.
#[test]
fn new_tables_are_written_whole_and_synced_with_the_flush() {
    let disk = Watched::base(SparseImage::new(64 * 512 * GRAIN).omit_empty_tables());
    disk.begin(0);
    for table in 1..64 {
        disk.image.write_sectors(table * 512 * GRAIN, &[4; SECTOR]).unwrap();
    }
    let counts = disk.take();
    // Of each: the table with its copy, and the sector.
    assert_eq!((counts.writes.len(), counts.syncs), (2 * 63, 0));
    assert_eq!(counts.writes.iter().filter(|&&(_, len)| len == 2 * 2048).count(), 63);
    disk.image.flush().unwrap();
    let counts = disk.take();
    assert_eq!(counts.syncs, 2);
    // The entry of each table and of its copy, and both directories.
    assert!(counts.writes.len() <= 2 * 63 + 2, "{}", counts.writes.len());
    disk.expect_sound();
}

#[test]
fn a_large_write_over_new_grains_is_one_write_to_one_region() {
    let disk = Watched::base(SparseImage::new(2048 * GRAIN));
    disk.begin(0);
    // 64 MiB from within a grain on, over two boundaries of tables.
    let bytes = Rng::new(3).bytes(64 << 20);
    disk.image.write_sectors(300 * GRAIN + 5, &bytes).unwrap();
    let counts = disk.take();
    assert_eq!(counts.writes.len(), 1, "{:?}", counts.writes);
    assert_eq!(counts.bytes_written(), bytes.len() as u64);
    assert_eq!((counts.lens.len(), counts.syncs), (1, 0));
    let run = disk.image.map(300 * GRAIN + 5, u64::MAX).unwrap();
    // To the end of the last grain.
    assert_eq!(run.sectors, (64 << 11) + GRAIN - 5);
    disk.image.flush().unwrap();
    let counts = disk.take();
    assert_eq!((counts.writes.len(), counts.syncs), (2, 2), "{:?}", counts.writes);
    let mut found = vec![0; bytes.len()];
    disk.image.read_sectors(300 * GRAIN + 5, &mut found).unwrap();
    assert!(found == bytes);
    disk.expect_sound();
}

#[test]
fn a_large_write_over_a_parent_is_one_write_with_its_ends() {
    let base = Image::monolithic_flat("base.vmdk", vec![8; byte_range(0, 64 * GRAIN).end]);
    let child = Image::child(&base, "disk.vmdk", SparseImage::new(64 * GRAIN));
    let disk = Watched::new(vec![base, child]);
    disk.begin(0);
    let bytes = vec![1; byte_range(0, 20 * GRAIN).end];
    disk.image.write_sectors(10 * GRAIN + 50, &bytes).unwrap();
    let counts = disk.take();
    assert_eq!(counts.writes.len(), 1, "{:?}", counts.writes);
    assert_eq!(counts.bytes_written(), 21 * GRAIN_BYTES);
    assert_eq!(disk.files["base-flat.vmdk"].take().bytes_read(), GRAIN_BYTES + GRAIN_BYTES);
    // Where nothing is left of the parent, nothing is read of it.
    disk.image.write_sectors(40 * GRAIN, &bytes).unwrap();
    assert!(disk.files["base-flat.vmdk"].take().reads.is_empty());
    assert_eq!(disk.take().bytes_written(), bytes.len() as u64);
    disk.expect_sound();
}

/// Whatever the grains of the parent are: with zero grains nothing is read, and no data written.
#[test]
fn zeroes_over_a_parent_in_fragments_are_zero_grains() {
    let mut rng = Rng::new(4);
    for extent in [SparseImage::new(40 * GRAIN).grain_sectors(8), SparseImage::new(40 * GRAIN).grain_sectors(512)] {
        let base = Image::monolithic_sparse("base.vmdk", extent.random(&mut rng).data(8, [1; SECTOR]));
        let child = Image::child(&base, "disk.vmdk", SparseImage::new(40 * GRAIN).with_zero_grains());
        let disk = Watched::new(vec![base, child]);
        disk.begin(0);
        let mut before = vec![0; byte_range(0, 40 * GRAIN).end];
        disk.image.read_sectors(0, &mut before).unwrap();
        disk.take();
        for may_unmap in [false, true] {
            let start = if may_unmap { 20 } else { 1 };
            disk.image.write_zeroes(start * GRAIN, 15 * GRAIN, may_unmap).unwrap();
            let counts = disk.take();
            assert!(counts.writes.is_empty(), "{may_unmap}: {:?}", counts.writes);
            for grain in start..start + 15 {
                let zero_below = before[byte_range(grain * GRAIN, GRAIN)].iter().all(|&byte| byte == 0);
                assert!(zero_below || is_zero_grain(&disk.image, grain * GRAIN), "grain {grain}");
            }
            let mut found = vec![1; byte_range(0, 15 * GRAIN).end];
            disk.image.read_sectors(start * GRAIN, &mut found).unwrap();
            assert!(found.iter().all(|&byte| byte == 0));
        }
        disk.expect_sound();
    }
}

/// Without zero grains they are grains in which nothing is written.
#[test]
fn zeroes_over_a_parent_in_fragments_are_holes_where_there_are_no_zero_grains() {
    let mut rng = Rng::new(5);
    let base = SparseImage::new(40 * GRAIN).grain_sectors(8).random(&mut rng);
    let base =
        (8 * 16..40 * 16).fold(base, |base, grain| if grain % 3 == 0 { base.data(grain, [1; SECTOR]) } else { base });
    let base = Image::monolithic_sparse("base.vmdk", base);
    let child = Image::child(&base, "disk.vmdk", SparseImage::new(40 * GRAIN));
    let disk = Watched::new(vec![base, child]);
    disk.begin(0);
    disk.image.write_zeroes(10 * GRAIN, 15 * GRAIN, true).unwrap();
    let counts = disk.take();
    assert_eq!(counts.bytes_written(), 0, "{:?}", counts.writes);
    let mut found = vec![1; byte_range(0, 15 * GRAIN).end];
    disk.image.read_sectors(10 * GRAIN, &mut found).unwrap();
    assert!(found.iter().all(|&byte| byte == 0));
    disk.expect_sound();
}

#[test]
fn a_discard_never_makes_a_file_grow() {
    let mut rng = Rng::new(6);
    let base = Image::monolithic_flat("base.vmdk", rng.bytes(byte_range(0, 40 * GRAIN).end));
    for zero_grains in [false, true] {
        let mut extent = SparseImage::new(40 * GRAIN).omit_empty_tables().data(0, [1; SECTOR]);
        if zero_grains {
            extent = extent.with_zero_grains();
        }
        let child = Image::child(&base, "disk.vmdk", extent);
        let disk = Watched::new(vec![base.clone(), child]);
        let len = disk.files["disk.vmdk"].len().unwrap();
        disk.image.discard(0, 40 * GRAIN).unwrap();
        disk.image.flush().unwrap();
        assert!(disk.take().lens.is_empty());
        assert_eq!(disk.files["disk.vmdk"].len().unwrap(), len);
        // Older data of the parent does not come back.
        let mut first = vec![1; index(GRAIN_BYTES)];
        disk.image.read_sectors(0, &mut first).unwrap();
        assert!(first.iter().all(|&byte| byte == 0) || first[..SECTOR] == [1; SECTOR]);
    }
}
