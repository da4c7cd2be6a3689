//! Whether a crash has cost anything that it may not.
//!
//! Each state is opened for reading: every sector that was flushed has its content, every other one an old or new
//! content. The tables have to be right but for copies that differ, and those only in an image that says it was not
//! closed. Then it is opened for writing, written elsewhere, flushed and closed, and nothing else may have changed; and
//! some crash again on the way.

use std::fmt;
use std::ops::ControlFlow;

use vmdk::{BlockDevice, CacheMode, CheckOptions, CheckReport, OpenOptions, RepairOptions, Severity};

use super::subject::{Subject, claims_to_be_open, content_id};
use super::support::check::{Owner, Problem, Report, check_file};
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::crash::point::CrashState;
use super::support::index;
use super::support::{SECTOR, rng::Rng};
use super::workload::{Done, History, Progress, Step, Workload};

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    /// The image cannot be opened or read.
    Unreadable,
    /// A sector has a content that it may not have.
    Content,
    /// Tables or grains that cannot be right.
    Tables,
    /// Copies of tables differ in an image that claims to be clean.
    Copies,
    /// The content has changed, but not the content ID.
    ContentId,
    /// A close has returned, and the image says it was not closed.
    NotClosed,
    /// The image cannot be written to.
    Unwritable,
}

/// What a judge has to say.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) broken: Broken,
    pub(crate) text: String,
}

impl Verdict {
    fn new(broken: Broken, text: impl fmt::Display) -> Self {
        Self { broken, text: text.to_string() }
    }
}

/// How closely a judge looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Care {
    /// Points of the log with no more states are looked at in all of them.
    pub(crate) exhaustive: u64,
    /// The most states of each other point.
    pub(crate) sample: usize,
    /// One state in so many crashes again while it is put to use; 0 for none.
    pub(crate) again: usize,
}

impl Care {
    /// For many workloads.
    pub(crate) const USUAL: Self = Self { exhaustive: 10, sample: 4, again: 60 };
    /// For small writes.
    pub(crate) const ALL: Self = Self { exhaustive: 3000, sample: 0, again: 200 };
    const AGAIN: Self = Self { exhaustive: 8, sample: 5, again: 0 };
}

/// What was looked at.
pub(crate) struct Judge<'s> {
    subject: &'s Subject,
    /// What a check has to say of the disk before anything happens.
    before: CheckReport,
    care: Care,
    rng: Rng,
    /// States, all different, in their history.
    pub(crate) states: usize,
    /// Points of the log that had too many states to look at them all.
    pub(crate) sampled_points: usize,
    /// What was found to be broken.
    pub(crate) verdicts: Vec<Verdict>,
}

/// One state in so many is repaired before it is used again.
const REPAIRED: usize = 60;

impl<'s> Judge<'s> {
    pub(crate) fn new(subject: &'s Subject, care: Care) -> Self {
        let before = user_check(&subject.disk(), &subject.name).expect("a report");
        Self { subject, before, care, rng: Rng::new(7), states: 0, sampled_points: 0, verdicts: Vec::new() }
    }

    /// Looks at the states that a crash may leave at any point of a history.
    pub(crate) fn look_at(&mut self, disk: &CrashDisk, history: &History) {
        self.sampled_points += self.look(disk, history, self.care);
    }

    /// Says how many points there were with too many states to look at them all.
    fn look(&mut self, disk: &CrashDisk, history: &History, care: Care) -> usize {
        let mut choice = Choice::new(self.rng.next_u64())
            .exhaustive_up_to(care.exhaustive)
            .random(care.sample as u64)
            .singles_per_change(3)
            .metadata_below(30 * SECTOR as u64)
            .written_lengths();
        for position in disk.positions() {
            let sampled = choice.sampled_points();
            let states: Vec<CrashState> = disk.states(position, &mut choice).collect();
            // Those of a sample come sort by sort, so that every so many is some of each.
            let wanted = if choice.sampled_points() > sampled { care.sample.max(1) } else { usize::MAX };
            let step = states.len().div_ceil(wanted).max(1);
            let first = index(self.rng.below(step as u64)).min(states.len().saturating_sub(1));
            for state in states.iter().skip(first).step_by(step) {
                self.states += 1;
                if let Err(verdict) = self.judge(state, history, care) {
                    let text = format!("{}\nin the state: {state}", verdict.text);
                    self.verdicts.push(Verdict { text, ..verdict });
                }
            }
        }
        choice.sampled_points()
    }

    fn judge(&mut self, state: &CrashState, history: &History, care: Care) -> Result<(), Verdict> {
        let progress = history.progress(state.marks());
        let disk = state.restart();
        let content = self.read(&disk)?;
        if let Some(sector) = history.wrong_sector(&content, progress) {
            return Err(Verdict::new(Broken::Content, format!("sector {sector} at {progress:?}")));
        }
        self.check(&disk, history, progress)?;
        self.check_as_users_do(&disk)?;
        self.check_content_id(&disk, history, &content, progress)?;
        if self.states.is_multiple_of(REPAIRED) {
            self.repair(&disk, &content)?;
        }
        self.use_again(&disk, content, care)
    }

    fn read(&self, disk: &CrashDisk) -> Result<Vec<u8>, Verdict> {
        let unreadable = |error: vmdk::Error| Verdict::new(Broken::Unreadable, error);
        let image = OpenOptions::new().open_with(&self.subject.name, &disk.resolver()).map_err(unreadable)?;
        let mut content = vec![0; index(image.capacity_sectors()) * SECTOR];
        image.read_sectors(0, &mut content).map_err(unreadable)?;
        Ok(content)
    }

    fn check(&self, disk: &CrashDisk, history: &History, progress: Progress) -> Result<(), Verdict> {
        let Progress { closed, durable, .. } = progress;
        let is_write = |done: &Done| matches!(done.step, Step::Write(..) | Step::WriteThrough(..));
        let written = history.steps()[..durable].iter().any(is_write);
        for name in &self.subject.sparse {
            let report = check_live(disk, name);
            let is_dead = |problem: &&Problem| match problem {
                Problem::PastEnd { owner: Owner::Grain(grain), .. } => {
                    report.unclean && self.subject.dead.contains(grain)
                }
                _ => false,
            };
            let mut problems = report.problems.iter().filter(|problem| !is_dead(problem));
            if let Some(problem) = problems.clone().find(|problem| !problem.is_difference()) {
                return Err(Verdict::new(Broken::Tables, format!("{name}: {problem:?}")));
            }
            let as_before = |_: &&Problem| self.subject.copies_differ && !written;
            if let (false, Some(problem)) = (report.unclean, problems.find(|problem| !as_before(problem))) {
                return Err(Verdict::new(Broken::Copies, format!("{name}: {problem:?}")));
            }
            if closed && self.subject.is_one_extent() && claims_to_be_open(disk, name) {
                return Err(Verdict::new(Broken::NotClosed, name));
            }
        }
        Ok(())
    }

    /// What `vmdk check` says: nothing, or notes. What was wrong before the crash may still be.
    fn check_as_users_do(&self, disk: &CrashDisk) -> Result<(), Verdict> {
        let report = user_check(disk, &self.subject.name)?;
        let mut bad = report.findings.iter().filter(|finding| finding.severity != Severity::Note);
        match bad.find(|finding| self.before.count(finding.kind) == 0) {
            Some(finding) => Err(Verdict::new(Broken::Tables, format!("check: {finding:?}"))),
            None => Ok(()),
        }
    }

    /// What `vmdk repair` makes of it: the same content, and no more than was wrong before.
    fn repair(&self, disk: &CrashDisk, content: &[u8]) -> Result<(), Verdict> {
        let broken = |text: String| Verdict::new(Broken::Tables, format!("repair: {text}"));
        let options = RepairOptions::new();
        let repaired =
            OpenOptions::new().repair_in(&self.subject.name, disk, &options, &mut |_| ControlFlow::Continue(()));
        let repaired = repaired.map_err(|error| broken(error.to_string()))?;
        let mut bad = repaired.after.findings.iter().filter(|finding| finding.severity != Severity::Note);
        if let Some(finding) = bad.find(|finding| self.before.count(finding.kind) == 0) {
            return Err(broken(format!("{finding:?}")));
        }
        if self.read(disk)? != content {
            return Err(Verdict::new(Broken::Content, "after a repair"));
        }
        Ok(())
    }

    fn check_content_id(
        &self,
        disk: &CrashDisk,
        history: &History,
        content: &[u8],
        progress: Progress,
    ) -> Result<(), Verdict> {
        let Some((first, Some(old))) = history.session(progress) else { return Ok(()) };
        let is_older = history.wrong_sector(content, Progress { begun: first, ..progress }).is_none();
        match content_id(disk, &self.subject.name) {
            None => Err(Verdict::new(Broken::ContentId, "it cannot be read")),
            Some(id) if id == old && !is_older => {
                Err(Verdict::new(Broken::ContentId, format!("{id:08x} at {progress:?}")))
            }
            Some(_) => Ok(()),
        }
    }

    /// Opens the disk for writing, writes where no workload does and where it happens to be, and closes it.
    fn use_again(&mut self, disk: &CrashDisk, content: Vec<u8>, care: Care) -> Result<(), Verdict> {
        let unwritable = |error: vmdk::Error| Verdict::new(Broken::Unwritable, error);
        let spare = self.subject.spare();
        let start = self.rng.below(spare);
        let count = (1 + self.rng.below(self.subject.grain)).min(spare - start);
        let steps = [Step::Write(spare, 1), Step::Write(start, count), Step::Flush, Step::Close];
        let workload = match self.rng.below(8) {
            // A disk that has only been flushed, or only where it has its grains.
            0 => Workload::new([Step::Write(spare, 1), Step::Close]),
            1 => Workload::new([Step::Write(start, 1), Step::Flush, Step::Close]),
            // One whose other tables are not used.
            3 | 4 if self.subject.elsewhere.is_some() => {
                Workload::new([Step::Write(self.subject.elsewhere.unwrap(), 1), Step::Close])
            }
            2 => Workload { mode: CacheMode::Writethrough, ..Workload::new(steps) },
            _ => Workload::new(steps),
        };
        let history = History::run(self.subject, disk, content, &workload).map_err(unwritable)?;
        let found = self.read(disk)?;
        let expected = history.content();
        if found != expected {
            let same = found.chunks(SECTOR).zip(expected.chunks(SECTOR)).take_while(|(one, other)| one == other);
            let sector = same.count();
            return Err(Verdict::new(Broken::Content, format!("sector {sector} after {:?}", workload.steps)));
        }
        for name in &self.subject.sparse {
            // An extent that nothing was written to stays as it is.
            if claims_to_be_open(disk, name) && self.subject.is_one_extent() {
                return Err(Verdict::new(Broken::NotClosed, name));
            }
            if let (false, Some(problem)) = (claims_to_be_open(disk, name), check_live(disk, name).problems.first()) {
                return Err(Verdict::new(Broken::Tables, format!("{name}: {problem:?} after {:?}", workload.steps)));
            }
        }
        if care.again > 0 && self.states.is_multiple_of(care.again) {
            self.look(disk, &history, Care::AGAIN);
        }
        Ok(())
    }

    /// Fails the test if something is broken.
    #[track_caller]
    pub(crate) fn expect_nothing(&self, what: impl fmt::Display) {
        if let Some(verdict) = self.verdicts.first() {
            let (count, states) = (self.verdicts.len(), self.states);
            panic!("{what}: {:?}: {}\n({count} verdicts in {states} states)", verdict.broken, verdict.text);
        }
    }

    /// Whether it was found that something is broken in this way.
    pub(crate) fn has_found(&self, broken: Broken) -> bool {
        self.verdicts.iter().any(|verdict| verdict.broken == broken)
    }
}

fn user_check(disk: &CrashDisk, name: &str) -> Result<CheckReport, Verdict> {
    let options = CheckOptions::new().chain(true);
    let checked = OpenOptions::new().check_in(name, disk, &options, &mut |_| ControlFlow::Continue(()));
    checked.map_err(|error| Verdict::new(Broken::Unreadable, error))
}

fn check_live(disk: &CrashDisk, name: &str) -> Report {
    let file = disk.storage(name);
    check_file(file.len().unwrap(), &|buf, offset| file.read_exact_at(buf, offset).unwrap())
}
