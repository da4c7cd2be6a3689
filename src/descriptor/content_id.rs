//! The content ID, by which a child knows whether its parent is still what it was.

use std::fmt;

use super::scan;

/// The content ID (`CID`) of a link: a random number that changes once per open, with the first write.
///
/// A child records its parent's ID as `parentCID`; if the two differ, the parent was written to after the child was
/// made, and the child's content is lost (VMware technical note).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentId(u32);

impl ContentId {
    /// The `parentCID` of a link that has no parent. It is never the ID of a link.
    pub const NO_PARENT: Self = Self(0xffff_ffff);

    /// The content ID with this value.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The value as a number.
    pub const fn value(self) -> u32 {
        self.0
    }

    /// Whether this is [`ContentId::NO_PARENT`].
    pub const fn is_no_parent(self) -> bool {
        self.0 == Self::NO_PARENT.0
    }

    /// 1 to 8 hexadecimal digits of any case: VMware writes eight, QEMU leaves out leading zeros.
    pub(crate) fn parse(digits: &[u8]) -> Option<Self> {
        if digits.len() > 8 {
            return None;
        }
        u32::try_from(scan::hex(digits)?).ok().map(Self)
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_to_eight_digits_of_any_case_are_an_id() {
        assert_eq!(ContentId::parse(b"f70c5f9"), Some(ContentId::new(0x0f70_c5f9)));
        assert_eq!(ContentId::parse(b"FFFFFFFF"), Some(ContentId::NO_PARENT));
        assert_eq!(ContentId::parse(b"0"), Some(ContentId::new(0)));
        for digits in [&b""[..], b"000000001", b"0x12", b"+1", b"12 ", b"xyz"] {
            assert_eq!(ContentId::parse(digits), None);
        }
    }

    #[test]
    fn eight_lower_case_digits_are_written() {
        let id = ContentId::new(0x0F70_C5F9);
        assert_eq!(format!("{id} {id:?}"), "0f70c5f9 0f70c5f9");
    }

    #[test]
    fn never_written_is_an_id_like_any_other() {
        assert!(ContentId::NO_PARENT.is_no_parent());
        assert!(!ContentId::new(0xffff_fffe).is_no_parent());
    }
}
