//! `vmdk map`: where the content of a disk lies, stretch by stretch, as `qemu-img map` shows it.
//!
//! The entries are made, merged and written one by one: a map takes no memory, however long it gets.

mod entry;

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use vmdk::{FileStorage, Link, Storage, StorageId, VmdkImage};

use self::entry::{Entry, Lookup, SECTOR};
use crate::args::MapArgs;
use crate::failure::{Failure, Result};
use crate::printable::printable;

pub(crate) fn run(args: &MapArgs) -> Result<()> {
    let image = args.open.options().open(&args.image)?;
    let base = match &args.above {
        Some(named) => index_of(&image, named)?,
        None => image.chain().len(),
    };
    let lookup = Lookup { image: &image, base };
    let mut output = Output { to: BufWriter::new(io::stdout().lock()), json: args.json, entries: 0 };
    output.begin()?;
    let mut last: Option<Entry<'_>> = None;
    for run in image.runs_above(base)? {
        let run = run?;
        let (mut at, end) = (run.start * SECTOR, (run.start + run.sectors) * SECTOR);
        while at < end {
            let next = lookup.entry(&run, at)?;
            at += next.length;
            if last.as_mut().is_some_and(|last| last.absorb(&next)) {
                continue;
            }
            if let Some(complete) = last.replace(next) {
                output.add(&complete)?;
            }
        }
    }
    if let Some(complete) = last {
        output.add(&complete)?;
    }
    output.end()
}

/// The place in the chain of the link that `named` is.
pub(crate) fn index_of(image: &VmdkImage, named: &Path) -> Result<usize> {
    let real = fs::canonicalize(named).map_err(|cause| Failure::host(named, "cannot look at it", cause))?;
    let id = identity(&real);
    let is_it = |link: &Arc<Link>| link.path() == real || (id.is_some() && link.file().storage().id() == id);
    let problem = match image.chain().iter().position(is_it) {
        Some(0) => "is the image itself",
        Some(index) => return Ok(index),
        None => "is not in the chain of the image",
    };
    let parents: Vec<_> = image.chain()[1..].iter().map(|link| link.path().display().to_string()).collect();
    let parents = if parents.is_empty() { "none".to_owned() } else { parents.join(", ") };
    Err(Failure::refused(named, &format!("{problem}; its parents are: {parents}")))
}

/// What tells a file from others, if it can be found out. Opening something else might wait for its other end.
fn identity(path: &Path) -> Option<StorageId> {
    let is_file = fs::metadata(path).is_ok_and(|meta| meta.is_file());
    if is_file { FileStorage::open(path).ok()?.id() } else { None }
}

/// Writes entries as they come, in the layout of `qemu-img map`.
struct Output<W> {
    to: W,
    json: bool,
    entries: u64,
}

impl<W: Write> Output<W> {
    fn begin(&mut self) -> Result<()> {
        let header = "Offset          Length          Mapped to       File\n";
        self.to.write_all(if self.json { b"[" } else { header.as_bytes() }).map_err(Failure::Output)
    }

    fn add(&mut self, entry: &Entry<'_>) -> Result<()> {
        let written = if self.json { self.object(entry) } else { self.row(entry) };
        self.entries += 1;
        written.map_err(Failure::Output)
    }

    fn end(&mut self) -> Result<()> {
        self.to.write_all(if self.json { b"]\n" } else { b"" }).and_then(|()| self.to.flush()).map_err(Failure::Output)
    }

    fn object(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let Entry { start, length, depth, present, zero, data, compressed, place } = entry;
        let separator = if self.entries == 0 { "" } else { ",\n" };
        write!(
            self.to,
            "{separator}{{ \"start\": {start}, \"length\": {length}, \"depth\": {depth}, \"present\": {present}, \
             \"zero\": {zero}, \"data\": {data}, \"compressed\": {compressed}"
        )?;
        if let Some((_, offset)) = place {
            write!(self.to, ", \"offset\": {offset}")?;
        }
        self.to.write_all(b"}")
    }

    /// Only what has to be read has a row.
    fn row(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if !entry.data || entry.zero {
            return Ok(());
        }
        let (offset, path) = match entry.place {
            Some((path, offset)) => (hex(offset), printable(&path.to_string_lossy())),
            None => ("-".to_owned(), "-".to_owned()),
        };
        writeln!(self.to, "{:<15} {:<15} {offset:<15} {path}", hex(entry.start), hex(entry.length))
    }
}

/// As `%#x` of C writes it.
fn hex(value: u64) -> String {
    if value == 0 { "0".to_owned() } else { format!("{value:#x}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: bool, entries: &[Entry<'_>]) -> String {
        let mut output = Output { to: Vec::new(), json, entries: 0 };
        output.begin().unwrap();
        for entry in entries {
            output.add(entry).unwrap();
        }
        output.end().unwrap();
        String::from_utf8(output.to).unwrap()
    }

    fn entries() -> [Entry<'static>; 2] {
        let hole = Entry {
            start: 0,
            length: 512,
            depth: 1,
            present: false,
            zero: true,
            data: false,
            compressed: false,
            place: None,
        };
        let place = Some((Path::new("a\u{1b}.vmdk"), 65536));
        [
            hole,
            Entry {
                start: 512,
                length: 1 << 62,
                depth: 0,
                present: true,
                zero: false,
                data: true,
                compressed: false,
                place,
            },
        ]
    }

    #[test]
    fn json_has_the_layout_of_qemu_img() {
        let expected = "[{ \"start\": 0, \"length\": 512, \"depth\": 1, \"present\": false, \"zero\": true, \
                        \"data\": false, \"compressed\": false},\n\
                        { \"start\": 512, \"length\": 4611686018427387904, \"depth\": 0, \"present\": true, \
                        \"zero\": false, \"data\": true, \"compressed\": false, \"offset\": 65536}]\n";
        assert_eq!(written(true, &entries()), expected);
        assert_eq!(written(true, &[]), "[]\n");
    }

    #[test]
    fn text_shows_what_has_to_be_read_and_stays_harmless() {
        let expected = "Offset          Length          Mapped to       File\n\
                        0x200           0x4000000000000000 0x10000         a\\u{1b}.vmdk\n";
        assert_eq!(written(false, &entries()), expected);
    }
}
