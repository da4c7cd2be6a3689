//! Images made by other products, in a directory of their own (`VMDK_SAMPLES`): what must become of each of them.
//!
//! The directory has an index with the digest of what a guest sees in each file. The table here says, file by file,
//! whether that is what is read or which error there is instead, so that nothing changes unnoticed.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use vmdk::{
    AdapterType, BlockDevice, BlockStatus, CheckOptions, CreateType, Descriptor, Error, ErrorKind, Extent, FileStorage,
    Geometry, OpenOptions, RawTarget, VmdkImage,
};

use support::model::{RawDevice, is_zero};
use support::{SECTOR, conformance, index, tools};

/// What must become of a file.
#[derive(Clone, Copy, Debug)]
enum Expect {
    /// The index knows the content, and that is what is read.
    Reads,
    /// The same content as that of another file, which holds this one; the index has no digest for it.
    ReadsAs(&'static str),
    /// A kind that is not supported: the word for it in the error.
    Unsupported(&'static str),
    /// A descriptor whose extents are not there: the one that is missed first.
    Missing(&'static str),
    /// A child without its parent, and without its extent: the names of both.
    Orphan(&'static str, &'static str),
    /// A descriptor that leads to where no name may lead by itself: a part of the name.
    Refused(&'static str),
    /// A damaged file that opens nevertheless, with a warning: words of it.
    Odd(&'static str),
    /// A damaged file: the field that is wrong.
    Corrupt(&'static str),
    /// No VMDK: raw data, or a container of one.
    NotVmdk,
}

use Expect::{Corrupt, Missing, NotVmdk, Odd, Orphan, Reads, ReadsAs, Refused, Unsupported};

const TABLE: [(&str, Expect); 67] = [
    ("CosmosOS__Cosmos/Filesystem.vmdk", Reads),
    ("CosmosOS__Cosmos/history-2a48b92e/hda.vmdk", Reads),
    ("Reverier-Xu__keramics/_wrap-ext2-cowd.vmdk", Reads),
    ("Reverier-Xu__keramics/ext2.cowd", Reads),
    ("Reverier-Xu__keramics/ext2.vmdk", Reads),
    ("SecurityRonin__vmdk-forensic/compressed_stream_opt.vmdk", Reads),
    ("SecurityRonin__vmdk-forensic/flat-f001.vmdk", NotVmdk),
    ("SecurityRonin__vmdk-forensic/flat.vmdk", Reads),
    ("SecurityRonin__vmdk-forensic/minimal.vmdk", Reads),
    ("SecurityRonin__vmdk-forensic/mono_flat-flat.vmdk", NotVmdk),
    ("SecurityRonin__vmdk-forensic/mono_flat.vmdk", Reads),
    ("SecurityRonin__vmdk-forensic/ms3-win.vmdk", Missing("disk-s001.vmdk")),
    ("SecurityRonin__vmdk-forensic/stream_opt.vmdk", Reads),
    ("SecurityRonin__vmdk-forensic/tw_sparse-s001.vmdk", ReadsAs("SecurityRonin__vmdk-forensic/tw_sparse.vmdk")),
    ("SecurityRonin__vmdk-forensic/tw_sparse.vmdk", Reads),
    ("SecurityRonin__vmdk-forensic/tw_sparse_data.vmdk", Missing("tw_sparse_data-s001.vmdk")),
    ("TalAloni__DiskAccessLibrary/MonolithicSparse.vmdk", Reads),
    ("_text-descriptors/fullDevice-mbr-plus-dev.vmdk", Missing("WindowsXP.mbr")),
    ("_text-descriptors/fullDevice-virtualbox-physicaldrive.vmdk", Refused("PhysicalDrive3")),
    ("_text-descriptors/partitionedDevice-vmware-server.vmdk", Missing("Windows XP Home Edition-pt.vmdk")),
    ("_text-descriptors/seSparse-child.vmdk", Orphan("Base_R91.vmdk", "Base_R91-000001-sesparse.vmdk")),
    ("_text-descriptors/vmfs-esxi8-v3-ctk.vmdk", Missing("installer-flat.vmdk")),
    ("_text-descriptors/vmfsPassthroughRawDeviceMap.vmdk", Unsupported("vmfsPassthroughRawDeviceMap")),
    ("_text-descriptors/vmfsRawDeviceMap-v3-ctk.vmdk", Unsupported("vmfsRawDeviceMap")),
    ("_text-descriptors/vmfsSparse-redo.vmdk", Orphan("android.vmdk", "android.vmdk-delta.REDO_TkLU1V")),
    ("fox-it__dissect.hypervisor/history-fb0236be/_wrap-sesparse.vmdk", Reads),
    ("fox-it__dissect.hypervisor/history-fb0236be/sesparse.vmdk", Reads),
    ("freebsd__freebsd-src/img-1x1-512-apm.vmdk", Reads),
    ("freebsd__freebsd-src/img-1x1-512-apm.vmdks", Reads),
    ("glennmatthews__cot/input.vmdk", Reads),
    ("jnode__jnode/history-e2eca3e3/JNode-0.vmdk", Reads),
    ("jnode__jnode/history-e2eca3e3/JNode-1-s001.vmdk", Reads),
    ("jnode__jnode/history-e2eca3e3/JNode-1-s002.vmdk", Reads),
    ("jnode__jnode/history-e2eca3e3/JNode-1-s003.vmdk", Reads),
    ("jnode__jnode/history-e2eca3e3/JNode-1-s004.vmdk", Reads),
    ("jnode__jnode/history-e2eca3e3/JNode-1-s005.vmdk", Reads),
    ("jnode__jnode/history-e2eca3e3/JNode-1.vmdk", Reads),
    ("jnode__jnode/history-e2eca3e3/JNode.vmdk", Reads),
    ("kubev2v__forklift/history-8edb861f/fedora.vmdk", Reads),
    ("kubev2v__forklift/rdmfile", Unsupported("vmfsRawDeviceMap")),
    ("kubevirt__containerized-data-importer/history-3857fd39/fake.ova", NotVmdk),
    ("kubevirt__containerized-data-importer/history-3857fd39/fake.ova.d/disk1.vmdk", Reads),
    ("kubevirt__containerized-data-importer/history-c9625162/invalid-qcow-backing-file.img", Corrupt("grainSize")),
    ("kubevirt__containerized-data-importer/invalid-qcow-large-memory.img", Corrupt("grainSize")),
    ("log2timeline__dfvfs/history-31f83c39/image.vmdk", Reads),
    ("masahiro331__go-vmdk-parser/vmdk-invalid.img", Odd("createType is missing")),
    ("masahiro331__go-vmdk-parser/vmdk-monolith.img", Reads),
    ("masahiro331__go-vmdk-parser/vmdk-streamoptimized.img", Reads),
    ("microsoft__RecursiveExtractor/Empty.vmdk", Reads),
    ("strozfriedberg__vmdk-rs/history-32ad4e89/vmfs_thick.vmdk", Missing("vmfs_thick-flat.vmdk")),
    ("strozfriedberg__vmdk-rs/history-633336bc/0.vmdk", Reads),
    ("strozfriedberg__vmdk-rs/history-633336bc/1.vmdk", Missing("1-s001.vmdk")),
    ("strozfriedberg__vmdk-rs/history-633336bc/2.vmdk", Missing("2-flat.vmdk")),
    ("strozfriedberg__vmdk-rs/history-633336bc/3.vmdk", Missing("3-f001.vmdk")),
    ("strozfriedberg__vmdk-rs/history-633336bc/4.vmdk", Missing("4-flat.vmdk")),
    ("strozfriedberg__vmdk-rs/monolithicFlat-flat.vmdk", NotVmdk),
    ("strozfriedberg__vmdk-rs/monolithicFlat.vmdk", Reads),
    ("strozfriedberg__vmdk-rs/monolithicSparse.vmdk", Reads),
    ("strozfriedberg__vmdk-rs/streamOptimized.vmdk", Reads),
    ("strozfriedberg__vmdk-rs/twoGbMaxExtentSparse-s001.vmdk", Reads),
    ("strozfriedberg__vmdk-rs/twoGbMaxExtentSparse.vmdk", Reads),
    ("strozfriedberg__vmdk-rs/vmfs_thick-000001.vmdk", Orphan("vmfs_thick.vmdk", "vmfs_thick-000001-delta.vmdk")),
    ("vmware__go-vcloud-director/template_with_custom_chunk_size.ova", NotVmdk),
    (
        "vmware__go-vcloud-director/template_with_custom_chunk_size.ova.d/template_with_custom_chunk_size-disk1.joined.vmdk",
        Reads,
    ),
    (
        "vmware__go-vcloud-director/template_with_custom_chunk_size.ova.d/template_with_custom_chunk_size-disk1.vmdk.000000000",
        Corrupt("gdOffset"),
    ),
    ("vmware__go-vcloud-director/test_vapp_template.ova", NotVmdk),
    ("vmware__go-vcloud-director/test_vapp_template.ova.d/vm-20b41fa7-3212-4faf-9295-045d0bc49783-disk-0.vmdk", Reads),
];

/// A row of the index.
struct Row {
    file: String,
    create_type: String,
    /// As [`tools::sha256_hex`] or [`tools::nz4k`] make it; empty if the content is not known.
    digest: String,
}

/// The directory and what the index says of it, or `None` and a word about `test` being skipped.
fn samples(test: &str) -> Option<(PathBuf, Vec<Row>)> {
    let dir = tools::sample_dir(test)?;
    let table = std::fs::read_to_string(dir.join("INDEX.tsv")).unwrap();
    let mut lines = table.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name: &str| header.iter().position(|&other| other == name).unwrap();
    let [file, create_type, digest] = ["file", "create_type", "raw_sha256"].map(column);
    let rows = lines.map(|row| Row {
        file: row[file].to_owned(),
        create_type: row[create_type].to_owned(),
        digest: row[digest].to_owned(),
    });
    let rows = rows.collect();
    Some((dir, rows))
}

/// The files that are to be read, with their digests.
fn readable(rows: &[Row]) -> Vec<(&'static str, String)> {
    let digest = |file: &str| rows.iter().find(|row| row.file == file).unwrap().digest.clone();
    let files = TABLE.iter().filter_map(|&(file, expect)| match expect {
        Reads => Some((file, digest(file))),
        ReadsAs(other) => Some((file, digest(other))),
        _ => None,
    });
    files.collect()
}

fn open(dir: &Path, file: &str) -> VmdkImage {
    VmdkImage::open(dir.join(file)).unwrap_or_else(|error| panic!("{error}"))
}

fn error(dir: &Path, file: &str) -> Error {
    VmdkImage::open(dir.join(file)).err().unwrap_or_else(|| panic!("{file} opens"))
}

/// The text of an error without the name of the file, which tells of kinds as well.
fn without_file(error: &Error) -> String {
    let prefix = error.file().map_or(String::new(), |file| format!("{}: ", file.display()));
    let text = error.to_string();
    text.strip_prefix(&prefix).unwrap_or_else(|| panic!("no file in: {text}")).to_owned()
}

#[test]
fn the_table_here_and_the_index_name_the_same_files() {
    let Some((dir, rows)) = samples("the_table_here_and_the_index_name_the_same_files") else { return };
    let indexed: BTreeSet<&str> = rows.iter().map(|row| row.file.as_str()).collect();
    let known: BTreeSet<&str> = TABLE.iter().map(|(file, _)| *file).collect();
    assert_eq!(indexed, known);
    for file in known {
        assert!(dir.join(file).is_file(), "{file} is missing");
    }
    for (file, digest) in readable(&rows) {
        assert!(!digest.is_empty(), "the content of {file} is not known");
    }
}

#[test]
fn every_sample_of_a_supported_kind_reads_as_recorded() {
    let Some((dir, rows)) = samples("every_sample_of_a_supported_kind_reads_as_recorded") else { return };
    let files = readable(&rows);
    assert_eq!(files.len(), 40);
    for (file, digest) in files {
        let image = open(&dir, file);
        let found = if digest.starts_with("nz4k:") { tools::nz4k(&image) } else { sha256(&image) };
        assert_eq!(found, digest, "{file}");
    }
}

/// The digest of the whole disk. On the way it is made sure that nothing is called zero that is not.
fn sha256(image: &VmdkImage) -> String {
    const MOST: u64 = 4096;
    let capacity = image.capacity_sectors();
    let mut digest = Sha256::new();
    let mut buf = vec![0xa5; index(MOST) * SECTOR];
    let mut start = 0;
    while start < capacity {
        let (status, count) = image.block_status(start, MOST).unwrap();
        let buf = &mut buf[..index(count) * SECTOR];
        image.read_sectors(start, buf).unwrap();
        assert!(status == BlockStatus::Data || is_zero(buf), "{status:?} is wrong in {count} sectors from {start}");
        digest.update(&*buf);
        start += count;
    }
    tools::hex(&digest.finalize())
}

#[test]
fn a_raw_copy_of_a_sample_has_the_same_content() {
    let Some((dir, rows)) = samples("a_raw_copy_of_a_sample_has_the_same_content") else { return };
    let out = tempfile::tempdir().unwrap();
    for (file, _) in readable(&rows) {
        let image = open(&dir, file);
        let path = out.path().join("raw");
        let raw = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let raw = FileStorage::new(raw).unwrap();
        image.copy_to_raw(&raw, RawTarget::Empty, 1, &mut |_| ControlFlow::Continue(())).unwrap();
        let raw = RawDevice::new(Arc::new(raw));
        assert_eq!(raw.capacity_sectors(), image.capacity_sectors(), "{file}");
        assert_eq!(tools::nz4k(&raw), tools::nz4k(&image), "{file}");
    }
}

/// The redundant tables may stand in for the primary ones, but nothing is wrong with those.
#[test]
fn no_table_of_a_sample_needs_another_to_stand_in_for_it() {
    let Some((dir, rows)) = samples("no_table_of_a_sample_needs_another_to_stand_in_for_it") else { return };
    for (file, _) in readable(&rows) {
        let image = OpenOptions::new().use_redundant_tables(true).open(dir.join(file)).unwrap();
        assert_eq!(tools::nz4k(&image), tools::nz4k(&open(&dir, file)), "{file}");
        assert_eq!(image.chain()[0].extents().iter().map(Extent::redundant_stand_ins).sum::<u64>(), 0, "{file}");
    }
}

#[test]
fn every_sample_that_reads_has_no_more_than_notes() {
    let Some((dir, rows)) = samples("every_sample_that_reads_has_no_more_than_notes") else { return };
    for (file, _) in readable(&rows) {
        let options = CheckOptions::new().threads(2);
        let report = OpenOptions::new().check(dir.join(file), &options, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(report.is_clean(), "{file}: {:#?}", report.findings);
    }
}

#[test]
fn every_small_sample_keeps_the_contract_of_a_block_device() {
    const SMALL: u64 = 8 << 11;
    let Some((dir, rows)) = samples("every_small_sample_keeps_the_contract_of_a_block_device") else { return };
    for (file, _) in readable(&rows) {
        let image = open(&dir, file);
        if image.capacity_sectors() <= SMALL {
            let mut content = vec![0; index(image.capacity_sectors()) * SECTOR];
            image.read_sectors(0, &mut content).unwrap();
            conformance::check(&image, &content);
        }
    }
}

#[test]
fn every_sample_of_another_kind_is_refused_by_the_name_of_its_kind() {
    let Some((dir, _)) = samples("every_sample_of_another_kind_is_refused_by_the_name_of_its_kind") else { return };
    for (file, expect) in TABLE {
        if let Unsupported(word) = expect {
            let error = error(&dir, file);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(without_file(&error).contains(word), "no {word:?} in: {error}");
        }
    }
}

#[test]
fn a_descriptor_without_its_extents_is_an_error_that_names_the_missing_file() {
    let test = "a_descriptor_without_its_extents_is_an_error_that_names_the_missing_file";
    let Some((dir, _)) = samples(test) else { return };
    for (file, expect) in TABLE {
        if let Missing(name) = expect {
            let error = error(&dir, file);
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert_eq!(error.file().and_then(Path::file_name), Some(name.as_ref()), "{error}");
        }
    }
}

#[test]
fn a_child_without_its_parent_is_an_error_that_names_the_parent() {
    let Some((dir, _)) = samples("a_child_without_its_parent_is_an_error_that_names_the_parent") else { return };
    for (file, expect) in TABLE {
        if let Orphan(parent, extent) = expect {
            let error = error(&dir, file);
            assert_eq!(error.kind(), ErrorKind::ParentMissing, "{error}");
            assert!(without_file(&error).contains(parent), "no {parent:?} in: {error}");
            let alone = OpenOptions::new().no_parent(true).open(dir.join(file)).unwrap_err();
            assert_eq!(alone.kind(), ErrorKind::NotFound, "{alone}");
            assert_eq!(alone.file().and_then(Path::file_name), Some(extent.as_ref()), "{alone}");
        }
    }
}

#[test]
fn a_name_that_leads_out_of_the_samples_is_refused() {
    let Some((dir, _)) = samples("a_name_that_leads_out_of_the_samples_is_refused") else { return };
    for (file, expect) in TABLE {
        if let Refused(name) = expect {
            let error = error(&dir, file);
            assert_eq!(error.kind(), ErrorKind::NameRefused, "{error}");
            assert!(without_file(&error).contains(name), "no {name:?} in: {error}");
        }
    }
}

#[test]
fn a_damaged_sample_is_an_error_that_names_the_field() {
    let Some((dir, _)) = samples("a_damaged_sample_is_an_error_that_names_the_field") else { return };
    for (file, expect) in TABLE {
        if let Corrupt(field) = expect {
            let error = error(&dir, file);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(without_file(&error).contains(field), "no {field:?} in: {error}");
        }
    }
}

#[test]
fn a_damaged_descriptor_without_anything_that_is_needed_is_a_warning() {
    let Some((dir, _)) = samples("a_damaged_descriptor_without_anything_that_is_needed_is_a_warning") else { return };
    for (file, expect) in TABLE {
        if let Odd(word) = expect {
            let image = open(&dir, file);
            let warnings = image.chain()[0].warnings();
            assert!(warnings.iter().any(|warning| warning.contains(word)), "{warnings:?}");
        }
    }
}

#[test]
fn raw_data_and_containers_are_no_vmdk() {
    let Some((dir, _)) = samples("raw_data_and_containers_are_no_vmdk") else { return };
    for (file, expect) in TABLE {
        if let NotVmdk = expect {
            assert_eq!(error(&dir, file).kind(), ErrorKind::NotVmdk, "{file}");
        }
    }
}

/// Also those of kinds that cannot be opened.
#[test]
fn every_text_descriptor_is_parsed_and_has_the_type_that_the_index_says() {
    let test = "every_text_descriptor_is_parsed_and_has_the_type_that_the_index_says";
    let Some((dir, rows)) = samples(test) else { return };
    let mut parsed = 0;
    for Row { file, create_type, .. } in rows {
        let bytes = std::fs::read(dir.join(&file)).unwrap();
        if !bytes.starts_with(b"# Disk Desc") {
            continue;
        }
        let descriptor = Descriptor::parse(&bytes).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(descriptor.create_type().map(CreateType::as_str), Some(create_type.as_str()), "{file}");
        assert_eq!(descriptor.warnings(), [""; 0], "{file}");
        assert!(!descriptor.extents().is_empty(), "{file}");
        assert_eq!(descriptor.as_bytes(), bytes.split(|&byte| byte == 0).next().unwrap(), "{file}");
        parsed += 1;
    }
    assert_eq!(parsed, 25);
}

/// What the accessors must say of a file.
struct Facts {
    file: &'static str,
    content_id: u32,
    long_content_id: Option<u128>,
    geometry: Option<(u32, u32, u32)>,
    adapter: AdapterType,
    hardware: Option<u32>,
    disk_id: Option<&'static str>,
    encoding: Option<&'static str>,
    /// Sectors of a grain; 1 where there are none.
    grain: u64,
    extents: usize,
}

/// Taken from the files by eye.
const FACTS: [Facts; 8] = [
    Facts {
        file: "CosmosOS__Cosmos/Filesystem.vmdk",
        content_id: 0x0fae_c72e,
        long_content_id: Some(0x5817_54a0_f462_b4b0_3f6c_9e45_0fae_c72e),
        geometry: Some((1040, 16, 63)),
        adapter: AdapterType::Ide,
        hardware: Some(21),
        disk_id: Some("6000c29c1e8d526583c7fc045d0619fc"),
        encoding: Some("windows-1252"),
        grain: 128,
        extents: 1,
    },
    Facts {
        file: "TalAloni__DiskAccessLibrary/MonolithicSparse.vmdk",
        content_id: 0xa77f_8ab1,
        long_content_id: Some(0xa84c_27bb_79b6_7523_158a_5a73_a77f_8ab1),
        geometry: Some((1305, 255, 63)),
        adapter: AdapterType::LsiLogic,
        hardware: Some(10),
        disk_id: Some("6000c29af26c48d6130cdca5d2bcd918"),
        encoding: Some("windows-1252"),
        grain: 128,
        extents: 1,
    },
    // Grains of 16 sectors, a directory before the redundant one, an extent without a name.
    Facts {
        file: "freebsd__freebsd-src/img-1x1-512-apm.vmdk",
        content_id: 0,
        long_content_id: None,
        geometry: Some((10240, 1, 1)),
        adapter: AdapterType::Ide,
        hardware: None,
        disk_id: None,
        encoding: None,
        grain: 16,
        extents: 1,
    },
    Facts {
        file: "jnode__jnode/history-e2eca3e3/JNode-1.vmdk",
        content_id: 0x0684_ee49,
        long_content_id: None,
        geometry: Some((16383, 16, 63)),
        adapter: AdapterType::Ide,
        hardware: Some(4),
        disk_id: None,
        encoding: None,
        grain: 128,
        extents: 5,
    },
    // A disk of 10 KiB has no whole cylinder.
    Facts {
        file: "kubevirt__containerized-data-importer/history-3857fd39/fake.ova.d/disk1.vmdk",
        content_id: 0x7779_8f93,
        long_content_id: None,
        geometry: Some((0, 16, 63)),
        adapter: AdapterType::Ide,
        hardware: Some(4),
        disk_id: None,
        encoding: None,
        grain: 128,
        extents: 1,
    },
    // A database without a geometry.
    Facts {
        file: "microsoft__RecursiveExtractor/Empty.vmdk",
        content_id: 0xa42d_f182,
        long_content_id: None,
        geometry: None,
        adapter: AdapterType::Ide,
        hardware: Some(4),
        disk_id: None,
        encoding: None,
        grain: 128,
        extents: 1,
    },
    // `ddb.encoding` instead of `encoding`, and a longContentID that does not end in the CID.
    Facts {
        file: "strozfriedberg__vmdk-rs/monolithicFlat.vmdk",
        content_id: 0,
        long_content_id: Some(0xc30e_9133_f6a8_e34d_f611_88c5_1010_a8cd),
        geometry: Some((301, 4, 17)),
        adapter: AdapterType::BusLogic,
        hardware: Some(7),
        disk_id: Some("6000c29a1d7b4944dc53e6d3e5897b0d"),
        encoding: Some("UTF-8"),
        grain: 1,
        extents: 1,
    },
    Facts {
        file: "strozfriedberg__vmdk-rs/twoGbMaxExtentSparse.vmdk",
        content_id: 0,
        long_content_id: Some(0xb93e_ae20_bf04_18af_3d64_28e7_9779_8347),
        geometry: Some((301, 4, 17)),
        adapter: AdapterType::BusLogic,
        hardware: Some(7),
        disk_id: Some("6000c29adc4a120f2acb5c027ecf6d0e"),
        encoding: Some("UTF-8"),
        grain: 128,
        extents: 1,
    },
];

#[test]
fn the_accessors_say_what_stands_in_the_files() {
    let Some((dir, _)) = samples("the_accessors_say_what_stands_in_the_files") else { return };
    for facts in FACTS {
        let (image, file) = (open(&dir, facts.file), facts.file);
        assert_eq!(image.content_id().map(vmdk::ContentId::value), Some(facts.content_id), "{file}");
        assert_eq!(image.parent_content_id(), None, "{file}");
        assert_eq!(image.descriptor().long_content_id(), facts.long_content_id, "{file}");
        let geometry = facts.geometry.map(|(cylinders, heads, sectors)| Geometry::new(cylinders, heads, sectors));
        assert_eq!(image.geometry(), geometry, "{file}");
        assert_eq!(image.adapter_type(), Some(facts.adapter), "{file}");
        assert_eq!(image.hardware_version(), facts.hardware, "{file}");
        assert_eq!(image.disk_id().map(|id| tools::hex(&id)).as_deref(), facts.disk_id, "{file}");
        assert_eq!(image.descriptor().encoding(), facts.encoding, "{file}");
        assert_eq!(image.limits().optimal_io_sectors, facts.grain, "{file}");
        assert_eq!((image.chain().len(), image.chain()[0].extents().len()), (1, facts.extents), "{file}");
        assert_eq!(image.chain()[0].warnings(), [""; 0], "{file}");
    }
}

/// The extents are files of 2047 MiB, but for the last one, in the order of the disk.
#[test]
fn the_extents_of_a_split_sample_lie_one_after_the_other() {
    let Some((dir, _)) = samples("the_extents_of_a_split_sample_lie_one_after_the_other") else { return };
    let image = open(&dir, "jnode__jnode/history-e2eca3e3/JNode-1.vmdk");
    let extents = image.chain()[0].extents().iter().map(|extent| {
        let name = extent.file().unwrap().path().file_name().unwrap().to_str().unwrap();
        (extent.start_sector(), extent.sectors(), name)
    });
    let expected = [
        (0, 4_192_256, "JNode-1-s001.vmdk"),
        (4_192_256, 4_192_256, "JNode-1-s002.vmdk"),
        (8_384_512, 4_192_256, "JNode-1-s003.vmdk"),
        (12_576_768, 4_192_256, "JNode-1-s004.vmdk"),
        (16_769_024, 8192, "JNode-1-s005.vmdk"),
    ];
    assert_eq!(extents.collect::<Vec<_>>(), expected);
    assert_eq!(image.host_files().len(), 6);
}
