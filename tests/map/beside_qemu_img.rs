//! The same map as `qemu-img` makes of it, byte for byte.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{real, text, write_descriptor};
use crate::support::disk::Kind;
use crate::support::rng::Rng;
use crate::support::tools::{Tool, qemu_img, qemu_io};

/// Both maps are the same: the same entries with the same keys, and the same text.
#[track_caller]
fn same(qemu: Tool, image: &Path) {
    let image = real(image);
    let run = |output: &str| {
        let args = ["map", "-f", "vmdk", "--output", output];
        qemu.run(args.map(AsRef::as_ref).into_iter().chain([image.as_os_str()]))
    };
    assert_eq!(text(&["--json"], &image), run("json"), "{}", image.display());
    assert_eq!(text(&[], &image), run("human"), "{}", image.display());
}

#[test]
fn every_kind_of_image_has_the_same_map() {
    let Some(qemu) = qemu_img("every_kind_of_image_has_the_same_map") else { return };
    for kind in Kind::ALL.into_iter().filter(|kind| kind.qemu_reads_it()) {
        for seed in 0..4 {
            same(qemu, &kind.disk(seed).path);
        }
    }
}

fn create(qemu: Tool, options: &str, path: &Path, base: Option<&Path>, size: u64) {
    let size = size.to_string();
    let mut args = vec!["create", "-q", "-f", "vmdk", "-o", options];
    if let Some(base) = base {
        args.extend(["-F", "vmdk", "-b", base.to_str().unwrap()]);
    }
    args.extend([path.to_str().unwrap(), &size]);
    qemu.run(args);
}

/// Writes at random places, zeros among them.
fn scribble(io: Tool, path: &Path, size: u64, rng: &mut Rng) {
    let mut args: Vec<String> = Vec::new();
    for _ in 0..12 {
        let start = rng.below(size / 4096 - 100) * 4096;
        let len = (1 + rng.below(100)) * 4096;
        let how = if rng.chance(30) { "-z".to_owned() } else { format!("-P {}", 1 + rng.below(255)) };
        args.extend(["-c".to_owned(), format!("write {how} {start} {len}")]);
    }
    args.extend(["-f", "vmdk"].map(str::to_owned));
    args.push(path.to_str().unwrap().to_owned());
    io.run(args);
}

#[test]
fn what_qemu_wrote_has_the_same_map_in_every_subformat_and_in_chains_of_them() {
    let name = "what_qemu_wrote_has_the_same_map_in_every_subformat_and_in_chains_of_them";
    let (Some(qemu), Some(io)) = (qemu_img(name), qemu_io(name)) else { return };
    let rng = &mut Rng::new(11);
    // Split extents have 2 GiB, so that one goes over the edge.
    for (subformat, size) in [
        ("monolithicSparse", 9 << 20),
        ("monolithicSparse,zeroed_grain=on", (9 << 20) + 1536),
        ("monolithicFlat", 9 << 20),
        ("twoGbMaxExtentSparse", (2 << 30) + (9 << 20)),
        ("twoGbMaxExtentFlat", (2 << 30) + (9 << 20)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let [base, middle, top] = ["base.vmdk", "middle.vmdk", "top.vmdk"].map(|name| real(dir.path()).join(name));
        let options = format!("subformat={subformat}");
        create(qemu, &options, &base, None, size);
        same(qemu, &base);
        for _ in 0..2 {
            scribble(io, &base, size, rng);
        }
        same(qemu, &base);
        create(qemu, "zeroed_grain=on", &middle, Some(&base), size);
        scribble(io, &middle, size, rng);
        same(qemu, &middle);
        create(qemu, "compat6", &top, Some(&middle), size);
        same(qemu, &top);
        scribble(io, &top, size.min(9 << 20), rng);
        same(qemu, &top);
    }
}

/// Holes of the host have their place and read as zeros, so does what a flat file is too short for.
#[test]
fn compressed_grains_have_the_same_map() {
    let Some(qemu) = qemu_img("compressed_grains_have_the_same_map") else { return };
    let dir = tempfile::tempdir().unwrap();
    let [raw, path] = ["disk.raw", "disk.vmdk"].map(|name| dir.path().join(name));
    for (seed, sectors) in [(1, 129), (2, 3000), (3, 70_001)] {
        let mut rng = Rng::new(seed);
        let mut bytes = vec![0; sectors * 512];
        for grain in bytes.chunks_mut(65_536).filter(|_| rng.chance(60)) {
            grain[0] = 1;
        }
        fs::write(&raw, bytes).unwrap();
        for zeroed in ["", ",zeroed_grain=on"] {
            let options = format!("subformat=streamOptimized{zeroed}");
            let [raw, path] = [&raw, &path].map(|path| path.to_str().unwrap());
            qemu.run(["convert", "-f", "raw", "-O", "vmdk", "-o", &options, raw, path]);
            // As text QEMU shows no such map.
            let path = real(Path::new(path));
            let theirs = qemu.run(["map", "-f", "vmdk", "--output=json", path.to_str().unwrap()]);
            assert_eq!(text(&["--json"], &path), theirs);
        }
    }
}

#[test]
fn flat_files_with_holes_and_too_short_ones_have_the_same_map() {
    let Some(qemu) = qemu_img("flat_files_with_holes_and_too_short_ones_have_the_same_map") else { return };
    let dir = tempfile::tempdir().unwrap();
    for (len, data) in [
        (0, &[][..]),
        (5000, &[0]),
        (32 << 10, &[]),
        (300_000, &[0, 65_536, 290_000]),
        (300_000, &[131_072]),
        (1 << 20, &[4096, 8192, 500_000]),
        (2 << 20, &[(1 << 20) - 1]),
    ] {
        let flat = dir.path().join("disk-flat.vmdk");
        let file = File::create(&flat).unwrap();
        file.set_len(len).unwrap();
        for &offset in data {
            file.write_all_at(&[7; 100], offset).unwrap();
        }
        for (offset, sectors) in [(0, 2048), (9, 2039), (0, 100)].into_iter().filter(|it| it.0 * 512 <= len) {
            let line = format!("RW {sectors} FLAT \"disk-flat.vmdk\" {offset}");
            let path = write_descriptor(dir.path(), "monolithicFlat", &line);
            same(qemu, &path);
        }
    }
}

/// Two extents that are one stretch of one file are one entry, those of different files are not.
#[test]
fn extents_join_where_they_are_contiguous_on_the_host() {
    let Some(qemu) = qemu_img("extents_join_where_they_are_contiguous_on_the_host") else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["a-flat.vmdk", "b-flat.vmdk"] {
        fs::write(dir.path().join(name), vec![7; 64 << 10]).unwrap();
    }
    for extents in [
        "RW 8 FLAT \"a-flat.vmdk\" 0\nRW 8 FLAT \"a-flat.vmdk\" 8",
        "RW 8 FLAT \"a-flat.vmdk\" 8\nRW 8 FLAT \"a-flat.vmdk\" 0",
        "RW 8 FLAT \"a-flat.vmdk\" 0\nRW 8 FLAT \"b-flat.vmdk\" 8",
        "RW 8 FLAT \"a-flat.vmdk\" 8\nRW 16 FLAT \"a-flat.vmdk\" 16\nRW 8 FLAT \"b-flat.vmdk\" 32",
    ] {
        let path = write_descriptor(dir.path(), "twoGbMaxExtentFlat", extents);
        same(qemu, &path);
    }
}
