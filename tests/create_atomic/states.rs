//! Every state that a crash may leave while an image is made.

use vmdk::CreateType;

use super::judge::{Found, MADE};
use super::operation::{ALL, Operation, SPLIT, Scene, content};

/// Carries out an operation and looks at what crashes leave.
#[track_caller]
fn crash(scene: &Scene) -> usize {
    let disk = scene.disk();
    scene.run(&disk).unwrap();
    disk.mark(MADE);
    let seen = scene.judge(&disk);
    let found: &[Found] = match &scene.old {
        None => &[Found::Nothing, Found::New],
        Some(_) if scene.operation.made.is_single() => &[Found::Old, Found::New],
        Some(_) => &[Found::Nothing, Found::Old, Found::New],
    };
    seen.expect(found, scene.what());
    seen.states
}

/// An operation where there is nothing, and where there is an image of each type. There have to be so many states.
#[track_caller]
fn crash_everywhere(operations: impl Fn() -> Vec<Operation>, least: usize) {
    let mut states = Vec::new();
    for operation in operations() {
        states.push(crash(&Scene::new(operation)));
    }
    for old in &ALL {
        for operation in operations() {
            states.push(crash(&Scene::replacing(operation, old)));
        }
    }
    let sum: usize = states.iter().sum();
    println!("{sum} states: {states:?}");
    assert!(sum >= least, "only {sum} states");
}

fn empty(create_type: &CreateType, capacities: &[u64]) -> Vec<Operation> {
    capacities.iter().map(|&capacity| Operation::empty(create_type, capacity)).collect()
}

#[test]
fn a_sparse_disk_is_there_as_a_whole_or_not_at_all() {
    crash_everywhere(|| empty(&CreateType::MonolithicSparse, &[1, 20_480, 3 * 65_536 + 5, 1 << 21]), 1500);
}

#[test]
fn a_flat_disk_is_there_as_a_whole_or_not_at_all() {
    crash_everywhere(|| empty(&CreateType::MonolithicFlat, &[1, 77, 20_480, 10 << 21]), 400);
}

#[test]
fn a_split_sparse_disk_is_there_as_a_whole_or_not_at_all() {
    crash_everywhere(|| empty(&CreateType::TwoGbMaxExtentSparse, &[20_480, SPLIT + 1, 2 * SPLIT + 100]), 2500);
}

#[test]
fn a_split_flat_disk_is_there_as_a_whole_or_not_at_all() {
    crash_everywhere(|| empty(&CreateType::TwoGbMaxExtentFlat, &[5, SPLIT + 1, 2 * SPLIT + 100]), 1000);
}

#[test]
fn a_disk_of_vmfs_is_there_as_a_whole_or_not_at_all() {
    crash_everywhere(|| empty(&CreateType::Vmfs, &[1, 20_480, 10 << 21]), 400);
}

#[test]
fn a_delta_without_a_parent_is_there_as_a_whole_or_not_at_all() {
    crash_everywhere(|| empty(&CreateType::VmfsSparse, &[1, 4097, 20_480, 1 << 21]), 500);
}

#[test]
fn a_disk_with_options_of_its_own_is_there_as_a_whole_or_not_at_all() {
    let disks = || {
        let sparse = |create_type| Operation::empty(create_type, 9000).with(|options| options.grain_sectors(8));
        vec![
            sparse(&CreateType::MonolithicSparse).with(|options| options.zero_grains(true)),
            sparse(&CreateType::TwoGbMaxExtentSparse),
            sparse(&CreateType::VmfsSparse),
            Operation::empty(&CreateType::MonolithicFlat, 2000).with(|options| options.preallocate(true)),
            Operation::empty(&CreateType::Vmfs, 300).with(|options| options.preallocate(true)),
        ]
    };
    crash_everywhere(disks, 1000);
}

#[test]
fn a_disk_with_content_is_there_as_a_whole_or_not_at_all() {
    let disks = || {
        let filled = |create_type| Operation::filled(create_type, 200, content());
        let split = [CreateType::TwoGbMaxExtentSparse, CreateType::TwoGbMaxExtentFlat];
        let split = split.iter().map(|create_type| Operation::filled(create_type, SPLIT + 1, content()));
        ALL.iter().map(filled).chain(split).collect()
    };
    crash_everywhere(disks, 7000);
}

#[test]
fn a_child_is_there_as_a_whole_or_not_at_all() {
    let children = || {
        let types = [CreateType::MonolithicSparse, CreateType::TwoGbMaxExtentSparse, CreateType::VmfsSparse];
        types.iter().map(|create_type| Operation::child(create_type, content())).collect()
    };
    crash_everywhere(children, 700);
}

#[test]
fn a_stream_is_there_as_a_whole_or_not_at_all() {
    let streams = || {
        let mut streams = empty(&CreateType::StreamOptimized, &[1, 20_480, 3 * 65_536 + 5]);
        streams.push(Operation::filled(&CreateType::StreamOptimized, 200, content()));
        streams
            .push(Operation::filled(&CreateType::StreamOptimized, 200, content()).with(|options| options.threads(3)));
        streams
    };
    crash_everywhere(streams, 500);
}
