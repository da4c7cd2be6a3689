//! `vmdk repair`: an image put right, or a repair taken back.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use vmdk::{FileStorage, RepairOptions, RepairReport};

use crate::args::RepairArgs;
use crate::check::{EXIT_FOUND, print};
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::{findings, interrupt};

pub(crate) fn run(args: &RepairArgs) -> Result<ExitCode> {
    if let Some(undo) = &args.restore {
        return restore(args, undo);
    }
    interrupt::catch();
    let options = RepairOptions::new().dry_run(args.dry_run);
    let options = options.prefer_redundant(args.prefer_redundant).reclaim(args.reclaim);
    let undo = args.undo();
    let report = match &undo {
        Some(undo) => with_undo(args, options, undo)?,
        None => repair(args, &options)?,
    };
    let undo = undo.filter(|_| report.undo_bytes > 0);
    print(&if args.json { json_of(args, &report, undo.as_deref()) } else { text_of(&report, undo.as_deref()) })?;
    let left = if args.dry_run { &report.before } else { &report.after };
    Ok(if left.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FOUND) })
}

fn repair(args: &RepairArgs, options: &RepairOptions) -> Result<RepairReport> {
    let progress = Progress::new(0);
    Ok(args.open.options().repair(&args.image, options, &mut |now| progress.step(now))?)
}

/// Repairs with an undo file, of which nothing is left if it has nothing in it.
fn with_undo(args: &RepairArgs, options: RepairOptions, path: &PathBuf) -> Result<RepairReport> {
    // Nobody is to lose what an earlier repair has kept.
    let file = private().read(true).write(true).create_new(true).open(path);
    let file = file.map_err(|cause| match cause.kind() {
        ErrorKind::AlreadyExists => {
            let text = "this undo file of an earlier repair takes back what that has done: keep it, and name another one \
                        with --undo";
            Failure::refused(path, text)
        }
        _ => Failure::host(path, "cannot make the undo file", cause),
    })?;
    let storage = FileStorage::new(file).map_err(|cause| Failure::host(path, "cannot use the undo file", cause))?;
    let done = sync_dir(path).and_then(|()| repair(args, &options.undo(Arc::new(storage))));
    let is_needed = match &done {
        Ok(report) => report.undo_bytes > 0,
        // What was noted before it failed may be needed.
        Err(_) => fs::metadata(path).is_ok_and(|meta| meta.len() > 0),
    };
    if !is_needed {
        let _ = fs::remove_file(path);
    }
    done
}

/// What was in an image is nobody else's business.
fn private() -> fs::OpenOptions {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes the name of a new file durable: without it nothing could be taken back after a power failure.
fn sync_dir(path: &Path) -> Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|cause| Failure::host(dir, "cannot make the name of the undo file durable", cause))
}

fn restore(args: &RepairArgs, undo: &Path) -> Result<ExitCode> {
    let storage = FileStorage::open(undo).map_err(|cause| Failure::host(undo, "cannot open the undo file", cause))?;
    let count = args.open.options().undo_repair(&args.image, &storage)?;
    let path = args.image.to_string_lossy();
    print(&if args.json {
        format!("{:#}\n", json!({ "path": path, "taken_back": count }))
    } else {
        format!("{} taken back\n", changes(count))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text_of(report: &RepairReport, undo: Option<&Path>) -> String {
    let mut text = findings::text(&report.before);
    if report.changes > 0 {
        text = format!("{text}{} made; left:\n{}", changes(report.changes), findings::text(&report.after));
    }
    match undo {
        Some(undo) => format!("{text}they can be taken back with --restore {}\n", undo.display()),
        None => text,
    }
}

fn changes(count: u64) -> String {
    if count == 1 { "1 change".to_owned() } else { format!("{count} changes") }
}

fn json_of(args: &RepairArgs, report: &RepairReport, undo: Option<&Path>) -> String {
    let after = if args.dry_run { Value::Null } else { findings::object(&report.after) };
    let object = json!({
        "path": args.image.to_string_lossy(),
        "before": findings::object(&report.before),
        "changes": report.changes,
        "undo": undo.map(|undo| undo.to_string_lossy()),
        "after": after,
    });
    format!("{object:#}\n")
}
