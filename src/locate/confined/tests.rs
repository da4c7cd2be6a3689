//! One table for every way of opening, and a comparison of the ways with each other on random trees.

use std::fs::{create_dir, create_dir_all, write};
#[cfg(target_os = "linux")]
use std::fs::{remove_file, rename};
use std::io::{ErrorKind, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::fs::{OFlags, fcntl_getfl};

use super::*;

type Way = fn(&Path, &Path, Purpose) -> Result<Found, Failure>;

/// The ways that this host has.
fn ways() -> Vec<(&'static str, Way)> {
    let walk: Way = |dir, name, purpose| sys::by_walk(sys::base(dir)?.as_fd(), dir, name, purpose);
    let ways = [("walk", walk), ("open", open as Way)];
    ways.into_iter().chain(kernel().map(|kernel| ("kernel", kernel))).collect()
}

#[cfg(target_os = "linux")]
fn kernel() -> Option<Way> {
    let kernel: Way = |dir, name, purpose| {
        let base = sys::base(dir)?;
        // Any rename on the host, such as those of the test below, makes it say that it cannot tell; but not forever.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::time::Instant::now() < end {
            if let Some(found) = sys::by_kernel(base.as_fd(), dir, name, purpose)? {
                return Ok(found);
            }
            std::thread::yield_now();
        }
        Err(Failure::Host(ErrorKind::Unsupported.into()))
    };
    let root = Path::new("/");
    let answer = sys::base(root).and_then(|base| sys::by_kernel(base.as_fd(), root, Path::new("."), Purpose::Read));
    if matches!(answer, Err(Failure::Kind(_))) {
        return Some(kernel);
    }
    eprintln!("skipped: openat2 is not available here");
    None
}

#[cfg(not(target_os = "linux"))]
fn kernel() -> Option<Way> {
    None
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The file whose real name, seen from the directory, is this. Its content is that name, too.
    Opens(String),
    Outside,
    Links,
    Kind(&'static str),
    Host(ErrorKind),
}

use Outcome::{Host, Kind, Links, Outside};

fn opens(name: &str) -> Outcome {
    Outcome::Opens(name.to_owned())
}

const PURPOSES: [(Purpose, OFlags); 3] =
    [(Purpose::Read, OFlags::RDONLY), (Purpose::ReadBeside, OFlags::RDONLY), (Purpose::Write, OFlags::RDWR)];

/// The outcome, which does not depend on what the file is opened for.
fn outcome(way: Way, dir: &Path, name: &str) -> Outcome {
    let [read, beside, write] = PURPOSES.map(|(purpose, mode)| outcome_for(way, dir, name, purpose, mode));
    assert_eq!((&beside, &write), (&read, &read), "{name:?}");
    read
}

fn outcome_for(way: Way, dir: &Path, name: &str, purpose: Purpose, mode: OFlags) -> Outcome {
    match way(dir, Path::new(name), purpose) {
        Ok(mut found) => {
            let flags = fcntl_getfl(&found.file).unwrap();
            assert_eq!(flags & (OFlags::RWMODE | OFlags::NONBLOCK), mode | OFlags::NONBLOCK, "{name:?}");
            assert_eq!(Some(&*found.dir), found.path.parent());
            let real = found.path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            let mut content = String::new();
            found.file.read_to_string(&mut content).unwrap();
            assert_eq!(content, real, "{name:?} opened a file and named another");
            Outcome::Opens(real)
        }
        Err(Failure::Outside) => Outside,
        Err(Failure::Links) => Links,
        Err(Failure::Kind(kind)) => Kind(kind),
        Err(Failure::Host(error)) => Host(error.kind()),
    }
}

/// A canonical directory, with another beside it that must not be reached.
fn empty_tree() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().canonicalize().unwrap();
    create_dir(root.join("in")).unwrap();
    create_dir(root.join("out")).unwrap();
    write(root.join("out/secret"), "secret").unwrap();
    let dir = root.join("in");
    (temp, dir)
}

fn file(dir: &Path, name: &str) {
    write(dir.join(name), name).unwrap();
}

const ODD: &str = "q\"u o\\te\t.vmdk";

fn tree() -> (tempfile::TempDir, PathBuf) {
    let (temp, dir) = empty_tree();
    create_dir(dir.join("sub")).unwrap();
    create_dir_all(dir.join("deep/er")).unwrap();
    for name in ["a.vmdk", "sub/b.vmdk", "deep/d.vmdk", "deep/er/e.vmdk", ODD, "...", "C:\\x.vmdk"] {
        file(&dir, name);
    }
    let inside = dir.join("a.vmdk");
    let outside = dir.join("../out/secret").canonicalize().unwrap();
    let links = [
        ("to_a", "a.vmdk"),
        ("to_sub", "sub"),
        ("to_sub_slash", "sub/"),
        ("to_a_slash", "a.vmdk/"),
        ("far", "deep/er"),
        ("sub/up", "../a.vmdk"),
        ("sub/up_dir", "../deep"),
        ("out_relative", "../out/secret"),
        ("out_absolute", outside.to_str().unwrap()),
        ("out_dir", "../out"),
        ("sub/out_deeper", "../../out/secret"),
        ("out_and_back", "../in/a.vmdk"),
        ("inside_absolute", inside.to_str().unwrap()),
        ("self", "self"),
        ("ping", "pong"),
        ("pong", "ping"),
        ("dangling", "nowhere"),
        ("to_fifo", "fifo"),
    ];
    for (name, target) in links {
        symlink(target, dir.join(name)).unwrap();
    }
    symlink("a.vmdk", dir.join("link1")).unwrap();
    for n in 2..=MAX_LINKS + 1 {
        symlink(format!("link{}", n - 1), dir.join(format!("link{n}"))).unwrap();
    }
    std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(dir.join("fifo")).status().unwrap();
    assert!(made.success());
    (temp, dir)
}

#[test]
fn every_way_of_opening_gives_the_answers_of_the_table() {
    let (_temp, dir) = tree();
    let long = "x".repeat(300);
    let absolute = dir.join("a.vmdk");
    let missing = || Host(ErrorKind::NotFound);
    let not_directory = || Host(ErrorKind::NotADirectory);
    let table = [
        ("a.vmdk", opens("a.vmdk")),
        ("sub/b.vmdk", opens("sub/b.vmdk")),
        ("./a.vmdk", opens("a.vmdk")),
        ("././/sub/.//b.vmdk", opens("sub/b.vmdk")),
        ("sub//b.vmdk", opens("sub/b.vmdk")),
        ("sub/../a.vmdk", opens("a.vmdk")),
        (ODD, opens(ODD)),
        ("...", opens("...")),
        ("C:\\x.vmdk", opens("C:\\x.vmdk")),
        ("sub\\b.vmdk", missing()),
        ("..\\out\\secret", missing()),
        // Out of the directory, also if it is only for a moment.
        ("..", Outside),
        ("../out/secret", Outside),
        ("../in/a.vmdk", Outside),
        ("sub/../../out/secret", Outside),
        ("/", Outside),
        ("/a.vmdk", Outside),
        ("//a.vmdk", Outside),
        (absolute.to_str().unwrap(), Outside),
        // Links.
        ("to_a", opens("a.vmdk")),
        ("to_sub/b.vmdk", opens("sub/b.vmdk")),
        ("to_sub_slash/b.vmdk", opens("sub/b.vmdk")),
        ("far/e.vmdk", opens("deep/er/e.vmdk")),
        ("far/../d.vmdk", opens("deep/d.vmdk")),
        ("sub/up", opens("a.vmdk")),
        ("to_sub/up_dir/er/../d.vmdk", opens("deep/d.vmdk")),
        ("out_relative", Outside),
        ("out_absolute", Outside),
        ("out_dir/secret", Outside),
        ("out_dir", Outside),
        ("sub/out_deeper", Outside),
        ("out_and_back", Outside),
        ("inside_absolute", Outside),
        ("self", Links),
        ("self/x", Links),
        ("ping", Links),
        ("link40", opens("a.vmdk")),
        ("link41", Links),
        ("dangling", missing()),
        ("dangling/../a.vmdk", missing()),
        // What is no regular file, or not there.
        ("fifo", Kind("a FIFO")),
        ("to_fifo", Kind("a FIFO")),
        ("socket", Kind("a socket")),
        ("sub", Kind("a directory")),
        ("sub/", Kind("a directory")),
        ("sub/..", Kind("a directory")),
        (".", Kind("a directory")),
        ("to_sub", Kind("a directory")),
        ("to_sub/", Kind("a directory")),
        ("", missing()),
        ("missing", missing()),
        ("missing/../a.vmdk", missing()),
        ("sub/missing", missing()),
        (long.as_str(), Host(ErrorKind::InvalidFilename)),
        ("a.vmdk/", not_directory()),
        ("a.vmdk/.", not_directory()),
        ("a.vmdk/..", not_directory()),
        ("a.vmdk/x", not_directory()),
        ("a.vmdk//sub/b.vmdk", not_directory()),
        ("to_a/", not_directory()),
        ("to_a_slash", not_directory()),
        ("fifo/x", not_directory()),
    ];
    for (way_name, way) in ways() {
        for (name, expected) in &table {
            assert_eq!(outcome(way, &dir, name), *expected, "{name:?} by {way_name}");
        }
    }
}

#[test]
fn a_directory_or_file_without_permission_is_a_host_error() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_temp, dir) = tree();
    let set = |name: &str, mode| {
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set("a.vmdk", 0);
    set("sub", 0);
    if std::fs::File::open(dir.join("a.vmdk")).is_ok() {
        eprintln!("skipped: permissions do not bind this user");
    } else {
        for (way_name, way) in ways() {
            for name in ["a.vmdk", "sub/b.vmdk"] {
                assert_eq!(outcome(way, &dir, name), Host(ErrorKind::PermissionDenied), "{name:?} by {way_name}");
            }
        }
    }
    set("sub", 0o700);
}

#[cfg(target_os = "linux")]
#[test]
fn links_that_only_the_kernel_can_follow_are_refused() {
    let dir = Path::new("/proc/self").canonicalize().unwrap();
    for (way_name, way) in ways() {
        for name in ["exe", "cwd/Cargo.toml", "root/etc/passwd", "fd/0"] {
            let found = way(&dir, Path::new(name), Purpose::Read);
            // The name of standard input may be a text like "pipe:[7]", which leads nowhere.
            let refused = matches!(found, Err(Failure::Outside | Failure::Links));
            assert!(refused || (name == "fd/0" && found.is_err()), "{name} by {way_name}: {found:?}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_real_path_of_a_file_that_went_away_is_not_known() {
    let (_temp, dir) = empty_tree();
    let opened = |name: &str| {
        file(&dir, name);
        std::fs::File::open(dir.join(name)).unwrap().into()
    };
    let (stays, deleted, moved) = (opened("stays"), opened("deleted"), opened("moved"));
    remove_file(dir.join("deleted")).unwrap();
    // The name that the kernel now shows for the deleted one, as a file of its own.
    file(&dir, "deleted (deleted)");
    rename(dir.join("moved"), dir.join("../out/moved")).unwrap();
    assert_eq!(sys::real_path(&stays, &dir), Some(dir.join("stays")));
    assert_eq!(sys::real_path(&deleted, &dir), None);
    assert_eq!(sys::real_path(&moved, &dir), None);
}

/// The walk looks at a name and then opens it; what is swapped in between must not be followed.
#[cfg(target_os = "linux")]
#[test]
fn a_file_or_directory_swapped_for_a_link_while_opening_never_leads_outside() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    let (_temp, dir) = empty_tree();
    create_dir(dir.join("x")).unwrap();
    file(&dir, "x/secret");
    file(&dir, "f");
    symlink("../out", dir.join("link_to_dir")).unwrap();
    symlink("../out/secret", dir.join("link_to_file")).unwrap();
    let swap = |one: &str, two: &str| renameat_with(CWD, dir.join(one), CWD, dir.join(two), RenameFlags::EXCHANGE);
    if swap("f", "link_to_file").and_then(|()| swap("f", "link_to_file")).is_err() {
        eprintln!("skipped: the host cannot exchange two files");
        return;
    }
    let done = AtomicBool::new(false);
    let leaked = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = (swap("x", "link_to_dir"), swap("f", "link_to_file"));
            }
        });
        let leaked = ways().into_iter().find(|(_, way)| {
            (0..20_000).any(|n| {
                let name = if n % 2 == 0 { "x/secret" } else { "f" };
                let mut content = String::new();
                let read =
                    way(&dir, Path::new(name), Purpose::Read).map(|mut found| found.file.read_to_string(&mut content));
                read.is_ok() && content == "secret"
            })
        });
        done.store(true, Ordering::Relaxed);
        leaked.map(|(way_name, _)| way_name)
    });
    assert_eq!(leaked, None);
}

/// Names made of a few components, so that random ones meet the files and links of a random tree.
fn name() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("a"),
        Just("d"),
        Just("d"),
        Just("d/d"),
        Just("l0"),
        Just("l1"),
        Just("l2"),
        Just("d/l3"),
        Just("l3"),
        Just(".."),
        Just("."),
        Just(""),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn all_ways_agree_on_random_links_and_names(
        targets in prop::collection::vec(name(), 4),
        names in prop::collection::vec(name(), 40),
    ) {
        let (_temp, dir) = empty_tree();
        create_dir_all(dir.join("d/d")).unwrap();
        for name in ["a", "d/a", "d/d/a"] {
            file(&dir, name);
        }
        for (link, target) in ["l0", "l1", "l2", "d/l3"].iter().zip(&targets) {
            // The host has no empty links.
            let target = if target.is_empty() { "d/a" } else { target };
            symlink(target, dir.join(link)).unwrap();
        }
        let (_, first) = ways()[0];
        for name in &names {
            let expected = outcome(first, &dir, name);
            for (way_name, way) in &ways()[1..] {
                prop_assert_eq!(outcome(*way, &dir, name), expected.clone(), "{:?} by {}, {:?}", name, way_name, targets);
            }
        }
    }
}
