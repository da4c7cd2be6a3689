//! The undo file of a repair: what was there before, so that all of it can be taken back, and what was written instead,
//! so that nothing else is.
//!
//! ```text
//! "VMDKUNDO" | version u32 | records
//! record:  kind u32 | file u32 | offset or length u64 | bytes u64 | bytes | CRC-32 of all that u32
//! ```
//!
//! All numbers are little-endian, all offsets are those of sectors. A record is durable before what it is about is
//! changed. One that was cut off is the last, and nothing was changed for it. A repair that came to its end has a
//! record that says so. What a sector held at first is noted once; that is what it gets back, and what it may hold when
//! it does is that or one of the contents that it was to have. Past the shortest length that a file has had, everything
//! was zeros or is noted.

mod record;
mod sectors;
mod take_back;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::extent::HostFile;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};
use crate::storage::{Storage, StorageId};

use self::record::{Kind, MAX_BYTES, Record, checksum};
use self::sectors::Sectors;
pub(super) use self::take_back::take_back;

/// Sectors of a record.
const MAX_SECTORS: u64 = MAX_BYTES as u64 / SECTOR_BYTES;

/// An undo file that is being written.
#[derive(Debug)]
pub(super) struct Undo {
    storage: Arc<dyn Storage>,
    /// How long it is.
    end: u64,
    /// What comes behind that, and is not written yet.
    buffer: Vec<u8>,
    /// The files that it knows.
    files: Vec<Noted>,
    unsynced: bool,
}

/// What is known of a file.
#[derive(Debug)]
struct Noted {
    path: PathBuf,
    id: Option<StorageId>,
    /// Its length before the repair.
    before: u64,
    /// Sectors of which it is noted what they held.
    old: Sectors,
}

impl Undo {
    /// Begins an undo file in an empty storage, which stays empty until something is noted.
    ///
    /// # Errors
    /// `InvalidInput` for a storage that is not empty; what the host reports.
    pub(super) fn begin(storage: Arc<dyn Storage>) -> Result<Self> {
        let is_empty = storage.is_empty().map_err(failed)?;
        if !is_empty {
            return Err(Error::text(ErrorKind::InvalidInput, "the undo file is not empty"));
        }
        Ok(Self { storage, end: 0, buffer: Vec::new(), files: Vec::new(), unsynced: false })
    }

    /// Notes what is about to be written to a file, in this order and without a sync in between: bytes, and where they
    /// go.
    pub(super) fn note_writes(&mut self, file: &HostFile, writes: &[(u64, Vec<u8>)]) -> Result<()> {
        let number = self.number_of(file)?;
        let mut len = file.len();
        // What sectors hold once the writes so far are carried out, as far as others come behind them: after a crash it
        // may be that.
        let mut written: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (nth, (offset, bytes)) in writes.iter().enumerate() {
            let end = offset + bytes.len() as u64;
            if end > len {
                self.append(Kind::Length, number, end, Vec::new())?;
                len = end;
            }
            let all = sectors_of(&(*offset..end));
            for start in all.clone().step_by(to_usize(MAX_SECTORS)) {
                let sectors = start..all.end.min(start + MAX_SECTORS);
                self.note_old(file, sectors.clone())?;
                let mut now = vec![0; to_usize((sectors.end - start) * SECTOR_BYTES)];
                file.read(&mut now, start * SECTOR_BYTES)?;
                for (sector, now) in sectors.clone().zip(now.chunks_mut(SECTOR_SIZE)) {
                    if let Some(written) = written.get(&sector) {
                        now.copy_from_slice(written);
                    }
                }
                put(&mut now, start * SECTOR_BYTES, bytes, *offset);
                let sums = now.chunks(SECTOR_SIZE).flat_map(|sector| checksum(sector).to_le_bytes()).collect();
                self.append(Kind::New, number, start * SECTOR_BYTES, sums)?;
                if nth + 1 < writes.len() {
                    written.extend(sectors.zip(now.chunks(SECTOR_SIZE).map(<[u8]>::to_vec)));
                }
            }
        }
        Ok(())
    }

    /// Notes what a stretch of a file holds that stays as it is, unless it is said otherwise: whoever writes to the
    /// disk changes it.
    pub(super) fn note_kept(&mut self, file: &HostFile, bytes: &Range<u64>) -> Result<()> {
        self.note_old(file, sectors_of(bytes))
    }

    /// Notes that a stretch of a file, in whole sectors, is about to become zeros.
    pub(super) fn note_punch(&mut self, file: &HostFile, bytes: &Range<u64>) -> Result<()> {
        let number = self.number_of(file)?;
        self.note_old(file, sectors_of(bytes))?;
        self.append(Kind::Zeros, number, bytes.start, (bytes.end - bytes.start).to_le_bytes().to_vec())
    }

    /// Notes that a file is about to be cut, behind a sector.
    pub(super) fn note_cut(&mut self, file: &HostFile, len: u64) -> Result<()> {
        let number = self.number_of(file)?;
        let mut at = len;
        // The holes come back by themselves.
        while let Some(data) = file.next_data(at)? {
            self.note_old(file, sectors_of(&(data.start.max(at)..data.end)))?;
            at = data.end;
        }
        self.append(Kind::Length, number, len, Vec::new())
    }

    /// Makes durable what was noted.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.write()?;
        if std::mem::take(&mut self.unsynced) { self.storage.sync().map_err(failed) } else { Ok(()) }
    }

    /// Says that the repair has come to its end; how long the undo file is.
    pub(super) fn finish(&mut self) -> Result<u64> {
        if self.end > 0 {
            self.append(Kind::End, 0, 0, Vec::new())?;
        }
        self.sync()?;
        Ok(self.end)
    }

    /// Notes what sectors hold, as far as that is not noted yet and the file had them before.
    fn note_old(&mut self, file: &HostFile, sectors: Range<u64>) -> Result<()> {
        let number = self.number_of(file)?;
        let of_file = to_usize(number.into());
        let before = self.files[of_file].before;
        let sectors = sectors.start..sectors.end.min(before.div_ceil(SECTOR_BYTES));
        while let Some(Range { start, end }) = self.files[of_file].old.first_outside(&sectors) {
            let end = end.min(start + MAX_SECTORS);
            let bytes = start * SECTOR_BYTES..(end * SECTOR_BYTES).min(before);
            let mut there = vec![0; to_usize(bytes.end - bytes.start)];
            file.read(&mut there, bytes.start)?;
            self.append(Kind::Old, number, bytes.start, there)?;
            self.files[of_file].old.add(start..end);
        }
        Ok(())
    }

    fn number_of(&mut self, file: &HostFile) -> Result<u32> {
        let (id, path) = (file.storage().id(), file.path());
        let known = self.files.iter().position(|known| known.path == path || id.is_some() && known.id == id);
        let number = u32::try_from(known.unwrap_or(self.files.len())).unwrap_or(u32::MAX);
        if known.is_none() {
            self.append(Kind::File, number, file.len(), path.as_os_str().as_encoded_bytes().to_vec())?;
            let (path, before) = (path.to_owned(), file.len());
            self.files.push(Noted { path, id, before, old: Sectors::default() });
        }
        Ok(number)
    }

    fn append(&mut self, kind: Kind, file: u32, value: u64, bytes: Vec<u8>) -> Result<()> {
        if self.end == 0 && self.buffer.is_empty() {
            self.buffer = record::header();
        }
        Record { kind, file, value, bytes }.encode(&mut self.buffer);
        if self.buffer.len() >= MAX_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.storage.write_all_at(&self.buffer, self.end).map_err(failed)?;
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        self.unsynced = true;
        Ok(())
    }
}

/// Puts into `now`, the bytes from the offset `start` on, what they share with `bytes`, which go to `offset`.
fn put(now: &mut [u8], start: u64, bytes: &[u8], offset: u64) {
    let (skip, at) = (to_usize(start.saturating_sub(offset)), to_usize(offset.saturating_sub(start)));
    let bytes = &bytes[skip..];
    let len = bytes.len().min(now.len() - at);
    now[at..at + len].copy_from_slice(&bytes[..len]);
}

/// The sectors that bytes lie in.
fn sectors_of(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / SECTOR_BYTES..bytes.end.div_ceil(SECTOR_BYTES)
}

fn failed(cause: std::io::Error) -> Error {
    Error::host("cannot use the undo file", cause)
}

fn no_undo(problem: &str) -> Error {
    Error::text(ErrorKind::Corrupt, format!("this is not the undo file of a repair of this image: {problem}"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io;

    use proptest::prelude::*;

    use super::*;
    use crate::MemoryStorage;

    /// Something that a repair does, in units of half sectors.
    #[derive(Clone, Debug)]
    enum Change {
        /// Writes in one batch: where, how much, and what.
        Writes(Vec<(u64, usize, u8)>),
        Punch(u64, u64),
        Cut(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            4 => prop::collection::vec((0..40_u64, 1..5_usize, 1..=255_u8), 1..5).prop_map(Change::Writes),
            1 => (0..20_u64, 1..4_u64).prop_map(|(start, len)| Change::Punch(start, len)),
            1 => (0..20_u64).prop_map(Change::Cut),
        ]
    }

    /// A file whose sectors of zeros are holes, if it has any.
    #[derive(Debug)]
    struct Sparse(Arc<MemoryStorage>, bool);

    impl Storage for Sparse {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.read_exact_at(buf, offset)
        }
        fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
            self.0.write_all_at(buf, offset)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }
        fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
            self.0.punch_hole(range)
        }
        fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
            let bytes = self.0.to_vec();
            let sectors = bytes.chunks(SECTOR_SIZE).zip((0..).step_by(SECTOR_SIZE));
            let mut data = sectors.filter(|(sector, at)| {
                at + sector.len() as u64 > offset && (!self.1 || sector.iter().any(|&byte| byte != 0))
            });
            Ok(data.next().map(|(sector, at)| at.max(offset)..at + sector.len() as u64))
        }
    }

    /// A file, and everything that its sectors have held.
    struct Subject {
        storage: Arc<Sparse>,
        file: HostFile,
        seen: BTreeMap<u64, BTreeSet<Vec<u8>>>,
        touched: BTreeSet<u64>,
        least: u64,
    }

    impl Subject {
        fn new(bytes: &[u8], has_holes: bool) -> Self {
            let storage = Arc::new(Sparse(Arc::new(MemoryStorage::new(bytes)), has_holes));
            let file = HostFile::new(PathBuf::from("disk"), Arc::clone(&storage) as Arc<dyn Storage>).unwrap();
            let least = file.len();
            Self { storage, file, seen: BTreeMap::new(), touched: BTreeSet::new(), least }
        }

        fn sector(&self, number: u64) -> Vec<u8> {
            let mut sector = vec![0; SECTOR_SIZE];
            self.file.read(&mut sector, number * SECTOR_BYTES).unwrap();
            sector
        }

        fn remember(&mut self) {
            for number in 0..40 {
                let now = self.sector(number);
                self.seen.entry(number).or_default().insert(now);
            }
        }

        fn touch(&mut self, bytes: Range<u64>) {
            self.touched.extend(sectors_of(&bytes));
        }

        /// Carries out a change, of a batch only the first `most` writes.
        fn carry_out(&mut self, change: &Change, undo: &mut Undo, most: usize) {
            let before = self.file.len();
            match change {
                Change::Writes(writes) => {
                    let writes: Vec<_> =
                        writes.iter().map(|&(at, len, byte)| (at * 256 + 3, vec![byte; len * 200])).collect();
                    undo.note_writes(&self.file, &writes).unwrap();
                    for (offset, bytes) in writes.iter().take(most) {
                        self.file.write(bytes, *offset).unwrap();
                        self.remember();
                    }
                    for (offset, bytes) in writes {
                        self.touch(offset..offset + bytes.len() as u64);
                    }
                }
                Change::Punch(start, len) => {
                    let bytes = start * SECTOR_BYTES..(start + len) * SECTOR_BYTES;
                    undo.note_punch(&self.file, &bytes).unwrap();
                    self.touch(bytes.clone());
                    if most > 0 {
                        self.file.punch(bytes).unwrap();
                    }
                }
                Change::Cut(sectors) => {
                    let len = (sectors * SECTOR_BYTES).min(before / SECTOR_BYTES * SECTOR_BYTES);
                    undo.note_cut(&self.file, len).unwrap();
                    self.least = self.least.min(len);
                    if most > 0 {
                        self.file.set_len(len).unwrap();
                    }
                }
            }
            self.remember();
        }
    }

    #[test]
    fn a_file_that_was_opened_again_is_the_same_file() {
        let memory = Arc::new(MemoryStorage::new([1; 2 * SECTOR_SIZE]));
        let open = || HostFile::new(PathBuf::from("disk"), Arc::new(Sparse(Arc::clone(&memory), true))).unwrap();
        let undo_file = Arc::new(MemoryStorage::new([]));
        let mut undo = Undo::begin(Arc::clone(&undo_file) as Arc<dyn Storage>).unwrap();
        let files = [open(), open()];
        for (byte, file) in (2..).zip(&files) {
            undo.note_writes(file, &[(0, vec![byte; 100])]).unwrap();
            file.write(&[byte; 100], 0).unwrap();
        }
        undo.finish().unwrap();
        assert_eq!(take_back(&*undo_file, &[&open()]).unwrap(), 2);
        assert_eq!(memory.to_vec(), [1; 2 * SECTOR_SIZE]);
    }

    proptest! {
        /// Whatever was done, how far the last of it came, and whatever somebody has written afterwards.
        #[test]
        fn what_was_there_comes_back_and_nothing_else_is_lost(
            (len, has_holes) in (0..6000_usize, any::<bool>()),
            changes in prop::collection::vec(change(), 1..7),
            most in 0..6_usize,
            flipped in prop::option::of((0..40_u64, 0..SECTOR_SIZE, 1..=255_u8)),
        ) {
            let original: Vec<u8> = (0..len).map(|at| u8::try_from(at / 100 % 20).unwrap()).collect();
            let original: Vec<u8> = original.into_iter().map(|byte| byte.saturating_sub(9)).collect();
            let mut subject = Subject::new(&original, has_holes);
            let undo_file = Arc::new(MemoryStorage::new([]));
            let mut undo = Undo::begin(Arc::clone(&undo_file) as Arc<dyn Storage>).unwrap();
            subject.remember();
            for (number, change) in changes.iter().enumerate() {
                let is_last = number + 1 == changes.len();
                subject.carry_out(change, &mut undo, if is_last { most } else { usize::MAX });
            }
            undo.finish().unwrap();
            let place = flipped.map(|(sector, at, mask)| (sector * SECTOR_BYTES + at as u64, mask));
            let place = place.filter(|(at, _)| *at < subject.file.len());
            let mut expected = original;
            let mut must_refuse = false;
            if let Some((at, mask)) = place {
                let mut byte = [0; 1];
                subject.file.read(&mut byte, at).unwrap();
                subject.file.write(&[byte[0] ^ mask], at).unwrap();
                let number = at / SECTOR_BYTES;
                let is_behind = number >= subject.least.div_ceil(SECTOR_BYTES);
                let now = subject.sector(number);
                let is_known = subject.seen[&number].contains(&now) || is_behind && now.iter().all(|&byte| byte == 0);
                must_refuse = (is_behind || subject.touched.contains(&number)) && !is_known;
                if !(is_behind || subject.touched.contains(&number))
                    && let Some(byte) = expected.get_mut(to_usize(at))
                {
                    *byte ^= mask;
                }
            }
            let before = subject.storage.0.to_vec();
            match take_back(&*undo_file, &[&subject.file]) {
                Ok(_) => {
                    prop_assert!(!must_refuse);
                    prop_assert_eq!(subject.storage.0.to_vec(), expected.clone());
                    take_back(&*undo_file, &[&subject.file]).unwrap();
                    prop_assert_eq!(subject.storage.0.to_vec(), expected);
                }
                Err(error) => {
                    prop_assert_eq!((error.kind(), must_refuse), (ErrorKind::InvalidInput, true), "{}", error);
                    prop_assert_eq!(subject.storage.0.to_vec(), before);
                }
            }
        }
    }
}
