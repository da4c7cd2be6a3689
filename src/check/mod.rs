//! Whether a disk is what it says: every structure of every extent, looked at and never changed.
//!
//! ```text
//! image::check: opens the links -> link: descriptor, sizes -> sparse: tables, by an audit -> report
//!                                                          -> sesparse: tables, bitmap, back map
//!                                                          -> stream: markers, grains
//! ```
//!
//! What cannot be opened is a finding, too. What the host cannot read is an error: then nothing is known.

mod link;
mod report;
mod sesparse;
mod sparse;
mod stream;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};

use crate::error::Result;
use crate::image::{CopyProgress, report};

pub(crate) use link::{HowToCheck, can_be_described, check_link};
pub use report::{CheckReport, Finding, FindingKind, Remedy, Severity};
pub(crate) use sparse::leaked_in;
pub(crate) use verdict::{Doubt, Judgement};

/// Which extent of which link is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) link: usize,
    pub(crate) extent: usize,
    /// The sectors of the disk that it is.
    pub(crate) guest: &'a Range<u64>,
}

impl Place<'_> {
    /// The sectors of the disk that `sectors` sectors from `start` of the extent on are, if there are any.
    fn guest(self, start: u64, sectors: u64) -> Option<Range<u64>> {
        let first = self.guest.start.checked_add(start)?;
        let guest = first..first.saturating_add(sectors).min(self.guest.end);
        (guest.start < guest.end).then_some(guest)
    }
}

/// Takes what is found, and says how far the work is.
pub(crate) struct Reporter<'p> {
    report: CheckReport,
    progress: &'p mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    done: u64,
    /// What was done when it was last said.
    said: u64,
    total: u64,
}

/// Bytes of metadata after which it is said how far the work is.
const STEP: u64 = 1 << 20;

impl<'p> Reporter<'p> {
    pub(crate) fn new(progress: &'p mut dyn FnMut(CopyProgress) -> ControlFlow<()>) -> Self {
        Self { report: CheckReport::default(), progress, done: 0, said: 0, total: 0 }
    }

    /// There is so much more to be done.
    pub(crate) fn expect(&mut self, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
    }

    pub(crate) fn add(&mut self, finding: Finding) {
        self.report.add(finding);
    }

    /// So much more is done.
    ///
    /// # Errors
    /// `Cancelled`.
    fn done(&mut self, bytes: u64) -> Result<()> {
        self.done = self.done.saturating_add(bytes);
        if self.done - self.said < STEP {
            return Ok(());
        }
        self.say()
    }

    fn say(&mut self) -> Result<()> {
        self.said = self.done;
        report(self.progress, CopyProgress { done: self.done.min(self.total), total: self.total })
    }

    fn leaked(&mut self, bytes: u64) {
        self.report.leaked_bytes = self.report.leaked_bytes.saturating_add(bytes);
    }

    fn will_do(&mut self, remedies: &BTreeSet<Remedy>) {
        self.report.will_do(remedies.iter().copied());
    }

    fn leave_alone(&mut self, place: Place<'_>, repaired: &BTreeMap<Severity, u64>) {
        self.report.leave_alone(place.link, place.extent, repaired);
    }

    /// What was found, in `links` links.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(crate) fn finish(mut self, links: usize) -> Result<CheckReport> {
        self.done = self.total;
        self.say()?;
        self.report.links = links;
        Ok(self.report)
    }
}
