//! The writer of a stream.

use std::fmt;
use std::io::{Seek, Write};

use super::compressors::Compressors;
use super::layout::Layout;
use super::{GRAIN_LEN, GRAIN_SECTORS};
use crate::create::{CreateOptions, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::sector::{SECTOR_SIZE, is_zero, to_usize};

/// Threads that read a source, at most; each of them takes 2 MiB.
const MAX_READING_THREADS: usize = 4;

/// Writes a streamOptimized disk to any output, from its beginning to its end.
///
/// ```
/// use vmdk::{CreateOptions, StreamWriter};
///
/// # fn main() -> vmdk::Result<()> {
/// let options = CreateOptions::new().capacity_sectors(1 << 20);
/// let mut stream = StreamWriter::new(Vec::new(), "disk.vmdk", &options)?;
/// stream.write_grain(256, &[1; 64 << 10])?;
/// let written = stream.finish()?;
/// # assert_eq!(written.len() % 512, 0);
/// # Ok(()) }
/// ```
///
/// # What is written
///
/// Grains have 128 sectors, 64 KiB. Those that are zero are left out, and so are tables without a grain. The last one
/// is padded with zeros up to a whole grain, which VirtualBox needs. What is noise, as compressed and encrypted files
/// are, is stored without a search for something to leave out.
///
/// [`new`](Self::new) lays the stream out for a pipe, as VMware's products export disks: tables behind their grains,
/// and at the end the directory, a footer that says where that is, and a mark of the end.
/// [`new_seekable`](Self::new_seekable) lays it out for a file, as VMware's disk library does: directory and tables in
/// front. Either can be read by every product.
///
/// # Threads and memory
///
/// Unless [`threads`](CreateOptions::threads) says otherwise, everything happens in the caller's thread. Else so many
/// threads compress, up to 48, and the caller's writes; the output is the same, byte by byte, but for what is random in
/// the descriptor. `2 * threads + 2` grains are under way at most, of 128 KiB each. The directory takes 4 bytes for
/// every 32 MiB of the disk. A [source](Self::write_all_from) is read by up to four threads more.
///
/// # Errors
///
/// A grain that is refused changes nothing. Any other error, of the output or of a source, is the last one that counts:
/// every later call fails with [`Poisoned`](ErrorKind::Poisoned), and what is written is part of a stream. So it is
/// when this is dropped without [`finish`](Self::finish).
pub struct StreamWriter<W: Write> {
    layout: Layout<W>,
    compressors: Compressors,
    threads: usize,
    /// The end of the last grain that was handed in.
    next: u64,
    has_failed: bool,
}

impl<W: Write> StreamWriter<W> {
    /// Begins a stream that is written to its end only, as a pipe is. `name` is what its descriptor calls it: the name
    /// of the file that it will be, without a path.
    ///
    /// Of the options count the capacity, which must be set, those that the descriptor speaks of, and
    /// [`compression_level`](CreateOptions::compression_level) and [`threads`](CreateOptions::threads). The type need
    /// not be set.
    ///
    /// The output is written in pieces of up to 64 KiB, most of them a grain.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for options that contradict each other or a stream, a size that the
    /// format has no numbers for, and a name that cannot be written; what the output reports.
    pub fn new(output: W, name: &str, options: &CreateOptions) -> Result<Self> {
        let plan = plan(name, options)?;
        let header = plan.stream_header()?.with_directory_at_end();
        Ok(Self::over(Layout::begin(output, header, &plan.text)?, options))
    }

    fn over(layout: Layout<W>, options: &CreateOptions) -> Self {
        let compressors = Compressors::new(options.level(), options.thread_count());
        Self { layout, compressors, threads: options.thread_count(), next: 0, has_failed: false }
    }

    /// The size of the disk in sectors.
    pub fn capacity_sectors(&self) -> u64 {
        self.layout.capacity()
    }

    /// Writes the grain that begins at the sector `start`, a multiple of 128, behind all grains that were written
    /// before. `content` is the whole grain of 64 KiB, or of the last one what there is of it up to the end of the
    /// disk. Zeros are left out. What is not written at all is zero, too.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a grain that comes too late, begins elsewhere or is not whole: it
    /// is as if there had been no call; [`Full`](ErrorKind::Full) when the stream reaches 2 TiB;
    /// [`Poisoned`](ErrorKind::Poisoned) after an earlier error; what the output reports, of this grain or one before.
    pub fn write_grain(&mut self, start: u64, content: &[u8]) -> Result<()> {
        self.check_sound()?;
        self.check_grain(start, content)?;
        self.begin();
        let put = self.put(start, content);
        self.judge(put)
    }

    /// Ends the stream: writes the last tables, the directory and what else is missing, and gives back the output,
    /// which was flushed.
    ///
    /// # Errors
    /// As for [`write_grain`](Self::write_grain).
    pub fn finish(mut self) -> Result<W> {
        self.check_sound()?;
        let Self { layout, compressors, .. } = &mut self;
        compressors.drain(|block| layout.put(block.lba, block.packed()))?;
        self.layout.end()
    }

    /// Takes the next grain, or its beginning, behind which it is zero.
    pub(super) fn put(&mut self, start: u64, content: &[u8]) -> Result<()> {
        self.next = start + GRAIN_SECTORS;
        if is_zero(content) {
            return Ok(());
        }
        let Self { layout, compressors, .. } = self;
        compressors.push(start, content, |block| layout.put(block.lba, block.packed()))
    }

    /// The end of the last grain that was handed in.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Threads that read a source: what they have read takes longer to compress than to read.
    pub(super) fn reading_threads(&self) -> usize {
        self.threads.min(MAX_READING_THREADS)
    }

    /// Nothing goes on unless what begins now ends well, as it does not if somebody's output or source panics.
    pub(super) fn begin(&mut self) {
        self.has_failed = true;
    }

    /// Passes the result of what has begun on. After an error nothing goes on.
    pub(super) fn judge<T>(&mut self, result: Result<T>) -> Result<T> {
        self.has_failed = result.is_err();
        if self.has_failed {
            self.compressors.stop();
        }
        result
    }

    pub(super) fn check_sound(&self) -> Result<()> {
        if self.has_failed {
            let text = "the stream ended incomplete with an earlier error";
            return Err(Error::text(ErrorKind::Poisoned, text));
        }
        Ok(())
    }

    fn check_grain(&self, start: u64, content: &[u8]) -> Result<()> {
        let capacity = self.capacity_sectors();
        let len = content.len();
        if !start.is_multiple_of(GRAIN_SECTORS) {
            return refused(format!("a grain at sector {start}: it begins at a multiple of {GRAIN_SECTORS}"));
        }
        if start >= capacity {
            return refused(format!("a grain at sector {start} of a disk of {capacity}"));
        }
        if start < self.next {
            let next = self.next;
            return refused(format!("a grain at sector {start}: those before {next} are written, or left out"));
        }
        let wanted = to_usize(capacity - start).saturating_mul(SECTOR_SIZE).min(GRAIN_LEN);
        if len != wanted {
            return refused(format!("a grain at sector {start} of {len} bytes, which has {wanted}"));
        }
        Ok(())
    }
}

impl<W: Write + Seek> StreamWriter<W> {
    /// Begins a stream with its directory and tables in front, as it is read best. It begins where the output stands,
    /// which must be its end, as in a new file. Tables are written where they belong when the stream is through with
    /// them, and the magic of the header last: until then nobody takes it for a disk. Otherwise as [`new`](Self::new).
    ///
    /// # Errors
    /// As for [`new`](Self::new), and [`InvalidInput`](ErrorKind::InvalidInput) for an output that has something behind
    /// where it stands: it could be taken for the end of the stream.
    pub fn new_seekable(output: W, name: &str, options: &CreateOptions) -> Result<Self> {
        Self::of_plan(output, &plan(name, options)?, options)
    }

    /// The same of a plan that was made already.
    pub(crate) fn of_plan(output: W, plan: &Plan, options: &CreateOptions) -> Result<Self> {
        Ok(Self::over(Layout::begin_with_tables(output, plan.stream_header()?, &plan.text)?, options))
    }
}

impl<W: Write> fmt::Debug for StreamWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("StreamWriter");
        shown.field("capacity_sectors", &self.capacity_sectors()).field("next", &self.next);
        shown.field("has_failed", &self.has_failed).finish_non_exhaustive()
    }
}

fn plan(name: &str, options: &CreateOptions) -> Result<Plan> {
    Plan::new(&options.clone().for_stream()?, name, None)
}

fn refused<T>(text: String) -> Result<T> {
    Err(Error::text(ErrorKind::InvalidInput, text))
}
