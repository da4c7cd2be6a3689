use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::extent::Payload;
use crate::image::fixtures::{Files, HELD, HOLD_NEXT, IMAGES, UNCLEAN_AT, read, refused, write_ends};
use crate::{BlockDevice, CacheMode, ErrorKind, Mapping, OpenOptions, PreparedWrite, SECTOR_SIZE, WriteFlags};

#[test]
fn a_frozen_disk_takes_no_writes_and_goes_on_when_it_is_thawed() {
    for names in IMAGES {
        let files = Files::of(names);
        let image = files.write();
        write_ends(&image, 1);
        let content = read(&image);
        let frozen = image.disk.freeze().unwrap();
        let changes = files.changes();
        assert_eq!(refused(&image), [ErrorKind::ReadOnly; 6], "{names:?}");
        image.flush().unwrap();
        assert_eq!(files.changes(), changes, "{names:?}");
        assert!(read(&image) == content, "{names:?}");
        assert!(!image.limits().read_only);
        drop(frozen);
        write_ends(&image, 2);
        image.close().unwrap();
        drop(image);
        let found = read(&files.open(&OpenOptions::new()));
        assert!(found[..SECTOR_SIZE] == [2; SECTOR_SIZE] && found.ends_with(&[2; SECTOR_SIZE]), "{names:?}");
        assert!(found[SECTOR_SIZE..found.len() - SECTOR_SIZE] == content[SECTOR_SIZE..content.len() - SECTOR_SIZE]);
    }
}

#[test]
fn what_was_written_before_a_freeze_is_published() {
    let files = Files::of(IMAGES[1]);
    let image = files.write();
    let sector = image.capacity_sectors() - 1;
    image.write_sectors(sector, &[7; SECTOR_SIZE]).unwrap();
    let frozen = image.disk.freeze().unwrap();
    let mut buf = [0; SECTOR_SIZE];
    files.open(&OpenOptions::new()).read_sectors(sector, &mut buf).unwrap();
    assert_eq!(buf, [7; SECTOR_SIZE]);
    drop(frozen);
}

#[test]
fn a_disk_that_has_ended_is_closed_and_can_be_read() {
    for names in IMAGES {
        let files = Files::of(names);
        let image = files.write();
        write_ends(&image, 3);
        let content = read(&image);
        image.disk.freeze().unwrap().end().unwrap();
        let changes = files.changes();
        let limits = *image.limits();
        assert_eq!((limits.read_only, limits.discard_granularity_sectors), (true, 0));
        assert_eq!(limits, *files.open(&OpenOptions::new()).limits());
        assert_eq!(refused(&image), [ErrorKind::ReadOnly; 6], "{names:?}");
        assert!(read(&image) == content, "{names:?}");
        image.flush().unwrap();
        // All of it once more.
        image.disk.freeze().unwrap().end().unwrap();
        let reader = files.open(&OpenOptions::new());
        assert_eq!(reader.content_id(), image.content_id(), "{names:?}");
        assert!(read(&reader) == content && reader.chain()[0].warnings().is_empty(), "{names:?}");
        image.close().unwrap();
        image.close().unwrap();
        assert_eq!(image.read_sectors(0, &mut []).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(image.disk.freeze().unwrap_err().kind(), ErrorKind::Closed);
        drop(image);
        assert_eq!(files.changes(), changes, "{names:?}");
    }
}

#[test]
fn the_end_clears_the_mark_and_gives_the_rest_of_the_file_back() {
    let files = Files::of(IMAGES[1]);
    let before = files.file().bytes().len();
    let image = files.write();
    let id = image.content_id();
    image.write_sectors(image.capacity_sectors() - 1, &[7; SECTOR_SIZE]).unwrap();
    let frozen = image.disk.freeze().unwrap();
    let bytes = files.file().bytes();
    assert!(bytes.len() > before + (1 << 20) && bytes[UNCLEAN_AT] == 1);
    frozen.end().unwrap();
    let bytes = files.file().bytes();
    assert!(bytes.len() <= before + (64 << 10) && bytes[UNCLEAN_AT] == 0, "{}", bytes.len());
    assert_ne!(image.content_id(), id);
    assert_eq!(image.chain()[0].content_id(), image.content_id());
}

#[test]
fn every_file_of_the_image_is_told_of_the_end_and_none_of_its_parents() {
    for names in IMAGES {
        let files = Files::of(names);
        let image = files.write();
        drop(image.disk.freeze().unwrap());
        image.disk.freeze().unwrap().end().unwrap();
        for (name, file) in &files.files {
            let is_own = !matches!(*name, "chain-base.vmdk" | "esx.vmdk" | "esx-flat.vmdk");
            assert_eq!(file.ends.load(Ordering::SeqCst), u64::from(is_own), "{name}");
        }
    }
}

#[test]
fn a_disk_that_was_opened_read_only_is_left_alone() {
    let files = Files::of(IMAGES[1]);
    let image = files.open(&OpenOptions::new());
    let frozen = image.disk.freeze().unwrap();
    assert_eq!(refused(&image), [ErrorKind::ReadOnly; 6]);
    frozen.end().unwrap();
    assert_eq!((files.changes(), files.file().ends.load(Ordering::SeqCst)), (0, 0));
    read(&image);
}

#[test]
fn a_poisoned_disk_is_not_frozen() {
    let files = Files::of(IMAGES[0]);
    let image = files.write();
    write_ends(&image, 1);
    files.file().fails_syncs.store(true, Ordering::SeqCst);
    assert_eq!(image.disk.freeze().unwrap_err().kind(), ErrorKind::Io);
    files.file().fails_syncs.store(false, Ordering::SeqCst);
    assert_eq!(image.disk.freeze().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(refused(&image), [ErrorKind::Poisoned; 6]);
    assert!(!image.limits().read_only);
}

#[test]
fn after_an_end_that_failed_the_disk_is_read_only_and_not_clean() {
    let files = Files::of(IMAGES[0]);
    let image = files.write();
    write_ends(&image, 1);
    let content = read(&image);
    let frozen = image.disk.freeze().unwrap();
    files.file().fails_syncs.store(true, Ordering::SeqCst);
    assert_eq!(frozen.end().unwrap_err().kind(), ErrorKind::Io);
    files.file().fails_syncs.store(false, Ordering::SeqCst);
    assert_eq!(refused(&image), [ErrorKind::ReadOnly; 6]);
    assert_eq!(image.flush().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(image.disk.freeze().unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(read(&image) == content);
    assert_eq!(image.close().unwrap_err().kind(), ErrorKind::Poisoned);
}

#[test]
fn a_lock_that_could_not_be_turned_around_can_be_tried_again() {
    let files = Files::of(IMAGES[0]);
    let image = files.write();
    write_ends(&image, 1);
    files.file().refuses_end.store(true, Ordering::SeqCst);
    assert_eq!(image.disk.freeze().unwrap().end().unwrap_err().kind(), ErrorKind::Io);
    assert!(image.limits().read_only);
    assert_eq!(files.file().bytes()[UNCLEAN_AT], 0);
    files.file().refuses_end.store(false, Ordering::SeqCst);
    image.disk.freeze().unwrap().end().unwrap();
}

#[test]
fn a_disk_with_prepared_writes_is_not_frozen() {
    let files = Files::of(IMAGES[1]);
    let image = files.write();
    let sector = image.capacity_sectors() - 1;
    let ends: [fn(PreparedWrite); 3] =
        [|prepared| prepared.commit().unwrap(), PreparedWrite::abort, |prepared| drop(prepared)];
    for end in ends {
        let prepared = image.prepare_write(sector, 1).unwrap();
        let range = &prepared.ranges()[0];
        range.storage.write_all_at(&[9; SECTOR_SIZE], range.offset).unwrap();
        assert_eq!(image.disk.freeze().unwrap_err().kind(), ErrorKind::Busy);
        image.write_sectors(0, &[1; SECTOR_SIZE]).unwrap();
        end(prepared);
        drop(image.disk.freeze().unwrap());
    }
    let frozen = image.disk.freeze().unwrap();
    assert_eq!(image.prepare_write(sector, 1).unwrap_err().kind(), ErrorKind::ReadOnly);
    frozen.end().unwrap();
}

#[test]
fn who_freezes_waits_for_another_who_does() {
    let files = Files::of(IMAGES[0]);
    let image = files.write();
    let frozen = image.disk.freeze().unwrap();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| image.disk.freeze().map(drop));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!other.is_finished());
        drop(frozen);
        other.join().unwrap().unwrap();
    });
    write_ends(&image, 1);
}

#[test]
fn a_close_in_between_is_the_end_as_well() {
    let files = Files::of(IMAGES[0]);
    let image = files.write();
    write_ends(&image, 1);
    let frozen = image.disk.freeze().unwrap();
    image.close().unwrap();
    assert_eq!(frozen.end().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(files.file().bytes()[UNCLEAN_AT], 0);
}

/// The data of a new grain is on its way while the disk is frozen, and arrives after that has ended.
#[test]
fn a_write_that_comes_back_after_the_end_has_failed_and_is_seen_by_nobody() {
    for mode in [CacheMode::Writeback, CacheMode::Writethrough, CacheMode::Unsafe] {
        let files = Files::of(IMAGES[1]);
        let image = files.open(&OpenOptions::new().write(true).cache_mode(mode));
        write_ends(&image, 4);
        let content = read(&image);
        let is_new = |sector: &u64| matches!(image.map_layer(*sector, 1).unwrap().mapping, Mapping::Unallocated);
        let sector = (0..image.capacity_sectors()).find(is_new).unwrap();
        let hold = &files.file().hold;
        std::thread::scope(|scope| {
            hold.store(HOLD_NEXT, Ordering::SeqCst);
            let late = scope.spawn(|| image.write_sectors(sector, &[5; SECTOR_SIZE]));
            while hold.load(Ordering::SeqCst) != HELD {
                std::thread::yield_now();
            }
            image.disk.freeze().unwrap().end().unwrap();
            let len = files.file().bytes().len();
            assert!(!late.is_finished());
            hold.store(0, Ordering::SeqCst);
            assert_eq!(late.join().unwrap().unwrap_err().kind(), ErrorKind::ReadOnly, "{mode:?}");
            assert_eq!(files.file().bytes().len(), len);
        });
        assert!(read(&image) == content);
        let reader = files.open(&OpenOptions::new());
        assert!(read(&reader) == content && reader.chain()[0].warnings().is_empty());
    }
}

/// It may have come too late for the flush, so that nobody may take it for one that will be durable.
#[test]
fn an_overwrite_that_comes_back_after_the_freeze_is_an_error() {
    let files = Files::of(IMAGES[0]);
    let image = files.write();
    write_ends(&image, 4);
    let hold = &files.file().hold;
    std::thread::scope(|scope| {
        hold.store(HOLD_NEXT, Ordering::SeqCst);
        let late = scope.spawn(|| image.write_sectors(0, &[5; SECTOR_SIZE]));
        while hold.load(Ordering::SeqCst) != HELD {
            std::thread::yield_now();
        }
        let frozen = image.disk.freeze().unwrap();
        hold.store(0, Ordering::SeqCst);
        assert_eq!(late.join().unwrap().unwrap_err().kind(), ErrorKind::ReadOnly);
        drop(frozen);
    });
    write_ends(&image, 6);
}

/// A request that was let through by the check, and begins when the disk has ended.
#[test]
fn a_write_that_begins_too_late_changes_neither_the_content_id_nor_the_file() {
    for names in IMAGES {
        let files = Files::of(names);
        let image = files.write();
        let writing = image.disk.writing().unwrap();
        let id = image.content_id();
        image.disk.freeze().unwrap().end().unwrap();
        let changes = files.changes();
        assert_eq!(image.disk.begin(writing).unwrap_err().kind(), ErrorKind::ReadOnly, "{names:?}");
        assert_eq!((image.content_id(), files.changes()), (id, changes));
        let late = image.disk.write(0, Payload::Bytes(&[1; SECTOR_SIZE]), WriteFlags::NONE);
        assert_eq!(late.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
}
