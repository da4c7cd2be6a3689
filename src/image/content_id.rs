//! The content ID of an image changes once per open, before the first guest write reaches the disk.
//!
//! Otherwise a delta could be attached to a parent that has changed, without anybody noticing. A disk of VMware 2 or 3
//! has no descriptor; what its children know it by is the generation in its header, which changes in the same way.

use std::sync::Arc;

use super::Disk;
use super::write::Writing;
use crate::descriptor::{ContentId, Edit, NewContentId};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::format::cowd::{GENERATION_AT, SAVED_GENERATION_AT};
use crate::link::DescriptorFile;
use crate::storage::{Locking, Replacement};

/// What a descriptor that is too short for another content ID is replaced through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewrite {
    /// A new file under the same name, locked in the same way, for a descriptor in a file of its own on this host.
    ByRename(Locking),
    /// Its own bytes: a crash may leave half of it.
    InPlace,
    Never,
}

impl Disk {
    /// Gives the image another content ID, durably; `None` if its descriptor has none.
    pub(super) fn change_content_id(&self, writing: &Writing) -> Result<Option<ContentId>> {
        let descriptor = self.links[0].descriptor();
        if descriptor.as_bytes().is_empty() {
            writing.health.watch(self.change_generation(writing))?;
            return Ok(None);
        }
        match descriptor.with_new_content_id(random()) {
            NewContentId::Nothing => Ok(None),
            NewContentId::InPlace(id, edits) => {
                match DescriptorFile::astray(&self.links[0])? {
                    // Other programs would change that of another text.
                    Some(mut own) => writing.health.watch(own.replace(&edited(descriptor.as_bytes(), &edits)))?,
                    None => writing.health.watch(self.edit_descriptor(&edits))?,
                }
                Ok(Some(id))
            }
            NewContentId::Longer(id, text) => {
                self.replace_descriptor(writing, text)?;
                Ok(Some(id))
            }
        }
    }

    /// Changes bytes of the descriptor, durably.
    pub(super) fn edit_descriptor(&self, edits: &[Edit]) -> Result<()> {
        let link = &self.links[0];
        let start = link.descriptor_region()?.start;
        for edit in edits {
            link.file().write(&edit.bytes, start + edit.at as u64)?;
        }
        link.file().sync()
    }

    /// Writes a descriptor that is longer than it was.
    fn replace_descriptor(&self, writing: &Writing, text: Vec<u8>) -> Result<()> {
        let link = &self.links[0];
        let path = link.path();
        let is_embedded = link.header().is_some();
        match writing.rewrite {
            Rewrite::ByRename(locking) if !is_embedded => {
                let new = Replacement::prepare(path, link.file().storage().id(), &text, locking)?;
                let new = writing.health.watch(new.commit())?;
                link.keep_replacement(Arc::new(new));
                Ok(())
            }
            Rewrite::InPlace if !is_embedded || has_room(&link.descriptor_region()?, &text) => {
                let written = match DescriptorFile::astray(link)? {
                    Some(mut own) => own.replace(&text),
                    None => self.edit_descriptor(&[Edit { at: 0, bytes: text }]),
                };
                writing.health.watch(written)
            }
            _ => {
                let text = "the CID in the descriptor has fewer than four digits, so that no other fits in its place; \
                            allow the descriptor to be rewritten (rewrite_descriptor)";
                Err(Error::text(ErrorKind::Unsupported, text).in_file(path))
            }
        }
    }

    /// Gives a disk of VMware 2 or 3 another generation, durably.
    fn change_generation(&self, writing: &Writing) -> Result<()> {
        let link = &self.links[0];
        let Some(cowd) = link.header().and_then(|header| header.as_cowd()) else { return Ok(()) };
        let [a, b, c, d, ..] = random().to_le_bytes();
        let new = u32::from_le_bytes([a, b, c, d]);
        let new = if new == cowd.generation { !new } else { new };
        link.file().write(&new.to_le_bytes(), GENERATION_AT as u64)?;
        link.file().sync()?;
        // Also of one that was not closed: its tables are put right before they are written to.
        writing.generation.get_or_init(|| new);
        Ok(())
    }

    /// Says in the header of a disk of VMware 2 or 3 that it was closed; nothing for others, and nothing for one that
    /// was not closed before and was not written to itself: what is in its first file is still to be put right.
    pub(super) fn save_generation(&self, writing: &Writing) -> Result<()> {
        let Some(generation) = writing.generation.get() else { return Ok(()) };
        let first = self.links[0].extents().first().and_then(Extent::sparse);
        if first.is_some_and(|extent| extent.is_unsettled()) {
            return Ok(());
        }
        let file = self.links[0].file();
        file.write(&generation.to_le_bytes(), SAVED_GENERATION_AT as u64)?;
        file.sync()
    }
}

/// A text with some of its bytes changed.
fn edited(text: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut text = text.to_vec();
    for edit in edits {
        if let Some(place) = text.get_mut(edit.at..edit.at + edit.bytes.len()) {
            place.copy_from_slice(&edit.bytes);
        }
    }
    text
}

fn has_room(region: &std::ops::Range<u64>, text: &[u8]) -> bool {
    text.len() as u64 <= region.end - region.start
}

/// What content IDs are made of.
pub(super) fn random() -> u128 {
    let [high, low] = crate::random::random();
    u128::from(high) << 64 | u128::from(low)
}
