//! Images with nothing wrong: a check has no more than notes, whoever has made them.

use std::ops::ControlFlow;
use std::path::PathBuf;

use vmdk::{BlockDevice, CheckOptions, OpenOptions};

use super::rows::rows;
use super::subject::{disk, everything, files_of, name_of, repair, state};
use super::support::crash::CrashDisk;
use super::support::disk::Kind;
use super::support::{fixtures, tools};

#[test]
fn images_of_all_kinds_are_clean_with_their_chains() {
    for kind in Kind::ALL {
        let images = kind.disk(3).links;
        let files = files_of(&images);
        let options = CheckOptions::new().chain(true).threads(2);
        let name = &files.last().unwrap().0;
        let report = OpenOptions::new().check_in(name, &disk(&files), &options, &mut |_| ControlFlow::Continue(()));
        let report = report.unwrap();
        assert!(report.is_clean(), "{kind:?}: {:#?}", report.findings);
        assert_eq!(report.links, images.len());
    }
}

#[test]
fn fixtures_are_clean() {
    for row in fixtures::manifest() {
        let path = fixtures::path(&row.file);
        let options = CheckOptions::new().chain(true).threads(2);
        let report = OpenOptions::new().check(&path, &options, &mut |_| ControlFlow::Continue(()));
        match report {
            Ok(report) => assert!(report.is_clean(), "{}: {:#?}", row.file, report.findings),
            Err(error) => panic!("{}: {error}", row.file),
        }
    }
}

/// The content of an image, read to its end.
fn content(disk: &CrashDisk, name: &str) -> Vec<u8> {
    let image = OpenOptions::new().open_with(name, disk).unwrap();
    let mut content = vec![0; usize::try_from(image.capacity_sectors()).unwrap() * 512];
    image.read_sectors(0, &mut content).unwrap();
    content
}

#[test]
fn what_was_repaired_is_sound_for_qemu_and_reads_the_same() {
    let test = "what_was_repaired_is_sound_for_qemu_and_reads_the_same";
    let Some(qemu) = tools::qemu_img(test) else { return };
    // It takes a sector for a grain whatever the header says of version 2, and needs a descriptor.
    let rows = rows().into_iter().filter(|row| row.left.is_empty() && name_of(&row.files) == "disk.vmdk");
    for row in rows {
        let disk = disk(&row.files);
        repair(&disk, "disk.vmdk", &everything()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in state(&disk) {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let [path, raw] = ["disk.vmdk", "raw"].map(|name| dir.path().join(name));
        qemu.run([&PathBuf::from("check"), &PathBuf::from("-q"), &path]);
        let args = ["convert", "-O", "raw"].map(PathBuf::from);
        qemu.run(args.iter().chain([&path, &raw]));
        assert!(std::fs::read(&raw).unwrap() == content(&disk, "disk.vmdk"), "{}", row.what);
    }
}

/// A disk of 64 TiB of which only the metadata in front of the tables is there.
#[test]
fn a_huge_disk_of_holes_is_looked_at_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.vmdk");
    vmdk::CreateOptions::new().capacity_sectors(1 << 37).create(&path).unwrap();
    let report = OpenOptions::new().check(&path, &CheckOptions::new(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.is_clean(), "{:#?}", report.findings);
}
