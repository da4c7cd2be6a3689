//! Ranges of bytes of a disk, and the steps in which they are moved.

use vmdk::{BlockDevice, SECTOR_SIZE};

use crate::failure::{Failure, Result};

/// Bytes that are moved at once.
pub(crate) const BUFFER: usize = 1 << 20;

/// The size of a disk in bytes.
pub(crate) fn size_of(disk: &dyn BlockDevice) -> u64 {
    disk.capacity_sectors().saturating_mul(SECTOR_SIZE as u64)
}

/// Refuses a range that is not wholly within a disk of `size` bytes.
pub(crate) fn check(offset: u64, length: u64, size: u64) -> Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => {
            let text =
                format!("{length} bytes from offset {offset:#x} are not within the disk, which has {size} bytes");
            Err(Failure::Refused(text))
        }
    }
}

/// How many of the `left` bytes at `at` to move at once: up to a multiple of the buffer, so that only the first and
/// the last step have ragged ends.
pub(crate) fn step(at: u64, left: u64) -> usize {
    let aligned = BUFFER as u64 - at % BUFFER as u64;
    usize::try_from(left.min(aligned)).unwrap_or(BUFFER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_at_the_end_of_the_disk() {
        for (offset, length) in [(0, 0), (0, 512), (511, 1), (512, 0)] {
            assert!(check(offset, length, 512).is_ok(), "{offset} {length}");
        }
        for (offset, length) in [(0, 513), (512, 1), (513, 0), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(check(offset, length, 512).is_err(), "{offset} {length}");
        }
    }

    #[test]
    fn after_a_ragged_start_steps_are_aligned() {
        let mebibyte = BUFFER as u64;
        assert_eq!(step(7, 10), 10);
        assert_eq!(step(7, 10 * mebibyte), BUFFER - 7);
        assert_eq!(step(mebibyte, 10 * mebibyte), BUFFER);
        assert_eq!(step(mebibyte, 7), 7);
    }
}
