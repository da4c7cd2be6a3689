//! A set of sectors of a file, in stretches: it takes memory by how many of these there are, wherever they lie.

use std::collections::BTreeMap;
use std::ops::Range;

/// Sectors, by the first of each stretch; the value is its end. No two stretches touch.
#[derive(Debug, Default)]
pub(super) struct Sectors(BTreeMap<u64, u64>);

impl Sectors {
    pub(super) fn add(&mut self, sectors: Range<u64>) {
        if sectors.is_empty() {
            return;
        }
        let Range { mut start, mut end } = sectors;
        while let Some((&from, &to)) = self.0.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            self.0.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.0.insert(start, end);
    }

    /// The first of these sectors that are not in the set, up to the next that is.
    pub(super) fn first_outside(&self, of: &Range<u64>) -> Option<Range<u64>> {
        let before = self.0.range(..=of.start).next_back();
        let start = before.map_or(of.start, |(_, &end)| end.max(of.start));
        let next = self.0.range(start..).next().map_or(of.end, |(&next, _)| next.min(of.end));
        (start < of.end).then_some(start..next)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(&start, &end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set_of_numbers(
            ranges in prop::collection::vec((0..60_u64, 0..9_u64), 0..20),
            (from, len) in (0..70_u64, 0..20_u64),
        ) {
            let mut sectors = Sectors::default();
            let mut set = BTreeSet::new();
            for (start, len) in ranges {
                sectors.add(start..start + len);
                set.extend(start..start + len);
            }
            let stretches: Vec<_> = sectors.iter().collect();
            prop_assert!(stretches.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", stretches);
            prop_assert!(stretches.into_iter().flatten().eq(set.iter().copied()));
            let mut outside = (from..from + len).skip_while(|sector| set.contains(sector));
            let expected = outside.next().map(|first| {
                let end = outside.find(|sector| set.contains(sector)).unwrap_or(from + len);
                first..end
            });
            prop_assert_eq!(sectors.first_outside(&(from..from + len)), expected);
        }
    }
}
