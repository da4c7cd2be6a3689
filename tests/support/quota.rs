//! A host that is full: storages that share a number of blocks, like files on a small file system.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vmdk::{Storage, StorageId};

use super::storage::ENOSPC;
use super::{index, model::is_zero};

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// The blocks that are left, shared by all files.
#[derive(Debug, Default)]
pub struct Quota(Mutex<u64>);

impl Quota {
    /// A host that is never full.
    pub fn unlimited() -> Arc<Self> {
        Arc::new(Self(Mutex::new(u64::MAX)))
    }

    /// So many blocks more, or fewer.
    pub fn add(&self, blocks: i64) {
        let mut left = self.0.lock().unwrap();
        *left = left.saturating_add_signed(blocks);
    }

    /// How many blocks are left.
    pub fn left(&self) -> u64 {
        *self.0.lock().unwrap()
    }

    fn take(&self) -> bool {
        let mut left = self.0.lock().unwrap();
        let taken = left.checked_sub(1);
        *left = taken.unwrap_or(0);
        taken.is_some()
    }
}

/// A file in memory that takes a block with the first byte that is written to it. A write for which there are not
/// enough blocks stores what there is room for, and fails. Holes cost nothing, however large they are.
#[derive(Debug)]
pub struct QuotaStorage {
    file: Mutex<File>,
    quota: Arc<Quota>,
    id: StorageId,
}

#[derive(Debug, Default)]
struct File {
    len: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl QuotaStorage {
    /// A file that is there already. Blocks of zeros are holes.
    pub fn new(content: &[u8], quota: &Arc<Quota>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let whole = |block: &[u8]| {
            let mut whole = vec![0; index(BLOCK)];
            whole[..block.len()].copy_from_slice(block);
            whole.into_boxed_slice()
        };
        let used = (0..).zip(content.chunks(index(BLOCK))).filter(|(_, block)| !is_zero(block));
        let blocks = used.map(|(number, block)| (number, whole(block))).collect();
        let file = Mutex::new(File { len: content.len() as u64, blocks });
        let id = StorageId { device: u64::MAX - 1, object: NEXT.fetch_add(1, Ordering::Relaxed) };
        Arc::new(Self { file, quota: Arc::clone(quota), id })
    }

    /// A copy of the whole content.
    pub fn to_vec(&self) -> Vec<u8> {
        let file = self.file.lock().unwrap();
        let mut content = vec![0; index(file.len)];
        for (block, bytes) in &file.blocks {
            let rest = &mut content[index(block * BLOCK)..];
            let len = rest.len().min(bytes.len());
            rest[..len].copy_from_slice(&bytes[..len]);
        }
        content
    }

    /// The first `len` bytes.
    pub fn head(&self, len: usize) -> Vec<u8> {
        let file = self.file.lock().unwrap();
        let mut head = vec![0; len.min(index(file.len))];
        file.read(&mut head, 0);
        head
    }

    /// Empties `range`; the blocks that lie wholly within it are free again.
    fn clear(&self, file: &mut File, range: Range<u64>) {
        let touched = range.start / BLOCK..range.end.div_ceil(BLOCK);
        let numbers: Vec<u64> = file.blocks.range(touched).map(|(&number, _)| number).collect();
        for number in numbers {
            let block = number * BLOCK..(number + 1) * BLOCK;
            if range.start <= block.start && block.end <= range.end {
                file.blocks.remove(&number);
                self.quota.add(1);
            } else if let Some(bytes) = file.blocks.get_mut(&number) {
                let [start, end] =
                    [range.start, range.end].map(|at| index(at.clamp(block.start, block.end) - block.start));
                bytes[start..end].fill(0);
            }
        }
    }
}

impl File {
    fn read(&self, buf: &mut [u8], offset: u64) {
        pieces(offset, buf.len()).for_each(|(block, within, at)| match self.blocks.get(&block) {
            Some(bytes) => buf[at].copy_from_slice(&bytes[within]),
            None => buf[at].fill(0),
        });
    }
}

/// The parts of blocks that `len` bytes from `offset` on consist of: the block, the bytes in it, and those of the
/// whole.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let end = offset + len as u64;
    (offset / BLOCK..end.div_ceil(BLOCK)).map(move |block| {
        let [from, to] = [block * BLOCK, (block + 1) * BLOCK].map(|at| at.clamp(offset, end));
        let within = index(from - block * BLOCK)..index(to - block * BLOCK);
        (block, within, index(from - offset)..index(to - offset))
    })
}

impl Storage for QuotaStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.lock().unwrap().len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let file = self.file.lock().unwrap();
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > file.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.read(buf, offset);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut file = self.file.lock().unwrap();
        for (block, within, at) in pieces(offset, buf.len()) {
            let end = offset + at.end as u64;
            let bytes = match file.blocks.entry(block) {
                Entry::Occupied(taken) => taken.into_mut(),
                Entry::Vacant(_) if !self.quota.take() => return Err(io::Error::from_raw_os_error(ENOSPC)),
                Entry::Vacant(free) => free.insert(vec![0; index(BLOCK)].into_boxed_slice()),
            };
            bytes[within].copy_from_slice(&buf[at]);
            file.len = file.len.max(end);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut file = self.file.lock().unwrap();
        let end = file.len.next_multiple_of(BLOCK);
        if len < file.len {
            self.clear(&mut file, len..end);
        }
        file.len = len;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        let mut file = self.file.lock().unwrap();
        let end = range.end.min(file.len);
        if range.start < end {
            self.clear(&mut file, range.start..end);
        }
        Ok(())
    }

    fn allocated_len(&self) -> io::Result<u64> {
        Ok(self.file.lock().unwrap().blocks.len() as u64 * BLOCK)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let file = self.file.lock().unwrap();
        let Some((&first, _)) = file.blocks.range(offset / BLOCK..).next() else { return Ok(None) };
        let count =
            file.blocks.range(first..).zip(first..).take_while(|((block, _), number)| **block == *number).count();
        let data = (first * BLOCK).max(offset)..((first + count as u64) * BLOCK).min(file.len);
        Ok((data.start < data.end).then_some(data))
    }

    fn id(&self) -> Option<StorageId> {
        Some(self.id)
    }
}
