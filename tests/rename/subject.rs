//! Disks, and what they are called afterwards.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use vmdk::{
    BlockDevice, CopyDiskOptions, CopyProgress, CreateOptions, CreateType, Directory, OpenOptions, RenameOptions,
    Result,
};

use super::support::SECTOR;
use super::support::cowd::CowdImage;
use super::support::crash::CrashDisk;
use super::support::disk::{Disk, Image, Kind, Part};
use super::support::index;
use super::support::rng::Rng;
use super::support::sparse::SparseImage;

/// What a disk is called afterwards.
pub(crate) const NEW: &str = "new name.vmdk";

/// A file that has nothing to do with any of it.
const BYSTANDER: (&str, &[u8]) = ("disk-notes.vmdk", b"notes");

/// A chain of which one link gets another name, or is copied.
pub(crate) struct Subject {
    pub(crate) what: String,
    /// All files, of all links.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// The files of the link, by their old names, with the new ones; its descriptor comes first.
    pub(crate) moved: Vec<(String, String)>,
    /// What the leaf is called, as long as that is not the link itself.
    pub(crate) child: Option<String>,
    /// What a guest reads from the leaf, and from the link itself.
    pub(crate) content: Vec<u8>,
    pub(crate) own_content: Vec<u8>,
    /// Whether somebody else's files have the new names, and are replaced.
    pub(crate) replaces: bool,
}

/// What is in somebody else's files.
pub(crate) const OTHERS: &[u8] = b"somebody else's";

/// Continues.
pub(crate) fn go_on(_: CopyProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl Subject {
    /// One link of a chain, the base first.
    pub(crate) fn link(what: &str, links: &[Image], number: usize) -> Self {
        let mut files: BTreeMap<_, _> = links.iter().flat_map(|link| link.files.clone()).collect();
        files.insert(BYSTANDER.0.to_owned(), BYSTANDER.1.to_vec());
        let (link, leaf) = (&links[number], &links[links.len() - 1]);
        assert!(number + 2 >= links.len(), "only the child of a disk follows it");
        let stem = |name: &str| name.strip_suffix(".vmdk").unwrap_or(name).to_owned();
        let renamed = |name: &str| name.replacen(&stem(&link.name), &stem(NEW), 1);
        Self {
            what: format!("{what}, {}", link.name),
            files,
            moved: link.files.iter().map(|(name, _)| (name.clone(), renamed(name))).collect(),
            child: Some(leaf.name.clone()).filter(|name| *name != link.name),
            content: leaf.content.clone(),
            own_content: link.content.clone(),
            replaces: false,
        }
    }

    /// The youngest link of a disk of a kind, and for chains of two also the base with its child.
    pub(crate) fn of_kind(kind: Kind) -> Vec<Self> {
        let Disk { links, .. } = kind.disk(11);
        let last = links.len() - 1;
        (last.saturating_sub(1)..=last).map(|number| Self::link(&format!("{kind:?}"), &links, number)).collect()
    }

    /// Small disks: in one file, in two, in four, one whose files have names of their own, and one without a
    /// descriptor.
    pub(crate) fn small() -> Vec<Self> {
        let rng = &mut Rng::new(5);
        let sparse =
            |rng: &mut Rng| SparseImage::new(16).grain_sectors(8).entries_per_table(128).data(1, rng.bytes(8 * SECTOR));
        let single = Image::monolithic_sparse("disk.vmdk", sparse(rng));
        let flat = Image::monolithic_flat("disk.vmdk", rng.bytes(3 * SECTOR));
        let split = Image::split_sparse("disk.vmdk", &[sparse(rng), sparse(rng), sparse(rng)]);
        let base = Image::vmfs("disk.vmdk", rng.bytes(16 * SECTOR));
        let child = Image::child(&base, "child.vmdk", sparse(rng));
        let small = CowdImage::esx(16).random(rng);
        let delta = Image::esx_delta(&base, "delta.vmdk", &small);
        let parts: [u64; 2] = [8, 8];
        let cowd = |(number, &part): (u32, &u64)| CowdImage::vmware3(part).file_of(number, 2, 16, part).random(rng);
        let cowd: Vec<_> = (0..).zip(&parts).map(cowd).collect();
        vec![
            Self::link("a disk in one file", &[single], 0),
            Self::link("a flat disk", &[flat], 0),
            Self::link("a split disk", &[split], 0),
            Self::link("a base with its child", &[base.clone(), child.clone()], 0),
            Self::link("a child", &[base.clone(), child], 1),
            Self::link("a base with a delta in two files", &[base.clone(), delta.clone()], 0),
            Self::link("a delta in two files", &[base, delta], 1),
            Self::link("a disk of VMware 3", &[Image::hosted_cowd("disk.vmdk", &cowd, None)], 0),
        ]
    }

    /// The types that the crate makes, and a stream.
    pub(crate) fn created() -> Vec<Self> {
        let types = [
            CreateType::MonolithicSparse,
            CreateType::MonolithicFlat,
            CreateType::TwoGbMaxExtentSparse,
            CreateType::TwoGbMaxExtentFlat,
            CreateType::Vmfs,
            CreateType::VmfsSparse,
            CreateType::StreamOptimized,
        ];
        types.iter().map(Self::created_as).collect()
    }

    fn created_as(create_type: &CreateType) -> Self {
        let disk = CrashDisk::new([]);
        let content = Rng::new(9).bytes(40 * SECTOR);
        let source = super::support::model::MemoryDevice::new(content.clone());
        CreateOptions::new()
            .create_type(create_type.clone())
            .create_from_in("disk.vmdk", &disk, &source, &mut go_on)
            .unwrap();
        let mut files: Vec<_> = disk.names().into_iter().map(|name| (name.clone(), disk.live(&name))).collect();
        files.sort_by_key(|(name, _)| name != "disk.vmdk");
        let stem = |name: &str| name.replacen("disk", "new name", 1);
        Self {
            what: format!("a {create_type} disk"),
            moved: files.iter().map(|(name, _)| (name.clone(), stem(name))).collect(),
            files: files.into_iter().chain([(BYSTANDER.0.to_owned(), BYSTANDER.1.to_vec())]).collect(),
            child: None,
            content: content.clone(),
            own_content: content,
            replaces: false,
        }
    }

    /// A disk whose extents have names that say nothing, or in a way of their own; by what the crate calls them then.
    pub(crate) fn with_odd_names() -> Self {
        let rng = &mut Rng::new(6);
        let flat = |name: &str, rng: &mut Rng| Part::flat(name, rng.bytes(2 * SECTOR));
        let parts = vec![
            flat("disk_first", rng),
            flat("something else.img", rng),
            flat("new name-f009.vmdk", rng),
            flat("disk2-flat.vmdk", rng),
            Part::sparse("x.vmdk", &SparseImage::new(8).grain_sectors(8)),
        ];
        let image = Image::of_parts("disk.vmdk", "custom", parts);
        let mut subject = Self::link("a disk with odd names", &[image], 0);
        let new =
            ["new name_first", "new name-f002.vmdk", "new name-f009.vmdk", "new name-f004.vmdk", "new name-s005.vmdk"];
        for ((_, expected), new) in subject.moved.iter_mut().skip(1).zip(new) {
            new.clone_into(expected);
        }
        subject
    }

    /// The files on a computer that can lose its power.
    pub(crate) fn disk(&self) -> CrashDisk {
        let old = self.files.iter().map(|(name, bytes)| (&**name, bytes.clone()));
        let taken = self.moved.iter().filter(|_| self.replaces).map(|(_, new)| (&**new, OTHERS.to_vec()));
        CrashDisk::new(old.chain(taken))
    }

    /// The old name of the link.
    pub(crate) fn old(&self) -> &str {
        &self.moved[0].0
    }

    /// Whether the link is in a single file.
    pub(crate) fn is_single(&self) -> bool {
        self.moved.len() == 1
    }

    pub(crate) fn rename_options(&self) -> RenameOptions {
        self.child.iter().fold(RenameOptions::new().replace(self.replaces), RenameOptions::child)
    }

    pub(crate) fn rename(&self, directory: &dyn Directory) -> Result<vmdk::RenameReport> {
        OpenOptions::new().rename_in(self.old(), NEW, directory, &self.rename_options(), &mut go_on)
    }

    pub(crate) fn copy(&self, directory: &dyn Directory) -> Result<vmdk::CopyDiskReport> {
        OpenOptions::new().copy_disk_in(
            self.old(),
            NEW,
            directory,
            &CopyDiskOptions::new().replace(self.replaces),
            &mut go_on,
        )
    }

    /// The names that there are when the link has its new one.
    pub(crate) fn names_after(&self) -> Vec<String> {
        let renamed =
            |name: &String| self.moved.iter().find(|(old, _)| old == name).map_or(name, |(_, new)| new).clone();
        let mut names: Vec<String> = self.files.keys().map(renamed).collect();
        names.sort_unstable();
        names
    }
}

/// What a guest reads.
pub(crate) fn content(options: &OpenOptions, disk: &CrashDisk, name: &str) -> Result<Vec<u8>> {
    let image = options.open_with(name, disk)?;
    let mut content = vec![0; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content)?;
    Ok(content)
}
