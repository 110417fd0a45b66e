//! Work on other threads while the calling thread listens for Ctrl-C.
//!
//! The interpreter is free for other threads meanwhile. At Ctrl-C the work is asked to stop. It does so after the
//! iterate in hand; work that takes longer than [`PATIENCE`] is left to end by itself, and its result is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lora_asymptotics::fixed_point::{Iterate, Observer};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon_core::{ThreadPool, ThreadPoolBuilder};
use std::ops::ControlFlow;

use crate::error::Refusal;

/// Time between two looks for signals.
const INTERVAL: Duration = Duration::from_millis(50);
/// Time that work has to stop after Ctrl-C. With the interval before, a caller has the interpreter back within a second.
const PATIENCE: Duration = Duration::from_millis(700);

/// A request to stop, shared by the calling thread and the work.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether a loop goes on.
    pub(crate) fn flow(&self) -> ControlFlow<()> {
        if self.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Observer for Stop {
    fn iterate(&mut self, _: &Iterate<'_>) -> ControlFlow<()> {
        self.flow()
    }
}

/// The number of pieces of work that are done, and the function of the user that is told.
pub(crate) struct Progress {
    pub(crate) done: Arc<AtomicUsize>,
    pub(crate) report: Option<Py<PyAny>>,
}

impl Progress {
    pub(crate) fn new(report: Option<Py<PyAny>>) -> Self {
        Self { done: Arc::default(), report }
    }

    fn tell(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(report) = &self.report {
            report.call1(py, (self.done.load(Ordering::Relaxed),))?;
        }
        Ok(())
    }
}

/// How work ended.
pub(crate) enum Ended<R> {
    Done(R),
    /// Ctrl-C, or an exception of the function that is told of progress. The result is there if the work stopped in time.
    Interrupted(Option<R>, PyErr),
}

impl<R> Ended<R> {
    /// The result, or the interruption as an exception.
    pub(crate) fn complete(self) -> PyResult<R> {
        match self {
            Self::Done(result) => Ok(result),
            Self::Interrupted(_, error) => Err(error),
        }
    }
}

/// Runs work in the pool of the package, and waits for it.
pub(crate) fn run<R: Send + 'static>(
    py: Python<'_>,
    threads: Option<usize>,
    stop: &Stop,
    progress: &Progress,
    work: impl FnOnce() -> R + Send + 'static,
) -> PyResult<Ended<R>> {
    // A function of the user that calls the package again is on a thread of the pool already, and waiting for another thread of the
    // pool there could wait for ever.
    if rayon_core::current_thread_index().is_some() {
        return Ok(Ended::Done(py.detach(work)));
    }
    let pool = Pool::of(threads)?;
    let (sender, mut receiver) = sync_channel(1);
    pool.threads.spawn(move || {
        // Without a result the channel closes.
        if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
            drop(sender.send(result));
        }
    });
    let mut interruption: Option<(PyErr, Instant)> = None;
    loop {
        let (received, back) = py.detach(move || (receiver.recv_timeout(INTERVAL), receiver));
        receiver = back;
        match (received, interruption.take()) {
            (Ok(result), None) => {
                pool.keep();
                return Ok(match py.check_signals().and_then(|()| progress.tell(py)) {
                    Ok(()) => Ended::Done(result),
                    Err(error) => Ended::Interrupted(Some(result), error),
                });
            }
            (Ok(result), Some((error, _))) => {
                pool.keep();
                return Ok(Ended::Interrupted(Some(result), error));
            }
            (Err(RecvTimeoutError::Disconnected), _) => {
                return Err(PyRuntimeError::new_err("the solver ended without a result: please report this"));
            }
            (Err(RecvTimeoutError::Timeout), None) => {
                if let Err(error) = py.check_signals().and_then(|()| progress.tell(py)) {
                    stop.request();
                    interruption = Some((error, Instant::now()));
                }
            }
            (Err(RecvTimeoutError::Timeout), Some((error, since))) => {
                if since.elapsed() > PATIENCE {
                    // The threads of the pool end with their work.
                    return Ok(Ended::Interrupted(None, error));
                }
                interruption = Some((error, since));
            }
        }
    }
}

/// A pool of threads for one call. Calls at the same time have pools of their own, so that none waits for another, or begins on
/// the stack of another. They are pools of the package, because a process that was forked has none of the threads of rayon's global pool.
struct Pool {
    process: u32,
    /// The number that was asked for; without one, as many as there are processors, or `RAYON_NUM_THREADS`.
    asked: Option<usize>,
    threads: ThreadPool,
}

/// The pool of the last call that ended, for the next one. The lock is never waited for: in a process that was forked, the
/// thread that held it may not exist.
static IDLE: Mutex<Option<Pool>> = Mutex::new(None);

impl Pool {
    /// The idle pool if it fits, or a new one.
    fn of(asked: Option<usize>) -> PyResult<Self> {
        let process = process::id();
        match Self::exchange(None) {
            Some(idle) if idle.process == process && idle.asked == asked => return Ok(idle),
            // The threads of a pool from before a fork do not exist here, and must not be asked to end.
            Some(foreign) if foreign.process != process => std::mem::forget(foreign),
            _ => {}
        }
        Ok(Self { process, asked, threads: pool_of(asked.unwrap_or(0))? })
    }

    /// Keeps the pool for the next call.
    fn keep(self) {
        drop(Self::exchange(Some(self)));
    }

    fn exchange(other: Option<Self>) -> Option<Self> {
        IDLE.try_lock().map_or(None, |mut idle| std::mem::replace(&mut *idle, other))
    }
}

/// A pool with a number of threads; 0 stands for the number of processors.
pub(crate) fn pool_of(threads: usize) -> Result<ThreadPool, Refusal> {
    ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| Refusal::of_threads(&error))
}

/// Results so far, which the calling thread still has when it leaves the work behind.
pub(crate) struct Shared<T>(Arc<Mutex<T>>);

impl<T: Default> Default for Shared<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default> Shared<T> {
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn take(&self) -> T {
        self.with(std::mem::take)
    }
}
