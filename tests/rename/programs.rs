//! What others make of a disk by another name, and of a copy: `qemu-img`, and whoever uses the command line.

use std::path::Path;

use vmdk::{CopyDiskOptions, OpenOptions, RenameOptions};

use super::subject::go_on;
use super::support::disk::Kind;
use super::support::tools::{self, qemu_img};

#[test]
fn qemu_reads_every_disk_by_its_new_name_and_its_copy_as_before() {
    const TEST: &str = "qemu_reads_every_disk_by_its_new_name_and_its_copy_as_before";
    let Some(qemu) = qemu_img(TEST) else { return };
    for kind in Kind::ALL.into_iter().filter(|kind| kind.qemu_reads_it()) {
        let disk = kind.disk(21);
        let (copy, new) = (disk.dir().join("a copy.vmdk"), disk.dir().join("new name.vmdk"));
        OpenOptions::new().copy_disk(&disk.path, &copy, &CopyDiskOptions::new(), &mut go_on).unwrap();
        OpenOptions::new().rename(&disk.path, &new, &RenameOptions::new(), &mut go_on).unwrap();
        for path in [&copy, &new] {
            assert!(qemu.raw_of(path) == disk.content, "{kind:?}: {}", path.display());
        }
        // And the base, with its child.
        if let [base, child] = &disk.links[..] {
            let new_base = disk.dir().join("new base.vmdk");
            let options = RenameOptions::new().child(&new);
            OpenOptions::new().rename(disk.dir().join(&base.name), &new_base, &options, &mut go_on).unwrap();
            assert!(qemu.raw_of(&new) == child.content, "{kind:?}: the child of a base with another name");
        }
    }
}

#[test]
fn qemu_finds_nothing_wrong_with_what_it_made_by_another_name() {
    const TEST: &str = "qemu_finds_nothing_wrong_with_what_it_made_by_another_name";
    let Some((qemu, io)) = qemu_img(TEST).zip(tools::qemu_io(TEST)) else { return };
    for format in
        ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (raw, old) = (path("raw"), path("disk.vmdk"));
        std::fs::write(&raw, vec![0x5a; 3 << 20]).unwrap();
        let option = format!("subformat={format}");
        qemu.run(["convert", "-O", "vmdk", "-o", &option, &text(&raw), &text(&old)]);
        let (copy, new) = (path("a copy.vmdk"), path("new name.vmdk"));
        OpenOptions::new().copy_disk(&old, &copy, &CopyDiskOptions::new(), &mut go_on).unwrap();
        OpenOptions::new().rename(&old, &new, &RenameOptions::new(), &mut go_on).unwrap();
        for path in [&copy, &new] {
            if format.ends_with("Sparse") {
                qemu.run(["check", "-q", "-f", "vmdk", &text(path)]);
            }
            qemu.run(["compare", "-q", "-f", "vmdk", "-F", "raw", &text(path), &text(&raw)]);
            if format != "streamOptimized" {
                io.run(["-f", "vmdk", "-c", "write -P 7 64k 64k", "-c", "read -P 7 64k 64k", &text(path)]);
            }
        }
    }
}

#[cfg(all(feature = "cli", unix))]
mod command_line {
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    use serde_json::Value;

    use super::super::host::{directory, listing};

    fn run(dir: &Path, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
        command.current_dir(dir).args(args).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command prints that must succeed and say nothing else.
    #[track_caller]
    fn vmdk(dir: &Path, args: &[&str]) -> String {
        let output = run(dir, args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(dir: &Path, args: &[&str]) -> String {
        let before = listing(dir);
        let output = run(dir, args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len(), said.lines().count()), (Some(2), 0, 1), "{said}");
        assert!(listing(dir) == before, "{args:?}");
        said
    }

    #[test]
    fn a_disk_is_renamed_and_says_what_was_done() {
        let (_guard, dir) = directory();
        vmdk(&dir, &["create", "a.vmdk", "--size", "3G", "--type", "twoGbMaxExtentSparse"]);
        vmdk(&dir, &["snapshot", "a.vmdk", "c.vmdk", "--type", "monolithicSparse"]);
        let said = vmdk(&dir, &["rename", "a.vmdk", "b.vmdk", "--child", "c.vmdk"]);
        let shown = |name: &str| dir.join(name).display().to_string();
        assert!(said.contains(&format!("{} -> {}\n", shown("a-s002.vmdk"), shown("b-s002.vmdk"))), "{said}");
        assert!(said.contains(&format!("{} follows\n", shown("c.vmdk"))), "{said}");
        assert!(said.contains("note: "), "{said}");
        vmdk(&dir, &["compare", "b.vmdk", "c.vmdk"]);
        let said = vmdk(&dir, &["rename", "b.vmdk", "d.vmdk", "--child", "c.vmdk", "--json"]);
        let json: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(json["files"][0]["from"], shown("b.vmdk"));
        assert_eq!(json["files"][2]["to"], shown("d-s002.vmdk"));
        assert_eq!(json["children"][0], shown("c.vmdk"));
        assert_eq!((&json["parent_hint"], json["kept"].as_array().unwrap().len()), (&Value::Null, 0));
        assert_eq!(json["notes"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_disk_is_copied_and_says_what_was_made() {
        let (_guard, dir) = directory();
        vmdk(&dir, &["create", "a.vmdk", "--size", "8M", "--type", "monolithicFlat"]);
        let said = vmdk(&dir, &["copy", "a.vmdk", "b.vmdk"]);
        assert_eq!(said, format!("{0}/b.vmdk\n{0}/b-flat.vmdk\n", dir.display()));
        vmdk(&dir, &["compare", "a.vmdk", "b.vmdk", "--strict"]);
        let said = vmdk(&dir, &["copy", "a.vmdk", "b.vmdk", "--replace", "--new-uuid", "--json"]);
        let json: Value = serde_json::from_str(&said).unwrap();
        assert!(json["bytes"].as_u64().unwrap() > 8 << 20);
        assert_eq!(json["files"][1], dir.join("b-flat.vmdk").display().to_string());
        let uuid = |name: &str| {
            let info: Value = serde_json::from_str(&vmdk(&dir, &["info", "--json", name])).unwrap();
            info["uuid"].as_str().unwrap().to_owned()
        };
        assert_ne!(uuid("a.vmdk"), uuid("b.vmdk"));
    }

    #[test]
    fn what_is_refused_is_one_line_and_changes_nothing() {
        let (_guard, dir) = directory();
        vmdk(&dir, &["create", "a.vmdk", "--size", "8M", "--type", "monolithicFlat"]);
        vmdk(&dir, &["create", "b.vmdk", "--size", "8M"]);
        for command in ["rename", "copy"] {
            assert!(refused(&dir, &[command, "a.vmdk", "b.vmdk"]).contains("b.vmdk: the file exists"));
            assert!(refused(&dir, &[command, "x.vmdk", "y.vmdk"]).contains("x.vmdk: cannot open"));
            assert!(refused(&dir, &[command, "a-flat.vmdk", "y.vmdk"]).contains("a-flat.vmdk"));
            assert!(refused(&dir, &[command, "a.vmdk", "nowhere/y.vmdk"]).contains("nowhere/y.vmdk"));
        }
        assert!(refused(&dir, &["rename", "a.vmdk", "c.vmdk", "--child", "b.vmdk"]).contains("no child"));
        vmdk(&dir, &["rename", "a.vmdk", "b.vmdk", "--replace"]);
        let there: Vec<String> = listing(&dir).into_keys().collect();
        assert_eq!(there, ["b-flat.vmdk", "b.vmdk"]);
    }
}
