//! Changed entries into the tables on disk: the table phase of a write.
//!
//! Entries are patched into both copies of their tables, in the order of the file, and neighbours go together. What is
//! patched is read from the file, never taken from a slot of the cache, which may hold newer entries already.

use std::ops::Range;
use std::sync::TryLockError;

use byteorder::{ByteOrder, LittleEndian};

use super::{Ready, Writer, lock};
use crate::error::Result;
use crate::extent::grain_directory::GrainDirectory;
use crate::extent::pending::{ChangeSet, Pending};
use crate::extent::tables::{ENTRY, Tables};
use crate::extent::{HostFile, SparseExtent};
use crate::format::HeaderMark;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};

/// Entries of neighbouring tables no farther apart than this are written together: hosts write whole pages anyway.
const MAX_GAP: u64 = 4096;

/// The most bytes that are written together.
const MAX_PATCH: u64 = 1 << 20;

impl SparseExtent {
    /// Makes durable what was written before, and everything that is pending.
    pub(crate) fn publish(&self) -> Result<()> {
        let Ok(writer) = self.writer() else { return Ok(()) };
        let _publishing = lock(&writer.publishing);
        writer.check()?;
        self.publish_all(writer)
    }

    /// As `publish`, for who holds the lock for that.
    pub(super) fn publish_all(&self, writer: &Writer) -> Result<()> {
        self.publish_pending(writer)?;
        writer.health.watch(self.file().sync_if_dirty())
    }

    /// Publishes if so much is pending that it should not become more.
    pub(super) fn publish_if_much(&self) -> Result<()> {
        let writer = self.writer()?;
        let pending = self.cache().pending(|pending| pending.memory());
        if pending <= writer.max_pending && writer.barriers {
            return Ok(());
        }
        let _publishing = match writer.publishing.try_lock() {
            Ok(publishing) => publishing,
            // Somebody is about it. Whoever comes when there is far too much waits for that.
            Err(TryLockError::WouldBlock) if pending <= 2 * writer.max_pending && writer.barriers => return Ok(()),
            Err(_) => lock(&writer.publishing),
        };
        writer.check()?;
        self.publish_pending(writer)
    }

    fn publish_pending(&self, writer: &Writer) -> Result<()> {
        writer.health.check()?;
        let Some(ready) = writer.ready.get() else { return Ok(()) };
        let Some(set) = self.cache().pending(Pending::take) else { return Ok(()) };
        let published = || {
            self.raise_free_sector(ready)?;
            if writer.barriers {
                self.file().sync()?;
            }
            write(self.tables(), ready.found.redundant.as_ref(), &set)?;
            if writer.barriers { self.file().sync() } else { Ok(()) }
        };
        writer.health.watch(published())?;
        self.cache().published();
        for freed in &set.freed {
            // If the host cannot, the space stays taken; nothing names it any more.
            let _ = self.file().storage().punch_hole(freed.start..freed.end.min(self.file().len()));
        }
        Ok(())
    }

    /// Says in the header of a COWD extent how far the file is used: other writers go on from there.
    pub(super) fn raise_free_sector(&self, ready: &Ready) -> Result<()> {
        match self.tables().layout().mark {
            HeaderMark::FreeSector { at, value } => {
                let end = u32::try_from(ready.space.end()).unwrap_or(u32::MAX).max(value);
                patch_sector(self.file(), at, &end.to_le_bytes())
            }
            HeaderMark::Unclean { .. } => Ok(()),
        }
    }
}

/// Writes a set to the tables and directories of an extent. Nothing is synced.
pub(super) fn write(tables: &Tables, redundant: Option<&GrainDirectory>, set: &ChangeSet) -> Result<()> {
    let mut patches = Patches::new(tables.file());
    for directory in std::iter::once(tables.directory()).chain(redundant) {
        for (&grain, &entry) in &set.entries {
            if let Some((table, offset)) = tables.entry_in(directory, grain) {
                patches.add(table, offset, entry)?;
            }
        }
        patches.write()?;
    }
    let mut new_tables = set.tables.clone();
    new_tables.sort_unstable_by_key(|new| new.table);
    for new in &new_tables {
        let directory = tables.directory();
        patches.add(directory.place(tables.layout().tables()), directory.entry_offset(new.table), new.start)?;
    }
    patches.write()?;
    if let Some(directory) = redundant {
        for new in &new_tables {
            if let Some(start) = new.redundant {
                patches.add(directory.place(tables.layout().tables()), directory.entry_offset(new.table), start)?;
            }
        }
    }
    patches.write()
}

/// Numbers of 32 bits on their way into a file.
struct Patches<'a> {
    file: &'a HostFile,
    /// The bytes that they may be written together with: tables one after the other. What lies between others is
    /// somebody else's, who may be writing it at this moment.
    tables: Range<u64>,
    /// Where each belongs, in bytes, and what it is; they lie close together, in ascending order.
    numbers: Vec<(u64, u32)>,
    buffer: Vec<u8>,
}

impl<'a> Patches<'a> {
    fn new(file: &'a HostFile) -> Self {
        Self { file, tables: 0..0, numbers: Vec::new(), buffer: Vec::new() }
    }

    /// Takes a number of the table in the bytes `table`; writes those that came before if it does not lie near them.
    fn add(&mut self, table: Range<u64>, offset: u64, number: u32) -> Result<()> {
        if let (Some(&(first, _)), Some(&(last, _))) = (self.numbers.first(), self.numbers.last()) {
            let is_neighbour = table.start == self.tables.end || self.tables.contains(&table.start);
            let is_near = offset > last && offset - last <= MAX_GAP && offset - first < MAX_PATCH;
            if !(is_neighbour && is_near) {
                self.write()?;
            }
        }
        if self.numbers.is_empty() {
            self.tables = table;
        } else {
            self.tables.end = table.end.max(self.tables.end);
        }
        self.numbers.push((offset, number));
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let (Some(&(first, _)), Some(&(last, _))) = (self.numbers.first(), self.numbers.last()) else {
            return Ok(());
        };
        let start = first / SECTOR_BYTES * SECTOR_BYTES;
        let end = (last + ENTRY as u64).next_multiple_of(SECTOR_BYTES);
        self.buffer.resize(to_usize(end - start), 0);
        self.file.read(&mut self.buffer, start)?;
        for &(offset, number) in &self.numbers {
            let at = to_usize(offset - start);
            LittleEndian::write_u32(&mut self.buffer[at..at + ENTRY], number);
        }
        self.numbers.clear();
        self.file.write(&self.buffer, start)
    }
}

/// Changes some bytes of one sector of a file, if they are not what they should be already. Nothing is synced.
pub(super) fn patch_sector(file: &HostFile, offset: u64, bytes: &[u8]) -> Result<()> {
    let start = offset / SECTOR_BYTES * SECTOR_BYTES;
    let mut sector = [0; SECTOR_SIZE];
    file.read(&mut sector, start)?;
    let at = to_usize(offset - start);
    let place = &mut sector[at..at + bytes.len()];
    if place == bytes {
        return Ok(());
    }
    place.copy_from_slice(bytes);
    file.write(&sector, start)
}
