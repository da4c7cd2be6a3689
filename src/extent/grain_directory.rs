//! The grain directory of a sparse extent, held in memory: where each grain table is.
//!
//! A header can claim a directory of up to 128 MiB in a file that is one big hole. So the directory is kept in pieces,
//! a piece of nothing but zeros takes no memory, and holes of the host file are skipped without being read: what is
//! held is bounded by what the file really has.

use std::fmt;

use byteorder::{ByteOrder, LittleEndian};

use super::HostFile;
use crate::error::Result;
use crate::sector::to_usize;

/// Bytes in a piece: 4096 entries.
const PIECE: u64 = 16 << 10;

/// Bytes read at once.
const READ: u64 = 1 << 20;

/// The entries of a grain directory, 32 bits each.
pub(crate) struct GrainDirectory {
    pieces: Vec<Option<Box<[u8]>>>,
    offset: u64,
}

impl GrainDirectory {
    /// Reads `entries` entries at `offset` of `file`, all of which lie within the file.
    pub(crate) fn load(file: &HostFile, offset: u64, entries: u64) -> Result<Self> {
        let len = entries * 4;
        let mut pieces = Vec::new();
        pieces.resize_with(to_usize(len.div_ceil(PIECE)), || None);
        let mut buffer = vec![0; to_usize(len.min(READ))];
        let mut at = 0;
        while at < len {
            let data = file.next_data(offset + at)?;
            let Some(data) = data.filter(|data| data.start < offset + len) else { break };
            // Down to the piece in which the data begins; the holes before it read as zeros.
            at = at.max((data.start - offset) / PIECE * PIECE);
            let data_end = data.end.min(offset + len) - offset;
            let end = data_end.next_multiple_of(PIECE).min(len).min(at + READ);
            let part = &mut buffer[..to_usize(end - at)];
            file.read(part, offset + at)?;
            let first = to_usize(at / PIECE);
            for (piece, bytes) in pieces[first..].iter_mut().zip(part.chunks(to_usize(PIECE))) {
                *piece = bytes.iter().any(|&byte| byte != 0).then(|| bytes.into());
            }
            at = end;
        }
        Ok(Self { pieces, offset })
    }

    /// A directory that cannot be read: no table is known.
    pub(crate) fn absent(offset: u64) -> Self {
        Self { pieces: Vec::new(), offset }
    }

    /// The sector at which grain table `table` begins, or 0 if there is none.
    pub(crate) fn entry(&self, table: u32) -> u32 {
        let at = u64::from(table) * 4;
        let piece = self.pieces.get(to_usize(at / PIECE)).and_then(Option::as_deref);
        let within = (at % PIECE) as usize;
        piece.and_then(|bytes| bytes.get(within..within + 4)).map_or(0, LittleEndian::read_u32)
    }

    /// Bytes of memory that the entries take.
    pub(crate) fn memory(&self) -> usize {
        let pieces: usize = self.pieces.iter().flatten().map(|piece| piece.len()).sum();
        pieces + size_of_val(&*self.pieces)
    }

    /// Where the entry of `table` stands in the file, in bytes.
    pub(crate) fn entry_offset(&self, table: u32) -> u64 {
        self.offset + u64::from(table) * 4
    }
}

impl fmt::Debug for GrainDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrainDirectory").field("offset", &self.offset).field("pieces", &self.pieces.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileStorage, MemoryStorage, Storage};
    use std::path::PathBuf;
    use std::sync::Arc;

    fn host(storage: impl Storage + 'static) -> HostFile {
        HostFile::new(PathBuf::from("a"), Arc::new(storage)).unwrap()
    }

    #[test]
    fn entries_are_found_wherever_they_are() {
        let mut bytes = vec![0; 512 + 3 * to_usize(PIECE) + 8];
        for (table, value) in [(0, 7), (4095, 8), (3 * 4096 + 1, 9)] {
            LittleEndian::write_u32(&mut bytes[512 + table * 4..], value);
        }
        let directory = GrainDirectory::load(&host(MemoryStorage::new(bytes)), 512, 3 * 4096 + 2).unwrap();
        let found = [0, 1, 4095, 4096, 3 * 4096, 3 * 4096 + 1, 3 * 4096 + 2, u32::MAX].map(|t| directory.entry(t));
        assert_eq!(found, [7, 0, 8, 0, 0, 9, 0, 0]);
        assert_eq!(directory.pieces.iter().filter(|piece| piece.is_some()).count(), 2);
        assert_eq!(directory.entry_offset(2), 520);
    }

    #[test]
    fn a_directory_in_a_hole_takes_no_memory_and_no_reading() {
        let file = FileStorage::new(tempfile::tempfile().unwrap()).unwrap();
        let entries = crate::format::kdmv::MAX_GD_ENTRIES;
        file.set_len(512 + entries * 4).unwrap();
        file.write_all_at(&5_u32.to_le_bytes(), 512 + (entries - 1) * 4).unwrap();
        let directory = GrainDirectory::load(&host(file), 512, entries).unwrap();
        assert_eq!((directory.entry(0), directory.entry(u32::try_from(entries - 1).unwrap())), (0, 5));
        assert_eq!(directory.pieces.iter().filter(|piece| piece.is_some()).count(), 1);
    }
}
