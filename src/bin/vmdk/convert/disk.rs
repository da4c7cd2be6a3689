//! The content of a disk, VMDK or raw, into a new VMDK.

use std::process::ExitCode;

use vmdk::{BlockDevice, CreateOptions, CreateType, RawImage, SECTOR_SIZE, VmdkImage};

use super::sequential::is_output;
use super::{report, source, stream};
use crate::args::ConvertArgs;
use crate::failure::{Failure, Result};
use crate::progress::Progress;

pub(super) fn make(args: &ConvertArgs, create_type: &CreateType) -> Result<ExitCode> {
    let raw = RawImage::open(&args.source)?;
    if args.raw || !raw.looks_like_vmdk()? {
        if args.source_parent.is_some() {
            let text = "a raw image has no parent (--source-parent); where it is none, it is no VMDK that is known";
            return Err(Failure::refused(&args.source, text));
        }
        if args.child.parent.is_none() {
            args.open.check_maps(&[])?;
        }
        // What another program writes meanwhile would be copied half.
        let raw = if args.open.force_share() { raw } else { RawImage::open_locked(&args.source)? };
        copy(args, create_type, &raw, None)?;
        return Ok(ExitCode::SUCCESS);
    }
    drop(raw);
    let image = source(args)?;
    copy(args, create_type, &image, Some(&image))?;
    Ok(report(&image))
}

/// Makes the disk; it is to be like `image`, if that is given.
pub(super) fn copy(
    args: &ConvertArgs,
    create_type: &CreateType,
    source: &dyn BlockDevice,
    image: Option<&VmdkImage>,
) -> Result<()> {
    if is_output(&args.target) {
        return stream::write(args, source, image);
    }
    let options = CreateOptions::new().create_type(create_type.clone()).sync(args.sync);
    let progress = Progress::new(source.capacity_sectors().saturating_mul(SECTOR_SIZE as u64));
    let mut step = |now| progress.step(now);
    if let Some(parent) = &args.child.parent {
        let parent = args.open.parent_options().allow_unused_maps(true).open(parent)?;
        let images: Vec<_> = image.into_iter().chain([&parent]).collect();
        args.open.check_maps(&images)?;
        // What is said of the disk stands in the base of a chain.
        parent.create_child_from(&args.target, &with_args(args, options)?, source, &mut step)?;
        return Ok(());
    }
    Ok(base_options(args, options, image)?.create_from(&args.target, source, &mut step)?)
}

/// What is said of a disk that is no child: what `image` has, if that is given, unless the command line has it.
pub(super) fn base_options(
    args: &ConvertArgs,
    options: CreateOptions,
    image: Option<&VmdkImage>,
) -> Result<CreateOptions> {
    let options = match image {
        Some(image) => options.like(image),
        None => options,
    };
    with_args(args, options)
}

/// What the command line says of a new disk.
pub(super) fn with_args(args: &ConvertArgs, options: CreateOptions) -> Result<CreateOptions> {
    let options = args.stream.options(args.disk.options(options)).threads(args.threads());
    args.new.options(options).map_err(Failure::Refused)
}
