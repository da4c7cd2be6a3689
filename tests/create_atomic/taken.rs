//! Names that somebody else has, before an image is made or meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vmdk::{Directory, Error, ErrorKind, Storage};

use super::judge::Found;
use super::operation::{ALL, Operation, SPLIT, Scene};
use super::support::crash::CrashDisk;
use super::support::directory::FaultDirectory;
use super::support::storage::{Countdown, Operation as Call};

/// What somebody else writes.
const OTHERS: &[u8] = b"somebody else's";

fn put(disk: &CrashDisk, name: &str) -> Arc<dyn Storage> {
    let file = disk.create(name, name).unwrap();
    file.write_all_at(OTHERS, 0).unwrap();
    file
}

/// Every type, those that are split with three extents.
fn operations() -> impl Iterator<Item = Operation> {
    ALL.iter().map(|create_type| Operation::empty(create_type, 2 * SPLIT + 1))
}

#[track_caller]
fn is_taken(error: &Error, name: &str, what: &str) {
    assert_eq!((error.kind(), error.file()), (ErrorKind::AlreadyExists, Some(Path::new(name))), "{what}: {error}");
}

#[test]
fn a_file_that_exists_is_named_and_nothing_is_touched() {
    let mut files = 0;
    for scene in operations().map(Scene::new) {
        for name in scene.operation.names() {
            let disk = scene.disk();
            put(&disk, name);
            let before = disk.log_len();
            is_taken(&scene.run(&disk).unwrap_err(), name, &scene.what());
            assert_eq!((disk.log_len(), disk.live(name)), (before, OTHERS.to_vec()), "{}: {name}", scene.what());
            files += 1;
        }
    }
    assert_eq!(files, 1 + 2 + 4 + 4 + 2 + 2);
}

#[test]
fn a_file_that_exists_is_replaced_if_that_is_asked_for_whatever_is_in_it() {
    for scene in operations().map(Scene::new) {
        for name in scene.operation.names() {
            let disk = scene.disk();
            put(&disk, name);
            scene.operation.run(&disk, true).unwrap();
            assert_eq!(scene.find(&disk, false), Ok(Found::New), "{}: {name}", scene.what());
        }
    }
}

/// Somebody takes a name right before the call of the directory with this number. Says whether he has got it.
#[track_caller]
fn somebody_takes(scene: &Scene, name: &str, nth: u64) -> bool {
    let disk = scene.disk();
    let before = disk.names();
    let (calls, theirs) = (AtomicU64::new(0), Arc::<Mutex<_>>::default());
    let taking = {
        let (disk, name, theirs) = (disk.clone(), name.to_owned(), Arc::clone(&theirs));
        move |_, _: &str| {
            let is_time = calls.fetch_add(1, Ordering::Relaxed) == nth;
            if is_time && !disk.exists(&name).unwrap() {
                *theirs.lock().unwrap() = Some(put(&disk, &name));
            }
        }
    };
    let made = scene.run(&FaultDirectory::new(disk.clone(), &Arc::<Countdown>::default()).before(taking));
    let what = format!("{}: {name} before call {nth}", scene.what());
    let Some(theirs) = theirs.lock().unwrap().take() else {
        made.expect(&what);
        assert_eq!(scene.find(&disk, false), Ok(Found::New), "{what}");
        return false;
    };
    is_taken(&made.expect_err(&what), name, &what);
    assert_eq!((disk.live(name), disk.storage(name).id()), (OTHERS.to_vec(), theirs.id()), "{what}");
    let mut expected = before;
    expected.push(name.to_owned());
    expected.sort_unstable();
    assert_eq!(disk.names(), expected, "{what}");
    true
}

#[test]
fn a_name_that_somebody_takes_meanwhile_is_his_and_nothing_else_is_left() {
    for scene in operations().map(Scene::new) {
        for name in scene.operation.names() {
            // Once our file has the name nobody else gets it.
            let got = (0..100).take_while(|&nth| somebody_takes(&scene, name, nth)).count();
            let files = scene.operation.names().len();
            assert!((2 * files + 1..100).contains(&got), "{}: {name}: only {got} times", scene.what());
        }
    }
}

/// Nobody has asked him whether he uses the file, as is done with those that are there from the beginning.
#[test]
fn what_comes_while_a_disk_is_made_is_not_replaced_by_it() {
    for scene in operations().map(Scene::new) {
        for name in scene.operation.names() {
            let disk = scene.disk();
            let taking = {
                let (disk, name) = (disk.clone(), name.to_owned());
                move |operation, _: &str| {
                    if operation == Call::Rename && !disk.exists(&name).unwrap() {
                        put(&disk, &name);
                    }
                }
            };
            let directory = FaultDirectory::new(disk.clone(), &Arc::<Countdown>::default()).before(taking);
            is_taken(&scene.operation.run(&directory, true).unwrap_err(), name, &scene.what());
            assert_eq!(disk.live(name), OTHERS, "{}: {name}", scene.what());
        }
    }
}
