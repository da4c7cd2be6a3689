//! Numbers that nobody can expect.

use std::hash::{BuildHasher, RandomState};

/// So many random numbers. The standard library keys its hash maps with such, and hands none out itself.
pub(crate) fn random<const N: usize>() -> [u64; N] {
    std::array::from_fn(|number| RandomState::new().hash_one(number))
}
