//! A sparse extent that gets another capacity: its header, and the directories and tables that it takes for that.
//!
//! Nothing of it changes what a guest sees: how much of an extent is part of a disk is for the descriptor to say, and
//! that is changed later. Larger tables take the place of the old ones in front of the grains, as in a new extent, by
//! way of the end of the file:
//!
//! ```text
//! header | old tables | grains                         grains that are in the way have been moved
//! header | old tables | grains | new tables            1. the new tables behind everything, sync
//! header | . . . . . . | grains | new tables           2. the header leads there, sync
//! header | new tables . | grains | new tables          3. the same in front, sync
//! header | new tables . | grains                       4. the header leads to the front, sync; the end is cut off
//! ```
//!
//! A crash leaves one of these, and all of them can be read; the next call goes on from there. All of it is for who has
//! the file to himself, of an extent that is closed.
//!
//! Where there is no descriptor, the header itself says how large the disk is, and that is written last.

use std::path::Path;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};

use super::audit::{MAX_END, NO_ROOM};
use super::grain_directory::GrainDirectory;
use super::holes::Holes;
use super::tables::{ENTRY, Tables, ZERO};
use super::writing::used_end;
use super::{DEFAULT_TABLES, HostFile, SparseExtent, SparseOptions, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::format::cowd::{HEADER_LEN, set_disk_size};
use crate::format::{BlankDirectory, CowdHeader, KdmvHeader, SparseHeader, SparseLayout};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, is_zero, to_usize};
use crate::storage::Storage;

/// Bytes of tables that are written at once.
const PIECE: usize = 1 << 20;

/// Is told after each piece of tables, and may stop the work by an error: the extent is valid then, and as large as
/// before.
pub(crate) type Tell<'a> = dyn FnMut() -> Result<()> + 'a;

/// When the header of an extent that becomes larger says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Showing {
    /// As soon as there are tables for it: nobody looks there for how large the disk is.
    AtOnce,
    /// When [`show`] is called: until then it has the capacity that it had.
    Later,
}

/// Makes room for a capacity of at least `capacity` sectors in the extent in `file`; durable with the next sync. What
/// it has beyond its capacity until now is forgotten, and reads as if nothing had ever been written there. In a hosted
/// extent no grain may lie in front of where its grains are to [begin](front_of). Gives back the header that it has
/// then, or is to get.
///
/// # Errors
/// `InvalidInput` for a size that the format has no numbers for; `Full` where the file has none left for larger tables;
/// `Corrupt` for tables that cannot be right; what the host reports. The extent is as large as before then, or as it
/// was to be.
pub(crate) fn grow(
    file: &Arc<HostFile>,
    header: &SparseHeader,
    capacity: u64,
    showing: Showing,
    tell: &mut Tell<'_>,
) -> Result<SparseHeader> {
    let layout = header.layout(file.len(), false)?;
    let capacity = capacity.max(header.capacity());
    match header {
        SparseHeader::Kdmv(header) => {
            grow_hosted(file, header, layout, capacity, showing, tell).map(SparseHeader::Kdmv)
        }
        SparseHeader::Cowd(header) => grow_cowd(file, header, layout, capacity, showing, tell).map(SparseHeader::Cowd),
        SparseHeader::SeSparse(_) => Err(not_written()),
    }
    .map_err(|error| error.in_file(file.path()))
}

/// Lets the header of the extent in `file` be this one, durably. What it leads to must be durable already.
///
/// # Errors
/// What the host reports.
pub(crate) fn show(file: &HostFile, header: &SparseHeader) -> Result<()> {
    write_header(file, header)?;
    file.sync()
}

/// Lets the header of the extent in `file` say that it has fewer sectors, durably. Its entries stay.
///
/// # Errors
/// As for [`grow`].
pub(crate) fn show_fewer(file: &HostFile, header: &SparseHeader, capacity: u64) -> Result<()> {
    show(file, &smaller(header, capacity)?)
}

/// The sector below which there must be no grain for the extent to have so many sectors.
///
/// # Errors
/// `InvalidInput` for a size that the format has no numbers for.
pub(crate) fn front_of(header: &SparseHeader, capacity: u64) -> Result<u64> {
    match header {
        SparseHeader::Kdmv(header) => Ok(header.with_capacity(capacity.max(header.capacity))?.over_head),
        SparseHeader::Cowd(header) => {
            header.with_capacity(capacity.max(header.num_sectors.into()))?;
            Ok(0)
        }
        SparseHeader::SeSparse(_) => Err(not_written()),
    }
}

/// Gives the extent in `file` a smaller capacity; durable with the next sync. Its grains beyond that have no entries
/// any more.
///
/// # Errors
/// As for [`grow`].
pub(crate) fn shrink(file: &Arc<HostFile>, header: &SparseHeader, capacity: u64, tell: &mut Tell<'_>) -> Result<()> {
    let layout = header.layout(file.len(), false)?;
    let smaller = smaller(header, capacity)?;
    forget_beyond(file, layout, capacity, tell)?;
    write_header(file, &smaller)
}

/// Whether an extent can have so few sectors.
///
/// # Errors
/// As for [`shrink`].
pub(crate) fn check_shrink(header: &SparseHeader, capacity: u64) -> Result<()> {
    smaller(header, capacity).map(drop)
}

fn smaller(header: &SparseHeader, capacity: u64) -> Result<SparseHeader> {
    Ok(match header {
        SparseHeader::Kdmv(header) => SparseHeader::Kdmv(KdmvHeader { capacity, ..header.clone() }),
        SparseHeader::Cowd(header) => SparseHeader::Cowd(header.with_capacity(capacity)?),
        SparseHeader::SeSparse(_) => return Err(not_written()),
    })
}

/// Nobody can compute the checksums of its journal.
fn not_written() -> Error {
    Error::text(ErrorKind::Unsupported, "an seSparse extent is not written to")
}

fn grow_hosted(
    file: &Arc<HostFile>,
    header: &KdmvHeader,
    layout: SparseLayout,
    capacity: u64,
    showing: Showing,
    tell: &mut Tell<'_>,
) -> Result<KdmvHeader> {
    let target = header.with_capacity(capacity)?;
    let shown = |target: &KdmvHeader| {
        let capacity = if showing == Showing::AtOnce { capacity } else { header.capacity };
        SparseHeader::Kdmv(KdmvHeader { capacity, ..target.clone() })
    };
    // Entries of a directory that count for more tables than before may be anything, or lie in a table.
    let is_in_place = target.tables() == header.tables()
        && (target.gd_offset, target.rgd_offset) == (header.gd_offset, header.rgd_offset);
    if is_in_place {
        if capacity > header.capacity {
            forget_beyond(file, layout, header.capacity, tell)?;
            file.sync()?;
            write_header(file, &shown(&target))?;
        }
        return Ok(target);
    }
    let live = header.capacity.div_ceil(header.grain_size);
    let mut old = open(file, layout)?;
    check_front(&old, target.over_head, live)?;
    // The file may end within its last grain.
    let file_end = used_end(&old)?.max(target.over_head);
    let mut end = None;
    if target.tables() != header.tables() || !is_behind(&old, target.over_head)? {
        let behind = moved_behind(&target, file_end);
        let new_end = behind.gd_offset + behind.tables_with_directory();
        if new_end > MAX_END {
            let text = "no room: the tables would reach beyond 2 TiB of the file, where nothing has a number";
            return Err(Error::text(ErrorKind::Full, text));
        }
        file.set_len(new_end * SECTOR_BYTES)?;
        write_tables(file, &old, &behind, live, tell)?;
        file.sync()?;
        let behind = shown(&behind);
        write_header(file, &behind)?;
        file.sync()?;
        old = open(file, behind.layout(file.len(), false)?)?;
        end = Some(file_end);
    }
    let start = if target.descriptor_offset == 0 { 1 } else { target.descriptor_offset + target.descriptor_size };
    file.punch(start * SECTOR_BYTES..target.over_head * SECTOR_BYTES)?;
    write_tables(file, &old, &target, live, tell)?;
    file.sync()?;
    write_header(file, &shown(&target))?;
    // What an earlier call has left there instead is for who compacts the disk.
    if let Some(end) = end {
        file.sync()?;
        file.set_len(end * SECTOR_BYTES)?;
    }
    Ok(target)
}

/// Refuses to go on if one of the first `live` grains lies below a sector, where tables are to be.
fn check_front(tables: &Tables, sector: u64, live: u64) -> Result<()> {
    let mut entries = vec![0; tables.table_len()];
    let mut holes = Holes::default();
    for table in tables.directory().listed() {
        if holes.cover(tables.file(), &tables.place(tables.directory(), table)?)? {
            continue;
        }
        tables.load(table, &mut entries)?;
        blank_beyond(&mut entries, table, tables.layout(), live);
        let values = entries.as_chunks::<ENTRY>().0.iter().map(|entry| u64::from(u32::from_le_bytes(*entry)));
        let is_in_front = |value: &u64| u64::from(ZERO) < *value && *value < sector;
        if let Some((number, value)) = (0..).zip(values).find(|(_, value)| is_in_front(value)) {
            return Err(tables.bad_entry(table, number, value, "the grain lies where larger tables are to be"));
        }
    }
    Ok(())
}

/// Whether no directory or table begins below a sector.
fn is_behind(tables: &Tables, sector: u64) -> Result<bool> {
    let layout = tables.layout();
    let redundant =
        layout.redundant.map(|start| GrainDirectory::load(tables.file(), start, layout.tables(), layout.entries));
    let redundant = redundant.transpose()?;
    let all = 0..u32::try_from(layout.tables()).unwrap_or(u32::MAX);
    Ok(std::iter::once(tables.directory()).chain(&redundant).all(|directory| {
        let is_behind = |table| matches!(u64::from(directory.entry(table)), start if start == 0 || start >= sector);
        directory.place(0).start >= sector * SECTOR_BYTES && all.clone().all(is_behind)
    }))
}

/// The same extent with its directories and tables from a sector on.
fn moved_behind(header: &KdmvHeader, sector: u64) -> KdmvHeader {
    let mut moved = header.clone();
    moved.gd_offset = sector;
    if moved.has_redundant_tables() {
        moved.rgd_offset = sector;
        moved.gd_offset = sector + moved.tables_with_directory();
    }
    moved
}

/// Writes the directories and tables that a header speaks of, with the entries of the first `live` grains, into space
/// of zeros.
fn write_tables(file: &HostFile, old: &Tables, header: &KdmvHeader, live: u64, tell: &mut Tell<'_>) -> Result<()> {
    let redundant = header.has_redundant_tables().then_some(header.rgd_offset);
    for start in redundant.into_iter().chain([header.gd_offset]) {
        let (tables, table_sectors) = (header.tables(), header.sectors_per_table());
        let directory =
            BlankDirectory { start, first_table: start + header.directory_sectors(), tables, table_sectors };
        for (offset, bytes) in directory.pieces() {
            file.write(&bytes, offset)?;
        }
        let mut writer = Pieces { file, offset: directory.first_table * SECTOR_BYTES, bytes: Vec::new() };
        let mut holes = Holes::default();
        let mut entries = vec![0; old.table_len()];
        let old_tables = u32::try_from(old.layout().tables()).unwrap_or(u32::MAX);
        for table in 0..old_tables {
            entries.fill(0);
            if old.directory().entry(table) != 0 {
                let place = old.place(old.directory(), table)?;
                if !holes.cover(file, &place)? {
                    old.load(table, &mut entries)?;
                }
            }
            blank_beyond(&mut entries, table, old.layout(), live);
            if writer.add(&entries, to_usize(table_sectors) * SECTOR_SIZE)? {
                tell()?;
            }
        }
        writer.write()?;
    }
    Ok(())
}

/// Bytes one after the other on their way into space of zeros.
struct Pieces<'a> {
    file: &'a HostFile,
    offset: u64,
    bytes: Vec<u8>,
}

impl Pieces<'_> {
    /// Adds bytes, and zeros up to `room` bytes; says whether it has written them.
    fn add(&mut self, bytes: &[u8], room: usize) -> Result<bool> {
        let end = self.bytes.len() + room;
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(end, 0);
        if end >= PIECE { self.write().map(|()| true) } else { Ok(false) }
    }

    fn write(&mut self) -> Result<()> {
        if !is_zero(&self.bytes) {
            self.file.write(&self.bytes, self.offset)?;
        }
        self.offset += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }
}

fn grow_cowd(
    file: &Arc<HostFile>,
    header: &CowdHeader,
    layout: SparseLayout,
    capacity: u64,
    showing: Showing,
    tell: &mut Tell<'_>,
) -> Result<CowdHeader> {
    let mut target = header.with_capacity(capacity)?;
    if target == *header {
        return Ok(target);
    }
    let entries = header.entries_per_table().unwrap_or_default();
    forget_beyond(file, layout.clone(), header.num_sectors.into(), tell)?;
    let mut end = used_end(&open(file, layout.clone())?)?.max(header.free_sector.into());
    if layout.entries_per_table < entries {
        end = whole_table(file, layout.clone(), header, end)?;
    }
    let old = layout.directory;
    let used = to_usize(old.end - old.start);
    let sectors = target.directory_sectors();
    let mut directory = vec![0; to_usize(sectors * SECTOR_BYTES)];
    // What stands behind the last entry was none.
    file.read(&mut directory[..used], old.start)?;
    if sectors > (used as u64).div_ceil(SECTOR_BYTES) {
        let (start, new_end) = (number(end)?, end + sectors);
        file.set_len(new_end * SECTOR_BYTES)?;
        file.write(&directory, end * SECTOR_BYTES)?;
        (target.gd_offset, end) = (start, new_end);
    } else {
        let first = used / SECTOR_SIZE * SECTOR_SIZE;
        file.write(&directory[first..], old.start + first as u64)?;
    }
    file.sync()?;
    target.free_sector = number(end)?.max(header.free_sector);
    let shown = match showing {
        Showing::AtOnce => target.clone(),
        Showing::Later => CowdHeader { gd_offset: target.gd_offset, free_sector: target.free_sector, ..header.clone() },
    };
    write_header(file, &SparseHeader::Cowd(shown))?;
    Ok(target)
}

fn open(file: &Arc<HostFile>, layout: SparseLayout) -> Result<Tables> {
    Tables::open(Arc::clone(file), layout, false)
}

/// Gives the only table of a COWD extent a place with room for all of its entries: how long its writer has made it
/// nobody knows. Says where the file ends then.
fn whole_table(file: &Arc<HostFile>, layout: SparseLayout, header: &CowdHeader, end: u64) -> Result<u64> {
    let tables = open(file, layout)?;
    if tables.directory().entry(0) == 0 {
        return Ok(end);
    }
    let mut bytes = vec![0; tables.table_len()];
    tables.load(0, &mut bytes)?;
    let sectors = tables.layout().table_sectors;
    bytes.resize(to_usize(sectors * SECTOR_BYTES), 0);
    let new_end = end + sectors;
    let (start, free) = (number(end)?, number(new_end)?);
    file.set_len(new_end * SECTOR_BYTES)?;
    file.write(&bytes, end * SECTOR_BYTES)?;
    write_header(
        file,
        &SparseHeader::Cowd(CowdHeader { free_sector: free.max(header.free_sector), ..header.clone() }),
    )?;
    file.sync()?;
    let mut sector = [0; SECTOR_SIZE];
    let at = tables.directory().entry_offset(0);
    file.read(&mut sector, at)?;
    LittleEndian::write_u32(&mut sector, start);
    file.write(&sector, at)?;
    // The header is written after the next sync.
    Ok(new_end)
}

fn number(sector: u64) -> Result<u32> {
    u32::try_from(sector).map_err(|_| Error::text(ErrorKind::Full, NO_ROOM))
}

/// Makes the entries of all grains beyond a capacity 0 in both copies of their tables. Nothing is synced.
fn forget_beyond(file: &Arc<HostFile>, layout: SparseLayout, capacity: u64, tell: &mut Tell<'_>) -> Result<()> {
    let redundant = layout.redundant;
    let mut other = layout.clone();
    forget_in(file, layout, capacity, tell)?;
    if let Some(start) = redundant {
        other.directory = start..start + (other.directory.end - other.directory.start);
        forget_in(file, other, capacity, tell)?;
    }
    Ok(())
}

/// The same in the tables of one directory.
fn forget_in(file: &Arc<HostFile>, layout: SparseLayout, capacity: u64, tell: &mut Tell<'_>) -> Result<()> {
    let live = capacity.div_ceil(layout.grain_sectors);
    let tables = open(file, layout)?;
    let layout = tables.layout();
    let mut entries = vec![0; tables.table_len()];
    let mut holes = Holes::default();
    let mut untold = 0;
    let first = u32::try_from(live / u64::from(layout.entries_per_table)).unwrap_or(u32::MAX);
    for table in tables.directory().listed().filter(|&table| table >= first) {
        let place = tables.place(tables.directory(), table)?;
        if holes.cover(file, &place)? {
            continue;
        }
        file.read(&mut entries, place.start)?;
        if blank_beyond(&mut entries, table, layout, live) {
            file.write(&entries, place.start)?;
        }
        untold += entries.len();
        if untold >= PIECE {
            untold = 0;
            tell()?;
        }
    }
    Ok(())
}

/// Makes the entries of a table 0 that are not those of the first `live` grains; says whether that has changed any.
fn blank_beyond(entries: &mut [u8], table: u32, layout: &SparseLayout, live: u64) -> bool {
    let own = live.saturating_sub(u64::from(table) * u64::from(layout.entries_per_table));
    let Some(dead) = entries.get_mut(to_usize(own).saturating_mul(ENTRY)..) else { return false };
    let has_any = !is_zero(dead);
    dead.fill(0);
    has_any
}

/// Writes the fields of a header that say how large an extent is and where its tables are. Nothing is synced.
fn write_header(file: &HostFile, header: &SparseHeader) -> Result<()> {
    let mut sector = [0; SECTOR_SIZE];
    file.read(&mut sector, 0)?;
    match header {
        SparseHeader::Kdmv(header) => header.encode_layout(&mut sector),
        SparseHeader::Cowd(header) => header.encode_layout(&mut sector),
        SparseHeader::SeSparse(_) => return Err(not_written()),
    }
    file.write(&sector, 0)
}

/// Lets the header of a COWD extent say how many sectors the whole disk has, durably, if it says it at all.
///
/// # Errors
/// What the host reports.
pub(crate) fn follow_disk(file: &HostFile, sectors: u64) -> Result<()> {
    let mut header = [0; HEADER_LEN];
    file.read(&mut header, 0)?;
    let before = header;
    set_disk_size(&mut header, u32::try_from(sectors).unwrap_or(0));
    if header == before {
        return Ok(());
    }
    let last = HEADER_LEN - SECTOR_SIZE;
    file.write(&header[last..], last as u64)?;
    file.sync()
}

/// The header of the extent in `file`, as it is now.
///
/// # Errors
/// `Corrupt` for anything else.
pub(crate) fn read_header(file: &HostFile) -> Result<SparseHeader> {
    let mut bytes = [0; HEADER_LEN];
    file.read(&mut bytes, 0)?;
    let hosted = bytes.first_chunk().and_then(KdmvHeader::decode).map(SparseHeader::Kdmv);
    let header = hosted.or_else(|| CowdHeader::decode(&bytes).map(SparseHeader::Cowd));
    header.ok_or_else(|| Error::text(ErrorKind::Corrupt, "the header of the extent is gone").in_file(file.path()))
}

/// Opens the extent in a file for writing, as it is with this header. Nobody else may write to it.
///
/// # Errors
/// `Corrupt` for an extent that cannot be written to; what the host reports.
pub(crate) fn reopen(path: &Path, storage: &Arc<dyn Storage>, header: &SparseHeader) -> Result<SparseExtent> {
    let file = Arc::new(HostFile::new(path.to_owned(), Arc::clone(storage))?);
    let layout = header.layout(file.len(), false).map_err(|error| error.in_file(path))?;
    let options = SparseOptions {
        cached_tables: DEFAULT_TABLES,
        use_redundant: false,
        grain_cache: 0,
        allow_raw_deflate: false,
        salvage: false,
    };
    let extent = SparseExtent::open(file, layout, options)?;
    extent.allow_writing(Writer::new(Arc::default(), true, 1));
    extent.check_tables()?;
    Ok(extent)
}
