//! What is free of a file, to the sector, and how far its grains can be moved together.

use std::ops::Range;

use super::occupancy::Occupancy;

impl Occupancy {
    /// Stretches from the sector `first` to `end` of which nothing is taken, to the sector.
    pub(crate) fn free(&self, first: u64, end: u64) -> impl Iterator<Item = Range<u64>> {
        let mut at = first;
        let mut next = NextTaken::default();
        std::iter::from_fn(move || {
            while at < end {
                if let Some(behind) = self.end_of_taken(at) {
                    at = behind;
                    continue;
                }
                let free = at..next.from(self, at).min(end);
                at = free.end;
                return Some(free);
            }
            None
        })
    }

    /// How many grains end above the sector `end`, which is where one could begin, or behind all of them.
    pub(crate) fn grains_above(&self, end: u64) -> u64 {
        self.grain_count() - EndedBelow { taken: self, slot: 0, grains: 0 }.count(end / self.grain_sectors())
    }

    /// The lowest end that the file can have if grains from behind it move into what is free from the sector `first`
    /// on, at multiples of `alignment`.
    pub(crate) fn packed_end(&self, first: u64, alignment: u64) -> u64 {
        let grain_sectors = self.grain_sectors();
        let slots_in =
            |free: Range<u64>| free.end.saturating_sub(free.start.next_multiple_of(alignment)) / grain_sectors;
        let all = self.grain_count();
        // Of those out of line none ends where it begins, in slots.
        let mut below = EndedBelow { taken: self, slot: 0, grains: 0 };
        let (mut slots, mut last_end) = (0, first);
        let all_of_it = self.end().next_multiple_of(grain_sectors);
        for free in self.free(first, self.end()).chain(std::iter::once(all_of_it..all_of_it)) {
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
                return (low * grain_sectors).max(self.metadata_end()).max(first);
            }
            (slots, last_end) = (slots + here, free.end);
        }
        self.end()
    }
}

/// The next sector that is taken, by each sort of what takes some: it is looked for again only behind what was found.
#[derive(Default)]
struct NextTaken {
    sorts: [Option<u64>; Occupancy::SORTS],
}

impl NextTaken {
    /// The first taken sector from `at` on, or no sector at all.
    fn from(&mut self, taken: &Occupancy, at: u64) -> u64 {
        for (sort, next) in self.sorts.iter_mut().enumerate() {
            if next.is_none_or(|next| next < at) {
                *next = Some(taken.next_of_sort(sort, at).unwrap_or(u64::MAX));
            }
        }
        self.sorts.into_iter().flatten().min().unwrap_or(u64::MAX)
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
        self.grains += self.taken.grains_ended_in(self.slot..slot);
        self.slot = slot;
        self.grains
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_known_to_the_sector() {
        let mut taken = Occupancy::new(8);
        assert_eq!(taken.take_region(0..9), None);
        assert_eq!(taken.take_table(41..42), Ok(()));
        assert_eq!([24, 51].map(|start| taken.take_grain(start)), [Ok(()); 2]);
        let free = |first, end| taken.free(first, end).collect::<Vec<_>>();
        assert_eq!(free(0, 70), [9..24, 32..41, 42..51, 59..70]);
        assert_eq!(free(10, 60), [10..24, 32..41, 42..51, 59..60]);
        assert_eq!(free(9, 25), vec![9..24; 1]);
        assert!(free(0, 9).is_empty() && free(24, 32).is_empty());
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
            assert_eq!(taken.take_region(0..16), None);
            let mut grains = Vec::new();
            let (mut at, shift) = (16, if round % 2 == 0 { 0 } else { 1 + below(7) });
            for _ in 0..below(60) {
                at += 8 * below(4) * below(2);
                grains.push(at + shift);
                assert_eq!(taken.take_grain(at + shift), Ok(()));
                at += 8;
            }
            for alignment in [8, 1] {
                let expected = packed_end_by_trying(&grains, 16, alignment, &taken).min(taken.end());
                assert_eq!(taken.packed_end(16, alignment).min(taken.end()), expected, "{grains:?}");
            }
        }
    }
}
