//! What is refused, by name, with nothing changed.

use std::fs;
use std::ops::ControlFlow;

use vmdk::{CompactMode, Error, ErrorKind, OpenOptions, RebaseMode, RenameOptions, RepairOptions, ResizeOptions};

use super::support::descriptor::DescriptorText;
use super::support::{SECTOR, index};
use super::{CTK, Host, SECTORS, Tracked, ctk, dropping};

#[test]
fn without_the_option_the_error_says_what_to_do() {
    for disk in [Tracked::flat(), Tracked::embedded()] {
        let dir = disk.write();
        let path = dir.path().join("disk.vmdk");
        let before = fs::read(&path).unwrap();
        let error = OpenOptions::new().write(true).open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for word in ["changeTrackPath", "drop_change_tracking", "--drop-change-tracking", "untrack", "read-only"] {
            assert!(error.to_string().contains(word), "{word} is missing in: {error}");
        }
        assert!(fs::read(&path).unwrap() == before);
    }
}

/// Also with the option, which is for writes.
#[test]
fn what_changes_a_disk_as_a_whole_refuses_tracked_ones_and_says_what_comes_first() {
    let host = Host::new();
    let child = DescriptorText::new("vmfsSparse", 9).parent(0, "disk.vmdk");
    let child = child.extent(format!("RW {SECTORS} VMFSSPARSE \"child-delta.vmdk\"")).to_string();
    let child = child
        .replace("parentCID=00000000", &host.text()["".len()..].lines().nth(3).unwrap().replace("CID", "parentCID"));
    fs::write(host.path("child.vmdk"), child).unwrap();
    let delta = super::support::cowd::CowdImage::esx(SECTORS).data(0, [1; SECTOR]);
    fs::write(host.path("child-delta.vmdk"), delta.build()).unwrap();
    let (before, names) = (host.text(), host.names());

    let (path, child) = (host.disk(), host.path("child.vmdk"));
    let go_on = &mut |_| ControlFlow::Continue(());
    let new = host.path("new.vmdk");
    for options in [OpenOptions::new(), dropping()] {
        let refusals: [(&str, Error); 5] = [
            ("commit", options.commit(&child, 1, go_on).unwrap_err()),
            ("resize", options.resize(&path, SECTORS + 1, ResizeOptions::new(), go_on).unwrap_err()),
            ("compact", options.compact(&path, CompactMode::default(), go_on).unwrap_err()),
            ("rename", options.rename(&path, &new, &RenameOptions::new(), go_on).unwrap_err()),
            ("rebase", options.rebase(&path, Some(&*child), RebaseMode::Unsafe, go_on).unwrap_err()),
        ];
        for (what, error) in refusals {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error}");
            for word in ["changeTrackPath", "stop_change_tracking", "vmdk untrack"] {
                assert!(error.to_string().contains(word), "{what}: {word} is missing in: {error}");
            }
        }
        // There is nothing to repair.
        let options = options.repair(&path, &RepairOptions::new(), go_on);
        assert_eq!(options.unwrap().changes, 0);
    }
    assert_eq!((host.text(), host.names()), (before, names));
    // After that they do.
    OpenOptions::new().stop_change_tracking(&path).unwrap().unwrap();
    OpenOptions::new().commit(&child, 1, go_on).unwrap();
    OpenOptions::new().resize(&path, SECTORS + 1, ResizeOptions::new(), go_on).unwrap();
    assert_eq!(fs::metadata(host.path("disk-flat.vmdk")).unwrap().len(), (SECTORS + 1) * SECTOR as u64);
    OpenOptions::new().rename(&path, &new, &RenameOptions::new(), go_on).unwrap();
}

#[test]
fn what_else_speaks_against_writing_still_does() {
    for (from, to, word) in [
        ("isNativeSnapshot=\"no\"", "isNativeSnapshot=\"yes\"", "isNativeSnapshot"),
        ("version=3", "version=4", "version 4"),
    ] {
        let host = Host::new();
        fs::write(host.disk(), host.text().replace(from, to)).unwrap();
        let before = host.text();
        let errors = [
            dropping().open(host.disk()).map(drop).unwrap_err(),
            OpenOptions::new().stop_change_tracking(host.disk()).map(drop).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!((host.text(), fs::read(host.path(CTK)).unwrap()), (before, ctk()));
    }
}

#[test]
fn an_embedded_descriptor_without_room_for_another_is_refused_when_it_is_opened() {
    let mut disk = Tracked::embedded();
    // More than half of its 20 sectors, and the change is in more than one of them.
    let file = &mut disk.files[0].1;
    let end = 512 + file[512..].iter().position(|&byte| byte == 0).unwrap();
    let more = "# more and more\n".repeat(400);
    file[end..end + more.len()].copy_from_slice(more.as_bytes());
    assert!(end + more.len() < index(21) * SECTOR);
    let dir = disk.write();
    let path = dir.path().join("disk.vmdk");
    let before = fs::read(&path).unwrap();
    let error = dropping().open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("no room"), "{error}");
    assert_eq!(OpenOptions::new().stop_change_tracking(&path).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(fs::read(&path).unwrap() == before);
    assert_eq!(super::names(dir.path()), [CTK, "disk.vmdk"]);
}

#[cfg(unix)]
#[test]
fn nobody_is_disturbed_who_uses_the_disk() {
    let host = Host::new();
    let reader = OpenOptions::new().open(host.disk()).unwrap();
    let before = host.text();
    assert_eq!(dropping().open(host.disk()).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(OpenOptions::new().stop_change_tracking(host.disk()).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(host.text(), before);
    drop(reader);
    // Who has put another file in the place of the descriptor has another disk.
    let image = dropping().open(host.disk()).unwrap();
    fs::write(host.path("other"), &before).unwrap();
    fs::rename(host.path("other"), host.disk()).unwrap();
    vmdk::BlockDevice::write_sectors(&image, 0, &[1; SECTOR]).unwrap_err();
    assert_eq!((host.text(), host.has(CTK)), (before, true));
    assert!(fs::read(host.path("disk-flat.vmdk")).unwrap() == host.content);
}
