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
    /// The end of what is taken by something else than grains.
    metadata_end: u64,
}

impl Occupancy {
    pub(super) fn new(grain_sectors: u64) -> Self {
        Self {
            grain_sectors,
            grains: Bits::default(),
            begun: Bits::default(),
            others: Vec::new(),
            end: 0,
            metadata_end: 0,
        }
    }

    /// The end of what is taken.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Takes a stretch for something else than a grain.
    pub(super) fn take(&mut self, sectors: Range<u64>) {
        self.end = self.end.max(sectors.end);
        self.metadata_end = self.metadata_end.max(sectors.end);
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

    /// Stretches from the sector `first` to `end` of which nothing is taken, to the sector, after `overlap`.
    pub(super) fn free(&self, first: u64, end: u64) -> impl Iterator<Item = Range<u64>> {
        let mut others = self.others.iter().peekable();
        let mut at = first;
        std::iter::from_fn(move || {
            while at < end {
                while others.next_if(|other| other.end <= at).is_some() {}
                let other = others.peek().map_or(end..end, |other| (*other).clone());
                let grain = at / self.grain_sectors;
                if other.start <= at {
                    at = other.end;
                } else if self.grains.has(grain) {
                    at = self.grains.alike(grain) * self.grain_sectors;
                } else {
                    let limit = other.start.min(end);
                    let mut next = grain;
                    while next * self.grain_sectors < limit && !self.grains.has(next) {
                        next = self.grains.alike(next);
                    }
                    let free = at..limit.min(next * self.grain_sectors);
                    at = free.end;
                    return Some(free);
                }
            }
            None
        })
    }

    /// How many grains end above the sector `end`, which is where one could begin, or behind all of them.
    pub(super) fn grains_above(&self, end: u64) -> u64 {
        let all = self.grains.count(0..u64::MAX) + self.begun.count(0..u64::MAX);
        all - EndedBelow { taken: self, slot: 0, grains: 0 }.count(end / self.grain_sectors)
    }

    /// The lowest end that the file can have if grains from behind it move into what is free from the sector `first`
    /// on, at multiples of `alignment`; after `overlap`.
    pub(super) fn packed_end(&self, first: u64, alignment: u64) -> u64 {
        let grain_sectors = self.grain_sectors;
        let slots_in =
            |free: Range<u64>| free.end.saturating_sub(free.start.next_multiple_of(alignment)) / grain_sectors;
        let all = self.grains.count(0..u64::MAX) + self.begun.count(0..u64::MAX);
        // Of those out of line none ends where it begins, in slots.
        let mut below = EndedBelow { taken: self, slot: 0, grains: 0 };
        let (mut slots, mut last_end) = (0, first);
        let all_of_it = self.end.next_multiple_of(grain_sectors);
        for free in self.free(first, self.end).chain(std::iter::once(all_of_it..all_of_it)) {
            let here = slots_in(free.clone());
            if slots + here >= all - below.count(free.end / grain_sectors) {
                // Somewhere between the last free stretch and the end of this one.
                let (mut low, mut high) = (last_end.div_ceil(grain_sectors), free.end.div_ceil(grain_sectors));
                while low < high {
                    let middle = low.midpoint(high);
                    let before = slots_in(free.start..free.end.min(middle * grain_sectors).max(free.start));
                    let below = EndedBelow { taken: self, slot: 0, grains: 0 }.count(middle);
                    if slots + before >= all - below { high = middle } else { low = middle + 1 }
                }
                return (low * grain_sectors).max(self.metadata_end).max(first);
            }
            (slots, last_end) = (slots + here, free.end);
        }
        self.end
    }
}

/// Grains that end below a slot, which is counted on from one slot to the next.
struct EndedBelow<'a> {
    taken: &'a Occupancy,
    slot: u64,
    grains: u64,
}

impl EndedBelow<'_> {
    /// How many grains end at or below the beginning of `slot`, which is none before the last one.
    fn count(&mut self, slot: u64) -> u64 {
        // A grain out of line reaches into the slot behind that in which it begins.
        self.grains += self.taken.grains.count(self.slot..slot);
        self.grains += self.taken.begun.count(self.slot.saturating_sub(1)..slot.saturating_sub(1));
        self.slot = slot;
        self.grains
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

    /// How many of these bits are set.
    fn count(&self, bits: Range<u64>) -> u64 {
        let end = bits.end.min(self.pages.len() as u64 * PAGE_GRAINS);
        let mut at = bits.start;
        let mut sum = 0;
        while at < end {
            let Some(words) = self.page(at) else {
                at = (at / PAGE_GRAINS + 1) * PAGE_GRAINS;
                continue;
            };
            let next = ((at / WORD + 1) * WORD).min(end);
            let mask = (u64::MAX << (at % WORD)) & (u64::MAX >> ((WORD - next % WORD) % WORD));
            sum += u64::from((words[to_usize(at / WORD) % PAGE] & mask).count_ones());
            at = next;
        }
        sum
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
    fn what_is_free_is_known_to_the_sector() {
        let mut taken = Occupancy::new(8);
        taken.take(0..9);
        taken.take(41..42);
        assert!(taken.take_grain(24) && taken.take_grain(51));
        assert_eq!(taken.overlap(), None);
        let free = |first, end| taken.free(first, end).collect::<Vec<_>>();
        assert_eq!(free(0, 70), [9..24, 32..41, 42..51, 59..70]);
        assert_eq!(free(10, 60), [10..24, 32..41, 42..51, 59..60]);
        assert!(free(0, 9).is_empty() && free(24, 32).is_empty());
    }

    #[test]
    fn bits_are_counted_from_any_one_to_any_other() {
        let mut bits = Bits::default();
        let set = [0, 1, 63, 64, 65, 127, 4095, 4096, 3 * PAGE_GRAINS + 70];
        assert!(set.iter().all(|&bit| bits.set(bit)));
        for range in [0..0, 0..1, 1..64, 63..65, 0..u64::MAX, 66..127, 64..128, 4096..4097, 2 * PAGE_GRAINS..u64::MAX] {
            let expected = set.iter().filter(|bit| range.contains(bit)).count() as u64;
            assert_eq!(bits.count(range.clone()), expected, "{range:?}");
        }
    }

    /// The lowest end with as much room below it as there is above it, by trying.
    fn packed_end_by_trying(grains: &[u64], first: u64, alignment: u64, taken: &Occupancy) -> u64 {
        let fits = |end: &u64| {
            let above = grains.iter().filter(|&&start| start + 8 > *end).count() as u64;
            let slots = taken.free(first, *end);
            let slots = slots.map(|free| free.end.saturating_sub(free.start.next_multiple_of(alignment)) / 8);
            slots.sum::<u64>() >= above
        };
        (0..).step_by(8).find(fits).unwrap().max(first)
    }

    #[test]
    fn the_packed_end_is_the_lowest_that_has_room() {
        let mut random = 7_u64;
        let mut below = |end: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % end
        };
        for round in 0..400 {
            let mut taken = Occupancy::new(8);
            taken.take(0..16);
            let mut grains = Vec::new();
            let (mut at, shift) = (16, if round % 2 == 0 { 0 } else { 1 + below(7) });
            for _ in 0..below(60) {
                at += 8 * below(4) * below(2);
                grains.push(at + shift);
                assert!(taken.take_grain(at + shift));
                at += 8;
            }
            assert_eq!(taken.overlap(), None);
            for alignment in [8, 1] {
                let expected = packed_end_by_trying(&grains, 16, alignment, &taken).min(taken.end());
                assert_eq!(taken.packed_end(16, alignment).min(taken.end()), expected, "{grains:?}");
            }
        }
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
