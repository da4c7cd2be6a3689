//! Disks with much to gain: grains of zeros, grains that say what the parent says, and space that nothing names.

use std::ops::ControlFlow;

use vmdk::{
    BlockDevice, CacheMode, CompactMode, CompactReport, CopyProgress, Directory, OpenOptions, Resolve, Result, Storage,
};

use super::support::check::{Report, check_file};
use super::support::cowd::CowdImage;
use super::support::crash::CrashDisk;
use super::support::disk::{Disk, Image, Kind};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;
use super::support::{SECTOR, byte_range, index};

pub(crate) const MODES: [CompactMode; 2] = [CompactMode::Punch, CompactMode::Move];

/// Goes on, whatever there is to say.
pub(crate) fn go_on(_: CopyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A disk before it is compacted.
pub(crate) struct Stage {
    pub(crate) name: String,
    /// The names of the files of its own link.
    pub(crate) own: Vec<String>,
    pub(crate) content: Vec<u8>,
    /// What is below it; empty without a parent.
    pub(crate) below: Vec<u8>,
    files: Vec<(String, Vec<u8>)>,
}

impl Stage {
    /// A disk of a kind, in which much is zero, or as in its parent.
    pub(crate) fn of(kind: Kind, seed: u64) -> Self {
        Self::scribbled(kind.disk(seed).links, seed)
    }

    /// A disk as it is.
    pub(crate) fn new(image: Image) -> Self {
        Self::unwritten(vec![image])
    }

    /// Such a disk of a few grains: every state of it can be looked at.
    pub(crate) fn small(with_parent: bool, zero_grains: bool, seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let sectors = 8 * 12 + 3;
        let extent = SparseImage::new(sectors).grain_sectors(8).entries_per_table(128);
        let extent = if zero_grains { extent.with_zero_grains() } else { extent };
        let fill = |extent: SparseImage, grain| extent.data(grain, rng.bytes(8 * SECTOR));
        let extent = [11, 2, 7, 4, 0, 9, 5].into_iter().fold(extent, fill);
        let links = if with_parent {
            let base = Image::monolithic_flat("base.vmdk", rng.bytes(index(sectors) * SECTOR));
            let child = Image::child(&base, "disk.vmdk", extent);
            vec![base, child]
        } else {
            vec![Image::monolithic_sparse("disk.vmdk", extent)]
        };
        Self::scribbled(links, seed)
    }

    /// A delta of ESX with what its parent has in its first grains, which lie in front of its second table.
    pub(crate) fn delta(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let base = Image::vmfs("base.vmdk", rng.bytes(4200 * SECTOR));
        let delta = Image::esx_delta(&base, "disk.vmdk", &CowdImage::esx(4200));
        let mut stage = Self::unwritten(vec![base, delta]);
        let disk = stage.disk();
        let image = OpenOptions::new().write(true).open_with(&stage.name, &disk).unwrap();
        let same = stage.below_at(0, 60);
        for (start, bytes) in [(0, same), (4100, rng.bytes(3 * SECTOR))] {
            image.write_sectors(start, &bytes).unwrap();
            stage.content[byte_range(start, (bytes.len() / SECTOR) as u64)].copy_from_slice(&bytes);
        }
        image.close().unwrap();
        stage.files = disk.names().into_iter().map(|name| (name.clone(), disk.live(&name))).collect();
        stage
    }

    fn scribbled(links: Vec<Image>, seed: u64) -> Self {
        let mut stage = Self::unwritten(links);
        stage.scribble(&mut Rng::new(seed ^ 0x5eed));
        stage
    }

    fn unwritten(links: Vec<Image>) -> Self {
        let Disk { content, links, .. } = Disk::new(links);
        let last = links.last().unwrap();
        let (name, own) = (last.name.clone(), last.files.iter().map(|(name, _)| name.clone()).collect());
        let below = links.len().checked_sub(2).map(|below| links[below].content.clone()).unwrap_or_default();
        let files = links.iter().flat_map(|link| link.files.clone()).collect();
        Self { name, own, content, below, files }
    }

    /// Writes zeros, and what the parent has.
    fn scribble(&mut self, rng: &mut Rng) {
        let disk = self.disk();
        let image = OpenOptions::new().write(true).open_with(&self.name, &disk).unwrap();
        let capacity = image.capacity_sectors();
        for round in 0..24 {
            let start = rng.below(capacity);
            let count = 1 + rng.below((capacity - start).min(1 + capacity / 8));
            let bytes = match round % 3 {
                0 => vec![0; index(count) * SECTOR],
                1 => self.below_at(start, count),
                _ => rng.bytes(index(count) * SECTOR),
            };
            // Some of a disk may be read-only.
            if image.write_sectors(start, &bytes).is_ok() {
                self.content[byte_range(start, count)].copy_from_slice(&bytes);
            }
        }
        image.close().unwrap();
        self.files = disk.names().into_iter().map(|name| (name.clone(), disk.live(&name))).collect();
    }

    pub(crate) fn below_at(&self, start: u64, count: u64) -> Vec<u8> {
        let mut bytes = vec![0; index(count) * SECTOR];
        let below = self.below.get(index(start) * SECTOR..).unwrap_or_default();
        let len = below.len().min(bytes.len());
        bytes[..len].copy_from_slice(&below[..len]);
        bytes
    }

    /// The files on a computer that can lose its power.
    pub(crate) fn disk(&self) -> CrashDisk {
        CrashDisk::new(self.files.iter().map(|(name, bytes)| (&**name, bytes.clone())))
    }

    pub(crate) fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }

    /// Compacts it, whatever becomes of a guest's writes.
    pub(crate) fn compact(&self, place: &dyn Directory, mode: CompactMode) -> Result<CompactReport> {
        let options = OpenOptions::new().cache_mode(CacheMode::Unsafe);
        options.compact_in(&self.name, place, mode, &mut go_on)
    }

    /// What a guest reads.
    pub(crate) fn read(&self, files: &dyn Resolve) -> Result<Vec<u8>> {
        let image = OpenOptions::new().open_with(&self.name, files)?;
        let mut content = vec![0; index(image.capacity_sectors()) * SECTOR];
        image.read_sectors(0, &mut content)?;
        Ok(content)
    }

    /// What the judge of tables says of the sparse files.
    pub(crate) fn reports(&self, disk: &CrashDisk) -> Vec<Report> {
        let files = self.own.iter().map(|name| disk.storage(name));
        files.filter(|file| is_sparse(&**file)).map(|file| report(&*file)).collect()
    }
}

fn is_sparse(file: &dyn Storage) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && matches!(&magic, b"KDMV" | b"COWD")
}

fn report(file: &dyn Storage) -> Report {
    check_file(file.len().unwrap(), &|buf, offset| file.read_exact_at(buf, offset).unwrap())
}
