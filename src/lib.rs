//! Block driver for VMware virtual disks (VMDK).
//!
//! ```no_run
//! use vmdk::{BlockDevice, VmdkImage};
//!
//! let disk = VmdkImage::open("web-000001.vmdk")?;
//! let mut boot_sector = [0; 512];
//! disk.read_sectors(0, &mut boot_sector)?;
//! # Ok::<(), vmdk::Error>(())
//! ```
//!
//! [`VmdkImage`] opens a disk with its backing chain and is a [`BlockDevice`]; [`OpenOptions`] says how; [`Cursor`]
//! makes any block device `Read + Write + Seek`. Images are hostile until shown otherwise: see
//! [`OpenOptions`] for where the names inside an image may lead.
//!
//! # How a disk is opened, read and written
//!
//! ```text
//! open:  path -> locate -> descriptor (text or embedded) -> extents -> parents -> VmdkImage
//!                (policy)  (format, descriptor)             (link)     (chain)
//!
//! read:  sectors -> extent -> grain directory -> grain table -> Place -> pread | zeros | parent
//!                   (map)     (memory)           (L2 cache)
//!
//! write: sectors -> extent -> Place -> in place: pwrite
//!                                   -> new: claim -> space -> fill from parent -> pwrite -> pending entry
//! flush: pending entries -> sync -> both copies of their tables, directories -> sync
//! ```
//!
//! Looking up and moving bytes are apart: a lookup says where a run of sectors is and moves nothing, and what moves
//! payload looks nothing up. The first half is public as [`VmdkImage::map`], for programs that do their own I/O.
//!
//! | module | what it is about |
//! |---|---|
//! | `block_device`, `cursor` | the trait that is linked against, and its adapter to `std::io` |
//! | `image` | the disk: a file per verb |
//! | `create` | new images, whole or not at all |
//! | `stream` | disks that are written once, with compressed grains, from one end to the other |
//! | `codec` | a grain compressed, and back |
//! | `check`, `repair` | whether every structure of a disk is what it should be; what is not, put right |
//! | `raw` | a raw file as a device |
//! | `copy`, `compare` | one device into another; whether two hold the same |
//! | `source`, `survey`, `buffer` | a device from end to end; what it says of its sectors; memory to read into |
//! | `parallel` | work on several threads, whose results come in order |
//! | `chain`, `link` | parents; one disk of a chain with its extents |
//! | `extent` | one extent: flat, sparse, the grain tables and their cache |
//! | `extent::writing` | allocation, publication, and what a crash may leave |
//! | `ova` | appliances: disks in tar archives (feature `ova`) |
//! | `mapping` | the answer of a lookup |
//! | `locate` | names inside an image to opened files, under a policy |
//! | `descriptor` | text to model |
//! | `format` | bytes to structs |
//! | `storage` | the host side |

#![forbid(unsafe_code)]

mod block_device;
mod buffer;
mod chain;
mod check;
mod codec;
mod compare;
mod copy;
mod create;
mod cursor;
mod descriptor;
mod error;
mod extent;
mod format;
mod image;
mod link;
mod locate;
mod mapping;
#[cfg(feature = "ova")]
mod ova;
mod parallel;
mod random;
mod raw;
mod repair;
mod sector;
mod source;
mod storage;
mod stream;
mod survey;

pub use block_device::{BlockDevice, BlockStatus, DeviceLimits, WriteFlags};
pub use check::{CheckReport, Finding, FindingKind, Remedy, Severity};
pub use compare::{Comparison, compare};
pub use copy::{copy, copy_to_writer};
pub use create::CreateOptions;
pub use cursor::Cursor;
pub use descriptor::{
    Access, AdapterType, ContentId, CreateType, Descriptor, ExtentKind, ExtentLine, Geometry, StoredName,
};
pub use error::{Error, ErrorKind, Result};
pub use extent::{Extent, HostFile, Salvaged};
pub use format::{
    ChangeTrackingField, ChangeTrackingHeader, CowdHeader, FieldMeaning, KdmvHeader, SeSparseHeader, SeSparseRegion,
    SparseHeader,
};
pub use image::{
    CacheMode, CheckOptions, CommitReport, CompactMode, CompactReport, CopyDiskOptions, CopyDiskReport, CopyProgress,
    FlattenReport, OpenOptions, PreparedRange, PreparedWrite, RawTarget, RebaseMode, RebaseReport, RenameOptions,
    RenameReport, RenamedFile, ResizeOptions, ResizeReport, Runs, VmdkImage,
};
pub use link::{DroppedTracking, Link};
pub use locate::Resolve;
pub use mapping::{MappedRun, Mapping};
#[cfg(feature = "ova")]
pub use ova::{OvaArchive, OvaMember, read_ova_member};
pub use raw::RawImage;
pub use repair::{RepairOptions, RepairReport};
pub use sector::SECTOR_SIZE;
pub use storage::{Directory, FileStorage, JoinedStorage, MemoryStorage, Storage, StorageId, StorageReader};
pub use stream::{StreamGrain, StreamReader, StreamSummary, StreamWriter};

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
