//! Disks to resize, and what a guest must read of them then.

use std::ops::ControlFlow;

use vmdk::{
    BlockDevice, CacheMode, CopyProgress, Directory, OpenOptions, ResizeOptions, ResizeReport, Resolve, Result, Storage,
};

use super::support::check::{Report, check_file};
use super::support::cowd::CowdImage;
use super::support::crash::CrashDisk;
use super::support::disk::{Disk, Image, Kind};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;
use super::support::{SECTOR, index};

/// Goes on, whatever there is to say.
pub(crate) fn go_on(_: CopyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A disk before it is resized.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

impl Stage {
    /// A disk of a kind.
    pub(crate) fn of(kind: Kind, seed: u64) -> Self {
        Self::new(kind.disk(seed).links)
    }

    pub(crate) fn new(links: Vec<Image>) -> Self {
        let Disk { content, links, .. } = Disk::new(links);
        let name = links.last().unwrap().name.clone();
        Self { name, content, files: links.into_iter().flat_map(|link| link.files).collect() }
    }

    /// A small disk whose next tables begin soon, with grains in an order of their own.
    pub(crate) fn small(seed: u64) -> Self {
        Self::new(vec![Image::monolithic_sparse("disk.vmdk", small(8 * 12 + 3, false, &mut Rng::new(seed)))])
    }

    /// Such a child of a larger parent.
    pub(crate) fn child(zero_grains: bool, of_parent: u64, seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let base = Image::monolithic_flat("base.vmdk", rng.bytes(index(of_parent) * SECTOR));
        let child = Image::child(&base, "disk.vmdk", small(8 * 12 + 3, zero_grains, rng));
        Self::new(vec![base, child])
    }

    /// A child of VMware 2 or 3 over a parent of VMware 3 with so many sectors.
    pub(crate) fn hosted_child(child: CowdImage, of_parent: u64, seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let base = CowdImage::vmware3(of_parent).grain_sectors(8).generation(5).random(rng);
        let base = Image::hosted_cowd("base.vmdk", &[base.data(0, rng.bytes(9))], None);
        let child = hosted(child.parent("base.vmdk", 5), rng);
        Self::new(vec![base.clone(), Image::hosted_cowd("disk.vmdk", &[child], Some(&base))])
    }

    /// Disks whose size stands in their headers alone.
    pub(crate) fn without_descriptor(seed: u64) -> Vec<(&'static str, Self)> {
        let rng = &mut Rng::new(seed);
        let bare = small(8 * 12 + 3, false, rng);
        let of_one = |extent: CowdImage| Self::new(vec![Image::hosted_cowd("disk.vmdk", &[extent], None)]);
        let last = CowdImage::vmware3(90).file_of(1, 2, 100 + 90, 5000);
        let first = CowdImage::vmware3(100).file_of(0, 2, 100 + 90, 100);
        let files = [hosted(first, rng), hosted(last, rng)];
        let mut sparse = Self::new(vec![Image::monolithic_sparse("disk.vmdk", bare.clone())]);
        sparse.files[0].1 = bare.build();
        vec![
            ("VMware 2", of_one(hosted(CowdImage::vmware2(8 * 512 + 90), rng))),
            ("VMware 3", of_one(hosted(CowdImage::vmware3(103), rng))),
            ("a child", Self::hosted_child(CowdImage::vmware3(104), 80, seed)),
            ("a child of a larger parent", Self::hosted_child(CowdImage::vmware3(104), 200, seed)),
            ("two files", Self::new(vec![Image::hosted_cowd("disk.vmdk", &files, None)])),
            ("an extent", sparse),
        ]
    }

    pub(crate) fn sectors(&self) -> u64 {
        (self.content.len() / SECTOR) as u64
    }

    /// The files on a computer that can lose its power.
    pub(crate) fn disk(&self) -> CrashDisk {
        CrashDisk::new(self.files.iter().map(|(name, bytes)| (&**name, bytes.clone())))
    }

    /// Gives it another size, whatever becomes of a guest's writes.
    pub(crate) fn resize(&self, place: &dyn Directory, sectors: u64) -> Result<ResizeReport> {
        let options = ResizeOptions::new().allow_shrink(sectors < self.sectors());
        let open = Self::options().cache_mode(CacheMode::Unsafe);
        open.resize_in(&self.name, place, sectors, options, &mut go_on)
    }

    /// How it is opened: some of these disks are an extent by itself.
    pub(crate) fn options() -> OpenOptions {
        OpenOptions::new().allow_bare_extent(true)
    }

    /// What a guest reads.
    pub(crate) fn read(&self, files: &dyn Resolve) -> Result<Vec<u8>> {
        let image = OpenOptions::new().open_with(&self.name, files)?;
        let mut content = vec![0; index(image.capacity_sectors()) * SECTOR];
        image.read_sectors(0, &mut content)?;
        Ok(content)
    }

    /// What a guest must read when it has so many sectors.
    pub(crate) fn expected(&self, sectors: u64) -> Vec<u8> {
        let mut content = self.content.clone();
        content.resize(index(sectors) * SECTOR, 0);
        content
    }

    /// Makes the disk end with so many zeros.
    pub(crate) fn zero_end(&mut self, sectors: u64) {
        let disk = self.disk();
        let image = Self::options().write(true).open_with(&self.name, &disk).unwrap();
        let start = self.sectors() - sectors;
        image.write_sectors(start, &vec![0; index(sectors) * SECTOR]).unwrap();
        image.close().unwrap();
        self.content[index(start) * SECTOR..].fill(0);
        self.files = disk.names().into_iter().map(|name| (name.clone(), disk.live(&name))).collect();
    }
}

/// Grains of 8 sectors, in an order of their own.
fn hosted(extent: CowdImage, rng: &mut Rng) -> CowdImage {
    let extent = extent.grain_sectors(8).generation(3);
    [9, 2, 7, 4, 0].into_iter().fold(extent, |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)))
}

/// Grains of 8 sectors, tables of 128.
fn small(sectors: u64, zero_grains: bool, rng: &mut Rng) -> SparseImage {
    let extent = SparseImage::new(sectors).grain_sectors(8).entries_per_table(128);
    let extent = if zero_grains { extent.with_zero_grains() } else { extent };
    [11, 2, 7, 4, 0].into_iter().fold(extent, |extent, grain| extent.data(grain, rng.bytes(8 * SECTOR)))
}

/// What the judge of tables says of all sparse files.
pub(crate) fn reports(disk: &CrashDisk) -> Vec<(String, Report)> {
    let files = disk.names().into_iter().filter(|name| !name.starts_with('.'));
    let files = files.map(|name| (disk.storage(&name), name)).filter(|(file, _)| is_sparse(&**file));
    files.map(|(file, name)| (name, report(&*file))).collect()
}

fn is_sparse(file: &dyn Storage) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && matches!(&magic, b"KDMV" | b"COWD")
}

fn report(file: &dyn Storage) -> Report {
    check_file(file.len().unwrap(), &|buf, offset| file.read_exact_at(buf, offset).unwrap())
}
