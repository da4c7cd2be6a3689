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
                if self.has_grain(grain) {
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
            // A file may be one big hole: pages without a grain are passed over as a whole.
            let page_end = (grain / PAGE_GRAINS + 1) * PAGE_GRAINS;
            let is_empty = self.page(grain).is_none() && page_end * self.grain_sectors <= next_other;
            let next = if is_empty { page_end.min(end) } else { grain + 1 };
            let sectors = start..next * self.grain_sectors;
            let is_free = is_empty || !(self.has_grain(grain) || next_other < sectors.end);
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

    fn page(&self, grain: u64) -> Option<&[u64; 512]> {
        self.pages.get(crate::sector::to_usize(grain / PAGE_GRAINS))?.as_deref()
    }

    fn has_grain(&self, grain: u64) -> bool {
        self.page(grain).is_some_and(|words| words[(grain % PAGE_GRAINS / 64) as usize] & (1 << (grain % 64)) != 0)
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
