//! Signals, as POSIX numbers them.

use std::fs;

pub const HUP: u32 = 1;
pub const INT: u32 = 2;
pub const KILL: u32 = 9;
pub const TERM: u32 = 15;

/// Whether this process ignores a signal, and what it starts as well, as under `nohup`. Where the system does not say
/// so, the tool cannot know it either.
pub fn is_ignored(signal: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << (signal - 1) != 0)
}
