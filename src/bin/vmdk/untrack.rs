//! `vmdk untrack`: a disk whose changes are not tracked any more.

use std::io::{self, Write};

use serde_json::json;
use vmdk::{DroppedTracking, OpenOptions, VmdkImage};

use crate::args::UntrackArgs;
use crate::failure::{Failure, Result, say};
use crate::printable::printable;

pub(crate) fn run(args: &UntrackArgs) -> Result<()> {
    let dropped = OpenOptions::new().stop_change_tracking(&args.image)?;
    let mut output = io::stdout().lock();
    let said = if args.json {
        let object = json!({
            "path": args.image.to_string_lossy(),
            "changed": dropped.is_some(),
            "file": dropped.as_ref().map(|dropped| &dropped.file),
            "renamed_to": dropped.as_ref().and_then(|dropped| dropped.renamed_to.as_ref()),
            "left_because": dropped.as_ref().and_then(|dropped| dropped.left_because.as_ref()),
        });
        writeln!(output, "{object:#}")
    } else {
        let text = dropped.as_ref().map_or_else(|| "the disk was not tracked".to_owned(), describe);
        writeln!(output, "{}", printable(&text))
    };
    said.and_then(|()| output.flush()).map_err(Failure::Output)
}

/// Says on standard error what a write has made of the tracking.
pub(crate) fn tell(image: &VmdkImage) {
    if let Some(dropped) = image.dropped_tracking() {
        say(&printable(&describe(dropped)));
    }
}

fn describe(dropped: &DroppedTracking) -> String {
    let DroppedTracking { file, renamed_to, left_because, .. } = dropped;
    match (renamed_to, left_because) {
        (Some(new), _) => format!("the disk is not tracked any more; {file} is called {new} now"),
        (None, Some(why)) => format!("the disk is not tracked any more; {file} was left as it is: {why}"),
        (None, None) => format!("the disk is not tracked any more; {file} is not there"),
    }
}
