//! What all streams of a chain share: their inflated grains, and what it takes to inflate them.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::grain_cache::GrainCache;
use crate::codec::Inflater;

/// Inflaters that are kept, with a buffer each. More threads than this make some anew.
const MAX_IDLE: usize = 16;

/// The memory of a chain for inflating.
pub(crate) struct Inflation {
    grains: GrainCache,
    allow_raw: bool,
    idle: Mutex<Vec<Tools>>,
}

/// What it takes to inflate a grain.
pub(super) struct Tools {
    pub(super) inflater: Inflater,
    /// Compressed data.
    pub(super) data: Vec<u8>,
}

impl Inflation {
    /// Keeps so many bytes of grains; data without zlib's container is read if `allow_raw` says so.
    pub(crate) fn new(cache_bytes: usize, allow_raw: bool) -> Self {
        Self { grains: GrainCache::new(cache_bytes), allow_raw, idle: Mutex::default() }
    }

    pub(super) fn grains(&self) -> &GrainCache {
        &self.grains
    }

    /// Does `work` with tools that nobody else uses meanwhile.
    pub(super) fn with_tools<T>(&self, work: impl FnOnce(&mut Tools) -> T) -> T {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let mut tools = kept.unwrap_or_else(|| Tools { inflater: Inflater::new(self.allow_raw), data: Vec::new() });
        let done = work(&mut tools);
        let mut idle = idle();
        if idle.len() < MAX_IDLE {
            idle.push(tools);
        }
        done
    }
}

impl fmt::Debug for Inflation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflation").field("grains", &self.grains).finish_non_exhaustive()
    }
}
