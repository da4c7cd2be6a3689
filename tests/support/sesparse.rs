//! A builder of seSparse extents: deltas of ESX on VMFS 6, and of disks over 2 TB.
//!
//! The regions are where ESX puts them and as large as it makes them. Slots and tables are handed out in the order of
//! first use, as ESX does it; there are other orders to read with, which no writer is known to make and which nothing
//! forbids.
//!
//! ```text
//! constant header | volatile | journal header | zeros | journal | directory | tables | bitmap | back map | slots
//! sector 0        | 1        | 2, 3           |       | 2048    | 4096      | 6144   | ...
//! ```

pub mod chains;
pub mod field;
mod journal;
pub mod variants;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use journal::{FIRST_TRANSACTION, RECORD_SECTORS, Record, map_slots};

use super::descriptor::DescriptorText;
use super::disk::{Image, beside, cid_of};
use super::layer::Layer;
use super::rng::Rng;
use super::{SECTOR, index};

/// Sectors of a grain.
pub const GRAIN_SECTORS: u64 = 8;
/// Bytes of a grain.
pub const GRAIN_BYTES: usize = 8 * SECTOR;
/// Sectors of a table.
const TABLE_SECTORS: u64 = 64;
/// Entries of a table.
pub const ENTRIES: u64 = 4096;
/// Sectors of the disk that a table covers.
pub const TABLE_COVERS: u64 = ENTRIES * GRAIN_SECTORS;
/// What regions are a multiple of, in sectors.
const REGION_UNIT: u64 = 2048;
/// Slots that a file grows by.
const BLOCK_SLOTS: u64 = 4096;
/// Sectors of the journal.
const JOURNAL_SECTORS: u64 = 2048;

/// The number of a grain, a slot or a table in the form that entries have: the low 12 bits on top of the others.
fn rotated(number: u64) -> u64 {
    (number & 0xfff) << 48 | number >> 12
}

/// The entry of the directory for a table.
pub fn directory_entry(table_index: u64) -> u64 {
    0x1000_0000 << 32 | table_index
}

/// The entry of a grain with data.
pub fn allocated(slot: u64) -> u64 {
    0x3 << 60 | rotated(slot)
}

/// The entry of a grain that the guest has unmapped, with the slot that it had, if that is known.
pub fn unmapped(old_slot: Option<u64>) -> u64 {
    0x1 << 60 | old_slot.map_or(0, rotated)
}

/// The entry of a zero grain, with whatever other bits there are.
pub fn zero(bits: u64) -> u64 {
    0x2 << 60 | bits & !(0xf << 60)
}

/// The entry of the back map for the slot of a grain.
pub fn back_map_entry(grain: u64) -> u64 {
    0x1 << 60 | rotated(grain)
}

#[derive(Clone, Debug)]
enum Grain {
    Data(Vec<u8>),
    Zero(u64),
    /// And whether the entry names the slot that it had.
    Unmapped(bool),
    Absent,
}

impl Grain {
    /// Whether a slot was handed out.
    fn takes_slot(&self) -> bool {
        matches!(self, Self::Data(_) | Self::Unmapped(true))
    }
}

/// In which order slots are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotOrder {
    /// From 0 upward, in the order of first use.
    Sequential,
    /// Each grain has the slot of its number.
    Identity,
    /// The slots from 0 upward in an order that follows from a seed.
    Random(u64),
    /// Upward in the order of first use, with free slots between, as many as follow from a seed.
    Gaps(u64),
}

/// Which index a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableOrder {
    /// From 0 upward, in the order of first use.
    OnDemand,
    /// Its place in the directory. All up to the last one in use are there.
    Identity,
    /// Any that there is room for; which one follows from a seed.
    Random(u64),
}

/// Where the file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Behind whole blocks of 4096 slots and a grain of 0xff, as ESX makes it.
    Blocks,
    /// Right behind the last slot in use.
    LastSlot,
}

/// One seSparse extent in the making.
#[derive(Clone, Debug)]
pub struct SeSparseImage {
    capacity: u64,
    slot_order: SlotOrder,
    table_order: TableOrder,
    region_gap: u64,
    length: Length,
    used_journal: bool,
    dirty: bool,
    cut: Option<u64>,
    grains: Vec<(u64, Grain)>,
    patches: Vec<(u64, Vec<u8>)>,
}

/// A region of the file, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first sector.
    pub offset: u64,
    /// Its size.
    pub size: u64,
}

impl Region {
    /// The sector behind it.
    pub fn end(self) -> u64 {
        self.offset + self.size
    }

    /// Its bytes in the file.
    pub fn bytes(self) -> Range<usize> {
        super::byte_range(self.offset, self.size)
    }
}

/// Where things stand in a built extent. Regions are in sectors, offsets in bytes.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The volatile header.
    pub volatile_header: Region,
    /// The journal header.
    pub journal_header: Region,
    /// The records of the journal.
    pub journal: Region,
    /// The directory.
    pub directory: Region,
    /// The tables.
    pub tables: Region,
    /// The free bitmap.
    pub bitmap: Region,
    /// The back map.
    pub back_map: Region,
    /// The slots: as many sectors as the disk has, which the file does not hold.
    pub grains: Region,
    /// The index of each table that is there, by its place in the directory.
    pub table_indices: BTreeMap<u64, u64>,
    /// The slots of the grains with data, by the number of the grain.
    pub slots: BTreeMap<u64, u64>,
    /// The slots that unmapped grains name.
    pub old_slots: BTreeMap<u64, u64>,
    /// The end of the file, in sectors.
    pub end: u64,
}

impl Layout {
    /// The offset of the directory's entry of a table.
    pub fn directory_entry(&self, table: u64) -> u64 {
        self.directory.offset * SECTOR as u64 + table * 8
    }

    /// The offset of the table that has an index.
    pub fn table(&self, table_index: u64) -> u64 {
        (self.tables.offset + table_index * TABLE_SECTORS) * SECTOR as u64
    }

    /// The offset of the entry of a grain in its table.
    pub fn entry(&self, grain: u64) -> u64 {
        let table = self.table_indices.get(&(grain / ENTRIES));
        self.table(*table.unwrap_or_else(|| panic!("grain {grain} has no table"))) + grain % ENTRIES * 8
    }

    /// The offset of the byte with the bit of a slot, and the bit.
    pub fn bitmap_bit(&self, slot: u64) -> (u64, u8) {
        (self.bitmap.offset * SECTOR as u64 + slot / 8, 1 << (slot % 8))
    }

    /// The offset of a slot's entry in the back map.
    pub fn back_map_entry(&self, slot: u64) -> u64 {
        self.back_map.offset * SECTOR as u64 + slot * 8
    }

    /// The offset of a slot.
    pub fn slot(&self, slot: u64) -> u64 {
        (self.grains.offset + slot * GRAIN_SECTORS) * SECTOR as u64
    }

    /// The offset of a record of the journal.
    pub fn record(&self, number: u64) -> u64 {
        (self.journal.offset + number * RECORD_SECTORS) * SECTOR as u64
    }
}

impl SeSparseImage {
    /// An extent of so many sectors as ESX would lay it out, with nothing in it and nothing done to it.
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            slot_order: SlotOrder::Sequential,
            table_order: TableOrder::OnDemand,
            region_gap: 0,
            length: Length::Blocks,
            used_journal: false,
            dirty: false,
            cut: None,
            grains: Vec::new(),
            patches: Vec::new(),
        }
    }

    /// In which order slots are handed out.
    pub fn slot_order(mut self, order: SlotOrder) -> Self {
        self.slot_order = order;
        self
    }

    /// Which index a table has.
    pub fn table_order(mut self, order: TableOrder) -> Self {
        self.table_order = order;
        self
    }

    /// So many sectors of 0xee before each region from the journal on.
    pub fn region_gap(mut self, sectors: u64) -> Self {
        self.region_gap = sectors;
        self
    }

    /// Where the file ends.
    pub fn length(mut self, length: Length) -> Self {
        self.length = length;
        self
    }

    /// Leaves the records in the journal by which the tables have become what they are, as after a clean close.
    pub fn used_journal(mut self) -> Self {
        self.used_journal = true;
        self
    }

    /// Says that the journal has to be replayed. The tables are what a replay would make of them nevertheless.
    pub fn dirty(mut self) -> Self {
        self.dirty = true;
        self
    }

    /// A grain with data: a whole one, or its beginning with zeros behind. Replaces what was said of it before.
    pub fn data(mut self, grain: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        assert!(bytes.len() <= GRAIN_BYTES, "more than a grain");
        self.put(grain, Grain::Data(bytes));
        self
    }

    /// A zero grain.
    pub fn zero(self, grain: u64) -> Self {
        self.zero_with(grain, 0)
    }

    /// A zero grain with other bits in its entry, which have no meaning.
    pub fn zero_with(mut self, grain: u64, bits: u64) -> Self {
        self.put(grain, Grain::Zero(bits));
        self
    }

    /// A grain that the guest has unmapped.
    pub fn unmapped(mut self, grain: u64) -> Self {
        self.put(grain, Grain::Unmapped(false));
        self
    }

    /// A grain that the guest has unmapped, whose entry names the slot that it had. The slot is free, and not zero.
    pub fn unmapped_with_slot(mut self, grain: u64) -> Self {
        self.put(grain, Grain::Unmapped(true));
        self
    }

    /// An absent grain whose table is there.
    pub fn absent(mut self, grain: u64) -> Self {
        self.put(grain, Grain::Absent);
        self
    }

    /// Fills the extent at random, in random order, in runs: most of some of the tables, with all that a grain can be.
    /// Leaves alone what was said before.
    pub fn random(mut self, rng: &mut Rng) -> Self {
        let said: BTreeSet<u64> = self.grains.iter().map(|&(grain, _)| grain).collect();
        let tables: Vec<bool> = (0..self.grain_count().div_ceil(ENTRIES)).map(|_| rng.chance(75)).collect();
        let mut runs = Vec::new();
        let mut start = 0;
        while start < self.grain_count() {
            let most = if rng.chance(30) { 200 } else { 8 };
            let end = (start + 1 + rng.below(most)).min(self.grain_count());
            runs.push((start..end, rng.below(100)));
            start = end;
        }
        rng.shuffle(&mut runs);
        for (run, what) in runs {
            for grain in run.filter(|grain| tables[index(grain / ENTRIES)] && !said.contains(grain)) {
                let what = match what {
                    0..30 => Grain::Data(self.random_grain(grain, rng)),
                    30..40 => Grain::Zero(0),
                    40..45 => Grain::Zero(rng.next_u64()),
                    45..52 => Grain::Unmapped(false),
                    52..58 => Grain::Unmapped(true),
                    58..65 => Grain::Absent,
                    _ => continue,
                };
                self.grains.push((grain, what));
            }
        }
        self
    }

    /// Lays the extent out at random, in one of the ways that readers must not depend on.
    pub fn random_layout(self, rng: &mut Rng) -> Self {
        let seed = rng.next_u64();
        let slots = [SlotOrder::Sequential, SlotOrder::Identity, SlotOrder::Random(seed), SlotOrder::Gaps(seed)]
            [index(seed % 4)];
        let tables = [TableOrder::OnDemand, TableOrder::Identity, TableOrder::Random(seed)][index(rng.below(3))];
        let gap = [0, 0, 1, 8, 2048][index(rng.below(5))];
        let length = [Length::Blocks, Length::LastSlot][index(rng.below(2))];
        let image = self.slot_order(slots).table_order(tables).region_gap(gap).length(length);
        if rng.chance(50) { image.used_journal() } else { image }
    }

    /// The same with absent grains in place of the unmapped ones: what readers see that take the one for the other.
    pub fn unmapped_as_absent(mut self) -> Self {
        for (_, what) in &mut self.grains {
            if let Grain::Unmapped(_) = what {
                *what = Grain::Absent;
            }
        }
        self
    }

    /// Overwrites bytes of the finished file.
    pub fn patch(mut self, offset: u64, bytes: impl Into<Vec<u8>>) -> Self {
        self.patches.push((offset, bytes.into()));
        self
    }

    /// Overwrites a number of the finished file.
    pub fn patch_u64(self, offset: u64, value: u64) -> Self {
        self.patch(offset, value.to_le_bytes())
    }

    /// Lets the finished file end after so many bytes.
    pub fn cut(mut self, len: u64) -> Self {
        self.cut = Some(len);
        self
    }

    /// The size in sectors.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The number of grains, the last of which may be partial, and of slots.
    pub fn grain_count(&self) -> u64 {
        self.capacity.div_ceil(GRAIN_SECTORS)
    }

    /// The number of entries of the directory.
    pub fn table_count(&self) -> u64 {
        self.capacity.div_ceil(TABLE_COVERS)
    }

    /// What the extent says of its sectors, before patches: unmapped grains are zero.
    pub fn layer(&self) -> Layer {
        let mut layer = Layer::new(self.capacity);
        for (grain, what) in &self.grains {
            let mut bytes = match what {
                Grain::Data(bytes) => bytes.clone(),
                Grain::Zero(_) | Grain::Unmapped(_) => Vec::new(),
                Grain::Absent => continue,
            };
            bytes.resize(GRAIN_BYTES, 0);
            layer.set(grain * GRAIN_SECTORS, &bytes);
        }
        layer
    }

    /// Where everything goes.
    pub fn layout(&self) -> Layout {
        let mut end = REGION_UNIT;
        let mut region = |size| {
            let offset = end + self.region_gap;
            end = offset + size;
            Region { offset, size }
        };
        let in_units = |sectors: u64| sectors.next_multiple_of(REGION_UNIT);
        let sectors = |bytes: u64| bytes.div_ceil(SECTOR as u64);
        let journal = region(JOURNAL_SECTORS);
        let directory = region(in_units(sectors(self.table_count() * 8)));
        let tables = region(in_units(self.table_count() * TABLE_SECTORS));
        let bitmap = region(in_units(sectors(self.grain_count().div_ceil(8))));
        let back_map = region(in_units(sectors(self.grain_count() * 8)));
        let grains = region(self.capacity);
        let (slots, old_slots) = self.hand_out_slots();
        let in_use = slots.values().max().map_or(0, |last| last + 1);
        let handed_out = old_slots.values().max().map_or(0, |last| last + 1).max(in_use);
        let slots_there = match self.length {
            Length::Blocks => handed_out.next_multiple_of(BLOCK_SLOTS) + 1,
            Length::LastSlot => in_use,
        };
        Layout {
            volatile_header: Region { offset: 1, size: 1 },
            journal_header: Region { offset: 2, size: 2 },
            journal,
            directory,
            tables,
            bitmap,
            back_map,
            grains,
            table_indices: self.hand_out_tables(),
            slots,
            old_slots,
            end: grains.offset + slots_there * GRAIN_SECTORS,
        }
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let layout = self.layout();
        let mut file = vec![0; index(layout.end) * SECTOR];
        self.write_constant_header(&mut file, &layout);
        self.fill_gaps(&mut file, &layout);
        for (&table, &table_index) in &layout.table_indices {
            put_u64(&mut file, layout.directory_entry(table), directory_entry(table_index));
        }
        for (grain, what) in &self.grains {
            let entry = match what {
                // Later, and by way of the journal.
                Grain::Data(_) | Grain::Absent => continue,
                Grain::Zero(bits) => zero(*bits),
                Grain::Unmapped(_) => unmapped(layout.old_slots.get(grain).copied()),
            };
            put_u64(&mut file, layout.entry(*grain), entry);
        }
        self.write_slots(&mut file, &layout);
        let records = map_slots(&mut file, &layout);
        self.write_volatile(&mut file, &layout, &records);
        for (offset, bytes) in &self.patches {
            put(&mut file, *offset, bytes);
        }
        if let Some(len) = self.cut {
            file.resize(index(len), 0);
        }
        file
    }

    fn write_constant_header(&self, file: &mut [u8], layout: &Layout) {
        put_u64(file, field::MAGIC, 0xcafe_babe);
        put_u64(file, field::VERSION, 0x2_0000_0001);
        put_u64(file, field::CAPACITY, self.capacity);
        put_u64(file, field::GRAIN_SIZE, GRAIN_SECTORS);
        put_u64(file, field::TABLE_SIZE, TABLE_SECTORS);
        let regions = [
            (field::VOLATILE_HEADER, layout.volatile_header),
            (field::JOURNAL_HEADER, layout.journal_header),
            (field::JOURNAL, layout.journal),
            (field::DIRECTORY, layout.directory),
            (field::TABLES, layout.tables),
            (field::BITMAP, layout.bitmap),
            (field::BACK_MAP, layout.back_map),
            (field::GRAINS, layout.grains),
        ];
        for (offset, region) in regions {
            put_u64(file, offset, region.offset);
            put_u64(file, offset + field::SIZE, region.size);
        }
    }

    fn fill_gaps(&self, file: &mut [u8], layout: &Layout) {
        let regions = [layout.journal, layout.directory, layout.tables, layout.bitmap, layout.back_map, layout.grains];
        for region in regions {
            let gap = Region { offset: region.offset - self.region_gap, size: self.region_gap };
            file[gap.bytes()].fill(0xee);
        }
    }

    fn write_slots(&self, file: &mut [u8], layout: &Layout) {
        for &slot in layout.old_slots.values() {
            let start = index(layout.slot(slot)).min(file.len());
            let end = (start + GRAIN_BYTES).min(file.len());
            file[start..end].fill(0xdd);
        }
        for (grain, what) in &self.grains {
            if let Grain::Data(bytes) = what {
                put(file, layout.slot(layout.slots[grain]), bytes);
            }
        }
        if self.length == Length::Blocks {
            let start = file.len() - GRAIN_BYTES;
            file[start..].fill(0xff);
        }
    }

    fn write_volatile(&self, file: &mut [u8], layout: &Layout, records: &[Record]) {
        let free_table = layout.table_indices.values().max().map_or(0, |last| last + 1);
        let mut next = 0;
        if self.used_journal {
            next = FIRST_TRANSACTION + records.len() as u64;
            let slots = index(JOURNAL_SECTORS / RECORD_SECTORS);
            let kept = &records[records.len().saturating_sub(slots)..];
            for (number, record) in (0..).zip(kept) {
                let sequence = next - kept.len() as u64 + number;
                record.write(&mut file[index(layout.record(number))..], number, sequence);
            }
            // The second sector of the journal header is memory of whoever made the file.
            let start = index(field::JOURNAL_MAGIC) + SECTOR + 0x50;
            Rng::new(next).fill(&mut file[start..4 * SECTOR]);
        }
        put_u64(file, field::VOLATILE_MAGIC, 0xcafe_cafe);
        put_u64(file, field::FREE_TABLE, free_table);
        put_u64(file, field::NEXT_TRANSACTION, next);
        put_u64(file, field::REPLAY_JOURNAL, self.dirty.into());
        put_u64(file, field::JOURNAL_MAGIC, 0xdeaf_c0de);
        put_u64(file, field::JOURNAL_NEXT, next);
        put_u64(file, field::JOURNAL_GENERATION, 1);
    }

    /// The slots of grains with data, and those that unmapped grains had.
    fn hand_out_slots(&self) -> (BTreeMap<u64, u64>, BTreeMap<u64, u64>) {
        let takers: Vec<_> = self.grains.iter().filter(|(_, what)| what.takes_slot()).collect();
        let count = takers.len() as u64;
        let slots: Vec<u64> = match self.slot_order {
            SlotOrder::Sequential => (0..count).collect(),
            SlotOrder::Identity => takers.iter().map(|(grain, _)| *grain).collect(),
            SlotOrder::Random(seed) => {
                let mut slots: Vec<u64> = (0..count).collect();
                Rng::new(seed).shuffle(&mut slots);
                slots
            }
            SlotOrder::Gaps(seed) => {
                let rng = &mut Rng::new(seed);
                let mut spare = self.grain_count() - count;
                let mut behind = 0;
                (0..count)
                    .map(|_| {
                        let gap = if rng.chance(20) { rng.below(12).min(spare) } else { 0 };
                        spare -= gap;
                        let slot = behind + gap;
                        behind = slot + 1;
                        slot
                    })
                    .collect()
            }
        };
        let (mut used, mut old) = (BTreeMap::new(), BTreeMap::new());
        for ((grain, what), slot) in takers.into_iter().zip(slots) {
            let which = if let Grain::Data(_) = what { &mut used } else { &mut old };
            which.insert(*grain, slot);
        }
        (used, old)
    }

    /// The indices of the tables that are there, by their places in the directory.
    fn hand_out_tables(&self) -> BTreeMap<u64, u64> {
        let mut places = Vec::new();
        for place in self.grains.iter().map(|(grain, _)| grain / ENTRIES) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        match self.table_order {
            TableOrder::OnDemand => places.into_iter().zip(0..).collect(),
            TableOrder::Identity => {
                let end = places.into_iter().max().map_or(0, |last| last + 1);
                (0..end).zip(0..end).collect()
            }
            TableOrder::Random(seed) => {
                let mut indices: Vec<u64> = (0..self.table_count()).collect();
                Rng::new(seed).shuffle(&mut indices);
                places.into_iter().zip(indices).collect()
            }
        }
    }

    /// Random content for as much of a grain as the disk has; now and then zeros.
    fn random_grain(&self, grain: u64, rng: &mut Rng) -> Vec<u8> {
        let inside = (self.capacity - grain * GRAIN_SECTORS).min(GRAIN_SECTORS);
        if rng.chance(10) { Vec::new() } else { rng.bytes(index(inside) * SECTOR) }
    }

    fn put(&mut self, grain: u64, what: Grain) {
        assert!(grain < self.grain_count(), "grain {grain} is past the end");
        self.grains.retain(|&(other, _)| other != grain);
        self.grains.push((grain, what));
    }
}

impl Image {
    /// A delta as ESX makes it: `base-000001.vmdk` over `parent`, with its extent in `base-000001-sesparse.vmdk`.
    pub fn se_sparse(parent: &Image, name: &str, extent: &SeSparseImage) -> Self {
        se_sparse_link(Some(parent), name, extent)
    }

    /// The same with nothing below. ESX makes no such thing.
    pub fn se_sparse_base(name: &str, extent: &SeSparseImage) -> Self {
        se_sparse_link(None, name, extent)
    }
}

fn se_sparse_link(parent: Option<&Image>, name: &str, extent: &SeSparseImage) -> Image {
    let (cid, layer, file) = (cid_of(name), extent.layer(), beside(name, "-sesparse"));
    let mut text = DescriptorText::new("seSparse", cid);
    if let Some(parent) = parent {
        text = text.parent(parent.cid, &parent.name);
    }
    let text = text
        .extent(format!("RW {} SESPARSE \"{file}\"", layer.capacity()))
        .ddb("grain", GRAIN_SECTORS)
        .ddb("longContentID", format!("{:024x}{cid:08x}", 7));
    let files = vec![(name.to_owned(), text.to_string().into_bytes()), (file, extent.build())];
    let content = layer.over(parent.map_or(&[], |parent| &parent.content));
    Image { name: name.to_owned(), cid, files, layer, content }
}

fn put(file: &mut [u8], offset: u64, bytes: &[u8]) {
    file[index(offset)..][..bytes.len()].copy_from_slice(bytes);
}

fn put_u64(file: &mut [u8], offset: u64, value: u64) {
    put(file, offset, &value.to_le_bytes());
}
