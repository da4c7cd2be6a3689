//! An seSparse extent: whether directory, tables, bitmap and back map agree about which grains there are and where.
//!
//! Only directory and tables decide what is read. What bitmap and back map say is known from one file that ESX has
//! written, and where they disagree, that is no more than a note: of the bits of a group of 128 grains the order is not
//! known, so only their number counts, and of an entry of the back map only the part that is known.

use std::ops::Range;

use super::report::{Finding, FindingKind, Severity};
use super::{Place, Reporter};
use crate::error::Result;
use crate::extent::audit::Bits;
use crate::extent::{Holes, HostFile, SparseExtent, Tables};
use crate::format::SeSparseHeader;
use crate::format::sesparse::{ENTRY, GROUP, GROUP_BYTES, GrainEntry, JOURNAL_MAGIC, back_map_agrees, old_grain};
use crate::sector::{SECTOR_BYTES, is_zero, to_usize};

/// Grains of the file that are looked for together: 512 MiB of memory, twice if so many were given up, and 16 TiB of the
/// disk. Of more, the tables are read once more.
const TOGETHER: u64 = 1 << 32;

/// Bytes of the bitmap that are read at once.
const PIECE: u64 = 1 << 20;

/// Looks at an seSparse extent.
///
/// # Errors
/// `Cancelled`; what the host reports.
pub(super) fn check(
    reporter: &mut Reporter<'_>,
    place: Place<'_>,
    extent: &SparseExtent,
    header: &SeSparseHeader,
) -> Result<()> {
    let tables = extent.tables();
    let back_map = Blocks::new(extent.file(), header.back_map.offset * SECTOR_BYTES);
    let slots = 0..header.slots().min(TOGETHER);
    let [taken, given_up, tables_taken] = <[Bits; 3]>::default();
    let holes = Holes::default();
    let mut judge = Judge { reporter, place, header, tables, slots, taken, given_up, tables_taken, back_map, holes };
    if header.replay_journal != 0 {
        let at = tables.layout().mark_at();
        let text = "its journal was not replayed: the tables are out of date, and nothing else of them is looked at";
        judge.add(FindingKind::Unclean, Severity::Corruption, None, at..at + ENTRY, text.to_owned());
        return Ok(());
    }
    judge.behind_directory()?;
    judge.journal_header()?;
    let there: Vec<u32> = tables.directory().listed().filter(|&table| judge.table_is_there(table)).collect();
    loop {
        for &table in &there {
            judge.table(table)?;
        }
        judge.bitmap()?;
        judge.free_in_back_map()?;
        let next = judge.slots.end;
        // Behind the end of the file there is no grain.
        let end = header.slots().min(tables.file_sectors() / header.grain_size);
        if next >= end {
            return Ok(());
        }
        judge.slots = next..end.min(next + TOGETHER);
        (judge.taken, judge.given_up) = <(Bits, Bits)>::default();
    }
}

struct Judge<'r, 'p, 'a> {
    reporter: &'r mut Reporter<'p>,
    place: Place<'a>,
    header: &'a SeSparseHeader,
    tables: &'a Tables,
    /// Grains of the file that are looked for, the first ones first: with these all else is said.
    slots: Range<u64>,
    /// Which of them entries name.
    taken: Bits,
    /// Which of them entries name that say zeros now: whether the bitmap has them still is not known.
    given_up: Bits,
    /// Tables that the directory names, by the sector at which they begin.
    tables_taken: Bits,
    back_map: Blocks<'a>,
    /// Of tables, and of the bitmap.
    holes: Holes,
}

impl Judge<'_, '_, '_> {
    fn add(
        &mut self,
        kind: FindingKind,
        severity: Severity,
        guest: Option<Range<u64>>,
        host: Range<u64>,
        text: String,
    ) {
        self.reporter.add(Finding {
            kind,
            severity,
            link: self.place.link,
            extent: Some(self.place.extent),
            file: self.tables.file().path().to_owned(),
            guest,
            host: Some(host),
            count: 1,
            text,
            remedy: None,
        });
    }

    /// Looks whether the header of the journal is one, and goes on where the volatile header does.
    fn journal_header(&mut self) -> Result<()> {
        let at = self.header.journal_header.offset * SECTOR_BYTES;
        let mut fields = [[0; 8]; 2];
        self.tables.file().read(fields.as_flattened_mut(), at)?;
        let [magic, next] = fields.map(u64::from_le_bytes);
        let problem = if magic != JOURNAL_MAGIC {
            format!("the journal header has the magic {magic:#x}")
        } else if next != self.header.next_txn_seq_number {
            let known = self.header.next_txn_seq_number;
            format!("the next transaction is {next} for the journal header, and {known} for the volatile one")
        } else {
            return Ok(());
        };
        self.add(FindingKind::Header, Severity::Note, None, at..at + 16, problem);
        Ok(())
    }

    /// Looks whether the directory goes on behind its last table.
    fn behind_directory(&mut self) -> Result<()> {
        let end = (self.header.grain_directory.offset + self.header.grain_directory.size) * SECTOR_BYTES;
        let mut at = self.tables.layout().directory.end;
        while let Some(data) = self.tables.file().next_data(at)?.filter(|data| data.start < end) {
            at = at.max(data.start);
            let mut piece = vec![0; to_usize((end.min(data.end) - at).min(PIECE))];
            self.tables.file().read(&mut piece, at)?;
            if !is_zero(&piece) {
                let text = "entries of the grain directory past the capacity that are not 0".to_owned();
                self.add(FindingKind::PastCapacity, Severity::Note, None, at..end, text);
                return Ok(());
            }
            at += piece.len() as u64;
            self.reporter.done(0)?;
        }
        Ok(())
    }

    /// Whether a table can be read, and has not been read before.
    fn table_is_there(&mut self, table: u32) -> bool {
        let sectors = u64::from(self.tables.layout().entries_per_table) * self.header.grain_size;
        let guest = self.place.guest(u64::from(table) * sectors, sectors);
        let at = self.tables.directory().entry_offset(table);
        let start = u64::from(self.tables.directory().entry(table));
        if let Err(error) = self.tables.place(self.tables.directory(), table) {
            self.add(FindingKind::TablePlace, Severity::Corruption, guest, at..at + ENTRY, error.with_causes());
            return false;
        }
        if !self.tables_taken.set(start) {
            let text = "another entry of the grain directory names the same table".to_owned();
            self.add(FindingKind::TablePlace, Severity::Corruption, guest, at..at + ENTRY, text);
            return false;
        }
        let number = (start - self.header.grain_tables.offset) / self.header.grain_table_size;
        if number >= self.header.free_gt_number {
            let next = self.header.free_gt_number;
            let text = format!("table {number} is in use, and the next one to be given out is {next}");
            self.add(FindingKind::Header, Severity::Note, guest, at..at + ENTRY, text);
        }
        true
    }

    fn table(&mut self, table: u32) -> Result<()> {
        let place = self.tables.place(self.tables.directory(), table)?;
        if self.holes.cover(self.tables.file(), &place)? {
            return self.reporter.done(0);
        }
        let mut bytes = vec![0; self.tables.table_len()];
        self.tables.file().read(&mut bytes, place.start)?;
        let entries = u64::from(self.tables.layout().entries_per_table);
        let start = u64::from(self.tables.directory().entry(table)) * SECTOR_BYTES;
        let first = u64::from(table) * entries;
        for (grain, entry) in (first..).zip(bytes.as_chunks::<8>().0) {
            let entry = u64::from_le_bytes(*entry);
            if entry == 0 {
                continue;
            }
            let at = start + (grain - first) * ENTRY;
            self.entry(grain, entry, at..at + ENTRY)?;
        }
        self.reporter.done(bytes.len() as u64)
    }

    fn entry(&mut self, grain: u64, entry: u64, at: Range<u64>) -> Result<()> {
        let size = self.header.grain_size;
        let guest = self.place.guest(grain * size, size);
        let slot = match self.slot(grain, entry) {
            Ok(slot) => slot.filter(|slot| self.slots.contains(slot)),
            Err((kind, severity, text)) => {
                if self.slots.start == 0 {
                    self.add(kind, severity, guest, at, text);
                }
                return Ok(());
            }
        };
        let Some(slot) = slot else {
            let in_file = self.tables.file_sectors() / self.header.grain_size;
            let old = old_grain(entry).filter(|old| self.slots.contains(old) && *old < in_file);
            old.map(|old| self.given_up.set(old - self.slots.start));
            return Ok(());
        };
        if !self.taken.set(slot - self.slots.start) {
            let text = format!("grain {grain} is grain {slot} of the file, and so is another one");
            self.add(FindingKind::GrainShared, Severity::Corruption, guest, at, text);
            return Ok(());
        }
        let found = self.back_map.entry(slot)?;
        if !back_map_agrees(found, grain) {
            let text =
                format!("grain {slot} of the file holds grain {grain} of the disk, and the back map has {found:#x}");
            let host = self.header.back_map.offset * SECTOR_BYTES + slot * ENTRY;
            self.add(FindingKind::BackMap, Severity::Note, guest, host..host + ENTRY, text);
        }
        Ok(())
    }

    /// Which grain of the file an entry names, if any; what is wrong with it.
    fn slot(&self, grain: u64, entry: u64) -> Result<Option<u64>, (FindingKind, Severity, String)> {
        if grain >= self.header.slots() {
            let text = format!("an entry past the capacity is {entry:#x}");
            return Err((FindingKind::PastCapacity, Severity::Note, text));
        }
        let slot = match GrainEntry::of(entry) {
            GrainEntry::Unknown => {
                let text = format!("grain {grain} has the entry {entry:#x}, which says nothing that is known");
                return Err((FindingKind::GrainUnknown, Severity::Corruption, text));
            }
            GrainEntry::Unallocated | GrainEntry::Zero => return Ok(None),
            GrainEntry::Allocated(slot) => slot,
        };
        let (size, grains) = (self.header.grain_size, self.header.grains.offset);
        // Of the last grain of the disk there may be only what the disk has of it.
        let used = size.min(self.header.capacity - grain * size);
        let end = slot.checked_mul(size).and_then(|start| start.checked_add(grains)?.checked_add(used));
        if slot >= self.header.slots() || end.is_none_or(|end| end > self.tables.file_sectors()) {
            let text = format!("grain {grain} is grain {slot} of the file, which lies past the end of it");
            return Err((FindingKind::GrainPastEnd, Severity::Corruption, text));
        }
        Ok(Some(slot))
    }

    /// Compares the numbers of bits of each group of grains of the file.
    fn bitmap(&mut self) -> Result<()> {
        let (first, end) = (self.slots.start / GROUP, self.slots.end.div_ceil(GROUP));
        let start = self.header.free_bitmap.offset * SECTOR_BYTES + first * GROUP_BYTES;
        let len = (end - first) * GROUP_BYTES;
        let mut bytes = vec![0; to_usize(len.min(PIECE))];
        let mut at = 0;
        while at < len {
            let piece = &mut bytes[..to_usize((len - at).min(PIECE))];
            let place = start + at..start + at + piece.len() as u64;
            if self.holes.cover(self.tables.file(), &place)? && self.taken.count(at * 8..(at + PIECE) * 8) == 0 {
                at += piece.len() as u64;
                self.reporter.done(0)?;
                continue;
            }
            self.tables.file().read(piece, place.start)?;
            for (group, bits) in (at / GROUP_BYTES..).zip(piece.chunks(to_usize(GROUP_BYTES))) {
                let of_group = group * GROUP..(group + 1) * GROUP;
                let (used, old) = (self.taken.count(of_group.clone()), self.given_up.count(of_group));
                let marked: u64 = bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
                let what = if marked < used {
                    "ESX may give out one of them again"
                } else if marked > used + old {
                    "of the others nothing is known"
                } else {
                    continue;
                };
                let host = start + group * GROUP_BYTES..start + (group + 1) * GROUP_BYTES;
                let first = self.slots.start + group * GROUP;
                let text = format!(
                    "of the grains of the file from {first} on {used} are in use, and the bitmap has {marked}: {what}"
                );
                self.add(FindingKind::Bitmap, Severity::Note, None, host, text);
            }
            at += piece.len() as u64;
            self.reporter.done(piece.len() as u64)?;
        }
        Ok(())
    }
}

impl Judge<'_, '_, '_> {
    /// Looks whether the back map has grains of the file that nothing names.
    fn free_in_back_map(&mut self) -> Result<()> {
        let start = self.header.back_map.offset * SECTOR_BYTES;
        let [mut at, end] = [self.slots.start, self.slots.end].map(|slot| start + slot * ENTRY);
        while let Some(data) = self.tables.file().next_data(at)?.filter(|data| data.start < end) {
            at = at.max(data.start / ENTRY * ENTRY);
            let mut piece = vec![0; to_usize((data.end.min(end) - at).next_multiple_of(ENTRY).min(PIECE))];
            self.tables.file().read(&mut piece, at)?;
            for (slot, entry) in ((at - start) / ENTRY..).zip(piece.as_chunks::<8>().0) {
                let local = slot - self.slots.start;
                if *entry != [0; 8] && !self.taken.has(local) && !self.given_up.has(local) {
                    let entry = u64::from_le_bytes(*entry);
                    let text = format!("no entry names grain {slot} of the file, and the back map has {entry:#x}");
                    let host = start + slot * ENTRY..start + (slot + 1) * ENTRY;
                    self.add(FindingKind::BackMap, Severity::Note, None, host, text);
                }
            }
            at += piece.len() as u64;
            self.reporter.done(piece.len() as u64)?;
        }
        Ok(())
    }
}

/// Bytes that are read together of the back map: its entries come in the order in which grains were written.
const BLOCK: u64 = 16 << 10;

/// How many such blocks are kept.
const BLOCKS: usize = 64;

/// An array of entries in a file, of which the blocks are kept that were read last.
struct Blocks<'a> {
    file: &'a HostFile,
    start: u64,
    /// Each block has one place only.
    kept: Vec<Option<(u64, Box<[u8]>)>>,
}

impl<'a> Blocks<'a> {
    fn new(file: &'a HostFile, start: u64) -> Self {
        Self { file, start, kept: (0..BLOCKS).map(|_| None).collect() }
    }

    /// The entry with this number, which lies in the file.
    fn entry(&mut self, number: u64) -> Result<u64> {
        let (block, within) = (number * ENTRY / BLOCK, to_usize(number * ENTRY % BLOCK));
        let kept = &mut self.kept[to_usize(block) % BLOCKS];
        if kept.as_ref().is_none_or(|(there, _)| *there != block) {
            let mut bytes = kept.take().map_or_else(|| vec![0; to_usize(BLOCK)].into(), |(_, bytes)| bytes);
            let at = self.start + block * BLOCK;
            let len = to_usize(self.file.len().saturating_sub(at).min(BLOCK));
            self.file.read(&mut bytes[..len], at)?;
            *kept = Some((block, bytes));
        }
        let bytes = kept.as_ref().and_then(|(_, bytes)| bytes.get(within..)?.first_chunk());
        Ok(bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }
}
