//! A directory that fails where it is told to: a wrapper around any other.

use std::sync::Arc;

use vmdk::{Directory, Error, Resolve, Result, Storage, StorageId};

use super::storage::{Countdown, FaultStorage, Operation};

/// Lets others do something before a call, which is about the file of this name.
type Hook = Box<dyn Fn(Operation, &str) + Send + Sync>;

/// Counts calls, also those of the files, and makes one of them fail. Files count under the names that they are to
/// have.
pub struct FaultDirectory<D> {
    inner: D,
    countdown: Arc<Countdown>,
    before: Option<Hook>,
}

impl<D> FaultDirectory<D> {
    /// Wraps `inner`; nothing fails before the countdown says so.
    pub fn new(inner: D, countdown: &Arc<Countdown>) -> Self {
        Self { inner, countdown: Arc::clone(countdown), before: None }
    }

    /// Calls `hook` before each call of the directory.
    #[must_use]
    pub fn before(self, hook: impl Fn(Operation, &str) + Send + Sync + 'static) -> Self {
        Self { before: Some(Box::new(hook)), ..self }
    }

    fn pass(&self, operation: Operation, name: &str) -> Result<()> {
        if let Some(before) = &self.before {
            before(operation, name);
        }
        let failure = self.countdown.pass(name, operation, &(0..0));
        failure.map_or(Ok(()), |failure| Err(Error::from(failure.error())))
    }

    fn wrap(&self, name: &str, storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
        FaultStorage::counted(storage, name, &self.countdown)
    }
}

impl<D: Directory> Directory for FaultDirectory<D> {
    fn exists(&self, name: &str) -> Result<bool> {
        self.pass(Operation::Exists, name)?;
        self.inner.exists(name)
    }

    fn claim(&self, name: &str) -> Result<Option<Arc<dyn Storage>>> {
        self.pass(Operation::Claim, name)?;
        Ok(self.inner.claim(name)?.map(|storage| self.wrap(name, storage)))
    }

    fn create(&self, name: &str, becomes: &str) -> Result<Arc<dyn Storage>> {
        self.pass(Operation::Create, becomes)?;
        Ok(self.wrap(becomes, self.inner.create(name, becomes)?))
    }

    fn rename(&self, name: &str, becomes: &str, replace: bool) -> Result<()> {
        self.pass(Operation::Rename, becomes)?;
        self.inner.rename(name, becomes, replace)
    }

    fn link(&self, name: &str, becomes: &str) -> Result<()> {
        self.pass(Operation::Link, becomes)?;
        self.inner.link(name, becomes)
    }

    fn is_link(&self, name: &str, other: &str) -> Result<bool> {
        self.pass(Operation::Exists, other)?;
        self.inner.is_link(name, other)
    }

    fn id_of(&self, name: &str) -> Result<Option<StorageId>> {
        self.pass(Operation::Exists, name)?;
        self.inner.id_of(name)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.pass(Operation::Remove, name)?;
        self.inner.remove(name)
    }

    fn sync(&self) -> Result<()> {
        self.pass(Operation::SyncNames, "")?;
        self.inner.sync()
    }
}

impl<D: Resolve> Resolve for FaultDirectory<D> {
    fn resolve(&self, name: &str) -> Result<Arc<dyn Storage>> {
        Ok(self.wrap(name, self.inner.resolve(name)?))
    }
}
