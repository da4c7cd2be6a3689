//! The journal: the transactions by which slots in use have come into the tables.

use std::collections::{BTreeMap, BTreeSet};

use super::super::rng::Rng;
use super::super::{SECTOR, byte_range, index};
use super::{Layout, allocated, back_map_entry, put, put_u64};

/// Sectors from a record of the journal to the next: its header, and what it can carry.
pub(super) const RECORD_SECTORS: u64 = 1 + RECORD_MOST;
/// The most sectors that a record carries.
const RECORD_MOST: u64 = 24;
/// Slots whose bits ESX sets in one transaction.
const GROUP_SLOTS: u64 = 128;
/// The number of the first transaction in the journal of the one extent by ESX that is public.
pub(super) const FIRST_TRANSACTION: u64 = 4;

/// Enters the slots in use into tables, bitmap and back map, group by group of slots as ESX does; the transactions.
pub(super) fn map_slots(file: &mut [u8], layout: &Layout) -> Vec<Record> {
    let by_slot: BTreeMap<u64, u64> = layout.slots.iter().map(|(&grain, &slot)| (slot, grain)).collect();
    let mut records = Vec::new();
    let (mut group, mut touched) = (0, [const { BTreeSet::new() }; 3]);
    for (&slot, &grain) in &by_slot {
        let (bit_offset, bit) = layout.bitmap_bit(slot);
        let offsets = [bit_offset, layout.back_map_entry(slot), layout.entry(grain)];
        let sectors = offsets.map(|offset| offset / SECTOR as u64);
        let more = touched.iter().zip(sectors).filter(|(sectors, sector)| !sectors.contains(sector)).count();
        let full = touched.iter().map(BTreeSet::len).sum::<usize>() + more > index(RECORD_MOST);
        if full || slot / GROUP_SLOTS != group {
            records.extend(Record::of(file, &mut touched));
            group = slot / GROUP_SLOTS;
        }
        file[index(bit_offset)] |= bit;
        put_u64(file, offsets[1], back_map_entry(grain));
        put_u64(file, offsets[2], allocated(slot));
        for (sectors, sector) in touched.iter_mut().zip(sectors) {
            sectors.insert(sector);
        }
    }
    records.extend(Record::of(file, &mut touched));
    records
}

/// A transaction: sectors of the file, and what is in them afterwards.
pub(super) struct Record(Vec<(u64, Vec<u8>)>);

impl Record {
    /// Into the journal, as the record with this number and this number of the transaction.
    pub(super) fn write(&self, file: &mut [u8], number: u64, sequence: u64) {
        let rng = &mut Rng::new(sequence);
        let header = [
            0x00c0_ffee,
            1,
            number,
            1 + self.0.len() as u64,
            // A checksum that nobody knows how to make.
            rng.next_u64(),
            sequence,
            u64::MAX,
            // The time: it rises.
            1_103_000_000 + 2000 * sequence,
        ];
        for (place, value) in (0..).zip(header) {
            put_u64(file, 8 * place, value);
        }
        for (place, (sector, content)) in (0..).zip(&self.0) {
            put_u64(file, 128 + 16 * place, *sector);
            put_u64(file, 128 + 16 * place + 8, 1);
            put(file, (1 + place) * SECTOR as u64, content);
        }
    }

    /// The record of what is in these sectors of bitmap, back map and tables now, unless there are none.
    fn of(file: &[u8], touched: &mut [BTreeSet<u64>; 3]) -> Option<Self> {
        let sectors: Vec<u64> = touched.iter_mut().flat_map(std::mem::take).collect();
        let content = |sector| file[byte_range(sector, 1)].to_vec();
        (!sectors.is_empty()).then(|| Self(sectors.into_iter().map(|sector| (sector, content(sector))).collect()))
    }
}
