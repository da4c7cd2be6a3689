//! Host files that are opened when they are needed and closed again: for images of more files than a process may have
//! open.
//!
//! The first files of an image keep their handle for good; reading them takes no lock. The others share a few
//! handles, those used last. A handle in use is counted, so that closing it in the pool does not pull it away from
//! under a read; a file that is opened again must still be the same one. A file that is written keeps its handle.
//!
//! Every handle is locked while it is open. So a file between two handles is not: it is locked anew when it is opened
//! again, and if somebody else writes it then, that is an error.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::{FileStorage, HeldFiles, Locking, Purpose, Storage, StorageId};
use crate::error::{Error, ErrorKind, Result};

/// How many handles an image holds unless the caller says otherwise: half of the smallest limit that is usual for a
/// process. The files with the descriptors come on top.
pub(crate) const DEFAULT_MAX_OPEN: usize = 128;

/// The most handles that are shared: the map for them is made at once.
const MAX_SHARED: usize = 1024;

/// Opens the file again.
type Reopen = Box<dyn Fn() -> io::Result<File> + Send + Sync>;

/// The handles of one image.
#[derive(Debug)]
pub(crate) struct FilePool {
    locking: Locking,
    /// How many files may still keep their handle.
    keep: AtomicUsize,
    shared: Mutex<LruCache<u64, Arc<FileStorage>>>,
    /// The files there are: one that is named in several ways has one handle.
    held: HeldFiles,
    next: AtomicUsize,
}

impl FilePool {
    /// A pool of `max_open` handles, at least two. A quarter of them is shared.
    pub(crate) fn new(max_open: usize, locking: Locking) -> Arc<Self> {
        let shared = NonZeroUsize::new((max_open / 4).min(MAX_SHARED)).unwrap_or(NonZeroUsize::MIN);
        let keep = AtomicUsize::new(max_open.saturating_sub(shared.get()).max(1));
        Arc::new(Self {
            locking,
            keep,
            shared: Mutex::new(LruCache::new(shared)),
            held: HeldFiles::default(),
            next: AtomicUsize::new(0),
        })
    }

    /// Counts a file that is open already, outside of the pool, and is only read.
    pub(crate) fn hold(&self, storage: &Arc<dyn Storage>) {
        self.held.hold(storage, Purpose::Read);
    }

    /// Takes over a file with a descriptor, which keeps its handle and does not count.
    pub(crate) fn add_head(&self, file: File, purpose: Purpose) -> Result<Arc<dyn Storage>> {
        let file = storage(file)?;
        // The storage that is there may be without a handle of its own.
        if self.held.share(file.id(), purpose)?.is_some() && purpose.writes() {
            let text = "the chain leads back to this file, which is open for writing already";
            return Err(Error::text(ErrorKind::BadChain, text));
        }
        let storage: Arc<dyn Storage> = Arc::new(file.lock(purpose, self.locking)?);
        self.held.hold(&storage, purpose);
        Ok(storage)
    }

    /// Takes over a file that `reopen` opens for reading as well; gives back the storage that is there, if the file is
    /// known.
    pub(crate) fn add(
        self: &Arc<Self>,
        file: File,
        purpose: Purpose,
        reopen: impl Fn() -> io::Result<File> + Send + Sync + 'static,
    ) -> Result<Arc<dyn Storage>> {
        let file = storage(file)?;
        if let Some(there) = self.held.share(file.id(), purpose)? {
            return Ok(there);
        }
        let file = file.lock(purpose, self.locking)?;
        let storage = self.add_new(file, purpose, reopen);
        self.held.hold(&storage, purpose);
        Ok(storage)
    }

    fn add_new(
        self: &Arc<Self>,
        file: FileStorage,
        purpose: Purpose,
        reopen: impl Fn() -> io::Result<File> + Send + Sync + 'static,
    ) -> Arc<dyn Storage> {
        let kept = self.keep.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if kept.is_ok() || purpose.writes() {
            return Arc::new(file);
        }
        let key = self.next.fetch_add(1, Ordering::Relaxed) as u64;
        let id = file.id();
        if id.is_none() {
            // Nothing would tell whether it is the same file when it is opened again.
            return Arc::new(file);
        }
        self.keep(key, Arc::new(file));
        Arc::new(PooledFile { pool: Arc::clone(self), key, id, reopen: Box::new(reopen) })
    }

    fn get(&self, key: u64) -> Option<Arc<FileStorage>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Puts a handle in; the one that has to go is closed after the lock is given back.
    fn keep(&self, key: u64, file: Arc<FileStorage>) {
        let gone = self.shared.lock().unwrap_or_else(PoisonError::into_inner).push(key, file);
        drop(gone);
    }
}

fn storage(file: File) -> Result<FileStorage> {
    FileStorage::new(file).map_err(|cause| Error::host("cannot find out what the file is", cause))
}

/// A file without a handle of its own.
struct PooledFile {
    pool: Arc<FilePool>,
    key: u64,
    id: Option<StorageId>,
    reopen: Reopen,
}

impl PooledFile {
    fn file(&self) -> io::Result<Arc<FileStorage>> {
        if let Some(file) = self.pool.get(self.key) {
            return Ok(file);
        }
        let file = FileStorage::new((self.reopen)()?)?;
        if file.id() != self.id {
            return Err(io::Error::other("the file was replaced by another while the image was open"));
        }
        let file = Arc::new(file.lock(Purpose::Read, self.pool.locking)?);
        self.pool.keep(self.key, Arc::clone(&file));
        Ok(file)
    }
}

impl std::fmt::Debug for PooledFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PooledFile").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Storage for PooledFile {
    fn len(&self) -> io::Result<u64> {
        self.file()?.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file()?.read_exact_at(buf, offset)
    }

    fn read_exact_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.file()?.read_exact_vectored_at(bufs, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file()?.write_all_at(buf, offset)
    }

    fn write_all_vectored_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file()?.write_all_vectored_at(bufs, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file()?.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file()?.sync()
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.file()?.punch_hole(range)
    }

    fn allocated_len(&self) -> io::Result<u64> {
        self.file()?.allocated_len()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.file()?.next_data(offset)
    }

    fn id(&self) -> Option<StorageId> {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    /// Files with their number as content, and how often one was opened again.
    struct Files {
        dir: tempfile::TempDir,
        reopened: Arc<AtomicU64>,
        storages: Vec<Arc<dyn Storage>>,
    }

    fn files(count: u8, max_open: usize) -> Files {
        let dir = tempfile::tempdir().unwrap();
        let reopened = Arc::new(AtomicU64::new(0));
        let pool = FilePool::new(max_open, Locking::On);
        let storages = (0..count)
            .map(|number| {
                let path = dir.path().join(number.to_string());
                std::fs::write(&path, [number]).unwrap();
                let count = Arc::clone(&reopened);
                let file = File::open(&path).unwrap();
                let reopen = move || {
                    count.fetch_add(1, Ordering::Relaxed);
                    File::open(&path)
                };
                pool.add(file, Purpose::Read, reopen).unwrap()
            })
            .collect();
        Files { dir, reopened, storages }
    }

    fn read(files: &Files, number: usize) -> io::Result<u8> {
        let mut byte = [0];
        files.storages[number].read_exact_at(&mut byte, 0)?;
        Ok(byte[0])
    }

    #[test]
    fn no_limit_is_no_reason_to_take_memory() {
        let files = files(3, usize::MAX);
        assert_eq!(read(&files, 2).unwrap(), 2);
    }

    #[test]
    fn within_the_limit_nothing_is_opened_again() {
        let files = files(6, 8);
        for _ in 0..3 {
            for number in 0..6 {
                assert_eq!(read(&files, number.into()).unwrap(), number);
            }
        }
        assert_eq!(files.reopened.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn beyond_the_limit_files_are_opened_again_and_those_used_last_are_kept() {
        // Six keep their handle, two handles are shared by the other six files.
        let files = files(12, 8);
        for number in 0..12 {
            assert_eq!(read(&files, number.into()).unwrap(), number);
        }
        let before = files.reopened.load(Ordering::Relaxed);
        for number in [11, 10, 11, 10, 0, 5] {
            read(&files, number).unwrap();
        }
        assert_eq!(files.reopened.load(Ordering::Relaxed), before);
        read(&files, 6).unwrap();
        assert_eq!(files.reopened.load(Ordering::Relaxed), before + 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_was_replaced_is_refused() {
        let files = files(12, 8);
        std::fs::write(files.dir.path().join("new"), [99]).unwrap();
        std::fs::rename(files.dir.path().join("new"), files.dir.path().join("6")).unwrap();
        assert_eq!(read(&files, 6).unwrap_err().kind(), io::ErrorKind::Other);
        assert_eq!(read(&files, 7).unwrap(), 7);
    }
}
