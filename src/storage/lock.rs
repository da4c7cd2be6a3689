//! Locks on host files, so that no program writes what another one uses.
//!
//! They are advisory: they bind those who ask. Two sorts are taken of every file, on one handle, and live as long as
//! that handle.
//!
//! * `flock` on the whole file, shared for reading and exclusive for writing: programs that use this crate refuse each
//!   other with it, on every Unix.
//! * On Linux, what QEMU does: locks of the open file description on single bytes of the file. The byte 100 + n says
//!   that the holder uses permission n, and 200 + n that it shares permission n with nobody. All of them are *read*
//!   locks, which never refuse each other; a conflict is found by asking whether a *write* lock could be had.
//!
//! | opened for | `flock` | bytes taken | bytes that must be free |
//! |---|---|---|---|
//! | reading | shared | 100 201 203 | 200 101 103 |
//! | writing | exclusive | 100 101 103 201 203 | 200 201 203 101 103 |
//! | reading with force-share | none | 100 | |
//!
//! The bytes are taken before others are looked for: of two programs that do so at once, each sees the bytes of the
//! other, and at most one goes on.
//!
//! Locks for writing can be turned into those for reading. Neither system has that as one step (`flock` gives the old
//! lock up before it takes the new one), but the bytes that refuse writers stay where they are all the while: with them
//! nobody can begin to write in between. Where there is `flock` alone, somebody can, and it is noticed.
//!
//! With force-share nobody is hindered: no lock but the byte that QEMU takes as well, which refuses only those
//! who are about to make the content inconsistent for every reader (QEMU's block jobs).

use std::fs::File;
use std::io;
use std::time::Duration;

use super::Purpose;
use crate::error::{Error, ErrorKind, Result};

/// How often `flock` is asked again for the lock that it has given up, and after which pauses: somebody else who tries
/// to lock the file at this moment has it for as long as it takes to look at a few bytes.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(1);

/// How the files of an image are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locking {
    /// Shared for reading, exclusive for writing.
    On,
    /// Files are read although others write them.
    ForceShare,
    Off,
}

/// Why a lock was not taken.
#[derive(Debug)]
#[cfg_attr(not(unix), expect(dead_code, reason = "without locks nobody holds one"))]
enum Refusal {
    /// Somebody else has one that excludes it.
    Held(Holder),
    /// The file system or host has no locks.
    NoLocks(io::Error),
    Host(io::Error),
}

/// Somebody who has a lock; perhaps it is known which process it is.
#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    pid: Option<i32>,
}

/// Takes the locks for `purpose`, or none.
///
/// # Errors
/// `Locked`; `Unsupported` for writing where there are no locks; what the host reports.
pub(super) fn take(file: &File, purpose: Purpose, locking: Locking) -> Result<()> {
    match locking {
        Locking::Off => return Ok(()),
        Locking::ForceShare => {
            sys::take_shared_byte(file);
            return Ok(());
        }
        Locking::On => {}
    }
    let taken =
        [sys::take_whole, sys::take_bytes].into_iter().try_for_each(|take| match take(file, purpose.writes()) {
            Ok(()) => Ok(()),
            Err(refusal) => refusal.judge(purpose),
        });
    if taken.is_err() {
        release(file);
    }
    taken
}

/// Turns the locks for writing, which must have been taken, into those for reading.
///
/// # Errors
/// `Locked` if somebody else got the file meanwhile; what the host reports. Then the bytes stay those of a writer.
pub(super) fn share(file: &File) -> Result<()> {
    // The bytes come last: until then nobody reads what has lost its `flock`.
    let mut whole = sys::take_whole(file, false);
    for _ in 1..TRIES {
        if !matches!(whole, Err(Refusal::Held(_))) {
            break;
        }
        std::thread::sleep(PAUSE);
        whole = sys::take_whole(file, false);
    }
    let shared = whole.and_then(|()| sys::share_bytes(file));
    shared.or_else(|refusal| match refusal {
        Refusal::Held(_) => {
            let text = "somebody else has locked the file while its lock was turned into one for reading";
            Err(Error::text(ErrorKind::Locked, text))
        }
        refusal => refusal.judge(Purpose::Read),
    })
}

/// Gives all locks back now. Closing the handle alone would leave them to a child process that was forked meanwhile,
/// until that starts its program.
pub(super) fn release(file: &File) {
    sys::release(file);
}

impl Refusal {
    /// What it means for `purpose`: an error, or for a reader nothing.
    fn judge(self, purpose: Purpose) -> Result<()> {
        Err(match self {
            // Where there are no locks, nobody else has one either.
            Self::NoLocks(_) if !purpose.writes() => return Ok(()),
            Self::Held(Holder { pid }) => {
                let (used, remedy) = if purpose.writes() {
                    ("has it open", "")
                } else {
                    ("has it open for writing", "; with force-share it is read all the same")
                };
                let who = pid.map_or_else(|| "somebody else".to_owned(), |pid| format!("process {pid}"));
                Error::text(ErrorKind::Locked, format!("the file is locked: {who} {used}{remedy}"))
            }
            Self::NoLocks(cause) => {
                let text = "the file cannot be locked here; it is written only if locking is switched off";
                Error::host(text, cause).with_kind(ErrorKind::Unsupported)
            }
            Self::Host(cause) => Error::host("cannot lock the file", cause),
        })
    }
}

#[cfg(unix)]
mod sys {
    use std::fs::File;

    use rustix::fs::{FlockOperation, flock};
    use rustix::io::{Errno, retry_on_intr};

    use super::{Holder, Refusal};

    #[cfg(target_os = "linux")]
    pub(super) use super::bytes::{share_bytes, take_bytes, take_shared_byte};

    pub(super) fn take_whole(file: &File, write: bool) -> Result<(), Refusal> {
        let operation =
            if write { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
        retry_on_intr(|| flock(file, operation)).map_err(|error| match error {
            Errno::WOULDBLOCK => Refusal::Held(Holder::default()),
            error if has_no_locks(error.raw_os_error()) => Refusal::NoLocks(error.into()),
            error => Refusal::Host(error.into()),
        })
    }

    pub(super) fn release(file: &File) {
        #[cfg(target_os = "linux")]
        super::bytes::release(file);
        // What fails here ends with the handle.
        let _ = flock(file, FlockOperation::Unlock);
    }

    /// Whether an error code says that there are no locks at all. `EINVAL` is what a kernel says of a sort that it does
    /// not know.
    pub(super) fn has_no_locks(code: i32) -> bool {
        [Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOLCK, Errno::INVAL, Errno::NOSYS]
            .iter()
            .any(|error| error.raw_os_error() == code)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn take_bytes(_: &File, _: bool) -> Result<(), Refusal> {
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn share_bytes(_: &File) -> Result<(), Refusal> {
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn take_shared_byte(_: &File) {}
}

/// QEMU's locks.
#[cfg(target_os = "linux")]
mod bytes {
    use std::fs::File;
    use std::io;

    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    use super::sys::has_no_locks;
    use super::{Holder, Refusal};

    /// Where the bytes of the permissions in use begin.
    const USED: libc::off_t = 100;
    /// Where the bytes of the permissions that are not shared begin.
    const NOT_SHARED: libc::off_t = 200;

    /// QEMU's permissions: to read what is consistent, to write, to change the length.
    const CONSISTENT_READ: libc::off_t = 0;
    const WRITE: libc::off_t = 1;
    const RESIZE: libc::off_t = 3;

    const READER: &[libc::off_t] = &[CONSISTENT_READ];
    const WRITER: &[libc::off_t] = &[CONSISTENT_READ, WRITE, RESIZE];
    /// What neither a reader nor a writer lets others do.
    const EXCLUDED: &[libc::off_t] = &[WRITE, RESIZE];

    pub(in super::super) fn take_bytes(file: &File, write: bool) -> Result<(), Refusal> {
        let used = if write { WRITER } else { READER };
        for byte in bytes(used, USED).chain(bytes(EXCLUDED, NOT_SHARED)) {
            if let Err(error) = set(file, libc::F_RDLCK, byte, 1) {
                return Err(match error {
                    Errno::EAGAIN | Errno::EACCES => Refusal::Held(holder(file, byte)?.unwrap_or_default()),
                    error => refusal(error),
                });
            }
        }
        for byte in bytes(used, NOT_SHARED).chain(bytes(EXCLUDED, USED)) {
            if let Some(holder) = holder(file, byte)? {
                return Err(Refusal::Held(holder));
            }
        }
        Ok(())
    }

    /// Gives up those of a writer's bytes that a reader does not take.
    pub(in super::super) fn share_bytes(file: &File) -> Result<(), Refusal> {
        let given_up = WRITER.iter().filter(|permission| !READER.contains(permission));
        given_up
            .map(|permission| USED + permission)
            .try_for_each(|byte| set(file, libc::F_UNLCK, byte, 1).map_err(refusal))
    }

    /// Takes the byte of a reader who hinders nobody, if it can be had.
    pub(in super::super) fn take_shared_byte(file: &File) {
        let _ = set(file, libc::F_RDLCK, USED + CONSISTENT_READ, 1);
    }

    pub(in super::super) fn release(file: &File) {
        // A length of 0 is all of the file.
        let _ = set(file, libc::F_UNLCK, 0, 0);
    }

    /// A byte as another program would take it.
    #[cfg(test)]
    pub(super) fn take_byte(file: &File, byte: libc::off_t) -> nix::Result<()> {
        set(file, libc::F_RDLCK, byte, 1)
    }

    /// The same as a lock of the process.
    #[cfg(test)]
    pub(super) fn take_process_byte(file: &File, byte: libc::off_t) -> nix::Result<()> {
        fcntl(file, FcntlArg::F_SETLK(&range(libc::F_RDLCK, byte, 1))).map(drop)
    }

    fn bytes(permissions: &[libc::off_t], base: libc::off_t) -> impl Iterator<Item = libc::off_t> {
        permissions.iter().map(move |permission| base + permission)
    }

    fn set(file: &File, kind: libc::c_int, start: libc::off_t, len: libc::off_t) -> Result<(), Errno> {
        loop {
            match fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, start, len))) {
                Err(Errno::EINTR) => {}
                done => return done.map(drop),
            }
        }
    }

    /// Who holds a byte, so that it could not be locked for writing. Locks of open file descriptions belong to no
    /// process; only those of the older sort do.
    pub(super) fn holder(file: &File, byte: libc::off_t) -> Result<Option<Holder>, Refusal> {
        let mut found = range(libc::F_WRLCK, byte, 1);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(refusal)?;
        let held = libc::c_int::from(found.l_type) != libc::F_UNLCK;
        Ok(held.then(|| Holder { pid: Some(found.l_pid).filter(|&pid| pid > 0) }))
    }

    fn range(kind: libc::c_int, start: libc::off_t, len: libc::off_t) -> libc::flock {
        #[expect(clippy::cast_possible_truncation, reason = "both are between 0 and 2")]
        let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
        // Locks of open file descriptions are asked for with a pid of 0.
        libc::flock { l_type, l_whence, l_start: start, l_len: len, l_pid: 0 }
    }

    fn refusal(error: Errno) -> Refusal {
        let cause = io::Error::from(error);
        if has_no_locks(error as i32) { Refusal::NoLocks(cause) } else { Refusal::Host(cause) }
    }
}

#[cfg(not(unix))]
mod sys {
    use std::fs::File;
    use std::io;

    use super::Refusal;

    pub(super) fn take_whole(_: &File, _: bool) -> Result<(), Refusal> {
        Err(Refusal::NoLocks(io::ErrorKind::Unsupported.into()))
    }

    pub(super) fn take_bytes(_: &File, _: bool) -> Result<(), Refusal> {
        Ok(())
    }

    pub(super) fn share_bytes(_: &File) -> Result<(), Refusal> {
        Ok(())
    }

    pub(super) fn take_shared_byte(_: &File) {}

    pub(super) fn release(_: &File) {}
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tempfile::NamedTempFile;

    use super::*;

    const WAYS: [(Purpose, Locking); 4] = [
        (Purpose::Read, Locking::On),
        (Purpose::Write, Locking::On),
        (Purpose::Read, Locking::ForceShare),
        (Purpose::Write, Locking::Off),
    ];

    /// Another handle of the file.
    fn open(file: &NamedTempFile) -> File {
        File::options().read(true).write(true).open(file.path()).unwrap()
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let table = [
            (0, 0, true),
            (0, 1, false),
            (1, 0, false),
            (1, 1, false),
            (2, 1, true),
            (1, 2, true),
            (3, 1, true),
            (1, 3, true),
        ];
        let file = NamedTempFile::new().unwrap();
        for (first, second, together) in table {
            let (one, two) = (open(&file), open(&file));
            take(&one, WAYS[first].0, WAYS[first].1).unwrap();
            let taken = take(&two, WAYS[second].0, WAYS[second].1);
            assert_eq!(taken.is_ok(), together, "{:?}, then {:?}", WAYS[first], WAYS[second]);
            if let Err(error) = taken {
                assert_eq!(error.kind(), ErrorKind::Locked);
                release(&one);
                take(&two, WAYS[second].0, WAYS[second].1).unwrap();
            }
        }
    }

    /// What was taken before the conflict was found must not be left to the handle.
    #[test]
    fn who_is_refused_holds_nothing() {
        let file = NamedTempFile::new().unwrap();
        let (one, two, three) = (open(&file), open(&file), open(&file));
        take(&one, Purpose::Read, Locking::On).unwrap();
        take(&two, Purpose::Write, Locking::On).unwrap_err();
        take(&three, Purpose::Read, Locking::On).unwrap();
        release(&one);
        release(&three);
        take(&three, Purpose::Write, Locking::On).unwrap();
        drop(two);
    }

    #[test]
    fn of_many_who_try_at_once_never_two_write() {
        let file = NamedTempFile::new().unwrap();
        let (writers, successes) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let handle = open(&file);
                        if take(&handle, Purpose::Write, Locking::On).is_ok() {
                            assert_eq!(writers.fetch_add(1, Ordering::SeqCst), 0);
                            successes.fetch_add(1, Ordering::Relaxed);
                            writers.fetch_sub(1, Ordering::SeqCst);
                            release(&handle);
                        }
                    }
                });
            }
        });
        assert!(successes.into_inner() > 0);
    }

    #[test]
    fn a_lock_for_writing_can_be_turned_into_one_for_reading() {
        let file = NamedTempFile::new().unwrap();
        let (one, two, three) = (open(&file), open(&file), open(&file));
        take(&one, Purpose::Write, Locking::On).unwrap();
        // Once more is as good as once.
        for _ in 0..2 {
            share(&one).unwrap();
            take(&two, Purpose::Read, Locking::On).unwrap();
            assert_eq!(take(&three, Purpose::Write, Locking::On).unwrap_err().kind(), ErrorKind::Locked);
            release(&two);
        }
        release(&one);
        take(&three, Purpose::Write, Locking::On).unwrap();
    }

    /// The `flock` is gone for a moment, the bytes are not.
    #[cfg(target_os = "linux")]
    #[test]
    fn while_a_lock_is_turned_into_one_for_reading_nobody_gets_it_for_writing() {
        let file = NamedTempFile::new().unwrap();
        let (held, done) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while done.load(Ordering::SeqCst) == 0 {
                        let handle = open(&file);
                        if take(&handle, Purpose::Write, Locking::On).is_ok() {
                            assert_eq!(held.load(Ordering::SeqCst), 0);
                            release(&handle);
                        }
                        std::thread::yield_now();
                    }
                });
            }
            let mut turned = 0;
            while turned < 200 {
                let handle = open(&file);
                if take(&handle, Purpose::Write, Locking::On).is_ok() {
                    held.store(1, Ordering::SeqCst);
                    share(&handle).unwrap();
                    turned += 1;
                    held.store(0, Ordering::SeqCst);
                    release(&handle);
                }
                std::thread::yield_now();
            }
            done.store(1, Ordering::SeqCst);
        });
    }

    /// Somebody who knows `flock` alone gets it in that moment, and keeps it.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_lock_that_was_lost_on_the_way_is_an_error_and_the_bytes_stay() {
        let file = NamedTempFile::new().unwrap();
        let (one, two) = (open(&file), open(&file));
        take(&one, Purpose::Write, Locking::On).unwrap();
        rustix::fs::flock(&one, rustix::fs::FlockOperation::Unlock).unwrap();
        rustix::fs::flock(&two, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let error = share(&one).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        assert!(bytes::holder(&two, 101).unwrap().is_some());
        drop(two);
        share(&one).unwrap();
        take(&open(&file), Purpose::Read, Locking::On).unwrap();
    }

    #[test]
    fn without_locks_readers_go_on_and_writers_are_told_what_to_do() {
        let refusal = || Refusal::NoLocks(io::ErrorKind::Unsupported.into());
        refusal().judge(Purpose::Read).unwrap();
        refusal().judge(Purpose::ReadBeside).unwrap();
        let error = refusal().judge(Purpose::Write).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("only if locking is switched off"), "{error}");
        let other = Refusal::Host(io::ErrorKind::OutOfMemory.into()).judge(Purpose::Read).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Io);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_bytes_are_those_of_qemu() {
        let table: [&[nix::libc::off_t]; 4] = [&[100, 201, 203], &[100, 101, 103, 201, 203], &[100], &[]];
        let file = NamedTempFile::new().unwrap();
        for ((purpose, locking), expected) in WAYS.into_iter().zip(table) {
            let (one, two) = (open(&file), open(&file));
            take(&one, purpose, locking).unwrap();
            let held = |byte: &nix::libc::off_t| bytes::holder(&two, *byte).unwrap().is_some();
            assert_eq!((0..300).filter(held).collect::<Vec<_>>(), expected, "{purpose:?}, {locking:?}");
            if (purpose, locking) == (Purpose::Write, Locking::On) {
                share(&one).unwrap();
                assert_eq!((0..300).filter(held).collect::<Vec<_>>(), table[0]);
            }
            release(&one);
            assert_eq!((0..300).filter(held).count(), 0);
        }
    }

    /// Each of the bytes that another program may hold, on its own.
    #[cfg(target_os = "linux")]
    #[test]
    fn every_permission_of_somebody_else_counts() {
        let file = NamedTempFile::new().unwrap();
        for (purpose, conflicts) in
            [(Purpose::Read, &[101, 103, 200][..]), (Purpose::Write, &[101, 103, 200, 201, 203])]
        {
            let conflicting = (0..300).filter(|&byte| {
                let other = open(&file);
                bytes::take_byte(&other, byte).unwrap();
                let mine = open(&file);
                take(&mine, purpose, Locking::On).is_err()
            });
            assert_eq!(conflicting.collect::<Vec<_>>(), conflicts, "{purpose:?}");
        }
    }

    /// A process lock has a process, unlike those that this crate takes. QEMU falls back on them.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_is_named_where_the_lock_says_which_one_it_is() {
        let file = NamedTempFile::new().unwrap();
        let (one, two) = (open(&file), open(&file));
        bytes::take_process_byte(&one, 201).unwrap();
        let error = take(&two, Purpose::Write, Locking::On).unwrap_err();
        assert!(error.to_string().contains(&format!("process {} has it open", std::process::id())), "{error}");
    }
}
