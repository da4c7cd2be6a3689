//! Where new grains go: above the end of the file, and into what was freed once the file is as long as a full disk.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::HashMap;
use std::sync::Arc;

use vmdk::{BlockDevice, MemoryStorage, OpenOptions, Storage, VmdkImage};

mod support;

use support::SECTOR;
use support::check::check;
use support::sparse::SparseImage;

/// Sectors of the disk: 64 grains of 8 sectors.
const SECTORS: u64 = 512;

struct Disk {
    files: HashMap<String, Arc<dyn Storage>>,
    storage: Arc<MemoryStorage>,
}

impl Disk {
    fn new(extent: &SparseImage) -> Self {
        let storage = Arc::new(MemoryStorage::new(extent.build()));
        let files = HashMap::from([("disk".to_owned(), storage.clone() as Arc<dyn Storage>)]);
        Self { files, storage }
    }

    fn open(&self) -> VmdkImage {
        OpenOptions::new().write(true).allow_bare_extent(true).open_with("disk", &self.files).unwrap()
    }

    /// Opens the disk, writes `byte` to the sectors, and closes it.
    fn write(&self, start: u64, sectors: usize, byte: u8) {
        let image = self.open();
        image.write_sectors(start, &vec![byte; sectors * SECTOR]).unwrap();
        image.close().unwrap();
    }

    fn discard(&self, start: u64, sectors: u64) {
        let image = self.open();
        image.discard(start, sectors).unwrap();
        image.close().unwrap();
    }

    fn len(&self) -> u64 {
        self.storage.len().unwrap()
    }

    fn content(&self) -> Vec<u8> {
        let mut content = vec![0; 512 * SECTOR];
        OpenOptions::new().open_with("disk", &self.files).unwrap().read_sectors(0, &mut content).unwrap();
        content
    }
}

#[test]
fn a_disk_that_is_written_and_discarded_for_ever_does_not_grow_for_ever() {
    for extent in
        [SparseImage::new(SECTORS).grain_sectors(8), SparseImage::new(SECTORS).grain_sectors(8).grain_shift(3)]
    {
        let disk = Disk::new(&extent);
        disk.write(0, 512, 1);
        let full = disk.len();
        let mut longest = 0;
        for round in 2..20 {
            disk.discard(64, 256);
            disk.write(64, 256, round);
            let mut expected = vec![1; 512 * SECTOR];
            expected[64 * SECTOR..320 * SECTOR].fill(round);
            assert!(disk.content() == expected, "round {round}");
            check(&disk.storage.to_vec()).expect_sound("a disk that was written again and again");
            longest = longest.max(disk.len());
        }
        assert!(longest <= full + 256 * SECTOR as u64 + 8 * SECTOR as u64, "{longest} after {full}");
    }
}

#[test]
fn what_lies_in_a_gap_never_shows() {
    let disk = Disk::new(&SparseImage::new(SECTORS).grain_sectors(8));
    disk.write(0, 512, 0xee);
    for _ in 0..2 {
        disk.discard(0, 512);
        // What a crash may have left where no grain is.
        let end = disk.len();
        disk.storage.write_all_at(&vec![0xdd; 40 * 8 * SECTOR], end - 40 * 8 * SECTOR as u64).unwrap();
        for grain in 0..64 {
            disk.write(grain * 8 + 3, 1, 7);
        }
        for grain in disk.content().chunks(8 * SECTOR) {
            let expected: Vec<u8> = (0..8).flat_map(|sector| [if sector == 3 { 7 } else { 0 }; SECTOR]).collect();
            assert!(grain == expected);
        }
    }
}

#[test]
fn the_file_ends_with_its_last_grain_after_a_close() {
    let disk = Disk::new(&SparseImage::new(SECTORS).grain_sectors(8));
    let before = disk.len();
    disk.write(100, 1, 5);
    assert_eq!(disk.len(), before.next_multiple_of(8 * SECTOR as u64) + 8 * SECTOR as u64);
}

#[test]
fn a_file_of_2_tib_without_a_number_left_at_its_end_goes_on_in_its_gaps() {
    const LIMIT: u64 = (1 << 32) * SECTOR as u64;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let extent = SparseImage::new(SECTORS).grain_sectors(8).data(5, vec![5; 8 * SECTOR]);
    std::fs::write(&path, extent.build()).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    if let Err(error) = file.set_len(LIMIT - 12 * SECTOR as u64) {
        println!("skipped: no file of 2 TiB here: {error}");
        return;
    }
    let image = OpenOptions::new().write(true).allow_bare_extent(true).open(&path).unwrap();
    let mut expected = vec![0; 512 * SECTOR];
    expected[40 * SECTOR..48 * SECTOR].fill(5);
    for (start, byte) in [(8, 1), (0, 2), (160, 3)] {
        image.write_sectors(start as u64, &[byte; 3 * SECTOR]).unwrap();
        expected[start * SECTOR..(start + 3) * SECTOR].fill(byte);
    }
    image.close().unwrap();
    drop(image);
    let mut read = vec![0; 512 * SECTOR];
    OpenOptions::new().open(&path).unwrap().read_sectors(0, &mut read).unwrap();
    assert!(read == expected);
    assert!(file.metadata().unwrap().len() <= LIMIT);
}

/// A descriptor may give a disk fewer sectors than the header of its extent has: the rest is hidden, and not free.
#[test]
fn what_a_descriptor_hides_of_an_extent_is_no_gap() {
    let hidden: Vec<u8> = (0..40 * 8 * SECTOR).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
    let grains = hidden.chunks(8 * SECTOR).enumerate();
    let extent = grains.fold(SparseImage::new(SECTORS).grain_sectors(8), |extent, (number, grain)| {
        extent.data(24 + number as u64, grain)
    });
    let disk = Disk::new(&extent);
    let text = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"custom\"\n\
                RW 189 SPARSE \"disk\"\n";
    let mut files = disk.files.clone();
    files.insert("text".to_owned(), Arc::new(MemoryStorage::new(text)));
    let open = || OpenOptions::new().write(true).open_with("text", &files).unwrap();
    for round in 1..6 {
        let image = open();
        image.write_sectors(0, &vec![round; 189 * SECTOR]).unwrap();
        image.close().unwrap();
        let image = open();
        image.discard(0, 189).unwrap();
        image.close().unwrap();
    }
    check(&disk.storage.to_vec()).expect_sound("the whole extent");
    assert!(disk.content()[24 * 8 * SECTOR..] == hidden);
}
