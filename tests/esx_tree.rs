//! Snapshots as ESX has them on a datastore: a tree of several levels, each link with the names and the text that ESX
//! gives it, read by other programs as well.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmdk::{BlockDevice, ContentId, CreateOptions, CreateType, ExtentKind, OpenOptions, SECTOR_SIZE, VmdkImage};

mod support;
use support::disk::Image;
use support::rng::Rng;
use support::sesparse::SeSparseImage;
use support::tools;
use support::{SECTOR, byte_range, index};

const SECTORS: u64 = 9001;

/// A disk with its snapshots, and what each of them holds.
struct Tree {
    dir: TempDir,
    /// By the name of each link: the name of its parent, and its content.
    links: BTreeMap<&'static str, (Option<&'static str>, Vec<u8>)>,
    rng: Rng,
}

impl Tree {
    /// A base of ESX, which was written to.
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = CreateOptions::new().create_type(CreateType::Vmfs).capacity_sectors(SECTORS);
        options.create(dir.path().join("vm.vmdk")).unwrap();
        let links = BTreeMap::from([("vm.vmdk", (None, vec![0; index(SECTORS) * SECTOR]))]);
        let mut tree = Self { dir, links, rng: Rng::new(seed) };
        tree.write("vm.vmdk");
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn snapshot(&mut self, of: &'static str, name: &'static str) {
        let parent = OpenOptions::new().open(self.path(of)).unwrap();
        let child = parent.create_child(self.path(name), &CreateOptions::new()).unwrap();
        child.close().unwrap();
        drop((child, parent));
        let content = self.links[of].1.clone();
        self.links.insert(name, (Some(of), content));
        self.write(name);
    }

    /// Writes and clears at random.
    fn write(&mut self, name: &'static str) {
        let image = OpenOptions::new().write(true).open(self.path(name)).unwrap();
        let content = &mut self.links.get_mut(name).unwrap().1;
        for round in 0..12 {
            let start = self.rng.below(SECTORS);
            let count = (1 + self.rng.below(300)).min(SECTORS - start);
            let bytes =
                if round % 4 == 3 { vec![0; index(count) * SECTOR] } else { self.rng.bytes(index(count) * SECTOR) };
            image.write_sectors(start, &bytes).unwrap();
            content[byte_range(start, count)].copy_from_slice(&bytes);
        }
        image.close().unwrap();
    }

    /// The link with its parents, youngest first.
    fn chain(&self, name: &'static str) -> Vec<PathBuf> {
        let parents = std::iter::successors(Some(name), |name| self.links[name].0);
        parents.map(|name| self.path(name)).collect()
    }
}

fn content(path: &Path) -> Vec<u8> {
    let image = VmdkImage::open(path).unwrap();
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR_SIZE];
    image.read_sectors(0, &mut content).unwrap();
    content
}

/// Two branches, one of which goes on.
fn grown(seed: u64) -> Tree {
    let mut tree = Tree::new(seed);
    for (of, name) in [
        ("vm.vmdk", "vm-000001.vmdk"),
        ("vm-000001.vmdk", "vm-000002.vmdk"),
        ("vm-000001.vmdk", "vm-000003.vmdk"),
        ("vm-000003.vmdk", "vm-000004.vmdk"),
        ("vm.vmdk", "vm-000005.vmdk"),
    ] {
        tree.snapshot(of, name);
    }
    tree
}

#[test]
fn every_link_of_a_tree_holds_what_it_held_and_is_described_as_esx_does() {
    let tree = grown(1);
    for (name, (parent, expected)) in &tree.links {
        assert!(content(&tree.path(name)) == *expected, "{name}");
        let image = OpenOptions::new().no_parent(true).open(tree.path(name)).unwrap();
        let descriptor = image.descriptor();
        let long = descriptor.long_content_id().expect("ESX has one");
        assert_eq!(descriptor.content_id().map(ContentId::value), u32::try_from(long & 0xffff_ffff).ok(), "{name}");
        let Some(parent) = parent else { continue };
        assert_eq!(image.create_type(), Some(&CreateType::VmfsSparse), "{name}");
        assert_eq!(descriptor.parent_hint(), Some(parent.as_bytes()), "{name}");
        let of_parent = OpenOptions::new().no_parent(true).open(tree.path(parent)).unwrap().content_id();
        assert_eq!(descriptor.parent_content_id(), of_parent, "{name}");
        let line = &descriptor.extents()[0];
        let delta = name.replace(".vmdk", "-delta.vmdk");
        assert_eq!(
            (line.kind(), line.name(), line.sectors()),
            (ExtentKind::VmfsSparse, Some(delta.as_bytes()), SECTORS)
        );
        assert!(tree.path(&delta).exists(), "{delta}");
    }
    let files = std::fs::read_dir(tree.dir.path()).unwrap().count();
    assert_eq!(files, 2 * tree.links.len(), "a text and a file with data each");
}

#[test]
fn qemu_reads_every_link_of_a_tree() {
    let Some(qemu_img) = tools::qemu_img("qemu_reads_every_link_of_a_tree") else { return };
    let tree = grown(2);
    for (name, (_, expected)) in &tree.links {
        assert!(qemu_img.raw_of(&tree.path(name)) == *expected, "{name}");
    }
}

#[test]
fn libraries_of_python_read_every_link_of_a_tree() {
    for library in ["pyvmdk", "dissect"] {
        let Some(reader) = tools::reader("libraries_of_python_read_every_link_of_a_tree", library) else { continue };
        let tree = grown(3);
        for (name, (_, expected)) in &tree.links {
            let paths = tree.chain(name);
            let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
            let expected = (expected.len() as u64, tools::sha256_hex(expected));
            assert_eq!(reader.read(0, &paths), expected, "{library}: {name}");
        }
    }
}

/// A snapshot of a newer ESX in the middle: deltas made here go on over it.
#[test]
fn deltas_go_on_over_sesparse() {
    let dir = tempfile::tempdir().unwrap();
    let rng = &mut Rng::new(4);
    let base = Image::vmfs("vm.vmdk", rng.bytes(index(SECTORS) * SECTOR));
    let middle = Image::se_sparse(&base, "vm-000001.vmdk", &SeSparseImage::new(SECTORS).random(rng).random_layout(rng));
    let mut expected = middle.content.clone();
    base.write_to(dir.path());
    let middle = middle.write_to(dir.path());
    let leaf = dir.path().join("vm-000002.vmdk");
    let options = CreateOptions::new().create_type(CreateType::VmfsSparse);
    let image = OpenOptions::new().open(&middle).unwrap().create_child(&leaf, &options).unwrap();
    for _ in 0..20 {
        let sector = rng.below(SECTORS);
        let bytes = rng.bytes(SECTOR);
        image.write_sectors(sector, &bytes).unwrap();
        expected[byte_range(sector, 1)].copy_from_slice(&bytes);
    }
    image.close().unwrap();
    drop(image);
    assert!(content(&leaf) == expected);
    if let Some(qemu_img) = tools::qemu_img("deltas_go_on_over_sesparse") {
        assert!(qemu_img.raw_of(&leaf) == expected);
    }
    // The whole chain into one disk of another type.
    let whole = dir.path().join("whole.vmdk");
    let source = VmdkImage::open(&leaf).unwrap();
    let options = CreateOptions::new().create_type(CreateType::MonolithicSparse);
    options.create_from(&whole, &source, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert!(content(&whole) == expected);
}
