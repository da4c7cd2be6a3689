//! Raw device maps: extents of which an image has nothing but a name. What they stand for the caller says.
//!
//! A VMFSRDM extent names a pointer file that VMFS keeps, a VMFSRAW extent a device of an ESX host. The data is on a
//! LUN, and the name leads nowhere outside that host; so it is never followed. The caller gives a path for it, the
//! device or a copy of it, and is trusted with that as with any path of its own.

use std::path::{Path, PathBuf};

use super::Link;
use crate::descriptor::{Access, Descriptor, ExtentLine};
use crate::error::{Error, ErrorKind, Result};
use crate::locate::shown;

/// What the caller gives for raw device maps, by the names that these have in the descriptors.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawMaps {
    maps: Vec<RawMap>,
    may_be_unused: bool,
}

/// What one of them stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawMap {
    name: String,
    pub(crate) path: PathBuf,
    /// Whether it is written to where the image is.
    pub(crate) writable: bool,
}

impl RawMaps {
    pub(crate) fn add(&mut self, name: String, path: PathBuf, writable: bool) {
        self.maps.push(RawMap { name, path, writable });
    }

    /// Whether no extent has to have such a name.
    pub(crate) fn may_be_unused(&mut self, may: bool) {
        self.may_be_unused = may;
    }

    /// Refuses maps of which one speaks against another.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(crate) fn check(&self) -> Result<()> {
        for (number, map) in self.maps.iter().enumerate() {
            if self.maps[..number].iter().any(|other| other.name == map.name && other != map) {
                let text = format!("the extent {} is mapped in two ways", shown(&map.name));
                return Err(Error::text(ErrorKind::InvalidInput, text));
            }
        }
        Ok(())
    }

    /// What the extent of this name stands for.
    pub(super) fn find(&self, name: &str) -> Option<&RawMap> {
        self.maps.iter().find(|map| map.name == name)
    }

    /// Refuses the raw device maps of a descriptor for which nothing was given.
    ///
    /// # Errors
    /// `Unsupported`; as for decoding a name.
    pub(super) fn check_given(&self, descriptor: &Descriptor) -> Result<()> {
        for line in descriptor.raw_maps().filter(|line| line.access() != Access::NoAccess) {
            let name = descriptor.decode_name(line.name().unwrap_or_default())?;
            if self.find(&name).is_none() {
                return Err(missing(descriptor, line, &name));
            }
        }
        Ok(())
    }

    /// Refuses maps for which the links of a chain, youngest first, have no extent: whoever mistypes a name is to know.
    /// Where the last link says that it has a parent, that may have it.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(crate) fn check_used<'l>(&self, links: impl IntoIterator<Item = &'l Link>) -> Result<()> {
        if self.may_be_unused || self.maps.is_empty() {
            return Ok(());
        }
        let (mut first, mut last) = (None, None);
        let mut unused: Vec<&RawMap> = self.maps.iter().collect();
        let mut others = Vec::new();
        for link in links {
            first = first.or(Some(link));
            last = Some(link);
            let descriptor = link.descriptor();
            let name_of = |line: &ExtentLine| descriptor.decode_name(line.name()?).ok();
            for line in descriptor.raw_maps() {
                let name = name_of(line);
                unused.retain(|map| name.as_ref() != Some(&map.name));
            }
            others.extend(descriptor.extents().iter().filter_map(|line| Some((name_of(line)?, line.kind()))));
        }
        let (Some(map), Some(first), Some(last)) = (unused.first(), first, last) else { return Ok(()) };
        if last.is_child() {
            return Ok(());
        }
        let name = shown(&map.name);
        let text = match others.iter().find(|(other, _)| *other == map.name) {
            Some((_, kind)) => format!(
                "the extent {name} was mapped (map_extent), but it is no raw device map: it is of the type {kind}, and \
                 opened by its own name"
            ),
            None => format!("the extent {name} was mapped (map_extent), but there is no raw device map of this name"),
        };
        Err(Error::text(ErrorKind::InvalidInput, text).in_file(first.path()))
    }
}

/// The error for an extent that stands for something that the caller has not given.
fn missing(descriptor: &Descriptor, line: &ExtentLine, name: &str) -> Error {
    let (kind, name) = (line.kind(), shown(name));
    let of_type = descriptor.create_type().map_or_else(String::new, |name| format!(" of a {name} disk"));
    let text = format!(
        "the extent {name} (line {}, {kind}){of_type} is a raw device map: the image has nothing of its data, which is on a \
         LUN, and the name leads there only on the ESX host; give the device, or a copy of it, for that name (map_extent, \
         `--map-extent NAME=PATH`)",
        line.line()
    );
    Error::text(ErrorKind::Unsupported, text)
}

/// The error for a disk that is opened for writing, of which an extent was mapped for reading.
pub(super) fn read_only(name: &str, path: &Path) -> Error {
    let text = format!(
        "the raw device map {} was mapped to this for reading, and opening the disk for writing does not change that; map it \
         for writing (map_extent_to_write, `--map-extent-to-write NAME=PATH`)",
        shown(name)
    );
    Error::text(ErrorKind::ReadOnly, text).in_file(path)
}

/// The error for something that is shorter than the extent that it was given for.
pub(super) fn too_short(name: &str, path: &Path, len: u64, needed: u64) -> Error {
    let text = format!(
        "this was mapped to the raw device map {}, and has {len} bytes, but the extent ends at byte {needed}: it is another \
         device, or a part of one",
        shown(name)
    );
    Error::text(ErrorKind::InvalidInput, text).in_file(path)
}
