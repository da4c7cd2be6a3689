//! A crashing disk as the directory in which images are made.

use std::sync::Arc;

use vmdk::{Directory, Error, ErrorKind, Resolve, Result, Storage, StorageId};

use super::content::Content;
use super::{CrashDisk, DIRECTORY, Entry, File, NameChange, Rename, Synced};

impl CrashDisk {
    /// The names that there are if there is no crash.
    pub fn names(&self) -> Vec<String> {
        self.shared.lock().names.keys().cloned().collect()
    }

    /// The changes of names in the log, with their positions.
    pub fn name_changes(&self) -> Vec<(usize, NameChange)> {
        let state = self.shared.lock();
        let changes = state.log.iter().enumerate().filter_map(|(position, entry)| match entry {
            Entry::Rename(rename) => Some((position, rename.what.clone())),
            _ => None,
        });
        changes.collect()
    }

    /// Changes names, or says why not.
    pub(super) fn change_names(&self, what: &NameChange, replace: bool) -> Result<()> {
        let state = &mut *self.shared.lock();
        let known = |name: &str| state.names.get(name).copied().ok_or_else(|| refused(ErrorKind::NotFound, name));
        let free = |name: &str| {
            let is_taken = state.names.contains_key(name);
            if is_taken { Err(refused(ErrorKind::AlreadyExists, name)) } else { Ok(()) }
        };
        let changed = match what {
            NameChange::Create(name, becomes) => {
                free(name)?;
                state.files.push(File::new(becomes.clone(), Content::new([])));
                vec![(name.clone(), Some(state.files.len() - 1))]
            }
            NameChange::Rename(name, becomes) => {
                let file = known(name)?;
                if !replace {
                    free(becomes)?;
                }
                vec![(becomes.clone(), Some(file)), (name.clone(), None)]
            }
            NameChange::Link(name, becomes) => {
                let file = known(name)?;
                free(becomes)?;
                vec![(becomes.clone(), Some(file))]
            }
            NameChange::Remove(name) => known(name).map(|_| vec![(name.clone(), None)])?,
        };
        for (name, file) in &changed {
            match file {
                Some(file) => state.names.insert(name.clone(), *file),
                None => state.names.remove(name),
            };
        }
        state.log.push(Entry::Rename(Arc::new(Rename { what: what.clone(), changed })));
        Ok(())
    }

    pub(super) fn sync_names(&self) {
        self.shared.sync(|state| (DIRECTORY.to_owned(), Synced::Names(Arc::new(state.names.clone()))));
    }
}

fn refused(kind: ErrorKind, name: &str) -> Error {
    Error::new(kind, format!("{name:?} in a directory that crashes"))
}

impl Directory for CrashDisk {
    fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.shared.lock().names.contains_key(name))
    }

    fn claim(&self, name: &str) -> Result<Option<Arc<dyn Storage>>> {
        let file = self.shared.lock().names.get(name).copied();
        Ok(file.map(|file| self.storage_of(file)))
    }

    fn create(&self, name: &str, becomes: &str) -> Result<Arc<dyn Storage>> {
        self.change_names(&NameChange::Create(name.to_owned(), becomes.to_owned()), false)?;
        Ok(self.storage(name))
    }

    fn rename(&self, name: &str, becomes: &str, replace: bool) -> Result<()> {
        self.change_names(&NameChange::Rename(name.to_owned(), becomes.to_owned()), replace)
    }

    fn link(&self, name: &str, becomes: &str) -> Result<()> {
        self.change_names(&NameChange::Link(name.to_owned(), becomes.to_owned()), false)
    }

    fn is_link(&self, name: &str, other: &str) -> Result<bool> {
        let names = &self.shared.lock().names;
        Ok(name != other && names.contains_key(name) && names.get(name) == names.get(other))
    }

    fn id_of(&self, name: &str) -> Result<Option<StorageId>> {
        Ok(self.claim(name)?.and_then(|file| file.id()))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.change_names(&NameChange::Remove(name.to_owned()), false)
    }

    fn sync(&self) -> Result<()> {
        self.sync_names();
        Ok(())
    }
}

impl Resolve for CrashDisk {
    fn resolve(&self, name: &str) -> Result<Arc<dyn Storage>> {
        self.claim(name)?.ok_or_else(|| refused(ErrorKind::NotFound, name))
    }
}
