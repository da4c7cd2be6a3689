//! The file with the descriptor, before any extent is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::extents::{NamedFiles, OwnExtent, refuse_unsupported};
use super::sparse_file::Start;
use super::{Link, LinkOptions, multi_file};
use crate::descriptor::{Access, ContentId, Descriptor, ExtentKind, MAX_DESCRIPTOR_LEN, looks_like_descriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentMap, HostFile};
use crate::format::{CowdHeader, FileKind, KdmvHeader, SparseHeader};
use crate::locate::Opened;
use crate::sector::to_usize;

/// The file with the descriptor, or a sparse extent that needs none.
pub(crate) struct LinkHead {
    file: Arc<HostFile>,
    dir: PathBuf,
    descriptor: Descriptor,
    header: Option<Arc<SparseHeader>>,
    warnings: Vec<String>,
}

/// What a child knows its parent by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The content ID of the descriptor.
    Content(ContentId),
    /// The generation in the header of a disk of VMware 2 or 3.
    Generation(u32),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(id) => write!(f, "{id}"),
            Self::Generation(generation) => write!(f, "{generation:08x}"),
        }
    }
}

/// What a link says of its parent.
pub(crate) struct ParentClaim {
    /// `None` if the link does not say; then there is a hint.
    pub(crate) identity: Option<Identity>,
    /// The name of the parent as it stands in the file.
    pub(crate) hint: Option<Vec<u8>>,
}

impl LinkHead {
    /// Reads and parses the descriptor, or the header and the descriptor in it.
    pub(crate) fn read(opened: Opened, options: LinkOptions<'_>) -> Result<Self> {
        let file = Arc::new(HostFile::new(opened.path, opened.storage)?);
        let (descriptor, header) = read_head(&file, options).map_err(|error| error.in_file(file.path()))?;
        refuse_unsupported(&descriptor).map_err(|error| error.in_file(file.path()))?;
        let mut warnings = descriptor.warnings().to_vec();
        let cowd = header.as_ref().and_then(|header| header.as_cowd());
        if cowd.is_some_and(|cowd| cowd.version == 1 && !cowd.is_child()) {
            warnings
                .push("a COWD extent without its descriptor: a delta of ESX would read as if it had no parent".into());
        }
        if header.as_ref().is_some_and(|header| header.as_sesparse().is_some()) {
            warnings.push("an seSparse extent without its descriptor reads as if it had no parent".into());
        }
        if let Some(part) = cowd.and_then(multi_file::later_part) {
            warnings.push(format!("{part}, without the others; the first one opens the whole disk"));
        }
        Ok(Self { file, dir: opened.dir, descriptor, header, warnings })
    }

    pub(crate) fn file(&self) -> &HostFile {
        &self.file
    }

    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The sparse header of the file, if it has one.
    pub(crate) fn header(&self) -> Option<&SparseHeader> {
        self.header.as_deref()
    }

    /// The directory in which the names of this link resolve.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the link says of its parent; `None` for the base of a chain. One of several files that is not the first
    /// cannot be read over the parent, because it does not begin where that does.
    pub(crate) fn parent_claim(&self) -> Result<Option<ParentClaim>> {
        if let Some(cowd) = self.cowd().filter(|cowd| cowd.is_child()) {
            if let Some(part) = multi_file::later_part(cowd) {
                let text =
                    format!("{part} that has a parent; open the first one, or this one alone, without the parent");
                return Err(Error::text(ErrorKind::InvalidInput, text).in_file(self.file.path()));
            }
            let hint = Some(cowd.parent_name.clone()).filter(|name| !name.is_empty());
            return Ok(Some(ParentClaim { identity: Some(Identity::Generation(cowd.parent_generation)), hint }));
        }
        let content = self.descriptor.parent_content_id();
        let hint = self.descriptor.parent_hint();
        if content.is_some_and(ContentId::is_no_parent) || (content.is_none() && hint.is_none()) {
            return Ok(None);
        }
        Ok(Some(ParentClaim { identity: content.map(Identity::Content), hint: hint.map(<[u8]>::to_vec) }))
    }

    /// Refuses what cannot be the parent of a disk because it is a part of one.
    pub(crate) fn check_as_parent(&self) -> Result<()> {
        multi_file::check_as_parent(self.cowd()).map_err(|error| error.in_file(self.file.path()))
    }

    /// What this link is known by, in the terms of `wanted`; `None` if it does not say.
    pub(crate) fn identity_like(&self, wanted: Identity) -> Option<Identity> {
        match wanted {
            Identity::Content(_) => self.descriptor.content_id().map(Identity::Content),
            Identity::Generation(_) => Some(Identity::Generation(self.cowd()?.generation)),
        }
    }

    /// Opens the extents.
    pub(crate) fn open(mut self, options: LinkOptions<'_>) -> Result<Link> {
        let extents = self.open_extents(options).map_err(|error| error.in_file(self.file.path()))?;
        // A claim that cannot be read is one.
        let is_child = !matches!(self.parent_claim(), Ok(None));
        let Self { file, descriptor, header, mut warnings, .. } = self;
        warn_of_extents(extents.extents(), &mut warnings);
        Ok(Link {
            file,
            descriptor,
            header,
            extents,
            is_child,
            warnings,
            new_content_id: OnceLock::new(),
            replacement: OnceLock::new(),
        })
    }

    fn cowd(&self) -> Option<&CowdHeader> {
        self.header.as_ref()?.as_cowd()
    }

    fn open_extents(&mut self, options: LinkOptions<'_>) -> Result<ExtentMap> {
        options.raw_maps.check_given(&self.descriptor)?;
        let lines = self.descriptor.extents();
        let files = NamedFiles::new(&self.descriptor, &self.dir, options);
        // The header of a file with a capacity of its own speaks of the first sparse extent, whatever name that has
        // in the descriptor: files get renamed. Without a capacity the file is only a container for the text.
        let own_header = self.header.as_ref().filter(|header| header.capacity() != 0 || lines.is_empty());
        let Some(header) = own_header else {
            if lines.is_empty() {
                return Err(Error::text(ErrorKind::Corrupt, "the descriptor names no extent"));
            }
            return ExtentMap::new(files.open_all(None)?);
        };
        let own = OwnExtent { file: &self.file, header, options };
        if lines.is_empty() {
            if !self.descriptor.as_bytes().is_empty() {
                self.warnings.push("the descriptor names no extent; the header's capacity counts".to_owned());
            }
            if let Some(cowd) = header.as_cowd().filter(|cowd| multi_file::is_part(cowd)) {
                return ExtentMap::new(multi_file::open(&own, cowd, &self.dir)?);
            }
            let extent = own.open(Access::ReadWrite, ExtentKind::Sparse, header.capacity())?;
            return ExtentMap::new(vec![extent]);
        }
        ExtentMap::new(files.open_all(Some(&own))?)
    }
}

/// What is odd about extents that are read nevertheless. Of many, the first ones are named.
fn warn_of_extents(extents: &[Extent], warnings: &mut Vec<String>) {
    const NAMED: usize = 20;
    let odd = extents.iter().enumerate().filter_map(|(number, extent)| Some((number, extent.oddity()?)));
    let mut seen = 0;
    for (number, oddity) in odd {
        seen += 1;
        if seen <= NAMED {
            warnings.push(format!("extent {number}: {oddity}"));
        }
    }
    if seen > NAMED {
        warnings.push(format!("{} more extents are odd", seen - NAMED));
    }
}

fn read_head(file: &HostFile, options: LinkOptions<'_>) -> Result<(Descriptor, Option<Arc<SparseHeader>>)> {
    let start = Start::read(file)?;
    if start.kind() == FileKind::Other && looks_like_descriptor(start.bytes()) {
        return Ok((read_text(file)?, None));
    }
    let header = start.header(file, options)?;
    let descriptor = match &header {
        SparseHeader::Kdmv(header) => read_embedded(file, header)?,
        SparseHeader::Cowd(_) | SparseHeader::SeSparse(_) => Descriptor::empty(),
    };
    Ok((descriptor, Some(Arc::new(header))))
}

fn read_embedded(file: &HostFile, header: &KdmvHeader) -> Result<Descriptor> {
    let Some(region) = header.descriptor_region(file.len())? else { return Ok(Descriptor::empty()) };
    let mut text = vec![0; to_usize(region.end - region.start)];
    file.read(&mut text, region.start)?;
    // A region of zeros is room for a descriptor that is not there, as in QEMU's split disks.
    if text.iter().all(|&byte| byte == 0) { Ok(Descriptor::empty()) } else { Descriptor::parse(&text) }
}

fn read_text(file: &HostFile) -> Result<Descriptor> {
    if file.len() > MAX_DESCRIPTOR_LEN as u64 {
        let problem = format!("a descriptor of {} bytes; at most {MAX_DESCRIPTOR_LEN} are read", file.len());
        return Err(Error::text(ErrorKind::Corrupt, problem));
    }
    let mut text = vec![0; to_usize(file.len())];
    file.read(&mut text, 0)?;
    Descriptor::parse(&text)
}
