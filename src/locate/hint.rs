//! What a parent hint may mean, without looking at any file.
//!
//! A child names its parent as it stood when the child was made, on the host that made it. Disks are moved and
//! copied, so the hint is only where the search starts. A candidate is the parent only if its content ID says so.

/// The rules of the host that the child is opened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Unix,
    Windows,
}

/// The names to try for a parent, best first. Relative ones are relative to the directory of the child.
///
/// The hint by the rules of this host; its base name, in the child's own directory; and the base name in the
/// directory of the same name beside the child's. A `[datastore] ` in front is dropped. On Unix a hint that was
/// read as something foreign comes once more, at the end, as the ordinary name that it may have been.
pub(crate) fn parent_candidates(hint: &str) -> Vec<String> {
    candidates(hint, if cfg!(windows) { Host::Windows } else { Host::Unix })
}

fn candidates(hint: &str, host: Host) -> Vec<String> {
    let path = without_datastore(hint);
    let slashed = path.replace('\\', "/");
    let on_datastore = path.len() != hint.len();
    let on_drive = has_drive(path);
    let native = match host {
        _ if on_datastore => Some(slashed.trim_start_matches('/').to_owned()),
        Host::Windows => Some(path.to_owned()),
        Host::Unix if on_drive || path.starts_with('\\') => None,
        // An absolute name of Unix, in which a backslash is a character like any other.
        Host::Unix if path.starts_with('/') => Some(path.to_owned()),
        Host::Unix => Some(slashed.clone()),
    };

    let parts = if on_drive { &slashed[2..] } else { &slashed };
    let mut parts = parts.rsplit('/').filter(|part| !matches!(*part, "" | "."));
    let base = parts.next().filter(|base| *base != "..");
    let directory = parts.next().filter(|directory| *directory != "..");
    let beside = base.zip(directory).map(|(base, directory)| format!("../{directory}/{base}"));
    let verbatim = (host == Host::Unix && !on_drive && !hint.starts_with('\\')).then(|| hint.to_owned());

    let mut found: Vec<String> = Vec::new();
    for name in [native, base.map(str::to_owned), beside, verbatim].into_iter().flatten() {
        if !name.is_empty() && !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// Whether a hint leads somewhere else when the child is in another directory.
pub(crate) fn is_relative_hint(hint: &str) -> bool {
    !has_drive(hint) && !hint.starts_with(['/', '\\']) && without_datastore(hint).len() == hint.len()
}

/// Whether a name begins with a drive letter and a colon.
pub(super) fn has_drive(name: &str) -> bool {
    matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic())
}

/// What follows `[datastore] `; all of it if there is no such prefix.
fn without_datastore(hint: &str) -> &str {
    let rest = hint.strip_prefix('[').and_then(|hint| hint.split_once("] "));
    rest.map_or(hint, |(_, rest)| rest.trim_start_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_becomes_the_names_to_try_on_unix() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            ("base.vmdk", &["base.vmdk"]),
            ("./base.vmdk", &["./base.vmdk", "base.vmdk"]),
            ("../base.vmdk", &["../base.vmdk", "base.vmdk"]),
            ("../base/base.vmdk", &["../base/base.vmdk", "base.vmdk"]),
            ("sub//base.vmdk", &["sub//base.vmdk", "base.vmdk", "../sub/base.vmdk"]),
            ("/vmfs/volumes/u-u/vm/vm.vmdk", &["/vmfs/volumes/u-u/vm/vm.vmdk", "vm.vmdk", "../vm/vm.vmdk"]),
            ("/base.vmdk", &["/base.vmdk", "base.vmdk"]),
            ("[store 1] vm/vm.vmdk", &["vm/vm.vmdk", "vm.vmdk", "../vm/vm.vmdk", "[store 1] vm/vm.vmdk"]),
            ("[store] /vm/vm.vmdk", &["vm/vm.vmdk", "vm.vmdk", "../vm/vm.vmdk", "[store] /vm/vm.vmdk"]),
            ("[store] vm.vmdk", &["vm.vmdk", "[store] vm.vmdk"]),
            ("[store] ", &["[store] "]),
            ("[1]vm.vmdk", &["[1]vm.vmdk"]),
            ("C:\\VMs\\a\\a.vmdk", &["a.vmdk", "../a/a.vmdk"]),
            ("c:/VMs/b/a.vmdk", &["a.vmdk", "../b/a.vmdk"]),
            ("C:a.vmdk", &["a.vmdk"]),
            ("C:", &[]),
            ("\\\\server\\share\\a.vmdk", &["a.vmdk", "../share/a.vmdk"]),
            ("\\VMs\\a.vmdk", &["a.vmdk", "../VMs/a.vmdk"]),
            ("..\\b\\a.vmdk", &["../b/a.vmdk", "a.vmdk", "..\\b\\a.vmdk"]),
            ("b\\a.vmdk", &["b/a.vmdk", "a.vmdk", "../b/a.vmdk", "b\\a.vmdk"]),
            ("/x/b\\a.vmdk", &["/x/b\\a.vmdk", "a.vmdk", "../b/a.vmdk"]),
            ("..", &[".."]),
            ("/", &["/"]),
        ];
        for (hint, names) in table {
            assert_eq!(candidates(hint, Host::Unix), *names, "{hint:?}");
        }
    }

    #[test]
    fn on_windows_drives_and_backslashes_are_native() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            ("C:\\VMs\\a\\a.vmdk", &["C:\\VMs\\a\\a.vmdk", "a.vmdk", "../a/a.vmdk"]),
            ("b\\a.vmdk", &["b\\a.vmdk", "a.vmdk", "../b/a.vmdk"]),
            ("[store] vm/vm.vmdk", &["vm/vm.vmdk", "vm.vmdk", "../vm/vm.vmdk"]),
        ];
        for (hint, names) in table {
            assert_eq!(candidates(hint, Host::Windows), *names, "{hint:?}");
        }
    }
}
