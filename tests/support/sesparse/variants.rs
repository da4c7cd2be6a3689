//! Damaged seSparse extents, as a table: what is wrong, where, and what becomes of it.

use std::ops::Range;

use super::super::SECTOR;
use super::super::layer::Layer;
use super::{ENTRIES, GRAIN_BYTES, GRAIN_SECTORS, Length, SeSparseImage, TABLE_COVERS, TableOrder, field};
use super::{allocated, back_map_entry, directory_entry, unmapped, zero};

/// What kind of damage something is. Grains are damaged as a whole: ranges of sectors end with a grain, or the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is not this format, or not enough of it to tell.
    Magic,
    /// A field that says how the rest is to be read has a value that nobody knows. Its name.
    Unsupported(&'static str),
    /// A field that nothing may be in is not zero. Its name.
    Reserved(&'static str),
    /// The capacity cannot be, or is not that of the descriptor.
    Capacity,
    /// A region is not wholly in the file, begins before the one that comes before it in the header ends, or is too
    /// small for what has to be in it. The name of the first in the header that is so.
    Region(&'static str),
    /// The volatile header has another magic number.
    VolatileMagic,
    /// The tables are stale.
    Journal,
    /// An entry of the directory is wrong. All sectors of the disk that cannot be read.
    Directory(Vec<Range<u64>>),
    /// Entries of grains are wrong. All sectors of the disk that cannot be read.
    Entry(Vec<Range<u64>>),
    /// All can be read, and shows what is there; who compares finds that not all of it agrees.
    Disagreement,
    /// Nothing: it looks odd, and has to be read like anything else.
    Harmless,
}

/// A damaged extent. The descriptor that goes with it is that of [`sound`].
#[derive(Clone, Debug)]
pub struct Variant {
    /// What is wrong, in words; no two have the same.
    pub name: String,
    /// What that is.
    pub damage: Damage,
    /// The extent.
    pub extent: SeSparseImage,
    /// What it says of its sectors, as far as it can be read.
    pub shows: Layer,
}

/// The sound extent of all variants: three tables, of which the one in the middle is absent. The last grain is no whole
/// one, and at the end of the file.
///
/// Grains 0 and 1: data in the slots 0 and 1. 2: zero, 3: unmapped, 4: absent. 8192 and 8193, the last: data in the
/// slots 2 and 3. The tables of the first and of the last have the indices 0 and 1.
pub fn sound() -> SeSparseImage {
    SeSparseImage::new(2 * TABLE_COVERS + 13)
        .length(Length::LastSlot)
        .data(0, vec![0xa0; GRAIN_BYTES])
        .data(1, vec![0xa1; GRAIN_BYTES])
        .zero(2)
        .unmapped(3)
        .absent(4)
        .data(2 * ENTRIES, vec![0xa2; GRAIN_BYTES])
        .data(2 * ENTRIES + 1, vec![0xa3; 5 * SECTOR])
}

/// All there are.
pub fn variants() -> Vec<Variant> {
    [header(), regions(), volatile(), directory(), entries(), lengths(), side_tables(), harmless()].concat()
}

fn variant(name: impl Into<String>, damage: Damage, extent: SeSparseImage) -> Variant {
    let shows = extent.layer();
    Variant { name: name.into(), damage, extent, shows }
}

/// A variant of [`sound`] by one number.
fn number(name: impl Into<String>, damage: Damage, offset: u64, value: u64) -> Variant {
    variant(name, damage, sound().patch_u64(offset, value))
}

/// One range.
fn only(sectors: Range<u64>) -> Vec<Range<u64>> {
    std::iter::once(sectors).collect()
}

impl Variant {
    /// The same, where what is to be seen is that of another extent.
    fn shows(mut self, extent: &SeSparseImage) -> Self {
        self.shows = extent.layer();
        self
    }
}

fn header() -> Vec<Variant> {
    use Damage::{Capacity, Magic, Reserved, Unsupported};
    let capacity = sound().capacity();
    vec![
        number("magic: 0", Magic, field::MAGIC, 0),
        number("magic: upper half", Magic, field::MAGIC, 1 << 32 | 0xcafe_babe),
        number("magic: that of the volatile header", Magic, field::MAGIC, 0xcafe_cafe),
        number("version: 0", Unsupported("version"), field::VERSION, 0),
        number("version: 1", Unsupported("version"), field::VERSION, 1),
        number("version: 2.0", Unsupported("version"), field::VERSION, 0x2_0000_0000),
        number("version: 2.2", Unsupported("version"), field::VERSION, 0x2_0000_0002),
        number("version: 3.1", Unsupported("version"), field::VERSION, 0x3_0000_0001),
        number("version: halves swapped", Unsupported("version"), field::VERSION, 0x1_0000_0002),
        number("version: all ones", Unsupported("version"), field::VERSION, u64::MAX),
        number("capacity: 0", Capacity, field::CAPACITY, 0),
        number("capacity: a sector less", Capacity, field::CAPACITY, capacity - 1),
        number("capacity: a sector more", Capacity, field::CAPACITY, capacity + 1),
        number("capacity: 64 TiB", Capacity, field::CAPACITY, 1 << 37),
        number("capacity: over 2^64 bytes", Capacity, field::CAPACITY, 1 << 55),
        number("capacity: all ones", Capacity, field::CAPACITY, u64::MAX),
        number("grain size: 0", Unsupported("grainSize"), field::GRAIN_SIZE, 0),
        number("grain size: 1", Unsupported("grainSize"), field::GRAIN_SIZE, 1),
        number("grain size: 7", Unsupported("grainSize"), field::GRAIN_SIZE, 7),
        number("grain size: 16", Unsupported("grainSize"), field::GRAIN_SIZE, 16),
        number("grain size: 128", Unsupported("grainSize"), field::GRAIN_SIZE, 128),
        number("grain size: upper half", Unsupported("grainSize"), field::GRAIN_SIZE, 1 << 32 | 8),
        number("grain size: all ones", Unsupported("grainSize"), field::GRAIN_SIZE, u64::MAX),
        number("table size: 0", Unsupported("grainTableSize"), field::TABLE_SIZE, 0),
        number("table size: 32", Unsupported("grainTableSize"), field::TABLE_SIZE, 32),
        number("table size: 128", Unsupported("grainTableSize"), field::TABLE_SIZE, 128),
        number("table size: entries", Unsupported("grainTableSize"), field::TABLE_SIZE, ENTRIES),
        number("table size: upper half", Unsupported("grainTableSize"), field::TABLE_SIZE, 1 << 32 | 64),
        number("table size: all ones", Unsupported("grainTableSize"), field::TABLE_SIZE, u64::MAX),
        number("flags: 1", Unsupported("flags"), field::FLAGS, 1),
        number("flags: the highest", Unsupported("flags"), field::FLAGS, 1 << 63),
        number("reserved 1", Reserved("reserved1"), field::RESERVED, 1),
        number("reserved 2", Reserved("reserved2"), field::RESERVED + 8, 1),
        number("reserved 3", Reserved("reserved3"), field::RESERVED + 16, 1 << 63),
        number("reserved 4", Reserved("reserved4"), field::RESERVED + 24, u64::MAX),
        variant("pad: the first byte", Reserved("pad"), sound().patch(field::PAD, [1])),
        variant("pad: the last byte", Reserved("pad"), sound().patch(511, [1])),
    ]
}

fn regions() -> Vec<Variant> {
    use Damage::Region;
    let layout = sound().layout();
    let regions = [
        (field::VOLATILE_HEADER, "volatileHeader"),
        (field::JOURNAL_HEADER, "journalHeader"),
        (field::JOURNAL, "journal"),
        (field::DIRECTORY, "grainDirectory"),
        (field::TABLES, "grainTables"),
        (field::BITMAP, "freeBitmap"),
        (field::BACK_MAP, "backMap"),
        (field::GRAINS, "grains"),
    ];
    let mut variants = Vec::new();
    for (offset, name) in regions {
        let mut set = |what: &str, offset, value| {
            variants.push(number(format!("{name}: {what}"), Region(name), offset, value));
        };
        set("at 0", offset, 0);
        set("at over 2^64 bytes", offset, 1 << 55);
        set("at all ones", offset, u64::MAX);
        set("size over 2^64 bytes", offset + field::SIZE, 1 << 55);
        set("size all ones", offset + field::SIZE, u64::MAX);
        // Nobody knows how small a journal can be, and slots may be anywhere.
        if name != "journal" {
            set("size 0", offset + field::SIZE, 0);
        }
        if name != "grains" {
            set("past the file", offset, layout.end + 1);
        }
    }
    let out_of_order =
        sound().patch_u64(field::DIRECTORY, layout.tables.offset).patch_u64(field::TABLES, layout.directory.offset);
    let same_place = sound().patch_u64(field::DIRECTORY, layout.tables.offset);
    variants.extend([
        number("journalHeader: in the volatile header", Region("journalHeader"), field::JOURNAL_HEADER, 1),
        number("journal: in the journal header", Region("journal"), field::JOURNAL, 3),
        number("grainDirectory: in the journal", Region("grainDirectory"), field::DIRECTORY, layout.journal.end() - 1),
        number("grainTables: in the directory", Region("grainTables"), field::TABLES, layout.directory.end() - 1),
        number("freeBitmap: in the tables", Region("freeBitmap"), field::BITMAP, layout.tables.end() - 1),
        number("backMap: in the bitmap", Region("backMap"), field::BACK_MAP, layout.bitmap.end() - 1),
        number("grains: in the back map", Region("grains"), field::GRAINS, layout.back_map.end() - 1),
        number("grainDirectory: into the tables", Region("grainTables"), field::DIRECTORY + field::SIZE, 2049),
        number("grainTables: into the bitmap", Region("freeBitmap"), field::TABLES + field::SIZE, 2049),
        variant("grainDirectory: behind the tables", Region("grainTables"), out_of_order),
        variant("grainDirectory: in the place of the tables", Region("grainTables"), same_place),
        number("grainTables: room for two of three", Region("grainTables"), field::TABLES + field::SIZE, 2 * 64),
        number("grainTables: a sector too few", Region("grainTables"), field::TABLES + field::SIZE, 3 * 64 - 1),
        // 8194 slots: two sectors of bits and 2 bits more, 128 sectors of the back map and 2 entries more.
        number("freeBitmap: a sector too few", Region("freeBitmap"), field::BITMAP + field::SIZE, 2),
        number("backMap: a sector too few", Region("backMap"), field::BACK_MAP + field::SIZE, 128),
        number("grains: fewer than the disk has", Region("grains"), field::GRAINS + field::SIZE, 2 * TABLE_COVERS),
    ]);
    variants
}

fn volatile() -> Vec<Variant> {
    use Damage::{Journal, Reserved, VolatileMagic};
    vec![
        number("volatile magic: 0", VolatileMagic, field::VOLATILE_MAGIC, 0),
        number("volatile magic: that of the constant header", VolatileMagic, field::VOLATILE_MAGIC, 0xcafe_babe),
        number("volatile magic: upper half", VolatileMagic, field::VOLATILE_MAGIC, 1 << 32 | 0xcafe_cafe),
        variant("journal: dirty", Journal, sound().dirty()),
        variant("journal: dirty, with records", Journal, sound().used_journal().dirty()),
        number("journal: dirty in another way", Journal, field::REPLAY_JOURNAL, 2),
        number("journal: dirty by the highest bit", Journal, field::REPLAY_JOURNAL, 1 << 63),
        variant("volatile pad: the first byte", Reserved("volatile pad"), sound().patch(field::VOLATILE_PAD, [1])),
        variant("volatile pad: the last byte", Reserved("volatile pad"), sound().patch(1023, [1])),
    ]
}

fn directory() -> Vec<Variant> {
    use Damage::{Directory, Disagreement};
    let entry = |table| sound().layout().directory_entry(table);
    let first = || Directory(only(0..TABLE_COVERS));
    let last = || Directory(only(2 * TABLE_COVERS..sound().capacity()));
    let absent = sound().absent(2).absent(3);
    let last_twice = absent.data(0, vec![0xa2; GRAIN_BYTES]).data(1, vec![0xa3; 5 * SECTOR]);
    vec![
        number("directory: nibble 0 with an index", last(), entry(2), 1),
        number("directory: nibble 2", first(), entry(0), 0x2000_0000 << 32),
        number("directory: nibble 3", first(), entry(0), 0x3000_0000 << 32),
        number("directory: nibble f", first(), entry(0), 0xf000_0000 << 32),
        number("directory: bit 32", first(), entry(0), 0x1000_0001 << 32),
        number("directory: bit 59", first(), entry(0), 0x1800_0000 << 32),
        number("directory: an index in the form of a slot's", last(), entry(2), 0x1001 << 48),
        // In the region, whose size is rounded up, and in the file; and not a table.
        number("directory: the index behind the last", first(), entry(0), directory_entry(3)),
        number("directory: the last index in the region", first(), entry(0), directory_entry(31)),
        number("directory: the index behind the region", first(), entry(0), directory_entry(32)),
        number("directory: the highest index", first(), entry(0), directory_entry(0xffff_ffff)),
        number("directory: a table twice", Disagreement, entry(0), directory_entry(1)).shows(&last_twice),
        number("directory: an entry behind the last", Disagreement, entry(3), directory_entry(0)),
        number("directory: damage behind the last", Disagreement, entry(3), u64::MAX),
    ]
}

fn entries() -> Vec<Variant> {
    use Damage::{Disagreement, Entry};
    let layout = sound().layout();
    let (at, slots) = (layout.entry(1), sound().grain_count());
    let damage = || Entry(only(8..16));
    let slot_twice = sound().data(1, vec![0xa0; GRAIN_BYTES]);
    // In the last table, behind the last grain.
    let behind = layout.entry(slots - 1) + 8;
    vec![
        number("entry: state 0 with a slot", damage(), at, 1 << 48),
        number("entry: state 0 with a low bit", damage(), at, 1),
        number("entry: state 4", damage(), at, 0x4 << 60),
        number("entry: state 5 with a slot", damage(), at, 0x5001 << 48),
        number("entry: state 8", damage(), at, 0x8 << 60),
        number("entry: state f", damage(), at, 0xf << 60),
        number("entry: all ones", damage(), at, u64::MAX),
        number("entry: the slot behind the end of the file", damage(), at, allocated(4)),
        number("entry: the last slot there can be", damage(), at, allocated(slots - 1)),
        number("entry: the slot behind the last", damage(), at, allocated(slots)),
        number("entry: slot 2^32", damage(), at, allocated(1 << 32)),
        number("entry: slot 2^52", damage(), at, allocated(1 << 52)),
        number("entry: slot 2^57", damage(), at, allocated(1 << 57)),
        number("entry: the highest slot", damage(), at, allocated((1 << 60) - 1)),
        // Slot 4096. Without the rotation it would be the slot that it was.
        number("entry: a slot that is not rotated", damage(), at, 0x3 << 60 | 1),
        number("entry: a slot twice", Disagreement, at, allocated(0)).shows(&slot_twice),
        number("entry: data behind the last grain", Disagreement, behind, allocated(0)),
        number("entry: damage behind the last grain", Disagreement, behind, 0xf << 60),
    ]
}

fn lengths() -> Vec<Variant> {
    use Damage::{Entry, Harmless, Magic, Region};
    let (layout, capacity) = (sound().layout(), sound().capacity());
    let end = layout.end * SECTOR as u64;
    let sectors = |count: u64| sound().cut(count * SECTOR as u64);
    let less = |bytes: u64| sound().cut(end - bytes);
    let all = || Entry(vec![0..16, 2 * TABLE_COVERS..capacity]);
    let last = || Entry(only(2 * TABLE_COVERS + GRAIN_SECTORS..capacity));
    vec![
        variant("length: half a header", Magic, sound().cut(256)),
        variant("length: a header", Region("volatileHeader"), sectors(1)),
        variant("length: three headers", Region("journal"), sectors(4)),
        variant("length: into the directory", Region("grainDirectory"), sectors(layout.directory.end() - 1)),
        variant("length: into the tables", Region("grainTables"), sectors(layout.tables.end() - 1)),
        variant("length: into the bitmap", Region("freeBitmap"), sectors(layout.bitmap.end() - 1)),
        variant("length: into the back map", Region("backMap"), sectors(layout.back_map.end() - 1)),
        variant("length: no slots", all(), sectors(layout.grains.offset)),
        number("length: slots past it", all(), field::GRAINS, layout.end),
        variant("length: a slot less", last(), less(GRAIN_BYTES as u64)),
        // The disk ends after five of the eight sectors of its last slot.
        variant("length: a sector of the disk less", last(), less(4 * SECTOR as u64)),
        variant("length: half a sector of the disk less", last(), less(3 * SECTOR as u64 + 256)),
        variant("length: what the disk has not of the last slot less", Harmless, less(3 * SECTOR as u64)),
        variant("length: half a grain more", Harmless, sound().cut(end + 2048)),
        variant("length: a few bytes more", Harmless, sound().cut(end + 7)),
    ]
}

fn side_tables() -> Vec<Variant> {
    use Damage::Disagreement;
    let layout = sound().layout();
    let (bits, _) = layout.bitmap_bit(0);
    vec![
        // Slots 0 to 3 are in use. A group of 128 has 16 bytes, in an order that nobody knows.
        variant("bitmap: nothing in use", Disagreement, sound().patch(bits, [0; 16])),
        variant("bitmap: all of the group in use", Disagreement, sound().patch(bits, [0xff; 16])),
        variant("bitmap: a group that nothing is in", Disagreement, sound().patch(bits + 16, [0xff; 16])),
        variant("bitmap: a slot behind the last", Disagreement, sound().patch(bits + 8194 / 8 + 1, [1])),
        number("back map: none", Disagreement, layout.back_map_entry(1), 0),
        number("back map: another grain", Disagreement, layout.back_map_entry(1), back_map_entry(2)),
        number("back map: another nibble", Disagreement, layout.back_map_entry(1), allocated(1)),
        number("back map: a free slot", Disagreement, layout.back_map_entry(4), back_map_entry(5)),
        number("free table: one in use", Disagreement, field::FREE_TABLE, 0),
    ]
}

fn harmless() -> Vec<Variant> {
    use Damage::Harmless;
    let layout = sound().layout();
    let journal = layout.record(0);
    vec![
        variant("nothing", Harmless, sound()),
        variant("a journal that was used", Harmless, sound().used_journal()),
        variant("another layout", Harmless, sound().region_gap(5).table_order(TableOrder::Random(1))),
        variant("a file as ESX leaves it", Harmless, sound().length(Length::Blocks)),
        number("zero with other bits", Harmless, layout.entry(2), zero(u64::MAX)),
        number("unmapped with the slot that it had", Harmless, layout.entry(3), unmapped(Some(1))),
        number("unmapped with a slot that nobody has", Harmless, layout.entry(3), unmapped(Some((1 << 60) - 1))),
        number("free table: past the last", Harmless, field::FREE_TABLE, u64::MAX),
        number("next transaction: another", Harmless, field::NEXT_TRANSACTION, 77),
        number("journal header: another transaction", Harmless, field::JOURNAL_NEXT, 77),
        number("journal header: another generation", Harmless, field::JOURNAL_GENERATION, 2),
        variant(
            "journal header: not initialised",
            Harmless,
            sound().patch(field::JOURNAL_GENERATION + 8, [0xcc; 1000]),
        ),
        variant("journal: something that is no record", Harmless, sound().patch(journal, [0xcc; 4096])),
        variant("zeros: something in them", Harmless, sound().patch(4 * SECTOR as u64, [0xcc; 4096])),
    ]
}
