//! What a read costs the host, and what it does when the host fails.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use vmdk::{BlockDevice, Error, ErrorKind, Mapping, MemoryStorage, OpenOptions, Storage, VmdkImage};

use support::disk::Image;
use support::rng::Rng;
use support::sparse::SparseImage;
use support::storage::{CountingStorage, FaultStorage};
use support::{SECTOR, byte_range, index};

const MIB: u64 = 2048;

/// Opens an image from memory, every file of which `wrap` may wrap.
fn open(image: &Image, wrap: impl Fn(&str, Arc<dyn Storage>) -> Arc<dyn Storage>) -> vmdk::Result<VmdkImage> {
    let files: HashMap<String, Arc<dyn Storage>> = image
        .files
        .iter()
        .map(|(name, bytes)| (name.clone(), wrap(name, Arc::new(MemoryStorage::new(bytes.clone())))))
        .collect();
    OpenOptions::new().open_with(&image.name, &files)
}

fn open_counted(image: &Image) -> (VmdkImage, Arc<CountingStorage>) {
    let last = std::cell::OnceCell::new();
    let opened = open(image, |name, storage| {
        let counted = CountingStorage::new(storage);
        if name == image.files.last().unwrap().0 {
            last.set(Arc::clone(&counted)).unwrap();
        }
        counted
    });
    (opened.unwrap(), last.into_inner().unwrap())
}

/// 40 MiB, so that there are two grain tables, with all grains in the order of the disk.
fn converted() -> Image {
    let mut rng = Rng::new(1);
    let grains = 40 * MIB / 128;
    let extent = (0..grains).fold(SparseImage::new(40 * MIB), |extent, grain| extent.data(grain, rng.bytes(1024)));
    Image::monolithic_sparse("disk.vmdk", extent)
}

#[test]
fn sequential_reads_of_1_mib_of_a_freshly_converted_image_cost_one_host_read_each() {
    let image = converted();
    let (disk, host) = open_counted(&image);
    // The tables, once.
    disk.read_sectors(0, &mut [0; SECTOR]).unwrap();
    disk.read_sectors(39 * MIB, &mut [0; SECTOR]).unwrap();
    host.take();
    let mut buf = vec![0; index(MIB) * SECTOR];
    for start in (0..40 * MIB).step_by(index(MIB)) {
        disk.read_sectors(start, &mut buf).unwrap();
        assert!(buf == image.content[byte_range(start, MIB)]);
        let reads = host.take().reads;
        assert_eq!(reads.len(), 1, "the MiB at sector {start}");
        assert_eq!(reads[0].1, buf.len() as u64);
    }
}

#[test]
fn a_read_across_two_grain_tables_is_still_one_host_read() {
    let image = converted();
    let (disk, host) = open_counted(&image);
    let mut buf = vec![0; 2 * index(MIB) * SECTOR];
    disk.read_sectors(31 * MIB, &mut buf).unwrap();
    host.take();
    disk.read_sectors(31 * MIB, &mut buf).unwrap();
    assert_eq!(host.take().reads.len(), 1);
    assert!(buf == image.content[byte_range(31 * MIB, 2 * MIB)]);
}

#[test]
fn a_vectored_read_of_one_run_is_one_host_read() {
    let image = converted();
    let (disk, host) = open_counted(&image);
    let mut parts = [vec![0; 700], vec![0; 4096 - 700], vec![0; 512]];
    disk.read_sectors(8, &mut [0; SECTOR]).unwrap();
    host.take();
    let mut slices = parts.each_mut().map(|part| std::io::IoSliceMut::new(part));
    disk.read_sectors_vectored(8, &mut slices).unwrap();
    assert_eq!(host.take().reads.len(), 1);
    assert!(parts.concat() == image.content[byte_range(8, 9)]);
}

#[test]
fn sixteen_tables_are_read_once_each_and_a_seventeenth_costs_a_read() {
    // A table of 512 grains of 8 sectors covers 2 MiB.
    let extent = (0..17)
        .fold(SparseImage::new(17 * 2 * MIB).grain_sectors(8), |extent, table| extent.data(table * 512, vec![7; 512]));
    let image = Image::monolithic_sparse("disk.vmdk", extent);
    let (disk, host) = open_counted(&image);
    let table_reads = |table: u64| {
        host.take();
        disk.read_sectors(table * 2 * MIB, &mut [0; SECTOR]).unwrap();
        host.take().reads.iter().filter(|read| read.1 == 2048).count()
    };
    let first: usize = (0..16).map(table_reads).sum();
    let again: usize = (0..16).map(table_reads).sum();
    let more = table_reads(16);
    assert_eq!((first, again, more), (16, 0, 1));
}

#[test]
fn unallocated_and_zero_grains_cost_no_host_read() {
    let image = Image::monolithic_sparse("disk.vmdk", SparseImage::new(4 * 128).with_zero_grains().zero(1));
    let (disk, host) = open_counted(&image);
    disk.read_sectors(0, &mut [0; SECTOR]).unwrap();
    host.take();
    let mut buf = vec![1; 4 * 128 * SECTOR];
    disk.read_sectors(0, &mut buf).unwrap();
    assert!(buf.iter().all(|&byte| byte == 0));
    assert_eq!(host.take().reads, []);
}

#[test]
fn a_disk_of_2_tib_opens_by_reading_header_descriptor_and_directory() {
    let extent = SparseImage::new(1 << 32).omit_empty_tables().data(12_345_678, vec![7; 512]);
    let image = extent.descriptor(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\
         RW 4294967296 SPARSE \"disk.vmdk\"\n",
    );
    let directory = image.layout().gd * 512;
    let host = CountingStorage::new(Arc::new(MemoryStorage::new(image.build())));
    let resolver = |name: &str| (name == "disk.vmdk").then(|| Arc::clone(&host) as Arc<dyn Storage>);
    let disk = OpenOptions::new().open_with("disk.vmdk", &resolver).unwrap();
    let reads = host.take().reads;
    // 65536 entries of four bytes, in one read.
    assert_eq!(reads, [(0, 2048), (512, 20 * 512), (directory, 65536 * 4)]);
    let mut buf = [0; SECTOR];
    disk.read_sectors(12_345_678 * 128, &mut buf).unwrap();
    assert_eq!(buf, [7; SECTOR]);
}

#[test]
fn a_read_through_32_deltas_costs_one_host_read_once_the_tables_are_cached() {
    let mut rng = Rng::new(8);
    let mut images = vec![Image::monolithic_sparse("0.vmdk", SparseImage::new(512).data(3, rng.bytes(65536)))];
    for number in 1..33 {
        let extent = SparseImage::new(512).data(number % 2, rng.bytes(65536));
        let child = Image::child(images.last().unwrap(), &format!("{number}.vmdk"), extent);
        images.push(child);
    }
    let hosts: HashMap<String, Arc<CountingStorage>> = images
        .iter()
        .map(|image| (image.name.clone(), CountingStorage::new(Arc::new(MemoryStorage::new(image.files[0].1.clone())))))
        .collect();
    let resolver = |name: &str| hosts.get(name).map(|host| Arc::clone(host) as Arc<dyn Storage>);
    let disk = OpenOptions::new().open_with("32.vmdk", &resolver).unwrap();
    let mut buf = vec![0; 65536];
    disk.read_sectors(3 * 128, &mut buf).unwrap();
    for host in hosts.values() {
        host.take();
    }
    disk.read_sectors(3 * 128, &mut buf).unwrap();
    assert!(buf == images[32].content[byte_range(3 * 128, 128)]);
    let reads: usize = hosts.values().map(|host| host.take().reads.len()).sum();
    assert_eq!(reads, 1);
}

/// QEMU answers zeros with success, or the parent's data, when a grain table cannot be read.
#[test]
fn qemu_reads_zeros_when_a_grain_table_cannot_be_read_and_this_does_not() {
    let extent = SparseImage::new(4 * 128).descriptor("").data(1, vec![5; 512]);
    let table = extent.layout().entry(0);
    let image = Image::monolithic_sparse("disk.vmdk", extent);
    let faulty = std::cell::OnceCell::new();
    let disk = open(&image, |_, storage| {
        let fault = FaultStorage::new(storage);
        faulty.set(Arc::clone(&fault)).unwrap();
        fault
    })
    .unwrap();
    let faulty = faulty.into_inner().unwrap();
    faulty.fail_reads_of(table..table + 1);
    let mut buf = vec![9; 128 * SECTOR];
    for sector in [0, 128] {
        let error = disk.read_sectors(sector, &mut buf).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("disk.vmdk"), "{error}");
        assert!(disk.block_status(sector, 1).is_err());
        assert!(disk.map(sector, 1).is_err());
    }
    faulty.heal();
    disk.read_sectors(128, &mut buf).unwrap();
    assert_eq!(buf[..512], [5; 512]);
}

#[test]
fn a_fault_of_the_host_in_any_read_is_an_error_or_the_content_is_right() {
    let mut rng = Rng::new(4);
    let image = Image::monolithic_sparse("disk.vmdk", SparseImage::new(3 * 512 * 8).grain_sectors(8).random(&mut rng));
    let attempt = |nth: u64| -> Result<(Vec<u8>, bool), Error> {
        let faulty = std::cell::OnceCell::new();
        let disk = open(&image, |_, storage| {
            let counted = CountingStorage::new(storage);
            let fault = FaultStorage::new(Arc::clone(&counted) as Arc<dyn Storage>);
            fault.fail_nth_read(nth);
            faulty.set(counted).unwrap();
            fault
        })?;
        let mut content = vec![0xaa; image.content.len()];
        disk.read_sectors(0, &mut content)?;
        let reads = faulty.into_inner().unwrap().take().reads.len() as u64;
        Ok((content, reads <= nth))
    };
    let mut failed = 0;
    for nth in 0.. {
        match attempt(nth) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Io, "read {nth}: {error}");
                failed += 1;
            }
            Ok((content, untouched)) => {
                // A table that was only wanted to make a run longer is read again when it is needed.
                assert!(content == image.content, "read {nth} failed unnoticed");
                if untouched {
                    break;
                }
            }
        }
    }
    assert!(failed > 5, "{failed}");
}

#[test]
fn a_mapping_outlives_the_image_and_leads_to_the_bytes() {
    let image = converted();
    let (disk, _) = open_counted(&image);
    let run = disk.map(777, 8).unwrap();
    drop(disk);
    let Mapping::Data { storage, offset } = run.mapping else { panic!("no data") };
    let mut buf = [0; 8 * SECTOR];
    storage.read_exact_at(&mut buf, offset).unwrap();
    assert!(buf[..] == image.content[byte_range(777, 8)]);
}

#[test]
fn after_a_close_every_call_is_refused_and_a_second_close_does_nothing() {
    let (disk, host) = open_counted(&converted());
    disk.close().unwrap();
    disk.close().unwrap();
    host.take();
    let results = [
        disk.read_sectors(0, &mut [0; SECTOR]),
        disk.write_sectors(0, &[0; SECTOR]),
        disk.flush(),
        disk.discard(0, 1),
        disk.write_zeroes(0, 1, true),
        disk.block_status(0, 1).map(|_| ()),
        disk.map(0, 1).map(|_| ()),
    ];
    for result in results {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
    }
    assert_eq!(host.take().reads, []);
}
