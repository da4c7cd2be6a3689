//! Damage at random: an image with any bytes changed opens or does not, reads or does not, and always says why.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use vmdk::{
    BlockDevice, BlockStatus, Error, ErrorKind, MappedRun, Mapping, MemoryStorage, OpenOptions, Storage, StorageId,
    VmdkImage,
};

use support::damage::{Files, damage, images};
use support::model::is_zero;
use support::{SECTOR, index};

/// A storage in memory that knows its blocks of zeros for holes, as a host file may.
#[derive(Debug)]
struct Holey(MemoryStorage);

impl Storage for Holey {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.0.punch_hole(range)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        const BLOCK: u64 = 1024;
        let (bytes, len) = (self.0.to_vec(), self.0.len()?);
        let is_data = |block: &u64| bytes.chunks(index(BLOCK)).nth(index(*block)).is_some_and(|block| !is_zero(block));
        let Some(first) = (offset / BLOCK..len.div_ceil(BLOCK)).find(is_data) else { return Ok(None) };
        let end = (first..len.div_ceil(BLOCK)).find(|block| !is_data(block)).map_or(len, |block| block * BLOCK);
        Ok(Some(offset.max(first * BLOCK)..end))
    }

    fn id(&self) -> Option<StorageId> {
        self.0.id()
    }
}

fn open(files: &Files, options: &OpenOptions) -> vmdk::Result<VmdkImage> {
    let storage = |bytes: &Vec<u8>| Arc::new(Holey(MemoryStorage::new(bytes.clone()))) as Arc<dyn Storage>;
    let map: HashMap<String, _> = files.iter().map(|(name, bytes)| (name.clone(), storage(bytes))).collect();
    options.open_with(&files.last().unwrap().0, &map)
}

/// An error that a broken image may give: never one of the host, which did nothing wrong, and never of the caller.
fn check_error(error: &Error, allowed: &[ErrorKind]) {
    assert!(allowed.contains(&error.kind()), "{:?}: {error}", error.kind());
    assert!(error.file().is_some(), "{error}");
    let text = error.to_string();
    assert!(text.len() < 4000 && !text.contains(['\u{1b}', '\0', '\n']), "{text:?}");
}

const OPENING: [ErrorKind; 9] = [
    ErrorKind::NotVmdk,
    ErrorKind::Incomplete,
    ErrorKind::Corrupt,
    ErrorKind::Unsupported,
    ErrorKind::NameRefused,
    ErrorKind::NotFound,
    ErrorKind::ParentMissing,
    ErrorKind::ContentIdMismatch,
    ErrorKind::BadChain,
];

/// Uses an opened image in every way. What is in range is there or corrupt, what is not is out of range.
fn exercise(image: &VmdkImage) {
    let capacity = image.capacity_sectors();
    for start in [capacity, capacity + 1, u64::MAX] {
        let kinds = [
            image.read_sectors(start, &mut [0; SECTOR]).unwrap_err().kind(),
            image.block_status(start, 1).unwrap_err().kind(),
            image.map(start, u64::MAX).map(|_| ()).unwrap_err().kind(),
            image.map_layer(start, 1).map(|_| ()).unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::OutOfRange; 4]);
    }
    let _ = (image.geometry(), image.adapter_type(), image.disk_id(), image.create_type(), image.content_id());
    assert!(image.chain().len() <= 64 && !image.host_files().is_empty());
    image.allocated_bytes().unwrap();
    let mut sector = 0;
    // A damaged number can make a disk of many exabytes; its beginning will do.
    for _ in 0..300 {
        if sector >= capacity {
            break;
        }
        sector += exercise_run(image, sector, capacity - sector);
    }
    if let Err(error) = image.read_sectors(capacity - 1, &mut [0; SECTOR]) {
        check_error(&error, &[ErrorKind::Corrupt]);
    }
    if capacity <= 4096 {
        whole_reads_equal_partial_ones(image, index(capacity));
    }
}

/// Looks at the run from `sector` on in every way; its length.
fn exercise_run(image: &VmdkImage, sector: u64, rest: u64) -> u64 {
    let mut first = [0xee; SECTOR];
    let read = image.read_sectors(sector, &mut first);
    let run = match image.map(sector, u64::MAX) {
        Ok(run) => run,
        Err(error) => {
            check_error(&error, &[ErrorKind::Corrupt]);
            check_error(&read.unwrap_err(), &[ErrorKind::Corrupt]);
            assert!(image.block_status(sector, 1).is_err());
            return 1;
        }
    };
    assert!((1..=rest).contains(&run.sectors), "{} of {rest} sectors", run.sectors);
    assert!(run.depth < image.chain().len());
    if let Mapping::Compressed { .. } = run.mapping {
        return exercise_grain(image, sector, &run, read);
    }
    read.unwrap();
    // A run is one from its first sector to its last.
    for inside in [run.sectors / 2, run.sectors - 1] {
        let mut there = [0xee; SECTOR];
        image.read_sectors(sector + inside, &mut there).unwrap();
        assert!(matches!(run.mapping, Mapping::Data { .. }) || there == [0; SECTOR]);
    }
    let (status, known) = image.block_status(sector, u64::MAX).unwrap();
    let expected = match run.mapping {
        Mapping::Data { storage, offset } => {
            let mut found = vec![0; SECTOR];
            let present = storage.len().unwrap().saturating_sub(offset).min(SECTOR as u64);
            storage.read_exact_at(&mut found[..index(present)], offset).unwrap();
            assert!(present > 0 && found == first);
            BlockStatus::Data
        }
        Mapping::Zero => BlockStatus::Zero,
        _ => BlockStatus::Hole,
    };
    // Holes of the host are known to be zero, wherever they are in a run of data.
    let refined = expected == BlockStatus::Data && status != BlockStatus::Hole && known <= run.sectors;
    assert!(refined || (status, known) == (expected, run.sectors), "{status:?} {known}, {expected:?} {}", run.sectors);
    if status != BlockStatus::Data {
        let mut last = [0xee; SECTOR];
        image.read_sectors(sector + known - 1, &mut last).unwrap();
        assert_eq!((first, last), ([0; SECTOR], [0; SECTOR]));
    }
    run.sectors
}

/// A compressed grain is where the map says, but whether it can be read is seen when it is.
fn exercise_grain(image: &VmdkImage, sector: u64, run: &MappedRun, read: vmdk::Result<()>) -> u64 {
    assert_eq!(image.block_status(sector, u64::MAX).unwrap(), (BlockStatus::Data, run.sectors));
    let last = image.read_sectors(sector + run.sectors - 1, &mut [0; SECTOR]);
    match (read, last) {
        (Ok(()), Ok(())) => {}
        (Err(first), Err(last)) => [first, last].iter().for_each(|error| check_error(error, &[ErrorKind::Corrupt])),
        (first, last) => panic!("a grain is damaged or not: {first:?}, {last:?}"),
    }
    run.sectors
}

fn whole_reads_equal_partial_ones(image: &VmdkImage, capacity: usize) {
    let mut whole = vec![0xee; capacity * SECTOR];
    let all = image.read_sectors(0, &mut whole);
    let mut parts = vec![0xdd; capacity * SECTOR];
    let chunks = (0..).step_by(7).zip(parts.chunks_mut(7 * SECTOR));
    let partial: Result<Vec<()>, Error> = chunks.map(|(start, chunk)| image.read_sectors(start, chunk)).collect();
    match all {
        Ok(()) => assert!(partial.is_ok() && whole == parts),
        Err(error) => {
            check_error(&error, &[ErrorKind::Corrupt]);
            assert!(partial.is_err());
        }
    }
}

#[test]
fn every_image_is_whole_before_it_is_damaged() {
    for files in images() {
        exercise(&open(files, &OpenOptions::new()).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn a_damaged_image_is_an_error_or_a_disk_that_keeps_its_promises(
        image in 0..images().len(),
        damages in prop::collection::vec((any::<usize>(), damage()), 1..4),
        forced in any::<bool>(),
        salvage in any::<bool>(),
    ) {
        let mut files = images()[image].clone();
        for (file, damage) in &damages {
            let count = files.len();
            damage.apply(&mut files[file % count].1);
        }
        let options = OpenOptions::new().ignore_cid_mismatch(forced).ignore_newline_check(forced);
        let options = options.salvage(forced && salvage).allow_raw_deflate(forced);
        match open(&files, &options.use_redundant_tables(forced)) {
            Ok(image) => exercise(&image),
            Err(error) => check_error(&error, &OPENING),
        }
    }
}
