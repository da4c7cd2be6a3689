//! Every call to the host fails once while a disk gets another name: the error says so, and all is as before, or the
//! disk has its new name and the error says that. Where the way back fails, too, the error says what is left.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use vmdk::{Directory, Error, ErrorKind, OpenOptions, Result, Storage, StorageId};

use super::judge::{DONE, Found};
use super::subject::{NEW, Subject, go_on};
use super::support::crash::CrashDisk;
use super::support::directory::FaultDirectory;
use super::support::index;
use super::support::rng::Rng;
use super::support::storage::{Countdown, EIO, ENOSPC, How, Operation};

/// What is there: which file each name leads to, and what is in it.
fn contents(disk: &CrashDisk) -> BTreeMap<String, Vec<u8>> {
    disk.names().into_iter().map(|name| (name.clone(), disk.live(&name))).collect()
}

/// Lets every call of a renaming fail, one a run; says how many runs there were.
#[track_caller]
fn every_call_fails(subject: &Subject) -> usize {
    let countdown = Arc::<Countdown>::default();
    subject.rename(&FaultDirectory::new(subject.disk(), &countdown)).unwrap();
    let calls = countdown.seen().len() as u64;
    for nth in 0..calls {
        for errno in if nth.is_multiple_of(3) { vec![EIO, ENOSPC] } else { vec![EIO] } {
            let (disk, countdown) = (subject.disk(), Arc::<Countdown>::default());
            countdown.arm(nth, How::Refused, errno);
            let done = subject.rename(&FaultDirectory::new(disk.clone(), &countdown));
            let struck = countdown.struck().expect("the same calls as in the first run");
            let what = format!("{}: {struck:?}", subject.what);
            let error = done.expect_err(&what);
            let found = subject.find(&disk).unwrap_or_else(|text| panic!("{what}: {text}: {error}"));
            if found == Found::New {
                assert!(error.to_string().contains("the disk has its new name"), "{what}: {error}");
            } else {
                let is_as_before = match found {
                    // A file whose sync has failed is not written again: nobody knows what a child looks for.
                    Found::Both => struck.operation == Operation::Sync && error.to_string().contains("as well"),
                    _ => subject.replaces || contents(&disk) == contents(&subject.disk()),
                };
                assert!(is_as_before, "{what}: {error}: there are {:?}", disk.names());
            }
            if errno == EIO {
                let seen = subject.judge(&disk);
                assert!(seen.broken.is_none(), "{what}: {}", seen.broken.unwrap_or_default());
            }
            finish(subject, &disk, &what);
        }
    }
    index(calls)
}

/// It is done at last.
#[track_caller]
fn finish(subject: &Subject, disk: &CrashDisk, what: &str) {
    match subject.rename(disk) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}"),
    }
    disk.mark(DONE);
    assert_eq!(subject.find(disk), Ok(Found::New), "{what}");
    subject.is_finished(disk).unwrap_or_else(|text| panic!("{what}: {text}"));
}

#[test]
fn a_renaming_that_fails_has_changed_nothing_or_says_that_it_is_done() {
    let runs: Vec<_> = Subject::small().iter().map(every_call_fails).collect();
    println!("{runs:?} runs");
    assert!(runs.iter().sum::<usize>() > 100, "{runs:?}");
}

#[test]
fn a_renaming_that_replaces_files_and_fails_leaves_the_disk() {
    for subject in Subject::small().into_iter().step_by(3) {
        every_call_fails(&Subject { replaces: true, ..subject });
    }
}

#[test]
fn a_renaming_that_is_stopped_has_changed_nothing() {
    for subject in Subject::small() {
        let mut calls = 0;
        for stop_at in 0.. {
            let disk = subject.disk();
            calls = 0;
            let done = OpenOptions::new().rename_in(subject.old(), NEW, &disk, &subject.rename_options(), &mut |now| {
                assert!(now.done <= now.total);
                calls += 1;
                if calls > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let Err(error) = done else { break };
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", subject.what);
            assert!(contents(&disk) == contents(&subject.disk()), "{}: {:?}", subject.what, disk.names());
            let seen = subject.judge(&disk);
            assert!(seen.broken.is_none(), "{}", seen.broken.unwrap_or_default());
        }
        assert!(calls >= subject.moved.len(), "{}: {calls}", subject.what);
    }
}

/// A directory in which nothing can be changed any more after so many changes.
struct Ending {
    inner: CrashDisk,
    left: AtomicUsize,
}

impl Ending {
    fn take(&self) -> Result<()> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| Error::new(ErrorKind::Io, "the directory is read-only by now"))
    }
}

impl Directory for Ending {
    fn exists(&self, name: &str) -> Result<bool> {
        self.inner.exists(name)
    }
    fn id_of(&self, name: &str) -> Result<Option<StorageId>> {
        self.inner.id_of(name)
    }
    fn claim(&self, name: &str) -> Result<Option<Arc<dyn Storage>>> {
        self.inner.claim(name)
    }
    fn create(&self, name: &str, becomes: &str) -> Result<Arc<dyn Storage>> {
        self.take().and_then(|()| self.inner.create(name, becomes))
    }
    fn rename(&self, name: &str, becomes: &str, replace: bool) -> Result<()> {
        self.take().and_then(|()| self.inner.rename(name, becomes, replace))
    }
    fn link(&self, name: &str, becomes: &str) -> Result<()> {
        self.take().and_then(|()| self.inner.link(name, becomes))
    }
    fn is_link(&self, name: &str, other: &str) -> Result<bool> {
        self.inner.is_link(name, other)
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.take().and_then(|()| self.inner.remove(name))
    }
    fn sync(&self) -> Result<()> {
        self.take().and_then(|()| Directory::sync(&self.inner))
    }
}

#[test]
fn what_cannot_be_undone_is_said_and_the_disk_is_there() {
    let mut left = 0;
    for subject in Subject::small() {
        let before = subject.disk().names();
        for changes in 0.. {
            let disk = subject.disk();
            let done = subject.rename(&Ending { inner: disk.clone(), left: AtomicUsize::new(changes) });
            let Err(error) = done else { break };
            let what = format!("{} with {changes} changes: {error}", subject.what);
            let found = subject.find(&disk).unwrap_or_else(|text| panic!("{what}: {text}"));
            if found == Found::New {
                assert!(error.to_string().contains("the disk has its new name"), "{what}");
            }
            for name in disk.names().into_iter().filter(|name| found != Found::New && !before.contains(name)) {
                assert!(error.to_string().contains(&name), "{what}: nothing is said of {name}");
                left += 1;
            }
            finish(&subject, &disk, &what);
        }
    }
    assert!(left > 20, "{left}");
}

/// The files of a disk change hands at random moments: what is somebody else's is never taken away.
#[test]
fn a_name_that_somebody_takes_meanwhile_is_his() {
    let rng = &mut Rng::new(8);
    for subject in Subject::small() {
        for (_, taken) in &subject.moved {
            for _ in 0..4 {
                let (disk, at) = (subject.disk(), rng.below(12));
                let calls = Arc::new(AtomicUsize::new(0));
                let other = disk.clone();
                let name = taken.clone();
                let directory = FaultDirectory::new(disk.clone(), &Arc::default()).before(move |_, _: &str| {
                    let is_time = calls.fetch_add(1, Ordering::Relaxed) as u64 == at;
                    if is_time && !other.exists(&name).unwrap() {
                        other.create(&name, &name).unwrap().write_all_at(b"somebody else's", 0).unwrap();
                    }
                });
                let done = subject.rename(&directory);
                let is_theirs = disk.names().contains(taken) && disk.live(taken) == b"somebody else's";
                assert_eq!(is_theirs, done.is_err(), "{}: {taken} at {at}", subject.what);
                if let Err(error) = done {
                    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}: {error}", subject.what);
                    disk.remove(taken).unwrap();
                    assert!(contents(&disk) == contents(&subject.disk()), "{}: {:?}", subject.what, disk.names());
                }
            }
        }
    }
}

/// Where a file has but one name, a disk in one file is renamed outright, and one of several files is refused.
#[test]
fn without_further_names_a_single_file_is_renamed_and_several_are_refused() {
    struct OneName(CrashDisk);
    impl Directory for OneName {
        fn exists(&self, name: &str) -> Result<bool> {
            self.0.exists(name)
        }
        fn claim(&self, name: &str) -> Result<Option<Arc<dyn Storage>>> {
            self.0.claim(name)
        }
        fn create(&self, name: &str, becomes: &str) -> Result<Arc<dyn Storage>> {
            self.0.create(name, becomes)
        }
        fn rename(&self, name: &str, becomes: &str, replace: bool) -> Result<()> {
            self.0.rename(name, becomes, replace)
        }
        fn remove(&self, name: &str) -> Result<()> {
            self.0.remove(name)
        }
        fn sync(&self) -> Result<()> {
            Directory::sync(&self.0)
        }
    }
    for subject in Subject::small() {
        let disk = subject.disk();
        let done = OpenOptions::new().rename_in(
            subject.old(),
            NEW,
            &OneName(disk.clone()),
            &subject.rename_options(),
            &mut go_on,
        );
        if subject.is_single() && subject.child.is_none() {
            done.unwrap();
            disk.mark(DONE);
            let seen = subject.judge(&disk);
            assert!(seen.broken.is_none(), "{}", seen.broken.unwrap_or_default());
            assert!(seen.found.contains(&Found::Old) && seen.found.contains(&Found::New), "{}", subject.what);
            continue;
        }
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Unsupported, "{}", subject.what);
        assert!(contents(&disk) == contents(&subject.disk()), "{}: {:?}", subject.what, disk.names());
    }
}

/// What a process that is killed leaves is not durable yet, and the next one has to make it so before it goes on.
#[test]
fn whenever_it_is_killed_the_next_call_ends_it_durably() {
    let mut states = 0;
    for subject in Subject::small() {
        let countdown = Arc::<Countdown>::default();
        subject.rename(&FaultDirectory::new(subject.disk(), &countdown)).unwrap();
        for nth in 0..countdown.seen().len() as u64 {
            let (disk, countdown) = (subject.disk(), Arc::<Countdown>::default());
            countdown.arm(nth, How::Killed, EIO);
            let killed = subject.rename(&FaultDirectory::new(disk.clone(), &countdown));
            let what = format!("{}: {:?}", subject.what, countdown.struck());
            assert!(killed.is_err(), "{what}");
            match subject.rename(&disk) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{what}: {error}"),
            }
            disk.mark(DONE);
            let seen = subject.judge(&disk);
            assert!(seen.broken.is_none(), "{what}: {}", seen.broken.unwrap_or_default());
            states += seen.states;
        }
    }
    assert!(states > 1000, "only {states} states");
}
