//! What a guest and its host may do to a disk, in any order.

use proptest::prelude::*;

/// One step. Places and lengths are shares of what there is, so that they fit every disk.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Write {
        at: Range,
        fill: Fill,
    },
    /// In slices of any length; durable at once if asked for.
    WriteVectored {
        at: Range,
        fill: Fill,
        fua: bool,
    },
    WriteZeroes {
        at: Range,
        may_unmap: bool,
    },
    Discard {
        at: Range,
    },
    Flush,
    Read {
        at: Range,
    },
    Status {
        at: Range,
    },
    /// Prepares a write, and ends it at once or later.
    Prepare {
        at: Range,
        fill: Fill,
        end: End,
    },
    /// Ends the oldest prepared write that is still open.
    Settle {
        end: End,
    },
    /// Closes the disk and opens it again; what is still prepared ends afterwards.
    Reopen,
    /// The same, without a word.
    Drop,
}

/// How a prepared write ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    Abort,
    Drop,
    /// Not yet.
    Later,
}

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fill {
    Random(u64),
    Zeros,
}

/// Sectors of the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    place: u32,
    len: u32,
    unit: Unit,
}

#[derive(Clone, Copy, Debug)]
enum Unit {
    /// A few sectors from anywhere.
    Sectors,
    /// Whole grains.
    Grains,
    /// From anywhere to anywhere.
    Share,
    /// All that is left from somewhere on.
    Rest,
}

impl Range {
    /// The sectors on a disk of `capacity` sectors with grains of `grain` sectors: the first, and at least one.
    pub(crate) fn on(self, capacity: u64, grain: u64) -> (u64, u64) {
        let anywhere = u64::from(self.place) % capacity;
        let len = u64::from(self.len);
        let (start, count) = match self.unit {
            Unit::Sectors => (anywhere, 1 + len % 9),
            Unit::Grains => (anywhere / grain * grain, (1 + len % 5) * grain),
            Unit::Share => (anywhere, 1 + len % (capacity / 3)),
            Unit::Rest => (capacity - 1 - anywhere / 4, capacity),
        };
        (start, count.min(capacity - start))
    }
}

fn range() -> impl Strategy<Value = Range> {
    let unit = prop_oneof![
        5 => Just(Unit::Sectors),
        4 => Just(Unit::Grains),
        3 => Just(Unit::Share),
        1 => Just(Unit::Rest),
    ];
    (any::<u32>(), any::<u32>(), unit).prop_map(|(place, len, unit)| Range { place, len, unit })
}

fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![5 => any::<u64>().prop_map(Fill::Random), 1 => Just(Fill::Zeros)]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![4 => Just(End::Commit), 2 => Just(End::Abort), 1 => Just(End::Drop), 4 => Just(End::Later)]
}

/// Any action, the usual ones more often.
pub(crate) fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (range(), fill()).prop_map(|(at, fill)| Action::Write { at, fill }),
        4 => (range(), fill(), any::<bool>()).prop_map(|(at, fill, fua)| Action::WriteVectored { at, fill, fua }),
        4 => (range(), any::<bool>()).prop_map(|(at, may_unmap)| Action::WriteZeroes { at, may_unmap }),
        4 => range().prop_map(|at| Action::Discard { at }),
        2 => Just(Action::Flush),
        2 => range().prop_map(|at| Action::Read { at }),
        2 => range().prop_map(|at| Action::Status { at }),
        4 => (range(), fill(), end()).prop_map(|(at, fill, end)| Action::Prepare { at, fill, end }),
        2 => end().prop_map(|end| Action::Settle { end }),
        1 => Just(Action::Reopen),
        1 => Just(Action::Drop),
    ]
}
