//! Tables that are read together: those that lie one behind the other in the file come in one piece.

use std::ops::Range;

use crate::error::Result;
use crate::extent::grain_directory::GrainDirectory;
use crate::extent::holes::Holes;
use crate::extent::tables::Tables;
use crate::sector::to_usize;

/// Bytes of tables that are read together: they stay in a processor's cache until they have been looked at.
const STRETCH: usize = 256 << 10;

/// Tables of a directory whose numbers follow each other, as the file has them.
#[derive(Default)]
pub(crate) struct Stretch {
    first: u32,
    /// Where the bytes of each table are: an empty place for one in a hole, none for one that was not to be read.
    places: Vec<Option<Range<usize>>>,
    rows: Vec<Row>,
    bytes: Vec<u8>,
    holes: Holes,
}

/// Tables that lie one behind the other in the file.
struct Row {
    /// How many tables of the stretch are in front of it.
    tables_before: usize,
    file: Range<u64>,
    /// Where its bytes go.
    bytes: Range<usize>,
}

/// The numbers of all tables, in the parts that are read together.
pub(crate) fn stretches(tables: &Tables) -> impl ExactSizeIterator<Item = Range<u32>> {
    let all = u32::try_from(tables.layout().tables()).unwrap_or(u32::MAX);
    let most = u32::try_from(STRETCH / tables.table_len()).unwrap_or(u32::MAX).max(1);
    let nth = move |nth: u32| nth * most..(nth * most).saturating_add(most).min(all);
    (0..all.div_ceil(most)).map(nth)
}

impl Stretch {
    /// Reads the tables that have these numbers in a directory, as far as `is_read` says that they are to be read. What
    /// was here before is gone.
    ///
    /// # Errors
    /// For a table that cannot be where the directory has it, and what the host reports. What is in front of it is
    /// here all the same; [`numbers`](Self::numbers) ends there.
    pub(crate) fn read(
        &mut self,
        tables: &Tables,
        directory: &GrainDirectory,
        numbers: Range<u32>,
        is_read: impl Fn(u32) -> bool,
    ) -> Result<()> {
        self.first = numbers.start;
        self.places.clear();
        self.rows.clear();
        let mut listed = Ok(());
        for table in numbers {
            let place = if is_read(table) { tables.place(directory, table).map(Some) } else { Ok(None) };
            listed = place.and_then(|place| self.list(tables, place));
            if listed.is_err() {
                break;
            }
        }
        self.read_rows(tables)?;
        listed
    }

    /// Puts a table behind the others.
    fn list(&mut self, tables: &Tables, place: Option<Range<u64>>) -> Result<()> {
        let place = match place {
            None => None,
            Some(place) if self.holes.cover(tables.file(), &place)? => Some(0..0),
            Some(place) => {
                let start = self.rows.last().map_or(0, |row| row.bytes.end);
                let bytes = start..start + to_usize(place.end - place.start);
                if let Some(row) = self.rows.last_mut().filter(|row| row.file.end == place.start) {
                    (row.file.end, row.bytes.end) = (place.end, bytes.end);
                } else {
                    let tables_before = self.places.len();
                    self.rows.push(Row { tables_before, file: place, bytes: bytes.clone() });
                }
                Some(bytes)
            }
        };
        self.places.push(place);
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

    /// The tables that are here, whether they were to be read or not.
    pub(crate) fn numbers(&self) -> Range<u32> {
        self.first..self.first + u32::try_from(self.places.len()).unwrap_or(0)
    }

    /// The bytes of a table: none at all for one that lies in a hole of the file, so that its entries are 0; `None` for
    /// one that was not to be read.
    pub(crate) fn table(&self, table: u32) -> Option<&[u8]> {
        let number = table.checked_sub(self.first)?;
        let place = self.places.get(to_usize(number.into()))?.clone()?;
        self.bytes.get(place)
    }
}
