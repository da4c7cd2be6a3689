//! The images in `fixtures/` are what the manifest says they are.
//!
//! With `VMDK_WRITE_FIXTURES=1` in the environment the images that are built here are written instead of compared, and
//! the manifest gets the sizes and digests that it should have had.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use vmdk::{BlockDevice, CreateType, FileStorage, VmdkImage};

use support::disk::Image;
use support::fixtures::{self, BUILT, Row};
use support::model::{MemoryDevice, RawDevice};
use support::tools::{self, Tool};

/// A disk over this size has a digest that leaves out the zeros.
const LARGE: u64 = 1 << 30;

fn writing() -> bool {
    std::env::var_os("VMDK_WRITE_FIXTURES").is_some_and(|value| value == "1")
}

/// All that is built here, with the name of the generator.
fn built() -> Vec<(&'static str, Image)> {
    BUILT.iter().flat_map(|(name, make)| make().into_iter().map(move |image| (*name, image))).collect()
}

fn digest(device: &dyn BlockDevice) -> String {
    if device.capacity_sectors() * 512 > LARGE {
        return tools::nz4k(device);
    }
    let mut content = vec![0; support::byte_range(0, device.capacity_sectors()).end];
    device.read_sectors(0, &mut content).unwrap();
    tools::sha256_hex(&content)
}

/// Size and digest of what qemu-img reads from a fixture.
fn seen_by(qemu_img: Tool, file: &str) -> (u64, String) {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    qemu_img.convert_to_raw(&fixtures::path(file), &raw);
    let device = RawDevice::new(Arc::new(FileStorage::open(&raw).unwrap()));
    (device.capacity_sectors() * 512, digest(&device))
}

#[test]
fn fixtures_that_are_built_here_come_out_the_same_again() {
    for (generator, image) in built() {
        for (name, bytes) in &image.files {
            if writing() {
                fs::write(fixtures::path(name), bytes).unwrap();
            }
            let stored = fs::read(fixtures::path(name)).unwrap();
            assert!(stored == *bytes, "{name}: {generator} makes something else");
        }
    }
}

#[test]
fn the_manifest_has_the_content_of_what_is_built_here() {
    if writing() {
        return write_manifest();
    }
    let manifest = fixtures::manifest();
    for (generator, image) in built() {
        let row = manifest.iter().find(|row| row.file == image.name);
        let row = row.unwrap_or_else(|| panic!("{} is not in the manifest", image.name));
        assert_eq!(row.how, how_built(generator), "{}", row.file);
        assert_eq!(row.capacity_bytes, image.content.len() as u64, "{}", row.file);
        assert_eq!(row.digest, tools::sha256_hex(&image.content), "{}", row.file);
    }
}

#[test]
fn qemu_reads_from_every_fixture_what_the_manifest_says() {
    if writing() {
        return;
    }
    let Some(qemu_img) = tools::qemu_img("qemu_reads_from_every_fixture_what_the_manifest_says") else { return };
    for row in fixtures::manifest() {
        // QEMU knows no custom mixes, and no COWD without a descriptor; what is built here has its model.
        if row.kind != "custom" && !row.kind.starts_with("COWD") {
            let expected = (row.capacity_bytes, row.digest);
            assert_eq!(seen_by(qemu_img, &row.file), expected, "{}", row.file);
        }
    }
}

#[test]
fn every_fixture_reads_as_the_manifest_says() {
    if writing() {
        return;
    }
    for row in fixtures::manifest() {
        let image = VmdkImage::open(fixtures::path(&row.file)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(image.capacity_sectors() * 512, row.capacity_bytes, "{}", row.file);
        assert_eq!(digest(&image), row.digest, "{}", row.file);
        // The kind as far as the first comma is what the file itself says.
        let kind = row.kind.split(',').next().unwrap();
        assert_eq!(image.create_type().map_or("COWD", CreateType::as_str), kind, "{}", row.file);
        let is_child = row.kind.contains("child of");
        assert_eq!(image.chain().len() > 1, is_child, "{}", row.file);
    }
}

#[test]
fn every_fixture_has_a_row_and_all_of_them_are_small() {
    const MOST_BYTES: u64 = 5_000_000;
    if writing() {
        return;
    }
    let manifest = fixtures::manifest();
    let mut total = 0;
    for entry in fs::read_dir(fixtures::dir()).unwrap() {
        let entry = entry.unwrap();
        total += entry.metadata().unwrap().len();
        let name = entry.file_name().into_string().unwrap();
        if Path::new(&name).extension().is_some_and(|extension| extension == "vmdk") {
            // An extent goes with the image whose name it begins with.
            let known = |row: &Row| name == row.file || name.starts_with(&row.file.replace(".vmdk", "-"));
            assert!(manifest.iter().any(known), "{name} is not in the manifest");
        }
    }
    assert!(total < MOST_BYTES, "{total} bytes of fixtures");
    for row in manifest {
        assert!(fixtures::path(&row.file).is_file(), "{} is missing", row.file);
    }
}

fn how_built(generator: &str) -> String {
    format!("tests/support/fixtures.rs: {generator}")
}

/// Keeps the rows of what is made elsewhere, but for size and digest.
fn write_manifest() {
    let qemu_img = tools::qemu_img("write_manifest").expect("qemu-img is needed to write the manifest");
    let built = built();
    let mut rows = fixtures::manifest();
    for row in &mut rows {
        (row.capacity_bytes, row.digest) = match built.iter().find(|(_, image)| image.name == row.file) {
            Some((_, image)) => (image.content.len() as u64, digest(&MemoryDevice::new(image.content.clone()))),
            None => seen_by(qemu_img, &row.file),
        };
    }
    fixtures::write_manifest(&rows);
}
