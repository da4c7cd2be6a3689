//! What has changed since a link of the chain was the youngest one, and the runs of a disk in their order.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use proptest::prelude::*;
use vmdk::{BlockDevice, BlockStatus, ErrorKind, MappedRun, Mapping, VmdkImage};

use support::disk::{Disk, Image, Kind};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, byte_range, index};

/// A chain of one to four links of any sizes and grains.
fn random_chain(rng: &mut Rng) -> Disk {
    let extent = |rng: &mut Rng| {
        let grain = 1 << rng.below(6);
        let capacity = 1 + rng.below(600);
        SparseImage::new(capacity).grain_sectors(grain).entries_per_table(128).with_zero_grains().random(rng)
    };
    let base = if rng.chance(50) {
        let sectors = 1 + rng.below(600);
        Image::monolithic_flat("base.vmdk", rng.bytes(index(sectors) * SECTOR))
    } else {
        Image::monolithic_sparse("base.vmdk", extent(rng))
    };
    let children = rng.below(4);
    (0..children)
        .fold(Disk::new(vec![base]), |disk, number| disk.with_child(&format!("child-{number}.vmdk"), extent(rng)))
}

fn open(disk: &Disk) -> VmdkImage {
    VmdkImage::open(&disk.path).unwrap()
}

/// What the link at `depth` says of a sector, the youngest being 0.
fn layer_at(disk: &Disk, depth: usize) -> &Image {
    &disk.links[disk.links.len() - 1 - depth]
}

/// What the links above `base` make of a sector: who answers, and with what; `None` if none does.
fn model_above(disk: &Disk, base: usize, sector: u64) -> Option<(usize, Vec<u8>)> {
    for depth in 0..base {
        let layer = &layer_at(disk, depth).layer;
        if sector >= layer.capacity() {
            // Cut off here. It is a change only where the base has sectors.
            let goes_on = base < disk.links.len() && sector < layer_at(disk, base).layer.capacity();
            return goes_on.then(|| (depth, vec![0; SECTOR]));
        }
        if let Some(bytes) = layer.sector(sector) {
            return Some((depth, bytes.to_vec()));
        }
    }
    None
}

/// Checks one run against the model, sector by sector.
fn check_run(disk: &Disk, base: usize, run: &MappedRun) {
    assert!(run.sectors > 0, "a run of nothing");
    for number in 0..run.sectors {
        let sector = run.start + number;
        let found = match &run.mapping {
            Mapping::Unallocated => None,
            Mapping::Zero => Some((run.depth, vec![0; SECTOR])),
            Mapping::Data { storage, offset } => {
                let mut bytes = vec![0xee; SECTOR];
                storage.read_exact_at(&mut bytes, offset + number * SECTOR as u64).unwrap();
                Some((run.depth, bytes))
            }
            other => panic!("{other:?}"),
        };
        let expected = model_above(disk, base, sector);
        assert!(found == expected, "sector {sector} above {base}: {run:?}, but {:?}", expected.map(|(depth, _)| depth));
    }
}

/// Everything that can be asked about a disk above a link.
fn check_above(disk: &Disk, image: &VmdkImage, base: usize, rng: &mut Rng) {
    let capacity = image.capacity_sectors();
    let mut at = 0;
    for run in image.runs_above(base).unwrap() {
        let run = run.unwrap();
        assert_eq!(run.start, at, "the runs have a gap or overlap");
        check_run(disk, base, &run);
        at += run.sectors;
    }
    assert_eq!(at, capacity, "the runs end early or late");
    for _ in 0..30 {
        let start = rng.below(capacity);
        let max = [1, 1 + rng.below(50), capacity, u64::MAX][index(rng.below(4))];
        let run = image.map_above(base, start, max).unwrap();
        assert_eq!(run.start, start);
        assert!(run.sectors <= max && start + run.sectors <= capacity, "{run:?} of {max}");
        check_run(disk, base, &run);
        let (status, count) = image.block_status_above(base, start, max).unwrap();
        let expected = match run.mapping {
            Mapping::Data { .. } => BlockStatus::Data,
            Mapping::Zero => BlockStatus::Zero,
            _ => BlockStatus::Hole,
        };
        assert_eq!((status, count), (expected, run.sectors));
    }
}

/// The promise of an incremental backup: what is a hole above the base is what the base shows.
fn check_backup(disk: &Disk, image: &VmdkImage, base: usize) {
    let old = disk.links.len().checked_sub(base + 1).map_or(&[][..], |number| &disk.links[number].content);
    let mut restored = old.to_vec();
    restored.resize(disk.content.len(), 0);
    let mut at = 0;
    while at < image.capacity_sectors() {
        let (status, count) = image.block_status_above(base, at, u64::MAX).unwrap();
        let range = byte_range(at, count);
        match status {
            BlockStatus::Data => image.read_sectors(at, &mut restored[range]).unwrap(),
            BlockStatus::Zero => restored[range].fill(0),
            _ => {}
        }
        at += count;
    }
    let differs = restored.chunks(SECTOR).zip(disk.content.chunks(SECTOR)).position(|(one, other)| one != other);
    assert_eq!(differs, None, "a change above {base} that is not told");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn what_is_above_any_link_of_a_random_chain_is_what_the_model_says(seed in any::<u64>()) {
        let rng = &mut Rng::new(seed);
        let disk = random_chain(rng);
        let image = open(&disk);
        for base in 1..=disk.links.len() {
            check_above(&disk, &image, base, rng);
            check_backup(&disk, &image, base);
        }
    }
}

#[test]
fn the_runs_of_every_kind_of_image_cover_it_and_agree_with_map() {
    for kind in Kind::ALL {
        let disk = kind.disk(21);
        let image = open(&disk);
        let mut content = Vec::new();
        for run in image.runs().unwrap() {
            let run = run.unwrap();
            assert_eq!(run.start, (content.len() / SECTOR) as u64, "{kind:?}");
            let asked = image.map(run.start, run.sectors).unwrap();
            assert_eq!((asked.depth, asked.sectors), (run.depth, run.sectors), "{kind:?}: {run:?}");
            let mut bytes = vec![0; index(run.sectors) * SECTOR];
            match (&run.mapping, &asked.mapping) {
                (Mapping::Data { storage, offset }, Mapping::Data { offset: other, .. }) => {
                    assert_eq!(offset, other, "{kind:?}");
                    let present = index(storage.len().unwrap() - offset).min(bytes.len());
                    storage.read_exact_at(&mut bytes[..present], *offset).unwrap();
                }
                (Mapping::Zero, Mapping::Zero) | (Mapping::Unallocated, Mapping::Unallocated) => {}
                other => panic!("{kind:?}: {other:?}"),
            }
            content.extend(bytes);
        }
        assert!(content == disk.content, "{kind:?}");
    }
}

#[test]
fn what_is_above_every_link_of_every_kind_restores_the_image_from_that_link() {
    for kind in Kind::ALL {
        let disk = kind.disk(22);
        let image = open(&disk);
        for base in 1..=disk.links.len() {
            check_backup(&disk, &image, base);
        }
    }
}

/// A link that is shorter than the base cuts the base off: a longer child shows zeros there, and so it has changed.
#[test]
fn what_a_short_link_in_between_cuts_off_has_changed() {
    use BlockStatus::{Data, Hole, Zero};
    let grain = |byte: u8| vec![byte; 16 * SECTOR];
    let extent = |grains: u64| SparseImage::new(16 * grains).grain_sectors(16);
    let full = (0..6).fold(extent(6), |extent, number| extent.data(number, grain(0xb0)));
    let disk = Disk::new(vec![Image::monolithic_sparse("base.vmdk", full)])
        .with_child("short.vmdk", extent(2).data(0, grain(1)))
        .with_child("long.vmdk", extent(8).data(5, grain(2)));
    let image = open(&disk);
    let statuses = |base| {
        let mut statuses = Vec::new();
        let mut at = 0;
        while at < image.capacity_sectors() {
            let (status, count) = image.block_status_above(base, at, u64::MAX).unwrap();
            match statuses.last_mut() {
                Some((last, sectors)) if *last == status => *sectors += count,
                _ => statuses.push((status, count)),
            }
            at += count;
        }
        statuses
    };
    // The youngest alone; without what short.vmdk holds; and without the whole chain.
    assert_eq!(statuses(1), [(Hole, 80), (Data, 16), (Hole, 32)]);
    assert_eq!(statuses(2), [(Data, 16), (Hole, 16), (Zero, 48), (Data, 16), (Hole, 32)]);
    assert_eq!(statuses(3), [(Data, 32), (Hole, 48), (Data, 16), (Hole, 32)]);
    let run = image.map_above(2, 40, u64::MAX).unwrap();
    assert_eq!((run.depth, run.start, run.sectors), (1, 40, 40));
}

#[test]
fn a_smaller_image_says_nothing_of_what_its_base_has_beyond_its_end() {
    let disk = Kind::SmallerChild.disk(1);
    let image = open(&disk);
    let capacity = image.capacity_sectors();
    assert!(capacity < disk.links[0].layer.capacity());
    assert_eq!(image.runs_above(1).unwrap().map(|run| run.unwrap().sectors).sum::<u64>(), capacity);
    for start in [capacity, capacity + 1, u64::MAX] {
        assert_eq!(image.block_status_above(1, start, 1).unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(image.map_above(1, start, 1).unwrap_err().kind(), ErrorKind::OutOfRange);
    }
    assert_eq!(image.map_above(1, 0, 0).unwrap_err().kind(), ErrorKind::OutOfRange);
}

#[test]
fn a_base_that_the_chain_does_not_have_is_refused() {
    let disk = Kind::DeepChain.disk(2);
    let image = open(&disk);
    for base in [0, 5, 6, usize::MAX] {
        let kinds = [
            image.map_above(base, 0, 1).map(drop),
            image.block_status_above(base, 0, 1).map(drop),
            image.runs_above(base).map(drop),
        ];
        for result in kinds {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{base}");
            assert!(error.to_string().contains("a chain of 4"), "{error}");
        }
    }
    for base in 1..=4 {
        image.map_above(base, 0, 1).unwrap();
    }
}

#[test]
fn map_layer_is_what_is_above_the_parent_and_the_whole_chain_is_above_nothing() {
    let disk = Kind::DeepChain.disk(3);
    let image = open(&disk);
    let shown = |run: MappedRun| format!("{run:?}");
    for start in 0..image.capacity_sectors() {
        let layer = image.map_layer(start, 100).unwrap();
        assert_eq!(shown(layer), shown(image.map_above(1, start, 100).unwrap()));
        let whole = image.map(start, 100).unwrap();
        assert_eq!(shown(whole), shown(image.map_above(4, start, 100).unwrap()));
    }
}

#[test]
fn a_closed_image_tells_nothing() {
    let disk = Kind::Child.disk(4);
    let image = open(&disk);
    image.close().unwrap();
    let kinds = [
        image.map_above(1, 0, 1).map(drop),
        image.block_status_above(1, 0, 1).map(drop),
        image.runs().map(drop),
        image.runs_above(1).map(drop),
    ];
    for result in kinds {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[test]
fn the_runs_end_with_the_first_error() {
    let extent = SparseImage::new(16 * 4).grain_sectors(16).data(0, [1]).data(1, [2]).descriptor("");
    let entry = extent.layout().entry(1);
    let disk = Disk::new(vec![Image::monolithic_sparse("disk.vmdk", extent.patch_u32(entry, 0x00ff_ffff))]);
    let image = open(&disk);
    let runs: Vec<_> = image.runs().unwrap().map(|run| run.map(|run| run.sectors).map_err(|e| e.kind())).collect();
    assert_eq!(runs, [Ok(16), Err(ErrorKind::Corrupt)]);
}
