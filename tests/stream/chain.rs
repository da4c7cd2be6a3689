//! Streams below other disks, and the ways on for who wants to write to one.

use std::sync::Arc;

use vmdk::{BlockDevice, CreateOptions, ErrorKind, OpenOptions};

use crate::support::descriptor::DescriptorText;
use crate::support::rng::Rng;
use crate::support::sparse::SparseImage;
use crate::support::stream::{KINDS, StreamKind};
use crate::support::{SECTOR, byte_range, index};
use crate::{GRAIN, content, described, grain, open_among};

#[test]
fn a_stream_is_a_parent_like_any_other() {
    for kind in KINDS {
        let parent = described(kind, 6 * GRAIN).random(&mut Rng::new(5)).grain(3, grain(3));
        let text = DescriptorText::new("monolithicSparse", 7).parent(0x5eed, "parent.vmdk");
        let text = text.extent(format!("RW {} SPARSE \"disk\"", 6 * GRAIN)).to_string();
        let child = SparseImage::new(6 * GRAIN).descriptor(text).data(1, grain(9));
        let files: [(&str, &[u8]); 2] = [("disk", &child.build()), ("parent.vmdk", &parent.build())];
        let image = open_among(&files, &OpenOptions::new()).unwrap();
        assert!(content(&image).unwrap() == child.layer().over(&parent.layer().content()), "{kind:?}");
        assert_eq!(image.chain().len(), 2);
    }
}

#[test]
fn what_is_written_to_a_child_is_filled_from_the_stream_below() {
    let dir = tempfile::tempdir().unwrap();
    let (parent, child) = (dir.path().join("parent.vmdk"), dir.path().join("child.vmdk"));
    let stream = described(StreamKind::Classic, 6 * GRAIN).grain(0, grain(1)).grain(4, grain(2));
    std::fs::write(&parent, stream.build()).unwrap();
    let mut expected = stream.layer().content();
    let options = CreateOptions::new();
    let image = OpenOptions::new().open(&parent).unwrap().create_child(&child, &options).unwrap();
    for (start, count) in [(3, 1), (GRAIN + 5, 2), (4 * GRAIN - 1, 3), (5 * GRAIN, 9)] {
        let bytes = Rng::new(start).bytes(index(count) * SECTOR);
        image.write_sectors(start, &bytes).unwrap();
        expected[byte_range(start, count)].copy_from_slice(&bytes);
    }
    image.write_zeroes(4 * GRAIN + 10, 50, true).unwrap();
    expected[byte_range(4 * GRAIN + 10, 50)].fill(0);
    assert!(content(&image).unwrap() == expected);
    image.close().unwrap();
    drop(image);
    assert!(content(&OpenOptions::new().open(&child).unwrap()).unwrap() == expected);
    assert_eq!(std::fs::read(&parent).unwrap(), stream.build(), "the stream is as it was");
}

/// What is missing of it would become zeros in the child for good.
#[test]
fn a_stream_that_is_salvaged_gets_no_child() {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().join("parent.vmdk");
    std::fs::write(&parent, described(StreamKind::Classic, 6 * GRAIN).grain(0, grain(1)).build()).unwrap();
    let image = OpenOptions::new().salvage(true).open(&parent).unwrap();
    let error = image.create_child(dir.path().join("child.vmdk"), &CreateOptions::new()).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains("salvage"), "{error}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn a_stream_is_not_opened_for_writing_and_the_error_says_what_to_do() {
    for kind in KINDS {
        let stream = described(kind, GRAIN).grain(0, grain(0)).build();
        let error = open_among(&[("disk", &stream)], &OpenOptions::new().write(true)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains("child") && text.contains("vmdk snapshot") && text.contains("vmdk convert"), "{text}");
        let image = open_among(&[("disk", &stream)], &OpenOptions::new()).unwrap();
        assert!(image.limits().read_only);
        assert_eq!(image.write_sectors(0, &[0; SECTOR]).unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(image.prepare_write(0, 1).unwrap_err().kind(), ErrorKind::ReadOnly);
    }
}

#[test]
fn streams_of_one_chain_share_a_cache_and_do_not_mix() {
    let parent = described(StreamKind::Classic, 4 * GRAIN).grain(0, grain(1)).grain(1, grain(2));
    let text = DescriptorText::new("streamOptimized", 7).parent(0x5eed, "parent.vmdk");
    let text = text.extent(format!("RW {} SPARSE \"disk\"", 4 * GRAIN)).to_string();
    let child =
        crate::support::stream::StreamImage::new(StreamKind::Qemu, 4 * GRAIN).descriptor(text).grain(1, grain(3));
    let files: [(&str, &[u8]); 2] = [("disk", &child.build()), ("parent.vmdk", &parent.build())];
    let image = open_among(&files, &OpenOptions::new()).unwrap();
    let expected = child.layer().over(&parent.layer().content());
    let image = Arc::new(image);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (image, expected) = (Arc::clone(&image), &expected);
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                for _ in 0..2000 {
                    let start = rng.below(4 * GRAIN - 8);
                    let mut buf = [0; 8 * SECTOR];
                    image.read_sectors(start, &mut buf).unwrap();
                    assert!(buf == expected[byte_range(start, 8)]);
                }
            });
        }
    });
}
