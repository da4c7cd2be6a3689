//! A child becomes independent of its parents: it takes in what it reads from them.
//!
//! As for a rebase, this is copied first, durably, and seen by nobody. Then one change of the descriptor says that
//! there is no parent any more, and all that the parents said of the disk as a whole.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::carry::Carry;
use super::rebase::check_child;
use super::site::{Place, Site};
use super::{CopyProgress, OpenOptions, VmdkImage, report};
use crate::block_device::BlockDevice;
use crate::descriptor::{ContentId, CreateType, Descriptor, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::link::{DescriptorFile, Link};
use crate::sector::SECTOR_BYTES;
use crate::storage::Directory;

/// What the disk database says of a disk as a whole: a delta usually leaves it to its parents.
const OF_THE_DISK: [&str; 13] = [
    "adapterType",
    "geometry.cylinders",
    "geometry.heads",
    "geometry.sectors",
    "geometry.biosCylinders",
    "geometry.biosHeads",
    "geometry.biosSectors",
    "virtualHWVersion",
    "toolsVersion",
    "toolsInstallType",
    "uuid",
    "logicalSectorSize",
    "physicalSectorSize",
];

/// What flattening has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlattenReport {
    /// Bytes that were copied into the image.
    pub copied_bytes: u64,
    /// The content ID by which the image knew its parent; `None` if it had none.
    pub old_parent_content_id: Option<ContentId>,
    /// Whether the descriptor has changed. It has not if there was no parent.
    pub changed: bool,
}

impl OpenOptions {
    /// Makes the image at `path` independent: it takes in what it reads from its parents, and has none any more. What
    /// is zero takes no space. Its content ID stays, so that its own children stay good; geometry, adapter type and
    /// what else describes the disk is taken over from the parents where the image does not say it. Nothing happens to
    /// an image without a parent.
    ///
    /// `progress` counts the bytes of the image; it stops the work by breaking. After that, and after a crash at any
    /// moment, the image has its parents and reads as before, or needs them no more; the call can be repeated.
    ///
    /// The image is opened for writing, whatever these options say about it, and its parents for reading.
    ///
    /// # Errors
    /// Before anything is changed: as for [`open`](Self::open);
    /// [`ContentIdMismatch`](ErrorKind::ContentIdMismatch) for a child of another parent, whatever is to be ignored: it
    /// would take in what the wrong one has; [`InvalidInput`](ErrorKind::InvalidInput) for one that is being committed
    /// into its parent, which has to be ended first; [`Unsupported`](ErrorKind::Unsupported) for deltas of ESX
    /// (vmfsSparse), which are always children there and are converted instead, for sparse extents that take no writes,
    /// for disks without a descriptor (VMware 2 and 3), and for a descriptor without room;
    /// [`Corrupt`](ErrorKind::Corrupt) for tables that have to be repaired first. Then [`Full`](ErrorKind::Full) where
    /// a file has no numbers left, [`Cancelled`](ErrorKind::Cancelled) when `progress` breaks, and what the host
    /// reports.
    pub fn flatten(
        &self,
        path: impl AsRef<Path>,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<FlattenReport> {
        let options = self.for_work();
        options.flatten_in_site(&Site::new(&options, Place::Host(path.as_ref())), progress)
    }

    /// As [`flatten`](Self::flatten), for the image `name` of a directory, with everything that it names.
    ///
    /// # Errors
    /// As for [`flatten`](Self::flatten), and what the directory reports.
    pub fn flatten_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<FlattenReport> {
        let options = self.for_work();
        options.flatten_in_site(&Site::new(&options, Place::In(name, directory)), progress)
    }

    /// The same for a site, with options for writing.
    pub(super) fn flatten_in_site(
        &self,
        site: &Site<'_>,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<FlattenReport> {
        let purpose = self.purpose()?;
        let links = self.open_links(site.open_first(purpose)?, site.names(), purpose, 1)?;
        let Some((own, parents)) = links.split_first().filter(|(_, parents)| !parents.is_empty()) else {
            return nothing_to_do(site, &links, progress);
        };
        check_child(own)?;
        check_type(own)?;
        let (directory, name) = site.directory_of(own)?;
        let mut file = DescriptorFile::new(own, directory.as_dyn(), &name)?;
        let text = independent(file.descriptor(), parents)?;
        let image = self.image_of(links.clone(), site.names(), purpose)?;
        image.disk.check_parents()?;
        let alone = VmdkImage::new(vec![Arc::clone(own)], None, self.how());
        let mut carry = Carry::new(&image, &alone);
        carry.check()?;
        file.check(&text)?;
        site.settle(own)?;
        let total = image.disk.capacity * SECTOR_BYTES;
        carry.run(&mut |sectors| report(progress, CopyProgress { done: sectors * SECTOR_BYTES, total }))?;
        let copied_bytes = carry.copied * SECTOR_BYTES;
        image.flush()?;
        file.replace(&text)?;
        image.close()?;
        Ok(FlattenReport { copied_bytes, old_parent_content_id: own.parent_content_id(), changed: true })
    }
}

/// An image that says it is a child, and was opened alone, is not one without a parent.
fn nothing_to_do(
    site: &Site<'_>,
    links: &[Arc<Link>],
    progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<FlattenReport> {
    let mut total = 0;
    for link in links {
        link.check_as_base()?;
        total += link.capacity_sectors() * SECTOR_BYTES;
        // An earlier call may have been killed at the very end.
        site.settle(link)?;
        if let Some(mut own) = DescriptorFile::astray(link)? {
            own.bring_home()?;
        }
    }
    report(progress, CopyProgress { done: total, total })?;
    Ok(FlattenReport::default())
}

/// Refuses deltas of ESX, of which there are none without a parent.
fn check_type(link: &Link) -> Result<()> {
    let is_delta = link.descriptor().create_type().map(CreateType::canonical) == Some(CreateType::VmfsSparse)
        || link.extents().iter().any(|extent| extent.kind() == ExtentKind::VmfsSparse);
    if !is_delta {
        return Ok(());
    }
    let text = "a delta of ESX (vmfsSparse) is no disk of its own there; convert it to another type (`vmdk convert`)";
    Err(Error::text(ErrorKind::Unsupported, text).in_file(link.path()))
}

/// The descriptor of a disk that has no parents any more. The youngest link that says something counts.
fn independent(descriptor: &Descriptor, parents: &[Arc<Link>]) -> Result<Vec<u8>> {
    let revised = descriptor.revise().without_intent().header("parentCID", &ContentId::NO_PARENT.to_string());
    let mut revised = revised.without_header("parentFileNameHint");
    for key in OF_THE_DISK {
        if in_database(descriptor, key).is_some() {
            continue;
        }
        let value = parents.iter().find_map(|link| in_database(link.descriptor(), key));
        if let Some(value) = value.and_then(|value| str::from_utf8(value).ok()) {
            revised = revised.database(key, value);
        }
    }
    revised.finish()
}

fn in_database<'a>(descriptor: &'a Descriptor, wanted: &str) -> Option<&'a [u8]> {
    let mut entries = descriptor.ddb_entries();
    entries.find(|(key, _)| key.eq_ignore_ascii_case(wanted.as_bytes())).map(|(_, value)| value)
}
