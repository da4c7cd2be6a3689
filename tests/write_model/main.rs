//! Random sequences of everything that can be done to a disk, on every kind that takes writes, against a model: an
//! array of bytes. Afterwards another reader must see the same, the checker must be content, and the parents must be
//! what they were.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used,
    reason = "a panic is a failed test"
)]

mod action;
mod session;
mod subject;
#[path = "../support/mod.rs"]
mod support;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use vmdk::{CacheMode, OpenOptions};

use action::{Action, action};
use session::Session;
use subject::{Base, Top, build};
use support::rng::Rng;

fn run(top: Top, base: Base, actions: &[Action], mode: CacheMode, on_disk: bool, seed: u64) {
    let mut rng = Rng::new(seed);
    let links = build(top, base, &mut rng);
    // One table, so that every other access evicts one.
    let options = OpenOptions::new().cached_tables(1).cache_mode(mode);
    let mut session = Session::new(links, options, on_disk, rng);
    for action in actions {
        session.act(action);
    }
    session.finish();
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(120))]

    #[test]
    fn a_disk_of_any_kind_stays_what_the_model_says(
        top in prop::sample::select(&Top::ALL[..]),
        base in prop::sample::select(&Base::ALL[..]),
        actions in prop::collection::vec(action(), 1..30),
        mode in prop::sample::select(&[
            CacheMode::Writeback, CacheMode::Writeback, CacheMode::Writethrough, CacheMode::Unsafe,
        ][..]),
        seed in any::<u64>(),
    ) {
        run(top, base, &actions, mode, false, seed);
    }
}

proptest! {
    #![proptest_config(config(30))]

    /// Files of the host have holes, and punching one is another call than writing zeros.
    #[test]
    fn a_disk_in_files_of_the_host_stays_what_the_model_says(
        top in prop::sample::select(&Top::ALL[..]),
        base in prop::sample::select(&Base::ALL[..]),
        actions in prop::collection::vec(action(), 1..30),
        seed in any::<u64>(),
    ) {
        run(top, base, &actions, CacheMode::Writeback, true, seed);
    }
}

/// Every pair at least once, with a sequence that is always the same length.
#[test]
fn every_kind_over_every_parent_stays_what_the_model_says() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for (number, top) in Top::ALL.into_iter().enumerate() {
        for base in Base::ALL.into_iter().filter(|&base| base == Base::Nothing || top.has_parents()) {
            let actions = prop::collection::vec(action(), 8).new_tree(&mut runner).unwrap().current();
            run(top, base, &actions, CacheMode::Writeback, false, number as u64);
        }
    }
}
