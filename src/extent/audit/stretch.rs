//! Tables that are read together: those that lie one behind the other in the file come in one piece.

use std::ops::Range;

use crate::error::Result;
use crate::extent::grain_directory::GrainDirectory;
use crate::extent::holes::Holes;
use crate::extent::tables::Tables;
use crate::sector::to_usize;

/// Bytes of tables that are read together: they stay in a processor's cache until they have been looked at.
const STRETCH: usize = 256 << 10;

/// Tables of a directory, as the file has them.
#[derive(Default)]
pub(crate) struct Stretch {
    /// Where the bytes of each table are: an empty place for one in a hole, none for one that was not to be read.
    places: Vec<Option<Range<usize>>>,
    rows: Vec<Row>,
    bytes: Vec<u8>,
    holes: Holes,
}

/// Tables that lie one behind the other in the file.
struct Row {
    /// How many tables are in front of it.
    tables_before: usize,
    file: Range<u64>,
    /// Where its bytes go.
    bytes: Range<usize>,
}

impl Stretch {
    /// How many tables are read together.
    pub(crate) fn tables(tables: &Tables) -> usize {
        (STRETCH / tables.table_len()).max(1)
    }

    /// Reads the tables that have these numbers in a directory, as far as `is_read` says that they are to be read. What
    /// was here before is gone.
    ///
    /// # Errors
    /// For a table that cannot be where the directory has it, and what the host reports. Those in front of it are here
    /// all the same, [`len`](Self::len) of them.
    pub(crate) fn read(
        &mut self,
        tables: &Tables,
        directory: &GrainDirectory,
        numbers: &[u32],
        is_read: impl Fn(u32) -> bool,
    ) -> Result<()> {
        self.places.clear();
        self.rows.clear();
        let list = |&table: &u32| {
            let place = if is_read(table) { Some(tables.place(directory, table)?) } else { None };
            self.list(tables, place)
        };
        let listed = numbers.iter().try_for_each(list);
        self.read_rows(tables)?;
        listed
    }

    /// Puts a table behind the others. A hole that is no larger than a stretch may be read with what is in front of it.
    fn list(&mut self, tables: &Tables, place: Option<Range<u64>>) -> Result<()> {
        let Some(place) = place else {
            self.places.push(None);
            return Ok(());
        };
        let start = self.rows.last().map_or(0, |row| row.bytes.end);
        let bytes = start..start + to_usize(place.end - place.start);
        if let Some(row) = self.rows.last_mut().filter(|row| row.file.end == place.start) {
            (row.file.end, row.bytes.end) = (place.end, bytes.end);
        } else if self.holes.cover(tables.file(), &place)? {
            self.places.push(Some(0..0));
            return Ok(());
        } else {
            self.rows.push(Row { tables_before: self.places.len(), file: place, bytes: bytes.clone() });
        }
        self.places.push(Some(bytes));
        Ok(())
    }

    fn read_rows(&mut self, tables: &Tables) -> Result<()> {
        let len = self.rows.last().map_or(0, |row| row.bytes.end);
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        for row in &self.rows {
            if let Err(error) = tables.file().read(&mut self.bytes[row.bytes.clone()], row.file.start) {
                self.places.truncate(row.tables_before);
                return Err(error);
            }
        }
        Ok(())
    }

    /// How many tables are here, whether they were to be read or not.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The bytes of the table that was the `nth` to be read: none at all for one that lies in a hole of the file, so
    /// that its entries are 0; `None` for one that was not to be read.
    pub(crate) fn table(&self, nth: usize) -> Option<&[u8]> {
        self.bytes.get(self.places.get(nth)?.clone()?)
    }
}
