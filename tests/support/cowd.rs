//! A builder of COWD extents: deltas of ESX, disks of VMware 2 and 3.
//!
//! The file is laid out as its writers do it: header, directory, then each table where its first grain was written,
//! followed by the data in the order of writing.

use std::collections::BTreeMap;

use super::descriptor::DescriptorText;
use super::disk::{Image, beside, cid_of};
use super::layer::Layer;
use super::rng::Rng;
use super::{SECTOR, index};

/// Byte offsets of the fields of the header, for [`CowdImage::patch`].
pub mod field {
    /// "COWD".
    pub const MAGIC: u64 = 0;
    /// u32.
    pub const VERSION: u64 = 4;
    /// u32.
    pub const FLAGS: u64 = 8;
    /// u32, sectors.
    pub const NUM_SECTORS: u64 = 12;
    /// u32, sectors.
    pub const GRAIN_SIZE: u64 = 16;
    /// u32, sector of the directory.
    pub const GD_OFFSET: u64 = 20;
    /// u32.
    pub const NUM_GD_ENTRIES: u64 = 24;
    /// u32, sector.
    pub const FREE_SECTOR: u64 = 28;
    /// In a root: cylinders, heads, sectors. In a child: the name of the parent.
    pub const ROOT_OR_PARENT: u64 = 32;
    /// u32, in a child.
    pub const PARENT_GENERATION: u64 = 1056;
    /// u32.
    pub const GENERATION: u64 = 1060;
    /// u32.
    pub const SAVED_GENERATION: u64 = 1636;
    /// u32, on ESX.
    pub const UNCLEAN: u64 = 1648;
    /// u32, in version 3.
    pub const FILE_ORDINAL: u64 = 1648;
    /// u32, in version 3.
    pub const FILE_COUNT: u64 = 1652;
    /// u32, in version 3: sectors of the whole disk.
    pub const DISK_SECTORS: u64 = 1668;
    /// u32, in version 3: the most sectors this file can hold.
    pub const FILE_CAPACITY: u64 = 1676;
    /// u32, in version 3: 1 is VMware 2, 2 is VMware 3.
    pub const HARDWARE_VERSION: u64 = 1680;
}

/// No parent.
pub const FLAG_ROOT: u32 = 0x01;
/// Checked clean.
pub const FLAG_CHECKED: u32 = 0x02;
/// Part of a disk of several files.
pub const FLAG_MULTI: u32 = 0x08;
/// The hardware version is decided.
pub const FLAG_HARDWARE: u32 = 0x10;

/// Sectors of the header.
const HEADER_SECTORS: u64 = 4;

/// The most sectors of a file: 2047 MiB.
const MOST_SECTORS: u64 = 4_192_256;

#[derive(Clone, Debug)]
enum Grain {
    Data(Vec<u8>),
    One,
    Absent,
}

/// One COWD extent in the making.
#[derive(Clone, Debug)]
pub struct CowdImage {
    version: u32,
    flags: u32,
    capacity: u64,
    header_sectors: u64,
    grain_sectors: u64,
    entries_per_table: u64,
    parent: Option<(Vec<u8>, u32)>,
    generation: u32,
    file_ordinal: u32,
    file_count: u32,
    disk_sectors: u64,
    file_capacity: u64,
    grains: Vec<(u64, Grain)>,
    patches: Vec<(u64, Vec<u8>)>,
}

/// Where things stand in a built extent, in sectors. 0 where there is no such thing.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The directory.
    pub gd: u64,
    /// The tables.
    pub gt: Vec<u64>,
    /// The data grains, by their number.
    pub grains: BTreeMap<u64, u64>,
    /// The end of the file, and the first free sector.
    pub end: u64,
    entries_per_table: u64,
}

impl Layout {
    /// The byte offset of the entry of a grain in its table.
    pub fn entry(&self, grain: u64) -> u64 {
        let table = self.gt[index(grain / self.entries_per_table)];
        assert_ne!(table, 0, "grain {grain} has no table");
        table * SECTOR as u64 + grain % self.entries_per_table * 4
    }

    /// The byte offset of the directory's entry of a table.
    pub fn directory_entry(&self, table: u64) -> u64 {
        self.gd * SECTOR as u64 + table * 4
    }
}

impl CowdImage {
    fn new(version: u32, flags: u32, capacity: u64, grain_sectors: u64, entries_per_table: u64) -> Self {
        Self {
            version,
            flags,
            capacity,
            header_sectors: capacity,
            grain_sectors,
            entries_per_table,
            parent: None,
            generation: 0,
            file_ordinal: 0,
            file_count: u32::from(version == 3),
            disk_sectors: capacity,
            file_capacity: MOST_SECTORS,
            grains: Vec::new(),
            patches: Vec::new(),
        }
    }

    /// A delta of ESX: grains of one sector, tables of 4096 entries. It says of itself that it has no parent.
    pub fn esx(capacity: u64) -> Self {
        Self::new(1, FLAG_ROOT | FLAG_CHECKED, capacity, 1, 4096)
    }

    /// A disk of VMware 2: grains of 32 sectors, tables of 512 entries.
    pub fn vmware2(capacity: u64) -> Self {
        Self::new(1, FLAG_ROOT | FLAG_CHECKED, capacity, 32, 512)
    }

    /// A disk of VMware 3, or a file of one: grains of 128 sectors, tables of 512 entries.
    pub fn vmware3(capacity: u64) -> Self {
        Self::new(3, FLAG_ROOT | FLAG_CHECKED | FLAG_HARDWARE, capacity, 128, 512)
    }

    /// Sectors in a grain.
    pub fn grain_sectors(mut self, sectors: u64) -> Self {
        self.grain_sectors = sectors;
        self
    }

    /// Entries in a table. They stand nowhere in the file, but the directory has so many entries as they need.
    pub fn entries_per_table(mut self, entries: u64) -> Self {
        self.entries_per_table = entries;
        self
    }

    /// Makes the extent a child of VMware 2 or 3.
    pub fn parent(mut self, name: impl Into<Vec<u8>>, generation: u32) -> Self {
        self.flags &= !FLAG_ROOT;
        self.parent = Some((name.into(), generation));
        self
    }

    /// What children know this extent by; saved as well, as after a clean close.
    pub fn generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }

    /// Makes this one of the files of a disk of `disk_sectors`, each of which can hold `file_capacity` sectors. The
    /// files of a child carry the size of the whole disk.
    pub fn file_of(mut self, ordinal: u32, count: u32, disk_sectors: u64, file_capacity: u64) -> Self {
        (self.file_ordinal, self.file_count) = (ordinal, count);
        (self.disk_sectors, self.file_capacity) = (disk_sectors, file_capacity);
        if count > 1 {
            self.flags |= FLAG_MULTI;
        }
        if self.parent.is_some() {
            self.header_sectors = disk_sectors;
        }
        self
    }

    /// A grain with data: a whole one, or its beginning with zeros behind. Replaces what was said of it before.
    pub fn data(mut self, grain: u64, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        assert!(bytes.len() <= self.grain_bytes(), "more than a grain");
        self.put(grain, Grain::Data(bytes));
        self
    }

    /// A grain with the entry 1, which reads as zeros.
    pub fn one(mut self, grain: u64) -> Self {
        self.put(grain, Grain::One);
        self
    }

    /// An absent grain whose table is there.
    pub fn absent(mut self, grain: u64) -> Self {
        self.put(grain, Grain::Absent);
        self
    }

    /// Fills the extent at random, in random order: about half of the grains of some of the tables.
    pub fn random(mut self, rng: &mut Rng) -> Self {
        let tables: Vec<bool> =
            (0..self.grain_count().div_ceil(self.entries_per_table)).map(|_| rng.chance(75)).collect();
        let mut grains: Vec<u64> = (0..self.grain_count()).collect();
        rng.shuffle(&mut grains);
        for grain in grains {
            if tables[index(grain / self.entries_per_table)] && rng.chance(50) {
                let inside = (self.capacity - grain * self.grain_sectors).min(self.grain_sectors);
                let bytes = if rng.chance(10) { Vec::new() } else { rng.bytes(index(inside) * SECTOR) };
                self.grains.push((grain, Grain::Data(bytes)));
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
    pub fn patch_u32(self, offset: u64, value: u32) -> Self {
        self.patch(offset, value.to_le_bytes())
    }

    /// The size in sectors of the part of the disk that this file holds.
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
                Grain::One => Vec::new(),
                Grain::Absent => continue,
            };
            bytes.resize(self.grain_bytes(), 0);
            layer.set(grain * self.grain_sectors, &bytes);
        }
        layer
    }

    /// Where everything goes.
    pub fn layout(&self) -> Layout {
        let tables = self.directory_entries();
        let table_sectors = (self.entries_per_table * 4).div_ceil(SECTOR as u64);
        let mut end = HEADER_SECTORS + (tables * 4).div_ceil(SECTOR as u64);
        let (mut gt, mut grains) = (vec![0; index(tables)], BTreeMap::new());
        for (grain, what) in &self.grains {
            let table = &mut gt[index(grain / self.entries_per_table)];
            if *table == 0 {
                *table = end;
                end += table_sectors;
            }
            if let Grain::Data(_) = what {
                grains.insert(*grain, end);
                end += self.grain_sectors;
            }
        }
        Layout { gd: HEADER_SECTORS, gt, grains, end, entries_per_table: self.entries_per_table }
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let layout = self.layout();
        let mut file = vec![0; index(layout.end) * SECTOR];
        self.write_header(&mut file, &layout);
        for (number, &table) in (0..).zip(&layout.gt) {
            put_u32(&mut file, layout.directory_entry(number), table);
        }
        for (grain, what) in &self.grains {
            let entry = match what {
                Grain::Data(bytes) => {
                    let start = layout.grains[grain];
                    put(&mut file, start * SECTOR as u64, bytes);
                    start
                }
                Grain::One => 1,
                Grain::Absent => 0,
            };
            put_u32(&mut file, layout.entry(*grain), entry);
        }
        for (offset, bytes) in &self.patches {
            put(&mut file, *offset, bytes);
        }
        file
    }

    fn directory_entries(&self) -> u64 {
        self.header_sectors.div_ceil(self.grain_sectors * self.entries_per_table)
    }

    fn write_header(&self, file: &mut [u8], layout: &Layout) {
        put(file, field::MAGIC, b"COWD");
        put_u32(file, field::VERSION, self.version.into());
        put_u32(file, field::FLAGS, self.flags.into());
        put_u32(file, field::NUM_SECTORS, self.header_sectors);
        put_u32(file, field::GRAIN_SIZE, self.grain_sectors);
        put_u32(file, field::GD_OFFSET, layout.gd);
        put_u32(file, field::NUM_GD_ENTRIES, self.directory_entries());
        put_u32(file, field::FREE_SECTOR, layout.end);
        put_u32(file, field::GENERATION, self.generation.into());
        put_u32(file, field::SAVED_GENERATION, self.generation.into());
        match &self.parent {
            Some((name, generation)) => {
                put(file, field::ROOT_OR_PARENT, name);
                put_u32(file, field::PARENT_GENERATION, (*generation).into());
            }
            None => {
                for (number, value) in (0..).zip([self.capacity / (16 * 63), 16, 63]) {
                    put_u32(file, field::ROOT_OR_PARENT + 4 * number, value);
                }
            }
        }
        if self.version == 3 {
            put(file, field::FILE_ORDINAL - 8, b"ide");
            put_u32(file, field::FILE_ORDINAL, self.file_ordinal.into());
            put_u32(file, field::FILE_COUNT, self.file_count.into());
            put_u32(file, field::DISK_SECTORS, self.disk_sectors);
            put_u32(file, field::FILE_CAPACITY, self.file_capacity);
            put_u32(file, field::HARDWARE_VERSION, 2);
        }
    }

    fn put(&mut self, grain: u64, what: Grain) {
        assert!(grain < self.grain_count(), "grain {grain} is past the end");
        self.grains.retain(|&(other, _)| other != grain);
        self.grains.push((grain, what));
    }
}

impl Image {
    /// A delta as ESX makes it: `base-000001.vmdk` over `parent`, with its extent in `base-000001-delta.vmdk`.
    pub fn esx_delta(parent: &Image, name: &str, extent: &CowdImage) -> Self {
        let (cid, layer, delta) = (cid_of(name), extent.layer(), beside(name, "-delta"));
        let text = DescriptorText::new("vmfsSparse", cid)
            .parent(parent.cid, &parent.name)
            .extent(format!("RW {} VMFSSPARSE \"{delta}\"", layer.capacity()))
            .ddb("longContentID", format!("{:024x}{cid:08x}", 7));
        let files = vec![(name.to_owned(), text.to_string().into_bytes()), (delta, extent.build())];
        let content = layer.over(&parent.content);
        Self { name: name.to_owned(), cid, files, layer, content }
    }

    /// A disk of VMware 2 or 3: its files in their order, without a descriptor, perhaps over a parent.
    pub fn hosted_cowd(name: &str, extents: &[CowdImage], parent: Option<&Image>) -> Self {
        let mut layer = Layer::new(0);
        for extent in extents {
            layer.append(&extent.layer());
        }
        let file = |(number, extent): (usize, &CowdImage)| {
            let suffix = if number == 1 { String::new() } else { format!("-{number:02}") };
            (beside(name, &suffix), extent.build())
        };
        let files = (1..).zip(extents).map(file).collect();
        let content = layer.over(parent.map_or(&[], |parent| &parent.content));
        Self { name: name.to_owned(), cid: 0, files, layer, content }
    }
}

fn put(file: &mut [u8], offset: u64, bytes: &[u8]) {
    file[index(offset)..][..bytes.len()].copy_from_slice(bytes);
}

fn put_u32(file: &mut [u8], offset: u64, value: u64) {
    put(file, offset, &u32::try_from(value).expect("32 bits").to_le_bytes());
}
