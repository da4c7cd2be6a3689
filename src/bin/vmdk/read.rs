//! `vmdk read`: bytes of the disk on standard output.

use std::io::{self, Read, Seek, SeekFrom, Write};

use vmdk::{BlockDevice, Cursor, SECTOR_SIZE, VmdkImage};

use crate::args::ReadArgs;
use crate::failure::{Failure, Result};

/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

pub(crate) fn run(args: &ReadArgs) -> Result<()> {
    let image = args.open.options().open(&args.image)?;
    check_range(args.offset, args.length, image.capacity_sectors().saturating_mul(SECTOR_SIZE as u64))?;
    copy(image, args.offset, args.length, &mut io::stdout().lock())
}

fn check_range(offset: u64, length: u64, size: u64) -> Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => {
            let text =
                format!("{length} bytes from offset {offset:#x} are not within the disk, which has {size} bytes");
            Err(Failure::Refused(text))
        }
    }
}

fn copy(image: VmdkImage, offset: u64, length: u64, output: &mut dyn Write) -> Result<()> {
    let mut cursor = Cursor::new(image);
    cursor.seek(SeekFrom::Start(offset)).map_err(vmdk::Error::from)?;
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(BUFFER).min(BUFFER)];
    let (mut at, mut left) = (offset, length);
    while left > 0 {
        let len = step(at, left);
        let buffer = &mut buffer[..len];
        cursor.read_exact(buffer).map_err(vmdk::Error::from)?;
        output.write_all(buffer).map_err(Failure::Output)?;
        at += len as u64;
        left -= len as u64;
    }
    output.flush().map_err(Failure::Output)
}

/// How many of the `left` bytes at `at` to read at once: up to a multiple of the buffer, so that only the first and
/// the last read have ragged ends.
fn step(at: u64, left: u64) -> usize {
    let aligned = BUFFER as u64 - at % BUFFER as u64;
    usize::try_from(left.min(aligned)).unwrap_or(BUFFER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_at_the_end_of_the_disk() {
        for (offset, length) in [(0, 0), (0, 512), (511, 1), (512, 0)] {
            assert!(check_range(offset, length, 512).is_ok(), "{offset} {length}");
        }
        for (offset, length) in [(0, 513), (512, 1), (513, 0), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(check_range(offset, length, 512).is_err(), "{offset} {length}");
        }
    }

    #[test]
    fn after_a_ragged_start_reads_are_aligned() {
        let mebibyte = BUFFER as u64;
        assert_eq!(step(7, 10), 10);
        assert_eq!(step(7, 10 * mebibyte), BUFFER - 7);
        assert_eq!(step(mebibyte, 10 * mebibyte), BUFFER);
        assert_eq!(step(mebibyte, 7), 7);
    }
}
