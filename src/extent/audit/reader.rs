//! Tables and their copies, read in stretches: by the thread that looks at them, or by others in front of it.

use std::cell::RefCell;

use super::bits::Bits;
use super::problem::Side;
use super::stretch::Stretch;
use crate::error::{Error, Result};
use crate::extent::grain_directory::GrainDirectory;
use crate::extent::tables::Tables;
use crate::parallel::in_order;

/// Threads that read, at most: two stretches of tables and copies for each, and two more, are under way.
const MAX_THREADS: usize = 4;

/// Reads the tables that have a place.
pub(super) struct Reader<'a> {
    pub(super) tables: &'a Tables,
    /// Where tables are, and where their copies are, of the directories of which they are to be read.
    pub(super) directories: [Option<&'a GrainDirectory>; 2],
    /// Tables whose place cannot be used.
    pub(super) unusable: &'a [Bits; 2],
}

/// The bytes of a table, and those of its copy, as [`Stretch::table`] has them.
pub(super) type Sides<'a> = [Option<&'a [u8]>; 2];

/// Tables, and the copies of the same ones.
#[derive(Default)]
struct Both {
    numbers: Vec<u32>,
    sides: [Stretch; 2],
    /// Why there are no more of them.
    failed: Option<Error>,
}

impl Reader<'_> {
    /// Reads all tables that can be, or whose copies can be, on so many threads, and hands them to `look` in their
    /// order, here.
    ///
    /// # Errors
    /// What `look` says, and what the host reports, when all in front of it was looked at.
    pub(super) fn each(&self, threads: usize, mut look: impl FnMut(u32, Sides<'_>) -> Result<()>) -> Result<()> {
        let spare: RefCell<Vec<Both>> = RefCell::default();
        let mut numbers = self.numbers();
        let together = Stretch::tables(self.tables);
        let mut next = || {
            let mut both = spare.borrow_mut().pop().unwrap_or_default();
            both.numbers.clear();
            both.numbers.extend(numbers.by_ref().take(together));
            Some(both).filter(|both| !both.numbers.is_empty())
        };
        let mut first = next();
        // Other threads are of no use for a single stretch.
        let is_single = first.as_ref().is_none_or(|both| both.numbers.len() < together);
        in_order(
            if is_single { 1 } else { threads.min(MAX_THREADS) },
            || |both| self.read(both),
            || Ok(first.take().or_else(&mut next)),
            |mut both: Both| {
                for (nth, &table) in both.numbers.iter().enumerate() {
                    look(table, [both.sides[0].table(nth), both.sides[1].table(nth)])?;
                }
                let failed = both.failed.take();
                spare.borrow_mut().push(both);
                failed.map_or(Ok(()), Err)
            },
        )
    }

    fn read(&self, mut both: Both) -> Both {
        for side in [Side::Primary, Side::Redundant] {
            let Some(directory) = self.directories[side.index()] else { continue };
            let stretch = &mut both.sides[side.index()];
            let is_read = |table| self.is_usable(side, table);
            if let Err(error) = stretch.read(self.tables, directory, &both.numbers, is_read) {
                both.failed = Some(error);
                both.numbers.truncate(stretch.len());
            }
        }
        both
    }

    /// The tables of which one side can be read.
    fn numbers(&self) -> impl Iterator<Item = u32> {
        let [mut primary, mut redundant] =
            self.directories.map(|directory| directory.into_iter().flat_map(GrainDirectory::listed).peekable());
        let listed = std::iter::from_fn(move || {
            let table = primary.peek().into_iter().chain(redundant.peek()).min().copied()?;
            primary.next_if_eq(&table);
            redundant.next_if_eq(&table);
            Some(table)
        });
        listed.filter(|&table| [Side::Primary, Side::Redundant].into_iter().any(|side| self.is_usable(side, table)))
    }

    fn is_usable(&self, side: Side, table: u32) -> bool {
        is_usable(self.directories[side.index()], &self.unusable[side.index()], table)
    }
}

/// Whether a directory has a table, and in a place that can be used.
pub(super) fn is_usable(directory: Option<&GrainDirectory>, unusable: &Bits, table: u32) -> bool {
    directory.is_some_and(|directory| directory.entry(table) != 0) && !unusable.has(table.into())
}
