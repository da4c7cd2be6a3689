//! A storage as an output.

use std::io::{self, Seek, SeekFrom, Write};
use std::sync::Arc;

use crate::storage::Storage;

/// Writes a storage from its beginning on, or from wherever it is told to.
#[derive(Debug)]
pub(crate) struct StorageOutput {
    storage: Arc<dyn Storage>,
    offset: u64,
}

impl StorageOutput {
    pub(crate) fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, offset: 0 }
    }
}

impl Write for StorageOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.storage.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for StorageOutput {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(distance) => self.storage.len()?.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.offset.checked_add_signed(distance),
        };
        self.offset = offset.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.offset)
    }
}
