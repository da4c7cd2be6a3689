//! `vmdk check`: whether every structure of an image is what it should be.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;
use vmdk::CheckOptions;

use crate::args::CheckArgs;
use crate::failure::{Failure, Result};
use crate::progress::Progress;
use crate::{findings, interrupt};

/// Something was found.
pub(crate) const EXIT_FOUND: u8 = 1;

pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode> {
    interrupt::catch();
    let options = CheckOptions::new().chain(args.chain).threads(args.threads());
    let progress = Progress::new(0);
    let report = args.open.options().check(&args.image, &options, &mut |now| progress.step(now))?;
    drop(progress);
    let shown = if args.json {
        let mut object = findings::object(&report);
        object["path"] = json!(args.image.to_string_lossy());
        format!("{object:#}\n")
    } else {
        findings::text(&report)
    };
    print(&shown)?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FOUND) })
}

/// Prints what there is to say.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(Failure::Output)
}
