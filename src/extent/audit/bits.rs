//! A set of numbers below some 2^32, in pages: what has no number takes no memory.

use std::ops::Range;

use crate::sector::to_usize;

/// Bits of a word.
const WORD: u64 = 64;

/// Words of a page.
const PAGE: usize = 64;

/// Bits of a page.
const PAGE_BITS: u64 = WORD * PAGE as u64;

/// A bit for each number.
#[derive(Debug, Default)]
pub(crate) struct Bits {
    pages: Vec<Option<Box<[u64; PAGE]>>>,
}

impl Bits {
    /// Sets a bit; says whether it was not set.
    #[inline]
    pub(crate) fn set(&mut self, bit: u64) -> bool {
        let word = &mut self.page_mut(bit)[to_usize(bit / WORD) % PAGE];
        let mask = 1 << (bit % WORD);
        let was_clear = *word & mask == 0;
        *word |= mask;
        was_clear
    }

    /// Sets all bits of a range, which is not empty, if none of them is set; says whether that was so.
    pub(crate) fn set_clear(&mut self, range: Range<u64>) -> bool {
        if range.start / WORD == (range.end - 1) / WORD {
            let ones = u64::MAX >> (WORD - (range.end - range.start)) << (range.start % WORD);
            let word = &mut self.page_mut(range.start)[to_usize(range.start / WORD) % PAGE];
            let was_clear = *word & ones == 0;
            *word |= if was_clear { ones } else { 0 };
            return was_clear;
        }
        let is_clear = self.first_in(range.clone()).is_none();
        if is_clear {
            self.set_range(range);
        }
        is_clear
    }

    /// Sets all bits of a range.
    pub(crate) fn set_range(&mut self, range: Range<u64>) {
        each_word(range, |word, mask| {
            self.page_mut(word * WORD)[to_usize(word) % PAGE] |= mask;
        });
    }

    pub(crate) fn has(&self, bit: u64) -> bool {
        self.word(bit / WORD) & (1 << (bit % WORD)) != 0
    }

    /// The first bit of a range that is set.
    pub(crate) fn first_in(&self, range: Range<u64>) -> Option<u64> {
        let (mut at, end) = (range.start, range.end.min(self.end()));
        while at < end {
            if self.page(at).is_none() {
                at = (at / PAGE_BITS + 1) * PAGE_BITS;
                continue;
            }
            let rest = self.word(at / WORD) >> (at % WORD);
            if rest != 0 {
                return Some(at + u64::from(rest.trailing_zeros())).filter(|&bit| bit < end);
            }
            at = (at / WORD + 1) * WORD;
        }
        None
    }

    /// Up to which bit all are what `bit` is, as far as a look at its word or page tells.
    pub(crate) fn alike(&self, bit: u64) -> u64 {
        if self.page(bit).is_none() {
            return (bit / PAGE_BITS + 1) * PAGE_BITS;
        }
        match self.word(bit / WORD) {
            0 | u64::MAX => (bit / WORD + 1) * WORD,
            _ => bit + 1,
        }
    }

    /// How many bits of a range are set.
    pub(crate) fn count(&self, range: Range<u64>) -> u64 {
        let mut sum = 0;
        let mut at = range.start;
        let end = range.end.min(self.end());
        while at < end {
            let next = if self.page(at).is_some() {
                let next = ((at / WORD + 1) * WORD).min(end);
                each_word(at..next, |word, mask| sum += u64::from((self.word(word) & mask).count_ones()));
                next
            } else {
                (at / PAGE_BITS + 1) * PAGE_BITS
            };
            at = next;
        }
        sum
    }

    /// Behind this bit none is set.
    fn end(&self) -> u64 {
        self.pages.len() as u64 * PAGE_BITS
    }

    /// All bits that are set, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        let end = self.end();
        let mut at = 0;
        std::iter::from_fn(move || {
            let bit = self.first_in(at..end)?;
            at = bit + 1;
            Some(bit)
        })
    }

    fn word(&self, word: u64) -> u64 {
        self.page(word * WORD).map_or(0, |words| words[to_usize(word) % PAGE])
    }

    fn page(&self, bit: u64) -> Option<&[u64; PAGE]> {
        self.pages.get(to_usize(bit / PAGE_BITS))?.as_deref()
    }

    #[inline]
    fn page_mut(&mut self, bit: u64) -> &mut [u64; PAGE] {
        let page = to_usize(bit / PAGE_BITS);
        if !self.pages.get(page).is_some_and(Option::is_some) {
            self.add_page(page);
        }
        self.pages[page].get_or_insert_with(|| Box::new([0; PAGE]))
    }

    #[cold]
    fn add_page(&mut self, page: usize) {
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        self.pages[page] = Some(Box::new([0; PAGE]));
    }
}

/// The words that a range of bits touches, with what it has of each.
fn each_word(range: Range<u64>, mut touch: impl FnMut(u64, u64)) {
    let mut at = range.start;
    while at < range.end {
        let end = ((at / WORD + 1) * WORD).min(range.end);
        let ones = if end - at == WORD { u64::MAX } else { (1 << (end - at)) - 1 };
        touch(at / WORD, ones << (at % WORD));
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set_of_numbers(ranges in prop::collection::vec((0..20_000_u64, 0..300_u64), 0..20), from in 0..20_000_u64) {
            let mut bits = Bits::default();
            let mut set = BTreeSet::new();
            for (start, len) in ranges {
                prop_assert_eq!(bits.first_in(start..start + len).is_some(), set.range(start..start + len).next().is_some());
                let mut other = Bits { pages: bits.pages.clone() };
                if len > 0 {
                    let is_clear = set.range(start..start + len).next().is_none();
                    prop_assert_eq!(other.set_clear(start..start + len), is_clear);
                    prop_assert_eq!(other.count(0..u64::MAX), set.len() as u64 + if is_clear { len } else { 0 });
                }
                bits.set_range(start..start + len);
                set.extend(start..start + len);
                prop_assert_eq!(bits.set(start), set.insert(start));
            }
            prop_assert_eq!(bits.first_in(from..30_000), set.range(from..30_000).next().copied());
            prop_assert!(bits.iter().eq(set.iter().copied()));
            for end in [from, from + 1, from + 64, from + 777, u64::MAX] {
                prop_assert_eq!(bits.count(from..end), set.range(from..end).count() as u64);
            }
            prop_assert!((from..bits.alike(from)).all(|bit| set.contains(&bit) == set.contains(&from)));
        }
    }
}
