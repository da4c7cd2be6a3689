//! A stream as its grains, in the order in which they come.

use std::cell::RefCell;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;

use super::blocks::{Blocks, FoundGrain, in_stream};
use crate::codec::Inflater;
use crate::descriptor::{ContentId, Descriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::format::KdmvHeader;
use crate::parallel::in_order;
use crate::sector::{SECTOR_BYTES, to_usize};

/// Threads that inflate, at most: one thread reads and writes for all of them, and each takes memory.
const MAX_THREADS: usize = 64;

/// A streamOptimized disk, read from its beginning to its end without seeking: from a pipe, a socket, a member of an
/// archive.
///
/// ```
/// # use std::io::Read;
/// # fn read(pipe: impl Read) -> vmdk::Result<()> {
/// let mut stream = vmdk::StreamReader::new(pipe)?;
/// println!("{} sectors", stream.capacity_sectors());
/// while let Some(grain) = stream.next_grain()? {
///     println!("{} bytes at sector {}", grain.bytes.len(), grain.start_sector);
/// }
/// # Ok(()) }
/// ```
///
/// # Order
///
/// Grains come in the order of the file. VMware's products write them in ascending order; others, such as QEMU, in that
/// in which they were written. What no grain holds is zero, or in a delta what its parent has. **If two grains begin
/// at one sector, the later one counts**, also one of zeros: a writer that changes a grain appends a new one.
///
/// # What is read
///
/// Nothing behind the end-of-stream marker, so that what follows in a pipe is for whoever wants it. A stream that
/// has none, and ends in zeros, is read up to the first sector of these.
///
/// # Damage
///
/// A stream is not believed: sizes and places are checked before they are used, each grain by its checksum, and the end
/// against what the tables name, so that a stream that was cut is an error ([`Corrupt`](ErrorKind::Corrupt)) that
/// says where and what is missing, unless [`salvage`](Self::salvage) asks for what there is. Memory is one grain with
/// its data, and for streams with large tables four bytes for each of these.
pub struct StreamReader<R> {
    blocks: Blocks<R>,
    capacity: u64,
    allow_raw_deflate: bool,
    inflater: Option<Inflater>,
    buffers: Buffers,
    end_sector: u64,
    damaged: Damaged,
}

/// Grains that could not be inflated, and were left out.
#[derive(Clone, Copy, Debug, Default)]
struct Damaged {
    count: u64,
    first_lba: u64,
}

impl Damaged {
    fn add(&mut self, lba: u64) {
        if self.count == 0 {
            self.first_lba = lba;
        }
        self.count += 1;
    }

    /// In words, if there are any.
    fn text(self) -> Option<String> {
        let Self { count, first_lba } = self;
        (count > 0).then(|| format!("damaged grains: {count}, the first with lba {first_lba}"))
    }
}

/// Some sectors of a disk, as they came out of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamGrain<'a> {
    /// The first of them.
    pub start_sector: u64,
    /// Their content: a grain, or what of the last one lies on the disk.
    pub bytes: &'a [u8],
}

/// What has come of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSummary {
    /// Grains, each counted as often as it came, damaged ones too.
    pub grains: u64,
    /// The sector of the disk behind the highest of them; 0 without any.
    pub end_sector: u64,
    /// Whether the end was reached and nothing is missing.
    pub complete: bool,
    /// What is missing, in words, of a stream that was [salvaged](StreamReader::salvage).
    pub missing: Option<String>,
}

/// A block as it came, and room for what it holds.
#[derive(Default)]
struct Buffers {
    block: Vec<u8>,
    grain: Vec<u8>,
}

/// A grain on its way through a thread.
type Job = (FoundGrain, Buffers);

impl<R: Read> StreamReader<R> {
    /// Reads the header and the descriptor that a stream begins with.
    ///
    /// # Errors
    /// [`NotVmdk`](ErrorKind::NotVmdk), [`Incomplete`](ErrorKind::Incomplete) and [`Corrupt`](ErrorKind::Corrupt) for
    /// what the input begins with; [`Unsupported`](ErrorKind::Unsupported) for disks that can only be read by their
    /// tables: those that are not compressed, or have no markers; what the input reports.
    pub fn new(input: R) -> Result<Self> {
        let blocks = Blocks::new(input)?;
        let front = blocks.front();
        let capacity = capacity(&front.header, &front.descriptor)?;
        Ok(Self {
            blocks,
            capacity,
            allow_raw_deflate: false,
            inflater: None,
            buffers: Buffers::default(),
            end_sector: 0,
            damaged: Damaged::default(),
        })
    }

    /// Takes a stream whose end is missing, or in which grains are damaged, for as much of it as there is: that is no
    /// error then. Damaged grains are left out, and the [summary](Self::summary) says what is missing. A marker that
    /// cannot be remains an error: nothing says where the next one is.
    #[must_use]
    pub fn salvage(mut self, salvage: bool) -> Self {
        self.blocks.salvage(salvage);
        self
    }

    /// Reads grains that are deflate without the container of zlib, and so have no checksum, as well.
    #[must_use]
    pub fn allow_raw_deflate(mut self, allow: bool) -> Self {
        self.allow_raw_deflate = allow;
        self.inflater = None;
        self
    }

    /// What errors call the stream, as they call other images by their files; nothing unless given.
    #[must_use]
    pub fn name(mut self, name: impl Into<PathBuf>) -> Self {
        self.blocks.set_name(name.into());
        self
    }

    /// The header.
    pub fn header(&self) -> &KdmvHeader {
        &self.blocks.front().header
    }

    /// The descriptor in the stream; an empty one if there is none.
    pub fn descriptor(&self) -> &Descriptor {
        &self.blocks.front().descriptor
    }

    /// The size of the disk in sectors.
    pub fn capacity_sectors(&self) -> u64 {
        self.capacity
    }

    /// Whether this is a delta: what no grain holds is what a parent has, which is not in the stream.
    pub fn is_delta(&self) -> bool {
        let descriptor = self.descriptor();
        match descriptor.parent_content_id() {
            Some(id) => !ContentId::is_no_parent(id),
            None => descriptor.parent_hint().is_some(),
        }
    }

    /// What has come so far; all of it when there are no more grains.
    pub fn summary(&self) -> StreamSummary {
        let parts = [self.blocks.missing().map(str::to_owned), self.damaged.text()];
        let missing = parts.into_iter().flatten().reduce(|one, other| format!("{one}; {other}"));
        StreamSummary {
            grains: self.blocks.grains(),
            end_sector: self.end_sector,
            complete: self.blocks.has_ended() && missing.is_none(),
            missing,
        }
    }

    /// The input, which stands behind what was read.
    pub fn into_inner(self) -> R {
        self.blocks.into_inner()
    }

    /// The next grain, inflated in the caller's thread; `None` at the end.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) with the offset of the block in the stream and the sector (lba) of the disk;
    /// what the input reports. The stream cannot be read further then.
    pub fn next_grain(&mut self) -> Result<Option<StreamGrain<'_>>> {
        loop {
            let Some(found) = self.blocks.next(&mut self.buffers.block)? else { return Ok(None) };
            let shape = Shape::of(self.header(), self.capacity);
            let inflater = self.inflater.get_or_insert_with(|| Inflater::new(self.allow_raw_deflate));
            if let Err(error) = shape.inflate(inflater, found, &mut self.buffers) {
                if self.blocks.salvages() {
                    self.damaged.add(found.lba);
                    continue;
                }
                self.blocks.fail();
                return Err(in_stream(error, self.blocks.name()));
            }
            let len = shape.len(found.lba);
            if len > 0 {
                self.end_sector = self.end_sector.max(found.lba + len as u64 / SECTOR_BYTES);
                return Ok(Some(StreamGrain { start_sector: found.lba, bytes: &self.buffers.grain[..len] }));
            }
        }
    }

    /// Hands all grains that are left to `sink`, in the order of the file, inflated on so many threads; with one or
    /// none in the caller's, which is also where the input is read and `sink` is called. Which grains come and which
    /// error does not depend on the number; more than 64 are not used. Memory is what is under way: two grains with
    /// their data for each thread, and two more.
    ///
    /// # Errors
    /// The first in the order of the file: as for [`next_grain`](Self::next_grain), and that of `sink`.
    pub fn for_each_grain(
        &mut self,
        threads: usize,
        sink: &mut dyn FnMut(StreamGrain<'_>) -> Result<()>,
    ) -> Result<StreamSummary> {
        let shape = Shape::of(self.header(), self.capacity);
        let allow_raw_deflate = self.allow_raw_deflate;
        let (mut end_sector, mut damaged) = (self.end_sector, self.damaged);
        let salvages = self.blocks.salvages();
        let free: RefCell<Vec<Buffers>> = RefCell::default();
        let name = self.blocks.name().cloned();
        let blocks = &mut self.blocks;
        let jobs = || {
            let mut buffers = free.borrow_mut().pop().unwrap_or_default();
            Ok(blocks.next(&mut buffers.block)?.map(|found| (found, buffers)))
        };
        let worker = || {
            let mut inflater = Inflater::new(allow_raw_deflate);
            let name = name.as_ref();
            move |(found, mut buffers): Job| -> Result<(Job, bool)> {
                let done = shape.inflate(&mut inflater, found, &mut buffers);
                let is_good = done.is_ok();
                if !salvages {
                    done.map_err(|error| in_stream(error, name))?;
                }
                Ok(((found, buffers), is_good))
            }
        };
        let done = in_order(threads.min(MAX_THREADS), worker, jobs, |result: Result<(Job, bool)>| {
            let ((found, buffers), is_good) = result?;
            let len = shape.len(found.lba);
            if !is_good {
                damaged.add(found.lba);
            } else if len > 0 {
                end_sector = end_sector.max(found.lba + len as u64 / SECTOR_BYTES);
                sink(StreamGrain { start_sector: found.lba, bytes: &buffers.grain[..len] })?;
            }
            free.borrow_mut().push(buffers);
            Ok(())
        });
        if done.is_err() {
            self.blocks.fail();
        }
        done?;
        (self.end_sector, self.damaged) = (end_sector, damaged);
        Ok(self.summary())
    }
}

/// Shows where it is on the disk; the content is somebody's disk.
impl fmt::Debug for StreamGrain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start_sector, bytes } = self;
        f.debug_struct("StreamGrain").field("start_sector", start_sector).field("len", &bytes.len()).finish()
    }
}

impl<R> fmt::Debug for StreamReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader").field("capacity_sectors", &self.capacity).finish_non_exhaustive()
    }
}

/// How large grains are.
#[derive(Clone, Copy)]
struct Shape {
    grain_sectors: u64,
    capacity: u64,
}

impl Shape {
    fn of(header: &KdmvHeader, capacity: u64) -> Self {
        Self { grain_sectors: header.grain_size, capacity }
    }

    /// Bytes of the disk in the grain that begins at `lba`.
    fn len(self, lba: u64) -> usize {
        to_usize(self.capacity.saturating_sub(lba).min(self.grain_sectors) * SECTOR_BYTES)
    }

    fn inflate(self, inflater: &mut Inflater, found: FoundGrain, buffers: &mut Buffers) -> Result<()> {
        let Buffers { block, grain } = buffers;
        grain.resize(to_usize(self.grain_sectors * SECTOR_BYTES), 0);
        let done = inflater.grain(found.data(block), grain, self.len(found.lba));
        done.map_err(|problem| found.error(problem))
    }
}

/// The size of the disk. The descriptor may make less of its extent than the header says, as it may of any other.
///
/// # Errors
/// `Unsupported` for a disk of which the stream is only a part; `Corrupt` for more than the extent has.
fn capacity(header: &KdmvHeader, descriptor: &Descriptor) -> Result<u64> {
    let of_header = header.capacity;
    match descriptor.extents() {
        [] => Ok(of_header),
        [line] if line.sectors() <= of_header => {
            Ok(Some(line.sectors()).filter(|&of_line| of_line > 0).unwrap_or(of_header))
        }
        [line] => {
            let text = format!("the descriptor gives the extent {} sectors, its header {of_header}", line.sectors());
            Err(Error::text(ErrorKind::Corrupt, text))
        }
        lines => {
            let text = format!(
                "the stream is one of {} extents of its disk; open the disk as a file, with the others beside it",
                lines.len()
            );
            Err(Error::text(ErrorKind::Unsupported, text))
        }
    }
}

/// The refusal of a delta where a whole disk is needed.
pub(crate) fn check_no_delta<R: Read>(stream: &StreamReader<R>) -> Result<()> {
    if !stream.is_delta() {
        return Ok(());
    }
    let text =
        "the stream is a delta: what its parent holds is not in it; open it as a file, with the parent beside it";
    Err(Error::text(ErrorKind::Unsupported, text))
}
