//! Chains of disks, and what is done to them.

use std::ops::ControlFlow;

use vmdk::{CopyProgress, Directory, OpenOptions, RebaseMode, Resolve, Result};

use super::support::SECTOR;
use super::support::cowd::CowdImage;
use super::support::crash::CrashDisk;
use super::support::descriptor::DescriptorText;
use super::support::disk::{Image, Part, beside};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;

/// The name of a child of the disk that something is done to.
pub(crate) const ABOVE: &str = "above.vmdk";

/// Where the files are.
pub(crate) trait Place: Directory + Resolve {}

impl<P: Directory + Resolve> Place for P {}

/// What is done.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Into the link with this number below the youngest.
    Commit(usize),
    Flatten,
    /// Over the image with this name.
    Rebase(String),
}

/// A chain, other disks beside it, and what is done to it.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) what: String,
    /// The base first.
    pub(crate) links: Vec<Image>,
    /// Other disks: children of links that a commit changes, and new parents.
    pub(crate) others: Vec<Image>,
    pub(crate) operation: Operation,
    /// Whether it had been begun before. Then the parent is another disk already when it gets one more content ID, and
    /// other programs refuse the pair until the child says so.
    pub(crate) goes_on: bool,
}

type Progress<'a> = &'a mut dyn FnMut(CopyProgress) -> ControlFlow<()>;

impl Scene {
    pub(crate) fn new(what: &str, links: Vec<Image>, operation: Operation) -> Self {
        Self { what: what.to_owned(), links, others: Vec::new(), operation, goes_on: false }
    }

    /// With a second child of the link with this number from the base.
    fn with_sibling(mut self, of: usize, extent: SparseImage) -> Self {
        let name = format!("sibling-{of}.vmdk");
        self.others.push(Image::child(&self.links[of], &name, extent));
        self
    }

    /// With a child of the disk itself, which stays good whatever is done.
    fn with_child(mut self, extent: SparseImage) -> Self {
        self.others.push(Image::child(self.leaf(), ABOVE, extent));
        self
    }

    pub(crate) fn leaf(&self) -> &Image {
        &self.links[self.links.len() - 1]
    }

    /// The link from the youngest down.
    pub(crate) fn link(&self, depth: usize) -> &Image {
        &self.links[self.links.len() - 1 - depth]
    }

    /// Every file with its content before.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.links.iter().chain(&self.others).flat_map(|image| image.files.clone()).collect()
    }

    /// The files on a computer that can lose its power.
    pub(crate) fn disk(&self) -> CrashDisk {
        let files = self.files();
        CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())))
    }

    pub(crate) fn run(&self, place: &dyn Place) -> Result<()> {
        self.run_with(place, &mut |_| ControlFlow::Continue(()))
    }

    pub(crate) fn run_with(&self, place: &dyn Place, progress: Progress<'_>) -> Result<()> {
        self.run_as(&OpenOptions::new(), place, progress)
    }

    pub(crate) fn run_as(&self, options: &OpenOptions, place: &dyn Place, progress: Progress<'_>) -> Result<()> {
        let name = &self.leaf().name;
        match &self.operation {
            Operation::Commit(base) => options.commit_in(name, place, *base, progress).map(drop),
            Operation::Flatten => options.flatten_in(name, place, progress).map(drop),
            Operation::Rebase(parent) => {
                options.rebase_in(name, place, Some(parent), RebaseMode::Safe, progress).map(drop)
            }
        }
    }
}

/// A sparse extent with grains of 8 sectors and two tables.
fn small(rng: &mut Rng, capacity: u64) -> SparseImage {
    SparseImage::new(capacity).grain_sectors(8).entries_per_table(128).random(rng)
}

fn zeroing(rng: &mut Rng, capacity: u64, grain: u64) -> SparseImage {
    SparseImage::new(capacity).grain_sectors(grain).entries_per_table(128).with_zero_grains().random(rng)
}

fn bytes(rng: &mut Rng, sectors: usize) -> Vec<u8> {
    rng.bytes(sectors * SECTOR)
}

/// What changes in the texts lies in several sectors of them.
fn with_long_descriptors(rng: &mut Rng, operation: Operation) -> Scene {
    let long = |text: DescriptorText| {
        text.ddb("comment", "x".repeat(600)).ddb("longContentID", "0123456789abcdef0123456789abcdef")
    };
    let base = Image::embedded("base.vmdk", small(rng, 8 * 10), None, long);
    let child = Image::embedded("disk.vmdk", zeroing(rng, 8 * 10, 8), Some(&base), long);
    Scene::new("long descriptors", vec![base, child], operation)
}

/// Chains for commits, flat, sparse, split and of ESX.
pub(crate) fn commits(seed: u64) -> Vec<Scene> {
    let rng = &mut Rng::new(seed);
    let mut scenes = Vec::new();

    let base = Image::monolithic_sparse("base.vmdk", small(rng, 8 * 20 + 3));
    let child = Image::child(&base, "disk.vmdk", zeroing(rng, 8 * 20 + 3, 8));
    let sibling = zeroing(rng, 8 * 20 + 3, 8);
    let scene = Scene::new("sparse into sparse", vec![base, child], Operation::Commit(1)).with_sibling(0, sibling);
    scenes.push(scene.with_child(small(&mut Rng::new(seed + 1000), 8 * 20 + 3)));

    let base = Image::monolithic_flat("base.vmdk", bytes(rng, 150));
    let child = Image::child(&base, "disk.vmdk", zeroing(rng, 150, 16));
    let sibling = small(rng, 150);
    scenes.push(Scene::new("sparse into flat", vec![base, child], Operation::Commit(1)).with_sibling(0, sibling));

    let base = Image::split_sparse("base.vmdk", &[8 * 6, 8 * 4 + 1, 8 * 5 + 3].map(|capacity| small(rng, capacity)));
    let parts = [8 * 6, 8 * 4 + 1, 8 * 5 + 3].map(|capacity| zeroing(rng, capacity, 8));
    let parts =
        (1..).zip(&parts).map(|(number, part)| Part::sparse(&beside("disk.vmdk", &format!("-s{number:03}")), part));
    let child = Image::link_of_parts("disk.vmdk", "twoGbMaxExtentSparse", parts.collect(), Some(&base));
    let sibling = small(rng, 8 * 15 + 4);
    scenes.push(Scene::new("split into split", vec![base, child], Operation::Commit(1)).with_sibling(0, sibling));

    let base = Image::monolithic_sparse("base.vmdk", zeroing(rng, 32 * 9, 32));
    let child = Image::child(&base, "disk.vmdk", small(rng, 8 * 21 + 5));
    let sibling = zeroing(rng, 32 * 9, 8);
    scenes.push(Scene::new("small into large", vec![base, child], Operation::Commit(1)).with_sibling(0, sibling));

    let base = Image::vmfs("base.vmdk", bytes(rng, 77));
    let delta = CowdImage::esx(77).random(rng);
    let delta = Image::esx_delta(&base, "disk.vmdk", &delta);
    let sibling = small(rng, 77);
    let scene = Scene::new("delta of ESX", vec![base, delta], Operation::Commit(1)).with_sibling(0, sibling);
    scenes.push(scene.with_child(small(&mut Rng::new(seed + 1000), 77)));

    let base = Image::monolithic_flat("base.vmdk", bytes(rng, 8 * 18));
    let middle = Image::child(&base, "middle.vmdk", small(rng, 8 * 18));
    let leaf = Image::child(&middle, "disk.vmdk", zeroing(rng, 8 * 18, 16));
    let sibling = small(rng, 8 * 18);
    let chain = vec![base, middle, leaf];
    scenes.push(Scene::new("into a child", chain.clone(), Operation::Commit(1)).with_sibling(1, sibling.clone()));
    let run = Scene::new("a run of two", chain, Operation::Commit(2));
    scenes.push(run.with_sibling(1, sibling).with_sibling(0, small(rng, 8 * 18)));

    let sibling = small(rng, 8 * 10);
    scenes.push(with_long_descriptors(rng, Operation::Commit(1)).with_sibling(0, sibling));
    scenes
}

/// Chains that become independent.
pub(crate) fn flattenings(seed: u64) -> Vec<Scene> {
    let rng = &mut Rng::new(seed);
    let mut scenes = Vec::new();

    let base = Image::monolithic_flat("base.vmdk", bytes(rng, 8 * 15 + 3));
    let child = Image::child(&base, "disk.vmdk", zeroing(rng, 8 * 20, 8));
    scenes.push(Scene::new("larger over flat", vec![base, child], Operation::Flatten));

    let base = Image::monolithic_sparse("base.vmdk", small(rng, 8 * 20));
    let middle = Image::child(&base, "middle.vmdk", zeroing(rng, 8 * 12 + 2, 16));
    let leaf = Image::child(&middle, "disk.vmdk", small(rng, 8 * 20));
    let scene = Scene::new("over two", vec![base, middle, leaf], Operation::Flatten);
    scenes.push(scene.with_child(small(&mut Rng::new(seed + 1000), 8 * 20)));

    let base = Image::split_sparse("base.vmdk", &[8 * 6, 8 * 4 + 1, 8 * 5 + 3].map(|capacity| small(rng, capacity)));
    let parts = [8 * 3 + 5, 8 * 7 + 1, 8 * 4].map(|capacity| zeroing(rng, capacity, 8));
    let parts =
        (1..).zip(&parts).map(|(number, part)| Part::sparse(&beside("disk.vmdk", &format!("-s{number:03}")), part));
    let child = Image::link_of_parts("disk.vmdk", "twoGbMaxExtentSparse", parts.collect(), Some(&base));
    scenes.push(Scene::new("split over split", vec![base, child], Operation::Flatten));
    scenes.push(with_long_descriptors(rng, Operation::Flatten));
    scenes
}

/// Chains that get another base.
pub(crate) fn rebases(seed: u64) -> Vec<Scene> {
    let rng = &mut Rng::new(seed);
    let mut scenes = Vec::new();
    let to_other = || Operation::Rebase("other.vmdk".to_owned());

    // Two bases that are alike in part.
    let content = bytes(rng, 8 * 20);
    let mut changed = content.clone();
    for grain in [0, 3, 4, 11, 19] {
        changed[grain * 8 * SECTOR..][..8 * SECTOR].copy_from_slice(&bytes(rng, 8));
    }
    changed[14 * 8 * SECTOR..16 * 8 * SECTOR].fill(0);
    for extent in [zeroing(rng, 8 * 20, 8), small(rng, 8 * 20)] {
        let base = Image::monolithic_flat("base.vmdk", changed.clone());
        let child = Image::child(&base, "disk.vmdk", extent);
        let mut scene = Scene::new("flat to flat", vec![base, child], to_other());
        scene.others.push(Image::monolithic_flat("other.vmdk", content.clone()));
        scenes.push(scene.with_child(small(&mut Rng::new(seed + 1000), 8 * 20)));
    }

    // To a larger one and a smaller one, with other grains.
    for capacity in [16 * 14 + 3, 16 * 5 + 1] {
        let base = Image::monolithic_sparse("base.vmdk", small(rng, 8 * 17));
        let child = Image::child(&base, "disk.vmdk", zeroing(rng, 8 * 20 + 1, 8));
        let mut scene = Scene::new("sparse to another size", vec![base, child], to_other());
        let other = SparseImage::new(capacity).grain_sectors(16).random(rng);
        scene.others.push(Image::monolithic_sparse("other.vmdk", other));
        scenes.push(scene);
    }

    // A delta of ESX.
    let base = Image::vmfs("base.vmdk", bytes(rng, 60));
    let delta = Image::esx_delta(&base, "disk.vmdk", &CowdImage::esx(60).random(rng));
    let mut scene = Scene::new("delta of ESX", vec![base, delta], to_other());
    scene.others.push(Image::vmfs("other.vmdk", bytes(rng, 60)));
    scenes.push(scene);

    // A disk without a parent gets one.
    let base = Image::monolithic_sparse("disk.vmdk", zeroing(rng, 8 * 20, 8));
    let mut scene = Scene::new("a base over another", vec![base], to_other());
    scene.others.push(Image::monolithic_sparse("other.vmdk", small(rng, 8 * 20)));
    scenes.push(scene);

    // The name of the new parent is longer, so that all behind it moves.
    let mut scene = with_long_descriptors(rng, Operation::Rebase("another-one.vmdk".to_owned()));
    scene.others.push(Image::monolithic_sparse("another-one.vmdk", small(rng, 8 * 10)));
    scenes.push(scene);
    scenes
}

/// All of them.
pub(crate) fn all(seed: u64) -> Vec<Scene> {
    [commits(seed), flattenings(seed), rebases(seed)].concat()
}
