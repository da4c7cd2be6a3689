//! Ctrl-C during work that has something to clean up.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;

/// What a shell reports of a program that was interrupted.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// The terminal is gone.
#[cfg(unix)]
const HANGUP: &[i32] = &[signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const HANGUP: &[i32] = &[];

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on Ctrl-C stops the work where it next says how far it is, and what it has made is removed. The second time
/// it ends the program at once.
pub(crate) fn catch() {
    let interrupted = INTERRUPTED.get_or_init(Arc::default);
    let ignored = ignored();
    for &signal in TERM_SIGNALS.iter().chain(HANGUP).filter(|&&signal| ignored & (1 << (signal - 1)) == 0) {
        // Where a signal cannot be caught, it does what it always did. The order counts: the first one only notes.
        let _ = flag::register_conditional_shutdown(signal, EXIT_INTERRUPTED.into(), Arc::clone(interrupted))
            .and_then(|_| flag::register(signal, Arc::clone(interrupted)));
    }
}

/// Whether the work may go on.
pub(crate) fn check() -> ControlFlow<()> {
    match INTERRUPTED.get() {
        Some(interrupted) if interrupted.load(Ordering::Relaxed) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

/// The signals that whoever has started this wants to be ignored, as `nohup` does, a bit for each; only Linux tells.
fn ignored() -> u64 {
    const KEY: &str = "SigIgn:";
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(KEY));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
