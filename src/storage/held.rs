//! The files that one opening of an image holds already.
//!
//! A second handle of a file that is locked for writing would be refused by the lock of the first one, although both
//! belong to one disk: a descriptor may name one file on many lines. So such a file has one handle. What must not be
//! is that a parent is read from a file that its own child writes, whatever names lead there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Purpose, Storage, StorageId};
use crate::error::{Error, ErrorKind, Result};

/// The files that are held, by what they are; those that were given up meanwhile do not count.
#[derive(Debug, Default)]
pub(crate) struct HeldFiles {
    files: Mutex<HashMap<StorageId, Held>>,
}

#[derive(Debug)]
struct Held {
    storage: Weak<dyn Storage>,
    written: bool,
}

impl HeldFiles {
    /// The storage of a file that is held already, and may serve `purpose` as well.
    ///
    /// # Errors
    /// `BadChain` if one link of the chain would write what another one reads.
    pub(crate) fn share(&self, id: Option<StorageId>, purpose: Purpose) -> Result<Option<Arc<dyn Storage>>> {
        let files = self.lock();
        let held = id.and_then(|id| files.get(&id));
        let Some((storage, written)) = held.and_then(|held| Some((held.storage.upgrade()?, held.written))) else {
            return Ok(None);
        };
        let text = match (written, purpose) {
            (true, Purpose::Write | Purpose::ReadBeside) | (false, Purpose::Read | Purpose::ReadBeside) => {
                return Ok(Some(storage));
            }
            (true, Purpose::Read) => {
                "the chain leads back to this file, which is open for writing as a part of the image itself: a disk \
                 cannot be written through its own parent"
            }
            (false, Purpose::Write) => {
                "a parent of the image is read from this file, too: a disk cannot be written through its own parent"
            }
        };
        Err(Error::text(ErrorKind::BadChain, text))
    }

    /// Notes that `storage` is held from now on.
    pub(crate) fn hold(&self, storage: &Arc<dyn Storage>, purpose: Purpose) {
        if let Some(id) = storage.id() {
            let held = Held { storage: Arc::downgrade(storage), written: purpose.writes() };
            self.lock().insert(id, held);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StorageId, Held>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;

    /// Whether a file held for one purpose is shared for another.
    fn shared(held: Purpose, wanted: Purpose) -> Result<bool> {
        let files = HeldFiles::default();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new([]));
        files.hold(&storage, held);
        let shared = files.share(storage.id(), wanted)?;
        Ok(shared.is_some_and(|shared| Arc::ptr_eq(&shared, &storage)))
    }

    #[test]
    fn a_file_is_shared_within_a_link_but_never_read_and_written_by_different_ones() {
        use Purpose::{Read, ReadBeside, Write};
        for (held, wanted) in
            [(Read, Read), (Read, ReadBeside), (ReadBeside, Read), (Write, Write), (Write, ReadBeside)]
        {
            assert!(shared(held, wanted).unwrap(), "{held:?}, {wanted:?}");
        }
        for (held, wanted) in [(Read, Write), (Write, Read)] {
            assert_eq!(shared(held, wanted).unwrap_err().kind(), ErrorKind::BadChain, "{held:?}, {wanted:?}");
        }
    }

    #[test]
    fn what_was_given_up_and_what_has_no_identity_is_not_held() {
        let files = HeldFiles::default();
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new([]));
        let id = storage.id();
        files.hold(&storage, Purpose::Read);
        drop(storage);
        assert!(files.share(id, Purpose::Write).unwrap().is_none());
        assert!(files.share(None, Purpose::Write).unwrap().is_none());
    }
}
