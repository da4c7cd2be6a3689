//! The first write gives the tracking up, and nothing before it does.

use std::fs;

use vmdk::{BlockDevice, CreateOptions, ErrorKind, OpenOptions, VmdkImage, WriteFlags};

use super::support::{SECTOR, byte_range};
use super::{CTK, DROPPED, Host, Tracked, ctk, dropping, read, text, without_ids};

#[test]
fn the_descriptor_is_what_it_was_before_the_tracking_and_has_another_content_id() {
    let host = Host::new();
    let image = dropping().open(host.disk()).unwrap();
    let old = image.content_id().unwrap();
    image.write_sectors(3, &[3; SECTOR]).unwrap();
    let new = image.content_id().unwrap();
    assert_ne!(new, old);
    let dropped = image.dropped_tracking().unwrap();
    assert_eq!((&*dropped.file, dropped.renamed_to.as_deref()), (CTK, Some(DROPPED)));
    assert_eq!(dropped.left_because, None);
    // More of them change nothing more.
    let after = host.text();
    image.write_sectors(4, &[4; SECTOR]).unwrap();
    image.close().unwrap();
    drop(image);
    assert_eq!(host.text(), after);
    assert_eq!(without_ids(&after), without_ids(&text(false).to_string()));
    assert_eq!(host.names(), ["disk-ctk.vmdk.dropped", "disk-flat.vmdk", "disk.vmdk"]);
    assert_eq!(fs::read(host.path(DROPPED)).unwrap(), ctk());

    let mut expected = host.content.clone();
    expected[byte_range(3, 1)].fill(3);
    expected[byte_range(4, 1)].fill(4);
    let image = VmdkImage::open(host.disk()).unwrap();
    assert!(read(&image) == expected);
    assert_eq!((image.content_id(), image.descriptor().version()), (Some(new), 1));
    assert_eq!(image.descriptor().long_content_id().unwrap() & 0xffff_ffff, new.value().into());
    drop(image);
    // It is a disk like any other.
    let image = OpenOptions::new().write(true).open(host.disk()).unwrap();
    image.write_sectors(0, &[0; SECTOR]).unwrap();
    image.close().unwrap();
}

#[test]
fn opening_reading_flushing_and_closing_leave_it_tracked() {
    for disk in [Tracked::flat(), Tracked::embedded()] {
        let dir = disk.write();
        let path = dir.path().join("disk.vmdk");
        let before = fs::read(&path).unwrap();
        let image = dropping().open(&path).unwrap();
        assert!(read(&image) == disk.content);
        assert_eq!(image.write_sectors(1 << 40, &[0; SECTOR]).unwrap_err().kind(), ErrorKind::OutOfRange);
        image.write_sectors(0, &[]).unwrap();
        image.flush().unwrap();
        assert_eq!(image.dropped_tracking(), None);
        image.close().unwrap();
        drop(image);
        assert!(fs::read(&path).unwrap() == before);
        assert_eq!(fs::read(dir.path().join(CTK)).unwrap(), ctk());
        // A child of it is written to, and it is not.
        let image = dropping().open(&path).unwrap_or_else(|error| panic!("{error}"));
        let child = image.create_child(dir.path().join("child.vmdk"), &CreateOptions::new()).unwrap();
        child.write_sectors(0, &[1; SECTOR]).unwrap();
        child.close().unwrap();
        assert_eq!(child.descriptor().change_track_path(), None);
        drop((image, child));
        assert!(fs::read(&path).unwrap() == before);
        // And it is only for disks that are written.
        let image = OpenOptions::new().drop_change_tracking(true).open(&path).unwrap();
        assert_eq!(image.write_sectors(0, &[0; SECTOR]).unwrap_err().kind(), ErrorKind::ReadOnly);
        assert!(fs::read(&path).unwrap() == before);
    }
}

type Write = fn(&VmdkImage);

#[test]
fn every_kind_of_write_is_the_first() {
    let writes: [(&str, Write); 5] = [
        ("write", |image| image.write_sectors(0, &[1; SECTOR]).unwrap()),
        ("fua", |image| {
            let bytes = [1; SECTOR];
            image.write_sectors_vectored(0, &[std::io::IoSlice::new(&bytes)], WriteFlags::FUA).unwrap();
        }),
        ("zeroes", |image| image.write_zeroes(8, 8, true).unwrap()),
        ("discard", |image| image.discard(8, 8).unwrap()),
        ("prepare", |image| image.prepare_write(0, 1).unwrap().abort()),
    ];
    for disk in [Tracked::flat(), Tracked::embedded()] {
        for (what, write) in writes {
            let dir = disk.write();
            let path = dir.path().join("disk.vmdk");
            let image = dropping().open(&path).unwrap();
            write(&image);
            assert!(image.dropped_tracking().is_some(), "{what}");
            image.close().unwrap();
            drop(image);
            let image = VmdkImage::open(&path).unwrap();
            assert_eq!((image.descriptor().change_track_path(), image.descriptor().version()), (None, 1), "{what}");
            assert!(dir.path().join(DROPPED).exists(), "{what}");
        }
    }
}

#[test]
fn a_disk_that_is_not_tracked_is_written_to_as_ever() {
    let host = Host::new();
    fs::write(host.disk(), text(false).to_string()).unwrap();
    let image = dropping().open(host.disk()).unwrap();
    image.write_sectors(3, &[3; SECTOR]).unwrap();
    image.close().unwrap();
    assert_eq!(image.dropped_tracking(), None);
    assert_eq!(without_ids(&host.text()), without_ids(&text(false).to_string()));
    assert_eq!(fs::read(host.path(CTK)).unwrap(), ctk());
}

#[test]
fn an_embedded_descriptor_changes_in_its_file() {
    let disk = Tracked::embedded();
    let dir = disk.write();
    let path = dir.path().join("disk.vmdk");
    let image = dropping().open(&path).unwrap();
    image.write_sectors(9, &[9; SECTOR]).unwrap();
    image.close().unwrap();
    drop(image);
    let mut expected = disk.content.clone();
    expected[byte_range(9, 1)].fill(9);
    let image = VmdkImage::open(&path).unwrap();
    assert!(read(&image) == expected);
    let original = String::from_utf8(disk.files[0].1[512..].split(|&byte| byte == 0).next().unwrap().to_vec()).unwrap();
    let plain = original
        .replace("version=3", "version=1")
        .replace("# Change Tracking File\nchangeTrackPath=\"disk-ctk.vmdk\"\n\n", "");
    let now = String::from_utf8(image.descriptor().as_bytes().to_vec()).unwrap();
    assert_eq!(without_ids(&now), without_ids(&plain));
    assert_eq!(image.chain()[0].warnings(), [""; 0]);
}

#[test]
fn what_a_resolver_has_supplied_changes_where_it_can() {
    use std::collections::HashMap;
    use std::sync::Arc;
    use vmdk::{MemoryStorage, Storage};
    let files = |disk: &Tracked| -> HashMap<String, Arc<dyn Storage>> {
        let files = disk.files.iter().map(|(name, bytes)| (name.clone(), MemoryStorage::new(bytes.clone())));
        files.map(|(name, file)| (name, Arc::new(file) as Arc<dyn Storage>)).collect()
    };
    for (disk, options) in [
        (Tracked::embedded(), dropping()),
        (Tracked::embedded(), dropping().rewrite_descriptor(true)),
        (Tracked::flat(), dropping().rewrite_descriptor(true)),
    ] {
        let files = files(&disk);
        let image = options.open_with("disk.vmdk", &files).unwrap();
        image.write_sectors(0, &[1; SECTOR]).unwrap();
        let dropped = image.dropped_tracking().unwrap();
        assert!(dropped.renamed_to.is_none() && dropped.left_because.as_ref().unwrap().contains("resolver"));
        image.close().unwrap();
        let image = OpenOptions::new().open_with("disk.vmdk", &files).unwrap();
        assert_eq!(image.descriptor().change_track_path(), None);
        let mut expected = disk.content.clone();
        expected[..SECTOR].fill(1);
        assert!(read(&image) == expected);
    }
    // A file that cannot be replaced, and may not be rewritten.
    let files = files(&Tracked::flat());
    let error = dropping().open_with("disk.vmdk", &files).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("rewrite_descriptor"), "{error}");
}

#[test]
fn the_tracking_ends_without_a_write_as_well() {
    for disk in [Tracked::flat(), Tracked::embedded()] {
        let dir = disk.write();
        let path = dir.path().join("disk.vmdk");
        let id = VmdkImage::open(&path).unwrap().content_id();
        let dropped = OpenOptions::new().stop_change_tracking(&path).unwrap().unwrap();
        assert_eq!((&*dropped.file, dropped.renamed_to.as_deref()), (CTK, Some(DROPPED)));
        let image = VmdkImage::open(&path).unwrap();
        assert!(read(&image) == disk.content);
        // No content has changed.
        assert_eq!((image.content_id(), image.descriptor().version()), (id, 1));
        assert_eq!(image.descriptor().change_track_path(), None);
        drop(image);
        let before = fs::read(&path).unwrap();
        assert_eq!(OpenOptions::new().stop_change_tracking(&path).unwrap(), None);
        assert!(fs::read(&path).unwrap() == before);
    }
    let host = Host::new();
    OpenOptions::new().stop_change_tracking(host.disk()).unwrap();
    assert_eq!(host.text(), text(false).to_string());
}

/// Nothing but the descriptor is needed for that, and the tracking file need not be there.
#[test]
fn a_disk_without_its_extents_or_tracking_file_is_tracked_no_more_either() {
    let host = Host::new();
    fs::remove_file(host.path("disk-flat.vmdk")).unwrap();
    fs::remove_file(host.path(CTK)).unwrap();
    let dropped = OpenOptions::new().stop_change_tracking(host.disk()).unwrap().unwrap();
    assert_eq!((dropped.renamed_to, dropped.left_because), (None, None));
    assert_eq!(host.text(), text(false).to_string());
    assert_eq!(host.names(), ["disk.vmdk"]);
    // A raw device map as ESX tracks it.
    let text = |tracked| text(tracked).to_string().replace("VMFS", "VMFSRDM").replace("\"vmfs\"", "\"vmfsRDM\"");
    fs::write(host.disk(), text(true)).unwrap();
    OpenOptions::new().stop_change_tracking(host.disk()).unwrap().unwrap();
    assert_eq!(host.text(), text(false));
}

#[cfg(unix)]
#[test]
fn the_new_descriptor_is_locked_and_as_private_as_the_old_one() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    fs::set_permissions(host.disk(), fs::Permissions::from_mode(0o640)).unwrap();
    let image = dropping().open(host.disk()).unwrap();
    image.write_sectors(0, &[1; SECTOR]).unwrap();
    for options in [OpenOptions::new(), OpenOptions::new().write(true)] {
        assert_eq!(options.open(host.disk()).unwrap_err().kind(), ErrorKind::Locked);
    }
    // That needs the descriptor alone, and not the extent, which has a lock as well.
    assert_eq!(OpenOptions::new().stop_change_tracking(host.disk()).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(fs::metadata(host.disk()).unwrap().permissions().mode() & 0o777, 0o640);
    image.close().unwrap();
    drop(image);
    OpenOptions::new().write(true).open(host.disk()).unwrap();
}

/// Its version is 3 for another reason than tracking.
#[test]
fn a_disk_that_is_not_tracked_stays_as_it_is() {
    let host = Host::new();
    let lines = host.text();
    let untracked: String = lines.split_inclusive('\n').filter(|line| !line.contains("changeTrackPath")).collect();
    assert!(untracked.contains("version=3"));
    fs::write(host.disk(), &untracked).unwrap();
    assert_eq!(OpenOptions::new().stop_change_tracking(host.disk()).unwrap(), None);
    assert_eq!(host.text(), untracked);
    assert!(host.has(CTK));
}

/// Somebody has moved the descriptor since the disk was opened: it would stay tracked where it is now.
#[test]
fn a_descriptor_that_was_moved_away_is_not_made_anew() {
    let host = Host::new();
    let image = dropping().open(host.disk()).unwrap();
    fs::rename(host.disk(), host.path("moved.vmdk")).unwrap();
    let error = image.write_sectors(0, &[1; SECTOR]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(!host.has("disk.vmdk") && host.has(CTK));
    // Nothing was changed, so that it can be tried again.
    fs::rename(host.path("moved.vmdk"), host.disk()).unwrap();
    image.write_sectors(0, &[1; SECTOR]).unwrap();
    image.close().unwrap();
    assert!(host.has(DROPPED));
}
