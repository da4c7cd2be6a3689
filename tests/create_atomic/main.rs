//! New images are there as a whole or not at all, whenever the power goes and whatever fails; and an old one that is
//! replaced is there until then.
//!
//! ```text
//! operation: what makes an image, and what is there before     judge: what is there now, and may be
//! states: every crash     syncs: none can be left out     faults: every failure     taken: names that are in use
//! written: children of images that are open for writing
//! ```
//!
//! Another operation is one more function of [`operation::Operation`], and a line in each of the suites.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod faults;
mod judge;
mod operation;
mod states;
#[path = "../support/mod.rs"]
mod support;
mod syncs;
mod taken;
mod written;
