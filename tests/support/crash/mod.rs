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
//! - A name leads to what it led to when the last sync of the directory began that returned before the crash, or to
//!   what one of the later changes made of it, each name by itself. But a file that was renamed is never lost by that:
//!   it has its old name as long as it has not the new one.
//!
//! ```text
//! workload -> CrashDisk (log) -> states(position, Choice) -> CrashState -> restart() -> CrashDisk -> ...
//! content: bytes, copied on write     directory: names     broken: what would be with another log
//! point, names: what is undecided     choice: which of the states
//! ```

pub mod broken;
pub mod choice;
pub mod content;
pub mod directory;
pub mod names;
pub mod point;

use std::collections::{BTreeMap, HashMap};
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
    state: Mutex<State>,
}

struct State {
    /// All files there ever were, in the order in which they were made.
    files: Vec<File>,
    /// The names as they are, and as they were before the log.
    names: Names,
    start_names: Names,
    log: Vec<Entry>,
    syncs: usize,
    broken: Option<Ignored>,
    during_sync: Option<Hook>,
}

/// The files that names lead to, by their places.
type Names = BTreeMap<String, usize>;

struct File {
    /// What messages call it: the name that it has had from the beginning, or was to have.
    label: String,
    id: u64,
    /// What is in it, and what was in it when it came to be.
    live: Content,
    start: Arc<Content>,
}

impl File {
    fn new(label: String, content: Content) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self { label, id, start: Arc::new(content.clone()), live: content }
    }
}

type Ignored = Arc<dyn Fn(&SyncCall) -> bool + Send + Sync>;
type Hook = Arc<dyn Fn(&SyncCall) + Send + Sync>;

/// Something that happened.
#[derive(Clone, Debug)]
enum Entry {
    Change(Arc<Change>),
    Rename(Arc<Rename>),
    Sync(SyncCall, Synced),
    Mark(u64),
}

/// What a sync has made durable.
#[derive(Clone, Debug)]
enum Synced {
    File(usize, Arc<Content>),
    Names(Arc<Names>),
}

/// A change of names.
#[derive(Debug)]
struct Rename {
    what: NameChange,
    /// Which names lead to which files now. Of a file that was renamed the new name comes first.
    changed: Vec<(String, Option<usize>)>,
}

/// A call that changes names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameChange {
    /// `create`, with the name that the file is to have in the end.
    Create(String, String),
    /// `rename`: the old name and the new one.
    Rename(String, String),
    /// `link`: the name and the further one.
    Link(String, String),
    /// `remove`.
    Remove(String),
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

/// What a [`SyncCall`] has instead of the name of a file if it is about the names.
pub const DIRECTORY: &str = "the directory";

/// A call of `sync`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncCall {
    /// The name of the file, and of a new one that which it is to have; or [`DIRECTORY`].
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
        let (labels, contents): (Vec<_>, Vec<_>) = files.unzip();
        let names = (0..).zip(&labels).map(|(file, name)| (name.clone(), file)).collect();
        Self::with_names(labels.into_iter().zip(contents).map(|(label, content)| File::new(label, content)), names)
    }

    fn with_names(files: impl Iterator<Item = File>, names: Names) -> Self {
        let state = State {
            files: files.collect(),
            start_names: names.clone(),
            names,
            log: Vec::new(),
            syncs: 0,
            broken: None,
            during_sync: None,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state) }) }
    }

    /// A file as a storage. All storages of one file are the same file, and stay so when it gets another name.
    pub fn storage(&self, name: &str) -> Arc<dyn Storage> {
        let file = self.shared.lock().file(name);
        self.storage_of(file)
    }

    fn storage_of(&self, file: usize) -> Arc<dyn Storage> {
        Arc::new(CrashFile { shared: Arc::clone(&self.shared), file })
    }

    /// All files by their names, for `OpenOptions::open_with`.
    pub fn resolver(&self) -> HashMap<String, Arc<dyn Storage>> {
        let names = self.shared.lock().names.clone();
        names.into_iter().map(|(name, file)| (name, self.storage_of(file))).collect()
    }

    /// What a file holds if there is no crash.
    pub fn live(&self, name: &str) -> Vec<u8> {
        let state = self.shared.lock();
        state.files[state.file(name)].live.to_vec()
    }

    /// Notes in the log that something has come to pass: a flush has returned, a write was begun.
    pub fn mark(&self, value: u64) {
        self.shared.lock().log.push(Entry::Mark(value));
    }

    /// The number of entries in the log: each change of a file or name, each sync when it returned, each mark. A crash
    /// may come after 0 of them, or after any number up to this one.
    pub fn log_len(&self) -> usize {
        self.shared.lock().log.len()
    }

    /// The changes in the log, with their positions and the files that they are about.
    pub fn changes(&self) -> Vec<(usize, String, Operation)> {
        let state = self.shared.lock();
        let changes = state.log.iter().enumerate().filter_map(|(position, entry)| match entry {
            Entry::Change(change) => Some((position, state.files[change.file].label.clone(), change.what.clone())),
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
        States::new(Arc::new(Point::new(&self.shared.lock(), position)), choice)
    }

    /// The positions that say all: a mark, a sync or the end of the log comes next. Where a change comes next, the
    /// position after it allows the same states with the same marks, and more.
    pub fn positions(&self) -> Vec<usize> {
        let state = self.shared.lock();
        let says_all =
            |&position: &usize| !matches!(state.log.get(position), Some(Entry::Change(_) | Entry::Rename(_)));
        (0..=state.log.len()).filter(says_all).collect()
    }

    /// The states of all these positions, in their order.
    pub fn each_state(&self, choice: &mut Choice, mut visit: impl FnMut(CrashState)) {
        for position in self.positions() {
            self.states(position, choice).for_each(&mut visit);
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
        f.debug_struct("CrashDisk").field("names", &self.shared.lock().names).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes durable what `look` says, as it is when this begins.
    fn sync(&self, look: impl FnOnce(&State) -> (String, Synced)) {
        let (sync, synced, hook) = {
            let mut state = self.lock();
            let (file, synced) = look(&state);
            let sync = SyncCall { file, number: state.syncs, began: state.log.len() };
            state.syncs += 1;
            (sync, synced, state.during_sync.clone())
        };
        // Without the lock: others go on meanwhile, and what they do is not made durable by this.
        if let Some(hook) = hook {
            hook(&sync);
        }
        self.lock().log.push(Entry::Sync(sync, synced));
    }
}

impl State {
    fn file(&self, name: &str) -> usize {
        *self.names.get(name).unwrap_or_else(|| panic!("there is no file {name:?}"))
    }

    /// Whether a sync has made something durable.
    fn counts(&self, sync: &SyncCall) -> bool {
        self.broken.as_ref().is_none_or(|broken| !broken(sync))
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
        let content = &mut state.files[self.file].live;
        let changed = change(content);
        let len = content.len();
        state.log.push(Entry::Change(Arc::new(Change { file: self.file, what, changed, len })));
    }
}

impl fmt::Debug for CrashFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashFile").field("file", &self.shared.lock().files[self.file].label).finish_non_exhaustive()
    }
}

impl Storage for CrashFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.shared.lock().files[self.file].live.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.shared.lock();
        let content = &state.files[self.file].live;
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
        self.shared.sync(|state| {
            let file = &state.files[self.file];
            (file.label.clone(), Synced::File(self.file, Arc::new(file.live.clone())))
        });
        Ok(())
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        if !range.is_empty() {
            self.change(Operation::PunchHole(range.clone()), |content| content.zero(range));
        }
        Ok(())
    }

    fn allocated_len(&self) -> io::Result<u64> {
        Ok(self.shared.lock().files[self.file].live.allocated())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok(self.shared.lock().files[self.file].live.next_data(offset))
    }

    fn id(&self) -> Option<StorageId> {
        Some(StorageId { device: CRASH_DEVICE, object: self.shared.lock().files[self.file].id })
    }
}
