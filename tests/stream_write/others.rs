//! Streams made here as other programs read them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::support::tools;
use super::{GRAIN, GRAIN_LEN, TABLE, filed, index, noise, options, piped, text};

const CAPACITIES: [u64; 6] = [1, 127, 129, 452, TABLE + 1, 3 * TABLE + 200];

/// Text and noise here and there, and the last grain.
fn grains(capacity: u64) -> Vec<(u64, Vec<u8>)> {
    let starts = (0..capacity).step_by(128);
    let chosen = starts.filter(|start| start / GRAIN % 7 < 3 || start + GRAIN >= capacity);
    let content = |start: u64| {
        if start / GRAIN % 7 == 2 && start + GRAIN <= capacity { noise(start) } else { text(start, capacity) }
    };
    // The third table stays empty.
    chosen.filter(|start| start / TABLE != 2).map(|start| (start, content(start))).collect()
}

fn raw(capacity: u64) -> Vec<u8> {
    let mut raw = vec![0; index(capacity) * 512];
    for (start, content) in grains(capacity) {
        raw[index(start) * 512..][..content.len()].copy_from_slice(&content);
    }
    raw
}

/// A disk in both layouts.
fn streams(dir: &TempDir, capacity: u64) -> [PathBuf; 2] {
    let grains = grains(capacity);
    let write = |name: &str, stream: Vec<u8>| {
        let path = dir.path().join(name);
        fs::write(&path, stream).unwrap();
        path
    };
    let options = options(capacity).threads(2);
    [write("piped.vmdk", piped(&options, &grains)), write("filed.vmdk", filed(&options, &grains))]
}

#[test]
fn qemu_img_finds_no_fault_and_reads_the_same() {
    let Some(qemu_img) = tools::qemu_img("qemu_img_finds_no_fault_and_reads_the_same") else { return };
    for capacity in CAPACITIES {
        let dir = tempfile::tempdir().unwrap();
        for path in streams(&dir, capacity) {
            let shown = path.to_str().unwrap();
            qemu_img.run(["check", "-f", "vmdk", shown]);
            assert!(qemu_img.raw_of(&path) == raw(capacity), "{shown} of {capacity}");
            let info = qemu_img.run(["info", "-f", "vmdk", shown]);
            assert!(info.contains("create type: streamOptimized"), "{info}");
        }
    }
}

/// Of a disk whose size is not a multiple of 8 KiB, dissect cannot read the end, whoever made it.
#[test]
fn forensic_libraries_read_the_same() {
    for (library, unit) in [("pyvmdk", 1), ("dissect", 16)] {
        let Some(reader) = tools::reader("forensic_libraries_read_the_same", library) else { continue };
        for capacity in CAPACITIES.map(|capacity: u64| capacity.next_multiple_of(unit)) {
            let dir = tempfile::tempdir().unwrap();
            for path in streams(&dir, capacity) {
                let expected = (capacity * 512, tools::sha256_hex(&raw(capacity)));
                assert_eq!(reader.read(0, &[&path]), expected, "{library}: {} of {capacity}", path.display());
            }
        }
    }
}

/// Those for a pipe: it opens no stream without a footer, those of QEMU and of VMware's disk library included.
#[test]
fn seven_zip_lists_and_extracts_the_same() {
    let name = "seven_zip_lists_and_extracts_the_same";
    let Some(program) = ["7zz", "7z"].into_iter().find(|name| Command::new(name).output().is_ok()) else {
        tools::skip(name, "neither 7zz nor 7z is installed");
        return;
    };
    let run = |args: &[&str], path: &Path| {
        let output = Command::new(program).args(args).arg(path).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
        output.stdout
    };
    for capacity in CAPACITIES {
        let dir = tempfile::tempdir().unwrap();
        let [path, _] = streams(&dir, capacity);
        let listed = run(&["l", "-slt", "-tvmdk"], &path);
        let size = format!("Size = {}", capacity * 512);
        assert!(String::from_utf8_lossy(&listed).contains(&size), "{}", String::from_utf8_lossy(&listed));
        assert!(run(&["x", "-so", "-tvmdk"], &path) == raw(capacity), "{capacity}");
    }
}

#[test]
fn a_grain_of_every_kind_is_there() {
    let grains = grains(TABLE);
    assert!(grains.iter().any(|(_, content)| content.starts_with(b"line")));
    assert!(grains.iter().any(|(start, content)| *content == noise(*start)));
    assert!(grains.iter().all(|(_, content)| content.len() == GRAIN_LEN));
}
