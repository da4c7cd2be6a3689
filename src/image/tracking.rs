//! Change tracking, which this crate does not keep up: what is known of its file, and how a disk is without it.
//!
//! A product of VMware that tracks changes keeps a file beside the disk, and whoever writes to the disk without it
//! makes a lie of that file: an incremental backup would miss what was written. So a tracked disk is not written to,
//! unless the tracking is given up. Then the disk is not tracked any more, durably, before its first sector changes:
//!
//! ```text
//! 1. the descriptor without changeTrackPath, and of another content ID    durable, whole or not at all
//! 2. the tracking file gets another name                                  durable
//! 3. the first write
//! ```
//!
//! A crash leaves a tracked disk that was not written to, or one without tracking beside a file that it does not name.
//! Only a descriptor that a resolver has supplied is written over in its own bytes, if that is allowed, and may be cut.

use std::collections::HashSet;
use std::path::Path;

use super::content_id::{Rewrite, random};
use super::site::{Place, Site, host_directory};
use super::write::Writing;
use super::{Disk, OpenOptions, VmdkImage};
use crate::descriptor::{ContentId, Descriptor, Edit};
use crate::error::{Error, ErrorKind, Result};
use crate::format::ChangeTrackingHeader;
use crate::link::{DescriptorFile, DroppedTracking, Link, LinkHead, SparseFiles, move_aside, not_changeable};
use crate::locate::Names;
use crate::storage::{Directory, Purpose};

/// How a disk is to be without its tracking before it is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untracking {
    /// In a directory of the host.
    OnHost,
    /// With what a resolver has supplied, and nothing more.
    Supplied,
}

impl Untracking {
    /// How that is done with a link which is open for writing.
    ///
    /// # Errors
    /// What would speak against it at the first write.
    pub(super) fn prepare(link: &Link, names: Names<'_>, rewrite: Rewrite) -> Result<Self> {
        let how = match names {
            Names::Files(..) => Self::OnHost,
            Names::Resolver(..) => Self::Supplied,
        };
        let (_, text) = untracked(link.descriptor(), true)?;
        match (how, link.header()) {
            (_, Some(_)) => DescriptorFile::embedded(link)?.check(&text)?,
            (Self::OnHost, None) => drop(host_directory(link.path())?),
            (Self::Supplied, None) if rewrite == Rewrite::InPlace => {}
            (Self::Supplied, None) => {
                let text = "the tracking of the disk cannot be given up: its descriptor is in a file of its own, which a \
                            resolver has supplied and cannot replace; allow it to be rewritten (rewrite_descriptor), or end \
                            the tracking before (stop_change_tracking_in)";
                return Err(Error::text(ErrorKind::Unsupported, text).in_file(link.path()));
            }
        }
        Ok(how)
    }
}

impl Disk {
    /// Gives up the tracking, and gives the image another content ID, durably; `None` if its descriptor has none.
    pub(super) fn drop_tracking(&self, writing: &Writing, how: Untracking) -> Result<Option<ContentId>> {
        let link = &self.links[0];
        let (id, text) = untracked(link.descriptor(), true)?;
        let on_host = match how {
            Untracking::OnHost => Some(host_directory(link.path())?),
            Untracking::Supplied => None,
        };
        match (&on_host, link.header()) {
            (_, Some(_)) => {
                let mut own = DescriptorFile::embedded(link)?;
                own.check(&text)?;
                writing.health.watch(own.replace(&text))?;
            }
            (Some((directory, name)), None) => {
                check_same(directory, name, link)?;
                let mut own = DescriptorFile::new(link, directory, name)?;
                own.check(&text)?;
                let replaced = own.replace(&text);
                let can_be_told = link.file().storage().id().is_some();
                if replaced.is_err() && can_be_told && check_same(directory, name, link).is_ok() {
                    // The old one is still there: nothing was changed, and it can be tried again.
                    return replaced.map(|()| None);
                }
                writing.health.watch(replaced)?;
                if let Some(file) = own.into_replacement() {
                    link.keep_replacement(file);
                }
            }
            (None, None) => {
                // What is left of the longer one.
                let mut bytes = text;
                bytes.resize(bytes.len().max(link.descriptor().as_bytes().len()), 0);
                writing.health.watch(self.edit_descriptor(&[Edit { at: 0, bytes }]))?;
            }
        }
        let dropped = match on_host {
            Some((directory, _)) => {
                let storages = self.links.iter().flat_map(|link| link.storages());
                let own = storages.filter_map(|(storage, _)| storage.id()).collect();
                move_aside(link.descriptor(), &directory, &own)
            }
            None => DroppedTracking::left(link.descriptor(), "a resolver's files have no other names".to_owned()),
        };
        writing.dropped_tracking.get_or_init(|| dropped);
        Ok(id)
    }
}

impl VmdkImage {
    /// What became of the change tracking, once the first write has given it up
    /// ([`OpenOptions::drop_change_tracking`]); `None` before that, and for an image that was not tracked.
    pub fn dropped_tracking(&self) -> Option<&DroppedTracking> {
        self.disk.writing.as_ref()?.dropped_tracking.get()
    }
}

impl OpenOptions {
    /// The header of the change tracking file of a link, as far as that is known; `None` if the link is not tracked.
    ///
    /// The file is looked for on this host, like an extent: its name is as little trusted as any. So this is for links
    /// of files of the host, not for those that a resolver has supplied. Nothing is read but the header, and nothing
    /// depends on it.
    ///
    /// # Errors
    /// As for a file of an image ([`open`](Self::open)), and as for [`ChangeTrackingHeader::read`]: that the file is
    /// not there, or something else, is no reason not to open the disk.
    pub fn change_tracking(&self, link: &Link) -> Result<Option<ChangeTrackingHeader>> {
        let Some(raw) = link.descriptor().change_track_path() else { return Ok(None) };
        let name = link.descriptor().decode_name(raw).map_err(|error| error.in_file(link.path()))?;
        let pool = self.pool();
        let dir = link.path().parent().unwrap_or(Path::new(""));
        let opened = Names::Files(self.policy(), &pool).open(dir, &name, Purpose::Read)?;
        let header = ChangeTrackingHeader::read(&*opened.storage);
        header.map(Some).map_err(|error| error.in_file(&opened.path))
    }

    /// Ends the change tracking of the disk at `path`, so that it can be written to, resized, merged and so on: takes
    /// `changeTrackPath` with its comment out of the descriptor, whose version becomes 1 where it was 3, and then gives
    /// the change tracking file another name, `disk-ctk.vmdk.dropped`, or with a number behind that. Nothing else
    /// changes, not even the content ID. `None` if the disk is not tracked.
    ///
    /// The next backup of the disk cannot be an incremental one. The file is not removed, because an image from a
    /// stranger may name any: it is renamed if it lies beside the descriptor and begins like a change tracking file,
    /// and left as it is otherwise, which the result says. Whenever this is stopped, by an error or a crash, the disk
    /// is tracked as before, or not tracked.
    ///
    /// No extent and no parent is opened.
    ///
    /// # Errors
    /// As for opening the descriptor for writing ([`open`](Self::open));
    /// [`Unsupported`](ErrorKind::Unsupported) for native snapshots, descriptors of a version above 3, and an embedded
    /// descriptor that has no room for another; what the host reports.
    pub fn stop_change_tracking(&self, path: impl AsRef<Path>) -> Result<Option<DroppedTracking>> {
        self.stop_tracking(Place::Host(path.as_ref()))
    }

    /// As [`stop_change_tracking`](Self::stop_change_tracking), of the disk whose descriptor is in the file `name` of
    /// `directory`. Nothing is locked but by the directory.
    ///
    /// # Errors
    /// As for [`stop_change_tracking`](Self::stop_change_tracking).
    pub fn stop_change_tracking_in(&self, name: &str, directory: &dyn Directory) -> Result<Option<DroppedTracking>> {
        self.stop_tracking(Place::In(name, directory))
    }

    fn stop_tracking(&self, place: Place<'_>) -> Result<Option<DroppedTracking>> {
        let site = Site::new(self, place);
        let purpose = site.write_purpose()?;
        let files = SparseFiles::default();
        let head = LinkHead::read(site.open_first(purpose)?, site.link_options(purpose, &files))?;
        let path = head.file().path().to_owned();
        if let Some(what) = not_changeable(head.descriptor()) {
            let text = format!("the tracking of {what} is not touched");
            return Err(Error::text(ErrorKind::Unsupported, text).in_file(&path));
        }
        if head.descriptor().as_bytes().is_empty() {
            return Ok(None);
        }
        let (directory, name) = site.directory_of_file(&path)?;
        let mut own = DescriptorFile::of_head(&head, directory.as_dyn(), &name)?;
        let (_, text) = untracked(head.descriptor(), false)?;
        // Also if nothing has to be changed: whoever did that may have been killed before it was durable.
        own.ensure(&text)?;
        if head.descriptor().change_track_path().is_none() {
            return Ok(None);
        }
        let own_ids = head.file().storage().id().into_iter().collect::<HashSet<_>>();
        Ok(Some(move_aside(head.descriptor(), directory.as_dyn(), &own_ids)))
    }
}

/// The text without tracking, with another content ID if it is `to_be_written` and has one.
fn untracked(descriptor: &Descriptor, to_be_written: bool) -> Result<(Option<ContentId>, Vec<u8>)> {
    let text = descriptor.revise().without_change_tracking().finish()?;
    let new = Descriptor::parse(&text)?;
    if new.change_track_path().is_some() {
        return Err(Error::text(ErrorKind::Unsupported, "the changeTrackPath cannot be taken out of the descriptor"));
    }
    match new.text_with_new_content_id(random()).filter(|_| to_be_written) {
        Some((id, text)) => Ok((Some(id), text)),
        None => Ok((None, text)),
    }
}

/// Whether the name of a descriptor still leads to the one that was opened.
fn check_same(directory: &dyn Directory, name: &str, link: &Link) -> Result<()> {
    let opened = link.file().storage().id();
    if opened.is_none() || directory.id_of(name)? == opened {
        return Ok(());
    }
    let text = format!("another file is called {name:?} by now, or none");
    Err(Error::text(ErrorKind::Io, text).in_file(link.path()))
}
