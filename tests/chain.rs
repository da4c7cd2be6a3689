//! Backing chains: parents are found, checked and believed, or the error says why not.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use vmdk::{BlockDevice, Error, ErrorKind, OpenOptions, VmdkImage};

use support::disk::Image;
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, index};

/// Four grains of random data.
fn base(name: &str) -> Image {
    let mut rng = Rng::new(7);
    let extent = (0..4).fold(SparseImage::new(512), |extent, grain| extent.data(grain, rng.bytes(128 * SECTOR)));
    Image::monolithic_sparse(name, extent)
}

/// A child of `parent` that has one grain of its own and says `hint` of its parent.
fn child_with_hint(parent: &Image, name: &str, hint: &str) -> Image {
    let extent = SparseImage::new(512).data(1, vec![0xc1; 128 * SECTOR]);
    Image::embedded(name, extent, Some(parent), |text| text.parent(parent.cid, hint))
}

fn child(parent: &Image, name: &str) -> Image {
    child_with_hint(parent, name, &parent.name)
}

fn content(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    content
}

fn error(result: vmdk::Result<VmdkImage>) -> Error {
    result.expect_err("it must not open")
}

struct Dirs {
    root: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn sub(&self, name: &str) -> PathBuf {
        let dir = self.root.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }
}

#[test]
fn a_parent_in_the_same_directory_is_found_by_every_form_of_hint() {
    let hints = [
        "base.vmdk",
        "./base.vmdk",
        "../elsewhere/base.vmdk",
        "/vmfs/volumes/5f3e/vm/base.vmdk",
        "[datastore1] vm/base.vmdk",
        "C:\\VMs\\a\\base.vmdk",
        "\\\\server\\share\\base.vmdk",
        "vm\\base.vmdk",
    ];
    for hint in hints {
        let dirs = Dirs::new();
        let base = base("base.vmdk");
        base.write_to(&dirs.sub("vm"));
        let child = child_with_hint(&base, "child.vmdk", hint);
        let image = VmdkImage::open(child.write_to(&dirs.sub("vm"))).unwrap_or_else(|error| panic!("{hint}: {error}"));
        assert_eq!(image.chain().len(), 2, "{hint}");
        assert!(content(&image) == child.content, "{hint}");
    }
}

#[test]
fn a_parent_in_another_directory_needs_permission() {
    let dirs = Dirs::new();
    let base = base("base.vmdk");
    base.write_to(&dirs.sub("base"));
    let child = child_with_hint(&base, "child.vmdk", "../base/base.vmdk");
    let path = child.write_to(&dirs.sub("vm"));
    let refused = error(VmdkImage::open(&path));
    assert_eq!(refused.kind(), ErrorKind::NameRefused);
    assert!(refused.to_string().contains("../base/base.vmdk"), "{refused}");
    let allowed = OpenOptions::new().allow_dir(dirs.sub("base")).open(&path).unwrap();
    assert!(content(&allowed) == child.content);
    let anywhere = OpenOptions::new().allow_any_path(true).open(&path).unwrap();
    assert!(content(&anywhere) == child.content);
}

#[test]
fn a_moved_tree_finds_its_parent_beside_the_childs_directory() {
    let dirs = Dirs::new();
    let base = base("base.vmdk");
    base.write_to(&dirs.sub("golden"));
    let child = child_with_hint(&base, "child.vmdk", "/old/place/golden/base.vmdk");
    let path = child.write_to(&dirs.sub("vm"));
    let image = OpenOptions::new().allow_dir(dirs.root.path()).open(&path).unwrap();
    assert!(content(&image) == child.content);
}

#[test]
fn a_parents_own_names_resolve_where_the_parent_lies() {
    let dirs = Dirs::new();
    let base = Image::monolithic_flat("base.vmdk", Rng::new(3).bytes(512 * SECTOR));
    base.write_to(&dirs.sub("vm/parents"));
    let child = child_with_hint(&base, "child.vmdk", "parents/base.vmdk");
    let image = VmdkImage::open(child.write_to(&dirs.sub("vm"))).unwrap();
    assert!(content(&image) == child.content);
    assert_eq!(image.host_files().len(), 3);
}

#[test]
fn a_missing_parent_is_named_with_every_place_that_was_looked_at() {
    let dirs = Dirs::new();
    let base = base("base.vmdk");
    let child = child_with_hint(&base, "child.vmdk", "/old/golden/base.vmdk");
    let path = child.write_to(&dirs.sub("vm"));
    let error = error(OpenOptions::new().allow_dir(dirs.root.path()).open(&path));
    let text = error.to_string();
    for part in ["child.vmdk", "/old/golden/base.vmdk", "\"base.vmdk\"", "../golden/base.vmdk", "No such file"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    let plain = VmdkImage::open(child_with_hint(&base, "other.vmdk", "base.vmdk").write_to(&dirs.sub("vm")));
    assert_eq!(plain.unwrap_err().kind(), ErrorKind::ParentMissing);
}

#[test]
fn qemu_opens_a_child_of_a_changed_parent_and_here_it_is_refused_with_both_content_ids_and_paths() {
    let dirs = Dirs::new();
    let base = base("base.vmdk");
    base.write_to(&dirs.sub("vm"));
    let extent = SparseImage::new(512);
    let child = Image::embedded("child.vmdk", extent, Some(&base), |text| text.parent(0x0bad_cafe, "base.vmdk"));
    let path = child.write_to(&dirs.sub("vm"));
    let error = error(VmdkImage::open(&path));
    assert_eq!(error.kind(), ErrorKind::ContentIdMismatch);
    let text = error.to_string();
    for part in ["child.vmdk", "base.vmdk", "0badcafe", &format!("{:08x}", base.cid)] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    let forced = OpenOptions::new().ignore_cid_mismatch(true).open(&path).unwrap();
    assert!(content(&forced) == child.content);
}

#[test]
fn among_several_candidates_the_one_with_the_right_content_id_is_taken() {
    let dirs = Dirs::new();
    let mut decoy = base("base.vmdk");
    let right = base("base.vmdk");
    right.write_to(&dirs.sub("right"));
    decoy = Image::embedded("base.vmdk", SparseImage::new(512), None, |text| text.ddb("x", decoy.cid));
    let text = fs::read(decoy.write_to(&dirs.sub("vm"))).unwrap();
    // Another content ID in the decoy's text.
    let at = text.windows(4).position(|window| window == b"CID=").unwrap() + 4;
    let mut changed = text;
    changed[at..at + 8].copy_from_slice(b"00000bad");
    fs::write(dirs.sub("vm").join("base.vmdk"), changed).unwrap();
    let child = child_with_hint(&right, "child.vmdk", "/gone/right/base.vmdk");
    let path = child.write_to(&dirs.sub("vm"));
    let options = OpenOptions::new().allow_dir(dirs.root.path()).ignore_cid_mismatch(true);
    assert!(content(&options.open(&path).unwrap()) == child.content);
}

#[test]
fn a_named_parent_replaces_the_hint_and_is_still_checked() {
    let dirs = Dirs::new();
    let base = base("base.vmdk");
    let base_path = base.write_to(&dirs.sub("far/away"));
    let other = Image::monolithic_sparse("other.vmdk", SparseImage::new(512)).write_to(&dirs.sub("far"));
    let child = child(&base, "child.vmdk");
    let path = child.write_to(&dirs.sub("vm"));
    let image = OpenOptions::new().parent(&base_path).open(&path).unwrap();
    assert!(content(&image) == child.content);
    let still_named = OpenOptions::new().parent(&base_path).no_parent(false).open(&path).unwrap();
    assert_eq!(still_named.chain().len(), 2);
    let wrong = error(OpenOptions::new().parent(&other).open(&path));
    assert_eq!(wrong.kind(), ErrorKind::ContentIdMismatch);
    assert!(OpenOptions::new().parent(&other).ignore_cid_mismatch(true).open(&path).is_ok());
}

#[test]
fn a_parent_for_an_image_that_has_none_is_a_mistake_of_the_caller() {
    let dirs = Dirs::new();
    let base = base("base.vmdk").write_to(&dirs.sub("vm"));
    let error = error(OpenOptions::new().parent(&base).open(&base));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// Sixty-four descriptors of 1 MiB each are within every limit of their own.
#[test]
fn the_descriptors_of_a_chain_are_bounded_together() {
    let dirs = Dirs::new();
    let vm = dirs.sub("vm");
    for number in 0..64 {
        let mut text = format!(
            "# Disk DescriptorFile\nversion=1\nCID={number:08x}\nparentCID={:08x}\nparentFileNameHint=\"{}.vmdk\"\n",
            number + 1,
            number + 1
        );
        text.push_str(&"RW 1 ZERO\n".repeat(90_000));
        fs::write(vm.join(format!("{number}.vmdk")), text).unwrap();
    }
    let error = error(VmdkImage::open(vm.join("0.vmdk")));
    assert_eq!(error.kind(), ErrorKind::BadChain);
    assert!(error.to_string().contains("2.vmdk: the descriptors of the chain have"), "{error}");
}

#[test]
fn a_parent_named_by_the_caller_needs_no_hint_that_can_be_read() {
    let dirs = Dirs::new();
    let base = base("base.vmdk");
    let base_path = base.write_to(&dirs.sub("far"));
    let child = child_with_hint(&base, "child.vmdk", "bas?.vmdk");
    let path = child.write_to(&dirs.sub("vm"));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(9).position(|window| window == b"bas?.vmdk").unwrap() + 3;
    bytes[at] = 0xe9;
    fs::write(&path, bytes).unwrap();
    assert_eq!(error(VmdkImage::open(&path)).kind(), ErrorKind::Corrupt);
    let image = OpenOptions::new().parent(&base_path).open(&path).unwrap();
    assert!(content(&image) == child.content);
}

#[test]
fn an_orphan_can_be_opened_alone() {
    let dirs = Dirs::new();
    let base = base("base.vmdk");
    let child = child(&base, "child.vmdk");
    let image = OpenOptions::new().no_parent(true).open(child.write_to(&dirs.sub("vm"))).unwrap();
    assert_eq!(image.chain().len(), 1);
    assert_eq!(image.parent_content_id().map(vmdk::ContentId::value), Some(base.cid));
    let content = content(&image);
    assert!(content[..128 * SECTOR].iter().all(|&byte| byte == 0));
    assert!(content[128 * SECTOR..256 * SECTOR].iter().all(|&byte| byte == 0xc1));
}

/// QEMU follows a hint that names the file itself until it is killed.
#[test]
fn qemu_follows_an_image_that_is_its_own_parent_without_end_and_here_it_is_refused() {
    let dirs = Dirs::new();
    let itself = Image::embedded("loop.vmdk", SparseImage::new(512), None, |text| text.parent(0x1234, "loop.vmdk"));
    let path = itself.write_to(&dirs.sub("vm"));
    set_cid(&path, "00001234");
    let error = error(VmdkImage::open(&path));
    assert_eq!(error.kind(), ErrorKind::BadChain);
    assert!(error.to_string().contains("leads back"), "{error}");
}

#[cfg(unix)]
#[test]
fn qemu_finds_no_loop_and_here_it_is_found_by_what_a_file_is_and_not_by_its_name() {
    let dirs = Dirs::new();
    let vm = dirs.sub("vm");
    let one = Image::embedded("one.vmdk", SparseImage::new(512), None, |text| text.parent(0x2, "two.vmdk"));
    let two = Image::embedded("two.vmdk", SparseImage::new(512), None, |text| text.parent(0x1, "link.vmdk"));
    let path = one.write_to(&vm);
    set_cid(&path, "00000001");
    set_cid(&two.write_to(&vm), "00000002");
    fs::hard_link(&path, vm.join("link.vmdk")).unwrap();
    assert_eq!(error(VmdkImage::open(&path)).kind(), ErrorKind::BadChain);
}

fn set_cid(path: &Path, cid: &str) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"\nCID=").unwrap() + 5;
    bytes[at..at + 8].copy_from_slice(cid.as_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn qemu_has_no_limit_of_depth_and_here_a_chain_is_as_deep_as_the_limit_and_no_deeper() {
    let dirs = Dirs::new();
    let vm = dirs.sub("vm");
    let mut youngest = base("link-1.vmdk");
    let mut path = youngest.write_to(&vm);
    for number in 2..=65_u8 {
        let name = format!("link-{number}.vmdk");
        youngest =
            Image::child(&youngest, &name, SparseImage::new(512).data(u64::from(number % 4), vec![number; 4096]));
        path = youngest.write_to(&vm);
    }
    let too_deep = error(VmdkImage::open(&path));
    assert_eq!(too_deep.kind(), ErrorKind::BadChain);
    assert!(too_deep.to_string().contains("64 links"), "{too_deep}");
    let deep = VmdkImage::open(vm.join("link-64.vmdk")).unwrap();
    assert_eq!(deep.chain().len(), 64);
    let image = OpenOptions::new().max_chain_depth(65).open(&path).unwrap();
    assert!(content(&image) == youngest.content);
    assert_eq!(error(OpenOptions::new().max_chain_depth(1).open(&path)).kind(), ErrorKind::BadChain);
}

#[test]
fn a_zero_grain_masks_the_parent() {
    let dirs = Dirs::new();
    let base = base("base.vmdk");
    base.write_to(&dirs.sub("vm"));
    for flags in [3, 7] {
        let child = Image::child(&base, "child.vmdk", SparseImage::new(512).flags(flags).zero(2));
        let image = VmdkImage::open(child.write_to(&dirs.sub("vm"))).unwrap();
        assert!(content(&image) == child.content, "flags {flags}");
        assert!(matches!(image.map(256, 1).unwrap().mapping, vmdk::Mapping::Zero));
    }
}

/// The hint without an ID would be taken for no parent, and the disk for one full of zeros.
#[test]
fn a_hint_without_a_parent_content_id_is_not_taken_for_a_base() {
    let dirs = Dirs::new();
    let base = base("base.vmdk");
    base.write_to(&dirs.sub("vm"));
    let child = child(&base, "child.vmdk");
    let path = child.write_to(&dirs.sub("vm"));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(10).position(|window| window == b"parentCID=").unwrap();
    bytes[at..at + 9].copy_from_slice(b"parentXXX");
    fs::write(&path, bytes).unwrap();
    assert_eq!(error(VmdkImage::open(&path)).kind(), ErrorKind::Corrupt);
    let forced = OpenOptions::new().ignore_cid_mismatch(true).open(&path).unwrap();
    assert!(content(&forced) == child.content);
}

#[test]
fn a_map_says_which_link_answered_and_a_layer_answers_for_itself() {
    let dirs = Dirs::new();
    let mut rng = Rng::new(9);
    let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(512).data(0, rng.bytes(128 * SECTOR)));
    base.write_to(&dirs.sub("vm"));
    let child = child(&base, "child.vmdk");
    let image = VmdkImage::open(child.write_to(&dirs.sub("vm"))).unwrap();
    let seen: Vec<_> = [0, 5, 128, 256]
        .map(|sector| {
            let run = image.map(sector, u64::MAX).unwrap();
            let layer = image.map_layer(sector, u64::MAX).unwrap();
            let name = |mapping: &vmdk::Mapping| match mapping {
                vmdk::Mapping::Data { .. } => "data",
                vmdk::Mapping::Unallocated => "unallocated",
                _ => "other",
            };
            (name(&run.mapping), run.sectors, run.depth, name(&layer.mapping), layer.sectors)
        })
        .into();
    let expected = [
        ("data", 128, 1, "unallocated", 128),
        ("data", 123, 1, "unallocated", 123),
        ("data", 128, 0, "data", 128),
        ("unallocated", 256, 1, "unallocated", 256),
    ];
    assert_eq!(seen, expected);
}
