//! Which of the states that a crash may leave are looked at: all of them if they are few, else a sample.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::rng::Rng;
use super::super::{SECTOR, index};
use super::names::NameChoice;
use super::point::{CrashState, FileAt, Point};

/// The bytes in a sector.
const LEN: u64 = SECTOR as u64;

/// The most lengths in the middle of an extension that a sample tries.
const SAMPLED_LENS: u64 = 16;

/// How many choices of names a sample has, if there are more.
const SAMPLED_NAMES: usize = 300;

/// Chooses states, and remembers which it has seen: it gives out none twice, whatever position they are from. Two
/// states are the same if the files and the marks are. What is right for one must be right for the other, so there has
/// to be a `Choice` for each history that a test knows.
#[derive(Debug)]
pub struct Choice {
    rng: Rng,
    exhaustive: u64,
    random: u64,
    singles: usize,
    metadata: Option<u64>,
    odd_lengths: bool,
    written_lengths: bool,
    seen: HashSet<u64>,
    repeated: usize,
    sampled: usize,
}

impl Choice {
    /// All states of a point that has no more than 256, else a sample. The sample has none and all of the changes, with
    /// all names if they are not too many; with the names of no crash and some others each changed sector alone and
    /// missing; each change alone and missing; the changes up to each one and from each one on; each file alone and
    /// missing; and 64 random ones. Everything follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            exhaustive: 256,
            random: 64,
            singles: usize::MAX,
            metadata: None,
            odd_lengths: false,
            written_lengths: false,
            seen: HashSet::new(),
            repeated: 0,
            sampled: 0,
        }
    }

    /// How many states a point may have for all of them to be looked at.
    #[must_use]
    pub fn exhaustive_up_to(mut self, states: u64) -> Self {
        self.exhaustive = states;
        self
    }

    /// How many random states a sample has.
    #[must_use]
    pub fn random(mut self, states: u64) -> Self {
        self.random = states;
        self
    }

    /// The most sectors of one change that a sample takes one by one: the first, the last, and random ones between
    /// them. Without this, all.
    #[must_use]
    pub fn singles_per_change(mut self, sectors: usize) -> Self {
        self.singles = sectors.max(2);
        self
    }

    /// A sample also has the changes below this offset of the files without the others, and the others without them.
    #[must_use]
    pub fn metadata_below(mut self, bytes: u64) -> Self {
        self.metadata = Some(bytes);
        self
    }

    /// Files may also come back with lengths that are nothing in particular: between two sectors, or between the ends
    /// of two writes. Without this, only lengths that are a multiple of a sector or that a change began or ended with.
    #[must_use]
    pub fn odd_lengths(mut self) -> Self {
        self.odd_lengths = true;
        self
    }

    /// Files only come back with lengths that a change began or ended with, or that end with a sector that was written.
    /// All others differ from one of these in nothing but zeros at the end.
    #[must_use]
    pub fn written_lengths(mut self) -> Self {
        self.written_lengths = true;
        self
    }

    /// The number of states given out, all different.
    pub fn distinct(&self) -> usize {
        self.seen.len()
    }

    /// How often a state came up that had been given out before.
    pub fn repeated(&self) -> usize {
        self.repeated
    }

    /// The number of points that had too many states to look at them all.
    pub fn sampled_points(&self) -> usize {
        self.sampled
    }

    fn picks(&mut self, point: &Arc<Point>) -> Box<dyn Iterator<Item = Pick>> {
        let mut rng = Rng::new(self.rng.next_u64());
        let lens: Vec<Lens> = point.files.iter().map(|file| self.lens(point, file, &mut rng)).collect();
        let most_names = index(self.exhaustive.min(1 << 20)).max(SAMPLED_NAMES);
        let all_names = point.names.all_choices(most_names);
        if let Some(names) = all_names.as_ref().filter(|names| self.is_small(point, &lens, names)) {
            let lens = lens.into_iter().map(|lens| lens.candidates).collect();
            return Box::new(exhaustive(Arc::clone(point), lens, names.clone()));
        }
        self.sampled += 1;
        let names = all_names.unwrap_or_else(|| point.names.some_choices(most_names, &mut rng));
        Box::new(Sample::new(self, point, lens, names, rng))
    }

    /// The lengths that a file may come back with.
    fn lens(&self, point: &Point, file: &FileAt, rng: &mut Rng) -> Lens {
        let (min, max) = file.len_range();
        let mut candidates = file.boundaries();
        let first = min.div_ceil(LEN);
        let count = max.div_ceil(LEN).saturating_sub(first);
        let complete = self.written_lengths || count <= self.exhaustive;
        if self.written_lengths {
            let ends = point.undecided_of(file).iter().map(|sector| (sector.number + 1) * LEN);
            candidates.extend(ends.filter(|end| (min..=max).contains(end)));
        } else if complete {
            candidates.extend((first..first + count).map(|sector| sector * LEN));
        } else {
            candidates.extend((0..SAMPLED_LENS).map(|_| (first + rng.below(count)) * LEN));
        }
        candidates.sort_unstable();
        candidates.dedup();
        if self.odd_lengths {
            let gaps: Vec<(u64, u64)> = candidates.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).collect();
            let odd = gaps.into_iter().filter(|(_, gap)| *gap > 1).map(|(start, gap)| start + 1 + rng.below(gap - 1));
            candidates.extend(odd);
            candidates.sort_unstable();
        }
        Lens { candidates, boundaries: file.boundaries(), live: file.live_len(), old: file.old_len(), complete }
    }

    /// Whether all the states can be looked at.
    fn is_small(&self, point: &Point, lens: &[Lens], names: &[NameChoice]) -> bool {
        let of_file = |(number, lens): (usize, &Lens)| {
            let sectors = || point.undecided.iter().filter(move |sector| sector.file == number);
            let states = |&len: &u64| {
                let mut sectors = sectors().take_while(|sector| sector.number * LEN < len);
                sectors.try_fold(1, |states: u64, sector| {
                    let states = states * sector.candidates.len() as u64;
                    (states <= self.exhaustive).then_some(states)
                })
            };
            let states = lens.candidates.iter().map(states).try_fold(0, |sum: u64, states| Some(sum + states?));
            states.filter(|_| lens.complete)
        };
        let files: Vec<Option<u64>> = lens.iter().enumerate().map(of_file).collect();
        let of_names = |names: &NameChoice| {
            let mut reached = (0..).zip(reached(point, names)).filter(|(_, reached)| *reached);
            reached.try_fold(1, |product: u64, (file, _): (usize, _)| product.checked_mul(files[file]?))
        };
        let sum = names.iter().map(of_names).try_fold(0, |sum: u64, states| sum.checked_add(states?));
        sum.is_some_and(|sum| sum <= self.exhaustive)
    }
}

/// For each file, whether a name leads to it.
fn reached(point: &Point, names: &[usize]) -> Vec<bool> {
    let mut reached = vec![false; point.files.len()];
    point.names.files(names).for_each(|(_, file)| reached[file] = true);
    reached
}

/// The lengths that a file may come back with.
#[derive(Debug)]
struct Lens {
    /// Those that are tried, in ascending order.
    candidates: Vec<u64>,
    /// Those among them that a change began or ended with.
    boundaries: Vec<u64>,
    live: u64,
    old: u64,
    complete: bool,
}

/// A decision.
#[derive(Clone, Debug)]
pub struct Pick {
    /// For each undecided sector, which of its candidates.
    pub candidates: Vec<usize>,
    /// For each file, its length.
    pub lens: Vec<u64>,
    /// The names.
    pub names: NameChoice,
    /// How it came about.
    pub why: Why,
}

/// What part of the undecided changes a state shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// One of all the states.
    Exhaustive,
    /// No change.
    Nothing,
    /// Every change.
    Everything,
    /// One content of one sector; by their places in [`Point::undecided`] and the candidates.
    Alone(usize, usize),
    /// Every change, but another content of one sector.
    Except(usize, usize),
    /// One change; by its place in [`Point::pending`].
    Change(usize),
    /// Every change but one.
    ButChange(usize),
    /// The changes before one.
    Before(usize),
    /// One change and those after it.
    From(usize),
    /// The changes of one file.
    File(usize),
    /// The changes of all files but one.
    ButFile(usize),
    /// The changes of the sectors below the limit for metadata.
    Metadata,
    /// The changes of the other sectors.
    ButMetadata,
    /// Random contents of random sectors.
    Random,
}

/// How long the files are in a state.
#[derive(Clone, Copy, Debug)]
enum Length {
    Live,
    Old,
    Random,
    /// One file has this length; the others are live.
    Of(usize, u64),
}

/// The states of one point, as a [`Choice`] chooses them.
pub struct States<'c> {
    point: Arc<Point>,
    picks: Box<dyn Iterator<Item = Pick>>,
    choice: &'c mut Choice,
}

impl<'c> States<'c> {
    pub(super) fn new(point: Arc<Point>, choice: &'c mut Choice) -> Self {
        Self { picks: choice.picks(&point), point, choice }
    }
}

impl Iterator for States<'_> {
    type Item = CrashState;

    fn next(&mut self) -> Option<CrashState> {
        loop {
            let pick = self.picks.next()?;
            if self.choice.seen.insert(self.point.digest(&pick)) {
                return Some(Arc::clone(&self.point).state(pick));
            }
            self.choice.repeated += 1;
        }
    }
}

/// Every state: for every choice of names and every combination of lengths, every content of every sector below them.
/// Of files without a name there is one.
fn exhaustive(point: Arc<Point>, lens: Vec<Vec<u64>>, names: Vec<NameChoice>) -> impl Iterator<Item = Pick> {
    names.into_iter().flat_map(move |names| {
        let (point, lens) = (Arc::clone(&point), lens.clone());
        let reached = reached(&point, &names);
        let counts = lens.iter().zip(&reached).map(|(lens, &reached)| if reached { lens.len() } else { 1 });
        Combinations::new(counts.collect()).flat_map(move |choice| {
            let lens: Vec<u64> = choice.iter().zip(&lens).map(|(&place, lens)| lens[place]).collect();
            let counts = point.undecided.iter().map(|sector| {
                let there = reached[sector.file] && sector.number * LEN < lens[sector.file];
                if there { sector.candidates.len() } else { 1 }
            });
            let names = names.clone();
            Combinations::new(counts.collect()).map(move |candidates| Pick {
                candidates,
                lens: lens.clone(),
                names: names.clone(),
                why: Why::Exhaustive,
            })
        })
    })
}

/// All sequences of digits, of which each has its own base.
struct Combinations {
    bases: Vec<usize>,
    next: Option<Vec<usize>>,
}

impl Combinations {
    fn new(bases: Vec<usize>) -> Self {
        Self { next: Some(vec![0; bases.len()]), bases }
    }
}

impl Iterator for Combinations {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let digits = self.next.take()?;
        if let Some(place) = (0..digits.len()).find(|&place| digits[place] + 1 < self.bases[place]) {
            let mut next = digits.clone();
            next[..place].fill(0);
            next[place] += 1;
            self.next = Some(next);
        }
        Some(digits)
    }
}

/// Some of the states.
struct Sample {
    point: Arc<Point>,
    lens: Vec<Lens>,
    names: Vec<NameChoice>,
    metadata: u64,
    /// With the names by their places.
    wanted: std::vec::IntoIter<(Why, Length, usize)>,
    rng: Rng,
}

impl Sample {
    fn new(choice: &Choice, point: &Arc<Point>, lens: Vec<Lens>, names: Vec<NameChoice>, mut rng: Rng) -> Self {
        let mut wholes = vec![Why::Nothing, Why::Everything];
        if choice.metadata.is_some() {
            wholes.extend([Why::Metadata, Why::ButMetadata]);
        }
        let mut parts = Vec::new();
        for change in 0..point.pending.len() {
            parts.extend([Why::Change(change), Why::ButChange(change), Why::Before(change), Why::From(change)]);
        }
        parts.extend((0..point.files.len()).flat_map(|file| [Why::File(file), Why::ButFile(file)]));

        let mut wanted = Vec::new();
        for why in wholes {
            wanted.extend([(why, Length::Live), (why, Length::Old)]);
            for (file, lens) in lens.iter().enumerate() {
                let ends = [lens.boundaries.first(), lens.boundaries.last()].into_iter().flatten();
                let some = (0..SAMPLED_LENS).map(|_| &lens.candidates[index(rng.below(lens.candidates.len() as u64))]);
                let tried = lens.boundaries.iter().take(2 * index(SAMPLED_LENS)).chain(ends).chain(some);
                wanted.extend(tried.map(|&len| (why, Length::Of(file, len))));
            }
        }
        let wholes = wanted.len();
        let undecided_len = lens.iter().any(|lens| lens.candidates.len() > 1);
        let lengths: &[Length] =
            if undecided_len { &[Length::Live, Length::Old, Length::Random] } else { &[Length::Live] };
        wanted.extend(parts.into_iter().flat_map(|why| lengths.iter().map(move |&length| (why, length))));
        for sector in singles(point, choice.singles, &mut rng) {
            let live = point.undecided[sector].live;
            for candidate in 0..point.undecided[sector].candidates.len() {
                if candidate != 0 {
                    wanted.push((Why::Alone(sector, candidate), Length::Live));
                }
                if candidate != live {
                    wanted.push((Why::Except(sector, candidate), Length::Live));
                }
            }
        }
        let random = [(Why::Random, Length::Live), (Why::Random, Length::Random)];
        wanted.extend(random.into_iter().cycle().take(index(choice.random)));
        let metadata = choice.metadata.unwrap_or(0);
        // None and all of the changes come with all names, others with those of no crash and some.
        let live = point.names.live();
        let live = names.iter().position(|names| *names == live).unwrap_or(0);
        let mut with_names = Vec::new();
        for (place, (why, length)) in wanted.into_iter().enumerate() {
            let some = if names.len() == 1 { vec![0] } else { vec![live, index(rng.below(names.len() as u64))] };
            let some = if place < wholes { (0..names.len()).collect() } else { some };
            with_names.extend(some.into_iter().map(|names| (why, length, names)));
        }
        Self { point: Arc::clone(point), lens, names, metadata, wanted: with_names.into_iter(), rng }
    }

    fn candidates(&mut self, why: Why) -> Vec<usize> {
        let Point { undecided, pending, .. } = &*self.point;
        let old = || vec![0; undecided.len()];
        let live = || undecided.iter().map(|sector| sector.live).collect::<Vec<_>>();
        let applied = |wanted: &dyn Fn(usize) -> bool| {
            let mut candidates = old();
            let changes = pending.iter().enumerate().filter(|(place, _)| wanted(*place));
            for &(sector, candidate) in changes.flat_map(|(_, change)| &change.sectors) {
                candidates[sector] = candidate;
            }
            candidates
        };
        let within = |wanted: bool| {
            let below = |number: u64| number * LEN < self.metadata;
            let chosen = undecided.iter().map(|sector| if below(sector.number) == wanted { sector.live } else { 0 });
            chosen.collect()
        };
        let one = |mut candidates: Vec<usize>, sector: usize, candidate| {
            candidates[sector] = candidate;
            candidates
        };
        match why {
            Why::Exhaustive | Why::Everything => live(),
            Why::Nothing => old(),
            Why::Alone(sector, candidate) => one(old(), sector, candidate),
            Why::Except(sector, candidate) => one(live(), sector, candidate),
            Why::Change(change) => applied(&|place| place == change),
            Why::ButChange(change) => applied(&|place| place != change),
            Why::Before(change) => applied(&|place| place < change),
            Why::From(change) => applied(&|place| place >= change),
            Why::File(file) => applied(&|place| pending[place].file == file),
            Why::ButFile(file) => applied(&|place| pending[place].file != file),
            Why::Metadata => within(true),
            Why::ButMetadata => within(false),
            Why::Random => random(&self.point, &mut self.rng),
        }
    }

    fn lens(&mut self, length: Length) -> Vec<u64> {
        let rng = &mut self.rng;
        let lens = self.lens.iter().enumerate().map(|(file, lens)| match length {
            Length::Old => lens.old,
            Length::Random => lens.candidates[index(rng.below(lens.candidates.len() as u64))],
            Length::Of(other, len) if other == file => len,
            Length::Live | Length::Of(..) => lens.live,
        });
        lens.collect()
    }
}

impl Iterator for Sample {
    type Item = Pick;

    fn next(&mut self) -> Option<Pick> {
        let (why, length, names) = self.wanted.next()?;
        let names = self.names[names].clone();
        Some(Pick { candidates: self.candidates(why), lens: self.lens(length), names, why })
    }
}

/// The sectors that are looked at one by one: no more than `most` of each change.
fn singles(point: &Point, most: usize, rng: &mut Rng) -> Vec<usize> {
    let mut singles = Vec::new();
    for change in &point.pending {
        let mut sectors: Vec<usize> = change.sectors.iter().map(|(sector, _)| *sector).collect();
        if let ([first, .., last], true) = (&sectors[..], sectors.len() > most) {
            let (first, last) = (*first, *last);
            rng.shuffle(&mut sectors);
            sectors.truncate(most - 2);
            sectors.extend([first, last]);
        }
        singles.extend(sectors);
    }
    singles.sort_unstable();
    singles.dedup();
    singles
}

/// Random contents: of each sector by itself, or by whole changes, or by whole changes with some sectors astray.
fn random(point: &Point, rng: &mut Rng) -> Vec<usize> {
    let mut candidates = vec![0; point.undecided.len()];
    let sort = rng.below(3);
    if sort > 0 {
        let percent = 10 + 20 * rng.below(5);
        for change in &point.pending {
            if rng.chance(percent) {
                change.sectors.iter().for_each(|&(sector, candidate)| candidates[sector] = candidate);
            }
        }
    }
    let astray = [100, 0, 5][index(sort)];
    for (sector, candidate) in point.undecided.iter().zip(&mut candidates) {
        if rng.chance(astray) {
            *candidate = index(rng.below(sector.candidates.len() as u64));
        }
    }
    candidates
}
