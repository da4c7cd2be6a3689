//! `vmdk info`: what an image is made of.

mod archive;
mod json;
mod text;

use std::io::{self, Write};

use vmdk::{ChangeTrackingHeader, Descriptor, Extent, ExtentLine, Link, OpenOptions, SECTOR_SIZE, VmdkImage};

use crate::args::InfoArgs;
use crate::failure::{Failure, Result, with_causes};
use crate::source::{Source, Supplied};

pub(crate) fn run(args: &InfoArgs) -> Result<()> {
    let shown = match Source::of(&args.image) {
        Source::Archive(path) => {
            let listing = archive::Listing::open(&path, &args.open.options())?;
            if args.json { listing.json() } else { listing.text() }
        }
        source => {
            let report = Report::open(args, &source)?;
            if args.json { json::render(&report)? } else { text::render(&report)? }
        }
    };
    let mut output = io::stdout().lock();
    output.write_all(shown.as_bytes()).and_then(|()| output.flush()).map_err(Failure::Output)
}

/// The image, opened as far as that goes.
struct Report {
    image: VmdkImage,
    /// Why the parents are not there, if they should be.
    chain_error: Option<String>,
    /// The header of the change tracking file, if the image names one, or why there is none.
    tracking: Option<std::result::Result<ChangeTrackingHeader, String>>,
}

impl Report {
    fn open(args: &InfoArgs, source: &Source) -> Result<Self> {
        let supplied = match source {
            Source::Member { archive, name } => Some(Supplied::member(archive, name)?),
            Source::Chunks(first) => Some(Supplied::chunks(first)?),
            Source::Input { .. } => {
                return Err(Failure::refused(&args.image, "is looked at in a file, not on standard input"));
            }
            Source::File(_) | Source::Archive(_) => None,
        };
        let open = |options: OpenOptions| match &supplied {
            Some(disk) => disk.open(&options),
            None => options.open(&args.image),
        };
        let (image, chain_error) = match open(args.open.options()) {
            Ok(image) => (image, None),
            // If the image opens alone, the error was one of the chain; else the image itself is bad, and its own error
            // says why.
            Err(error) => (open(args.open.options().no_parent(true))?, Some(with_causes(&error))),
        };
        let link = &image.chain()[0];
        let tracking = match supplied {
            Some(_) => link.descriptor().change_track_path().map(|_| Err("it is not looked for here".to_owned())),
            None => args.open.options().change_tracking(link).map_err(|error| with_causes(&error)).transpose(),
        };
        Ok(Self { image, chain_error, tracking })
    }

    /// The image itself, without its parents.
    fn own_link(&self) -> &Link {
        &self.image.chain()[0]
    }
}

/// The sum of the lengths of a link's files.
fn file_size(link: &Link) -> u64 {
    link.host_files().into_iter().fold(0, |sum, file| sum.saturating_add(file.len()))
}

/// The extents of a link with their lines in the descriptor; a sparse extent without a descriptor has no line.
fn extents_of(link: &Link) -> impl Iterator<Item = (&Extent, Option<&ExtentLine>)> {
    let lines = link.descriptor().extents();
    link.extents().iter().enumerate().map(|(index, extent)| (extent, lines.get(index)))
}

/// `sectors` in bytes, if that fits: the numbers of a header may be anything.
fn bytes(sectors: u64) -> Option<u64> {
    sectors.checked_mul(SECTOR_SIZE as u64)
}

/// A name as it stands in a descriptor; not to be opened.
fn shown_name(descriptor: &Descriptor, raw: &[u8]) -> String {
    descriptor.decode_name(raw).unwrap_or_else(|_| String::from_utf8_lossy(raw).into_owned())
}

/// Sixteen bytes in the usual notation of UUIDs.
fn uuid(id: [u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(id));
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_in_the_usual_notation() {
        let id = [0x60, 0, 0xc2, 0x9e, 0x32, 0xc9, 0xd7, 0x63, 0xc9, 0x0a, 0x44, 0xb0, 0, 0x89, 0x79, 0x6e];
        assert_eq!(uuid(id), "6000c29e-32c9-d763-c90a-44b00089796e");
        assert_eq!(uuid([0; 16]), "00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn sectors_beyond_any_file_have_no_bytes() {
        assert_eq!(bytes(3), Some(1536));
        assert_eq!(bytes(u64::MAX), None);
    }
}
