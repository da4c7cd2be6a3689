//! `vmdk write`: standard input into the disk.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use vmdk::{BlockDevice, Cursor, VmdkImage};

use crate::args::WriteArgs;
use crate::failure::{Failure, Result};
use crate::range::{self, BUFFER};
use crate::untrack;

pub(crate) fn run(args: &WriteArgs) -> Result<()> {
    let image = args.options().open(&args.image)?;
    let size = range::size_of(&image);
    // The length of a stream shows only at its end.
    range::check(args.offset, length_of_input().unwrap_or(0), size)?;
    let copied = copy(&image, args.offset, size, &mut io::stdin().lock());
    // What came before a failure was written, and stays.
    let closed = image.flush().and_then(|()| image.close());
    untrack::tell(&image);
    copied?;
    Ok(closed?)
}

/// How many bytes standard input still has, if it is a file.
fn length_of_input() -> Option<u64> {
    let mut file = input_file().ok()?;
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    Some(meta.len().saturating_sub(file.stream_position().ok()?))
}

/// Standard input as a file, at the same position.
fn input_file() -> io::Result<File> {
    #[cfg(unix)]
    let owned = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?;
    #[cfg(windows)]
    let owned = std::os::windows::io::AsHandle::as_handle(&io::stdin()).try_clone_to_owned()?;
    Ok(File::from(owned))
}

fn copy(image: &VmdkImage, offset: u64, size: u64, input: &mut dyn Read) -> Result<()> {
    let mut cursor = Cursor::new(image);
    cursor.seek(SeekFrom::Start(offset)).map_err(vmdk::Error::from)?;
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut at = offset;
    loop {
        buffer.clear();
        let wanted = range::step(at, size - at);
        // At the end of the disk a byte more would be too much.
        let asked = wanted.max(1) as u64;
        let unread = |cause| Failure::Host(format!("cannot read standard input; {}", written(at - offset)), cause);
        (&mut *input).take(asked).read_to_end(&mut buffer).map_err(unread)?;
        if buffer.is_empty() {
            return Ok(());
        }
        if wanted == 0 {
            let text = format!("the disk ends at byte {size}, and standard input goes on; {}", written(at - offset));
            return Err(Failure::Refused(text));
        }
        cursor.write_all(&buffer).map_err(vmdk::Error::from)?;
        at += buffer.len() as u64;
    }
}

fn written(bytes: u64) -> String {
    format!("{bytes} bytes of it were written")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::Arc;
    use vmdk::{MemoryStorage, OpenOptions, Storage};

    /// A disk of four sectors, each full of its number.
    fn disk() -> VmdkImage {
        let text = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\
                    RW 4 VMFS \"flat\"\n";
        let content: Vec<u8> = (0..4).flat_map(|number| [number; 512]).collect();
        let files: HashMap<String, Arc<dyn Storage>> = HashMap::from([
            ("disk".to_owned(), Arc::new(MemoryStorage::new(text)) as Arc<dyn Storage>),
            ("flat".to_owned(), Arc::new(MemoryStorage::new(content))),
        ]);
        OpenOptions::new().write(true).open_with("disk", &files).unwrap()
    }

    fn content(image: &VmdkImage) -> Vec<u8> {
        let mut content = vec![0; 2048];
        image.read_sectors(0, &mut content).unwrap();
        content
    }

    #[test]
    fn any_bytes_are_replaced_and_their_neighbours_stay() {
        let image = disk();
        copy(&image, 500, 2048, &mut &[9; 600][..]).unwrap();
        let content = content(&image);
        assert_eq!(content[..500], [0; 500]);
        assert_eq!(content[500..1100], [9; 600]);
        assert_eq!(content[1100..1536], [2; 436]);
    }

    #[test]
    fn an_input_that_is_longer_than_the_disk_says_how_much_there_was_room_for() {
        let image = disk();
        let failure = copy(&image, 1000, 2048, &mut &[9; 1049][..]).unwrap_err();
        assert_eq!(
            failure.line(),
            "the disk ends at byte 2048, and standard input goes on; 1048 bytes of it were written"
        );
        assert_eq!(content(&image)[1000..], [9; 1048]);
        copy(&disk(), 1000, 2048, &mut &[9; 1048][..]).unwrap();
    }

    #[test]
    fn an_input_that_breaks_says_how_much_there_was_of_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the cable is out"))
            }
        }
        let failure = copy(&disk(), 0, 2048, &mut Broken).unwrap_err();
        assert_eq!(failure.line(), "cannot read standard input; 0 bytes of it were written: the cable is out");
    }
}
