//! Whatever bytes come out of a pipe, reading them as a stream gives grains or a clear error.
//!
//! The oracle: grains lie within the disk, there are no more of them than sectors in the input, each kind of error is one of
//! the format, and one thread and three see the same. What is salvaged is a beginning of what is there. Memory is bounded by
//! the limits that the fuzzer is run with (`-rss_limit_mb`, `-malloc_limit_mb`). Threads give their last bytes back a little
//! after they are waited for, which looks like a leak: run it with `-detect_leaks=0`.

#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use vmdk::{ErrorKind, RawTarget, Result, StreamReader};
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
    copy(input);
});

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
fn copy(input: &[u8]) {
    let open = || StreamReader::new(input).ok().filter(|stream| stream.capacity_sectors() <= LARGEST_DISK);
    let Some(stream) = open() else { return };
    let len = stream.capacity_sectors() as usize * 512;
    let targets = [(RawTarget::Empty, Vec::new()), (RawTarget::Used, vec![0xee; len])];
    let copied = targets.map(|(kind, before)| {
        let target = BoundedStorage::new(before);
        let done = open()?.copy_to_raw(&target, kind, 1, &mut |_| ControlFlow::Continue(()));
        done.ok().map(|_| target.into_bytes())
    });
    assert!(copied[0] == copied[1], "a used target differs");
    let mut output = Vec::new();
    let piped = open().map(|mut stream| stream.copy_to_writer(&mut output, 1, &mut |_| ControlFlow::Continue(())));
    if let (Some(Ok(_)), Some(copied)) = (piped, &copied[0]) {
        assert!(output == *copied, "a pipe differs");
    }
}
