//! Checking: a disk is opened as far as it can be, and every structure looked at.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::site::{Place, Site};
use super::{CopyProgress, OpenOptions};
use crate::chain;
use crate::check::{CheckReport, Finding, FindingKind, HowToCheck, Reporter, Severity, check_link};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::Extent;
use crate::link::{Link, LinkHead, LinkOptions, SparseFiles};
use crate::locate::Opened;
use crate::sector::SECTOR_BYTES;
use crate::storage::{Directory, Purpose};

/// What a check looks at.
#[derive(Clone, Debug)]
#[must_use]
pub struct CheckOptions {
    chain: bool,
    threads: usize,
    prefer_redundant: bool,
    reclaims: bool,
}

impl CheckOptions {
    /// The image alone, with one thread.
    pub fn new() -> Self {
        Self { chain: false, threads: 1, prefer_redundant: false, reclaims: false }
    }

    /// Whether the parents are looked at, too, and whether they fit.
    pub fn chain(mut self, chain: bool) -> Self {
        self.chain = chain;
        self
    }

    /// How many threads inflate the grains of streams, or read the tables of sparse extents while the caller's looks at
    /// them, of which 4 are of use; 1, the caller's, unless set. seSparse extents are read by the caller's alone. What
    /// is found does not depend on it.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Lists the remedies of a repair with these options.
    pub(super) fn for_repair(mut self, prefer_redundant: bool, reclaims: bool) -> Self {
        (self.prefer_redundant, self.reclaims) = (prefer_redundant, reclaims);
        self
    }
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// Looks at every structure of the image at `path`: descriptor, headers, every table of every extent with its
    /// redundant copy, bitmap and back map of seSparse extents, and every grain of streams. The data of other extents
    /// is not read; only where grains share a place, those of which the two copies of a table name different ones are
    /// compared: whether they hold the same matters for a repair. Nothing is changed.
    /// A disk that cannot be opened, or only in part, has a report as well. The image is opened without its parents,
    /// which an orphan does not have, unless [`CheckOptions::chain`] says otherwise.
    ///
    /// Memory is bounded: a bit for each grain that a file can have, or for each sector where grains are out of line
    /// (two bits in seSparse extents, up to 1 GiB), and of each kind of finding a thousand are listed and the others
    /// counted. Of a stream, up to 32 bytes for each grain are kept.
    ///
    /// `progress` is called with the bytes of tables, or of compressed grains, that were looked at, and once at the
    /// end; it stops the work by breaking. Nobody is told while the markers of a stream are gone through, before its
    /// grains.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`NotVmdk`](ErrorKind::NotVmdk), [`Locked`](ErrorKind::Locked),
    /// [`Unsupported`](ErrorKind::Unsupported), [`NameRefused`](ErrorKind::NameRefused) and [`Io`](ErrorKind::Io) for
    /// what cannot be looked at; [`InvalidInput`](ErrorKind::InvalidInput) as for [`open`](Self::open);
    /// [`Cancelled`](ErrorKind::Cancelled).
    pub fn check(
        &self,
        path: impl AsRef<Path>,
        options: &CheckOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CheckReport> {
        check(&Site::new(self, Place::Host(path.as_ref())), options, progress)
    }

    /// As [`check`](Self::check), of the image `name` in a directory, with everything that it names.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub fn check_in(
        &self,
        name: &str,
        directory: &dyn Directory,
        options: &CheckOptions,
        progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
    ) -> Result<CheckReport> {
        check(&Site::new(self, Place::In(name, directory)), options, progress)
    }
}

fn check(
    site: &Site<'_>,
    options: &CheckOptions,
    progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<CheckReport> {
    check_first(site, &site.open_first(Purpose::Read)?, options, Purpose::Read, progress)
}

/// As `check`, of a disk of which the first file is open for this purpose.
pub(super) fn check_first(
    site: &Site<'_>,
    first: &Opened,
    options: &CheckOptions,
    purpose: Purpose,
    progress: &mut dyn FnMut(CopyProgress) -> ControlFlow<()>,
) -> Result<CheckReport> {
    let mut reporter = Reporter::new(progress);
    let links = open_links(site, first, options, purpose, &mut reporter)?;
    for link in &links {
        reporter.expect(link.extents().iter().map(bytes_to_look_at).sum());
    }
    let how =
        HowToCheck { prefer_redundant: options.prefer_redundant, reclaims: options.reclaims, threads: options.threads };
    for (number, link) in links.iter().enumerate() {
        check_link(&mut reporter, number, link, how)?;
    }
    for (number, pair) in links.windows(2).enumerate() {
        let [child, parent] = [&pair[0], &pair[1]].map(|link| link.capacity_sectors());
        if child != parent {
            let text = format!("{child} sectors, and its parent has {parent}");
            reporter.add(finding(FindingKind::Size, Severity::Note, number, pair[0].path(), text));
        }
    }
    reporter.finish(links.len())
}

/// Opens the links that are to be looked at, as far as that goes.
fn open_links(
    site: &Site<'_>,
    first: &Opened,
    options: &CheckOptions,
    purpose: Purpose,
    reporter: &mut Reporter<'_>,
) -> Result<Vec<Arc<Link>>> {
    if options.chain {
        let files = SparseFiles::default();
        let mut options = site.chain_options(Purpose::Read, &files);
        // What could be salvaged of a stream is no sound stream.
        options.link.sparse.salvage = false;
        match chain::open(first.again(), options) {
            Ok(links) => {
                options.link.raw_maps.check_used(links.iter().map(|link| &**link))?;
                return Ok(links);
            }
            Err(error) if tells_of_the_disk(&error) => {
                // The image itself may be what cannot be opened; then that is said below.
                let is_parents = error.file().is_none_or(|file| file != first.path) || is_of_parents(error.kind());
                if is_parents {
                    let text = error.with_causes();
                    reporter.add(finding(FindingKind::Parent, Severity::Corruption, 0, &first.path, text));
                }
            }
            Err(error) => return Err(error),
        }
    }
    match open_alone(site, first, purpose) {
        Ok(link) => {
            site.check_raw_maps(&link)?;
            Ok(vec![Arc::new(link)])
        }
        Err(error) if tells_of_the_disk(&error) => {
            let file = error.file().unwrap_or(&first.path).to_owned();
            reporter.add(finding(FindingKind::Unreadable, Severity::Corruption, 0, &file, error.with_causes()));
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Opens the first link of a disk; by its redundant directory if the place of the other one is impossible.
pub(super) fn open_alone(site: &Site<'_>, first: &Opened, purpose: Purpose) -> Result<Link> {
    let files = SparseFiles::default();
    let mut options = site.link_options(purpose, &files);
    options.sparse.salvage = false;
    let open = |options: LinkOptions<'_>| LinkHead::read(first.again(), options)?.open(options);
    match open(options) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let again = SparseFiles::default();
            let mut options = site.link_options(purpose, &again);
            options.sparse.salvage = false;
            options.sparse.use_redundant = true;
            match open(options) {
                Err(again) if again.kind() == ErrorKind::Corrupt => Err(error),
                opened => opened,
            }
        }
        opened => opened,
    }
}

/// Whether an error says that something is wrong with the disk, and not with the way to it.
fn tells_of_the_disk(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Corrupt
            | ErrorKind::Incomplete
            | ErrorKind::NotFound
            | ErrorKind::ParentMissing
            | ErrorKind::ContentIdMismatch
            | ErrorKind::BadChain
    )
}

fn is_of_parents(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ParentMissing | ErrorKind::ContentIdMismatch | ErrorKind::BadChain)
}

fn finding(kind: FindingKind, severity: Severity, link: usize, file: &Path, text: String) -> Finding {
    Finding {
        kind,
        severity,
        link,
        extent: None,
        file: PathBuf::from(file),
        guest: None,
        host: None,
        count: 1,
        text,
        remedy: None,
    }
}

/// Bytes that are gone through of an extent: those of its tables, or of the grains of a stream.
fn bytes_to_look_at(extent: &Extent) -> u64 {
    if extent.is_compressed() {
        return extent.sectors().saturating_mul(SECTOR_BYTES);
    }
    extent.sparse().map_or(0, |sparse| {
        let tables = sparse.tables();
        tables.layout().tables().saturating_mul(tables.table_len() as u64)
    })
}
