//! What a crash may leave of a disk that gets another name.

use std::collections::BTreeSet;

use vmdk::{ErrorKind, OpenOptions};

use super::subject::{NEW, OTHERS, Subject, content};
use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::crash::point::CrashState;

/// The mark for a call that has returned `Ok`.
pub(crate) const DONE: u64 = 1;

/// By which names the disk is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Found {
    Old,
    New,
    Both,
}

/// What a judge has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) states: usize,
    pub(crate) found: BTreeSet<Found>,
    /// What was said of the first state that may not be.
    pub(crate) broken: Option<String>,
}

impl Subject {
    /// Looks at what crashes may leave at any point of what has happened to a disk, until something is wrong.
    pub(crate) fn judge(&self, disk: &CrashDisk) -> Seen {
        let mut seen = Seen::default();
        let mut choice = Choice::new(3).exhaustive_up_to(128).random(16).singles_per_change(3).metadata_below(1);
        for position in disk.positions() {
            for state in disk.states(position, &mut choice) {
                seen.states += 1;
                match self.judge_state(&state) {
                    Ok(found) => drop(seen.found.insert(found)),
                    Err(text) => {
                        seen.broken = Some(format!("{}: {text}\nin the state: {state}", self.what));
                        return seen;
                    }
                }
            }
        }
        seen
    }

    fn judge_state(&self, state: &CrashState) -> Result<Found, String> {
        let is_done = state.marks().contains(&DONE);
        let found = self.find(&state.restart())?;
        if is_done && found != Found::New {
            return Err(format!("it has returned, and there is {found:?}"));
        }
        if is_done {
            self.is_finished(&state.restart())?;
        }
        self.again(&state.restart())?;
        Ok(found)
    }

    /// By which names the disk is there, whole.
    pub(crate) fn find(&self, disk: &CrashDisk) -> Result<Found, String> {
        self.look_around(disk)?;
        let options = OpenOptions::new();
        let there = |name: &str| -> Result<bool, String> {
            if !disk.names().iter().any(|other| other == name) || self.replaces && disk.live(name) == OTHERS {
                return Ok(false);
            }
            let read = content(&options, disk, name).map_err(|error| format!("{name}: {error}"))?;
            if read == self.own_content { Ok(true) } else { Err(format!("{name} holds something else")) }
        };
        let found = match (there(self.old())?, there(NEW)?) {
            (true, true) => Found::Both,
            (true, false) => Found::Old,
            (false, true) => Found::New,
            (false, false) => return Err("there is no disk".to_owned()),
        };
        if let Some(child) = &self.child {
            let read = content(&options, disk, child).map_err(|error| format!("{child}: {error}"))?;
            if read != self.content {
                return Err(format!("{child} holds something else"));
            }
        }
        Ok(found)
    }

    /// Nothing is there but old files and new ones, and what has nothing to do with it is as before.
    fn look_around(&self, disk: &CrashDisk) -> Result<(), String> {
        let heads = [self.old(), self.child.as_deref().unwrap_or(NEW)];
        let becomes = || heads.into_iter().chain(self.moved.iter().map(|(_, new)| &**new));
        for name in disk.names() {
            let is_new = self.moved.iter().any(|(_, new)| *new == name);
            let is_own_name = becomes().any(|becomes| name.starts_with(&format!(".{becomes}.")));
            if !self.files.contains_key(&name) && !is_new && !is_own_name {
                return Err(format!("there is {name}"));
            }
        }
        for (name, bytes) in &self.files {
            let is_changed = self.child.as_ref() == Some(name) || self.moved.iter().any(|(old, _)| old == name);
            if !is_changed && disk.live(name) != *bytes {
                return Err(format!("{name} has changed"));
            }
        }
        Ok(())
    }

    /// All files have their new names, no other, and their old content.
    pub(crate) fn is_finished(&self, disk: &CrashDisk) -> Result<(), String> {
        let mut names = disk.names();
        names.retain(|name| !(name.starts_with('.') && name.rsplit('.').next() == Some("new")));
        if names != self.names_after() {
            return Err(format!("there are {names:?}"));
        }
        for (number, (old, new)) in self.moved.iter().enumerate() {
            let is_descriptor = number == 0;
            if !is_descriptor && disk.live(new) != self.files[old] {
                return Err(format!("{new} is not what {old} was"));
            }
        }
        let mut text = disk.live(NEW);
        if text.starts_with(b"KDMV") {
            // What is behind the end of the text is what was there before.
            text = text.split_off(512).split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        }
        let says_old = |(old, _): &(String, String)| {
            let quoted = format!("\"{old}\"");
            text.windows(quoted.len()).any(|bytes| bytes == quoted.as_bytes())
        };
        match self.moved.iter().find(|moved| moved.0 != moved.1 && says_old(moved)) {
            Some((old, _)) => Err(format!("the descriptor names {old}")),
            None => Ok(()),
        }
    }

    /// The same is asked for once more.
    fn again(&self, disk: &CrashDisk) -> Result<(), String> {
        let was = self.find(disk)?;
        match self.rename(disk) {
            Ok(_) => {}
            // It was at its end.
            Err(error) if error.kind() == ErrorKind::NotFound && was == Found::New => {}
            Err(error) => return Err(format!("asked for again, with {was:?}: {error}")),
        }
        match self.find(disk)? {
            Found::New => self.is_finished(disk).map_err(|text| format!("asked for again, with {was:?}: {text}")),
            found => Err(format!("asked for again, there is {found:?}")),
        }
    }
}
