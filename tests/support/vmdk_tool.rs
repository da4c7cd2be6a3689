//! The tool `vmdk`, run as somebody runs it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the tool in a directory, with nothing to read.
pub fn vmdk(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vmdk")).current_dir(dir).args(args).stdin(Stdio::null()).output().unwrap()
}

/// All that was said, on both ways out, by a run that must end with this code.
#[track_caller]
pub fn said(output: &Output, code: i32) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}
