//! Disks made here as libvmdk and dissect.hypervisor read them: libraries of forensic tools, by other authors.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmdk::{CreateOptions, CreateType, RawImage, Storage, VmdkImage};

use super::support::rng::Rng;
use super::support::tools::{self, Reader};
use super::{Model, SECTOR, SPLIT, TABLE, index, new_disk, open_to_write};

const TYPES: [CreateType; 6] = [
    CreateType::MonolithicSparse,
    CreateType::MonolithicFlat,
    CreateType::TwoGbMaxExtentSparse,
    CreateType::TwoGbMaxExtentFlat,
    CreateType::Vmfs,
    CreateType::VmfsSparse,
];

/// Fails unless a library reads from an image, the first of `paths`, what is in the model, but for the sectors before
/// `start`.
#[track_caller]
fn reads_the_same(reader: &Reader, paths: &[&Path], model: &Model, start: u64, what: &str) {
    let [size, offset] = [model.sectors, start].map(|sectors| sectors * SECTOR as u64);
    let mut content = vec![0; index(model.sectors - start) * SECTOR];
    model.storage().read_exact_at(&mut content, offset).unwrap();
    assert_eq!(reader.read(offset, paths), (size, tools::sha256_hex(&content)), "{what}");
}

fn filled(dir: &TempDir, create_type: &CreateType, sectors: u64, rng: &mut Rng) -> (PathBuf, Model) {
    let model = Model::new(dir.path(), "model.raw", sectors);
    model.fill(rng);
    let path = dir.path().join(format!("{create_type}-{sectors}.vmdk"));
    let source = RawImage::open(&model.path).unwrap();
    let options = new_disk(create_type.clone(), sectors);
    options.create_from(&path, &source, &mut |_| ControlFlow::Continue(())).unwrap();
    (path, model)
}

fn disks_are_read(reader: &Reader, capacities: &[u64]) {
    for create_type in TYPES {
        for (seed, &sectors) in (1..).zip(capacities) {
            let dir = tempfile::tempdir().unwrap();
            let rng = &mut Rng::new(seed);
            let (path, model) = filled(&dir, &create_type, sectors, rng);
            reads_the_same(reader, &[&path], &model, 0, &format!("{create_type} of {sectors}"));
            if sectors < TABLE {
                continue;
            }
            let image = open_to_write(&path);
            model.change_with(&image, rng);
            image.close().unwrap();
            drop(image);
            reads_the_same(reader, &[&path], &model, 0, &format!("{create_type} of {sectors}, written"));
        }
    }
}

/// A base, a child and its child, the last in another directory, each with something of its own.
fn chains_are_read(reader: &Reader) {
    for base_type in TYPES {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let rng = &mut Rng::new(77);
        let (base, model) = filled(&dir, &base_type, 20_480, rng);
        let mut chain = vec![base];
        for name in ["first.vmdk", "sub/second.vmdk"] {
            let parent = VmdkImage::open(&chain[0]).unwrap();
            let path = dir.path().join(name);
            let child = parent.create_child(&path, &CreateOptions::new().sync(false)).unwrap();
            model.change_with(&child, rng);
            child.close().unwrap();
            chain.insert(0, path);
            let paths: Vec<&Path> = chain.iter().map(PathBuf::as_path).collect();
            reads_the_same(reader, &paths, &model, 0, &format!("{name} over {base_type}"));
        }
    }
}

/// All of it is hashed.
const SMALL: [u64; 3] = [1, 4097, TABLE + 1];

#[test]
fn libvmdk_reads_every_type() {
    let Some(reader) = tools::reader("libvmdk_reads_every_type", "pyvmdk") else { return };
    disks_are_read(&reader, &SMALL);
}

#[test]
fn libvmdk_reads_chains() {
    let Some(reader) = tools::reader("libvmdk_reads_chains", "pyvmdk") else { return };
    chains_are_read(&reader);
}

/// It fails at the end of a disk that is not a multiple of 8 KiB.
#[test]
fn dissect_reads_every_type() {
    let Some(reader) = tools::reader("dissect_reads_every_type", "dissect") else { return };
    disks_are_read(&reader, &SMALL.map(|sectors| sectors.next_multiple_of(16)));
}

#[test]
fn dissect_reads_chains() {
    let Some(reader) = tools::reader("dissect_reads_chains", "dissect") else { return };
    chains_are_read(&reader);
}

/// What lies round the border of the extents.
#[test]
fn split_disks_are_read_by_libvmdk_and_dissect() {
    for module in ["pyvmdk", "dissect"] {
        let Some(reader) = tools::reader("split_disks_are_read_by_libvmdk_and_dissect", module) else { continue };
        for create_type in [CreateType::TwoGbMaxExtentSparse, CreateType::TwoGbMaxExtentFlat] {
            let dir = tempfile::tempdir().unwrap();
            let (path, model) = filled(&dir, &create_type, SPLIT + 16 * 99, &mut Rng::new(5));
            reads_the_same(&reader, &[&path], &model, SPLIT - 4096, &format!("{module}: {create_type}"));
        }
    }
}
