//! One disk into another: what the target holds then, and what was done for it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex};

use proptest::prelude::*;
use vmdk::{
    BlockDevice, BlockStatus, DeviceLimits, Error, ErrorKind, MemoryStorage, OpenOptions, RawImage, Result, Storage,
    VmdkImage, copy, copy_to_writer,
};

use support::check::check;
use support::disk::Image;
use support::model::MemoryDevice;
use support::rng::Rng;
use support::sparse::SparseImage;
use support::storage::{CountingStorage, Counts};
use support::{SECTOR, byte_range, index};

const GRAIN: u64 = 128;
const GRAIN_BYTES: usize = 128 * SECTOR;

fn copied(source: &dyn BlockDevice, target: &dyn BlockDevice) -> Result<()> {
    copy(source, target, 1, &mut |_| ControlFlow::Continue(()))
}

fn raw(content: &[u8]) -> RawImage {
    RawImage::new(Arc::new(MemoryStorage::new(content)), "source.raw").unwrap()
}

fn content_of(device: &dyn BlockDevice) -> Vec<u8> {
    let mut content = vec![0; index(device.capacity_sectors()) * SECTOR];
    device.read_sectors(0, &mut content).unwrap();
    content
}

/// Bytes of grains that are random where `grains` has a number, the same for the same number, and zero where it is 0.
fn grains(numbers: &[u64]) -> Vec<u8> {
    let grain = |&number: &u64| if number == 0 { vec![0; GRAIN_BYTES] } else { Rng::new(number).bytes(GRAIN_BYTES) };
    numbers.iter().flat_map(grain).collect()
}

// ---- Devices that are watched ---------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Read(Range<u64>),
    Write(Range<u64>),
    Zero(Range<u64>),
    Status(u64),
}

/// What a device does instead of what it was asked for.
type Trap = Box<dyn Fn(&Call) -> Option<Error> + Send + Sync>;

/// A disk in memory that says of each sector what it is told to, notes what it is called for, and fails where it
/// should.
struct Probe {
    inner: MemoryDevice,
    limits: DeviceLimits,
    /// Sectors that are said to be zero.
    zeros: Mutex<Vec<Range<u64>>>,
    /// What `block_status` says of so many sectors, if not the truth.
    lie: Option<fn(u64) -> u64>,
    capacity: u64,
    calls: Mutex<Vec<Call>>,
    trap: Trap,
}

impl Probe {
    fn new(content: Vec<u8>, grain: u64) -> Self {
        let mut limits = DeviceLimits::new(false);
        limits.optimal_io_sectors = grain;
        let capacity = (content.len() / SECTOR) as u64;
        let (zeros, calls) = (Mutex::default(), Mutex::default());
        let inner = MemoryDevice::new(content);
        Self { inner, limits, zeros, lie: None, capacity, calls, trap: Box::new(|_| None) }
    }

    fn zero_at(self, range: Range<u64>) -> Self {
        self.zeros.lock().unwrap().push(range);
        self
    }

    fn trap(mut self, trap: impl Fn(&Call) -> Option<Error> + Send + Sync + 'static) -> Self {
        self.trap = Box::new(trap);
        self
    }

    fn call(&self, call: Call) -> Result<()> {
        let error = (self.trap)(&call);
        self.calls.lock().unwrap().push(call);
        error.map_or(Ok(()), Err)
    }

    /// The calls but for those of `block_status`.
    fn moves(&self) -> Vec<Call> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| !matches!(call, Call::Status(_))).cloned().collect()
    }
}

fn span(start: u64, bytes: usize) -> Range<u64> {
    start..start + (bytes / SECTOR) as u64
}

impl BlockDevice for Probe {
    fn capacity_sectors(&self) -> u64 {
        self.capacity
    }
    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }
    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        self.call(Call::Read(span(start, buf.len())))?;
        self.inner.read_sectors(start, buf)
    }
    fn write_sectors(&self, start: u64, buf: &[u8]) -> Result<()> {
        self.call(Call::Write(span(start, buf.len())))?;
        let mut zeros = self.zeros.lock().unwrap();
        let written = span(start, buf.len());
        let rest = |zero: &Range<u64>| [zero.start..zero.end.min(written.start), zero.start.max(written.end)..zero.end];
        *zeros = zeros.iter().flat_map(rest).filter(|zero| !zero.is_empty()).collect();
        self.inner.write_sectors(start, buf)
    }
    fn write_zeroes(&self, start: u64, count: u64, may_unmap: bool) -> Result<()> {
        assert!(may_unmap);
        self.call(Call::Zero(start..start + count))?;
        self.inner.write_zeroes(start, count, may_unmap)
    }
    fn flush(&self) -> Result<()> {
        panic!("nobody asked for a flush");
    }
    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        self.call(Call::Status(start))?;
        if let Some(lie) = self.lie {
            return Ok((BlockStatus::Data, lie(max)));
        }
        let zeros = self.zeros.lock().unwrap();
        if let Some(zero) = zeros.iter().find(|zero| zero.contains(&start)) {
            return Ok((BlockStatus::Hole, max.min(zero.end - start)));
        }
        let next = zeros.iter().map(|zero| zero.start).filter(|&zero| zero > start).min().unwrap_or(u64::MAX);
        Ok((BlockStatus::Data, max.min(next - start)))
    }
}

// ---- A model --------------------------------------------------------------------------------------------------------

/// Runs of sectors: how many, and what is there. 0 is nothing, 1 are zeros that take space, all else random bytes.
type Runs = Vec<(u64, u8)>;

fn runs() -> impl Strategy<Value = Runs> {
    // Whole grains and bits of them, and now and then more than is looked at or copied at once.
    let count = prop_oneof![4 => 1..40_u64, 4 => (1..6_u64).prop_map(|grains| grains * 16), 1 => 1000..3000_u64];
    proptest::collection::vec((count, 0..4_u8), 0..12)
}

fn bytes_of(runs: &Runs) -> Vec<u8> {
    let run = |&(sectors, what): &(u64, u8)| match what {
        0 | 1 => vec![0; index(sectors) * SECTOR],
        _ => Rng::new(u64::from(what)).bytes(index(sectors) * SECTOR),
    };
    runs.iter().flat_map(run).collect()
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Raw,
    Memory,
    Probe,
    Sparse { grain_shift: u32, zero_grains: bool },
    Child { grain_shift: u32, zero_grains: bool },
}

fn kind() -> impl Strategy<Value = Kind> {
    let sparse = |(grain_shift, zero_grains)| Kind::Sparse { grain_shift, zero_grains };
    let child = |(grain_shift, zero_grains)| Kind::Child { grain_shift, zero_grains };
    let layout = || (3..=12_u32, any::<bool>());
    prop_oneof![
        Just(Kind::Raw),
        Just(Kind::Memory),
        Just(Kind::Probe),
        layout().prop_map(sparse),
        layout().prop_map(child)
    ]
}

/// A sparse extent with `content`, in which grains are left out that are zero, but for those that `take_space`.
fn extent(content: &[u8], grain_shift: u32, zero_grains: bool, take_space: impl Fn(u64) -> bool) -> SparseImage {
    let extent = SparseImage::new((content.len() / SECTOR) as u64).grain_sectors(1 << grain_shift);
    let extent = if zero_grains { extent.with_zero_grains() } else { extent };
    (0..).zip(content.chunks(SECTOR << grain_shift)).fold(extent, |extent, (grain, bytes)| {
        let is_needed = bytes.iter().any(|&byte| byte != 0) || take_space(grain);
        if is_needed { extent.data(grain, bytes) } else { extent }
    })
}

/// The files of a chain, each watched.
struct Files(HashMap<String, Arc<CountingStorage>>);

impl Files {
    fn new(links: &[Image]) -> Self {
        let watch = |bytes: &Vec<u8>| CountingStorage::new(Arc::new(MemoryStorage::new(bytes.clone())));
        Self(links.iter().flat_map(|link| &link.files).map(|(name, bytes)| (name.clone(), watch(bytes))).collect())
    }

    fn open(&self, name: &str, write: bool) -> VmdkImage {
        let resolver = |name: &str| self.0.get(name).map(|file| Arc::clone(file) as Arc<dyn Storage>);
        OpenOptions::new().write(write).open_with(name, &resolver).unwrap()
    }

    fn take(&self, name: &str) -> Counts {
        self.0[name].take()
    }

    fn expect_sound(&self, name: &str) {
        let mut bytes = vec![0; index(self.0[name].len().unwrap())];
        self.0[name].read_exact_at(&mut bytes, 0).unwrap();
        check(&bytes).expect_sound(name);
    }
}

/// The links of a sparse disk with `content`. A child holds every other grain of it, also where that is nothing new.
fn links(content: &[u8], kind: Kind, seed: u64) -> Vec<Image> {
    match kind {
        Kind::Child { grain_shift, zero_grains } => {
            let rng = &mut Rng::new(seed);
            let mut below = content.to_vec();
            let mut child = SparseImage::new((content.len() / SECTOR) as u64).grain_sectors(1 << grain_shift);
            child = if zero_grains { child.with_zero_grains() } else { child };
            for (grain, bytes) in (0..).zip(content.chunks(SECTOR << grain_shift)) {
                if rng.chance(40) {
                    let start = index(grain) * (SECTOR << grain_shift);
                    if rng.chance(70) {
                        below[start..start + bytes.len()].copy_from_slice(&rng.bytes(bytes.len()));
                    }
                    child = child.data(grain, bytes);
                }
            }
            let base =
                Image::monolithic_sparse("base.vmdk", extent(&below, 4, false, |grain: u64| grain.is_multiple_of(3)));
            let child = Image::child(&base, "disk.vmdk", child);
            vec![base, child]
        }
        Kind::Sparse { grain_shift, zero_grains } => {
            let extent = extent(content, grain_shift, zero_grains, |grain| (grain ^ seed).is_multiple_of(4));
            vec![Image::monolithic_sparse("disk.vmdk", extent)]
        }
        _ => panic!("no sparse disk"),
    }
}

fn source_of(runs: &Runs, kind: Kind, seed: u64) -> Box<dyn BlockDevice> {
    let content = bytes_of(runs);
    match kind {
        Kind::Raw => Box::new(raw(&content)),
        Kind::Memory => Box::new(MemoryDevice::read_only(content)),
        Kind::Probe => {
            let mut start = 0;
            let probe = runs.iter().fold(Probe::new(content, 1), |probe, &(sectors, what)| {
                start += sectors;
                if what == 0 { probe.zero_at(start - sectors..start) } else { probe }
            });
            Box::new(probe)
        }
        _ if content.is_empty() => Box::new(raw(&content)),
        _ => Box::new(Files::new(&links(&content, kind, seed)).open("disk.vmdk", false)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever both hold before and however they keep it.
    #[test]
    fn the_target_reads_as_the_source_and_as_before_behind_it(
        (from, to) in (runs(), runs()),
        (source_kind, target_kind) in (kind(), kind()),
        (alike, seed, grain) in (any::<bool>(), any::<u64>(), 1..3000_u64),
    ) {
        let wanted = bytes_of(&from);
        let mut old = bytes_of(&to);
        if old.len() < wanted.len() {
            old.extend(&wanted[old.len()..]);
        }
        if alike {
            let half = wanted.len() / 2 / SECTOR * SECTOR;
            old[..half].copy_from_slice(&wanted[..half]);
        }
        let mut expected = old.clone();
        expected[..wanted.len()].copy_from_slice(&wanted);
        let source = source_of(&from, source_kind, seed);
        match target_kind {
            Kind::Sparse { .. } | Kind::Child { .. } if !old.is_empty() => {
                let files = Files::new(&links(&old, target_kind, seed));
                let target = files.open("disk.vmdk", true);
                prop_assert!(content_of(&target) == old, "the builder");
                copied(&source, &target).unwrap();
                prop_assert!(content_of(&target) == expected);
                files.take("disk.vmdk");
                // A source without holes, so that nothing is made zero unseen.
                copied(&raw(&wanted), &target).unwrap();
                prop_assert!(files.take("disk.vmdk").writes.is_empty(), "it was there already");
                target.close().unwrap();
                prop_assert!(content_of(&files.open("disk.vmdk", false)) == expected);
                files.expect_sound("disk.vmdk");
            }
            _ => {
                let target = Probe::new(old, grain);
                copied(&source, &target).unwrap();
                prop_assert!(target.inner.to_vec() == expected);
            }
        }
    }
}

// ---- What is not done -----------------------------------------------------------------------------------------------

#[test]
fn holes_of_the_source_are_not_read_and_the_rest_is_read_once_up_to_whole_units() {
    let content = grains(&[1, 0, 0, 2, 3, 0, 4]);
    let source = Probe::new(content.clone(), 1).zero_at(GRAIN..3 * GRAIN).zero_at(5 * GRAIN..6 * GRAIN);
    let target = Probe::new(vec![0; content.len()], GRAIN).zero_at(0..7 * GRAIN);
    copied(&source, &target).unwrap();
    let ranges = [0..GRAIN, 3 * GRAIN..5 * GRAIN, 6 * GRAIN..7 * GRAIN];
    assert_eq!(source.moves(), ranges.clone().map(Call::Read));
    assert_eq!(target.moves(), ranges.map(Call::Write));
    assert_eq!(target.inner.to_vec(), content);
}

#[test]
fn zeros_that_are_data_in_the_source_are_not_written_to_an_empty_target() {
    let content = grains(&[0, 1, 2, 0, 0, 3]);
    let target = Probe::new(vec![0; content.len()], GRAIN).zero_at(0..6 * GRAIN);
    copied(&raw(&content), &target).unwrap();
    assert_eq!(target.moves(), [Call::Write(GRAIN..3 * GRAIN), Call::Write(5 * GRAIN..6 * GRAIN)]);
}

#[test]
fn only_what_differs_is_changed_where_the_target_has_data() {
    let old = grains(&[1, 2, 3, 0, 5, 6, 0, 7]);
    let content = grains(&[1, 9, 8, 0, 0, 6, 4, 0]);
    let target = Probe::new(old, GRAIN);
    let source = Probe::new(content.clone(), 1).zero_at(7 * GRAIN..8 * GRAIN);
    copied(&source, &target).unwrap();
    let expected = [
        Call::Read(0..7 * GRAIN),
        Call::Write(GRAIN..3 * GRAIN),
        Call::Zero(4 * GRAIN..5 * GRAIN),
        Call::Write(6 * GRAIN..7 * GRAIN),
        Call::Read(7 * GRAIN..8 * GRAIN),
        Call::Zero(7 * GRAIN..8 * GRAIN),
    ];
    assert_eq!(target.moves(), expected);
    assert_eq!(target.inner.to_vec(), content);
    // The second time there is nothing to do, also where both hold zeros and only the source says so.
    target.calls.lock().unwrap().clear();
    copied(&source, &target).unwrap();
    assert_eq!(target.moves(), [Call::Read(0..7 * GRAIN), Call::Read(7 * GRAIN..8 * GRAIN)]);
}

#[test]
fn a_delta_over_a_parent_with_the_same_content_stays_empty() {
    let content = grains(&[1, 0, 2, 3, 0, 0, 4, 5]);
    let base = Image::monolithic_sparse("base.vmdk", extent(&content, 7, false, |_| false));
    let child = Image::child(&base, "disk.vmdk", SparseImage::new(8 * GRAIN).with_zero_grains());
    let files = Files::new(&[base, child]);
    let target = files.open("disk.vmdk", true);
    let mut changed = content.clone();
    for source in [&raw(&content) as &dyn BlockDevice, &MemoryDevice::read_only(content)] {
        copied(source, &target).unwrap();
        assert!(!files.take("disk.vmdk").touched());
    }
    // One byte makes one grain.
    changed[3 * GRAIN_BYTES + 100] ^= 1;
    copied(&raw(&changed), &target).unwrap();
    let writes = files.take("disk.vmdk").writes;
    assert_eq!(writes.iter().filter(|&&(_, len)| len == GRAIN_BYTES as u64).count(), 1, "{writes:?}");
    let in_child = |grain| !matches!(target.map_layer(grain * GRAIN, 1).unwrap().mapping, vmdk::Mapping::Unallocated);
    assert_eq!((0..8).filter(|&grain| in_child(grain)).collect::<Vec<_>>(), [3]);
    assert_eq!(content_of(&target), changed);
}

#[test]
fn what_becomes_zero_takes_no_space_any_more() {
    let old = grains(&[1, 2, 3, 4]);
    let files = Files::new(&[Image::monolithic_sparse("disk.vmdk", extent(&old, 7, false, |_| false))]);
    let target = files.open("disk.vmdk", true);
    // In one grain as a hole, in one as data.
    let source = Probe::new(grains(&[1, 0, 0, 4]), 1).zero_at(2 * GRAIN..3 * GRAIN);
    copied(&source, &target).unwrap();
    let has = |grain| matches!(target.map(grain * GRAIN, 1).unwrap().mapping, vmdk::Mapping::Data { .. });
    assert_eq!([0, 1, 2, 3].map(has), [true, false, false, true]);
}

/// Small pieces of data within a grain: the grain is written once, and its parent is not asked.
#[test]
fn pieces_of_a_grain_are_put_together_before_they_are_written() {
    let mut content = grains(&[1, 2]);
    let mut source_zeros = Vec::new();
    for hole in (0..2 * GRAIN).step_by(8).filter(|start| start % 16 == 8) {
        content[byte_range(hole, 8)].fill(0);
        source_zeros.push(hole..hole + 8);
    }
    let source = source_zeros.into_iter().fold(Probe::new(content.clone(), 1), Probe::zero_at);
    let target = Probe::new(vec![0; content.len()], GRAIN).zero_at(0..2 * GRAIN);
    copied(&source, &target).unwrap();
    assert_eq!(target.moves(), [Call::Write(0..2 * GRAIN)]);
    assert_eq!(target.inner.to_vec(), content);
}

#[test]
fn transfers_are_bounded_and_end_with_units_whatever_the_grain_is() {
    for grain in [0, 1, 8, 96, 128, 2048, 5000, 1 << 40, u64::MAX] {
        let content = Rng::new(3).bytes(5000 * SECTOR);
        let source = Probe::new(content.clone(), 1);
        let target = Probe::new(vec![0; content.len()], grain).zero_at(0..5000);
        copied(&source, &target).unwrap();
        assert!(target.inner.to_vec() == content, "{grain}");
        let unit = grain.clamp(8, 2048);
        for call in source.moves().into_iter().chain(target.moves()) {
            let (Call::Read(range) | Call::Write(range)) = call else { panic!("{call:?}") };
            assert!(range.start % unit == 0 && (range.end % unit == 0 || range.end == 5000), "{grain} {range:?}");
            assert!((1..=2048).contains(&(range.end - range.start)), "{grain} {range:?}");
        }
    }
}

// ---- Refusals and failures ------------------------------------------------------------------------------------------

#[test]
fn what_cannot_be_is_refused_before_anything_is_touched() {
    let source = |sectors: usize| Probe::new(vec![1; sectors * SECTOR], 1);
    let refused = |source: &Probe, target: &Probe, kind| {
        assert_eq!(copied(source, target).unwrap_err().kind(), kind);
        assert!(source.calls.lock().unwrap().is_empty() && target.calls.lock().unwrap().is_empty());
    };
    refused(&source(9), &source(8), ErrorKind::InvalidInput);
    let mut target = source(9);
    target.limits.read_only = true;
    refused(&source(9), &target, ErrorKind::ReadOnly);
    let mut huge = source(1);
    huge.capacity = 1 << 54;
    refused(&source(1), &huge, ErrorKind::InvalidInput);
    refused(&huge, &source(1), ErrorKind::InvalidInput);
}

#[test]
fn a_device_that_contradicts_itself_is_an_error() {
    for lie in [(|_| 0) as fn(u64) -> u64, |max| max + 1, |_| u64::MAX] {
        let mut liar = Probe::new(vec![1; 100 * SECTOR], 8);
        liar.lie = Some(lie);
        let honest = Probe::new(vec![2; 100 * SECTOR], 8);
        assert_eq!(copied(&liar, &honest).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(copied(&honest, &liar).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(honest.inner.to_vec().iter().all(|&byte| byte == 2));
    }
}

/// A disk of 6 MiB with data, holes and zeros.
static MIXED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let number = |grain: u64| if grain % 5 == 1 || grain / 20 == 2 { 0 } else { grain / 3 + 1 };
    grains(&(0..96).map(number).collect::<Vec<_>>())
});

/// What the target holds before.
static USED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut content = Rng::new(77).bytes(96 * GRAIN_BYTES);
    content[byte_range(80 * GRAIN, 10 * GRAIN)].fill(0);
    content
});

fn mixed_source() -> Probe {
    Probe::new(MIXED.clone(), 1).zero_at(40 * GRAIN..60 * GRAIN).zero_at(GRAIN..2 * GRAIN)
}

fn used_target() -> Probe {
    Probe::new(USED.clone(), GRAIN).zero_at(80 * GRAIN..90 * GRAIN)
}

#[test]
fn progress_rises_to_the_end_and_may_stop_at_every_call() {
    let mut seen = Vec::new();
    copy(&mixed_source(), &used_target(), 1, &mut |now| {
        seen.push((now.done, now.total));
        ControlFlow::Continue(())
    })
    .unwrap();
    let total = 96 * GRAIN_BYTES as u64;
    assert!(seen.is_sorted_by(|a, b| a.0 < b.0) && seen.iter().all(|now| now.1 == total), "{seen:?}");
    assert!(seen.last().unwrap().0 == total && seen.len() >= 6);
    for (stop, &(done, _)) in seen.iter().enumerate() {
        let target = used_target();
        let mut calls = 0;
        let stopped = copy(&mixed_source(), &target, 1, &mut |_| {
            calls += 1;
            if calls > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((stopped.unwrap_err().kind(), calls), (ErrorKind::Cancelled, stop + 1));
        // Done up to where it was said to be, and as before from there on.
        let done = index(done);
        assert!(target.inner.to_vec()[..done] == MIXED[..done]);
        assert!(target.inner.to_vec()[done..] == USED[done..]);
    }
}

#[test]
fn an_empty_disk_is_copied_and_reported() {
    let target = Probe::new(vec![5; 8 * SECTOR], 8);
    let mut seen = Vec::new();
    copy(&raw(&[]), &target, 1, &mut |now| {
        seen.push((now.done, now.total));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((seen.as_slice(), target.moves().len()), ([(0, 0)].as_slice(), 0));
}

/// The n-th call of either device fails, for every n: the error is the one that it gave, and nothing goes on behind it.
#[test]
fn every_failure_ends_the_copy_with_its_error() {
    let calls = |probe: &Probe| probe.calls.lock().unwrap().len();
    let (source, target) = (mixed_source(), used_target());
    copied(&source, &target).unwrap();
    let counts = [calls(&source), calls(&target)];
    assert!(counts.iter().all(|&count| count > 10), "{counts:?}");
    for (side, count) in counts.into_iter().enumerate() {
        for nth in 0..count {
            let left = Mutex::new(nth);
            let fails = move |_: &Call| {
                let mut left = left.lock().unwrap();
                *left = left.wrapping_sub(1);
                (*left == usize::MAX).then(|| Error::new(ErrorKind::Full, "struck"))
            };
            let (source, target) = match side {
                0 => (mixed_source().trap(fails), used_target()),
                _ => (mixed_source(), used_target().trap(fails)),
            };
            let error = copied(&source, &target).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Full, "struck"));
            assert_eq!(calls(if side == 0 { &source } else { &target }), nth + 1);
        }
    }
}

#[test]
fn a_panic_of_a_device_comes_through() {
    let panics = |call: &Call| match call {
        Call::Read(range) if range.start >= 20 * GRAIN => panic!("a broken device"),
        _ => None,
    };
    for (source, target) in [(mixed_source().trap(panics), used_target()), (mixed_source(), used_target().trap(panics))]
    {
        let cause = catch_unwind(AssertUnwindSafe(|| copied(&source, &target))).unwrap_err();
        assert_eq!(cause.downcast_ref::<&str>(), Some(&"a broken device"));
    }
}

/// 2^54 sectors less one, the most there can be: nothing but the status is asked.
#[test]
fn holes_of_any_size_take_no_time() {
    let most = (1 << 54) - 1;
    let mut source = Probe::new(Vec::new(), 1).zero_at(0..most);
    let mut target = Probe::new(Vec::new(), GRAIN).zero_at(0..most);
    (source.capacity, target.capacity) = (most, most);
    copied(&source, &target).unwrap();
    assert!(source.moves().is_empty() && target.moves().is_empty());
}

/// A disk that can be read, and that says what it has, up to a sector each.
struct Torn {
    limits: DeviceLimits,
    read_until: u64,
    known_until: u64,
}

impl BlockDevice for Torn {
    fn capacity_sectors(&self) -> u64 {
        65_536
    }
    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }
    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        if start >= self.read_until {
            return Err(Error::new(ErrorKind::Io, "a scratch"));
        }
        buf.fill(7);
        Ok(())
    }
    fn write_sectors(&self, _: u64, _: &[u8]) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, "only read"))
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        if start >= self.known_until {
            return Err(Error::new(ErrorKind::Io, "a bad table"));
        }
        Ok((BlockStatus::Data, max))
    }
}

/// What comes first, and what was copied before it, does not depend on what was under way.
#[test]
fn the_first_error_wins_with_any_number_of_threads() {
    for (read_until, known_until, word, copied) in
        [(2048, 8192, "a scratch", 1), (u64::MAX, 8192, "a bad table", 4), (40_000, u64::MAX, "a scratch", 20)]
    {
        let source = Torn { limits: DeviceLimits::new(true), read_until, known_until };
        for threads in [0, 1, 2, 3, 16] {
            let mut output = Vec::new();
            let failed = copy_to_writer(&source, &mut output, threads, &mut |_| ControlFlow::Continue(()));
            assert!(failed.unwrap_err().to_string().contains(word), "{threads}");
            assert_eq!(output.len(), copied << 20, "{threads}");
            let target = MemoryDevice::new(vec![0; 65_536 * SECTOR]);
            let failed = copy(&source, &target, threads, &mut |_| ControlFlow::Continue(()));
            assert!(failed.unwrap_err().to_string().contains(word), "{threads}");
            let written = target.to_vec().iter().take_while(|&&byte| byte == 7).count();
            assert_eq!(written, copied << 20, "{threads}");
        }
    }
}

#[test]
fn a_device_goes_into_a_pipe_as_it_is() {
    let source = mixed_source();
    for threads in [1, 3] {
        let (mut output, mut seen) = (Vec::new(), Vec::new());
        let mut progress = |now: vmdk::CopyProgress| {
            seen.push(now.done);
            ControlFlow::Continue(())
        };
        copy_to_writer(&source, &mut output, threads, &mut progress).unwrap();
        assert!(output == content_of(&source) && seen.is_sorted());
        assert_eq!(seen.last(), Some(&(output.len() as u64)));
    }
    let full = copy_to_writer(&source, &mut &mut [0_u8; 5000][..], 2, &mut |_| ControlFlow::Continue(()));
    assert_eq!(full.unwrap_err().kind(), ErrorKind::Io);
    let stopped = copy_to_writer(&source, &mut std::io::sink(), 2, &mut |_| ControlFlow::Break(()));
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
}
