//! What stands where in a stream: grains in their order, and the tables that say where each of them is.
//!
//! ```text
//! pipe   start | grains of a table | marker, table | ... | marker, directory | marker, footer | end
//! file   start | directory | all tables | grains | end
//! ```
//!
//! A file says by its magic that it is not finished until it is; a pipe lacks the footer that its header promises.
//! A table is written when the stream leaves it, and nothing that was written is kept but the directory: 4 bytes for
//! every 32 MiB of the disk. Tables without a grain are left out.

use std::io::{Seek, Write};

use byteorder::{ByteOrder, LittleEndian};

use super::output::Output;
use crate::error::{Error, ErrorKind, Result};
use crate::format::kdmv::MAGIC;
use crate::format::{KdmvHeader, Marker, NEW_GT_ENTRIES};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};

/// Bytes of a table.
const TABLE_LEN: usize = NEW_GT_ENTRIES as usize * 4;

/// Bytes of the directory that are written at once.
const DIRECTORY_STEP: usize = 64 << 10;

/// The blocks of a stream on their way to its output.
pub(super) struct Layout<W> {
    output: Output<W>,
    header: KdmvHeader,
    /// Whether directory and tables have their places in front.
    has_tables_in_front: bool,
    /// The sector of every table, 0 for one that is left out.
    directory: Vec<u32>,
    /// The table of the last grain, as it will stand in the stream, and its number.
    table: Vec<u8>,
    current: Option<u64>,
}

impl<W: Write> Layout<W> {
    /// Begins a stream that is only written to its end.
    ///
    /// # Errors
    /// What the output reports.
    pub(super) fn begin(output: W, header: KdmvHeader, descriptor: &str) -> Result<Self> {
        let mut output = Output::new(output);
        let mut start = start_of(&header, descriptor);
        start.resize(to_usize(header.over_head) * SECTOR_SIZE, 0);
        output.append(&start)?;
        Ok(Self::new(output, header, false))
    }

    fn new(output: Output<W>, header: KdmvHeader, has_tables_in_front: bool) -> Self {
        let directory = vec![0; to_usize(header.tables())];
        Self { output, header, has_tables_in_front, directory, table: vec![0; TABLE_LEN], current: None }
    }

    /// Sectors of the disk.
    pub(super) fn capacity(&self) -> u64 {
        self.header.capacity
    }

    /// Puts a block into the stream: the grain at the sector `lba` of the disk, with its marker, in whole sectors. No
    /// grain comes before one that was put already.
    ///
    /// # Errors
    /// What the output reports; `Full` for a place that tables have no number for.
    pub(super) fn put(&mut self, lba: u64, block: &[u8]) -> Result<()> {
        let grain = lba / self.header.grain_size;
        let (table, entry) = (grain / u64::from(NEW_GT_ENTRIES), grain % u64::from(NEW_GT_ENTRIES));
        if self.current != Some(table) {
            self.end_table()?;
            self.current = Some(table);
        }
        let sector = entry_for(self.output.next())?;
        self.output.append(block)?;
        LittleEndian::write_u32(&mut self.table[to_usize(entry) * 4..], sector);
        Ok(())
    }

    /// Ends the stream, and gives back its output.
    ///
    /// # Errors
    /// As for `put`.
    pub(super) fn end(mut self) -> Result<W> {
        self.end_table()?;
        if self.has_tables_in_front {
            self.output.append(&Marker::End.encode_metadata())?;
            self.write_directory_in_front()?;
            self.output.write_at(&self.header.encode(), 0)?;
        } else {
            self.append_directory_and_footer()?;
        }
        self.output.into_inner()
    }

    /// Writes the table that the stream leaves.
    fn end_table(&mut self) -> Result<()> {
        let Some(number) = self.current.take() else { return Ok(()) };
        let sectors = self.header.sectors_per_table();
        let sector = if self.has_tables_in_front {
            let sector = self.header.gd_offset + self.header.directory_sectors() + number * sectors;
            self.output.write_at(&self.table, sector)?;
            sector
        } else {
            self.output.append(&Marker::Table { sectors }.encode_metadata())?;
            self.output.append(&self.table)?
        };
        self.directory[to_usize(number)] = entry_for(sector)?;
        self.table.fill(0);
        Ok(())
    }

    fn write_directory_in_front(&mut self) -> Result<()> {
        let Self { output, header, directory, .. } = self;
        let mut sector = header.gd_offset;
        pieces(directory).try_for_each(|bytes| {
            output.write_at(&bytes, sector)?;
            sector += bytes.len() as u64 / SECTOR_BYTES;
            Ok(())
        })
    }

    fn append_directory_and_footer(&mut self) -> Result<()> {
        let Self { output, header, directory, .. } = self;
        output.append(&Marker::Directory { sectors: header.directory_sectors() }.encode_metadata())?;
        let mut footer = header.clone();
        footer.gd_offset = output.next();
        for bytes in pieces(directory) {
            output.append(&bytes)?;
        }
        output.append(&Marker::Footer { sectors: 1 }.encode_metadata())?;
        output.append(&footer.encode())?;
        output.append(&Marker::End.encode_metadata())?;
        Ok(())
    }
}

impl<W: Write + Seek> Layout<W> {
    /// Begins a stream with its tables in front. What is left out of these is not written. Until it ends, its magic is
    /// "kdmv", as open-vmdk has it: nobody takes it for a disk that has nothing.
    ///
    /// # Errors
    /// What the output reports.
    pub(super) fn begin_with_tables(output: W, header: KdmvHeader, descriptor: &str) -> Result<Self> {
        let mut output = Output::new_seekable(output)?;
        let mut start = start_of(&header, descriptor);
        start[..MAGIC.len()].make_ascii_lowercase();
        output.append(&start)?;
        output.skip_to(header.over_head)?;
        Ok(Self::new(output, header, true))
    }
}

/// Header and descriptor.
fn start_of(header: &KdmvHeader, descriptor: &str) -> Vec<u8> {
    let mut start = header.encode().to_vec();
    start.extend_from_slice(descriptor.as_bytes());
    start.resize(to_usize(1 + header.descriptor_size) * SECTOR_SIZE, 0);
    start
}

/// A directory as it stands in the stream, in whole sectors.
fn pieces(directory: &[u32]) -> impl Iterator<Item = Vec<u8>> {
    directory.chunks(DIRECTORY_STEP / 4).map(|entries| {
        let mut bytes = vec![0; (entries.len() * 4).next_multiple_of(SECTOR_SIZE)];
        LittleEndian::write_u32_into(entries, &mut bytes[..entries.len() * 4]);
        bytes
    })
}

/// The number of a sector in a table or directory.
fn entry_for(sector: u64) -> Result<u32> {
    u32::try_from(sector).map_err(|_| {
        let text = "the stream has reached 2 TiB: tables have no number for a grain behind that";
        Error::text(ErrorKind::Full, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Takes everything and keeps nothing.
    struct Far;

    impl Write for Far {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Far {
        fn seek(&mut self, _: io::SeekFrom) -> io::Result<u64> {
            Ok(0)
        }
    }

    #[test]
    fn a_grain_beyond_the_numbers_of_tables_is_refused() {
        let header = KdmvHeader::of_new_stream(1 << 30, 20).unwrap();
        let mut layout = Layout::begin_with_tables(Far, header, "").unwrap();
        layout.output.skip_to((1 << 32) - 1).unwrap();
        layout.put(0, &[1; SECTOR_SIZE]).unwrap();
        let error = layout.put(128, &[1; SECTOR_SIZE]).unwrap_err();
        assert_eq!((error.kind(), layout.output.next()), (ErrorKind::Full, 1 << 32));
    }
}
