//! Images in memory that are checked, repaired and read.

use std::ops::ControlFlow;

use vmdk::{
    BlockDevice, CheckOptions, CheckReport, Error, FindingKind, OpenOptions, RepairOptions, RepairReport, Severity,
    VmdkImage,
};

use super::support::SECTOR;
use super::support::crash::CrashDisk;
use super::support::disk::Image;

/// The files of an image, the one to open last.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// What each sector holds, as far as it can be read.
pub(crate) type Sectors = Vec<Option<[u8; SECTOR]>>;

/// The most sectors of a disk that are read.
const LOOKED_AT: u64 = 4096;

/// Files in memory.
pub(crate) fn disk(files: &Files) -> CrashDisk {
    CrashDisk::new(files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())))
}

/// The files of images, the last of which is to be opened.
pub(crate) fn files_of(images: &[Image]) -> Files {
    let (last, parents) = images.split_last().unwrap();
    let own = |image: &Image| {
        let mut files = image.files.clone();
        files.sort_by_key(|(name, _)| *name == image.name);
        files
    };
    parents.iter().chain([last]).flat_map(own).collect()
}

pub(crate) fn name_of(files: &Files) -> &str {
    &files.last().unwrap().0
}

pub(crate) fn check(disk: &CrashDisk, name: &str) -> Result<CheckReport, Error> {
    OpenOptions::new().check_in(name, disk, &CheckOptions::new(), &mut |_| ControlFlow::Continue(()))
}

pub(crate) fn repair(disk: &CrashDisk, name: &str, options: &RepairOptions) -> Result<RepairReport, Error> {
    OpenOptions::new().repair_in(name, disk, options, &mut |_| ControlFlow::Continue(()))
}

/// A repair that does all it can without a guess.
pub(crate) fn everything() -> RepairOptions {
    RepairOptions::new().reclaim(true)
}

/// All that a report says, shortly: kind, severity, how many, and whether a repair does something about it.
pub(crate) fn summary(report: &CheckReport) -> Vec<(FindingKind, Severity, u64, bool)> {
    let mut all: Vec<_> = report
        .findings
        .iter()
        .map(|finding| (finding.kind, finding.severity, finding.count, finding.remedy.is_some()))
        .collect();
    all.sort_unstable();
    all
}

/// An image alone: what only its parents have reads as zeros.
fn open(disk: &CrashDisk, name: &str) -> Result<VmdkImage, Error> {
    OpenOptions::new().no_parent(true).open_with(name, disk)
}

/// What every sector near the beginning holds, as far as it can be read; nothing of an image that cannot be opened.
pub(crate) fn content(disk: &CrashDisk, name: &str) -> Sectors {
    let Ok(image) = open(disk, name) else { return Vec::new() };
    let sectors = image.capacity_sectors().min(LOOKED_AT);
    let read = |sector| {
        let mut bytes = [0; SECTOR];
        image.read_sectors(sector, &mut bytes).ok().map(|()| bytes)
    };
    (0..sectors).map(read).collect()
}

/// The first sector that could be read before, and cannot now, or holds something else.
pub(crate) fn lost(before: &[Option<[u8; SECTOR]>], now: &[Option<[u8; SECTOR]>]) -> Option<usize> {
    (0..before.len()).find(|&sector| {
        let was = before[sector];
        was.is_some() && now.get(sector).copied().flatten() != was
    })
}

/// All files as they are now.
pub(crate) fn state(disk: &CrashDisk) -> Files {
    disk.names().into_iter().map(|name| (name.clone(), disk.live(&name))).collect()
}

/// Changes bytes of a file.
pub(crate) fn damage(disk: &CrashDisk, name: &str, offset: u64, bytes: &[u8]) {
    disk.storage(name).write_all_at(bytes, offset).unwrap();
}
