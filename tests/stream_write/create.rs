//! Streams through `CreateOptions`: a file that is there as a whole or not at all.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use vmdk::{CreateOptions, CreateType, ErrorKind, VmdkImage};

use super::support::model::MemoryDevice;
use super::walk::Walk;
use super::{Islands, TABLE, noise};

fn stream() -> CreateOptions {
    CreateOptions::new().create_type(CreateType::StreamOptimized).sync(false)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_file_with_the_content_of_a_device_has_its_tables_in_front() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made.vmdk");
    let source = Islands::new(3 * TABLE + 1, &[0, 128, 2 * TABLE, 3 * TABLE]);
    for threads in [1, 3] {
        let options = stream().threads(threads).replace(threads > 1).sync(threads > 1);
        options.create_from(&path, &source, &mut |_| ControlFlow::Continue(())).unwrap();
        let walk = Walk::filed(&fs::read(&path).unwrap());
        walk.expect(&source.contents());
        assert!(walk.descriptor.contains("\nRW 196609 SPARSE \"made.vmdk\"\n"));
        assert_eq!(names(dir.path()), ["made.vmdk"]);
    }
    let error = stream().create_from(&path, &source, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn an_empty_stream_is_made_and_is_larger_than_its_source_if_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made.vmdk");
    stream().capacity_sectors(1000).create(&path).unwrap();
    let walk = Walk::filed(&fs::read(&path).unwrap());
    assert_eq!((walk.capacity, walk.grains.len()), (1000, 0));
    let source = Islands::new(200, &[0]);
    let options = stream().capacity_sectors(1000).replace(true);
    options.create_from(&path, &source, &mut |_| ControlFlow::Continue(())).unwrap();
    let walk = Walk::filed(&fs::read(&path).unwrap());
    walk.expect(&source.contents());
    assert_eq!(walk.capacity, 1000);
}

#[test]
fn what_was_stopped_or_is_refused_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made.vmdk");
    let source = MemoryDevice::new((0..40).flat_map(noise).collect());
    for threads in [1, 3] {
        let stopped = stream().threads(threads).create_from(&path, &source, &mut |_| ControlFlow::Break(()));
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
        let smaller = stream().capacity_sectors(100).threads(threads);
        let refused = smaller.create_from(&path, &source, &mut |_| ControlFlow::Continue(()));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    for options in [stream().grain_sectors(64), stream().zero_grains(true), stream().preallocate(true)] {
        let refused = options.capacity_sectors(1000).create(&path);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_level_for_a_disk_that_is_not_compressed_is_refused_and_threads_are_not_needed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made.vmdk");
    for create_type in [CreateType::MonolithicSparse, CreateType::MonolithicFlat, CreateType::VmfsSparse] {
        let options = CreateOptions::new().create_type(create_type).capacity_sectors(1000).sync(false);
        let error = options.clone().compression_level(6).create(&path).unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains("level 6")), (ErrorKind::InvalidInput, true));
        options.threads(8).replace(true).create(&path).unwrap();
    }
}

#[test]
fn a_stream_is_like_another_disk_and_no_child() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (dir.path().join("base.vmdk"), dir.path().join("made.vmdk"));
    CreateOptions::new().capacity_sectors(1000).hardware_version(11).create(&base).unwrap();
    let image = VmdkImage::open(&base).unwrap();
    stream().like(&image).create_from(&path, &image, &mut |_| ControlFlow::Continue(())).unwrap();
    let walk = Walk::filed(&fs::read(&path).unwrap());
    assert!(walk.descriptor.contains("ddb.adapterType = \"ide\"\n"), "{}", walk.descriptor);
    assert!(walk.descriptor.contains("ddb.virtualHWVersion = \"11\"\n"));
    let error = image.create_child(dir.path().join("child.vmdk"), &stream()).unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("streamOptimized")), (ErrorKind::Unsupported, true));
}
