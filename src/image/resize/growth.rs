//! Room for more sectors.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::super::below::Parents;
use super::text::Lines;
use super::{Resizing, end_in_file, refused, unsupported};
use crate::create::{Kept, MAX_EXTENTS, NewFiles, SPLIT_SECTORS, Terms, extent_name, write_blank};
use crate::descriptor::{Access, CreateType, NewExtentLine};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::resizing::{Showing, front_of, grow, read_header, reopen, show};
use crate::extent::{Body, Ending, Extent, HostFile, SparseExtent, Surroundings, Zeroing};
use crate::format::{Blank, SparseHeader};
use crate::sector::SECTOR_BYTES;
use crate::storage::{Directory, Storage};

/// So many names are tried for the file of a new extent.
const MAX_NAMES: u32 = 10_000;

/// What a larger disk takes.
pub(super) struct Growth {
    /// What its descriptor will say, if it has one.
    text: Option<Vec<u8>>,
    lines: Lines,
}

impl Growth {
    /// Finds out whether the disk can have so many sectors. Nothing is changed.
    pub(super) fn plan(resizing: &Resizing<'_, '_>, capacity: u64) -> Result<Self> {
        let extents = resizing.extents();
        let Some(last) = extents.last() else { return unsupported("a disk without extents") };
        if last.access() != Access::ReadWrite {
            return unsupported("the last extent is RDONLY or NOACCESS in the descriptor");
        }
        let limit = split_limit(resizing);
        let grown = capacity - resizing.disk().capacity;
        let last_sectors = (last.sectors() + grown).min(limit.unwrap_or(u64::MAX)).max(last.sectors());
        check_last(resizing, last, last_sectors)?;
        let mut lines = Lines { kept: extents.len(), last_sectors, added: Vec::new() };
        let mut rest = grown - (last_sectors - last.sectors());
        let most = limit.unwrap_or(u64::MAX);
        if lines.kept as u64 + rest.div_ceil(most) > MAX_EXTENTS {
            return refused(format!(
                "a disk of {capacity} sectors in so many extents, for which no descriptor has room"
            ));
        }
        let mut names = Names::behind(resizing, lines.kept);
        while rest > 0 {
            let sectors = rest.min(most);
            lines.added.push(NewExtentLine { sectors, kind: last.kind(), name: names.next()? });
            rest -= sectors;
        }
        for line in lines.added.iter().take(1).chain(lines.added.last()) {
            blank_like(last, line)?;
        }
        let text = resizing.text(capacity, &lines)?;
        Ok(Self { text, lines })
    }

    /// Makes room, and then lets the disk have it.
    pub(super) fn carry_out(self, resizing: &mut Resizing<'_, '_>) -> Result<()> {
        let Some(last) = resizing.extents().last() else { return Ok(()) };
        let sectors = self.lines.last_sectors;
        match last.body() {
            Body::Sparse(sparse) => grow_sparse(resizing, last, sparse, sectors)?,
            Body::Flat(_) => {
                resizing.image.close()?;
                grow_flat(last, sectors)?;
            }
            Body::Zero | Body::Stream(_) => return unsupported(STRANGE),
        }
        resizing.tell(0, 1)?;
        let mut files = self.add_extents(resizing, last)?;
        resizing.tell(1, 1)?;
        files.publish_extents()?;
        // When the descriptor cannot be replaced, nobody knows which of the two there will be.
        files.keep();
        resizing.report.files_added = self.lines.added.iter().map(|line| line.name.clone()).collect();
        resizing.replace(self.text.as_deref())
    }

    /// Makes the files of new extents, durably, one after the other: a process may not have all of them open at once.
    fn add_extents<'a>(&self, resizing: &mut Resizing<'a, '_>, last: &Extent) -> Result<NewFiles<'a>> {
        let names = self.lines.added.iter().map(|line| line.name.clone());
        let dir = resizing.disk().links[0].path().parent().unwrap_or(Path::new(""));
        let terms = Terms { replace: false, sync: true, kept: &Kept::default() };
        let mut files = NewFiles::begin(names, resizing.directory, dir, &terms, |_, _| Ok(false))?;
        let total = self.lines.added.iter().map(|line| line.sectors * SECTOR_BYTES).sum();
        let mut start = last.start_sector() + self.lines.last_sectors;
        let mut done = 0;
        for (number, line) in self.lines.added.iter().enumerate() {
            let storage = files.make_in(number, resizing.for_extents, None)?;
            fill_extent(resizing, last, line, start, (&files.path(number), &storage))?;
            files.sync(number, &*storage)?;
            start += line.sectors;
            done += line.sectors * SECTOR_BYTES;
            resizing.tell(done, total)?;
        }
        Ok(files)
    }
}

/// Sectors over a larger parent that are zeroed before somebody is told.
const ZEROED_AT_ONCE: u64 = (16 << 20) / SECTOR_BYTES;

const STRANGE: &str = "the last extent of the disk is neither sparse nor flat";

/// How many sectors an extent of this disk has at most.
fn split_limit(resizing: &Resizing<'_, '_>) -> Option<u64> {
    let create_type = resizing.image.descriptor().create_type()?.canonical();
    let is_split = matches!(create_type, CreateType::TwoGbMaxExtentSparse | CreateType::TwoGbMaxExtentFlat);
    // QEMU's are a little larger than VMware's.
    let largest = resizing.extents().iter().map(Extent::sectors).max().unwrap_or(0);
    is_split.then_some(largest.max(SPLIT_SECTORS))
}

/// Whether the last extent can have so many sectors.
fn check_last(resizing: &Resizing<'_, '_>, last: &Extent, sectors: u64) -> Result<()> {
    let number = resizing.extents().len() - 1;
    if resizing.is_shared(number) {
        return unsupported("another extent lies in the file of the last one");
    }
    match last.body() {
        Body::Sparse(_) => last.header().map_or(Ok(0), |header| front_of(header, sectors)).map(drop),
        Body::Flat(flat) => {
            let Some(end) = end_in_file(last, sectors) else {
                return refused(format!("an extent of {sectors} sectors"));
            };
            let old_end = end_in_file(last, last.sectors()).unwrap_or(end);
            // Whose that is nobody knows.
            if !flat.file().is_zero(old_end..end)? {
                return unsupported("the file of the last extent goes on behind it, with something that is not zero");
            }
            Ok(())
        }
        Body::Zero | Body::Stream(_) => unsupported(STRANGE),
    }
}

/// Names for the files of more extents.
struct Names<'a> {
    directory: &'a dyn Directory,
    name: &'a str,
    create_type: CreateType,
    number: u32,
}

impl<'a> Names<'a> {
    /// Those behind so many extents.
    fn behind(resizing: &Resizing<'a, '_>, extents: usize) -> Self {
        let create_type = resizing.image.descriptor().create_type().map(CreateType::canonical);
        Self {
            directory: resizing.directory,
            name: resizing.name,
            create_type: create_type.unwrap_or(CreateType::MonolithicSparse),
            number: u32::try_from(extents).unwrap_or(u32::MAX),
        }
    }

    /// The next one that nothing has.
    fn next(&mut self) -> Result<String> {
        for _ in 0..MAX_NAMES {
            self.number = self.number.saturating_add(1);
            let name = extent_name(self.name, &self.create_type, self.number);
            if !self.directory.exists(&name)? {
                return Ok(name);
            }
        }
        Err(Error::text(ErrorKind::AlreadyExists, "all names that a new extent could have are in use"))
    }
}

/// Makes a flat file longer, durably.
fn grow_flat(extent: &Extent, sectors: u64) -> Result<()> {
    let (Some(file), Some(end)) = (extent.file(), end_in_file(extent, sectors)) else { return Ok(()) };
    if file.len() < end {
        file.set_len(end)?;
    }
    file.sync()
}

/// Gives a sparse extent a larger capacity, durably. Nothing shows of it but in its header.
fn grow_sparse(resizing: &mut Resizing<'_, '_>, extent: &Extent, sparse: &SparseExtent, sectors: u64) -> Result<()> {
    let (Some(header), Some(file)) = (extent.header(), extent.shared_file()) else { return unsupported(STRANGE) };
    let front = front_of(header, sectors)?;
    let total = front * SECTOR_BYTES;
    let below = Parents::of(resizing.disk(), extent);
    let begin = || Ok(());
    let around = Surroundings { below: &below, begin: &begin, sectors: extent.sectors() };
    let mut done = 0;
    let mut moved = Ok(0);
    // What a writer that was cut off has left past the end of the file must not come alive when that grows.
    if front > sparse.first_grain_sector() || sparse.is_unclean() {
        moved = sparse.clear_front(front, around, &mut |bytes| {
            done += bytes;
            resizing.tell(done, total)
        });
    }
    // Also after an error or a stop: what was moved is published, and the extent is marked as closed.
    let closed = resizing.image.close();
    resizing.report.grains_moved += moved?;
    closed?;
    let old = read_header(file)?;
    let showing = if resizing.own.is_some() { Showing::AtOnce } else { Showing::Later };
    let target = grow(file, &old, sectors, showing, &mut || resizing.tell(0, 1))?;
    // Beyond the capacity that its header has had nothing can stand but what the parents have.
    let grown = reopen(file.path(), file.storage(), &target)?;
    zero(resizing, &grown, extent.start_sector(), extent.sectors()..sectors, old.capacity())?;
    if showing == Showing::Later { show(file, &target) } else { Ok(()) }
}

/// Makes sectors of an extent that was just opened, and is to begin at the sector `start` of the disk, read as zeros,
/// durably. Up to `written` it may have something itself.
fn zero(
    resizing: &mut Resizing<'_, '_>,
    sparse: &SparseExtent,
    start: u64,
    sectors: Range<u64>,
    written: u64,
) -> Result<()> {
    let disk = resizing.disk();
    let of_parent = disk.links.get(1).map_or(0, |parent| parent.capacity_sectors().saturating_sub(start));
    let end = written.max(of_parent).next_multiple_of(sparse.grain_sectors()).min(sectors.end);
    let below = Parents::at(disk, start);
    let begin = || Ok(());
    let around = Surroundings { below: &below, begin: &begin, sectors: sectors.end };
    let mut in_pieces = || {
        let total = end.saturating_sub(sectors.start) * SECTOR_BYTES;
        let mut at = sectors.start;
        while at < end {
            // Whole grains, but for the first and the last one.
            let next = (at + ZEROED_AT_ONCE).next_multiple_of(sparse.grain_sectors()).min(end);
            sparse.zero(at, next - at, Zeroing::Unmap, around)?;
            at = next;
            resizing.tell((at - sectors.start) * SECTOR_BYTES, total)?;
        }
        Ok(())
    };
    let zeroed = in_pieces();
    // Also what was written to the file before it was opened for this, and what was done before a stop.
    let closed = sparse.publish().and_then(|()| sparse.end_writing(Ending::Closed));
    zeroed.and(closed)
}

/// A new extent of the same kind as `model`; `None` for a flat one.
///
/// # Errors
/// `Unsupported` and `InvalidInput` for a kind of which none is made.
fn blank_like(model: &Extent, line: &NewExtentLine) -> Result<Option<Blank>> {
    match model.header() {
        Some(SparseHeader::Kdmv(header)) => {
            Blank::kdmv(line.sectors, header.grain_size, 0, header.has_zero_grains()).map(Some)
        }
        Some(SparseHeader::Cowd(_) | SparseHeader::SeSparse(_)) => unsupported(STRANGE),
        None => Ok(None),
    }
}

/// Makes an empty file a new extent of the same kind as `model`, which reads as zeros from the sector `start` of the
/// disk on.
fn fill_extent(
    resizing: &mut Resizing<'_, '_>,
    model: &Extent,
    line: &NewExtentLine,
    start: u64,
    (path, storage): (&Path, &Arc<dyn Storage>),
) -> Result<()> {
    let failed = |cause| Error::host("cannot write the new extent", cause).in_file(path);
    match blank_like(model, line)? {
        Some(blank) => {
            write_blank(&**storage, &blank, b"").map_err(failed)?;
            let header = read_header(&HostFile::new(path.to_owned(), Arc::clone(storage))?)?;
            zero(resizing, &reopen(path, storage, &header)?, start, 0..line.sectors, 0)
        }
        None => storage.set_len(line.sectors * SECTOR_BYTES).map_err(failed),
    }
}
