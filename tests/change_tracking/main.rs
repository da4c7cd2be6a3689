//! Disks whose changes are tracked (`changeTrackPath`): what is known of the tracking file, and what giving the
//! tracking up leaves, whenever the power goes.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod crash;
mod faults;
mod file;
mod hostile;
mod refused;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "cli")]
mod tool;
mod written;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmdk::{BlockDevice, OpenOptions, VmdkImage};

use support::descriptor::DescriptorText;
use support::disk::{Image, cid_of};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, index};

const SECTORS: u64 = 64;

/// What a disk calls its tracking file.
const CTK: &str = "disk-ctk.vmdk";

/// That file when the disk does not name it any more.
const DROPPED: &str = "disk-ctk.vmdk.dropped";

/// A tracking file as far as anybody knows what that is.
fn ctk() -> Vec<u8> {
    let mut bytes = Rng::new(7).bytes(3000);
    bytes[..16].copy_from_slice(&[0xa2, 0x72, 0x19, 0xf6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]);
    bytes[60..64].fill(0);
    bytes
}

/// The text of a disk of ESX, tracked or as it was before.
fn text(is_tracked: bool) -> DescriptorText {
    let text = DescriptorText::new("vmfs", cid_of("disk.vmdk")).extent(format!("RW {SECTORS} VMFS \"disk-flat.vmdk\""));
    let text = text.ddb("adapterType", "lsilogic").ddb("longContentID", format!("{:032x}", cid_of("disk.vmdk")));
    if is_tracked { text.version(3).change_track_path(CTK) } else { text }
}

/// A tracked disk, its files, and what a guest reads.
#[derive(Clone)]
struct Tracked {
    files: Vec<(String, Vec<u8>)>,
    content: Vec<u8>,
}

impl Tracked {
    /// A flat disk of ESX.
    fn flat() -> Self {
        let content = Rng::new(1).bytes(index(SECTORS) * SECTOR);
        let files =
            [("disk.vmdk", text(true).to_string().into_bytes()), ("disk-flat.vmdk", content.clone()), (CTK, ctk())];
        Self { files: files.map(|(name, bytes)| (name.to_owned(), bytes)).to_vec(), content }
    }

    /// A disk with its descriptor inside.
    fn embedded() -> Self {
        let extent = SparseImage::new(SECTORS).grain_sectors(8).data(1, Rng::new(2).bytes(8 * SECTOR));
        let image = Image::embedded("disk.vmdk", extent, None, |text| text.version(3).change_track_path(CTK));
        let mut files = image.files;
        files.push((CTK.to_owned(), ctk()));
        Self { files, content: image.content }
    }

    fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &self.files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }
}

/// A directory with a flat disk.
struct Host {
    dir: TempDir,
    content: Vec<u8>,
}

impl Host {
    fn new() -> Self {
        let disk = Tracked::flat();
        Self { dir: disk.write(), content: disk.content }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn disk(&self) -> PathBuf {
        self.path("disk.vmdk")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.disk()).unwrap()
    }

    fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Lets the descriptor name another tracking file.
    fn name(&self, name: &str) {
        fs::write(self.disk(), self.text().replace(CTK, name)).unwrap();
    }

    /// The names of all files, in their order.
    fn names(&self) -> Vec<String> {
        names(self.dir.path())
    }
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// How a tracked disk is opened that is to be written to.
fn dropping() -> OpenOptions {
    OpenOptions::new().write(true).drop_change_tracking(true)
}

fn read(image: &VmdkImage) -> Vec<u8> {
    try_read(image).unwrap()
}

fn try_read(image: &VmdkImage) -> vmdk::Result<Vec<u8>> {
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content)?;
    Ok(content)
}

/// The text without the values of its content IDs.
fn without_ids(text: &str) -> String {
    let is_id = |line: &&str| line.starts_with("CID=") || line.starts_with("ddb.longContentID");
    text.split_inclusive('\n').filter(|line| !is_id(line)).collect()
}
