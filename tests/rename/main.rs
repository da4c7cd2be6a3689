//! Disks that get another name, and copies of disks as they are: at every moment there is the disk, whole, by one name
//! or the other, whatever fails and whenever the power goes.
//!
//! ```text
//! subject: disks of several files, and what must be there after     judge: what a crash may leave
//! states: every crash     syncs: none can be left out     faults: every failure, and failures of the way back
//! host: directories, permissions, names     refused: what is not done changes nothing     copies: the same for copies
//! programs: qemu-img reads what there is then; the command line
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod copies;
mod faults;
mod host;
mod judge;
mod programs;
mod refused;
mod states;
mod subject;
#[path = "../support/mod.rs"]
mod support;
mod syncs;
