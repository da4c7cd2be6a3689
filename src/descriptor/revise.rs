//! Another text of a descriptor, in which some lines are changed and every other byte is what it was.

use std::ops::Range;

use super::compose::quoted;
use super::encoding::encode;
use super::parse::{BOM, lines};
use super::scan::{is_blank, shown, trimmed};
use super::{Descriptor, Section};
use crate::error::{Error, ErrorKind, Result};

/// What the version of a descriptor becomes when changes are tracked; else it is 1.
const VERSION_WITH_TRACKING: u32 = 3;

/// Changes to the text of a descriptor that have not been made yet. Values are what stands between the quotes.
#[must_use = "nothing changes before `finish`"]
pub(crate) struct Revision<'a> {
    descriptor: &'a Descriptor,
    /// What takes the place of which bytes; an insertion has an empty range.
    changes: Vec<(Range<usize>, Vec<u8>)>,
    /// What was refused.
    problem: Option<Error>,
}

impl Descriptor {
    /// Begins another text.
    pub(crate) fn revise(&self) -> Revision<'_> {
        Revision { descriptor: self, changes: Vec::new(), problem: None }
    }

    /// The first comment line that begins so and has its line end.
    pub(crate) fn comment_with_prefix(&self, prefix: &str) -> Option<&[u8]> {
        self.comment_line(prefix).map(|line| &self.text[trimmed(&self.text, line)])
    }

    fn comment_line(&self, prefix: &str) -> Option<Range<usize>> {
        lines(&self.text).find(|line| {
            line.end < self.text.len() && self.text[trimmed(&self.text, line.clone())].starts_with(prefix.as_bytes())
        })
    }

    /// The bytes of a line, counted from 1, without its end.
    fn line(&self, number: usize) -> Range<usize> {
        let end = self.text.len();
        number.checked_sub(1).and_then(|index| lines(&self.text).nth(index)).unwrap_or(end..end)
    }

    fn line_end(&self) -> &'static [u8] {
        let has = |end: &[u8]| self.text.windows(end.len()).any(|bytes| bytes == end);
        match (has(b"\r\n"), has(b"\n"), has(b"\r")) {
            (true, ..) => b"\r\n",
            (false, false, true) => b"\r",
            _ => b"\n",
        }
    }
}

impl Revision<'_> {
    /// Gives a key of the header a value. A new one goes in front of the extents.
    pub(crate) fn header(mut self, key: &str, value: &str) -> Self {
        let quoted_before = self.descriptor.extents.first().map(|extent| self.descriptor.line(extent.line()).start);
        // In front of the comment and the blank line that precede the extents, where a text has them.
        let place = self.descriptor.entries.iter().rev().find(|entry| entry.section == Section::Header);
        let place = place.map(|entry| self.behind(entry.line)).or(quoted_before);
        let is_number = matches!(key, "CID" | "parentCID" | "version");
        self.set(Section::Header, key, value, place, is_number);
        self
    }

    /// Takes a key out of the header.
    pub(crate) fn without_header(mut self, key: &str) -> Self {
        if let Some(entry) = self.descriptor.find(Section::Header, key) {
            let line = self.descriptor.line(entry.line).start..self.behind(entry.line);
            self.changes.push((line, Vec::new()));
        }
        self
    }

    /// Takes out the change tracking: the lines with its key, the comment above, the blank line that came with these,
    /// and the version that stands for it.
    pub(crate) fn without_change_tracking(mut self) -> Self {
        let text = &self.descriptor.text;
        let lines: Vec<Range<usize>> = lines(text).collect();
        let line = |index: usize| lines.get(index).map(|line| &text[trimmed(text, line.clone())]);
        let is_title = |index: usize| {
            let comment = line(index).and_then(|line| line.strip_prefix(b"#"));
            comment.is_some_and(|comment| comment.trim_ascii().eq_ignore_ascii_case(b"Change Tracking File"))
        };
        let is_blank = |index: usize| line(index).is_some_and(<[u8]>::is_empty);
        let is_key = |entry: &&super::Entry| {
            entry.section == Section::Header && text[entry.key.clone()].eq_ignore_ascii_case(b"changeTrackPath")
        };
        let mut was_tracked = false;
        for entry in self.descriptor.entries.iter().filter(is_key) {
            was_tracked = true;
            let Some(last) = entry.line.checked_sub(1) else { continue };
            let first = last.checked_sub(1).filter(|&above| is_title(above)).unwrap_or(last);
            let mut taken = first..last + 1;
            // Blank lines above and below were there for these alone.
            if first.checked_sub(1).is_some_and(is_blank) && is_blank(last + 1) {
                taken.end += 1;
            }
            let end = |index: usize| lines.get(index).map_or(text.len(), |line| line.start);
            self.changes.push((end(taken.start)..end(taken.end), Vec::new()));
        }
        let is_version_of_it = was_tracked && self.descriptor.version() == VERSION_WITH_TRACKING;
        if is_version_of_it { self.header("version", "1") } else { self }
    }

    /// Gives a key of the disk database, named without its `ddb.`, a value.
    pub(crate) fn database(mut self, key: &str, value: &str) -> Self {
        self.set(Section::Database, key, value, None, false);
        self
    }

    /// As [`database`](Self::database), only if the text has the key.
    pub(crate) fn database_if_there(self, key: &str, value: &str) -> Self {
        if self.descriptor.find(Section::Database, key).is_some() { self.database(key, value) } else { self }
    }

    /// Gives the extent with this number so many sectors.
    pub(crate) fn extent_sectors(mut self, number: usize, sectors: u64) -> Self {
        let Some(extent) = self.descriptor.extents.get(number) else { return self };
        let line = trimmed(&self.descriptor.text, self.descriptor.line(extent.line()));
        // Behind the access word: see `ExtentLine::parse`.
        let mut words = words(&self.descriptor.text, line);
        if let (Some(_), Some(word)) = (words.next(), words.next()) {
            self.changes.push((word, sectors.to_string().into_bytes()));
        }
        self
    }

    /// Gives the extents with these numbers other files.
    pub(crate) fn extent_names<'n>(mut self, names: impl IntoIterator<Item = (usize, &'n str)>) -> Self {
        let text = &self.descriptor.text;
        // Found once: there may be as many names as there are lines.
        let lines: Vec<Range<usize>> = lines(text).collect();
        for (number, name) in names {
            let line = self.descriptor.extents.get(number).and_then(|extent| lines.get(extent.line().checked_sub(1)?));
            let mut quotes = line.cloned().unwrap_or_default().filter(|&at| text[at] == b'"');
            if let (Some(from), Some(to)) = (quotes.next(), quotes.next()) {
                match self.encoded(name) {
                    Ok(name) => self.changes.push((from..to + 1, name)),
                    Err(error) => self.problem = Some(error),
                }
            }
        }
        self
    }

    /// Gives the extent with this number another file.
    #[cfg(test)]
    fn extent_name(self, number: usize, name: &str) -> Self {
        self.extent_names([(number, name)])
    }

    /// Adds extents behind the last one: lines as they are to be written, without their ends.
    pub(crate) fn more_extents<'l>(mut self, new: impl IntoIterator<Item = &'l str>) -> Self {
        let place = self.descriptor.extents.last().map_or(self.descriptor.text.len(), |last| self.behind(last.line()));
        let lines: Vec<u8> = new.into_iter().flat_map(|line| self.whole_line(place, line.as_bytes())).collect();
        self.changes.push((place..place, lines));
        self
    }

    /// Takes out the extents from this number on.
    pub(crate) fn without_extents_from(mut self, number: usize) -> Self {
        let text = &self.descriptor.text;
        // Found once: there may be as many extents as there are lines.
        let lines: Vec<Range<usize>> = lines(text).collect();
        for extent in self.descriptor.extents.iter().skip(number) {
            if let Some(line) = extent.line().checked_sub(1).and_then(|index| lines.get(index)) {
                self.changes.push((line.start..(line.end + 1).min(text.len()), Vec::new()));
            }
        }
        self
    }

    /// Adds a comment line at the end of the text.
    pub(crate) fn comment(mut self, comment: &str) -> Self {
        let end = self.descriptor.text.len();
        let line = self.whole_line(end, comment.as_bytes());
        self.changes.push((end..end, line));
        self
    }

    /// Takes out every comment line that begins so.
    pub(crate) fn without_comments(mut self, prefix: &str) -> Self {
        let text = &self.descriptor.text;
        for line in lines(text) {
            if text[trimmed(text, line.clone())].starts_with(prefix.as_bytes()) {
                self.changes.push((line.start..(line.end + 1).min(text.len()), Vec::new()));
            }
        }
        self
    }

    /// The text with all changes.
    ///
    /// # Errors
    /// `InvalidInput` for a value or name that a descriptor cannot hold, or not in its encoding.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        // Stable: of several insertions at one place the first one comes first.
        self.changes.sort_by_key(|(range, _)| range.start);
        let text = &self.descriptor.text;
        let mut new = Vec::with_capacity(text.len() + 256);
        let mut at = 0;
        for (range, bytes) in &self.changes {
            new.extend_from_slice(text.get(at..range.start).unwrap_or_default());
            new.extend_from_slice(bytes);
            at = at.max(range.end);
        }
        new.extend_from_slice(&text[at..]);
        Ok(new)
    }

    /// `place` is where the line of a new key goes; `None` stands for the end of the text.
    fn set(&mut self, section: Section, key: &str, value: &str, place: Option<usize>, is_bare: bool) {
        let quoted = match self.encoded(value) {
            Ok(quoted) => quoted,
            Err(error) => {
                self.problem = Some(error);
                return;
            }
        };
        let bare = &quoted[1..quoted.len() - 1];
        if let Some(entry) = self.descriptor.find(section, key) {
            let has_quotes = entry.value.start > 0 && self.descriptor.text[entry.value.start - 1] == b'"';
            let needs_quotes = !has_quotes && !is_bare && bare.iter().any(|&byte| is_blank(byte));
            let bytes = if needs_quotes { quoted } else { bare.to_vec() };
            self.changes.push((entry.value.clone(), bytes));
            return;
        }
        let value = if is_bare { bare } else { &quoted };
        let start = match section {
            Section::Header => format!("{key}="),
            Section::Database => format!("ddb.{key} = "),
        };
        let place = place.unwrap_or(self.descriptor.text.len());
        let line = self.whole_line(place, &[start.as_bytes(), value].concat());
        self.changes.push((place..place, line));
    }

    /// A text between quotes, in the encoding of the descriptor.
    fn encoded(&self, text: &str) -> Result<Vec<u8>> {
        let quoted = quoted("a value", text)?;
        let encoding = self.descriptor.encoding().unwrap_or("UTF-8");
        encode(&quoted, encoding).ok_or_else(|| {
            let text = format!(
                "{} cannot be written in the encoding {} of the descriptor",
                shown(text.as_bytes()),
                shown(encoding.as_bytes())
            );
            Error::text(ErrorKind::InvalidInput, text)
        })
    }

    /// A line with its end, which is to stand at `place`; in front of it comes the end that the last line may lack.
    fn whole_line(&self, place: usize, line: &[u8]) -> Vec<u8> {
        let text = &self.descriptor.text;
        let end = self.descriptor.line_end();
        let begins_line = place == 0
            || (place == BOM.len() && text.starts_with(BOM))
            || text[..place].ends_with(&end[end.len() - 1..]);
        let before: &[u8] =
            if begins_line || !self.changes.iter().all(|(range, _)| range.start != place) { b"" } else { end };
        [before, line, end].concat()
    }

    /// Where the line after this one begins.
    fn behind(&self, number: usize) -> usize {
        (self.descriptor.line(number).end + 1).min(self.descriptor.text.len())
    }
}

/// The words of a line that begins and ends with one.
fn words(text: &[u8], line: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut at = line.start;
    std::iter::from_fn(move || {
        at += text[at..line.end].iter().take_while(|&&byte| is_blank(byte)).count();
        let len = text[at..line.end].iter().take_while(|&&byte| !is_blank(byte)).count();
        let word = at..at + len;
        at = word.end;
        Some(word).filter(|word| !word.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=0172e8a4\nparentCID=ffffffff\n\
        createType=\"twoGbMaxExtentSparse\"\n\n# Extent description\nRW  4096 SPARSE \"a-s001.vmdk\"\n\
        RW 100 SPARSE \"a-s002.vmdk\"\n\n# The Disk Data Base \n#DDB\n\nddb.adapterType = \"ide\"\nddb.geometry.cylinders = 4";

    fn parse(text: &[u8]) -> Descriptor {
        Descriptor::parse(text).unwrap()
    }

    fn revised(text: &str, revise: impl Fn(Revision<'_>) -> Revision<'_>) -> String {
        String::from_utf8(revise(parse(text.as_bytes()).revise()).finish().unwrap()).unwrap()
    }

    #[test]
    fn nothing_but_what_is_asked_for_changes() {
        let new = revised(TEXT, |text| {
            text.header("parentCID", "deadbeef")
                .header("parentFileNameHint", "base.vmdk")
                .database("geometry.cylinders", "17")
                .extent_sectors(0, 8192)
                .extent_name(1, "b-s002.vmdk")
        });
        let expected = TEXT
            .replace("parentCID=ffffffff", "parentCID=deadbeef")
            .replace("Sparse\"\n", "Sparse\"\nparentFileNameHint=\"base.vmdk\"\n")
            .replace("RW  4096", "RW  8192")
            .replace("a-s002", "b-s002")
            .replace("= 4", "= 17");
        assert_eq!(new, expected);
        assert_eq!(revised(TEXT, |text| text), TEXT);
        assert_eq!(
            revised(&new, |text| text.without_header("PARENTFILENAMEHINT")),
            new.replace("parentFileNameHint=\"base.vmdk\"\n", "")
        );
    }

    #[test]
    fn lines_are_added_and_taken_out_whatever_ends_them() {
        for end in ["\n", "\r\n"] {
            let text = TEXT.replace('\n', end);
            let with = revised(&text, |text| text.comment("# note 1").database("uuid", "x"));
            assert_eq!(with, format!("{text}{end}# note 1{end}ddb.uuid = \"x\"{end}"));
            let model = parse(with.as_bytes());
            assert_eq!(model.comment_with_prefix("# note"), Some(&b"# note 1"[..]));
            assert_eq!(
                revised(&with, |text| text.without_comments("# note")),
                format!("{text}{end}ddb.uuid = \"x\"{end}")
            );
            let more = revised(&text, |text| text.more_extents(["RW 5 ZERO", "RW 6 ZERO"]));
            let sizes: Vec<u64> =
                parse(more.as_bytes()).extents().iter().map(super::super::ExtentLine::sectors).collect();
            assert_eq!(sizes, [4096, 100, 5, 6]);
            assert_eq!(revised(&more, |text| text.without_extents_from(2)), text);
        }
    }

    fn untracked(text: &str) -> String {
        String::from_utf8(parse(text.as_bytes()).revise().without_change_tracking().finish().unwrap()).unwrap()
    }

    #[test]
    fn change_tracking_goes_with_all_that_came_with_it() {
        let tracking = "\n# Change Tracking File\nchangeTrackPath=\"a-ctk.vmdk\"\n";
        let place = "\n\n# The Disk";
        for end in ["\n", "\r\n", "\r"] {
            let plain = TEXT.replace('\n', end);
            let tracked = TEXT.replace("version=1", "version=3").replace(place, &format!("\n{tracking}\n# The Disk"));
            let tracked = tracked.replace('\n', end);
            assert!(parse(tracked.as_bytes()).change_track_path().is_some());
            assert_eq!(untracked(&tracked), plain);
            assert_eq!(untracked(&plain), plain);
        }
        let rows = [
            // Without the comment, with another one, in another spelling, at both ends of the text, and more than once.
            ("CID=1\nchangeTrackPath=a\nparentCID=2\n", "CID=1\nparentCID=2\n"),
            ("CID=1\n# note\nchangeTrackPath=a\n\n", "CID=1\n# note\n\n"),
            ("CID=1\n\n #change tracking file \n CHANGETRACKPATH = \"\" \n\nx=1", "CID=1\n\nx=1"),
            ("# Change Tracking File\nchangeTrackPath=a", ""),
            ("CID=1\nchangeTrackPath=a\n#DDB\nx=1\nchangeTrackPath=b\n", "CID=1\n#DDB\nx=1\n"),
            // A version that says something else stays.
            ("version=2\nchangeTrackPath=a\n", "version=2\n"),
            ("VERSION = \"3\"\nchangeTrackPath=a\n", "VERSION = \"1\"\n"),
        ];
        for (text, expected) in rows {
            assert_eq!(untracked(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_comment_that_was_cut_is_none() {
        assert_eq!(parse(b"CID=1\n# note 1").comment_with_prefix("# note 1"), None);
        assert_eq!(parse(b"CID=1\n# note 1\n").comment_with_prefix("# note 1"), Some(&b"# note 1"[..]));
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let refused =
            |text: &str, name: &str| parse(text.as_bytes()).revise().extent_name(0, name).finish().unwrap_err().kind();
        assert_eq!(refused(TEXT, "a\"b"), ErrorKind::InvalidInput);
        assert_eq!(refused(&TEXT.replace("UTF-8", "klingon"), "Gr\u{f6}\u{df}e"), ErrorKind::InvalidInput);
        assert!(revised(TEXT, |text| text.extent_name(0, "Gr\u{f6}\u{df}e")).contains("\"Gr\u{f6}\u{df}e\""));
    }
}
