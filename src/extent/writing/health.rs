//! Whether it is known what of an image is durable.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// Shared by an image and all its extents. After a failed sync, or a failed write of metadata, nothing can be promised
/// any more: the kernel may have dropped the pages, and the next sync lies. So nothing is written until a new open.
#[derive(Debug, Default)]
pub(crate) struct Health {
    poisoned: AtomicBool,
}

impl Health {
    /// # Errors
    /// `Poisoned` after a failure.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) { Err(poisoned()) } else { Ok(()) }
    }

    /// Passes on the result of a sync or a metadata write, and remembers a failure.
    pub(crate) fn watch<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.poisoned.store(true, Ordering::Release);
        }
        result
    }
}

#[cold]
fn poisoned() -> Error {
    let text = "an earlier sync or metadata write failed, so nothing more is written; open the image again";
    Error::text(ErrorKind::Poisoned, text)
}
