//! What a new image is to be.

use std::path::Path;

use super::new_files::Kept;
use super::{Draft, Place, Plan};
use crate::descriptor::{AdapterType, CreateType, Geometry, NewDatabase, is_quotable};
use crate::error::{Error, ErrorKind, Result};
use crate::image::VmdkImage;
use crate::storage::Directory;

/// The level of compression unless the caller says otherwise: the last one before more effort costs more than it gives.
///
/// Time of one thread and size of the stream, as parts of those of `qemu-img convert`, which has zlib's level 6:
///
/// ```text
/// level   Python's library   programs        source text
/// 1       0.19   1.320       0.12   1.291    0.25   1.440
/// 2       0.19   1.097       0.19   1.083    0.18   1.150
/// 4       0.27   1.034       0.25   1.042    0.28   1.033
/// 5       0.29   1.013       0.29   1.032    0.33   1.003
/// 6       0.37   1.011       0.28   1.030    0.47   0.998
/// 7       0.59   1.004       0.48   1.022    0.71   0.986
/// 9       1.07   0.985       0.95   0.993    0.98   0.984
/// ```
const DEFAULT_LEVEL: u32 = 6;

/// Threads that compress, at most: each of them takes half a megabyte, and a conversion is to stay below 64.
const MAX_THREADS: usize = 48;

/// How a new image is made.
///
/// ```no_run
/// use vmdk::{CreateOptions, CreateType, OpenOptions};
///
/// # fn main() -> vmdk::Result<()> {
/// CreateOptions::new().create_type(CreateType::MonolithicSparse).capacity_sectors(20 << 21).create("disk.vmdk")?;
/// let disk = OpenOptions::new().write(true).open("disk.vmdk")?;
/// let child = disk.create_child("disk-000001.vmdk", &CreateOptions::new())?;
/// # Ok(()) }
/// ```
///
/// # Types
///
/// | type | files | options of its own |
/// |---|---|---|
/// | [`MonolithicSparse`], the default | `name.vmdk` | grain size, zero grains |
/// | [`TwoGbMaxExtentSparse`] | `name.vmdk`, `name-s001.vmdk`, ... of 2047 MiB | grain size, zero grains |
/// | [`MonolithicFlat`], [`Vmfs`] | `name.vmdk`, `name-flat.vmdk` | preallocation |
/// | [`TwoGbMaxExtentFlat`] | `name.vmdk`, `name-f001.vmdk`, ... of 2047 MiB | preallocation |
/// | [`VmfsSparse`] | `name.vmdk`, `name-delta.vmdk` | grain size |
/// | [`StreamOptimized`] | `name.vmdk` | compression level |
///
/// [`MonolithicSparse`]: CreateType::MonolithicSparse
/// [`TwoGbMaxExtentSparse`]: CreateType::TwoGbMaxExtentSparse
/// [`MonolithicFlat`]: CreateType::MonolithicFlat
/// [`Vmfs`]: CreateType::Vmfs
/// [`TwoGbMaxExtentFlat`]: CreateType::TwoGbMaxExtentFlat
/// [`VmfsSparse`]: CreateType::VmfsSparse
/// [`StreamOptimized`]: CreateType::StreamOptimized
///
/// The sparse ones can be deltas. A stream is written once: it is made with its content, and takes no writes after
/// that; [`StreamWriter`](crate::StreamWriter) makes one without a file. Headers and descriptors are those that
/// VMware's products write.
///
/// # All or nothing
///
/// The files are written under names of their own, and get theirs when all of them are complete and synced, that of the
/// descriptor last, the directory synced before and after. Whatever fails and whenever the power goes, there is a whole
/// image or none; what a crash may leave are files whose names begin with a dot and end in `.new`, and extents that no
/// descriptor names. Files that exist are never replaced, unless [`replace`](Self::replace) says so.
///
/// All files of a split disk are open at once while it is filled, replaced or made as a child: of 2047 MiB each.
///
/// # Names
///
/// The name of an image stands in descriptors, in UTF-8 and between quotes that know no escapes. A name that is not
/// UTF-8, or has a quote or a control character in it, is [`InvalidInput`](crate::ErrorKind::InvalidInput).
#[derive(Clone, Debug, Default)]
#[must_use]
#[expect(clippy::struct_excessive_bools, reason = "every option is a switch of its own")]
pub struct CreateOptions {
    pub(super) create_type: Option<CreateType>,
    pub(super) capacity_sectors: Option<u64>,
    pub(super) adapter_type: Option<AdapterType>,
    pub(super) hardware_version: Option<u32>,
    pub(super) geometry: Option<Geometry>,
    pub(super) disk_id: Option<[u8; 16]>,
    pub(super) grain_sectors: Option<u64>,
    pub(super) zero_grains: bool,
    pub(super) preallocate: bool,
    pub(super) replace: bool,
    pub(super) unsynced: bool,
    pub(super) compression_level: Option<u32>,
    pub(super) threads: Option<usize>,
}

impl CreateOptions {
    /// A monolithicSparse disk, or of a child the type that goes with its parent.
    pub fn new() -> Self {
        Self::default()
    }

    /// The type of the image. Of a child it is, unless set: twoGbMaxExtentSparse over a disk that is split, vmfsSparse
    /// over one of ESX that is not too large for that, monolithicSparse over any other.
    pub fn create_type(mut self, create_type: CreateType) -> Self {
        self.create_type = Some(create_type);
        self
    }

    /// The size in sectors: at least 1. A sparse extent has up to 2^32 - 1 grains, which is 256 TiB for
    /// monolithicSparse, vmfsSparse up to 2^32 - 1 sectors; split disks have as many extents as a descriptor of 1 MiB
    /// has room for. The size of a child is that of its parent, of a copy that of its source, unless a larger one is
    /// set.
    pub fn capacity_sectors(mut self, sectors: u64) -> Self {
        self.capacity_sectors = Some(sectors);
        self
    }

    /// The controller that the disk is made for; lsilogic for vmfs, vmfsSparse and streamOptimized and ide for the
    /// others unless set.
    pub fn adapter_type(mut self, adapter: AdapterType) -> Self {
        self.adapter_type = Some(adapter);
        self
    }

    /// The virtual hardware that the disk is made for; 4, which every product takes, unless set.
    pub fn hardware_version(mut self, version: u32) -> Self {
        self.hardware_version = Some(version);
        self
    }

    /// The geometry; unless set it is [what VMware gives](Geometry::of_disk) to a disk of the size and controller.
    pub fn geometry(mut self, geometry: Geometry) -> Self {
        self.geometry = Some(geometry);
        self
    }

    /// The identity (`ddb.uuid`), by which guests may know the disk; a random one unless set.
    pub fn disk_id(mut self, id: [u8; 16]) -> Self {
        self.disk_id = Some(id);
        self
    }

    /// Sectors of a grain, a power of two: 8 to 128, and 128 unless set, for the hosted types; 1 to 2048, and 1 unless
    /// set, for vmfsSparse. Those of streamOptimized have 128.
    pub fn grain_sectors(mut self, sectors: u64) -> Self {
        self.grain_sectors = Some(sectors);
        self
    }

    /// Whether entries may say that a grain is zero, so that zeroing needs no space. It makes the header version 2,
    /// which VirtualBox and products before Workstation 5 do not read.
    pub fn zero_grains(mut self, allow: bool) -> Self {
        self.zero_grains = allow;
        self
    }

    /// Whether the host is to reserve the space of flat extents now. Where it cannot, zeros are written.
    pub fn preallocate(mut self, reserve: bool) -> Self {
        self.preallocate = reserve;
        self
    }

    /// Whether files that exist are replaced. They are not touched before the new ones are complete, and never while
    /// another program uses one of them. An image in a single file is replaced at once; of one in several the old
    /// descriptor goes first, so that a crash in that moment may leave neither image. Extents of the old image that the
    /// new one has no name for stay where they are. Where the new image is complete, and only its names could not be
    /// made durable, it stays although that is an error.
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Whether the image is made durable before the call returns; it is unless this is switched off. Then, as after any
    /// copy that is not synced, a power cut may leave a damaged image until the host has written it out.
    pub fn sync(mut self, sync: bool) -> Self {
        self.unsynced = !sync;
        self
    }

    /// How hard is tried to make the grains of a streamOptimized disk small: a level of zlib, 1 (fastest) to 9
    /// (smallest). Unless set it is 6, behind which the time grows faster than the size shrinks: 9 takes about three
    /// times as long, for up to 4 percent, and of some text for nothing. Level 1 is seldom faster than 2, and makes
    /// disks larger by a fifth.
    pub fn compression_level(mut self, level: u32) -> Self {
        self.compression_level = Some(level);
        self
    }

    /// How many threads read the source of a disk that is made from another, and inflate what is compressed there, up
    /// to 16; of a streamOptimized disk, how many compress its grains, up to 48, while up to four read. With 1 or 0,
    /// and unless this is set, none is started, and the caller's does all of it. What is written does not depend on it.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Takes adapter type, hardware version, geometry and identity from another disk, as far as it has them.
    pub fn like(mut self, image: &VmdkImage) -> Self {
        let has_sense = |chs: &Geometry| chs.cylinders > 0 && chs.heads > 0 && chs.sectors > 0;
        self.adapter_type = image.adapter_type().filter(|adapter| is_quotable(adapter.as_str())).or(self.adapter_type);
        self.hardware_version = image.hardware_version().or(self.hardware_version);
        self.geometry = image.geometry().filter(has_sense).or(self.geometry);
        self.disk_id = image.disk_id().or(self.disk_id);
        self
    }

    /// Makes an empty image at `path`.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for options that contradict each other, a size that the format
    /// has no numbers for, and a name that cannot be written; [`Unsupported`](crate::ErrorKind::Unsupported) for a type
    /// that is not created; [`AlreadyExists`](crate::ErrorKind::AlreadyExists), [`Locked`](crate::ErrorKind::Locked)
    /// and [`ReadOnly`](crate::ErrorKind::ReadOnly) for a file that is in the way; what the host reports. Nothing of
    /// the image is left then.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<()> {
        let place = Place::of(path.as_ref())?.private_if(self.replace);
        let created = self.create_at(&place.name, &place.directory, place.directory.path());
        created.map_err(|error| error.in_file(&place.path()))
    }

    /// As [`create`](Self::create), with the descriptor in the file `name` of `directory`, and the extents beside it.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn create_in(&self, name: &str, directory: &dyn Directory) -> Result<()> {
        self.create_at(name, directory, Path::new(""))
    }

    fn create_at(&self, name: &str, directory: &dyn Directory, dir: &Path) -> Result<()> {
        let plan = Plan::new(self, name, None)?;
        let mut draft = Draft::begin(plan, directory, dir, self, &Kept::default())?;
        draft.make_empty(self)?;
        draft.publish()?;
        draft.keep();
        Ok(())
    }

    /// The level to compress with.
    pub(crate) fn level(&self) -> u32 {
        self.compression_level.unwrap_or(DEFAULT_LEVEL)
    }

    /// The threads that read, or compress.
    pub(crate) fn thread_count(&self) -> usize {
        self.threads.unwrap_or(1).min(MAX_THREADS)
    }

    /// The same for a stream.
    ///
    /// # Errors
    /// `InvalidInput` if another type is set.
    pub(crate) fn for_stream(self) -> Result<Self> {
        match self.create_type.as_ref().map(CreateType::canonical) {
            None | Some(CreateType::StreamOptimized) => Ok(self.create_type(CreateType::StreamOptimized)),
            Some(other) => {
                let text = format!("a stream of the type {other}; it is streamOptimized");
                Err(Error::text(ErrorKind::InvalidInput, text))
            }
        }
    }

    /// What was asked for.
    pub(super) fn database(&self) -> NewDatabase {
        NewDatabase {
            adapter_type: self.adapter_type.clone(),
            geometry: self.geometry,
            disk_id: self.disk_id,
            hardware_version: self.hardware_version,
            is_thin: false,
            has_tools_type: false,
        }
    }
}
