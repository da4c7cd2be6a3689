//! What is in the grains, and how they are compressed.

use std::io::Cursor;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use vmdk::{BlockDevice, ErrorKind, StreamWriter};

use super::support::model::MemoryDevice;
use super::support::rng::Rng;
use super::walk::Walk;
use super::{GRAIN, GRAIN_LEN, Islands, SECTOR, TABLE, filed, index, noise, options, piped, text};

const ODD: [u64; 12] = [1, 2, 127, 128, 129, 255, 256, 257, TABLE - 1, TABLE, TABLE + 1, 3 * TABLE + 1];

#[test]
fn disks_of_every_size_are_written_whole() {
    for capacity in ODD {
        let ends = [0, capacity / 2 / GRAIN * GRAIN, (capacity - 1) / GRAIN * GRAIN];
        let mut starts = ends.to_vec();
        starts.dedup();
        let grains: Vec<_> = starts.iter().map(|&start| (start, text(start, capacity))).collect();
        for walk in [Walk::piped(&piped(&options(capacity), &grains)), Walk::filed(&filed(&options(capacity), &grains))]
        {
            assert_eq!(walk.capacity, capacity);
            walk.expect(&grains);
        }
    }
}

#[test]
fn zeros_are_left_out_wherever_they_are_said() {
    let capacity = 5 * GRAIN;
    let grains = (0..5).map(|grain| (grain * GRAIN, if grain == 3 { noise(1) } else { vec![0; GRAIN_LEN] }));
    let grains: Vec<_> = grains.collect();
    Walk::piped(&piped(&options(capacity), &grains)).expect(&grains[3..4]);
    // One byte is enough.
    let mut one = vec![(0, vec![0; GRAIN_LEN])];
    one[0].1[GRAIN_LEN - 1] = 1;
    Walk::filed(&filed(&options(capacity), &one)).expect(&one);
}

/// Copies a device into both kinds of stream.
fn copied(source: &dyn BlockDevice, capacity: u64, threads: usize) -> [Vec<u8>; 2] {
    let options = options(capacity).threads(threads);
    let mut calls = Vec::new();
    let mut progress = |now: vmdk::CopyProgress| {
        calls.push((now.done, now.total));
        ControlFlow::Continue(())
    };
    let mut pipe = StreamWriter::new(Vec::new(), "disk.vmdk", &options).unwrap();
    pipe.write_all_from(source, &mut progress).unwrap();
    let mut file = StreamWriter::new_seekable(Cursor::new(Vec::new()), "disk.vmdk", &options).unwrap();
    file.write_all_from(source, &mut progress).unwrap();
    let total = source.capacity_sectors() * SECTOR as u64;
    assert!(calls.iter().all(|&(done, all)| done <= total && all == total));
    assert_eq!(calls.last(), Some(&(total, total)));
    [pipe.finish().unwrap(), file.finish().unwrap().into_inner()]
}

#[test]
fn a_device_is_copied_whole_and_its_holes_are_not_read() {
    for capacity in ODD {
        let last = (capacity - 1) / GRAIN * GRAIN;
        for islands in [vec![], vec![0], vec![last], vec![0, last], vec![last / 2 / GRAIN * GRAIN]] {
            let mut islands = islands;
            islands.dedup();
            let source = Islands::new(capacity, &islands);
            let [pipe, file] = copied(&source, capacity, 1);
            Walk::piped(&pipe).expect(&source.contents());
            Walk::filed(&file).expect(&source.contents());
        }
    }
}

#[test]
fn a_device_that_is_smaller_than_the_disk_is_followed_by_zeros() {
    for sectors in [1, 127, 128, 129, 200] {
        let content: Vec<u8> = Rng::new(sectors).bytes(index(sectors) * SECTOR);
        let source = MemoryDevice::new(content.clone());
        let grains: Vec<_> = (0..).step_by(128).zip(content.chunks(GRAIN_LEN).map(<[u8]>::to_vec)).collect();
        let [pipe, file] = copied(&source, 1000, 1);
        Walk::piped(&pipe).expect(&grains);
        Walk::filed(&file).expect(&grains);
    }
}

/// 2 TiB of which three grains are there.
#[test]
fn a_large_disk_that_is_empty_takes_little_time_and_space() {
    let capacity = 1 << 32;
    let source = Islands::new(capacity, &[0, 1 << 31, capacity - GRAIN]);
    let start = Instant::now();
    let mut stream = StreamWriter::new(Vec::new(), "disk.vmdk", &options(capacity)).unwrap();
    stream.write_all_from(&source, &mut |_| ControlFlow::Continue(())).unwrap();
    let stream = stream.finish().unwrap();
    let walk = Walk::piped(&stream);
    walk.expect(&source.contents());
    assert_eq!(walk.tables, 3);
    assert!(stream.len() < 1 << 20 && start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// Text, noise, zeros and what is between them, here and there.
fn mixture(capacity: u64) -> Vec<(u64, Vec<u8>)> {
    let mut rng = Rng::new(7);
    (0..capacity)
        .step_by(128)
        .filter(|start| start / GRAIN % 8 < 2 && start / GRAIN % 128 < 64)
        .map(|start| {
            let mut content = match rng.below(4) {
                0 => text(start, capacity),
                1 => noise(start),
                2 => vec![0; GRAIN_LEN],
                _ => [&text(start, capacity)[..], &noise(start)].concat()[20_000..].to_vec(),
            };
            content.resize(index((capacity - start).min(GRAIN)) * SECTOR, 5);
            (start, content)
        })
        .collect()
}

/// Identities and content IDs are random.
fn without_descriptor(stream: &[u8]) -> [&[u8]; 2] {
    [&stream[..512], &stream[21 * 512..]]
}

#[test]
fn the_output_does_not_depend_on_the_number_of_threads() {
    let capacity = 2 * TABLE + 77;
    let grains = mixture(capacity);
    let with = |threads| options(capacity).threads(threads);
    let (pipe, file) = (piped(&with(0), &grains), filed(&with(0), &grains));
    for threads in [1, 2, 3, 8] {
        let (other_pipe, other_file) = (piped(&with(threads), &grains), filed(&with(threads), &grains));
        assert!(without_descriptor(&pipe) == without_descriptor(&other_pipe), "{threads}");
        assert!(without_descriptor(&file) == without_descriptor(&other_file), "{threads}");
    }
    let is_there = |(_, content): &(u64, Vec<u8>)| content.iter().any(|&byte| byte != 0);
    let there: Vec<_> = grains.into_iter().filter(is_there).collect();
    Walk::piped(&pipe).expect(&there);
    Walk::filed(&file).expect(&there);
}

#[test]
fn a_copy_does_not_depend_on_the_number_of_threads() {
    let disk = MemoryDevice::new(mixture(70 * GRAIN + 3).into_iter().flat_map(|(_, content)| content).collect());
    let capacity = disk.capacity_sectors();
    let alone = copied(&disk, capacity, 1);
    for threads in [2, 3, 8] {
        for (one, other) in alone.iter().zip(&copied(&disk, capacity, threads)) {
            assert!(without_descriptor(one) == without_descriptor(other), "{threads}");
        }
    }
}

#[test]
fn every_level_is_read_back_and_more_effort_makes_it_smaller() {
    let grains: Vec<_> = (0..8).map(|grain| (grain * GRAIN, text(grain * GRAIN, 8 * GRAIN))).collect();
    let sizes = (1..=9).map(|level| {
        let walk = Walk::piped(&piped(&options(8 * GRAIN).compression_level(level), &grains));
        walk.expect(&grains);
        walk.grains.values().map(|grain| grain.size).sum::<usize>()
    });
    let sizes: Vec<_> = sizes.collect();
    assert!(sizes[8] < sizes[0], "{sizes:?}");
    let unset = Walk::piped(&piped(&options(8 * GRAIN), &grains));
    let unset: usize = unset.grains.values().map(|grain| grain.size).sum();
    assert!(unset != sizes[0] && sizes[1..].contains(&unset), "level 1 is never chosen: {unset} of {sizes:?}");
}

#[test]
fn a_level_that_there_is_not_is_refused() {
    for level in [0, 10, u32::MAX] {
        let error = StreamWriter::new(Vec::new(), "disk.vmdk", &options(1).compression_level(level)).unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains("level")), (ErrorKind::InvalidInput, true));
    }
}

/// A zlib header, two blocks of up to 65535 bytes with five bytes in front, and a checksum.
#[test]
fn noise_is_stored() {
    let walk = Walk::piped(&piped(&options(GRAIN).compression_level(9), &[(0, noise(3))]));
    walk.expect(&[(0, noise(3))]);
    assert_eq!((walk.grains[&0].size, walk.grains[&0].zlib_header), (65_552, [0x78, 0x01]));
}

/// A byte histogram would take it for noise.
#[test]
fn noise_that_repeats_is_compressed() {
    for (block, most) in [(4096, 6000), (8192, 10_000), (32_000, 40_000)] {
        let grain: Vec<u8> = Rng::new(9).bytes(block).into_iter().cycle().take(GRAIN_LEN).collect();
        let walk = Walk::piped(&piped(&options(GRAIN), &[(0, grain.clone())]));
        walk.expect(&[(0, grain)]);
        assert!(walk.grains[&0].size < most, "{block}: {}", walk.grains[&0].size);
    }
}
