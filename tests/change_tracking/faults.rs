//! Every call to the host fails once: the disk is tracked or not, and it is whole.

use std::sync::Arc;

use vmdk::{BlockDevice, OpenOptions, Storage};

use super::support::crash::CrashDisk;
use super::support::crash::choice::Choice;
use super::support::directory::FaultDirectory;
use super::support::storage::{Countdown, EIO, ENOSPC, FaultStorage, How};
use super::support::{SECTOR, byte_range};
use super::{CTK, DROPPED, Tracked, ctk, dropping, read};
use vmdk::Directory;

fn disk(tracked: &Tracked) -> CrashDisk {
    CrashDisk::new(tracked.files.iter().map(|(name, bytes)| (&**name, bytes.clone())))
}

#[test]
fn whatever_call_fails_the_tracking_ends_or_stays() {
    for tracked in [Tracked::flat(), Tracked::embedded()] {
        let stop = |disk: &CrashDisk, countdown: &Arc<Countdown>| {
            let directory = FaultDirectory::new(disk.clone(), countdown);
            OpenOptions::new().stop_change_tracking_in("disk.vmdk", &directory)
        };
        let countdown = Arc::<Countdown>::default();
        stop(&disk(&tracked), &countdown).unwrap().unwrap();
        let calls = countdown.seen().len() as u64;
        let (mut failed, mut left) = (0, 0);
        for nth in 0..calls {
            for (how, errno) in [(How::Refused, EIO), (How::Short, ENOSPC)] {
                let (disk, countdown) = (disk(&tracked), Arc::<Countdown>::default());
                countdown.arm(nth, how, errno);
                let done = stop(&disk, &countdown);
                countdown.disarm();
                let what = format!("{nth}: {done:?}");
                let image = OpenOptions::new().open_with("disk.vmdk", &disk).expect(&what);
                assert!(read(&image) == tracked.content, "{what}");
                let is_tracked = image.descriptor().change_track_path().is_some();
                match done {
                    Err(_) => failed += 1,
                    Ok(dropped) => {
                        assert!(!is_tracked, "{what}");
                        let dropped = dropped.unwrap();
                        left += usize::from(dropped.left_because.is_some());
                    }
                }
                let names: Vec<_> = [CTK, DROPPED].into_iter().filter(|name| disk.exists(name).unwrap()).collect();
                assert!(names.len() == 1 && disk.live(names[0]) == ctk(), "{what}: {names:?}");
                assert!(!is_tracked || names == [CTK], "{what}");
                drop(image);
                OpenOptions::new().stop_change_tracking_in("disk.vmdk", &disk).expect(&what);
                OpenOptions::new().write(true).open_with("disk.vmdk", &disk).expect(&what);
                // Also what the first call has done is durable now.
                let mut choice = Choice::new(3).exhaustive_up_to(40).random(9);
                for state in disk.states(disk.log_len(), &mut choice) {
                    let image = OpenOptions::new().open_with("disk.vmdk", &state.restart()).expect(&what);
                    assert_eq!(image.descriptor().change_track_path(), None, "{what}: {state}");
                }
            }
        }
        assert!(failed > 2 && left > 1, "{calls} {failed} {left}");
    }
}

/// The first write fails with the descriptor, and none comes after it.
#[test]
fn a_first_write_that_cannot_end_the_tracking_writes_nothing() {
    let tracked = Tracked::embedded();
    let open = |disk: &CrashDisk, countdown: &Arc<Countdown>| {
        let (disk, countdown) = (disk.clone(), Arc::clone(countdown));
        let resolver = move |name: &str| {
            let file = disk.claim(name).ok().flatten()?;
            Some(FaultStorage::counted(file, name, &countdown) as Arc<dyn Storage>)
        };
        dropping().open_with("disk.vmdk", &resolver as &dyn vmdk::Resolve)
    };
    let countdown = Arc::<Countdown>::default();
    let image = open(&disk(&tracked), &countdown).unwrap();
    let before = countdown.seen().len() as u64;
    image.write_sectors(9, &[1; SECTOR]).unwrap();
    let calls = countdown.seen().len() as u64;
    drop(image);
    let mut poisoned = 0;
    for nth in before..calls {
        let (disk, countdown) = (disk(&tracked), Arc::<Countdown>::default());
        let image = open(&disk, &countdown).unwrap();
        countdown.arm(nth - before, How::Refused, EIO);
        let done = image.write_sectors(9, &[1; SECTOR]);
        countdown.disarm();
        let again = image.write_sectors(9, &[1; SECTOR]);
        poisoned += usize::from(again.is_err());
        let _ = image.close();
        drop(image);
        let image = OpenOptions::new().open_with("disk.vmdk", &disk).unwrap();
        let is_tracked = image.descriptor().change_track_path().is_some();
        let content = read(&image);
        if is_tracked {
            assert!(done.is_err() && again.is_err(), "{nth}");
            assert!(content == tracked.content, "{nth}");
        }
        if again.is_ok() {
            assert_eq!(content[byte_range(9, 1)], [1; SECTOR]);
        }
    }
    assert!(poisoned > 0);
}
