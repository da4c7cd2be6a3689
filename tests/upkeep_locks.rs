//! Who may use a disk while it gets another name, or is copied as it is: nobody, and readers.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vmdk::{CopyDiskOptions, CopyProgress, ErrorKind, OpenOptions, RenameOptions, Result};

use support::SECTOR;
use support::disk::{Disk, Image, Kind, Part};
use support::sparse::SparseImage;
use support::tools::{self, Tool};

type Progress<'a> = &'a mut dyn FnMut(CopyProgress) -> ControlFlow<()>;

/// Something that is done with a disk.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Rename,
    Copy,
}

const VERBS: [Verb; 2] = [Verb::Rename, Verb::Copy];

impl Verb {
    fn run(self, old: &Path, new: &Path, progress: Progress<'_>) -> Result<()> {
        self.run_with(&OpenOptions::new(), old, new, false, progress)
    }

    fn run_with(self, open: &OpenOptions, old: &Path, new: &Path, replace: bool, progress: Progress<'_>) -> Result<()> {
        match self {
            Self::Rename => open.rename(old, new, &RenameOptions::new().replace(replace), progress).map(drop),
            Self::Copy => open.copy_disk(old, new, &CopyDiskOptions::new().replace(replace), progress).map(drop),
        }
    }
}

fn go_on(_: CopyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn writer() -> OpenOptions {
    OpenOptions::new().write(true)
}

/// What there is in a directory: names, inodes, and when they were changed.
fn state(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let look = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        (entry.path(), (meta.ino(), meta.mtime(), meta.mtime_nsec()))
    };
    fs::read_dir(dir).unwrap().map(look).collect()
}

/// It is `Locked`, and nothing has changed.
#[track_caller]
fn is_locked(dir: &Path, what: &str, run: impl FnOnce() -> Result<()>) {
    let before = state(dir);
    let error = run().expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Locked, "{what}: {error}");
    assert!(state(dir) == before, "{what}: something has changed");
}

fn new_in(disk: &Disk) -> PathBuf {
    disk.dir().join("new.vmdk")
}

#[test]
fn a_writer_keeps_every_kind_of_disk_to_itself() {
    for kind in Kind::ALL {
        let disk = kind.disk(1);
        let image = writer().open(&disk.path).unwrap();
        for verb in VERBS {
            let run = || verb.run(&disk.path, &new_in(&disk), &mut go_on);
            is_locked(disk.dir(), &format!("{verb:?} {kind:?}"), run);
        }
        drop(image);
        Verb::Copy.run(&disk.path, &new_in(&disk), &mut go_on).unwrap();
        Verb::Rename.run(&disk.path, &disk.dir().join("newer.vmdk"), &mut go_on).unwrap();
    }
}

#[test]
fn a_reader_keeps_a_disk_from_being_renamed_but_not_from_being_copied() {
    for kind in Kind::ALL {
        let disk = kind.disk(2);
        let image = OpenOptions::new().open(&disk.path).unwrap();
        let run = || Verb::Rename.run(&disk.path, &disk.dir().join("newer.vmdk"), &mut go_on);
        is_locked(disk.dir(), &format!("{kind:?}"), run);
        Verb::Copy.run(&disk.path, &new_in(&disk), &mut go_on).unwrap();
        drop(image);
        run().unwrap();
    }
}

#[test]
fn a_reader_of_a_child_keeps_the_base_from_being_renamed() {
    for kind in [Kind::Child, Kind::EsxDelta, Kind::LargerChild, Kind::DeepChain] {
        let disk = kind.disk(3);
        let base = disk.dir().join(&disk.links[0].name);
        let image = OpenOptions::new().open(&disk.path).unwrap();
        is_locked(disk.dir(), &format!("{kind:?}"), || Verb::Rename.run(&base, &new_in(&disk), &mut go_on));
        Verb::Copy.run(&base, &new_in(&disk), &mut go_on).unwrap();
        drop(image);
    }
}

#[test]
fn a_child_that_is_to_follow_must_not_be_in_use() {
    for follows in ["a reader", "a writer"] {
        let disk = Kind::Child.disk(4);
        let base = disk.dir().join("base.vmdk");
        let options = RenameOptions::new().child(&disk.path);
        let rename = || OpenOptions::new().rename(&base, new_in(&disk), &options, &mut go_on).map(drop);
        let open = if follows == "a reader" { OpenOptions::new() } else { writer() };
        // Alone: it is the child's own lock that counts.
        let image = open.write(false).no_parent(true).open(&disk.path).unwrap();
        is_locked(disk.dir(), follows, rename);
        drop(image);
        rename().unwrap();
    }
}

#[test]
fn an_extent_that_another_disk_writes_keeps_the_disk_from_both() {
    let dir = tempfile::tempdir().unwrap();
    let content = vec![7; 8 * SECTOR];
    let [one, two] = ["one.vmdk", "two.vmdk"].map(|name| {
        let part = Part::flat_in("RW", "one-flat.vmdk", 0, &content).with_file("one-flat.vmdk", content.clone());
        Image::of_parts(name, "custom", vec![part]).write_to(dir.path())
    });
    let image = writer().open(&two).unwrap();
    for verb in VERBS {
        is_locked(dir.path(), &format!("{verb:?}"), || verb.run(&one, &dir.path().join("new.vmdk"), &mut go_on));
    }
    drop(image);
    let image = OpenOptions::new().open(&two).unwrap();
    is_locked(dir.path(), "a reader", || Verb::Rename.run(&one, &dir.path().join("new.vmdk"), &mut go_on));
    drop(image);
}

#[test]
fn what_is_in_use_is_not_replaced() {
    for kind in [Kind::MonolithicSparse, Kind::TwoGbMaxExtentSparse, Kind::Vmfs] {
        let disk = kind.disk(5);
        let taken = Image::monolithic_sparse("new.vmdk", SparseImage::new(16).grain_sectors(8)).write_to(disk.dir());
        for open in [OpenOptions::new(), writer()] {
            let image = open.open(&taken).unwrap();
            for verb in VERBS {
                let run = || verb.run_with(&OpenOptions::new(), &disk.path, &taken, true, &mut go_on);
                is_locked(disk.dir(), &format!("{verb:?} {kind:?}"), run);
            }
            drop(image);
        }
        for verb in [Verb::Copy, Verb::Rename] {
            verb.run_with(&OpenOptions::new(), &disk.path, &taken, true, &mut go_on).unwrap();
        }
    }
}

#[test]
fn nobody_gets_at_a_disk_while_it_is_renamed_and_no_writer_while_it_is_copied() {
    for kind in Kind::ALL {
        let disk = kind.disk(6);
        for verb in [Verb::Copy, Verb::Rename] {
            let mut calls = 0;
            let done = verb.run(&disk.path, &disk.dir().join(format!("{verb:?}.vmdk")), &mut |_| {
                calls += 1;
                let kinds =
                    [writer(), OpenOptions::new()].map(|open| open.open(&disk.path).err().map(|error| error.kind()));
                let reader = Some(ErrorKind::Locked).filter(|_| matches!(verb, Verb::Rename));
                assert_eq!(kinds, [Some(ErrorKind::Locked), reader], "{verb:?} {kind:?}");
                ControlFlow::Continue(())
            });
            done.unwrap();
            assert!(calls > 0, "{verb:?} {kind:?}");
        }
        // Nothing is locked afterwards.
        for name in ["Copy.vmdk", "Rename.vmdk"] {
            writer().open(disk.dir().join(name)).unwrap();
        }
    }
}

#[test]
fn without_locks_nobody_is_asked() {
    let disk = Kind::TwoGbMaxExtentSparse.disk(7);
    let _image = writer().open(&disk.path).unwrap();
    let open = OpenOptions::new().locking(false);
    Verb::Copy.run_with(&open, &disk.path, &new_in(&disk), false, &mut go_on).unwrap();
    Verb::Rename.run_with(&open, &disk.path, &disk.dir().join("newer.vmdk"), false, &mut go_on).unwrap();
}

fn qemu_io(test: &str) -> Option<(Tool, Tool)> {
    tools::qemu_img(test).zip(tools::qemu_io(test))
}

#[test]
fn a_running_qemu_keeps_its_disk_to_itself() {
    const TEST: &str = "a_running_qemu_keeps_its_disk_to_itself";
    let Some((img, io)) = qemu_io(TEST) else { return };
    for format in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let dir = tempfile::tempdir().unwrap();
        let [old, new, newer] = ["disk.vmdk", "new.vmdk", "newer.vmdk"].map(|name| dir.path().join(name));
        let path = old.to_str().unwrap();
        img.run(["create", "-q", "-f", "vmdk", "-o", &format!("subformat={format}"), path, "4M"]);
        let start = |options: &[&str]| {
            io.start([&["-f", "vmdk"], options, &[path]].concat()).unwrap_or_else(|said| panic!("{said}"))
        };
        let running = start(&[]);
        for verb in VERBS {
            is_locked(dir.path(), &format!("{verb:?} {format}"), || verb.run(&old, &new, &mut go_on));
        }
        drop(running);
        let running = start(&["-r"]);
        is_locked(dir.path(), format, || Verb::Rename.run(&old, &new, &mut go_on));
        Verb::Copy.run(&old, &new, &mut go_on).unwrap();
        drop(running);
        // And the other way round.
        let mut calls = 0;
        let done = Verb::Rename.run(&old, &newer, &mut |_| {
            calls += 1;
            for options in [&[][..], &["-r"]] {
                let output = io.output([&["-f", "vmdk"], options, &["-c", "read 0 512", path]].concat());
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(!output.status.success() && said.contains("lock"), "{format}: {said}");
            }
            ControlFlow::Continue(())
        });
        done.unwrap();
        assert!(calls > 0, "{format}");
        img.run(["compare", "-q", "-f", "vmdk", "-F", "vmdk", newer.to_str().unwrap(), new.to_str().unwrap()]);
    }
}
