//! What is not done is refused by name, and nothing has changed then.

use std::ops::ControlFlow;

use vmdk::{CreateOptions, ErrorKind, OpenOptions, RebaseMode};

use super::judge::{open, read};
use super::scene::{Operation, Scene};
use super::support::SECTOR;
use super::support::cowd::CowdImage;
use super::support::crash::CrashDisk;
use super::support::descriptor::DescriptorText;
use super::support::disk::{Image, Part, custom};
use super::support::rng::Rng;
use super::support::sparse::SparseImage;

/// What is done to a chain, other than by a scene.
type Call<'a> = &'a dyn Fn(&CrashDisk) -> vmdk::Result<()>;

/// Fails the test unless a call is refused in this way, with these words, and without any change.
#[track_caller]
fn is_refused(links: &[&Image], call: Call<'_>, kind: ErrorKind, words: &str) {
    let scene = Scene::new("refused", links.iter().copied().cloned().collect(), Operation::Flatten);
    let disk = scene.disk();
    let error = call(&disk).expect_err(words);
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert_eq!((disk.changes(), disk.name_changes()), (Vec::new(), Vec::new()), "{error}");
}

fn commit(name: &'static str, base: usize) -> impl Fn(&CrashDisk) -> vmdk::Result<()> {
    move |disk| OpenOptions::new().commit_in(name, disk, base, &mut |_| ControlFlow::Continue(())).map(drop)
}

fn flatten(name: &'static str) -> impl Fn(&CrashDisk) -> vmdk::Result<()> {
    move |disk| OpenOptions::new().flatten_in(name, disk, &mut |_| ControlFlow::Continue(())).map(drop)
}

fn rebase(
    name: &'static str,
    parent: Option<&'static str>,
    mode: RebaseMode,
) -> impl Fn(&CrashDisk) -> vmdk::Result<()> {
    move |disk| {
        let mut go_on = |_| ControlFlow::Continue(());
        OpenOptions::new().rebase_in(name, disk, parent, mode, &mut go_on).map(drop)
    }
}

fn extent() -> SparseImage {
    SparseImage::new(64).grain_sectors(8).random(&mut Rng::new(1))
}

fn base() -> Image {
    Image::monolithic_flat("base.vmdk", Rng::new(2).bytes(64 * SECTOR))
}

fn child() -> Image {
    Image::child(&base(), "disk.vmdk", extent())
}

#[test]
fn a_child_that_is_larger_than_its_parent_is_not_merged_before_that_has_grown() {
    let larger = Image::child(&base(), "disk.vmdk", SparseImage::new(72).grain_sectors(8));
    is_refused(&[&base(), &larger], &commit("disk.vmdk", 1), ErrorKind::InvalidInput, "resize");
    let leaf = Image::child(&larger, "leaf.vmdk", extent());
    is_refused(&[&base(), &larger, &leaf], &commit("leaf.vmdk", 2), ErrorKind::InvalidInput, "resize");
}

#[test]
fn a_link_that_the_chain_does_not_have_is_none_to_merge_into() {
    for (depth, words) in [(0, "itself"), (2, "no link 2"), (usize::MAX, "no link")] {
        is_refused(&[&base(), &child()], &commit("disk.vmdk", depth), ErrorKind::InvalidInput, words);
    }
    is_refused(&[&base()], &commit("base.vmdk", 1), ErrorKind::InvalidInput, "no parent");
}

#[test]
fn options_that_speak_against_writing_are_refused() {
    let options = [
        OpenOptions::new().force_share(true),
        OpenOptions::new().salvage(true),
        OpenOptions::new().use_redundant_tables(true),
        OpenOptions::new().ignore_newline_check(true),
    ];
    for options in options {
        let go_on = &mut |_| ControlFlow::Continue(());
        let disk = Scene::new("", vec![base(), child()], Operation::Flatten).disk();
        let done = [
            options.commit_in("disk.vmdk", &disk, 1, go_on).map(drop),
            options.flatten_in("disk.vmdk", &disk, go_on).map(drop),
            options.rebase_in("disk.vmdk", &disk, Some("base.vmdk"), RebaseMode::Unsafe, go_on).map(drop),
            options.rebase_in("disk.vmdk", &disk, None, RebaseMode::FixContentId, go_on).map(drop),
        ];
        for done in done {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert!(disk.changes().is_empty());
    }
}

#[test]
fn where_the_parent_takes_no_writes_nothing_else_is_merged() {
    let rng = &mut Rng::new(3);
    let base = custom("base.vmdk", |count| rng.bytes(count * SECTOR));
    let capacity = base.layer.capacity();
    let mut content = base.content.clone();
    // One sector in the extent that is read-only.
    content[(197 + 63 + 33 + 40) * SECTOR + 7] ^= 1;
    let all = (0..capacity.div_ceil(8)).fold(SparseImage::new(capacity).grain_sectors(8), |extent, grain| {
        let start = usize::try_from(grain * 8).unwrap() * SECTOR;
        extent.data(grain, &content[start..(start + 8 * SECTOR).min(content.len())])
    });
    let child = Image::child(&base, "disk.vmdk", all);
    is_refused(&[&base, &child], &commit("disk.vmdk", 1), ErrorKind::ReadOnly, "takes no writes (RDONLY FLAT)");
}

/// A link between that is larger than the image has something that nobody sees through that, and it would be lost.
#[test]
fn what_a_link_between_has_behind_the_end_of_the_image_is_not_merged_where_the_base_takes_no_writes() {
    let parts = || {
        let content = vec![3; 64 * SECTOR];
        let last = Part::flat_in("RDONLY", "base-f002.vmdk", 0, &content);
        vec![Part::sparse("base-s001.vmdk", &extent()), last.with_file("base-f002.vmdk", content)]
    };
    let base = Image::link_of_parts("base.vmdk", "custom", parts(), None);
    let of_middle = |byte| SparseImage::new(128).grain_sectors(8).data(10, vec![byte; 8 * SECTOR]);
    let middle = Image::child(&base, "middle.vmdk", of_middle(4));
    let leaf = Image::child(&middle, "disk.vmdk", extent());
    is_refused(&[&base, &middle, &leaf], &commit("disk.vmdk", 2), ErrorKind::ReadOnly, "at sector 80");
    // What is there already is no loss.
    let middle = Image::child(&base, "middle.vmdk", of_middle(3));
    let scene = Scene::new("the same", vec![base, middle, leaf], Operation::Commit(2));
    let disk = scene.disk();
    scene.run(&disk).unwrap();
    assert_eq!(scene.is_ended(&disk), Ok(()));
}

#[test]
fn a_child_that_cannot_be_emptied_is_not_merged() {
    let base = base();
    let parts = vec![
        Part::sparse("disk-s001.vmdk", &SparseImage::new(32).grain_sectors(8)),
        Part::flat("disk-f002.vmdk", vec![3; 32 * SECTOR]),
    ];
    let child = Image::link_of_parts("disk.vmdk", "custom", parts, Some(&base));
    is_refused(&[&base, &child], &commit("disk.vmdk", 1), ErrorKind::Unsupported, "cannot be emptied");
}

#[test]
fn a_child_of_a_changed_parent_is_not_merged_whatever_is_ignored() {
    let (base, mut child) = (base(), child());
    let text = String::from_utf8_lossy(&child.files[0].1[512..1536]).into_owned();
    let at = 512 + text.find("parentCID=").unwrap() + "parentCID=".len();
    child.files[0].1[at..at + 8].copy_from_slice(b"12345678");
    is_refused(&[&base, &child], &commit("disk.vmdk", 1), ErrorKind::ContentIdMismatch, "its CID is");
    let call = |disk: &CrashDisk| {
        let options = OpenOptions::new().ignore_cid_mismatch(true);
        options.commit_in("disk.vmdk", disk, 1, &mut |_| ControlFlow::Continue(())).map(drop)
    };
    is_refused(&[&base, &child], &call, ErrorKind::ContentIdMismatch, "fix-cid");
    // What the wrong parent has would become the child's own.
    for parent in [None, Some("base.vmdk")] {
        let call = |disk: &CrashDisk| {
            let options = OpenOptions::new().ignore_cid_mismatch(true);
            let go_on = &mut |_| ControlFlow::Continue(());
            options.rebase_in("disk.vmdk", disk, parent, RebaseMode::Safe, go_on).map(drop)
        };
        is_refused(&[&base, &child], &call, ErrorKind::ContentIdMismatch, "the wrong one");
    }
    for call in [&flatten("disk.vmdk") as Call<'_>, &rebase("disk.vmdk", Some("base.vmdk"), RebaseMode::Safe)] {
        is_refused(&[&base, &child], call, ErrorKind::ContentIdMismatch, "its CID is");
    }
}

#[test]
fn what_has_no_descriptor_has_no_room_for_a_line() {
    let base = Image::hosted_cowd("base.vmdk", &[CowdImage::vmware3(128 * 4).generation(5)], None);
    let extent = CowdImage::vmware3(128 * 4).parent("base.vmdk", 5).random(&mut Rng::new(1));
    let child = Image::hosted_cowd("disk.vmdk", &[extent], Some(&base));
    is_refused(&[&base, &child], &commit("disk.vmdk", 1), ErrorKind::Unsupported, "without a descriptor");
    let names_its_own = "names a parent of its own";
    is_refused(&[&base, &child], &flatten("disk.vmdk"), ErrorKind::Unsupported, names_its_own);
    for mode in [RebaseMode::Safe, RebaseMode::Unsafe] {
        is_refused(
            &[&base, &child],
            &rebase("disk.vmdk", Some("base.vmdk"), mode),
            ErrorKind::Unsupported,
            names_its_own,
        );
    }
}

#[test]
fn a_descriptor_without_room_is_left_as_it_is() {
    let base = base();
    // The text fills more than half of its room.
    let full = Image::embedded("disk.vmdk", extent(), Some(&base), |text| text.ddb("comment", "x".repeat(5000)));
    is_refused(&[&base, &full], &commit("disk.vmdk", 1), ErrorKind::Unsupported, "no room for another descriptor");
    is_refused(&[&base, &full], &flatten("disk.vmdk"), ErrorKind::Unsupported, "no room for another descriptor");
    let parent = Image::embedded("base.vmdk", extent(), None, |text| {
        text.ddb("comment", "x".repeat(9000)).ddb("longContentID", "0123456789abcdef0123456789abcdef")
    });
    let child = Image::child(&parent, "disk.vmdk", extent());
    is_refused(&[&parent, &child], &commit("disk.vmdk", 1), ErrorKind::Unsupported, "no room for another descriptor");
}

#[test]
fn tables_that_have_to_be_repaired_are_left_to_that() {
    let broken = |image: Image| {
        let (mut image, layout) = (image, extent().descriptor("").layout());
        let (grain, _) = layout.grains.iter().next().unwrap();
        for entry in [layout.entry(*grain), layout.redundant_entry(*grain)] {
            let entry = usize::try_from(entry).unwrap();
            image.files[0].1[entry..entry + 4].copy_from_slice(&0x00ff_ffff_u32.to_le_bytes());
        }
        image
    };
    let base = Image::monolithic_sparse("base.vmdk", extent());
    let child = Image::child(&base, "disk.vmdk", extent());
    is_refused(&[&broken(base.clone()), &child], &commit("disk.vmdk", 1), ErrorKind::Corrupt, "repair");
    let broken = broken(child);
    for call in [&commit("disk.vmdk", 1) as Call<'_>, &flatten("disk.vmdk")] {
        is_refused(&[&base, &broken], call, ErrorKind::Corrupt, "repair");
    }
}

#[test]
fn a_delta_of_esx_does_not_become_a_disk_of_its_own() {
    let base = Image::vmfs("base.vmdk", vec![1; 64 * SECTOR]);
    let delta = Image::esx_delta(&base, "disk.vmdk", &CowdImage::esx(64));
    is_refused(&[&base, &delta], &flatten("disk.vmdk"), ErrorKind::Unsupported, "convert");
}

#[test]
fn a_disk_is_not_put_over_itself_nor_over_its_own_child() {
    let (base, child) = (base(), child());
    let grandchild = Image::child(&child, "leaf.vmdk", extent());
    for parent in ["disk.vmdk", "leaf.vmdk"] {
        for mode in [RebaseMode::Safe, RebaseMode::Unsafe] {
            let call = rebase("disk.vmdk", Some(parent), mode);
            is_refused(&[&base, &child, &grandchild], &call, ErrorKind::BadChain, "leads back");
        }
    }
}

#[test]
fn a_mode_that_needs_a_parent_or_has_its_own_says_so() {
    let (base, child) = (base(), child());
    let calls: [(Option<&'static str>, RebaseMode, &str); 2] = [
        (None, RebaseMode::Unsafe, "flatten"),
        (Some("base.vmdk"), RebaseMode::FixContentId, "the parent which the image has"),
    ];
    for (parent, mode, words) in calls {
        is_refused(&[&base, &child], &rebase("disk.vmdk", parent, mode), ErrorKind::InvalidInput, words);
    }
    is_refused(&[&base], &rebase("base.vmdk", None, RebaseMode::FixContentId), ErrorKind::InvalidInput, "no parent");
}

#[test]
fn only_sparse_disks_get_a_parent() {
    let other = Image::monolithic_sparse("other.vmdk", extent());
    for mode in [RebaseMode::Safe, RebaseMode::Unsafe] {
        let call = rebase("base.vmdk", Some("other.vmdk"), mode);
        is_refused(&[&base(), &other], &call, ErrorKind::InvalidInput, "flat extent");
    }
}

#[test]
fn a_parent_that_is_not_there_or_not_known_by_anything_is_none() {
    let (base, child) = (base(), child());
    let call = rebase("disk.vmdk", Some("nowhere.vmdk"), RebaseMode::Unsafe);
    is_refused(&[&base, &child], &call, ErrorKind::NotFound, "nowhere.vmdk");
    let text = DescriptorText::new("monolithicFlat", 0xffff_ffff).extent("RW 64 FLAT \"base-flat.vmdk\" 0").to_string();
    let nameless = Image {
        name: "other.vmdk".to_owned(),
        files: vec![("other.vmdk".to_owned(), text.into_bytes())],
        ..base.clone()
    };
    for mode in [RebaseMode::Safe, RebaseMode::Unsafe] {
        let call = rebase("disk.vmdk", Some("other.vmdk"), mode);
        is_refused(&[&base, &child, &nameless], &call, ErrorKind::InvalidInput, "no content ID");
    }
}

#[test]
fn an_image_that_is_being_committed_is_nothing_else_meanwhile() {
    let scene = Scene::new("stopped", vec![base(), child()], Operation::Commit(1));
    let disk = scene.disk();
    let mut step = 0;
    let stopped = scene.run_with(&disk, &mut |_| {
        step += 1;
        if step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
    let changes = disk.changes().len();
    let calls: [Call<'_>; 3] = [
        &flatten("disk.vmdk"),
        &rebase("disk.vmdk", Some("base.vmdk"), RebaseMode::Safe),
        &rebase("disk.vmdk", Some("base.vmdk"), RebaseMode::Unsafe),
    ];
    for call in calls {
        let error = call(&disk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("has to be ended first"), "{error}");
    }
    // The link is not broken: there is nothing to fix.
    rebase("disk.vmdk", None, RebaseMode::FixContentId)(&disk).unwrap();
    assert_eq!(disk.changes().len(), changes);
    assert_eq!(scene.ends_it(&disk), Ok(()));
}

/// The parent is changed once more when a commit goes on, and gets another content ID for that.
#[test]
fn what_was_made_of_a_parent_in_the_middle_of_a_commit_is_refused_when_that_has_gone_on() {
    let delta = SparseImage::new(64).grain_sectors(8).data(1, vec![1; 8 * SECTOR]).data(5, vec![5; 8 * SECTOR]);
    let child = Image::child(&base(), "disk.vmdk", delta);
    let scene = Scene::new("stopped", vec![base(), child], Operation::Commit(1));
    let disk = scene.disk();
    let mut step = 0;
    let stopped = scene.run_with(&disk, &mut |_| {
        step += 1;
        if step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
    let between = open(&disk, "base.vmdk").unwrap();
    between.create_child_in("between.vmdk", &disk, &CreateOptions::new()).unwrap();
    drop(between);
    drop(open(&disk, "between.vmdk").unwrap());
    let report = OpenOptions::new().commit_in("disk.vmdk", &disk, 1, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.resumed && report.merged_links == 1);
    assert_eq!(scene.is_ended(&disk), Ok(()));
    assert_eq!(open(&disk, "between.vmdk").unwrap_err().kind(), ErrorKind::ContentIdMismatch);
}

/// All that a commit has to do may be to take its line out. The parent stays what it is then.
#[test]
fn a_commit_that_has_emptied_the_child_already_gives_the_parent_no_other_content_id() {
    for claims_old in [false, true] {
        let base = base();
        let empty = || vec![Part::sparse("disk-s001.vmdk", &SparseImage::new(64).grain_sectors(8))];
        let mut child = Image::link_of_parts("disk.vmdk", "twoGbMaxExtentSparse", empty(), Some(&base));
        let line = format!("# vmdk commit: parent CID 00000007 -> {:08x}\n", base.cid);
        let mut text = String::from_utf8(child.files[0].1.clone()).unwrap();
        if claims_old {
            text = text.replace(&format!("parentCID={:08x}", base.cid), "parentCID=00000007");
        }
        child.files[0].1 = [text, line].concat().into_bytes();
        let scene = Scene::new("emptied", vec![base.clone(), child], Operation::Commit(1));
        let disk = scene.disk();
        let report = OpenOptions::new().commit_in("disk.vmdk", &disk, 1, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((report.resumed, report.merged_links, report.content_id), (true, 0, None));
        assert_eq!(scene.is_ended(&disk), Ok(()));
        assert_eq!(disk.live("base.vmdk"), base.files[0].1);
    }
}

/// The parent could not get its new content ID, or has got nothing else: then it is what it was.
#[test]
fn a_commit_that_has_changed_nothing_yet_is_in_nobodys_way() {
    for is_announced in [false, true] {
        let mut base = base();
        let line = format!("# vmdk commit: parent CID {:08x} -> 00c0ffee\n", base.cid);
        let parts = vec![Part::sparse("disk-s001.vmdk", &extent())];
        let mut child = Image::link_of_parts("disk.vmdk", "twoGbMaxExtentSparse", parts, Some(&base));
        child.files[0].1.extend_from_slice(line.as_bytes());
        if is_announced {
            let text = String::from_utf8(base.files[0].1.clone()).unwrap();
            base.files[0].1 = text.replace(&format!("{:08x}", base.cid), "00c0ffee").into_bytes();
        }
        let calls: [Call<'_>; 4] = [
            &commit("disk.vmdk", 1),
            &flatten("disk.vmdk"),
            &rebase("disk.vmdk", Some("base.vmdk"), RebaseMode::Safe),
            &rebase("disk.vmdk", Some("base.vmdk"), RebaseMode::Unsafe),
        ];
        for call in calls {
            let disk = Scene::new("", vec![base.clone(), child.clone()], Operation::Flatten).disk();
            call(&disk).unwrap();
            assert!(read(&open(&disk, "disk.vmdk").unwrap()).unwrap() == child.content);
            assert!(!String::from_utf8(disk.live("disk.vmdk")).unwrap().contains("# vmdk commit"));
        }
    }
}

/// A line in a descriptor that nobody has begun anything by, or that speaks of something else.
#[test]
fn a_line_that_is_not_true_lets_nobody_in() {
    let base = base();
    for (from, to, opens) in [
        (base.cid, base.cid, true),
        (base.cid, 7, true),
        (7, base.cid, false),
        (7, 8, false),
        (0xffff_ffff, base.cid, false),
    ] {
        for claimed in [base.cid, 9] {
            let mut child = Image::link_of_parts(
                "disk.vmdk",
                "twoGbMaxExtentSparse",
                vec![Part::sparse("disk-s001.vmdk", &extent())],
                Some(&base),
            );
            let mut text = String::from_utf8(child.files[0].1.clone()).unwrap();
            text = text.replace(&format!("parentCID={:08x}", base.cid), &format!("parentCID={claimed:08x}"));
            let line = format!("# vmdk commit: parent CID {from:08x} -> {to:08x}\n");
            child.files[0].1 = [text, line].concat().into_bytes();
            let disk = Scene::new("", vec![base.clone(), child], Operation::Flatten).disk();
            let opened = open(&disk, "disk.vmdk");
            assert_eq!(
                opened.is_ok(),
                claimed == base.cid || (opens && claimed == from && to == base.cid),
                "{from:x} {to:x} {claimed:x}"
            );
            // What does not open is put right on demand, and nothing else.
            let broken = opened.is_err();
            drop(opened);
            let go_on = &mut |_| ControlFlow::Continue(());
            let done = OpenOptions::new().rebase_in("disk.vmdk", &disk, None, RebaseMode::FixContentId, go_on).unwrap();
            assert_eq!(done.changed, broken, "{from:x} {to:x} {claimed:x}");
            open(&disk, "disk.vmdk").unwrap();
        }
    }
}

#[test]
fn a_commit_whose_line_is_from_another_day_begins_anew() {
    let base = base();
    let mut child = Image::link_of_parts(
        "disk.vmdk",
        "twoGbMaxExtentSparse",
        vec![Part::sparse("disk-s001.vmdk", &extent())],
        Some(&base),
    );
    child.files[0].1.extend_from_slice(b"# vmdk commit: parent CID 00000001 -> 00000002\n");
    let scene = Scene::new("an old line", vec![base, child], Operation::Commit(1));
    let disk = scene.disk();
    let report = OpenOptions::new().commit_in("disk.vmdk", &disk, 1, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(!report.resumed && report.merged_links == 1);
    assert_eq!(scene.is_ended(&disk), Ok(()));
}

#[test]
fn what_the_caller_vouches_for_changes_the_link_and_nothing_else() {
    let (base, child) = (base(), child());
    // The parent was written to, and nobody can say what that means.
    let mut changed = base.clone();
    let text = String::from_utf8(changed.files[0].1.clone()).unwrap();
    changed.files[0].1 = text.replace(&format!("{:08x}", base.cid), "00c0ffee").into_bytes();
    let scene = Scene::new("changed", vec![changed, child.clone()], Operation::Flatten);
    let disk = scene.disk();
    assert_eq!(open(&disk, "disk.vmdk").unwrap_err().kind(), ErrorKind::ContentIdMismatch);
    let go_on = &mut |_| ControlFlow::Continue(());
    let done = OpenOptions::new().rebase_in("disk.vmdk", &disk, None, RebaseMode::FixContentId, go_on).unwrap();
    assert!(done.changed && done.unverified);
    assert_eq!(done.parent_content_id.unwrap().value(), 0x00c0_ffee);
    assert_eq!(done.old_parent_content_id.unwrap().value(), base.cid);
    assert!(read(&open(&disk, "disk.vmdk").unwrap()).unwrap() == child.content);
    let again = OpenOptions::new().rebase_in("disk.vmdk", &disk, None, RebaseMode::FixContentId, go_on).unwrap();
    assert!(!again.changed && !again.unverified);

    // The parent was moved, and the child finds it no more.
    let mut moved = base.clone();
    moved.files[0].0 = "moved.vmdk".to_owned();
    let disk = Scene::new("moved", vec![moved, child.clone()], Operation::Flatten).disk();
    assert_eq!(open(&disk, "disk.vmdk").unwrap_err().kind(), ErrorKind::ParentMissing);
    let done = OpenOptions::new().rebase_in("disk.vmdk", &disk, Some("moved.vmdk"), RebaseMode::Unsafe, go_on).unwrap();
    assert!(done.changed && done.unverified && done.copied_bytes == 0);
    assert!(read(&open(&disk, "disk.vmdk").unwrap()).unwrap() == child.content);
}

#[test]
fn a_parent_whose_own_link_is_broken_may_be_linked_to_all_the_same() {
    let (base, middle) = (base(), Image::child(&base(), "middle.vmdk", extent()));
    let leaf = Image::child(&middle, "disk.vmdk", extent());
    let mut lost = base.clone();
    lost.files[0].0 = "elsewhere.vmdk".to_owned();
    let disk = Scene::new("broken", vec![lost, middle, leaf.clone()], Operation::Flatten).disk();
    let go_on = &mut |_| ControlFlow::Continue(());
    for (child, parent) in [("disk.vmdk", "middle.vmdk"), ("middle.vmdk", "elsewhere.vmdk")] {
        OpenOptions::new().rebase_in(child, &disk, Some(parent), RebaseMode::Unsafe, go_on).unwrap();
    }
    assert!(read(&open(&disk, "disk.vmdk").unwrap()).unwrap() == leaf.content);
}

#[test]
fn a_commit_of_nothing_changes_nothing() {
    let base = base();
    let child = Image::child(&base, "disk.vmdk", SparseImage::new(64));
    let disk = Scene::new("nothing", vec![base, child], Operation::Commit(1)).disk();
    let report = OpenOptions::new().commit_in("disk.vmdk", &disk, 1, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((report.merged_links, report.content_id), (0, None));
    assert!(disk.changes().is_empty());
}

#[test]
fn a_disk_without_a_parent_is_flat_already() {
    let disk = Scene::new("alone", vec![base()], Operation::Flatten).disk();
    let report = OpenOptions::new().flatten_in("base.vmdk", &disk, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(!report.changed && disk.changes().is_empty());
    let disk = Scene::new("alone", vec![base(), child()], Operation::Flatten).disk();
    let alone = OpenOptions::new().no_parent(true);
    let refused = alone.flatten_in("disk.vmdk", &disk, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
}
