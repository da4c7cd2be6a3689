//! Whether two disks hold the same.

use std::ops::ControlFlow;

use crate::block_device::BlockDevice;
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::image::CopyProgress;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};
use crate::survey::{STEP, Survey};

/// What [`compare`] found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// The first byte of the disks that differs; `None` if the content is the same. Past its end a disk counts as
    /// zeros.
    pub first_difference: Option<u64>,
    /// The sizes of the two disks in bytes.
    pub sizes: (u64, u64),
}

impl Comparison {
    /// Whether both disks hold the same, where a disk that is larger has nothing but zeros more.
    pub fn is_same_content(&self) -> bool {
        self.first_difference.is_none()
    }

    /// Whether both disks are equally large.
    pub fn is_same_size(&self) -> bool {
        self.sizes.0 == self.sizes.1
    }
}

/// Compares what a guest sees of two disks, up to the first difference. How they keep it does not matter, and what
/// both say to be zero is not read. If one is larger, the rest of it must be zeros to be the same.
///
/// `progress` is called for every MiB that had to be read, for each range that had not, and once at the end, with the
/// size of the larger disk as the total; it stops the work by breaking. Two buffers of 1 MiB is all the memory that is
/// used.
///
/// # Errors
/// As for reading; [`Cancelled`](ErrorKind::Cancelled) when `progress` breaks;
/// [`InvalidInput`](ErrorKind::InvalidInput) for a device that claims more than a disk can have.
pub fn compare(
    a: &dyn BlockDevice,
    b: &dyn BlockDevice,
    progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<Comparison> {
    let (mut a, mut b) = (Side::new(a)?, Side::new(b)?);
    let sectors = (a.survey.capacity(), b.survey.capacity());
    let sizes = (sectors.0 * SECTOR_BYTES, sectors.1 * SECTOR_BYTES);
    let end = sectors.0.max(sectors.1);
    let mut sector = 0;
    while sector < end {
        let until = sector + STEP;
        let (in_a, in_b) = (a.survey.at(sector, until, end)?, b.survey.at(sector, until, end)?);
        let alike = in_a.until.min(in_b.until) - sector;
        let count = if in_a.is_zero && in_b.is_zero { alike } else { alike.min(STEP) };
        let difference = match (in_a.is_zero, in_b.is_zero) {
            (true, true) => None,
            (true, false) => first_nonzero(b.read(sector, count)?),
            (false, true) => first_nonzero(a.read(sector, count)?),
            (false, false) => first_difference(a.read(sector, count)?, b.read(sector, count)?),
        };
        if let Some(within) = difference {
            let first_difference = Some(sector * SECTOR_BYTES + within as u64);
            return Ok(Comparison { first_difference, sizes });
        }
        sector += count;
        let now = CopyProgress { done: sector * SECTOR_BYTES, total: end * SECTOR_BYTES };
        if progress(now).is_break() {
            return Err(Error::text(ErrorKind::Cancelled, "the comparison was stopped"));
        }
    }
    Ok(Comparison { first_difference: None, sizes })
}

/// One of the disks, and room for a part of it.
struct Side<'a> {
    survey: Survey<'a>,
    buffer: Buffer,
}

impl<'a> Side<'a> {
    fn new(device: &'a dyn BlockDevice) -> Result<Self> {
        Ok(Self { survey: Survey::new(device)?, buffer: Buffer::new(to_usize(STEP) * SECTOR_SIZE) })
    }

    fn read(&mut self, sector: u64, count: u64) -> Result<&[u8]> {
        let buffer = &mut self.buffer[..to_usize(count) * SECTOR_SIZE];
        self.survey.device().read_sectors(sector, buffer)?;
        Ok(buffer)
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    // Whether slices are equal is known many times faster than where they are not.
    if a == b { None } else { a.iter().zip(b).position(|(a, b)| a != b) }
}

fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    static ZEROS: [u8; 4096] = [0; 4096];
    let chunk = bytes.chunks(ZEROS.len()).position(|chunk| chunk != &ZEROS[..chunk.len()])?;
    let start = chunk * ZEROS.len();
    bytes[start..].iter().position(|&byte| byte != 0).map(|within| start + within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_is_not_zero_is_found_in_any_chunk() {
        assert_eq!(first_nonzero(&[]), None);
        for len in [1, 4095, 4096, 4097, 10_000] {
            let mut bytes = vec![0; len];
            assert_eq!(first_nonzero(&bytes), None, "{len}");
            for at in [len - 1, len / 2, 0] {
                bytes[at] = 1;
                assert_eq!(first_nonzero(&bytes), Some(at), "{len}");
            }
        }
    }
}
