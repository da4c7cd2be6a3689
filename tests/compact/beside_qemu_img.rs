//! Disks on a real file system: what other readers see of them is the same, and they take less space.

use std::fs;
use std::path::Path;

use vmdk::{CompactMode, OpenOptions};

use super::stage::{MODES, Stage, go_on};
use super::support::disk::{Image, Kind};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;
use super::support::tools::{Tool, qemu_img};
use super::support::{SECTOR, index};

fn write_to(stage: &Stage, dir: &Path) -> std::path::PathBuf {
    for (name, bytes) in stage.files() {
        fs::write(dir.join(name), bytes).unwrap();
    }
    dir.join(&stage.name)
}

#[track_caller]
fn agrees(qemu: Tool, path: &Path, content: &[u8], what: &str) {
    let found = qemu.raw_of(path);
    assert!(found[..content.len()] == *content, "{what}");
    let checked = qemu.output(["check".as_ref(), "-f".as_ref(), "vmdk".as_ref(), path.as_os_str()]);
    assert!(checked.status.success(), "{what}: {}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn qemu_reads_what_it_read() {
    let Some(qemu) = qemu_img("qemu_reads_what_it_read") else { return };
    for kind in Kind::ALL.into_iter().filter(|kind| kind.qemu_reads_it()) {
        for mode in MODES {
            let stage = Stage::of(kind, 5);
            let dir = tempfile::tempdir().unwrap();
            let path = write_to(&stage, dir.path());
            let before = qemu.raw_of(&path);
            OpenOptions::new().compact(&path, mode, &mut go_on).unwrap();
            assert!(qemu.raw_of(&path) == before, "{kind:?} {mode:?}");
            let content = &stage.content;
            agrees(qemu, &path, content, &format!("{kind:?} {mode:?}"));
        }
    }
}

/// A disk of 8 MiB in a file of its own: every other grain is zero, or as in its parent.
#[test]
fn files_take_less_space_and_the_report_says_how_much() {
    let grains = 128;
    let rng = &mut Rng::new(1);
    let base = Image::monolithic_flat("base.vmdk", rng.bytes(index(grains) * 65_536));
    let data = |grain: u64, rng: &mut Rng| match grain % 4 {
        0 => vec![0; 65_536],
        2 => base.content[index(grain) * 65_536..][..65_536].to_vec(),
        _ => rng.bytes(65_536),
    };
    for (mode, zero_grains) in [(CompactMode::Punch, true), (CompactMode::Move, true), (CompactMode::Move, false)] {
        let dir = tempfile::tempdir().unwrap();
        let extent = SparseImage::new(grains * 128);
        let extent = if zero_grains { extent.with_zero_grains() } else { extent };
        let extent = (0..grains).fold(extent, |extent, grain| extent.data(grain, data(grain, rng)));
        let child = Image::child(&base, "disk.vmdk", extent);
        base.write_to(dir.path());
        let path = child.write_to(dir.path());
        let report = OpenOptions::new().compact(&path, mode, &mut go_on).unwrap();
        let what = format!("{mode:?} {zero_grains}: {report:?}");
        let [zeroed, punched] = if zero_grains { [32, 0] } else { [0, 32] };
        let found = [report.grains_unallocated, report.grains_zeroed, report.grains_punched];
        assert_eq!(found, [32, zeroed, punched], "{what}");
        // The places of punched grains are needed for their entries.
        let needed = 65_536 * if zero_grains { 64 } else { 96 };
        assert!(report.allocated_after < 66 * 65_536 && report.allocated_before > 127 * 65_536, "{what}");
        assert_eq!(fs::metadata(&path).unwrap().len(), report.length_after, "{what}");
        match mode {
            CompactMode::Move => assert_eq!(report.length_after, 65_536 + needed, "{what}"),
            _ => assert_eq!(report.grains_moved, 0, "{what}"),
        }
        let image = vmdk::VmdkImage::open(&path).unwrap();
        let mut content = vec![0; child.content.len()];
        vmdk::BlockDevice::read_sectors(&image, 0, &mut content).unwrap();
        assert!(content == child.content, "{what}");
        drop(image);
        if let Some(qemu) = qemu_img("files_take_less_space_and_the_report_says_how_much") {
            agrees(qemu, &path, &child.content, &what);
        }
    }
}

#[test]
fn zeros_of_a_flat_file_become_holes() {
    let dir = tempfile::tempdir().unwrap();
    let mut content = Rng::new(3).bytes(4 << 20);
    content[100_000..1_100_000].fill(0);
    content[2_000_000..2_010_000].fill(0);
    content[3 << 20..].fill(0);
    let path = Image::monolithic_flat("disk.vmdk", content.clone()).write_to(dir.path());
    let report = OpenOptions::new().compact(&path, CompactMode::Punch, &mut go_on).unwrap();
    // Whole units of 64 KiB: from 131,072 to 1,048,576 and the last MiB.
    assert_eq!(report.flat_bytes_punched, (1_048_576 - 131_072) + (1 << 20), "{report:?}");
    assert!(
        report.allocated_after + report.flat_bytes_punched <= report.allocated_before + SECTOR as u64,
        "{report:?}"
    );
    assert!(fs::read(dir.path().join("disk-flat.vmdk")).unwrap() == content);
}
