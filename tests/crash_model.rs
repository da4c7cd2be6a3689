//! The disk that crashes against a naive model of the rules, on random workloads: the same states where they are few,
//! and no other states where there are many.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a panic is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use vmdk::{MemoryStorage, Storage};

use support::crash::CrashDisk;
use support::crash::choice::Choice;
use support::rng::Rng;
use support::{SECTOR, index};

const LEN: u64 = SECTOR as u64;
const NAMES: [&str; 2] = ["one", "two"];

/// The contents of both files.
type Files = Vec<Vec<u8>>;

// ---- The model: copies of whole files -------------------------------------------------------------------------------

/// Something that happened to a file.
enum Step {
    Change { after: Vec<u8>, touched: BTreeSet<u64>, start: Option<u64> },
    Sync,
}

/// What happened, with the file.
struct History {
    start: Files,
    steps: Vec<(usize, Step)>,
}

/// What a file may be.
struct Possible {
    durable: Vec<u8>,
    /// Later contents of the sectors that were touched.
    sectors: BTreeMap<u64, BTreeSet<Vec<u8>>>,
    lens: Vec<u64>,
    starts: Vec<u64>,
}

impl History {
    fn possible(&self, file: usize, position: usize) -> Possible {
        let steps: Vec<&Step> =
            self.steps[..position].iter().filter(|(other, _)| *other == file).map(|(_, step)| step).collect();
        let synced = steps.iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |sync| sync + 1);
        let changes = |steps: &[&Step]| {
            let changes = steps.iter().filter_map(|step| match step {
                Step::Change { after, touched, start } => Some((after.clone(), touched.clone(), *start)),
                Step::Sync => None,
            });
            changes.collect::<Vec<_>>()
        };
        let durable = changes(&steps[..synced]).pop().map_or_else(|| self.start[file].clone(), |(after, ..)| after);
        let mut possible =
            Possible { lens: vec![durable.len() as u64], durable, sectors: BTreeMap::new(), starts: Vec::new() };
        for (after, touched, start) in changes(&steps[synced..]) {
            possible.lens.push(after.len() as u64);
            possible.starts.extend(start);
            for number in touched {
                possible.sectors.entry(number).or_default().insert(sector(&after, number));
            }
        }
        possible
    }
}

impl Possible {
    fn len_range(&self) -> std::ops::RangeInclusive<u64> {
        *self.lens.iter().min().unwrap()..=*self.lens.iter().max().unwrap()
    }

    fn allows(&self, bytes: &[u8]) -> bool {
        let mut sectors = (0..).zip(bytes.chunks(SECTOR));
        self.len_range().contains(&(bytes.len() as u64))
            && sectors.all(|(number, shown)| {
                let mut later = self.sectors.get(&number).into_iter().flatten();
                later.any(|later| later.starts_with(shown)) || sector(&self.durable, number).starts_with(shown)
            })
    }

    /// Every content, with the lengths that the choice tries.
    fn all(&self) -> BTreeSet<Vec<u8>> {
        let range = self.len_range();
        let boundaries = (0..=*range.end()).step_by(SECTOR);
        let lens: BTreeSet<u64> =
            self.lens.iter().chain(&self.starts).copied().chain(boundaries).filter(|len| range.contains(len)).collect();
        let longest = index(*range.end()).next_multiple_of(SECTOR);
        let mut contents = BTreeSet::from([{
            let mut durable = self.durable.clone();
            durable.resize(longest, 0);
            durable
        }]);
        for (&number, candidates) in &self.sectors {
            for content in contents.clone() {
                for candidate in candidates {
                    let mut content = content.clone();
                    content[index(number) * SECTOR..][..SECTOR].copy_from_slice(candidate);
                    contents.insert(content);
                }
            }
        }
        let cut = |content: &Vec<u8>| lens.iter().map(|&len| content[..index(len)].to_vec()).collect::<Vec<_>>();
        contents.iter().flat_map(cut).collect()
    }
}

/// A sector of a file; zeros where the file does not reach.
fn sector(bytes: &[u8], number: u64) -> Vec<u8> {
    let start = bytes.len().min(index(number) * SECTOR);
    let mut sector = bytes[start..bytes.len().min(start + SECTOR)].to_vec();
    sector.resize(SECTOR, 0);
    sector
}

// ---- Workloads ------------------------------------------------------------------------------------------------------

/// Does something random to a file of up to `sectors` sectors.
fn step(file: &dyn Storage, twin: &MemoryStorage, sectors: u64, rng: &mut Rng) -> Step {
    // Mostly whole sectors.
    let place = |rng: &mut Rng| match rng.below(4) {
        0 => rng.below(sectors * LEN),
        _ => rng.below(sectors) * LEN,
    };
    let (before, start) = (file.len().unwrap(), place(rng));
    let end = (start + 1 + place(rng)).next_multiple_of(if rng.chance(25) { 1 } else { LEN }).min(sectors * LEN);
    let sectors_of = |range: std::ops::Range<u64>| range.start / LEN..range.end.div_ceil(LEN);
    let mut touched = BTreeSet::new();
    let both: [&dyn Storage; 2] = [file, twin];
    let mut write_start = None;
    match rng.below(10) {
        0..5 => {
            let byte = [rng.below(4).to_le_bytes()[0]];
            let buf = byte.repeat(index(end - start));
            for file in both {
                file.write_all_at(&buf, start).unwrap();
            }
            touched.extend(sectors_of(start..end));
            // The gap; none of it is there if the file reaches as far as the write.
            touched.extend(before / LEN..start / LEN);
            write_start = Some(start);
        }
        5 | 6 => {
            for file in both {
                file.set_len(start).unwrap();
            }
            touched.extend(if before < start { sectors_of(before..start) } else { 0..0 });
        }
        7 => {
            for file in both {
                file.punch_hole(start..end).unwrap();
            }
            touched.extend(if start < before { sectors_of(start..end.min(before)) } else { 0..0 });
        }
        _ => {
            file.sync().unwrap();
            return Step::Sync;
        }
    }
    Step::Change { after: twin.to_vec(), touched, start: write_start }
}

/// A disk with a random history, and the model of it.
fn history(steps: usize, sectors: u64, rng: &mut Rng) -> (CrashDisk, History) {
    let start: Files = NAMES.map(|_| vec![b'a'; index(rng.below(sectors * LEN / 2))]).into();
    let disk = CrashDisk::new(NAMES.into_iter().zip(start.clone()));
    let twins: Vec<MemoryStorage> = start.iter().map(|bytes| MemoryStorage::new(bytes.clone())).collect();
    let mut history = History { start, steps: Vec::new() };
    for _ in 0..steps {
        let file = index(rng.below(2));
        let storage = disk.storage(NAMES[file]);
        history.steps.push((file, step(&*storage, &twins[file], sectors, rng)));
        compare(&*storage, &twins[file], rng);
    }
    assert_eq!(disk.log_len(), steps);
    (disk, history)
}

/// A storage shows what another does, also in parts.
fn compare(file: &dyn Storage, twin: &MemoryStorage, rng: &mut Rng) {
    let bytes = twin.to_vec();
    assert_eq!(file.len().unwrap(), bytes.len() as u64);
    let start = index(rng.below(bytes.len() as u64 + 1));
    let end = start + index(rng.below((bytes.len() - start) as u64 + 1));
    let mut buf = vec![0xee; end - start];
    file.read_exact_at(&mut buf, start as u64).unwrap();
    assert_eq!(buf, bytes[start..end]);
    // Whatever is said not to be data is zero.
    let mut at = 0;
    while let Some(data) = file.next_data(at).unwrap() {
        assert!(data.start >= at && data.end > at && data.end <= bytes.len() as u64, "{data:?} from {at}");
        assert!(bytes[index(at)..index(data.start)].iter().all(|&byte| byte == 0));
        at = data.end;
    }
    assert!(bytes[index(at)..].iter().all(|&byte| byte == 0));
}

fn contents(files: Vec<(String, Vec<u8>)>) -> Files {
    files.into_iter().map(|(_, bytes)| bytes).collect()
}

// ---- Tests ----------------------------------------------------------------------------------------------------------

#[test]
fn random_workloads_leave_exactly_the_states_of_the_model() {
    let (mut states, mut points) = (0, 0);
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let (disk, history) = history(5, 3, &mut rng);
        for position in 0..=disk.log_len() {
            let possible = [0, 1].map(|file| history.possible(file, position).all());
            let mut expected = BTreeSet::new();
            for one in &possible[0] {
                expected.extend(possible[1].iter().map(|two| vec![one.clone(), two.clone()]));
            }
            let mut choice = Choice::new(seed).exhaustive_up_to(1 << 20);
            let built: BTreeSet<Files> =
                disk.states(position, &mut choice).map(|state| contents(state.files())).collect();
            assert_eq!(choice.sampled_points(), 0);
            assert_eq!(choice.distinct(), built.len(), "two states have one digest, or the other way round");
            assert!(built == expected, "seed {seed}, position {position}: {} and {}", built.len(), expected.len());
            (states, points) = (states + built.len(), points + 1);
        }
    }
    assert!(points == 2400 && states > 10_000, "{states} states of {points} points");
}

#[test]
fn samples_of_random_workloads_have_no_state_that_the_model_does_not_allow() {
    let mut sampled = 0;
    for seed in 0..20 {
        let mut rng = Rng::new(1000 + seed);
        let (disk, history) = history(40, 24, &mut rng);
        let mut choice = Choice::new(seed).random(40).metadata_below(8 * LEN);
        if rng.chance(50) {
            choice = choice.odd_lengths();
        }
        for position in (0..=disk.log_len()).step_by(3) {
            let possible = [0, 1].map(|file| history.possible(file, position));
            for state in disk.states(position, &mut choice) {
                let files = contents(state.files());
                for (possible, bytes) in possible.iter().zip(&files) {
                    assert!(possible.allows(bytes), "seed {seed}: {state}");
                }
                let disk = state.restart();
                assert_eq!(NAMES.map(|name| disk.live(name)), *files);
            }
        }
        sampled += choice.sampled_points();
    }
    assert!(sampled > 100, "{sampled}");
}
