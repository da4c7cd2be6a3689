//! Disks that cannot be read or written, and are recognised: encrypted ones, objects on vSAN, native snapshots of a
//! storage array. The error names the kind, and nothing is touched.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use tempfile::TempDir;
use vmdk::{
    BlockDevice, CheckOptions, CompactMode, CreateOptions, Error, ErrorKind, OpenOptions, RenameOptions, RepairOptions,
    ResizeOptions, StreamReader, VmdkImage,
};

use support::SECTOR;
use support::descriptor::DescriptorText;
use support::disk::Image;
use support::sparse::SparseImage;

const SECTORS: u64 = 8;

/// A directory with a disk.
struct Host(TempDir);

impl Host {
    /// A flat disk with another text, the file of whose extent is there.
    fn flat(change: impl Fn(String) -> String) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        let text = DescriptorText::new("vmfs", 7).extent(format!("RW {SECTORS} VMFS \"disk-flat.vmdk\""));
        fs::write(host.disk(), change(text.ddb("adapterType", "lsilogic").to_string())).unwrap();
        fs::write(host.0.path().join("disk-flat.vmdk"), [7; 8 * SECTOR]).unwrap();
        host
    }

    /// A disk with its descriptor inside.
    fn embedded(change: impl Fn(String) -> String) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        let text = DescriptorText::new("monolithicSparse", 7).extent("RW 256 SPARSE \"disk.vmdk\"").to_string();
        fs::write(host.disk(), SparseImage::new(256).data(0, [1; SECTOR]).descriptor(change(text)).build()).unwrap();
        host
    }

    fn disk(&self) -> PathBuf {
        self.0.path().join("disk.vmdk")
    }

    /// All files with what is in them, by their names.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let paths = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        files.sort();
        files
    }

    /// The errors of everything that opens the disk.
    fn errors(&self, writes_only: bool) -> Vec<(&'static str, Error)> {
        let (path, new) = (self.disk(), self.0.path().join("new.vmdk"));
        let go_on = &mut |_| ControlFlow::Continue(());
        let all = OpenOptions::new().rewrite_descriptor(true).drop_change_tracking(true).allow_any_path(true);
        let mut errors = vec![
            ("write", all.clone().write(true).open(&path).map(drop).unwrap_err()),
            ("resize", all.resize(&path, 16, ResizeOptions::new(), go_on).unwrap_err()),
            ("compact", all.compact(&path, CompactMode::default(), go_on).unwrap_err()),
            ("rename", all.rename(&path, &new, &RenameOptions::new(), go_on).unwrap_err()),
            ("untrack", all.stop_change_tracking(&path).unwrap_err()),
        ];
        if !writes_only {
            errors.extend([
                ("read", VmdkImage::open(&path).map(drop).unwrap_err()),
                ("alone", all.clone().no_parent(true).open(&path).map(drop).unwrap_err()),
                ("flatten", all.flatten(&path, go_on).unwrap_err()),
                ("check", all.check(&path, &CheckOptions::new(), go_on).unwrap_err()),
                ("repair", all.repair(&path, &RepairOptions::new(), go_on).unwrap_err()),
            ]);
        }
        errors
    }

    #[track_caller]
    fn is_refused(&self, writes_only: bool, words: &[&str]) {
        let before = self.files();
        for (what, error) in self.errors(writes_only) {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error}");
            for word in words {
                assert!(error.to_string().contains(word), "{what}: {word} is missing in: {error}");
            }
            assert!(error.to_string().contains("disk.vmdk"), "{what}: {error}");
        }
        assert!(self.files() == before, "something has changed");
    }
}

#[test]
fn an_encrypted_disk_is_refused_by_the_key_that_says_so() {
    const KEYS: &str = "encryptionKeys=\"vmware:key/list/(pair/(fqid/<VMWARE-NULL>/x,HMAC-SHA-256,AAAA))\"";
    for (key, line) in [
        ("encryptionKeys", KEYS),
        ("keyID", "keyID=\"AAAA\""),
        ("encryption.data", "encryption.data = \"AAAA\""),
        ("iofilters", "ddb.iofilters = \"vmwarevmcrypt\""),
    ] {
        let add = |text: String| text.replace("\n# Extent", &format!("\n{line}\n# Extent"));
        Host::flat(add).is_refused(false, &["encrypted", key]);
        Host::embedded(add).is_refused(false, &["encrypted", key]);
        // At the end, without the usual first line, and of the versions that go with it.
        for version in [2, 5] {
            let other = |text: String| {
                let text =
                    text.replace("# Disk DescriptorFile\n", "").replace("version=1", &format!("version={version}"));
                text + line + "\n"
            };
            Host::flat(other).is_refused(false, &["encrypted", key]);
        }
    }
    // Its extents are not even looked for.
    let host = Host::flat(|text| text + KEYS + "\n");
    fs::remove_file(host.0.path().join("disk-flat.vmdk")).unwrap();
    host.is_refused(false, &["encrypted"]);
}

#[test]
fn an_encrypted_parent_is_refused_and_not_taken_for_another_file() {
    let host = Host::flat(|text| text + "keyID=1\n");
    let parent = Image::vmfs("disk.vmdk", vec![0; 8 * SECTOR]);
    let child = Image::child(&parent, "child.vmdk", SparseImage::new(SECTORS).grain_sectors(8));
    let path = child.write_to(host.0.path());
    let error = VmdkImage::open(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("encrypted") && error.to_string().contains("disk.vmdk"), "{error}");
}

#[test]
fn an_encrypted_stream_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = vmdk::RawImage::open({
        let raw = dir.path().join("raw");
        fs::write(&raw, vec![5; 64 * SECTOR]).unwrap();
        raw
    });
    let path = dir.path().join("a.vmdk");
    let options = CreateOptions::new().create_type(vmdk::CreateType::StreamOptimized);
    options.create_from(&path, &source.unwrap(), &mut |_| ControlFlow::Continue(())).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    StreamReader::new(&*bytes).unwrap();
    // In the place of another key of the same length.
    let key = b"ddb.toolsVersion";
    let at = bytes.windows(key.len()).position(|part| part == key).unwrap();
    bytes[at..at + key.len()].copy_from_slice(b"ddb.encryptionXX");
    let error = StreamReader::new(&*bytes).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("encrypted"), "{error}");
}

#[test]
fn what_lies_on_vsan_is_refused_by_its_name() {
    let object = "vsan://52a4b5c6-0000-1111-2222-333344445555";
    for name in ["vsanSparse", "VSANSPARSE"] {
        Host::flat(|text| text.replace("\"vmfs\"", &format!("\"{name}\""))).is_refused(false, &["vsanSparse"]);
    }
    let flat = format!("RW {SECTORS} VMFS \"disk-flat.vmdk\"");
    let line = format!("RW {SECTORS} VSANSPARSE \"{object}\"");
    Host::flat(|text| text.replace(&flat, &line)).is_refused(false, &["vSAN"]);
    // A flat disk there has an object for its extent.
    let host = Host::flat(|text| text.replace("disk-flat.vmdk", object));
    let before = host.files();
    for options in [OpenOptions::new(), OpenOptions::new().allow_any_path(true).write(true)] {
        let error = options.open(host.disk()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(object), "{error}");
    }
    assert!(host.files() == before);
}

/// It is read as it is; what is written to it, the array would not know of.
#[test]
fn a_native_snapshot_is_read_and_never_written() {
    for value in ["\"yes\"", "YES", "\"maybe\""] {
        let change = |text: String| text.replace("isNativeSnapshot=\"no\"", &format!("isNativeSnapshot={value}"));
        for host in [Host::flat(change), Host::embedded(change)] {
            host.is_refused(true, &["native snapshot", "isNativeSnapshot"]);
            let image = VmdkImage::open(host.disk()).unwrap();
            assert!(image.descriptor().is_native_snapshot());
            image.read_sectors(0, &mut [0; SECTOR]).unwrap();
            assert_eq!(image.write_sectors(0, &[0; SECTOR]).unwrap_err().kind(), ErrorKind::ReadOnly);
        }
        let both = |text: String| change(text) + "changeTrackPath=\"x-ctk.vmdk\"\n";
        let host = Host::flat(both);
        let before = host.files();
        let error = OpenOptions::new().write(true).drop_change_tracking(true).open(host.disk()).unwrap_err();
        assert!(error.to_string().contains("isNativeSnapshot"), "{error}");
        assert!(host.files() == before);
    }
}
