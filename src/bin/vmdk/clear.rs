//! `vmdk zero` and `vmdk discard`: bytes of the disk that are to be zeros, or are no longer needed.

use std::io::{Seek, SeekFrom, Write};

use vmdk::{BlockDevice, Cursor, SECTOR_SIZE, VmdkImage};

use crate::args::ClearArgs;
use crate::failure::{Failure, Result};
use crate::{range, untrack};

const SECTOR: u64 = SECTOR_SIZE as u64;

pub(crate) fn zero(args: &ClearArgs) -> Result<()> {
    let image = open(args)?;
    let end = args.offset + args.length;
    // The whole sectors within; there may be none.
    let first = args.offset.next_multiple_of(SECTOR).min(end);
    let last = (end / SECTOR * SECTOR).max(first);
    write_zeros(&image, args.offset, first - args.offset)?;
    image.write_zeroes(first.div_ceil(SECTOR), (last - first) / SECTOR, true)?;
    write_zeros(&image, last, end - last)?;
    finish(&image)
}

pub(crate) fn discard(args: &ClearArgs) -> Result<()> {
    if !args.offset.is_multiple_of(SECTOR) || !args.length.is_multiple_of(SECTOR) {
        let text = "only whole sectors can be discarded: the offset and the length must be multiples of 512";
        return Err(Failure::Refused(text.to_owned()));
    }
    let image = open(args)?;
    image.discard(args.offset / SECTOR, args.length / SECTOR)?;
    finish(&image)
}

fn open(args: &ClearArgs) -> Result<VmdkImage> {
    let image = args.options().open(&args.image)?;
    range::check(args.offset, args.length, range::size_of(&image))?;
    Ok(image)
}

/// Writes less than a sector of zeros.
fn write_zeros(image: &VmdkImage, offset: u64, length: u64) -> Result<()> {
    let zeros = [0; SECTOR_SIZE];
    let length = usize::try_from(length).unwrap_or(SECTOR_SIZE).min(SECTOR_SIZE);
    let mut cursor = Cursor::new(image);
    cursor.seek(SeekFrom::Start(offset)).map_err(vmdk::Error::from)?;
    cursor.write_all(&zeros[..length]).map_err(vmdk::Error::from)?;
    Ok(())
}

fn finish(image: &VmdkImage) -> Result<()> {
    let closed = image.flush().and_then(|()| image.close());
    untrack::tell(image);
    Ok(closed?)
}
