//! The files that a link consists of, and what they are called when the link gets another name.
//!
//! The file with the descriptor is the link's head; the others are its parts. A part that is named after the disk is
//! named after it again: `old-s001.vmdk` becomes `new-s001.vmdk`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::site::LinkDirectory;
use crate::create::{Place, further_name, renamed};
use crate::descriptor::{Access, Descriptor, ExtentKind, ExtentLine, relative};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, FileIdentity, HostFile};
use crate::format::SparseHeader;
use crate::link::{Link, later_part, not_understood, part_name};
use crate::locate::is_relative_hint;
use crate::storage::Directory;

/// A link that gets another name.
pub(super) struct Parts<'a> {
    link: &'a Link,
    form: Form,
    /// Every file once, but for the head.
    pub(super) files: Vec<Part<'a>>,
    /// The names of the extents whose files keep theirs.
    pub(super) kept: Vec<String>,
    /// The first of them that would lead somewhere else from another directory.
    stays_behind: Option<String>,
}

/// The file of an extent, or of several.
pub(super) struct Part<'a> {
    pub(super) file: &'a HostFile,
    /// What it is called in its directory.
    pub(super) old: String,
    pub(super) new: String,
    kind: ExtentKind,
    /// The numbers of the extents that lie in it.
    extents: Vec<usize>,
}

/// Where the descriptor is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// In a file of its own.
    Apart,
    /// In a sparse extent, which may have a line.
    Embedded { line: Option<usize> },
    /// There is none.
    Bare,
}

/// Which files are parts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those that are the link's own: it writes to them, and they lie beside its head. Others keep their names: they
    /// may belong to other disks as well, and nothing leads astray if they stay where they are.
    Own,
    /// All of them, wherever they lie.
    All,
}

/// Where a link is to be under its new name.
pub(super) struct Target<'a> {
    pub(super) to: LinkDirectory<'a>,
    pub(super) name: &'a str,
    /// The same on the host.
    pub(super) place: Option<&'a Place>,
}

/// What people are told where the name of an extent that is the disk itself has no room.
pub(super) const STALE: &str = "the descriptor in the disk has no room for another text: the name of the file in it, which \
                                readers pass over, is still the old one";

impl<'a> Target<'a> {
    pub(super) fn on_host(place: &'a Place) -> Self {
        Self { to: LinkDirectory::Host(Box::new(place.directory.clone())), name: &place.name, place: Some(place) }
    }

    pub(super) fn in_directory(name: &'a str, directory: &'a dyn Directory) -> Self {
        Self { to: LinkDirectory::Given(directory), name, place: None }
    }
}

/// The names that a link has and is to have.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) old: &'a str,
    pub(super) new: &'a str,
    /// Whether both are in the same directory.
    pub(super) is_same_directory: bool,
}

impl<'a> Parts<'a> {
    /// Finds the parts of a link and their new names. `on_host` says whether the paths of files are those of the host.
    ///
    /// # Errors
    /// `Unsupported` for what the crate would have to understand and does not, by name.
    pub(super) fn of(link: &'a Link, names: Names<'_>, whose: Whose, on_host: bool, bare: bool) -> Result<Self> {
        if let Some(what) = not_understood(link.descriptor()) {
            return refused(format!("{what} gets no other name"));
        }
        if let Some(line) = link.descriptor().raw_maps().next() {
            let what = format!("a raw device map ({}), of which the disk has only the name,", line.kind());
            return refused(format!("{what} is not renamed or copied with it; convert the disk to copy its data"));
        }
        check_regular(link.path(), on_host)?;
        let mut parts = Self { link, form: form(link), files: Vec::new(), kept: Vec::new(), stays_behind: None };
        if parts.form == Form::Bare {
            parts.find_bare(names, bare)?;
        } else {
            parts.find(whose, on_host)?;
            parts.name(names, whose);
        }
        parts.files.iter().try_for_each(|part| check_regular(part.file.path(), on_host))?;
        Ok(parts)
    }

    /// Whether the descriptor is a file of its own.
    pub(super) fn is_apart(&self) -> bool {
        self.form == Form::Apart
    }

    /// Refuses a link that cannot go to another directory because an extent stays behind.
    ///
    /// # Errors
    /// `Unsupported`.
    pub(super) fn check_nothing_stays_behind(&self) -> Result<()> {
        let Some(name) = &self.stays_behind else { return Ok(()) };
        refused(format!(
            "the extent {name:?} is not the disk's own (it takes no writes, or lies somewhere else), and would not be found \
             from another directory"
        ))
    }

    /// The text of the descriptor under other names; `None` if there is none.
    ///
    /// # Errors
    /// `InvalidInput` for a name that the descriptor cannot hold.
    pub(super) fn text(&self, new_name: &str, changes: &TextChanges) -> Result<Option<Vec<u8>>> {
        if self.form == Form::Bare {
            return Ok(None);
        }
        let mut text = self.link.descriptor().revise();
        let own = match self.form {
            Form::Embedded { line: Some(line) } if changes.own_name => Some((line, relative(new_name))),
            _ => None,
        };
        let parts = self.files.iter().filter(|part| part.new != part.old || changes.all_names);
        let of_parts = parts.flat_map(|part| part.extents.iter().map(|&extent| (extent, relative(&part.new))));
        let names: Vec<_> = own.into_iter().chain(of_parts).collect();
        text = text.extent_names(names.iter().map(|(extent, name)| (*extent, &**name)));
        if let Some(hint) = &changes.hint {
            text = text.header("parentFileNameHint", hint);
        }
        if let Some(id) = &changes.disk_id {
            text = text.database("uuid", id);
        }
        text.finish().map(Some)
    }

    /// The parent's name as it is to be seen from `place`, another directory; `None` if it may stay as it is.
    ///
    /// # Errors
    /// `Unsupported` for a disk whose header names its parent; `InvalidInput` for a name that is not UTF-8.
    pub(super) fn hint_from(&self, place: &Place, parent: Option<&Link>) -> Result<Option<String>> {
        let link = self.link;
        let in_header = link.header().and_then(SparseHeader::as_cowd).filter(|cowd| cowd.is_child());
        if let Some(cowd) = in_header {
            let is_safe = link.descriptor().decode_name(&cowd.parent_name).is_ok_and(|hint| !is_relative_hint(&hint));
            let text = "the header of the disk names its parent, by the way from its directory, and is not rewritten";
            return if is_safe { Ok(None) } else { refused(text.to_owned()) };
        }
        let Some(hint) = link.descriptor().parent_hint().filter(|_| link.is_child()) else { return Ok(None) };
        let hint = link.descriptor().decode_name(hint)?;
        if !is_relative_hint(&hint) {
            return Ok(None);
        }
        let target = match parent {
            Some(parent) => parent.path().to_owned(),
            // Nobody knows what it leads to; by its word, then.
            None => by_word(&link.path().with_file_name("").join(hint.replace('\\', "/"))),
        };
        Ok(Some(relative(&place.name_of(&target)?).into_owned()))
    }

    /// The extents in their files, and those that keep them.
    fn find(&mut self, whose: Whose, on_host: bool) -> Result<()> {
        let link = self.link;
        let lines = || link.descriptor().extents().iter().zip(link.extents()).enumerate();
        let own_line = match self.form {
            Form::Embedded { line } => line,
            _ => None,
        };
        let mut numbers = HashMap::<FileIdentity, usize>::new();
        for (number, (line, extent)) in lines().filter(|(number, _)| own_line != Some(*number)) {
            let Some(file) = extent.file() else { continue };
            let Some(old) = self.name_of_part(line, extent, file, whose, on_host) else { continue };
            if file.identity() == link.file().identity() {
                let text = format!("extent {number} lies in the file with the descriptor, which is a disk of its own");
                return refused(text);
            }
            let next = self.files.len();
            if *numbers.entry(file.identity()).or_insert(next) == next {
                let (kind, new) = (line.kind(), String::new());
                self.files.push(Part { file, old, new, kind, extents: Vec::new() });
            }
        }
        if whose == Whose::Own && !self.is_apart() && !self.files.is_empty() {
            let text = "a disk with its descriptor in a sparse extent and further extents in files of their own";
            return refused(text.to_owned());
        }
        let by_name: HashMap<String, usize> =
            self.files.iter().enumerate().map(|(number, part)| (part.old.clone(), number)).collect();
        for (number, (line, extent)) in lines().filter(|(number, _)| own_line != Some(*number)) {
            let name = plain_name(link.descriptor(), line);
            let known = match extent.file() {
                Some(file) => numbers.get(&file.identity()).copied(),
                // Hidden ranges are not opened.
                None => name.as_ref().and_then(|name| by_name.get(name).copied()),
            };
            match known.and_then(|part| self.files.get_mut(part)) {
                Some(part) => {
                    if whose == Whose::Own && name.as_ref() != Some(&part.old) {
                        let text = format!("extent {number} has another name for the file {:?}", part.old);
                        return refused(text);
                    }
                    part.extents.push(number);
                }
                None => self.keep(line),
            }
        }
        Ok(())
    }

    /// Notes an extent whose file keeps its name.
    fn keep(&mut self, line: &ExtentLine) {
        let Some(name) = line.name() else { return };
        let name = String::from_utf8_lossy(name).into_owned();
        // What is hidden is not looked for.
        if line.access() != Access::NoAccess && is_relative_hint(&name) {
            self.stays_behind.get_or_insert_with(|| name.clone());
        }
        self.kept.push(name);
    }

    /// What the file of an extent is called, if it is a part.
    fn name_of_part(
        &self,
        line: &ExtentLine,
        extent: &Extent,
        file: &HostFile,
        whose: Whose,
        on_host: bool,
    ) -> Option<String> {
        if whose == Whose::All {
            return Some(file.path().file_name()?.to_string_lossy().into_owned());
        }
        let name = plain_name(self.link.descriptor(), line).filter(|_| extent.access() == Access::ReadWrite)?;
        let is_beside = file.path().file_name() == Some(name.as_ref())
            && (!on_host || file.path().parent() == self.link.path().parent() && is_regular(file.path()));
        is_beside.then_some(name)
    }

    /// Finds the new names: first those that the old ones tell.
    fn name(&mut self, names: Names<'_>, whose: Whose) {
        let mut taken = HashSet::from([names.new.to_owned()]);
        let is_only = self.files.len() == 1;
        for part in &mut self.files {
            // Its name may be right already, unless the old file has it.
            let may_stay = whose == Whose::Own || !names.is_same_directory;
            let stays = renamed(&part.old, names.new, names.new).filter(|_| may_stay);
            let follows = renamed(&part.old, names.old, names.new);
            // Of two names that it begins with, the longer one says more.
            let new = if names.new.len() > names.old.len() { stays.or(follows) } else { follows.or(stays) };
            part.new = new.filter(|new| taken.insert(new.clone())).unwrap_or_default();
        }
        for part in self.files.iter_mut().filter(|part| part.new.is_empty()) {
            let first = part.extents.first().map_or(1, |extent| extent + 1);
            let mut free =
                (first..).map(|number| further_name(names.new, part.kind, number, is_only && number == first));
            part.new = free.find(|name| taken.insert(name.clone())).unwrap_or_default();
        }
    }

    /// The files of a disk without a descriptor, whose names follow from that of the first.
    fn find_bare(&mut self, names: Names<'_>, bare: bool) -> Result<()> {
        let link = self.link;
        let cowd = link.header().and_then(SparseHeader::as_cowd);
        if let Some(part) = cowd.and_then(later_part) {
            return refused(format!("{part}; the whole disk is called after the first one"));
        }
        if link.lacks_descriptor() && !bare {
            let text = "a sparse extent without its descriptor, which names it: it is called after the descriptor, \
                        unless it is allowed to be a disk by itself (allow_bare_extent)";
            return refused(text.to_owned());
        }
        for (ordinal, extent) in (0..).zip(link.extents()).skip(1) {
            let Some(file) = extent.file() else { continue };
            let (old, new) = (part_name(names.old, ordinal), part_name(names.new, ordinal));
            self.files.push(Part { file, old, new, kind: extent.kind(), extents: Vec::new() });
        }
        Ok(())
    }
}

/// What is to be different in a text, apart from names of files.
#[derive(Debug, Default)]
pub(super) struct TextChanges {
    /// Whether the line of an extent that holds the descriptor follows.
    pub(super) own_name: bool,
    /// Whether names are written that may be right: that of a file somewhere else reads alike.
    pub(super) all_names: bool,
    pub(super) hint: Option<String>,
    pub(super) disk_id: Option<String>,
}

fn form(link: &Link) -> Form {
    if link.descriptor().as_bytes().is_empty() {
        return Form::Bare;
    }
    let Some(header) = link.header() else { return Form::Apart };
    let is_sparse = |line: &ExtentLine| line.kind() == ExtentKind::Sparse;
    let own = link.descriptor().extents().iter().position(is_sparse);
    Form::Embedded { line: own.filter(|_| header.capacity() != 0) }
}

/// The name of an extent that stays in its directory, without a path.
fn plain_name(descriptor: &Descriptor, line: &ExtentLine) -> Option<String> {
    let name = descriptor.decode_name(line.name()?).ok()?;
    let plain = name.strip_prefix("./").unwrap_or(&name);
    let is_plain = !matches!(plain, "" | "." | "..") && !plain.contains(['/', std::path::MAIN_SEPARATOR]);
    is_plain.then(|| plain.to_owned())
}

/// A path with every `..` taken at its word.
fn by_word(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(plain.pop()),
            std::path::Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

fn is_regular(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

fn check_regular(path: &Path, on_host: bool) -> Result<()> {
    if !on_host || is_regular(path) {
        return Ok(());
    }
    Err(Error::text(ErrorKind::Unsupported, "a device, which has no other name").in_file(path))
}

fn refused<T>(text: String) -> Result<T> {
    Err(Error::text(ErrorKind::Unsupported, text))
}
