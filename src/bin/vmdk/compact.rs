//! `vmdk compact`: a disk that takes less space.

use std::io::{self, Write};

use serde_json::json;
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
    let text = if args.json { object(&report) } else { text(&report) };
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(Failure::Output)
}

fn object(report: &CompactReport) -> String {
    let object = json!({
        "allocated_before": report.allocated_before,
        "allocated_after": report.allocated_after,
        "length_before": report.length_before,
        "length_after": report.length_after,
        "grains_unallocated": report.grains_unallocated,
        "grains_zeroed": report.grains_zeroed,
        "grains_punched": report.grains_punched,
        "grains_moved": report.grains_moved,
        "flat_bytes_punched": report.flat_bytes_punched,
    });
    format!("{object:#}\n")
}

fn text(report: &CompactReport) -> String {
    let mut text = format!(
        "space on the host: {}, before {}\nlength of the files: {}, before {}\n",
        show(report.allocated_after),
        show(report.allocated_before),
        show(report.length_after),
        show(report.length_before),
    );
    for (grains, what) in [
        (report.grains_unallocated, "unallocated: what is below reads the same"),
        (report.grains_zeroed, "zero grains"),
        (report.grains_punched, "holes that keep their place"),
        (report.grains_moved, "moved"),
    ] {
        if grains > 0 {
            text.push_str(&format!("grains now {what}: {grains}\n"));
        }
    }
    if report.flat_bytes_punched > 0 {
        text.push_str(&format!("holes in flat files: {}\n", show(report.flat_bytes_punched)));
    }
    text
}
