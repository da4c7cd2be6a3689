//! Checked arithmetic between sectors and bytes, and the one range check.

use crate::error::{Error, Result};

/// Bytes in a sector. Always 512 in a VMDK, whatever the guest believes its disk to have.
pub const SECTOR_SIZE: usize = 512;

/// The same as the `u64` that offsets are made of.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// Zeros to write.
pub(crate) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The most sectors anything can have: host files are addressed with signed 64-bit byte offsets.
pub(crate) const MAX_SECTORS: u64 = i64::MAX as u64 / SECTOR_BYTES;

/// A length in memory. What does not fit is the largest there is, which no buffer has: the use of it fails cleanly.
pub(crate) fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Slices are compared many bytes at a time; so many zeros stay in the first-level cache beside what is looked at.
    bytes.chunks(4096).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Checks that `count` sectors from `start` lie within `capacity`. Nothing wraps, whatever the numbers.
pub(crate) fn check_range(start: u64, count: u64, capacity: u64) -> Result<()> {
    match start.checked_add(count) {
        Some(end) if end <= capacity => Ok(()),
        _ => Err(Error::out_of_range(start, count, capacity)),
    }
}

/// The number of sectors in a buffer of `len` bytes that is addressed at `start`: the range is checked before the
/// alignment, as [`BlockDevice`](crate::BlockDevice) promises.
pub(crate) fn check_buffer(start: u64, len: usize, capacity: u64) -> Result<u64> {
    let count = len.div_ceil(SECTOR_SIZE) as u64;
    check_range(start, count, capacity)?;
    if !len.is_multiple_of(SECTOR_SIZE) {
        return Err(Error::misaligned(len));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn the_end_is_in_range_only_for_nothing() {
        assert!(check_range(8, 0, 8).is_ok());
        assert_eq!(check_range(8, 1, 8).unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(check_range(9, 0, 8).unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(check_range(u64::MAX, 2, 8).unwrap_err().kind(), ErrorKind::OutOfRange);
    }

    #[test]
    fn the_range_is_checked_before_the_alignment() {
        assert_eq!(check_buffer(9, 3, 8).unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(check_buffer(7, 3, 8).unwrap_err().kind(), ErrorKind::Misaligned);
        assert_eq!(check_buffer(7, 512, 8).unwrap(), 1);
    }
}
