//! `vmdk convert --to streamOptimized`, to a file and to standard output.

#![cfg(all(feature = "cli", unix))]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

#[path = "support/mod.rs"]
mod support;

use support::rng::Rng;
use support::tools;

/// The bytes of 0xffffffffffffffff: the header does not know where the directory is.
const AT_END: [u8; 8] = [0xff; 8];

fn vmdk(dir: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
    command.current_dir(dir).args(args).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn done(dir: &TempDir, args: &[&str]) -> Vec<u8> {
    let output = vmdk(dir, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(0), ""), "{args:?}");
    output.stdout
}

#[track_caller]
fn refused(dir: &TempDir, args: &[&str]) -> String {
    let output = vmdk(dir, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {said}");
    said
}

/// A raw disk of 5 MiB and a sector: noise, text, and zeros.
fn write_raw(dir: &TempDir) {
    let file = File::create(dir.path().join("raw")).unwrap();
    file.set_len((5 << 20) + 512).unwrap();
    file.write_all_at(&Rng::new(1).bytes(200_000), 0).unwrap();
    file.write_all_at(&b"all work and no play\n".repeat(30_000), 3 << 20).unwrap();
    file.write_all_at(&[1; 512], 5 << 20).unwrap();
}

#[track_caller]
fn assert_reads_as_raw(dir: &TempDir, image: &str, test: &str) {
    let Some(qemu_img) = tools::qemu_img(test) else { return };
    assert!(qemu_img.raw_of(&dir.path().join(image)) == fs::read(dir.path().join("raw")).unwrap(), "{image}");
}

#[test]
fn a_raw_disk_and_a_vmdk_become_a_stream_in_a_file() {
    let test = "a_raw_disk_and_a_vmdk_become_a_stream_in_a_file";
    let dir = tempfile::tempdir().unwrap();
    write_raw(&dir);
    done(&dir, &["convert", "raw", "disk.vmdk", "--to", "monolithicSparse", "--hardware-version", "9"]);
    for (source, args) in [
        ("raw", &["--sync"][..]),
        ("disk.vmdk", &["--replace", "--level", "9", "--threads", "1"]),
        ("disk.vmdk", &["--replace", "--threads", "3"]),
    ] {
        done(&dir, &[&["convert", source, "stream.vmdk", "--to", "STREAMoptimized"], args].concat());
        let stream = fs::read(dir.path().join("stream.vmdk")).unwrap();
        assert!(stream.len() < 1 << 20 && stream[56..64] == [21, 0, 0, 0, 0, 0, 0, 0]);
        let descriptor = String::from_utf8_lossy(&stream[512..11_264]);
        let version = if source == "raw" { "4" } else { "9" };
        assert!(descriptor.contains(&format!("virtualHWVersion = \"{version}\"")), "{descriptor}");
        assert_reads_as_raw(&dir, "stream.vmdk", test);
    }
}

#[test]
fn a_disk_goes_to_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    write_raw(&dir);
    let stream = done(&dir, &["convert", "raw", "-", "--to", "streamOptimized", "--adapter", "ide"]);
    assert_eq!(
        (&stream[..4], &stream[56..64], &stream[stream.len() - 512..]),
        (&b"KDMV"[..], &AT_END[..], &[0; 512][..])
    );
    assert!(String::from_utf8_lossy(&stream[512..11_264]).contains("adapterType = \"ide\""));
    fs::write(dir.path().join("stream.vmdk"), stream).unwrap();
    assert_reads_as_raw(&dir, "stream.vmdk", "a_disk_goes_to_standard_output");
    assert!(!dir.path().join("-").exists());
}

#[test]
fn what_contradicts_a_stream_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_raw(&dir);
    done(&dir, &["create", "base.vmdk", "--size", "5243392"]);
    let stream = ["--to", "streamOptimized"];
    for (args, word) in [
        (&["raw", "-", "--to", "monolithicSparse"][..], "only streamOptimized"),
        (&["raw", "-", stream[0], stream[1], "--sync"], "synced"),
        (&["raw", "-", stream[0], stream[1], "--replace"], "replaced"),
        (&["raw", "-", stream[0], stream[1], "--parent", "base.vmdk"], "parent"),
        (&["raw", "a.vmdk", stream[0], stream[1], "--parent", "base.vmdk"], "streamOptimized"),
        (&["raw", "-", stream[0], stream[1], "--level", "10"], "level 10"),
        (&["raw", "a.vmdk", stream[0], stream[1], "--level", "0"], "level 0"),
        (&["raw", "a.vmdk", stream[0], stream[1], "--grain", "4K"], "grain"),
        (&["raw", "a.vmdk", stream[0], stream[1], "--threads", "0"], "threads"),
        (&["raw", "a.vmdk", "--to", "vmfs", "--level", "6"], "level 6"),
        (&["base.vmdk", "a.raw", "--level", "6"], "raw copy"),
    ] {
        let said = refused(&dir, &[&["convert"], args].concat());
        assert!(said.contains(word), "{args:?}: {said}");
    }
    refused(&dir, &["create", "a.vmdk", "--size", "1M", "--type", "streamOptimized"]);
    assert!(!dir.path().join("a.vmdk").exists() && !dir.path().join("-").exists());
}

/// As when the output goes to `head`.
#[test]
fn a_reader_that_goes_away_is_an_error_without_words() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("raw"), Rng::new(2).bytes(8 << 20)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
    command.current_dir(&dir).args(["convert", "raw", "-", "--to", "streamOptimized"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(2), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_without_room_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write_raw(&dir);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
    command.current_dir(&dir).args(["convert", "raw", "-", "--to", "streamOptimized"]);
    let output = command.stdout(File::options().write(true).open("/dev/full").unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("standard output") && said.contains("space"), "{said}");
}
