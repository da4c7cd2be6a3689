//! Whether two disks hold the same, in the library and in the tool.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use vmdk::{BlockDevice, Comparison, ErrorKind, MemoryStorage, RawImage, Result, VmdkImage, compare};

use support::disk::{Disk, Image, Kind};
use support::model::MemoryDevice;
use support::rng::Rng;
use support::sparse::SparseImage;
use support::storage::{CountingStorage, FaultStorage};
use support::tools::qemu_img;
use support::{SECTOR, index};

const GRAIN: usize = 128 * SECTOR;

fn compared(a: &dyn BlockDevice, b: &dyn BlockDevice) -> Result<Comparison> {
    compare(a, b, &mut |_| ControlFlow::Continue(()))
}

/// Compares both ways round, which must come to the same.
#[track_caller]
fn first_difference(a: &dyn BlockDevice, b: &dyn BlockDevice) -> Option<u64> {
    let (there, back) = (compared(a, b).unwrap(), compared(b, a).unwrap());
    assert_eq!(there.first_difference, back.first_difference);
    assert_eq!((there.sizes.0, there.sizes.1), (back.sizes.1, back.sizes.0));
    assert_eq!(there.is_same_content(), there.first_difference.is_none());
    there.first_difference
}

/// A disk of which nothing is known to be zero.
fn plain(content: &[u8]) -> RawImage {
    RawImage::new(Arc::new(MemoryStorage::new(content)), "disk.raw").unwrap()
}

/// A disk that knows its zeros, sector by sector.
fn knowing(content: &[u8]) -> MemoryDevice {
    MemoryDevice::read_only(content.to_vec())
}

/// Seven grains: data, a hole, data, zeros that are data, a zero grain, a hole, and 37 sectors of data.
fn sparse() -> Disk {
    let mut rng = Rng::new(1);
    let extent = SparseImage::new(6 * 128 + 37).with_zero_grains().data(0, rng.bytes(GRAIN)).data(2, rng.bytes(GRAIN));
    let extent = extent.data(3, vec![0; GRAIN]).zero(4).data(6, rng.bytes(37 * SECTOR));
    Disk::new(vec![Image::monolithic_sparse("disk.vmdk", extent)])
}

#[test]
fn the_same_content_is_the_same_in_every_format() {
    for kind in Kind::ALL {
        let disk = kind.disk(7);
        let image = VmdkImage::open(&disk.path).unwrap();
        assert_eq!(first_difference(&image, &plain(&disk.content)), None, "{kind:?}");
        assert_eq!(first_difference(&image, &knowing(&disk.content)), None, "{kind:?}");
        assert_eq!(first_difference(&image, &image), None, "{kind:?}");
    }
}

#[test]
fn the_first_difference_is_found_wherever_it_is() {
    let disk = sparse();
    let image = VmdkImage::open(&disk.path).unwrap();
    let end = disk.content.len() - 1;
    // First, middle and last byte of each grain.
    let grains = (0..7).flat_map(|grain| [grain * GRAIN, grain * GRAIN + 5000, ((grain + 1) * GRAIN - 1).min(end)]);
    for at in grains {
        let mut other = disk.content.clone();
        // A later difference does not matter.
        for at in [at, end] {
            other[at] ^= 0x10;
        }
        if at == end {
            other[end] ^= 0x20;
        }
        assert_eq!(first_difference(&image, &plain(&other)), Some(at as u64), "{at}");
        assert_eq!(first_difference(&image, &knowing(&other)), Some(at as u64), "{at}");
    }
}

#[test]
fn random_differences_are_found_in_random_disks() {
    for seed in 0..40 {
        let rng = &mut Rng::new(seed);
        let kind = Kind::ALL[index(rng.below(Kind::ALL.len() as u64))];
        let disk = kind.disk(seed);
        let image = VmdkImage::open(&disk.path).unwrap();
        let mut other = disk.content.clone();
        let mut first = other.len();
        for _ in 0..=rng.below(3) {
            let at = index(rng.below(other.len() as u64));
            other[at] = !disk.content[at];
            first = first.min(at);
        }
        assert_eq!(first_difference(&image, &plain(&other)), Some(first as u64), "{kind:?} {seed}");
        assert_eq!(first_difference(&image, &knowing(&other)), Some(first as u64), "{kind:?} {seed}");
    }
}

#[test]
fn more_of_zeros_is_the_same_content_in_another_size() {
    let content = Rng::new(4).bytes(3000 * SECTOR);
    let mut longer = content.clone();
    longer.resize(9000 * SECTOR, 0);
    for longer in [&plain(&longer) as &dyn BlockDevice, &knowing(&longer)] {
        let found = compared(&plain(&content), longer).unwrap();
        assert_eq!((found.first_difference, found.sizes), (None, (3000 * 512, 9000 * 512)));
        assert!(found.is_same_content() && !found.is_same_size());
    }
    assert!(compared(&plain(&content), &knowing(&content)).unwrap().is_same_size());
    assert_eq!(first_difference(&plain(&[]), &plain(&vec![0; 5 << 20])), None);
    assert_eq!(first_difference(&plain(&[]), &plain(&[])), None);
}

#[test]
fn more_than_zeros_past_the_smaller_end_is_a_difference() {
    let content = Rng::new(4).bytes(3000 * SECTOR);
    for at in [3000 * SECTOR, 3000 * SECTOR + 1, 5000 * SECTOR + 77, 9000 * SECTOR - 1] {
        let mut longer = content.clone();
        longer.resize(9000 * SECTOR, 0);
        longer[at] = 1;
        assert_eq!(first_difference(&plain(&content), &plain(&longer)), Some(at as u64));
        assert_eq!(first_difference(&plain(&content), &knowing(&longer)), Some(at as u64));
    }
}

#[test]
fn what_both_know_to_be_zero_is_not_read() {
    let extent = SparseImage::new(40 * 128).with_zero_grains().data(3, vec![1; GRAIN]).zero(5);
    let disk = Disk::new(vec![Image::monolithic_sparse("disk.vmdk", extent)]);
    let image = VmdkImage::open(&disk.path).unwrap();
    let storage = CountingStorage::new(Arc::new(MemoryStorage::new(disk.content.clone())));
    let counted = RawImage::new(storage.clone(), "disk.raw").unwrap();
    assert_eq!(first_difference(&knowing(&disk.content), &image), None);
    // A disk that does not know is read, once and in large pieces.
    assert!(compared(&image, &counted).unwrap().is_same_content());
    let reads = storage.take().reads;
    assert_eq!(reads.iter().map(|(_, len)| len).sum::<u64>(), 40 * GRAIN as u64);
    assert!(reads.len() <= 8, "{reads:?}");
}

/// 2^54 sectors less one, the most there can be: nothing but the status is asked.
#[test]
fn an_empty_disk_of_any_size_takes_no_time() {
    let huge = |sectors: u64| {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\nRW {sectors} ZERO\n"
        );
        let files = |name: &str| (name == "disk").then(|| Arc::new(MemoryStorage::new(text.clone())) as _);
        vmdk::OpenOptions::new().open_with("disk", &files).unwrap()
    };
    let most = (1 << 54) - 1;
    let found = compared(&huge(most), &huge(7)).unwrap();
    assert_eq!((found.first_difference, found.sizes), (None, (most * 512, 7 * 512)));
}

#[test]
fn progress_rises_to_the_size_of_the_larger_disk_and_can_stop() {
    let (smaller, larger) = (plain(&vec![0; 5 << 20]), plain(&vec![0; 9 << 20]));
    let mut seen = Vec::new();
    compare(&smaller, &larger, &mut |now| {
        seen.push((now.done, now.total));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(seen.is_sorted_by(|a, b| a.0 < b.0) && seen.iter().all(|now| now.1 == 9 << 20), "{seen:?}");
    assert_eq!((seen.len(), seen.last().unwrap().0), (9, 9 << 20));

    let mut calls = 0;
    let stopped = compare(&smaller, &larger, &mut |_| {
        calls += 1;
        if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((stopped.unwrap_err().kind(), calls), (ErrorKind::Cancelled, 3));
}

#[test]
fn a_disk_that_cannot_be_read_is_an_error_and_not_a_difference() {
    let storage = FaultStorage::new(Arc::new(MemoryStorage::new(vec![0; 3 << 20])));
    storage.fail_reads_of(2 << 20..3 << 20);
    let failing = RawImage::new(storage, "bad.raw").unwrap();
    let error = compared(&plain(&vec![0; 3 << 20]), &failing).unwrap_err();
    assert_eq!((error.kind(), error.file()), (ErrorKind::Io, Some(Path::new("bad.raw"))));
}

#[test]
fn qemu_img_finds_the_same_differences() {
    let Some(qemu) = qemu_img("qemu_img_finds_the_same_differences") else { return };
    for seed in 0..12 {
        let rng = &mut Rng::new(seed);
        let kinds: Vec<_> = Kind::ALL.into_iter().filter(|kind| kind.qemu_reads_it()).collect();
        let disk = kinds[index(seed) % kinds.len()].disk(seed);
        let mut other = disk.content.clone();
        if rng.chance(80) {
            let at = index(rng.below(other.len() as u64));
            other[at] ^= 1;
        }
        if rng.chance(50) {
            other.resize(other.len() + 70 * SECTOR, u8::from(rng.chance(50)));
        }
        let path = disk.dir().join("other.raw");
        std::fs::write(&path, &other).unwrap();
        let output = qemu.output([
            "compare".as_ref(),
            "-f".as_ref(),
            "vmdk".as_ref(),
            "-F".as_ref(),
            "raw".as_ref(),
            disk.path.as_os_str(),
            path.as_os_str(),
        ]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let theirs = said.lines().find_map(|line| line.strip_prefix("Content mismatch at offset ")?.strip_suffix('!'));
        let theirs = theirs.map(|offset| offset.parse::<u64>().unwrap());
        assert_eq!(output.status.code(), Some(i32::from(theirs.is_some())), "{said}");
        let ours = first_difference(&VmdkImage::open(&disk.path).unwrap(), &RawImage::open(&path).unwrap());
        // QEMU says in which sector it is.
        assert_eq!(ours.map(|offset| offset / 512 * 512), theirs, "{said}");
    }
}

#[cfg(feature = "cli")]
mod tool {
    use super::*;
    use std::process::Command;

    /// Runs `vmdk compare`: exit code, stdout, stderr.
    fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
        let output = command.current_dir(dir).arg("compare").args(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    #[track_caller]
    fn says(dir: &Path, args: &[&str], code: i32, stdout: &str) {
        assert_eq!(run(dir, args), (code, stdout.to_owned(), String::new()), "{args:?}");
    }

    fn write(disk: &Disk, name: &str, content: &[u8]) {
        std::fs::write(disk.dir().join(name), content).unwrap();
    }

    #[test]
    fn the_same_content_exits_with_0_in_every_combination_of_formats() {
        let disk = sparse();
        Image::monolithic_flat("flat.vmdk", disk.content.clone()).write_to(disk.dir());
        write(&disk, "disk.raw", &disk.content);
        for a in ["disk.vmdk", "flat.vmdk", "disk.raw"] {
            for b in ["disk.vmdk", "flat.vmdk", "disk.raw", "flat-flat.vmdk"] {
                says(disk.dir(), &[a, b], 0, "content is the same\n");
            }
        }
    }

    #[test]
    fn a_difference_exits_with_1_and_says_where_the_first_one_is() {
        let disk = sparse();
        let mut other = disk.content.clone();
        other[100_000] = 1;
        write(&disk, "disk.raw", &other);
        says(disk.dir(), &["disk.vmdk", "disk.raw"], 1, "content differs at offset 100000 (0x186a0)\n");
        other.extend([0; 1000]);
        write(&disk, "disk.raw", &other);
        let sizes = format!("sizes differ: {} and {} bytes\n", disk.content.len(), disk.content.len() + 1024);
        let expected = format!("content differs at offset 100000 (0x186a0)\n{sizes}");
        says(disk.dir(), &["disk.vmdk", "disk.raw"], 1, &expected);
    }

    #[test]
    fn a_different_size_is_reported_and_is_a_difference_only_if_that_is_asked_for() {
        let disk = sparse();
        let mut other = disk.content.clone();
        other.extend([0; 512]);
        write(&disk, "disk.raw", &other);
        let (smaller, larger) = (disk.content.len(), other.len());
        let expected = format!("content is the same\nsizes differ: {larger} and {smaller} bytes\n");
        says(disk.dir(), &["disk.raw", "disk.vmdk"], 0, &expected);
        says(disk.dir(), &["--strict", "disk.raw", "disk.vmdk"], 1, &expected);
        says(disk.dir(), &["--strict", "disk.raw", "disk.raw"], 0, "content is the same\n");
    }

    #[test]
    fn a_file_that_is_said_to_be_raw_is_never_looked_into() {
        let disk = sparse();
        std::fs::copy(&disk.path, disk.dir().join("copy.vmdk")).unwrap();
        says(disk.dir(), &["--raw-a", "--raw-b", "disk.vmdk", "copy.vmdk"], 0, "content is the same\n");
        let (code, stdout, _) = run(disk.dir(), &["--raw-b", "disk.vmdk", "copy.vmdk"]);
        assert!(code == 1 && stdout.starts_with("content differs at offset 0 (0x0)\n"), "{stdout}");
        let (code, ..) = run(disk.dir(), &["--raw-a", "disk.vmdk", "copy.vmdk"]);
        assert_eq!(code, 1);
    }

    /// A VMDK with something wrong inside must not be compared as the bytes it is made of.
    #[test]
    fn a_broken_vmdk_is_an_error_and_not_a_raw_image() {
        let disk = sparse();
        let descriptor = |extents: &str| {
            format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\n{extents}\n")
        };
        write(&disk, "none.vmdk", descriptor("RW 8 FLAT \"none\" 0").as_bytes());
        write(&disk, "text", b"no extent\n");
        write(&disk, "other.vmdk", descriptor("RW 8 SPARSE \"text\"").as_bytes());
        write(&disk, "self.vmdk", descriptor("RW 8 SPARSE \"self.vmdk\"").as_bytes());
        write(&disk, "up.vmdk", descriptor("RW 8 FLAT \"../up\" 0").as_bytes());
        write(&disk, "unfinished.vmdk", b"kdmv");
        for name in ["none.vmdk", "other.vmdk", "self.vmdk", "up.vmdk", "unfinished.vmdk", "missing"] {
            for args in [[name, "disk.vmdk"], ["disk.vmdk", name]] {
                let (code, stdout, stderr) = run(disk.dir(), &args);
                assert_eq!((code, stdout.as_str(), stderr.lines().count()), (2, "", 1), "{args:?} {stderr}");
            }
        }
        let (code, ..) = run(disk.dir(), &["--raw-a", "none.vmdk", "disk.vmdk"]);
        assert_eq!(code, 1);
    }

    #[test]
    fn the_options_for_names_apply_to_both_images() {
        let (disk, elsewhere) = (sparse(), sparse());
        let flat = elsewhere.dir().join("a-flat.vmdk");
        std::fs::write(&flat, &disk.content).unwrap();
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
             RW {} FLAT \"{}\" 0\n",
            disk.content.len() / SECTOR,
            flat.display()
        );
        write(&disk, "a.vmdk", text.as_bytes());
        let (code, _, stderr) = run(disk.dir(), &["a.vmdk", "disk.vmdk"]);
        assert!(code == 2 && stderr.contains("allow the directory"), "{stderr}");
        let dir = elsewhere.dir().to_str().unwrap();
        for args in [["a.vmdk", "disk.vmdk"], ["disk.vmdk", "a.vmdk"]] {
            says(disk.dir(), &[&args[..], &["--allow-dir", dir]].concat(), 0, "content is the same\n");
        }
    }
}
