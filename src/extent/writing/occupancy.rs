//! Which sectors of a file are taken, and whether any is taken twice.
//!
//! Grains that lie where every usual writer puts them, at multiples of their size, take a bit each; everything else,
//! tables and grains out of line, is a stretch in a list.

use std::ops::Range;

/// Grains in a page of bits.
const PAGE_GRAINS: u64 = 64 * 512;

/// The sectors of a file that were found to be taken.
pub(super) struct Occupancy {
    grain_sectors: u64,
    pages: Vec<Option<Box<[u64; 512]>>>,
    others: Vec<Range<u64>>,
    end: u64,
}

impl Occupancy {
    pub(super) fn new(grain_sectors: u64) -> Self {
        Self { grain_sectors, pages: Vec::new(), others: Vec::new(), end: 0 }
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
        if !start.is_multiple_of(self.grain_sectors) {
            self.others.push(start..start + self.grain_sectors);
            return true;
        }
        let grain = start / self.grain_sectors;
        let page = crate::sector::to_usize(grain / PAGE_GRAINS);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let words = self.pages[page].get_or_insert_with(|| Box::new([0; 512]));
        let word = &mut words[(grain % PAGE_GRAINS / 64) as usize];
        let bit = 1 << (grain % 64);
        let was_free = *word & bit == 0;
        *word |= bit;
        was_free
    }

    /// The first sector that was taken twice.
    pub(super) fn overlap(mut self) -> Option<u64> {
        self.others.sort_unstable_by_key(|sectors| sectors.start);
        let mut end = 0;
        for sectors in &self.others {
            if sectors.start < end {
                return Some(sectors.start);
            }
            end = sectors.end;
            let grains = sectors.start / self.grain_sectors..sectors.end.div_ceil(self.grain_sectors);
            for grain in grains {
                if self.has_grain(grain) {
                    return Some((grain * self.grain_sectors).max(sectors.start));
                }
            }
        }
        None
    }

    fn has_grain(&self, grain: u64) -> bool {
        let page = self.pages.get(crate::sector::to_usize(grain / PAGE_GRAINS)).and_then(Option::as_ref);
        page.is_some_and(|words| words[(grain % PAGE_GRAINS / 64) as usize] & (1 << (grain % 64)) != 0)
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
