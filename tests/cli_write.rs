//! The commands that change a disk, from the outside: what they write, what they refuse, and how they exit.

#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use vmdk::{BlockDevice, OpenOptions, VmdkImage};

use support::check::check;
use support::disk::{Disk, Image, Kind};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, tools};

/// A command in the directory of the disk, without an input.
fn command(disk: &Disk, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmdk"));
    command.current_dir(disk.dir()).args(args).stdin(Stdio::null());
    command
}

/// Runs a command whose input is a file.
fn with_file(disk: &Disk, args: &[&str], input: &[u8]) -> Output {
    let path = disk.dir().join("input");
    fs::write(&path, input).unwrap();
    command(disk, args).stdin(File::open(path).unwrap()).output().unwrap()
}

/// Runs a command whose input is a pipe, which has no length.
fn with_pipe(disk: &Disk, args: &[&str], input: &[u8]) -> Output {
    let mut command = command(disk, args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Who reads no more closes its end.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// A run that says nothing and exits with 0.
#[track_caller]
fn succeeded(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said, output.stdout.len()), (Some(0), "", 0));
}

/// The one line of a run that exits with 2.
#[track_caller]
fn failed(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{said}");
    assert!(said.starts_with("vmdk: ") && said.ends_with('\n') && said.lines().count() == 1, "{said:?}");
    said
}

/// Compares with what `convert` and, where it knows the kind, `qemu-img` read, and with the tables of sparse files.
#[track_caller]
fn holds(disk: &Disk, expected: &[u8], qemu: Option<tools::Tool>) {
    succeeded(&command(disk, &["convert", "disk.vmdk", "out.raw"]).output().unwrap());
    assert!(fs::read(disk.dir().join("out.raw")).unwrap() == expected, "the disk has another content");
    if let Some(qemu) = qemu {
        qemu.run([Path::new("check").as_os_str(), disk.path.as_os_str()]);
        assert!(qemu.raw_of(&disk.path) == expected, "qemu-img reads another content");
    }
    for (name, _) in &disk.links[disk.links.len() - 1].files {
        let bytes = fs::read(disk.dir().join(name)).unwrap();
        if bytes.starts_with(b"KDMV") {
            let report = check(&bytes);
            report.expect_sound(name);
            assert!(!report.unclean, "{name} was not closed");
        }
    }
}

const KINDS: [Kind; 7] = [
    Kind::MonolithicSparse,
    Kind::ZeroGrains,
    Kind::SmallGrains,
    Kind::MonolithicFlat,
    Kind::TwoGbMaxExtentSparse,
    Kind::TwoGbMaxExtentFlat,
    Kind::Child,
];

/// Places in a disk of `size` bytes: whole sectors, parts of one, across two, to the end, nothing.
fn places(size: usize) -> [(usize, usize); 8] {
    [
        (0, 4096),
        (700, 20),
        (1000, 100),
        (5, 70_000),
        (65_536, 65_536),
        (size - 5, 5),
        (size - 70_001, 70_001),
        (size, 0),
    ]
}

#[test]
fn any_bytes_are_written_from_a_file_and_from_a_pipe() {
    let qemu = tools::qemu_img("any_bytes_are_written_from_a_file_and_from_a_pipe");
    for kind in KINDS {
        let (disk, rng) = (kind.disk(1), &mut Rng::new(2));
        let mut expected = disk.content.clone();
        for (number, (offset, len)) in (0..).zip(places(expected.len())) {
            let input = rng.bytes(len);
            let args = ["write", "disk.vmdk", &offset.to_string()];
            let run = if number % 2 == 0 { with_file } else { with_pipe };
            succeeded(&run(&disk, &args, &input));
            expected[offset..offset + len].copy_from_slice(&input);
        }
        holds(&disk, &expected, qemu);
    }
}

#[test]
fn any_bytes_become_zeros() {
    let qemu = tools::qemu_img("any_bytes_become_zeros");
    for kind in KINDS {
        let disk = kind.disk(3);
        let mut expected = disk.content.clone();
        for (offset, len) in places(expected.len()) {
            let output = command(&disk, &["zero", "disk.vmdk", &offset.to_string(), &len.to_string()]).output();
            succeeded(&output.unwrap());
            expected[offset..offset + len].fill(0);
        }
        holds(&disk, &expected, qemu);
    }
}

#[test]
fn a_discarded_sector_is_zero_or_what_it_was_and_its_space_is_given_back() {
    let qemu = tools::qemu_img("a_discarded_sector_is_zero_or_what_it_was_and_its_space_is_given_back");
    for kind in KINDS {
        let disk = kind.disk(4);
        succeeded(&command(&disk, &["discard", "disk.vmdk", "512", "150K"]).output().unwrap());
        let mut now = vec![0; disk.content.len()];
        VmdkImage::open(&disk.path).unwrap().read_sectors(0, &mut now).unwrap();
        let sectors = now.chunks(SECTOR).zip(disk.content.chunks(SECTOR)).enumerate();
        for (sector, (now, before)) in sectors {
            let may_be_zero = (1..301).contains(&sector) && now.iter().all(|&byte| byte == 0);
            assert!(now == before || may_be_zero, "{kind:?}: sector {sector}");
        }
        holds(&disk, &now, qemu);
    }
    let extent = SparseImage::new(128 * 4).data(0, vec![1; 65536]).data(1, vec![2; 65536]).data(2, vec![3; 65536]);
    let disk = Disk::new(vec![Image::monolithic_sparse("disk.vmdk", extent)]);
    succeeded(&command(&disk, &["discard", "disk.vmdk", "64K", "64K"]).output().unwrap());
    assert_eq!(check(&fs::read(&disk.path).unwrap()).data_grains, 2);
}

#[test]
fn sizes_may_have_suffixes() {
    let disk = Kind::MonolithicFlat.disk(5);
    let mut expected = disk.content.clone();
    succeeded(&with_pipe(&disk, &["write", "disk.vmdk", "0x10K"], b"here"));
    expected[16 << 10..][..4].copy_from_slice(b"here");
    succeeded(&command(&disk, &["zero", "disk.vmdk", "1k", "0x2K"]).output().unwrap());
    expected[1 << 10..3 << 10].fill(0);
    holds(&disk, &expected, None);
}

#[test]
fn a_file_that_does_not_fit_is_an_error_before_anything_is_written() {
    let disk = Kind::MonolithicSparse.disk(6);
    let before = fs::read(&disk.path).unwrap();
    let size = disk.content.len();
    for (offset, len) in [(size, 1), (size - 9, 10), (0, size + 1), (size + 1, 0)] {
        let said = failed(&with_file(&disk, &["write", "disk.vmdk", &offset.to_string()], &vec![1; len]));
        let expected = format!("{len} bytes from offset {offset:#x} are not within the disk, which has {size} bytes");
        assert!(said.contains(&expected), "{said}");
    }
    assert!(fs::read(&disk.path).unwrap() == before, "the image was changed");
}

#[test]
fn only_the_rest_of_a_file_counts() {
    let disk = Kind::MonolithicFlat.disk(6);
    let mut expected = disk.content.clone();
    fs::write(disk.dir().join("input"), vec![7; expected.len() + 100]).unwrap();
    let mut file = File::open(disk.dir().join("input")).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(expected.len() as u64)).unwrap();
    succeeded(&command(&disk, &["write", "disk.vmdk", "3"]).stdin(file).output().unwrap());
    expected[3..103].fill(7);
    holds(&disk, &expected, None);
}

#[test]
fn a_pipe_that_does_not_fit_is_written_as_far_as_it_does() {
    let disk = Kind::MonolithicSparse.disk(7);
    let size = disk.content.len();
    let said = failed(&with_pipe(&disk, &["write", "disk.vmdk", "100"], &vec![1; size]));
    let expected = format!("the disk ends at byte {size}, and standard input goes on; {} bytes of it", size - 100);
    assert!(said.contains(&expected), "{said}");
    let mut content = disk.content.clone();
    content[100..].fill(1);
    holds(&disk, &content, None);
    let said = failed(&with_pipe(&disk, &["write", "disk.vmdk", &(size + 1).to_string()], b"x"));
    assert!(said.contains("are not within the disk"), "{said}");
}

#[test]
fn a_range_past_the_end_is_not_cleared() {
    let disk = Kind::MonolithicSparse.disk(8);
    let before = fs::read(&disk.path).unwrap();
    let size = disk.content.len().to_string();
    for (offset, length) in [("0", "1T"), (&*size, "512"), ("512", &*size), ("0xfffffffffffffe00", "1024")] {
        for verb in ["zero", "discard"] {
            let said = failed(&command(&disk, &[verb, "disk.vmdk", offset, length]).output().unwrap());
            assert!(said.contains("are not within the disk"), "{said}");
        }
    }
    assert!(fs::read(&disk.path).unwrap() == before, "the image was changed");
}

#[test]
fn parts_of_sectors_are_not_discarded() {
    let disk = Kind::MonolithicSparse.disk(9);
    for (offset, length) in [("1", "512"), ("0", "100"), ("256", "256")] {
        let said = failed(&command(&disk, &["discard", "disk.vmdk", offset, length]).output().unwrap());
        assert!(said.contains("must be multiples of 512"), "{said}");
    }
}

#[test]
fn what_is_no_size_is_wrong_usage() {
    let disk = Kind::MonolithicFlat.disk(9);
    for args in [&["write", "disk.vmdk", "-1"][..], &["zero", "disk.vmdk", "0", "x"], &["discard", "disk.vmdk", "0"]] {
        let output = command(&disk, args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

/// All three commands on the disk.
const VERBS: [&[&str]; 3] =
    [&["write", "disk.vmdk", "0"], &["zero", "disk.vmdk", "0", "512"], &["discard", "disk.vmdk", "0", "512"]];

#[cfg(unix)]
#[test]
fn an_image_that_is_in_use_is_locked() {
    for write in [false, true] {
        let disk = Kind::MonolithicSparse.disk(10);
        let _other = OpenOptions::new().write(write).open(&disk.path).unwrap();
        for args in VERBS {
            let said = failed(&with_pipe(&disk, args, b"x"));
            assert!(said.contains("disk.vmdk: the file is locked: somebody else"), "{said}");
        }
    }
}

#[test]
fn what_is_not_written_to_is_refused_by_name() {
    let change_tracked = Image::embedded("disk.vmdk", SparseImage::new(256).version(3), None, |text| {
        text.change_track_path("disk-ctk.vmdk")
    });
    let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(256));
    let orphan = Image::child(&base, "disk.vmdk", SparseImage::new(256));
    let unknown = Image::monolithic_sparse("disk.vmdk", SparseImage::new(256).flags(3 | 1 << 9));
    for (image, expected) in [(change_tracked, "changeTrackPath"), (orphan, "base.vmdk"), (unknown, "flags")] {
        let disk = Disk::new(vec![image]);
        let before = fs::read(&disk.path).unwrap();
        for args in VERBS {
            let said = failed(&with_pipe(&disk, args, b"x"));
            assert!(said.contains(expected), "{said}");
        }
        assert!(fs::read(&disk.path).unwrap() == before, "{expected}: the image was changed");
    }
}

#[test]
fn a_parent_elsewhere_needs_permission_and_is_not_changed() {
    let disk = Kind::Child.disk(11);
    let elsewhere = tempfile::tempdir().unwrap();
    for (name, _) in &disk.links[0].files {
        fs::rename(disk.dir().join(name), elsewhere.path().join(name)).unwrap();
    }
    let base = elsewhere.path().join("base.vmdk");
    let before = fs::read(&base).unwrap();
    assert!(failed(&with_pipe(&disk, &["write", "disk.vmdk", "0"], b"x")).contains("base.vmdk"));
    succeeded(&with_pipe(&disk, &["write", "disk.vmdk", "0", "--parent", base.to_str().unwrap()], b"x"));
    let image = OpenOptions::new().parent(&base).open(&disk.path).unwrap();
    let mut content = vec![0; disk.content.len()];
    image.read_sectors(0, &mut content).unwrap();
    assert_eq!(content[0], b'x');
    assert!(content[1..] == disk.content[1..], "another byte has changed");
    assert!(fs::read(&base).unwrap() == before, "the parent was changed");
}

#[test]
fn a_descriptor_without_room_for_a_content_id_is_rewritten_if_that_is_allowed() {
    let disk = Kind::MonolithicFlat.disk(12);
    let text = fs::read_to_string(&disk.path).unwrap();
    let line = text.lines().find(|line| line.starts_with("CID=")).unwrap();
    fs::write(&disk.path, text.replace(line, "CID=12")).unwrap();
    let args = ["write", "disk.vmdk", "0"];
    // A file of its own is replaced by another.
    succeeded(&with_pipe(&disk, &args, b"x"));
    let embedded = Kind::MonolithicSparse.disk(12);
    let mut bytes = fs::read(&embedded.path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"\nCID=").unwrap() + 5;
    bytes[at..at + 8].copy_from_slice(b"12\n#####");
    fs::write(&embedded.path, &bytes).unwrap();
    assert!(failed(&with_pipe(&embedded, &args, b"x")).contains("fewer than four digits"));
    succeeded(&with_pipe(&embedded, &["write", "disk.vmdk", "0", "--rewrite-descriptor"], b"x"));
    let mut expected = embedded.content.clone();
    expected[0] = b'x';
    holds(&embedded, &expected, None);
}
