//! An input of which only so much is read at once.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use crate::error::{Error, ErrorKind};

use super::METADATA;

/// What may still be read. Whoever has one can set it anew.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget(Rc<Cell<u64>>);

impl Budget {
    /// From now on, the metadata of one member may be read.
    pub(super) fn metadata(&self) {
        self.0.set(METADATA);
    }

    /// From now on, any content may be read.
    pub(super) fn content(&self) {
        self.0.set(u64::MAX);
    }
}

/// An input with a budget.
#[derive(Debug)]
pub(super) struct Metered<R> {
    input: R,
    budget: Budget,
}

impl<R> Metered<R> {
    pub(super) fn new(input: R, budget: &Budget) -> Self {
        Self { input, budget: budget.clone() }
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.0.get();
        if left == 0 && !buf.is_empty() {
            let text = format!("a member of the archive has more than {METADATA} bytes of names and attributes");
            return Err(Error::text(ErrorKind::Corrupt, text).into());
        }
        let most = buf.len().min(crate::sector::to_usize(left));
        let len = self.input.read(&mut buf[..most])?;
        if left < u64::MAX {
            self.budget.0.set(left - len as u64);
        }
        Ok(len)
    }
}

impl<R: Seek> Seek for Metered<R> {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.input.seek(pos)
    }
}
