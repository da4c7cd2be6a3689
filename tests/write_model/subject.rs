//! What is written to: a link of every kind that takes writes, alone and over parents of all kinds.

use vmdk::{Access, ExtentKind, VmdkImage};

use crate::support::cowd::CowdImage;
use crate::support::descriptor::DescriptorText;
use crate::support::disk::{Image, Part, custom};
use crate::support::rng::Rng;
use crate::support::sparse::SparseImage;
use crate::support::{SECTOR, index};

/// The link that is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Top {
    /// One sparse file, version 1: three tables of 128 grains of 8 sectors.
    SmallGrains,
    /// One sparse file with grains of 128 sectors, the last one partial.
    LargeGrains,
    /// Version 2 with zero grains.
    ZeroGrains,
    /// Version 3, as VMware's own products write it when nothing is compressed.
    Version3,
    /// No redundant tables.
    SingleTables,
    /// Tables that are missing, in both directories.
    MissingTables,
    /// The same, without redundant tables and with zero grains.
    MissingSingleTables,
    /// Grains out of line with gaps between them, and a last one that the file cuts.
    OddLayout,
    /// Not closed by its last writer.
    Unclean,
    /// A text and three sparse files.
    SplitSparse,
    /// The same, where the extents are no whole number of grains.
    RaggedSplit,
    MonolithicFlat,
    SplitFlat,
    Vmfs,
    /// A flat extent whose file is shorter.
    ShortFlat,
    /// Sparse, flat at an offset, ZERO, RDONLY and NOACCESS extents.
    Custom,
    /// Sparse extents with different grains, and a ZERO extent between them.
    Mixed,
    /// A delta of ESX: grains of one sector, two tables.
    EsxDelta,
    /// A disk of VMware 2.
    Vmware2,
    /// A disk of VMware 3 in one file.
    Vmware3,
    /// A disk of VMware 3 in three files.
    Vmware3Split,
}

impl Top {
    pub(crate) const ALL: [Self; 21] = [
        Self::SmallGrains,
        Self::LargeGrains,
        Self::ZeroGrains,
        Self::Version3,
        Self::SingleTables,
        Self::MissingTables,
        Self::MissingSingleTables,
        Self::OddLayout,
        Self::Unclean,
        Self::SplitSparse,
        Self::RaggedSplit,
        Self::MonolithicFlat,
        Self::SplitFlat,
        Self::Vmfs,
        Self::ShortFlat,
        Self::Custom,
        Self::Mixed,
        Self::EsxDelta,
        Self::Vmware2,
        Self::Vmware3,
        Self::Vmware3Split,
    ];

    fn capacity(self) -> u64 {
        match self {
            Self::SmallGrains
            | Self::ZeroGrains
            | Self::SingleTables
            | Self::MissingTables
            | Self::MissingSingleTables
            | Self::Unclean => 8 * 128 * 2 + 8 * 9 + 3,
            Self::EsxDelta => 4096 + 77,
            Self::SplitSparse => SPLIT.iter().sum(),
            Self::RaggedSplit => RAGGED.iter().sum(),
            Self::Mixed => MIXED.iter().sum(),
            Self::Vmware3Split => VMWARE3.iter().sum(),
            _ => 128 * 7 + 37,
        }
    }

    /// Whether any of its sectors may be those of a parent.
    pub(crate) fn has_parents(self) -> bool {
        !matches!(self, Self::MonolithicFlat | Self::SplitFlat | Self::Vmfs | Self::ShortFlat | Self::Custom)
    }

    fn is_hosted_cowd(self) -> bool {
        matches!(self, Self::Vmware2 | Self::Vmware3 | Self::Vmware3Split)
    }
}

const SPLIT: [u64; 3] = [128 * 4, 128 * 2, 128 * 2 + 50];
const RAGGED: [u64; 3] = [16 * 20 + 3, 16 * 9 + 1, 77];
const MIXED: [u64; 4] = [8 * 40 + 5, 90, 128 * 2 + 11, 32 * 9];
const VMWARE3: [u64; 3] = [128 * 3 + 10, 128 * 3 + 10, 77];
const GENERATION: u32 = 77;

/// What is below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Nothing,
    /// A flat disk of the same size.
    Flat,
    /// Grains of 4 sectors in random order: data, zeros and nothing take turns.
    Fragments,
    /// A sparse disk that is larger.
    Larger,
    /// A flat disk that is smaller, and ends within a grain.
    Smaller,
    /// Three links with different grains, the one in the middle short.
    Deep,
    /// A delta of ESX over a flat disk.
    EsxDelta,
    /// Sparse extents in several files.
    Split,
}

impl Base {
    pub(crate) const ALL: [Self; 8] = [
        Self::Nothing,
        Self::Flat,
        Self::Fragments,
        Self::Larger,
        Self::Smaller,
        Self::Deep,
        Self::EsxDelta,
        Self::Split,
    ];

    fn build(self, capacity: u64, rng: &mut Rng) -> Vec<Image> {
        let flat =
            |sectors: u64, rng: &mut Rng| Image::monolithic_flat("base.vmdk", rng.bytes(index(sectors) * SECTOR));
        let sparse = |sectors: u64, grain: u64, rng: &mut Rng| {
            SparseImage::new(sectors).grain_sectors(grain).with_zero_grains().random(rng)
        };
        match self {
            Self::Nothing => Vec::new(),
            Self::Flat => vec![flat(capacity, rng)],
            Self::Fragments => vec![Image::monolithic_sparse("base.vmdk", sparse(capacity, 4, rng))],
            Self::Larger => vec![Image::monolithic_sparse("base.vmdk", sparse(capacity + 777, 16, rng))],
            Self::Smaller => vec![flat(capacity * 3 / 5 + 1, rng)],
            Self::Deep => {
                let base = flat(capacity + 9, rng);
                let middle = Image::child(&base, "middle.vmdk", sparse(capacity / 2 + 3, 32, rng));
                let last = Image::child(&middle, "last.vmdk", sparse(capacity, 16, rng));
                vec![base, middle, last]
            }
            Self::EsxDelta => {
                let base = Image::vmfs("base.vmdk", rng.bytes(index(capacity) * SECTOR));
                let delta = Image::esx_delta(&base, "base-000001.vmdk", &CowdImage::esx(capacity).random(rng));
                vec![base, delta]
            }
            Self::Split => {
                let sizes = [capacity / 3, capacity - capacity / 3];
                vec![Image::split_sparse("base.vmdk", &sizes.map(|size| sparse(size, 64, rng)))]
            }
        }
    }
}

/// The links of a chain, the base first; the last one is written to. Disks without sectors of their parents get none.
pub(crate) fn build(top: Top, base: Base, rng: &mut Rng) -> Vec<Image> {
    if top.is_hosted_cowd() {
        return hosted_cowd(top, base != Base::Nothing, rng);
    }
    let mut links = if top.has_parents() { base.build(top.capacity(), rng) } else { Vec::new() };
    let image = link(top, links.last(), rng);
    links.push(image);
    links
}

fn link(top: Top, parent: Option<&Image>, rng: &mut Rng) -> Image {
    let capacity = top.capacity();
    let small = || SparseImage::new(capacity).grain_sectors(8).entries_per_table(128);
    let bytes = |rng: &mut Rng, sectors: u64| rng.bytes(index(sectors) * SECTOR);
    let embedded = |extent: SparseImage| Image::embedded("disk.vmdk", extent, parent, |text| text);
    let of_parts = |kind: &str, parts: Vec<Part>| Image::link_of_parts("disk.vmdk", kind, parts, parent);
    let split = |extents: Vec<SparseImage>| {
        (1..).zip(&extents).map(|(number, extent)| Part::sparse(&format!("disk-s{number:03}.vmdk"), extent)).collect()
    };
    match top {
        Top::SmallGrains => embedded(small().random(rng)),
        Top::LargeGrains => embedded(SparseImage::new(capacity).random(rng)),
        Top::ZeroGrains => embedded(small().with_zero_grains().random(rng)),
        Top::Version3 => embedded(SparseImage::new(capacity).with_zero_grains().version(3).random(rng)),
        Top::SingleTables => embedded(small().without_redundant_tables().random(rng)),
        Top::MissingTables | Top::MissingSingleTables => {
            let mut extent = small().omit_empty_tables();
            if top == Top::MissingSingleTables {
                extent = extent.without_redundant_tables().with_zero_grains();
            }
            let grains = [3, 2, 260].into_iter().filter(|_| rng.chance(70)).collect::<Vec<_>>();
            embedded(grains.into_iter().fold(extent, |extent, grain| extent.data(grain, bytes(rng, 3))))
        }
        Top::OddLayout => {
            let extent = SparseImage::new(16 * 30 + 5).grain_sectors(16).grain_shift(1).grain_gap(3);
            embedded(extent.directory_first().random(rng).data(30, bytes(rng, 5)).cut_tail())
        }
        Top::Unclean => {
            let extent = small().random(rng).unclean(1);
            let layout = extent.layout();
            let absent = (0..extent.grain_count()).filter(|grain| !layout.grains.contains_key(grain));
            // Entries past the end, and redundant ones that are older: what a crash of another writer leaves.
            let past_end = u32::try_from(layout.end).unwrap() + 24;
            let dead = absent.filter(|_| rng.chance(20)).collect::<Vec<_>>();
            let extent = dead.iter().fold(extent, |extent, &grain| extent.patch_u32(layout.entry(grain), past_end));
            let old = layout.grains.keys().filter(|_| rng.chance(10)).collect::<Vec<_>>();
            embedded(old.into_iter().fold(extent, |extent, &grain| extent.patch_u32(layout.redundant_entry(grain), 0)))
        }
        Top::SplitSparse => {
            of_parts("twoGbMaxExtentSparse", split(SPLIT.map(|size| SparseImage::new(size).random(rng)).into()))
        }
        Top::RaggedSplit => {
            let extents = RAGGED.map(|size| SparseImage::new(size).grain_sectors(16).with_zero_grains().random(rng));
            of_parts("twoGbMaxExtentSparse", split(extents.into()))
        }
        Top::MonolithicFlat => Image::monolithic_flat("disk.vmdk", bytes(rng, capacity)),
        Top::SplitFlat => {
            Image::split_flat("disk.vmdk", vec![bytes(rng, 300), bytes(rng, 1), bytes(rng, capacity - 301)])
        }
        Top::Vmfs => Image::vmfs("disk.vmdk", bytes(rng, capacity)),
        Top::ShortFlat => {
            let mut content = bytes(rng, capacity);
            let len = content.len() / 2 + 100;
            let file = [vec![0xdd; 3 * SECTOR], content[..len].to_vec()].concat();
            content[len..].fill(0);
            of_parts("custom", vec![Part::flat_in("RW", "flat.vmdk", 3, &content).with_file("flat.vmdk", file)])
        }
        Top::Custom => custom("disk.vmdk", |count| rng.bytes(count * SECTOR)),
        Top::Mixed => {
            let sparse = |size, grain, rng: &mut Rng| SparseImage::new(size).grain_sectors(grain).random(rng);
            of_parts(
                "custom",
                vec![
                    Part::sparse("one.vmdk", &sparse(MIXED[0], 8, rng)),
                    Part::zero(MIXED[1]),
                    Part::sparse("two.vmdk", &SparseImage::new(MIXED[2]).with_zero_grains().random(rng)),
                    Part::sparse("three.vmdk", &sparse(MIXED[3], 32, rng)),
                ],
            )
        }
        Top::EsxDelta => esx_delta(parent, &CowdImage::esx(capacity).random(rng)),
        Top::Vmware2 | Top::Vmware3 | Top::Vmware3Split => unreachable!("built elsewhere"),
    }
}

/// A delta; without a parent the text is that of a base with such an extent.
fn esx_delta(parent: Option<&Image>, extent: &CowdImage) -> Image {
    if let Some(parent) = parent {
        return Image::esx_delta(parent, "disk.vmdk", extent);
    }
    let layer = extent.layer();
    let line = format!("RW {} VMFSSPARSE \"disk-delta.vmdk\"", layer.capacity());
    let text = DescriptorText::new("vmfsSparse", 0x1234_abcd).extent(line).to_string();
    let files = vec![("disk.vmdk".to_owned(), text.into_bytes()), ("disk-delta.vmdk".to_owned(), extent.build())];
    let content = layer.content();
    Image { name: "disk.vmdk".to_owned(), cid: 0x1234_abcd, files, layer, content }
}

/// Disks of VMware 2 and 3, whose parents are of the same sort.
fn hosted_cowd(top: Top, has_parent: bool, rng: &mut Rng) -> Vec<Image> {
    let mut links: Vec<Image> = Vec::new();
    let names: &[&str] = if has_parent { &["base.vmdk", "disk.vmdk"] } else { &["disk.vmdk"] };
    for name in names {
        let parent = links.last();
        let derived = |extent: CowdImage| match parent {
            Some(parent) => extent.parent(parent.name.as_str(), GENERATION),
            None => extent.generation(GENERATION),
        };
        let extents: Vec<CowdImage> = match top {
            Top::Vmware2 => vec![derived(CowdImage::vmware2(top.capacity())).random(rng)],
            Top::Vmware3 => vec![derived(CowdImage::vmware3(top.capacity())).random(rng)],
            _ => {
                let file = |(number, &size): (u32, &u64)| {
                    derived(CowdImage::vmware3(size)).file_of(number, 3, top.capacity(), VMWARE3[0]).random(rng)
                };
                (0..).zip(&VMWARE3).map(file).collect()
            }
        };
        let image = Image::hosted_cowd(name, &extents, parent);
        links.push(image);
    }
    links
}

/// Why a write of `count` sectors from `start` on must be refused, if it must be: an extent takes no writes, or
/// nothing but zeros.
pub(crate) fn is_refused(image: &VmdkImage, start: u64, count: u64, is_zero: impl Fn(u64, u64) -> bool) -> bool {
    image.chain()[0].extents().iter().any(|extent| {
        let first = extent.start_sector().max(start);
        let end = (extent.start_sector() + extent.sectors()).min(start + count);
        let takes = match (extent.access(), extent.kind()) {
            (Access::ReadWrite, ExtentKind::Zero) => first >= end || is_zero(first, end),
            (access, _) => access == Access::ReadWrite,
        };
        first < end && !takes
    })
}
