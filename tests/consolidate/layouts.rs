//! Random layouts of every kind: in the end the disk reads as before, and what was to be done is done.

use std::ops::ControlFlow;

use vmdk::{BlockDevice, CreateOptions, CreateType, ErrorKind, Mapping, OpenOptions};

use super::judge::{open, read};
use super::scene::{self, Operation, Scene};
use super::support::SECTOR;
use super::support::crash::CrashDisk;
use super::support::disk::{Image, Part, custom};
use super::support::layer::Layer;
use super::support::model::MemoryDevice;
use super::support::rng::Rng;
use super::support::sparse::SparseImage;

/// Does it, and does it once more, which changes nothing.
#[track_caller]
fn carry_out(scene: &Scene) {
    let disk = scene.disk();
    scene.run(&disk).unwrap_or_else(|error| panic!("{}: {error}", scene.what));
    assert_eq!(scene.is_ended(&disk), Ok(()), "{}", scene.what);
    let changes = disk.changes().len();
    scene.run(&disk).unwrap_or_else(|error| panic!("{} again: {error}", scene.what));
    assert_eq!(disk.changes().len(), changes, "{}: there was something left", scene.what);
    is_put_to_use(scene, &disk);
}

/// The disk is written to, and reads what was written.
#[track_caller]
fn is_put_to_use(scene: &Scene, disk: &CrashDisk) {
    let image = OpenOptions::new().write(true).open_with(&scene.leaf().name, disk).unwrap();
    let mut expected = read(&image).unwrap();
    let rng = &mut Rng::new(4);
    for _ in 0..5 {
        let start = rng.below(image.capacity_sectors());
        let bytes = rng.bytes(SECTOR);
        image.write_sectors(start, &bytes).unwrap();
        let at = usize::try_from(start).unwrap() * SECTOR;
        expected[at..at + SECTOR].copy_from_slice(&bytes);
    }
    image.close().unwrap();
    assert!(read(&open(disk, &scene.leaf().name).unwrap()).unwrap() == expected, "{}", scene.what);
}

#[test]
fn any_disk_is_committed_made_independent_and_put_over_another() {
    for seed in 100..120 {
        for scene in scene::all(seed) {
            carry_out(&Scene { what: format!("{} ({seed})", scene.what), ..scene });
        }
    }
}

/// Grains of 2 MiB: more than is compared at once.
fn large(rng: &mut Rng, grains: &[(u64, bool)]) -> SparseImage {
    const GRAIN: u64 = 4096;
    let extent = SparseImage::new(GRAIN * 4 + 100).grain_sectors(GRAIN).with_zero_grains();
    grains.iter().fold(extent, |extent, &(grain, has_data)| {
        let sectors = if grain == 4 { 100 } else { 4096 };
        if has_data { extent.data(grain, rng.bytes(sectors * SECTOR)) } else { extent.zero(grain) }
    })
}

#[test]
fn grains_that_are_larger_than_the_memory_for_them_are_taken_over_in_parts() {
    let rng = &mut Rng::new(3);
    for own in [&[(2, true)][..], &[]] {
        let base = Image::monolithic_sparse("base.vmdk", large(rng, &[(0, true), (3, true)]));
        let child = Image::child(&base, "disk.vmdk", large(rng, own));
        carry_out(&Scene::new("large grains", vec![base.clone(), child.clone()], Operation::Commit(1)));
        carry_out(&Scene::new("large grains", vec![base.clone(), child.clone()], Operation::Flatten));
        // In the middle of a grain the new parent differs, and where the old one is zero.
        let mut content = base.content.clone();
        content[3000 * SECTOR..3001 * SECTOR].fill(9);
        content[(4096 + 100) * SECTOR..][..SECTOR].fill(3);
        content[(4096 + 3000) * SECTOR..][..SECTOR].fill(7);
        content[(4 * 4096 + 50) * SECTOR..][..SECTOR].fill(5);
        let operation = Operation::Rebase("other.vmdk".to_owned());
        let mut scene = Scene::new("large grains", vec![base, child], operation);
        scene.others.push(Image::monolithic_flat("other.vmdk", content));
        carry_out(&scene);
    }
}

#[test]
fn what_is_alike_is_not_taken_over() {
    let rng = &mut Rng::new(5);
    let content = rng.bytes(128 * 8 * SECTOR);
    let base = Image::monolithic_flat("base.vmdk", content.clone());
    let child = Image::child(&base, "disk.vmdk", SparseImage::new(128 * 8).data(2, rng.bytes(128 * SECTOR)));
    let mut other = content;
    other[128 * 5 * SECTOR] ^= 1;
    let mut scene = Scene::new("alike", vec![base, child], Operation::Rebase("other.vmdk".to_owned()));
    scene.others.push(Image::monolithic_flat("other.vmdk", other));
    carry_out(&scene);
    let disk = scene.disk();
    scene.run(&disk).unwrap();
    let image = open(&disk, "disk.vmdk").unwrap();
    let own: Vec<u64> = (0..8).filter(|grain| is_own(&image, grain * 128)).collect();
    assert_eq!(own, [2, 5], "one grain differs, one was there");
}

fn is_own(image: &vmdk::VmdkImage, sector: u64) -> bool {
    !matches!(image.map_layer(sector, 1).unwrap().mapping, Mapping::Unallocated)
}

#[test]
fn zeros_of_the_parents_take_no_space() {
    let mut content = vec![0; 128 * 6 * SECTOR];
    content[128 * SECTOR] = 1;
    let base = Image::monolithic_flat("base.vmdk", content);
    let child = Image::child(&base, "disk.vmdk", SparseImage::new(128 * 6));
    let scene = Scene::new("zeros", vec![base, child], Operation::Flatten);
    let disk = scene.disk();
    scene.run(&disk).unwrap();
    let image = open(&disk, "disk.vmdk").unwrap();
    let own: Vec<u64> = (0..6).filter(|grain| is_own(&image, grain * 128)).collect();
    assert_eq!(own, [1]);
}

#[test]
fn grains_of_zeros_become_zeros_of_the_parent_and_take_no_space_there() {
    let rng = &mut Rng::new(6);
    let base = Image::monolithic_sparse(
        "base.vmdk",
        (0..4).fold(SparseImage::new(512), |extent, grain| extent.data(grain, rng.bytes(128 * SECTOR))),
    );
    let child = SparseImage::new(512).with_zero_grains().zero(1).data(2, vec![0; 128 * SECTOR]);
    let child = Image::child(&base, "disk.vmdk", child);
    let scene = Scene::new("zeros", vec![base, child], Operation::Commit(1));
    carry_out(&scene);
    let disk = scene.disk();
    scene.run(&disk).unwrap();
    let base = open(&disk, "base.vmdk").unwrap();
    let own: Vec<u64> = (0..4).filter(|grain| is_own(&base, grain * 128)).collect();
    assert_eq!(own, [0, 3]);
}

#[test]
fn an_emptied_file_is_as_short_as_a_new_one() {
    let rng = &mut Rng::new(7);
    let base = Image::monolithic_flat("base.vmdk", vec![0; 1024 * SECTOR]);
    let extent = (0..8).fold(SparseImage::new(1024), |extent, grain| extent.data(grain, rng.bytes(128 * SECTOR)));
    let child = Image::child(&base, "disk.vmdk", extent);
    let new = Image::child(&base, "disk.vmdk", SparseImage::new(1024)).files[0].1.len();
    let scene = Scene::new("all of it", vec![base, child], Operation::Commit(1));
    let disk = scene.disk();
    scene.run(&disk).unwrap();
    assert_eq!(disk.live("disk.vmdk").len(), new);
}

#[test]
fn where_a_parent_takes_no_writes_the_child_may_have_what_is_there_already() {
    let rng = &mut Rng::new(8);
    let base = custom("base.vmdk", |count| rng.bytes(count * SECTOR));
    // A grain of the child over all sorts of extents, which has the same as they do where they take nothing.
    let capacity = base.layer.capacity();
    let extent = (0..capacity.div_ceil(32)).fold(SparseImage::new(capacity).grain_sectors(32), |extent, grain| {
        let start = usize::try_from(grain).unwrap() * 32 * SECTOR;
        let end = (start + 32 * SECTOR).min(base.content.len());
        let mut bytes = base.content[start..end].to_vec();
        if grain < 3 {
            bytes[5] ^= 0xff;
        }
        extent.data(grain, bytes)
    });
    let child = Image::child(&base, "disk.vmdk", extent);
    carry_out(&Scene::new("over extents of all sorts", vec![base, child], Operation::Commit(1)));
}

#[test]
fn a_parent_that_is_in_the_chain_already_is_taken_for_the_link_between() {
    let rng = &mut Rng::new(9);
    let base = Image::monolithic_flat("base.vmdk", rng.bytes(256 * SECTOR));
    let middle = Image::child(&base, "middle.vmdk", SparseImage::new(256).grain_sectors(8).random(rng));
    let leaf = Image::child(&middle, "disk.vmdk", SparseImage::new(256).grain_sectors(16).random(rng));
    carry_out(&Scene::new("without the middle", vec![base, middle, leaf], Operation::Rebase("base.vmdk".to_owned())));
}

/// A compressed disk with this content.
fn compressed(name: &str, content: &[u8]) -> Image {
    let (disk, source) = (CrashDisk::new([]), MemoryDevice::new(content.to_vec()));
    let options = CreateOptions::new().create_type(CreateType::StreamOptimized);
    options.create_from_in(name, &disk, &source, &mut |_| ControlFlow::Continue(())).unwrap();
    let cid = open(&disk, name).unwrap().content_id().unwrap().value();
    let (layer, files) = (Layer::full(content), vec![(name.to_owned(), disk.live(name))]);
    Image { name: name.to_owned(), cid, files, layer, content: content.to_vec() }
}

#[test]
fn what_a_compressed_parent_has_is_taken_over_and_nothing_is_merged_into_it() {
    let rng = &mut Rng::new(10);
    let mut content = rng.bytes(128 * 9 * SECTOR);
    content[128 * 3 * SECTOR..128 * 5 * SECTOR].fill(0);
    let base = compressed("base.vmdk", &content);
    let child = Image::child(&base, "disk.vmdk", SparseImage::new(128 * 9).grain_sectors(32).random(rng));
    let chain = vec![base.clone(), child.clone()];
    carry_out(&Scene::new("over a compressed disk", chain.clone(), Operation::Flatten));

    content[128 * 7 * SECTOR] ^= 1;
    let mut scene = Scene::new("to a compressed disk", chain, Operation::Rebase("other.vmdk".to_owned()));
    scene.others.push(compressed("other.vmdk", &content));
    carry_out(&scene);

    let scene = Scene { operation: Operation::Commit(1), ..scene };
    let disk = scene.disk();
    let error = scene.run(&disk).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("compressed") && disk.changes().is_empty(), "{error}");
}

/// What the parents say of the disk is not lost with them.
#[test]
fn what_describes_the_disk_comes_with_its_content() {
    let base = Image::monolithic_flat("base.vmdk", vec![1; 64 * SECTOR]);
    let parts = vec![Part::sparse("disk-s001.vmdk", &SparseImage::new(64))];
    let mut child = Image::link_of_parts("disk.vmdk", "twoGbMaxExtentSparse", parts, Some(&base));
    let text = String::from_utf8(child.files[0].1.clone()).unwrap();
    let without: Vec<&str> = text.split_inclusive('\n').filter(|line| !line.starts_with("ddb.")).collect();
    child.files[0].1 = without.concat().into_bytes();
    let scene = Scene::new("without a database", vec![base, child], Operation::Flatten);
    let disk = scene.disk();
    let before = open(&disk, "disk.vmdk").unwrap();
    scene.run(&disk).unwrap();
    let after = open(&disk, "disk.vmdk").unwrap();
    assert!(before.geometry().is_some() && before.adapter_type().is_some());
    assert_eq!((after.geometry(), after.adapter_type()), (before.geometry(), before.adapter_type()));
    assert_eq!(after.hardware_version(), before.hardware_version());
    assert_eq!((after.chain().len(), after.content_id()), (1, before.content_id()));
}
