//! Names inside an image are hostile: where they may lead, seen from whole images. How a name is followed is tested
//! beside the code that does it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]
#![cfg(unix)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use vmdk::{BlockDevice, Error, ErrorKind, OpenOptions, VmdkImage};

use support::SECTOR;
use support::descriptor::DescriptorText;
use support::disk::Image;
use support::sparse::SparseImage;

/// `vm/` with images and their files; `pool/` beside it, which some callers allow; `other/`, which nobody allows.
struct Tree {
    root: PathBuf,
    _dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for (sub, byte) in [("vm", 1), ("pool", 2), ("other", 3), ("vm/sub", 4)] {
            fs::create_dir_all(root.join(sub)).unwrap();
            fs::write(root.join(sub).join("flat"), [byte; SECTOR]).unwrap();
            let sparse = SparseImage::new(1).grain_sectors(1).data(0, [byte; SECTOR]);
            fs::write(root.join(sub).join("sparse"), sparse.build()).unwrap();
        }
        Self { root, _dir: dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes the descriptor `vm/disk.vmdk` with one extent line.
    fn disk(&self, line: &str) -> PathBuf {
        self.write("vm/disk.vmdk", DescriptorText::new("custom", 1).extent(line).to_string())
    }

    /// Writes `vm/disk.vmdk`, a child of what the hint leads to.
    fn child(&self, hint: &str) -> PathBuf {
        let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(1).grain_sectors(1).data(0, [5; SECTOR]));
        base.write_to(&self.path("pool"));
        base.write_to(&self.path("other"));
        let text = DescriptorText::new("custom", 2).parent(base.cid, hint).extent("RW 1 SPARSE \"empty\"");
        fs::write(self.path("vm/empty"), SparseImage::new(1).build()).unwrap();
        self.write("vm/disk.vmdk", text.to_string())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// A name with `ROOT` in it, made absolute.
    fn fill_in(&self, name: &str) -> String {
        name.replace("ROOT", self.root.to_str().unwrap())
    }
}

fn first_byte(image: &VmdkImage) -> u8 {
    let mut sector = [0xee; SECTOR];
    image.read_sectors(0, &mut sector).unwrap();
    assert_eq!(sector, [sector[0]; SECTOR]);
    sector[0]
}

fn refused(result: vmdk::Result<VmdkImage>) -> Error {
    let error = result.expect_err("it must not open");
    assert_eq!(error.kind(), ErrorKind::NameRefused, "{error}");
    error
}

fn with_causes(error: &Error) -> String {
    std::error::Error::source(error).map_or(error.to_string(), |cause| format!("{error}: {cause}"))
}

/// The types of extent that name a file, and what they call it in [`Tree`].
const TYPES: [(&str, &str); 3] = [("FLAT", "flat"), ("VMFS", "flat"), ("SPARSE", "sparse")];

#[test]
fn an_extent_is_found_beneath_the_directory_of_its_image() {
    let tree = Tree::new();
    symlink("sub/flat", tree.path("vm/link")).unwrap();
    symlink("sub", tree.path("vm/dir")).unwrap();
    let rows = [
        ("FLAT", "flat", 1),
        ("VMFS", "./flat", 1),
        ("SPARSE", "sparse", 1),
        ("FLAT", "sub/flat", 4),
        ("SPARSE", "sub//sparse", 4),
        ("FLAT", "link", 4),
        ("VMFS", "dir/flat", 4),
        ("SPARSE", "dir/../sparse", 0),
    ];
    for (kind, name, byte) in rows {
        let image = VmdkImage::open(tree.disk(&format!("RW 1 {kind} \"{name}\"")));
        match byte {
            0 => drop(refused(image)),
            _ => assert_eq!(first_byte(&image.unwrap()), byte, "{kind} {name}"),
        }
    }
}

/// QEMU follows any name: an uploaded descriptor reads the host's files (CVE-2022-47951).
#[test]
fn qemu_reads_an_extent_anywhere_on_the_host_and_here_it_is_refused_and_the_error_says_what_to_allow() {
    let tree = Tree::new();
    for dir in ["pool", "other"] {
        symlink(format!("../{dir}"), tree.path(&format!("vm/to_{dir}"))).unwrap();
        symlink(tree.path(dir).join("flat"), tree.path(&format!("vm/absolute_{dir}"))).unwrap();
    }
    for (kind, file) in TYPES {
        for dir in ["pool", "other"] {
            let absolute = tree.fill_in(&format!("ROOT/{dir}/{file}"));
            for name in [absolute, format!("../{dir}/{file}"), format!("to_{dir}/{file}")] {
                let disk = tree.disk(&format!("RW 1 {kind} \"{name}\""));
                let text = refused(VmdkImage::open(&disk)).to_string();
                assert!(text.contains(&name), "{text}");
                assert!(text.contains("allow"), "{text}");
                // One directory is allowed, and with it what is in there.
                let allowed = OpenOptions::new().allow_dir(tree.path("pool")).open(&disk);
                match dir {
                    "pool" => assert_eq!(first_byte(&allowed.unwrap()), 2, "{kind} {name}"),
                    _ => drop(refused(allowed)),
                }
                let anywhere = OpenOptions::new().allow_any_path(true).open(&disk).unwrap();
                assert_ne!(first_byte(&anywhere), 0, "{kind} {name}");
            }
        }
    }
    let link = tree.disk("RW 1 FLAT \"absolute_other\"");
    assert!(refused(VmdkImage::open(&link)).to_string().contains("symbolic link"));
    drop(refused(OpenOptions::new().allow_dir(tree.path("pool")).open(&link)));
}

#[test]
fn the_directory_of_an_image_is_where_it_really_lies() {
    let tree = Tree::new();
    let disk = tree.disk("RW 1 FLAT \"flat\"");
    symlink(&disk, tree.path("other/disk.vmdk")).unwrap();
    symlink(tree.path("other/disk.vmdk"), tree.path("pool/disk.vmdk")).unwrap();
    symlink(tree.path("vm"), tree.path("machine")).unwrap();
    for name in ["other/disk.vmdk", "pool/disk.vmdk", "machine/disk.vmdk", "other/../vm/disk.vmdk"] {
        let image = VmdkImage::open(tree.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(first_byte(&image), 1, "{name}");
        assert_eq!(image.chain()[0].path(), disk, "{name}");
    }
}

#[test]
fn a_parent_elsewhere_is_refused_and_the_error_names_it() {
    let tree = Tree::new();
    symlink("../other/base.vmdk", tree.path("vm/link.vmdk")).unwrap();
    for hint in ["ROOT/other/base.vmdk", "../other/base.vmdk", "link.vmdk"] {
        let hint = tree.fill_in(hint);
        let child = tree.child(&hint);
        let text = refused(VmdkImage::open(&child)).to_string();
        assert!(text.contains(&hint), "{text}");
        drop(refused(OpenOptions::new().allow_dir(tree.path("pool")).open(&child)));
        let allowed = OpenOptions::new().allow_dir(tree.path("other")).open(&child).unwrap();
        assert_eq!(first_byte(&allowed), 5, "{hint}");
    }
}

/// Otherwise a hostile child could have a friendly directory's image read files for it.
#[test]
fn a_parent_in_an_allowed_directory_is_confined_like_its_child() {
    let tree = Tree::new();
    let child = tree.child("../pool/base.vmdk");
    let base = DescriptorText::new("custom", 0xba5e).extent("RW 1 FLAT \"../other/flat\"").to_string();
    tree.write("pool/base.vmdk", base);
    let text = fs::read_to_string(&child).unwrap();
    let at = text.find("parentCID=").unwrap() + "parentCID=".len();
    fs::write(&child, [&text[..at], "0000ba5e", &text[at + 8..]].concat()).unwrap();
    let error = refused(OpenOptions::new().allow_dir(tree.path("pool")).open(&child));
    assert!(error.to_string().contains("../other/flat"), "{error}");
}

#[test]
fn a_name_that_no_file_should_have_is_refused_or_an_error_of_its_line() {
    let tree = Tree::new();
    let long = "x/".repeat(40_000);
    let rows: [(&str, ErrorKind, &str); 9] = [
        ("", ErrorKind::NameRefused, "empty"),
        (".", ErrorKind::NameRefused, "a directory"),
        ("sub/", ErrorKind::NameRefused, "a directory"),
        ("a\rb", ErrorKind::NameRefused, "line end"),
        (&long, ErrorKind::NameRefused, "too long"),
        ("C:\\flat", ErrorKind::NameRefused, "C:"),
        ("fl\"at", ErrorKind::Corrupt, "line 10: the quoted name is followed by more text"),
        ("fl\nat", ErrorKind::Corrupt, "line 10: the quoted name does not end"),
        ("fl\0at", ErrorKind::Corrupt, "line 10: the quoted name does not end"),
    ];
    for (name, kind, part) in rows {
        let error = VmdkImage::open(tree.disk(&format!("RW 1 FLAT \"{name}\" 0"))).unwrap_err();
        assert_eq!(error.kind(), kind, "{name:.20?}: {error}");
        assert!(error.to_string().contains(part), "{name:.20?}: {error}");
        assert!(error.to_string().contains("vm/"), "{error}");
        assert!(error.to_string().len() < 2000, "{} characters", error.to_string().len());
    }
}

#[test]
fn a_missing_extent_is_not_found_and_named() {
    let tree = Tree::new();
    for name in ["gone", "sub/gone", "gone/flat"] {
        let error = VmdkImage::open(tree.disk(&format!("RW 1 FLAT \"{name}\" 0"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert_eq!(error.file(), Some(&*tree.path("vm").join(name)));
    }
}

/// A hint fills the error that says the parent is missing, and its candidates, each of them again.
#[test]
fn an_error_about_a_long_hint_is_short() {
    let tree = Tree::new();
    let hint = "[store] a\\b/".repeat(10_000);
    let error = VmdkImage::open(tree.child(&hint)).unwrap_err();
    assert!(with_causes(&error).len() < 8000, "{} characters", with_causes(&error).len());
}

/// A terminal would carry them out.
#[test]
fn control_characters_in_a_name_are_not_in_any_error() {
    let tree = Tree::new();
    let name = "a\u{1b}[2Jb";
    tree.write(&format!("vm/{name}"), [0; SECTOR]);
    let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(1));
    fs::write(tree.path(&format!("vm/c{name}")), &base.files[0].1).unwrap();
    let disks: [(&str, &dyn Fn() -> PathBuf); 5] = [
        ("missing", &|| tree.disk(&format!("RW 1 FLAT \"gone{name}\" 0"))),
        ("offset", &|| tree.disk(&format!("RW 1 FLAT \"{name}\" 2"))),
        ("no image", &|| tree.disk(&format!("RW 1 SPARSE \"{name}\""))),
        ("no parent", &|| tree.child(&format!("gone{name}"))),
        ("other parent", &|| {
            let text = DescriptorText::new("custom", 2).parent(3, &format!("c{name}")).extent("RW 1 ZERO");
            tree.write(&format!("vm/d{name}"), text.to_string())
        }),
    ];
    for (what, disk) in disks {
        let text = with_causes(&VmdkImage::open(disk()).unwrap_err());
        assert!(!text.contains('\u{1b}'), "{what}: {text:?}");
    }
}

/// What opening would block on, or set going.
#[cfg(target_os = "linux")]
fn make_fifo(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_no_regular_file_is_refused_by_its_kind_and_never_opened() {
    let tree = Tree::new();
    make_fifo(&tree.path("vm/fifo"));
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("vm/socket")).unwrap();
    symlink("/dev/zero", tree.path("vm/device")).unwrap();
    let anywhere = OpenOptions::new().allow_any_path(true);
    let rows = [("fifo", "a FIFO"), ("socket", "a socket"), ("sub", "a directory"), ("device", "a character device")];
    for (name, kind) in rows {
        for (extent, _) in TYPES {
            let disk = tree.disk(&format!("RW 1 {extent} \"{name}\""));
            let error = refused(anywhere.open(&disk));
            assert!(error.to_string().contains(kind), "{error}");
            drop(refused(VmdkImage::open(&disk)));
        }
        let text = anywhere.open(tree.child(name)).unwrap_err().to_string();
        assert!(text.contains(kind), "{text}");
        // Named by the caller.
        let error = VmdkImage::open(tree.path("vm").join(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(kind), "{error}");
    }
}

#[test]
fn a_link_that_leads_to_itself_is_an_error() {
    let tree = Tree::new();
    symlink("loop", tree.path("vm/loop")).unwrap();
    let disk = tree.disk("RW 1 FLAT \"loop\" 0");
    assert!(refused(VmdkImage::open(&disk)).to_string().contains("loop"));
    assert!(OpenOptions::new().allow_any_path(true).open(&disk).is_err());
    assert!(VmdkImage::open(tree.path("vm/loop")).is_err());
}
