//! The records of an undo file, to the byte.

use byteorder::{ByteOrder, LittleEndian};
use flate2::Crc;

use super::{failed, no_undo};
use crate::error::Result;
use crate::sector::to_usize;
use crate::storage::Storage;

/// The first bytes.
const MAGIC: [u8; 8] = *b"VMDKUNDO";

const VERSION: u32 = 2;

/// Bytes in front of the records.
const HEADER: usize = MAGIC.len() + 4;

/// Bytes of a record in front of its own.
const RECORD: usize = 24;

const CHECKSUM: usize = 4;

/// The most bytes of a record; more are several records.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file has this number from now on, and this length until now: its bytes are the path.
    File,
    /// There were these bytes from an offset on, before anything was changed there.
    Old,
    /// There are to be other sectors from an offset on: the CRC-32 of each, a u32.
    New,
    /// There are to be zeros from an offset on: how many bytes, a u64.
    Zeros,
    /// The file is to have this length.
    Length,
    /// The repair has come to its end. The last record.
    End,
}

impl Kind {
    const ALL: [Self; 6] = [Self::File, Self::Old, Self::New, Self::Zeros, Self::Length, Self::End];

    fn of(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// What an undo file begins with.
pub(super) fn header() -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes()].concat()
}

/// One record.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) file: u32,
    /// An offset or a length.
    pub(super) value: u64,
    pub(super) bytes: Vec<u8>,
}

impl Record {
    /// Adds the record to what is to be written.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend((self.kind as u32).to_le_bytes());
        to.extend(self.file.to_le_bytes());
        to.extend(self.value.to_le_bytes());
        to.extend((self.bytes.len() as u64).to_le_bytes());
        to.extend_from_slice(&self.bytes);
        to.extend(checksum(&to[start..]).to_le_bytes());
    }

    /// The record at an offset and where it ends; `None` for one that is not whole.
    fn read(undo: &dyn Storage, at: u64, len: u64) -> Result<Option<(Self, u64)>> {
        let room = len.saturating_sub(at);
        if room < (RECORD + CHECKSUM) as u64 {
            return Ok(None);
        }
        let mut head = [0; RECORD];
        undo.read_exact_at(&mut head, at).map_err(failed)?;
        let own = LittleEndian::read_u64(&head[16..]);
        let Some(kind) = Kind::of(LittleEndian::read_u32(&head)) else { return Ok(None) };
        if own > MAX_BYTES as u64 || own > room - (RECORD + CHECKSUM) as u64 {
            return Ok(None);
        }
        let mut bytes = head.to_vec();
        bytes.resize(RECORD + to_usize(own) + CHECKSUM, 0);
        undo.read_exact_at(&mut bytes[RECORD..], at + RECORD as u64).map_err(failed)?;
        let end = at + bytes.len() as u64;
        let sum = LittleEndian::read_u32(&bytes.split_off(RECORD + to_usize(own)));
        if checksum(&bytes) != sum {
            return Ok(None);
        }
        let (file, value) = (LittleEndian::read_u32(&head[4..]), LittleEndian::read_u64(&head[8..]));
        Ok(Some((Self { kind, file, value, bytes: bytes.split_off(RECORD) }, end)))
    }
}

/// The whole records of an undo file, in their order.
pub(super) struct Records<'u> {
    undo: &'u dyn Storage,
    at: u64,
    len: u64,
}

impl<'u> Records<'u> {
    /// # Errors
    /// `Corrupt` for what is no undo file; what the host reports.
    pub(super) fn open(undo: &'u dyn Storage) -> Result<Self> {
        let len = undo.len().map_err(failed)?;
        let mut found = [0; HEADER];
        if len < HEADER as u64 {
            return Err(no_undo("it is too short"));
        }
        undo.read_exact_at(&mut found, 0).map_err(failed)?;
        if found[..] != header()[..] {
            return Err(no_undo("it begins with something else"));
        }
        Ok(Self { undo, at: HEADER as u64, len })
    }

    /// The next one.
    ///
    /// # Errors
    /// `Corrupt` where a record is not whole that must be; what the host reports.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        if let Some((record, end)) = Record::read(self.undo, self.at, self.len)? {
            self.at = end;
            return Ok(Some(record));
        }
        // Of a repair that has come to its end every record is whole.
        let last = self.len.checked_sub((RECORD + CHECKSUM) as u64).filter(|&last| last > self.at);
        if let Some(last) = last
            && Record::read(self.undo, last, self.len)?.is_some_and(|(record, _)| record.kind == Kind::End)
        {
            return Err(no_undo(&format!("the record at offset {:#x} is damaged", self.at)));
        }
        Ok(None)
    }
}

/// What sectors and records are known by.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
