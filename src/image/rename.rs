//! Another name for a disk, with all its files.
//!
//! ```text
//! old.vmdk -> old-s001.vmdk, ...                    the disk
//! 1.  new-s001.vmdk, ...                            further names for the files of its extents; directory synced
//! 2.  new.vmdk -> new-s001.vmdk, ...                a descriptor with the new names; directory synced
//! 3.  children                                      lead to new.vmdk
//! 4.  old.vmdk is removed; directory synced         from here on there is no way back
//! 5.  old-s001.vmdk, ... are removed; directory synced
//! ```
//!
//! Nothing is moved: a file has both names for a while (a hard link). So whatever is cut off by a crash, each
//! descriptor that there is leads to files that there are, the same ones, and at least one descriptor is there. Run
//! once more, the operation knows what it has done before, and goes on. What fails before step 4 is undone, the last
//! thing first.
//!
//! Of a disk in a single file, the descriptor in it is changed first: it names only itself there, and nobody needs that
//! name. If it would not find its parent by the old name then, it is changed last, before step 4. Where files have no
//! further names, such a file is renamed outright; a disk of several files is refused.

mod work;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::work::Work;
use super::parts::{Names, Parts, Target, Whose};
use super::site::{LinkDirectory, Place, Site};
use super::{CopyProgress, OpenOptions};
use crate::create::{self, Kept, Terms, check_name, renamed};
use crate::descriptor::{ContentId, relative};
use crate::error::{Error, ErrorKind, Result};
use crate::link::{DescriptorFile, Identity, Link, LinkHead, SparseFiles, not_understood};
use crate::locate::Opened;
use crate::storage::{Directory, HostDirectory, Purpose};

/// How a disk gets another name.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RenameOptions {
    replace: bool,
    children: Vec<PathBuf>,
}

impl RenameOptions {
    /// Nothing that exists is replaced, and no child is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether files that have the new names already are replaced. Somebody's use of them is
    /// [`Locked`](ErrorKind::Locked).
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Lets the child at `path` find the disk by its new name. Nothing else of the child changes. May be called more
    /// than once. For [`rename_in`](OpenOptions::rename_in) it is the name of a file in the directory.
    pub fn child(mut self, path: impl Into<PathBuf>) -> Self {
        self.children.push(path.into());
        self
    }
}

/// What a disk was called, and is called now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RenameReport {
    /// The files that have another name now, the one with the descriptor first.
    pub files: Vec<RenamedFile>,
    /// The names of extents, as the descriptor has them, whose files keep their names: they lie somewhere else, are
    /// devices, or take no writes and may belong to other disks.
    pub kept: Vec<String>,
    /// What the descriptor calls the parent now, if that is another way to it from another directory.
    pub parent_hint: Option<String>,
    /// The children that find the disk by its new name.
    pub children: Vec<PathBuf>,
    /// What a person should know. That other children, whom nobody can know, will look for the old name is always said.
    pub notes: Vec<String>,
}

/// A file with another name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RenamedFile {
    /// The old path; in a directory that was given, the name.
    pub from: PathBuf,
    /// The new one.
    pub to: PathBuf,
}

const CHILDREN: &str = "a child of the disk that was not named looks for it by its old name";
const FINISHED: &str = "the disk had its new name already, and files of it had the old ones as well";

impl OpenOptions {
    /// Gives the disk at `path` the name `new_path`: the file with its descriptor, and those of its extents that lie
    /// beside it and take writes, which are named after it (`new-s001.vmdk`, `new-flat.vmdk`, ...). The descriptor
    /// names them then, and its parent by the way from its new directory. Nothing is copied: both directories must be
    /// on one file system. A symbolic link at `path` stands for the file that it leads to. The parents have to be there
    /// only if the directory changes or something may be replaced; with [`no_parent`](Self::no_parent) not even then,
    /// and the way to them is taken as it stands.
    ///
    /// At every moment the disk is there, whole, by its old name or by the new one, or by both. If this was cut short,
    /// the same call takes it to its end, which should be done before the disk is used: two descriptors do not know
    /// what is written through the other one. Nobody else may use the disk meanwhile.
    ///
    /// Children look for the disk by its old name; those that are [named](RenameOptions::child) follow. `progress` is
    /// called for each file, counting the bytes that the files have; it stops the work by breaking, and then all is as
    /// before.
    ///
    /// ```no_run
    /// # use std::ops::ControlFlow;
    /// # use vmdk::{OpenOptions, RenameOptions};
    /// let what = RenameOptions::new().child("web-000001.vmdk");
    /// let report = OpenOptions::new().rename("web.vmdk", "base.vmdk", &what, &mut |_| ControlFlow::Continue(()))?;
    /// println!("{} files", report.files.len());
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for opening the disk for writing, but that its content does not matter;
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) for a new name that is taken;
    /// [`Unsupported`](ErrorKind::Unsupported), by name, for disks with change tracking, native snapshots, devices, an
    /// embedded descriptor beside further extents, a part of a disk, another file system, disks in several files where
    /// files have but one name, and for another directory from which an extent that keeps its name, or the parent of a
    /// disk in a single file, would not be found at every moment; [`InvalidInput`](ErrorKind::InvalidInput) for names
    /// that a descriptor cannot hold, for replacing what belongs to the disk, and for a child that has no parent;
    /// [`ContentIdMismatch`](ErrorKind::ContentIdMismatch) for one of another disk;
    /// [`Cancelled`](ErrorKind::Cancelled). All is as before then, but for what was to be replaced, which may be gone;
    /// an error says so if that could not be reached, or if it comes when the disk has its new name already.
    pub fn rename(
        &self,
        path: impl AsRef<Path>,
        new_path: impl AsRef<Path>,
        options: &RenameOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<RenameReport> {
        let path = path.as_ref();
        let place = create::Place::of(new_path.as_ref())?;
        let target = Target::on_host(&place);
        let renaming = Renaming { open: self.clone().write(true), options };
        renaming.run(Place::Host(path), &target, progress).map_err(|error| error.in_file(path))
    }

    /// As [`rename`](Self::rename), of the disk whose file with the descriptor is called `name` in `directory`, where
    /// everything that it names is found, too.
    ///
    /// # Errors
    /// As for [`rename`](Self::rename).
    pub fn rename_in(
        &self,
        name: &str,
        new_name: &str,
        directory: &dyn Directory,
        options: &RenameOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<RenameReport> {
        let target = Target::in_directory(new_name, directory);
        let renaming = Renaming { open: self.clone().write(true), options };
        renaming.run(Place::In(name, directory), &target, progress)
    }
}

/// What was asked for.
struct Renaming<'a> {
    open: OpenOptions,
    options: &'a RenameOptions,
}

/// A child that is to find the disk by its new name.
struct Child<'a> {
    path: PathBuf,
    head: LinkHead,
    directory: LinkDirectory<'a>,
    name: String,
    /// What its descriptor is to say.
    text: Vec<u8>,
}

impl Renaming<'_> {
    fn run<'a>(
        &self,
        old: Place<'a>,
        target: &Target<'a>,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<RenameReport> {
        check_name(target.name)?;
        let site = Site::new(&self.open, old);
        let first = match site.open_first(self.open.purpose()?) {
            Err(error) if error.kind() == ErrorKind::NotFound => return self.finish(old, target, error),
            first => first?,
        };
        let (from, name) = site.directory_of_file(&first.path)?;
        let is_same_directory = from.is(&target.to);
        if is_same_directory && name == target.name {
            return Err(Error::text(ErrorKind::InvalidInput, "the disk has this name already"));
        }
        let needs_parents = self.options.replace || !is_same_directory;
        let links = match self.links(&site, first, needs_parents) {
            // Of a run that was cut short: it may lead to its parent from there, and from here no more.
            Err(error) if !is_same_directory && from.is_link(&name, &target.to, target.name).unwrap_or(false) => {
                self.links_by_new_name(old, target, needs_parents).map_err(|_| error)?
            }
            links => links?,
        };
        let (link, parent) = (&*links[0], links.get(1).map(|parent| &**parent));
        let names = Names { old: &name, new: target.name, is_same_directory };
        let parts = Parts::of(link, names, Whose::Own, target.place.is_some(), self.open.allows_bare_extent())?;
        let hint = match target.place {
            Some(place) if !is_same_directory => {
                parts.check_nothing_stays_behind()?;
                parts.hint_from(place, parent)?
            }
            _ => None,
        };
        let work = Work { link, from: &from, to: &target.to, names, parts: &parts };
        let mut notes = vec![CHILDREN.to_owned()];
        let head = work.head(hint.as_deref(), parent, &mut notes)?;
        let children = self.children(old, link, target)?;
        let ids = links.iter().flat_map(|link| link.storages()).flat_map(|(file, _)| file.host_ids());
        let kept = Kept { ids: ids.collect(), paths: Vec::new() };
        work.run(&head, &children, &Terms { replace: self.options.replace, sync: true, kept: &kept }, progress)?;
        Ok(RenameReport {
            files: work.renamed(),
            kept: parts.kept.clone(),
            parent_hint: hint,
            children: children.into_iter().map(|child| child.path).collect(),
            notes,
        })
    }

    /// The links of the disk; the first one alone if there are no parents, and nothing depends on them.
    fn links(&self, site: &Site<'_>, first: Opened, needs_parents: bool) -> Result<Vec<Arc<Link>>> {
        use ErrorKind::{ContentIdMismatch, Corrupt, Incomplete, NameRefused, NotVmdk, ParentMissing, Unsupported};
        match self.open.open_links(first, site.names(), Purpose::Write, 1) {
            Err(error) if !needs_parents => match error.kind() {
                ParentMissing | NameRefused | ContentIdMismatch | NotVmdk | Incomplete | Corrupt | Unsupported => {
                    let alone = self.open.clone().no_parent(true);
                    alone.open_links(site.open_first(Purpose::Write)?, site.names(), Purpose::Write, 1)
                }
                _ => Err(error),
            },
            links => links,
        }
    }

    /// As [`links`](Self::links), by the new name, which the disk has as well.
    fn links_by_new_name(&self, old: Place<'_>, target: &Target<'_>, needs_parents: bool) -> Result<Vec<Arc<Link>>> {
        let new_path = target.to.path().join(target.name);
        let site = Site::new(&self.open, by_new_name(old, target, &new_path));
        self.links(&site, site.open_first(Purpose::Write)?, needs_parents)
    }

    /// Opens the children, and looks whether they can be changed.
    fn children<'a>(&self, old: Place<'a>, link: &Link, target: &Target<'_>) -> Result<Vec<Child<'a>>> {
        let paths = self.options.children.iter();
        paths.map(|path| self.child(old, path, link, target).map_err(|error| error.in_file(path))).collect()
    }

    fn child<'a>(&self, old: Place<'a>, path: &Path, link: &Link, target: &Target<'_>) -> Result<Child<'a>> {
        let site_name;
        let place = match old {
            Place::Host(_) => Place::Host(path),
            Place::In(_, directory) => {
                site_name = path.to_string_lossy();
                Place::In(&site_name, directory)
            }
        };
        let site = Site::new(&self.open, place);
        let sparse_files = SparseFiles::default();
        let options = self.open.link_options(site.names(), Purpose::Write, &sparse_files);
        let head = LinkHead::read(site.open_first(Purpose::Write)?, options)?;
        if let Some(what) = not_understood(head.descriptor()) {
            return Err(Error::text(ErrorKind::Unsupported, format!("{what} is not changed")));
        }
        self.check_child(&head, link)?;
        let path = head.file().path().to_owned();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (directory, hint) = match (old, target.place) {
            (Place::Host(_), Some(target)) => {
                let dir = path.parent().unwrap_or(Path::new("")).to_owned();
                let place = create::Place { directory: HostDirectory::new(dir), name: name.clone() };
                let hint = place.name_of(&target.path())?;
                (LinkDirectory::Host(Box::new(place.directory)), hint)
            }
            (Place::In(_, directory), _) => (LinkDirectory::Given(directory), target.name.to_owned()),
            (Place::Host(_), None) => {
                (LinkDirectory::Host(Box::new(HostDirectory::new(PathBuf::new()))), target.name.to_owned())
            }
        };
        let text = head.descriptor().revise().header("parentFileNameHint", &relative(&hint)).finish()?;
        let child = Child { path, head, directory, name, text };
        child.file()?.check(&child.text)?;
        Ok(child)
    }

    /// Refuses what is no child of the disk.
    fn check_child(&self, child: &LinkHead, link: &Link) -> Result<()> {
        let Some(claim) = child.parent_claim()? else {
            return Err(Error::text(ErrorKind::InvalidInput, "this is no child: it has no parent"));
        };
        let claimed = match claim.identity {
            Some(Identity::Generation(_)) => {
                let text = "the header of the child names its parent, and is not rewritten";
                return Err(Error::text(ErrorKind::Unsupported, text));
            }
            Some(Identity::Content(id)) => Some(id),
            None => None,
        };
        if self.open.ignores_cid_mismatch() || claimed.is_some() && claimed == link.content_id() {
            return Ok(());
        }
        if child.descriptor().commit_intent().is_some() {
            let text = "a commit of it was cut off, and has to be ended first (commit)";
            return Err(Error::text(ErrorKind::InvalidInput, text));
        }
        let shown = |id: Option<ContentId>| id.map_or_else(|| "missing".to_owned(), |id| id.to_string());
        let text = format!(
            "its parentCID is {}, but the CID of the disk is {}: it is the child of another, or of another content",
            shown(claimed),
            shown(link.content_id())
        );
        Err(Error::text(ErrorKind::ContentIdMismatch, text))
    }

    /// Takes away what is left of the old names when a run was cut short after the disk had got the new one; `error` if
    /// there is none of that.
    fn finish(&self, old: Place<'_>, target: &Target<'_>, error: Error) -> Result<RenameReport> {
        let (from, old_name) = match old {
            Place::In(name, directory) => (LinkDirectory::Given(directory), name.to_owned()),
            Place::Host(path) => match create::Place::of(path) {
                Ok(place) => (LinkDirectory::Host(Box::new(place.directory)), place.name),
                Err(_) => return Err(error),
            },
        };
        if !target.to.as_dyn().exists(target.name)? {
            return Err(error);
        }
        let new_path = target.to.path().join(target.name);
        let new = by_new_name(old, target, &new_path);
        let (site, open) = (Site::new(&self.open, new), self.open.clone().no_parent(true));
        let links =
            site.open_first(Purpose::Write).and_then(|first| open.open_links(first, site.names(), Purpose::Write, 1));
        let Ok(links) = links else { return Err(error) };
        // That the old name is gone may not be durable yet; the files that it leads to go after it.
        from.as_dyn().sync()?;
        let mut files = Vec::new();
        for file in links.iter().flat_map(|link| link.host_files()) {
            let Some(name) = file.path().file_name().and_then(|name| name.to_str()) else { continue };
            let Some(left) = renamed(name, target.name, &old_name) else { continue };
            if from.is_link(&left, &target.to, name)? {
                from.as_dyn().remove(&left)?;
                files.push(RenamedFile { from: from.path().join(left), to: target.to.path().join(name) });
            }
        }
        if files.is_empty() {
            return Err(error);
        }
        from.as_dyn().sync()?;
        let notes = vec![FINISHED.to_owned(), CHILDREN.to_owned()];
        Ok(RenameReport { files, kept: Vec::new(), parent_hint: None, children: Vec::new(), notes })
    }
}

/// Where a disk is by its new name.
fn by_new_name<'a>(old: Place<'a>, target: &'a Target<'_>, new_path: &'a Path) -> Place<'a> {
    match old {
        Place::Host(_) => Place::Host(new_path),
        Place::In(_, directory) => Place::In(target.name, directory),
    }
}

impl Child<'_> {
    fn file(&self) -> Result<DescriptorFile<'_>> {
        DescriptorFile::of_head(&self.head, self.directory.as_dyn(), &self.name)
    }
}
