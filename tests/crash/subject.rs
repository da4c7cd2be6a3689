//! The disks that crash: small ones of every kind that is written to.
//!
//! Of a disk with grains, the grains 0, 2 and 5 have data and the others from 1 to 6 have not; grain 7 is for the
//! writes that come after a crash.

use std::collections::BTreeSet;

use super::support::cowd::{self, CowdImage};
use super::support::crash::CrashDisk;
use super::support::disk::{Image, Part};
use super::support::rng::Rng;
use super::support::sparse::{SparseImage, field};
use super::support::{SECTOR, byte_range, index};

/// Grains with data.
const FILLED: [u64; 3] = [0, 2, 5];

/// A disk before anything is written to it.
pub(crate) struct Subject {
    /// The names and contents of its files, those of its parents included.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// The file to open.
    pub(crate) name: String,
    /// What a guest sees.
    pub(crate) content: Vec<u8>,
    /// Sectors of a grain, or what the workloads are to take for that.
    pub(crate) grain: u64,
    /// The files with sparse extents that are written to.
    pub(crate) sparse: Vec<String>,
    /// Grains whose entries lie past the end of the file, before the first write.
    pub(crate) dead: BTreeSet<u64>,
    /// Whether copies of tables differ before the first write, although the disk claims to be clean.
    pub(crate) copies_differ: bool,
    /// A sector of a table that no workload writes to.
    pub(crate) elsewhere: Option<u64>,
}

impl Subject {
    fn new(links: &[Image], grain: u64) -> Self {
        let (last, parents) = links.split_last().unwrap();
        let is_sparse = |bytes: &[u8]| bytes.starts_with(b"KDMV") || bytes.starts_with(b"COWD");
        let sparse = last.files.iter().filter(|(_, bytes)| is_sparse(bytes)).map(|(name, _)| name.clone());
        let parents = parents.iter().flat_map(|parent| parent.files.clone());
        Self {
            sparse: sparse.collect(),
            files: last.files.iter().cloned().chain(parents).collect(),
            name: last.name.clone(),
            content: last.content.clone(),
            grain,
            dead: BTreeSet::new(),
            copies_differ: false,
            elsewhere: None,
        }
    }

    /// The files, on a computer that can lose its power.
    pub(crate) fn disk(&self) -> CrashDisk {
        CrashDisk::new(self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())))
    }

    /// Whether all that is written goes into one sparse extent.
    pub(crate) fn is_one_extent(&self) -> bool {
        self.sparse.len() == 1 && !self.files.iter().any(|(name, _)| name == "disk-f001.vmdk")
    }

    /// The first sector that no workload writes to. It has no grain.
    pub(crate) fn spare(&self) -> u64 {
        7 * self.grain
    }

    /// Eight grains and a part of one, of version 1 with redundant tables.
    pub(crate) fn hosted(grain: u64) -> Self {
        Self::new(&[base(hosted(grain))], grain)
    }

    /// The same, in version 2: entries of 1 are zeros.
    pub(crate) fn with_zero_grains() -> Self {
        Self::new(&[base(hosted(8).with_zero_grains().zero(6))], 8)
    }

    /// The same without redundant tables.
    pub(crate) fn without_copies() -> Self {
        Self::new(&[base(hosted(8).without_redundant_tables())], 8)
    }

    /// A disk without a grain, whose directories have no tables.
    pub(crate) fn without_tables() -> Self {
        let extent = SparseImage::new(64).grain_sectors(8).entries_per_table(128).omit_empty_tables();
        Self::new(&[base(extent)], 8)
    }

    /// A disk of two tables, of which the first is missing: the one with the grains from 0 to 127.
    pub(crate) fn without_first_table() -> Self {
        let extent = SparseImage::new(132).grain_sectors(1).entries_per_table(128).omit_empty_tables();
        let extent = extent.data(129, Rng::new(3).bytes(SECTOR));
        Self { elsewhere: Some(130), ..Self::new(&[base(extent)], 1) }
    }

    /// A sparse child of a flat parent that is a little shorter.
    pub(crate) fn child() -> Self {
        Self::child_of_flat(hosted(8))
    }

    /// The same with zero grains.
    pub(crate) fn child_with_zero_grains() -> Self {
        Self::child_of_flat(hosted(8).with_zero_grains().zero(6))
    }

    /// The same, with a child that has no table yet.
    pub(crate) fn fresh_child() -> Self {
        let extent = SparseImage::new(68).grain_sectors(8).entries_per_table(128).omit_empty_tables();
        Self::child_of_flat(extent)
    }

    fn child_of_flat(extent: SparseImage) -> Self {
        let parent = Image::monolithic_flat("base.vmdk", Rng::new(11).bytes(61 * SECTOR));
        let child = Image::child(&parent, "disk.vmdk", extent);
        Self::new(&[parent, child], 8)
    }

    /// A delta of ESX over a flat parent: grains of one sector, tables of 4096 entries.
    pub(crate) fn esx_delta() -> Self {
        Self::over_vmfs(&filled(FILLED, CowdImage::data, CowdImage::esx(64), 1), 1)
    }

    /// The same without any grain or table.
    pub(crate) fn fresh_esx_delta() -> Self {
        Self::over_vmfs(&CowdImage::esx(64), 1)
    }

    fn over_vmfs(delta: &CowdImage, grain: u64) -> Self {
        let parent = Image::vmfs("base.vmdk", Rng::new(12).bytes(64 * SECTOR));
        let delta = Image::esx_delta(&parent, "disk.vmdk", delta);
        Self::new(&[parent, delta], grain)
    }

    /// A disk of VMware 3, without a descriptor: tables of 512 entries.
    pub(crate) fn vmware3() -> Self {
        let extent = CowdImage::vmware3(8 * 8 + 3).grain_sectors(8);
        let extent = filled(FILLED, CowdImage::data, extent, 8);
        Self::new(&[Image::hosted_cowd("disk.vmdk", &[extent], None)], 8)
    }

    /// A text and two sparse extents; the border is within the grains that are written.
    pub(crate) fn split_sparse() -> Self {
        let mut rng = Rng::new(13);
        let mut extent = |grains: u64, filled: &[u64]| {
            let extent = SparseImage::new(8 * grains).grain_sectors(8).entries_per_table(128);
            filled.iter().fold(extent, |extent, &grain| extent.data(grain, rng.bytes(8 * SECTOR)))
        };
        // Grain 5 of the disk is grain 2 of the second extent.
        let extents = [extent(3, &[0, 2]), extent(5, &[2])];
        Self::new(&[Image::split_sparse("disk.vmdk", &extents)], 8)
    }

    /// A text and a flat file that is shorter than it should be.
    pub(crate) fn flat() -> Self {
        let content = Rng::new(14).bytes(64 * SECTOR);
        let mut subject = Self::new(&[Image::monolithic_flat("disk.vmdk", content)], 8);
        let (_, file) = subject.files.iter_mut().find(|(name, _)| name == "disk-flat.vmdk").unwrap();
        file.truncate(50 * SECTOR);
        subject.content[byte_range(50, 14)].fill(0);
        subject
    }

    /// A text, a flat extent and a sparse one.
    pub(crate) fn mixed() -> Self {
        let mut rng = Rng::new(15);
        let sparse = SparseImage::new(8 * 5).grain_sectors(8).entries_per_table(128).data(2, rng.bytes(8 * SECTOR));
        let parts = vec![Part::flat("disk-f001.vmdk", rng.bytes(24 * SECTOR)), Part::sparse("disk-s002.vmdk", &sparse)];
        Self::new(&[Image::of_parts("disk.vmdk", "custom", parts)], 8)
    }

    /// A disk whose last writer crashed: entries of two grains lie past the end of the file, one of them where the file
    /// will soon have something else; the redundant table has an entry less and one more.
    pub(crate) fn unclean() -> Self {
        Self::crashed(hosted(8).unclean(1))
    }

    /// The same, and a child.
    pub(crate) fn unclean_child() -> Self {
        let parent = Image::monolithic_flat("base.vmdk", Rng::new(11).bytes(61 * SECTOR));
        let make = |extent| Image::child(&parent, "disk.vmdk", extent);
        Self::damaged(hosted(8).unclean(1), make, vec![parent.clone()])
    }

    fn crashed(extent: SparseImage) -> Self {
        Self::damaged(extent, base, Vec::new())
    }

    fn damaged(extent: SparseImage, make: impl Fn(SparseImage) -> Image, parents: Vec<Image>) -> Self {
        // Only with a descriptor does everything stand where it will.
        let layout = extent.clone().descriptor("").layout();
        let number = |sector: u64| u32::try_from(sector).unwrap();
        let sound = make(extent.clone());
        let damaged = extent
            .patch_u32(layout.entry(1), number(layout.end.next_multiple_of(8)))
            .patch_u32(layout.entry(6), number(layout.end.next_multiple_of(8) + 800))
            .patch_u32(layout.redundant_entry(0), 0)
            .patch_u32(layout.redundant_entry(3), number(layout.grains[&2]));
        let image = Image { content: sound.content, ..make(damaged) };
        let links: Vec<Image> = parents.into_iter().chain([image]).collect();
        Self { dead: [1, 6].into(), ..Self::new(&links, 8) }
    }

    /// A disk whose last writer crashed before it had linked the redundant copy of its only table.
    pub(crate) fn without_copy_of_a_table() -> Self {
        let extent = hosted(8).unclean(1);
        let layout = extent.clone().descriptor("").layout();
        Self::new(&[base(extent.patch_u32(layout.rgd * SECTOR as u64, 0))], 8)
    }

    /// The same, but it claims to be clean.
    pub(crate) fn clean_without_copy_of_a_table() -> Self {
        let extent = hosted(8);
        let layout = extent.clone().descriptor("").layout();
        let image = base(extent.patch_u32(layout.rgd * SECTOR as u64, 0));
        Self { copies_differ: true, ..Self::new(&[image], 8) }
    }

    /// The other way round: only the redundant directory has the table, and nobody may believe what that says.
    pub(crate) fn with_nothing_but_a_copy() -> Self {
        let extent = SparseImage::new(64).grain_sectors(8).entries_per_table(128).unclean(1);
        let layout = extent.clone().descriptor("").layout();
        let extent = extent.patch_u32(layout.gd * SECTOR as u64, 0);
        Self::new(&[base(extent.patch_u32(layout.redundant_entry(4), u32::try_from(layout.overhead).unwrap()))], 8)
    }

    /// A COWD extent whose last writer crashed, with an entry past the end.
    pub(crate) fn unclean_vmware3() -> Self {
        let extent = CowdImage::vmware3(8 * 8 + 3).grain_sectors(8);
        let extent = filled(FILLED, CowdImage::data, extent, 8);
        let layout = extent.layout();
        let extent = extent.patch_u32(cowd::field::SAVED_GENERATION, 77);
        let content = extent.layer().content();
        let extent = extent.patch_u32(layout.entry(1), u32::try_from(layout.end + 1).unwrap());
        let image = Image { content, ..Image::hosted_cowd("disk.vmdk", &[extent], None) };
        Self { dead: [1].into(), ..Self::new(&[image], 8) }
    }
}

fn base(extent: SparseImage) -> Image {
    Image::monolithic_sparse("disk.vmdk", extent)
}

fn hosted(grain: u64) -> SparseImage {
    let extent = SparseImage::new(8 * grain + grain.div_ceil(3)).grain_sectors(grain).entries_per_table(128);
    filled(FILLED, SparseImage::data, extent, grain)
}

/// An extent with random data in some grains.
fn filled<E>(grains: [u64; 3], fill: impl Fn(E, u64, Vec<u8>) -> E, extent: E, grain_sectors: u64) -> E {
    let mut rng = Rng::new(10);
    let bytes = index(grain_sectors) * SECTOR;
    grains.into_iter().fold(extent, |extent, grain| fill(extent, grain, rng.bytes(bytes)))
}

/// The content ID that a descriptor has in a file, if there is one.
pub(crate) fn content_id(disk: &CrashDisk, name: &str) -> Option<u64> {
    // An embedded descriptor is near the beginning.
    let head = head(disk, name, 8 * SECTOR);
    let at = head.windows(5).position(|window| window == b"\nCID=")? + 5;
    let digits: Vec<u8> = head[at..].iter().copied().take_while(u8::is_ascii_hexdigit).collect();
    u64::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
}

/// Whether the byte of a hosted extent is set that says it was not closed.
pub(crate) fn claims_to_be_open(disk: &CrashDisk, name: &str) -> bool {
    let head = head(disk, name, SECTOR);
    head.starts_with(b"KDMV") && head[index(field::UNCLEAN)] != 0
}

fn head(disk: &CrashDisk, name: &str, most: usize) -> Vec<u8> {
    let file = disk.storage(name);
    let mut bytes = vec![0; index(file.len().unwrap()).min(most)];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
