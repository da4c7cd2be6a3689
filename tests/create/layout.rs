//! The files of new images against literals: the tables of VMware's technical note, worked out by hand, and its
//! products' spelling.

use std::path::Path;

use vmdk::{CreateOptions, CreateType, VmdkImage};

use super::support::{SECTOR, index};
use super::{SPLIT, TYPES, names_in, new_disk, start_of};

/// A disk, and what the header of its extent says.
struct Hosted {
    create_type: CreateType,
    capacity: u64,
    grain: u64,
    rgd: u64,
    gd: u64,
    overhead: u64,
}

const fn hosted(create_type: CreateType, capacity: u64, grain: u64, [rgd, gd, overhead]: [u64; 3]) -> Hosted {
    Hosted { create_type, capacity, grain, rgd, gd, overhead }
}

use CreateType::{MonolithicSparse as Mono, TwoGbMaxExtentSparse as Split};

const HOSTED: [Hosted; 19] = [
    // What qemu-img and VMware's own disks of these sizes have.
    hosted(Mono, 1, 128, [21, 26, 128]),
    hosted(Mono, 20_480, 128, [21, 26, 128]),
    hosted(Mono, 524_288, 128, [21, 54, 128]),
    hosted(Mono, 1_048_576, 128, [21, 86, 256]),
    hosted(Mono, 2_097_152, 128, [21, 150, 384]),
    hosted(Mono, 20_971_520, 128, [21, 1304, 2688]),
    hosted(Mono, 209_715_200, 128, [21, 12_846, 25_728]),
    hosted(Mono, 4_294_967_296, 128, [21, 262_677, 525_440]),
    hosted(Mono, 17_179_869_184, 128, [21, 1_050_645, 2_101_376]),
    // VMware's, without a descriptor.
    hosted(Split, 8192, 128, [1, 6, 128]),
    hosted(Split, 20_480, 128, [1, 6, 128]),
    hosted(Split, 4_192_256, 128, [1, 258, 640]),
    // By the formula: a table and two, and other grains.
    hosted(Mono, 65_536, 128, [21, 26, 128]),
    hosted(Mono, 65_537, 128, [21, 30, 128]),
    hosted(Mono, 1, 8, [21, 26, 32]),
    hosted(Mono, 20_480, 8, [21, 42, 64]),
    hosted(Mono, 20_480, 64, [21, 26, 64]),
    hosted(Split, 20_480, 32, [1, 10, 32]),
    hosted(Split, 4_192_256, 16, [1, 2053, 4112]),
];

/// The name of the file with the first extent.
fn extent_file(create_type: &CreateType) -> &'static str {
    match create_type {
        CreateType::TwoGbMaxExtentSparse => "disk-s001.vmdk",
        CreateType::TwoGbMaxExtentFlat => "disk-f001.vmdk",
        CreateType::MonolithicFlat | CreateType::Vmfs => "disk-flat.vmdk",
        CreateType::VmfsSparse => "disk-delta.vmdk",
        _ => "disk.vmdk",
    }
}

fn put(bytes: &mut [u8], offset: usize, field: &[u8]) {
    bytes[offset..offset + field.len()].copy_from_slice(field);
}

/// The header that a row asks for, with version and flags.
fn hosted_header(row: &Hosted, version: u32, flags: u32) -> Vec<u8> {
    let descriptor: [u64; 2] = if row.create_type == Mono { [1, 20] } else { [0, 0] };
    let mut header = vec![0; SECTOR];
    put(&mut header, 0, b"KDMV");
    put(&mut header, 4, &version.to_le_bytes());
    put(&mut header, 8, &flags.to_le_bytes());
    put(&mut header, 12, &row.capacity.to_le_bytes());
    put(&mut header, 20, &row.grain.to_le_bytes());
    put(&mut header, 28, &descriptor[0].to_le_bytes());
    put(&mut header, 36, &descriptor[1].to_le_bytes());
    put(&mut header, 44, &512_u32.to_le_bytes());
    put(&mut header, 48, &row.rgd.to_le_bytes());
    put(&mut header, 56, &row.gd.to_le_bytes());
    put(&mut header, 64, &row.overhead.to_le_bytes());
    // 72: no unclean shutdown; 77: no compression; 79: padding.
    put(&mut header, 73, b"\n \r\n");
    header
}

#[test]
fn the_header_of_a_hosted_extent_is_that_of_the_technical_note() {
    for row in HOSTED {
        let dir = tempfile::tempdir().unwrap();
        let options = new_disk(row.create_type.clone(), row.capacity).grain_sectors(row.grain);
        options.create(dir.path().join("disk.vmdk")).unwrap();
        let path = dir.path().join(extent_file(&row.create_type));
        assert_eq!(start_of(&path, SECTOR as u64), hosted_header(&row, 1, 3), "{} {}", row.create_type, row.capacity);
        assert_eq!(len_of(&path), row.overhead * SECTOR as u64, "{}", row.capacity);
    }
}

#[test]
fn zero_grains_make_the_header_version_2() {
    for row in [hosted(Mono, 20_480, 128, [21, 26, 128]), hosted(Split, 20_480, 128, [1, 6, 128])] {
        let dir = tempfile::tempdir().unwrap();
        let options = new_disk(row.create_type.clone(), row.capacity).zero_grains(true);
        options.create(dir.path().join("disk.vmdk")).unwrap();
        let path = dir.path().join(extent_file(&row.create_type));
        assert_eq!(start_of(&path, SECTOR as u64), hosted_header(&row, 2, 7), "{}", row.create_type);
    }
}

/// All of it but the descriptor: two directories of three tables, one behind the other, and tables of zeros.
#[test]
fn a_hosted_extent_has_all_its_tables_from_the_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let row = hosted(Mono, 3 * 65_536 - 100, 128, [21, 34, 128]);
    new_disk(Mono, row.capacity).create(dir.path().join("disk.vmdk")).unwrap();
    let mut expected = hosted_header(&row, 1, 3);
    expected.resize(128 * SECTOR, 0);
    for (directory, tables) in [(21, [22_u32, 26, 30]), (34, [35, 39, 43])] {
        for (number, table) in tables.into_iter().enumerate() {
            put(&mut expected, directory * SECTOR + 4 * number, &table.to_le_bytes());
        }
    }
    let mut found = std::fs::read(dir.path().join("disk.vmdk")).unwrap();
    let text = &mut found[SECTOR..21 * SECTOR];
    assert!(text.starts_with(b"# Disk DescriptorFile\n"));
    text.fill(0);
    assert!(found == expected);
}

/// Capacity, sectors of a grain, entries of the directory, and where the first table goes.
const COWD: [[u32; 4]; 8] = [
    // The technical note, by arithmetic.
    [1, 1, 1, 5],
    [20_480, 1, 5, 5],
    [2_097_152, 1, 512, 8],
    [209_715_200, 1, 51_200, 404],
    [4_294_967_295, 1, 1_048_576, 8196],
    [4_294_967_295, 2048, 512, 8],
    [4096, 1, 1, 5],
    [4097, 1, 2, 5],
];

#[test]
fn the_header_of_a_cowd_extent_is_that_of_the_technical_note() {
    for [capacity, grain, entries, free] in COWD {
        let dir = tempfile::tempdir().unwrap();
        let options = new_disk(CreateType::VmfsSparse, capacity.into()).grain_sectors(grain.into());
        let options = options.geometry(vmdk::Geometry::new(0x0101, 0x0202, 0x0303));
        options.create(dir.path().join("disk.vmdk")).unwrap();
        let path = dir.path().join("disk-delta.vmdk");
        let mut expected = vec![0; index(u64::from(free)) * SECTOR];
        put(&mut expected, 0, b"COWD");
        // Version 1, root and checked, and the geometry that a root has.
        let fields = [1, 3, capacity, grain, 4, entries, free, 0x0101, 0x0202, 0x0303];
        for (number, field) in fields.into_iter().enumerate() {
            put(&mut expected, 4 + 4 * number, &field.to_le_bytes());
        }
        assert!(std::fs::read(&path).unwrap() == expected, "{capacity} {grain}");
    }
}

/// The place of the geometry is that of the name of the parent, which ESX leaves empty.
#[test]
fn the_header_of_a_delta_has_no_geometry() {
    let dir = tempfile::tempdir().unwrap();
    new_disk(CreateType::Vmfs, 4096).create(dir.path().join("base.vmdk")).unwrap();
    let base = VmdkImage::open(dir.path().join("base.vmdk")).unwrap();
    let options = CreateOptions::new().geometry(vmdk::Geometry::new(1, 2, 3));
    base.create_child(dir.path().join("disk.vmdk"), &options).unwrap();
    let mut expected = vec![0; 5 * SECTOR];
    put(&mut expected, 0, b"COWD");
    for (number, field) in [1_u32, 3, 4096, 1, 4, 1, 5].into_iter().enumerate() {
        put(&mut expected, 4 + 4 * number, &field.to_le_bytes());
    }
    assert!(std::fs::read(dir.path().join("disk-delta.vmdk")).unwrap() == expected);
}

fn len_of(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn the_files_of_an_image_have_the_names_and_lengths_of_vmwares() {
    let (last, sectors) = (4096, 2 * SPLIT + 4096);
    let text = None;
    let expected: [&[(&str, Option<u64>)]; 6] = [
        // 128 tables twice.
        &[("disk.vmdk", Some(1152))],
        &[("disk-flat.vmdk", Some(sectors)), ("disk.vmdk", text)],
        &[
            ("disk-s001.vmdk", Some(640)),
            ("disk-s002.vmdk", Some(640)),
            ("disk-s003.vmdk", Some(128)),
            ("disk.vmdk", text),
        ],
        &[
            ("disk-f001.vmdk", Some(SPLIT)),
            ("disk-f002.vmdk", Some(SPLIT)),
            ("disk-f003.vmdk", Some(last)),
            ("disk.vmdk", text),
        ],
        &[("disk-flat.vmdk", Some(sectors)), ("disk.vmdk", text)],
        // A directory of 2048 entries has 16 sectors.
        &[("disk-delta.vmdk", Some(4 + 16)), ("disk.vmdk", text)],
    ];
    for (create_type, expected) in TYPES.into_iter().zip(expected) {
        let dir = tempfile::tempdir().unwrap();
        new_disk(create_type.clone(), sectors).create(dir.path().join("disk.vmdk")).unwrap();
        assert_eq!(names_in(dir.path()), expected.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "{create_type}");
        for (name, sectors) in expected {
            if let Some(sectors) = sectors {
                assert_eq!(len_of(&dir.path().join(name)), sectors * SECTOR as u64, "{create_type}: {name}");
            }
        }
    }
}

#[test]
fn the_number_of_an_extent_grows_past_three_digits() {
    let dir = tempfile::tempdir().unwrap();
    new_disk(Split, 1000 * SPLIT).grain_sectors(128).create(dir.path().join("disk.vmdk")).unwrap();
    let names = names_in(dir.path());
    assert_eq!(names.len(), 1001);
    assert!(["disk-s001.vmdk", "disk-s999.vmdk", "disk-s1000.vmdk"].iter().all(|name| names.iter().any(|n| n == name)));
}

/// The descriptor of an image.
fn text_of(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    let bytes = if bytes.starts_with(b"KDMV") { &bytes[SECTOR..21 * SECTOR] } else { &bytes };
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    assert!(bytes[end..].iter().all(|&byte| byte == 0), "something behind the text");
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

/// The value that stands between two texts.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(text.split_once(before)?.1.split_once(after)?.0)
}

/// A descriptor with names in the place of what is random, which has the form that it must have.
fn without_random(text: &str) -> String {
    let is_hex = |digits: &str, count: usize| {
        digits.len() == count && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    let cid = between(text, "\nCID=", "\n").unwrap();
    assert!(is_hex(cid, 8), "{text}");
    let long = between(text, "ddb.longContentID = \"", "\"\n").unwrap();
    assert!(is_hex(long, 32) && long.ends_with(cid), "{text}");
    let mut cut = text.replace(long, "<long>").replace(&format!("\nCID={cid}\n"), "\nCID=<cid>\n");
    if let Some(id) = between(text, "ddb.uuid = \"", "\"\n") {
        let (left, right) = id.split_once('-').unwrap();
        let bytes: Vec<_> = left.split(' ').chain(right.split(' ')).collect();
        assert!(id.starts_with("60 00 C2 9") && id.len() == 47 && bytes.len() == 16 && left.len() == 23, "{id}");
        assert!(bytes[3..].iter().all(|byte| is_hex(byte, 2)), "{id}");
        cut = cut.replace(id, "<uuid>");
    }
    cut
}

fn expected_text(create_type: &str, extents: &str, geometry: [u32; 3], adapter: &str, thin: &str) -> String {
    let [cylinders, heads, sectors] = geometry;
    format!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=<cid>\nparentCID=ffffffff\nisNativeSnapshot=\"no\"\n\
         createType=\"{create_type}\"\n\n# Extent description\n{extents}\n# The Disk Data Base \n#DDB\n\n\
         ddb.adapterType = \"{adapter}\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{sectors}\"\nddb.longContentID = \"<long>\"\n{thin}ddb.toolsVersion = \"2147483647\"\n\
         ddb.uuid = \"<uuid>\"\nddb.virtualHWVersion = \"4\"\n"
    )
}

#[test]
fn the_descriptor_is_in_vmwares_words() {
    let ide = [4159, 16, 63];
    let thin = "ddb.thinProvisioned = \"1\"\n";
    let expected = [
        expected_text("monolithicSparse", "RW 4192300 SPARSE \"disk.vmdk\"\n", ide, "ide", ""),
        expected_text("monolithicFlat", "RW 4192300 FLAT \"disk-flat.vmdk\" 0\n", ide, "ide", ""),
        expected_text(
            "twoGbMaxExtentSparse",
            "RW 4192256 SPARSE \"disk-s001.vmdk\"\nRW 44 SPARSE \"disk-s002.vmdk\"\n",
            ide,
            "ide",
            "",
        ),
        expected_text(
            "twoGbMaxExtentFlat",
            "RW 4192256 FLAT \"disk-f001.vmdk\" 0\nRW 44 FLAT \"disk-f002.vmdk\" 0\n",
            ide,
            "ide",
            "",
        ),
        // 2 GiB and less have 128 heads.
        expected_text("vmfs", "RW 4192300 VMFS \"disk-flat.vmdk\"\n", [1023, 128, 32], "lsilogic", thin),
        expected_text("vmfsSparse", "RW 4192300 VMFSSPARSE \"disk-delta.vmdk\"\n", [1023, 128, 32], "lsilogic", ""),
    ];
    for (create_type, expected) in TYPES.into_iter().zip(&expected) {
        let dir = tempfile::tempdir().unwrap();
        new_disk(create_type, 4_192_300).create(dir.path().join("disk.vmdk")).unwrap();
        assert_eq!(without_random(&text_of(&dir.path().join("disk.vmdk"))), *expected);
    }
    let dir = tempfile::tempdir().unwrap();
    new_disk(CreateType::Vmfs, 4_194_305).create(dir.path().join("disk.vmdk")).unwrap();
    let expected = expected_text("vmfs", "RW 4194305 VMFS \"disk-flat.vmdk\"\n", [261, 255, 63], "lsilogic", thin);
    assert_eq!(without_random(&text_of(&dir.path().join("disk.vmdk"))), expected);
}

#[test]
fn the_descriptor_of_a_child_names_its_parent_and_says_no_more_than_it_must() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let cases = [
        (CreateType::MonolithicFlat, "child.vmdk", "base.vmdk", "monolithicSparse", "RW 77 SPARSE \"child.vmdk\"\n"),
        (CreateType::MonolithicSparse, "sub/c", "../base.vmdk", "monolithicSparse", "RW 77 SPARSE \"c\"\n"),
        (
            CreateType::TwoGbMaxExtentFlat,
            "child.vmdk",
            "base.vmdk",
            "twoGbMaxExtentSparse",
            "RW 77 SPARSE \"child-s001.vmdk\"\n",
        ),
        (CreateType::Vmfs, "child.vmdk", "base.vmdk", "vmfsSparse", "RW 77 VMFSSPARSE \"child-delta.vmdk\"\n"),
        (CreateType::VmfsSparse, "child.vmdk", "base.vmdk", "vmfsSparse", "RW 77 VMFSSPARSE \"child-delta.vmdk\"\n"),
    ];
    for (base_type, child, hint, create_type, extents) in cases {
        new_disk(base_type, 77).replace(true).create(dir.path().join("base.vmdk")).unwrap();
        let base = VmdkImage::open(dir.path().join("base.vmdk")).unwrap();
        base.create_child(dir.path().join(child), &CreateOptions::new().replace(true)).unwrap();
        let text = text_of(&dir.path().join(child));
        let parent = base.content_id().unwrap();
        let expected = format!(
            "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=<cid>\nparentCID={parent}\n\
             isNativeSnapshot=\"no\"\ncreateType=\"{create_type}\"\nparentFileNameHint=\"{hint}\"\n\
             # Extent description\n{extents}\n# The Disk Data Base \n#DDB\n\nddb.longContentID = \"<long>\"\n"
        );
        assert_eq!(without_random(&text), expected);
    }
}
