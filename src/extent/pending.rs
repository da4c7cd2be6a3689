//! What a writer has changed in the tables of an extent and not yet published: beside the L2 cache, in memory.
//!
//! A changed entry is seen by every lookup at once, and written to its table later, in a batch
//! (see [`super::publication`]). While a batch is written it is still pending: an entry leaves the set when it is
//! durable.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Memory that one pending entry takes, about.
pub(crate) const ENTRY_MEMORY: usize = 32;

/// A grain table that was made since the image was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewTable {
    pub(crate) table: u32,
    /// The sector of the file at which it begins.
    pub(crate) start: u32,
    /// Where its redundant copy begins, if the extent keeps one.
    pub(crate) redundant: Option<u32>,
}

/// Changes that are published together.
#[derive(Debug, Default)]
pub(crate) struct ChangeSet {
    /// New values of entries, by the number of the grain in the extent.
    pub(crate) entries: BTreeMap<u64, u32>,
    pub(crate) tables: Vec<NewTable>,
    /// Bytes of the file that no entry names any more once the set is durable.
    pub(crate) freed: Vec<Range<u64>>,
}

impl ChangeSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.tables.is_empty() && self.freed.is_empty()
    }

    /// Bytes of memory that the set takes, about.
    pub(crate) fn memory(&self) -> usize {
        (self.entries.len() + self.tables.len() + self.freed.len()) * ENTRY_MEMORY
    }
}

/// All that is pending: the set that is being published, and what has changed since it was taken.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    publishing: Option<Arc<ChangeSet>>,
    waiting: ChangeSet,
}

impl Pending {
    pub(crate) fn waiting(&mut self) -> &mut ChangeSet {
        &mut self.waiting
    }

    /// Bytes of memory that what waits takes, about.
    pub(crate) fn memory(&self) -> usize {
        self.waiting.memory()
    }

    /// The values that the entries of `grains` have beside those of their table, older ones first.
    pub(crate) fn of(&self, grains: Range<u64>) -> impl Iterator<Item = (u64, u32)> {
        let publishing = self.publishing.iter().flat_map({
            let grains = grains.clone();
            move |set| set.entries.range(grains.clone())
        });
        publishing.chain(self.waiting.entries.range(grains)).map(|(&grain, &entry)| (grain, entry))
    }

    /// The first of `grains` that has a value here.
    pub(crate) fn first_of(&self, grains: Range<u64>) -> Option<u64> {
        let first = |set: &ChangeSet| set.entries.range(grains.clone()).next().map(|(&grain, _)| grain);
        let publishing = self.publishing.as_deref().and_then(first);
        publishing.into_iter().chain(first(&self.waiting)).min()
    }

    /// Takes what waits, to be published; `None` if there is nothing.
    pub(crate) fn take(&mut self) -> Option<Arc<ChangeSet>> {
        if self.waiting.is_empty() {
            return None;
        }
        let set = Arc::new(std::mem::take(&mut self.waiting));
        self.publishing = Some(Arc::clone(&set));
        Some(set)
    }

    /// What was taken last is durable.
    pub(crate) fn published(&mut self) {
        self.publishing = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_value_comes_after_the_one_that_is_being_published() {
        let mut pending = Pending::default();
        pending.waiting().entries.extend([(3, 30), (9, 90)]);
        let set = pending.take().unwrap();
        pending.waiting().entries.insert(3, 31);
        assert_eq!(pending.of(0..9).collect::<Vec<_>>(), [(3, 30), (3, 31)]);
        assert_eq!(
            [pending.first_of(0..20), pending.first_of(4..20), pending.first_of(4..9)],
            [Some(3), Some(9), None]
        );
        assert_eq!(set.entries.len(), 2);
        pending.published();
        assert_eq!(pending.of(0..10).collect::<Vec<_>>(), [(3, 31)]);
    }

    #[test]
    fn nothing_waits_after_it_was_taken() {
        let mut pending = Pending::default();
        assert!(pending.take().is_none());
        pending.waiting().freed.push(0..512);
        assert!(pending.take().is_some());
        assert!(pending.take().is_none());
        assert_eq!(pending.memory(), 0);
    }
}
