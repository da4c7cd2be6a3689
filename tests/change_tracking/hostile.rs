//! Whoever wrote the descriptor chose the name of the tracking file: it is no way to any other file.

use std::fs;

use vmdk::{BlockDevice, ErrorKind, OpenOptions};

use super::support::SECTOR;
use super::{CTK, Host, ctk, dropping};

/// Drops the tracking, by a write or without one; says why the file stayed.
fn left(host: &Host, by_write: bool) -> Option<String> {
    let dropped = if by_write {
        let image = dropping().open(host.disk()).unwrap();
        image.write_sectors(0, &[1; SECTOR]).unwrap();
        image.close().unwrap();
        image.dropped_tracking().unwrap().clone()
    } else {
        OpenOptions::new().stop_change_tracking(host.disk()).unwrap().unwrap()
    };
    assert_eq!(dropped.renamed_to, None);
    assert!(!host.text().contains("changeTrackPath"));
    dropped.left_because
}

#[test]
fn a_name_that_leads_elsewhere_is_not_followed() {
    for by_write in [true, false] {
        for name in ["../victim", "/tmp/none/victim", "sub/victim", "sub\\victim", ".", "..", "", "C:\\victim"] {
            let host = Host::new();
            fs::create_dir(host.path("sub")).unwrap();
            fs::write(host.path("sub/victim"), ctk()).unwrap();
            let inner = host.path("inner");
            fs::create_dir(&inner).unwrap();
            for file in ["disk.vmdk", "disk-flat.vmdk"] {
                fs::rename(host.path(file), inner.join(file)).unwrap();
            }
            fs::write(host.path("victim"), ctk()).unwrap();
            let outer = host.names();
            let path = inner.join("disk.vmdk");
            fs::write(&path, fs::read_to_string(&path).unwrap().replace(CTK, name)).unwrap();
            let dropped = if by_write {
                let image = dropping().open(&path).unwrap();
                image.write_sectors(0, &[1; SECTOR]).unwrap();
                image.dropped_tracking().unwrap().clone()
            } else {
                OpenOptions::new().stop_change_tracking(&path).unwrap().unwrap()
            };
            assert_eq!((dropped.renamed_to, &*dropped.file), (None, name));
            assert!(dropped.left_because.is_some(), "{name:?}");
            assert_eq!(super::names(&inner), ["disk-flat.vmdk", "disk.vmdk"], "{name:?}");
            assert_eq!(host.names(), outer);
            assert_eq!(super::names(&host.path("sub")), ["victim"]);
        }
    }
}

#[test]
fn a_file_of_the_disk_or_of_another_one_stays() {
    for by_write in [true, false] {
        let host = Host::new();
        fs::write(host.path("other-flat.vmdk"), [7; 4096]).unwrap();
        fs::write(host.path("short"), &ctk()[..63]).unwrap();
        fs::write(host.path("empty"), []).unwrap();
        for name in ["disk-flat.vmdk", "./disk-flat.vmdk", "disk.vmdk", "other-flat.vmdk", "short", "empty"] {
            let text = host.text();
            fs::write(host.disk(), text.replace("createType", &format!("changeTrackPath=\"{name}\"\ncreateType")))
                .unwrap();
            if text.contains(CTK) {
                fs::write(host.disk(), text.replace(CTK, name)).unwrap();
            }
            let names = host.names();
            assert!(left(&host, by_write).is_some(), "{name}");
            assert_eq!(host.names(), names, "{name}");
        }
        // Also where an extent begins like one.
        let host = Host::new();
        let mut flat = host.content.clone();
        flat[..ctk().len()].copy_from_slice(&ctk());
        fs::write(host.path("disk-flat.vmdk"), &flat).unwrap();
        host.name("disk-flat.vmdk");
        let names = host.names();
        assert!(left(&host, by_write).unwrap().contains("extent"));
        assert_eq!(host.names(), names);
    }
}

#[cfg(unix)]
#[test]
fn links_directories_pipes_and_what_somebody_uses_stay() {
    use std::os::unix::fs::symlink;
    for by_write in [true, false] {
        for what in ["link", "dangling", "directory", "used"] {
            let host = Host::new();
            fs::write(host.path("victim"), ctk()).unwrap();
            fs::remove_file(host.path(CTK)).unwrap();
            let mut used = None;
            match what {
                "link" => symlink("victim", host.path(CTK)).unwrap(),
                "dangling" => symlink("nobody", host.path(CTK)).unwrap(),
                "directory" => fs::create_dir(host.path(CTK)).unwrap(),
                _ => {
                    fs::write(host.path(CTK), ctk()).unwrap();
                    let file = vmdk::RawImage::open_locked(host.path(CTK)).unwrap();
                    used = Some(file);
                }
            }
            let names = host.names();
            assert!(left(&host, by_write).is_some(), "{what}");
            assert_eq!(host.names(), names, "{what}");
            drop(used);
        }
    }
}

#[test]
fn a_name_that_is_taken_is_not_taken_away() {
    let host = Host::new();
    fs::write(host.path(super::DROPPED), "mine").unwrap();
    let dropped = OpenOptions::new().stop_change_tracking(host.disk()).unwrap().unwrap();
    assert_eq!(dropped.renamed_to.as_deref(), Some("disk-ctk.vmdk.dropped-1"));
    assert_eq!(fs::read(host.path(super::DROPPED)).unwrap(), b"mine");
    assert_eq!(fs::read(host.path("disk-ctk.vmdk.dropped-1")).unwrap(), ctk());
}

#[test]
fn several_lines_and_odd_ones_are_all_taken_out() {
    let host = Host::new();
    let text = host.text();
    let odd = text.replacen("CID=", "CHANGETRACKPATH = second\nCID=", 1) + "changeTrackPath=\"third\"";
    fs::write(host.disk(), odd).unwrap();
    OpenOptions::new().stop_change_tracking(host.disk()).unwrap().unwrap();
    assert_eq!(host.text(), super::text(false).to_string());
    // An empty name counts as one, too.
    fs::write(host.disk(), text.replace(CTK, "")).unwrap();
    assert_eq!(OpenOptions::new().write(true).open(host.disk()).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(left(&host, true).is_some());
}
