//! The backing chain: from a child to its parents.
//!
//! A parent is searched where its child's hint leads, as far as the name policy goes, and taken only if its content ID
//! is the one that the child was made against. Content IDs are compared here, when the chain is opened: a child on a
//! changed parent reads as a mixture of two disks, and nothing later would notice.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::descriptor::{ContentId, Descriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::link::{Identity, Link, LinkHead, LinkOptions, ParentClaim};
use crate::locate::{Names, Opened, shown};
use crate::storage::{Purpose, StorageId};

/// How deep a chain may be unless the caller says otherwise. ESX allows 32 links; hosted products have no small limit.
pub(crate) const DEFAULT_MAX_DEPTH: usize = 64;

/// Keys and extent lines that the descriptors of a chain may have together. One takes about 150 bytes of memory: with
/// `MAX_TEXT` that is less than 64 MiB, whatever the files say, and more than 32 links of an 8 TiB split disk need.
const MAX_ITEMS: usize = 256 << 10;

/// Bytes that the descriptors of a chain may have together.
const MAX_TEXT: usize = 16 << 20;

/// Which parent the first link has.
#[derive(Clone, Debug)]
pub(crate) enum ParentChoice {
    /// The one that its hint leads to.
    Hinted,
    /// The file that the caller names.
    Given(PathBuf),
    /// None: the link is opened alone.
    Alone,
}

/// How a chain is to be opened.
#[derive(Clone, Copy)]
pub(crate) struct ChainOptions<'a> {
    pub(crate) link: LinkOptions<'a>,
    pub(crate) parent: &'a ParentChoice,
    pub(crate) ignore_cid_mismatch: bool,
    /// The most links.
    pub(crate) max_depth: usize,
    /// So many links from the youngest on are opened for what `link` says, the others for reading.
    pub(crate) own_links: usize,
}

impl ChainOptions<'_> {
    /// How the link at a depth is opened.
    fn link(&self, depth: usize) -> LinkOptions<'_> {
        let purpose = if depth < self.own_links { self.link.purpose } else { Purpose::Read };
        LinkOptions { purpose, ..self.link }
    }
}

/// Opens `first` and all its parents, youngest first.
pub(crate) fn open(first: Opened, options: ChainOptions<'_>) -> Result<Vec<Arc<Link>>> {
    let mut search = Search { options, seen: HashSet::new() };
    let mut links = Vec::new();
    let mut head = LinkHead::read(first, options.link(0))?;
    let mut budget = Budget::default();
    loop {
        budget.take(head.descriptor()).map_err(|error| error.in_file(head.file().path()))?;
        if let Some(id) = head.file().storage().id() {
            search.seen.insert(id);
        }
        search.options.link = options.link(links.len() + 1);
        let parent = match options.parent {
            ParentChoice::Alone => None,
            ParentChoice::Given(path) if links.is_empty() => Some(search.given_parent(&head, path)?),
            ParentChoice::Given(_) | ParentChoice::Hinted => search.parent_of(&head)?,
        };
        links.push(Arc::new(head.open(options.link(links.len()))?));
        let Some(parent) = parent else { return Ok(links) };
        parent.check_as_parent()?;
        check_depth(links.len() + 1, options.max_depth).map_err(|error| error.in_file(parent.file().path()))?;
        head = parent;
    }
}

/// Opens `first` over links that are open already: those of its parent, which it must have been made of when that had
/// the content ID `wanted`. What it names besides is opened as `link` says.
pub(crate) fn open_over(
    first: Opened,
    link: LinkOptions<'_>,
    parents: &[Arc<Link>],
    wanted: ContentId,
    max_depth: usize,
) -> Result<Vec<Arc<Link>>> {
    let head = LinkHead::read(first, link)?;
    let open = || {
        check_claim(&head, wanted)?;
        let mut budget = Budget::default();
        budget.take(head.descriptor())?;
        parents.iter().try_for_each(|parent| budget.take(parent.descriptor()))?;
        link.sparse_files.count(parents)
    };
    check_parents(parents, max_depth).and_then(|()| open()).map_err(|error| error.in_file(head.file().path()))?;
    let own = Arc::new(head.open(link)?);
    Ok(std::iter::once(own).chain(parents.iter().map(Arc::clone)).collect())
}

/// Whether a child may be opened over these links.
pub(crate) fn check_parents(parents: &[Arc<Link>], max_depth: usize) -> Result<()> {
    check_depth(1 + parents.len(), max_depth)?;
    if let (Some(parent), Some(base)) = (parents.first(), parents.last()) {
        parent.check_as_parent()?;
        base.check_as_base()?;
    }
    Ok(())
}

/// Whether a child says that it was made of a parent with the content ID `wanted`.
fn check_claim(child: &LinkHead, wanted: ContentId) -> Result<()> {
    let claimed = child.parent_claim()?.and_then(|claim| claim.identity);
    if claimed == Some(Identity::Content(wanted)) {
        return Ok(());
    }
    let claimed = claimed.map_or_else(|| "missing".to_owned(), |identity| identity.to_string());
    let text = format!("its parentCID is {claimed}, but the CID of the image that it is opened over is {wanted}");
    Err(Error::text(ErrorKind::ContentIdMismatch, text))
}

fn check_depth(links: usize, max_depth: usize) -> Result<()> {
    if links <= max_depth {
        return Ok(());
    }
    Err(Error::text(ErrorKind::BadChain, format!("the chain is deeper than {max_depth} links")))
}

/// What the descriptors of a chain have taken up so far.
#[derive(Default)]
struct Budget {
    items: usize,
    bytes: usize,
}

impl Budget {
    fn take(&mut self, descriptor: &Descriptor) -> Result<()> {
        self.items += descriptor.items();
        self.bytes += descriptor.as_bytes().len();
        if self.items > MAX_ITEMS || self.bytes > MAX_TEXT {
            let Self { items, bytes } = self;
            let text =
                format!("the descriptors of the chain have {items} keys and extents and {bytes} bytes up to this one");
            return Err(Error::text(ErrorKind::BadChain, text));
        }
        Ok(())
    }
}

struct Search<'a> {
    options: ChainOptions<'a>,
    seen: HashSet<StorageId>,
}

impl Search<'_> {
    /// Finds the parent of a link; `None` for the base of a chain.
    fn parent_of(&self, child: &LinkHead) -> Result<Option<LinkHead>> {
        let Some(ParentClaim { identity: wanted, hint }) = self.claim(child)? else { return Ok(None) };
        let Some(hint) = hint else {
            let text = "the descriptor has a parentCID, but names no parent; name it, or open the link alone";
            return Err(Error::text(ErrorKind::ParentMissing, text).in_file(child.file().path()));
        };
        let hint = child.descriptor().decode_name(&hint).map_err(|error| error.in_file(child.file().path()))?;
        self.search(child, wanted, &hint).map(Some)
    }

    /// Takes the file that the caller names for the parent of a link.
    fn given_parent(&self, child: &LinkHead, path: &Path) -> Result<LinkHead> {
        let Some(ParentClaim { identity: wanted, .. }) = self.claim(child)? else {
            let text = "a parent was given, but the image is the base of its chain";
            return Err(Error::text(ErrorKind::InvalidInput, text).in_file(child.file().path()));
        };
        match self.caller_parent(path).and_then(|head| self.check(child, wanted, head)) {
            Ok(head) => Ok(head),
            Err(Refused { other_content: Some(head), .. }) if self.options.ignore_cid_mismatch => Ok(*head),
            Err(refused) => Err(refused.error),
        }
    }

    fn claim(&self, child: &LinkHead) -> Result<Option<ParentClaim>> {
        let claim = child.parent_claim()?;
        if claim.as_ref().is_some_and(|claim| claim.identity.is_none()) && !self.options.ignore_cid_mismatch {
            // Reading on would show zeros where the parent has data.
            let text = "the descriptor names a parent, but has no parentCID to know it by";
            return Err(Error::text(ErrorKind::Corrupt, text).in_file(child.file().path()));
        }
        Ok(claim)
    }

    fn caller_parent(&self, path: &Path) -> Result<LinkHead, Refused> {
        let LinkOptions { names, purpose, .. } = self.options.link;
        let opened = match names {
            Names::Files(_, pool) => Opened::by_caller(path, purpose, pool),
            Names::Resolver(..) => names.open(Path::new(""), &path.to_string_lossy(), purpose),
        };
        opened.and_then(|opened| LinkHead::read(opened, self.options.link)).map_err(Refused::from)
    }

    fn search(&self, child: &LinkHead, wanted: Option<Identity>, hint: &str) -> Result<LinkHead> {
        let LinkOptions { names, purpose, .. } = self.options.link;
        let mut refusals = Vec::new();
        for name in names.parent_candidates(hint) {
            let opened = names.open(child.dir(), &name, purpose);
            let head = opened.and_then(|opened| LinkHead::read(opened, self.options.link)).map_err(Refused::from);
            match head.and_then(|head| self.check(child, wanted, head)) {
                Ok(head) => return Ok(head),
                // Perhaps it is the parent, and it cannot be read: nothing else may take its place.
                Err(refused) if !means_another_file(refused.error.kind()) => return Err(refused.error),
                Err(refused) => refusals.push((name, refused)),
            }
        }
        // Only when nothing fits may something be taken that does not.
        if self.options.ignore_cid_mismatch {
            let other = refusals.iter_mut().find_map(|(_, refused)| refused.other_content.take());
            if let Some(other) = other {
                return Ok(*other);
            }
        }
        Err(not_found(child, hint, refusals))
    }

    /// Whether a file is the parent that `child` wants.
    fn check(&self, child: &LinkHead, wanted: Option<Identity>, head: LinkHead) -> Result<LinkHead, Refused> {
        if head.file().storage().id().is_some_and(|id| self.seen.contains(&id)) {
            let text = "the chain leads back to this file";
            return Err(Error::text(ErrorKind::BadChain, text).in_file(head.file().path()).into());
        }
        let Some(wanted) = wanted else { return Ok(head) };
        let found = head.identity_like(wanted);
        if found == Some(wanted) || is_being_committed(child, wanted, found) {
            return Ok(head);
        }
        let (own, other) = match wanted {
            Identity::Content(_) => ("CID", "parentCID"),
            Identity::Generation(_) => ("generation", "parent generation"),
        };
        let found = found.map_or_else(|| "missing".to_owned(), |found| found.to_string());
        let child = child.file().path().display();
        let text = format!(
            "its {own} is {found}, but the {other} of {child} is {wanted}: it was changed after the child was made, or \
             is another disk"
        );
        let error = Error::text(ErrorKind::ContentIdMismatch, text).in_file(head.file().path());
        Err(Refused { error, other_content: Some(Box::new(head)) })
    }
}

/// Whether a child is being committed into a parent with another content ID than it was made of.
fn is_being_committed(child: &LinkHead, wanted: Identity, found: Option<Identity>) -> bool {
    let (Identity::Content(wanted), Some(Identity::Content(found))) = (wanted, found) else { return false };
    child.descriptor().commit_intent().is_some_and(|intent| intent.joins(wanted, found))
}

/// Whether an error about a candidate says that the parent is another file, so that the search goes on.
fn means_another_file(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::NameRefused
            | ErrorKind::ContentIdMismatch
            | ErrorKind::NotVmdk
            | ErrorKind::BadChain
    )
}

/// A candidate that was not taken, and what it was if only its content ID spoke against it.
struct Refused {
    error: Error,
    other_content: Option<Box<LinkHead>>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, other_content: None }
    }
}

/// The error that lists every candidate, with the kind of the one that came nearest.
fn not_found(child: &LinkHead, hint: &str, refusals: Vec<(String, Refused)>) -> Error {
    const NEAREST_FIRST: [ErrorKind; 3] = [ErrorKind::ContentIdMismatch, ErrorKind::BadChain, ErrorKind::NameRefused];
    let has = |kind: &ErrorKind| refusals.iter().any(|(_, refused)| refused.error.kind() == *kind);
    let kind = NEAREST_FIRST.into_iter().find(has).unwrap_or(ErrorKind::ParentMissing);
    let mut text = format!("cannot find the parent {}", shown(hint));
    for (name, refused) in refusals {
        text = format!("{text}; {}: {}", shown(&name), refused.error.with_causes());
    }
    Error::text(kind, text).in_file(child.file().path())
}
