use std::path::Path;
use std::sync::Arc;

use crate::descriptor::ContentId;
use crate::error::{ErrorKind, Result};
use crate::image::fixtures::{Files, IMAGES, fixture, read, refused, write_ends};
use crate::image::{CacheMode, OpenOptions, VmdkImage};
use crate::locate::Names;
use crate::storage::{HeldFiles, Locking, Purpose};
use crate::{BlockDevice, Mapping, SECTOR_SIZE};

/// A child of nobody yet.
const CHILD: &str = "chain-delta-2.vmdk";

/// The bytes of an image that says that its parent has the content ID `parent`.
fn child_of(parent: ContentId, mut bytes: Vec<u8>) -> Vec<u8> {
    let key = b"parentCID=";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    bytes[at..at + 8].copy_from_slice(format!("{:08x}", parent.value()).as_bytes());
    bytes
}

/// The chain of two that is the parent, and a child that is not open.
fn files() -> Files {
    Files::of(IMAGES[1])
}

/// Opens `CHILD` over an image.
fn open_over(files: &Files, parent: &VmdkImage, options: &OpenOptions, wanted: ContentId) -> Result<VmdkImage> {
    let held = HeldFiles::default();
    let names = Names::Resolver(files, &held, Path::new(""));
    let first = names.open(Path::new(""), CHILD, Purpose::Write)?;
    options.open_over(first, names, parent.chain(), wanted)
}

/// Makes `CHILD` a child of an image that is open, as that is from now on.
fn make_child(files: &mut Files, parent: &VmdkImage) -> VmdkImage {
    let frozen = parent.disk.freeze().unwrap();
    let id = parent.content_id().unwrap();
    files.add(CHILD, child_of(id, fixture(CHILD)));
    let child = open_over(files, parent, &parent.disk.how.child_options(), id).unwrap();
    frozen.end().unwrap();
    child
}

/// Writes the whole disk.
fn fill(image: &VmdkImage, byte: u8) {
    let content = vec![byte; usize::try_from(image.capacity_sectors()).unwrap() * SECTOR_SIZE];
    image.write_sectors(0, &content).unwrap();
}

/// Reads a sector that an image has nothing of.
fn read_through(image: &VmdkImage) -> Vec<u8> {
    let is_below = |sector: &u64| matches!(image.map_layer(*sector, 1).unwrap().mapping, Mapping::Unallocated);
    let sector = (0..image.capacity_sectors()).find(is_below).unwrap();
    let mut buf = vec![0; SECTOR_SIZE];
    image.read_sectors(sector, &mut buf).unwrap();
    buf
}

fn child_text(parent: ContentId, line: &str) -> Vec<u8> {
    let id = parent.value();
    format!("# Disk DescriptorFile\nversion=1\nCID=1234abcd\nparentCID={id:08x}\ncreateType=\"custom\"\n{line}\n")
        .into()
}

#[test]
fn a_child_is_opened_over_the_links_of_its_parent() {
    let mut files = files();
    let parent = files.write();
    fill(&parent, 1);
    let content = read(&parent);
    let child = make_child(&mut files, &parent);
    assert_eq!(child.chain().len(), 3);
    for (own, shared) in parent.chain().iter().zip(&child.chain()[1..]) {
        assert!(Arc::ptr_eq(own, shared));
    }
    assert_eq!(child.parent_content_id(), parent.content_id());
    assert_eq!(child.chain()[1].content_id(), parent.content_id());
    assert_eq!(read_through(&child), [1; SECTOR_SIZE]);
    let before = read(&child);
    write_ends(&child, 2);
    assert!(read(&parent) == content, "the parent stays what it is");
    assert_eq!(refused(&parent), [ErrorKind::ReadOnly; 6]);
    child.close().unwrap();
    files.first = CHILD;
    let again = read(&files.open(&OpenOptions::new()));
    let inner = SECTOR_SIZE..before.len() - SECTOR_SIZE;
    assert!(again[inner.clone()] == before[inner] && again.starts_with(&[2; SECTOR_SIZE]));
}

#[test]
fn a_child_reads_on_when_its_parent_is_closed_and_gone() {
    for drops in [false, true] {
        let mut files = files();
        let parent = files.write();
        write_ends(&parent, 1);
        let child = make_child(&mut files, &parent);
        let content = read(&child);
        let parent = if drops { None } else { Some(parent) };
        if let Some(parent) = &parent {
            parent.close().unwrap();
            assert_eq!(parent.read_sectors(0, &mut []).unwrap_err().kind(), ErrorKind::Closed);
        }
        assert!(read(&child) == content);
        write_ends(&child, 3);
        child.flush().unwrap();
        child.close().unwrap();
    }
}

#[test]
fn a_grandchild_shares_all_of_them() {
    let mut files = files();
    let parent = files.write();
    write_ends(&parent, 1);
    let child = make_child(&mut files, &parent);
    fill(&child, 2);
    let id = child.content_id().unwrap();
    let frozen = child.disk.freeze().unwrap();
    files.add("leaf", child_text(id, "RW 1024 SPARSE \"extent\""));
    files.add("extent", fixture(CHILD));
    let held = HeldFiles::default();
    let names = Names::Resolver(&files, &held, Path::new(""));
    let first = names.open(Path::new(""), "leaf", Purpose::Write).unwrap();
    let leaf = child.disk.how.child_options().open_over(first, names, child.chain(), id).unwrap();
    frozen.end().unwrap();
    drop((parent, child));
    assert_eq!(leaf.chain().len(), 4);
    assert_eq!(read_through(&leaf), [2; SECTOR_SIZE]);
}

#[test]
fn a_child_of_another_image_is_refused() {
    let mut files = files();
    let parent = files.open(&OpenOptions::new());
    let id = parent.content_id().unwrap();
    let options = OpenOptions::new().write(true);
    let other = ContentId::new(id.value() ^ 1);
    let cases = [child_of(other, fixture(CHILD)), fixture("chain-base.vmdk")];
    for bytes in cases {
        files.add(CHILD, bytes);
        let error = open_over(&files, &parent, &options, id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ContentIdMismatch, "{error}");
        assert_eq!(error.file(), Some(Path::new(CHILD)));
    }
    files.add(CHILD, child_of(id, fixture(CHILD)));
    open_over(&files, &parent, &options, id).unwrap();
    assert_eq!(open_over(&files, &parent, &options, other).unwrap_err().kind(), ErrorKind::ContentIdMismatch);
}

#[test]
fn a_chain_has_at_most_as_many_links_as_its_parent_was_allowed() {
    let mut files = files();
    let parent = files.open(&OpenOptions::new().max_chain_depth(2));
    let id = parent.content_id().unwrap();
    files.add(CHILD, child_of(id, fixture(CHILD)));
    let options = parent.disk.how.child_options();
    assert_eq!(open_over(&files, &parent, &options, id).unwrap_err().kind(), ErrorKind::BadChain);
    open_over(&files, &parent, &options.max_chain_depth(3), id).unwrap();
}

#[test]
fn a_file_of_the_parent_is_not_written_as_a_part_of_the_child() {
    let mut files = files();
    let parent = files.open(&OpenOptions::new());
    let id = parent.content_id().unwrap();
    let options = OpenOptions::new().write(true);
    for (access, line) in [("RW", "SPARSE \"chain-base.vmdk\""), ("RW", "SPARSE \"chain-delta-1.vmdk\"")] {
        files.add(CHILD, child_text(id, &format!("{access} 1024 {line}")));
        assert_eq!(open_over(&files, &parent, &options, id).unwrap_err().kind(), ErrorKind::BadChain, "{line}");
    }
    // Both may read it.
    files.add(CHILD, child_text(id, "RDONLY 1024 SPARSE \"chain-base.vmdk\""));
    open_over(&files, &parent, &options, id).unwrap();
    // The file of the child itself.
    let held = HeldFiles::default();
    let names = Names::Resolver(&files, &held, Path::new(""));
    let first = names.open(Path::new(""), "chain-delta-1.vmdk", Purpose::Write).unwrap();
    let error = options.open_over(first, names, parent.chain(), id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadChain);
}

#[test]
fn what_is_not_whole_cannot_be_a_parent() {
    let mut files = files();
    let parent = files.open(&OpenOptions::new().no_parent(true));
    let id = parent.content_id().unwrap();
    files.add(CHILD, child_of(id, fixture(CHILD)));
    let error = open_over(&files, &parent, &parent.disk.how.child_options(), id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("without its parent"), "{error}");

    let mut parts = Files::of(IMAGES[5]);
    parts.first = "vmware3-02.vmdk";
    let part = parts.open(&OpenOptions::new());
    parts.add(CHILD, child_of(id, fixture(CHILD)));
    let error = open_over(&parts, &part, &part.disk.how.child_options(), id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_child_is_opened_as_its_parent_was() {
    let mut files = files();
    let options = OpenOptions::new().cached_tables(3).max_open_files(5).cache_mode(CacheMode::Unsafe);
    let parent = files.open(&options);
    let how = make_child(&mut files, &parent).disk.how;
    assert_eq!((how.cached_tables, how.max_open_files, how.cache_mode), (3, 5, CacheMode::Unsafe));
    assert_eq!(how.locking, Locking::On);
    let locking = |options: OpenOptions| options.how().child_options().how().locking;
    assert_eq!(locking(OpenOptions::new().force_share(true)), Locking::On);
    assert_eq!(locking(OpenOptions::new().locking(false)), Locking::Off);

    // What only helps to read a damaged image.
    for options in [options.clone().use_redundant_tables(true), options.ignore_newline_check(true)] {
        let parent = files.open(&options);
        let id = parent.content_id().unwrap();
        let error = open_over(&files, &parent, &parent.disk.how.child_options(), id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

/// Images in a directory, with locks.
#[cfg(unix)]
mod on_disk {
    use std::fs;

    use super::*;
    use crate::locate::{NamePolicy, Opened};
    use crate::storage::FilePool;

    fn open_over(path: &Path, parent: &VmdkImage) -> Result<VmdkImage> {
        let (how, policy) = (parent.disk.how, NamePolicy::default());
        let pool = FilePool::new(how.max_open_files, Locking::On);
        let first = Opened::by_caller(path, Purpose::Write, &pool)?;
        how.child_options().open_over(first, Names::Files(&policy, &pool), parent.chain(), parent.content_id().unwrap())
    }

    fn locked(path: &Path, options: &OpenOptions) -> Option<std::path::PathBuf> {
        let error = options.open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        error.file().map(Path::to_owned)
    }

    #[test]
    fn the_parent_is_locked_for_reading_as_long_as_the_child_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        // One file, and several of which the descriptor has to be replaced, because its CID is too short.
        for name in ["monolithic-sparse.vmdk", "split-sparse.vmdk"] {
            for part in [name, "split-sparse-s001.vmdk", "split-sparse-s002.vmdk", "split-sparse-s003.vmdk"] {
                fs::write(at(part), fixture(part)).unwrap();
            }
            let text = String::from_utf8(fixture("split-sparse.vmdk")).unwrap();
            let cid = text.find("\nCID=").unwrap() + "\nCID=".len();
            fs::write(at("split-sparse.vmdk"), format!("{}7{}", &text[..cid], &text[cid + 8..])).unwrap();

            let (path, child) = (at(name), at(CHILD));
            let (reader, writer) = (OpenOptions::new(), OpenOptions::new().write(true));
            let image = writer.open(&path).unwrap();
            write_ends(&image, 1);
            let frozen = image.disk.freeze().unwrap();
            locked(&path, &reader);
            fs::write(&child, child_of(image.content_id().unwrap(), fixture(CHILD))).unwrap();
            let leaf = open_over(&child, &image).unwrap();
            frozen.end().unwrap();
            assert_eq!(locked(&path, &writer).as_deref(), Some(&*path), "{name}");
            assert!(read(&reader.open(&path).unwrap()) == read(&image));
            drop(image);
            assert_eq!(locked(&path, &writer).as_deref(), Some(&*path), "{name}");
            reader.open(&path).unwrap();
            locked(&child, &reader);
            write_ends(&leaf, 2);
            drop(leaf);
            drop(writer.open(&path).unwrap());
        }
    }

    #[test]
    fn a_file_of_the_parent_is_refused_before_its_lock_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["chain-base.vmdk", "chain-delta-1.vmdk"] {
            fs::write(at(name), fixture(name)).unwrap();
        }
        let parent = VmdkImage::open(at("chain-delta-1.vmdk")).unwrap();
        let line = "RW 1024 SPARSE \"chain-base.vmdk\"";
        fs::write(at("leaf.vmdk"), child_text(parent.content_id().unwrap(), line)).unwrap();
        let error = open_over(&at("leaf.vmdk"), &parent).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadChain, "{error}");
    }
}
