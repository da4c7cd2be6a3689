//! What the descriptor of a resized disk says.

use super::super::content_id::random;
use super::Resizing;
use crate::descriptor::{
    AdapterType, Descriptor, ExtentKind, Geometry, MAX_DESCRIPTOR_LEN, NewContentId, NewExtentLine,
};
use crate::error::{Error, ErrorKind, Result};
use crate::link::DescriptorFile;

/// How the extents of a disk change.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// How many of the old extents there are still.
    pub(super) kept: usize,
    /// The sectors that the last of them has.
    pub(super) last_sectors: u64,
    pub(super) added: Vec<NewExtentLine>,
}

impl Resizing<'_, '_> {
    /// The text for a disk of `capacity` sectors with these extents, and another content ID. There is room for it.
    /// `None` if the disk has no descriptor.
    ///
    /// # Errors
    /// `Unsupported` where there is not, and for names of files that the encoding of the descriptor does not have.
    pub(super) fn text(&self, capacity: u64, lines: &Lines) -> Result<Option<Vec<u8>>> {
        let Some(own) = &self.own else { return Ok(None) };
        let descriptor = own.descriptor();
        let added = lines.added.iter().map(NewExtentLine::compose).collect::<Result<Vec<_>>>()?;
        let geometry = self.geometry(capacity);
        let text = descriptor
            .revise()
            .extent_sectors(lines.kept.saturating_sub(1), lines.last_sectors)
            .without_extents_from(lines.kept)
            .more_extents(added.iter().map(String::as_str))
            .database_if_there("geometry.cylinders", &geometry.cylinders.to_string())
            .database_if_there("geometry.heads", &geometry.heads.to_string())
            .database_if_there("geometry.sectors", &geometry.sectors.to_string())
            .finish()?;
        if text.len() >= MAX_DESCRIPTOR_LEN {
            let text = format!("the descriptor would have {} bytes, more than is read of one", text.len());
            return Err(Error::text(ErrorKind::Unsupported, text));
        }
        let text = with_new_content_id(text)?;
        check(own, &text, lines)?;
        Ok(Some(text))
    }

    /// Lets the descriptor be such a text, durably, if the disk has one.
    pub(super) fn replace(&mut self, text: Option<&[u8]>) -> Result<()> {
        match (&mut self.own, text) {
            (Some(own), Some(text)) => own.replace(text),
            _ => Ok(()),
        }
    }

    /// The geometry of such a disk on the controller that this one is made for.
    fn geometry(&self, capacity: u64) -> Geometry {
        let is_esx = |kind| matches!(kind, ExtentKind::Vmfs | ExtentKind::VmfsSparse);
        let is_esx = self.extents().first().is_some_and(|extent| is_esx(extent.kind()));
        let usual = if is_esx { AdapterType::LsiLogic } else { AdapterType::Ide };
        Geometry::of_disk(&self.image.adapter_type().unwrap_or(usual), capacity)
    }
}

fn check(own: &DescriptorFile<'_>, text: &[u8], lines: &Lines) -> Result<()> {
    let written = Descriptor::parse(text)?;
    for (line, new) in written.extents().iter().skip(lines.kept).zip(&lines.added) {
        let name = written.decode_name(line.name().unwrap_or_default())?;
        if name.strip_prefix("./").unwrap_or(&name) != new.name {
            let text = format!("the name {name:?} cannot be written in the encoding of the descriptor");
            return Err(Error::text(ErrorKind::Unsupported, text));
        }
    }
    own.check(text)
}

/// The same text with another content ID, if it has one.
fn with_new_content_id(mut text: Vec<u8>) -> Result<Vec<u8>> {
    match Descriptor::parse(&text)?.with_new_content_id(random()) {
        NewContentId::Nothing => Ok(text),
        NewContentId::InPlace(_, edits) => {
            for edit in edits {
                if let Some(place) = text.get_mut(edit.at..edit.at + edit.bytes.len()) {
                    place.copy_from_slice(&edit.bytes);
                }
            }
            Ok(text)
        }
        NewContentId::Longer(_, text) => Ok(text),
    }
}
