//! What a file is, by its first bytes; never by its name.

/// What the first bytes of a file say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A hosted sparse extent, perhaps with a descriptor inside.
    Kdmv,
    /// A hosted sparse file whose writer has not finished: it patches the magic last.
    UnfinishedKdmv,
    /// An ESX delta, or a disk of VMware 2 or 3.
    Cowd,
    SeSparse,
    ChangeTracking,
    /// None of the above: a text descriptor, raw data, or something else.
    Other,
}

impl FileKind {
    /// Recognises a file by its first bytes (eight are enough).
    pub(crate) fn of(start: &[u8]) -> Self {
        let is = |magic: &[u8]| start.starts_with(magic);
        if is(&super::kdmv::MAGIC) {
            Self::Kdmv
        } else if is(&super::kdmv::MAGIC.map(|byte| byte.to_ascii_lowercase())) {
            Self::UnfinishedKdmv
        } else if is(&super::cowd::MAGIC) {
            Self::Cowd
        } else if is(&super::sesparse::MAGIC.to_le_bytes()) {
            Self::SeSparse
        } else if is(&super::ctk::SIGNATURE) {
            Self::ChangeTracking
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_magic_is_recognised_and_a_short_file_is_not_mistaken() {
        let cases: [(&[u8], FileKind); 8] = [
            (b"KDMV\x01\0\0\0", FileKind::Kdmv),
            (b"kdmv\x03\0\0\0", FileKind::UnfinishedKdmv),
            (b"COWD\x01\0\0\0", FileKind::Cowd),
            (b"\xbe\xba\xfe\xca\0\0\0\0", FileKind::SeSparse),
            (b"\xbe\xba\xfe\xca\0\0\0\x01", FileKind::Other),
            (b"\xa2\x72\x19\xf6\x01\0\0\0", FileKind::ChangeTracking),
            (b"KDM", FileKind::Other),
            (b"", FileKind::Other),
        ];
        for (start, kind) in cases {
            assert_eq!(FileKind::of(start), kind, "{start:?}");
        }
    }
}
