//! What a guest does to a disk before the power fails, and what it may see afterwards.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::Range;

use vmdk::{BlockDevice, CacheMode, OpenOptions, Result, VmdkImage, WriteFlags};

use super::subject::{Subject, content_id};
use super::support::crash::CrashDisk;
use super::support::rng::Rng;
use super::support::{SECTOR, byte_range, index};

/// Something that a guest does. Ranges are in sectors: first and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Write(u64, u64),
    /// With force unit access.
    WriteThrough(u64, u64),
    /// Whether space may be given back.
    Zeroes(u64, u64, bool),
    Discard(u64, u64),
    /// A prepared write: the payload goes straight to the file.
    Prepare(u64, u64, Ending),
    Flush,
    /// The next step opens the disk again.
    Close,
    /// The process is killed, but the power does not fail. The next step opens the disk again.
    Kill,
}

/// What becomes of a prepared write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Commit,
    Abort,
    Drop,
}

/// Steps, and how the disk is opened for them.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) steps: Vec<Step>,
    pub(crate) mode: CacheMode,
}

impl Workload {
    pub(crate) fn new(steps: impl Into<Vec<Step>>) -> Self {
        Self { steps: steps.into(), mode: CacheMode::Writeback }
    }

    /// Those that every disk has to stand; `g` is the size of its grains.
    pub(crate) fn all(g: u64) -> Vec<Self> {
        use Ending::{Abort, Commit, Drop};
        use Step::{Close, Discard, Flush, Kill, Prepare, Write, WriteThrough, Zeroes};
        let first_touches =
            [Write(g + g / 2, 1), Flush, Write(3 * g, g), Write(4 * g - 1, 2), Flush, Write(6 * g, 1), Close];
        let mut workloads = vec![
            Self { mode: CacheMode::Writethrough, ..Self::new(first_touches) },
            Self::new(first_touches),
            Self::new([Write(0, 2), Flush, Write(1, 2), Write(1, 1), Write(5 * g, 1), Flush, Write(2 * g, 1), Close]),
            Self::new([Write(g / 2, 3 * g), Flush, Write(2 * g + g / 2, 2 * g), Close]),
            Self::new([
                Zeroes(0, g, true),
                Flush,
                Zeroes(g, g, true),
                Discard(2 * g, 2 * g),
                Flush,
                Write(0, 1),
                Close,
            ]),
            Self::new([Zeroes(0, g, false), Zeroes(2 * g, 1, true), Flush, Discard(5 * g, g), Write(5 * g, 1), Close]),
            Self::new([Zeroes(3 * g, g, false), Write(0, 1), Zeroes(4 * g, 1, false), Flush, Discard(0, 6 * g), Close]),
            Self::new([WriteThrough(g, 1), Write(3 * g, 1), WriteThrough(0, 1), Flush, Flush, Write(4 * g, 1), Close]),
            Self::new([
                Prepare(g, 1, Commit),
                Prepare(3 * g, g, Abort),
                Prepare(4 * g, 1, Drop),
                Write(3 * g, 1),
                Flush,
                Prepare(0, g, Commit),
                Flush,
                Prepare(5 * g, g + 1, Commit),
                Close,
            ]),
            Self::new([Write(g, 1), Close, Write(3 * g, 1), Write(0, 1), Flush, Write(1, 1), Close, Write(4 * g, 1)]),
        ];
        workloads.extend([
            Self::new([Write(0, 1), Write(g, 1), Kill, Flush, Write(3 * g, 1), Kill, Write(4 * g, 1), Close]),
            Self::new([Write(3 * g, 1), Flush, Zeroes(0, g, true), Write(5 * g, 1), Kill, Write(3 * g, 1), Flush]),
        ]);
        workloads.extend((0..2).map(|seed| Self::random(&mut Rng::new(seed), g)));
        workloads
    }

    fn random(rng: &mut Rng, grain: u64) -> Self {
        let mut steps = Vec::new();
        for _ in 0..8 {
            let start = rng.below(7 * grain);
            let count = 1 + rng.below((2 * grain).min(7 * grain - start));
            steps.push(match rng.below(10) {
                0..4 => Step::Write(start, count),
                4 => Step::WriteThrough(start, count),
                5 => Step::Zeroes(start, count, rng.chance(50)),
                6 => Step::Discard(start, count),
                7 => Step::Prepare(start, count, Ending::Commit),
                8 => Step::Close,
                _ => Step::Flush,
            });
        }
        Self::new(steps)
    }
}

/// What is known of the steps of a workload, and of every sector after each of them.
pub(crate) struct History {
    /// What a guest saw before the first step.
    start: Vec<u8>,
    steps: Vec<Done>,
    /// What each sector held after which step.
    versions: BTreeMap<u64, Vec<Version>>,
    sessions: Vec<Session>,
}

/// The number of a step, and what a sector held after it.
type Version = (usize, Box<[u8; SECTOR]>);

/// A step that has returned.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) step: Step,
    /// Whether everything up to here was durable when it returned.
    pub(crate) durable: bool,
    session: usize,
    /// The entries of the log that it has made.
    pub(crate) log: Range<usize>,
}

/// From one open to the next.
struct Session {
    content_id: Option<u64>,
    first: usize,
}

/// How far a workload had come when the power failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Steps that had begun.
    pub(crate) begun: usize,
    /// Steps up to the last one that made everything durable.
    pub(crate) durable: usize,
    /// Whether the last step was a close that has returned.
    pub(crate) closed: bool,
}

impl History {
    /// Runs a workload. The disk has to show `content`.
    ///
    /// # Errors
    /// Those of the image.
    pub(crate) fn run(subject: &Subject, disk: &CrashDisk, content: Vec<u8>, workload: &Workload) -> Result<Self> {
        let mut history = Self { start: content, steps: Vec::new(), versions: BTreeMap::new(), sessions: Vec::new() };
        let options = OpenOptions::new().write(true).cache_mode(workload.mode);
        let mut image: Option<VmdkImage> = None;
        for &step in &workload.steps {
            let number = history.steps.len();
            let open = if let Some(open) = image.take() { open } else { history.open(subject, disk, &options)? };
            let begin = disk.log_len();
            disk.mark(2 * number as u64);
            history.perform(subject, &open, step, number)?;
            disk.mark(2 * number as u64 + 1);
            let durable = matches!(step, Step::WriteThrough(..) | Step::Flush | Step::Close)
                || workload.mode == CacheMode::Writethrough && !matches!(step, Step::Prepare(..) | Step::Kill);
            let session = history.sessions.len() - 1;
            history.steps.push(Done { step, durable, session, log: begin..disk.log_len() });
            match step {
                Step::Close => {}
                Step::Kill => {
                    std::mem::forget(open);
                    history.look(subject, disk)?;
                }
                _ => image = Some(open),
            }
        }
        if let Some(image) = image {
            image.close()?;
        }
        Ok(history)
    }

    fn open(&mut self, subject: &Subject, disk: &CrashDisk, options: &OpenOptions) -> Result<VmdkImage> {
        self.sessions.push(Session { content_id: content_id(disk, &subject.name), first: self.steps.len() });
        let image = options.open_with(&subject.name, &disk.resolver())?;
        let mut content = vec![0; self.start.len()];
        image.read_sectors(0, &mut content)?;
        if content == self.content() {
            return Ok(image);
        }
        Err(io::Error::other("opened for writing it shows another content").into())
    }

    fn perform(&mut self, subject: &Subject, image: &VmdkImage, step: Step, number: usize) -> Result<()> {
        match step {
            Step::Write(start, count) => {
                let bytes = payload(number, start, count);
                image.write_sectors(start, &bytes)?;
                self.note(number, start, &bytes);
            }
            Step::WriteThrough(start, count) => {
                let bytes = payload(number, start, count);
                // Few slices or many, and none of them whole sectors.
                let len = if number.is_multiple_of(4) { 7 } else { 170 };
                let slices: Vec<_> = bytes.chunks(len).map(IoSlice::new).collect();
                image.write_sectors_vectored(start, &slices, WriteFlags::FUA)?;
                self.note(number, start, &bytes);
            }
            Step::Zeroes(start, count, may_unmap) => {
                image.write_zeroes(start, count, may_unmap)?;
                self.note(number, start, &vec![0; index(count) * SECTOR]);
            }
            Step::Discard(start, count) => {
                image.discard(start, count)?;
                // Each sector is left or zero now.
                let mut bytes = vec![0; index(count) * SECTOR];
                image.read_sectors(start, &mut bytes)?;
                for (sector, bytes) in (start..).zip(bytes.chunks(SECTOR)) {
                    let old = self.last(sector, number);
                    assert!(bytes == old || bytes == [0; SECTOR], "a discard has changed sector {sector}");
                }
                self.note(number, start, &bytes);
            }
            Step::Prepare(start, count, ending) => {
                self.prepare(subject, image, number, start..start + count, ending)?;
            }
            Step::Flush => image.flush()?,
            Step::Close => image.close()?,
            Step::Kill => {}
        }
        Ok(())
    }

    /// Looks at what a killed process has left: each sector that was not flushed is old or new.
    fn look(&mut self, subject: &Subject, disk: &CrashDisk) -> Result<()> {
        let image = OpenOptions::new().open_with(&subject.name, &disk.resolver())?;
        let mut content = vec![0; self.start.len()];
        image.read_sectors(0, &mut content)?;
        let begun = self.steps.len();
        let durable = self.steps.iter().rposition(|done| done.durable).map_or(0, |step| step + 1);
        if let Some(sector) = self.wrong_sector(&content, Progress { begun, durable, closed: false }) {
            return Err(io::Error::other(format!("sector {sector} is wrong after the process was killed")).into());
        }
        self.note(begun - 1, 0, &content);
        Ok(())
    }

    fn prepare(
        &mut self,
        subject: &Subject,
        image: &VmdkImage,
        number: usize,
        sectors: Range<u64>,
        ending: Ending,
    ) -> Result<()> {
        let count = sectors.end - sectors.start;
        let bytes = payload(number, sectors.start, count);
        let prepared = image.prepare_write(sectors.start, count)?;
        for range in prepared.ranges() {
            // What is not committed must not be seen; but a place that is not new is overwritten there and then.
            if ending == Ending::Commit || !subject.sparse.is_empty() {
                let part = byte_range(range.start - sectors.start, range.sectors);
                range.storage.write_all_at(&bytes[part], range.offset).unwrap();
            }
        }
        match ending {
            Ending::Commit => {
                prepared.commit()?;
                self.note(number, sectors.start, &bytes);
            }
            Ending::Abort => prepared.abort(),
            Ending::Drop => drop(prepared),
        }
        Ok(())
    }

    fn note(&mut self, number: usize, start: u64, bytes: &[u8]) {
        for (sector, bytes) in (start..).zip(bytes.chunks_exact(SECTOR)) {
            if self.last(sector, number) != bytes {
                self.versions.entry(sector).or_default().push((number, Box::new(bytes.try_into().unwrap())));
            }
        }
    }

    /// What a sector holds after all steps before `number`.
    fn last(&self, sector: u64, number: usize) -> &[u8] {
        let versions = self.versions.get(&sector).into_iter().flatten();
        let last = versions.take_while(|(other, _)| *other < number).last();
        last.map_or(&self.start[byte_range(sector, 1)], |(_, bytes)| &**bytes)
    }

    /// The steps.
    pub(crate) fn steps(&self) -> &[Done] {
        &self.steps
    }

    /// What a guest sees after all steps before `number`.
    pub(crate) fn content_before(&self, number: usize) -> Vec<u8> {
        let mut content = self.start.clone();
        for &sector in self.versions.keys() {
            content[byte_range(sector, 1)].copy_from_slice(self.last(sector, number));
        }
        content
    }

    /// What a guest sees in the end.
    pub(crate) fn content(&self) -> Vec<u8> {
        self.content_before(self.steps.len())
    }

    /// How far it had come by the marks in a log.
    pub(crate) fn progress(&self, marks: &[u64]) -> Progress {
        let Some(&last) = marks.last() else { return Progress { begun: 0, durable: 0, closed: false } };
        let last = index(last);
        let (begun, returned) = (last / 2 + 1, last.div_ceil(2));
        let durable = self.steps[..returned].iter().rposition(|done| done.durable).map_or(0, |step| step + 1);
        let closed = begun == returned && self.steps[returned - 1].step == Step::Close;
        Progress { begun, durable, closed }
    }

    /// The first sector that holds what it may not, if there is one.
    pub(crate) fn wrong_sector(&self, content: &[u8], progress: Progress) -> Option<u64> {
        let mut sectors = (0..).zip(content.chunks_exact(SECTOR)).zip(self.start.chunks_exact(SECTOR));
        let wrong = |&((sector, bytes), start): &((u64, &[u8]), &[u8])| {
            let Some(versions) = self.versions.get(&sector) else { return bytes != start };
            let later = versions.iter().filter(|(step, _)| (progress.durable..progress.begun).contains(step));
            bytes != self.last(sector, progress.durable) && later.into_iter().all(|(_, version)| **version != *bytes)
        };
        sectors.find(wrong).map(|((sector, _), _)| sector)
    }

    /// The first step of the session that was the last to begin, and the content ID that it found.
    pub(crate) fn session(&self, progress: Progress) -> Option<(usize, Option<u64>)> {
        let session = &self.sessions[self.steps.get(progress.begun.checked_sub(1)?)?.session];
        Some((session.first, session.content_id))
    }
}

/// What a step writes: another content for every step and sector.
fn payload(number: usize, start: u64, count: u64) -> Vec<u8> {
    let word = |sector: u64| (Rng::new((number as u64) << 32 | sector).next_u64() | 1).to_le_bytes();
    (start..start + count).flat_map(|sector| std::iter::repeat_n(word(sector), SECTOR / 8).flatten()).collect()
}
