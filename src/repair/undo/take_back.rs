//! A repair that is taken back: first a look at whether everything is as it was left, then what was there before.
//!
//! A repair that was cut off may have left each sector as it was, or as it was to be. Whatever else there is now was
//! written by somebody else since, and would be lost.

use std::ops::Range;

use super::record::{Kind, Record, Records, checksum};
use super::sectors::Sectors;
use super::{MAX_SECTORS, no_undo, sectors_of};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::HostFile;
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, is_zero, to_usize};
use crate::storage::Storage;

/// Takes back everything that an undo file notes, in these files; says how many changes that were.
///
/// # Errors
/// `Corrupt` for what is no undo file, or one of other files; `InvalidInput` where somebody has written since; what the
/// host reports. Nothing is changed by the first two. Some of it may be done after others; it can be done again.
pub(in super::super) fn take_back(undo: &dyn Storage, files: &[&HostFile]) -> Result<u64> {
    let (mut noted, mut changes) = (Vec::new(), 0);
    let mut records = Records::open(undo)?;
    while let Some(record) = records.next()? {
        if record.kind == Kind::File {
            noted.push(Noted::new(find_file(files, &record.bytes)?, record.value));
        } else if record.kind != Kind::End {
            changes += u64::from(file_of(&mut noted, &record)?.look(&record)?);
        }
    }
    for noted in &mut noted {
        noted.look_behind()?;
        noted.check()?;
    }
    for Noted { file, before, .. } in &noted {
        if file.len() != *before {
            file.set_len(*before)?;
        }
    }
    let mut records = Records::open(undo)?;
    while let Some(record) = records.next()? {
        if record.kind == Kind::Old {
            file_of(&mut noted, &record)?.file.write(&record.bytes, record.value)?;
        }
    }
    for noted in noted {
        noted.file.sync()?;
    }
    Ok(changes)
}

/// What an undo file says of a file, and what there is of that.
struct Noted<'a> {
    file: &'a HostFile,
    /// Its length before the repair.
    before: u64,
    /// Its length after the changes so far.
    now: u64,
    /// The shortest and the greatest length that it was to have.
    least: u64,
    most: u64,
    /// Whether it is as long as it was to be at some time.
    has_known_len: bool,
    /// Sectors that the repair has written to, or may have.
    touched: Sectors,
    /// Those that hold what was there before, or what was to be there.
    known: Sectors,
}

impl<'a> Noted<'a> {
    fn new(file: &'a HostFile, len: u64) -> Self {
        Self {
            file,
            before: len,
            now: len,
            least: len,
            most: len,
            has_known_len: file.len() == len,
            touched: Sectors::default(),
            known: Sectors::default(),
        }
    }

    /// Looks at what a record is about; says whether that is a change.
    fn look(&mut self, record: &Record) -> Result<bool> {
        let Record { kind, value, bytes, .. } = record;
        match kind {
            Kind::Old => {
                let sectors = record_sectors(*value, bytes.len() as u64)?;
                if bytes.len() as u64 > self.before.saturating_sub(*value) {
                    return Err(no_undo("a record is about more than its file had"));
                }
                self.compare(sectors, |number, sector| {
                    let old = bytes.chunks(SECTOR_SIZE).nth(number).unwrap_or_default();
                    sector.starts_with(old) && is_zero(&sector[old.len()..])
                })?;
                Ok(false)
            }
            Kind::New => {
                let sums = bytes.as_chunks::<4>().0;
                let sectors = record_sectors(*value, sums.len() as u64 * SECTOR_BYTES)?;
                if sectors.end - sectors.start > MAX_SECTORS {
                    return Err(no_undo("a record is too large"));
                }
                self.compare(sectors, |number, sector| {
                    sums.get(number).is_some_and(|sum| checksum(sector).to_le_bytes() == *sum)
                })?;
                Ok(true)
            }
            Kind::Zeros => {
                let len = bytes.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
                self.find_zeros(record_sectors(*value, len)?)?;
                Ok(true)
            }
            Kind::Length => {
                let is_cut = *value < self.now;
                self.now = *value;
                (self.least, self.most) = (self.least.min(*value), self.most.max(*value));
                self.has_known_len |= self.file.len() == *value;
                Ok(is_cut)
            }
            Kind::File | Kind::End => Ok(false),
        }
    }

    /// Looks at sectors, no more than a record has, of which `is_known` says whether they hold what it says.
    fn compare(&mut self, sectors: Range<u64>, is_known: impl Fn(usize, &[u8]) -> bool) -> Result<()> {
        let mut there = vec![0; to_usize((sectors.end - sectors.start) * SECTOR_BYTES)];
        self.file.read(&mut there, sectors.start * SECTOR_BYTES)?;
        for (number, sector) in there.chunks(SECTOR_SIZE).enumerate() {
            if is_known(number, sector) {
                let sector = sectors.start + number as u64;
                self.known.add(sector..sector + 1);
            }
        }
        self.touched.add(sectors);
        Ok(())
    }

    /// Finds out which of these sectors are zeros, as they are to be.
    fn find_zeros(&mut self, sectors: Range<u64>) -> Result<()> {
        let mut at = sectors.start;
        while at < sectors.end {
            let data = self.file.next_data(at * SECTOR_BYTES)?.map(|data| sectors_of(&data));
            let data = data.filter(|data| data.start < sectors.end).unwrap_or(sectors.end..sectors.end);
            self.known.add(at..data.start.max(at));
            at = data.start.max(at);
            let end = data.end.min(sectors.end);
            while at < end {
                let piece = at..end.min(at + MAX_SECTORS);
                at = piece.end;
                self.compare(piece, |_, sector| is_zero(sector))?;
            }
        }
        Ok(())
    }

    /// Looks at what lies past the shortest length that the file has had: all of it was zeros, or is noted; or it is
    /// not there.
    fn look_behind(&mut self) -> Result<()> {
        let (least, len) = (self.least.div_ceil(SECTOR_BYTES), self.file.len().div_ceil(SECTOR_BYTES));
        self.find_zeros(least..len)?;
        self.known.add(least.max(len)..u64::MAX);
        // An end that was never meant is that of a change that was cut off, and so is the sector that it is in.
        let cut_off = self.file.len() / SECTOR_BYTES;
        if !self.has_known_len && cut_off >= self.least / SECTOR_BYTES {
            self.known.add(cut_off..cut_off + 1);
        }
        Ok(())
    }

    /// Refuses a file that somebody else has written to.
    fn check(&self) -> Result<()> {
        let refused = |text| {
            let text = format!("{text}: the image was written to since it was repaired, and that would be lost");
            Err(Error::text(ErrorKind::InvalidInput, text).in_file(self.file.path()))
        };
        let (least, most, len) = (self.least, self.most, self.file.len());
        if !(least..=most).contains(&len) {
            return refused(format!("the file has {len} bytes, and the repair has left {least} to {most}"));
        }
        let unknown = self.touched.iter().find_map(|touched| self.known.first_outside(&touched));
        unknown.map_or(Ok(()), |Range { start, .. }| {
            let offset = start * SECTOR_BYTES;
            refused(format!(
                "the sector at offset {offset:#x} holds neither what the repair has found nor what it has left"
            ))
        })
    }
}

/// The sectors that a record is about.
fn record_sectors(offset: u64, len: u64) -> Result<Range<u64>> {
    let end = offset.checked_add(len).filter(|&end| i64::try_from(end).is_ok());
    match end {
        Some(end) if offset.is_multiple_of(SECTOR_BYTES) => Ok(sectors_of(&(offset..end))),
        _ => Err(no_undo("a record is about an impossible place")),
    }
}

/// The file that a record is about.
fn file_of<'n, 'a>(noted: &'n mut [Noted<'a>], record: &Record) -> Result<&'n mut Noted<'a>> {
    let noted = noted.get_mut(to_usize(record.file.into()));
    noted.ok_or_else(|| no_undo("a record is about a file that has no name"))
}

/// The file that was called so: by its path, or by its name alone if only one has it; the disk may be in another
/// directory now.
fn find_file<'a>(files: &[&'a HostFile], path: &[u8]) -> Result<&'a HostFile> {
    if let Some(file) = files.iter().find(|file| file.path().as_os_str().as_encoded_bytes() == path) {
        return Ok(file);
    }
    let name = |path: &[u8]| path.rsplit(|&byte| std::path::is_separator(byte.into())).next().map(<[u8]>::to_vec);
    let mut same = files.iter().filter(|file| name(file.path().as_os_str().as_encoded_bytes()) == name(path));
    match (same.next(), same.next()) {
        (Some(file), None) => Ok(file),
        (None, _) => {
            let path = String::from_utf8_lossy(path);
            Err(no_undo(&format!("it is about the file {path:?}, which the image does not have")))
        }
        (Some(_), Some(_)) => {
            let path = String::from_utf8_lossy(path);
            Err(no_undo(&format!("it is about the file {path:?}, and several files of the image are called so")))
        }
    }
}
