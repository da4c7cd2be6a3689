//! `vmdk commit`: a delta into its parent.

use std::io::{self, Write};

use serde_json::json;
use vmdk::OpenOptions;

use crate::args::CommitArgs;
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::map::index_of;
use crate::printable::printable;
use crate::progress::Progress;

pub(crate) fn run(args: &CommitArgs) -> Result<()> {
    let options = args.options();
    let (base, path) = base(args, &options)?;
    interrupt::catch();
    let mut progress = None;
    let mut step = |now: vmdk::CopyProgress| progress.get_or_insert_with(|| Progress::new(now.total)).step(now);
    let done = options.commit(&args.image, base, &mut step)?;
    drop(progress);
    let mut output = io::stdout().lock();
    let said = if args.json {
        let object = json!({
            "path": args.image.to_string_lossy(),
            "base": path,
            "merged_links": done.merged_links,
            "copied": done.copied_bytes,
            "zeroed": done.zeroed_bytes,
            "resumed": done.resumed,
            "cid": done.content_id.map(|id| id.to_string()),
        });
        writeln!(output, "{object:#}")
    } else if done.merged_links == 0 {
        writeln!(output, "nothing to merge into {}", printable(&path))
    } else {
        writeln!(output, "{} bytes merged into {}", done.copied_bytes + done.zeroed_bytes, printable(&path))
    };
    said.and_then(|()| output.flush()).map_err(Failure::Output)
}

/// The number of the link that is merged into, and its file.
fn base(args: &CommitArgs, options: &OpenOptions) -> Result<(usize, String)> {
    let image = options.open(&args.image)?;
    let base = match &args.base {
        Some(named) => index_of(&image, named)?,
        None => 1,
    };
    let link = image.chain().get(base);
    let path = link.map(|link| link.path().to_string_lossy().into_owned());
    path.map(|path| (base, path)).ok_or_else(|| Failure::refused(&args.image, "it has no parent to merge it into"))
}
