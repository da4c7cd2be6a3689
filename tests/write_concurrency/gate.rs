//! A storage that holds up one call until it is told to go on, or to fail.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use vmdk::{Storage, StorageId};

/// A call to hold up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The read of these bytes, after it has got them and before it hands them out.
    Read(Range<u64>),
    /// The write of these bytes, before it has changed any.
    Write(Range<u64>),
    /// The sync after so many others, before it is done.
    Sync(usize),
}

#[derive(Debug)]
enum State {
    Open,
    Armed(Call),
    /// Somebody waits here.
    Held,
    /// Who waits here is told that the host has failed.
    Failing,
}

/// Longer than any call takes: a test that waits in vain fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Holds up the one call that it is armed for.
#[derive(Debug)]
pub(crate) struct Gate {
    inner: Arc<dyn Storage>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self { inner, state: Mutex::new(State::Open), changed: Condvar::new() })
    }

    /// The next such call waits.
    pub(crate) fn arm(&self, call: Call) {
        *self.lock() = State::Armed(call);
    }

    /// Waits until the call is there.
    pub(crate) fn wait(&self) {
        let waiting = |state: &mut State| !matches!(state, State::Held);
        let (_state, timeout) = self.changed.wait_timeout_while(self.lock(), PATIENCE, waiting).unwrap();
        assert!(!timeout.timed_out(), "the call never came");
    }

    /// Lets it go on.
    pub(crate) fn open(&self) {
        *self.lock() = State::Open;
        self.changed.notify_all();
    }

    /// Lets it fail.
    pub(crate) fn fail(&self) {
        *self.lock() = State::Failing;
        self.changed.notify_all();
    }

    fn pass(&self, is_it: impl FnOnce(&mut Call) -> bool) -> io::Result<()> {
        let mut state = self.lock();
        let State::Armed(call) = &mut *state else { return Ok(()) };
        if !is_it(call) {
            return Ok(());
        }
        *state = State::Held;
        self.changed.notify_all();
        let held = |state: &mut State| matches!(state, State::Held);
        let (mut state, timeout) = self.changed.wait_timeout_while(state, PATIENCE, held).unwrap();
        assert!(!timeout.timed_out(), "nobody let the call go on");
        match std::mem::replace(&mut *state, State::Open) {
            State::Failing => Err(io::Error::other("the host has failed")),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

impl Storage for Gate {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    /// In two halves, between which another thread may run.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = offset..offset + buf.len() as u64;
        let (head, tail) = buf.split_at_mut(buf.len() / 1024 * 512);
        self.inner.read_exact_at(head, offset)?;
        std::thread::yield_now();
        self.inner.read_exact_at(tail, offset + head.len() as u64)?;
        self.pass(|call| matches!(call, Call::Read(range) if overlap(range, &bytes)))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let bytes = offset..offset + buf.len() as u64;
        self.pass(|call| matches!(call, Call::Write(range) if overlap(range, &bytes)))?;
        // A sector is written whole.
        let (head, tail) = buf.split_at(buf.len() / 1024 * 512);
        self.inner.write_all_at(head, offset)?;
        std::thread::yield_now();
        self.inner.write_all_at(tail, offset + head.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.pass(|call| match call {
            Call::Sync(0) => true,
            Call::Sync(left) => {
                *left -= 1;
                false
            }
            _ => false,
        })?;
        self.inner.sync()
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.inner.punch_hole(range)
    }

    fn id(&self) -> Option<StorageId> {
        self.inner.id()
    }
}
