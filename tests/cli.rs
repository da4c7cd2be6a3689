//! The command-line tool, from the outside: what it prints, what it writes, and how it exits.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do is a failure of the test")]

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const SECTOR: usize = 512;

/// Runs the tool in `dir`: exit code, stdout, stderr.
fn vmdk(dir: &TempDir, args: &[&str]) -> (i32, Vec<u8>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vmdk")).current_dir(dir).args(args).output().unwrap();
    (output.status.code().unwrap(), output.stdout, String::from_utf8(output.stderr).unwrap())
}

/// What a run that must succeed, and quietly, prints.
#[track_caller]
fn succeeds(dir: &TempDir, args: &[&str]) -> Vec<u8> {
    let (code, stdout, stderr) = vmdk(dir, args);
    assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
    stdout
}

/// The error of a run that must fail: one line, and nothing on stdout.
#[track_caller]
fn fails(dir: &TempDir, args: &[&str]) -> String {
    let (code, stdout, stderr) = vmdk(dir, args);
    assert_eq!((code, stdout.len()), (2, 0), "{args:?}: {stderr}");
    assert!(stderr.starts_with("vmdk: ") && stderr.ends_with('\n') && stderr.lines().count() == 1, "{stderr:?}");
    stderr
}

#[track_caller]
fn info_json(dir: &TempDir, args: &[&str]) -> Value {
    serde_json::from_slice(&succeeds(dir, &[&["info", "--json"], args].concat())).unwrap()
}

/// `key: value` lines of the text report, in their order.
#[track_caller]
fn info_text(dir: &TempDir, args: &[&str]) -> Vec<(String, String)> {
    let text = String::from_utf8(succeeds(dir, &[&["info"], args].concat())).unwrap();
    let rows = text.lines().map(|line| line.split_once(':').unwrap());
    rows.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect()
}

#[track_caller]
fn value<'a>(rows: &'a [(String, String)], key: &str) -> &'a str {
    rows.iter().find(|(name, _)| name == key).map_or("missing", |(_, value)| value)
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The real path of a file in `dir`, as reports show it.
fn real(dir: &TempDir, name: &str) -> String {
    fs::canonicalize(dir).unwrap().join(name).to_str().unwrap().to_owned()
}

fn names_in(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

/// Bytes that tell where they are.
fn content(sectors: usize) -> Vec<u8> {
    (0..sectors * SECTOR).map(|at| u8::try_from((at / SECTOR * 31 + at % 251) % 256).unwrap()).collect()
}

fn descriptor(cid: &str, parent: &str, extents: &str) -> String {
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid}\nparentCID={parent}\ncreateType=\"custom\"\n{extents}\n\
         ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"2\"\nddb.geometry.heads = \"16\"\n\
         ddb.geometry.sectors = \"63\"\nddb.virtualHWVersion = \"14\"\n\
         ddb.longContentID = \"a4b8f218877c162762bbc160cee4a7b7\"\n\
         ddb.uuid = \"60 00 C2 9e 32 c9 d7 63-c9 0a 44 b0 00 89 79 6e\"\n"
    )
}

/// `base.vmdk`, CID 0000abcd: 16 sectors of content in `base-flat.vmdk`.
fn write_base(dir: &TempDir) -> Vec<u8> {
    let content = content(16);
    fs::write(dir.path().join("base-flat.vmdk"), &content).unwrap();
    let text = descriptor("abcd", "ffffffff", "RW 16 FLAT \"base-flat.vmdk\" 0");
    fs::write(dir.path().join("base.vmdk"), text).unwrap();
    content
}

/// `child.vmdk`, a child of `parent` with this CID, in a sparse extent of two grains of 8 sectors: the first is 8
/// sectors of 0xcc, the second is at the sector `second` of the extent, and the parent's if that is 0.
fn write_child(dir: &TempDir, parent: &str, parent_cid: &str, second: u32) {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=5\nparentCID={parent_cid}\ncreateType=\"twoGbMaxExtentSparse\"\n\
         parentFileNameHint=\"{parent}\"\nRW 16 SPARSE \"child-s001.vmdk\"\n"
    );
    fs::write(dir.path().join("child.vmdk"), text).unwrap();

    let mut extent = vec![0; 8 * SECTOR];
    extent[..4].copy_from_slice(b"KDMV");
    extent[4] = 1; // version
    extent[8] = 1; // flags: newline check
    extent[12] = 16; // capacity
    extent[20] = 8; // grain size
    extent[44..48].copy_from_slice(&512_u32.to_le_bytes()); // entries of a table
    extent[56] = 1; // sector of the directory
    extent[64] = 8; // overhead
    extent[73..77].copy_from_slice(b"\n \r\n");
    extent[SECTOR] = 2; // directory: sector of the table
    extent[2 * SECTOR] = 8; // table: sector of the first grain
    extent[2 * SECTOR + 4..2 * SECTOR + 8].copy_from_slice(&second.to_le_bytes());
    extent.resize(16 * SECTOR, 0xcc);
    fs::write(dir.path().join("child-s001.vmdk"), extent).unwrap();
}

/// `base.vmdk` and `child.vmdk` on it; the content of the child.
fn write_chain(dir: &TempDir) -> Vec<u8> {
    let mut content = write_base(dir);
    write_child(dir, "base.vmdk", "0000abcd", 0);
    content[..8 * SECTOR].fill(0xcc);
    content
}

mod info {
    use super::*;

    #[test]
    fn a_flat_disk_is_described_in_text() {
        let dir = dir();
        fs::write(dir.path().join("a-flat.vmdk"), content(9)).unwrap();
        let extents = "RW 8 FLAT \"a-flat.vmdk\" 1\nRDONLY 4 ZERO\nNOACCESS 4 FLAT \"gone.vmdk\" 0";
        fs::write(dir.path().join("a.vmdk"), descriptor("abcd", "ffffffff", extents)).unwrap();
        let rows = info_text(&dir, &["a.vmdk"]);
        for (key, expected) in [
            ("path", real(&dir, "a.vmdk").as_str()),
            ("create type", "custom"),
            ("virtual size", "8 KiB (8192 bytes)"),
            ("CID", "0000abcd"),
            ("parent CID", "none"),
            ("long content ID", "a4b8f218877c162762bbc160cee4a7b7"),
            ("geometry", "2/16/63 (cylinders/heads/sectors)"),
            ("adapter type", "lsilogic"),
            ("hardware version", "14"),
            ("UUID", "6000c29e-32c9-d763-c90a-44b00089796e"),
            ("extent 0", "RW FLAT, 8 sectors from sector 0"),
            ("file", real(&dir, "a-flat.vmdk").as_str()),
            ("offset", "512 bytes"),
            ("extent 1", "RDONLY ZERO, 4 sectors from sector 8"),
            ("extent 2", "NOACCESS FLAT, 4 sectors from sector 12"),
            ("chain", "complete, 1 link"),
        ] {
            assert_eq!(value(&rows, key), expected, "{key}");
        }
        assert!(rows.contains(&("file".to_owned(), "gone.vmdk (not opened)".to_owned())), "{rows:?}");
    }

    #[test]
    fn a_flat_disk_is_described_in_json() {
        let dir = dir();
        fs::write(dir.path().join("a-flat.vmdk"), content(9)).unwrap();
        let extents = "RW 8 FLAT \"a-flat.vmdk\" 1\nRDONLY 4 ZERO\nNOACCESS 4 FLAT \"gone.vmdk\" 0";
        let text = descriptor("abcd", "ffffffff", extents);
        fs::write(dir.path().join("a.vmdk"), &text).unwrap();
        let mut info = info_json(&dir, &["a.vmdk"]);
        let allocated = info["allocated_size"].take();
        assert!(allocated.as_u64().unwrap() > 0);
        assert_eq!(info["chain"][0]["allocated_size"].take(), allocated);
        let expected = json!({
            "path": real(&dir, "a.vmdk"),
            "create_type": "custom",
            "virtual_size": 8192,
            "allocated_size": null,
            "file_size": 9 * SECTOR + text.len(),
            "cid": "0000abcd",
            "parent_cid": null,
            "long_content_id": "a4b8f218877c162762bbc160cee4a7b7",
            "parent_hint": null,
            "parent_hint_raw": null,
            "parent_hint_error": null,
            "encoding": null,
            "change_track_path": null,
            "change_tracking": null,
            "geometry": { "cylinders": 2, "heads": 16, "sectors": 63 },
            "adapter_type": "lsilogic",
            "hardware_version": 14,
            "uuid": "6000c29e-32c9-d763-c90a-44b00089796e",
            "header": null,
            "extents": [
                {
                    "access": "RW", "type": "FLAT", "start": 0, "size": 4096, "name": "a-flat.vmdk",
                    "name_raw": "612d666c61742e766d646b", "name_error": null,
                    "path": real(&dir, "a-flat.vmdk"), "offset": 512, "header": null, "salvaged": null,
                },
                {
                    "access": "RDONLY", "type": "ZERO", "start": 4096, "size": 2048, "name": null,
                    "name_raw": null, "name_error": null,
                    "path": null, "offset": null, "header": null, "salvaged": null,
                },
                {
                    "access": "NOACCESS", "type": "FLAT", "start": 6144, "size": 2048, "name": "gone.vmdk",
                    "name_raw": "676f6e652e766d646b", "name_error": null,
                    "path": null, "offset": null, "header": null, "salvaged": null,
                },
            ],
            "warnings": [],
            "chain": [{
                "path": real(&dir, "a.vmdk"), "create_type": "custom", "cid": "0000abcd", "parent_cid": null,
                "change_track_path": null,
                "virtual_size": 8192, "allocated_size": null, "file_size": 9 * SECTOR + text.len(), "warnings": [],
            }],
            "chain_error": null,
        });
        assert_eq!(info, expected);
    }

    #[test]
    fn a_chain_is_listed_youngest_first_and_a_sparse_header_is_shown() {
        let dir = dir();
        write_chain(&dir);
        let info = info_json(&dir, &["child.vmdk"]);
        assert_eq!((&info["cid"], &info["parent_cid"]), (&json!("00000005"), &json!("0000abcd")));
        assert_eq!(info["parent_hint"], "base.vmdk");
        // The child's own disk database is empty: the parent's counts.
        assert_eq!((&info["adapter_type"], &info["hardware_version"]), (&json!("lsilogic"), &json!(14)));
        assert_eq!(info["long_content_id"], Value::Null);
        let header = json!({
            "format": "KDMV", "version": 1, "flags": 1, "capacity": 8192, "grain_size": 4096, "descriptor_offset": 0,
            "descriptor_size": 0, "gtes_per_gt": 512, "rgd_offset": 0, "gd_offset": 512, "overhead": 4096,
            "unclean_shutdown": false, "compress_algorithm": 0,
        });
        assert_eq!(info["extents"][0]["header"], header);
        let links = info["chain"].as_array().unwrap();
        let cids: Vec<_> = links.iter().map(|link| link["cid"].as_str().unwrap()).collect();
        assert_eq!(cids, ["00000005", "0000abcd"]);
        assert_eq!(links[1]["path"], json!(real(&dir, "base.vmdk")));

        let rows = info_text(&dir, &["child.vmdk"]);
        assert_eq!(value(&rows, "header"), "version 1, flags 0x1");
        assert_eq!(value(&rows, "grain size"), "4 KiB (4096 bytes)");
        assert_eq!(value(&rows, "directory"), "sector 1");
        assert_eq!(value(&rows, "chain"), "complete, 2 links");
        assert_eq!(value(&rows, "link 1"), real(&dir, "base.vmdk"));
    }

    #[test]
    fn the_header_of_a_lone_extent_is_that_of_the_file() {
        let dir = dir();
        write_chain(&dir);
        let info = info_json(&dir, &["child-s001.vmdk"]);
        assert_eq!(info["header"]["grain_size"], 4096);
        assert_eq!(info["header"], info["extents"][0]["header"]);
        assert_eq!((&info["create_type"], &info["cid"]), (&Value::Null, &Value::Null));
        let headers = info_text(&dir, &["child-s001.vmdk"]).into_iter().filter(|(key, _)| key == "header");
        assert_eq!(headers.count(), 1);
    }

    #[test]
    fn an_orphan_is_described_with_the_reason() {
        let dir = dir();
        write_child(&dir, "base.vmdk", "0000abcd", 0);
        let info = info_json(&dir, &["child.vmdk"]);
        assert_eq!((&info["cid"], &info["parent_hint"]), (&json!("00000005"), &json!("base.vmdk")));
        assert_eq!((&info["virtual_size"], info["chain"].as_array().unwrap().len()), (&json!(8192), 1));
        assert!(info["chain_error"].as_str().unwrap().contains("cannot find the parent \"base.vmdk\""), "{info}");
        let rows = info_text(&dir, &["child.vmdk"]);
        assert!(value(&rows, "chain").starts_with("broken: "), "{rows:?}");
        assert!(value(&rows, "chain").contains("base.vmdk"), "{rows:?}");
    }

    #[test]
    fn a_changed_parent_breaks_the_chain_until_it_is_ignored() {
        let dir = dir();
        write_base(&dir);
        write_child(&dir, "base.vmdk", "00001234", 0);
        let error = info_json(&dir, &["child.vmdk"])["chain_error"].take();
        assert!(error.as_str().unwrap().contains("0000abcd"), "{error}");
        let info = info_json(&dir, &["child.vmdk", "--ignore-cid-mismatch"]);
        assert_eq!((&info["chain_error"], info["chain"].as_array().unwrap().len()), (&Value::Null, 2));
    }

    #[test]
    fn a_chain_that_leads_back_to_itself_is_broken() {
        let dir = dir();
        write_child(&dir, "child.vmdk", "00000005", 0);
        let error = info_json(&dir, &["child.vmdk"])["chain_error"].take();
        assert!(error.as_str().unwrap().contains("leads back"), "{error}");
    }

    #[test]
    fn a_parent_elsewhere_is_found_when_it_is_allowed_or_named() {
        let (dir, elsewhere) = (dir(), dir());
        write_base(&elsewhere);
        write_child(&dir, &real(&elsewhere, "base.vmdk"), "0000abcd", 0);
        let error = info_json(&dir, &["child.vmdk"])["chain_error"].take();
        assert!(error.as_str().unwrap().contains("allow the directory"), "{error}");
        let allowed = real(&elsewhere, "");
        let parent = real(&elsewhere, "base.vmdk");
        let ways: [&[&str]; 3] = [&["--allow-dir", &allowed], &["--allow-any-path"], &["--parent", &parent]];
        for way in ways {
            let info = info_json(&dir, &[&["child.vmdk"], way].concat());
            assert_eq!(info["chain"][1]["path"], json!(parent), "{way:?}: {info}");
        }
    }

    #[test]
    fn a_bad_image_is_an_error_and_not_a_broken_chain() {
        let dir = dir();
        fs::write(dir.path().join("text.vmdk"), "no disk at all").unwrap();
        assert!(fails(&dir, &["info", "text.vmdk"]).contains("text.vmdk: "));
        assert!(fails(&dir, &["info", "--json", "none.vmdk"]).contains("none.vmdk: cannot open: "));
        // An orphan without its own extent has nothing to report.
        write_child(&dir, "base.vmdk", "0000abcd", 0);
        fs::remove_file(dir.path().join("child-s001.vmdk")).unwrap();
        assert!(fails(&dir, &["info", "child.vmdk"]).contains("child-s001.vmdk"));
    }

    #[test]
    fn control_characters_from_an_image_do_not_reach_the_terminal() {
        let dir = dir();
        let text = descriptor("1", "ffffffff", "RW 1 ZERO").replace("lsilogic", "x\u{1b}[2Jy\u{9b}z\u{202e}");
        fs::write(dir.path().join("a.vmdk"), text.replace("custom", "\u{7}bell")).unwrap();
        let rows = info_text(&dir, &["a.vmdk"]);
        assert_eq!(value(&rows, "adapter type"), r"x\u{1b}[2Jy\u{9b}z\u{202e}");
        assert_eq!(value(&rows, "create type"), r"\u{7}bell");
        assert_eq!(info_json(&dir, &["a.vmdk"])["adapter_type"], "x\u{1b}[2Jy\u{9b}z\u{202e}");
        let json = succeeds(&dir, &["info", "--json", "a.vmdk"]);
        assert!(json.iter().all(|&byte| byte == b'\n' || byte >= 0x20), "{}", json.escape_ascii());
    }

    #[test]
    fn every_key_of_the_json_is_in_the_help_text() {
        let dir = dir();
        write_chain(&dir);
        let help = String::from_utf8(succeeds(&dir, &["info", "--help"])).unwrap();
        let info = info_json(&dir, &["child.vmdk"]);
        let objects = [&info, &info["chain"][0], &info["extents"][0], &info["extents"][0]["header"], &info["geometry"]];
        for key in objects.into_iter().flat_map(|object| object.as_object().unwrap().keys()) {
            assert!(help.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == key), "{key}");
        }
    }
}

mod convert {
    use super::*;

    #[test]
    fn the_result_is_the_content_of_the_chain() {
        let dir = dir();
        let expected = write_chain(&dir);
        assert_eq!(succeeds(&dir, &["convert", "child.vmdk", "new.raw"]), b"");
        assert_eq!(fs::read(dir.path().join("new.raw")).unwrap(), expected);
        succeeds(&dir, &["convert", "child.vmdk", "synced.raw", "--to", "raw", "--sync"]);
        assert_eq!(fs::read(dir.path().join("synced.raw")).unwrap(), expected);
        succeeds(&dir, &["convert", "base.vmdk", &real(&dir, "synced.raw"), "--sync"]);
        assert_eq!(fs::read(dir.path().join("synced.raw")).unwrap(), content(16));
        assert_eq!(
            names_in(&dir),
            ["base-flat.vmdk", "base.vmdk", "child-s001.vmdk", "child.vmdk", "new.raw", "synced.raw"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        const LEN: u64 = 8 << 20;
        let dir = dir();
        let flat = File::create(dir.path().join("a-flat.vmdk")).unwrap();
        flat.set_len(LEN).unwrap();
        flat.write_all_at(&content(16), 4 << 20).unwrap();
        let extents = format!("RW {} FLAT \"a-flat.vmdk\" 0\nRW 8192 ZERO", LEN / 512);
        fs::write(dir.path().join("a.vmdk"), descriptor("1", "ffffffff", &extents)).unwrap();
        succeeds(&dir, &["convert", "a.vmdk", "a.raw"]);
        let meta = fs::metadata(dir.path().join("a.raw")).unwrap();
        assert_eq!(meta.len(), LEN + 8192 * 512);
        assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
        let raw = fs::read(dir.path().join("a.raw")).unwrap();
        assert_eq!(raw[4 << 20..][..16 * SECTOR], content(16));
        assert_eq!(
            raw.iter().filter(|&&byte| byte != 0).count(),
            content(16).iter().filter(|&&byte| byte != 0).count()
        );
    }

    #[test]
    fn a_failing_copy_leaves_the_target_and_nothing_else() {
        let dir = dir();
        write_base(&dir);
        // The first grain is copied before it shows that the second lies past the end of the extent.
        write_child(&dir, "base.vmdk", "0000abcd", 1000);
        fs::write(dir.path().join("old.raw"), "precious").unwrap();
        let before = names_in(&dir);
        for target in ["old.raw", "new.raw"] {
            let error = fails(&dir, &["convert", "child.vmdk", target]);
            assert!(error.contains("child-s001.vmdk") && error.contains("past the end of the file"), "{error}");
        }
        assert_eq!(fs::read(dir.path().join("old.raw")).unwrap(), b"precious");
        assert_eq!(names_in(&dir), before);
    }

    #[test]
    fn no_file_of_the_chain_is_overwritten() {
        let dir = dir();
        write_chain(&dir);
        fs::hard_link(dir.path().join("base-flat.vmdk"), dir.path().join("other name")).unwrap();
        let files = ["child.vmdk", "child-s001.vmdk", "base.vmdk", "base-flat.vmdk"];
        let before = files.map(|file| fs::read(dir.path().join(file)).unwrap());
        // Elsewhere files have no identity that another name would share.
        let hard_link: &[&str] = if cfg!(unix) { &["other name"] } else { &[] };
        for target in files.iter().chain(hard_link) {
            let error = fails(&dir, &["convert", "child.vmdk", target]);
            assert!(error.contains("overwrite its own source"), "{error}");
        }
        assert_eq!(before, files.map(|file| fs::read(dir.path().join(file)).unwrap()));
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_followed_and_stays_one() {
        use std::os::unix::fs::symlink;
        let (dir, elsewhere) = (dir(), dir());
        let expected = write_chain(&dir);
        fs::write(elsewhere.path().join("real.raw"), "old").unwrap();
        symlink(elsewhere.path().join("real.raw"), dir.path().join("link.raw")).unwrap();
        succeeds(&dir, &["convert", "child.vmdk", "link.raw"]);
        assert!(fs::symlink_metadata(dir.path().join("link.raw")).unwrap().is_symlink());
        assert_eq!(fs::read(elsewhere.path().join("real.raw")).unwrap(), expected);
        assert_eq!(names_in(&elsewhere), ["real.raw"]);

        symlink("base-flat.vmdk", dir.path().join("sly")).unwrap();
        assert!(fails(&dir, &["convert", "child.vmdk", "sly"]).contains("overwrite its own source"));
        symlink("nothing", dir.path().join("dangling")).unwrap();
        assert!(fails(&dir, &["convert", "child.vmdk", "dangling"]).contains("leads nowhere"));
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_kept_and_those_of_a_new_file_are_the_usual_ones() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let dir = dir();
        write_base(&dir);
        let old = dir.path().join("old.raw");
        fs::write(&old, "").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
        succeeds(&dir, &["convert", "base.vmdk", "old.raw"]);
        assert_eq!(mode(old), 0o640);
        succeeds(&dir, &["convert", "base.vmdk", "new.raw"]);
        assert_eq!(mode(dir.path().join("new.raw")), mode(dir.path().join("base.vmdk")));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = dir();
        write_base(&dir);
        fs::create_dir(dir.path().join("sub")).unwrap();
        assert!(fails(&dir, &["convert", "base.vmdk", "sub"]).contains("sub: is a directory"));
        assert!(fails(&dir, &["convert", "base.vmdk", "new/"]).contains("not the name of a file"));
        assert!(fails(&dir, &["convert", "base.vmdk", "none/new.raw"]).contains("none/new.raw: "));
        assert_eq!(names_in(&dir), ["base-flat.vmdk", "base.vmdk", "sub"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn special_files_are_refused_and_not_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = dir();
        write_base(&dir);
        mknodat(CWD, dir.path().join("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(fails(&dir, &["convert", "base.vmdk", "fifo"]).contains("fifo: is a FIFO"));
        assert!(fails(&dir, &["convert", "base.vmdk", "/dev/null"]).contains("/dev/null: is a character device"));
    }

    #[test]
    fn what_can_be_written_is_said() {
        let dir = dir();
        write_base(&dir);
        let (code, _, stderr) = vmdk(&dir, &["convert", "base.vmdk", "new.raw", "--to", "qcow2"]);
        assert!(code == 2 && stderr.contains("[possible values: raw, monolithicSparse, "), "{stderr}");
    }
}

mod read {
    use super::*;

    #[test]
    fn any_range_of_the_disk_is_written_to_stdout() {
        let dir = dir();
        let expected = write_chain(&dir);
        let ranges = [(0, 8192), (0, 0), (0, 1), (511, 2), (700, 5000), (4095, 2), (8191, 1), (8192, 0), (512, 1024)];
        for (offset, length) in ranges {
            let read = succeeds(&dir, &["read", "child.vmdk", &offset.to_string(), &length.to_string()]);
            assert_eq!(read, expected[offset..offset + length], "{offset} {length}");
        }
        assert_eq!(succeeds(&dir, &["read", "child.vmdk", "0x200", "1K"]), expected[512..1536]);
    }

    #[test]
    fn ranges_longer_than_a_buffer_are_whole() {
        let dir = dir();
        let expected = content(3 * 2048 + 3);
        fs::write(dir.path().join("a-flat.vmdk"), &expected).unwrap();
        let extents = format!("RW {} FLAT \"a-flat.vmdk\" 0", expected.len() / SECTOR);
        fs::write(dir.path().join("a.vmdk"), descriptor("1", "ffffffff", &extents)).unwrap();
        let length = (expected.len() - 1000).to_string();
        assert!(succeeds(&dir, &["read", "a.vmdk", "777", &length]) == expected[777..expected.len() - 223]);
    }

    #[test]
    fn a_range_past_the_end_is_an_error_before_the_first_byte() {
        let dir = dir();
        write_base(&dir);
        for (offset, length) in [("0", "8193"), ("8192", "1"), ("8193", "0"), ("1", "0xffffffffffffffff"), ("1T", "1")]
        {
            let error = fails(&dir, &["read", "base.vmdk", offset, length]);
            assert!(error.contains("8192 bytes"), "{error}");
        }
    }

    #[test]
    fn a_reader_that_goes_away_ends_it_quietly() {
        let dir = dir();
        let sectors = (64 << 20) / SECTOR;
        let text = descriptor("1", "ffffffff", &format!("RW {sectors} ZERO"));
        fs::write(dir.path().join("a.vmdk"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
        command.current_dir(&dir).args(["read", "a.vmdk", "0", "64M"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(2), &b""[..]));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn output_that_cannot_be_written_is_an_error() {
        let dir = dir();
        write_base(&dir);
        for args in [&["read", "base.vmdk", "0", "10"][..], &["info", "base.vmdk"]] {
            let full = File::options().write(true).open("/dev/full").unwrap();
            let output = Command::new(env!("CARGO_BIN_EXE_vmdk")).current_dir(&dir).args(args).stdout(full).output();
            let output = output.unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(stderr.starts_with("vmdk: cannot write to standard output: "), "{stderr}");
            assert_eq!(output.status.code(), Some(2));
        }
    }
}

mod names_and_errors {
    use super::*;

    #[test]
    fn a_refused_name_says_what_to_allow() {
        let (dir, elsewhere) = (dir(), dir());
        let expected = write_base(&elsewhere);
        let extents = format!("RW 16 FLAT \"{}\" 0", real(&elsewhere, "base-flat.vmdk"));
        fs::write(dir.path().join("a.vmdk"), descriptor("1", "ffffffff", &extents)).unwrap();
        let allowed = fs::canonicalize(&elsewhere).unwrap();
        let allowed = allowed.to_str().unwrap();
        for args in [&["info", "a.vmdk"][..], &["read", "a.vmdk", "0", "1"], &["convert", "a.vmdk", "new.raw"]] {
            let error = fails(&dir, args);
            assert!(error.contains("allow the directory") && error.contains(allowed), "{error}");
        }
        let other = real(&dir, "");
        let read = ["read", "a.vmdk", "0", "8K"];
        assert_eq!(succeeds(&dir, &[&read[..], &["--allow-dir", &other, "--allow-dir", allowed]].concat()), expected);
        assert_eq!(succeeds(&dir, &[&read[..], &["--allow-any-path"]].concat()), expected);
        succeeds(&dir, &["convert", "a.vmdk", "new.raw", "--allow-dir", allowed]);
        assert_eq!(fs::read(dir.path().join("new.raw")).unwrap(), expected);
    }

    #[cfg(unix)]
    #[test]
    fn an_image_that_is_written_is_read_with_force_share_only() {
        let dir = dir();
        write_base(&dir);
        let _writer = vmdk::OpenOptions::new().write(true).open(dir.path().join("base.vmdk")).unwrap();
        let commands: [&[&str]; 5] = [
            &["info", "base.vmdk"],
            &["map", "base.vmdk"],
            &["read", "base.vmdk", "0", "1"],
            &["compare", "base.vmdk", "base.vmdk"],
            &["convert", "base.vmdk", "new.raw"],
        ];
        for args in commands {
            let error = fails(&dir, args);
            assert!(error.contains("base.vmdk: the file is locked: somebody else has it open for writing"), "{error}");
            succeeds(&dir, &[args, &["--force-share"]].concat());
            succeeds(&dir, &[args, &["-U"]].concat());
        }
    }

    #[test]
    fn an_orphan_is_not_converted() {
        let dir = dir();
        write_child(&dir, "base.vmdk", "0000abcd", 0);
        let error = fails(&dir, &["convert", "child.vmdk", "new.raw"]);
        assert!(error.contains("child.vmdk: cannot find the parent \"base.vmdk\""), "{error}");
        assert!(!dir.path().join("new.raw").exists());
    }

    #[test]
    fn an_error_is_one_line_whatever_the_names_are() {
        let dir = dir();
        let error = fails(&dir, &["info", "no\nsuch\u{1b}[2Jfile"]);
        assert!(error.contains(r"no\nsuch\u{1b}[2Jfile"), "{error}");
    }

    #[test]
    fn wrong_usage_exits_like_an_error() {
        let dir = dir();
        let wrong: [&[&str]; 5] =
            [&[], &["unknown"], &["info"], &["read", "a.vmdk", "1.5G", "1"], &["read", "a.vmdk", "-1", "1"]];
        for args in wrong {
            let (code, stdout, stderr) = vmdk(&dir, args);
            assert_eq!((code, stdout.len(), stderr.is_empty()), (2, 0, false), "{args:?}");
        }
    }

    #[test]
    fn version_and_help_are_no_errors() {
        let dir = dir();
        let version = format!("vmdk {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(succeeds(&dir, &["--version"]), version.as_bytes());
        for args in [&["help"][..], &["help", "convert"], &["--help"], &["info", "-h"]] {
            assert!(!succeeds(&dir, args).is_empty(), "{args:?}");
        }
    }
}
