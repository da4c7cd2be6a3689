//! An appliance in a file, whose members are read at random.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::meter::{Budget, Metered};
use super::{MAX_MEMBERS, bad_archive, file_name, no_member, too_many};
use crate::error::{Error, ErrorKind, Result};
use crate::locate::{Opened, Resolve};
use crate::storage::{FilePool, JoinedStorage, Locking, Purpose, Storage, StorageReader, WindowStorage, chunk_name};

/// An appliance (`.ova`) in a file: its members, and each of them as a [`Storage`].
///
/// It is a [resolver](Resolve) for its own names, so that a disk of any kind is read where it is:
///
/// ```no_run
/// # fn main() -> vmdk::Result<()> {
/// let archive = vmdk::OvaArchive::open("appliance.ova")?;
/// let disk = vmdk::OpenOptions::new().open_with("disk1.vmdk", &archive)?;
/// # Ok(()) }
/// ```
///
/// A disk that lies in the archive in chunks (`disk1.vmdk.000000000`, ...) has its name as a whole, too.
///
/// Only headers are read when the archive is opened; what lies between them is passed over. An archive may
/// claim anything: members past its end, names without end, and more than 10,000 members are errors, and a member's
/// name is never that of a file of the host.
#[derive(Debug)]
pub struct OvaArchive {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    members: Vec<OvaMember>,
}

/// A file in an appliance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OvaMember {
    /// Its name, without a leading `./`. What is no UTF-8 in it is replaced.
    pub name: String,
    /// Where its content begins in the archive, in bytes.
    pub offset: u64,
    /// The length of its content in bytes.
    pub len: u64,
}

impl OvaArchive {
    /// Opens the archive at `path` for reading, with the lock of an image that is read, and reads the headers of its
    /// members.
    ///
    /// # Errors
    /// What the host reports; [`Locked`](ErrorKind::Locked); [`Corrupt`](ErrorKind::Corrupt) for what is no archive, or
    /// one that contradicts itself; [`Unsupported`](ErrorKind::Unsupported) for members that are stored with holes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let opened = Opened::by_caller(path.as_ref(), Purpose::Read, &FilePool::new(1, Locking::On))?;
        Self::new(opened.storage, opened.path)
    }

    /// The archive that `storage` holds. Errors call it `name`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn new(storage: Arc<dyn Storage>, name: impl Into<PathBuf>) -> Result<Self> {
        let path = name.into();
        let members = read_members(&storage).map_err(|error| error.in_file(&path))?;
        Ok(Self { storage, path, members })
    }

    /// The real path of the archive, or the name that was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files in it, in their order.
    pub fn members(&self) -> &[OvaMember] {
        &self.members
    }

    /// The bytes of the archive itself.
    pub fn archive_storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The content of a member, only to be read. Of several with one name it is the last, as for those who
    /// unpack archives; a name that only chunks have is that of the whole.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) with the names that there are; [`Corrupt`](ErrorKind::Corrupt) for chunks of
    /// different lengths.
    pub fn storage(&self, name: &str) -> Result<Arc<dyn Storage>> {
        let found = match self.window(name) {
            Some(window) => return Ok(window),
            None if self.window(&chunk_name(name, 0)).is_some() => {
                JoinedStorage::of_chunks(|number| Ok(self.window(&chunk_name(name, number))))
            }
            None => Err(no_member(name, self.members.iter().map(|member| &*member.name))),
        };
        let joined: Arc<dyn Storage> = Arc::new(found.map_err(|error| error.in_file(&self.path))?);
        Ok(joined)
    }

    fn window(&self, name: &str) -> Option<Arc<dyn Storage>> {
        let name = name.strip_prefix("./").unwrap_or(name);
        let member = self.members.iter().rev().find(|member| member.name == name)?;
        Some(Arc::new(WindowStorage::new(Arc::clone(&self.storage), member.offset, member.len)))
    }
}

impl Resolve for OvaArchive {
    fn resolve(&self, name: &str) -> Result<Arc<dyn Storage>> {
        self.storage(name)
    }
}

fn read_members(storage: &Arc<dyn Storage>) -> Result<Vec<OvaMember>> {
    let no_length = |cause| Error::host("cannot find out the length", cause);
    let len = storage.len().map_err(no_length)?;
    let reader = StorageReader::new(Arc::clone(storage)).map_err(no_length)?;
    let budget = Budget::default();
    budget.metadata();
    let mut archive = tar::Archive::new(Metered::new(reader, &budget));
    let mut members = Vec::new();
    let mut count = 0;
    for entry in archive.entries_with_seek().map_err(bad_archive)? {
        let mut entry = entry.map_err(bad_archive)?;
        budget.metadata();
        count += 1;
        if count > MAX_MEMBERS {
            return Err(too_many());
        }
        let Some(name) = file_name(&mut entry)? else { continue };
        let (offset, member_len) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(member_len).is_none_or(|end| end > len) {
            let text = format!("the member {name:?} of {member_len} bytes ends past the archive of {len} bytes");
            return Err(Error::text(ErrorKind::Corrupt, text));
        }
        members.push(OvaMember { name, offset, len: member_len });
    }
    if count == 0 {
        return Err(Error::text(ErrorKind::Corrupt, "the archive is empty, or is none"));
    }
    Ok(members)
}
