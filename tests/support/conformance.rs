//! The contract of [`BlockDevice`] as a suite for any implementation.
//!
//! [`check`] reads only (of a device that takes no writes it also makes sure of that); [`check_writes`] writes all
//! over the device. Both panic at the first broken promise, with the call that broke it.

use std::fmt::Debug;
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::thread;

use vmdk::{BlockDevice, BlockStatus, ErrorKind, Result, WriteFlags};

use super::model::is_zero;
use super::rng::Rng;
use super::{SECTOR, byte_range, index};

/// A buffer is filled with this before a read, so that bytes the device leaves out are seen.
const UNREAD: u8 = 0xa5;
/// The most boundaries that one check looks at; more of them are sampled.
const MOST_BOUNDARIES: usize = 64;
/// The most sectors for which a buffer is made only to be refused: 64 MiB.
const MOST_MEMORY: u64 = 64 << 11;

/// Checks all that can be checked without a write that succeeds. `content` is what the device must hold.
pub fn check(device: &dyn BlockDevice, content: &[u8]) {
    check_at(device, content, &[]);
}

/// The same, with sectors of which the implementation knows that something changes there: ends of extents, of tables,
/// of parents.
pub fn check_at(device: &dyn BlockDevice, content: &[u8], boundaries: &[u64]) {
    assert_eq!(content.len() % SECTOR, 0, "the expected content is not a whole number of sectors");
    assert_eq!(device.capacity_sectors(), (content.len() / SECTOR) as u64, "capacity");
    limits_make_sense(device);
    reads_check_their_arguments(device);
    writes_check_their_arguments(device);
    the_whole_content_is_there(device, content);
    block_status_tells_the_truth(device, content);
    let mut boundaries = boundaries.to_vec();
    boundaries.extend(natural_boundaries(device));
    reads_around_boundaries_are_exact(device, content, &boundaries);
    random_reads_are_exact(device, content, &mut Rng::new(1), 200);
    vectored_reads_equal_plain_ones(device, content);
    pointers_are_devices(device, content);
    concurrent_reads_are_exact(device, content);
    if device.limits().read_only {
        device.flush().expect("flush of a device that takes no writes");
        // After all the refused writes.
        the_whole_content_is_there(device, content);
    }
}

/// Checks the writing side. `content` is what the device holds now, and what it holds afterwards: compare again after
/// a reopening.
pub fn check_writes(device: &dyn BlockDevice, content: &mut [u8]) {
    assert!(!device.limits().read_only, "the device takes no writes");
    assert_eq!(device.capacity_sectors(), (content.len() / SECTOR) as u64, "capacity");
    writes_check_their_arguments(device);
    the_whole_content_is_there(device, content);
    if content.is_empty() {
        return device.flush().expect("flush");
    }
    let rng = &mut Rng::new(2);
    writes_around_boundaries_are_exact(device, content, rng);
    vectored_writes_equal_plain_ones(device, content, rng);
    write_zeroes_zeroes(device, content, rng);
    discard_leaves_old_content_or_zeros(device, content, rng);
    random_writes_are_exact(device, content, rng);
    disjoint_concurrent_writes_all_arrive(device, content, rng);
    overlapping_concurrent_writes_do_not_mix_in_a_sector(device, content);
    device.flush().expect("flush");
    device.flush().expect("flush with nothing to do");
    check(device, content);
}

fn limits_make_sense(device: &dyn BlockDevice) {
    let limits = *device.limits();
    assert_eq!(limits.sector_size, 512, "{limits:?}");
    assert!(limits.physical_sector_size.is_power_of_two(), "{limits:?}");
    assert!(limits.physical_sector_size >= limits.sector_size, "{limits:?}");
    assert!(limits.optimal_io_sectors >= 1, "{limits:?}");
    assert_eq!(*device.limits(), limits, "limits are constant");
}

/// Transfers by start and length in bytes, and how they must end on a device that takes them.
fn transfers(capacity: u64) -> Vec<(u64, usize, Option<ErrorKind>)> {
    use ErrorKind::{Misaligned, OutOfRange};
    // Sectors whose byte offset does not fit into 64 bits, signed or not, and would wrap to somewhere on the disk.
    let (wraps, wraps_signed) = (1 << 55, 1 << 54);
    let mut transfers = vec![(0, 0, None), (capacity, 0, None)];
    for start in [capacity + 1, wraps_signed, wraps, wraps + 1, u64::MAX - 1, u64::MAX] {
        // Also what is empty or misaligned: the range comes first.
        transfers.extend([0, 1, 511, 512, 513, 1024].map(|len| (start, len, Some(OutOfRange))));
    }
    transfers.extend([1, 512, 4096].map(|len| (capacity, len, Some(OutOfRange))));
    if let Some(last) = capacity.checked_sub(1) {
        transfers.extend([513, 1024].map(|len| (last, len, Some(OutOfRange))));
        transfers.extend([(0, 1), (0, 511), (last, 1), (last, 511)].map(|(start, len)| (start, len, Some(Misaligned))));
        if capacity <= MOST_MEMORY {
            transfers.push((0, index(capacity + 1) * SECTOR, Some(OutOfRange)));
        }
    }
    if capacity >= 2 {
        transfers.extend([513, 1023].map(|len| (0, len, Some(Misaligned))));
    }
    transfers
}

/// Ranges by start and count of sectors, and whether they are on the device.
fn ranges(capacity: u64) -> Vec<(u64, u64, bool)> {
    let mut ranges = vec![(0, 0, true), (capacity, 0, true), (capacity, 1, false), (0, capacity + 1, false)];
    ranges.extend([capacity + 1, u64::MAX - 1, u64::MAX].map(|start| (start, 0, false)));
    ranges.extend([1, capacity, u64::MAX].map(|start| (start, u64::MAX, false)));
    // Sums that wrap to 0, to 1 and to the capacity.
    ranges.extend([(u64::MAX, 1, false), (u64::MAX, 2, false)]);
    ranges.push((u64::MAX, capacity + 1, false));
    ranges
}

#[track_caller]
fn expect_kind(result: Result<()>, kinds: &[ErrorKind], call: impl Debug) {
    match result {
        Ok(()) if kinds.is_empty() => {}
        Ok(()) => panic!("{call:?} succeeded instead of {kinds:?}"),
        Err(error) => assert!(kinds.contains(&error.kind()), "{call:?} gave {error:?} instead of {kinds:?}"),
    }
}

fn reads_check_their_arguments(device: &dyn BlockDevice) {
    for (start, len, kind) in transfers(device.capacity_sectors()) {
        let kinds = kind.as_slice();
        let mut buf = vec![UNREAD; len];
        expect_kind(device.read_sectors(start, &mut buf), kinds, ("read_sectors", start, len));
        let (head, tail) = buf.split_at_mut(len / 3);
        let mut bufs = [IoSliceMut::new(head), IoSliceMut::new(&mut []), IoSliceMut::new(tail)];
        expect_kind(device.read_sectors_vectored(start, &mut bufs), kinds, ("read_sectors_vectored", start, len));
        if len == 0 {
            expect_kind(device.read_sectors_vectored(start, &mut []), kinds, ("read_sectors_vectored", start, "none"));
        }
    }
}

/// Calls that must change nothing. What fails on a writable device fails on any; what would succeed is refused by one
/// that takes no writes, even if it would do nothing.
fn writes_check_their_arguments(device: &dyn BlockDevice) {
    let read_only = device.limits().read_only;
    // Whether a misaligned write to such a device is the one or the other, the contract leaves open.
    let allowed = |kind: Option<ErrorKind>| match kind {
        None if read_only => vec![ErrorKind::ReadOnly],
        Some(ErrorKind::Misaligned) if read_only => vec![ErrorKind::Misaligned, ErrorKind::ReadOnly],
        kind => kind.into_iter().collect(),
    };
    let mut calls = transfers(device.capacity_sectors());
    if read_only && device.capacity_sectors() > 0 {
        calls.extend([(0, SECTOR, None), (device.capacity_sectors() - 1, SECTOR, None)]);
    }
    for (start, len, kind) in calls {
        let kinds = &allowed(kind);
        let buf = vec![!UNREAD; len];
        expect_kind(device.write_sectors(start, &buf), kinds, ("write_sectors", start, len));
        let (head, tail) = buf.split_at(len / 3);
        let bufs = [IoSlice::new(head), IoSlice::new(&[]), IoSlice::new(tail)];
        for flags in [WriteFlags::NONE, WriteFlags::FUA] {
            let call = ("write_sectors_vectored", start, len, flags);
            expect_kind(device.write_sectors_vectored(start, &bufs, flags), kinds, call);
        }
    }
    for (start, count, on_device) in ranges(device.capacity_sectors()) {
        let kinds = &allowed(if on_device { None } else { Some(ErrorKind::OutOfRange) });
        expect_kind(device.discard(start, count), kinds, ("discard", start, count));
        for may_unmap in [false, true] {
            let call = ("write_zeroes", start, count, may_unmap);
            expect_kind(device.write_zeroes(start, count, may_unmap), kinds, call);
        }
    }
}

fn the_whole_content_is_there(device: &dyn BlockDevice, content: &[u8]) {
    // In one read, and in reads that no grain size is a multiple of.
    expect_read(device, 0, device.capacity_sectors(), content);
    let mut start = 0;
    while start < device.capacity_sectors() {
        let count = (device.capacity_sectors() - start).min(1021);
        expect_read(device, start, count, content);
        start += count;
    }
}

/// Reads the range and compares it with its part of the content.
#[track_caller]
fn expect_read(device: &dyn BlockDevice, start: u64, count: u64, content: &[u8]) {
    let mut buf = vec![UNREAD; index(count) * SECTOR];
    device.read_sectors(start, &mut buf).unwrap_or_else(|error| panic!("read of {count} from {start}: {error:?}"));
    expect_same(&buf, &content[byte_range(start, count)], start, "read");
}

#[track_caller]
fn expect_same(found: &[u8], expected: &[u8], start: u64, what: &str) {
    if found == expected {
        return;
    }
    if let Some(place) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
        let (found, expected) = (found[place], expected[place]);
        let sector = start + (place / SECTOR) as u64;
        let byte = place % SECTOR;
        panic!("{what} from {start}: byte {byte} of sector {sector} is {found:#04x} instead of {expected:#04x}");
    }
}

fn block_status_tells_the_truth(device: &dyn BlockDevice, content: &[u8]) {
    let capacity = device.capacity_sectors();
    for (start, max) in
        [(0, 0), (capacity, 0), (capacity, 1), (capacity, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX)]
    {
        let result = device.block_status(start, max).map(|_| ());
        expect_kind(result, &[ErrorKind::OutOfRange], ("block_status", start, max));
    }
    if let Some(last) = capacity.checked_sub(1) {
        expect_kind(device.block_status(last, 0).map(|_| ()), &[ErrorKind::OutOfRange], ("block_status", last, 0));
    }
    for step in [u64::MAX, capacity.max(1), 1021, 7] {
        let mut start = 0;
        while start < capacity {
            start += expect_status(device, start, step, content);
        }
        assert_eq!(start, capacity, "a walk by block_status ends at the end");
    }
    // From anywhere, also the middle of a run.
    let mut rng = Rng::new(3);
    for _ in 0..100.min(capacity) {
        let start = rng.below(capacity);
        expect_status(device, start, 1, content);
        expect_status(device, start, 1 + rng.below(capacity), content);
    }
}

/// Asks for the status and compares it with the content; the count.
#[track_caller]
fn expect_status(device: &dyn BlockDevice, start: u64, max: u64, content: &[u8]) -> u64 {
    let call = format!("block_status({start}, {max})");
    let (status, count) = device.block_status(start, max).unwrap_or_else(|error| panic!("{call}: {error:?}"));
    assert!((1..=max).contains(&count), "{call} says {count} sectors");
    assert!(count <= device.capacity_sectors() - start, "{call} says {count} sectors, past the end");
    if matches!(status, BlockStatus::Zero | BlockStatus::Hole) {
        assert!(is_zero(&content[byte_range(start, count)]), "{call} says {status:?} of {count}, but there is data");
    }
    count
}

/// Sectors where something is likely to change: multiples of the grain, ends of runs of the same status.
fn natural_boundaries(device: &dyn BlockDevice) -> Vec<u64> {
    let capacity = device.capacity_sectors();
    let grain = device.limits().optimal_io_sectors;
    let mut boundaries = Vec::new();
    let mut start = 0;
    while start < capacity {
        let (_, count) = device.block_status(start, capacity).expect("status of a sector on the device");
        start += count;
        boundaries.push(start);
    }
    let runs = sample(boundaries);
    let grains = sample((0..capacity.div_ceil(grain)).map(|number| number * grain).collect());
    [vec![0, capacity], runs, grains].concat()
}

/// Not too many of them, evenly.
fn sample(all: Vec<u64>) -> Vec<u64> {
    let step = all.len().div_ceil(MOST_BOUNDARIES).max(1);
    all.into_iter().step_by(step).collect()
}

fn reads_around_boundaries_are_exact(device: &dyn BlockDevice, content: &[u8], boundaries: &[u64]) {
    let capacity = device.capacity_sectors();
    for &boundary in boundaries {
        for start in boundary.saturating_sub(2)..=boundary.min(capacity) {
            for count in 0..=4.min(capacity - start) {
                expect_read(device, start, count, content);
            }
        }
    }
}

fn random_reads_are_exact(device: &dyn BlockDevice, content: &[u8], rng: &mut Rng, times: usize) {
    for _ in 0..times {
        let (start, count) = random_range(device, rng);
        expect_read(device, start, count, content);
    }
}

/// A range on the device: often a few sectors, sometimes as much as there is.
fn random_range(device: &dyn BlockDevice, rng: &mut Rng) -> (u64, u64) {
    let capacity = device.capacity_sectors();
    let most = if rng.chance(80) { 300 } else { 5000 };
    let start = rng.below(capacity + 1);
    (start, rng.below((capacity - start).min(most) + 1))
}

/// The lengths of ragged slices that make up `len`; some are empty, few are whole sectors.
fn ragged(len: usize, rng: &mut Rng) -> Vec<usize> {
    let mut lens = vec![0];
    let mut rest = len;
    while rest > 0 {
        let most = [1, 0, 700, 512, 100_000][index(rng.below(5))];
        let len = rest.min(if most == 512 { 512 } else { index(rng.below(most + 1)) });
        lens.push(len);
        rest -= len;
    }
    lens
}

fn vectored_reads_equal_plain_ones(device: &dyn BlockDevice, content: &[u8]) {
    let mut rng = Rng::new(4);
    for time in 0..100 {
        let (start, count) = random_range(device, &mut rng);
        let mut buf = vec![UNREAD; index(count) * SECTOR];
        let lens = if time % 2 == 0 { ragged(buf.len(), &mut rng) } else { vec![SECTOR; index(count)] };
        let mut bufs = Vec::new();
        let mut rest = buf.as_mut_slice();
        for &len in &lens {
            let (head, tail) = rest.split_at_mut(len);
            bufs.push(IoSliceMut::new(head));
            rest = tail;
        }
        device.read_sectors_vectored(start, &mut bufs).unwrap_or_else(|error| panic!("{start}, {lens:?}: {error:?}"));
        expect_same(&buf, &content[byte_range(start, count)], start, "vectored read");
    }
}

fn pointers_are_devices(device: &dyn BlockDevice, content: &[u8]) {
    fn same<D: BlockDevice>(pointer: D, device: &dyn BlockDevice, content: &[u8]) {
        assert!(std::ptr::eq(pointer.limits(), device.limits()), "limits of the device itself");
        assert_eq!(pointer.capacity_sectors(), device.capacity_sectors());
        random_reads_are_exact(&pointer, content, &mut Rng::new(5), 10);
        reads_check_their_arguments(&pointer);
        for start in [0, device.capacity_sectors() / 2, device.capacity_sectors()] {
            let [ours, theirs] =
                [&pointer as &dyn BlockDevice, device].map(|device| device.block_status(start, 99).ok());
            assert_eq!(ours, theirs, "block_status({start}, 99)");
        }
    }
    same(device, device, content);
    let pointer = &device;
    same(pointer, device, content);
    same(Box::new(device), device, content);
    same(Box::new(device) as Box<dyn BlockDevice + '_>, device, content);
    same(Arc::new(device), device, content);
    same(Arc::new(device) as Arc<dyn BlockDevice + '_>, device, content);
}

fn concurrent_reads_are_exact(device: &dyn BlockDevice, content: &[u8]) {
    thread::scope(|scope| {
        for seed in 10..14 {
            scope.spawn(move || random_reads_are_exact(device, content, &mut Rng::new(seed), 50));
        }
    });
}

/// Compares the range and a sector on either side.
#[track_caller]
fn expect_written(device: &dyn BlockDevice, start: u64, count: u64, content: &[u8]) {
    let first = start.saturating_sub(1);
    let end = (start + count + 1).min(device.capacity_sectors());
    expect_read(device, first, end - first, content);
}

#[track_caller]
fn write(device: &dyn BlockDevice, start: u64, count: u64, content: &mut [u8], rng: &mut Rng) {
    let range = byte_range(start, count);
    rng.fill(&mut content[range.clone()]);
    // Data that is zero is data, too.
    if rng.chance(15) {
        content[range.clone()].fill(0);
    }
    let result = device.write_sectors(start, &content[range]);
    result.unwrap_or_else(|error| panic!("write of {count} from {start}: {error:?}"));
    expect_written(device, start, count, content);
}

fn writes_around_boundaries_are_exact(device: &dyn BlockDevice, content: &mut [u8], rng: &mut Rng) {
    let capacity = device.capacity_sectors();
    let boundaries = natural_boundaries(device);
    for &boundary in boundaries.iter().step_by(boundaries.len().div_ceil(16)).chain([&capacity]) {
        for (before, count) in [(1, 1), (0, 1), (1, 2), (2, 5)] {
            let start = boundary.saturating_sub(before);
            write(device, start, count.min(capacity - start), content, rng);
        }
    }
    expect_read(device, 0, capacity, content);
}

fn vectored_writes_equal_plain_ones(device: &dyn BlockDevice, content: &mut [u8], rng: &mut Rng) {
    for time in 0..60 {
        let (start, count) = random_range(device, rng);
        let range = byte_range(start, count);
        rng.fill(&mut content[range.clone()]);
        let lens = if time % 2 == 0 { ragged(range.len(), rng) } else { vec![SECTOR; index(count)] };
        let mut rest = &content[range];
        let mut bufs = Vec::new();
        for &len in &lens {
            let (head, tail) = rest.split_at(len);
            bufs.push(IoSlice::new(head));
            rest = tail;
        }
        let flags = if time % 3 == 0 { WriteFlags::FUA } else { WriteFlags::NONE };
        let result = device.write_sectors_vectored(start, &bufs, flags);
        result.unwrap_or_else(|error| panic!("vectored write from {start}, {lens:?}: {error:?}"));
        expect_written(device, start, count, content);
    }
    expect_read(device, 0, device.capacity_sectors(), content);
}

/// Some ranges to erase: anything, and whole multiples of the unit in which the device can erase.
fn ranges_to_erase(device: &dyn BlockDevice, rng: &mut Rng) -> Vec<(u64, u64)> {
    let capacity = device.capacity_sectors();
    let unit = device.limits().discard_granularity_sectors.max(device.limits().optimal_io_sectors).max(8);
    let mut ranges = vec![(0, 0), (capacity, 0), (capacity - 1, 1)];
    for _ in 0..20 {
        ranges.push(random_range(device, rng));
        let start = rng.below(capacity) / unit * unit;
        ranges.push((start, unit.min(capacity - start)));
    }
    ranges
}

fn write_zeroes_zeroes(device: &dyn BlockDevice, content: &mut [u8], rng: &mut Rng) {
    for (start, count) in ranges_to_erase(device, rng) {
        for may_unmap in [rng.chance(50), rng.chance(50)] {
            let result = device.write_zeroes(start, count, may_unmap);
            result.unwrap_or_else(|error| panic!("write_zeroes({start}, {count}, {may_unmap}): {error:?}"));
            content[byte_range(start, count)].fill(0);
            expect_written(device, start, count, content);
            // What was zeroed can be written again.
            if count > 0 && rng.chance(40) {
                write(device, start + rng.below(count), 1, content, rng);
            }
        }
    }
    expect_read(device, 0, device.capacity_sectors(), content);
}

fn discard_leaves_old_content_or_zeros(device: &dyn BlockDevice, content: &mut [u8], rng: &mut Rng) {
    for (start, count) in ranges_to_erase(device, rng) {
        device.discard(start, count).unwrap_or_else(|error| panic!("discard({start}, {count}): {error:?}"));
        let range = byte_range(start, count);
        let mut now = vec![UNREAD; range.len()];
        device.read_sectors(start, &mut now).expect("read of what was discarded");
        for (sector, (now, before)) in (start..).zip(now.chunks(SECTOR).zip(content[range.clone()].chunks(SECTOR))) {
            let fine = now == before || is_zero(now);
            assert!(fine, "after discard({start}, {count}) sector {sector} is neither as before nor zero");
        }
        content[range].copy_from_slice(&now);
        expect_written(device, start, count, content);
    }
    expect_read(device, 0, device.capacity_sectors(), content);
}

fn random_writes_are_exact(device: &dyn BlockDevice, content: &mut [u8], rng: &mut Rng) {
    for time in 0..100 {
        let (start, count) = random_range(device, rng);
        write(device, start, count, content, rng);
        if time % 16 == 0 {
            device.flush().expect("flush");
        }
    }
    expect_read(device, 0, device.capacity_sectors(), content);
}

const WRITERS: u8 = 4;

/// Neighbouring sectors, so that the writers meet in every grain.
fn disjoint_concurrent_writes_all_arrive(device: &dyn BlockDevice, content: &mut [u8], rng: &mut Rng) {
    let count = device.capacity_sectors().min(600);
    let start = rng.below(device.capacity_sectors() - count + 1);
    rng.fill(&mut content[byte_range(start, count)]);
    let content = &*content;
    thread::scope(|scope| {
        for writer in 0..u64::from(WRITERS) {
            scope.spawn(move || {
                for sector in (start + writer..start + count).step_by(usize::from(WRITERS)) {
                    device.write_sectors(sector, &content[byte_range(sector, 1)]).expect("concurrent write");
                }
            });
        }
    });
    expect_read(device, 0, device.capacity_sectors(), content);
}

fn overlapping_concurrent_writes_do_not_mix_in_a_sector(device: &dyn BlockDevice, content: &mut [u8]) {
    let count = device.capacity_sectors().min(300);
    let start = (device.capacity_sectors() - count) / 2;
    for round in 0..4 {
        let tags = (1..=WRITERS).map(|writer| round * WRITERS + writer);
        thread::scope(|scope| {
            for tag in tags.clone() {
                let bytes = vec![tag; index(count) * SECTOR];
                scope.spawn(move || device.write_sectors(start, &bytes).expect("concurrent write"));
            }
        });
        let range = byte_range(start, count);
        device.read_sectors(start, &mut content[range.clone()]).expect("read of what was written");
        for (sector, bytes) in (start..).zip(content[range].chunks(SECTOR)) {
            let tag = bytes[0];
            assert!(tags.clone().any(|other| other == tag), "sector {sector} is of no writer: {tag:#04x}");
            assert!(bytes.iter().all(|&byte| byte == tag), "sector {sector} is of more than one writer");
        }
    }
    expect_read(device, 0, device.capacity_sectors(), content);
}
