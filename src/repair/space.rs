//! Space that nothing names, given back: the file is cut behind what is used, and holes are made in between.

use std::ops::Range;

use super::changes::Changes;
use crate::check::leaked_in;
use crate::error::Result;
use crate::extent::Tables;
use crate::extent::audit::Audit;
use crate::sector::SECTOR_BYTES;

/// Gives back what an audit has found to be free, and takes space on the host.
pub(super) fn reclaim(tables: &Tables, audit: &mut Audit<'_>, changes: &mut Changes<'_>) -> Result<()> {
    let gaps = audit.gaps();
    let used = audit.taken().end().max(tables.layout().first_grain_sector) * SECTOR_BYTES;
    for gap in gaps {
        let gap: Range<u64> = gap.start * SECTOR_BYTES..gap.end * SECTOR_BYTES;
        if leaked_in(tables, &gap)? == 0 {
            continue;
        }
        if gap.start >= used {
            changes.cut(used)?;
        } else {
            changes.punch(gap)?;
        }
    }
    Ok(())
}
