//! What a copy consists of: the runs of the disk, in pieces of which each is moved in one way.

use std::ops::Range;

use super::{RawTarget, STEP};
use crate::error::Result;
use crate::extent::CompressedGrain;
use crate::image::walk::Walk;
use crate::mapping::{Place, Run};
use crate::sector::SECTOR_BYTES;

/// Bytes of grains that a thread inflates together: enough that handing them out no longer shows, and few enough that
/// many threads take little memory.
pub(super) const BATCH: u64 = 512 << 10;

/// A piece of the work. It ends at a byte of the disk.
pub(super) enum Job<'a> {
    /// Grains that are to be inflated.
    Grains { pieces: Vec<Piece<'a>>, end: u64 },
    /// Anything else, with the bytes of the disk that are there.
    Plain { place: Place<'a>, bytes: Range<u64> },
}

/// A part of a compressed grain, and where it goes.
pub(super) struct Piece<'a> {
    pub(super) grain: CompressedGrain<'a>,
    /// Bytes of the grain before it.
    pub(super) skip: u64,
    /// The bytes of the disk that it is.
    pub(super) bytes: Range<u64>,
}

/// The work, made of the runs of the disk.
pub(super) struct Jobs<'a> {
    walk: Walk<'a>,
    kind: RawTarget,
    /// What the next job begins with, or why there is none.
    next: Option<Result<(Place<'a>, Range<u64>)>>,
}

impl<'a> Jobs<'a> {
    pub(super) fn new(walk: Walk<'a>, kind: RawTarget) -> Self {
        Self { walk, kind, next: None }
    }

    /// The next job; `None` at the end of the disk.
    pub(super) fn next(&mut self) -> Result<Option<Job<'a>>> {
        let Some((place, bytes)) = self.next_run()? else { return Ok(None) };
        if let Place::Compressed { grain, skip } = place {
            return Ok(Some(self.grains(Piece { grain, skip, bytes })));
        }
        let most = if self.is_nothing(place) { u64::MAX } else { STEP };
        let end = bytes.end.min(bytes.start.saturating_add(most));
        if end < bytes.end {
            self.next = Some(Ok((behind(place, end - bytes.start), end..bytes.end)));
        }
        Ok(Some(Job::Plain { place, bytes: bytes.start..end }))
    }

    /// Gathers the grains that follow, as long as nothing else has to be moved in between. An error is left for the
    /// next job: what lies before it is copied, or has an error of its own.
    fn grains(&mut self, first: Piece<'a>) -> Job<'a> {
        let len = |bytes: &Range<u64>| bytes.end - bytes.start;
        let (mut gathered, mut end) = (len(&first.bytes), first.bytes.end);
        let mut pieces = vec![first];
        while let Some(run) = self.next_run().transpose() {
            match run {
                Ok((Place::Compressed { grain, skip }, bytes)) if gathered + len(&bytes) <= BATCH => {
                    end = bytes.end;
                    gathered += len(&bytes);
                    pieces.push(Piece { grain, skip, bytes });
                }
                Ok((place, bytes)) if self.is_nothing(place) => end = bytes.end,
                other => {
                    self.next = Some(other);
                    break;
                }
            }
        }
        Job::Grains { pieces, end }
    }

    /// Whether there is nothing to do: what is zero anyway in a file that was emptied.
    fn is_nothing(&self, place: Place<'_>) -> bool {
        self.kind == RawTarget::Empty && matches!(place, Place::Zero | Place::Unallocated)
    }

    fn next_run(&mut self) -> Result<Option<(Place<'a>, Range<u64>)>> {
        if let Some(next) = self.next.take() {
            return next.map(Some);
        }
        Ok(self.walk.next()?.map(|(sector, Run { place, sectors }, _)| {
            (place, sector * SECTOR_BYTES..(sector + sectors) * SECTOR_BYTES)
        }))
    }
}

/// What is at a place behind so many bytes.
fn behind(place: Place<'_>, bytes: u64) -> Place<'_> {
    match place {
        Place::Data { file, offset } => Place::Data { file, offset: offset + bytes },
        Place::Compressed { grain, skip } => Place::Compressed { grain, skip: skip + bytes },
        Place::Zero | Place::Unallocated => place,
    }
}
