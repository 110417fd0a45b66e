//! Parallel loops that are compiled once, whatever they do.
//!
//! The adaptors of `rayon` are compiled anew for every closure, and most closures of this crate exist once per number of
//! tokens. Here the closure is called through a pointer, once per piece of work, and results are put together in order, so
//! that nothing depends on the number of threads.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `work(0), ..., work(count - 1)`, in this order, in pieces of `grain` of them.
pub(crate) fn map<R: Send>(count: usize, grain: usize, work: &(dyn Fn(usize) -> R + Sync)) -> Vec<R> {
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

/// What `work` makes of every item, in order.
pub(crate) fn map_mut<T: Send, R: Send>(items: &mut [T], work: &(dyn Fn(&mut T) -> R + Sync)) -> Vec<R> {
    let items: Vec<Mutex<&mut T>> = items.iter_mut().map(Mutex::new).collect();
    map(items.len(), 1, &|index| work(&mut lock(&items[index])))
}

/// The lock of what no other piece of work uses: it is always free.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `work` for every number of the range, split in halves.
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
            let mut items: Vec<usize> = (0..count).collect();
            let before = map_mut(&mut items, &|item| std::mem::replace(item, *item * *item));
            assert_eq!(before, (0..count).collect::<Vec<_>>());
            assert_eq!(items, squares);
        }
    }
}
