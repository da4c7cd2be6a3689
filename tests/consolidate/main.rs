//! Commit, flatten and rebase: whatever happens on the way, the disk reads as before, and nobody else reads a mixture.
//!
//! ```text
//! scene: chains, with other children of the parents     judge: what is there now, and may be
//! layouts: random ones     states: every crash     syncs: none can be left out     faults: every failure, and stops
//! refused: what is not done changes nothing     damaged: files that cannot be right     qemu: what others read
//! host: files, locks and names     cli: the tool
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

#[cfg(all(feature = "cli", unix))]
mod cli;
mod damaged;
mod faults;
mod host;
mod judge;
mod layouts;
mod qemu;
mod refused;
mod scene;
mod states;
#[path = "../support/mod.rs"]
mod support;
mod syncs;
