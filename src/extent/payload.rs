//! What a guest writes: bytes, slices of bytes, or zeros; and how several slices go to the host at once.

use std::io::IoSlice;

use super::HostFile;
use crate::error::Result;
use crate::sector::{SECTOR_SIZE, ZEROS, to_usize};

/// Slices that go to the host together. They stand on the stack: writing takes no memory.
const BATCH: usize = 64;

/// The content of some sectors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload<'a> {
    Bytes(&'a [u8]),
    /// `len` bytes of the slices, from their byte `skip` on.
    Slices {
        slices: &'a [IoSlice<'a>],
        skip: usize,
        len: usize,
    },
    Zeros {
        sectors: u64,
    },
}

impl<'a> Payload<'a> {
    #[inline]
    pub(crate) fn sectors(self) -> u64 {
        match self {
            Self::Bytes(bytes) => (bytes.len() / SECTOR_SIZE) as u64,
            Self::Slices { len, .. } => (len / SECTOR_SIZE) as u64,
            Self::Zeros { sectors } => sectors,
        }
    }

    #[inline]
    pub(crate) fn is_empty(self) -> bool {
        self.sectors() == 0
    }

    /// The first `sectors` sectors and the rest.
    #[inline]
    pub(crate) fn split(self, sectors: u64) -> (Self, Self) {
        let sectors = sectors.min(self.sectors());
        let at = to_usize(sectors).saturating_mul(SECTOR_SIZE);
        match self {
            Self::Bytes(bytes) => {
                let (head, tail) = bytes.split_at(at);
                (Self::Bytes(head), Self::Bytes(tail))
            }
            Self::Slices { slices, skip, len } => {
                let (slices, skip) = advance(slices, skip);
                (Self::Slices { slices, skip, len: at }, Self::Slices { slices, skip: skip + at, len: len - at })
            }
            Self::Zeros { sectors: all } => (Self::Zeros { sectors }, Self::Zeros { sectors: all - sectors }),
        }
    }

    /// Whether it is nothing but zeros.
    pub(crate) fn is_zero(self) -> bool {
        matches!(self, Self::Zeros { .. }) || self.parts().all(|part| part.iter().all(|&byte| byte == 0))
    }

    /// Copies it to `to`, which has its length.
    pub(crate) fn copy_to(self, mut to: &mut [u8]) {
        for part in self.parts() {
            let (head, tail) = to.split_at_mut(part.len());
            head.copy_from_slice(part);
            to = tail;
        }
    }

    /// Writes it to a file.
    #[inline]
    pub(crate) fn write(self, file: &HostFile, offset: u64) -> Result<()> {
        match self {
            Self::Bytes(bytes) => file.write(bytes, offset),
            _ => write_parts(file, offset, self.parts()),
        }
    }

    /// It, one part after the other.
    pub(crate) fn parts(self) -> Parts<'a> {
        Parts(self)
    }
}

/// Leaves out the slices that lie before the byte `skip`.
fn advance<'a>(mut slices: &'a [IoSlice<'a>], mut skip: usize) -> (&'a [IoSlice<'a>], usize) {
    while let Some((first, rest)) = slices.split_first() {
        if skip < first.len() {
            break;
        }
        skip -= first.len();
        slices = rest;
    }
    (slices, skip)
}

/// The parts of a payload; none of them is empty.
pub(crate) struct Parts<'a>(Payload<'a>);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match &mut self.0 {
            Payload::Bytes([]) | Payload::Slices { len: 0, .. } | Payload::Zeros { sectors: 0 } => None,
            Payload::Bytes(bytes) => Some(std::mem::take(bytes)),
            Payload::Slices { slices, skip, len } => {
                (*slices, *skip) = advance(slices, *skip);
                let slices: &'a [IoSlice<'a>] = slices;
                let rest = slices.first()?.get(*skip..)?;
                let part = &rest[..rest.len().min(*len)];
                *skip += part.len();
                *len -= part.len();
                Some(part)
            }
            Payload::Zeros { sectors } => {
                let now = (*sectors).min((ZEROS.len() / SECTOR_SIZE) as u64);
                *sectors -= now;
                Some(&ZEROS[..to_usize(now) * SECTOR_SIZE])
            }
        }
    }
}

/// Writes parts one after the other, many at once. No sector is written in two calls: a crash between them would leave
/// a part of it.
pub(crate) fn write_parts<'a>(file: &HostFile, mut offset: u64, parts: impl Iterator<Item = &'a [u8]>) -> Result<()> {
    let mut parts = parts.peekable();
    while parts.peek().is_some() {
        let mut batch = [IoSlice::new(&[]); BATCH];
        let (mut count, mut len) = (0, 0);
        while let Some(part) = parts.next_if(|_| count < BATCH) {
            batch[count] = IoSlice::new(part);
            count += 1;
            len += part.len();
        }
        if parts.peek().is_some() && !len.is_multiple_of(SECTOR_SIZE) {
            let mut rest = batch[..count].iter().map(|part| &**part).collect::<Vec<_>>().concat();
            parts.for_each(|part| rest.extend_from_slice(part));
            return file.write(&rest, offset);
        }
        match &mut batch[..count] {
            [one] => file.write(one, offset)?,
            several => file.write_vectored(several, len, offset)?,
        }
        offset += len as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;
    use std::path::PathBuf;
    use std::sync::Arc;

    fn written(payload: Payload<'_>) -> Vec<u8> {
        let storage = Arc::new(MemoryStorage::new([9; 2]));
        let file = HostFile::new(PathBuf::from("a"), storage.clone()).unwrap();
        payload.write(&file, 2).unwrap();
        storage.to_vec()[2..].to_vec()
    }

    #[test]
    fn slices_are_split_and_written_in_order() {
        let bytes: Vec<u8> = (0..=250).cycle().take(4 * 512).collect();
        let cuts = [0, 100, 100, 700, 1024, 1025, 2048];
        let slices: Vec<_> = cuts.windows(2).map(|cut| IoSlice::new(&bytes[cut[0]..cut[1]])).collect();
        let payload = Payload::Slices { slices: &slices, skip: 0, len: bytes.len() };
        assert_eq!(payload.sectors(), 4);
        assert_eq!(written(payload), bytes);
        for sectors in 0..=4 {
            let (head, tail) = payload.split(sectors);
            let at = to_usize(sectors) * 512;
            assert_eq!([head.sectors(), tail.sectors()], [sectors, 4 - sectors]);
            let mut copy = vec![0; 2048 - at];
            tail.copy_to(&mut copy);
            assert_eq!(copy, bytes[at..]);
            let (one, rest) = tail.split(1);
            assert_eq!(written(one), bytes[at..].iter().take(512).copied().collect::<Vec<_>>());
            assert_eq!(rest.sectors(), 3_u64.saturating_sub(sectors));
        }
    }

    #[test]
    fn more_slices_than_go_at_once_are_written_all_the_same() {
        let bytes = [[1; 256], [2; 256]];
        let slices: Vec<_> = (0..2 * BATCH + 2).map(|slice| IoSlice::new(&bytes[slice % 2])).collect();
        let payload = Payload::Slices { slices: &slices, skip: 0, len: slices.len() * 256 };
        assert_eq!(written(payload), [[1; 256], [2; 256]].concat().repeat(BATCH + 1));
        assert!(!payload.is_zero());
    }

    #[test]
    fn zeros_are_zeros() {
        let payload = Payload::Zeros { sectors: 300 };
        assert_eq!(written(payload), vec![0; 300 * 512]);
        assert!(payload.is_zero() && Payload::Bytes(&[0; 512]).is_zero());
        assert!(!Payload::Bytes(&[1; 512]).is_zero());
    }
}
