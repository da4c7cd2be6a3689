//! `vmdk flatten`: a delta without its parents.

use std::io::{self, Write};

use serde_json::json;

use crate::args::FlattenArgs;
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::progress::Progress;

pub(crate) fn run(args: &FlattenArgs) -> Result<()> {
    interrupt::catch();
    let mut progress = None;
    let mut step = |now: vmdk::CopyProgress| progress.get_or_insert_with(|| Progress::new(now.total)).step(now);
    let done = args.open.options().flatten(&args.image, &mut step)?;
    drop(progress);
    let mut output = io::stdout().lock();
    let said = if args.json {
        let object = json!({
            "path": args.image.to_string_lossy(),
            "copied": done.copied_bytes,
            "old_parent_cid": done.old_parent_content_id.map(|id| id.to_string()),
            "changed": done.changed,
        });
        writeln!(output, "{object:#}")
    } else if done.changed {
        writeln!(output, "{} bytes taken in from the parents", done.copied_bytes)
    } else {
        writeln!(output, "there is no parent")
    };
    said.and_then(|()| output.flush()).map_err(Failure::Output)
}
