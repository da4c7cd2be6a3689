//! A child of an image that is open for writing: where there is the child, there is all that was written before.

use vmdk::{BlockDevice, CreateOptions, CreateType, OpenOptions, VmdkImage};

use super::judge::MADE;
use super::operation::NAME;
use super::support::SECTOR;
use super::support::check::check;
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::disk::Image;
use super::support::rng::Rng;
use super::support::sparse::SparseImage;

const BASE: &str = "base.vmdk";
const SECTORS: usize = 600;

fn read(disk: &CrashDisk, name: &str) -> vmdk::Result<Vec<u8>> {
    content_of(&OpenOptions::new().open_with(name, disk)?)
}

fn content_of(image: &VmdkImage) -> vmdk::Result<Vec<u8>> {
    let mut content = vec![0; SECTORS * SECTOR];
    image.read_sectors(0, &mut content)?;
    Ok(content)
}

/// Writes to an image, in several places, and makes a child of it; what it held before, and then.
fn run(disk: &CrashDisk, create_type: &CreateType) -> [Vec<u8>; 2] {
    let old = read(disk, BASE).unwrap();
    let mut new = old.clone();
    let base = OpenOptions::new().write(true).open_with(BASE, disk).unwrap();
    for (start, count) in [(3, 2), (130, 200), (599, 1)] {
        let bytes = &mut new[start * SECTOR..(start + count) * SECTOR];
        Rng::new(start as u64).fill(bytes);
        base.write_sectors(start as u64, bytes).unwrap();
    }
    let options = CreateOptions::new().create_type(create_type.clone());
    let child = base.create_child_in(NAME, disk, &options).unwrap();
    disk.mark(MADE);
    child.write_sectors(0, &[0xff; SECTOR]).unwrap();
    // Nothing of it was flushed.
    std::mem::forget((base, child));
    [old, new]
}

/// Looks at what crashes leave: whether there is a child with all that was written before it, or the image with each
/// sector as before or as written.
fn crash(files: &[(String, Vec<u8>)], create_type: &CreateType) -> usize {
    let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
    let [old, new] = run(&disk, create_type);
    let (mut states, mut with_child) = (0, 0);
    let mut choice = Choice::new(7).exhaustive_up_to(64).random(8).singles_per_change(3).metadata_below(1);
    disk.each_state(&mut choice, |state| {
        states += 1;
        let there = state.restart();
        let base = read(&there, BASE).unwrap_or_else(|error| panic!("{error}\nin the state: {state}"));
        if there.names().iter().any(|name| name == NAME) {
            with_child += 1;
            assert!(base == new, "not all that the child is made of\nin the state: {state}");
            let mut child = read(&there, NAME).unwrap_or_else(|error| panic!("{error}\nin the state: {state}"));
            let first = child.drain(..SECTOR).collect::<Vec<_>>();
            assert!(first == new[..SECTOR] || first == [0xff; SECTOR], "in the state: {state}");
            assert!(child == new[SECTOR..], "in the state: {state}");
        } else {
            assert!(!state.marks().contains(&MADE), "there is no child\nin the state: {state}");
            let mut sectors = base.chunks(SECTOR).zip(old.chunks(SECTOR).zip(new.chunks(SECTOR)));
            assert!(sectors.all(|(is, (old, new))| is == old || is == new), "in the state: {state}");
        }
    });
    assert!(with_child > 10 && with_child < states, "{with_child} of {states}");
    if disk.live(BASE).starts_with(b"KDMV") {
        let report = check(&disk.live(BASE));
        assert!(report.problems.is_empty() && !report.unclean, "{report:?}");
    }
    states
}

fn content() -> Vec<u8> {
    let mut content = Rng::new(6).bytes(SECTORS * SECTOR);
    content[100 * SECTOR..450 * SECTOR].fill(0);
    content
}

#[test]
fn a_child_of_a_sparse_disk_that_is_written_comes_after_all_that_was_written() {
    let mut extent = SparseImage::new(SECTORS as u64);
    for (grain, bytes) in content().chunks(128 * SECTOR).enumerate().filter(|(grain, _)| grain % 2 == 0) {
        extent = extent.data(grain as u64, bytes);
    }
    let base = Image::monolithic_sparse(BASE, extent);
    let types = [CreateType::MonolithicSparse, CreateType::VmfsSparse, CreateType::TwoGbMaxExtentSparse];
    let states: Vec<_> = types.iter().map(|create_type| crash(&base.files, create_type)).collect();
    println!("{states:?} states");
    assert!(states.iter().sum::<usize>() > 300, "{states:?}");
}

#[test]
fn a_child_of_a_flat_disk_that_is_written_comes_after_all_that_was_written() {
    let states = crash(&Image::monolithic_flat(BASE, content()).files, &CreateType::MonolithicSparse);
    println!("{states} states");
    assert!(states > 100, "{states}");
}
