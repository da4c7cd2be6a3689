//! File names in the code pages that VMware's products on Windows write their descriptors in.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use vmdk::{ErrorKind, VmdkImage};

use support::SECTOR;
use support::cowd::CowdImage;
use support::disk::Image;

/// A code page, a name in it, and the name.
struct Page {
    encoding: &'static str,
    raw: &'static [u8],
    name: &'static str,
}

/// What VMware writes (format: Workstation and Player on Windows), in the spellings that were seen and some others.
const PAGES: [Page; 10] = [
    Page { encoding: "windows-1252", raw: b"caf\xe9 \x80", name: "caf\u{e9} \u{20ac}" },
    Page { encoding: "Windows-1252", raw: b"\xfcber", name: "\u{fc}ber" },
    // The second byte is a backslash elsewhere.
    Page { encoding: "Shift_JIS", raw: b"\x83\x5c\x83\x74\x83\x67", name: "\u{30bd}\u{30d5}\u{30c8}" },
    Page { encoding: "shift_jis", raw: b"\x95\x5c", name: "\u{8868}" },
    Page { encoding: "GBK", raw: b"\xb2\xe2\xca\xd4", name: "\u{6d4b}\u{8bd5}" },
    // A backslash as well.
    Page { encoding: "GBK", raw: b"\x81\x5c", name: "\u{4e57}" },
    Page { encoding: "Big5", raw: b"\xb4\xfa\xb8\xd5", name: "\u{6e2c}\u{8a66}" },
    Page { encoding: "Big5", raw: b"\xa5\x5c", name: "\u{529f}" },
    Page { encoding: "windows-1251", raw: b"\xc4\xe8\xf1\xea", name: "\u{414}\u{438}\u{441}\u{43a}" },
    Page { encoding: "EUC-KR", raw: b"\xc5\xd7\xbd\xba\xc6\xae", name: "\u{d14c}\u{c2a4}\u{d2b8}" },
];

/// Bytes of a text descriptor; `extent` and `hint` as they are.
fn descriptor(encoding: &str, create_type: &str, parent: Option<(u32, &[u8])>, extent: &[u8]) -> Vec<u8> {
    let parent_cid = parent.map_or(0xffff_ffff, |(cid, _)| cid);
    let mut text = format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"{encoding}\"\nCID=00000007\nparentCID={parent_cid:08x}\n\
         createType=\"{create_type}\"\n"
    )
    .into_bytes();
    if let Some((_, hint)) = parent {
        text.extend([b"parentFileNameHint=\"", hint, b"\"\n"].concat());
    }
    text.extend(extent);
    text.push(b'\n');
    text
}

/// A flat base whose extent has the name, and a delta over it whose hint and extent have it, in a directory.
fn chain(dir: &Path, page: &Page) -> (PathBuf, Vec<u8>) {
    let Page { encoding, raw, name } = page;
    let content: Vec<u8> = (0..4_u8).flat_map(|byte| [byte + 1; SECTOR]).collect();
    let flat = [b"RW 4 FLAT \"", *raw, b"-flat.vmdk\" 0"].concat();
    fs::write(dir.join(format!("{name}-flat.vmdk")), &content).unwrap();
    fs::write(dir.join(format!("{name}.vmdk")), descriptor(encoding, "monolithicFlat", None, &flat)).unwrap();

    let delta = CowdImage::esx(4).data(2, [9; SECTOR]);
    fs::write(dir.join(format!("{name}-delta.vmdk")), delta.build()).unwrap();
    let extent = [b"RW 4 VMFSSPARSE \"", *raw, b"-delta.vmdk\""].concat();
    // The directory of another machine.
    let hint = [b"C:\\VMs\\", *raw, b".vmdk"].concat();
    let path = dir.join("child.vmdk");
    fs::write(&path, descriptor(encoding, "vmfsSparse", Some((7, &hint)), &extent)).unwrap();
    (path, delta.layer().over(&content))
}

#[cfg(feature = "encodings")]
#[test]
fn extents_and_parents_are_found_by_their_names_in_any_code_page() {
    use vmdk::BlockDevice;
    for page in &PAGES {
        let dir = tempfile::tempdir().unwrap();
        let (path, expected) = chain(dir.path(), page);
        let what = format!("{} as {}", page.name, page.encoding);
        let image = VmdkImage::open(path).unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut content = vec![0xee; 4 * SECTOR];
        image.read_sectors(0, &mut content).unwrap();
        assert!(content == expected, "{what}");
        let names: Vec<_> = image.host_files().iter().map(|file| file.path().file_name().unwrap().to_owned()).collect();
        let name = page.name;
        let expected = [
            "child.vmdk".to_owned(),
            format!("{name}-delta.vmdk"),
            format!("{name}.vmdk"),
            format!("{name}-flat.vmdk"),
        ];
        assert!(names.iter().eq(expected.iter().map(std::ffi::OsStr::new)), "{what}: {names:?}");
    }
}

/// A byte that is a backslash in ASCII is no separator within a character: nothing is looked for elsewhere.
#[cfg(feature = "encodings")]
#[test]
fn a_name_that_is_not_there_is_told_in_its_own_characters() {
    for page in &PAGES {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = chain(dir.path(), page);
        fs::remove_file(dir.path().join(format!("{}-delta.vmdk", page.name))).unwrap();
        let error = VmdkImage::open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(page.name), "{error}");
    }
}

#[cfg(feature = "encodings")]
#[test]
fn what_is_not_known_or_not_valid_is_an_error_that_names_the_encoding() {
    let rows: [(&str, &[u8], ErrorKind); 4] = [
        ("x-klingon", b"\xe9", ErrorKind::Unsupported),
        ("Shift_JIS", b"\x81", ErrorKind::Corrupt),
        ("Big5", b"\xff", ErrorKind::Corrupt),
        ("UTF-8", b"\xff", ErrorKind::Corrupt),
    ];
    for (encoding, raw, kind) in rows {
        let error = open_named(encoding, raw).unwrap_err();
        assert_eq!(error.kind(), kind, "{encoding}: {error}");
        assert!(error.to_string().contains(encoding), "{error}");
    }
}

#[cfg(not(feature = "encodings"))]
#[test]
fn without_the_feature_a_name_that_needs_it_is_an_error_that_names_it() {
    for page in &PAGES {
        let dir = tempfile::tempdir().unwrap();
        let (child, _) = chain(dir.path(), page);
        for path in [dir.path().join(format!("{}.vmdk", page.name)), child] {
            let error = VmdkImage::open(path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            for part in ["feature \"encodings\"", page.encoding] {
                assert!(error.to_string().contains(part), "{part} is missing in: {error}");
            }
        }
    }
}

/// Opens a disk whose extent has the name `raw`, and nothing there by that name.
fn open_named(encoding: &str, raw: &[u8]) -> vmdk::Result<VmdkImage> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let extent = [b"RW 1 FLAT \"", raw, b"\" 0"].concat();
    fs::write(&path, descriptor(encoding, "monolithicFlat", None, &extent)).unwrap();
    VmdkImage::open(path)
}

#[test]
fn an_ascii_name_opens_in_every_encoding_also_one_that_nobody_knows() {
    for encoding in ["UTF-8", "windows-1252", "Shift_JIS", "GBK", "Big5", "x-klingon", ""] {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = chain(dir.path(), &Page { encoding: "windows-1252", raw: b"disk", name: "disk" });
        let text = fs::read(&path).unwrap();
        let text = String::from_utf8(text).unwrap().replace("windows-1252", encoding);
        fs::write(&path, text).unwrap();
        VmdkImage::open(&path).unwrap_or_else(|error| panic!("{encoding}: {error}"));
    }
}

#[test]
fn a_name_in_utf_8_needs_no_feature() {
    let name = "d\u{ef}sk \u{6d4b}.vmdk";
    let image = Image::monolithic_flat(name, vec![1; SECTOR]);
    let dir = tempfile::tempdir().unwrap();
    VmdkImage::open(image.write_to(dir.path())).unwrap();
    assert_eq!(open_named("UTF-8", name.as_bytes()).unwrap_err().kind(), ErrorKind::NotFound);
}

/// A delta whose hint, extent and tracking file have the name, and its base without the latter.
#[cfg(feature = "encodings")]
fn tracked_chain(dir: &Path, page: &Page) -> PathBuf {
    let (path, _) = chain(dir, page);
    let text = [&fs::read(&path).unwrap()[..], b"changeTrackPath=\"", page.raw, b"-ctk.vmdk\"\n"].concat();
    fs::write(&path, text).unwrap();
    path
}

#[cfg(feature = "encodings")]
#[test]
fn every_name_is_there_as_bytes_and_as_text() {
    for page in &PAGES {
        let dir = tempfile::tempdir().unwrap();
        let image = VmdkImage::open(tracked_chain(dir.path(), page)).unwrap();
        let descriptor = image.descriptor();
        let names = [
            (descriptor.parent_hint_name(), &b"C:\\VMs\\"[..], &b".vmdk"[..]),
            (descriptor.change_track_name(), b"", b"-ctk.vmdk"),
            (descriptor.extent_name(&descriptor.extents()[0]), b"", b"-delta.vmdk"),
        ];
        for (name, before, after) in names {
            let (name, ascii) = (name.unwrap(), |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap());
            assert_eq!(name.as_bytes(), [before, page.raw, after].concat(), "{}", page.encoding);
            let expected = [&*ascii(before), page.name, &*ascii(after)].concat();
            assert_eq!(name.decode().unwrap(), expected, "{}", page.encoding);
            assert_eq!(name.to_string(), expected);
        }
    }
}

#[cfg(feature = "cli")]
mod tool {
    use std::process::Command;

    use serde_json::Value;

    use super::*;

    fn info(path: &Path) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_vmdk")).args(["info", "--json"]).arg(path).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn hex(parts: &[&[u8]]) -> String {
        support::tools::hex(&parts.concat())
    }

    #[test]
    fn info_has_names_as_bytes_and_as_text() {
        for page in &PAGES {
            let dir = tempfile::tempdir().unwrap();
            let shown = info(&tracked_chain(dir.path(), page));
            let (raw, name) = (page.raw, page.name);
            assert_eq!(shown["encoding"], page.encoding);
            assert_eq!(shown["parent_hint"], format!("C:\\VMs\\{name}.vmdk"));
            assert_eq!(shown["parent_hint_raw"], hex(&[b"C:\\VMs\\", raw, b".vmdk"]));
            let extent = &shown["extents"][0];
            assert_eq!(extent["name"], format!("{name}-delta.vmdk"));
            assert_eq!(extent["name_raw"], hex(&[raw, b"-delta.vmdk"]));
            let tracking = &shown["change_tracking"];
            assert_eq!(tracking["path"], format!("{name}-ctk.vmdk"));
            assert_eq!(tracking["path_raw"], hex(&[raw, b"-ctk.vmdk"]));
            assert_eq!(shown["change_track_path"], tracking["path"]);
            for error in [&shown["parent_hint_error"], &extent["name_error"], &tracking["path_error"]] {
                assert_eq!(*error, Value::Null);
            }
        }
    }

    /// What is no text has its bytes, and the reason.
    #[test]
    fn info_says_why_a_name_is_no_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vmdk");
        for (encoding, word) in [("x-klingon", "x-klingon"), ("UTF-8", "not valid")] {
            let hidden = b"NOACCESS 1 FLAT \"\xe9-flat\" 0\nchangeTrackPath=\"\xe9-ctk\"";
            fs::write(&path, descriptor(encoding, "custom", Some((8, b"\xe9.vmdk")), hidden)).unwrap();
            let shown = info(&path);
            let extent = &shown["extents"][0];
            assert_eq!(
                (&shown["parent_hint_raw"], &extent["name_raw"]),
                (&"e92e766d646b".into(), &"e92d666c6174".into())
            );
            assert_eq!(shown["change_tracking"]["path_raw"], "e92d63746b");
            let errors = [&shown["parent_hint_error"], &extent["name_error"], &shown["change_tracking"]["path_error"]];
            for error in errors {
                assert!(error.as_str().unwrap().contains(word), "{error}");
            }
            assert!(shown["change_tracking"]["error"].as_str().unwrap().contains(word));
            assert!(shown["chain_error"].as_str().unwrap().contains(word));
        }
    }
}
