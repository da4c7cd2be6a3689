//! What makes images, and what may be in the way of it.

use std::ops::ControlFlow;

use vmdk::{BlockDevice, CreateOptions, CreateType, Directory, OpenOptions, Resolve, Result};

use super::support::crash::CrashDisk;
use super::support::disk::{Image, beside};
use super::support::model::MemoryDevice;
use super::support::rng::Rng;
use super::support::sparse::SparseImage;
use super::support::{SECTOR, index};

/// The name of every image that is made or replaced.
pub(crate) const NAME: &str = "disk.vmdk";

/// Sectors of the largest extent of a split disk: 2047 MiB.
pub(crate) const SPLIT: u64 = 2047 << 11;

/// Where images are made and opened.
pub(crate) trait Place: Directory + Resolve {}

impl<P: Directory + Resolve> Place for P {}

/// Something that makes an image.
pub(crate) struct Operation {
    /// For messages.
    pub(crate) what: String,
    pub(crate) made: Made,
    /// What it needs: parents and sources. They have to be there before, and stay as they are.
    pub(crate) needs: Vec<(String, Vec<u8>)>,
    options: CreateOptions,
    run: Box<Run>,
}

type Run = dyn Fn(&dyn Place, &CreateOptions) -> Result<()>;

/// The image that an operation makes.
pub(crate) struct Made {
    pub(crate) create_type: CreateType,
    pub(crate) capacity: u64,
    /// What the disk begins with; behind it is nothing but zeros.
    pub(crate) content: Vec<u8>,
    pub(crate) extents: Vec<Extent>,
}

/// The file of an extent.
pub(crate) struct Extent {
    pub(crate) name: String,
    pub(crate) sectors: u64,
    pub(crate) is_flat: bool,
}

/// The types that are created.
pub(crate) const ALL: [CreateType; 6] = [
    CreateType::MonolithicSparse,
    CreateType::MonolithicFlat,
    CreateType::TwoGbMaxExtentSparse,
    CreateType::TwoGbMaxExtentFlat,
    CreateType::Vmfs,
    CreateType::VmfsSparse,
];

/// Something for an image to hold: random bytes, zeros, and random bytes.
pub(crate) fn content() -> Vec<u8> {
    let rng = &mut Rng::new(78);
    [rng.bytes(9 * SECTOR), vec![0; 130 * SECTOR], rng.bytes(3 * SECTOR)].concat()
}

impl Operation {
    /// An empty image.
    pub(crate) fn empty(create_type: &CreateType, capacity: u64) -> Self {
        let options = CreateOptions::new().create_type(create_type.clone()).capacity_sectors(capacity);
        Self {
            what: format!("an empty {create_type} disk of {capacity} sectors"),
            made: Made::new(create_type, capacity),
            needs: Vec::new(),
            options,
            run: Box::new(|place, options| options.create_in(NAME, place)),
        }
    }

    /// An image that holds what a device does, and behind it zeros.
    pub(crate) fn filled(create_type: &CreateType, capacity: u64, content: Vec<u8>) -> Self {
        let source = MemoryDevice::new(content.clone());
        let filled = Self::empty(create_type, capacity);
        Self {
            what: format!("a {create_type} disk of {capacity} sectors with some content"),
            made: Made { content, ..filled.made },
            run: Box::new(move |place, options| {
                options.create_from_in(NAME, place, &source, &mut |_| ControlFlow::Continue(()))
            }),
            ..filled
        }
    }

    /// A child of a flat disk.
    pub(crate) fn child(create_type: &CreateType, content: Vec<u8>) -> Self {
        let parent = Image::monolithic_flat("base.vmdk", content.clone());
        let child = Self::empty(create_type, (content.len() / SECTOR) as u64);
        Self {
            what: format!("a {create_type} child"),
            made: Made { content, ..child.made },
            needs: parent.files,
            run: Box::new(|place, options| {
                let parent = OpenOptions::new().open_with("base.vmdk", place)?;
                // To close it is not part of making it.
                parent.create_child_in(NAME, place, options).map(std::mem::forget)
            }),
            ..child
        }
    }

    /// The same with other options.
    pub(crate) fn with(mut self, change: impl FnOnce(CreateOptions) -> CreateOptions) -> Self {
        self.options = change(self.options);
        self
    }

    /// Makes the image.
    pub(crate) fn run(&self, place: &dyn Place, replace: bool) -> Result<()> {
        (self.run)(place, &self.options.clone().replace(replace))
    }

    /// The names of all its files.
    pub(crate) fn names(&self) -> Vec<&str> {
        let apart = Some(NAME).filter(|_| !self.made.is_single());
        self.made.extents.iter().map(|extent| &*extent.name).chain(apart).collect()
    }
}

impl Made {
    fn new(create_type: &CreateType, capacity: u64) -> Self {
        let is_flat =
            matches!(create_type, CreateType::MonolithicFlat | CreateType::TwoGbMaxExtentFlat | CreateType::Vmfs);
        let extent = |name, sectors| Extent { name, sectors, is_flat };
        let split = |letter: char| {
            let sizes = (0..capacity.div_ceil(SPLIT)).map(|number| SPLIT.min(capacity - number * SPLIT));
            sizes
                .zip(1..)
                .map(|(sectors, number)| extent(beside(NAME, &format!("-{letter}{number:03}")), sectors))
                .collect()
        };
        let extents = match create_type {
            CreateType::TwoGbMaxExtentSparse => split('s'),
            CreateType::TwoGbMaxExtentFlat => split('f'),
            CreateType::MonolithicFlat | CreateType::Vmfs => vec![extent(beside(NAME, "-flat"), capacity)],
            CreateType::VmfsSparse => vec![extent(beside(NAME, "-delta"), capacity)],
            _ => vec![extent(NAME.to_owned(), capacity)],
        };
        Self { create_type: create_type.clone(), capacity, content: Vec::new(), extents }
    }

    /// Whether the descriptor is in the only extent.
    pub(crate) fn is_single(&self) -> bool {
        self.extents.iter().any(|extent| extent.name == NAME)
    }
}

/// An image that is there before.
pub(crate) struct Old {
    /// For messages.
    pub(crate) create_type: CreateType,
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) content: Vec<u8>,
}

impl Old {
    /// A small disk of each type, full of random bytes. Its extents have the names that those of a new one would have.
    pub(crate) fn of(create_type: &CreateType) -> Self {
        let rng = &mut Rng::new(77);
        let sparse = |rng: &mut Rng, grains: u64| {
            let extent = SparseImage::new(8 * grains).grain_sectors(8).entries_per_table(128);
            (0..grains).fold(extent, |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)))
        };
        let image = match create_type {
            CreateType::MonolithicSparse => Image::monolithic_sparse(NAME, sparse(rng, 2)),
            CreateType::MonolithicFlat => Image::monolithic_flat(NAME, rng.bytes(9 * SECTOR)),
            CreateType::TwoGbMaxExtentSparse => Image::split_sparse(NAME, &[sparse(rng, 1), sparse(rng, 2)]),
            CreateType::TwoGbMaxExtentFlat => {
                Image::split_flat(NAME, vec![rng.bytes(5 * SECTOR), rng.bytes(2 * SECTOR), rng.bytes(4 * SECTOR)])
            }
            CreateType::Vmfs => Image::vmfs(NAME, rng.bytes(7 * SECTOR)),
            _ => return Self::delta(rng),
        };
        Self { create_type: create_type.clone(), files: image.files, content: image.content }
    }

    /// There is no other builder of one without a parent.
    fn delta(rng: &mut Rng) -> Self {
        let disk = CrashDisk::new([]);
        Operation::empty(&CreateType::VmfsSparse, 12).run(&disk, false).unwrap();
        let content = rng.bytes(12 * SECTOR);
        let image = OpenOptions::new().write(true).open_with(NAME, &disk).unwrap();
        image.write_sectors(0, &content).unwrap();
        image.close().unwrap();
        let files = disk.names().into_iter().map(|name| (name.clone(), disk.live(&name))).collect();
        Self { create_type: CreateType::VmfsSparse, files, content }
    }

    /// Whether an opened image reads as this one.
    pub(crate) fn is_read_from(&self, image: &vmdk::VmdkImage) -> bool {
        let mut content = vec![0; self.content.len()];
        index(image.capacity_sectors()) * SECTOR == content.len()
            && image.create_type() == Some(&self.create_type)
            && image.read_sectors(0, &mut content).is_ok()
            && content == self.content
    }
}

/// An operation, and what is there before it.
pub(crate) struct Scene {
    pub(crate) operation: Operation,
    pub(crate) old: Option<Old>,
}

/// A file that has nothing to do with any of it.
const BYSTANDER: &str = "disk-notes.vmdk";

impl Scene {
    /// Nothing has the name.
    pub(crate) fn new(operation: Operation) -> Self {
        Self { operation, old: None }
    }

    /// An image is replaced.
    pub(crate) fn replacing(operation: Operation, old: &CreateType) -> Self {
        Self { operation, old: Some(Old::of(old)) }
    }

    /// The files that stay as they are whatever happens.
    pub(crate) fn bystanders(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = self.operation.needs.clone();
        files.push((BYSTANDER.to_owned(), b"notes".to_vec()));
        files
    }

    /// The files before, on a computer that can lose its power.
    pub(crate) fn disk(&self) -> CrashDisk {
        let old = self.old.iter().flat_map(|old| old.files.clone());
        let files: Vec<_> = self.bystanders().into_iter().chain(old).collect();
        CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())))
    }

    /// Carries it out.
    pub(crate) fn run(&self, place: &dyn Place) -> Result<()> {
        self.operation.run(place, self.old.is_some())
    }

    /// For messages.
    pub(crate) fn what(&self) -> String {
        let old = self.old.as_ref().map(|old| format!(" in place of a {} disk", old.create_type));
        format!("{}{}", self.operation.what, old.unwrap_or_default())
    }
}
