//! Which sectors of a file are taken, and whether any is taken twice.
//!
//! Grains that lie where every usual writer puts them, at multiples of their size, take a bit each; everything else,
//! tables and grains out of line, is a stretch in a list.

use std::ops::Range;

use crate::sector::to_usize;

/// Grains of a word of bits.
const WORD: u64 = 64;

/// Words in a page.
const PAGE: usize = 64;

/// Grains of a page.
const PAGE_GRAINS: u64 = WORD * PAGE as u64;

/// The sectors of a file that were found to be taken.
pub(super) struct Occupancy {
    grain_sectors: u64,
    grains: Bits,
    /// Stretches of a grain's length in which a grain out of line begins. A second one would overlap it.
    begun: Bits,
    others: Vec<Range<u64>>,
    end: u64,
}

impl Occupancy {
    pub(super) fn new(grain_sectors: u64) -> Self {
        Self { grain_sectors, grains: Bits::default(), begun: Bits::default(), others: Vec::new(), end: 0 }
    }

    /// The end of what is taken.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Takes a stretch for something else than a grain.
    pub(super) fn take(&mut self, sectors: Range<u64>) {
        self.end = self.end.max(sectors.end);
        match self.others.last_mut() {
            Some(last) if last.end == sectors.start => last.end = sectors.end,
            _ => self.others.push(sectors),
        }
    }

    /// Takes the grain that begins at `start`; says whether that was free as far as is known by now.
    pub(super) fn take_grain(&mut self, start: u64) -> bool {
        self.end = self.end.max(start + self.grain_sectors);
        let grain = start / self.grain_sectors;
        if start.is_multiple_of(self.grain_sectors) {
            return self.grains.set(grain);
        }
        let was_free = self.begun.set(grain);
        if was_free {
            self.others.push(start..start + self.grain_sectors);
        }
        was_free
    }

    /// The first sector that was taken twice.
    pub(super) fn overlap(&mut self) -> Option<u64> {
        self.others.sort_unstable_by_key(|sectors| sectors.start);
        let mut end = 0;
        for sectors in &self.others {
            if sectors.start < end {
                return Some(sectors.start);
            }
            end = sectors.end;
            let grains = sectors.start / self.grain_sectors..sectors.end.div_ceil(self.grain_sectors);
            for grain in grains {
                if self.grains.has(grain) {
                    return Some((grain * self.grain_sectors).max(sectors.start));
                }
            }
        }
        None
    }

    /// Stretches of whole grains from the sector `first` to `end` of which nothing is taken, after `overlap`.
    pub(super) fn gaps(&self, first: u64, end: u64) -> Vec<Range<u64>> {
        let mut gaps: Vec<Range<u64>> = Vec::new();
        let mut others = self.others.iter().peekable();
        let (mut grain, end) = (first.div_ceil(self.grain_sectors), end / self.grain_sectors);
        while grain < end {
            let start = grain * self.grain_sectors;
            while others.next_if(|other| other.end <= start).is_some() {}
            let next_other = others.peek().map_or(u64::MAX, |other| other.start);
            // A file may be one big hole, or full: many grains are passed over at once.
            let same = self.grains.alike(grain).min(end);
            let (is_free, next) = match self.grains.has(grain) {
                true => (false, same),
                false if same * self.grain_sectors <= next_other => (true, same),
                false => ((grain + 1) * self.grain_sectors <= next_other, grain + 1),
            };
            let sectors = start..next * self.grain_sectors;
            grain = next;
            if !is_free {
                continue;
            }
            match gaps.last_mut() {
                Some(last) if last.end == sectors.start => last.end = sectors.end,
                _ => gaps.push(sectors),
            }
        }
        gaps
    }
}

/// A bit for each grain of a file; pages without any take no memory.
#[derive(Default)]
struct Bits {
    pages: Vec<Option<Box<[u64; PAGE]>>>,
}

impl Bits {
    /// Sets a bit; says whether it was not set.
    fn set(&mut self, bit: u64) -> bool {
        let page = to_usize(bit / PAGE_GRAINS);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let words = self.pages[page].get_or_insert_with(|| Box::new([0; PAGE]));
        let word = &mut words[to_usize(bit / WORD) % PAGE];
        let mask = 1 << (bit % WORD);
        let was_clear = *word & mask == 0;
        *word |= mask;
        was_clear
    }

    fn has(&self, bit: u64) -> bool {
        self.page(bit).is_some_and(|words| words[to_usize(bit / WORD) % PAGE] & (1 << (bit % WORD)) != 0)
    }

    /// Up to which bit all are what `bit` is, as far as a look at its word or page tells.
    fn alike(&self, bit: u64) -> u64 {
        let Some(words) = self.page(bit) else { return (bit / PAGE_GRAINS + 1) * PAGE_GRAINS };
        match words[to_usize(bit / WORD) % PAGE] {
            0 | u64::MAX => (bit / WORD + 1) * WORD,
            _ => bit + 1,
        }
    }

    fn page(&self, bit: u64) -> Option<&[u64; PAGE]> {
        self.pages.get(to_usize(bit / PAGE_GRAINS))?.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grain_is_free_once() {
        let mut taken = Occupancy::new(8);
        assert!(taken.take_grain(8) && taken.take_grain(0) && taken.take_grain(8 * PAGE_GRAINS));
        assert!(!taken.take_grain(8));
        assert_eq!(taken.end(), 8 * PAGE_GRAINS + 8);
        assert_eq!(taken.overlap(), None);
    }

    #[test]
    fn a_gap_is_whole_grains_that_nothing_touches() {
        let mut taken = Occupancy::new(8);
        taken.take(0..9);
        taken.take(41..42);
        assert!(taken.take_grain(24));
        assert_eq!(taken.overlap(), None);
        assert_eq!(taken.gaps(0, 70), [16..24, 32..40, 48..64]);
        assert_eq!(taken.gaps(17, 63), [32..40, 48..56]);
        let far = 8 * PAGE_GRAINS * 5;
        assert!(taken.take_grain(far));
        assert_eq!(taken.gaps(48, far + 24), [48..far, far + 8..far + 24]);
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "one stretch is a list of one")]
    fn whatever_overlaps_is_found() {
        let overlap = |grains: &[u64], others: &[Range<u64>]| {
            let mut taken = Occupancy::new(8);
            for other in others {
                taken.take(other.clone());
            }
            assert!(grains.iter().all(|&start| taken.take_grain(start)));
            taken.overlap()
        };
        assert_eq!(overlap(&[16, 24], &[0..4, 4..16, 32..33]), None);
        assert_eq!(overlap(&[16], &[0..4, 20..21]), Some(20));
        assert_eq!(overlap(&[16], &[10..17]), Some(16));
        assert_eq!(overlap(&[], &[0..4, 3..5]), Some(3));
        assert_eq!(overlap(&[3, 16], &[]), None);
        assert_eq!(overlap(&[3, 8], &[]), Some(8));
        assert_eq!(overlap(&[3, 10], &[]), Some(10));
    }
}
