//! The files of an image that is to come, on their way to their names.
//!
//! ```text
//! begin: are the names free?   make, link: every file, under a name of its own or at once under its new one
//! publish: extents get their names -> directory synced -> the descriptor gets its name -> directory synced
//! ```
//!
//! Whatever goes wrong in between, the names are taken away again, that of the descriptor first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Directory, Storage, StorageId, already_exists, own_name};

/// Files that are being made. Dropped before they are to be kept, they are gone.
pub(crate) struct NewFiles<'a> {
    directory: &'a dyn Directory,
    /// What errors call the directory.
    dir: &'a Path,
    sync: bool,
    holds_files: bool,
    /// Those of the extents and, last, the one with the descriptor.
    files: Vec<NewFile>,
}

struct NewFile {
    /// The name that it is to have.
    name: String,
    /// The name that it has until then, if it is there.
    own_name: Option<String>,
    is_named: bool,
    /// What it replaces, so that nobody else uses it.
    claimed: Option<Arc<dyn Storage>>,
    /// What it is, if it was made here and the host has a way to tell.
    id: Option<StorageId>,
    /// There if files stay open.
    storage: Option<Arc<dyn Storage>>,
}

/// What the names of new files may meet with.
pub(crate) struct Terms<'a> {
    /// Whether files that exist are replaced.
    pub(crate) replace: bool,
    /// Whether the files are to be durable.
    pub(crate) sync: bool,
    pub(crate) kept: &'a Kept,
}

/// What a new image must not replace.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) ids: Vec<StorageId>,
    pub(crate) paths: Vec<PathBuf>,
}

impl Kept {
    fn refuse() -> Error {
        Error::text(ErrorKind::InvalidInput, "the new image would replace its own source or parent")
    }
}

impl<'a> NewFiles<'a> {
    /// Looks whether files with these names, the one with the descriptor last, can be made in `directory`, which errors
    /// call `dir`. Nothing is made yet. What `is_there` knows to be the file itself, made by a run that was cut short,
    /// counts as made.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidInput` if something that is kept would be replaced; `Locked` and others for what cannot
    /// be.
    pub(crate) fn begin(
        names: impl IntoIterator<Item = String>,
        directory: &'a dyn Directory,
        dir: &'a Path,
        terms: &Terms<'_>,
        is_there: impl Fn(usize, &str) -> Result<bool>,
    ) -> Result<Self> {
        let mut files = Vec::new();
        for (number, name) in names.into_iter().enumerate() {
            let path = dir.join(&name);
            let in_file = |error: Error| error.in_file(&path);
            let is_named = is_there(number, &name).map_err(in_file)?;
            let mut claimed = None;
            if !is_named && terms.replace {
                // Before it is claimed: a lock of our own would be said to be somebody else's.
                let id = directory.id_of(&name).map_err(in_file)?;
                if terms.kept.paths.contains(&path) || id.is_some_and(|id| terms.kept.ids.contains(&id)) {
                    return Err(in_file(Kept::refuse()));
                }
                claimed = directory.claim(&name).map_err(in_file)?;
            } else if !is_named && directory.exists(&name).map_err(in_file)? {
                return Err(in_file(already_exists()));
            }
            files.push(NewFile { name, own_name: None, is_named, claimed, id: None, storage: None });
        }
        Ok(Self { directory, dir, sync: terms.sync, holds_files: false, files })
    }

    /// Lets the files that are made stay open.
    pub(crate) fn hold_files(&mut self) {
        self.holds_files = true;
    }

    /// The files that have stayed open, with their names.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&str, &Arc<dyn Storage>)> {
        self.files.iter().filter_map(|file| Some((&*file.name, file.storage.as_ref()?)))
    }

    /// Makes a file, empty.
    pub(crate) fn make(&mut self, number: usize) -> Result<Arc<dyn Storage>> {
        self.make_in(number, self.directory, None)
    }

    /// The same through `directory`, which is the same one and may have another mind about who may use the file; if
    /// `becomes` is given, as if the file was to have that name.
    pub(crate) fn make_in(
        &mut self,
        number: usize,
        directory: &dyn Directory,
        becomes: Option<&str>,
    ) -> Result<Arc<dyn Storage>> {
        let path = self.path(number);
        let file = &mut self.files[number];
        let own_name = own_name(&file.name);
        let created = directory.create(&own_name, becomes.unwrap_or(&file.name));
        let storage = created.map_err(|error| error.in_file(&path))?;
        file.own_name = Some(own_name);
        file.id = storage.id();
        file.storage = self.holds_files.then(|| Arc::clone(&storage));
        Ok(storage)
    }

    /// Makes what is in a file durable, if that is wanted.
    pub(crate) fn sync(&self, number: usize, storage: &dyn Storage) -> Result<()> {
        if !self.sync {
            return Ok(());
        }
        let synced = storage.sync();
        synced.map_err(|cause| Error::host("cannot make the new file durable", cause).in_file(&self.path(number)))
    }

    /// Takes a file that is there for the one with this number: `link` gives it the further name that it is called
    /// with. It is at once the one that the file is to have, where that is free and the order of names allows it.
    pub(crate) fn link(&mut self, number: usize, link: impl FnOnce(&str) -> Result<()>) -> Result<()> {
        let is_last = number + 1 == self.files.len();
        let path = self.path(number);
        let file = &mut self.files[number];
        if file.is_named {
            return Ok(());
        }
        let at_once = file.claimed.is_none() && (!is_last || number == 0);
        let name = if at_once { file.name.clone() } else { own_name(&file.name) };
        link(&name).map_err(|error| error.in_file(&path))?;
        file.is_named = at_once;
        file.own_name = Some(name).filter(|_| !at_once);
        Ok(())
    }

    /// Lets a file that is there have its new name and no other, by `rename`, which is told the name and whether
    /// something is replaced. It does not go away with the others then.
    pub(crate) fn take(&mut self, number: usize, rename: impl FnOnce(&str, bool) -> Result<()>) -> Result<()> {
        self.check_name(number)?;
        let file = &self.files[number];
        rename(&file.name, file.claimed.is_some()).map_err(|error| error.in_file(&self.path(number)))
    }

    /// Whether a file has its name.
    pub(crate) fn is_named(&self, number: usize) -> bool {
        self.files[number].is_named
    }

    /// Gives all files their names, which are complete and synced.
    ///
    /// # Errors
    /// `AlreadyExists` if somebody else has taken a name meanwhile; what the host reports.
    pub(crate) fn publish(&mut self) -> Result<()> {
        let Some(last) = self.files.len().checked_sub(1) else { return Ok(()) };
        (0..self.files.len()).try_for_each(|number| self.check_name(number))?;
        if last > 0 && self.files[last].claimed.is_some() {
            // The old descriptor would lead to new extents.
            match self.directory.remove(&self.files[last].name) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.in_file(&self.path(last))),
                _ => self.sync_names()?,
            }
        }
        for number in 0..last {
            self.give_name(number)?;
        }
        if last > 0 {
            self.sync_names()?;
        }
        self.give_name(last)?;
        self.sync_names()
    }

    /// As [`publish`](Self::publish), of files none of which has a descriptor: nothing leads to them yet.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    pub(crate) fn publish_extents(&mut self) -> Result<()> {
        (0..self.files.len()).try_for_each(|number| self.check_name(number))?;
        (0..self.files.len()).try_for_each(|number| self.give_name(number))?;
        if self.files.is_empty() { Ok(()) } else { self.sync_names() }
    }

    /// Lets the files be, which have their names.
    pub(crate) fn keep(mut self) {
        self.files.clear();
    }

    /// Takes the names of the files away again, as far as they have any, that of the descriptor first: without it there
    /// is no image. What somebody else has put in the place of one stays. Says which are left, and why.
    pub(crate) fn undo(&mut self) -> Vec<(PathBuf, Error)> {
        let mut left = Vec::new();
        let last = self.files.len().saturating_sub(1);
        for (number, file) in self.files.drain(..).enumerate().rev() {
            let is_head = file.is_named && number == last && last > 0;
            let Some(name) = Some(file.name).filter(|_| file.is_named).or(file.own_name) else { continue };
            let is_own = || match file.id.filter(|_| file.is_named) {
                Some(id) => Ok(self.directory.id_of(&name)?.is_none_or(|there| there == id)),
                None => Ok(true),
            };
            let removed = is_own().and_then(|is_own| if is_own { self.directory.remove(&name) } else { Ok(()) });
            if let Err(error) = removed {
                left.push((self.dir.join(name), error));
            } else if is_head
                && self.sync
                && let Err(error) = self.directory.sync()
            {
                // A crash could bring it back without its extents.
                left.push((self.dir.join(name), error));
            }
        }
        left
    }

    /// Refuses a name that somebody else's file has by now: nobody was asked whether he uses it.
    fn check_name(&self, number: usize) -> Result<()> {
        let named = |error: Error| error.in_file(&self.path(number));
        let file = &self.files[number];
        if file.is_named {
            return Ok(());
        }
        let is_others = match file.claimed.as_ref().and_then(|file| file.id()) {
            Some(claimed) => self.directory.id_of(&file.name).map_err(named)?.is_some_and(|id| id != claimed),
            None => file.claimed.is_none() && self.directory.exists(&file.name).map_err(named)?,
        };
        if is_others { Err(named(already_exists())) } else { Ok(()) }
    }

    fn give_name(&mut self, number: usize) -> Result<()> {
        let path = self.path(number);
        let file = &mut self.files[number];
        let Some(own_name) = file.own_name.as_ref().filter(|_| !file.is_named) else { return Ok(()) };
        let renamed = self.directory.rename(own_name, &file.name, file.claimed.is_some());
        renamed.map_err(|error| error.in_file(&path))?;
        file.is_named = true;
        Ok(())
    }

    fn sync_names(&self) -> Result<()> {
        if self.sync { self.directory.sync() } else { Ok(()) }
    }

    /// What errors call a file.
    pub(crate) fn path(&self, number: usize) -> PathBuf {
        self.dir.join(self.files.get(number).map_or("", |file| &file.name))
    }
}

impl Drop for NewFiles<'_> {
    fn drop(&mut self) {
        let is_whole = self.files.iter().all(|file| file.is_named);
        if is_whole && self.files.iter().any(|file| file.claimed.is_some()) {
            // What it has replaced is gone; better this than nothing.
            return;
        }
        // What went wrong before is what matters.
        let _ = self.undo();
    }
}
