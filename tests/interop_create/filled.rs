//! Disks that are filled from a raw one, as QEMU sees them.

use std::ops::ControlFlow;
use std::path::Path;

use vmdk::{BlockDevice, CreateType, RawImage, Storage, VmdkImage};

use super::support::rng::Rng;
use super::support::{SECTOR, index};
use super::{Qemu, SPLIT, TABLE, new_disk, open_to_write};

const TIB: u64 = 1 << 31;

/// The word of `qemu-img info` for what stands in an extent line.
fn extent_format(create_type: &CreateType) -> &'static str {
    match create_type {
        CreateType::MonolithicSparse | CreateType::TwoGbMaxExtentSparse => "SPARSE",
        CreateType::VmfsSparse => "VMFSSPARSE",
        CreateType::Vmfs => "VMFS",
        _ => "FLAT",
    }
}

/// Fills a disk from a raw one, and lets QEMU look at it, and write to it unless that is known to go wrong: see
/// `qemu_defects`.
fn filled_and_written(qemu: &Qemu, create_type: &CreateType, sectors: u64, rng: &mut Rng) {
    let what = format!("{create_type} of {sectors}");
    let model = qemu.model("model.raw", sectors);
    model.fill(rng);
    let path = qemu.path("disk.vmdk");
    let source = RawImage::open(&model.path).unwrap();
    let options = new_disk(create_type.clone(), sectors).replace(true);
    options.create_from(&path, &source, &mut |_| ControlFlow::Continue(())).unwrap();
    qemu.agrees(&path, &model, &what);

    let info = qemu.info(&path);
    assert_eq!(info["virtual-size"], sectors * SECTOR as u64, "{what}");
    let data = &info["format-specific"]["data"];
    assert_eq!(data["create-type"], create_type.as_str(), "{what}");
    let image = VmdkImage::open(&path).unwrap();
    assert_eq!(data["cid"], image.content_id().unwrap().value(), "{what}");
    assert_eq!(data["parent-cid"], u32::MAX, "{what}");
    let extents = data["extents"].as_array().unwrap();
    assert_eq!(extents.len(), image.chain()[0].extents().len(), "{what}");
    for (extent, ours) in extents.iter().zip(image.chain()[0].extents()) {
        let [file, theirs] = [ours.file().unwrap().path(), Path::new(extent["filename"].as_str().unwrap())];
        assert_eq!(theirs.file_name(), file.file_name(), "{what}");
        if *create_type != CreateType::MonolithicSparse {
            assert_eq!(extent["format"], extent_format(create_type), "{what}");
        }
        assert_eq!(extent["virtual-size"], ours.sectors() * SECTOR as u64, "{what}");
    }
    model.expect_same(&image, &what);
    drop(image);

    if *create_type != CreateType::VmfsSparse {
        qemu.change(&path, &model, rng);
        model.expect_same(&VmdkImage::open(&path).unwrap(), &format!("{what}, written by QEMU"));
        qemu.agrees(&path, &model, &format!("{what}, written by QEMU"));
    }
}

fn filled(test: &str, create_type: &CreateType, capacities: &[u64]) {
    let Some(qemu) = Qemu::find(test) else { return };
    for (seed, &sectors) in (1..).zip(capacities) {
        filled_and_written(&qemu, create_type, sectors, &mut Rng::new(seed));
    }
}

#[test]
fn a_monolithic_sparse_disk_made_here_is_qemus_too() {
    let test = "a_monolithic_sparse_disk_made_here_is_qemus_too";
    let capacities = [1, 7, 127, 129, TABLE - 1, TABLE, TABLE + 1, SPLIT + 1];
    filled(test, &CreateType::MonolithicSparse, &capacities);
}

#[test]
fn a_monolithic_flat_disk_made_here_is_qemus_too() {
    let test = "a_monolithic_flat_disk_made_here_is_qemus_too";
    filled(test, &CreateType::MonolithicFlat, &[1, 7, 129, TABLE + 1, SPLIT + 1]);
}

#[test]
fn a_split_sparse_disk_made_here_is_qemus_too() {
    let test = "a_split_sparse_disk_made_here_is_qemus_too";
    let capacities = [1, 7, 129, TABLE, TABLE + 1, SPLIT - 1, SPLIT, SPLIT + 1, 3 * SPLIT + 1];
    filled(test, &CreateType::TwoGbMaxExtentSparse, &capacities);
}

#[test]
fn a_split_flat_disk_made_here_is_qemus_too() {
    let test = "a_split_flat_disk_made_here_is_qemus_too";
    filled(test, &CreateType::TwoGbMaxExtentFlat, &[1, 129, SPLIT - 1, SPLIT, SPLIT + 1, 2 * SPLIT + 1]);
}

#[test]
fn a_vmfs_disk_made_here_is_qemus_too() {
    filled("a_vmfs_disk_made_here_is_qemus_too", &CreateType::Vmfs, &[1, 129, TABLE + 1, SPLIT + 1]);
}

#[test]
fn a_vmfs_sparse_disk_made_here_is_read_by_qemu() {
    let test = "a_vmfs_sparse_disk_made_here_is_read_by_qemu";
    filled(test, &CreateType::VmfsSparse, &[1, 7, 4095, 4096, 4097, TABLE + 1]);
}

/// To look for what is not there takes QEMU minutes. It reads what was written here, and what it writes is read here.
#[test]
fn the_edges_of_large_disks_are_read_and_written_by_qemu() {
    let Some(qemu) = Qemu::find("the_edges_of_large_disks_are_read_and_written_by_qemu") else { return };
    for (create_type, sectors) in [
        (CreateType::MonolithicSparse, 2 * TIB),
        (CreateType::MonolithicSparse, 8 * TIB),
        (CreateType::MonolithicFlat, 2 * TIB),
        (CreateType::TwoGbMaxExtentSparse, 50 * SPLIT + 1),
        (CreateType::TwoGbMaxExtentFlat, 50 * SPLIT + 1),
        (CreateType::Vmfs, 2 * TIB),
        (CreateType::VmfsSparse, 2 * TIB - 1),
    ] {
        let what = format!("{create_type} of {sectors}");
        let path = qemu.path("disk.vmdk");
        new_disk(create_type.clone(), sectors).replace(true).create(&path).unwrap();
        assert_eq!(qemu.info(&path)["virtual-size"], sectors * SECTOR as u64, "{what}");
        let edges = [0, TABLE - 1, TABLE, SPLIT - 1, SPLIT, sectors / 2, sectors - TABLE, sectors - 2, sectors - 1];
        let byte = |number: usize| u8::try_from(number + 1).unwrap();
        let image = open_to_write(&path);
        for (number, sector) in edges.into_iter().enumerate() {
            image.write_sectors(sector, &[byte(number); SECTOR]).unwrap();
        }
        image.close().unwrap();
        drop(image);
        let run = |verb: &str, offset: usize| {
            let commands: Vec<String> = (0..edges.len())
                .map(|number| format!("{verb} -P {} {} 512", byte(number + offset), edges[number] * SECTOR as u64))
                .collect();
            let mut args = vec!["-f", "vmdk"];
            args.extend(commands.iter().flat_map(|command| ["-c", command]));
            args.push(path.to_str().unwrap());
            let said = qemu.io.run(args);
            assert!(!said.contains("fail") && said.matches("512/512 bytes").count() == edges.len(), "{what}: {said}");
        };
        run("read", 0);
        if create_type != CreateType::VmfsSparse {
            run("write", 100);
            let image = VmdkImage::open(&path).unwrap();
            for (number, sector) in edges.into_iter().enumerate() {
                let mut found = [0; SECTOR];
                image.read_sectors(sector, &mut found).unwrap();
                assert_eq!(found, [byte(number + 100); SECTOR], "{what}: sector {sector}");
            }
        }
    }
}

#[test]
fn grains_of_every_size_are_read_and_written_by_qemu() {
    let Some(qemu) = Qemu::find("grains_of_every_size_are_read_and_written_by_qemu") else { return };
    let hosted = [8, 16, 32, 64].map(|grain| (CreateType::MonolithicSparse, grain));
    let split = [8, 32].map(|grain| (CreateType::TwoGbMaxExtentSparse, grain));
    let esx = [2, 8, 128, 2048].map(|grain| (CreateType::VmfsSparse, grain));
    for (seed, (create_type, grain)) in (20..).zip(hosted.into_iter().chain(split).chain(esx)) {
        let rng = &mut Rng::new(seed);
        let what = format!("{create_type} in grains of {grain}");
        let model = qemu.model("model.raw", 20_000 + rng.below(99));
        model.fill(rng);
        let path = qemu.path("disk.vmdk");
        let source = RawImage::open(&model.path).unwrap();
        let options = new_disk(create_type.clone(), model.sectors).grain_sectors(grain).replace(true);
        options.create_from(&path, &source, &mut |_| ControlFlow::Continue(())).unwrap();
        qemu.agrees(&path, &model, &what);
        let extents = &qemu.info(&path)["format-specific"]["data"]["extents"];
        assert_eq!(extents[0]["cluster-size"], grain * SECTOR as u64, "{what}");
        if create_type != CreateType::VmfsSparse {
            qemu.change(&path, &model, rng);
            qemu.agrees(&path, &model, &what);
        }
        model.expect_same(&VmdkImage::open(&path).unwrap(), &what);
    }
}

#[test]
fn zero_grains_are_read_and_written_by_qemu() {
    let Some(qemu) = Qemu::find("zero_grains_are_read_and_written_by_qemu") else { return };
    for (seed, create_type) in (40..).zip([CreateType::MonolithicSparse, CreateType::TwoGbMaxExtentSparse]) {
        let rng = &mut Rng::new(seed);
        let model = qemu.model("model.raw", 3 * TABLE + 5);
        model.fill(rng);
        let path = qemu.path("disk.vmdk");
        let source = RawImage::open(&model.path).unwrap();
        let options = new_disk(create_type.clone(), model.sectors).zero_grains(true).replace(true);
        options.create_from(&path, &source, &mut |_| ControlFlow::Continue(())).unwrap();
        for round in 0..3 {
            qemu.change(&path, &model, rng);
            model.expect_same(&VmdkImage::open(&path).unwrap(), &format!("{create_type}: {round}"));
            let image = open_to_write(&path);
            model.change_with(&image, rng);
            image.close().unwrap();
            drop(image);
            qemu.agrees(&path, &model, &format!("{create_type}: {round}"));
        }
    }
}

/// What the source does not hold takes no space in the disk, and QEMU sees no data there.
#[test]
fn zeros_of_the_source_are_not_in_the_disk() {
    let Some(qemu) = Qemu::find("zeros_of_the_source_are_not_in_the_disk") else { return };
    let model = qemu.model("model.raw", 10 * TABLE);
    let storage = model.storage();
    storage.write_all_at(&vec![0; index(TABLE) * SECTOR], 0).unwrap();
    storage.write_all_at(&Rng::new(1).bytes(128 * SECTOR), TABLE * SECTOR as u64).unwrap();
    for create_type in [CreateType::MonolithicSparse, CreateType::TwoGbMaxExtentSparse, CreateType::VmfsSparse] {
        let path = qemu.path("disk.vmdk");
        let source = RawImage::open(&model.path).unwrap();
        let options = new_disk(create_type.clone(), model.sectors).replace(true);
        options.create_from(&path, &source, &mut |_| ControlFlow::Continue(())).unwrap();
        let map = qemu.img.run(["map", "-f", "vmdk", "--output=json", path.to_str().unwrap()]);
        let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
        let data = map.iter().filter(|entry| entry["data"] == true).map(|entry| entry["length"].as_u64().unwrap());
        assert_eq!(data.sum::<u64>(), 128 * SECTOR as u64, "{create_type}");
    }
}
