//! What the headers of a disk of VMware 3 say of all its files together.
//!
//! Nothing here says how large it is for this crate, or for the products that it was made for; Bochs goes by it. So it
//! comes last, and the same call made again mends it.

use crate::error::Result;
use crate::extent::Extent;
use crate::extent::resizing::follow_disk;
use crate::format::SparseHeader;

/// Lets the headers of all files say that the disk has so many sectors, durably, if they say it at all.
pub(super) fn follow(extents: &[Extent], capacity: u64) -> Result<()> {
    for extent in extents {
        if let (Some(SparseHeader::Cowd(_)), Some(file)) = (extent.header(), extent.file()) {
            follow_disk(file, capacity)?;
        }
    }
    Ok(())
}
