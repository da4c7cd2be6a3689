//! The disk that crashes, tested itself: each rule of what a power cut may leave, by hand. The same rules at random are
//! in `crash_model.rs`.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::BTreeSet;
use std::io;

use vmdk::{BlockDevice, OpenOptions, Storage};

use support::check::check;
use support::crash::choice::{Choice, Why};
use support::crash::{CrashDisk, Operation};
use support::rng::Rng;
use support::sparse::SparseImage;
use support::{SECTOR, index};

const LEN: u64 = SECTOR as u64;

// ---- Contents as text -----------------------------------------------------------------------------------------------

/// A sector for each letter, full of it; a dot is for zeros.
fn bytes(letters: &str) -> Vec<u8> {
    let byte = |letter| if letter == b'.' { 0 } else { letter };
    letters.bytes().flat_map(|letter| [byte(letter); SECTOR]).collect()
}

/// The other way round. A sector that is not whole, or not the same all over, is in parentheses: each run of bytes with
/// its length.
fn text(bytes: &[u8]) -> String {
    let letter = |byte: u8| if byte == 0 { '.' } else { char::from(byte) };
    let sector = |sector: &[u8]| {
        let runs: Vec<&[u8]> = sector.chunk_by(|one, other| one == other).collect();
        match runs[..] {
            [run] if run.len() == SECTOR => letter(run[0]).to_string(),
            _ => {
                let runs: Vec<String> = runs.iter().map(|run| format!("{}{}", letter(run[0]), run.len())).collect();
                format!("({})", runs.concat())
            }
        }
    };
    bytes.chunks(SECTOR).map(sector).collect()
}

/// A disk with one file.
fn one_file(letters: &str) -> (CrashDisk, std::sync::Arc<dyn Storage>) {
    let disk = CrashDisk::new([("file", bytes(letters))]);
    let file = disk.storage("file");
    (disk, file)
}

/// Writes whole sectors.
fn write(file: &dyn Storage, sector: u64, letters: &str) {
    file.write_all_at(&bytes(letters), sector * LEN).unwrap();
}

fn all() -> Choice {
    Choice::new(1).exhaustive_up_to(1 << 16)
}

/// Every state at a position, the files one behind the other.
fn states(disk: &CrashDisk, position: usize) -> BTreeSet<String> {
    states_of(disk, position, &mut all())
}

fn states_of(disk: &CrashDisk, position: usize, choice: &mut Choice) -> BTreeSet<String> {
    let files = |state: support::crash::point::CrashState| {
        let files: Vec<String> = state.files().iter().map(|(_, bytes)| text(bytes)).collect();
        files.join("|")
    };
    let listed: Vec<String> = disk.states(position, choice).map(files).collect();
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

// ---- Sectors --------------------------------------------------------------------------------------------------------

#[test]
fn each_unsynced_sector_is_old_or_new_by_itself() {
    let (disk, file) = one_file("aaa");
    write(&*file, 0, "BB");
    write(&*file, 2, "C");
    let expected = ["aaa", "Baa", "aBa", "BBa", "aaC", "BaC", "aBC", "BBC"];
    assert_eq!(end_states(&disk), set(&expected));
}

#[test]
fn what_is_not_in_the_log_yet_has_not_happened() {
    let (disk, file) = one_file("aa");
    write(&*file, 0, "B");
    file.sync().unwrap();
    write(&*file, 1, "C");
    assert_eq!(disk.log_len(), 3);
    let expected = [set(&["aa"]), set(&["aa", "Ba"]), set(&["Ba"]), set(&["Ba", "BC"])];
    for (position, expected) in expected.into_iter().enumerate() {
        assert_eq!(states(&disk, position), expected, "position {position}");
    }
}

#[test]
fn of_overlapping_writes_any_one_is_there_sector_by_sector() {
    let (disk, file) = one_file("aaa");
    write(&*file, 0, "BB");
    write(&*file, 1, "CC");
    write(&*file, 1, "D");
    let mut expected = BTreeSet::new();
    for first in ["a", "B"] {
        for second in ["a", "B", "C", "D"] {
            for third in ["a", "C"] {
                expected.insert(format!("{first}{second}{third}"));
            }
        }
    }
    assert_eq!(end_states(&disk), expected);
}

#[test]
fn a_sector_written_as_it_was_is_not_undecided() {
    let (disk, file) = one_file("ab");
    write(&*file, 0, "ab");
    assert_eq!(end_states(&disk), set(&["ab"]));
    write(&*file, 0, "C");
    write(&*file, 0, "a");
    assert_eq!(end_states(&disk), set(&["ab", "Cb"]));
    assert_eq!(text(&disk.live("file")), "ab");
}

#[test]
fn a_write_to_a_part_counts_for_the_whole_sector_as_it_was_then() {
    let (disk, file) = one_file("a");
    file.write_all_at(&[b'B'; 100], 0).unwrap();
    file.write_all_at(&[b'C'; 12], 500).unwrap();
    // Never the C without the B: the second write took the sector as it found it.
    assert_eq!(end_states(&disk), set(&["a", "(B100a412)", "(B100a400C12)"]));
}

#[test]
fn a_write_across_a_boundary_may_be_torn_there_and_nowhere_else() {
    let (disk, file) = one_file("aa");
    file.write_all_at(&[b'B'; 20], LEN - 10).unwrap();
    assert_eq!(end_states(&disk), set(&["aa", "(a502B10)a", "a(B10a502)", "(a502B10)(B10a502)"]));
}

#[test]
fn a_hole_is_a_write_of_zeros() {
    let (disk, file) = one_file("aaaa");
    file.punch_hole(LEN - 2..3 * LEN).unwrap();
    write(&*file, 2, "B");
    assert_eq!(file.len().unwrap(), 4 * LEN);
    let mut expected = BTreeSet::new();
    for first in ["a", "(a510.2)"] {
        for second in ["a", "."] {
            for third in ["a", ".", "B"] {
                expected.insert(format!("{first}{second}{third}a"));
            }
        }
    }
    assert_eq!(end_states(&disk), expected);
}

#[test]
fn a_hole_ends_where_the_file_does() {
    let (disk, file) = one_file("aa");
    file.set_len(LEN + 5).unwrap();
    file.sync().unwrap();
    file.punch_hole(LEN..LEN * 9).unwrap();
    file.punch_hole(LEN * 3..LEN * 9).unwrap();
    assert_eq!(end_states(&disk), set(&["a(a5)", "a(.5)"]));
}

// ---- Lengths --------------------------------------------------------------------------------------------------------

#[test]
fn an_extension_comes_back_at_any_length_and_unwritten_bytes_are_zero() {
    let (disk, file) = one_file("a");
    write(&*file, 1, "BC");
    let expected = ["a", "a.", "aB", "a..", "aB.", "a.C", "aBC"];
    assert_eq!(end_states(&disk), set(&expected));

    let (disk, file) = one_file("a");
    file.set_len(3 * LEN).unwrap();
    assert_eq!(end_states(&disk), set(&["a", "a.", "a.."]));
}

#[test]
fn a_gap_before_a_write_reads_zero() {
    let (disk, file) = one_file("a");
    write(&*file, 2, "C");
    assert_eq!(end_states(&disk), set(&["a", "a.", "a..", "a.C"]));
}

#[test]
fn what_was_written_past_the_length_that_comes_back_is_lost_for_good() {
    let (disk, file) = one_file("a");
    write(&*file, 1, "BB");
    let short = disk.states(1, &mut all()).find(|state| text(&state.bytes("file")) == "aB").unwrap();
    let disk = short.restart();
    disk.storage("file").set_len(3 * LEN).unwrap();
    assert_eq!(text(&disk.live("file")), "aB.");
    assert_eq!(end_states(&disk), set(&["aB", "aB."]));
}

#[test]
fn a_length_is_between_two_sectors_where_the_ends_of_writes_are() {
    let (disk, file) = one_file("");
    file.write_all_at(&[b'B'; 700], 0).unwrap();
    file.write_all_at(&[b'C'; 10], 700).unwrap();
    // The second sector holds the first write, or both, or nothing; and is as long as one or the other.
    let mut expected = set(&["", ".", "B"]);
    for first in [".", "B"] {
        for second in ["(.188)", "(B188)", "(.198)", "(B188.10)", "(B188C10)"] {
            expected.insert(format!("{first}{second}"));
        }
    }
    assert_eq!(end_states(&disk), expected);
}

#[test]
fn odd_lengths_are_there_if_they_are_wanted() {
    let (disk, file) = one_file("a");
    write(&*file, 1, "BB");
    let lens: BTreeSet<usize> =
        disk.states(1, &mut all().odd_lengths()).map(|state| state.bytes("file").len()).collect();
    assert_eq!(lens.len(), 5, "{lens:?}");
    assert_eq!(lens.iter().filter(|len| !len.is_multiple_of(SECTOR)).count(), 2, "{lens:?}");
    assert!(lens.iter().all(|len| (SECTOR..=3 * SECTOR).contains(len)), "{lens:?}");
}

#[test]
fn a_cut_file_may_come_back_whole_and_if_it_grew_again_with_old_bytes_or_zeros() {
    let (disk, file) = one_file("abcd");
    file.set_len(LEN).unwrap();
    assert_eq!(end_states(&disk), set(&["a", "ab", "abc", "abcd"]));
    file.set_len(3 * LEN).unwrap();
    assert_eq!(text(&disk.live("file")), "a..");
    let expected = ["a", "ab", "a.", "abc", "a.c", "ab.", "a..", "abcd", "a.cd", "ab.d", "a..d"];
    assert_eq!(end_states(&disk), set(&expected));
    file.sync().unwrap();
    assert_eq!(end_states(&disk), set(&["a.."]));
}

#[test]
fn a_cut_within_a_sector_takes_the_rest_of_it_away() {
    let (disk, file) = one_file("a");
    file.set_len(100).unwrap();
    file.sync().unwrap();
    file.set_len(LEN).unwrap();
    assert_eq!(end_states(&disk), set(&["(a100)", "(a100.412)"]));
}

// ---- Syncs, marks, positions ----------------------------------------------------------------------------------------

#[test]
fn a_sync_is_for_its_own_file_and_for_what_came_before_it() {
    let disk = CrashDisk::new([("one", bytes("a")), ("two", bytes("b"))]);
    let (one, two) = (disk.storage("one"), disk.storage("two"));
    write(&*one, 0, "A");
    write(&*two, 0, "B");
    one.sync().unwrap();
    assert_eq!(end_states(&disk), set(&["A|b", "A|B"]));
    write(&*one, 0, "C");
    assert_eq!(end_states(&disk), set(&["A|b", "A|B", "C|b", "C|B"]));
    two.sync().unwrap();
    assert_eq!(end_states(&disk), set(&["A|B", "C|B"]));
    let numbers: Vec<_> = disk.syncs().into_iter().map(|(at, sync)| (at, sync.file, sync.number, sync.began)).collect();
    assert_eq!(numbers, [(2, "one".to_owned(), 0, 2), (4, "two".to_owned(), 1, 4)]);
}

#[test]
fn a_change_during_a_sync_is_not_made_durable_by_it() {
    let (disk, file) = one_file("ab");
    write(&*file, 0, "A");
    let other = disk.clone();
    disk.during_sync(move |sync| {
        assert_eq!((sync.number, sync.began), (0, 1));
        write(&*other.storage("file"), 1, "B");
    });
    file.sync().unwrap();
    // It is in the log before the sync, which began earlier.
    assert_eq!(disk.log_len(), 3);
    assert_eq!(end_states(&disk), set(&["Ab", "AB"]));
}

#[test]
fn marks_are_those_made_before_the_crash() {
    let (disk, file) = one_file("a");
    disk.mark(7);
    write(&*file, 0, "B");
    disk.mark(8);
    file.sync().unwrap();
    disk.mark(7);
    let marks = |position| {
        let marks: BTreeSet<Vec<u64>> = disk.states(position, &mut all()).map(|state| state.marks().to_vec()).collect();
        assert_eq!(marks.len(), 1);
        marks.into_iter().next().unwrap()
    };
    let expected: [&[u64]; 6] = [&[], &[7], &[7], &[7, 8], &[7, 8], &[7, 8, 7]];
    for (position, expected) in expected.into_iter().enumerate() {
        assert_eq!(marks(position), expected, "position {position}");
    }
    let mut seen = Vec::new();
    disk.each_state(&mut all(), |state| seen.push((state.position(), state.marks().len(), text(&state.bytes("file")))));
    // 1 and 4 say what 2 and 5 say, and 3 is as 2 with one mark more.
    let expected = [(0, 0, "a"), (2, 1, "a"), (2, 1, "B"), (3, 2, "a"), (3, 2, "B"), (5, 3, "B")];
    let expected = expected.map(|(position, marks, text)| (position, marks, text.to_owned()));
    assert_eq!(seen, expected);
}

#[test]
fn a_state_with_the_same_marks_comes_once_whatever_the_position() {
    let (disk, file) = one_file("aa");
    write(&*file, 0, "B");
    write(&*file, 1, "C");
    let mut choice = all();
    let counts: Vec<usize> = (0..=2).map(|position| disk.states(position, &mut choice).count()).collect();
    assert_eq!(counts, [1, 1, 2]);
    assert_eq!((choice.distinct(), choice.repeated(), choice.sampled_points()), (4, 3, 0));
    // The last position says it all.
    assert_eq!(disk.positions(), [2]);
    disk.mark(0);
    let counts: Vec<usize> = [2, 3].map(|position| disk.states(position, &mut choice).count()).into();
    assert_eq!(counts, [0, 4]);
}

#[test]
fn an_ignored_sync_makes_nothing_durable_but_a_later_one_does() {
    let (disk, file) = one_file("a");
    write(&*file, 0, "B");
    file.sync().unwrap();
    write(&*file, 0, "C");
    file.sync().unwrap();
    assert_eq!(states(&disk, 2), set(&["B"]));
    disk.ignore_sync(0);
    assert_eq!(states(&disk, 2), set(&["a", "B"]));
    assert_eq!(states(&disk, 3), set(&["a", "B", "C"]));
    assert_eq!(states(&disk, 4), set(&["C"]));
    disk.ignore_sync(1);
    assert_eq!(states(&disk, 2), set(&["B"]));
    assert_eq!(states(&disk, 4), set(&["B", "C"]));
    disk.ignore_syncs(|sync| sync.file == "file");
    assert_eq!(states(&disk, 4), set(&["a", "B", "C"]));
    disk.ignore_no_sync();
    assert_eq!(states(&disk, 4), set(&["C"]));
}

#[test]
fn a_restarted_disk_has_the_state_as_durable_content_and_crashes_again() {
    let disk = CrashDisk::new([("one", bytes("ab")), ("two", bytes("c"))]);
    let (one, two) = (disk.storage("one"), disk.storage("two"));
    write(&*one, 0, "AB");
    write(&*two, 1, "D");
    let mut again = 0;
    disk.each_state(&mut all(), |state| {
        let disk = state.restart();
        assert_eq!((disk.log_len(), disk.live("one")), (0, state.bytes("one")));
        assert_eq!(states(&disk, 0).len(), 1);
        assert_ne!(disk.storage("one").id(), one.id());
        write(&*disk.storage("one"), 0, "x");
        let old = format!("{}|{}", text(&state.bytes("one")), text(&state.bytes("two")));
        assert_eq!(end_states(&disk), set(&[&old, &format!("x{}", &old[1..])]));
        disk.storage("one").sync().unwrap();
        assert_eq!(end_states(&disk).len(), 1);
        again += 1;
    });
    assert_eq!(again, 12);
    assert_eq!(text(&disk.live("one")), "AB");
}

#[test]
fn lengths_may_be_those_of_what_was_written_only() {
    let (disk, file) = one_file("a");
    file.set_len(100 * LEN).unwrap();
    write(&*file, 4, "BC");
    let states = states_of(&disk, 2, &mut Choice::new(1).exhaustive_up_to(20).written_lengths());
    let rest = ".".repeat(94);
    let mut expected = set(&["a", "a...", "a....", "a...B", "a.....", "a...B.", "a....C", "a...BC"]);
    for data in ["..", "B.", ".C", "BC"] {
        expected.insert(format!("a...{data}{rest}"));
    }
    assert_eq!(states, expected);
}

#[test]
fn swapped_phases_are_each_others() {
    let (disk, file) = one_file("abc");
    write(&*file, 0, "A");
    file.sync().unwrap();
    disk.mark(1);
    file.write_all_at(b"B", LEN + 5).unwrap();
    disk.mark(2);
    file.sync().unwrap();
    write(&*file, 2, "C");
    file.set_len(4 * LEN).unwrap();
    file.sync().unwrap();
    disk.mark(3);
    let swapped = disk.with_phases_swapped(1);
    assert_eq!(swapped.live("file"), disk.live("file"));
    let changes: Vec<_> = swapped.changes().into_iter().map(|(_, _, what)| what).collect();
    let expected = [
        Operation::Write(0..LEN),
        Operation::Write(2 * LEN..3 * LEN),
        Operation::SetLen(4 * LEN),
        Operation::Write(LEN + 5..LEN + 6),
    ];
    assert_eq!(changes, expected);
    let numbers = |disk: &CrashDisk| disk.syncs().into_iter().map(|(at, sync)| (at, sync.number)).collect::<Vec<_>>();
    assert_eq!(numbers(&disk), [(1, 0), (5, 1), (8, 2)]);
    assert_eq!(numbers(&swapped), [(1, 0), (6, 1), (8, 2)]);
    // After the sync in the middle the second phase is durable, and the first has not begun.
    assert_eq!(states(&swapped, 8), set(&["AbC.", "A(b5B1b506)C."]));
}

// ---- Samples --------------------------------------------------------------------------------------------------------

/// 64 sectors of data that grow the file, then two sectors of tables, none synced.
fn big() -> CrashDisk {
    let (disk, file) = one_file("abcd");
    write(&*file, 4, &"D".repeat(64));
    write(&*file, 1, "TU");
    disk
}

#[test]
fn a_sample_has_none_and_all_and_each_sector_and_change_alone_and_missing() {
    let disk = big();
    let mut choice = Choice::new(5).metadata_below(4 * LEN);
    let states = states_of(&disk, 2, &mut choice);
    assert_eq!((choice.sampled_points(), choice.distinct()), (1, states.len()));
    let data = |data: &str| format!("aTUd{data}");
    let has = |wanted: &str| assert!(states.contains(wanted), "{wanted}");
    has("abcd");
    has(&data(&"D".repeat(64)));
    // Each change alone and missing. The tables without their data, and even without room for it.
    has(&format!("abcd{}", "D".repeat(64)));
    has(&data(&".".repeat(64)));
    has("aTUd");
    for sector in 0..64 {
        let (mut alone, mut missing) = (".".repeat(64), "D".repeat(64));
        alone.replace_range(sector..=sector, "D");
        missing.replace_range(sector..=sector, ".");
        has(&format!("abcd{alone}"));
        has(&data(&missing));
    }
    for tables in ["aTcd", "abUd"] {
        has(&format!("{tables}{}", ".".repeat(64)));
        has(&format!("{tables}{}", "D".repeat(64)));
    }
}

#[test]
fn a_sample_follows_from_its_seed_and_can_be_made_smaller() {
    let sample = |choice: &mut Choice| {
        let states: Vec<_> = big().states(2, choice).map(|state| (state.why(), state.files())).collect();
        states
    };
    assert_eq!(sample(&mut Choice::new(1)), sample(&mut Choice::new(1)));
    assert_ne!(sample(&mut Choice::new(1)), sample(&mut Choice::new(2)));
    let few = sample(&mut Choice::new(1).random(0).singles_per_change(4));
    let alone = few.iter().filter(|(why, _)| matches!(why, Why::Alone(..))).count();
    assert_eq!(alone, 6);
    assert!(few.iter().all(|(why, _)| *why != Why::Random));
}

#[test]
fn a_state_says_what_it_has_lost() {
    let disk = big();
    let state = disk.states(2, &mut Choice::new(1)).find(|state| state.why() == Why::Nothing).unwrap();
    let said = state.to_string();
    assert!(said.contains("Nothing") && said.contains("sector 1 as of the last sync"), "{said}");
}

// ---- As a file ------------------------------------------------------------------------------------------------------

#[test]
fn a_storage_behaves_as_a_file_does() {
    let (disk, file) = one_file("ab");
    let mut buf = [0; 4];
    file.read_exact_at(&mut buf, LEN - 2).unwrap();
    assert_eq!(&buf, b"aabb");
    for offset in [2 * LEN - 3, 2 * LEN, 9 * LEN, u64::MAX - 1] {
        let error = file.read_exact_at(&mut buf, offset).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "at {offset}");
    }
    assert_eq!(file.write_all_at(&buf, u64::MAX - 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(file.set_len(u64::MAX).unwrap_err().kind(), io::ErrorKind::FileTooLarge);

    // Nothing written is no change; two storages of a name are one file.
    file.write_all_at(&[], 9 * LEN).unwrap();
    assert_eq!((file.len().unwrap(), disk.log_len()), (2 * LEN, 0));
    write(&*disk.storage("file"), 4, "c");
    assert_eq!(text(&disk.live("file")), "ab..c");
    assert_eq!(file.id(), disk.storage("file").id());
    let two = CrashDisk::new([("one", Vec::new()), ("two", Vec::new())]);
    let ids: BTreeSet<_> = two.resolver().values().map(|file| file.id().unwrap().object).collect();
    assert_eq!(ids.len(), 2);

    assert_eq!(file.next_data(0).unwrap(), Some(0..2 * LEN));
    assert_eq!(file.next_data(700).unwrap(), Some(700..2 * LEN));
    assert_eq!(file.next_data(2 * LEN).unwrap(), Some(4 * LEN..5 * LEN));
    assert_eq!(file.next_data(5 * LEN).unwrap(), None);
    assert_eq!(file.allocated_len().unwrap(), 3 * LEN);
    file.punch_hole(0..LEN).unwrap();
    assert_eq!((file.next_data(0).unwrap(), file.allocated_len().unwrap()), (Some(LEN..2 * LEN), 2 * LEN));
    let changes: Vec<_> = disk.changes().into_iter().map(|(_, _, what)| what).collect();
    assert_eq!(changes, [Operation::Write(4 * LEN..5 * LEN), Operation::PunchHole(0..LEN)]);
}

#[test]
fn threads_share_a_disk() {
    let disk = CrashDisk::new([("one", bytes("........")), ("two", bytes("........"))]);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let file = disk.storage(if thread % 2 == 0 { "one" } else { "two" });
            scope.spawn(move || {
                for letter in ["A", "B", "C"] {
                    write(&*file, thread, letter);
                    file.sync().unwrap();
                }
            });
        }
    });
    assert_eq!(end_states(&disk), set(&["C.C.C.C.|.C.C.C.C"]));
    assert_eq!(disk.syncs().len(), 24);
}

// ---- What it is for -------------------------------------------------------------------------------------------------

/// Allocates a grain by hand in a hosted extent with one table: data, sync, both entries, sync; and notes both.
fn allocate(disk: &CrashDisk, extent: &SparseImage, grain: u64, letter: u8) {
    let (file, layout) = (disk.storage("disk"), extent.layout());
    let start = file.len().unwrap();
    file.write_all_at(&vec![letter; extent.grain_bytes()], start).unwrap();
    file.sync().unwrap();
    let entry = u32::try_from(start / LEN).unwrap().to_le_bytes();
    file.write_all_at(&entry, layout.entry(grain)).unwrap();
    file.write_all_at(&entry, layout.redundant_entry(grain)).unwrap();
    file.sync().unwrap();
    disk.mark(grain);
}

/// Opens every state of three allocations. Answers how many there were, and the problems that a guest has with them.
fn problems_of_a_guest(disk: &CrashDisk, extent: &SparseImage) -> (usize, BTreeSet<&'static str>) {
    let mut problems = BTreeSet::new();
    let mut choice = Choice::new(3).random(300).metadata_below(extent.layout().overhead * LEN);
    disk.each_state(&mut choice, |state| {
        let image = OpenOptions::new().open_with("disk", &state.restart().resolver()).unwrap();
        for grain in 0..3 {
            let mut buf = vec![0; extent.grain_bytes()];
            let read = image.read_sectors(grain * 8, &mut buf);
            let new = vec![b'A' + u8::try_from(grain).unwrap(); buf.len()];
            if read.is_err() {
                problems.insert("unreadable");
            } else if buf != new && buf.iter().any(|&byte| byte != 0) {
                problems.insert("garbage");
            } else if buf != new && state.marks().contains(&grain) {
                problems.insert("lost");
            }
        }
        if check(&state.bytes("disk")).problems.iter().any(|problem| !problem.is_difference()) {
            problems.insert("unsound");
        }
    });
    (choice.distinct(), problems)
}

#[test]
fn a_writer_that_syncs_passes_and_each_sync_that_is_dropped_is_noticed() {
    let extent = SparseImage::new(8 * 16).grain_sectors(8).entries_per_table(128);
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\
                RW 128 SPARSE \"disk\"\n";
    let extent = extent.descriptor(text);
    let disk = CrashDisk::new([("disk", extent.build())]);
    for grain in 0..3 {
        allocate(&disk, &extent, grain, b'A' + u8::try_from(grain).unwrap());
    }
    let (states, problems) = problems_of_a_guest(&disk, &extent);
    assert!(states > 250, "{states}");
    assert!(problems.is_empty(), "{problems:?}");
    for number in 0..6 {
        disk.ignore_sync(number);
        let (_, problems) = problems_of_a_guest(&disk, &extent);
        let expected = if number % 2 == 0 { ["garbage", "unsound"].as_slice() } else { &["lost"] };
        assert!(expected.iter().any(|expected| problems.contains(expected)), "sync {number}: {problems:?}");
    }
}

#[test]
fn ten_thousand_states_of_an_image_are_built_and_opened_in_a_moment() {
    let mut rng = Rng::new(9);
    let extent = SparseImage::new(8 * 64).grain_sectors(8).entries_per_table(128).descriptor(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\
         RW 512 SPARSE \"disk\"\n",
    );
    let extent = extent.random(&mut rng);
    let disk = CrashDisk::new([("disk", extent.build())]);
    let file = disk.storage("disk");
    let len = file.len().unwrap();
    for grain in 0..40 {
        file.write_all_at(&rng.bytes(8 * SECTOR), len + grain * 8 * LEN).unwrap();
    }
    let mut choice = Choice::new(4).random(12_000);
    let mut opened = 0;
    disk.each_state(&mut choice, |state| {
        let image = OpenOptions::new().open_with("disk", &state.restart().resolver()).unwrap();
        let mut buf = vec![0; index(image.capacity_sectors()) * SECTOR];
        image.read_sectors(0, &mut buf).unwrap();
        opened += usize::from(check(&state.bytes("disk")).problems.is_empty());
    });
    assert!(opened > 10_000, "{opened}");
    assert_eq!(opened, choice.distinct());
}
