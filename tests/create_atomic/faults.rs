//! Every call to the host fails once while an image is made: the error says so, nothing of the new image is left, and
//! what was there before is there still, unless its replacement had begun.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use vmdk::{CreateType, ErrorKind, StorageId};

use super::judge::Found;
use super::operation::{ALL, Operation, SPLIT, Scene, content};
use super::support::crash::{CrashDisk, NameChange};
use super::support::directory::FaultDirectory;
use super::support::storage::{self, Countdown, EIO, ENOSPC, How, Struck};

/// How a call fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    nth: u64,
    how: How,
    errno: i32,
}

/// Lets every call of an operation fail, one a run. Says how many runs there were.
#[track_caller]
fn every_call_fails(scene: &Scene) -> usize {
    use storage::Operation::{Create, Rename, SetLen, Write};
    let countdown = Arc::default();
    scene.run(&FaultDirectory::new(scene.disk(), &countdown)).unwrap();
    let mut runs = 0;
    for (nth, call) in (0..).zip(countdown.seen()) {
        let more: &[_] = match call {
            Write | SetLen => &[(How::Refused, ENOSPC), (How::Short, ENOSPC)],
            Create | Rename | storage::Operation::Sync => &[(How::Refused, ENOSPC)],
            _ => &[],
        };
        if let Some(disk) = one_call_fails(scene, Fault { nth, how: How::Refused, errno: EIO }) {
            crashes_then(scene, &disk);
        }
        for &(how, errno) in more {
            one_call_fails(scene, Fault { nth, how, errno });
        }
        runs += 1 + more.len();
    }
    runs
}

/// What is there: which file each name leads to, and what is in it.
fn contents(disk: &CrashDisk) -> BTreeMap<String, (Option<StorageId>, Vec<u8>)> {
    let content = |name: String| {
        let content = (disk.storage(&name).id(), disk.live(&name));
        (name, content)
    };
    disk.names().into_iter().map(content).collect()
}

/// The names that have been taken away or given to other files.
fn changed_names(disk: &CrashDisk) -> Vec<String> {
    let changed = disk.name_changes().into_iter().map(|(_, what)| match what {
        NameChange::Create(name, _)
        | NameChange::Rename(_, name)
        | NameChange::Link(_, name)
        | NameChange::Remove(name) => name,
    });
    changed.collect()
}

/// What is left. There is nothing to look at if the call was one that may fail without harm.
#[track_caller]
fn one_call_fails(scene: &Scene, fault: Fault) -> Option<CrashDisk> {
    let (disk, countdown) = (scene.disk(), Arc::<Countdown>::default());
    let before = contents(&disk);
    countdown.arm(fault.nth, fault.how, fault.errno);
    let done = scene.run(&FaultDirectory::new(disk.clone(), &countdown));
    let struck = countdown.struck().expect("the same calls as in the first run");
    let what = format!("{}: {fault:?}: {struck:?}", scene.what());
    let Err(error) = done else {
        // A growth ahead of what is written, for which there was no space.
        let is_growth = struck.operation == storage::Operation::SetLen && !scene.operation.made.content.is_empty();
        assert!(is_growth, "{what}: a failure that nobody was told of");
        assert_eq!(scene.find(&disk, false), Ok(Found::New), "{what}");
        return None;
    };
    is_the_hosts(error, fault, &struck, &what);
    let changed = changed_names(&disk);
    if scene.old.is_some() && scene.find(&disk, false) == Ok(Found::New) {
        // What it has replaced is gone: nothing is left to do but to say that its names may not be durable.
        assert_eq!(struck.operation, storage::Operation::SyncNames, "{what}");
        let others = contents(&disk).into_iter().filter(|(name, _)| !changed.contains(name));
        let expected = before.into_iter().filter(|(name, _)| !changed.contains(name));
        assert!(others.eq(expected), "{what}: there are {:?}", disk.names());
        return Some(disk);
    }
    // What was in the way of the new image may be gone by now, but only that.
    let expected: BTreeMap<_, _> = before.into_iter().filter(|(name, _)| !changed.contains(name)).collect();
    assert!(contents(&disk) == expected, "{what}: there are {:?}", disk.names());
    Some(disk)
}

/// The error is that of the host, and about the file that was being made.
#[track_caller]
fn is_the_hosts(error: vmdk::Error, fault: Fault, struck: &Struck, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Io, "{what}: {error}");
    if struck.operation != storage::Operation::SyncNames {
        assert_eq!(error.file(), Some(Path::new(&struck.storage)), "{what}: {error}");
    }
    let is_full = io::Error::from(error).kind() == io::ErrorKind::StorageFull;
    assert_eq!(is_full, fault.errno == ENOSPC, "{what}");
}

/// The power fails after that, or the image is made at last.
#[track_caller]
fn crashes_then(scene: &Scene, disk: &CrashDisk) {
    let seen = scene.judge_failed(disk);
    let what = format!("{} that has failed after {:?}", scene.what(), disk.name_changes());
    assert!(seen.first.is_none(), "{what}: {}", seen.first.as_deref().unwrap_or_default());
    if let Some(old) = &scene.old {
        let changed = changed_names(disk);
        let is_as_before = !old.files.iter().any(|(name, _)| changed.contains(name));
        assert!(!is_as_before || seen.found == [Found::Old].into(), "{what}: {:?}", seen.found);
    }
    scene.run(disk).expect(&what);
    assert_eq!(scene.find(disk, false), Ok(Found::New), "{what}");
}

/// An operation where there is nothing, and where there is an image of its own and of another type.
#[track_caller]
fn fails_everywhere(operation: impl Fn() -> Operation, least: usize) {
    let own = operation().made.create_type.clone();
    let other = if own == CreateType::MonolithicSparse { CreateType::Vmfs } else { CreateType::MonolithicSparse };
    let mut runs = every_call_fails(&Scene::new(operation()));
    for old in [own, other] {
        runs += every_call_fails(&Scene::replacing(operation(), &old));
    }
    println!("{runs} failures");
    assert!(runs >= least, "only {runs} failures");
}

#[test]
fn a_sparse_disk_whose_making_fails_leaves_nothing() {
    fails_everywhere(|| Operation::empty(&CreateType::MonolithicSparse, 20_480), 50);
}

#[test]
fn a_flat_disk_whose_making_fails_leaves_nothing() {
    fails_everywhere(|| Operation::empty(&CreateType::MonolithicFlat, 20_480), 60);
}

#[test]
fn a_preallocated_disk_whose_making_fails_leaves_nothing() {
    let disk = || Operation::empty(&CreateType::MonolithicFlat, 500).with(|options| options.preallocate(true));
    fails_everywhere(disk, 80);
}

#[test]
fn a_split_sparse_disk_whose_making_fails_leaves_nothing() {
    fails_everywhere(|| Operation::empty(&CreateType::TwoGbMaxExtentSparse, SPLIT + 1), 130);
}

#[test]
fn a_split_flat_disk_whose_making_fails_leaves_nothing() {
    fails_everywhere(|| Operation::empty(&CreateType::TwoGbMaxExtentFlat, SPLIT + 1), 80);
}

#[test]
fn a_disk_of_vmfs_whose_making_fails_leaves_nothing() {
    fails_everywhere(|| Operation::empty(&CreateType::Vmfs, 20_480), 60);
}

#[test]
fn a_delta_without_a_parent_whose_making_fails_leaves_nothing() {
    fails_everywhere(|| Operation::empty(&CreateType::VmfsSparse, 20_480), 70);
}

#[test]
fn every_call_of_a_directory_and_of_files_is_one_that_fails() {
    use storage::Operation::{Claim, Create, Exists, Remove, Rename, SetLen, Sync, SyncNames, Write};
    let mut seen = Vec::new();
    for create_type in &ALL {
        for scene in [
            Scene::new(Operation::empty(create_type, 99)),
            Scene::replacing(Operation::empty(create_type, 99), create_type),
        ] {
            let countdown = Arc::<Countdown>::default();
            scene.run(&FaultDirectory::new(scene.disk(), &countdown)).unwrap();
            seen.extend(countdown.seen());
        }
    }
    for call in [Claim, Create, Exists, Remove, Rename, SetLen, Sync, SyncNames, Write] {
        assert!(seen.contains(&call), "{call:?}");
    }
}

#[test]
fn a_disk_with_content_whose_making_fails_leaves_nothing() {
    for create_type in [CreateType::MonolithicSparse, CreateType::TwoGbMaxExtentFlat, CreateType::VmfsSparse] {
        fails_everywhere(|| Operation::filled(&create_type, 200, content()), 80);
    }
}

#[test]
fn a_child_whose_making_fails_leaves_nothing() {
    for create_type in [CreateType::MonolithicSparse, CreateType::TwoGbMaxExtentSparse, CreateType::VmfsSparse] {
        fails_everywhere(|| Operation::child(&create_type, content()), 60);
    }
}

#[test]
fn a_stream_whose_making_fails_leaves_nothing() {
    fails_everywhere(|| Operation::empty(&CreateType::StreamOptimized, 20_480), 20);
    fails_everywhere(|| Operation::filled(&CreateType::StreamOptimized, 200, content()), 20);
}
