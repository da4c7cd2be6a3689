//! Breaking the promise, to see whether a test notices: syncs that do nothing, and what would have happened in another
//! order.

use std::sync::Arc;

use super::content::Content;
use super::{CrashDisk, Entry, File, NameChange, Operation, SyncCall, Synced};

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
        let log = self.shared.lock().log.clone();
        let file_of = |entry: &Entry| match entry {
            Entry::Sync(sync, Synced::File(file, _)) if sync.number == number => Some(*file),
            _ => None,
        };
        let found = log.iter().enumerate().find_map(|(position, entry)| Some((position, file_of(entry)?)));
        let (middle, file) = found.expect("a sync of a file that has returned");
        let ends = |entry: &Entry| matches!(entry, Entry::Sync(_, Synced::File(other, _)) if *other == file);
        let first = log[..middle].iter().rposition(ends).map_or(0, |sync| sync + 1);
        let last = log[middle + 1..].iter().position(ends).map_or(log.len(), |sync| middle + 1 + sync);
        let is_change = |entry: &&Entry| matches!(entry, Entry::Change(change) if change.file == file);
        let (one, other) = (&log[first..middle], &log[middle + 1..last]);
        let mut swapped: Vec<&Entry> =
            log[..first].iter().chain(one.iter().filter(|entry| !is_change(entry))).collect();
        swapped.extend(other.iter().filter(is_change));
        swapped.push(&log[middle]);
        swapped.extend(one.iter().filter(is_change));
        swapped.extend(other.iter().filter(|entry| !is_change(entry)));
        swapped.extend(&log[last..]);
        self.replayed(&swapped)
    }

    /// What would have happened if the entry at `from` of the log had come earlier: right before the one at `to`. It
    /// may not be the making of a file.
    #[must_use]
    pub fn with_entry_earlier(&self, from: usize, to: usize) -> Self {
        assert!(to < from, "entry {from} does not come after {to}");
        let log = self.shared.lock().log.clone();
        let mut moved: Vec<&Entry> = log.iter().collect();
        moved[to..=from].rotate_right(1);
        self.replayed(&moved)
    }

    /// A disk that began as this one, and on which all this was done.
    fn replayed(&self, log: &[&Entry]) -> Self {
        let disk = {
            let state = self.shared.lock();
            let made = |entry: &&Entry| matches!(entry, Entry::Rename(rename) if matches!(rename.what, NameChange::Create(..)));
            let start = &state.files[..state.files.len() - state.log.iter().filter(made).count()];
            let copy = |file: &File| File::new(file.label.clone(), Content::clone(&file.start));
            Self::with_names(start.iter().map(copy), state.start_names.clone())
        };
        for entry in log {
            disk.replay(entry);
        }
        disk
    }

    fn replay(&self, entry: &Entry) {
        match entry {
            Entry::Mark(value) => self.mark(*value),
            Entry::Sync(_, Synced::File(file, _)) => self.storage_of(*file).sync().expect("it never fails"),
            Entry::Sync(_, Synced::Names(_)) => self.sync_names(),
            Entry::Change(change) => {
                let file = self.storage_of(change.file);
                let done = match &change.what {
                    Operation::Write(range) => file.write_all_at(&change.written(range), range.start),
                    Operation::PunchHole(range) => file.punch_hole(range.clone()),
                    Operation::SetLen(len) => file.set_len(*len),
                };
                done.expect("it did not fail the first time");
            }
            Entry::Rename(rename) => self.change_names(&rename.what, true).expect("it did not fail the first time"),
        }
    }
}
