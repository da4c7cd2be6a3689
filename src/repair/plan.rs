//! What is to be done about a sparse extent: the problems of an audit, sorted by how they are put right.

use crate::check::{Doubt, Judgement, Remedy};
use crate::error::Result;
use crate::extent::Tables;
use crate::extent::audit::{BadEntry, Bits, Observer, Problem, Side};

/// Grains that are copied in one repair because another one has the same place: 16 MiB of memory. What remains is left
/// for the next.
const MAX_SHARED: usize = 1 << 20;

/// What is to be done about an extent.
pub(super) struct Plan<'a> {
    judgement: Judgement<'a>,
    /// Tables with entries that change in their place, in either copy.
    pub(super) troubled: Bits,
    /// Tables that are made new from their redundant copies.
    pub(super) new_tables: Vec<u32>,
    /// Tables that get a new redundant copy.
    pub(super) new_copies: Vec<u32>,
    /// Entries whose grains are taken by other ones: the table and the number in it.
    pub(super) shared: Vec<(u32, u64)>,
    most_shared: usize,
    /// Whether zero grains are to be announced.
    pub(super) announce: bool,
    doubt: Doubt,
    /// Whether the file must not grow: a table past its end would come alive.
    pub(super) must_not_grow: bool,
}

impl<'a> Plan<'a> {
    /// `grains` are copied at most.
    pub(super) fn new(tables: &'a Tables, prefer_redundant: bool, grains: usize) -> Self {
        Self {
            judgement: Judgement { tables, prefer_redundant },
            troubled: Bits::default(),
            new_tables: Vec::new(),
            new_copies: Vec::new(),
            shared: Vec::new(),
            most_shared: grains.min(MAX_SHARED),
            announce: false,
            doubt: Doubt::default(),
            must_not_grow: false,
        }
    }
}

impl Plan<'_> {
    /// Whether nothing is to be changed: data lies where tables do, or nobody knows which of the tables is right.
    ///
    /// # Errors
    /// What the host reports.
    pub(super) fn is_beyond_repair(&mut self) -> Result<bool> {
        self.doubt.decide(self.judgement.tables)?;
        Ok(self.doubt.is_too_great())
    }
}

impl Observer for Plan<'_> {
    fn found(&mut self, problem: Problem) -> Result<()> {
        self.doubt.note(&self.judgement, &problem);
        let remedy = self.judgement.of(&problem).remedy;
        match (&problem, remedy) {
            (Problem::Place { side: Side::Primary, .. }, None) => self.must_not_grow = true,
            (Problem::Place { side: Side::Primary, table, .. } | Problem::LoneCopy { table }, Some(_)) => {
                self.new_tables.push(*table);
            }
            (
                Problem::Place { table, .. }
                | Problem::Overlap { table, .. }
                | Problem::SameTable { table }
                | Problem::NoCopy { table },
                Some(_),
            ) => self.new_copies.push(*table),
            (Problem::BadEntry { problem: BadEntry::Taken { .. }, .. }, Some(Remedy::CopyGrain))
                if self.shared.len() >= self.most_shared => {}
            (Problem::BadEntry { entry, problem: BadEntry::Taken { .. }, .. }, Some(Remedy::CopyGrain)) => {
                self.shared.push((entry.table, entry.number));
            }
            (Problem::BadEntry { entry, .. } | Problem::CopyDiffers { entry, .. }, Some(_)) => {
                self.troubled.set(entry.table.into());
            }
            (Problem::PastCapacity { table, .. }, Some(_)) => {
                self.troubled.set((*table).into());
            }
            (Problem::One(_), Some(_)) => self.announce = true,
            _ => {}
        }
        // An entry past the end that stays would come alive as well.
        if let (Problem::BadEntry { problem: BadEntry::PastEnd, .. }, None) = (&problem, remedy) {
            self.must_not_grow = true;
        }
        Ok(())
    }
}
