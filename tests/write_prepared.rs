//! Writes in two phases: prepared by the disk, filled by its user, committed or given up.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use vmdk::{BlockDevice, ErrorKind, Mapping, MemoryStorage, OpenOptions, PreparedWrite, Storage, VmdkImage};

use support::check::{Report, check};
use support::disk::{Image, Part};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::storage::{CountingStorage, FaultStorage};
use support::{SECTOR, byte_range, index};

const GRAIN: u64 = 128;

/// A chain that is open for writing, with everything in between that can watch and fail.
struct Disk {
    links: Vec<Image>,
    files: HashMap<String, (Arc<CountingStorage>, Arc<FaultStorage>)>,
    image: VmdkImage,
}

impl Disk {
    fn new(links: Vec<Image>) -> Self {
        let files = links.iter().flat_map(|link| &link.files);
        let files: HashMap<_, _> = files
            .map(|(name, bytes)| {
                let counting = CountingStorage::new(Arc::new(MemoryStorage::new(bytes.clone())));
                let fault = FaultStorage::new(Arc::clone(&counting) as Arc<dyn Storage>);
                (name.clone(), (counting, fault))
            })
            .collect();
        let image = open(&links, &files, &OpenOptions::new().write(true));
        Self { links, files, image }
    }

    /// Six grains, the last one partial, over a flat base with random content; the first grain is there.
    fn child() -> Self {
        let mut rng = Rng::new(61);
        let capacity = 5 * GRAIN + 37;
        let base = Image::monolithic_flat("base.vmdk", rng.bytes(byte_range(0, capacity).end));
        let extent = SparseImage::new(capacity).data(0, rng.bytes(index(GRAIN) * SECTOR));
        let child = Image::child(&base, "disk.vmdk", extent);
        Self::new(vec![base, child])
    }

    fn content(&self) -> Vec<u8> {
        self.links[self.links.len() - 1].content.clone()
    }

    fn read(&self) -> Vec<u8> {
        read(&self.image)
    }

    fn counting(&self) -> &CountingStorage {
        &self.files["disk.vmdk"].0
    }

    /// Closes the disk; what another reader finds, and what the checker says of its extent.
    fn close(self) -> (Vec<u8>, Report) {
        self.image.close().unwrap();
        let bytes = bytes_of(self.counting());
        let report = check(&bytes);
        report.expect_sound("the disk");
        (read(&open(&self.links, &self.files, &OpenOptions::new())), report)
    }
}

fn open(
    links: &[Image],
    files: &HashMap<String, (Arc<CountingStorage>, Arc<FaultStorage>)>,
    options: &OpenOptions,
) -> VmdkImage {
    let resolver = |name: &str| files.get(name).map(|(_, file)| Arc::clone(file) as Arc<dyn Storage>);
    options.open_with(&links[links.len() - 1].name, &resolver).unwrap()
}

fn read(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0xee; byte_range(0, image.capacity_sectors()).end];
    image.read_sectors(0, &mut content).unwrap();
    content
}

fn bytes_of(storage: &dyn Storage) -> Vec<u8> {
    let mut bytes = vec![0; index(storage.len().unwrap())];
    storage.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// What the owner does: `bytes` go where the ranges say.
fn put(write: &PreparedWrite, bytes: &[u8]) {
    let first = write.ranges()[0].start;
    for range in write.ranges() {
        range.storage.write_all_at(&bytes[byte_range(range.start - first, range.sectors)], range.offset).unwrap();
    }
}

fn is_unallocated(image: &VmdkImage, sector: u64) -> bool {
    matches!(image.map_layer(sector, 1).unwrap().mapping, Mapping::Unallocated)
}

#[test]
fn readers_see_the_old_content_until_the_commit_and_the_parent_around_it_afterwards() {
    let disk = Disk::child();
    let mut content = disk.content();
    let bytes = Rng::new(1).bytes(200 * SECTOR);
    // From within one new grain into the next.
    let write = disk.image.prepare_write(GRAIN + 100, 200).unwrap();
    put(&write, &bytes);
    assert!(disk.read() == content);
    assert!(is_unallocated(&disk.image, GRAIN + 100));
    disk.image.flush().unwrap();
    assert!(disk.read() == content && is_unallocated(&disk.image, 2 * GRAIN));
    write.commit().unwrap();
    content[byte_range(GRAIN + 100, 200)].copy_from_slice(&bytes);
    assert!(disk.read() == content);
    let (found, report) = disk.close();
    assert!(found == content);
    assert_eq!((report.data_grains, report.leaked_grains), (4, 0));
}

#[test]
fn the_last_grain_which_the_disk_cuts_is_filled_as_far_as_it_goes() {
    let disk = Disk::child();
    let mut content = disk.content();
    let capacity = disk.image.capacity_sectors();
    let write = disk.image.prepare_write(capacity - 1, 1).unwrap();
    put(&write, &[0x77; SECTOR]);
    write.commit().unwrap();
    content[byte_range(capacity - 1, 1)].fill(0x77);
    assert!(disk.read() == content);
    assert!(disk.close().0 == content);
}

#[test]
fn a_grain_that_is_prepared_is_busy_for_everybody_and_the_next_one_is_not() {
    let disk = Disk::child();
    let mut content = disk.content();
    let write = disk.image.prepare_write(GRAIN, 1).unwrap();
    let busy = [
        disk.image.prepare_write(GRAIN, 1).unwrap_err(),
        disk.image.prepare_write(2 * GRAIN - 1, 1).unwrap_err(),
        disk.image.prepare_write(2 * GRAIN - 1, 2).unwrap_err(),
        disk.image.write_sectors(2 * GRAIN - 1, &[1; SECTOR]).unwrap_err(),
        disk.image.write_sectors(GRAIN, &[1; SECTOR]).unwrap_err(),
        disk.image.write_zeroes(GRAIN, 1, false).unwrap_err(),
    ];
    for error in busy {
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    }
    // A write that ends in it: what comes before may have been written.
    assert_eq!(disk.image.write_sectors(GRAIN - 1, &[1; 2 * SECTOR]).unwrap_err().kind(), ErrorKind::Busy);
    let mut before = [0; SECTOR];
    disk.image.read_sectors(GRAIN - 1, &mut before).unwrap();
    assert!(before == [1; SECTOR] || before == content[byte_range(GRAIN - 1, 1)]);
    content[byte_range(GRAIN - 1, 1)].copy_from_slice(&before);

    disk.image.write_sectors(2 * GRAIN, &[2; SECTOR]).unwrap();
    content[byte_range(2 * GRAIN, 1)].fill(2);
    disk.image.discard(GRAIN, GRAIN).unwrap();
    disk.image.flush().unwrap();
    assert!(disk.read() == content);
    put(&write, &[3; SECTOR]);
    write.commit().unwrap();
    content[byte_range(GRAIN, 1)].fill(3);
    disk.image.write_sectors(2 * GRAIN - 1, &[4; SECTOR]).unwrap();
    content[byte_range(2 * GRAIN - 1, 1)].fill(4);
    assert!(disk.read() == content);
    let (found, report) = disk.close();
    assert!(found == content);
    assert_eq!(report.leaked_grains, 0);
}

/// A prepare of more than there is free must leave nothing of it behind.
#[test]
fn a_prepare_that_is_busy_in_part_gives_back_what_it_has_got() {
    let disk = Disk::child();
    let middle = disk.image.prepare_write(3 * GRAIN, 1).unwrap();
    for _ in 0..3 {
        assert_eq!(disk.image.prepare_write(0, 5 * GRAIN).unwrap_err().kind(), ErrorKind::Busy);
    }
    disk.image.write_sectors(GRAIN, &[1; SECTOR]).unwrap();
    disk.image.write_sectors(4 * GRAIN, &[1; SECTOR]).unwrap();
    middle.abort();
    let whole = disk.image.prepare_write(0, 5 * GRAIN).unwrap();
    whole.abort();
    // That of the one in the middle lies between others, and would be used next.
    assert_eq!(disk.close().1.leaked_grains, 1);
}

#[test]
fn an_abort_gives_the_space_back_however_often() {
    let disk = Disk::child();
    let content = disk.content();
    let places = |write: &PreparedWrite| write.ranges().iter().map(|range| range.offset).collect::<Vec<_>>();
    let first = disk.image.prepare_write(GRAIN, 3 * GRAIN).unwrap();
    let expected = places(&first);
    first.abort();
    for _ in 0..500 {
        let write = disk.image.prepare_write(GRAIN, 3 * GRAIN).unwrap();
        assert_eq!(places(&write), expected);
        put(&write, &vec![9; byte_range(0, 3 * GRAIN).end]);
        write.abort();
    }
    assert!(disk.read() == content);
    // What was written there is not seen in the next new grain.
    let mut after = content;
    disk.image.write_sectors(GRAIN + 5, &[1; SECTOR]).unwrap();
    after[byte_range(GRAIN + 5, 1)].fill(1);
    let (found, report) = disk.close();
    assert!(found == after);
    assert_eq!((report.data_grains, report.leaked_grains), (2, 0));
}

#[test]
fn a_dropped_one_leaks_its_space_and_the_grain_can_be_written_at_once() {
    let disk = Disk::child();
    let mut content = disk.content();
    let write = disk.image.prepare_write(GRAIN, GRAIN).unwrap();
    let place = write.ranges()[0].offset;
    let storage = Arc::clone(&write.ranges()[0].storage);
    drop(write);
    assert!(disk.read() == content);
    let again = disk.image.prepare_write(GRAIN, GRAIN).unwrap();
    assert_ne!(again.ranges()[0].offset, place);
    drop(again);
    disk.image.write_sectors(GRAIN, &[5; SECTOR]).unwrap();
    content[byte_range(GRAIN, 1)].fill(5);
    // What was still on its way arrives where nobody looks.
    storage.write_all_at(&vec![0xbb; 100 * SECTOR], place).unwrap();
    assert!(disk.read() == content);
    let (found, report) = disk.close();
    assert!(found == content);
    assert_eq!((report.data_grains, report.leaked_grains), (2, 2));
}

#[test]
fn what_comes_after_the_close_is_closed_and_does_not_touch_the_host() {
    for end in 0..3 {
        let disk = Disk::child();
        let content = disk.content();
        let write = disk.image.prepare_write(GRAIN, 2).unwrap();
        put(&write, &[5; 2 * SECTOR]);
        disk.image.close().unwrap();
        disk.counting().take();
        let before = bytes_of(disk.counting());
        match end {
            0 => assert_eq!(write.commit().unwrap_err().kind(), ErrorKind::Closed),
            1 => write.abort(),
            _ => drop(write),
        }
        let counts = disk.counting().counts();
        assert!(!counts.touched() && counts.syncs == 0, "{end}: {counts:?}");
        assert!(bytes_of(disk.counting()) == before);
        assert!(disk.close().0 == content);
    }
}

#[test]
fn it_outlives_its_image_and_goes_to_another_thread() {
    fn send<T: Send + 'static>(value: T) -> T {
        value
    }
    let disk = Disk::child();
    let mut content = disk.content();
    let write = send(disk.image.prepare_write(2 * GRAIN, 3).unwrap());
    let committed = std::thread::spawn(move || {
        put(&write, &[8; 3 * SECTOR]);
        write.commit()
    });
    committed.join().unwrap().unwrap();
    content[byte_range(2 * GRAIN, 3)].fill(8);
    assert!(disk.read() == content);

    let late = send(disk.image.prepare_write(3 * GRAIN, 3).unwrap());
    let Disk { links, files, image } = disk;
    drop(image);
    let late = std::thread::spawn(move || late.commit().unwrap_err().kind());
    assert_eq!(late.join().unwrap(), ErrorKind::Closed);
    assert!(read(&open(&links, &files, &OpenOptions::new())) == content);
}

#[test]
fn a_write_over_several_extents_has_a_range_in_each_of_their_files() {
    let mut rng = Rng::new(62);
    let base = Image::monolithic_flat("base.vmdk", rng.bytes(300 * SECTOR));
    let flat = rng.bytes(100 * SECTOR);
    let parts = vec![
        Part::sparse("one", &SparseImage::new(100).grain_sectors(8).data(12, [1])),
        Part::flat_in("RW", "flat", 3, &flat[3 * SECTOR..]).with_file("flat", flat.clone()),
        Part::sparse("two", &SparseImage::new(100).grain_sectors(16)),
    ];
    let child = Image::link_of_parts("disk.vmdk", "custom", parts, Some(&base));
    let disk = Disk::new(vec![base, child]);
    let mut content = disk.content();
    let bytes = rng.bytes(110 * SECTOR);
    let write = disk.image.prepare_write(90, 110).unwrap();
    let ranges: Vec<_> = write.ranges().iter().map(|range| (range.start, range.sectors)).collect();
    // New grains, one that is there, the flat file, and a new grain of the other.
    assert_eq!(ranges, [(90, 6), (96, 4), (100, 97), (197, 3)]);
    assert_eq!(write.ranges()[2].offset, 3 * SECTOR as u64);
    put(&write, &bytes);
    let mut now = disk.read();
    // What had its place is written there and then.
    for (start, count) in [(90, 6), (197, 3)] {
        assert!(now[byte_range(start, count)] == content[byte_range(start, count)]);
    }
    write.commit().unwrap();
    content[byte_range(90, 110)].copy_from_slice(&bytes);
    now = disk.read();
    assert!(now == content);
    disk.image.close().unwrap();
    for name in ["one", "two"] {
        check(&bytes_of(&*disk.files[name].0)).expect_sound(name);
    }
    assert!(read(&open(&disk.links, &disk.files, &OpenOptions::new())) == content);
}

#[test]
fn a_flush_after_the_commit_makes_durable_what_was_in_its_place_already() {
    let disk = Disk::child();
    // The first change of an open disk has syncs of its own.
    disk.image.write_sectors(0, &[1; SECTOR]).unwrap();
    disk.image.flush().unwrap();
    let write = disk.image.prepare_write(3, 2).unwrap();
    put(&write, &[6; 2 * SECTOR]);
    write.commit().unwrap();
    disk.counting().take();
    disk.image.flush().unwrap();
    assert_eq!(disk.counting().take().syncs, 1);
    disk.image.flush().unwrap();
    assert_eq!(disk.counting().take().syncs, 0);
}

#[test]
fn a_commit_that_cannot_read_the_parent_changes_nothing_and_can_be_tried_anew() {
    let disk = Disk::child();
    let mut content = disk.content();
    let write = disk.image.prepare_write(GRAIN + 3, 2).unwrap();
    put(&write, &[6; 2 * SECTOR]);
    disk.files["base-flat.vmdk"].1.fail_nth_read(0);
    assert_eq!(write.commit().unwrap_err().kind(), ErrorKind::Io);
    assert!(disk.read() == content);
    let write = disk.image.prepare_write(GRAIN + 3, 2).unwrap();
    put(&write, &[7; 2 * SECTOR]);
    write.commit().unwrap();
    content[byte_range(GRAIN + 3, 2)].fill(7);
    assert!(disk.read() == content);
    let (found, report) = disk.close();
    assert!(found == content);
    assert_eq!(report.leaked_grains, 0);
}
