//! `vmdk rebase`: a disk over another parent.

use std::io::{self, Write};

use serde_json::json;
use vmdk::{RebaseMode, RebaseReport};

use crate::args::RebaseArgs;
use crate::failure::{Failure, Result, say};
use crate::interrupt;
use crate::printable::printable;
use crate::progress::Progress;

pub(crate) fn run(args: &RebaseArgs) -> Result<()> {
    interrupt::catch();
    let mode = match (args.unchecked, args.fix_cid) {
        (true, _) => RebaseMode::Unsafe,
        (_, true) => RebaseMode::FixContentId,
        _ => RebaseMode::Safe,
    };
    let mut progress = None;
    let mut step = |now: vmdk::CopyProgress| progress.get_or_insert_with(|| Progress::new(now.total)).step(now);
    let done = args.open.options().rebase(&args.image, args.new_parent.as_deref(), mode, &mut step)?;
    drop(progress);
    if done.unverified {
        warn(mode);
    }
    let mut output = io::stdout().lock();
    let said = if args.json {
        let object = json!({
            "path": args.image.to_string_lossy(),
            "parent": done.parent.as_ref().map(|parent| parent.to_string_lossy()),
            "parent_cid": done.parent_content_id.map(|id| id.to_string()),
            "old_parent_cid": done.old_parent_content_id.map(|id| id.to_string()),
            "copied": done.copied_bytes,
            "zeroed": done.zeroed_bytes,
            "changed": done.changed,
            "unverified": done.unverified,
        });
        writeln!(output, "{object:#}")
    } else {
        writeln!(output, "{}", text(&done))
    };
    said.and_then(|()| output.flush()).map_err(Failure::Output)
}

/// Says what nobody can know.
fn warn(mode: RebaseMode) {
    let what = match mode {
        RebaseMode::FixContentId => {
            "the parent was changed after the image was made, or is another disk; it was taken for the right one"
        }
        _ => "the new parent was taken for the old one, and nothing was compared",
    };
    say(&format!("{what}: if it does not hold what it did then, the image is a mixture of two disks"));
}

fn text(done: &RebaseReport) -> String {
    let parent = match &done.parent {
        Some(parent) => format!("the parent is {}", printable(&parent.to_string_lossy())),
        None => "there is no parent".to_owned(),
    };
    let kept = done.copied_bytes + done.zeroed_bytes;
    match (done.changed, kept) {
        (false, 0) => format!("{parent}; nothing had to be changed"),
        _ => format!("{parent}; {kept} bytes taken over from the old one"),
    }
}
