//! Raw device maps: extents (VMFSRDM, VMFSRAW) of which an image has a name and nothing else. They are opened if the
//! caller says what they stand for; plain files stand in for LUNs here, and a loop device where the host lets us make
//! one.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use vmdk::{
    BlockDevice, CheckOptions, CompactMode, CopyDiskOptions, CreateOptions, CreateType, Error, ErrorKind,
    MemoryStorage, OpenOptions, RenameOptions, ResizeOptions, Storage, VmdkImage,
};

use support::cowd::CowdImage;
use support::descriptor::DescriptorText;
use support::rng::Rng;
use support::{SECTOR, byte_range, index, tools};

/// Sectors of the LUN.
const LUN: u64 = 2048;

/// The name that the disk has for it.
const NAME: &str = "disk-rdm.vmdk";

/// What ESX leaves under that name, if it is copied off a datastore at all.
const POINTER: &[u8] = b"naa.600508b1001c: a pointer and no data";

/// A directory with a disk, and another one with a LUN.
struct Host {
    dir: TempDir,
    elsewhere: TempDir,
    content: Vec<u8>,
}

impl Host {
    fn new() -> Self {
        let content = Rng::new(1).bytes(index(LUN) * SECTOR);
        let host = Self { dir: tempfile::tempdir().unwrap(), elsewhere: tempfile::tempdir().unwrap(), content };
        fs::write(host.lun(), &host.content).unwrap();
        fs::write(host.dir.path().join(NAME), POINTER).unwrap();
        host
    }

    fn lun(&self) -> PathBuf {
        self.elsewhere.path().join("lun")
    }

    /// Writes a descriptor with these extent lines.
    fn disk(&self, create_type: &str, lines: &[&str]) -> PathBuf {
        let text = DescriptorText::new(create_type, 0x1234_5678);
        let text = lines.iter().fold(text, |text, line| text.extent(*line));
        let path = self.dir.path().join("disk.vmdk");
        fs::write(&path, text.to_string()).unwrap();
        path
    }

    /// The whole LUN as a disk.
    fn whole(&self) -> PathBuf {
        self.disk("vmfsRawDeviceMap", &[&line(LUN)])
    }

    /// A delta of ESX over that, with something in its second sector.
    fn delta(&self) -> (PathBuf, Vec<u8>) {
        self.whole();
        let delta = CowdImage::esx(LUN).data(1, [9; SECTOR]);
        fs::write(self.dir.path().join("disk-000001-delta.vmdk"), delta.build()).unwrap();
        let text = DescriptorText::new("vmfsSparse", 8).parent(0x1234_5678, "disk.vmdk");
        let path = self.dir.path().join("disk-000001.vmdk");
        fs::write(&path, text.extent(format!("RW {LUN} VMFSSPARSE \"disk-000001-delta.vmdk\"")).to_string()).unwrap();
        (path, delta.layer().over(&self.content))
    }

    fn mapped(&self) -> OpenOptions {
        OpenOptions::new().map_extent(NAME, self.lun())
    }

    fn mapped_to_write(&self) -> OpenOptions {
        OpenOptions::new().map_extent_to_write(NAME, self.lun()).write(true)
    }

    /// What is on the LUN now.
    fn on_lun(&self) -> Vec<u8> {
        fs::read(self.lun()).unwrap()
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert!(self.on_lun() == self.content, "the LUN has changed");
        assert_eq!(fs::read(self.dir.path().join(NAME)).unwrap(), POINTER);
    }
}

fn line(sectors: u64) -> String {
    format!("RW {sectors} VMFSRDM \"{NAME}\"")
}

fn content(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    content
}

#[track_caller]
fn refused(result: vmdk::Result<VmdkImage>, kind: ErrorKind, words: &[&str]) -> Error {
    let error = result.expect_err("it must not open");
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word} is missing in: {error}");
    }
    error
}

#[test]
fn without_what_it_stands_for_the_error_says_what_is_missing_and_how_to_give_it() {
    let host = Host::new();
    let raw = "/vmfs/devices/disks/naa.600508b1001c";
    for (create_type, line, name, kind) in [
        ("vmfsRDM", line(LUN), NAME, "VMFSRDM"),
        ("vmfsRawDeviceMap", line(LUN), NAME, "VMFSRDM"),
        ("vmfsRDMP", line(LUN), NAME, "VMFSRDM"),
        ("vmfsPassthroughRawDeviceMap", line(LUN), NAME, "VMFSRDM"),
        ("vmfsRaw", format!("RW {LUN} VMFSRAW \"{raw}\""), raw, "VMFSRAW"),
        ("vmfsRaw", format!("RDONLY {LUN} VMFSRAW \"{raw}\" 63"), raw, "VMFSRAW"),
        ("custom", format!("RW {LUN} VMFSRAW \"{raw}\""), raw, "VMFSRAW"),
        // What the type says counts: the file is no data.
        ("vmfsRawDeviceMap", format!("RW {LUN} VMFS \"{NAME}\""), NAME, "VMFS"),
        ("vmfsRaw", format!("RW {LUN} FLAT \"{NAME}\" 0"), NAME, "FLAT"),
    ] {
        let path = host.disk(create_type, &["RW 1 ZERO", &line]);
        let words = [name, kind, create_type, "raw device map", "LUN", "map_extent", "--map-extent", "disk.vmdk"];
        refused(VmdkImage::open(&path), ErrorKind::Unsupported, &words);
        // The name is not followed, whatever names are.
        let trusting = OpenOptions::new().allow_any_path(true).allow_dir("/").allow_device(raw);
        let trusting = trusting.allow_device(host.dir.path().join(NAME));
        refused(trusting.open(&path), ErrorKind::Unsupported, &words);
        refused(trusting.write(true).open(&path), ErrorKind::Unsupported, &words);
    }
    host.assert_untouched();
}

#[test]
fn what_is_given_for_it_is_the_disk() {
    let host = Host::new();
    for (create_type, kind) in
        [("vmfsRawDeviceMap", "VMFSRDM"), ("vmfsPassthroughRawDeviceMap", "VMFSRDM"), ("vmfsRaw", "VMFSRAW")]
    {
        let path = host.disk(create_type, &[&format!("RW {LUN} {kind} \"{NAME}\"")]);
        let image = host.mapped().open(&path).unwrap();
        assert_eq!(image.create_type(), Some(&CreateType::from(create_type)));
        assert!(content(&image) == host.content);
        assert!(image.limits().read_only);
        let files: Vec<_> = image.host_files().iter().map(|file| file.path().to_owned()).collect();
        assert_eq!(files, [path.canonicalize().unwrap(), host.lun().canonicalize().unwrap()]);
        assert_eq!(image.chain()[0].warnings(), [""; 0]);
    }
    // The pointer is not needed, and what the device has beyond the disk does not matter.
    fs::remove_file(host.dir.path().join(NAME)).unwrap();
    let path = host.disk("vmfsRawDeviceMap", &[&line(LUN - 5)]);
    assert!(content(&host.mapped().open(&path).unwrap()) == host.content[byte_range(0, LUN - 5)]);
    let report = host.mapped().check(&path, &CheckOptions::new(), &mut |_| std::ops::ControlFlow::Continue(()));
    assert_eq!(report.unwrap().findings, []);
}

#[test]
fn several_extents_may_stand_for_parts_of_it() {
    let host = Host::new();
    let lines = [
        format!("RW 100 VMFSRAW \"a\" {}", LUN - 100),
        "RW 7 ZERO".to_owned(),
        "RDONLY 10 VMFSRDM \"a\" 3".to_owned(),
        "NOACCESS 2 VMFSRDM \"nobody gives this\"".to_owned(),
        "RW 5 VMFSRDM \"b\"".to_owned(),
    ];
    let path = host.disk("custom", &lines.each_ref().map(String::as_str));
    let options = OpenOptions::new().map_extent("a", host.lun()).map_extent("b", host.lun());
    let device = |start, count| &host.content[byte_range(start, count)];
    let expected = [device(LUN - 100, 100), &[0; 7 * SECTOR], device(3, 10), &[0; 2 * SECTOR], device(0, 5)].concat();
    assert!(content(&options.open(&path).unwrap()) == expected);
    refused(OpenOptions::new().map_extent("a", host.lun()).open(&path), ErrorKind::Unsupported, &["\"b\"", "line "]);
}

#[test]
fn what_is_shorter_than_the_extent_is_refused_with_both_sizes() {
    let host = Host::new();
    let (there, wanted) = ((LUN * 512).to_string(), ((LUN + 1) * 512).to_string());
    for line in [line(LUN + 1), format!("RW 2 VMFSRDM \"{NAME}\" {}", LUN - 1)] {
        let path = host.disk("vmfsRawDeviceMap", &[&line]);
        for options in [host.mapped(), host.mapped_to_write()] {
            refused(options.open(&path), ErrorKind::InvalidInput, &["lun", NAME, &there, &wanted]);
        }
    }
    // Half a sector is none.
    let path = host.whole();
    fs::write(host.lun(), &host.content[1..]).unwrap();
    refused(host.mapped().open(path), ErrorKind::InvalidInput, &["lun", &(LUN * 512 - 1).to_string()]);
}

#[test]
fn a_name_that_no_extent_has_does_not_go_unnoticed() {
    let host = Host::new();
    let path = host.whole();
    for name in ["disk-rmd.vmdk", "DISK-RDM.VMDK", "./disk-rdm.vmdk", "", "disk.vmdk"] {
        let options = host.mapped().map_extent(name, host.lun());
        refused(options.open(&path), ErrorKind::InvalidInput, &[&format!("{name:?}"), "no raw device map"]);
    }
    // Of an extent of another kind it is told, too: that one is opened by its own name.
    fs::write(host.dir.path().join("flat"), [0; SECTOR]).unwrap();
    let path = host.disk("custom", &["RW 1 FLAT \"flat\" 0"]);
    let options = OpenOptions::new().map_extent("flat", host.lun());
    refused(options.open(&path), ErrorKind::InvalidInput, &["\"flat\"", "FLAT", "no raw device map"]);
    let check = |options: &OpenOptions, look: &CheckOptions| {
        options.check(&path, look, &mut |_| std::ops::ControlFlow::Continue(())).unwrap_err().kind()
    };
    assert_eq!(check(&options, &CheckOptions::new()), ErrorKind::InvalidInput);
    assert_eq!(check(&options, &CheckOptions::new().chain(true)), ErrorKind::InvalidInput);
    options.allow_unused_maps(true).open(&path).unwrap();
}

#[test]
fn one_name_does_not_stand_for_two_things() {
    let host = Host::new();
    let path = host.whole();
    let other = host.elsewhere.path().join("other");
    fs::write(&other, &host.content).unwrap();
    for options in [host.mapped().map_extent(NAME, &other), host.mapped().map_extent_to_write(NAME, host.lun())] {
        refused(options.open(&path), ErrorKind::InvalidInput, &[NAME, "two ways"]);
    }
    host.mapped().map_extent(NAME, host.lun()).open(&path).unwrap();
}

#[test]
fn names_are_those_that_the_descriptor_means_in_its_encoding() {
    let host = Host::new();
    let open = |encoding: &str, raw: &[u8], name: &str| {
        let path = host.whole();
        let text =
            fs::read_to_string(&path).unwrap().replace("encoding=\"UTF-8\"", &format!("encoding=\"{encoding}\""));
        let (before, after) = text.split_once(NAME).unwrap();
        fs::write(&path, [before.as_bytes(), raw, after.as_bytes()].concat()).unwrap();
        OpenOptions::new().map_extent(name, host.lun()).open(path)
    };
    let name = "Gr\u{f6}\u{df}e-rdm.vmdk";
    assert!(content(&open("UTF-8", name.as_bytes(), name).unwrap()) == host.content);
    refused(open("UTF-8", b"Gr\xf6\xdfe", name), ErrorKind::Corrupt, &["UTF-8"]);
    let page = open("windows-1252", b"Gr\xf6\xdfe-rdm.vmdk", name);
    if cfg!(feature = "encodings") {
        assert!(content(&page.unwrap()) == host.content);
    } else {
        refused(page, ErrorKind::Unsupported, &["windows-1252"]);
    }
}

#[test]
fn a_name_that_leads_elsewhere_is_a_name_and_leads_nowhere() {
    let host = Host::new();
    let secret = host.elsewhere.path().join("secret");
    fs::write(&secret, vec![0x5e; index(LUN) * SECTOR]).unwrap();
    for name in ["../secret", "/etc/passwd", secret.to_str().unwrap(), "C:\\x", "..", "."] {
        let path = host.disk("vmfsRawDeviceMap", &[&format!("RW {LUN} VMFSRDM \"{name}\"")]);
        refused(VmdkImage::open(&path), ErrorKind::Unsupported, &["raw device map"]);
        assert!(content(&OpenOptions::new().map_extent(name, host.lun()).open(&path).unwrap()) == host.content);
    }
    // And what the caller gives for one name is no permission for another.
    let flat = format!("RW 1 FLAT \"{}\" 0", host.lun().display());
    let path = host.disk("custom", &[&line(LUN), &flat]);
    refused(host.mapped().open(path), ErrorKind::NameRefused, &["lun"]);
}

#[test]
fn what_is_no_device_and_no_file_is_not_opened() {
    let host = Host::new();
    let path = host.whole();
    let given = |given: &Path| OpenOptions::new().map_extent(NAME, given).open(&path);
    refused(given(&host.elsewhere.path().join("none")), ErrorKind::NotFound, &["none"]);
    refused(given(host.dir.path()), ErrorKind::Unsupported, &["a directory"]);
    if cfg!(unix) {
        refused(given(Path::new("/dev/zero")), ErrorKind::Unsupported, &["a character device"]);
    }
}

#[test]
fn opening_for_writing_does_not_touch_what_was_not_given_for_it() {
    let host = Host::new();
    let path = host.whole();
    let text = fs::read(&path).unwrap();
    let error = refused(host.mapped().write(true).open(&path), ErrorKind::ReadOnly, &["lun", NAME]);
    assert!(error.to_string().contains("map_extent_to_write"), "{error}");
    host.assert_untouched();
    assert_eq!(fs::read(&path).unwrap(), text);
    // An extent that takes no writes needs no more than that.
    fs::write(host.dir.path().join("flat"), [0; SECTOR]).unwrap();
    let path = host.disk("custom", &[&line(LUN).replace("RW", "RDONLY"), "RW 1 FLAT \"flat\" 0"]);
    for options in [host.mapped().write(true), host.mapped_to_write()] {
        let image = options.open(&path).unwrap();
        assert_eq!(image.write_sectors(0, &[1; SECTOR]).unwrap_err().kind(), ErrorKind::ReadOnly);
        image.write_sectors(LUN, &[1; SECTOR]).unwrap();
        image.close().unwrap();
    }
    host.assert_untouched();
}

#[test]
fn what_was_given_to_be_written_is_written_and_nothing_else() {
    let host = Host::new();
    let path = host.disk("vmfsRawDeviceMap", &[&format!("RW 100 VMFSRDM \"{NAME}\" 50")]);
    let reader = OpenOptions::new().map_extent_to_write(NAME, host.lun()).open(&path).unwrap();
    assert_eq!(reader.write_sectors(0, &[1; SECTOR]).unwrap_err().kind(), ErrorKind::ReadOnly);
    drop(reader);
    let image = host.mapped_to_write().open(&path).unwrap();
    let old = image.content_id();
    image.write_sectors(99, &[1; SECTOR]).unwrap();
    image.discard(3, 2).unwrap();
    image.write_zeroes(10, 1, false).unwrap();
    assert_eq!(image.write_sectors(100, &[1; SECTOR]).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_ne!(image.content_id(), old);
    image.close().unwrap();
    let mut expected = host.content.clone();
    expected[byte_range(50 + 99, 1)].fill(1);
    expected[byte_range(50 + 3, 2)].fill(0);
    expected[byte_range(50 + 10, 1)].fill(0);
    assert!(host.on_lun() == expected);
    assert_eq!(fs::read(host.dir.path().join(NAME)).unwrap(), POINTER);
}

#[test]
fn a_disk_is_not_written_through_its_own_descriptor() {
    let host = Host::new();
    let path = host.disk("vmfsRawDeviceMap", &[&format!("RW 1 VMFSRDM \"{NAME}\"")]);
    fs::write(&path, [fs::read(&path).unwrap(), vec![b'\n'; SECTOR]].concat()).unwrap();
    let text = fs::read(&path).unwrap();
    let error = OpenOptions::new().map_extent_to_write(NAME, &path).write(true).open(&path).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::BadChain), "{error}");
    assert_eq!(fs::read(&path).unwrap(), text);
}

#[test]
fn a_delta_is_read_and_written_over_it_and_the_lun_stays_as_it_is() {
    let host = Host::new();
    let (path, expected) = host.delta();
    let error = refused(VmdkImage::open(&path), ErrorKind::Unsupported, &[NAME, "raw device map"]);
    assert_eq!(error.file().unwrap().file_name().unwrap(), "disk.vmdk");
    refused(host.mapped().map_extent("typo", host.lun()).open(&path), ErrorKind::InvalidInput, &["typo"]);
    // Alone it has no such extent, and its parent might.
    host.mapped().no_parent(true).open(&path).unwrap();
    // To be written is what belongs to the image; also a LUN that could be.
    let mut expected = expected;
    for (options, sector) in [(host.mapped().write(true), 5), (host.mapped_to_write(), 6)] {
        let image = options.open(&path).unwrap();
        assert!(content(&image) == expected);
        image.write_sectors(sector, &[5; SECTOR]).unwrap();
        image.flush().unwrap();
        expected[byte_range(sector, 1)].fill(5);
        // The LUN is free for other readers meanwhile.
        host.mapped().open(host.dir.path().join("disk.vmdk")).unwrap();
        image.close().unwrap();
        host.assert_untouched();
    }
    assert!(content(&host.mapped().open(&path).unwrap()) == expected);
}

#[test]
fn a_delta_is_merged_into_it_only_if_it_was_given_to_be_written() {
    let host = Host::new();
    let (path, expected) = host.delta();
    let commit = |options: OpenOptions| options.commit(&path, 1, &mut |_| std::ops::ControlFlow::Continue(()));
    assert_eq!(commit(host.mapped()).unwrap_err().kind(), ErrorKind::ReadOnly);
    host.assert_untouched();
    assert_eq!(commit(host.mapped_to_write()).unwrap().merged_links, 1);
    assert!(host.on_lun() == expected);
    assert!(content(&host.mapped().open(&path).unwrap()) == expected);
}

#[test]
fn a_delta_moves_from_one_lun_to_another_parent_and_each_may_need_its_own() {
    let host = Host::new();
    let (path, expected) = host.delta();
    let other = host.elsewhere.path().join("other");
    fs::write(&other, vec![3; index(LUN) * SECTOR]).unwrap();
    let text = DescriptorText::new("vmfsRawDeviceMap", 99).extent(format!("RW {LUN} VMFSRDM \"other-rdm.vmdk\""));
    let parent = host.dir.path().join("other.vmdk");
    fs::write(&parent, text.to_string()).unwrap();
    let rebase = |options: OpenOptions| {
        let go_on = &mut |_| std::ops::ControlFlow::Continue(());
        options.rebase(&path, Some(&*parent), vmdk::RebaseMode::Safe, go_on).map(|done| done.changed)
    };
    assert_eq!(rebase(host.mapped()).unwrap_err().kind(), ErrorKind::Unsupported);
    let both = host.mapped().map_extent("other-rdm.vmdk", &other);
    assert_eq!(rebase(both.clone().map_extent("typo", &other)).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(rebase(both).unwrap());
    host.assert_untouched();
    let now = OpenOptions::new().map_extent("other-rdm.vmdk", other).open(&path).unwrap();
    assert!(content(&now) == expected);
}

#[test]
fn a_child_is_made_over_it_as_esx_makes_it() {
    let host = Host::new();
    let parent = host.mapped().open(host.whole()).unwrap();
    let path = host.dir.path().join("child.vmdk");
    let child = parent.create_child(&path, &CreateOptions::new()).unwrap();
    assert_eq!(child.create_type(), Some(&CreateType::VmfsSparse));
    child.write_sectors(7, &[7; SECTOR]).unwrap();
    child.close().unwrap();
    drop((child, parent));
    host.assert_untouched();
    refused(VmdkImage::open(&path), ErrorKind::Unsupported, &[NAME]);
    let mut expected = host.content.clone();
    expected[byte_range(7, 1)].fill(7);
    assert!(content(&host.mapped().open(&path).unwrap()) == expected);
}

#[test]
fn it_is_not_resized_renamed_or_copied_as_it_is() {
    let host = Host::new();
    let path = host.whole();
    let go_on = &mut |_| std::ops::ControlFlow::Continue(());
    let named = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        error.to_string()
    };
    let options = host.mapped_to_write();
    let error = options.resize(&path, LUN + 1, ResizeOptions::new(), go_on).unwrap_err();
    assert!(named(error).contains("device"));
    let new = host.dir.path().join("new.vmdk");
    let error = options.rename(&path, &new, &RenameOptions::new(), go_on).unwrap_err();
    assert!(named(error).contains("raw device map"));
    let error = host.mapped().copy_disk(&path, &new, &CopyDiskOptions::new(), go_on).unwrap_err();
    assert!(named(error).contains("raw device map"));
    assert!(!new.exists());
    options.compact(&path, CompactMode::default(), go_on).unwrap();
    host.assert_untouched();
}

/// A resolver that notes what it is asked for.
#[derive(Default)]
struct Asked {
    files: HashMap<String, Arc<dyn Storage>>,
    names: Mutex<Vec<String>>,
}

impl vmdk::Resolve for Asked {
    fn resolve(&self, name: &str) -> vmdk::Result<Arc<dyn Storage>> {
        self.names.lock().unwrap().push(name.to_owned());
        self.files.resolve(name)
    }
}

#[test]
fn a_resolver_is_asked_for_what_was_given_and_not_for_the_name_in_the_image() {
    let host = Host::new();
    let text = DescriptorText::new("vmfsRawDeviceMap", 7).extent(line(LUN)).to_string();
    let lun = Arc::new(MemoryStorage::new(host.content.clone()));
    let mut resolver = Asked::default();
    resolver.files.insert("disk".to_owned(), Arc::new(MemoryStorage::new(text)));
    resolver.files.insert("LUN 5".to_owned(), Arc::clone(&lun) as Arc<dyn Storage>);
    resolver.files.insert(NAME.to_owned(), Arc::new(MemoryStorage::new(POINTER)));
    let open = |options: OpenOptions| options.open_with("disk", &resolver);
    refused(open(OpenOptions::new()), ErrorKind::Unsupported, &[NAME]);
    assert_eq!(*resolver.names.lock().unwrap(), ["disk"]);
    resolver.names.lock().unwrap().clear();
    assert!(content(&open(OpenOptions::new().map_extent(NAME, "LUN 5")).unwrap()) == host.content);
    assert_eq!(*resolver.names.lock().unwrap(), ["disk", "LUN 5"]);
    refused(open(OpenOptions::new().map_extent(NAME, "LUN 6")), ErrorKind::NotFound, &["LUN 6"]);
    refused(open(OpenOptions::new().map_extent(NAME, "LUN 5").write(true)), ErrorKind::ReadOnly, &["LUN 5"]);
    let image = open(OpenOptions::new().map_extent_to_write(NAME, "LUN 5").write(true)).unwrap();
    image.write_sectors(0, &[1; SECTOR]).unwrap();
    image.close().unwrap();
    let mut sector = [0; SECTOR];
    lun.read_exact_at(&mut sector, 0).unwrap();
    assert_eq!(sector, [1; SECTOR]);
}

#[cfg(unix)]
#[test]
fn it_is_locked_like_any_extent() {
    let host = Host::new();
    let path = host.whole();
    // Two disks of one LUN: their descriptors are not in each other's way.
    let second = host.dir.path().join("second.vmdk");
    fs::copy(&path, &second).unwrap();
    let reader = host.mapped().open(&path).unwrap();
    let other_reader = host.mapped().open(&second).unwrap();
    refused(host.mapped_to_write().open(&second), ErrorKind::Locked, &["second.vmdk"]);
    drop(other_reader);
    refused(host.mapped_to_write().open(&second), ErrorKind::Locked, &["lun"]);
    drop(reader);
    let writer = host.mapped_to_write().open(&path).unwrap();
    refused(host.mapped().open(&second), ErrorKind::Locked, &["lun"]);
    refused(host.mapped_to_write().open(&second), ErrorKind::Locked, &["lun"]);
    host.mapped().force_share(true).open(&second).unwrap();
    drop(writer);
    host.mapped_to_write().open(&second).unwrap();
}

#[cfg(unix)]
#[test]
fn the_path_of_the_caller_may_be_a_link_and_is_opened_again_where_that_has_led() {
    let host = Host::new();
    let link = host.elsewhere.path().join("by-id");
    std::os::unix::fs::symlink(host.lun(), &link).unwrap();
    let lines: Vec<String> = (0..12).map(|number| format!("RW 1 VMFSRDM \"lun {number}\"")).collect();
    let path = host.disk("custom", &lines.iter().map(String::as_str).collect::<Vec<_>>());
    let options = (0..12).fold(OpenOptions::new().max_open_files(2), |options, number| {
        let own = host.elsewhere.path().join(format!("lun{number}"));
        fs::write(&own, [number; SECTOR]).unwrap();
        options.map_extent(format!("lun {number}"), own)
    });
    let image = options.open(&path).unwrap();
    for _ in 0..2 {
        assert!(content(&image) == (0..12).flat_map(|number| [number; SECTOR]).collect::<Vec<u8>>());
    }
    let options = OpenOptions::new().map_extent(NAME, &link);
    assert!(content(&options.open(host.whole()).unwrap()) == host.content);
}

/// Descriptors that were made by ESX; the LUNs are files without data here.
#[test]
fn those_of_esx_open_with_a_lun_of_their_size() {
    const TEST: &str = "those_of_esx_open_with_a_lun_of_their_size";
    let Some(samples) = tools::sample_dir(TEST) else { return };
    let dir = tempfile::tempdir().unwrap();
    let lun = dir.path().join("lun");
    for (file, name, sectors, create_type) in [
        ("_text-descriptors/vmfsPassthroughRawDeviceMap.vmdk", "5-rdmp.vmdk", 1_048_576_000, CreateType::VmfsRdmp),
        ("_text-descriptors/vmfsRawDeviceMap-v3-ctk.vmdk", "RDM-rdm.vmdk", 1_048_576_000, CreateType::VmfsRdm),
        ("kubev2v__forklift/rdmfile", "rdmdisktest-rdm.vmdk", 83_886_080, CreateType::VmfsRdm),
    ] {
        let path = samples.join(file);
        let options = OpenOptions::new().map_extent(name, &lun);
        fs::File::create(&lun).unwrap().set_len(sectors * 512 - 1).unwrap();
        refused(options.open(&path), ErrorKind::InvalidInput, &[&(sectors * 512).to_string()]);
        fs::File::create(&lun).unwrap().set_len(sectors * 512).unwrap();
        let image = options.open(&path).unwrap();
        assert_eq!((image.capacity_sectors(), image.create_type().unwrap().canonical()), (sectors, create_type));
        let mut sector = [1; SECTOR];
        image.read_sectors(sectors - 1, &mut sector).unwrap();
        assert_eq!(sector, [0; SECTOR]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_block_device_is_mapped() {
    use std::process::Command;
    const TEST: &str = "a_block_device_is_mapped";
    /// A loop device that goes away again.
    struct Loop(PathBuf);
    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
        }
    }
    let host = Host::new();
    if !Path::new("/dev/loop-control").exists() {
        return tools::skip(TEST, "the host has no loop devices");
    }
    let output = Command::new("losetup").args(["--find", "--show"]).arg(host.lun()).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        return tools::skip(TEST, "losetup is not installed or may not make a loop device");
    };
    let device = Loop(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()));
    let path = host.whole();
    assert!(content(&OpenOptions::new().map_extent(NAME, &device.0).open(&path).unwrap()) == host.content);
    let image = OpenOptions::new().map_extent_to_write(NAME, &device.0).write(true).open(&path).unwrap();
    image.write_sectors(LUN - 1, &[1; SECTOR]).unwrap();
    image.close().unwrap();
    drop(image);
    assert_eq!(host.on_lun()[byte_range(LUN - 1, 1)], [1; SECTOR]);
    let longer = host.disk("vmfsRawDeviceMap", &[&line(LUN + 1)]);
    let options = OpenOptions::new().map_extent(NAME, &device.0);
    refused(options.open(longer), ErrorKind::InvalidInput, &[device.0.to_str().unwrap()]);
}

#[cfg(feature = "cli")]
mod tool {
    use std::process::Output;

    use super::support::vmdk_tool::said;
    use super::*;

    fn vmdk(host: &Host, args: &[&str]) -> Output {
        support::vmdk_tool::vmdk(host.dir.path(), args)
    }

    fn map(host: &Host, name: &str) -> String {
        format!("{name}={}", host.lun().display())
    }

    #[test]
    fn every_command_that_opens_images_takes_a_map() {
        let host = Host::new();
        let (_, expected) = host.delta();
        let (map, typo) = (map(&host, NAME), map(&host, "typo"));
        for disk in ["disk.vmdk", "disk-000001.vmdk"] {
            for command in
                [&["convert", disk, "out.raw"][..], &["read", disk, "0", "512"], &["map", disk], &["info", disk]]
            {
                if (command[0], disk) != ("info", "disk-000001.vmdk") {
                    let text = said(&vmdk(&host, command), 2);
                    assert!(text.contains("--map-extent NAME=PATH") && text.contains(NAME), "{command:?}: {text}");
                }
                said(&vmdk(&host, &[command, &["--map-extent", &map]].concat()), 0);
            }
        }
        assert!(fs::read(host.dir.path().join("out.raw")).unwrap() == expected);
        let text = said(&vmdk(&host, &["info", "disk-000001.vmdk"]), 0);
        assert!(text.contains("broken") && text.contains(NAME), "{text}");
        said(&vmdk(&host, &["check", "disk-000001.vmdk", "--chain", "--map-extent", &map]), 0);
        let text = said(&vmdk(&host, &["map", "disk.vmdk", "--map-extent", &map, "--map-extent", &typo]), 2);
        assert!(text.contains("typo"), "{text}");
        for bad in ["", "=", "a=", "=b", "ab"] {
            assert!(said(&vmdk(&host, &["info", "disk.vmdk", "--map-extent", bad]), 2).contains("disk-rdm.vmdk=/dev"));
        }
        host.assert_untouched();
    }

    #[test]
    fn of_two_images_either_may_have_the_map() {
        let host = Host::new();
        host.delta();
        let (map, typo) = (map(&host, NAME), map(&host, "typo"));
        let lun = host.lun();
        let lun = lun.to_str().unwrap();
        for args in [["disk.vmdk", lun, "--raw-b"], [lun, "disk.vmdk", "--raw-a"]] {
            said(&vmdk(&host, &[&["compare"], &args[..], &["--map-extent", &map]].concat()), 0);
            let typo = vmdk(&host, &[&["compare"], &args[..], &["--map-extent", &map, "--map-extent", &typo]].concat());
            assert!(said(&typo, 2).contains("typo"));
        }
        // The parent of what is made.
        let raw = host.dir.path().join("raw");
        let mut content = host.content.clone();
        content[byte_range(9, 1)].fill(9);
        fs::write(raw, &content).unwrap();
        let convert = ["convert", "raw", "new.vmdk", "--to", "vmfsSparse", "--parent", "disk.vmdk"];
        said(&vmdk(&host, &[&convert[..], &["--map-extent", &typo]].concat()), 2);
        said(&vmdk(&host, &[&convert[..], &["--map-extent", &map]].concat()), 0);
        assert!(super::content(&host.mapped().open(host.dir.path().join("new.vmdk")).unwrap()) == content);
        let text = said(&vmdk(&host, &["convert", "raw", "b.vmdk", "--to", "vmfs", "--map-extent", &typo]), 2);
        assert!(text.contains("typo"), "{text}");
        host.assert_untouched();
    }

    #[test]
    fn what_writes_needs_a_map_that_says_so() {
        let host = Host::new();
        let (_, expected) = host.delta();
        let map = map(&host, NAME);
        let text = said(&vmdk(&host, &["zero", "disk.vmdk", "0", "512", "--map-extent", &map]), 2);
        assert!(text.contains("--map-extent-to-write"), "{text}");
        let text = said(&vmdk(&host, &["commit", "disk-000001.vmdk", "--map-extent", &map]), 2);
        assert!(text.contains("--map-extent-to-write"), "{text}");
        host.assert_untouched();
        said(&vmdk(&host, &["commit", "disk-000001.vmdk", "--map-extent-to-write", &map]), 0);
        assert!(host.on_lun() == expected);
        said(&vmdk(&host, &["zero", "disk.vmdk", "0", "512", "--map-extent-to-write", &map]), 0);
        assert_eq!(host.on_lun()[..SECTOR], [0; SECTOR]);
    }
}
