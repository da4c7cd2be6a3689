//! The undo file of a repair: what was there before each change, so that all of it can be taken back.
//!
//! ```text
//! "VMDKUNDO" | version u32 | records
//! record:  kind u32 | file u32 | offset or length u64 | bytes u64 | bytes | CRC-32 of all that u32
//! ```
//!
//! All numbers are little-endian. A record is durable before what it is about is changed. One that was cut off is the
//! last, and nothing was changed for it. Records are taken back from the last to the first.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use flate2::Crc;

use crate::error::{Error, ErrorKind, Result};
use crate::extent::HostFile;
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
    /// A file is called so from now on: its bytes are the name.
    pub(super) const FILE: u32 = 0;
    /// A file had these bytes at an offset.
    pub(super) const BYTES: u32 = 1;
    /// A file had this length.
    pub(super) const LENGTH: u32 = 2;
}

/// An undo file that is being written.
#[derive(Debug)]
pub(super) struct Undo {
    storage: Arc<dyn Storage>,
    end: u64,
    /// The files that it knows.
    files: Vec<Vec<u8>>,
    unsynced: bool,
}

impl Undo {
    /// Begins an undo file in an empty storage.
    ///
    /// # Errors
    /// `InvalidInput` for a storage that is not empty; what the host reports.
    pub(super) fn begin(storage: Arc<dyn Storage>) -> Result<Self> {
        let is_empty = storage.is_empty().map_err(failed)?;
        if !is_empty {
            return Err(Error::text(ErrorKind::InvalidInput, "the undo file is not empty"));
        }
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        storage.write_all_at(&header, 0).map_err(failed)?;
        Ok(Self { storage, end: header.len() as u64, files: Vec::new(), unsynced: true })
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

    /// Notes how long a file is.
    pub(super) fn note_len(&mut self, file: &HostFile) -> Result<()> {
        let number = self.number_of(file)?;
        self.append(kind::LENGTH, number, file.len(), &[])
    }

    /// Makes durable what was noted.
    pub(super) fn sync(&mut self) -> Result<()> {
        if std::mem::take(&mut self.unsynced) { self.storage.sync().map_err(failed) } else { Ok(()) }
    }

    /// Bytes that were written.
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    fn number_of(&mut self, file: &HostFile) -> Result<u32> {
        let name = name_of(file.path());
        let known = self.files.iter().position(|known| *known == name);
        let number = u32::try_from(known.unwrap_or(self.files.len())).unwrap_or(u32::MAX);
        if known.is_none() {
            self.append(kind::FILE, number, 0, &name)?;
            self.files.push(name);
        }
        Ok(number)
    }

    fn append(&mut self, kind: u32, file: u32, value: u64, bytes: &[u8]) -> Result<()> {
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
        let name = record.bytes(undo)?;
        let file = files.iter().find(|file| name_of(file.path()) == name);
        let name = String::from_utf8_lossy(&name).into_owned();
        let file =
            file.ok_or_else(|| no_undo(&format!("it is about the file {name:?}, which the image does not have")))?;
        named.push(file);
    }
    let mut done = 0;
    for record in records.iter().rev().filter(|record| record.kind != kind::FILE) {
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
        if record.kind > kind::LENGTH || record.len > MAX_BYTES || record.len > len - record.at - CHECKSUM as u64 {
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
    Ok(records)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The name by which a file is known again: that of the disk may have become another directory.
fn name_of(path: &Path) -> Vec<u8> {
    path.file_name().unwrap_or(path.as_os_str()).as_encoded_bytes().to_vec()
}

fn failed(cause: std::io::Error) -> Error {
    Error::host("cannot use the undo file", cause)
}

fn no_undo(problem: &str) -> Error {
    Error::text(ErrorKind::Corrupt, format!("this is not the undo file of a repair of this image: {problem}"))
}
