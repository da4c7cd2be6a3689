//! New images beside other implementations: QEMU, libvmdk and dissect read what is made here, QEMU writes to it, and
//! what QEMU and VMware's products made of the same sizes is laid out in the same way.
//!
//! ```text
//! filled    every type, filled from a raw disk: checked, compared and written by QEMU
//! fields    headers and descriptors beside those of `qemu-img create`
//! samples   the same beside disks of VMware's products (VMDK_SAMPLES)
//! chains    links made by QEMU and here in turn
//! readers   libvmdk and dissect.hypervisor (VMDK_PYTHON)
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod chains;
mod fields;
mod filled;
mod readers;
mod samples;
#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use vmdk::{
    BlockDevice, CacheMode, CreateOptions, CreateType, FileStorage, OpenOptions, RawImage, Storage, VmdkImage, compare,
};

use support::rng::Rng;
use support::tools::{self, Tool};
use support::{SECTOR, index};

/// Sectors of an extent of a disk that is split: here, and by QEMU.
const SPLIT: u64 = 4_192_256;
const SPLIT_OF_QEMU: u64 = 4_194_304;
/// Sectors that a grain table of a hosted extent covers.
const TABLE: u64 = 65_536;

fn new_disk(create_type: CreateType, sectors: u64) -> CreateOptions {
    CreateOptions::new().create_type(create_type).capacity_sectors(sectors).sync(false)
}

fn open_to_write(path: &Path) -> VmdkImage {
    let options = OpenOptions::new().write(true).cache_mode(CacheMode::Unsafe).allow_any_path(true);
    options.open(path).unwrap_or_else(|error| panic!("{error}"))
}

/// A raw file, as large as a disk, that is to hold the same.
struct Model {
    path: PathBuf,
    sectors: u64,
}

/// What is done to a disk and to its model.
#[derive(Clone, Copy, Debug)]
struct Change {
    start: u64,
    count: u64,
    /// Which byte is written; 0 is written as zeros by request.
    byte: u8,
}

impl Model {
    /// One of nothing but a hole.
    fn new(dir: &Path, name: &str, sectors: u64) -> Self {
        let path = dir.join(name);
        File::create(&path).unwrap().set_len(sectors * SECTOR as u64).unwrap();
        Self { path, sectors }
    }

    fn storage(&self) -> FileStorage {
        FileStorage::new(File::options().read(true).write(true).open(&self.path).unwrap()).unwrap()
    }

    /// Data, zeros that were written, and holes. The ends of the disk are data.
    fn fill(&self, rng: &mut Rng) {
        let storage = self.storage();
        for number in 0..24 {
            let Change { start, count, byte } = self.change(rng);
            let mut bytes = vec![byte; index(count) * SECTOR];
            if byte > 0 && number % 2 == 0 {
                rng.fill(&mut bytes);
            }
            storage.write_all_at(&bytes, start * SECTOR as u64).unwrap();
        }
        for sector in [0, self.sectors - 1] {
            storage.write_all_at(&rng.bytes(SECTOR), sector * SECTOR as u64).unwrap();
        }
    }

    /// Half of them are near an end of something: the disk, a grain table, an extent of either kind.
    fn change(&self, rng: &mut Rng) -> Change {
        let near = match rng.below(10) {
            0 => 0,
            1 => self.sectors,
            2 => SPLIT,
            3 => SPLIT_OF_QEMU,
            4 => TABLE * rng.below(self.sectors / TABLE + 1),
            _ => rng.below(self.sectors),
        };
        let start = (near + rng.below(9)).saturating_sub(rng.below(140)).min(self.sectors - 1);
        let most = [1, 8, 300, 4096][index(rng.below(4))].min(self.sectors - start);
        let byte = if rng.chance(30) { 0 } else { u8::try_from(1 + rng.below(255)).unwrap() };
        Change { start, count: 1 + rng.below(most), byte }
    }

    /// Makes changes, to an image and here.
    fn change_with(&self, image: &VmdkImage, rng: &mut Rng) {
        let storage = self.storage();
        for _ in 0..12 {
            let Change { start, count, byte } = self.change(rng);
            let bytes = vec![byte; index(count) * SECTOR];
            if byte == 0 {
                image.write_zeroes(start, count, true).unwrap();
            } else {
                image.write_sectors(start, &bytes).unwrap();
            }
            storage.write_all_at(&bytes, start * SECTOR as u64).unwrap();
        }
    }

    /// Fails unless `image` has the size and the content.
    #[track_caller]
    fn expect_same(&self, image: &VmdkImage, what: &str) {
        let model = RawImage::open(&self.path).unwrap();
        let compared = compare(image, &model, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(compared.is_same_content() && compared.is_same_size(), "{what}: {compared:?}");
    }
}

/// QEMU's programs, at work in a directory.
struct Qemu {
    img: Tool,
    io: Tool,
    dir: TempDir,
}

impl Qemu {
    /// Both programs, or `None` and a word about `test` being skipped.
    fn find(test: &str) -> Option<Self> {
        let (img, io) = tools::qemu_img(test).zip(tools::qemu_io(test))?;
        Some(Self { img, io, dir: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn model(&self, name: &str, sectors: u64) -> Model {
        Model::new(self.dir.path(), name, sectors)
    }

    fn create(&self, name: &str, options: &str, sectors: u64) {
        let size = (sectors * SECTOR as u64).to_string();
        self.img.run(["create", "-q", "-f", "vmdk", "-o", options, self.path(name).to_str().unwrap(), &size]);
    }

    fn create_child(&self, hint: &str, name: &str, options: &str) {
        let path = self.path(name);
        let args = ["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", hint, "-o", options, path.to_str().unwrap()];
        self.img.run(args);
    }

    /// What `qemu-img` says of an image.
    fn info(&self, path: &Path) -> Value {
        let text = self.img.run(["info", "-f", "vmdk", "--output=json", path.to_str().unwrap()]);
        serde_json::from_str(&text).unwrap()
    }

    /// Makes changes, to an image and to its model.
    fn change(&self, image: &Path, model: &Model, rng: &mut Rng) {
        self.make(image, model, || model.change(rng));
    }

    /// The same with whole grains alone: what is missing in a grain of a later extent of a split child, QEMU 10.0.2
    /// takes from the wrong place of its parent, namely from where the sector would be in the first extent.
    fn change_grains(&self, image: &Path, model: &Model, rng: &mut Rng) {
        self.make(image, model, || {
            let Change { start, count, byte } = model.change(rng);
            let (first, end) = (start / 128 * 128, (start + count).next_multiple_of(128).min(model.sectors));
            Change { start: first, count: end - first, byte }
        });
    }

    fn make(&self, image: &Path, model: &Model, mut next: impl FnMut() -> Change) {
        let commands: Vec<String> = (0..12)
            .map(|_| {
                let Change { start, count, byte } = next();
                let (offset, len) = (start * SECTOR as u64, count * SECTOR as u64);
                if byte == 0 { format!("write -z {offset} {len}") } else { format!("write -P {byte} {offset} {len}") }
            })
            .collect();
        for (format, path) in [("vmdk", image), ("raw", &model.path)] {
            let mut args = vec!["-t", "unsafe", "-f", format];
            args.extend(commands.iter().flat_map(|command| ["-c", command]));
            args.push(path.to_str().unwrap());
            let said = self.io.run(args);
            assert_eq!(said.matches("wrote ").count(), commands.len(), "{}: {said}", path.display());
        }
    }

    /// QEMU finds nothing wrong with an image, and reads what is in the model.
    #[track_caller]
    fn agrees(&self, image: &Path, model: &Model, what: &str) {
        let checked = self.img.output(["check", "-f", "vmdk", image.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success() && said.contains("No errors were found"), "{what}: {said}");
        let paths = [&model.path, image].map(|path| path.to_str().unwrap());
        let compared = self.img.output(["compare", "-f", "raw", "-F", "vmdk", paths[0], paths[1]]);
        let said = String::from_utf8_lossy(&compared.stdout) + String::from_utf8_lossy(&compared.stderr);
        assert_eq!(said, "Images are identical.\n", "{what}");
    }
}
