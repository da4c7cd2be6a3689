//! A builder of hosted sparse extents (KDMV): header, optional embedded descriptor, tables, grains.
//!
//! What it builds is what VMware and QEMU build, unless asked otherwise: the redundant directory and its tables first,
//! all tables present, grains aligned to the grain size. Grains stand in the file in the order in which they were
//! added.

use std::collections::BTreeMap;

use super::layer::Layer;
use super::rng::Rng;
use super::{SECTOR, index};

/// Byte offsets of the fields of the header, for [`SparseImage::patch`].
pub mod field {
    /// "KDMV".
    pub const MAGIC: u64 = 0x00;
    /// u32.
    pub const VERSION: u64 = 0x04;
    /// u32.
    pub const FLAGS: u64 = 0x08;
    /// u64, sectors.
    pub const CAPACITY: u64 = 0x0c;
    /// u64, sectors.
    pub const GRAIN_SIZE: u64 = 0x14;
    /// u64, sectors.
    pub const DESCRIPTOR_OFFSET: u64 = 0x1c;
    /// u64, sectors.
    pub const DESCRIPTOR_SIZE: u64 = 0x24;
    /// u32.
    pub const ENTRIES_PER_TABLE: u64 = 0x2c;
    /// u64, sector of the redundant directory.
    pub const RGD_OFFSET: u64 = 0x30;
    /// u64, sector of the directory.
    pub const GD_OFFSET: u64 = 0x38;
    /// u64, sectors.
    pub const OVERHEAD: u64 = 0x40;
    /// u8.
    pub const UNCLEAN: u64 = 0x48;
    /// Four bytes.
    pub const NEWLINES: u64 = 0x49;
    /// u16.
    pub const COMPRESSION: u64 = 0x4d;
}

/// The newline check bytes are valid.
pub const FLAG_NEWLINES: u32 = 1;
/// There are redundant tables.
pub const FLAG_REDUNDANT: u32 = 2;
/// An entry of 1 is a zero grain.
pub const FLAG_ZERO_GRAINS: u32 = 4;

/// What a gap between grains is filled with: something that shows when it is read by mistake.
const JUNK: u8 = 0xdd;

#[derive(Clone, Debug)]
enum Grain {
    Data(Vec<u8>),
    Zero,
}

/// One sparse extent in the making.
#[derive(Clone, Debug)]
pub struct SparseImage {
    capacity: u64,
    grain_sectors: u64,
    entries_per_table: u32,
    version: u32,
    flags: u32,
    unclean: u8,
    descriptor: Option<Vec<u8>>,
    descriptor_offset: u64,
    descriptor_sectors: u64,
    directory_first: bool,
    omit_empty_tables: bool,
    grain_shift: u64,
    grain_gap: u64,
    cut_tail: bool,
    grains: Vec<(u64, Grain)>,
    patches: Vec<(u64, Vec<u8>)>,
}

/// Where things stand in a built extent, in sectors. 0 where there is no such thing.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The redundant directory.
    pub rgd: u64,
    /// The directory.
    pub gd: u64,
    /// The redundant tables.
    pub rgt: Vec<u64>,
    /// The tables.
    pub gt: Vec<u64>,
    /// The end of the metadata.
    pub overhead: u64,
    /// The data grains, by their number.
    pub grains: BTreeMap<u64, u64>,
    /// The end of the file.
    pub end: u64,
    entries_per_table: u64,
}

impl Layout {
    /// The byte offset of the entry of a grain in its table.
    pub fn entry(&self, grain: u64) -> u64 {
        self.entry_in(&self.gt, grain)
    }

    /// The byte offset of the entry of a grain in its redundant table.
    pub fn redundant_entry(&self, grain: u64) -> u64 {
        self.entry_in(&self.rgt, grain)
    }

    fn entry_in(&self, tables: &[u64], grain: u64) -> u64 {
        let table = tables[index(grain / self.entries_per_table)];
        assert_ne!(table, 0, "grain {grain} has no such table");
        table * SECTOR as u64 + grain % self.entries_per_table * 4
    }
}

impl SparseImage {
    /// An empty extent: version 1, grains of 128 sectors, tables of 512 entries, redundant tables, no descriptor.
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            grain_sectors: 128,
            entries_per_table: 512,
            version: 1,
            flags: FLAG_NEWLINES | FLAG_REDUNDANT,
            unclean: 0,
            descriptor: None,
            descriptor_offset: 1,
            descriptor_sectors: 20,
            directory_first: false,
            omit_empty_tables: false,
            grain_shift: 0,
            grain_gap: 0,
            cut_tail: false,
            grains: Vec::new(),
            patches: Vec::new(),
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

    /// All the flags. Bit 1 decides whether there are redundant tables.
    pub fn flags(mut self, flags: u32) -> Self {
        self.flags = flags;
        self
    }

    /// Version 2 with the flag that gives the entry 1 its meaning.
    pub fn with_zero_grains(mut self) -> Self {
        self.version = 2;
        self.flags |= FLAG_ZERO_GRAINS;
        self
    }

    /// No redundant directory and tables.
    pub fn without_redundant_tables(mut self) -> Self {
        self.flags &= !FLAG_REDUNDANT;
        self
    }

    /// The byte that says whether the last writer closed the file.
    pub fn unclean(mut self, value: u8) -> Self {
        self.unclean = value;
        self
    }

    /// An embedded descriptor. An empty one is the reserved region that QEMU leaves in the extents of a split image.
    pub fn descriptor(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.descriptor = Some(text.into());
        self
    }

    /// Where the embedded descriptor stands, in sectors: 20 from sector 1, unless said otherwise.
    pub fn descriptor_region(mut self, offset: u64, sectors: u64) -> Self {
        (self.descriptor_offset, self.descriptor_sectors) = (offset, sectors);
        self
    }

    /// The directory and its tables before the redundant ones.
    pub fn directory_first(mut self) -> Self {
        self.directory_first = true;
        self
    }

    /// No tables, and 0 in the directories, where all the grains of a table are absent.
    pub fn omit_empty_tables(mut self) -> Self {
        self.omit_empty_tables = true;
        self
    }

    /// The first grain `sectors` later than the metadata ends: all grains are misaligned then.
    pub fn grain_shift(mut self, sectors: u64) -> Self {
        self.grain_shift = sectors;
        self
    }

    /// `sectors` of junk between one grain and the next, so that no two are contiguous.
    pub fn grain_gap(mut self, sectors: u64) -> Self {
        self.grain_gap = sectors;
        self
    }

    /// Ends the file where the bytes given for its last grain end, instead of filling the grain up.
    pub fn cut_tail(mut self) -> Self {
        self.cut_tail = true;
        self
    }

    /// A grain with data: a whole one, or its beginning with zeros behind. Replaces what was said of it before.
    pub fn data(mut self, grain: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        assert!(bytes.len() <= self.grain_bytes(), "more than a grain");
        self.put(grain, Grain::Data(bytes));
        self
    }

    /// A zero grain: the entry 1.
    pub fn zero(mut self, grain: u64) -> Self {
        self.put(grain, Grain::Zero);
        self
    }

    /// Fills the extent at random, in random order: about half of the grains with random data, some with zeros as
    /// data, some as zero grains if the flag allows them; the others stay absent.
    pub fn random(mut self, rng: &mut Rng) -> Self {
        let mut grains: Vec<u64> = (0..self.grain_count()).collect();
        rng.shuffle(&mut grains);
        for grain in grains {
            let grain_bytes = self.grain_bytes();
            match rng.below(20) {
                0..10 => {
                    // Past the capacity a grain is filled with zeros, as other writers do.
                    let inside = index((self.capacity - grain * self.grain_sectors).min(self.grain_sectors)) * SECTOR;
                    self.put(grain, Grain::Data(rng.bytes(inside)));
                }
                10 => self.put(grain, Grain::Data(vec![0; grain_bytes])),
                11..14 if self.flags & FLAG_ZERO_GRAINS != 0 => self.put(grain, Grain::Zero),
                _ => {}
            }
        }
        self
    }

    /// Gives the data grains another order in the file. Grains not in `order` follow in the order of adding.
    pub fn file_order(mut self, order: &[u64]) -> Self {
        let place = |grain: u64| order.iter().position(|&other| other == grain).unwrap_or(order.len());
        self.grains.sort_by_key(|&(grain, _)| place(grain));
        self
    }

    /// Overwrites bytes of the finished file.
    pub fn patch(mut self, offset: u64, bytes: impl Into<Vec<u8>>) -> Self {
        self.patches.push((offset, bytes.into()));
        self
    }

    /// Overwrites a 32-bit number of the finished file.
    pub fn patch_u32(self, offset: u64, value: u32) -> Self {
        self.patch(offset, value.to_le_bytes())
    }

    /// Overwrites a 64-bit number of the finished file.
    pub fn patch_u64(self, offset: u64, value: u64) -> Self {
        self.patch(offset, value.to_le_bytes())
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

    /// What the extent says of its sectors, before patches.
    pub fn layer(&self) -> Layer {
        let mut layer = Layer::new(self.capacity);
        for (grain, what) in &self.grains {
            let mut bytes = match what {
                Grain::Data(bytes) => bytes.clone(),
                Grain::Zero => Vec::new(),
            };
            bytes.resize(self.grain_bytes(), 0);
            layer.set(grain * self.grain_sectors, &bytes);
        }
        layer
    }

    /// Where everything goes.
    pub fn layout(&self) -> Layout {
        let entries_per_table = u64::from(self.entries_per_table);
        let table_count = self.grain_count().div_ceil(entries_per_table);
        let table_sectors = (entries_per_table * 4).div_ceil(SECTOR as u64);
        let directory_sectors = (table_count * 4).div_ceil(SECTOR as u64);
        let mut used = vec![!self.omit_empty_tables; index(table_count)];
        self.grains.iter().for_each(|(grain, _)| used[index(grain / entries_per_table)] = true);

        let mut next = match self.descriptor {
            Some(_) => self.descriptor_offset + self.descriptor_sectors,
            None => 1,
        };
        // A directory, then its tables.
        let mut place = || {
            let directory = next;
            next += directory_sectors;
            let tables = used.iter().map(|&used| {
                let table = if used { next } else { 0 };
                next += if used { table_sectors } else { 0 };
                table
            });
            (directory, tables.collect::<Vec<_>>())
        };
        let redundant = self.flags & FLAG_REDUNDANT != 0;
        let ((gd, gt), (rgd, rgt)) = match (redundant, self.directory_first) {
            (false, _) => (place(), (0, Vec::new())),
            (true, true) => (place(), place()),
            (true, false) => {
                let redundant = place();
                (place(), redundant)
            }
        };
        let overhead = next.next_multiple_of(self.grain_sectors);

        let mut end = overhead;
        let mut next = overhead + self.grain_shift;
        let mut grains = BTreeMap::new();
        for (grain, what) in &self.grains {
            if let Grain::Data(bytes) = what {
                grains.insert(*grain, next);
                let whole = next + self.grain_sectors;
                end = if self.cut_tail { next + bytes.len().div_ceil(SECTOR) as u64 } else { whole };
                next = whole + self.grain_gap;
            }
        }
        Layout { rgd, gd, rgt, gt, overhead, grains, end, entries_per_table }
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let layout = self.layout();
        let mut file = vec![0; index(layout.end) * SECTOR];
        file[index(layout.overhead) * SECTOR..].fill(JUNK);
        file[..SECTOR].copy_from_slice(&self.header(&layout));
        if let Some(text) = &self.descriptor {
            assert!(text.len() <= index(self.descriptor_sectors) * SECTOR, "the descriptor does not fit");
            write(&mut file, self.descriptor_offset * SECTOR as u64, text);
        }
        for (directory, tables) in [(layout.rgd, &layout.rgt), (layout.gd, &layout.gt)] {
            let numbers: Vec<u8> = tables.iter().flat_map(|&table| entry(table)).collect();
            if directory != 0 {
                write(&mut file, directory * SECTOR as u64, &numbers);
            }
        }
        for (grain, what) in &self.grains {
            let value = match what {
                Grain::Zero => 1,
                Grain::Data(bytes) => {
                    let start = index(layout.grains[grain]) * SECTOR;
                    let end = file.len().min(start + self.grain_bytes());
                    file[start..end].fill(0);
                    file[start..start + bytes.len()].copy_from_slice(bytes);
                    layout.grains[grain]
                }
            };
            write(&mut file, layout.entry(*grain), &entry(value));
            if !layout.rgt.is_empty() {
                write(&mut file, layout.redundant_entry(*grain), &entry(value));
            }
        }
        for (offset, bytes) in &self.patches {
            write(&mut file, *offset, bytes);
        }
        file
    }

    fn header(&self, layout: &Layout) -> [u8; SECTOR] {
        let (descriptor_offset, descriptor_sectors) = match self.descriptor {
            Some(_) => (self.descriptor_offset, self.descriptor_sectors),
            None => (0, 0),
        };
        let mut header = [0; SECTOR];
        let mut put = |offset: u64, bytes: &[u8]| write(&mut header, offset, bytes);
        put(field::MAGIC, b"KDMV");
        put(field::VERSION, &self.version.to_le_bytes());
        put(field::FLAGS, &self.flags.to_le_bytes());
        put(field::CAPACITY, &self.capacity.to_le_bytes());
        put(field::GRAIN_SIZE, &self.grain_sectors.to_le_bytes());
        put(field::DESCRIPTOR_OFFSET, &descriptor_offset.to_le_bytes());
        put(field::DESCRIPTOR_SIZE, &descriptor_sectors.to_le_bytes());
        put(field::ENTRIES_PER_TABLE, &self.entries_per_table.to_le_bytes());
        put(field::RGD_OFFSET, &layout.rgd.to_le_bytes());
        put(field::GD_OFFSET, &layout.gd.to_le_bytes());
        put(field::OVERHEAD, &layout.overhead.to_le_bytes());
        put(field::UNCLEAN, &[self.unclean]);
        put(field::NEWLINES, b"\n \r\n");
        header
    }

    fn put(&mut self, grain: u64, what: Grain) {
        assert!(grain < self.grain_count(), "grain {grain} is past the end");
        self.grains.retain(|&(other, _)| other != grain);
        self.grains.push((grain, what));
    }
}

/// A sector number as the tables hold it.
fn entry(sector: u64) -> [u8; 4] {
    u32::try_from(sector).expect("below sector 2^32").to_le_bytes()
}

fn write(file: &mut [u8], offset: u64, bytes: &[u8]) {
    file[index(offset)..][..bytes.len()].copy_from_slice(bytes);
}
