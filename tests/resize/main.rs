//! Resizing: what was there stays, what comes is zero, and nothing is lost, whatever comes in between.
//!
//! ```text
//! stage: disks of every kind    model: larger and smaller    layout: where things are then, and what is said of them
//! crash: every state    faults: every failure, every stop    refused: what cannot be    beside_qemu_img: others agree
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod beside_qemu_img;
mod crash;
mod faults;
mod layout;
mod model;
mod refused;
mod stage;
#[path = "../support/mod.rs"]
mod support;
