//! Tables and their copies, read in stretches: by the thread that looks at them, or by others in front of it.

use std::cell::RefCell;
use std::ops::Range;

use super::bits::Bits;
use super::problem::Side;
use super::stretch::{Stretch, stretches};
use crate::error::{Error, Result};
use crate::extent::grain_directory::GrainDirectory;
use crate::extent::tables::Tables;
use crate::parallel::in_order;

/// Threads that read, at most: two stretches for each, and two more, are under way.
const MAX_THREADS: usize = 4;

/// Reads the tables that have a place.
pub(super) struct Reader<'a> {
    pub(super) tables: &'a Tables,
    /// Where tables are, and where their copies are, of the directories of which they are to be read.
    pub(super) directories: [Option<&'a GrainDirectory>; 2],
    /// Tables whose place cannot be used.
    pub(super) unusable: &'a [Bits; 2],
}

/// Tables, and the copies of the same ones.
#[derive(Default)]
pub(super) struct Both {
    numbers: Range<u32>,
    sides: [Stretch; 2],
    /// Why there are no more of them.
    failed: Option<Error>,
}

impl Reader<'_> {
    /// Reads all tables, on so many threads, and hands them to `look` in their order, here.
    ///
    /// # Errors
    /// What `look` says, and what the host reports, when all in front of it was looked at.
    pub(super) fn each(&self, threads: usize, mut look: impl FnMut(u32, &Both) -> Result<()>) -> Result<()> {
        let spare = RefCell::new(Vec::new());
        let mut stretches = stretches(self.tables);
        let most = stretches.len().min(MAX_THREADS);
        in_order(
            threads.min(most),
            || |(numbers, both)| self.read(numbers, both),
            || Ok(stretches.next().map(|numbers| (numbers, spare.borrow_mut().pop().unwrap_or_default()))),
            |mut both: Both| {
                for table in both.numbers.clone() {
                    look(table, &both)?;
                }
                let failed = both.failed.take();
                spare.borrow_mut().push(both);
                failed.map_or(Ok(()), Err)
            },
        )
    }

    fn read(&self, mut numbers: Range<u32>, mut both: Both) -> Both {
        for side in [Side::Primary, Side::Redundant] {
            let (directory, unusable) = (self.directories[side.index()], &self.unusable[side.index()]);
            let Some(directory) = directory else { continue };
            let stretch = &mut both.sides[side.index()];
            let is_read = |table| is_usable(Some(directory), unusable, table);
            if let Err(error) = stretch.read(self.tables, directory, numbers.clone(), is_read) {
                both.failed = Some(error);
                numbers = stretch.numbers();
            }
        }
        both.numbers = numbers;
        both
    }
}

/// Whether a directory has a table, and in a place that can be used.
pub(super) fn is_usable(directory: Option<&GrainDirectory>, unusable: &Bits, table: u32) -> bool {
    directory.is_some_and(|directory| directory.entry(table) != 0) && !unusable.has(table.into())
}

impl Both {
    /// The bytes of a table or its copy, as [`Stretch::table`] has them.
    pub(super) fn table(&self, side: Side, table: u32) -> Option<&[u8]> {
        self.sides[side.index()].table(table)
    }
}
