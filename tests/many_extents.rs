//! Disks of a thousand files, as container layers and split disks can be, in a process that may have few files open.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vmdk::{BlockDevice, ErrorKind, OpenOptions, VmdkImage};

use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, byte_range, index};

/// Files of a disk.
const FILES: u64 = 1000;
/// Sectors in each of them.
const EACH: u64 = 3;
/// Generous: it takes milliseconds.
const MOST_TO_OPEN: Duration = Duration::from_secs(5);

/// A disk of many files in a directory.
struct Many {
    dir: TempDir,
    content: Vec<u8>,
}

impl Many {
    /// Writes a descriptor and its files, which `build` makes of what is in them.
    fn new(word: &str, build: impl Fn(&[u8]) -> Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let content = Rng::new(9).bytes(index(FILES * EACH) * SECTOR);
        let mut text =
            "# Disk DescriptorFile\nversion=1\nCID=7\nparentCID=ffffffff\ncreateType=\"custom\"\n".to_owned();
        for number in 0..FILES {
            let bytes = build(&content[byte_range(number * EACH, EACH)]);
            std::fs::write(dir.path().join(part(number)), bytes).unwrap();
            writeln!(text, "RW {EACH} {word} \"{}\"", part(number)).unwrap();
        }
        std::fs::write(dir.path().join("disk.vmdk"), text).unwrap();
        Self { dir, content }
    }

    fn flat() -> Self {
        Self::new("FLAT", <[u8]>::to_vec)
    }

    fn sparse() -> Self {
        Self::new("SPARSE", |bytes| {
            SparseImage::new(EACH).grain_sectors(4).entries_per_table(128).data(0, bytes).build()
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk.vmdk")
    }

    fn part(&self, number: u64) -> PathBuf {
        self.dir.path().join(part(number))
    }

    /// Puts another file of the same size in the place of one, as an editor or a backup program does.
    fn replace(&self, number: u64) {
        let old = self.part(number);
        let len = std::fs::metadata(&old).unwrap().len();
        let new = self.dir.path().join("new");
        std::fs::write(&new, vec![0xdd; usize::try_from(len).unwrap()]).unwrap();
        std::fs::rename(new, old).unwrap();
    }

    /// Compares the disk at random, and as a whole.
    fn check(&self, image: &VmdkImage, seed: u64) {
        let rng = &mut Rng::new(seed);
        let capacity = FILES * EACH;
        assert_eq!(image.capacity_sectors(), capacity);
        for _ in 0..100 {
            let start = rng.below(capacity);
            let count = 1 + rng.below((capacity - start).min(20));
            let mut buf = vec![0xee; index(count) * SECTOR];
            image.read_sectors(start, &mut buf).unwrap();
            assert!(buf == self.content[byte_range(start, count)], "{count} sectors at {start}");
        }
        let mut all = vec![0xee; self.content.len()];
        image.read_sectors(0, &mut all).unwrap();
        assert!(all == self.content);
    }
}

fn part(number: u64) -> String {
    format!("disk-f{number:04}.vmdk")
}

/// Opens a disk, and says how long it took.
fn open(path: &Path, what: &str) -> VmdkImage {
    let before = Instant::now();
    let image = VmdkImage::open(path).unwrap();
    let took = before.elapsed();
    println!("{what}: opened in {} ms", took.as_millis());
    assert!(took < MOST_TO_OPEN, "{what}: {took:?}");
    image
}

#[test]
fn a_thousand_flat_extents_open_fast_and_read_right() {
    let many = Many::flat();
    let image = open(&many.path(), "1000 FLAT extents");
    assert_eq!(image.chain()[0].extents().len(), 1000);
    assert_eq!(image.host_files().len(), 1001);
    many.check(&image, 1);
}

#[test]
fn a_thousand_sparse_extents_open_fast_and_read_right() {
    let many = Many::sparse();
    let image = open(&many.path(), "1000 SPARSE extents");
    many.check(&image, 2);
}

#[test]
fn eight_threads_read_a_thousand_files_at_once() {
    for many in [Many::flat(), Many::sparse()] {
        for max_open in [1, 128] {
            let image = OpenOptions::new().max_open_files(max_open).open(many.path()).unwrap();
            let (image, many) = (&image, &many);
            std::thread::scope(|scope| {
                for seed in 0..8 {
                    scope.spawn(move || many.check(image, seed));
                }
            });
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn qemu_holds_the_files_of_all_extents_open_and_here_there_are_no_more_than_allowed() {
    let handles = |dir: &Path| {
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok()).filter(|to| to.starts_with(dir)).count()
    };
    let many = Many::flat();
    let dir = many.dir.path().canonicalize().unwrap();
    for (max_open, most) in [(8, 8), (128, 128), (2000, 1000)] {
        let image = OpenOptions::new().max_open_files(max_open).open(many.path()).unwrap();
        many.check(&image, 4);
        let open = handles(&dir);
        // The descriptor comes on top.
        assert!(open <= most + 1, "{open} open with a limit of {max_open}");
        assert!(open >= most, "only {open} open with a limit of {max_open}: the others are opened again for nothing");
        drop(image);
        assert_eq!(handles(&dir), 0);
    }
}

/// In a process of its own, because the limit is one for all its threads.
#[cfg(unix)]
#[test]
fn a_thousand_extents_are_read_with_256_files_open() {
    const INSIDE: &str = "VMDK_TEST_FEW_FILES";
    const NAME: &str = "a_thousand_extents_are_read_with_256_files_open";
    if std::env::var_os(INSIDE).is_none() {
        let output = Command::new("sh")
            .args(["-c", "ulimit -n 256; test \"$(ulimit -n)\" = 256 && exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    for many in [Many::flat(), Many::sparse()] {
        // The limit is real.
        let files: Vec<_> = (0..FILES).map_while(|number| std::fs::File::open(many.part(number)).ok()).collect();
        assert!(files.len() < 256, "{} files were opened", files.len());
        drop(files);
        let image = open(&many.path(), "1000 extents with 256 files");
        std::thread::scope(|scope| {
            for seed in 0..8 {
                let (image, many) = (&image, &many);
                scope.spawn(move || many.check(image, seed));
            }
        });
    }
}

#[test]
fn a_file_that_is_replaced_while_the_image_is_open_is_an_error_and_not_other_data() {
    for many in [Many::flat(), Many::sparse()] {
        let image = OpenOptions::new().max_open_files(8).open(many.path()).unwrap();
        // Use others, so that its handle is closed.
        many.check(&image, 3);
        image.read_sectors(990 * EACH, &mut vec![0; 9 * index(EACH) * SECTOR]).unwrap();
        many.replace(500);
        let mut buf = vec![0xee; index(EACH) * SECTOR];
        let error = image.read_sectors(500 * EACH, &mut buf).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains(&part(500)), "{error}");
        // A file whose handle was kept goes on as it was, and so do the others.
        many.replace(0);
        for number in [0, 1, 499, 501, 999] {
            image.read_sectors(number * EACH, &mut buf).unwrap();
            assert!(buf == many.content[byte_range(number * EACH, EACH)], "file {number}");
        }
    }
}

#[test]
fn a_file_that_is_gone_or_shorter_is_an_error_that_names_it() {
    let many = Many::flat();
    let image = OpenOptions::new().max_open_files(8).open(many.path()).unwrap();
    std::fs::remove_file(many.part(500)).unwrap();
    std::fs::OpenOptions::new().write(true).open(many.part(600)).unwrap().set_len(512).unwrap();
    for number in [500, 600] {
        let error = image.read_sectors(number * EACH, &mut vec![0; index(EACH) * SECTOR]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "file {number}");
        assert!(error.to_string().contains(&part(number)), "{error}");
    }
    image.read_sectors(499 * EACH, &mut [0; SECTOR]).unwrap();
}

/// A link that leads elsewhere by now is judged by the same rules as at the beginning.
#[cfg(unix)]
#[test]
fn a_file_that_became_a_link_to_another_is_refused() {
    let many = Many::flat();
    let image = OpenOptions::new().max_open_files(8).open(many.path()).unwrap();
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    std::fs::remove_file(many.part(500)).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), many.part(500)).unwrap();
    let error = image.read_sectors(500 * EACH, &mut [0; SECTOR]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}
