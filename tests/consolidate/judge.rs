//! Whether the disk reads as before, nobody else reads a mixture, and what was begun can be ended.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;

use vmdk::{BlockDevice, CheckOptions, ContentId, ErrorKind, Mapping, OpenOptions, Resolve, Severity, VmdkImage};

use super::scene::{Operation, Scene};
use super::support::check::{Problem, check_file};
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::crash::point::CrashState;
use super::support::disk::Image;
use super::support::{SECTOR, index};

/// The mark for a call that has returned `Ok`.
pub(crate) const DONE: u64 = 1;

/// What may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    /// The disk cannot be opened or read.
    Unreadable,
    /// It reads otherwise than before.
    Content,
    /// Another child of a parent is opened and reads otherwise than before.
    Sibling,
    /// A parent has changed, and other programs do not open the pair.
    OtherPrograms,
    /// Tables or grains that cannot be right.
    Tables,
    /// The call has returned, and something is left to do.
    NotDone,
    /// It cannot be done again, or that does not end it.
    Again,
}

type Verdict<T> = Result<T, (Broken, String)>;

fn broken<T>(broken: Broken, text: impl fmt::Display) -> Verdict<T> {
    Err((broken, text.to_string()))
}

/// How closely is looked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Care {
    /// Points with no more states are looked at in all of them.
    pub(crate) exhaustive: u64,
    /// The most states of each point.
    pub(crate) most: usize,
    /// One state in so many is put to use.
    pub(crate) again: usize,
}

/// What a judge has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) states: usize,
    pub(crate) broken: BTreeSet<Broken>,
    /// What was said of the first that is broken.
    pub(crate) first: Option<String>,
    /// States in which it was done, and in which it was not.
    pub(crate) done: [usize; 2],
}

/// Reads all of an image.
pub(crate) fn read(image: &VmdkImage) -> vmdk::Result<Vec<u8>> {
    let mut content = vec![0; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content)?;
    Ok(content)
}

pub(crate) fn open(place: &dyn Resolve, name: &str) -> vmdk::Result<VmdkImage> {
    OpenOptions::new().open_with(name, place)
}

impl Scene {
    /// Looks at the states that a crash may leave at any point of what has happened, until it has seen enough.
    pub(crate) fn judge(&self, disk: &CrashDisk, care: Care, enough: impl Fn(&Seen) -> bool) -> Seen {
        self.judge_at(disk.positions(), disk, care, enough)
    }

    /// The same, only at these points.
    pub(crate) fn judge_at(
        &self,
        positions: impl IntoIterator<Item = usize>,
        disk: &CrashDisk,
        care: Care,
        enough: impl Fn(&Seen) -> bool,
    ) -> Seen {
        let mut seen = Seen::default();
        let mut choice = Choice::new(5)
            .exhaustive_up_to(care.exhaustive)
            .random(8)
            .singles_per_change(2)
            .metadata_below(24 * SECTOR as u64)
            .written_lengths();
        for position in positions {
            let states: Vec<CrashState> = disk.states(position, &mut choice).collect();
            let step = states.len().div_ceil(care.most).max(1);
            for state in states.iter().step_by(step) {
                seen.states += 1;
                let put_to_use = seen.states.is_multiple_of(care.again);
                match self.look(state, put_to_use) {
                    Ok(is_done) => seen.done[usize::from(is_done)] += 1,
                    Err(problems) => {
                        for (broken, text) in problems {
                            seen.broken.insert(broken);
                            seen.first.get_or_insert_with(|| format!("{broken:?}: {text}\nin the state: {state}"));
                        }
                    }
                }
                if enough(&seen) {
                    return seen;
                }
            }
        }
        seen
    }

    /// Says whether nothing is left to do, or everything that is broken.
    fn look(&self, state: &CrashState, put_to_use: bool) -> Result<bool, Vec<(Broken, String)>> {
        let disk = state.restart();
        let mut problems: Vec<_> = self.problems(&disk).collect();
        let done = self.is_done(&disk);
        if let (Err(text), true) = (&done, state.marks().contains(&DONE)) {
            problems.push((Broken::NotDone, text.clone()));
        }
        if problems.is_empty() && put_to_use {
            problems.extend(self.ends_it(&disk).err());
        }
        if problems.is_empty() { Ok(done.is_ok()) } else { Err(problems) }
    }

    fn problems(&self, disk: &CrashDisk) -> impl Iterator<Item = (Broken, String)> {
        let found = [
            self.reads_as_before(disk),
            self.siblings_are_safe(disk),
            self.other_programs_open_it(disk),
            tables_are_sound(disk),
        ];
        found.into_iter().filter_map(Result::err)
    }

    /// Does it again; then it is done.
    pub(crate) fn ends_it(&self, disk: &CrashDisk) -> Verdict<()> {
        self.run(disk).or_else(|error| broken(Broken::Again, error))?;
        self.is_ended(disk)
    }

    /// Whether everything is as it has to be in the end.
    pub(crate) fn is_ended(&self, disk: &CrashDisk) -> Verdict<()> {
        if let Some(problem) = self.problems(disk).next() {
            return Err(problem);
        }
        self.is_done(disk).or_else(|text| broken(Broken::Again, text))?;
        self.is_clean(disk)
    }

    /// Whether a check finds nothing that would have to be put right.
    fn is_clean(&self, disk: &CrashDisk) -> Verdict<()> {
        let options = CheckOptions::new().chain(true);
        let name = &self.leaf().name;
        let report = OpenOptions::new().check_in(name, disk, &options, &mut |_| ControlFlow::Continue(()));
        let report = report.or_else(|error| broken(Broken::Unreadable, error))?;
        match report.findings.iter().find(|finding| finding.severity != Severity::Note) {
            Some(finding) => broken(Broken::Again, format!("{finding:?}")),
            None => Ok(()),
        }
    }

    pub(crate) fn reads_as_before(&self, disk: &CrashDisk) -> Verdict<()> {
        // Every link whose content is not that of another disk by now.
        let stay = match self.operation {
            Operation::Commit(base) => self.links.len() - base..self.links.len(),
            Operation::Flatten | Operation::Rebase(_) => 0..self.links.len(),
        };
        // Of a run the links between change one by one; what counts is the youngest.
        let stay = if matches!(self.operation, Operation::Commit(2..)) {
            &self.links[stay.end - 1..]
        } else {
            &self.links[stay]
        };
        for link in stay {
            let image = open(disk, &link.name).or_else(|error| broken(Broken::Unreadable, error))?;
            let content = read(&image).or_else(|error| broken(Broken::Unreadable, error))?;
            if let Some(sector) = first_difference(&content, &link.content) {
                return broken(Broken::Content, format!("{}: sector {sector}", link.name));
            }
        }
        Ok(())
    }

    fn siblings_are_safe(&self, disk: &CrashDisk) -> Verdict<()> {
        for other in &self.others {
            match open(disk, &other.name).and_then(|image| read(&image)) {
                Ok(content) if content == other.content => {}
                Ok(_) => return broken(Broken::Sibling, &other.name),
                Err(error) if error.kind() == ErrorKind::ContentIdMismatch && other.name.starts_with("sibling") => {}
                Err(error) => return broken(Broken::Sibling, format!("{}: {error}", other.name)),
            }
        }
        Ok(())
    }

    /// As soon as a parent is another disk, its child has to say so in a way that everybody knows.
    fn other_programs_open_it(&self, disk: &CrashDisk) -> Verdict<()> {
        let Operation::Commit(base) = self.operation else { return Ok(()) };
        if self.goes_on {
            return Ok(());
        }
        for depth in 0..base {
            let (child, parent) = (self.link(depth), self.link(depth + 1));
            let alone = |image: &Image| OpenOptions::new().no_parent(true).open_with(&image.name, disk);
            let pair = alone(child).and_then(|child| Ok((child, alone(parent)?)));
            let (child, parent_now) = pair.or_else(|error| broken(Broken::Unreadable, error))?;
            let layer = read(&parent_now).or_else(|error| broken(Broken::Unreadable, error))?;
            if layer != parent.layer.content() && child.parent_content_id() != parent_now.content_id() {
                return broken(Broken::OtherPrograms, &parent.name);
            }
        }
        Ok(())
    }

    /// Whether nothing is left to do; else what.
    pub(crate) fn is_done(&self, disk: &CrashDisk) -> Result<(), String> {
        let image = open(disk, &self.leaf().name).map_err(|error| error.to_string())?;
        match &self.operation {
            Operation::Commit(base) => self.is_committed(disk, &image, *base),
            Operation::Flatten => {
                let is_alone = image.chain().len() == 1 && image.descriptor().parent_hint().is_none();
                let is_base = image.descriptor().parent_content_id() == Some(ContentId::NO_PARENT);
                if is_alone && is_base { Ok(()) } else { Err("there is a parent".to_owned()) }
            }
            Operation::Rebase(name) => match image.chain().get(1) {
                Some(parent) if parent.path().to_str() == Some(name) => Ok(()),
                parent => Err(format!("the parent is {:?}", parent.map(|parent| parent.path().to_owned()))),
            },
        }
    }

    fn is_committed(&self, disk: &CrashDisk, image: &VmdkImage, base: usize) -> Result<(), String> {
        for run in image.runs_above(base).map_err(|error| error.to_string())? {
            let run = run.map_err(|error| error.to_string())?;
            if !matches!(run.mapping, Mapping::Unallocated) {
                return Err(format!("link {} has something at sector {}", run.depth, run.start));
            }
        }
        for depth in 0..base {
            let (name, _) = &self.link(depth).files[0];
            if disk.live(name).windows(13).any(|bytes| bytes == b"# vmdk commit") {
                return Err(format!("{name} is being committed"));
            }
        }
        let parent = self.link(base);
        let content = open(disk, &parent.name).and_then(|image| read(&image)).map_err(|error| error.to_string())?;
        let (own, rest) = content.split_at(self.leaf().content.len());
        if own != self.leaf().content || rest != &parent.content[own.len()..] {
            return Err(format!("{} is not what was committed", parent.name));
        }
        for other in self.others.iter().filter(|other| self.parent_changes(other)) {
            match open(disk, &other.name).map_err(|error| error.kind()) {
                Err(ErrorKind::ContentIdMismatch) => {}
                opened => return Err(format!("{}, another child: {:?}", other.name, opened.map(drop))),
            }
        }
        Ok(())
    }
}

impl Scene {
    /// Whether something is merged into the parent of another child.
    fn parent_changes(&self, other: &Image) -> bool {
        let is_empty = |link: &Image| (0..link.layer.capacity()).all(|sector| link.layer.sector(sector).is_none());
        let parent = (0..self.links.len()).find(|number| other.name == format!("sibling-{number}.vmdk"));
        parent.is_some_and(|parent| !self.links[parent + 1..].iter().all(is_empty))
    }
}

fn tables_are_sound(disk: &CrashDisk) -> Verdict<()> {
    for name in disk.names() {
        let file = disk.storage(&name);
        let mut start = [0; 12];
        let is_short = file.read_exact_at(&mut start, 0).is_err();
        // Streams have markers, which this check does not know.
        let is_stream = start[10] & 1 != 0;
        if is_short || !matches!(&start[..4], b"KDMV" | b"COWD") || (&start[..4] == b"KDMV" && is_stream) {
            continue;
        }
        let report = check_file(file.len().unwrap(), &|buf, offset| file.read_exact_at(buf, offset).unwrap());
        let may_differ = |problem: &Problem| report.unclean && problem.is_difference();
        if let Some(problem) = report.problems.iter().find(|problem| !may_differ(problem)) {
            return broken(Broken::Tables, format!("{name}: {problem:?}"));
        }
    }
    Ok(())
}

fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    if one.len() != other.len() {
        return Some(one.len().min(other.len()) / SECTOR);
    }
    one.chunks(SECTOR).zip(other.chunks(SECTOR)).position(|(one, other)| one != other)
}
