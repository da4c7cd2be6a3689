//! The names at a point of the log, and what a crash may make of them.

use std::collections::BTreeSet;

use super::super::index;
use super::super::rng::Rng;
use super::content::mix;
use super::{Names, Rename};

/// How many of the changes of each name a crash has left, in the order of [`NamesAt::names`].
pub type NameChoice = Vec<usize>;

/// The names that there are or may be.
#[derive(Debug, Default)]
pub struct NamesAt {
    /// In alphabetical order.
    pub names: Vec<NameAt>,
    renames: Vec<Moved>,
    /// Where the changes stand in the log that are not certain to be durable.
    positions: Vec<usize>,
}

/// A name at a point of the log.
#[derive(Debug)]
pub struct NameAt {
    /// The name.
    pub name: String,
    /// What it has led to since it was durable, beginning with that.
    pub files: Vec<Option<usize>>,
    /// Where the changes stand in the log.
    positions: Vec<usize>,
    digest: u64,
}

/// A file that has got another name: as long as that is not there, the old one is. Names by their places, with the
/// number of changes that include this one.
#[derive(Debug)]
struct Moved {
    old: (usize, usize),
    new: (usize, usize),
}

impl NamesAt {
    pub(super) fn new<'r>(durable: &Names, changes: impl Iterator<Item = (usize, &'r Rename)>) -> Self {
        let changes: Vec<(usize, &Rename)> = changes.collect();
        let known = changes.iter().flat_map(|(_, rename)| &rename.changed).map(|(name, _)| name);
        let all: BTreeSet<&String> = durable.keys().chain(known).collect();
        let mut names: Vec<NameAt> =
            all.into_iter().map(|name| NameAt::new(name, durable.get(name).copied())).collect();
        let mut renames = Vec::new();
        for (position, rename) in &changes {
            let places = rename.changed.iter().map(|(name, file)| {
                let place = names.iter().position(|other| other.name == *name).expect("all names are there");
                names[place].positions.push(*position);
                names[place].files.push(*file);
                (place, names[place].positions.len())
            });
            if let [new, old] = places.collect::<Vec<_>>()[..] {
                renames.push(Moved { old, new });
            }
        }
        Self { names, renames, positions: changes.into_iter().map(|(position, _)| position).collect() }
    }

    /// The names and files of a choice.
    pub fn files<'n>(&'n self, choice: &'n [usize]) -> impl Iterator<Item = (&'n NameAt, usize)> {
        self.names.iter().zip(choice).filter_map(|(name, &changes)| Some((name, name.files[changes]?)))
    }

    /// The names without a crash.
    pub fn live(&self) -> NameChoice {
        self.names.iter().map(|name| name.positions.len()).collect()
    }

    /// All choices, unless there are more than `most`.
    pub(super) fn all_choices(&self, most: usize) -> Option<Vec<NameChoice>> {
        let mut all = vec![Vec::new()];
        for (place, name) in self.names.iter().enumerate() {
            let known: Vec<&Moved> = self.renames.iter().filter(|moved| moved.is_known_by(place)).collect();
            let longer = |choice: &NameChoice| {
                let longer = (0..name.files.len()).map(|changes| [&choice[..], &[changes]].concat());
                longer.filter(|choice| known.iter().all(|moved| moved.is_kept(choice))).collect::<Vec<_>>()
            };
            all = all.iter().flat_map(longer).collect();
            if all.len() > most {
                return None;
            }
        }
        Some(all)
    }

    /// About `most` choices: up to each change, with one name ahead of or behind the others, and random ones.
    pub(super) fn some_choices(&self, most: usize, rng: &mut Rng) -> Vec<NameChoice> {
        let up_to = |position: usize| {
            self.names.iter().map(|name| name.positions.partition_point(|&other| other < position)).collect()
        };
        let ends = self.positions.iter().map(|position| position + 1);
        let mut some: Vec<NameChoice> = std::iter::once(0).chain(ends).map(up_to).collect();
        let (old, live) = (up_to(0), self.live());
        for (place, name) in self.names.iter().enumerate() {
            for changes in 0..name.files.len() {
                let but_one = |mut choice: NameChoice| {
                    choice[place] = changes;
                    self.without_losses(choice)
                };
                some.extend([but_one(old.clone()), but_one(live.clone())]);
            }
        }
        while some.len() < most {
            let random = self.names.iter().map(|name| index(rng.below(name.files.len() as u64))).collect();
            some.push(self.without_losses(random));
        }
        some.sort_unstable();
        some.dedup();
        some
    }

    /// Gives files their old names back that would have none.
    fn without_losses(&self, mut choice: NameChoice) -> NameChoice {
        while let Some(lost) = self.renames.iter().find(|moved| !moved.is_kept(&choice)) {
            choice[lost.old.0] = lost.old.1 - 1;
        }
        choice
    }

    /// A number that tells one choice from another, by the names and what `digest_of` says of the files.
    pub(super) fn digest(&self, choice: &[usize], digest_of: impl Fn(usize) -> u64) -> u64 {
        self.files(choice)
            .fold(0, |digest, (name, file)| mix(digest ^ name.digest ^ mix(file as u64 ^ mix(digest_of(file)))))
    }
}

impl NameAt {
    fn new(name: &str, file: Option<usize>) -> Self {
        let digest = name.bytes().fold(0, |digest, byte| mix(digest ^ u64::from(byte)));
        Self { name: name.to_owned(), files: vec![file], positions: Vec::new(), digest }
    }

    /// The entry of the log that has made it what it is after so many changes.
    pub(super) fn origin(&self, changes: usize) -> Option<usize> {
        Some(self.positions[changes.checked_sub(1)?])
    }
}

impl Moved {
    /// Whether a choice for the names up to `place` is the first to decide this.
    fn is_known_by(&self, place: usize) -> bool {
        self.old.0.max(self.new.0) == place
    }

    fn is_kept(&self, choice: &[usize]) -> bool {
        choice[self.old.0] < self.old.1 || choice[self.new.0] >= self.new.1
    }
}
