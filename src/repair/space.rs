//! Space that nothing names, given back: the file is cut behind what is used, and holes are made in between.

use std::ops::Range;

use super::changes::Changes;
use crate::check::leaked_in;
use crate::error::Result;
use crate::extent::Tables;
use crate::extent::audit::Audit;
use crate::format::HeaderMark;
use crate::sector::SECTOR_BYTES;

/// Gives back what an audit has found to be free, and takes space on the host.
pub(super) fn reclaim(tables: &Tables, audit: &mut Audit<'_>, changes: &mut Changes<'_>) -> Result<()> {
    let gaps = audit.gaps();
    let used = audit.taken().end().max(tables.layout().first_grain_sector).max(free_sector(tables)?) * SECTOR_BYTES;
    for gap in gaps {
        let gap: Range<u64> = gap.start * SECTOR_BYTES..gap.end * SECTOR_BYTES;
        if leaked_in(tables, &gap)? == 0 {
            continue;
        }
        if gap.start >= used {
            changes.cut(used)?;
        } else {
            punch_data(tables, &gap, changes)?;
        }
    }
    Ok(())
}

/// Makes holes of what has space; where a host has no holes, what is zero already is not written again.
fn punch_data(tables: &Tables, gap: &Range<u64>, changes: &mut Changes<'_>) -> Result<()> {
    let mut at = gap.start;
    while let Some(data) = tables.file().next_data(at)?.filter(|data| data.start < gap.end) {
        // A gap is whole sectors; where its data begins and ends, the host may count otherwise.
        let start = data.start.max(at) / SECTOR_BYTES * SECTOR_BYTES;
        at = data.end.next_multiple_of(SECTOR_BYTES).min(gap.end);
        changes.punch(start..at)?;
    }
    Ok(())
}

/// The sector from which on other writers of a COWD extent go on: it must lie within the file.
fn free_sector(tables: &Tables) -> Result<u64> {
    let HeaderMark::FreeSector { at, .. } = tables.layout().mark else { return Ok(0) };
    let mut value = [0; 4];
    tables.file().read(&mut value, at)?;
    Ok(u32::from_le_bytes(value).into())
}
