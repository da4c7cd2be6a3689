//! `vmdk resize`: a disk of another size.

use std::io::{self, Write};

use serde_json::{Value, json};
use vmdk::{ResizeOptions, ResizeReport, SECTOR_SIZE};

use crate::args::ResizeArgs;
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::printable::printable;
use crate::progress::Progress;
use crate::size::show;

const SECTOR: u64 = SECTOR_SIZE as u64;

pub(crate) fn run(args: &ResizeArgs) -> Result<()> {
    if !args.size.is_multiple_of(SECTOR) {
        let text = format!("a disk of {} bytes is not a whole number of sectors of 512 bytes", args.size);
        return Err(Failure::Refused(text));
    }
    interrupt::catch();
    let options = ResizeOptions::new().allow_shrink(args.shrink);
    let progress = Progress::new(0);
    let resized = args.open.options().resize(&args.image, args.size / SECTOR, options, &mut |now| progress.step(now));
    drop(progress);
    let report = resized?;
    let mut output = io::stdout().lock();
    let said = if args.json { writeln!(output, "{:#}", object(&report)) } else { say(&report, &mut output) };
    said.and_then(|()| output.flush()).map_err(Failure::Output)
}

fn object(report: &ResizeReport) -> Value {
    json!({
        "old_size": report.old_sectors.saturating_mul(SECTOR),
        "new_size": report.new_sectors.saturating_mul(SECTOR),
        "grains_moved": report.grains_moved,
        "files_added": report.files_added,
        "files_removed": report.files_removed,
    })
}

fn say(report: &ResizeReport, output: &mut dyn Write) -> io::Result<()> {
    let size = |sectors: u64| show(sectors.saturating_mul(SECTOR));
    writeln!(output, "size: {}, before {}", size(report.new_sectors), size(report.old_sectors))?;
    if report.grains_moved > 0 {
        writeln!(output, "grains moved: {}", report.grains_moved)?;
    }
    for (what, names) in [("added", &report.files_added), ("removed", &report.files_removed)] {
        for name in names {
            writeln!(output, "{what}: {}", printable(name))?;
        }
    }
    Ok(())
}
