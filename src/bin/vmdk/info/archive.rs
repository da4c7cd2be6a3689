//! `vmdk info` of an appliance: the files in it, and which of them are disks.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;
use vmdk::{BlockDevice, Cursor, OpenOptions, OvaArchive, OvaMember, RawImage, SECTOR_SIZE, StreamReader};

use crate::failure::Result;
use crate::printable::printable;
use crate::size;

/// What an appliance holds.
pub(super) struct Listing {
    archive: OvaArchive,
    members: Vec<Member>,
}

struct Member {
    file: OvaMember,
    is_vmdk: bool,
    create_type: Option<String>,
    sectors: Option<u64>,
}

impl Listing {
    pub(super) fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        let archive = OvaArchive::open(path)?;
        let mut members = Vec::new();
        for member in archive.members() {
            members.push(Member::look(&archive, member.clone(), options)?);
        }
        Ok(Self { archive, members })
    }

    pub(super) fn json(&self) -> String {
        let members = self.members.iter().map(|Member { file, is_vmdk, create_type, sectors }| {
            json!({
                "name": file.name,
                "offset": file.offset,
                "size": file.len,
                "is_vmdk": is_vmdk,
                "create_type": create_type,
                "virtual_size": sectors.and_then(super::bytes),
            })
        });
        let members: serde_json::Value = members.collect();
        format!("{:#}\n", json!({ "path": self.archive.path().to_string_lossy(), "members": members }))
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("path: {}\n", printable(&self.archive.path().to_string_lossy()));
        for Member { file, is_vmdk, create_type, sectors } in &self.members {
            let disk = match (is_vmdk, create_type, sectors) {
                (false, ..) => String::new(),
                (true, create_type, Some(sectors)) => {
                    let create_type = create_type.as_deref().unwrap_or("no type");
                    let size = sectors.checked_mul(SECTOR_SIZE as u64).map_or_else(String::new, size::show);
                    format!(", VMDK {create_type}, {size}")
                }
                (true, _, None) => ", VMDK that cannot be opened by itself".to_owned(),
            };
            let line = format!("member: {}: {} at offset {}{disk}", file.name, size::show(file.len), file.offset);
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", printable(&line));
        }
        text
    }
}

impl Member {
    /// A disk is opened as an image or, where that does not go, as a stream, of which the first chunk is enough.
    fn look(archive: &OvaArchive, file: OvaMember, options: &OpenOptions) -> Result<Self> {
        let bytes = RawImage::new(archive.storage(&file.name)?, &file.name)?;
        let is_vmdk = bytes.looks_like_vmdk()?;
        let mut found = Self { file, is_vmdk, create_type: None, sectors: None };
        if !is_vmdk {
            return Ok(found);
        }
        if let Ok(image) = options.clone().no_parent(true).open_with(&found.file.name, archive) {
            found.create_type = image.chain()[0].descriptor().create_type().map(ToString::to_string);
            found.sectors = Some(image.capacity_sectors());
        } else if let Ok(stream) = StreamReader::new(Cursor::new(bytes)) {
            found.create_type = stream.descriptor().create_type().map(ToString::to_string);
            found.sectors = Some(stream.capacity_sectors());
        }
        Ok(found)
    }
}
