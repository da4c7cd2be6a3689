//! Whether what is there is an image as a whole, the old one or the new one, or none; and nothing that nobody knows.

use std::collections::BTreeSet;
use std::fmt;

use vmdk::{BlockDevice, OpenOptions, Resolve, Storage, VmdkImage};

use super::operation::{Extent, Made, NAME, Scene};
use super::support::check::{Report, check_file};
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::crash::point::CrashState;
use super::support::{SECTOR, index};

/// The mark for a call that has returned `Ok`.
pub(crate) const MADE: u64 = 1;
/// What the name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Found {
    Nothing,
    Old,
    New,
}

/// What may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    /// A file that is none of the old image and none of the new one, or one that has nothing to do with them has
    /// changed.
    Strange,
    /// The name leads to something that cannot be opened or read.
    Unreadable,
    /// It is neither the old image nor the new one.
    Neither,
    /// An extent is not as it has to be.
    Extent,
    /// It cannot be written to and read back.
    Unwritable,
    /// It cannot be made again.
    Again,
    /// It is whole, but it may not be what is there now.
    Wrong(Found),
}

/// With a word about it.
pub(crate) type Verdict<T> = Result<T, (Broken, String)>;

fn broken<T>(broken: Broken, text: impl fmt::Display) -> Verdict<T> {
    Err((broken, text.to_string()))
}

/// What a judge has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// States, all different.
    pub(crate) states: usize,
    pub(crate) found: BTreeSet<Found>,
    pub(crate) broken: BTreeSet<Broken>,
    /// What was said of the first that is broken.
    pub(crate) first: Option<String>,
}

impl Seen {
    /// Fails the test if something is broken, or if not all this has been found in some state.
    #[track_caller]
    pub(crate) fn expect(&self, found: &[Found], what: impl fmt::Display) {
        assert!(self.first.is_none(), "{what}: {}", self.first.as_deref().unwrap_or_default());
        assert_eq!(self.found, found.iter().copied().collect(), "{what}: of {} states", self.states);
    }
}

impl Scene {
    /// Looks at the states that a crash may leave at any point of what has happened to a disk.
    pub(crate) fn judge(&self, disk: &CrashDisk) -> Seen {
        self.look(disk, false, |_| false)
    }

    /// The same if what has happened is a failure.
    pub(crate) fn judge_failed(&self, disk: &CrashDisk) -> Seen {
        self.look(disk, true, |_| false)
    }

    /// Looks at such states until it has seen enough.
    pub(crate) fn judge_until(&self, disk: &CrashDisk, enough: impl Fn(&Seen) -> bool) -> Seen {
        self.look(disk, false, enough)
    }

    fn look(&self, disk: &CrashDisk, has_failed: bool, enough: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = Seen::default();
        let mut choice =
            Choice::new(5).exhaustive_up_to(64).random(8).singles_per_change(3).metadata_below(1).written_lengths();
        for position in disk.positions() {
            for state in disk.states(position, &mut choice) {
                seen.states += 1;
                let judged = self.find(&state.restart(), true).and_then(|found| self.may_be(found, &state, has_failed));
                let again =
                    |found| if seen.states % 15 == 1 { self.make_again(&state).map(|()| found) } else { Ok(found) };
                match judged.and_then(again) {
                    Ok(found) => drop(seen.found.insert(found)),
                    Err((broken, text)) => {
                        seen.broken.insert(broken);
                        seen.first.get_or_insert_with(|| format!("{broken:?}: {text}\nin the state: {state}"));
                    }
                }
                if enough(&seen) {
                    return seen;
                }
            }
        }
        seen
    }

    /// Does it once more, over everything that is there.
    fn make_again(&self, state: &CrashState) -> Verdict<()> {
        let disk = state.restart();
        self.operation.run(&disk, true).or_else(|error| broken(Broken::Again, error))?;
        match self.find(&disk, false)? {
            Found::New => Ok(()),
            found => broken(Broken::Again, format!("made again, there is {found:?}")),
        }
    }

    fn may_be(&self, found: Found, state: &CrashState, has_failed: bool) -> Verdict<Found> {
        let is_made = state.marks().contains(&MADE);
        // A single file takes the place of another at once. But when nobody knows whether it is there to stay, it goes.
        let is_always_there = self.old.is_some() && self.operation.made.is_single() && !has_failed;
        let is_right = match found {
            Found::New => true,
            Found::Old => !is_made,
            Found::Nothing => !is_made && !is_always_there,
        };
        if is_right { Ok(found) } else { broken(Broken::Wrong(found), "it may not be there now") }
    }

    /// Looks at what is there, and puts it to use if that is wanted: then it is not the same afterwards.
    pub(crate) fn find(&self, disk: &CrashDisk, put_to_use: bool) -> Verdict<Found> {
        self.look_around(disk)?;
        if !disk.names().iter().any(|name| name == NAME) {
            return Ok(Found::Nothing);
        }
        let image = open(disk, false).or_else(|error| broken(Broken::Unreadable, error))?;
        if let Some(old) = self.old.as_ref().filter(|old| old.is_read_from(&image)) {
            let changed = old.files.iter().find(|(name, bytes)| disk.live(name) != *bytes);
            return changed.map_or(Ok(Found::Old), |(name, _)| broken(Broken::Neither, format!("{name} has changed")));
        }
        let made = &self.operation.made;
        made.check(&image)?;
        drop(image);
        if made.create_type == vmdk::CreateType::StreamOptimized {
            // It is written once, and the judge of tables knows no markers.
            return Ok(Found::New);
        }
        made.check_extents(disk)?;
        if put_to_use {
            made.put_to_use(disk)?;
        }
        Ok(Found::New)
    }

    fn look_around(&self, disk: &CrashDisk) -> Verdict<()> {
        let bystanders = self.bystanders();
        for name in disk.names() {
            let bystander = bystanders.iter().find(|(other, _)| *other == name);
            let is_old = || self.old.iter().flat_map(|old| &old.files).any(|(other, _)| *other == name);
            let is_new = || self.operation.names().iter().any(|other| *other == name || is_own_name(&name, other));
            match bystander {
                Some((_, bytes)) if disk.live(&name) != *bytes => {
                    return broken(Broken::Strange, format!("{name} has changed"));
                }
                None if !is_old() && !is_new() => return broken(Broken::Strange, format!("there is {name}")),
                _ => {}
            }
        }
        let lost = bystanders.iter().find(|(name, _)| !disk.names().contains(name));
        lost.map_or(Ok(()), |(name, _)| broken(Broken::Strange, format!("{name} is gone")))
    }
}

/// Whether this is how a file is called until it gets a name.
pub(crate) fn is_own_name(name: &str, becomes: &str) -> bool {
    let number = name.strip_prefix('.').and_then(|name| name.strip_prefix(becomes)?.strip_prefix('.'));
    number.and_then(|number| number.strip_suffix(".new")).is_some_and(|number| number.len() == 16)
}

fn open(disk: &CrashDisk, write: bool) -> vmdk::Result<VmdkImage> {
    OpenOptions::new().write(write).open_with(NAME, disk)
}

impl Made {
    /// The type, the size and the content, as the crate reads it.
    fn check(&self, image: &VmdkImage) -> Verdict<()> {
        if image.create_type() != Some(&self.create_type) || image.capacity_sectors() != self.capacity {
            let (create_type, capacity) = (image.create_type(), image.capacity_sectors());
            return broken(Broken::Neither, format!("{create_type:?} of {capacity} sectors"));
        }
        let head = (self.content.len() / SECTOR) as u64;
        for (start, count) in self.spots().into_iter().chain([(0, head.max(1))]) {
            let mut bytes = vec![0; index(count) * SECTOR];
            image.read_sectors(start, &mut bytes).or_else(|error| broken(Broken::Unreadable, error))?;
            if bytes != self.expected(start, count) {
                return broken(Broken::Neither, format!("{count} sectors from {start} have another content"));
            }
        }
        Ok(())
    }

    /// Stretches at the beginning, at the end and around each border, which are all of a small disk.
    fn spots(&self) -> Vec<(u64, u64)> {
        let borders = self.extents.iter().scan(0, |end, extent| {
            *end += extent.sectors;
            Some(*end)
        });
        let around = |at: u64| (at.saturating_sub(40), self.capacity.min(at + 40));
        let spots = std::iter::once(0).chain(borders).map(around);
        spots.map(|(start, end)| (start, end - start)).collect()
    }

    fn expected(&self, start: u64, count: u64) -> Vec<u8> {
        let mut bytes = vec![0; index(count) * SECTOR];
        let content = self.content.get(index(start) * SECTOR..).unwrap_or_default();
        let len = content.len().min(bytes.len());
        bytes[..len].copy_from_slice(&content[..len]);
        bytes
    }

    /// The files of the extents, without the crate.
    fn check_extents(&self, disk: &CrashDisk) -> Verdict<()> {
        for extent in &self.extents {
            let Some(file) = disk.resolve(&extent.name).ok() else {
                return broken(Broken::Extent, format!("there is no {}", extent.name));
            };
            extent.check(&*file, self.content.is_empty()).or_else(|text| broken(Broken::Extent, text))?;
        }
        Ok(())
    }

    /// Writes to every extent, closes, and reads it back.
    fn put_to_use(&self, disk: &CrashDisk) -> Verdict<()> {
        self.write(disk).or_else(|error| broken(Broken::Unwritable, error))?;
        for extent in self.extents.iter().filter(|extent| !extent.is_flat) {
            let report = report(&*disk.storage(&extent.name));
            if !report.problems.is_empty() || report.unclean {
                return broken(Broken::Unwritable, format!("{}: {report:?}", extent.name));
            }
        }
        Ok(())
    }

    fn write(&self, disk: &CrashDisk) -> vmdk::Result<()> {
        let ends = self.spots().into_iter().flat_map(|(start, count)| [start, start + count / 2, start + count - 1]);
        let places: BTreeSet<u64> = ends.collect();
        let bytes = |sector: u64| (sector + 1).to_le_bytes().repeat(SECTOR / 8);
        let image = open(disk, true)?;
        for &sector in &places {
            image.write_sectors(sector, &bytes(sector))?;
        }
        image.flush()?;
        image.close()?;
        let image = open(disk, false)?;
        for (start, count) in self.spots() {
            let mut expected = self.expected(start, count);
            for &sector in places.range(start..start + count) {
                expected[index(sector - start) * SECTOR..][..SECTOR].copy_from_slice(&bytes(sector));
            }
            let mut read = vec![0; expected.len()];
            image.read_sectors(start, &mut read)?;
            if read != expected {
                let text = format!("{count} sectors from {start} have another content when they were written");
                return Err(std::io::Error::other(text).into());
            }
        }
        Ok(())
    }
}

impl Extent {
    /// Whether the file has what belongs into it, and if nothing was written yet nothing else.
    fn check(&self, file: &dyn Storage, is_empty: bool) -> Result<(), String> {
        let Self { name, sectors, is_flat } = self;
        let len = file.len().unwrap();
        if *is_flat {
            let is_zero = !is_empty || file.next_data(0).unwrap().is_none();
            let is_right = len == sectors * SECTOR as u64 && is_zero;
            return if is_right { Ok(()) } else { Err(format!("{name} has {len} bytes, zero: {is_zero}")) };
        }
        let report = report(file);
        let is_right = report.problems.is_empty() && !report.unclean;
        let is_as_empty = report.leaked_grains == 0 && report.data_grains == 0;
        if is_right && (!is_empty || is_as_empty) { Ok(()) } else { Err(format!("{name}: {report:?}")) }
    }
}

/// What the checker says of a sparse extent.
fn report(file: &dyn Storage) -> Report {
    check_file(file.len().unwrap(), &|buf, offset| file.read_exact_at(buf, offset).unwrap())
}
