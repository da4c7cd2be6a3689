//! `vmdk convert`: the content of a disk into a raw file, a block device or a new disk.

mod disk;
mod raw;
mod sequential;
mod stream;

use std::process::ExitCode;

use vmdk::{Extent, Link, VmdkImage};

use crate::args::{ConvertArgs, Format};
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::source::Source;
use crate::target::Target;

pub(crate) fn run(args: &ConvertArgs) -> Result<ExitCode> {
    interrupt::catch();
    check(args)?;
    match Source::of(&args.source) {
        Source::File(_) => {}
        source => return sequential::run(args, source),
    }
    match &args.to {
        Format::Raw => to_raw_from(args, source(args)?)?,
        Format::Disk(create_type) => disk::make(args, create_type)?,
    }
    Ok(ExitCode::SUCCESS)
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

fn to_raw_from(args: &ConvertArgs, image: VmdkImage) -> Result<()> {
    if sequential::is_output(&args.target) {
        return sequential::to_output(image);
    }
    let target = Target::find(&args.target)?;
    target.check_not_part_of(&image)?;
    raw::write(&image, target, args.threads(), args.sync)?;
    report_stand_ins(&image);
    Ok(())
}

/// Opens the source as a VMDK.
fn source(args: &ConvertArgs) -> Result<VmdkImage> {
    let options = args.open.options();
    let options = match &args.source_parent {
        Some(parent) => options.parent(parent),
        None => options,
    };
    Ok(options.open(&args.source)?)
}

/// Says on standard error if redundant tables had to be used: what they say may be older than what was there.
fn report_stand_ins(image: &VmdkImage) {
    let extents = image.chain().iter().flat_map(|link| Link::extents(link));
    let stand_ins: u64 = extents.map(Extent::redundant_stand_ins).sum();
    if stand_ins > 0 {
        eprintln!("vmdk: {stand_ins} redundant grain tables stood in for unusable ones");
    }
}
