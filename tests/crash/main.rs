//! What a crash may cost: nothing that was flushed, and nothing else that was there.
//!
//! Disks of every kind are written to on a computer that can lose its power. Each state that may be left is opened for
//! reading, checked, opened for writing, written elsewhere, closed, and checked again; some crash again meanwhile.
//!
//! ```text
//! subject: a disk   workload: what a guest does, and may see then   judge: each state, against that
//! kinds: all subjects with all workloads keep the promise           syncs: without one of the syncs they do not
//! ```

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used,
    reason = "a panic is a failed test"
)]

mod gaps;
mod judge;
mod kinds;
mod subject;
#[path = "../support/mod.rs"]
mod support;
mod syncs;
mod workload;
