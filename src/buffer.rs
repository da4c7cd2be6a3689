//! Memory that bytes pass through on their way from one place to another.

use std::ops::{Deref, DerefMut};

/// A page. Copies between the kernel and memory that does not begin with a cache line take half as long again on common
/// processors, and storages that bypass the page cache want pages.
const ALIGNMENT: usize = 4096;

/// Bytes that begin with a page.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// Where in `bytes` they begin, and how many there are.
    start: usize,
    len: usize,
}

impl Buffer {
    /// So many zeros.
    pub(crate) fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGNMENT - 1];
        // If the place cannot be told, any will do.
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT - 1);
        Self { bytes, start, len }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_with_a_page_and_is_as_long_as_was_asked_for() {
        for len in [0, 1, 4096, 5000, 1 << 20] {
            let mut buffer = Buffer::new(len);
            assert_eq!((buffer.len(), buffer.as_ptr().addr() % ALIGNMENT), (len, 0));
            buffer.fill(7);
            let moved = Box::new(buffer);
            assert_eq!(moved.as_ptr().addr() % ALIGNMENT, 0);
            assert!(moved.iter().all(|&byte| byte == 7));
        }
    }
}
