//! An extent by ESX beside one that the builder makes of the same content.

use std::collections::BTreeSet;

use crate::builder::number;
use crate::support::sesparse::{ENTRIES, GRAIN_BYTES, Layout, SeSparseImage};
use crate::support::{SECTOR, byte_range, index, tools};

/// 512 MiB, of which the first 16 were written, in one go and through the journal; closed cleanly.
const SAMPLE: &str = "fox-it__dissect.hypervisor/history-fb0236be/sesparse.vmdk";

#[test]
fn the_builder_makes_of_the_content_what_esx_has_made_of_it() {
    let test = "the_builder_makes_of_the_content_what_esx_has_made_of_it";
    let Some(dir) = tools::sample_dir(test) else { return };
    let path = dir.join(SAMPLE);
    if !path.exists() {
        return tools::skip(test, &format!("{} is not there", path.display()));
    }
    let theirs = std::fs::read(path).unwrap();
    let grain = |number: u64| theirs[0x60_0000 + index(number) * GRAIN_BYTES..][..GRAIN_BYTES].to_vec();
    let image = (0..ENTRIES).fold(SeSparseImage::new(1_048_576), |image, number| image.data(number, grain(number)));
    let image = image.used_journal();
    let (ours, layout) = (image.build(), image.layout());

    let regions = [
        ("constant header", byte_range(0, 1)),
        ("volatile header", byte_range(1, 1)),
        // The second sector of it is memory that nobody has written to.
        ("journal header", byte_range(2, 1)),
        ("zeros", byte_range(4, 2044)),
        ("directory", layout.directory.bytes()),
        ("tables", layout.tables.bytes()),
        ("bitmap", layout.bitmap.bytes()),
        ("back map", layout.back_map.bytes()),
    ];
    for (name, bytes) in regions {
        let first = bytes.clone().find(|&at| ours[at] != theirs[at]);
        assert_eq!(first, None, "{name}");
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours[layout.back_map.bytes().end..] == theirs[layout.back_map.bytes().end..], "slots");

    for place in 0..81 {
        assert_eq!(record(&ours, &layout, place), record(&theirs, &layout, place), "record {place}");
    }
}

/// A sector that a record carries: where to, the number of sectors, what is in it.
type Carried = (u64, u64, Vec<u8>);

/// What a record says, but for the checksum, which nobody knows to make, and the time: the numbers of its header, and
/// the sectors it carries, whose order is another now and then.
fn record(file: &[u8], layout: &Layout, place: u64) -> (Vec<u64>, BTreeSet<Carried>) {
    let start = layout.record(place);
    let header = (0..16).filter(|field| ![4, 7].contains(field)).map(|field| number(file, start + 8 * field)).collect();
    let carried = |pair: u64| {
        let at = start + 128 + 16 * pair;
        let payload = index(start) + (1 + index(pair)) * SECTOR;
        (number(file, at), number(file, at + 8), file[payload..payload + SECTOR].to_vec())
    };
    (header, (0..24).map(carried).collect())
}
