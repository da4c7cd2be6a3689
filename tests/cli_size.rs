//! The commands that change how large a disk is, or how large its files are, from the outside.

#![cfg(all(feature = "cli", unix))]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use vmdk::{BlockDevice, OpenOptions};

use support::disk::{Disk, Image, Kind};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, index};

fn command(disk: &Disk, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
    command.current_dir(disk.dir()).args(args).stdin(Stdio::null());
    command
}

/// A run that must succeed and say nothing on stderr; what it prints.
#[track_caller]
fn vmdk(disk: &Disk, args: &[&str]) -> String {
    let output = command(disk, args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of a run that exits with 2.
#[track_caller]
fn failed(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{said}");
    assert!(said.starts_with("vmdk: ") && said.lines().count() == 1, "{said:?}");
    said
}

#[track_caller]
fn holds(disk: &Disk, content: &[u8]) {
    let image = OpenOptions::new().open(&disk.path).unwrap();
    let mut found = vec![0; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut found).unwrap();
    assert!(found == content);
}

/// Every other one of these grains is zero.
fn half_zero(grains: u64) -> Disk {
    let rng = &mut Rng::new(1);
    let fill = |extent: SparseImage, grain: u64| {
        extent.data(grain, if grain.is_multiple_of(2) { vec![0; 65_536] } else { rng.bytes(65_536) })
    };
    Disk::new(vec![Image::monolithic_sparse("disk.vmdk", (0..grains).fold(SparseImage::new(grains * 128), fill))])
}

#[test]
fn a_disk_is_compacted_and_the_report_says_what_was_won() {
    let disk = half_zero(64);
    let before = fs::metadata(&disk.path).unwrap().len();
    let punched: Value = serde_json::from_str(&vmdk(&disk, &["compact", "disk.vmdk", "--json"])).unwrap();
    assert_eq!((&punched["grains_unallocated"], &punched["grains_moved"]), (&32.into(), &0.into()));
    assert_eq!(punched["length_before"], before);
    holds(&disk, &disk.content);
    let moved: Value = serde_json::from_str(&vmdk(&disk, &["compact", "disk.vmdk", "--move", "--json"])).unwrap();
    assert_eq!(moved["grains_moved"], 16);
    assert_eq!(moved["length_after"], fs::metadata(&disk.path).unwrap().len());
    assert_eq!(moved["length_after"], 33 * 65_536);
    holds(&disk, &disk.content);
    let keys = moved.as_object().unwrap().keys();
    let help = vmdk(&disk, &["help", "compact"]);
    assert!(keys.into_iter().all(|key| help.contains(key)), "{help}");
    let text = vmdk(&disk, &["compact", "disk.vmdk"]);
    assert!(text.contains("length of the files: 2 MiB (2162688 bytes), before 2 MiB"), "{text}");
}

#[test]
fn new_extents_are_for_the_users_of_the_old_ones() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let disk = Kind::TwoGbMaxExtentSparse.disk(1);
    for name in ["disk.vmdk", "disk-s001.vmdk", "disk-s002.vmdk", "disk-s003.vmdk"] {
        // Only the superuser may give files away.
        let _ = std::os::unix::fs::chown(disk.dir().join(name), Some(12345), Some(23456));
        fs::set_permissions(disk.dir().join(name), fs::Permissions::from_mode(0o660)).unwrap();
    }
    let who = |name: &str| {
        let meta = fs::metadata(disk.dir().join(name)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    let before = who("disk-s003.vmdk");
    vmdk(&disk, &["resize", "disk.vmdk", "5G"]);
    for name in ["disk.vmdk", "disk-s003.vmdk", "disk-s004.vmdk", "disk-s005.vmdk"] {
        assert_eq!(who(name), before, "{name}");
    }
}

#[test]
fn a_disk_is_resized_and_the_report_says_so() {
    let disk = Kind::TwoGbMaxExtentSparse.disk(1);
    let said = vmdk(&disk, &["resize", "disk.vmdk", "5G", "--json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&report["old_size"], &report["new_size"]),
        (&(disk.content.len() as u64).into(), &(5_u64 << 30).into())
    );
    assert_eq!(report["files_added"], serde_json::json!(["disk-s004.vmdk", "disk-s005.vmdk"]));
    let help = vmdk(&disk, &["help", "resize"]);
    assert!(report.as_object().unwrap().keys().all(|key| help.contains(key)), "{help}");
    let error = failed(&command(&disk, &["resize", "disk.vmdk", "4G"]).output().unwrap());
    assert!(error.contains("allow_shrink"), "{error}");
    let text = vmdk(&disk, &["resize", "disk.vmdk", &disk.content.len().to_string(), "--shrink"]);
    assert!(text.starts_with("size: ") && text.contains("removed: disk-s004.vmdk\n"), "{text}");
    holds(&disk, &disk.content);
    let error = failed(&command(&disk, &["resize", "disk.vmdk", "513"]).output().unwrap());
    assert!(error.contains("whole number of sectors"), "{error}");
}

/// The files of new extents are closed once they are there: only those that there were before have to be open together.
#[test]
fn a_disk_gets_more_files_than_may_be_open_at_once() {
    const EXTENT: u64 = 4_192_256;
    for create_type in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let disk = half_zero(2);
        vmdk(&disk, &["convert", "disk.vmdk", "split.vmdk", "--to", create_type]);
        let few_files = |args: &[&str]| {
            let mut command = Command::new("sh");
            let script = "ulimit -n 32 && test \"$(ulimit -n)\" = 32 && exec \"$0\" \"$@\"";
            command.current_dir(disk.dir()).args(["-c", script, env!("CARGO_BIN_EXE_vmdk")]).args(args);
            command.stdin(Stdio::null()).output().unwrap()
        };
        let size = 49 * EXTENT + 8;
        let output = few_files(&["resize", "split.vmdk", &(size * SECTOR as u64).to_string(), "--json"]);
        assert!(output.status.success(), "{create_type}: {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["files_added"].as_array().map(Vec::len), Some(49), "{create_type}");
        // The limit is real: to write to all of them, all have to be open.
        let error = failed(&few_files(&["resize", "split.vmdk", &((size + 8) * SECTOR as u64).to_string()]));
        assert!(error.contains("open files"), "{create_type}: {error}");
        let image = OpenOptions::new().write(true).open(disk.dir().join("split.vmdk")).unwrap();
        assert_eq!(image.capacity_sectors(), size);
        let mut found = vec![7; disk.content.len()];
        image.read_sectors(0, &mut found).unwrap();
        assert!(found == disk.content, "{create_type}");
        for start in [EXTENT - 8, 30 * EXTENT - 4, size - 8] {
            let mut found = [7; 8 * SECTOR];
            image.read_sectors(start, &mut found).unwrap();
            assert!(found == [0; 8 * SECTOR], "{create_type}: {start}");
            image.write_sectors(start, &found).unwrap();
        }
        image.close().unwrap();
    }
}

#[test]
fn a_stream_is_refused_by_both() {
    let disk = half_zero(2);
    vmdk(&disk, &["convert", "disk.vmdk", "stream.vmdk", "--to", "streamOptimized"]);
    for args in [&["compact", "stream.vmdk"][..], &["resize", "stream.vmdk", "1G"]] {
        let error = failed(&command(&disk, args).output().unwrap());
        assert!(error.contains("streamOptimized"), "{error}");
    }
}

/// Whatever it has come to: the disk holds what it held, and it goes on.
#[test]
fn a_compaction_that_is_interrupted_leaves_a_disk_that_holds_what_it_held() {
    let mut interrupted = 0;
    for pause in [1, 4, 10, 25] {
        let disk = half_zero(400);
        let child = command(&disk, &["compact", "disk.vmdk", "--move"]).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause));
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        let output = child.wait_with_output().unwrap();
        // Before it catches signals, it is ended by them.
        assert!(matches!(output.status.code(), Some(0 | 130)) || output.status.signal() == Some(2), "{output:?}");
        interrupted += usize::from(output.status.code() == Some(130));
        holds(&disk, &disk.content);
        vmdk(&disk, &["compact", "disk.vmdk", "--move"]);
        holds(&disk, &disk.content);
        assert_eq!(fs::metadata(&disk.path).unwrap().len(), 201 * 65_536);
    }
    println!("{interrupted} interrupted");
}
