//! What another reader sees of a resized disk: its new size, what was there, and zeros.

use std::fs;
use std::path::Path;

use vmdk::{BlockDevice, OpenOptions, ResizeOptions};

use super::stage::{Stage, go_on};
use super::support::SECTOR;
use super::support::disk::Kind;
use super::support::tools::{Tool, qemu_img};

#[track_caller]
fn agrees(qemu: Tool, path: &Path, content: &[u8], what: &str) {
    let text = path.to_str().unwrap();
    let info = qemu.run(["info", "-f", "vmdk", "--output=json", text]);
    assert!(info.contains(&format!("\"virtual-size\": {}", content.len())), "{what}: {info}");
    assert!(qemu.raw_of(path) == *content, "{what}");
    qemu.run(["check", "-f", "vmdk", text]);
}

#[test]
fn qemu_reads_what_was_there_and_zeros() {
    let Some(qemu) = qemu_img("qemu_reads_what_was_there_and_zeros") else { return };
    for kind in [
        Kind::MonolithicSparse,
        Kind::SmallGrains,
        Kind::NoRedundantTables,
        Kind::MonolithicFlat,
        Kind::TwoGbMaxExtentFlat,
        Kind::Vmfs,
        Kind::Child,
        Kind::SmallerChild,
        Kind::EsxDelta,
    ] {
        let is_usual = matches!(kind, Kind::MonolithicSparse | Kind::Child);
        for more in [100 * 128, 66_000].into_iter().filter(|&more| more < 60_000 || is_usual) {
            let mut stage = Stage::of(kind, 5);
            // QEMU sees whole grains of the last extent where that is no whole number of them.
            let sectors = (stage.sectors() + more).next_multiple_of(128);
            let dir = tempfile::tempdir().unwrap();
            for (name, bytes) in &stage.files {
                fs::write(dir.path().join(name), bytes).unwrap();
            }
            let path = dir.path().join(&stage.name);
            OpenOptions::new().resize(&path, sectors, ResizeOptions::new(), &mut go_on).unwrap();
            let what = format!("{kind:?} {more}");
            stage.content = stage.expected(sectors);
            agrees(qemu, &path, &stage.content, &what);
            // And after a write where it has grown, and back.
            let image = OpenOptions::new().write(true).open(&path).unwrap();
            let half = usize::try_from(sectors / 2).unwrap();
            image.write_sectors(sectors / 2, &[5; SECTOR]).unwrap();
            image.close().unwrap();
            drop(image);
            stage.content[half * SECTOR..(half + 1) * SECTOR].fill(5);
            agrees(qemu, &path, &stage.content, &what);
            let options = ResizeOptions::new().allow_shrink(true);
            let smaller = (sectors / 2 + 1).next_multiple_of(128);
            OpenOptions::new().resize(&path, smaller, options, &mut go_on).unwrap();
            agrees(qemu, &path, &stage.content[..usize::try_from(smaller).unwrap() * SECTOR], &what);
        }
    }
}
