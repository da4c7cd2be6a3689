//! Storages that watch or fail: wrappers around any other.
//!
//! Neither hands out the descriptor of what it wraps, so that no transfer can pass it by.

use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use vmdk::{Storage, StorageId};

/// What a [`CountingStorage`] has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads: offset and length of each, in order. A vectored read is one.
    pub reads: Vec<(u64, u64)>,
    /// Writes: offset and length of each, in order. A vectored write is one.
    pub writes: Vec<(u64, u64)>,
    /// Holes punched, in order.
    pub holes: Vec<Range<u64>>,
    /// Calls of `set_len`: the lengths, in order.
    pub lens: Vec<u64>,
    /// Calls of `sync`.
    pub syncs: usize,
    /// Calls of `end_writing`.
    pub ends: usize,
}

impl Counts {
    /// The bytes that were read.
    pub fn bytes_read(&self) -> u64 {
        self.reads.iter().map(|(_, len)| len).sum()
    }

    /// The bytes that were written.
    pub fn bytes_written(&self) -> u64 {
        self.writes.iter().map(|(_, len)| len).sum()
    }

    /// Whether something was changed, or could have been.
    pub fn touched(&self) -> bool {
        !(self.writes.is_empty() && self.holes.is_empty() && self.lens.is_empty())
    }
}

/// Counts what passes through.
#[derive(Debug)]
pub struct CountingStorage {
    inner: Arc<dyn Storage>,
    counts: Mutex<Counts>,
}

impl CountingStorage {
    /// Watches `inner`.
    pub fn new(inner: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self { inner, counts: Mutex::default() })
    }

    /// What has passed since the beginning or the last [`take`](Self::take).
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    /// The same, and starts anew.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap()
    }
}

impl Storage for CountingStorage {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.lock().reads.push((offset, buf.len() as u64));
        self.inner.read_exact_at(buf, offset)
    }

    fn read_exact_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.lock().reads.push((offset, total_len(bufs)));
        self.inner.read_exact_vectored_at(bufs, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.lock().writes.push((offset, buf.len() as u64));
        self.inner.write_all_at(buf, offset)
    }

    fn write_all_vectored_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.lock().writes.push((offset, bufs.iter().map(|buf| buf.len() as u64).sum()));
        self.inner.write_all_vectored_at(bufs, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lock().lens.push(len);
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.lock().syncs += 1;
        self.inner.sync()
    }

    fn end_writing(&self) -> io::Result<()> {
        self.lock().ends += 1;
        self.inner.end_writing()
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.lock().holes.push(range.clone());
        self.inner.punch_hole(range)
    }

    fn allocated_len(&self) -> io::Result<u64> {
        self.inner.allocated_len()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.next_data(offset)
    }

    fn id(&self) -> Option<StorageId> {
        self.inner.id()
    }
}

/// A call that a [`FaultStorage`] or a [`FaultDirectory`](super::directory::FaultDirectory) can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `read_exact_at` and `read_exact_vectored_at`.
    Read,
    /// `write_all_at` and `write_all_vectored_at`.
    Write,
    /// `set_len`.
    SetLen,
    /// `sync`.
    Sync,
    /// `punch_hole`.
    PunchHole,
    /// `exists` of a directory.
    Exists,
    /// `claim` of a directory.
    Claim,
    /// `create` of a directory.
    Create,
    /// `rename` of a directory.
    Rename,
    /// `link` of a directory.
    Link,
    /// `remove` of a directory.
    Remove,
    /// `sync` of a directory.
    SyncNames,
}

/// "Input/output error" of Unix.
pub const EIO: i32 = 5;
/// "No space left on device" of Unix.
pub const ENOSPC: i32 = 28;

#[derive(Debug)]
enum Fault {
    /// Fails one call after `left` more of its kind have passed.
    Nth { operation: Operation, left: u64, errno: i32 },
    /// Fails every call of a kind that touches the bytes.
    Within { operation: Operation, range: Range<u64>, errno: i32 },
}

/// How much of a call is carried out before it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing.
    Refused,
    /// The first half of it, in whole sectors and rounded up: of a single sector all. A `set_len` or `sync` is done.
    Short,
    /// Nothing, nor is anything that comes after: somebody has killed the process.
    Killed,
}

/// A call that was made to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struck {
    /// The name of the storage; for a call of a directory that of the file that it is about.
    pub storage: String,
    /// What was called.
    pub operation: Operation,
    /// The bytes that it concerned.
    pub bytes: Range<u64>,
}

/// Counts the calls of several storages, and makes one of them fail.
#[derive(Debug, Default)]
pub struct Countdown(Mutex<Counting>);

#[derive(Debug, Default)]
struct Counting {
    seen: Vec<Operation>,
    paused: bool,
    armed: Option<(u64, How, i32)>,
    struck: Option<Struck>,
}

impl Countdown {
    /// Counts anew from 0; the call with the number `nth` fails.
    pub fn arm(&self, nth: u64, how: How, errno: i32) {
        *self.0.lock().unwrap() = Counting { armed: Some((nth, how, errno)), ..Counting::default() };
    }

    /// Counts anew from 0, and nothing fails.
    pub fn disarm(&self) {
        *self.0.lock().unwrap() = Counting::default();
    }

    /// Does not count what `work` calls.
    pub fn uncounted<R>(&self, work: impl FnOnce() -> R) -> R {
        self.0.lock().unwrap().paused = true;
        let done = work();
        self.0.lock().unwrap().paused = false;
        done
    }

    /// The calls since then.
    pub fn seen(&self) -> Vec<Operation> {
        self.0.lock().unwrap().seen.clone()
    }

    /// The call that has failed.
    pub fn struck(&self) -> Option<Struck> {
        self.0.lock().unwrap().struck.clone()
    }

    pub(super) fn pass(&self, storage: &str, operation: Operation, bytes: &Range<u64>) -> Option<Failure> {
        let mut counting = self.0.lock().unwrap();
        if counting.paused {
            return None;
        }
        counting.seen.push(operation);
        let (nth, how, errno) = counting.armed?;
        let number = counting.seen.len() as u64 - 1;
        if number < nth || (number > nth && how != How::Killed) {
            return None;
        }
        counting.struck.get_or_insert_with(|| Struck { storage: storage.to_owned(), operation, bytes: bytes.clone() });
        Some(Failure { how, errno })
    }
}

/// What becomes of a call that fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    how: How,
    errno: i32,
}

impl Failure {
    pub(super) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }

    /// How many of `len` bytes are moved all the same.
    fn moved(self, len: usize) -> usize {
        match self.how {
            How::Refused | How::Killed => 0,
            How::Short => (len / 2).next_multiple_of(super::SECTOR).min(len),
        }
    }
}

/// Fails where it is told to.
#[derive(Debug)]
pub struct FaultStorage {
    inner: Arc<dyn Storage>,
    faults: Mutex<Vec<Fault>>,
    countdown: Option<(String, Arc<Countdown>)>,
}

impl FaultStorage {
    /// Wraps `inner`; nothing fails yet.
    pub fn new(inner: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self { inner, faults: Mutex::default(), countdown: None })
    }

    /// Wraps `inner`, whose calls count with those of others.
    pub fn counted(inner: Arc<dyn Storage>, name: &str, countdown: &Arc<Countdown>) -> Arc<Self> {
        let countdown = Some((name.to_owned(), Arc::clone(countdown)));
        Arc::new(Self { inner, faults: Mutex::default(), countdown })
    }

    /// The `nth` read from now on, counted from 0, fails with an I/O error; those after it succeed.
    pub fn fail_nth_read(&self, nth: u64) {
        self.fail_nth(Operation::Read, nth, EIO);
    }

    /// Every read that overlaps `range` fails with an I/O error.
    pub fn fail_reads_of(&self, range: Range<u64>) {
        self.fail_within(Operation::Read, range, EIO);
    }

    /// The `nth` call of a kind from now on, counted from 0, fails; those after it succeed.
    pub fn fail_nth(&self, operation: Operation, nth: u64, errno: i32) {
        self.faults.lock().unwrap().push(Fault::Nth { operation, left: nth, errno });
    }

    /// Every call of a kind that overlaps `range` fails.
    pub fn fail_within(&self, operation: Operation, range: Range<u64>, errno: i32) {
        self.faults.lock().unwrap().push(Fault::Within { operation, range, errno });
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.faults.lock().unwrap().clear();
    }

    /// Whether a call is to fail, and how.
    fn judge(&self, called: Operation, touched: Range<u64>) -> Option<Failure> {
        let counted = self.countdown.as_ref().and_then(|(name, countdown)| countdown.pass(name, called, &touched));
        let mut hit = None;
        // Every counter moves on, whichever fault strikes.
        self.faults.lock().unwrap().retain_mut(|fault| match fault {
            Fault::Nth { operation, left: 0, errno } if *operation == called => {
                hit = Some(*errno);
                false
            }
            Fault::Nth { operation, left, .. } if *operation == called => {
                *left -= 1;
                true
            }
            Fault::Within { operation, range, errno } if *operation == called => {
                if range.start < touched.end && touched.start < range.end {
                    hit = Some(*errno);
                }
                true
            }
            _ => true,
        });
        counted.or(hit.map(|errno| Failure { how: How::Refused, errno }))
    }

    /// Writes what a failing write stores all the same.
    fn write_part(&self, failure: Failure, bytes: &[u8], offset: u64) -> io::Result<()> {
        let moved = failure.moved(bytes.len());
        if moved > 0 {
            self.inner.write_all_at(&bytes[..moved], offset)?;
        }
        Err(failure.error())
    }
}

impl Storage for FaultStorage {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self.judge(Operation::Read, span(offset, buf.len() as u64)) {
            None => self.inner.read_exact_at(buf, offset),
            Some(failure) => {
                let moved = failure.moved(buf.len());
                self.inner.read_exact_at(&mut buf[..moved], offset)?;
                Err(failure.error())
            }
        }
    }

    fn read_exact_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        match self.judge(Operation::Read, span(offset, total_len(bufs))) {
            None => self.inner.read_exact_vectored_at(bufs, offset),
            Some(failure) => Err(failure.error()),
        }
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        match self.judge(Operation::Write, span(offset, buf.len() as u64)) {
            None => self.inner.write_all_at(buf, offset),
            Some(failure) => self.write_part(failure, buf, offset),
        }
    }

    fn write_all_vectored_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        match self.judge(Operation::Write, span(offset, len)) {
            None => self.inner.write_all_vectored_at(bufs, offset),
            Some(failure) => {
                self.write_part(failure, &bufs.iter().flat_map(|buf| buf.to_vec()).collect::<Vec<_>>(), offset)
            }
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.judge(Operation::SetLen, 0..len) {
            None => self.inner.set_len(len),
            Some(failure) => {
                if failure.how == How::Short {
                    self.inner.set_len(len)?;
                }
                Err(failure.error())
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self.judge(Operation::Sync, 0..0) {
            None => self.inner.sync(),
            Some(failure) => Err(failure.error()),
        }
    }

    fn end_writing(&self) -> io::Result<()> {
        self.inner.end_writing()
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        match self.judge(Operation::PunchHole, range.clone()) {
            None => self.inner.punch_hole(range),
            Some(failure) => {
                let moved = failure.moved(super::index(range.end - range.start)) as u64;
                self.inner.punch_hole(range.start..range.start + moved)?;
                Err(failure.error())
            }
        }
    }

    fn allocated_len(&self) -> io::Result<u64> {
        self.inner.allocated_len()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.next_data(offset)
    }

    fn id(&self) -> Option<StorageId> {
        self.inner.id()
    }
}

fn span(offset: u64, len: u64) -> Range<u64> {
    offset..offset.saturating_add(len)
}

fn total_len(bufs: &[IoSliceMut<'_>]) -> u64 {
    bufs.iter().map(|buf| buf.len() as u64).sum()
}
