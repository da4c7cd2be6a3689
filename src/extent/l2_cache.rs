//! The L2 cache: the grain tables of one extent that are used most.
//!
//! Sixteen tables (an option of the caller), least *frequently* used out, as QEMU has it: a hit adds one to the
//! table's count, and when a count saturates all are halved; a miss replaces the table with the smallest count and
//! starts at 1. At 512 entries of 64 KiB, sixteen tables reach over 512 MiB of disk and take 32 KiB of memory, and at
//! most as much again for the buffers of tables that are being read.
//!
//! # Locking
//!
//! A hit takes the shared lock and one atomic increment, so that reads on many threads do not wait for each other.
//! On a miss the table is read from the file without any lock, and installed under the exclusive one. Buffers go
//! round: once the cache is full, a miss allocates nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use crate::error::Result;

/// How many tables are kept unless the caller says otherwise.
pub(crate) const DEFAULT_TABLES: usize = 16;

/// Up to this many tables are looked through one by one, which is faster than to compute where one is.
const MOST_SCANNED: usize = 64;

/// At this count all are halved. Half of the range is left, so that no number of concurrent hits can wrap.
const SATURATED: u32 = u32::MAX / 2;

/// A cache of tables of `table_len` bytes each, by table number.
pub(crate) struct L2Cache {
    slots: RwLock<Slots>,
    spare: Mutex<Vec<Box<[u8]>>>,
    capacity: usize,
    table_len: usize,
}

#[derive(Default)]
struct Slots {
    /// Where a table is, if there are too many to look through.
    index: Option<HashMap<u32, usize>>,
    /// Apart from the rest: sixteen of them are one cache line.
    tables: Vec<u32>,
    kept: Vec<Slot>,
}

struct Slot {
    uses: AtomicU32,
    bytes: Box<[u8]>,
}

impl L2Cache {
    /// An empty cache for at most `capacity` tables (at least one).
    pub(crate) fn new(capacity: usize, table_len: usize) -> Self {
        let index = (capacity > MOST_SCANNED).then(HashMap::new);
        let slots = Slots { index, ..Slots::default() };
        Self { slots: RwLock::new(slots), spare: Mutex::default(), capacity: capacity.max(1), table_len }
    }

    /// What `look` makes of the bytes of a table that is here.
    #[inline]
    pub(crate) fn hit<R>(&self, table: u32, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.hit(table).map(look)
    }

    /// What `look` makes of the bytes of a table that was not here; `load` reads it.
    pub(crate) fn miss<R>(
        &self,
        table: u32,
        load: impl FnOnce(&mut [u8]) -> Result<()>,
        look: impl FnOnce(&[u8]) -> R,
    ) -> Result<R> {
        let mut bytes = self.take_spare();
        if let Err(error) = load(&mut bytes) {
            self.give_spare(bytes);
            return Err(error);
        }
        let answer = look(&bytes);
        let left = self.slots.write().unwrap_or_else(PoisonError::into_inner).install(table, bytes, self.capacity);
        if let Some(left) = left {
            self.give_spare(left);
        }
        Ok(answer)
    }

    fn take_spare(&self) -> Box<[u8]> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| vec![0; self.table_len].into())
    }

    /// Keeps at most as many buffers as there are slots: more were only needed by as many simultaneous misses.
    fn give_spare(&self, bytes: Box<[u8]>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.capacity {
            spare.push(bytes);
        }
    }
}

impl fmt::Debug for L2Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capacity, table_len, .. } = self;
        f.debug_struct("L2Cache").field("capacity", capacity).field("table_len", table_len).finish_non_exhaustive()
    }
}

impl Slots {
    #[inline]
    fn hit(&self, table: u32) -> Option<&[u8]> {
        let slot = &self.kept[self.find(table)?];
        // Increments are never lost, so exactly one hit sees the count arrive.
        if slot.uses.fetch_add(1, Ordering::Relaxed) + 1 == SATURATED {
            for slot in &self.kept {
                let half = slot.uses.load(Ordering::Relaxed) / 2;
                slot.uses.store(half, Ordering::Relaxed);
            }
        }
        Some(&slot.bytes)
    }

    #[inline]
    fn find(&self, table: u32) -> Option<usize> {
        match &self.index {
            None => self.tables.iter().position(|&there| there == table),
            Some(index) => index.get(&table).copied(),
        }
    }

    /// Puts a table in and gives back the buffer that is left over: that of the table that had to go, or `bytes`
    /// itself if another thread was faster.
    fn install(&mut self, table: u32, bytes: Box<[u8]>, capacity: usize) -> Option<Box<[u8]>> {
        if self.hit(table).is_some() {
            return Some(bytes);
        }
        if self.kept.len() < capacity {
            if let Some(index) = &mut self.index {
                index.insert(table, self.kept.len());
            }
            self.tables.push(table);
            self.kept.push(Slot { uses: AtomicU32::new(1), bytes });
            return None;
        }
        let uses = |slot: &Slot| slot.uses.load(Ordering::Relaxed);
        let (victim, slot) = self.kept.iter_mut().enumerate().min_by_key(|(_, slot)| uses(slot))?;
        let gone = std::mem::replace(&mut self.tables[victim], table);
        if let Some(index) = &mut self.index {
            index.remove(&gone);
            index.insert(table, victim);
        }
        slot.uses = AtomicU32::new(1);
        Some(std::mem::replace(&mut slot.bytes, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use std::cell::Cell;

    /// Looks a table up, whose content is its number; says whether it had to be loaded.
    fn touch(cache: &L2Cache, table: u8) -> bool {
        let loaded = Cell::new(false);
        let load = |bytes: &mut [u8]| {
            loaded.set(true);
            bytes.fill(table);
            Ok(())
        };
        let hit = cache.hit(table.into(), |bytes| bytes[0]);
        let seen = hit.unwrap_or_else(|| cache.miss(table.into(), load, |bytes| bytes[0]).unwrap());
        assert_eq!(seen, table);
        loaded.get()
    }

    fn uses(cache: &L2Cache) -> Vec<(u32, u32)> {
        let slots = cache.slots.read().unwrap();
        slots.tables.iter().zip(&slots.kept).map(|(&t, slot)| (t, slot.uses.load(Ordering::Relaxed))).collect()
    }

    #[test]
    fn sixteen_tables_stay_and_the_seventeenth_takes_the_place_of_the_least_used() {
        let cache = L2Cache::new(DEFAULT_TABLES, 4);
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
        let cache = L2Cache::new(2, 4);
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
        let cache = L2Cache::new(2, 4);
        touch(&cache, 1);
        touch(&cache, 2);
        {
            let slots = cache.slots.read().unwrap();
            slots.kept[0].uses.store(SATURATED - 1, Ordering::Relaxed);
            slots.kept[1].uses.store(9, Ordering::Relaxed);
        }
        assert!(!touch(&cache, 1));
        assert_eq!(uses(&cache), [(1, SATURATED / 2), (2, 4)]);
    }

    #[test]
    fn a_table_that_cannot_be_read_is_an_error_and_is_not_kept() {
        let cache = L2Cache::new(2, 4);
        let fail = |_: &mut [u8]| Err(Error::text(ErrorKind::Io, "bad disk"));
        let error = cache.miss(5, fail, |bytes| bytes[0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(touch(&cache, 5));
    }

    #[test]
    fn of_two_simultaneous_misses_the_first_is_kept_and_both_see_the_table() {
        let cache = L2Cache::new(2, 4);
        let slow = |bytes: &mut [u8]| {
            assert!(touch(&cache, 3), "another thread misses while this one reads");
            bytes.fill(3);
            Ok(())
        };
        assert_eq!(cache.miss(3, slow, |bytes| bytes[0]).unwrap(), 3);
        assert_eq!(uses(&cache), [(3, 2)]);
    }

    #[test]
    fn a_cache_of_many_tables_keeps_the_same_promises() {
        let cache = L2Cache::new(100, 4);
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
        let cache = L2Cache::new(2, 4);
        for table in 0..50 {
            touch(&cache, table);
        }
        assert_eq!(cache.spare.lock().unwrap().len(), 1);
    }
}
