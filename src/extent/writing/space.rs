//! Where new grains and tables go in a file, and who is about to fill which grain.
//!
//! New space lies above the end of the file and above everything that is named in a table, so it reads as zeros, and
//! nothing can be in flight to it. What was freed is not used again until the next open, and then only in a file that
//! is longer than a full disk needs: the gaps between its grains, emptied before they are given out. A region whose
//! writer failed is emptied and given out again, too: nobody ever saw it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Ending;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::HostFile;
use crate::extent::audit::{MAX_END, NO_ROOM};
use crate::format::HeaderMark;
use crate::sector::SECTOR_BYTES;

/// The file grows in such steps: two system calls for a thousand grains instead of a thousand.
const GROWTH: u64 = 16 << 20;

/// So many free regions are looked at for one that is large enough.
const MAX_TRIED: usize = 64;

/// The free space of a file.
#[derive(Debug)]
pub(super) struct Space {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug)]
struct State {
    /// The sector above which everything is free.
    next: u64,
    /// Regions below it that are free and empty.
    returned: Vec<Range<u64>>,
    /// Regions below it that nothing names, whatever they hold.
    gaps: Vec<Range<u64>>,
    /// Up to here the file grows while there are gaps.
    full: u64,
    max_end: u64,
    /// There once nothing is given out any more, nor taken back.
    ending: Option<Ending>,
    /// Grains that somebody is about to fill, by the first of each stretch.
    claims: BTreeMap<u64, Claimed>,
    /// How many wait for a claim to end.
    waiting: usize,
}

#[derive(Debug)]
struct Claimed {
    end: u64,
    by: Claimant,
}

/// Who is about to fill grains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimant {
    /// A call that is under way: others wait for it.
    Call,
    /// A prepared write, which its owner may keep open for as long as it likes: nobody waits for it.
    Prepared,
}

impl Space {
    /// Everything from the sector `next` on is free, and the `gaps` below it. A file with more than `full` sectors
    /// grows only where they are too small.
    pub(super) fn new(next: u64, gaps: Vec<Range<u64>>, full: u64, mark: HeaderMark) -> Self {
        let max_end = match mark {
            HeaderMark::Unclean { .. } => MAX_END,
            // The end itself needs a number, too.
            HeaderMark::FreeSector { .. } => MAX_END - 1,
        };
        let state = State {
            next,
            returned: Vec::new(),
            gaps,
            full,
            max_end,
            ending: None,
            claims: BTreeMap::new(),
            waiting: 0,
        };
        Self { state: Mutex::new(state), released: Condvar::new() }
    }

    /// Waits until nobody else is about to fill one of `grains`, and claims them.
    ///
    /// # Errors
    /// `Busy` where a prepared write has one of them.
    pub(super) fn claim(&self, grains: Range<u64>, by: Claimant) -> Result<Claim<'_>> {
        let mut state = self.state();
        while let Some(other) = state.claim_within(&grains) {
            if other == Claimant::Prepared {
                let text = "a prepared write that was neither committed nor aborted has these sectors";
                return Err(Error::text(ErrorKind::Busy, text));
            }
            state.waiting += 1;
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state.claims.insert(grains.start, Claimed { end: grains.end, by });
        Ok(Claim { space: self, first: grains.start })
    }

    /// The claim that begins with the grain `first` and was kept: it ends with what is given back.
    pub(super) fn kept(&self, first: u64) -> Claim<'_> {
        Claim { space: self, first }
    }

    /// Cuts a claim down to its first grains, up to `end`.
    pub(super) fn shorten(&self, first: u64, end: u64) {
        let mut state = self.state();
        if let Some(claim) = state.claims.get_mut(&first) {
            claim.end = end;
        }
        self.wake(state);
    }

    /// Lets those look again who wait. To wake nobody is a system call all the same.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let has_waiting = state.waiting > 0;
        drop(state);
        if has_waiting {
            self.released.notify_all();
        }
    }

    /// Takes `sectors` sectors in one piece, at a multiple of `alignment`, and sees to it that the file has them.
    ///
    /// # Errors
    /// `Full` where the format has no numbers left; what the host reports when the file grows; `Closed` or `ReadOnly`
    /// after [`close`](Self::close).
    pub(super) fn allocate(&self, file: &HostFile, sectors: u64, alignment: u64) -> Result<u64> {
        let mut state = self.state();
        if let Some(ending) = state.ending {
            return Err(ending.error());
        }
        if let Some(start) = take_from(&mut state.returned, sectors, alignment) {
            return Ok(start);
        }
        let start = state.next.next_multiple_of(alignment);
        let end = start + sectors;
        if end > state.full
            && let Some(start) = take_from(&mut state.gaps, sectors, alignment)
        {
            let emptied = file.punch(start * SECTOR_BYTES..(start + sectors) * SECTOR_BYTES);
            if emptied.is_err() {
                state.gaps.push(start..start + sectors);
            }
            return emptied.map(|()| start);
        }
        // Every grain of the region needs a number, the last one begins before `end`.
        if end > state.max_end {
            return Err(Error::text(ErrorKind::Full, NO_ROOM).in_file(file.path()));
        }
        let end_bytes = end * SECTOR_BYTES;
        if end_bytes > file.len() {
            // A step that is too much for the host may still leave room for less.
            file.set_len(end_bytes.next_multiple_of(GROWTH)).or_else(|_| file.set_len(end_bytes))?;
        }
        // A table fits in where a grain does not.
        if state.next < start {
            let gap = state.next..start;
            state.returned.push(gap);
        }
        state.next = end;
        Ok(start)
    }

    /// Gives back what nobody has used. What a failed write may have left there is removed first; where that cannot be
    /// done, the space is lost until the image is compacted.
    pub(super) fn give_back(&self, file: &HostFile, sectors: Range<u64>) {
        let bytes = sectors.start * SECTOR_BYTES..sectors.end * SECTOR_BYTES;
        if self.state().ending.is_some() || file.punch(bytes).is_err() {
            return;
        }
        let mut state = self.state();
        if state.ending.is_some() {
            return;
        }
        if state.next == sectors.end {
            state.next = sectors.start;
        } else {
            state.returned.push(sectors);
        }
    }

    /// Gives out nothing below the sector `first` any more.
    pub(super) fn only_above(&self, first: u64) {
        let mut state = self.state();
        state.next = state.next.max(first);
        state.returned.clear();
        state.gaps.clear();
    }

    /// Nothing from the sector `end` on is used any more: the file may be cut there. For who has the file to himself,
    /// and has seen so in durable tables.
    pub(super) fn cut(&self, end: u64) {
        let mut state = self.state();
        state.next = state.next.min(end);
        state.returned.clear();
        state.gaps.clear();
    }

    /// As `cut`, and nothing is given out again.
    pub(super) fn retreat(&self, end: u64) {
        self.cut(end);
        self.state().max_end = 0;
    }

    /// The sector from which on nothing of the file is used.
    pub(super) fn end(&self) -> u64 {
        self.state().next
    }

    /// Gives nothing out any more, and takes nothing back; says what `end` does, for good.
    pub(super) fn close(&self, ending: Ending) -> u64 {
        let mut state = self.state();
        state.ending.get_or_insert(ending);
        state.next
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Grains that nobody else fills or frees, until this is dropped, also by a panic.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    space: &'a Space,
    first: u64,
}

impl Claim<'_> {
    /// Lets the claim outlive this.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.space.state();
        state.claims.remove(&self.first);
        self.space.wake(state);
    }
}

impl State {
    /// Who has a claim to one of `grains`; the one that lasts, if there are several.
    fn claim_within(&self, grains: &Range<u64>) -> Option<Claimant> {
        let before = self.claims.range(..grains.start).next_back().filter(|(_, claim)| claim.end > grains.start);
        let claims = before.into_iter().chain(self.claims.range(grains.clone()));
        let mut found = None;
        for (_, claim) in claims {
            found = Some(claim.by);
            if claim.by == Claimant::Prepared {
                break;
            }
        }
        found
    }
}

/// A piece of one of the first regions, which is taken out of it.
fn take_from(regions: &mut Vec<Range<u64>>, sectors: u64, alignment: u64) -> Option<u64> {
    let fitting = |region: &Range<u64>| {
        let start = region.start.next_multiple_of(alignment);
        (start + sectors <= region.end).then_some(start)
    };
    let mut first = regions.iter().enumerate().take(MAX_TRIED);
    let (index, start) = first.find_map(|(index, region)| Some((index, fitting(region)?)))?;
    let before = regions[index].start..start;
    regions[index].start = start + sectors;
    if regions[index].is_empty() {
        regions.swap_remove(index);
    }
    if !before.is_empty() {
        regions.push(before);
    }
    Some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;
    use std::path::PathBuf;
    use std::sync::Arc;

    const MARK: HeaderMark = HeaderMark::Unclean { at: 72 };

    fn file() -> HostFile {
        HostFile::new(PathBuf::from("a"), Arc::new(MemoryStorage::new([7; 1000]))).unwrap()
    }

    #[test]
    fn space_begins_where_everything_else_ends_and_the_file_grows_in_steps() {
        let (space, file) = (Space::new(2, Vec::new(), u64::MAX, MARK), file());
        assert_eq!(space.allocate(&file, 8, 8).unwrap(), 8);
        assert_eq!(file.len(), GROWTH);
        assert_eq!(space.allocate(&file, 7, 1).unwrap(), 16);
        assert_eq!(space.allocate(&file, 8, 8).unwrap(), 24);
        // What lies between is for what needs no alignment.
        assert_eq!([6, 1].map(|sectors| space.allocate(&file, sectors, 1).unwrap()), [2, 23]);
        assert_eq!(file.storage().len().unwrap(), GROWTH);
        assert_eq!(space.end(), 32);
    }

    #[test]
    fn what_was_given_back_is_given_out_again_and_empty() {
        let (space, file) = (Space::new(8, Vec::new(), u64::MAX, MARK), file());
        let regions = [0; 3].map(|_| space.allocate(&file, 8, 8).unwrap());
        file.write(&[1; 512], regions[0] * SECTOR_BYTES).unwrap();
        space.give_back(&file, regions[0]..regions[0] + 8);
        space.give_back(&file, regions[2]..regions[2] + 8);
        assert_eq!(space.end(), regions[2], "the last one is as if it had never been");
        assert_eq!(space.allocate(&file, 4, 1).unwrap(), regions[0]);
        assert_eq!(space.allocate(&file, 8, 8).unwrap(), regions[2]);
        assert_eq!(space.allocate(&file, 4, 1).unwrap(), regions[0] + 4);
        let mut buf = [9; 512];
        file.read(&mut buf, regions[0] * SECTOR_BYTES).unwrap();
        assert_eq!(buf, [0; 512]);
    }

    #[test]
    fn gaps_are_emptied_and_used_once_the_file_is_long_enough() {
        let file = file();
        file.write(&vec![1; 64 * 512], 0).unwrap();
        let space = Space::new(64, vec![8..16, 32..48], 72, MARK);
        assert_eq!(space.allocate(&file, 8, 8).unwrap(), 64, "a full disk needs 72 sectors");
        assert_eq!(space.allocate(&file, 16, 8).unwrap(), 32);
        assert_eq!(space.allocate(&file, 16, 8).unwrap(), 72, "the other one is too small");
        assert_eq!(space.allocate(&file, 8, 8).unwrap(), 8);
        let mut buf = [9; 512];
        file.read(&mut buf, 8 * SECTOR_BYTES).unwrap();
        assert_eq!(buf, [0; 512]);
        assert_eq!(space.allocate(&file, 8, 8).unwrap(), 88);
    }

    #[test]
    fn after_a_retreat_less_is_used_and_nothing_is_given_out() {
        let (space, file) = (Space::new(8, vec![2..3, 3..4], 0, MARK), file());
        let start = space.allocate(&file, 8, 8).unwrap();
        space.give_back(&file, start..start + 4);
        space.retreat(6);
        assert_eq!(space.end(), 6);
        assert_eq!(space.allocate(&file, 1, 1).unwrap_err().kind(), ErrorKind::Full);
        space.retreat(7);
        assert_eq!(space.close(Ending::Closed), 6);
    }

    #[test]
    fn what_cannot_be_named_is_refused_and_nothing_has_changed() {
        let (space, file) = (Space::new(MAX_END - 8, Vec::new(), u64::MAX, MARK), file());
        assert_eq!(space.allocate(&file, 9, 1).unwrap_err().kind(), ErrorKind::Full);
        assert_eq!((space.end(), file.len()), (MAX_END - 8, 1000));
    }

    #[test]
    fn after_the_end_nothing_is_given_out_and_nothing_is_changed() {
        let (space, file) = (Space::new(8, Vec::new(), u64::MAX, MARK), file());
        let start = space.allocate(&file, 8, 8).unwrap();
        file.write(&[1; 512], start * SECTOR_BYTES).unwrap();
        assert_eq!(space.close(Ending::ReadOnly), start + 8);
        let len = file.len();
        assert_eq!(space.allocate(&file, 8, 8).unwrap_err().kind(), ErrorKind::ReadOnly);
        space.give_back(&file, start..start + 8);
        let mut buf = [9; 512];
        file.read(&mut buf, start * SECTOR_BYTES).unwrap();
        assert_eq!((buf, space.end(), file.len()), ([1; 512], start + 8, len));
        assert_eq!(space.close(Ending::Closed), start + 8);
    }

    #[test]
    fn nobody_waits_for_a_prepared_write() {
        let space = Space::new(0, Vec::new(), u64::MAX, MARK);
        space.claim(4..8, Claimant::Prepared).unwrap().keep();
        let _call = space.claim(8..9, Claimant::Call).unwrap();
        for grains in [0..5, 7..8, 6..20, 5..6] {
            assert_eq!(space.claim(grains, Claimant::Call).unwrap_err().kind(), ErrorKind::Busy);
        }
        space.shorten(4, 5);
        drop(space.claim(5..8, Claimant::Call).unwrap());
        drop(space.kept(4));
        drop(space.claim(0..5, Claimant::Prepared).unwrap());
    }

    #[test]
    fn a_call_waits_for_another_call() {
        let space = Space::new(0, Vec::new(), u64::MAX, MARK);
        let first = space.claim(4..8, Claimant::Call).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| space.claim(7..9, Claimant::Call).map(drop));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap().unwrap();
        });
    }
}
