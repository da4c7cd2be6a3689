//! Copies of streams, inflated by several threads.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use vmdk::{CreateOptions, CreateType, ErrorKind, MemoryStorage, OpenOptions, RawTarget, Storage, copy};

use crate::support::descriptor::DescriptorText;
use crate::support::model::MemoryDevice;
use crate::support::rng::Rng;
use crate::support::sparse::SparseImage;
use crate::support::storage::{FaultStorage, Operation};
use crate::support::stream::{KINDS, StreamKind, zlib};
use crate::support::{SECTOR, index};
use crate::{GRAIN, TABLE, content, described, grain, open, open_among};

const THREADS: [usize; 5] = [0, 1, 2, 3, 9];

#[test]
fn a_raw_copy_is_the_same_with_any_number_of_threads() {
    for kind in KINDS {
        let stream = described(kind, 61 * GRAIN + 3).random_order(&mut Rng::new(7)).grain(3, [0; 9]);
        let image = open(&stream.build()).unwrap();
        let expected = stream.layer().content();
        for threads in THREADS {
            for target in [RawTarget::Empty, RawTarget::Used] {
                let old = if target == RawTarget::Used { vec![0xaa; expected.len() + 700] } else { vec![0xaa; 99] };
                let storage = MemoryStorage::new(old);
                let mut seen = Vec::new();
                let mut progress = |now: vmdk::CopyProgress| {
                    seen.push(now.done);
                    ControlFlow::Continue(())
                };
                image.copy_to_raw(&storage, target, threads, &mut progress).unwrap();
                assert!(storage.to_vec()[..expected.len()] == expected, "{kind:?} {threads} {target:?}");
                assert!(seen.is_sorted() && seen.last() == Some(&(expected.len() as u64)));
            }
        }
    }
}

#[test]
fn a_chain_of_streams_and_others_is_copied_as_one_disk() {
    let parent = described(StreamKind::Qemu, 40 * GRAIN).random(&mut Rng::new(8));
    let text = DescriptorText::new("monolithicSparse", 7).parent(0x5eed, "parent.vmdk");
    let text = text.extent(format!("RW {} SPARSE \"disk\"", 50 * GRAIN)).to_string();
    let child = SparseImage::new(50 * GRAIN).descriptor(text).random(&mut Rng::new(9));
    let expected = child.layer().over(&parent.layer().content());
    let files: [(&str, &[u8]); 2] = [("disk", &child.build()), ("parent.vmdk", &parent.build())];
    let image = open_among(&files, &OpenOptions::new()).unwrap();
    for threads in THREADS {
        let storage = MemoryStorage::new([]);
        image.copy_to_raw(&storage, RawTarget::Empty, threads, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(storage.to_vec() == expected, "{threads}");
        let device = MemoryDevice::new(vec![0x55; expected.len()]);
        copy(&image, &device, threads, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(device.to_vec() == expected, "{threads}");
    }
}

#[test]
fn the_first_damaged_grain_ends_every_copy() {
    let bad = zlib(&grain(1), 6)[..200].to_vec();
    let stream = (0..60).fold(described(StreamKind::Classic, 60 * GRAIN), |stream, number| match number {
        31 | 44 => stream.stored_grain(number, bad.clone()),
        _ => stream.grain(number, grain(number)),
    });
    let image = open(&stream.build()).unwrap();
    let sector = format!("sector {}", 31 * GRAIN);
    for threads in THREADS {
        let storage = MemoryStorage::new([]);
        let copied = image.copy_to_raw(&storage, RawTarget::Empty, threads, &mut |_| ControlFlow::Continue(()));
        let error = copied.unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(&sector), "{threads}: {error}");
        let device = MemoryDevice::new(vec![0; index(60 * GRAIN) * SECTOR]);
        let error = copy(&image, &device, threads, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(&sector), "{threads}: {error}");
    }
}

#[test]
fn what_comes_before_a_table_that_cannot_be_read_is_copied_and_its_damage_comes_first() {
    let stream = described(StreamKind::Preallocated, 2 * TABLE).grain(510, grain(1)).grain(600, grain(3));
    let bad = zlib(&grain(2), 6)[..200].to_vec();
    for (stream, is_sound) in [(stream.clone().grain(511, grain(2)), true), (stream.stored_grain(511, bad), false)] {
        let built = stream.build_with_layout();
        let file = FaultStorage::new(Arc::new(MemoryStorage::new(built.bytes.clone())));
        let files = HashMap::from([("disk".to_owned(), file.clone() as Arc<dyn Storage>)]);
        let image = OpenOptions::new().open_with("disk", &files).unwrap();
        let table = built.gt[1] * SECTOR as u64;
        file.fail_within(Operation::Read, table..table + SECTOR as u64, 5);
        for threads in THREADS {
            let storage = MemoryStorage::new([]);
            let copied = image.copy_to_raw(&storage, RawTarget::Empty, threads, &mut |_| ControlFlow::Continue(()));
            let expected = if is_sound { ErrorKind::Io } else { ErrorKind::Corrupt };
            assert_eq!(copied.unwrap_err().kind(), expected, "{threads}");
            let bytes = index(510 * GRAIN) * SECTOR..index(512 * GRAIN) * SECTOR;
            assert!(!is_sound || storage.to_vec()[bytes] == [grain(1), grain(2)].concat(), "{threads}");
        }
    }
}

#[test]
fn a_full_target_and_a_stop_end_the_copy() {
    let stream =
        (0..40).fold(described(StreamKind::Classic, 40 * GRAIN), |stream, number| stream.grain(number, grain(number)));
    let image = open(&stream.build()).unwrap();
    for threads in THREADS {
        let storage = FaultStorage::new(Arc::new(MemoryStorage::new([])));
        let range = 900_000..900_001;
        storage.fail_within(Operation::Write, range, 28);
        let copied = image.copy_to_raw(&*storage, RawTarget::Empty, threads, &mut |_| ControlFlow::Continue(()));
        assert_eq!(copied.unwrap_err().kind(), ErrorKind::Io, "{threads}");
        let mut calls = 0;
        let stopped = image.copy_to_raw(&MemoryStorage::new([]), RawTarget::Empty, threads, &mut |_| {
            calls += 1;
            if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((stopped.unwrap_err().kind(), calls), (ErrorKind::Cancelled, 2));
    }
}

#[test]
fn zeros_within_grains_take_no_space_in_the_copy() {
    let mut bytes = vec![0; index(GRAIN) * SECTOR];
    bytes[..4096].fill(1);
    bytes[40_000] = 2;
    let stream = described(StreamKind::Classic, 3 * GRAIN).grain(1, bytes);
    let image = open(&stream.build()).unwrap();
    let storage = crate::support::storage::CountingStorage::new(Arc::new(MemoryStorage::new([])));
    image.copy_to_raw(&*storage, RawTarget::Empty, 1, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(storage.counts().bytes_written(), 2 * 4096);
}

#[test]
fn a_stream_becomes_any_other_type_of_disk() {
    let stream = described(StreamKind::Preallocated, 70 * GRAIN + 1).random(&mut Rng::new(10));
    let image = open(&stream.build()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for create_type in [CreateType::MonolithicSparse, CreateType::TwoGbMaxExtentFlat, CreateType::VmfsSparse] {
        let path = dir.path().join(format!("{create_type}.vmdk"));
        let options = CreateOptions::new().create_type(create_type).sync(false);
        options.create_from(&path, &image, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(content(&OpenOptions::new().open(&path).unwrap()).unwrap() == stream.layer().content());
    }
}

/// Its parts are what it lies in, as a file is.
#[test]
fn a_disk_does_not_replace_what_it_lies_in() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = described(StreamKind::Classic, 3 * GRAIN).grain(1, grain(1)).build();
    let (first, second) = bytes.split_at(bytes.len() / 1024 * 512);
    let paths = [(0, first), (1, second)].map(|(number, bytes)| {
        let path = dir.path().join(format!("d.vmdk.{number:09}"));
        std::fs::write(&path, bytes).unwrap();
        path
    });
    let open = |path: &std::path::PathBuf| -> Arc<dyn Storage> {
        Arc::new(vmdk::FileStorage::new(std::fs::File::open(path).unwrap()).unwrap())
    };
    let chunks: Arc<dyn Storage> = Arc::new(vmdk::JoinedStorage::new(paths.iter().map(open)).unwrap());
    let image = OpenOptions::new().open_with("d.vmdk", &|_: &str| Some(Arc::clone(&chunks))).unwrap();
    for create_type in [CreateType::StreamOptimized, CreateType::MonolithicSparse] {
        let options = CreateOptions::new().create_type(create_type).replace(true).sync(false);
        let error = options.create_from(&paths[1], &image, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert_eq!(std::fs::read(&paths[1]).unwrap(), second);
    }
}
