//! Whole images: descriptor, extents and what a guest must see, in memory and in a directory.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::cowd::CowdImage;
use super::descriptor::DescriptorText;
use super::layer::Layer;
use super::rng::Rng;
use super::sparse::SparseImage;
use super::{SECTOR, index};

/// One link of a chain: its files, and what they say.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file to open.
    pub name: String,
    /// The content ID.
    pub cid: u32,
    /// All files, the one to open first.
    pub files: Vec<(String, Vec<u8>)>,
    /// What this link says of its sectors.
    pub layer: Layer,
    /// What a guest sees: this link over its parents.
    pub content: Vec<u8>,
}

/// An extent in a text descriptor.
#[derive(Clone, Debug)]
pub struct Part {
    line: String,
    file: Option<(String, Vec<u8>)>,
    layer: Layer,
}

impl Part {
    /// A sparse extent, in a file of its own.
    pub fn sparse(file: &str, extent: &SparseImage) -> Self {
        let layer = extent.layer();
        let line = format!("RW {} SPARSE \"{file}\"", layer.capacity());
        Self { line, file: Some((file.to_owned(), extent.build())), layer }
    }

    /// A flat extent that is a whole file.
    pub fn flat(file: &str, content: Vec<u8>) -> Self {
        let line = format!("RW {} FLAT \"{file}\" 0", content.len() / SECTOR);
        Self { line, layer: Layer::full(&content), file: Some((file.to_owned(), content)) }
    }

    /// A flat extent that is a part of a file that another part brings along.
    pub fn flat_in(access: &str, file: &str, offset: u64, content: &[u8]) -> Self {
        let line = format!("{access} {} FLAT \"{file}\" {offset}", content.len() / SECTOR);
        Self { line, file: None, layer: Layer::full(content) }
    }

    /// Sectors that are zero and nowhere.
    pub fn zero(sectors: u64) -> Self {
        Self { line: format!("RW {sectors} ZERO"), file: None, layer: Layer::full(&vec![0; index(sectors) * SECTOR]) }
    }

    /// Sectors of a file that are not to be seen: the guest gets zeros.
    pub fn no_access(sectors: u64, file: &str, offset: u64) -> Self {
        let line = format!("NOACCESS {sectors} FLAT \"{file}\" {offset}");
        Self { line, ..Self::zero(sectors) }
    }

    /// Brings a file along.
    pub fn with_file(mut self, file: &str, bytes: Vec<u8>) -> Self {
        self.file = Some((file.to_owned(), bytes));
        self
    }
}

impl Image {
    /// A base with an embedded descriptor.
    pub fn monolithic_sparse(name: &str, extent: SparseImage) -> Self {
        Self::embedded(name, extent, None, |text| text)
    }

    /// A sparse link over `parent`, which it finds by a relative hint.
    pub fn child(parent: &Image, name: &str, extent: SparseImage) -> Self {
        Self::embedded(name, extent, Some(parent), |text| text)
    }

    /// A link with an embedded descriptor, which `change` may change.
    pub fn embedded(
        name: &str,
        extent: SparseImage,
        parent: Option<&Image>,
        change: impl FnOnce(DescriptorText) -> DescriptorText,
    ) -> Self {
        let (cid, layer) = (cid_of(name), extent.layer());
        let mut text = DescriptorText::new("monolithicSparse", cid)
            .extent(format!("RW {} SPARSE \"{name}\"", layer.capacity()))
            .ide_ddb(layer.capacity());
        if let Some(parent) = parent {
            text = text.parent(parent.cid, &parent.name);
        }
        let file = extent.descriptor(change(text).to_string()).build();
        let content = layer.over(parent.map_or(&[], |parent| &parent.content));
        Self { name: name.to_owned(), cid, files: vec![(name.to_owned(), file)], layer, content }
    }

    /// A base whose content is one flat file.
    pub fn monolithic_flat(name: &str, content: Vec<u8>) -> Self {
        let part = Part::flat(&beside(name, "-flat"), content);
        Self::of_parts(name, "monolithicFlat", vec![part])
    }

    /// A base as on a VMFS file system.
    pub fn vmfs(name: &str, content: Vec<u8>) -> Self {
        let flat = beside(name, "-flat");
        let mut part = Part::flat(&flat, content);
        part.line = format!("RW {} VMFS \"{flat}\"", part.layer.capacity());
        Self::of_parts(name, "vmfs", vec![part])
    }

    /// A base split into sparse extents.
    pub fn split_sparse(name: &str, extents: &[SparseImage]) -> Self {
        let part = |(number, extent)| Part::sparse(&beside(name, &format!("-s{number:03}")), extent);
        Self::of_parts(name, "twoGbMaxExtentSparse", (1..).zip(extents).map(part).collect())
    }

    /// A base split into flat extents.
    pub fn split_flat(name: &str, contents: Vec<Vec<u8>>) -> Self {
        let part = |(number, content)| Part::flat(&beside(name, &format!("-f{number:03}")), content);
        Self::of_parts(name, "twoGbMaxExtentFlat", (1..).zip(contents).map(part).collect())
    }

    /// A base with a text descriptor and the given extents.
    pub fn of_parts(name: &str, create_type: &str, parts: Vec<Part>) -> Self {
        Self::link_of_parts(name, create_type, parts, None)
    }

    /// A link with a text descriptor and the given extents, over `parent` if there is one.
    pub fn link_of_parts(name: &str, create_type: &str, parts: Vec<Part>, parent: Option<&Image>) -> Self {
        let cid = cid_of(name);
        let mut text = DescriptorText::new(create_type, cid);
        if let Some(parent) = parent {
            text = text.parent(parent.cid, &parent.name);
        }
        let mut layer = Layer::new(0);
        let mut files = Vec::new();
        for part in parts {
            text = text.extent(part.line);
            layer.append(&part.layer);
            files.extend(part.file);
        }
        let text = text.ide_ddb(layer.capacity()).to_string();
        files.insert(0, (name.to_owned(), text.into_bytes()));
        let content = layer.over(parent.map_or(&[], |parent| &parent.content));
        Self { name: name.to_owned(), cid, files, layer, content }
    }

    /// Writes all files into a directory; the path of the one to open.
    pub fn write_to(&self, dir: &Path) -> PathBuf {
        for (name, bytes) in &self.files {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        dir.join(&self.name)
    }
}

/// A chain of images in a directory that goes away with it.
#[derive(Debug)]
pub struct Disk {
    /// The file to open.
    pub path: PathBuf,
    /// What a guest sees.
    pub content: Vec<u8>,
    /// The links, the base first.
    pub links: Vec<Image>,
    dir: TempDir,
}

impl Disk {
    /// Lays out the links of a chain, the base first; the last one is to be opened.
    pub fn new(links: Vec<Image>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = links.iter().map(|link| link.write_to(dir.path())).collect();
        let path = paths.last().expect("at least one link").clone();
        let content = links[links.len() - 1].content.clone();
        Self { path, content, links, dir }
    }

    /// Puts a sparse child over the last link; it is to be opened now.
    pub fn with_child(mut self, name: &str, extent: SparseImage) -> Self {
        let parent = self.links.last().expect("at least one link");
        let child = Image::child(parent, name, extent);
        self.path = child.write_to(self.dir.path());
        self.content.clone_from(&child.content);
        self.links.push(child);
        self
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// The kinds of image, for tests that run over all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One file, embedded descriptor, grains of 128 sectors in random order, a partial last grain.
    MonolithicSparse,
    /// Version 2 with zero grains.
    ZeroGrains,
    /// Grains of 8 sectors, several tables, some of them absent.
    SmallGrains,
    /// Misaligned grains with gaps, the directory before the redundant one, a last grain that the file cuts.
    OddLayout,
    /// No redundant tables.
    NoRedundantTables,
    /// A text and a flat file.
    MonolithicFlat,
    /// A text and three sparse files of different sizes, the last one not a whole number of grains.
    TwoGbMaxExtentSparse,
    /// The same, where the extent in the middle is no whole number of grains either.
    RaggedSplit,
    /// A text and three flat files of different sizes.
    TwoGbMaxExtentFlat,
    /// A text and a flat file as ESX has them.
    Vmfs,
    /// Sparse, flat at an offset, zero, read-only and hidden extents in one.
    Custom,
    /// A sparse link with zero grains over a flat base of the same size.
    Child,
    /// A child with smaller grains that is larger than its parent.
    LargerChild,
    /// A child that is smaller than its parent.
    SmallerChild,
    /// Four links with different grain sizes, the one in the middle shorter than its neighbours.
    DeepChain,
    /// A delta of ESX with two tables over a flat base.
    EsxDelta,
    /// A disk of VMware 3 in three files, none a whole number of grains.
    Vmware3,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::MonolithicSparse,
        Self::ZeroGrains,
        Self::SmallGrains,
        Self::OddLayout,
        Self::NoRedundantTables,
        Self::MonolithicFlat,
        Self::TwoGbMaxExtentSparse,
        Self::RaggedSplit,
        Self::TwoGbMaxExtentFlat,
        Self::Vmfs,
        Self::Custom,
        Self::Child,
        Self::LargerChild,
        Self::SmallerChild,
        Self::DeepChain,
        Self::EsxDelta,
        Self::Vmware3,
    ];

    /// Whether `qemu-img` reads it. It knows no `custom` and no COWD without a descriptor, and reads on in the last
    /// grain of an extent where the next extent begins.
    pub fn qemu_reads_it(self) -> bool {
        !matches!(self, Self::Custom | Self::RaggedSplit | Self::Vmware3)
    }

    /// Whether a part of it takes no writes although the image does.
    pub fn has_read_only_parts(self) -> bool {
        self == Self::Custom
    }

    /// A disk of this kind with random content.
    pub fn disk(self, seed: u64) -> Disk {
        let rng = &mut Rng::new(seed);
        let sectors = |rng: &mut Rng, count: usize| rng.bytes(count * SECTOR);
        Disk::new(match self {
            Self::MonolithicSparse => {
                vec![Image::monolithic_sparse("disk.vmdk", SparseImage::new(128 * 20 + 37).random(rng))]
            }
            Self::ZeroGrains => {
                let extent = SparseImage::new(128 * 20).with_zero_grains().random(rng);
                vec![Image::monolithic_sparse("disk.vmdk", extent)]
            }
            Self::SmallGrains => {
                // Of the three tables, the middle one has no grain.
                let extent = SparseImage::new(8 * 512 * 2 + 8 * 9 + 3).grain_sectors(8).omit_empty_tables();
                let near = |rng: &mut Rng| (0..512).filter(|_| rng.chance(20)).chain(1024..1034).collect::<Vec<_>>();
                let mut grains = near(rng);
                rng.shuffle(&mut grains);
                let fill = |extent: SparseImage, grain| extent.data(grain, rng.bytes(8 * SECTOR));
                vec![Image::monolithic_sparse("disk.vmdk", grains.into_iter().fold(extent, fill))]
            }
            Self::OddLayout => {
                let extent = SparseImage::new(16 * 30 + 5).grain_sectors(16).grain_shift(1).grain_gap(3);
                let extent = extent.directory_first().random(rng).data(30, sectors(rng, 5)).cut_tail();
                vec![Image::monolithic_sparse("disk.vmdk", extent)]
            }
            Self::NoRedundantTables => {
                let extent = SparseImage::new(16 * 70).grain_sectors(16).without_redundant_tables().random(rng);
                vec![Image::monolithic_sparse("disk.vmdk", extent)]
            }
            Self::MonolithicFlat => vec![Image::monolithic_flat("disk.vmdk", sectors(rng, 999))],
            Self::TwoGbMaxExtentSparse | Self::RaggedSplit => {
                let ragged = u64::from(self == Self::RaggedSplit);
                let extents = [128 * 6, 128 * 4 + ragged, 128 * 3 + 50];
                let extents = extents.map(|capacity| SparseImage::new(capacity).random(rng));
                vec![Image::split_sparse("disk.vmdk", &extents)]
            }
            Self::TwoGbMaxExtentFlat => {
                let contents = vec![sectors(rng, 300), sectors(rng, 1), sectors(rng, 77)];
                vec![Image::split_flat("disk.vmdk", contents)]
            }
            Self::Vmfs => vec![Image::vmfs("disk.vmdk", sectors(rng, 640))],
            Self::Custom => vec![custom("disk.vmdk", |count| sectors(rng, count))],
            Self::Child => {
                let base = Image::monolithic_flat("base.vmdk", sectors(rng, 128 * 11 + 7));
                let extent = SparseImage::new(128 * 11 + 7).with_zero_grains().random(rng);
                let child = Image::child(&base, "disk.vmdk", extent);
                vec![base, child]
            }
            Self::LargerChild => {
                let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(128 * 4 + 9).random(rng));
                let extent = SparseImage::new(128 * 9).grain_sectors(16).with_zero_grains().random(rng);
                let child = Image::child(&base, "disk.vmdk", extent);
                vec![base, child]
            }
            Self::SmallerChild => {
                let base = Image::monolithic_sparse("base.vmdk", SparseImage::new(128 * 9).random(rng));
                let child = Image::child(&base, "disk.vmdk", SparseImage::new(128 * 4 + 9).random(rng));
                vec![base, child]
            }
            Self::DeepChain => {
                let extent = |capacity, grain, rng: &mut Rng| {
                    SparseImage::new(capacity).grain_sectors(grain).with_zero_grains().random(rng)
                };
                let base = Image::monolithic_sparse("base.vmdk", extent(128 * 8, 128, rng));
                let first = Image::child(&base, "disk-000001.vmdk", extent(128 * 8, 64, rng));
                let short = Image::child(&first, "disk-000002.vmdk", extent(128 * 5 + 3, 8, rng));
                let last = Image::child(&short, "disk-000003.vmdk", extent(128 * 8, 32, rng));
                vec![base, first, short, last]
            }
            Self::EsxDelta => {
                let base = Image::vmfs("base.vmdk", sectors(rng, 4096 + 77));
                let delta = CowdImage::esx(4096 + 77).random(rng);
                let delta = Image::esx_delta(&base, "base-000001.vmdk", &delta);
                vec![base, delta]
            }
            Self::Vmware3 => {
                let parts: [u64; 3] = [128 * 5 + 10, 128 * 3 + 1, 77];
                let file = |(number, &part): (u32, &u64)| {
                    CowdImage::vmware3(part).file_of(number, 3, parts.iter().sum(), part).random(rng)
                };
                let files: Vec<_> = (0..).zip(&parts).map(file).collect();
                vec![Image::hosted_cowd("disk.vmdk", &files, None)]
            }
        })
    }
}

/// A base of extents of all sorts; `fill` makes the content of so many sectors.
pub fn custom(name: &str, mut fill: impl FnMut(usize) -> Vec<u8>) -> Image {
    let flat_name = beside(name, "-flat");
    let sparse = SparseImage::new(16 * 12 + 5).grain_sectors(16);
    let sparse = [11, 0, 12, 4].iter().fold(sparse, |extent, &grain| {
        let count = if grain == 12 { 5 } else { 16 };
        extent.data(grain, fill(count))
    });
    // Four ranges of one flat file. The guest sees them in another order, and the hidden one not at all.
    let flat = fill(200);
    let range = |start: usize, end: usize| &flat[start * SECTOR..end * SECTOR];
    let parts = vec![
        Part::sparse(&beside(name, "-s001"), &sparse),
        Part::flat_in("RW", &flat_name, 100, range(100, 163)).with_file(&flat_name, flat.clone()),
        Part::zero(33),
        Part::flat_in("RDONLY", &flat_name, 0, range(0, 60)),
        Part::no_access(17, &flat_name, 60),
        Part::flat_in("RW", &flat_name, 180, range(180, 200)),
    ];
    Image::of_parts(name, "custom", parts)
}

/// The name of an extent: `disk.vmdk` and `-flat` make `disk-flat.vmdk`.
pub fn beside(name: &str, suffix: &str) -> String {
    format!("{}{suffix}.vmdk", name.strip_suffix(".vmdk").expect("a name that ends in .vmdk"))
}

/// A content ID that follows from the name (FNV-1a), so that images come out the same every time.
pub fn cid_of(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
