//! What cannot have another size stays as it is, to the byte.

use vmdk::{
    BlockDevice, CheckOptions, CreateOptions, CreateType, ErrorKind, FindingKind, OpenOptions, ResizeOptions, Result,
};

use super::stage::{Stage, go_on};
use super::support::cowd::CowdImage;
use super::support::crash::CrashDisk;
use super::support::descriptor::DescriptorText;
use super::support::disk::{Image, Kind, Part};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;
use super::support::{SECTOR, index};

fn resize(disk: &CrashDisk, name: &str, sectors: u64, shrinks: bool) -> Result<vmdk::ResizeReport> {
    let options = ResizeOptions::new().allow_shrink(shrinks);
    Stage::options().resize_in(name, disk, sectors, options, &mut go_on)
}

#[track_caller]
fn refused(files: &[(String, Vec<u8>)], name: &str, sectors: u64, shrinks: bool) -> vmdk::Error {
    let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
    let error = resize(&disk, name, sectors, shrinks).unwrap_err();
    for (name, bytes) in files {
        assert!(disk.live(name) == *bytes, "{error}: {name} has changed");
    }
    assert_eq!(disk.names().len(), files.len(), "{error}: {:?}", disk.names());
    error
}

#[track_caller]
fn kind_of(files: &[(String, Vec<u8>)], sectors: u64) -> ErrorKind {
    refused(files, "disk.vmdk", sectors, true).kind()
}

#[test]
fn sizes_that_no_disk_has_are_refused() {
    for kind in [Kind::MonolithicSparse, Kind::MonolithicFlat, Kind::TwoGbMaxExtentSparse, Kind::Child] {
        let files = Stage::of(kind, 1).files;
        for sectors in [0, u64::MAX, 1 << 55] {
            assert_eq!(kind_of(&files, sectors), ErrorKind::InvalidInput, "{kind:?} {sectors}");
        }
    }
    let files = Stage::of(Kind::MonolithicSparse, 1).files;
    assert_eq!(kind_of(&files, 128 * u64::from(u32::MAX) + 1), ErrorKind::InvalidInput);
    let delta = Stage::of(Kind::EsxDelta, 1);
    let error = refused(&delta.files, &delta.name, 1 << 32, false);
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let split = Stage::of(Kind::TwoGbMaxExtentSparse, 1);
    assert_eq!(kind_of(&split.files, 1 << 38), ErrorKind::InvalidInput);
    assert_eq!(kind_of(&split.files, 40_000 * 4_192_256), ErrorKind::Unsupported);
}

#[test]
fn a_smaller_size_has_to_be_asked_for() {
    let stage = Stage::of(Kind::MonolithicSparse, 1);
    let error = refused(&stage.files, &stage.name, stage.sectors() - 1, false);
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("allow_shrink"), "{error}");
}

#[test]
fn zeros_of_a_child_that_only_its_parent_lacks_are_no_loss_and_data_of_the_parent_is() {
    let mut stage = Stage::child(true, 99, 2);
    // What the guest reads is from the parent.
    assert_eq!(kind_of(&stage.files, stage.sectors() - 1), ErrorKind::InvalidInput);
    stage.zero_end(9);
    let disk = stage.disk();
    resize(&disk, &stage.name, stage.sectors() - 9, true).unwrap();
}

#[test]
fn a_stream_is_refused_by_name() {
    let disk = CrashDisk::new([]);
    let options = CreateOptions::new().create_type(CreateType::StreamOptimized).capacity_sectors(2048);
    options.create_in("disk.vmdk", &disk).unwrap();
    let error = refused(&[("disk.vmdk".to_owned(), disk.live("disk.vmdk"))], "disk.vmdk", 4096, false);
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("streamOptimized"), "{error}");
}

#[test]
fn what_does_not_say_how_large_the_disk_is_is_refused() {
    // An extent may be a part of a disk, as long as nobody says that it is one.
    let bare = CrashDisk::new([("disk.vmdk", SparseImage::new(256).build())]);
    let done = OpenOptions::new().resize_in("disk.vmdk", &bare, 512, ResizeOptions::new(), &mut go_on);
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Unsupported);
    let nameless = SparseImage::new(256).descriptor("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n");
    assert_eq!(kind_of(&[("disk.vmdk".to_owned(), nameless.build())], 512), ErrorKind::Unsupported);
}

#[test]
fn files_of_vmware_3_have_the_size_that_the_others_leave_to_them() {
    let rng = &mut Rng::new(1);
    let part = |ordinal: u32| CowdImage::vmware3([300, 90][ordinal as usize]).grain_sectors(8);
    let files = [0, 1].map(|ordinal| part(ordinal).file_of(ordinal, 2, 390, 300));
    let disk = Stage::new(vec![Image::hosted_cowd("disk.vmdk", &files, None)]);
    let says = |sectors, shrinks| refused(&disk.files, &disk.name, sectors, shrinks).to_string();
    assert!(says(601, false).contains("fileCapacity"), "{}", says(601, false));
    assert!(says(300, true).contains("how many"), "{}", says(300, true));
    let done = resize(&disk.disk(), &disk.name, 600, false).unwrap();
    assert_eq!(done.new_sectors, 600);
    // By itself, the second file is a disk that may be written to, but no other size would fit.
    let later = refused(&disk.files, "disk-02.vmdk", 91, false);
    assert_eq!(later.kind(), ErrorKind::Unsupported);

    let base = CowdImage::vmware3(390).grain_sectors(8).generation(5).random(rng);
    let base = Image::hosted_cowd("base.vmdk", &[base], None);
    let child = [0, 1].map(|ordinal| part(ordinal).parent("base.vmdk", 5).file_of(ordinal, 2, 390, 300));
    let chain = Stage::new(vec![base.clone(), Image::hosted_cowd("disk.vmdk", &child, Some(&base))]);
    let error = refused(&chain.files, &chain.name, 391, false);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("convert"), "{error}");
}

/// By its header the grains begin one grain later than they do; they are in no order.
#[test]
fn a_grain_in_front_of_all_grains_is_found_and_not_written_over() {
    let rng = &mut Rng::new(3);
    let extent = SparseImage::new(8 * 64).grain_sectors(8);
    let extent = [5, 0, 9].into_iter().fold(extent, |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)));
    let mut files = Image::monolithic_sparse("disk.vmdk", extent).files;
    let bytes = &mut files[0].1;
    let over_head = u64::from_le_bytes(bytes[64..72].try_into().unwrap());
    bytes[64..72].copy_from_slice(&(over_head + 8).to_le_bytes());
    for sectors in [8 * 600, 8 * 512 * 40] {
        assert_eq!(kind_of(&files, sectors), ErrorKind::Corrupt, "{sectors}");
    }
    let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
    let report = OpenOptions::new().check_in("disk.vmdk", &disk, &CheckOptions::new(), &mut go_on).unwrap();
    assert!(report.findings.iter().any(|finding| finding.kind == FindingKind::GrainInMetadata), "{report:?}");
    let image = OpenOptions::new().write(true).open_with("disk.vmdk", &disk).unwrap();
    assert_eq!(image.write_sectors(8 * 9, &[7; SECTOR]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn extents_that_a_guest_may_not_write_keep_their_size() {
    let content = Rng::new(1).bytes(9 * SECTOR);
    let part = |access: &str| Part::flat_in(access, "flat", 0, &content).with_file("flat", content.clone());
    for parts in [vec![part("RDONLY")], vec![part("RW"), Part::zero(5)], vec![Part::zero(3), Part::zero(5)]] {
        let files = Image::of_parts("disk.vmdk", "custom", parts).files;
        assert_eq!(kind_of(&files, 100), ErrorKind::Unsupported);
    }
    let files = Image::of_parts("disk.vmdk", "custom", vec![part("RW"), Part::no_access(5, "other", 0)]).files;
    assert_eq!(kind_of(&files, 10), ErrorKind::Unsupported);
}

#[test]
fn what_lies_behind_a_flat_extent_in_its_file_is_not_taken() {
    let mut content = Rng::new(1).bytes(20 * SECTOR);
    let part = Part::flat_in("RW", "flat", 2, &content[2 * SECTOR..10 * SECTOR]).with_file("flat", content.clone());
    let files = Image::of_parts("disk.vmdk", "custom", vec![part]).files;
    assert_eq!(kind_of(&files, 9), ErrorKind::Unsupported);
    // Zeros are nobody's.
    content[10 * SECTOR..12 * SECTOR].fill(0);
    let part = Part::flat_in("RW", "flat", 2, &content[2 * SECTOR..10 * SECTOR]).with_file("flat", content.clone());
    let files = Image::of_parts("disk.vmdk", "custom", vec![part]).files;
    let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
    resize(&disk, "disk.vmdk", 10, false).unwrap();
    assert!(disk.live("flat") == content);
    assert_eq!(resize(&disk, "disk.vmdk", 11, false).unwrap_err().kind(), ErrorKind::Unsupported);
    // Two extents of one file.
    let half = |offset| Part::flat_in("RW", "flat", offset, &content[..4 * SECTOR]);
    let parts = vec![half(4), half(0).with_file("flat", content.clone())];
    let files = Image::of_parts("disk.vmdk", "custom", parts).files;
    assert_eq!(kind_of(&files, 9), ErrorKind::Unsupported);
}

#[test]
fn a_descriptor_without_room_is_refused() {
    let long = "# a long line of no meaning\n".repeat(220);
    let change = |text: DescriptorText| text.extent("").extent(long.as_str());
    let extent = SparseImage::new(256).data(0, vec![1; 128 * SECTOR]);
    let files = Image::embedded("disk.vmdk", extent, None, change).files;
    let error = refused(&files, "disk.vmdk", 512, false);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("no room"), "{error}");
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
        let files = Image::monolithic_sparse("disk.vmdk", extent.clone().patch_u32(layout.entry(2), bad)).files;
        assert_eq!(kind_of(&files, 1 << 16), ErrorKind::Corrupt, "{bad}");
    }
}

/// Any bytes are changed, most of them in headers and tables: what could be read before can be read then, and is the
/// same.
#[test]
fn whatever_is_damaged_no_content_changes() {
    use vmdk::BlockDevice;
    let rng = &mut Rng::new(2);
    let (mut resized, mut left) = (0, 0);
    for round in 0..400 {
        let stage = if round % 2 == 0 { Stage::small(round % 5) } else { Stage::child(round % 3 == 0, 150, round % 5) };
        let mut files = stage.files.clone();
        let own = &mut files.iter_mut().find(|(name, _)| *name == stage.name).unwrap().1;
        for _ in 0..=rng.below(2) {
            let at = if rng.chance(50) { rng.below(80) } else { (21 + rng.below(11)) * 512 + rng.below(60) };
            own[index(at)] = [0, 1, 0xff, rng.bytes(1)[0]][index(rng.below(4))];
        }
        let disk = CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())));
        let Ok(image) = OpenOptions::new().open_with(&stage.name, &disk) else { continue };
        let sectors = image.capacity_sectors().min(stage.sectors());
        let read = |image: &vmdk::VmdkImage| {
            let sector = |sector| {
                let mut bytes = [0; SECTOR];
                image.read_sectors(sector, &mut bytes).ok().map(|()| bytes)
            };
            (0..sectors).map(sector).collect::<Vec<_>>()
        };
        let before = read(&image);
        drop(image);
        match resize(&disk, &stage.name, [100, 1200, 5000][index(rng.below(3))], true) {
            Ok(_) => resized += 1,
            Err(_) => left += 1,
        }
        let after = read(&OpenOptions::new().open_with(&stage.name, &disk).unwrap());
        let is_kept = |(before, after): (&Option<_>, &Option<_>)| before.is_none() || before == after;
        assert!(before.iter().zip(&after).all(is_kept), "{round}");
    }
    println!("{resized} resized, {left} left alone");
    assert!(resized > 40 && left > 20, "{resized} {left}");
}

#[cfg(unix)]
#[test]
fn a_disk_that_somebody_uses_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let path = Image::monolithic_flat("disk.vmdk", vec![1; 99 * SECTOR]).write_to(dir.path());
    let image = OpenOptions::new().open(&path).unwrap();
    let grow = || OpenOptions::new().resize(&path, 200, ResizeOptions::new(), &mut go_on);
    assert_eq!(grow().unwrap_err().kind(), ErrorKind::Locked);
    drop(image);
    assert_eq!(grow().unwrap().new_sectors, 200);
}
