//! Grains compressed by several threads, or by the caller's alone.
//!
//! ```text
//! caller: idle block <- content -> job ...  result of the oldest -> sink -> idle block
//!                                   \        /
//! workers:                           compress
//! ```
//!
//! There is a fixed number of blocks, which go round: they are all the memory that is used.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::codec::Deflater;
use crate::error::Result;
use crate::format::{GRAIN_MARKER_LEN, Marker};
use crate::parallel::{Conveyor, jobs_for};
use crate::sector::SECTOR_SIZE;

use super::GRAIN_LEN;

/// A grain on its way into the stream.
pub(super) struct Block {
    /// The sector of the disk at which it begins.
    pub(super) lba: u64,
    content: Vec<u8>,
    packed: Vec<u8>,
    /// Bytes of `packed` that are used.
    len: usize,
}

/// What compresses grains and hands them on in the order in which they came.
pub(super) enum Compressors {
    Here(Deflater, Block),
    Threads(Workers),
}

pub(super) struct Workers {
    conveyor: Arc<Conveyor<Block, Block>>,
    threads: Vec<JoinHandle<()>>,
    /// Blocks that nothing is in.
    idle: Vec<Block>,
}

impl Compressors {
    /// With one thread, or none, the caller's own does the work. If a thread cannot be started, the others do its work.
    pub(super) fn new(level: u32, threads: usize) -> Self {
        let started = if threads > 1 { Workers::start(level, threads) } else { None };
        started.map_or_else(|| Self::Here(Deflater::new(level), Block::new()), Self::Threads)
    }

    /// Compresses the grain at the sector `lba`, to which zeros are added up to its full length. Whatever is done by
    /// now, and must be out of the way, goes to `sink`.
    ///
    /// # Errors
    /// Those of `sink`; and if a thread is lost.
    pub(super) fn push(&mut self, lba: u64, content: &[u8], mut sink: impl FnMut(&Block) -> Result<()>) -> Result<()> {
        match self {
            Self::Here(deflater, block) => {
                block.lba = lba;
                if content.len() == GRAIN_LEN {
                    block.len = pack(deflater, lba, content, &mut block.packed);
                } else {
                    block.fill(lba, content);
                    block.compress(deflater);
                }
                sink(block)
            }
            Self::Threads(workers) => {
                let mut block = match workers.idle.pop() {
                    Some(block) => block,
                    None => match workers.conveyor.pop()? {
                        Some(done) => {
                            sink(&done)?;
                            done
                        }
                        None => Block::new(),
                    },
                };
                block.fill(lba, content);
                workers.conveyor.push(block);
                Ok(())
            }
        }
    }

    /// Hands on what is still under way.
    ///
    /// # Errors
    /// As for `push`.
    pub(super) fn drain(&mut self, mut sink: impl FnMut(&Block) -> Result<()>) -> Result<()> {
        if let Self::Threads(workers) = self {
            while let Some(done) = workers.conveyor.pop()? {
                sink(&done)?;
                workers.idle.push(done);
            }
        }
        Ok(())
    }

    /// Drops what is under way: nobody waits for it any more.
    pub(super) fn stop(&self) {
        if let Self::Threads(workers) = self {
            workers.conveyor.close();
        }
    }
}

impl Workers {
    fn start(level: u32, threads: usize) -> Option<Self> {
        let conveyor = Arc::new(Conveyor::<Block, Block>::new());
        let start = |_| {
            let conveyor = Arc::clone(&conveyor);
            let work = move || {
                let mut deflater = Deflater::new(level);
                conveyor.work(|mut block| {
                    block.compress(&mut deflater);
                    block
                });
            };
            thread::Builder::new().name("vmdk-deflate".to_owned()).spawn(work).ok()
        };
        let threads: Vec<_> = (0..threads).map_while(start).collect();
        let idle = (0..jobs_for(threads.len())).map(|_| Block::new()).collect();
        (!threads.is_empty()).then_some(Self { conveyor, threads, idle })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.conveyor.close();
        for thread in self.threads.drain(..) {
            // One that has panicked is an error already, or nobody minds.
            let _ = thread.join();
        }
    }
}

impl Block {
    /// A block without memory, which it gets when it is first used.
    fn new() -> Self {
        Self { lba: 0, content: Vec::new(), packed: Vec::new(), len: 0 }
    }

    /// Marker and compressed content, in whole sectors.
    pub(super) fn packed(&self) -> &[u8] {
        &self.packed[..self.len]
    }

    fn fill(&mut self, lba: u64, content: &[u8]) {
        self.lba = lba;
        self.content.clear();
        self.content.reserve_exact(GRAIN_LEN);
        self.content.extend_from_slice(content);
        self.content.resize(GRAIN_LEN, 0);
    }

    fn compress(&mut self, deflater: &mut Deflater) {
        self.len = pack(deflater, self.lba, &self.content, &mut self.packed);
    }
}

/// Writes marker and compressed content to the beginning of `packed`; says how long they are in whole sectors.
fn pack(deflater: &mut Deflater, lba: u64, content: &[u8], packed: &mut Vec<u8>) -> usize {
    packed.resize((GRAIN_MARKER_LEN + Deflater::most(GRAIN_LEN)).next_multiple_of(SECTOR_SIZE), 0);
    let (marker, data) = packed.split_at_mut(GRAIN_MARKER_LEN);
    let size = deflater.grain(content, data);
    let end = GRAIN_MARKER_LEN + size;
    // A grain has 64 KiB.
    marker.copy_from_slice(&Marker::encode_grain(lba, u32::try_from(size).unwrap_or(u32::MAX)));
    let len = end.next_multiple_of(SECTOR_SIZE);
    packed[end..len].fill(0);
    len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    fn packed(threads: usize, grains: u64, fail_at: Option<u64>) -> (Result<()>, Vec<(u64, Vec<u8>)>) {
        let mut compressors = Compressors::new(6, threads);
        let mut seen = Vec::new();
        let mut sink = |block: &Block| {
            if Some(block.lba) == fail_at {
                return Err(Error::text(ErrorKind::Io, "no room"));
            }
            seen.push((block.lba, block.packed().to_vec()));
            Ok(())
        };
        let pushed = (0..grains).try_for_each(|lba| {
            let content = vec![lba.to_le_bytes()[0] | 1; if lba + 1 == grains { 512 } else { GRAIN_LEN }];
            compressors.push(lba, &content, &mut sink)
        });
        let done = pushed.and_then(|()| compressors.drain(&mut sink));
        (done, seen)
    }

    #[test]
    fn blocks_are_the_same_with_any_number_of_threads() {
        let (done, alone) = packed(0, 100, None);
        done.unwrap();
        assert_eq!(alone.len(), 100);
        assert!(alone.iter().all(|(_, block)| block.len() == SECTOR_SIZE));
        for threads in [1, 2, 3, 8] {
            let (done, blocks) = packed(threads, 100, None);
            done.unwrap();
            assert!(blocks == alone, "{threads}");
        }
    }

    #[test]
    fn nothing_is_handed_on_after_an_error() {
        for threads in [1, 2, 8] {
            let (done, blocks) = packed(threads, 100, Some(20));
            assert_eq!(done.unwrap_err().to_string(), "no room");
            assert_eq!(blocks.len(), 20);
        }
    }

    #[test]
    fn there_are_never_more_blocks_than_jobs() {
        let mut compressors = Compressors::new(6, 3);
        for lba in 0..50 {
            compressors.push(lba, &vec![1; GRAIN_LEN], |_| Ok(())).unwrap();
            let Compressors::Threads(workers) = &compressors else { panic!("there are threads") };
            assert_eq!(workers.idle.len() + workers.conveyor.under_way(), jobs_for(3));
        }
    }
}
