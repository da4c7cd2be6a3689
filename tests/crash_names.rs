//! The names on the disk that crashes, tested themselves: each rule of what a power cut may make of them, by hand. The
//! rules for what is in the files are in `crash_storage.rs`.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::BTreeSet;

use vmdk::{Directory, ErrorKind, Resolve};

use support::crash::choice::Choice;
use support::crash::point::CrashState;
use support::crash::{CrashDisk, DIRECTORY, NameChange};
use support::index;
use support::rng::Rng;

// ---- States as text -------------------------------------------------------------------------------------------------

/// A disk with a file for each name, in which the name is.
fn disk(names: &[&str]) -> CrashDisk {
    CrashDisk::new(names.iter().map(|name| (*name, name.as_bytes().to_vec())))
}

/// Makes a file with something in it, durable.
fn make(disk: &CrashDisk, name: &str, content: &str) {
    let file = disk.create(name, name).unwrap();
    file.write_all_at(content.as_bytes(), 0).unwrap();
    file.sync().unwrap();
}

/// Each name with what is in the file; where that is the name itself it is left out.
fn text(state: &CrashState) -> String {
    let file = |(name, bytes): &(String, Vec<u8>)| {
        let content = String::from_utf8(bytes.clone()).unwrap();
        if content == *name { content } else { format!("{name}={content}") }
    };
    state.files().iter().map(file).collect::<Vec<_>>().join(" ")
}

fn all() -> Choice {
    Choice::new(1).exhaustive_up_to(1 << 16)
}

fn states(disk: &CrashDisk, position: usize) -> BTreeSet<String> {
    let mut choice = all();
    let listed: Vec<String> = disk.states(position, &mut choice).map(|state| text(&state)).collect();
    assert_eq!(choice.sampled_points(), 0);
    let set: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(set.len(), listed.len(), "a state came twice: {listed:?}");
    set
}

/// The states after the whole log.
fn end_states(disk: &CrashDisk) -> BTreeSet<String> {
    states(disk, disk.log_len())
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

// ---- Changes --------------------------------------------------------------------------------------------------------

#[test]
fn each_unsynced_name_is_as_before_or_as_now_by_itself() {
    let disk = disk(&["a", "b"]);
    disk.remove("a").unwrap();
    make(&disk, "c", "c");
    assert_eq!(disk.names(), ["b", "c"]);
    assert_eq!(end_states(&disk), set(&["a b", "b", "a b c", "b c"]));
    disk.sync().unwrap();
    assert_eq!(end_states(&disk), set(&["b c"]));
}

#[test]
fn a_renamed_file_has_the_old_name_or_the_new_one_or_both() {
    let disk = disk(&["a"]);
    disk.rename("a", "b", false).unwrap();
    assert_eq!(disk.names(), ["b"]);
    assert_eq!(end_states(&disk), set(&["a", "a b=a", "b=a"]));
}

#[test]
fn what_a_rename_replaces_is_there_until_the_other_is() {
    let disk = disk(&["a", "b"]);
    disk.rename("a", "b", true).unwrap();
    assert_eq!(end_states(&disk), set(&["a b", "a b=a", "b=a"]));
}

#[test]
fn a_file_that_is_renamed_twice_is_never_lost() {
    let disk = disk(&["a"]);
    disk.rename("a", "b", false).unwrap();
    disk.rename("b", "c", false).unwrap();
    assert_eq!(end_states(&disk), set(&["a", "a b=a", "b=a", "a c=a", "a b=a c=a", "b=a c=a", "c=a"]));
}

#[test]
fn a_renamed_file_that_is_removed_then_may_be_lost() {
    let disk = disk(&["a"]);
    disk.rename("a", "b", false).unwrap();
    disk.remove("b").unwrap();
    assert_eq!(end_states(&disk), set(&["a", "a b=a", "b=a", ""]));
}

#[test]
fn a_name_may_be_as_any_of_its_changes_left_it() {
    let disk = disk(&["a"]);
    make(&disk, "b", "1");
    disk.remove("b").unwrap();
    make(&disk, "b", "2");
    assert_eq!(end_states(&disk), set(&["a", "a b=1", "a b=2"]));
}

#[test]
fn what_is_not_in_the_log_yet_has_not_happened() {
    let disk = disk(&["a"]);
    disk.rename("a", "b", false).unwrap();
    disk.sync().unwrap();
    disk.remove("b").unwrap();
    assert_eq!(disk.log_len(), 3);
    let expected = [set(&["a"]), set(&["a", "a b=a", "b=a"]), set(&["b=a"]), set(&["b=a", ""])];
    for (position, expected) in expected.into_iter().enumerate() {
        assert_eq!(states(&disk, position), expected, "position {position}");
    }
    let changes = [(0, NameChange::Rename("a".into(), "b".into())), (2, NameChange::Remove("b".into()))];
    assert_eq!(disk.name_changes(), changes);
    // Where a change comes next, the position after it says it all.
    assert_eq!(disk.positions(), [1, 3]);
}

#[test]
fn a_further_name_may_be_there_without_the_first_one_and_the_file_may_lose_both() {
    let disk = disk(&["a"]);
    disk.link("a", "b").unwrap();
    assert!(disk.is_link("a", "b").unwrap() && !disk.is_link("a", "a").unwrap() && !disk.is_link("a", "c").unwrap());
    assert_eq!(disk.link("a", "b").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(end_states(&disk), set(&["a", "a b=a"]));
    disk.remove("a").unwrap();
    assert_eq!(end_states(&disk), set(&["a", "a b=a", "b=a", ""]));
    disk.sync().unwrap();
    assert_eq!(end_states(&disk), set(&["b=a"]));
    disk.storage("b").write_all_at(b"c", 0).unwrap();
    disk.link("b", "a").unwrap();
    assert_eq!(disk.live("a"), b"c");
}

// ---- Syncs ----------------------------------------------------------------------------------------------------------

#[test]
fn a_sync_of_the_directory_is_not_one_of_the_files_nor_the_other_way_round() {
    let disk = disk(&[]);
    let file = disk.create("a", "a").unwrap();
    file.write_all_at(b"a", 0).unwrap();
    assert_eq!(end_states(&disk), set(&["", "a=", "a=\0", "a"]));
    disk.sync().unwrap();
    assert_eq!(end_states(&disk), set(&["a=", "a=\0", "a"]));
    file.sync().unwrap();
    assert_eq!(end_states(&disk), set(&["a"]));
    let syncs: Vec<_> = disk.syncs().into_iter().map(|(at, sync)| (at, sync.file, sync.number, sync.began)).collect();
    assert_eq!(syncs, [(2, DIRECTORY.to_owned(), 0, 2), (3, "a".to_owned(), 1, 3)]);
}

#[test]
fn a_change_during_a_sync_is_not_made_durable_by_it() {
    let disk = disk(&["a", "b"]);
    disk.remove("a").unwrap();
    let other = disk.clone();
    disk.during_sync(move |sync| {
        assert_eq!(sync.file, DIRECTORY);
        other.remove("b").unwrap();
    });
    disk.sync().unwrap();
    assert_eq!(end_states(&disk), set(&["b", ""]));
}

#[test]
fn an_ignored_sync_makes_nothing_durable_but_a_later_one_does() {
    let disk = disk(&["a"]);
    disk.rename("a", "b", false).unwrap();
    disk.sync().unwrap();
    make(&disk, "c", "c");
    disk.sync().unwrap();
    disk.ignore_sync(0);
    assert_eq!(states(&disk, 2), set(&["a", "a b=a", "b=a"]));
    assert_eq!(end_states(&disk), set(&["b=a c"]));
    disk.ignore_syncs(|sync| sync.file == DIRECTORY);
    assert_eq!(end_states(&disk).len(), 6);
    disk.ignore_no_sync();
    assert_eq!(states(&disk, 2), set(&["b=a"]));
}

#[test]
fn what_would_have_happened_in_another_order() {
    let disk = disk(&["a", "b"]);
    disk.rename("a", "c", false).unwrap();
    disk.sync().unwrap();
    make(&disk, "e", "e");
    disk.rename("b", "d", false).unwrap();
    disk.sync().unwrap();
    let earlier = disk.with_entry_earlier(5, 0);
    assert_eq!(earlier.name_changes()[0], (0, NameChange::Rename("b".into(), "d".into())));
    assert_eq!(states(&earlier, 1), set(&["a b", "a b d=b", "a d=b"]));
    assert_eq!((end_states(&earlier), earlier.log_len()), (end_states(&disk), disk.log_len()));
}

// ---- Files and names ------------------------------------------------------------------------------------------------

#[test]
fn a_file_with_two_names_is_one_file_after_the_crash() {
    let disk = disk(&["a"]);
    disk.rename("a", "b", false).unwrap();
    let both = disk.states(1, &mut all()).find(|state| state.names().count() == 2).unwrap();
    assert!(both.to_string().contains("\"b\" as of entry 0"), "{both}");
    let disk = both.restart();
    assert_eq!((disk.names(), disk.log_len()), (vec!["a".to_owned(), "b".to_owned()], 0));
    disk.storage("a").write_all_at(b"x", 0).unwrap();
    assert_eq!(disk.live("b"), b"x");
    assert_eq!(disk.storage("a").id(), disk.storage("b").id());
    disk.remove("a").unwrap();
    disk.sync().unwrap();
    assert_eq!(end_states(&disk), set(&["b=a", "b=x"]));
}

#[test]
fn what_is_in_a_file_counts_only_where_a_name_leads_to_it() {
    let disk = disk(&[]);
    let file = disk.create("a", "b").unwrap();
    file.write_all_at(&[b'x'; 2048], 0).unwrap();
    let mut choice = all();
    let unnamed = disk.states(2, &mut choice).filter(|state| state.names().count() == 0).count();
    // Lengths from 0 to 4 sectors, each sector of which is there or not.
    assert_eq!((unnamed, choice.distinct(), choice.repeated()), (1, 1 + 1 + 2 + 4 + 8 + 16, 0));
}

#[test]
fn a_directory_says_what_it_cannot_do_and_leaves_it() {
    let disk = disk(&["a", "b"]);
    let kind = |done: vmdk::Result<()>| done.unwrap_err().kind();
    assert_eq!(kind(disk.create("a", "c").map(drop)), ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.rename("a", "b", false)), ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.rename("c", "d", true)), ErrorKind::NotFound);
    assert_eq!(kind(disk.remove("c")), ErrorKind::NotFound);
    assert_eq!(kind(disk.resolve("c").map(drop)), ErrorKind::NotFound);
    assert!(disk.claim("c").unwrap().is_none() && !disk.exists("c").unwrap());
    assert_eq!((disk.log_len(), disk.names().len()), (0, 2));

    // An open file stays what it is, whatever becomes of its name.
    let file = disk.claim("a").unwrap().unwrap();
    assert_eq!(file.id(), disk.resolve("a").unwrap().id());
    disk.rename("a", "b", true).unwrap();
    disk.remove("b").unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(&byte, b"a");
}

// ---- Many -----------------------------------------------------------------------------------------------------------

/// Renames and makes files at random among few names, never over one another.
fn busy(rng: &mut Rng, steps: usize) -> CrashDisk {
    let disk = disk(&["a", "b", "c"]);
    let names = ["a", "b", "c", "d", "e", "f"];
    for step in 0..steps {
        let [one, other] = [(); 2].map(|()| names[index(rng.below(6))]);
        match (disk.exists(one).unwrap(), disk.exists(other).unwrap()) {
            (true, false) => disk.rename(one, other, false).unwrap(),
            (false, _) => make(&disk, one, &format!("new {step}")),
            _ if rng.chance(20) => Directory::sync(&disk).unwrap(),
            _ => {}
        }
    }
    disk
}

#[test]
fn random_renames_lose_no_file_in_any_state_and_samples_have_no_other_states() {
    let (mut states, mut sampled_points) = (0, 0);
    for seed in 0..40 {
        let disk = busy(&mut Rng::new(seed), 9);
        for position in disk.positions() {
            let mut choice = all();
            let whole: BTreeSet<String> = disk.states(position, &mut choice).map(|state| text(&state)).collect();
            for state in &whole {
                let contents: Vec<&str> =
                    state.split(' ').map(|file| file.split_once('=').map_or(file, |(_, content)| content)).collect();
                assert!(["a", "b", "c"].iter().all(|file| contents.contains(file)), "seed {seed}: {state}");
            }
            let mut few = Choice::new(seed).exhaustive_up_to(4).random(4);
            let sample: BTreeSet<String> = disk.states(position, &mut few).map(|state| text(&state)).collect();
            assert!(sample.is_subset(&whole), "seed {seed}: {sample:?}");
            states += whole.len();
            sampled_points += few.sampled_points();
        }
    }
    assert!(states > 1000 && sampled_points > 40, "{states} states, {sampled_points} sampled points");
}

#[test]
fn where_there_are_too_many_names_each_is_ahead_of_the_others_and_behind() {
    let disk = disk(&["z"]);
    for number in 0..20 {
        make(&disk, &format!("own{number}"), "new");
        disk.rename(&format!("own{number}"), &format!("file{number}"), false).unwrap();
    }
    let mut choice = Choice::new(1);
    let states: Vec<CrashState> = disk.states(disk.log_len(), &mut choice).collect();
    assert_eq!((choice.sampled_points(), choice.distinct()), (1, states.len()));
    let named = |state: &CrashState| state.names().filter(|name| name.starts_with("file")).count();
    for wanted in [0, 1, 10, 19, 20] {
        assert!(states.iter().any(|state| named(state) == wanted), "{wanted}");
    }
    for number in 0..20 {
        let name = format!("file{number}");
        let has = |state: &&CrashState| state.names().any(|other| other == name);
        assert!(states.iter().filter(has).any(|state| named(state) == 1), "{name} alone");
        assert!(states.iter().filter(|state| !has(state)).any(|state| named(state) == 19), "{name} missing");
    }
}
