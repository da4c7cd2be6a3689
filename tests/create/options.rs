//! What the options do, and what there is without them.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use vmdk::{
    AdapterType, BlockDevice, CreateOptions, CreateType, Descriptor, Directory, ErrorKind, Geometry, OpenOptions,
    Storage, VmdkImage,
};

use super::memory_directory::{Event, MemoryDirectory};
use super::support::model::MemoryDevice;
use super::support::{SECTOR, index};
use super::{SPLIT, TYPES, names_in, new_disk, pattern};

const DISK_ID: [u8; 16] = *b"an identity 16b!";

fn made(dir: &Path, options: &CreateOptions) -> VmdkImage {
    options.clone().replace(true).create(dir.join("disk.vmdk")).unwrap();
    VmdkImage::open(dir.join("disk.vmdk")).unwrap()
}

#[test]
fn without_options_a_disk_is_monolithic_sparse_and_for_ide() {
    let dir = tempfile::tempdir().unwrap();
    let image = made(dir.path(), &CreateOptions::new().capacity_sectors(20_480));
    assert_eq!(image.create_type(), Some(&CreateType::MonolithicSparse));
    assert_eq!(image.adapter_type(), Some(AdapterType::Ide));
    assert_eq!(image.geometry(), Some(Geometry::new(20, 16, 63)));
    assert_eq!(image.hardware_version(), Some(4));
    assert_eq!(image.limits().optimal_io_sectors, 128);
    assert!(!image.chain()[0].header().unwrap().as_kdmv().unwrap().has_zero_grains());
}

#[test]
fn a_type_by_another_name_is_written_by_its_usual_one() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["2GbMaxExtentSparse", "twogbmaxextentsparse", "twoGbMaxExtentSparse"] {
        let image = made(dir.path(), &new_disk(CreateType::from(name), 20));
        assert_eq!(image.descriptor().create_type().unwrap().as_str(), "twoGbMaxExtentSparse");
    }
}

#[test]
fn adapter_hardware_geometry_and_identity_are_those_that_were_asked_for() {
    for create_type in TYPES {
        let dir = tempfile::tempdir().unwrap();
        let asked = new_disk(create_type, 20_480)
            .adapter_type(AdapterType::LegacyEsx)
            .hardware_version(21)
            .geometry(Geometry::new(7, 8, 9))
            .disk_id(DISK_ID);
        let image = made(dir.path(), &asked);
        assert_eq!(image.adapter_type(), Some(AdapterType::LegacyEsx));
        assert_eq!(image.hardware_version(), Some(21));
        assert_eq!(image.geometry(), Some(Geometry::new(7, 8, 9)));
        assert_eq!(image.disk_id(), Some(DISK_ID));
        let asked = CreateOptions::new().adapter_type(AdapterType::LegacyEsx).hardware_version(21).disk_id(DISK_ID);
        let asked = asked.geometry(Geometry::new(7, 8, 9)).capacity_sectors(20_480);
        let child = image.create_child(dir.path().join("child.vmdk"), &asked).unwrap();
        let own = |name| child.descriptor().ddb(name).map(<[u8]>::to_vec);
        assert_eq!(own("adapterType").unwrap(), b"legacyESX");
        assert_eq!(own("virtualHWVersion").unwrap(), b"21");
        assert_eq!(own("geometry.cylinders").unwrap(), b"7");
        assert_eq!(child.disk_id(), Some(DISK_ID));
    }
}

/// An adapter alone changes the geometry, which goes by it.
#[test]
fn the_geometry_is_that_of_the_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let gib = 2 << 20;
    for (adapter, sectors, geometry) in [
        (AdapterType::Ide, gib, (2080, 16, 63)),
        (AdapterType::Ide, 1 << 34, (16_383, 16, 63)),
        (AdapterType::LsiLogic, gib, (1024, 64, 32)),
        (AdapterType::BusLogic, gib + 1, (512, 128, 32)),
        (AdapterType::LegacyEsx, 2 * gib + 1, (261, 255, 63)),
        (AdapterType::from("pvscsi"), 1, (1, 64, 32)),
    ] {
        let image = made(dir.path(), &new_disk(CreateType::MonolithicSparse, sectors).adapter_type(adapter.clone()));
        let (cylinders, heads, sectors) = geometry;
        assert_eq!(image.geometry(), Some(Geometry::new(cylinders, heads, sectors)), "{adapter}");
        assert_eq!(image.adapter_type(), Some(adapter));
    }
}

#[test]
fn no_two_disks_have_the_same_identity_or_content_id() {
    let dir = tempfile::tempdir().unwrap();
    let [mut ids, mut long_ids, mut disk_ids] = [(); 3].map(|()| BTreeSet::new());
    for _ in 0..50 {
        let image = made(dir.path(), &new_disk(CreateType::MonolithicSparse, 1));
        ids.insert(u128::from(image.content_id().unwrap().value()));
        long_ids.insert(image.descriptor().long_content_id().unwrap() >> 32);
        disk_ids.insert(u128::from_be_bytes(image.disk_id().unwrap()));
    }
    assert_eq!([ids.len(), long_ids.len(), disk_ids.len()], [50; 3]);
}

#[test]
fn like_takes_what_another_disk_says_and_later_options_are_heard() {
    let dir = tempfile::tempdir().unwrap();
    let other = new_disk(CreateType::Vmfs, 99).hardware_version(13).geometry(Geometry::new(1, 2, 3)).disk_id(DISK_ID);
    let apart = tempfile::tempdir().unwrap();
    let other = made(apart.path(), &other.adapter_type(AdapterType::BusLogic));
    let before = new_disk(CreateType::MonolithicFlat, 200).hardware_version(9).adapter_type(AdapterType::LegacyEsx);
    let like = before.geometry(Geometry::new(9, 9, 9)).disk_id([9; 16]).like(&other);
    let image = made(dir.path(), &like);
    assert_eq!(image.adapter_type(), Some(AdapterType::BusLogic));
    assert_eq!((image.hardware_version(), image.disk_id()), (Some(13), Some(DISK_ID)));
    assert_eq!(image.geometry(), Some(Geometry::new(1, 2, 3)));
    // What it is made as, and its size, are its own.
    assert_eq!((image.create_type(), image.capacity_sectors()), (Some(&CreateType::MonolithicFlat), 200));

    drop(image);
    let changed = like.hardware_version(6).adapter_type(AdapterType::Ide).geometry(Geometry::new(4, 5, 6));
    let image = made(dir.path(), &changed.disk_id([7; 16]));
    assert_eq!((image.adapter_type(), image.hardware_version()), (Some(AdapterType::Ide), Some(6)));
    assert_eq!((image.geometry(), image.disk_id()), (Some(Geometry::new(4, 5, 6)), Some([7; 16])));
}

/// A database that says nothing, and one that says what could not be written again.
#[test]
fn like_leaves_what_the_other_disk_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let asked = new_disk(CreateType::MonolithicFlat, 8)
        .adapter_type(AdapterType::LsiLogic)
        .hardware_version(9)
        .geometry(Geometry::new(1, 1, 1))
        .disk_id(DISK_ID);
    fs::write(dir.path().join("flat"), [0; 8 * SECTOR]).unwrap();
    for database in [
        "",
        "ddb.geometry.cylinders = \"0\"\nddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n\
         ddb.virtualHWVersion = \"later\"\nddb.uuid = \"60 00\"\nddb.adapterType = \"a\tb\"\n",
    ] {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
             RW 8 FLAT \"flat\" 0\n#DDB\n{database}"
        );
        fs::write(dir.path().join("other.vmdk"), text).unwrap();
        let other = VmdkImage::open(dir.path().join("other.vmdk")).unwrap();
        let image = made(dir.path(), &asked.clone().like(&other));
        assert_eq!(image.adapter_type(), Some(AdapterType::LsiLogic));
        assert_eq!((image.hardware_version(), image.disk_id()), (Some(9), Some(DISK_ID)));
        assert_eq!(image.geometry(), Some(Geometry::new(1, 1, 1)));
    }
}

#[test]
fn a_preallocated_disk_takes_its_space_at_once_and_others_do_not() {
    let sectors = 4096;
    for (create_type, file) in [
        (CreateType::MonolithicFlat, "disk-flat.vmdk"),
        (CreateType::TwoGbMaxExtentFlat, "disk-f001.vmdk"),
        (CreateType::Vmfs, "disk-flat.vmdk"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for preallocate in [false, true] {
            let image = made(dir.path(), &new_disk(create_type.clone(), sectors).preallocate(preallocate));
            let taken = vmdk::FileStorage::open(&dir.path().join(file)).unwrap().allocated_len().unwrap();
            let bytes = sectors * SECTOR as u64;
            assert_eq!(taken >= bytes, preallocate, "{create_type}: {taken}");
            let thin = image.descriptor().ddb("thinProvisioned");
            let is_thin = create_type == CreateType::Vmfs && !preallocate;
            assert_eq!(thin, is_thin.then_some(&b"1"[..]), "{create_type}");
            let mut content = vec![0xa5; index(sectors) * SECTOR];
            image.read_sectors(0, &mut content).unwrap();
            assert!(content.iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn what_exists_is_replaced_only_if_that_is_asked_for() {
    for create_type in TYPES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vmdk");
        new_disk(create_type.clone(), 20).create(&path).unwrap();
        let names = names_in(dir.path());
        let before: Vec<_> = names.iter().map(|name| fs::read(dir.path().join(name)).unwrap()).collect();
        // Whichever of its files is left is in the way.
        for kept in &names {
            for name in names.iter().filter(|name| *name != kept) {
                fs::remove_file(dir.path().join(name)).unwrap();
            }
            let error = new_disk(create_type.clone(), 40).create(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{create_type}: {error}");
            assert_eq!(error.file().and_then(Path::file_name), Some(kept.as_ref()), "{create_type}");
            assert_eq!(names_in(dir.path()), *std::slice::from_ref(kept), "{create_type}");
            for (name, bytes) in names.iter().zip(&before) {
                fs::write(dir.path().join(name), bytes).unwrap();
            }
        }
        new_disk(create_type.clone(), 40).replace(true).create(&path).unwrap();
        assert_eq!(names_in(dir.path()), names, "{create_type}");
        assert_eq!(VmdkImage::open(&path).unwrap().capacity_sectors(), 40, "{create_type}");
    }
}

/// Who is using the old image is not left without it.
#[test]
fn an_image_in_use_is_not_replaced() {
    for create_type in TYPES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.vmdk");
        new_disk(create_type.clone(), 20).create(&path).unwrap();
        let names = names_in(dir.path());
        let image = VmdkImage::open(&path).unwrap();
        let error = new_disk(create_type.clone(), 40).replace(true).create(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{create_type}: {error}");
        assert_eq!(names_in(dir.path()), names);
        drop(image);
        assert_eq!(VmdkImage::open(&path).unwrap().capacity_sectors(), 20);
    }
}

fn overlaps(mut ranges: Vec<(u64, u64)>) -> bool {
    ranges.sort_unstable();
    ranges.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0)
}

#[test]
fn nothing_is_written_twice_and_no_zeros_are_written() {
    for create_type in TYPES {
        let directory = MemoryDirectory::default();
        new_disk(create_type.clone(), 16_384).create_in("disk.vmdk", &directory).unwrap();
        let image = OpenOptions::new().open_with("disk.vmdk", &directory).unwrap();
        assert_eq!((image.create_type(), image.capacity_sectors()), (Some(&create_type), 16_384));
        for name in directory.names() {
            let counts = directory.counts(&name);
            assert!(!overlaps(counts.writes.clone()), "{create_type}: {name}: {counts:?}");
            assert!(counts.lens.len() <= 1 && counts.holes.is_empty() && counts.syncs == 0, "{name}: {counts:?}");
            // A header, a descriptor with what pads it, and the two entries of the directories.
            let most = 4 * SECTOR as u64 + 20 * SECTOR as u64;
            assert!(counts.bytes_written() <= most, "{create_type}: {name}: {counts:?}");
        }
    }
}

/// Each grain once, though the image is opened and closed for it.
#[test]
fn the_content_of_a_new_image_is_written_once() {
    let sectors = 8 * 128;
    let content: Vec<u8> = (0..sectors).flat_map(pattern).collect();
    for create_type in TYPES {
        let directory = MemoryDirectory::default();
        let source = MemoryDevice::new(content.clone());
        let options = new_disk(create_type.clone(), sectors);
        options.create_from_in("disk.vmdk", &directory, &source, &mut |_| ControlFlow::Continue(())).unwrap();
        let image = OpenOptions::new().open_with("disk.vmdk", &directory).unwrap();
        let mut found = vec![0; content.len()];
        image.read_sectors(0, &mut found).unwrap();
        assert!(found == content, "{create_type}");
        for name in directory.names() {
            let payload: Vec<_> =
                directory.counts(&name).writes.into_iter().filter(|(_, len)| *len >= 65_536).collect();
            assert!(!overlaps(payload), "{create_type}: {name}");
        }
    }
}

/// The files first, then their names, that of the descriptor last, each step durable before the next.
#[test]
fn a_new_image_is_durable_before_the_call_returns_and_not_if_that_is_switched_off() {
    use Event::{Made, Named, Synced};
    let made = |name: &str| Made(name.to_owned());
    let named = |name: &str| Named(name.to_owned());
    for sync in [true, false] {
        let synced = if sync { &[Synced][..] } else { &[] };
        let directory = MemoryDirectory::default();
        new_disk(CreateType::MonolithicFlat, 9).sync(sync).create_in("a", &directory).unwrap();
        let expected = [&[made("a-flat.vmdk"), made("a"), named("a-flat.vmdk")][..], synced, &[named("a")], synced];
        assert_eq!(directory.events(), expected.concat());
        for name in directory.names() {
            assert_eq!(directory.counts(&name).syncs, usize::from(sync), "{name}");
        }

        let directory = MemoryDirectory::default();
        new_disk(CreateType::MonolithicSparse, 9).sync(sync).create_in("a", &directory).unwrap();
        assert_eq!(directory.events(), [&[made("a"), named("a")][..], synced].concat());
        assert_eq!(directory.counts("a").syncs, usize::from(sync));
    }
}

#[test]
fn a_disk_made_in_a_directory_of_the_caller_is_that_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    for create_type in TYPES {
        let directory = MemoryDirectory::default();
        let options = new_disk(create_type.clone(), 20_480).disk_id(DISK_ID);
        options.create_in("disk.vmdk", &directory).unwrap();
        options.clone().replace(true).create(dir.path().join("disk.vmdk")).unwrap();
        for name in directory.names() {
            let bytes = directory.bytes(&name);
            let on_host = fs::read(dir.path().join(&name)).unwrap();
            assert_eq!(bytes.len(), on_host.len(), "{create_type}: {name}");
            if name != "disk.vmdk" {
                assert!(bytes == on_host, "{create_type}: {name}");
            }
        }
        assert!(directory.exists("disk.vmdk").unwrap());
    }
}

/// In memory of the caller, like the disk; it is named as it was when it was opened.
#[test]
fn a_child_can_be_made_in_a_directory_of_the_caller() {
    for base_type in TYPES {
        let directory = MemoryDirectory::default();
        new_disk(base_type, 500).create_in("base.vmdk", &directory).unwrap();
        let base = OpenOptions::new().write(true).open_with("base.vmdk", &directory).unwrap();
        base.write_sectors(3, &pattern(3)).unwrap();
        let child = base.create_child_in("child.vmdk", &directory, &CreateOptions::new()).unwrap();
        child.write_sectors(4, &pattern(4)).unwrap();
        child.close().unwrap();
        assert_eq!(base.write_sectors(3, &pattern(3)).unwrap_err().kind(), ErrorKind::ReadOnly);
        drop((base, child));
        let child = OpenOptions::new().open_with("child.vmdk", &directory).unwrap();
        assert_eq!(child.chain().len(), 2);
        super::expect_patterns(&child, |sector| matches!(sector, 3 | 4), 0..500);
        let descriptor = child.descriptor();
        assert_eq!(descriptor.parent_hint(), Some(&b"base.vmdk"[..]));
    }
}

#[test]
fn a_copy_may_be_larger_than_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..10).flat_map(pattern).collect();
    for (create_type, sectors) in TYPES.into_iter().zip([10, 11, SPLIT + 1, SPLIT + 1, 4097, 4097]) {
        let source = MemoryDevice::new(content.clone());
        let options = new_disk(create_type.clone(), sectors).replace(true);
        let path = dir.path().join("disk.vmdk");
        options.create_from(&path, &source, &mut |_| ControlFlow::Continue(())).unwrap();
        let image = VmdkImage::open(&path).unwrap();
        assert_eq!(image.capacity_sectors(), sectors);
        super::expect_patterns(&image, |sector| sector < 10, (0..13).filter(|&sector| sector < sectors));
    }
    let source = MemoryDevice::new(content);
    let options = CreateOptions::new().sync(false);
    options.create_from(dir.path().join("as-large.vmdk"), &source, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(VmdkImage::open(dir.path().join("as-large.vmdk")).unwrap().capacity_sectors(), 10);
}

/// Its database can say the same as that of its parent, or nothing.
#[test]
fn the_descriptor_of_a_new_image_parses_without_a_warning() {
    for create_type in TYPES {
        let directory = MemoryDirectory::default();
        new_disk(create_type.clone(), 4096).create_in("disk.vmdk", &directory).unwrap();
        let image = OpenOptions::new().open_with("disk.vmdk", &directory).unwrap();
        let parsed = Descriptor::parse(image.descriptor().as_bytes()).unwrap();
        assert_eq!(parsed.warnings(), [""; 0]);
        assert_eq!((parsed.version(), parsed.encoding()), (1, Some("UTF-8")));
        assert!(!parsed.is_native_snapshot());
    }
}
