//! Chains of which QEMU has made some links and this crate the others: both read the same, and write to the youngest.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use vmdk::{BlockDevice, CreateOptions, CreateType, OpenOptions, RawImage, Storage, VmdkImage};

use super::support::rng::Rng;
use super::{Model, Qemu, SECTOR, SPLIT, SPLIT_OF_QEMU, new_disk, open_to_write};

fn open(path: &Path) -> VmdkImage {
    OpenOptions::new().allow_any_path(true).open(path).unwrap_or_else(|error| panic!("{error}"))
}

/// Both read what is in the model.
#[track_caller]
fn both_agree(qemu: &Qemu, path: &Path, model: &Model, links: usize) {
    let what = format!("{} with {links} links", path.display());
    qemu.agrees(path, model, &what);
    let image = open(path);
    model.expect_same(&image, &what);
    assert_eq!(image.chain().len(), links, "{what}");
}

/// Both write to an image, and see what the other wrote.
fn in_turn(qemu: &Qemu, path: &Path, model: &Model, links: usize, rng: &mut Rng) {
    both_agree(qemu, path, model, links);
    let extents = open(path).chain()[0].extents().len();
    if links > 1 && extents > 1 {
        qemu.change_grains(path, model, rng);
    } else {
        qemu.change(path, model, rng);
    }
    both_agree(qemu, path, model, links);
    let image = open_to_write(path);
    model.change_with(&image, rng);
    image.close().unwrap();
    drop(image);
    both_agree(qemu, path, model, links);
}

/// A child made here, empty.
fn child(parent: &Path, path: &Path, options: &CreateOptions) {
    drop(open(parent).create_child(path, &options.clone().sync(false)).unwrap_or_else(|error| panic!("{error}")));
}

/// Past the first extent of either's split disks.
const SECTORS: u64 = SPLIT_OF_QEMU + 5000;

/// QEMU's base, a child made here, QEMU's grandchild, and its child made here.
fn base_by_qemu(test: &str, subformat: &str, child_type: &CreateType) {
    let Some(qemu) = Qemu::find(test) else { return };
    let rng = &mut Rng::new(1 + subformat.len() as u64);
    let model = qemu.model("model.raw", SECTORS);
    for dir in ["a", "b", "b/c"] {
        fs::create_dir(qemu.path(dir)).unwrap();
    }
    let [base, first, second, third] =
        ["base.vmdk", "first.vmdk", "a/second.vmdk", "b/c/third.vmdk"].map(|n| qemu.path(n));
    qemu.create("base.vmdk", &format!("subformat={subformat}"), SECTORS);
    in_turn(&qemu, &base, &model, 1, rng);

    child(&base, &first, &CreateOptions::new());
    assert_eq!(open(&first).create_type(), Some(child_type));
    in_turn(&qemu, &first, &model, 2, rng);

    // Made by QEMU against the content ID that was written last, here.
    qemu.create_child("../first.vmdk", "a/second.vmdk", "subformat=twoGbMaxExtentSparse,zeroed_grain=on");
    in_turn(&qemu, &second, &model, 3, rng);

    child(&second, &third, &CreateOptions::new().grain_sectors(16).zero_grains(true));
    let hint = open(&third).descriptor().parent_hint().unwrap().to_vec();
    assert_eq!(String::from_utf8(hint).unwrap(), "../../a/second.vmdk");
    in_turn(&qemu, &third, &model, 4, rng);
}

#[test]
fn a_chain_on_a_monolithic_sparse_base_of_qemu_is_one_disk_to_both() {
    let test = "a_chain_on_a_monolithic_sparse_base_of_qemu_is_one_disk_to_both";
    base_by_qemu(test, "monolithicSparse", &CreateType::MonolithicSparse);
}

#[test]
fn a_chain_on_a_monolithic_flat_base_of_qemu_is_one_disk_to_both() {
    let test = "a_chain_on_a_monolithic_flat_base_of_qemu_is_one_disk_to_both";
    base_by_qemu(test, "monolithicFlat", &CreateType::MonolithicSparse);
}

/// The borders of the extents of the base are not those of its child.
#[test]
fn a_chain_on_a_split_sparse_base_of_qemu_is_one_disk_to_both() {
    let test = "a_chain_on_a_split_sparse_base_of_qemu_is_one_disk_to_both";
    base_by_qemu(test, "twoGbMaxExtentSparse", &CreateType::TwoGbMaxExtentSparse);
}

#[test]
fn a_chain_on_a_split_flat_base_of_qemu_is_one_disk_to_both() {
    let test = "a_chain_on_a_split_flat_base_of_qemu_is_one_disk_to_both";
    base_by_qemu(test, "twoGbMaxExtentFlat", &CreateType::TwoGbMaxExtentSparse);
}

/// The other way round: a base made here, QEMU's child, a child of that made here, and QEMU's.
#[test]
fn a_chain_on_a_base_made_here_is_one_disk_to_both() {
    let Some(qemu) = Qemu::find("a_chain_on_a_base_made_here_is_one_disk_to_both") else { return };
    let types = [
        CreateType::MonolithicSparse,
        CreateType::MonolithicFlat,
        CreateType::TwoGbMaxExtentSparse,
        CreateType::TwoGbMaxExtentFlat,
        CreateType::Vmfs,
    ];
    for (seed, create_type) in (60..).zip(types) {
        let rng = &mut Rng::new(seed);
        let model = qemu.model("model.raw", SPLIT + 777);
        let names = ["base", "first", "second", "third"].map(|link| format!("{create_type}-{link}.vmdk"));
        let [base, first, second, third] = names.each_ref().map(|name| qemu.path(name));
        model.fill(rng);
        let source = RawImage::open(&model.path).unwrap();
        let options = new_disk(create_type.clone(), model.sectors);
        options.create_from(&base, &source, &mut |_| ControlFlow::Continue(())).unwrap();
        in_turn(&qemu, &base, &model, 1, rng);
        qemu.create_child(&names[0], &names[1], "subformat=monolithicSparse");
        in_turn(&qemu, &first, &model, 2, rng);
        child(&first, &second, &CreateOptions::new().create_type(CreateType::TwoGbMaxExtentSparse));
        in_turn(&qemu, &second, &model, 3, rng);
        qemu.create_child(&names[2], &names[3], "subformat=monolithicSparse");
        in_turn(&qemu, &third, &model, 4, rng);
    }
}

/// Deltas of ESX are written here alone: QEMU destroys their headers, see `qemu_defects`.
#[test]
fn a_chain_of_esx_made_here_is_read_by_qemu() {
    let Some(qemu) = Qemu::find("a_chain_of_esx_made_here_is_read_by_qemu") else { return };
    for (seed, base_type) in (80..).zip([CreateType::Vmfs, CreateType::VmfsSparse]) {
        let rng = &mut Rng::new(seed);
        let model = qemu.model("model.raw", 50_001);
        let mut parent = qemu.path(&format!("{base_type}.vmdk"));
        new_disk(base_type.clone(), model.sectors).create(&parent).unwrap();
        for links in 1..=3 {
            let image = open_to_write(&parent);
            model.change_with(&image, rng);
            image.close().unwrap();
            drop(image);
            both_agree(&qemu, &parent, &model, links);
            let next = qemu.path(&format!("{base_type}-00000{links}.vmdk"));
            child(&parent, &next, &CreateOptions::new());
            assert_eq!(open(&next).create_type(), Some(&CreateType::VmfsSparse));
            both_agree(&qemu, &next, &model, links + 1);
            parent = next;
        }
    }
}

/// Why QEMU writes whole grains above, and what is made here is right.
#[test]
fn a_grain_of_a_later_extent_is_filled_from_its_own_place_in_the_parent() {
    let test = "a_grain_of_a_later_extent_is_filled_from_its_own_place_in_the_parent";
    let Some(qemu) = Qemu::find(test) else { return };
    let model = qemu.model("model.raw", SPLIT + 1000);
    let [base, next] = ["base.vmdk", "child.vmdk"].map(|name| qemu.path(name));
    for (start, byte) in [(0, 0x22), (SPLIT, 0x11)] {
        model.storage().write_all_at(&vec![byte; 256 * SECTOR], start * SECTOR as u64).unwrap();
    }
    let source = RawImage::open(&model.path).unwrap();
    let options = new_disk(CreateType::MonolithicSparse, model.sectors);
    options.create_from(&base, &source, &mut |_| ControlFlow::Continue(())).unwrap();
    child(&base, &next, &CreateOptions::new().create_type(CreateType::TwoGbMaxExtentSparse));
    let image = open_to_write(&next);
    for sector in [SPLIT + 5, SPLIT + 200] {
        image.write_sectors(sector, &[0x33; SECTOR]).unwrap();
        model.storage().write_all_at(&[0x33; SECTOR], sector * SECTOR as u64).unwrap();
    }
    image.close().unwrap();
    drop(image);
    both_agree(&qemu, &next, &model, 2);
}

/// A child that is filled has what differs from its parent, and reads as its source to both.
#[test]
fn a_child_that_was_filled_is_read_by_qemu() {
    let Some(qemu) = Qemu::find("a_child_that_was_filled_is_read_by_qemu") else { return };
    for (seed, create_type) in
        (90..).zip([CreateType::MonolithicFlat, CreateType::TwoGbMaxExtentSparse, CreateType::Vmfs])
    {
        let rng = &mut Rng::new(seed);
        let model = qemu.model("model.raw", 70_001);
        model.fill(rng);
        let [base, next] = ["base", "child"].map(|link| qemu.path(&format!("{create_type}-{link}.vmdk")));
        let source = RawImage::open(&model.path).unwrap();
        let options = new_disk(create_type.clone(), model.sectors);
        options.create_from(&base, &source, &mut |_| ControlFlow::Continue(())).unwrap();
        // The source goes on; among the rest it has zeros now where the base has data.
        let scratch = qemu.path("scratch.vmdk");
        new_disk(CreateType::MonolithicSparse, model.sectors).replace(true).create(&scratch).unwrap();
        qemu.change(&scratch, &model, rng);
        let source = RawImage::open(&model.path).unwrap();
        let made =
            open(&base).create_child_from(&next, &CreateOptions::new(), &source, &mut |_| ControlFlow::Continue(()));
        made.unwrap().close().unwrap();
        both_agree(&qemu, &next, &model, 2);
    }
}

/// What stands in the descriptor could be a protocol, a drive or a format to QEMU.
#[cfg(unix)]
#[test]
fn awkward_names_of_disks_and_parents_are_no_obstacle_to_qemu() {
    let Some(qemu) = Qemu::find("awkward_names_of_disks_and_parents_are_no_obstacle_to_qemu") else { return };
    for (seed, name) in (100..).zip([
        "a b.vmdk",
        " a.vmdk",
        "Übergröße.vmdk",
        "nbd:localhost.vmdk",
        "C:x.vmdk",
        "[x] y.vmdk",
        "json:{}.vmdk",
        "json:{'driver':'raw'}",
        "a\\b.vmdk",
        "\\a.vmdk",
        "-a.vmdk",
        ".vmdk",
        "a=b,c.vmdk",
        "%s%n.vmdk",
        "fat:rw:x",
    ]) {
        let rng = &mut Rng::new(seed);
        let model = qemu.model("model.raw", 500);
        let dir = qemu.path(&seed.to_string());
        fs::create_dir(&dir).unwrap();
        let base = dir.join(name);
        model.fill(rng);
        let source = RawImage::open(&model.path).unwrap();
        let options = new_disk(CreateType::TwoGbMaxExtentFlat, model.sectors);
        options.create_from(&base, &source, &mut |_| ControlFlow::Continue(())).unwrap();
        both_agree(&qemu, &base, &model, 1);
        // Its extent is named after it, and so is its parent.
        let next = dir.join(format!("{name}-000001"));
        child(&base, &next, &CreateOptions::new());
        qemu.change(&next, &model, rng);
        both_agree(&qemu, &next, &model, 2);
    }
}
