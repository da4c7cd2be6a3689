//! Images that are written here and by QEMU in turn: both see one disk, and `qemu-img check` finds nothing.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::path::PathBuf;

use tempfile::TempDir;
use vmdk::{BlockDevice, ErrorKind, OpenOptions, VmdkImage};

use support::ledger::{Ledger, Operation};
use support::rng::Rng;
use support::tools::{self, Tool};
use support::{SECTOR, byte_range, index};

const MIB: u64 = 2048;
/// Where QEMU's second extent begins.
const BORDER: u64 = 2048 * MIB;

/// Both programs, or `None` and a word about `test` being skipped.
fn qemu(test: &str) -> Option<Qemu> {
    let (img, io) = tools::qemu_img(test).zip(tools::qemu_io(test))?;
    Some(Qemu { img, io, dir: tempfile::tempdir().unwrap() })
}

/// QEMU's programs, at work in a directory.
struct Qemu {
    img: Tool,
    io: Tool,
    dir: TempDir,
}

impl Qemu {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An empty image.
    fn create(&self, name: &str, options: &str, sectors: u64) {
        let size = (sectors * SECTOR as u64).to_string();
        self.img.run(["create", "-q", "-f", "vmdk", "-o", options, self.path(name).to_str().unwrap(), &size]);
    }

    /// An empty child, of the size of its parent.
    fn create_child(&self, parent: &str, name: &str, options: &str) {
        let path = self.path(name);
        let mut args = vec!["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", parent];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.push(path.to_str().unwrap());
        self.img.run(args);
    }

    /// Lets QEMU write at random.
    fn write(&self, name: &str, model: &mut [u8], rng: &mut Rng) {
        let capacity = (model.len() / SECTOR) as u64;
        let mut commands = Vec::new();
        for _ in 0..12 {
            let (start, count) = place(capacity, rng);
            let pattern = u8::try_from(rng.below(256)).unwrap();
            let (offset, len) = (start * SECTOR as u64, count * SECTOR as u64);
            commands.push(match pattern {
                0..60 => format!("write -z {offset} {len}"),
                _ => format!("write -P {pattern} {offset} {len}"),
            });
            model[byte_range(start, count)].fill(if pattern < 60 { 0 } else { pattern });
        }
        let path = self.path(name);
        let mut args = vec!["-f", "vmdk"];
        args.extend(commands.iter().flat_map(|command| ["-c", command]));
        args.push(path.to_str().unwrap());
        let said = self.io.run(args);
        assert_eq!(said.matches("wrote ").count(), commands.len(), "{said}");
    }

    /// Nothing is wrong, and the content is the one of the model.
    #[track_caller]
    fn agrees(&self, name: &str, model: &[u8], what: &str) {
        let path = self.path(name);
        let checked = self.img.output(["check", "-f", "vmdk", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && said.contains("No errors were found"), "{what}: {said}");
        let theirs = self.img.raw_of(&path);
        assert_eq!(theirs.len(), model.len(), "{what}");
        if theirs != model {
            let sector = theirs.chunks(SECTOR).zip(model.chunks(SECTOR)).position(|(theirs, ours)| theirs != ours);
            panic!("{what}: QEMU reads something else in sector {}", sector.unwrap());
        }
    }

    /// The content ID of an image.
    fn content_id(&self, name: &str) -> u32 {
        VmdkImage::open(self.path(name)).unwrap().chain()[0].descriptor().content_id().unwrap().value()
    }
}

/// Half of the places are near an end of the disk or of a grain.
fn place(capacity: u64, rng: &mut Rng) -> (u64, u64) {
    let start = match rng.below(4) {
        0 => rng.below(capacity) / 128 * 128,
        1 => capacity - 1 - rng.below(capacity.min(200)),
        _ => rng.below(capacity),
    };
    let most = [1, 8, 300, MIB][index(rng.below(4))].min(capacity - start);
    (start, 1 + rng.below(most))
}

/// Writes here at random; what is discarded counts as it is read then.
fn write_here(qemu: &Qemu, name: &str, model: &mut Vec<u8>, rng: &mut Rng) {
    let image = OpenOptions::new().write(true).open(qemu.path(name)).unwrap();
    let mut ledger = Ledger::new(std::mem::take(model));
    for number in 0..20 {
        let (start, count) = place(ledger.capacity(), rng);
        let operation = match rng.below(8) {
            0 => Operation::Zero { start, count, unmap: true },
            1 => Operation::Zero { start, count, unmap: false },
            2 => Operation::Discard { start, count },
            3 => Operation::Flush,
            _ => Operation::Write { start, count, seed: rng.next_u64() ^ number },
        };
        ledger.apply(&image, operation).unwrap();
    }
    image.close().unwrap();
    *model = ledger.now;
}

/// QEMU and this crate write to one image in turn.
fn in_turn(qemu: &Qemu, name: &str, model: &mut Vec<u8>, seed: u64) {
    let rng = &mut Rng::new(seed);
    for round in 0..4 {
        let before = qemu.content_id(name);
        write_here(qemu, name, model, rng);
        assert_ne!(qemu.content_id(name), before, "{name}: round {round}");
        qemu.agrees(name, model, &format!("{name}: round {round}, written here"));
        qemu.write(name, model, rng);
        let image = VmdkImage::open(qemu.path(name)).unwrap();
        let ledger = Ledger::new(std::mem::take(model));
        ledger.compare(&image, &format!("{name}: round {round}, written by QEMU"));
        *model = ledger.now;
    }
    write_here(qemu, name, model, rng);
    qemu.agrees(name, model, name);
}

fn images_of_qemu_are_written_in_turn(test: &str, options: &str) {
    let Some(qemu) = qemu(test) else { return };
    for (seed, sectors) in (1..).zip([1, 127, 777, 32 * MIB, 32 * MIB + 1]) {
        let name = format!("disk-{sectors}.vmdk");
        qemu.create(&name, options, sectors);
        in_turn(&qemu, &name, &mut vec![0; index(sectors) * SECTOR], seed);
    }
}

#[test]
fn monolithic_sparse_images_are_written_in_turn() {
    let test = "monolithic_sparse_images_are_written_in_turn";
    images_of_qemu_are_written_in_turn(test, "subformat=monolithicSparse");
}

#[test]
fn images_with_zero_grains_are_written_in_turn() {
    let test = "images_with_zero_grains_are_written_in_turn";
    images_of_qemu_are_written_in_turn(test, "subformat=monolithicSparse,zeroed_grain=on");
}

#[test]
fn monolithic_flat_images_are_written_in_turn() {
    let test = "monolithic_flat_images_are_written_in_turn";
    images_of_qemu_are_written_in_turn(test, "subformat=monolithicFlat");
}

#[test]
fn split_sparse_images_are_written_in_turn() {
    let test = "split_sparse_images_are_written_in_turn";
    images_of_qemu_are_written_in_turn(test, "subformat=twoGbMaxExtentSparse");
}

#[test]
fn split_flat_images_are_written_in_turn() {
    let test = "split_flat_images_are_written_in_turn";
    images_of_qemu_are_written_in_turn(test, "subformat=twoGbMaxExtentFlat");
}

/// Writes that cross from one extent of 2 GiB into the next.
#[test]
fn writes_across_extents_of_qemu_arrive() {
    let Some(qemu) = qemu("writes_across_extents_of_qemu_arrive") else { return };
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let name = format!("{subformat}.vmdk");
        qemu.create(&name, &format!("subformat={subformat}"), BORDER + 10 * MIB);
        let bytes = Rng::new(9).bytes(600 * SECTOR);
        let image = OpenOptions::new().write(true).open(qemu.path(&name)).unwrap();
        image.write_sectors(BORDER - 300, &bytes).unwrap();
        image.write_zeroes(BORDER - 5, 10, true).unwrap();
        image.close().unwrap();
        drop(image);
        let mut expected = bytes;
        expected[295 * SECTOR..305 * SECTOR].fill(0);
        let (offset, len) = ((BORDER - 300) * SECTOR as u64, expected.len().to_string());
        let raw = qemu.path("part");
        let file = format!(
            "driver=raw,offset={offset},size={len},file.driver=vmdk,file.file.driver=file,file.file.filename={}",
            qemu.path(&name).display()
        );
        qemu.img.run(["convert", "--image-opts", "-O", "raw", &file, raw.to_str().unwrap()]);
        assert!(std::fs::read(&raw).unwrap() == expected, "{subformat}");
        qemu.img.run(["check", "-q", qemu.path(&name).to_str().unwrap()]);
    }
}

/// QEMU makes the chain, and both write to its links as far as that is allowed: only to the youngest.
#[test]
fn chains_half_made_by_qemu_are_written_in_turn() {
    let Some(qemu) = qemu("chains_half_made_by_qemu_are_written_in_turn") else { return };
    let bases = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
    for (seed, subformat) in (20..).zip(bases) {
        let rng = &mut Rng::new(seed);
        let sectors = 20 * MIB + 128 * seed + 77;
        let name = |link: &str| format!("{subformat}-{link}.vmdk");
        let [base, first, second, third] = ["base", "1", "2", "3"].map(name);
        let mut model = vec![0; index(sectors) * SECTOR];
        qemu.create(&base, &format!("subformat={subformat}"), sectors);
        qemu.write(&base, &mut model, rng);
        write_here(&qemu, &base, &mut model, rng);
        // The parent was written here, and its child is made by QEMU against its new content ID.
        qemu.create_child(&base, &first, "");
        let parents = [content_of(&qemu, &base)];
        in_turn(&qemu, &first, &mut model, seed);
        qemu.create_child(&first, &second, "zeroed_grain=on");
        in_turn(&qemu, &second, &mut model, seed + 100);
        qemu.create_child(&second, &third, "subformat=twoGbMaxExtentSparse");
        in_turn(&qemu, &third, &mut model, seed + 200);
        assert!([content_of(&qemu, &base)] == parents, "{subformat}: the base has changed");
    }
}

fn content_of(qemu: &Qemu, name: &str) -> Vec<u8> {
    qemu.img.raw_of(&qemu.path(name))
}

#[test]
fn the_content_id_changes_once_an_open_and_only_with_a_write() {
    let Some(qemu) = qemu("the_content_id_changes_once_an_open_and_only_with_a_write") else { return };
    for subformat in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse"] {
        qemu.create("disk.vmdk", &format!("subformat={subformat}"), MIB);
        let first = qemu.content_id("disk.vmdk");
        let open = || OpenOptions::new().write(true).open(qemu.path("disk.vmdk")).unwrap();
        let text = || String::from_utf8_lossy(&std::fs::read(qemu.path("disk.vmdk")).unwrap()).into_owned();
        let id_in_file = || text().split("\nCID=").nth(1).map(|rest| rest[..8].to_owned()).unwrap();

        let image = open();
        let mut sector = [0; SECTOR];
        image.read_sectors(0, &mut sector).unwrap();
        image.flush().unwrap();
        image.close().unwrap();
        drop(image);
        assert_eq!(qemu.content_id("disk.vmdk"), first, "{subformat}: nothing was written");

        let image = open();
        image.write_sectors(3, &[1; SECTOR]).unwrap();
        let changed = id_in_file();
        for sector in 4..300 {
            image.write_sectors(sector, &[2; SECTOR]).unwrap();
        }
        image.flush().unwrap();
        assert_eq!(id_in_file(), changed, "{subformat}: a second time");
        image.close().unwrap();
        drop(image);
        assert_eq!(id_in_file(), changed, "{subformat}: with the close");
        assert_ne!(qemu.content_id("disk.vmdk"), first, "{subformat}");
        std::fs::remove_file(qemu.path("disk.vmdk")).unwrap();
    }
}

/// What a child shows of a parent that has changed is a mixture of two disks: nobody opens it by mistake.
#[test]
fn a_parent_that_was_written_to_loses_its_child() {
    let Some(qemu) = qemu("a_parent_that_was_written_to_loses_its_child") else { return };
    for subformat in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let [base, child] = ["base", "child"].map(|link| format!("{subformat}-{link}.vmdk"));
        let mut model = vec![0; index(2 * MIB) * SECTOR];
        qemu.create(&base, &format!("subformat={subformat}"), 2 * MIB);
        qemu.create_child(&base, &child, "");
        let rng = &mut Rng::new(40);
        // The child of a parent that nobody has written to is QEMU's, too.
        write_here(&qemu, &child, &mut model, rng);
        qemu.agrees(&child, &model, &child);

        write_here(&qemu, &base, &mut vec![0; index(2 * MIB) * SECTOR], rng);
        let refused =
            qemu.img.output(["convert", "-f", "vmdk", "-O", "raw", qemu.path(&child).to_str().unwrap(), "/dev/null"]);
        assert!(!refused.status.success(), "{subformat}: QEMU reads it");
        for write in [false, true] {
            let error = OpenOptions::new().write(write).open(qemu.path(&child)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ContentIdMismatch, "{subformat}: {error}");
        }
    }
}

/// While it is open here, QEMU keeps away from it; afterwards it does not.
#[test]
fn what_is_flushed_is_there_for_qemu_before_the_image_is_closed() {
    let Some(qemu) = qemu("what_is_flushed_is_there_for_qemu_before_the_image_is_closed") else { return };
    for options in ["subformat=monolithicSparse", "subformat=twoGbMaxExtentSparse", "subformat=monolithicFlat"] {
        qemu.create("disk.vmdk", options, 8 * MIB);
        let image = OpenOptions::new().write(true).open(qemu.path("disk.vmdk")).unwrap();
        let bytes = Rng::new(50).bytes(700 * SECTOR);
        image.write_sectors(100, &bytes).unwrap();
        image.flush().unwrap();
        let (raw, path) = (qemu.path("raw"), qemu.path("disk.vmdk"));
        let args = ["convert", "-f", "vmdk", "-O", "raw", path.to_str().unwrap(), raw.to_str().unwrap()];
        assert!(!qemu.img.output(args).status.success(), "{options}: QEMU has opened it");
        qemu.img.run([&["convert", "-U"], &args[1..]].concat());
        assert!(std::fs::read(&raw).unwrap()[byte_range(100, 700)] == bytes, "{options}");
        drop(image);
        qemu.img.run(args);
        std::fs::remove_file(path).unwrap();
    }
}
