//! Whatever bytes a stream has, reading them from one end to the other, or at random, gives grains or a clear error.
//!
//! The oracle: grains lie within the disk, there are no more of them than sectors in the input, each kind of error is
//! one of the format, and one thread and three see the same. What is salvaged is a beginning of what is there. At
//! random, a stream that is whole has the same content by its markers as from one end to the other, and a copy has what
//! is read. Memory is bounded by the limits that the fuzzer is run with (`-rss_limit_mb`, `-malloc_limit_mb`). Threads
//! give their last bytes back a little after they are waited for, which looks like a leak: run it with
//! `-detect_leaks=0`.

#![no_main]

use std::ops::ControlFlow;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmdk::{BlockDevice, ErrorKind, MemoryStorage, OpenOptions, RawTarget, Result, Storage, StreamReader};
use vmdk_fuzz::bounded::BoundedStorage;

/// Bytes of the disk that are read at most: large grains compress well.
const MOST: usize = 32 << 20;

/// Sectors of disks that are copied.
const LARGEST_DISK: u64 = 40_000;

fuzz_target!(|input: &[u8]| {
    let alone = drain(input, 1, false);
    assert_eq!(alone, drain(input, 3, false), "threads change what is read");
    let salvaged = drain(input, 1, true);
    if alone.is_whole() {
        assert_eq!(alone.grains, salvaged.grains, "salvage changes a stream that is whole");
    }
    let copied = copy(input);
    let found = random(input, true);
    // With as many grains, each of them once, there is nothing about which the two could disagree.
    if let (Some((grains, copied)), Some((found, content))) = (copied, found)
        && grains == found
    {
        assert!(copied == content, "the markers lead to something else at random");
    }
    random(input, false);
});

/// What is read by the tables, or by the markers, as far as there is a small disk that can be read as a whole and is
/// nothing but one stream; and its grains, if they were counted.
fn random(input: &[u8], salvage: bool) -> Option<(u64, Vec<u8>)> {
    let file: Arc<dyn Storage> = Arc::new(MemoryStorage::new(input));
    let options = OpenOptions::new().salvage(salvage).allow_raw_deflate(input.len() % 2 == 0);
    let options = options.grain_cache_bytes(input.len() % 3 * 100_000);
    let image = match options.open_with("disk", &|_: &str| Some(Arc::clone(&file))) {
        Ok(image) => image,
        Err(error) => {
            check_kind(&error);
            return None;
        }
    };
    let capacity = image.capacity_sectors();
    let extents = image.chain()[0].extents();
    let found = extents[0].salvaged();
    let grains = found.as_ref().filter(|_| extents.len() == 1 && image.chain().len() == 1).map(|found| found.grains);
    assert!(
        found.as_ref().is_none_or(|found| found.grains <= input.len() as u64 / 512 && found.end_sector <= capacity)
    );
    if capacity > LARGEST_DISK {
        return None;
    }
    let mut content = vec![0xee; capacity as usize * 512];
    let whole = image.read_sectors(0, &mut content);
    let mut pieces = vec![0xdd; content.len()];
    let read = |(number, piece): (u64, &mut [u8])| image.read_sectors(number * 8, piece);
    let by_pieces: Result<Vec<()>> = (0..).zip(pieces.chunks_mut(4096)).map(read).collect();
    let target = BoundedStorage::new(Vec::new());
    let copied = image.copy_to_raw(&target, RawTarget::Empty, 3, &mut |_| ControlFlow::Continue(()));
    assert_eq!(
        (whole.is_ok(), whole.is_ok()),
        (by_pieces.is_ok(), copied.is_ok()),
        "{whole:?} {by_pieces:?} {copied:?}"
    );
    match whole {
        Ok(()) => {
            assert!(content == pieces && content == target.into_bytes());
            Some((grains?, content))
        }
        Err(error) => {
            check_kind(&error);
            None
        }
    }
}

fn check_kind(error: &vmdk::Error) {
    let caller =
        matches!(error.kind(), ErrorKind::OutOfRange | ErrorKind::Misaligned | ErrorKind::Closed | ErrorKind::Io);
    assert!(!caller && !error.to_string().is_empty(), "{error}");
}

/// What came of a stream: where its grains begin with a sum of each, and the error.
#[derive(Debug, PartialEq, Eq)]
struct Drained {
    grains: Vec<(u64, u64)>,
    error: Option<(ErrorKind, String)>,
}

impl Drained {
    fn is_whole(&self) -> bool {
        self.error.is_none()
    }
}

fn drain(input: &[u8], threads: usize, salvage: bool) -> Drained {
    let mut grains = Vec::new();
    let error = read(input, threads, salvage, &mut grains).err();
    if let Some(error) = &error {
        let kind = error.kind();
        let is_of_the_file = matches!(
            kind,
            ErrorKind::Corrupt
                | ErrorKind::NotVmdk
                | ErrorKind::Incomplete
                | ErrorKind::Unsupported
                | ErrorKind::Cancelled
        );
        assert!(is_of_the_file, "{kind:?}: {error}");
    }
    Drained { grains, error: error.map(|error| (error.kind(), error.to_string())) }
}

fn read(input: &[u8], threads: usize, salvage: bool, grains: &mut Vec<(u64, u64)>) -> Result<()> {
    let mut stream = StreamReader::new(input)?.salvage(salvage).allow_raw_deflate(input.len() % 2 == 0);
    let capacity = stream.capacity_sectors();
    let mut left = MOST;
    let summary = stream.for_each_grain(threads, &mut |grain| {
        let sectors = grain.bytes.len() as u64 / 512;
        assert!(sectors > 0 && grain.bytes.len() % 512 == 0);
        assert!(grain.start_sector.checked_add(sectors).is_some_and(|end| end <= capacity));
        assert!(grains.len() < input.len() / 512);
        grains.push((grain.start_sector, grain.bytes.iter().map(|&byte| u64::from(byte)).sum()));
        left = left.checked_sub(grain.bytes.len()).ok_or_else(|| vmdk::Error::new(ErrorKind::Cancelled, "enough"))?;
        Ok(())
    })?;
    assert!(summary.complete || salvage);
    assert_eq!(summary.complete, summary.missing.is_none());
    Ok(())
}

/// A file, a device full of something else and, where it goes, a pipe get the same disk.
fn copy(input: &[u8]) -> Option<(u64, Vec<u8>)> {
    let open = || StreamReader::new(input).ok().filter(|stream| stream.capacity_sectors() <= LARGEST_DISK);
    let stream = open()?;
    let len = stream.capacity_sectors() as usize * 512;
    let targets = [(RawTarget::Empty, Vec::new()), (RawTarget::Used, vec![0xee; len])];
    let copied = targets.map(|(kind, before)| {
        let target = BoundedStorage::new(before);
        let done = open()?.copy_to_raw(&target, kind, 1, &mut |_| ControlFlow::Continue(()));
        done.ok().map(|summary| (summary.grains, target.into_bytes()))
    });
    assert!(copied[0] == copied[1], "a used target differs");
    let mut output = Vec::new();
    let piped = open().map(|mut stream| stream.copy_to_writer(&mut output, 1, &mut |_| ControlFlow::Continue(())));
    if let (Some(Ok(_)), Some(copied)) = (piped, &copied[0]) {
        assert!(output == copied.1, "a pipe differs");
    }
    let [copied, _] = copied;
    copied
}
