//! A copy of a disk as it is: of the same type, in as many files, byte for byte, under another name.
//!
//! ```text
//! files of the link -> a file under a name of its own each: kernel copy (a reflink where there are those), holes kept
//!                   -> the descriptor says the new names -> synced -> all get their names, the descriptor last
//! ```
//!
//! It is there as a whole or not at all, as every new disk.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::copy::copy_file;
use super::parts::{Names, Parts, STALE, Target, TextChanges, Whose};
use super::site::{LinkDirectory, Place, Site};
use super::{CopyProgress, OpenOptions, VmdkImage, report};
use crate::block_device::BlockDevice;
use crate::create::{self, Kept, NewFiles, Terms, check_name, new_disk_id};
use crate::descriptor::{MAX_DESCRIPTOR_LEN, spaced};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::HostFile;
use crate::link::Link;
use crate::sector::to_usize;
use crate::storage::{Directory, Storage};

/// How a disk is copied as it is.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct CopyDiskOptions {
    replace: bool,
    new_disk_id: bool,
}

impl CopyDiskOptions {
    /// Nothing that exists is replaced, and the copy has the identity of the disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether files that have the new names already are replaced, once the copy is complete. Somebody's use of them is
    /// [`Locked`](ErrorKind::Locked).
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Whether the copy gets an identity of its own (`ddb.uuid`), by which guests may tell it from the disk.
    pub fn new_disk_id(mut self, new: bool) -> Self {
        self.new_disk_id = new;
        self
    }
}

/// What was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyDiskReport {
    /// The files of the copy, the one with the descriptor first; in a directory that was given, their names.
    pub files: Vec<PathBuf>,
    /// The sum of their lengths in bytes, holes included.
    pub bytes: u64,
    /// What the copy calls the parent, if that is another way to it from another directory.
    pub parent_hint: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl OpenOptions {
    /// Copies the disk at `path`, but not its parents, to `new_path`: the same type, the same number of files, the same
    /// bytes in them but for the descriptor, holes where the disk has them. The files of its extents are named after
    /// the copy and lie beside it, wherever those of the disk are; the descriptor says so, and leads to the same
    /// parent.
    ///
    /// The bytes move in the kernel, and are shared where the file system can do that. The copy is there as a whole,
    /// durable, or not at all, as with [`CreateOptions`](crate::CreateOptions). Nobody may use it who may not use the
    /// disk.
    ///
    /// The copy has the content ID of the disk. So a child of one may be attached to the other, as long as neither was
    /// written to: the one that is gets another content ID.
    ///
    /// `progress` is called at least every 16 MiB; it stops the work by breaking, and nothing is left of the copy then.
    ///
    /// # Errors
    /// As for [`open`](Self::open); [`AlreadyExists`](ErrorKind::AlreadyExists) for a name that is taken;
    /// [`Unsupported`](ErrorKind::Unsupported), by name, for disks with change tracking, native snapshots, devices,
    /// parts of disks, and descriptors without room; [`InvalidInput`](ErrorKind::InvalidInput) for names that a
    /// descriptor cannot hold, for replacing what belongs to the disk or its parents, and for an identity that is to
    /// stand in no descriptor; [`Cancelled`](ErrorKind::Cancelled); what the host reports.
    pub fn copy_disk(
        &self,
        path: impl AsRef<Path>,
        new_path: impl AsRef<Path>,
        options: &CopyDiskOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CopyDiskReport> {
        let path = path.as_ref();
        let place = create::Place::of(new_path.as_ref())?;
        let target = Target::on_host(&place);
        self.copy_to(Place::Host(path), &target, options, progress).map_err(|error| error.in_file(path))
    }

    /// As [`copy_disk`](Self::copy_disk), of the disk whose file with the descriptor is called `name` in `directory`,
    /// where everything that it names is found, too, and the copy will be.
    ///
    /// # Errors
    /// As for [`copy_disk`](Self::copy_disk).
    pub fn copy_disk_in(
        &self,
        name: &str,
        new_name: &str,
        directory: &dyn Directory,
        options: &CopyDiskOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CopyDiskReport> {
        let target = Target::in_directory(new_name, directory);
        self.copy_to(Place::In(name, directory), &target, options, progress)
    }

    fn copy_to(
        &self,
        source: Place<'_>,
        target: &Target<'_>,
        options: &CopyDiskOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CopyDiskReport> {
        check_name(target.name)?;
        let open = self.clone().write(false);
        let site = Site::new(&open, source);
        let image = site.open(&open)?;
        let link = &*image.chain()[0];
        let (from, name) = site.directory_of(link)?;
        let is_same_directory = from.is(&target.to);
        let names = Names { old: &name, new: target.name, is_same_directory };
        let parts = Parts::of(link, names, Whose::All, target.place.is_some(), self.allows_bare_extent())?;
        let parent_hint = match target.place {
            Some(place) if !is_same_directory => {
                parts.hint_from(place, image.chain().get(1).map(|parent| &**parent))?
            }
            _ => None,
        };
        let mut notes = Vec::new();
        let changes = TextChanges {
            own_name: true,
            all_names: true,
            hint: parent_hint.clone(),
            disk_id: options.new_disk_id.then(|| spaced(&new_disk_id())),
        };
        let text = new_text(link, &parts, target.name, changes, &mut notes)?;
        let kept = kept(&image);
        let terms = Terms { replace: options.replace, sync: true, kept: &kept };
        let copy = Copy { link, parts: &parts, target, text };
        let bytes = copy.make(&terms, progress)?;
        let new = std::iter::once(target.name).chain(parts.files.iter().map(|part| &*part.new));
        let files = new.map(|name| target.to.path().join(name)).collect();
        Ok(CopyDiskReport { files, bytes, parent_hint, notes })
    }
}

/// A copy that is to be made.
struct Copy<'a> {
    link: &'a Link,
    parts: &'a Parts<'a>,
    target: &'a Target<'a>,
    /// The text of its descriptor, if it has one.
    text: Option<Vec<u8>>,
}

impl Copy<'_> {
    /// Makes all files; says how many bytes there are in them.
    fn make(&self, terms: &Terms<'_>, progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>) -> Result<u64> {
        let Target { to, name, .. } = self.target;
        let names = self.parts.files.iter().map(|part| part.new.clone()).chain([(*name).to_owned()]);
        let mut files = NewFiles::begin(names, to.as_dyn(), to.path(), terms, |_, _| Ok(false))?;
        let head = Some(self.link.file()).filter(|_| !self.parts.is_apart());
        let sources = || self.parts.files.iter().map(|part| part.file).chain(head);
        let total = sources().fold(0_u64, |sum, file| sum.saturating_add(file.len()));
        let mut done = 0_u64;
        report(progress, CopyProgress { done, total })?;
        for (number, source) in sources().enumerate() {
            let is_head = number == self.parts.files.len();
            let new = self.make_file(&mut files, number, source)?;
            let mut moved = |bytes| {
                done = done.saturating_add(bytes);
                report(progress, CopyProgress { done, total })
            };
            let copied = copy_file(source, &*new, &mut moved);
            let copied = copied.and_then(|()| if is_head { self.write_embedded(&*new) } else { Ok(()) });
            copied.map_err(|error| error.in_file(&files.path(number)))?;
            files.sync(number, &*new)?;
        }
        let mut bytes = total;
        if let Some(text) = self.text.as_ref().filter(|_| self.parts.is_apart()) {
            let number = self.parts.files.len();
            let new = self.make_file(&mut files, number, self.link.file())?;
            let written = new.write_all_at(text, 0);
            written.map_err(|cause| Error::host("cannot write the descriptor", cause).in_file(&files.path(number)))?;
            files.sync(number, &*new)?;
            bytes = bytes.saturating_add(text.len() as u64);
        }
        files.publish()?;
        files.keep();
        Ok(bytes)
    }

    /// Makes a file that is as private as the one that it is a copy of.
    fn make_file(
        &self,
        files: &mut NewFiles<'_>,
        number: usize,
        source: &HostFile,
    ) -> Result<std::sync::Arc<dyn Storage>> {
        match &self.target.to {
            LinkDirectory::Host(to) => files.make_in(number, &to.clone().only_for_users_of(source.path()), None),
            LinkDirectory::Given(_) => files.make(number),
        }
    }

    /// Writes the descriptor into the copy of the file that has it.
    fn write_embedded(&self, new: &dyn Storage) -> Result<()> {
        let Some(text) = self.text.as_ref().filter(|text| **text != self.link.descriptor().as_bytes()) else {
            return Ok(());
        };
        let region = self.link.descriptor_region()?;
        let mut bytes = vec![0; to_usize(region.end - region.start)];
        if let Some(place) = bytes.get_mut(..text.len()) {
            place.copy_from_slice(text);
        }
        new.write_all_at(&bytes, region.start).map_err(|cause| Error::host("cannot write the descriptor", cause))
    }
}

/// The text of the copy, which must have room; without the new name of an extent that is the disk itself, if that is
/// all there is no room for.
fn new_text(
    link: &Link,
    parts: &Parts<'_>,
    name: &str,
    changes: TextChanges,
    notes: &mut Vec<String>,
) -> Result<Option<Vec<u8>>> {
    let Some(text) = parts.text(name, &changes)? else {
        if changes.disk_id.is_some() {
            let text = "a disk without a descriptor, in which an identity of its own would have to stand";
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        return Ok(None);
    };
    let room = if parts.is_apart() {
        MAX_DESCRIPTOR_LEN
    } else {
        let region = link.descriptor_region()?;
        to_usize(region.end - region.start)
    };
    // A zero byte ends an embedded one.
    let fits = |text: &[u8]| text.len() < room || text == link.descriptor().as_bytes();
    if fits(&text) {
        return Ok(Some(text));
    }
    let changes = TextChanges { own_name: false, ..changes };
    let shorter = parts.text(name, &changes)?.filter(|text| fits(text));
    if shorter.is_some() {
        notes.push(STALE.to_owned());
        return Ok(shorter);
    }
    let text =
        format!("the descriptor would have {} bytes, where there is room for {}", text.len(), room.saturating_sub(1));
    Err(Error::text(ErrorKind::Unsupported, text))
}

/// What the copy must not replace: the disk, and what is below it.
fn kept(image: &VmdkImage) -> Kept {
    let paths = image.host_files().iter().map(|file| file.path().to_owned()).collect();
    Kept { ids: image.storage_ids(), paths }
}
