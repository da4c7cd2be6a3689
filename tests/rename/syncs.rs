//! Without any one of its syncs a renaming breaks the promise, and the judge notices.

use super::judge::DONE;
use super::subject::{NEW, Subject};
use super::support::crash::{CrashDisk, DIRECTORY};

fn run(subject: &Subject) -> CrashDisk {
    let disk = subject.disk();
    subject.rename(&disk).unwrap();
    disk.mark(DONE);
    disk
}

#[test]
fn no_sync_can_be_left_out() {
    for subject in Subject::small() {
        let disk = run(&subject);
        let syncs: Vec<String> = disk.syncs().into_iter().map(|(_, sync)| sync.file).collect();
        for (number, file) in syncs.iter().enumerate() {
            disk.ignore_sync(number);
            let seen = subject.judge(&disk);
            assert!(seen.broken.is_some(), "{}: nobody needs sync {number}, of {file}, of {syncs:?}", subject.what);
        }
        disk.ignore_no_sync();
        assert!(subject.judge(&disk).broken.is_none());
    }
}

#[test]
fn the_directory_is_synced_after_each_step() {
    let syncs = |what: &str| {
        let subject = Subject::small().into_iter().find(|subject| subject.what.starts_with(what)).unwrap();
        run(&subject).syncs().into_iter().map(|(_, sync)| sync.file).collect::<Vec<_>>()
    };
    // The file with the new name in it, the new name, the old name gone.
    assert_eq!(syncs("a disk in one file"), ["disk.vmdk", DIRECTORY, DIRECTORY]);
    // The new descriptor; the names of extents, that of the descriptor, the old one gone, the old ones of extents gone.
    let several = ["disk.vmdk", DIRECTORY, DIRECTORY, DIRECTORY, DIRECTORY];
    assert_eq!(syncs("a flat disk"), several);
    assert_eq!(syncs("a split disk"), several);
}

#[test]
fn the_descriptor_has_to_get_its_name_after_the_extents_and_lose_it_before_them() {
    use super::support::crash::NameChange::{Link, Remove, Rename};
    for subject in Subject::small().into_iter().filter(|subject| !subject.is_single()) {
        let disk = run(&subject);
        let changes = disk.name_changes();
        let position = |wanted: &dyn Fn(&super::support::crash::NameChange) -> bool| {
            changes.iter().find(|(_, what)| wanted(what)).map(|(position, _)| *position).expect("it was done")
        };
        let named = position(&|what| matches!(what, Rename(_, name) | Link(_, name) if name == NEW));
        let syncs = disk.syncs();
        let parts_named = syncs.iter().find(|(_, sync)| sync.file == DIRECTORY).map(|(position, _)| *position);
        let early = disk.with_entry_earlier(named, parts_named.expect("the directory was synced"));
        assert!(subject.judge(&early).broken.is_some(), "{} with an early descriptor", subject.what);
        let head_gone = position(&|what| matches!(what, Remove(name) if name == subject.old()));
        let part_gone = position(&|what| matches!(what, Remove(name) if *name == subject.moved[1].0));
        let early = disk.with_entry_earlier(part_gone, head_gone);
        assert!(subject.judge(&early).broken.is_some(), "{} with a part that goes early", subject.what);
    }
}
