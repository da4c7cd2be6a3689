//! A stream on its way through: from standard input, or where it lies in something else.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use vmdk::{BlockDevice, CreateOptions, CreateType, SECTOR_SIZE, StreamReader, StreamSummary, VmdkImage};

use super::disk::with_args;
use super::{EXIT_INCOMPLETE, raw, report, to_raw_from};
use crate::args::{ConvertArgs, Format};
use crate::failure::{Failure, Result, say};
use crate::progress::Progress;
use crate::source::{Source, Supplied};
use crate::standard;
use crate::target::Target;

/// What stands for standard output.
pub(super) fn is_output(target: &Path) -> bool {
    target == Path::new("-")
}

/// Copies what does not lie in a file of its own.
pub(super) fn run(args: &ConvertArgs, source: Source) -> Result<ExitCode> {
    if args.source_parent.is_some() {
        let text = "a disk that is no file of its own is read without a parent (--source-parent)";
        return Err(Failure::refused(&args.source, text));
    }
    match source {
        Source::Input { member } => from_input(args, member.as_deref()),
        Source::Member { archive, name } => supplied(args, &Supplied::member(&archive, &name)?),
        Source::Chunks(first) => supplied(args, &Supplied::chunks(&first)?),
        Source::Archive(path) => Err(no_member(&path)?),
        Source::File(path) => Err(Failure::refused(&path, "is a file of its own")),
    }
}

/// The bytes of a disk that is read at random, to standard output.
pub(super) fn to_output(args: &ConvertArgs, image: &VmdkImage) -> Result<()> {
    let progress = Progress::new(image.capacity_sectors().saturating_mul(SECTOR_SIZE as u64));
    let mut output = Output { output: output()?, failed: None };
    check_output(image)?;
    let copied = vmdk::copy_to_writer(image, &mut output, args.threads(), &mut |now| progress.step(now));
    copied.map_err(|error| output.failure(error))
}

fn from_input(args: &ConvertArgs, member: Option<&str>) -> Result<ExitCode> {
    let input = io::stdin().lock();
    if io::stdin().is_terminal() {
        return Err(Failure::Refused("standard input is a terminal; a stream comes from a pipe or a file".to_owned()));
    }
    check_input(args)?;
    args.open.check_maps(&[])?;
    let code = match member {
        None => copy(args, StreamReader::new(input)?)?,
        Some(name) => vmdk::read_ova_member(input, name, |member| Ok(copy(args, StreamReader::new(member)?)))??,
    };
    // Whoever writes into the pipe is to come to an end, too. What they say is of no interest any more.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    Ok(code)
}

/// Refuses a target that is what the shell has opened as standard input.
fn check_input(args: &ConvertArgs) -> Result<()> {
    let target = match () {
        () if is_output(&args.target) => standard::output_id(),
        () if args.target.exists() => Target::find(&args.target)?.id(),
        () => None,
    };
    if target.is_some() && target == standard::input_id() {
        return Err(Failure::refused(&args.target, "the copy would overwrite its own source"));
    }
    Ok(())
}

/// Refuses standard output where the shell has opened a file of the source for it.
pub(super) fn check_output(source: &dyn BlockDevice) -> Result<()> {
    if standard::output_id().is_some_and(|id| source.storage_ids().contains(&id)) {
        return Err(Failure::Refused("standard output: the copy would overwrite its own source".to_owned()));
    }
    Ok(())
}

/// A disk in an appliance or in chunks.
fn supplied(args: &ConvertArgs, disk: &Supplied) -> Result<ExitCode> {
    let image = disk.open(&args.open.options())?;
    match &args.to {
        Format::Raw => to_raw_from(args, &image),
        Format::Disk(create_type) => {
            super::disk::copy(args, create_type, &image, Some(&image))?;
            Ok(report(&image))
        }
    }
}

fn copy<R: Read>(args: &ConvertArgs, stream: StreamReader<R>) -> Result<ExitCode> {
    let name = if args.source == Path::new("-") { Path::new("standard input") } else { &args.source };
    let stream = stream.name(name).salvage(args.open.salvage());
    let mut stream = stream.allow_raw_deflate(args.open.allow_raw_deflate());
    let threads = args.threads();
    let summary = match &args.to {
        Format::Raw if is_output(&args.target) => to_pipe(&mut stream, threads)?,
        Format::Raw => to_file(args, &mut stream, threads)?,
        Format::Disk(create_type) => to_disk(args, create_type, &mut stream, threads)?,
    };
    match summary.missing {
        None => Ok(ExitCode::SUCCESS),
        Some(missing) => {
            say(&format!("{} grains were copied: {missing}", summary.grains));
            Ok(ExitCode::from(EXIT_INCOMPLETE))
        }
    }
}

fn to_file<R: Read>(args: &ConvertArgs, stream: &mut StreamReader<R>, threads: usize) -> Result<StreamSummary> {
    let target = Target::find(&args.target)?;
    let progress = progress_of(stream);
    let mut summary = stream.summary();
    let mut fill = |storage: &vmdk::FileStorage, kind| {
        summary = stream.copy_to_raw(storage, kind, threads, &mut |now| progress.step(now))?;
        Ok(())
    };
    raw::write_by(&mut fill, target, args.sync)?;
    Ok(summary)
}

fn to_pipe<R: Read>(stream: &mut StreamReader<R>, threads: usize) -> Result<StreamSummary> {
    let progress = progress_of(stream);
    let mut output = Output { output: output()?, failed: None };
    let copied = stream.copy_to_writer(&mut output, threads, &mut |now| progress.step(now));
    copied.map_err(|error| output.failure(error))
}

fn to_disk<R: Read>(
    args: &ConvertArgs,
    create_type: &CreateType,
    stream: &mut StreamReader<R>,
    threads: usize,
) -> Result<StreamSummary> {
    if args.child.parent.is_some() {
        let text = "a delta is made of a disk that can be read at random; make a disk of the stream first";
        return Err(Failure::refused(&args.source, text));
    }
    let progress = progress_of(stream);
    let options = CreateOptions::new().create_type(create_type.clone()).sync(args.sync);
    let options = with_args(args, options.like_descriptor(stream.descriptor()))?;
    if is_output(&args.target) {
        let options = options.capacity_sectors(stream.capacity_sectors());
        return super::stream::write_from_stream(&options, stream, threads, &mut |now| progress.step(now));
    }
    Ok(options.create_from_stream(&args.target, stream, threads, &mut |now| progress.step(now))?)
}

fn progress_of<R: Read>(stream: &StreamReader<R>) -> Progress {
    Progress::new(stream.capacity_sectors().saturating_mul(SECTOR_SIZE as u64))
}

/// Standard output, if it takes a disk.
fn output() -> Result<io::StdoutLock<'static>> {
    let output = io::stdout().lock();
    if output.is_terminal() {
        return Err(Failure::Refused("a disk is not written to a terminal".to_owned()));
    }
    Ok(output)
}

/// Standard output, and why it failed: a reader that goes away is told apart from a stream that is bad.
struct Output {
    output: io::StdoutLock<'static>,
    failed: Option<io::ErrorKind>,
}

impl Output {
    /// Why a copy has failed, whether here or where it came from.
    fn failure(&mut self, error: vmdk::Error) -> Failure {
        match self.failed.take() {
            Some(cause) => Failure::Output(cause.into()),
            None => Failure::Image(error),
        }
    }

    fn noted<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        done.inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed = Some(error.kind());
            }
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.output.write(bytes);
        self.noted(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.output.flush();
        self.noted(done)
    }
}

/// The refusal of an appliance as such.
fn no_member(path: &Path) -> Result<Failure> {
    let archive = vmdk::OvaArchive::open(path)?;
    let names: Vec<_> = archive.members().iter().take(20).map(|member| &*member.name).collect();
    let reason = format!("is an appliance; name a member of it, as in APPLIANCE:MEMBER; it has {}", names.join(", "));
    Ok(Failure::refused(path, &reason))
}
