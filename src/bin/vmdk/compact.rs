//! `vmdk compact`: a disk that takes less space.

use std::io::{self, Write};

use serde_json::{Value, json};
use vmdk::{CompactMode, CompactReport};

use crate::args::CompactArgs;
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::progress::Progress;
use crate::size::show;

pub(crate) fn run(args: &CompactArgs) -> Result<()> {
    interrupt::catch();
    let mode = if args.moves { CompactMode::Move } else { CompactMode::Punch };
    let progress = Progress::new(0);
    let report = args.open.options().compact(&args.image, mode, &mut |now| progress.step(now))?;
    drop(progress);
    let mut output = io::stdout().lock();
    let said = if args.json { writeln!(output, "{:#}", object(&report)) } else { say(&report, &mut output) };
    said.and_then(|()| output.flush()).map_err(Failure::Output)
}

fn object(report: &CompactReport) -> Value {
    json!({
        "allocated_before": report.allocated_before,
        "allocated_after": report.allocated_after,
        "length_before": report.length_before,
        "length_after": report.length_after,
        "grains_unallocated": report.grains_unallocated,
        "grains_zeroed": report.grains_zeroed,
        "grains_punched": report.grains_punched,
        "grains_moved": report.grains_moved,
        "flat_bytes_punched": report.flat_bytes_punched,
    })
}

fn say(report: &CompactReport, output: &mut dyn Write) -> io::Result<()> {
    let (after, before) = (show(report.allocated_after), show(report.allocated_before));
    writeln!(output, "space on the host: {after}, before {before}")?;
    let (after, before) = (show(report.length_after), show(report.length_before));
    writeln!(output, "length of the files: {after}, before {before}")?;
    let kinds = [
        (report.grains_unallocated, "unallocated: what is below reads the same"),
        (report.grains_zeroed, "zero grains"),
        (report.grains_punched, "holes that keep their place"),
        (report.grains_moved, "moved"),
    ];
    for (grains, what) in kinds.into_iter().filter(|&(grains, _)| grains > 0) {
        writeln!(output, "grains now {what}: {grains}")?;
    }
    if report.flat_bytes_punched > 0 {
        writeln!(output, "holes in flat files: {}", show(report.flat_bytes_punched))?;
    }
    Ok(())
}
