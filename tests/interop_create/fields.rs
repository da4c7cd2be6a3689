//! Headers and descriptors beside those of `qemu-img create`, field by field.

use std::collections::BTreeMap;
use std::path::Path;

use vmdk::{AdapterType, CreateType, Descriptor, FileStorage, KdmvHeader, SparseHeader, Storage, VmdkImage};

use super::support::{SECTOR, index};
use super::{Qemu, SPLIT, TABLE, new_disk};

fn start_of(path: &Path, sectors: u64) -> Vec<u8> {
    let mut bytes = vec![0; index(sectors) * SECTOR];
    FileStorage::open(path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn kdmv(image: &VmdkImage) -> KdmvHeader {
    image.chain()[0].extents()[0].header().and_then(SparseHeader::as_kdmv).unwrap().clone()
}

/// All of it but the descriptor, byte by byte: header, both directories, tables, padding and length.
#[test]
fn a_monolithic_sparse_disk_has_the_bytes_of_qemus() {
    let Some(qemu) = Qemu::find("a_monolithic_sparse_disk_has_the_bytes_of_qemus") else { return };
    for zero_grains in [false, true] {
        for sectors in [1, 127, 128, 129, 20_480, TABLE - 1, TABLE, TABLE + 1, SPLIT, 209_715_200] {
            let [theirs, ours] = ["theirs.vmdk", "ours.vmdk"].map(|name| qemu.path(name));
            let grains = if zero_grains { "zeroed_grain=on" } else { "zeroed_grain=off" };
            qemu.create("theirs.vmdk", &format!("subformat=monolithicSparse,{grains}"), sectors);
            let options = new_disk(CreateType::MonolithicSparse, sectors).zero_grains(zero_grains).replace(true);
            options.create(&ours).unwrap();
            let files = [&theirs, &ours].map(|path| {
                let len = path.metadata().unwrap().len();
                let mut bytes = start_of(path, len / SECTOR as u64);
                bytes[SECTOR..21 * SECTOR].fill(0);
                bytes
            });
            assert!(files[0] == files[1], "{sectors}");
        }
    }
}

/// These are large, and mostly holes: the headers and the lengths tell the same.
#[test]
fn a_large_monolithic_sparse_disk_has_the_header_of_qemus() {
    let Some(qemu) = Qemu::find("a_large_monolithic_sparse_disk_has_the_header_of_qemus") else { return };
    for sectors in [4_294_967_296, 17_179_869_184, 137_438_953_472] {
        let [theirs, ours] = ["theirs.vmdk", "ours.vmdk"].map(|name| qemu.path(name));
        qemu.create("theirs.vmdk", "subformat=monolithicSparse", sectors);
        new_disk(CreateType::MonolithicSparse, sectors).replace(true).create(&ours).unwrap();
        assert_eq!(start_of(&ours, 1), start_of(&theirs, 1), "{sectors}");
        assert_eq!(ours.metadata().unwrap().len(), theirs.metadata().unwrap().len(), "{sectors}");
    }
}

/// QEMU keeps 20 sectors for a descriptor in each extent, VMware's products have none: see `samples` for theirs.
#[test]
fn a_split_sparse_disk_lacks_the_gap_of_qemus_and_nothing_else() {
    let Some(qemu) = Qemu::find("a_split_sparse_disk_lacks_the_gap_of_qemus_and_nothing_else") else { return };
    for sectors in [1, 129, 20_480, TABLE + 1, SPLIT] {
        qemu.create("theirs.vmdk", "subformat=twoGbMaxExtentSparse", sectors);
        let ours = qemu.path("ours.vmdk");
        new_disk(CreateType::TwoGbMaxExtentSparse, sectors).replace(true).create(&ours).unwrap();
        let [ours, theirs] = [ours, qemu.path("theirs.vmdk")].map(|path| kdmv(&VmdkImage::open(path).unwrap()));
        assert_eq!([theirs.descriptor_offset, theirs.descriptor_size], [1, 20], "{sectors}");
        let mut without_gap = theirs.clone();
        without_gap.descriptor_offset = 0;
        without_gap.descriptor_size = 0;
        without_gap.rgd_offset -= 20;
        without_gap.gd_offset -= 20;
        without_gap.over_head = ours.over_head;
        assert_eq!(ours, without_gap, "{sectors}");
        assert!(ours.over_head <= theirs.over_head, "{sectors}");
    }
}

#[test]
fn a_flat_disk_has_the_files_of_qemus() {
    let Some(qemu) = Qemu::find("a_flat_disk_has_the_files_of_qemus") else { return };
    for (create_type, suffix) in [(CreateType::MonolithicFlat, "flat"), (CreateType::TwoGbMaxExtentFlat, "f001")] {
        for sectors in [1, 129, SPLIT] {
            qemu.create("theirs.vmdk", &format!("subformat={create_type}"), sectors);
            new_disk(create_type.clone(), sectors).replace(true).create(qemu.path("ours.vmdk")).unwrap();
            let files = ["theirs", "ours"].map(|stem| qemu.path(&format!("{stem}-{suffix}.vmdk")));
            let lens = files.map(|path| path.metadata().unwrap().len());
            assert_eq!(lens, [sectors * SECTOR as u64; 2], "{create_type}");
        }
    }
}

/// What a descriptor says, key by key; extents by number and without the stem of their names.
fn said(path: &Path) -> BTreeMap<String, String> {
    let image = VmdkImage::open(path).unwrap();
    let descriptor: &Descriptor = image.descriptor();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let keys = ["version", "encoding", "CID", "parentCID", "isNativeSnapshot", "createType", "parentFileNameHint"];
    // QEMU leaves out zeros in front of a content ID.
    let value = |key: &str, value: &[u8]| match key {
        "CID" | "parentCID" => format!("{:0>8}", text(value)),
        _ => text(value),
    };
    let headers = keys.into_iter().filter_map(|key| Some((key.to_owned(), value(key, descriptor.header(key)?))));
    let database = descriptor.ddb_entries().map(|(key, value)| (format!("ddb.{}", text(key)), text(value)));
    let extents = (1..).zip(descriptor.extents()).map(|(number, line)| {
        let name = text(line.name().unwrap());
        let name = name.trim_start_matches("theirs").trim_start_matches("ours").to_owned();
        (
            format!("extent {number}"),
            format!("{:?} {} {} {name} {}", line.access(), line.sectors(), line.kind(), line.offset()),
        )
    });
    headers.chain(database).chain(extents).collect()
}

/// How a key differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    OnlyOurs,
    OnlyTheirs,
    Other,
}

fn differences(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) -> BTreeMap<String, Difference> {
    let mut found = BTreeMap::new();
    for (key, value) in ours {
        match theirs.get(key) {
            None => found.insert(key.clone(), Difference::OnlyOurs),
            Some(other) if other != value => found.insert(key.clone(), Difference::Other),
            Some(_) => None,
        };
    }
    found.extend(theirs.keys().filter(|key| !ours.contains_key(*key)).map(|key| (key.clone(), Difference::OnlyTheirs)));
    found
}

/// Keys that differ.
type Table = [(&'static str, Difference)];

/// The keys that differ from QEMU's always, and why.
const ALWAYS: &Table = &[
    // Random.
    ("CID", Difference::Other),
    // VMware writes them since about 2010, QEMU knows the products before.
    ("ddb.longContentID", Difference::OnlyOurs),
    ("ddb.uuid", Difference::OnlyOurs),
    ("encoding", Difference::OnlyOurs),
    ("isNativeSnapshot", Difference::OnlyOurs),
];

/// QEMU has 255 heads and 63 sectors for every SCSI disk, and no cylinder for one that is smaller than that; VMware
/// has smaller cylinders for small disks.
const SMALL_SCSI: &Table = &[
    ("ddb.geometry.cylinders", Difference::Other),
    ("ddb.geometry.heads", Difference::Other),
    ("ddb.geometry.sectors", Difference::Other),
];

/// QEMU has no cylinder for a disk that is smaller than one, and more than IDE can have for a large one.
const CYLINDERS: &Table = &[("ddb.geometry.cylinders", Difference::Other)];

/// The disks of both are in as many extents only up to here.
#[test]
fn the_descriptor_differs_from_qemus_where_vmwares_does() {
    let Some(qemu) = Qemu::find("the_descriptor_differs_from_qemus_where_vmwares_does") else { return };
    let types = [
        CreateType::MonolithicSparse,
        CreateType::MonolithicFlat,
        CreateType::TwoGbMaxExtentSparse,
        CreateType::TwoGbMaxExtentFlat,
    ];
    let gib = 2 << 20;
    let rows: [(AdapterType, u64, &Table); 9] = [
        (AdapterType::Ide, 1007, CYLINDERS),
        (AdapterType::Ide, 1008, &[]),
        (AdapterType::Ide, 20_480, &[]),
        (AdapterType::Ide, SPLIT, &[]),
        (AdapterType::LsiLogic, 1, SMALL_SCSI),
        (AdapterType::LsiLogic, gib, SMALL_SCSI),
        (AdapterType::BusLogic, SPLIT, SMALL_SCSI),
        (AdapterType::LegacyEsx, 20_480, SMALL_SCSI),
        (AdapterType::LsiLogic, 3 * gib, &[]),
    ];
    for create_type in types {
        for (adapter, sectors, also) in &rows {
            if *sectors > SPLIT
                && matches!(create_type, CreateType::TwoGbMaxExtentSparse | CreateType::TwoGbMaxExtentFlat)
            {
                continue;
            }
            qemu.create("theirs.vmdk", &format!("subformat={create_type},adapter_type={adapter}"), *sectors);
            let options = new_disk(create_type.clone(), *sectors).adapter_type(adapter.clone()).replace(true);
            options.create(qemu.path("ours.vmdk")).unwrap();
            let [ours, theirs] = ["ours.vmdk", "theirs.vmdk"].map(|name| said(&qemu.path(name)));
            let expected = ALWAYS.iter().chain(*also).map(|&(key, how)| (key.to_owned(), how)).collect();
            assert_eq!(differences(&ours, &theirs), expected, "{create_type} {adapter} {sectors}");
        }
    }
}

#[test]
fn a_large_ide_disk_has_fewer_cylinders_than_qemus() {
    let Some(qemu) = Qemu::find("a_large_ide_disk_has_fewer_cylinders_than_qemus") else { return };
    for (sectors, theirs, ours) in [(16_514_064, "16383", "16383"), (16_515_072, "16384", "16383")] {
        qemu.create("theirs.vmdk", "subformat=monolithicSparse,adapter_type=ide", sectors);
        new_disk(CreateType::MonolithicSparse, sectors).replace(true).create(qemu.path("ours.vmdk")).unwrap();
        let found = ["theirs.vmdk", "ours.vmdk"].map(|name| said(&qemu.path(name))["ddb.geometry.cylinders"].clone());
        assert_eq!(found, [theirs, ours], "{sectors}");
    }
}

/// Of a delta QEMU writes a whole database, VMware the content ID alone.
#[test]
fn the_descriptor_of_a_child_differs_from_qemus_where_vmwares_does() {
    let Some(qemu) = Qemu::find("the_descriptor_of_a_child_differs_from_qemus_where_vmwares_does") else { return };
    new_disk(CreateType::MonolithicSparse, 20_480).create(qemu.path("base.vmdk")).unwrap();
    qemu.create_child("base.vmdk", "theirs.vmdk", "subformat=monolithicSparse");
    let base = VmdkImage::open(qemu.path("base.vmdk")).unwrap();
    drop(base.create_child(qemu.path("ours.vmdk"), &vmdk::CreateOptions::new()).unwrap());
    let [ours, theirs] = ["ours.vmdk", "theirs.vmdk"].map(|name| said(&qemu.path(name)));
    let database =
        ["adapterType", "geometry.cylinders", "geometry.heads", "geometry.sectors", "toolsVersion", "virtualHWVersion"];
    let expected = [
        ("CID".to_owned(), Difference::Other),
        ("ddb.longContentID".to_owned(), Difference::OnlyOurs),
        ("encoding".to_owned(), Difference::OnlyOurs),
        ("isNativeSnapshot".to_owned(), Difference::OnlyOurs),
    ];
    let database = database.map(|key| (format!("ddb.{key}"), Difference::OnlyTheirs));
    assert_eq!(differences(&ours, &theirs), expected.into_iter().chain(database).collect());
}
