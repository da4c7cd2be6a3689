//! The command-line tool `vmdk`: a thin shell over the library of the same name.
//!
//! Exit codes: 0 for success, 1 for a difference or problem that a command was asked to look for, 2 for an error. What
//! goes wrong is one line on stderr: the error and its causes. A reader of the output who went away is an error, too,
//! but there is nobody left to tell.

#![forbid(unsafe_code)]

mod args;
mod check;
mod clear;
mod commit;
mod compact;
mod compare;
mod convert;
mod create;
mod failure;
mod findings;
mod flatten;
mod info;
mod interrupt;
mod limits;
mod map;
mod printable;
mod progress;
mod range;
mod read;
mod rebase;
mod rename;
mod repair;
mod resize;
mod size;
mod source;
mod standard;
mod target;
mod untrack;
mod write;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::failure::{Failure, Result, say};

/// The command could not do what it was asked to do; also what `clap` exits with.
const EXIT_ERROR: u8 = 2;

fn main() -> ExitCode {
    limits::raise();
    match run(Args::parse().command) {
        Ok(code) => code,
        Err(failure) => {
            report(&failure);
            ExitCode::from(if interrupt::check().is_break() { interrupt::EXIT_INTERRUPTED } else { EXIT_ERROR })
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Info(args) => info::run(&args)?,
        Command::Map(args) => map::run(&args)?,
        Command::Compare(args) => return compare::run(&args),
        Command::Check(args) => return check::run(&args),
        Command::Repair(args) => return repair::run(&args),
        Command::Create(args) => create::create(&args)?,
        Command::Snapshot(args) => create::snapshot(&args)?,
        Command::Convert(args) => return convert::run(&args),
        Command::Compact(args) => compact::run(&args)?,
        Command::Resize(args) => resize::run(&args)?,
        Command::Read(args) => read::run(&args)?,
        Command::Write(args) => write::run(&args)?,
        Command::Zero(args) => clear::zero(&args)?,
        Command::Discard(args) => clear::discard(&args)?,
        Command::Rename(args) => rename::rename(&args)?,
        Command::Copy(args) => rename::copy(&args)?,
        Command::Commit(args) => commit::run(&args)?,
        Command::Flatten(args) => flatten::run(&args)?,
        Command::Rebase(args) => rebase::run(&args)?,
        Command::Untrack(args) => untrack::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn report(failure: &Failure) {
    if !failure.is_broken_pipe() {
        say(&failure.line());
    }
}
