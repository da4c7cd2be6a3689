//! WIP
#![forbid(unsafe_code)]
mod block_device;
mod error;
mod sector;
mod storage;
pub use block_device::{BlockDevice, BlockStatus, DeviceLimits, WriteFlags};
pub use error::{Error, ErrorKind, Result};
pub use sector::SECTOR_SIZE;
pub use storage::{FileStorage, MemoryStorage, Storage, StorageId};
