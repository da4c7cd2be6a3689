//! Compressed grains back to their content.

use flate2::{Decompress, FlushDecompress, Status};

/// What inflates one grain after the other. Its memory is used again for each of them.
#[derive(Debug)]
pub(crate) struct Inflater {
    zlib: Decompress,
    /// There if data without zlib's container is read, too.
    raw: Option<Decompress>,
}

impl Inflater {
    /// Data without a zlib header is taken for deflate without a container if `allow_raw` says so.
    pub(crate) fn new(allow_raw: bool) -> Self {
        Self { zlib: Decompress::new(true), raw: allow_raw.then(|| Decompress::new(false)) }
    }

    /// Fills `grain` with what `data` holds, of which there must be `needed` bytes at least. What is missing behind
    /// these becomes zero. What lies behind the end of the compressed data is ignored.
    ///
    /// # Errors
    /// What is wrong with the data. `grain` may hold anything then.
    pub(crate) fn grain(&mut self, data: &[u8], grain: &mut [u8], needed: usize) -> Result<(), &'static str> {
        let (inflate, has_container) = match &mut self.raw {
            Some(raw) if !has_zlib_header(data) => (raw, false),
            _ => (&mut self.zlib, true),
        };
        inflate.reset(has_container);
        let status = inflate.decompress(data, grain, FlushDecompress::Finish);
        let len = usize::try_from(inflate.total_out()).unwrap_or(usize::MAX).min(grain.len());
        match status {
            Ok(Status::StreamEnd) if len >= needed => {
                grain[len..].fill(0);
                Ok(())
            }
            Ok(Status::StreamEnd) => Err("the compressed data holds less than its grain"),
            Ok(Status::Ok | Status::BufError) if len == grain.len() => {
                Err("the compressed data holds more than its grain, or ends too early")
            }
            Ok(Status::Ok | Status::BufError) => Err("the compressed data ends too early"),
            Err(_) if has_container && !has_zlib_header(data) => Err("the data of the grain has no zlib header"),
            Err(_) => Err("the compressed data is damaged, or its checksum is wrong"),
        }
    }
}

/// Whether data begins as RFC 1950 has it: method 8, a window of up to 32 KiB, no dictionary, and a multiple of 31.
fn has_zlib_header(data: &[u8]) -> bool {
    let &[method, flags, ..] = data else { return false };
    method & 0x0f == 8
        && method >> 4 <= 7
        && flags & 0x20 == 0
        && u16::from_be_bytes([method, flags]).is_multiple_of(31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, ZlibEncoder};
    use std::io::Write;

    const GRAIN: usize = 4096;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at * at / 7 % 256).unwrap()).collect()
    }

    fn zlib(content: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn raw(content: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn inflated(inflater: &mut Inflater, data: &[u8], needed: usize) -> Result<Vec<u8>, &'static str> {
        let mut grain = vec![0xee; GRAIN];
        inflater.grain(data, &mut grain, needed).map(|()| grain)
    }

    #[test]
    fn every_level_is_read_one_grain_after_the_other() {
        let mut inflater = Inflater::new(false);
        for level in 0..=9 {
            assert_eq!(inflated(&mut inflater, &zlib(&content(GRAIN), level), GRAIN), Ok(content(GRAIN)));
            assert!(inflated(&mut inflater, &[0x78], GRAIN).is_err());
        }
    }

    #[test]
    fn a_short_grain_is_filled_with_zeros_where_that_is_allowed() {
        let mut inflater = Inflater::new(false);
        let data = zlib(&content(1024), 6);
        let padded = [content(1024), vec![0; GRAIN - 1024]].concat();
        assert_eq!(inflated(&mut inflater, &data, 1024), Ok(padded.clone()));
        assert_eq!(inflated(&mut inflater, &data, 0), Ok(padded));
        assert_eq!(inflated(&mut inflater, &data, 1025), Err("the compressed data holds less than its grain"));
    }

    #[test]
    fn nothing_is_inflated_beyond_the_grain() {
        let mut inflater = Inflater::new(false);
        for len in [GRAIN + 1, 2 * GRAIN, 64 << 20] {
            assert!(
                inflated(&mut inflater, &zlib(&vec![0; len], 9), GRAIN).unwrap_err().contains("more than its grain")
            );
        }
        assert!(inflated(&mut inflater, &zlib(&vec![0; GRAIN], 9), GRAIN).is_ok());
    }

    #[test]
    fn cut_and_changed_data_is_an_error_at_every_byte() {
        let mut inflater = Inflater::new(false);
        let good = zlib(&content(GRAIN), 6);
        for cut in 0..good.len() {
            assert!(inflated(&mut inflater, &good[..cut], GRAIN).is_err(), "{cut}");
        }
        // The checksum is wrong where nothing else is.
        for at in good.len() - 4..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(inflated(&mut inflater, &bad, GRAIN).unwrap_err().contains("checksum"), "{at}");
        }
        assert!(inflated(&mut inflater, &[&good[..], b"behind"].concat(), GRAIN).is_ok());
    }

    #[test]
    fn deflate_without_a_container_is_read_only_if_that_is_allowed() {
        let data = raw(&content(GRAIN));
        assert_eq!(inflated(&mut Inflater::new(true), &data, GRAIN), Ok(content(GRAIN)));
        let refused = inflated(&mut Inflater::new(false), &data, GRAIN);
        assert_eq!(refused, Err("the data of the grain has no zlib header"));
        let mut bad = zlib(&content(GRAIN), 6);
        *bad.last_mut().unwrap() ^= 1;
        assert!(inflated(&mut Inflater::new(true), &bad, GRAIN).is_err(), "a container is what it says to be");
    }
}
