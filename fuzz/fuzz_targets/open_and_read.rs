//! Whatever the files of an image hold, opening and reading it gives content or a clear error.
//!
//! The oracle: what is in range is `Ok`, or an error of the format or of the host, never one of the caller's; what is
//! out of range is `OutOfRange`; a status has at least one sector and never more than were asked for; zeros read as
//! zeros. Memory is bounded by the limits that the fuzzer is run with (`-rss_limit_mb`, `-malloc_limit_mb`).

#![no_main]

use std::io::IoSliceMut;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmdk::{BlockDevice, BlockStatus, ErrorKind, MemoryStorage, OpenOptions, Storage, VmdkImage};

/// Sectors of the largest read: two grains and a bit.
const MOST: u64 = 300;

fuzz_target!(|input: &[u8]| {
    let files = vmdk_fuzz::unpack(input);
    let Some((first, _)) = files.first() else { return };
    let storages: Vec<(String, Arc<dyn Storage>)> = files
        .iter()
        .map(|(name, content)| (name.clone(), Arc::new(MemoryStorage::new(content.clone())) as Arc<dyn Storage>))
        .collect();
    // A name that nobody has leads to the image itself: loops should be easy to come by.
    let resolver = |name: &str| {
        let found = storages.iter().find(|(known, _)| known == name).or(storages.first());
        found.map(|(_, storage)| Arc::clone(storage))
    };
    let options =
        OpenOptions::new().ignore_cid_mismatch(input.len() % 2 == 0).use_redundant_tables(input.len() % 3 == 0);
    match options.open_with(first, &resolver) {
        Ok(image) => read(&image),
        Err(error) => {
            let kind = error.kind();
            let caller = matches!(kind, ErrorKind::OutOfRange | ErrorKind::Misaligned | ErrorKind::Closed);
            assert!(!caller, "opening: {error}");
            assert!(!error.to_string().is_empty());
        }
    }
});

fn read(image: &VmdkImage) {
    let capacity = image.capacity_sectors();
    let mut buf = vec![0; MOST as usize * 512];
    // The boundaries of extents, the grains behind them, and the ends.
    let starts = image.chain().iter().flat_map(|link| link.extents()).map(|extent| extent.start_sector()).take(64);
    let ends =
        [0, 1, 127, 128, 65535, 65536, capacity / 2, capacity.saturating_sub(1), capacity, capacity + 1, u64::MAX];
    let places: Vec<u64> = starts.flat_map(|start| [start, start.saturating_sub(1)]).chain(ends).collect();
    for &start in &places {
        for count in [0, 1, 2, MOST] {
            check_read(image, start, &mut buf[..count as usize * 512]);
        }
    }
    let mut sector = 0;
    for _ in 0..200 {
        let max = if sector % 2 == 0 { u64::MAX } else { MOST };
        match image.block_status(sector, max) {
            Ok((status, count)) => {
                assert!(count >= 1 && count <= max.min(capacity - sector), "{count} sectors at {sector}");
                if status != BlockStatus::Data {
                    let zeros = &mut buf[..count.min(MOST) as usize * 512];
                    zeros.fill(1);
                    image.read_sectors(sector, zeros).expect("what is known to be zero can be read");
                    assert!(zeros.iter().all(|&byte| byte == 0), "{status:?} at {sector}");
                }
                assert!(image.map(sector, max).expect("the status was known").sectors >= count.min(1));
                sector += count;
            }
            Err(error) if sector >= capacity => {
                assert_eq!(error.kind(), ErrorKind::OutOfRange);
                break;
            }
            Err(error) => {
                assert!(is_of_the_files(error.kind()), "{error}");
                sector += 128;
            }
        }
    }
}

fn check_read(image: &VmdkImage, start: u64, buf: &mut [u8]) {
    let count = buf.len() as u64 / 512;
    let in_range = start.checked_add(count).is_some_and(|end| end <= image.capacity_sectors());
    let plain = image.read_sectors(start, buf);
    match &plain {
        Ok(()) => assert!(in_range, "{count} sectors at {start}"),
        Err(error) if in_range => assert!(is_of_the_files(error.kind()), "{error}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfRange),
    }
    let mut again = vec![0; buf.len()];
    let middle = buf.len() / 3;
    let (head, tail) = again.split_at_mut(middle);
    let vectored = image.read_sectors_vectored(start, &mut [IoSliceMut::new(head), IoSliceMut::new(tail)]);
    assert_eq!(plain.is_ok(), vectored.is_ok());
    if plain.is_ok() {
        assert!(again == buf, "a vectored read differs at {start}");
    }
}

fn is_of_the_files(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Unsupported)
}
