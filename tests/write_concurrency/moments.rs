//! Single moments, forced: a lookup that misses while a table is published, and two writers that want one grain.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vmdk::{BlockDevice, ErrorKind, OpenOptions, VmdkImage};

use crate::gate::{Call, Gate};
use crate::support::disk::Image;
use crate::support::rng::Rng;
use crate::support::sparse::SparseImage;
use crate::support::{SECTOR, byte_range};
use crate::{Files, read, sector};

/// Sectors that a table covers: 128 grains of 8 sectors.
const TABLE: u64 = 128 * 8;

/// Two tables without a grain, over a flat disk.
fn child() -> Files {
    let base = Image::monolithic_flat("base.vmdk", Rng::new(71).bytes(byte_range(0, 2 * TABLE).end));
    let extent = SparseImage::new(2 * TABLE).grain_sectors(8).entries_per_table(128);
    let child = Image::child(&base, "disk.vmdk", extent);
    Files::new(vec![base, child])
}

/// Where the first table is, in bytes.
fn first_table() -> Range<u64> {
    let extent = SparseImage::new(2 * TABLE).grain_sectors(8).entries_per_table(128).descriptor(Vec::new());
    let start = extent.layout().gt[0] * SECTOR as u64;
    start..start + SECTOR as u64
}

/// An image that keeps one table, and its file.
fn open(files: &Files) -> (Arc<VmdkImage>, Arc<Gate>) {
    let image = files.open(&OpenOptions::new().write(true).cached_tables(1));
    // What is done once is done.
    image.write_sectors(TABLE, &[9; SECTOR]).unwrap();
    image.flush().unwrap();
    (Arc::new(image), Arc::clone(&files.gates["disk.vmdk"]))
}

fn in_thread<R: Send + 'static>(
    image: &Arc<VmdkImage>,
    work: impl FnOnce(&VmdkImage) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let image = Arc::clone(image);
    thread::spawn(move || work(&image))
}

/// Puts the other table into the cache.
fn evict_the_first_table(image: &VmdkImage) {
    assert_eq!(sector(image, TABLE), [9; SECTOR]);
}

fn finish(files: &Files, image: &VmdkImage, written: &[(u64, u8)]) {
    let mut content = files.content();
    for &(number, byte) in written.iter().chain(&[(TABLE, 9)]) {
        content[byte_range(number, 1)].fill(byte);
    }
    assert!(read(image) == content);
    image.close().unwrap();
    let grains: std::collections::BTreeSet<u64> = written.iter().map(|(number, _)| number / 8).collect();
    let report = files.expect("disk.vmdk", &content);
    assert_eq!((report.data_grains, report.leaked_grains), (grains.len() as u64 + 1, 0));
}

/// Publication: sync, tables, sync. In whichever of the two it is held up, the table on disk may be the old one.
#[test]
fn a_lookup_that_misses_while_a_flush_publishes_sees_what_is_pending() {
    for sync in [0, 1] {
        let files = child();
        let (image, gate) = open(&files);
        image.write_sectors(3, &[1; SECTOR]).unwrap();
        evict_the_first_table(&image);
        gate.arm(Call::Sync(sync));
        let flush = in_thread(&image, BlockDevice::flush);
        gate.wait();
        assert_eq!(sector(&image, 3), [1; SECTOR]);
        // Later entries of the same table wait for the next publication, and are seen all the same.
        image.write_sectors(40, &[2; SECTOR]).unwrap();
        evict_the_first_table(&image);
        assert_eq!([sector(&image, 3), sector(&image, 40)], [[1; SECTOR], [2; SECTOR]]);
        assert!(!flush.is_finished());
        gate.open();
        flush.join().unwrap().unwrap();
        evict_the_first_table(&image);
        assert_eq!([sector(&image, 3), sector(&image, 40)], [[1; SECTOR], [2; SECTOR]]);
        finish(&files, &image, &[(3, 1), (40, 2)]);
    }
}

/// The table was read before the publication, and is looked at after it.
#[test]
fn a_lookup_that_has_read_an_old_table_looks_again_after_a_publication() {
    let files = child();
    let (image, gate) = open(&files);
    evict_the_first_table(&image);
    gate.arm(Call::Read(first_table()));
    let reader = in_thread(&image, |image| sector(image, 3));
    gate.wait();
    image.write_sectors(3, &[1; SECTOR]).unwrap();
    image.flush().unwrap();
    evict_the_first_table(&image);
    gate.open();
    let found = reader.join().unwrap();
    let old = &files.content()[byte_range(3, 1)];
    assert!(found == [1; SECTOR] || found == old);
    // What the reader has put into the cache is what everybody sees from now on.
    assert_eq!(sector(&image, 3), [1; SECTOR]);
    finish(&files, &image, &[(3, 1)]);
}

#[test]
fn a_lookup_that_has_read_an_old_table_sees_what_became_pending_meanwhile() {
    let files = child();
    let (image, gate) = open(&files);
    evict_the_first_table(&image);
    gate.arm(Call::Read(first_table()));
    let reader = in_thread(&image, |image| sector(image, 3));
    gate.wait();
    image.write_sectors(3, &[1; SECTOR]).unwrap();
    evict_the_first_table(&image);
    gate.open();
    reader.join().unwrap();
    assert_eq!(sector(&image, 3), [1; SECTOR]);
    finish(&files, &image, &[(3, 1)]);
}

/// As above, but the entry changes twice: what is published is older than what is pending.
#[test]
fn an_entry_that_changes_while_it_is_published_keeps_the_newer_value() {
    let files = child();
    let (image, gate) = open(&files);
    image.write_sectors(3, &[1; SECTOR]).unwrap();
    gate.arm(Call::Sync(1));
    let flush = in_thread(&image, BlockDevice::flush);
    gate.wait();
    let write = image.prepare_write(80, 1).unwrap();
    write.ranges()[0].storage.write_all_at(&[4; SECTOR], write.ranges()[0].offset).unwrap();
    write.commit().unwrap();
    image.write_sectors(3, &[2; SECTOR]).unwrap();
    gate.open();
    flush.join().unwrap().unwrap();
    evict_the_first_table(&image);
    finish(&files, &image, &[(3, 2), (80, 4)]);
}

#[test]
fn a_flush_that_comes_during_another_waits_for_it_and_does_the_rest() {
    let files = child();
    let (image, gate) = open(&files);
    image.write_sectors(3, &[1; SECTOR]).unwrap();
    gate.arm(Call::Sync(0));
    let first = in_thread(&image, BlockDevice::flush);
    gate.wait();
    image.write_sectors(40, &[2; SECTOR]).unwrap();
    let second = in_thread(&image, BlockDevice::flush);
    thread::sleep(Duration::from_millis(50));
    assert!(!first.is_finished() && !second.is_finished());
    gate.open();
    first.join().unwrap().unwrap();
    second.join().unwrap().unwrap();
    // Both are in the file, although nobody has closed it.
    let reader = files.open(&OpenOptions::new());
    assert_eq!([sector(&reader, 3), sector(&reader, 40)], [[1; SECTOR], [2; SECTOR]]);
    drop(reader);
    finish(&files, &image, &[(3, 1), (40, 2)]);
}

/// While the first writer's bytes are on their way, readers see the old content and other grains go on.
#[test]
fn two_writers_to_one_new_grain_wait_for_each_other_and_share_it() {
    let files = child();
    let (image, gate) = open(&files);
    let old = files.content();
    gate.arm(Call::Write(first_table().end..u64::MAX));
    let first = in_thread(&image, |image| image.write_sectors(3, &[1; SECTOR]));
    gate.wait();
    let second = in_thread(&image, |image| image.write_sectors(5, &[2; SECTOR]));
    let zeroes = in_thread(&image, |image| image.write_zeroes(6, 1, false));
    thread::sleep(Duration::from_millis(50));
    assert!(!first.is_finished() && !second.is_finished() && !zeroes.is_finished());
    for number in 0..8 {
        assert_eq!(sector(&image, number), old[byte_range(number, 1)]);
    }
    image.write_sectors(40, &[4; SECTOR]).unwrap();
    image.flush().unwrap();
    assert_eq!(sector(&image, 40), [4; SECTOR]);
    gate.open();
    for writer in [first, second, zeroes] {
        writer.join().unwrap().unwrap();
    }
    finish(&files, &image, &[(3, 1), (5, 2), (6, 0), (40, 4)]);
}

/// It is as if the one that fails had never come.
#[test]
fn a_writer_that_waits_for_one_that_fails_goes_on() {
    let files = child();
    let (image, gate) = open(&files);
    gate.arm(Call::Write(first_table().end..u64::MAX));
    let first = in_thread(&image, |image| image.write_sectors(3, &[1; SECTOR]));
    gate.wait();
    let second = in_thread(&image, |image| image.write_sectors(5, &[2; SECTOR]));
    thread::sleep(Duration::from_millis(20));
    assert!(!second.is_finished());
    gate.fail();
    assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::Io);
    second.join().unwrap().unwrap();
    image.flush().unwrap();
    finish(&files, &image, &[(5, 2)]);
}

/// A failed write of data has changed nothing, a failed sync or write of a table leaves everything open.
#[test]
fn a_sync_that_fails_poisons_the_image_and_reads_go_on() {
    for sync in [0, 1] {
        let files = child();
        let (image, gate) = open(&files);
        image.write_sectors(3, &[1; SECTOR]).unwrap();
        gate.arm(Call::Sync(sync));
        let flush = in_thread(&image, BlockDevice::flush);
        gate.wait();
        let second = in_thread(&image, BlockDevice::flush);
        thread::sleep(Duration::from_millis(20));
        gate.fail();
        assert_eq!(flush.join().unwrap().unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(
            second.join().unwrap().unwrap_err().kind(),
            ErrorKind::Poisoned,
            "nobody is told that it is durable"
        );
        assert_eq!(image.write_sectors(3, &[2; SECTOR]).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(image.prepare_write(90, 1).unwrap_err().kind(), ErrorKind::Poisoned);
        evict_the_first_table(&image);
        assert_eq!(sector(&image, 3), [1; SECTOR]);
        assert_eq!(image.close().unwrap_err().kind(), ErrorKind::Poisoned);
    }
}
