//! Changes to the text of a descriptor, which leave every other byte where it is.

use std::iter;

use super::{ContentId, Descriptor, Section};

/// Fewer digits than this are too few to tell two contents apart.
const MIN_DIGITS: usize = 4;

/// Bytes that take the place of as many others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Where they go in the text.
    pub(crate) at: usize,
    pub(crate) bytes: Vec<u8>,
}

/// What makes another content ID of a text's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NewContentId {
    /// There is none to change.
    Nothing,
    /// These changes, none of which moves anything.
    InPlace(ContentId, Vec<Edit>),
    /// The old one has too few digits to hold another in its place: the whole text with a longer one.
    Longer(ContentId, Vec<u8>),
}

impl Descriptor {
    /// Another content ID for the text, as `random` has it. The long content ID, where there is one, goes with it.
    pub(crate) fn with_new_content_id(&self, random: u128) -> NewContentId {
        let (Some(old), Some(entry)) = (self.content_id(), self.find(Section::Header, "CID")) else {
            return NewContentId::Nothing;
        };
        let digits = entry.value.len();
        let id = draw(old, random, if digits < MIN_DIGITS { 8 } else { digits });
        let text = |digits: usize| format!("{:0digits$x}", id.value()).into_bytes();
        let long = self.find(Section::Database, "longContentID");
        let long = long
            .filter(|entry| self.value(entry).iter().all(u8::is_ascii_hexdigit))
            .map(|entry| Edit { at: entry.value.start, bytes: long_id(id, random, entry.value.len()) });
        if digits >= MIN_DIGITS {
            let short = Edit { at: entry.value.start, bytes: text(digits) };
            return NewContentId::InPlace(id, iter::once(short).chain(long).collect());
        }
        let mut whole = self.text.clone();
        if let Some(Edit { at, bytes }) = long {
            whole[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        whole.splice(entry.value.clone(), text(8));
        NewContentId::Longer(id, whole)
    }

    /// The whole text with another content ID, as [`with_new_content_id`](Self::with_new_content_id) has it; `None` if
    /// there is none to change.
    pub(crate) fn text_with_new_content_id(&self, random: u128) -> Option<(ContentId, Vec<u8>)> {
        match self.with_new_content_id(random) {
            NewContentId::Nothing => None,
            NewContentId::Longer(id, text) => Some((id, text)),
            NewContentId::InPlace(id, edits) => {
                let mut text = self.text.clone();
                for Edit { at, bytes } in edits {
                    text.splice(at..at + bytes.len(), bytes);
                }
                Some((id, text))
            }
        }
    }
}

/// An ID with so many digits that is another than `old`, and not one of the two with a meaning.
fn draw(old: ContentId, random: u128, digits: usize) -> ContentId {
    let mask = if digits >= 8 { u32::MAX } else { (1 << (4 * digits)) - 1 };
    let [a, b, c, d, ..] = random.to_le_bytes();
    let mut value = u32::from_le_bytes([a, b, c, d]) & mask;
    while value == old.value() || value >= 0xffff_fffe {
        value = value.wrapping_add(1) & mask;
    }
    ContentId::new(value)
}

/// The long form in so many digits: random ones, and the ID as the last eight.
fn long_id(id: ContentId, random: u128, digits: usize) -> Vec<u8> {
    let value = (random >> 32 << 32) | u128::from(id.value());
    let text = format!("{value:032x}").into_bytes();
    let zeros = digits.saturating_sub(text.len());
    iter::repeat_n(b'0', zeros).chain(text[text.len().saturating_sub(digits)..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changed(text: &str, random: u128) -> Option<(ContentId, String)> {
        let model = Descriptor::parse(text.as_bytes()).unwrap();
        let is_longer = matches!(model.with_new_content_id(random), NewContentId::Longer(..));
        let (id, new) = model.text_with_new_content_id(random)?;
        assert_eq!(new.len() > text.len(), is_longer);
        Some((id, String::from_utf8(new).unwrap()))
    }

    #[test]
    fn nothing_moves_and_the_long_id_ends_in_the_short_one() {
        let text = "parentCID=ffffffff\nCID = \"0001abcd\" \nRW 1 ZERO\n#DDB\n\
            ddb.longContentID = \"00000000000000000000000012345678\"\nx=y\n";
        let (id, new) = changed(text, 0x1111_2222_3333_4444_5555_6666_dead_beef).unwrap();
        assert_eq!(id, ContentId::new(0xdead_beef));
        let expected = "parentCID=ffffffff\nCID = \"deadbeef\" \nRW 1 ZERO\n#DDB\n\
            ddb.longContentID = \"111122223333444455556666deadbeef\"\nx=y\n";
        assert_eq!(new, expected);
    }

    #[test]
    fn a_short_id_keeps_its_digits_and_one_that_is_too_short_becomes_longer() {
        for (old, new) in [("12345", "dbeef"), ("ABCD", "beef"), ("abc", "deadbeef"), ("0", "deadbeef")] {
            let text = format!("# Disk DescriptorFile\nCID={old}\nddb.longContentID=abc{old}\n");
            let id = u32::from_str_radix(new, 16).unwrap();
            let (found, changed) = changed(&text, 0xdead_beef).unwrap();
            assert_eq!(found, ContentId::new(id));
            assert!(changed.starts_with(&format!("# Disk DescriptorFile\nCID={new}\nddb.longContentID=")), "{changed}");
        }
    }

    #[test]
    fn a_text_without_an_id_has_nothing_to_change() {
        assert_eq!(changed("version=1\n", 7), None);
    }

    proptest! {
        #[test]
        fn the_new_id_is_another_and_has_no_meaning(old: u32, random: u128, digits in 1..=8_usize, same: bool) {
            let old = old & if digits == 8 { u32::MAX } else { (1 << (4 * digits)) - 1 };
            let random = if same { u128::from(old) } else { random };
            let text = format!("CID={old:0digits$x}\nRW 1 ZERO\n");
            let (id, new) = changed(&text, random).unwrap();
            prop_assert_ne!(id.value(), old);
            prop_assert!(id.value() < 0xffff_fffe);
            prop_assert_eq!(Descriptor::parse(new.as_bytes()).unwrap().content_id(), Some(id));
        }

        #[test]
        fn the_meaning_of_the_two_ends_is_never_drawn(digits in 4..=8_usize, old in 0xffff_fff0_u32..) {
            prop_assert!(draw(ContentId::new(old), u128::MAX, digits).value() < 0xffff_fffe);
        }
    }
}
