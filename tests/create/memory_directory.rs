//! A directory in memory that remembers what was done in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use vmdk::{Directory, Error, ErrorKind, MemoryStorage, Resolve, Result, Storage};

use super::support::storage::{CountingStorage, Counts};

/// What has happened to a name, or to all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A file was made that is to have this name.
    Made(String),
    /// The file got its name.
    Named(String),
    /// A name was taken away.
    Removed(String),
    /// The names were made durable.
    Synced,
}

/// A directory in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryDirectory {
    files: Mutex<BTreeMap<String, Arc<CountingStorage>>>,
    events: Mutex<Vec<Event>>,
}

impl MemoryDirectory {
    pub(crate) fn names(&self) -> Vec<String> {
        self.files.lock().unwrap().keys().cloned().collect()
    }

    /// What has happened since the beginning.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// What was done to a file since it was made.
    pub(crate) fn counts(&self, name: &str) -> Counts {
        self.files.lock().unwrap()[name].counts()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let file = Arc::clone(&self.files.lock().unwrap()[name]);
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, name)
}

impl Directory for MemoryDirectory {
    fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.files.lock().unwrap().contains_key(name))
    }

    fn claim(&self, name: &str) -> Result<Option<Arc<dyn Storage>>> {
        let file = self.files.lock().unwrap().get(name).cloned();
        Ok(file.map(|file| file as Arc<dyn Storage>))
    }

    fn create(&self, name: &str, becomes: &str) -> Result<Arc<dyn Storage>> {
        self.note(Event::Made(becomes.to_owned()));
        let file = CountingStorage::new(Arc::new(MemoryStorage::new([])));
        let before = self.files.lock().unwrap().insert(name.to_owned(), Arc::clone(&file));
        assert!(before.is_none(), "{name:?} is made twice");
        Ok(file)
    }

    fn rename(&self, name: &str, becomes: &str, replace: bool) -> Result<()> {
        let mut files = self.files.lock().unwrap();
        if files.contains_key(becomes) && !replace {
            return Err(Error::new(ErrorKind::AlreadyExists, becomes));
        }
        let file = files.remove(name).ok_or_else(|| not_found(name))?;
        files.insert(becomes.to_owned(), file);
        self.note(Event::Named(becomes.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.note(Event::Removed(name.to_owned()));
        self.files.lock().unwrap().remove(name).map(|_| ()).ok_or_else(|| not_found(name))
    }

    fn sync(&self) -> Result<()> {
        self.note(Event::Synced);
        Ok(())
    }
}

impl Resolve for MemoryDirectory {
    fn resolve(&self, name: &str) -> Result<Arc<dyn Storage>> {
        let plain = name.strip_prefix("./").unwrap_or(name);
        self.claim(plain)?.ok_or_else(|| not_found(name))
    }
}
