//! A disk beside its model: every action is done to both, and they must stay the same.

use std::collections::{HashMap, VecDeque};
use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use vmdk::{
    BlockDevice, BlockStatus, ErrorKind, FileStorage, Mapping, MemoryStorage, OpenOptions, PreparedWrite, Result,
    Storage, VmdkImage, WriteFlags,
};

use crate::action::{Action, End, Fill};
use crate::subject::is_refused;
use crate::support::check::check;
use crate::support::disk::Image;
use crate::support::model::is_zero;
use crate::support::rng::Rng;
use crate::support::{SECTOR, byte_range, index};

/// A disk that is open for writing, its files, and what must be on it.
pub(crate) struct Session {
    links: Vec<Image>,
    files: HashMap<String, Arc<dyn Storage>>,
    options: OpenOptions,
    image: Option<VmdkImage>,
    model: Vec<u8>,
    grain: u64,
    open: VecDeque<Prepared>,
    rng: Rng,
}

/// A prepared write that is still open.
struct Prepared {
    write: PreparedWrite,
    start: u64,
    bytes: Vec<u8>,
    /// Which sectors are in new grains: nobody else can write to these.
    is_new: Vec<bool>,
}

impl Session {
    /// Opens the last one of `links`.
    pub(crate) fn new(links: Vec<Image>, options: OpenOptions, on_disk: bool, rng: Rng) -> Self {
        let files = links.iter().flat_map(|link| &link.files);
        let files = files.map(|(name, bytes)| (name.clone(), storage(bytes, on_disk))).collect();
        let model = links[links.len() - 1].content.clone();
        let options = options.write(true).allow_bare_extent(true);
        let mut session = Self { links, files, options, image: None, model, grain: 1, open: VecDeque::new(), rng };
        session.image = Some(session.open_image());
        session.grain = session.image().limits().optimal_io_sectors.max(8);
        session
    }

    fn open_image(&self) -> VmdkImage {
        self.options.open_with(&self.links[self.links.len() - 1].name, &self.files).unwrap()
    }

    fn image(&self) -> &VmdkImage {
        self.image.as_ref().expect("an open image")
    }

    fn capacity(&self) -> u64 {
        (self.model.len() / SECTOR) as u64
    }

    /// Does one step.
    pub(crate) fn act(&mut self, action: &Action) {
        let (capacity, grain) = (self.capacity(), self.grain);
        match *action {
            Action::Write { at, fill } => {
                let (start, count) = at.on(capacity, grain);
                let bytes = filled(fill, count);
                let result = self.image().write_sectors(start, &bytes);
                self.wrote(start, &bytes, result);
            }
            Action::WriteVectored { at, fill, fua } => {
                let (start, count) = at.on(capacity, grain);
                let bytes = filled(fill, count);
                let lens = ragged(bytes.len(), &mut self.rng);
                let mut rest = bytes.as_slice();
                let mut slices = Vec::new();
                for len in lens {
                    let (head, tail) = rest.split_at(len);
                    slices.push(IoSlice::new(head));
                    rest = tail;
                }
                let flags = if fua { WriteFlags::FUA } else { WriteFlags::NONE };
                let result = self.image().write_sectors_vectored(start, &slices, flags);
                self.wrote(start, &bytes, result);
            }
            Action::WriteZeroes { at, may_unmap } => {
                let (start, count) = at.on(capacity, grain);
                let result = self.image().write_zeroes(start, count, may_unmap);
                self.wrote(start, &filled(Fill::Zeros, count), result);
            }
            Action::Discard { at } => {
                let (start, count) = at.on(capacity, grain);
                let result = self.image().discard(start, count);
                self.check_refusal(start, count, |_, _| true, &result);
                self.adopt(start, &filled(Fill::Zeros, count));
            }
            Action::Flush => self.image().flush().unwrap(),
            Action::Read { at } => {
                let (start, count) = at.on(capacity, grain);
                self.expect_vectored(start, count);
            }
            Action::Status { at } => {
                let (start, count) = at.on(capacity, grain);
                self.check_status(start, count);
            }
            Action::Prepare { at, fill, end } => {
                let (start, count) = at.on(capacity, grain);
                self.prepare(start, filled(fill, count), end);
            }
            Action::Settle { end } => {
                if end != End::Later
                    && let Some(prepared) = self.open.pop_front()
                {
                    self.settle(prepared, end, false);
                }
            }
            Action::Reopen => {
                self.image().close().unwrap();
                self.image().close().unwrap();
                self.settle_after_close();
                self.reopen();
            }
            Action::Drop => {
                while let Some(prepared) = self.open.pop_front() {
                    let end = if self.rng.chance(50) { End::Abort } else { End::Drop };
                    self.settle(prepared, end, false);
                }
                self.reopen();
            }
        }
    }

    /// The end: the disk is closed, and everything is compared.
    pub(crate) fn finish(mut self) {
        self.act(&Action::Reopen);
        self.image().close().unwrap();
        let files: HashMap<_, _> = self.files.iter().map(|(name, file)| (name.clone(), bytes_of(&**file))).collect();
        self.check_files(&files);
    }

    /// Without an open image: the files must be right by themselves.
    fn reopen(&mut self) {
        self.image = None;
        let files: HashMap<_, _> = self.files.iter().map(|(name, file)| (name.clone(), bytes_of(&**file))).collect();
        self.check_files(&files);
        let reader = {
            let storages: HashMap<_, _> =
                files.iter().map(|(name, bytes)| (name.clone(), storage(bytes, false))).collect();
            OpenOptions::new().open_with(&self.links[self.links.len() - 1].name, &storages).unwrap()
        };
        let mut found = vec![0xee; self.model.len()];
        reader.read_sectors(0, &mut found).unwrap();
        expect_same(0, &found, &self.model, "another reader after a close");
        self.image = Some(self.open_image());
        self.expect(0, self.capacity());
    }

    fn check_files(&self, files: &HashMap<String, Vec<u8>>) {
        let (top, parents) = self.links.split_last().expect("at least one link");
        for (name, before) in parents.iter().flat_map(|parent| &parent.files) {
            assert!(files[name] == *before, "{name} of a parent was changed");
        }
        for (name, before) in &top.files {
            let bytes = &files[name];
            if bytes.starts_with(b"KDMV") || bytes.starts_with(b"COWD") {
                let report = check(bytes);
                report.expect_sound(name);
                assert!(!report.unclean || bytes == before, "{name} was closed, but is not marked so");
            }
        }
    }

    // ---- Reading ----------------------------------------------------------------------------------------------------

    #[track_caller]
    fn expect(&self, start: u64, count: u64) {
        let mut found = vec![0xee; index(count) * SECTOR];
        self.image().read_sectors(start, &mut found).unwrap();
        expect_same(start, &found, &self.model[byte_range(start, count)], "read");
    }

    fn expect_vectored(&mut self, start: u64, count: u64) {
        let mut found = vec![0xee; index(count) * SECTOR];
        let mut rest = found.as_mut_slice();
        let mut slices = Vec::new();
        for len in ragged(rest.len(), &mut self.rng) {
            let (head, tail) = rest.split_at_mut(len);
            slices.push(IoSliceMut::new(head));
            rest = tail;
        }
        self.image().read_sectors_vectored(start, &mut slices).unwrap();
        expect_same(start, &found, &self.model[byte_range(start, count)], "vectored read");
    }

    fn check_status(&self, start: u64, count: u64) {
        let (status, known) = self.image().block_status(start, count).unwrap();
        assert!((1..=count).contains(&known), "block_status({start}, {count}) says {known} sectors");
        let zero = is_zero(&self.model[byte_range(start, known)]);
        assert!(zero || status == BlockStatus::Data, "{known} sectors from {start} are called {status:?}");
    }

    // ---- Writing ----------------------------------------------------------------------------------------------------

    /// A write of `bytes` has ended so; the model follows.
    fn wrote(&mut self, start: u64, bytes: &[u8], result: Result<()>) {
        let count = (bytes.len() / SECTOR) as u64;
        self.check_refusal(start, count, |first, end| is_zero(part(bytes, start, first, end)), &result);
        match result {
            Ok(()) => {
                self.model[byte_range(start, count)].copy_from_slice(bytes);
                self.expect_around(start, count);
            }
            // Each sector has been written or not.
            Err(error) if error.kind() == ErrorKind::Busy => self.adopt(start, bytes),
            Err(_) => self.expect_around(start, count),
        }
    }

    /// Only what must be refused is; `Busy` takes a prepared write that is open.
    fn check_refusal<T>(&self, start: u64, count: u64, is_zero: impl Fn(u64, u64) -> bool, result: &Result<T>) {
        let refused = is_refused(self.image(), start, count, is_zero);
        match result {
            Ok(_) => assert!(!refused, "{count} sectors from {start} were not refused"),
            Err(error) if refused => assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy, "{count} sectors from {start}: {error}");
                assert!(!self.open.is_empty(), "nobody has {count} sectors from {start}: {error}");
            }
        }
    }

    /// Every sector from `start` on is what it was or what it is in `bytes`; from now on it is what is there now.
    fn adopt(&mut self, start: u64, bytes: &[u8]) {
        let count = (bytes.len() / SECTOR) as u64;
        let mut found = vec![0xee; bytes.len()];
        self.image().read_sectors(start, &mut found).unwrap();
        let model = &mut self.model[byte_range(start, count)];
        for (number, found) in found.chunks(SECTOR).enumerate() {
            let sector = number * SECTOR..(number + 1) * SECTOR;
            let fine = found == &model[sector.clone()] || found == &bytes[sector];
            assert!(fine, "sector {} is neither as before nor as written", start + number as u64);
        }
        model.copy_from_slice(&found);
        self.expect_around(start, count);
    }

    #[track_caller]
    fn expect_around(&self, start: u64, count: u64) {
        let first = start.saturating_sub(self.grain + 1);
        let end = (start + count + self.grain + 1).min(self.capacity());
        self.expect(first, end - first);
    }

    // ---- Prepared writes --------------------------------------------------------------------------------------------

    fn prepare(&mut self, start: u64, bytes: Vec<u8>, end: End) {
        let count = (bytes.len() / SECTOR) as u64;
        let is_new: Vec<bool> = (start..start + count).map(|sector| self.is_new(sector)).collect();
        let result = self.image().prepare_write(start, count);
        // Zeros or not: it is not known yet.
        self.check_refusal(start, count, |_, _| false, &result);
        self.expect_around(start, count);
        let Ok(write) = result else { return };
        let ends = write.ranges().iter().scan(start, |next, range| {
            assert_eq!(range.start, *next, "the ranges are in order, without gaps");
            *next += range.sectors;
            Some(*next)
        });
        assert_eq!(ends.last(), Some(start + count));
        let prepared = Prepared { write, start, bytes, is_new };
        match end {
            End::Later => self.open.push_back(prepared),
            end => self.settle(prepared, end, true),
        }
    }

    fn is_new(&self, sector: u64) -> bool {
        !matches!(self.image().map_layer(sector, 1).unwrap().mapping, Mapping::Data { .. })
    }

    /// Ends a prepared write; at once if nothing came between.
    fn settle(&mut self, prepared: Prepared, end: End, at_once: bool) {
        let Prepared { write, start, bytes, is_new } = prepared;
        let count = (bytes.len() / SECTOR) as u64;
        match end {
            End::Commit => {
                put(&write, start, &bytes);
                write.commit().unwrap();
            }
            // Nothing was written, so nothing has changed.
            End::Abort => return self.aborted(write, start, count),
            End::Drop | End::Later => {
                drop(write);
                return self.expect_around(start, count);
            }
        }
        // What was in its place already may have been discarded meanwhile: then the owner has written to nowhere.
        for (number, bytes) in bytes.chunks(SECTOR).enumerate() {
            if at_once || is_new[number] {
                self.model[byte_range(start + number as u64, 1)].copy_from_slice(bytes);
            }
        }
        self.adopt(start, &bytes);
    }

    fn aborted(&self, write: PreparedWrite, start: u64, count: u64) {
        write.abort();
        self.expect_around(start, count);
    }

    /// What is prepared when an image is closed comes too late, and changes nothing any more.
    fn settle_after_close(&mut self) {
        let before: Vec<_> = self.files.values().map(|file| bytes_of(&**file)).collect();
        while let Some(Prepared { write, .. }) = self.open.pop_front() {
            match self.rng.below(3) {
                0 => assert_eq!(write.commit().unwrap_err().kind(), ErrorKind::Closed),
                1 => write.abort(),
                _ => drop(write),
            }
        }
        let after: Vec<_> = self.files.values().map(|file| bytes_of(&**file)).collect();
        assert!(before == after, "a closed image was changed");
    }
}

/// What the owner of a prepared write does.
fn put(write: &PreparedWrite, start: u64, bytes: &[u8]) {
    for range in write.ranges() {
        let bytes = &bytes[byte_range(range.start - start, range.sectors)];
        range.storage.write_all_at(bytes, range.offset).unwrap();
    }
}

/// The sectors from `first` to `end` of bytes that begin at the sector `start`.
fn part(bytes: &[u8], start: u64, first: u64, end: u64) -> &[u8] {
    &bytes[byte_range(first - start, end - first)]
}

fn filled(fill: Fill, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; index(count) * SECTOR];
    if let Fill::Random(seed) = fill {
        Rng::new(seed).fill(&mut bytes);
    }
    bytes
}

fn ragged(len: usize, rng: &mut Rng) -> Vec<usize> {
    let mut lens = vec![0];
    let mut rest = len;
    while rest > 0 {
        let most = [0, 1, 700, 512, 5000, 100_000][index(rng.below(6))];
        let len = rest.min(if most == 512 { 512 } else { index(rng.below(most + 1)) });
        lens.push(len);
        rest -= len;
    }
    lens
}

#[track_caller]
fn expect_same(start: u64, found: &[u8], expected: &[u8], what: &str) {
    if found != expected {
        let differs = found.chunks(SECTOR).zip(expected.chunks(SECTOR)).position(|(found, expected)| found != expected);
        panic!("{what}: sector {} is not what the model says", start + differs.unwrap_or(0) as u64);
    }
}

fn storage(bytes: &[u8], on_disk: bool) -> Arc<dyn Storage> {
    if !on_disk {
        return Arc::new(MemoryStorage::new(bytes));
    }
    let file = FileStorage::new(tempfile::tempfile().unwrap()).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    Arc::new(file)
}

fn bytes_of(storage: &dyn Storage) -> Vec<u8> {
    let mut bytes = vec![0; index(storage.len().unwrap())];
    storage.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
