//! The steps themselves, and the way back.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::super::parts::{Names, Part, Parts, STALE, TextChanges};
use super::super::site::LinkDirectory;
use super::super::{CopyProgress, report};
use super::{Child, RenamedFile};
use crate::create::{NewFiles, Terms};
use crate::descriptor::{Descriptor, MAX_DESCRIPTOR_LEN};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::HostFile;
use crate::link::{DescriptorFile, Link};
use crate::locate::parent_candidates;
use crate::sector::to_usize;
use crate::storage::{Directory, Storage};

/// What becomes of the file with the descriptor.
pub(super) enum Head {
    /// It is replaced by a new one with this text.
    New(Vec<u8>),
    /// It gets its name.
    Same(Option<OwnText>),
}

/// What a disk in a single file is to say of itself, and when it may do so: before it has the new name, while it has
/// both, it has to find its parent by the old one; then by the new one.
pub(super) enum OwnText {
    Before(Vec<u8>),
    After(Vec<u8>),
}

/// The work itself, once everything is known.
pub(super) struct Work<'a> {
    pub(super) link: &'a Link,
    pub(super) from: &'a LinkDirectory<'a>,
    pub(super) to: &'a LinkDirectory<'a>,
    pub(super) names: Names<'a>,
    pub(super) parts: &'a Parts<'a>,
}

/// What was done and can be undone.
struct Done<'a> {
    files: NewFiles<'a>,
    /// The descriptor in a file that stays the same.
    own: Option<DescriptorFile<'a>>,
    /// Those of children that lead to the new name, or may do so.
    followed: Vec<(&'a Path, DescriptorFile<'a>, &'a [u8])>,
    /// The new descriptor, with its lock.
    new_head: Option<Arc<dyn Storage>>,
}

impl Work<'_> {
    /// Finds out what the file with the descriptor is to say.
    pub(super) fn head(&self, hint: Option<&str>, parent: Option<&Link>, notes: &mut Vec<String>) -> Result<Head> {
        let changes = TextChanges { own_name: true, hint: hint.map(str::to_owned), ..TextChanges::default() };
        let Some(text) = self.parts.text(self.names.new, &changes)? else { return Ok(Head::Same(None)) };
        if self.parts.is_apart() && text == self.link.descriptor().as_bytes() {
            return Ok(Head::Same(None));
        }
        if self.parts.is_apart() {
            if text.len() < MAX_DESCRIPTOR_LEN {
                return Ok(Head::New(text));
            }
            let text = format!("the descriptor would have {} bytes, which is more than can be read", text.len());
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        let when = match hint {
            Some(hint) => self.when_to_say(hint, parent)?,
            None => OwnText::Before,
        };
        let file = DescriptorFile::new(self.link, self.from.as_dyn(), self.names.old)?;
        let Err(error) = file.check(&text) else { return Ok(Head::Same(Some(when(text)))) };
        let with_old_name = TextChanges { own_name: false, ..changes };
        let text = self.parts.text(self.names.new, &with_old_name)?.unwrap_or_default();
        if text != self.link.descriptor().as_bytes() && file.check(&text).is_err() {
            return Err(error);
        }
        notes.push(STALE.to_owned());
        Ok(Head::Same(Some(when(text))))
    }

    /// When a disk in a single file may name its parent by another way: while that leads there from the old directory,
    /// too, or once the old way does so from the new one. A parent is also looked for by its name alone.
    fn when_to_say(&self, hint: &str, parent: Option<&Link>) -> Result<fn(Vec<u8>) -> OwnText> {
        let Some(parent) = parent else { return Ok(OwnText::Before) };
        let leads_there = |dir: &LinkDirectory<'_>, hint: &str| {
            let path_of = |name: String| std::fs::canonicalize(dir.path().join(name)).ok();
            parent_candidates(hint).into_iter().filter_map(path_of).any(|path| path == parent.path())
        };
        let descriptor = self.link.descriptor();
        let old = descriptor.parent_hint().map(|hint| descriptor.decode_name(hint)).transpose()?.unwrap_or_default();
        if leads_there(self.from, hint) {
            return Ok(OwnText::Before);
        }
        if leads_there(self.to, &old) {
            return Ok(OwnText::After);
        }
        let text = format!(
            "neither does the way to the parent from there, {hint:?}, lead to it from here, nor that from here, {old:?}, from \
             there, and a crash between two steps would leave a disk that does not find it; copy the disk (copy_disk, \
             `vmdk copy`), and remove the old one"
        );
        Err(Error::text(ErrorKind::Unsupported, text))
    }

    pub(super) fn run(
        &self,
        head: &Head,
        children: &[Child<'_>],
        terms: &Terms<'_>,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        let own = match head {
            Head::Same(Some(_)) => Some(DescriptorFile::new(self.link, self.from.as_dyn(), self.names.old)?),
            _ => None,
        };
        let mut done = Done { files: self.begin(head, terms)?, own, followed: Vec::new(), new_head: None };
        let is_alone = match self.up_to_old_head(head, children, &mut done, progress) {
            Err(error) => return Err(self.undo(head, done, error)),
            Ok(is_alone) => is_alone,
        };
        // What has its names is locked until the end.
        let Done { files, mut own, followed: _followed, new_head: _new_head } = done;
        files.keep();
        let synced = if is_alone && !self.names.is_same_directory { self.to.as_dyn().sync() } else { Ok(()) };
        let removed = synced.and_then(|()| self.remove_parts());
        // Of two names it would have been said while the file had both.
        let said = removed.and_then(|()| if is_alone { say_after(head, &mut own) } else { Ok(()) });
        said.map_err(|error| {
            let text = format!(
                "the disk has its new name, {:?}, but not all that was left to do is done; old names that are left are taken \
                 away when the same is asked for again: {}",
                self.names.new,
                error.with_causes()
            );
            Error::text(error.kind(), text)
        })
    }

    /// The new names, of which some may be there from a run that was cut short.
    fn begin(&self, head: &Head, terms: &Terms<'_>) -> Result<NewFiles<'_>> {
        let moved: Vec<&Part<'_>> = self.moved().collect();
        let is_there = |number: usize, name: &str| match (moved.get(number), head) {
            (Some(part), _) => self.from.is_link(&part.old, self.to, name),
            (None, Head::Same(_)) => self.from.is_link(self.names.old, self.to, name),
            (None, Head::New(text)) => holds(self.to.as_dyn(), name, text),
        };
        if let Head::New(text) = head {
            self.check_not_used_since(text)?;
        }
        let names = moved.iter().map(|part| part.new.clone()).chain([self.names.new.to_owned()]);
        NewFiles::begin(names, self.to.as_dyn(), self.to.path(), terms, is_there)
    }

    /// Refuses to go on with a run that was cut short when the disk was written to by its new name meanwhile: the
    /// descriptor of the old name does not know of that, not even that the content is another one.
    fn check_not_used_since(&self, text: &[u8]) -> Result<()> {
        let to = self.to.as_dyn();
        let Some(there) = text_of(to, self.names.new)?.filter(|there| there != text) else { return Ok(()) };
        let Ok(descriptor) = Descriptor::parse(&there) else { return Ok(()) };
        let old_names: HashMap<&str, &str> = self.moved().map(|part| (&*part.new, &*part.old)).collect();
        for name in descriptor.extents().iter().filter_map(|line| descriptor.decode_name(line.name()?).ok()) {
            let Some(old) = old_names.get(&*name) else { continue };
            if self.from.is_link(old, self.to, &name)? {
                let text = format!(
                    "the disk has this name already, from a renaming that was cut short, and was changed by it since: of the \
                     descriptors {:?} and this one, the older one is to be removed",
                    self.names.old
                );
                return Err(Error::text(ErrorKind::AlreadyExists, text).in_file(&self.to.path().join(self.names.new)));
            }
        }
        Ok(())
    }

    /// The parts that get another name, or another place.
    fn moved(&self) -> impl Iterator<Item = &Part<'_>> {
        let is_same_directory = self.names.is_same_directory;
        self.parts.files.iter().filter(move |part| !is_same_directory || part.old != part.new)
    }

    /// Everything up to the moment from which on there is no way back. Says whether a file was renamed outright.
    fn up_to_old_head<'a>(
        &'a self,
        head: &Head,
        children: &'a [Child<'_>],
        done: &mut Done<'a>,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<bool> {
        if let (Head::Same(Some(OwnText::Before(text))), Some(own)) = (head, &mut done.own) {
            own.ensure(text)?;
        }
        let is_only = matches!(head, Head::Same(_)) && children.is_empty() && self.moved().next().is_none();
        match self.name_all(head, done, progress) {
            Err(error) if is_only && error.kind() == ErrorKind::Unsupported => {
                let rename = |name: &str, replace| self.from.rename(self.names.old, self.to, name, replace);
                return done.files.take(0, rename).map(|()| true);
            }
            named => named?,
        }
        for child in children {
            let (file, old) = (child.file()?, child.head.descriptor().as_bytes());
            done.followed.push((&child.path, file, old));
            if let Some((path, file, _)) = done.followed.last_mut() {
                file.ensure(&child.text).map_err(|error| error.in_file(path))?;
            }
        }
        say_after(head, &mut done.own)?;
        self.remove(self.names.old, self.link.file()).map(|()| false)
    }

    /// Gives all files their further names.
    fn name_all(
        &self,
        head: &Head,
        done: &mut Done<'_>,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        let len = |sum: u64, part: &Part<'_>| sum.saturating_add(part.file.len());
        let total = self.moved().fold(self.link.file().len(), len);
        let (files, mut at, mut last) = (&mut done.files, 0, 0);
        for (number, part) in self.moved().enumerate() {
            files.link(number, |name| self.link(&part.old, part.file, name))?;
            (at, last) = (len(at, part), number + 1);
            report(progress, CopyProgress { done: at, total })?;
        }
        match head {
            Head::Same(_) => files.link(last, |name| self.link(self.names.old, self.link.file(), name))?,
            Head::New(_) if files.is_named(last) => {}
            Head::New(text) => {
                let new = match (self.to, self.from) {
                    // As private as the old one, wherever that is.
                    (LinkDirectory::Host(to), LinkDirectory::Host(from)) => {
                        let to = to.clone().in_place_of(&from.path().join(self.names.old));
                        files.make_in(last, &to, None)?
                    }
                    (to, _) => files.make_in(last, to.as_dyn(), Some(self.names.old))?,
                };
                let written = new.write_all_at(text, 0);
                written
                    .map_err(|cause| Error::host("cannot write the descriptor", cause).in_file(&files.path(last)))?;
                files.sync(last, &*new)?;
                done.new_head = Some(new);
            }
        }
        report(progress, CopyProgress { done: total, total })?;
        done.files.publish()
    }

    /// Gives a file a further name.
    fn link(&self, old: &str, file: &HostFile, name: &str) -> Result<()> {
        self.from.link(old, self.to, name)?;
        let named = match self.to.as_dyn().id_of(name) {
            Ok(Some(id)) if file.storage().id() != Some(id) => Err(replaced().in_file(file.path())),
            looked => looked.map(drop),
        };
        // Nobody else knows of it yet; it may be what somebody has put there since the disk was opened.
        named.map_err(|error| match self.to.as_dyn().remove(name) {
            Ok(()) => error,
            Err(left) => {
                let text = format!("{}; and {name:?} is left: {}", error.with_causes(), left.with_causes());
                Error::text(error.kind(), text)
            }
        })
    }

    /// Takes the old name of a file away.
    fn remove(&self, name: &str, file: &HostFile) -> Result<()> {
        let from = self.from.as_dyn();
        let named = |error: Error| error.in_file(file.path());
        if from.id_of(name).map_err(named)?.is_some_and(|id| file.storage().id() != Some(id)) {
            return Err(named(replaced()));
        }
        from.remove(name).map_err(named)
    }

    /// Takes the old names of the parts away, once that of the disk is gone for good.
    fn remove_parts(&self) -> Result<()> {
        self.from.as_dyn().sync()?;
        if self.moved().next().is_none() {
            return Ok(());
        }
        self.moved().try_for_each(|part| self.remove(&part.old, part.file))?;
        self.from.as_dyn().sync()
    }

    /// Takes back what was done, the last thing first; the error says what could not be.
    fn undo(&self, head: &Head, done: Done<'_>, error: Error) -> Error {
        let Done { mut files, own, followed, new_head: _lock } = done;
        let mut left = Vec::new();
        for (path, mut file, old) in followed.into_iter().rev() {
            left.extend(file.replace(old).err().map(|error| (path.to_owned(), error)));
        }
        if left.is_empty() {
            // By its old name alone it might not find its parent with the new text.
            let undone = own.map_or(Ok(()), |mut own| own.replace(self.link.descriptor().as_bytes()));
            left.extend(undone.err().map(|error| (self.link.path().to_owned(), error)));
        }
        let text = self.link.descriptor().as_bytes();
        if left.is_empty() && matches!(head, Head::Same(Some(OwnText::After(after))) if after == text) {
            // An earlier run has said so already, and by the old name alone it would not find its parent.
            files.keep();
        } else if left.is_empty() {
            left.extend(files.undo());
        } else {
            // A child may look for the new name, now or after a crash.
            let stays = || Error::text(ErrorKind::Io, "the disk has this name as well");
            left.extend(self.renamed().into_iter().map(|file| (file.to, stays())));
            files.keep();
        }
        if left.is_empty() {
            return error;
        }
        let left: Vec<String> =
            left.iter().map(|(path, error)| format!("{}: {}", path.display(), error.with_causes())).collect();
        let text = format!(
            "{}; and what was done before could not be undone, the disk has its old name, but: {}",
            error.with_causes(),
            left.join("; ")
        );
        Error::text(error.kind(), text)
    }

    pub(super) fn renamed(&self) -> Vec<RenamedFile> {
        let parts = self.moved().map(|part| (&*part.old, &*part.new));
        let all = std::iter::once((self.names.old, self.names.new)).chain(parts);
        let (from, to) = (self.from.path(), self.to.path());
        all.map(|(old, new)| RenamedFile { from: from.join(old), to: to.join(new) }).collect()
    }
}

/// Lets a disk in a single file say what it may say once it has its new name.
fn say_after(head: &Head, own: &mut Option<DescriptorFile<'_>>) -> Result<()> {
    match (head, own) {
        (Head::Same(Some(OwnText::After(text))), Some(own)) => own.ensure(text),
        _ => Ok(()),
    }
}

/// Whether a file of this name has this text, and nobody uses it.
fn holds(directory: &dyn Directory, name: &str, text: &[u8]) -> Result<bool> {
    Ok(text_of(directory, name)?.is_some_and(|there| there == text))
}

/// What is in a file, if nobody uses it and it is no larger than a descriptor.
fn text_of(directory: &dyn Directory, name: &str) -> Result<Option<Vec<u8>>> {
    if !directory.exists(name)? {
        return Ok(None);
    }
    let file = match directory.claim(name) {
        Err(error) if matches!(error.kind(), ErrorKind::Locked | ErrorKind::InvalidInput | ErrorKind::ReadOnly) => {
            return Ok(None);
        }
        file => file?,
    };
    let Some(file) = file else { return Ok(None) };
    let failed = |cause| Error::host("cannot read the file of the new name", cause).in_file(Path::new(name));
    let len = to_usize(file.len().map_err(failed)?);
    if len > MAX_DESCRIPTOR_LEN {
        return Ok(None);
    }
    let mut text = vec![0; len];
    file.read_exact_at(&mut text, 0).map_err(failed)?;
    Ok(Some(text))
}

fn replaced() -> Error {
    Error::text(ErrorKind::Io, "another file has the name by now")
}
