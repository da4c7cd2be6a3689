//! The line in the descriptor of a child that is being committed into its parent.
//!
//! Two files cannot change at once. So the child says first which content ID its parent is about to get, and from which
//! one: if the power fails between the two changes, the pair is known to belong together. Other programs take the line
//! for a comment.

use std::fmt;

use super::revise::Revision;
use super::{ContentId, Descriptor};

/// How the line begins.
const PREFIX: &str = "# vmdk commit: parent CID ";

/// What stands between the two content IDs.
const ARROW: &str = " -> ";

/// That a child is being committed into its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitIntent {
    /// The content ID that the parent has before.
    pub(crate) from: ContentId,
    /// The one that it has afterwards.
    pub(crate) to: ContentId,
}

impl CommitIntent {
    /// Whether the child that says so, which was made of a parent with the content ID `wanted`, belongs over one with
    /// the ID `found` all the same: the parent has got its new ID, and the child has yet to name it. It hides whatever
    /// else has changed in the parent by then.
    pub(crate) fn joins(self, wanted: ContentId, found: ContentId) -> bool {
        (wanted, found) == (self.from, self.to)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let ids = str::from_utf8(line.get(PREFIX.len()..)?).ok()?;
        let (from, to) = ids.split_once(ARROW)?;
        let id = |digits: &str| ContentId::parse(digits.as_bytes());
        Some(Self { from: id(from)?, to: id(to)? })
    }
}

impl fmt::Display for CommitIntent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}{ARROW}{}", self.from, self.to)
    }
}

impl Descriptor {
    /// What the text says of a commit that was begun.
    pub(crate) fn commit_intent(&self) -> Option<CommitIntent> {
        CommitIntent::parse(self.comment_with_prefix(PREFIX)?)
    }
}

impl Revision<'_> {
    /// Says that a commit is begun.
    pub(crate) fn with_intent(self, intent: CommitIntent) -> Self {
        self.without_intent().comment(&intent.to_string())
    }

    /// Says of no commit that it was begun.
    pub(crate) fn without_intent(self) -> Self {
        self.without_comments(PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent_of(text: &str) -> Option<CommitIntent> {
        Descriptor::parse(text.as_bytes()).unwrap().commit_intent()
    }

    #[test]
    fn what_was_written_is_read_and_taken_back_whole() {
        let intent = CommitIntent { from: ContentId::new(0x12ab), to: ContentId::new(0xfeed_0001) };
        for text in ["CID=1\nRW 1 ZERO\n", "CID=1\r\nRW 1 ZERO\r\n"] {
            let model = Descriptor::parse(text.as_bytes()).unwrap();
            assert_eq!(model.commit_intent(), None);
            let with = model.revise().with_intent(intent).finish().unwrap();
            let with = Descriptor::parse(&with).unwrap();
            assert_eq!(with.commit_intent(), Some(intent));
            let other = CommitIntent { to: ContentId::new(3), ..intent };
            let again = Descriptor::parse(&with.revise().with_intent(other).finish().unwrap()).unwrap();
            assert_eq!(again.commit_intent(), Some(other));
            assert_eq!(again.revise().without_intent().finish().unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn it_joins_a_child_that_names_the_old_id_with_a_parent_that_has_the_new_one() {
        let [from, to, other] = [1, 2, 3].map(ContentId::new);
        let intent = CommitIntent { from, to };
        assert!(intent.joins(from, to));
        for (wanted, found) in [(from, from), (to, to), (to, from), (from, other), (other, to), (other, other)] {
            assert!(!intent.joins(wanted, found), "{wanted} {found}");
        }
    }

    #[test]
    fn what_is_cut_or_no_number_says_nothing() {
        for line in ["0000abcd -> 0000abce", "0000abcd -> \n", "0000abcd\n", "x -> y\n", "1 -> 123456789\n", "\n"] {
            assert_eq!(intent_of(&format!("CID=1\n{PREFIX}{line}")), None, "{line:?}");
        }
    }
}
