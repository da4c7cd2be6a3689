//! Whatever the files of an image hold, and whatever is done to it: what was written is there, and nothing else
//! changes.
//!
//! The input is a pack (`vmdk_fuzz::unpack`), in which the file `operations` says what to do, 8 bytes each. The oracle
//! is a copy of a window of the disk, as it was read at first: after each operation the window reads as the copy. An
//! operation that fails does so with an error of the format or of the host, and leaves each sector of its range old or
//! new. Memory is bounded by the limits that the fuzzer is run with, and files by `BoundedStorage`.

#![no_main]

use std::io::IoSlice;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmdk::{BlockDevice, CacheMode, Error, ErrorKind, OpenOptions, Storage, VmdkImage, WriteFlags};
use vmdk_fuzz::bounded::BoundedStorage;

const SECTOR: usize = 512;
/// Sectors that the copy has.
const WINDOW: u64 = 2048;
/// Operations of an input.
const MOST: usize = 32;

type Files = Vec<(String, Arc<dyn Storage>)>;

fuzz_target!(|input: &[u8]| {
    let mut files = vmdk_fuzz::unpack(input);
    let Some(at) = files.iter().position(|(name, _)| name == vmdk_fuzz::OPERATIONS) else { return };
    let (_, operations) = files.remove(at);
    let Some((&mode, operations)) = operations.split_first() else { return };
    let files: Files = files
        .into_iter()
        .map(|(name, content)| (name, Arc::new(BoundedStorage::new(content)) as Arc<dyn Storage>))
        .collect();
    let Ok(image) = open(&files, mode, true) else { return };
    let base = match mode % 4 {
        0 | 1 => 0,
        2 => image.capacity_sectors() / 2,
        _ => image.capacity_sectors().saturating_sub(WINDOW),
    };
    let mut run = Run { window: Window::read(&image, base), image, files, mode, may_be_poisoned: false };
    for operation in operations.chunks_exact(8).take(MOST) {
        if !run.step(operation) {
            return;
        }
    }
    run.reopen();
});

fn open(files: &Files, mode: u8, write: bool) -> vmdk::Result<VmdkImage> {
    let resolver = |name: &str| {
        let found = files.iter().find(|(known, _)| known == name).or(files.first());
        found.map(|(_, storage)| Arc::clone(storage))
    };
    let Some((first, _)) = files.first() else { return Err(Error::new(ErrorKind::NotFound, "no file")) };
    let cache = match mode >> 4 & 3 {
        0 => CacheMode::Writethrough,
        1 => CacheMode::Unsafe,
        _ => CacheMode::Writeback,
    };
    // The content ID changes with the first write, and a file may be its own parent's.
    let options = OpenOptions::new().ignore_cid_mismatch(true).write(write).cache_mode(cache);
    options.rewrite_descriptor(mode & 0x40 != 0).allow_bare_extent(mode & 0x80 == 0).open_with(first, &resolver)
}

/// A copy of a part of the disk.
struct Window {
    base: u64,
    /// Sectors; `None` where the image could not be read.
    sectors: Vec<Option<[u8; SECTOR]>>,
}

impl Window {
    fn read(image: &VmdkImage, base: u64) -> Self {
        let count = WINDOW.min(image.capacity_sectors() - base);
        Self { base, sectors: read(image, base, count) }
    }
}

/// Sectors, one by one where they cannot be read together.
fn read(image: &VmdkImage, start: u64, count: u64) -> Vec<Option<[u8; SECTOR]>> {
    let mut buf = vec![0; count as usize * SECTOR];
    match image.read_sectors(start, &mut buf) {
        Ok(()) => buf.chunks_exact(SECTOR).map(|sector| sector.try_into().ok()).collect(),
        Err(error) => {
            assert!(is_of_the_files(error.kind()), "{error}");
            if count <= 1 {
                return vec![None; count as usize];
            }
            let half = count / 2;
            let mut sectors = read(image, start, half);
            sectors.extend(read(image, start + half, count - half));
            sectors
        }
    }
}

struct Run {
    image: VmdkImage,
    window: Window,
    files: Files,
    mode: u8,
    /// The host had no more space, so that metadata may not have been written.
    may_be_poisoned: bool,
}

impl Run {
    /// Does what eight bytes say; whether to go on.
    fn step(&mut self, operation: &[u8]) -> bool {
        let len = self.window.sectors.len() as u64;
        let place = u64::from(u16::from_le_bytes([operation[1], operation[2]])) % len.max(1);
        let most = if operation[3] & 1 == 0 { 40 } else { 700 };
        let count = (u64::from(u16::from_le_bytes([operation[4], operation[5]])) % most).min(len - place.min(len));
        let start = self.window.base + place;
        // Some of it zeros.
        let seed = u64::from(operation[6]);
        let byte = |at: u64| if at / 512 % 7 == 3 { 0 } else { (at * 31 + seed * (at / 512 + 1)) as u8 };
        let data: Vec<u8> = (0..count * SECTOR as u64).map(byte).collect();
        let zeros = vec![0; data.len()];
        let image = &self.image;
        match operation[0] % 12 {
            0..=2 => self.changed(place, image.write_sectors(start, &data), &data, false),
            3 => {
                let (head, tail) = data.split_at(data.len() / 3);
                let flags = if operation[7] & 1 == 0 { WriteFlags::NONE } else { WriteFlags::FUA };
                let done = image.write_sectors_vectored(start, &[IoSlice::new(head), IoSlice::new(tail)], flags);
                self.changed(place, done, &data, false);
            }
            4 => self.changed(place, image.write_zeroes(start, count, true), &zeros, false),
            5 => self.changed(place, image.write_zeroes(start, count, false), &zeros, false),
            6 => self.changed(place, image.discard(start, count), &zeros, true),
            7 => self.checked(&image.flush()),
            8 | 9 => {
                let commit = operation[0] % 12 == 8;
                let done = prepared(image, start, count, &data, commit);
                self.changed(place, done, &data, !commit);
            }
            10 => return self.reopen(),
            _ => {
                let far = u64::from_le_bytes(operation.try_into().expect("8 bytes"));
                let end = image.capacity_sectors();
                if far > end {
                    let error = image.write_sectors(far, &[1; SECTOR]).expect_err("past the end");
                    assert_eq!(error.kind(), ErrorKind::OutOfRange);
                    assert_eq!(image.discard(end, far).expect_err("past the end").kind(), ErrorKind::OutOfRange);
                }
            }
        }
        self.compare();
        true
    }

    /// Something was to become `new`: it is so after a success, and may be so after a failure or if it is `optional`.
    fn changed(&mut self, place: u64, done: vmdk::Result<()>, new: &[u8], optional: bool) {
        self.checked(&done);
        let range = place as usize..place as usize + new.len() / SECTOR;
        let sectors = &mut self.window.sectors[range];
        let new = new.chunks_exact(SECTOR).map(|sector| sector.try_into().ok());
        if done.is_ok() && !optional {
            sectors.iter_mut().zip(new).for_each(|(sector, new)| *sector = new);
            return;
        }
        let found = read(&self.image, self.window.base + place, sectors.len() as u64);
        for (number, ((sector, new), found)) in sectors.iter_mut().zip(new).zip(found).enumerate() {
            assert!(found == *sector || found == new || sector.is_none(), "sector {number} of those from {place} on");
            *sector = found;
        }
    }

    fn checked(&mut self, done: &vmdk::Result<()>) {
        let Err(error) = done else { return };
        let kind = error.kind();
        assert!(!error.to_string().is_empty());
        self.may_be_poisoned |= kind == ErrorKind::Io;
        let allowed = is_of_the_files(kind)
            || matches!(kind, ErrorKind::ReadOnly | ErrorKind::Full)
            || kind == ErrorKind::Poisoned && self.may_be_poisoned;
        assert!(allowed, "{kind:?}: {error}");
    }

    fn compare(&self) {
        let found = read(&self.image, self.window.base, self.window.sectors.len() as u64);
        for (number, (found, sector)) in found.iter().zip(&self.window.sectors).enumerate() {
            assert!(found == sector || sector.is_none(), "sector {number} of the window");
        }
    }

    /// Closes the image and opens it again, with the same content; whether it may be gone on with.
    fn reopen(&mut self) -> bool {
        let closed = self.image.close();
        self.checked(&closed);
        assert!(self.image.close().is_ok(), "the second time nothing is left to do");
        assert_eq!(self.image.flush().expect_err("it is closed").kind(), ErrorKind::Closed);
        if closed.is_err() {
            return false;
        }
        self.image = open(&self.files, self.mode, false).expect("what was closed can be opened");
        self.compare();
        self.image = open(&self.files, self.mode, true).expect("what was closed can be opened to be written");
        self.may_be_poisoned = false;
        self.compare();
        true
    }
}

/// A write whose payload is moved here.
fn prepared(image: &VmdkImage, start: u64, count: u64, data: &[u8], commit: bool) -> vmdk::Result<()> {
    let write = image.prepare_write(start, count)?;
    let mut next = start;
    for range in write.ranges() {
        assert!(range.start >= next && range.sectors >= 1 && range.start + range.sectors <= start + count);
        next = range.start + range.sectors;
        let from = (range.start - start) as usize * SECTOR;
        let bytes = &data[from..from + range.sectors as usize * SECTOR];
        if let Err(error) = range.storage.write_all_at(bytes, range.offset) {
            write.abort();
            return Err(error.into());
        }
    }
    if commit {
        return write.commit();
    }
    write.abort();
    Ok(())
}

fn is_of_the_files(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::Io | ErrorKind::Unsupported)
}
