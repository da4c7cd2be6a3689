//! The content of a disk to standard output, as a stream.

use std::error::Error as _;
use std::io::{self, IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use vmdk::{
    BlockDevice, CopyProgress, CreateOptions, CreateType, Error, SECTOR_SIZE, StreamReader, StreamSummary,
    StreamWriter, VmdkImage,
};

use super::disk::base_options;
use super::sequential::check_output;
use crate::args::ConvertArgs;
use crate::failure::{Failure, Result};
use crate::progress::Progress;

/// What the disk is called in its own descriptor: nobody knows here what its file will be.
const NAME: &str = "disk.vmdk";

/// Refuses what does not go to standard output.
pub(super) fn check(args: &ConvertArgs, create_type: &CreateType) -> Result<()> {
    let refused = |text: &str| Err(Failure::Refused(text.to_owned()));
    if *create_type != CreateType::StreamOptimized {
        return refused("of the types of disks only streamOptimized is written to standard output");
    }
    if args.sync || args.new.replace || args.child.parent.is_some() {
        return refused("standard output is neither synced nor replaced, and a stream has no parent");
    }
    if io::stdout().is_terminal() {
        return refused("a disk is not written to a terminal");
    }
    Ok(())
}

/// Writes the disk; it is to be like `image`, if that is given.
pub(super) fn write(args: &ConvertArgs, source: &dyn BlockDevice, image: Option<&VmdkImage>) -> Result<()> {
    check_output(source)?;
    let capacity = source.capacity_sectors();
    let options = CreateOptions::new().create_type(CreateType::StreamOptimized).capacity_sectors(capacity);
    let options = base_options(args, options, image)?;
    let progress = Progress::new(capacity.saturating_mul(SECTOR_SIZE as u64));
    let output = output().map_err(Failure::Output)?;
    let written = StreamWriter::new(output, NAME, &options).and_then(|mut stream| {
        stream.write_all_from(source, &mut |now| progress.step(now))?;
        stream.finish()
    });
    written.map_err(failure)?;
    Ok(())
}

/// The same of a stream that passes by.
pub(super) fn write_from_stream<R: Read>(
    options: &CreateOptions,
    source: &mut StreamReader<R>,
    threads: usize,
    progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<StreamSummary> {
    let output = output().map_err(Failure::Output)?;
    let written = StreamWriter::new(output, NAME, options).and_then(|mut stream| {
        let summary = stream.write_all_from_stream(source, threads, progress)?;
        stream.finish().map(|_| summary)
    });
    written.map_err(failure)
}

/// What goes wrong with a source names its file.
fn failure(error: Error) -> Failure {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::BrokenPipe) => Failure::Output(io::ErrorKind::BrokenPipe.into()),
        Some(_) if error.file().is_none() => Failure::Target(PathBuf::from("standard output"), error),
        _ => Failure::Image(error),
    }
}

/// Standard output without the buffer that looks for the ends of lines.
#[cfg(unix)]
fn output() -> io::Result<impl Write> {
    use std::os::fd::AsFd;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    Ok(std::fs::File::from(output))
}

#[cfg(not(unix))]
fn output() -> io::Result<impl Write> {
    Ok(io::stdout().lock())
}
