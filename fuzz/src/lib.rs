//! Several files in one input, so that images of more than one file can be fuzzed.
//!
//! An input that begins with `VMDKPACK` is a list of files: a byte with the length of the name, the name, four bytes
//! with the length of the content (little-endian), the content. Whatever is cut off is left out. Any other input is one
//! file. The first file is the one to open.

pub mod bounded;

/// The file of a pack that says what the target `operations` does to the image.
pub const OPERATIONS: &str = "operations";

/// The first bytes of a pack.
pub const MAGIC: &[u8; 8] = b"VMDKPACK";

/// The files of an input, by name; the first one is to be opened.
pub fn unpack(input: &[u8]) -> Vec<(String, Vec<u8>)> {
    let Some(mut rest) = input.strip_prefix(MAGIC) else {
        return vec![("disk.vmdk".to_owned(), input.to_vec())];
    };
    let mut files = Vec::new();
    while let Some((&len, after)) = rest.split_first() {
        let (name, after) = after.split_at(usize::from(len).min(after.len()));
        let (size, after) = after.split_at(4.min(after.len()));
        let size = size.iter().rev().fold(0, |size, &byte| size << 8 | usize::from(byte));
        let (content, after) = after.split_at(size.min(after.len()));
        files.push((String::from_utf8_lossy(name).into_owned(), content.to_vec()));
        rest = after;
    }
    files
}

/// The input that `unpack` takes apart into `files`.
pub fn pack<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut input = MAGIC.to_vec();
    for (name, content) in files {
        input.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        input.extend_from_slice(&name.as_bytes()[..name.len().min(255)]);
        input.extend_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
        input.extend_from_slice(content);
    }
    input
}
