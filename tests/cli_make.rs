//! The commands that make disks, from the outside: `create`, `snapshot`, and `convert` to anything but raw.

#![cfg(all(feature = "cli", unix))]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

mod support;
use support::signal::{HUP, INT, TERM, is_ignored};

const TYPES: [&str; 6] =
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "vmfs", "vmfsSparse"];

const UUID: &str = "60 00 C2 9e 32 c9 d7 63-c9 0a 44 b0 00 89 79 6e";

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn command(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command
}

/// Runs the tool, which must succeed and say nothing on stderr; what it prints.
#[track_caller]
fn vmdk(dir: &TempDir, args: &[&str]) -> Vec<u8> {
    let output = command(dir, args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(0), ""), "{args:?}");
    output.stdout
}

/// The one line of a run that must fail and leave the directory as it was.
#[track_caller]
fn refused(dir: &TempDir, args: &[&str]) -> String {
    let before = state(dir);
    let said = failed(&command(dir, args).output().unwrap());
    assert_eq!(state(dir), before, "{args:?}");
    said
}

#[track_caller]
fn failed(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{said}");
    assert!(said.starts_with("vmdk: ") && said.ends_with('\n') && said.lines().count() == 1, "{said:?}");
    said
}

/// What there is in a directory: names, what they are, and when they were changed.
type State = Vec<(String, u64, i64, i64)>;

fn state(dir: &TempDir) -> State {
    let entries = fs::read_dir(dir).unwrap().map(|entry| {
        let (name, meta) = entry.map(|entry| (entry.file_name(), entry.metadata().unwrap())).unwrap();
        (name.into_string().unwrap(), meta.ino(), meta.mtime(), meta.mtime_nsec())
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    entries
}

#[track_caller]
fn info(dir: &TempDir, image: &str) -> Value {
    serde_json::from_slice(&vmdk(dir, &["info", "--json", image])).unwrap()
}

#[track_caller]
fn assert_same(dir: &TempDir, a: &str, b: &str) {
    vmdk(dir, &["compare", "--strict", a, b]);
}

/// A raw disk of 5 MiB and a sector: data, a hole, zeros that are written, and data at the end.
fn write_raw(dir: &TempDir, name: &str) {
    let file = File::create(dir.path().join(name)).unwrap();
    file.set_len((5 << 20) + 512).unwrap();
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251 + 1).to_le_bytes()[0]).collect();
    file.write_all_at(&content, 0).unwrap();
    file.write_all_at(&vec![0; 300_000], 2 << 20).unwrap();
    file.write_all_at(&content[..512], 5 << 20).unwrap();
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_disk_of_every_type_is_made_empty() {
    let dir = dir();
    for create_type in TYPES {
        let name = format!("{create_type}.vmdk");
        vmdk(&dir, &["create", &name, "--size", "3G", "--type", create_type]);
        let info = info(&dir, &name);
        assert_eq!((&info["create_type"], &info["virtual_size"]), (&create_type.into(), &(3_u64 << 30).into()));
        assert!(info["allocated_size"].as_u64().unwrap() < 1 << 20, "{info}");
        assert_eq!(info["warnings"], Value::Array(Vec::new()));
        assert_eq!(vmdk(&dir, &["read", &name, "0xbffffe00", "512"]), [0; 512]);
    }
}

#[test]
fn what_is_said_of_a_disk_stands_in_it() {
    let dir = dir();
    let args = ["create", "a.vmdk", "--size", "1G", "--type", "MONOLITHICsparse", "--adapter", "LSIlogic"];
    let more = ["--hardware-version", "14", "--geometry", "5/6/7", "--uuid", UUID, "--grain", "4K", "--zero-grains"];
    vmdk(&dir, &[&args[..], &more].concat());
    let info = info(&dir, "a.vmdk");
    assert_eq!((&info["adapter_type"], &info["hardware_version"]), (&"lsilogic".into(), &14.into()));
    assert_eq!(info["geometry"], serde_json::json!({"cylinders": 5, "heads": 6, "sectors": 7}));
    assert_eq!(info["uuid"], "6000c29e-32c9-d763-c90a-44b00089796e");
    assert_eq!((&info["header"]["grain_size"], &info["header"]["version"]), (&4096.into(), &2.into()));
    vmdk(&dir, &["create", "flat.vmdk", "--size", "1M", "--type", "monolithicFlat", "--preallocate"]);
    assert!(allocated(&dir.path().join("flat-flat.vmdk")) >= 1 << 20);
}

#[test]
fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    let dir = dir();
    for (args, word) in [
        (&["--size", "1000"][..], "512"),
        (&["--size", "0"], "0 sectors"),
        (&["--size", "16777215T"], "sectors"),
        (&["--size", "1M", "--grain", "1000"], "grain"),
        (&["--size", "1M", "--grain", "1M"], "grain"),
        (&["--size", "1M", "--type", "vmfs", "--zero-grains"], "zero grains"),
        (&["--size", "1M", "--preallocate"], "preallocated"),
        (&["--size", "1M", "--geometry", "0/1/1"], "geometry"),
        (&["--size", "3T", "--type", "vmfsSparse"], "COWD"),
    ] {
        let said = refused(&dir, &[&["create", "a.vmdk"], args].concat());
        assert!(said.contains(word), "{args:?}: {said}");
    }
    assert!(refused(&dir, &["create", "a\"b.vmdk", "--size", "1M"]).contains("quote"));
    assert!(refused(&dir, &["create", "a\nRW 1 FLAT \"x\" 0.vmdk", "--size", "1M"]).contains("line end"));
    assert!(refused(&dir, &["create", "missing/a.vmdk", "--size", "1M"]).contains("missing/a.vmdk"));
    for args in [&["--type", "streamOptimized"][..], &["--adapter", "pvscsi"], &["--geometry", "1/2"], &["--uuid", "1"]]
    {
        let output = command(&dir, &[&["create", "a.vmdk", "--size", "1M"], args].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    }
    assert_eq!(state(&dir), []);
}

#[test]
fn a_file_that_exists_is_replaced_only_if_that_is_asked_for() {
    let dir = dir();
    write_raw(&dir, "raw");
    vmdk(&dir, &["create", "a.vmdk", "--size", "1M"]);
    fs::write(dir.path().join("b-flat.vmdk"), "somebody's").unwrap();
    for args in [
        &["create", "a.vmdk", "--size", "2M"][..],
        &["create", "b.vmdk", "--size", "2M", "--type", "monolithicFlat"],
        &["convert", "raw", "a.vmdk", "--to", "monolithicSparse"],
        &["snapshot", "a.vmdk", "a.vmdk"],
    ] {
        let said = refused(&dir, args);
        assert!(said.contains("the file exists"), "{said}");
    }
    vmdk(&dir, &["create", "a.vmdk", "--size", "2M", "--replace"]);
    assert_eq!(info(&dir, "a.vmdk")["virtual_size"], 2 << 20);
    vmdk(&dir, &["convert", "raw", "a.vmdk", "--to", "monolithicSparse", "--replace"]);
    assert_same(&dir, "a.vmdk", "raw");
    vmdk(&dir, &["snapshot", "a.vmdk", "child.vmdk"]);
    for args in [
        &["snapshot", "a.vmdk", "a.vmdk", "--replace"][..],
        &["convert", "a.vmdk", "a.vmdk", "--to", "vmfs", "--replace"],
        &["convert", "-U", "a.vmdk", "a.vmdk", "--to", "vmfs", "--replace"],
        &["convert", "-U", "child.vmdk", "a.vmdk", "--to", "monolithicSparse", "--replace"],
        &["convert", "-U", "raw", "raw", "--to", "monolithicSparse", "--replace"],
        &["convert", "child.vmdk", "child.vmdk", "--to", "vmfs", "--replace", "--parent", "a.vmdk"],
    ] {
        refused(&dir, args);
    }
    let said = refused(&dir, &["snapshot", "a.vmdk", "a.vmdk", "--replace"]);
    assert!(said.contains("its own source or parent"), "{said}");
}

#[test]
fn a_snapshot_reads_as_the_disk_below_and_goes_its_own_way() {
    let dir = dir();
    write_raw(&dir, "raw");
    fs::create_dir(dir.path().join("sub")).unwrap();
    for (create_type, child_type) in [
        ("monolithicSparse", "monolithicSparse"),
        ("monolithicFlat", "monolithicSparse"),
        ("twoGbMaxExtentSparse", "twoGbMaxExtentSparse"),
        ("twoGbMaxExtentFlat", "twoGbMaxExtentSparse"),
        ("vmfs", "vmfsSparse"),
        ("vmfsSparse", "vmfsSparse"),
    ] {
        let (base, child) = (format!("{create_type}.vmdk"), format!("{create_type}-000001.vmdk"));
        vmdk(&dir, &["convert", "raw", &base, "--to", create_type]);
        vmdk(&dir, &["snapshot", &base, &child]);
        assert_same(&dir, &child, "raw");
        let below = info(&dir, &base);
        let about = info(&dir, &child);
        assert_eq!((&about["create_type"], &about["parent_cid"]), (&child_type.into(), &below["cid"]));
        assert_eq!(about["parent_hint"], base);
        assert_eq!(about["adapter_type"], below["adapter_type"]);
        vmdk(&dir, &["zero", &child, "0", "512"]);
        assert_same(&dir, &base, "raw");
        let grandchild = format!("sub/{create_type}-000002.vmdk");
        vmdk(&dir, &["snapshot", &child, &grandchild, "--type", "monolithicSparse", "--zero-grains"]);
        assert_eq!(info(&dir, &grandchild)["parent_hint"], format!("../{child}"));
        vmdk(&dir, &["compare", "--allow-dir", ".", &grandchild, &child]);
    }
    for flat in ["vmfs", "monolithicFlat"] {
        assert!(refused(&dir, &["snapshot", "vmfs.vmdk", "x.vmdk", "--type", flat]).contains("only sparse disks"));
    }
}

#[test]
fn a_raw_disk_becomes_a_disk_of_every_type_and_every_type_becomes_every_other() {
    let dir = dir();
    write_raw(&dir, "raw");
    for from in TYPES {
        let first = format!("{from}.vmdk");
        vmdk(&dir, &["convert", "raw", &first, "--to", from, "--sync", "--adapter", "buslogic", "--uuid", UUID]);
        assert_same(&dir, &first, "raw");
        // Neither the hole nor the zeros are there.
        let size = info(&dir, &first)["allocated_size"].as_u64().unwrap();
        assert!(size < 500_000, "{from}: {size}");
        for to in TYPES {
            let second = format!("{from}-{to}.vmdk");
            vmdk(&dir, &["convert", &first, &second, "--to", to]);
            assert_same(&dir, &second, "raw");
            let (old, new) = (info(&dir, &first), info(&dir, &second));
            for key in ["adapter_type", "hardware_version", "geometry", "uuid", "virtual_size"] {
                assert_eq!(new[key], old[key], "{key}");
            }
        }
    }
    vmdk(&dir, &["convert", "vmfs.vmdk", "told.vmdk", "--to", "vmfs", "--adapter", "ide", "--geometry", "9/8/7"]);
    let told = info(&dir, "told.vmdk");
    assert_eq!((&told["adapter_type"], &told["geometry"]["heads"]), (&"ide".into(), &8.into()));
}

#[test]
fn a_chain_is_converted_as_one_disk() {
    let dir = dir();
    write_raw(&dir, "raw");
    vmdk(&dir, &["convert", "raw", "base.vmdk", "--to", "twoGbMaxExtentFlat"]);
    vmdk(&dir, &["snapshot", "base.vmdk", "child.vmdk"]);
    vmdk(&dir, &["zero", "child.vmdk", "100", "1000"]);
    vmdk(&dir, &["convert", "child.vmdk", "copy.vmdk", "--to", "monolithicSparse"]);
    assert_same(&dir, "copy.vmdk", "child.vmdk");
    assert_eq!(info(&dir, "copy.vmdk")["parent_cid"], Value::Null);
    fs::rename(dir.path().join("base.vmdk"), dir.path().join("moved.vmdk")).unwrap();
    let args = ["convert", "child.vmdk", "again.vmdk", "--to", "vmfs"];
    refused(&dir, &args);
    vmdk(&dir, &[&args[..], &["--source-parent", "moved.vmdk"]].concat());
    assert_same(&dir, "again.vmdk", "copy.vmdk");
}

#[test]
fn a_copy_over_a_parent_has_only_what_differs() {
    let dir = dir();
    write_raw(&dir, "raw");
    vmdk(&dir, &["convert", "raw", "base.vmdk", "--to", "monolithicFlat"]);
    let empty = || allocated(&dir.path().join("same.vmdk"));
    vmdk(&dir, &["convert", "raw", "same.vmdk", "--to", "monolithicSparse", "--parent", "base.vmdk"]);
    assert_same(&dir, "same.vmdk", "raw");
    assert!(empty() < 64 << 10);
    let file = File::options().write(true).open(dir.path().join("raw")).unwrap();
    file.write_all_at(&vec![0; 70_000], 0).unwrap();
    file.write_all_at(b"x", 3 << 20).unwrap();
    vmdk(&dir, &["convert", "raw", "other.vmdk", "--to", "monolithicSparse", "--parent", "base.vmdk"]);
    assert_same(&dir, "other.vmdk", "raw");
    let size = fs::metadata(dir.path().join("other.vmdk")).unwrap().len();
    assert_eq!(size, (128 + 3 * 128) * 512, "one grain was cleared, one in part, and one is new");
    vmdk(&dir, &["create", "larger.vmdk", "--size", "6M"]);
    let args = ["convert", "raw", "x.vmdk", "--to", "monolithicSparse", "--parent", "larger.vmdk"];
    assert!(refused(&dir, &args).contains("sectors"));
    let args = ["convert", "raw", "x.vmdk", "--to", "monolithicFlat", "--parent", "base.vmdk"];
    assert!(refused(&dir, &args).contains("only sparse disks"));
}

#[test]
fn a_raw_disk_that_looks_like_a_vmdk_is_one_only_if_it_is_not_said_to_be_raw() {
    let dir = dir();
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\nRW 2 ZERO\n";
    fs::write(dir.path().join("raw"), text).unwrap();
    let args = ["convert", "raw", "a.vmdk", "--to", "monolithicSparse", "--replace"];
    vmdk(&dir, &args);
    assert_eq!(vmdk(&dir, &["read", "a.vmdk", "0", "1024"]), [0; 1024]);
    vmdk(&dir, &[&args[..], &["--raw"]].concat());
    assert_eq!(vmdk(&dir, &["read", "a.vmdk", "0", "16"]), text.as_bytes()[..16]);
}

#[test]
fn a_raw_copy_takes_no_options_of_disks() {
    let dir = dir();
    vmdk(&dir, &["create", "a.vmdk", "--size", "1M"]);
    for option in [&["--raw"][..], &["--grain", "4K"], &["--zero-grains"], &["--adapter", "ide"], &["--preallocate"]] {
        let said = refused(&dir, &[&["convert", "a.vmdk", "out"], option].concat());
        assert!(said.contains("--to"), "{said}");
    }
    refused(&dir, &["convert", "a.vmdk", "out", "--parent", "a.vmdk"]);
}

/// How often a copy is begun that should be stopped on its way: on a busy machine a signal may come late.
const TRIES: usize = 8;

/// Runs a command and sends it a signal once there is something of what it makes.
fn interrupted(dir: &TempDir, args: &[&str], signal: u32, before: &State) -> Output {
    let mut child = command(dir, args).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    while state(dir) == *before && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    // If it has ended by now, there is nobody to get it.
    let [signal, id] = [format!("-{signal}"), child.id().to_string()];
    Command::new("kill").args([signal, id]).stderr(Stdio::null()).status().unwrap();
    child.wait_with_output().unwrap()
}

/// Removes the files that were not there before.
fn remove_new(dir: &TempDir, before: &State) {
    let is_new = |name: &str| before.iter().all(|(old, ..)| old != name);
    for (name, ..) in state(dir).into_iter().filter(|(name, ..)| is_new(name)) {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
}

/// How long it takes to start does not matter: the copy is stopped once there is something of it. A signal that the
/// tests are started to ignore stops nothing.
#[test]
fn a_copy_that_is_interrupted_leaves_nothing() {
    let dir = dir();
    let content = vec![7; 64 << 20];
    let file = File::create(dir.path().join("raw")).unwrap();
    (0..16).for_each(|piece| file.write_all_at(&content, piece << 26).unwrap());
    vmdk(&dir, &["convert", "raw", "a.vmdk", "--to", "monolithicFlat"]);
    for (signal, args) in [
        (INT, &["convert", "raw", "out", "--to", "monolithicSparse"][..]),
        (HUP, &["convert", "raw", "out", "--to", "twoGbMaxExtentFlat"]),
        (TERM, &["convert", "a.vmdk", "out"]),
    ] {
        let before = state(&dir);
        if is_ignored(signal) {
            let output = interrupted(&dir, args, signal, &before);
            assert!(output.status.success(), "{args:?}: {output:?}");
            assert_same(&dir, "raw", "out");
            remove_new(&dir, &before);
            continue;
        }
        let stopped = (0..TRIES).find_map(|_| {
            let output = interrupted(&dir, args, signal, &before);
            if output.status.success() {
                // It was done before the signal came.
                remove_new(&dir, &before);
                return None;
            }
            Some(output)
        });
        let Some(output) = stopped else {
            assert_eq!(args.len(), 3, "{args:?} cannot be stopped");
            // A file system that shares what is copied is done before anybody can stop it.
            let _ =
                writeln!(std::io::stderr(), "SKIPPED a_copy_that_is_interrupted_leaves_nothing: {args:?} is too fast");
            continue;
        };
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("stopped") && said.lines().count() == 1, "{said}");
        assert_eq!(state(&dir), before);
    }
}

#[test]
fn a_raw_disk_that_is_written_is_copied_only_if_that_is_asked_for() {
    let dir = dir();
    write_raw(&dir, "raw");
    let file = File::options().read(true).write(true).open(dir.path().join("raw")).unwrap();
    file.lock().unwrap();
    let args = ["convert", "raw", "a.vmdk", "--to", "monolithicSparse"];
    assert!(refused(&dir, &args).contains("locked"));
    vmdk(&dir, &[&args[..], &["--force-share"]].concat());
    drop(file);
    assert_same(&dir, "raw", "a.vmdk");
}

/// QEMU looks for the key of the hint anywhere in the text.
#[test]
fn nothing_that_an_image_says_of_itself_makes_another_image_its_parent() {
    let dir = dir();
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\nRW 2 ZERO\n\
                ddb.adapterType = \"parentFileNameHint==secret.vmdk\"\n";
    fs::write(dir.path().join("a.vmdk"), text).unwrap();
    vmdk(&dir, &["convert", "a.vmdk", "b.vmdk", "--to", "monolithicFlat"]);
    assert!(!fs::read_to_string(dir.path().join("b.vmdk")).unwrap().contains("secret"));
    assert!(refused(&dir, &["create", "parentFileNameHint==x.vmdk", "--size", "1M"]).contains("key"));
}

#[test]
fn a_snapshot_is_as_private_as_the_disk_below() {
    use std::os::unix::fs::PermissionsExt;
    let dir = dir();
    vmdk(&dir, &["create", "a.vmdk", "--size", "1M", "--type", "monolithicFlat"]);
    fs::set_permissions(dir.path().join("a.vmdk"), fs::Permissions::from_mode(0o600)).unwrap();
    vmdk(&dir, &["snapshot", "a.vmdk", "b.vmdk", "--type", "twoGbMaxExtentSparse"]);
    for name in ["b.vmdk", "b-s001.vmdk"] {
        assert_eq!(fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

/// As `nohup` does it, or a script that starts it in the background.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_is_to_be_ignored_stops_nothing() {
    let dir = dir();
    let content = vec![7; 64 << 20];
    let file = File::create(dir.path().join("raw")).unwrap();
    (0..4).for_each(|piece| file.write_all_at(&content, piece << 26).unwrap());
    let before = state(&dir);
    let line = format!("trap '' HUP; exec {} convert raw out --to monolithicSparse", env!("CARGO_BIN_EXE_vmdk"));
    let mut child = Command::new("sh").current_dir(&dir).args(["-c", &line]).spawn().unwrap();
    while state(&dir) == before {
        std::thread::sleep(Duration::from_millis(1));
    }
    Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
    assert_same(&dir, "raw", "out");
}
