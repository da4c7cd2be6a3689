//! Which sectors of a file are taken, and whether any is taken twice.
//!
//! Grains that lie where every usual writer puts them, at multiples of their size, take a bit each; tables and grains
//! out of line take a bit for each sector. The few regions that may lie anywhere, also behind all numbers of grains,
//! are a list.

use std::ops::Range;

use super::bits::Bits;

/// The sectors of a file that were found to be taken.
#[derive(Debug)]
pub(crate) struct Occupancy {
    /// log2 of the sectors of a grain.
    grain_shift: u32,
    /// Grains in line, by their place in units of grains.
    grains: Bits,
    /// Sectors of grains out of line: below 2^32 and a grain.
    odd: Bits,
    /// Stretches of a grain's length in which one of them begins.
    begun: Bits,
    /// Sectors of tables, likewise.
    tables: Bits,
    /// Header, descriptor, directories.
    regions: Vec<Range<u64>>,
    /// The end of what is taken by something else than grains.
    metadata_end: u64,
    /// Behind this sector there are grains in line only.
    others_end: u64,
    end: u64,
}

impl Occupancy {
    /// No sector is taken of a file with grains of so many sectors, a power of two.
    pub(crate) fn new(grain_sectors: u64) -> Self {
        Self {
            grain_shift: grain_sectors.trailing_zeros(),
            grains: Bits::default(),
            odd: Bits::default(),
            begun: Bits::default(),
            tables: Bits::default(),
            regions: Vec::new(),
            metadata_end: 0,
            others_end: 0,
            end: 0,
        }
    }

    /// Sectors of a grain.
    pub(super) fn grain_sectors(&self) -> u64 {
        1 << self.grain_shift
    }

    /// The end of what is taken by something else than grains.
    pub(super) fn metadata_end(&self) -> u64 {
        self.metadata_end
    }

    /// How many grains there are.
    pub(super) fn grain_count(&self) -> u64 {
        self.grains.count(0..u64::MAX) + self.begun.count(0..u64::MAX)
    }

    /// How many grains end in these slots of a grain's length, or at the end of one.
    pub(super) fn grains_ended_in(&self, slots: Range<u64>) -> u64 {
        // A grain out of line reaches into the slot behind that in which it begins.
        self.grains.count(slots.clone()) + self.begun.count(slots.start.saturating_sub(1)..slots.end.saturating_sub(1))
    }

    /// The end of what takes a sector, as far as a look at what takes it tells; `None` if it is free.
    pub(super) fn end_of_taken(&self, sector: u64) -> Option<u64> {
        let grain = sector >> self.grain_shift;
        if self.grains.has(grain) {
            return Some(self.grains.alike(grain) << self.grain_shift);
        }
        if sector >= self.others_end {
            return None;
        }
        if let Some(region) = self.regions.iter().find(|region| region.contains(&sector)) {
            return Some(region.end);
        }
        let taken = [&self.odd, &self.tables].into_iter().find(|bits| bits.has(sector));
        taken.map(|bits| bits.alike(sector))
    }

    /// Sorts of what takes sectors: grains in line, grains out of line, tables, regions.
    pub(super) const SORTS: usize = 4;

    /// The first sector from `at` on that is taken by something of a sort.
    pub(super) fn next_of_sort(&self, sort: usize, at: u64) -> Option<u64> {
        match sort {
            0 => {
                self.grains.first_in(at >> self.grain_shift..u64::MAX).map(|grain| (grain << self.grain_shift).max(at))
            }
            1 => self.odd.first_in(at..u64::MAX),
            2 => self.tables.first_in(at..u64::MAX),
            _ => self.regions.iter().filter(|region| region.end > at).map(|region| region.start.max(at)).min(),
        }
    }

    /// The place of a grain in line; `None` for another one.
    fn in_line(&self, start: u64) -> Option<u64> {
        (start & (self.grain_sectors() - 1) == 0).then_some(start >> self.grain_shift)
    }

    /// The end of what is taken.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Takes a region, whether it is free or not; says which of its sectors was taken before.
    pub(crate) fn take_region(&mut self, sectors: Range<u64>) -> Option<u64> {
        if sectors.is_empty() {
            return None;
        }
        let overlap = self.first_region_in(&sectors);
        self.end = self.end.max(sectors.end);
        self.others_end = self.others_end.max(sectors.end);
        self.metadata_end = self.metadata_end.max(sectors.end);
        self.regions.push(sectors);
        overlap
    }

    /// Takes a table if it is free; else says which of its sectors is not.
    pub(crate) fn take_table(&mut self, sectors: Range<u64>) -> Result<(), u64> {
        if let Some(taken) = self.first_in(&sectors) {
            return Err(taken);
        }
        self.reserve(sectors);
        Ok(())
    }

    /// Takes sectors for a table, whether they are free or not.
    pub(crate) fn reserve(&mut self, sectors: Range<u64>) {
        self.end = self.end.max(sectors.end);
        self.others_end = self.others_end.max(sectors.end);
        self.metadata_end = self.metadata_end.max(sectors.end);
        self.tables.set_range(sectors);
    }

    /// Takes the grain that begins at `start` if it is free; else says which of its sectors is not.
    pub(crate) fn take_grain(&mut self, start: u64) -> Result<(), u64> {
        let sectors = start..start + self.grain_sectors();
        // Also one that is not free reads as zeros where the file ends within it, as long as nothing is put there.
        self.end = self.end.max(sectors.end);
        if let Some(taken) = self.first_in(&sectors) {
            return Err(taken);
        }
        if let Some(grain) = self.in_line(start) {
            self.grains.set(grain);
        } else {
            self.others_end = self.others_end.max(sectors.end);
            self.odd.set_range(sectors);
            self.begun.set(start >> self.grain_shift);
        }
        Ok(())
    }

    /// Takes `count` grains in line, one behind the other, if all of them are free.
    pub(crate) fn take_run(&mut self, start: u64, count: u64) -> bool {
        let sectors = start..start + (count << self.grain_shift);
        let Some(grain) = self.in_line(start) else { return false };
        if self.first_other_in(&sectors).is_some() || !self.grains.set_clear(grain..grain + count) {
            return false;
        }
        self.end = self.end.max(sectors.end);
        true
    }

    /// Takes the grains that these numbers name, which lie in no order, up to the first one that is not in line in
    /// `ends`, or not free, or may meet something else than grains; says how many of the numbers it has gone through. A
    /// number of 0 names none.
    pub(crate) fn take_each(&mut self, numbers: &[[u8; 4]], ends: &Range<u64>) -> usize {
        let in_grain = self.grain_sectors() - 1;
        let first = ends.start.max(self.others_end);
        let mut most = 0;
        let taken = numbers.iter().take_while(|number| {
            let start = u64::from(u32::from_le_bytes(**number));
            if start == 0 {
                return true;
            }
            let is_plain = start >= first && start < ends.end && start & in_grain == 0;
            let is_taken = is_plain && self.grains.set(start >> self.grain_shift);
            if is_taken {
                most = start.max(most);
            }
            is_taken
        });
        let taken = taken.count();
        if most > 0 {
            self.end = self.end.max(most + self.grain_sectors());
        }
        taken
    }

    /// The first of these sectors that is taken, as far as is known by now.
    pub(crate) fn first_in(&self, sectors: &Range<u64>) -> Option<u64> {
        let grains = sectors.start >> self.grain_shift..sectors.end.div_ceil(self.grain_sectors());
        let in_grain = self.grains.first_in(grains).map(|grain| (grain << self.grain_shift).max(sectors.start));
        let others = self.first_other_in(sectors);
        in_grain.into_iter().chain(others).min()
    }

    fn first_other_in(&self, sectors: &Range<u64>) -> Option<u64> {
        if sectors.start >= self.others_end {
            return None;
        }
        self.odd.first_in(sectors.clone()).into_iter().chain(self.first_metadata_in(sectors)).min()
    }

    /// The first of these sectors that is no grain's.
    pub(crate) fn first_metadata_in(&self, sectors: &Range<u64>) -> Option<u64> {
        if sectors.start >= self.others_end {
            return None;
        }
        self.tables.first_in(sectors.clone()).into_iter().chain(self.first_region_in(sectors)).min()
    }

    fn first_region_in(&self, sectors: &Range<u64>) -> Option<u64> {
        let overlaps = self.regions.iter().filter(|other| other.start < sectors.end && sectors.start < other.end);
        overlaps.map(|other| other.start.max(sectors.start)).min()
    }

    /// Stretches of whole grains from the sector `first` to `end` of which nothing is taken.
    pub(crate) fn gaps(&self, first: u64, end: u64) -> Vec<Range<u64>> {
        let mut gaps: Vec<Range<u64>> = Vec::new();
        let size = self.grain_sectors();
        let (mut grain, end) = (first.div_ceil(size), end / size);
        while grain < end {
            // A file may be one big hole, or full: many grains are passed over at once.
            let same = self.grains.alike(grain).min(end);
            if self.grains.has(grain) {
                grain = same;
                continue;
            }
            let other = self.first_other_in(&(grain * size..same * size));
            let free = other.map_or(same, |sector| sector / size);
            if grain < free {
                let sectors = grain * size..free * size;
                match gaps.last_mut() {
                    Some(last) if last.end == sectors.start => last.end = sectors.end,
                    _ => gaps.push(sectors),
                }
            }
            grain = if other.is_some() { free + 1 } else { same };
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grains whose bits take more than one page.
    const FAR: u64 = 4096;

    #[test]
    fn a_grain_is_free_once() {
        let mut taken = Occupancy::new(8);
        for start in [8, 0, 8 * FAR, 33, 42] {
            assert_eq!(taken.take_grain(start), Ok(()));
        }
        for (start, sector) in [(8, 8), (33, 33), (32, 33), (40, 40), (48, 48), (8 * FAR - 1, 8 * FAR)] {
            assert_eq!(taken.take_grain(start), Err(sector));
        }
        assert_eq!(taken.end(), 8 * FAR + 8);
    }

    #[test]
    fn a_run_is_taken_whole_or_not_at_all() {
        let mut taken = Occupancy::new(8);
        assert_eq!(taken.take_table(85..89), Ok(()));
        assert!(taken.take_run(16, 4) && !taken.take_run(40, 2) && !taken.take_run(72, 3) && !taken.take_run(50, 1));
        assert!(taken.take_run(48, 4) && taken.take_run(8 * FAR - 8, 200));
        assert_eq!(taken.take_grain(8 * FAR), Err(8 * FAR));
        assert_eq!(taken.end(), 8 * (FAR - 1 + 200));
    }

    #[test]
    fn grains_in_no_order_are_taken_up_to_the_first_that_needs_a_look() {
        let numbers = |sectors: &[u32]| sectors.iter().map(|sector| sector.to_le_bytes()).collect::<Vec<_>>();
        let mut taken = Occupancy::new(8);
        assert_eq!(taken.take_table(16..20), Ok(()));
        assert_eq!(taken.take_each(&numbers(&[80, 0, 24, 48]), &(0..1000)), 4);
        assert_eq!(taken.end(), 88);
        // Taken, out of line, past the end, and where something else may be.
        for odd in [24, 33, 1000, 8] {
            assert_eq!(taken.take_each(&numbers(&[0, odd, 64]), &(0..1000)), 1, "{odd}");
        }
        assert_eq!(taken.take_each(&numbers(&[32, 992]), &(0..1000)), 2);
        assert_eq!(taken.take_each(&numbers(&[40]), &(48..1000)), 0, "in front of all grains");
        let free = [40, 56, 64, 72, 88];
        assert!(free.iter().all(|&start| taken.take_grain(start).is_ok()));
        assert_eq!((taken.take_grain(992), taken.end()), (Err(992), 1000));
    }

    #[test]
    fn a_gap_is_whole_grains_that_nothing_touches() {
        let mut taken = Occupancy::new(8);
        assert_eq!(taken.take_region(0..9), None);
        assert_eq!(taken.take_table(41..42), Ok(()));
        assert_eq!(taken.take_grain(24), Ok(()));
        assert_eq!(taken.gaps(0, 70), [16..24, 32..40, 48..64]);
        assert_eq!(taken.gaps(17, 63), [32..40, 48..56]);
        let far = 8 * FAR * 5;
        assert_eq!(taken.take_grain(far), Ok(()));
        assert_eq!(taken.gaps(48, far + 24), [48..far, far + 8..far + 24]);
    }

    #[test]
    fn whatever_overlaps_is_found() {
        let mut taken = Occupancy::new(8);
        let huge = 1 << 54;
        assert_eq!(taken.take_region(huge..huge + 5), None);
        assert_eq!(taken.take_region(0..4), None);
        assert_eq!(taken.take_region(3..5), Some(3));
        assert_eq!(taken.take_region(huge + 4..huge + 9), Some(huge + 4));
        assert_eq!(taken.take_table(4..8), Err(4));
        assert_eq!(taken.take_table(5..9), Ok(()));
        assert_eq!(taken.take_table(8..9), Err(8));
        assert_eq!(taken.take_grain(8), Err(8));
        assert_eq!(taken.take_grain(0), Err(0));
        assert_eq!(taken.take_grain(16), Ok(()));
        assert_eq!(taken.take_table(20..24), Err(20));
    }
}
