//! The grain directory of a sparse extent, held in memory: where each grain table is.
//!
//! A header can claim a directory of up to 128 MiB in a file that is one big hole. So the directory is kept in pieces,
//! a piece of nothing but zeros takes no memory, and holes of the host file are skipped without being read: what is
//! held is bounded by what the file really has.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::HostFile;
use crate::error::Result;
use crate::format::EntryFormat;
use crate::sector::to_usize;

/// Entries in a piece.
const PIECE_ENTRIES: usize = 4096;

/// Bytes read at once.
const READ: u64 = 1 << 20;

/// The entries of a grain directory: of each table the sector at which it begins. One may be set while others are read.
pub(crate) struct GrainDirectory {
    pieces: Vec<OnceLock<Piece>>,
    offset: u64,
    /// Bytes of an entry in the file.
    entry_len: u64,
}

type Piece = Box<[AtomicU32]>;

impl GrainDirectory {
    /// Reads `entries` entries at `offset` of `file`, all of which lie within the file, and are written in this way.
    pub(crate) fn load(file: &HostFile, offset: u64, entries: u64, format: EntryFormat) -> Result<Self> {
        let entry_len = format.len() as u64;
        let len = entries * entry_len;
        let piece_len = entry_len * PIECE_ENTRIES as u64;
        let mut pieces = Vec::new();
        pieces.resize_with(to_usize(len.div_ceil(piece_len)), OnceLock::new);
        let mut buffer = vec![0; to_usize(len.min(READ))];
        let mut at = 0;
        while at < len {
            let data = file.next_data(offset + at)?;
            let Some(data) = data.filter(|data| data.start < offset + len) else { break };
            // Down to the piece in which the data begins; the holes before it read as zeros.
            at = at.max((data.start - offset) / piece_len * piece_len);
            let data_end = data.end.min(offset + len) - offset;
            let end = data_end.next_multiple_of(piece_len).min(len).min(at + READ);
            let part = &mut buffer[..to_usize(end - at)];
            file.read(part, offset + at)?;
            let first = to_usize(at / piece_len);
            for (piece, bytes) in pieces[first..].iter().zip(part.chunks(to_usize(piece_len))) {
                if bytes.iter().any(|&byte| byte != 0) {
                    piece.get_or_init(|| decode(bytes, format));
                }
            }
            at = end;
        }
        Ok(Self { pieces, offset, entry_len })
    }

    /// A directory that cannot be read: no table is known.
    pub(crate) fn absent(offset: u64, format: EntryFormat) -> Self {
        Self { pieces: Vec::new(), offset, entry_len: format.len() as u64 }
    }

    /// Whether it was read.
    pub(crate) fn is_there(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// The sector at which grain table `table` begins, or 0 if there is none.
    pub(crate) fn entry(&self, table: u32) -> u32 {
        let (piece, within) = split(table);
        let piece = self.pieces.get(piece).and_then(OnceLock::get);
        piece.and_then(|entries| entries.get(within)).map_or(0, |entry| entry.load(Ordering::Acquire))
    }

    /// The numbers of the tables that there are.
    pub(crate) fn listed(&self) -> impl Iterator<Item = u32> {
        let pieces = (0_u32..).step_by(PIECE_ENTRIES).zip(&self.pieces);
        let pieces = pieces.filter_map(|(first, piece)| Some((first..).zip(piece.get()?)));
        pieces.flatten().filter(|(_, entry)| entry.load(Ordering::Acquire) != 0).map(|(table, _)| table)
    }

    /// Says that grain table `table` begins at `sector` from now on.
    pub(crate) fn set(&self, table: u32, sector: u32) {
        let (piece, within) = split(table);
        if let Some(piece) = self.pieces.get(piece) {
            let entries = piece.get_or_init(|| (0..PIECE_ENTRIES).map(|_| AtomicU32::new(0)).collect());
            if let Some(entry) = entries.get(within) {
                entry.store(sector, Ordering::Release);
            }
        }
    }

    /// Bytes of memory that the entries take.
    pub(crate) fn memory(&self) -> usize {
        let pieces: usize = self.pieces.iter().filter_map(OnceLock::get).map(|piece| size_of_val(&**piece)).sum();
        pieces + size_of_val(&*self.pieces)
    }

    /// The bytes of the file that a directory of so many tables takes.
    pub(crate) fn place(&self, tables: u64) -> Range<u64> {
        self.offset..self.offset + tables * self.entry_len
    }

    /// Where the entry of `table` stands in the file, in bytes.
    pub(crate) fn entry_offset(&self, table: u32) -> u64 {
        self.offset + u64::from(table) * self.entry_len
    }
}

/// The number of the piece with the entry of a table, and of the entry in it.
fn split(table: u32) -> (usize, usize) {
    let table = to_usize(table.into());
    (table / PIECE_ENTRIES, table % PIECE_ENTRIES)
}

/// A whole piece; what `bytes` lack of it are entries of 0.
fn decode(bytes: &[u8], format: EntryFormat) -> Piece {
    let mut entries = Vec::with_capacity(PIECE_ENTRIES);
    format.tables(bytes, |sector| entries.push(AtomicU32::new(sector)));
    entries.resize_with(PIECE_ENTRIES, || AtomicU32::new(0));
    entries.into()
}

impl fmt::Debug for GrainDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pieces, offset, .. } = self;
        f.debug_struct("GrainDirectory").field("offset", offset).field("pieces", &pieces.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileStorage, MemoryStorage, Storage};
    use byteorder::{ByteOrder, LittleEndian};
    use std::path::PathBuf;
    use std::sync::Arc;

    fn host(storage: impl Storage + 'static) -> HostFile {
        HostFile::new(PathBuf::from("a"), Arc::new(storage)).unwrap()
    }

    #[test]
    fn entries_are_found_wherever_they_are() {
        let mut bytes = vec![0; 512 + 3 * 4 * PIECE_ENTRIES + 8];
        for (table, value) in [(0, 7), (4095, 8), (3 * 4096 + 1, 9)] {
            LittleEndian::write_u32(&mut bytes[512 + table * 4..], value);
        }
        let directory =
            GrainDirectory::load(&host(MemoryStorage::new(bytes)), 512, 3 * 4096 + 2, EntryFormat::Sectors).unwrap();
        let found = [0, 1, 4095, 4096, 3 * 4096, 3 * 4096 + 1, 3 * 4096 + 2, u32::MAX].map(|t| directory.entry(t));
        assert_eq!(found, [7, 0, 8, 0, 0, 9, 0, 0]);
        assert_eq!(directory.listed().collect::<Vec<_>>(), [0, 4095, 3 * 4096 + 1]);
        assert_eq!(directory.pieces.iter().filter(|piece| piece.get().is_some()).count(), 2);
        assert_eq!(directory.entry_offset(2), 520);
        directory.set(4097, 6);
        assert_eq!((directory.entry(4097), directory.entry(4098)), (6, 0));
    }

    #[test]
    fn a_directory_in_a_hole_takes_no_memory_and_no_reading() {
        let file = FileStorage::new(tempfile::tempfile().unwrap()).unwrap();
        let entries = crate::format::kdmv::MAX_GD_ENTRIES;
        file.set_len(512 + entries * 4).unwrap();
        file.write_all_at(&5_u32.to_le_bytes(), 512 + (entries - 1) * 4).unwrap();
        let directory = GrainDirectory::load(&host(file), 512, entries, EntryFormat::Sectors).unwrap();
        assert_eq!((directory.entry(0), directory.entry(u32::try_from(entries - 1).unwrap())), (0, 5));
        assert_eq!(directory.pieces.iter().filter(|piece| piece.get().is_some()).count(), 1);
    }
}
