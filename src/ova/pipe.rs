//! An appliance in a pipe, of which one member is read as it passes by.

use std::io::{self, Read};

use super::meter::{Budget, Metered};
use super::{MAX_MEMBERS, bad_archive, file_name, no_member, too_many};
use crate::error::{Error, Result};
use crate::storage::chunk_name;

/// Reads the member `name` of an appliance (`.ova`) from an input that cannot seek: what comes before it is read and
/// dropped, then `read` gets its content, most often for a [`StreamReader`](crate::StreamReader). What follows it in
/// the input is not read. Of several with one name it is the first, since the last cannot be known.
///
/// A disk that lies in the archive in chunks has its name as a whole, if they follow each other there.
///
/// ```no_run
/// # fn main() -> vmdk::Result<()> {
/// let mut sectors = 0;
/// vmdk::read_ova_member(std::io::stdin().lock(), "disk1.vmdk", |member| {
///     sectors = vmdk::StreamReader::new(member)?.capacity_sectors();
///     Ok(())
/// })?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) with the names that there are; [`Corrupt`](crate::ErrorKind::Corrupt) and
/// [`Unsupported`](crate::ErrorKind::Unsupported) as for [`OvaArchive::open`](crate::OvaArchive::open); what `read` and
/// the input report.
pub fn read_ova_member<T>(input: impl Read, name: &str, read: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<T> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let first_chunk = chunk_name(name, 0);
    let budget = Budget::default();
    budget.metadata();
    let mut archive = tar::Archive::new(Metered::new(input, &budget));
    let mut entries = Entries { all: archive.entries().map_err(bad_archive)?, budget: &budget, count: 0 };
    let mut names = Vec::new();
    while let Some((found, entry)) = entries.next()? {
        if found == name {
            budget.content();
            return read(&mut { entry });
        }
        if found == first_chunk {
            budget.content();
            let mut chunks = Chunks { name, number: 0, current: Some(entry), entries };
            return read(&mut chunks);
        }
        names.push(found);
        drain(entry, &budget)?;
    }
    Err(no_member(name, names.iter().map(String::as_str)))
}

/// Reads what is left of a member and drops it.
fn drain<R: Read>(mut entry: tar::Entry<'_, R>, budget: &Budget) -> Result<()> {
    budget.content();
    io::copy(&mut entry, &mut io::sink()).map_err(bad_archive)?;
    Ok(())
}

/// The files of an archive, one after the other. Before the next one is asked for, the last has to be read to its end.
struct Entries<'a, R: Read> {
    all: tar::Entries<'a, R>,
    budget: &'a Budget,
    count: usize,
}

impl<'a, R: Read> Entries<'a, R> {
    fn next(&mut self) -> Result<Option<(String, tar::Entry<'a, R>)>> {
        loop {
            self.budget.metadata();
            let Some(entry) = self.all.next() else { return Ok(None) };
            let mut entry = entry.map_err(bad_archive)?;
            self.count += 1;
            if self.count > MAX_MEMBERS {
                return Err(too_many());
            }
            match file_name(&mut entry)? {
                Some(name) => return Ok(Some((name, entry))),
                None => drain(entry, self.budget)?,
            }
        }
    }
}

/// The chunks of a disk, one behind the other.
struct Chunks<'a, R: Read> {
    name: &'a str,
    number: usize,
    /// `None` behind the last one.
    current: Option<tar::Entry<'a, R>>,
    entries: Entries<'a, R>,
}

impl<R: Read> Chunks<'_, R> {
    /// Goes on to the next chunk; says whether there is one.
    fn advance(&mut self) -> Result<bool, Error> {
        let Some((name, entry)) = self.entries.next()? else { return Ok(false) };
        if name != chunk_name(self.name, self.number + 1) {
            return Ok(false);
        }
        self.number += 1;
        self.current = Some(entry);
        self.entries.budget.content();
        Ok(true)
    }
}

impl<R: Read> Read for Chunks<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let Some(current) = &mut self.current {
            let len = current.read(buf)?;
            if len > 0 || buf.is_empty() {
                return Ok(len);
            }
            if !self.advance()? {
                self.current = None;
            }
        }
        Ok(0)
    }
}
