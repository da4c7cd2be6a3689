//! Bytes of a host file into another host object.
//!
//! The kernel copies where it can; holes are not copied, and left to who knows what the target needs.

use std::ops::Range;

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
    /// Copies the bytes `from` of a file to the offset `to` of `target`. What lies past the end of the file is zero. Of
    /// holes `zero` is told where in the target they go. Says up to which byte of the target something was written.
    pub(super) fn copy(
        &mut self,
        file: &'a HostFile,
        from: Range<u64>,
        target: &dyn Storage,
        to: u64,
        zero: &dyn Fn(Range<u64>) -> Result<()>,
    ) -> Result<u64> {
        let (mut at, mut written) = (from.start, 0);
        let place = |at: u64| to + (at - from.start);
        while at < from.end {
            let data = self.next_data(file, at)?;
            let start = data.start.clamp(at, from.end);
            let end = data.end.clamp(start, from.end);
            if at < start {
                zero(place(at)..place(start))?;
            }
            if start < end {
                self.copy_data(file, start..end, target, place(start))?;
                written = place(end);
            }
            at = end;
        }
        Ok(written)
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
