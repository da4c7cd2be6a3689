//! New images beside those of VMware's products (`VMDK_SAMPLES`): made of the same type, size, adapter, hardware and
//! identity, they have the same headers and directories, and say the same but for what the table lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use vmdk::{CreateOptions, Descriptor, VmdkImage};

use super::support::{SECTOR, index, tools};

/// How the lines of a new descriptor may differ from those of a sample.
struct Sample {
    file: &'static str,
    /// What the new disk is called, so that its extents have the names of the sample's.
    name: &'static str,
    made_by: Product,
    only_ours: &'static [&'static str],
    only_theirs: &'static [&'static str],
    other: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Product {
    /// Workstation or Player since about 2010: its geometry and the order of its keys are ours.
    Hosted,
    /// Their predecessors: the same geometry, in another order.
    Old,
    /// VDDK takes the geometry from elsewhere, and has an order of its own.
    Vddk,
}

/// What Workstation does not write: where the data lies (`isNativeSnapshot`, VDDK and ESX do), and tools that were
/// never installed. The content IDs are random, and the encoding is that of its host.
const HOSTED_ONLY_OURS: &[&str] = &["ddb.toolsVersion", "isNativeSnapshot"];
const HOSTED_OTHER: &[&str] = &["CID", "ddb.longContentID", "encoding"];

/// Older products had no encoding, no identity and no long content ID.
const OLD_ONLY_OURS: &[&str] = &["ddb.longContentID", "ddb.uuid", "encoding", "isNativeSnapshot"];
const OLD_UNTOOLED_ONLY_OURS: &[&str] =
    &["ddb.longContentID", "ddb.toolsVersion", "ddb.uuid", "encoding", "isNativeSnapshot"];

/// VDDK has its own place for the encoding, marks disks as deletable, and says 1 for tools.
const VDDK_ONLY_THEIRS: &[&str] = &["ddb.deletable", "ddb.encoding"];
const VDDK_OTHER: &[&str] = &["CID", "ddb.longContentID", "ddb.toolsVersion"];

const fn hosted(file: &'static str, name: &'static str) -> Sample {
    Sample { file, name, made_by: Product::Hosted, only_ours: HOSTED_ONLY_OURS, only_theirs: &[], other: HOSTED_OTHER }
}

const fn old(file: &'static str, name: &'static str) -> Sample {
    let other = &["CID", "ddb.toolsVersion"];
    Sample { file, name, made_by: Product::Old, only_ours: OLD_ONLY_OURS, only_theirs: &[], other }
}

const fn old_untooled(file: &'static str, name: &'static str) -> Sample {
    Sample { only_ours: OLD_UNTOOLED_ONLY_OURS, other: &["CID"], ..old(file, name) }
}

const fn vddk(file: &'static str, name: &'static str) -> Sample {
    let only_ours = &["encoding"];
    Sample { file, name, made_by: Product::Vddk, only_ours, only_theirs: VDDK_ONLY_THEIRS, other: VDDK_OTHER }
}

const SAMPLES: [Sample; 16] = [
    hosted("CosmosOS__Cosmos/Filesystem.vmdk", "Filesystem.vmdk"),
    hosted("TalAloni__DiskAccessLibrary/MonolithicSparse.vmdk", "Test.vmdk"),
    old_untooled("CosmosOS__Cosmos/history-2a48b92e/hda.vmdk", "hda.vmdk"),
    old("jnode__jnode/history-e2eca3e3/JNode-0.vmdk", "JNode-0.vmdk"),
    old("jnode__jnode/history-e2eca3e3/JNode.vmdk", "JNode.vmdk"),
    old_untooled("jnode__jnode/history-e2eca3e3/JNode-1.vmdk", "JNode-1.vmdk"),
    // Its extents are of 8323072 sectors, which older products do not read.
    Sample {
        file: "SecurityRonin__vmdk-forensic/ms3-win.vmdk",
        name: "disk.vmdk",
        made_by: Product::Hosted,
        only_ours: &["extents", "isNativeSnapshot"],
        only_theirs: &["ddb.toolsInstallType"],
        other: &["CID", "ddb.longContentID", "ddb.toolsVersion"],
    },
    vddk("strozfriedberg__vmdk-rs/history-633336bc/0.vmdk", "0.vmdk"),
    vddk("strozfriedberg__vmdk-rs/history-633336bc/1.vmdk", "1.vmdk"),
    vddk("strozfriedberg__vmdk-rs/history-633336bc/2.vmdk", "2.vmdk"),
    vddk("strozfriedberg__vmdk-rs/history-633336bc/3.vmdk", "3.vmdk"),
    // An offset behind VMFS, as ESX does not write it and QEMU does not read it.
    Sample {
        other: &["CID", "ddb.longContentID", "ddb.toolsVersion", "extents"],
        ..vddk("strozfriedberg__vmdk-rs/history-633336bc/4.vmdk", "4.vmdk")
    },
    Sample {
        other: &["CID", "ddb.longContentID", "ddb.toolsVersion", "extents"],
        ..vddk("strozfriedberg__vmdk-rs/history-32ad4e89/vmfs_thick.vmdk", "vmfs_thick.vmdk")
    },
    vddk("strozfriedberg__vmdk-rs/monolithicFlat.vmdk", "monolithicFlat.vmdk"),
    vddk("strozfriedberg__vmdk-rs/monolithicSparse.vmdk", "monolithicSparse.vmdk"),
    vddk("strozfriedberg__vmdk-rs/twoGbMaxExtentSparse.vmdk", "twoGbMaxExtentSparse.vmdk"),
];

/// The text of a descriptor, wherever it is.
fn text_of(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let bytes = if bytes.starts_with(b"KDMV") { &bytes[SECTOR..21 * SECTOR] } else { &bytes };
    String::from_utf8(bytes.split(|&byte| byte == 0).next().unwrap().to_vec()).unwrap()
}

/// The lines of a descriptor with their keys; the extents are one. Comments and empty lines are left out.
fn lines(text: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with("RW ") {
            let extents = found.entry("extents".to_owned()).or_default();
            extents.push_str(line);
            extents.push('\n');
        } else {
            let (key, value) = line.split_once('=').unwrap();
            found.insert(key.trim().to_owned(), value.to_owned());
        }
    }
    found
}

/// What a sample says of itself, for a new disk.
fn like(descriptor: &Descriptor, made_by: Product) -> CreateOptions {
    let capacity = descriptor.extents().iter().map(vmdk::ExtentLine::sectors).sum();
    let create_type = descriptor.create_type().unwrap().clone();
    let is_vmfs = create_type == vmdk::CreateType::Vmfs;
    let mut options = CreateOptions::new()
        .create_type(create_type)
        .capacity_sectors(capacity)
        .adapter_type(descriptor.adapter_type().unwrap())
        .hardware_version(descriptor.hardware_version().unwrap())
        .preallocate(is_vmfs)
        .sync(false);
    if let Some(id) = descriptor.disk_id() {
        options = options.disk_id(id);
    }
    if made_by == Product::Vddk { options.geometry(descriptor.geometry().unwrap()) } else { options }
}

/// The keys of the first that are not in the second.
fn missing<'a>(in_these: &'a BTreeMap<String, String>, not_in: &BTreeMap<String, String>) -> BTreeSet<&'a str> {
    in_these.keys().filter(|key| !not_in.contains_key(*key)).map(String::as_str).collect()
}

fn set(keys: &[&'static str]) -> BTreeSet<&'static str> {
    keys.iter().copied().collect()
}

#[test]
fn a_descriptor_says_what_vmwares_says_but_for_what_is_listed() {
    let test = "a_descriptor_says_what_vmwares_says_but_for_what_is_listed";
    let Some(samples) = tools::sample_dir(test) else { return };
    for sample in SAMPLES {
        let dir = tempfile::tempdir().unwrap();
        let theirs = text_of(&samples.join(sample.file));
        let path = dir.path().join(sample.name);
        like(&Descriptor::parse(theirs.as_bytes()).unwrap(), sample.made_by).create(&path).unwrap();
        let ours = text_of(&path);

        let [mut our_lines, their_lines] = [&ours, &theirs].map(|text| lines(text));
        let mut only_ours = set(sample.only_ours);
        let mut other = set(sample.other);
        // An extent of another size makes them all different.
        if only_ours.remove("extents") {
            other.insert("extents");
        }
        assert_eq!(missing(&our_lines, &their_lines), only_ours, "{}", sample.file);
        assert_eq!(missing(&their_lines, &our_lines), set(sample.only_theirs), "{}", sample.file);
        our_lines.retain(|key, value| their_lines.get(key).is_some_and(|theirs| theirs != value));
        assert_eq!(our_lines.keys().map(String::as_str).collect::<BTreeSet<_>>(), other, "{}", sample.file);

        if sample.made_by == Product::Hosted {
            let order = |text: &str| -> Vec<String> {
                let is_common = |line: &&str| {
                    let key = line.split('=').next().unwrap().trim();
                    !sample.only_ours.contains(&key) && !sample.only_theirs.contains(&key) && !line.starts_with("RW ")
                };
                let spelled = |line: &str| match line.split_once('=') {
                    Some((key, _)) if other.contains(key.trim()) => key.to_owned(),
                    _ => line.to_owned(),
                };
                text.lines().filter(is_common).map(spelled).collect()
            };
            assert_eq!(order(&ours), order(&theirs), "{}", sample.file);
        }
    }
}

/// All four lines of ESX's deltas in their order, with the parent's content ID.
#[test]
fn the_descriptor_of_a_delta_is_that_of_esx() {
    let Some(samples) = tools::sample_dir("the_descriptor_of_a_delta_is_that_of_esx") else { return };
    for (file, base_name, id, sectors, name) in [
        ("strozfriedberg__vmdk-rs/vmfs_thick-000001.vmdk", "vmfs_thick", "0172e8a4", 4096, "vmfs_thick-000001.vmdk"),
        ("_text-descriptors/vmfsSparse-redo.vmdk", "android", "c3d4fd75", 41_943_040, "android-000001.vmdk"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID={id}\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\n\
             RW {sectors} VMFS \"{base_name}-flat.vmdk\"\n"
        );
        let base = dir.path().join(format!("{base_name}.vmdk"));
        fs::write(&base, text).unwrap();
        let flat = fs::File::create(dir.path().join(format!("{base_name}-flat.vmdk"))).unwrap();
        flat.set_len(sectors * SECTOR as u64).unwrap();
        let base = VmdkImage::open(base).unwrap();
        drop(base.create_child(dir.path().join(name), &CreateOptions::new().sync(false)).unwrap());

        let spelled = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.starts_with("isNativeSnapshot"));
            let spelled = lines.map(|line| match line.split_once('=') {
                Some((key @ ("CID" | "ddb.longContentID "), _)) => key.to_owned(),
                // The redo log of an old ESX has another name, and the transcript a blank too many.
                _ => line.replace("android.vmdk-delta.REDO_TkLU1V", "android-000001-delta.vmdk").trim_end().to_owned(),
            });
            spelled.collect()
        };
        let theirs = fs::read_to_string(samples.join(file)).unwrap();
        assert_eq!(spelled(&text_of(&dir.path().join(name))), spelled(&theirs), "{file}");
    }
}

/// Files with sparse extents, their sizes in sectors, and whether they have a descriptor.
const EXTENTS: [(&str, u64, bool); 13] = [
    ("CosmosOS__Cosmos/Filesystem.vmdk", 1_048_576, true),
    ("CosmosOS__Cosmos/history-2a48b92e/hda.vmdk", 524_288, true),
    ("TalAloni__DiskAccessLibrary/MonolithicSparse.vmdk", 20_971_520, true),
    ("jnode__jnode/history-e2eca3e3/JNode-0.vmdk", 2_097_152, true),
    ("jnode__jnode/history-e2eca3e3/JNode.vmdk", 2_097_152, true),
    ("strozfriedberg__vmdk-rs/monolithicSparse.vmdk", 20_480, true),
    ("strozfriedberg__vmdk-rs/history-633336bc/0.vmdk", 20_480, true),
    ("jnode__jnode/history-e2eca3e3/JNode-1-s001.vmdk", 4_192_256, false),
    ("jnode__jnode/history-e2eca3e3/JNode-1-s002.vmdk", 4_192_256, false),
    ("jnode__jnode/history-e2eca3e3/JNode-1-s003.vmdk", 4_192_256, false),
    ("jnode__jnode/history-e2eca3e3/JNode-1-s004.vmdk", 4_192_256, false),
    ("jnode__jnode/history-e2eca3e3/JNode-1-s005.vmdk", 8192, false),
    ("strozfriedberg__vmdk-rs/twoGbMaxExtentSparse-s001.vmdk", 20_480, false),
];

#[test]
fn headers_and_directories_are_those_of_vmwares_disks() {
    let Some(samples) = tools::sample_dir("headers_and_directories_are_those_of_vmwares_disks") else { return };
    for (file, sectors, has_descriptor) in EXTENTS {
        let theirs = fs::read(samples.join(file)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (create_type, name) = if has_descriptor {
            (vmdk::CreateType::MonolithicSparse, "disk.vmdk")
        } else {
            (vmdk::CreateType::TwoGbMaxExtentSparse, "disk-s001.vmdk")
        };
        super::new_disk(create_type, sectors).create(dir.path().join("disk.vmdk")).unwrap();
        let ours = fs::read(dir.path().join(name)).unwrap();
        assert_eq!(tools::hex(&ours[..SECTOR]), tools::hex(&theirs[..SECTOR]), "{file}");

        let at = |offset: usize| index(u64::from_le_bytes(ours[offset..offset + 8].try_into().unwrap())) * SECTOR;
        let entries = index(sectors.div_ceil(65_536)) * 4;
        for directory in [at(48), at(56)] {
            let range = directory..directory + entries;
            assert_eq!(tools::hex(&ours[range.clone()]), tools::hex(&theirs[range]), "{file}");
        }
        // What is not yet written lies behind all that.
        assert!(ours.len() == at(64) && ours.len() <= theirs.len(), "{file}");
    }
}
