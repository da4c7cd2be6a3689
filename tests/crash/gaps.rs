//! Space that a killed process has freed is used again only when nothing durable names it.

use vmdk::{BlockDevice, OpenOptions};

use super::support::SECTOR;
use super::support::cowd::CowdImage;
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::disk::Image;

/// A delta of ESX in a file that is longer than a full disk needs, with data in grain 2. Its last writer was killed
/// when it had freed that grain, in the cache of the host and not on the disk. Now grain 3 is written, and goes there.
fn freed_and_used_again() -> CrashDisk {
    let extent = CowdImage::esx(64).data(2, vec![2; SECTOR]).data(5, vec![5; SECTOR]);
    let layout = extent.layout();
    let parent = Image::vmfs("base.vmdk", vec![1; 64 * SECTOR]);
    let mut image = Image::esx_delta(&parent, "disk.vmdk", &extent);
    let (name, bytes) = image.files.iter_mut().find(|(_, bytes)| bytes.starts_with(b"COWD")).unwrap();
    let name = name.clone();
    bytes.resize(bytes.len() + 100 * SECTOR, 0);
    let old = bytes[usize::try_from(layout.entry(2)).unwrap()..][..4].to_vec();
    let disk =
        CrashDisk::new(image.files.iter().chain(&parent.files).map(|(name, bytes)| (name.as_str(), bytes.clone())));
    disk.storage(&name).write_all_at(&[0; 4], layout.entry(2)).unwrap();
    let image = OpenOptions::new().write(true).open_with("disk.vmdk", &disk.resolver()).unwrap();
    image.write_sectors(3, &[3; SECTOR]).unwrap();
    image.flush().unwrap();
    drop(image);
    let new = disk.live(&name)[usize::try_from(layout.entry(3)).unwrap()..][..4].to_vec();
    assert_eq!(new, old, "grain 3 has to lie where grain 2 was");
    disk
}

/// Whether grain 2 has, in some state, what was written to grain 3.
fn mixes_up(disk: &CrashDisk) -> bool {
    let mut mixed_up = false;
    disk.each_state(&mut Choice::new(1), |state| {
        let image = OpenOptions::new().open_with("disk.vmdk", &state.restart().resolver()).unwrap();
        let mut grain = [0; SECTOR];
        image.read_sectors(2, &mut grain).unwrap();
        mixed_up |= grain.contains(&3);
    });
    mixed_up
}

#[test]
fn what_was_freed_has_to_be_durably_free_before_it_is_used_again() {
    let disk = freed_and_used_again();
    assert!(!mixes_up(&disk));
    // The first sync is that of the content ID.
    disk.ignore_sync(1);
    assert!(mixes_up(&disk), "without the sync before gaps are used");
}
