//! `vmdk rename` and `vmdk copy`: disks that keep what they are, by another name.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;
use vmdk::{CopyDiskOptions, CopyDiskReport, RenameOptions, RenameReport};

use crate::args::{CopyArgs, RenameArgs};
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::printable::printable;
use crate::progress::Progress;

pub(crate) fn rename(args: &RenameArgs) -> Result<()> {
    interrupt::catch();
    let options = RenameOptions::new().replace(args.replace);
    let options = args.children.iter().fold(options, RenameOptions::child);
    let mut bar = None;
    let report = args.options().rename(&args.old, &args.new, &options, &mut |now| {
        bar.get_or_insert_with(|| Progress::new(now.total)).step(now)
    });
    drop(bar);
    let report = report?;
    if args.json {
        return print(&format!("{:#}\n", renamed_object(&report)));
    }
    let files = report.files.iter().map(|file| format!("{} -> {}\n", shown(&file.from), shown(&file.to)));
    let kept = report.kept.iter().map(|name| format!("{} keeps its name\n", printable(name)));
    let parent = report.parent_hint.iter().map(|hint| format!("the parent is {} from there\n", printable(hint)));
    let children = report.children.iter().map(|child| format!("{} follows\n", shown(child)));
    print(&files.chain(kept).chain(parent).chain(children).chain(notes(&report.notes)).collect::<String>())
}

pub(crate) fn copy(args: &CopyArgs) -> Result<()> {
    interrupt::catch();
    let options = CopyDiskOptions::new().replace(args.replace).new_disk_id(args.new_uuid);
    let mut bar = None;
    let report = args.options().copy_disk(&args.old, &args.new, &options, &mut |now| {
        bar.get_or_insert_with(|| Progress::new(now.total)).step(now)
    });
    drop(bar);
    let report = report?;
    if args.json {
        return print(&format!("{:#}\n", copied_object(&report)));
    }
    let files = report.files.iter().map(|file| format!("{}\n", shown(file)));
    let parent = report.parent_hint.iter().map(|hint| format!("the parent is {} from there\n", printable(hint)));
    print(&files.chain(parent).chain(notes(&report.notes)).collect::<String>())
}

fn print(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(Failure::Output)
}

fn notes(notes: &[String]) -> impl Iterator<Item = String> {
    notes.iter().map(|note| format!("note: {}\n", printable(note)))
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

fn renamed_object(report: &RenameReport) -> serde_json::Value {
    let file =
        |file: &vmdk::RenamedFile| json!({ "from": file.from.to_string_lossy(), "to": file.to.to_string_lossy() });
    json!({
        "files": report.files.iter().map(file).collect::<Vec<_>>(),
        "kept": report.kept,
        "parent_hint": report.parent_hint,
        "children": report.children.iter().map(|child| child.to_string_lossy()).collect::<Vec<_>>(),
        "notes": report.notes,
    })
}

fn copied_object(report: &CopyDiskReport) -> serde_json::Value {
    json!({
        "files": report.files.iter().map(|file| file.to_string_lossy()).collect::<Vec<_>>(),
        "bytes": report.bytes,
        "parent_hint": report.parent_hint,
        "notes": report.notes,
    })
}
