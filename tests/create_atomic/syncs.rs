//! Without any one of its syncs, and in another order, a creation breaks the promise, and the judge notices.

use vmdk::CreateType;

use super::judge::{Broken, Found, MADE};
use super::operation::{ALL, NAME, Operation, SPLIT, Scene, content};
use super::support::crash::{CrashDisk, DIRECTORY, NameChange};

/// An operation that was carried out.
struct Run {
    scene: Scene,
    disk: CrashDisk,
}

impl Run {
    fn new(scene: Scene) -> Self {
        let disk = scene.disk();
        scene.run(&disk).unwrap();
        disk.mark(MADE);
        Self { scene, disk }
    }

    /// The syncs: the names of the files, in their order.
    fn syncs(&self) -> Vec<String> {
        self.disk.syncs().into_iter().map(|(_, sync)| sync.file).collect()
    }

    /// The numbers of the syncs of the directory.
    fn directory_syncs(&self) -> Vec<usize> {
        let syncs = self.disk.syncs().into_iter();
        syncs.filter(|(_, sync)| sync.file == DIRECTORY).map(|(_, sync)| sync.number).collect()
    }

    /// Where the log says that a file has got its name.
    #[track_caller]
    fn naming_of(&self, name: &str) -> usize {
        let names = |what: &NameChange| matches!(what, NameChange::Rename(_, becomes) if becomes == name);
        self.disk.name_changes().into_iter().find(|(_, what)| names(what)).expect("every file gets its name").0
    }

    /// Fails the test unless this is broken in some state.
    #[track_caller]
    fn breaks_without(&self, sync: usize, expected: Broken) {
        self.disk.ignore_sync(sync);
        self.breaks(&self.disk, expected, &format!("without sync {sync} of {:?}", self.syncs()));
        self.disk.ignore_no_sync();
    }

    #[track_caller]
    fn breaks(&self, disk: &CrashDisk, expected: Broken, how: &str) {
        let seen = self.scene.judge_until(disk, |seen| seen.broken.contains(&expected));
        let (what, states) = (self.scene.what(), seen.states);
        assert!(
            seen.broken.contains(&expected),
            "{what} {how}: not {expected:?} but {:?} in {states} states",
            seen.broken
        );
    }

    /// What comes of a descriptor without extents. In place of another image it finds those of that one: flat ones fit
    /// every descriptor, sparse ones know their size.
    fn without_extents(&self) -> Broken {
        if self.scene.old.is_some() && self.scene.operation.made.extents[0].is_flat {
            Broken::Neither
        } else {
            Broken::Unreadable
        }
    }
}

/// An empty disk of a type; those that are split have two extents.
fn empty(create_type: &CreateType) -> Operation {
    let capacity = match create_type {
        CreateType::TwoGbMaxExtentSparse | CreateType::TwoGbMaxExtentFlat => SPLIT + 1,
        _ => 20_480,
    };
    Operation::empty(create_type, capacity)
}

/// Disks of every type with more than one file, where there was nothing.
fn new_in_several_files() -> impl Iterator<Item = Run> {
    ALL.iter()
        .map(empty)
        .filter(|operation| !operation.made.is_single())
        .map(|operation| Run::new(Scene::new(operation)))
}

/// The same in place of one of their own type.
fn replaced_in_several_files() -> impl Iterator<Item = Run> {
    let several = ALL.iter().map(empty).filter(|operation| !operation.made.is_single());
    several.map(|operation| {
        let create_type = operation.made.create_type.clone();
        Run::new(Scene::replacing(operation, &create_type))
    })
}

#[test]
fn each_file_is_synced_once_and_the_directory_after_each_step() {
    for create_type in &ALL {
        let new = Run::new(Scene::new(empty(create_type)));
        let replaced = Run::new(Scene::replacing(empty(create_type), &CreateType::MonolithicSparse));
        let mut expected: Vec<&str> = new.scene.operation.names();
        expected.extend(if new.scene.operation.made.is_single() { vec![DIRECTORY] } else { vec![DIRECTORY; 2] });
        assert_eq!(new.syncs(), expected, "{create_type}");
        if !new.scene.operation.made.is_single() {
            expected.push(DIRECTORY);
        }
        assert_eq!(replaced.syncs(), expected, "{create_type}");
    }
}

#[test]
fn an_image_that_need_not_be_durable_is_made_without_any_sync() {
    for create_type in &ALL {
        let scene = Scene::replacing(empty(create_type).with(|options| options.sync(false)), create_type);
        let disk = scene.disk();
        scene.run(&disk).unwrap();
        assert_eq!((disk.syncs(), scene.find(&disk, true)), (Vec::new(), Ok(Found::New)), "{create_type}");
    }
}

#[test]
fn extents_have_to_be_durable_before_the_descriptor_gets_its_name() {
    for run in new_in_several_files().chain(replaced_in_several_files()) {
        for (number, extent) in run.scene.operation.made.extents.iter().enumerate() {
            assert_eq!(run.syncs()[number], extent.name);
            // What is too short of a flat file reads as zeros, here.
            run.breaks_without(number, if extent.is_flat { Broken::Extent } else { Broken::Unreadable });
        }
    }
}

#[test]
fn content_has_to_be_durable_before_the_image_gets_its_name() {
    for create_type in &ALL {
        let run = Run::new(Scene::new(Operation::filled(create_type, 200, content())));
        let extent = &run.scene.operation.made.extents[0];
        assert_eq!(run.syncs()[0], extent.name);
        run.breaks_without(0, Broken::Neither);
    }
}

#[test]
fn a_descriptor_has_to_be_durable_before_it_gets_its_name() {
    for run in new_in_several_files().chain(replaced_in_several_files()) {
        let number = run.scene.operation.made.extents.len();
        assert_eq!(run.syncs()[number], NAME);
        run.breaks_without(number, Broken::Unreadable);
    }
}

#[test]
fn a_single_file_has_to_be_durable_before_it_gets_its_name() {
    let operation = || empty(&CreateType::MonolithicSparse);
    Run::new(Scene::new(operation())).breaks_without(0, Broken::Unreadable);
    for old in &ALL {
        Run::new(Scene::replacing(operation(), old)).breaks_without(0, Broken::Unreadable);
    }
}

#[test]
fn the_names_of_extents_have_to_be_durable_before_the_descriptor_gets_its_name() {
    for run in new_in_several_files().chain(replaced_in_several_files()) {
        let [.., extents, _] = run.directory_syncs()[..] else { panic!("{:?}", run.syncs()) };
        run.breaks_without(extents, run.without_extents());
    }
}

#[test]
fn the_removal_of_the_old_descriptor_has_to_be_durable_before_extents_get_their_names() {
    for run in replaced_in_several_files() {
        let [removal, _, _] = run.directory_syncs()[..] else { panic!("{:?}", run.syncs()) };
        run.breaks_without(removal, Broken::Neither);
    }
}

#[test]
fn the_name_of_an_image_has_to_be_durable_when_the_call_returns() {
    for create_type in &ALL {
        let run = Run::new(Scene::new(empty(create_type)));
        run.breaks_without(*run.directory_syncs().last().unwrap(), Broken::Wrong(Found::Nothing));
    }
    let run = Run::new(Scene::replacing(empty(&CreateType::MonolithicSparse), &CreateType::MonolithicSparse));
    run.breaks_without(run.directory_syncs()[0], Broken::Wrong(Found::Old));
}

#[test]
fn the_descriptor_has_to_get_its_name_last() {
    for run in new_in_several_files().chain(replaced_in_several_files()) {
        let first = &run.scene.operation.made.extents[0].name;
        let early = run.disk.with_entry_earlier(run.naming_of(NAME), run.naming_of(first));
        run.breaks(&early, run.without_extents(), "with an early descriptor");
    }
}

#[test]
fn the_old_descriptor_has_to_be_removed_first() {
    for run in replaced_in_several_files() {
        let removes = |what: &NameChange| *what == NameChange::Remove(NAME.to_owned());
        let removal = run.disk.name_changes().into_iter().find(|(_, what)| removes(what)).unwrap().0;
        let first = &run.scene.operation.made.extents[0].name;
        let early = run.disk.with_entry_earlier(run.naming_of(first), removal);
        run.breaks(&early, Broken::Neither, "with an early extent");
    }
}

#[test]
fn a_file_has_to_be_complete_before_it_is_synced() {
    for create_type in &ALL {
        let run = Run::new(Scene::new(empty(create_type)));
        let last = run.scene.operation.names().len() - 1;
        let (synced, _) = run.disk.syncs()[last];
        let (written, ..) = run.disk.changes().into_iter().rfind(|(position, ..)| *position < synced).unwrap();
        let early = run.disk.with_entry_earlier(synced, written);
        let embedded = run.scene.operation.made.is_single();
        run.breaks(&early, if embedded { Broken::Extent } else { Broken::Unreadable }, "with an early sync");
    }
}
