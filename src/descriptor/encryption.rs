//! Telling that a disk is encrypted. How is not documented; what says so was seen in descriptors.

use super::{Descriptor, Section, scan};
use crate::error::{Error, ErrorKind, Result};

/// What the filter of vSphere that encrypts is called, in part.
const FILTER: &[u8] = b"crypt";

impl Descriptor {
    /// The key that says that the disk is encrypted, as it stands in the text; `None` if there is none.
    ///
    /// vSphere writes `keyID`, `encryptionKeys` with the key of the disk, itself encrypted, and the filter that does it
    /// in `ddb.iofilters`. Whatever else is called `encryption...` counts as well; an empty value does not.
    pub fn encryption_key(&self) -> Option<&str> {
        let found = self.entries.iter().find(|entry| {
            let (key, value) = (&self.text[entry.key.clone()], self.value(entry));
            let begins = |start: &[u8]| key.get(..start.len()).is_some_and(|key| key.eq_ignore_ascii_case(start));
            let is_filter = entry.section == Section::Database && key.eq_ignore_ascii_case(b"iofilters");
            let encrypts = || value.windows(FILTER.len()).any(|part| part.eq_ignore_ascii_case(FILTER));
            let is_mark = begins(b"encryption") || key.eq_ignore_ascii_case(b"keyID");
            !value.is_empty() && (is_mark || (is_filter && encrypts()))
        });
        // What has matched is ASCII up to there; the rest may be anything.
        found.map(|entry| str::from_utf8(&self.text[entry.key.clone()]).unwrap_or("encryption"))
    }

    /// Refuses an encrypted disk: what would be read is not its content.
    ///
    /// # Errors
    /// `Unsupported`.
    pub(crate) fn check_not_encrypted(&self) -> Result<()> {
        let Some(key) = self.encryption_key() else { return Ok(()) };
        let key = scan::shown(key.as_bytes());
        let text = format!("the disk is encrypted (by the key {key} in its descriptor), which is not supported");
        Err(Error::text(ErrorKind::Unsupported, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_of_an_encrypted_disk_is_known_by_its_name() {
        let rows = [
            ("encryptionKeys=\"vmware:key/list/(pair/(fqid/x,HMAC-SHA-256,AAAA))\"\n", Some("encryptionKeys")),
            ("ENCRYPTIONKEYS = x\n", Some("ENCRYPTIONKEYS")),
            ("keyID=AAAA\n", Some("keyID")),
            ("encryption.keySafe = \"vmware:key/list\"\n", Some("encryption.keySafe")),
            ("#DDB\nddb.iofilters = \"vmwarevmcrypt\"\n", Some("iofilters")),
            ("ddb.encryptionX = \"1\"\n", Some("encryptionX")),
            ("encryption\u{e9}=1\n", Some("encryption\u{e9}")),
            // Others.
            ("ddb.iofilters = \"spm\"\niofilters=crypt\n", None),
            ("encryptionKeys=\"\"\nkeyID=\nkeyIDs=1\nencoding=UTF-8\n", None),
            ("# encryptionKeys=1\nRW 1 FLAT \"encryptionKeys=1\"\n", None),
        ];
        for (text, expected) in rows {
            assert_eq!(Descriptor::parse(text.as_bytes()).unwrap().encryption_key(), expected, "{text}");
        }
        let odd = Descriptor::parse(b"encryption\xff=1\n").unwrap();
        assert_eq!(odd.encryption_key(), Some("encryption"));
    }
}
