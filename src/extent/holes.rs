//! Which tables lie in holes of the host's file: all their entries are 0, and nothing has to be read to know it.

use std::ops::Range;

use super::HostFile;
use crate::error::Result;

/// The hole of a file that was met last. Tables that are asked for in the order of the file cost a look each hole.
#[derive(Default)]
pub(crate) struct Holes {
    hole: Range<u64>,
}

impl Holes {
    /// Whether all of `place` lies in a hole.
    pub(crate) fn cover(&mut self, file: &HostFile, place: &Range<u64>) -> Result<bool> {
        if !(self.hole.start <= place.start && place.end <= self.hole.end) {
            let data = file.next_data(place.start)?;
            self.hole = place.start..data.map_or(file.len(), |data| data.start);
        }
        Ok(place.end <= self.hole.end)
    }
}
