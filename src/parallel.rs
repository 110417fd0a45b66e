//! Parallel loops that are compiled once for all closures.
//!
//! The adaptors of `rayon` are compiled anew for every closure, and most closures of this crate exist once
//! per number of tokens. Here the closure is called through a pointer, once per piece of work. The results
//! are put together in order, so that nothing depends on the number of threads.
//!
//! The threads are those of the caller's pool. A thread that waits within a loop takes up other work on top
//! of its own. If that work is a whole solve or a whole training, the stack grows with every piece, and a
//! lock that the thread holds may never be released. Loops over such work are therefore [`flat`]: every piece
//! of work stays on one thread, and the loops inside it are serial.

use std::cell::Cell;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Cause, Error};

thread_local! {
    /// Whether this thread is inside [`alone`].
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Number of threads of the caller's pool. This is the pool that the calling thread belongs to, or else the
/// global pool, which is started if necessary.
///
/// # Errors
/// [`Error::Threads`] if the global pool cannot be started.
pub(crate) fn threads() -> Result<usize, Error> {
    use std::error::Error as _;
    use std::sync::OnceLock;

    static FAILURE: OnceLock<Option<Cause>> = OnceLock::new();
    if rayon_core::current_thread_index().is_some() {
        return Ok(rayon_core::current_num_threads());
    }
    // A global pool that exists already gives an error without a source. A pool that cannot be started gives
    // an error whose source is that of the system.
    let start = || rayon_core::ThreadPoolBuilder::new().build_global().err();
    let failure = FAILURE.get_or_init(|| start().filter(|error| error.source().is_some()).map(Cause::of));
    failure.clone().map_or_else(|| Ok(rayon_core::current_num_threads()), |cause| Err(Error::Threads(cause)))
}

/// The result of `work`, which runs in the caller's pool. Work that holds many short loops enters the pool once,
/// and not at each of them. Every function of the library in which a loop of this module may run goes through
/// this door, because a loop that finds no pool would panic. What makes an output channel for a state evolution
/// from outside asks for [`threads`] instead, since the loops of the channel run later.
///
/// # Errors
/// [`Error::Threads`] if the global pool cannot be started, and the errors of `work`.
pub(crate) fn in_pool<R: Send>(work: impl FnOnce() -> Result<R, Error> + Send) -> Result<R, Error> {
    if ALONE.get() {
        return work();
    }
    threads()?;
    rayon_core::scope(|_| work())
}

/// Runs `work` on the calling thread alone. The loops of this module are serial inside it.
#[cfg(any(feature = "sweep", feature = "simulate"))]
pub(crate) fn alone<R>(work: impl FnOnce() -> R) -> R {
    /// Resets the mark at the end of `work`, also after a panic.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _restore = Restore(ALONE.replace(true));
    work()
}

/// `work(0), ..., work(count - 1)`, in this order. Each stays on one thread from its beginning to its end.
#[cfg(any(feature = "sweep", feature = "simulate"))]
pub(crate) fn flat<R: Send>(count: usize, work: &(dyn Fn(usize) -> R + Sync)) -> Vec<R> {
    map(count, 1, &|index| alone(|| work(index)))
}

/// `work(0), ..., work(count - 1)`, in this order, in pieces of `grain` calls.
pub(crate) fn map<R: Send>(count: usize, grain: usize, work: &(dyn Fn(usize) -> R + Sync)) -> Vec<R> {
    // A single thread does not need the memory of the pieces.
    if ALONE.get() || rayon_core::current_num_threads() == 1 {
        return (0..count).map(work).collect();
    }
    let pieces: Vec<Mutex<Vec<R>>> = (0..count).step_by(grain).map(|_| Mutex::default()).collect();
    for_each(0..pieces.len(), &|piece| {
        let first = piece * grain;
        *lock(&pieces[piece]) = (first..count.min(first + grain)).map(work).collect();
    });
    let mut results = Vec::with_capacity(count);
    for piece in pieces {
        results.append(&mut lock(&piece));
    }
    results
}

/// Calls `work(0, &mut items[0]), work(1, &mut items[1]), ...`, each as a piece of work of its own.
pub(crate) fn change<R: Send>(items: &mut [R], work: &(dyn Fn(usize, &mut R) + Sync)) {
    let pieces: Vec<Mutex<&mut R>> = items.iter_mut().map(Mutex::new).collect();
    map(pieces.len(), 1, &|index| work(index, &mut lock(&pieces[index])));
}

/// Locks a value that no other piece of work uses, so that the lock is always free.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `work` for every number of the range, which is split in halves.
fn for_each(range: Range<usize>, work: &(dyn Fn(usize) + Sync)) {
    match range.len() {
        0 => {}
        1 => work(range.start),
        length => {
            let middle = range.start + length / 2;
            rayon_core::join(|| for_each(range.start..middle, work), || for_each(middle..range.end, work));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order() {
        for (count, grain) in [(0, 4), (1, 4), (3, 4), (4, 4), (1001, 7)] {
            let squares: Vec<usize> = (0..count).map(|i| i * i).collect();
            assert_eq!(map(count, grain, &|i| i * i), squares);
        }
    }

    #[test]
    #[cfg(any(feature = "sweep", feature = "simulate"))]
    fn loops_inside_a_flat_loop_stay_on_its_thread() {
        let pool = rayon_core::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let here = |_| std::thread::current().id();
        let threads = pool.install(|| flat(64, &|index| (here(index), map(64, 1, &here))));
        assert!(threads.iter().all(|(outer, inner)| inner.iter().all(|id| id == outer)));
        // The mark ends with the loop, also after a panic.
        assert!(std::panic::catch_unwind(|| alone(|| std::panic::resume_unwind(Box::new(())))).is_err());
        assert!(!ALONE.get());
        alone(|| alone(|| {}));
        assert!(!ALONE.get() && alone(|| ALONE.get()));
    }

    #[test]
    fn threads_are_those_of_the_caller() {
        let pool = rayon_core::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(pool.install(threads), Ok(3));
        assert_eq!(threads(), Ok(rayon_core::current_num_threads()));
    }
}
