//! What cannot be made is refused before anything is made, and leaves nothing behind.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use vmdk::{AdapterType, BlockDevice, CreateOptions, CreateType, ErrorKind, Geometry, OpenOptions, VmdkImage};

use super::memory_directory::MemoryDirectory;
use super::support::model::MemoryDevice;
use super::{SPLIT, TYPES, names_in, new_disk, pattern};

use CreateType::{MonolithicFlat, MonolithicSparse, TwoGbMaxExtentFlat, TwoGbMaxExtentSparse, Vmfs, VmfsSparse};

/// The limit on everything: offsets in bytes have 63 bits.
const MOST: u64 = (1 << 54) - 1;

/// Fails unless the options are refused, on a host and elsewhere, with this in the error, and nothing was made.
#[track_caller]
fn refused(options: &CreateOptions, kind: ErrorKind, word: &str) {
    let dir = tempfile::tempdir().unwrap();
    let source = MemoryDevice::new(pattern(0));
    let go_on = &mut |_| ControlFlow::Continue(());
    let path = dir.path().join("disk.vmdk");
    let directory = MemoryDirectory::default();
    let mut attempts = vec![options.create(&path), options.create_in("disk.vmdk", &directory)];
    if !word.contains("capacity") {
        attempts.push(options.create_from(&path, &source, go_on));
    }
    for attempt in attempts {
        let error = attempt.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "no {word:?} in: {error}");
    }
    assert_eq!(names_in(dir.path()), [""; 0]);
    assert_eq!(directory.events(), []);
}

#[track_caller]
fn invalid(options: &CreateOptions, word: &str) {
    refused(options, ErrorKind::InvalidInput, word);
}

#[test]
fn a_disk_without_a_size_is_refused() {
    for create_type in TYPES {
        invalid(&CreateOptions::new().create_type(create_type.clone()), "needs a capacity");
        let dir = tempfile::tempdir().unwrap();
        let error = new_disk(create_type.clone(), 0).create(dir.path().join("disk.vmdk")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{create_type}: {error}");
        let nothing = MemoryDevice::new(Vec::new());
        let options = CreateOptions::new().create_type(create_type.clone());
        let filled = options.create_from(dir.path().join("disk.vmdk"), &nothing, &mut |_| ControlFlow::Continue(()));
        assert_eq!(filled.unwrap_err().kind(), ErrorKind::InvalidInput, "{create_type}");
        assert_eq!(names_in(dir.path()), [""; 0]);
    }
}

#[test]
fn a_disk_larger_than_its_type_can_be_is_refused() {
    let grains = u64::from(u32::MAX);
    for (create_type, most) in [
        (MonolithicSparse, grains * 128),
        (VmfsSparse, grains),
        // As many lines as a descriptor has room for: see below.
        (TwoGbMaxExtentSparse, 65_536 * SPLIT),
        (TwoGbMaxExtentFlat, 65_536 * SPLIT),
        (MonolithicFlat, MOST),
        (Vmfs, MOST),
    ] {
        for sectors in [most + 1, 1 << 62, u64::MAX] {
            invalid(&new_disk(create_type.clone(), sectors), "sectors");
        }
    }
    for grain in [8, 16, 32, 64] {
        invalid(&new_disk(MonolithicSparse, grains * grain + 1).grain_sectors(grain), "sectors");
    }
}

#[test]
fn the_largest_vmfs_sparse_disks_are_made() {
    let sectors = u64::from(u32::MAX);
    for grain in [1, 2048] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vmdk");
        new_disk(VmfsSparse, sectors).grain_sectors(grain).create(&path).unwrap();
        let image = super::open_to_write(&path);
        assert_eq!(image.capacity_sectors(), sectors);
        image.write_sectors(sectors - 1, &pattern(sectors - 1)).unwrap();
        image.close().unwrap();
        drop(image);
        super::expect_patterns(&image_of(&path), |sector| sector == sectors - 1, [0, sectors - 2, sectors - 1]);
    }
}

fn image_of(path: &Path) -> VmdkImage {
    VmdkImage::open(path).unwrap()
}

/// A mebibyte of text has room for about 26 thousand lines.
#[test]
fn a_descriptor_without_room_for_all_extents_is_refused() {
    for create_type in [TwoGbMaxExtentSparse, TwoGbMaxExtentFlat] {
        invalid(&new_disk(create_type, 40_000 * SPLIT), "descriptor");
    }
}

/// What a host cannot do is its own word, and nothing is left of the files that it could make. Few file systems have
/// files of 8 EiB less a sector.
#[test]
fn a_file_larger_than_the_host_has_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for create_type in [MonolithicFlat, Vmfs] {
        let created = new_disk(create_type, MOST).replace(true).create(dir.path().join("disk.vmdk"));
        if let Err(error) = created {
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert_eq!(names_in(dir.path()), [""; 0]);
        } else {
            assert_eq!(image_of(&dir.path().join("disk.vmdk")).capacity_sectors(), MOST);
        }
    }
}

#[test]
fn a_grain_size_that_the_type_has_not_is_refused() {
    for grain in [0, 1, 4, 7, 24, 127, 256, 2048, u64::MAX] {
        for create_type in [MonolithicSparse, TwoGbMaxExtentSparse] {
            invalid(&new_disk(create_type, 20).grain_sectors(grain), "grain");
        }
    }
    for grain in [0, 3, 2047, 4096, 1 << 32, u64::MAX] {
        invalid(&new_disk(VmfsSparse, 20).grain_sectors(grain), "grain");
    }
}

#[test]
fn an_option_of_another_type_is_refused() {
    for create_type in [MonolithicFlat, TwoGbMaxExtentFlat, Vmfs] {
        invalid(&new_disk(create_type.clone(), 20).grain_sectors(128), "a grain size");
        invalid(&new_disk(create_type, 20).zero_grains(true), "zero grains");
    }
    invalid(&new_disk(VmfsSparse, 20).zero_grains(true), "zero grains");
    for create_type in [MonolithicSparse, TwoGbMaxExtentSparse, VmfsSparse] {
        invalid(&new_disk(create_type, 20).preallocate(true), "preallocated");
    }
}

#[test]
fn a_type_that_is_not_created_is_refused_by_its_name() {
    for name in [
        "custom",
        "fullDevice",
        "partitionedDevice",
        "seSparse",
        "vmfsRawDeviceMap",
        "vmfsPassthroughRawDeviceMap",
        "vmfsRaw",
        "vsanSparse",
    ] {
        let create_type = CreateType::from(name);
        let word = create_type.canonical().as_str().to_owned();
        refused(&new_disk(create_type, 20), ErrorKind::Unsupported, &word);
    }
}

#[test]
fn a_geometry_of_nothing_is_refused() {
    for geometry in [Geometry::new(0, 16, 63), Geometry::new(1, 0, 63), Geometry::new(1, 16, 0)] {
        for create_type in TYPES {
            invalid(&new_disk(create_type, 20).geometry(geometry), "geometry");
        }
    }
}

#[test]
fn an_adapter_that_would_write_lines_of_its_own_is_refused() {
    for name in ["ide\"", "ide\nddb.uuid = \"1", "ide\r", "i\0de", "i\tde", "\u{85}"] {
        for create_type in TYPES {
            invalid(&new_disk(create_type, 20).adapter_type(AdapterType::Other(name.to_owned())), "adapter");
        }
    }
}

/// Names that the host would take.
#[cfg(unix)]
#[test]
fn a_name_that_a_descriptor_cannot_hold_is_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let dir = tempfile::tempdir().unwrap();
    let names: [&[u8]; 9] = [
        b"a\"b.vmdk",
        b"a\n.vmdk",
        b"a.vmdk\nRW 1 FLAT \"x\" 0",
        b"a\r.vmdk",
        b"\t.vmdk",
        b"\x1b[31m.vmdk",
        b"\x7f.vmdk",
        "a\u{85}.vmdk".as_bytes(),
        b"caf\xe9.vmdk",
    ];
    for name in names {
        let path = dir.path().join(OsStr::from_bytes(name));
        for create_type in TYPES {
            let error = new_disk(create_type, 20).create(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}: {error}");
        }
    }
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[test]
fn what_is_no_name_of_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", "..", "sub/..", "a.vmdk/", "a/", "/"] {
        let path = if name.is_empty() { Path::new("").to_owned() } else { dir.path().join(name) };
        for create_type in TYPES {
            let error = new_disk(create_type, 20).create(&path).unwrap_err();
            let kind = if name == "sub/.." {
                [ErrorKind::InvalidInput, ErrorKind::NotFound]
            } else {
                [ErrorKind::InvalidInput; 2]
            };
            assert!(kind.contains(&error.kind()), "{name:?}: {error}");
        }
    }
    assert_eq!(new_disk(Vmfs, 20).create(dir.path().join("a\0.vmdk")).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(new_disk(Vmfs, 20).create(dir.path().join("no/a.vmdk")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(names_in(dir.path()), [""; 0]);
}

/// There is no host that would refuse them first.
#[test]
fn a_directory_of_the_caller_is_not_asked_for_a_bad_name() {
    for name in ["", ".", "..", "a/b", "/a", "../a.vmdk", "a\"b", "a\nb", "a\rb", "a\0b", "\u{7f}", "a\u{9b}"] {
        for create_type in TYPES {
            let directory = MemoryDirectory::default();
            let error = new_disk(create_type.clone(), 20).create_in(name, &directory).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{create_type}: {name:?}: {error}");
            assert_eq!(directory.events(), [], "{name:?}");
        }
    }
}

#[test]
fn a_directory_in_the_way_stays_there() {
    let dir = tempfile::tempdir().unwrap();
    for create_type in TYPES {
        let options = new_disk(create_type.clone(), 20);
        fs::create_dir(dir.path().join("disk.vmdk")).unwrap();
        let path = dir.path().join("disk.vmdk");
        assert_eq!(options.create(&path).unwrap_err().kind(), ErrorKind::AlreadyExists, "{create_type}");
        assert_eq!(options.replace(true).create(&path).unwrap_err().kind(), ErrorKind::InvalidInput, "{create_type}");
        assert_eq!(names_in(dir.path()), ["disk.vmdk"]);
        fs::remove_dir(&path).unwrap();
    }
}

/// A base to make children of, and what is in its directory.
fn base(dir: &Path, create_type: CreateType) -> (VmdkImage, Vec<String>) {
    new_disk(create_type, 500).create(dir.join("base.vmdk")).unwrap();
    let base = OpenOptions::new().write(true).open(dir.join("base.vmdk")).unwrap();
    base.write_sectors(1, &pattern(1)).unwrap();
    (base, names_in(dir))
}

/// And the base takes writes as before.
#[test]
fn a_child_that_cannot_be_is_refused() {
    let child = CreateOptions::new;
    let flat = |create_type| child().create_type(create_type);
    let cases = [
        (flat(MonolithicFlat), ErrorKind::InvalidInput, "only sparse disks have parents"),
        (flat(TwoGbMaxExtentFlat), ErrorKind::InvalidInput, "only sparse disks have parents"),
        (flat(Vmfs), ErrorKind::InvalidInput, "only sparse disks have parents"),
        (flat(CreateType::StreamOptimized), ErrorKind::Unsupported, "streamOptimized"),
        (child().capacity_sectors(499), ErrorKind::InvalidInput, "its parent, 500"),
        (child().capacity_sectors(501), ErrorKind::InvalidInput, "its parent, 500"),
        (child().capacity_sectors(0), ErrorKind::InvalidInput, "its parent, 500"),
        (child().preallocate(true), ErrorKind::InvalidInput, "preallocated"),
        (child().grain_sectors(3), ErrorKind::InvalidInput, "grain"),
        (child().geometry(Geometry::new(0, 0, 0)), ErrorKind::InvalidInput, "geometry"),
        (child().adapter_type("\"".into()), ErrorKind::InvalidInput, "adapter"),
        (flat(VmfsSparse).zero_grains(true), ErrorKind::InvalidInput, "zero grains"),
    ];
    for base_type in TYPES {
        let dir = tempfile::tempdir().unwrap();
        let (base, names) = base(dir.path(), base_type.clone());
        for (options, kind, word) in &cases {
            let error = base.create_child(dir.path().join("child.vmdk"), options).unwrap_err();
            assert_eq!(error.kind(), *kind, "{base_type}: {error}");
            assert!(error.to_string().contains(word), "no {word:?} in: {error}");
        }
        let smaller = MemoryDevice::new(pattern(0));
        let filled = base
            .create_child_from(dir.path().join("child.vmdk"), &child(), &smaller, &mut |_| ControlFlow::Continue(()));
        assert_eq!(filled.unwrap_err().kind(), ErrorKind::InvalidInput, "{base_type}");
        for name in ["base.vmdk", "a\"b.vmdk", "a\nb.vmdk", "no/child.vmdk"] {
            base.create_child(dir.path().join(name), &child()).unwrap_err();
        }
        // Not its own parent, nor over one of its parent's files.
        for name in &names {
            let replaced = base.create_child(dir.path().join(name), &child().replace(true));
            assert!(replaced.is_err(), "{base_type}: {name}");
        }
        assert_eq!(names_in(dir.path()), names, "{base_type}");
        base.write_sectors(2, &pattern(2)).unwrap();
        base.close().unwrap();
        drop(base);
        let base = VmdkImage::open(dir.path().join("base.vmdk")).unwrap();
        super::expect_patterns(&base, |sector| matches!(sector, 1 | 2), 0..4);
    }
}

/// The way from the child to its parent is written, too.
#[cfg(unix)]
#[test]
fn a_parent_whose_directory_cannot_be_named_is_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    for name in [&b"a\"b"[..], b"a\nparentCID=0", b"caf\xe9"] {
        let dir = tempfile::tempdir().unwrap();
        let [apart, beside] = [OsStr::from_bytes(name), OsStr::new("beside")].map(|name| dir.path().join(name));
        fs::create_dir(&apart).unwrap();
        fs::create_dir(&beside).unwrap();
        let (base, names) = base(&apart, MonolithicSparse);
        let error = base.create_child(beside.join("child.vmdk"), &CreateOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert_eq!(names_in(&beside), [""; 0]);
        // From its own directory the way is short.
        base.create_child(apart.join("child.vmdk"), &CreateOptions::new()).unwrap();
        assert_eq!(names_in(&apart).len(), names.len() + 1);
    }
}

#[test]
fn a_source_that_is_larger_than_the_disk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let source = MemoryDevice::new((0..20).flat_map(pattern).collect());
    for create_type in TYPES {
        let options = new_disk(create_type, 19);
        let directory = MemoryDirectory::default();
        let go_on = &mut |_| ControlFlow::Continue(());
        let created = options.create_from_in("disk.vmdk", &directory, &source, go_on);
        assert_eq!(created.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(directory.events(), []);
        let created = options.create_from(dir.path().join("disk.vmdk"), &source, &mut |_| ControlFlow::Continue(()));
        assert_eq!(created.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[test]
fn what_was_stopped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = MemoryDevice::new((0..5000).flat_map(pattern).collect());
    for create_type in TYPES {
        let options = CreateOptions::new().create_type(create_type.clone());
        let stopped = options.create_from(dir.path().join("disk.vmdk"), &source, &mut |_| ControlFlow::Break(()));
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled, "{create_type}");
        assert_eq!(names_in(dir.path()), [""; 0], "{create_type}");
    }
}

/// Where there are no locks that would be in the way.
#[test]
fn a_child_does_not_replace_a_file_of_its_parent() {
    for create_type in TYPES {
        let directory = MemoryDirectory::default();
        new_disk(create_type.clone(), 500).create_in("base.vmdk", &directory).unwrap();
        let events = directory.events();
        let base = OpenOptions::new().write(true).open_with("base.vmdk", &directory).unwrap();
        for name in directory.names() {
            let options = CreateOptions::new().create_type(MonolithicSparse).replace(true);
            let error = base.create_child_in(&name, &directory, &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{create_type}: {name}: {error}");
        }
        assert_eq!(directory.events(), events, "{create_type}");
        base.write_sectors(1, &pattern(1)).unwrap();
    }
}
