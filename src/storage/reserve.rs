//! Space that a file has before anything is written to it.

use std::io;

use super::Storage;
use crate::sector::{ZEROS, to_usize};

/// Gives an empty storage `len` bytes of zeros that take no more space when they are written: the host reserves them,
/// or they are written where it cannot.
pub(crate) fn reserve(storage: &dyn Storage, len: u64) -> io::Result<()> {
    if sys::reserve(storage, len)? {
        return Ok(());
    }
    let mut at = 0;
    while at < len {
        let step = (len - at).min(ZEROS.len() as u64);
        storage.write_all_at(&ZEROS[..to_usize(step)], at)?;
        at += step;
    }
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod sys {
    use std::io;

    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::{Errno, retry_on_intr};

    use crate::storage::Storage;

    pub(super) fn reserve(storage: &dyn Storage, len: u64) -> io::Result<bool> {
        let Some(file) = storage.as_fd() else { return Ok(false) };
        match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, len)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod sys {
    use std::io;

    use crate::storage::Storage;

    pub(super) fn reserve(_: &dyn Storage, _: u64) -> io::Result<bool> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileStorage, MemoryStorage};

    #[test]
    fn what_is_reserved_is_zero_and_takes_its_space() {
        let memory = MemoryStorage::new([]);
        reserve(&memory, 200_000).unwrap();
        assert_eq!(memory.to_vec(), vec![0; 200_000]);
        let file = FileStorage::new(tempfile::tempfile().unwrap()).unwrap();
        reserve(&file, 200_000).unwrap();
        assert_eq!(file.len().unwrap(), 200_000);
        assert!(file.allocated_len().unwrap() >= 200_000);
    }
}
