//! `vmdk map`: against `qemu-img map`, against the content of the disk, and against a model of the links.

#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod above;
mod beside_qemu_img;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmdk::VmdkImage;

use support::disk::{Disk, Image, Kind, Part};
use support::model::is_zero;
use support::sparse::SparseImage;
use support::tools::qemu_img;
use support::{SECTOR, index};

const GRAIN: usize = 128 * SECTOR;

/// Runs `vmdk map`: exit code, stdout, stderr.
fn run(args: &[&str], image: &Path) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vmdk")).arg("map").args(args).arg(image).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn text(args: &[&str], image: &Path) -> String {
    let (code, stdout, stderr) = run(args, image);
    assert_eq!((code, stderr.as_str()), (0, ""), "{}", image.display());
    stdout
}

#[track_caller]
fn map(args: &[&str], image: &Path) -> Vec<Value> {
    serde_json::from_str(&text(&[&["--json"], args].concat(), image)).unwrap()
}

fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap()
}

fn number(entry: &Value, key: &str) -> u64 {
    entry[key].as_u64().unwrap()
}

fn is(entry: &Value, key: &str) -> bool {
    entry[key].as_bool().unwrap()
}

/// Writes `disk.vmdk`, a descriptor with these extents.
fn write_descriptor(dir: &Path, create_type: &str, extents: &str) -> PathBuf {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n{extents}\n"
    );
    let path = dir.join("disk.vmdk");
    fs::write(&path, text).unwrap();
    path
}

/// A disk of one sparse extent with a descriptor of its own.
fn split(extent: &SparseImage) -> Image {
    Image::of_parts("disk.vmdk", "twoGbMaxExtentSparse", vec![Part::sparse("disk-s001.vmdk", extent)])
}

/// Whoever follows a map gets the content of the disk.
#[track_caller]
fn follow(entries: &[Value], image: &VmdkImage, content: &[u8]) {
    let mut at = 0;
    for entry in entries {
        let (start, length) = (number(entry, "start"), number(entry, "length"));
        assert!(start == at && length > 0, "{entry}");
        at += length;
        let expected = &content[index(start)..index(at)];
        assert!(!is(entry, "compressed"), "{entry}");
        assert!(is(entry, "present") || is(entry, "zero"), "{entry}");
        if is(entry, "zero") {
            assert!(is_zero(expected), "{entry}");
        }
        let Some(offset) = entry["offset"].as_u64() else {
            assert!(!is(entry, "data"), "{entry}");
            continue;
        };
        assert!(is(entry, "data") && is(entry, "present"), "{entry}");
        if !is(entry, "zero") {
            let link = &image.chain()[index(number(entry, "depth"))];
            let found = link.host_files().into_iter().any(|file| {
                let mut bytes = vec![0; expected.len()];
                file.storage().read_exact_at(&mut bytes, offset).is_ok() && bytes == expected
            });
            assert!(found, "{entry}");
        }
    }
    assert_eq!(at, content.len() as u64);
}

#[test]
fn whoever_follows_the_map_gets_the_content() {
    for kind in Kind::ALL {
        for seed in 20..23 {
            let disk = kind.disk(seed);
            let image = VmdkImage::open(&disk.path).unwrap();
            follow(&map(&[], &disk.path), &image, &disk.content);
        }
    }
}

/// QEMU drops such extents, and all that follows moves up.
#[test]
fn qemu_maps_no_zero_hidden_and_read_only_extents_and_here_they_keep_their_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("flat"), [7; 16 << 10]).unwrap();
    let lines = "RW 8 ZERO\nRDONLY 8 FLAT \"flat\" 8\nNOACCESS 8 FLAT \"flat\" 16\nRW 8 FLAT \"flat\" 0";
    let path = write_descriptor(dir.path(), "custom", lines);
    let zero = |start| {
        json!({
            "start": start, "length": 4096, "depth": 0, "present": true, "zero": true, "data": false,
            "compressed": false,
        })
    };
    let data = |start, offset| {
        json!({
            "start": start, "length": 4096, "depth": 0, "present": true, "zero": false, "data": true,
            "compressed": false, "offset": offset,
        })
    };
    assert_eq!(map(&[], &path), [zero(0), data(4096, 4096), zero(8192), data(12288, 0)]);
    let flat = real(dir.path()).join("flat");
    let rows = format!(
        "Offset          Length          Mapped to       File\n\
         0x1000          0x1000          0x1000          {flat}\n0x3000          0x1000          0               {flat}\n",
        flat = flat.display()
    );
    assert_eq!(text(&[], &path), rows);
}

/// What a flat file is too short for has its place, the sectors of the next extent have none.
#[test]
fn zeros_of_one_extent_are_not_taken_for_those_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("flat"), [7; 4096]).unwrap();
    let path = write_descriptor(dir.path(), "custom", "RW 16 FLAT \"flat\" 0\nRW 8 ZERO\nRW 8 FLAT \"flat\" 8");
    let states: Vec<_> = map(&[], &path)
        .iter()
        .map(|entry| (number(entry, "start"), is(entry, "zero"), is(entry, "data"), entry["offset"].as_u64()))
        .collect();
    let expected = [
        (0, false, true, Some(0)),
        (4096, true, true, Some(4096)),
        (8192, true, false, None),
        (12288, true, true, Some(4096)),
    ];
    assert_eq!(states, expected);
}

#[test]
fn qemu_maps_grain_by_grain_and_here_an_empty_disk_of_1_tib_is_one_entry_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.vmdk");
    fs::write(&path, SparseImage::new(1 << 31).omit_empty_tables().build()).unwrap();
    one_entry_at_once(&path);
}

#[test]
fn qemu_maps_grain_by_grain_and_here_an_empty_disk_of_1_tib_with_all_its_tables_is_one_entry_at_once() {
    let Some(qemu) =
        qemu_img("qemu_maps_grain_by_grain_and_here_an_empty_disk_of_1_tib_with_all_its_tables_is_one_entry_at_once")
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.vmdk");
    qemu.run(["create", "-q", "-f", "vmdk", path.to_str().unwrap(), "1T"]);
    one_entry_at_once(&path);
}

#[track_caller]
fn one_entry_at_once(path: &Path) {
    let begin = Instant::now();
    let entries = map(&[], path);
    // Milliseconds, if the machine has nothing else to do.
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let expected = json!([{
        "start": 0, "length": 1_u64 << 40, "depth": 0, "present": false, "zero": true, "data": false,
        "compressed": false,
    }]);
    assert_eq!(json!(entries), expected);
}

#[test]
fn an_error_on_the_way_is_an_error_of_the_map() {
    let extent = SparseImage::new(4 * 128).data(0, vec![1; GRAIN]);
    let entry = extent.layout().entry(2);
    let extent = extent.patch_u32(entry, 0x00ff_ffff);
    let disk = Disk::new(vec![split(&extent)]);
    let (code, stdout, stderr) = run(&["--json"], &disk.path);
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("disk-s001.vmdk: grain table: entry 2 of table 0"), "{stderr}");
    // What was known before is not called complete.
    assert!(serde_json::from_str::<Value>(&stdout).is_err(), "{stdout}");
}
