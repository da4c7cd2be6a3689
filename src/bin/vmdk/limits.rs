//! What the host lets the tool have at once.

/// Lets the tool have as many files open as it may: a split disk that is written keeps all of its files open, and usual
/// limits are made for programs that wait for files with `select`, which this one does not.
#[cfg(unix)]
pub(crate) fn raise() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Who needs more than there is will be told so.
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(not(unix))]
pub(crate) fn raise() {}
