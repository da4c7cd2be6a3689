//! `vmdk check` and `vmdk repair`, from the outside.

#![cfg(all(feature = "cli", unix))]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use support::disk::{Image, Kind};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, tools};

fn vmdk(dir: &TempDir, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmdk")).current_dir(dir).args(args).output().unwrap()
}

/// Runs the tool, which must end with this code and say nothing on stderr; what it prints.
#[track_caller]
fn said(dir: &TempDir, args: &[&str], code: i32) -> String {
    let output = vmdk(dir, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*errors), (Some(code), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(dir: &TempDir, args: &[&str], code: i32) -> Value {
    serde_json::from_str(&said(dir, args, code)).unwrap()
}

/// A disk of which grain 3 has another place in the redundant table, and grain 1 one past the end in both.
fn damaged(dir: &TempDir) -> Vec<u8> {
    let rng = &mut Rng::new(4);
    let extent = SparseImage::new(128 * 6).data(3, rng.bytes(128 * SECTOR)).data(0, rng.bytes(128 * SECTOR));
    let image = Image::monolithic_sparse("disk.vmdk", extent.clone());
    let layout = extent.descriptor("").layout();
    let path = image.write_to(dir.path());
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 4], layout.redundant_entry(3)).unwrap();
    for entry in [layout.entry(1), layout.redundant_entry(1)] {
        file.write_all_at(&0x10_0000_u32.to_le_bytes(), entry).unwrap();
    }
    fs::read(path).unwrap()
}

#[test]
fn a_sound_disk_has_nothing_to_say() {
    let dir = tempfile::tempdir().unwrap();
    for link in Kind::DeepChain.disk(3).links {
        link.write_to(dir.path());
    }
    assert_eq!(said(&dir, &["check", "disk-000003.vmdk"], 0), "0 corruptions, 0 inconsistencies, 0 notes\n");
    let report = json(&dir, &["check", "--chain", "--json", "disk-000003.vmdk"], 0);
    assert_eq!((&report["links"], &report["clean"]), (&4.into(), &true.into()));
    fs::remove_file(dir.path().join("base.vmdk")).unwrap();
    said(&dir, &["check", "disk-000003.vmdk"], 0);
    let orphan = json(&dir, &["check", "--chain", "--json", "disk-000003.vmdk"], 1);
    assert_eq!((&orphan["findings"][0]["kind"], &orphan["links"]), (&"parent".into(), &1.into()));
    let said = said(&dir, &["repair", "disk-000003.vmdk"], 0);
    assert_eq!(said, "0 corruptions, 0 inconsistencies, 0 notes\n");
    assert!(!dir.path().join("disk-000003.vmdk.undo").exists());
}

#[test]
fn damage_is_found_repaired_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let before = damaged(&dir);
    let path = dir.path().join("disk.vmdk");
    let text = said(&dir, &["check", "disk.vmdk"], 1);
    assert!(text.ends_with("1 corruption, 1 inconsistency, 0 notes\n"), "{text}");
    let report = json(&dir, &["check", "--json", "disk.vmdk"], 1);
    let finding = |number: usize, key: &str| report["findings"][number][key].clone();
    assert_eq!(
        (finding(0, "kind"), finding(0, "start"), finding(0, "length")),
        ("grain-past-end".into(), 65536.into(), 65536.into())
    );
    assert_eq!((finding(1, "kind"), finding(1, "severity")), ("copy-differs".into(), "inconsistency".into()));
    let plan = json(&dir, &["repair", "--dry-run", "--json", "disk.vmdk"], 1);
    assert_eq!((&plan["before"]["findings"], &plan["after"]), (&report["findings"], &Value::Null));
    assert!(fs::read(&path).unwrap() == before && fs::read_dir(&dir).unwrap().count() == 1);

    let done = json(&dir, &["repair", "--json", "disk.vmdk"], 0);
    assert_eq!((&done["after"]["clean"], &done["undo"]), (&true.into(), &"disk.vmdk.undo".into()));
    let undo = dir.path().join("disk.vmdk.undo");
    assert_eq!(fs::metadata(&undo).unwrap().permissions().mode() & 0o777, 0o600);
    said(&dir, &["check", "disk.vmdk"], 0);
    if let Some(qemu) = tools::qemu_img("damage_is_found_repaired_and_taken_back") {
        qemu.run([Path::new("check"), Path::new("-q"), &path]);
    }
    // An earlier undo file is nobody's to lose.
    damaged(&dir);
    let refused = vmdk(&dir, &["repair", "disk.vmdk"]);
    assert_eq!(refused.status.code(), Some(2));
    said(&dir, &["repair", "--no-undo", "disk.vmdk"], 0);
    damaged(&dir);
    fs::remove_file(&undo).unwrap();
    said(&dir, &["repair", "--undo", "kept", "disk.vmdk"], 0);
    assert!(fs::read(&path).unwrap() != before);
    let back = json(&dir, &["repair", "--restore", "kept", "--json", "disk.vmdk"], 0);
    assert!(back["taken_back"].as_u64().unwrap() > 0 && fs::read(&path).unwrap() == before);
}

#[test]
fn a_repair_is_not_taken_back_over_what_was_written_since() {
    let dir = tempfile::tempdir().unwrap();
    let before = damaged(&dir);
    let path = dir.path().join("disk.vmdk");
    said(&dir, &["repair", "disk.vmdk"], 0);
    let mut bytes = fs::read(&path).unwrap();
    let changed = (0..bytes.len()).find(|&at| before.get(at) != bytes.get(at)).unwrap() / 512 * 512;
    bytes[changed + 511] ^= 0x55;
    fs::write(&path, &bytes).unwrap();
    let output = vmdk(&dir, &["repair", "--restore", "disk.vmdk.undo", "disk.vmdk"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains(&format!("disk.vmdk: the sector at offset {changed:#x} ")), "{errors}");
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn what_somebody_else_uses_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let before = damaged(&dir);
    let path = dir.path().join("disk.vmdk");
    let writer = File::options().read(true).write(true).open(&path).unwrap();
    writer.lock().unwrap();
    for args in [&["check", "disk.vmdk"][..], &["repair", "disk.vmdk"]] {
        let output = vmdk(&dir, args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains("locked"), "{errors}");
    }
    writer.unlock().unwrap();
    writer.lock_shared().unwrap();
    said(&dir, &["check", "disk.vmdk"], 1);
    assert_eq!(vmdk(&dir, &["repair", "disk.vmdk"]).status.code(), Some(2));
    assert!(fs::read(&path).unwrap() == before && fs::read_dir(&dir).unwrap().count() == 1);
}

#[test]
fn what_is_no_disk_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "hello").unwrap();
    for args in [&["check", "a"][..], &["check", "b"], &["repair", "a"], &["repair", "--restore", "a", "a"]] {
        assert_eq!(vmdk(&dir, args).status.code(), Some(2), "{args:?}");
    }
    // Not even a name is taken.
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}
