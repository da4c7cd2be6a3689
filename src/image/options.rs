//! How an image is opened.

use std::path::{Path, PathBuf};

use super::VmdkImage;
use crate::chain::{self, ChainOptions, DEFAULT_MAX_DEPTH, ParentChoice};
use crate::error::Result;
use crate::extent::{DEFAULT_TABLES, SparseOptions};
use crate::link::{LinkOptions, SparseFiles};
use crate::locate::{NamePolicy, Names, Opened, Resolve};
use crate::storage::{DEFAULT_MAX_OPEN, FilePool};

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
/// [`open_with`](Self::open_with) leaves it to the caller. The path that the caller gives to [`open`](Self::open) and
/// [`parent`](Self::parent) is trusted, whatever it is.
#[derive(Clone, Debug)]
#[must_use]
pub struct OpenOptions {
    policy: NamePolicy,
    parent: ParentChoice,
    ignore_cid_mismatch: bool,
    ignore_newline_check: bool,
    max_chain_depth: usize,
    cached_tables: usize,
    use_redundant_tables: bool,
    max_open_files: usize,
    cache_mode: CacheMode,
    rewrite_descriptor: bool,
}

impl OpenOptions {
    /// The options of [`VmdkImage::open`]: read-only, with all parents, names confined to the image's directory.
    pub fn new() -> Self {
        Self {
            policy: NamePolicy::default(),
            parent: ParentChoice::Hinted,
            ignore_cid_mismatch: false,
            ignore_newline_check: false,
            max_chain_depth: DEFAULT_MAX_DEPTH,
            cached_tables: DEFAULT_TABLES,
            use_redundant_tables: false,
            max_open_files: DEFAULT_MAX_OPEN,
            cache_mode: CacheMode::Writeback,
            rewrite_descriptor: false,
        }
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

    /// Follows every name, wherever it leads, but for devices. Only for images that are trusted like a program.
    pub fn allow_any_path(mut self, allow: bool) -> Self {
        self.policy = self.policy.allow_any_path(allow);
        self
    }

    /// Takes the file at `path` for the parent of the image, whatever the image names; parents further up are found
    /// as usual. The content ID is checked all the same. Of this and [`no_parent`](Self::no_parent) the last call counts.
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

    /// The most links a chain may have, the image included; 64 unless set, at least 1.
    pub fn max_chain_depth(mut self, links: usize) -> Self {
        self.max_chain_depth = links.max(1);
        self
    }

    /// How many grain tables each sparse extent keeps in memory; 16 unless set, at least 1. A table reaches over
    /// 32 MiB of disk with usual grains.
    pub fn cached_tables(mut self, tables: usize) -> Self {
        self.cached_tables = tables;
        self
    }

    /// Reads the redundant directory and tables of hosted sparse extents where the primary ones cannot be used: their
    /// place is impossible, they cannot be read, or an entry cannot be right. A plausible primary always wins; a directory
    /// entry of 0 counts as unusable where the copy has a table.
    /// [`Extent::redundant_stand_ins`](crate::Extent::redundant_stand_ins) counts the tables that stood in. For getting
    /// data off a damaged image: what is read may be older than what was there.
    pub fn use_redundant_tables(mut self, allow: bool) -> Self {
        self.use_redundant_tables = allow;
        self
    }

    /// How many files with extents are held open at once; 128 unless set. An image of more files closes those that
    /// were not used for longest and opens them again when they are needed. The files with the descriptors of the
    /// chain come on top. A file that is opened again and again has no [`as_fd`](crate::Storage::as_fd).
    pub fn max_open_files(mut self, files: usize) -> Self {
        self.max_open_files = files;
        self
    }

    /// When what is written becomes durable; with the next flush unless set.
    pub fn cache_mode(mut self, mode: CacheMode) -> Self {
        self.cache_mode = mode;
        self
    }

    /// Lets the descriptor be rewritten as a whole where the content ID of an image has fewer than four digits, so that
    /// no other fits in its place. A crash in that moment may leave a descriptor that cannot be read.
    pub fn rewrite_descriptor(mut self, allow: bool) -> Self {
        self.rewrite_descriptor = allow;
        self
    }

    /// Opens the image at `path`, read-only.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) and [`Io`](crate::ErrorKind::Io) from the host;
    /// [`NotVmdk`](crate::ErrorKind::NotVmdk), [`Incomplete`](crate::ErrorKind::Incomplete),
    /// [`Corrupt`](crate::ErrorKind::Corrupt) and [`Unsupported`](crate::ErrorKind::Unsupported) for what the files
    /// hold; [`NameRefused`](crate::ErrorKind::NameRefused) for a name that may not be followed;
    /// [`ParentMissing`](crate::ErrorKind::ParentMissing),
    /// [`ContentIdMismatch`](crate::ErrorKind::ContentIdMismatch) and [`BadChain`](crate::ErrorKind::BadChain) for the
    /// parents; [`InvalidInput`](crate::ErrorKind::InvalidInput) for a [`parent`](Self::parent) of an image that has
    /// none, and for a part of a disk where the whole is needed. The text names the file, and the field or line.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<VmdkImage> {
        self.open_chain(
            Opened::by_caller(path.as_ref())?,
            Names::Files(&self.policy, &FilePool::new(self.max_open_files)),
        )
    }

    /// Opens the image that `resolver` knows as `name`, and everything the image names through `resolver` as well:
    /// the host's file system is not touched. Allowed directories do not matter then.
    ///
    /// ```
    /// # use std::{collections::HashMap, sync::Arc};
    /// # use vmdk::{BlockDevice, MemoryStorage, OpenOptions, Storage};
    /// let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\nRW 2 VMFS \"flat\"\n";
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
        let names = Names::Resolver(resolver);
        self.open_chain(names.open(Path::new(""), name)?, names)
    }

    fn open_chain(&self, first: Opened, names: Names<'_>) -> Result<VmdkImage> {
        let sparse = SparseOptions { cached_tables: self.cached_tables, use_redundant: self.use_redundant_tables };
        let sparse_files = SparseFiles::default();
        let link =
            LinkOptions { names, sparse, sparse_files: &sparse_files, ignore_newlines: self.ignore_newline_check };
        let options = ChainOptions {
            link,
            parent: &self.parent,
            ignore_cid_mismatch: self.ignore_cid_mismatch,
            max_depth: self.max_chain_depth,
        };
        Ok(VmdkImage::new(chain::open(first, options)?, None))
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}
