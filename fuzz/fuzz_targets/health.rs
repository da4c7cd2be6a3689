//! Whatever bytes an image has, a check ends with a report or a clear error, and a repair makes nothing worse.
//!
//! The oracle: a check changes nothing; what cannot be read is not called clean; what could be read before a repair
//! reads the same afterwards; a second repair changes nothing; the undo file takes everything back.

#![no_main]

use std::ops::ControlFlow;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmdk::{
    BlockDevice, CheckOptions, CheckReport, Directory, Error, ErrorKind, MemoryStorage, OpenOptions, RepairOptions,
    Result, Storage,
};
use vmdk_fuzz::bounded::BoundedStorage;

/// Sectors that are compared.
const LOOKED_AT: u64 = 2048;

/// A directory with one file, by whatever name it is asked for.
struct One(Arc<BoundedStorage>);

impl Directory for One {
    fn exists(&self, _: &str) -> Result<bool> {
        Ok(true)
    }
    fn claim(&self, _: &str) -> Result<Option<Arc<dyn Storage>>> {
        Ok(Some(self.0.clone()))
    }
    fn create(&self, _: &str, _: &str) -> Result<Arc<dyn Storage>> {
        Err(Error::new(ErrorKind::ReadOnly, "no new files"))
    }
    fn rename(&self, _: &str, _: &str, _: bool) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, "no new files"))
    }
    fn remove(&self, _: &str) -> Result<()> {
        Err(Error::new(ErrorKind::ReadOnly, "no new files"))
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

impl One {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.0.len().unwrap_or(0) as usize];
        self.0.read_exact_at(&mut bytes, 0).expect("it is in memory");
        bytes
    }

    fn check(&self) -> Result<CheckReport> {
        OpenOptions::new().check_in("disk", self, &CheckOptions::new(), &mut |_| ControlFlow::Continue(()))
    }

    fn sectors(&self) -> Vec<Option<[u8; 512]>> {
        let file: Arc<dyn Storage> = self.0.clone();
        let Ok(image) = OpenOptions::new().no_parent(true).open_with("disk", &|_: &str| Some(Arc::clone(&file))) else {
            return Vec::new();
        };
        let read = |sector| {
            let mut bytes = [0; 512];
            image.read_sectors(sector, &mut bytes).ok().map(|()| bytes)
        };
        (0..image.capacity_sectors().min(LOOKED_AT)).map(read).collect()
    }
}

fuzz_target!(|input: &[u8]| {
    let disk = One(Arc::new(BoundedStorage::new(input.to_vec())));
    let before = disk.sectors();
    let Ok(report) = disk.check() else { return };
    assert!(disk.bytes() == input, "a check has changed something");
    assert!(!report.is_clean() || !(before.is_empty() || before.iter().any(Option::is_none)), "not clean");
    let undo = Arc::new(MemoryStorage::new([]));
    let repair = |options: RepairOptions| {
        OpenOptions::new().repair_in("disk", &disk, &options, &mut |_| ControlFlow::Continue(()))
    };
    let Ok(repaired) = repair(RepairOptions::new().undo(undo.clone())) else { return };
    let now = disk.sectors();
    assert!(before.iter().zip(&now).all(|(before, now)| before.is_none() || before == now), "lost");
    assert!(now.len() >= before.len());
    let end = disk.bytes();
    let again = repair(RepairOptions::new()).expect("it was repaired before");
    assert!(again.changes == 0 && disk.bytes() == end, "a second repair changes something");
    if repaired.changes > 0 {
        OpenOptions::new().undo_repair_in("disk", &disk, &*undo).expect("its own undo file");
    }
    assert!(disk.bytes() == input, "it was not taken back");
});
