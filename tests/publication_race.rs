//! What guests write while tables are being published stays: a publication writes tables, and nothing that lies
//! between.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use vmdk::{BlockDevice, MemoryStorage, OpenOptions, Storage, VmdkImage};

use support::SECTOR;
use support::cowd::CowdImage;
use support::disk::Image;
use support::sparse::SparseImage;

type Hook = Box<dyn FnMut(Range<u64>) + Send>;

/// Calls somebody after every read, who may do what another thread could do at this moment.
struct HookedStorage {
    inner: MemoryStorage,
    after_read: Mutex<Option<Hook>>,
}

impl std::fmt::Debug for HookedStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl Storage for HookedStorage {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, offset)?;
        // Taken out, so that the hook may read as well.
        let hook = self.after_read.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook(offset..offset + buf.len() as u64);
            self.after_read.lock().unwrap().get_or_insert(hook);
        }
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.inner.punch_hole(range)
    }
}

/// New tables with a grain between them: entries at the end of one and at the beginning of the next are published,
/// and the grain is written to after each read of the publication.
fn a_grain_between_tables_is_left_alone(chain: &[Image], table: u64) {
    let mut files: HashMap<String, Arc<dyn Storage>> = HashMap::new();
    let mut hooked = Vec::new();
    for (name, bytes) in chain.iter().flat_map(|link| &link.files) {
        let storage = HookedStorage { inner: MemoryStorage::new(bytes.clone()), after_read: Mutex::default() };
        let storage = Arc::new(storage);
        files.insert(name.clone(), Arc::clone(&storage) as _);
        hooked.push(storage);
    }
    let name = &chain[chain.len() - 1].name;
    let image = Arc::new(OpenOptions::new().write(true).open_with(name, &files).unwrap());
    // The first table and its last grain, then the second table and its first grain.
    for sector in [table - 1, table] {
        image.write_sectors(sector, &[1; SECTOR]).unwrap();
    }
    let latest = Arc::new(Mutex::new(1));
    for storage in &hooked {
        let (image, latest): (Arc<VmdkImage>, _) = (Arc::clone(&image), Arc::clone(&latest));
        *storage.after_read.lock().unwrap() = Some(Box::new(move |_| {
            let mut latest = latest.lock().unwrap();
            holds(&image, table - 1, *latest);
            *latest += 1;
            image.write_sectors(table - 1, &[*latest; SECTOR]).unwrap();
        }));
    }
    image.flush().unwrap();
    for storage in &hooked {
        *storage.after_read.lock().unwrap() = None;
    }
    let latest = *latest.lock().unwrap();
    assert!(latest > 1, "the publication has read nothing");
    holds(&image, table - 1, latest);
}

#[track_caller]
fn holds(image: &VmdkImage, sector: u64, latest: u8) {
    let mut found = [0; SECTOR];
    image.read_sectors(sector, &mut found).unwrap();
    assert!(found == [latest; SECTOR], "a write to the grain between the tables was lost");
}

/// Tables were patched together with what lay between them, up to 4096 bytes: with grains of less, that was guests'
/// data.
#[test]
fn a_grain_between_tables_of_a_delta_of_esx_is_left_alone() {
    let base = Image::vmfs("base.vmdk", vec![0; 9000 * SECTOR]);
    let delta = Image::esx_delta(&base, "base-000001.vmdk", &CowdImage::esx(9000));
    a_grain_between_tables_is_left_alone(&[base, delta], 4096);
}

#[test]
fn a_small_grain_between_tables_of_a_hosted_disk_is_left_alone() {
    for grain in [1, 2, 4, 8] {
        let extent = SparseImage::new(512 * grain * 3).grain_sectors(grain).omit_empty_tables();
        let extents = [extent.clone().without_redundant_tables(), extent];
        for extent in extents {
            a_grain_between_tables_is_left_alone(&[Image::monolithic_sparse("disk.vmdk", extent)], 512 * grain);
        }
    }
}
