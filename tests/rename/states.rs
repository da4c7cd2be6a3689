//! Every state that a crash may leave while a disk gets another name, and every kind of disk afterwards.

use vmdk::{ErrorKind, OpenOptions, RenameOptions};

use super::judge::{DONE, Found};
use super::subject::{NEW, Subject, go_on};
use super::support::disk::Kind;

/// Renames a disk and looks at what crashes leave.
#[track_caller]
fn crash(subject: &Subject) -> usize {
    let disk = subject.disk();
    let report = subject.rename(&disk).unwrap_or_else(|error| panic!("{}: {error}", subject.what));
    disk.mark(DONE);
    let pairs: Vec<_> =
        report.files.iter().map(|file| (file.from.to_str().unwrap(), file.to.to_str().unwrap())).collect();
    let expected: Vec<_> =
        subject.moved.iter().filter(|(old, new)| old != new).map(|(old, new)| (&**old, &**new)).collect();
    assert_eq!(pairs, expected, "{}", subject.what);
    subject.is_finished(&disk).unwrap_or_else(|text| panic!("{}: {text}", subject.what));
    let seen = subject.judge(&disk);
    assert!(seen.broken.is_none(), "{}", seen.broken.unwrap_or_default());
    assert_eq!(seen.found, [Found::Old, Found::New, Found::Both].into(), "{}", subject.what);
    seen.states
}

#[test]
fn a_disk_is_there_by_one_name_or_the_other_whenever_the_power_goes() {
    let states: Vec<_> = Subject::small().iter().map(crash).collect();
    println!("{states:?} states");
    assert!(states.iter().sum::<usize>() > 100, "{states:?}");
}

#[test]
fn a_disk_that_replaces_files_is_there_by_one_name_or_the_other() {
    let replacing = |subject| crash(&Subject { replaces: true, ..subject });
    let states: Vec<_> = Subject::small().into_iter().map(replacing).collect();
    println!("{states:?} states");
}

#[test]
fn a_disk_of_any_created_type_is_there_by_one_name_or_the_other() {
    let states: Vec<_> = Subject::created().iter().map(crash).collect();
    println!("{states:?} states");
}

#[test]
fn a_disk_whose_files_have_odd_names_is_there_by_one_name_or_the_other() {
    let subject = Subject::with_odd_names();
    let disk = subject.disk();
    subject.rename(&disk).unwrap();
    subject.is_finished(&disk).unwrap();
    disk.mark(DONE);
    let seen = subject.judge(&disk);
    // What was left of odd names when the disk had its new one is not found again; nothing else may be wrong.
    let broken = seen.broken.unwrap_or_default();
    assert!(broken.is_empty() || broken.contains("asked for again, with New: there are"), "{broken}");
}

#[test]
fn every_kind_of_link_keeps_its_content_by_another_name() {
    for kind in Kind::ALL {
        for subject in Subject::of_kind(kind) {
            let disk = subject.disk();
            let report = subject.rename(&disk).unwrap_or_else(|error| panic!("{}: {error}", subject.what));
            assert_eq!(subject.find(&disk), Ok(Found::New), "{}", subject.what);
            subject.is_finished(&disk).unwrap_or_else(|text| panic!("{}: {text}", subject.what));
            assert_eq!(report.children.len(), subject.child.iter().len(), "{}", subject.what);
            assert!(report.kept.is_empty(), "{}: {:?}", subject.what, report.kept);
            // And back again.
            let back = subject.child.iter().fold(RenameOptions::new(), RenameOptions::child);
            OpenOptions::new().rename_in(NEW, subject.old(), &disk, &back, &mut go_on).unwrap();
            let there: Vec<String> = subject.files.keys().cloned().collect();
            assert_eq!(disk.names(), there, "{}", subject.what);
            for (name, bytes) in &subject.files {
                let is_text = subject.child.as_ref() == Some(name) || name == subject.old();
                assert!(is_text || disk.live(name) == *bytes, "{}: {name}", subject.what);
            }
        }
    }
}

#[test]
fn a_disk_that_is_there_already_is_replaced_only_if_that_is_asked_for() {
    for subject in Subject::small() {
        for (_, taken) in &subject.moved {
            let mut with = subject.files.clone();
            with.insert(taken.clone(), b"somebody else's".to_vec());
            let disk = vmdk_disk(&with);
            let before = disk.log_len();
            let error = subject.rename(&disk).unwrap_err();
            let what = format!("{}: {taken}: {error}", subject.what);
            assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{what}");
            assert_eq!((error.file().unwrap().to_str(), disk.log_len()), (Some(&**taken), before), "{what}");
            let replace = subject.rename_options().replace(true);
            OpenOptions::new().rename_in(subject.old(), NEW, &disk, &replace, &mut go_on).unwrap();
            disk.mark(DONE);
            assert_eq!(subject.find(&disk), Ok(Found::New), "{what}");
            subject.is_finished(&disk).unwrap_or_else(|text| panic!("{what}: {text}"));
        }
    }
}

fn vmdk_disk(files: &std::collections::BTreeMap<String, Vec<u8>>) -> super::support::crash::CrashDisk {
    super::support::crash::CrashDisk::new(files.iter().map(|(name, bytes)| (&**name, bytes.clone())))
}
