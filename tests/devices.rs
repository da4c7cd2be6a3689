//! Disks on devices: fullDevice and partitionedDevice. A device is opened only if the caller allows its very path;
//! plain files stand in for devices here, and a loop device where the host lets us make one.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmdk::{BlockDevice, CreateType, Error, ErrorKind, OpenOptions, VmdkImage};

use support::descriptor::DescriptorText;
use support::rng::Rng;
use support::{SECTOR, byte_range, index};

/// Sectors of the device.
const DEVICE: u64 = 2048;

/// A directory with images, and another one with a "device".
struct Host {
    dir: TempDir,
    elsewhere: TempDir,
    content: Vec<u8>,
}

impl Host {
    fn new() -> Self {
        let content = Rng::new(1).bytes(index(DEVICE) * SECTOR);
        let host = Self { dir: tempfile::tempdir().unwrap(), elsewhere: tempfile::tempdir().unwrap(), content };
        fs::write(host.device(), &host.content).unwrap();
        host
    }

    /// What stands for `/dev/sdX`.
    fn device(&self) -> PathBuf {
        self.elsewhere.path().join("sdx")
    }

    /// Writes a descriptor with these extent lines.
    fn disk(&self, create_type: &str, lines: &[String]) -> PathBuf {
        let text = lines.iter().fold(DescriptorText::new(create_type, 7), DescriptorText::extent);
        let path = self.dir.path().join("disk.vmdk");
        fs::write(&path, text.to_string()).unwrap();
        path
    }

    /// The whole device as a disk of `sectors`.
    fn full(&self, sectors: u64) -> PathBuf {
        self.disk("fullDevice", &[line(sectors, &self.device(), 0)])
    }
}

fn line(sectors: u64, file: &Path, offset: u64) -> String {
    format!("RW {sectors} FLAT \"{}\" {offset}", file.display())
}

fn allowing(path: impl Into<PathBuf>) -> OpenOptions {
    OpenOptions::new().allow_device(path)
}

fn content(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    content
}

fn refused(result: vmdk::Result<VmdkImage>) -> Error {
    result.expect_err("it must not open")
}

#[test]
fn a_full_device_is_read_if_its_path_is_allowed() {
    let host = Host::new();
    let path = host.full(DEVICE);
    let image = allowing(host.device()).open(&path).unwrap();
    assert_eq!(image.create_type(), Some(&CreateType::FullDevice));
    assert!(content(&image) == host.content);
    assert_eq!(image.chain()[0].warnings(), [""; 0]);
    // A part of the device is a smaller disk.
    let image = allowing(host.device()).open(host.full(DEVICE - 5)).unwrap();
    assert!(content(&image) == host.content[..index(DEVICE - 5) * SECTOR]);
}

#[test]
fn without_permission_the_error_says_what_to_allow() {
    let host = Host::new();
    let error = refused(VmdkImage::open(host.full(DEVICE)));
    assert_eq!(error.kind(), ErrorKind::NameRefused);
    let text = error.to_string();
    assert!(text.contains(host.device().to_str().unwrap()), "{text}");
    assert!(text.contains("allow"), "{text}");
}

#[test]
fn only_the_very_path_that_is_allowed_is_opened() {
    let host = Host::new();
    let other = host.elsewhere.path().join("sdy");
    fs::write(&other, &host.content).unwrap();
    let path = host.full(DEVICE);
    for allowed in [other.as_path(), host.elsewhere.path(), Path::new("/"), host.dir.path()] {
        let error = refused(allowing(allowed).open(&path));
        assert_eq!(error.kind(), ErrorKind::NameRefused, "{}", allowed.display());
    }
    // Both, and twice.
    let options = allowing(&other).allow_device(host.device()).allow_device(host.device());
    assert!(content(&options.open(&path).unwrap()) == host.content);
    // A permission for another device does not cover the second line.
    let mixed = host.disk("fullDevice", &[line(1, &host.device(), 0), line(1, &other, 0)]);
    assert_eq!(refused(allowing(host.device()).open(&mixed)).kind(), ErrorKind::NameRefused);
    assert!(content(&options.open(&mixed).unwrap()) == [&host.content[..SECTOR], &host.content[..SECTOR]].concat());
}

#[cfg(unix)]
#[test]
fn a_link_to_an_allowed_device_is_that_device() {
    let host = Host::new();
    // As in /dev/disk/by-id.
    let link = host.elsewhere.path().join("by-id");
    std::os::unix::fs::symlink(host.device(), &link).unwrap();
    let by_link = host.disk("fullDevice", &[line(DEVICE, &link, 0)]);
    assert!(content(&allowing(host.device()).open(&by_link).unwrap()) == host.content);
    assert!(content(&allowing(&link).open(&by_link).unwrap()) == host.content);
    assert!(content(&allowing(&link).open(host.full(DEVICE)).unwrap()) == host.content);
}

#[test]
fn a_device_that_is_shorter_than_its_extent_is_another_device() {
    let host = Host::new();
    for (create_type, sectors, offset, present) in
        [("fullDevice", DEVICE + 1, 0, DEVICE), ("partitionedDevice", 100, DEVICE - 99, 99)]
    {
        let path = host.disk(create_type, &[line(sectors, &host.device(), offset)]);
        let error = refused(allowing(host.device()).open(&path));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{create_type}");
        let text = error.to_string();
        assert!(text.contains("sdx") && text.contains(&sectors.to_string()), "{text}");
        assert!(text.contains(&present.to_string()), "{text}");
    }
    let past = host.disk("fullDevice", &[line(1, &host.device(), DEVICE + 1)]);
    let error = refused(allowing(host.device()).open(&past));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("sdx"), "{error}");
}

/// As Workstation writes it: the partition tables in a file of their own, one partition on the device, another one as a
/// device of its own, and the rest hidden.
#[test]
fn a_partitioned_device_is_put_together_of_tables_partitions_and_gaps() {
    let host = Host::new();
    let partition = host.elsewhere.path().join("sdx2");
    let own = Rng::new(2).bytes(300 * SECTOR);
    fs::write(&partition, &own).unwrap();
    let tables = Rng::new(3).bytes(64 * SECTOR);
    fs::write(host.dir.path().join("disk-pt.vmdk"), &tables).unwrap();
    let pt = Path::new("disk-pt.vmdk");
    let path = host.disk(
        "partitionedDevice",
        &[
            line(63, pt, 0),
            line(500, &host.device(), 63),
            "RW 200 ZERO ".to_owned(),
            line(1, pt, 63),
            "NOACCESS 10 FLAT \"/dev/not-there\" 0".to_owned(),
            line(300, &partition, 0),
        ],
    );
    let options = allowing(host.device()).allow_device(&partition);
    let image = options.open(&path).unwrap();
    assert_eq!(image.create_type(), Some(&CreateType::PartitionedDevice));
    let device = &host.content[byte_range(63, 500)];
    let pt = [&tables[..63 * SECTOR], &tables[63 * SECTOR..]];
    let expected = [pt[0], device, &vec![0; 200 * SECTOR], pt[1], &vec![0; 10 * SECTOR], &own].concat();
    assert!(content(&image) == expected);
    assert_eq!(refused(allowing(host.device()).open(&path)).kind(), ErrorKind::NameRefused);
}

#[test]
fn a_file_in_the_directory_needs_no_permission() {
    let host = Host::new();
    fs::write(host.dir.path().join("image.raw"), &host.content).unwrap();
    let path = host.disk("fullDevice", &[line(DEVICE, Path::new("image.raw"), 0)]);
    assert!(content(&VmdkImage::open(path).unwrap()) == host.content);
}

#[test]
fn a_device_that_is_not_there_or_no_disk_is_an_error() {
    let host = Host::new();
    let path = host.full(DEVICE);
    fs::remove_file(host.device()).unwrap();
    let error = refused(allowing(host.device()).open(&path));
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NameRefused), "{error}");
    if cfg!(unix) {
        for name in ["/dev/null", "/dev/zero", "/"] {
            let path = host.disk("fullDevice", &[line(1, Path::new(name), 0)]);
            for options in [OpenOptions::new(), OpenOptions::new().allow_any_path(true), allowing(name)] {
                assert_eq!(refused(options.open(&path)).kind(), ErrorKind::NameRefused, "{name}");
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod block_device {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use vmdk::{ErrorKind, OpenOptions};

    use super::{DEVICE, Host, allowing, content, line, refused};
    use crate::support::tools;

    /// A loop device that goes away again.
    struct Loop(PathBuf);

    impl Loop {
        fn new(file: &Path, test: &str) -> Option<Self> {
            if !Path::new("/dev/loop-control").exists() {
                tools::skip(test, "the host has no loop devices");
                return None;
            }
            let output = Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(file).output();
            let Some(output) = output.ok().filter(|output| output.status.success()) else {
                tools::skip(test, "losetup is not installed or may not make a loop device");
                return None;
            };
            Some(Self(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
        }
    }

    #[test]
    fn a_block_device_is_opened_by_its_allowed_path_and_by_nothing_else() {
        const NAME: &str = "a_block_device_is_opened_by_its_allowed_path_and_by_nothing_else";
        let host = Host::new();
        let Some(device) = Loop::new(&host.device(), NAME) else { return };
        let path = host.disk("fullDevice", &[line(DEVICE, &device.0, 0)]);
        let image = allowing(&device.0).open(&path).unwrap();
        assert!(content(&image) == host.content);
        // The length of a device is not in its metadata.
        assert_eq!(image.chain()[0].extents()[0].file().unwrap().len(), DEVICE * 512);
        drop(image);
        let options = [
            OpenOptions::new(),
            OpenOptions::new().allow_any_path(true),
            OpenOptions::new().allow_dir("/dev"),
            allowing(host.device()),
        ];
        for options in options {
            assert_eq!(refused(options.open(&path)).kind(), ErrorKind::NameRefused, "{options:?}");
        }
        let longer = host.disk("fullDevice", &[line(DEVICE + 1, &device.0, 0)]);
        let error = refused(allowing(&device.0).open(longer));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(device.0.to_str().unwrap()), "{error}");
    }
}
