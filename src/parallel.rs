//! Work on several threads, whose results come back in the order in which it was handed out.
//!
//! ```text
//! caller: push a job -> ... -> pop the result of the oldest
//!               \                /
//! workers:       take -> work -> put
//! ```
//!
//! Whoever pushes decides how much is under way, and with it the memory that it takes: there is no other bound. What
//! the results are, and so which error comes first, does not depend on the number of threads.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::error::{Error, ErrorKind, Result};

/// Jobs on their way to workers, and results on their way back.
pub(crate) struct Conveyor<J, R> {
    state: Mutex<State<J, R>>,
    /// There is a job, or no more will come.
    job: Condvar,
    /// There is a result, or a worker is lost.
    result: Condvar,
}

struct State<J, R> {
    jobs: VecDeque<(u64, J)>,
    /// Of the jobs that are under way, oldest first: there once it is done.
    results: VecDeque<Option<R>>,
    /// The number of the oldest of them.
    oldest: u64,
    closed: bool,
    /// A worker has panicked, and its job with it.
    lost: bool,
}

impl<J, R> Conveyor<J, R> {
    pub(crate) fn new() -> Self {
        let state = State { jobs: VecDeque::new(), results: VecDeque::new(), oldest: 0, closed: false, lost: false };
        Self { state: Mutex::new(state), job: Condvar::new(), result: Condvar::new() }
    }

    /// Hands a job out.
    pub(crate) fn push(&self, job: J) {
        let mut state = self.lock();
        let number = state.oldest + state.results.len() as u64;
        state.jobs.push_back((number, job));
        state.results.push_back(None);
        drop(state);
        self.job.notify_one();
    }

    /// How many jobs are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.lock().results.len()
    }

    /// The result of the oldest job, for which this waits; `None` if nothing is under way.
    ///
    /// # Errors
    /// If a worker is lost.
    pub(crate) fn pop(&self) -> Result<Option<R>> {
        let mut state = self.lock();
        loop {
            if state.results.is_empty() {
                return Ok(None);
            }
            if let Some(result) = state.results.front_mut().and_then(Option::take) {
                state.results.pop_front();
                state.oldest += 1;
                return Ok(Some(result));
            }
            if state.lost {
                let text = "a thread that did part of the work has panicked";
                return Err(Error::text(ErrorKind::Io, text));
            }
            state = self.result.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets workers end when they have done what they are at. What has not begun is dropped.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.jobs.clear();
        drop(state);
        self.job.notify_all();
    }

    /// Does jobs until the conveyor is closed; a worker's whole life.
    pub(crate) fn work(&self, mut work: impl FnMut(J) -> R) {
        let lost = Lost(self);
        while let Some((number, job)) = self.take() {
            let result = work(job);
            let mut state = self.lock();
            // What came before it may be gone already after an error.
            let at = number.checked_sub(state.oldest).and_then(|at| usize::try_from(at).ok());
            if let Some(place) = at.and_then(|at| state.results.get_mut(at)) {
                *place = Some(result);
            }
            drop(state);
            if at == Some(0) {
                self.result.notify_one();
            }
        }
        std::mem::forget(lost);
    }

    fn take(&self) -> Option<(u64, J)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state = self.job.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<J, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a worker has gone without finishing its job.
struct Lost<'a, J, R>(&'a Conveyor<J, R>);

impl<J, R> Drop for Lost<'_, J, R> {
    fn drop(&mut self) {
        self.0.lock().lost = true;
        self.0.result.notify_all();
    }
}

/// Closes a conveyor whatever happens, so that its workers end.
struct Closing<'a, J, R>(&'a Conveyor<J, R>);

impl<J, R> Drop for Closing<'_, J, R> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// How many jobs are handed out for so many threads: each has one to go on with, and a few are done.
pub(crate) fn jobs_for(threads: usize) -> usize {
    2 * threads + 2
}

/// Does all of `jobs` on so many threads, each of which works with what `worker` gives it, and hands the results to
/// `sink` in the order of the jobs. Jobs are made, and results taken, in the caller's thread. With one thread, or none,
/// all of it happens there. No more than [`jobs_for`] the threads are under way. If a thread cannot be started, the
/// others do its work.
///
/// # Errors
/// The first one of `sink`, and nothing goes on then; or of `jobs`, when everything before it is handed on.
pub(crate) fn in_order<J: Send, R: Send, W: FnMut(J) -> R>(
    threads: usize,
    worker: impl Fn() -> W + Sync,
    mut jobs: impl FnMut() -> Result<Option<J>>,
    mut sink: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    if threads <= 1 {
        return here(worker(), jobs, sink);
    }
    let conveyor = Conveyor::new();
    thread::scope(|scope| {
        let closing = Closing(&conveyor);
        // One that panics has said so; an error is handed on, not its panic.
        let life = || drop(catch_unwind(AssertUnwindSafe(|| conveyor.work(worker()))));
        let start = |_: &usize| thread::Builder::new().spawn_scoped(scope, life).is_ok();
        let started = (0..threads).filter(start).count();
        if started == 0 {
            return here(worker(), jobs, sink);
        }
        let most = jobs_for(started);
        let (mut has_more, mut no_job) = (true, None);
        while has_more || conveyor.under_way() > 0 {
            while has_more && conveyor.under_way() < most {
                match jobs() {
                    Ok(Some(job)) => conveyor.push(job),
                    Ok(None) => has_more = false,
                    // Its turn comes behind what is under way, which may have errors, too.
                    Err(error) => (has_more, no_job) = (false, Some(error)),
                }
            }
            if let Some(result) = conveyor.pop()? {
                sink(result)?;
            }
        }
        drop(closing);
        no_job.map_or(Ok(()), Err)
    })
}

/// The same in the caller's thread.
fn here<J, R>(
    mut work: impl FnMut(J) -> R,
    mut jobs: impl FnMut() -> Result<Option<J>>,
    mut sink: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    while let Some(job) = jobs()? {
        sink(work(job))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn run(threads: usize, count: u64, fail_at: Option<u64>) -> (Result<()>, Vec<u64>, usize) {
        let (mut next, mut seen) = (0, Vec::new());
        let (under_way, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let worker = || {
            |job: u64| {
                // Later ones are done first.
                thread::sleep(Duration::from_micros(200 - 20 * (job % 10)));
                job * 2
            }
        };
        let jobs = || {
            most.fetch_max(under_way.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
            next += 1;
            Ok((next <= count).then_some(next - 1))
        };
        let sink = |result: u64| {
            under_way.fetch_sub(1, Ordering::Relaxed);
            if Some(result / 2) == fail_at {
                return Err(Error::text(ErrorKind::Io, format!("no room for {result}")));
            }
            seen.push(result);
            Ok(())
        };
        let done = in_order(threads, worker, jobs, sink);
        (done, seen, most.into_inner())
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs_and_few_are_under_way() {
        for threads in [0, 1, 2, 3, 8] {
            let (done, seen, most) = run(threads, 100, None);
            done.unwrap();
            assert_eq!(seen, (0..100).map(|job| job * 2).collect::<Vec<_>>(), "{threads}");
            assert!(most <= jobs_for(threads), "{most} under way with {threads} threads");
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        for threads in [1, 4] {
            let (done, seen, _) = run(threads, u64::MAX, Some(20));
            assert_eq!(done.unwrap_err().to_string(), "no room for 40");
            assert_eq!(seen.len(), 20);
        }
    }

    #[test]
    fn a_job_that_cannot_be_made_ends_it() {
        let done = in_order(
            2,
            || |job: u64| job,
            || Err(Error::text(ErrorKind::Corrupt, "cut")),
            |_| -> Result<()> { Ok(()) },
        );
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_worker_that_panics_is_an_error_and_no_wait_without_end() {
        let conveyor = Conveyor::new();
        conveyor.push(());
        let worker = || thread::scope(|scope| scope.spawn(|| conveyor.work(|()| panic!("a bug"))).join());
        assert!(worker().is_err());
        assert_eq!(conveyor.pop().unwrap_err().kind(), ErrorKind::Io);
    }

    /// A job that cannot be made comes behind those that are under way, however many threads there are.
    #[test]
    fn which_error_comes_first_does_not_depend_on_the_threads() {
        for threads in [1, 4] {
            let mut next = 0;
            let jobs = || {
                next += 1;
                if next <= 3 { Ok(Some(next)) } else { Err(Error::text(ErrorKind::Corrupt, "job 4")) }
            };
            let mut taken = Vec::new();
            let done = in_order(
                threads,
                || |job: u64| job,
                jobs,
                |job| {
                    taken.push(job);
                    if job == 2 { Err(Error::text(ErrorKind::Io, "job 2")) } else { Ok(()) }
                },
            );
            assert_eq!((done.unwrap_err().to_string(), taken), ("job 2".to_owned(), vec![1, 2]), "{threads}");
        }
    }

    #[test]
    fn a_worker_of_in_order_that_panics_is_an_error() {
        let mut left = 5;
        let jobs = || {
            left -= 1;
            Ok((left > 0).then_some(left))
        };
        let done = in_order(2, || |_: u64| -> u64 { panic!("a bug") }, jobs, |_| Ok(()));
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Io);
    }
}
