//! `vmdk commit`, `vmdk flatten` and `vmdk rebase`, from the outside.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use vmdk::VmdkImage;

use super::judge::read;
use super::support::SECTOR;
use super::support::disk::{Disk, Image};
use super::support::rng::Rng;
use super::support::signal::{INT, KILL, is_ignored};
use super::support::sparse::SparseImage;
use super::support::tools::skip;

fn output(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmdk")).current_dir(dir).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs the tool, which must succeed; what it prints, and what it says besides.
#[track_caller]
fn vmdk(dir: &Path, args: &[&str]) -> (String, String) {
    let output = output(dir, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    (String::from_utf8(output.stdout).unwrap(), said)
}

#[track_caller]
fn json(dir: &Path, args: &[&str]) -> Value {
    let (printed, said) = vmdk(dir, args);
    assert_eq!(said, "", "{args:?}");
    serde_json::from_str(&printed).unwrap()
}

#[track_caller]
fn refused(dir: &Path, args: &[&str], words: &str) {
    let output = output(dir, args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {said}");
    assert!(said.contains(words), "{args:?}: {said}");
}

fn content(dir: &Path, name: &str) -> Vec<u8> {
    read(&VmdkImage::open(dir.join(name)).unwrap()).unwrap()
}

/// A base and two deltas over each other.
fn chain() -> Disk {
    let rng = &mut Rng::new(1);
    let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(256).grain_sectors(8).random(rng));
    let disk = Disk::new(vec![base]);
    let disk = disk.with_child("middle.vmdk", SparseImage::new(256).grain_sectors(8).random(rng));
    disk.with_child("leaf.vmdk", SparseImage::new(256).grain_sectors(16).with_zero_grains().random(rng))
}

#[test]
fn a_delta_is_merged_into_its_parent() {
    let disk = chain();
    let dir = disk.dir();
    let done = json(dir, &["commit", "leaf.vmdk", "--json"]);
    let middle = fs::canonicalize(dir.join("middle.vmdk")).unwrap();
    assert_eq!((&done["path"], &done["base"]), (&Value::from("leaf.vmdk"), &Value::from(middle.to_str().unwrap())));
    assert_eq!((&done["merged_links"], &done["resumed"]), (&Value::from(1), &Value::from(false)));
    assert!(done["copied"].as_u64().unwrap() > 0 && done["zeroed"].as_u64().unwrap() > 0);
    assert_eq!(done["cid"], VmdkImage::open(&middle).unwrap().content_id().unwrap().to_string());
    assert!(content(dir, "leaf.vmdk") == disk.content && content(dir, "middle.vmdk") == disk.content);
    let again = json(dir, &["commit", "leaf.vmdk", "--json"]);
    assert_eq!((&again["merged_links"], &again["cid"]), (&Value::from(0), &Value::Null));
    assert!(vmdk(dir, &["commit", "leaf.vmdk"]).0.starts_with("nothing to merge into "));
}

#[test]
fn a_delta_and_what_is_between_are_merged_into_a_base() {
    let disk = chain();
    let dir = disk.dir();
    let (printed, said) = vmdk(dir, &["commit", "leaf.vmdk", "--base", "./base.vmdk"]);
    assert!(printed.contains(" bytes merged into ") && printed.trim_end().ends_with("base.vmdk"), "{printed}");
    assert_eq!(said, "");
    for name in ["base.vmdk", "middle.vmdk", "leaf.vmdk"] {
        assert!(content(dir, name) == disk.content, "{name}");
    }
    refused(dir, &["commit", "leaf.vmdk", "--base", "leaf.vmdk"], "is the image itself");
    refused(dir, &["commit", "base.vmdk"], "no parent");
}

#[test]
fn a_delta_is_made_independent() {
    let disk = chain();
    let dir = disk.dir();
    let old = VmdkImage::open(&disk.path).unwrap().parent_content_id().unwrap().to_string();
    let done = json(dir, &["flatten", "leaf.vmdk", "--json"]);
    assert_eq!((&done["changed"], &done["old_parent_cid"]), (&Value::from(true), &Value::from(old)));
    assert!(done["copied"].as_u64().unwrap() > 0);
    fs::remove_file(dir.join("base.vmdk")).unwrap();
    assert!(content(dir, "leaf.vmdk") == disk.content);
    assert_eq!(vmdk(dir, &["flatten", "leaf.vmdk"]), ("there is no parent\n".to_owned(), String::new()));
}

#[test]
fn a_disk_gets_another_parent() {
    let disk = chain();
    let dir = disk.dir();
    let done = json(dir, &["rebase", "leaf.vmdk", "base.vmdk", "--json"]);
    let base = fs::canonicalize(dir.join("base.vmdk")).unwrap();
    assert_eq!(done["parent"], Value::from(base.to_str().unwrap()));
    assert_eq!((&done["changed"], &done["unverified"]), (&Value::from(true), &Value::from(false)));
    assert!(done["copied"].as_u64().unwrap() > 0);
    assert!(content(dir, "leaf.vmdk") == disk.content);
    let (printed, _) = vmdk(dir, &["rebase", "leaf.vmdk", "base.vmdk"]);
    assert!(printed.trim_end().ends_with("nothing had to be changed"), "{printed}");
    let (printed, _) = vmdk(dir, &["rebase", "leaf.vmdk", "--no-parent"]);
    assert!(printed.starts_with("there is no parent; "), "{printed}");
    fs::remove_file(&base).unwrap();
    assert!(content(dir, "leaf.vmdk") == disk.content);
}

#[test]
fn what_nobody_can_know_is_said() {
    let disk = chain();
    let dir = disk.dir();
    fs::rename(dir.join("middle.vmdk"), dir.join("moved.vmdk")).unwrap();
    let (_, said) = vmdk(dir, &["rebase", "leaf.vmdk", "moved.vmdk", "--unsafe"]);
    assert!(said.contains("nothing was compared") && said.contains("mixture of two disks"), "{said}");
    assert!(content(dir, "leaf.vmdk") == disk.content);
    // The parent gets another content ID, and the same content.
    vmdk(dir, &["write", "moved.vmdk", "0"]);
    let first = content(dir, "moved.vmdk")[..SECTOR].to_vec();
    vmdk::OpenOptions::new()
        .write(true)
        .open(dir.join("moved.vmdk"))
        .map(|image| {
            vmdk::BlockDevice::write_sectors(&image, 0, &first).unwrap();
        })
        .unwrap();
    refused(dir, &["rebase", "leaf.vmdk", "base.vmdk"], "its CID is");
    let (printed, said) = vmdk(dir, &["rebase", "leaf.vmdk", "--fix-cid", "--json"]);
    assert!(said.contains("the parent was changed") && said.contains("mixture of two disks"), "{said}");
    let done: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&done["changed"], &done["unverified"]), (&Value::from(true), &Value::from(true)));
    assert!(content(dir, "leaf.vmdk") == disk.content);
}

#[test]
fn what_cannot_be_said_is_no_failure() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
        return skip("what_cannot_be_said_is_no_failure", "there is no /dev/full");
    };
    let disk = chain();
    let dir = disk.dir();
    fs::rename(dir.join("middle.vmdk"), dir.join("moved.vmdk")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
    let command = command.current_dir(dir).args(["rebase", "leaf.vmdk", "moved.vmdk", "--unsafe"]);
    assert_eq!(command.stderr(full).output().unwrap().status.code(), Some(0));
    assert!(content(dir, "leaf.vmdk") == disk.content);
}

#[test]
fn a_child_that_has_grown_is_merged_as_the_refusal_says() {
    let disk = chain();
    let dir = disk.dir();
    vmdk(dir, &["resize", "leaf.vmdk", "1M"]);
    let mut grown = disk.content.clone();
    grown.resize(1 << 20, 0);
    refused(dir, &["commit", "leaf.vmdk"], "(rebase --fix-cid)");
    vmdk(dir, &["resize", "middle.vmdk", "1M"]);
    vmdk(dir, &["rebase", "leaf.vmdk", "--fix-cid"]);
    vmdk(dir, &["commit", "leaf.vmdk"]);
    assert!(content(dir, "leaf.vmdk") == grown && content(dir, "middle.vmdk") == grown);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let disk = chain();
    for args in [
        &["rebase", "leaf.vmdk"][..],
        &["rebase", "leaf.vmdk", "base.vmdk", "--no-parent"],
        &["rebase", "leaf.vmdk", "base.vmdk", "--fix-cid"],
        &["rebase", "leaf.vmdk", "base.vmdk", "--fix-cid", "--unsafe"],
        &["rebase", "leaf.vmdk", "--no-parent", "--unsafe"],
        &["commit"],
        &["flatten", "leaf.vmdk", "base.vmdk"],
    ] {
        refused(disk.dir(), args, "Usage");
    }
}

#[test]
fn the_keys_of_the_json_are_in_the_help() {
    let disk = chain();
    let calls: [&[&str]; 3] = [
        &["commit", "leaf.vmdk", "--json"],
        &["rebase", "leaf.vmdk", "base.vmdk", "--json"],
        &["flatten", "leaf.vmdk", "--json"],
    ];
    for args in calls {
        let (help, _) = vmdk(disk.dir(), &["help", args[0]]);
        let done = json(disk.dir(), args);
        for key in done.as_object().unwrap().keys() {
            let is_named = help.lines().any(|line| {
                let keys = line.trim_start().split("  ").next().unwrap_or_default();
                keys.split(", ").any(|named| named == key)
            });
            assert!(is_named, "{key} of {args:?}");
        }
    }
}

/// A sparse base and a delta with 24 MiB each.
fn large(dir: &Path) -> Vec<u8> {
    use vmdk::{BlockDevice, CreateOptions, OpenOptions};
    let base = dir.join("base.vmdk");
    CreateOptions::new().capacity_sectors(64 << 11).create(&base).unwrap();
    let image = OpenOptions::new().write(true).open(&base).unwrap();
    image.write_sectors(60_000, &Rng::new(7).bytes(24 << 20)).unwrap();
    let delta = image.create_child(dir.join("leaf.vmdk"), &CreateOptions::new()).unwrap();
    let bytes = Rng::new(8).bytes(24 << 20);
    delta.write_sectors(1000, &bytes).unwrap();
    delta.close().unwrap();
    drop((image, delta));
    content(dir, "leaf.vmdk")
}

/// Begins a command, and sends it a signal once the file has changed; what became of it.
fn interrupted(dir: &Path, args: &[&str], file: &str, signal: u32) -> Output {
    let len = || fs::metadata(dir.join(file)).unwrap().len();
    let before = len();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
    command.current_dir(dir).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    while len() == before && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let [signal, id] = [format!("-{signal}"), child.id().to_string()];
    Command::new("kill").args([signal, id]).stderr(Stdio::null()).status().unwrap();
    child.wait_with_output().unwrap()
}

/// A program that is stopped, or killed, leaves a disk that reads as before, and goes on when it is started again. A
/// signal that the tests are started to ignore stops nothing.
#[test]
fn a_command_that_is_interrupted_goes_on_where_it_was() {
    const INTERRUPTED: Option<i32> = Some(130);
    let commands: [(&[&str], &str); 2] =
        [(&["commit", "leaf.vmdk", "--json"], "base.vmdk"), (&["flatten", "leaf.vmdk", "--json"], "leaf.vmdk")];
    for (args, file) in commands {
        let code_if_ignored = if is_ignored(INT) { Some(0) } else { INTERRUPTED };
        for (signal, code) in [(INT, code_if_ignored), (KILL, None)] {
            // On a busy machine a signal may come late.
            let hit = (0..20).find(|_| {
                let dir = tempfile::tempdir().unwrap();
                let before = large(dir.path());
                let output = interrupted(dir.path(), args, file, signal);
                assert!(content(dir.path(), "leaf.vmdk") == before, "{args:?} {signal}");
                let again = json(dir.path(), args);
                assert!(content(dir.path(), "leaf.vmdk") == before, "{args:?} {signal}");
                let is_hit = output.status.code() == code;
                if is_hit && code != Some(0) && args[0] == "commit" {
                    assert_eq!(again["merged_links"], Value::from(1), "{signal}: {again}");
                    assert!(content(dir.path(), "base.vmdk") == before);
                }
                is_hit
            });
            assert!(hit.is_some(), "{args:?}: {signal} always came too late");
        }
    }
}
