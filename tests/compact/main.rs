//! Compacting: less space on the host, and nothing that a guest could notice, whatever comes in between.
//!
//! ```text
//! stage: disks with much to gain     model: every kind     crash: every state     faults: every failure, every stop
//! refused: what is left alone     beside_qemu_img: the same content for another reader
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod beside_qemu_img;
mod crash;
mod faults;
mod model;
mod refused;
mod stage;
#[path = "../support/mod.rs"]
mod support;
