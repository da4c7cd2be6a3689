//! Checking and repairing: every kind of damage is found, what can be put right is, and nothing that could be read is
//! lost or changed by it.
//!
//! ```text
//! damage: images with one thing wrong, what a check says, what a repair makes of it
//! hostile: images with anything wrong    crash, faults: a repair that is cut off    sound: images with nothing wrong
//! stretches: disks with many tables, read by several threads
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod crash;
mod damage;
mod faults;
mod hostile;
mod rows;
mod sound;
mod stretches;
mod subject;
#[path = "../support/mod.rs"]
mod support;
mod undo;
