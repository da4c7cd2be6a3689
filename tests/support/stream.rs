//! A builder of streams (streamOptimized extents) in the five layouts that products write, and in ways that none does.
//!
//! ```text
//! Classic       header (directory: at the end) | descriptor | 0.. | grains, then their GT, ... | GD | FOOTER | EOS
//! TablesBehind  the same, but that the header knows where the directory is
//! Preallocated  header | descriptor | GD | GTs | 0.. up to a grain | grains | EOS
//! Packed        the same, but that the grains begin right behind the tables
//! Qemu          header | descriptor | RGD | RGTs | GD | GTs | 0.. up to a grain | grains | 0..
//! ```
//!
//! Blocks stand in the file in the order in which they were added. Of a grain that is added twice the later one counts.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, ZlibEncoder};

use super::layer::Layer;
use super::rng::Rng;
use super::{SECTOR, index};

/// The newline check bytes are valid.
pub const FLAG_NEWLINES: u32 = 1;
/// There are redundant tables.
pub const FLAG_REDUNDANT: u32 = 2;
/// Grains are compressed.
pub const FLAG_COMPRESSED: u32 = 1 << 16;
/// There are markers.
pub const FLAG_MARKERS: u32 = 1 << 17;

/// What the header says of a directory that only the footer knows.
pub const AT_END: u64 = u64::MAX;

/// Kinds of markers.
pub mod kind {
    /// The end.
    pub const END: u32 = 0;
    /// A grain table.
    pub const TABLE: u32 = 1;
    /// The grain directory.
    pub const DIRECTORY: u32 = 2;
    /// The footer.
    pub const FOOTER: u32 = 3;
    /// Progress.
    pub const PROGRESS: u32 = 4;
}

/// Where a stream has its tables, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// (a) VMware's OVF export, VirtualBox.
    Classic,
    /// (b) VMware's disk library on a file.
    Preallocated,
    /// (c) open-vmdk.
    Packed,
    /// (d) QEMU.
    Qemu,
    /// (e) The same as (a), but that the header knows the directory.
    TablesBehind,
}

/// All of them.
pub const KINDS: [StreamKind; 5] =
    [StreamKind::Classic, StreamKind::Preallocated, StreamKind::Packed, StreamKind::Qemu, StreamKind::TablesBehind];

impl StreamKind {
    /// Whether the tables stand before the grains.
    pub fn has_tables_in_front(self) -> bool {
        matches!(self, Self::Preallocated | Self::Packed | Self::Qemu)
    }
}

/// What stands behind the metadata.
#[derive(Clone, Debug)]
enum Block {
    Grain {
        grain: u64,
        /// What its marker says; the right number unless it is to be wrong.
        lba: u64,
        /// The data as it stands in the file.
        stored: Vec<u8>,
        /// What it holds.
        content: Vec<u8>,
        /// What the marker says of the size, if it is to be wrong.
        size: Option<u32>,
    },
    /// Bytes as they are, filled up to a sector.
    Bytes(Vec<u8>),
}

/// One stream in the making.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "every knob is a switch of its own")]
pub struct StreamImage {
    kind: StreamKind,
    capacity: u64,
    grain_sectors: u64,
    entries_per_table: u32,
    version: u32,
    flags: u32,
    algorithm: u16,
    descriptor: Option<Vec<u8>>,
    descriptor_sectors: u64,
    overhead: Option<u64>,
    level: u32,
    raw_deflate: bool,
    pads_last: bool,
    blocks: Vec<Block>,
    has_tables: bool,
    has_footer: bool,
    has_end: bool,
    trailing_zeros: u64,
    footer_patches: Vec<(usize, Vec<u8>)>,
    patches: Vec<(u64, Vec<u8>)>,
    cut: Option<usize>,
}

/// Where a grain stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedGrain {
    /// Its number.
    pub grain: u64,
    /// The sector with its marker.
    pub sector: u64,
    /// The bytes of its compressed data.
    pub size: usize,
    /// The sectors that it takes, marker included.
    pub sectors: u64,
}

/// A finished stream, and where things stand in it, in sectors. 0 where there is no such thing.
#[derive(Clone, Debug)]
pub struct BuiltStream {
    /// The file.
    pub bytes: Vec<u8>,
    /// The redundant directory.
    pub rgd: u64,
    /// The directory itself, behind its marker if it has one.
    pub gd: u64,
    /// The tables, behind their markers if they have such.
    pub gt: Vec<u64>,
    /// The redundant tables.
    pub rgt: Vec<u64>,
    /// What the header says of where grains begin.
    pub overhead: u64,
    /// The grains, in file order, duplicates included.
    pub grains: Vec<PlacedGrain>,
    /// The sector behind the last grain or other block that was added.
    pub grains_end: u64,
    /// The footer, behind its marker.
    pub footer: u64,
    /// The marker of the end.
    pub end_marker: u64,
    entries_per_table: u64,
}

impl BuiltStream {
    /// The byte offset of the entry of a grain in its table.
    pub fn entry(&self, grain: u64) -> u64 {
        let table = self.gt[index(grain / self.entries_per_table)];
        assert_ne!(table, 0, "grain {grain} has no table");
        table * SECTOR as u64 + grain % self.entries_per_table * 4
    }

    /// The byte offset of the marker of the last grain in the file with this number.
    pub fn marker(&self, grain: u64) -> u64 {
        let placed = self.grains.iter().rev().find(|placed| placed.grain == grain);
        placed.expect("the grain is there").sector * SECTOR as u64
    }
}

impl StreamImage {
    /// An empty stream: version 3, grains of 128 sectors, tables of 512 entries, no descriptor text.
    pub fn new(kind: StreamKind, capacity: u64) -> Self {
        let redundant = if kind == StreamKind::Qemu { FLAG_REDUNDANT } else { 0 };
        Self {
            kind,
            capacity,
            grain_sectors: 128,
            entries_per_table: 512,
            version: 3,
            flags: FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS | redundant,
            algorithm: 1,
            descriptor: None,
            descriptor_sectors: if kind.has_tables_in_front() { 20 } else { 1 },
            overhead: None,
            level: 6,
            raw_deflate: false,
            pads_last: false,
            blocks: Vec::new(),
            has_tables: true,
            has_footer: !kind.has_tables_in_front(),
            has_end: kind != StreamKind::Qemu,
            trailing_zeros: 0,
            footer_patches: Vec::new(),
            patches: Vec::new(),
            cut: None,
        }
    }

    /// Sectors in a grain.
    pub fn grain_sectors(mut self, sectors: u64) -> Self {
        self.grain_sectors = sectors;
        self
    }

    /// Entries in a table.
    pub fn entries_per_table(mut self, entries: u32) -> Self {
        self.entries_per_table = entries;
        self
    }

    /// The version of the header.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// All the flags.
    pub fn flags(mut self, flags: u32) -> Self {
        self.flags = flags;
        self
    }

    /// No markers: a grain has its size in four bytes in front. Only for kinds with their tables in front.
    pub fn without_markers(mut self) -> Self {
        assert!(self.kind.has_tables_in_front(), "nothing would lead to the grains");
        self.flags &= !FLAG_MARKERS;
        self.has_end = false;
        self
    }

    /// The text of the embedded descriptor.
    pub fn descriptor(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.descriptor = Some(text.into());
        self
    }

    /// Sectors for the descriptor from sector 1 on; 0 for none.
    pub fn descriptor_sectors(mut self, sectors: u64) -> Self {
        self.descriptor_sectors = sectors;
        self
    }

    /// What the header says of where grains begin, and where they do begin if that is behind the metadata.
    pub fn overhead(mut self, sectors: u64) -> Self {
        self.overhead = Some(sectors);
        self
    }

    /// The level at which grains that are added from now on are compressed, 0 to 9.
    pub fn level(mut self, level: u32) -> Self {
        self.level = level;
        self
    }

    /// Grains that are added from now on have no zlib container.
    pub fn raw_deflate(mut self) -> Self {
        self.raw_deflate = true;
        self
    }

    /// A last grain that is not whole is filled up with zeros before it is compressed.
    pub fn pad_last(mut self) -> Self {
        self.pads_last = true;
        self
    }

    /// A grain with these bytes, or with them as its beginning and zeros behind.
    pub fn grain(self, grain: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let lba = grain * self.grain_sectors;
        self.grain_at(grain, lba, bytes)
    }

    /// As [`grain`](Self::grain), with another number in its marker than the tables have it by.
    pub fn grain_at(self, grain: u64, lba: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let mut content = bytes.into();
        assert!(content.len() <= self.grain_bytes(), "more than a grain");
        let inside = index(self.capacity.saturating_sub(grain * self.grain_sectors).min(self.grain_sectors)) * SECTOR;
        content.resize(if self.pads_last { self.grain_bytes() } else { inside.max(content.len()) }, 0);
        let stored = if self.raw_deflate { deflated(&content, self.level) } else { zlib(&content, self.level) };
        self.push(Block::Grain { grain, lba, stored, content, size: None })
    }

    /// A grain whose data stands in the file like this, whatever that is.
    pub fn stored_grain(self, grain: u64, stored: impl Into<Vec<u8>>) -> Self {
        let lba = grain * self.grain_sectors;
        self.push(Block::Grain { grain, lba, stored: stored.into(), content: Vec::new(), size: None })
    }

    /// A grain whose marker says that its data has `size` bytes, whatever it has.
    pub fn grain_of_size(self, grain: u64, stored: impl Into<Vec<u8>>, size: u32) -> Self {
        let lba = grain * self.grain_sectors;
        self.push(Block::Grain { grain, lba, stored: stored.into(), content: Vec::new(), size: Some(size) })
    }

    /// A marker of any kind, with `body` behind it.
    pub fn marker(self, value: u64, kind: u32, body: &[u8]) -> Self {
        let mut bytes = metadata_marker(value, kind);
        bytes.extend_from_slice(body);
        self.push(Block::Bytes(bytes))
    }

    /// Bytes as they are, filled up to a whole sector.
    pub fn bytes(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.push(Block::Bytes(bytes.into()))
    }

    /// Neither tables nor a directory behind the grains. For kinds that have them there.
    pub fn without_tables(mut self) -> Self {
        self.has_tables = false;
        self
    }

    /// No footer, for kinds that have one.
    pub fn without_footer(mut self) -> Self {
        self.has_footer = false;
        self
    }

    /// No end-of-stream marker.
    pub fn without_end(mut self) -> Self {
        self.has_end = false;
        self
    }

    /// An end-of-stream marker, where the kind has none.
    pub fn with_end(mut self) -> Self {
        self.has_end = true;
        self
    }

    /// So many sectors of zeros behind all.
    pub fn trailing_zeros(mut self, sectors: u64) -> Self {
        self.trailing_zeros = sectors;
        self
    }

    /// Overwrites bytes of the footer, by their offsets in it.
    pub fn patch_footer(mut self, offset: usize, bytes: impl Into<Vec<u8>>) -> Self {
        self.footer_patches.push((offset, bytes.into()));
        self
    }

    /// Overwrites bytes of the finished file.
    pub fn patch(mut self, offset: u64, bytes: impl Into<Vec<u8>>) -> Self {
        self.patches.push((offset, bytes.into()));
        self
    }

    /// Ends the file after `len` bytes.
    pub fn cut(mut self, len: usize) -> Self {
        self.cut = Some(len);
        self
    }

    /// About half of the grains, with random data that compresses to something, in ascending order.
    pub fn random(mut self, rng: &mut Rng) -> Self {
        for grain in 0..self.grain_count() {
            if rng.chance(55) {
                let bytes = random_grain(rng, self.inside(grain));
                self = self.grain(grain, bytes);
            }
        }
        self
    }

    /// The same in any order.
    pub fn random_order(mut self, rng: &mut Rng) -> Self {
        let mut grains: Vec<u64> = (0..self.grain_count()).collect();
        rng.shuffle(&mut grains);
        for grain in grains {
            if rng.chance(55) {
                let bytes = random_grain(rng, self.inside(grain));
                self = self.grain(grain, bytes);
            }
        }
        self
    }

    /// The kind.
    pub fn kind(&self) -> StreamKind {
        self.kind
    }

    /// The size in sectors.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The number of grains, the last of which may be partial.
    pub fn grain_count(&self) -> u64 {
        self.capacity.div_ceil(self.grain_sectors)
    }

    /// Bytes in a grain.
    pub fn grain_bytes(&self) -> usize {
        index(self.grain_sectors) * SECTOR
    }

    /// What the stream says of its sectors, before patches.
    pub fn layer(&self) -> Layer {
        let mut layer = Layer::new(self.capacity);
        for block in &self.blocks {
            if let Block::Grain { lba, content, .. } = block {
                let mut content = content.clone();
                content.resize(self.grain_bytes(), 0);
                layer.set(*lba, &content);
            }
        }
        layer
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        self.build_with_layout().bytes
    }

    /// The file, and where things stand in it.
    pub fn build_with_layout(&self) -> BuiltStream {
        let mut built = self.begin();
        self.place_blocks(&mut built);
        built.grains_end = sectors(&built.bytes);
        if self.kind.has_tables_in_front() {
            let filled = tables(&built);
            for copies in [&built.gt, &built.rgt] {
                for (&sector, table) in copies.iter().zip(&filled) {
                    write(&mut built.bytes, sector, table);
                }
            }
        } else if self.has_tables {
            place_directory(&mut built);
        }
        self.finish(&mut built);
        built
    }

    /// Header, descriptor, room for the tables in front.
    fn begin(&self) -> BuiltStream {
        let entries_per_table = u64::from(self.entries_per_table);
        let table_count = self.grain_count().div_ceil(entries_per_table);
        let table_sectors = (entries_per_table * 4).div_ceil(SECTOR as u64);
        let directory_sectors = (table_count * 4).div_ceil(SECTOR as u64);
        let mut next = 1 + self.descriptor_sectors;
        let mut place = || {
            let directory = next;
            next += directory_sectors;
            let first = next;
            next += table_count * table_sectors;
            (directory, (0..table_count).map(|table| first + table * table_sectors).collect::<Vec<_>>())
        };
        let mut built = BuiltStream {
            bytes: Vec::new(),
            rgd: 0,
            gd: 0,
            gt: vec![0; index(table_count)],
            rgt: Vec::new(),
            overhead: 0,
            grains: Vec::new(),
            grains_end: 0,
            footer: 0,
            end_marker: 0,
            entries_per_table,
        };
        if self.kind.has_tables_in_front() {
            if self.flags & FLAG_REDUNDANT != 0 {
                (built.rgd, built.rgt) = place();
            }
            (built.gd, built.gt) = place();
        }
        let aligned = if self.kind == StreamKind::Packed { next } else { next.next_multiple_of(self.grain_sectors) };
        built.overhead = self.overhead.unwrap_or(aligned);
        built.bytes = vec![0; index(if built.overhead >= next { built.overhead } else { next }) * SECTOR];
        if let Some(text) = &self.descriptor {
            assert!(text.len() <= index(self.descriptor_sectors) * SECTOR, "the descriptor does not fit");
            write(&mut built.bytes, 1, text);
        }
        for (directory, tables) in [(built.rgd, &built.rgt), (built.gd, &built.gt)] {
            let numbers: Vec<u8> = tables.iter().flat_map(|&table| entry(table)).collect();
            if directory != 0 {
                write(&mut built.bytes, directory, &numbers);
            }
        }
        built
    }

    /// Grains and what was put between them; in kinds that have them there, each table after the last of its grains.
    fn place_blocks(&self, built: &mut BuiltStream) {
        let table_of = |block: &Block| match block {
            Block::Grain { grain, .. } => Some(grain / u64::from(self.entries_per_table)),
            Block::Bytes(_) => None,
        };
        for (number, block) in self.blocks.iter().enumerate() {
            match block {
                Block::Grain { grain, lba, stored, size, .. } => self.place_grain(built, *grain, *lba, stored, *size),
                Block::Bytes(bytes) => append(&mut built.bytes, bytes),
            }
            let Some(table) = table_of(block) else { continue };
            let is_last = self.blocks[number + 1..].iter().all(|later| table_of(later) != Some(table));
            if is_last && self.has_tables && !self.kind.has_tables_in_front() {
                let entries = tables(built).swap_remove(index(table));
                append(&mut built.bytes, &metadata_marker((entries.len() / SECTOR) as u64, kind::TABLE));
                built.gt[index(table)] = sectors(&built.bytes);
                append(&mut built.bytes, &entries);
            }
        }
    }

    fn place_grain(&self, built: &mut BuiltStream, grain: u64, lba: u64, stored: &[u8], size: Option<u32>) {
        let sector = sectors(&built.bytes);
        let said = size.unwrap_or(u32::try_from(stored.len()).expect("a grain is small"));
        let mut block = Vec::new();
        if self.flags & FLAG_MARKERS != 0 {
            block.extend_from_slice(&lba.to_le_bytes());
        }
        block.extend_from_slice(&said.to_le_bytes());
        block.extend_from_slice(stored);
        append(&mut built.bytes, &block);
        let sectors = sectors(&built.bytes) - sector;
        built.grains.push(PlacedGrain { grain, sector, size: stored.len(), sectors });
    }

    fn finish(&self, built: &mut BuiltStream) {
        if self.has_footer {
            append(&mut built.bytes, &metadata_marker(1, kind::FOOTER));
            built.footer = sectors(&built.bytes);
            let mut footer = self.header(built, built.gd);
            for (offset, bytes) in &self.footer_patches {
                footer[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            append(&mut built.bytes, &footer);
        }
        if self.has_end {
            built.end_marker = sectors(&built.bytes);
            append(&mut built.bytes, &metadata_marker(0, kind::END));
        }
        if let (StreamKind::Qemu, Some(last)) = (self.kind, built.grains.last()) {
            let end = index(last.sector + self.grain_sectors) * SECTOR;
            let end = end.max(built.bytes.len());
            built.bytes.resize(end, 0);
        }
        let end = built.bytes.len() + index(self.trailing_zeros) * SECTOR;
        built.bytes.resize(end, 0);
        let directory = if self.kind == StreamKind::Classic { AT_END } else { built.gd };
        let header = self.header(built, directory);
        write(&mut built.bytes, 0, &header);
        for (offset, bytes) in &self.patches {
            let offset = index(*offset);
            built.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        if let Some(len) = self.cut {
            built.bytes.truncate(len);
        }
    }

    fn header(&self, built: &BuiltStream, directory: u64) -> Vec<u8> {
        let mut header = b"KDMV".to_vec();
        header.extend_from_slice(&self.version.to_le_bytes());
        header.extend_from_slice(&self.flags.to_le_bytes());
        let descriptor = u64::from(self.descriptor_sectors > 0);
        for number in [self.capacity, self.grain_sectors, descriptor, self.descriptor_sectors] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(&self.entries_per_table.to_le_bytes());
        for number in [built.rgd, directory, built.overhead] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(b"\0\n \r\n");
        header.extend_from_slice(&self.algorithm.to_le_bytes());
        header.resize(SECTOR, 0);
        header
    }

    /// Bytes of a grain that lie within the disk.
    fn inside(&self, grain: u64) -> usize {
        index((self.capacity - grain * self.grain_sectors).min(self.grain_sectors)) * SECTOR
    }

    fn push(mut self, block: Block) -> Self {
        self.blocks.push(block);
        self
    }
}

/// The tables as they are with the grains that were placed so far.
fn tables(built: &BuiltStream) -> Vec<Vec<u8>> {
    let table_bytes = (index(built.entries_per_table) * 4).next_multiple_of(SECTOR);
    let mut tables = vec![vec![0; table_bytes]; built.gt.len()];
    for placed in &built.grains {
        let at = index(placed.grain % built.entries_per_table) * 4;
        tables[index(placed.grain / built.entries_per_table)][at..at + 4].copy_from_slice(&entry(placed.sector));
    }
    tables
}

fn place_directory(built: &mut BuiltStream) {
    let mut directory: Vec<u8> = built.gt.iter().flat_map(|&table| entry(table)).collect();
    directory.resize(directory.len().next_multiple_of(SECTOR), 0);
    append(&mut built.bytes, &metadata_marker((directory.len() / SECTOR) as u64, kind::DIRECTORY));
    built.gd = sectors(&built.bytes);
    append(&mut built.bytes, &directory);
}

/// Bytes in zlib's container.
pub fn zlib(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

/// Bytes without a container.
pub fn deflated(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

/// A sector with a marker of something that is no grain.
pub fn metadata_marker(value: u64, kind: u32) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.resize(SECTOR, 0);
    bytes
}

/// Some of it random, the rest of one value, so that sizes differ from grain to grain.
fn random_grain(rng: &mut Rng, len: usize) -> Vec<u8> {
    let random = index(rng.below(len as u64 + 1));
    let mut bytes = rng.bytes(random);
    let fill = u8::try_from(1 + rng.below(255)).expect("a byte");
    bytes.resize(len, fill);
    bytes
}

fn entry(sector: u64) -> [u8; 4] {
    u32::try_from(sector).expect("test images are small").to_le_bytes()
}

fn sectors(bytes: &[u8]) -> u64 {
    (bytes.len() / SECTOR) as u64
}

/// Puts bytes behind the others, filled up to a whole sector.
fn append(file: &mut Vec<u8>, bytes: &[u8]) {
    file.extend_from_slice(bytes);
    let end = file.len().next_multiple_of(SECTOR);
    file.resize(end, 0);
}

fn write(file: &mut [u8], sector: u64, bytes: &[u8]) {
    let at = index(sector) * SECTOR;
    file[at..at + bytes.len()].copy_from_slice(bytes);
}
