//! The L2 cache: the grain tables of one extent that are used most.
//!
//! Sixteen tables (an option of the caller), least *frequently* used out, as QEMU has it: a hit adds one to the
//! table's count, and when a count saturates all are halved; a miss replaces the table with the smallest count and
//! starts at 1. At 512 entries of 64 KiB, sixteen tables reach over 512 MiB of disk and take 64 KiB of memory, and at
//! most half as much again for the buffers of tables that are being read; sixteen of seSparse reach over 256 MiB, and
//! take 512 KiB and as much again.
//!
//! # Locking
//!
//! A hit takes no lock: a slot has a tag, its table and a number that changes with every replacement, and a look at
//! the entries counts if the tag is the same before and after. The counts are kept in several stripes, each for some
//! of the threads, so that threads do not pass a cache line to and fro. On a miss the table is read from the file
//! without any lock, and installed under one.
//!
//! # Pending entries
//!
//! A slot holds what the disk says plus the entries not yet published ([`Pending`], under the same lock), and lookups
//! consult the slot only. A table that was read while a publication ended may be older than what was published: it
//! is read again.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use super::pending::Pending;
use crate::error::Result;
use crate::format::EntryFormat;
use crate::sector::to_usize;

/// How many tables are kept unless the caller says otherwise.
pub(crate) const DEFAULT_TABLES: usize = 16;

/// The most tables that are kept, whatever the caller says: 2 TiB of disk with usual grains.
pub(crate) const MAX_TABLES: usize = 64 << 10;

/// Up to this many tables are looked through one by one, which is faster than to compute where one is.
const MOST_SCANNED: usize = 64;

/// At this count all are halved; nothing can wrap.
const SATURATED: u32 = u32::MAX / 2;

/// The number of no table.
const NONE: u32 = u32::MAX;

/// How many sets of counts there are.
const STRIPES: usize = 8;

/// A table in memory: the sectors of its grains, whichever way they are written in the file.
pub(crate) type Entries = [AtomicU64];

/// A cache of tables of `entries` entries each, by table number.
pub(crate) struct L2Cache {
    /// For each slot its table, and in the upper half how often the slot was filled.
    tags: Box<[AtomicU64]>,
    slots: Box<[OnceLock<Box<Entries>>]>,
    uses: Uses,
    /// Where a table is, if there are too many to look through.
    index: Option<RwLock<HashMap<u32, usize>>>,
    state: Mutex<State>,
    entries: usize,
    format: EntryFormat,
}

/// What is changed under the lock.
#[derive(Default)]
struct State {
    filled: usize,
    spare: Vec<Box<[u8]>>,
    pending: Pending,
    /// Whether nothing is changed any more.
    sealed: bool,
    /// How many publications have ended.
    published: u64,
}

impl L2Cache {
    /// An empty cache for at most `capacity` tables (at least one), whose entries are written in this way.
    pub(crate) fn new(capacity: usize, entries: usize, format: EntryFormat) -> Self {
        let capacity = capacity.clamp(1, MAX_TABLES);
        Self {
            tags: (0..capacity).map(|_| AtomicU64::new(NONE.into())).collect(),
            slots: (0..capacity).map(|_| OnceLock::new()).collect(),
            uses: Uses::new(capacity),
            index: (capacity > MOST_SCANNED).then(RwLock::default),
            state: Mutex::default(),
            entries,
            format,
        }
    }

    /// What `look` makes of the entries of a table that is here.
    #[inline]
    pub(crate) fn hit<R>(&self, table: u32, look: impl FnOnce(&Entries) -> R) -> Option<R> {
        let slot = self.find(table)?;
        let tag = self.tags[slot].load(Ordering::Acquire);
        if table_of(tag) != table {
            return None;
        }
        let answer = look(self.slots[slot].get()?);
        fence(Ordering::Acquire);
        // Replaced meanwhile: the entries were of two tables.
        if self.tags[slot].load(Ordering::Relaxed) != tag {
            return None;
        }
        self.uses.count(slot);
        Some(answer)
    }

    /// What `look` makes of the entries of a table that was not here; `load` reads it, more than once if need be.
    pub(crate) fn miss<R>(
        &self,
        table: u32,
        mut load: impl FnMut(&mut [u8]) -> Result<()>,
        look: impl FnOnce(&Entries) -> R,
    ) -> Result<R> {
        let (mut bytes, mut published) = {
            let mut state = self.state();
            (state.spare.pop(), state.published)
        };
        let mut bytes = bytes.take().unwrap_or_else(|| vec![0; self.entries * self.format.len()].into());
        loop {
            let loaded = load(&mut bytes);
            let mut state = self.state();
            if loaded.is_ok() && state.published != published {
                published = state.published;
                continue;
            }
            let answer = loaded.map(|()| look(self.install(&mut state, table, &bytes)));
            // As many as there are slots: more were only needed by as many simultaneous misses.
            if state.spare.len() < self.tags.len() {
                state.spare.push(bytes);
            }
            return answer;
        }
    }

    /// Changes what is pending, and shows the new values of the entries to lookups; `None` if the cache was sealed.
    pub(crate) fn change<R>(
        &self,
        entries: impl Iterator<Item = (u64, u32)>,
        more: impl FnOnce(&mut Pending) -> R,
    ) -> Option<R> {
        let mut state = self.state();
        if state.sealed {
            return None;
        }
        // Entries come in the order of their tables, as a rule.
        let mut cached: (u32, Option<&Entries>) = (NONE, None);
        for (grain, entry) in entries {
            state.pending.waiting().entries.insert(grain, entry);
            let (table, number) = self.split(grain);
            if cached.0 != table {
                cached = (table, self.find(table).and_then(|slot| self.slots[slot].get()).map(|entries| &**entries));
            }
            if let (_, Some(entries)) = cached {
                entries[number].store(entry.into(), Ordering::Release);
            }
        }
        Some(more(&mut state.pending))
    }

    /// Takes no change any more: what is pending now is all that will ever be published.
    pub(crate) fn seal(&self) {
        self.state().sealed = true;
    }

    /// Looks at what is pending.
    pub(crate) fn pending<R>(&self, look: impl FnOnce(&mut Pending) -> R) -> R {
        look(&mut self.state().pending)
    }

    /// The set that was taken last is durable.
    pub(crate) fn published(&self) {
        let mut state = self.state();
        state.pending.published();
        state.published += 1;
    }

    /// Forgets all tables: what is on disk was changed otherwise.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.published += 1;
        state.filled = 0;
        if let Some(index) = &self.index {
            index.write().unwrap_or_else(PoisonError::into_inner).clear();
        }
        for tag in &self.tags {
            tag.store(next_tag(tag, NONE), Ordering::Release);
        }
    }

    /// The first of `grains` whose entry is pending.
    pub(crate) fn first_pending(&self, grains: Range<u64>) -> Option<u64> {
        self.state().pending.first_of(grains)
    }

    #[inline]
    fn find(&self, table: u32) -> Option<usize> {
        match &self.index {
            None => {
                let is_here = |tag: &AtomicU64| table_of(tag.load(Ordering::Relaxed)) == table;
                let own = self.own_slot(table);
                if is_here(&self.tags[own]) { Some(own) } else { self.tags.iter().position(is_here) }
            }
            Some(index) => index.read().unwrap_or_else(PoisonError::into_inner).get(&table).copied(),
        }
    }

    /// Puts a table in, with what is pending of it, unless another thread was faster.
    fn install(&self, state: &mut State, table: u32, bytes: &[u8]) -> &Entries {
        if let Some(there) = self.find(table)
            && let Some(entries) = self.slots[there].get()
        {
            self.uses.count(there);
            return entries;
        }
        let slot = if state.filled < self.tags.len() {
            state.filled += 1;
            let is_empty = |slot: &usize| table_of(self.tags[*slot].load(Ordering::Relaxed)) == NONE;
            let own = Some(self.own_slot(table)).filter(is_empty);
            own.or_else(|| (0..self.tags.len()).find(is_empty)).unwrap_or(0)
        } else {
            self.uses.least(self.tags.len())
        };
        let tag = &self.tags[slot];
        self.reindex(table_of(tag.load(Ordering::Relaxed)), table, slot);
        let filled = next_tag(tag, table);
        tag.store(next_tag(tag, NONE), Ordering::Relaxed);
        fence(Ordering::Release);
        let entries = self.slots[slot].get_or_init(|| (0..self.entries).map(|_| AtomicU64::new(0)).collect());
        let mut slots = entries.iter();
        self.format.grains(bytes, |sector| {
            if let Some(entry) = slots.next() {
                entry.store(sector, Ordering::Relaxed);
            }
        });
        let first = u64::from(table) * self.entries as u64;
        for (grain, entry) in state.pending.of(first..first + self.entries as u64) {
            entries[self.split(grain).1].store(entry.into(), Ordering::Relaxed);
        }
        self.uses.start(slot);
        tag.store(filled, Ordering::Release);
        entries
    }

    /// Where a table is looked for first: there it is, if the slot was empty when it came.
    #[inline]
    fn own_slot(&self, table: u32) -> usize {
        table as usize % self.tags.len()
    }

    fn reindex(&self, gone: u32, table: u32, slot: usize) {
        if let Some(index) = &self.index {
            let mut index = index.write().unwrap_or_else(PoisonError::into_inner);
            index.remove(&gone);
            index.insert(table, slot);
        }
    }

    /// The table of a grain, and the number of its entry there.
    fn split(&self, grain: u64) -> (u32, usize) {
        let entries = self.entries as u64;
        (u32::try_from(grain / entries).unwrap_or(NONE), to_usize(grain % entries))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for L2Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capacity = self.tags.len();
        f.debug_struct("L2Cache").field("capacity", &capacity).field("entries", &self.entries).finish_non_exhaustive()
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is the table")]
fn table_of(tag: u64) -> u32 {
    tag as u32
}

/// The tag of a slot that is filled with `table` the next time.
fn next_tag(tag: &AtomicU64, table: u32) -> u64 {
    let fills = (tag.load(Ordering::Relaxed) >> 32).wrapping_add(1);
    fills << 32 | u64::from(table)
}

/// How often each slot was used, in stripes: the count of a slot is the sum of its stripes.
struct Uses {
    /// The lines of the first stripe, then those of the second, and so on.
    lines: Box<[Line]>,
    /// Lines of a stripe.
    stripe: usize,
}

/// Counts in a line: two cache lines, because processors fetch them in pairs.
const LINE: usize = 32;

/// Counts that lie together.
#[derive(Default)]
#[repr(align(128))]
struct Line([AtomicU32; LINE]);

thread_local! {
    /// The stripe of this thread.
    static STRIPE: Cell<usize> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES)
    };
}

impl Uses {
    fn new(slots: usize) -> Self {
        let stripe = slots.div_ceil(LINE);
        Self { lines: (0..stripe * STRIPES).map(|_| Line::default()).collect(), stripe }
    }

    #[inline]
    fn at(&self, stripe: usize, slot: usize) -> &AtomicU32 {
        &self.lines[stripe * self.stripe + slot / LINE].0[slot % LINE]
    }

    #[inline]
    fn count(&self, slot: usize) {
        // Threads of one stripe may lose a use of each other's: it is not worth a locked instruction in every read.
        let count = self.at(STRIPE.get(), slot);
        let uses = count.load(Ordering::Relaxed) + 1;
        count.store(uses, Ordering::Relaxed);
        if uses >= SATURATED {
            self.halve();
        }
    }

    #[cold]
    fn halve(&self) {
        for count in self.lines.iter().flat_map(|line| &line.0) {
            count.store(count.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
    }

    /// A slot was filled: it has one use.
    fn start(&self, slot: usize) {
        for stripe in 0..STRIPES {
            self.at(stripe, slot).store(u32::from(stripe == 0), Ordering::Relaxed);
        }
    }

    fn of(&self, slot: usize) -> u64 {
        (0..STRIPES).map(|stripe| u64::from(self.at(stripe, slot).load(Ordering::Relaxed))).sum()
    }

    /// The slot with the smallest count; all of them are filled.
    fn least(&self, slots: usize) -> usize {
        (0..slots).min_by_key(|&slot| self.of(slot)).unwrap_or(0)
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use std::cell::Cell;

    fn first(entries: &Entries) -> u64 {
        entries[0].load(Ordering::Relaxed)
    }

    /// Looks a table up, whose content is its number; says whether it had to be loaded.
    fn touch(cache: &L2Cache, table: u8) -> bool {
        let loaded = Cell::new(false);
        let load = |bytes: &mut [u8]| {
            loaded.set(true);
            bytes.fill(table);
            Ok(())
        };
        let hit = cache.hit(table.into(), first);
        let seen = hit.unwrap_or_else(|| cache.miss(table.into(), load, first).unwrap());
        assert_eq!(seen, u64::from(u32::from_le_bytes([table; 4])));
        loaded.get()
    }

    fn uses(cache: &L2Cache) -> Vec<(u32, u64)> {
        let slots = cache.tags.iter().enumerate();
        let slots = slots.map(|(slot, tag)| (table_of(tag.load(Ordering::Relaxed)), cache.uses.of(slot)));
        slots.filter(|&(table, _)| table != NONE).collect()
    }

    #[test]
    fn sixteen_tables_stay_and_the_seventeenth_takes_the_place_of_the_least_used() {
        let cache = L2Cache::new(DEFAULT_TABLES, 4, EntryFormat::Sectors);
        for table in 0..16 {
            assert!(touch(&cache, table));
        }
        for table in (0..16).filter(|&table| table != 7) {
            assert!(!touch(&cache, table));
        }
        assert!(touch(&cache, 16), "a new table is loaded");
        assert!(touch(&cache, 7), "the only table without a hit had to go");
        assert!(touch(&cache, 16), "and was replaced, as the least used again");
        for table in (0..16).filter(|&table| table != 7) {
            assert!(!touch(&cache, table), "{table} was used twice and stays");
        }
    }

    #[test]
    fn a_frequently_used_table_outlives_any_number_of_recent_ones() {
        let cache = L2Cache::new(2, 4, EntryFormat::Sectors);
        for _ in 0..10 {
            touch(&cache, 1);
        }
        for table in 2..100 {
            assert!(touch(&cache, table));
        }
        assert!(!touch(&cache, 1));
    }

    #[test]
    fn when_a_count_saturates_all_are_halved() {
        let cache = L2Cache::new(2, 4, EntryFormat::Sectors);
        touch(&cache, 2);
        touch(&cache, 3);
        cache.uses.at(STRIPE.get(), 0).store(SATURATED - 1, Ordering::Relaxed);
        let other = (STRIPE.get() + 1) % STRIPES;
        cache.uses.at(other, 0).store(100, Ordering::Relaxed);
        cache.uses.at(other, 1).store(8, Ordering::Relaxed);
        cache.uses.at(0, 1).store(0, Ordering::Relaxed);
        assert!(!touch(&cache, 2));
        assert_eq!(uses(&cache), [(2, u64::from(SATURATED / 2) + 50), (3, 4)]);
    }

    #[test]
    fn a_table_that_cannot_be_read_is_an_error_and_is_not_kept() {
        let cache = L2Cache::new(2, 4, EntryFormat::Sectors);
        let fail = |_: &mut [u8]| Err(Error::text(ErrorKind::Io, "bad disk"));
        let error = cache.miss(5, fail, first).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(touch(&cache, 5));
    }

    #[test]
    fn of_two_simultaneous_misses_the_first_is_kept_and_both_see_the_table() {
        let cache = L2Cache::new(2, 4, EntryFormat::Sectors);
        let slow = |bytes: &mut [u8]| {
            assert!(touch(&cache, 3), "another thread misses while this one reads");
            bytes.fill(3);
            Ok(())
        };
        assert_eq!(cache.miss(3, slow, first).unwrap(), 0x0303_0303);
        assert_eq!(uses(&cache), [(3, 2)]);
    }

    #[test]
    fn a_cache_of_many_tables_keeps_the_same_promises() {
        let cache = L2Cache::new(100, 4, EntryFormat::Sectors);
        for table in 0..100 {
            assert!(touch(&cache, table));
        }
        for table in (0..100).filter(|&table| table != 7) {
            assert!(!touch(&cache, table));
        }
        assert!(touch(&cache, 200));
        assert!(touch(&cache, 7), "the only table without a hit had to go");
        assert!(!touch(&cache, 99));
        assert!(touch(&cache, 200), "and so had the one after it");
    }

    #[test]
    fn a_full_cache_reuses_the_buffers_of_the_tables_that_go() {
        let cache = L2Cache::new(2, 4, EntryFormat::Sectors);
        for table in 0..50 {
            touch(&cache, table);
        }
        assert_eq!(cache.state().spare.len(), 1);
    }

    /// What the table on disk holds can change while it is read: each of the interleavings, forced.
    #[test]
    fn a_table_that_was_read_before_a_publication_ended_is_read_again() {
        let cache = L2Cache::new(1, 4, EntryFormat::Sectors);
        let mut loads = 0;
        let load = |bytes: &mut [u8]| {
            loads += 1;
            // The first read comes before the publication of entry 0 has written its table, and ends after it.
            bytes.fill(0);
            if loads == 1 {
                cache.change([(0, 70)].into_iter(), |_| ());
                assert!(cache.pending(Pending::take).is_some());
                cache.published();
            } else {
                bytes[..4].copy_from_slice(&70_u32.to_le_bytes());
            }
            Ok(())
        };
        assert_eq!(cache.miss(0, load, first).unwrap(), 70);
        assert_eq!(loads, 2);
    }

    #[test]
    fn an_entry_that_is_pending_or_being_published_is_seen_in_a_table_read_before() {
        for taken in [false, true] {
            let cache = L2Cache::new(1, 4, EntryFormat::Sectors);
            let load = |bytes: &mut [u8]| {
                bytes.fill(0);
                cache.change([(4, 70)].into_iter(), |_| ());
                assert!(!taken || cache.pending(Pending::take).is_some());
                Ok(())
            };
            assert_eq!(cache.miss(1, load, first).unwrap(), 70, "taken: {taken}");
            assert!(touch(&cache, 2), "another table takes the slot");
            let old = |bytes: &mut [u8]| {
                bytes.fill(0);
                Ok(())
            };
            assert_eq!(cache.miss(1, old, first).unwrap(), 70, "it is still not on disk; taken: {taken}");
        }
    }

    #[test]
    fn a_change_is_seen_in_a_table_that_is_here() {
        let cache = L2Cache::new(2, 4, EntryFormat::Sectors);
        touch(&cache, 1);
        cache.change([(5, 50), (4, 40)].into_iter(), |_| ());
        let both = |entries: &Entries| [0, 1].map(|number: usize| entries[number].load(Ordering::Relaxed));
        assert_eq!(cache.hit(1, both), Some([40, 50]));
    }

    #[test]
    fn a_look_at_a_table_that_is_replaced_meanwhile_does_not_count() {
        let cache = L2Cache::new(1, 4, EntryFormat::Sectors);
        touch(&cache, 1);
        let look = |entries: &Entries| {
            touch(&cache, 2);
            first(entries)
        };
        assert_eq!(cache.hit(1, look), None);
        assert_eq!(cache.hit(2, first), Some(0x0202_0202));
    }

    #[test]
    fn a_cleared_cache_has_nothing_and_forgets_what_is_being_read() {
        let cache = L2Cache::new(2, 4, EntryFormat::Sectors);
        touch(&cache, 1);
        let mut loads = 0;
        let load = |bytes: &mut [u8]| {
            loads += 1;
            bytes.fill(loads);
            if loads == 1 {
                cache.clear();
            }
            Ok(())
        };
        assert_eq!(cache.miss(2, load, first).unwrap(), 0x0202_0202);
        assert!(touch(&cache, 1));
    }
}
