//! The contract of `BlockDevice`, over everything that implements it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use vmdk::{
    BlockDevice, BlockStatus, DeviceLimits, Error, ErrorKind, MemoryStorage, OpenOptions, Result, SparseHeader,
    Storage, VmdkImage, WriteFlags,
};

use support::conformance::{check, check_at, check_writes};
use support::disk::Kind;
use support::model::MemoryDevice;
use support::rng::Rng;
use support::{SECTOR, byte_range};

// ---- Images of every kind -------------------------------------------------------------------------------------------

/// Where extents begin, and where links and grain tables end.
fn boundaries(image: &VmdkImage) -> Vec<u64> {
    let mut boundaries = Vec::new();
    for link in image.chain() {
        boundaries.push(link.capacity_sectors());
        for extent in link.extents() {
            boundaries.push(extent.start_sector());
            if let Some(header) = extent.header().and_then(SparseHeader::as_kdmv) {
                let table = header.grain_size * u64::from(header.gtes_per_gt);
                boundaries.extend((1..=extent.sectors() / table).map(|number| extent.start_sector() + number * table));
            }
        }
    }
    boundaries.retain(|&boundary| boundary <= image.capacity_sectors());
    boundaries
}

#[test]
fn an_image_of_any_kind_keeps_the_contract() {
    for kind in Kind::ALL {
        let disk = kind.disk(31);
        let image = VmdkImage::open(&disk.path).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert!(image.limits().read_only, "{kind:?}");
        check_at(&image, &disk.content, &boundaries(&image));
    }
}

#[test]
fn an_image_of_any_kind_keeps_the_contract_with_a_single_cached_table_and_few_open_files() {
    for kind in Kind::ALL {
        let disk = kind.disk(32);
        let image = OpenOptions::new().cached_tables(1).max_open_files(1).open(&disk.path).unwrap();
        check_at(&image, &disk.content, &boundaries(&image));
    }
}

#[test]
fn an_image_from_memory_keeps_the_contract() {
    for kind in Kind::ALL {
        let disk = kind.disk(33);
        let files = disk.links.iter().flat_map(|link| link.files.clone());
        let files: HashMap<String, Arc<dyn Storage>> =
            files.map(|(name, bytes)| (name, Arc::new(MemoryStorage::new(bytes)) as Arc<dyn Storage>)).collect();
        let name = disk.path.file_name().unwrap().to_str().unwrap();
        let image = OpenOptions::new().open_with(name, &files).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        check_at(&image, &disk.content, &boundaries(&image));
    }
}

#[test]
fn an_image_behind_a_pointer_to_the_trait_keeps_the_contract() {
    let disk = Kind::DeepChain.disk(34);
    let shared: Arc<dyn BlockDevice> = Arc::new(VmdkImage::open(&disk.path).unwrap());
    check(&shared, &disk.content);
    check(&&*shared, &disk.content);
    let boxed: Box<dyn BlockDevice> = Box::new(shared);
    check(&boxed, &disk.content);
}

// ---- The model, and the suite itself --------------------------------------------------------------------------------

/// Random data with runs of zeros in between.
fn content(sectors: u64) -> Vec<u8> {
    let mut rng = Rng::new(sectors);
    let mut content = vec![0; byte_range(0, sectors).end];
    for run in content.chunks_mut(37 * SECTOR) {
        if rng.chance(60) {
            rng.fill(run);
        }
    }
    content
}

#[test]
fn a_disk_in_memory_that_is_read_only_keeps_the_contract() {
    for sectors in [0, 1, 2, 7, 3000] {
        check(&MemoryDevice::read_only(content(sectors)), &content(sectors));
    }
}

#[test]
fn a_disk_in_memory_that_is_writable_keeps_the_contract() {
    for sectors in [0, 1, 2, 7, 3000] {
        let mut content = content(sectors);
        let device = MemoryDevice::new(content.clone());
        check_at(&device, &content, &[0, 37, 74, sectors]);
        check_writes(&device, &mut content);
        assert_eq!(device.to_vec(), content);
    }
}

/// A promise of the contract to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// A zero length past the end succeeds.
    NothingIsAlwaysInRange,
    /// The sum of start and count wraps.
    RangeWraps,
    /// Alignment is checked before the range.
    AlignmentFirst,
    /// A length that is no multiple of a sector is cut.
    RaggedLengthsAreCut,
    /// The last sector of a read over 3 sectors is left out.
    ShortRead,
    /// A write is refused before its range is looked at.
    ReadOnlyBeforeRange,
    /// A refused write is carried out all the same.
    RefusedWriteIsDone,
    /// A write that does nothing is not refused.
    EmptyWriteIsNotRefused,
    /// A vectored read takes whole sectors only.
    VectoredReadOfWholeSectorsOnly,
    /// A vectored read begins a sector late.
    VectoredReadIsShifted,
    /// Data is called a hole.
    DataIsCalledHole,
    /// The status counts past the end.
    StatusPastTheEnd,
    /// The status counts nothing.
    StatusOfNothing,
    /// Asking for the status of no sectors succeeds.
    StatusOfZeroSectors,
    /// A write changes the sector behind it.
    WriteSpills,
    /// A write that fails for its range has changed what is in range.
    FailedWriteIsDoneInPart,
    /// A discard leaves something else.
    DiscardLeavesGarbage,
    /// Zeroes are not written where the caller allows to unmap.
    UnmapLeavesData,
    /// The limits name another sector size.
    SectorSize,
}

impl Flaw {
    const READING: [Self; 15] = [
        Self::NothingIsAlwaysInRange,
        Self::RangeWraps,
        Self::AlignmentFirst,
        Self::RaggedLengthsAreCut,
        Self::ShortRead,
        Self::ReadOnlyBeforeRange,
        Self::RefusedWriteIsDone,
        Self::EmptyWriteIsNotRefused,
        Self::VectoredReadOfWholeSectorsOnly,
        Self::VectoredReadIsShifted,
        Self::DataIsCalledHole,
        Self::StatusPastTheEnd,
        Self::StatusOfNothing,
        Self::StatusOfZeroSectors,
        Self::SectorSize,
    ];
    const WRITING: [Self; 4] =
        [Self::WriteSpills, Self::FailedWriteIsDoneInPart, Self::DiscardLeavesGarbage, Self::UnmapLeavesData];
}

/// A disk in memory that breaks one promise.
#[derive(Debug)]
struct Flawed {
    /// Takes all writes; the limits are this one's own.
    inner: MemoryDevice,
    limits: DeviceLimits,
    flaw: Option<Flaw>,
}

impl Flawed {
    fn new(content: Vec<u8>, read_only: bool, flaw: Option<Flaw>) -> Self {
        let mut limits = DeviceLimits::new(read_only);
        if flaw == Some(Flaw::SectorSize) {
            limits.sector_size = 4096;
        }
        Self { inner: MemoryDevice::new(content), limits, flaw }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn check_range(&self, start: u64, count: u64) -> Result<()> {
        let end = if self.has(Flaw::RangeWraps) { Some(start.wrapping_add(count)) } else { start.checked_add(count) };
        let fits = end.is_some_and(|end| end <= self.capacity_sectors());
        if fits || count == 0 && self.has(Flaw::NothingIsAlwaysInRange) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::OutOfRange, "out of range"))
    }

    fn check_buffer(&self, start: u64, len: usize) -> Result<()> {
        let misaligned = !len.is_multiple_of(SECTOR) && !self.has(Flaw::RaggedLengthsAreCut);
        let misaligned = || if misaligned { Err(Error::new(ErrorKind::Misaligned, "misaligned")) } else { Ok(()) };
        if self.has(Flaw::AlignmentFirst) {
            misaligned()?;
        }
        self.check_range(start, len.div_ceil(SECTOR) as u64)?;
        misaligned()
    }

    fn check_writable(&self, count: u64) -> Result<()> {
        let excused = count == 0 && self.has(Flaw::EmptyWriteIsNotRefused);
        if self.limits.read_only && !excused {
            return Err(Error::new(ErrorKind::ReadOnly, "read-only"));
        }
        Ok(())
    }
}

impl BlockDevice for Flawed {
    fn capacity_sectors(&self) -> u64 {
        self.inner.capacity_sectors()
    }

    fn limits(&self) -> &DeviceLimits {
        &self.limits
    }

    fn read_sectors(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        self.check_buffer(start, buf.len())?;
        let mut whole = buf.len() - buf.len() % SECTOR;
        if self.has(Flaw::ShortRead) && whole > 3 * SECTOR {
            whole -= SECTOR;
        }
        // What the flaw has let through would be refused here.
        let _ = self.inner.read_sectors(start, &mut buf[..whole]);
        Ok(())
    }

    fn write_sectors(&self, start: u64, buf: &[u8]) -> Result<()> {
        if self.has(Flaw::ReadOnlyBeforeRange) {
            self.check_writable(1)?;
        }
        let checked = self.check_buffer(start, buf.len());
        if checked.is_err() && self.has(Flaw::FailedWriteIsDoneInPart) && start < self.capacity_sectors() {
            self.inner.write_sectors(start, &[1; SECTOR])?;
        }
        checked?;
        let writable = self.check_writable(buf.len() as u64);
        if writable.is_ok() || self.has(Flaw::RefusedWriteIsDone) {
            self.inner.write_sectors(start, &buf[..buf.len() - buf.len() % SECTOR])?;
        }
        let behind = start + (buf.len() / SECTOR) as u64;
        if self.has(Flaw::WriteSpills) && !buf.is_empty() && behind < self.capacity_sectors() {
            self.inner.write_sectors(behind, &[2; SECTOR])?;
        }
        writable
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn read_sectors_vectored(&self, start: u64, bufs: &mut [IoSliceMut<'_>]) -> Result<()> {
        let len: usize = bufs.iter().map(|buf| buf.len()).sum();
        let ragged = bufs.iter().any(|buf| !buf.len().is_multiple_of(SECTOR));
        self.check_buffer(start, len)?;
        if ragged && self.has(Flaw::VectoredReadOfWholeSectorsOnly) {
            return Err(Error::new(ErrorKind::Misaligned, "misaligned"));
        }
        let shift = u64::from(self.has(Flaw::VectoredReadIsShifted) && start > 0);
        let mut whole = vec![0; len];
        self.read_sectors(start - shift, &mut whole)?;
        let mut rest = whole.as_slice();
        for buf in bufs {
            let (head, tail) = rest.split_at(buf.len());
            buf.copy_from_slice(head);
            rest = tail;
        }
        Ok(())
    }

    fn write_zeroes(&self, start: u64, count: u64, may_unmap: bool) -> Result<()> {
        self.check_range(start, count)?;
        self.check_writable(count)?;
        if may_unmap && self.has(Flaw::UnmapLeavesData) {
            return Ok(());
        }
        self.inner.write_zeroes(start, count, may_unmap)
    }

    fn discard(&self, start: u64, count: u64) -> Result<()> {
        self.check_range(start, count)?;
        self.check_writable(count)?;
        if count > 0 && self.has(Flaw::DiscardLeavesGarbage) {
            self.inner.write_sectors(start, &[3; SECTOR])?;
        }
        Ok(())
    }

    fn block_status(&self, start: u64, max: u64) -> Result<(BlockStatus, u64)> {
        if max == 0 && start < self.capacity_sectors() && self.has(Flaw::StatusOfZeroSectors) {
            return Ok((BlockStatus::Data, 1));
        }
        let (status, count) = self.inner.block_status(start, max)?;
        Ok(match self.flaw {
            Some(Flaw::DataIsCalledHole) => (BlockStatus::Hole, count),
            Some(Flaw::StatusOfNothing) => (status, 0),
            Some(Flaw::StatusPastTheEnd) if start + count == self.capacity_sectors() => (status, count + 1),
            _ => (status, count),
        })
    }
}

#[test]
fn the_suite_finds_every_broken_promise_of_reading() {
    let content = content(300);
    check(&Flawed::new(content.clone(), true, None), &content);
    for flaw in Flaw::READING {
        let device = Flawed::new(content.clone(), true, Some(flaw));
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&device, &content)));
        assert!(outcome.is_err(), "{flaw:?} was not found");
    }
}

#[test]
fn the_suite_finds_every_broken_promise_of_writing() {
    let content = content(300);
    check_writes(&Flawed::new(content.clone(), false, None), &mut content.clone());
    for flaw in Flaw::WRITING {
        let device = Flawed::new(content.clone(), false, Some(flaw));
        let outcome = catch_unwind(AssertUnwindSafe(|| check_writes(&device, &mut content.clone())));
        assert!(outcome.is_err(), "{flaw:?} was not found");
    }
}

/// Notes which methods are called.
struct Listener {
    heard: Mutex<Vec<&'static str>>,
    limits: DeviceLimits,
}

impl Listener {
    fn note(&self, method: &'static str) {
        self.heard.lock().unwrap().push(method);
    }
}

impl BlockDevice for Listener {
    fn capacity_sectors(&self) -> u64 {
        self.note("capacity_sectors");
        8
    }
    fn limits(&self) -> &DeviceLimits {
        self.note("limits");
        &self.limits
    }
    fn read_sectors(&self, _: u64, _: &mut [u8]) -> Result<()> {
        self.note("read_sectors");
        Ok(())
    }
    fn write_sectors(&self, _: u64, _: &[u8]) -> Result<()> {
        self.note("write_sectors");
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        self.note("flush");
        Ok(())
    }
    fn read_sectors_vectored(&self, _: u64, _: &mut [IoSliceMut<'_>]) -> Result<()> {
        self.note("read_sectors_vectored");
        Ok(())
    }
    fn write_sectors_vectored(&self, _: u64, _: &[IoSlice<'_>], _: WriteFlags) -> Result<()> {
        self.note("write_sectors_vectored");
        Ok(())
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> Result<()> {
        self.note("write_zeroes");
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> Result<()> {
        self.note("discard");
        Ok(())
    }
    fn block_status(&self, _: u64, _: u64) -> Result<(BlockStatus, u64)> {
        self.note("block_status");
        Ok((BlockStatus::Data, 1))
    }
}

/// A pointer that forwards only the required methods would lose what the device does better than the defaults.
#[test]
fn every_method_called_through_a_pointer_arrives_at_the_device_and_nothing_else_does() {
    fn call_all<D: BlockDevice>(device: D) -> Result<()> {
        device.capacity_sectors();
        device.limits();
        device.read_sectors(0, &mut [])?;
        device.write_sectors(0, &[])?;
        device.flush()?;
        device.read_sectors_vectored(0, &mut [])?;
        device.write_sectors_vectored(0, &[], WriteFlags::FUA)?;
        device.write_zeroes(0, 0, true)?;
        device.discard(0, 0)?;
        device.block_status(0, 1)?;
        Ok(())
    }
    let methods = [
        "capacity_sectors",
        "limits",
        "read_sectors",
        "write_sectors",
        "flush",
        "read_sectors_vectored",
        "write_sectors_vectored",
        "write_zeroes",
        "discard",
        "block_status",
    ];
    let listener = Arc::new(Listener { heard: Mutex::default(), limits: DeviceLimits::new(false) });
    let heard = || std::mem::take(&mut *listener.heard.lock().unwrap());
    call_all(&*listener).unwrap();
    assert_eq!(heard(), methods);
    call_all(Box::new(&*listener)).unwrap();
    assert_eq!(heard(), methods);
    call_all(Box::new(listener.clone()) as Box<dyn BlockDevice>).unwrap();
    assert_eq!(heard(), methods);
    call_all(listener.clone() as Arc<dyn BlockDevice>).unwrap();
    assert_eq!(heard(), methods);
}
