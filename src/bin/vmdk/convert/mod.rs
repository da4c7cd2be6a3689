//! `vmdk convert`: the content of a disk into a raw file, a block device or a new disk.

mod disk;
mod raw;
mod sequential;
mod stream;

use std::process::ExitCode;

use vmdk::{Extent, Link, VmdkImage};

use crate::args::{ConvertArgs, Format};
use crate::failure::{Failure, Result, say};
use crate::interrupt;
use crate::printable::printable;
use crate::source::Source;
use crate::target::Target;

/// What a command exits with that has found what it was asked to look for: here, a stream that is not whole.
const EXIT_INCOMPLETE: u8 = 1;

pub(crate) fn run(args: &ConvertArgs) -> Result<ExitCode> {
    interrupt::catch();
    check(args)?;
    let source = match Source::of(&args.source) {
        Source::Input { .. } if args.raw => {
            return Err(Failure::refused(&args.source, "a raw image is read from a file or device, not from a pipe"));
        }
        // A guest can make its raw disk look like anything.
        _ if args.raw => Source::File(args.source.clone()),
        source => source,
    };
    match (source, &args.to) {
        (Source::File(_), Format::Raw) => to_raw_from(args, &self::source(args)?),
        (Source::File(_), Format::Disk(create_type)) => disk::make(args, create_type),
        (source, _) => sequential::run(args, source),
    }
}

/// Refuses what does not go together, before anything is opened.
fn check(args: &ConvertArgs) -> Result<()> {
    match &args.to {
        Format::Disk(create_type) if sequential::is_output(&args.target) => return stream::check(args, create_type),
        Format::Disk(_) => return Ok(()),
        Format::Raw => {}
    }
    let is_for_disks = args.disk.is_given() || args.new.is_given() || args.stream.is_given();
    if args.raw || args.child.parent.is_some() || is_for_disks {
        let text = "a raw copy has none of what is asked for: say with --to which type of disk to make";
        return Err(Failure::Refused(text.to_owned()));
    }
    Ok(())
}

fn to_raw_from(args: &ConvertArgs, image: &VmdkImage) -> Result<ExitCode> {
    if sequential::is_output(&args.target) {
        sequential::to_output(args, image)?;
    } else {
        let target = Target::find(&args.target)?;
        target.check_not_part_of(image)?;
        raw::write(image, target, args.threads(), args.sync)?;
    }
    Ok(report(image))
}

/// Opens the source as a VMDK.
fn source(args: &ConvertArgs) -> Result<VmdkImage> {
    let options = match args.child.parent {
        // That may be what has the raw device maps.
        Some(_) => args.open.options_of_one(),
        None => args.open.options(),
    };
    let options = match &args.source_parent {
        Some(parent) => options.parent(parent),
        None => options,
    };
    Ok(options.open(&args.source)?)
}

/// Says on standard error what is doubtful about the copy of `image`: redundant tables that had to be used, and may be
/// older than what was there; a part of a stream that is missing, which is what the command exits for.
fn report(image: &VmdkImage) -> ExitCode {
    let extents = || image.chain().iter().flat_map(|link| Link::extents(link));
    let stand_ins: u64 = extents().map(Extent::redundant_stand_ins).sum();
    if stand_ins > 0 {
        say(&format!("{stand_ins} redundant grain tables stood in for unusable ones"));
    }
    let mut code = ExitCode::SUCCESS;
    for extent in extents() {
        if let (Some(found), Some(file)) = (extent.salvaged().filter(|found| !found.is_complete()), extent.file()) {
            say(&format!("{}: {found}", printable(&file.path().to_string_lossy())));
            code = ExitCode::from(EXIT_INCOMPLETE);
        }
    }
    code
}
