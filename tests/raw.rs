//! A raw image as a block device.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::path::Path;
use std::sync::Arc;

use vmdk::{BlockDevice, ErrorKind, MemoryStorage, RawImage, SECTOR_SIZE};

use support::conformance::check;
use support::disk::Kind;
use support::rng::Rng;
use support::storage::{CountingStorage, FaultStorage};

fn in_memory(bytes: &[u8]) -> RawImage {
    RawImage::new(Arc::new(MemoryStorage::new(bytes)), "disk.raw").unwrap()
}

#[test]
fn a_raw_image_keeps_the_contract_of_a_device() {
    for sectors in [0, 1, 2, 7, 3000] {
        let content = Rng::new(1).bytes(sectors * SECTOR_SIZE);
        check(&in_memory(&content), &content);
    }
}

#[test]
fn what_is_missing_of_the_last_sector_reads_as_zeros() {
    for len in [1, 511, 513, 5000, 1_000_001] {
        let mut content = Rng::new(2).bytes(len);
        let image = in_memory(&content);
        content.resize(len.next_multiple_of(SECTOR_SIZE), 0);
        check(&image, &content);
    }
}

#[test]
fn a_read_is_one_read_of_the_host_and_nothing_is_written() {
    let storage = CountingStorage::new(Arc::new(MemoryStorage::new([5; 8192])));
    let image = RawImage::new(storage.clone(), "disk.raw").unwrap();
    image.read_sectors(1, &mut [0; 4096]).unwrap();
    assert_eq!(storage.counts().reads, [(512, 4096)]);
    assert_eq!(image.write_sectors(0, &[0; 512]).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(image.discard(0, 1).unwrap_err().kind(), ErrorKind::ReadOnly);
    image.flush().unwrap();
    assert!(!storage.counts().touched() && image.limits().read_only);
}

#[test]
fn a_failed_read_names_the_file_and_the_offset() {
    let storage = FaultStorage::new(Arc::new(MemoryStorage::new([5; 8192])));
    let image = RawImage::new(storage.clone(), "disk.raw").unwrap();
    storage.fail_reads_of(4096..4097);
    image.read_sectors(0, &mut [0; 4096]).unwrap();
    let error = image.read_sectors(7, &mut [0; 1024]).unwrap_err();
    assert_eq!((error.kind(), error.file()), (ErrorKind::Io, Some(Path::new("disk.raw"))));
    assert_eq!(error.to_string(), "disk.raw: cannot read 1024 bytes at offset 0xe00");
}

#[test]
fn what_cannot_be_opened_is_an_error_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let error = RawImage::open(dir.path().join("none")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("none"), "{error}");
    assert_eq!(RawImage::open(dir.path()).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn every_vmdk_looks_like_one() {
    for kind in Kind::ALL {
        let disk = kind.disk(1);
        assert!(RawImage::open(&disk.path).unwrap().looks_like_vmdk().unwrap(), "{kind:?}");
    }
    // Magics of what is refused with a reason.
    for magic in [&b"kdmv\x01\0\0\0"[..], b"COWD\x01\0\0\0", b"\xbe\xba\xfe\xca\0\0\0\0", b"# Disk DescriptorFile"] {
        assert!(in_memory(magic).looks_like_vmdk().unwrap(), "{}", magic.escape_ascii());
    }
}

#[test]
fn other_content_does_not_look_like_a_vmdk() {
    let mut late = vec![0; 8192];
    late[512..533].copy_from_slice(b"# Disk DescriptorFile");
    for bytes in [&b""[..], b"K", &[0; 8192], &late, &Rng::new(3).bytes(5000)] {
        assert!(!in_memory(bytes).looks_like_vmdk().unwrap());
    }
}
