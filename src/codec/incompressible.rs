//! Whether a grain is worth the search for something to leave out.
//!
//! Encrypted and compressed files are noise, and to search noise for repeats takes longer than to compress anything
//! else. Noise is known by three signs, each of which costs little beside that search:
//!
//! ```text
//! each 4 KiB   all bytes are about equally frequent   ordinary data ends here, mostly at once
//! the grain    likewise: no code would save more than a few dozen bytes
//! the grain    nothing in it comes twice
//! ```

/// Bytes that are judged by themselves. In fewer, ordinary data could pass for noise.
const PART: usize = 4096;

/// How far from even the bytes of noise can be: chi-squared, over 256 values. Its mean is 255 and its standard
/// deviation 22.6; what gzip writes is less even than that, and still hardly compressed. An excess divided by `2 * ln
/// 2` is the number of bits that a code of the best lengths would save: 40 bytes here, a third of what the code itself
/// takes. More even than chance has it is a pattern, too.
const NOISE: std::ops::RangeInclusive<u64> = 128..=700;

/// The same for a whole grain: at most 67 bytes would be saved. Of 560 grains of gzip's output within this limit, 74
/// would become a sector shorter, and all of them together by 14 KB of 36 MB.
const NOISE_OF_GRAIN: std::ops::RangeInclusive<u64> = 128..=1000;

/// Bytes that are looked for elsewhere in the grain.
const WINDOW: usize = 8;

/// Of the windows those are remembered whose hash begins with so many zero bits: one in 32, wherever it comes.
const SAMPLED_BITS: u32 = 5;

/// Places for windows: twice as many as are sampled in a grain of 64 KiB.
const SLOT_BITS: u32 = 12;

/// Bytes of repeats that are worth compressing for: they would save a sector, or nearly so.
const WORTHWHILE: usize = 64;

/// A multiplier that spreads all bits of a window over the upper bits of the product (Knuth's, the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whether `grain`, of at most 64 KiB, is noise.
pub(super) fn is_incompressible(grain: &[u8]) -> bool {
    if grain.len() < PART {
        return false;
    }
    let mut total = [0; 256];
    let (parts, rest) = grain.as_chunks::<PART>();
    for part in parts {
        let counts = count(part);
        if !NOISE.contains(&unevenness(&counts, PART)) {
            return false;
        }
        total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    total.iter_mut().zip(count(rest)).for_each(|(total, count)| *total += count);
    NOISE_OF_GRAIN.contains(&unevenness(&total, grain.len())) && !has_repeats(grain)
}

fn count(bytes: &[u8]) -> [u32; 256] {
    let mut counts = [0; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    counts
}

/// Chi-squared of so many bytes against all values being equally frequent.
fn unevenness(counts: &[u32; 256], len: usize) -> u64 {
    let squares: u64 = counts.iter().map(|&count| u64::from(count) * u64::from(count)).sum();
    (256 * squares / len as u64).saturating_sub(len as u64)
}

/// Whether enough of the grain comes a second time.
fn has_repeats(grain: &[u8]) -> bool {
    let mut slots = [0_u16; 1 << SLOT_BITS];
    let (mut at, mut repeated) = (0, 0);
    while let Some(window) = window_at(grain, at) {
        let hash = window.wrapping_mul(SPREAD);
        if hash >> (u64::BITS - SAMPLED_BITS) != 0 {
            at += 1;
            continue;
        }
        let slot = usize::try_from(hash >> (u64::BITS - SAMPLED_BITS - SLOT_BITS)).unwrap_or(0);
        let before = usize::from(slots[slot]);
        slots[slot] = u16::try_from(at).unwrap_or(0);
        if before < at && window_at(grain, before) == Some(window) {
            let len = grain[before..].iter().zip(&grain[at..]).take_while(|(a, b)| a == b).count();
            repeated += len;
            if repeated >= WORTHWHILE {
                return true;
            }
            at += len;
        } else {
            at += 1;
        }
    }
    false
}

fn window_at(grain: &[u8], at: usize) -> Option<u64> {
    grain[at..].first_chunk::<WINDOW>().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::super::deflate::tests::noise;
    use super::*;

    const GRAIN: usize = 65_536;

    #[test]
    fn noise_is_known() {
        for seed in 0..200 {
            assert!(is_incompressible(&noise(seed, GRAIN)), "{seed}");
            assert!(is_incompressible(&noise(seed, 4096 + 512)), "{seed}");
        }
    }

    #[test]
    fn what_is_too_short_to_tell_is_compressed() {
        assert!(!is_incompressible(&noise(0, 4095)));
        assert!(!is_incompressible(&[]));
    }

    #[test]
    fn a_part_that_is_no_noise_is_found_wherever_it_is() {
        for at in (0..GRAIN - 2048).step_by(1000) {
            let mut grain = noise(1, GRAIN);
            for (number, byte) in grain[at..at + 2048].iter_mut().enumerate() {
                *byte = b"etaoin shrdlu\n"[number * number / 3 % 14];
            }
            assert!(!is_incompressible(&grain), "{at}");
            grain[at..at + 2048].fill(0);
            assert!(!is_incompressible(&grain), "{at}");
        }
    }

    #[test]
    fn noise_that_comes_again_is_found() {
        for len in [GRAIN / 16, GRAIN / 2, 512, 300] {
            for seed in 0..20 {
                let mut grain = noise(seed, GRAIN);
                let (first, second) = (1234, GRAIN - len - 77);
                grain.copy_within(first..first + len, second);
                assert!(!is_incompressible(&grain), "{len} {seed}");
            }
        }
        let grain: Vec<u8> = noise(1, GRAIN / 16).repeat(16);
        assert!(!is_incompressible(&grain));
    }

    /// Such data has every byte equally often.
    #[test]
    fn patterns_are_no_noise() {
        let counted = (0..=255).collect::<Vec<u8>>().repeat(GRAIN / 256);
        let stirred: Vec<u8> = counted.iter().map(|byte| byte.wrapping_mul(167)).collect();
        let numbers: Vec<u8> = (0..16_384_u32).flat_map(u32::to_le_bytes).collect();
        for grain in [counted, stirred, numbers] {
            assert!(!is_incompressible(&grain));
        }
    }
}
