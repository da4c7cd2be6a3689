//! What is written is read back: at random, by the markers, and from one end to the other.

use std::fs;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::sync::Arc;

use vmdk::{
    BlockDevice, ErrorKind, MemoryStorage, OpenOptions, RawTarget, Result, Storage, StreamReader, StreamWriter,
};
use vmdk::{VmdkImage, copy};

use super::support::model::MemoryDevice;
use super::support::rng::Rng;
use super::{GRAIN, GRAIN_LEN, SECTOR, TABLE, index, noise, options, text};

/// What a disk can hold.
#[derive(Clone, Copy, Debug)]
enum Content {
    Zeros,
    Text,
    Programs,
    Noise,
    Mixed,
}

const CONTENTS: [Content; 5] = [Content::Zeros, Content::Text, Content::Programs, Content::Noise, Content::Mixed];

impl Content {
    fn disk(self, capacity: u64) -> Vec<u8> {
        let programs = programs();
        let grain = |start: u64| match (self, start / GRAIN % 4) {
            (Self::Zeros, _) | (Self::Mixed, 0) => vec![0; GRAIN_LEN],
            (Self::Text, _) | (Self::Mixed, 1) => text(start, u64::MAX),
            (Self::Noise, _) | (Self::Mixed, 2) => noise(start),
            (Self::Programs | Self::Mixed, _) => {
                let at = index(start) * SECTOR % (programs.len() - GRAIN_LEN);
                programs[at..at + GRAIN_LEN].to_vec()
            }
        };
        let mut disk: Vec<u8> = (0..capacity).step_by(128).flat_map(grain).collect();
        disk.truncate(index(capacity) * SECTOR);
        disk
    }
}

/// The beginning of the program that runs here.
fn programs() -> Vec<u8> {
    let mut bytes = fs::read(std::env::current_exe().unwrap()).unwrap();
    bytes.truncate(8 << 20);
    bytes
}

/// The disk as a stream in both layouts.
fn streams(disk: &[u8], threads: usize) -> [Vec<u8>; 2] {
    let source = MemoryDevice::read_only(disk.to_vec());
    let options = options((disk.len() / SECTOR) as u64).threads(threads);
    let mut on = |_| ControlFlow::Continue(());
    let mut pipe = StreamWriter::new(Vec::new(), "disk.vmdk", &options).unwrap();
    pipe.write_all_from(&source, &mut on).unwrap();
    let mut file = StreamWriter::new_seekable(Cursor::new(Vec::new()), "disk.vmdk", &options).unwrap();
    file.write_all_from(&source, &mut on).unwrap();
    [pipe.finish().unwrap(), file.finish().unwrap().into_inner()]
}

fn open(stream: &[u8], options: &OpenOptions) -> Result<VmdkImage> {
    let file: Arc<dyn Storage> = Arc::new(MemoryStorage::new(stream));
    options.open_with("disk.vmdk", &move |_: &str| Some(Arc::clone(&file)))
}

fn content(image: &VmdkImage) -> Vec<u8> {
    let mut content = vec![0xee; index(image.capacity_sectors()) * SECTOR];
    image.read_sectors(0, &mut content).unwrap();
    content
}

#[test]
fn every_content_of_every_size_is_read_back_in_every_way() {
    for kind in CONTENTS {
        for capacity in [1, 127, 129, 9 * GRAIN + 77, 70 * GRAIN, TABLE + 131] {
            if capacity > TABLE && !matches!(kind, Content::Mixed) {
                continue;
            }
            let disk = kind.disk(capacity);
            for stream in streams(&disk, 1 + index(capacity % 3)) {
                let what = format!("{kind:?}, {capacity} sectors");
                let image = open(&stream, &OpenOptions::new()).unwrap();
                assert!(image.chain()[0].warnings().is_empty(), "{what}: {:?}", image.chain()[0].warnings());
                assert!(content(&image) == disk, "{what}");
                let salvaged = open(&stream, &OpenOptions::new().salvage(true)).unwrap();
                assert!(content(&salvaged) == disk, "{what}, by its markers");
                let found = salvaged.chain()[0].extents()[0].salvaged().unwrap();
                assert!(found.is_complete() && found.missing_grains == Some(0), "{what}: {found:?}");
                let target = MemoryStorage::new([]);
                let mut reader = StreamReader::new(&stream[..]).unwrap();
                let summary =
                    reader.copy_to_raw(&target, RawTarget::Empty, 2, &mut |_| ControlFlow::Continue(())).unwrap();
                assert!(summary.complete && target.to_vec() == disk, "{what}, from one end to the other");
            }
        }
    }
}

#[test]
fn a_stream_of_a_stream_of_a_stream_is_the_same_disk() {
    let disk = Content::Mixed.disk(50 * GRAIN + 3);
    let [first, _] = streams(&disk, 2);
    let image = open(&first, &OpenOptions::new()).unwrap();
    let options = options(image.capacity_sectors()).threads(3);
    let mut second = StreamWriter::new(Vec::new(), "disk.vmdk", &options).unwrap();
    second.write_all_from(&image, &mut |_| ControlFlow::Continue(())).unwrap();
    let image = open(&second.finish().unwrap(), &OpenOptions::new()).unwrap();
    let target = MemoryDevice::new(vec![0xaa; disk.len()]);
    copy(&image, &target, 3, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(target.to_vec() == disk);
}

/// Whoever finds it must not take it for a disk that has less, or nothing.
#[test]
fn a_stream_that_was_not_finished_is_known_as_such() {
    let grains = [0, GRAIN, TABLE].map(|start| (start, noise(start + 1)));
    let mut file = Cursor::new(Vec::new());
    let mut stream = StreamWriter::new_seekable(&mut file, "disk.vmdk", &options(2 * TABLE)).unwrap();
    for (start, grain) in &grains {
        stream.write_grain(*start, grain).unwrap();
    }
    drop(stream);
    let error = open(file.get_ref(), &OpenOptions::new()).unwrap_err();
    assert!(error.kind() == ErrorKind::Incomplete && error.to_string().contains("--salvage"), "{error}");
    let image = open(file.get_ref(), &OpenOptions::new().salvage(true)).unwrap();
    let found = image.chain()[0].extents()[0].salvaged().unwrap();
    assert!(!found.is_complete() && found.missing_grains.is_none() && found.grains == 3, "{found:?}");
    for (start, grain) in &grains {
        let mut buf = vec![0; GRAIN_LEN];
        image.read_sectors(*start, &mut buf).unwrap();
        assert!(buf == *grain);
    }
    let mut pipe = Vec::new();
    let mut stream = StreamWriter::new(&mut pipe, "disk.vmdk", &options(2 * TABLE)).unwrap();
    for (start, grain) in &grains {
        stream.write_grain(*start, grain).unwrap();
    }
    drop(stream);
    let error = open(&pipe, &OpenOptions::new()).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("cut"), "{error}");
    let error = StreamReader::new(&pipe[..]).unwrap().for_each_grain(1, &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// Of a stream of ours that ends anywhere, nothing is read that was not written, and its end is missed.
#[test]
fn a_stream_that_was_cut_is_never_taken_for_a_whole_one() {
    let disk = Content::Mixed.disk(6 * GRAIN);
    let mut rng = Rng::new(4);
    for stream in streams(&disk, 1) {
        for len in (0..stream.len() - SECTOR).filter(|_| rng.chance(1)) {
            let Ok(mut reader) = StreamReader::new(&stream[..len]) else { continue };
            let target = MemoryStorage::new([]);
            let read = reader.copy_to_raw(&target, RawTarget::Empty, 1, &mut |_| ControlFlow::Continue(()));
            // Nothing but zeros behind the last grain may be missing, where tables in front name all of them.
            assert!(read.is_err() || target.to_vec() == disk, "{len} bytes");
        }
    }
}

#[test]
fn a_stream_that_passes_by_becomes_another_one() {
    let disk = Content::Mixed.disk(20 * GRAIN + 3);
    let on = &mut |_| ControlFlow::Continue(());
    for source in streams(&disk, 1) {
        for threads in [1, 3] {
            let options = options(20 * GRAIN + 50).threads(threads);
            let mut stream = StreamWriter::new(Vec::new(), "disk.vmdk", &options).unwrap();
            let mut reader = StreamReader::new(&source[..]).unwrap();
            let summary = stream.write_all_from_stream(&mut reader, threads, on).unwrap();
            assert!(summary.complete);
            let written = content(&open(&stream.finish().unwrap(), &OpenOptions::new()).unwrap());
            assert!(written[..disk.len()] == disk && written[disk.len()..].iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn a_stream_that_cannot_pass_into_another_one_is_refused() {
    use super::support::descriptor::DescriptorText;
    use super::support::stream::{StreamImage, StreamKind};
    let capacity = 4 * GRAIN;
    let image = || StreamImage::new(StreamKind::Classic, capacity);
    let child = DescriptorText::new("streamOptimized", 1).parent(2, "a").extent("RW 512 SPARSE \"b\"").to_string();
    for (source, kind, word) in [
        (image().grain(2, noise(1)).grain(1, noise(2)), ErrorKind::Unsupported, "lba 128"),
        (image().grain_sectors(8).grain(1, [1; 4096]), ErrorKind::Unsupported, "8 sectors"),
        (image().descriptor(child).grain(1, noise(1)), ErrorKind::Unsupported, "delta"),
        (StreamImage::new(StreamKind::Classic, capacity + 1), ErrorKind::InvalidInput, "513"),
        (image().grain(1, noise(1)).without_end().without_footer(), ErrorKind::Corrupt, "end"),
    ] {
        let mut stream = StreamWriter::new(Vec::new(), "disk.vmdk", &options(capacity)).unwrap();
        let bytes = source.build();
        let mut reader = StreamReader::new(&bytes[..]).unwrap();
        let refused = stream.write_all_from_stream(&mut reader, 1, &mut |_| ControlFlow::Continue(()));
        let error = refused.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(word), "{error}");
    }
}
