//! What a child knows its parent by changes with the first write of an open, and before it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use vmdk::{BlockDevice, ContentId, ErrorKind, MemoryStorage, OpenOptions, Storage, VmdkImage};

mod support;

use support::SECTOR;
use support::cowd::CowdImage;
use support::descriptor::DescriptorText;
use support::disk::Image;

type Files = HashMap<String, Arc<dyn Storage>>;

fn files(images: &[&Image]) -> Files {
    let all = images.iter().flat_map(|image| &image.files);
    all.map(|(name, bytes)| (name.clone(), Arc::new(MemoryStorage::new(&bytes[..])) as Arc<dyn Storage>)).collect()
}

fn write(files: &Files, name: &str) -> VmdkImage {
    let image = OpenOptions::new().write(true).open_with(name, files).unwrap();
    image.write_sectors(0, &[9; SECTOR]).unwrap();
    image
}

#[test]
fn a_written_disk_of_vmware_3_is_no_parent_of_its_old_child_any_more() {
    let base = Image::hosted_cowd("base.vmdk", &[CowdImage::vmware3(256).generation(7)], None);
    let child = Image::hosted_cowd("child.vmdk", &[CowdImage::vmware3(256).parent("base.vmdk", 7)], None);
    let files = files(&[&base, &child]);
    OpenOptions::new().open_with("child.vmdk", &files).unwrap();
    let generations = || {
        let image = OpenOptions::new().open_with("base.vmdk", &files).unwrap();
        let header = image.chain()[0].header().and_then(|header| header.as_cowd()).unwrap().clone();
        [header.generation, header.saved_generation]
    };
    let image = write(&files, "base.vmdk");
    let [written, saved] = generations();
    assert!(written != 7 && saved != written, "it is in use");
    image.close().unwrap();
    assert_eq!(generations(), [written, written], "it was closed");
    let error = OpenOptions::new().open_with("child.vmdk", &files).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentIdMismatch, "{error}");
}

#[test]
fn a_content_id_changes_once_per_open_and_only_by_writing() {
    let base = Image::monolithic_flat("base.vmdk", vec![1; 8 * SECTOR]);
    let files = files(&[&base]);
    let id = || OpenOptions::new().open_with("base.vmdk", &files).unwrap().content_id();
    let first = id();
    OpenOptions::new().write(true).open_with("base.vmdk", &files).unwrap().flush().unwrap();
    assert_eq!(id(), first);
    let image = write(&files, "base.vmdk");
    let second = id();
    assert_ne!(second, first);
    assert_eq!(image.content_id(), second);
    image.write_sectors(1, &[9; SECTOR]).unwrap();
    image.close().unwrap();
    assert_eq!(id(), second);
    drop(write(&files, "base.vmdk"));
    assert_ne!(id(), second);
}

#[test]
fn a_descriptor_without_room_for_another_content_id_is_replaced_by_a_file_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let text = DescriptorText::new("monolithicFlat", 0xab).extent("RW 8 FLAT \"disk-flat.vmdk\" 0").to_string();
    let short = text.replace("CID=000000ab", "CID=ab");
    assert_ne!(short, text);
    fs::write(&path, &short).unwrap();
    fs::write(dir.path().join("disk-flat.vmdk"), [1; 8 * SECTOR]).unwrap();
    let image = OpenOptions::new().write(true).open(&path).unwrap();
    image.write_sectors(0, &[9; SECTOR]).unwrap();
    let id = image.content_id().unwrap();
    assert_ne!(id, ContentId::new(0xab));
    // The new file is locked as the old one was.
    let error = OpenOptions::new().open(&path).unwrap_err();
    assert!(cfg!(not(unix)) || error.kind() == ErrorKind::Locked, "{error}");
    image.close().unwrap();
    drop(image);
    assert_eq!(fs::read_to_string(&path).unwrap(), short.replace("CID=ab", &format!("CID={id}")));
    assert_eq!(OpenOptions::new().open(&path).unwrap().content_id(), Some(id));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
}
