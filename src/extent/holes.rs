//! What lies in holes of the host's file: tables whose entries are all 0, and space that takes none. Nothing has to be
//! read to know it.

use std::ops::Range;

use super::HostFile;
use crate::error::Result;

/// The hole of a file that was met last, and the data behind it. What is asked for in the order of the file costs a
/// look for each hole, however many tables or gaps lie in it, or in front of the next one.
///
/// That a hole was made in the data since then is not noticed, which is no harm: holes can be read, and punched, too.
#[derive(Default)]
pub(crate) struct Holes {
    hole: Range<u64>,
    data_end: u64,
}

impl Holes {
    /// Whether all of `place` lies in a hole.
    pub(crate) fn cover(&mut self, file: &HostFile, place: &Range<u64>) -> Result<bool> {
        Ok(self.first_data_in(file, place)?.is_none())
    }

    /// Where the first byte of `place` is that does not lie in a hole, if there is one.
    pub(crate) fn first_data_in(&mut self, file: &HostFile, place: &Range<u64>) -> Result<Option<u64>> {
        if !(self.hole.start..self.data_end).contains(&place.start) {
            let data = file.next_data(place.start)?.unwrap_or(file.len()..file.len());
            (self.hole, self.data_end) = (place.start..data.start, data.end);
        }
        Ok(Some(self.hole.end.max(place.start)).filter(|&first| first < place.end))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::storage::Storage;

    /// A file of 100 bytes, with data from 20 to 40 and from 60 to 70, and how often it was looked for.
    #[derive(Debug, Default)]
    struct Sparse(AtomicUsize);

    impl Storage for Sparse {
        fn len(&self) -> io::Result<u64> {
            Ok(100)
        }

        fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let data = [20..40, 60..70].into_iter().find(|data| data.end > offset);
            Ok(data.map(|data| data.start.max(offset)..data.end))
        }

        fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn punch_hole(&self, _: Range<u64>) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn there_is_one_look_for_each_hole_and_the_data_behind_it() {
        let storage = Arc::new(Sparse::default());
        let file = HostFile::new(PathBuf::from("sparse"), Arc::clone(&storage) as Arc<dyn Storage>).unwrap();
        let mut holes = Holes::default();
        let mut look = |place| {
            let first = holes.first_data_in(&file, &place).unwrap();
            (first, storage.0.swap(0, Ordering::Relaxed))
        };
        // What lies in one hole, in front of data, or in it.
        assert_eq!(look(0..5), (None, 1));
        assert_eq!(look(5..20), (None, 0));
        assert_eq!(look(10..21), (Some(20), 0));
        assert_eq!(look(25..30), (Some(25), 0));
        assert_eq!(look(39..50), (Some(39), 0));
        // Behind it.
        assert_eq!(look(40..60), (None, 1));
        assert_eq!(look(69..80), (Some(69), 0));
        assert_eq!(look(70..99), (None, 1));
        assert_eq!(look(80..100), (None, 0));
        // What lies past the end is no hole.
        assert_eq!(look(90..101), (Some(100), 0));
        assert_eq!(look(100..101).0, Some(100));
        // And back again.
        assert_eq!(look(0..20), (None, 1));
    }
}
