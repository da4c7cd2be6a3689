//! seSparse extents that are made here: what is in them byte for byte, and what other programs read from them.
//!
//! ```text
//! builder: the bytes, against numbers worked out by hand    sample: against an extent by ESX
//! beside: what qemu-img and dissect.hypervisor read         corrupt: what qemu-img says of damaged ones
//! ```

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod beside;
mod builder;
mod corrupt;
mod reads;
mod sample;
#[path = "../support/mod.rs"]
mod support;
