//! Tables that are read together, because they lie one behind the other in the file.

use std::ops::Range;

use crate::error::Result;
use crate::extent::grain_directory::GrainDirectory;
use crate::extent::holes::Holes;
use crate::extent::tables::Tables;
use crate::sector::to_usize;

/// Bytes of tables that are read at once: they stay in a processor's cache until they have been looked at.
const WINDOW: u64 = 256 << 10;

/// The tables that were read last.
#[derive(Default)]
pub(crate) struct Window {
    start: u64,
    /// How much of the buffer was read.
    len: usize,
    bytes: Vec<u8>,
    holes: Holes,
}

impl Window {
    /// The bytes of a table, which `directory` has at `place`; `None` for one that lies in a hole of the file, so that
    /// all its entries are 0.
    pub(crate) fn read(
        &mut self,
        tables: &Tables,
        directory: &GrainDirectory,
        table: u32,
        place: &Range<u64>,
    ) -> Result<Option<&[u8]>> {
        if !self.holds(place) {
            if self.holes.cover(tables.file(), place)? {
                return Ok(None);
            }
            let end = end_of_row(tables, directory, table, place);
            let len = to_usize(end - place.start);
            if self.bytes.len() < len {
                self.bytes.resize(len, 0);
            }
            // What is there of the old ones must not be taken for new ones if the read fails.
            (self.start, self.len) = (place.start, 0);
            tables.file().read(&mut self.bytes[..len], place.start)?;
            self.len = len;
        }
        let at = to_usize(place.start - self.start);
        Ok(self.bytes.get(at..at + to_usize(place.end - place.start)))
    }

    fn holds(&self, place: &Range<u64>) -> bool {
        self.start <= place.start && place.end <= self.start + self.len as u64
    }
}

/// Where the last of the tables ends that follow each other in the directory and in the file, as far as a window goes.
fn end_of_row(tables: &Tables, directory: &GrainDirectory, table: u32, place: &Range<u64>) -> u64 {
    let len = place.end - place.start;
    let (mut end, mut next) = (place.end, table);
    while end - place.start + len <= WINDOW {
        next = next.saturating_add(1);
        match tables.place(directory, next) {
            Ok(behind) if behind.start == end => end = behind.end,
            _ => break,
        }
    }
    end
}
