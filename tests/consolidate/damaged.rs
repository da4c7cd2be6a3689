//! Chains with damaged files: nothing panics, and what could be read reads the same afterwards, whatever comes of it.

use vmdk::BlockDevice;

use super::judge::open;
use super::scene::{self, Scene};
use super::support::crash::CrashDisk;
use super::support::rng::Rng;
use super::support::{SECTOR, index};

/// Every sector by itself: `None` where it cannot be read.
fn sectors(disk: &CrashDisk, name: &str) -> Option<Vec<Option<[u8; SECTOR]>>> {
    let image = open(disk, name).ok()?;
    let capacity = image.capacity_sectors().min(4096);
    let read = |sector| {
        let mut bytes = [0; SECTOR];
        image.read_sectors(sector, &mut bytes).ok().map(|()| bytes)
    };
    Some((0..capacity).map(read).collect())
}

/// Changes bytes of the metadata, or whole entries of tables, of one of the files.
fn damage(scene: &Scene, rng: &mut Rng) -> CrashDisk {
    let mut files = scene.files();
    for _ in 0..=rng.below(3) {
        let place = index(rng.below(files.len() as u64));
        let (_, bytes) = &mut files[place];
        // Headers, descriptors and tables come first; of a text everything is.
        let end = (bytes.len() as u64).min(40 * SECTOR as u64).max(4);
        let at = index(rng.below(end)).min(bytes.len() - 4);
        match rng.below(5) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = b"0123456789abcdef\n\"# ="[index(rng.below(21))],
            2 => bytes[at / 4 * 4..at / 4 * 4 + 4].copy_from_slice(&index(rng.below(80)).to_le_bytes()[..4]),
            3 => bytes[at / 4 * 4..at / 4 * 4 + 4].fill(0xff),
            _ => bytes.truncate(bytes.len().saturating_sub(index(rng.below(3000))).max(4)),
        }
    }
    CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())))
}

#[test]
fn a_damaged_chain_reads_as_before_or_not_at_all() {
    let rng = &mut Rng::new(77);
    let (mut done, mut refused, mut read) = (0, 0, 0);
    for seed in 0..20 {
        for scene in scene::all(seed) {
            for _ in 0..4 {
                let disk = damage(&scene, rng);
                let name = &scene.leaf().name;
                let before = sectors(&disk, name);
                let changes = disk.changes().len();
                match scene.run(&disk) {
                    Ok(()) => done += 1,
                    Err(_) => refused += 1,
                }
                let Some(before) = before else {
                    assert_eq!(disk.changes().len(), changes, "{}: what cannot be opened is not changed", scene.what);
                    continue;
                };
                let after = sectors(&disk, name).unwrap_or_else(|| panic!("{}: it is not opened any more", scene.what));
                assert_eq!(before.len(), after.len(), "{}", scene.what);
                for (sector, (before, after)) in before.iter().zip(&after).enumerate() {
                    // What could not be read was not understood, and nobody knows what it should be.
                    if let Some(before) = before {
                        assert!(after.as_ref() == Some(before), "{}: sector {sector}", scene.what);
                        read += 1;
                    }
                }
            }
        }
    }
    println!("{done} done, {refused} refused, {read} sectors compared");
    assert!(done > 500 && refused > 100);
}
