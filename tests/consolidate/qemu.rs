//! What QEMU makes of it: the disks are sound for it, and it reads what we read.

use std::ops::ControlFlow;
use std::path::Path;

use vmdk::{OpenOptions, RebaseMode, VmdkImage};

use super::judge::read;
use super::scene::{self, Operation, Scene};
use super::support::disk::Disk;
use super::support::tools::{Tool, qemu_img};

fn path(dir: &Path, name: &str) -> std::path::PathBuf {
    dir.join(name)
}

/// Whether QEMU has something to say against a disk.
#[track_caller]
fn is_sound(qemu: Tool, image: &Path) {
    qemu.run(["check".as_ref(), "-f".as_ref(), "vmdk".as_ref(), image.as_os_str()]);
}

#[track_caller]
fn carry_out(scene: &Scene, disk: &Disk) {
    let (options, leaf) = (OpenOptions::new(), &disk.path);
    let go_on = &mut |_| ControlFlow::Continue(());
    let done = match &scene.operation {
        Operation::Commit(base) => options.commit(leaf, *base, go_on).map(drop),
        Operation::Flatten => options.flatten(leaf, go_on).map(drop),
        Operation::Rebase(parent) => {
            let parent = path(disk.dir(), parent);
            options.rebase(leaf, Some(&parent), RebaseMode::Safe, go_on).map(drop)
        }
    };
    done.unwrap_or_else(|error| panic!("{}: {error}", scene.what));
}

#[test]
fn qemu_reads_every_disk_as_before_and_finds_nothing_wrong() {
    let Some(qemu) = qemu_img("qemu_reads_every_disk_as_before_and_finds_nothing_wrong") else { return };
    for scene in scene::all(21) {
        // It reads on in the last grain of an extent where the next one begins.
        if scene.what.starts_with("split") {
            continue;
        }
        let disk = Disk::new(scene.links.clone());
        scene.others.iter().for_each(|other| drop(other.write_to(disk.dir())));
        carry_out(&scene, &disk);
        let content = &scene.leaf().content;
        assert!(read(&VmdkImage::open(&disk.path).unwrap()).unwrap() == *content, "{}", scene.what);
        assert!(qemu.raw_of(&disk.path) == *content, "{}", scene.what);
        is_sound(qemu, &disk.path);
        if let Operation::Commit(base) = scene.operation {
            let parent = path(disk.dir(), &scene.link(base).name);
            assert!(qemu.raw_of(&parent)[..content.len()] == content[..], "{}", scene.what);
            is_sound(qemu, &parent);
        }
    }
}

/// A commit that was stopped in the middle: the line is a comment for others, and both content IDs are the same.
#[test]
fn qemu_reads_a_disk_that_is_being_committed() {
    let Some(qemu) = qemu_img("qemu_reads_a_disk_that_is_being_committed") else { return };
    for scene in scene::commits(1).into_iter().filter(|scene| !scene.what.starts_with("split")) {
        let disk = Disk::new(scene.links.clone());
        let mut left = 2;
        let stopped = OpenOptions::new().commit(&disk.path, 1, &mut |_| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(stopped.unwrap_err().kind(), vmdk::ErrorKind::Cancelled, "{}", scene.what);
        let text = std::fs::read(&disk.path).unwrap();
        assert!(text.windows(13).any(|bytes| bytes == b"# vmdk commit"), "{}", scene.what);
        assert!(qemu.raw_of(&disk.path) == scene.leaf().content, "{}", scene.what);
        OpenOptions::new().commit(&disk.path, 1, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(qemu.raw_of(&disk.path) == scene.leaf().content, "{}", scene.what);
    }
}

#[test]
fn deltas_of_qemu_are_committed_and_put_over_others() {
    let Some(qemu) = qemu_img("deltas_of_qemu_are_committed_and_put_over_others") else { return };
    let Some(io) = super::support::tools::qemu_io("deltas_of_qemu_are_committed_and_put_over_others") else { return };
    for zeroed_grain in ["off", "on"] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| path(dir.path(), name).to_str().unwrap().to_owned();
        let (base, delta, copy) = (at("base.vmdk"), at("delta.vmdk"), at("copy.vmdk"));
        let options = format!("zeroed_grain={zeroed_grain}");
        qemu.run(["create", "-q", "-f", "vmdk", "-o", &*options, &*base, "3M"]);
        io.run(["-f", "vmdk", "-c", "write -P 1 0 2M", &*base]);
        std::fs::copy(&base, &copy).unwrap();
        qemu.run(["create", "-q", "-f", "vmdk", "-o", &*options, "-b", &*base, "-F", "vmdk", &*delta]);
        io.run([
            "-f",
            "vmdk",
            "-c",
            "write -P 2 1M 300k",
            "-c",
            "write -z 64k 128k",
            "-c",
            "write -P 3 2900k 4k",
            &*delta,
        ]);
        let before = qemu.raw_of(delta.as_ref());
        let (options, go_on) = (OpenOptions::new().allow_any_path(true), &mut |_| ControlFlow::Continue(()));
        options.rebase(&delta, Some(copy.as_ref()), RebaseMode::Safe, go_on).unwrap();
        assert!(qemu.raw_of(delta.as_ref()) == before);
        options.rebase(&delta, Some(base.as_ref()), RebaseMode::Unsafe, go_on).unwrap();
        assert!(qemu.raw_of(delta.as_ref()) == before);
        let report = options.commit(&delta, 1, go_on).unwrap();
        assert_eq!(report.merged_links, 1);
        assert!(qemu.raw_of(delta.as_ref()) == before && qemu.raw_of(base.as_ref()) == before, "{zeroed_grain}");
        is_sound(qemu, base.as_ref());
        is_sound(qemu, delta.as_ref());
        // The empty delta takes writes of QEMU.
        io.run(["-f", "vmdk", "-c", "write -P 5 1M 64k", &*delta]);
        options.flatten(&delta, go_on).unwrap();
        let mut expected = before;
        expected[1 << 20..(1 << 20) + (64 << 10)].fill(5);
        std::fs::remove_file(&base).unwrap();
        assert!(qemu.raw_of(delta.as_ref()) == expected);
        is_sound(qemu, delta.as_ref());
    }
}
