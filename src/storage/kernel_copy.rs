//! Copying from one host file to another within the kernel.

use std::ops::Range;

use super::Storage;

/// Copies the bytes `from` of a storage to the offset `to` of another, as far as the kernel can do that; says how many
/// bytes it did. The rest has to be read and written, where an error will show again if there was one.
pub(crate) fn kernel_copy(source: &dyn Storage, from: Range<u64>, target: &dyn Storage, to: u64) -> u64 {
    sys::copy(source, from, target, to)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod sys {
    use super::{Range, Storage};

    pub(super) fn copy(source: &dyn Storage, from: Range<u64>, target: &dyn Storage, to: u64) -> u64 {
        let (Some(source), Some(target)) = (source.as_fd(), target.as_fd()) else { return 0 };
        let (mut at, mut target_at) = (from.start, to);
        while at < from.end {
            let len = crate::sector::to_usize(from.end - at);
            match rustix::fs::copy_file_range(source, Some(&mut at), target, Some(&mut target_at), len) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        at - from.start
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod sys {
    use super::{Range, Storage};

    pub(super) fn copy(_: &dyn Storage, _: Range<u64>, _: &dyn Storage, _: u64) -> u64 {
        0
    }
}
