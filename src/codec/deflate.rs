//! The content of grains, compressed.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::incompressible::is_incompressible;
use crate::format::GRAIN_MARKER_LEN;

/// The most bytes of a stored block (RFC 1951).
const MAX_STORED: usize = u16::MAX as usize;

/// What a zlib container begins with that promises nothing about the effort that was made.
const ZLIB_HEADER: [u8; 2] = [0x78, 0x01];

/// The modulus of Adler-32 (RFC 1950).
const ADLER_BASE: u32 = 65_521;

/// Bytes that are summed up before the modulus is taken: the sums fit into 32 bits for up to 5552 of them.
const ADLER_STEP: usize = 5536;

/// What compresses one grain after the other. Its memory is used again for each of them.
#[derive(Debug)]
pub(crate) struct Deflater {
    zlib: Compress,
}

impl Deflater {
    /// Levels are those of zlib, 1 to 9.
    pub(crate) fn new(level: u32) -> Self {
        Self { zlib: Compress::new(Compression::new(level), true) }
    }

    /// The most bytes that become of a grain of `len` bytes.
    pub(crate) fn most(len: usize) -> usize {
        ZLIB_HEADER.len() + len + 5 * len.div_ceil(MAX_STORED).max(1) + 4
    }

    /// Writes the compressed form of `grain` to the beginning of `data`, which has room for [`most`](Self::most); says
    /// how long it is. What cannot be made shorter, by a sector with the marker in front, is stored as it is: that is
    /// written and read several times as fast.
    pub(crate) fn grain(&mut self, grain: &[u8], data: &mut [u8]) -> usize {
        if is_incompressible(grain) {
            return store(grain, data);
        }
        self.zlib.reset();
        let room = grain.len().saturating_sub(GRAIN_MARKER_LEN).min(data.len());
        match self.zlib.compress(grain, &mut data[..room], FlushCompress::Finish) {
            Ok(Status::StreamEnd) => usize::try_from(self.zlib.total_out()).unwrap_or(room),
            _ => store(grain, data),
        }
    }
}

/// Writes `grain` as it is, in a zlib container; says how long that is.
fn store(grain: &[u8], data: &mut [u8]) -> usize {
    let mut end = 0;
    let mut put = |bytes: &[u8]| {
        data[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    };
    put(&ZLIB_HEADER);
    let mut left = grain;
    loop {
        let (block, rest) = left.split_at(left.len().min(MAX_STORED));
        let len = u16::try_from(block.len()).unwrap_or(u16::MAX);
        put(&[rest.is_empty().into()]);
        put(&len.to_le_bytes());
        put(&(!len).to_le_bytes());
        put(block);
        if rest.is_empty() {
            break;
        }
        left = rest;
    }
    put(&adler32(grain).to_be_bytes());
    end
}

/// The checksum of the container.
fn adler32(bytes: &[u8]) -> u32 {
    let (mut sum, mut sums) = (1_u32, 0_u32);
    for step in bytes.chunks(ADLER_STEP) {
        let (blocks, rest) = step.as_chunks::<32>();
        for block in blocks {
            // In this form a compiler sums up many bytes at once.
            let (mut plain, mut weighted) = (0_u32, 0_u32);
            for (&byte, weight) in block.iter().zip((1..=32_u32).rev()) {
                plain += u32::from(byte);
                weighted += weight * u32::from(byte);
            }
            sums += 32 * sum + weighted;
            sum += plain;
        }
        for &byte in rest {
            sum += u32::from(byte);
            sums += sum;
        }
        sum %= ADLER_BASE;
        sums %= ADLER_BASE;
    }
    sums << 16 | sum
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Inflater;
    use super::*;
    use proptest::prelude::*;
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    const GRAIN: usize = 65_536;

    pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
        let hasher = BuildHasherDefault::<DefaultHasher>::new();
        (0..len.div_ceil(8) as u64).flat_map(|at| hasher.hash_one((seed, at)).to_le_bytes()).take(len).collect()
    }

    fn deflated(level: u32, grain: &[u8]) -> Vec<u8> {
        let mut data = vec![0xee; Deflater::most(grain.len())];
        let len = Deflater::new(level).grain(grain, &mut data);
        data.truncate(len);
        data
    }

    fn inflated(data: &[u8], len: usize) -> Vec<u8> {
        let mut grain = vec![0xee; len];
        Inflater::new(false).grain(data, &mut grain, len).unwrap();
        grain
    }

    #[test]
    fn what_is_written_is_read_back_at_every_level() {
        let text: Vec<u8> = (0..GRAIN).map(|at| b"in the beginning was the word\n"[at * at / 7 % 30]).collect();
        for level in 1..=9 {
            for grain in [&text[..], &noise(1, GRAIN), &vec![7; GRAIN], &[noise(2, 60_000), vec![1; 5536]].concat()] {
                let data = deflated(level, grain);
                assert_eq!(inflated(&data, GRAIN), grain, "{level}");
                assert!(data.len() <= Deflater::most(GRAIN));
            }
        }
    }

    #[test]
    fn noise_is_stored_in_two_blocks() {
        let data = deflated(6, &noise(3, GRAIN));
        assert_eq!((data.len(), &data[..2]), (65_552, &ZLIB_HEADER[..]));
        assert_eq!(data.len(), Deflater::most(GRAIN));
    }

    /// Less would not be written in fewer sectors.
    #[test]
    fn what_saves_no_sector_is_stored() {
        let mut grain = noise(4, GRAIN);
        for at in 0..GRAIN {
            let data = deflated(6, &grain);
            assert!(data.len() == 65_552 || (12 + data.len()).div_ceil(512) <= 128, "{at}: {}", data.len());
            if data.len() < 65_552 {
                return;
            }
            for step in 0..16 {
                grain[at * 16 + step] = 0;
            }
        }
        panic!("zeros are compressed");
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1950() {
        assert_eq!(adler32(b""), 1);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
        // The largest sums that there can be; the value is by Python's zlib.
        assert_eq!(adler32(&vec![0xff; GRAIN]), 0x7797_0ef2);
    }

    /// A container has one block at least (RFC 1951), and the last one says so.
    #[test]
    fn a_stored_grain_is_read_back_where_its_blocks_end() {
        for len in [0, 1, MAX_STORED - 1, MAX_STORED, MAX_STORED + 1, 2 * MAX_STORED] {
            let grain = noise(5, len);
            let mut data = vec![0; Deflater::most(len)];
            assert_eq!(store(&grain, &mut data), data.len(), "{len}");
            assert_eq!(inflated(&data, len), grain, "{len}");
        }
    }

    proptest! {
        #[test]
        fn a_stored_grain_of_any_length_is_read_back(len in 0..2 * GRAIN, seed: u64) {
            let grain = noise(seed, len);
            let mut data = vec![0; Deflater::most(len)];
            let stored = store(&grain, &mut data);
            prop_assert_eq!(stored, data.len());
            prop_assert_eq!(inflated(&data, len), grain);
        }
    }
}
