//! COWD in its three dialects: deltas of ESX, disks of VMware 2, disks of VMware 3 in one file and in several.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use vmdk::{BlockDevice, BlockStatus, Error, ErrorKind, MemoryStorage, OpenOptions, SparseHeader, Storage, VmdkImage};

use support::cowd::{CowdImage, field};
use support::disk::{Disk, Image, Kind};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, conformance, index, tools};

/// Opens the last of some images in memory.
fn open_with(options: &OpenOptions, images: &[&Image]) -> vmdk::Result<VmdkImage> {
    let storage = |bytes: &Vec<u8>| Arc::new(MemoryStorage::new(bytes.clone())) as Arc<dyn Storage>;
    let files = images.iter().flat_map(|image| &image.files);
    let files: HashMap<String, _> = files.map(|(name, bytes)| (name.clone(), storage(bytes))).collect();
    options.open_with(&images[images.len() - 1].name, &files)
}

fn open(images: &[&Image]) -> vmdk::Result<VmdkImage> {
    open_with(&OpenOptions::new(), images)
}

/// A disk in one file without a descriptor.
fn bare(extent: &CowdImage) -> Image {
    Image::hosted_cowd("disk.vmdk", std::slice::from_ref(extent), None)
}

fn refused(images: &[&Image]) -> Error {
    open(images).expect_err("it must not open")
}

fn content(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    content
}

/// A sector full of one byte.
fn sector(byte: u8) -> Vec<u8> {
    vec![byte; SECTOR]
}

/// Two grains of one sector in the first of three tables, in the wrong order; the last table is not there.
fn esx() -> CowdImage {
    CowdImage::esx(4096 * 2 + 5).data(7, sector(7)).data(2, sector(2)).data(4096, sector(1)).data(4095, sector(9))
}

fn header_of(image: &VmdkImage) -> vmdk::CowdHeader {
    image.chain()[0].extents()[0].header().and_then(SparseHeader::as_cowd).unwrap().clone()
}

// ---- Dialects -------------------------------------------------------------------------------------------------------

#[test]
fn a_header_is_where_the_format_has_it() {
    let file = esx().build();
    let numbers: Vec<u32> =
        file[4..32].chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
    // Two tables of 32 sectors and four grains behind the header and the directory.
    assert_eq!((&file[..4], numbers), (&b"COWD"[..], vec![1, 3, 8197, 1, 4, 3, 5 + 64 + 4]));
    assert_eq!(file[2048..2060], [5, 0, 0, 0, 39, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(file[5 * SECTOR + 28..][..4], [37, 0, 0, 0]);
    assert_eq!(file[37 * SECTOR..][..SECTOR], sector(7));
}

#[test]
fn every_dialect_has_its_content_in_its_place() {
    let rng = &mut Rng::new(5);
    let rows = [
        ("ESX", CowdImage::esx(4096 * 3 + 1), 4096),
        ("ESX, one table", CowdImage::esx(100), 4096),
        ("ESX, grains of 8 sectors", CowdImage::esx(8 * 4096 + 9).grain_sectors(8), 4096),
        ("VMware 2", CowdImage::vmware2(32 * 512 + 7), 512),
        ("VMware 3", CowdImage::vmware3(128 * 512 + 128 + 3), 512),
        ("VMware 3, one table", CowdImage::vmware3(128 * 20), 512),
        ("VMware 3, grains of 1 sector", CowdImage::vmware3(1025).grain_sectors(1), 512),
        ("Bochs", CowdImage::vmware3(16 * 4096 * 2 + 5).grain_sectors(16).entries_per_table(4096), 4096),
    ];
    for (what, extent, entries) in rows {
        let sectors = extent.grain_bytes() as u64 / 512;
        let extent = (0..extent.grain_count()).step_by(97).fold(extent, |extent, grain| {
            let inside = (extent.capacity() - grain * sectors).min(sectors).min(8);
            extent.data(grain, rng.bytes(index(inside) * SECTOR))
        });
        let disk = bare(&extent);
        let image = open(&[&disk]).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(header_of(&image).entries_per_table(), Some(entries), "{what}");
        assert_eq!(image.limits().optimal_io_sectors, sectors, "{what}");
        assert!(content(&image) == disk.content, "{what}");
    }
}

/// With so few grains one table is enough, whatever its size: 4096 entries are assumed, and the first 100 count. A
/// table of 512 may end where the file does.
#[test]
fn a_small_disk_of_vmware_2_is_read_although_nothing_tells_the_size_of_its_table() {
    let rows = [
        CowdImage::vmware2(32 * 100).data(99, sector(9)).data(5, sector(5)),
        CowdImage::vmware2(32 * 100).grain_sectors(1).data(99, sector(9)),
        CowdImage::vmware2(32 * 100).absent(0),
    ];
    for extent in rows {
        let disk = bare(&extent);
        let image = open(&[&disk]).unwrap();
        let mut found = vec![0xee; disk.content.len()];
        image.read_sectors(0, &mut found).unwrap_or_else(|error| panic!("{error}"));
        assert!(found == disk.content);
    }
}

#[test]
fn the_kinds_of_cowd_keep_the_contract_of_a_block_device() {
    for kind in [Kind::EsxDelta, Kind::Vmware3] {
        let disk = kind.disk(3);
        let image = VmdkImage::open(&disk.path).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        let ends = image.chain()[0].extents().iter().map(|extent| extent.start_sector() + extent.sectors());
        let boundaries: Vec<u64> = ends.chain([4096]).filter(|&at| at <= image.capacity_sectors()).collect();
        conformance::check_at(&image, &disk.content, &boundaries);
    }
}

#[test]
fn an_entry_of_1_reads_as_zeros_and_one_of_0_asks_the_parent() {
    let base = Image::vmfs("base.vmdk", vec![0xaa; 10 * SECTOR]);
    let delta = Image::esx_delta(&base, "base-000001.vmdk", &CowdImage::esx(10).data(2, sector(2)).one(3).absent(4));
    let image = open(&[&base, &delta]).unwrap();
    assert!(content(&image) == delta.content);
    let mut sectors = [0xee; 3 * SECTOR];
    image.read_sectors(2, &mut sectors).unwrap();
    assert_eq!((sectors[0], sectors[SECTOR], sectors[2 * SECTOR]), (2, 0, 0xaa));
    assert_eq!(image.block_status(3, 1).unwrap(), (BlockStatus::Zero, 1));
}

#[test]
fn an_absent_table_is_the_parent_and_without_one_zeros() {
    let base = Image::vmfs("base.vmdk", Rng::new(1).bytes(8197 * SECTOR));
    for extent in [CowdImage::esx(8197), esx(), CowdImage::esx(8197).data(5000, sector(5))] {
        let delta = Image::esx_delta(&base, "base-000001.vmdk", &extent);
        assert!(content(&open(&[&base, &delta]).unwrap()) == delta.content);
        assert!(content(&open(&[&bare(&extent)]).unwrap()) == extent.layer().content());
    }
}

/// ESX extends its deltas in large steps.
#[test]
fn a_file_that_is_longer_than_what_is_allocated_is_read() {
    let mut disk = bare(&esx());
    disk.files[0].1.resize(1 << 20, 0xdd);
    assert!(content(&open(&[&disk]).unwrap()) == disk.content);
}

// ---- ESX ------------------------------------------------------------------------------------------------------------

#[test]
fn a_delta_of_esx_is_read_through_its_descriptor_over_its_parent() {
    let base = Image::vmfs("base.vmdk", Rng::new(2).bytes(8197 * SECTOR));
    let first = Image::esx_delta(&base, "base-000001.vmdk", &esx());
    let second = Image::esx_delta(&first, "base-000002.vmdk", &CowdImage::esx(8197).data(7, sector(70)).one(2));
    let disk = Disk::new(vec![base, first, second]);
    let image = VmdkImage::open(&disk.path).unwrap();
    assert!(content(&image) == disk.content);
    let files: Vec<_> =
        image.host_files().iter().map(|file| file.path().file_name().unwrap().to_str().unwrap().to_owned()).collect();
    let expected = [
        "base-000002.vmdk",
        "base-000002-delta.vmdk",
        "base-000001.vmdk",
        "base-000001-delta.vmdk",
        "base.vmdk",
        "base-flat.vmdk",
    ];
    assert_eq!(files, expected);
    assert_eq!(image.chain()[0].warnings(), [""; 0]);
}

#[test]
fn a_delta_of_esx_over_a_changed_parent_is_refused() {
    let base = Image::vmfs("base.vmdk", vec![1; 10 * SECTOR]);
    let delta = Image::esx_delta(&base, "base-000001.vmdk", &CowdImage::esx(10).data(1, sector(9)));
    let mut changed = base.clone();
    let text = String::from_utf8(changed.files[0].1.clone()).unwrap();
    changed.files[0].1 = text.replace(&format!("CID={:08x}", base.cid), "CID=12345678").into_bytes();
    let error = refused(&[&changed, &delta]);
    assert_eq!(error.kind(), ErrorKind::ContentIdMismatch);
    assert!(error.to_string().contains("12345678"), "{error}");
    assert!(error.to_string().contains(&format!("{:08x}", base.cid)), "{error}");
    let image = open_with(&OpenOptions::new().ignore_cid_mismatch(true), &[&changed, &delta]).unwrap();
    assert!(content(&image) == delta.content);
}

#[test]
fn qemu_opens_no_cowd_extent_without_its_descriptor_and_here_it_opens_with_a_warning() {
    let image = open(&[&bare(&esx())]).unwrap();
    assert!(content(&image) == esx().layer().content());
    let warnings = image.chain()[0].warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("without its descriptor"), "{warnings:?}");
    assert_eq!((image.create_type(), image.content_id()), (None, None));
}

/// QEMU and dissect look only at the magic of the file.
#[test]
fn the_word_in_the_line_does_not_matter_but_the_magic_does() {
    let base = Image::vmfs("base.vmdk", vec![1; 10 * SECTOR]);
    let cowd = Image::esx_delta(&base, "base-000001.vmdk", &CowdImage::esx(10).data(1, sector(9)));
    let mut called_sparse = cowd.clone();
    let text = String::from_utf8(called_sparse.files[0].1.clone()).unwrap();
    called_sparse.files[0].1 = text.replace("VMFSSPARSE", "SPARSE").into_bytes();
    let mut kdmv = cowd.clone();
    kdmv.files[1].1 = SparseImage::new(10).grain_sectors(1).data(1, sector(9)).build();
    for image in [called_sparse, kdmv] {
        assert!(content(&open(&[&base, &image]).unwrap()) == cowd.content);
    }
}

#[test]
fn qemu_ignores_the_size_in_the_line_of_a_cowd_extent_and_here_it_may_be_smaller_and_not_larger() {
    let base = Image::vmfs("base.vmdk", vec![1; 10 * SECTOR]);
    let delta = Image::esx_delta(&base, "base-000001.vmdk", &CowdImage::esx(10).data(1, sector(9)));
    let with = |sectors: u32| {
        let mut image = delta.clone();
        let text = String::from_utf8(image.files[0].1.clone()).unwrap();
        image.files[0].1 = text.replace("RW 10 ", &format!("RW {sectors} ")).into_bytes();
        image
    };
    assert!(content(&open(&[&base, &with(8)]).unwrap()) == delta.content[..8 * SECTOR]);
    let error = refused(&[&base, &with(11)]);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("COWD header: numSectors at offset 0xc is 0xa"), "{error}");
}

#[test]
fn qemu_reads_deltas_of_esx_as_the_model_says() {
    let Some(qemu_img) = tools::qemu_img("qemu_reads_deltas_of_esx_as_the_model_says") else { return };
    for seed in 0..8 {
        let rng = &mut Rng::new(seed);
        let grain = 1 << rng.below(4);
        let capacity = 1 + rng.below(4096 * grain * 2);
        let base = Image::vmfs("base.vmdk", rng.bytes(index(capacity) * SECTOR));
        let delta = |rng: &mut Rng| CowdImage::esx(capacity).grain_sectors(grain).random(rng);
        let first = Image::esx_delta(&base, "base-000001.vmdk", &delta(rng));
        let second = Image::esx_delta(&first, "base-000002.vmdk", &delta(rng));
        let disk = Disk::new(vec![base, first, second]);
        assert!(content(&VmdkImage::open(&disk.path).unwrap()) == disk.content, "seed {seed}");
        assert!(qemu_img.raw_of(&disk.path) == disk.content, "seed {seed}: qemu-img");
    }
}

// ---- VMware 3 in several files --------------------------------------------------------------------------------------

const PARTS: [u64; 3] = [300, 129, 40];
const WHOLE: u64 = 469;

/// Three files of a disk, each with data in its first and last grain.
fn several(change: impl Fn(u32, CowdImage) -> CowdImage) -> Image {
    let files: Vec<CowdImage> = (0..)
        .zip(PARTS)
        .map(|(number, part)| {
            let mark = u8::try_from(16 * number + 1).unwrap();
            let file = CowdImage::vmware3(part).file_of(number, 3, WHOLE, part).generation(5);
            change(number, file.data(part / 128, sector(mark)).data(0, sector(mark + 1)))
        })
        .collect();
    Image::hosted_cowd("disk.vmdk", &files, None)
}

#[test]
fn a_disk_in_several_files_is_found_by_the_name_of_the_first() {
    let image = several(|_, file| file);
    let names: Vec<_> = image.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["disk.vmdk", "disk-02.vmdk", "disk-03.vmdk"]);
    for image in [&image, &several(|_, file| file.random(&mut Rng::new(4)))] {
        let opened = open(&[image]).unwrap();
        assert!(content(&opened) == image.content);
        let extents = opened.chain()[0].extents().iter().map(|extent| (extent.start_sector(), extent.sectors()));
        assert_eq!(extents.collect::<Vec<_>>(), [(0, 300), (300, 129), (429, 40)]);
        assert_eq!(opened.host_files().len(), 3);
    }
}

#[test]
fn a_missing_file_of_several_is_named() {
    for missing in [1, 2] {
        let disk = Disk::new(vec![several(|_, file| file)]);
        let name = &disk.links[0].files[missing].0;
        std::fs::remove_file(disk.dir().join(name)).unwrap();
        let error = VmdkImage::open(&disk.path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn files_that_do_not_belong_together_are_refused_and_named() {
    let mut swapped = several(|_, file| file);
    let (second, third) = (swapped.files[1].1.clone(), swapped.files[2].1.clone());
    (swapped.files[1].1, swapped.files[2].1) = (third, second);
    let mut other_format = several(|_, file| file);
    other_format.files[1].1 = SparseImage::new(129).build();
    let rows = [
        ("swapped", swapped),
        ("KDMV", other_format),
        ("first twice", {
            let mut twice = several(|_, file| file);
            twice.files[1].1 = twice.files[0].1.clone();
            twice
        }),
        ("another count", {
            several(|number, file| if number == 1 { file.patch_u32(field::FILE_COUNT, 4) } else { file })
        }),
        ("of version 1", several(|number, file| if number == 1 { file.patch_u32(field::VERSION, 1) } else { file })),
    ];
    for (what, image) in rows {
        let error = refused(&[&image]);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert_eq!(error.to_string(), "disk-02.vmdk: not file 2 of the 3 files of the disk", "{what}");
    }
    // The first one counts; it cannot know better.
    let four = several(|number, file| if number == 0 { file.patch_u32(field::FILE_COUNT, 4) } else { file });
    assert!(refused(&[&four]).to_string().contains("not file 2 of the 4"));
    let too_many = several(|_, file| file.patch_u32(field::FILE_COUNT, u32::MAX));
    assert_eq!(refused(&[&too_many]).kind(), ErrorKind::Corrupt);
}

/// The files of a child say how large the whole disk is, and each what it can hold (Ken Kato).
#[test]
fn a_child_in_several_files_is_divided_by_what_a_file_can_hold() {
    let base_file = CowdImage::vmware3(WHOLE).generation(5).random(&mut Rng::new(6));
    let base = Image::hosted_cowd("base.vmdk", &[base_file], None);
    let files: Vec<CowdImage> = (0..)
        .zip([200, 200, 69])
        .map(|(number, part)| {
            let file = CowdImage::vmware3(part).parent("base.vmdk", 5).file_of(number, 3, WHOLE, 200);
            file.generation(6).data(0, sector(u8::try_from(number + 1).unwrap()))
        })
        .collect();
    let child = Image::hosted_cowd("child.vmdk", &files, Some(&base));
    let image = open(&[&base, &child]).unwrap();
    let extents = image.chain()[0].extents().iter().map(|extent| (extent.start_sector(), extent.sectors()));
    assert_eq!(extents.collect::<Vec<_>>(), [(0, 200), (200, 200), (400, 69)]);
    assert!(content(&image) == child.content);
}

/// The whole size at 1668 is a root's field: a child has it at 12 as well, where a root has the size of its part.
#[test]
fn a_child_in_several_files_is_divided_right_where_only_its_capacity_says_the_size_of_the_disk() {
    let base_file = CowdImage::vmware3(WHOLE).generation(5).random(&mut Rng::new(6));
    let base = Image::hosted_cowd("base.vmdk", &[base_file], None);
    let files: Vec<CowdImage> = (0..3)
        .map(|number| {
            let file = CowdImage::vmware3(WHOLE).parent("base.vmdk", 5).file_of(number, 3, WHOLE, 200).generation(6);
            file.patch_u32(1668, 0).data(0, sector(u8::try_from(number + 1).unwrap()))
        })
        .collect();
    let child = Image::hosted_cowd("child.vmdk", &files, Some(&base));
    let image = open(&[&base, &child]).unwrap();
    let extents = image.chain()[0].extents().iter().map(|extent| (extent.start_sector(), extent.sectors()));
    assert_eq!(extents.collect::<Vec<_>>(), [(0, 200), (200, 200), (400, 69)]);
}

#[test]
fn an_impossible_number_among_several_files_is_an_error() {
    for ordinal in [3, 4, u32::MAX] {
        let file = CowdImage::vmware3(300).file_of(0, 3, WHOLE, 300).patch_u32(1648, ordinal);
        let error = open(&[&Image::hosted_cowd("disk.vmdk", &[file], None)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{ordinal}: {error}");
    }
}

// ---- VMware 2 and 3: parents ----------------------------------------------------------------------------------------

type New = fn(u64) -> CowdImage;

/// A base of generation 0xb5 and a child that wants a parent of generation `wanted`.
fn hosted_chain(new: New, wanted: u32) -> (Image, Image) {
    let capacity = 128 * 600 + 5;
    let grains = |extent: CowdImage, grains: &[u64], byte| {
        grains.iter().fold(extent, |extent, &grain| extent.data(grain, sector(byte)))
    };
    let base = grains(new(capacity).generation(0xb5), &[0, 1, 2, 599, 600], 0xbb);
    let base = Image::hosted_cowd("base.vmdk", &[base], None);
    let child = grains(new(capacity).parent("base.vmdk", wanted).generation(0xc1), &[1, 599], 0xcc).one(2);
    let child = Image::hosted_cowd("child.vmdk", &[child], Some(&base));
    (base, child)
}

#[test]
fn a_child_of_vmware_2_or_3_finds_its_parent_by_name_and_generation() {
    for new in [CowdImage::vmware2 as New, CowdImage::vmware3] {
        let (base, child) = hosted_chain(new, 0xb5);
        let image = open(&[&base, &child]).unwrap();
        assert_eq!(image.chain().len(), 2);
        assert!(content(&image) == child.content);
        let disk = Disk::new(vec![base, child]);
        assert!(content(&VmdkImage::open(&disk.path).unwrap()) == disk.content);
    }
}

#[test]
fn a_parent_of_another_generation_is_refused_with_both_numbers() {
    for new in [CowdImage::vmware2 as New, CowdImage::vmware3] {
        let (base, child) = hosted_chain(new, 0xa4);
        let error = refused(&[&base, &child]);
        assert_eq!(error.kind(), ErrorKind::ContentIdMismatch);
        for part in ["generation", "000000b5", "000000a4", "base.vmdk", "child.vmdk"] {
            assert!(error.to_string().contains(part), "{part} is missing in: {error}");
        }
        let image = open_with(&OpenOptions::new().ignore_cid_mismatch(true), &[&base, &child]).unwrap();
        assert!(content(&image) == child.content);
    }
}

#[test]
fn a_parent_without_a_generation_is_not_taken_for_one() {
    let (base, child) = hosted_chain(CowdImage::vmware3, 0xb5);
    let other = Image::vmfs("base.vmdk", base.content);
    let error = refused(&[&other, &child]);
    assert_eq!(error.kind(), ErrorKind::ContentIdMismatch);
    assert!(error.to_string().contains("its generation is missing"), "{error}");
}

#[test]
fn a_missing_parent_is_named_and_the_link_opens_alone() {
    let (_, child) = hosted_chain(CowdImage::vmware3, 0xb5);
    let error = refused(&[&child]);
    assert_eq!(error.kind(), ErrorKind::ParentMissing);
    assert!(error.to_string().contains("base.vmdk"), "{error}");
    let alone = open_with(&OpenOptions::new().no_parent(true), &[&child]).unwrap();
    assert!(content(&alone) == child.layer.content());
}

#[test]
fn a_child_that_names_itself_is_a_loop() {
    let child = CowdImage::vmware3(300).parent("disk.vmdk", 5).generation(5);
    let disk = Disk::new(vec![bare(&child)]);
    assert_eq!(VmdkImage::open(&disk.path).unwrap_err().kind(), ErrorKind::BadChain);
}

/// The names of a stranger's disk lead nowhere else, whatever the format.
#[test]
fn the_name_of_a_parent_stays_in_the_directory() {
    let (base, _) = hosted_chain(CowdImage::vmware3, 0xb5);
    let child = CowdImage::vmware3(128 * 600 + 5).parent("../base.vmdk", 0xb5);
    let child = Image::hosted_cowd("child.vmdk", &[child], Some(&base));
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("vm")).unwrap();
    base.write_to(dir.path());
    let path = child.write_to(&dir.path().join("vm"));
    assert_eq!(VmdkImage::open(&path).unwrap_err().kind(), ErrorKind::NameRefused);
    let image = OpenOptions::new().allow_dir(dir.path()).open(&path).unwrap();
    assert!(content(&image) == child.content);
}

// ---- Damage ---------------------------------------------------------------------------------------------------------

#[test]
fn an_unclean_extent_is_flagged_and_reads_on() {
    let rows = [
        ("ESX", esx().patch_u32(field::UNCLEAN, 1)),
        ("ESX, generations", esx().generation(4).patch_u32(field::SAVED_GENERATION, 3)),
        ("VMware 2", CowdImage::vmware2(300).generation(4).patch_u32(field::SAVED_GENERATION, 3)),
        ("VMware 3", CowdImage::vmware3(300).generation(4).patch_u32(field::SAVED_GENERATION, 3)),
    ];
    for (what, extent) in rows {
        let image = open(&[&bare(&extent)]).unwrap_or_else(|error| panic!("{what}: {error}"));
        let warnings = image.chain()[0].warnings();
        assert!(warnings.iter().any(|text| text.contains("not closed cleanly")), "{what}: {warnings:?}");
        assert!(content(&image) == extent.layer().content(), "{what}");
    }
    // An ordinal is no flag.
    let second = several(|_, file| file);
    let image = open(&[&second]).unwrap();
    assert_eq!(image.chain()[0].warnings(), [""; 0]);
}

#[test]
fn qemu_reads_zeros_for_a_cowd_grain_past_the_end_and_here_it_is_corrupt_unless_there_was_a_crash() {
    let grain = |extent: CowdImage| {
        let end = u32::try_from(extent.layout().end).unwrap();
        let entry = extent.layout().entry(7);
        extent.patch_u32(entry, end)
    };
    let image = open(&[&bare(&grain(esx()))]).unwrap();
    let error = image.read_sectors(7, &mut [0; SECTOR]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("entry 7 of table 0"), "{error}");
    image.read_sectors(2, &mut [0; SECTOR]).unwrap();
    let image = open(&[&bare(&grain(esx()).patch_u32(field::UNCLEAN, 1))]).unwrap();
    let mut buf = sector(0xee);
    image.read_sectors(7, &mut buf).unwrap();
    assert_eq!(buf, sector(0));
}

#[test]
fn qemu_takes_cowd_tables_and_grains_from_the_metadata_and_this_does_not() {
    let layout = esx().layout();
    for bad in [1, 2, 3, 4, u32::MAX] {
        let image = open(&[&bare(&esx().patch_u32(layout.directory_entry(0), bad))]).unwrap();
        let error = image.read_sectors(0, &mut [0; SECTOR]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "table at {bad}: {error}");
        assert!(error.to_string().contains("grain directory: entry 0"), "{error}");
        // The other table is not concerned.
        image.read_sectors(4096, &mut [0; SECTOR]).unwrap();
    }
    for bad in [2, 3, u32::MAX] {
        let image = open(&[&bare(&esx().patch_u32(layout.entry(2), bad))]).unwrap();
        let error = image.read_sectors(2, &mut [0; SECTOR]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "grain at {bad}: {error}");
        image.read_sectors(7, &mut [0; SECTOR]).unwrap();
    }
}

/// The directory is metadata as well, although no field says where it ends.
#[test]
fn a_grain_in_the_directory_is_refused() {
    let entry = esx().layout().entry(2);
    let image = open(&[&bare(&esx().patch_u32(entry, 4))]).unwrap();
    let error = image.read_sectors(2, &mut [0; SECTOR]).expect_err("the directory is not a grain");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_file_cut_anywhere_is_refused_or_reads_what_there_is() {
    let extent = CowdImage::vmware2(32 * 6).data(5, sector(5)).data(1, vec![1; 32 * SECTOR]);
    let (whole, file) = (extent.layer().content(), extent.build());
    for len in (0..file.len()).step_by(101).chain([2047, 2048, 2049, 2051, 2052, 2559, 2560]) {
        let mut disk = bare(&extent);
        disk.files[0].1.truncate(len);
        let image = match open(&[&disk]) {
            Ok(image) => image,
            Err(error) => {
                assert!(len < 2052, "{len}: {error}");
                assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotVmdk), "{len}: {error}");
                continue;
            }
        };
        for (number, expected) in (0..).zip(whole.chunks(SECTOR)) {
            let mut buf = sector(0xee);
            match image.read_sectors(number, &mut buf) {
                // A grain whose first sector is there may have lost its end.
                Ok(()) => assert!(expected.starts_with(&buf) || buf.ends_with(&[0]), "{len}: sector {number}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{len}: {error}"),
            }
        }
    }
}

// ---- At random ------------------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_disks_read_as_the_model_says(seed in any::<u64>(), dialect in 0_usize..3, grain in 0_u32..5, tables in 1_u64..4) {
        let rng = &mut Rng::new(seed);
        let new: New = [CowdImage::esx, CowdImage::vmware2, CowdImage::vmware3][dialect];
        let entries = if dialect == 0 { 4096 } else { 512 };
        let grain = if dialect == 0 { 1 } else { 1 << grain };
        // More than one table of 512, so that the dialect can be told.
        let least = if dialect == 1 { grain * 4096 } else { 0 };
        let capacity = least + 1 + rng.below(entries * grain * tables);
        let extent = new(capacity).grain_sectors(grain).random(rng);
        let disk = bare(&extent);
        let image = open(&[&disk]).unwrap();
        prop_assert!(content(&image) == disk.content);
        for _ in 0..20 {
            let start = rng.below(capacity);
            let count = 1 + rng.below((capacity - start).min(300));
            let mut buf = vec![0xee; index(count) * SECTOR];
            image.read_sectors(start, &mut buf).unwrap();
            prop_assert!(buf == disk.content[support::byte_range(start, count)]);
        }
    }
}
