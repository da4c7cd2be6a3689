//! Streams beside QEMU: what it writes is read here, and what it reads of ours is the same.

use std::path::Path;

use vmdk::{BlockDevice, VmdkImage};

use crate::support::rng::Rng;
use crate::support::stream::{KINDS, StreamKind};
use crate::support::tools::{Tool, qemu_img};
use crate::support::{SECTOR, index};
use crate::{GRAIN, TABLE, content, described};

/// Grains of all sorts: zeros, noise, text, half of each.
fn raw(capacity: u64, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < index(capacity) * SECTOR {
        let len = 65_536;
        match rng.below(4) {
            0 => bytes.resize(bytes.len() + len, 0),
            1 => bytes.extend(rng.bytes(len)),
            2 => bytes.extend((0..len).map(|at| b"a line of some text\n"[at % 20])),
            _ => {
                bytes.extend(rng.bytes(len / 2));
                bytes.resize(bytes.len() + len / 2, 0);
            }
        }
    }
    bytes.truncate(index(capacity) * SECTOR);
    bytes
}

fn write_by(qemu: Tool, options: &str, raw: &[u8], path: &Path) {
    let source = path.with_extension("raw");
    std::fs::write(&source, raw).unwrap();
    let options = format!("subformat=streamOptimized{options}");
    let [source, path] = [&source, path].map(|path| path.to_str().unwrap());
    qemu.run(["convert", "-f", "raw", "-O", "vmdk", "-o", &options, source, path]);
}

#[test]
fn streams_of_qemu_read_as_what_they_were_made_of() {
    let Some(qemu) = qemu_img("streams_of_qemu_read_as_what_they_were_made_of") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(1);
    for capacity in [1, 127, 128, 129, 777, TABLE - 1, TABLE, TABLE + 130] {
        for options in ["", ",zeroed_grain=on"] {
            let (raw, path) = (raw(capacity, &mut rng), dir.path().join("disk.vmdk"));
            write_by(qemu, options, &raw, &path);
            let image = VmdkImage::open(&path).unwrap();
            assert!(content(&image).unwrap() == raw, "{capacity} sectors {options}");
            let mut sector = [0; SECTOR];
            for _ in 0..50 {
                let at = rng.below(capacity);
                image.read_sectors(at, &mut sector).unwrap();
                assert!(sector == raw[index(at) * SECTOR..][..SECTOR]);
            }
        }
    }
}

/// The oracle for every layout is another reader of all of them.
#[test]
fn qemu_reads_all_layouts_as_they_are_read_here() {
    let Some(qemu) = qemu_img("qemu_reads_all_layouts_as_they_are_read_here") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(2);
    for capacity in [129, 9 * GRAIN + 5, TABLE + 3] {
        for kind in KINDS {
            let stream = described(kind, capacity).random_order(&mut rng);
            let path = dir.path().join("disk.vmdk");
            std::fs::write(&path, stream.build()).unwrap();
            let ours = content(&VmdkImage::open(&path).unwrap()).unwrap();
            assert!(qemu.raw_of(&path) == ours, "{kind:?}, {capacity} sectors");
            assert!(ours == stream.layer().content());
        }
    }
}

/// QEMU takes a footer in one place only, does not look at the sector in a marker, and ignores flag 17.
#[test]
fn qemu_reads_a_grain_of_another_sector_and_here_it_is_an_error() {
    let Some(qemu) = qemu_img("qemu_reads_a_grain_of_another_sector_and_here_it_is_an_error") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let stream = described(StreamKind::Classic, 2 * GRAIN).grain_at(0, GRAIN, [7; SECTOR]);
    std::fs::write(&path, stream.build()).unwrap();
    assert!(qemu.raw_of(&path)[..SECTOR] == [7; SECTOR]);
    let error = VmdkImage::open(&path).unwrap().read_sectors(0, &mut [0; SECTOR]).unwrap_err();
    assert!(error.to_string().contains("lba"), "{error}");
}

#[test]
fn qemu_finds_no_footer_before_zeros_and_here_it_is_found() {
    let Some(qemu) = qemu_img("qemu_finds_no_footer_before_zeros_and_here_it_is_found") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vmdk");
    let stream = described(StreamKind::Classic, 2 * GRAIN).grain(1, [7; SECTOR]);
    std::fs::write(&path, [stream.build(), vec![0; 9 * SECTOR]].concat()).unwrap();
    let output = qemu.output(["info", path.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(content(&VmdkImage::open(&path).unwrap()).unwrap() == stream.layer().content());
}
