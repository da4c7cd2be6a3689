//! Names that are legal and awkward: of disks, and of parents in the same directory and in another one.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use vmdk::{BlockDevice, CacheMode, CreateOptions, CreateType, ErrorKind, OpenOptions, VmdkImage};

use super::{TYPES, expect_patterns, names_in, new_disk, pattern};

/// A disk called `name` with two children, one beside it and one in another directory: each is opened anew, and finds
/// what it needs.
fn is_found(name: &str, create_type: &CreateType) {
    let root = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|dir| root.path().join(dir));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    let what = format!("{create_type} {name:?}");

    let path = one.join(name);
    new_disk(create_type.clone(), 300).create(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
    let written = |path: &Path, sector: u64, options: OpenOptions| {
        let image = options
            .write(true)
            .cache_mode(CacheMode::Unsafe)
            .open(path)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        image.write_sectors(sector, &pattern(sector)).unwrap();
        image.close().unwrap();
    };
    written(&path, 1, OpenOptions::new());
    let base = VmdkImage::open(&path).unwrap();
    expect_patterns(&base, |sector| sector == 1, 0..4);
    assert_eq!(base.create_type(), Some(create_type));

    let children = [(one.join(format!("child of {name}")), 2), (two.join(name), 3)];
    for (child, sector) in &children {
        let options = CreateOptions::new().sync(false);
        drop(base.create_child(child, &options).unwrap_or_else(|error| panic!("{what}: {error}")));
        written(child, *sector, OpenOptions::new().allow_dir(&one));
    }
    drop(base);
    let beside = VmdkImage::open(&children[0].0).unwrap_or_else(|error| panic!("{what}: {error}"));
    expect_patterns(&beside, |sector| matches!(sector, 1 | 2), 0..4);
    assert_eq!(beside.chain().len(), 2, "{what}");
    let apart = OpenOptions::new().allow_dir(&one).open(&children[1].0).unwrap();
    expect_patterns(&apart, |sector| matches!(sector, 1 | 3), 0..4);
    assert_eq!(apart.chain().len(), 2, "{what}");
    let files = |create_type: &CreateType| 1 + usize::from(*create_type != CreateType::MonolithicSparse);
    let child_type = beside.create_type().unwrap();
    assert_eq!(names_in(&one).len(), files(create_type) + files(child_type), "{what}");
    assert_eq!(names_in(&two).len(), files(child_type), "{what}");
}

const AWKWARD: [&str; 38] = [
    "disk.vmdk",
    "a b.vmdk",
    " a .vmdk ",
    "  ",
    "Übergröße.vmdk",
    "ディスク.vmdk",
    "e\u{301}.vmdk",
    "\u{202e}kdmv.vmdk",
    "😀.vmdk",
    "a:b.vmdk",
    "nbd:localhost.vmdk",
    "C:x.vmdk",
    "c:",
    "[x] y.vmdk",
    "[x]",
    "[] a",
    "json:{}.vmdk",
    "json:{\'driver\':\'raw\'}",
    "a\\b.vmdk",
    "\\a.vmdk",
    "\\\\server\\share\\a.vmdk",
    "..\\a.vmdk",
    "a\\",
    "-a.vmdk",
    "--help",
    "disk",
    "disk.VMDK",
    "disk.VmDk",
    ".vmdk",
    ".VMDK",
    "...",
    ".hidden",
    "a.vmdk.vmdk",
    "a-flat.vmdk",
    "a-s001.vmdk",
    "a=b.vmdk",
    "# RW 1 FLAT",
    "%s%n$(a)`b`;'&|*?.vmdk",
];

#[cfg(unix)]
#[test]
fn an_awkward_name_is_that_of_a_disk_and_of_a_parent() {
    for name in AWKWARD {
        for create_type in TYPES {
            is_found(name, &create_type);
        }
    }
}

#[test]
fn the_extents_are_named_after_the_disk() {
    for (name, flat, split) in [
        ("disk.vmdk", "disk-flat.vmdk", "disk-s001.vmdk"),
        ("disk.VMDK", "disk-flat.vmdk", "disk-s001.vmdk"),
        ("disk", "disk-flat.vmdk", "disk-s001.vmdk"),
        ("disk.img", "disk.img-flat.vmdk", "disk.img-s001.vmdk"),
        (".vmdk", ".vmdk-flat.vmdk", ".vmdk-s001.vmdk"),
        ("ü.vmdk", "ü-flat.vmdk", "ü-s001.vmdk"),
        ("üvmdk", "üvmdk-flat.vmdk", "üvmdk-s001.vmdk"),
        ("a.vmdk.vmdk", "a.vmdk-flat.vmdk", "a.vmdk-s001.vmdk"),
    ] {
        for (create_type, extent) in [(CreateType::MonolithicFlat, flat), (CreateType::TwoGbMaxExtentSparse, split)] {
            let dir = tempfile::tempdir().unwrap();
            new_disk(create_type, 20).create(dir.path().join(name)).unwrap();
            let mut expected = [name, extent];
            expected.sort_unstable();
            assert_eq!(names_in(dir.path()), expected);
        }
    }
}

/// No reader takes what stands in the descriptor for a protocol, a drive or a datastore.
#[cfg(unix)]
#[test]
fn a_name_that_could_be_more_than_a_name_is_written_as_a_path() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a:b", "C:x", "[x] y", "json:{}", "\\a"] {
        new_disk(CreateType::MonolithicFlat, 20).create(dir.path().join(name)).unwrap();
        let base = VmdkImage::open(dir.path().join(name)).unwrap();
        let extent = base.descriptor().extents()[0].name().unwrap().to_vec();
        assert_eq!(String::from_utf8(extent).unwrap(), format!("./{name}-flat.vmdk"));
        let child = base.create_child(dir.path().join(format!("{name} child")), &CreateOptions::new()).unwrap();
        let hint = child.descriptor().parent_hint().unwrap().to_vec();
        assert_eq!(String::from_utf8(hint).unwrap(), format!("./{name}"));
    }
}

/// Names of files have 255 bytes on most hosts.
#[cfg(unix)]
#[test]
fn the_longest_names_are_taken_and_extents_beyond_them_leave_nothing() {
    let long = |len: usize| format!("{}.vmdk", "x".repeat(len - 5));
    is_found_alone(&long(255), &CreateType::MonolithicSparse);
    is_found_alone(&"ü".repeat(127), &CreateType::MonolithicSparse);
    for create_type in TYPES {
        is_found(&long(240), &create_type);
        is_found_alone(&long(249), &create_type);
        if create_type != CreateType::MonolithicSparse {
            let dir = tempfile::tempdir().unwrap();
            let error = new_disk(create_type.clone(), 20).create(dir.path().join(long(255))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io, "{create_type}: {error}");
            assert_eq!(names_in(dir.path()), [""; 0], "{create_type}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let error = new_disk(CreateType::MonolithicSparse, 20).create(dir.path().join(long(256))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert_eq!(names_in(dir.path()), [""; 0]);
}

/// A name with which no child can be made beside it that is longer.
#[cfg(unix)]
fn is_found_alone(name: &str, create_type: &CreateType) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    new_disk(create_type.clone(), 300).create(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    let base = VmdkImage::open(&path).unwrap();
    drop(base.create_child(dir.path().join("child.vmdk"), &CreateOptions::new()).unwrap());
    drop(base);
    assert_eq!(VmdkImage::open(dir.path().join("child.vmdk")).unwrap().chain().len(), 2);
}

/// Between parent and child there may be directories with any name, too.
#[cfg(unix)]
#[test]
fn awkward_directories_between_parent_and_child_are_no_obstacle() {
    for name in AWKWARD {
        let root = tempfile::tempdir().unwrap();
        let [deep, other] = [root.path().join(name), root.path().join("other").join(name)];
        fs::create_dir(&deep).unwrap();
        fs::create_dir_all(&other).unwrap();
        new_disk(CreateType::MonolithicFlat, 300).create(deep.join("base.vmdk")).unwrap();
        let base = VmdkImage::open(deep.join("base.vmdk")).unwrap();
        for child in [root.path().join("above.vmdk"), other.join("beside.vmdk")] {
            drop(base.create_child(&child, &CreateOptions::new().sync(false)).unwrap());
            let opened = OpenOptions::new().allow_dir(&deep).open(&child);
            assert_eq!(opened.unwrap_or_else(|error| panic!("{name:?}: {error}")).chain().len(), 2);
        }
    }
}

#[cfg(unix)]
proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_name_without_quotes_and_control_characters_is_found_again(
        name in r#"[^"/\p{Cc}]{1,40}"#,
        number in 0..6_usize,
    ) {
        prop_assume!(name != "." && name != "..");
        is_found(&name, &TYPES[number]);
    }

    /// Letters that mean something somewhere, more often than chance has them.
    #[test]
    fn a_name_of_meaningful_characters_is_found_again(name in r"[.:\\ \[\]a#={}-]{1,12}", number in 0..6_usize) {
        prop_assume!(name != "." && name != "..");
        is_found(&name, &TYPES[number]);
    }

    #[test]
    fn a_name_with_a_quote_or_a_control_character_is_refused(
        before in "[a-z:\u{fc} ]{0,8}",
        bad in r#"["\x01-\x1f\x7f-\u{9f}]"#,
        behind in "[a-z\" \n]{0,8}",
        number in 0..6_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("{before}{bad}{behind}"));
        let error = new_disk(TYPES[number].clone(), 20).create(&path).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::InvalidInput);
        prop_assert_eq!(names_in(dir.path()), [""; 0]);
    }
}
