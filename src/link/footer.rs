//! The footer of a stream: the header once more, at the end, where the place of the grain directory is known.
//!
//! ```text
//! ... | GD | FOOTER marker | footer | EOS
//! ```
//!
//! Source: VMware's technical note "Virtual Disk Format 5.0". Files in the wild are longer, by zeros or by less than a
//! sector, or lack the EOS.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind, Result};
use crate::extent::HostFile;
use crate::format::{KdmvHeader, MARKER_LEN, Marker};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};

/// How far back a footer is looked for behind zeros: what storages and archives pad files to is less.
const MAX_ZEROS: u64 = 16 << 20;

/// Sectors that are looked at together on the way back.
const STEP: u64 = 128;

/// What to do about a stream that was cut.
pub(super) const SALVAGE: &str = "what is there can be read by its markers (OpenOptions::salvage, --salvage)";

/// The header that knows where the grain directory of an extent is: that in front, or the footer that it promises.
/// Where the header knows, no footer is looked for: without one, a guest's data may stand at the end of the file, and
/// look like anything.
///
/// # Errors
/// `Corrupt` for a stream that needs a footer and has none, and for a footer of another extent; what the host reports.
pub(super) fn header_with_directory<'a>(file: &HostFile, header: &'a KdmvHeader) -> Result<Cow<'a, KdmvHeader>> {
    if !header.is_compressed() || !header.is_directory_at_end() {
        return Ok(Cow::Borrowed(header));
    }
    let sectors = file.len() / SECTOR_BYTES;
    let footer = match footer_at(file, sectors.checked_sub(3))? {
        None => footer_at(file, last_data(file, sectors)?)?,
        found => found,
    };
    match footer {
        Some((footer, _)) if footer.is_directory_at_end() => Err(missing(file, header)),
        Some((footer, offset)) => match disagreement(header, &footer) {
            None => Ok(Cow::Owned(footer)),
            Some(what) => {
                let text = format!("the footer at offset {offset:#x} has another {what} than the header");
                Err(Error::text(ErrorKind::Corrupt, text).with_advice(SALVAGE))
            }
        },
        None => Err(missing(file, header)),
    }
}

/// The footer behind a marker at a sector of the file, and its offset in bytes.
fn footer_at(file: &HostFile, sector: Option<u64>) -> Result<Option<(KdmvHeader, u64)>> {
    let Some(marker_at) = sector.and_then(|sector| sector.checked_mul(SECTOR_BYTES)) else { return Ok(None) };
    let mut bytes = [0; 2 * SECTOR_SIZE];
    file.read(&mut bytes, marker_at)?;
    let is_marked = bytes.first_chunk::<MARKER_LEN>().map(Marker::decode) == Some(Marker::Footer { sectors: 1 });
    let footer = bytes.last_chunk::<SECTOR_SIZE>().and_then(KdmvHeader::decode);
    let footer = footer.filter(|footer| is_marked && footer.check_readable(true).is_ok());
    Ok(footer.map(|footer| (footer, marker_at + SECTOR_BYTES)))
}

/// The sector in front of the last one that is not all zeros; that would be the marker of the footer.
fn last_data(file: &HostFile, sectors: u64) -> Result<Option<u64>> {
    let lowest = sectors.saturating_sub(MAX_ZEROS / SECTOR_BYTES);
    let mut bytes = vec![0; to_usize(STEP) * SECTOR_SIZE];
    let mut end = sectors;
    while end > lowest {
        let start = end.saturating_sub(STEP).max(lowest);
        let part = &mut bytes[..to_usize(end - start) * SECTOR_SIZE];
        file.read(part, start * SECTOR_BYTES)?;
        let last = part.chunks(SECTOR_SIZE).rposition(|sector| sector.iter().any(|&byte| byte != 0));
        if let Some(last) = last {
            return Ok((start + last as u64).checked_sub(1));
        }
        end = start;
    }
    Ok(None)
}

/// What a footer has that its header has not.
fn disagreement(header: &KdmvHeader, footer: &KdmvHeader) -> Option<&'static str> {
    if header.capacity != footer.capacity {
        Some("capacity")
    } else if header.grain_size != footer.grain_size {
        Some("grain size")
    } else if header.gtes_per_gt != footer.gtes_per_gt {
        Some("size of grain tables")
    } else if header.flags != footer.flags {
        Some("set of flags")
    } else {
        None
    }
}

fn missing(file: &HostFile, header: &KdmvHeader) -> Error {
    let problem = format!(
        "the grain directory is at the end of the stream, but the footer that knows where is missing: the file was cut \
         ({} bytes)",
        file.len()
    );
    header.bad_directory(problem).with_advice(SALVAGE)
}
