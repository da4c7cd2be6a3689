//! The descriptor of a link that somebody works on, and the way to another text: durably, and whole or not at all.
//!
//! A descriptor in a file of its own is replaced by a new file under its name. An embedded one is changed in its own
//! bytes where one sector is all that differs; else the new text goes into the other half of its room first, and the
//! header leads there until the text stands where other programs expect it:
//!
//! ```text
//! | header | old text . . . . | . . . . . . . . |    1. the new text into the back half, sync
//! | header | old text . . . . | new text . . . .|    2. the header leads to the back half, sync
//! | header | new text . . . . | new text . . . .|    3. the new text into the front half, sync
//! | header | new text . . . . | . . . . . . . . |    4. the header leads to the front again, sync; the back is emptied
//! ```
//!
//! A crash leaves one of these, and all of them can be read; the next change goes on from there.

use std::ops::Range;
use std::sync::Arc;

use super::{Link, LinkHead};
use crate::descriptor::{Descriptor, looks_like_descriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::HostFile;
use crate::format::{KdmvHeader, SparseHeader};
use crate::sector::{SECTOR_BYTES, SECTOR_SIZE, to_usize};
use crate::storage::{Directory, Storage, own_name};

/// The descriptor of a link, as it is now.
pub(crate) struct DescriptorFile<'a> {
    descriptor: Descriptor,
    file: &'a HostFile,
    kind: Kind<'a>,
    /// Whether that is the text that there is. When a change has failed, nobody knows.
    is_certain: bool,
}

enum Kind<'a> {
    /// In a sparse extent. `room` are the sectors from the header to where the descriptor must end.
    Embedded { header: KdmvHeader, room: Range<u64> },
    /// In a file of its own, which is called so. Whatever took its place is kept, for its lock.
    Apart { directory: &'a dyn Directory, name: String, replaced_by: Option<Arc<dyn Storage>> },
}

impl<'a> DescriptorFile<'a> {
    /// The descriptor of `link`, whose file is called `name` in `directory`. The link must be open for writing, and its
    /// descriptor what it was when it was opened.
    ///
    /// # Errors
    /// `Unsupported` for a link that has no descriptor.
    pub(crate) fn new(link: &'a Link, directory: &'a dyn Directory, name: &str) -> Result<Self> {
        Self::in_file(link.file(), link.header(), link.descriptor(), directory, name)
    }

    /// As [`new`](Self::new), of a link of which nothing is opened but the file with the descriptor.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub(crate) fn of_head(head: &'a LinkHead, directory: &'a dyn Directory, name: &str) -> Result<Self> {
        Self::in_file(head.file(), head.header(), head.descriptor(), directory, name)
    }

    /// As [`new`](Self::new), of a link whose descriptor is in a sparse extent: of the directory nothing is needed
    /// then.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub(crate) fn embedded(link: &'a Link) -> Result<Self> {
        Self::new(link, &NoDirectory, "")
    }

    /// As [`embedded`](Self::embedded), of a link whose descriptor is where other programs do not look for it; `None` of
    /// all others.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub(crate) fn astray(link: &'a Link) -> Result<Option<Self>> {
        let header = link.header().and_then(SparseHeader::as_kdmv);
        let own = header.filter(|header| header.descriptor_offset != 0).map(|_| Self::embedded(link)).transpose()?;
        let Some(mut own) = own.filter(|own| !own.is_at_home()) else { return Ok(None) };
        // It may have come home since the link was opened.
        own.read_again()?;
        Ok(Some(own).filter(|own| !own.is_at_home()))
    }

    /// Refuses a link whose descriptor is where other programs do not look for it: they would change the content ID of
    /// another text, and a child would not notice.
    ///
    /// # Errors
    /// `InvalidInput`; as for [`new`](Self::new).
    pub(crate) fn check_parent(link: &'a Link) -> Result<()> {
        if Self::astray(link)?.is_none() {
            return Ok(());
        }
        let text = "its descriptor is not where other programs look for it, so that a child would not notice what they \
                    change; repair the image first";
        Err(Error::text(ErrorKind::InvalidInput, text).in_file(link.path()))
    }

    /// Puts the text where other programs look for it, durably: a change was cut off before that.
    ///
    /// # Errors
    /// As for [`replace`](Self::replace).
    pub(crate) fn bring_home(&mut self) -> Result<()> {
        let text = self.descriptor.as_bytes().to_vec();
        self.replace(&text)
    }

    /// What has taken the place of the file, with its lock.
    pub(crate) fn into_replacement(self) -> Option<Arc<dyn Storage>> {
        match self.kind {
            Kind::Embedded { .. } => None,
            Kind::Apart { replaced_by, .. } => replaced_by,
        }
    }

    fn in_file(
        file: &'a HostFile,
        header: Option<&SparseHeader>,
        descriptor: &Descriptor,
        directory: &'a dyn Directory,
        name: &str,
    ) -> Result<Self> {
        let kind = match (header.and_then(SparseHeader::as_kdmv), header) {
            (Some(header), _) if header.descriptor_offset != 0 => {
                let region = header.descriptor_region(file.len())?.unwrap_or_default();
                let room = first_sector(file, header)?..region.end / SECTOR_BYTES;
                Kind::Embedded { header: header.clone(), room }
            }
            (None, None) => Kind::Apart { directory, name: name.to_owned(), replaced_by: None },
            _ => {
                let text = "a sparse extent without a descriptor, which would have to say it";
                return Err(Error::text(ErrorKind::Unsupported, text).in_file(file.path()));
            }
        };
        Ok(Self { descriptor: descriptor.clone(), file, kind, is_certain: true })
    }

    /// The descriptor as it is now.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Whether a text has room.
    ///
    /// # Errors
    /// `Unsupported` where it has not; `Corrupt` for a text that is no descriptor.
    pub(crate) fn check(&self, text: &[u8]) -> Result<()> {
        Descriptor::parse(text)?;
        let Kind::Embedded { room, .. } = &self.kind else { return Ok(()) };
        // Both texts stand in the room together, each with the zero byte that ends it.
        let half = to_usize((room.end - room.start) / 2) * SECTOR_SIZE;
        let longer = text.len().max(self.descriptor.as_bytes().len());
        if self.single_sector(text)?.is_some() || longer < half {
            return Ok(());
        }
        let text = format!(
            "no room for another descriptor: it is embedded, in {} sectors, and the old text or the new one takes {longer} \
             bytes, half of that or more",
            room.end - room.start
        );
        Err(Error::text(ErrorKind::Unsupported, text).in_file(self.file.path()))
    }

    /// Replaces the text, durably; nothing happens if it is the same.
    ///
    /// # Errors
    /// As for [`check`](Self::check), before anything is changed; what the host reports. Which of the two texts there
    /// is is open then, until one of them is written again.
    pub(crate) fn replace(&mut self, text: &[u8]) -> Result<()> {
        if self.is_certain && text == self.descriptor.as_bytes() && self.is_at_home() {
            return Ok(());
        }
        self.check(text)?;
        let descriptor = Descriptor::parse(text)?;
        let replaced = self.write(text);
        if replaced.is_ok() {
            self.descriptor = descriptor;
            self.is_certain = true;
        } else {
            // What went wrong first is what matters; it stays uncertain what there is.
            let _ = self.read_again();
        }
        replaced
    }

    /// As [`replace`](Self::replace); a text that is the same becomes durable: whoever wrote it may have been killed
    /// before it was.
    ///
    /// # Errors
    /// As for [`replace`](Self::replace).
    pub(crate) fn ensure(&mut self, text: &[u8]) -> Result<()> {
        if !self.is_certain || text != self.descriptor.as_bytes() {
            return self.replace(text);
        }
        self.file.sync()?;
        match &self.kind {
            Kind::Apart { directory, .. } => directory.sync().map_err(|error| error.in_file(self.file.path())),
            Kind::Embedded { .. } => self.replace(text),
        }
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        let single = self.single_sector(text)?;
        match &mut self.kind {
            Kind::Apart { directory, name, replaced_by } => {
                let in_file = |error: Error| error.in_file(self.file.path());
                let new = NewText::write(*directory, name, text).map_err(in_file)?;
                self.is_certain = false;
                *replaced_by = Some(new.take_place(*directory, name).map_err(in_file)?);
                Ok(())
            }
            Kind::Embedded { header, room } => match single {
                Some((offset, sector)) => {
                    self.file.write(&sector, offset)?;
                    self.file.sync()
                }
                None => replace_embedded(self.file, header, room, text),
            },
        }
    }

    /// Finds out what there is in a sparse extent, after a failure or another one's change: what is to be written next
    /// depends on it.
    fn read_again(&mut self) -> Result<()> {
        let Kind::Embedded { header, .. } = &mut self.kind else { return Ok(()) };
        self.is_certain = false;
        let mut sector = [0; SECTOR_SIZE];
        self.file.read(&mut sector, 0)?;
        let lost =
            || Error::text(ErrorKind::Corrupt, "no header leads to the descriptor any more").in_file(self.file.path());
        let now = KdmvHeader::decode(&sector).ok_or_else(lost)?;
        let region = now.descriptor_region(self.file.len())?.ok_or_else(lost)?;
        let mut text = vec![0; to_usize(region.end - region.start)];
        self.file.read(&mut text, region.start)?;
        self.descriptor = Descriptor::parse(&text).map_err(|error| error.in_file(self.file.path()))?;
        *header = now;
        self.is_certain = true;
        Ok(())
    }

    /// Whether the descriptor is where other programs look for it.
    pub(crate) fn is_at_home(&self) -> bool {
        match &self.kind {
            Kind::Embedded { header, room } => header.descriptor_offset == room.start,
            Kind::Apart { .. } => true,
        }
    }

    /// What is to be written, and where, so that the descriptor is where other programs look for it: each step durable
    /// before the next. None if it is there.
    ///
    /// # Errors
    /// As for [`check`](Self::check).
    pub(crate) fn way_home(&self) -> Result<Vec<(u64, Vec<u8>)>> {
        let Kind::Embedded { header, room } = &self.kind else { return Ok(Vec::new()) };
        if self.is_at_home() {
            return Ok(Vec::new());
        }
        let text = self.descriptor.as_bytes();
        self.check(text)?;
        let steps = steps_to(self.file, header, room, text)?;
        Ok(steps.into_iter().map(|step| (step.offset, step.bytes)).collect())
    }

    /// The one sector in which an embedded text differs from this one, and its offset in bytes.
    fn single_sector(&self, text: &[u8]) -> Result<Option<(u64, Vec<u8>)>> {
        let Kind::Embedded { header, .. } = &self.kind else { return Ok(None) };
        if !self.is_at_home() {
            return Ok(None);
        }
        let old = self.descriptor.as_bytes();
        let room = to_usize(header.descriptor_size).saturating_mul(SECTOR_SIZE);
        if text.len() > room {
            return Ok(None);
        }
        let len = old.len().max(text.len());
        let byte = |text: &[u8], at: usize| text.get(at).copied().unwrap_or(0);
        let mut changed = (0..len).filter(|&at| byte(old, at) != byte(text, at)).map(|at| at / SECTOR_SIZE);
        let Some(first) = changed.next() else { return Ok(None) };
        if changed.any(|sector| sector != first) {
            return Ok(None);
        }
        let sector = (first * SECTOR_SIZE..(first + 1) * SECTOR_SIZE).map(|at| byte(text, at)).collect();
        let mut end = [0; 1];
        // A zero byte ends the text; what an older one has left behind it must not begin to count.
        if text.len() > old.len() && text.len().is_multiple_of(SECTOR_SIZE) && text.len() < room {
            self.file.read(&mut end, header.descriptor_offset * SECTOR_BYTES + text.len() as u64)?;
        }
        let offset = (header.descriptor_offset + first as u64) * SECTOR_BYTES;
        Ok(Some((offset, sector)).filter(|_| end == [0]))
    }
}

/// The first sector of the room of an embedded descriptor. It is another one than that of the text only where a change
/// was cut off: the text is exactly in the back half of all behind the header, and a text stands in front of it, too.
///
/// # Errors
/// What the host reports.
pub(crate) fn first_sector(file: &HostFile, header: &KdmvHeader) -> Result<u64> {
    let (start, size) = (header.descriptor_offset, header.descriptor_size);
    let has_directory = [header.gd_offset, header.rgd_offset].iter().any(|sector| (1..start).contains(sector));
    let is_back = start > 1 && start.checked_add(size).is_some_and(|end| start == back_half(&(1..end)));
    if !is_back || has_directory {
        return Ok(start);
    }
    let mut front = [0; SECTOR_SIZE];
    file.read(&mut front, SECTOR_BYTES)?;
    Ok(if looks_like_descriptor(&front) { 1 } else { start })
}

/// Where the back half of a room begins.
fn back_half(room: &Range<u64>) -> u64 {
    room.start + (room.end - room.start).div_ceil(2)
}

/// A write on the way to another embedded text, durable before the next one.
struct Step {
    offset: u64,
    bytes: Vec<u8>,
    /// Where the header leads then, if it is what is written.
    leads_to: Option<Range<u64>>,
}

/// The steps to another text.
///
/// # Errors
/// What the host reports.
fn steps_to(file: &HostFile, header: &KdmvHeader, room: &Range<u64>, text: &[u8]) -> Result<Vec<Step>> {
    let back = back_half(room);
    let mut first = [0; SECTOR_SIZE];
    file.read(&mut first, 0)?;
    let lead_to = |sectors: Range<u64>| {
        let mut bytes = first;
        let to = KdmvHeader {
            descriptor_offset: sectors.start,
            descriptor_size: sectors.end - sectors.start,
            ..header.clone()
        };
        to.encode_descriptor_region(&mut bytes);
        Step { offset: 0, bytes: bytes.to_vec(), leads_to: Some(sectors) }
    };
    let mut steps = Vec::new();
    if header.descriptor_offset < back {
        steps.extend([filled(back..room.end, text), lead_to(back..room.end)]);
    }
    steps.extend([filled(room.start..back, text), lead_to(room.clone())]);
    // Only for tidiness: nothing reads what is behind the end of the text.
    steps.push(filled(back..room.end, b""));
    Ok(steps)
}

/// Sectors filled with a text and zeros.
fn filled(sectors: Range<u64>, text: &[u8]) -> Step {
    let mut bytes = vec![0; to_usize((sectors.end - sectors.start) * SECTOR_BYTES)];
    if let Some(place) = bytes.get_mut(..text.len()) {
        place.copy_from_slice(text);
    }
    Step { offset: sectors.start * SECTOR_BYTES, bytes, leads_to: None }
}

fn replace_embedded(file: &HostFile, header: &mut KdmvHeader, room: &Range<u64>, text: &[u8]) -> Result<()> {
    for Step { offset, bytes, leads_to } in steps_to(file, header, room, text)? {
        if let Some(sectors) = leads_to {
            (header.descriptor_offset, header.descriptor_size) = (sectors.start, sectors.end - sectors.start);
        }
        file.write(&bytes, offset)?;
        file.sync()?;
    }
    Ok(())
}

/// A directory for what needs none.
struct NoDirectory;

impl Directory for NoDirectory {
    fn exists(&self, _: &str) -> Result<bool> {
        Ok(false)
    }
    fn claim(&self, _: &str) -> Result<Option<Arc<dyn Storage>>> {
        Ok(None)
    }
    fn create(&self, _: &str, _: &str) -> Result<Arc<dyn Storage>> {
        Err(no_directory())
    }
    fn rename(&self, _: &str, _: &str, _: bool) -> Result<()> {
        Err(no_directory())
    }
    fn remove(&self, _: &str) -> Result<()> {
        Err(no_directory())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

fn no_directory() -> Error {
    Error::text(ErrorKind::Unsupported, "there is no directory in which the descriptor could be replaced")
}

/// A file with another text, which is to take the place of one.
struct NewText {
    own_name: String,
    file: Arc<dyn Storage>,
}

impl NewText {
    /// Writes a text, durably, into a file beside the one that is called `name`.
    fn write(directory: &dyn Directory, name: &str, text: &[u8]) -> Result<Self> {
        let own_name = own_name(name);
        let file = directory.create(&own_name, name)?;
        let new = Self { own_name, file };
        match new.file.write_all_at(text, 0).and_then(|()| new.file.sync()) {
            Ok(()) => Ok(new),
            Err(cause) => {
                let error = Error::host("cannot write another descriptor beside it", cause);
                Err(new.remove(directory, error))
            }
        }
    }

    /// Gives it the name of the other one, durably; what is given back keeps its lock.
    fn take_place(self, directory: &dyn Directory, name: &str) -> Result<Arc<dyn Storage>> {
        if let Err(error) = directory.rename(&self.own_name, name, true) {
            return Err(self.remove(directory, error));
        }
        directory.sync()?;
        Ok(self.file)
    }

    /// Takes it away after a failure.
    fn remove(&self, directory: &dyn Directory, error: Error) -> Error {
        match directory.remove(&self.own_name) {
            Err(left) if left.kind() != ErrorKind::NotFound => {
                let (own_name, left) = (&self.own_name, left.with_causes());
                let text = format!("{}; and {own_name:?} is left: {left}", error.with_causes());
                Error::text(error.kind(), text)
            }
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{HostDirectory, MemoryStorage};
    use crate::{BlockDevice, CreateOptions, CreateType, OpenOptions, Resolve, VmdkImage};
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// One file that takes a limited number of changes.
    #[derive(Debug)]
    struct Limited {
        file: MemoryStorage,
        left: AtomicUsize,
    }

    impl Limited {
        fn take(&self) -> io::Result<()> {
            let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            left.map(drop).map_err(|_| io::Error::other("it stops here"))
        }
    }

    impl Storage for Limited {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            self.file.read_exact_at(buf, offset)
        }
        fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
            self.take()?;
            self.file.write_all_at(buf, offset)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }
        fn sync(&self) -> io::Result<()> {
            self.take()
        }
        fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
            self.file.punch_hole(range)
        }
    }

    fn open(bytes: Vec<u8>, changes: usize) -> (VmdkImage, Arc<Limited>) {
        let file = Arc::new(Limited { file: MemoryStorage::new(bytes), left: AtomicUsize::new(changes) });
        let shared = Arc::clone(&file);
        let resolver = move |_: &str| Some(Arc::clone(&shared) as Arc<dyn Storage>);
        (OpenOptions::new().write(true).open_with("a", &resolver as &dyn Resolve).unwrap(), file)
    }

    fn bytes_of(file: &Limited) -> Vec<u8> {
        let mut bytes = vec![0; to_usize(file.len().unwrap())];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Replaces the text of a disk that takes so many changes; says what came of it.
    fn replaced(bytes: Vec<u8>, changes: usize, text: &[u8]) -> (Result<()>, Vec<u8>) {
        let (image, file) = open(bytes, changes);
        let done = DescriptorFile::embedded(&image.chain()[0]).and_then(|mut own| own.replace(text));
        drop(image);
        (done, bytes_of(&file))
    }

    fn text_of(bytes: &[u8]) -> Vec<u8> {
        open(bytes.to_vec(), 0).0.descriptor().as_bytes().to_vec()
    }

    fn disk() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vmdk");
        CreateOptions::new().capacity_sectors(4096).create(&path).unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn the_text_is_the_old_or_the_new_one_wherever_it_stops() {
        let disk = disk();
        let old = text_of(&disk);
        let long = [old.clone(), "# more\n".repeat(200).into_bytes()].concat();
        for (from, to) in [(&old, &long), (&long, &old)] {
            let start = replaced(disk.clone(), usize::MAX, from).1;
            assert_eq!(&text_of(&start), from);
            let mut seen_new = false;
            for changes in 0.. {
                let (done, state) = replaced(start.clone(), changes, to);
                let found = text_of(&state);
                assert!(&found == from || &found == to, "after {changes} changes");
                assert!(&found == to || !seen_new, "after {changes} changes");
                seen_new |= &found == to;
                // Whatever was left, it goes on from there, and ends as if nothing had been.
                let (finished, state) = replaced(state, usize::MAX, to);
                finished.unwrap();
                assert_eq!((&text_of(&state), &state[28..44]), (to, &disk[28..44]));
                if done.is_ok() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_text_that_was_left_behind_comes_home_with_the_first_write_and_has_no_child_before() {
        let disk = disk();
        let long = [text_of(&disk), "# more\n".repeat(200).into_bytes()].concat();
        let mut astray = 0;
        for changes in 0.. {
            let (done, state) = replaced(disk.clone(), changes, &long);
            let is_astray = state[28..44] != disk[28..44];
            astray += usize::from(is_astray);
            let text = text_of(&state);

            let (image, _) = open(state.clone(), usize::MAX);
            let dir = tempfile::tempdir().unwrap();
            let directory = HostDirectory::new(dir.path().to_owned());
            let child = image.create_child_in("b", &directory, &CreateOptions::new());
            assert_eq!(child.map(drop).map_err(|error| error.kind()).is_err(), is_astray, "after {changes} changes");

            let (image, file) = open(state, usize::MAX);
            let before = image.content_id();
            image.write_sectors(0, &[7; SECTOR_SIZE]).unwrap();
            image.create_child_in("c", &directory, &CreateOptions::new()).unwrap();
            let state = bytes_of(&file);
            assert_eq!(state[28..44], disk[28..44], "after {changes} changes");
            let image = open(state, 0).0;
            assert_ne!(image.content_id(), before);
            let lines = |text: &[u8]| text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
            let (old, new) = (lines(&text), lines(image.descriptor().as_bytes()));
            assert_eq!(old.len(), new.len());
            let is_id = |line: &[u8]| line.starts_with(b"CID=") || line.starts_with(b"ddb.longContentID");
            assert!(old.iter().zip(&new).all(|(old, new)| old == new || is_id(new)));
            if done.is_ok() {
                break;
            }
        }
        assert!(astray >= 3, "{astray} states");
    }

    #[test]
    fn a_file_beside_which_there_is_no_room_has_its_old_text_and_needs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vmdk");
        let flat = CreateOptions::new().capacity_sectors(8).create_type(CreateType::MonolithicFlat);
        flat.create(&path).unwrap();
        let image = OpenOptions::new().write(true).open(&path).unwrap();
        let mut own = DescriptorFile::new(&image.chain()[0], &NoDirectory, "a.vmdk").unwrap();
        let old = own.descriptor().as_bytes().to_vec();
        let new = [&*old, b"# more\n"].concat();
        assert_eq!(own.replace(&new).unwrap_err().kind(), ErrorKind::Unsupported);
        own.replace(&old).unwrap();
        assert_eq!(own.replace(&new).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_text_without_room_is_refused_and_nothing_has_changed() {
        let disk = disk();
        let long = [text_of(&disk), vec![b'#'; 10 * SECTOR_SIZE]].concat();
        let (done, state) = replaced(disk.clone(), usize::MAX, &long);
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(state == disk);
    }
}
