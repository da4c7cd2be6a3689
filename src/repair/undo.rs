//! The undo file of a repair: what was there before each change, so that all of it can be taken back.
//!
//! ```text
//! "VMDKUNDO" | version u32 | records
//! record:  kind u32 | file u32 | offset or length u64 | bytes u64 | bytes | CRC-32 of all that u32
//! ```
//!
//! All numbers are little-endian. A record is durable before what it is about is changed. One that was cut off is the
//! last, and nothing was changed for it. A repair that came to its end has a record that says so. Records are taken
//! back from the last to the first.

use std::ops::Range;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use flate2::Crc;

use crate::error::{Error, ErrorKind, Result};
use crate::extent::{FileIdentity, HostFile};
use crate::sector::to_usize;
use crate::storage::Storage;

/// The first bytes.
const MAGIC: [u8; 8] = *b"VMDKUNDO";

const VERSION: u32 = 1;

/// Bytes in front of the records.
const HEADER: usize = MAGIC.len() + 4;

/// Bytes of a record in front of its own.
const RECORD: usize = 24;

const CHECKSUM: usize = 4;

/// The most bytes of a record; more are several records.
const MAX_BYTES: u64 = 1 << 20;

mod kind {
    /// A file has this number from now on: its bytes are the path.
    pub(super) const FILE: u32 = 0;
    /// A file had these bytes at an offset.
    pub(super) const BYTES: u32 = 1;
    /// A file had this length.
    pub(super) const LENGTH: u32 = 2;
    /// The repair has come to its end. The last record.
    pub(super) const END: u32 = 3;
}

/// An undo file that is being written.
#[derive(Debug)]
pub(super) struct Undo {
    storage: Arc<dyn Storage>,
    end: u64,
    /// The files that it knows.
    files: Vec<FileIdentity>,
    unsynced: bool,
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
        Ok(Self { storage, end: 0, files: Vec::new(), unsynced: false })
    }

    /// Notes what a file has in these bytes; what it does not have is not noted.
    pub(super) fn note_bytes(&mut self, file: &HostFile, bytes: Range<u64>) -> Result<()> {
        let number = self.number_of(file)?;
        let end = bytes.end.min(file.len());
        let mut at = bytes.start;
        while at < end {
            let len = (end - at).min(MAX_BYTES);
            let mut there = vec![0; to_usize(len)];
            file.read(&mut there, at)?;
            self.append(kind::BYTES, number, at, &there)?;
            at += len;
        }
        Ok(())
    }

    /// As [`note_bytes`](Self::note_bytes), for bytes of which the holes come back by themselves.
    pub(super) fn note_data(&mut self, file: &HostFile, bytes: Range<u64>) -> Result<()> {
        let mut at = bytes.start;
        while let Some(data) = file.next_data(at)?.filter(|data| data.start < bytes.end) {
            self.note_bytes(file, data.start.max(at)..data.end.min(bytes.end))?;
            at = data.end;
        }
        Ok(())
    }

    /// Notes how long a file is.
    pub(super) fn note_len(&mut self, file: &HostFile) -> Result<()> {
        let number = self.number_of(file)?;
        self.append(kind::LENGTH, number, file.len(), &[])
    }

    /// Makes durable what was noted.
    pub(super) fn sync(&mut self) -> Result<()> {
        if std::mem::take(&mut self.unsynced) { self.storage.sync().map_err(failed) } else { Ok(()) }
    }

    /// Says that the repair has come to its end; how long the undo file is.
    pub(super) fn finish(&mut self) -> Result<u64> {
        if self.end > 0 {
            self.append(kind::END, 0, 0, &[])?;
        }
        self.sync()?;
        Ok(self.end)
    }

    fn number_of(&mut self, file: &HostFile) -> Result<u32> {
        let known = self.files.iter().position(|known| *known == file.identity());
        let number = u32::try_from(known.unwrap_or(self.files.len())).unwrap_or(u32::MAX);
        if known.is_none() {
            self.append(kind::FILE, number, 0, file.path().as_os_str().as_encoded_bytes())?;
            self.files.push(file.identity());
        }
        Ok(number)
    }

    fn append(&mut self, kind: u32, file: u32, value: u64, bytes: &[u8]) -> Result<()> {
        if self.end == 0 {
            let header = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
            self.storage.write_all_at(&header, 0).map_err(failed)?;
            self.end = HEADER as u64;
        }
        let mut record = Vec::with_capacity(RECORD + bytes.len() + CHECKSUM);
        record.extend(kind.to_le_bytes());
        record.extend(file.to_le_bytes());
        record.extend(value.to_le_bytes());
        record.extend((bytes.len() as u64).to_le_bytes());
        record.extend_from_slice(bytes);
        record.extend(checksum(&record).to_le_bytes());
        self.storage.write_all_at(&record, self.end).map_err(failed)?;
        self.end += record.len() as u64;
        self.unsynced = true;
        Ok(())
    }
}

/// Takes back everything that an undo file notes, in these files; says how many records that were.
///
/// # Errors
/// `Corrupt` for what is no undo file, or one of other files; what the host reports. Some of it may be done then; it
/// can be done again.
pub(super) fn take_back(undo: &dyn Storage, files: &[&HostFile]) -> Result<u64> {
    let records = read_records(undo)?;
    let mut named: Vec<&HostFile> = Vec::new();
    for record in records.iter().filter(|record| record.kind == kind::FILE) {
        named.push(find_file(files, &record.bytes(undo)?)?);
    }
    let mut done = 0;
    for record in records.iter().rev().filter(|record| matches!(record.kind, kind::BYTES | kind::LENGTH)) {
        let file = named.get(to_usize(record.file.into()));
        let file = file.ok_or_else(|| no_undo("a record is about a file that has no name"))?;
        if record.kind == kind::LENGTH {
            file.set_len(record.value)?;
        } else {
            file.write(&record.bytes(undo)?, record.value)?;
        }
        done += 1;
    }
    for file in named {
        file.sync()?;
    }
    Ok(done)
}

#[derive(Clone, Copy)]
struct Record {
    kind: u32,
    file: u32,
    value: u64,
    /// Where its own bytes are.
    at: u64,
    len: u64,
}

impl Record {
    /// The record at an offset and where it ends; `None` for one that is not whole.
    fn read(undo: &dyn Storage, at: u64, len: u64) -> Result<Option<(Self, u64)>> {
        if len - at < (RECORD + CHECKSUM) as u64 {
            return Ok(None);
        }
        let mut head = [0; RECORD];
        undo.read_exact_at(&mut head, at).map_err(failed)?;
        let record = Self {
            kind: LittleEndian::read_u32(&head),
            file: LittleEndian::read_u32(&head[4..]),
            value: LittleEndian::read_u64(&head[8..]),
            at: at + RECORD as u64,
            len: LittleEndian::read_u64(&head[16..]),
        };
        if record.kind > kind::END || record.len > MAX_BYTES || record.len > len - record.at - CHECKSUM as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; to_usize(record.len) + CHECKSUM];
        undo.read_exact_at(&mut bytes, record.at).map_err(failed)?;
        let (own, sum) = bytes.split_at(to_usize(record.len));
        let is_whole = checksum(&[&head[..], own].concat()) == LittleEndian::read_u32(sum);
        Ok(is_whole.then_some((record, record.at + record.len + CHECKSUM as u64)))
    }

    /// Its own bytes.
    fn bytes(&self, undo: &dyn Storage) -> Result<Vec<u8>> {
        let mut bytes = vec![0; to_usize(self.len)];
        undo.read_exact_at(&mut bytes, self.at).map_err(failed)?;
        Ok(bytes)
    }
}

/// The whole records of an undo file, in their order.
fn read_records(undo: &dyn Storage) -> Result<Vec<Record>> {
    let len = undo.len().map_err(failed)?;
    let mut header = [0; HEADER];
    if len < HEADER as u64 {
        return Err(no_undo("it is too short"));
    }
    undo.read_exact_at(&mut header, 0).map_err(failed)?;
    if !header.starts_with(&MAGIC) || LittleEndian::read_u32(&header[MAGIC.len()..]) != VERSION {
        return Err(no_undo("it begins with something else"));
    }
    let mut records = Vec::new();
    let mut at = HEADER as u64;
    while let Some((record, end)) = Record::read(undo, at, len)? {
        records.push(record);
        at = end;
    }
    // Of a repair that has come to its end every record is whole.
    let last = len.checked_sub((RECORD + CHECKSUM) as u64).filter(|&last| last > at);
    if let Some(last) = last
        && Record::read(undo, last, len)?.is_some_and(|(record, _)| record.kind == kind::END)
    {
        return Err(no_undo(&format!("the record at offset {at:#x} is damaged")));
    }
    Ok(records)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The file that was called so: by its path, or by its name alone if only one has it; the disk may be in another
/// directory now.
fn find_file<'a>(files: &[&'a HostFile], path: &[u8]) -> Result<&'a HostFile> {
    if let Some(file) = files.iter().find(|file| file.path().as_os_str().as_encoded_bytes() == path) {
        return Ok(file);
    }
    let name = |path: &[u8]| path.rsplit(|&byte| std::path::is_separator(byte.into())).next().map(<[u8]>::to_vec);
    let mut same = files.iter().filter(|file| name(file.path().as_os_str().as_encoded_bytes()) == name(path));
    match (same.next(), same.next()) {
        (Some(file), None) => Ok(file),
        (None, _) => {
            let path = String::from_utf8_lossy(path);
            Err(no_undo(&format!("it is about the file {path:?}, which the image does not have")))
        }
        (Some(_), Some(_)) => {
            let path = String::from_utf8_lossy(path);
            Err(no_undo(&format!("it is about the file {path:?}, and several files of the image are called so")))
        }
    }
}

fn failed(cause: std::io::Error) -> Error {
    Error::host("cannot use the undo file", cause)
}

fn no_undo(problem: &str) -> Error {
    Error::text(ErrorKind::Corrupt, format!("this is not the undo file of a repair of this image: {problem}"))
}
