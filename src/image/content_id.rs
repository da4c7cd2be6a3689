//! The content ID of an image changes once per open, before the first guest write reaches the disk.
//!
//! Otherwise a delta could be attached to a parent that has changed, without anybody noticing.

use std::hash::{BuildHasher, RandomState};

use super::Disk;
use crate::descriptor::{ContentId, Edit, NewContentId};
use crate::error::{Error, ErrorKind, Result};

impl Disk {
    /// Gives the image another content ID, durably; `None` if its descriptor has none.
    pub(super) fn change_content_id(&self, rewrite: bool) -> Result<Option<ContentId>> {
        let link = &self.links[0];
        let file = link.file();
        let region = link.descriptor_region()?;
        let (id, edits) = match link.descriptor().with_new_content_id(random()) {
            NewContentId::Nothing => return Ok(None),
            NewContentId::InPlace(id, edits) => (id, edits),
            NewContentId::Longer(id, text) => {
                let room = region.end - region.start;
                if !rewrite || text.len() as u64 > room {
                    let text = "the CID in the descriptor has fewer than four digits, so that no other fits in its \
                                place; allow the descriptor to be rewritten (rewrite_descriptor)";
                    return Err(Error::text(ErrorKind::Unsupported, text).in_file(file.path()));
                }
                (id, vec![Edit { at: 0, bytes: text }])
            }
        };
        let written = || {
            for edit in &edits {
                file.write(&edit.bytes, region.start + edit.at as u64)?;
            }
            file.sync()
        };
        self.health().map_or(Ok(()), |health| health.watch(written()))?;
        Ok(Some(id))
    }
}

/// A number that nobody can expect: the standard library keys its hash maps with such.
fn random() -> u128 {
    let draw = || u128::from(RandomState::new().hash_one(0));
    draw() << 64 | draw()
}
