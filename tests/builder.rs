//! The test support itself: what the builders build is what other programs read, and the storages count and fail as
//! they say.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::io::{self, IoSliceMut};
use std::sync::Arc;

use vmdk::{FileStorage, MemoryStorage, Storage};

use support::SECTOR;
use support::descriptor::{DescriptorText, Style};
use support::disk::{Disk, Image, Kind};
use support::model::{MemoryDevice, RawDevice};
use support::rng::Rng;
use support::sparse::{SparseImage, field};
use support::storage::{CountingStorage, Counts, EIO, ENOSPC, FaultStorage, Operation};
use support::tools;

// ---- Sparse extents and descriptors ---------------------------------------------------------------------------------

#[test]
fn a_four_grain_image_has_every_structure_where_the_format_has_it() {
    let first = [vec![0x41; SECTOR], vec![0; 127 * SECTOR]].concat();
    let image = SparseImage::new(512).descriptor("# Disk DescriptorFile\n");
    let file = image.data(0, first.clone()).data(2, vec![0x42; 128 * SECTOR]).build();

    assert_eq!(file.len(), 196_608);
    let header = [
        *b"KDMV\x01\0\0\0\x03\0\0\0\0\x02\0\0",
        *b"\0\0\0\0\x80\0\0\0\0\0\0\0\x01\0\0\0",
        *b"\0\0\0\0\x14\0\0\0\0\0\0\0\0\x02\0\0",
        *b"\x15\0\0\0\0\0\0\0\x1a\0\0\0\0\0\0\0",
        *b"\x80\0\0\0\0\0\0\0\0\n \r\n\0\0\0",
    ];
    assert_eq!(file[..80], *header.concat());
    assert_eq!(file[80..512], [0; 432]);
    assert_eq!(file[0x200..0x216], *b"# Disk DescriptorFile\n");
    let mut metadata = vec![0; 0x10000 - 0x2a00];
    for (offset, value) in [(0x2a00, 22), (0x2c00, 128), (0x2c08, 256), (0x3400, 27), (0x3600, 128), (0x3608, 256)] {
        metadata[offset - 0x2a00] = u16::to_le_bytes(value)[0];
        metadata[offset - 0x2a00 + 1] = u16::to_le_bytes(value)[1];
    }
    assert_eq!(file[0x2a00..0x10000], metadata);
    assert_eq!(file[0x10000..0x20000], first);
    assert_eq!(file[0x20000..], vec![0x42; 0x10000]);
}

#[test]
fn tables_stand_where_other_writers_put_them() {
    let layout = |image: SparseImage| {
        let layout = image.layout();
        (layout.rgd, layout.gd, layout.overhead)
    };
    let embedded = [
        (1, (21, 26, 128)),
        (20_480, (21, 26, 128)),
        (2_097_152, (21, 150, 384)),
        (209_715_200, (21, 12_846, 25_728)),
        (4_294_967_296, (21, 262_677, 525_440)),
    ];
    for (capacity, places) in embedded {
        assert_eq!(layout(SparseImage::new(capacity).descriptor("")), places, "{capacity} sectors");
    }
    for (capacity, places) in [(20_480, (1, 6, 128)), (4_192_256, (1, 258, 640)), (8_323_072, (1, 510, 1024))] {
        assert_eq!(layout(SparseImage::new(capacity)), places, "{capacity} sectors without a descriptor");
    }
}

#[test]
fn an_empty_image_is_byte_for_byte_that_of_qemu() {
    let Some(qemu_img) = tools::qemu_img("an_empty_image_is_byte_for_byte_that_of_qemu") else { return };
    let dir = tempfile::tempdir().unwrap();
    for capacity in [1, 512, 128 * 512 + 1, 3_000_000] {
        let path = dir.path().join("disk.vmdk");
        let path = path.to_str().unwrap();
        qemu_img.run(["create", "-f", "vmdk", path, &(capacity * SECTOR).to_string()]);
        let theirs = std::fs::read(path).unwrap();
        let text = String::from_utf8_lossy(&theirs[512..2048]).into_owned();
        let (_, cid) = text.split_once("CID=").unwrap();
        let cid = u32::from_str_radix(cid.lines().next().unwrap(), 16).unwrap();

        let capacity = capacity as u64;
        let text = DescriptorText::new("monolithicSparse", cid)
            .style(Style::Qemu)
            .extent(format!("RW {capacity} SPARSE \"disk.vmdk\""))
            .ide_ddb(capacity);
        let ours = SparseImage::new(capacity).descriptor(text.to_string()).build();
        assert!(ours == theirs, "{capacity} sectors differ");
    }
}

#[test]
fn a_descriptor_in_the_spelling_of_vmware_is_the_canonical_text() {
    let text = DescriptorText::new("vmfs", 0x0172_e8a4)
        .extent("RW 4096 VMFS \"disk-flat.vmdk\"")
        .change_track_path("disk-ctk.vmdk")
        .ddb("adapterType", "lsilogic")
        .ddb("geometry.cylinders", 2);
    let canonical = concat!(
        "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=0172e8a4\nparentCID=ffffffff\n",
        "isNativeSnapshot=\"no\"\ncreateType=\"vmfs\"\n\n",
        "# Extent description\nRW 4096 VMFS \"disk-flat.vmdk\"\n\n",
        "# Change Tracking File\nchangeTrackPath=\"disk-ctk.vmdk\"\n\n",
        "# The Disk Data Base \n#DDB\n\n",
        "ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"2\"\n",
    );
    assert_eq!(text.to_string(), canonical);
}

#[test]
fn qemu_reads_every_kind_of_image_as_the_model_says() {
    let Some(qemu_img) = tools::qemu_img("qemu_reads_every_kind_of_image_as_the_model_says") else { return };
    for kind in Kind::ALL.into_iter().filter(|kind| kind.qemu_reads_it()) {
        let disk = kind.disk(7);
        assert!(qemu_img.raw_of(&disk.path) == disk.content, "{kind:?} differs");
    }
}

#[test]
fn qemu_reads_random_layouts_as_the_model_says() {
    let Some(qemu_img) = tools::qemu_img("qemu_reads_random_layouts_as_the_model_says") else { return };
    for seed in 0..40 {
        let disk = random_layout(&mut Rng::new(seed));
        assert!(qemu_img.raw_of(&disk.path) == disk.content, "seed {seed} differs");
    }
}

/// One sparse image, perhaps with a child, with every option of the builder that leaves the image readable.
fn random_layout(rng: &mut Rng) -> Disk {
    let mut extent = || {
        let grain = 1 << rng.below(8);
        let entries = 1 << (7 + rng.below(3));
        let capacity = 1 + rng.below(grain * entries.min(60) * 3);
        let mut extent = SparseImage::new(capacity).grain_sectors(grain);
        extent = extent.entries_per_table(u32::try_from(entries).unwrap());
        extent = if rng.chance(30) { extent.without_redundant_tables() } else { extent };
        extent = if rng.chance(30) { extent.directory_first() } else { extent };
        extent = if rng.chance(30) { extent.omit_empty_tables() } else { extent };
        extent = if rng.chance(30) { extent.cut_tail() } else { extent };
        extent = if rng.chance(30) { extent.with_zero_grains() } else { extent };
        extent = if rng.chance(30) { extent.version(3) } else { extent };
        extent = if rng.chance(30) { extent.unclean(1) } else { extent };
        extent.grain_shift(rng.below(grain)).grain_gap(rng.below(3)).random(rng)
    };
    let (base, child) = (extent(), extent());
    let disk = Disk::new(vec![Image::monolithic_sparse("base.vmdk", base)]);
    if rng.chance(50) { disk.with_child("child.vmdk", child) } else { disk }
}

#[test]
fn options_and_patches_change_the_bytes_they_name() {
    let image = SparseImage::new(8 * 700).grain_sectors(8).data(600, [1]).zero(3).unclean(9);
    let file = image.clone().patch_u32(field::VERSION, 5).patch_u64(field::GD_OFFSET, u64::MAX).build();
    assert_eq!(file[4], 5);
    assert_eq!(file[0x38..0x40], [0xff; 8]);
    assert_eq!(file[0x48], 9);

    let layout = image.layout();
    let entry = |offset: u64| file[support::index(offset)];
    assert_eq!((entry(layout.entry(3)), entry(layout.redundant_entry(3))), (1, 1));
    assert_eq!(u64::from(entry(layout.entry(600))), layout.grains[&600]);
    assert_eq!(u64::from(entry(layout.redundant_entry(600))), layout.grains[&600]);
    assert_eq!(image.clone().omit_empty_tables().layout().gt.len(), 2);
    assert_eq!(SparseImage::new(8 * 700).omit_empty_tables().layout().gt, [0]);
}

#[test]
fn grains_stand_in_the_file_in_the_order_of_adding_or_the_one_asked_for() {
    let image = SparseImage::new(16 * 4).grain_sectors(16).data(2, [1]).data(0, [2]).data(3, [3]).data(2, [4]);
    let order = |image: &SparseImage| {
        let mut grains: Vec<_> = image.layout().grains.into_iter().collect();
        grains.sort_by_key(|&(_, sector)| sector);
        grains.into_iter().map(|(grain, _)| grain).collect::<Vec<_>>()
    };
    assert_eq!(order(&image), [0, 3, 2]);
    assert_eq!(order(&image.file_order(&[3, 2])), [3, 2, 0]);
}

#[test]
fn a_child_shows_its_parent_where_it_holds_nothing_and_zeros_past_the_end_of_it() {
    let sector = |byte| vec![byte; SECTOR];
    let base = Image::monolithic_flat("base.vmdk", [sector(1), sector(2), sector(3)].concat());
    let extent = SparseImage::new(5).grain_sectors(1).with_zero_grains().data(1, sector(9)).zero(2);
    let child = Image::child(&base, "child.vmdk", extent);
    assert_eq!(child.content, [sector(1), sector(9), sector(0), sector(0), sector(0)].concat());
    assert_eq!(child.layer.sector(0), None);
    assert_eq!(child.layer.sector(2), Some(&[0; SECTOR]));
}

// ---- Storages -------------------------------------------------------------------------------------------------------

fn storage() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new(vec![7; 100]))
}

#[test]
fn a_counting_storage_notes_every_call() {
    let storage = CountingStorage::new(storage());
    let mut buf = [0; 10];
    storage.read_exact_at(&mut buf, 3).unwrap();
    let (head, tail) = buf.split_at_mut(4);
    storage.read_exact_vectored_at(&mut [IoSliceMut::new(head), IoSliceMut::new(tail)], 50).unwrap();
    assert!(!storage.counts().touched());
    storage.write_all_at(&[1; 5], 20).unwrap();
    storage.set_len(90).unwrap();
    storage.punch_hole(1..2).unwrap();
    storage.sync().unwrap();

    let counts = storage.take();
    assert_eq!(counts.reads, [(3, 10), (50, 10)]);
    assert_eq!((counts.bytes_read(), counts.bytes_written()), (20, 5));
    assert_eq!((counts.writes.as_slice(), counts.lens.as_slice(), counts.syncs), (&[(20, 5)][..], &[90][..], 1));
    assert!(counts.touched());
    assert_eq!(storage.counts(), Counts::default());
}

#[test]
fn a_fault_storage_fails_the_call_it_was_told_to_and_no_other() {
    let storage = FaultStorage::new(storage());
    let read = |offset| storage.read_exact_at(&mut [0; 10], offset).map_err(|error| error.raw_os_error());
    storage.fail_nth_read(1);
    storage.fail_nth(Operation::Sync, 0, EIO);
    assert_eq!([read(0), read(0), read(0)], [Ok(()), Err(Some(EIO)), Ok(())]);
    assert_eq!(storage.sync().unwrap_err().raw_os_error(), Some(EIO));
    storage.sync().unwrap();

    storage.fail_reads_of(20..30);
    assert_eq!([read(10), read(11), read(29), read(30)], [Ok(()), Err(Some(EIO)), Err(Some(EIO)), Ok(())]);
    storage.fail_within(Operation::Write, 99..200, ENOSPC);
    storage.write_all_at(&[1], 98).unwrap();
    assert_eq!(storage.write_all_at(&[1], 100).unwrap_err().raw_os_error(), Some(ENOSPC));
    assert_eq!(storage.len().unwrap(), 100);
    storage.heal();
    assert_eq!(read(20), Ok(()));
}

// ---- Digests --------------------------------------------------------------------------------------------------------

#[test]
fn the_digest_without_zeros_is_the_same_with_holes_and_without() -> io::Result<()> {
    const EMPTY: &str = "nz4k:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(tools::nz4k(&MemoryDevice::new(vec![0; 100 * SECTOR])), EMPTY);

    // Data that begins and ends inside of blocks, and a last block that the end of the disk cuts.
    let mut content = vec![0; 5_000 * SECTOR + 3 * SECTOR];
    for range in [512..700, 4096 * 3 - 1..4096 * 3 + 1, 1 << 20..3 << 19, content.len() - 1..content.len()] {
        Rng::new(1).fill(&mut content[range]);
    }
    let mut blocks = Vec::new();
    for (offset, block) in (0u64..).step_by(4096).zip(content.chunks(4096)) {
        if block.iter().any(|&byte| byte != 0) {
            blocks.extend(offset.to_le_bytes());
            blocks.extend(block);
        }
    }
    let expected = format!("nz4k:{}", tools::sha256_hex(&blocks));
    assert_eq!(tools::nz4k(&MemoryDevice::new(content.clone())), expected);
    assert_eq!(tools::nz4k(&RawDevice::new(Arc::new(MemoryStorage::new(content.clone())))), expected);

    let file = tempfile::NamedTempFile::new()?;
    let sparse = FileStorage::new(std::fs::OpenOptions::new().read(true).write(true).open(file.path())?)?;
    sparse.set_len(content.len() as u64)?;
    for (offset, block) in (0u64..).step_by(4096).zip(content.chunks(4096)) {
        if block.iter().any(|&byte| byte != 0) {
            sparse.write_all_at(block, offset)?;
        }
    }
    assert_eq!(tools::nz4k(&RawDevice::new(Arc::new(sparse))), expected);
    Ok(())
}
