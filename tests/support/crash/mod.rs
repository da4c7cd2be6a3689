//! A computer that can lose its power: files in memory, a log of what was done to them, and every state that a crash
//! may leave behind.
//!
//! A [`CrashDisk`] holds named files. Its storages behave as files do, and everything that changes one goes into a log
//! that all files share. Afterwards [`CrashDisk::states`] builds what may be left of the files if the power fails at a
//! point of the log:
//!
//! - What a file had when its last `sync` began that returned before the crash is there, whole. A sync is for its own
//!   file only.
//! - A sector changed since then is old, or as one of the changes left it: any one, and each sector by itself. A write
//!   to a part of a sector is a change to the whole sector, as the file showed it right after the write. A hole is a
//!   write of zeros, and so is the gap that growing leaves.
//! - A length changed since then is any between the shortest and the longest that the file has had since. What was
//!   written past the length that comes back is lost; what was never written below it is zero.
//!
//! ```text
//! workload -> CrashDisk (log) -> states(position, Choice) -> CrashState -> restart() -> CrashDisk -> ...
//! content: bytes, copied on write     point: what is undecided     choice: which of the states
//! ```
//!
//! Names do not change: what a crash does to a directory is not modelled.

pub mod choice;
pub mod content;
pub mod point;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use vmdk::{Storage, StorageId};

use super::{SECTOR, index};

use self::choice::{Choice, States};
use self::content::{Changed, Content};
use self::point::{CrashState, Point};

/// The device number of all files of crashing disks; no host hands it out, nor do the storages of the crate.
const CRASH_DEVICE: u64 = u64::MAX - 0xc4a5;

/// Files, and a log of what was done to them.
#[derive(Clone)]
pub struct CrashDisk {
    shared: Arc<Shared>,
}

struct Shared {
    names: Vec<String>,
    /// What tells the files of this disk from those of another.
    first_id: u64,
    state: Mutex<State>,
}

struct State {
    /// The files as they are, and as they were before the log.
    live: Vec<Content>,
    start: Vec<Arc<Content>>,
    log: Vec<Entry>,
    syncs: usize,
    broken: Option<Ignored>,
    during_sync: Option<Hook>,
}

type Ignored = Arc<dyn Fn(&SyncCall) -> bool + Send + Sync>;
type Hook = Arc<dyn Fn(&SyncCall) + Send + Sync>;

/// Something that happened.
#[derive(Clone, Debug)]
enum Entry {
    Change(Arc<Change>),
    Sync(SyncCall, Arc<Content>),
    Mark(u64),
}

/// A change of a file.
#[derive(Debug)]
struct Change {
    file: usize,
    what: Operation,
    changed: Changed,
    /// The length of the file afterwards.
    len: u64,
}

impl Change {
    /// The bytes that a write has written.
    fn written(&self, range: &Range<u64>) -> Vec<u8> {
        let first = range.start / SECTOR as u64;
        let sectors = self.changed.sectors.iter().filter(|(number, _)| *number >= first);
        let bytes: Vec<u8> = sectors.flat_map(|(_, sector)| *sector.bytes()).collect();
        let start = index(range.start - first * SECTOR as u64);
        bytes[start..start + index(range.end - range.start)].to_vec()
    }
}

/// A call that changes a file, with the bytes or the length that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `write_all_at`.
    Write(Range<u64>),
    /// `punch_hole`.
    PunchHole(Range<u64>),
    /// `set_len`.
    SetLen(u64),
}

/// A call of `sync`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncCall {
    /// The name of the file.
    pub file: String,
    /// How many syncs, of whatever file, began before this one.
    pub number: usize,
    /// How much of the log there was when it began: that is what it is about.
    pub began: usize,
}

impl CrashDisk {
    /// Files with their durable content.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Self {
        Self::of(files.into_iter().map(|(name, bytes)| (name.to_owned(), Content::new(bytes))))
    }

    fn of(files: impl Iterator<Item = (String, Content)>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let (names, live): (Vec<_>, Vec<_>) = files.unzip();
        let first_id = NEXT_ID.fetch_add(names.len() as u64, Ordering::Relaxed);
        let start = live.iter().cloned().map(Arc::new).collect();
        let state = State { live, start, log: Vec::new(), syncs: 0, broken: None, during_sync: None };
        Self { shared: Arc::new(Shared { names, first_id, state: Mutex::new(state) }) }
    }

    /// A file as a storage. All storages of one file are the same file.
    pub fn storage(&self, name: &str) -> Arc<dyn Storage> {
        Arc::new(CrashFile { shared: Arc::clone(&self.shared), file: self.shared.file(name) })
    }

    /// All files by their names, for `OpenOptions::open_with`.
    pub fn resolver(&self) -> HashMap<String, Arc<dyn Storage>> {
        self.shared.names.iter().map(|name| (name.clone(), self.storage(name))).collect()
    }

    /// What a file holds if there is no crash.
    pub fn live(&self, name: &str) -> Vec<u8> {
        self.shared.lock().live[self.shared.file(name)].to_vec()
    }

    /// Notes in the log that something has come to pass: a flush has returned, a write was begun.
    pub fn mark(&self, value: u64) {
        self.shared.lock().log.push(Entry::Mark(value));
    }

    /// The number of entries in the log: each change, each sync when it returned, each mark. A crash may come after 0
    /// of them, or after any number up to this one.
    pub fn log_len(&self) -> usize {
        self.shared.lock().log.len()
    }

    /// The changes in the log, with their positions and the files that they are about.
    pub fn changes(&self) -> Vec<(usize, String, Operation)> {
        let state = self.shared.lock();
        let changes = state.log.iter().enumerate().filter_map(|(position, entry)| match entry {
            Entry::Change(change) => Some((position, self.shared.names[change.file].clone(), change.what.clone())),
            _ => None,
        });
        changes.collect()
    }

    /// The syncs in the log, in the order in which they returned, with their positions.
    pub fn syncs(&self) -> Vec<(usize, SyncCall)> {
        let state = self.shared.lock();
        let syncs = state.log.iter().enumerate().filter_map(|(position, entry)| match entry {
            Entry::Sync(sync, _) => Some((position, sync.clone())),
            _ => None,
        });
        syncs.collect()
    }

    /// The states that a crash after the first `position` entries of the log may leave, as many of them as `choice`
    /// wants, and none that it has seen already.
    pub fn states<'c>(&self, position: usize, choice: &'c mut Choice) -> States<'c> {
        States::new(Arc::new(Point::new(&self.shared.names, &self.shared.lock(), position)), choice)
    }

    /// The positions that say all: a mark, a sync or the end of the log comes next. Where a change comes next, the
    /// position after it allows the same states with the same marks, and more.
    pub fn positions(&self) -> Vec<usize> {
        let state = self.shared.lock();
        let says_all = |&position: &usize| !matches!(state.log.get(position), Some(Entry::Change(_)));
        (0..=state.log.len()).filter(says_all).collect()
    }

    /// The states of all these positions, in their order.
    pub fn each_state(&self, choice: &mut Choice, mut visit: impl FnMut(CrashState)) {
        for position in self.positions() {
            self.states(position, choice).for_each(&mut visit);
        }
    }
}

/// Breaking the promise, to see whether a test notices.
impl CrashDisk {
    /// The sync with this number makes nothing durable, although it returns `Ok`. May be called after the workload as
    /// well, and replaces what was said before.
    pub fn ignore_sync(&self, number: usize) {
        self.ignore_syncs(move |sync| sync.number == number);
    }

    /// The same for all syncs that `ignored` says yes to.
    pub fn ignore_syncs(&self, ignored: impl Fn(&SyncCall) -> bool + Send + Sync + 'static) {
        self.shared.lock().broken = Some(Arc::new(ignored));
    }

    /// Every sync counts again.
    pub fn ignore_no_sync(&self) {
        self.shared.lock().broken = None;
    }

    /// What would have happened if the two phases around a sync had been swapped: what was done to its file since the
    /// sync before it is done right after it, and what was done after it, up to the next sync, right before it.
    #[must_use]
    pub fn with_phases_swapped(&self, number: usize) -> Self {
        let state = self.shared.lock();
        let sync_of = |entry: &Entry| match entry {
            Entry::Sync(sync, _) if sync.number == number => Some(sync.file.clone()),
            _ => None,
        };
        let found = state.log.iter().enumerate().find_map(|(position, entry)| Some((position, sync_of(entry)?)));
        let (middle, file) = found.expect("a sync that has returned");
        let number = self.shared.file(&file);
        let ends = |entry: &Entry| matches!(entry, Entry::Sync(sync, _) if sync.file == file);
        let first = state.log[..middle].iter().rposition(ends).map_or(0, |sync| sync + 1);
        let last = state.log[middle + 1..].iter().position(ends).map_or(state.log.len(), |sync| middle + 1 + sync);
        let is_change = |entry: &&Entry| matches!(entry, Entry::Change(change) if change.file == number);
        let (one, other) = (&state.log[first..middle], &state.log[middle + 1..last]);
        let mut log: Vec<&Entry> =
            state.log[..first].iter().chain(one.iter().filter(|entry| !is_change(entry))).collect();
        log.extend(other.iter().filter(is_change));
        log.push(&state.log[middle]);
        log.extend(one.iter().filter(is_change));
        log.extend(other.iter().filter(|entry| !is_change(entry)));
        log.extend(&state.log[last..]);

        let files = self.shared.names.iter().zip(&state.start);
        let swapped = Self::of(files.map(|(name, content)| (name.clone(), Content::clone(content))));
        for entry in log {
            swapped.replay(entry);
        }
        swapped
    }

    /// Does what was done to another disk.
    fn replay(&self, entry: &Entry) {
        match entry {
            Entry::Mark(value) => self.mark(*value),
            Entry::Sync(sync, _) => self.storage(&sync.file).sync().expect("it never fails"),
            Entry::Change(change) => {
                let file = self.storage(&self.shared.names[change.file]);
                let done = match &change.what {
                    Operation::Write(range) => file.write_all_at(&change.written(range), range.start),
                    Operation::PunchHole(range) => file.punch_hole(range.clone()),
                    Operation::SetLen(len) => file.set_len(*len),
                };
                done.expect("it did not fail the first time");
            }
        }
    }
}

/// Watching.
impl CrashDisk {
    /// Calls `hook` in every sync from now on, between the moment that decides what it is about and its return. The
    /// hook may use the disk and its storages; if it syncs, it is called for that as well.
    pub fn during_sync(&self, hook: impl Fn(&SyncCall) + Send + Sync + 'static) {
        self.shared.lock().during_sync = Some(Arc::new(hook));
    }
}

impl fmt::Debug for CrashDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashDisk").field("files", &self.shared.names).finish_non_exhaustive()
    }
}

impl Shared {
    fn file(&self, name: &str) -> usize {
        self.names.iter().position(|other| other == name).unwrap_or_else(|| panic!("there is no file {name:?}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// One file of a disk.
struct CrashFile {
    shared: Arc<Shared>,
    file: usize,
}

impl CrashFile {
    fn change(&self, what: Operation, change: impl FnOnce(&mut Content) -> Changed) {
        let mut state = self.shared.lock();
        let content = &mut state.live[self.file];
        let changed = change(content);
        let len = content.len();
        state.log.push(Entry::Change(Arc::new(Change { file: self.file, what, changed, len })));
    }
}

impl fmt::Debug for CrashFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashFile").field("name", &self.shared.names[self.file]).finish_non_exhaustive()
    }
}

impl Storage for CrashFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.shared.lock().live[self.file].len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.shared.lock();
        let content = &state.live[self.file];
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > content.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.read(buf, offset);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|&end| i64::try_from(end).is_ok());
        let end = end.ok_or(io::ErrorKind::FileTooLarge)?;
        if !buf.is_empty() {
            self.change(Operation::Write(offset..end), |content| content.write(buf, offset));
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        i64::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.change(Operation::SetLen(len), |content| content.set_len(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let (sync, content, hook) = {
            let mut state = self.shared.lock();
            let file = self.shared.names[self.file].clone();
            let sync = SyncCall { file, number: state.syncs, began: state.log.len() };
            state.syncs += 1;
            (sync, Arc::new(state.live[self.file].clone()), state.during_sync.clone())
        };
        // Without the lock: others go on meanwhile, and what they do is not made durable by this.
        if let Some(hook) = hook {
            hook(&sync);
        }
        self.shared.lock().log.push(Entry::Sync(sync, content));
        Ok(())
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        if !range.is_empty() {
            self.change(Operation::PunchHole(range.clone()), |content| content.zero(range));
        }
        Ok(())
    }

    fn allocated_len(&self) -> io::Result<u64> {
        Ok(self.shared.lock().live[self.file].allocated())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok(self.shared.lock().live[self.file].next_data(offset))
    }

    fn id(&self) -> Option<StorageId> {
        Some(StorageId { device: CRASH_DEVICE, object: self.shared.first_id + self.file as u64 })
    }
}
