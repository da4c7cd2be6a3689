//! What this crate reads of them, and what a check says.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use proptest::prelude::*;
use vmdk::{
    BlockDevice, CheckOptions, CheckReport, CreateOptions, Error, ErrorKind, FindingKind, OpenOptions, Severity,
    VmdkImage,
};

use crate::support::crash::CrashDisk;
use crate::support::directory::FaultDirectory;
use crate::support::disk::Image;
use crate::support::rng::Rng;
use crate::support::sesparse::chains::sesparse_chains;
use crate::support::sesparse::variants::{Damage, Variant, sound, variants};
use crate::support::sesparse::{SeSparseImage, TABLE_COVERS};
use crate::support::storage::{Countdown, Operation};
use crate::support::{SECTOR, byte_range, index};

fn disk_of(links: &[Image]) -> (CrashDisk, String) {
    let files = links.iter().flat_map(|link| &link.files).map(|(name, bytes)| (&**name, bytes.clone()));
    (CrashDisk::new(files), links.last().unwrap().name.clone())
}

fn content(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    content
}

fn try_check(disk: &CrashDisk, name: &str) -> Result<CheckReport, Error> {
    OpenOptions::new().check_in(name, disk, &CheckOptions::new(), &mut |_| ControlFlow::Continue(()))
}

fn check(disk: &CrashDisk, name: &str) -> CheckReport {
    try_check(disk, name).unwrap()
}

#[track_caller]
fn reads(links: &[Image], what: &str) {
    let (disk, name) = disk_of(links);
    let image = OpenOptions::new().open_with(&name, &disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(content(&image) == links.last().unwrap().content, "{what}");
    let report = check(&disk, &name);
    assert!(report.findings.is_empty(), "{what}: {:#?}", report.findings);
}

#[test]
fn chains_of_all_kinds_are_read_and_sound() {
    for seed in 0..3 {
        for (name, links) in sesparse_chains(seed) {
            reads(&links, &format!("{name}, seed {seed}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn any_layout_is_read_and_sound(
        capacity in prop_oneof![1..3 * TABLE_COVERS, TABLE_COVERS - 9..TABLE_COVERS + 9],
        seed in any::<u64>(),
        requests in prop::collection::vec((any::<u64>(), 1..300_u64), 12),
    ) {
        let rng = &mut Rng::new(seed);
        let extent = SeSparseImage::new(capacity).random(rng).random_layout(rng);
        let links = [Image::se_sparse_base("disk.vmdk", &extent)];
        reads(&links, &format!("{capacity} sectors, seed {seed}"));
        let (disk, name) = disk_of(&links);
        let image = OpenOptions::new().cached_tables(1).open_with(&name, &disk).unwrap();
        for (start, count) in requests {
            let start = start % capacity;
            let count = count.min(capacity - start);
            let mut bytes = vec![0xee; index(count) * SECTOR];
            image.read_sectors(start, &mut bytes).unwrap();
            prop_assert!(bytes == links[0].content[byte_range(start, count)]);
        }
    }
}

/// The sound descriptor with a damaged extent.
fn damaged(variant: &Variant) -> (CrashDisk, String) {
    let mut image = Image::se_sparse_base("disk.vmdk", &sound());
    let extent = image.files.iter_mut().find(|(name, _)| name.contains("sesparse")).unwrap();
    extent.1 = variant.extent.build();
    disk_of(&[image])
}

/// Of each sector what it shows; of those that are lost an error, but for what there is of a grain that was cut.
#[track_caller]
fn shows(image: &VmdkImage, variant: &Variant, lost: &[Range<u64>]) {
    let expected = variant.shows.content();
    let sectors = image.capacity_sectors();
    let mut errors = vec![0; lost.len()];
    for sector in (0..100).chain(TABLE_COVERS - 9..TABLE_COVERS + 20).chain(sectors - 20..sectors) {
        let mut bytes = [0xee; SECTOR];
        let read = image.read_sectors(sector, &mut bytes);
        match (read, lost.iter().position(|lost| lost.contains(&sector))) {
            (Err(error), Some(number)) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{}, sector {sector}: {error}", variant.name);
                errors[number] += 1;
            }
            (Err(error), None) => panic!("{}, sector {sector}: {error}", variant.name),
            (Ok(()), _) => {
                assert!(bytes[..] == expected[byte_range(sector, 1)], "{}, sector {sector}", variant.name);
            }
        }
    }
    assert!(errors.iter().all(|&errors| errors > 0), "{}: {errors:?} of {lost:?}", variant.name);
}

#[track_caller]
fn refused(opened: Result<VmdkImage, Error>, kinds: &[ErrorKind], word: &str, variant: &Variant) {
    let error = opened.map(drop).expect_err(&variant.name);
    assert!(kinds.contains(&error.kind()), "{}: {:?}: {error}", variant.name, error.kind());
    assert!(error.to_string().contains(word), "{}: {error}", variant.name);
}

#[test]
fn whatever_is_damaged_is_told_by_its_name_and_the_rest_is_read() {
    use ErrorKind::{Corrupt, NotVmdk, Unsupported};
    for variant in variants() {
        let (disk, name) = damaged(&variant);
        let open = || OpenOptions::new().open_with(&name, &disk);
        match &variant.damage {
            Damage::Magic => refused(open(), &[NotVmdk, Corrupt], "", &variant),
            Damage::Unsupported(_) | Damage::Reserved(_) => refused(open(), &[Unsupported], "seSparse", &variant),
            Damage::Capacity => refused(open(), &[Corrupt], "", &variant),
            Damage::Region(_) => refused(open(), &[Corrupt], "seSparse header", &variant),
            Damage::VolatileMagic => refused(open(), &[Corrupt], "magic", &variant),
            Damage::Journal => {
                refused(open(), &[Unsupported], "replayJournal", &variant);
                let image = OpenOptions::new().ignore_journal(true).open_with(&name, &disk).unwrap();
                shows(&image, &variant, &[]);
                let told = image.chain()[0].warnings().iter().any(|warning| warning.contains("journal"));
                assert!(told, "{:?}", image.chain()[0].warnings());
                let error = OpenOptions::new().ignore_journal(true).write(true).open_with(&name, &disk).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                // What ESX replays later would change under a child.
                let error = image.create_child_in("child.vmdk", &disk, &CreateOptions::new()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
            }
            Damage::Directory(lost) | Damage::Entry(lost) => shows(&open().unwrap(), &variant, lost),
            Damage::Disagreement | Damage::Harmless => shows(&open().unwrap(), &variant, &[]),
        }
        let report = match try_check(&disk, &name) {
            Ok(report) => report,
            // What this is nobody knows, so nobody can say what is wrong with it.
            Err(error) => {
                assert!([NotVmdk, Unsupported].contains(&error.kind()), "{}: {error}", variant.name);
                continue;
            }
        };
        match variant.damage {
            Damage::Harmless => assert!(report.is_clean(), "{}: {:#?}", variant.name, report.findings),
            Damage::Disagreement => assert!(!report.findings.is_empty(), "{}", variant.name),
            _ => assert!(!report.is_clean(), "{}: {:#?}", variant.name, report.findings),
        }
    }
}

#[test]
fn a_check_says_what_disagrees_and_where() {
    let extent = sound();
    let layout = extent.layout();
    let group = |first: u64| layout.bitmap_bit(first).0 / 16 * 16;
    let shared = extent.layout().slots[&0];
    let rows = [
        ("bitmap", extent.clone().patch(group(0), [0; 16]), FindingKind::Bitmap, Severity::Note),
        ("back map", extent.clone().patch_u64(layout.back_map_entry(1), 0), FindingKind::BackMap, Severity::Note),
        (
            "two grains in one",
            extent.clone().patch_u64(layout.entry(1), crate::support::sesparse::allocated(shared)),
            FindingKind::GrainShared,
            Severity::Corruption,
        ),
        (
            "a state",
            extent.clone().patch_u64(layout.entry(1), 7 << 60),
            FindingKind::GrainUnknown,
            Severity::Corruption,
        ),
        (
            "past the end",
            extent.clone().patch_u64(layout.entry(1), crate::support::sesparse::allocated(500)),
            FindingKind::GrainPastEnd,
            Severity::Corruption,
        ),
    ];
    for (what, extent, kind, severity) in rows {
        let variant = Variant { name: what.to_owned(), damage: Damage::Harmless, shows: extent.layer(), extent };
        let (disk, name) = damaged(&variant);
        let report = check(&disk, &name);
        let found = report.findings.iter().find(|finding| finding.kind == kind);
        let found = found.unwrap_or_else(|| panic!("{what}: {:#?}", report.findings));
        assert_eq!((found.severity, found.remedy), (severity, None), "{what}");
        assert!(found.host.is_some(), "{what}");
    }
}

#[test]
fn it_is_not_written_to_and_a_child_of_it_is() {
    let links = sesparse_chains(5).into_iter().find(|(name, _)| name.contains("vmfs")).unwrap().1;
    let (disk, name) = disk_of(&links);
    let before: Vec<_> = disk.names().into_iter().map(|name| disk.live(&name)).collect();
    let error = OpenOptions::new().write(true).open_with(&name, &disk).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("seSparse") && error.to_string().contains("child"), "{error}");
    let base = OpenOptions::new().open_with(&name, &disk).unwrap();
    let child = base.create_child_in("child.vmdk", &disk, &CreateOptions::new()).unwrap();
    let mut expected = links.last().unwrap().content.clone();
    for sector in [0, 9, 4097, base.capacity_sectors() - 1] {
        child.write_sectors(sector, &[7; SECTOR]).unwrap();
        expected[byte_range(sector, 1)].fill(7);
    }
    child.close().unwrap();
    drop((child, base));
    let child = OpenOptions::new().open_with("child.vmdk", &disk).unwrap();
    assert!(content(&child) == expected);
    drop(child);
    let after: Vec<_> =
        disk.names().into_iter().filter(|name| !name.starts_with("child")).map(|name| disk.live(&name)).collect();
    assert!(before == after, "nothing of it has changed");
}

/// What lies in a row in the file is read at once, also from one table to the next.
#[test]
fn sequential_reads_are_merged() {
    let rng = &mut Rng::new(9);
    let grains = 2 * TABLE_COVERS / 8;
    let extent = (0..grains).fold(SeSparseImage::new(2 * TABLE_COVERS), |extent, grain| extent.data(grain, [7; 9]));
    let links = [Image::se_sparse_base("disk.vmdk", &extent)];
    let (disk, name) = disk_of(&links);
    let countdown = Arc::<Countdown>::default();
    let image = OpenOptions::new().open_with(&name, &FaultDirectory::new(disk, &countdown)).unwrap();
    let mut bytes = vec![0; 2048 * SECTOR];
    let reads = |start: u64, bytes: &mut [u8]| {
        countdown.disarm();
        image.read_sectors(start, bytes).unwrap();
        assert!(*bytes == links[0].content[byte_range(start, 2048)], "{start}");
        countdown.seen().iter().filter(|call| matches!(call, Operation::Read)).count()
    };
    let far = TABLE_COVERS - 1000;
    assert_eq!(reads(far, &mut bytes), 3, "two tables, and all of the data");
    for start in [far, 0, 3 * rng.below(8000), TABLE_COVERS + 5] {
        assert_eq!(reads(start, &mut bytes), 1, "{start}: the data");
    }
}
