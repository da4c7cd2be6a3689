//! Inflated grains, so that what is read in small pieces is inflated once.
//!
//! One cache serves all streams of a chain. It holds so many bytes at most, and besides the grains that threads are at
//! just now: one each. A grain that several threads want at once is inflated by one of them, and the others wait for it
//! and for nothing else: no lock is held while another grain is inflated or copied.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lru::LruCache;

use crate::error::Result;

/// What a chain keeps unless told otherwise: 256 usual grains, 16 MiB of disk.
pub(crate) const DEFAULT_BYTES: usize = 16 << 20;

/// Memory of grains that went that is kept for the next ones.
const MAX_SPARE: usize = 4;

/// A grain of one of the extents that share the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) extent: usize,
    pub(crate) grain: u64,
}

/// The cache.
pub(crate) struct GrainCache {
    max_bytes: usize,
    state: Mutex<State>,
}

struct State {
    grains: LruCache<Key, Arc<Grain>>,
    bytes: usize,
    extents: usize,
    spare: Vec<Box<[u8]>>,
}

struct Grain {
    len: usize,
    content: OnceLock<Box<[u8]>>,
    /// Held by the thread that inflates it.
    filling: Mutex<()>,
}

impl GrainCache {
    /// With less than a grain, nothing is kept.
    pub(crate) fn new(max_bytes: usize) -> Self {
        let state = State { grains: LruCache::unbounded(), bytes: 0, extents: 0, spare: Vec::new() };
        Self { max_bytes, state: Mutex::new(state) }
    }

    /// A number for an extent that joins.
    pub(crate) fn join(&self) -> usize {
        let mut state = self.lock();
        state.extents += 1;
        state.extents
    }

    /// Copies a grain from its byte `skip` on, if it is there.
    pub(crate) fn copy(&self, key: Key, skip: usize, buf: &mut [u8]) -> bool {
        let Some(grain) = self.lock().grains.get(&key).map(Arc::clone) else { return false };
        match grain.content.get() {
            Some(content) => {
                buf.copy_from_slice(&content[skip..skip + buf.len()]);
                true
            }
            None => false,
        }
    }

    /// Copies a grain of `len` bytes from its byte `skip` on, which `inflate` makes if it is not there.
    ///
    /// # Errors
    /// That of `inflate`. Nothing is kept then.
    pub(crate) fn copy_or_inflate(
        &self,
        key: Key,
        len: usize,
        skip: usize,
        buf: &mut [u8],
        inflate: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let grain = self.enter(key, len);
        let inflated = self.fill(&grain, inflate);
        match (&inflated, grain.content.get()) {
            (Ok(()), Some(content)) => buf.copy_from_slice(&content[skip..skip + buf.len()]),
            _ => self.remove(key, &grain),
        }
        self.leave(grain);
        inflated
    }

    fn fill(&self, grain: &Grain, inflate: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        if grain.content.get().is_some() {
            return Ok(());
        }
        let _filling = grain.filling.lock().unwrap_or_else(PoisonError::into_inner);
        if grain.content.get().is_some() {
            return Ok(());
        }
        let mut content = self.memory(grain.len);
        inflate(&mut content)?;
        grain.content.get_or_init(|| content);
        Ok(())
    }

    /// The place of a grain, which is made if there is none.
    fn enter(&self, key: Key, len: usize) -> Arc<Grain> {
        let mut state = self.lock();
        if let Some(grain) = state.grains.get(&key) {
            return Arc::clone(grain);
        }
        let grain = Arc::new(Grain { len, content: OnceLock::new(), filling: Mutex::default() });
        if len > self.max_bytes {
            return grain;
        }
        while state.bytes + len > self.max_bytes {
            let Some((_, oldest)) = state.grains.pop_lru() else { break };
            state.bytes -= oldest.len;
            state.keep_memory(oldest);
        }
        state.bytes += len;
        state.grains.put(key, Arc::clone(&grain));
        grain
    }

    fn remove(&self, key: Key, grain: &Arc<Grain>) {
        let mut state = self.lock();
        if state.grains.peek(&key).is_some_and(|there| Arc::ptr_eq(there, grain)) {
            state.grains.pop(&key);
            state.bytes -= grain.len;
        }
    }

    /// Ends the use of a grain, which may have gone from the cache meanwhile, or was never in it.
    fn leave(&self, grain: Arc<Grain>) {
        if Arc::strong_count(&grain) == 1 {
            self.lock().keep_memory(grain);
        }
    }

    fn memory(&self, len: usize) -> Box<[u8]> {
        let mut state = self.lock();
        let fitting = state.spare.iter().position(|memory| memory.len() == len);
        let memory = fitting.map(|at| state.spare.swap_remove(at));
        drop(state);
        memory.unwrap_or_else(|| vec![0; len].into_boxed_slice())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Keeps the memory of a grain that nobody uses.
    fn keep_memory(&mut self, grain: Arc<Grain>) {
        let memory = Arc::into_inner(grain).and_then(|grain| grain.content.into_inner());
        if let Some(memory) = memory.filter(|_| self.spare.len() < MAX_SPARE) {
            self.spare.push(memory);
        }
    }
}

impl fmt::Debug for GrainCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrainCache").field("max_bytes", &self.max_bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LEN: usize = 1024;

    fn key(grain: u64) -> Key {
        Key { extent: 1, grain }
    }

    /// Reads a byte of a grain; says whether it had to be inflated.
    fn read(cache: &GrainCache, grain: u64) -> bool {
        let value = u8::try_from(grain).unwrap();
        let mut inflated = false;
        let mut byte = [0];
        let inflate = |content: &mut [u8]| {
            inflated = true;
            content.fill(value);
            Ok(())
        };
        cache.copy_or_inflate(key(grain), LEN, LEN - 1, &mut byte, inflate).unwrap();
        assert_eq!(byte, [value]);
        inflated
    }

    #[test]
    fn the_grain_that_was_not_used_for_longest_goes() {
        let cache = GrainCache::new(3 * LEN);
        assert!([1, 2, 3].iter().all(|&grain| read(&cache, grain)));
        assert!([1, 2, 3, 1].iter().all(|&grain| !read(&cache, grain)));
        assert!(read(&cache, 4), "instead of 2");
        assert!([1, 3, 4].iter().all(|&grain| !read(&cache, grain)));
        assert!(read(&cache, 2));
        let state = cache.lock();
        assert_eq!((state.bytes, state.grains.len()), (3 * LEN, 3));
        assert!(state.spare.len() <= 1);
    }

    #[test]
    fn a_cache_without_room_keeps_nothing_but_memory() {
        let cache = GrainCache::new(LEN - 1);
        assert!((0..9).all(|_| read(&cache, 7)));
        let state = cache.lock();
        assert_eq!((state.bytes, state.grains.len(), state.spare.len()), (0, 0, 1));
    }

    #[test]
    fn what_fails_is_not_kept() {
        let cache = GrainCache::new(9 * LEN);
        let fail = |_: &mut [u8]| Err(Error::text(ErrorKind::Corrupt, "damaged"));
        for _ in 0..2 {
            let error = cache.copy_or_inflate(key(1), LEN, 0, &mut [0; 8], fail).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        assert!(!cache.copy(key(1), 0, &mut [0; 8]));
        assert_eq!(cache.lock().bytes, 0);
        assert!(read(&cache, 1));
        let mut buf = [0; 8];
        assert!(cache.copy(key(1), 3, &mut buf));
        assert_eq!(buf, [1; 8]);
    }

    #[test]
    fn threads_that_want_one_grain_inflate_it_once() {
        let cache = GrainCache::new(9 * LEN);
        let (count, start) = (AtomicUsize::new(0), Barrier::new(4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    let inflate = |content: &mut [u8]| {
                        count.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        content.fill(5);
                        Ok(())
                    };
                    let mut buf = [0; 16];
                    cache.copy_or_inflate(key(1), LEN, 8, &mut buf, inflate).unwrap();
                    assert_eq!(buf, [5; 16]);
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
    }
}
