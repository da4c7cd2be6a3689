//! Whether a link can be written to at all.

use std::ops::Range;

use super::Link;
use crate::descriptor::{Access, Descriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, FileIdentity};
use crate::format::{CowdHeader, SparseHeader};
use crate::sector::SECTOR_BYTES;

/// The newest descriptor that is known.
const MAX_DESCRIPTOR_VERSION: u32 = 3;

impl Link {
    /// Refuses a link that must not be written to, by the name of what is in the way. A sparse extent that was opened
    /// without its descriptor is written to only if `bare` says so, and a tracked disk if `untracks`: because it will
    /// not be tracked any more by then.
    ///
    /// # Errors
    /// `Unsupported` for what is never written to; `Corrupt` where a write to one sector would change another;
    /// `InvalidInput` for a child that was opened without its parent.
    pub(crate) fn check_writable(&self, has_parent: bool, bare: bool, untracks: bool) -> Result<()> {
        let descriptor = self.descriptor();
        if self.is_child && !has_parent {
            let text = "a child that was opened without its parent cannot be written to: what only the parent has would be lost";
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        if !bare && self.lacks_descriptor() {
            let text = "a sparse extent without its descriptor may be a part of a disk, or a child of another one, and \
                        nobody would notice that it has changed: open the descriptor, or allow it (allow_bare_extent)";
            return Err(Error::text(ErrorKind::Unsupported, text));
        }
        if descriptor.change_track_path().is_some() && !untracks {
            return Err(tracked());
        }
        if let Some(what) = not_changeable(descriptor) {
            return Err(unsupported(&what));
        }
        for extent in self.extents().iter().filter(|extent| extent.access() == Access::ReadWrite) {
            if let Some(reason) = extent.header().and_then(SparseHeader::write_refusal) {
                let error = if extent.is_compressed() { compressed() } else { unsupported(reason) };
                return Err(match extent.file() {
                    Some(file) => error.in_file(file.path()),
                    None => error,
                });
            }
        }
        self.check_apart()
    }

    /// Whether it is a sparse extent of a kind that has a descriptor. Disks of VMware 2 and 3 have none.
    pub(crate) fn lacks_descriptor(&self) -> bool {
        let is_hosted_cowd = |header: &SparseHeader| header.as_cowd().is_some_and(CowdHeader::is_of_vmware_2_or_3);
        self.descriptor().as_bytes().is_empty() && !self.header().is_some_and(is_hosted_cowd)
    }

    /// Refuses a link in which two extents, or an extent and the descriptor, are in the same bytes of a file.
    fn check_apart(&self) -> Result<()> {
        let mut uses: Vec<_> = self.extents().iter().filter_map(use_of).collect();
        // Of a sparse file the extent and the descriptor are together; whatever else is in that file is not.
        let own = self.file.identity();
        let is_own = |extent: &Extent| extent.file().is_some_and(|file| file.identity() == own);
        if !self.extents().iter().any(|extent| extent.sparse().is_some() && is_own(extent)) {
            uses.push((own, 0..u64::MAX, false));
        }
        uses.sort_unstable_by_key(|(_, bytes, _)| bytes.start);
        // How far each file is used so far, and how far it is written to.
        let mut ends = std::collections::HashMap::<FileIdentity, (u64, u64)>::new();
        for (identity, bytes, writable) in uses {
            let (taken, written) = ends.entry(identity).or_default();
            if bytes.start < if writable { *taken } else { *written } {
                let text = "two extents, or an extent and the descriptor, lie in the same bytes of a file";
                return Err(Error::text(ErrorKind::Corrupt, text));
            }
            *taken = bytes.end.max(*taken);
            if writable {
                *written = bytes.end.max(*written);
            }
        }
        Ok(())
    }
}

const TRACKED: &str = "a change-tracked disk (changeTrackPath), whose tracking file would be wrong then,";

/// How the tracking of a disk ends.
const UNTRACK: &str = "stop_change_tracking, `vmdk untrack`";

/// What a descriptor says of its disk that has to be known to whoever changes it, and is not.
pub(crate) fn not_understood(descriptor: &Descriptor) -> Option<String> {
    if descriptor.change_track_path().is_some() {
        return Some(format!("{TRACKED} (end that first: {UNTRACK})"));
    }
    not_changeable(descriptor)
}

/// The same, apart from tracking.
pub(crate) fn not_changeable(descriptor: &Descriptor) -> Option<String> {
    if descriptor.version() > MAX_DESCRIPTOR_VERSION {
        return Some(format!("a descriptor of version {}", descriptor.version()));
    }
    descriptor.is_native_snapshot().then(|| "a native snapshot of a storage array (isNativeSnapshot)".to_owned())
}

/// The bytes of its file that an extent uses, and whether it takes writes.
fn use_of(extent: &Extent) -> Option<(FileIdentity, Range<u64>, bool)> {
    let bytes = match extent.file_offset() {
        Some(offset) => offset..offset.saturating_add(extent.sectors().saturating_mul(SECTOR_BYTES)),
        None => 0..u64::MAX,
    };
    Some((extent.file()?.identity(), bytes, extent.access() == Access::ReadWrite))
}

/// A grain of a stream cannot be replaced by one that needs more room, and no product tries to.
fn compressed() -> Error {
    let text = "a compressed extent (streamOptimized) is not written to: make a child of the disk and write to that \
                (create_child, `vmdk snapshot`), or convert the disk to another type (create_from, `vmdk convert --to \
                monolithicSparse`)";
    Error::text(ErrorKind::Unsupported, text)
}

fn tracked() -> Error {
    let text = format!(
        "{TRACKED} is not written to; open it read-only, write to a child of it, or give the tracking up: with the first write \
         (drop_change_tracking, `--drop-change-tracking` of the commands that write), or at once ({UNTRACK})"
    );
    Error::text(ErrorKind::Unsupported, text)
}

fn unsupported(what: &str) -> Error {
    Error::text(
        ErrorKind::Unsupported,
        format!("{what} is not written to; open it read-only, or write to a child of it"),
    )
}
