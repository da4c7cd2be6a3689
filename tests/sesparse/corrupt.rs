//! What `qemu-img` makes of damaged extents, where that says something.
//!
//! It looks at the numbers of both headers and at the entries of directory and tables. Of the regions it takes the
//! places of directory, tables and slots, and the size of the directory, as they are, and at the others it does not
//! look; the capacity in the header is the disk's whatever the descriptor says; and what is past the end of the file is
//! zero. So it is not asked about these.

use crate::support::disk::{Disk, Image};
use crate::support::sesparse::variants::{Damage, sound, variants};
use crate::support::tools;

/// Numbers that lead to where there is nothing, and are followed.
const FOLLOWED: [&str; 11] = [
    "directory: the index behind the last",
    "directory: the last index in the region",
    "entry: the slot behind the end of the file",
    "entry: the last slot there can be",
    "entry: the slot behind the last",
    "entry: slot 2^32",
    "entry: slot 2^52",
    "entry: slot 2^57",
    "entry: the highest slot",
    "entry: a slot that is not rotated",
    "length: ",
];

#[test]
fn qemu_sees_the_damage_that_it_looks_for() {
    let Some(qemu_img) = tools::qemu_img("qemu_sees_the_damage_that_it_looks_for") else { return };
    let disk = Disk::new(vec![Image::se_sparse_base("disk.vmdk", &sound())]);
    let (image, raw) = (disk.path.to_str().unwrap(), disk.dir().join("raw"));
    let mut followed = 0;
    for variant in variants() {
        let name = &variant.name;
        if matches!(variant.damage, Damage::Capacity | Damage::Region(_)) {
            continue;
        }
        std::fs::write(disk.dir().join("disk-sesparse.vmdk"), variant.extent.build()).unwrap();
        let output = qemu_img.output(["convert", "-f", "vmdk", "-O", "raw", image, raw.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        let read = output.status.success();
        match &variant.damage {
            Damage::Journal => assert!(!read && said.contains("Image is dirty"), "{name}: {said}"),
            Damage::Directory(lost) | Damage::Entry(lost) => {
                if FOLLOWED.iter().any(|prefix| name.starts_with(prefix)) {
                    followed += 1;
                    assert!(read && std::fs::read(&raw).unwrap() != variant.shows.content(), "{name}: {said}");
                } else {
                    let first = format!("error while reading block status at offset {}", lost[0].start * 512);
                    assert!(!read && said.contains(&first), "{name}: {said}");
                }
            }
            Damage::Disagreement | Damage::Harmless => {
                assert!(read, "{name}: {said}");
                assert!(std::fs::read(&raw).unwrap() == variant.shows.content(), "{name} differs");
            }
            _ => assert!(!read && said.contains("Could not open"), "{name}: {said}"),
        }
    }
    assert!(followed >= FOLLOWED.len(), "{followed}: a name has changed");
}
