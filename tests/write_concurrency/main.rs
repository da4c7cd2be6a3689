//! One image that is written to from many threads, and the moments in which they can get in each other's way.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod gate;
mod moments;
mod stress;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::sync::Arc;

use vmdk::{BlockDevice, MemoryStorage, OpenOptions, Storage, VmdkImage};

use gate::Gate;
use support::check::check;
use support::disk::Image;
use support::{SECTOR, byte_range, index};

/// A chain in memory. Calls to its files can be held up.
struct Files {
    links: Vec<Image>,
    gates: HashMap<String, Arc<Gate>>,
}

impl Files {
    fn new(links: Vec<Image>) -> Self {
        let files = links.iter().flat_map(|link| &link.files);
        let gates =
            files.map(|(name, bytes)| (name.clone(), Gate::new(Arc::new(MemoryStorage::new(bytes.clone()))))).collect();
        Self { links, gates }
    }

    fn open(&self, options: &OpenOptions) -> VmdkImage {
        let resolver = |name: &str| self.gates.get(name).map(|file| Arc::clone(file) as Arc<dyn Storage>);
        options.open_with(&self.links[self.links.len() - 1].name, &resolver).unwrap()
    }

    fn content(&self) -> Vec<u8> {
        self.links[self.links.len() - 1].content.clone()
    }

    /// After a close: the extent is sound, and another reader finds `content`.
    fn expect(&self, name: &str, content: &[u8]) -> support::check::Report {
        let gate = &self.gates[name];
        let mut bytes = vec![0; index(gate.len().unwrap())];
        gate.read_exact_at(&mut bytes, 0).unwrap();
        let report = check(&bytes);
        report.expect_sound(name);
        assert!(read(&self.open(&OpenOptions::new())) == content, "another reader finds something else");
        report
    }
}

fn read(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0xee; byte_range(0, image.capacity_sectors()).end];
    image.read_sectors(0, &mut content).unwrap();
    content
}

fn sector(image: &VmdkImage, number: u64) -> [u8; SECTOR] {
    let mut sector = [0xee; SECTOR];
    image.read_sectors(number, &mut sector).unwrap();
    sector
}
