//! What one link of a chain says about its sectors, as a model to compare readings with.

use std::collections::BTreeMap;

use super::{SECTOR, byte_range};

/// The sectors that a link holds itself, also those that are there to be zero. All others ask what is below.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    capacity: u64,
    sectors: BTreeMap<u64, Box<[u8; SECTOR]>>,
}

impl Layer {
    /// A link that holds nothing.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, sectors: BTreeMap::new() }
    }

    /// A link that holds every sector, as flat extents do.
    pub fn full(content: &[u8]) -> Self {
        let mut layer = Self::new((content.len() / SECTOR) as u64);
        layer.set(0, content);
        layer
    }

    /// The size in sectors.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Holds `bytes` from sector `start` on; what lies past the capacity is dropped.
    pub fn set(&mut self, start: u64, bytes: &[u8]) {
        for (sector, bytes) in (start..self.capacity).zip(bytes.chunks_exact(SECTOR)) {
            self.sectors.insert(sector, Box::new(bytes.try_into().expect("a whole sector")));
        }
    }

    /// What the link holds at `sector`: `None` asks what is below.
    pub fn sector(&self, sector: u64) -> Option<&[u8; SECTOR]> {
        self.sectors.get(&sector).map(|bytes| &**bytes)
    }

    /// Puts the sectors of `next` behind those of this, as the next extent of the same link.
    pub fn append(&mut self, next: &Layer) {
        let shift = self.capacity;
        self.capacity += next.capacity;
        self.sectors.extend(next.sectors.iter().map(|(sector, bytes)| (sector + shift, bytes.clone())));
    }

    /// What a guest sees with nothing below.
    pub fn content(&self) -> Vec<u8> {
        self.over(&[])
    }

    /// What a guest sees if the parent shows `below`; past the end of that there are zeros.
    pub fn over(&self, below: &[u8]) -> Vec<u8> {
        let mut content = vec![0; byte_range(0, self.capacity).end];
        let shared = content.len().min(below.len());
        content[..shared].copy_from_slice(&below[..shared]);
        for (&sector, bytes) in &self.sectors {
            content[byte_range(sector, 1)].copy_from_slice(&**bytes);
        }
        content
    }
}
