//! What is not compacted stays as it is, to the byte.

use std::fs;

use vmdk::{BlockDevice, CompactMode, CreateOptions, CreateType, ErrorKind, OpenOptions};

use super::stage::{MODES, Stage, go_on};
use super::support::crash::CrashDisk;
use super::support::descriptor::DescriptorText;
use super::support::disk::{Image, Kind, Part};
use super::support::rng::Rng;
use super::support::sparse::{self, SparseImage};
use super::support::{SECTOR, index};

/// Compacts a disk that must not be, and must stay as it is.
#[track_caller]
fn refused(files: &[(String, Vec<u8>)], name: &str, options: &OpenOptions) -> vmdk::Error {
    let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
    let error = options.compact_in(name, &disk, CompactMode::Move, &mut go_on).unwrap_err();
    for (name, bytes) in files {
        assert!(disk.live(name) == *bytes, "{error}: {name} has changed");
    }
    error
}

#[test]
fn a_stream_is_refused_by_name() {
    let disk = CrashDisk::new([]);
    let options = CreateOptions::new().create_type(CreateType::StreamOptimized).capacity_sectors(2048);
    options.create_in("disk.vmdk", &disk).unwrap();
    let files = [("disk.vmdk".to_owned(), disk.live("disk.vmdk"))];
    let error = refused(&files, "disk.vmdk", &OpenOptions::new());
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("streamOptimized"), "{error}");
}

#[test]
fn what_is_never_written_to_is_not_compacted() {
    let files = |change: &dyn Fn(DescriptorText) -> DescriptorText| {
        let extent = SparseImage::new(256).data(0, vec![0; 128 * SECTOR]);
        Image::embedded("disk.vmdk", extent, None, change).files
    };
    let tracked = files(&|text| text.change_track_path("disk-ctk.vmdk"));
    assert_eq!(refused(&tracked, "disk.vmdk", &OpenOptions::new()).kind(), ErrorKind::Unsupported);
    let newer = files(&|text| text.version(4));
    assert_eq!(refused(&newer, "disk.vmdk", &OpenOptions::new()).kind(), ErrorKind::Unsupported);
    for options in [
        OpenOptions::new().force_share(true),
        OpenOptions::new().use_redundant_tables(true),
        OpenOptions::new().salvage(true),
    ] {
        assert_eq!(refused(&files(&|text| text), "disk.vmdk", &options).kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn a_child_without_its_parent_or_over_another_one_is_refused() {
    let stage = Stage::of(Kind::Child, 1);
    let alone = OpenOptions::new().no_parent(true);
    assert_eq!(refused(stage.files(), &stage.name, &alone).kind(), ErrorKind::InvalidInput);
    let mut files = stage.files().to_vec();
    let base = &mut files.iter_mut().find(|(name, _)| name == "base.vmdk").unwrap().1;
    let at = base.windows(5).position(|bytes| bytes == b"\nCID=").unwrap() + 5;
    base[at..at + 4].copy_from_slice(b"0bad");
    assert_eq!(refused(&files, &stage.name, &OpenOptions::new()).kind(), ErrorKind::ContentIdMismatch);
    // Grains that the wrong parent has by chance would be lost over the right one.
    let mixture = OpenOptions::new().ignore_cid_mismatch(true);
    assert_eq!(refused(&files, &stage.name, &mixture).kind(), ErrorKind::ContentIdMismatch);
}

#[test]
fn tables_that_need_repair_are_left_alone() {
    let rng = &mut Rng::new(1);
    let extent = [0, 1, 2]
        .into_iter()
        .fold(SparseImage::new(8 * 128).grain_sectors(8), |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)));
    let layout = extent.clone().descriptor("a text").layout();
    let grain = u32::try_from(layout.grains[&1]).unwrap();
    for bad in [grain, 1 << 20, 7] {
        let damaged = extent.clone().patch_u32(layout.entry(2), bad);
        let files = Image::monolithic_sparse("disk.vmdk", damaged).files;
        assert_eq!(refused(&files, "disk.vmdk", &OpenOptions::new()).kind(), ErrorKind::Corrupt, "{bad}");
    }
    let unknown = Image::monolithic_sparse("disk.vmdk", extent.flags(sparse::FLAG_NEWLINES | 1 << 5)).files;
    assert_eq!(refused(&unknown, "disk.vmdk", &OpenOptions::new()).kind(), ErrorKind::Unsupported);
}

/// Any bytes are changed, most of them in headers and tables: what could be read before can be read then, and is the
/// same.
#[test]
fn whatever_is_damaged_no_content_changes() {
    let rng = &mut Rng::new(2);
    let (mut compacted, mut left) = (0, 0);
    for round in 0..400 {
        let stage = Stage::small(round % 2 == 0, round % 3 == 0, round % 5);
        let mut files = stage.files().to_vec();
        let own = &mut files.iter_mut().find(|(name, _)| *name == stage.name).unwrap().1;
        for _ in 0..=rng.below(2) {
            // The header, the directories and their tables.
            let at = if rng.chance(50) { rng.below(80) } else { (21 + rng.below(11)) * 512 + rng.below(60) };
            own[index(at)] = [0, 1, 0xff, rng.bytes(1)[0]][index(rng.below(4))];
        }
        let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
        let Ok(image) = OpenOptions::new().open_with(&stage.name, &disk) else { continue };
        let sectors = image.capacity_sectors().min(4096);
        let read = |image: &vmdk::VmdkImage| {
            let sector = |sector| {
                let mut bytes = [0; SECTOR];
                image.read_sectors(sector, &mut bytes).ok().map(|()| bytes)
            };
            (0..sectors).map(sector).collect::<Vec<_>>()
        };
        let before = read(&image);
        drop(image);
        match OpenOptions::new().compact_in(&stage.name, &disk, MODES[index(rng.below(2))], &mut go_on) {
            Ok(_) => compacted += 1,
            Err(_) => left += 1,
        }
        let image = OpenOptions::new().open_with(&stage.name, &disk).unwrap();
        let after = read(&image);
        let is_kept = |(before, after): (&Option<_>, &Option<_>)| before.is_none() || before == after;
        assert!(before.iter().zip(&after).all(is_kept), "{round}");
    }
    println!("{compacted} compacted, {left} left alone");
    assert!(compacted > 40 && left > 20, "{compacted} {left}");
}

#[cfg(unix)]
#[test]
fn a_disk_that_somebody_uses_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let part = Part::flat("disk-flat.vmdk", vec![0; 999 * SECTOR]);
    let path = Image::of_parts("disk.vmdk", "monolithicFlat", vec![part]).write_to(dir.path());
    for write in [false, true] {
        let image = OpenOptions::new().write(write).open(&path).unwrap();
        let error = OpenOptions::new().compact(&path, CompactMode::Punch, &mut go_on).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        drop(image);
    }
    assert!(fs::read(dir.path().join("disk-flat.vmdk")).unwrap().len() == 999 * SECTOR);
    OpenOptions::new().compact(&path, CompactMode::Punch, &mut go_on).unwrap();
}
