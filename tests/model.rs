//! Random layouts and chains against a model of them: what is read, and what is said of where it is.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;
use vmdk::{BlockDevice, BlockStatus, MappedRun, Mapping, MemoryStorage, OpenOptions, RawTarget, Storage, VmdkImage};

use support::disk::{Image, Part};
use support::model::is_zero;
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, byte_range, index};

// ---- What is generated ----------------------------------------------------------------------------------------------

/// The order of the grains in the file.
#[derive(Clone, Copy, Debug)]
enum Order {
    Ascending,
    Descending,
    Random,
}

/// A sparse extent.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the builder")]
struct Sparse {
    /// In grains and sectors of one more.
    size: (u64, u64),
    grain_shift: u32,
    entries_shift: u32,
    redundant_tables: bool,
    directory_first: bool,
    omit_empty_tables: bool,
    misalignment: u64,
    gap: u64,
    order: Order,
    /// Percent of the stretches of grains that hold data, or are zero grains.
    data: u64,
    zero: u64,
    /// Percent of the grains that are as the one before.
    same: u64,
    /// Version 1, although there are zero grains.
    no_zero_flag: bool,
    cut_tail: bool,
    seed: u64,
}

/// An extent of a link with a text descriptor.
#[derive(Clone, Debug)]
enum Extent {
    Sparse(Sparse),
    Flat {
        sectors: u64,
        seed: u64,
    },
    /// Two stretches of one file, between them some that are hidden from the guest, or nothing.
    FlatPair {
        offset: u64,
        first: u64,
        hidden: u64,
        second: u64,
        seed: u64,
    },
    /// A file that ends before the extent does, perhaps within a sector.
    FlatCut {
        offset: u64,
        present: u64,
        missing: u64,
        seed: u64,
    },
    Zero {
        sectors: u64,
    },
}

#[derive(Clone, Debug)]
enum Link {
    Embedded(Sparse),
    Text(Vec<Extent>),
}

fn sparse() -> impl Strategy<Value = Sparse> {
    let layout = (any::<bool>(), any::<bool>(), any::<bool>(), 0..4_u64, prop_oneof![3 => Just(0), 1 => 1..5_u64]);
    let order = prop_oneof![Just(Order::Ascending), Just(Order::Descending), Just(Order::Random)];
    let filling = (0..=100_u64, 0..=50_u64, 0..=95_u64, any::<bool>(), any::<bool>(), any::<u64>());
    (0..=8_u32, 7..=10_u32, any::<u64>(), any::<u64>(), layout, order, filling).prop_map(
        |(grain_shift, entries_shift, grains, rest, layout, order, filling)| {
            // No more than fits into a moment: some 2 MiB, and some 1000 grains.
            let grains = grains % (4000 >> grain_shift).clamp(1, 1000);
            let rest = rest % (1 << grain_shift);
            let (redundant_tables, directory_first, omit_empty_tables, misalignment, gap) = layout;
            let (data, zero, same, no_zero_flag, cut_tail, seed) = filling;
            let size = (grains, if grains == 0 { rest.max(1) } else { rest });
            let (data, same) = (data.min(100 - zero), if order_is_kept(seed) { same } else { 0 });
            Sparse {
                size,
                grain_shift,
                entries_shift,
                redundant_tables,
                directory_first,
                omit_empty_tables,
                misalignment,
                gap,
                order,
                data,
                zero,
                same,
                no_zero_flag,
                cut_tail,
                seed,
            }
        },
    )
}

/// Half of the extents have stretches of grains, the others single ones.
fn order_is_kept(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

fn extent() -> impl Strategy<Value = Extent> {
    let seed = any::<u64>();
    prop_oneof![
        3 => sparse().prop_map(Extent::Sparse),
        1 => (1..500_u64, seed).prop_map(|(sectors, seed)| Extent::Flat { sectors, seed }),
        1 => (0..9_u64, 1..300_u64, prop_oneof![Just(0), 1..40_u64], 1..300_u64, seed).prop_map(
            |(offset, first, hidden, second, seed)| Extent::FlatPair { offset, first, hidden, second, seed }
        ),
        1 => (0..9_u64, 0..90_u64, 1..90_u64, seed).prop_map(|(offset, present, missing, seed)| {
            Extent::FlatCut { offset, present, missing, seed }
        }),
        1 => (1..300_u64).prop_map(|sectors| Extent::Zero { sectors }),
    ]
}

fn link() -> impl Strategy<Value = Link> {
    prop_oneof![
        2 => sparse().prop_map(Link::Embedded),
        1 => prop::collection::vec(extent(), 1..5).prop_map(Link::Text),
    ]
}

// ---- The model ------------------------------------------------------------------------------------------------------

/// What a link says of a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Absent,
    Zero,
    Data,
}

impl Cell {
    fn of(mapping: &Mapping) -> Self {
        match mapping {
            Mapping::Data { .. } => Self::Data,
            Mapping::Zero => Self::Zero,
            Mapping::Unallocated => Self::Absent,
            other => panic!("what is {other:?}?"),
        }
    }

    fn status(self) -> BlockStatus {
        match self {
            Self::Absent => BlockStatus::Hole,
            Self::Zero => BlockStatus::Zero,
            Self::Data => BlockStatus::Data,
        }
    }
}

impl Sparse {
    fn capacity(&self) -> u64 {
        (self.size.0 << self.grain_shift) + self.size.1
    }

    fn build(&self) -> (SparseImage, Vec<Cell>) {
        let rng = &mut Rng::new(self.seed);
        let (capacity, grain) = (self.capacity(), 1 << self.grain_shift);
        let mut image = SparseImage::new(capacity).grain_sectors(grain).entries_per_table(1 << self.entries_shift);
        image = image.grain_shift(self.misalignment).grain_gap(self.gap);
        if !self.no_zero_flag {
            image = image.with_zero_grains();
        }
        if !self.redundant_tables {
            image = image.without_redundant_tables();
        }
        if self.directory_first {
            image = image.directory_first();
        }
        if self.omit_empty_tables {
            image = image.omit_empty_tables();
        }
        let count = capacity.div_ceil(grain);
        let mut cell = Cell::Absent;
        let mut grains = Vec::new();
        for number in 0..count {
            if number == 0 || !rng.chance(self.same) {
                cell = match rng.below(100) {
                    percent if percent < self.data => Cell::Data,
                    percent if percent < self.data + self.zero => Cell::Zero,
                    _ => Cell::Absent,
                };
            }
            grains.push((number, cell));
        }
        let mut cells: Vec<Cell> =
            grains.iter().flat_map(|&(_, cell)| std::iter::repeat_n(cell, index(grain))).collect();
        match self.order {
            Order::Ascending => {}
            Order::Descending => grains.reverse(),
            Order::Random => rng.shuffle(&mut grains),
        }
        let last = grains.iter().rposition(|&(_, cell)| cell == Cell::Data);
        for (at, &(number, cell)) in grains.iter().enumerate() {
            image = match cell {
                Cell::Absent => image,
                Cell::Zero => image.zero(number),
                Cell::Data if self.cut_tail && Some(at) == last => {
                    // What the file does not have of its last grain is zero.
                    let len = 1 + index(rng.below(grain * SECTOR as u64));
                    let end = index(number * grain) + len.div_ceil(SECTOR);
                    cells[end..index((number + 1) * grain)].fill(Cell::Zero);
                    image.data(number, rng.bytes(len))
                }
                Cell::Data => image.data(number, rng.bytes(index(grain) * SECTOR)),
            };
        }
        cells.truncate(index(capacity));
        (if self.cut_tail { image.cut_tail() } else { image }, cells)
    }
}

impl Extent {
    fn build(&self, file: &str) -> Vec<(Part, Vec<Cell>)> {
        let junk = |sectors: u64| vec![0xdd; byte_range(0, sectors).end];
        let random = |rng: &mut Rng, sectors: u64| rng.bytes(byte_range(0, sectors).end);
        let cells = |cell, sectors| vec![cell; index(sectors)];
        match *self {
            Self::Sparse(ref sparse) => {
                let (image, cells) = sparse.build();
                vec![(Part::sparse(file, &image), cells)]
            }
            Self::Flat { sectors, seed } => {
                vec![(Part::flat(file, random(&mut Rng::new(seed), sectors)), cells(Cell::Data, sectors))]
            }
            Self::FlatPair { offset, first, hidden, second, seed } => {
                let rng = &mut Rng::new(seed);
                let contents = [random(rng, first), random(rng, second)];
                let file_bytes = [&junk(offset), &contents[0], &junk(hidden), &contents[1]].map(Vec::as_slice).concat();
                let part = Part::flat_in("RW", file, offset, &contents[0]).with_file(file, file_bytes);
                let mut parts = vec![(part, cells(Cell::Data, first))];
                if hidden > 0 {
                    parts.push((Part::no_access(hidden, file, offset + first), cells(Cell::Zero, hidden)));
                }
                let part = Part::flat_in("RDONLY", file, offset + first + hidden, &contents[1]);
                parts.push((part, cells(Cell::Data, second)));
                parts
            }
            Self::FlatCut { offset, present, missing, seed } => {
                let rng = &mut Rng::new(seed);
                let mut content = random(rng, present);
                // Some of the last sector may be missing, too.
                let gone = if present > 0 { index(rng.below(SECTOR as u64)) } else { 0 };
                content.truncate(content.len() - gone);
                let file_bytes = [&junk(offset), &content].map(Vec::as_slice).concat();
                content.resize(byte_range(0, present + missing).end, 0);
                let part = Part::flat_in("RW", file, offset, &content).with_file(file, file_bytes);
                vec![(part, [cells(Cell::Data, present), cells(Cell::Zero, missing)].concat())]
            }
            Self::Zero { sectors } => vec![(Part::zero(sectors), cells(Cell::Zero, sectors))],
        }
    }
}

impl Link {
    fn build(&self, name: &str, parent: Option<&Image>) -> (Image, Vec<Cell>) {
        match self {
            Self::Embedded(sparse) => {
                let (image, cells) = sparse.build();
                (Image::embedded(name, image, parent, |text| text), cells)
            }
            Self::Text(extents) => {
                let built = extents.iter().enumerate();
                let built = built.flat_map(|(number, extent)| extent.build(&format!("{number}-{name}")));
                let (parts, cells): (Vec<_>, Vec<_>) = built.unzip();
                (Image::link_of_parts(name, "custom", parts, parent), cells.concat())
            }
        }
    }
}

/// A chain that is open, and what must be found in it.
struct Chain {
    image: VmdkImage,
    content: Vec<u8>,
    /// The links, the youngest first: what each says, and its own content.
    links: Vec<(Vec<Cell>, Image)>,
}

impl Chain {
    /// Builds the links, the base first, and opens the last one.
    fn new(links: &[Link], cached_tables: usize) -> Self {
        let mut built: Vec<(Vec<Cell>, Image)> = Vec::new();
        for (number, link) in links.iter().enumerate() {
            let parent = built.last().map(|(_, parent)| parent);
            let (image, cells) = link.build(&format!("link-{number}.vmdk"), parent);
            built.push((cells, image));
        }
        let files = built.iter().flat_map(|(_, image)| &image.files);
        let files: HashMap<String, Arc<dyn Storage>> = files
            .map(|(name, bytes)| (name.clone(), Arc::new(MemoryStorage::new(bytes.clone())) as Arc<dyn Storage>))
            .collect();
        built.reverse();
        let youngest = &built[0].1;
        let image = OpenOptions::new().cached_tables(cached_tables).open_with(&youngest.name, &files);
        Self { image: image.unwrap(), content: youngest.content.clone(), links: built }
    }

    fn capacity(&self) -> u64 {
        (self.content.len() / SECTOR) as u64
    }

    /// What the chain says of a sector, and which link it is that says so.
    fn cell(&self, sector: u64) -> (Cell, Option<usize>) {
        for (depth, (cells, _)) in self.links.iter().enumerate() {
            match cells.get(index(sector)) {
                None => break,
                Some(Cell::Absent) => {}
                Some(&cell) => return (cell, Some(depth)),
            }
        }
        (Cell::Absent, None)
    }

    /// A run must say the same of all its sectors, be neither empty nor longer than asked for, and lead to the bytes.
    fn check_run(&self, start: u64, max: u64, run: &MappedRun, layer: bool) {
        let what = format!("{} at {start}, at most {max}, this link alone: {layer}", shown(run));
        assert!((1..=max.min(self.capacity() - start)).contains(&run.sectors), "{what}");
        let cell = Cell::of(&run.mapping);
        for sector in start..start + run.sectors {
            let (expected, depth) = if layer { (self.links[0].0[index(sector)], Some(0)) } else { self.cell(sector) };
            assert_eq!(cell, expected, "sector {sector}: {what}");
            assert!(cell == Cell::Absent || depth == Some(run.depth), "sector {sector} is of {depth:?}: {what}");
        }
        if let Mapping::Data { storage, offset } = &run.mapping {
            let mut found = vec![0; index(run.sectors) * SECTOR];
            // Only in the last sector of its file anything may be missing.
            let len = index(storage.len().unwrap() - offset).min(found.len());
            assert!(found.len() - len < SECTOR, "{what}");
            storage.read_exact_at(&mut found[..len], *offset).unwrap();
            assert!(found == self.content[byte_range(start, run.sectors)], "the bytes: {what}");
        }
    }

    /// From end to end: no run of what the youngest link has could have been longer.
    fn check_runs(&self, map: impl Fn(u64, u64) -> MappedRun, layer: bool) {
        let mut last: Option<MappedRun> = None;
        let mut sector = 0;
        while sector < self.capacity() {
            let run = map(sector, u64::MAX);
            self.check_run(sector, u64::MAX, &run, layer);
            if let Some(last) = last.filter(|last| could_be_one(last, &run)) {
                let (last, next) = (shown(&last), shown(&run));
                panic!("{last} ends at {sector}, where {next} begins");
            }
            sector += run.sectors;
            last = Some(run);
        }
    }

    fn check_status(&self, start: u64, max: u64) {
        let (status, count) = self.image.block_status(start, max).unwrap();
        assert!((1..=max.min(self.capacity() - start)).contains(&count), "{count} of {max} at {start}");
        for sector in start..start + count {
            assert_eq!(status, self.cell(sector).0.status(), "sector {sector}, in {count} from {start}");
        }
    }

    /// What has changed since `base` was the youngest link: what is not called a change reads as it read there.
    fn check_changes(&self, base: usize, start: u64, max: u64) {
        let (status, count) = self.image.block_status_above(base, start, max).unwrap();
        assert!((1..=max.min(self.capacity() - start)).contains(&count), "{count} of {max} at {start} above {base}");
        let before = self.links.get(base).map_or(&[][..], |(_, image)| &image.content);
        for sector in start..start + count {
            let now = &self.content[byte_range(sector, 1)];
            let what = || format!("{status:?} of sector {sector}, in {count} from {start} above {base}");
            match status {
                BlockStatus::Data => {
                    let (_, depth) = self.cell(sector);
                    assert!(depth.is_some_and(|depth| depth < base), "{}: the data is of {depth:?}", what());
                }
                BlockStatus::Zero => assert!(is_zero(now), "{}", what()),
                _ => {
                    let same = before.get(byte_range(sector, 1)).map_or(is_zero(now), |before| before == now);
                    assert!(same, "{}", what());
                }
            }
        }
    }

    /// A raw copy has the content, whatever was there before, and nothing behind it changes.
    fn check_copies(&self) {
        let len = self.content.len();
        for (kind, before, after) in [
            (RawTarget::Empty, vec![], self.content.clone()),
            (RawTarget::Used, vec![0xee; len], self.content.clone()),
            (RawTarget::Used, vec![0xee; len + 700], [&self.content[..], &[0xee; 700]].concat()),
        ] {
            let target = MemoryStorage::new(before);
            self.image.copy_to_raw(&target, kind, 1, &mut |_| ControlFlow::Continue(())).unwrap();
            assert!(target.to_vec() == after, "{kind:?}");
        }
    }

    fn check_read(&self, start: u64, count: u64) {
        let mut found = vec![0xa5; index(count) * SECTOR];
        self.image.read_sectors(start, &mut found).unwrap();
        assert!(found == self.content[byte_range(start, count)], "{count} sectors from {start} differ");
    }

    fn check_vectored_read(&self, start: u64, count: u64, rng: &mut Rng) {
        let mut found = vec![0xa5; index(count) * SECTOR];
        let mut slices = Vec::new();
        let mut rest = found.as_mut_slice();
        while !rest.is_empty() {
            let most = [0, 1, 511, 512, 4096, 100_000][index(rng.below(6))];
            let len = rest.len().min(if rng.chance(50) { most } else { index(rng.below(most as u64 + 1)) });
            let (head, tail) = rest.split_at_mut(len);
            slices.push(IoSliceMut::new(head));
            rest = tail;
        }
        let lens: Vec<usize> = slices.iter().map(|slice| slice.len()).collect();
        self.image.read_sectors_vectored(start, &mut slices).unwrap();
        assert!(found == self.content[byte_range(start, count)], "{count} sectors from {start} differ: {lens:?}");
    }

    /// A range on the disk: a few sectors, or as many as there are.
    fn range(&self, rng: &mut Rng) -> (u64, u64) {
        let start = rng.below(self.capacity());
        let most = [1, 9, 300, u64::MAX][index(rng.below(4))].min(self.capacity() - start);
        (start, 1 + rng.below(most))
    }
}

/// Without the bytes of a storage.
fn shown(run: &MappedRun) -> String {
    let MappedRun { mapping, sectors, depth, .. } = run;
    let place = match mapping {
        Mapping::Data { storage, offset } => format!("Data at {offset} of {:?}", storage.id()),
        other => format!("{other:?}"),
    };
    format!("{sectors} of {place}, depth {depth}")
}

fn could_be_one(run: &MappedRun, next: &MappedRun) -> bool {
    // Where a link has nothing, a run may end with a table of it, and with that what its parents have there.
    if (run.depth, next.depth) != (0, 0) {
        return false;
    }
    match (&run.mapping, &next.mapping) {
        (Mapping::Data { storage, offset }, Mapping::Data { storage: other, offset: next }) => {
            storage.id() == other.id() && offset + run.sectors * SECTOR as u64 == *next
        }
        (Mapping::Zero, Mapping::Zero) => true,
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_chain_of_any_layout_is_what_the_model_says(
        links in prop::collection::vec(link(), 1..5),
        cached_tables in prop::sample::select(&[1_usize, 2, 16][..]),
        seed in any::<u64>(),
    ) {
        let chain = Chain::new(&links, cached_tables);
        let rng = &mut Rng::new(seed);
        prop_assert_eq!(chain.image.capacity_sectors(), chain.capacity());
        prop_assert_eq!(chain.image.chain().len(), links.len());

        chain.check_read(0, chain.capacity());
        chain.check_copies();
        chain.check_runs(|start, max| chain.image.map(start, max).unwrap(), false);
        chain.check_runs(|start, max| chain.image.map_layer(start, max).unwrap(), true);
        for _ in 0..40 {
            let (start, count) = chain.range(rng);
            chain.check_read(start, count);
            let (start, count) = chain.range(rng);
            chain.check_vectored_read(start, count, rng);
            let (start, max) = chain.range(rng);
            chain.check_status(start, max);
            chain.check_changes(1 + index(rng.below(links.len() as u64)), start, max);
            chain.check_run(start, max, &chain.image.map(start, max).unwrap(), false);
            chain.check_run(start, max, &chain.image.map_layer(start, max).unwrap(), true);
        }
    }
}
