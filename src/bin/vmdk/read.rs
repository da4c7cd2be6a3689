//! `vmdk read`: bytes of the disk on standard output.

use std::io::{self, Read, Seek, SeekFrom, Write};

use vmdk::{Cursor, VmdkImage};

use crate::args::ReadArgs;
use crate::failure::{Failure, Result};
use crate::range::{self, BUFFER};

pub(crate) fn run(args: &ReadArgs) -> Result<()> {
    let image = args.open.options().open(&args.image)?;
    range::check(args.offset, args.length, range::size_of(&image))?;
    copy(image, args.offset, args.length, &mut io::stdout().lock())
}

/// Writes bytes of the disk to `output`.
fn copy(image: VmdkImage, offset: u64, length: u64, output: &mut dyn Write) -> Result<()> {
    let mut cursor = Cursor::new(image);
    cursor.seek(SeekFrom::Start(offset)).map_err(vmdk::Error::from)?;
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(BUFFER).min(BUFFER)];
    let (mut at, mut left) = (offset, length);
    while left > 0 {
        let len = range::step(at, left);
        let buffer = &mut buffer[..len];
        cursor.read_exact(buffer).map_err(vmdk::Error::from)?;
        output.write_all(buffer).map_err(Failure::Output)?;
        at += len as u64;
        left -= len as u64;
    }
    output.flush().map_err(Failure::Output)
}
