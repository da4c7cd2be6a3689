//! How an image is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::VmdkImage;
use super::content_id::Rewrite;
use super::over::OpenedHow;
use super::tracking::Untracking;
use super::write::Writing;
use crate::chain::{self, ChainOptions, DEFAULT_MAX_DEPTH, ParentChoice};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{DEFAULT_GRAIN_CACHE, DEFAULT_TABLES, SparseOptions};
use crate::link::{Link, LinkOptions, RawMaps, SparseFiles};
use crate::locate::{NamePolicy, Names, Opened, Resolve};
use crate::storage::{DEFAULT_MAX_OPEN, FilePool, HeldFiles, Locking, Purpose};

/// When what was written becomes durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheMode {
    /// With the next flush.
    #[default]
    Writeback,
    /// Before the write returns.
    Writethrough,
    /// With the next flush, and in no order before it: tables are written after each write, without waiting for the
    /// data. A process that is killed loses nothing, but after a power cut the image may be damaged, unless all of it
    /// was flushed. For guests that never flush.
    Unsafe,
}

/// How an image is opened: everything beyond [`VmdkImage::open`].
///
/// ```no_run
/// # fn main() -> vmdk::Result<()> {
/// let image = vmdk::OpenOptions::new().allow_dir("/srv/templates").open("web-000002.vmdk")?;
/// # Ok(()) }
/// ```
///
/// # Names inside an image are hostile
///
/// A descriptor names files, its extents and its parent, and an image from a stranger may name any file of the host:
/// reading such a disk then reads that file. So by default a name is followed only inside the directory of the image
/// that names it, symbolic links resolved. Absolute names, `..` and links that lead out are refused with an error that
/// says what to allow. [`allow_dir`](Self::allow_dir) and [`allow_any_path`](Self::allow_any_path) widen this;
/// [`open_with`](Self::open_with) leaves it to the caller. The path that the caller gives to [`open`](Self::open),
/// [`parent`](Self::parent) and [`map_extent`](Self::map_extent) is trusted, whatever it is.
///
/// # Locks
///
/// Every file that is opened is locked, so that no other program writes what is read here, or uses what is written: the
/// image, its extents and its parents, shared for reading and exclusively for writing. If another program is in the
/// way, opening fails with [`Locked`](crate::ErrorKind::Locked). The locks are those of `flock`, and on Linux QEMU's
/// as well: a running QEMU and this crate refuse each other. Both bind only programs that ask for them. They last as
/// long as the image and every [`Storage`](crate::Storage) taken from it, but for extents beyond
/// [`max_open_files`](Self::max_open_files), which are locked while they are open; the files with the descriptors
/// always are.
///
/// Where a file system has no locks, files are read without, and not written unless [`locking`](Self::locking) is
/// switched off. Hosts other than Unix count as having none. What [`open_with`](Self::open_with) is given is never
/// locked: that is for those who supply it.
#[derive(Clone, Debug)]
#[must_use]
#[expect(clippy::struct_excessive_bools, reason = "every option is a switch of its own")]
pub struct OpenOptions {
    write: bool,
    locking: bool,
    force_share: bool,
    policy: NamePolicy,
    parent: ParentChoice,
    ignore_cid_mismatch: bool,
    ignore_newline_check: bool,
    ignore_journal: bool,
    max_chain_depth: usize,
    cached_tables: usize,
    use_redundant_tables: bool,
    grain_cache_bytes: usize,
    allow_raw_deflate: bool,
    salvage: bool,
    max_open_files: usize,
    cache_mode: CacheMode,
    rewrite_descriptor: bool,
    allow_bare_extent: bool,
    raw_maps: RawMaps,
    drop_change_tracking: bool,
}

impl OpenOptions {
    /// The options of [`VmdkImage::open`]: read-only, with all parents, names confined to the image's directory.
    pub fn new() -> Self {
        Self {
            write: false,
            locking: true,
            force_share: false,
            policy: NamePolicy::default(),
            parent: ParentChoice::Hinted,
            ignore_cid_mismatch: false,
            ignore_newline_check: false,
            ignore_journal: false,
            max_chain_depth: DEFAULT_MAX_DEPTH,
            cached_tables: DEFAULT_TABLES,
            use_redundant_tables: false,
            grain_cache_bytes: DEFAULT_GRAIN_CACHE,
            allow_raw_deflate: false,
            salvage: false,
            max_open_files: DEFAULT_MAX_OPEN,
            cache_mode: CacheMode::Writeback,
            rewrite_descriptor: false,
            allow_bare_extent: false,
            raw_maps: RawMaps::default(),
            drop_change_tracking: false,
        }
    }

    /// Opens the image for writing: the file that is named and the extents that take writes (RW). Other extents and all
    /// parents are only read. Opening changes nothing; the first write does.
    ///
    /// Some images are never written to, and opening them is [`Unsupported`](crate::ErrorKind::Unsupported) then: those
    /// with change tracking, unless that is [given up](Self::drop_change_tracking), native snapshots of a storage
    /// array, descriptors of a version above 3, headers with flags that are not known, compressed extents and seSparse
    /// ones. A child is not written to without its parent, and a sparse extent without its descriptor only by
    /// [`allow_bare_extent`](Self::allow_bare_extent).
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// Whether files are locked; they are unless switched off. Without locks nothing keeps two programs from writing
    /// one file: only for file systems that have none, and where something else keeps others away.
    pub fn locking(mut self, lock: bool) -> Self {
        self.locking = lock;
        self
    }

    /// Reads files although another program writes them, and lets others write what is open here. What is read may
    /// then be a mixture of old and new, or seem to be damaged. Not together with [`write`](Self::write).
    pub fn force_share(mut self, share: bool) -> Self {
        self.force_share = share;
        self
    }

    /// Follows names that lead into `dir`, or deeper, as well. May be called more than once.
    pub fn allow_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.policy = self.policy.allow_dir(dir.into());
        self
    }

    /// Follows names that lead to `path`, a block device or file, as well: the only way to the extents of fullDevice
    /// and partitionedDevice disks that lie on a device. May be called more than once.
    pub fn allow_device(mut self, path: impl Into<PathBuf>) -> Self {
        self.policy = self.policy.allow_device(path.into());
        self
    }

    /// Takes `path`, a block device or file, for the raw device map that a descriptor calls `name`: an extent of the
    /// kind VMFSRDM or VMFSRAW, of the image or of one of its parents. May be called more than once, for other names.
    ///
    /// The image has no data for such an extent. Of VMFSRDM (createType `vmfsRawDeviceMap` and
    /// `vmfsPassthroughRawDeviceMap`) the file with the name, `disk-rdm.vmdk` or `disk-rdmp.vmdk`, is a pointer that
    /// ESX keeps, and what it holds is not the disk; of VMFSRAW the name is a device of an ESX host. So the name is
    /// never followed, whatever else is allowed, and without a path for each the image does not open. The path is that
    /// of the LUN on this host, or of a copy of it, with the same first sector.
    ///
    /// `name` is the name of the extent as a string ([`ExtentLine::name`](crate::ExtentLine::name), decoded), all of it
    /// and with its case. `path` is trusted like that of [`open`](Self::open), and locked like any extent. It has to
    /// hold the whole extent; what it has beyond that does not matter. It is only read, also where the image is
    /// written: see [`map_extent_to_write`](Self::map_extent_to_write).
    ///
    /// With [`open_with`](Self::open_with), `path` is a name like any other: the resolver is asked for it in place of
    /// the extent's own.
    ///
    /// ```
    /// # use std::{collections::HashMap, sync::Arc};
    /// # use vmdk::{BlockDevice, ErrorKind, MemoryStorage, OpenOptions, Storage};
    /// let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfsRawDeviceMap\"\n\
    ///             RW 2 VMFSRDM \"disk-rdm.vmdk\"\n";
    /// let mut files: HashMap<String, Arc<dyn Storage>> = HashMap::new();
    /// files.insert("disk".to_owned(), Arc::new(MemoryStorage::new(text)));
    /// files.insert("the LUN".to_owned(), Arc::new(MemoryStorage::new([7; 4096])));
    /// assert_eq!(OpenOptions::new().open_with("disk", &files).unwrap_err().kind(), ErrorKind::Unsupported);
    /// let image = OpenOptions::new().map_extent("disk-rdm.vmdk", "the LUN").open_with("disk", &files)?;
    /// assert_eq!(image.capacity_sectors(), 2);
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// Opening is [`InvalidInput`](crate::ErrorKind::InvalidInput) for a `name` that no raw device map of the image and
    /// its parents has, for one that is mapped in two ways, and for a `path` that is shorter than the extent; of an
    /// image that is opened without its parents, names that it does not have may be those of its parents.
    pub fn map_extent(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.raw_maps.add(name.into(), path.into(), false);
        self
    }

    /// As [`map_extent`](Self::map_extent), to be written where the image is: what a guest writes goes to `path`.
    /// Without this, an image is [`ReadOnly`](crate::ErrorKind::ReadOnly) when it is opened for [writing](Self::write)
    /// and has a raw device map that takes writes (RW). Where only parents have them, as below a delta, nothing is
    /// written to them.
    pub fn map_extent_to_write(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.raw_maps.add(name.into(), path.into(), true);
        self
    }

    /// Whether [mapped](Self::map_extent) names may be those of no extent: for who opens several images in the same
    /// way.
    pub fn allow_unused_maps(mut self, allow: bool) -> Self {
        self.raw_maps.may_be_unused(allow);
        self
    }

    /// Follows every name, wherever it leads, but for devices. Only for images that are trusted like a program.
    pub fn allow_any_path(mut self, allow: bool) -> Self {
        self.policy = self.policy.allow_any_path(allow);
        self
    }

    /// Takes the file at `path` for the parent of the image, whatever the image names; parents further up are found
    /// as usual. The content ID is checked all the same. Of this and [`no_parent`](Self::no_parent) the last call
    /// counts.
    pub fn parent(mut self, path: impl Into<PathBuf>) -> Self {
        self.parent = ParentChoice::Given(path.into());
        self
    }

    /// Opens the image alone: what only a parent has reads as zeros. For looking at an orphan, not for its content. Of
    /// a child of VMware 3 in several files, those after the first open only so, each as the part that it is.
    pub fn no_parent(mut self, alone: bool) -> Self {
        match self.parent {
            _ if alone => self.parent = ParentChoice::Alone,
            ParentChoice::Alone => self.parent = ParentChoice::Hinted,
            ParentChoice::Given(_) | ParentChoice::Hinted => {}
        }
        self
    }

    /// Takes a parent whose content ID is not the one the child was made against, if none fits. The disk may then be
    /// a mixture of two.
    pub fn ignore_cid_mismatch(mut self, ignore: bool) -> Self {
        self.ignore_cid_mismatch = ignore;
        self
    }

    /// Reads an extent although its newline check bytes say that a text-mode transfer has changed the file.
    pub fn ignore_newline_check(mut self, ignore: bool) -> Self {
        self.ignore_newline_check = ignore;
        self
    }

    /// Reads seSparse extents whose journal would have to be replayed first, as they are: what was written last is
    /// missing then, or only half there, and what is read may never have been there together. Without this they are
    /// refused ([`Unsupported`](ErrorKind::Unsupported)). Nothing is replayed: the checksum of the records is not
    /// known. Only for reading.
    pub fn ignore_journal(mut self, ignore: bool) -> Self {
        self.ignore_journal = ignore;
        self
    }

    /// The most links a chain may have, the image included; 64 unless set, at least 1.
    pub fn max_chain_depth(mut self, links: usize) -> Self {
        self.max_chain_depth = links.max(1);
        self
    }

    /// How many grain tables each sparse extent keeps in memory; 16 unless set, at least 1, and never more than
    /// 65,536. A table reaches over 32 MiB of disk with usual grains and takes 4 KiB; one of an seSparse extent reaches
    /// over 16 MiB and takes 32 KiB.
    pub fn cached_tables(mut self, tables: usize) -> Self {
        self.cached_tables = tables;
        self
    }

    /// Reads the redundant directory and tables of hosted sparse extents where the primary ones cannot be used: their
    /// place is impossible, they cannot be read, or an entry cannot be right. A plausible primary always wins; a
    /// directory entry of 0 counts as unusable where the copy has a table.
    /// [`Extent::redundant_stand_ins`](crate::Extent::redundant_stand_ins) counts the tables that stood in. For getting
    /// data off a damaged image: what is read may be older than what was there.
    pub fn use_redundant_tables(mut self, allow: bool) -> Self {
        self.use_redundant_tables = allow;
        self
    }

    /// How many bytes of inflated grains the streams of a chain keep in memory together; 16 MiB unless set. A grain has
    /// 64 KiB in all usual streams. With 0 each read that does not take whole grains inflates what it needs anew.
    pub fn grain_cache_bytes(mut self, bytes: usize) -> Self {
        self.grain_cache_bytes = bytes;
        self
    }

    /// Reads grains that are compressed without the container of zlib (RFC 1950), which VMware's technical note does
    /// not mention. No product is known to write them; nothing tells then whether a grain is damaged.
    pub fn allow_raw_deflate(mut self, allow: bool) -> Self {
        self.allow_raw_deflate = allow;
        self
    }

    /// Finds the grains of streams (streamOptimized) by going from marker to marker, not by the tables: for a file that
    /// was cut, or whose directory is damaged. All of the stream is gone through when it is opened, without its data.
    /// Of a grain that stands in it twice the later one is read. What is not there reads as if it had never been
    /// written, and what is damaged reads as zeros; [`Extent::salvaged`](crate::Extent::salvaged) says what was found,
    /// and a [warning](crate::Link::warnings) that something is missing. Extents that are no streams, or have no
    /// markers, are opened as usual.
    pub fn salvage(mut self, salvage: bool) -> Self {
        self.salvage = salvage;
        self
    }

    /// How many files with extents are held open at once; 128 unless set. An image of more files closes those that
    /// were not used for longest and opens them again when they are needed. The files with the descriptors of the
    /// chain come on top. A file that is opened again and again has no [`as_fd`](crate::Storage::as_fd), and is not
    /// locked in between. Files that are opened for writing count, but stay open.
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.max_open_files = files;
        self
    }

    /// When what is written becomes durable; with the next flush unless set.
    pub fn cache_mode(mut self, mode: CacheMode) -> Self {
        self.cache_mode = mode;
        self
    }

    /// Lets the descriptor be rewritten as a whole, in its own bytes, where the content ID of an image has fewer than
    /// four digits, so that no other fits in its place, or where a resolver has supplied the descriptor of a disk whose
    /// change tracking is [given up](Self::drop_change_tracking). A crash in that moment may leave a descriptor that
    /// cannot be read. Without this, a descriptor in a file of its own is replaced by a new file under its name, and an
    /// image with an embedded one takes no writes.
    pub fn rewrite_descriptor(mut self, allow: bool) -> Self {
        self.rewrite_descriptor = allow;
        self
    }

    /// Lets a sparse extent be written to that is opened without its descriptor. It may be a part of a disk, or a child
    /// whose parent only its descriptor knows: what is written then takes zeros for what the parent has, and no content
    /// ID changes. Disks of VMware 2 and 3 have no descriptor and need no such permission.
    pub fn allow_bare_extent(mut self, allow: bool) -> Self {
        self.allow_bare_extent = allow;
        self
    }

    /// Lets a disk be written to whose changes are tracked (`changeTrackPath` in its descriptor), which then is not
    /// tracked any more. Without this it is [`Unsupported`](crate::ErrorKind::Unsupported) to open one for
    /// [writing](Self::write): the change tracking file is not kept up, and an incremental backup that believes it
    /// would miss what was written.
    ///
    /// The first write gives the tracking up, before it changes anything else, and durably; opening does not. The line
    /// with its comment goes, and the version of the descriptor becomes 1 where it was 3. A descriptor in a file of its
    /// own is replaced by a new file under its name, an embedded one is changed so that a crash leaves the old or the
    /// new one. Then the change tracking file gets another name, `disk-ctk.vmdk.dropped`, if it lies beside the
    /// descriptor and begins like one; it is not removed, because an image from a stranger may name any file.
    /// [`VmdkImage::dropped_tracking`] says what became of it. After a crash the disk is tracked and was not written
    /// to, or is not tracked, and there may be a file that nothing names.
    ///
    /// With [`open_with`](Self::open_with) that file stays, and a descriptor in a file of its own changes only if it
    /// may be [rewritten](Self::rewrite_descriptor): in its own bytes, so that a crash in that moment may leave one
    /// that cannot be read.
    ///
    /// What changes a disk as a whole (commit, flatten, rebase, resize, compact, rename, repair) refuses tracked ones,
    /// also with this: [`stop_change_tracking`](Self::stop_change_tracking) comes first then.
    pub fn drop_change_tracking(mut self, allow: bool) -> Self {
        self.drop_change_tracking = allow;
        self
    }

    /// Opens the image at `path`.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) and [`Io`](crate::ErrorKind::Io) from the host;
    /// [`Locked`](crate::ErrorKind::Locked) if another program uses a file;
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly) for a file that may not be written, and
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for one that cannot be locked, when it is opened for writing;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for options that contradict each other or the image;
    /// [`NotVmdk`](crate::ErrorKind::NotVmdk), [`Incomplete`](crate::ErrorKind::Incomplete),
    /// [`Corrupt`](crate::ErrorKind::Corrupt) and [`Unsupported`](crate::ErrorKind::Unsupported) for what the files
    /// hold; [`NameRefused`](crate::ErrorKind::NameRefused) for a name that may not be followed;
    /// [`ParentMissing`](crate::ErrorKind::ParentMissing),
    /// [`ContentIdMismatch`](crate::ErrorKind::ContentIdMismatch) and [`BadChain`](crate::ErrorKind::BadChain) for the
    /// parents; [`InvalidInput`](crate::ErrorKind::InvalidInput) for a [`parent`](Self::parent) of an image that has
    /// none, and for a part of a disk where the whole is needed. The text names the file, and the field or line.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<VmdkImage> {
        let purpose = self.purpose()?;
        let pool = self.pool();
        let first = Opened::by_caller(path.as_ref(), purpose, &pool)?;
        self.open_chain(first, Names::Files(&self.policy, &pool), purpose)
    }

    /// Opens the image that `resolver` knows as `name`, and everything the image names through `resolver` as well:
    /// the host's file system is not touched. Allowed directories do not matter then, and nothing is locked: whoever
    /// supplies a storage sees to it that nobody else writes it.
    ///
    /// ```
    /// # use std::{collections::HashMap, sync::Arc};
    /// # use vmdk::{BlockDevice, MemoryStorage, OpenOptions, Storage};
    /// let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
    ///             RW 2 VMFS \"flat\"\n";
    /// let mut files: HashMap<String, Arc<dyn Storage>> = HashMap::new();
    /// files.insert("disk".to_owned(), Arc::new(MemoryStorage::new(text)));
    /// files.insert("flat".to_owned(), Arc::new(MemoryStorage::new([7; 1024])));
    /// let image = OpenOptions::new().open_with("disk", &files)?;
    /// assert_eq!(image.capacity_sectors(), 2);
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`open`](Self::open), and what the resolver reports.
    pub fn open_with(&self, name: &str, resolver: &dyn Resolve) -> Result<VmdkImage> {
        let purpose = self.purpose()?;
        let held = HeldFiles::default();
        let names = Names::Resolver(resolver, &held, Path::new(""));
        self.open_chain(names.open(Path::new(""), name, purpose)?, names, purpose)
    }

    /// Opens an image of which the first file is open, as that says.
    pub(crate) fn open_alone(&self, first: Opened, names: Names<'_>) -> Result<VmdkImage> {
        self.open_chain(first, names, self.purpose()?)
    }

    pub(super) fn purpose(&self) -> Result<Purpose> {
        self.raw_maps.check()?;
        if self.write && self.force_share {
            let text = "force-share is for reading: an image cannot be written while others write it";
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        let is_doubtful = self.use_redundant_tables || self.ignore_newline_check || self.ignore_journal || self.salvage;
        if self.write && is_doubtful {
            let text = "what is read of a damaged image by its redundant tables, by its markers, or in spite of its \
                        newline bytes or its journal, is not written to";
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        Ok(if self.write { Purpose::Write } else { Purpose::Read })
    }

    /// What its children are to know of these options.
    pub(super) fn how(&self) -> OpenedHow {
        OpenedHow {
            locking: self.lock_mode(),
            cache_mode: self.cache_mode,
            cached_tables: self.cached_tables,
            max_chain_depth: self.max_chain_depth,
            max_open_files: self.max_open_files,
            use_redundant_tables: self.use_redundant_tables,
            ignore_newline_check: self.ignore_newline_check,
            ignore_journal: self.ignore_journal,
        }
    }

    /// The same options for who changes an image as a whole: it is opened for writing, and what has to be durable
    /// before something else happens is so, whatever guests are promised.
    pub(super) fn for_work(&self) -> Self {
        self.clone().write(true).cache_mode(CacheMode::Writeback).drop_change_tracking(false)
    }

    /// The same options for another choice of the parent.
    pub(super) fn with_parent_choice(&self, parent: ParentChoice) -> Self {
        Self { parent, ..self.clone() }
    }

    /// A pool for the files of an image.
    pub(super) fn pool(&self) -> Arc<FilePool> {
        FilePool::new(self.max_open_files, self.lock_mode())
    }

    /// Which names are followed.
    pub(super) fn policy(&self) -> &NamePolicy {
        &self.policy
    }

    /// What raw device maps stand for.
    pub(super) fn raw_maps(&self) -> &RawMaps {
        &self.raw_maps
    }

    /// Whether a sparse extent without its descriptor may be changed.
    pub(super) fn allows_bare_extent(&self) -> bool {
        self.allow_bare_extent
    }

    /// Whether a parent is taken that has another content ID than its child says.
    pub(super) fn ignores_cid_mismatch(&self) -> bool {
        self.ignore_cid_mismatch
    }

    fn lock_mode(&self) -> Locking {
        match (self.locking, self.force_share) {
            (false, _) => Locking::Off,
            (true, true) => Locking::ForceShare,
            (true, false) => Locking::On,
        }
    }

    fn open_chain(&self, first: Opened, names: Names<'_>, purpose: Purpose) -> Result<VmdkImage> {
        self.image_of(self.open_links(first, names, purpose, 1)?, names, purpose)
    }

    /// Opens the links of a chain, the first `own_links` of them for `purpose`, whether or not they can be written to.
    pub(super) fn open_links(
        &self,
        first: Opened,
        names: Names<'_>,
        purpose: Purpose,
        own_links: usize,
    ) -> Result<Vec<Arc<Link>>> {
        let sparse_files = SparseFiles::default();
        let options = ChainOptions { own_links, ..self.chain_options(names, purpose, &sparse_files) };
        let links = chain::open(first, options)?;
        self.check_raw_maps(&links)?;
        Ok(links)
    }

    /// Refuses names of raw device maps that no link has, if these are all of a chain, youngest first.
    pub(super) fn check_raw_maps<'l>(&self, links: impl IntoIterator<Item = &'l Arc<Link>>) -> Result<()> {
        self.raw_maps.check_used(links.into_iter().map(|link| &**link))
    }

    /// How a chain is opened, the first link of it for `purpose`.
    pub(super) fn chain_options<'a>(
        &'a self,
        names: Names<'a>,
        purpose: Purpose,
        sparse_files: &'a SparseFiles,
    ) -> ChainOptions<'a> {
        ChainOptions {
            link: self.link_options(names, purpose, sparse_files),
            parent: &self.parent,
            ignore_cid_mismatch: self.ignore_cid_mismatch,
            max_depth: self.max_chain_depth,
            own_links: 1,
        }
    }

    pub(super) fn link_options<'a>(
        &'a self,
        names: Names<'a>,
        purpose: Purpose,
        sparse_files: &'a SparseFiles,
    ) -> LinkOptions<'a> {
        let sparse = SparseOptions {
            cached_tables: self.cached_tables,
            use_redundant: self.use_redundant_tables,
            grain_cache: self.grain_cache_bytes,
            allow_raw_deflate: self.allow_raw_deflate,
            salvage: self.salvage,
        };
        LinkOptions {
            names,
            purpose,
            sparse,
            sparse_files,
            raw_maps: &self.raw_maps,
            ignore_newlines: self.ignore_newline_check,
            ignore_journal: self.ignore_journal,
        }
    }

    /// The image that has these links.
    pub(super) fn image_of(&self, links: Vec<Arc<Link>>, names: Names<'_>, purpose: Purpose) -> Result<VmdkImage> {
        let how = self.how();
        if !purpose.writes() {
            return Ok(VmdkImage::new(links, None, how));
        }
        links[0]
            .check_writable(links.len() > 1, self.allow_bare_extent, self.drop_change_tracking)
            .map_err(|error| error.in_file(links[0].path()))?;
        let rewrite = match names {
            _ if self.rewrite_descriptor => Rewrite::InPlace,
            Names::Files(..) => Rewrite::ByRename(self.lock_mode()),
            Names::Resolver(..) => Rewrite::Never,
        };
        // Then it may be written to only because it is not to be tracked any more.
        let is_tracked = links[0].descriptor().change_track_path().is_some();
        let untracking = is_tracked.then(|| Untracking::prepare(&links[0], names, rewrite)).transpose()?;
        let writing = Writing::allow(&links[0], self.cache_mode, rewrite, untracking);
        Ok(VmdkImage::new(links, Some(writing), how))
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}
