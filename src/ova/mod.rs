//! Appliances (`.ova`): tar archives in which disks lie as they are, uncompressed by the archive.
//!
//! ```text
//! file:  members by seeking from header to header -> a window over the archive for each -> OpenOptions::open_with
//! pipe:  member by member, what is not wanted is read and dropped -> StreamReader
//! ```
//!
//! The archive is taken apart by the crate `tar`, which reads long names and the like into memory. So what one step may
//! read of it is metered: an archive cannot make that more than [`METADATA`] bytes. Names in an archive are names and
//! nothing else: no file of the host is ever looked for by one of them.

mod archive;
mod meter;
mod pipe;

pub use archive::{OvaArchive, OvaMember};
pub use pipe::read_ova_member;

use std::io;

use crate::error::{Error, ErrorKind};

/// What may be read for one member beside its content: 1 MiB, more than any name and its attributes.
const METADATA: u64 = 1 << 20;

/// The most members. Appliances have a dozen; chunks of disks add some.
const MAX_MEMBERS: usize = 10_000;

/// The longest name of a member, in bytes, as for paths on Linux.
const MAX_NAME: usize = 4096;

/// An error of the archive: ours if it came through it, else one of its format or of the host.
fn bad_archive(error: io::Error) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(ours) => return ours,
        Err(error) => error,
    };
    // What tar itself has to say is of the kind `Other`.
    let kind = match error.kind() {
        io::ErrorKind::Other | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
        _ => ErrorKind::Io,
    };
    Error::host("cannot read the archive", error).with_kind(kind)
}

/// The name of a member, if it is a file; `None` for directories and links.
///
/// # Errors
/// `Unsupported` for a file with holes, whose content is not one stretch of the archive; `Corrupt` for a name that is
/// too long.
fn file_name<R: io::Read>(entry: &mut tar::Entry<'_, R>) -> Result<Option<String>, Error> {
    let kind = entry.header().entry_type();
    let has_holes = kind.is_gnu_sparse() || has_holes_by_attributes(entry)?;
    let name = entry.path_bytes();
    if name.len() > MAX_NAME {
        let text = format!("a member of the archive has a name of {} bytes; at most {MAX_NAME} are read", name.len());
        return Err(Error::text(ErrorKind::Corrupt, text));
    }
    let name = String::from_utf8_lossy(&name);
    if has_holes {
        let text = format!("the member {:?} of the archive is stored with holes (GNU sparse)", &*name);
        return Err(Error::text(ErrorKind::Unsupported, text));
    }
    let is_file = kind.is_file() || kind.is_contiguous();
    Ok(is_file.then(|| name.strip_prefix("./").unwrap_or(&name).to_owned()))
}

/// Whether a member is stored with holes in the later form, in which only its attributes tell.
fn has_holes_by_attributes<R: io::Read>(entry: &mut tar::Entry<'_, R>) -> Result<bool, Error> {
    let Some(attributes) = entry.pax_extensions().map_err(bad_archive)? else { return Ok(false) };
    for attribute in attributes {
        if attribute.map_err(bad_archive)?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn too_many() -> Error {
    Error::text(ErrorKind::Corrupt, format!("the archive has more than {MAX_MEMBERS} members"))
}

/// The error for a member that is not there, with those that are.
fn no_member<'a>(name: &str, members: impl Iterator<Item = &'a str>) -> Error {
    const SHOWN: usize = 20;
    let names: Vec<_> = members.take(SHOWN + 1).map(crate::locate::shown).collect();
    let text = match &names[..] {
        [] => format!("the archive has no member {name:?}, nor any other"),
        names => {
            let more = if names.len() > SHOWN { " and more" } else { "" };
            let shown = names[..names.len().min(SHOWN)].join(", ");
            format!("the archive has no member {name:?}; it has {shown}{more}")
        }
    };
    Error::text(ErrorKind::NotFound, text)
}
