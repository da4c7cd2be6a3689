//! One point of the log: what is certain there, what is not, and the states that can come of it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::super::{SECTOR, index};
use super::choice::{Pick, Why};
use super::content::{Changed, Content, SectorBytes, mix};
use super::names::NamesAt;
use super::{Change, CrashDisk, Entry, File, Names, Operation, State, Synced};

/// The bytes in a sector.
const LEN: u64 = SECTOR as u64;

/// What a crash at one point of the log decides.
#[derive(Debug)]
pub struct Point {
    /// How much of the log there is.
    pub position: usize,
    /// The values of the marks in that part of the log.
    pub marks: Vec<u64>,
    /// The names.
    pub names: NamesAt,
    /// All files, also those that no name leads to.
    pub files: Vec<FileAt>,
    /// Sectors with more than one possible content, by file and place.
    pub undecided: Vec<Undecided>,
    /// The changes that are not certain to be durable, in the order of the log.
    pub pending: Vec<Pending>,
}

/// A file at a point of the log.
#[derive(Debug)]
pub struct FileAt {
    label: String,
    durable: Content,
    /// The lengths that it has had since it was durable, beginning with that one.
    lens: Vec<u64>,
    /// Where writes began.
    starts: Vec<u64>,
    /// Which of the undecided sectors are in it.
    undecided: Range<usize>,
}

impl FileAt {
    /// The durable length.
    pub fn old_len(&self) -> u64 {
        self.lens[0]
    }

    /// The length without a crash.
    pub fn live_len(&self) -> u64 {
        self.lens[self.lens.len() - 1]
    }

    /// The shortest and the longest that the file may come back.
    pub fn len_range(&self) -> (u64, u64) {
        let bounds = (self.lens.iter().min(), self.lens.iter().max());
        (*bounds.0.expect("the durable length"), *bounds.1.expect("the durable length"))
    }

    /// The lengths after each of the changes and before each of the writes, in ascending order.
    pub fn boundaries(&self) -> Vec<u64> {
        let (min, max) = self.len_range();
        let mut lens: Vec<u64> = self.lens.iter().chain(&self.starts).copied().collect();
        lens.retain(|len| (min..=max).contains(len));
        lens.sort_unstable();
        lens.dedup();
        lens
    }

    /// Works out the sum of the digests of the sectors at a length and with a choice of contents.
    fn sum(&self, len: u64, undecided: &[Undecided], candidates: &[usize]) -> u64 {
        let mut sum = self.durable.sum();
        if len < self.durable.len() {
            let mut cut = self.durable.clone();
            cut.set_len(len);
            sum = cut.sum();
        }
        for (sector, &candidate) in undecided[self.undecided.clone()].iter().zip(&candidates[self.undecided.clone()]) {
            let start = sector.number * LEN;
            if candidate > 0 && start < len {
                let shown = |bytes: &SectorBytes| match len - start {
                    LEN.. => bytes.digest_at(sector.number),
                    part => bytes.cut(index(part)).digest_at(sector.number),
                };
                let (old, new) = (shown(&sector.candidates[0]), shown(&sector.candidates[candidate]));
                sum = sum.wrapping_sub(old).wrapping_add(new);
            }
        }
        sum
    }
}

/// A sector with more than one possible content.
#[derive(Debug)]
pub struct Undecided {
    /// Its file.
    pub file: usize,
    /// Its number in the file.
    pub number: u64,
    /// What it may hold, all different. The first is the durable one.
    pub candidates: Vec<SectorBytes>,
    /// Which of them the file shows without a crash.
    pub live: usize,
}

/// A change that is not certain to be durable.
#[derive(Debug)]
pub struct Pending {
    /// Its place in the log.
    pub position: usize,
    /// Its file.
    pub file: usize,
    /// The undecided sectors that it changed, and which of the candidates it left there.
    pub sectors: Vec<(usize, usize)>,
}

impl Point {
    pub(super) fn new(state: &State, position: usize) -> Self {
        let log = &state.log[..position];
        let marks = log.iter().filter_map(|entry| match entry {
            Entry::Mark(value) => Some(*value),
            _ => None,
        });
        let mut point = Self {
            position,
            marks: marks.collect(),
            names: names_at(state, log),
            files: Vec::new(),
            undecided: Vec::new(),
            pending: Vec::new(),
        };
        for (file, known) in state.files.iter().enumerate() {
            point.add_file(file, known, state, log);
        }
        point.pending.sort_by_key(|pending| pending.position);
        point
    }

    fn add_file(&mut self, file: usize, known: &File, state: &State, log: &[Entry]) {
        let syncs = log.iter().filter_map(|entry| match entry {
            Entry::Sync(sync, Synced::File(other, content)) if *other == file && state.counts(sync) => {
                Some((sync.began, content))
            }
            _ => None,
        });
        // Of two syncs at the same time the one that began last says most, whichever returned first.
        let (began, durable) = syncs.max_by_key(|(began, _)| *began).unwrap_or((0, &known.start));
        let changes = (began..).zip(&log[began..]).filter_map(|(position, entry)| match entry {
            Entry::Change(change) if change.file == file => Some((position, change)),
            _ => None,
        });
        let durable = durable.flattened();
        let mut contents = Contents { durable: &durable, sectors: BTreeMap::new() };
        let (mut lens, mut starts, mut left) = (vec![durable.len()], Vec::new(), Vec::new());
        for (position, change) in changes {
            let Change { what, changed, len, .. } = &**change;
            if let Operation::Write(range) = what {
                starts.push(range.start);
            }
            lens.push(*len);
            left.push((position, contents.change(changed)));
        }
        let first = self.undecided.len();
        let mut places = BTreeMap::new();
        for (number, sector) in contents.sectors {
            if sector.candidates.len() > 1 {
                places.insert(number, self.undecided.len());
                self.undecided.push(Undecided { file, number, ..sector });
            }
        }
        for (position, sectors) in left {
            let undecided = |(number, candidate)| Some((*places.get(&number)?, candidate));
            self.pending.push(Pending { position, file, sectors: sectors.into_iter().filter_map(undecided).collect() });
        }
        let undecided = first..self.undecided.len();
        self.files.push(FileAt { label: known.label.clone(), durable, lens, starts, undecided });
    }

    /// The undecided sectors of a file.
    pub(super) fn undecided_of(&self, file: &FileAt) -> &[Undecided] {
        &self.undecided[file.undecided.clone()]
    }

    /// A number that tells one outcome from another, by what is in the files and by the marks.
    pub(super) fn digest(&self, pick: &Pick) -> u64 {
        let marks = self.marks.iter().fold(self.marks.len() as u64, |digest, mark| mix(digest ^ mix(*mark)));
        let of_file = |file: usize| {
            let len = pick.lens[file];
            mix(self.files[file].sum(len, &self.undecided, &pick.candidates) ^ mix(len))
        };
        mix(mix(marks) ^ self.names.digest(&pick.names, of_file))
    }

    /// The outcome itself.
    pub(super) fn state(self: Arc<Self>, pick: Pick) -> CrashState {
        let names: Names = self.names.files(&pick.names).map(|(name, file)| (name.name.clone(), file)).collect();
        let contents = names.values().map(|&file| (file, self.content(file, &pick))).collect();
        CrashState { names, contents, pick, point: self }
    }

    fn content(&self, file: usize, pick: &Pick) -> Content {
        let (at, len) = (&self.files[file], pick.lens[file]);
        let chosen = self.undecided[at.undecided.clone()].iter().zip(&pick.candidates[at.undecided.clone()]);
        let changed = chosen.filter(|(sector, candidate)| **candidate > 0 && sector.number * LEN < len);
        let sectors = changed.map(|(sector, candidate)| (sector.number, sector.candidates[*candidate].clone()));
        at.durable.with(len, sectors, at.sum(len, &self.undecided, &pick.candidates))
    }
}

/// The names after this part of the log.
fn names_at(state: &State, log: &[Entry]) -> NamesAt {
    let syncs = log.iter().filter_map(|entry| match entry {
        Entry::Sync(sync, Synced::Names(names)) if state.counts(sync) => Some((sync.began, &**names)),
        _ => None,
    });
    let (began, durable) = syncs.max_by_key(|(began, _)| *began).unwrap_or((0, &state.start_names));
    let changes = (began..).zip(&log[began..]).filter_map(|(position, entry)| match entry {
        Entry::Rename(rename) => Some((position, &**rename)),
        _ => None,
    });
    NamesAt::new(durable, changes)
}

/// What the sectors of a file may hold.
struct Contents<'d> {
    durable: &'d Content,
    sectors: BTreeMap<u64, Undecided>,
}

impl Contents<'_> {
    /// Adds what a change left behind. Answers which candidate that is, for every sector.
    fn change(&mut self, changed: &Changed) -> Vec<(u64, usize)> {
        let mut left: Vec<(u64, usize)> =
            changed.sectors.iter().map(|(number, bytes)| (*number, self.add(*number, bytes))).collect();
        // Of the zeros only those matter that replace something.
        let durable_end = self.durable.len().div_ceil(LEN).clamp(changed.zeroed.start, changed.zeroed.end);
        let mut zeroed: Vec<u64> = self.sectors.range(changed.zeroed.clone()).map(|(number, _)| *number).collect();
        zeroed.extend((changed.zeroed.start..durable_end).filter(|&number| !self.durable.sector(number).is_zero()));
        zeroed.sort_unstable();
        zeroed.dedup();
        left.extend(zeroed.into_iter().map(|number| (number, self.add(number, &SectorBytes::zero()))));
        left
    }

    fn add(&mut self, number: u64, bytes: &SectorBytes) -> usize {
        let sector = self.sectors.entry(number).or_insert_with(|| Undecided {
            file: 0,
            number,
            candidates: vec![self.durable.sector(number)],
            live: 0,
        });
        let known = sector.candidates.iter().position(|candidate| candidate == bytes);
        sector.live = known.unwrap_or_else(|| {
            sector.candidates.push(bytes.clone());
            sector.candidates.len() - 1
        });
        sector.live
    }
}

/// What a crash has left.
#[derive(Clone, Debug)]
pub struct CrashState {
    names: Names,
    contents: BTreeMap<usize, Content>,
    pick: Pick,
    point: Arc<Point>,
}

impl CrashState {
    /// How much of the log had happened.
    pub fn position(&self) -> usize {
        self.point.position
    }

    /// The values of the marks that were made before the crash, in their order.
    pub fn marks(&self) -> &[u64] {
        &self.point.marks
    }

    /// What part of the changes this state was built to show.
    pub fn why(&self) -> Why {
        self.pick.why
    }

    /// The names of all files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// What is in a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let file = self.names.get(name).unwrap_or_else(|| panic!("there is no file {name:?}"));
        self.contents[file].to_vec()
    }

    /// All files with their names.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.names.iter().map(|(name, file)| (name.clone(), self.contents[file].to_vec())).collect()
    }

    /// The computer is switched on again: a disk that holds this state, durable, and has an empty log. Each call makes
    /// another disk.
    pub fn restart(&self) -> CrashDisk {
        let places: Vec<usize> = self.contents.keys().copied().collect();
        let place_of = |file: &usize| places.iter().position(|other| other == file).expect("each file has a content");
        let names = self.names.iter().map(|(name, file)| (name.clone(), place_of(file)));
        let files = self.contents.iter();
        let files = files.map(|(file, content)| File::new(self.point.files[*file].label.clone(), content.clone()));
        CrashDisk::with_names(files, names.collect())
    }
}

/// For the messages of tests: what is not as it would be without the crash.
impl fmt::Display for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { contents, pick, point, .. } = self;
        write!(f, "crash after {} log entries, {:?}, marks {:?}", point.position, pick.why, point.marks)?;
        for (name, &changes) in point.names.names.iter().zip(&pick.names) {
            let label = |file: Option<usize>| file.map_or("nothing", |file| &point.files[file].label);
            match name.origin(changes) {
                Some(entry) => write!(f, "; {:?} as of entry {entry}: {}", name.name, label(name.files[changes]))?,
                None if name.files.len() > 1 => write!(f, "; {:?} is old: {}", name.name, label(name.files[0]))?,
                None => {}
            }
        }
        for (&number, content) in contents {
            let file = &point.files[number];
            let (len, live, old) = (content.len(), file.live_len(), file.old_len());
            write!(f, "; {:?} has {len} bytes (durable {old}, live {live})", file.label)?;
            let chosen = point.undecided.iter().zip(&pick.candidates);
            let mut lost = chosen.filter(|(sector, candidate)| sector.file == number && **candidate != sector.live);
            for (sector, candidate) in lost.by_ref().take(20) {
                write!(f, ", sector {} as of {}", sector.number, point.origin(number, sector.number, *candidate))?;
            }
            match lost.count() {
                0 => {}
                more => write!(f, " and {more} more")?,
            }
        }
        Ok(())
    }
}

impl Point {
    /// The entry of the log that an undecided sector has its content from.
    fn origin(&self, file: usize, number: u64, candidate: usize) -> String {
        let origin = self.pending.iter().find(|pending| {
            let sector =
                |(place, other): &(usize, usize)| self.undecided[*place].number == number && *other == candidate;
            pending.file == file && pending.sectors.iter().any(sector)
        });
        match origin {
            Some(pending) if candidate > 0 => format!("entry {}", pending.position),
            _ => "the last sync".to_owned(),
        }
    }
}
