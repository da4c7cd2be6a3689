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
    for &signal in TERM_SIGNALS.iter().chain(HANGUP) {
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
