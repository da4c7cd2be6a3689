//! The bytes of a file, copied sector by sector where they change, with a digest that follows the changes.
//!
//! A copy of a [`Content`] shares its bytes with the original. The digest is a sum over the sectors that are not zero,
//! so that it does not depend on how the content came about.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use super::super::{SECTOR, index};

/// The bytes in a sector.
const LEN: u64 = SECTOR as u64;

/// Changed sectors that are carried along.
const FEW: usize = 256;

/// The bytes of one sector.
#[derive(Clone, Debug)]
pub struct SectorBytes {
    bytes: Arc<[u8; SECTOR]>,
    /// 0 if all bytes are.
    digest: u64,
}

impl SectorBytes {
    /// A sector that begins with `bytes`; the rest is zero.
    pub fn new(bytes: &[u8]) -> Self {
        let mut sector = [0; SECTOR];
        sector[..bytes.len()].copy_from_slice(bytes);
        if sector == [0; SECTOR] {
            return Self::zero();
        }
        // Tests run without optimisation, which makes a general hash of so many bytes slow.
        let digest = sector.as_chunks::<8>().0.iter().fold(0, |digest: u64, word| {
            (digest ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        });
        Self { bytes: Arc::new(sector), digest: mix(digest).max(1) }
    }

    /// Zeros.
    pub fn zero() -> Self {
        static ZERO: LazyLock<Arc<[u8; SECTOR]>> = LazyLock::new(|| Arc::new([0; SECTOR]));
        Self { bytes: Arc::clone(&ZERO), digest: 0 }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; SECTOR] {
        &self.bytes
    }

    /// Whether all bytes are zero.
    pub fn is_zero(&self) -> bool {
        self.digest == 0
    }

    /// The first `len` bytes with zeros behind them.
    #[must_use]
    pub fn cut(&self, len: usize) -> Self {
        if self.is_zero() { self.clone() } else { Self::new(&self.bytes[..len]) }
    }

    /// The part of the digest of a file that comes from this sector standing at `number`.
    pub fn digest_at(&self, number: u64) -> u64 {
        if self.is_zero() { 0 } else { mix(self.digest ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) }
    }
}

impl PartialEq for SectorBytes {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.bytes == other.bytes
    }
}

/// What a change of a [`Content`] left behind: the new bytes of some sectors, and a range of sectors that are zero.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// Sectors with their bytes, zeros behind the end of the file.
    pub sectors: Vec<(u64, SectorBytes)>,
    /// Sectors that were made zero.
    pub zeroed: Range<u64>,
}

/// The bytes of a file.
#[derive(Clone, Debug)]
pub struct Content {
    base: Arc<[u8]>,
    /// How many bytes of `base` still count; those behind are zero.
    visible: u64,
    overlay: BTreeMap<u64, SectorBytes>,
    len: u64,
    sum: u64,
}

impl Content {
    /// The content of a file that holds `bytes`.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let base = bytes.into();
        let sectors = (0..).zip(base.chunks(SECTOR));
        let sum = sectors.fold(0, |sum: u64, (number, bytes)| {
            if super::super::model::is_zero(bytes) {
                return sum;
            }
            sum.wrapping_add(SectorBytes::new(bytes).digest_at(number))
        });
        Self { visible: base.len() as u64, len: base.len() as u64, base, overlay: BTreeMap::new(), sum }
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The sum of the digests of all sectors; the length has no part in it.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// What a sector holds. It is zero where the file does not reach.
    pub fn sector(&self, number: u64) -> SectorBytes {
        match self.overlay.get(&number) {
            Some(sector) => sector.clone(),
            None => SectorBytes::new(self.base_sector(number)),
        }
    }

    /// The bytes of `range`, which ends before the file does.
    pub fn read(&self, buf: &mut [u8], offset: u64) {
        let end = offset + buf.len() as u64;
        assert!(end <= self.len, "a read past the end");
        let shown = index(self.visible.clamp(offset, end) - offset);
        if shown > 0 {
            buf[..shown].copy_from_slice(&self.base[index(offset)..][..shown]);
        }
        buf[shown..].fill(0);
        for (&number, sector) in self.overlay.range(offset / LEN..end.div_ceil(LEN)) {
            let part = part_of(number, offset..end);
            let at = index(number * LEN + part.start as u64 - offset);
            buf[at..at + part.len()].copy_from_slice(&sector.bytes()[part]);
        }
    }

    /// All the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; index(self.len)];
        self.read(&mut bytes[..index(self.data_end())], 0);
        bytes
    }

    /// An offset from which on all bytes are zero.
    fn data_end(&self) -> u64 {
        let overlay_end = self.overlay.last_key_value().map_or(0, |(number, _)| (number + 1) * LEN);
        self.visible.max(overlay_end).min(self.len)
    }

    /// The same content in one piece, or with so few changes that copies of it cost little.
    #[must_use]
    pub fn flattened(&self) -> Self {
        if self.overlay.len() <= FEW {
            return self.clone();
        }
        let mut bytes = vec![0; index(self.data_end())];
        self.read(&mut bytes, 0);
        Self { visible: bytes.len() as u64, base: bytes.into(), overlay: BTreeMap::new(), ..*self }
    }

    /// The first run of sectors from `offset` on that are not zero, in bytes.
    pub fn next_data(&self, offset: u64) -> Option<Range<u64>> {
        // Past the end there is nothing, also where that is within a sector.
        let end = if offset < self.len { self.data_end().div_ceil(LEN) } else { 0 };
        let first = (offset / LEN..end).find(|&number| self.is_data(number))?;
        let last = (first..end).find(|&number| !self.is_data(number)).unwrap_or(end);
        Some((first * LEN).max(offset)..(last * LEN).min(self.len))
    }

    /// Bytes in sectors that are not zero.
    pub fn allocated(&self) -> u64 {
        (0..self.data_end().div_ceil(LEN)).filter(|&number| self.is_data(number)).count() as u64 * LEN
    }

    /// Writes, growing the file if need be. The gap that this may leave counts as changed, too.
    pub fn write(&mut self, buf: &[u8], offset: u64) -> Changed {
        let (first, end) = (offset / LEN, offset + buf.len() as u64);
        let mut changed = if offset > self.len { self.set_len(offset) } else { Changed::default() };
        changed.sectors.retain(|&(number, _)| number < first);
        changed.zeroed.end = changed.zeroed.end.min(first).max(changed.zeroed.start);
        self.len = self.len.max(end);
        for number in first..end.div_ceil(LEN) {
            let part = part_of(number, offset..end);
            let from = index(number * LEN + part.start as u64 - offset);
            let source = &buf[from..from + part.len()];
            changed.sectors.push((number, self.patch(number, part, source)));
        }
        changed
    }

    /// Makes bytes zero. Those past the end are not there.
    pub fn zero(&mut self, range: Range<u64>) -> Changed {
        let end = range.end.min(self.len);
        let start = range.start;
        if start >= end {
            return Changed::default();
        }
        // The last sector of the file is whole as soon as the zeros reach the end.
        let whole_end = if end == self.len { end.div_ceil(LEN) } else { end / LEN };
        let first_whole = start.div_ceil(LEN);
        let mut changed = Changed { sectors: Vec::new(), zeroed: first_whole..whole_end.max(first_whole) };
        for number in start / LEN..end.div_ceil(LEN) {
            if changed.zeroed.contains(&number) {
                self.put(number, SectorBytes::zero());
            } else {
                let part = part_of(number, start..end);
                let zeros = &[0; SECTOR][..part.len()];
                changed.sectors.push((number, self.patch(number, part, zeros)));
            }
        }
        changed
    }

    /// Cuts the file, or grows it with zeros. What it says to have changed is the part that has been added.
    pub fn set_len(&mut self, len: u64) -> Changed {
        let old = std::mem::replace(&mut self.len, len);
        if old < len {
            let cut = (!old.is_multiple_of(LEN)).then(|| (old / LEN, self.sector(old / LEN)));
            return Changed { sectors: cut.into_iter().collect(), zeroed: old.div_ceil(LEN)..len.div_ceil(LEN) };
        }
        if !len.is_multiple_of(LEN) {
            let number = len / LEN;
            self.put(number, self.sector(number).cut(index(len % LEN)));
        }
        let end = len.div_ceil(LEN);
        for number in end..self.visible.div_ceil(LEN).max(end) {
            self.sum = self.sum.wrapping_sub(self.sector(number).digest_at(number));
            self.overlay.remove(&number);
        }
        for (number, sector) in self.overlay.split_off(&end) {
            self.sum = self.sum.wrapping_sub(sector.digest_at(number));
        }
        self.visible = self.visible.min(len);
        Changed::default()
    }

    /// This content at another length and with other sectors in it. The caller has worked out the sum already.
    #[must_use]
    pub fn with(&self, len: u64, sectors: impl Iterator<Item = (u64, SectorBytes)>, sum: u64) -> Self {
        let mut overlay = self.overlay.clone();
        overlay.split_off(&len.div_ceil(LEN));
        overlay.extend(sectors);
        // The sector in which the file ends may hold more than the file does now.
        if !len.is_multiple_of(LEN) {
            let last = len / LEN;
            let sector = overlay.remove(&last).unwrap_or_else(|| self.sector(last));
            overlay.insert(last, sector.cut(index(len % LEN)));
        }
        Self { base: Arc::clone(&self.base), visible: self.visible.min(len), overlay, len, sum }
    }

    fn patch(&mut self, number: u64, part: Range<usize>, source: &[u8]) -> SectorBytes {
        let sector = if part.len() == SECTOR {
            SectorBytes::new(source)
        } else {
            let mut whole = *self.sector(number).bytes();
            whole[part].copy_from_slice(source);
            SectorBytes::new(&whole)
        };
        self.put(number, sector.clone());
        sector
    }

    fn put(&mut self, number: u64, sector: SectorBytes) {
        let (old, new) = (self.sector(number).digest_at(number), sector.digest_at(number));
        self.sum = self.sum.wrapping_sub(old).wrapping_add(new);
        if sector.is_zero() && self.base_sector(number).is_empty() {
            self.overlay.remove(&number);
        } else {
            self.overlay.insert(number, sector);
        }
    }

    fn is_data(&self, number: u64) -> bool {
        match self.overlay.get(&number) {
            Some(sector) => !sector.is_zero(),
            None => !super::super::model::is_zero(self.base_sector(number)),
        }
    }

    /// The bytes of a sector that come from the base.
    fn base_sector(&self, number: u64) -> &[u8] {
        let end = (number * LEN + LEN).min(self.visible);
        if number * LEN < end { &self.base[index(number * LEN)..index(end)] } else { &[] }
    }
}

/// The part of a sector that lies in `range`, as bytes of the sector.
fn part_of(number: u64, range: Range<u64>) -> Range<usize> {
    let start = number * LEN;
    index(range.start.max(start) - start)..index(range.end.min(start + LEN) - start)
}

/// Spreads every bit of a number over all of them (the last step of splitmix64).
pub fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
