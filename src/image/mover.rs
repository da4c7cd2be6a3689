//! Bytes of a host file into another host object.
//!
//! The kernel copies where it can; where the source has holes, the target gets them as well.

use std::ops::Range;

use super::copy::RawTarget;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::extent::HostFile;
use crate::sector::to_usize;
use crate::storage::{Storage, kernel_copy};

/// Bytes that go through memory at once where the kernel cannot copy.
const BUFFER: usize = 1 << 20;

/// What moves bytes, and what it knows of the place where it was last.
#[derive(Default)]
pub(super) struct Mover<'a> {
    /// The stretch of a source that is known to have no holes, so that not every run has to ask the host.
    data: Option<(&'a HostFile, Range<u64>)>,
    buffer: Buffer,
}

impl<'a> Mover<'a> {
    /// Copies the bytes `from` of a file to the offset `to` of `target`. What lies past the end of the file is zero.
    pub(super) fn copy(
        &mut self,
        file: &'a HostFile,
        from: Range<u64>,
        target: &dyn Storage,
        kind: RawTarget,
        to: u64,
    ) -> Result<()> {
        let mut at = from.start;
        while at < from.end {
            let data = self.next_data(file, at)?;
            let start = data.start.clamp(at, from.end);
            let end = data.end.clamp(start, from.end);
            zero(target, kind, to + (at - from.start)..to + (start - from.start))?;
            self.copy_data(file, start..end, target, to + (start - from.start))?;
            at = end;
        }
        Ok(())
    }

    /// The next stretch of data at or after `at`, at the end of the file an endless one that is empty of data.
    fn next_data(&mut self, file: &'a HostFile, at: u64) -> Result<Range<u64>> {
        if let Some((known, data)) = &self.data
            && std::ptr::eq(*known, file)
            && data.contains(&at)
        {
            return Ok(data.clone());
        }
        let Some(data) = file.next_data(at)? else { return Ok(u64::MAX..u64::MAX) };
        self.data = Some((file, data.clone()));
        Ok(data)
    }

    fn copy_data(&mut self, file: &HostFile, from: Range<u64>, target: &dyn Storage, to: u64) -> Result<()> {
        let mut at = from.start;
        // What the kernel cannot copy, for whatever reason, is read and written: that gives the error a name.
        at += kernel_copy(&**file.storage(), at..from.end.min(file.len()).max(at), target, to);
        while at < from.end {
            let len = to_usize(from.end - at).min(BUFFER);
            if self.buffer.is_empty() {
                self.buffer = Buffer::new(BUFFER);
            }
            let buffer = &mut self.buffer[..len];
            file.read(buffer, at)?;
            let offset = to + (at - from.start);
            let written = target.write_all_at(buffer, offset);
            written.map_err(|cause| Error::transfer("write", len, offset, cause))?;
            at += len as u64;
        }
        Ok(())
    }
}

/// Makes bytes of a target zero, unless they are so already.
pub(super) fn zero(target: &dyn Storage, kind: RawTarget, range: Range<u64>) -> Result<()> {
    if kind == RawTarget::Empty || range.is_empty() {
        return Ok(());
    }
    let text = format!("cannot write zeros from offset {:#x} to {:#x}", range.start, range.end);
    target.punch_hole(range).map_err(|cause| Error::host(text, cause))
}
