//! Repairing: what a check has found is put right, as far as that needs no guess, and then it is checked again.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use super::check::{CheckOptions, check_first, open_alone};
use super::site::{Place, Site};
use super::{CopyProgress, OpenOptions};
use crate::check::{CheckReport, Remedy, can_be_described};
use crate::descriptor::{ContentId, NewContentId};
use crate::error::{Error, ErrorKind, Result};
use crate::format::cowd::GENERATION_AT;
use crate::link::{DescriptorFile, Link};
use crate::repair::{FirstChange, Repair, RepairOptions, RepairReport, take_back};
use crate::storage::{Directory, Purpose, Storage};

impl OpenOptions {
    /// Puts the image at `path` right, as far as that needs no guess about data; without its parents, which are not
    /// touched. Unless [`prefer_redundant`](RepairOptions::prefer_redundant) asks for something else, what a guest can
    /// read stays what it is, and nothing that could be read is lost: redundant tables are made equal to the primary
    /// ones, or the reverse where the primary ones cannot be right, entries past the end of a file become unallocated,
    /// grains that share a place get one each, marks of the header are set, the descriptor is put where other programs
    /// look for it, and a missing one is made from the header. Space that nothing uses is given back only with
    /// [`reclaim`](RepairOptions::reclaim). What is left alone is in the report.
    ///
    /// A crash at any point leaves an image that is at most as damaged as it was; a second repair goes on from there,
    /// and one after that changes nothing. Only where a great many grains share their places, a repair leaves some of
    /// them to the next one. `progress` is called as by [`check`](Self::check), which happens before the
    /// changes and once more after them: stopped before them, the repair has changed nothing, and after them it is
    /// done.
    ///
    /// # Errors
    /// As for [`check`](Self::check), and for opening an image for writing; [`Full`](ErrorKind::Full) where what has to
    /// be new has no room; [`InvalidInput`](ErrorKind::InvalidInput) for an undo file that is not empty.
    pub fn repair(
        &self,
        path: impl AsRef<Path>,
        options: &RepairOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<RepairReport> {
        repair(&Site::new(self, Place::Host(path.as_ref())), options, progress)
    }

    /// As [`repair`](Self::repair), of the image `name` in a directory, with everything that it names.
    ///
    /// # Errors
    /// As for [`repair`](Self::repair).
    pub fn repair_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        options: &RepairOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<RepairReport> {
        repair(&Site::new(self, Place::In(name, directory)), options, progress)
    }

    /// Takes back what a repair of the image at `path` has changed, as its undo file says; says how many changes that
    /// were. A repair that was cut off can be taken back as well, and so can one that was taken back in part.
    ///
    /// Nobody may have written to the image since. That is looked at before anything is changed: each sector that the
    /// repair has changed, and each file's length, must be what it was before or what the repair has made of it, and so
    /// must the descriptor, in which each writer changes the content ID (of disks of VMware 2 and 3 the generation). An
    /// extent by itself has none; what was written to one in the place that its sectors had already is not noticed.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) for what is not the undo file of this image;
    /// [`InvalidInput`](ErrorKind::InvalidInput) where something else was written since, which would be lost; as for
    /// opening the image for writing, without its parents.
    pub fn undo_repair(&self, path: impl AsRef<Path>, undo: &dyn Storage) -> Result<u64> {
        undo_repair(&Site::new(self, Place::Host(path.as_ref())), undo)
    }

    /// As [`undo_repair`](Self::undo_repair), of the image `name` in a directory.
    ///
    /// # Errors
    /// As for [`undo_repair`](Self::undo_repair).
    pub fn undo_repair_in(&self, name: &str, directory: &dyn Directory, undo: &dyn Storage) -> Result<u64> {
        undo_repair(&Site::new(self, Place::In(name, directory)), undo)
    }
}

fn repair(
    site: &Site<'_>,
    options: &RepairOptions,
    progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<RepairReport> {
    let purpose = if options.dry_run { Purpose::Read } else { site.write_purpose()? };
    let first = site.open_first(purpose)?;
    let look = CheckOptions::new().for_repair(options.prefer_redundant, options.reclaim);
    let before = check_first(site, &first, &look, purpose, progress)?;
    if options.dry_run || !before.has_remedies() {
        return Ok(RepairReport { after: before.clone(), before, changes: 0, undo_bytes: 0 });
    }
    let link = open_alone(site, &first, Purpose::Write)?;
    // A part of a disk may be repaired by itself, as long as a guest reads the same: nobody gets another content ID
    // then.
    let bare = !options.prefer_redundant || site.allows_bare_extent();
    link.check_writable(true, bare, false).map_err(|error| error.in_file(link.path()))?;
    let mut repair = Repair::begin(options)?;
    let link = if before.wants(Remedy::MoveDescriptor) {
        move_descriptor(site, &link, &mut repair)?;
        drop(link);
        open_alone(site, &first, Purpose::Write)?
    } else {
        link
    };
    if let Some(bytes) = changed_by_writers(&link)? {
        repair.witness(link.shared_file(), bytes);
    }
    put_right(&link, &before, options, &mut repair)?;
    let (changes, undo_bytes) = repair.finish()?;
    let after = check_first(site, &first, &look, purpose, progress)?;
    Ok(RepairReport { before, after, changes, undo_bytes })
}

/// The bytes of its first file that whoever writes to the disk changes: the descriptor with the content ID, or the
/// generation of a disk of VMware 2 or 3.
fn changed_by_writers(link: &Link) -> Result<Option<Range<u64>>> {
    if link.header().is_some_and(|header| header.as_cowd().is_some()) {
        let at = GENERATION_AT as u64;
        return Ok(Some(at..at + 4));
    }
    let (len, start) = (link.descriptor().as_bytes().len() as u64, link.descriptor_region()?.start);
    Ok(Some(start..start + len).filter(|bytes| !bytes.is_empty()))
}

/// Puts the descriptor where other programs look for it.
fn move_descriptor(site: &Site<'_>, link: &Link, repair: &mut Repair<'_>) -> Result<()> {
    let (directory, name) = site.directory_of(link)?;
    let own = DescriptorFile::new(link, directory.as_dyn(), &name)?;
    repair.write_in_steps(link.file(), own.way_home()?)
}

fn put_right(link: &Link, before: &CheckReport, options: &RepairOptions, repair: &mut Repair<'_>) -> Result<()> {
    if options.prefer_redundant && (before.wants(Remedy::FromRedundant) || before.wants(Remedy::NewTable)) {
        // Guests will read something else.
        change_content_id(link, repair)?;
    }
    for extent in link.extents() {
        repair.extent(extent)?;
    }
    if can_be_described(link)? {
        let region = link.descriptor_region()?;
        repair.describe(link, region)?;
    }
    Ok(())
}

/// Gives the disk another content ID, in the place of the old one, durably and before any other change.
fn change_content_id(link: &Link, repair: &mut Repair<'_>) -> Result<()> {
    let [high, low] = crate::random::random();
    let descriptor = link.descriptor();
    match descriptor.with_new_content_id(u128::from(high) << 64 | u128::from(low)) {
        NewContentId::Nothing => Ok(()),
        NewContentId::InPlace(_, edits) => {
            let start = link.descriptor_region()?.start;
            let edits = edits.into_iter().map(|edit| (start + edit.at as u64, edit.bytes)).collect();
            repair.first(FirstChange { file: link.shared_file(), edits });
            Ok(())
        }
        NewContentId::Longer(..) => {
            let id = descriptor.content_id().unwrap_or(ContentId::NO_PARENT);
            let text =
                format!("the content ID {id} has too few digits to be changed, and the content of the disk would");
            Err(Error::text(ErrorKind::Unsupported, text).in_file(link.path()))
        }
    }
}

fn undo_repair(site: &Site<'_>, undo: &dyn Storage) -> Result<u64> {
    let first = site.open_first(site.write_purpose()?)?;
    let link = open_alone(site, &first, Purpose::Write)?;
    take_back(undo, &link)
}
